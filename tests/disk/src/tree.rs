//! Names: what a running machine sees, what a power cut leaves, and the changes between.
//!
//! A change of names (create, link, rename, unlink) is durable once a directory that it touched is
//! synced, together with all earlier changes it stands on. Both ends of a rename become durable at
//! once, as with every journal. To sync a file does not make its name durable: POSIX promises it
//! nowhere. Modes are durable with whatever change of names is saved next, times never.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fuser::Errno;
use serde::{Deserialize, Serialize};

use crate::contents::Contents;

/// The number of the topmost directory.
pub const ROOT: u64 = 1;
const TREE_NAME: &str = "tree.json";
const OBJECTS_NAME: &str = "objects";

/// What a node is.
pub enum Kind {
    /// Names, as they are seen and as they are durable.
    Dir {
        /// As seen.
        names: BTreeMap<String, u64>,
        /// After a power cut.
        durable: BTreeMap<String, u64>,
    },
    /// A file.
    File(Contents),
    /// Where it points to.
    Symlink(String),
    /// A name that somebody listens at.
    Socket,
}

/// A file or directory.
pub struct Node {
    /// See [`Kind`].
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Of the contents.
    pub modified: SystemTime,
    /// Names that are seen.
    pub links: u32,
    /// Handles.
    pub opens: u32,
    /// Where it was last linked: its path for rules and `..`.
    pub place: (u64, String),
}

impl Node {
    fn new(kind: Kind, mode: u32) -> Node {
        let place = (ROOT, String::new());
        Node { kind, mode, modified: SystemTime::now(), links: 0, opens: 0, place }
    }
}

/// (directory, name, what it names from now on), all or none.
pub type Change = Vec<(u64, String, Option<u64>)>;

#[derive(Serialize, Deserialize)]
enum SavedKind {
    Dir(BTreeMap<String, u64>),
    File,
    Symlink(String),
    Socket,
}

#[derive(Serialize, Deserialize)]
struct SavedNode {
    kind: SavedKind,
    mode: u32,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    next: u64,
    nodes: BTreeMap<u64, SavedNode>,
}

/// See the module.
pub struct Tree {
    backing: PathBuf,
    /// By number. A number is never used twice while the program runs.
    pub nodes: BTreeMap<u64, Node>,
    pending: Vec<Change>,
    next: u64,
}

impl Tree {
    /// What is durable in `backing`; makes an empty tree there if there is none.
    pub fn load(backing: &Path) -> io::Result<Tree> {
        fs::create_dir_all(backing.join(OBJECTS_NAME))?;
        let mut tree = Tree {
            backing: backing.to_owned(),
            nodes: BTreeMap::new(),
            pending: Vec::new(),
            next: ROOT + 1,
        };
        if !backing.join(TREE_NAME).exists() {
            let kind = Kind::Dir { names: BTreeMap::new(), durable: BTreeMap::new() };
            tree.nodes.insert(ROOT, Node { links: 1, ..Node::new(kind, 0o755) });
            tree.save()?;
        }
        tree.reload()?;
        Ok(tree)
    }

    fn object(&self, number: u64) -> PathBuf {
        self.backing.join(OBJECTS_NAME).join(number.to_string())
    }

    /// Forgets what is not durable.
    pub fn reload(&mut self) -> io::Result<()> {
        let saved: Saved = serde_json::from_slice(&fs::read(self.backing.join(TREE_NAME))?)?;
        self.next = self.next.max(saved.next);
        self.pending.clear();
        self.nodes.clear();
        for (number, node) in saved.nodes {
            let kind = match node.kind {
                SavedKind::Dir(names) => Kind::Dir { durable: names.clone(), names },
                SavedKind::File => Kind::File(Contents::load(self.object(number))?),
                SavedKind::Symlink(target) => Kind::Symlink(target),
                SavedKind::Socket => Kind::Socket,
            };
            self.nodes.insert(number, Node::new(kind, node.mode));
        }
        let mut links: Vec<(u64, String, u64)> = Vec::new();
        for (dir, node) in &self.nodes {
            if let Kind::Dir { names, .. } = &node.kind {
                links.extend(names.iter().map(|(name, number)| (*dir, name.clone(), *number)));
            }
        }
        for (dir, name, number) in links {
            if let Some(node) = self.nodes.get_mut(&number) {
                node.links += 1;
                node.place = (dir, name);
            }
        }
        for entry in fs::read_dir(self.backing.join(OBJECTS_NAME))? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            if !number.is_some_and(|number| self.nodes.contains_key(&number)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes down what is durable.
    pub fn save(&self) -> io::Result<()> {
        let mut nodes = BTreeMap::new();
        let mut next = vec![ROOT];
        while let Some(number) = next.pop() {
            let Some(node) = self.nodes.get(&number).filter(|_| !nodes.contains_key(&number))
            else {
                continue;
            };
            let kind = match &node.kind {
                Kind::Dir { durable, .. } => {
                    next.extend(durable.values());
                    SavedKind::Dir(durable.clone())
                }
                Kind::File(_) => SavedKind::File,
                Kind::Symlink(target) => SavedKind::Symlink(target.clone()),
                Kind::Socket => SavedKind::Socket,
            };
            nodes.insert(number, SavedNode { kind, mode: node.mode });
        }
        let bytes = serde_json::to_vec(&Saved { next: self.next, nodes })?;
        let temporary = self.backing.join("tree.new");
        fs::write(&temporary, bytes)?;
        fs::rename(temporary, self.backing.join(TREE_NAME))
    }

    /// A node that exists.
    pub fn node(&self, number: u64) -> Result<&Node, Errno> {
        self.nodes.get(&number).ok_or(Errno::ENOENT)
    }

    /// A node that exists.
    pub fn node_mut(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    /// The contents of a file.
    pub fn file(&self, number: u64) -> Result<&Contents, Errno> {
        match &self.node(number)?.kind {
            Kind::File(contents) => Ok(contents),
            Kind::Dir { .. } => Err(Errno::EISDIR),
            Kind::Symlink(_) | Kind::Socket => Err(Errno::EINVAL),
        }
    }

    /// The contents of a file, to change them.
    pub fn file_mut(&mut self, number: u64) -> Result<&mut Contents, Errno> {
        let node = self.node_mut(number)?;
        node.modified = SystemTime::now();
        match &mut node.kind {
            Kind::File(contents) => Ok(contents),
            Kind::Dir { .. } => Err(Errno::EISDIR),
            Kind::Symlink(_) | Kind::Socket => Err(Errno::EINVAL),
        }
    }

    /// The names in a directory.
    pub fn names(&self, dir: u64) -> Result<&BTreeMap<String, u64>, Errno> {
        match &self.node(dir)?.kind {
            Kind::Dir { names, .. } => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What a name stands for.
    pub fn lookup(&self, dir: u64, name: &str) -> Result<u64, Errno> {
        self.names(dir)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// A path, as seen from the topmost directory: `drive/segments/1`.
    pub fn path(&self, mut number: u64) -> String {
        let mut parts = Vec::new();
        while number != ROOT
            && parts.len() < 64
            && let Some(node) = self.nodes.get(&number)
        {
            parts.push(node.place.1.as_str());
            number = node.place.0;
        }
        parts.reverse();
        parts.join("/")
    }

    /// Bytes that files take which have a name or are open.
    pub fn used_bytes(&self) -> u64 {
        let files = self.nodes.values().filter(|node| node.links > 0 || node.opens > 0);
        files
            .map(|node| match &node.kind {
                Kind::File(contents) => contents.allocated_bytes(),
                _ => 0,
            })
            .sum()
    }

    /// Makes a directory or file, named but not durable.
    pub fn create(
        &mut self,
        dir: u64,
        name: &str,
        mode: u32,
        target: Target<'_>,
    ) -> Result<u64, Errno> {
        if self.names(dir)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let number = self.next;
        self.next += 1;
        let kind = match target {
            Target::Dir => Kind::Dir { names: BTreeMap::new(), durable: BTreeMap::new() },
            Target::File => Kind::File(Contents::load(self.object(number))?),
            Target::Symlink(target) => Kind::Symlink(target.to_owned()),
            Target::Socket => Kind::Socket,
        };
        self.nodes.insert(number, Node::new(kind, mode & 0o7777));
        self.change(vec![(dir, name.to_owned(), Some(number))])?;
        Ok(number)
    }

    /// Changes names, not yet durably.
    pub fn change(&mut self, change: Change) -> Result<(), Errno> {
        for (dir, name, value) in &change {
            let Kind::Dir { names, .. } = &mut self.node_mut(*dir)?.kind else {
                return Err(Errno::ENOTDIR);
            };
            let before = match value {
                Some(number) => names.insert(name.clone(), *number),
                None => names.remove(name),
            };
            if let Some(node) = before.and_then(|number| self.nodes.get_mut(&number)) {
                node.links -= 1;
            }
            if let Some(node) = value.and_then(|number| self.nodes.get_mut(&number)) {
                node.links += 1;
                node.place = (*dir, name.clone());
            }
        }
        self.pending.push(change);
        Ok(())
    }

    fn harden(&mut self, change: &Change) {
        for (dir, name, value) in change {
            if let Some(Node { kind: Kind::Dir { durable, .. }, .. }) = self.nodes.get_mut(dir) {
                match value {
                    Some(number) => durable.insert(name.clone(), *number),
                    None => durable.remove(name),
                };
            }
        }
    }

    /// Makes the names of a directory durable.
    pub fn sync_dir(&mut self, dir: u64) -> Result<(), Errno> {
        let mut touched = BTreeSet::from([dir]);
        let mut chosen = Vec::new();
        for (at, change) in self.pending.iter().enumerate().rev() {
            if change.iter().any(|(dir, ..)| touched.contains(dir)) {
                touched.extend(change.iter().map(|(dir, ..)| *dir));
                chosen.push(at);
            }
        }
        if chosen.is_empty() {
            return Ok(());
        }
        for at in chosen.iter().rev() {
            let change = std::mem::take(&mut self.pending[*at]);
            self.harden(&change);
        }
        self.pending.retain(|change| !change.is_empty());
        self.save()?;
        Ok(self.collect()?)
    }

    /// How many changes are not durable.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Makes the first so many changes durable, as if the journal had come so far.
    pub fn harden_first(&mut self, count: usize) {
        for change in self.pending.drain(..count).collect::<Vec<_>>() {
            self.harden(&change);
        }
    }

    /// Removes nodes that nothing leads to: no name, durable name, handle or open change.
    fn collect(&mut self) -> io::Result<()> {
        let open = self.nodes.iter().filter(|(_, node)| node.opens > 0).map(|(number, _)| *number);
        let mut next: Vec<u64> = open.chain([ROOT]).collect();
        let mut live = BTreeSet::new();
        let mut rest: Vec<&Change> = self.pending.iter().collect();
        loop {
            while let Some(number) = next.pop() {
                if !live.insert(number) {
                    continue;
                }
                if let Some(Node { kind: Kind::Dir { names, durable }, .. }) =
                    self.nodes.get(&number)
                {
                    next.extend(names.values().chain(durable.values()));
                }
            }
            rest.retain(|change| {
                let leads = change.iter().any(|(dir, ..)| live.contains(dir));
                if leads {
                    next.extend(change.iter().filter_map(|(.., value)| *value));
                }
                !leads
            });
            if next.is_empty() {
                break;
            }
        }
        self.pending.retain(|change| change.iter().any(|(dir, ..)| live.contains(dir)));
        for (number, node) in &self.nodes {
            if let Kind::File(contents) = &node.kind
                && !live.contains(number)
            {
                contents.remove()?;
            }
        }
        self.nodes.retain(|number, _| live.contains(number));
        Ok(())
    }
}

/// What to create.
pub enum Target<'a> {
    /// A directory.
    Dir,
    /// An empty file.
    File,
    /// A link that points there.
    Symlink(&'a str),
    /// A socket.
    Socket,
}
