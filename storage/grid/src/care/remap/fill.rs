//! What one slot lacks, found and brought there: the part of a remap that reads and writes shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nexusgrid_codec::{BlockId, GroupId, PgId, ShardHeader};
use nexusgrid_drive::{DriveStore, ShardKey};
use nexusgrid_env::{Invariant, Rule};
use nexusgrid_meta::namespace::types::{
    BlockState, NamespaceAnswer, NamespaceCommand, NamespaceQuery,
};
use nexusgrid_meta::root::topology::{Pg, PgState, SlotMove, Topology};

use super::sources::{self, Listed, Lists, SourceError, Sources};
use super::survivors::{Standing, is_urgent, standing};
use super::throttle::Throttle;
use super::worker::Progress;
use crate::api::Tenant;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::rebuild::{Holder, rebuild};
use crate::shard::client::{ShardError, ShardToPut};
use crate::shard::wire::ShardFault;

/// How far a slot was filled.
pub(crate) enum Filled {
    /// Nothing acknowledged can be missing.
    All,
    /// Something may be: what.
    Waits(String),
}

/// One slot being filled.
pub(crate) struct Filling<'a> {
    pub(crate) core: &'a Core,
    pub(crate) store: &'a DriveStore,
    pub(crate) pg: &'a Pg,
    pub(crate) made: SlotMove,
    pub(crate) target: Holder,
    pub(crate) session: u64,
    /// `None`: urgent.
    pub(crate) throttle: Option<&'a Throttle>,
    pub(crate) progress: &'a Progress,
    /// Groups that wait for something else: no reason to give way.
    pub(crate) stuck: &'a BTreeSet<PgId>,
}

/// What became of one block.
enum Brought {
    /// Its shard is here, or nobody needs it.
    Done,
    /// It lives, and fewer than k of its shards answer.
    TooFew(BlockId),
    /// It may yet be committed, and fewer than k of its shards answer.
    Undecided,
    /// Nothing more can be stored now: why.
    Stopped(String),
}

/// What speaks against declaring the group clean.
#[derive(Default)]
struct Doubts {
    too_few: u64,
    undecided: u64,
    /// Why some could not be asked for, or all.
    unasked: Option<String>,
    /// A drive that was not listed only sleeps.
    asleep: bool,
    example: Option<BlockId>,
}

impl Filling<'_> {
    pub(crate) async fn run(&self, map: &Topology) -> Result<Filled, SourceError> {
        let sources = sources::fence(self.core, map, self.pg, self.made).await?;
        let mut lists = Lists::new(self.pg, &sources.fenced, self.target);
        let mut doubts = Doubts::default();
        let class = self.pg.class;
        // So many slots meet every quorum: a block that none of them lists was never acknowledged.
        let meets_quorums = class.width() - sources.silent.len() + class.quorum() > class.width();
        let mut seen = (!sources.silent.is_empty()).then(BTreeSet::new);
        if !meets_quorums {
            // What the silent drives alone acknowledged may wait for its commit: it never comes, or
            // it has come before metadata is asked below.
            if let Err(error) = self.fence_metadata().await {
                doubts.unasked = Some(error.to_string());
            }
        }
        while let Some(blocks) = lists.next(self.core).await? {
            if self.throttle.is_some() && self.urgent_waits() {
                return Ok(Filled::Waits("gives way to urgent repair".to_owned()));
            }
            let states = self.resolve(blocks.keys().copied().collect(), &mut doubts).await;
            if let Some(seen) = &mut seen {
                seen.extend(blocks.keys().copied());
            }
            self.trash_stale(&blocks, &states, &sources).await?;
            let mut running = FuturesUnordered::new();
            for (block, listed) in &blocks {
                let is_pending = match states.get(block) {
                    Some(BlockState::Live { pg, .. }) if *pg == self.pg.id => false,
                    Some(BlockState::Pending | BlockState::Unheard) => true,
                    _ => continue,
                };
                if running.len() == limits::REMAP_BLOCKS_AT_ONCE
                    && let Some(brought) = running.next().await
                    && let Some(why) = doubts.note(brought?)
                {
                    return Ok(Filled::Waits(why));
                }
                running.push(self.bring(*block, listed, is_pending, sources.silent.len()));
            }
            while let Some(brought) = running.next().await {
                if let Some(why) = doubts.note(brought?) {
                    return Ok(Filled::Waits(why));
                }
            }
        }
        if doubts.unasked.is_some() {
            return Ok(self.verdict(&sources, &doubts));
        }
        if let Some(seen) = &seen {
            doubts.too_few += self.queued_elsewhere(seen).await?;
        }
        if let Some(seen) = seen.filter(|_| !meets_quorums) {
            match self.unaccounted(map, &sources, &seen).await? {
                Some(0) => {}
                Some(count) => doubts.too_few += count,
                None => doubts.asleep = true,
            }
        }
        Ok(self.verdict(&sources, &doubts))
    }

    /// Whether nothing acknowledged can be missing.
    fn verdict(&self, sources: &Sources, doubts: &Doubts) -> Filled {
        let silent = sources.silent.iter();
        let silent: Vec<String> =
            silent.map(|(slot, drive)| format!("slot {slot} (drive {})", drive.0)).collect();
        let silent = silent.join(", ");
        match doubts {
            Doubts { unasked: Some(why), .. } => {
                Filled::Waits(format!("metadata must say first what lives: {why}"))
            }
            Doubts { asleep: true, .. } => {
                Filled::Waits(format!("what sleeps must be listed first; silent: {silent}"))
            }
            Doubts { too_few: 0, undecided: 0, .. } => Filled::All,
            Doubts { too_few: 0, undecided, .. } => Filled::Waits(format!(
                "{undecided} blocks may yet be committed by their writers; silent: {silent}"
            )),
            Doubts { too_few, example, .. } => Filled::Waits(format!(
                "{too_few} blocks have fewer than {} shards that answer{}; silent: {silent}",
                self.pg.class.k(),
                example.map_or_else(String::new, |block| format!(" (one is {block})")),
            )),
        }
    }

    /// From now on no commit refers to a block acknowledged before this epoch.
    async fn fence_metadata(&self) -> Result<(), GridError> {
        let command = NamespaceCommand::FencePg { pg: self.pg.id, epoch: self.pg.epoch };
        for group in self.core.map.metadata_groups() {
            self.core.meta.command(group, &command).await?;
        }
        Ok(())
    }

    /// Live blocks on the repair queue of which nothing was listed: a quorum of slots answered, but
    /// theirs are lost there, so that only a silent drive may hold them.
    async fn queued_elsewhere(&self, seen: &BTreeSet<BlockId>) -> Result<u64, GridError> {
        let mut missing = BTreeSet::new();
        for group in self.core.map.metadata_groups() {
            let mut after = None;
            loop {
                let query = NamespaceQuery::RepairQueue {
                    pg: Some(self.pg.id),
                    after,
                    limit: limits::REFILL_BATCH,
                };
                let answer = self.core.meta.ask(group, &query).await?;
                let NamespaceAnswer::Repairs { repairs, more } = answer else {
                    return Err(internal("answer to a repair query"));
                };
                missing.extend(
                    repairs.iter().map(|row| row.block).filter(|block| !seen.contains(block)),
                );
                after = repairs.last().map(|row| (row.pg, row.block, row.slot));
                if !more || after.is_none() {
                    break;
                }
            }
        }
        Ok(missing.len() as u64)
    }

    /// Too few slots were listed to meet every quorum. If all others are down or lost, not merely
    /// asleep, metadata is asked instead: how many blocks live of which nothing was listed.
    async fn unaccounted(
        &self,
        map: &Topology,
        sources: &Sources,
        seen: &BTreeSet<BlockId>,
    ) -> Result<Option<u64>, GridError> {
        let is_gone = |drive| matches!(standing(map, drive), Standing::Lost | Standing::Down(_));
        if !sources.silent.iter().all(|(_, drive)| is_gone(*drive)) {
            return Ok(None);
        }
        let mut missing = 0;
        for group in self.core.map.metadata_groups() {
            let mut after = None;
            loop {
                let limit = limits::REMAP_RESOLVE_BATCH as u32;
                let query = NamespaceQuery::LiveBlocks { after, limit };
                let answer = self.core.meta.ask(group, &query).await?;
                let NamespaceAnswer::LiveBlocks { blocks, more } = answer else {
                    return Err(internal("answer to a question for live blocks"));
                };
                let here = blocks.iter().filter(|live| live.pg == self.pg.id);
                missing += here.filter(|live| !seen.contains(&live.block)).count() as u64;
                after = blocks.last().map(|live| live.block);
                if !more || after.is_none() {
                    break;
                }
            }
        }
        Ok(Some(missing))
    }

    /// Whether another group's last shards wait for this very drive.
    fn urgent_waits(&self) -> bool {
        let map = self.core.map.current();
        let to_here = |pg: &&Pg| match &pg.state {
            PgState::Preparing(remap) => {
                pg.id != self.pg.id && remap.moves.iter().any(|made| made.to == self.target.drive)
            }
            PgState::Active | PgState::Closed => false,
        };
        let mut waiting = map.pgs.values().filter(to_here);
        waiting.any(|pg| !self.stuck.contains(&pg.id) && is_urgent(&map, pg))
    }

    /// What metadata knows of blocks. One group that does not answer does not keep the blocks of
    /// others from being brought.
    async fn resolve(
        &self,
        blocks: BTreeSet<BlockId>,
        doubts: &mut Doubts,
    ) -> BTreeMap<BlockId, BlockState> {
        let mut by_group: BTreeMap<GroupId, Vec<BlockId>> = BTreeMap::new();
        for block in blocks {
            by_group.entry(block.group).or_default().push(block);
        }
        let mut known = BTreeMap::new();
        for (group, blocks) in by_group {
            for chunk in blocks.chunks(limits::REMAP_RESOLVE_BATCH) {
                let query = NamespaceQuery::ResolveBlocks { blocks: chunk.to_vec() };
                match self.core.meta.ask(group, &query).await {
                    Ok(NamespaceAnswer::Blocks(states)) if states.len() == chunk.len() => {
                        known.extend(chunk.iter().copied().zip(states));
                    }
                    Ok(_) => {
                        doubts.unasked = Some("an answer to another question".to_owned());
                        break;
                    }
                    Err(error) => {
                        doubts.unasked = Some(error.to_string());
                        break;
                    }
                }
            }
        }
        known
    }

    /// R7: what the target holds from before this epoch, and neither a source nor metadata knows,
    /// was deleted while it was away. (A deleted block looks undecided as long as its writer's
    /// session is open; if no quorum of it can be, it is garbage all the same.)
    async fn trash_stale(
        &self,
        blocks: &BTreeMap<BlockId, Listed>,
        states: &BTreeMap<BlockId, BlockState>,
        sources: &Sources,
    ) -> Result<(), GridError> {
        let may_be_acknowledged = |listed: &Listed| {
            let silent = sources.silent.iter().map(|(slot, _)| *slot);
            let slots: BTreeSet<u8> =
                silent.chain(listed.own.iter().map(|facts| facts.index)).collect();
            slots.len() >= self.pg.class.quorum()
        };
        let is_garbage = |block: &BlockId, listed: &Listed| match states.get(block) {
            Some(BlockState::Dead | BlockState::Unknown) => true,
            Some(BlockState::Pending) => !may_be_acknowledged(listed),
            Some(BlockState::Live { .. } | BlockState::Unheard) | None => false,
        };
        let stale: Vec<ShardKey> = blocks
            .iter()
            .filter(|(block, listed)| listed.held.is_empty() && is_garbage(block, listed))
            .flat_map(|(_, listed)| &listed.own)
            .filter(|facts| facts.epoch < self.pg.epoch)
            .map(|facts| ShardKey { block: facts.block, index: facts.index })
            .collect();
        if !stale.is_empty() && self.core.env.rules.keeps(Rule::RejoinReconcile) {
            let (pg, epoch) = (self.pg.id, self.pg.epoch);
            self.store.trash_stale(pg, epoch, &stale).await.map_err(internal)?;
        }
        Ok(())
    }

    /// Sees to it that the target has its shard of a block.
    async fn bring(
        &self,
        block: BlockId,
        listed: &Listed,
        is_pending: bool,
        silent: usize,
    ) -> Result<Brought, GridError> {
        let slot = self.made.slot;
        let own = listed.own.iter().find(|facts| facts.index == slot);
        if own.is_some_and(|facts| facts.epoch >= self.pg.epoch) {
            return Ok(Brought::Done);
        }
        let mut slots: BTreeMap<u8, Holder> = BTreeMap::new();
        for (holder, facts) in &listed.held {
            slots.entry(facts.index).or_insert(Holder { slot: facts.index, ..*holder });
        }
        let copies: Vec<Holder> = listed
            .held
            .iter()
            .filter(|(_, facts)| facts.index == slot)
            .map(|(holder, _)| Holder { slot, ..*holder })
            .collect();
        let k = usize::from(self.pg.class.k());
        // The target's own shard from before proves nothing of a block that is not committed.
        let is_own = own.is_some() && !is_pending;
        if slots.len() >= k || !copies.is_empty() || is_own {
            match self.make(block, listed, is_own, &copies, &slots).await {
                Ok(Some(brought)) => return Ok(brought),
                Ok(None) => {}
                // One bad block keeps no other from being brought.
                Err(GridError::DataLost(why) | GridError::Internal(why)) => {
                    tracing::error!(%block, %why, "a shard cannot be rebuilt");
                }
                Err(error) => return Err(error),
            }
        }
        if !is_pending {
            return Ok(Brought::TooFew(block));
        }
        // Whoever was listed takes no write of an older epoch any more: with the silent ones alone it
        // cannot come to a quorum.
        let possible = slots.len() + silent + usize::from(own.is_some());
        Ok(if possible >= self.pg.class.quorum() { Brought::Undecided } else { Brought::Done })
    }

    /// Gets the shard from wherever it is cheapest and stores it; `None` if it cannot be had.
    async fn make(
        &self,
        block: BlockId,
        listed: &Listed,
        is_own: bool,
        copies: &[Holder],
        slots: &BTreeMap<u8, Holder>,
    ) -> Result<Option<Brought>, GridError> {
        let k = usize::from(self.pg.class.k());
        let largest = listed.held.iter().map(|(_, facts)| facts).chain(&listed.own);
        let bytes = largest.map(|facts| facts.body_bytes).max().unwrap_or_default();
        if let Some(throttle) = self.throttle.filter(|_| !is_own) {
            throttle.take(bytes).await;
        }
        let tenant = Tenant("repair".to_owned());
        let _reservation = self.core.budget.reserve(&tenant, bytes * (k as u64 + 1)).await?;
        let own = is_own.then_some(self.target);
        for holder in own.iter().chain(copies) {
            match self.core.shards.get_whole(holder.node, holder.drive, block, holder.slot).await {
                Ok((header, body)) if agrees(&header, listed) => {
                    return self.put(header, body).await.map(Some);
                }
                Ok(_) => {
                    let at = holder.drive.0;
                    self.core
                        .env
                        .invariants
                        .check(Invariant::I3, false, || format!("{block} on drive {at}"));
                    tracing::error!(%block, drive = holder.drive.0, "I3: shards of two writes under one id");
                }
                Err(error) => {
                    tracing::debug!(%block, drive = holder.drive.0, %error, "copying a shard");
                }
            }
        }
        if slots.len() < k {
            return Ok(None);
        }
        let mut holders: Vec<Holder> = slots.values().copied().collect();
        // This node's own drives first, then one after the other, so that all share the work.
        let turn = block.counter as usize % holders.len().max(1);
        holders.rotate_left(turn);
        holders.sort_by_key(|holder| holder.node != self.core.node);
        match rebuild(self.core, block, self.made.slot, k, &holders).await? {
            Some((header, body)) => self.put(header, body).await.map(Some),
            None => Ok(None),
        }
    }

    async fn put(&self, header: ShardHeader, body: Bytes) -> Result<Brought, GridError> {
        let bytes = body.len() as u64;
        let shard = ShardToPut {
            node: self.target.node,
            drive: self.target.drive,
            pg: self.pg.id,
            epoch: self.pg.epoch,
            fill: Some(self.session),
            header,
            body,
        };
        match self.core.shards.put(shard).await {
            Ok(_) => {
                self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(Brought::Done)
            }
            Err(ShardError::Fault(ShardFault::Tombstoned)) => Ok(Brought::Done),
            Err(error) => Ok(Brought::Stopped(format!("drive {}: {error}", self.target.drive.0))),
        }
    }
}

impl Doubts {
    /// Remembers what became of a block; gives why to stop, if that is it.
    fn note(&mut self, brought: Brought) -> Option<String> {
        match brought {
            Brought::Done => {}
            Brought::TooFew(block) => {
                self.too_few += 1;
                self.example = Some(block);
            }
            Brought::Undecided => self.undecided += 1,
            Brought::Stopped(why) => return Some(why),
        }
        None
    }
}

/// Whether a shard is of the same write as those listed (I3): their digests stand in its header.
fn agrees(header: &ShardHeader, listed: &Listed) -> bool {
    listed.held.iter().all(|(_, facts)| {
        let digest = header.digests.get(usize::from(facts.index));
        digest.is_some_and(|digest| digest.0 == facts.digest)
    })
}
