//! Rows of nodes that mounts know, beside those that clients of S3 make.
//!
//! ```text
//! content 't' content                     → CutRow   a file ends there, its content does not yet
//! tree   … name                           → Dentry::Directory | Inode | Link
//! state  'A' mount sequence               → ()       numbers of that sequence are the mount's
//!        'H' mount bucket ino             → ()       the mount holds the node
//!        'J' bucket ino                   → Place    where the node is
//!        'Q' bucket ino mount             → ()       the same as 'H', to be found by node
//!        'X' bucket ino name·0000         → bytes    an extended attribute
//!        'Z' mount                        → Mount    its lease
//!        'v' bucket ino                   → DraftRow a version of a file that is being written
//!        'd' bucket                       → DelegationRow a mount has the bucket to itself
//!        'k' mount bucket ino             → ()       the mount has locks on the node
//!        'l' bucket ino                   → LocksRow the locks on the node
//! ```
//!
//! What only clients of S3 have seen has none of these, and costs what it always did: a mount that meets
//! it *adopts* it, which gives it a number and a 'J' row. A node with one name stands in its dentry; with
//! more names, or none but holders, it stands in its 'J' row.
#![deny(clippy::indexing_slicing)]

use serde::{Deserialize, Serialize};

use super::super::rows::{DirId, DirRow};
use super::super::types::{
    Attrs, BucketId, ContentId, Ino, Lock, MountId, Object, Special, VersionId,
};
use crate::rows::key::{KeyBuf, KeyReader};

/// A directory that mounts know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// What every directory has.
    pub row: DirRow,
    /// Directories in it; `None`: there were too many to be counted when it was adopted.
    pub subdirs: Option<u64>,
    /// What every node has.
    pub attrs: Attrs,
}

/// A node that is no directory, and that mounts know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// Its number.
    pub ino: Ino,
    /// Names that lead to it.
    pub links: u32,
    /// What every node has.
    pub attrs: Attrs,
    /// What it is.
    pub what: What,
}

/// What a node is that is no directory.
#[allow(clippy::large_enum_variant, reason = "files are the common case, and live only briefly")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A file, as clients of S3 see it.
    File(Object),
    /// What they do not see.
    Special(Special),
}

impl Inode {
    /// The object, if it is a file.
    pub fn object(&self) -> Option<&Object> {
        match &self.what {
            What::File(object) => Some(object),
            What::Special(_) => None,
        }
    }
}

/// Where a node is.
#[allow(clippy::large_enum_variant, reason = "lives only briefly")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In the dentry of this name.
    At {
        /// The directory.
        parent: DirId,
        /// Its name as it is stored: a directory's ends with `/`.
        name: Vec<u8>,
    },
    /// Here: it has more names than one, or none.
    Own(Inode),
    /// Here: it is the root.
    Root(Directory),
}

/// Where a file was cut whose end is too long for one command: the outbox takes it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRow {
    /// Commit sequence; what the outbox has of an older one counts no more.
    pub sequence: u64,
    /// The first byte that goes.
    pub from: u64,
}

/// Where a content is to lose its end.
pub fn cut(content: ContentId) -> Vec<u8> {
    KeyBuf::tag(b't').u64(content.0).done()
}

/// All of these.
pub fn cuts() -> Vec<u8> {
    KeyBuf::tag(b't').done()
}

/// Locks on a node: also those of mounts that have ended, until someone clears them away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocksRow {
    /// Commit sequence.
    pub sequence: u64,
    /// In order; at least one.
    pub locks: Vec<Lock>,
}

/// A version of a file that mounts change while they hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftRow {
    /// Commit sequence.
    pub sequence: u64,
    /// Which: if the file has another by now, that is none.
    pub version: VersionId,
}

/// A mount has a bucket to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegationRow {
    /// Commit sequence.
    pub sequence: u64,
    /// Since this one: it names the delegation.
    pub grant: u64,
    /// Whose.
    pub mount: MountId,
    /// Whether somebody has asked for it.
    pub recalled: bool,
}

/// Whether a mount has a bucket to itself.
pub fn delegation(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'd').u64(bucket.0).done()
}

/// A file's draft.
pub fn draft(bucket: BucketId, ino: Ino) -> Vec<u8> {
    KeyBuf::tag(b'v').u64(bucket.0).u64(ino.0).done()
}

/// Locks on a node.
pub fn locks(bucket: BucketId, ino: Ino) -> Vec<u8> {
    KeyBuf::tag(b'l').u64(bucket.0).u64(ino.0).done()
}

/// Nodes that a mount has locks on.
pub fn lockers(mount: MountId) -> Vec<u8> {
    KeyBuf::tag(b'k').u64(mount.0).done()
}

/// That a mount has locks on a node. [`parse_hold`] reads it, too.
pub fn locker(mount: MountId, bucket: BucketId, ino: Ino) -> Vec<u8> {
    KeyBuf::tag(b'k').u64(mount.0).u64(bucket.0).u64(ino.0).done()
}

/// Where a node is.
pub fn place(bucket: BucketId, ino: Ino) -> Vec<u8> {
    KeyBuf::tag(b'J').u64(bucket.0).u64(ino.0).done()
}

/// Extended attributes of a node.
pub fn xattrs(bucket: BucketId, ino: Ino) -> KeyBuf {
    KeyBuf::tag(b'X').u64(bucket.0).u64(ino.0)
}

/// An extended attribute.
pub fn xattr(bucket: BucketId, ino: Ino, name: &[u8]) -> Vec<u8> {
    xattrs(bucket, ino).name(name).done()
}

/// The name of an extended attribute's key.
pub fn parse_xattr(key: &[u8]) -> Option<Vec<u8>> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    reader.u64()?;
    reader.u64()?;
    reader.name()
}

/// What a mount holds.
pub fn holds(mount: MountId) -> Vec<u8> {
    KeyBuf::tag(b'H').u64(mount.0).done()
}

/// That a mount holds a node.
pub fn hold(mount: MountId, bucket: BucketId, ino: Ino) -> Vec<u8> {
    KeyBuf::tag(b'H').u64(mount.0).u64(bucket.0).u64(ino.0).done()
}

/// The inverse of [`hold`].
pub fn parse_hold(key: &[u8]) -> Option<(MountId, BucketId, Ino)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some((MountId(reader.u64()?), BucketId(reader.u64()?), Ino(reader.u64()?)))
}

/// Mounts that hold a node.
pub fn holders(bucket: BucketId, ino: Ino) -> Vec<u8> {
    KeyBuf::tag(b'Q').u64(bucket.0).u64(ino.0).done()
}

/// A mount that holds a node.
pub fn holder(bucket: BucketId, ino: Ino, mount: MountId) -> Vec<u8> {
    KeyBuf::tag(b'Q').u64(bucket.0).u64(ino.0).u64(mount.0).done()
}

/// Numbers that a mount reserved.
pub fn reserved(mount: MountId) -> Vec<u8> {
    KeyBuf::tag(b'A').u64(mount.0).done()
}

/// Numbers of one sequence that a mount reserved.
pub fn reservation(mount: MountId, sequence: u64) -> Vec<u8> {
    KeyBuf::tag(b'A').u64(mount.0).u64(sequence).done()
}

/// All mounts.
pub fn mounts() -> Vec<u8> {
    KeyBuf::tag(b'Z').done()
}

/// A mount.
pub fn mount(mount: MountId) -> Vec<u8> {
    KeyBuf::tag(b'Z').u64(mount.0).done()
}
