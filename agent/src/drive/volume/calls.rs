//! The calls of programs, one by one: most are one call to the agent.

use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_fuse::volume::{
    Allocation, Caller, Conflict, Cookie, Creation, Entry, Found, Handle, Ino, Known, Listed,
    ListedEntry, LockKind, LockOwner, LockRange, OpenFile, OpenFlags, Opened, OpenedDirectory,
    RenameMode, Seek, SetAttributes, Statfs, Volume, Write, XattrMode,
};
use nexusgrid_fuse::{Notices, Outcome, VolumeError};
use nexusgrid_grid::volume as grid;

use super::super::wire::{Answer, Call};
use super::convert::{self, kind_of, make};
use super::store::detached;
use super::{Drive, NOT_AT_ALL, NOTHING, Step, at, name, unexpected};

/// Size of a block, as `statfs` counts.
const BLOCK: u32 = 4096;

impl Volume for Drive {
    fn attach(&self, notices: Notices) {
        let _ = self.0.notices.set(notices);
    }

    async fn resume(&self, open: Vec<OpenFile>) -> Outcome<()> {
        // They are held: the daemon before had that done before it noted them, and the lease lasts.
        for file in open {
            self.0.files.open(file.ino, file.handle, file.flags);
        }
        if self.0.lease.is_some() {
            // If it does not, `follow` may have heard of it before anything was open here.
            if *self.0.line.lease().borrow() != self.0.lease {
                self.0.hold_again().await;
            }
            self.0.say_open();
        }
        Ok(())
    }

    async fn close(&self) -> Outcome<()> {
        let mut outcome = Ok(());
        for (ino, _) in self.0.dirty.files() {
            outcome = outcome.and(self.0.store(ino).await);
        }
        outcome.and(self.0.done(None, Call::Close).await)
    }

    async fn lookup(&self, _: &Caller, parent: Ino, name: &[u8]) -> Outcome<Found> {
        match self.0.fresh(Call::Lookup(at(parent), name.to_vec())).await {
            Ok(node) => Ok(Found::Entry(self.0.entry(&node)?)),
            Err(VolumeError::NotFound) => Ok(Found::Absent { valid: NOT_AT_ALL }),
            Err(error) => Err(error),
        }
    }

    /// Numbers are the volume's, for good: there is nothing to forget.
    fn forget(&self, _: Ino, _: u64) {}

    async fn getattr(&self, _: &Caller, ino: Ino, _: Option<Handle>) -> Outcome<Known> {
        self.0.known_by_number(ino).await
    }

    async fn setattr(
        &self,
        caller: &Caller,
        ino: Ino,
        _: Option<Handle>,
        set: &SetAttributes,
    ) -> Outcome<Known> {
        let change = convert::change(set);
        match (change == grid::AttrsChange::default(), set.size) {
            (true, None) => self.0.known(&self.0.fresh(Call::Node(at(ino))).await?),
            (_, size) => self.0.set(name(caller, Step::Only), ino, change, size).await,
        }
    }

    async fn readlink(&self, _: &Caller, ino: Ino) -> Outcome<Vec<u8>> {
        match self.0.node(None, Call::Node(at(ino))).await?.kind {
            grid::NodeKind::Special(grid::Special::Symlink(target)) => Ok(target),
            _ => Err(VolumeError::Invalid),
        }
    }

    async fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        new: &[u8],
        creation: &Creation,
    ) -> Outcome<Entry> {
        let call = Call::Make(at(parent), new.to_vec(), make(caller, creation, false)?);
        let node = self.0.node(name(caller, Step::Only), call).await?;
        self.0.entry(&node)
    }

    async fn mkdir(
        &self,
        caller: &Caller,
        parent: Ino,
        new: &[u8],
        creation: &Creation,
    ) -> Outcome<Entry> {
        self.mknod(caller, parent, new, creation).await
    }

    async fn unlink(&self, caller: &Caller, parent: Ino, old: &[u8]) -> Outcome<()> {
        self.0.done(name(caller, Step::Only), Call::Unlink(at(parent), old.to_vec())).await
    }

    async fn rmdir(&self, caller: &Caller, parent: Ino, old: &[u8]) -> Outcome<()> {
        self.0.done(name(caller, Step::Only), Call::Rmdir(at(parent), old.to_vec())).await
    }

    async fn symlink(
        &self,
        caller: &Caller,
        parent: Ino,
        new: &[u8],
        target: &[u8],
    ) -> Outcome<Entry> {
        let creation = convert::symlink(caller, target);
        let call = Call::Make(at(parent), new.to_vec(), creation);
        let node = self.0.node(name(caller, Step::Only), call).await?;
        self.0.entry(&node)
    }

    async fn rename(
        &self,
        caller: &Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Outcome<()> {
        let mode = match mode {
            RenameMode::Replace => grid::RenameMode::Replace,
            RenameMode::NoReplace => grid::RenameMode::NoReplace,
            RenameMode::Exchange => grid::RenameMode::Exchange,
        };
        let (from, to) = ((at(from.0), from.1.to_vec()), (at(to.0), to.1.to_vec()));
        self.0.done(name(caller, Step::Only), Call::Rename(from, to, mode)).await
    }

    async fn link(&self, caller: &Caller, ino: Ino, parent: Ino, new: &[u8]) -> Outcome<Entry> {
        let call = Call::Link(at(ino), at(parent), new.to_vec());
        let node = self.0.node(name(caller, Step::Only), call).await?;
        self.0.entry(&node)
    }

    async fn open(
        &self,
        caller: &Caller,
        ino: Ino,
        flags: OpenFlags,
        handle: Handle,
    ) -> Outcome<Opened> {
        if grid::is_past(at(ino)) && (flags.writes() || flags.truncates()) {
            return Err(VolumeError::ReadOnly);
        }
        let opened = self.0.opened(ino, handle, flags, false).await?;
        if flags.truncates()
            && let Err(error) = self.0.set(name(caller, Step::Then), ino, NOTHING, Some(0)).await
        {
            self.0.let_go(handle).await;
            return Err(error);
        }
        Ok(opened)
    }

    async fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        new: &[u8],
        creation: &Creation,
        flags: OpenFlags,
        handle: Handle,
    ) -> Outcome<(Entry, Opened)> {
        let call = Call::Make(at(parent), new.to_vec(), make(caller, creation, true)?);
        match self.0.node(name(caller, Step::Only), call).await {
            Ok(node) => {
                let entry = self.0.entry(&node)?;
                let ino = entry.known.attributes.ino;
                let opened = self.0.opened(ino, handle, flags, true).await?;
                Ok((entry, opened))
            }
            // Made by somebody else meanwhile: the kernel looks again, and at its permissions.
            Err(VolumeError::Exists) if !flags.exclusive() => Err(VolumeError::Stale),
            Err(error) => Err(error),
        }
    }

    async fn read(
        &self,
        _: &Caller,
        ino: Ino,
        handle: Handle,
        offset: u64,
        length: u32,
    ) -> Outcome<Bytes> {
        self.0.files.is_had(ino, handle);
        self.0.read(ino, offset, u64::from(length)).await
    }

    async fn write(&self, caller: &Caller, ino: Ino, handle: Handle, write: Write) -> Outcome<u32> {
        let length = u32::try_from(write.data.len()).map_err(|_| VolumeError::Invalid)?;
        if length == 0 {
            return Ok(0);
        }
        let end = write.offset.checked_add(u64::from(length)).ok_or(VolumeError::TooLarge)?;
        if end > grid::FILE_BYTES_MAX {
            return Err(VolumeError::TooLarge);
        }
        if !write.from_cache && self.0.files.appends(handle) {
            let (inner, name) = (Arc::clone(&self.0), name(caller, Step::Only));
            let place = detached(async move {
                let _turn = inner.files.storing(ino).await;
                inner.store_alone(ino).await?;
                match inner.call(name, Call::Append(at(ino)), write.data).await? {
                    (Answer::Appended(_, offset), _) => Ok(offset),
                    _ => Err(unexpected("for an append")),
                }
            });
            let place = place.await?;
            if place != write.offset {
                // The kernel has put them into its pages where it took the file's end to be.
                let (inner, from) = (Arc::clone(&self.0), place.min(write.offset));
                tokio::spawn(async move { inner.forget_pages(ino, from).await });
            }
            return Ok(length);
        }
        self.0.take(ino, write.offset, &write.data).await?;
        Ok(length)
    }

    async fn flush(&self, _: &Caller, ino: Ino, handle: Handle, owner: LockOwner) -> Outcome<()> {
        self.0.files.is_had(ino, handle);
        let stored = self.0.store(ino).await;
        if self.0.files.may_lock(ino, owner) {
            self.0.done(None, Call::UnlockAll(at(ino), owner.0)).await?;
            self.0.files.unlocked(ino, owner);
        }
        stored
    }

    async fn release(
        &self,
        _: &Caller,
        ino: Ino,
        handle: Handle,
        flock_owner: Option<LockOwner>,
    ) -> Outcome<()> {
        self.0.files.is_had(ino, handle);
        // Whoever wanted to know has asked before; what could not be stored is tried again.
        if let Err(error) = self.0.store(ino).await {
            tracing::warn!(ino = ino.0, %error, "a file is closed, and its bytes wait");
        }
        let mut owners = self.0.files.owners(ino, handle);
        owners.extend(flock_owner.filter(|owner| self.0.files.may_lock(ino, *owner)));
        let mut outcome = Ok(());
        for owner in owners {
            outcome = outcome.and(self.0.done(None, Call::UnlockAll(at(ino), owner.0)).await);
            self.0.files.unlocked(ino, owner);
        }
        self.0.let_go(handle).await;
        outcome
    }

    async fn fsync(&self, _: &Caller, ino: Ino, _: Handle, _: bool) -> Outcome<()> {
        self.0.store(ino).await?;
        self.0.sync().await
    }

    async fn opendir(&self, _: &Caller, _: Ino) -> Outcome<OpenedDirectory> {
        Ok(OpenedDirectory::default())
    }

    async fn readdir(
        &self,
        _: &Caller,
        ino: Ino,
        after: Cookie,
        max: usize,
    ) -> Outcome<Vec<Listed>> {
        let listed = self.0.listed(ino, after, max).await?;
        listed
            .into_iter()
            .map(|(name, node, cookie)| {
                let kind = kind_of(&node.kind);
                let ino = Ino(node.ino.ok_or(VolumeError::Io)?.0);
                Ok(Listed { name, ino, kind, cookie: Cookie(cookie) })
            })
            .collect()
    }

    async fn readdirplus(
        &self,
        _: &Caller,
        ino: Ino,
        after: Cookie,
        max: usize,
    ) -> Outcome<Vec<ListedEntry>> {
        let listed = self.0.listed(ino, after, max).await?;
        listed
            .into_iter()
            .map(|(name, node, cookie)| {
                Ok(ListedEntry { name, entry: self.0.entry(&node)?, cookie: Cookie(cookie) })
            })
            .collect()
    }

    async fn fsyncdir(&self, _: &Caller, _: Ino) -> Outcome<()> {
        self.0.sync().await
    }

    async fn statfs(&self, _: &Caller, _: Ino) -> Outcome<Statfs> {
        let (Answer::Space { bytes, free, nodes, nodes_free }, _) =
            self.0.call(None, Call::Space, Bytes::new()).await?
        else {
            return Err(unexpected("for space"));
        };
        let blocks = |bytes: u64| bytes / u64::from(BLOCK);
        Ok(Statfs {
            block: BLOCK,
            blocks: blocks(bytes),
            free: blocks(free),
            inodes: nodes,
            inodes_free: nodes_free,
        })
    }

    async fn getxattr(&self, _: &Caller, ino: Ino, xattr: &[u8]) -> Outcome<Bytes> {
        let call = Call::Xattr(at(ino), xattr.to_vec());
        Ok(self.0.call(None, call, Bytes::new()).await?.1)
    }

    async fn listxattr(&self, _: &Caller, ino: Ino) -> Outcome<Vec<Vec<u8>>> {
        match self.0.call(None, Call::Xattrs(at(ino)), Bytes::new()).await? {
            (Answer::Names(names), _) => Ok(names),
            _ => Err(unexpected("for names of attributes")),
        }
    }

    async fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        xattr: &[u8],
        value: Bytes,
        mode: XattrMode,
    ) -> Outcome<()> {
        let when = match mode {
            XattrMode::Either => grid::XattrWhen::Either,
            XattrMode::Create => grid::XattrWhen::Create,
            XattrMode::Replace => grid::XattrWhen::Replace,
        };
        let call = Call::SetXattr(at(ino), xattr.to_vec(), when);
        self.0.call(name(caller, Step::Only), call, value).await.map(drop)
    }

    async fn removexattr(&self, caller: &Caller, ino: Ino, xattr: &[u8]) -> Outcome<()> {
        self.0.done(name(caller, Step::Only), Call::RemoveXattr(at(ino), xattr.to_vec())).await
    }

    async fn getlk(
        &self,
        _: &Caller,
        ino: Ino,
        _: Handle,
        owner: LockOwner,
        range: LockRange,
        kind: LockKind,
    ) -> Outcome<Option<Conflict>> {
        let call = Call::Conflict(at(ino), owner.0, convert::range(range), convert::lock(kind));
        match self.0.call(None, call, Bytes::new()).await? {
            (Answer::Conflict(held), _) => Ok(held.map(|held| convert::conflict(&held))),
            _ => Err(unexpected("for a lock")),
        }
    }

    async fn setlk(
        &self,
        caller: &Caller,
        ino: Ino,
        handle: Handle,
        owner: LockOwner,
        range: LockRange,
        kind: Option<LockKind>,
        wait: bool,
    ) -> Outcome<()> {
        // Whoever has the lock next must see what was written under it.
        if kind != Some(LockKind::Exclusive) {
            if self.0.files.may_be_mapped(ino) {
                self.0.forget_pages(ino, 0).await;
            }
            self.0.store(ino).await?;
        }
        if kind.is_some() {
            self.0.files.locks(ino, owner, handle)?;
        }
        let call = Call::Lock {
            ino: at(ino),
            owner: owner.0,
            pid: caller.pid,
            range: convert::range(range),
            kind: kind.map(convert::lock),
            wait: wait && kind.is_some(),
        };
        self.0.done(name(caller, Step::Only), call).await?;
        if kind.is_some() {
            self.0.forget_pages(ino, 0).await;
        }
        Ok(())
    }

    async fn fallocate(
        &self,
        caller: &Caller,
        ino: Ino,
        _: Handle,
        offset: u64,
        length: u64,
        what: Allocation,
    ) -> Outcome<()> {
        let end = offset.checked_add(length).ok_or(VolumeError::TooLarge)?;
        if end > grid::FILE_BYTES_MAX {
            return Err(VolumeError::TooLarge);
        }
        let keep_size = match what {
            Allocation::Punch => true,
            Allocation::Zero { keep_size } | Allocation::Reserve { keep_size } => keep_size,
        };
        let inner = Arc::clone(&self.0);
        let names = (name(caller, Step::Only), name(caller, Step::Then));
        detached(async move {
            let _turn = inner.files.storing(ino).await;
            inner.store_alone(ino).await?;
            if !matches!(what, Allocation::Reserve { .. }) {
                inner.node(names.0, Call::Punch(at(ino), offset, length)).await?;
            }
            if !keep_size {
                inner.node(names.1, Call::Lengthen(at(ino), end)).await?;
            }
            Ok(())
        })
        .await
    }

    async fn lseek(
        &self,
        _: &Caller,
        ino: Ino,
        _: Handle,
        offset: u64,
        what: Seek,
    ) -> Outcome<u64> {
        self.0.store(ino).await?;
        let call = Call::Seek(at(ino), offset, what == Seek::Data);
        match self.0.call(None, call, Bytes::new()).await? {
            (Answer::Offset(offset), _) => Ok(offset),
            _ => Err(unexpected("for a place in a file")),
        }
    }

    async fn copy_file_range(
        &self,
        caller: &Caller,
        from: (Ino, Handle, u64),
        to: (Ino, Handle, u64),
        length: u64,
    ) -> Outcome<u64> {
        self.0.store(from.0).await?;
        let (inner, name) = (Arc::clone(&self.0), name(caller, Step::Only));
        detached(async move {
            let _turn = inner.files.storing(to.0).await;
            inner.store_alone(to.0).await?;
            let call = Call::CopyRange((at(from.0), from.2), (at(to.0), to.2), length);
            match inner.call(name, call, Bytes::new()).await? {
                (Answer::Offset(copied), _) => Ok(copied),
                _ => Err(unexpected("for a number of bytes")),
            }
        })
        .await
    }
}
