//! The names of a simulated disk: a tree now, a tree that survives, and the changes in between.
//!
//! A change (link, unlink, rename) is atomic, and durable once one of its directories was synced
//! after it. At a crash each other change is kept or lost, on its own unless it builds on a lost
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};

use super::rng::SeededRng;
use crate::Rng;

pub(super) type Inode = u64;
pub(super) const ROOT: Inode = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Directory(Inode),
    File(Inode),
}

type Place = (Inode, OsString);

#[derive(Clone, Debug)]
enum Change {
    Link(Place, Entry),
    Unlink(Place),
    Move(Place, Place, Entry),
}

impl Change {
    fn places(&self) -> Vec<&Place> {
        match self {
            Change::Link(place, _) | Change::Unlink(place) => vec![place],
            Change::Move(from, to, _) => vec![from, to],
        }
    }

    fn touches(&self, directories: &BTreeSet<Inode>) -> bool {
        self.places().iter().any(|(directory, _)| directories.contains(directory))
    }
}

#[derive(Clone)]
struct Tree {
    directories: BTreeMap<Inode, BTreeMap<OsString, Entry>>,
}

impl Tree {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Link((directory, name), entry) => {
                if let Entry::Directory(inode) = entry {
                    self.directories.entry(*inode).or_default();
                }
                self.directories.entry(*directory).or_default().insert(name.clone(), *entry);
            }
            Change::Unlink((directory, name)) => {
                self.directories.entry(*directory).or_default().remove(name);
            }
            Change::Move(from, to, entry) => {
                self.directories.entry(from.0).or_default().remove(&from.1);
                self.directories.entry(to.0).or_default().insert(to.1.clone(), *entry);
            }
        }
    }

    fn get(&self, place: &Place) -> Option<Entry> {
        self.directories.get(&place.0)?.get(&place.1).copied()
    }

    /// Files and directories that can be reached from the root.
    fn reachable(&self) -> (BTreeSet<Inode>, BTreeSet<Inode>) {
        let (mut files, mut directories) = (BTreeSet::new(), BTreeSet::from([ROOT]));
        let mut open = vec![ROOT];
        while let Some(directory) = open.pop() {
            for entry in self.directories.get(&directory).into_iter().flat_map(BTreeMap::values) {
                match entry {
                    Entry::File(inode) => {
                        files.insert(*inode);
                    }
                    Entry::Directory(inode) => {
                        directories.insert(*inode);
                        open.push(*inode);
                    }
                }
            }
        }
        (files, directories)
    }
}

pub(super) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// All names of a disk.
pub(super) struct Names {
    now: Tree,
    durable: Tree,
    pending: Vec<Change>,
    next_inode: Inode,
}

impl Names {
    pub(super) fn new() -> Names {
        let tree = Tree { directories: BTreeMap::from([(ROOT, BTreeMap::new())]) };
        Names { now: tree.clone(), durable: tree, pending: Vec::new(), next_inode: ROOT + 1 }
    }

    fn components(path: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name.to_os_string()),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(errno(libc::EINVAL)),
            }
        }
        Ok(names)
    }

    pub(super) fn lookup(&self, path: &Path) -> io::Result<Entry> {
        let mut entry = Entry::Directory(ROOT);
        for name in Names::components(path)? {
            let Entry::Directory(directory) = entry else { return Err(errno(libc::ENOTDIR)) };
            entry = self.now.get(&(directory, name)).ok_or_else(|| errno(libc::ENOENT))?;
        }
        Ok(entry)
    }

    pub(super) fn directory(&self, path: &Path) -> io::Result<Inode> {
        match self.lookup(path)? {
            Entry::Directory(inode) => Ok(inode),
            Entry::File(_) => Err(errno(libc::ENOTDIR)),
        }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let mut names = Names::components(path)?;
        let name = names.pop().ok_or_else(|| errno(libc::EINVAL))?;
        let parent: std::path::PathBuf = names.iter().collect();
        Ok((self.directory(&parent)?, name))
    }

    fn fresh_inode(&mut self) -> Inode {
        let inode = self.next_inode;
        self.next_inode += 1;
        inode
    }

    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.pending.push(change);
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Inode> {
        let place = self.place(path)?;
        if self.now.get(&place).is_some() {
            return Err(errno(libc::EEXIST));
        }
        let inode = self.fresh_inode();
        self.change(Change::Link(place, Entry::File(inode)));
        Ok(inode)
    }

    /// Makes directories, durable at once.
    pub(super) fn create_directories(&mut self, path: &Path) -> io::Result<()> {
        let mut directory = ROOT;
        for name in Names::components(path)? {
            let place = (directory, name);
            let entry = match self.now.get(&place) {
                Some(entry) => entry,
                None => {
                    let entry = Entry::Directory(self.fresh_inode());
                    self.change(Change::Link(place, entry));
                    self.sync_directory(directory);
                    entry
                }
            };
            let Entry::Directory(inode) = entry else { return Err(errno(libc::ENOTDIR)) };
            directory = inode;
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        match self.now.get(&place) {
            None => Err(errno(libc::ENOENT)),
            Some(Entry::Directory(_)) => Err(errno(libc::EISDIR)),
            Some(Entry::File(_)) => {
                self.change(Change::Unlink(place));
                Ok(())
            }
        }
    }

    pub(super) fn remove_tree(&mut self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        match self.now.get(&place) {
            None => Ok(()),
            Some(Entry::File(_)) => Err(errno(libc::ENOTDIR)),
            Some(Entry::Directory(inode)) => {
                self.remove_below(inode);
                self.change(Change::Unlink(place));
                Ok(())
            }
        }
    }

    fn remove_below(&mut self, directory: Inode) {
        let entries: Vec<(OsString, Entry)> = match self.now.directories.get(&directory) {
            Some(entries) => entries.iter().map(|(name, entry)| (name.clone(), *entry)).collect(),
            None => Vec::new(),
        };
        for (name, entry) in entries {
            if let Entry::Directory(inode) = entry {
                self.remove_below(inode);
            }
            self.change(Change::Unlink((directory, name)));
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let moved = self.now.get(&source).ok_or_else(|| errno(libc::ENOENT))?;
        if source == target {
            return Ok(());
        }
        match (moved, self.now.get(&target)) {
            (_, None) | (Entry::File(_), Some(Entry::File(_))) => {}
            (Entry::File(_), Some(Entry::Directory(_))) => return Err(errno(libc::EISDIR)),
            (Entry::Directory(_), Some(Entry::File(_))) => return Err(errno(libc::ENOTDIR)),
            (Entry::Directory(_), Some(Entry::Directory(inode))) => {
                if self.now.directories.get(&inode).is_some_and(|names| !names.is_empty()) {
                    return Err(errno(libc::ENOTEMPTY));
                }
            }
        }
        if matches!(moved, Entry::Directory(_)) && to.starts_with(from) {
            return Err(errno(libc::EINVAL));
        }
        self.change(Change::Move(source, target, moved));
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let directory = self.directory(path)?;
        Ok(self
            .now
            .directories
            .get(&directory)
            .into_iter()
            .flatten()
            .map(|(n, _)| n.clone())
            .collect())
    }

    /// Makes the changes of a directory durable, and what they build on.
    pub(super) fn sync_directory(&mut self, directory: Inode) {
        let mut wanted = BTreeSet::from([directory]);
        let mut durable = vec![false; self.pending.len()];
        for (index, change) in self.pending.iter().enumerate().rev() {
            if change.touches(&wanted) {
                durable[index] = true;
                wanted.extend(change.places().iter().map(|(touched, _)| *touched));
            }
        }
        let mut left = Vec::new();
        for (change, durable) in std::mem::take(&mut self.pending).into_iter().zip(durable) {
            if durable {
                self.durable.apply(&change);
            } else {
                left.push(change);
            }
        }
        self.pending = left;
    }

    /// Power fails: unsynced changes are kept or lost. Returns the files that are left.
    pub(super) fn crash(&mut self, rng: &SeededRng) -> BTreeSet<Inode> {
        let mood = rng.below(3);
        let mut lost: BTreeSet<Place> = BTreeSet::new();
        for change in std::mem::take(&mut self.pending) {
            let lose = match mood {
                0 => true,
                1 => false,
                _ => rng.below(2) == 0,
            };
            if lose || change.places().iter().any(|place| lost.contains(*place)) {
                lost.extend(change.places().into_iter().cloned());
            } else {
                self.durable.apply(&change);
            }
        }
        let (files, directories) = self.durable.reachable();
        self.durable.directories.retain(|inode, _| directories.contains(inode));
        self.now = self.durable.clone();
        files
    }

    /// Files that have a name now or would have one after a crash.
    pub(super) fn named_files(&self) -> BTreeSet<Inode> {
        let mut files = self.now.reachable().0;
        files.extend(self.durable.reachable().0);
        for change in &self.pending {
            if let Change::Link(_, Entry::File(inode)) | Change::Move(_, _, Entry::File(inode)) =
                change
            {
                files.insert(*inode);
            }
        }
        files
    }

    /// Every file that has a name now, with its path below the root.
    pub(super) fn files(&self) -> Vec<(std::path::PathBuf, Inode)> {
        let mut found = Vec::new();
        let mut open = vec![(std::path::PathBuf::from("/"), ROOT)];
        while let Some((path, directory)) = open.pop() {
            for (name, entry) in self.now.directories.get(&directory).into_iter().flatten() {
                match entry {
                    Entry::File(inode) => found.push((path.join(name), *inode)),
                    Entry::Directory(inode) => open.push((path.join(name), *inode)),
                }
            }
        }
        found.sort();
        found
    }
}
