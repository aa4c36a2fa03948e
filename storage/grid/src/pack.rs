//! Small contents: inline in the metadata, or many in one block of copies; many per commit.
//!
//! ```text
//!  put ─▶ queue of its bucket ─▶ flush: ≤ 4 MiB, ≤ 128 contents ─▶ one block ─▶ one command
//!                 ▲                │ a flush ends: the next takes what waits
//!                 └────────────────┘
//! ```
//!
//! A lone write waits for nobody: with no flush of its bucket running it starts one at once. Each
//! waiter learns its own result; a refused precondition of one leaves the others alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::{Code, ContentKey, GroupId, seal};
use nexusgrid_env::Invariant;
use nexusgrid_meta::limits as meta_limits;
use nexusgrid_meta::namespace::types::{
    BucketId, ContentBody, NamespaceCommand, NamespaceOk, NewContent, ObjectMeta, Precondition,
    PutDone, PutObject, WrappedKey,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::budget::Reservation;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::meta_port::MetaError;
use crate::session::Session;
use crate::stripe::{BlockKind, Payload};
use crate::write::extent;

/// A small object on its way.
pub(crate) struct SmallPut {
    pub(crate) bucket: BucketId,
    pub(crate) group: GroupId,
    pub(crate) key: Vec<u8>,
    pub(crate) precondition: Precondition,
    pub(crate) meta: ObjectMeta,
    pub(crate) content_key: ContentKey,
    pub(crate) wrapped: WrappedKey,
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) len: u64,
    /// Held until the put is answered.
    pub(crate) _reservation: Reservation,
}

struct Waiting {
    put: SmallPut,
    reply: oneshot::Sender<Result<PutDone, GridError>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
    flushes: usize,
}

/// Queues of small puts by bucket.
#[derive(Default)]
pub(crate) struct Packer {
    queues: Mutex<BTreeMap<BucketId, Queue>>,
}

impl Packer {
    /// Stores a small object; returns when it is committed.
    pub(crate) async fn put(
        self: &Arc<Packer>,
        core: &Arc<Core>,
        put: SmallPut,
    ) -> Result<PutDone, GridError> {
        let bucket = put.bucket;
        let (reply, result) = oneshot::channel();
        let starts = {
            let mut queues = self.queues.lock();
            let queue = queues.entry(bucket).or_default();
            queue.waiting_bytes += put.len;
            queue.waiting.push_back(Waiting { put, reply });
            let full = queue.waiting_bytes >= limits::PACK_BYTES_MAX as u64
                || queue.waiting.len() >= limits::PACK_CONTENTS_MAX;
            let starts =
                queue.flushes == 0 || (full && queue.flushes < limits::PACK_FLUSHES_PER_BUCKET_MAX);
            queue.flushes += usize::from(starts);
            starts
        };
        if starts {
            // A task of its own: the flush serves others and must not end with this request.
            let (packer, core) = (Arc::clone(self), Arc::clone(core));
            core.env.exec.clone().spawn(async move { packer.flush_all(&core, bucket).await });
        }
        result.await.map_err(|_| GridError::Stopping)?
    }

    /// Flushes until nothing waits.
    async fn flush_all(&self, core: &Arc<Core>, bucket: BucketId) {
        loop {
            let batch = {
                let mut queues = self.queues.lock();
                let Some(queue) = queues.get_mut(&bucket) else { return };
                let batch = queue.take_batch();
                if batch.is_empty() {
                    queue.flushes -= 1;
                    if queue.flushes == 0 {
                        queues.remove(&bucket);
                    }
                    return;
                }
                batch
            };
            flush(core, batch).await;
        }
    }
}

impl Queue {
    fn take_batch(&mut self) -> Vec<Waiting> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut command_bytes = 0;
        while let Some(next) = self.waiting.front() {
            let next_command_bytes = command_size(&next.put);
            let fits = batch.len() < limits::PACK_CONTENTS_MAX
                && bytes + next.put.len <= limits::PACK_BYTES_MAX as u64
                && command_bytes + next_command_bytes <= meta_limits::COMMAND_BYTES_MAX * 3 / 4;
            if !fits && !batch.is_empty() {
                break;
            }
            bytes += next.put.len;
            command_bytes += next_command_bytes;
            batch.extend(self.waiting.pop_front());
        }
        self.waiting_bytes -= bytes;
        batch
    }
}

/// Roughly what a put adds to the commit command, inline bytes included.
fn command_size(put: &SmallPut) -> usize {
    let user: usize =
        put.meta.user_metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    // Headers are bounded elsewhere; an extent, a wrapped key and checksums are below 512 bytes.
    let inline = if put.len <= limits::INLINE_BYTES_MAX as u64 { put.len as usize } else { 0 };
    // A name, a value, and their lengths.
    let tags: usize = put.meta.tags.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let special = put.meta.special_bytes();
    put.key.len() + user + tags + inline + 512 + header_size(&put.meta) + special
}

fn header_size(meta: &ObjectMeta) -> usize {
    let headers = &meta.headers;
    [
        &headers.content_type,
        &headers.cache_control,
        &headers.content_disposition,
        &headers.content_encoding,
        &headers.content_language,
        &headers.expires,
        &headers.website_redirect,
    ]
    .iter()
    .map(|header| header.as_ref().map_or(0, String::len))
    .sum()
}

async fn flush(core: &Arc<Core>, batch: Vec<Waiting>) {
    let Some(group) = batch.first().map(|waiting| waiting.put.group) else { return };
    let mut batch = Some(batch);
    // Everything is at hand, so a lost session costs one repetition under the next.
    for attempt in 0..2 {
        let Some(waiting) = batch.take() else { return };
        let last = attempt == 1;
        let session = match core.sessions.get(group).await {
            Ok(session) => session,
            Err(error) => return refuse(waiting, &error),
        };
        match flush_once(core, &session, &waiting).await {
            Ok(results) => {
                for (waiting, result) in waiting.into_iter().zip(results) {
                    let _ = waiting.reply.send(result);
                }
                return;
            }
            Err(Failure::SessionLost) if !last => {
                core.sessions.forget(&session);
                batch = Some(waiting);
            }
            Err(Failure::SessionLost) => {
                let error = GridError::Unavailable("the write session was closed".to_owned());
                return refuse(waiting, &error);
            }
            Err(Failure::Other(error)) => return refuse(waiting, &error),
        }
    }
}

fn refuse(batch: Vec<Waiting>, error: &GridError) {
    for waiting in batch {
        let _ = waiting.reply.send(Err(error.clone()));
    }
}

enum Failure {
    SessionLost,
    Other(GridError),
}

impl From<GridError> for Failure {
    fn from(error: GridError) -> Failure {
        Failure::Other(error)
    }
}

async fn flush_once(
    core: &Arc<Core>,
    session: &Arc<Session>,
    batch: &[Waiting],
) -> Result<Vec<Result<PutDone, GridError>>, Failure> {
    let is_packed = |waiting: &&Waiting| waiting.put.len > core.options.inline_bytes as u64;
    let packed: Vec<&Waiting> = batch.iter().filter(is_packed).collect();
    let mut stored = None;
    if !packed.is_empty() {
        let contents = packed
            .iter()
            .map(|waiting| (waiting.put.content_key.clone(), waiting.put.pieces.clone()))
            .collect();
        let block = core.store_block(session, BlockKind::Pack, Payload::Plain(contents)).await;
        // A session that a drive calls closed was forgotten by `store_block`.
        let lost = core.sessions.get(session.group).await.is_ok_and(|now| now.id != session.id);
        match block {
            Ok(block) => stored = Some(block),
            Err(GridError::Unavailable(_)) if lost => return Err(Failure::SessionLost),
            Err(error) => return Err(error.into()),
        }
    }
    let mut regions = stored.iter().flat_map(|block| block.regions.iter().copied());
    let mut puts = Vec::with_capacity(batch.len());
    for waiting in batch {
        let put = &waiting.put;
        let body = if put.len == 0 {
            ContentBody::Empty
        } else if is_packed(&waiting) {
            let region = regions.next().ok_or_else(|| internal("a region per content"))?;
            let block = stored.as_ref().ok_or_else(|| internal("a block for the pack"))?;
            ContentBody::Extents(vec![extent(block, region, 0)])
        } else {
            seal_inline(core, session, put)?
        };
        let content = NewContent { size: put.len, key: put.wrapped.clone(), body };
        puts.push(PutObject {
            bucket: put.bucket,
            key: put.key.clone(),
            precondition: put.precondition.clone(),
            content,
            meta: put.meta.clone(),
        });
    }
    drop(regions);
    let command = NamespaceCommand::Commit {
        session: session.id,
        blocks: stored.iter().map(|block| block.row).collect(),
        puts,
        now_ms: core.meta.now_ms(),
    };
    let reply = core.meta.command(session.group, &command).await;
    let results = match reply {
        Ok(NamespaceOk::Put(results)) if results.len() == batch.len() => results,
        Ok(_) => return Err(internal("reply of a commit").into()),
        Err(MetaError::Namespace(
            nexusgrid_meta::namespace::types::NamespaceError::SessionClosed(_),
        )) => return Err(Failure::SessionLost),
        Err(error) => return Err(GridError::from(error).into()),
    };
    if let Some(block) = stored {
        core.refill_after_commit(block.refill);
    }
    let convert = |error| GridError::from(MetaError::Namespace(error));
    Ok(results.into_iter().map(|result| result.map_err(convert)).collect())
}

/// Seals inline bytes: they take a block id of their own, which names key and nonce.
fn seal_inline(core: &Core, session: &Session, put: &SmallPut) -> Result<ContentBody, GridError> {
    let block = session
        .next_block()
        .ok_or_else(|| GridError::Unavailable("block ids are used up".to_owned()))?;
    core.env.invariants.once(Invariant::I14, &block.to_bytes());
    let code = Code::copies(1).map_err(internal)?;
    let (sealed, _) =
        seal::seal_one(core.keys.cluster(), block, code, &put.content_key, &put.pieces)
            .map_err(internal)?;
    Ok(ContentBody::Inline { block, sealed: sealed.bytes })
}
