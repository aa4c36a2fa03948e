//! Versions of files that mounts change, in a bucket that keeps them.
//!
//! ```text
//!   a version ──first change──▶ it is kept, an older version from now on; the file is a new one: a draft
//!                                  │  ▲ further changes are the draft's
//!                                  ▼──┘
//!                          nobody holds the file any more: the draft is a version
//! ```
//!
//! What is kept shares its content with the file, so that whoever writes there writes beside it
//! ([`super::data`]). A name that goes leaves its version, and a delete marker above it, as a deletion by S3 does; a draft
//! whose name goes leaves nothing: programs that write a file beside another and rename it leave one version more of
//! that. A file that was renamed is a new version of its new key.
//!
//! State: a 'v' row for each draft.
#![deny(clippy::indexing_slicing)]

use super::super::limits;
use super::super::machine::{Change, Step, corrupt};
use super::super::rows::{self, DirId, VersionRow};
use super::super::types::{
    BucketId, Ino, Moment, NamespaceError, Object, PosixError, PosixOp, VersionRules, Versioning,
};
use super::super::versions;
use super::data::File;
use super::rows::{self as own, DraftRow, Inode, What};
use crate::rows::tx::Tx;

/// What of a name's file stays when the name goes.
pub(super) struct Leaves {
    /// Whether it was a draft.
    pub is_draft: bool,
    /// Whether another file takes the name in the same moment.
    pub is_replaced: bool,
}

/// Whether a bucket's rules let mounts do that. Versions of a bucket that locks them cannot change, not even while
/// they are being written: there mounts only look, and give back what they have.
pub(super) fn may(rules: &VersionRules, op: &PosixOp) -> bool {
    rules.lock.is_none()
        || matches!(
            op,
            PosixOp::Root
                | PosixOp::Adopt { .. }
                | PosixOp::Hold { .. }
                | PosixOp::Release { .. }
                | PosixOp::UnlockAll { .. }
                | PosixOp::Lock { .. }
        )
}

/// Whether a node's current version is one that whoever holds it has not ended.
pub(super) fn is_draft(tx: &Tx<'_>, bucket: BucketId, inode: &Inode) -> Step<bool> {
    let Some(object) = inode.object() else { return Ok(false) };
    let row: Option<DraftRow> = tx.load(rows::STATE, &own::draft(bucket, inode.ino))?;
    Ok(row.is_some_and(|row| Some(row.version) == object.version))
}

/// Whether a change of a file keeps what it is: then nobody writes into its content. What has no name has no key, and
/// so no versions.
pub(super) fn is_kept(
    tx: &Tx<'_>,
    bucket: BucketId,
    rules: &VersionRules,
    inode: &Inode,
) -> Step<bool> {
    Ok(rules.versioning != Versioning::Off
        && inode.links > 0
        && inode.object().is_some_and(|object| !rules.overwrites(object))
        && !is_draft(tx, bucket, inode)?)
}

impl Change<'_> {
    pub(super) fn keeps_versions(&self, bucket: BucketId) -> Step<bool> {
        Ok(self.bucket(bucket)?.rules.versioning != Versioning::Off)
    }

    /// The key of a name, if S3 can have it.
    fn key_of(&self, bucket: BucketId, dir: DirId, stored: &[u8]) -> Step<Option<Vec<u8>>> {
        let Some(mut key) = self.path(bucket, dir)? else { return Ok(None) };
        key.extend_from_slice(stored);
        Ok((1..=limits::KEY_BYTES_MAX).contains(&key.len()).then_some(key))
    }

    /// The version of a file that is made or changed now: a draft, while somebody holds it.
    fn begin_version(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        object: &mut Object,
        now: Moment,
    ) -> Step<()> {
        self.number_version(bucket, object, now)?;
        if let Some(version) = object.version
            && self.is_held(bucket, ino)?
        {
            let row = DraftRow { sequence: self.sequence, version };
            self.tx.store(rows::STATE, own::draft(bucket, ino), &row);
        }
        Ok(())
    }

    /// An object is a new version, from now on.
    fn number_version(&mut self, bucket: BucketId, object: &mut Object, now: Moment) -> Step<()> {
        let rules = self.bucket(bucket)?.rules;
        object.version = self.new_version(&rules)?;
        // The place of a null version among others is where it was committed.
        object.sequence = self.sequence;
        // Since when the version below it is an older one. A file's own time is among its attributes.
        object.modified_ms = now.ms();
        Ok(())
    }

    /// Nobody holds a file any more, or a client of S3 has given its key another version.
    pub(in super::super) fn end_draft(&mut self, bucket: BucketId, ino: Ino) -> Step<()> {
        if self.tx.get(rows::STATE, &own::draft(bucket, ino))?.is_some() {
            self.tx.delete(rows::STATE, own::draft(bucket, ino));
        }
        Ok(())
    }

    /// A file whose bytes change with this operation; what it was is kept, where that is the rule, and where a snapshot shows it.
    pub(super) fn file_to_change(&mut self, bucket: BucketId, ino: Ino, now: Moment) -> Step<File> {
        let mut file = self.file(bucket, ino)?;
        self.keep_file(bucket, file.found.at.as_ref(), ino)?;
        let row = self.bucket(bucket)?;
        if !is_kept(&self.tx, bucket, &row.rules, &file.found.inode)? {
            return Ok(file);
        }
        // Of which of its keys would it be a version?
        let Some((parent, name)) = &file.found.at else { return Err(PosixError::ReadOnly.into()) };
        let Some(key) = self.key_of(bucket, *parent, name)? else { return Ok(file) };
        self.check_version_room(bucket, &file.object)?;
        self.keep_version(bucket, &key, &row.rules, &file.object, now)?;
        self.begin_version(bucket, ino, &mut file.object, now)?;
        file.found.inode.what = What::File(file.object.clone());
        // Also if nothing comes of it: else the kept version would be current as well.
        self.set_found_inode(bucket, file.found.clone())?;
        Ok(file)
    }

    /// Whether a version more may be kept: it counts whole, though it shares its bytes.
    fn check_version_room(&self, bucket: BucketId, object: &Object) -> Step<()> {
        let row = self.bucket(bucket)?;
        let has_room = row.check_quota(object.size, 0).and_then(|()| row.check_objects(false));
        Ok(has_room.map_err(|_: NamespaceError| PosixError::NoSpace)?)
    }

    /// Whether a file may get another name: what it was is kept under the one before.
    pub(super) fn check_move(&self, bucket: BucketId, inode: &Inode) -> Step<()> {
        let rules = self.bucket(bucket)?.rules;
        match inode.object() {
            Some(object) if is_kept(&self.tx, bucket, &rules, inode)? => {
                self.check_version_room(bucket, object)
            }
            _ => Ok(()),
        }
    }

    /// A current version becomes an older one that refers to its content, too.
    fn keep_version(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        rules: &VersionRules,
        object: &Object,
        now: Moment,
    ) -> Step<()> {
        self.refer(object.content)?;
        self.count_object(bucket, Some(object.size), None)?;
        match self.make_room(bucket, key, rules, Some(object.clone()), now.ms())? {
            None => Ok(()),
            Some(_) => Err(corrupt("a version that is overwritten is kept")),
        }
    }

    /// What a file leaves at a name that goes. The file itself is the caller's.
    pub(super) fn leave(
        &mut self,
        bucket: BucketId,
        (dir, stored): (DirId, &[u8]),
        object: &Object,
        leaves: &Leaves,
        now: Moment,
    ) -> Step<()> {
        let rules = self.bucket(bucket)?.rules;
        if rules.versioning == Versioning::Off {
            return Ok(());
        }
        let Some(key) = self.key_of(bucket, dir, stored)? else { return Ok(()) };
        if !leaves.is_draft && !rules.overwrites(object) {
            self.keep_version(bucket, &key, &rules, object, now)?;
        }
        let has_older =
            matches!(versions::newest(&self.tx, bucket, &key)?, Some((_, VersionRow::Object(_))));
        if has_older && !leaves.is_replaced {
            self.make_room(bucket, &key, &rules, None, now.ms())?;
            self.put_marker(bucket, &key, &rules, now.ms())?;
        }
        Ok(())
    }

    /// A file has another name: it is a new version of that key.
    pub(super) fn arrive(
        &mut self,
        bucket: BucketId,
        (dir, stored): (DirId, &[u8]),
        ino: Option<Ino>,
        object: &mut Object,
        now: Moment,
    ) -> Step<()> {
        let rules = self.bucket(bucket)?.rules;
        if rules.versioning == Versioning::Off {
            return Ok(());
        }
        if let Some(key) = self.key_of(bucket, dir, stored)? {
            self.make_room(bucket, &key, &rules, None, now.ms())?;
        }
        match ino {
            Some(ino) => self.begin_version(bucket, ino, object, now),
            None => self.number_version(bucket, object, now),
        }
    }
}
