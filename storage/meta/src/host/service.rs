//! What other nodes call: messages of members, and commands and queries from anywhere.
//!
//! Raft messages are taken only from nodes with the role `meta`, only from the node whose
//! incarnation they claim to speak for, and only for the incarnation that runs here (I15).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Peer, RpcError, RpcRequest, RpcResponse, RpcService};
use openraft::Snapshot;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::group::{Group, Installing, Tried};
use super::incoming::Incoming;
use super::watchers::{Touched, Watcher};
use super::{Consistency, MetaHost, group_dir};
use crate::limits::{
    COMMAND_BYTES_MAX, NEWS_HOLD, QUERY_BYTES_MAX, REPLY_BYTES_MAX, SERVED_QUERY_TIMEOUT,
};
use crate::raft::encode::{decode, encode_bytes};
use crate::raft::types::{Envelope, MetaTypes, Vote, generation_of, node_of};
use crate::raft::wire::{
    APPEND, Answer, BeginBody, CONFIRM, ChunkHead, EndBody, GroupHead, INVITE, Invited, JOIN,
    JoinHead, METHODS, MetaMethod, NEWS, NewsHead, Outcome, PRE_VOTE, PROPOSE, PROPOSE_BY,
    ProposeByHead, ProposeHead, QUERY, READ_INDEX, REMEMBER, RememberHead, Route, SNAPSHOT_BEGIN,
    SNAPSHOT_CHUNK, SNAPSHOT_END, STANDING, Standing, StandingHead, TRANSFER_LEADER, VOTE, WATCH,
    WatchHead,
};

/// The one service for all groups of a node.
pub(crate) struct MetaService {
    pub(crate) host: MetaHost,
}

fn refused(why: impl ToString) -> RpcError {
    RpcError::Refused(why.to_string())
}

fn failed(why: impl ToString) -> RpcError {
    RpcError::Failed(why.to_string())
}

fn head_only<T: Serialize>(value: &T) -> RpcResponse {
    RpcResponse { head: encode_bytes(value), body: Bytes::new() }
}

fn outcome(outcome: Outcome, body: Bytes) -> RpcResponse {
    RpcResponse { head: encode_bytes(&outcome), body }
}

/// What an incarnation answers that does not run here.
type NotHere = Answer<()>;

/// Begins to install what was received; goes on whether or not its sender waits.
fn install(group: &Arc<Group>, mut incoming: Incoming, body: EndBody) -> Installing {
    let EndBody { transfer, vote, meta } = body;
    let (done, outcome) = oneshot::channel();
    let own = Arc::clone(group);
    drop(group.env.exec.spawn(async move {
        let finished = own.env.exec.blocking(move || incoming.finish()).await;
        let outcome = match finished {
            Ok(snapshot) => {
                let snapshot = Snapshot { meta, snapshot };
                let answer = own.raft.install_full_snapshot(vote, snapshot).await;
                answer.map(|answer| answer.vote).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        // Fine if the replica ends meanwhile.
        let _ = done.send(outcome);
    }));
    let ended = || Err("the installation ended early".to_owned());
    let installing = outcome.map(move |outcome| outcome.unwrap_or_else(|_| ended()));
    let installing = installing.boxed().shared();
    *group.installing.lock() = Some((transfer, installing.clone()));
    installing
}

impl MetaService {
    /// The replica a message is for, once its sender is believed.
    async fn replica(
        &self,
        from: Peer,
        route: Route,
    ) -> Result<Result<Arc<Group>, NotHere>, RpcError> {
        if node_of(route.from) != from.node {
            return Err(refused("a message in the name of another node"));
        }
        if let Ok(group) = self.host.running(route.group) {
            return Ok(if group.raft_id == route.to { Ok(group) } else { Err(Answer::Gone) });
        }
        if !self.host.inner.begun.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(Err(Answer::Stopped));
        }
        Ok(Err(Answer::Gone))
    }

    /// Hands a Raft message to the replica it is for.
    async fn raft<Q, A, F>(
        &self,
        from: Peer,
        method: MetaMethod,
        request: RpcRequest,
        handle: impl FnOnce(Arc<Group>, Q) -> F,
    ) -> Result<RpcResponse, RpcError>
    where
        Q: DeserializeOwned,
        A: Serialize,
        F: Future<Output = Result<A, RpcError>>,
    {
        let route: Route = decode(&request.head, method.name).map_err(refused)?;
        match self.replica(from, route).await? {
            Err(not_here) => Ok(head_only(&not_here)),
            Ok(group) => {
                let message: Q = decode(&request.body, method.name).map_err(refused)?;
                Ok(head_only(&Answer::Done(handle(group, message).await?)))
            }
        }
    }

    async fn begin(&self, group: Arc<Group>, body: BeginBody) -> Result<(), RpcError> {
        let env = group.env.clone();
        let dir = group_dir(&self.host.inner.dir, group.id)
            .join(format!("recv-{}", group.store.next_number()));
        let mut incoming = group.incoming.lock().await;
        let before = incoming.take();
        let begun = env
            .exec
            .blocking(move || {
                if let Some(before) = before {
                    before.discard()?;
                }
                Incoming::begin(env.disk.clone(), dir, body.transfer, body.files)
            })
            .await;
        *incoming = Some(begun.map_err(failed)?);
        Ok(())
    }

    async fn chunk(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let head: ChunkHead = decode(&request.head, SNAPSHOT_CHUNK.name).map_err(refused)?;
        let group = match self.replica(from, head.route).await? {
            Ok(group) => group,
            Err(not_here) => return Ok(head_only(&not_here)),
        };
        let mut slot = group.incoming.lock().await;
        // What comes late, of a transfer before, must not end the one that goes on.
        let is_it = slot.as_ref().is_some_and(|incoming| incoming.transfer == head.transfer);
        let Some(mut incoming) = slot.take_if(|_| is_it) else {
            return Err(failed("no such transfer"));
        };
        let body = request.body;
        let (incoming, taken) = group
            .env
            .exec
            .blocking(move || {
                let taken = incoming.chunk(head.file as usize, head.offset, head.crc, &body);
                (incoming, taken)
            })
            .await;
        *slot = Some(incoming);
        taken.map_err(failed)?;
        group.hear();
        Ok(head_only(&Answer::Done(())))
    }

    async fn end(
        &self,
        group: Arc<Group>,
        body: EndBody,
    ) -> Result<openraft::raft::SnapshotResponse<MetaTypes>, RpcError> {
        let installing = {
            let mut slot = group.incoming.lock().await;
            let is_it = slot.as_ref().is_some_and(|incoming| incoming.transfer == body.transfer);
            match slot.take_if(|_| is_it) {
                Some(incoming) => install(&group, incoming, body),
                // Asked before, by one who did not hear the answer.
                None => {
                    let known = group.installing.lock().clone();
                    match known.filter(|(transfer, _)| *transfer == body.transfer) {
                        Some((_, installing)) => installing,
                        None => return Err(failed("no such transfer")),
                    }
                }
            }
        };
        let vote = installing.await.map_err(failed)?;
        Ok(openraft::raft::SnapshotResponse::new(vote))
    }

    async fn invite(&self, group: GroupId, only_looking: bool) -> Result<RpcResponse, RpcError> {
        if !self.host.inner.begun.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(head_only(&Answer::<Invited>::Stopped));
        }
        let nonce = self.host.inner.env.rng.u64();
        let have = match self.host.sure_identity(group).await {
            Ok(identity) => identity.map_or(0, |identity| identity.raft_id),
            Err(error) => return Err(failed(error)),
        };
        let is_sound = |group: &Group| !group.has_failed() && !self.host.is_rotten(group);
        let running = self.host.running(group).is_ok_and(|group| is_sound(&group));
        if !only_looking {
            self.host.inner.nonces.lock().insert(group, nonce);
        }
        Ok(head_only(&Answer::Done(Invited { nonce, have, running })))
    }

    async fn standing(&self, head: StandingHead) -> Result<RpcResponse, RpcError> {
        let Ok(group) = self.host.running(head.group) else {
            return Ok(head_only(&Answer::<Standing>::Stopped));
        };
        let store = group.store.clone();
        let standing = group.env.exec.blocking(move || store.standing(head.raft_id)).await;
        Ok(head_only(&Answer::Done(standing.map_err(failed)?)))
    }

    async fn join(&self, head: JoinHead) -> Result<RpcResponse, RpcError> {
        let _one = self.host.change_lock().await;
        if self.host.inner.nonces.lock().get(&head.group) != Some(&head.nonce) {
            return Err(refused("an invitation that is not open"));
        }
        if node_of(head.raft_id) != self.host.inner.node {
            return Err(refused("an incarnation of another node"));
        }
        let have = self
            .host
            .sure_identity(head.group)
            .await
            .map_err(failed)?
            .map_or(0, |identity| identity.raft_id);
        if have == head.raft_id && self.host.running(head.group).is_ok() {
            return Ok(head_only(&Answer::Done(())));
        }
        if generation_of(head.raft_id) <= generation_of(have) {
            return Err(refused("an incarnation that was there before"));
        }
        self.host.inner.nonces.lock().remove(&head.group);
        self.host.begin_as(head.group, head.raft_id).await.map_err(failed)?;
        Ok(head_only(&Answer::Done(())))
    }

    async fn read_index(&self, head: GroupHead) -> RpcResponse {
        let Ok(group) = self.host.running(head.group) else {
            return outcome(Outcome::NoReplica, Bytes::new());
        };
        if !group.leader.borrow().is_me {
            return outcome(Outcome::NotLeader(self.host.believed_leader(&group)), Bytes::new());
        }
        match group.read_index().await {
            Some(index) => outcome(Outcome::Done, Bytes::copy_from_slice(&index.to_le_bytes())),
            None => outcome(Outcome::NotLeader(None), Bytes::new()),
        }
    }

    async fn news(&self, head: NewsHead) -> RpcResponse {
        let Ok(group) = self.host.running(head.group) else {
            return outcome(Outcome::NoReplica, Bytes::new());
        };
        let until = self.host.inner.env.clock.now().plus(NEWS_HOLD);
        match self.host.news_here(&group, head.after, until).await {
            Some(index) => outcome(Outcome::Done, Bytes::copy_from_slice(&index.to_le_bytes())),
            None => outcome(Outcome::NoReplica, Bytes::new()),
        }
    }

    async fn propose(
        &self,
        from: Peer,
        head: ProposeHead,
        by: Option<Watcher>,
        body: Bytes,
    ) -> Result<RpcResponse, RpcError> {
        if body.len() > COMMAND_BYTES_MAX {
            return Err(refused("the command is too large"));
        }
        let Ok(group) = self.host.running(head.group) else {
            return Ok(outcome(Outcome::NoReplica, Bytes::new()));
        };
        if !group.machine().takes_from(from.roles, &body) {
            return Err(refused("a node that holds data only may not propose this"));
        }
        let envelope = Envelope { request_id: head.request_id, body };
        let patience = self.host.inner.options.attempt_timeout;
        // In the name of another it counts as anybody's.
        let by = by.filter(|by| group.store.watchers().is_of(*by, from.node));
        Ok(match group.propose(envelope, by, patience).await {
            Tried::Done((reply, _)) if reply.len() > REPLY_BYTES_MAX => {
                return Err(failed("the reply is too large"));
            }
            Tried::Done((reply, Touched::Nothing)) => outcome(Outcome::Done, reply),
            Tried::Done((reply, touched)) => outcome(Outcome::Touched(touched), reply),
            Tried::NotLeader(leader) => outcome(Outcome::NotLeader(leader), Bytes::new()),
            Tried::NoReplica => outcome(Outcome::NoReplica, Bytes::new()),
            Tried::Unknown => outcome(Outcome::Unknown, Bytes::new()),
        })
    }

    async fn remember(
        &self,
        from: Peer,
        head: RememberHead,
        query: Bytes,
    ) -> Result<RpcResponse, RpcError> {
        let Ok(group) = self.host.running(head.group) else {
            return Ok(outcome(Outcome::NoReplica, Bytes::new()));
        };
        if !group.machine().answers_to(from.roles, &query) {
            return Err(refused("a node that holds data only may not ask this"));
        }
        match self.host.serve_remember(&group, (from.node, head.by), query).await {
            Ok((_, answer)) if answer.len() > REPLY_BYTES_MAX => {
                Err(failed("the answer is too large"))
            }
            Ok((said, answer)) => Ok(outcome(said, answer)),
            Err(error) => Err(failed(error)),
        }
    }

    async fn query(
        &self,
        from: Peer,
        head: GroupHead,
        query: Bytes,
    ) -> Result<RpcResponse, RpcError> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(refused("the query is too large"));
        }
        let Ok(group) = self.host.running(head.group) else {
            return Ok(outcome(Outcome::NoReplica, Bytes::new()));
        };
        if !group.machine().answers_to(from.roles, &query) {
            return Err(refused("a node that holds data only may not ask this"));
        }
        let consistency = if head.stale { Consistency::Stale } else { Consistency::Linearizable };
        let until = self.host.inner.env.clock.now().plus(SERVED_QUERY_TIMEOUT);
        match self.host.query_here(&group, query, consistency, until).await {
            Ok(Some(answer)) if answer.len() > REPLY_BYTES_MAX => {
                Err(failed("the answer is too large"))
            }
            Ok(Some(answer)) => Ok(outcome(Outcome::Done, answer)),
            Ok(None) => {
                Ok(outcome(Outcome::NotLeader(self.host.believed_leader(&group)), Bytes::new()))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Whether a vote is of the node that sent it.
fn own_vote(from: Peer, vote: &Vote) -> Result<(), RpcError> {
    if node_of(vote.leader_id().node_id) == from.node {
        Ok(())
    } else {
        Err(refused("a vote in the name of another node"))
    }
}

#[async_trait]
impl RpcService for MetaService {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let method = METHODS.iter().find(|method| method.id == request.method).copied();
        let method = method.ok_or_else(|| refused("unknown method"))?;
        if method.members_only && !from.roles.meta {
            return Err(refused("only nodes with the role meta may call this"));
        }
        if request.head.len() > method.head_bytes_max || request.body.len() > method.body_bytes_max
        {
            // A single entry of the largest command is larger than a batch of small ones; the
            // margin of the method covers it.
            return Err(refused("too large"));
        }
        match method {
            APPEND => {
                self.raft(
                    from,
                    method,
                    request,
                    |group, message: AppendEntriesRequest<MetaTypes>| async move {
                        own_vote(from, &message.vote)?;
                        let answer = group.raft.append_entries(message).await.map_err(failed)?;
                        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                            group.hear();
                        }
                        Ok(answer)
                    },
                )
                .await
            }
            VOTE => {
                self.raft(
                    from,
                    method,
                    request,
                    |group, message: VoteRequest<MetaTypes>| async move {
                        own_vote(from, &message.vote)?;
                        group.raft.vote(message).await.map_err(failed)
                    },
                )
                .await
            }
            PRE_VOTE => {
                self.raft(
                    from,
                    method,
                    request,
                    |group, message: VoteRequest<MetaTypes>| async move {
                        own_vote(from, &message.vote)?;
                        group.raft.pre_vote(message).await.map_err(failed)
                    },
                )
                .await
            }
            TRANSFER_LEADER => {
                self.raft(
                    from,
                    method,
                    request,
                    |group, message: TransferLeaderRequest<MetaTypes>| async move {
                        own_vote(from, message.from_leader())?;
                        group.raft.handle_transfer_leader(message).await.map_err(failed)
                    },
                )
                .await
            }
            CONFIRM => {
                self.raft(from, method, request, |group, vote: Vote| async move {
                    own_vote(from, &vote)?;
                    group.confirms(&vote).map_err(failed)
                })
                .await
            }
            SNAPSHOT_BEGIN => {
                self.raft(from, method, request, |group, body: BeginBody| self.begin(group, body))
                    .await
            }
            SNAPSHOT_CHUNK => self.chunk(from, request).await,
            SNAPSHOT_END => {
                self.raft(from, method, request, |group, body: EndBody| async move {
                    own_vote(from, &body.vote)?;
                    self.end(group, body).await
                })
                .await
            }
            INVITE => {
                let head: GroupHead = decode(&request.head, method.name).map_err(refused)?;
                self.invite(head.group, head.stale).await
            }
            JOIN => {
                let head: JoinHead = decode(&request.head, method.name).map_err(refused)?;
                self.join(head).await
            }
            READ_INDEX => {
                let head: GroupHead = decode(&request.head, method.name).map_err(refused)?;
                Ok(self.read_index(head).await)
            }
            STANDING => {
                let head: StandingHead = decode(&request.head, method.name).map_err(refused)?;
                self.standing(head).await
            }
            NEWS => {
                let head: NewsHead = decode(&request.head, method.name).map_err(refused)?;
                Ok(self.news(head).await)
            }
            PROPOSE => {
                let head: ProposeHead = decode(&request.head, method.name).map_err(refused)?;
                self.propose(from, head, None, request.body).await
            }
            PROPOSE_BY => {
                let head: ProposeByHead = decode(&request.head, method.name).map_err(refused)?;
                self.propose(from, head.propose, Some(head.by), request.body).await
            }
            WATCH => {
                let head: WatchHead = decode(&request.head, method.name).map_err(refused)?;
                let (said, watched) = self.host.serve_watch(from.node, head).await;
                Ok(outcome(said, watched))
            }
            REMEMBER => {
                let head: RememberHead = decode(&request.head, method.name).map_err(refused)?;
                self.remember(from, head, request.body).await
            }
            QUERY => {
                let head: GroupHead = decode(&request.head, method.name).map_err(refused)?;
                self.query(from, head, request.body).await
            }
            _ => Err(refused("unknown method")),
        }
    }
}
