//! What a mount asks of a metadata group: nodes by number, names in directories, sparse files.

use nexusgrid_env::NodeId;
use serde::{Deserialize, Serialize};

use super::{BucketId, ContentId, Extent, LockKind, LockRange, NewContent, SnapshotId, WrappedKey};

/// A mount's lease with a metadata group: unique, never reused. It writes no blocks of its own, so that it
/// may last for weeks and hold up nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MountId(pub u64);

/// A mount as its row holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Its id.
    pub id: MountId,
    /// The bucket.
    pub bucket: BucketId,
    /// The node that it is on.
    pub node: NodeId,
    /// How long without renewal.
    pub lease_ms: u64,
    /// When it was renewed last.
    pub renewed_ms: u64,
    /// Locks that it has.
    pub locks: u32,
}

/// A node's number: unique in its group, never reused. A directory's is its id.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Ino(pub u64);

impl Ino {
    /// A bucket's root directory.
    pub const ROOT: Ino = Ino(1);
}

/// A time: seconds since 1970, and nanoseconds (below 10⁹) after them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Moment {
    /// Seconds; before 1970: negative.
    pub seconds: i64,
    /// Nanoseconds after the second.
    pub nanos: u32,
}

impl Moment {
    /// Of milliseconds since 1970.
    pub fn from_ms(ms: u64) -> Moment {
        let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
        Moment { seconds, nanos: (ms % 1_000) as u32 * 1_000_000 }
    }

    /// Whole milliseconds since 1970; before that: 0.
    pub fn ms(self) -> u64 {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        seconds.saturating_mul(1_000).saturating_add(u64::from(self.nanos) / 1_000_000)
    }
}

/// What a node has whatever it is. What nobody said of its owner is `None`: the mount has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attrs {
    /// Permissions, with set-user, set-group and sticky bits: twelve bits.
    pub mode: Option<u32>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// When it was read.
    pub accessed: Moment,
    /// When what it holds changed.
    pub modified: Moment,
    /// When anything of it changed.
    pub changed: Moment,
}

impl Attrs {
    /// Of what was made at a time, by nobody.
    pub fn at(moment: Moment) -> Attrs {
        let (accessed, modified, changed) = (moment, moment, moment);
        Attrs { mode: None, uid: None, gid: None, accessed, modified, changed }
    }
}

/// A node that is neither file nor directory. Clients of S3 do not see these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Special {
    /// A symbolic link, and where it leads.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(u64),
    /// A block device.
    BlockDevice(u64),
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Its content.
        content: ContentId,
        /// Its bytes.
        size: u64,
        /// Commit sequence of the last change of its bytes or its description.
        sequence: u64,
        /// Whether a key that the grid does not have is needed to read it.
        sealed: bool,
    },
    /// Something else.
    Special(Special),
}

/// A node as a mount sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number; `None`: it has none yet ([`PosixOp::Adopt`] gives it one).
    pub ino: Option<Ino>,
    /// What it is.
    pub kind: NodeKind,
    /// What it has.
    pub attrs: Attrs,
    /// Names that lead to it; of a directory 2 and one for each directory in it, or 1: not counted.
    pub links: u32,
}

/// A name in a directory, and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// As a mount shows it.
    pub name: Vec<u8>,
    /// As it is stored: where a listing goes on.
    pub stored: Vec<u8>,
    /// What it leads to.
    pub node: Node,
}

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewNode {
    /// An empty directory.
    Directory,
    /// An empty file.
    File,
    /// Something else.
    Special(Special),
}

/// Who makes a node, and what they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// User.
    pub uid: u32,
    /// Group; a directory whose set-group bit is set gives its own.
    pub gid: u32,
    /// Permissions asked for: twelve bits. A symbolic link has all.
    pub mode: u32,
    /// Bits that it is not to have; of no account in a directory with a default list.
    pub umask: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The command's.
    Now,
    /// This.
    At(Moment),
}

/// A change of what a node has; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttrsChange {
    /// Permissions: twelve bits. An access list follows.
    pub mode: Option<u32>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// When it was read.
    pub accessed: Option<SetTime>,
    /// When what it holds changed.
    pub modified: Option<SetTime>,
}

/// What becomes of the target's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// It is replaced, if it may be.
    Replace,
    /// It must not be there.
    NoReplace,
    /// Both names change what they lead to.
    Exchange,
}

/// Whether an extended attribute must be there before it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrWhen {
    /// No matter.
    Either,
    /// It must not.
    Create,
    /// It must.
    Replace,
}

/// One thing that a mount does. Parents and nodes are named by numbers that a mount has been told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PosixOp {
    /// Tells of the root directory. → `Node`.
    Root,
    /// Gives numbers to what clients of S3 made; fine if it has one. → `Nodes`, in order.
    Adopt {
        /// The directory.
        parent: Ino,
        /// Names in it; at most `limits::ADOPT_MAX`.
        names: Vec<Vec<u8>>,
    },
    /// Makes a node. → `Node`.
    Make {
        /// The directory.
        parent: Ino,
        /// Its name there.
        name: Vec<u8>,
        /// Its number, of those that the mount reserved.
        ino: Ino,
        /// What.
        what: NewNode,
        /// Whose.
        maker: Maker,
        /// Whether the mount holds it from the beginning (see `Hold`).
        hold: bool,
    },
    /// Removes a name of what is no directory. → `Done`.
    Unlink {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// Removes an empty directory. → `Done`.
    Rmdir {
        /// The directory that it is in.
        parent: Ino,
        /// Its name.
        name: Vec<u8>,
    },
    /// Gives a node another name. → `Done`.
    Rename {
        /// Directory and name.
        from: (Ino, Vec<u8>),
        /// Directory and name.
        to: (Ino, Vec<u8>),
        /// What becomes of what has that name.
        mode: RenameMode,
    },
    /// Gives a node that is no directory one more name. → `Node`.
    Link {
        /// The node.
        ino: Ino,
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// Changes what a node has. → `Node`.
    SetAttrs {
        /// The node.
        ino: Ino,
        /// What changes.
        change: AttrsChange,
    },
    /// Sets or removes an extended attribute. → `Done`.
    SetXattr {
        /// The node.
        ino: Ino,
        /// Its name.
        name: Vec<u8>,
        /// `None`: removes it.
        value: Option<Vec<u8>>,
        /// Whether it must be there before.
        when: XattrWhen,
    },
    /// Writes ranges of a file over what is there; between and behind them it may have holes. → `Node`.
    Write {
        /// The file.
        ino: Ino,
        /// Under which the bytes are sealed: the file's, or a new one.
        key: WrappedKey,
        /// Whether it is a new one: then bytes under it lie over those that are there.
        is_new_key: bool,
        /// Where they lie, in order and apart, in blocks of the command.
        extents: Vec<Extent>,
    },
    /// Replaces all bytes of a file. → `Node`.
    Replace {
        /// The file.
        ino: Ino,
        /// The new ones.
        content: NewContent,
        /// Only if it still is as this commit sequence left it; else it is as if it had another key.
        over: Option<u64>,
    },
    /// Cuts a file, or lengthens it by a hole. → `Node`.
    Resize {
        /// The file.
        ino: Ino,
        /// Its bytes from then on.
        size: u64,
        /// A new key, for what may be written to it then.
        key: WrappedKey,
        /// What else changes.
        change: AttrsChange,
    },
    /// Makes a hole in a file; its size stays. → `Node`.
    Punch {
        /// The file.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// Bytes; what lies behind the file's end is passed over.
        len: u64,
        /// A new key, as in `Resize`.
        key: WrappedKey,
    },
    /// Keeps a node that is no directory while the mount lasts, even if its last name goes. → `Node`.
    Hold {
        /// The node.
        ino: Ino,
    },
    /// Ends that; fine if it was not held. → `Done`.
    Release {
        /// The node.
        ino: Ino,
    },
    /// As `Write`, behind the file's end, wherever that is by then. → `Node`.
    Append {
        /// The file.
        ino: Ino,
        /// Under which the bytes are sealed: the file's, or a new one.
        key: WrappedKey,
        /// Whether it is a new one.
        is_new_key: bool,
        /// Where they lie, in order and without gaps, the first at 0.
        extents: Vec<Extent>,
    },
    /// Takes, changes or gives back a lock of an owner, or is refused with `Locked`. What that owner had in
    /// the range counts no more. → `Locks`, what that was.
    Lock {
        /// The node.
        ino: Ino,
        /// Whose.
        owner: u64,
        /// The process, for show.
        pid: u32,
        /// Which bytes.
        range: LockRange,
        /// `None`: gives back.
        kind: Option<LockKind>,
    },
    /// Gives back all locks of an owner on a node. → `Done`.
    UnlockAll {
        /// The node.
        ino: Ino,
        /// Whose.
        owner: u64,
    },
    /// Makes bytes of a file what bytes of another (or the same) are, by reference; what lies behind the
    /// source's end is left out. → `Copied`.
    CopyRange {
        /// File and first byte.
        from: (Ino, u64),
        /// File and first byte.
        to: (Ino, u64),
        /// How many.
        len: u64,
        /// A new key for the target, as in `Resize`.
        key: WrappedKey,
    },
    /// Lengthens a file by a hole, unless it is as long already. → `Node`.
    Lengthen {
        /// The file.
        ino: Ino,
        /// Its bytes from then on, at least.
        size: u64,
        /// A new key, as in `Resize`.
        key: WrappedKey,
    },
    /// As `Punch`, as far as one command may, at least one byte. → `Copied`: of so many of the bytes from `offset` on
    /// there is nothing left.
    Clear {
        /// The file.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// A new key, as in `Resize`.
        key: WrappedKey,
    },
    /// As `Replace`, by bytes with holes between. → `Node`.
    Spread {
        /// The file.
        ino: Ino,
        /// The bytes, one after the other.
        content: NewContent,
        /// Where they go: first byte and length, in order and apart; all of them together are the content.
        runs: Vec<(u64, u64)>,
        /// The file's bytes from then on.
        size: u64,
        /// Only if it still is as this commit sequence left it; else it is as if it had another key.
        over: u64,
    },
    /// As `CopyRange`, of what a snapshot shows. → `Copied`.
    CopyPast {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Source and offset.
        from: (Ino, u64),
        /// Target and offset.
        to: (Ino, u64),
        /// Bytes; the source's end bounds them.
        len: u64,
        /// A new key, as in `Resize`.
        key: WrappedKey,
    },
}

/// What an operation of a mount came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PosixDone {
    /// Done, nothing to say.
    Done,
    /// The node afterwards.
    Node(Box<Node>),
    /// Nodes, in order; `None`: the name leads nowhere.
    Nodes(Vec<Option<Node>>),
    /// Locks, in order.
    Locks(Vec<(LockRange, LockKind)>),
    /// So many bytes were copied, or are a hole.
    Copied(u64),
}

/// Why an operation of a mount is refused: what POSIX says, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PosixError {
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("file exists")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY.
    #[error("directory not empty")]
    NotEmpty,
    /// EINVAL: a directory would be moved below itself, or a name or a range cannot be.
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG.
    #[error("file name too long")]
    NameTooLong,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// ENODATA.
    #[error("no such attribute")]
    NoAttribute,
    /// ENOSPC: more extended attributes than a node may have, or over the quota.
    #[error("no space")]
    NoSpace,
    /// E2BIG or ERANGE: an extended attribute that is too long.
    #[error("attribute too long")]
    AttributeTooLong,
    /// ESTALE: there is no such node any more.
    #[error("stale node")]
    Stale,
    /// EFBIG.
    #[error("file too large")]
    TooLarge,
    /// EACCES: sealed under a key that the grid does not have.
    #[error("sealed under another key")]
    Sealed,
    /// The file's key is another by now: seal the bytes anew.
    #[error("the file has another key")]
    OtherKey,
    /// Its bytes are shared too deep: write them all.
    #[error("shared too deep, replace the bytes")]
    ReplaceInstead,
    /// EROFS: the bucket locks its objects; or it keeps versions, and the file has, or had, several names: of which key would it be one?
    #[error("the bucket's rules do not allow it")]
    ReadOnly,
    /// The number was not reserved by this mount, or is in use.
    #[error("number not reserved")]
    NotReserved,
    /// The mount's lease ran out, or it was ended: what it held is given back.
    #[error("the mount has ended")]
    MountEnded,
    /// EAGAIN: others have locks in the way.
    #[error("locked by others")]
    Locked,
    /// ENOLCK: the node, or the mount, has as many as there may be.
    #[error("too many locks")]
    TooManyLocks,
    /// EACCES: only directories have default lists.
    #[error("permission denied")]
    Denied,
    /// ENXIO: nothing of that kind from there on.
    #[error("no data there")]
    NoData,
    /// EXDEV: a directory with something in it, in a bucket that keeps versions: each of its files would be a new one.
    #[error("moved one by one only")]
    OneByOne,
}

/// What a mount asks about a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PosixQuery {
    /// A node by its number. → `Node`.
    Node {
        /// The node.
        ino: Ino,
    },
    /// What a name leads to. → `Node`.
    Lookup {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// What is in a directory, in order of stored name. → `Entries`.
    Entries {
        /// The directory.
        ino: Ino,
        /// After this stored name.
        after: Option<Vec<u8>>,
        /// At most so many (1 to `limits::LIST_MAX`).
        limit: u32,
    },
    /// An extended attribute. → `Xattr`.
    Xattr {
        /// The node.
        ino: Ino,
        /// Its name.
        name: Vec<u8>,
    },
    /// The names of all of them. → `Xattrs`.
    Xattrs {
        /// The node.
        ino: Ino,
    },
    /// A file, and where a range of its bytes is, as far as it has them. → `FileMap`.
    Map {
        /// The file.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// The first lock of others in the way of one. → `Conflict`.
    Conflict {
        /// The node.
        ino: Ino,
        /// Whose it would be.
        mount: MountId,
        /// Whose there.
        owner: u64,
        /// Which bytes.
        range: LockRange,
        /// How.
        kind: LockKind,
    },
    /// The nodes that a mount holds, in order. → `Holds`.
    Holds {
        /// The mount.
        mount: MountId,
        /// After this one.
        after: Option<Ino>,
        /// At most so many (1 to `limits::LIST_MAX`).
        limit: u32,
    },
}
