//! A disk: names, bytes, faults and power.

use std::io;
use std::path::Path;

use fuser::Errno;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

use crate::faults::{Command, CutAt, Faults, Operation};
use crate::tree::{Change, Kind, Target, Tree};

/// The longest name.
const NAME_MAX: usize = 255;

/// See the module. After a cut everything fails with EIO until the power returns.
pub struct Volume {
    tree: Tree,
    faults: Faults,
    powered: bool,
}

impl Volume {
    /// What is durable in `backing`.
    pub fn open(backing: &Path) -> io::Result<Volume> {
        Ok(Volume { tree: Tree::load(backing)?, faults: Faults::default(), powered: true })
    }

    /// Obeys; the answer.
    pub fn obey(&mut self, command: Command) -> anyhow::Result<String> {
        match command {
            Command::Cut(seed) => self.cut(seed)?,
            Command::CutAt(at) => {
                self.faults.syncs = 0;
                self.faults.cut_at = Some(at);
            }
            Command::On => self.powered = true,
            Command::Fail(operation, part) => self.faults.rules.push((operation, part)),
            Command::Heal => {
                self.faults.rules.clear();
                self.faults.capacity = None;
                self.faults.cut_at = None;
            }
            Command::Capacity(bytes) => self.faults.capacity = Some(bytes),
            Command::State => {
                let power = if self.powered { "on" } else { "off" };
                return Ok(format!("{power} {}", self.faults.syncs));
            }
        }
        Ok(String::new())
    }

    fn cut(&mut self, seed: Option<u64>) -> io::Result<()> {
        if !self.powered {
            return Ok(());
        }
        self.powered = false;
        if let Some(seed) = seed {
            let mut rng = StdRng::seed_from_u64(seed);
            let count = rng.random_range(0..=self.tree.pending());
            self.tree.harden_first(count);
            for node in self.tree.nodes.values() {
                if let Kind::File(contents) = &node.kind {
                    contents.survive(&mut rng)?;
                }
            }
            self.tree.save()?;
        }
        self.tree.reload()
    }

    /// The tree, while there is power.
    pub fn tree(&mut self) -> Result<&mut Tree, Errno> {
        if self.powered { Ok(&mut self.tree) } else { Err(Errno::EIO) }
    }

    /// Bytes the disk has room for, if a rule says so, and bytes used.
    pub fn space(&self) -> (Option<u64>, u64) {
        (self.faults.capacity, self.tree.used_bytes())
    }

    fn check(&self, operation: Operation, number: u64) -> Result<(), Errno> {
        if !self.powered || self.faults.hits(operation, || self.tree.path(number)) {
            return Err(Errno::EIO);
        }
        Ok(())
    }

    fn check_room(&self, bytes: u64) -> Result<(), Errno> {
        match self.faults.capacity {
            Some(capacity) if bytes > 0 && self.tree.used_bytes() + bytes > capacity => {
                Err(Errno::ENOSPC)
            }
            _ => Ok(()),
        }
    }

    /// Reads a file.
    pub fn read(&mut self, number: u64, offset: u64, len: u64) -> Result<Vec<u8>, Errno> {
        self.check(Operation::Read, number)?;
        Ok(self.tree.file(number)?.read(offset, len)?)
    }

    /// Writes a file.
    pub fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.check(Operation::Write, number)?;
        if self.faults.capacity.is_some() {
            self.check_room(self.tree.file(number)?.missing_bytes(offset, data.len() as u64))?;
        }
        Ok(self.tree.file_mut(number)?.write(offset, data)?)
    }

    /// Sets a file's length.
    pub fn set_len(&mut self, number: u64, len: u64) -> Result<(), Errno> {
        self.check(Operation::Write, number)?;
        self.tree.file_mut(number)?.set_len(len);
        Ok(())
    }

    /// `fallocate`: holes, and room that is not counted.
    pub fn fallocate(
        &mut self,
        number: u64,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        self.check(Operation::Write, number)?;
        let file = self.tree.file_mut(number)?;
        match mode {
            0 => file.set_len(file.size().max(offset + len)),
            libc::FALLOC_FL_KEEP_SIZE => {}
            mode if mode == libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE => {
                file.punch(offset, len)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }

    /// Syncs a file or a directory. May be the one at which the power goes.
    pub fn sync(&mut self, number: u64) -> Result<(), Errno> {
        self.tree()?;
        self.faults.syncs += 1;
        let syncs = self.faults.syncs;
        let cut = self.faults.cut_at.take_if(|at| at.sync == syncs);
        if let Some(at) = cut.filter(|at| !at.after) {
            return self.cut_at(at);
        }
        self.check(Operation::Sync, number).inspect_err(|_| {
            if let Ok(file) = self.tree.file_mut(number) {
                file.fail_sync();
            }
        })?;
        let is_dir = self.tree.names(number).is_ok();
        if is_dir {
            self.tree.sync_dir(number)?;
        } else if let Ok(file) = self.tree.file_mut(number) {
            file.sync()?;
        }
        cut.map_or(Ok(()), |at| self.cut_at(at))
    }

    fn cut_at(&mut self, at: CutAt) -> Result<(), Errno> {
        if let Some(pid) = at.pid.and_then(Pid::from_raw) {
            // It may have died by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.cut(at.seed)?;
        Err(Errno::EIO)
    }

    /// Makes a directory, file or link; its number.
    pub fn create(
        &mut self,
        dir: u64,
        name: &str,
        mode: u32,
        target: Target<'_>,
    ) -> Result<u64, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.check_room(1)?;
        self.tree()?.create(dir, name, mode, target)
    }

    /// A further name.
    pub fn link(&mut self, number: u64, dir: u64, name: &str) -> Result<(), Errno> {
        let tree = self.tree()?;
        if tree.names(dir)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        tree.change(vec![(dir, name.to_owned(), Some(number))])
    }

    /// Takes a name away.
    pub fn remove(&mut self, dir: u64, name: &str, is_dir: bool) -> Result<(), Errno> {
        let tree = self.tree()?;
        let number = tree.lookup(dir, name)?;
        match tree.names(number) {
            Ok(_) if !is_dir => return Err(Errno::EISDIR),
            Ok(names) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
            Err(_) if is_dir => return Err(Errno::ENOTDIR),
            _ => {}
        }
        tree.change(vec![(dir, name.to_owned(), None)])
    }

    /// `renameat2`.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<(), Errno> {
        let tree = self.tree()?;
        let number = tree.lookup(from.0, from.1)?;
        let target = tree.names(to.0)?.get(to.1).copied();
        let named = |place: (u64, &str), value| (place.0, place.1.to_owned(), value);
        let change: Change = match (flags, target) {
            (libc::RENAME_NOREPLACE, Some(_)) => return Err(Errno::EEXIST),
            (libc::RENAME_EXCHANGE, None) => return Err(Errno::ENOENT),
            (libc::RENAME_EXCHANGE, Some(_)) => {
                vec![named(from, target), named(to, Some(number))]
            }
            (0 | libc::RENAME_NOREPLACE, _) => {
                if target == Some(number) {
                    return Ok(());
                }
                if let Some(target) = target {
                    match (tree.names(number).is_ok(), tree.names(target)) {
                        (true, Err(_)) => return Err(Errno::ENOTDIR),
                        (false, Ok(_)) => return Err(Errno::EISDIR),
                        (true, Ok(names)) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
                        _ => {}
                    }
                }
                vec![named(from, None), named(to, Some(number))]
            }
            _ => return Err(Errno::EINVAL),
        };
        tree.change(change)
    }
}
