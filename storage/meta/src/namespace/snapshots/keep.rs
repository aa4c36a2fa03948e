//! Rows that snapshots are made of, changed: what they were is kept first.
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::KvError;
use nexusgrid_env::kv::prefix_end;

use super::super::machine::{Change, Step, corrupt};
use super::super::posix::rows::{self as own, Inode, Place, What};
use super::super::rows::{self, Dentry, DirId};
use super::super::types::{BucketId, ContentId, Ino, SnapshotId};
use super::rows::{self as keys, KeptRow, Kind, SnapshotsRow};
use crate::rows::tx::{Tx, decode_row};

/// What a bucket has of snapshots.
pub(super) fn of(tx: &Tx<'_>, bucket: BucketId) -> Result<SnapshotsRow, KvError> {
    Ok(tx.load(rows::STATE, &keys::snapshots(bucket))?.unwrap_or_default())
}

/// The content that a row refers to, and that is kept with it.
pub(in super::super) fn content_of(kind: Kind, row: &[u8]) -> Result<Option<ContentId>, KvError> {
    let of = |inode: &Inode| match &inode.what {
        What::File(object) => Some(object.content),
        What::Special(_) => None,
    };
    Ok(match kind {
        Kind::Tree => match decode_row::<Dentry>(rows::TREE, row)? {
            Dentry::File(object) => Some(object.content),
            Dentry::Inode(inode) => of(&inode),
            Dentry::Dir(_) | Dentry::Directory(_) | Dentry::Link(_) => None,
        },
        Kind::Place => match decode_row::<Place>(rows::STATE, row)? {
            Place::Own(inode) => of(&inode),
            Place::At { .. } | Place::Root(_) => None,
        },
        Kind::Xattr => None,
    })
}

/// Whether a row says what somebody holds who has no name for it: no snapshot shows that.
fn is_nameless(kind: Kind, row: &[u8]) -> Result<bool, KvError> {
    Ok(kind == Kind::Place
        && matches!(decode_row(rows::STATE, row)?, Place::Own(inode) if inode.links == 0))
}

/// Whether something is kept of a row since a snapshot was taken.
fn is_kept(
    tx: &Tx<'_>,
    (bucket, kind, rest): (BucketId, Kind, &[u8]),
    since: SnapshotId,
) -> Result<bool, KvError> {
    let first = keys::kept(bucket, kind, rest, since);
    let end = prefix_end(&keys::kept_of(bucket, kind, rest));
    Ok(!tx.scan(rows::STATE, &first, end.as_deref(), 1)?.is_empty())
}

/// Whether who changes a file leaves what it was to a snapshot, and so writes beside it. `at`: its directory and name,
/// if it has one name.
pub(in super::super) fn is_shared(
    tx: &Tx<'_>,
    bucket: BucketId,
    at: Option<&(DirId, Vec<u8>)>,
    inode: &Inode,
) -> Result<bool, KvError> {
    let Some(newest) = of(tx, bucket)?.newest else { return Ok(false) };
    if inode.links == 0 {
        return Ok(false);
    }
    let (family, key) = row_of(bucket, at, inode.ino);
    match keys::split(family, &key) {
        Some(row) => Ok(!is_kept(tx, row, newest)?),
        None => Ok(false),
    }
}

/// The row that a node is in.
fn row_of(bucket: BucketId, at: Option<&(DirId, Vec<u8>)>, ino: Ino) -> (&'static str, Vec<u8>) {
    match at {
        Some((parent, name)) => (rows::TREE, rows::dentry(bucket, *parent, name)),
        None => (rows::STATE, own::place(bucket, ino)),
    }
}

impl Change<'_> {
    /// A row is about to change: it is kept as it is, if the newest snapshot shows it and it was not kept since. What
    /// it refers to is referred to once more then, so that nobody writes into it.
    fn keep(&mut self, family: &'static str, key: &[u8]) -> Step<()> {
        // A bucket with snapshots is no mount's alone.
        if self.is_speculative {
            return Ok(());
        }
        let row = keys::split(family, key).ok_or_else(|| corrupt("a row of no snapshot"))?;
        let (bucket, kind, rest) = row;
        let Some(newest) = of(&self.tx, bucket)?.newest else { return Ok(()) };
        if is_kept(&self.tx, row, newest)? {
            return Ok(());
        }
        let mut before = self.tx.get(family, key)?;
        if let Some(value) = &before
            && is_nameless(kind, value)?
        {
            before = None;
        }
        if let Some(value) = &before
            && let Some(content) = content_of(kind, value)?
        {
            self.refer(content)?;
        }
        let kept = KeptRow { sequence: self.sequence, before: before.map(|value| value.to_vec()) };
        self.tx.store(rows::STATE, keys::kept(bucket, kind, rest, newest), &kept);
        Ok(())
    }

    /// The bytes of a file are about to change.
    pub(in super::super) fn keep_file(
        &mut self,
        bucket: BucketId,
        at: Option<&(DirId, Vec<u8>)>,
        ino: Ino,
    ) -> Step<()> {
        let (family, key) = row_of(bucket, at, ino);
        self.keep(family, &key)
    }

    /// A name in a directory leads there from now on.
    pub(in super::super) fn set_dentry(
        &mut self,
        bucket: BucketId,
        parent: DirId,
        name: &[u8],
        dentry: &Dentry,
    ) -> Step<()> {
        let key = rows::dentry(bucket, parent, name);
        self.keep(rows::TREE, &key)?;
        self.tx.store(rows::TREE, key, dentry);
        Ok(())
    }

    /// A name goes.
    pub(in super::super) fn drop_dentry(
        &mut self,
        bucket: BucketId,
        parent: DirId,
        name: &[u8],
    ) -> Step<()> {
        let key = rows::dentry(bucket, parent, name);
        self.keep(rows::TREE, &key)?;
        self.tx.delete(rows::TREE, key);
        Ok(())
    }

    /// A node is there from now on.
    pub(in super::super) fn set_place(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        place: &Place,
    ) -> Step<()> {
        let key = own::place(bucket, ino);
        self.keep(rows::STATE, &key)?;
        self.tx.store(rows::STATE, key, place);
        Ok(())
    }

    /// A node is nowhere any more.
    pub(in super::super) fn drop_place(&mut self, bucket: BucketId, ino: Ino) -> Step<()> {
        let key = own::place(bucket, ino);
        self.keep(rows::STATE, &key)?;
        self.tx.delete(rows::STATE, key);
        Ok(())
    }

    /// An extended attribute, by its key, has this value from now on; `None`: it is gone.
    pub(in super::super) fn set_xattr_row(
        &mut self,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    ) -> Step<()> {
        self.keep(rows::STATE, &key)?;
        match value {
            Some(value) => self.tx.put(rows::STATE, key, value),
            None => self.tx.delete(rows::STATE, key),
        }
        Ok(())
    }
}
