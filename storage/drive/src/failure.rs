//! A failed drive stays failed over a restart: marks beside the data and in the node's own directory.
//!
//! After a failed sync the page cache may show what the disk does not hold, and a new process would
//! serve it. The disk that fails may take no mark either, so that a second one goes elsewhere; both
//! are best effort, and the state in memory counts until the process ends. A mark counts by being
//! there, whatever it holds: a torn one is one too.

use std::io;
use std::path::{Path, PathBuf};

use nexusgrid_codec::DriveId;
use nexusgrid_env::{Disk, OpenMode};

/// Begins a mark; the digit is its version, the reason follows on the next line.
pub const MARK_HEAD: &str = "NXGDFAIL 1\n";
/// Longest reason that is read back, in bytes.
const REASON_BYTES_MAX: usize = 4096;

/// Where the marks of a drive are.
pub fn marks(dir: &Path, drive: DriveId, elsewhere: Option<&Path>) -> Vec<PathBuf> {
    let mut marks = vec![dir.join("failed")];
    marks.extend(elsewhere.map(|node| node.join(format!("drive-{}.failed", drive.0))));
    marks
}

/// Leaves every mark that can be left; says how many.
pub fn leave(disk: &dyn Disk, marks: &[PathBuf], reason: &str) -> usize {
    let mut left = 0;
    for mark in marks {
        match leave_one(disk, mark, reason) {
            Ok(()) => left += 1,
            Err(error) => {
                tracing::error!(%error, mark = %mark.display(), "cannot leave the mark of a failed drive");
            }
        }
    }
    left
}

fn leave_one(disk: &dyn Disk, mark: &Path, reason: &str) -> io::Result<()> {
    let file = disk.open(mark, OpenMode::OpenOrCreate)?;
    file.write_at(format!("{MARK_HEAD}{reason}\n").as_bytes(), 0)?;
    file.sync()?;
    mark.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
}

/// The reason that a mark gives, if one is there.
pub fn find(disk: &dyn Disk, marks: &[PathBuf]) -> io::Result<Option<String>> {
    for mark in marks {
        if disk.exists(mark)? {
            return Ok(Some(read(disk, mark).unwrap_or_else(|| "reason unreadable".into())));
        }
    }
    Ok(None)
}

fn read(disk: &dyn Disk, mark: &Path) -> Option<String> {
    let file = disk.open(mark, OpenMode::Read).ok()?;
    let mut bytes = vec![0; REASON_BYTES_MAX];
    let read = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(read);
    let text = String::from_utf8_lossy(&bytes);
    let reason = text.strip_prefix(MARK_HEAD)?.trim_end();
    (!reason.is_empty()).then(|| reason.to_owned())
}
