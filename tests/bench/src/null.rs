//! A file system that does nothing but answer: names and sizes in a table, bytes nowhere. What a program waits
//! for through it is the kernel and the way to a process and back, which no file system through FUSE avoids.
//! The kernel may keep all that it is told, for ever.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

const TIME_TO_LIVE: Duration = Duration::from_secs(24 * 3_600);
const GENERATION: Generation = Generation(0);
const ROOT: u64 = 1;
const REQUEST_BYTES: usize = 1 << 20;

struct Node {
    is_directory: bool,
    size: u64,
    names: BTreeMap<OsString, u64>,
}

struct Table {
    nodes: HashMap<u64, Node>,
    next: u64,
}

struct Null {
    table: Mutex<Table>,
    zeros: Vec<u8>,
}

/// Mounts one, empty, until what is returned is dropped.
pub fn mount(at: &Path) -> io::Result<BackgroundSession> {
    let root = Node { is_directory: true, size: 0, names: BTreeMap::new() };
    let table = Table { nodes: HashMap::from([(ROOT, root)]), next: ROOT + 1 };
    let null = Null { table: Mutex::new(table), zeros: vec![0; REQUEST_BYTES] };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("null".to_owned())];
    fuser::spawn_mount(null, at, &config)
}

fn attributes(number: u64, node: &Node) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(number),
        size: node.size,
        blocks: node.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if node.is_directory { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Table {
    fn node(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    fn child(&mut self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.node(parent)?.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn make(&mut self, parent: u64, name: &OsStr, is_directory: bool) -> Result<FileAttr, Errno> {
        if self.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let number = self.next;
        self.node(parent)?.names.insert(name.to_owned(), number);
        self.next += 1;
        let node = Node { is_directory, size: 0, names: BTreeMap::new() };
        let made = attributes(number, &node);
        self.nodes.insert(number, node);
        Ok(made)
    }

    fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        // The node stays: the kernel may have times of it to write back.
        self.node(parent)?.names.remove(name).map(drop).ok_or(Errno::ENOENT)
    }
}

impl Null {
    fn with<T>(&self, act: impl FnOnce(&mut Table) -> Result<T, Errno>) -> Result<T, Errno> {
        act(&mut self.table.lock().unwrap())
    }
}

fn entry(reply: ReplyEntry, made: Result<FileAttr, Errno>) {
    match made {
        Ok(made) => reply.entry(&TIME_TO_LIVE, &made, GENERATION),
        Err(error) => reply.error(error),
    }
}

fn attribute(reply: ReplyAttr, found: Result<FileAttr, Errno>) {
    match found {
        Ok(found) => reply.attr(&TIME_TO_LIVE, &found),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Null {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What a kernel lacks it goes without.
        let _ = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE);
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_write(REQUEST_BYTES as u32);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.with(|table| {
            let number = table.child(parent.0, name)?;
            Ok(attributes(number, table.node(number)?))
        });
        entry(reply, found);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attribute(reply, self.with(|table| Ok(attributes(ino.0, table.node(ino.0)?))));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.with(|table| {
            let node = table.node(ino.0)?;
            node.size = size.unwrap_or(node.size);
            Ok(attributes(ino.0, node))
        });
        attribute(reply, set);
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        entry(reply, self.with(|table| table.make(parent.0, name, true)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.with(|table| table.remove(parent.0, name)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.with(|table| table.remove(parent.0, name)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = self.with(|table| {
            let number = table.node(parent.0)?.names.remove(name).ok_or(Errno::ENOENT)?;
            table.node(newparent.0)?.names.insert(newname.to_owned(), number);
            Ok(())
        });
        empty(reply, moved);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let keep = FopenFlags::FOPEN_KEEP_CACHE;
        match self.with(|table| table.make(parent.0, name, false)) {
            Ok(made) => reply.created(&TIME_TO_LIVE, &made, GENERATION, FileHandle(0), keep),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
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
        match self.with(|table| Ok(table.node(ino.0)?.size.saturating_sub(offset))) {
            Ok(left) => {
                let length = (size as usize).min(REQUEST_BYTES).min(left as usize);
                reply.data(&self.zeros[..length]);
            }
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
        let written = self.with(|table| {
            let node = table.node(ino.0)?;
            node.size = node.size.max(offset + data.len() as u64);
            Ok(data.len() as u32)
        });
        match written {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut table = self.table.lock().unwrap();
        let names = table.node(ino.0).map(|node| node.names.clone()).unwrap_or_default();
        for (at, (name, number)) in names.iter().enumerate().skip(offset as usize) {
            let is_directory = table.node(*number).is_ok_and(|node| node.is_directory);
            let kind = if is_directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*number), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
