//! Remembering what a group answered: the calls of who remembers, and how its leader serves them.
//!
//! ```text
//!   watch ───▶ leader: still the leader? ──▶ known ─ holds the call until there is news, or a second has passed
//!   remember ▶ leader: still the leader? ──▶ answers, and notes what the answer rests on (`watchers`)
//!   propose ─▶ leader: applied ──▶ all who were told have forgotten ──▶ reply, with what the proposer forgets
//! ```
//! Only a leader that a majority confirmed after a call came grants a lease for it (I12): one that is elected later
//! counts the leases before from its election.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::kv::Row;
use nexusgrid_env::{BootInstant, KvError, KvRead, NodeId, ScanRange};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::group::{Group, LeaderView, Tried};
use super::watchers::{Called, LeadsNoMore, Mark, MayReply, News, Touched, Watcher, mark};
use super::{Consistency, MetaError, MetaHost};
use crate::limits::{
    ASK_TIMEOUT, QUERY_BYTES_MAX, SERVED_QUERY_TIMEOUT, WATCH_HOLD, WATCH_RESTS_ON_MAX,
};
use crate::machine::RestsOn;
use crate::raft::encode::{decode, encode_bytes};
use crate::raft::wire::{Outcome, REMEMBER, RememberHead, WATCH, WatchHead};

/// While new watchers are waited for, rows are looked at so often: some of these may have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Nodes that are asked to answer what is to be remembered, before any may answer it as it is.
const REMEMBER_TRIES: usize = 4;

/// What a watcher says when it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchCall {
    /// Who.
    pub by: Watcher,
    /// It has forgotten what it was told up to this number.
    pub heard: u64,
    /// The term of the leader that knows it; `None`: it remembers nothing yet.
    pub term: Option<u64>,
    /// Its lease is short: it is to be granted anew even if there is news.
    pub renew: bool,
}

/// What a watcher hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Watched {
    /// This changed.
    News {
        /// Of the last of them, to be said with the next call; those before are one less each.
        number: u64,
        /// What is to be forgotten; `None`: everything.
        marks: Option<Vec<Mark>>,
        /// The leader's term, to be said with the next call.
        term: u64,
        /// What is left may be believed for [`crate::limits::WATCH_LEASE`] from when it called.
        granted: bool,
    },
    /// It is not known here, or not any more: it is to forget everything, and to begin anew.
    Stranger,
}

/// What an answer that may be remembered rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The rows.
    pub marks: Vec<Mark>,
    /// News up to here are older than the answer.
    pub number: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The answer.
    pub answer: Bytes,
    /// `None`: it must not be remembered.
    pub fact: Option<Fact>,
    /// What is to be forgotten before it is taken for true; of this answer as well, if it is of that.
    pub touched: Touched,
}

/// A view that notes which rows are read.
pub(crate) struct Noting<'a> {
    rows: &'a dyn KvRead,
    rests_on: &'a RestsOn,
    /// `None`: more than can be noted.
    marks: Mutex<Option<Vec<Mark>>>,
}

impl<'a> Noting<'a> {
    pub(crate) fn new(rows: &'a dyn KvRead, rests_on: &'a RestsOn) -> Noting<'a> {
        Noting { rows, rests_on, marks: Mutex::new(Some(Vec::new())) }
    }

    /// What was read that the answer rests on; `None`: more than can be noted.
    pub(crate) fn marks(self) -> Option<Vec<Mark>> {
        self.marks.into_inner()
    }
}

impl KvRead for Noting<'_> {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.note(family, key);
        self.rows.get(family, key)
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        let found = self.rows.scan(family, range)?;
        match self.rests_on.scans {
            true => found.iter().for_each(|(key, _)| self.note(family, key)),
            false => *self.marks.lock() = None,
        }
        Ok(found)
    }
}

impl Noting<'_> {
    fn note(&self, family: &'static str, key: &[u8]) {
        if !(self.rests_on.row)(family, key) {
            return;
        }
        let mut noted = self.marks.lock();
        if let Some(marks) = noted.as_mut() {
            marks.push(mark(family, key));
            if marks.len() > WATCH_RESTS_ON_MAX {
                *noted = None;
            }
        }
    }
}

impl Group {
    /// The term in which this replica leads and an index that a read of now must see, as a majority confirmed after
    /// this was asked; all up to it is applied.
    async fn leads(self: &Arc<Self>) -> Option<u64> {
        let confirmed = self.confirmed().await?;
        let term = confirmed.term?;
        self.store.watchers().began(term, self.env.clock.now());
        let applied = tokio::time::timeout(ASK_TIMEOUT, self.applied(confirmed.index)).await;
        applied.is_ok_and(|applied| applied.is_ok()).then_some(term)
    }

    /// Whether the rows know a watcher on that node.
    async fn is_watcher(&self, by: Watcher, from: NodeId) -> Result<bool, String> {
        let store = Arc::clone(&self.store);
        let work = move || store.machine().watcher(&*store.kv().snapshot()?, by.id);
        let node = self.env.exec.brief(work).await.map_err(|error| error.to_string())?;
        Ok(node == Some(from))
    }

    /// Looks up who may remember something of terms before; what was committed before `term` is applied.
    async fn look_for_watchers(&self, term: u64) -> Result<(), String> {
        if !self.store.watchers().should_look(term, self.env.clock.now(), LOOK_AGAIN) {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let work = move || store.machine().watchers(&*store.kv().snapshot()?);
        let ids = self.env.exec.brief(work).await.map_err(|error| error.to_string())?;
        self.store.watchers().may_remember(term, &ids);
        Ok(())
    }

    /// Waits until everybody who was promised to hear of an entry before its proposer does has heard, or is passed
    /// over; gives what the proposer is to forget. `None`: this replica leads no more.
    pub(super) async fn heard_by_all(&self, term: u64, index: u64) -> Option<Touched> {
        let watchers = self.store.watchers();
        watchers.began(term, self.env.clock.now());
        self.as_they_hear(term, |now| watchers.may_reply(term, index, now)).await
    }

    /// Looks whenever a watcher has heard something, until it may be replied; `None`: never.
    async fn as_they_hear(
        &self,
        term: u64,
        mut look: impl FnMut(BootInstant) -> MayReply,
    ) -> Option<Touched> {
        let (watchers, clock) = (self.store.watchers(), &self.env.clock);
        loop {
            let changed = watchers.changes();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if watchers.is_new(clock.now()) {
                self.look_for_watchers(term).await.ok()?;
            }
            match look(clock.now()) {
                MayReply::Now(touched) => return Some(touched),
                MayReply::Never => return None,
                MayReply::Within(longest) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = clock.sleep(longest.min(LOOK_AGAIN)) => {}
                },
            }
        }
    }

    /// Serves a watcher's call; `None`: this replica does not lead.
    pub(super) async fn watch(self: &Arc<Self>, from: NodeId, call: WatchCall) -> Option<Watched> {
        let WatchCall { by, heard, term: known_in, renew } = call;
        let LeaderView { is_me: true, term, .. } = *self.leader.borrow() else { return None };
        let begins = known_in.is_none();
        if known_in.is_some_and(|known_in| known_in != term) {
            return Some(Watched::Stranger);
        }
        let watchers = self.store.watchers();
        let called = self.env.clock.now();
        // What it has heard others may be waiting for: that is not held up.
        let mut is_known =
            !begins && watchers.call(term, (by, from), heard, false, called) == Called::Known;
        let mut granted = false;
        if !is_known || renew {
            // Of another term it may be a call that was late, and its watcher known to another leader since.
            let leads = self.leads().await? == term;
            if !leads || !self.is_watcher(by, from).await.ok()? {
                return leads.then_some(Watched::Stranger);
            }
            granted = true;
        }
        if begins {
            self.look_for_watchers(term).await.ok()?;
            is_known = watchers.call(term, (by, from), heard, true, called) == Called::Known;
            let store = Arc::clone(&self.store);
            self.env.exec.blocking(move || store.settle()).await;
        }
        if !is_known {
            return Some(Watched::Stranger);
        }
        granted &= watchers.grants(by, called);
        // Who begins is let begin at once.
        let until = called.plus(if begins { Duration::ZERO } else { WATCH_HOLD });
        loop {
            let Some(bell) = watchers.bell(by) else { return Some(Watched::Stranger) };
            let Some((news, is_urgent)) = watchers.news(by) else {
                return Some(Watched::Stranger);
            };
            let left = until.since(self.env.clock.now());
            if is_urgent || left.is_zero() {
                let News { number, marks } = news;
                return Some(Watched::News { number, marks, term, granted });
            }
            tokio::select! {
                biased;
                () = bell.notified() => {}
                () = self.env.clock.sleep(left) => {}
            }
        }
    }

    /// Answers a query that will be remembered; `None`: this replica does not lead, or a majority does not say so.
    pub(super) async fn remember(
        self: &Arc<Self>,
        from: NodeId,
        by: Watcher,
        query: Bytes,
    ) -> Option<Result<Remembered, String>> {
        if !self.leader.borrow().is_me {
            return None;
        }
        let term = self.leads().await?;
        let machine = self.machine();
        let watchers = self.store.watchers();
        let begun = watchers.begin_read(term, (by, from));
        let Some((begun, rests_on)) = begun.zip(machine.may_be_remembered(&query)) else {
            let answer = self.answer(query).await;
            self.heard_by_others(term, by, None).await?;
            let touched = watchers.unheard(by);
            return Some(answer.map(|answer| Remembered { answer, fact: None, touched }));
        };
        let store = Arc::clone(&self.store);
        let work = move || {
            let rows = store.kv().snapshot()?;
            let noting = Noting::new(&*rows, &rests_on);
            let answer = store.machine().query(&noting, &query)?;
            Ok::<_, KvError>((answer, noting.marks()))
        };
        let answered = self.env.exec.brief(work).await;
        let (answer, marks) = match answered {
            Ok(answered) => answered,
            Err(error) => return Some(Err(error.to_string())),
        };
        self.heard_by_others(term, by, marks.as_deref()).await?;
        let now = self.env.clock.now();
        let fact = marks.and_then(|marks| {
            let number = watchers.end_read(term, by, begun, &marks, now)?;
            Some(Fact { marks, number })
        });
        let touched = watchers.unheard(by);
        Some(Ok(Remembered { answer: Bytes::from(answer), fact, touched }))
    }

    /// Waits until nobody but the asker may show those rows (`None`: any) as they were before they changed last: whoever
    /// is shown them as they are may tell. `None`: this replica leads no more.
    async fn heard_by_others(
        &self,
        term: u64,
        asker: Watcher,
        marks: Option<&[Mark]>,
    ) -> Option<()> {
        // What was seen was told of, or is now.
        self.store.noted().await?;
        let watchers = self.store.watchers();
        let mut waits = match marks {
            Some(marks) => watchers.begin_wait(asker, marks),
            None => watchers.begin_wait_for_all(asker),
        };
        let heard = self.as_they_hear(term, |now| match watchers.wait(term, &mut waits, now) {
            Ok(Some(longest)) => MayReply::Within(longest),
            Ok(None) => MayReply::Now(Touched::Nothing),
            Err(LeadsNoMore) => MayReply::Never,
        });
        heard.await.map(drop)
    }
}

impl MetaHost {
    /// Calls the leader of `group` as a watcher: comes back with news, or when there was none for
    /// [`WATCH_HOLD`].
    pub async fn watch(&self, group: GroupId, call: WatchCall) -> Result<Watched, MetaError> {
        let until = self.inner.env.clock.now().plus(WATCH_HOLD + ASK_TIMEOUT);
        let mut trail = self.trail(group);
        while let Some(left) = self.left(until) {
            let Some(target) = self.next_target(group, &mut trail) else {
                self.pause(left).await;
                continue;
            };
            if target == self.inner.node {
                let watched = match self.running(group) {
                    Ok(replica) => replica.watch(target, call).await,
                    Err(_) => None,
                };
                match watched {
                    Some(watched) => return Ok(watched),
                    None => self.follow_own(group, &mut trail, left).await,
                }
                continue;
            }
            let head = encode_bytes(&WatchHead { group, call });
            match self.ask(target, WATCH, head, Bytes::new(), left).await? {
                Tried::Done((body, _)) => {
                    self.inner.hints.lock().insert(group, target);
                    return decode(&body, WATCH.name)
                        .map_err(|error| MetaError::Refused(error.to_string()));
                }
                Tried::NotLeader(leader) => self.follow(&mut trail, target, leader, left).await,
                Tried::NoReplica | Tried::Unknown => {
                    self.inner.hints.lock().remove(&group);
                    self.follow(&mut trail, target, None, left).await;
                }
            }
        }
        Err(MetaError::Timeout(group))
    }

    /// Has the leader of `group` answer a query, so that it may be remembered if it may.
    pub async fn remember(
        &self,
        group: GroupId,
        by: Watcher,
        query: Bytes,
        deadline: Duration,
    ) -> Result<Remembered, MetaError> {
        super::ask::check_size("query", query.len(), QUERY_BYTES_MAX)?;
        let until = self.inner.env.clock.now().plus(deadline);
        let mut trail = self.trail(group);
        let mut tries = 0;
        while let Some(left) = self.left(until) {
            if tries >= REMEMBER_TRIES {
                // While voters change no leader is sure in the way that is needed here: others may answer.
                let consistency = Consistency::Linearizable;
                let answer = self.query(group, query, consistency, left).await?;
                return Ok(Remembered { answer, fact: None, touched: Touched::All });
            }
            let Some(target) = self.next_target(group, &mut trail) else {
                self.pause(left).await;
                continue;
            };
            tries += 1;
            let patience = left.min(self.inner.options.attempt_timeout);
            if target == self.inner.node {
                let remembered = match self.running(group) {
                    Ok(replica) => {
                        let from = (target, by);
                        self.remember_here(&replica, from, query.clone(), patience).await
                    }
                    Err(_) => None,
                };
                match remembered {
                    Some(answered) => {
                        return answered.map_err(|error| MetaError::Stopped(group, error));
                    }
                    None => self.follow_own(group, &mut trail, left).await,
                }
                continue;
            }
            let head = encode_bytes(&RememberHead { group, by });
            match self.ask(target, REMEMBER, head, query.clone(), patience).await? {
                Tried::Done((answer, outcome)) => {
                    self.inner.hints.lock().insert(group, target);
                    let (fact, touched) = match outcome {
                        Outcome::Fact(fact) => (Some(fact), Touched::Nothing),
                        Outcome::FactAnd(fact, touched) => (fact, touched),
                        _ => (None, Touched::Nothing),
                    };
                    return Ok(Remembered { answer, fact, touched });
                }
                Tried::NotLeader(leader) => self.follow(&mut trail, target, leader, left).await,
                Tried::NoReplica | Tried::Unknown => {
                    self.inner.hints.lock().remove(&group);
                    self.follow(&mut trail, target, None, left).await;
                }
            }
        }
        Err(MetaError::Timeout(group))
    }

    async fn remember_here(
        &self,
        replica: &Arc<Group>,
        (from, by): (NodeId, Watcher),
        query: Bytes,
        patience: Duration,
    ) -> Option<Result<Remembered, String>> {
        tokio::time::timeout(patience, replica.remember(from, by, query)).await.ok().flatten()
    }

    /// The replica here does not lead: where it points.
    async fn follow_own(&self, group: GroupId, trail: &mut super::ask::Trail, left: Duration) {
        let leader = self.running(group).ok().and_then(|own| self.believed_leader(&own));
        self.follow(trail, self.inner.node, leader, left).await;
    }

    pub(super) async fn serve_watch(&self, from: NodeId, head: WatchHead) -> (Outcome, Bytes) {
        let Ok(group) = self.running(head.group) else { return (Outcome::NoReplica, Bytes::new()) };
        match group.watch(from, head.call).await {
            Some(watched) => (Outcome::Done, encode_bytes(&watched)),
            None => (Outcome::NotLeader(self.believed_leader(&group)), Bytes::new()),
        }
    }

    pub(super) async fn serve_remember(
        &self,
        group: &Arc<Group>,
        from: (NodeId, Watcher),
        query: Bytes,
    ) -> Result<(Outcome, Bytes), String> {
        match self.remember_here(group, from, query, SERVED_QUERY_TIMEOUT).await {
            Some(Ok(Remembered { answer, fact, touched })) => {
                let outcome = match (fact, touched) {
                    (Some(fact), Touched::Nothing) => Outcome::Fact(fact),
                    (None, Touched::Nothing) => Outcome::Done,
                    (fact, touched) => Outcome::FactAnd(fact, touched),
                };
                Ok((outcome, answer))
            }
            Some(Err(error)) => Err(error),
            None => Ok((Outcome::NotLeader(self.believed_leader(group)), Bytes::new())),
        }
    }
}
