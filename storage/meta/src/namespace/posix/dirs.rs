//! Names in directories: adopted, made, removed, moved.
#![deny(clippy::indexing_slicing)]

use super::super::limits;
use super::super::machine::{Change, Step, corrupt};
use super::super::rows::{self, Dentry, DirId, DirRow};
use super::super::types::{
    Attrs, BucketId, Ino, Maker, Moment, MountId, NewNode, Node, Object, ObjectMeta, PosixDone,
    PosixError, RenameMode, Special,
};
use super::acl;
use super::inodes::{self, Found, FoundInode};
use super::names;
use super::rows::{self as own, Directory, Inode, Place, What};
use super::versions::{self, Leaves};
use nexusgrid_env::kv::prefix_end;

/// What is to be made, and what it has.
pub(super) struct Make {
    pub parent: Ino,
    pub name: Vec<u8>,
    pub ino: Ino,
    pub what: NewNode,
    pub maker: Maker,
    pub hold: bool,
}

/// A name that leads somewhere.
struct Named {
    stored: Vec<u8>,
    dentry: Dentry,
}

impl Named {
    fn is_dir(&self) -> bool {
        self.stored.ends_with(b"/")
    }

    /// Its children, if it is a directory.
    fn children(&self) -> u64 {
        self.dentry.dir().map_or(0, |row| row.children)
    }

    /// What says whether two names lead to one node.
    fn ino(&self) -> Option<Ino> {
        match &self.dentry {
            Dentry::Directory(dir) => Some(Ino(dir.row.id.0)),
            Dentry::Dir(row) => Some(Ino(row.id.0)),
            Dentry::Inode(inode) => Some(inode.ino),
            Dentry::Link(ino) => Some(*ino),
            Dentry::File(_) => None,
        }
    }
}

/// A plain name as a file's or a directory's is stored.
fn stored_as(name: &[u8], is_dir: bool) -> Vec<u8> {
    let mut name = name.to_vec();
    if is_dir {
        name.push(b'/');
    }
    name
}

impl Change<'_> {
    fn named(&self, bucket: BucketId, dir: DirId, name: &[u8]) -> Step<Option<Named>> {
        let found = inodes::resolve(&self.tx, bucket, dir, name)?;
        Ok(found.map(|(stored, dentry)| Named { stored, dentry }))
    }

    fn must_name(&self, bucket: BucketId, dir: DirId, name: &[u8]) -> Step<Named> {
        Ok(self.named(bucket, dir, name)?.ok_or(PosixError::NotFound)?)
    }

    /// The root directory; the first time it gets what directories have.
    pub(super) fn adopt_root(&mut self, bucket: BucketId, now: Moment) -> Step<Node> {
        let key = own::place(bucket, Ino::ROOT);
        if self.tx.get(rows::STATE, &key)?.is_none() {
            let row = self.bucket(bucket)?;
            let (id, children) = (DirId::ROOT, row.children);
            let row = DirRow { sequence: 0, id, children, explicit: true, created_ms: now.ms() };
            let subdirs = self.count_subdirs(bucket, id, children)?;
            let dir = Directory { row, subdirs, attrs: Attrs::at(now) };
            // No change: a snapshot shows it likewise.
            let row = DirRow { sequence: self.sequence, children: 0, ..dir.row };
            let dir = Directory { row, ..dir };
            self.tx.store(rows::STATE, key, &Place::Root(dir));
        }
        Ok(inodes::find(&self.tx, bucket, Ino::ROOT)?.node())
    }

    fn count_subdirs(&self, bucket: BucketId, dir: DirId, children: u64) -> Step<Option<u64>> {
        if children > limits::SUBDIRS_COUNTED_MAX as u64 {
            return Ok(None);
        }
        let prefix = rows::dir_prefix(bucket, dir).done();
        let end = prefix_end(&prefix);
        let found =
            self.tx.scan(rows::TREE, &prefix, end.as_deref(), limits::SUBDIRS_COUNTED_MAX + 1)?;
        let is_dir = |key: &[u8]| rows::dentry_name(key).is_some_and(|name| name.ends_with(b"/"));
        let count = found.iter().filter(|(key, _)| is_dir(key)).count();
        Ok((found.len() <= limits::SUBDIRS_COUNTED_MAX).then_some(count as u64))
    }

    /// Gives numbers to what clients of S3 made.
    pub(super) fn adopt(
        &mut self,
        bucket: BucketId,
        parent: Ino,
        names: &[Vec<u8>],
    ) -> Step<PosixDone> {
        if names.len() > limits::ADOPT_MAX {
            return Err(PosixError::Invalid.into());
        }
        let dir = inodes::find_dir(&self.tx, bucket, parent)?.dir.row.id;
        let mut nodes = Vec::with_capacity(names.len());
        for name in names {
            let found = self.named(bucket, dir, name)?;
            nodes.push(found.map(|named| self.adopted(bucket, dir, named)).transpose()?);
        }
        Ok(PosixDone::Nodes(nodes))
    }

    /// The node that a name leads to; it has a number then.
    fn adopted(&mut self, bucket: BucketId, parent: DirId, named: Named) -> Step<Node> {
        let key = rows::dentry(bucket, parent, &named.stored);
        let dentry = match named.dentry {
            Dentry::Dir(row) => {
                let subdirs = self.count_subdirs(bucket, row.id, row.children)?;
                let attrs = Attrs::at(Moment::from_ms(row.created_ms));
                self.number(bucket, Ino(row.id.0), parent, &named.stored);
                Dentry::Directory(Directory { row, subdirs, attrs })
            }
            Dentry::File(object) => {
                let ino = Ino(self.next_id()?);
                self.number(bucket, ino, parent, &named.stored);
                let attrs = Attrs::at(Moment::from_ms(object.modified_ms));
                Dentry::Inode(Inode { ino, links: 1, attrs, what: What::File(object) })
            }
            known => return inodes::of_dentry(&self.tx, bucket, &known),
        };
        self.tx.store(rows::TREE, key, &dentry);
        inodes::of_dentry(&self.tx, bucket, &dentry)
    }

    /// Whoever looks at a snapshot and at now sees one node there, as long as nothing changes it.
    fn number(&mut self, bucket: BucketId, ino: Ino, parent: DirId, name: &[u8]) {
        let place = Place::At { parent, name: name.to_vec() };
        self.tx.store(rows::STATE, own::place(bucket, ino), &place);
    }

    /// As [`Change::adopt`], of a dentry that has no number yet.
    pub(in super::super) fn adopt_live(
        &mut self,
        bucket: BucketId,
        parent: DirId,
        stored: Vec<u8>,
        dentry: Dentry,
    ) -> Step<Node> {
        self.adopted(bucket, parent, Named { stored, dentry })
    }

    /// A directory that moves is known by its number from where it was: its number is its id, which a snapshot may
    /// show there.
    fn numbered_dir(&mut self, bucket: BucketId, parent: DirId, named: Named) -> Step<Named> {
        if !matches!(named.dentry, Dentry::Dir(_)) {
            return Ok(named);
        }
        let stored = named.stored.clone();
        self.adopted(bucket, parent, named)?;
        let dentry = self.tx.load(rows::TREE, &rows::dentry(bucket, parent, &stored))?;
        let dentry = dentry.ok_or_else(|| corrupt("a directory without its name"))?;
        Ok(Named { stored, dentry })
    }

    /// A directory has another number of children and directories, as of now.
    fn change_dir(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        (children, subdirs): (i64, i64),
        now: Moment,
    ) -> Step<()> {
        let mut found = inodes::find_dir(&self.tx, bucket, ino)?;
        let dir = &mut found.dir;
        dir.row.children = dir
            .row
            .children
            .checked_add_signed(children)
            .ok_or_else(|| corrupt("children below zero"))?;
        dir.subdirs = dir.subdirs.map(|count| count.saturating_add_signed(subdirs));
        // Whoever makes or removes something there through a mount means to keep it.
        dir.row.explicit = true;
        dir.attrs.modified = now;
        dir.attrs.changed = now;
        self.set_found_dir(bucket, &found)
    }

    pub(super) fn make(
        &mut self,
        mount: MountId,
        bucket: BucketId,
        make: Make,
        now: Moment,
    ) -> Step<Node> {
        names::check_new(&make.name)?;
        let above = inodes::find_dir(&self.tx, bucket, make.parent)?.dir;
        let parent = above.row.id;
        if self.named(bucket, parent, &make.name)?.is_some() {
            return Err(PosixError::Exists.into());
        }
        self.check_reserved(mount, bucket, make.ino)?;
        let is_dir = make.what == NewNode::Directory;
        let stored = stored_as(&make.name, is_dir);
        let attrs = self.begin_attrs(bucket, &above.attrs, &make, now)?;
        if make.hold && !is_dir {
            self.hold(mount, bucket, make.ino);
        }
        let dentry = match make.what {
            NewNode::Directory => {
                let row = DirRow {
                    sequence: self.sequence,
                    id: DirId(make.ino.0),
                    children: 0,
                    explicit: true,
                    created_ms: now.ms(),
                };
                Dentry::Directory(Directory { row, subdirs: Some(0), attrs })
            }
            NewNode::File => {
                let has_room = self.bucket(bucket)?.check_objects(false).is_ok();
                if !has_room && !self.is_decided {
                    return Err(PosixError::NoSpace.into());
                }
                let mut object = self.empty_file(now)?;
                self.refer(object.content)?;
                self.count_object(bucket, Some(0), None)?;
                let at = (parent, stored.as_slice());
                self.arrive(bucket, at, Some(make.ino), &mut object, now)?;
                let what = What::File(object);
                Dentry::Inode(Inode { ino: make.ino, links: 1, attrs, what })
            }
            NewNode::Special(special) => {
                check_special(&special)?;
                let what = What::Special(special);
                Dentry::Inode(Inode { ino: make.ino, links: 1, attrs, what })
            }
        };
        self.set_dentry(bucket, parent, &stored, &dentry)?;
        self.set_name(bucket, make.ino, parent, &stored)?;
        self.change_dir(bucket, make.parent, (1, i64::from(is_dir)), now)?;
        self.touch_name(bucket, parent, &stored)?;
        inodes::of_dentry(&self.tx, bucket, &dentry)
    }

    /// What a new node has: set-group directories give their group, default lists count instead of the umask.
    fn begin_attrs(
        &mut self,
        bucket: BucketId,
        above: &Attrs,
        make: &Make,
        now: Moment,
    ) -> Step<Attrs> {
        let Maker { uid, gid, mode, umask } = make.maker;
        check_mode(mode)?;
        let is_dir = make.what == NewNode::Directory;
        let is_link = matches!(make.what, NewNode::Special(Special::Symlink(_)));
        let has_group = above.mode.is_some_and(|mode| mode & SET_GROUP != 0);
        let gid = if has_group { above.gid } else { Some(gid) };
        let set_group = if has_group && is_dir { SET_GROUP } else { 0 };
        let attrs = |mode| Attrs { mode: Some(mode), uid: Some(uid), gid, ..Attrs::at(now) };
        if is_link {
            return Ok(attrs(0o777));
        }
        let Some(default) = self.list(bucket, make.parent, acl::DEFAULT)? else {
            return Ok(attrs(mode & !(umask & 0o777) | set_group));
        };
        let list = default.inherited(mode);
        if !list.is_mode() {
            let key = own::xattr(bucket, make.ino, acl::ACCESS);
            self.set_xattr_row(key, Some(list.bytes()))?;
        }
        if is_dir {
            let key = own::xattr(bucket, make.ino, acl::DEFAULT);
            self.set_xattr_row(key, Some(default.bytes()))?;
        }
        Ok(attrs(mode & !0o777 | list.mode() | set_group))
    }

    /// An object without bytes; its content has no reference yet.
    fn empty_file(&mut self, now: Moment) -> Step<Object> {
        let content = self.make_empty()?;
        let etag = super::data::etag(content, self.sequence);
        Ok(Object {
            sequence: self.sequence,
            content,
            size: 0,
            modified_ms: now.ms(),
            version: None,
            parts: 0,
            upload: None,
            meta: ObjectMeta { etag, ..ObjectMeta::default() },
        })
    }

    pub(super) fn unlink(
        &mut self,
        bucket: BucketId,
        parent: Ino,
        name: &[u8],
        now: Moment,
    ) -> Step<()> {
        let dir = inodes::find_dir(&self.tx, bucket, parent)?.dir.row.id;
        let named = self.must_name(bucket, dir, name)?;
        if named.is_dir() {
            return Err(PosixError::IsDirectory.into());
        }
        self.drop_named(bucket, dir, named, false, now)?;
        self.change_dir(bucket, parent, (-1, 0), now)
    }

    /// Takes a name away. Counts of its directory are the caller's; `is_replaced`: another file takes the name.
    fn drop_named(
        &mut self,
        bucket: BucketId,
        dir: DirId,
        named: Named,
        is_replaced: bool,
        now: Moment,
    ) -> Step<()> {
        let Named { stored, dentry } = named;
        self.touch_name(bucket, dir, &stored)?;
        if let Some((object, is_draft)) = self.file_of(bucket, &dentry)? {
            let leaves = Leaves { is_draft, is_replaced };
            self.leave(bucket, (dir, &stored), &object, &leaves, now)?;
        }
        self.drop_dentry(bucket, dir, &stored)?;
        match dentry {
            Dentry::File(object) => {
                self.count_object(bucket, None, Some(&object))?;
                self.unrefer(object.content, now.ms())
            }
            Dentry::Inode(inode) => self.drop_name(bucket, inode, now),
            Dentry::Link(ino) => {
                let inode = inodes::linked(&self.tx, bucket, ino)?;
                self.drop_name(bucket, inode, now)
            }
            Dentry::Dir(row) => self.forget_node(bucket, Ino(row.id.0), now.ms()),
            Dentry::Directory(dir) => self.forget_node(bucket, Ino(dir.row.id.0), now.ms()),
        }
    }

    pub(super) fn rmdir(
        &mut self,
        bucket: BucketId,
        parent: Ino,
        name: &[u8],
        now: Moment,
    ) -> Step<()> {
        let dir = inodes::find_dir(&self.tx, bucket, parent)?.dir.row.id;
        let named = self.must_name(bucket, dir, name)?;
        if !named.is_dir() {
            return Err(PosixError::NotDirectory.into());
        }
        if named.children() > 0 {
            return Err(PosixError::NotEmpty.into());
        }
        self.drop_named(bucket, dir, named, false, now)?;
        self.change_dir(bucket, parent, (-1, -1), now)
    }

    pub(super) fn link_node(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        now: Moment,
    ) -> Step<Node> {
        names::check_new(name)?;
        let found = match inodes::find(&self.tx, bucket, ino)? {
            Found::Dir(_) => return Err(PosixError::NotPermitted.into()),
            Found::Inode(found) => found,
        };
        if found.inode.object().is_some() && self.keeps_versions(bucket)? {
            return Err(PosixError::NotPermitted.into());
        }
        let dir = inodes::find_dir(&self.tx, bucket, parent)?.dir.row.id;
        if self.named(bucket, dir, name)?.is_some() {
            return Err(PosixError::Exists.into());
        }
        let mut inode = found.inode;
        if inode.links == 0 {
            return Err(PosixError::NotFound.into());
        }
        if inode.links >= limits::LINKS_MAX {
            return Err(PosixError::TooManyLinks.into());
        }
        if let Some((at, stored)) = found.at {
            self.set_dentry(bucket, at, &stored, &Dentry::Link(ino))?;
        }
        inode.links += 1;
        inode.attrs.changed = now;
        let node = inodes::of_inode(&inode);
        self.set_found_inode(bucket, FoundInode { at: None, inode })?;
        self.set_dentry(bucket, dir, name, &Dentry::Link(ino))?;
        self.change_dir(bucket, parent, (1, 0), now)?;
        self.touch_name(bucket, dir, name)?;
        Ok(node)
    }

    pub(super) fn rename_node(
        &mut self,
        bucket: BucketId,
        from: &(Ino, Vec<u8>),
        to: &(Ino, Vec<u8>),
        mode: RenameMode,
        now: Moment,
    ) -> Step<()> {
        let from_dir = inodes::find_dir(&self.tx, bucket, from.0)?.dir.row.id;
        let to_dir = inodes::find_dir(&self.tx, bucket, to.0)?.dir.row.id;
        let source = self.must_name(bucket, from_dir, &from.1)?;
        let target = self.named(bucket, to_dir, &to.1)?;
        if mode == RenameMode::Exchange && target.is_none() {
            return Err(PosixError::NotFound.into());
        }
        if target.is_none() {
            names::check_new(&to.1)?;
        }
        if source.is_dir() {
            let Some(ino) = source.ino() else { return Err(corrupt("a directory without id")) };
            if inodes::is_below(&self.tx, bucket, to_dir, DirId(ino.0))? {
                return Err(PosixError::Invalid.into());
            }
        }
        if self.keeps_versions(bucket)? {
            if mode == RenameMode::Exchange {
                return Err(PosixError::Invalid.into());
            }
            if source.children() > 0 {
                return Err(PosixError::OneByOne.into());
            }
            // Its other names would have the same version, or it would be of two keys.
            if matches!(source.dentry, Dentry::Link(_))
                && self.file_of(bucket, &source.dentry)?.is_some()
            {
                return Err(PosixError::ReadOnly.into());
            }
        }
        let source = self.numbered_dir(bucket, from_dir, source)?;
        let target = match target {
            Some(target) if mode == RenameMode::Exchange => {
                Some(self.numbered_dir(bucket, to_dir, target)?)
            }
            other => other,
        };
        match target {
            None => self.move_name(bucket, (from, from_dir), source, (to, to_dir), now),
            Some(_) if mode == RenameMode::NoReplace => Err(PosixError::Exists.into()),
            Some(target) if mode == RenameMode::Exchange => {
                self.exchange(bucket, (from, from_dir), source, (to, to_dir), target, now)
            }
            Some(target) => {
                // Two names of one node: nothing is to be done.
                let is_same = source.ino().is_some() && source.ino() == target.ino()
                    || from_dir == to_dir && source.stored == target.stored;
                if is_same {
                    return Ok(());
                }
                match (source.is_dir(), target.is_dir()) {
                    (true, false) => return Err(PosixError::NotDirectory.into()),
                    (false, true) => return Err(PosixError::IsDirectory.into()),
                    (true, true) if target.children() > 0 => {
                        return Err(PosixError::NotEmpty.into());
                    }
                    _ => {}
                }
                let is_dir = target.is_dir();
                let name = plain(&target.stored);
                // Of what clients of S3 do not see, they see that the file is gone.
                let is_replaced = self.file_of(bucket, &source.dentry)?.is_some();
                self.drop_named(bucket, to_dir, target, is_replaced, now)?;
                self.change_dir(bucket, to.0, (-1, -i64::from(is_dir)), now)?;
                let to = (to.0, name);
                self.move_name(bucket, (from, from_dir), source, (&to, to_dir), now)
            }
        }
    }

    /// Moves a name to where there is none.
    fn move_name(
        &mut self,
        bucket: BucketId,
        (from, from_dir): (&(Ino, Vec<u8>), DirId),
        source: Named,
        (to, to_dir): (&(Ino, Vec<u8>), DirId),
        now: Moment,
    ) -> Step<()> {
        let is_dir = source.is_dir();
        let stored = stored_as(&to.1, is_dir);
        self.touch_name(bucket, from_dir, &source.stored)?;
        let from_name = (from_dir, source.stored.as_slice());
        let dentry = self.moved_file(bucket, from_name, (to_dir, &stored), source.dentry, now)?;
        self.drop_dentry(bucket, from_dir, &source.stored)?;
        self.settle_at(bucket, to_dir, &stored, dentry, now)?;
        let subdirs = i64::from(is_dir);
        self.change_dir(bucket, from.0, (-1, -subdirs), now)?;
        self.change_dir(bucket, to.0, (1, subdirs), now)?;
        if is_dir {
            // All keys below it have changed.
            self.walk_again(bucket)?;
        } else {
            self.touch_name(bucket, to_dir, &stored)?;
        }
        Ok(())
    }

    /// The file that a dentry leads to, and whether its version is a draft.
    fn file_of(&self, bucket: BucketId, dentry: &Dentry) -> Step<Option<(Object, bool)>> {
        let inode = match dentry {
            Dentry::File(object) => return Ok(Some((object.clone(), false))),
            Dentry::Inode(inode) => inode.clone(),
            Dentry::Link(ino) => inodes::linked(&self.tx, bucket, *ino)?,
            Dentry::Dir(_) | Dentry::Directory(_) => return Ok(None),
        };
        let is_draft = versions::is_draft(&self.tx, bucket, &inode)?;
        Ok(inode.object().map(|object| (object.clone(), is_draft)))
    }

    /// A dentry that moves: if it is a file's, versions are told.
    fn moved_file(
        &mut self,
        bucket: BucketId,
        from: (DirId, &[u8]),
        to: (DirId, &[u8]),
        dentry: Dentry,
        now: Moment,
    ) -> Step<Dentry> {
        let Some((mut object, is_draft)) = self.file_of(bucket, &dentry)? else {
            return Ok(dentry);
        };
        if let Dentry::Inode(inode) = &dentry {
            self.check_move(bucket, inode)?;
        }
        self.leave(bucket, from, &object, &Leaves { is_draft, is_replaced: false }, now)?;
        Ok(match dentry {
            Dentry::File(_) => {
                self.arrive(bucket, to, None, &mut object, now)?;
                Dentry::File(object)
            }
            Dentry::Inode(inode) => {
                self.arrive(bucket, to, Some(inode.ino), &mut object, now)?;
                Dentry::Inode(Inode { what: What::File(object), ..inode })
            }
            other => other,
        })
    }

    /// Puts a moved node where it is from now on.
    fn settle_at(
        &mut self,
        bucket: BucketId,
        dir: DirId,
        stored: &[u8],
        dentry: Dentry,
        now: Moment,
    ) -> Step<()> {
        let dentry = match dentry {
            Dentry::Directory(mut found) => {
                found.attrs.changed = now;
                found.row.sequence = self.sequence;
                self.set_name(bucket, Ino(found.row.id.0), dir, stored)?;
                Dentry::Directory(found)
            }
            Dentry::Inode(mut inode) => {
                inode.attrs.changed = now;
                self.set_name(bucket, inode.ino, dir, stored)?;
                Dentry::Inode(inode)
            }
            Dentry::Link(ino) => {
                let mut inode = inodes::linked(&self.tx, bucket, ino)?;
                inode.attrs.changed = now;
                self.set_place(bucket, ino, &Place::Own(inode))?;
                Dentry::Link(ino)
            }
            // Nobody knows it by number.
            unknown @ (Dentry::Dir(_) | Dentry::File(_)) => unknown,
        };
        self.set_dentry(bucket, dir, stored, &dentry)
    }

    fn exchange(
        &mut self,
        bucket: BucketId,
        (from, from_dir): (&(Ino, Vec<u8>), DirId),
        source: Named,
        (to, to_dir): (&(Ino, Vec<u8>), DirId),
        target: Named,
        now: Moment,
    ) -> Step<()> {
        if target.is_dir() {
            let Some(ino) = target.ino() else { return Err(corrupt("a directory without id")) };
            if inodes::is_below(&self.tx, bucket, from_dir, DirId(ino.0))? {
                return Err(PosixError::Invalid.into());
            }
        }
        let (source_is_dir, target_is_dir) = (source.is_dir(), target.is_dir());
        let to_source = stored_as(&plain(&target.stored), source_is_dir);
        let to_target = stored_as(&plain(&source.stored), target_is_dir);
        self.touch_name(bucket, from_dir, &source.stored)?;
        self.touch_name(bucket, to_dir, &target.stored)?;
        self.drop_dentry(bucket, from_dir, &source.stored)?;
        self.drop_dentry(bucket, to_dir, &target.stored)?;
        // A name that is hidden, or hides another, changes kind: then it might meet that one.
        for (dir, stored) in [(to_dir, &to_source), (from_dir, &to_target)] {
            if self.tx.get(rows::TREE, &rows::dentry(bucket, dir, stored))?.is_some() {
                return Err(PosixError::Exists.into());
            }
        }
        self.settle_at(bucket, to_dir, &to_source, source.dentry, now)?;
        self.settle_at(bucket, from_dir, &to_target, target.dentry, now)?;
        let moved = i64::from(source_is_dir) - i64::from(target_is_dir);
        self.change_dir(bucket, from.0, (0, -moved), now)?;
        self.change_dir(bucket, to.0, (0, moved), now)?;
        if source_is_dir || target_is_dir {
            self.walk_again(bucket)?;
        }
        self.touch_name(bucket, from_dir, &to_target)?;
        self.touch_name(bucket, to_dir, &to_source)
    }
}

/// A stored name without the sign of a directory.
fn plain(stored: &[u8]) -> Vec<u8> {
    stored.strip_suffix(b"/").unwrap_or(stored).to_vec()
}

/// What is made in a directory of this bit gets its group, and directories the bit.
const SET_GROUP: u32 = 0o2000;

/// Twelve bits of permissions.
pub(super) fn check_mode(mode: u32) -> Result<(), PosixError> {
    if mode & !0o7777 == 0 { Ok(()) } else { Err(PosixError::Invalid) }
}

fn check_special(special: &Special) -> Result<(), PosixError> {
    match special {
        Special::Symlink(target) => match target.len() {
            0 => Err(PosixError::NotFound),
            1..=limits::SYMLINK_BYTES_MAX => Ok(()),
            _ => Err(PosixError::NameTooLong),
        },
        _ => Ok(()),
    }
}
