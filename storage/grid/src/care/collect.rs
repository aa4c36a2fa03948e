//! Deletion's aftermath, on the leader of each metadata group: frees what was released, has dead
//! blocks buried on their drives, and closes the books on writers' sessions.
//!
//! ```text
//!   outbox row ──reader horizon, pins ([`horizon`](super::horizon))──▶ ExpandThrough ──▶ dead block
//!   dead block ──tombstone on every mapped drive, one epoch──▶ OutboxAck (R5)
//!   closed session ──floor raised on every drive──▶ ForgetSessions (R6)
//! ```
//!
//! Leadership is confirmed by every command; a worker that was deposed changes nothing, and two of
//! them at once do the same things twice, which is harmless: each step is idempotent.
//!
//! State: what was already told to whom, per group; lost with leadership, and then told again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nexusgrid_codec::{BlockId, DriveId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::{BootInstant, Invariant, Rule};
use nexusgrid_meta::namespace::limits::ACKS_MAX;
use nexusgrid_meta::namespace::types::{
    MountId, NamespaceAnswer, NamespaceCommand, NamespaceOk, NamespaceQuery, Session,
};
use nexusgrid_meta::root::topology::{Pg, PgState, Topology};
use nexusgrid_meta::root::types::DriveState;

use super::horizon::Horizon;
use super::workers::Worker;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, mut worker: Worker) {
    let mut led: BTreeMap<GroupId, Ledger> = BTreeMap::new();
    loop {
        worker.turn(core.options.care.collect_every).await;
        let groups: BTreeSet<GroupId> = core
            .map
            .metadata_groups()
            .into_iter()
            .filter(|group| core.meta.leads(*group))
            .collect();
        led.retain(|group, _| groups.contains(group));
        if groups.is_empty() {
            continue;
        }
        worker.begin(None);
        let mut failed = None;
        for group in groups {
            let ledger = led.entry(group).or_insert_with(|| Ledger::new(&core));
            if let Err(error) = round(&core, group, ledger, &worker).await {
                tracing::debug!(group = group.0, %error, "collecting garbage");
                failed = Some(format!("group {}: {error}", group.0));
            }
        }
        worker.end(failed);
    }
}

/// Which slots acknowledged a block's tombstone.
struct Burial {
    pg: PgId,
    epoch: Epoch,
    slots: u32,
}

/// What this leader has told to drives.
struct Ledger {
    buried: BTreeMap<BlockId, Burial>,
    horizon: Horizon,
    /// The session floor that each drive acknowledged.
    floors: BTreeMap<DriveId, SessionId>,
    /// Mounts: what their last renewal said, and when this node saw it first.
    mounts: BTreeMap<MountId, (u64, BootInstant)>,
}

impl Ledger {
    fn new(core: &Core) -> Ledger {
        Ledger {
            buried: BTreeMap::new(),
            horizon: Horizon::new(core.env.clock.now()),
            floors: BTreeMap::new(),
            mounts: BTreeMap::new(),
        }
    }

    fn note(&mut self, pg: &Pg, bit: u32, blocks: &[BlockId]) {
        for block in blocks {
            let none = || Burial { pg: pg.id, epoch: pg.epoch, slots: 0 };
            let burial = self.buried.entry(*block).or_insert_with(none);
            if burial.epoch != pg.epoch {
                *burial = none();
            }
            burial.slots |= bit;
        }
    }

    /// Forgets what is too much, once it was looked at: it is told again. Those that come first are
    /// kept, so that the same ones are told again, not all in turn.
    fn trim(&mut self) {
        while self.buried.len() > limits::BURIED_REMEMBERED_MAX {
            self.buried.pop_last();
        }
    }
}

async fn round(
    core: &Arc<Core>,
    group: GroupId,
    ledger: &mut Ledger,
    worker: &Worker,
) -> Result<(), GridError> {
    let sessions = expire(core, group, ledger).await?;
    expire_mounts(core, group, ledger).await?;
    // After a restore metadata may be older than the drives: what it calls dead stays for now.
    if core.deletions.may_delete() {
        free(core, group, ledger, worker).await?;
        bury(core, group, ledger, worker).await?;
    }
    settle_sessions(core, group, ledger, &sessions).await
}

/// Closes sessions that their writers renew no more; gives the group's sessions. Closing one that lives
/// costs its writer a new one.
async fn expire(
    core: &Arc<Core>,
    group: GroupId,
    ledger: &mut Ledger,
) -> Result<Vec<Session>, GridError> {
    let sessions = ask_sessions(core, group).await?;
    let now = core.env.clock.now();
    ledger.horizon.look(&sessions, now);
    let silent = ledger.horizon.silent(&sessions, now);
    if silent.is_empty() {
        return Ok(sessions);
    }
    for session in silent {
        let now_ms = core.meta.now_ms();
        core.meta.command(group, &NamespaceCommand::CloseSession { session, now_ms }).await?;
    }
    ask_sessions(core, group).await
}

/// Ends mounts that were not renewed for two of their leases, by this node's clock.
async fn expire_mounts(
    core: &Arc<Core>,
    group: GroupId,
    ledger: &mut Ledger,
) -> Result<(), GridError> {
    let NamespaceAnswer::Mounts(mounts) = core.meta.ask(group, &NamespaceQuery::Mounts).await?
    else {
        return Err(internal("answer to a query for mounts"));
    };
    let now = core.env.clock.now();
    let before = std::mem::take(&mut ledger.mounts);
    for mount in mounts {
        let seen = match before.get(&mount.id) {
            Some((renewed_ms, seen)) if *renewed_ms == mount.renewed_ms => *seen,
            _ => now,
        };
        ledger.mounts.insert(mount.id, (mount.renewed_ms, seen));
        if now.since(seen) >= Duration::from_millis(mount.lease_ms.saturating_mul(2)) {
            let now_ms = core.meta.now_ms();
            let command = NamespaceCommand::CloseMount { mount: mount.id, now_ms };
            core.meta.command(group, &command).await?;
        }
    }
    Ok(())
}

async fn ask_sessions(core: &Arc<Core>, group: GroupId) -> Result<Vec<Session>, GridError> {
    match core.meta.ask(group, &NamespaceQuery::Sessions).await? {
        NamespaceAnswer::Sessions { sessions, .. } => Ok(sessions),
        _ => Err(internal("answer to a sessions query")),
    }
}

/// Frees what was released before the reader horizon and before the oldest pin.
async fn free(
    core: &Arc<Core>,
    group: GroupId,
    ledger: &mut Ledger,
    worker: &Worker,
) -> Result<(), GridError> {
    let NamespaceAnswer::Released { outbox, moved } =
        core.meta.ask(group, &NamespaceQuery::Released).await?
    else {
        return Err(internal("answer to a query for what was released"));
    };
    let Some(last) = outbox.into_iter().chain(moved).map(|(_, last)| last).max() else {
        return Ok(());
    };
    // Read after the answer: what it names was there by then.
    let now = core.env.clock.now();
    let horizon = Duration::from_millis(core.map.current().settings.reader_horizon_ms);
    ledger.horizon.note(last, now, horizon);
    let through = match core.env.rules.keeps(Rule::ReaderHorizon) {
        true => ledger.horizon.through(now, horizon),
        false => Some(last),
    };
    let (Some(through), now_ms) = (through, core.meta.now_ms()) else { return Ok(()) };
    if outbox.is_some_and(|(first, _)| first <= through) {
        expand(core, group, &NamespaceCommand::ExpandThrough { through, now_ms }, worker).await?;
    }
    // What did not change must be found by whatever checkpoint is restored.
    let covered = core.checkpointed(group).min(through);
    if moved.is_some_and(|(first, _)| first <= covered) {
        let map = core.map.current();
        let holds_checkpoints = map.system_bucket().is_some_and(|bucket| bucket.group == group);
        // Those of all groups lie here. One that is lost takes no more of them, and its record says where
        // its last one was: that place stays.
        let horizon_ms = if holds_checkpoints { core.all_checkpointed_ms() } else { u64::MAX };
        let command = NamespaceCommand::ExpandMoved { covered, horizon_ms, now_ms };
        expand(core, group, &command, worker).await?;
    }
    Ok(())
}

/// Repeats a step of freeing while it frees something.
async fn expand(
    core: &Arc<Core>,
    group: GroupId,
    command: &NamespaceCommand,
    worker: &Worker,
) -> Result<(), GridError> {
    for _ in 0..limits::EXPAND_STEPS_PER_ROUND {
        let NamespaceOk::Expanded { freed, more } = core.meta.command(group, command).await? else {
            return Err(internal("reply to expanding the outbox"));
        };
        worker.did(u64::from(freed), 0);
        // A step that frees nothing has met what is not due, or what takes several steps: next round.
        if !more || freed == 0 {
            break;
        }
    }
    Ok(())
}

/// Sends tombstones of dead blocks to every mapped drive; forgets those that all acknowledged.
async fn bury(
    core: &Arc<Core>,
    group: GroupId,
    ledger: &mut Ledger,
    worker: &Worker,
) -> Result<(), GridError> {
    let mut after = None;
    loop {
        let query = NamespaceQuery::Outbox { after, limit: limits::BURY_BATCH };
        let NamespaceAnswer::Outbox { blocks, more } = core.meta.ask(group, &query).await? else {
            return Err(internal("answer to an outbox query"));
        };
        let Some(last) = blocks.last() else { return Ok(()) };
        after = Some(last.block);
        if !core.deletions.confirm(core).await {
            return Ok(());
        }
        let map = core.map.current();
        let mut by_pg: BTreeMap<PgId, Vec<BlockId>> = BTreeMap::new();
        for dead in &blocks {
            by_pg.entry(dead.pg).or_default().push(dead.block);
        }
        for (pg, dead) in by_pg {
            if let Some(pg) = map.pgs.get(&pg) {
                bury_in(core, &map, pg, &dead, ledger).await;
            }
        }
        worker.did(erase(core, group, ledger).await?, 0);
        ledger.trim();
        if !more {
            return Ok(());
        }
    }
}

/// One tombstone call to each drive of a placement group that has not acknowledged all of `dead`.
async fn bury_in(core: &Arc<Core>, map: &Topology, pg: &Pg, dead: &[BlockId], ledger: &mut Ledger) {
    let mut calls = Vec::new();
    for (slot, drive) in pg.slots.iter().enumerate() {
        let bit = 1u32.checked_shl(u32::try_from(slot).unwrap_or(u32::MAX)).unwrap_or(0);
        let told = |block: &BlockId| {
            let burial = ledger.buried.get(block);
            burial.is_some_and(|burial| burial.epoch == pg.epoch && burial.slots & bit != 0)
        };
        let untold: Vec<BlockId> = dead.iter().filter(|block| !told(block)).copied().collect();
        if untold.is_empty() {
            continue;
        }
        // What it held is gone for good, and it takes no more.
        if map.drives.get(drive).is_none_or(|drive| drive.state == DriveState::Removed) {
            ledger.note(pg, bit, &untold);
            continue;
        }
        match core.map.drive(map, *drive) {
            Some((node, hint)) if hint != NodeHint::Dead => {
                let (drive, pg) = (*drive, pg.id);
                calls.push(async move {
                    match core.shards.tombstone(node, drive, pg, untold.clone()).await {
                        Ok(()) => Some((bit, untold)),
                        Err(error) => {
                            tracing::debug!(drive = drive.0, pg = pg.0, %error, "tombstones");
                            None
                        }
                    }
                });
            }
            // It will be told when it is back, or when another has its slot.
            _ => {}
        }
    }
    for (bit, blocks) in join_all(calls).await.into_iter().flatten() {
        ledger.note(pg, bit, &blocks);
    }
}

/// Forgets blocks that every mapped drive acknowledged, under an epoch that still holds, with no
/// remap or repair session open (R5).
async fn erase(core: &Arc<Core>, group: GroupId, ledger: &mut Ledger) -> Result<u64, GridError> {
    // Read after the acknowledgements: those of an older epoch count for nothing.
    let map = core.map.refresh().await?;
    let is_settled = |burial: &Burial| {
        if !core.env.rules.keeps(Rule::TombstoneHold) {
            return true;
        }
        map.pgs.get(&burial.pg).is_some_and(|pg| {
            pg.epoch == burial.epoch
                && !matches!(pg.state, PgState::Preparing(_))
                && pg.fill_worker.is_none()
                && burial.slots.count_ones() as usize == pg.slots.len()
        })
    };
    let settled: Vec<BlockId> =
        ledger.buried.iter().filter(|(_, burial)| is_settled(burial)).map(|(id, _)| *id).collect();
    for blocks in settled.chunks(ACKS_MAX) {
        core.meta.command(group, &NamespaceCommand::OutboxAck { blocks: blocks.to_vec() }).await?;
        for block in blocks {
            core.env.invariants.remember(Invariant::I9, &block.to_bytes());
            ledger.buried.remove(block);
        }
    }
    Ok(settled.len() as u64)
}

/// Raises the session floor on every drive, then lets the group forget the sessions below it.
async fn settle_sessions(
    core: &Arc<Core>,
    group: GroupId,
    ledger: &mut Ledger,
    sessions: &[Session],
) -> Result<(), GridError> {
    let open = sessions.iter().filter(|session| session.closed_ms.is_none()).map(|open| open.id);
    let newest = sessions.iter().map(|session| session.id).max();
    let Some(floor) = open.min().or(newest.map(|newest| SessionId(newest.0 + 1))) else {
        return Ok(());
    };
    let map = core.map.current();
    let mut calls = Vec::new();
    let mut is_known_by_all = true;
    // A drive without a slot takes no writes; when it gets one, it is fenced to a newer epoch, and
    // what it holds is reconciled (R1, R7).
    let mapped: BTreeSet<DriveId> =
        map.pgs.values().flat_map(|pg| pg.slots.iter().copied()).collect();
    for drive in map.drives.values().filter(|drive| mapped.contains(&drive.id)) {
        // Neither does one that is removed or failed, nor one of a node that is gone.
        let is_gone = matches!(drive.state, DriveState::Removed | DriveState::Failed)
            || map.node(drive.node).is_none();
        let is_told = ledger.floors.get(&drive.id).is_some_and(|told| *told >= floor);
        if is_told || is_gone {
            continue;
        }
        match core.map.drive(&map, drive.id) {
            Some((node, hint)) if hint != NodeHint::Dead => {
                let drive = drive.id;
                calls.push(async move {
                    let told = core.shards.session_floor(node, drive, group, floor).await;
                    (drive, told)
                });
            }
            _ => is_known_by_all = false,
        }
    }
    for (drive, told) in join_all(calls).await {
        match told {
            Ok(()) => drop(ledger.floors.insert(drive, floor)),
            Err(error) => {
                tracing::debug!(drive = drive.0, group = group.0, %error, "session floor");
                is_known_by_all = false;
            }
        }
    }
    if is_known_by_all && sessions.iter().any(|session| session.id < floor) {
        core.meta.command(group, &NamespaceCommand::ForgetSessions { floor }).await?;
    }
    Ok(())
}
