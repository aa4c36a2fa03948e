//! Ordered key-value stores: RocksDB in the product, an ordered map that loses unsynced batches in
//! simulation.
//!
//! All methods block. A store has *families* (RocksDB column families), named when it is opened.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The disk below refused (EIO, full): the store must be closed.
    #[error("key-value store I/O: {0}")]
    Io(String),
    /// What is stored fails its checksums or is not a store.
    #[error("key-value store is corrupt: {0}")]
    Corrupt(String),
    /// Another process has the store open.
    #[error("key-value store is in use: {0}")]
    Busy(String),
    /// The caller named a family that was not opened.
    #[error("unknown family {0}")]
    UnknownFamily(String),
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct KvOptions {
    /// Families; made if absent.
    pub families: Vec<&'static str>,
    /// Families whose large values go to blob files, apart from the keys a scan reads.
    pub blob_families: Vec<&'static str>,
    /// Whether to make the store if absent.
    pub create: bool,
}

/// A range of keys, in byte order.
#[derive(Clone, Debug)]
pub struct ScanRange {
    /// First key, included.
    pub start: Vec<u8>,
    /// End, excluded; `None` is the end of the family.
    pub end: Option<Vec<u8>>,
    /// From the end backwards.
    pub reverse: bool,
    /// At most so many rows.
    pub limit: usize,
}

impl ScanRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8], limit: usize) -> ScanRange {
        ScanRange { start: prefix.to_vec(), end: prefix_end(prefix), reverse: false, limit }
    }
}

/// The first key after all that begin with `prefix`; `None` if there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// A row: key and value.
pub type Row = (Bytes, Bytes);

/// What can be read, of the live store or of a snapshot.
pub trait KvRead: Send + Sync {
    /// The value of a key.
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError>;
    /// Rows of a range, in order, at most `range.limit`.
    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError>;
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put(&'static str, Vec<u8>, Vec<u8>),
    /// Removes a key; fine if absent.
    Delete(&'static str, Vec<u8>),
    /// Removes `start..end`.
    DeleteRange(&'static str, Vec<u8>, Vec<u8>),
}

/// Changes that become visible and durable together, applied in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes, in order.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Sets a key.
    pub fn put(
        &mut self,
        family: &'static str,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) {
        self.changes.push(Change::Put(family, key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, family: &'static str, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete(family, key.into()));
    }

    /// Removes `start..end`.
    pub fn delete_range(
        &mut self,
        family: &'static str,
        start: impl Into<Vec<u8>>,
        end: impl Into<Vec<u8>>,
    ) {
        self.changes.push(Change::DeleteRange(family, start.into(), end.into()));
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// When a write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before the call returns.
    Synced,
    /// Some time later; a crash may lose the newest batches, never one before a kept one.
    Unsynced,
}

/// A walk through all that a store has on disk, checksum by checksum; see [`Kv::verify`].
pub trait KvVerify: Send {
    /// Reads about `bytes` more of the rows; how many it read, `None` once all were. Rot is
    /// [`KvError::Corrupt`].
    fn step(&mut self, bytes: u64) -> Result<Option<u64>, KvError>;
}

/// An open store.
pub trait Kv: KvRead {
    /// Applies a batch atomically.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), KvError>;
    /// Makes everything written so far durable, in files that need no log replay.
    fn flush(&self) -> Result<(), KvError>;
    /// A stable view of now.
    fn snapshot(&self) -> Result<Arc<dyn KvRead>, KvError>;
    /// Writes a copy of the store, of now, into the absent directory `dir`: files that can be
    /// shipped and opened elsewhere (hard links where the engine can).
    fn checkpoint(&self, dir: &Path) -> Result<(), KvError>;
    /// Begins a walk through the store's files as they are on disk now, past all caches. `scratch` is
    /// a directory beside the store for what that takes; it is made anew, and removed at the end.
    fn verify(&self, scratch: &Path) -> Result<Box<dyn KvVerify>, KvError>;
    /// Approximate bytes on disk.
    fn size_bytes(&self) -> u64;
}

/// Opens stores below a machine's disk.
pub trait KvEngine: Send + Sync + 'static {
    /// Opens the store in `dir`.
    fn open(&self, dir: &Path, options: &KvOptions) -> Result<Arc<dyn Kv>, KvError>;
    /// Looks at the store in `dir` as it stands there, changing nothing. No one may have it open.
    fn open_read_only(&self, dir: &Path, options: &KvOptions) -> Result<Arc<dyn KvRead>, KvError>;
    /// Removes the store in `dir`; fine if absent. No one may have it open.
    fn destroy(&self, dir: &Path) -> Result<(), KvError>;
}
