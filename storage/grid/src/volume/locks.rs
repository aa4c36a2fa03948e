//! Locks of a mount's programs: rows in the bucket's group, so that they hold among all mounts.
//!
//! ```text
//!   lock_wait ──▶ take ──granted──▶ the caller has it
//!      ▲           │ locked by others
//!      └── freed here, or after a pause ◀┘
//! ```
//!
//! Who waits is woken when a lock on that node is given back through this process; what is given back elsewhere it
//! finds by asking, ever less often. A wait that is dropped leaves no lock behind: each attempt is a task of its
//! own, and if nobody takes what it was granted, it puts back what its owner had before. Attempts of one owner on
//! one node take turns, so that nothing of that owner's comes in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexusgrid_codec::SessionId;
use nexusgrid_meta::namespace::types::{BucketId, NamespaceAnswer, PosixDone, PosixOp, PosixQuery};
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use super::lease::Lease;
use super::{Ino, Lock, LockKind, LockRange, PosixError, Volume, VolumeError, is_past};
use crate::core::{Core, internal};
use crate::limits;
use crate::meta_port::{CommandId, MetaError};

/// Everyone in this process who waits for locks, by node.
#[derive(Default)]
pub(crate) struct Lines(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    count: usize,
    lines: BTreeMap<(BucketId, Ino), Line>,
}

struct Line {
    waiting: usize,
    /// Changes when something was given back.
    freed: watch::Sender<()>,
}

/// A place in the line before a node, until it is dropped.
struct Place {
    core: Arc<Core>,
    node: (BucketId, Ino),
    freed: watch::Receiver<()>,
}

impl Place {
    fn stand(core: &Arc<Core>, node: (BucketId, Ino)) -> Result<Place, PosixError> {
        let mut waiting = core.lock_lines.0.lock();
        if waiting.count >= limits::LOCK_WAITERS_MAX {
            return Err(PosixError::TooManyLocks);
        }
        waiting.count += 1;
        let begin = || Line { waiting: 0, freed: watch::Sender::new(()) };
        let line = waiting.lines.entry(node).or_insert_with(begin);
        line.waiting += 1;
        let freed = line.freed.subscribe();
        Ok(Place { core: Arc::clone(core), node, freed })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.core.lock_lines.0.lock();
        waiting.count = waiting.count.saturating_sub(1);
        if let Some(line) = waiting.lines.get_mut(&self.node) {
            line.waiting = line.waiting.saturating_sub(1);
            if line.waiting == 0 {
                waiting.lines.remove(&self.node);
            }
        }
    }
}

impl Lines {
    fn freed(&self, node: (BucketId, Ino)) {
        if let Some(line) = self.0.lock().lines.get(&node) {
            line.freed.send_replace(());
        }
    }
}

/// Turns of owners: those that share one wait for each other without need, but briefly.
pub(super) struct Turns(Vec<Arc<tokio::sync::Mutex<()>>>);

impl Default for Turns {
    fn default() -> Turns {
        Turns((0..limits::LOCK_TURNS).map(|_| Arc::default()).collect())
    }
}

impl Turns {
    fn of(&self, ino: Ino, owner: u64) -> Arc<tokio::sync::Mutex<()>> {
        let mixed = (ino.0 ^ owner.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let at = (mixed % limits::LOCK_TURNS as u64) as usize;
        self.0.get(at).cloned().unwrap_or_default()
    }
}

/// Whose lock, and on what.
#[derive(Clone, Copy)]
struct Wanted {
    bucket: BucketId,
    ino: Ino,
    owner: u64,
    pid: u32,
    range: LockRange,
}

impl Wanted {
    fn op(self, range: LockRange, kind: Option<LockKind>) -> PosixOp {
        PosixOp::Lock { ino: self.ino, owner: self.owner, pid: self.pid, range, kind }
    }
}

/// A lock that was granted: put back, unless somebody takes it.
struct Granted {
    core: Arc<Core>,
    lease: Arc<Lease>,
    wanted: Wanted,
    before: Vec<(LockRange, LockKind)>,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Granted {
    fn take(mut self) {
        self.turn = None;
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let (core, lease, wanted) = (Arc::clone(&self.core), Arc::clone(&self.lease), self.wanted);
        let before = std::mem::take(&mut self.before);
        let back = before.into_iter().map(|(range, kind)| wanted.op(range, Some(kind)));
        let ops: Vec<PosixOp> =
            std::iter::once(wanted.op(wanted.range, None)).chain(back).collect();
        self.core.env.exec.spawn(async move {
            let done = lease.run((SessionId(0), Vec::new()), ops, None).await;
            if let Err(error) = done {
                // It ends when its owner closes the file, or with the mount.
                tracing::info!(%error, "a lock that nobody waits for could not be given back");
            }
            drop(turn);
            core.lock_lines.freed((wanted.bucket, wanted.ino));
        });
    }
}

impl Volume {
    fn wanted(&self, ino: Ino, (owner, pid): (u64, u32), range: LockRange) -> Wanted {
        Wanted { bucket: self.bucket.id, ino, owner, pid, range }
    }

    /// Takes or changes a lock of an owner, or (`None`) gives it back; `Locked` if others are in the way. `pid`
    /// is for show.
    pub async fn lock(
        &self,
        ino: Ino,
        (owner, pid): (u64, u32),
        range: LockRange,
        kind: Option<LockKind>,
        request: Option<CommandId>,
    ) -> Result<(), VolumeError> {
        // Nobody changes anything there: nobody is in anybody's way.
        if is_past(ino) {
            return Ok(());
        }
        let _turn = self.turns.of(ino, owner).lock_owned().await;
        let op = self.wanted(ino, (owner, pid), range).op(range, kind);
        self.one(op, request).await?;
        if kind != Some(LockKind::Exclusive) {
            self.core.lock_lines.freed((self.bucket.id, ino));
        }
        Ok(())
    }

    /// As [`Volume::lock`], and waits until others are out of the way. Repeating it does no harm: what an owner has
    /// already it gets again. `TooManyLocks` if too many wait in this process.
    pub async fn lock_wait(
        &self,
        ino: Ino,
        (owner, pid): (u64, u32),
        range: LockRange,
        kind: LockKind,
    ) -> Result<(), VolumeError> {
        if is_past(ino) {
            return Ok(());
        }
        let wanted = self.wanted(ino, (owner, pid), range);
        let mut place = Place::stand(&self.core, (wanted.bucket, ino))?;
        let mut pause = limits::LOCK_PAUSE_MIN;
        loop {
            place.freed.mark_unchanged();
            match self.attempt(wanted, kind).await {
                Err(VolumeError::Posix(PosixError::Locked)) => {}
                other => return other,
            }
            // Asking costs the group less than an attempt.
            loop {
                let is_freed = tokio::select! {
                    biased;
                    freed = place.freed.changed() => freed.is_ok(),
                    () = self.core.env.clock.sleep(pause) => false,
                };
                pause = match is_freed {
                    true => limits::LOCK_PAUSE_MIN,
                    false => (pause * 2).min(limits::LOCK_PAUSE_MAX),
                };
                place.freed.mark_unchanged();
                if self.conflict(ino, owner, range, kind).await?.is_none() {
                    break;
                }
            }
        }
    }

    async fn attempt(&self, wanted: Wanted, kind: LockKind) -> Result<(), VolumeError> {
        let (core, lease) = (Arc::clone(&self.core), Arc::clone(&self.lease));
        let turn = self.turns.of(wanted.ino, wanted.owner);
        let (reply, answer) = oneshot::channel();
        self.core.env.exec.spawn(async move {
            let turn = turn.lock_owned().await;
            if reply.is_closed() {
                return;
            }
            let op = wanted.op(wanted.range, Some(kind));
            let done = match lease.one((SessionId(0), Vec::new()), op, None).await {
                Ok(PosixDone::Locks(before)) => {
                    Ok(Granted { core, lease, wanted, before, turn: Some(turn) })
                }
                Ok(_) => Err(MetaError::Reply("a lock")),
                Err(error) => Err(error),
            };
            // If nobody listens any more, this drops it.
            let _ = reply.send(done);
        });
        match answer.await {
            Ok(Ok(granted)) => {
                granted.take();
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(crate::error::GridError::Stopping.into()),
        }
    }

    /// The first lock of others in the way of one.
    pub async fn conflict(
        &self,
        ino: Ino,
        owner: u64,
        range: LockRange,
        kind: LockKind,
    ) -> Result<Option<Lock>, VolumeError> {
        let mount = self.lease.mount();
        match self.ask(PosixQuery::Conflict { ino, mount, owner, range, kind }).await? {
            NamespaceAnswer::Conflict(found) => Ok(found),
            _ => Err(internal("answer to a query for a lock").into()),
        }
    }

    /// Gives back all locks of an owner on a node; fine if the node is gone.
    pub async fn unlock_all(&self, ino: Ino, owner: u64) -> Result<(), VolumeError> {
        if is_past(ino) {
            return Ok(());
        }
        let _turn = self.turns.of(ino, owner).lock_owned().await;
        self.one(PosixOp::UnlockAll { ino, owner }, None).await?;
        self.core.lock_lines.freed((self.bucket.id, ino));
        Ok(())
    }
}
