//! A snapshot being received: chunk after chunk into files of its own, complete before it counts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_env::{Disk, DiskFile, OpenMode};

use crate::limits::{SNAPSHOT_FILES_MAX, SNAPSHOT_NAME_BYTES_MAX};
use crate::raft::state::SnapshotFiles;

/// One transfer.
pub(crate) struct Incoming {
    pub transfer: u64,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    files: Vec<(String, u64)>,
    open: Option<Arc<dyn DiskFile>>,
    /// What comes next.
    file: usize,
    offset: u64,
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_owned())
}

fn fit_for_a_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= SNAPSHOT_NAME_BYTES_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !name.starts_with('.')
}

impl Incoming {
    /// Begins in the absent directory `dir`. Blocks.
    pub(crate) fn begin(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        transfer: u64,
        files: Vec<(String, u64)>,
    ) -> io::Result<Incoming> {
        let mut names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if files.len() > SNAPSHOT_FILES_MAX
            || names.len() != files.len()
            || !names.iter().all(|name| fit_for_a_name(name))
        {
            return Err(refused("the snapshot names files it must not"));
        }
        disk.create_dir_all(&dir)?;
        let mut incoming = Incoming { transfer, disk, dir, files, open: None, file: 0, offset: 0 };
        incoming.next_file()?;
        Ok(incoming)
    }

    /// Opens the file that comes next; makes those that are empty.
    fn next_file(&mut self) -> io::Result<()> {
        while let Some((name, len)) = self.files.get(self.file) {
            if self.open.is_none() {
                self.open = Some(self.disk.open(&self.dir.join(name), OpenMode::OpenOrCreate)?);
            }
            if self.offset < *len {
                return Ok(());
            }
            if let Some(file) = self.open.take() {
                file.sync()?;
            }
            self.file += 1;
            self.offset = 0;
        }
        Ok(())
    }

    /// Takes a chunk. One that was taken before is fine; any other out of turn is refused. Blocks.
    pub(crate) fn chunk(
        &mut self,
        file: usize,
        offset: u64,
        crc: u32,
        bytes: &Bytes,
    ) -> io::Result<()> {
        if (file, offset) < (self.file, self.offset) {
            return Ok(());
        }
        let end = offset.saturating_add(bytes.len() as u64);
        let fits = self.files.get(file).is_some_and(|(_, len)| end <= *len);
        if (file, offset) != (self.file, self.offset) || !fits || bytes.is_empty() {
            return Err(refused("a chunk out of turn"));
        }
        if crc32c::crc32c(bytes) != crc {
            return Err(refused("a chunk with a wrong checksum"));
        }
        let Some(open) = &self.open else { return Err(refused("a chunk out of turn")) };
        open.write_at(bytes, offset)?;
        self.offset = end;
        self.next_file()
    }

    /// All files, durable; refused while something is missing. Blocks.
    pub(crate) fn finish(&mut self) -> io::Result<Arc<SnapshotFiles>> {
        if self.file < self.files.len() {
            return Err(refused("the snapshot is not complete"));
        }
        self.disk.sync_dir(&self.dir)?;
        Ok(Arc::new(SnapshotFiles {
            dir: self.dir.clone(),
            files: std::mem::take(&mut self.files),
        }))
    }

    /// Removes what was received. Blocks.
    pub(crate) fn discard(self) -> io::Result<()> {
        self.disk.remove_dir_all(&self.dir)
    }
}
