//! One group's replica on this node: its Raft, its state, its watches, its batched read index.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared};
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{BootInstant, Env, NodeId, Rpc, RpcRequest};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{Raft, RaftMetrics, ReadPolicy, ServerState};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::incoming::Incoming;
use super::watchers::{Touched, Watcher};
use crate::limits::ASK_TIMEOUT;
use crate::machine::StateMachine;
use crate::raft::encode::{decode, encode_bytes};
use crate::raft::log::SegmentLog;
use crate::raft::state::{Machine, StateStore};
use crate::raft::types::{Envelope, MetaTypes, RaftId, Vote, node_of};
use crate::raft::wire::{GroupHead, Outcome, READ_INDEX};

/// Who leads a group, as one of its replicas sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaderView {
    /// The leader's node, if one is known.
    pub leader: Option<NodeId>,
    /// Whether it is this replica. It may have been deposed without knowing: commands and
    /// linearizable queries find that out, other deeds must not rest on it alone.
    pub is_me: bool,
    /// The term it leads.
    pub term: u64,
}

/// A member of a group, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its incarnation.
    pub id: RaftId,
    /// Its node.
    pub node: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// The newest entry it is known to hold; only the leader knows.
    pub matched: Option<u64>,
}

/// The outcome of an installation, for all who ask: the receiver's vote, or why not.
pub(crate) type Installing = Shared<BoxFuture<'static, Result<Vote, String>>>;

/// A replica as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This replica's incarnation.
    pub raft_id: RaftId,
    /// Who leads.
    pub leader: LeaderView,
    /// All members, by incarnation.
    pub members: Vec<MemberView>,
    /// The newest entry in this replica's log.
    pub last_index: u64,
    /// The newest entry applied here.
    pub applied_index: u64,
    /// Entries up to here are gone from the log.
    pub purged_index: u64,
    /// The newest term this replica knows of.
    pub term: u64,
}

pub(crate) type MetaRaft = Raft<MetaTypes, Machine>;

/// What a try to write or to read came to.
pub(crate) enum Tried<T> {
    Done(T),
    NotLeader(Option<NodeId>),
    NoReplica,
    Unknown,
}

impl<T> Tried<T> {
    pub(crate) fn map<U>(self, with: impl FnOnce(T) -> U) -> Tried<U> {
        match self {
            Tried::Done(done) => Tried::Done(with(done)),
            Tried::NotLeader(leader) => Tried::NotLeader(leader),
            Tried::NoReplica => Tried::NoReplica,
            Tried::Unknown => Tried::Unknown,
        }
    }
}

/// A read index, and who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    /// What a read must see applied.
    pub index: u64,
    /// The term in which this replica itself was confirmed as leader; `None`: another may be.
    pub term: Option<u64>,
}

#[derive(Default)]
struct ReadRounds {
    running: bool,
    waiting: Vec<oneshot::Sender<Option<Confirmed>>>,
}

/// A command's proposer, if it remembers what it was answered: known to the watchers while it waits.
struct Proposal<'a> {
    store: &'a StateStore,
    request: u128,
}

impl<'a> Proposal<'a> {
    fn new(store: &'a StateStore, request: u128, by: Option<Watcher>) -> Option<Proposal<'a>> {
        by.map(|by| {
            store.watchers().propose(request, by);
            Proposal { store, request }
        })
    }
}

impl Drop for Proposal<'_> {
    fn drop(&mut self) {
        self.store.watchers().proposed(self.request);
    }
}

pub(crate) struct Group {
    pub id: GroupId,
    pub raft_id: RaftId,
    pub env: Env,
    pub rpc: Arc<dyn Rpc>,
    pub raft: MetaRaft,
    pub store: Arc<StateStore>,
    pub log: SegmentLog,
    pub leader: watch::Sender<LeaderView>,
    pub incoming: tokio::sync::Mutex<Option<Incoming>>,
    /// The transfer that was installed last, or is being installed: a sender that heard nothing asks
    /// again.
    pub installing: parking_lot::Mutex<Option<(u64, Installing)>>,
    started: BootInstant,
    /// When a leader was last heard.
    heard: Mutex<Option<BootInstant>>,
    reads: Mutex<ReadRounds>,
    /// Who confirmed the last read index: asked first next time.
    pub(super) quick: Mutex<Vec<RaftId>>,
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        raft_id: RaftId,
        env: Env,
        rpc: Arc<dyn Rpc>,
        raft: MetaRaft,
        store: Arc<StateStore>,
        log: SegmentLog,
    ) -> Arc<Group> {
        let (leader, _) = watch::channel(LeaderView::default());
        let now = env.clock.now();
        Arc::new(Group {
            id,
            raft_id,
            env,
            rpc,
            raft,
            store,
            log,
            leader,
            incoming: tokio::sync::Mutex::new(None),
            installing: parking_lot::Mutex::new(None),
            started: now,
            heard: Mutex::new(None),
            reads: Mutex::new(ReadRounds::default()),
            quick: Mutex::default(),
        })
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<MetaTypes> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Keeps the leader view true until Raft ends.
    pub(crate) async fn follow_leader(self: Arc<Self>) {
        let mut metrics = self.raft.metrics();
        loop {
            let view = {
                let now = metrics.borrow_and_update();
                LeaderView {
                    leader: now.current_leader.map(node_of),
                    is_me: now.current_leader == Some(self.raft_id)
                        && now.state == ServerState::Leader,
                    term: now.current_term,
                }
            };
            let now = self.env.clock.now();
            match view.is_me {
                true => self.store.watchers().began(view.term, now),
                false => self.store.watchers().ended(view.term),
            }
            self.leader.send_if_modified(|old| {
                let changed = *old != view;
                *old = view;
                changed
            });
            if metrics.changed().await.is_err() {
                self.leader.send_replace(LeaderView::default());
                return;
            }
        }
    }

    /// Notes a message of a leader.
    pub(crate) fn hear(&self) {
        *self.heard.lock() = Some(self.env.clock.now());
    }

    /// Whether this replica leads, or heard a leader within the last `period`.
    pub(crate) fn hears_leader(&self, period: Duration) -> bool {
        let recent = |heard: BootInstant| self.env.clock.now().since(heard) < period;
        self.leader.borrow().is_me || self.heard.lock().is_some_and(recent)
    }

    /// Whether it neither led nor heard a leader for at least `period`.
    pub(crate) fn is_deserted(&self, period: Duration) -> bool {
        !self.hears_leader(period) && self.env.clock.now().since(self.started) >= period
    }

    pub(crate) fn status(&self) -> GroupStatus {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        let voters: std::collections::BTreeSet<RaftId> = membership.voter_ids().collect();
        let matched = |id: &RaftId| {
            let replication = metrics.replication.as_ref()?;
            replication.get(id)?.as_ref().map(|id| id.index)
        };
        let members = membership
            .nodes()
            .map(|(id, node)| MemberView {
                id: *id,
                node: *node,
                voter: voters.contains(id),
                matched: matched(id),
            })
            .collect();
        GroupStatus {
            group: self.id,
            raft_id: self.raft_id,
            leader: *self.leader.borrow(),
            members,
            last_index: metrics.last_log_index.unwrap_or(0),
            applied_index: *self.store.watch_applied().borrow(),
            purged_index: metrics.purged.as_ref().map_or(0, |id| id.index),
            term: metrics.current_term,
        }
    }

    /// Proposes here, if this replica leads; gives the reply when all have heard of it who were promised to, and
    /// what the proposer is to forget.
    pub(crate) async fn propose(
        &self,
        envelope: Envelope,
        by: Option<Watcher>,
        deadline: Duration,
    ) -> Tried<(Bytes, Touched)> {
        let _proposal = Proposal::new(&self.store, envelope.request_id, by);
        let written = async {
            let response = self.raft.client_write(envelope).await?;
            let at = response.log_id;
            let touched = self.heard_by_all(at.leader_id.term, at.index).await;
            Ok(touched.map(|touched| {
                // A refusal, too, may be of what others did, and the proposer has not heard of.
                let touched = match (by, touched) {
                    (Some(by), Touched::Nothing | Touched::Marks(_)) => {
                        self.store.watchers().unheard(by)
                    }
                    (_, touched) => touched,
                };
                (response.data.0, touched)
            }))
        };
        match tokio::time::timeout(deadline, written).await {
            Err(_) => Tried::Unknown,
            Ok(Ok(Some(done))) => Tried::Done(done),
            // Done, but who may know of it must not hear so from here.
            Ok(Ok(None)) => Tried::Unknown,
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Tried::NotLeader(to.leader_id.map(node_of))
            }
            // It was in this leader's log; another leader may have it too, or not.
            Ok(Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)))) => Tried::Unknown,
            Ok(Err(RaftError::APIError(_))) => Tried::NotLeader(None),
            Ok(Err(RaftError::Fatal(_))) => Tried::Unknown,
        }
    }

    /// An index that a read of now must see applied; `None` if no leader confirmed one.
    ///
    /// At most one round is in flight: whoever comes while it runs waits for the next, which begins
    /// after they came.
    pub(crate) async fn read_index(self: &Arc<Self>) -> Option<u64> {
        self.confirmed().await.map(|confirmed| confirmed.index)
    }

    /// As [`Group::read_index`], and who said so.
    pub(super) async fn confirmed(self: &Arc<Self>) -> Option<Confirmed> {
        let (answer, result) = oneshot::channel();
        let begin = {
            let mut reads = self.reads.lock();
            reads.waiting.push(answer);
            !std::mem::replace(&mut reads.running, true)
        };
        if begin {
            let group = self.clone();
            drop(self.env.exec.spawn(async move { group.read_rounds().await }));
        }
        result.await.ok().flatten()
    }

    async fn read_rounds(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut reads = self.reads.lock();
                let waiting = std::mem::take(&mut reads.waiting);
                if waiting.is_empty() {
                    reads.running = false;
                    return;
                }
                waiting
            };
            let round = tokio::time::timeout(ASK_TIMEOUT, self.read_round()).await;
            let confirmed = round.ok().flatten();
            for waiter in waiting {
                let _ = waiter.send(confirmed);
            }
        }
    }

    /// One round: this leader asks a quorum whether it still leads, or a follower asks the leader.
    async fn read_round(&self) -> Option<Confirmed> {
        if self.leader.borrow().is_me
            && let Some((index, term)) = self.confirmed_index().await
        {
            return Some(Confirmed { index, term: Some(term) });
        }
        let of_another = |index| Confirmed { index, term: None };
        match self.leader_read_index().await {
            Tried::Done(index) => Some(of_another(index)),
            Tried::NotLeader(Some(leader)) if leader != node_of(self.raft_id) => {
                let head = encode_bytes(&GroupHead { group: self.id, stale: false });
                let request = RpcRequest { method: READ_INDEX.id, head, body: Bytes::new() };
                let response = self.rpc.call(leader, request, ASK_TIMEOUT).await.ok()?;
                match decode::<Outcome>(&response.head, READ_INDEX.name) {
                    Ok(Outcome::Done) => {
                        Some(of_another(u64::from_le_bytes(*response.body.first_chunk()?)))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    async fn leader_read_index(&self) -> Tried<u64> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            // I12: openraft answers only once an entry of the leader's own term is committed.
            Ok(linearizer) => Tried::Done(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Tried::NotLeader(to.leader_id.map(node_of))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Tried::Unknown,
            Err(RaftError::Fatal(_)) => Tried::NoReplica,
        }
    }

    /// Waits until this replica has applied `index`.
    pub(crate) async fn applied(&self, index: u64) -> Result<(), String> {
        let mut applied = self.store.watch_applied();
        applied.wait_for(|applied| *applied >= index).await.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// What decides here.
    pub(crate) fn machine(&self) -> Arc<dyn StateMachine> {
        self.store.machine()
    }

    /// Index of the newest entry applied here.
    pub(crate) fn applied_index(&self) -> u64 {
        *self.store.watch_applied().borrow()
    }

    /// Answers a query from this replica as it is.
    pub(crate) async fn answer(&self, query: Bytes) -> Result<Bytes, String> {
        let store = self.store.clone();
        let (machine, bytes) = (store.machine(), query.clone());
        let work = move || {
            let snapshot = store.kv().snapshot()?;
            store.machine().query(&*snapshot, &query)
        };
        let exec = &self.env.exec;
        let answer = match () {
            () if machine.is_brief(&bytes) => exec.brief(work).await,
            () if machine.is_long(&bytes) => exec.patient(work).await,
            () => exec.blocking(work).await,
        };
        answer.map(Bytes::from).map_err(|error| error.to_string())
    }
}
