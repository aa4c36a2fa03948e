//! FUSE's words for what a volume says, and back. Pure.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, Generation, INodeNo, TimeOrNow};

use crate::error::{Outcome, VolumeError};
use crate::identity::Identity;
use crate::limits;
use crate::volume::{
    Allocation, Attributes, Entry, Ino, Kind, LockKind, RenameMode, Seek, SetTime, Timestamp,
    XattrMode,
};

/// The bits of a mode that are not its type.
pub(crate) const PERMISSIONS: u32 = 0o7777;

const BLOCK_BYTES: u32 = 4096;

pub(crate) fn errno(error: VolumeError) -> fuser::Errno {
    fuser::Errno::from_i32(error.errno())
}

/// A name as the volume may rely on it.
pub(crate) fn name(name: &std::ffi::OsStr) -> Outcome<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let name = name.as_bytes();
    if name.len() > limits::NAME_BYTES {
        return Err(VolumeError::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return Err(VolumeError::Invalid);
    }
    Ok(name.to_vec())
}

/// fuser builds times before 1970 by subtracting the nanoseconds, which count forward, along with
/// the seconds. Taking both back out the same way gives what the kernel sent.
pub(crate) fn timestamp_in(time: SystemTime) -> Timestamp {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
        },
        Err(before) => Timestamp {
            seconds: i64::try_from(before.duration().as_secs())
                .map_or(i64::MIN, |seconds| -seconds),
            nanoseconds: before.duration().subsec_nanos(),
        },
    }
}

/// The other way round fuser is right.
pub(crate) fn timestamp_out(time: Timestamp) -> SystemTime {
    let nanoseconds = Duration::from_nanos(u64::from(time.nanoseconds.min(999_999_999)));
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let seconds = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    seconds.and_then(|time| time.checked_add(nanoseconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp_in(time)),
    }
}

pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// What `mknod` is to make.
pub(crate) fn kind(mode: u32) -> Outcome<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(Kind::File),
        libc::S_IFIFO => Ok(Kind::Fifo),
        libc::S_IFSOCK => Ok(Kind::Socket),
        libc::S_IFCHR => Ok(Kind::CharDevice),
        libc::S_IFBLK => Ok(Kind::BlockDevice),
        _ => Err(VolumeError::Invalid),
    }
}

pub(crate) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & PERMISSIONS).unwrap_or(0)
}

pub(crate) fn attributes(attributes: &Attributes, identity: &Identity) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: timestamp_out(attributes.accessed),
        mtime: timestamp_out(attributes.modified),
        ctime: timestamp_out(attributes.changed),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attributes.kind),
        perm: attributes.permissions,
        nlink: attributes.links,
        uid: identity.user_out(attributes.uid),
        gid: identity.group_out(attributes.gid),
        rdev: attributes.device,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// What stands for `.`, `..` and, as inode 0, for a name that is not there.
pub(crate) fn placeholder(ino: Ino) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// An entry ready to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) attr: FileAttr,
    pub(crate) attr_valid: Duration,
    pub(crate) name_valid: Duration,
    pub(crate) generation: Generation,
}

impl Shown {
    pub(crate) fn new(entry: &Entry, identity: &Identity) -> Self {
        Self {
            attr: attributes(&entry.known.attributes, identity),
            attr_valid: entry.known.valid,
            name_valid: entry.name_valid,
            generation: Generation(entry.generation),
        }
    }

    /// Where fuser has one time for both.
    pub(crate) fn valid(&self) -> Duration {
        self.attr_valid.min(self.name_valid)
    }
}

pub(crate) fn rename_mode(flags: fuser::RenameFlags) -> Outcome<RenameMode> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == fuser::RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == fuser::RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(VolumeError::Invalid)
    }
}

pub(crate) fn allocation(mode: i32) -> Outcome<Allocation> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Ok(Allocation::Reserve { keep_size: false }),
        libc::FALLOC_FL_KEEP_SIZE => Ok(Allocation::Reserve { keep_size: true }),
        PUNCH => Ok(Allocation::Punch),
        ZERO => Ok(Allocation::Zero { keep_size: false }),
        ZERO_KEEP => Ok(Allocation::Zero { keep_size: true }),
        _ => Err(VolumeError::Unsupported),
    }
}

pub(crate) fn seek(whence: i32) -> Outcome<Seek> {
    match whence {
        libc::SEEK_DATA => Ok(Seek::Data),
        libc::SEEK_HOLE => Ok(Seek::Hole),
        _ => Err(VolumeError::Invalid),
    }
}

pub(crate) fn xattr_mode(flags: i32) -> Outcome<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Either),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(VolumeError::Invalid),
    }
}

/// `None` lets go.
pub(crate) fn lock_kind(kind: i32) -> Outcome<Option<LockKind>> {
    match kind {
        libc::F_RDLCK => Ok(Some(LockKind::Shared)),
        libc::F_WRLCK => Ok(Some(LockKind::Exclusive)),
        libc::F_UNLCK => Ok(None),
        _ => Err(VolumeError::Invalid),
    }
}

pub(crate) fn lock_kind_out(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_come_back_as_they_went(seconds in -1_000_000_000_000_i64..1_000_000_000_000, nanoseconds in 0_u32..1_000_000_000) {
            let time = Timestamp { seconds, nanoseconds };
            // What fuser 0.18 makes of the kernel's numbers.
            let moved = Duration::new(seconds.unsigned_abs(), nanoseconds);
            let read = if seconds < 0 { SystemTime::UNIX_EPOCH - moved } else { SystemTime::UNIX_EPOCH + moved };
            prop_assert_eq!(timestamp_in(read), time);
            // And what it sends of a time: seconds rounded down, nanoseconds forward from there.
            let sent = timestamp_out(time);
            let since = match sent.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(since) => since.as_nanos() as i128,
                Err(before) => -(before.duration().as_nanos() as i128),
            };
            prop_assert_eq!(since, i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds));
        }
    }

    #[test]
    fn names_are_checked() {
        use std::ffi::OsStr;
        assert!(name(OsStr::new("a")).is_ok());
        assert_eq!(name(OsStr::new(&"x".repeat(256))), Err(VolumeError::NameTooLong));
        for bad in ["", ".", "..", "a/b"] {
            assert_eq!(name(OsStr::new(bad)), Err(VolumeError::Invalid));
        }
    }
}
