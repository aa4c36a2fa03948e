//! What a call can fail with, and the one table from there to errno.

use thiserror::Error;

/// Why a volume did not do what it was asked. Each variant is another answer to the program that
/// asked: its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VolumeError {
    /// No such name, or an inode that is gone.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A path component, or what a directory operation was given, is no directory.
    #[error("not a directory")]
    NotDirectory,
    /// A directory where none may be.
    #[error("is a directory")]
    IsDirectory,
    /// A directory that must be empty is not.
    #[error("directory not empty")]
    NotEmpty,
    /// Mode bits or lists do not allow it.
    #[error("permission denied")]
    Denied,
    /// Only an owner, or nobody, may do this.
    #[error("operation not permitted")]
    NotPermitted,
    /// Arguments that make no sense, such as a directory moved into itself.
    #[error("invalid argument")]
    Invalid,
    /// A handle that is not open for this.
    #[error("bad file descriptor")]
    BadHandle,
    /// A name above 255 bytes, or a symlink's target above the limit.
    #[error("name too long")]
    NameTooLong,
    /// More hard links than a file may have.
    #[error("too many links")]
    TooManyLinks,
    /// Beyond the largest file.
    #[error("file too large")]
    TooLarge,
    /// An extended attribute, or their list, above its limit.
    #[error("argument list too long")]
    AttributeTooLarge,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// Nothing of what was looked for (data, a hole) lies behind this offset.
    #[error("no such data behind this offset")]
    NoData,
    /// A lock that another owner has.
    #[error("locked by another")]
    Locked,
    /// Waiting would close a circle of waiting owners.
    #[error("deadlock avoided")]
    Deadlock,
    /// More locks, or more waiting for them, than there may be.
    #[error("no locks available")]
    NoLocks,
    /// More open files than there may be.
    #[error("too many open files")]
    TooManyHandles,
    /// The grid is full.
    #[error("no space left")]
    NoSpace,
    /// The bucket's or directory's quota is used up.
    #[error("quota exceeded")]
    Quota,
    /// The volume, or this part of it (a snapshot), is not to be written.
    #[error("read-only")]
    ReadOnly,
    /// Two volumes, or two groups of one that cannot do this together.
    #[error("crosses volumes")]
    CrossVolume,
    /// In use by what must end first.
    #[error("busy")]
    Busy,
    /// A handle or inode of a session that has ended.
    #[error("stale handle")]
    Stale,
    /// What this volume never does.
    #[error("not supported")]
    Unsupported,
    /// A process that waited was sent a signal. Only the adapter says this: said to a process
    /// without a signal it leaks the kernel's own restart code.
    #[error("interrupted")]
    Interrupted,
    /// The grid could not be reached within the time a call has.
    #[error("the grid did not answer in time")]
    TimedOut,
    /// Bytes that cannot be read or written, for good.
    #[error("input/output error")]
    Io,
}

impl VolumeError {
    /// The errno that stands for this.
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::Denied => libc::EACCES,
            Self::NotPermitted => libc::EPERM,
            Self::Invalid => libc::EINVAL,
            Self::BadHandle => libc::EBADF,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::TooManyLinks => libc::EMLINK,
            Self::TooLarge => libc::EFBIG,
            Self::AttributeTooLarge => libc::E2BIG,
            Self::NoAttribute => libc::ENODATA,
            Self::NoData => libc::ENXIO,
            Self::Locked => libc::EAGAIN,
            Self::Deadlock => libc::EDEADLK,
            Self::NoLocks => libc::ENOLCK,
            Self::TooManyHandles => libc::ENFILE,
            Self::NoSpace => libc::ENOSPC,
            Self::Quota => libc::EDQUOT,
            Self::ReadOnly => libc::EROFS,
            Self::CrossVolume => libc::EXDEV,
            Self::Busy => libc::EBUSY,
            Self::Stale => libc::ESTALE,
            // Not ENOSYS: the kernel would never ask again, for any file.
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::Interrupted => libc::EINTR,
            // Programs know what EIO means; ETIMEDOUT from read(2) they do not.
            Self::TimedOut | Self::Io => libc::EIO,
        }
    }
}

/// What a call of a volume gives.
pub type Outcome<T> = std::result::Result<T, VolumeError>;

/// Why a mount could not be made, kept or ended.
#[derive(Debug, Error)]
pub enum MountError {
    /// The mount point, the device or a right is missing: mend that and try again.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Options that exclude each other, or do not fit this system.
    #[error("{0}")]
    Options(String),
    /// Supervisor and daemon do not understand each other: two versions; mount anew.
    #[error("supervisor and daemon do not fit: {0}")]
    Handover(&'static str),
    /// The volume refused what the daemon before this one had open.
    #[error("the volume cannot resume: {0}")]
    Resume(VolumeError),
}

impl MountError {
    /// Wraps what the system said about `what`.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
