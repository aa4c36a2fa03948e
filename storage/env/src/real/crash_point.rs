//! Named points at which a test has a real process die: every sync, rename and directory sync.
//!
//! `NEXUSGRID_CRASH_AT=sync:17` aborts the process just before its seventeenth file sync;
//! `after-rename:3` just after its third rename. Without the variable nothing is wrapped.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Disk, DiskFile, DiskLock, OpenMode, Space};

/// The variable that names a point.
pub const VARIABLE: &str = "NEXUSGRID_CRASH_AT";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Sync,
    Rename,
    SyncDir,
}

struct Trigger {
    point: Point,
    after: bool,
    left: AtomicU64,
}

impl Trigger {
    /// Parses `[after-](sync|rename|sync-dir):N`.
    fn parse(text: &str) -> Option<Trigger> {
        let (name, count) = text.split_once(':')?;
        let (after, name) = match name.strip_prefix("after-") {
            Some(name) => (true, name),
            None => (false, name),
        };
        let point = match name {
            "sync" => Point::Sync,
            "rename" => Point::Rename,
            "sync-dir" => Point::SyncDir,
            _ => return None,
        };
        let count = count.parse().ok().filter(|count| *count > 0)?;
        Some(Trigger { point, after, left: AtomicU64::new(count) })
    }

    /// Counts one operation around `work`; does not return from the one that was named.
    fn pass<R>(&self, point: Point, work: impl FnOnce() -> R) -> R {
        let dies = point == self.point && self.left.fetch_sub(1, Ordering::Relaxed) == 1;
        if dies && !self.after {
            std::process::abort();
        }
        let result = work();
        if dies {
            std::process::abort();
        }
        result
    }
}

/// `disk`, or `disk` with the point that the environment names.
pub(super) fn wrap(disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
    match std::env::var(VARIABLE).ok().as_deref().map(Trigger::parse) {
        None => disk,
        Some(Some(trigger)) => Arc::new(CrashDisk { disk, trigger: Arc::new(trigger) }),
        Some(None) => {
            tracing::error!(
                "{VARIABLE} is not of the form [after-](sync|rename|sync-dir):N; ignored"
            );
            disk
        }
    }
}

struct CrashDisk {
    disk: Arc<dyn Disk>,
    trigger: Arc<Trigger>,
}

struct CrashFile {
    file: Arc<dyn DiskFile>,
    trigger: Arc<Trigger>,
}

impl Disk for CrashDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(CrashFile { file, trigger: Arc::clone(&self.trigger) }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.trigger.pass(Point::Rename, || self.disk.rename(from, to))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.trigger.pass(Point::SyncDir, || self.disk.sync_dir(path))
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }
}

impl DiskFile for CrashFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
    fn write_vectored_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(parts, offset)
    }
    fn write_past_cache_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.file.write_past_cache_at(parts, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.trigger.pass(Point::Sync, || self.file.sync())
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }
    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_parsed() {
        for (text, point, after) in [
            ("sync:17", Point::Sync, false),
            ("after-rename:3", Point::Rename, true),
            ("sync-dir:1", Point::SyncDir, false),
        ] {
            let trigger = Trigger::parse(text).unwrap();
            assert_eq!((trigger.point, trigger.after), (point, after));
        }
        for text in ["", "sync", "sync:0", "sync:x", "write:1", "before-sync:1"] {
            assert!(Trigger::parse(text).is_none(), "{text}");
        }
    }
}
