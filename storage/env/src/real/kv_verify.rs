//! Reading all of a RocksDB store against its checksums, while it is in use.
//!
//! A checkpoint (hard links, and a copy of the manifest) is opened on its own, so that nothing comes
//! from the live store's caches or open tables; then every row of every family is read. The
//! write-ahead log is not read: all it holds stands in memory until it is flushed, and a start
//! reads it.

use std::path::{Path, PathBuf};

use rocksdb::{BlockBasedOptions, ColumnFamilyDescriptor, DB, Options, ReadOptions};

use super::RealDisk;
use super::kv::{CURRENT_NAME, io_error, kv_error, open_error};
use crate::kv::{KvError, KvVerify};
use crate::{Disk, OpenMode, limits};

/// How the manifests that `CURRENT` names begin.
const MANIFEST_PREFIX: &str = "MANIFEST-";
/// `CURRENT` holds one name and a line's end.
const CURRENT_BYTES_MAX: usize = 128;

/// Whether `CURRENT` names a manifest that is there. It has no checksum: without this look a rotten
/// one would pass for a disk that refuses.
pub(super) fn check_current(dir: &Path) -> Result<(), KvError> {
    // A new manifest may take the old one's place between the two looks.
    if names_a_manifest(dir)? || names_a_manifest(dir)? {
        return Ok(());
    }
    Err(KvError::Corrupt(format!("{CURRENT_NAME} in {} names no manifest", dir.display())))
}

fn names_a_manifest(dir: &Path) -> Result<bool, KvError> {
    let file = RealDisk.open(&dir.join(CURRENT_NAME), OpenMode::Read).map_err(io_error)?;
    let mut bytes = vec![0; CURRENT_BYTES_MAX];
    let read = file.read_at(&mut bytes, 0).map_err(io_error)?;
    bytes.truncate(read);
    let named = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    let number = named.and_then(|name| name.strip_prefix(MANIFEST_PREFIX));
    match (named, number) {
        (Some(name), Some(number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            RealDisk.exists(&dir.join(name)).map_err(io_error)
        }
        _ => Ok(false),
    }
}

/// A walk through a checkpoint, which goes with it.
pub(super) struct RocksVerify {
    /// Closed before the directory goes.
    db: Option<DB>,
    dir: PathBuf,
    families: Vec<String>,
    /// The family to go on with, and where in it.
    at: usize,
    next: Vec<u8>,
}

impl RocksVerify {
    pub(super) fn open(dir: &Path) -> Result<RocksVerify, KvError> {
        let mut verify = RocksVerify {
            db: None,
            dir: dir.to_path_buf(),
            families: Vec::new(),
            at: 0,
            next: Vec::new(),
        };
        let mut options = Options::default();
        options.set_paranoid_checks(true);
        options.set_max_open_files(limits::KV_OPEN_FILES_MAX);
        // By itself it makes sixteen threads for each family.
        options.set_max_file_opening_threads(1);
        verify.families = DB::list_cf(&options, dir).map_err(open_error)?;
        let families = verify.families.iter().map(|name| {
            let mut table = BlockBasedOptions::default();
            table.disable_cache();
            let mut options = Options::default();
            options.set_block_based_table_factory(&table);
            ColumnFamilyDescriptor::new(name, options)
        });
        let db = DB::open_cf_descriptors_read_only(&options, dir, families, false);
        verify.db = Some(db.map_err(open_error)?);
        Ok(verify)
    }
}

impl KvVerify for RocksVerify {
    fn step(&mut self, bytes: u64) -> Result<Option<u64>, KvError> {
        let Some(db) = &self.db else { return Ok(None) };
        let mut read = 0;
        while let Some(name) = self.families.get(self.at) {
            let family = db.cf_handle(name);
            let family = family.ok_or_else(|| KvError::Corrupt(format!("no family {name}")))?;
            let mut options = ReadOptions::default();
            options.set_verify_checksums(true);
            options.fill_cache(false);
            let mut rows = db.raw_iterator_cf_opt(family, options);
            rows.seek(&self.next);
            while let Some((key, value)) = rows.item() {
                if read >= bytes {
                    self.next = key.to_vec();
                    return Ok(Some(read));
                }
                read += (key.len() + value.len()) as u64;
                rows.next();
            }
            rows.status().map_err(kv_error)?;
            self.at += 1;
            self.next.clear();
        }
        Ok((read > 0).then_some(read))
    }
}

impl Drop for RocksVerify {
    fn drop(&mut self) {
        drop(self.db.take());
        if let Err(error) = RealDisk.remove_dir_all(&self.dir) {
            tracing::warn!(%error, dir = %self.dir.display(), "removing a checkpoint");
        }
    }
}
