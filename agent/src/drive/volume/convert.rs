//! The adapter's words for things, and the grid's.

use nexusgrid_fuse::volume::{
    Attributes, Caller, Conflict, Creation, Ino, Kind, LockKind, LockRange, SetAttributes, SetTime,
    Timestamp,
};
use nexusgrid_fuse::{Outcome, VolumeError};
use nexusgrid_grid::volume as grid;

use super::super::options::DriveOptions;
use super::super::wire::Fault;

pub(super) fn moment(time: Timestamp) -> grid::Moment {
    grid::Moment { seconds: time.seconds, nanos: time.nanoseconds }
}

fn timestamp(moment: grid::Moment) -> Timestamp {
    Timestamp { seconds: moment.seconds, nanoseconds: moment.nanos }
}

pub(super) fn kind_of(kind: &grid::NodeKind) -> Kind {
    match kind {
        grid::NodeKind::Directory => Kind::Directory,
        grid::NodeKind::File { .. } => Kind::File,
        grid::NodeKind::Special(special) => match special {
            grid::Special::Symlink(_) => Kind::Symlink,
            grid::Special::Fifo => Kind::Fifo,
            grid::Special::Socket => Kind::Socket,
            grid::Special::CharDevice(_) => Kind::CharDevice,
            grid::Special::BlockDevice(_) => Kind::BlockDevice,
        },
    }
}

/// What `stat` shows of a node; what nobody said of it is as the mount's options say.
pub(super) fn attributes(node: &grid::Node, options: &DriveOptions) -> Outcome<Attributes> {
    let kind = kind_of(&node.kind);
    let (size, device) = match &node.kind {
        grid::NodeKind::Directory => (0, 0),
        grid::NodeKind::File { size, .. } => (*size, 0),
        grid::NodeKind::Special(special) => match special {
            grid::Special::Symlink(target) => (target.len() as u64, 0),
            grid::Special::CharDevice(number) | grid::Special::BlockDevice(number) => {
                (0, u32::try_from(*number).unwrap_or(u32::MAX))
            }
            grid::Special::Fifo | grid::Special::Socket => (0, 0),
        },
    };
    let permissions = match (node.attrs.mode, kind) {
        (Some(mode), _) => (mode & 0o7777) as u16,
        (None, Kind::Directory) => options.directory_mode,
        (None, Kind::Symlink) => 0o777,
        (None, _) => options.file_mode,
    };
    Ok(Attributes {
        ino: Ino(node.ino.ok_or(VolumeError::Stale)?.0),
        kind,
        permissions,
        size,
        blocks: size.div_ceil(512),
        links: node.links,
        uid: node.attrs.uid.unwrap_or(options.owner.0),
        gid: node.attrs.gid.unwrap_or(options.owner.1),
        device,
        accessed: timestamp(node.attrs.accessed),
        modified: timestamp(node.attrs.modified),
        changed: timestamp(node.attrs.changed),
    })
}

/// What is to be made, by whom.
pub(super) fn make(caller: &Caller, creation: &Creation, hold: bool) -> Outcome<grid::Creation> {
    let device = u64::from(creation.device);
    let what = match creation.kind {
        Kind::Directory => grid::NewNode::Directory,
        Kind::File => grid::NewNode::File,
        Kind::Fifo => grid::NewNode::Special(grid::Special::Fifo),
        Kind::Socket => grid::NewNode::Special(grid::Special::Socket),
        Kind::CharDevice => grid::NewNode::Special(grid::Special::CharDevice(device)),
        Kind::BlockDevice => grid::NewNode::Special(grid::Special::BlockDevice(device)),
        Kind::Symlink => return Err(VolumeError::Invalid),
    };
    let maker = grid::Maker {
        uid: caller.uid,
        gid: caller.gid,
        mode: u32::from(creation.permissions),
        umask: u32::from(creation.umask),
    };
    Ok(grid::Creation { what, maker, hold })
}

pub(super) fn symlink(caller: &Caller, target: &[u8]) -> grid::Creation {
    let maker = grid::Maker { uid: caller.uid, gid: caller.gid, mode: 0o777, umask: 0 };
    let what = grid::NewNode::Special(grid::Special::Symlink(target.to_vec()));
    grid::Creation { what, maker, hold: false }
}

/// What is to change, but for the size.
pub(super) fn change(set: &SetAttributes) -> grid::AttrsChange {
    let time = |time: Option<SetTime>| {
        time.map(|time| match time {
            SetTime::Now => grid::SetTime::Now,
            SetTime::At(time) => grid::SetTime::At(moment(time)),
        })
    };
    grid::AttrsChange {
        mode: set.permissions.map(u32::from),
        uid: set.uid,
        gid: set.gid,
        accessed: time(set.accessed),
        modified: time(set.modified),
    }
}

pub(super) fn lock(kind: LockKind) -> grid::LockKind {
    match kind {
        LockKind::Shared => grid::LockKind::Shared,
        LockKind::Exclusive => grid::LockKind::Exclusive,
    }
}

pub(super) fn range(range: LockRange) -> grid::LockRange {
    grid::LockRange { first: range.first, last: range.last }
}

pub(super) fn conflict(held: &grid::Lock) -> Conflict {
    Conflict {
        range: LockRange { first: held.range.first, last: held.range.last },
        kind: match held.kind {
            grid::LockKind::Shared => LockKind::Shared,
            grid::LockKind::Exclusive => LockKind::Exclusive,
        },
        pid: held.pid,
    }
}

/// Why a call failed, as programs hear it.
pub(super) fn fault(fault: Fault) -> VolumeError {
    match fault {
        Fault::Posix(error) => posix(error),
        Fault::Full => VolumeError::NoSpace,
        Fault::Quota => VolumeError::Quota,
        Fault::Denied => VolumeError::Denied,
        Fault::Away(why) | Fault::Refused(why) | Fault::Failed(why) => {
            tracing::error!(why, "a call failed");
            VolumeError::Io
        }
    }
}

fn posix(error: grid::PosixError) -> VolumeError {
    use grid::PosixError as P;
    match error {
        P::NotFound => VolumeError::NotFound,
        P::Exists => VolumeError::Exists,
        P::NotDirectory => VolumeError::NotDirectory,
        P::IsDirectory => VolumeError::IsDirectory,
        P::NotEmpty => VolumeError::NotEmpty,
        P::Invalid => VolumeError::Invalid,
        P::NameTooLong => VolumeError::NameTooLong,
        P::TooManyLinks => VolumeError::TooManyLinks,
        P::NotPermitted => VolumeError::NotPermitted,
        P::NoAttribute => VolumeError::NoAttribute,
        P::NoSpace => VolumeError::NoSpace,
        P::AttributeTooLong => VolumeError::AttributeTooLarge,
        P::Stale => VolumeError::Stale,
        P::TooLarge => VolumeError::TooLarge,
        P::Sealed | P::Denied => VolumeError::Denied,
        P::ReadOnly => VolumeError::ReadOnly,
        P::OneByOne => VolumeError::CrossVolume,
        P::Locked => VolumeError::Locked,
        P::TooManyLocks => VolumeError::NoLocks,
        P::NoData => VolumeError::NoData,
        P::OtherKey | P::ReplaceInstead | P::NotReserved | P::MountEnded => {
            tracing::error!(%error, "the agent passed on what it should have mended");
            VolumeError::Io
        }
    }
}
