//! The kernel's door to a [`Volume`].
//!
//! Nothing is cached by the kernel: pages not (`FOPEN_DIRECT_IO`), names and attributes not (no
//! time to live), so that every write reaches the volume and a power cut is seen at once. Locks are
//! the kernel's own and go with their process.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use crate::contents::PAGE;
use crate::tree::{Kind, Target};
use crate::volume::Volume;

/// Nothing is remembered.
const TIME_TO_LIVE: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);
const NAME_MAX: u32 = 255;
/// `st_blocks` counts in these.
const STAT_BLOCK: u64 = 512;

type Listing = Vec<(u64, FileType, String)>;

struct Mounted {
    volume: Arc<Mutex<Volume>>,
    backing: PathBuf,
    /// What directory handles list: as it was when they were opened, so that no name is skipped
    /// as others go.
    listings: Mutex<BTreeMap<u64, Listing>>,
    next_handle: AtomicU64,
}

/// Mounts a volume until the session ends.
pub fn mount(
    volume: Arc<Mutex<Volume>>,
    backing: &Path,
    at: &Path,
) -> io::Result<BackgroundSession> {
    let mounted = Mounted {
        volume,
        backing: backing.to_owned(),
        listings: Mutex::new(BTreeMap::new()),
        next_handle: AtomicU64::new(1),
    };
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("faultdisk".to_owned()), MountOption::NoSuid, MountOption::NoDev];
    fuser::spawn_mount(mounted, at, &config)
}

fn utf8(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EILSEQ)
}

fn kind_of(kind: &Kind) -> FileType {
    match kind {
        Kind::Dir { .. } => FileType::Directory,
        Kind::File(_) => FileType::RegularFile,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::Socket => FileType::Socket,
    }
}

fn attributes(volume: &mut Volume, number: u64) -> Result<FileAttr, Errno> {
    let node = volume.tree()?.node(number)?;
    let (size, blocks, nlink) = match &node.kind {
        Kind::Dir { .. } => (PAGE, PAGE / STAT_BLOCK, 2),
        Kind::File(file) => (file.size(), file.allocated_bytes() / STAT_BLOCK, node.links),
        Kind::Symlink(target) => (target.len() as u64, 0, node.links),
        Kind::Socket => (0, 0, node.links),
    };
    Ok(FileAttr {
        ino: INodeNo(number),
        size,
        blocks,
        atime: node.modified,
        mtime: node.modified,
        ctime: node.modified,
        crtime: node.modified,
        kind: kind_of(&node.kind),
        perm: node.mode as u16,
        nlink,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: PAGE as u32,
        flags: 0,
    })
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Mounted {
    fn entry(&self, reply: ReplyEntry, find: impl FnOnce(&mut Volume) -> Result<u64, Errno>) {
        let mut volume = self.volume.lock();
        match find(&mut volume).and_then(|number| attributes(&mut volume, number)) {
            Ok(attr) => reply.entry(&TIME_TO_LIVE, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn opened(&self, number: u64, truncate: bool) -> Result<(), Errno> {
        let mut volume = self.volume.lock();
        if truncate {
            volume.set_len(number, 0)?;
        }
        volume.tree()?.node_mut(number)?.opens += 1;
        Ok(())
    }

    fn closed(&self, number: u64) {
        if let Ok(tree) = self.volume.lock().tree()
            && let Ok(node) = tree.node_mut(number)
        {
            node.opens = node.opens.saturating_sub(1);
        }
    }

    fn list(&self, number: u64) -> Result<Listing, Errno> {
        let mut volume = self.volume.lock();
        let tree = volume.tree()?;
        let parent = tree.node(number)?.place.0;
        let mut listing = vec![
            (number, FileType::Directory, ".".to_owned()),
            (parent, FileType::Directory, "..".to_owned()),
        ];
        for (name, number) in tree.names(number)? {
            listing.push((*number, kind_of(&tree.node(*number)?.kind), name.clone()));
        }
        Ok(listing)
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |volume| volume.tree()?.lookup(parent.0, utf8(name)?));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&mut self.volume.lock(), ino.0) {
            Ok(attr) => reply.attr(&TIME_TO_LIVE, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut volume = self.volume.lock();
        let mut set = || -> Result<FileAttr, Errno> {
            if let Some(size) = size {
                volume.set_len(ino.0, size)?;
            }
            let node = volume.tree()?.node_mut(ino.0)?;
            if let Some(mode) = mode {
                node.mode = mode & 0o7777;
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => node.modified = time,
                Some(TimeOrNow::Now) => node.modified = SystemTime::now(),
                None => {}
            }
            attributes(&mut volume, ino.0)
        };
        match set() {
            Ok(attr) => reply.attr(&TIME_TO_LIVE, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.volume.lock().tree().and_then(|tree| Ok(&tree.node(ino.0)?.kind)) {
            Ok(Kind::Symlink(target)) => reply.data(target.as_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.entry(reply, |volume| {
            let target = match mode & libc::S_IFMT {
                libc::S_IFREG => Target::File,
                libc::S_IFSOCK => Target::Socket,
                _ => return Err(Errno::EPERM),
            };
            volume.create(parent.0, utf8(name)?, mode & !umask, target)
        });
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.entry(reply, |volume| {
            volume.create(parent.0, utf8(name)?, mode & !umask, Target::Dir)
        });
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.entry(reply, |volume| {
            let target = utf8(target.as_os_str())?;
            volume.create(parent.0, utf8(name)?, 0o777, Target::Symlink(target))
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = utf8(name).and_then(|name| self.volume.lock().remove(parent.0, name, false));
        answer(reply, remove);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = utf8(name).and_then(|name| self.volume.lock().remove(parent.0, name, true));
        answer(reply, remove);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let (from, to) = ((parent.0, utf8(name)?), (newparent.0, utf8(newname)?));
            self.volume.lock().rename(from, to, flags.bits())
        };
        answer(reply, rename());
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.entry(reply, |volume| {
            volume.link(ino.0, newparent.0, utf8(newname)?)?;
            Ok(ino.0)
        });
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut volume = self.volume.lock();
        let mut create = || -> Result<FileAttr, Errno> {
            let number = volume.create(parent.0, utf8(name)?, mode & !umask, Target::File)?;
            volume.tree()?.node_mut(number)?.opens += 1;
            attributes(&mut volume, number)
        };
        match create() {
            Ok(attr) => reply.created(
                &TIME_TO_LIVE,
                &attr,
                GENERATION,
                FileHandle(0),
                FopenFlags::FOPEN_DIRECT_IO,
            ),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.opened(ino.0, flags.0 & libc::O_TRUNC != 0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.closed(ino.0);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // To close a file makes nothing durable.
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.volume.lock().read(ino.0, offset, u64::from(size)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.volume.lock().write(ino.0, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.volume.lock().fallocate(ino.0, mode, offset, length));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.volume.lock().sync(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.volume.lock().sync(ino.0));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(ino.0).and_then(|listing| self.opened(ino.0, false).map(|()| listing)) {
            Ok(listing) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                self.listings.lock().insert(handle, listing);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        // From the top: as it is now.
        if offset == 0 {
            match self.list(ino.0) {
                Ok(listing) => self.listings.lock().insert(fh.0, listing),
                Err(error) => return reply.error(error),
            };
        }
        let listings = self.listings.lock();
        let listing = listings.get(&fh.0).map_or(&[][..], Vec::as_slice);
        for (at, (number, kind, name)) in listing.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*number), at as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.lock().remove(&fh.0);
        self.closed(ino.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (capacity, used) = self.volume.lock().space();
        let (total, free) = match capacity {
            Some(capacity) => (capacity / PAGE, capacity.saturating_sub(used) / PAGE),
            None => match rustix::fs::statvfs(&self.backing) {
                Ok(stat) => {
                    (stat.f_blocks * stat.f_frsize / PAGE, stat.f_bavail * stat.f_frsize / PAGE)
                }
                Err(error) => return reply.error(Errno::from_i32(error.raw_os_error())),
            },
        };
        reply.statfs(total, free, free, 1 << 20, 1 << 20, PAGE as u32, NAME_MAX, PAGE as u32);
    }
}
