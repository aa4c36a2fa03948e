//! The floor of a group: the vote and the last log id that were once durable.
//!
//! A disk that came back older than the floor (a restored image, a lying cache, a lost or broken log)
//! would let the node vote twice in a term or forget what it acknowledged. Two copies are written in
//! turn, so that a torn write leaves the one before; both live apart from the log's files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexusgrid_env::{Disk, OpenMode};
use serde::{Deserialize, Serialize};

use crate::raft::encode::{open, seal};
use crate::raft::types::{LogId, Vote};

const COPIES: [&str; 2] = ["floor.a", "floor.b"];

/// What must be found in the log at start, at least.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Floor {
    pub vote: Option<Vote>,
    pub last: Option<LogId>,
}

impl Floor {
    /// Whether a log with `self` reaches `floor`.
    pub(crate) fn reaches(&self, floor: &Floor) -> bool {
        let vote = match (&self.vote, &floor.vote) {
            (_, None) => true,
            (None, Some(_)) => false,
            // Votes are partially ordered: what cannot be compared is not proven to be as new.
            (Some(have), Some(want)) => have >= want,
        };
        vote && self.last >= floor.last
    }
}

/// The two copies of a group's floor.
pub(crate) struct FloorFile {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Writes so far; the copy to write next follows from it.
    count: u64,
}

impl FloorFile {
    /// Reads what stands in `dir`; `None` if neither copy is whole.
    pub(crate) fn load(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<(FloorFile, Option<Floor>)> {
        let mut newest: Option<(u64, Floor)> = None;
        for name in COPIES {
            let path = dir.join(name);
            if !disk.exists(&path)? {
                continue;
            }
            let bytes = read_file(&*disk, &path)?;
            let Ok(copy) = open::<(u64, Floor)>(&bytes, "floor") else {
                // Torn as power failed, or rotten: the next write goes there.
                tracing::warn!(copy = %path.display(), "a copy of a floor is damaged");
                continue;
            };
            if newest.as_ref().is_none_or(|(count, _)| copy.0 > *count) {
                newest = Some(copy);
            }
        }
        let count = newest.as_ref().map_or(0, |(count, _)| *count);
        Ok((FloorFile { disk, dir: dir.to_path_buf(), count }, newest.map(|(_, floor)| floor)))
    }

    /// Whether both copies read as they were written, as far as there are two.
    pub(crate) fn is_whole(&self) -> io::Result<bool> {
        for name in COPIES {
            let path = self.dir.join(name);
            if self.disk.exists(&path)? {
                let bytes = read_file(&*self.disk, &path)?;
                if open::<(u64, Floor)>(&bytes, "floor").is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Makes `floor` durable.
    pub(crate) fn write(&mut self, floor: &Floor) -> io::Result<()> {
        let count = self.count + 1;
        let name = if count.is_multiple_of(2) { COPIES[0] } else { COPIES[1] };
        let path = self.dir.join(name);
        let new = !self.disk.exists(&path)?;
        let file = self.disk.open(&path, OpenMode::OpenOrCreate)?;
        let bytes = seal(&(count, floor));
        file.set_len(bytes.len() as u64)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        if new {
            self.disk.sync_dir(&self.dir)?;
        }
        self.count = count;
        Ok(())
    }
}

/// A small file as a whole.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; file.len()? as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a small file atomically and durably.
pub(crate) fn replace_file(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let file = disk.open(&temporary, OpenMode::OpenOrCreate)?;
    file.set_len(bytes.len() as u64)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)
}
