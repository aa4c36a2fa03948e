//! Takes a checkpoint: rows out, blocks in, the record to all who keep one, and old checkpoints away.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use nexusgrid_codec::GroupId;
use nexusgrid_env::{NodeId, RpcRequest};
use nexusgrid_meta::export::Export;
use nexusgrid_meta::namespace::types::{
    ContentBody, DeleteObject, ListEntry, NamespaceAnswer, NamespaceCommand, NamespaceError,
    NamespaceOk, NamespaceQuery, ObjectMeta, PieceData, PutObject, RangeSpec,
};
use nexusgrid_meta::root::topology::Bucket;

use super::Checkpoints;
use super::record::{RecordBody, RecordHead};
use super::wire::{self, Reply, Request};
use crate::api::{BodyStream, Reject, RejectKind, Tenant};
use crate::body::BodyReader;
use crate::core::internal;
use crate::error::GridError;
use crate::limits;
use crate::meta_port::{MetaError, ROOT};
use crate::own::system_bucket;
use crate::shard::wire::{ShardMethod, decode, encode};
use crate::stripe::BlockKind;

/// Checkpoints share the byte budget as one tenant.
const TENANT: &str = "metadata checkpoints";

impl Checkpoints {
    /// Takes a checkpoint of a group that has a replica here; gives its record, and its length.
    pub(super) async fn take(&self, group: GroupId) -> Result<(RecordHead, u64), GridError> {
        let _one = self.taking.lock().await;
        let core = &self.core;
        let keys = core.keys.record_keys()?;
        let bucket = system_bucket(&self.core).await?;
        let map = core.map.refresh().await?;
        let host = self.host.clone();
        let export = core.env.exec.blocking(move || host.export(group)).await;
        let export = export.map_err(|error| GridError::Unavailable(error.to_string()))?;
        let state = export.head();
        let head = RecordHead {
            group,
            incarnation: map.incarnation,
            index: state.index,
            taken_ms: core.meta.now_ms(),
        };
        let head = behind(head, self.shelf.newest(group));

        let key = core.keys.fresh(bucket.id, &bucket.name, bucket.key_version).await?;
        let tenant = Tenant(TENANT.to_owned());
        let mut body = BodyReader::new(rows(core, export), None, limits::CHECKPOINT_BYTES_MAX);
        let large = core
            .receive_blocks(&tenant, &mut body, bucket.group, &key, BlockKind::Large, None)
            .await?;
        let bytes = large.content.size;
        let ContentBody::Extents(extents) = &large.content.body else {
            return Err(internal("a checkpoint without extents"));
        };
        let record = RecordBody {
            bytes,
            generation: state.generation,
            wrapped_key: keys
                .wrap(&key.open, core.keys.random_nonce(), group, head.index)
                .map_err(internal)?,
            extents: extents.clone(),
            // One copy of it is enough: a restore without the root group's record is none.
            topology: if group == ROOT { map.encode() } else { Vec::new() },
        };
        let record = keys.seal(head, &record, core.keys.random_nonce()).map_err(internal)?;

        let large = large.staged(core).await?;
        let put = PutObject {
            bucket: bucket.id,
            key: object_key(&head),
            precondition: Default::default(),
            content: large.content,
            meta: ObjectMeta::default(),
        };
        let command = NamespaceCommand::Commit {
            session: large.session.id,
            blocks: large.blocks,
            puts: vec![put],
            now_ms: core.meta.now_ms(),
        };
        match core.meta.command(bucket.group, &command).await? {
            NamespaceOk::Put(results) => {
                for result in results {
                    result.map_err(internal)?;
                }
            }
            _ => return Err(internal("reply to storing a checkpoint")),
        }
        core.refill_after_commit(large.refill);
        if let Err(error) = self.hand_out(Bytes::from(record)).await {
            let gone = self.attempts.stored(head).iter().map(object_key).collect();
            if let Err(error) = self.drop_keys(&bucket, gone).await {
                tracing::info!(group = group.0, %error, "removing checkpoints that came to nothing");
            }
            return Err(error);
        }
        tracing::info!(group = group.0, index = head.index, bytes, "checkpoint of metadata taken");
        // Nothing rests on this: what stays is found again by the next.
        if let Err(error) = self.drop_old(&bucket, group).await {
            tracing::info!(group = group.0, %error, "removing old checkpoints");
        }
        Ok((head, bytes))
    }

    /// Has whoever it is up to take a checkpoint of a group now.
    pub async fn take_now(&self, group: GroupId) -> Result<RecordHead, GridError> {
        if self.is_mine(group) {
            return self.take(group).await.map(|(head, _)| head);
        }
        let map = self.core.map.current();
        let voters = map.voters(group).iter().map(|voter| voter.node());
        let mut why = format!("group {}: no gateway leads it or votes in it", group.0);
        for node in voters.filter(|node| *node != self.core.node) {
            let deadline = limits::CHECKPOINT_TAKE_DEADLINE;
            match self.call(node, wire::TAKE, &Request::Take(group), Bytes::new(), deadline).await {
                Ok((Reply::Taken(head), _)) => return Ok(head),
                Ok((Reply::Failed(error), _)) => why = error,
                Ok(_) => {}
                Err(error) => why = error.to_string(),
            }
        }
        Err(GridError::Unavailable(why))
    }

    /// Gives a record to every stable node; done when a majority of them has it durably.
    async fn hand_out(&self, record: Bytes) -> Result<(), GridError> {
        let map = self.core.map.current();
        let keepers: Vec<NodeId> = self.keepers(&map).map(|node| node.id).collect();
        let give = |node: NodeId| {
            let record = record.clone();
            async move {
                if node == self.core.node {
                    return self.shelf.put(record).await.is_ok();
                }
                let deadline = limits::BOOTSTRAP_CALL_DEADLINE;
                let put = self.call(node, wire::PUT, &Request::Put, record, deadline).await;
                matches!(put, Ok((Reply::Done, _)))
            }
        };
        let kept = join_all(keepers.iter().copied().map(give)).await;
        let kept = kept.into_iter().filter(|kept| *kept).count();
        if kept < keepers.len() / 2 + 1 {
            let all = keepers.len();
            let why = format!("only {kept} of {all} stable nodes keep the bootstrap record");
            return Err(GridError::Unavailable(why));
        }
        Ok(())
    }

    /// Groups of this node whose newest checkpoint was moved to other blocks since (by a rewrite into
    /// another code), or is gone: its record leads nowhere soon, so another is due. Asked now and then.
    pub(super) async fn moved(&self) -> Vec<GroupId> {
        let now = self.core.env.clock.now();
        if now.since(*self.looked.lock()) < limits::CHECKPOINT_LOOK_EVERY {
            return Vec::new();
        }
        *self.looked.lock() = now;
        let mut moved = Vec::new();
        let rests = |group: GroupId| self.attempts.rests(group, limits::CHECKPOINT_LOOK_EVERY, now);
        let is_due = |group: &GroupId| self.is_mine(*group) && !rests(*group);
        for group in self.host.groups().into_iter().filter(is_due) {
            if self.has_moved(group).await == Some(true) {
                moved.push(group);
            }
        }
        moved
    }

    /// Whether a group's newest record is not where its checkpoint is; `None` if nobody can tell.
    async fn has_moved(&self, group: GroupId) -> Option<bool> {
        let map = self.core.map.current();
        let bucket = map.system_bucket()?;
        let head = self.shelf.newest(group)?;
        let (_, record) =
            self.core.keys.record_keys().ok()?.open(&self.shelf.get(&head).await.ok()??).ok()?;
        let query = NamespaceQuery::Get {
            bucket: bucket.id,
            key: object_key(&head),
            range: RangeSpec::Full,
        };
        match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::Get(got)) => {
                // The map may end early: a rewrite that moved only what follows is found when it
                // goes on, or with the next checkpoint.
                let blocks = got.map.pieces.iter().map(|piece| match &piece.data {
                    PieceData::Extent(extent) => Some(extent.block),
                    PieceData::Inline { .. } | PieceData::Hole => None,
                });
                let recorded = record.extents.iter().map(|extent| Some(extent.block));
                Some(blocks.zip(recorded).any(|(is, was)| is != was))
            }
            Err(MetaError::Namespace(NamespaceError::NoSuchKey)) => Some(true),
            _ => None,
        }
    }

    /// A node that should keep records and lacks one, because it is new or what it had was damaged, asks
    /// the group's voters for theirs. Now and then.
    pub(super) async fn fetch_missing(&self) {
        let now = self.core.env.clock.now();
        if now.since(*self.asked.lock()) < limits::RECORD_MISSING_LOOK_EVERY {
            return;
        }
        *self.asked.lock() = now;
        let map = self.core.map.current();
        if !self.keepers(&map).any(|node| node.id == self.core.node) {
            return;
        }
        let missing = map.groups.keys().filter(|group| self.shelf.newest(**group).is_none());
        let voters: BTreeSet<NodeId> = missing
            .flat_map(|group| map.voters(*group))
            .map(|voter| voter.node())
            .filter(|node| *node != self.core.node)
            .collect();
        for node in voters {
            let (_, Some((mut heads, _))) = self.list(node).await else { continue };
            heads.sort_unstable_by_key(|head| std::cmp::Reverse(head.age_order()));
            for head in heads.into_iter().filter(|head| self.shelf.newest(head.group).is_none()) {
                let Some(record) = self.fetch_record(node, &head).await else { continue };
                if let Err(error) = self.shelf.put(record).await {
                    tracing::warn!(group = head.group.0, %error, "keeping a bootstrap record");
                }
            }
        }
    }

    /// Removes all checkpoints of a group but the newest.
    async fn drop_old(&self, bucket: &Bucket, group: GroupId) -> Result<(), GridError> {
        let query = NamespaceQuery::List {
            bucket: bucket.id,
            prefix: prefix(group),
            delimiter: None,
            after: None,
            limit: limits::CHECKPOINTS_LISTED_MAX,
        };
        let NamespaceAnswer::List(listing) = self.core.meta.ask(bucket.group, &query).await? else {
            return Err(internal("answer to a listing"));
        };
        let mut keys: Vec<Vec<u8>> = listing
            .entries
            .into_iter()
            .filter_map(|entry| match entry {
                ListEntry::Object(key, _) => Some(key.to_vec()),
                ListEntry::Prefix(_) => None,
            })
            .collect();
        // Keys lie in order of age.
        keys.truncate(keys.len().saturating_sub(limits::CHECKPOINTS_KEPT));
        self.drop_keys(bucket, keys).await
    }

    async fn drop_keys(&self, bucket: &Bucket, keys: Vec<Vec<u8>>) -> Result<(), GridError> {
        for key in keys {
            let session = self.core.sessions.get(bucket.group).await?;
            let delete = DeleteObject { key, precondition: Default::default() };
            let command = NamespaceCommand::Delete {
                session: session.id,
                bucket: bucket.id,
                deletes: vec![delete],
                now_ms: self.core.meta.now_ms(),
            };
            self.core.meta.command(bucket.group, &command).await?;
        }
        Ok(())
    }

    pub(super) async fn call(
        &self,
        node: NodeId,
        method: ShardMethod,
        request: &Request,
        body: Bytes,
        deadline: std::time::Duration,
    ) -> Result<(Reply, Bytes), GridError> {
        let request = RpcRequest { method: method.id, head: Bytes::from(encode(request)), body };
        let response = self.rpc.call(node, request, deadline).await;
        let response = response.map_err(|error| GridError::Unavailable(error.to_string()))?;
        let reply = decode(&response.head).map_err(internal)?;
        Ok((reply, response.body))
    }
}

/// The frames of an export as a body. Each is read when it is asked for.
fn rows(core: &Arc<crate::core::Core>, export: Export) -> BodyStream {
    let exec = core.env.exec.clone();
    Box::pin(stream::try_unfold((exec, export), |(exec, mut export)| async move {
        let (frame, export) = exec.blocking(move || (export.next_frame(), export)).await;
        let failed = |error: nexusgrid_env::KvError| Reject {
            kind: RejectKind::IncompleteBody,
            message: error.to_string(),
        };
        Ok(frame.map_err(failed)?.map(|frame| (frame, (exec, export))))
    }))
}

/// A clock that stood still or was set back must not make a new checkpoint of an old state the older
/// one: its record would be let go, and its object take the other's name.
fn behind(head: RecordHead, newest: Option<RecordHead>) -> RecordHead {
    match newest.filter(|newest| newest.state_order() == head.state_order()) {
        Some(newest) => {
            RecordHead { taken_ms: head.taken_ms.max(newest.taken_ms.saturating_add(1)), ..head }
        }
        None => head,
    }
}

fn prefix(group: GroupId) -> Vec<u8> {
    format!("checkpoint/{:010}/", group.0).into_bytes()
}

/// In order of age within its group.
fn object_key(head: &RecordHead) -> Vec<u8> {
    let mut key = prefix(head.group);
    key.extend_from_slice(
        format!("{:010}-{:020}-{:013}", head.incarnation, head.index, head.taken_ms).as_bytes(),
    );
    key
}
