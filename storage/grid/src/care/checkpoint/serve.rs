//! What other nodes ask about records and restores.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use nexusgrid_env::{NodeId, Peer, RpcError, RpcRequest, RpcResponse, RpcService};
use nexusgrid_meta::root::restore::lost_generation;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::{Restore, RootAnswer, RootQuery};

use super::claim::Claimed;
use super::record::tail_head_of;
use super::tails::Put;
use super::wire::{self, Claim, Reply, Request};
use super::{Checkpoints, Told};
use crate::limits;
use crate::meta_port::ROOT;
use crate::shard::wire::{decode, encode};

fn refused(why: impl ToString) -> RpcError {
    RpcError::Refused(why.to_string())
}

#[async_trait]
impl RpcService for Checkpoints {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let asked: Request = decode(&request.head).map_err(refused)?;
        let is = |method: crate::shard::wire::ShardMethod| request.method == method.id;
        let (reply, body) = match asked {
            Request::Put if is(wire::PUT) => match self.shelf.put(request.body).await {
                Ok(()) => (Reply::Done, Bytes::new()),
                Err(error) => (Reply::Failed(error.to_string()), Bytes::new()),
            },
            Request::List if is(wire::LIST) => {
                let map = self.kept_map.topology().encode();
                (Reply::Listed(self.shelf.heads()), Bytes::from(map))
            }
            Request::Get(head) if is(wire::GET) => match self.shelf.get(&head).await {
                Ok(Some(record)) => (Reply::Got, record),
                Ok(None) => (Reply::None, Bytes::new()),
                Err(error) => (Reply::Failed(error.to_string()), Bytes::new()),
            },
            Request::PutTail if is(wire::TAIL_PUT) => {
                let head = tail_head_of(&request.body).map_err(refused)?;
                match self.keep_tail(head.group, request.body).await {
                    Ok(Put::Kept) => (Reply::Done, Bytes::new()),
                    Ok(Put::Full) => (Reply::Full, Bytes::new()),
                    Err(error) => (Reply::Failed(error.to_string()), Bytes::new()),
                }
            }
            Request::Tails(group) if is(wire::TAIL_LIST) => {
                (Reply::Tails(self.shelf.tails.heads(group)), Bytes::new())
            }
            Request::GetTail(head) if is(wire::TAIL_GET) => match self.shelf.tails.get(&head).await
            {
                Ok(Some(tail)) => (Reply::Got, tail),
                Ok(None) => (Reply::None, Bytes::new()),
                Err(error) => (Reply::Failed(error.to_string()), Bytes::new()),
            },
            Request::TailState(group) if is(wire::TAIL_STATE) => {
                let state = self.tail_state_here(group);
                (state.map_or(Reply::NotMine, Reply::TailState), Bytes::new())
            }
            Request::Claim(claim) if is(wire::CLAIM) => {
                let reply = match self.hear_claim(from.node, claim) {
                    Claimed::Agreed => Reply::Done,
                    Claimed::By(other) => Reply::Claimed(other),
                    Claimed::Past(incarnation) => Reply::Past(incarnation),
                };
                (reply, Bytes::new())
            }
            Request::Take(group) if is(wire::TAKE) && !self.is_mine(group) => {
                (Reply::NotMine, Bytes::new())
            }
            Request::Take(group) if is(wire::TAKE) => match self.take(group).await {
                Ok((head, _)) => (Reply::Taken(head), Bytes::new()),
                Err(error) => (Reply::Failed(error.to_string()), Bytes::new()),
            },
            Request::Announce(restores) if is(wire::ANNOUNCE) => {
                let map = Topology::decode(&request.body).map_err(refused)?;
                match self.hear(&restores, map).await {
                    Ok(()) => (Reply::Done, Bytes::new()),
                    Err(error) => (Reply::Failed(error), Bytes::new()),
                }
            }
            _ => return Err(refused("method and request differ")),
        };
        Ok(RpcResponse { head: Bytes::from(encode(&reply)), body })
    }
}

impl Checkpoints {
    /// Groups were lost and founded anew: what is here of the lost ones goes, and the map, which says
    /// where the new ones are, comes.
    async fn hear(&self, restores: &[Restore], map: Topology) -> Result<(), String> {
        if map.incarnation < self.core.deletions.incarnation() {
            return Err(format!("incarnation {} is past", map.incarnation));
        }
        self.kept_map.offer(&Arc::new(map));
        let groups = restores.iter().flat_map(|restore| &restore.groups).map(|lost| lost.group);
        for group in groups.collect::<BTreeSet<_>>() {
            if let Some(generation) = lost_generation(restores, group) {
                let discarded = self.host.discard_lost(group, generation).await;
                discarded.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// A node says that it restores, or that it does not any more.
    pub(super) fn hear_claim(&self, by: NodeId, claim: Claim) -> Claimed {
        let known = self.core.deletions.incarnation().max(self.kept_map.topology().incarnation);
        self.claims.claim(by, claim, known, self.core.env.clock.now())
    }

    /// The root group's leader tells every node once of the restores there were.
    pub(super) async fn announce(&self, told: &mut Told) {
        let map = self.core.map.current();
        if map.incarnation <= 1 || !self.core.meta.leads(ROOT) {
            *told = Told::default();
            return;
        }
        if told.incarnation != map.incarnation {
            *told = Told { incarnation: map.incarnation, ..Told::default() };
        }
        let untold: Vec<NodeId> = map
            .nodes
            .keys()
            .filter(|node| map.node(**node).is_some() && !told.nodes.contains(*node))
            .copied()
            .collect();
        if untold.is_empty() {
            return;
        }
        let Ok(RootAnswer::Restores(restores)) =
            self.core.meta.root_ask(&RootQuery::Restores).await
        else {
            return;
        };
        // A leader that was deposed by a restore could not have asked: this is the newest there is.
        let body = Bytes::from(map.encode());
        let tell = |node: NodeId| {
            let (restores, body, map) = (&restores.restores, body.clone(), Arc::clone(&map));
            async move {
                if node == self.core.node {
                    return self.hear(restores, (*map).clone()).await.is_ok().then_some(node);
                }
                let announce = Request::Announce(restores.clone());
                let deadline = limits::ANNOUNCE_DEADLINE;
                let call = self.call(node, wire::ANNOUNCE, &announce, body, deadline).await;
                matches!(call, Ok((Reply::Done, _))).then_some(node)
            }
        };
        let heard = join_all(untold.into_iter().map(tell)).await;
        told.nodes.extend(heard.into_iter().flatten());
    }
}
