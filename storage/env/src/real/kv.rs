//! RocksDB.
//!
//! All stores of a process share one bound of memory for cached blocks and unflushed rows, and one
//! set of background threads, so that six stores cost little more than one. A synced write is one
//! group commit of the write-ahead log.
//!
//! After a crash that log is read up to its first damaged record, and what follows is dropped, never
//! a hole. A loss of power writes unsynced pages in any order, so damage with whole records behind it
//! is what it leaves; rot of synced bytes looks the same, and is told by a warning. Whoever needs a
//! row after that flushes the store before it drops what the row came from.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, ErrorKind, FlushOptions, LogLevel, Options, ReadOptions,
    SnapshotWithThreadMode, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::RealDisk;
use super::kv_verify::{self, RocksVerify};
use crate::kv::{
    Batch, Change, Durability, Kv, KvEngine, KvError, KvOptions, KvRead, KvVerify, Row, ScanRange,
};
use crate::limits;
use crate::{Disk, DiskLock};

/// Our own lock: RocksDB tells a lock that is held from other errors only in prose.
const LOCK_NAME: &str = "OWNER";
/// RocksDB's pointer to its present manifest: there is a store where it exists.
pub(super) const CURRENT_NAME: &str = "CURRENT";
/// The family that every RocksDB store has.
const DEFAULT_FAMILY: &str = "default";
const BLOOM_BITS_PER_KEY: f64 = 10.0;
const BLOCK_BYTES: usize = 16 << 10;
const TABLE_FORMAT_VERSION: i32 = 5;

/// Opens RocksDB stores. Make one per process: its stores share memory and threads.
pub struct RocksEngine {
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl Default for RocksEngine {
    fn default() -> RocksEngine {
        RocksEngine::new()
    }
}

impl RocksEngine {
    /// An engine with a cache of its own.
    pub fn new() -> RocksEngine {
        let cache = Cache::new_lru_cache(limits::KV_CACHE_BYTES);
        // Unflushed rows are charged to the cache, which bounds both. Writers never stall on the
        // bound: one store's burst must not hold up another's Raft log.
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            limits::KV_WRITE_BUFFERS_BYTES,
            false,
            cache.clone(),
        );
        RocksEngine { cache, write_buffers }
    }

    fn store_options(&self, create: bool, log: DBRecoveryMode) -> Result<Options, KvError> {
        let mut options = Options::default();
        options.create_if_missing(create);
        options.create_missing_column_families(true);
        options.set_wal_recovery_mode(log);
        options.set_paranoid_checks(true);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_max_total_wal_size(limits::KV_LOG_BYTES_MAX);
        options.set_max_open_files(limits::KV_OPEN_FILES_MAX);
        options.set_max_background_jobs(limits::KV_BACKGROUND_THREADS);
        options.set_max_log_file_size(limits::KV_TEXT_LOG_BYTES_MAX);
        options.set_keep_log_file_num(2);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        let mut threads = rocksdb::Env::new().map_err(kv_error)?;
        threads.set_background_threads(limits::KV_BACKGROUND_THREADS);
        threads.set_high_priority_background_threads(limits::KV_BACKGROUND_THREADS);
        options.set_env(&threads);
        Ok(options)
    }

    /// Opens every family there is and every one asked for.
    fn open_db(&self, dir: &Path, options: &KvOptions, log: DBRecoveryMode) -> Result<DB, KvError> {
        let store_options = self.store_options(options.create, log)?;
        let asked = options.families.iter().chain(&options.blob_families);
        let mut names: Vec<String> = asked.map(|name| (*name).to_owned()).collect();
        if RealDisk.exists(&dir.join(CURRENT_NAME)).map_err(io_error)? {
            // RocksDB wants every family opened, also those that nobody asks for any more.
            names.extend(DB::list_cf(&store_options, dir).map_err(open_error)?);
        }
        names.push(DEFAULT_FAMILY.to_owned());
        names.sort();
        names.dedup();
        let families = names.into_iter().map(|name| {
            let blobs = options.blob_families.contains(&name.as_str());
            ColumnFamilyDescriptor::new(name, self.family_options(blobs))
        });
        DB::open_cf_descriptors(&store_options, dir, families).map_err(open_error)
    }

    fn family_options(&self, blobs: bool) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(TABLE_FORMAT_VERSION);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(limits::KV_WRITE_BUFFER_BYTES);
        options.set_arena_block_size(limits::KV_ARENA_BYTES);
        options.set_max_write_buffer_number(2);
        options.set_level_compaction_dynamic_level_bytes(true);
        if blobs {
            options.set_enable_blob_files(true);
            options.set_min_blob_size(limits::KV_BLOB_BYTES_MIN);
            options.set_blob_file_size(limits::KV_BLOB_FILE_BYTES);
            options.set_blob_compression_type(DBCompressionType::Lz4);
            options.set_enable_blob_gc(true);
            options.set_blob_cache(&self.cache);
        }
        options
    }
}

/// An error of a store that is open. Only what RocksDB calls corruption is: a refused argument is the
/// same on every replica, and must not pass for rot on all of them.
pub(super) fn kv_error(error: rocksdb::Error) -> KvError {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Corruption => KvError::Corrupt(text),
        _ => KvError::Io(text),
    }
}

/// An error while a store is opened: rotten options and manifests show as arguments that do not fit.
pub(super) fn open_error(error: rocksdb::Error) -> KvError {
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::NotSupported => KvError::Corrupt(error.to_string()),
        _ => kv_error(error),
    }
}

pub(super) fn io_error(error: std::io::Error) -> KvError {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => KvError::Busy(error.to_string()),
        _ => KvError::Io(error.to_string()),
    }
}

impl KvEngine for RocksEngine {
    fn open(&self, dir: &Path, options: &KvOptions) -> Result<Arc<dyn Kv>, KvError> {
        let present = RealDisk.exists(&dir.join(CURRENT_NAME)).map_err(io_error)?;
        if !present && !options.create {
            return Err(KvError::Corrupt(format!("no store in {}", dir.display())));
        }
        if present {
            kv_verify::check_current(dir)?;
        }
        RealDisk.create_dir_all(dir).map_err(io_error)?;
        let lock = RealDisk.lock(&dir.join(LOCK_NAME)).map_err(io_error)?;
        let opened = self.open_db(dir, options, DBRecoveryMode::TolerateCorruptedTailRecords);
        let db = match opened {
            // Perhaps only the log, and only where nothing was synced.
            Err(KvError::Corrupt(why)) if present => {
                let db = self.open_db(dir, options, DBRecoveryMode::PointInTime)?;
                tracing::warn!(store = %dir.display(), why, "newest rows were lost with a torn log");
                db
            }
            opened => opened?,
        };
        RealDisk.sync_dir(dir).map_err(io_error)?;
        let known = [&options.families[..], &options.blob_families[..]].concat();
        Ok(Arc::new(RocksStore { inner: Arc::new(Inner { db, known, _lock: Some(lock) }) }))
    }

    fn open_read_only(&self, dir: &Path, options: &KvOptions) -> Result<Arc<dyn KvRead>, KvError> {
        kv_verify::check_current(dir)?;
        let store_options = self.store_options(false, DBRecoveryMode::PointInTime)?;
        let names = DB::list_cf(&store_options, dir).map_err(open_error)?;
        let families = names.into_iter().map(|name| {
            let blobs = options.blob_families.contains(&name.as_str());
            ColumnFamilyDescriptor::new(name, self.family_options(blobs))
        });
        let db = DB::open_cf_descriptors_read_only(&store_options, dir, families, false);
        let known = [&options.families[..], &options.blob_families[..]].concat();
        let inner = Inner { db: db.map_err(open_error)?, known, _lock: None };
        Ok(Arc::new(RocksStore { inner: Arc::new(inner) }))
    }

    fn destroy(&self, dir: &Path) -> Result<(), KvError> {
        RealDisk.remove_dir_all(dir).map_err(io_error)?;
        match dir.parent() {
            Some(parent) if RealDisk.exists(parent).map_err(io_error)? => {
                RealDisk.sync_dir(parent).map_err(io_error)
            }
            _ => Ok(()),
        }
    }
}

/// Fields in order of dropping: the lock goes after the database is closed.
struct Inner {
    db: DB,
    known: Vec<&'static str>,
    /// None if nothing is changed.
    _lock: Option<Box<dyn DiskLock>>,
}

impl Inner {
    fn family(&self, name: &'static str) -> Result<&ColumnFamily, KvError> {
        let unknown = || KvError::UnknownFamily(name.to_owned());
        if !self.known.contains(&name) {
            return Err(unknown());
        }
        self.db.cf_handle(name).ok_or_else(unknown)
    }

    fn get(
        &self,
        family: &'static str,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<Bytes>, KvError> {
        let value =
            self.db.get_pinned_cf_opt(self.family(family)?, key, options).map_err(kv_error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        family: &'static str,
        range: &ScanRange,
        mut options: ReadOptions,
    ) -> Result<Vec<Row>, KvError> {
        let family = self.family(family)?;
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Ok(Vec::new());
        }
        options.set_iterate_lower_bound(range.start.clone());
        if let Some(end) = &range.end {
            options.set_iterate_upper_bound(end.clone());
        }
        let mut rows = self.db.raw_iterator_cf_opt(family, options);
        match range.reverse {
            false => rows.seek_to_first(),
            true => rows.seek_to_last(),
        }
        // One buffer for all of them: two allocations for each of many small rows cost more than
        // what is read.
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        while ends.len() < range.limit {
            let Some((key, value)) = rows.item() else { break };
            bytes.extend_from_slice(key);
            let key_end = bytes.len();
            bytes.extend_from_slice(value);
            ends.push((key_end, bytes.len()));
            match range.reverse {
                false => rows.next(),
                true => rows.prev(),
            }
        }
        rows.status().map_err(kv_error)?;
        let mut rest = Bytes::from(bytes);
        let mut begin = 0;
        let row = |(key_end, end): (usize, usize)| {
            let (key, value) = (rest.split_to(key_end - begin), rest.split_to(end - key_end));
            begin = end;
            (key, value)
        };
        Ok(ends.into_iter().map(row).collect())
    }
}

struct RocksStore {
    inner: Arc<Inner>,
}

impl KvRead for RocksStore {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(family, key, &ReadOptions::default())
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        self.inner.scan(family, range, ReadOptions::default())
    }
}

impl Kv for RocksStore {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), KvError> {
        let mut rows = WriteBatch::default();
        for change in batch.changes {
            match change {
                Change::Put(family, key, value) => {
                    rows.put_cf(self.inner.family(family)?, key, value);
                }
                Change::Delete(family, key) => rows.delete_cf(self.inner.family(family)?, key),
                Change::DeleteRange(family, start, end) => {
                    let family = self.inner.family(family)?;
                    // RocksDB refuses a range that ends before it begins.
                    if start < end {
                        rows.delete_range_cf(family, start, end);
                    }
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.inner.db.write_opt(rows, &options).map_err(kv_error)
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut families = Vec::new();
        for name in &self.inner.known {
            families.push(self.inner.family(name)?);
        }
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.inner.db.flush_cfs_opt(&families, &options).map_err(kv_error)
    }

    fn snapshot(&self) -> Result<Arc<dyn KvRead>, KvError> {
        Ok(Arc::new(RocksSnapshot::new(self.inner.clone())))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        if RealDisk.exists(dir).map_err(io_error)? {
            return Err(KvError::Busy(format!("{} exists", dir.display())));
        }
        let parent = dir.parent().unwrap_or(Path::new("/"));
        RealDisk.create_dir_all(parent).map_err(io_error)?;
        // It flushes first, so that the copy is table files alone.
        let checkpoint = Checkpoint::new(&self.inner.db).map_err(kv_error)?;
        checkpoint.create_checkpoint(dir).map_err(kv_error)?;
        RealDisk.sync_dir(dir).and_then(|()| RealDisk.sync_dir(parent)).map_err(io_error)
    }

    fn verify(&self, scratch: &Path) -> Result<Box<dyn KvVerify>, KvError> {
        kv_verify::check_current(self.inner.db.path())?;
        RealDisk.remove_dir_all(scratch).map_err(io_error)?;
        self.checkpoint(scratch)?;
        Ok(Box::new(RocksVerify::open(scratch)?))
    }

    fn size_bytes(&self) -> u64 {
        // Unflushed rows stand in the log, in about the size they have in memory.
        let properties = [
            "rocksdb.total-sst-files-size",
            "rocksdb.total-blob-file-size",
            "rocksdb.cur-size-all-mem-tables",
        ];
        let families = self.inner.known.iter().filter_map(|name| self.inner.db.cf_handle(name));
        families
            .flat_map(|family| properties.map(|name| (family, name)))
            .filter_map(|(family, name)| {
                self.inner.db.property_int_value_cf(family, name).ok().flatten()
            })
            .sum()
    }
}

/// A stable view. Keeps its store open.
struct RocksSnapshot {
    /// Borrows from the database in `inner`; dropped before it.
    snapshot: SnapshotWithThreadMode<'static, DB>,
    inner: Arc<Inner>,
}

impl RocksSnapshot {
    #[allow(unsafe_code, reason = "a snapshot that owns what it borrows from")]
    fn new(inner: Arc<Inner>) -> RocksSnapshot {
        // SAFETY: the reference is used by `snapshot` only, a private field that is never moved
        // out and is dropped before `inner`, which keeps the database alive at this address.
        let db: &'static DB = unsafe { &*std::ptr::addr_of!(inner.db) };
        RocksSnapshot { snapshot: db.snapshot(), inner }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl KvRead for RocksSnapshot {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(family, key, &self.options())
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        self.inner.scan(family, range, self.options())
    }
}
