//! A bucket's tree: from keys to dentries and back.
//!
//! A key is split behind each `/`; all components but the last are directories. Directories made by
//! a PUT are implicit and vanish with their last child in the same command (I13).
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::{Invariant, KvError};

use super::machine::{Change, Step, corrupt};
use super::rows::{self, Dentry, DirId, DirRow};
use super::types::{BucketId, Object};
use crate::rows::tx::Tx;

/// Directory components of a key (each with its `/`), and the file's name (maybe empty).
pub fn split_key(key: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut components: Vec<&[u8]> = key.split_inclusive(|byte| *byte == b'/').collect();
    match components.pop() {
        Some(last) if !last.ends_with(b"/") => (components, last),
        Some(last) => {
            components.push(last);
            (components, b"")
        }
        None => (components, b""),
    }
}

/// A directory on the way to a key.
#[derive(Clone, Copy, Debug)]
struct Above<'k> {
    /// The directory that holds it.
    parent: DirId,
    /// Its name, with `/`.
    name: &'k [u8],
    row: DirRow,
}

/// Finds an object.
pub fn lookup(tx: &Tx<'_>, bucket: BucketId, key: &[u8]) -> Result<Option<Object>, KvError> {
    let (components, name) = split_key(key);
    let mut dir = DirId::ROOT;
    for component in components {
        match tx.load(rows::TREE, &rows::dentry(bucket, dir, component))? {
            Some(Dentry::Dir(row)) => dir = row.id,
            _ => return Ok(None),
        }
    }
    match tx.load(rows::TREE, &rows::dentry(bucket, dir, name))? {
        Some(Dentry::File(object)) => Ok(Some(object)),
        _ => Ok(None),
    }
}

impl Change<'_> {
    /// Directories on the way to a key: those that exist, then names of those that do not.
    fn walk<'k>(
        &self,
        bucket: BucketId,
        components: Vec<&'k [u8]>,
    ) -> Step<(Vec<Above<'k>>, Vec<&'k [u8]>)> {
        let mut found = Vec::with_capacity(components.len());
        let mut parent = DirId::ROOT;
        let mut rest = components.into_iter();
        for name in rest.by_ref() {
            match self.tx.load(rows::TREE, &rows::dentry(bucket, parent, name))? {
                Some(Dentry::Dir(row)) => {
                    found.push(Above { parent, name, row });
                    parent = row.id;
                }
                Some(Dentry::File(_)) => return Err(corrupt("a file's name ends with '/'")),
                None => {
                    let missing = std::iter::once(name).chain(rest).collect();
                    return Ok((found, missing));
                }
            }
        }
        Ok((found, Vec::new()))
    }

    /// Adds to the child count of the deepest of `above`, or of the root.
    fn add_child(&mut self, bucket: BucketId, above: Option<&Above<'_>>) -> Step<()> {
        match above {
            Some(above) => {
                let row = DirRow {
                    sequence: self.sequence,
                    children: above.row.children + 1,
                    ..above.row
                };
                self.set_dir(bucket, above.parent, above.name, row);
            }
            None => {
                let mut row = self.bucket(bucket)?;
                row.children += 1;
                self.set_bucket(bucket, row);
            }
        }
        Ok(())
    }

    fn set_dir(&mut self, bucket: BucketId, parent: DirId, name: &[u8], row: DirRow) {
        self.tx.store(rows::TREE, rows::dentry(bucket, parent, name), &Dentry::Dir(row));
    }

    /// Sets an object's dentry and makes directories as needed. `is_new`: no dentry of that name
    /// exists (the caller looked).
    pub(super) fn put_dentry(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        object: Object,
        is_new: bool,
    ) -> Step<()> {
        self.touch(bucket, key);
        let (components, name) = split_key(key);
        let (found, missing) = self.walk(bucket, components)?;
        let mut parent = found.last().map_or(DirId::ROOT, |above| above.row.id);
        if is_new {
            self.add_child(bucket, found.last())?;
        }
        let created_ms = object.modified_ms;
        for component in missing {
            let id = DirId(self.next_id()?);
            let row =
                DirRow { sequence: self.sequence, id, children: 1, explicit: false, created_ms };
            self.set_dir(bucket, parent, component, row);
            parent = id;
        }
        self.tx.store(rows::TREE, rows::dentry(bucket, parent, name), &Dentry::File(object));
        Ok(())
    }

    /// Removes an object's dentry, and implicit directories that it leaves empty. It must exist.
    pub(super) fn remove_dentry(&mut self, bucket: BucketId, key: &[u8]) -> Step<()> {
        self.touch(bucket, key);
        let (components, name) = split_key(key);
        let (mut found, missing) = self.walk(bucket, components)?;
        if !missing.is_empty() {
            return Err(corrupt("a dentry without its directory"));
        }
        let parent = found.last().map_or(DirId::ROOT, |above| above.row.id);
        self.tx.delete(rows::TREE, rows::dentry(bucket, parent, name));
        while let Some(above) = found.pop() {
            self.tx.check(Invariant::I13, above.row.children > 0, || format!("{:?}", above.row));
            let children = above.row.children.saturating_sub(1);
            if children > 0 || above.row.explicit {
                let row = DirRow { sequence: self.sequence, children, ..above.row };
                self.set_dir(bucket, above.parent, above.name, row);
                return Ok(());
            }
            self.tx.delete(rows::TREE, rows::dentry(bucket, above.parent, above.name));
        }
        let mut row = self.bucket(bucket)?;
        self.tx.check(Invariant::I13, row.children > 0, || format!("root of {bucket:?}"));
        row.children = row.children.saturating_sub(1);
        self.set_bucket(bucket, row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_behind_each_slash() {
        let split = |key: &'static [u8]| split_key(key);
        assert_eq!(split(b"a"), (vec![], &b"a"[..]));
        assert_eq!(split(b"a/b"), (vec![&b"a/"[..]], &b"b"[..]));
        assert_eq!(split(b"a/"), (vec![&b"a/"[..]], &b""[..]));
        assert_eq!(split(b"a//b"), (vec![&b"a/"[..], &b"/"[..]], &b"b"[..]));
        assert_eq!(split(b"/"), (vec![&b"/"[..]], &b""[..]));
        assert_eq!(split(b""), (vec![], &b""[..]));
    }
}
