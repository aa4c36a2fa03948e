//! Where scrub stands on a drive, kept in a file of the drive's directory: a pass takes weeks, and a
//! machine may be switched off every evening.
//!
//! A file that is missing, torn or of another version counts as none: the pass begins anew.
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use nexusgrid_drive::ScrubCursor;
use nexusgrid_env::{Disk, OpenMode};
use serde::{Deserialize, Serialize};

/// Its name in the drive's directory.
const FILE_NAME: &str = "scrub";
/// Version of the file.
const VERSION: u8 = 1;
/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256;

/// One pass over a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pass {
    /// Where it goes on.
    pub(super) cursor: ScrubCursor,
    /// Read so far.
    pub(super) bytes: u64,
    /// When it began, by the wall clock: only how soon it should end follows from that.
    pub(super) began_ms: u64,
}

impl Pass {
    /// From the beginning.
    pub(super) fn begin_again(&mut self, now_ms: u64) {
        *self = Pass { began_ms: now_ms, ..Pass::default() };
    }

    /// How far it is, of a drive with so many bytes in use.
    pub(super) fn percent(&self, used: u64) -> u8 {
        let percent = u128::from(self.bytes) * 100 / u128::from(used.max(1));
        u8::try_from(percent.min(99)).unwrap_or(99)
    }
}

/// What was kept; else a pass that begins now.
pub(super) fn load(disk: &dyn Disk, dir: &Path, now_ms: u64) -> Pass {
    let none = || Pass { began_ms: now_ms, ..Pass::default() };
    read(disk, &dir.join(FILE_NAME)).ok().and_then(|bytes| decode(&bytes)).unwrap_or_else(none)
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?.min(FILE_BYTES_MAX)).unwrap_or(0)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Keeps it. Not synced: what a loss of power takes is read once more.
pub(super) fn store(disk: &dyn Disk, dir: &Path, pass: &Pass) -> io::Result<()> {
    let (path, fresh) = (dir.join(FILE_NAME), dir.join("scrub.new"));
    let file = disk.open(&fresh, OpenMode::OpenOrCreate)?;
    file.set_len(0)?;
    file.write_at(&encode(pass), 0)?;
    disk.rename(&fresh, &path)
}

fn encode(pass: &Pass) -> Vec<u8> {
    // Fails only for types that postcard cannot represent; a lone version byte is refused.
    postcard::to_extend(pass, vec![VERSION]).unwrap_or_else(|_| vec![VERSION])
}

fn decode(bytes: &[u8]) -> Option<Pass> {
    match bytes.split_first()? {
        (&VERSION, body) => match postcard::take_from_bytes(body) {
            Ok((pass, [])) => Some(pass),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use nexusgrid_env::sim::SimDisk;

    use super::*;

    #[test]
    fn what_is_kept_is_found_again_and_anything_else_is_a_new_pass() {
        let pass = Pass { cursor: ScrubCursor::default(), bytes: 300, began_ms: 5 };
        assert_eq!(encode(&pass), [1, 0, 0, 0, 0, 0, 0, 0xac, 2, 5]);
        let sim = SimDisk::new(1);
        let disk = sim.mount();
        let dir = Path::new("/drive");
        disk.create_dir_all(dir).unwrap();
        assert_eq!(load(disk.as_ref(), dir, 9), Pass { began_ms: 9, ..Pass::default() });
        store(disk.as_ref(), dir, &pass).unwrap();
        assert_eq!(load(disk.as_ref(), dir, 9), pass);
        assert_eq!(pass.percent(600), 50);
        assert_eq!(pass.percent(0), 99);
        assert_eq!(decode(&[1, 0]), None);
        assert_eq!(decode(&[2, 0, 0, 0, 0, 0, 0, 1, 5]), None);
    }
}
