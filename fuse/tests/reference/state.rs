//! Every rule of POSIX for files, in memory: a pure machine. Commands carry time and name; so a log
//! of them gives the same files again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nexusgrid_fuse::volume::{
    Attributes, Cookie, Handle, Ino, Kind, LockKind, LockOwner, LockRange, OpenFile, OpenFlags,
    ROOT, Timestamp,
};
use nexusgrid_fuse::{Outcome, VolumeError};
use serde::{Deserialize, Serialize};

use super::acl::{self, List};
use super::locks::Locks;
use super::pages::Pages;

const LINKS_MAX: u32 = 65_000;
const SIZE_MAX: u64 = i64::MAX as u64;
const ANSWERS_KEPT: usize = 4096;
const SGID: u16 = 0o2000;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub number: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Time {
    Keep,
    Now,
    At(Timestamp),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    Set {
        ino: Ino,
        permissions: Option<u16>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Time,
        modified: Time,
        changed: Option<Timestamp>,
    },
    Make {
        parent: Ino,
        name: Vec<u8>,
        kind: Kind,
        permissions: u16,
        umask: u16,
        device: u32,
    },
    Symlink {
        parent: Ino,
        name: Vec<u8>,
        target: Vec<u8>,
    },
    Unlink {
        parent: Ino,
        name: Vec<u8>,
    },
    Rmdir {
        parent: Ino,
        name: Vec<u8>,
    },
    Rename {
        from: (Ino, Vec<u8>),
        to: (Ino, Vec<u8>),
        replace: bool,
        exchange: bool,
    },
    Link {
        ino: Ino,
        parent: Ino,
        name: Vec<u8>,
    },
    Open {
        ino: Ino,
        flags: OpenFlags,
        handle: Handle,
    },
    Create {
        parent: Ino,
        name: Vec<u8>,
        permissions: u16,
        umask: u16,
        flags: OpenFlags,
        handle: Handle,
    },
    Release {
        handle: Handle,
        flock: Option<u64>,
    },
    Write {
        ino: Ino,
        offset: u64,
        data: Vec<u8>,
    },
    Clear {
        ino: Ino,
        offset: u64,
        length: u64,
        keep_size: bool,
    },
    Grow {
        ino: Ino,
        size: u64,
    },
    Copy {
        from: (Ino, u64),
        to: (Ino, u64),
        length: u64,
    },
    SetXattr {
        ino: Ino,
        name: Vec<u8>,
        value: Vec<u8>,
        create: bool,
        replace: bool,
    },
    RemoveXattr {
        ino: Ino,
        name: Vec<u8>,
    },
    Lock {
        ino: Ino,
        owner: u64,
        handle: Handle,
        first: u64,
        last: u64,
        exclusive: Option<bool>,
    },
    UnlockAll {
        ino: Ino,
        owner: u64,
    },
    Resume {
        open: Vec<OpenFile>,
    },
}

/// What a command gives: an inode to show, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Ino(Ino),
    Number(u64),
    Done,
}

enum Content {
    File(Pages),
    Directory {
        parent: Ino,
        names: BTreeMap<Vec<u8>, (Ino, Cookie)>,
        order: BTreeMap<Cookie, Vec<u8>>,
        next: u64,
    },
    Target(Vec<u8>),
    Nothing,
}

struct Inode {
    attributes: Attributes,
    content: Content,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    locks: Locks,
    handles: BTreeSet<Handle>,
}

pub struct State {
    inodes: BTreeMap<Ino, Inode>,
    handles: BTreeMap<Handle, (Ino, OpenFlags)>,
    next: u64,
    answers: BTreeMap<u64, Outcome<Answer>>,
    answered: VecDeque<u64>,
}

impl State {
    pub fn new(now: Timestamp) -> Self {
        let mut state = Self {
            inodes: BTreeMap::new(),
            handles: BTreeMap::new(),
            next: ROOT.0,
            answers: BTreeMap::new(),
            answered: VecDeque::new(),
        };
        let who = Who { uid: 0, gid: 0, pid: 0, number: 0 };
        state.add(&who, now, Kind::Directory, 0o755, ROOT);
        state
    }

    /// The answer that a request has had.
    pub fn answered(&self, number: u64) -> Option<Outcome<Answer>> {
        self.answers.get(&number).copied()
    }

    pub fn apply(&mut self, who: &Who, now: Timestamp, command: Command) -> Outcome<Answer> {
        let answer = self.decide(who, now, command);
        if self.answers.insert(who.number, answer).is_none() {
            self.answered.push_back(who.number);
            if self.answered.len() > ANSWERS_KEPT
                && let Some(oldest) = self.answered.pop_front()
            {
                self.answers.remove(&oldest);
            }
        }
        answer
    }

    fn decide(&mut self, who: &Who, now: Timestamp, command: Command) -> Outcome<Answer> {
        match command {
            Command::Set { ino, permissions, uid, gid, size, accessed, modified, changed } => {
                let inode = self.inode_mut(ino)?;
                if let Some(size) = size {
                    if size > SIZE_MAX {
                        return Err(VolumeError::TooLarge);
                    }
                    let Content::File(pages) = &mut inode.content else {
                        return Err(VolumeError::Invalid);
                    };
                    if size < inode.attributes.size {
                        pages.truncate(size);
                    }
                    inode.attributes.size = size;
                    inode.attributes.modified = now;
                }
                if let Some(permissions) = permissions {
                    inode.attributes.permissions = permissions;
                    if let Some(list) = inode.xattrs.get_mut(acl::ACCESS) {
                        let mut changed = List::parse(list)?;
                        changed.set_mode(permissions);
                        *list = changed.bytes();
                    }
                }
                inode.attributes.uid = uid.unwrap_or(inode.attributes.uid);
                inode.attributes.gid = gid.unwrap_or(inode.attributes.gid);
                for (time, place) in [
                    (accessed, &mut inode.attributes.accessed),
                    (modified, &mut inode.attributes.modified),
                ] {
                    match time {
                        Time::Keep => {}
                        Time::Now => *place = now,
                        Time::At(time) => *place = time,
                    }
                }
                inode.attributes.changed = changed.unwrap_or(now);
                Ok(Answer::Ino(ino))
            }
            Command::Make { parent, name, kind, permissions, umask, device } => {
                let ino = self.make(who, now, (parent, &name), kind, permissions, umask)?;
                self.inode_mut(ino)?.attributes.device = device;
                Ok(Answer::Ino(ino))
            }
            Command::Symlink { parent, name, target } => {
                let ino = self.make(who, now, (parent, &name), Kind::Symlink, 0o777, 0)?;
                let inode = self.inode_mut(ino)?;
                inode.attributes.size = target.len() as u64;
                inode.content = Content::Target(target);
                Ok(Answer::Ino(ino))
            }
            Command::Unlink { parent, name } => {
                let ino = self.child(parent, &name)?;
                if self.inode(ino)?.attributes.kind == Kind::Directory {
                    return Err(VolumeError::IsDirectory);
                }
                self.take_name(now, parent, &name)?;
                self.unlinked(now, ino, 1);
                Ok(Answer::Done)
            }
            Command::Rmdir { parent, name } => {
                let ino = self.child(parent, &name)?;
                self.must_be_empty(ino)?;
                self.take_name(now, parent, &name)?;
                self.unlinked(now, ino, 2);
                Ok(Answer::Done)
            }
            Command::Rename { from, to, replace, exchange } => {
                self.rename(now, (from.0, &from.1), (to.0, &to.1), replace, exchange)?;
                Ok(Answer::Done)
            }
            Command::Link { ino, parent, name } => {
                let attributes = &self.inode(ino)?.attributes;
                match attributes.kind {
                    Kind::Directory => return Err(VolumeError::NotPermitted),
                    _ if attributes.links == 0 => return Err(VolumeError::NotFound),
                    _ if attributes.links >= LINKS_MAX => return Err(VolumeError::TooManyLinks),
                    _ => {}
                }
                self.give_name(now, parent, &name, ino)?;
                let inode = self.inode_mut(ino)?;
                inode.attributes.links += 1;
                inode.attributes.changed = now;
                Ok(Answer::Ino(ino))
            }
            Command::Open { ino, flags, handle } => self.open(now, ino, flags, handle),
            Command::Create { parent, name, permissions, umask, flags, handle } => {
                let ino = match self.child(parent, &name) {
                    Ok(_) if flags.exclusive() => return Err(VolumeError::Exists),
                    Ok(ino) => ino,
                    Err(VolumeError::NotFound) => {
                        self.make(who, now, (parent, &name), Kind::File, permissions, umask)?
                    }
                    Err(error) => return Err(error),
                };
                self.open(now, ino, flags, handle)
            }
            Command::Release { handle, flock } => {
                let (ino, _) = self.handles.remove(&handle).ok_or(VolumeError::BadHandle)?;
                let inode = self.inode_mut(ino)?;
                inode.handles.remove(&handle);
                inode.locks.close(handle);
                if let Some(owner) = flock {
                    inode.locks.release(LockOwner(owner));
                }
                self.drop_if_unused(ino);
                Ok(Answer::Done)
            }
            Command::Write { ino, offset, data } => {
                let end = offset.checked_add(data.len() as u64).filter(|end| *end <= SIZE_MAX);
                let end = end.ok_or(VolumeError::TooLarge)?;
                let inode = self.file(ino)?;
                inode.pages()?.write(offset, &data);
                inode.attributes.size = inode.attributes.size.max(end);
                inode.written(now);
                Ok(Answer::Number(data.len() as u64))
            }
            Command::Clear { ino, offset, length, keep_size } => {
                let end = offset.checked_add(length).filter(|end| *end <= SIZE_MAX);
                let end = end.ok_or(VolumeError::TooLarge)?;
                let inode = self.file(ino)?;
                inode.pages()?.clear(offset, end);
                if !keep_size {
                    inode.attributes.size = inode.attributes.size.max(end);
                }
                inode.written(now);
                Ok(Answer::Done)
            }
            Command::Grow { ino, size } => {
                let inode = self.file(ino)?;
                if size > inode.attributes.size {
                    inode.attributes.size = size;
                    inode.written(now);
                }
                Ok(Answer::Done)
            }
            Command::Copy { from, to, length } => {
                let source = self.file(from.0)?;
                let length = length.min(source.attributes.size.saturating_sub(from.1));
                let bytes = source.pages()?.read(from.1, length);
                let target = self.file(to.0)?;
                target.pages()?.write(to.1, &bytes);
                target.attributes.size = target.attributes.size.max(to.1 + length);
                target.written(now);
                Ok(Answer::Number(length))
            }
            Command::SetXattr { ino, name, value, create, replace } => {
                let inode = self.inode_mut(ino)?;
                let there = inode.xattrs.contains_key(&name);
                if create && there {
                    return Err(VolumeError::Exists);
                }
                if replace && !there {
                    return Err(VolumeError::NoAttribute);
                }
                inode.attributes.changed = now;
                if name == acl::ACCESS {
                    let list = List::parse(&value)?;
                    inode.attributes.permissions =
                        inode.attributes.permissions & !0o777 | list.mode();
                    if list.is_mode() {
                        inode.xattrs.remove(&name);
                        return Ok(Answer::Done);
                    }
                } else if name == acl::DEFAULT {
                    List::parse(&value)?;
                    if inode.attributes.kind != Kind::Directory {
                        return Err(VolumeError::Denied);
                    }
                }
                inode.xattrs.insert(name, value);
                Ok(Answer::Done)
            }
            Command::RemoveXattr { ino, name } => {
                let inode = self.inode_mut(ino)?;
                inode.xattrs.remove(&name).ok_or(VolumeError::NoAttribute)?;
                inode.attributes.changed = now;
                Ok(Answer::Done)
            }
            Command::Lock { ino, owner, handle, first, last, exclusive } => {
                let inode = self.inode_mut(ino)?;
                let (owner, range) = (LockOwner(owner), LockRange { first, last });
                let kind =
                    exclusive.map(
                        |exclusive| if exclusive { LockKind::Exclusive } else { LockKind::Shared },
                    );
                if kind.is_some_and(|kind| inode.locks.conflict(owner, range, kind).is_some()) {
                    return Err(VolumeError::Locked);
                }
                inode.locks.set(owner, range, kind, (who.pid, handle));
                Ok(Answer::Done)
            }
            Command::UnlockAll { ino, owner } => {
                self.inode_mut(ino)?.locks.release(LockOwner(owner));
                Ok(Answer::Done)
            }
            Command::Resume { open } => {
                let known: BTreeSet<Handle> = open.iter().map(|file| file.handle).collect();
                let void: Vec<Handle> =
                    self.handles.keys().filter(|handle| !known.contains(handle)).copied().collect();
                for handle in void {
                    if let Some((ino, _)) = self.handles.remove(&handle) {
                        self.inode_mut(ino)?.handles.remove(&handle);
                        self.drop_if_unused(ino);
                    }
                }
                for file in open {
                    self.reopen(file.ino, file.flags, file.handle);
                }
                Ok(Answer::Done)
            }
        }
    }

    /// The file is open under this handle, too; not if it is gone, for then it was released.
    pub fn reopen(&mut self, ino: Ino, flags: OpenFlags, handle: Handle) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.handles.insert(handle);
            self.handles.insert(handle, (ino, flags));
        }
    }

    fn inode(&self, ino: Ino) -> Outcome<&Inode> {
        self.inodes.get(&ino).ok_or(VolumeError::Stale)
    }

    fn inode_mut(&mut self, ino: Ino) -> Outcome<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or(VolumeError::Stale)
    }

    fn file(&mut self, ino: Ino) -> Outcome<&mut Inode> {
        let inode = self.inode_mut(ino)?;
        if inode.attributes.kind == Kind::File { Ok(inode) } else { Err(VolumeError::Invalid) }
    }

    pub fn attributes(&self, ino: Ino) -> Outcome<Attributes> {
        let inode = self.inode(ino)?;
        let blocks = if let Content::File(pages) = &inode.content { pages.blocks() } else { 0 };
        Ok(Attributes { blocks, ..inode.attributes })
    }

    pub fn child(&self, parent: Ino, name: &[u8]) -> Outcome<Ino> {
        match &self.inode(parent)?.content {
            Content::Directory { names, .. } => {
                names.get(name).map(|found| found.0).ok_or(VolumeError::NotFound)
            }
            _ => Err(VolumeError::NotDirectory),
        }
    }

    pub fn target(&self, ino: Ino) -> Outcome<Vec<u8>> {
        match &self.inode(ino)?.content {
            Content::Target(target) => Ok(target.clone()),
            _ => Err(VolumeError::Invalid),
        }
    }

    pub fn read(&self, ino: Ino, offset: u64, length: u64) -> Outcome<Vec<u8>> {
        let inode = self.inode(ino)?;
        let Content::File(pages) = &inode.content else { return Err(VolumeError::Invalid) };
        Ok(pages.read(offset, length.min(inode.attributes.size.saturating_sub(offset))))
    }

    pub fn seek(&self, ino: Ino, offset: u64, data: bool) -> Outcome<u64> {
        let inode = self.inode(ino)?;
        let Content::File(pages) = &inode.content else { return Err(VolumeError::Invalid) };
        let size = inode.attributes.size;
        if offset >= size {
            return Err(VolumeError::NoData);
        }
        if data {
            pages.next_data(offset).filter(|found| *found < size).ok_or(VolumeError::NoData)
        } else {
            Ok(pages.next_hole(offset).min(size))
        }
    }

    pub fn list(
        &self,
        ino: Ino,
        after: Cookie,
        max: usize,
    ) -> Outcome<Vec<(Vec<u8>, Ino, Cookie)>> {
        let Content::Directory { names, order, .. } = &self.inode(ino)?.content else {
            return Err(VolumeError::NotDirectory);
        };
        Ok(order
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .take(max)
            .filter_map(|(cookie, name)| Some((name.clone(), names.get(name)?.0, *cookie)))
            .collect())
    }

    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Outcome<Vec<u8>> {
        self.inode(ino)?.xattrs.get(name).cloned().ok_or(VolumeError::NoAttribute)
    }

    pub fn xattrs(&self, ino: Ino) -> Outcome<Vec<Vec<u8>>> {
        Ok(self.inode(ino)?.xattrs.keys().cloned().collect())
    }

    pub fn conflict(
        &self,
        ino: Ino,
        owner: LockOwner,
        range: LockRange,
        kind: LockKind,
    ) -> Outcome<Option<nexusgrid_fuse::volume::Conflict>> {
        Ok(self.inode(ino)?.locks.conflict(owner, range, kind))
    }

    pub fn handle(&self, handle: Handle) -> Outcome<OpenFlags> {
        self.handles.get(&handle).map(|open| open.1).ok_or(VolumeError::BadHandle)
    }

    fn add(&mut self, who: &Who, now: Timestamp, kind: Kind, permissions: u16, parent: Ino) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        let content = match kind {
            Kind::File => Content::File(Pages::default()),
            Kind::Directory => Content::Directory {
                parent,
                names: BTreeMap::new(),
                order: BTreeMap::new(),
                next: Cookie::FIRST.0,
            },
            _ => Content::Nothing,
        };
        let attributes = Attributes {
            ino,
            kind,
            permissions,
            size: 0,
            blocks: 0,
            links: if kind == Kind::Directory { 2 } else { 1 },
            uid: who.uid,
            gid: who.gid,
            device: 0,
            accessed: now,
            modified: now,
            changed: now,
        };
        let (xattrs, locks, handles) = (BTreeMap::new(), Locks::default(), BTreeSet::new());
        self.inodes.insert(ino, Inode { attributes, content, xattrs, locks, handles });
        ino
    }

    fn make(
        &mut self,
        who: &Who,
        now: Timestamp,
        at: (Ino, &[u8]),
        kind: Kind,
        permissions: u16,
        umask: u16,
    ) -> Outcome<Ino> {
        let parent = self.inode(at.0)?;
        if parent.attributes.kind != Kind::Directory {
            return Err(VolumeError::NotDirectory);
        }
        if parent.attributes.links == 0 {
            return Err(VolumeError::NotFound);
        }
        if self.child(at.0, at.1).is_ok() {
            return Err(VolumeError::Exists);
        }
        let parent = self.inode(at.0)?;
        let (group, sgid) = (parent.attributes.gid, parent.attributes.permissions & SGID != 0);
        let default = parent.xattrs.get(acl::DEFAULT).filter(|_| kind != Kind::Symlink);
        let default = default.map(|bytes| List::parse(bytes)).transpose()?;
        let mut permissions = permissions;
        if default.is_none() {
            permissions &= !(umask & 0o777);
        }
        if sgid && kind == Kind::Directory {
            permissions |= SGID;
        }
        let ino = self.add(who, now, kind, permissions, at.0);
        let inode = self.inode_mut(ino)?;
        if sgid {
            inode.attributes.gid = group;
        }
        if let Some(default) = default {
            let list = default.inherited(permissions);
            inode.attributes.permissions = permissions & !0o777 | list.mode();
            if !list.is_mode() {
                inode.xattrs.insert(acl::ACCESS.to_vec(), list.bytes());
            }
            if kind == Kind::Directory {
                inode.xattrs.insert(acl::DEFAULT.to_vec(), default.bytes());
            }
        }
        self.give_name(now, at.0, at.1, ino)?;
        Ok(ino)
    }

    fn open(
        &mut self,
        now: Timestamp,
        ino: Ino,
        flags: OpenFlags,
        handle: Handle,
    ) -> Outcome<Answer> {
        let inode = self.inode_mut(ino)?;
        if flags.truncates()
            && let Content::File(pages) = &mut inode.content
        {
            pages.truncate(0);
            inode.attributes.size = 0;
            inode.written(now);
        }
        inode.handles.insert(handle);
        self.handles.insert(handle, (ino, flags));
        Ok(Answer::Ino(ino))
    }

    /// A name of a directory counts as a link of its parent.
    fn give_name(&mut self, now: Timestamp, parent: Ino, name: &[u8], child: Ino) -> Outcome<()> {
        let directory = self.inode(child)?.attributes.kind == Kind::Directory;
        let inode = self.inode_mut(parent)?;
        if inode.attributes.links == 0 {
            return Err(VolumeError::NotFound);
        }
        let Content::Directory { names, order, next, .. } = &mut inode.content else {
            return Err(VolumeError::NotDirectory);
        };
        if names.contains_key(name) {
            return Err(VolumeError::Exists);
        }
        let cookie = Cookie(*next);
        *next += 1;
        names.insert(name.to_vec(), (child, cookie));
        order.insert(cookie, name.to_vec());
        inode.attributes.links += u32::from(directory);
        inode.written(now);
        if let Content::Directory { parent: up, .. } = &mut self.inode_mut(child)?.content {
            *up = parent;
        }
        Ok(())
    }

    fn take_name(&mut self, now: Timestamp, parent: Ino, name: &[u8]) -> Outcome<Ino> {
        let child = self.child(parent, name)?;
        let directory = self.inode(child)?.attributes.kind == Kind::Directory;
        let inode = self.inode_mut(parent)?;
        if let Content::Directory { names, order, .. } = &mut inode.content
            && let Some((_, cookie)) = names.remove(name)
        {
            order.remove(&cookie);
        }
        inode.attributes.links -= u32::from(directory);
        inode.written(now);
        Ok(child)
    }

    fn must_be_empty(&self, ino: Ino) -> Outcome<()> {
        match &self.inode(ino)?.content {
            Content::Directory { names, .. } if names.is_empty() => Ok(()),
            Content::Directory { .. } => Err(VolumeError::NotEmpty),
            _ => Err(VolumeError::NotDirectory),
        }
    }

    fn unlinked(&mut self, now: Timestamp, ino: Ino, links: u32) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.attributes.links = inode.attributes.links.saturating_sub(links);
            inode.attributes.changed = now;
        }
        self.drop_if_unused(ino);
    }

    fn drop_if_unused(&mut self, ino: Ino) {
        if self
            .inodes
            .get(&ino)
            .is_some_and(|inode| inode.attributes.links == 0 && inode.handles.is_empty())
        {
            self.inodes.remove(&ino);
        }
    }

    fn within(&self, mut directory: Ino, ancestor: Ino) -> bool {
        loop {
            if directory == ancestor {
                return true;
            }
            match self.inodes.get(&directory).map(|inode| &inode.content) {
                Some(Content::Directory { parent, .. }) if *parent != directory => {
                    directory = *parent
                }
                _ => return false,
            }
        }
    }

    fn rename(
        &mut self,
        now: Timestamp,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        replace: bool,
        exchange: bool,
    ) -> Outcome<()> {
        let moved = self.child(from.0, from.1)?;
        let moved_directory = self.inode(moved)?.attributes.kind == Kind::Directory;
        let there = match self.child(to.0, to.1) {
            Ok(ino) => Some(ino),
            Err(VolumeError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if moved_directory && self.within(to.0, moved) {
            return Err(VolumeError::Invalid);
        }
        if exchange {
            let there = there.ok_or(VolumeError::NotFound)?;
            let directory = self.inode(there)?.attributes.kind == Kind::Directory;
            if directory && self.within(from.0, there) {
                return Err(VolumeError::Invalid);
            }
            if moved != there {
                self.take_name(now, from.0, from.1)?;
                self.take_name(now, to.0, to.1)?;
                self.give_name(now, from.0, from.1, there)?;
                self.give_name(now, to.0, to.1, moved)?;
                self.inode_mut(there)?.attributes.changed = now;
                self.inode_mut(moved)?.attributes.changed = now;
            }
            return Ok(());
        }
        if let Some(there) = there {
            if !replace {
                return Err(VolumeError::Exists);
            }
            // Two names of one file: both stay.
            if there == moved {
                return Ok(());
            }
            match (moved_directory, self.inode(there)?.attributes.kind == Kind::Directory) {
                (true, true) => self.must_be_empty(there)?,
                (true, false) => return Err(VolumeError::NotDirectory),
                (false, true) => return Err(VolumeError::IsDirectory),
                (false, false) => {}
            }
            self.take_name(now, to.0, to.1)?;
            self.unlinked(now, there, if moved_directory { 2 } else { 1 });
        } else if self.inode(to.0)?.attributes.links == 0 {
            return Err(VolumeError::NotFound);
        }
        self.take_name(now, from.0, from.1)?;
        self.give_name(now, to.0, to.1, moved)?;
        self.inode_mut(moved)?.attributes.changed = now;
        Ok(())
    }
}

impl Inode {
    fn pages(&mut self) -> Outcome<&mut Pages> {
        match &mut self.content {
            Content::File(pages) => Ok(pages),
            _ => Err(VolumeError::Invalid),
        }
    }

    fn written(&mut self, now: Timestamp) {
        self.attributes.modified = now;
        self.attributes.changed = now;
    }
}
