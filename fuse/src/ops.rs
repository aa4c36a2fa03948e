//! FUSE's calls, one by one. No decision stands here that is not the protocol's.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::adapter::{Adapter, fopen};
use crate::calls::{Bound, Patience};
use crate::error::{Outcome, VolumeError};
use crate::limits;
use crate::readers;
use crate::squash::{CHANGE, READ, SEARCH, WRITE};
use crate::translate::{self, Shown, errno};
use crate::volume::{
    Cookie, Creation, Found, Handle, Ino, Kind, Known, LockOwner, LockRange, OpenFlags,
    SetAttributes, Volume, Write,
};

/// Where the entries `.` and `..` end.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// What the parent's number is called in a listing: nobody goes by it.
const UNKNOWN: Ino = Ino(u32::MAX as u64);

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn handle(number: FileHandle) -> Handle {
    Handle(number.0)
}

/// Names the values that a call's future takes along.
macro_rules! with {
    ($shared:ident, $asker:ident = $adapter:expr, $request:expr) => {
        let $shared = std::sync::Arc::clone(&$adapter.0);
        let $asker = $shared.asker($request);
    };
}

/// Takes what an outcome holds, or answers with its error.
macro_rules! or_error {
    ($outcome:expr, $reply:ident) => {
        match $outcome {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(error)),
        }
    };
}

fn entry(reply: ReplyEntry) -> impl FnOnce(Outcome<Shown>) + Send {
    move |outcome| match outcome {
        Ok(shown) => reply.entry_with_ttls(
            &shown.attr_valid,
            &shown.name_valid,
            &shown.attr,
            shown.generation,
        ),
        Err(error) => reply.error(errno(error)),
    }
}

fn empty(reply: ReplyEmpty) -> impl FnOnce(Outcome<()>) + Send {
    move |outcome| match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn attr(reply: ReplyAttr) -> impl FnOnce(Outcome<(fuser::FileAttr, Duration)>) + Send {
    move |outcome| match outcome {
        Ok((attr, valid)) => reply.attr(&valid, &attr),
        Err(error) => reply.error(errno(error)),
    }
}

/// Size of an extended attribute, or its bytes if they fit.
fn xattr(reply: ReplyXattr, size: u32) -> impl FnOnce(Outcome<Bytes>) + Send {
    move |outcome| match outcome {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&value),
            _ => reply.error(fuser::Errno::ERANGE),
        },
        Err(error) => reply.error(errno(error)),
    }
}

impl<V: Volume> Filesystem for Adapter<V> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = self.options.capabilities() & config.capabilities();
        // Of what the kernel offers, so nothing is refused; sizes are cut to what it takes.
        let _ = config.add_capabilities(wanted);
        let _ = config.set_max_write(limits::REQUEST_BYTES_MAX);
        let _ = config.set_max_background(limits::BACKGROUND_REQUESTS);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == readers::NO_INODE {
            reply.error(fuser::Errno::ENOENT);
            return self.rehearsal.attend(name.as_encoded_bytes());
        }
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let work = async move {
            shared.allow(&asker, ino(parent), SEARCH).await?;
            Ok(match shared.volume.lookup(&asker.caller, ino(parent), &name).await? {
                Found::Entry(entry) => Ok(shared.shown(&entry)),
                Found::Absent { valid } => Err(valid),
            })
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(Err(Duration::ZERO)) => reply.error(fuser::Errno::ENOENT),
            // Inode 0: the kernel remembers that there is none.
            Ok(Err(valid)) => reply.entry_with_ttls(
                &Duration::ZERO,
                &valid,
                &translate::placeholder(Ino(0)),
                Generation(0),
            ),
            Ok(Ok(shown)) => entry(reply)(Ok(shown)),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, references: u64) {
        self.volume.forget(ino(number), references);
    }

    fn getattr(
        &self,
        request: &Request,
        number: INodeNo,
        fh: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        with!(shared, asker = self, request);
        let work = async move {
            let known = shared.volume.getattr(&asker.caller, ino(number), fh.map(handle)).await?;
            Ok(shared.known(&known))
        };
        self.calls.run(asker.call(Patience::Killed), work, attr(reply));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        changed: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        with!(shared, asker = self, request);
        let identity = &self.options.identity;
        let set = SetAttributes {
            permissions: mode.map(translate::permissions),
            uid: uid.map(|uid| identity.user_in(uid)),
            gid: gid.map(|gid| identity.group_in(gid)),
            size,
            accessed: accessed.map(translate::set_time),
            modified: modified.map(translate::set_time),
            changed: changed.map(translate::timestamp_in),
        };
        let work = async move {
            // Through an open file the right to write was checked when it was opened.
            if fh.is_none() {
                shared.allow_set(&asker, ino(number), &set).await?;
            }
            let fh = fh.map(handle);
            let known: Known = shared.volume.setattr(&asker.caller, ino(number), fh, &set).await?;
            Ok(shared.known(&known))
        };
        self.calls.run(asker.call(Patience::Killed), work, attr(reply));
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        with!(shared, asker = self, request);
        let work = async move { shared.volume.readlink(&asker.caller, ino(number)).await };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let kind = or_error!(translate::kind(mode), reply);
        let creation = creation(kind, mode, umask, device);
        let work = async move {
            shared.allow(&asker, ino(parent), CHANGE).await?;
            let made = shared.volume.mknod(&asker.caller, ino(parent), &name, &creation).await?;
            Ok(shared.shown(&made))
        };
        self.calls.run(asker.call(Patience::Killed), work, entry(reply));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let creation = creation(Kind::Directory, mode, umask, 0);
        let work = async move {
            shared.allow(&asker, ino(parent), CHANGE).await?;
            let made = shared.volume.mkdir(&asker.caller, ino(parent), &name, &creation).await?;
            Ok(shared.shown(&made))
        };
        self.calls.run(asker.call(Patience::Killed), work, entry(reply));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let work = async move {
            shared.allow_removal(&asker, ino(parent), &name).await?;
            shared.volume.unlink(&asker.caller, ino(parent), &name).await
        };
        self.calls.run(asker.call(Patience::Killed), work, empty(reply));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let work = async move {
            shared.allow_removal(&asker, ino(parent), &name).await?;
            shared.volume.rmdir(&asker.caller, ino(parent), &name).await
        };
        self.calls.run(asker.call(Patience::Killed), work, empty(reply));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let target = target.as_os_str().as_bytes().to_vec();
        if target.len() > limits::TARGET_BYTES {
            return reply.error(errno(VolumeError::NameTooLong));
        }
        let work = async move {
            shared.allow(&asker, ino(parent), CHANGE).await?;
            let made = shared.volume.symlink(&asker.caller, ino(parent), &name, &target).await?;
            Ok(shared.shown(&made))
        };
        self.calls.run(asker.call(Patience::Killed), work, entry(reply));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let new_name = or_error!(translate::name(new_name), reply);
        let mode = or_error!(translate::rename_mode(flags), reply);
        let work = async move {
            shared.allow_removal(&asker, ino(parent), &name).await?;
            shared.allow_removal(&asker, ino(new_parent), &new_name).await?;
            let (from, to) =
                ((ino(parent), name.as_slice()), (ino(new_parent), new_name.as_slice()));
            shared.volume.rename(&asker.caller, from, to, mode).await
        };
        self.calls.run(asker.call(Patience::Killed), work, empty(reply));
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let work = async move {
            shared.allow(&asker, ino(parent), CHANGE).await?;
            let linked = shared.volume.link(&asker.caller, ino(number), ino(parent), &name).await?;
            Ok(shared.shown(&linked))
        };
        self.calls.run(asker.call(Patience::Killed), work, entry(reply));
    }

    fn open(&self, request: &Request, number: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        with!(shared, asker = self, request);
        let flags = OpenFlags(flags.0);
        let work = async move {
            let number = ino(number);
            shared.allow_open(&asker, number, flags).await?;
            shared
                .opening(&asker.caller, flags, async |handle| {
                    let opened = shared.volume.open(&asker.caller, number, flags, handle).await?;
                    Ok((number, opened))
                })
                .await
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok((handle, opened)) => reply.opened(FileHandle(handle.0), fopen(opened)),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        with!(shared, asker = self, request);
        let name = or_error!(translate::name(name), reply);
        let flags = OpenFlags(flags);
        let creation = creation(Kind::File, mode, umask, 0);
        let work = async move {
            shared.allow(&asker, ino(parent), CHANGE).await?;
            let (handle, (shown, opened)) = shared
                .opening(&asker.caller, flags, async |handle| {
                    let (entry, opened) = shared
                        .volume
                        .create(&asker.caller, ino(parent), &name, &creation, flags, handle)
                        .await?;
                    Ok((entry.known.attributes.ino, (shared.shown(&entry), opened)))
                })
                .await?;
            Ok((shown, handle, opened))
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok((shown, handle, opened)) => reply.created(
                &shown.valid(),
                &shown.attr,
                shown.generation,
                FileHandle(handle.0),
                fopen(opened),
            ),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: fuser::OpenFlags,
        _: Option<fuser::LockOwner>,
        reply: ReplyData,
    ) {
        with!(shared, asker = self, request);
        let work = async move {
            shared.volume.read(&asker.caller, ino(number), handle(fh), offset, size).await
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(data) => reply.data(data.get(..size as usize).unwrap_or(&data)),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: fuser::OpenFlags,
        _: Option<fuser::LockOwner>,
        reply: ReplyWrite,
    ) {
        with!(shared, asker = self, request);
        let write = Write {
            offset,
            data: Bytes::copy_from_slice(data),
            from_cache: flags.contains(WriteFlags::FUSE_WRITE_CACHE),
        };
        let work =
            async move { shared.volume.write(&asker.caller, ino(number), handle(fh), write).await };
        self.calls.run(asker.call(Patience::Time), work, move |outcome| match outcome {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn flush(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        owner: fuser::LockOwner,
        reply: ReplyEmpty,
    ) {
        with!(shared, asker = self, request);
        let work = async move {
            shared.volume.flush(&asker.caller, ino(number), handle(fh), LockOwner(owner.0)).await
        };
        self.calls.run(asker.call(Patience::Time), work, empty(reply));
    }

    fn release(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        _: fuser::OpenFlags,
        owner: Option<fuser::LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        with!(shared, asker = self, request);
        let owner = owner.map(|owner| LockOwner(owner.0));
        let work = async move {
            let outcome =
                shared.volume.release(&asker.caller, ino(number), handle(fh), owner).await;
            shared.handles.released(handle(fh));
            outcome
        };
        self.calls.run(asker.call(Patience::Time), work, empty(reply));
    }

    fn fsync(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        with!(shared, asker = self, request);
        let work = async move {
            shared.volume.fsync(&asker.caller, ino(number), handle(fh), data_only).await
        };
        self.calls.run(asker.call(Patience::Killed), work, empty(reply));
    }

    fn opendir(&self, request: &Request, number: INodeNo, _: fuser::OpenFlags, reply: ReplyOpen) {
        with!(shared, asker = self, request);
        let work = async move {
            shared.allow(&asker, ino(number), READ).await?;
            shared.volume.opendir(&asker.caller, ino(number)).await
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(opened) => {
                let mut flags = FopenFlags::empty();
                if opened.cache {
                    flags |= FopenFlags::FOPEN_CACHE_DIR;
                }
                if opened.keep {
                    flags |= FopenFlags::FOPEN_KEEP_CACHE;
                }
                reply.opened(FileHandle(0), flags);
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdir(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        with!(shared, asker = self, request);
        let work = async move {
            let after = behind_dots(offset);
            shared.volume.readdir(&asker.caller, ino(number), after, limits::LISTED_MAX).await
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(listed) => {
                for (name, ino, at) in dots(ino(number), offset) {
                    if reply.add(INodeNo(ino.0), at, fuser::FileType::Directory, OsStr::new(name)) {
                        return reply.ok();
                    }
                }
                for one in listed {
                    let name = OsStr::from_bytes(&one.name);
                    let kind = translate::file_type(one.kind);
                    if reply.add(INodeNo(one.ino.0), one.cookie.0, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        with!(shared, asker = self, request);
        let back = std::sync::Arc::clone(&shared);
        let work = async move {
            let after = behind_dots(offset);
            shared
                .volume
                .readdirplus(&asker.caller, ino(number), after, limits::LISTED_PLUS_MAX)
                .await
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(listed) => {
                let mut full = false;
                for (name, ino, at) in dots(ino(number), offset) {
                    let attr = translate::placeholder(ino);
                    let none = Duration::ZERO;
                    let name = OsStr::new(name);
                    full = full || reply.add(INodeNo(ino.0), at, name, &none, &attr, Generation(0));
                }
                for one in listed {
                    let shown = back.shown(&one.entry);
                    let name = OsStr::from_bytes(&one.name);
                    let (at, valid) = (one.cookie.0, shown.valid());
                    let (number, generation) = (shown.attr.ino, shown.generation);
                    full = full || reply.add(number, at, name, &valid, &shown.attr, generation);
                    if full {
                        back.volume.forget(ino(number), 1);
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn fsyncdir(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        _: bool,
        reply: ReplyEmpty,
    ) {
        with!(shared, asker = self, request);
        let work = async move { shared.volume.fsyncdir(&asker.caller, ino(number)).await };
        self.calls.run(asker.call(Patience::Killed), work, empty(reply));
    }

    fn statfs(&self, request: &Request, number: INodeNo, reply: ReplyStatfs) {
        with!(shared, asker = self, request);
        let work = async move { shared.volume.statfs(&asker.caller, ino(number)).await };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(all) => reply.statfs(
                all.blocks,
                all.free,
                all.free,
                all.inodes,
                all.inodes_free,
                all.block,
                limits::NAME_BYTES as u32,
                all.block,
            ),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        with!(shared, asker = self, request);
        let mode = or_error!(translate::xattr_mode(flags), reply);
        if value.len() > limits::XATTR_BYTES {
            return reply.error(errno(VolumeError::AttributeTooLarge));
        }
        let (name, value) = (name.as_bytes().to_vec(), Bytes::copy_from_slice(value));
        let work = async move {
            allow_xattr(&shared, &asker, ino(number), &name).await?;
            shared.volume.setxattr(&asker.caller, ino(number), &name, value, mode).await
        };
        self.calls.run(asker.call(Patience::Killed), work, empty(reply));
    }

    fn getxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        with!(shared, asker = self, request);
        let name = name.as_bytes().to_vec();
        let work = async move {
            if name.starts_with(b"user.") {
                shared.allow(&asker, ino(number), READ).await?;
            }
            shared.volume.getxattr(&asker.caller, ino(number), &name).await
        };
        self.calls.run(asker.call(Patience::Killed), work, xattr(reply, size));
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        with!(shared, asker = self, request);
        let work = async move {
            let names = shared.volume.listxattr(&asker.caller, ino(number)).await?;
            let mut list = Vec::new();
            for name in names {
                list.extend_from_slice(&name);
                list.push(0);
            }
            if list.len() > limits::XATTR_BYTES {
                return Err(VolumeError::AttributeTooLarge);
            }
            Ok(Bytes::from(list))
        };
        self.calls.run(asker.call(Patience::Killed), work, xattr(reply, size));
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        with!(shared, asker = self, request);
        let name = name.as_bytes().to_vec();
        let work = async move {
            allow_xattr(&shared, &asker, ino(number), &name).await?;
            shared.volume.removexattr(&asker.caller, ino(number), &name).await
        };
        self.calls.run(asker.call(Patience::Killed), work, empty(reply));
    }

    fn getlk(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        owner: fuser::LockOwner,
        first: u64,
        last: u64,
        kind: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        with!(shared, asker = self, request);
        let Some(kind) = or_error!(translate::lock_kind(kind), reply) else {
            return reply.error(errno(VolumeError::Invalid));
        };
        let range = LockRange { first, last };
        let work = async move {
            let (number, owner) = (ino(number), LockOwner(owner.0));
            shared.volume.getlk(&asker.caller, number, handle(fh), owner, range, kind).await
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(None) => reply.locked(first, last, libc::F_UNLCK, 0),
            Ok(Some(other)) => reply.locked(
                other.range.first,
                other.range.last,
                translate::lock_kind_out(other.kind),
                other.pid,
            ),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn setlk(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        owner: fuser::LockOwner,
        first: u64,
        last: u64,
        kind: i32,
        _: u32,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        with!(shared, asker = self, request);
        let kind = or_error!(translate::lock_kind(kind), reply);
        let range = LockRange { first, last };
        let patience = match (wait, kind) {
            (true, _) => Patience::Signal,
            // A lock that is not let go would stay behind its process.
            (false, None) => Patience::Time,
            (false, Some(_)) => Patience::Killed,
        };
        let bound = if kind.is_some() { Bound::Locks } else { Bound::Threads };
        let work = async move {
            let (number, owner) = (ino(number), LockOwner(owner.0));
            shared.volume.setlk(&asker.caller, number, handle(fh), owner, range, kind, wait).await
        };
        self.calls.run(asker.call_within(patience, bound), work, empty(reply));
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        with!(shared, asker = self, request);
        let what = or_error!(translate::allocation(mode), reply);
        let work = async move {
            let (number, fh) = (ino(number), handle(fh));
            shared.volume.fallocate(&asker.caller, number, fh, offset, length, what).await
        };
        self.calls.run(asker.call(Patience::Killed), work, empty(reply));
    }

    fn lseek(
        &self,
        request: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        with!(shared, asker = self, request);
        let what = or_error!(translate::seek(whence), reply);
        let offset = or_error!(u64::try_from(offset).map_err(|_| VolumeError::NoData), reply);
        let work = async move {
            let found = shared.volume.lseek(&asker.caller, ino(number), handle(fh), offset, what);
            i64::try_from(found.await?).map_err(|_| VolumeError::TooLarge)
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(found) => reply.offset(found),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        from_fh: FileHandle,
        from_offset: u64,
        to: INodeNo,
        to_fh: FileHandle,
        to_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        with!(shared, asker = self, request);
        // The answer is a 32-bit number; programs ask again for the rest. Whole pages of that.
        let length = length.min(u64::from(u32::MAX) & !4095);
        let work = async move {
            let from = (ino(from), handle(from_fh), from_offset);
            let to = (ino(to), handle(to_fh), to_offset);
            let copied = shared.volume.copy_file_range(&asker.caller, from, to, length).await?;
            u32::try_from(copied).map_err(|_| VolumeError::Io)
        };
        self.calls.run(asker.call(Patience::Killed), work, move |outcome| match outcome {
            Ok(copied) => reply.written(copied),
            Err(error) => reply.error(errno(error)),
        });
    }
}

fn creation(kind: Kind, mode: u32, umask: u32, device: u32) -> Creation {
    Creation {
        kind,
        permissions: translate::permissions(mode),
        umask: translate::permissions(umask),
        device,
    }
}

/// Attributes of users need the right to write; those of the system are the owner's.
async fn allow_xattr<V: Volume>(
    shared: &crate::adapter::Shared<V>,
    asker: &crate::adapter::Asker,
    ino: Ino,
    name: &[u8],
) -> Outcome<()> {
    if name.starts_with(b"user.") {
        shared.allow(asker, ino, WRITE).await
    } else {
        shared.allow_owner(asker, ino).await
    }
}

/// The cookie that an offset of the kernel's stands for.
fn behind_dots(offset: u64) -> Cookie {
    if offset <= DOT_DOT { Cookie::START } else { Cookie(offset) }
}

/// Of `.` and `..`, what comes behind an offset.
fn dots(directory: Ino, offset: u64) -> impl Iterator<Item = (&'static str, Ino, u64)> {
    [(".", directory, DOT), ("..", UNKNOWN, DOT_DOT)].into_iter().filter(move |dot| dot.2 > offset)
}
