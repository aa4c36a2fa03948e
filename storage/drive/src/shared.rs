//! What the parts of one open store share.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nexusgrid_env::{BootInstant, DiskLock, Env, Kv, KvError, KvVerify, OpenMode};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::DriveError;
use crate::failure;
use crate::index::{self, Meta, SegmentRow, ShardRow};
use crate::limits::OPEN_SEGMENTS_MAX;
use crate::log::LogItem;
use crate::metrics::{DriveMetrics, add};
use crate::options::DriveOptions;
use crate::queue::Queue;
use crate::segment::{self, SegmentFile};
use crate::space::Budget;
use crate::types::{DriveState, OpenReport, ShardKey, SuperblockInfo};

/// The end of the log: what only the writer changes.
pub struct LogEnd {
    /// Where records go.
    pub active: SegmentFile,
    /// Where the next one goes; everything below is synced.
    pub end: u64,
    /// The records in the active segment, for its footer.
    pub items: Vec<LogItem>,
    /// The first free sequence.
    pub sequence: u64,
    /// What the index has folded.
    pub meta: Meta,
    /// A refused batch may stand behind `end`, because the disk was too full even to cut it off:
    /// nothing is written before that is done.
    pub uncut: bool,
}

#[derive(Default)]
struct OpenFiles {
    files: BTreeMap<u64, (SegmentFile, u64)>,
    uses: u64,
}

/// See the module.
pub struct Shared {
    /// The outside.
    pub env: Env,
    /// The drive's directory.
    pub dir: PathBuf,
    /// How it behaves.
    pub options: DriveOptions,
    /// From the superblock.
    pub info: SuperblockInfo,
    /// What opening found.
    pub report: OpenReport,
    /// The index.
    pub kv: Arc<dyn Kv>,
    /// Operations that wait for the writer.
    pub queue: Queue,
    /// Held by the writer during a commit.
    pub log: Mutex<LogEnd>,
    /// Counters.
    pub metrics: DriveMetrics,
    /// Copy of the last committed [`Meta`], for readers.
    pub meta: Mutex<Meta>,
    /// Whether the drive serves.
    pub state: watch::Sender<DriveState>,
    /// Set once the writer has ended.
    pub ended: watch::Sender<bool>,
    /// Segments whose facts may be lost: never compacted before scrub has written them again.
    pub facts_lost: Mutex<BTreeSet<u64>>,
    /// Segments that a damaged record keeps from compaction, and their live bytes then: once these
    /// change it is tried again.
    pub kept: Mutex<BTreeMap<u64, u64>>,
    /// One maintenance step at a time.
    pub maintaining: tokio::sync::Mutex<()>,
    /// Nothing is purged from the trash while this is set.
    pub purge_held: AtomicBool,
    /// Age of the drive when it was opened, in ms, and when that was.
    pub age_base_ms: u64,
    /// See `age_base_ms`.
    pub opened_at: BootInstant,
    /// Scrub's walk through the files of the index.
    pub index_walk: Mutex<Option<Box<dyn KvVerify>>>,
    files: Mutex<OpenFiles>,
    read_errors: Mutex<BTreeMap<ShardKey, BootInstant>>,
    _lock: Box<dyn DiskLock>,
}

/// What `open` hands over.
pub struct Parts {
    /// See [`Shared`].
    pub env: Env,
    /// See [`Shared`].
    pub dir: PathBuf,
    /// See [`Shared`].
    pub options: DriveOptions,
    /// See [`Shared`].
    pub info: SuperblockInfo,
    /// See [`Shared`].
    pub report: OpenReport,
    /// See [`Shared`].
    pub kv: Arc<dyn Kv>,
    /// See [`Shared`].
    pub log: LogEnd,
    /// Segments whose facts may be lost.
    pub facts_lost: BTreeSet<u64>,
    /// The lock on the directory.
    pub lock: Box<dyn DiskLock>,
}

impl Shared {
    /// A healthy store.
    pub fn new(parts: Parts) -> Shared {
        let opened_at = parts.env.clock.now();
        let meta = parts.log.meta;
        let shared = Shared {
            env: parts.env,
            dir: parts.dir,
            options: parts.options,
            info: parts.info,
            report: parts.report,
            kv: parts.kv,
            queue: Queue::new(),
            log: Mutex::new(parts.log),
            metrics: DriveMetrics::default(),
            meta: Mutex::new(meta),
            state: watch::Sender::new(DriveState::Healthy),
            ended: watch::Sender::new(false),
            facts_lost: Mutex::new(parts.facts_lost),
            kept: Mutex::default(),
            maintaining: tokio::sync::Mutex::new(()),
            purge_held: AtomicBool::new(false),
            age_base_ms: meta.age_ms,
            opened_at,
            index_walk: Mutex::default(),
            files: Mutex::default(),
            read_errors: Mutex::default(),
            _lock: parts.lock,
        };
        let active = shared.log.lock().active.clone();
        shared.remember_file(active);
        shared
    }

    /// Age of the drive: running time since it was formatted, as far as it was written down. The
    /// trash goes by it, so that a wrong wall clock purges nothing.
    pub fn age_ms(&self) -> u64 {
        let running = self.env.clock.now().since(self.opened_at);
        self.age_base_ms.saturating_add(u64::try_from(running.as_millis()).unwrap_or(u64::MAX))
    }

    /// An error unless the drive serves.
    pub fn check(&self) -> Result<(), DriveError> {
        match &*self.state.borrow() {
            DriveState::Healthy => Ok(()),
            DriveState::Failed(reason) => Err(DriveError::Failed(reason.clone())),
            DriveState::Stopped(_) | DriveState::Closed => Err(DriveError::Closed),
        }
    }

    fn leave(&self, ending: DriveState) -> bool {
        self.state.send_if_modified(|state| {
            let healthy = *state == DriveState::Healthy;
            if healthy {
                *state = ending;
            }
            healthy
        })
    }

    /// The disk has failed: at once, for good and over restarts, the first reason stands. Blocks.
    pub fn fail(&self, reason: impl Into<String>) -> DriveError {
        let reason = reason.into();
        if self.leave(DriveState::Failed(reason.clone())) {
            tracing::error!(drive = self.info.identity.drive.0, reason, "drive failed");
            failure::leave(self.env.disk.as_ref(), &self.marks(), &reason);
        }
        match self.check() {
            Err(error) => error,
            Ok(()) => DriveError::Failed(reason),
        }
    }

    /// Where a failure is remembered.
    pub fn marks(&self) -> Vec<PathBuf> {
        let elsewhere = self.options.failure_marks.as_deref();
        failure::marks(&self.dir, self.info.identity.drive, elsewhere)
    }

    /// Without its index the drive cannot go on, but the segments hold everything: opening it again
    /// cures that.
    pub fn index_failed(&self, error: &KvError) -> DriveError {
        if matches!(error, KvError::Corrupt(_)) {
            self.ask_for_rebuild();
        }
        let reason = format!("index: {error}");
        if self.leave(DriveState::Stopped(reason.clone())) {
            tracing::error!(drive = self.info.identity.drive.0, reason, "drive stopped");
        }
        self.check().err().unwrap_or(DriveError::Closed)
    }

    /// A row of the live index.
    pub fn shard_row(&self, key: ShardKey) -> Result<Option<ShardRow>, DriveError> {
        let bytes = self
            .kv
            .get(index::SHARDS, &index::shard_key(key))
            .map_err(|error| self.index_failed(&error))?;
        bytes.map(|bytes| self.decode(index::SHARDS, &bytes)).transpose()
    }

    /// A segment's row of the live index.
    pub fn segment_row(&self, id: u64) -> Result<Option<SegmentRow>, DriveError> {
        let bytes = self
            .kv
            .get(index::SEGMENTS, &index::segment_key(id))
            .map_err(|error| self.index_failed(&error))?;
        bytes.map(|bytes| self.decode(index::SEGMENTS, &bytes)).transpose()
    }

    /// Decodes a row; failing means the index is damaged, which stops the drive (opening it again
    /// rebuilds the index).
    pub fn decode<T: serde::de::DeserializeOwned>(
        &self,
        family: &'static str,
        bytes: &[u8],
    ) -> Result<T, DriveError> {
        index::decode(bytes).ok_or_else(|| {
            self.index_failed(&KvError::Corrupt(format!("row of {family} does not decode")))
        })
    }

    /// Leaves a mark that makes the next open rebuild the index from the segments.
    fn ask_for_rebuild(&self) {
        let mark = index::rebuild_mark(&self.dir);
        let made = self
            .env
            .disk
            .open(&mark, OpenMode::OpenOrCreate)
            .and_then(|file| file.sync())
            .and_then(|()| self.env.disk.sync_dir(&self.dir));
        if let Err(error) = made {
            tracing::error!(%error, "cannot leave the mark that rebuilds the index");
        }
    }

    /// An open segment; `Err` in the outer result is the drive's, in the inner one the file's.
    pub fn segment_file(&self, id: u64) -> Result<io::Result<SegmentFile>, DriveError> {
        {
            let mut open = self.files.lock();
            open.uses += 1;
            let uses = open.uses;
            if let Some((file, used)) = open.files.get_mut(&id) {
                *used = uses;
                return Ok(Ok(file.clone()));
            }
        }
        let Some(row) = self.segment_row(id)? else {
            return Ok(Err(io::ErrorKind::NotFound.into()));
        };
        let path = segment::path(&self.dir, id);
        match self.env.disk.open(&path, OpenMode::ReadWrite) {
            Ok(file) => {
                let segment = SegmentFile { id, uuid: row.uuid, file };
                self.remember_file(segment.clone());
                Ok(Ok(segment))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Keeps a file open, closing the least recently used one beyond the limit.
    pub fn remember_file(&self, segment: SegmentFile) {
        let mut open = self.files.lock();
        open.uses += 1;
        let uses = open.uses;
        open.files.insert(segment.id, (segment, uses));
        if open.files.len() > OPEN_SEGMENTS_MAX {
            let oldest = open.files.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            if let Some(id) = oldest {
                open.files.remove(&id);
            }
        }
    }

    /// Closes a removed segment.
    pub fn forget_file(&self, id: u64) {
        self.files.lock().files.remove(&id);
    }

    /// The disk could not read a shard. One bad place is that shard's matter, however often it is
    /// asked for; many places within a short time are the drive's.
    pub fn read_failed(&self, key: ShardKey, error: &io::Error) {
        add(&self.metrics.read_errors, 1);
        let now = self.env.clock.now();
        let bad = {
            let mut recent = self.read_errors.lock();
            recent.retain(|_, at| now.since(*at) < self.options.read_errors_window);
            recent.insert(key, now);
            recent.len()
        };
        if bad >= self.options.read_errors_max as usize {
            self.fail(format!("{bad} shards cannot be read, the last: {error}"));
        }
    }

    /// What may be written now.
    pub fn budget(&self) -> io::Result<Budget> {
        Ok(Budget::of(self.env.disk.space(&self.dir)?, &self.options.marks))
    }
}

/// Whether the disk refuses for lack of space, which is no failure of the drive.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
