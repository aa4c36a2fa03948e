//! Calls the shard services of other nodes, and this node's own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::{BlockId, DriveId, Epoch, GroupId, PgId, SessionId, ShardHeader};
use nexusgrid_env::{NodeId, Rpc, RpcError, RpcRequest};

use super::wire::{self, ShardFacts, ShardFault, ShardMethod, ShardOk, ShardReply, ShardRequest};

/// Why a shard call gave no success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The drive said so.
    #[error(transparent)]
    Fault(#[from] ShardFault),
    /// The node cannot be reached, is too busy, or did not answer: it may have been done.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// A reply that does not decode or does not fit.
    #[error("unexpected reply")]
    Reply,
}

/// A shard to store.
#[derive(Clone, Debug)]
pub struct ShardToPut {
    /// On which node.
    pub node: NodeId,
    /// On which drive.
    pub drive: DriveId,
    /// Of which placement group.
    pub pg: PgId,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The repair session, if any.
    pub fill: Option<u64>,
    /// The codec's header.
    pub header: ShardHeader,
    /// The bytes.
    pub body: Bytes,
}

/// Client of all shard services; cheap to clone.
#[derive(Clone)]
pub struct ShardClient {
    rpc: Arc<dyn Rpc>,
    deadline: Duration,
}

impl ShardClient {
    /// Calls through `rpc`, each at most `deadline` long.
    pub fn new(rpc: Arc<dyn Rpc>, deadline: Duration) -> ShardClient {
        ShardClient { rpc, deadline }
    }

    async fn call(
        &self,
        node: NodeId,
        method: ShardMethod,
        request: &ShardRequest,
        body: Bytes,
    ) -> Result<(ShardOk, Bytes), ShardError> {
        let request =
            RpcRequest { method: method.id, head: Bytes::from(wire::encode(request)), body };
        let response = self.rpc.call(node, request, self.deadline).await?;
        let reply: ShardReply = wire::decode(&response.head).map_err(|_| ShardError::Reply)?;
        Ok((reply?, response.body))
    }

    /// Stores a shard; gives the epoch it is durably stamped with.
    pub async fn put(&self, shard: ShardToPut) -> Result<Epoch, ShardError> {
        let request = ShardRequest::Put {
            drive: shard.drive,
            pg: shard.pg,
            epoch: shard.epoch,
            fill: shard.fill,
            backfill: shard.fill.is_some(),
            header: shard.header.encode(),
        };
        match self.call(shard.node, wire::PUT, &request, shard.body).await? {
            (ShardOk::Stored { epoch }, _) => Ok(epoch),
            _ => Err(ShardError::Reply),
        }
    }

    /// Reads bytes `range` of a shard's body.
    pub async fn get(
        &self,
        node: NodeId,
        drive: DriveId,
        block: BlockId,
        index: u8,
        range: std::ops::Range<u32>,
        verify: bool,
    ) -> Result<Bytes, ShardError> {
        let wanted = (range.end - range.start) as usize;
        let range = Some((u64::from(range.start), u64::from(range.end)));
        let request = ShardRequest::Get { drive, block, index, range, verify };
        match self.call(node, wire::GET, &request, Bytes::new()).await? {
            (ShardOk::Read { .. }, body) if body.len() == wanted => Ok(body),
            // A shard shorter than its geometry is not what was written.
            (ShardOk::Read { .. }, _) => {
                Err(ShardFault::Damaged("shorter than its geometry".to_owned()).into())
            }
            _ => Err(ShardError::Reply),
        }
    }

    /// Reads a whole shard, checked by its drive, with its header.
    pub async fn get_whole(
        &self,
        node: NodeId,
        drive: DriveId,
        block: BlockId,
        index: u8,
    ) -> Result<(ShardHeader, Bytes), ShardError> {
        let request = ShardRequest::Get { drive, block, index, range: None, verify: true };
        match self.call(node, wire::GET, &request, Bytes::new()).await? {
            (ShardOk::Read { header, .. }, body) => match ShardHeader::decode(&header) {
                Ok((header, [])) if header.block == block && header.index == index => {
                    Ok((header, body))
                }
                _ => Err(ShardError::Reply),
            },
            _ => Err(ShardError::Reply),
        }
    }

    /// What a drive knows of shards.
    pub async fn stat(
        &self,
        node: NodeId,
        drive: DriveId,
        shards: Vec<(BlockId, u8)>,
    ) -> Result<Vec<Option<ShardFacts>>, ShardError> {
        let request = ShardRequest::Stat { drive, shards };
        match self.call(node, wire::STAT, &request, Bytes::new()).await? {
            (ShardOk::Stats(stats), _) => Ok(stats),
            _ => Err(ShardError::Reply),
        }
    }

    /// A page of a placement group's shards, and whether more follow; refused unless the drive
    /// knows exactly `epoch` (R2: a list counts only once the drive is fenced).
    pub async fn list(
        &self,
        node: NodeId,
        drive: DriveId,
        (pg, epoch): (PgId, Epoch),
        after: Option<(BlockId, u8)>,
        limit: usize,
    ) -> Result<(Vec<ShardFacts>, bool), ShardError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let request = ShardRequest::List { drive, pg, after, limit };
        match self.call(node, wire::LIST, &request, Bytes::new()).await? {
            (ShardOk::Page { epoch: known, shards, more }, _) if known == epoch => {
                Ok((shards, more))
            }
            (ShardOk::Page { epoch: known, .. }, _) => Err(ShardFault::StaleEpoch { known }.into()),
            _ => Err(ShardError::Reply),
        }
    }

    /// A page of what a drive holds of a placement group, whatever epoch it knows: no repair may rest
    /// on it (R2).
    pub async fn list_held(
        &self,
        node: NodeId,
        drive: DriveId,
        pg: PgId,
        after: Option<(BlockId, u8)>,
        limit: u32,
    ) -> Result<(Vec<ShardFacts>, bool), ShardError> {
        let request = ShardRequest::List { drive, pg, after, limit };
        match self.call(node, wire::LIST, &request, Bytes::new()).await? {
            (ShardOk::Page { shards, more, .. }, _) => Ok((shards, more)),
            _ => Err(ShardError::Reply),
        }
    }

    /// Has a drive adopt an epoch (R1).
    pub async fn fence(
        &self,
        node: NodeId,
        drive: DriveId,
        pg: PgId,
        epoch: Epoch,
    ) -> Result<(), ShardError> {
        self.done(node, wire::FENCE, &ShardRequest::Fence { drive, pg, epoch }).await
    }

    /// Deletes blocks (R5).
    pub async fn tombstone(
        &self,
        node: NodeId,
        drive: DriveId,
        pg: PgId,
        blocks: Vec<BlockId>,
    ) -> Result<(), ShardError> {
        self.done(node, wire::TOMBSTONE, &ShardRequest::Tombstone { drive, pg, blocks }).await
    }

    /// Raises the writers' session floor (R6).
    pub async fn session_floor(
        &self,
        node: NodeId,
        drive: DriveId,
        group: GroupId,
        floor: SessionId,
    ) -> Result<(), ShardError> {
        let request = ShardRequest::SessionFloor { drive, group, floor };
        self.done(node, wire::SESSION_FLOOR, &request).await
    }

    /// Closes a repair session (R4).
    pub async fn close_fill(
        &self,
        node: NodeId,
        drive: DriveId,
        pg: PgId,
        session: u64,
    ) -> Result<(), ShardError> {
        self.done(node, wire::CLOSE_FILL, &ShardRequest::CloseFill { drive, pg, session }).await
    }

    async fn done(
        &self,
        node: NodeId,
        method: ShardMethod,
        request: &ShardRequest,
    ) -> Result<(), ShardError> {
        match self.call(node, method, request, Bytes::new()).await? {
            (ShardOk::Done, _) => Ok(()),
            _ => Err(ShardError::Reply),
        }
    }
}
