//! The groups of one node: starts them, leads requests to their leaders, keeps their members right.
//!
//! ```text
//!   propose / query ──▶ own replica? leader? ──▶ openraft ──▶ state
//!                        │ else: RPC to the leader (commands), read index from it (queries),
//!                        └ or to any voter of the directory
//! ```
//! *Owns* the directory of the node's Raft logs and states:
//! `root/log`, `root/group`, `log`, `groups/<id>`; the root group has a log of its own, so that one
//! bucket's writes cannot delay its heartbeats. *Keeps* I6 (with `raft::state`), I12, I15.

mod aside;
mod ask;
mod confirm;
mod error;
mod group;
mod incoming;
pub mod inspect;
mod members;
mod memory;
mod news;
mod options;
pub mod plan;
pub(crate) mod remember;
pub mod restore;
mod rot;
mod service;
mod standing;
mod tail;
#[cfg(test)]
mod tests;
pub(crate) mod watchers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Env, KvRead, NodeId, Rpc, RpcService};
use openraft::Raft;
use openraft::rt::deterministic_rng::DeterministicRng;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use error::MetaError;
pub(crate) use group::Group;
pub use group::{GroupStatus, LeaderView, MemberView};
pub use members::{CandidateSource, VoterKeeper};
pub use memory::{Asking, Changing, FactId, Lost, Memory, MemoryFigures};
pub use options::HostOptions;
pub use remember::{Fact, Remembered, WatchCall, Watched};
pub use rot::{MetaRotKind, MetaScrub, MetaScrubStep};
pub use watchers::{Mark, Recent, Touched, Watcher, mark};

use crate::machine::StateMachine;
use crate::raft::log::floor::FloorFile;
use crate::raft::log::{Floor, GroupLog, LogDamage, SegmentLog};
use crate::raft::network::Connector;
use crate::raft::state::{Identity, Machine, StateStore};
use crate::raft::types::{RaftId, raft_id};

type Runtime = DeterministicRng<openraft_rt_tokio::TokioRuntime>;

/// The root group.
pub const ROOT_GROUP: GroupId = GroupId(0);

/// Where groups this node has no replica of can be asked.
pub trait GroupDirectory: Send + Sync + 'static {
    /// Nodes that voted in `group` when last heard of; empty if it is not known.
    fn voters(&self, group: GroupId) -> Vec<NodeId>;
}

/// Gives the state machine of a group.
pub type Machines = Arc<dyn Fn(GroupId) -> Arc<dyn StateMachine> + Send + Sync>;

/// How fresh a query's answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every command acknowledged before the query was made.
    Linearizable,
    /// Whatever the nearest replica holds.
    Stale,
}

pub(crate) struct Inner {
    pub env: Env,
    pub rpc: Arc<dyn Rpc>,
    pub node: NodeId,
    pub dir: PathBuf,
    pub machines: Machines,
    pub directory: Arc<dyn GroupDirectory>,
    pub options: HostOptions,
    /// Another takes its place when it is found damaged.
    root_log: RwLock<SegmentLog>,
    log: RwLock<SegmentLog>,
    pub rot: rot::RotCounts,
    pub groups: RwLock<BTreeMap<GroupId, Arc<Group>>>,
    /// Leaders that answered last, for groups without a replica here.
    pub hints: Mutex<BTreeMap<GroupId, NodeId>>,
    pub nonces: Mutex<BTreeMap<GroupId, u64>>,
    /// Whether the groups on disk were started (or refused).
    pub begun: AtomicBool,
    /// Starting, creating and joining, one at a time.
    changing: tokio::sync::Mutex<()>,
}

/// The groups of one node. Clones are the same host.
#[derive(Clone)]
pub struct MetaHost {
    pub(crate) inner: Arc<Inner>,
}

impl MetaHost {
    /// Opens the logs in `dir`; no group runs before [`MetaHost::start_existing`]. Calls of other
    /// nodes must reach [`MetaHost::service`].
    ///
    /// A damaged log is set aside; the groups that had entries in it will refuse to start
    /// ([`MetaError::BelowFloor`]).
    pub async fn open(
        env: Env,
        rpc: Arc<dyn Rpc>,
        node: NodeId,
        dir: PathBuf,
        machines: Machines,
        directory: Arc<dyn GroupDirectory>,
        options: HostOptions,
    ) -> Result<MetaHost, MetaError> {
        let (root_log, root_damaged) = open_log(&env, &dir.join("root"), &options).await?;
        let (log, damaged) = open_log(&env, &dir, &options).await?;
        let rot = rot::RotCounts::default();
        for _ in [root_damaged, damaged].into_iter().filter(|damaged| *damaged) {
            rot.add(MetaRotKind::Log);
        }
        let host = MetaHost {
            inner: Arc::new(Inner {
                env: env.clone(),
                rpc,
                node,
                dir,
                machines,
                directory,
                options,
                root_log: RwLock::new(root_log),
                log: RwLock::new(log),
                rot,
                groups: RwLock::default(),
                hints: Mutex::default(),
                nonces: Mutex::default(),
                begun: AtomicBool::new(false),
                changing: tokio::sync::Mutex::new(()),
            }),
        };
        drop(env.exec.spawn(host.clone().step_down_on_suspend()));
        drop(env.exec.spawn(host.clone().watch_log_bytes()));
        drop(env.exec.spawn(host.clone().watch_standing()));
        drop(env.exec.spawn(host.clone().watch_rot()));
        drop(env.exec.spawn(host.clone().watch_aside()));
        Ok(host)
    }

    /// What other nodes call.
    pub fn service(&self) -> Arc<dyn RpcService> {
        Arc::new(service::MetaService { host: self.clone() })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// Starts every group that has a directory here; says which did not start, and why.
    pub async fn start_existing(&self) -> Result<Vec<(GroupId, Result<(), MetaError>)>, MetaError> {
        let (disk, dir) = (self.inner.env.disk.clone(), self.inner.dir.clone());
        let found = self
            .inner
            .env
            .exec
            .blocking(move || {
                let mut found = Vec::new();
                restore::remove_leavings(&*disk, &dir)?;
                if has_replica(&*disk, &group_dir(&dir, ROOT_GROUP))? {
                    found.push(ROOT_GROUP);
                }
                let groups = dir.join("groups");
                disk.create_dir_all(&groups)?;
                for path in disk.list(&groups)? {
                    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                    if let Ok(number) = name.parse::<u32>()
                        && has_replica(&*disk, &group_dir(&dir, GroupId(number)))?
                    {
                        found.push(GroupId(number));
                    }
                }
                std::io::Result::Ok(found)
            })
            .await?;
        let mut results = Vec::new();
        for group in found {
            results.push((group, self.start_group(group).await));
        }
        self.inner.begun.store(true, Ordering::Release);
        Ok(results)
    }

    /// Starts the replica this node has of `group`.
    pub async fn start_group(&self, group: GroupId) -> Result<(), MetaError> {
        let _one = self.inner.changing.lock().await;
        self.start(group).await
    }

    /// Makes a new group with this node as its first and only voter. May be repeated after a crash
    /// in its midst. A group must be created on one node only, once in the cluster's life.
    pub async fn create_group(&self, group: GroupId) -> Result<(), MetaError> {
        let _one = self.inner.changing.lock().await;
        let id = raft_id(self.inner.node, 1);
        match self.identity(group).await? {
            None => self.lay_down(group, id).await?,
            Some(identity) if identity.raft_id == id => {}
            Some(_) => return Err(MetaError::Exists(group)),
        }
        if !self.inner.groups.read().contains_key(&group) {
            self.start(group).await?;
        }
        let running = self.running(group)?;
        let stopped = |error: String| MetaError::Stopped(group, error);
        if running.raft.is_initialized().await.map_err(|error| stopped(error.to_string()))? {
            return Err(MetaError::Exists(group));
        }
        let first = BTreeMap::from([(id, self.inner.node)]);
        running.raft.initialize(first).await.map_err(|error| stopped(error.to_string()))
    }

    /// Groups with a running replica here.
    pub fn groups(&self) -> Vec<GroupId> {
        self.inner.groups.read().keys().copied().collect()
    }

    /// How the replica of `group` here stands.
    pub fn status(&self, group: GroupId) -> Result<GroupStatus, MetaError> {
        Ok(self.running(group)?.status())
    }

    /// Bytes of the entries in the log of the replica here. Looks at each entry's place.
    pub fn log_bytes(&self, group: GroupId) -> Result<u64, MetaError> {
        Ok(self.running(group)?.log.bytes_of(group.0))
    }

    /// Nodes that vote in `group`, as the replica here knows.
    pub fn voters(&self, group: GroupId) -> Result<Vec<NodeId>, MetaError> {
        let status = self.status(group)?;
        Ok(status.members.iter().filter(|member| member.voter).map(|member| member.node).collect())
    }

    /// Index of the newest entry applied by the replica here.
    pub fn watch_applied(&self, group: GroupId) -> Result<watch::Receiver<u64>, MetaError> {
        Ok(self.running(group)?.store.watch_applied())
    }

    /// Who leads, as the replica here sees it.
    pub fn watch_leader(&self, group: GroupId) -> Result<watch::Receiver<LeaderView>, MetaError> {
        Ok(self.running(group)?.leader.subscribe())
    }

    /// Whether the replica here believes that it leads.
    pub fn is_leader(&self, group: GroupId) -> bool {
        self.running(group).is_ok_and(|group| group.leader.borrow().is_me)
    }

    /// The rows of the replica here, as they are now: possibly old. For workers beside a leader;
    /// blocks.
    pub fn local_rows(&self, group: GroupId) -> Result<Arc<dyn KvRead>, MetaError> {
        let group = self.running(group)?;
        group.store.kv().snapshot().map_err(|error| MetaError::Storage(error.to_string()))
    }

    /// Waits until what the replica here applied is durable without the log (tests, clean stop).
    pub async fn flush(&self, group: GroupId) -> Result<(), MetaError> {
        let group = self.running(group)?;
        group.store.flush(None).await?;
        Ok(group.log.sync().await?)
    }

    pub(crate) fn running(&self, group: GroupId) -> Result<Arc<Group>, MetaError> {
        self.inner.groups.read().get(&group).cloned().ok_or(MetaError::UnknownGroup(group))
    }

    pub(crate) async fn identity(&self, group: GroupId) -> Result<Option<Identity>, MetaError> {
        let (disk, dir) = (self.inner.env.disk.clone(), group_dir(&self.inner.dir, group));
        let loaded = self.inner.env.exec.blocking(move || Identity::load(&*disk, &dir)).await;
        loaded.map_err(|error| rotten(group, error))
    }

    fn log_of(&self, group: GroupId) -> SegmentLog {
        self.log_at(group == ROOT_GROUP)
    }

    /// The root group's log, or that of the others.
    fn log_at(&self, root: bool) -> SegmentLog {
        if root { self.inner.root_log.read().clone() } else { self.inner.log.read().clone() }
    }

    /// As [`MetaHost::identity`]; none if the file is rotten, for then nobody knows who the replica
    /// was, and it never runs again.
    pub(crate) async fn sure_identity(
        &self,
        group: GroupId,
    ) -> Result<Option<Identity>, MetaError> {
        match self.identity(group).await {
            Err(MetaError::Rotten(_)) => Ok(None),
            other => other,
        }
    }

    /// Makes the directory of a replica that has no past.
    async fn lay_down(&self, group: GroupId, raft_id: RaftId) -> Result<(), MetaError> {
        let (env, dir) = (self.inner.env.clone(), group_dir(&self.inner.dir, group));
        // Leavings of a making that was cut short.
        self.log_of(group).drop_group(group.0).await?;
        self.inner
            .env
            .exec
            .blocking(move || {
                env.disk.remove_dir_all(&dir)?;
                env.disk.create_dir_all(&dir)?;
                let (mut floor, _) = FloorFile::load(env.disk.clone(), &dir)?;
                floor.write(&Floor::default())?;
                Identity::new(group, raft_id).store(&*env.disk, &dir)?;
                for parent in dir.ancestors().skip(1).take(2) {
                    env.disk.sync_dir(parent)?;
                }
                std::io::Result::Ok(())
            })
            .await?;
        Ok(())
    }

    /// Ends the replica of `group` and removes what it left.
    pub(crate) async fn remove(&self, group: GroupId) -> Result<(), MetaError> {
        let running = self.inner.groups.write().remove(&group);
        if let Some(running) = running {
            let _ = running.raft.shutdown().await;
        }
        let (disk, dir) = (self.inner.env.disk.clone(), group_dir(&self.inner.dir, group));
        self.log_of(group).drop_group(group.0).await?;
        // The identity goes last: until then a crash leaves a replica below its floor, which
        // refuses to start, and this can be done again.
        self.inner.env.exec.blocking(move || disk.remove_dir_all(&dir)).await?;
        Ok(())
    }

    /// Begins as a learner under `raft_id`, in place of whatever was here.
    pub(crate) async fn begin_as(&self, group: GroupId, raft_id: RaftId) -> Result<(), MetaError> {
        self.remove(group).await?;
        self.lay_down(group, raft_id).await?;
        self.start(group).await
    }

    pub(crate) async fn change_lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.changing.lock().await
    }

    async fn start(&self, group: GroupId) -> Result<(), MetaError> {
        if self.inner.groups.read().contains_key(&group) {
            return Err(MetaError::Exists(group));
        }
        let env = self.inner.env.clone();
        let log = self.log_of(group);
        let dir = group_dir(&self.inner.dir, group);
        let (disk, at) = (env.disk.clone(), dir.clone());
        if env.exec.blocking(move || rot::is_marked(&*disk, &at)).await? {
            return Err(MetaError::Rotten(group));
        }
        let identity = match self.identity(group).await {
            Err(MetaError::Rotten(_)) => {
                self.inner.rot.add(MetaRotKind::Identity);
                return Err(MetaError::Rotten(group));
            }
            identity => identity?.ok_or(MetaError::UnknownGroup(group))?,
        };

        let (disk, at) = (env.disk.clone(), dir.clone());
        let (file, floor) = env.exec.blocking(move || FloorFile::load(disk, &at)).await?;
        if floor.is_none() {
            self.inner.rot.add(MetaRotKind::Floor);
        }
        let found = log.floor_of(group.0);
        let Some(floor) = floor.filter(|floor| found.reaches(floor)) else {
            tracing::error!(
                group = group.0,
                ?found,
                "the log is older than its floor; the replica stays down"
            );
            return Err(MetaError::BelowFloor(group));
        };
        log.keep_floor(group.0, file, floor);

        let machine = (self.inner.machines)(group);
        let (opener, at) = (env.clone(), dir.clone());
        let opened = env.exec.blocking(move || StateStore::open(&opener, &at, identity, machine));
        let store = opened.await.map_err(|error| {
            tracing::error!(group = group.0, %error, "a replica's state does not open");
            if error.kind() == std::io::ErrorKind::InvalidData {
                self.inner.rot.add(MetaRotKind::State);
            }
            rotten(group, error)
        })?;
        let connector = Connector {
            env: env.clone(),
            rpc: self.inner.rpc.clone(),
            group,
            me: identity.raft_id,
            bulk_timeout: self.inner.options.bulk_timeout,
            install_timeout: self.inner.options.install_timeout,
        };
        let config = self.inner.options.raft_config(group.0).validate();
        let config = Arc::new(config.map_err(|error| MetaError::Refused(error.to_string()))?);
        let group_log = GroupLog::new(log.clone(), group.0, Some(store.clone()));
        // Election timeouts of this replica follow from this seed, also in tasks Raft starts.
        let seed = env.rng.u64();
        let raft = Runtime::scope(
            seed,
            Raft::new(identity.raft_id, config, connector, group_log, Machine(store.clone())),
        )
        .await
        .map_err(|error| MetaError::Storage(error.to_string()))?;

        let running = Group::new(
            group,
            identity.raft_id,
            env.clone(),
            self.inner.rpc.clone(),
            raft.clone(),
            store,
            log,
        );
        drop(env.exec.spawn(running.clone().follow_leader()));
        // Raft's own tasks know nothing of the agent's end.
        let exec = env.exec.clone();
        drop(tokio::spawn(async move {
            exec.until_stopped().await;
            let _ = raft.shutdown().await;
        }));
        self.inner.groups.write().insert(group, running);
        Ok(())
    }

    /// A suspended machine's leadership has passed, whatever its clocks say: gives it away.
    async fn step_down_on_suspend(self) {
        let mut jumps = self.inner.env.clock.suspend_jumps();
        jumps.borrow_and_update();
        while jumps.changed().await.is_ok() {
            let groups: Vec<Arc<Group>> = self.inner.groups.read().values().cloned().collect();
            for group in groups.into_iter().filter(|group| group.leader.borrow().is_me) {
                tracing::info!(
                    group = group.id.0,
                    "the machine was suspended: leadership is given away"
                );
                let _ = self.give_away(&group).await;
            }
        }
    }

    /// Takes a checkpoint of groups whose log has grown too large in bytes, and purges behind it.
    async fn watch_log_bytes(self) {
        loop {
            self.inner.env.clock.sleep(self.inner.options.log_check_interval).await;
            let groups: Vec<Arc<Group>> = self.inner.groups.read().values().cloned().collect();
            for group in groups {
                if group.log.bytes_of(group.id.0) < self.inner.options.log_bytes_max {
                    continue;
                }
                let _ = group.raft.trigger().snapshot().await;
                if let Some(snapshot) = group.metrics().snapshot {
                    let _ = group.raft.trigger().purge_log(snapshot.index).await;
                }
            }
        }
    }
}

/// Where a group's replica lives.
pub(crate) fn group_dir(dir: &Path, group: GroupId) -> PathBuf {
    if group == ROOT_GROUP {
        dir.join("root").join("group")
    } else {
        dir.join("groups").join(group.0.to_string())
    }
}

/// Whether there is a replica, sound or rotten; blocks.
fn has_replica(disk: &dyn nexusgrid_env::Disk, dir: &Path) -> std::io::Result<bool> {
    match Identity::load(disk, dir) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(true),
        identity => Ok(identity?.is_some()),
    }
}

fn rotten(group: GroupId, error: std::io::Error) -> MetaError {
    match error.kind() {
        std::io::ErrorKind::InvalidData => MetaError::Rotten(group),
        _ => error.into(),
    }
}

/// Gives the log below `dir` another name.
async fn set_aside(env: &Env, dir: &Path) -> Result<(), MetaError> {
    let (disk, at) = (env.disk.clone(), dir.to_path_buf());
    Ok(env.exec.blocking(move || aside::set_aside(&*disk, &at)).await?)
}

/// Opens the log below `dir`; sets a damaged one aside and begins anew. Says whether it did.
async fn open_log(
    env: &Env,
    dir: &Path,
    options: &HostOptions,
) -> Result<(SegmentLog, bool), MetaError> {
    let path = dir.join("log");
    match SegmentLog::open(env, &path, options.log.clone()).await {
        Ok((log, cut_bytes)) => {
            if cut_bytes > 0 {
                tracing::warn!(cut_bytes, log = %path.display(), "an unsynced tail of the Raft log was cut");
            }
            Ok((log, false))
        }
        Err(LogDamage::Io(error)) => Err(error.into()),
        Err(damage) => {
            tracing::error!(%damage, log = %path.display(), "the Raft log is damaged and set aside");
            set_aside(env, dir).await?;
            let (log, _) = SegmentLog::open(env, &path, options.log.clone())
                .await
                .map_err(|damage| MetaError::Storage(damage.to_string()))?;
            Ok((log, true))
        }
    }
}
