//! A simulated disk as its user sees it: the [`Disk`] and [`DiskFile`] of one life of a machine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::content::Content;
use super::super::fault::{DiskOp, Effect};
use super::super::names::{Entry, Inode, errno};
use super::super::rng::SeededRng;
use super::{File, Holder, PAGE, SimDisk, State};
use crate::{Disk, DiskFile, DiskLock, OpenMode, Rng, Space};

/// A disk as one life of a machine sees it.
pub(super) struct Mount {
    pub(super) disk: SimDisk,
    /// `None` follows the disk through crashes.
    pub(super) life: Option<u64>,
}

/// What an operation that may go on meets.
struct Permit {
    effect: Option<Effect>,
    power_fails: bool,
}

impl Permit {
    /// For operations that know no partial outcome.
    fn simply(self) -> io::Result<()> {
        match (self.power_fails, self.effect) {
            (true, _) | (_, Some(Effect::Eio)) => Err(errno(libc::EIO)),
            (_, Some(Effect::Full)) => Err(errno(libc::ENOSPC)),
            _ => Ok(()),
        }
    }
}

fn is_change(op: DiskOp) -> bool {
    !matches!(op, DiskOp::Open | DiskOp::Read | DiskOp::List)
}

impl Mount {
    fn begin(&self, state: &mut State, op: DiskOp, path: &Path) -> io::Result<Permit> {
        self.begin_change(state, op, path, is_change(op))
    }

    fn begin_change(
        &self,
        state: &mut State,
        op: DiskOp,
        path: &Path,
        is_change: bool,
    ) -> io::Result<Permit> {
        check_usable(state, self.life.unwrap_or(state.life))?;
        let mut power_fails = false;
        if is_change {
            power_fails = state.power_off_at == Some(state.changes);
            state.powered = !power_fails;
            state.changes += 1;
        }
        let effect = state.faults.iter_mut().find_map(|f| f.strikes(op, path).then_some(f.effect));
        self.disk.trace(format_args!("{op:?} {} {effect:?} {power_fails}", path.display()));
        Ok(Permit { effect, power_fails })
    }

    /// Begins an operation that happens as a whole or not at all.
    fn begin_whole(&self, state: &mut State, op: DiskOp, path: &Path) -> io::Result<()> {
        self.begin(state, op, path)?.simply()
    }
}

fn check_usable(state: &State, life: u64) -> io::Result<()> {
    match (state.life == life, state.powered) {
        (false, _) => Err(errno(libc::ENODEV)),
        (true, false) => Err(errno(libc::EIO)),
        (true, true) => Ok(()),
    }
}

impl Disk for Mount {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut guard = self.disk.shared.state.lock();
        let state = &mut *guard;
        let present = state.names.lookup(path);
        let creates =
            present.is_err() && matches!(mode, OpenMode::OpenOrCreate | OpenMode::CreateNew);
        self.begin_change(state, DiskOp::Open, path, creates)?.simply()?;
        let inode = match (present, mode) {
            (Ok(Entry::Directory(_)), _) => return Err(errno(libc::EISDIR)),
            (Ok(Entry::File(_)), OpenMode::CreateNew) => return Err(errno(libc::EEXIST)),
            (Ok(Entry::File(inode)), _) => inode,
            (Err(_), OpenMode::OpenOrCreate | OpenMode::CreateNew) => {
                let inode = state.names.create_file(path)?;
                state.files.insert(inode, File { content: Content::default(), handles: 0 });
                inode
            }
            (Err(error), _) => return Err(error),
        };
        state.file(inode)?.handles += 1;
        Ok(Arc::new(SimFile {
            mount: Mount { disk: self.disk.clone(), life: Some(state.life) },
            inode,
            path: path.to_path_buf(),
            writable: mode != OpenMode::Read,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.disk.shared.state.lock();
        self.begin_whole(state, DiskOp::CreateDir, path)?;
        state.names.create_directories(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.disk.shared.state.lock();
        self.begin_whole(state, DiskOp::Remove, path)?;
        state.names.remove_file(path)?;
        state.forget_unnamed();
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.disk.shared.state.lock();
        self.begin_whole(state, DiskOp::Remove, path)?;
        match state.names.remove_tree(path) {
            // Nor is anything below a parent that is absent.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                state.forget_unnamed();
                Ok(())
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let state = &mut *self.disk.shared.state.lock();
        self.begin_whole(state, DiskOp::Rename, from)?;
        state.names.rename(from, to)?;
        state.forget_unnamed();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = &mut *self.disk.shared.state.lock();
        self.begin_whole(state, DiskOp::List, path)?;
        Ok(state.names.list(path)?.into_iter().map(PathBuf::from).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = &mut *self.disk.shared.state.lock();
        self.begin_whole(state, DiskOp::List, path)?;
        match state.names.lookup(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.disk.shared.state.lock();
        self.begin_whole(state, DiskOp::SyncDir, path)?;
        let directory = state.names.directory(path)?;
        state.names.sync_directory(directory);
        state.forget_unnamed();
        Ok(())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let state = &mut *self.disk.shared.state.lock();
        self.begin_whole(state, DiskOp::List, path)?;
        state.names.lookup(path)?;
        let total_bytes = state.capacity_bytes;
        Ok(Space { total_bytes, free_bytes: state.free_pages() * PAGE })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        // Makes the file, as the real one does.
        self.open(path, OpenMode::OpenOrCreate)?;
        let state = &mut *self.disk.shared.state.lock();
        if state.locks.contains_key(path) {
            return Err(errno(libc::EWOULDBLOCK));
        }
        state.next_lock += 1;
        let number = state.next_lock;
        state.locks.insert(path.to_path_buf(), Holder(number));
        Ok(Box::new(SimLock { disk: self.disk.clone(), path: path.to_path_buf(), number }))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    number: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.shared.state.lock();
        // A later life may hold the lock by now.
        if state.locks.get(&self.path) == Some(&Holder(self.number)) {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    mount: Mount,
    inode: Inode,
    path: PathBuf,
    writable: bool,
}

impl SimFile {
    fn begin(&self, state: &mut State, op: DiskOp) -> io::Result<Permit> {
        let permit = self.mount.begin(state, op, &self.path)?;
        if is_change(op) && op != DiskOp::Sync && !self.writable {
            return Err(errno(libc::EBADF));
        }
        Ok(permit)
    }

    fn rng(&self) -> &SeededRng {
        &self.mount.disk.shared.rng
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.mount.disk.shared.state.lock();
        let permit = self.begin(state, DiskOp::Write)?;
        let crc = crc32c::crc32c(data);
        self.mount.disk.trace(format_args!("at {offset} +{} {crc:08x}", data.len()));
        if permit.power_fails || permit.effect == Some(Effect::Eio) {
            let part = self.rng().below(data.len() as u64 + 1) as usize;
            state.file(self.inode)?.content.write(&data[..part], offset);
            return Err(errno(libc::EIO));
        }
        let free_pages = state.free_pages_for_write();
        let content = &mut state.file(self.inode)?.content;
        if permit.effect == Some(Effect::Full)
            || content.pages_missing(offset, data.len() as u64) > free_pages
        {
            // What needs no new page may be written before the disk says no.
            let mut fits = (PAGE - offset % PAGE).min(data.len() as u64);
            if content.pages_missing(offset, fits) > 0 {
                fits = 0;
            }
            content.write(&data[..fits as usize], offset);
            return Err(errno(libc::ENOSPC));
        }
        match permit.effect {
            Some(Effect::LostWrite) => {}
            Some(Effect::Misdirected) => {
                let pages = self.rng().between(1, 8) * PAGE;
                let elsewhere = offset.checked_sub(pages).unwrap_or(offset + pages);
                content.write(data, elsewhere);
            }
            Some(Effect::FlipBit) if !data.is_empty() => {
                let mut wrong = data.to_vec();
                flip_random_bit(&mut wrong, self.rng());
                content.write(&wrong, offset);
            }
            _ if data.is_empty() => {}
            _ => content.write(data, offset),
        }
        Ok(())
    }
}

fn flip_random_bit(bytes: &mut [u8], rng: &SeededRng) {
    let bit = rng.below(bytes.len() as u64 * 8);
    if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = &mut *self.mount.disk.shared.state.lock();
        let permit = self.begin(state, DiskOp::Read)?;
        let flips = permit.effect == Some(Effect::FlipBit);
        permit.simply()?;
        let read = state.file(self.inode)?.content.read(buffer, offset);
        if flips {
            flip_random_bit(&mut buffer[..read], self.rng());
        }
        Ok(read)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write(data, offset)
    }

    fn write_vectored_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        // One operation, as pwritev is, so that faults strike it as one.
        self.write(&parts.concat(), offset)
    }

    fn sync(&self) -> io::Result<()> {
        let state = &mut *self.mount.disk.shared.state.lock();
        let permit = self.begin(state, DiskOp::Sync)?;
        let fails = permit.effect;
        let power_fails = permit.power_fails;
        let content = &mut state.file(self.inode)?.content;
        if power_fails {
            // Done or not done: the caller cannot know, and the crash decides.
            if self.rng().below(2) == 0 {
                content.sync();
            }
            return Err(errno(libc::EIO));
        }
        match fails {
            Some(Effect::Eio) => {
                content.sync_fails(self.rng());
                Err(errno(libc::EIO))
            }
            Some(Effect::Full) => {
                content.sync_fails(self.rng());
                Err(errno(libc::ENOSPC))
            }
            _ => {
                content.sync();
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let state = &mut *self.mount.disk.shared.state.lock();
        check_usable(state, self.mount.life.unwrap_or(state.life))?;
        Ok(state.file(self.inode)?.content.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let state = &mut *self.mount.disk.shared.state.lock();
        self.begin(state, DiskOp::SetLen)?.simply()?;
        self.mount.disk.trace(format_args!("to {len}"));
        state.file(self.inode)?.content.set_len(len);
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let state = &mut *self.mount.disk.shared.state.lock();
        self.begin(state, DiskOp::PunchHole)?.simply()?;
        if len == 0 {
            return Err(errno(libc::EINVAL));
        }
        self.mount.disk.trace(format_args!("at {offset} -{len}"));
        state.file(self.inode)?.content.punch(offset, len);
        Ok(())
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        let state = &mut *self.mount.disk.shared.state.lock();
        check_usable(state, self.mount.life.unwrap_or(state.life))?;
        Ok(state.file(self.inode)?.content.pages() * PAGE)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let state = &mut *self.mount.disk.shared.state.lock();
        if self.mount.life != Some(state.life) {
            return;
        }
        if let Some(file) = state.files.get_mut(&self.inode) {
            file.handles = file.handles.saturating_sub(1);
            if file.handles == 0 {
                state.forget_unnamed();
            }
        }
    }
}
