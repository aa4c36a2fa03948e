//! What mounts do: nodes by number, POSIX's names in the tree that clients of S3 see as keys.
//!
//! ```text
//!   S3:  key ──▶ dentry ──▶ object                     POSIX:  number ──▶ 'J' row ──▶ dentry or node
//! ```
//!
//! Both see one tree. What one makes the other finds: a file is an object, a directory is the beginning of
//! keys. Symbolic links, pipes, sockets and devices are names that S3 does not see; a PUT to such a name
//! replaces it. A node that mounts know keeps its number, owner and times when a client of S3 writes to its
//! key.
//!
//! A command carries operations in order; each is decided by itself, wholly or not at all. Keeps I13 with
//! [`super::tree`]: one 'J' row for each node that has a number, and each leads to it; counts of children,
//! directories and links are those that are there.

mod acl;
mod attrs;
pub(super) mod audit;
mod cuts;
mod data;
pub(super) mod delegations;
mod dirs;
pub mod inodes;
mod locks;
mod mounts;
mod names;
mod read;
mod remember;
pub mod rows;
mod spread;
mod versions;

use nexusgrid_codec::id::SessionId;

use super::limits;
use super::machine::{Change, Step, Stop};
use super::types::{
    AttrsChange, BucketId, Lock, LockKind, Moment, MountId, NamespaceError, NamespaceOk, NewBlock,
    PosixDone, PosixError, PosixOp,
};
pub use data::is_opaque;
pub(super) use mounts::{all as mounts, node_of as mount_node};
pub(super) use read::{answer, is_brief};
pub(super) use remember::may_be_remembered;

impl From<PosixError> for NamespaceError {
    fn from(error: PosixError) -> NamespaceError {
        NamespaceError::Posix(error)
    }
}

impl From<PosixError> for Stop {
    fn from(error: PosixError) -> Stop {
        Stop::Refuse(error.into())
    }
}

impl Change<'_> {
    pub(super) fn posix(
        &mut self,
        mount: MountId,
        (writer, blocks): (SessionId, &[NewBlock]),
        ops: Vec<PosixOp>,
        now: Moment,
    ) -> Step<NamespaceOk> {
        let bucket = self.mount(mount)?.bucket;
        if !blocks.is_empty() {
            self.check_session(writer)?;
        }
        if ops.len() > limits::POSIX_OPS_MAX || now.nanos >= 1_000_000_000 {
            return Err(NamespaceError::TooLarge.into());
        }
        let rules = self.bucket(bucket)?.rules;
        if !ops.iter().all(|op| versions::may(&rules, op)) {
            return Err(PosixError::ReadOnly.into());
        }
        let mut blocks = self.check_blocks(writer, blocks)?;
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            let mark = self.mark(&blocks);
            let done = self.posix_op(mount, bucket, op, &mut blocks, now);
            results.push(match done {
                Ok(done) => {
                    self.tx.keep();
                    Ok(done)
                }
                // It is the whole command that is too large.
                Err(Stop::Refuse(NamespaceError::TooLarge)) => {
                    return Err(NamespaceError::TooLarge.into());
                }
                Err(Stop::Refuse(error)) => {
                    blocks = self.back_to(mark);
                    Err(error)
                }
                Err(stop) => return Err(stop),
            });
        }
        // Whoever was refused may write the same bytes again, under another key.
        let drop_rest = results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .all(|error| matches!(error, NamespaceError::Posix(_) | NamespaceError::Malformed(_)));
        self.bind_blocks(blocks, drop_rest, now.ms());
        self.settle_moved(now.ms())?;
        Ok(NamespaceOk::Posix(results))
    }

    pub(super) fn posix_op(
        &mut self,
        mount: MountId,
        bucket: BucketId,
        op: PosixOp,
        blocks: &mut super::contents::Blocks,
        now: Moment,
    ) -> Step<PosixDone> {
        use PosixOp as O;
        let node = |node| PosixDone::Node(Box::new(node));
        Ok(match op {
            O::Root => node(self.adopt_root(bucket, now)?),
            O::Adopt { parent, names } => self.adopt(bucket, parent, &names)?,
            O::Make { parent, name, ino, what, maker, hold } => {
                let make = dirs::Make { parent, name, ino, what, maker, hold };
                node(self.make(mount, bucket, make, now)?)
            }
            O::Unlink { parent, name } => {
                self.unlink(bucket, parent, &name, now)?;
                PosixDone::Done
            }
            O::Rmdir { parent, name } => {
                self.rmdir(bucket, parent, &name, now)?;
                PosixDone::Done
            }
            O::Rename { from, to, mode } => {
                self.rename_node(bucket, &from, &to, mode, now)?;
                PosixDone::Done
            }
            O::Link { ino, parent, name } => node(self.link_node(bucket, ino, parent, &name, now)?),
            O::SetAttrs { ino, change } => node(self.set_attrs(bucket, ino, &change, now)?),
            O::SetXattr { ino, name, value, when } => {
                self.set_xattr(bucket, ino, &name, value, when, now)?;
                PosixDone::Done
            }
            O::Write { ino, key, is_new_key, extents } => {
                let key = (&key, is_new_key);
                node(self.write_file(bucket, ino, key, (extents, false), blocks, now)?)
            }
            O::Append { ino, key, is_new_key, extents } => {
                let key = (&key, is_new_key);
                node(self.write_file(bucket, ino, key, (extents, true), blocks, now)?)
            }
            O::Replace { ino, content, over } => {
                node(self.replace_bytes(bucket, ino, (content, over), blocks, now)?)
            }
            O::Resize { ino, size, key, change } => {
                let resized = self.resize(bucket, ino, size, &key, now)?;
                match change == AttrsChange::default() {
                    true => node(resized),
                    false => node(self.set_attrs(bucket, ino, &change, now)?),
                }
            }
            O::Punch { ino, offset, len, key } => {
                node(self.punch(bucket, ino, (offset, len), &key, now)?)
            }
            O::Hold { ino } => {
                let found = inodes::find_inode(&self.tx, bucket, ino)?;
                self.hold(mount, bucket, ino);
                node(inodes::of_inode(&found.inode))
            }
            O::Release { ino } => {
                self.release_hold(mount, bucket, ino, now)?;
                PosixDone::Done
            }
            O::Lock { ino, owner, pid, range, kind } => {
                let wanted = kind.unwrap_or(LockKind::Shared);
                let wanted = Lock { range, mount, owner, kind: wanted, pid };
                PosixDone::Locks(self.lock(bucket, ino, wanted, kind)?)
            }
            O::UnlockAll { ino, owner } => {
                self.unlock_all(bucket, ino, (mount, owner))?;
                PosixDone::Done
            }
            O::CopyRange { from, to, len, key } => {
                PosixDone::Copied(self.copy_range(bucket, from, to, len, &key, now)?)
            }
            O::CopyPast { snapshot, from: (from, offset), to, len, key } => {
                let from = (snapshot, from, offset);
                PosixDone::Copied(self.copy_past(bucket, from, to, len, &key, now)?)
            }
            O::Lengthen { ino, size, key } => node(self.lengthen(bucket, ino, size, &key, now)?),
            O::Clear { ino, offset, len, key } => {
                PosixDone::Copied(self.clear(bucket, ino, (offset, len), &key, now)?)
            }
            O::Spread { ino, content, runs, size, over } => {
                let new = spread::Sparse { content, runs, size };
                node(self.spread(bucket, ino, (new, over), blocks, now)?)
            }
        })
    }
}
