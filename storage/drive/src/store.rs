//! The interface: [`DriveStore`].

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::{BlockId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::{Env, ScanRange};
use tokio::sync::{oneshot, watch};

use crate::admit::{Op, PutOp, Reply};
use crate::error::{DriveError, OpenError};
use crate::index::{self, SegmentRow, Sessions};
use crate::limits::{
    BLOCKS_PER_OP_MAX, LIST_ROWS_MAX, SHARD_BODY_BYTES_MAX, SHARD_HEADER_BYTES_MAX,
};
use crate::metrics::MetricsSnapshot;
use crate::queue::Lane;
use crate::reclaim;
use crate::shared::Shared;
use crate::types::{
    DriveIdentity, DriveOptions, DriveState, FillSessionId, Incarnation, ListPage, Maintained,
    OpenReport, PutAck, ReadOptions, Reconciled, SessionFloor, ShardKey, ShardRead, ShardStat,
    ShardWrite, SuperblockInfo, Usage, Verdict, WriteClass,
};
use crate::{commit, open, read};

/// One open drive. Clones are the same store; the last one that goes closes it.
///
/// Every change is durable when its future resolves `Ok`. A future that is dropped leaves the
/// change undecided: it may still happen.
#[derive(Clone)]
pub struct DriveStore {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

/// Queues an operation and waits for its commit.
pub(crate) async fn submit(shared: &Arc<Shared>, lane: Lane, op: Op) -> Result<Reply, DriveError> {
    shared.check()?;
    let bytes = op.queue_bytes();
    let answer = match shared.queue.push(lane, op, bytes).await {
        Ok(answer) => answer,
        Err(error) => return Err(shared.check().err().unwrap_or(error)),
    };
    wait(shared, answer).await
}

/// Waits for a commit; the writer's end is an answer too.
pub(crate) async fn wait(
    shared: &Arc<Shared>,
    answer: oneshot::Receiver<Result<Reply, DriveError>>,
) -> Result<Reply, DriveError> {
    match answer.await {
        Ok(answer) => answer,
        Err(_) => Err(shared.check().err().unwrap_or(DriveError::Closed)),
    }
}

impl DriveStore {
    /// Makes `dir` a drive of `identity`; refuses a directory that holds one already. The
    /// incarnation in the answer goes to the root group.
    pub async fn format(
        env: &Env,
        dir: &Path,
        identity: DriveIdentity,
        options: &DriveOptions,
    ) -> Result<SuperblockInfo, OpenError> {
        let (inner, dir, options) = (env.clone(), dir.to_path_buf(), options.clone());
        env.exec.blocking(move || open::format(&inner, &dir, identity, &options)).await
    }

    /// Reads whose drive `dir` is, without opening it.
    pub async fn identify(env: &Env, dir: &Path) -> Result<SuperblockInfo, OpenError> {
        let (disk, dir) = (env.disk.clone(), dir.to_path_buf());
        env.exec.blocking(move || crate::superblock::read(disk.as_ref(), &dir)).await
    }

    /// Opens the drive in `dir`: checks marker, lock and identity (the incarnation too, if given),
    /// cuts an unsynced tail, brings the index up to the log, starts the writer and, if the
    /// options say so, the maintenance worker. Both end with `env.exec` or with the store.
    pub async fn open(
        env: &Env,
        dir: &Path,
        expected: DriveIdentity,
        incarnation: Option<Incarnation>,
        options: &DriveOptions,
    ) -> Result<DriveStore, OpenError> {
        let (inner, dir, options) = (env.clone(), dir.to_path_buf(), options.clone());
        let opened =
            env.exec.blocking(move || open::open(&inner, &dir, expected, incarnation, &options));
        let shared = Arc::new(opened.await?);
        env.exec.spawn(commit::run(commit::WriterGuard(shared.clone())));
        if let Some(every) = shared.options.maintain_every {
            let worker = shared.clone();
            env.exec.spawn(async move {
                let mut ended = worker.ended.subscribe();
                loop {
                    let clock = worker.env.clock.clone();
                    tokio::select! {
                        biased;
                        _ = ended.wait_for(|ended| *ended) => return,
                        () = clock.sleep(every) => {}
                    }
                    if let Err(error) = reclaim::maintain(&worker).await {
                        tracing::warn!(%error, "drive maintenance");
                    }
                }
            });
        }
        Ok(DriveStore { handle: Arc::new(Handle { shared }) })
    }

    /// Commits what is queued, flushes the index, stops the writer and refuses everything after.
    pub async fn close(&self) {
        let shared = self.shared();
        shared.queue.close();
        let mut ended = shared.ended.subscribe();
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    #[cfg(test)]
    pub(crate) fn kv_for_tests(&self) -> Arc<dyn nexusgrid_env::Kv> {
        self.shared().kv.clone()
    }

    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> R + Send + 'static,
    ) -> R {
        let shared = self.shared().clone();
        self.shared().env.exec.blocking(move || work(&shared)).await
    }

    /// From the superblock.
    pub fn info(&self) -> SuperblockInfo {
        self.shared().info
    }

    /// What opening found: a cut tail, a rebuilt index, damage.
    pub fn open_report(&self) -> &OpenReport {
        &self.shared().report
    }

    /// Whether the drive serves; watch it to report a failure at once.
    pub fn state(&self) -> watch::Receiver<DriveState> {
        self.shared().state.subscribe()
    }

    /// The options it was opened with.
    pub fn options(&self) -> &DriveOptions {
        &self.shared().options
    }

    /// Counters.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.shared().metrics.snapshot()
    }

    /// Age of the drive in milliseconds of running time; the trash goes by it.
    pub fn age_ms(&self) -> u64 {
        self.shared().age_ms()
    }

    /// Stores a shard durably, or acknowledges (and re-stamps, R3) the same one that is there.
    pub async fn put(&self, write: ShardWrite) -> Result<PutAck, DriveError> {
        self.shared().check()?;
        let key = ShardKey { block: write.header.block, index: write.header.index };
        let bad = |reason: &str| DriveError::BadShard { key, reason: reason.into() };
        if write.body.len() as u64 > SHARD_BODY_BYTES_MAX {
            return Err(bad("body is too long"));
        }
        let verify = self.shared().options.verify_on_put;
        let op = self
            .blocking(move |_| {
                let header = Bytes::from(write.header.encode());
                if header.len() > SHARD_HEADER_BYTES_MAX {
                    return Err("header is too long");
                }
                if u64::from(write.header.body_len()) != write.body.len() as u64 {
                    return Err("body is not as long as its header says");
                }
                if verify && write.header.verify(&write.body).is_err() {
                    return Err("body does not match its header");
                }
                let Some(digest) = write.header.digest() else {
                    return Err("header has no digest of this shard");
                };
                let body_crc = crc32c::crc32c(&write.body);
                Ok(PutOp { write, header, body_crc, digest: digest.0 })
            })
            .await
            .map_err(bad)?;
        let backfill = op.write.class == WriteClass::Backfill;
        let lane = Lane::of_shard(backfill, op.write.body.len() as u64);
        match submit(self.shared(), lane, Op::Put(Box::new(op))).await? {
            Reply::Put(ack) => Ok(ack),
            _ => Err(DriveError::Invalid("writer answered another operation".into())),
        }
    }

    /// Reads a shard or a range of it. Without `verify` the body's bytes are not checked (the
    /// reader's AEAD tag does that), but they are never another record's.
    pub async fn get(&self, key: ShardKey, options: ReadOptions) -> Result<ShardRead, DriveError> {
        self.blocking(move |shared| read::get(shared, key, &options)).await
    }

    /// What the index knows of a shard, the trash included.
    pub async fn stat(&self, key: ShardKey) -> Result<Option<ShardStat>, DriveError> {
        self.blocking(move |shared| {
            shared.check()?;
            Ok(shared.shard_row(key)?.map(|row| stat_of(key, &row)))
        })
        .await
    }

    /// Shards of a placement group after a key, in key order, the trash left out.
    pub async fn list(
        &self,
        pg: PgId,
        after: Option<ShardKey>,
        limit: usize,
    ) -> Result<ListPage, DriveError> {
        self.blocking(move |shared| list_pg(shared, pg, after, limit, false)).await
    }

    /// All shards after a key, in key order, the trash left out: for the orphan scan and scrub.
    pub async fn list_blocks(
        &self,
        after: Option<ShardKey>,
        limit: usize,
    ) -> Result<Vec<ShardStat>, DriveError> {
        self.blocking(move |shared| list_all(shared, after, limit, false)).await
    }

    /// All shards in the trash after a key, in key order.
    pub async fn list_trash(
        &self,
        after: Option<ShardKey>,
        limit: usize,
    ) -> Result<Vec<ShardStat>, DriveError> {
        self.blocking(move |shared| list_all(shared, after, limit, true)).await
    }

    /// R1, R2: durably knows `epoch` for `pg`, and from then on refuses writes of older ones.
    /// Refuses an older epoch than it knows.
    pub async fn fence(&self, pg: PgId, epoch: Epoch) -> Result<Epoch, DriveError> {
        match submit(self.shared(), Lane::Control, Op::Fence { pg, epoch }).await? {
            Reply::Epoch(known) => Ok(known),
            _ => Err(DriveError::Invalid("writer answered another operation".into())),
        }
    }

    /// The epoch known for a placement group; zero if none.
    pub async fn epoch(&self, pg: PgId) -> Result<Epoch, DriveError> {
        self.blocking(move |shared| epoch_of(shared, pg)).await
    }

    /// R5: deletes every slot of these blocks, trash included, and refuses them from now on.
    /// Returns how many shards died.
    pub async fn tombstone(&self, blocks: &[BlockId]) -> Result<u64, DriveError> {
        let mut killed = 0;
        for chunk in blocks.chunks(BLOCKS_PER_OP_MAX) {
            killed += self.count(Lane::Control, Op::Tombstone(chunk.to_vec())).await?;
        }
        Ok(killed)
    }

    /// R6: raises the writers' floors, then erases the tombstones of blocks whose session is
    /// closed; `SessionOpen` if one is not (earlier chunks are done then).
    pub async fn drop_tombstones(
        &self,
        blocks: &[BlockId],
        floors: &[SessionFloor],
    ) -> Result<u64, DriveError> {
        let mut dropped = 0;
        for chunk in blocks.chunks(BLOCKS_PER_OP_MAX) {
            let op = Op::DropTombstones { blocks: chunk.to_vec(), floors: floors.to_vec() };
            dropped += self.count(Lane::Control, op).await?;
        }
        Ok(dropped)
    }

    /// Whether a block has a tombstone here.
    pub async fn is_tombstoned(&self, block: BlockId) -> Result<bool, DriveError> {
        self.blocking(move |shared| {
            shared.check()?;
            let row = shared.kv.get(index::TOMBSTONES, &block.to_bytes());
            Ok(row.map_err(|error| shared.index_failed(&error))?.is_some())
        })
        .await
    }

    /// R6: refuses writes of this writer session from now on.
    pub async fn close_session(
        &self,
        group: GroupId,
        session: SessionId,
    ) -> Result<(), DriveError> {
        let op = Op::CloseSession { sessions: Sessions::Writers(group), session: session.0 };
        self.count(Lane::Control, op).await.map(drop)
    }

    /// R6: every session of the group below the floor is closed; forgets the closed ones listed
    /// below it.
    pub async fn raise_session_floor(&self, floor: SessionFloor) -> Result<(), DriveError> {
        let op = Op::RaiseFloor { sessions: Sessions::Writers(floor.group), floor: floor.floor.0 };
        self.count(Lane::Control, op).await.map(drop)
    }

    /// R4: refuses repair writes of this fill session from now on.
    pub async fn close_fill_session(
        &self,
        pg: PgId,
        session: FillSessionId,
    ) -> Result<(), DriveError> {
        let op = Op::CloseSession { sessions: Sessions::Fills(pg), session: session.0 };
        self.count(Lane::Control, op).await.map(drop)
    }

    /// R4: every fill session of the PG below `floor` is closed.
    pub async fn raise_fill_floor(&self, pg: PgId, floor: FillSessionId) -> Result<(), DriveError> {
        let op = Op::RaiseFloor { sessions: Sessions::Fills(pg), floor: floor.0 };
        self.count(Lane::Control, op).await.map(drop)
    }

    /// R7: fences the PG to `epoch`, then moves every shard of it that is stamped before and not
    /// in `listed` to the trash.
    pub async fn reconcile(
        &self,
        pg: PgId,
        epoch: Epoch,
        listed: Arc<BTreeSet<BlockId>>,
    ) -> Result<Reconciled, DriveError> {
        self.fence(pg, epoch).await?;
        let mut done = Reconciled::default();
        let mut after = None;
        loop {
            let page = self
                .blocking(move |shared| list_pg(shared, pg, after, BLOCKS_PER_OP_MAX, false))
                .await?;
            let keys: Vec<ShardKey> = page
                .shards
                .iter()
                .filter(|shard| shard.epoch < epoch && !listed.contains(&shard.key.block))
                .map(|shard| shard.key)
                .collect();
            let seen = page.shards.len() as u64;
            after = page.shards.last().map(|shard| shard.key).or(after);
            let mut trashed = 0;
            if !keys.is_empty() {
                // Checked again at its place in the log: a write may re-stamp one meanwhile.
                let op = Op::Trash { keys, stamped_before: Some((pg, epoch)) };
                trashed = self.count(Lane::Control, op).await?;
            }
            done.trashed += trashed;
            done.kept += seen - trashed.min(seen);
            if !page.more {
                return Ok(done);
            }
        }
    }

    /// Moves shards to the trash (orphans): kept for `trash_age`, served to nobody.
    pub async fn trash(&self, keys: &[ShardKey]) -> Result<u64, DriveError> {
        let mut trashed = 0;
        for chunk in keys.chunks(BLOCKS_PER_OP_MAX) {
            let op = Op::Trash { keys: chunk.to_vec(), stamped_before: None };
            trashed += self.count(Lane::Control, op).await?;
        }
        Ok(trashed)
    }

    /// Brings shards back from the trash.
    pub async fn restore(&self, keys: &[ShardKey]) -> Result<u64, DriveError> {
        let mut restored = 0;
        for chunk in keys.chunks(BLOCKS_PER_OP_MAX) {
            restored += self.count(Lane::Control, Op::Restore(chunk.to_vec())).await?;
        }
        Ok(restored)
    }

    /// Scrubs one shard: head, frame crcs, digest.
    pub async fn verify(&self, key: ShardKey) -> Result<Verdict, DriveError> {
        self.blocking(move |shared| read::verify(shared, key)).await
    }

    /// Space and contents.
    pub async fn usage(&self) -> Result<Usage, DriveError> {
        self.blocking(usage).await
    }

    /// One maintenance step: purges the trash, punches holes, compacts segments.
    pub async fn maintain(&self) -> Result<Maintained, DriveError> {
        reclaim::maintain(self.shared()).await
    }

    async fn count(&self, lane: Lane, op: Op) -> Result<u64, DriveError> {
        match submit(self.shared(), lane, op).await? {
            Reply::Count(count) => Ok(count),
            _ => Err(DriveError::Invalid("writer answered another operation".into())),
        }
    }
}

fn stat_of(key: ShardKey, row: &index::ShardRow) -> ShardStat {
    ShardStat {
        key,
        pg: row.pg,
        epoch: row.epoch,
        body_bytes: row.body_bytes,
        digest: row.digest,
        trashed: row.trashed_ms.is_some(),
    }
}

fn epoch_of(shared: &Shared, pg: PgId) -> Result<Epoch, DriveError> {
    shared.check()?;
    let row = shared
        .kv
        .get(index::EPOCHS, &index::epoch_key(pg))
        .map_err(|error| shared.index_failed(&error))?;
    Ok(row.map(|bytes| shared.decode(index::EPOCHS, &bytes)).transpose()?.unwrap_or_default())
}

fn next_key(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn list_pg(
    shared: &Shared,
    pg: PgId,
    after: Option<ShardKey>,
    limit: usize,
    trashed: bool,
) -> Result<ListPage, DriveError> {
    let epoch = epoch_of(shared, pg)?;
    let limit = limit.clamp(1, LIST_ROWS_MAX);
    let mut range = ScanRange::prefix(&pg.0.to_be_bytes(), limit + 1);
    if let Some(after) = after {
        range.start = next_key(index::pg_key(pg, after));
    }
    let mut page = ListPage { epoch, shards: Vec::new(), more: false };
    loop {
        let rows =
            shared.kv.scan(index::BY_PG, &range).map_err(|error| shared.index_failed(&error))?;
        let last = rows.len() <= limit;
        for (bytes, _) in &rows {
            let Some(key) = index::parse_pg_key(bytes) else { continue };
            let row = shared.shard_row(key)?.filter(|row| row.pg == pg);
            let Some(row) = row.filter(|row| row.trashed_ms.is_some() == trashed) else { continue };
            if page.shards.len() == limit {
                page.more = true;
                return Ok(page);
            }
            page.shards.push(stat_of(key, &row));
        }
        match rows.last() {
            Some((key, _)) if !last => range.start = next_key(key.to_vec()),
            _ => return Ok(page),
        }
    }
}

fn list_all(
    shared: &Shared,
    after: Option<ShardKey>,
    limit: usize,
    trashed: bool,
) -> Result<Vec<ShardStat>, DriveError> {
    shared.check()?;
    let limit = limit.clamp(1, LIST_ROWS_MAX);
    let mut range = ScanRange::prefix(&[], limit);
    if let Some(after) = after {
        range.start = next_key(index::shard_key(after));
    }
    let mut found = Vec::new();
    loop {
        let rows =
            shared.kv.scan(index::SHARDS, &range).map_err(|error| shared.index_failed(&error))?;
        for (bytes, value) in &rows {
            let Some(key) = index::parse_shard_key(bytes) else { continue };
            let row: index::ShardRow = shared.decode(index::SHARDS, value)?;
            if row.trashed_ms.is_some() == trashed && found.len() < limit {
                found.push(stat_of(key, &row));
            }
        }
        match rows.last() {
            Some((key, _)) if rows.len() == limit && found.len() < limit => {
                range.start = next_key(key.to_vec());
            }
            _ => return Ok(found),
        }
    }
}

fn usage(shared: &Shared) -> Result<Usage, DriveError> {
    shared.check()?;
    let space = shared.env.disk.space(&shared.dir).map_err(|error| {
        DriveError::Invalid(format!("file system does not tell its space: {error}"))
    })?;
    let budget = crate::space::Budget::of(space, &shared.options.marks);
    let totals = shared.meta.lock().totals;
    let rows = shared
        .kv
        .scan(index::SEGMENTS, &ScanRange::prefix(&[], 1 << 24))
        .map_err(|error| shared.index_failed(&error))?;
    let mut reclaimable_bytes = 0;
    for (_, value) in &rows {
        let row: SegmentRow = shared.decode(index::SEGMENTS, value)?;
        reclaimable_bytes += reclaim::dead_bytes(&row);
    }
    Ok(Usage {
        total_bytes: space.total_bytes,
        capacity_bytes: budget.capacity_bytes,
        available_bytes: budget.available_bytes,
        level: budget.level(0, &shared.options.marks),
        shards: totals.shards,
        shard_bytes: totals.shard_bytes,
        trash_shards: totals.trash_shards,
        trash_bytes: totals.trash_bytes,
        tombstones: totals.tombstones,
        segments: rows.len() as u64,
        reclaimable_bytes,
    })
}
