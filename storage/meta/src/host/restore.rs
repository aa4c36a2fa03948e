//! A group's state out of one host, and a new group out of such a state.
//!
//! ```text
//!   export:  stable view of the replica here ──▶ stream (crate::export)
//!   found:   stream ──▶ restoring-<group>/ ──(whole)──▶ tails of the log, one by one (crate::tail)
//!              ──(no more)──▶ in place of what was here, one voter: this node
//! ```
//! A group that is founded from a stream begins where no entry of the lost one can have been: far
//! behind its last index, so that nothing that is made of an index (sessions, contents, versions of
//! the map) is ever given twice; and above a *base* generation, so that no id of a replica is (I15).
//! The base is also how replicas of the lost group are told from those of the new one.
//!
//! The identity is written last: a founding that was cut short leaves no replica.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Batch, Disk, Durability, Env, Kv, KvError, KvRead, NodeId};
use openraft::storage::RaftLogStorage;
use openraft::vote::{RaftLeaderId, RaftVote};

use super::{MetaError, MetaHost, group_dir};
use crate::export::{Export, ExportHead, Import};
use crate::machine::{ApplyContext, StateMachine};
use crate::raft::encode::encode_bytes;
use crate::raft::log::GroupLog;
use crate::raft::log::floor::FloorFile;
use crate::raft::state::{self, Identity};
use crate::raft::types::{
    LogId, MetaTypes, RaftId, StoredMembership, Vote, generation_of, raft_id,
};
use crate::raft::wire::{GroupHead, INVITE, Invited};
use crate::tail::{Deed, LogPlace, LogTail};

/// Where a group's state comes in, beside the groups.
const DIR_PREFIX: &str = "restoring-";
/// Below a host's directory: what replicas of groups that were lost had, of each group the newest.
/// Nobody removes it but an administrator, or the next restore of the group.
const LOST_PREFIX: &str = "lost-";

/// Number of the store that it comes into.
const INCOMING_STORE: u64 = 0;

type LeaderId = openraft::type_config::alias::LeaderIdOf<MetaTypes>;

/// Where a founded group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Index of its first state: beyond all that the lost group can have reached.
    pub index: u64,
    /// Its replicas have higher generations, those of the lost group have not.
    pub generation: u16,
}

/// What a node says of its replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its generation; 0: it has none.
    pub generation: u16,
    /// Whether it runs.
    pub running: bool,
}

fn stored(error: KvError) -> MetaError {
    MetaError::Storage(error.to_string())
}

impl MetaHost {
    /// A stable view of the replica here, to be read out. Possibly old. Blocks.
    pub fn export(&self, group: GroupId) -> Result<Export, MetaError> {
        let replica = self.running(group)?;
        let view = replica.store.kv().snapshot().map_err(stored)?;
        let (term, index) = state::applied_in(&*view)?.unwrap_or_default();
        let generation = state::highest_generation(&*view)?;
        let head = ExportHead { group, term, index, generation };
        Ok(Export::new(view, head, replica.store.machine().families()))
    }

    /// Asks a node for its replica of a group; nothing changes there.
    pub async fn look_at(&self, node: NodeId, group: GroupId) -> Result<ReplicaView, MetaError> {
        if node == self.inner.node {
            let have = self.sure_identity(group).await?.map_or(0, |identity| identity.raft_id);
            let running = self.running(group).is_ok();
            return Ok(ReplicaView { generation: generation_of(have), running });
        }
        let head = encode_bytes(&GroupHead { group, stale: true });
        let invited: Invited = self
            .ask_member(node, INVITE, head)
            .await
            .map_err(|why| MetaError::CannotJoin(node, why))?;
        Ok(ReplicaView { generation: generation_of(invited.have), running: invited.running })
    }

    /// Lets go of the replica here if it is of a group that was lost and founded anew above
    /// `generation`. Says whether there was one.
    pub async fn discard_lost(&self, group: GroupId, generation: u16) -> Result<bool, MetaError> {
        let _one = self.change_lock().await;
        let have = self.sure_identity(group).await?;
        let is_lost = have.is_some_and(|have| generation_of(have.raft_id) <= generation);
        if is_lost {
            self.keep_lost(group).await?;
            self.inner.hints.lock().remove(&group);
            tracing::warn!(
                group = group.0,
                "the replica here was of a group that was lost and restored: set aside"
            );
        }
        Ok(is_lost)
    }

    /// Ends the replica here and sets what it has aside: it may be newer than the checkpoint that took
    /// its place, and is the only copy of that. The one set aside before goes.
    async fn keep_lost(&self, group: GroupId) -> Result<(), MetaError> {
        let running = self.inner.groups.write().remove(&group);
        if let Some(running) = running {
            let _ = running.raft.shutdown().await;
        }
        self.log_of(group).drop_group(group.0).await?;
        let disk = self.inner.env.disk.clone();
        let dir = group_dir(&self.inner.dir, group);
        let aside = self.inner.dir.join(format!("{LOST_PREFIX}{}", group.0));
        let moved = self.inner.env.exec.blocking(move || {
            if !disk.exists(&dir)? {
                return Ok(());
            }
            disk.remove_dir_all(&aside)?;
            disk.rename(&dir, &aside)?;
            for parent in [dir.parent(), aside.parent()].into_iter().flatten() {
                disk.sync_dir(parent)?;
            }
            std::io::Result::Ok(())
        });
        moved.await?;
        Ok(())
    }

    /// Begins to take a group's state in.
    pub async fn begin_found(&self, group: GroupId) -> Result<Founding, MetaError> {
        let machine = (self.inner.machines)(group);
        let dir = self.inner.dir.join(format!("{DIR_PREFIX}{}", group.0));
        let (env, at) = (self.inner.env.clone(), dir.clone());
        let options = state::options(&*machine);
        let kv = self
            .inner
            .env
            .exec
            .blocking(move || {
                env.disk.remove_dir_all(&at)?;
                env.disk.create_dir_all(&at)?;
                env.kv.open(&state::store_dir(&at, INCOMING_STORE), &options).map_err(state::failed)
            })
            .await?;
        let import = Import::new(machine.families());
        let host = self.clone();
        Ok(Founding { host, group, machine, dir, kv, import, followed: None })
    }

    /// Groups of which a lost replica stands aside on this node: one each, the newest. Blocks.
    pub fn set_aside(&self) -> Result<Vec<GroupId>, MetaError> {
        let mut groups = Vec::new();
        for path in self.inner.env.disk.list(&self.inner.dir)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_prefix(LOST_PREFIX).and_then(|number| number.parse().ok());
            groups.extend(number.map(GroupId));
        }
        groups.sort_unstable();
        Ok(groups)
    }
}

/// A group's state on its way in. Dropped before its end, it leaves a directory that the next try,
/// or the next start, removes.
pub struct Founding {
    host: MetaHost,
    group: GroupId,
    machine: Arc<dyn StateMachine>,
    dir: PathBuf,
    kv: Arc<dyn Kv>,
    import: Import,
    /// The head as it is with the tails that followed.
    followed: Option<ExportHead>,
}

impl Founding {
    fn head(&self) -> Result<ExportHead, MetaError> {
        let whole = || self.import.finish().map_err(|error| MetaError::Refused(error.to_string()));
        self.followed.map_or_else(whole, Ok)
    }

    /// How far the state has come; an error before the stream is whole.
    pub fn reached(&self) -> Result<LogPlace, MetaError> {
        let head = self.head()?;
        Ok(LogPlace { index: head.index, term: head.term })
    }

    /// Applies what a tail holds beyond that; says how far the state has come. A tail that does not
    /// fit changes nothing.
    pub async fn follow(&mut self, tail: LogTail) -> Result<LogPlace, MetaError> {
        let head = self.head()?;
        let (group, machine) = (self.group, Arc::clone(&self.machine));
        if tail.group() != group {
            return Err(MetaError::Refused("a tail of another group".to_owned()));
        }
        let (kv, env) = (Arc::clone(&self.kv), self.host.inner.env.clone());
        let followed = self.host.inner.env.exec.blocking(move || {
            let mut head = head;
            let reached = LogPlace { index: head.index, term: head.term };
            let entries = match tail.behind(reached) {
                Ok(entries) => entries,
                Err(error) => return (head, Err(MetaError::Refused(error.to_string()))),
            };
            for (place, deed) in entries {
                let context = ApplyContext { index: place.index, group };
                let applied = deed.apply(&*machine, &*kv, &context).and_then(|applied| {
                    env.invariants.enter(applied.checks);
                    kv.write(applied.batch, Durability::Unsynced)
                });
                // Entry by entry: what was applied before stands.
                if let Err(error) = applied {
                    return (head, Err(stored(error)));
                }
                (head.index, head.term) = (place.index, place.term);
                if let Deed::Members(generation) = deed {
                    head.generation = head.generation.max(*generation);
                }
            }
            (head, Ok(LogPlace { index: head.index, term: head.term }))
        });
        let (head, outcome) = followed.await;
        self.followed = Some(head);
        outcome
    }

    /// Takes a piece of the stream, of any size.
    pub async fn take(&mut self, piece: &[u8]) -> Result<(), MetaError> {
        let batches =
            self.import.take(piece).map_err(|error| MetaError::Refused(error.to_string()))?;
        if batches.is_empty() {
            return Ok(());
        }
        let kv = Arc::clone(&self.kv);
        let written = self.host.inner.env.exec.blocking(move || {
            batches.into_iter().try_for_each(|batch| kv.write(batch, Durability::Unsynced))
        });
        written.await.map_err(stored)
    }

    /// All has come: `adapt` says what the new group has otherwise than the lost one had, and the
    /// group begins, with this node as its only voter, in place of any replica that was here.
    pub async fn finish(
        self,
        beginning: Beginning,
        adapt: impl FnOnce(&dyn KvRead, &ExportHead) -> Result<Batch, KvError> + Send + 'static,
    ) -> Result<RaftId, MetaError> {
        let head = self.head()?;
        let Founding { host, group, dir, kv, .. } = self;
        if head.group != group || head.index >= beginning.index {
            return Err(MetaError::Refused("a checkpoint of another group or time".to_owned()));
        }
        let node = host.inner.node;
        let generation =
            beginning.generation.checked_add(1).filter(|_| head.generation <= beginning.generation);
        let generation =
            generation.ok_or_else(|| MetaError::Refused("generations are used up".to_owned()))?;
        let id = raft_id(node, generation);
        let leader = LeaderId::new(head.term + 1, id);
        let log_id = LogId { leader_id: leader.to_committed(), index: beginning.index };
        let membership =
            openraft::Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, node)]))
                .map_err(|error| MetaError::Refused(error.to_string()))?;
        let membership = StoredMembership::new(Some(log_id), membership);
        host.inner
            .env
            .exec
            .blocking(move || {
                let mut batch = adapt(&*kv, &head)?;
                state::begin(&mut batch, log_id, &membership, beginning.generation);
                kv.write(batch, Durability::Synced)?;
                kv.flush()
            })
            .await
            .map_err(stored)?;

        let _one = host.change_lock().await;
        host.keep_lost(group).await?;
        let log = host.log_of(group).clone();
        let mut group_log = GroupLog::new(log.clone(), group.0, None);
        group_log.save_vote(&Vote::from_leader_id(leader, false)).await?;
        group_log.purge(log_id).await?;
        log.sync().await?;
        let (env, to, floor) =
            (host.inner.env.clone(), group_dir(&host.inner.dir, group), log.floor_of(group.0));
        host.inner
            .env
            .exec
            .blocking(move || put_in_place(&env, &dir, &to, &floor, Identity::new(group, id)))
            .await?;
        host.inner.hints.lock().remove(&group);
        host.start(group).await?;
        Ok(id)
    }
}

/// Removes what a founding that was cut short left below a host's directory. Blocks.
pub(super) fn remove_leavings(disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
    for path in disk.list(dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(DIR_PREFIX) {
            disk.remove_dir_all(&dir.join(name))?;
        }
    }
    Ok(())
}

fn put_in_place(
    env: &Env,
    from: &Path,
    to: &Path,
    floor: &crate::raft::log::Floor,
    identity: Identity,
) -> std::io::Result<()> {
    let disk = &*env.disk;
    if let Some(parent) = to.parent() {
        disk.create_dir_all(parent)?;
    }
    let (mut file, _) = FloorFile::load(env.disk.clone(), from)?;
    file.write(floor)?;
    let store = |number| state::store_dir(from, number);
    disk.rename(&store(INCOMING_STORE), &store(identity.store))?;
    disk.sync_dir(from)?;
    disk.rename(from, to)?;
    for parent in to.ancestors().skip(1).take(2) {
        disk.sync_dir(parent)?;
    }
    identity.store(disk, to)
}
