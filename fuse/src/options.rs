//! How a bucket is mounted.

use std::time::Duration;

use fuser::InitFlags;
use serde::{Deserialize, Serialize};

use crate::error::MountError;
use crate::identity::Identity;
use crate::limits;

/// How a bucket is mounted. [`Default`] is what a cautious administrator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// What stands in the table of mounts as the device. Default `nexusgrid`.
    pub source: String,
    /// Nothing can be written. Default no.
    pub read_only: bool,
    /// Other users than the one that mounts may look. Default yes: mode bits decide.
    pub allow_other: bool,
    /// Set-id bits count when programs are run. Default no.
    pub suid: bool,
    /// Device nodes lead to devices. Default no.
    pub dev: bool,
    /// Programs can be run. Default yes.
    pub exec: bool,
    /// Whose numbers are whose. Default: as they are, root is root.
    pub identity: Identity,
    /// Threads that read requests, 1 to 64. Default [`limits::THREADS`].
    pub threads: usize,
    /// How long a call may take before its program hears EIO. Default [`limits::CALL_TIMEOUT`].
    pub call_timeout: Duration,
    /// The kernel keeps writes and sends them later. Many small writes become few, but the kernel
    /// then believes its own size and times of a file and not the volume's: only for a volume that
    /// nobody else writes. Default no.
    pub kernel_write_back: bool,
    /// How far the kernel reads ahead, in KiB, 0 to 16 384. Default [`limits::READ_AHEAD_KIB`].
    pub read_ahead_kib: u32,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            source: "nexusgrid".to_owned(),
            read_only: false,
            allow_other: true,
            suid: false,
            dev: false,
            exec: true,
            identity: Identity::default(),
            threads: limits::THREADS,
            call_timeout: limits::CALL_TIMEOUT,
            kernel_write_back: false,
            read_ahead_kib: limits::READ_AHEAD_KIB,
        }
    }
}

impl MountOptions {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<(), MountError> {
        if !(1..=64).contains(&self.threads) {
            return Err(MountError::Options(format!("threads: {} is not 1 to 64", self.threads)));
        }
        if self.read_ahead_kib > 16 * 1024 {
            return Err(MountError::Options(format!(
                "read-ahead: {} KiB is not 0 to 16384",
                self.read_ahead_kib
            )));
        }
        if self.call_timeout.is_zero() {
            return Err(MountError::Options("the time for a call must not be zero".to_owned()));
        }
        if self.source.is_empty() || self.source.contains('\0') {
            return Err(MountError::Options("the mount's source must have a name".to_owned()));
        }
        self.identity.check()
    }

    /// What is asked of the kernel, as far as it can. All daemons of a mount must ask the same.
    pub(crate) fn capabilities(&self) -> InitFlags {
        let mut flags = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            // Default lists decide whether the umask counts, so the volume must see both.
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
            | InitFlags::FUSE_HAS_RESEND;
        if self.kernel_write_back {
            flags |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        flags
    }
}
