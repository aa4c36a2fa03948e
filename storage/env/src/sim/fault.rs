//! Faults a test asks a simulated disk for.

use std::path::Path;

/// A kind of disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Opening or making a file, taking a lock.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Syncing a file.
    Sync,
    /// Cutting or extending a file.
    SetLen,
    /// Punching a hole.
    PunchHole,
    /// Making directories.
    CreateDir,
    /// Removing a file or a tree.
    Remove,
    /// Renaming.
    Rename,
    /// Listing a directory, or asking whether a name exists.
    List,
    /// Syncing a directory.
    SyncDir,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation fails with EIO. A failing write may have written a part; a failing sync
    /// leaves some pages unwritten for good.
    Eio,
    /// The operation fails with ENOSPC.
    Full,
    /// Reads give, and writes store, one wrong bit, without an error.
    FlipBit,
    /// A write is dropped without an error. Other operations are not affected.
    LostWrite,
    /// A write goes to another place of the file without an error (a multiple of 4 KiB away).
    /// Other operations are not affected.
    Misdirected,
}

/// A fault: which operations it meets, and what it does to them.
#[derive(Clone, Debug)]
pub struct DiskFault {
    ops: Vec<DiskOp>,
    path: String,
    skip: u64,
    times: u64,
    pub(super) effect: Effect,
}

impl DiskFault {
    /// A fault that meets every one of `ops` (all kinds if empty), on any path, for ever.
    pub fn new(ops: &[DiskOp], effect: Effect) -> DiskFault {
        DiskFault { ops: ops.to_vec(), path: String::new(), skip: 0, times: u64::MAX, effect }
    }

    /// Only paths that contain `part`.
    #[must_use]
    pub fn on(mut self, part: impl Into<String>) -> DiskFault {
        self.path = part.into();
        self
    }

    /// Lets the first `count` matching operations pass.
    #[must_use]
    pub fn after(mut self, count: u64) -> DiskFault {
        self.skip = count;
        self
    }

    /// Happens `count` times, then no more.
    #[must_use]
    pub fn times(mut self, count: u64) -> DiskFault {
        self.times = count;
        self
    }

    /// Whether it strikes this operation; counts it.
    pub(super) fn strikes(&mut self, op: DiskOp, path: &Path) -> bool {
        if !self.ops.is_empty() && !self.ops.contains(&op)
            || !path.to_string_lossy().contains(&self.path)
            || self.times == 0
        {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}
