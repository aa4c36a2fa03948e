//! A mount's lease with the bucket's group, numbers for the nodes that it makes, and what is done under it.
//!
//! ```text
//!   open ──▶ lasts ──close──▶ ended
//!             │ ▲
//!             ▼ │ the group has ended it meanwhile: another begins, and who watches hears of it
//!            lost
//! ```
//!
//! The lease outlives the process: who knows its number goes on with it, and with all that it holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nexusgrid_codec::{GroupId, SessionId};
use nexusgrid_env::BootInstant;
use nexusgrid_meta::host::{Changing, Memory};
use nexusgrid_meta::namespace::types::{
    BucketId, Ino, Moment, MountId, NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceOk,
    NamespaceQuery, NewBlock, PosixDone, PosixError, PosixOp,
};
use nexusgrid_meta::root::topology::Bucket;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::VolumeError;
use super::delegation::{self, Asked, Delegation};
use super::holds::{self, Holds};
use super::lend::Lending;
use super::memory;
use super::past;
use crate::core::Core;
use crate::limits;
use crate::meta_port::{CommandId, MetaError};

/// As many numbers as one command reserves.
const LOT: u64 = 4_096;

/// A lease, and what comes with it.
pub(super) struct Lease {
    core: Arc<Core>,
    group: GroupId,
    bucket: BucketId,
    mount: watch::Sender<MountId>,
    ended: AtomicBool,
    memory: Memory,
    lending: Lending,
    holds: Holds,
    delegation: Delegation,
    /// Numbers not given yet: the next, and the end.
    numbers: Mutex<(u64, u64)>,
    /// The first of this lot and of the one before, whose last may be on their way still.
    reserving: tokio::sync::Mutex<(Option<Ino>, Option<Ino>)>,
}

fn is_ended(error: &MetaError) -> bool {
    *error == MetaError::Namespace(NamespaceError::Posix(PosixError::MountEnded))
}

impl Lease {
    /// Goes on with a mount of the bucket if it lasts, or begins another.
    pub(super) async fn open(
        core: &Arc<Core>,
        bucket: &Bucket,
        again: Option<MountId>,
    ) -> Result<Arc<Lease>, VolumeError> {
        if let Some(again) = again {
            take_back(core, (bucket.group, bucket.id), again).await?;
        }
        let mount = begin(core, (bucket.group, bucket.id), again).await?;
        let lease = Arc::new(Lease {
            core: Arc::clone(core),
            group: bucket.group,
            bucket: bucket.id,
            mount: watch::Sender::new(mount),
            ended: AtomicBool::new(false),
            memory: Memory::default(),
            lending: Lending::default(),
            holds: Holds::default(),
            delegation: Delegation::default(),
            numbers: Mutex::new((0, 0)),
            reserving: tokio::sync::Mutex::default(),
        });
        let weak = Arc::downgrade(&lease);
        core.env.exec.spawn(memory::follow(Weak::clone(&weak), Arc::clone(core)));
        core.env.exec.spawn(holds::follow(Weak::clone(&weak), Arc::clone(core)));
        core.env.exec.spawn(delegation::follow(Weak::clone(&weak), Arc::clone(core)));
        core.env.exec.spawn(keep(weak, Arc::clone(core)));
        Ok(lease)
    }

    pub(super) fn mount(&self) -> MountId {
        *self.mount.borrow()
    }

    pub(super) fn group(&self) -> GroupId {
        self.group
    }

    /// What the mount remembers.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What of that was lent.
    pub(super) fn lending(&self) -> &Lending {
        &self.lending
    }

    pub(super) fn bucket(&self) -> BucketId {
        self.bucket
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    pub(super) fn now(&self) -> BootInstant {
        self.core.env.clock.now()
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        self.core.env.clock.sleep(duration).await;
    }

    /// Whether the mount has its bucket to itself, and what it does there.
    pub(super) fn delegation(&self) -> &Delegation {
        &self.delegation
    }

    /// What the mount holds.
    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }

    pub(super) fn watch(&self) -> watch::Receiver<MountId> {
        self.mount.subscribe()
    }

    /// It is renewed no more.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) async fn close(&self) -> Result<(), VolumeError> {
        // What cannot be said in time is lost with the mount.
        let left = tokio::time::timeout(limits::DELEGATED_PATIENCE, self.delegation.leave()).await;
        if left.is_err() {
            tracing::error!("what was done last in a mount cannot be stored");
        }
        self.end();
        let now_ms = self.core.meta.now_ms();
        let command = NamespaceCommand::CloseMount { mount: self.mount(), now_ms };
        self.core.meta.command(self.group, &command).await?;
        Ok(())
    }

    /// Someone heard that `mount` has ended: if it has, another begins.
    async fn reopen(&self, mount: MountId) -> Result<(), MetaError> {
        let mut lots = self.reserving.lock().await;
        if self.mount() != mount {
            return Ok(());
        }
        if self.has_ended() {
            return Err(MetaError::Namespace(PosixError::MountEnded.into()));
        }
        let now = begin(&self.core, (self.group, self.bucket), Some(mount)).await?;
        *lots = (None, None);
        *self.numbers.lock() = (0, 0);
        self.delegation.forget_ids();
        if now != mount {
            self.holds.clear();
            tracing::warn!(ended = mount.0, now = now.0, "the mount had ended and begins anew");
            self.mount.send_replace(now);
        }
        Ok(())
    }

    async fn renew(&self) -> Result<(), MetaError> {
        let (mount, now_ms) = (self.mount(), self.core.meta.now_ms());
        let command = NamespaceCommand::RenewMounts { mounts: vec![mount], now_ms };
        match self.core.meta.command(self.group, &command).await? {
            NamespaceOk::Mounts(last) if last.contains(&mount) => Ok(()),
            _ => self.reopen(mount).await,
        }
    }

    /// Operations of the mount, with the blocks that they name; under `request` they happen once, however often
    /// they are asked for.
    pub(super) async fn run(
        &self,
        blocks: (SessionId, Vec<NewBlock>),
        ops: Vec<PosixOp>,
        request: Option<CommandId>,
    ) -> Result<Vec<Result<PosixDone, NamespaceError>>, MetaError> {
        self.run_at(None, blocks, ops, request).await
    }

    /// Likewise, of something that was done at a time before now: nodes show that time.
    async fn run_at(
        &self,
        at: Option<Moment>,
        (writer, blocks): (SessionId, Vec<NewBlock>),
        ops: Vec<PosixOp>,
        request: Option<CommandId>,
    ) -> Result<Vec<Result<PosixDone, NamespaceError>>, MetaError> {
        past::check_ops(&ops).map_err(|error| MetaError::Namespace(error.into()))?;
        let now_ms = self.core.meta.now_ms();
        if let Some(results) = self.delegation.answered(request) {
            return Ok(results);
        }
        // Nanoseconds of this millisecond are before its end.
        let now = match at {
            Some(at) => at.min(Moment::from_ms(now_ms.saturating_add(1))),
            None => Moment::from_ms(now_ms),
        };
        let asked = Asked { now, writer, blocks: &blocks, ops: &ops, request };
        let _pass = loop {
            if let Some(results) = self.delegation.run(self, &asked).await? {
                return Ok(results);
            }
            if let Some(pass) = self.delegation.pass().await {
                break pass;
            }
        };
        if request.is_some() || !blocks.is_empty() {
            self.delegation.note_change(self);
        }
        let mut life = 0;
        loop {
            let mount = self.mount();
            let command = NamespaceCommand::Posix {
                mount,
                writer,
                blocks: blocks.clone(),
                ops: ops.clone(),
                now,
            };
            let id = request.map(|id| id.in_life(life));
            if let Some(request) = request {
                self.delegation.is_under_way(request);
            }
            let done = self.command_by(id, &command).await;
            if let Some(request) = request
                && matches!(done, Ok(_) | Err(MetaError::Namespace(_)))
            {
                self.delegation.is_decided(request);
            }
            match done {
                Ok(NamespaceOk::Posix(results)) => return Ok(results),
                Ok(_) => return Err(MetaError::Reply("operations of a mount")),
                // Nothing was done. A repeated request may hear that of a mount before.
                Err(error) if is_ended(&error) && life < limits::MOUNT_LIVES_MAX => {
                    self.reopen(mount).await?;
                    life += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A command of the mount's; what it changed is forgotten.
    pub(super) async fn command_by(
        &self,
        request: Option<CommandId>,
        command: &NamespaceCommand,
    ) -> Result<NamespaceOk, MetaError> {
        let changing = Changing::new(&self.memory);
        let by = self.memory.by();
        let done = self.core.meta.command_by(by, self.group, request, command).await;
        let (done, touched) = done?;
        // Of another time of remembering these are other numbers.
        if self.memory.by() == by {
            changing.done(touched);
        }
        Ok(done?)
    }

    /// The mount does not have its bucket to itself, whatever became of its asking for it.
    pub(super) async fn take_back(&self) -> Result<(), MetaError> {
        take_back(&self.core, (self.group, self.bucket), self.mount()).await
    }

    /// Asks the group; refused if somebody has the bucket to himself.
    pub(super) async fn ask_once(
        &self,
        query: &NamespaceQuery,
    ) -> Result<NamespaceAnswer, MetaError> {
        self.core.meta.ask_once(self.group, query).await
    }

    /// One operation.
    pub(super) async fn one(
        &self,
        blocks: (SessionId, Vec<NewBlock>),
        op: PosixOp,
        request: Option<CommandId>,
    ) -> Result<PosixDone, MetaError> {
        self.one_at(None, blocks, op, request).await
    }

    /// One operation, done before now (see [`Lease::run_at`]).
    pub(super) async fn one_at(
        &self,
        at: Option<Moment>,
        blocks: (SessionId, Vec<NewBlock>),
        op: PosixOp,
        request: Option<CommandId>,
    ) -> Result<PosixDone, MetaError> {
        // A repeated request may have been more than this one.
        match self.run_at(at, blocks, vec![op], request).await?.into_iter().next() {
            Some(result) => Ok(result?),
            None => Err(MetaError::Reply("an operation of a mount")),
        }
    }

    /// A number that nobody has.
    pub(super) async fn number(&self) -> Result<Ino, VolumeError> {
        for _ in 0..=limits::MOUNT_LIVES_MAX {
            if let Some(number) = self.take() {
                return Ok(number);
            }
            let mount = self.mount();
            match self.reserve(mount).await {
                Ok(()) => {}
                Err(error) if is_ended(&error) => self.reopen(mount).await?,
                Err(error) => return Err(error.into()),
            }
        }
        self.take().ok_or_else(|| PosixError::MountEnded.into())
    }

    async fn reserve(&self, mount: MountId) -> Result<(), MetaError> {
        let mut lots = self.reserving.lock().await;
        let has_some = {
            let numbers = self.numbers.lock();
            numbers.0 < numbers.1
        };
        if has_some || self.mount() != mount {
            return Ok(());
        }
        let (current, older) = *lots;
        // What names the older ones must be there before they are given back.
        self.delegation.settle_in_time().await?;
        let command = NamespaceCommand::ReserveInos { mount, used_up: older };
        match self.core.meta.command(self.group, &command).await? {
            NamespaceOk::Reserved(Ino(first)) => {
                *lots = (Some(Ino(first)), current);
                self.delegation.has_reserved(Ino(first));
                *self.numbers.lock() = (first, first + LOT);
                Ok(())
            }
            _ => Err(MetaError::Reply("a reservation")),
        }
    }

    /// The numbers that are left of a lot are not used: of the next one it is known that nobody has any.
    pub(super) fn drop_numbers(&self) {
        *self.numbers.lock() = (0, 0);
    }

    fn take(&self) -> Option<Ino> {
        let mut numbers = self.numbers.lock();
        let (next, end) = *numbers;
        (next < end).then(|| {
            numbers.0 = next + 1;
            Ino(next)
        })
    }
}

async fn begin(
    core: &Arc<Core>,
    (group, bucket): (GroupId, BucketId),
    again: Option<MountId>,
) -> Result<MountId, MetaError> {
    let command = NamespaceCommand::OpenMount {
        again,
        bucket,
        node: core.node,
        lease_ms: u64::try_from(limits::MOUNT_LEASE.as_millis()).unwrap_or(u64::MAX),
        now_ms: core.meta.now_ms(),
    };
    match core.meta.command(group, &command).await? {
        NamespaceOk::Mount(row) => Ok(row.id),
        _ => Err(MetaError::Reply("a mount")),
    }
}

/// A mount that has its bucket to itself and does not know it, or not any more, has it so no more.
async fn take_back(
    core: &Core,
    (group, bucket): (GroupId, BucketId),
    mount: MountId,
) -> Result<(), MetaError> {
    let query = NamespaceQuery::Delegation { bucket };
    if let NamespaceAnswer::Delegation(Some((held_by, grant, _))) =
        core.meta.ask_once(group, &query).await?
        && held_by == mount
    {
        core.meta.command(group, &NamespaceCommand::Revoke { bucket, grant }).await?;
    }
    Ok(())
}

/// Renews a lease while someone has it.
async fn keep(lease: Weak<Lease>, core: Arc<Core>) {
    loop {
        core.env.clock.sleep(limits::MOUNT_LEASE / 3).await;
        let Some(lease) = lease.upgrade().filter(|lease| !lease.has_ended()) else {
            return;
        };
        match lease.renew().await {
            Ok(()) => {}
            // The lease may hold still; the next round tries again.
            Err(error) => tracing::info!(%error, "a mount's lease could not be renewed"),
        }
    }
}
