//! Fills holes: shards that writers could not place and readers found missing or bad.
//!
//! ```text
//!  repair queue of a led group ─┐                        ┌ present already ─▶ RepairDone
//!  reports of this node's reads ┴▶ (pg, block, slot) ─▶ read and check
//!                                                        └ missing ─▶ fill session (R4)
//!       k siblings, checked by their drives ─▶ rebuild ─▶ digest agrees ─▶ put ─▶ RepairDone
//! ```
//!
//! The leader of a metadata group works off its queue; a second worker is harmless, because opening
//! a repair session closes the one before and drives refuse the closed one. Works on ciphertext:
//! needs no key. A slot whose drive is not awake waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nexusgrid_codec::{BlockId, DriveId, GroupId, PgId};
use nexusgrid_meta::namespace::types::{
    BlockState, NamespaceAnswer, NamespaceCommand, NamespaceQuery, Repair, Repaired,
};
use nexusgrid_meta::root::topology::{Pg, PgState, Topology};
use nexusgrid_meta::root::types::{RootCommand, RootOk};
use tokio::sync::mpsc;

use crate::care::workers::Worker;
use crate::core::{BadShard, Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;
use crate::metrics::Counters;
use crate::rebuild::{Holder, rebuild};
use crate::shard::client::{ShardError, ShardToPut};
use crate::shard::wire::ShardFault;

/// What became of a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The shard is there.
    Filled,
    /// Nobody needs it any more.
    Obsolete,
    /// Its drive or too many siblings are away: later.
    Waits,
}

/// What one pass over the queues holds on to.
#[derive(Default)]
struct Pass {
    /// Repair sessions held.
    open: BTreeMap<PgId, u64>,
    /// Drives that did not answer: what else they miss waits for the next pass.
    silent: BTreeSet<DriveId>,
}

impl Pass {
    /// Remembers a drive that does not answer.
    fn note(&mut self, drive: DriveId, error: &ShardError) {
        if matches!(error, ShardError::Rpc(_)) {
            self.silent.insert(drive);
        }
    }
}

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, mut reports: mpsc::Receiver<BadShard>, worker: Worker) {
    let mut reported: BTreeSet<BadShard> = BTreeSet::new();
    // A queue whose drives are all away is looked through less and less often.
    let mut idle_rounds = 0;
    loop {
        if !worker.is_paused() {
            let done = pass(&core, &mut reported, &worker).await;
            idle_rounds =
                if done > 0 { 0 } else { (idle_rounds + 1).min(limits::REFILL_IDLE_DOUBLINGS) };
        }
        tokio::select! {
            biased;
            report = reports.recv() => match report {
                Some(report) => {
                    reported.insert(report);
                    idle_rounds = 0;
                }
                None => return,
            },
            () = core.env.clock.sleep(core.options.refill_every * (1 << idle_rounds)) => {}
        }
        while reported.len() < limits::REPORT_QUEUE_MAX
            && let Ok(report) = reports.try_recv()
        {
            reported.insert(report);
        }
    }
}

/// Everything that is known to be missing, once; gives how many holes are no more.
async fn pass(core: &Arc<Core>, reported: &mut BTreeSet<BadShard>, worker: &Worker) -> usize {
    let mut pass = Pass::default();
    let (mut done, mut holes, mut failed) = (0, 0, None);
    worker.begin(Some(core.counters.holes_waiting.load(Ordering::Relaxed)));
    for bad in std::mem::take(reported) {
        match repair_reported(core, &mut pass, bad).await {
            Ok(Outcome::Waits) => drop(reported.insert(bad)),
            Ok(_) => {
                done += 1;
                worker.did(1, 0);
            }
            // Whoever reads it next reports it again.
            Err(error) => failed = Some(format!("block {}: {error}", bad.block)),
        }
    }
    for group in core.map.metadata_groups() {
        if !core.meta.leads(group) {
            continue;
        }
        match drain(core, &mut pass, group, worker).await {
            Ok((filled, left)) => {
                done += filled;
                holes += left;
            }
            Err(error) => failed = Some(format!("repair queue of group {}: {error}", group.0)),
        }
    }
    close(core, !pass.open.is_empty()).await;
    core.counters.holes_waiting.store(holes as u64, Ordering::Relaxed);
    worker.end(failed);
    done
}

/// One pass over a group's repair queue; gives the number of holes that are no more, and of those
/// that wait.
async fn drain(
    core: &Arc<Core>,
    pass: &mut Pass,
    group: GroupId,
    worker: &Worker,
) -> Result<(usize, usize), GridError> {
    let mut after = None;
    let (mut filled, mut seen) = (0, 0);
    loop {
        let query = NamespaceQuery::RepairQueue { pg: None, after, limit: limits::REFILL_BATCH };
        let NamespaceAnswer::Repairs { repairs, more } = core.meta.ask(group, &query).await? else {
            return Err(internal("answer to a repair query"));
        };
        let mut done = Vec::new();
        for repair in &repairs {
            let bad = BadShard { pg: repair.pg, block: repair.block, slot: repair.slot };
            match fill(core, pass, bad).await {
                Ok(Outcome::Filled | Outcome::Obsolete) => {
                    let Repair { pg, block, slot, sequence, .. } = *repair;
                    done.push(Repaired { pg, block, slot, sequence });
                    worker.did(1, 0);
                }
                Ok(Outcome::Waits) => {}
                Err(error) => {
                    tracing::warn!(block = %repair.block, slot = repair.slot, %error, "refill");
                }
            }
        }
        seen += repairs.len();
        filled += done.len();
        if !done.is_empty() {
            core.meta.command(group, &NamespaceCommand::RepairDone { shards: done }).await?;
        }
        after = repairs.last().map(|repair| (repair.pg, repair.block, repair.slot));
        if !more || after.is_none() {
            return Ok((filled, seen - filled));
        }
    }
}

/// A reader's report: the block must still be alive, or its shard would come back from the dead.
async fn repair_reported(
    core: &Arc<Core>,
    pass: &mut Pass,
    bad: BadShard,
) -> Result<Outcome, GridError> {
    if !is_live(core, bad.block).await? {
        return Ok(Outcome::Obsolete);
    }
    fill(core, pass, bad).await
}

async fn is_live(core: &Core, block: BlockId) -> Result<bool, GridError> {
    let query = NamespaceQuery::ResolveBlocks { blocks: vec![block] };
    match core.meta.ask(block.group, &query).await? {
        NamespaceAnswer::Blocks(states) => {
            Ok(matches!(states.first(), Some(BlockState::Live { .. })))
        }
        _ => Err(internal("answer to a question for blocks")),
    }
}

/// Brings one shard to its slot, unless its drive holds it already and finds it good.
async fn fill(core: &Arc<Core>, pass: &mut Pass, bad: BadShard) -> Result<Outcome, GridError> {
    let map = core.map.current();
    let Some(pg) = map.pgs.get(&bad.pg) else { return Ok(Outcome::Waits) };
    let Some(drive) = pg.slots.get(usize::from(bad.slot)).copied() else {
        return Ok(Outcome::Obsolete);
    };
    let Some((node, hint)) = core.map.drive(&map, drive) else { return Ok(Outcome::Waits) };
    let is_silent = hint == NodeHint::Dead || pass.silent.contains(&drive);
    if is_silent || matches!(pg.state, PgState::Preparing(_)) {
        return Ok(Outcome::Waits);
    }
    match core.shards.get_whole(node, drive, bad.block, bad.slot).await {
        Ok(_) => return Ok(Outcome::Filled),
        Err(ShardError::Fault(ShardFault::NotFound | ShardFault::Damaged(_))) => {}
        Err(error) => {
            pass.note(drive, &error);
            return Ok(Outcome::Waits);
        }
    }
    let cost = limits::BLOCK_BYTES_MAX as u64 * 2;
    let tenant = crate::api::Tenant("refill".to_owned());
    let _reservation = core.budget.reserve(&tenant, cost).await?;
    let (k, holders) = (usize::from(pg.class.k()), holders(core, &map, pg));
    let Some((header, body)) = rebuild(core, bad.block, bad.slot, k, &holders).await? else {
        return Ok(Outcome::Waits);
    };
    let session = match pass.open.get(&pg.id) {
        Some(session) => *session,
        None => {
            let command = RootCommand::OpenFillSession { pg: pg.id, worker: core.node };
            let RootOk::FillSession(session) = core.meta.root_command(&command).await? else {
                return Err(internal("reply to opening a repair session"));
            };
            pass.open.insert(pg.id, session);
            session
        }
    };
    // Since the session is open no tombstone of the group is forgotten (R5): a block that dies from
    // now on is refused by its drive, and one that died before is not brought back.
    if !is_live(core, bad.block).await? {
        return Ok(Outcome::Obsolete);
    }
    let shard =
        ShardToPut { node, drive, pg: pg.id, epoch: pg.epoch, fill: Some(session), header, body };
    match core.shards.put(shard).await {
        Ok(_) => {
            Counters::add(&core.counters.shards_refilled, 1);
            Ok(Outcome::Filled)
        }
        Err(ShardError::Fault(ShardFault::Tombstoned)) => Ok(Outcome::Obsolete),
        Err(ShardError::Fault(ShardFault::FillClosed)) => {
            pass.open.remove(&pg.id);
            Ok(Outcome::Waits)
        }
        Err(ShardError::Fault(ShardFault::DigestConflict)) => {
            tracing::error!(block = %bad.block, slot = bad.slot, "I3: another digest under this id");
            Err(internal("digest conflict"))
        }
        Err(error) => {
            pass.note(drive, &error);
            Ok(Outcome::Waits)
        }
    }
}

/// Where a block's shards should be: those on awake nodes first.
fn holders(core: &Core, map: &Topology, pg: &Pg) -> Vec<Holder> {
    let mut slots: Vec<_> = core.slot_nodes(map, pg).collect();
    slots.sort_by_key(|(slot, node, hint)| (*hint, *node != core.node, *slot));
    let holder = |(slot, node, _)| {
        let drive = *pg.slots.get(usize::from(slot))?;
        Some(Holder { slot, node, drive })
    };
    slots.into_iter().filter_map(holder).collect()
}

/// Closes this node's repair sessions: those of this pass, those whose closing went unheard, and those
/// of a life before this one. Moves close their own.
async fn close(core: &Arc<Core>, has_opened: bool) {
    let map = match has_opened {
        // The map may not have heard of them yet.
        true => core.map.refresh().await.unwrap_or_else(|_| core.map.current()),
        false => core.map.current(),
    };
    let is_own =
        |pg: &&Pg| pg.fill_worker == Some(core.node) && !matches!(pg.state, PgState::Preparing(_));
    for pg in map.pgs.values().filter(is_own) {
        let command = RootCommand::CloseFillSession { pg: pg.id, session: pg.fill_session };
        if let Err(error) = core.meta.root_command(&command).await {
            tracing::debug!(pg = pg.id.0, %error, "closing a repair session");
        }
    }
}
