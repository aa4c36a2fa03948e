//! A disk on which no file holds the bytes that were written to it.
//!
//! Every byte except zero is stored shifted, by its offset, and every name is stored reversed
//! behind a prefix. Whoever reads or writes a file past the [`Disk`] seam, or opens one by a path
//! of its own, gets garbage or nothing, and its test fails.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::{Disk, DiskFile, DiskLock, OpenMode, Space};

const NAME_PREFIX: &[u8] = b"obf-";

/// Wraps a disk; only paths below `root` are obfuscated, the root itself keeps its name.
pub struct ObfuscatedDisk {
    inner: Arc<dyn Disk>,
    root: PathBuf,
}

impl ObfuscatedDisk {
    /// Obfuscates what stands below `root` on `inner`.
    pub fn new(inner: Arc<dyn Disk>, root: impl Into<PathBuf>) -> ObfuscatedDisk {
        ObfuscatedDisk { inner, root: root.into() }
    }

    /// Where a path is really stored.
    pub fn stored_path(&self, path: &Path) -> PathBuf {
        let Ok(below) = path.strip_prefix(&self.root) else { return path.to_path_buf() };
        let mut stored = self.root.clone();
        for component in below.components() {
            match component {
                Component::Normal(name) => stored.push(hide_name(name.as_bytes())),
                other => stored.push(other),
            }
        }
        stored
    }

    fn is_obfuscated(&self, directory: &Path) -> bool {
        directory.starts_with(&self.root)
    }
}

fn hide_name(name: &[u8]) -> OsString {
    let reversed = name.iter().rev().copied();
    OsString::from_vec(NAME_PREFIX.iter().copied().chain(reversed).collect())
}

fn show_name(stored: &[u8]) -> Option<OsString> {
    let reversed = stored.strip_prefix(NAME_PREFIX)?;
    Some(OsString::from_vec(reversed.iter().rev().copied().collect()))
}

/// How far the byte at `offset` is shifted: 1 to 254, so that every byte changes.
fn shift(offset: u64) -> u16 {
    (offset % 254) as u16 + 1
}

/// Shifts a byte within 1 to 255. Zero stays, so that holes and extended files still read as
/// zeroes.
fn hide(byte: u8, offset: u64) -> u8 {
    match byte {
        0 => 0,
        _ => ((u16::from(byte) - 1 + shift(offset)) % 255 + 1) as u8,
    }
}

fn show(byte: u8, offset: u64) -> u8 {
    match byte {
        0 => 0,
        _ => ((u16::from(byte) - 1 + 255 - shift(offset)) % 255 + 1) as u8,
    }
}

fn hide_all(data: &[u8], offset: u64) -> Vec<u8> {
    (offset..).zip(data).map(|(at, byte)| hide(*byte, at)).collect()
}

impl Disk for ObfuscatedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(&self.stored_path(path), mode)?;
        Ok(match self.is_obfuscated(path) {
            true => Arc::new(ObfuscatedFile { inner }),
            false => inner,
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(&self.stored_path(path))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(&self.stored_path(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(&self.stored_path(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(&self.stored_path(from), &self.stored_path(to))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let stored = self.inner.list(&self.stored_path(path))?;
        if !self.is_obfuscated(path) {
            return Ok(stored);
        }
        // What was put there past the seam is not shown.
        let mut names: Vec<PathBuf> = stored
            .iter()
            .filter_map(|name| show_name(name.as_os_str().as_bytes()))
            .map(PathBuf::from)
            .collect();
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(&self.stored_path(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(&self.stored_path(path))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.inner.space(&self.stored_path(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.inner.lock(&self.stored_path(path))
    }
}

struct ObfuscatedFile {
    inner: Arc<dyn DiskFile>,
}

impl DiskFile for ObfuscatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buffer, offset)?;
        for (at, byte) in (offset..).zip(buffer.iter_mut().take(read)) {
            *byte = show(*byte, at);
        }
        Ok(read)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(&hide_all(data, offset), offset)
    }

    fn write_vectored_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        // Stays one write, so that faults strike it as one.
        self.inner.write_at(&hide_all(&parts.concat(), offset), offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch_hole(offset, len)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.inner.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    #[test]
    fn every_byte_comes_back_and_none_but_zero_is_stored_as_it_is() {
        for offset in 0..600 {
            for byte in 0..=u8::MAX {
                assert_eq!(show(hide(byte, offset), offset), byte);
                assert_eq!(hide(byte, offset) == byte, byte == 0);
            }
        }
    }

    #[test]
    fn what_is_written_is_found_through_the_seam_only() {
        let bare = SimDisk::new(1);
        let root = Path::new("/data");
        let disk = ObfuscatedDisk::new(Arc::new(bare.clone()), root);
        disk.create_dir_all(root).unwrap();
        let path = root.join("segment-1");
        let file = disk.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(b"a marker", 0).unwrap();
        assert_eq!(disk.list(root).unwrap(), [PathBuf::from("segment-1")]);
        assert!(!bare.exists(&path).unwrap());
        let stored = bare.content(&disk.stored_path(&path)).unwrap();
        assert_ne!(stored, b"a marker");
    }
}
