//! A bucket's tree: from keys to dentries and back.
//!
//! A key is split behind each `/`; all components but the last are directories. Directories made by
//! a PUT are implicit and vanish with their last child in the same command (I13).
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::{Invariant, KvError};

use super::posix::inodes;
use super::posix::rows::{Directory, Inode, What};

use super::machine::{Change, Step, corrupt};
use super::rows::{self, Dentry, DirId, DirRow, Released};
use super::types::{Attrs, BucketId, Ino, Moment, Object};
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
    /// What it has besides, if mounts know it.
    known: Option<Directory>,
}

/// Finds an object.
pub fn lookup(tx: &Tx<'_>, bucket: BucketId, key: &[u8]) -> Result<Option<Object>, KvError> {
    let (components, name) = split_key(key);
    let mut dir = DirId::ROOT;
    for component in components {
        let dentry: Option<Dentry> = tx.load(rows::TREE, &rows::dentry(bucket, dir, component))?;
        match dentry.and_then(|dentry| dentry.dir()) {
            Some(row) => dir = row.id,
            None => return Ok(None),
        }
    }
    match tx.load(rows::TREE, &rows::dentry(bucket, dir, name))? {
        Some(dentry) => object(tx, bucket, dentry),
        None => Ok(None),
    }
}

/// The object that a dentry leads to, if it is one.
pub(super) fn object(
    tx: &Tx<'_>,
    bucket: BucketId,
    dentry: Dentry,
) -> Result<Option<Object>, KvError> {
    let inode = match dentry {
        Dentry::File(object) => return Ok(Some(object)),
        Dentry::Inode(inode) => inode,
        Dentry::Link(ino) => inodes::linked(tx, bucket, ino)?,
        Dentry::Dir(_) | Dentry::Directory(_) => return Ok(None),
    };
    Ok(match inode.what {
        What::File(object) => Some(object),
        What::Special(_) => None,
    })
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
                    found.push(Above { parent, name, row, known: None });
                    parent = row.id;
                }
                Some(Dentry::Directory(dir)) => {
                    found.push(Above { parent, name, row: dir.row, known: Some(dir) });
                    parent = dir.row.id;
                }
                Some(_) => return Err(corrupt("a file's name ends with '/'")),
                None => {
                    let missing = std::iter::once(name).chain(rest).collect();
                    return Ok((found, missing));
                }
            }
        }
        Ok((found, Vec::new()))
    }

    /// Adds to the child count of the deepest of `above`, or of the root. `is_dir`: the child is a directory.
    fn add_child(
        &mut self,
        bucket: BucketId,
        above: Option<&Above<'_>>,
        is_dir: bool,
        now_ms: u64,
    ) -> Step<()> {
        match above {
            Some(above) => {
                self.set_children(
                    bucket,
                    above,
                    above.row.children + 1,
                    i64::from(is_dir),
                    now_ms,
                )?;
            }
            None => {
                let mut row = self.bucket(bucket)?;
                row.children += 1;
                self.set_bucket(bucket, row);
                self.stamp_root(bucket, i64::from(is_dir), now_ms)?;
            }
        }
        Ok(())
    }

    /// A directory has so many children from now on.
    fn set_children(
        &mut self,
        bucket: BucketId,
        above: &Above<'_>,
        children: u64,
        subdirs: i64,
        now_ms: u64,
    ) -> Step<()> {
        let row = DirRow { sequence: self.sequence, children, ..above.row };
        let dentry = match above.known {
            None => Dentry::Dir(row),
            Some(dir) => {
                let now = Moment::from_ms(now_ms);
                let attrs = Attrs { modified: now, changed: now, ..dir.attrs };
                let subdirs = dir.subdirs.map(|count| count.saturating_add_signed(subdirs));
                Dentry::Directory(Directory { row, subdirs, attrs })
            }
        };
        self.set_dentry(bucket, above.parent, above.name, &dentry)
    }

    /// Sets an object's dentry and makes directories as needed. `is_new`: no object has that key
    /// (the caller looked). A node that mounts know keeps its number, names and owner.
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
        let created_ms = object.modified_ms;
        let current = match missing.is_empty() {
            true => self.tx.load(rows::TREE, &rows::dentry(bucket, parent, name))?,
            false => None,
        };
        let known = match current {
            None | Some(Dentry::File(_)) => None,
            Some(Dentry::Inode(inode)) => Some((inode, Some((parent, name.to_vec())))),
            Some(Dentry::Link(ino)) => Some((inodes::linked(&self.tx, bucket, ino)?, None)),
            Some(_) => return Err(corrupt("a directory's name without '/'")),
        };
        // What clients of S3 do not see has the name, perhaps: it goes.
        let takes_name = is_new && known.is_some();
        if is_new && !takes_name {
            self.add_child(bucket, found.last(), !missing.is_empty(), created_ms)?;
        }
        for component in missing {
            let id = DirId(self.next_id()?);
            let row =
                DirRow { sequence: self.sequence, id, children: 1, explicit: false, created_ms };
            self.set_dentry(bucket, parent, component, &Dentry::Dir(row))?;
            parent = id;
        }
        let now = Moment::from_ms(created_ms);
        match known {
            Some((inode, at)) if !takes_name => self.set_object(bucket, at, inode, object, now),
            Some((inode, _)) => {
                self.drop_link(bucket, inode, now)?;
                self.set_dentry(bucket, parent, name, &Dentry::File(object))
            }
            None => self.set_dentry(bucket, parent, name, &Dentry::File(object)),
        }
    }

    /// A node that mounts know, in its dentry or in its 'J' row, is another object from now on.
    fn set_object(
        &mut self,
        bucket: BucketId,
        at: Option<(DirId, Vec<u8>)>,
        inode: Inode,
        object: Object,
        now: Moment,
    ) -> Step<()> {
        if inode.object().is_some_and(|before| before.version != object.version) {
            self.end_draft(bucket, inode.ino)?;
        }
        let is_written = inode.object().is_none_or(|before| before.content != object.content);
        let modified = if is_written { now } else { inode.attrs.modified };
        let attrs = Attrs { modified, changed: now, ..inode.attrs };
        self.set_inode(bucket, at, Inode { attrs, what: What::File(object), ..inode })
    }

    /// Removes an object's dentry, and implicit directories that it leaves empty. It must exist. Gives back
    /// whether the object is gone with it: one that has other names, or is held by a mount, is not.
    pub(super) fn remove_dentry(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        now_ms: u64,
    ) -> Step<bool> {
        self.touch(bucket, key);
        let (components, name) = split_key(key);
        let (mut found, missing) = self.walk(bucket, components)?;
        if !missing.is_empty() {
            return Err(corrupt("a dentry without its directory"));
        }
        let parent = found.last().map_or(DirId::ROOT, |above| above.row.id);
        let known = match self.tx.load(rows::TREE, &rows::dentry(bucket, parent, name))? {
            Some(Dentry::Inode(inode)) => Some(inode),
            Some(Dentry::Link(ino)) => Some(inodes::linked(&self.tx, bucket, ino)?),
            _ => None,
        };
        self.drop_dentry(bucket, parent, name)?;
        let is_gone = match known {
            Some(inode) => self.drop_link(bucket, inode, Moment::from_ms(now_ms))?,
            None => true,
        };
        let mut subdirs = 0;
        // Their rows go later: with them a deep key would change more rows than a command may.
        let mut forgotten = Vec::new();
        while let Some(above) = found.pop() {
            self.tx.check(Invariant::I13, above.row.children > 0, || format!("{:?}", above.row));
            let children = above.row.children.saturating_sub(1);
            if children > 0 || above.row.explicit {
                self.set_children(bucket, &above, children, subdirs, now_ms)?;
                self.forget_dirs(bucket, forgotten, now_ms);
                return Ok(is_gone);
            }
            self.drop_dentry(bucket, above.parent, above.name)?;
            if above.known.is_some() {
                forgotten.push(Ino(above.row.id.0));
            }
            subdirs = -1;
        }
        let mut row = self.bucket(bucket)?;
        self.tx.check(Invariant::I13, row.children > 0, || format!("root of {bucket:?}"));
        row.children = row.children.saturating_sub(1);
        self.set_bucket(bucket, row);
        self.stamp_root(bucket, subdirs, now_ms)?;
        self.forget_dirs(bucket, forgotten, now_ms);
        Ok(is_gone)
    }

    fn forget_dirs(&mut self, bucket: BucketId, dirs: Vec<Ino>, now_ms: u64) {
        if !dirs.is_empty() {
            self.release(Released::Nodes(bucket, dirs), now_ms);
        }
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
