//! The drives that may hold shards of a placement group whose slot moves: fenced, then listed (R2),
//! and merged into one stream in the order of blocks.
//!
//! A list counts only from a drive that acknowledged the new epoch: from then on it takes no write of
//! an older one, and there are none of the new one before the group is clean. So the pages may be
//! read at leisure, and a group of any size takes a few pages of memory.

use std::collections::{BTreeMap, VecDeque};

use futures_util::future::{join_all, try_join_all};
use nexusgrid_codec::{BlockId, DriveId, Epoch, PgId};
use nexusgrid_env::Rule;
use nexusgrid_meta::root::topology::{Pg, SlotMove, Topology};

use crate::core::Core;
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;
use crate::rebuild::Holder;
use crate::shard::client::ShardError;
use crate::shard::wire::{ShardFacts, ShardFault};

/// Which drives answer for the slots of a placement group.
pub(crate) struct Sources {
    /// Fenced: their lists count.
    pub(crate) fenced: Vec<Holder>,
    /// Slots that nobody answers for, with the drive that should.
    pub(crate) silent: Vec<(u8, DriveId)>,
}

/// Why the sources are of no use now.
pub(crate) enum SourceError {
    /// A drive knows a newer epoch: this remap is over.
    Superseded,
    /// Later.
    Other(GridError),
}

impl From<GridError> for SourceError {
    fn from(error: GridError) -> SourceError {
        SourceError::Other(error)
    }
}

fn source_error(holder: Holder, error: ShardError) -> SourceError {
    match error {
        ShardError::Fault(ShardFault::StaleEpoch { .. }) => SourceError::Superseded,
        error => SourceError::Other(GridError::Unavailable(format!(
            "drive {} on node {}: {error}",
            holder.drive.0, holder.node
        ))),
    }
}

/// Fences every drive that may hold shards: those of the slots that stay, and the one that the moved
/// slot leaves, if it still serves.
pub(crate) async fn fence(
    core: &Core,
    map: &Topology,
    pg: &Pg,
    made: SlotMove,
) -> Result<Sources, SourceError> {
    let mut sources = Sources { fenced: Vec::new(), silent: Vec::new() };
    let mut calls = Vec::new();
    for (slot, drive) in (0u8..).zip(&pg.slots) {
        let drive = if slot == made.slot { made.from } else { *drive };
        match core.map.drive(map, drive) {
            Some((node, hint)) if hint != NodeHint::Dead && drive != made.to => {
                let holder = Holder { slot, node, drive };
                let is_careful = core.env.rules.keeps(Rule::FenceThenList);
                calls.push(async move {
                    match is_careful {
                        true => (holder, core.shards.fence(node, drive, pg.id, pg.epoch).await),
                        false => (holder, Ok(())),
                    }
                });
            }
            // The slot comes back to the drive it left: its list is read as the target's.
            _ if drive == made.to => {}
            _ => sources.silent.push((slot, drive)),
        }
    }
    for (holder, fenced) in join_all(calls).await {
        match fenced {
            Ok(()) => sources.fenced.push(holder),
            Err(error) => match source_error(holder, error) {
                SourceError::Superseded => return Err(SourceError::Superseded),
                SourceError::Other(error) => {
                    tracing::debug!(pg = pg.id.0, slot = holder.slot, %error, "survivor");
                    sources.silent.push((holder.slot, holder.drive));
                }
            },
        }
    }
    Ok(sources)
}

/// What is known of a block.
#[derive(Default)]
pub(crate) struct Listed {
    /// What the sources hold.
    pub(crate) held: Vec<(Holder, ShardFacts)>,
    /// What the target holds, of whatever slot.
    pub(crate) own: Vec<ShardFacts>,
}

/// Goes through one drive's list.
struct Cursor {
    holder: Holder,
    is_target: bool,
    page: VecDeque<ShardFacts>,
    after: Option<(BlockId, u8)>,
    more: bool,
}

/// The lists of all sources and of the target, block by block.
pub(crate) struct Lists {
    pg: (PgId, Epoch),
    cursors: Vec<Cursor>,
}

impl Lists {
    pub(crate) fn new(pg: &Pg, sources: &[Holder], target: Holder) -> Lists {
        let cursor = |holder: &Holder, is_target| Cursor {
            holder: *holder,
            is_target,
            page: VecDeque::new(),
            after: None,
            more: true,
        };
        let mut cursors: Vec<Cursor> = sources.iter().map(|holder| cursor(holder, false)).collect();
        cursors.push(cursor(&target, true));
        Lists { pg: (pg.id, pg.epoch), cursors }
    }

    /// The next blocks, each with all that is held of it; `None` at the end.
    pub(crate) async fn next(
        &mut self,
        core: &Core,
    ) -> Result<Option<BTreeMap<BlockId, Listed>>, SourceError> {
        let pg = self.pg;
        // The last block of a page may go on in the next one, so that a page with one block left is
        // as good as read.
        let is_read = |cursor: &Cursor| {
            cursor.page.front().map(|facts| facts.block)
                == cursor.page.back().map(|facts| facts.block)
        };
        let read = self.cursors.iter_mut().filter(|cursor| cursor.more && is_read(cursor));
        try_join_all(read.map(|cursor| read_page(core, pg, cursor))).await?;
        let last_of = |cursor: &Cursor| cursor.page.back().map(|facts| facts.block);
        let bound = self.cursors.iter().filter(|cursor| cursor.more).filter_map(last_of).min();
        let mut blocks: BTreeMap<BlockId, Listed> = BTreeMap::new();
        for cursor in &mut self.cursors {
            let within = |facts: &ShardFacts| bound.is_none_or(|bound| facts.block < bound);
            while let Some(facts) = cursor.page.pop_front_if(|facts| within(facts)) {
                let listed = blocks.entry(facts.block).or_default();
                match cursor.is_target {
                    true => listed.own.push(facts),
                    false => listed.held.push((cursor.holder, facts)),
                }
            }
        }
        Ok(if blocks.is_empty() { None } else { Some(blocks) })
    }
}

async fn read_page(core: &Core, pg: (PgId, Epoch), cursor: &mut Cursor) -> Result<(), SourceError> {
    let Holder { node, drive, .. } = cursor.holder;
    const PAGE: usize = limits::LIST_SHARDS_MAX;
    let page = match core.env.rules.keeps(Rule::FenceThenList) {
        true => core.shards.list(node, drive, pg, cursor.after, PAGE).await,
        false => core.shards.list_held(node, drive, pg.0, cursor.after, PAGE as u32).await,
    };
    let (shards, more) = page.map_err(|error| source_error(cursor.holder, error))?;
    cursor.more = more && !shards.is_empty();
    cursor.after = shards.last().map(|facts| (facts.block, facts.index)).or(cursor.after);
    cursor.page.extend(shards);
    Ok(())
}
