//! Mounts and clients of S3 on one tree, against a tree in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use nexusgrid_codec::id::{Epoch, PgId};
use nexusgrid_env::NodeId;
use proptest::prelude::*;

use super::posix_alone::Alone;
use super::posix_ops::{KEYS, NAMES, Op, ops};
use super::posix_tree::{Entry, Id, Kind, Tree, entry};
use super::support::*;
use crate::namespace::types::*;

pub(super) struct Run {
    pub(super) group: Group,
    pub(super) tree: Tree,
    pub(super) numbers: Vec<Ino>,
    pub(super) mount: MountId,
    /// Whether the bucket keeps versions.
    pub(super) has_versions: bool,
    /// Looks at this snapshot.
    pub(super) past: Option<SnapshotId>,
    /// The mount has the bucket to itself: what it knows.
    pub(super) alone: Option<Alone>,
    pub(super) fill: u8,
}

impl Run {
    pub(super) fn new() -> Run {
        let mut run = Run {
            group: Group::new(),
            tree: Tree::new(),
            numbers: vec![],
            mount: MountId(0),
            has_versions: false,
            past: None,
            alone: None,
            fill: 0,
        };
        run.open_mount();
        run.posix(PosixOp::Root).unwrap();
        run
    }

    pub(super) fn open_mount(&mut self) {
        let (node, lease_ms, now_ms) = (NodeId(1), 1_000_000, 0);
        let command =
            NamespaceCommand::OpenMount { again: None, bucket: BUCKET, node, lease_ms, now_ms };
        let NamespaceOk::Mount(mount) = self.group.ok(command) else { panic!("no mount") };
        self.mount = mount.id;
        let command = NamespaceCommand::ReserveInos { mount: self.mount, used_up: None };
        let NamespaceOk::Reserved(Ino(first)) = self.group.ok(command) else { panic!("none") };
        self.numbers = (first..first + 4_096).rev().map(Ino).collect();
    }

    pub(super) fn now(&self) -> Moment {
        Moment::from_ms(self.group.store.index)
    }

    pub(super) fn posix(&mut self, op: PosixOp) -> Result<PosixDone, PosixError> {
        self.posix_with(vec![], op)
    }

    pub(super) fn posix_with(
        &mut self,
        blocks: Vec<NewBlock>,
        op: PosixOp,
    ) -> Result<PosixDone, PosixError> {
        if self.alone.is_some() {
            return self.step_alone(blocks, op);
        }
        let (mount, writer) = (self.mount, self.group.session);
        let now = self.now();
        let command = NamespaceCommand::Posix { mount, writer, blocks, ops: vec![op], now };
        let NamespaceOk::Posix(mut results) = self.group.ok(command) else { panic!("no results") };
        match results.pop().unwrap() {
            Ok(done) => Ok(done),
            Err(NamespaceError::Posix(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn ask(&self, query: PosixQuery) -> NamespaceAnswer {
        if let Some(snapshot) = self.past {
            let query = NamespaceQuery::Past { bucket: BUCKET, snapshot, query };
            return self.group.ask(query).unwrap();
        }
        match &self.alone {
            Some(alone) => alone.ask(query),
            None => self.group.ask(NamespaceQuery::Posix { bucket: BUCKET, query }).unwrap(),
        }
    }

    /// As far as the path leads through directories; each gets a number on the way.
    fn dir(&mut self, path: &[usize]) -> Id {
        let mut at = 0;
        for name in path {
            match self.tree.named(at, NAMES[*name]) {
                Some((_, id)) if self.tree.is_dir(id) => {
                    self.number(at, *name);
                    at = id;
                }
                _ => break,
            }
        }
        at
    }

    pub(super) fn ino(&self, id: Id) -> Ino {
        self.tree.0[id].ino.unwrap()
    }

    /// The node that a name leads to, with its number.
    pub(super) fn number(&mut self, dir: Id, name: usize) -> Option<Id> {
        let parent = self.ino(dir);
        let names = vec![NAMES[name].to_vec()];
        let done = self.posix(PosixOp::Adopt { parent, names }).unwrap();
        let PosixDone::Nodes(nodes) = done else { panic!("no nodes") };
        let found = self.tree.named(dir, NAMES[name]).map(|(_, id)| id);
        match (&nodes[0], found) {
            (Some(node), Some(id)) => {
                let before = self.tree.0[id].ino;
                assert!(before.is_none() || before == node.ino, "{before:?}, {node:?}");
                self.tree.0[id].ino = node.ino;
            }
            (None, None) => {}
            (node, found) => panic!("{node:?} instead of {found:?}"),
        }
        found
    }

    pub(super) fn key(&self) -> WrappedKey {
        let wrapped = Bytes::from(vec![self.fill]);
        WrappedKey { bucket: BUCKET, version: 1, wrapped }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.fill = self.fill.wrapping_add(1).max(1);
        (0..len).map(|at| self.fill.wrapping_add(at as u8).max(1)).collect()
    }

    pub(super) fn step(&mut self, op: &Op) {
        if matches!(op, Op::NewMount | Op::Put { .. } | Op::Delete { .. } | Op::Copy { .. }) {
            self.with_others();
        }
        match op {
            Op::Make { dir, name, what, hold } => self.make(dir, *name, *what, *hold),
            Op::Unlink { dir, name } => {
                let dir = self.dir(dir);
                let (parent, name) = (self.ino(dir), NAMES[*name]);
                let found = self.tree.named(dir, name);
                let wanted = match &found {
                    None => Err(PosixError::NotFound),
                    Some((_, id)) if self.tree.is_dir(*id) => Err(PosixError::IsDirectory),
                    Some(_) => Ok(PosixDone::Done),
                };
                let done = self.posix(PosixOp::Unlink { parent, name: name.to_vec() });
                assert_eq!(done, wanted);
                if let (Ok(_), Some((stored, _))) = (done, found) {
                    self.tree.drop_name(dir, &stored);
                }
            }
            Op::Rmdir { dir, name } => {
                let dir = self.dir(dir);
                let (parent, name) = (self.ino(dir), NAMES[*name]);
                let found = self.tree.named(dir, name);
                let wanted = match &found {
                    None => Err(PosixError::NotFound),
                    Some((_, id)) if !self.tree.is_dir(*id) => Err(PosixError::NotDirectory),
                    Some((_, id)) if !self.tree.children(*id).is_empty() => {
                        Err(PosixError::NotEmpty)
                    }
                    Some(_) => Ok(PosixDone::Done),
                };
                let done = self.posix(PosixOp::Rmdir { parent, name: name.to_vec() });
                assert_eq!(done, wanted);
                if let (Ok(_), Some((stored, _))) = (done, found) {
                    self.tree.drop_name(dir, &stored);
                }
            }
            Op::Rename { from, to, mode } => self.rename(from, to, *mode),
            Op::Link { of, to } => self.link(of, to),
            Op::Write { dir, name, at, len, blocks, append } => {
                self.write(dir, *name, *at, *len, (*blocks, *append));
            }
            Op::CopyRange { from, at, to, to_at, len } => {
                self.copy_range(from, *at, to, *to_at, *len);
            }
            Op::Replace { dir, name, len, blocks } => {
                let Some(id) = self.file(dir, *name) else { return };
                let bytes = self.bytes(*len);
                let (blocks, content) = self.group.content(&bytes, *blocks);
                let ino = self.ino(id);
                self.posix_with(blocks, PosixOp::Replace { ino, content, over: None }).unwrap();
                self.tree.0[id].kind = Kind::File(bytes);
            }
            Op::Resize { dir, name, size } => {
                let Some(id) = self.file(dir, *name) else { return };
                let (ino, key) = (self.ino(id), self.key());
                let done = self.posix(PosixOp::Resize {
                    ino,
                    size: *size as u64,
                    key,
                    change: AttrsChange::default(),
                });
                if done != Err(PosixError::ReplaceInstead) {
                    done.unwrap();
                    let Kind::File(bytes) = &mut self.tree.0[id].kind else { panic!("no file") };
                    bytes.resize(*size, 0);
                }
            }
            Op::Punch { dir, name, at, len } => {
                let Some(id) = self.file(dir, *name) else { return };
                let (ino, key) = (self.ino(id), self.key());
                let (offset, len) = (*at as u64, *len as u64);
                let done = self.posix(PosixOp::Punch { ino, offset, len, key });
                if done != Err(PosixError::ReplaceInstead) {
                    done.unwrap();
                    let Kind::File(bytes) = &mut self.tree.0[id].kind else { panic!("no file") };
                    let holes = bytes.iter_mut().skip(*at).take(len as usize);
                    holes.for_each(|byte| *byte = 0);
                }
            }
            Op::Mode { dir, name, mode } => {
                let dir = self.dir(dir);
                let Some(id) = self.number(dir, *name) else { return };
                let change = AttrsChange { mode: Some(*mode), ..AttrsChange::default() };
                self.posix(PosixOp::SetAttrs { ino: self.ino(id), change }).unwrap();
                self.tree.0[id].mode = Some(*mode);
                if let Kind::Dir { explicit, .. } = &mut self.tree.0[id].kind {
                    *explicit = true;
                }
            }
            Op::Xattr { dir, name, xattr, set, when } => {
                self.xattr(dir, *name, *xattr, *set, *when);
            }
            Op::Hold { dir, name } => {
                let Some(id) = self.file(dir, *name) else { return };
                self.posix(PosixOp::Hold { ino: self.ino(id) }).unwrap();
                self.tree.0[id].held = true;
            }
            Op::ReleaseAll => {
                let held: Vec<Id> =
                    (0..self.tree.0.len()).filter(|id| self.tree.0[*id].held).collect();
                for id in held {
                    self.posix(PosixOp::Release { ino: self.ino(id) }).unwrap();
                    self.tree.0[id].held = false;
                }
            }
            Op::NewMount => {
                let mount = self.mount;
                self.group.ok(NamespaceCommand::CloseMount { mount, now_ms: 5 });
                let refused =
                    self.group.apply(NamespaceCommand::ReserveInos { mount, used_up: None });
                assert_eq!(refused, Err(PosixError::MountEnded.into()));
                self.open_mount();
                self.group.free_all();
                for entry in &mut self.tree.0 {
                    entry.held = false;
                }
            }
            Op::Put { key, len, blocks } => {
                let bytes = self.bytes(*len);
                self.group.put(KEYS[*key], &bytes, *blocks, Precondition::None).unwrap();
                self.tree.put(KEYS[*key], bytes);
            }
            Op::Delete { key } => {
                self.group.delete(&[KEYS[*key]]).unwrap();
                self.tree.delete(KEYS[*key]);
            }
            Op::Copy { from, to } => self.copy(KEYS[*from], KEYS[*to]),
            Op::Free => self.group.free_all(),
        }
    }

    fn make(&mut self, dir: &[usize], name: usize, what: u8, hold: bool) {
        let dir = self.dir(dir);
        let (parent, name) = (self.ino(dir), NAMES[name].to_vec());
        let ino = self.numbers.pop().unwrap();
        let (what, kind) = match what {
            0 => {
                let kind = Kind::Dir { children: BTreeMap::new(), explicit: true };
                (NewNode::Directory, kind)
            }
            1 => {
                let target = b"over/there".to_vec();
                let special = Special::Symlink(target.clone());
                (NewNode::Special(special), Kind::Symlink(target))
            }
            _ => (NewNode::File, Kind::File(vec![])),
        };
        let is_dir = matches!(kind, Kind::Dir { .. });
        let is_there = self.tree.named(dir, &name).is_some();
        let make = PosixOp::Make {
            parent,
            name: name.clone(),
            ino,
            what,
            maker: Maker { mode: 0o666, uid: 7, gid: 8, umask: 0o027 },
            hold,
        };
        let done = self.posix(make);
        if is_there {
            assert_eq!(done, Err(PosixError::Exists));
            return;
        }
        let PosixDone::Node(node) = done.unwrap() else { panic!("no node") };
        assert_eq!(node.ino, Some(ino));
        let stored = if is_dir { [&name[..], b"/"].concat() } else { name };
        let held = hold && !is_dir;
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { 0o640 };
        let made = Entry { ino: Some(ino), held, mode: Some(mode), ..entry(kind) };
        self.tree.add(dir, stored, made);
        *self.tree.dir(dir).1 = true;
    }

    fn rename(&mut self, from: &(Vec<usize>, usize), to: &(Vec<usize>, usize), mode: u8) {
        let mode =
            [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][mode as usize];
        let (from_dir, to_dir) = (self.dir(&from.0), self.dir(&to.0));
        let (from_name, to_name) = (NAMES[from.1], NAMES[to.1]);
        let source = self.tree.named(from_dir, from_name);
        let target = self.tree.named(to_dir, to_name);
        let op = PosixOp::Rename {
            from: (self.ino(from_dir), from_name.to_vec()),
            to: (self.ino(to_dir), to_name.to_vec()),
            mode,
        };
        let done = self.posix(op);
        let Some((stored, id)) = source else {
            assert_eq!(done, Err(PosixError::NotFound));
            return;
        };
        let moves_dir = self.tree.is_dir(id);
        let under = |tree: &Tree, dir, id| tree.is_dir(id) && tree.is_below(dir, id);
        match target {
            None if mode == RenameMode::Exchange => {
                assert_eq!(done, Err(PosixError::NotFound));
            }
            _ if under(&self.tree, to_dir, id) => assert_eq!(done, Err(PosixError::Invalid)),
            Some(_) if self.has_versions && mode == RenameMode::Exchange => {
                assert_eq!(done, Err(PosixError::Invalid));
            }
            _ if self.has_versions && moves_dir && !self.tree.children(id).is_empty() => {
                assert_eq!(done, Err(PosixError::OneByOne));
            }
            None => {
                assert_eq!(done, Ok(PosixDone::Done));
                self.move_to(from_dir, &stored, to_dir, to_name);
            }
            Some(_) if mode == RenameMode::NoReplace => {
                assert_eq!(done, Err(PosixError::Exists));
            }
            Some((_, other))
                if mode == RenameMode::Exchange && under(&self.tree, from_dir, other) =>
            {
                assert_eq!(done, Err(PosixError::Invalid));
            }
            Some((other_stored, other)) if mode == RenameMode::Exchange => {
                // A file that a directory hides may be in the way.
                if done == Err(PosixError::Exists) {
                    return;
                }
                assert_eq!(done, Ok(PosixDone::Done));
                let other_is_dir = self.tree.is_dir(other);
                self.tree.dir(from_dir).0.remove(&stored);
                self.tree.dir(to_dir).0.remove(&other_stored);
                self.tree.dir(to_dir).0.insert(as_stored(to_name, moves_dir), id);
                self.tree.dir(from_dir).0.insert(as_stored(from_name, other_is_dir), other);
                *self.tree.dir(from_dir).1 = true;
                *self.tree.dir(to_dir).1 = true;
            }
            Some((_, other)) if other == id => assert_eq!(done, Ok(PosixDone::Done)),
            Some((other_stored, other)) => {
                let wanted = match (moves_dir, self.tree.is_dir(other)) {
                    (true, false) => Err(PosixError::NotDirectory),
                    (false, true) => Err(PosixError::IsDirectory),
                    (true, true) if !self.tree.children(other).is_empty() => {
                        Err(PosixError::NotEmpty)
                    }
                    _ => Ok(PosixDone::Done),
                };
                assert_eq!(done, wanted);
                if done.is_ok() {
                    self.tree.drop_name(to_dir, &other_stored);
                    self.move_to(from_dir, &stored, to_dir, to_name);
                }
            }
        }
    }

    fn move_to(&mut self, from: Id, stored: &[u8], to: Id, name: &[u8]) {
        let id = self.tree.dir(from).0.remove(stored).unwrap();
        let is_dir = self.tree.is_dir(id);
        self.tree.dir(to).0.insert(as_stored(name, is_dir), id);
        *self.tree.dir(from).1 = true;
        *self.tree.dir(to).1 = true;
    }

    fn link(&mut self, of: &(Vec<usize>, usize), to: &(Vec<usize>, usize)) {
        let from_dir = self.dir(&of.0);
        let Some(id) = self.number(from_dir, of.1) else { return };
        let to_dir = self.dir(&to.0);
        let name = NAMES[to.1];
        let (ino, parent) = (self.ino(id), self.ino(to_dir));
        let done = self.posix(PosixOp::Link { ino, parent, name: name.to_vec() });
        let is_file = matches!(self.tree.0[id].kind, Kind::File(_));
        if self.tree.is_dir(id) || is_file && self.has_versions {
            assert_eq!(done, Err(PosixError::NotPermitted));
        } else if self.tree.named(to_dir, name).is_some() {
            assert_eq!(done, Err(PosixError::Exists));
        } else {
            let PosixDone::Node(node) = done.unwrap() else { panic!("no node") };
            self.tree.0[id].links += 1;
            assert_eq!(node.links, self.tree.0[id].links);
            self.tree.dir(to_dir).0.insert(name.to_vec(), id);
            *self.tree.dir(to_dir).1 = true;
            *self.tree.dir(to_dir).1 = true;
        }
    }

    /// The file of this name, with its number.
    fn file(&mut self, dir: &[usize], name: usize) -> Option<Id> {
        let dir = self.dir(dir);
        let id = self.number(dir, name)?;
        matches!(self.tree.0[id].kind, Kind::File(_)).then_some(id)
    }

    fn copy_range(
        &mut self,
        from: &(Vec<usize>, usize),
        at: usize,
        to: &(Vec<usize>, usize),
        to_at: usize,
        len: usize,
    ) {
        let Some(source) = self.file(&from.0, from.1) else { return };
        let Some(target) = self.file(&to.0, to.1) else { return };
        let (Kind::File(bytes), key) = (&self.tree.0[source].kind, self.key()) else {
            panic!("no file")
        };
        let copied = bytes.get(at..).unwrap_or_default();
        let copied = copied[..len.min(copied.len())].to_vec();
        let done = self.posix(PosixOp::CopyRange {
            from: (self.ino(source), at as u64),
            to: (self.ino(target), to_at as u64),
            len: len as u64,
            key,
        });
        let end = to_at + copied.len();
        if source == target && at < end && to_at < at + copied.len() {
            assert_eq!(done, Err(PosixError::Invalid));
            return;
        }
        if done == Err(PosixError::ReplaceInstead) {
            return;
        }
        assert_eq!(done, Ok(PosixDone::Copied(copied.len() as u64)));
        let Kind::File(bytes) = &mut self.tree.0[target].kind else { panic!("no file") };
        if !copied.is_empty() {
            bytes.resize(bytes.len().max(end), 0);
            bytes[to_at..end].copy_from_slice(&copied);
        }
    }

    pub(super) fn write(
        &mut self,
        dir: &[usize],
        name: usize,
        at: usize,
        len: usize,
        (blocks, append): (usize, bool),
    ) {
        let Some(id) = self.file(dir, name) else { return };
        let size = match &self.tree.0[id].kind {
            Kind::File(bytes) => bytes.len(),
            kind => panic!("{kind:?}"),
        };
        // Where the command says, and where that is.
        let (at, base) = if append { (0, size) } else { (at, 0) };
        let ino = self.ino(id);
        let answer = self.ask(PosixQuery::Map { ino, offset: 0, len: 0 });
        let NamespaceAnswer::FileMap { key, .. } = answer else { panic!("no map") };
        let bytes = self.bytes(len);
        let is_new_key = key.is_none();
        let key = key.unwrap_or_else(|| self.key());
        // Every second piece is left out, and stays as it was.
        let mut made = vec![];
        let mut extents = vec![];
        let mut ranges = vec![];
        let chunk = len.div_ceil(blocks);
        for (index, piece) in bytes.chunks(chunk).enumerate() {
            if blocks > 2 && index % 2 == 1 && !append {
                continue;
            }
            let from = at + index * chunk;
            let block = self.group.next_block();
            self.group.blocks.insert(block, piece.to_vec());
            let len = piece.len() as u32;
            let (pg, k, m) = (PgId(3), 4, 2);
            made.push(NewBlock { block, pg, epoch: Epoch(1), len, k, m, missing_mask: 0 });
            extents.push(Extent {
                offset: from as u64,
                len: u64::from(len),
                block,
                pg,
                region_offset: 0,
                region_len: len,
                skip: 0,
                frame_len: 512,
                codec: 0,
                k,
                m,
            });
            ranges.push((base + from, piece.to_vec()));
        }
        let write = match append {
            true => PosixOp::Append { ino, key, is_new_key, extents },
            false => PosixOp::Write { ino, key, is_new_key, extents },
        };
        let done = self.posix_with(made, write);
        if done == Err(PosixError::ReplaceInstead) {
            return;
        }
        done.unwrap();
        let Kind::File(before) = &mut self.tree.0[id].kind else { panic!("no file") };
        for (from, piece) in ranges {
            let end = from + piece.len();
            if before.len() < end {
                before.resize(end, 0);
            }
            before[from..end].copy_from_slice(&piece);
        }
    }

    fn xattr(&mut self, dir: &[usize], name: usize, xattr: u8, set: bool, when: u8) {
        let dir = self.dir(dir);
        let Some(id) = self.number(dir, name) else { return };
        let name = vec![b'x', b'0' + xattr];
        let when = [XattrWhen::Either, XattrWhen::Create, XattrWhen::Replace][when as usize];
        let value = set.then(|| self.bytes(3));
        let op =
            PosixOp::SetXattr { ino: self.ino(id), name: name.clone(), value: value.clone(), when };
        let done = self.posix(op);
        let xattrs = &mut self.tree.0[id].xattrs;
        let is_there = xattrs.contains_key(&name);
        let wanted = match (&value, when) {
            (None, _) | (_, XattrWhen::Replace) if !is_there => Err(PosixError::NoAttribute),
            (Some(_), XattrWhen::Create) if is_there => Err(PosixError::Exists),
            _ => Ok(PosixDone::Done),
        };
        assert_eq!(done, wanted);
        if done.is_ok() {
            match value {
                Some(value) => drop(xattrs.insert(name, value)),
                None => drop(xattrs.remove(&name)),
            }
            if let Kind::Dir { explicit, .. } = &mut self.tree.0[id].kind {
                *explicit = true;
            }
        }
    }

    fn copy(&mut self, from: &[u8], to: &[u8]) {
        let mut keys = BTreeMap::new();
        self.tree.keys(0, b"", &mut keys);
        let Some(bytes) = keys.get(from).cloned() else { return };
        let (object, _) = self.group.get(from, RangeSpec::Full).unwrap();
        let done = self.group.apply(NamespaceCommand::Link {
            session: self.group.session,
            source: (BUCKET, from.to_vec()),
            source_content: object.content,
            target: (BUCKET, to.to_vec()),
            precondition: Precondition::None,
            // Of bytes that a mount can change, only the ETag says which were seen.
            meta: ObjectMeta { etag: object.meta.etag.clone(), ..meta(&bytes) },
            now_ms: self.group.store.index,
        });
        assert!(matches!(done, Ok(NamespaceOk::Put(ref done)) if done[0].is_ok()), "{done:?}");
        self.tree.put(to, bytes);
    }
}

fn as_stored(name: &[u8], is_dir: bool) -> Vec<u8> {
    if is_dir { [name, b"/"].concat() } else { name.to_vec() }
}

/// Found by lot: a mount made something in a directory of S3's, and S3 deleted all.
#[test]
fn a_directory_that_a_mount_made_something_in_stays() {
    let mut run = Run::new();
    let ops = [
        Op::Put { key: 6, len: 0, blocks: 0 },
        Op::Make { dir: vec![1], name: 0, what: 2, hold: false },
        Op::Delete { key: 6 },
        Op::Delete { key: 3 },
    ];
    for op in &ops {
        run.step(op);
        run.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn mounts_and_clients_of_s3_see_one_tree(ops in prop::collection::vec(ops(), 1..60)) {
        let mut run = Run::new();
        for op in &ops {
            run.step(op);
            run.compare();
        }
        run.group.free_all();
        run.compare();
    }
}
