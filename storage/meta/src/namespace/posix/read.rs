//! What mounts ask.
#![deny(clippy::indexing_slicing)]

use super::super::limits;
use super::super::machine::Step;
use super::super::map;
use super::super::rows::{self, ContentRow, DirId};
use super::super::snapshots::keep;
use super::super::types::{
    BucketId, ContentMap, Lock, NamespaceAnswer, NamespaceError, NodeKind, PosixError, PosixQuery,
};
use super::{attrs, inodes, locks, names, versions};
use crate::rows::tx::Tx;

/// Whether a mount's question reads a few rows only.
pub(in super::super) fn is_brief(query: &PosixQuery) -> bool {
    match query {
        PosixQuery::Node { .. }
        | PosixQuery::Xattr { .. }
        | PosixQuery::Xattrs { .. }
        | PosixQuery::Map { .. }
        | PosixQuery::Conflict { .. } => true,
        // What a long name stands for is looked for.
        PosixQuery::Lookup { name, .. } => !names::is_escape(name),
        PosixQuery::Entries { .. } | PosixQuery::Holds { .. } => false,
    }
}

/// Answers a mount.
pub(in super::super) fn answer(
    tx: &Tx<'_>,
    bucket: BucketId,
    query: PosixQuery,
) -> Step<NamespaceAnswer> {
    use NamespaceAnswer as A;
    let live = super::super::versions::live(tx, bucket)?;
    Ok(match query {
        PosixQuery::Node { ino } => A::Node(Box::new(inodes::find(tx, bucket, ino)?.node())),
        PosixQuery::Lookup { parent, name } => {
            inodes::find_dir(tx, bucket, parent)?;
            let found = inodes::resolve(tx, bucket, DirId(parent.0), &name)?;
            let (_, dentry) = found.ok_or(PosixError::NotFound)?;
            A::Node(Box::new(inodes::of_dentry(tx, bucket, &dentry)?))
        }
        PosixQuery::Entries { ino, after, limit } => {
            let limit = limit.clamp(1, limits::LIST_MAX) as usize;
            let (entries, more) = inodes::entries(tx, bucket, ino, after.as_deref(), limit)?;
            A::Entries { entries, more }
        }
        PosixQuery::Xattr { ino, name } => A::Xattr(attrs::xattr(tx, bucket, ino, &name)?),
        PosixQuery::Xattrs { ino } => A::Xattrs(attrs::xattr_names(tx, bucket, ino)?),
        PosixQuery::Holds { mount, after, limit } => {
            let limit = limit.clamp(1, limits::LIST_MAX) as usize;
            let (inos, more) = inodes::held(tx, mount, bucket, after, limit)?;
            A::Holds { inos, more }
        }
        PosixQuery::Conflict { ino, mount, owner, range, kind } => {
            let wanted = Lock { range, mount, owner, kind, pid: 0 };
            A::Conflict(locks::conflict(tx, bucket, ino, &wanted)?)
        }
        PosixQuery::Map { ino, offset, len } => {
            let inodes::Found::Inode(inodes::FoundInode { at, inode }) =
                inodes::find(tx, bucket, ino)?
            else {
                return Err(PosixError::Invalid.into());
            };
            let node = inodes::of_inode(&inode);
            let NodeKind::File { content, size, .. } = &node.kind else {
                return Err(PosixError::Invalid.into());
            };
            let row: Option<ContentRow> = tx.load(rows::CONTENT, &rows::content(*content))?;
            let row = row.ok_or(NamespaceError::NoSuchContent)?;
            let len = len.min(size.saturating_sub(offset));
            let map = match len {
                0 => ContentMap::default(),
                _ => map::map(tx, *content, offset, len)?,
            };
            let is_kept = versions::is_kept(tx, bucket, &live.rules, &inode)?
                || keep::is_shared(tx, bucket, at.as_ref(), &inode)?;
            let key = row.own_key(*size).filter(|_| !is_kept).cloned();
            A::FileMap { node: Box::new(node), key, map }
        }
    })
}
