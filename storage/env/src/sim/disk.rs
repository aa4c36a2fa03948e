//! A disk in memory that behaves as disks do when power fails or the medium does.
//!
//! What is not synced is, sector by sector and name by name, lost, kept or torn at
//! [`SimDisk::crash`]. Errors, a full disk, flipped bits, lost and misdirected writes are ordered
//! with [`SimDisk::inject`]; [`SimDisk::power_off_after`] cuts power in the middle of the n-th
//! change. Errors are those of Linux, by number.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::content::{Content, PAGE_BYTES};
use super::fault::DiskFault;
use super::names::{Entry, Inode, Names, errno};
use super::rng::SeededRng;
use super::trace::Trace;
use crate::{Disk, DiskFile, DiskLock, OpenMode, Space};

mod mount;

use mount::Mount;

const PAGE: u64 = PAGE_BYTES as u64;
/// Size of a simulated disk unless [`SimDisk::set_capacity`] says otherwise: 1 TiB.
const CAPACITY_BYTES_DEFAULT: u64 = 1 << 40;

/// A simulated disk. Clones are the same disk.
///
/// As a [`Disk`] it always belongs to whoever uses it now; files opened before a crash are dead.
/// [`SimDisk::mount`] gives a [`Disk`] that dies with the crash as a whole.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    label: String,
    rng: SeededRng,
    trace: Trace,
    state: Mutex<State>,
}

struct State {
    names: Names,
    files: BTreeMap<Inode, File>,
    locks: BTreeMap<PathBuf, Holder>,
    next_lock: u64,
    faults: Vec<DiskFault>,
    capacity_bytes: u64,
    life: u64,
    changes: u64,
    /// Number of the change in which power fails.
    power_off_at: Option<u64>,
    powered: bool,
}

struct File {
    content: Content,
    handles: u64,
}

#[derive(PartialEq, Eq)]
struct Holder(u64);

impl SimDisk {
    /// An empty disk whose choices follow from `seed`.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::labelled(seed, "disk", Trace::default())
    }

    /// An empty disk that records in `trace`, under `label`.
    pub fn labelled(seed: u64, label: &str, trace: Trace) -> SimDisk {
        let state = State {
            names: Names::new(),
            files: BTreeMap::new(),
            locks: BTreeMap::new(),
            next_lock: 0,
            faults: Vec::new(),
            capacity_bytes: CAPACITY_BYTES_DEFAULT,
            life: 0,
            changes: 0,
            power_off_at: None,
            powered: true,
        };
        let rng = SeededRng::for_part(seed, label);
        let shared = Shared { label: label.to_owned(), rng, trace, state: Mutex::new(state) };
        SimDisk { shared: Arc::new(shared) }
    }

    /// This disk, for one life: every use after the next [`SimDisk::crash`] or
    /// [`SimDisk::kill`] fails.
    pub fn mount(&self) -> Arc<dyn Disk> {
        let life = self.shared.state.lock().life;
        Arc::new(Mount { disk: self.clone(), life: Some(life) })
    }

    /// Power fails and returns: what was not synced is partly lost, open files and locks are dead.
    pub fn crash(&self) {
        let mut guard = self.shared.state.lock();
        let state = &mut *guard;
        state.end_life();
        let left = state.names.crash(&self.shared.rng);
        state.files.retain(|inode, _| left.contains(inode));
        for file in state.files.values_mut() {
            file.handles = 0;
            file.content.crash(&self.shared.rng);
        }
        self.trace(format_args!("crash, {} files left", state.files.len()));
    }

    /// The process dies, the machine stays up: nothing is lost, open files and locks are dead.
    pub fn kill(&self) {
        let mut state = self.shared.state.lock();
        state.end_life();
        for file in state.files.values_mut() {
            file.handles = 0;
        }
        state.forget_unnamed();
        self.trace(format_args!("kill"));
    }

    /// From now on operations that `fault` meets go wrong.
    pub fn inject(&self, fault: DiskFault) {
        self.shared.state.lock().faults.push(fault);
    }

    /// Ends all injected faults.
    pub fn clear_faults(&self) {
        self.shared.state.lock().faults.clear();
    }

    /// Sets the size of the disk; less than what is used makes it full.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.state.lock().capacity_bytes = bytes;
    }

    /// Cuts power in the middle of the change (write, sync, name) that follows `count` more: from
    /// then on everything fails with EIO until [`SimDisk::crash`].
    pub fn power_off_after(&self, count: u64) {
        let mut state = self.shared.state.lock();
        state.power_off_at = Some(state.changes + count);
    }

    /// Whether power is on.
    pub fn powered(&self) -> bool {
        self.shared.state.lock().powered
    }

    /// How many changes (writes, syncs, names) were asked for so far.
    pub fn changes(&self) -> u64 {
        self.shared.state.lock().changes
    }

    /// The medium flips bit `bit` (from the start of the file) by itself. Fails with `NotFound`
    /// if there is no such file or bit.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let Entry::File(inode) = state.names.lookup(path)? else {
            return Err(errno(libc::EISDIR));
        };
        self.trace(format_args!("flip {} {bit}", path.display()));
        match state.file(inode)?.content.flip_bit(bit) {
            true => Ok(()),
            false => Err(errno(libc::ENOENT)),
        }
    }

    /// Every file with its present length, sorted by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.shared.state.lock();
        let len = |inode| state.files.get(&inode).map_or(0, |file| file.content.len());
        state.names.files().into_iter().map(|(path, inode)| (path, len(inode))).collect()
    }

    /// The present content of a file, past all faults.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.shared.state.lock();
        let Entry::File(inode) = state.names.lookup(path)? else {
            return Err(errno(libc::EISDIR));
        };
        let content = &state.file(inode)?.content;
        let mut bytes = vec![0; content.len() as usize];
        content.read(&mut bytes, 0);
        Ok(bytes)
    }

    /// Whether data and length of a file are durable, as far as the process can know.
    pub fn is_synced(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.shared.state.lock();
        let Entry::File(inode) = state.names.lookup(path)? else {
            return Err(errno(libc::EISDIR));
        };
        Ok(!state.file(inode)?.content.is_dirty())
    }

    fn trace(&self, what: std::fmt::Arguments<'_>) {
        self.shared.trace.record(format_args!("{} {what}", self.shared.label));
    }

    fn current(&self) -> Mount {
        Mount { disk: self.clone(), life: None }
    }
}

impl State {
    fn end_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.power_off_at = None;
        self.powered = true;
    }

    fn file(&mut self, inode: Inode) -> io::Result<&mut File> {
        self.files.get_mut(&inode).ok_or_else(|| errno(libc::EIO))
    }

    /// Pages of files that have a name now or are open: what a crash might bring back is free.
    fn used_pages(&self) -> u64 {
        let named: BTreeSet<Inode> =
            self.names.files().into_iter().map(|(_, inode)| inode).collect();
        let takes = |inode: &Inode, file: &File| file.handles > 0 || named.contains(inode);
        self.files.iter().filter(|(i, f)| takes(i, f)).map(|(_, f)| f.content.pages()).sum()
    }

    fn free_pages(&self) -> u64 {
        (self.capacity_bytes / PAGE).saturating_sub(self.used_pages())
    }

    /// As [`State::free_pages`]; a disk whose size nobody set is not worth counting.
    fn free_pages_for_write(&self) -> u64 {
        match self.capacity_bytes {
            CAPACITY_BYTES_DEFAULT => u64::MAX,
            _ => self.free_pages(),
        }
    }

    /// Drops files that no name, no crash and no open handle can bring back.
    fn forget_unnamed(&mut self) {
        let named = self.names.named_files();
        self.files.retain(|inode, file| file.handles > 0 || named.contains(inode));
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.current().open(path, mode)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.current().create_dir_all(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.current().remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.current().remove_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.current().rename(from, to)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.current().list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.current().exists(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.current().sync_dir(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.current().space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.current().lock(path)
    }
}
