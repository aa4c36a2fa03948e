//! What a group's leader promises to those who remember its answers: that it tells of a change before whoever
//! made it hears that it is done.
//!
//! ```text
//!   answer ──▶ the rows it rests on are the watcher's *interest*
//!   command applied ──▶ rows changed ∩ interest = *news*, told by the call that the watcher holds open
//!        └─▶ reply waits until all who were told have called again (they have forgotten by then), or their
//!            lease is over; so does another's answer that rests on those rows
//!   reply, answer to a watcher ──▶ with all that it has not heard yet: it never goes back behind what it saw
//! ```
//!
//! Rows are known by marks, digests of family and key: two rows of one mark are forgotten together, nothing worse.
//! *A leader begins without knowing anybody.* What its group's rows say of watchers ([`crate::StateMachine::watchers`])
//! is who may have been promised something by the leader before; until all of these have called, having forgotten
//! everything, or a lease has passed since the term began, it replies to no command.
//!
//! State: in memory of the leader. Bounds: [`WATCH_MARKS_MAX`] marks of interest and [`WATCH_NEWS_MAX`] of news for each
//! watcher; beyond, the oldest are taken back like after a change, or all.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexusgrid_env::kv::Change;
use nexusgrid_env::{BootInstant, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::limits::{
    WATCH_CHANGES_KEPT, WATCH_GIVEN, WATCH_MARKS_MAX, WATCH_NEWS_BATCH, WATCH_NEWS_LINGER,
    WATCH_NEWS_MAX, WATCH_SESSIONS_MAX,
};

/// Stands for a row.
pub type Mark = u64;

/// The mark of a row.
pub fn mark(family: &str, key: &[u8]) -> Mark {
    let mut hasher = DefaultHasher::new();
    (family, key).hash(&mut hasher);
    hasher.finish()
}

/// Who remembers: a mount, in one of its times of remembering. Each begins with nothing remembered. One mount has one
/// process that remembers; who goes on with the mount of another does so when that one has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Watcher {
    /// As the group's rows name it.
    pub id: u64,
    /// Which time; new for each.
    pub session: u64,
}

/// What a watcher is to forget before it takes a reply or an answer for true: what it does or is told next must not be
/// older than that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Touched {
    /// Nothing that it was promised.
    #[default]
    Nothing,
    /// What rests on these.
    Marks(Vec<Mark>),
    /// Everything: nobody knows any more what the command changed.
    All,
    /// What rests on these rows and was answered before they changed: the last of them has this number among its news,
    /// those before are one less each.
    News {
        /// See [`crate::host::Watched::News`].
        number: u64,
        /// The rows.
        marks: Vec<Mark>,
    },
}

/// The last changes of something, by marks, for those who began to read before.
#[derive(Debug, Default)]
pub struct Recent {
    begun: u64,
    changes: VecDeque<Vec<Mark>>,
}

impl Recent {
    /// Where it stands.
    pub fn now(&self) -> u64 {
        self.begun + self.changes.len() as u64
    }

    /// One more.
    pub fn push(&mut self, marks: Vec<Mark>) {
        self.changes.push_back(marks);
        if self.changes.len() > WATCH_CHANGES_KEPT {
            self.changes.pop_front();
            self.begun += 1;
        }
    }

    /// Everything may have changed.
    pub fn push_all(&mut self) {
        self.begun = self.now() + 1;
        self.changes.clear();
    }

    /// Whether none of `marks` has changed since it stood at `since`, for certain.
    pub fn spares(&self, since: u64, marks: &[Mark]) -> bool {
        let Some(skip) = since.checked_sub(self.begun) else { return false };
        let mut later = self.changes.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
        !later.any(|changed| changed.iter().any(|mark| marks.contains(mark)))
    }
}

/// What an entry changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// These rows; `None`: any.
    Rows(Option<Vec<Mark>>),
    /// Nothing: its command had been applied before, and it was answered with the reply that was kept.
    Before,
}

/// The rows that changes are of; `None`: any.
pub(crate) fn marks(changes: &[Change]) -> Option<Vec<Mark>> {
    let of = |change: &Change| match change {
        Change::Put(family, key, _) | Change::Delete(family, key) => Some(mark(family, key)),
        Change::DeleteRange(..) => None,
    };
    changes.iter().map(of).collect()
}

/// What a watcher has not heard yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// The number of the last of it; those before are one less each.
    pub number: u64,
    /// The rows that changed; `None`: it is to forget everything.
    pub marks: Option<Vec<Mark>>,
}

struct Watching {
    /// Where it is.
    node: NodeId,
    /// When it may be passed over.
    until: BootInstant,
    /// What it is interested in, the oldest first; some of it may be told by now.
    order: VecDeque<Mark>,
    /// News by number, not heard yet.
    news: VecDeque<(u64, Mark)>,
    /// Everything up to here is to be forgotten.
    all: u64,
    told: u64,
    heard: u64,
    /// Somebody waits until it has heard this, since when.
    urgent: u64,
    waited: Option<BootInstant>,
    /// Rings when there is news that somebody waits for, or when it is dropped.
    bell: Arc<Notify>,
}

impl Watching {
    /// Whether its news should be told at once.
    fn is_urgent(&self) -> bool {
        self.urgent > self.heard || self.all > self.heard || self.news.len() >= WATCH_NEWS_LINGER
    }
}

/// Whom the reply of a command waits for.
#[derive(Default)]
struct Pending {
    waits: Vec<(Watcher, u64)>,
    own: Touched,
}

#[derive(Default)]
struct Inner {
    /// The term that all of this is of.
    term: u64,
    /// When it began, at the latest; `None`: this replica does not lead in it, as far as it knows.
    begun: Option<BootInstant>,
    /// Who may have been promised something in terms before, and has not called in this one; `None`: not known yet.
    absent: Option<BTreeSet<u64>>,
    /// When the rows were asked who that is.
    looked: Option<BootInstant>,
    watching: BTreeMap<Watcher, Watching>,
    interest: HashMap<Mark, Vec<Watcher>>,
    /// News that were told and not heard yet, by row: who changes it once more waits as well.
    unheard: HashMap<Mark, Vec<(Watcher, u64)>>,
    recent: Recent,
    /// Who proposed, by request.
    origins: HashMap<u128, Watcher>,
    /// By index of the entry.
    pending: BTreeMap<u64, Pending>,
    /// Of entries up to here some are not known any more.
    forgotten: u64,
}

/// Those who remember what a group's leader said.
#[derive(Default)]
pub(crate) struct Watchers {
    inner: Mutex<Inner>,
    /// Whether anybody is.
    on: AtomicBool,
    changed: Notify,
}

impl Inner {
    fn drop_watcher(&mut self, watcher: Watcher) {
        let Some(gone) = self.watching.remove(&watcher) else { return };
        for mark in gone.order {
            self.lose_interest(watcher, mark);
        }
        self.was_heard(watcher, gone.news);
        gone.bell.notify_one();
    }

    /// These are told and waited for no more.
    fn was_heard(&mut self, watcher: Watcher, news: impl IntoIterator<Item = (u64, Mark)>) {
        for (number, mark) in news {
            let Some(all) = self.unheard.get_mut(&mark) else { continue };
            all.retain(|told| *told != (watcher, number));
            if all.is_empty() {
                self.unheard.remove(&mark);
            }
        }
    }

    /// Whether it had any.
    fn lose_interest(&mut self, watcher: Watcher, mark: Mark) -> bool {
        let Some(all) = self.interest.get_mut(&mark) else { return false };
        let before = all.len();
        all.retain(|other| *other != watcher);
        let had = all.len() < before;
        if all.is_empty() {
            self.interest.remove(&mark);
        }
        had
    }

    fn tell(&mut self, watcher: Watcher, mark: Mark) -> Option<(Watcher, u64)> {
        let known = self.watching.get_mut(&watcher)?;
        known.told += 1;
        known.news.push_back((known.told, mark));
        if known.is_urgent() {
            known.bell.notify_one();
        }
        self.unheard.entry(mark).or_default().push((watcher, known.told));
        if known.news.len() > WATCH_NEWS_MAX {
            return self.tell_all(watcher);
        }
        Some((watcher, known.told))
    }

    fn tell_all(&mut self, watcher: Watcher) -> Option<(Watcher, u64)> {
        let known = self.watching.get_mut(&watcher)?;
        known.told += 1;
        known.all = known.told;
        known.bell.notify_one();
        let (told, order) = (known.told, std::mem::take(&mut known.order));
        let news = std::mem::take(&mut known.news);
        self.was_heard(watcher, news);
        for mark in order {
            self.lose_interest(watcher, mark);
        }
        Some((watcher, told))
    }

    fn expire(&mut self, now: BootInstant) {
        let is_late = |since: &BootInstant| now.since(*since) >= WATCH_GIVEN;
        let over =
            |known: &Watching| known.until <= now || known.waited.as_ref().is_some_and(is_late);
        let gone = self.watching.iter().filter(|(_, known)| over(known));
        for watcher in gone.map(|(watcher, _)| *watcher).collect::<Vec<_>>() {
            self.drop_watcher(watcher);
        }
    }

    /// Who but one has not heard all that it was told.
    fn deaf_but(&self, asker: Watcher) -> Vec<(Watcher, u64)> {
        let is_deaf = |(watcher, known): &(&Watcher, &Watching)| {
            **watcher != asker && known.heard < known.told
        };
        let deaf = self.watching.iter().filter(is_deaf);
        deaf.map(|(watcher, known)| (*watcher, known.told)).collect()
    }

    /// Somebody waits until these have heard.
    fn hurry(&mut self, waits: &[(Watcher, u64)]) {
        for (watcher, number) in waits {
            if let Some(known) = self.watching.get_mut(watcher) {
                known.urgent = known.urgent.max(*number);
                known.bell.notify_one();
            }
        }
    }

    /// Keeps of these those that have not heard; gives how long they may be waited for.
    fn left(&mut self, waits: &mut Vec<(Watcher, u64)>, now: BootInstant) -> Option<Duration> {
        let mut longest = None;
        waits.retain(|(watcher, number)| {
            let known = self.watching.get_mut(watcher);
            let Some(known) = known.filter(|known| known.heard < *number) else { return false };
            known.waited.get_or_insert(now);
            longest = longest.max(Some(known.until.since(now)));
            true
        });
        longest
    }

    /// What stands for an entry of which it is not known any more who was told.
    fn lost(&self, index: u64) -> Option<Pending> {
        (index <= self.forgotten).then(|| Pending { waits: self.everybody(), own: Touched::All })
    }

    /// All who are known, and all that they were told so far.
    fn everybody(&self) -> Vec<(Watcher, u64)> {
        self.watching.iter().map(|(watcher, known)| (*watcher, known.told)).collect()
    }

    /// What is left of the time in which watchers of terms before may remember something still.
    fn grace(&self, now: BootInstant) -> Option<Duration> {
        let is_over = self.absent.as_ref().is_some_and(BTreeSet::is_empty);
        let begun = self.begun.filter(|_| !is_over)?;
        let left = WATCH_GIVEN.saturating_sub(now.since(begun));
        (left > Duration::ZERO).then_some(left)
    }
}

/// What a watcher that calls is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// It is known from now on, or still.
    Known,
    /// It is not known, or not any more: it is to forget everything and to begin anew.
    Stranger,
}

impl Watchers {
    /// Whether anybody remembers anything; if not, nothing needs to be noted of changes.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// This replica leads in `term`, which began before `now`: nobody is known.
    pub(crate) fn began(&self, term: u64, now: BootInstant) {
        let mut inner = self.inner.lock();
        if term > inner.term || term == inner.term && inner.begun.is_none() {
            self.reset(&mut inner, Inner { term, begun: Some(now), ..Inner::default() });
        }
    }

    /// Another leads in `term`, or nobody yet.
    pub(crate) fn ended(&self, term: u64) {
        let mut inner = self.inner.lock();
        // Of the own term that may be old news: a leader of a term is its only one.
        if term > inner.term {
            self.reset(&mut inner, Inner { term, ..Inner::default() });
        }
    }

    fn reset(&self, inner: &mut Inner, to: Inner) {
        let before = std::mem::replace(inner, to);
        self.on.store(false, Ordering::Release);
        self.changed.notify_waiters();
        for known in before.watching.into_values() {
            known.bell.notify_one();
        }
    }

    /// Whether watchers of terms before may remember something still; the rows say who that may be.
    pub(crate) fn is_new(&self, now: BootInstant) -> bool {
        self.inner.lock().grace(now).is_some()
    }

    /// The group's rows, read in `term` with all that was committed before it, know these.
    pub(crate) fn may_remember(&self, term: u64, ids: &BTreeSet<u64>) {
        let mut inner = self.inner.lock();
        if inner.term != term {
            return;
        }
        let absent = match &inner.absent {
            // Who is new since then has called, or was promised nothing.
            Some(absent) => absent.intersection(ids).copied().collect(),
            None => {
                let has_called = |id: &u64| inner.watching.keys().any(|known| known.id == *id);
                ids.iter().filter(|id| !has_called(id)).copied().collect()
            }
        };
        // Who waits for this looks again and again: only what is new wakes anybody.
        if inner.absent.as_ref() != Some(&absent) {
            inner.absent = Some(absent);
            self.changed.notify_waiters();
        }
    }

    /// A watcher calls: it has heard all news up to `heard`. With `begins` it remembers nothing yet.
    pub(crate) fn call(
        &self,
        term: u64,
        (watcher, node): (Watcher, NodeId),
        heard: u64,
        begins: bool,
        now: BootInstant,
    ) -> Called {
        let mut inner = self.inner.lock();
        if inner.term != term || inner.begun.is_none() {
            return Called::Stranger;
        }
        inner.expire(now);
        if begins && !inner.watching.contains_key(&watcher) {
            // A time before is waited for until its lease is over: who had it may be another process.
            let same = inner.watching.keys().filter(|known| known.id == watcher.id);
            if same.count() >= WATCH_SESSIONS_MAX {
                return Called::Stranger;
            }
            let watching = Watching {
                node,
                until: now,
                order: VecDeque::new(),
                news: VecDeque::new(),
                all: 0,
                told: 0,
                heard: 0,
                urgent: 0,
                waited: None,
                bell: Arc::default(),
            };
            inner.watching.insert(watcher, watching);
            if let Some(absent) = inner.absent.as_mut() {
                absent.remove(&watcher.id);
            }
            self.on.store(true, Ordering::Release);
        }
        let Some(known) = inner.watching.get_mut(&watcher).filter(|known| known.node == node)
        else {
            return Called::Stranger;
        };
        // One that calls and never hears what it is told would hold up everybody for ever.
        let hears = heard > known.heard || known.heard == known.told;
        let before = known.heard;
        known.heard = known.heard.max(heard.min(known.told));
        let heard = known.heard;
        if heard >= known.urgent {
            known.waited = None;
        } else if heard > before {
            // It hears, and there is always more.
            known.waited = Some(now);
        }
        if hears {
            known.until = known.until.max(now.plus(WATCH_GIVEN));
        }
        let later = known.news.partition_point(|(number, _)| *number <= heard);
        let news: Vec<_> = known.news.drain(..later).collect();
        inner.was_heard(watcher, news);
        drop(inner);
        self.changed.notify_waiters();
        Called::Known
    }

    /// What rings when there is something to tell a watcher, or it is not known any more.
    pub(crate) fn bell(&self, watcher: Watcher) -> Option<Arc<Notify>> {
        self.inner.lock().watching.get(&watcher).map(|known| Arc::clone(&known.bell))
    }

    /// What there is to tell a watcher, and whether it should be at once. `None`: it is not known any more.
    pub(crate) fn news(&self, watcher: Watcher) -> Option<(News, bool)> {
        let inner = self.inner.lock();
        let known = inner.watching.get(&watcher)?;
        if known.all > known.heard {
            return Some((News { number: known.told, marks: None }, true));
        }
        let batch = known.news.iter().take(WATCH_NEWS_BATCH);
        let number = batch.clone().next_back().map_or(known.heard, |(number, _)| *number);
        let marks = Some(batch.map(|(_, mark)| *mark).collect());
        Some((News { number, marks }, known.is_urgent()))
    }

    /// What a watcher has not heard yet, to be told with an answer.
    pub(crate) fn unheard(&self, watcher: Watcher) -> Touched {
        let inner = self.inner.lock();
        match inner.watching.get(&watcher) {
            Some(known) if known.all <= known.heard && known.news.len() <= WATCH_NEWS_BATCH => {
                match known.news.back() {
                    None => Touched::Nothing,
                    Some((number, _)) => Touched::News {
                        number: *number,
                        marks: known.news.iter().map(|(_, mark)| *mark).collect(),
                    },
                }
            }
            _ => Touched::All,
        }
    }

    /// Who but `asker` has not heard yet that some of these rows changed: they are told at once.
    pub(crate) fn begin_wait(&self, asker: Watcher, marks: &[Mark]) -> Vec<(Watcher, u64)> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let is_clearing = |known: &Watching| known.all > known.heard;
        let told = marks.iter().filter_map(|mark| inner.unheard.get(mark)).flatten().copied();
        let clearing = inner.watching.iter().filter(|(_, known)| is_clearing(known));
        let clearing = clearing.map(|(watcher, known)| (*watcher, known.all));
        let waits: Vec<_> = told.chain(clearing).filter(|(watcher, _)| *watcher != asker).collect();
        inner.hurry(&waits);
        waits
    }

    /// Who but `asker` has not heard all that it was told: they are told at once.
    pub(crate) fn begin_wait_for_all(&self, asker: Watcher) -> Vec<(Watcher, u64)> {
        let mut inner = self.inner.lock();
        let waits = inner.deaf_but(asker);
        inner.hurry(&waits);
        waits
    }

    /// Who of those that were waited for still is, and for how long at most; `None`: nobody. An error: this replica leads
    /// no more, and does not know.
    pub(crate) fn wait(
        &self,
        term: u64,
        waits: &mut Vec<(Watcher, u64)>,
        now: BootInstant,
    ) -> Result<Option<Duration>, LeadsNoMore> {
        let mut inner = self.inner.lock();
        if inner.term != term || inner.begun.is_none() {
            return Err(LeadsNoMore);
        }
        // Of the terms before somebody may show something still.
        if let Some(left) = inner.grace(now) {
            return Ok(Some(left));
        }
        inner.expire(now);
        Ok(inner.left(waits, now))
    }

    /// Whether its lease may last from when it called: it is passed over no earlier than that ends.
    pub(crate) fn grants(&self, watcher: Watcher, called: BootInstant) -> bool {
        let until = called.plus(WATCH_GIVEN);
        self.inner.lock().watching.get(&watcher).is_some_and(|known| known.until >= until)
    }

    /// A watcher begins to read: where changes stand. Rows must be looked at later than this.
    pub(crate) fn begin_read(&self, term: u64, (watcher, node): (Watcher, NodeId)) -> Option<u64> {
        let inner = self.inner.lock();
        let known = inner.watching.get(&watcher).filter(|known| known.node == node);
        known.filter(|_| inner.term == term).map(|_| inner.recent.now())
    }

    /// Whether a watcher is known to be on that node.
    pub(crate) fn is_of(&self, watcher: Watcher, node: NodeId) -> bool {
        self.inner.lock().watching.get(&watcher).is_some_and(|known| known.node == node)
    }

    /// Whether it is time to look at the rows for those who may remember something of terms before: one looks for all
    /// who wait.
    pub(crate) fn should_look(&self, term: u64, now: BootInstant, pause: Duration) -> bool {
        let mut inner = self.inner.lock();
        let is_due = inner.looked.is_none_or(|looked| now.since(looked) >= pause);
        let should = inner.term == term && (inner.absent.is_none() || is_due);
        if should {
            inner.looked = Some(now);
        }
        should
    }

    /// What was read since `begun` rests on `marks`. If the watcher may remember it, for it will be told when they
    /// change: the number of the last of its news, which that is newer than.
    pub(crate) fn end_read(
        &self,
        term: u64,
        watcher: Watcher,
        begun: u64,
        marks: &[Mark],
        now: BootInstant,
    ) -> Option<u64> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if inner.term != term || !inner.recent.spares(begun, marks) {
            return None;
        }
        let number = inner.watching.get(&watcher).filter(|known| known.until > now)?.told;
        for mark in marks {
            let all = inner.interest.entry(*mark).or_default();
            if all.contains(&watcher) {
                continue;
            }
            all.push(watcher);
            if let Some(known) = inner.watching.get_mut(&watcher) {
                known.order.push_back(*mark);
            }
        }
        // What is oldest is taken back. Some of that was told already, and remembered anew since: then it is told
        // once too often.
        while let Some(known) = inner.watching.get_mut(&watcher)
            && known.order.len() > WATCH_MARKS_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            if inner.lose_interest(watcher, oldest) {
                inner.tell(watcher, oldest);
            }
        }
        Some(number)
    }

    /// A command is about to be proposed, by a watcher perhaps.
    pub(crate) fn propose(&self, request: u128, by: Watcher) {
        self.inner.lock().origins.insert(request, by);
    }

    /// Its proposer has its reply, or waits no more.
    pub(crate) fn proposed(&self, request: u128) {
        self.inner.lock().origins.remove(&request);
    }

    /// An entry was applied and its rows are to be seen.
    pub(crate) fn applied(&self, index: u64, request: u128, changed: Changed) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let origin = inner.origins.get(&request).copied();
        let origin = origin.filter(|origin| inner.watching.contains_key(origin));
        let mut pending = Pending::default();
        match changed {
            // What it changed was told when it did; all of that may be on its way still.
            Changed::Before => {
                pending.waits = inner.everybody();
                pending.own = Touched::All;
            }
            Changed::Rows(None) => {
                inner.recent.push_all();
                for watcher in inner.watching.keys().copied().collect::<Vec<_>>() {
                    pending.waits.extend(inner.tell_all(watcher));
                }
                pending.own = Touched::All;
            }
            Changed::Rows(Some(marks)) => {
                let mut own = Vec::new();
                let is_clearing = |known: &Watching| known.all > known.heard;
                for mark in &marks {
                    // Who proposed it is told like all: until it has heard, others must wait for it, and it may have
                    // proposed another thing meanwhile whose reply comes first.
                    for watcher in inner.interest.remove(mark).into_iter().flatten() {
                        inner.tell(watcher, *mark);
                    }
                    let told = inner.unheard.get(mark).into_iter().flatten();
                    let is_own = |watcher| origin == Some(watcher);
                    if told.clone().any(|(watcher, _)| is_own(*watcher)) {
                        own.push(*mark);
                    }
                    pending.waits.extend(told);
                }
                // One of them may have been told to forget everything.
                let clearing = inner.watching.iter().filter(|(_, known)| is_clearing(known));
                pending.waits.extend(clearing.map(|(watcher, known)| (*watcher, known.all)));
                // A refusal says what others did: nobody may show that it is not so.
                if let Some(origin) = origin.filter(|_| marks.is_empty()) {
                    pending.waits.extend(inner.deaf_but(origin));
                }
                inner.recent.push(marks);
                let origin = origin.and_then(|origin| inner.watching.get(&origin));
                if origin.is_some_and(is_clearing) {
                    pending.own = Touched::All;
                } else if !own.is_empty() {
                    pending.own = Touched::Marks(own);
                }
            }
        }
        match origin {
            // It forgets before it is answered: that is not waited for.
            Some(origin) => pending.waits.retain(|(watcher, _)| *watcher != origin),
            None => pending.own = Touched::Nothing,
        }
        inner.hurry(&pending.waits);
        if !pending.waits.is_empty() || pending.own != Touched::Nothing {
            inner.pending.insert(index, pending);
            // Those whose proposers wait no more.
            if inner.pending.len() > WATCH_CHANGES_KEPT
                && let Some((oldest, _)) = inner.pending.pop_first()
            {
                inner.forgotten = inner.forgotten.max(oldest);
            }
        }
    }

    /// Whether the reply of an entry may be given. Who asks again waits for [`Watchers::changes`] before, but no longer
    /// than is said.
    pub(crate) fn may_reply(&self, term: u64, index: u64, now: BootInstant) -> MayReply {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if inner.term != term || inner.begun.is_none() {
            return MayReply::Never;
        }
        if let Some(left) = inner.grace(now) {
            return MayReply::Within(left);
        }
        inner.expire(now);
        let pending = inner.pending.remove(&index);
        let Some(mut pending) = pending.or_else(|| inner.lost(index)) else {
            return MayReply::Now(Touched::Nothing);
        };
        match inner.left(&mut pending.waits, now) {
            Some(longest) => {
                inner.pending.insert(index, pending);
                MayReply::Within(longest)
            }
            None => MayReply::Now(pending.own),
        }
    }

    /// Completes when somebody has called, or the term is over.
    pub(crate) fn changes(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

/// This replica leads no more in the term that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeadsNoMore;

/// Whether a reply may be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MayReply {
    /// Yes; its proposer is to forget this.
    Now(Touched),
    /// When those who wait have heard, or after so long.
    Within(Duration),
    /// Not by this replica: it leads no more.
    Never,
}
