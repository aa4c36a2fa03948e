//! What a worker keeps in a small file of a drive's directory, over restarts.
//!
//! A file that is missing, torn or of another version is none: whoever keeps something here can begin
//! without it.
#![deny(clippy::indexing_slicing)]

use std::io;
use std::marker::PhantomData;
use std::path::Path;

use nexusgrid_env::{Disk, OpenMode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One kind of file.
pub(super) struct Kept<T> {
    /// Its name in the drive's directory.
    name: &'static str,
    /// Version of its form.
    version: u8,
    /// Longest file that is read, in bytes.
    bytes_max: u64,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Kept<T> {
    pub(super) const fn new(name: &'static str, version: u8, bytes_max: u64) -> Kept<T> {
        Kept { name, version, bytes_max, of: PhantomData }
    }

    /// What was kept.
    pub(super) fn load(&self, disk: &dyn Disk, dir: &Path) -> Option<T> {
        self.decode(&self.read(disk, dir).ok()?)
    }

    fn read(&self, disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u8>> {
        let file = disk.open(&dir.join(self.name), OpenMode::Read)?;
        let bytes = usize::try_from(file.len()?.min(self.bytes_max)).unwrap_or(0);
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

    /// Keeps it: whoever looks sees this or what was kept before. `synced`: after a loss of power too;
    /// otherwise that may take it.
    pub(super) fn store(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        value: &T,
        synced: bool,
    ) -> io::Result<()> {
        let (path, fresh) = (dir.join(self.name), dir.join(format!("{}.new", self.name)));
        let file = disk.open(&fresh, OpenMode::OpenOrCreate)?;
        file.set_len(0)?;
        file.write_at(&self.encode(value), 0)?;
        if synced {
            file.sync()?;
        }
        disk.rename(&fresh, &path)?;
        if synced { disk.sync_dir(dir) } else { Ok(()) }
    }

    pub(super) fn encode(&self, value: &T) -> Vec<u8> {
        // Fails only for types that postcard cannot represent; a lone version byte is refused.
        postcard::to_extend(value, vec![self.version]).unwrap_or_else(|_| vec![self.version])
    }

    fn decode(&self, bytes: &[u8]) -> Option<T> {
        let (version, body) = bytes.split_first()?;
        match postcard::take_from_bytes(body) {
            Ok((value, [])) if *version == self.version => Some(value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use nexusgrid_env::sim::SimDisk;

    use super::*;

    const KEPT: Kept<Vec<u64>> = Kept::new("numbers", 3, 64);

    #[test]
    fn what_is_kept_is_found_again_and_anything_else_is_nothing() {
        let some = vec![1, 300];
        assert_eq!(KEPT.encode(&some), [3, 2, 1, 0xac, 2]);
        let sim = SimDisk::new(1);
        let disk = sim.mount();
        let dir = Path::new("/drive");
        disk.create_dir_all(dir).unwrap();
        assert_eq!(KEPT.load(disk.as_ref(), dir), None);
        for synced in [false, true] {
            KEPT.store(disk.as_ref(), dir, &some, synced).unwrap();
            assert_eq!(KEPT.load(disk.as_ref(), dir), Some(some.clone()));
        }
        for bad in [&[][..], &[3], &[3, 2, 1], &[3, 1, 1, 1], &[2, 1, 1]] {
            assert_eq!(KEPT.decode(bad), None, "{bad:?}");
        }
        // Longer than any that was written.
        KEPT.store(disk.as_ref(), dir, &vec![u64::MAX; 60], true).unwrap();
        assert_eq!(KEPT.load(disk.as_ref(), dir), None);
        KEPT.store(disk.as_ref(), dir, &some, true).unwrap();
        sim.crash();
        assert_eq!(KEPT.load(sim.mount().as_ref(), dir), Some(some));
    }
}
