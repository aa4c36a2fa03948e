//! The interface: [`DriveStore`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use nexusgrid_codec::{BlockId, Epoch, GroupId, PgId, SessionId, ShardHeader};
use nexusgrid_env::Env;
use tokio::sync::{oneshot, watch};

use crate::error::{DriveError, OpenError};
use crate::index::{self, Sessions};
use crate::limits::{
    BLOCKS_PER_OP_MAX, CHECK_IN_PLACE_BYTES_MAX, HEADERS_PER_CALL_MAX, LIST_ROWS_MAX,
    REOPEN_TRIES_MAX, SHARD_BODY_BYTES_MAX, SHARD_HEADER_BYTES_MAX,
};
use crate::metrics::MetricsSnapshot;
use crate::op::{Op, PutOp, Reply, StoredBefore};
use crate::options::DriveOptions;
use crate::queue::Lane;
use crate::reclaim;
use crate::scrub::{self, ScrubCursor, ScrubOptions, ScrubStep};
use crate::shared::Shared;
use crate::types::{
    DriveIdentity, DriveState, Dropped, FillSessionId, Incarnation, ListPage, Maintained,
    OpenReport, PutAck, ReadOptions, Reconciled, SessionFloor, ShardKey, ShardRead, ShardStat,
    ShardWrite, SuperblockInfo, TombstonePage, TrashCursor, TrashPage, Usage, Verdict, WriteClass,
};
use crate::{commit, list, open, read};

/// Between two tries of [`ClosedDrive::open`].
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

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

/// A drive that was open and can be opened again.
pub struct ClosedDrive {
    env: Env,
    dir: PathBuf,
    info: SuperblockInfo,
    options: DriveOptions,
}

impl ClosedDrive {
    /// Opens it as before; `Locked` if clones of the old store are still in use after some seconds.
    pub async fn open(&self) -> Result<DriveStore, OpenError> {
        let SuperblockInfo { identity, incarnation, .. } = self.info;
        let mut tries = 0;
        loop {
            let opened =
                DriveStore::open(&self.env, &self.dir, identity, Some(incarnation), &self.options);
            match opened.await {
                // The last part of the old store ends a moment after its close.
                Err(OpenError::Locked(_)) if tries < REOPEN_TRIES_MAX => {
                    tries += 1;
                    self.env.clock.sleep(REOPEN_PAUSE).await;
                }
                opened => return opened,
            }
        }
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

/// A shard write that is what its header says.
fn checked(write: ShardWrite, verify: bool) -> Result<PutOp, DriveError> {
    let key = ShardKey { block: write.header.block, index: write.header.index };
    let bad = |reason: &str| Err(DriveError::BadShard { key, reason: reason.into() });
    let header = Bytes::from(write.header.encode());
    if header.len() > SHARD_HEADER_BYTES_MAX {
        return bad("header is too long");
    }
    if u64::from(write.header.body_len()) != write.body.len() as u64 {
        return bad("body is not as long as its header says");
    }
    if verify && write.header.verify(&write.body).is_err() {
        return bad("body does not match its header");
    }
    let Some(digest) = write.header.digest() else {
        return bad("header has no digest of this shard");
    };
    let body_crc = crc32c::crc32c(&write.body);
    Ok(PutOp { write, header, body_crc, digest: digest.0, stored: StoredBefore::Unknown })
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

    /// Closes this store, to open the drive again, which rebuilds a lost index. Other clones must be
    /// dropped meanwhile.
    pub async fn into_closed(self) -> ClosedDrive {
        self.close().await;
        ClosedDrive {
            env: self.shared().env.clone(),
            dir: self.shared().dir.clone(),
            info: self.shared().info,
            options: self.shared().options.clone(),
        }
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

    /// The drive's directory. Its owner may keep small files of its own there.
    pub fn dir(&self) -> &Path {
        &self.shared().dir
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

    /// Stores a shard durably, or acknowledges (and re-stamps, R3) the same one that is there, once
    /// that was checked; one that does not verify is written anew.
    pub async fn put(&self, write: ShardWrite) -> Result<PutAck, DriveError> {
        self.shared().check()?;
        let key = ShardKey { block: write.header.block, index: write.header.index };
        let body_bytes = write.body.len();
        if body_bytes as u64 > SHARD_BODY_BYTES_MAX {
            return Err(DriveError::BadShard { key, reason: "body is too long".into() });
        }
        let verify = self.shared().options.verify_on_put;
        let check = move || checked(write, verify);
        let mut op = if body_bytes <= CHECK_IN_PLACE_BYTES_MAX {
            check()?
        } else {
            self.blocking(move |_| check()).await?
        };
        let backfill = op.write.class == WriteClass::Backfill;
        let lane = Lane::of_shard(backfill, body_bytes as u64);
        match submit(self.shared(), lane, Op::Put(Box::new(op.clone()))).await? {
            Reply::Put(ack) => return Ok(ack),
            Reply::Examine => {}
            _ => return Err(DriveError::Invalid("writer answered another operation".into())),
        }
        op.stored = self
            .blocking(move |shared| {
                let found = read::examine(shared, key)?.filter(|found| found.fault.is_some());
                Ok(found.map_or(StoredBefore::Sound, |bad| StoredBefore::Bad(bad.row.born)))
            })
            .await?;
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
            Ok(shared.shard_row(key)?.map(|row| list::stat_of(key, &row)))
        })
        .await
    }

    /// Shards of a placement group after a key, in key order, the trash left out, with the epochs
    /// they are stamped with. R2: counts for repair only if the page's epoch is the one it fenced.
    pub async fn list(
        &self,
        pg: PgId,
        after: Option<ShardKey>,
        limit: usize,
    ) -> Result<ListPage, DriveError> {
        self.blocking(move |shared| list::of_pg(shared, pg, after, limit)).await
    }

    /// All shards after a key, in key order, the trash left out: for the orphan scan and scrub.
    pub async fn list_blocks(
        &self,
        after: Option<ShardKey>,
        limit: usize,
    ) -> Result<Vec<ShardStat>, DriveError> {
        self.blocking(move |shared| list::all(shared, after, limit)).await
    }

    /// The codec's headers of shards, for the digests of their siblings; `None` for what is not
    /// here, or whose record cannot be read. At most [`HEADERS_PER_CALL_MAX`] keys.
    pub async fn headers(&self, keys: &[ShardKey]) -> Result<Vec<Option<ShardHeader>>, DriveError> {
        if keys.len() > HEADERS_PER_CALL_MAX {
            return Err(DriveError::Invalid("too many keys".into()));
        }
        let keys = keys.to_vec();
        self.blocking(move |shared| {
            let header = |key| match read::header(shared, key) {
                Err(DriveError::Damaged { .. }) => Ok(None),
                other => other,
            };
            keys.into_iter().map(header).collect()
        })
        .await
    }

    /// The trash, the longest trashed first.
    pub async fn list_trash(
        &self,
        after: Option<TrashCursor>,
        limit: usize,
    ) -> Result<TrashPage, DriveError> {
        self.blocking(move |shared| list::trash(shared, after, limit)).await
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
        self.blocking(move |shared| list::epoch_of(shared, pg)).await
    }

    /// R5: deletes every slot of these blocks of a PG, trash included, and refuses them from now
    /// on; all in one group commit, if they are not very many. Returns how many shards died. On an
    /// error some may be done: idempotent, ask again.
    pub async fn tombstone(&self, pg: PgId, blocks: &[BlockId]) -> Result<u64, DriveError> {
        self.count_all(blocks, |blocks| Op::Tombstone { pg, blocks }).await
    }

    /// The tombstones of a PG after a block.
    pub async fn list_tombstones(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<TombstonePage, DriveError> {
        self.blocking(move |shared| list::tombstones(shared, pg, after, limit)).await
    }

    /// R5, R6: raises the writers' floors, then erases every tombstone of the PG whose session is
    /// closed here. Only for when all mapped drives hold them and no repair session or remap of the
    /// PG is open.
    pub async fn drop_closed_tombstones(
        &self,
        pg: PgId,
        floors: &[SessionFloor],
    ) -> Result<Dropped, DriveError> {
        for floor in floors {
            self.raise_session_floor(*floor).await?;
        }
        let mut done = Dropped::default();
        let mut after = None;
        loop {
            let page = self.list_tombstones(pg, after, LIST_ROWS_MAX).await?;
            after = page.blocks.last().copied().or(after);
            let (closed, open) = self
                .blocking(move |shared| {
                    let (mut closed, mut open) = (Vec::new(), 0);
                    for block in page.blocks {
                        match list::is_session_closed(shared, block.group, block.session)? {
                            true => closed.push(block),
                            false => open += 1,
                        }
                    }
                    Ok::<_, DriveError>((closed, open))
                })
                .await?;
            done.kept += open;
            done.dropped += self.drop_tombstones(&closed, &[]).await?;
            if !page.more {
                return Ok(done);
            }
        }
    }

    /// R6: raises the writers' floors, then erases the tombstones of blocks whose session is
    /// closed; `SessionOpen` if one is not (others may be done then).
    pub async fn drop_tombstones(
        &self,
        blocks: &[BlockId],
        floors: &[SessionFloor],
    ) -> Result<u64, DriveError> {
        let floors = floors.to_vec();
        self.count_all(blocks, |blocks| Op::DropTombstones { blocks, floors: floors.clone() }).await
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
                .blocking(move |shared| list::of_pg(shared, pg, after, BLOCKS_PER_OP_MAX))
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
        self.count_all(keys, |keys| Op::Trash { keys, stamped_before: None }).await
    }

    /// R7: moves those shards to the trash that are still stamped by `pg` and before `epoch`; each
    /// is checked at its place in the log, for a write may stamp it anew meanwhile.
    pub async fn trash_stale(
        &self,
        pg: PgId,
        epoch: Epoch,
        keys: &[ShardKey],
    ) -> Result<u64, DriveError> {
        let mut trashed = 0;
        for chunk in keys.chunks(BLOCKS_PER_OP_MAX) {
            let op = Op::Trash { keys: chunk.to_vec(), stamped_before: Some((pg, epoch)) };
            trashed += self.count(Lane::Control, op).await?;
        }
        Ok(trashed)
    }

    /// Brings shards back from the trash.
    pub async fn restore(&self, keys: &[ShardKey]) -> Result<u64, DriveError> {
        self.count_all(keys, Op::Restore).await
    }

    /// Purges shards from the trash at once, whatever their age; what is not there stays.
    pub async fn purge(&self, keys: &[ShardKey]) -> Result<u64, DriveError> {
        let timeless = |keys: Vec<_>| Op::Purge(keys.into_iter().map(|key| (None, key)).collect());
        self.count_all(keys, timeless).await
    }

    /// Scrubs a stretch of the drive of about `budget_bytes`, from `cursor` on (the default one is
    /// the beginning): superblock, segments' labels, footers, facts and live shards, and the index
    /// against them both ways. The caller persists the findings, then the next cursor.
    pub async fn scrub(
        &self,
        cursor: ScrubCursor,
        budget_bytes: u64,
        options: ScrubOptions,
    ) -> Result<ScrubStep, DriveError> {
        scrub::step(self.shared(), cursor, budget_bytes, options).await
    }

    /// Scrubs one shard: head, frame crcs, digest.
    pub async fn verify(&self, key: ShardKey) -> Result<Verdict, DriveError> {
        self.blocking(move |shared| read::verify(shared, key)).await
    }

    /// Space and contents.
    pub async fn usage(&self) -> Result<Usage, DriveError> {
        self.blocking(list::usage).await
    }

    /// Keeps what is in the trash, however old, until it is called with `false`: while metadata may be
    /// older than what the drive holds. Lasts as long as this store is open.
    pub fn hold_purge(&self, held: bool) {
        self.shared().purge_held.store(held, std::sync::atomic::Ordering::Release);
    }

    /// One maintenance step: purges the trash, punches holes, compacts segments.
    pub async fn maintain(&self) -> Result<Maintained, DriveError> {
        reclaim::maintain(self.shared()).await
    }

    /// Queues all chunks of a long call before it waits, so that they share a commit.
    async fn count_all<T: Clone>(
        &self,
        items: &[T],
        op: impl Fn(Vec<T>) -> Op,
    ) -> Result<u64, DriveError> {
        let ops = items.chunks(BLOCKS_PER_OP_MAX).map(|chunk| op(chunk.to_vec()));
        let counts = join_all(ops.map(|op| self.count(Lane::Control, op))).await;
        counts.into_iter().sum()
    }

    async fn count(&self, lane: Lane, op: Op) -> Result<u64, DriveError> {
        match submit(self.shared(), lane, op).await? {
            Reply::Count(count) => Ok(count),
            _ => Err(DriveError::Invalid("writer answered another operation".into())),
        }
    }
}
