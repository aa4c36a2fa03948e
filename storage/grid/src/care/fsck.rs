//! Compares what metadata says with what drives hold, over the whole grid, while it runs.
//!
//! ```text
//!   every live block of every group ──stat on each mapped drive──▶ present · missing · unreachable
//!   every shard of every reachable drive ──resolve──▶ live · waiting for burial · orphan · misplaced
//! ```
//!
//! What changes while it looks is looked at again before it counts: a block deleted meanwhile is
//! not missing, a shard written meanwhile is not an orphan. Garbage that waits for its horizon is
//! reported, and is no error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use nexusgrid_codec::{BlockId, DriveId, GroupId, PgId};
use nexusgrid_env::{Invariant, NodeId};
use nexusgrid_meta::namespace::types::{
    BlockState, LiveBlock, NamespaceAnswer, NamespaceCommand, NamespaceQuery,
};
use nexusgrid_meta::root::topology::{Pg, Topology};

use super::names::{self, ObjectName};
use super::remap::survivors::{Standing, moving, standing};
use super::workers::Worker;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;
use crate::meta_port::MetaError;
use crate::shard::wire::ShardFacts;

/// A block that lacks shards, or a shard that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsckFault {
    /// The block.
    pub block: BlockId,
    /// The placement group.
    pub pg: PgId,
    /// The slot; `None`: the whole block.
    pub slot: Option<u8>,
    /// The invariant that it breaks, if it is no mere leftover.
    pub invariant: Option<Invariant>,
    /// What is wrong, for people.
    pub what: &'static str,
    /// Objects with bytes in the block, some of them; none for what metadata does not know.
    pub objects: Vec<ObjectName>,
}

/// What a check of the grid found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Live blocks.
    pub blocks: u64,
    /// Shards that they have, found in place.
    pub shards: u64,
    /// Shards missing that repair knows of.
    pub queued: u64,
    /// Shards on drives that do not answer now.
    pub unreachable: u64,
    /// Missing, and repair does not know (I2); with `repair` they were put on its queue.
    pub missing: u64,
    /// Blocks with fewer than k shards found or possibly there: their bytes are lost.
    pub lost: u64,
    /// Blocks deleted, on their way off the drives.
    pub awaiting_burial: u64,
    /// Shards of blocks whose writer may still commit them.
    pub pending: u64,
    /// Shards of blocks that metadata does not know.
    pub orphans: u64,
    /// Shards of blocks whose writers metadata never heard of: it is older than the data, which can
    /// be recovered.
    pub unheard: u64,
    /// Shards of live blocks on drives or slots that are not (any more) theirs.
    pub misplaced: u64,
    /// Shards that the drives hold in all.
    pub held: u64,
    /// Drives that could not be listed.
    pub unlisted: Vec<DriveId>,
    /// The first faults, for people.
    pub faults: Vec<FsckFault>,
}

impl FsckReport {
    /// Whether nothing is wrong. What waits is not: for repair, for burial, for a commit, or, as
    /// orphans do, for the second look of `sweep`.
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.lost == 0 && self.unheard == 0
    }

    fn fault(
        &mut self,
        (block, pg, slot): (BlockId, PgId, Option<u8>),
        invariant: Option<Invariant>,
        what: &'static str,
    ) {
        if self.faults.len() < limits::FSCK_FAULTS_MAX {
            self.faults.push(FsckFault { block, pg, slot, invariant, what, objects: Vec::new() });
        }
    }
}

/// Runs until the agent stops: the leader of each metadata group compares its live blocks with the
/// drives, and puts on the repair queue what is missing there (I2). A drive may lose shards in ways
/// that nobody reports: a file gone from a segment directory, an older copy of the disk.
pub(crate) async fn watch(core: Arc<Core>, mut worker: Worker) {
    loop {
        worker.turn(core.options.care.inventory_every).await;
        worker.begin(None);
        let mut failed = None;
        for group in core.map.metadata_groups() {
            if !core.meta.leads(group) {
                continue;
            }
            let mut report = FsckReport::default();
            let checked = match core.map.refresh().await {
                Ok(map) => check_group(&core, &map, group, true, &mut report).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = checked {
                failed = Some(format!("group {}: {error}", group.0));
            }
            if report.lost > 0 {
                tracing::error!(group = group.0, lost = report.lost, "blocks with too few shards");
                failed = Some(format!("group {}: {} blocks cannot be read", group.0, report.lost));
            }
            worker.did(report.blocks, 0);
        }
        worker.end(failed);
    }
}

/// Checks the whole grid; `repair` puts what is missing on the repair queues.
pub(crate) async fn run(core: &Arc<Core>, repair: bool) -> Result<FsckReport, GridError> {
    let mut report = FsckReport::default();
    let map = core.map.refresh().await?;
    for group in core.map.metadata_groups() {
        check_group(core, &map, group, repair, &mut report).await?;
    }
    name_objects(core, &map, &mut report).await?;
    let drives: Vec<DriveId> = map.drives.keys().copied().collect();
    for drive in drives {
        check_drive(core, drive, &mut report).await?;
    }
    Ok(report)
}

/// Says which objects the faults touch that were found so far.
async fn name_objects(
    core: &Arc<Core>,
    map: &Topology,
    report: &mut FsckReport,
) -> Result<(), GridError> {
    let mut by_group: BTreeMap<GroupId, BTreeSet<BlockId>> = BTreeMap::new();
    for fault in &report.faults {
        by_group.entry(fault.block.group).or_default().insert(fault.block);
    }
    for (group, blocks) in by_group {
        let ask = |query: NamespaceQuery| ask_for_names(core, group, query).boxed();
        let Some(names) = names::objects_of(map, group, blocks, &ask).await? else {
            return Err(internal("answer to a listing"));
        };
        for fault in &mut report.faults {
            if let Some(objects) = names.get(&fault.block) {
                fault.objects = objects.clone();
            }
        }
    }
    Ok(())
}

async fn ask_for_names(
    core: &Core,
    group: GroupId,
    query: NamespaceQuery,
) -> Result<NamespaceAnswer, MetaError> {
    match core.meta.ask(group, &query).await {
        // A bucket or an object that went meanwhile.
        Err(MetaError::Namespace(_)) => Ok(NamespaceAnswer::Versions(Default::default())),
        answer => answer,
    }
}

async fn check_group(
    core: &Arc<Core>,
    map: &Topology,
    group: GroupId,
    repair: bool,
    report: &mut FsckReport,
) -> Result<(), GridError> {
    let mut after = None;
    loop {
        let query = NamespaceQuery::LiveBlocks { after, limit: limits::FSCK_BATCH };
        let NamespaceAnswer::LiveBlocks { blocks, more } = core.meta.ask(group, &query).await?
        else {
            return Err(internal("answer to a blocks query"));
        };
        let Some(last) = blocks.last() else { return Ok(()) };
        after = Some(last.block);
        let seen = look(core, map, &blocks).await;
        let doubtful = judge(map, &blocks, &seen, report);
        if doubtful.len() < blocks.len() {
            core.env.invariants.check(Invariant::I2, true, String::new);
        }
        confirm(core, group, doubtful, repair, report).await?;
        if !more {
            return Ok(());
        }
    }
}

/// What one drive said of a batch: the slots present; absent if it did not answer.
type Seen = BTreeMap<DriveId, BTreeMap<(BlockId, u8), ShardFacts>>;

/// Asks each drive once for its slots of these blocks.
async fn look(core: &Arc<Core>, map: &Topology, blocks: &[LiveBlock]) -> Seen {
    let mut wanted: BTreeMap<DriveId, Vec<(BlockId, u8)>> = BTreeMap::new();
    for block in blocks {
        let Some(pg) = map.pgs.get(&block.pg) else { continue };
        for (slot, drive) in (0u8..).zip(&pg.slots) {
            wanted.entry(*drive).or_default().push((block.block, slot));
        }
    }
    let ask = |(drive, shards): (DriveId, Vec<(BlockId, u8)>)| async move {
        let (node, hint) = core.map.drive(map, drive)?;
        if hint == NodeHint::Dead {
            return None;
        }
        let mut found = BTreeMap::new();
        for shards in shards.chunks(limits::STAT_SHARDS_MAX) {
            let facts = core.shards.stat(node, drive, shards.to_vec()).await.ok()?;
            found.extend(
                facts.into_iter().flatten().map(|facts| ((facts.block, facts.index), facts)),
            );
        }
        Some((drive, found))
    };
    join_all(wanted.into_iter().map(ask)).await.into_iter().flatten().collect()
}

/// Counts what is in place; gives what seems missing.
fn judge(
    map: &Topology,
    blocks: &[LiveBlock],
    seen: &Seen,
    report: &mut FsckReport,
) -> Vec<(LiveBlock, Vec<u8>, bool)> {
    let mut doubtful = Vec::new();
    for block in blocks {
        report.blocks += 1;
        let Some(pg) = map.pgs.get(&block.pg) else {
            report.lost += 1;
            let at = (block.block, block.pg, None);
            report.fault(at, Some(Invariant::I1), "its placement group is not known");
            continue;
        };
        let (mut found, mut unreachable, mut missing) = (0, 0, Vec::new());
        for (slot, drive) in (0u8..).zip(&pg.slots) {
            let is_queued = block.missing_mask >> slot & 1 == 1;
            match seen.get(drive) {
                Some(shards) if shards.contains_key(&(block.block, slot)) => found += 1,
                _ if is_queued => report.queued += 1,
                // It does not come back; its slot moves, which repair knows.
                None if !may_return(map, pg, slot) => report.queued += 1,
                None => unreachable += 1,
                Some(_) => missing.push(slot),
            }
        }
        report.shards += found;
        report.unreachable += unreachable;
        let moving = (0u8..).zip(&pg.slots).filter(|(slot, drive)| {
            // What it held before it moved may still be there.
            seen.get(drive).is_some_and(|shards| !shards.contains_key(&(block.block, *slot)))
                && may_be_behind(map, pg, *slot)
        });
        let is_lost = found + unreachable + (moving.count() as u64) < u64::from(block.k);
        if is_lost || !missing.is_empty() {
            doubtful.push((*block, missing, is_lost));
        }
    }
    doubtful
}

/// Looks again at what seems wrong: it may have been deleted, moved or filled meanwhile.
async fn confirm(
    core: &Arc<Core>,
    group: GroupId,
    doubtful: Vec<(LiveBlock, Vec<u8>, bool)>,
    repair: bool,
    report: &mut FsckReport,
) -> Result<(), GridError> {
    if doubtful.is_empty() {
        return Ok(());
    }
    let map = core.map.refresh().await?;
    let blocks: Vec<LiveBlock> = doubtful.iter().map(|(block, ..)| *block).collect();
    let seen = look(core, &map, &blocks).await;
    let ids = blocks.iter().map(|block| block.block).collect::<Vec<_>>();
    // After the drives were asked: a block that is still live now was live then.
    let states = resolve(core, group, ids).await?;
    let mut marked = Vec::new();
    for ((block, missing, is_lost), state) in doubtful.into_iter().zip(states) {
        let BlockState::Live { .. } = state else { continue };
        let Some(pg) = map.pgs.get(&block.pg) else { continue };
        let is_there = |slot: u8| {
            let drive = pg.slots.get(usize::from(slot))?;
            Some(seen.get(drive)?.contains_key(&(block.block, slot)))
        };
        for slot in missing.into_iter().filter(|slot| is_there(*slot) == Some(false)) {
            // A slot that is being moved has its shard on the way.
            if moving(pg, slot).is_some() {
                report.queued += 1;
                continue;
            }
            report.missing += 1;
            core.env.invariants.check(Invariant::I2, false, || {
                format!("slot {slot} of {} in pg {}", block.block, block.pg.0)
            });
            let at = (block.block, block.pg, Some(slot));
            report.fault(at, Some(Invariant::I2), "missing, and not known to repair");
            marked.push((block.pg, block.block, slot));
        }
        let is_possible = |slot: &u8| match is_there(*slot) {
            Some(true) => true,
            Some(false) => may_be_behind(&map, pg, *slot),
            None => may_return(&map, pg, *slot),
        };
        let possible = (0..block.k + block.m).filter(is_possible).count();
        if is_lost && possible < usize::from(block.k) {
            report.lost += 1;
            let at = (block.block, block.pg, None);
            report.fault(at, Some(Invariant::I1), "fewer shards than it takes to read it");
        }
    }
    if repair {
        let now_ms = core.meta.now_ms();
        for shards in marked.chunks(limits::MARKED_PER_COMMAND) {
            let command = NamespaceCommand::MarkMissing { shards: shards.to_vec(), now_ms };
            core.meta.command(group, &command).await?;
        }
    }
    Ok(())
}

/// Whether a shard may be on the drive that its slot moves off.
fn may_be_behind(map: &Topology, pg: &Pg, slot: u8) -> bool {
    moving(pg, slot).is_some_and(|moved| standing(map, moved.from) != Standing::Lost)
}

/// Whether a shard of a drive that does not answer may be heard of again.
fn may_return(map: &Topology, pg: &Pg, slot: u8) -> bool {
    let drive = pg.slots.get(usize::from(slot));
    drive.is_some_and(|drive| standing(map, *drive) != Standing::Lost)
        || may_be_behind(map, pg, slot)
}

async fn resolve(
    core: &Arc<Core>,
    group: GroupId,
    blocks: Vec<BlockId>,
) -> Result<Vec<BlockState>, GridError> {
    let wanted = blocks.len();
    match core.meta.ask(group, &NamespaceQuery::ResolveBlocks { blocks }).await? {
        NamespaceAnswer::Blocks(states) if states.len() == wanted => Ok(states),
        _ => Err(internal("answer to a blocks query")),
    }
}

/// Goes through a drive's shards, placement group by placement group.
async fn check_drive(
    core: &Arc<Core>,
    drive: DriveId,
    report: &mut FsckReport,
) -> Result<(), GridError> {
    let map = core.map.current();
    let Some((node, _)) = core.map.drive(&map, drive).filter(|(_, hint)| *hint != NodeHint::Dead)
    else {
        report.unlisted.push(drive);
        return Ok(());
    };
    for pg in map.pgs.keys() {
        let mut after = None;
        loop {
            let page = core.shards.list_held(node, drive, *pg, after, limits::FSCK_BATCH).await;
            let Ok((shards, more)) = page else {
                report.unlisted.push(drive);
                return Ok(());
            };
            after = shards.last().map(|shard| (shard.block, shard.index));
            check_page(core, drive, node, &shards, report).await?;
            if !more || after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

async fn check_page(
    core: &Arc<Core>,
    drive: DriveId,
    node: NodeId,
    shards: &[ShardFacts],
    report: &mut FsckReport,
) -> Result<(), GridError> {
    report.held += shards.len() as u64;
    let mut by_group: BTreeMap<GroupId, BTreeSet<BlockId>> = BTreeMap::new();
    for shard in shards {
        by_group.entry(shard.block.group).or_default().insert(shard.block);
    }
    let mut states = BTreeMap::new();
    for (group, blocks) in by_group {
        let blocks: Vec<BlockId> = blocks.into_iter().collect();
        let known = resolve(core, group, blocks.clone()).await?;
        states.extend(blocks.into_iter().zip(known));
    }
    let map = core.map.current();
    let mut unknown = Vec::new();
    for shard in shards {
        match states.get(&shard.block) {
            Some(BlockState::Live { pg, .. }) => {
                let slots = map.pgs.get(pg).map(|pg| &pg.slots);
                let mapped = slots.and_then(|slots| slots.get(usize::from(shard.index)));
                report.misplaced += u64::from(mapped != Some(&drive));
            }
            Some(BlockState::Dead) => report.awaiting_burial += 1,
            Some(BlockState::Pending) => report.pending += 1,
            Some(BlockState::Unheard) => {
                report.unheard += 1;
                let what = "newer than metadata, which never heard of its writer";
                report.fault((shard.block, shard.pg, Some(shard.index)), None, what);
            }
            Some(BlockState::Unknown) | None => unknown.push(shard),
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    // What was buried between the listing and the question is not there any more.
    for unknown in unknown.chunks(limits::STAT_SHARDS_MAX) {
        let keys = unknown.iter().map(|shard| (shard.block, shard.index)).collect();
        let Ok(still) = core.shards.stat(node, drive, keys).await else { continue };
        for facts in still.into_iter().flatten() {
            report.orphans += 1;
            let at = (facts.block, facts.pg, Some(facts.index));
            report.fault(at, None, "unknown to metadata");
        }
    }
    Ok(())
}
