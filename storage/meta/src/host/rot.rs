//! Rot in what a node keeps of its groups: found, counted, and the replica taken out.
//!
//! | rotten | recovery |
//! |---|---|
//! | a segment of a Raft log | the log is set aside; every replica that had entries in it returns under a new id |
//! | a replica's rows (tables, blobs, manifest) | the replica stops and is marked; it returns under a new id |
//! | a replica's identity | as above, if met at a start; written again if the replica runs |
//! | one copy of a floor | written again; at a start the other copy counts |
//! | both copies of a floor | the replica does not start; it returns under a new id |
//!
//! A replica returns as one whose disk was lost does (see `members`): its group's leader hears that it
//! will not run again, and takes the node in under an incarnation never used before, which gets a
//! snapshot. Nothing rotten is removed before that: if a majority were to be taken out, an
//! administrator still has the files. A voter without which the group could not go on, be it the only
//! one, stays with what still verifies: nobody could take it in again.
//!
//! *Owns* the marks of rotten replicas: a file in the group's directory, which goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Disk, KvVerify, OpenMode};
use openraft::errors::Fatal;
use parking_lot::Mutex;

use super::{Group, MetaError, MetaHost, ROOT_GROUP, group_dir, open_log, set_aside};
use crate::limits::ROT_LOOK_EVERY;
use crate::raft::encode::encode_bytes;
use crate::raft::log::LogDamage;
use crate::raft::types::{RaftId, node_of};
use crate::raft::wire::{GroupHead, INVITE, Invited};

/// Says that a replica's state was found rotten; what was found follows.
const MARK_FILE: &str = "rotten";
const MARK_HEAD: &str = "NXGMROT 1\n";

/// What can rot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetaRotKind {
    /// A Raft log's segment.
    Log,
    /// The rows of a replica.
    State,
    /// A replica's identity file.
    Identity,
    /// A copy of a floor.
    Floor,
}

impl MetaRotKind {
    /// Its name, for labels.
    pub fn name(self) -> &'static str {
        match self {
            MetaRotKind::Log => "raft_log",
            MetaRotKind::State => "state",
            MetaRotKind::Identity => "identity",
            MetaRotKind::Floor => "floor",
        }
    }
}

/// Rot met since the start, by kind.
#[derive(Default)]
pub(crate) struct RotCounts(Mutex<BTreeMap<MetaRotKind, u64>>);

impl RotCounts {
    pub(crate) fn add(&self, kind: MetaRotKind) {
        *self.0.lock().entry(kind).or_default() += 1;
    }
}

/// Whether a replica was found rotten before; blocks.
pub(crate) fn is_marked(disk: &dyn Disk, group_dir: &Path) -> std::io::Result<bool> {
    disk.exists(&group_dir.join(MARK_FILE))
}

fn mark(disk: &dyn Disk, group_dir: &Path, why: &str) -> std::io::Result<()> {
    let file = disk.open(&group_dir.join(MARK_FILE), OpenMode::OpenOrCreate)?;
    file.write_at(format!("{MARK_HEAD}{why}\n").as_bytes(), 0)?;
    file.sync()?;
    disk.sync_dir(group_dir)
}

/// What a pass of [`MetaHost::scrub`] has before it.
enum Unit {
    /// A segment of the root group's log or of the others', from this number on.
    Log { root: bool, segment: u64 },
    /// Floors of the replicas of a log.
    Floors { root: bool },
    /// The rows and the identity of a replica.
    State(GroupId),
}

/// Where a pass over a node's metadata stands; the default is before the first.
#[derive(Default)]
pub struct MetaScrub {
    ahead: Vec<Unit>,
    /// The rows of one replica. It is not held itself: it may be replaced between two steps.
    walk: Option<(GroupId, RaftId, Box<dyn KvVerify>)>,
}

/// What one step of a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaScrubStep {
    /// Bytes read.
    pub bytes: u64,
    /// The pass is complete.
    pub ended: bool,
    /// What was found rotten. Its recovery has begun.
    pub found: Option<(MetaRotKind, String)>,
}

impl MetaHost {
    /// Rot met since the start, by kind.
    pub fn rot(&self) -> BTreeMap<MetaRotKind, u64> {
        self.inner.rot.0.lock().clone()
    }

    /// Reads about `bytes` more of this node's logs and states against their checksums.
    pub async fn scrub(
        &self,
        pass: &mut MetaScrub,
        bytes: u64,
    ) -> Result<MetaScrubStep, MetaError> {
        let mut step = MetaScrubStep::default();
        if let Some((group, raft_id, walk)) = pass.walk.take() {
            self.scrub_rows(pass, (group, raft_id), walk, bytes, &mut step).await;
            step.ended = pass.walk.is_none() && pass.ahead.is_empty();
            return Ok(step);
        }
        if pass.ahead.is_empty() {
            pass.ahead = self.groups().into_iter().map(Unit::State).rev().collect();
            for root in [false, true] {
                pass.ahead.push(Unit::Floors { root });
                pass.ahead.push(Unit::Log { root, segment: 0 });
            }
        }
        match pass.ahead.pop() {
            None => {}
            Some(Unit::Log { root, segment }) => {
                match self.log_at(root).verify(segment).await {
                    Ok(None) => {}
                    Ok(Some((number, bytes))) => {
                        step.bytes = bytes;
                        pass.ahead.push(Unit::Log { root, segment: number + 1 });
                    }
                    // Counted as it is acted upon.
                    Err(damage @ LogDamage::Damaged { .. }) => {
                        step.found = Some((MetaRotKind::Log, damage.to_string()));
                    }
                    Err(LogDamage::Io(error)) => return Err(error.into()),
                }
            }
            Some(Unit::Floors { root }) => {
                for group in self.log_at(root).verify_floors().await? {
                    self.inner.rot.add(MetaRotKind::Floor);
                    tracing::error!(group, "a copy of a floor was rotten and is written again");
                    step.found = Some((MetaRotKind::Floor, format!("floor of group {group}")));
                }
            }
            Some(Unit::State(id)) => {
                // It may have left meanwhile.
                if let Ok(group) = self.running(id) {
                    self.scrub_state(pass, group, &mut step).await?;
                }
            }
        }
        step.ended = pass.walk.is_none() && pass.ahead.is_empty();
        Ok(step)
    }

    async fn scrub_state(
        &self,
        pass: &mut MetaScrub,
        group: Arc<Group>,
        step: &mut MetaScrubStep,
    ) -> Result<(), MetaError> {
        let id = group.id.0;
        let store = group.store.clone();
        let exec = &self.inner.env.exec;
        if exec.blocking(move || store.verify_identity()).await? {
            self.inner.rot.add(MetaRotKind::Identity);
            tracing::error!(group = id, "a replica's identity was rotten and is written again");
            step.found = Some((MetaRotKind::Identity, format!("identity in group {id}")));
        }
        let store = group.store.clone();
        match exec.blocking(move || store.verify()).await {
            Ok(walk) => pass.walk = Some((group.id, group.raft_id, walk)),
            Err(nexusgrid_env::KvError::Corrupt(why)) => {
                step.found = Some((MetaRotKind::State, format!("group {id}: {why}")));
            }
            Err(error) => return Err(MetaError::Storage(error.to_string())),
        }
        Ok(())
    }

    async fn scrub_rows(
        &self,
        pass: &mut MetaScrub,
        (group, raft_id): (GroupId, RaftId),
        mut walk: Box<dyn KvVerify>,
        bytes: u64,
        step: &mut MetaScrubStep,
    ) {
        let read = move || {
            let read = walk.step(bytes);
            (walk, read)
        };
        let (walk, read) = self.inner.env.exec.blocking(read).await;
        match read {
            Ok(Some(read)) => {
                step.bytes = read;
                pass.walk = Some((group, raft_id, walk));
            }
            Ok(None) => {}
            // What was replaced meanwhile took its files along.
            Err(_) if !self.running(group).is_ok_and(|now| now.raft_id == raft_id) => {}
            Err(error) => {
                step.found = Some((MetaRotKind::State, format!("group {}: {error}", group.0)));
            }
        }
    }

    /// Acts on rot, whoever met it; ends with the agent.
    pub(crate) async fn watch_rot(self) {
        let mut told = BTreeSet::new();
        loop {
            self.inner.env.clock.sleep(ROT_LOOK_EVERY).await;
            for root in [true, false] {
                if let Some(why) = self.log_at(root).rotten() {
                    self.give_up_log(root, &why, &mut told).await;
                }
            }
            for id in self.groups() {
                let Ok(group) = self.running(id) else { continue };
                if let Some(why) = group.store.rotten() {
                    self.condemn(&group, &why, &mut told).await;
                }
            }
        }
    }

    /// Whether rot was found in what a replica stands on.
    pub(crate) fn is_rotten(&self, group: &Group) -> bool {
        group.store.rotten().is_some() || self.log_at(group.id == ROOT_GROUP).rotten().is_some()
    }

    /// Whether the group can go on without this replica: a majority of its voters runs elsewhere and
    /// knows of no rot. Otherwise taking it out would be the end of the group; if all find rot at
    /// once, then what finds it is wrong. A replica is rotten before it asks, so that of two that ask
    /// each other at once neither counts the other.
    async fn is_dispensable(&self, group: &Group) -> bool {
        let metrics = group.metrics();
        let [voters] = metrics.membership_config.membership().get_joint_config().as_slice() else {
            return false;
        };
        if !voters.contains(&group.raft_id) {
            return true;
        }
        let head = encode_bytes(&GroupHead { group: group.id, stale: true });
        let others = voters.iter().copied().filter(|id| *id != group.raft_id);
        let asked = others.map(|id| {
            let head = head.clone();
            async move {
                let answer = self.ask_member::<Invited>(node_of(id), INVITE, head).await;
                answer.is_ok_and(|answer| answer.running && answer.have == id)
            }
        });
        let sound = join_all(asked).await.into_iter().filter(|is_sound| *is_sound).count();
        sound > voters.len() / 2
    }

    /// Takes a replica with rotten rows out.
    async fn condemn(&self, group: &Arc<Group>, why: &str, told: &mut BTreeSet<GroupId>) {
        let id = group.id;
        if !self.is_dispensable(group).await {
            if told.insert(id) {
                self.inner.rot.add(MetaRotKind::State);
                tracing::error!(
                    group = id.0,
                    why,
                    "a replica is rotten and the group cannot go on without it: bring other voters \
                     back, or restore it from a checkpoint"
                );
            }
            return;
        }
        let _one = self.change_lock().await;
        if !self.running(id).is_ok_and(|now| now.raft_id == group.raft_id) {
            return;
        }
        self.inner.rot.add(MetaRotKind::State);
        tracing::error!(
            group = id.0,
            raft_id = group.raft_id,
            why,
            "a replica's state is rotten: it leaves its group and returns under a new id"
        );
        self.inner.groups.write().remove(&id);
        let _ = group.raft.shutdown().await;
        let (disk, dir) = (self.inner.env.disk.clone(), group_dir(&self.inner.dir, id));
        let reason = why.to_owned();
        let marked = self.inner.env.exec.blocking(move || mark(&*disk, &dir, &reason)).await;
        if let Err(error) = marked {
            // Until the next start the replica is out all the same; then the rot is met again.
            tracing::warn!(group = id.0, %error, "marking a rotten replica");
        }
    }

    /// Sets a damaged log aside, with all replicas that wrote to it, and begins a new one.
    async fn give_up_log(&self, root: bool, why: &str, told: &mut BTreeSet<GroupId>) {
        let here = || self.groups().into_iter().filter(|id| (*id == ROOT_GROUP) == root);
        let groups: Vec<Arc<Group>> = here().filter_map(|id| self.running(id).ok()).collect();
        for group in &groups {
            if self.is_dispensable(group).await {
                continue;
            }
            if told.insert(group.id) {
                self.inner.rot.add(MetaRotKind::Log);
                tracing::error!(
                    group = group.id.0,
                    why,
                    "the log of a replica is damaged and its group cannot go on without it: bring \
                     other voters back, or restore it from a checkpoint"
                );
            }
            return;
        }
        let _one = self.change_lock().await;
        self.inner.rot.add(MetaRotKind::Log);
        tracing::error!(
            why,
            groups = ?groups.iter().map(|group| group.id.0).collect::<Vec<_>>(),
            "the Raft log is damaged and set aside: its replicas return under new ids"
        );
        for group in &groups {
            self.inner.groups.write().remove(&group.id);
        }
        // First, for a core may wait for it.
        self.log_at(root).close(why).await;
        for group in groups {
            let _ = group.raft.shutdown().await;
        }
        let dir = if root { self.inner.dir.join("root") } else { self.inner.dir.clone() };
        let renewed = match set_aside(&self.inner.env, &dir).await {
            Ok(()) => open_log(&self.inner.env, &dir, &self.inner.options).await,
            Err(error) => Err(error),
        };
        match renewed {
            Ok((log, _)) => {
                let slot = if root { &self.inner.root_log } else { &self.inner.log };
                *slot.write() = log;
            }
            // The closed log refuses everything; the next start sets it aside again.
            Err(error) => tracing::error!(%error, "beginning a new Raft log"),
        }
    }
}

impl Group {
    /// Whether a storage error ended this replica: it does not run again in this process.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.metrics().running_state, Err(Fatal::StorageError(_)))
    }
}
