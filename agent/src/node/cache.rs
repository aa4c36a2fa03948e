//! Frames that this node read from others, kept on a disk of its own: what [`FrameCache`] is here.
//!
//! foyer keeps them: files of one size in one directory, filled one after another, and emptied in that order. What is
//! in them is sealed, and nothing that happens to them matters: a cache that cannot be opened, or fails, is one without
//! anything in it. Their space is taken when it is opened, so that the disk is never found to be full later. It has threads of its
//! own, and who asks waits for a moment only: a disk that hangs holds up nobody else.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCachePolicy, RecoverMode, Spawner,
};
use nexusgrid_codec::{BlockId, ClusterId};
use nexusgrid_env::{BootInstant, Clock, Disk, DiskLock, Env, OpenMode};
use nexusgrid_grid::{FrameCache, FrameId, GridNode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::config::CacheConfig;
use crate::node::files;

/// Frames in memory: those that are being written, mostly.
const MEMORY_BYTES: usize = 4 << 20;
/// What waits to be written; above, frames are not kept.
const WAITING_BYTES: usize = 16 << 20;
/// The directory is so many files, or fewer: all of them are open. One of them is emptied at a time.
const BLOCKS: u64 = 256;
/// Smaller frames are not kept: each takes a whole page of the disk, and as much of the index as a large one.
const FRAME_BYTES_MIN: usize = 16 << 10;
/// Frames that are looked for at once; others wait.
const GETS_AT_ONCE: usize = 64;
/// So long a frame is waited for; then the cache is left alone for [`PAUSE`].
const PATIENCE: Duration = Duration::from_secs(1);
/// See [`PATIENCE`].
const PAUSE: Duration = Duration::from_secs(20);
/// So long the end of the process waits for what is not written yet.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);
/// Threads that read and write the files.
const DISK_THREADS: usize = 16;
/// What stays free on the disk at least, once the cache has its space.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Says how large the cache is.
const SIZE_NAME: &str = "size";
/// How foyer's names of files begin.
const FILE_PREFIX: &str = "foyer-storage-direct-fs-";
/// A block, at least: many of the largest frames.
const BLOCK_BYTES_MIN: u64 = 2 << 20;
/// A frame's bookkeeping, in bytes of memory.
const ENTRY_BYTES: usize = 128;
/// The smallest cache that is one.
pub const BYTES_MIN: u64 = 16 * BLOCK_BYTES_MIN;
/// The largest: offsets in a file must fit into 32 bits.
pub const BYTES_MAX: u64 = 512 << 30;

/// Bytes of a [`Key`].
const KEY_BYTES: usize = 16 + BlockId::LEN + 4 + 4;

/// A frame of a cluster, as foyer writes it: block ids of two clusters may be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key([u8; KEY_BYTES]);

impl Code for Key {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer.write_all(&self.0).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Key> {
        let mut bytes = [0; KEY_BYTES];
        reader.read_exact(&mut bytes).map_err(foyer::Error::io_error)?;
        Ok(Key(bytes))
    }

    fn estimated_size(&self) -> usize {
        self.0.len()
    }
}

/// The cache of a node.
pub struct DiskCache {
    clock: Arc<dyn Clock>,
    cluster: ClusterId,
    frames: HybridCache<Key, Bytes>,
    /// Two processes would write over each other's.
    _lock: Box<dyn DiskLock>,
    /// That it fails is said once.
    has_failed: AtomicBool,
    gets: Semaphore,
    /// It did not answer in time: it is not asked before this.
    asked_from: Mutex<Option<BootInstant>>,
}

/// Opens a node's cache, if it is to have one, while it serves already: to find what is there takes a while.
pub fn open(
    env: &Env,
    dir: &Path,
    config: &CacheConfig,
    (cluster, node): (ClusterId, Arc<GridNode>),
) {
    if config.bytes == 0 {
        return;
    }
    let path = config.path.clone().unwrap_or_else(|| dir.join("cache"));
    let (bytes, own) = (config.bytes, env.clone());
    drop(env.exec.spawn(async move {
        match DiskCache::open(&own, cluster, &path, bytes).await {
            Ok(cache) => {
                tracing::info!(path = %path.display(), bytes, "what is read from others is kept here");
                node.set_cache(Arc::new(cache));
            }
            Err(error) => tracing::error!(
                path = %path.display(),
                error = format!("{error:#}"),
                "the cache cannot be opened: whatever is read comes from other nodes"
            ),
        }
    }));
}

impl DiskCache {
    /// Opens the cache in a directory of its own, which is made if it is not there.
    pub async fn open(
        env: &Env,
        cluster: ClusterId,
        path: &Path,
        bytes: u64,
    ) -> anyhow::Result<DiskCache> {
        let disk = &*env.disk;
        ensure!((BYTES_MIN..=BYTES_MAX).contains(&bytes), "it is of no size that it can have");
        disk.create_dir_all(path)?;
        // Sealed or not: nobody else has business there.
        rustix::fs::chmod(path, rustix::fs::Mode::RWXU)?;
        let lock = disk.lock(&path.join("lock")).context("another process has it")?;
        make_room(disk, path, bytes)?;
        let block = block_bytes(bytes);
        let device = FsDeviceBuilder::new(path).with_capacity(usize::try_from(bytes)?).build()?;
        let engine = BlockEngineConfig::new(device)
            .with_block_size(usize::try_from(block)?)
            .with_indexer_shards(16)
            .with_buffer_pool_size(WAITING_BYTES)
            .with_submit_queue_size_threshold(WAITING_BYTES);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(DISK_THREADS)
            .thread_name("cache")
            .enable_all()
            .build()?;
        let frames = HybridCacheBuilder::new()
            .with_name("frames")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .memory(MEMORY_BYTES)
            .with_shards(4)
            .with_weighter(|_: &Key, frame: &Bytes| frame.len() + ENTRY_BYTES)
            .storage()
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .with_spawner(Spawner::from(runtime))
            .build()
            .await?;
        take_space(disk, path)?;
        Ok(DiskCache {
            clock: Arc::clone(&env.clock),
            cluster,
            frames,
            _lock: lock,
            has_failed: AtomicBool::new(false),
            gets: Semaphore::new(GETS_AT_ONCE),
            asked_from: Mutex::default(),
        })
    }

    fn is_left_alone(&self) -> bool {
        let asked_from = *self.asked_from.lock();
        asked_from.is_some_and(|from| self.clock.now() < from)
    }

    fn key(&self, id: FrameId) -> Key {
        let FrameId { block, region, frame } = id;
        let parts = self.cluster.0.into_iter().chain(block.to_bytes());
        let parts = parts.chain(region.to_be_bytes()).chain(frame.to_be_bytes());
        let mut bytes = [0; KEY_BYTES];
        bytes.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
        Key(bytes)
    }
}

fn block_bytes(bytes: u64) -> u64 {
    (bytes / BLOCKS).max(BLOCK_BYTES_MIN).next_multiple_of(4096)
}

/// Names of foyer's files, in a directory that has them.
fn files_of(disk: &dyn Disk, path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_one = |name: &PathBuf| name.to_string_lossy().starts_with(FILE_PREFIX);
    Ok(disk.list(path)?.into_iter().filter(is_one).map(|name| path.join(name)).collect())
}

/// Clears away what a cache of another size left, and looks whether this one has room.
fn make_room(disk: &dyn Disk, path: &Path, bytes: u64) -> anyhow::Result<()> {
    let (size, wanted) = (path.join(SIZE_NAME), bytes.to_string());
    if files::read_if_there(disk, &size)?.as_deref() != Some(wanted.as_bytes()) {
        for file in files_of(disk, path)? {
            disk.remove_file(&file)?;
        }
        files::replace(disk, &size, wanted.as_bytes())?;
    }
    let mut taken = 0;
    for file in files_of(disk, path)? {
        taken += disk.open(&file, OpenMode::Read)?.allocated_bytes()?;
    }
    let free = disk.space(path)?.free_bytes;
    let rest = bytes.saturating_sub(taken);
    ensure!(
        free >= rest.saturating_add(FREE_BYTES_MIN),
        "it would take {rest} bytes more, and its disk has {free} free: {FREE_BYTES_MIN} are to stay so"
    );
    Ok(())
}

/// Takes the disk's space for the files.
fn take_space(disk: &dyn Disk, path: &Path) -> anyhow::Result<()> {
    use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
    for file in files_of(disk, path)? {
        let len = disk.open(&file, OpenMode::Read)?.len()?;
        let file = open(&file, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        match fallocate(&file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                tracing::warn!(path = %path.display(), "this file system keeps no space for the cache");
                return Ok(());
            }
            other => other?,
        }
    }
    Ok(())
}

#[async_trait]
impl FrameCache for DiskCache {
    async fn get(&self, id: FrameId) -> Option<Bytes> {
        if self.is_left_alone() {
            return None;
        }
        let _slot = self.gets.acquire().await.ok()?;
        // Those before it may have waited in vain.
        if self.is_left_alone() {
            return None;
        }
        let key = self.key(id);
        let failure = match tokio::time::timeout(PATIENCE, self.frames.get(&key)).await {
            Ok(Ok(found)) => return found.map(|entry| entry.value().clone()),
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        *self.asked_from.lock() = Some(self.clock.now().plus(PAUSE));
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error = failure,
                "the cache cannot be read: for a while what is read comes from other nodes"
            );
        }
        None
    }

    fn put(&self, id: FrameId, sealed: Bytes) {
        if sealed.len() < FRAME_BYTES_MIN {
            return;
        }
        drop(self.frames.insert(self.key(id), sealed));
    }

    fn remove(&self, id: FrameId) {
        self.frames.remove(&self.key(id));
    }

    async fn close(&self) {
        match tokio::time::timeout(CLOSE_PATIENCE, self.frames.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the end of the cache is lost"),
            Err(late) => tracing::info!(error = %late, "the end of the cache is lost"),
        }
    }
}

#[cfg(test)]
mod tests {
    use nexusgrid_codec::{GroupId, SessionId};

    use super::*;

    const FRAME: usize = (64 << 10) + 16;

    fn id(counter: u32) -> FrameId {
        let block = BlockId { group: GroupId(1), session: SessionId(9), counter };
        FrameId { block, region: 0, frame: 0 }
    }

    fn frame(counter: u32) -> Bytes {
        counter.to_be_bytes().repeat(FRAME / 4).into()
    }

    #[allow(clippy::disallowed_methods, reason = "what lies on a real disk is what is tested")]
    fn size_of_all(dir: &Path) -> u64 {
        let files = std::fs::read_dir(dir).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }

    async fn opened(dir: &Path, cluster: u8) -> DiskCache {
        DiskCache::open(&Env::real(), ClusterId([cluster; 16]), dir, BYTES_MIN).await.unwrap()
    }

    /// What was kept is there after a restart, for this cluster; of more than fits, the last is.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frames_are_kept_as_far_as_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cache");
        let cache = opened(&at, 1).await;
        let other = DiskCache::open(&Env::real(), ClusterId([1; 16]), &at, BYTES_MIN).await;
        assert!(format!("{:#}", other.err().unwrap()).contains("another process"));
        assert!(cache.get(id(1)).await.is_none());
        cache.put(id(1), frame(1));
        assert!(cache.get(id(1)).await == Some(frame(1)));
        cache.put(id(2), frame(2));
        cache.frames.storage().wait().await;
        cache.remove(id(2));
        assert!(cache.get(id(2)).await.is_none());
        cache.close().await;
        drop(cache);

        let cache = opened(&at, 1).await;
        assert!(cache.get(id(1)).await == Some(frame(1)));
        let all = 3 * BYTES_MIN as u32 / FRAME as u32;
        for counter in 100..100 + all {
            cache.put(id(counter), frame(counter));
            // As fast as the disk takes it: what comes faster is not kept.
            cache.frames.storage().wait().await;
        }
        let mut kept = 0;
        for counter in 100..100 + all {
            if let Some(found) = cache.get(id(counter)).await {
                assert!(found == frame(counter));
                kept += 1;
            }
        }
        let fits = BYTES_MIN as u32 / FRAME as u32;
        assert!((fits / 2..=fits).contains(&kept), "{kept} of {fits}");
        assert!(cache.get(id(1)).await.is_none());
        assert!(cache.get(id(99 + all)).await == Some(frame(99 + all)));
        assert!(size_of_all(&at) <= BYTES_MIN + 1024);
        cache.close().await;
        drop(cache);
        let other = opened(&at, 2).await;
        assert!(other.get(id(99 + all)).await.is_none());
        // Small ones are not worth it.
        other.put(id(1), frame(1).slice(..FRAME_BYTES_MIN - 1));
        assert!(other.get(id(1)).await.is_none());
        other.close().await;
        drop(other);
        // Of a cache of another size nothing stays, and one that has no room is none.
        let twice = 2 * BYTES_MIN;
        let larger = DiskCache::open(&Env::real(), ClusterId([1; 16]), &at, twice).await.unwrap();
        assert!(larger.get(id(99 + all)).await.is_none());
        assert!(size_of_all(&at) > BYTES_MIN);
        larger.close().await;
        drop(larger);
        assert!(opened(&at, 1).await.get(id(99 + all)).await.is_none());
        assert!(size_of_all(&at) <= BYTES_MIN + 1024);
        let space = Env::real().disk.space(&at).unwrap();
        let whole = space.free_bytes.min(BYTES_MAX);
        let (whole_dir, cluster) = (dir.path().join("whole"), ClusterId([1; 16]));
        let refused = DiskCache::open(&Env::real(), cluster, &whole_dir, whole).await;
        assert!(refused.is_err() || whole == BYTES_MAX);
    }
}
