//! The shard service of one node: its open drives, at the service of all nodes.
//!
//! State: the drives, and whether this node has read the map since it started or last slept. Until
//! then it refuses every write (a sleeper may have missed a fence or a remap, R2); reads are served,
//! for whoever reads proves the bytes. When it has, every local drive is fenced to the epochs that
//! the map names (R1), and closed repair sessions are made known to it (R4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use nexusgrid_codec::{BlockId, DriveId, Epoch, PgId, ShardHeader};
use nexusgrid_drive::{
    DriveError, DriveStore, FillSessionId, ReadOptions, SessionFloor, ShardKey, ShardStat,
    ShardWrite, WriteClass,
};
use nexusgrid_env::{Env, MethodId, Peer, RpcError, RpcRequest, RpcResponse, RpcService};
use nexusgrid_meta::root::topology::Topology;
use parking_lot::{Mutex, RwLock};

use super::wire::{self, ShardFacts, ShardFault, ShardOk, ShardReply, ShardRequest};
use crate::care::checkpoint::Deletions;
use crate::limits;

/// Serves this node's drives.
pub struct ShardService {
    env: Env,
    drives: RwLock<BTreeMap<DriveId, DriveStore>>,
    /// Suspend jumps at which the map was read, plus one; 0: never.
    ready: AtomicU64,
    deletions: Arc<Deletions>,
    /// What each drive was told: epoch, and the lowest repair session that may still write.
    told: Mutex<BTreeMap<(DriveId, PgId), (Epoch, u64)>>,
}

impl ShardService {
    /// A service without drives, refusing writes; deletes as `deletions` allows them.
    pub fn new(env: Env, deletions: Arc<Deletions>) -> Arc<ShardService> {
        Arc::new(ShardService {
            env,
            drives: RwLock::default(),
            ready: AtomicU64::new(0),
            deletions,
            told: Mutex::default(),
        })
    }

    /// Serves one more drive.
    pub fn add(&self, drive: DriveId, store: DriveStore) {
        store.hold_purge(!self.deletions.may_delete());
        self.drives.write().insert(drive, store);
    }

    /// Serves a drive no longer; gives it back.
    pub fn remove(&self, drive: DriveId) -> Option<DriveStore> {
        self.told.lock().retain(|(told, _), _| *told != drive);
        self.drives.write().remove(&drive)
    }

    /// The drives served.
    pub fn drives(&self) -> Vec<(DriveId, DriveStore)> {
        self.drives.read().iter().map(|(id, store)| (*id, store.clone())).collect()
    }

    /// Suspend jumps so far; pass it to [`ShardService::adopt`] with a map read after this call.
    pub fn jumps(&self) -> u64 {
        *self.env.clock.suspend_jumps().borrow()
    }

    /// Whether writes are taken.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) == self.jumps() + 1
    }

    /// Fences local drives to the map's epochs and takes writes from now on. `jumps` was counted
    /// before the map was read.
    pub async fn adopt(&self, map: &Topology, jumps: u64) {
        let mut tasks = Vec::new();
        for (drive, store) in self.drives() {
            for pg in map.pgs.values().filter(|pg| pg.slots.contains(&drive)) {
                let fill_floor = match pg.fill_worker {
                    Some(_) => pg.fill_session,
                    None if pg.fill_session == 0 => 0,
                    None => pg.fill_session + 1,
                };
                let wanted = (pg.epoch, fill_floor);
                if self.told.lock().get(&(drive, pg.id)) == Some(&wanted) {
                    continue;
                }
                let (store, id) = (store.clone(), pg.id);
                tasks.push(async move {
                    let fenced = store.fence(id, wanted.0).await;
                    let raised = match (wanted.1, &fenced) {
                        (0, _) | (_, Err(_)) => Ok(()),
                        (floor, Ok(_)) => store.raise_fill_floor(id, FillSessionId(floor)).await,
                    };
                    ((drive, id), wanted, fenced.map(drop).and(raised))
                });
            }
        }
        let mut all_told = true;
        for (key, wanted, result) in join_all(tasks).await {
            match result {
                Ok(()) => {
                    self.told.lock().insert(key, wanted);
                }
                // It knows a newer epoch than this map: a newer map is on its way.
                Err(DriveError::StaleEpoch { .. }) => {}
                // A failed or closed drive takes no writes anyway.
                Err(DriveError::Failed(_) | DriveError::Closed) => {}
                Err(error) => {
                    tracing::warn!(drive = key.0.0, pg = key.1.0, %error, "drive refuses the map");
                    all_told = false;
                }
            }
        }
        if all_told {
            self.ready.store(jumps + 1, Ordering::Release);
        }
    }

    fn drive(&self, drive: DriveId) -> Result<DriveStore, ShardFault> {
        self.drives.read().get(&drive).cloned().ok_or(ShardFault::NoSuchDrive)
    }

    async fn answer(
        &self,
        method: MethodId,
        request: ShardRequest,
        body: Bytes,
    ) -> Result<(ShardOk, Bytes), ShardFault> {
        let is_write = matches!(request, ShardRequest::Put { .. });
        if is_write && !self.is_ready() {
            return Err(ShardFault::NotReady);
        }
        if matches!(request, ShardRequest::Tombstone { .. }) && !self.deletions.may_delete() {
            return Err(ShardFault::Frozen);
        }
        let done = |_| Ok((ShardOk::Done, Bytes::new()));
        match (method, request) {
            (MethodId(0x0301), ShardRequest::Put { drive, pg, epoch, fill, backfill, header }) => {
                let header = match ShardHeader::decode(&header) {
                    Ok((header, [])) => header,
                    _ => return Err(ShardFault::Invalid("shard header".to_owned())),
                };
                let class = if backfill { WriteClass::Backfill } else { WriteClass::Foreground };
                let fill = fill.map(FillSessionId);
                let write = ShardWrite { header, pg, epoch, fill, class, body };
                let ack = self.drive(drive)?.put(write).await?;
                Ok((ShardOk::Stored { epoch: ack.epoch }, Bytes::new()))
            }
            (MethodId(0x0302), ShardRequest::Get { drive, block, index, range, verify }) => {
                let range = range.map(|(start, end)| start..end);
                let options = ReadOptions { range, verify };
                let read = self.drive(drive)?.get(ShardKey { block, index }, options).await?;
                let header = if verify { read.header.encode() } else { Vec::new() };
                Ok((ShardOk::Read { header, offset: read.offset }, read.bytes))
            }
            (MethodId(0x0303), ShardRequest::Stat { drive, shards }) => {
                if shards.len() > limits::STAT_SHARDS_MAX {
                    return Err(ShardFault::Invalid("too many shards".to_owned()));
                }
                let store = self.drive(drive)?;
                let mut stats = Vec::with_capacity(shards.len());
                for (block, index) in shards {
                    let stat = store.stat(ShardKey { block, index }).await?;
                    stats.push(stat.filter(|stat| !stat.trashed).map(|stat| facts(&stat)));
                }
                Ok((ShardOk::Stats(stats), Bytes::new()))
            }
            (MethodId(0x0304), ShardRequest::List { drive, pg, after, limit }) => {
                let after = after.map(|(block, index)| ShardKey { block, index });
                let limit = (limit as usize).min(limits::LIST_SHARDS_MAX);
                let page = self.drive(drive)?.list(pg, after, limit).await?;
                let shards = page.shards.iter().map(facts).collect();
                Ok((ShardOk::Page { epoch: page.epoch, shards, more: page.more }, Bytes::new()))
            }
            (MethodId(0x0305), ShardRequest::Fence { drive, pg, epoch }) => {
                self.drive(drive)?.fence(pg, epoch).await.map(drop).map_or_else(into, done)
            }
            (MethodId(0x0306), ShardRequest::Tombstone { drive, pg, blocks }) => {
                self.drive(drive)?.tombstone(pg, &blocks).await.map(drop).map_or_else(into, done)
            }
            (MethodId(0x0307), ShardRequest::SessionFloor { drive, group, floor }) => {
                let floor = SessionFloor { group, floor };
                self.drive(drive)?.raise_session_floor(floor).await.map_or_else(into, done)
            }
            (MethodId(0x0308), ShardRequest::CloseFill { drive, pg, session }) => {
                let session = FillSessionId(session);
                self.drive(drive)?.close_fill_session(pg, session).await.map_or_else(into, done)
            }
            _ => Err(ShardFault::Invalid("method and request differ".to_owned())),
        }
    }
}

fn into<T>(error: DriveError) -> Result<T, ShardFault> {
    Err(error.into())
}

fn facts(stat: &ShardStat) -> ShardFacts {
    let BlockId { .. } = stat.key.block;
    ShardFacts {
        block: stat.key.block,
        index: stat.key.index,
        pg: stat.pg,
        epoch: stat.epoch,
        body_bytes: stat.body_bytes,
        digest: stat.digest,
    }
}

impl From<DriveError> for ShardFault {
    fn from(error: DriveError) -> ShardFault {
        match error {
            DriveError::StaleEpoch { known, .. } => ShardFault::StaleEpoch { known },
            DriveError::Tombstoned(_) => ShardFault::Tombstoned,
            DriveError::SessionClosed { .. } => ShardFault::SessionClosed,
            DriveError::FillSessionClosed { .. } => ShardFault::FillClosed,
            DriveError::DigestConflict(_) => ShardFault::DigestConflict,
            DriveError::NotFound(_) => ShardFault::NotFound,
            DriveError::Damaged { reason, .. } => ShardFault::Damaged(reason),
            DriveError::NoSpace { .. } => ShardFault::NoSpace,
            DriveError::Failed(reason) => ShardFault::Failed(reason),
            DriveError::Closed => ShardFault::Failed("closed".to_owned()),
            other @ (DriveError::BadShard { .. }
            | DriveError::Invalid(_)
            | DriveError::SessionOpen(_)) => ShardFault::Invalid(other.to_string()),
        }
    }
}

#[async_trait]
impl RpcService for ShardService {
    async fn serve(&self, _from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let decoded = wire::decode::<ShardRequest>(&request.head)
            .map_err(|error| RpcError::Refused(error.to_string()))?;
        let (reply, body): (ShardReply, Bytes) =
            match self.answer(request.method, decoded, request.body).await {
                Ok((ok, body)) => (Ok(ok), body),
                Err(fault) => (Err(fault), Bytes::new()),
            };
        Ok(RpcResponse { head: Bytes::from(wire::encode(&reply)), body })
    }
}
