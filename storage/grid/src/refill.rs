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

use nexusgrid_codec::PgId;
use nexusgrid_meta::namespace::types::{
    BlockState, NamespaceAnswer, NamespaceCommand, NamespaceQuery,
};
use nexusgrid_meta::root::topology::{Pg, PgState, Topology};
use nexusgrid_meta::root::types::{RootCommand, RootOk};
use tokio::sync::mpsc;

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

/// A repair session held by this worker.
type Sessions = BTreeMap<PgId, u64>;

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, mut reports: mpsc::Receiver<BadShard>) {
    let mut reported: BTreeSet<BadShard> = BTreeSet::new();
    // A queue whose drives are all away is looked through less and less often.
    let mut idle_rounds = 0;
    loop {
        let mut open = Sessions::new();
        let mut waiting = BTreeSet::new();
        let (mut done, mut holes) = (0, 0);
        for bad in std::mem::take(&mut reported) {
            match repair_reported(&core, &mut open, bad).await {
                Ok(Outcome::Waits) => drop(waiting.insert(bad)),
                Ok(_) => done += 1,
                // Whoever reads it next reports it again.
                Err(error) => tracing::debug!(block = %bad.block, %error, "reported shard"),
            }
        }
        for group in core.map.metadata_groups() {
            if !core.meta.leads(group) {
                continue;
            }
            match drain(&core, &mut open, group).await {
                Ok((filled, left)) => {
                    done += filled;
                    holes += left;
                }
                Err(error) => tracing::debug!(group = group.0, %error, "repair queue"),
            }
        }
        close(&core, open).await;
        core.counters.holes_waiting.store(holes as u64, Ordering::Relaxed);
        reported = waiting;
        idle_rounds =
            if done > 0 { 0 } else { (idle_rounds + 1).min(limits::REFILL_IDLE_DOUBLINGS) };
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

/// One pass over a group's repair queue; gives the number of holes that are no more, and of those
/// that wait.
async fn drain(
    core: &Arc<Core>,
    open: &mut Sessions,
    group: nexusgrid_codec::GroupId,
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
            match fill(core, open, bad).await {
                Ok(Outcome::Filled | Outcome::Obsolete) => {
                    done.push((repair.pg, repair.block, repair.slot));
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
    open: &mut Sessions,
    bad: BadShard,
) -> Result<Outcome, GridError> {
    let query = NamespaceQuery::ResolveBlocks { blocks: vec![bad.block] };
    match core.meta.ask(bad.block.group, &query).await? {
        NamespaceAnswer::Blocks(states)
            if matches!(states.first(), Some(BlockState::Live { .. })) => {}
        _ => return Ok(Outcome::Obsolete),
    }
    fill(core, open, bad).await
}

/// Brings one shard to its slot, unless its drive holds it already and finds it good.
async fn fill(core: &Arc<Core>, open: &mut Sessions, bad: BadShard) -> Result<Outcome, GridError> {
    let map = core.map.current();
    let Some(pg) = map.pgs.get(&bad.pg) else { return Ok(Outcome::Waits) };
    let Some(drive) = pg.slots.get(usize::from(bad.slot)).copied() else {
        return Ok(Outcome::Obsolete);
    };
    let Some((node, hint)) = core.map.drive(&map, drive) else { return Ok(Outcome::Waits) };
    if hint == NodeHint::Dead || matches!(pg.state, PgState::Preparing(_)) {
        return Ok(Outcome::Waits);
    }
    match core.shards.get_whole(node, drive, bad.block, bad.slot).await {
        Ok(_) => return Ok(Outcome::Filled),
        Err(ShardError::Fault(ShardFault::NotFound | ShardFault::Damaged(_))) => {}
        Err(_) => return Ok(Outcome::Waits),
    }
    let cost = limits::BLOCK_BYTES_MAX as u64 * 2;
    let tenant = crate::api::Tenant("refill".to_owned());
    let _reservation = core.budget.reserve(&tenant, cost).await?;
    let (k, holders) = (usize::from(pg.class.k()), holders(core, &map, pg));
    let Some((header, body)) = rebuild(core, bad.block, bad.slot, k, &holders).await? else {
        return Ok(Outcome::Waits);
    };
    let session = match open.get(&pg.id) {
        Some(session) => *session,
        None => {
            let command = RootCommand::OpenFillSession { pg: pg.id, worker: core.node };
            let RootOk::FillSession(session) = core.meta.root_command(&command).await? else {
                return Err(internal("reply to opening a repair session"));
            };
            open.insert(pg.id, session);
            session
        }
    };
    let shard =
        ShardToPut { node, drive, pg: pg.id, epoch: pg.epoch, fill: Some(session), header, body };
    match core.shards.put(shard).await {
        Ok(_) => {
            Counters::add(&core.counters.shards_refilled, 1);
            Ok(Outcome::Filled)
        }
        Err(ShardError::Fault(ShardFault::Tombstoned)) => Ok(Outcome::Obsolete),
        Err(ShardError::Fault(ShardFault::FillClosed)) => {
            open.remove(&pg.id);
            Ok(Outcome::Waits)
        }
        Err(ShardError::Fault(ShardFault::DigestConflict)) => {
            tracing::error!(block = %bad.block, slot = bad.slot, "I3: another digest under this id");
            Err(internal("digest conflict"))
        }
        Err(_) => Ok(Outcome::Waits),
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

async fn close(core: &Arc<Core>, open: Sessions) {
    for (pg, session) in open {
        let command = RootCommand::CloseFillSession { pg, session };
        if let Err(error) = core.meta.root_command(&command).await {
            tracing::debug!(pg = pg.0, %error, "closing a repair session");
        }
    }
}
