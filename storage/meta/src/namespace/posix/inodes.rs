//! Nodes: found by name or number, written back to where they are, kept while someone holds them.
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::kv::prefix_end;

use super::super::limits;
use super::super::machine::{Change, Step, corrupt};
use super::super::rows::{self, Dentry, DirId, DirRow, LiveBucket, Released};
use super::super::types::{
    Attrs, BucketId, Cipher, DirEntry, Ino, Moment, MountId, NamespaceOk, Node, NodeKind,
    PosixError,
};
use super::names::{self, Stands};
use super::rows::{self as own, Directory, Inode, Place, What};
use crate::rows::tx::{Tx, decode_row};

/// A directory and where it is.
#[derive(Clone, Debug)]
pub(in super::super) struct FoundDir {
    /// The directory that it is in, and its name there; `None`: it is the root.
    pub at: Option<(DirId, Vec<u8>)>,
    /// The directory.
    pub dir: Directory,
}

/// A node that is no directory, and where it is.
#[derive(Clone, Debug)]
pub(in super::super) struct FoundInode {
    /// Directory and stored name, if it has one name.
    pub at: Option<(DirId, Vec<u8>)>,
    /// The node.
    pub inode: Inode,
}

/// A node.
#[allow(clippy::large_enum_variant, reason = "lives only briefly")]
#[derive(Clone, Debug)]
pub(in super::super) enum Found {
    Dir(FoundDir),
    Inode(FoundInode),
}

impl DirRow {
    /// Of the root, which has no row of its own.
    fn root(bucket: &LiveBucket) -> DirRow {
        DirRow {
            sequence: bucket.sequence,
            id: DirId::ROOT,
            children: bucket.children,
            explicit: true,
            created_ms: 0,
        }
    }
}

/// A node by its number.
pub(in super::super) fn find(tx: &Tx<'_>, bucket: BucketId, ino: Ino) -> Step<Found> {
    let place: Option<Place> = tx.load(rows::STATE, &own::place(bucket, ino))?;
    match place.ok_or(PosixError::Stale)? {
        Place::Root(dir) => {
            let bucket = super::super::versions::live(tx, bucket)?;
            let dir = Directory { row: DirRow::root(&bucket), ..dir };
            Ok(Found::Dir(FoundDir { at: None, dir }))
        }
        Place::Own(inode) => Ok(Found::Inode(FoundInode { at: None, inode })),
        Place::At { parent, name } => {
            let at = Some((parent, name.clone()));
            match tx.load(rows::TREE, &rows::dentry(bucket, parent, &name))? {
                Some(Dentry::Directory(dir)) if dir.row.id.0 == ino.0 => {
                    Ok(Found::Dir(FoundDir { at, dir }))
                }
                // A snapshot shows it as it was before it was adopted.
                Some(Dentry::Dir(row)) if row.id.0 == ino.0 => {
                    let attrs = Attrs::at(Moment::from_ms(row.created_ms));
                    let dir = Directory { row, subdirs: None, attrs };
                    Ok(Found::Dir(FoundDir { at, dir }))
                }
                Some(Dentry::Inode(inode)) if inode.ino == ino => {
                    Ok(Found::Inode(FoundInode { at, inode }))
                }
                // A directory that went with its last key: its row waits in the outbox.
                _ => Err(PosixError::Stale.into()),
            }
        }
    }
}

/// A directory by its number.
pub(in super::super) fn find_dir(tx: &Tx<'_>, bucket: BucketId, ino: Ino) -> Step<FoundDir> {
    match find(tx, bucket, ino)? {
        Found::Dir(found) => Ok(found),
        Found::Inode(_) => Err(PosixError::NotDirectory.into()),
    }
}

/// A node that is no directory, by its number.
pub(super) fn find_inode(tx: &Tx<'_>, bucket: BucketId, ino: Ino) -> Step<FoundInode> {
    match find(tx, bucket, ino)? {
        Found::Inode(found) => Ok(found),
        Found::Dir(_) => Err(PosixError::IsDirectory.into()),
    }
}

/// What a shown name leads to in a directory: its stored name and its dentry.
pub(in super::super) fn resolve(
    tx: &Tx<'_>,
    bucket: BucketId,
    dir: DirId,
    shown: &[u8],
) -> Step<Option<(Vec<u8>, Dentry)>> {
    let load = |name: &[u8]| tx.load::<Dentry>(rows::TREE, &rows::dentry(bucket, dir, name));
    match names::stands_for(shown)? {
        Stands::Plain(name) => {
            let as_dir = [name.as_slice(), b"/"].concat();
            if let Some(dentry) = load(&as_dir)? {
                return Ok(Some((as_dir, dentry)));
            }
            Ok(load(&name)?.map(|dentry| (name, dentry)))
        }
        Stands::Stored(name) => {
            let Some(dentry) = load(&name)? else { return Ok(None) };
            let is_shown_so = names::shown(&name, is_hidden(tx, bucket, dir, &name)?) == shown;
            Ok(is_shown_so.then_some((name, dentry)))
        }
        Stands::Long { start, is_dir, digest } => {
            let first = rows::dir_prefix(bucket, dir).escaped(&start).done();
            let end = prefix_end(&first);
            let found = tx.scan(rows::TREE, &first, end.as_deref(), limits::LONG_NAMES_LOOK_MAX)?;
            for (key, value) in found {
                let name = rows::dentry_name(&key).ok_or_else(|| corrupt("key of a dentry"))?;
                if name.ends_with(b"/") == is_dir
                    && names::has_digest(&name, &digest)
                    && names::shown(&name, false) == shown
                {
                    return Ok(Some((name, decode_row(rows::TREE, &value)?)));
                }
            }
            Ok(None)
        }
    }
}

/// Whether a file's name is hidden by a directory's.
pub(super) fn is_hidden(tx: &Tx<'_>, bucket: BucketId, dir: DirId, stored: &[u8]) -> Step<bool> {
    if stored.ends_with(b"/") {
        return Ok(false);
    }
    let as_dir = [stored, b"/"].concat();
    Ok(tx.get(rows::TREE, &rows::dentry(bucket, dir, &as_dir))?.is_some())
}

fn of_directory(dir: &Directory) -> Node {
    let links =
        dir.subdirs.map_or(1, |count| u32::try_from(count.saturating_add(2)).unwrap_or(u32::MAX));
    Node { ino: Some(Ino(dir.row.id.0)), kind: NodeKind::Directory, attrs: dir.attrs, links }
}

fn of_object(object: &super::super::types::Object) -> NodeKind {
    NodeKind::File {
        content: object.content,
        size: object.size,
        sequence: object.sequence,
        sealed: object.meta.cipher != Cipher::Grid,
    }
}

/// A node as a mount sees it.
pub(super) fn of_inode(inode: &Inode) -> Node {
    let kind = match &inode.what {
        What::File(object) => of_object(object),
        What::Special(special) => NodeKind::Special(special.clone()),
    };
    Node { ino: Some(inode.ino), kind, attrs: inode.attrs, links: inode.links }
}

impl Found {
    /// What it has.
    pub(super) fn attrs_mut(&mut self) -> &mut Attrs {
        match self {
            Found::Dir(found) => &mut found.dir.attrs,
            Found::Inode(found) => &mut found.inode.attrs,
        }
    }

    /// As a mount sees it.
    pub(super) fn node(&self) -> Node {
        match self {
            Found::Dir(found) => of_directory(&found.dir),
            Found::Inode(found) => of_inode(&found.inode),
        }
    }
}

/// What a dentry leads to, as a mount sees it.
pub(in super::super) fn of_dentry(tx: &Tx<'_>, bucket: BucketId, dentry: &Dentry) -> Step<Node> {
    Ok(match dentry {
        Dentry::Dir(row) => Node {
            ino: None,
            kind: NodeKind::Directory,
            attrs: Attrs::at(Moment::from_ms(row.created_ms)),
            links: 1,
        },
        Dentry::File(object) => Node {
            ino: None,
            kind: of_object(object),
            attrs: Attrs::at(Moment::from_ms(object.modified_ms)),
            links: 1,
        },
        Dentry::Directory(dir) => of_directory(dir),
        Dentry::Inode(inode) => of_inode(inode),
        Dentry::Link(ino) => of_inode(&linked(tx, bucket, *ino)?),
    })
}

/// The node that several names lead to.
pub(in super::super) fn linked(
    tx: &Tx<'_>,
    bucket: BucketId,
    ino: Ino,
) -> Result<Inode, nexusgrid_env::KvError> {
    match tx.load(rows::STATE, &own::place(bucket, ino))? {
        Some(Place::Own(inode)) => Ok(inode),
        _ => Err(nexusgrid_env::KvError::Corrupt("namespace: a name of no node".to_owned())),
    }
}

/// Children of a directory, as a mount shows them, after a stored name.
pub(super) fn entries(
    tx: &Tx<'_>,
    bucket: BucketId,
    ino: Ino,
    after: Option<&[u8]>,
    limit: usize,
) -> Step<(Vec<DirEntry>, bool)> {
    find_dir(tx, bucket, ino)?;
    let dir = DirId(ino.0);
    let prefix = rows::dir_prefix(bucket, dir).done();
    let end = prefix_end(&prefix);
    let start = match after {
        Some(name) => [rows::dentry(bucket, dir, name).as_slice(), &[0]].concat(),
        None => prefix,
    };
    let found = tx.scan(rows::TREE, &start, end.as_deref(), limit.saturating_add(1))?;
    let mut more = found.len() > limit;
    let mut bytes = 0;
    let mut entries: Vec<DirEntry> = Vec::with_capacity(found.len().min(limit));
    for (key, value) in found.iter().take(limit) {
        // Symbolic links may be long.
        bytes += key.len() * 2 + value.len();
        if bytes > limits::LIST_BYTES_MAX && !entries.is_empty() {
            more = true;
            break;
        }
        let stored = rows::dentry_name(key).ok_or_else(|| corrupt("key of a dentry"))?;
        let dentry: Dentry = decode_row(rows::TREE, value)?;
        let name = names::shown(&stored, is_hidden(tx, bucket, dir, &stored)?);
        let node = of_dentry(tx, bucket, &dentry)?;
        entries.push(DirEntry { name, stored, node });
    }
    Ok((entries, more))
}

/// Nodes that a mount holds, after a number; whether there are more.
pub(super) fn held(
    tx: &Tx<'_>,
    mount: MountId,
    bucket: BucketId,
    after: Option<Ino>,
    limit: usize,
) -> Step<(Vec<Ino>, bool)> {
    let prefix = own::holds(mount);
    let end = prefix_end(&prefix);
    let start = match after {
        Some(ino) => [own::hold(mount, bucket, ino).as_slice(), &[0]].concat(),
        None => prefix,
    };
    let found = tx.scan(rows::STATE, &start, end.as_deref(), limit.saturating_add(1))?;
    let numbers = found.iter().take(limit).map(|(key, _)| {
        let (_, _, ino) = own::parse_hold(key).ok_or_else(|| corrupt("key of a hold"))?;
        Ok(ino)
    });
    Ok((numbers.collect::<Step<_>>()?, found.len() > limit))
}

/// Whether `dir` is `above`, or lies below it.
pub(in super::super) fn is_below(
    tx: &Tx<'_>,
    bucket: BucketId,
    dir: DirId,
    above: DirId,
) -> Step<bool> {
    let mut at = dir;
    for _ in 0..limits::DEPTH_MAX {
        if at == above {
            return Ok(true);
        }
        if at == DirId::ROOT {
            return Ok(false);
        }
        let place: Option<Place> = tx.load(rows::STATE, &own::place(bucket, Ino(at.0)))?;
        // Of what a snapshot shows nothing rests on rows that are not there.
        let Some(Place::At { parent, .. }) = place else { return Err(PosixError::Stale.into()) };
        at = parent;
    }
    Err(PosixError::Invalid.into())
}

impl Change<'_> {
    /// Writes a directory back to where it is.
    pub(super) fn set_found_dir(&mut self, bucket: BucketId, found: &FoundDir) -> Step<()> {
        let dir =
            Directory { row: DirRow { sequence: self.sequence, ..found.dir.row }, ..found.dir };
        match &found.at {
            Some((parent, name)) => {
                self.set_dentry(bucket, *parent, name, &Dentry::Directory(dir))?;
            }
            None => {
                let mut row = self.bucket(bucket)?;
                if row.children != dir.row.children {
                    row.children = dir.row.children;
                    self.set_bucket(bucket, row);
                }
                // Counted in the bucket's row.
                let dir = Directory { row: DirRow { children: 0, ..dir.row }, ..dir };
                self.set_place(bucket, Ino::ROOT, &Place::Root(dir))?;
            }
        }
        Ok(())
    }

    /// Writes a node back to where it is.
    pub(super) fn set_found_inode(&mut self, bucket: BucketId, found: FoundInode) -> Step<()> {
        if let Some((parent, name)) = &found.at {
            self.touch_name(bucket, *parent, name)?;
        }
        self.set_inode(bucket, found.at, found.inode)
    }

    /// Writes a node to its dentry, or to its 'J' row.
    pub(in super::super) fn set_inode(
        &mut self,
        bucket: BucketId,
        at: Option<(DirId, Vec<u8>)>,
        inode: Inode,
    ) -> Step<()> {
        match at {
            Some((parent, name)) => self.set_dentry(bucket, parent, &name, &Dentry::Inode(inode)),
            None => self.set_place(bucket, inode.ino, &Place::Own(inode)),
        }
    }

    /// What is in the root has changed: mounts that know it see when.
    pub(in super::super) fn stamp_root(
        &mut self,
        bucket: BucketId,
        subdirs: i64,
        now_ms: u64,
    ) -> Step<()> {
        let key = own::place(bucket, Ino::ROOT);
        if let Some(Place::Root(mut dir)) = self.tx.load(rows::STATE, &key)? {
            let now = Moment::from_ms(now_ms);
            dir.attrs = Attrs { modified: now, changed: now, ..dir.attrs };
            dir.subdirs = dir.subdirs.map(|count| count.saturating_add_signed(subdirs));
            self.set_place(bucket, Ino::ROOT, &Place::Root(dir))?;
        }
        Ok(())
    }

    /// Says where a node is that has one name.
    pub(super) fn set_name(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        parent: DirId,
        name: &[u8],
    ) -> Step<()> {
        self.set_place(bucket, ino, &Place::At { parent, name: name.to_vec() })
    }

    /// A node is gone for good: forgets where it is. Its extended attributes and locks, which may be many, are
    /// left to the outbox.
    pub(in super::super) fn forget_node(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        now_ms: u64,
    ) -> Step<()> {
        self.drop_place(bucket, ino)?;
        let prefix = own::xattrs(bucket, ino).done();
        let end = prefix_end(&prefix);
        let has_more = !self.tx.scan(rows::STATE, &prefix, end.as_deref(), 1)?.is_empty()
            || self.tx.get(rows::STATE, &own::locks(bucket, ino))?.is_some();
        if has_more {
            self.release(Released::Nodes(bucket, vec![ino]), now_ms);
        }
        Ok(())
    }

    /// Clears away what there was of nodes that are gone, as much as this step may; `nodes` are those that are
    /// left then.
    pub(in super::super) fn expand_nodes(
        &mut self,
        bucket: BucketId,
        nodes: &mut Vec<Ino>,
    ) -> Step<()> {
        while let Some(ino) = nodes.last().copied() {
            if self.is_spent() {
                return Ok(());
            }
            let prefix = own::xattrs(bucket, ino).done();
            let end = prefix_end(&prefix);
            let xattrs =
                self.tx.scan(rows::STATE, &prefix, end.as_deref(), limits::XATTRS_MAX + 1)?;
            for (key, _) in xattrs {
                self.set_xattr_row(key.to_vec(), None)?;
            }
            if !self.expand_locks_of(bucket, ino)? {
                return Ok(());
            }
            self.drop_place(bucket, ino)?;
            nodes.pop();
        }
        Ok(())
    }

    /// Whether any session holds a node.
    pub(super) fn is_held(&self, bucket: BucketId, ino: Ino) -> Step<bool> {
        let prefix = own::holders(bucket, ino);
        let end = prefix_end(&prefix);
        Ok(!self.tx.scan(rows::STATE, &prefix, end.as_deref(), 1)?.is_empty())
    }

    /// A name of a node is gone. Gives back whether the node is, and with it what it holds, which the
    /// caller gives back.
    pub(in super::super) fn drop_link(
        &mut self,
        bucket: BucketId,
        mut inode: Inode,
        now: Moment,
    ) -> Step<bool> {
        inode.links = inode.links.saturating_sub(1);
        inode.attrs.changed = now;
        if inode.links == 0 && !self.is_held(bucket, inode.ino)? {
            self.forget_node(bucket, inode.ino, now.ms())?;
            return Ok(true);
        }
        self.set_found_inode(bucket, FoundInode { at: None, inode })?;
        Ok(false)
    }

    /// As [`Change::drop_link`], and gives back what the node holds.
    pub(super) fn drop_name(&mut self, bucket: BucketId, inode: Inode, now: Moment) -> Step<()> {
        let what = inode.what.clone();
        if self.drop_link(bucket, inode, now)?
            && let What::File(object) = what
        {
            self.count_object(bucket, None, Some(&object))?;
            self.unrefer(object.content, now.ms())?;
        }
        Ok(())
    }

    /// The mount holds a node from now on.
    pub(super) fn hold(&mut self, mount: MountId, bucket: BucketId, ino: Ino) {
        self.tx.store(rows::STATE, own::hold(mount, bucket, ino), &());
        self.tx.store(rows::STATE, own::holder(bucket, ino, mount), &());
    }

    /// The mount holds a node no more; one without names goes.
    pub(super) fn release_hold(
        &mut self,
        mount: MountId,
        bucket: BucketId,
        ino: Ino,
        now: Moment,
    ) -> Step<()> {
        let key = own::hold(mount, bucket, ino);
        if self.tx.get(rows::STATE, &key)?.is_none() {
            return Ok(());
        }
        self.tx.delete(rows::STATE, key);
        self.tx.delete(rows::STATE, own::holder(bucket, ino, mount));
        if !self.is_held(bucket, ino)? {
            self.end_draft(bucket, ino)?;
        }
        match self.tx.load(rows::STATE, &own::place(bucket, ino))? {
            Some(Place::Own(inode)) if inode.links == 0 => self.drop_name(bucket, inode, now),
            _ => Ok(()),
        }
    }

    /// Ends what a mount that has ended holds and reserved, as much as this step may; whether that is all.
    pub(in super::super) fn expand_holds(&mut self, mount: MountId, now_ms: u64) -> Step<bool> {
        self.drop_reservations(mount)?;
        if !self.expand_locks(mount)? {
            return Ok(false);
        }
        let prefix = own::holds(mount);
        let end = prefix_end(&prefix);
        let now = Moment::from_ms(now_ms);
        let held = self.tx.scan(rows::STATE, &prefix, end.as_deref(), limits::EXPAND_ROWS_MAX)?;
        for (key, _) in held {
            if self.is_spent() {
                return Ok(false);
            }
            let (_, bucket, ino) = own::parse_hold(&key).ok_or_else(|| corrupt("key of a hold"))?;
            self.release_hold(mount, bucket, ino, now)?;
        }
        let left = self.tx.scan(rows::STATE, &prefix, end.as_deref(), 1)?;
        Ok(left.is_empty())
    }

    /// Gives back all numbers that a mount reserved.
    pub(super) fn drop_reservations(&mut self, mount: MountId) -> Step<()> {
        let prefix = own::reserved(mount);
        let end = prefix_end(&prefix);
        let most = limits::RESERVATIONS_MAX;
        for (key, _) in self.tx.scan(rows::STATE, &prefix, end.as_deref(), most)? {
            self.tx.delete(rows::STATE, key.to_vec());
        }
        Ok(())
    }

    /// Gives a mount numbers for nodes that it will make; `used_up`: those that it needs no more.
    pub(in super::super) fn reserve(
        &mut self,
        mount: MountId,
        used_up: Option<Ino>,
    ) -> Step<NamespaceOk> {
        self.mount(mount)?;
        if let Some(used_up) = used_up {
            let sequence = rows::sequence_of(used_up.0);
            self.tx.delete(rows::STATE, own::reservation(mount, sequence));
        }
        let prefix = own::reserved(mount);
        let end = prefix_end(&prefix);
        let found = self.tx.scan(rows::STATE, &prefix, end.as_deref(), limits::RESERVATIONS_MAX)?;
        if found.len() >= limits::RESERVATIONS_MAX {
            return Err(super::super::types::NamespaceError::TooLarge.into());
        }
        self.tx.store(rows::STATE, own::reservation(mount, self.sequence), &());
        let first = rows::id_of(self.sequence, 0)
            .ok_or_else(|| corrupt("a commit sequence that is too great"))?;
        Ok(NamespaceOk::Reserved(Ino(first)))
    }

    /// Whether the mount may make a node of this number.
    pub(super) fn check_reserved(&self, mount: MountId, bucket: BucketId, ino: Ino) -> Step<()> {
        let key = own::reservation(mount, rows::sequence_of(ino.0));
        let is_free = self.tx.get(rows::STATE, &key)?.is_some()
            && self.tx.get(rows::STATE, &own::place(bucket, ino))?.is_none();
        if is_free { Ok(()) } else { Err(PosixError::NotReserved.into()) }
    }

    /// The key of a name has changed, for those who look at keys when they are due.
    pub(super) fn touch_name(&mut self, bucket: BucketId, dir: DirId, name: &[u8]) -> Step<()> {
        if self.has_lifecycle(bucket)?
            && let Some(mut key) = self.path(bucket, dir)?
        {
            key.extend_from_slice(name);
            if (1..=limits::KEY_BYTES_MAX).contains(&key.len()) {
                self.touch(bucket, &key);
            }
        }
        Ok(())
    }

    /// The keys in a directory begin so; `None`: it lies too deep for keys.
    pub(super) fn path(&self, bucket: BucketId, dir: DirId) -> Step<Option<Vec<u8>>> {
        let mut names = Vec::new();
        let mut at = dir;
        let mut len = 0;
        while at != DirId::ROOT {
            let place: Option<Place> = self.tx.load(rows::STATE, &own::place(bucket, Ino(at.0)))?;
            let Some(Place::At { parent, name }) = place else {
                return Err(corrupt("a directory without its place"));
            };
            len += name.len();
            if len > limits::KEY_BYTES_MAX {
                return Ok(None);
            }
            names.push(name);
            at = parent;
        }
        names.reverse();
        Ok(Some(names.concat()))
    }
}
