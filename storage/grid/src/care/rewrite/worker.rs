//! The rounds of a gateway over the metadata groups that are its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{BlockId, GroupId};
use nexusgrid_meta::namespace::limits::PACKED_BYTES_MAX;
use nexusgrid_meta::namespace::types::{
    CodeFilter, ContentId, ExtentFilter, FoundExtent, NamespaceAnswer, NamespaceQuery,
};
use nexusgrid_meta::root::topology::{PgClass, Topology};

use super::batch::move_into_one_block;
use super::plan;
use crate::care::remap::throttle::Throttle;
use crate::care::workers::Worker;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;
use crate::placement::{self, Classes};
use crate::stripe::BlockKind;

/// What was seen of a group.
#[derive(Default)]
struct Seen {
    /// The codes that the hosts of the last round allowed.
    wanted: Option<Classes>,
    /// Dead bytes when its blocks were last looked at.
    dead_bytes: Option<u64>,
    /// Half-dead blocks out of which all was moved: they wait for the reader horizon.
    emptied: BTreeSet<BlockId>,
}

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, mut worker: Worker) {
    let options = core.options.care.rewrite.clone();
    let throttle = Throttle::new(core.env.clone(), options.bytes_per_second);
    let mut seen: BTreeMap<GroupId, Seen> = BTreeMap::new();
    loop {
        worker.turn(options.every).await;
        if !core.keys.holds_master() {
            continue;
        }
        let groups: BTreeSet<GroupId> = core
            .map
            .metadata_groups()
            .into_iter()
            .filter(|group| is_own(&core, &core.map.current(), *group))
            .collect();
        seen.retain(|group, _| groups.contains(group));
        let mut failed = None;
        for group in groups {
            let seen = seen.entry(group).or_default();
            let mut round = Round { core: &core, group, throttle: &throttle, worker: &mut worker };
            if let Err(error) = round.run(seen).await {
                tracing::info!(group = group.0, %error, "rewriting blocks");
                failed = Some(format!("group {}: {error}", group.0));
            }
        }
        worker.end(failed);
    }
}

/// Whether it is this gateway that cares for a group.
pub(crate) fn is_own(core: &Core, map: &Topology, group: GroupId) -> bool {
    let awake = |node| core.map.node_hint(map, node) == NodeHint::Alive;
    plan::owner(map, group, awake) == Some(core.node)
}

/// Whether some open placement group of a class has all its drives awake.
fn is_open(core: &Core, map: &Topology, class: PgClass) -> bool {
    map.active_pgs(None).filter(|pg| pg.class == class).any(|pg| {
        pg.slots
            .iter()
            .all(|drive| matches!(core.map.drive(map, *drive), Some((_, NodeHint::Alive))))
    })
}

/// One look at a group.
struct Round<'a> {
    core: &'a Arc<Core>,
    group: GroupId,
    throttle: &'a Throttle,
    worker: &'a mut Worker,
}

impl Round<'_> {
    async fn run(&mut self, seen: &mut Seen) -> Result<(), GridError> {
        let map = self.core.map.refresh().await?;
        let Some(wanted) = placement::classes_of(&map) else { return Ok(()) };
        let used = super::codes(self.core, self.group).await?;
        let is_settled = seen.wanted.replace(wanted) == Some(wanted);
        let outdated = if is_settled { plan::outdated(&used, wanted) } else { Vec::new() };
        let half_dead = match plan::dead_bytes_worth_a_look(&used) {
            Some(dead) if seen.dead_bytes != Some(dead) => {
                let half_dead = self.half_dead(seen).await?;
                seen.dead_bytes = Some(dead);
                half_dead
            }
            _ => BTreeSet::new(),
        };
        if outdated.is_empty() && half_dead.is_empty() {
            return Ok(());
        }
        if let Some(class) =
            [wanted.large, wanted.small].into_iter().find(|class| !is_open(self.core, &map, *class))
        {
            // Looked at again in the next round.
            seen.dead_bytes = None;
            let why = format!("no open placement group of {class:?} has all its drives awake");
            return Err(GridError::Unavailable(why));
        }
        let block_bytes = self.core.options.block_bytes as u64;
        let to_recode: u64 = outdated.iter().map(|code| code.bytes.div_ceil(block_bytes)).sum();
        self.worker.begin(Some(to_recode + half_dead.len() as u64));
        let codes: Vec<CodeFilter> = outdated.iter().map(|code| code.filter).collect();
        let filter = ExtentFilter { blocks: half_dead.iter().copied().collect(), codes };
        let passed = self.pass(wanted, filter).await;
        match passed {
            Ok(Passed { stuck, why }) => {
                let is_stuck = !stuck.is_empty();
                seen.emptied.extend(half_dead.difference(&stuck));
                if is_stuck {
                    seen.dead_bytes = None;
                }
                why.map_or(Ok(()), |why| Err(GridError::Unreadable(why)))
            }
            Err(error) => {
                seen.dead_bytes = None;
                Err(error)
            }
        }
    }

    /// Live blocks of which more than half is dead and something may still be moved.
    async fn half_dead(&self, seen: &mut Seen) -> Result<BTreeSet<BlockId>, GridError> {
        let mut half_dead = BTreeSet::new();
        let mut emptied = BTreeSet::new();
        let mut after = None;
        loop {
            let query = NamespaceQuery::LiveBlocks { after, limit: limits::REWRITE_BLOCKS_PAGE };
            let NamespaceAnswer::LiveBlocks { blocks, more } =
                self.core.meta.ask(self.group, &query).await?
            else {
                return Err(internal("answer to a query for live blocks"));
            };
            after = blocks.last().map(|block| block.block);
            for block in blocks.iter().filter(|block| plan::is_half_dead(block)) {
                let set =
                    if seen.emptied.contains(&block.block) { &mut emptied } else { &mut half_dead };
                set.insert(block.block);
            }
            if !more || half_dead.len() >= limits::REWRITE_BLOCKS_MAX {
                break;
            }
        }
        if half_dead.len() < limits::REWRITE_BLOCKS_MAX {
            // All were looked at: those that are not live any more need not be remembered.
            seen.emptied = emptied;
        }
        while half_dead.len() > limits::REWRITE_BLOCKS_MAX {
            half_dead.pop_last();
        }
        Ok(half_dead)
    }

    /// Goes through all contents of the group and moves what passes the filter.
    async fn pass(&mut self, wanted: Classes, filter: ExtentFilter) -> Result<Passed, GridError> {
        let mut passed = Passed::default();
        let mut pack = Pack::default();
        let mut after: Option<(ContentId, u64)> = None;
        loop {
            // Between two steps it rests if told to, and ends if another is to do it.
            self.worker.turn(Duration::ZERO).await;
            let default = self.core.options.care.rewrite.bytes_per_second;
            self.throttle.set_rate(self.worker.rate(default));
            if !is_own(self.core, &self.core.map.current(), self.group) {
                return Err(GridError::Unavailable("another gateway's turn".to_owned()));
            }
            let query = NamespaceQuery::FindExtents {
                filter: filter.clone(),
                after,
                limit: limits::REWRITE_EXTENTS_PAGE,
            };
            let NamespaceAnswer::FoundExtents { found, next } =
                self.core.meta.ask(self.group, &query).await?
            else {
                return Err(internal("answer to a search for extents"));
            };
            for extent in found {
                if extent.size > PACKED_BYTES_MAX {
                    self.flush(BlockKind::Large, wanted, vec![extent], &mut passed).await?;
                    continue;
                }
                if let Some(full) = pack.push(extent) {
                    self.flush(BlockKind::Pack, wanted, full, &mut passed).await?;
                }
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        if !pack.extents.is_empty() {
            self.flush(BlockKind::Pack, wanted, pack.extents, &mut passed).await?;
        }
        Ok(passed)
    }

    async fn flush(
        &mut self,
        kind: BlockKind,
        wanted: Classes,
        batch: Vec<FoundExtent>,
        passed: &mut Passed,
    ) -> Result<(), GridError> {
        let blocks: BTreeSet<BlockId> = batch.iter().map(|found| found.extent.block).collect();
        let moved =
            move_into_one_block(self.core, self.group, kind, wanted, batch, self.throttle).await?;
        if moved.extents > 0 {
            self.worker.did(blocks.len() as u64, moved.bytes);
        }
        passed.stuck.extend(moved.unreadable.iter().map(|found| found.extent.block));
        passed.why = passed.why.take().or(moved.why);
        Ok(())
    }
}

/// What a pass left where it was.
#[derive(Default)]
struct Passed {
    stuck: BTreeSet<BlockId>,
    why: Option<String>,
}

/// Small contents that will share a block.
#[derive(Default)]
struct Pack {
    extents: Vec<FoundExtent>,
    bytes: u64,
}

impl Pack {
    /// Takes one more; gives those before it if they fill a block.
    fn push(&mut self, found: FoundExtent) -> Option<Vec<FoundExtent>> {
        let len = found.extent.len;
        let is_full = self.bytes + len > limits::PACK_BYTES_MAX as u64
            || self.extents.len() >= limits::PACK_CONTENTS_MAX;
        let full = is_full.then(|| {
            self.bytes = 0;
            std::mem::take(&mut self.extents)
        });
        self.bytes += len;
        self.extents.push(found);
        full.filter(|full| !full.is_empty())
    }
}
