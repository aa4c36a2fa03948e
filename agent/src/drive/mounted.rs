//! A mount as the agent has it: its volume, what it counts, and what each call of its daemon comes to.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use nexusgrid_env::{BootInstant, Env};
use nexusgrid_grid::volume::{Cookie, FileRange, Ino, Loan, Lock, Seek, VolumeError};
use nexusgrid_grid::{CommandId, GridError, Volume};
use parking_lot::Mutex;
use serde::Serialize;

use super::pass::Admitted;
use super::wire::{Answer, Call, Fault, Hello, PAYLOAD_MAX, RequestName};

/// A mount of this machine.
pub(super) struct Mounted {
    pub(super) volume: Volume,
    pub(super) dir: PathBuf,
    read_only: bool,
    /// The id of the access key that its daemon brought last.
    pub(super) key: Mutex<Option<String>>,
    /// Changes that its keys were allowed.
    pub(super) admitted: Mutex<Admitted>,
    pub(super) since: BootInstant,
    pub(super) lines: AtomicUsize,
    /// Held by each call that changes something, until it has ended.
    pub(super) changes: tokio::sync::RwLock<()>,
    pub(super) left: Mutex<BootInstant>,
    calls: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// Questions that its daemons answered from what they were lent: those before, and the one that serves it now.
    pub(super) recalled: Mutex<(u64, u64)>,
}

/// One line of a mount, counted while it lasts.
pub(super) struct OneLine {
    pub(super) mount: Arc<Mounted>,
    env: Env,
}

impl OneLine {
    pub(super) fn of(mount: Arc<Mounted>, env: &Env) -> OneLine {
        mount.lines.fetch_add(1, Ordering::Relaxed);
        OneLine { mount, env: env.clone() }
    }
}

impl Drop for OneLine {
    fn drop(&mut self) {
        *self.mount.left.lock() = self.env.clock.now();
        self.mount.lines.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A mount, as `nexusgrid mounts` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct MountReport {
    /// The bucket.
    pub bucket: String,
    /// Where it is mounted.
    pub dir: String,
    /// Its lease in the grid.
    pub lease: u64,
    /// Whether nothing can be written.
    pub read_only: bool,
    /// The id of the access key that it is made with; `None`: it does what this machine may.
    pub key: Option<String>,
    /// Whether its daemon is there.
    pub connected: bool,
    /// Since when this agent serves it, in seconds.
    pub seconds: u64,
    /// Calls so far.
    pub calls: u64,
    /// Bytes read so far.
    pub bytes_read: u64,
    /// Bytes written so far.
    pub bytes_written: u64,
    /// Answers of the grid that it remembers.
    pub remembered: usize,
    /// Whether the grid tells it of changes at this moment: if not, it asks each time.
    pub told: bool,
    /// Questions so far that it answered from memory.
    pub recalled: u64,
    /// Questions so far that it asked the grid.
    pub asked: u64,
    /// Whether it has its bucket to itself at this moment.
    pub alone: bool,
    /// What it decided by itself so far, and in how many commands the grid heard of that.
    pub decided: u64,
    /// See [`MountReport::decided`].
    pub commands: u64,
}

impl Mounted {
    /// A mount that has no line yet.
    pub(super) fn new(hello: &Hello, volume: Volume, now: BootInstant) -> Mounted {
        Mounted {
            dir: hello.dir.clone(),
            read_only: hello.read_only,
            key: Mutex::default(),
            admitted: Mutex::default(),
            since: now,
            lines: AtomicUsize::new(0),
            changes: tokio::sync::RwLock::default(),
            left: Mutex::new(now),
            calls: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            recalled: Mutex::default(),
            volume,
        }
    }

    /// As `nexusgrid mounts` shows it.
    pub(super) fn report(&self, now: BootInstant) -> MountReport {
        let (memory, delegation) = (self.volume.memory(), self.volume.delegation());
        let recalled = {
            let (before, now) = *self.recalled.lock();
            before + now
        };
        MountReport {
            bucket: self.volume.name().to_owned(),
            dir: self.dir.display().to_string(),
            lease: self.volume.mount().0,
            read_only: self.read_only,
            key: self.key.lock().clone(),
            connected: self.lines.load(Ordering::Relaxed) > 0,
            seconds: now.since(self.since).as_secs(),
            calls: self.calls.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            remembered: memory.facts,
            told: memory.is_believed,
            recalled: memory.hits + recalled,
            asked: memory.misses,
            alone: delegation.is_held,
            decided: delegation.steps,
            commands: delegation.commands,
        }
    }

    /// What a call comes to.
    pub(super) async fn answer(
        &self,
        name: Option<RequestName>,
        call: Call,
        payload: Bytes,
    ) -> (Answer, Bytes, Option<Loan>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(payload.len() as u64, Ordering::Relaxed);
        let mut loan = None;
        let done = self.run(name.map(CommandId), call, payload, &mut loan).await;
        match done {
            Ok((answer, payload)) => {
                self.bytes_read.fetch_add(payload.len() as u64, Ordering::Relaxed);
                (answer, payload, loan)
            }
            Err(error) => (Answer::Fault(fault(error)), Bytes::new(), loan),
        }
    }

    async fn run(
        &self,
        name: Option<CommandId>,
        call: Call,
        payload: Bytes,
        loan: &mut Option<Loan>,
    ) -> Result<(Answer, Bytes), VolumeError> {
        let volume = &self.volume;
        let node = |node| Answer::Node(Box::new(node));
        let answer = match call {
            Call::Lookup(parent, child) => {
                let (found, lent) = volume.lookup_loan(parent, &child).await;
                *loan = lent;
                node(found?)
            }
            Call::Node(ino) => {
                let (found, lent) = volume.node_loan(ino).await;
                *loan = lent;
                node(found?)
            }
            Call::Make(parent, child, creation) => {
                node(volume.make(parent, &child, creation, name).await?)
            }
            Call::Unlink(parent, child) => {
                volume.unlink(parent, &child, name).await?;
                Answer::Done
            }
            Call::Rmdir(parent, child) => {
                volume.rmdir(parent, &child, name).await?;
                Answer::Done
            }
            Call::Rename(from, to, mode) => {
                let (from, to) = ((from.0, from.1.as_slice()), (to.0, to.1.as_slice()));
                volume.rename(from, to, mode, name).await?;
                Answer::Done
            }
            Call::Link(ino, parent, child) => node(volume.link(ino, parent, &child, name).await?),
            Call::SetAttrs(ino, change, size) => {
                node(volume.set_attrs(ino, change, size, name).await?)
            }
            Call::Read(ino, offset, len) => {
                let len = len.min(PAYLOAD_MAX as u64);
                return Ok((Answer::Done, volume.read(ino, offset, len).await?));
            }
            Call::Write(ino, ranges, modified) => {
                let ranges = ranges_of(ranges, payload)?;
                node(volume.write(ino, ranges, Some(modified), name).await?)
            }
            Call::Append(ino) => {
                let (made, offset) = volume.append(ino, vec![payload], name).await?;
                Answer::Appended(Box::new(made), offset)
            }
            Call::Punch(ino, offset, len) => node(volume.punch(ino, offset, len, name).await?),
            Call::Lengthen(ino, size) => node(volume.lengthen(ino, size, name).await?),
            Call::CopyRange(from, to, len) => {
                Answer::Offset(volume.copy_range(from, to, len, name).await?)
            }
            Call::Seek(ino, offset, data) => {
                let what = if data { Seek::Data } else { Seek::Hole };
                Answer::Offset(volume.seek(ino, offset, what).await?)
            }
            Call::List(dir, after, max) => {
                let max = usize::try_from(max).unwrap_or(usize::MAX);
                let listed = volume.list(dir, Cookie(after), max).await?;
                let one = |one: nexusgrid_grid::volume::Listed| (one.name, one.node, one.cookie.0);
                Answer::Listed(listed.into_iter().map(one).collect())
            }
            Call::Xattr(ino, xattr) => {
                let (found, lent) = volume.xattr_loan(ino, &xattr).await;
                *loan = lent;
                return Ok((Answer::Done, found?.into()));
            }
            Call::Xattrs(ino) => Answer::Names(volume.xattrs(ino).await?),
            Call::SetXattr(ino, xattr, when) => {
                volume.set_xattr(ino, &xattr, Some(payload.to_vec()), when, name).await?;
                Answer::Done
            }
            Call::RemoveXattr(ino, xattr) => {
                let when = nexusgrid_grid::volume::XattrWhen::Replace;
                volume.set_xattr(ino, &xattr, None, when, name).await?;
                Answer::Done
            }
            Call::Hold(ino) => node(volume.hold(ino).await?),
            Call::Release(ino) => {
                volume.release(ino);
                Answer::Done
            }
            Call::Lock { ino, owner, pid, range, kind, wait } => {
                self.lock(ino, owner, pid, range, kind, wait, name).await?;
                Answer::Done
            }
            Call::Conflict(ino, owner, range, kind) => {
                let held = volume.conflict(ino, owner, range, kind).await?;
                // A process of another mount is none here.
                let own = volume.mount();
                let pid = |lock: &Lock| if lock.mount == own { lock.pid } else { 0 };
                Answer::Conflict(held.map(|lock| Lock { pid: pid(&lock), ..lock }))
            }
            Call::UnlockAll(ino, owner) => {
                volume.unlock_all(ino, owner).await?;
                Answer::Done
            }
            Call::Opens(open) => {
                volume.opens(&open).await?;
                Answer::Done
            }
            Call::Alone => {
                volume.work_alone();
                Answer::Done
            }
            Call::Sync => {
                volume.sync().await?;
                Answer::Done
            }
            Call::Space => {
                let space = volume.space().await?;
                Answer::Space {
                    bytes: space.bytes,
                    free: space.free,
                    nodes: space.nodes,
                    nodes_free: space.nodes_free,
                }
            }
            Call::Close => {
                volume.close().await?;
                Answer::Done
            }
        };
        Ok((answer, Bytes::new()))
    }

    #[expect(clippy::too_many_arguments, reason = "a lock of POSIX has these")]
    async fn lock(
        &self,
        ino: Ino,
        owner: u64,
        pid: u32,
        range: nexusgrid_grid::volume::LockRange,
        kind: Option<nexusgrid_grid::volume::LockKind>,
        wait: bool,
        name: Option<CommandId>,
    ) -> Result<(), VolumeError> {
        match kind {
            Some(kind) if wait => self.volume.lock_wait(ino, (owner, pid), range, kind).await,
            kind => self.volume.lock(ino, (owner, pid), range, kind, name).await,
        }
    }
}

/// Cuts what follows a message into its ranges.
fn ranges_of(ranges: Vec<(u64, u64)>, mut payload: Bytes) -> Result<Vec<FileRange>, VolumeError> {
    let mut cut = Vec::with_capacity(ranges.len());
    for (offset, len) in ranges {
        let len = usize::try_from(len).ok().filter(|len| *len > 0 && *len <= payload.len());
        let len = len.ok_or(nexusgrid_grid::volume::PosixError::Invalid)?;
        cut.push(FileRange { offset, pieces: vec![payload.split_to(len)] });
    }
    Ok(cut)
}

fn fault(error: VolumeError) -> Fault {
    match error {
        VolumeError::Posix(error) => Fault::Posix(error),
        VolumeError::Refused(error) => Fault::Refused(error.to_string()),
        VolumeError::Grid(error) => match error {
            GridError::Unavailable(_)
            | GridError::Unreadable(_)
            | GridError::SlowDown
            | GridError::Conflict
            | GridError::Stopping => Fault::Away(error.to_string()),
            GridError::Full => Fault::Full,
            GridError::QuotaExceeded => Fault::Quota,
            error => Fault::Failed(error.to_string()),
        },
    }
}
