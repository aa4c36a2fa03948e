//! What nodes have: owner, times, extended attributes.
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::kv::prefix_end;

use super::super::limits;
use super::super::machine::{Change, Step, corrupt};
use super::super::rows;
use super::super::types::{
    Attrs, AttrsChange, BucketId, Ino, Moment, Node, PosixError, SetTime, XattrWhen,
};
use super::acl::{self, List};
use super::dirs::check_mode;
use super::inodes::{self, Found};
use super::rows as own;
use crate::rows::tx::Tx;

/// Names of a node's extended attributes.
pub(super) fn xattr_names(tx: &Tx<'_>, bucket: BucketId, ino: Ino) -> Step<Vec<Vec<u8>>> {
    inodes::find(tx, bucket, ino)?;
    let prefix = own::xattrs(bucket, ino).done();
    let end = prefix_end(&prefix);
    let found = tx.scan(rows::STATE, &prefix, end.as_deref(), limits::XATTRS_MAX)?;
    found
        .iter()
        .map(|(key, _)| {
            own::parse_xattr(key).ok_or_else(|| corrupt("key of an extended attribute"))
        })
        .collect()
}

/// An extended attribute.
pub(super) fn xattr(tx: &Tx<'_>, bucket: BucketId, ino: Ino, name: &[u8]) -> Step<Vec<u8>> {
    inodes::find(tx, bucket, ino)?;
    let value = tx.get(rows::STATE, &own::xattr(bucket, ino, name))?;
    Ok(value.ok_or(PosixError::NoAttribute)?.to_vec())
}

fn check_xattr(name: &[u8], value: &[u8]) -> Result<(), PosixError> {
    if name.is_empty() || name.contains(&0) {
        return Err(PosixError::Invalid);
    }
    if name.len() > limits::XATTR_NAME_BYTES_MAX || value.len() > limits::XATTR_BYTES_MAX {
        return Err(PosixError::AttributeTooLong);
    }
    Ok(())
}

impl Change<'_> {
    pub(super) fn set_attrs(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        change: &AttrsChange,
        now: Moment,
    ) -> Step<Node> {
        change.mode.map_or(Ok(()), check_mode)?;
        let time = |set: Option<SetTime>, before: Moment| match set {
            None => Ok(before),
            Some(SetTime::Now) => Ok(now),
            Some(SetTime::At(at)) if at.nanos < 1_000_000_000 => Ok(at),
            Some(SetTime::At(_)) => Err(PosixError::Invalid),
        };
        let mut found = inodes::find(&self.tx, bucket, ino)?;
        let attrs = found.attrs_mut();
        *attrs = Attrs {
            mode: change.mode.or(attrs.mode),
            uid: change.uid.or(attrs.uid),
            gid: change.gid.or(attrs.gid),
            accessed: time(change.accessed, attrs.accessed)?,
            modified: time(change.modified, attrs.modified)?,
            changed: now,
        };
        if let Some(mode) = change.mode
            && let Some(list) = self.list(bucket, ino, acl::ACCESS)?
        {
            let key = own::xattr(bucket, ino, acl::ACCESS);
            self.set_xattr_row(key, Some(list.with_mode(mode).bytes()))?;
        }
        match &mut found {
            Found::Dir(found) => {
                // Who gives it something of its own means to keep it.
                found.dir.row.explicit = true;
                self.set_found_dir(bucket, found)?;
            }
            Found::Inode(found) => self.set_found_inode(bucket, found.clone())?,
        }
        Ok(found.node())
    }

    /// A node's access list, or the one that it gives to what is made in it. What is none (it was stored before lists
    /// were looked at) counts as none: it must not stop the group.
    pub(super) fn list(&self, bucket: BucketId, ino: Ino, name: &[u8]) -> Step<Option<List>> {
        let value = self.tx.get(rows::STATE, &own::xattr(bucket, ino, name))?;
        Ok(value.and_then(|value| List::parse(&value).ok()))
    }

    pub(super) fn set_xattr(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        name: &[u8],
        value: Option<Vec<u8>>,
        when: XattrWhen,
        now: Moment,
    ) -> Step<()> {
        check_xattr(name, value.as_deref().unwrap_or_default())?;
        let found = inodes::find(&self.tx, bucket, ino)?;
        let key = own::xattr(bucket, ino, name);
        let prefix = own::xattrs(bucket, ino).done();
        let end = prefix_end(&prefix);
        let all = self.tx.scan(rows::STATE, &prefix, end.as_deref(), limits::XATTRS_MAX + 1)?;
        let is_there = all.iter().any(|(there, _)| *there == key);
        match (&value, is_there, when) {
            (None, false, _) | (_, false, XattrWhen::Replace) => {
                return Err(PosixError::NoAttribute.into());
            }
            (Some(_), true, XattrWhen::Create) => return Err(PosixError::Exists.into()),
            _ => {}
        }
        let mut change = AttrsChange::default();
        let value = match (name, value) {
            (acl::ACCESS, Some(value)) => {
                let list = List::parse(&value)?;
                let mode = found.node().attrs.mode.unwrap_or(0) & !0o777 | list.mode();
                change.mode = Some(mode);
                // What the mode says as well is not kept.
                (!list.is_mode()).then_some(value)
            }
            (acl::DEFAULT, Some(value)) => {
                List::parse(&value)?;
                if matches!(found, Found::Inode(_)) {
                    return Err(PosixError::Denied.into());
                }
                Some(value)
            }
            (_, value) => value,
        };
        match value {
            Some(value) => {
                let others = all.iter().filter(|(there, _)| *there != key);
                let bytes: usize = others.map(|(key, value)| key.len() + value.len()).sum();
                let count = all.len() + usize::from(!is_there);
                if count > limits::XATTRS_MAX
                    || bytes + key.len() + value.len() > limits::XATTRS_BYTES_MAX
                {
                    return Err(PosixError::NoSpace.into());
                }
                self.set_xattr_row(key, Some(value))?;
            }
            None => self.set_xattr_row(key, None)?,
        }
        self.set_attrs(bucket, ino, &change, now).map(drop)
    }
}
