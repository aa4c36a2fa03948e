//! The tree that mounts and clients of S3 see, in memory: what the machine is held against.

use std::collections::BTreeMap;

use crate::namespace::types::*;

pub(super) type Id = usize;

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Dir { children: BTreeMap<Vec<u8>, Id>, explicit: bool },
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) links: u32,
    pub(super) ino: Option<Ino>,
    pub(super) held: bool,
    pub(super) mode: Option<u32>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The reference: nodes in a vector, the root first; what is gone stays there unnamed.
#[derive(Clone, Debug)]
pub(super) struct Tree(pub(super) Vec<Entry>);

impl Tree {
    pub(super) fn new() -> Tree {
        let kind = Kind::Dir { children: BTreeMap::new(), explicit: true };
        let root = Entry { ino: Some(Ino::ROOT), ..entry(kind) };
        Tree(vec![root])
    }

    pub(super) fn children(&self, dir: Id) -> &BTreeMap<Vec<u8>, Id> {
        match &self.0[dir].kind {
            Kind::Dir { children, .. } => children,
            _ => panic!("{dir} is no directory"),
        }
    }

    pub(super) fn dir(&mut self, dir: Id) -> (&mut BTreeMap<Vec<u8>, Id>, &mut bool) {
        match &mut self.0[dir].kind {
            Kind::Dir { children, explicit } => (children, explicit),
            _ => panic!("{dir} is no directory"),
        }
    }

    pub(super) fn is_dir(&self, id: Id) -> bool {
        matches!(self.0[id].kind, Kind::Dir { .. })
    }

    /// By a name as POSIX has it: directories first.
    pub(super) fn named(&self, dir: Id, name: &[u8]) -> Option<(Vec<u8>, Id)> {
        let as_dir = [name, b"/"].concat();
        let children = self.children(dir);
        let stored = if children.contains_key(&as_dir) { as_dir } else { name.to_vec() };
        children.get(&stored).map(|id| (stored.clone(), *id))
    }

    pub(super) fn add(&mut self, dir: Id, stored: Vec<u8>, entry: Entry) -> Id {
        self.0.push(entry);
        let id = self.0.len() - 1;
        self.dir(dir).0.insert(stored, id);
        id
    }

    pub(super) fn is_below(&self, id: Id, above: Id) -> bool {
        id == above
            || self.is_dir(above) && self.children(above).values().any(|at| self.is_below(id, *at))
    }

    /// A name goes, through a mount.
    pub(super) fn drop_name(&mut self, dir: Id, stored: &[u8]) {
        let (children, explicit) = self.dir(dir);
        *explicit = true;
        let id = children.remove(stored).unwrap();
        self.0[id].links -= 1;
    }

    /// Keys and bytes as S3 lists them.
    pub(super) fn keys(&self, dir: Id, path: &[u8], to: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        for (stored, id) in self.children(dir) {
            let path = [path, stored].concat();
            match &self.0[*id].kind {
                Kind::Dir { .. } => self.keys(*id, &path, to),
                Kind::File(bytes) => drop(to.insert(path, bytes.clone())),
                Kind::Symlink(_) => {}
            }
        }
    }

    pub(super) fn put(&mut self, key: &[u8], bytes: Vec<u8>) {
        let mut dir = 0;
        let mut parts: Vec<&[u8]> = key.split_inclusive(|byte| *byte == b'/').collect();
        let name = if key.ends_with(b"/") { &b""[..] } else { parts.pop().unwrap() };
        for part in parts {
            dir = match self.children(dir).get(part) {
                Some(id) => *id,
                None => {
                    let kind = Kind::Dir { children: BTreeMap::new(), explicit: false };
                    self.add(dir, part.to_vec(), entry(kind))
                }
            };
        }
        match self.children(dir).get(name).copied() {
            Some(id) if matches!(self.0[id].kind, Kind::File(_)) => {
                self.0[id].kind = Kind::File(bytes);
            }
            Some(id) => {
                self.0[id].links -= 1;
                self.add(dir, name.to_vec(), entry(Kind::File(bytes)));
            }
            None => drop(self.add(dir, name.to_vec(), entry(Kind::File(bytes)))),
        }
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        let mut way = vec![];
        let mut dir = 0;
        let mut parts: Vec<&[u8]> = key.split_inclusive(|byte| *byte == b'/').collect();
        let name = if key.ends_with(b"/") { &b""[..] } else { parts.pop().unwrap() };
        for part in parts {
            let Some(id) = self.children(dir).get(part).copied() else { return };
            way.push((dir, part.to_vec()));
            dir = id;
        }
        let Some(id) = self.children(dir).get(name).copied() else { return };
        if !matches!(self.0[id].kind, Kind::File(_)) {
            return;
        }
        self.0[id].links -= 1;
        self.dir(dir).0.remove(name);
        while let Some((above, part)) = way.pop() {
            let (children, explicit) = self.dir(dir);
            if !children.is_empty() || *explicit {
                return;
            }
            self.dir(above).0.remove(&part);
            dir = above;
        }
    }
}

pub(super) fn entry(kind: Kind) -> Entry {
    Entry { kind, links: 1, ino: None, held: false, mode: None, xattrs: BTreeMap::new() }
}
