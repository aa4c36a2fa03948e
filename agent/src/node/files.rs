//! Small files of a node's directory, replaced as a whole.

use std::io;
use std::path::Path;

use nexusgrid_env::{Disk, OpenMode};

/// Longest small file that is read, in bytes.
const FILE_LEN_MAX: u64 = 64 << 20;

/// The bytes of a file, or `None` if there is none.
pub fn read_if_there(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    if !disk.exists(path)? {
        return Ok(None);
    }
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > FILE_LEN_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is too long", path.display()),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Writes a file beside, syncs it and renames it over `path`: whoever looks sees the old bytes or
/// the new ones, after a crash too.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let file = disk.open(&fresh, OpenMode::OpenOrCreate)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&fresh, path)?;
    match path.parent() {
        Some(parent) => disk.sync_dir(parent),
        None => Ok(()),
    }
}
