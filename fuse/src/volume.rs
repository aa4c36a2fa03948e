//! The one door between the kernel's calls and whatever keeps the files: the trait [`Volume`].
//!
//! The adapter ([`crate::ops`]) speaks FUSE on one side and this on the other. It owns what belongs
//! to the mount on this machine: handle numbers, the bounds in time and number, identities, errno,
//! the directory entries `.` and `..`. A volume owns what belongs to the files.
//!
//! What a volume may rely on:
//! - Names are 1 to 255 bytes without `/` and NUL, and neither `.` nor `..`.
//! - Mode bits have been checked by the kernel (`default_permissions`) against the attributes that it
//!   was given; what the volume must check itself is what else there is: locks on objects, policies,
//!   sticky bits where two mounts race.
//! - SGID directories, default lists and the umask are the volume's to apply: [`Creation`] carries all.
//! - Set-id bits are cleared by the kernel with a [`Volume::setattr`] of its own before it writes.
//!
//! What a volume must keep:
//! - A future that is dropped stops waiting; whether the call happened is then open. A dropped
//!   wait for a lock leaves the line.
//! - A call with [`Caller::repeated`] may have happened already, in this process or one that is
//!   dead; with the same [`Caller::request`] it must give the same answer, not happen twice.
//! - Cookies of a directory are stable: an entry keeps its cookie while it exists, and no other has it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Outcome;
use crate::notices::Notices;

/// An inode's number, for the life of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

/// The root directory of every volume.
pub const ROOT: Ino = Ino(1);

/// An open file; the adapter gives the numbers, and they outlive a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Handle(pub u64);

/// Where in a directory a listing goes on: behind the entry that carries it. 0 is the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cookie(pub u64);

impl Cookie {
    /// A listing's start.
    pub const START: Cookie = Cookie(0);
    /// The smallest that an entry may carry: those below stand for `.` and `..`.
    pub const FIRST: Cookie = Cookie(3);
    /// The largest: the kernel reads an offset as a signed number.
    pub const LAST: Cookie = Cookie(i64::MAX as u64);
}

/// Who holds a lock: an open file table, or for `flock` an open file description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner(pub u64);

/// A request's name, never used twice: of the mount (drawn when it was made) and within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The mount, for its life: through all daemons that serve it.
    pub mount: u128,
    /// The request within the mount.
    pub number: u64,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Identity in the volume's numbers: mapped, and squashed if so set.
    pub uid: u32,
    /// Group in the volume's numbers.
    pub gid: u32,
    /// The thread on this machine; 0 if the kernel asks for itself or cannot tell.
    pub pid: u32,
    /// The request's name.
    pub request: RequestId,
    /// Sent a second time, because the daemon that got it first is dead.
    pub repeated: bool,
}

/// Seconds and nanoseconds since 1970; before that, negative seconds and nanoseconds forward from
/// there, as `struct timespec` counts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits: the low twelve bits of a mode.
    pub permissions: u16,
    /// Length in bytes.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    /// Names of a file; of a directory 2 and its subdirectories, or 1.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A device's number, as `mknod` gave it.
    pub device: u32,
    /// Last read.
    pub accessed: Timestamp,
    /// Last write.
    pub modified: Timestamp,
    /// Last change of the inode.
    pub changed: Timestamp,
}

/// Attributes and how long the kernel may believe them unasked: as long as the volume promises to
/// send a notice before they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// What holds.
    pub attributes: Attributes,
    /// For how long.
    pub valid: Duration,
}

/// An inode as found under a name. Giving one to the kernel is a reference, until [`Volume::forget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Attributes.
    pub known: Known,
    /// Tells two inodes apart that had one number.
    pub generation: u64,
    /// How long the name may be believed to lead here.
    pub name_valid: Duration,
}

/// A lookup's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The name leads here.
    Entry(Entry),
    /// There is no such name, and that may be believed this long.
    Absent {
        /// Zero: the kernel asks each time.
        valid: Duration,
    },
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The volume's now.
    Now,
    /// This.
    At(Timestamp),
}

/// What to set; `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttributes {
    /// The low twelve bits.
    pub permissions: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Cuts or grows the file.
    pub size: Option<u64>,
    /// Last read.
    pub accessed: Option<SetTime>,
    /// Last write.
    pub modified: Option<SetTime>,
    /// Last change: only from a kernel that keeps writes back.
    pub changed: Option<Timestamp>,
}

/// How an inode is to begin. Its owner is the [`Caller`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creation {
    /// What it is to be; not [`Kind::Symlink`], which has a call of its own.
    pub kind: Kind,
    /// The twelve bits asked for, before the umask.
    pub permissions: u16,
    /// The asker's umask: it counts where the parent has no default list.
    pub umask: u16,
    /// A device's number.
    pub device: u32,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFlags(pub i32);

impl OpenFlags {
    /// Whether it may be read. With kernel write-back, the kernel reads through any handle.
    pub fn reads(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_WRONLY
    }
    /// Whether it may be written.
    pub fn writes(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_RDONLY
    }
    /// Whether every write goes to the file's end, wherever that is by then.
    pub fn appends(self) -> bool {
        self.0 & libc::O_APPEND != 0
    }
    /// Whether the file is cut to nothing.
    pub fn truncates(self) -> bool {
        self.0 & libc::O_TRUNC != 0
    }
    /// Whether it must not exist yet (only with a creation).
    pub fn exclusive(self) -> bool {
        self.0 & libc::O_EXCL != 0
    }
    /// Whether each write must be durable before it is answered.
    pub fn synchronous(self) -> bool {
        self.0 & libc::O_DSYNC != 0
    }
}

/// What the kernel may do with an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opened {
    /// The pages it has of this file still hold.
    pub keep_pages: bool,
    /// It is to keep none: each read and write comes here.
    pub direct: bool,
}

/// What the kernel may do with an open directory's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenedDirectory {
    /// It may keep them until it is told otherwise.
    pub cache: bool,
    /// Those it has still hold.
    pub keep: bool,
}

/// A handle of a daemon that is dead, which the kernel still uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// Its number, which stays.
    pub handle: Handle,
    /// The file.
    pub ino: Ino,
    /// How it was opened; what opening did to the file is done ([`OpenFlags::truncates`] is past).
    pub flags: OpenFlags,
    /// The user that opened it, in the volume's numbers.
    pub uid: u32,
    /// The group of that user.
    pub gid: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: Vec<u8>,
    /// Its inode.
    pub ino: Ino,
    /// What that is.
    pub kind: Kind,
    /// Where the listing goes on behind this entry.
    pub cookie: Cookie,
}

/// A name in a directory with all that a lookup of it would give; each counts as one until
/// [`Volume::forget`]. The adapter forgets those that it could not pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Where it leads.
    pub entry: Entry,
    /// Where the listing goes on behind this entry.
    pub cookie: Cookie,
}

/// How `rename` treats the target's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// What has it is replaced, if POSIX allows that.
    Replace,
    /// [`Exists`](crate::VolumeError::Exists) if it is taken.
    NoReplace,
    /// Both must exist, and change places.
    Exchange,
}

/// A request to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where. With [`OpenFlags::appends`] and no kernel write-back, the end counts instead, as the
    /// volume knows it.
    pub offset: u64,
    /// What.
    pub data: Bytes,
    /// From the kernel's page cache: handle and caller are guesses.
    pub from_cache: bool,
}

/// What a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Others may read too.
    Shared,
    /// Nobody else.
    Exclusive,
}

/// Bytes of a file, both ends included; the last byte of all is `u64::MAX >> 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRange {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
}

/// Who is in a lock's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The bytes it has.
    pub range: LockRange,
    /// How.
    pub kind: LockKind,
    /// The process, if it is of this mount; else 0.
    pub pid: u32,
}

/// What `fallocate` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Promise space.
    Reserve {
        /// Without growing the file.
        keep_size: bool,
    },
    /// Make a hole; the size stays.
    Punch,
    /// Make zeroes.
    Zero {
        /// Without growing the file.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is stored.
    Data,
    /// The next hole, or the end.
    Hole,
}

/// How an extended attribute is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Whether it is there or not.
    Either,
    /// [`Exists`](crate::VolumeError::Exists) if it is there.
    Create,
    /// [`NoAttribute`](crate::VolumeError::NoAttribute) if not.
    Replace,
}

/// What `statfs` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statfs {
    /// Size of a block, in bytes.
    pub block: u32,
    /// All blocks: of the quota, else of the grid.
    pub blocks: u64,
    /// Blocks that can still be written.
    pub free: u64,
    /// All inodes.
    pub inodes: u64,
    /// Inodes that can still be made.
    pub inodes_free: u64,
}

/// Files as the kernel knows them. Calls come from many threads at once and in any order.
#[allow(clippy::too_many_arguments, reason = "calls of POSIX have these")]
pub trait Volume: Send + Sync + 'static {
    /// Before the first call: what is sent through `notices` reaches the kernel's caches.
    fn attach(&self, notices: Notices);

    /// Before the first call of a daemon: opens these again, under these numbers, for the daemon
    /// before had them open; none, of the first. Nothing else that the dead one had open is known to the kernel. A file that is gone
    /// was released, and the daemon died before it could strike it off: it is passed over.
    fn resume(&self, open: Vec<OpenFile>) -> impl Future<Output = Outcome<()>> + Send;

    /// After the last call, when the mount has ended in order: makes durable what is not.
    fn close(&self) -> impl Future<Output = Outcome<()>> + Send;

    /// Finds a name; an entry in the answer counts as a reference.
    fn lookup(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Outcome<Found>> + Send;

    /// The kernel drops that many references. Must not wait. A number above what is counted (a
    /// daemon before this one gave them) drops all.
    fn forget(&self, ino: Ino, references: u64);

    /// Attributes.
    fn getattr(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Option<Handle>,
    ) -> impl Future<Output = Outcome<Known>> + Send;

    /// Sets attributes, all of them or none.
    fn setattr(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Option<Handle>,
        set: &SetAttributes,
    ) -> impl Future<Output = Outcome<Known>> + Send;

    /// A symbolic link's target.
    fn readlink(&self, caller: &Caller, ino: Ino) -> impl Future<Output = Outcome<Vec<u8>>> + Send;

    /// Makes an inode of any kind but directory and symbolic link.
    fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        creation: &Creation,
    ) -> impl Future<Output = Outcome<Entry>> + Send;

    /// Makes a directory.
    fn mkdir(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        creation: &Creation,
    ) -> impl Future<Output = Outcome<Entry>> + Send;

    /// Removes a name that is no directory; the inode stays while a handle or another name has it.
    fn unlink(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Removes an empty directory.
    fn rmdir(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Makes a symbolic link.
    fn symlink(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> impl Future<Output = Outcome<Entry>> + Send;

    /// Moves a name.
    fn rename(
        &self,
        caller: &Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Gives a file one more name.
    fn link(
        &self,
        caller: &Caller,
        ino: Ino,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Outcome<Entry>> + Send;

    /// Opens a file under the handle given. The file stays while the handle does. Repeated, it may have
    /// another handle than before: then it is open under this one.
    fn open(
        &self,
        caller: &Caller,
        ino: Ino,
        flags: OpenFlags,
        handle: Handle,
    ) -> impl Future<Output = Outcome<Opened>> + Send;

    /// Makes a regular file and opens it, or opens the one that is there unless
    /// [`OpenFlags::exclusive`].
    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        creation: &Creation,
        flags: OpenFlags,
        handle: Handle,
    ) -> impl Future<Output = Outcome<(Entry, Opened)>> + Send;

    /// Reads; fewer bytes than asked only at the end.
    fn read(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        offset: u64,
        length: u32,
    ) -> impl Future<Output = Outcome<Bytes>> + Send;

    /// Writes, and says how much: all, unless an error came behind the first bytes.
    fn write(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        write: Write,
    ) -> impl Future<Output = Outcome<u32>> + Send;

    /// A descriptor was closed: says what went wrong with writes so far, lets go this owner's
    /// record locks. Makes what was written visible to other mounts.
    fn flush(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        owner: LockOwner,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// The last descriptor was closed; lets go the locks that `flock` gave to this owner, and those
    /// that were taken through this handle: of an open file description's own the kernel says nothing.
    fn release(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        flock_owner: Option<LockOwner>,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Returns when what was written through any handle is durable.
    fn fsync(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        data_only: bool,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Opens a directory; there is nothing to close, as cookies are all the state of a listing.
    fn opendir(
        &self,
        caller: &Caller,
        ino: Ino,
    ) -> impl Future<Output = Outcome<OpenedDirectory>> + Send;

    /// Up to `max` entries behind `after`; none at the end. Without `.` and `..`.
    fn readdir(
        &self,
        caller: &Caller,
        ino: Ino,
        after: Cookie,
        max: usize,
    ) -> impl Future<Output = Outcome<Vec<Listed>>> + Send;

    /// As [`readdir`](Self::readdir), with what a lookup of each would give.
    fn readdirplus(
        &self,
        caller: &Caller,
        ino: Ino,
        after: Cookie,
        max: usize,
    ) -> impl Future<Output = Outcome<Vec<ListedEntry>>> + Send;

    /// Returns when what was done to this directory is durable.
    fn fsyncdir(&self, caller: &Caller, ino: Ino) -> impl Future<Output = Outcome<()>> + Send;

    /// How much there is, and how much is free.
    fn statfs(&self, caller: &Caller, ino: Ino) -> impl Future<Output = Outcome<Statfs>> + Send;

    /// An extended attribute.
    fn getxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
    ) -> impl Future<Output = Outcome<Bytes>> + Send;

    /// Names of the extended attributes.
    fn listxattr(
        &self,
        caller: &Caller,
        ino: Ino,
    ) -> impl Future<Output = Outcome<Vec<Vec<u8>>>> + Send;

    /// Sets an extended attribute. `system.posix_acl_access` changes the mode, too.
    fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: Bytes,
        mode: XattrMode,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Removes an extended attribute.
    fn removexattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// The first lock of others in the way of this one.
    fn getlk(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        owner: LockOwner,
        range: LockRange,
        kind: LockKind,
    ) -> impl Future<Output = Outcome<Option<Conflict>>> + Send;

    /// Takes, changes or (`None`) lets go a lock. `flock` comes as all bytes of the file. With
    /// `wait` it stands in line until it has it; without, [`Locked`](crate::VolumeError::Locked).
    fn setlk(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        owner: LockOwner,
        range: LockRange,
        kind: Option<LockKind>,
        wait: bool,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Promises, punches or clears bytes of a file.
    fn fallocate(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        offset: u64,
        length: u64,
        what: Allocation,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// The next data or hole from `offset` on; [`NoData`](crate::VolumeError::NoData) at the end.
    fn lseek(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        offset: u64,
        what: Seek,
    ) -> impl Future<Output = Outcome<u64>> + Send;

    /// Copies bytes from file to file without the kernel, and says how many.
    fn copy_file_range(
        &self,
        caller: &Caller,
        from: (Ino, Handle, u64),
        to: (Ino, Handle, u64),
        length: u64,
    ) -> impl Future<Output = Outcome<u64>> + Send;
}
