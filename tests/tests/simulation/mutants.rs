//! Known bugs put in again, to see that the checks find them: what finds nothing proves nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_codec::GroupId;
use nexusgrid_env::{Disk, DiskFile, DiskLock, Env, OpenMode, Rule, Space};
use nexusgrid_grid::{Answered, CommandId, HostPort, MetaPort, PortError};
use nexusgrid_meta::host::{Touched, WatchCall, Watched, Watcher};
use nexusgrid_meta::{Consistency, MetaHost};

use super::faults::Kind;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Queries are answered from the nearest replica, however old.
    StaleReads,
    /// A command whose outcome is unknown is repeated under another id.
    FreshIds,
    /// Raft logs and segments are never synced: acknowledged is not durable.
    NoSync,
    /// The agents do not keep a rule.
    Without(Rule),
}

impl Mutant {
    /// Faults under which it shows.
    pub fn faults(self) -> Vec<Kind> {
        match self {
            Mutant::StaleReads => vec![Kind::Partition, Kind::Isolate],
            Mutant::FreshIds => vec![Kind::RoughNetwork, Kind::SlowNetwork],
            Mutant::NoSync => vec![Kind::PowerLossAll],
            // The others have stories of their own.
            Mutant::Without(_) => vec![Kind::Partition, Kind::Isolate],
        }
    }

    /// The rule that it breaks, if it is one.
    pub fn rule(self) -> Option<Rule> {
        match self {
            Mutant::Without(rule) => Some(rule),
            _ => None,
        }
    }

    pub fn port(self, host: &MetaHost, env: &Env) -> Arc<dyn MetaPort> {
        let (mutant, host, env) = (self, host.clone(), env.clone());
        let deadline = Duration::from_millis(if mutant == Mutant::FreshIds { 20 } else { 5_000 });
        Arc::new(Port { mutant, inner: HostPort::new(host.clone(), deadline), host, env })
    }

    pub fn env(self, env: Env) -> Env {
        match self {
            Mutant::NoSync => Env { disk: Arc::new(NoSync(env.disk.clone())), ..env },
            _ => env,
        }
    }
}

struct Port {
    mutant: Mutant,
    inner: HostPort,
    host: MetaHost,
    env: Env,
}

#[async_trait]
impl MetaPort for Port {
    async fn propose(
        &self,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<Vec<u8>, PortError> {
        let mut id = id;
        if self.mutant == Mutant::FreshIds {
            self.env.rng.fill(&mut id.0);
        }
        self.inner.propose(group, id, command).await
    }

    async fn query(&self, group: GroupId, query: Vec<u8>) -> Result<Vec<u8>, PortError> {
        if self.mutant != Mutant::StaleReads || group == nexusgrid_meta::ROOT_GROUP {
            return self.inner.query(group, query).await;
        }
        let answer = self
            .host
            .query(group, Bytes::from(query), Consistency::Stale, Duration::from_secs(5))
            .await;
        answer.map(Into::into).map_err(|error| PortError::Unavailable(error.to_string()))
    }

    async fn news(&self, group: GroupId, after: u64) -> Result<u64, PortError> {
        self.inner.news(group, after).await
    }

    async fn propose_by(
        &self,
        by: Watcher,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<(Vec<u8>, Touched), PortError> {
        let mut id = id;
        if self.mutant == Mutant::FreshIds {
            self.env.rng.fill(&mut id.0);
        }
        self.inner.propose_by(by, group, id, command).await
    }

    async fn remember(
        &self,
        by: Watcher,
        group: GroupId,
        query: Vec<u8>,
    ) -> Result<Answered, PortError> {
        self.inner.remember(by, group, query).await
    }

    async fn watch(&self, group: GroupId, call: WatchCall) -> Result<Watched, PortError> {
        self.inner.watch(group, call).await
    }

    fn leads(&self, group: GroupId) -> bool {
        self.inner.leads(group)
    }
}

struct NoSync(Arc<dyn Disk>);

struct NoSyncFile {
    file: Arc<dyn DiskFile>,
    is_log: bool,
}

impl Disk for NoSync {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let is_log = path.extension().is_some_and(|kind| kind == "log" || kind == "seg");
        Ok(Arc::new(NoSyncFile { file: self.0.open(path, mode)?, is_log }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.0.lock(path)
    }
}

impl DiskFile for NoSyncFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
    fn sync(&self) -> io::Result<()> {
        if self.is_log { Ok(()) } else { self.file.sync() }
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }
    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }
}
