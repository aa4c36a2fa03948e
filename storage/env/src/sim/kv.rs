//! The simulated key-value store: ordered maps in memory, an image and a log on a [`Disk`].
//!
//! What a crash does to the log, the disk below decides; the log's records make sure that the
//! newest unsynced batches may go and a batch before a kept one never does. After any disk error
//! the store takes no more writes, like the product's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::kv_log::{self, Families, Replayed};
use crate::kv::{
    Batch, Change, Durability, Kv, KvEngine, KvError, KvOptions, KvRead, KvVerify, Row, ScanRange,
};
use crate::limits::SIM_KV_LOG_BYTES_MAX;
use crate::{Disk, DiskFile, DiskLock, OpenMode};

const LOCK_NAME: &str = "LOCK";
const IMAGE_PREFIX: &str = "IMAGE-";
const LOG_PREFIX: &str = "LOG-";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Opens simulated stores on a disk, simulated or not.
pub struct SimEngine {
    disk: Arc<dyn Disk>,
}

impl SimEngine {
    /// An engine whose stores live on `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> SimEngine {
        SimEngine { disk }
    }
}

fn io_error(error: std::io::Error) -> KvError {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => KvError::Busy(error.to_string()),
        _ => KvError::Io(error.to_string()),
    }
}

impl KvEngine for SimEngine {
    fn open(&self, dir: &Path, options: &KvOptions) -> Result<Arc<dyn Kv>, KvError> {
        let generation = match self.disk.exists(dir).map_err(io_error)? {
            true => newest_generation(&*self.disk, dir)?,
            false => None,
        };
        if generation.is_none() && !options.create {
            return Err(KvError::Corrupt(format!("no store in {}", dir.display())));
        }
        self.disk.create_dir_all(dir).map_err(io_error)?;
        let lock = self.disk.lock(&dir.join(LOCK_NAME)).map_err(io_error)?;
        let mut families = Families::new();
        let generation = match generation {
            Some(generation) => generation,
            None => {
                write_image(&*self.disk, dir, 1, &kv_log::encode_image(0, &families))?;
                1
            }
        };
        let image = read_all(&*self.disk, &image_path(dir, generation))?;
        let first_sequence;
        (first_sequence, families) = kv_log::decode_image(&image)?;
        let log = open_log(&*self.disk, dir, generation)?;
        let mut bytes = vec![0; log.len().map_err(io_error)? as usize];
        read_full(&*log, &mut bytes)?;
        let replay = kv_log::replay(&bytes, first_sequence, &mut families)?;
        // A stale tail must not join up with records written from now on.
        log.set_len(replay.good_bytes).and_then(|()| log.sync()).map_err(io_error)?;
        let known = [&options.families[..], &options.blob_families[..]].concat();
        for family in &known {
            families.entry((*family).to_owned()).or_default();
        }
        let state = State {
            families,
            generation,
            image_bytes: image.len() as u64,
            log,
            log_bytes: replay.good_bytes,
            durable_bytes: replay.good_bytes,
            next_sequence: replay.next_sequence,
            failed: None,
        };
        Ok(Arc::new(SimKv {
            disk: self.disk.clone(),
            dir: dir.to_path_buf(),
            known,
            state: Mutex::new(state),
            _lock: lock,
        }))
    }

    fn open_read_only(&self, dir: &Path, options: &KvOptions) -> Result<Arc<dyn KvRead>, KvError> {
        let generation = match self.disk.exists(dir).map_err(io_error)? {
            true => newest_generation(&*self.disk, dir)?,
            false => None,
        };
        let missing = || KvError::Corrupt(format!("no store in {}", dir.display()));
        let generation = generation.ok_or_else(missing)?;
        let image = read_all(&*self.disk, &image_path(dir, generation))?;
        let (first_sequence, mut families) = kv_log::decode_image(&image)?;
        let log = log_path(dir, generation);
        if self.disk.exists(&log).map_err(io_error)? {
            kv_log::replay(&read_all(&*self.disk, &log)?, first_sequence, &mut families)?;
        }
        let known = [&options.families[..], &options.blob_families[..]].concat();
        Ok(Arc::new(Snapshot { known, families }))
    }

    fn destroy(&self, dir: &Path) -> Result<(), KvError> {
        self.disk.remove_dir_all(dir).map_err(io_error)?;
        match dir.parent() {
            Some(parent) if self.disk.exists(parent).map_err(io_error)? => {
                self.disk.sync_dir(parent).map_err(io_error)
            }
            _ => Ok(()),
        }
    }
}

fn image_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{IMAGE_PREFIX}{generation:08}"))
}

fn log_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{LOG_PREFIX}{generation:08}"))
}

fn newest_generation(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>, KvError> {
    let names = disk.list(dir).map_err(io_error)?;
    let number = |name: &PathBuf| name.to_str()?.strip_prefix(IMAGE_PREFIX)?.parse::<u64>().ok();
    Ok(names.iter().filter_map(number).max())
}

fn read_full(file: &dyn DiskFile, bytes: &mut [u8]) -> Result<(), KvError> {
    match file.read_at(bytes, 0).map_err(io_error)? == bytes.len() {
        true => Ok(()),
        false => Err(KvError::Corrupt("file ends early".to_owned())),
    }
}

fn read_all(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, KvError> {
    let file = disk.open(path, OpenMode::Read).map_err(io_error)?;
    let mut bytes = vec![0; file.len().map_err(io_error)? as usize];
    read_full(&*file, &mut bytes)?;
    Ok(bytes)
}

/// Writes an image under its final name, durably.
fn write_image(disk: &dyn Disk, dir: &Path, generation: u64, bytes: &[u8]) -> Result<(), KvError> {
    let path = image_path(dir, generation);
    let temporary = dir.join(format!("{IMAGE_PREFIX}{generation:08}{TEMPORARY_SUFFIX}"));
    let write = || -> std::io::Result<()> {
        let file = disk.open(&temporary, OpenMode::OpenOrCreate)?;
        file.set_len(0)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)
    };
    write().map_err(io_error)
}

fn open_log(disk: &dyn Disk, dir: &Path, generation: u64) -> Result<Arc<dyn DiskFile>, KvError> {
    let log = disk.open(&log_path(dir, generation), OpenMode::OpenOrCreate).map_err(io_error)?;
    disk.sync_dir(dir).map_err(io_error)?;
    Ok(log)
}

struct State {
    families: Families,
    generation: u64,
    image_bytes: u64,
    log: Arc<dyn DiskFile>,
    log_bytes: u64,
    durable_bytes: u64,
    next_sequence: u64,
    /// The first disk error; after it nothing is written.
    failed: Option<String>,
}

struct SimKv {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    known: Vec<&'static str>,
    state: Mutex<State>,
    _lock: Box<dyn DiskLock>,
}

impl SimKv {
    fn check_family(&self, family: &str) -> Result<(), KvError> {
        match self.known.contains(&family) {
            true => Ok(()),
            false => Err(KvError::UnknownFamily(family.to_owned())),
        }
    }

    /// Fails once the machine's life is over: its memory is gone too.
    fn check_alive(state: &State) -> Result<(), KvError> {
        state.log.len().map(|_| ()).map_err(io_error)
    }

    /// Runs a change of the files; an error is the store's last.
    fn guarded<R>(
        state: &mut State,
        work: impl FnOnce(&mut State) -> Result<R, KvError>,
    ) -> Result<R, KvError> {
        if let Some(reason) = &state.failed {
            return Err(KvError::Io(format!("failed before: {reason}")));
        }
        work(state).inspect_err(|error| state.failed = Some(error.to_string()))
    }

    /// Moves everything into a new image and begins an empty log.
    fn compact(&self, state: &mut State) -> Result<(), KvError> {
        let generation = state.generation + 1;
        let image = kv_log::encode_image(state.next_sequence, &state.families);
        // The log first: a crash may keep the image's name and nothing of the log's.
        let log = open_log(&*self.disk, &self.dir, generation)?;
        log.set_len(0).and_then(|()| log.sync()).map_err(io_error)?;
        write_image(&*self.disk, &self.dir, generation, &image)?;
        for old in [image_path(&self.dir, state.generation), log_path(&self.dir, state.generation)]
        {
            self.disk.remove_file(&old).map_err(io_error)?;
        }
        self.disk.sync_dir(&self.dir).map_err(io_error)?;
        state.generation = generation;
        state.image_bytes = image.len() as u64;
        state.log = log;
        state.log_bytes = 0;
        state.durable_bytes = 0;
        Ok(())
    }
}

impl KvRead for SimKv {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.check_family(family)?;
        let state = self.state.lock();
        SimKv::check_alive(&state)?;
        get(&state.families, family, key)
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        self.check_family(family)?;
        let state = self.state.lock();
        SimKv::check_alive(&state)?;
        scan(&state.families, family, range)
    }
}

impl Kv for SimKv {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), KvError> {
        for change in &batch.changes {
            let (Change::Put(family, ..)
            | Change::Delete(family, _)
            | Change::DeleteRange(family, ..)) = change;
            self.check_family(family)?;
        }
        let mut guard = self.state.lock();
        SimKv::guarded(&mut guard, |state| {
            let record =
                kv_log::encode_record(state.next_sequence, state.durable_bytes, &batch.changes);
            state.log.write_at(&record, state.log_bytes).map_err(io_error)?;
            state.log_bytes += record.len() as u64;
            if durability == Durability::Synced {
                state.log.sync().map_err(io_error)?;
                state.durable_bytes = state.log_bytes;
            }
            state.next_sequence += 1;
            for change in &batch.changes {
                Replayed::of(change).apply(&mut state.families);
            }
            if state.log_bytes > SIM_KV_LOG_BYTES_MAX { self.compact(state) } else { Ok(()) }
        })
    }

    fn flush(&self) -> Result<(), KvError> {
        SimKv::guarded(&mut self.state.lock(), |state| self.compact(state))
    }

    fn snapshot(&self) -> Result<Arc<dyn KvRead>, KvError> {
        let state = self.state.lock();
        SimKv::check_alive(&state)?;
        Ok(Arc::new(Snapshot { known: self.known.clone(), families: state.families.clone() }))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        let state = self.state.lock();
        if self.disk.exists(dir).map_err(io_error)? {
            return Err(KvError::Busy(format!("{} exists", dir.display())));
        }
        self.disk.create_dir_all(dir).map_err(io_error)?;
        let image = kv_log::encode_image(state.next_sequence, &state.families);
        write_image(&*self.disk, dir, 1, &image)
    }

    fn verify(&self, _scratch: &Path) -> Result<Box<dyn KvVerify>, KvError> {
        // Small enough to be read at once.
        let state = self.state.lock();
        let image = read_all(&*self.disk, &image_path(&self.dir, state.generation))?;
        let (first_sequence, mut families) = kv_log::decode_image(&image)?;
        let mut log = vec![0; state.log_bytes as usize];
        if state.log.read_at(&mut log, 0).map_err(io_error)? < log.len() {
            return Err(KvError::Corrupt("the log ends early".to_owned()));
        }
        let replay = kv_log::replay(&log, first_sequence, &mut families)?;
        if replay.next_sequence != state.next_sequence {
            return Err(KvError::Corrupt("a record of the log is damaged".to_owned()));
        }
        Ok(Box::new(Verified(Some(state.image_bytes + state.log_bytes))))
    }

    fn size_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.image_bytes + state.log_bytes
    }
}

/// So many bytes were read, all at the beginning.
struct Verified(Option<u64>);

impl KvVerify for Verified {
    fn step(&mut self, _bytes: u64) -> Result<Option<u64>, KvError> {
        Ok(self.0.take())
    }
}

/// A stable view; in memory, so it outlives its store's disk for as long as it is held.
struct Snapshot {
    known: Vec<&'static str>,
    families: Families,
}

impl KvRead for Snapshot {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.check(family)?;
        get(&self.families, family, key)
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        self.check(family)?;
        scan(&self.families, family, range)
    }
}

impl Snapshot {
    fn check(&self, family: &str) -> Result<(), KvError> {
        match self.known.contains(&family) {
            true => Ok(()),
            false => Err(KvError::UnknownFamily(family.to_owned())),
        }
    }
}

fn get(families: &Families, family: &str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
    Ok(families.get(family).and_then(|rows| rows.get(key)).cloned())
}

fn scan(families: &Families, family: &str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
    let Some(rows) = families.get(family) else { return Ok(Vec::new()) };
    if range.end.as_ref().is_some_and(|end| *end <= range.start) {
        return Ok(Vec::new());
    }
    let start = std::ops::Bound::Included(&range.start[..]);
    let end = match &range.end {
        Some(end) => std::ops::Bound::Excluded(&end[..]),
        None => std::ops::Bound::Unbounded,
    };
    let found =
        rows.range::<[u8], _>((start, end)).map(|(key, value)| (key.clone(), value.clone()));
    Ok(match range.reverse {
        false => found.take(range.limit).collect(),
        true => found.rev().take(range.limit).collect(),
    })
}
