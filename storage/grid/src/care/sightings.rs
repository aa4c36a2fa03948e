//! How long each orphan of a drive has been seen, kept in a file of the drive's directory, so that a
//! machine which is switched off every evening gets rid of its orphans all the same.
//!
//! A file that is missing, torn or of another version counts as empty: that only delays.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use nexusgrid_drive::ShardKey;
use nexusgrid_env::{Disk, OpenMode};

use crate::limits;

/// Its name in the drive's directory.
const FILE_NAME: &str = "orphans";

/// Version of the file.
const VERSION: u8 = 1;

/// Longest file that is read: a key and a time take at most so many bytes each.
const FILE_BYTES_MAX: u64 = limits::ORPHANS_REMEMBERED_MAX as u64 * 48;

/// Shard → ms from its first sighting to its last, while an agent ran.
pub(super) type Sightings = BTreeMap<ShardKey, u64>;

/// What was kept.
pub(super) fn load(disk: &dyn Disk, dir: &Path) -> Sightings {
    read(disk, &dir.join(FILE_NAME)).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default()
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let bytes = usize::try_from(file.len()?.min(FILE_BYTES_MAX)).unwrap_or(0);
    let mut buffer = vec![0; bytes];
    let mut at = 0;
    while let Some(rest) = buffer.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at as u64)? {
            0 => break,
            count => at += count,
        }
    }
    buffer.truncate(at);
    Ok(buffer)
}

/// Keeps them: whoever looks sees these or those before, after a crash too.
pub(super) fn store(disk: &dyn Disk, dir: &Path, sightings: &Sightings) -> io::Result<()> {
    let (path, fresh) = (dir.join(FILE_NAME), dir.join("orphans.new"));
    let file = disk.open(&fresh, OpenMode::OpenOrCreate)?;
    file.set_len(0)?;
    file.write_at(&encode(sightings), 0)?;
    file.sync()?;
    disk.rename(&fresh, &path)?;
    disk.sync_dir(dir)
}

fn encode(sightings: &Sightings) -> Vec<u8> {
    // Fails only for types that postcard cannot represent; a lone version byte is refused.
    postcard::to_extend(sightings, vec![VERSION]).unwrap_or_else(|_| vec![VERSION])
}

fn decode(bytes: &[u8]) -> Option<Sightings> {
    match bytes.split_first()? {
        (&VERSION, body) => match postcard::take_from_bytes(body) {
            Ok((sightings, [])) => Some(sightings),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use nexusgrid_codec::{BlockId, GroupId, SessionId};
    use nexusgrid_env::sim::SimDisk;

    use super::*;

    #[test]
    fn what_is_kept_is_found_again_and_anything_else_is_nothing() {
        let block = BlockId { group: GroupId(1), session: SessionId(300), counter: 2 };
        let seen = Sightings::from([(ShardKey { block, index: 3 }, 500)]);
        assert_eq!(encode(&seen), [1, 1, 1, 0xac, 2, 2, 3, 0xf4, 3]);
        let sim = SimDisk::new(1);
        let disk = sim.mount();
        let dir = Path::new("/drive");
        disk.create_dir_all(dir).unwrap();
        assert!(load(disk.as_ref(), dir).is_empty());
        store(disk.as_ref(), dir, &seen).unwrap();
        assert_eq!(load(disk.as_ref(), dir), seen);
        let mut torn = encode(&seen);
        torn.pop();
        assert_eq!(decode(&torn), None);
        assert_eq!(decode(&[2, 0]), None);
        sim.crash();
        assert_eq!(load(sim.mount().as_ref(), dir), seen);
    }
}
