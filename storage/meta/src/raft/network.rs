//! How one member talks to another: openraft's network over [`nexusgrid_env::Rpc`].
//!
//! Requests to one target go one after the other, each with up to 2 MiB of entries: order between
//! calls is not promised by the transport, and openraft takes a conflict that overtook its
//! predecessor for a log that went back. Heartbeats and snapshots have clients of their own. A
//! pre-vote that nobody answers is an error, never a grant: else a node cut off alone would elect
//! itself term after term.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Env, NodeId, OpenMode, Rpc, RpcError, RpcRequest};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::encode::{decode, encode_bytes};
use super::state::SnapshotFiles;
use super::types::{MetaTypes, RaftId, SnapshotMeta, Vote};
use super::wire::{
    APPEND, Answer, BeginBody, ChunkHead, EndBody, MetaMethod, PRE_VOTE, Route, SNAPSHOT_BEGIN,
    SNAPSHOT_CHUNK, SNAPSHOT_END, TRANSFER_LEADER, VOTE,
};
use crate::limits::SNAPSHOT_CHUNK_BYTES;

/// Before the end of a snapshot is asked for again.
const END_PAUSE: Duration = Duration::from_millis(100);

/// Makes connections of one member to the others.
#[derive(Clone)]
pub(crate) struct Connector {
    pub env: Env,
    pub rpc: Arc<dyn Rpc>,
    pub group: GroupId,
    pub me: RaftId,
    /// Deadline of messages that carry entries, and of each snapshot chunk.
    pub bulk_timeout: Duration,
    /// Deadline of installing a snapshot.
    pub install_timeout: Duration,
}

impl RaftNetworkFactory<MetaTypes> for Connector {
    type Network = Connection;

    async fn new_client(&mut self, target: RaftId, node: &NodeId) -> Connection {
        let route = Route { group: self.group, from: self.me, to: target };
        Connection { connector: self.clone(), node: *node, route }
    }
}

/// One member's connection to another.
pub(crate) struct Connection {
    connector: Connector,
    node: NodeId,
    route: Route,
}

type NetError = RPCError<MetaTypes>;

fn unreachable(why: impl ToString) -> NetError {
    RPCError::Unreachable(Unreachable::from_string(why))
}

impl Connection {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: MetaMethod,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, NetError> {
        let head = encode_bytes(&self.route);
        self.send(method, head, encode_bytes(request), deadline).await
    }

    async fn send<A: DeserializeOwned>(
        &self,
        method: MetaMethod,
        head: Bytes,
        body: Bytes,
        deadline: Duration,
    ) -> Result<A, NetError> {
        let request = RpcRequest { method: method.id, head, body };
        let response = self.connector.rpc.call(self.node, request, deadline).await.map_err(
            |error| match error {
                RpcError::Unknown(..) => RPCError::Network(NetworkError::from_string(error)),
                // All others come at once: back off before the next try.
                _ => unreachable(error),
            },
        )?;
        match decode::<Answer<A>>(&response.head, method.name) {
            Ok(Answer::Done(answer)) => Ok(answer),
            Ok(Answer::Gone) => {
                Err(unreachable(format!("{} is no member under this id any more", self.node)))
            }
            Ok(Answer::Stopped) => {
                Err(unreachable(format!("the group is stopped on {}", self.node)))
            }
            Err(error) => Err(unreachable(error)),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        files: Arc<SnapshotFiles>,
    ) -> Result<SnapshotResponse<MetaTypes>, NetError> {
        let env = &self.connector.env;
        let transfer = env.rng.u64();
        let begin = BeginBody { transfer, files: files.files.clone() };
        let () = self.call(SNAPSHOT_BEGIN, &begin, self.connector.bulk_timeout).await?;
        for (number, (name, len)) in files.files.iter().enumerate() {
            let (disk, path) = (env.disk.clone(), files.dir.join(name));
            let broken = |error: std::io::Error| RPCError::Network(NetworkError::new(&error));
            let file = env
                .exec
                .blocking(move || disk.open(&path, OpenMode::Read))
                .await
                .map_err(broken)?;
            let mut offset = 0;
            while offset < *len {
                let (file, bytes) =
                    (file.clone(), (*len - offset).min(SNAPSHOT_CHUNK_BYTES as u64));
                let chunk = env
                    .exec
                    .blocking(move || {
                        let mut chunk = vec![0; bytes as usize];
                        let read = file.read_at(&mut chunk, offset)?;
                        if read < chunk.len() {
                            return Err(std::io::ErrorKind::UnexpectedEof.into());
                        }
                        Ok(Bytes::from(chunk))
                    })
                    .await
                    .map_err(broken)?;
                let head = ChunkHead {
                    route: self.route,
                    transfer,
                    file: number as u32,
                    offset,
                    crc: crc32c::crc32c(&chunk),
                };
                offset += bytes;
                let () = self
                    .send(SNAPSHOT_CHUNK, encode_bytes(&head), chunk, self.connector.bulk_timeout)
                    .await?;
            }
        }
        let end = EndBody { transfer, vote, meta };
        // The receiver goes on installing, and tells whoever asks again: an answer that is lost costs
        // one deadline, not the time that installing may take.
        let clock = &env.clock;
        let begun = clock.now();
        loop {
            match self.call(SNAPSHOT_END, &end, self.connector.bulk_timeout).await {
                Err(RPCError::Network(error))
                    if clock.now().since(begun) < self.connector.install_timeout =>
                {
                    tracing::debug!(%error, "the end of a snapshot is asked for again");
                    clock.sleep(END_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }
}

impl RaftNetworkV2<MetaTypes> for Connection {
    type SnapshotData = Arc<SnapshotFiles>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<MetaTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MetaTypes>, NetError> {
        let deadline = match rpc.entries.is_empty() {
            true => option.hard_ttl(),
            false => option.hard_ttl().max(self.connector.bulk_timeout),
        };
        self.call(APPEND, &rpc, deadline).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<MetaTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<MetaTypes>, NetError> {
        self.call(VOTE, &rpc, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<MetaTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<MetaTypes>, NetError> {
        self.call(PRE_VOTE, &rpc, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<super::types::CommittedLeaderId, RaftId, NodeId, Arc<SnapshotFiles>>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<MetaTypes>, StreamingError<MetaTypes>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot.meta, snapshot.snapshot) => Ok(sent?),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<MetaTypes>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<MetaTypes>, NetError> {
        self.call(TRANSFER_LEADER, &request, option.hard_ttl()).await
    }
}
