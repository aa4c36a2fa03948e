//! Metadata survives what data survives: each group's state goes into the grid as an object of its
//! own, and every stable node keeps a small record of where it is.
//!
//! ```text
//!   rows of one applied index ──stream──▶ blocks, coded and sealed ──commit──▶ system bucket
//!                                             │ extents, key, map
//!                                             ▼
//!                     record, sealed ──▶ every stable node; durable on a majority ──▶ old ones go
//!   log since then ──tails, sealed──▶ a few nodes                                          (follow)
//!
//!   all is lost:  records ──▶ extents ──▶ shards from the drives ──▶ rows ──▶ tails ──▶ new groups
//! ```                                                                                     (restore)
//! A checkpoint is an object like any other: repair, remap and collection care for it. Its bucket is
//! none that a client can name. It is never inline, whatever its size: rows would be lost with the
//! rows.
//!
//! *Who takes it*: the leader of the group if it holds the master key, else the first voter that does.
//! Two who think so take two checkpoints, which does no harm.
//!
//! State: in memory, when each group's turn is next. `shelf` keeps the records, `tails` what leads on from
//! them, `freeze` whether anything may be deleted, `claim` who restores.

mod attempts;
mod claim;
mod follow;
pub(crate) mod freeze;
mod record;
mod restore;
mod serve;
mod shelf;
mod survey;
mod tails;
mod take;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_env::{BootInstant, NodeId, Rpc};
use nexusgrid_meta::MetaHost;
use nexusgrid_meta::namespace::types::NamespaceCommand;
use nexusgrid_meta::root::topology::{Node, Topology};
use nexusgrid_meta::root::types::{
    NodeClass, NodeState, Restores, RootAnswer, RootCommand, RootQuery,
};
use parking_lot::Mutex;

pub use freeze::Deletions;
pub(crate) use record::RecordKeys;
pub use record::{RecordError, RecordHead, TailHead};
pub use restore::Restored;
pub use shelf::Shelf;
pub use survey::{GroupState, GroupSurvey, Survey};

use self::attempts::Attempts;
use super::workers::Worker;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;
use crate::meta_port::ROOT;

/// How often checkpoints are taken.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointOptions {
    /// Of each metadata group; default 15 min.
    pub every: Duration,
    /// Of the root group, which is small and without which the others are of no use; default 5 min.
    pub root_every: Duration,
    /// What was committed since goes to a few nodes so often; default 10 s.
    pub log_tail: Duration,
    /// Pause between two looks for what is due; default 1 s.
    pub look_every: Duration,
}

impl Default for CheckpointOptions {
    fn default() -> CheckpointOptions {
        CheckpointOptions {
            every: Duration::from_secs(15 * 60),
            root_every: Duration::from_secs(5 * 60),
            log_tail: Duration::from_secs(10),
            look_every: Duration::from_secs(1),
        }
    }
}

/// The copy of the map that outlives this process.
pub trait KeptMap: Send + Sync + 'static {
    /// The newest map that this node ever had.
    fn topology(&self) -> Arc<Topology>;
    /// Takes a map if it is newer.
    fn offer(&self, topology: &Arc<Topology>);
}

/// What checkpoints need beside a node's other parts.
pub struct CheckpointParts {
    /// The groups of this node.
    pub host: MetaHost,
    /// The records of this node.
    pub shelf: Arc<Shelf>,
    /// Calls other nodes.
    pub rpc: Arc<dyn Rpc>,
    /// The node's own copy of the map.
    pub kept_map: Arc<dyn KeptMap>,
    /// How often.
    pub options: CheckpointOptions,
}

/// One node's part in the safety of metadata.
pub struct Checkpoints {
    core: Arc<Core>,
    host: MetaHost,
    shelf: Arc<Shelf>,
    rpc: Arc<dyn Rpc>,
    kept_map: Arc<dyn KeptMap>,
    options: CheckpointOptions,
    /// One checkpoint at a time: it is work for the whole grid.
    taking: tokio::sync::Mutex<()>,
    /// One restore at a time: a second would take the first one's state from under it.
    restoring: tokio::sync::Mutex<()>,
    attempts: Attempts,
    /// How far the tails of each group are that this node follows.
    following: Mutex<BTreeMap<GroupId, follow::Following>>,
    /// Who restores, as this node heard.
    claims: claim::Claims,
    /// When it was last asked whether checkpoints are still where their records say.
    looked: Mutex<BootInstant>,
    /// When this node last asked for records that it lacks.
    asked: Mutex<BootInstant>,
    started: BootInstant,
}

impl Checkpoints {
    pub(crate) fn new(core: Arc<Core>, parts: CheckpointParts) -> Arc<Checkpoints> {
        let CheckpointParts { host, shelf, rpc, kept_map, options } = parts;
        let started = core.env.clock.now();
        // What contents moved away from stays until these records know the new place.
        let _ = core.shelf.set(Arc::clone(&shelf));
        Arc::new(Checkpoints {
            core,
            host,
            shelf,
            rpc,
            kept_map,
            options,
            taking: tokio::sync::Mutex::default(),
            restoring: tokio::sync::Mutex::default(),
            attempts: Attempts::default(),
            following: Mutex::default(),
            claims: claim::Claims::default(),
            looked: Mutex::new(started),
            asked: Mutex::new(started),
            started,
        })
    }

    /// Runs until the agent stops.
    pub(crate) async fn run(self: Arc<Self>, mut worker: Worker) {
        let mut told = Told::default();
        loop {
            worker.turn(self.options.look_every).await;
            self.announce(&mut told).await;
            let mut due: Vec<GroupId> =
                self.host.groups().into_iter().filter(|group| self.is_due(*group)).collect();
            due.extend(self.moved().await);
            due.sort_unstable();
            due.dedup();
            self.fetch_missing().await;
            if due.is_empty() {
                continue;
            }
            worker.begin(Some(due.len() as u64));
            let mut failed = None;
            for group in due {
                self.attempts.begin(group, self.core.env.clock.now());
                match self.take(group).await {
                    Ok((_, bytes)) => {
                        self.attempts.succeeded(group);
                        worker.did(1, bytes);
                    }
                    Err(error) => {
                        self.attempts.failed(group);
                        tracing::warn!(group = group.0, %error, "taking a checkpoint of metadata");
                        failed = Some(format!("group {}: {error}", group.0));
                    }
                }
            }
            worker.end(failed);
        }
    }

    /// Follows the logs until the agent stops. A checkpoint of a large group takes long: nothing waits
    /// for it here.
    pub(crate) async fn run_tails(self: Arc<Self>, mut worker: Worker) {
        let mut last: Option<String> = None;
        loop {
            worker.turn(self.options.look_every).await;
            let mut failed = None;
            let mut done = 0;
            for group in self.host.groups() {
                match self.follow(group).await {
                    Ok(tails) => done += tails,
                    Err(error) => {
                        let why = format!("group {}: {error}", group.0);
                        if last.as_ref() != Some(&why) {
                            tracing::warn!(group = group.0, %error, "following the log of metadata");
                        }
                        failed = Some(why);
                    }
                }
            }
            if done > 0 || failed != last {
                worker.did(done, 0);
                worker.end(failed.clone());
            }
            last = failed;
        }
    }

    /// The newest record of each group that this node keeps.
    pub fn records(&self) -> Vec<RecordHead> {
        let mut newest: BTreeMap<GroupId, RecordHead> = BTreeMap::new();
        for head in self.shelf.heads() {
            let kept = newest.entry(head.group).or_insert(head);
            if kept.age_order() < head.age_order() {
                *kept = head;
            }
        }
        newest.into_values().collect()
    }

    /// How old a group's checkpoint may get before something must be wrong.
    pub fn overdue_after(&self, group: GroupId) -> Duration {
        limits::CHECKPOINT_OVERDUE_TIMES * self.every(group)
    }

    /// Groups of the map without a checkpoint that is recent enough, and the age of the one there is.
    pub fn overdue(&self) -> Vec<(GroupId, Option<Duration>)> {
        let records: BTreeMap<GroupId, RecordHead> =
            self.records().into_iter().map(|head| (head.group, head)).collect();
        let running = self.core.env.clock.now().since(self.started);
        let age = |head: &RecordHead| self.age(head.group, head);
        let groups = self.core.map.current().groups.keys().copied().collect::<Vec<_>>();
        groups
            .into_iter()
            .map(|group| (group, records.get(&group).map(age)))
            .filter(|(group, age)| {
                let limit = self.overdue_after(*group);
                running > limit && age.is_none_or(|age| age > limit)
            })
            .collect()
    }

    /// Restores there were, as the root group knows.
    pub async fn restores(&self) -> Result<Restores, GridError> {
        match self.core.meta.root_ask(&RootQuery::Restores).await? {
            RootAnswer::Restores(restores) => Ok(restores),
            _ => Err(internal("answer to a query for restores")),
        }
    }

    /// Lets deletes happen again, everywhere: what the groups do not know is garbage from now on.
    pub async fn thaw(&self, incarnation: u64) -> Result<(), GridError> {
        for group in self.core.map.metadata_groups() {
            self.core.meta.command(group, &NamespaceCommand::ForgetGaps).await?;
        }
        self.core.meta.root_command(&RootCommand::Thaw { incarnation }).await?;
        Ok(())
    }

    /// Whether a restore froze deletes, as far as this node knows.
    pub fn is_frozen(&self) -> bool {
        self.core.deletions.is_frozen()
    }

    /// Groups whose records on this node were found damaged, and that no other record came of since.
    pub fn damaged(&self) -> Vec<GroupId> {
        self.shelf.damaged()
    }

    /// Groups of which a lost replica stands aside on this node.
    pub async fn set_aside(&self) -> Result<Vec<GroupId>, GridError> {
        let host = self.host.clone();
        let groups = self.core.env.exec.blocking(move || host.set_aside()).await;
        groups.map_err(|error| GridError::Unavailable(error.to_string()))
    }

    /// Groups of the map.
    pub fn groups(&self) -> Vec<GroupId> {
        self.core.map.current().groups.keys().copied().collect()
    }

    fn every(&self, group: GroupId) -> Duration {
        if group == ROOT { self.options.root_every } else { self.options.every }
    }

    /// Whether it is this node's turn to take one, and time.
    fn is_due(&self, group: GroupId) -> bool {
        let every = self.every(group);
        let now = self.core.env.clock.now();
        let newest = self.shelf.newest(group);
        if self.is_stuck(group) {
            return !self.attempts.rests(group, limits::TAIL_CHECKPOINT_PAUSE, now)
                && self.is_mine(group);
        }
        // What was never copied is left without a copy no longer than the root group is.
        let pause = if newest.is_some() { every } else { every.min(self.options.root_every) };
        let is_early = now.since(self.started) < pause || self.attempts.rests(group, pause, now);
        if is_early || !self.is_mine(group) {
            return false;
        }
        let Some(newest) = newest else { return true };
        let age = self.age(group, &newest);
        let has_changed = match self.host.status(group) {
            Ok(status) => status.applied_index > newest.index,
            Err(_) => false,
        };
        // Of a group in which nothing happens as well, now and then: blocks that checkpoints moved away
        // from stay until all groups' are newer, and an old one must mean that something is wrong.
        age >= every && (has_changed || age >= limits::CHECKPOINT_QUIET_TIMES * every)
    }

    /// How old a checkpoint is by the wall clock. One from farther ahead than two clocks may differ
    /// was taken where the clock was wrong: nobody knows how old it is, so that another is due.
    fn age(&self, group: GroupId, head: &RecordHead) -> Duration {
        let now_ms = self.core.meta.now_ms();
        let ahead = Duration::from_millis(head.taken_ms.saturating_sub(now_ms));
        if ahead > self.every(group) {
            return Duration::MAX;
        }
        Duration::from_millis(now_ms.saturating_sub(head.taken_ms))
    }

    /// Whether checkpoints of a group are this node's to take.
    fn is_mine(&self, group: GroupId) -> bool {
        if !self.core.keys.holds_master() {
            return false;
        }
        let Ok(status) = self.host.status(group) else { return false };
        let Some(leader) = status.leader.leader else { return false };
        if status.leader.is_me {
            return true;
        }
        let map = self.core.map.current();
        let is_gateway = |node: NodeId| map.node(node).is_some_and(|node| node.roles.gateway);
        if is_gateway(leader) {
            return false;
        }
        let is_dead = |node: NodeId| self.core.map.node_hint(&map, node) == NodeHint::Dead;
        let mut voters = status.members.iter().filter(|member| member.voter);
        let first = voters.find(|member| is_gateway(member.node) && !is_dead(member.node));
        first.is_some_and(|member| member.node == self.core.node)
    }

    /// Nodes that keep records.
    fn keepers<'map>(&self, map: &'map Topology) -> impl Iterator<Item = &'map Node> {
        map.nodes.values().filter(|node| {
            node.class == NodeClass::Stable
                && matches!(node.state, NodeState::Active | NodeState::Joining | NodeState::Leaving)
        })
    }
}

/// Whom this node told of the restores there were.
#[derive(Default)]
struct Told {
    incarnation: u64,
    nodes: BTreeSet<NodeId>,
}
