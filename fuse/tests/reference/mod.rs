//! A volume in memory that keeps every rule: what the adapter is tested with, the model for
//! property tests, and the null file system of the benchmarks. With a log in a file it outlives its
//! process: each command is written there before it is answered.

mod acl;
mod locks;
mod pages;
mod state;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nexusgrid_fuse::volume::{
    Allocation, Caller, Conflict, Cookie, Creation, Entry, Found, Handle, Ino, Known, Listed,
    ListedEntry, LockKind, LockOwner, LockRange, OpenFile, OpenFlags, Opened, OpenedDirectory,
    RenameMode, Seek, SetAttributes, SetTime, Statfs, Timestamp, Volume, Write, XattrMode,
};
use nexusgrid_fuse::{Notices, Outcome, VolumeError};
use serde::{Deserialize, Serialize};
use state::{Answer, Command, State, Time, Who};
use tokio::sync::Notify;

#[derive(Serialize, Deserialize)]
struct Logged {
    who: Who,
    now: Timestamp,
    command: Command,
}

struct Inner {
    state: State,
    log: Option<(File, u64)>,
}

pub struct Reference {
    inner: Mutex<Inner>,
    unlocked: Notify,
    notices: OnceLock<Notices>,
    /// How long the kernel may believe what it is told.
    valid: Duration,
    /// A name whose lookup ends the process.
    deadly: OnceLock<Vec<u8>>,
    /// A name whose lookup is never answered.
    slow: OnceLock<Vec<u8>>,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() }
}

impl Reference {
    pub fn new(valid: Duration) -> Self {
        Self::with(valid, State::new(now()), None)
    }

    /// Takes up what a log says, and continues it.
    pub fn logged(valid: Duration, log: File) -> Self {
        let mut bytes = vec![0; log.metadata().unwrap().len() as usize];
        log.read_exact_at(&mut bytes, 0).unwrap();
        let mut state = State::new(Timestamp::default());
        let mut at = 0;
        // The last one may be half there: then its command was not answered.
        while let Some(length) = bytes.get(at..at + 4) {
            let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
            let Some(command) = bytes.get(at + 4..at + 4 + length) else { break };
            let Ok(logged) = postcard::from_bytes::<Logged>(command) else { break };
            let _ = state.apply(&logged.who, logged.now, logged.command);
            at += 4 + length;
        }
        Self::with(valid, state, Some((log, at as u64)))
    }

    fn with(valid: Duration, state: State, log: Option<(File, u64)>) -> Self {
        Self {
            inner: Mutex::new(Inner { state, log }),
            unlocked: Notify::new(),
            notices: OnceLock::new(),
            valid,
            deadly: OnceLock::new(),
            slow: OnceLock::new(),
        }
    }

    pub fn dies_of(&self, name: &[u8]) {
        let _ = self.deadly.set(name.to_vec());
    }

    pub fn hangs_on(&self, name: &[u8]) {
        let _ = self.slow.set(name.to_vec());
    }

    pub fn notices(&self) -> &Notices {
        self.notices.get().unwrap()
    }

    fn state(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn apply(&self, caller: &Caller, command: Command) -> Outcome<Answer> {
        let (uid, gid, pid) = (caller.uid, caller.gid, caller.pid);
        let logged = Logged {
            who: Who { uid, gid, pid, number: caller.request.number },
            now: now(),
            command,
        };
        let mut inner = self.state();
        if caller.repeated
            && let Some(answer) = inner.state.answered(caller.request.number)
        {
            // Its daemon died before it could note the handle: it has another one now.
            if let Command::Open { flags, handle, .. } | Command::Create { flags, handle, .. } =
                &logged.command
                && let Ok(Answer::Ino(ino)) = answer
            {
                inner.state.reopen(ino, *flags, *handle);
            }
            return answer;
        }
        if let Some((log, end)) = &mut inner.log {
            let command = postcard::to_stdvec(&logged).unwrap();
            let mut record = (command.len() as u32).to_le_bytes().to_vec();
            record.extend_from_slice(&command);
            log.write_all_at(&record, *end).unwrap();
            *end += record.len() as u64;
        }
        inner.state.apply(&logged.who, logged.now, logged.command)
    }

    fn apply_entry(&self, caller: &Caller, command: Command) -> Outcome<Entry> {
        match self.apply(caller, command)? {
            Answer::Ino(ino) => self.entry(ino),
            _ => Err(VolumeError::Io),
        }
    }

    fn apply_number(&self, caller: &Caller, command: Command) -> Outcome<u64> {
        match self.apply(caller, command)? {
            Answer::Number(number) => Ok(number),
            _ => Err(VolumeError::Io),
        }
    }

    fn known(&self, ino: Ino) -> Outcome<Known> {
        Ok(Known { attributes: self.state().state.attributes(ino)?, valid: self.valid })
    }

    fn entry(&self, ino: Ino) -> Outcome<Entry> {
        Ok(Entry { known: self.known(ino)?, generation: 0, name_valid: self.valid })
    }

    fn opened(&self) -> Opened {
        Opened { keep_pages: true, direct: false }
    }
}

fn set_time(time: Option<SetTime>) -> Time {
    match time {
        None => Time::Keep,
        Some(SetTime::Now) => Time::Now,
        Some(SetTime::At(time)) => Time::At(time),
    }
}

impl Volume for Reference {
    fn attach(&self, notices: Notices) {
        let _ = self.notices.set(notices);
    }

    async fn resume(&self, open: Vec<OpenFile>) -> Outcome<()> {
        let request = nexusgrid_fuse::volume::RequestId { mount: 0, number: 0 };
        let caller = Caller { uid: 0, gid: 0, pid: 0, request, repeated: false };
        self.apply(&caller, Command::Resume { open }).map(drop)
    }

    async fn close(&self) -> Outcome<()> {
        Ok(())
    }

    async fn lookup(&self, _: &Caller, parent: Ino, name: &[u8]) -> Outcome<Found> {
        if self.deadly.get().is_some_and(|deadly| deadly == name) {
            std::process::abort();
        }
        if self.slow.get().is_some_and(|slow| slow == name) {
            std::future::pending::<()>().await;
        }
        let found = self.state().state.child(parent, name);
        match found {
            Ok(ino) => self.entry(ino).map(Found::Entry),
            Err(VolumeError::NotFound) => Ok(Found::Absent { valid: self.valid }),
            Err(error) => Err(error),
        }
    }

    fn forget(&self, _: Ino, _: u64) {}

    async fn getattr(&self, _: &Caller, ino: Ino, _: Option<Handle>) -> Outcome<Known> {
        self.known(ino)
    }

    async fn setattr(
        &self,
        caller: &Caller,
        ino: Ino,
        _: Option<Handle>,
        set: &SetAttributes,
    ) -> Outcome<Known> {
        let command = Command::Set {
            ino,
            permissions: set.permissions,
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            accessed: set_time(set.accessed),
            modified: set_time(set.modified),
            changed: set.changed,
        };
        self.apply_entry(caller, command).map(|entry| entry.known)
    }

    async fn readlink(&self, _: &Caller, ino: Ino) -> Outcome<Vec<u8>> {
        self.state().state.target(ino)
    }

    async fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        creation: &Creation,
    ) -> Outcome<Entry> {
        let Creation { kind, permissions, umask, device } = *creation;
        self.apply_entry(
            caller,
            Command::Make { parent, name: name.to_vec(), kind, permissions, umask, device },
        )
    }

    async fn mkdir(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        creation: &Creation,
    ) -> Outcome<Entry> {
        self.mknod(caller, parent, name, creation).await
    }

    async fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Outcome<()> {
        self.apply(caller, Command::Unlink { parent, name: name.to_vec() }).map(drop)
    }

    async fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Outcome<()> {
        self.apply(caller, Command::Rmdir { parent, name: name.to_vec() }).map(drop)
    }

    async fn symlink(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Outcome<Entry> {
        let (name, target) = (name.to_vec(), target.to_vec());
        self.apply_entry(caller, Command::Symlink { parent, name, target })
    }

    async fn rename(
        &self,
        caller: &Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Outcome<()> {
        let command = Command::Rename {
            from: (from.0, from.1.to_vec()),
            to: (to.0, to.1.to_vec()),
            replace: mode == RenameMode::Replace,
            exchange: mode == RenameMode::Exchange,
        };
        self.apply(caller, command).map(drop)
    }

    async fn link(&self, caller: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> Outcome<Entry> {
        self.apply_entry(caller, Command::Link { ino, parent, name: name.to_vec() })
    }

    async fn open(
        &self,
        caller: &Caller,
        ino: Ino,
        flags: OpenFlags,
        handle: Handle,
    ) -> Outcome<Opened> {
        self.apply(caller, Command::Open { ino, flags, handle })?;
        Ok(self.opened())
    }

    async fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        creation: &Creation,
        flags: OpenFlags,
        handle: Handle,
    ) -> Outcome<(Entry, Opened)> {
        let Creation { permissions, umask, .. } = *creation;
        let name = name.to_vec();
        let command = Command::Create { parent, name, permissions, umask, flags, handle };
        Ok((self.apply_entry(caller, command)?, self.opened()))
    }

    async fn read(
        &self,
        _: &Caller,
        ino: Ino,
        handle: Handle,
        offset: u64,
        length: u32,
    ) -> Outcome<Bytes> {
        let inner = self.state();
        inner.state.handle(handle)?;
        inner.state.read(ino, offset, u64::from(length)).map(Bytes::from)
    }

    async fn write(&self, caller: &Caller, ino: Ino, handle: Handle, write: Write) -> Outcome<u32> {
        if !self.state().state.handle(handle)?.writes() {
            return Err(VolumeError::BadHandle);
        }
        let (offset, data) = (write.offset, write.data.to_vec());
        self.apply_number(caller, Command::Write { ino, offset, data }).map(|done| done as u32)
    }

    async fn flush(&self, caller: &Caller, ino: Ino, _: Handle, owner: LockOwner) -> Outcome<()> {
        self.apply(caller, Command::UnlockAll { ino, owner: owner.0 })?;
        self.unlocked.notify_waiters();
        Ok(())
    }

    async fn release(
        &self,
        caller: &Caller,
        _: Ino,
        handle: Handle,
        flock_owner: Option<LockOwner>,
    ) -> Outcome<()> {
        let flock = flock_owner.map(|owner| owner.0);
        self.apply(caller, Command::Release { handle, flock })?;
        self.unlocked.notify_waiters();
        Ok(())
    }

    async fn fsync(&self, _: &Caller, _: Ino, _: Handle, _: bool) -> Outcome<()> {
        Ok(())
    }

    async fn opendir(&self, _: &Caller, _: Ino) -> Outcome<OpenedDirectory> {
        Ok(OpenedDirectory::default())
    }

    async fn readdir(
        &self,
        caller: &Caller,
        ino: Ino,
        after: Cookie,
        max: usize,
    ) -> Outcome<Vec<Listed>> {
        let listed = self.readdirplus(caller, ino, after, max).await?;
        Ok(listed
            .into_iter()
            .map(|one| {
                let attributes = one.entry.known.attributes;
                Listed {
                    name: one.name,
                    ino: attributes.ino,
                    kind: attributes.kind,
                    cookie: one.cookie,
                }
            })
            .collect())
    }

    async fn readdirplus(
        &self,
        _: &Caller,
        ino: Ino,
        after: Cookie,
        max: usize,
    ) -> Outcome<Vec<ListedEntry>> {
        let listed = self.state().state.list(ino, after, max)?;
        listed
            .into_iter()
            .map(|(name, ino, cookie)| Ok(ListedEntry { name, entry: self.entry(ino)?, cookie }))
            .collect()
    }

    async fn fsyncdir(&self, _: &Caller, _: Ino) -> Outcome<()> {
        Ok(())
    }

    async fn statfs(&self, _: &Caller, _: Ino) -> Outcome<Statfs> {
        Ok(Statfs {
            block: 4096,
            blocks: 1 << 28,
            free: 1 << 27,
            inodes: 1 << 30,
            inodes_free: 1 << 29,
        })
    }

    async fn getxattr(&self, _: &Caller, ino: Ino, name: &[u8]) -> Outcome<Bytes> {
        self.state().state.xattr(ino, name).map(Bytes::from)
    }

    async fn listxattr(&self, _: &Caller, ino: Ino) -> Outcome<Vec<Vec<u8>>> {
        self.state().state.xattrs(ino)
    }

    async fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: Bytes,
        mode: XattrMode,
    ) -> Outcome<()> {
        let command = Command::SetXattr {
            ino,
            name: name.to_vec(),
            value: value.to_vec(),
            create: mode == XattrMode::Create,
            replace: mode == XattrMode::Replace,
        };
        self.apply(caller, command).map(drop)
    }

    async fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Outcome<()> {
        self.apply(caller, Command::RemoveXattr { ino, name: name.to_vec() }).map(drop)
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
        self.state().state.conflict(ino, owner, range, kind)
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
        loop {
            let unlocked = self.unlocked.notified();
            tokio::pin!(unlocked);
            unlocked.as_mut().enable();
            let command = Command::Lock {
                ino,
                owner: owner.0,
                handle,
                first: range.first,
                last: range.last,
                exclusive: kind.map(|kind| kind == LockKind::Exclusive),
            };
            // A wait is many tries of one request: only its last one is an answer to keep.
            let again = Caller { repeated: caller.repeated && !wait, ..*caller };
            match self.apply(&again, command) {
                Err(VolumeError::Locked) if wait => unlocked.await,
                outcome => {
                    self.unlocked.notify_waiters();
                    return outcome.map(drop);
                }
            }
        }
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
        let command = match what {
            Allocation::Reserve { keep_size: true } => return Ok(()),
            Allocation::Reserve { keep_size: false } => {
                let size = offset.checked_add(length).ok_or(VolumeError::TooLarge)?;
                Command::Grow { ino, size }
            }
            Allocation::Punch => Command::Clear { ino, offset, length, keep_size: true },
            Allocation::Zero { keep_size } => Command::Clear { ino, offset, length, keep_size },
        };
        self.apply(caller, command).map(drop)
    }

    async fn lseek(
        &self,
        _: &Caller,
        ino: Ino,
        _: Handle,
        offset: u64,
        what: Seek,
    ) -> Outcome<u64> {
        self.state().state.seek(ino, offset, what == Seek::Data)
    }

    async fn copy_file_range(
        &self,
        caller: &Caller,
        from: (Ino, Handle, u64),
        to: (Ino, Handle, u64),
        length: u64,
    ) -> Outcome<u64> {
        let command = Command::Copy { from: (from.0, from.2), to: (to.0, to.2), length };
        self.apply_number(caller, command)
    }
}
