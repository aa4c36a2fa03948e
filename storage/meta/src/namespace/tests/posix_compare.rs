//! Whether machine and reference hold the same.

use std::collections::BTreeMap;

use super::posix::Run;
use super::posix_tree::{Id, Kind};
use super::support::*;
use crate::namespace::types::*;

impl Run {
    /// Whether machine and reference hold the same.
    pub(super) fn compare(&mut self) {
        self.group.check();
        // Clients of S3 would end it.
        if self.alone.is_none() {
            self.compare_keys();
        }
        self.compare_nodes();
    }

    fn compare_keys(&mut self) {
        let mut keys = BTreeMap::new();
        self.tree.keys(0, b"", &mut keys);
        let listing = self.group.ask(NamespaceQuery::List {
            bucket: BUCKET,
            prefix: vec![],
            delimiter: None,
            after: None,
            limit: 1_000,
        });
        let Ok(NamespaceAnswer::List(listing)) = listing else { panic!("no listing") };
        let listed: Vec<Vec<u8>> = listing
            .entries
            .iter()
            .map(|entry| match entry {
                ListEntry::Object(key, _) => key.clone(),
                ListEntry::Prefix(prefix) => panic!("{prefix:?}"),
            })
            .collect();
        assert_eq!(listed, keys.keys().cloned().collect::<Vec<_>>());
        for (key, bytes) in &keys {
            let (_, there) = self.group.get(key, RangeSpec::Full).unwrap();
            assert_eq!(&there, bytes, "{key:?}");
        }
    }

    pub(super) fn compare_nodes(&self) {
        self.compare_dir(0, Ino::ROOT);
        // Of what has no name a snapshot shows nothing.
        if self.past.is_some() {
            return;
        }
        for id in 0..self.tree.0.len() {
            if self.tree.0[id].held {
                self.compare_node(id, self.ino(id));
            }
        }
    }

    fn compare_dir(&self, id: Id, ino: Ino) {
        let query = PosixQuery::Entries { ino, after: None, limit: 1_000 };
        let NamespaceAnswer::Entries { entries, more: false } = self.ask(query) else {
            panic!("no entries")
        };
        let children = self.tree.children(id);
        let stored: Vec<&Vec<u8>> = entries.iter().map(|entry| &entry.stored).collect();
        assert_eq!(stored, children.keys().collect::<Vec<_>>());
        let mut shown: Vec<&Vec<u8>> = entries.iter().map(|entry| &entry.name).collect();
        shown.sort();
        shown.dedup();
        assert_eq!(shown.len(), entries.len(), "{entries:?}");
        for entry in &entries {
            let child = children[&entry.stored];
            let query = PosixQuery::Lookup { parent: ino, name: entry.name.clone() };
            assert_eq!(self.ask(query), NamespaceAnswer::Node(Box::new(entry.node.clone())));
            // The same file has another number there, perhaps, if it got that later.
            let is_same = entry.node.ino == self.tree.0[child].ino;
            assert!(is_same || self.tree.0[child].ino.is_none(), "{entry:?}");
            match entry.node.ino {
                Some(ino) => self.compare_node(child, ino),
                None => assert!(self.tree.0[child].mode.is_none()),
            }
        }
    }

    fn compare_node(&self, id: Id, ino: Ino) {
        let NamespaceAnswer::Node(node) = self.ask(PosixQuery::Node { ino }) else {
            panic!("no node")
        };
        let entry = &self.tree.0[id];
        assert_eq!(node.attrs.mode, entry.mode);
        let NamespaceAnswer::Xattrs(names) = self.ask(PosixQuery::Xattrs { ino }) else {
            panic!("no names")
        };
        assert_eq!(names, entry.xattrs.keys().cloned().collect::<Vec<_>>());
        for (name, value) in &entry.xattrs {
            let query = PosixQuery::Xattr { ino, name: name.clone() };
            assert_eq!(self.ask(query), NamespaceAnswer::Xattr(value.clone()));
        }
        match (&entry.kind, &node.kind) {
            (Kind::Dir { children, .. }, NodeKind::Directory) => {
                let subdirs = children.keys().filter(|name| name.ends_with(b"/")).count();
                // What gets a number from a snapshot is not counted.
                let is_counted = self.past.is_none() || node.links > 1;
                assert!(!is_counted || node.links as usize == 2 + subdirs, "{node:?}");
                self.compare_dir(id, ino);
            }
            (Kind::Symlink(target), NodeKind::Special(Special::Symlink(there))) => {
                assert_eq!(target, there);
                assert_eq!(node.links, entry.links);
            }
            (Kind::File(bytes), NodeKind::File { size, .. }) => {
                assert_eq!(node.links, entry.links);
                assert_eq!(*size, bytes.len() as u64);
                let query = PosixQuery::Map { ino, offset: 3, len: 1_000 };
                let NamespaceAnswer::FileMap { map, .. } = self.ask(query) else {
                    panic!("no map")
                };
                let there: Vec<u8> =
                    map.pieces.iter().flat_map(|piece| self.group.read(piece)).collect();
                assert_eq!(there, bytes.get(3..).unwrap_or_default());
                assert_eq!(map.next, None);
            }
            (kind, there) => panic!("{there:?} instead of {kind:?}"),
        }
    }
}
