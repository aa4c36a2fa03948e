//! Metadata without replication: the real state machines, one copy of each, reached by all nodes.
//! For tests of what the grid does; `raft` runs the real groups.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nexusgrid_codec::GroupId;
use nexusgrid_env::sim::World;
use nexusgrid_env::{Durability, Kv, KvOptions, NodeId};
use nexusgrid_grid::{Answered, CommandId, MetaPort, PortError};
use nexusgrid_meta::host::{Touched, WatchCall, Watched, Watcher};
use nexusgrid_meta::namespace::Namespace;
use nexusgrid_meta::namespace::audit::{Violation, audit};
use nexusgrid_meta::root::Root;
use nexusgrid_meta::{ApplyContext, StateMachine};
use parking_lot::Mutex;

pub struct OneCopy {
    groups: BTreeMap<GroupId, Mutex<Group>>,
    /// Answers Unavailable while set.
    pub down: Mutex<bool>,
    /// Commands whose reply is lost once, after they were done.
    pub lose_replies: Mutex<u32>,
    /// Metadata groups answer queries as if they had just been made, while set.
    pub forgets: Mutex<bool>,
    forgetful: Arc<dyn Kv>,
}

struct Group {
    machine: Arc<dyn StateMachine>,
    kv: Arc<dyn Kv>,
    index: u64,
    replies: BTreeMap<CommandId, Vec<u8>>,
}

impl OneCopy {
    pub fn new(world: &World, groups: u32) -> Arc<OneCopy> {
        let env = world.start(NodeId(1000));
        let open = |id: u32| {
            let machine: Arc<dyn StateMachine> =
                if id == 0 { Arc::new(Root) } else { Arc::new(Namespace) };
            let options = KvOptions {
                families: machine.families().to_vec(),
                blob_families: machine.blob_families().to_vec(),
                create: true,
            };
            let kv = env.kv.open(Path::new(&format!("/meta/{id}")), &options).unwrap();
            let group = Group { machine, kv, index: 0, replies: BTreeMap::new() };
            (GroupId(id), Mutex::new(group))
        };
        let machine = Namespace;
        let options = KvOptions {
            families: machine.families().to_vec(),
            blob_families: machine.blob_families().to_vec(),
            create: true,
        };
        Arc::new(OneCopy {
            groups: (0..=groups).map(open).collect(),
            down: Mutex::new(false),
            lose_replies: Mutex::new(0),
            forgets: Mutex::new(false),
            forgetful: env.kv.open(Path::new("/meta/forgetful"), &options).unwrap(),
        })
    }

    fn group(&self, group: GroupId) -> Result<&Mutex<Group>, PortError> {
        if *self.down.lock() {
            return Err(PortError::Unavailable("down".to_owned()));
        }
        self.groups.get(&group).ok_or_else(|| PortError::Refused("no such group".to_owned()))
    }

    pub fn apply(
        &self,
        id: GroupId,
        command: CommandId,
        bytes: &[u8],
    ) -> Result<Vec<u8>, PortError> {
        let mut group = self.group(id)?.lock();
        if let Some(reply) = group.replies.get(&command) {
            return Ok(reply.clone());
        }
        group.index += 1;
        let context = ApplyContext { index: group.index, group: id };
        let kv = Arc::clone(&group.kv);
        let applied = group.machine.apply(kv.as_read(), &context, bytes).unwrap();
        kv.write(applied.batch, Durability::Unsynced).unwrap();
        group.replies.insert(command, applied.reply.clone());
        Ok(applied.reply)
    }

    pub fn ask(&self, id: GroupId, query: &[u8]) -> Result<Vec<u8>, PortError> {
        let group = self.group(id)?.lock();
        if id.0 != 0 && *self.forgets.lock() {
            return Ok(group.machine.query(self.forgetful.as_read(), query).unwrap());
        }
        Ok(group.machine.query(group.kv.as_read(), query).unwrap())
    }

    /// What contradicts what in the metadata groups.
    pub fn violations(&self) -> Vec<Violation> {
        let namespaces = self.groups.iter().filter(|(id, _)| id.0 != 0);
        namespaces.flat_map(|(_, group)| audit(group.lock().kv.as_read()).unwrap()).collect()
    }
}

trait AsRead {
    fn as_read(&self) -> &dyn nexusgrid_env::KvRead;
}

impl AsRead for Arc<dyn Kv> {
    fn as_read(&self) -> &dyn nexusgrid_env::KvRead {
        &**self
    }
}

/// A node's way to [`OneCopy`]; one node counts as leader of everything.
pub struct OneCopyPort {
    pub meta: Arc<OneCopy>,
    pub leads: Arc<dyn Fn() -> bool + Send + Sync>,
}

#[async_trait]
impl MetaPort for OneCopyPort {
    async fn propose(
        &self,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<Vec<u8>, PortError> {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        let reply = self.meta.apply(group, id, &command)?;
        let mut lose = self.meta.lose_replies.lock();
        if *lose > 0 {
            *lose -= 1;
            return Err(PortError::Unknown("reply lost".to_owned()));
        }
        Ok(reply)
    }

    async fn query(&self, group: GroupId, query: Vec<u8>) -> Result<Vec<u8>, PortError> {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        self.meta.ask(group, &query)
    }

    async fn news(&self, _group: GroupId, after: u64) -> Result<u64, PortError> {
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        Ok(after)
    }

    async fn propose_by(
        &self,
        _by: Watcher,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<(Vec<u8>, Touched), PortError> {
        Ok((self.propose(group, id, command).await?, Touched::All))
    }

    async fn remember(
        &self,
        _by: Watcher,
        group: GroupId,
        query: Vec<u8>,
    ) -> Result<Answered, PortError> {
        let answer = self.query(group, query).await?;
        Ok(Answered { answer, fact: None, touched: Touched::Nothing })
    }

    /// Nobody leads: nothing is remembered.
    async fn watch(&self, _group: GroupId, _call: WatchCall) -> Result<Watched, PortError> {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        Err(PortError::Unavailable("no leader".to_owned()))
    }

    fn leads(&self, _group: GroupId) -> bool {
        (self.leads)()
    }
}
