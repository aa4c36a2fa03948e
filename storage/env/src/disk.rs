//! Files and directories of one machine.
//!
//! All methods block; callers run them through [`crate::Exec::blocking`]. Nothing is durable before
//! [`DiskFile::sync`] (data and length of a file) or [`Disk::sync_dir`] (names in a directory).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, reads only.
    Read,
    /// Existing file, reads and writes.
    ReadWrite,
    /// Reads and writes; made if absent.
    OpenOrCreate,
    /// Reads and writes; fails with `AlreadyExists` if present.
    CreateNew,
}

/// Size of the file system that holds a path, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Total size.
    pub total_bytes: u64,
    /// What an unprivileged writer may still take.
    pub free_bytes: u64,
}

/// Held while a [`Disk::lock`] lives; released on drop or when the process dies.
pub trait DiskLock: Send + Sync {}

/// A directory tree of one machine.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a directory and its parents; their names are durable on return.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything below it; fine if absent.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or directory, replacing a file at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Names in a directory (bare, without its path), sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether a file or directory exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Size of the file system below `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes an exclusive lock on `path` (made if absent); `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// An open file. Offsets and lengths in bytes.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`, extending the file if needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all `parts`, one after the other, from `offset` on.
    fn write_vectored_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for part in parts {
            self.write_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }
    /// As [`DiskFile::write_vectored_at`], for what is synced at once and seldom read soon: a disk may
    /// keep it out of its cache.
    fn write_past_cache_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_vectored_at(parts, offset)
    }
    /// Makes data and length durable (`fdatasync`). After an error the file's contents are
    /// unknown: the caller must treat the drive as failed and never try again.
    fn sync(&self) -> io::Result<()>;
    /// Length of the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeroes) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Frees the whole file-system blocks inside the range; reads there give zeroes.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Bytes the file really takes on disk.
    fn allocated_bytes(&self) -> io::Result<u64>;
}
