//! What a watcher remembers of what a group answered, so that looking again costs no question.
//!
//! ```text
//!   ask ──▶ remembered, and the lease lasts? ──▶ answer
//!            │ no
//!            └─▶ leader ──▶ answer, and the rows it rests on ──▶ remembered, if none of them changed meanwhile
//!   follow ──▶ leader: news of rows ──▶ forgotten; said with the next call, for which their writers wait
//!   own changes: what is to be forgotten comes with the reply
//! ```
//!
//! The leader's half is in `watchers`. *Invariant:* whatever is remembered and believed rests on rows that no
//! acknowledged command has changed since. Nothing is believed when the lease is over, whatever the clock did meanwhile;
//! everything is forgotten before another leader is called, and when it is not known what an own change did.
//!
//! Answers may be *lent* to one who keeps them nearer to where they are asked for. Whatever was lent is *lost* when it is
//! forgotten here, for whatever reason, and the borrower is told what was.
//!
//! State: in memory; bounds [`FACTS_MAX`], [`FACTS_BYTES_MAX`], [`FACTS_LOST_MAX`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_env::{BootInstant, Rng};
use parking_lot::Mutex;

use super::remember::{Fact, WatchCall, Watched};
use super::watchers::{Mark, Recent, Touched, Watcher};
use crate::limits::{FACTS_BYTES_MAX, FACTS_LOST_MAX, FACTS_MAX, WATCH_LEASE};

/// As encoded.
type Query = Arc<[u8]>;

/// How well somebody remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFigures {
    /// Answers that are remembered.
    pub facts: usize,
    /// Whether they are believed at this moment.
    pub is_believed: bool,
    /// Questions that were answered from memory.
    pub hits: u64,
    /// Questions that were asked of the group.
    pub misses: u64,
}

struct Known {
    answer: Bytes,
    fact: Fact,
    id: FactId,
    is_lent: bool,
}

/// One remembered answer: what is remembered of the same question later is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactId(u64);

/// What was lent and is forgotten since it was last asked what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Answers to these questions, as encoded.
    Some(Vec<Arc<[u8]>>),
    /// All.
    All,
}

impl Default for Lost {
    fn default() -> Lost {
        Lost::Some(Vec::new())
    }
}

impl Lost {
    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, Lost::Some(queries) if queries.is_empty())
    }

    fn push(&mut self, query: Query) {
        if let Lost::Some(queries) = self {
            queries.push(query);
            if queries.len() > FACTS_LOST_MAX {
                *self = Lost::All;
            }
        }
    }
}

#[derive(Default)]
struct Inner {
    /// `None`: the leader knows nothing of this memory yet, so there is none.
    by: Option<Watcher>,
    /// When what is remembered is believed no more; `None`: it never was.
    until: Option<BootInstant>,
    heard: u64,
    /// Of the leader.
    term: u64,
    facts: HashMap<Query, Known>,
    resting: HashMap<Mark, HashSet<Query>>,
    /// The oldest first; some of these are forgotten.
    order: VecDeque<Query>,
    bytes: usize,
    /// What was forgotten last, for answers that are on their way.
    recent: Recent,
    hits: u64,
    misses: u64,
    /// How many facts there were.
    kept: u64,
    lends: bool,
    lost: Lost,
}

/// What a watcher remembers of what a group answered.
#[derive(Default)]
pub struct Memory(Mutex<Inner>);

/// A question on its way: what is forgotten meanwhile must not be remembered from its answer.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// As whom it is asked.
    pub by: Watcher,
    since: u64,
}

impl Inner {
    fn is_believed(&self, now: BootInstant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn begin_anew(&mut self) {
        self.forget_all();
        (self.by, self.until, self.heard) = (None, None, 0);
    }

    fn forget_fact(&mut self, query: &[u8]) {
        let Some((query, known)) = self.facts.remove_entry(query) else { return };
        self.bytes = self.bytes.saturating_sub(query.len() + known.answer.len());
        for mark in known.fact.marks {
            if let Some(queries) = self.resting.get_mut(&mark) {
                queries.remove(&query);
                if queries.is_empty() {
                    self.resting.remove(&mark);
                }
            }
        }
        if known.is_lent {
            self.lost.push(query);
        }
    }

    /// Forgets what rests on rows, by the number of the news that they are; of an own change, `u64::MAX`. What was
    /// answered later than that stays.
    fn forget(&mut self, marks: Vec<Mark>, numbers: impl Iterator<Item = u64>) {
        for (mark, number) in marks.iter().zip(numbers) {
            let queries: Vec<Query> =
                self.resting.get(mark).into_iter().flatten().map(Arc::clone).collect();
            for query in queries {
                if self.facts.get(&query).is_some_and(|known| known.fact.number < number) {
                    self.forget_fact(&query);
                }
            }
        }
        if !marks.is_empty() {
            self.recent.push(marks);
        }
    }

    /// Likewise; the last of these news has that number.
    fn forget_news(&mut self, number: u64, marks: Vec<Mark>) {
        let first = number.saturating_sub(marks.len() as u64) + 1;
        self.forget(marks, first..);
    }

    fn forget_all(&mut self) {
        self.facts.clear();
        self.resting.clear();
        self.order.clear();
        self.bytes = 0;
        self.recent.push_all();
        self.lost = Lost::All;
    }
}

impl Memory {
    /// Who remembers, if anything can be.
    pub fn by(&self) -> Option<Watcher> {
        self.0.lock().by
    }

    /// The answer to a question, if it is remembered and believed; else what to ask it as, if the answer may be
    /// remembered.
    pub fn recall(
        &self,
        query: &[u8],
        now: BootInstant,
    ) -> Result<(Bytes, FactId), Option<Asking>> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        if inner.is_believed(now)
            && let Some(known) = inner.facts.get(query)
        {
            inner.hits += 1;
            return Ok((known.answer.clone(), known.id));
        }
        inner.misses += 1;
        Err(inner.by.map(|by| Asking { by, since: inner.recent.now() }))
    }

    /// Remembers an answer, unless something that it rests on was forgotten meanwhile.
    pub fn keep(
        &self,
        asking: Asking,
        query: Vec<u8>,
        answer: Bytes,
        fact: Fact,
    ) -> Option<FactId> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        if inner.by != Some(asking.by) || !inner.recent.spares(asking.since, &fact.marks) {
            return None;
        }
        let query = Query::from(query);
        inner.forget_fact(&query);
        inner.bytes += query.len() + answer.len();
        for mark in &fact.marks {
            inner.resting.entry(*mark).or_default().insert(Arc::clone(&query));
        }
        inner.order.push_back(Arc::clone(&query));
        inner.kept += 1;
        let id = FactId(inner.kept);
        inner.facts.insert(query, Known { answer, fact, id, is_lent: false });
        while inner.order.len() > FACTS_MAX || inner.bytes > FACTS_BYTES_MAX {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.forget_fact(&oldest);
        }
        Some(id)
    }

    /// Whether there is a borrower: a new one has nothing to forget.
    pub fn set_lending(&self, lends: bool) {
        let mut inner = self.0.lock();
        inner.lends = lends;
        inner.lost = Lost::default();
    }

    /// Lends an answer, if it is remembered and believed still.
    pub fn lend(&self, query: &[u8], id: FactId, now: BootInstant) -> bool {
        let mut inner = self.0.lock();
        let may_be = inner.lends && inner.is_believed(now);
        match inner.facts.get_mut(query) {
            Some(known) if may_be && known.id == id => {
                known.is_lent = true;
                true
            }
            _ => false,
        }
    }

    /// Until when what is lent may be believed, if nothing is lost; `None`: not at all.
    pub fn until(&self, now: BootInstant) -> Option<BootInstant> {
        self.0.lock().until.filter(|until| now < *until)
    }

    /// Whether something was lost that [`Memory::take_lost`] has not told of.
    pub fn has_lost(&self) -> bool {
        !self.0.lock().lost.is_empty()
    }

    /// What was lost since this was called last.
    pub fn take_lost(&self) -> Lost {
        std::mem::take(&mut self.0.lock().lost)
    }

    /// Forgets what came with a reply or an answer.
    pub fn forget(&self, touched: Touched) {
        let mut inner = self.0.lock();
        match touched {
            Touched::Nothing => {}
            Touched::Marks(marks) => inner.forget(marks, std::iter::repeat(u64::MAX)),
            Touched::All => inner.forget_all(),
            Touched::News { number, marks } => inner.forget_news(number, marks),
        }
    }

    /// How well it remembers.
    pub fn figures(&self, now: BootInstant) -> MemoryFigures {
        let inner = self.0.lock();
        MemoryFigures {
            facts: inner.facts.len(),
            is_believed: inner.is_believed(now),
            hits: inner.hits,
            misses: inner.misses,
        }
    }

    /// What to say to the leader next.
    pub fn call(&self, id: u64, now: BootInstant, rng: &dyn Rng) -> WatchCall {
        let mut inner = self.0.lock();
        // What was not believed for a while never is again.
        let known = inner.by.filter(|by| by.id == id && inner.is_believed(now));
        match known {
            Some(by) => {
                let renew = !inner.is_believed(now.plus(WATCH_LEASE * 3 / 4));
                WatchCall { by, heard: inner.heard, term: Some(inner.term), renew }
            }
            None => {
                inner.begin_anew();
                let by = Watcher { id, session: rng.u64() };
                WatchCall { by, heard: 0, term: None, renew: true }
            }
        }
    }

    /// What the leader said to a call that was made at a time.
    pub fn hear(&self, call: WatchCall, called: BootInstant, watched: Watched) {
        let mut inner = self.0.lock();
        match watched {
            Watched::Stranger => inner.begin_anew(),
            Watched::News { number, marks, term, granted } => {
                match marks {
                    Some(marks) => inner.forget_news(number, marks),
                    None => inner.forget_all(),
                }
                inner.by = Some(call.by);
                inner.term = term;
                inner.heard = inner.heard.max(number);
                if granted {
                    inner.until = inner.until.max(Some(called.plus(WATCH_LEASE)));
                }
            }
        }
    }
}

/// An own change on its way: forgets everything unless it is known what the change touched.
pub struct Changing<'a>(Option<&'a Memory>);

impl<'a> Changing<'a> {
    /// Begins; dropped without a word, all is forgotten.
    pub fn new(memory: &'a Memory) -> Changing<'a> {
        Changing(Some(memory))
    }

    /// It is known what it touched.
    pub fn done(mut self, touched: Touched) {
        if let Some(memory) = self.0.take() {
            memory.forget(touched);
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.0.take() {
            memory.forget(Touched::All);
        }
    }
}
