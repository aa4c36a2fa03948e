//! One block's way onto its drives: choose a placement group, seal, code, send, wait, count.
//!
//! ```text
//!  choose PG ─▶ new block id ─▶ seal + code ─▶ put to all slots not held dead ─▶ wait (§ waiting)
//!     ▲                                             │            │
//!     │ fewer than q                                │ StaleEpoch │ ≥ q acks of one epoch
//!     └─────────────────────────────────────────────┤            ▼
//!                          put again under the new epoch (R3)   Stored{acks, missing}
//! ```
//!
//! Waiting: once the quorum stands, 2 s more or less for drives held alive, 250 ms for suspects, not
//! at all for the dead. Without a quorum, until every call has ended.
//!
//! Keeps I1 (≥ q acknowledgements, on distinct domains by placement) and I3 (one id, one content:
//! another placement group means another id).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nexusgrid_codec::erasure::{self, EncodedBlock};
use nexusgrid_codec::seal::{self, SealingBlock};
use nexusgrid_codec::{
    BlockId, ClusterId, Code, ContentKey, Epoch, PgId, Region, RegionContext, SealedBlock,
};
use nexusgrid_env::{Invariant, NodeId, Rule};
use nexusgrid_meta::namespace::types::NewBlock;
use nexusgrid_meta::root::topology::{Pg, PgClass, PgState, Topology};

use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;
use crate::metrics::Counters;
use crate::placement;
use crate::session::Session;
use crate::shard::client::{ShardError, ShardToPut};
use crate::shard::wire::ShardFault;

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// A large content alone: erasure-coded.
    Large,
    /// In copies: small contents packed, or a large one whose storage class says so.
    Pack,
}

/// Contents of one block, in order.
pub(crate) enum Payload {
    /// As they came.
    Plain(Vec<(ContentKey, Vec<Bytes>)>),
    /// Sealed for a placement group that did not take it: opened again for the next try, so that
    /// plaintext and ciphertext are not both kept meanwhile.
    Sealed { sealed: SealedBlock, code: Code, regions: Vec<(ContentKey, Region)> },
}

/// A block that is durable.
pub(crate) struct Stored {
    /// For the commit.
    pub(crate) row: NewBlock,
    /// How it is coded.
    pub(crate) code: Code,
    /// One per content.
    pub(crate) regions: Vec<Region>,
    /// Shards that live drives did not acknowledge: refilled after the commit.
    pub(crate) refill: Vec<(u8, ShardToPut)>,
}

/// The end of one round of puts.
#[derive(Default)]
struct Round {
    /// A drive has no room.
    full: bool,
    acked: u32,
    stale: bool,
    session_closed: bool,
    conflict: bool,
    /// Slots without acknowledgement on nodes that are not held dead.
    live_missing: Vec<u8>,
}

enum Placement {
    Stored(NewBlock, Vec<(u8, ShardToPut)>),
    TooFew,
    /// Too few, and drives said that they are full.
    Full,
}

pub(crate) fn code_of(class: PgClass) -> Result<Code, GridError> {
    match class {
        PgClass::Coded { k, m } => Code::reed_solomon(k, m),
        PgClass::Replicated { copies } => Code::copies(copies),
    }
    .map_err(internal)
}

impl Core {
    /// Makes a block durable.
    pub(crate) async fn store_block(
        &self,
        session: &Session,
        kind: BlockKind,
        mut payload: Payload,
    ) -> Result<Stored, GridError> {
        let mut tried = BTreeSet::new();
        let mut full = false;
        let mut before = None;
        for _ in 0..limits::WRITE_PGS_TRIED_MAX {
            let map = self.map.current();
            let Some(pg) = self.choose_pg(&map, kind, &tried).cloned() else { break };
            tried.insert(pg.id);
            let code = code_of(pg.class)?;
            let reused = before.filter(|_| !self.env.rules.keeps(Rule::NewIdPerTry));
            let Some(block) = reused.or_else(|| session.next_block()) else {
                self.sessions.forget(session);
                return Err(GridError::Unavailable("block ids are used up".to_owned()));
            };
            before = Some(block);
            self.env.invariants.once(Invariant::I14, &block.to_bytes());
            let (encoded, sealed) = self.seal_and_encode(block, code, payload).await?;
            let pg_id = pg.id;
            let placed = self.place(session, map, pg, &encoded).await?;
            full |= matches!(placed, Placement::Full);
            if let Placement::Stored(mut row, refill) = placed {
                let Payload::Sealed { regions, .. } = sealed else {
                    return Err(internal("payload is not sealed"));
                };
                row.len = regions.iter().map(|(_, region)| region.plain_len()).sum();
                let regions = regions.into_iter().map(|(_, region)| region).collect();
                return Ok(Stored { row, code, regions, refill });
            }
            tracing::info!(pg = pg_id.0, %block, "too few acknowledgements: another placement group");
            payload = sealed;
        }
        if full {
            return Err(GridError::Full);
        }
        Err(GridError::Unavailable("not enough drives answer for a durable write".to_owned()))
    }

    async fn seal_and_encode(
        &self,
        block: BlockId,
        code: Code,
        payload: Payload,
    ) -> Result<(EncodedBlock, Payload), GridError> {
        let cluster = self.keys.cluster();
        let _permit = self.coding.acquire().await.map_err(|_| GridError::Stopping)?;
        self.env
            .exec
            .blocking(move || seal_and_encode(cluster, block, code, payload))
            .await
            .map_err(internal)
    }

    /// An open placement group: of the class wanted today before others, all awake before degraded,
    /// the least degraded of those that can still reach a quorum.
    fn choose_pg<'map>(
        &self,
        map: &'map Topology,
        kind: BlockKind,
        tried: &BTreeSet<PgId>,
    ) -> Option<&'map Pg> {
        let wanted = placement::classes_of(map)?;
        // While a grid grows, those for large contents may not be drawn yet: what there is serves.
        let is_drawn = map.active_pgs(None).any(|pg| placement::for_large(pg.class, wanted));
        let mut best: Option<((u8, usize, u64), &Pg)> = None;
        for pg in map.active_pgs(None).filter(|pg| !tried.contains(&pg.id)) {
            let class_rank = match kind {
                BlockKind::Pack if !pg.class.is_replicated() => continue,
                BlockKind::Pack => u8::from(pg.class != wanted.small),
                BlockKind::Large if is_drawn && !placement::for_large(pg.class, wanted) => continue,
                BlockKind::Large => u8::from(pg.class != wanted.large),
            };
            if self.reachable(map, pg) < pg.class.quorum() {
                continue;
            }
            let hints = self.slot_nodes(map, pg).map(|(_, _, hint)| hint);
            let awake = hints.filter(|hint| *hint == NodeHint::Alive).count();
            let rank = (class_rank, pg.class.width() - awake, self.env.rng.u64());
            if best.as_ref().is_none_or(|(best_rank, _)| rank < *best_rank) {
                best = Some((rank, pg));
            }
        }
        best.map(|(_, pg)| pg)
    }

    /// Slots of a placement group whose nodes are not held dead.
    fn reachable(&self, map: &Topology, pg: &Pg) -> usize {
        self.slot_nodes(map, pg).filter(|(_, _, hint)| *hint != NodeHint::Dead).count()
    }

    /// Refuses writes of every size while more hosts are away than the grid's code is made for (see
    /// [`placement::takes_writes`]). Asked before a body is read; from memory.
    pub(crate) fn check_writable(&self) -> Result<(), GridError> {
        let map = self.map.current();
        if placement::takes_writes(&map, |pg| self.reachable(&map, pg)) {
            return Ok(());
        }
        Counters::add(&self.counters.writes_refused, 1);
        Err(GridError::Unavailable("more hosts are away than the grid's code is made for".into()))
    }

    /// Slot, node and hint of every slot of a placement group.
    pub(crate) fn slot_nodes(
        &self,
        map: &Topology,
        pg: &Pg,
    ) -> impl Iterator<Item = (u8, NodeId, NodeHint)> {
        (0u8..).zip(&pg.slots).map(|(slot, drive)| match self.map.drive(map, *drive) {
            Some((node, hint)) => (slot, node, self.hint(node, hint)),
            None => (slot, NodeId(0), NodeHint::Dead),
        })
    }

    /// Puts all shards under one epoch, again if it moved (R3).
    async fn place(
        &self,
        session: &Session,
        mut map: Arc<Topology>,
        mut pg: Pg,
        encoded: &EncodedBlock,
    ) -> Result<Placement, GridError> {
        // Slots that need no put: none, or the quorum could be of two epochs.
        let mut acked = 0;
        for _ in 0..limits::EPOCH_RETRIES_MAX {
            let round = self.put_round(&map, &pg, encoded, acked).await;
            if !self.env.rules.keeps(Rule::OneEpochQuorum) {
                acked = round.acked;
            }
            if round.session_closed {
                self.sessions.forget(session);
                return Err(GridError::Unavailable("the write session was closed".to_owned()));
            }
            if round.conflict {
                let detail = || format!("{} was put before", encoded.block);
                self.env.invariants.check(Invariant::I3, false, detail);
                tracing::error!(block = %encoded.block, "I3: a drive holds another digest under a fresh block id");
                return Err(internal("block id is bound to other bytes"));
            }
            if round.stale {
                map = self.map.refresh().await?;
                match map.pgs.get(&pg.id) {
                    Some(now) if now.state == PgState::Active && now.epoch > pg.epoch => {
                        pg = now.clone();
                        continue;
                    }
                    _ => return Ok(Placement::TooFew),
                }
            }
            if (round.acked.count_ones() as usize) < pg.class.quorum() {
                return Ok(if round.full { Placement::Full } else { Placement::TooFew });
            }
            let all = (1u32 << pg.class.width()) - 1;
            let row = NewBlock {
                block: encoded.block,
                pg: pg.id,
                epoch: pg.epoch,
                len: 0,
                k: pg.class.k(),
                m: pg.class.m(),
                missing_mask: all & !round.acked,
            };
            Counters::add(&self.counters.blocks_written, 1);
            Counters::add(&self.counters.shards_missed, row.missing_mask.count_ones() as usize);
            let missing = round.live_missing.iter();
            let refill = missing
                .filter_map(|slot| Some((*slot, self.shard_to_put(&map, &pg, encoded, *slot)?)))
                .collect();
            return Ok(Placement::Stored(row, refill));
        }
        Ok(Placement::TooFew)
    }

    fn shard_to_put(
        &self,
        map: &Topology,
        pg: &Pg,
        encoded: &EncodedBlock,
        slot: u8,
    ) -> Option<ShardToPut> {
        let drive = *pg.slots.get(usize::from(slot))?;
        let (node, _) = self.map.drive(map, drive)?;
        Some(ShardToPut {
            node,
            drive,
            pg: pg.id,
            epoch: pg.epoch,
            fill: None,
            header: encoded.header(slot)?,
            body: encoded.shards.get(usize::from(slot))?.clone(),
        })
    }

    /// Sends every shard that is not `acked` once and waits by the waiting rule.
    async fn put_round(
        &self,
        map: &Topology,
        pg: &Pg,
        encoded: &EncodedBlock,
        acked: u32,
    ) -> Round {
        let quorum = pg.class.quorum();
        let mut round = Round { acked, ..Round::default() };
        let mut pending = std::collections::BTreeMap::new();
        let mut calls = FuturesUnordered::new();
        for (slot, node, hint) in self.slot_nodes(map, pg) {
            if hint == NodeHint::Dead || acked & (1 << slot) != 0 {
                continue;
            }
            let Some(shard) = self.shard_to_put(map, pg, encoded, slot) else { continue };
            pending.insert(slot, hint);
            calls.push(async move { (slot, node, self.shards.put(shard).await) });
        }
        let mut suspects_over = false;
        let mut all_over = false;
        let suspects_timer = self.env.clock.sleep(self.options.wait_suspect);
        let all_timer = self.env.clock.sleep(self.options.wait_alive);
        tokio::pin!(suspects_timer, all_timer);
        loop {
            let acked = round.acked.count_ones() as usize;
            let awaited = |hint: &NodeHint| match hint {
                NodeHint::Alive => !all_over,
                NodeHint::Suspect => !suspects_over && !all_over,
                NodeHint::Dead => false,
            };
            let enough = acked >= quorum && !pending.values().any(awaited);
            if pending.is_empty() || enough || acked + pending.len() < quorum {
                break;
            }
            tokio::select! {
                biased;
                Some((slot, node, result)) = calls.next() => {
                    pending.remove(&slot);
                    self.note_put(&mut round, pg.epoch, slot, node, result);
                    if round.stale || round.session_closed || round.conflict {
                        break;
                    }
                }
                () = &mut suspects_timer, if !suspects_over => suspects_over = true,
                () = &mut all_timer, if !all_over => all_over = true,
            }
        }
        drop(calls);
        for slot in pending.keys() {
            round.live_missing.push(*slot);
            if let Some((_, node, _)) = self.slot_nodes(map, pg).find(|(at, _, _)| at == slot) {
                self.distrust(node);
            }
        }
        round
    }

    fn note_put(
        &self,
        round: &mut Round,
        epoch: Epoch,
        slot: u8,
        node: NodeId,
        result: Result<Epoch, ShardError>,
    ) {
        match result {
            Ok(stamped) if stamped == epoch => {
                round.acked |= 1 << slot;
                self.trust(node);
            }
            // The drive stamped it with another epoch than asked for: not one quorum (R3).
            Ok(_) | Err(ShardError::Fault(ShardFault::StaleEpoch { .. })) => round.stale = true,
            Err(ShardError::Fault(ShardFault::SessionClosed)) => round.session_closed = true,
            Err(ShardError::Fault(ShardFault::DigestConflict)) => round.conflict = true,
            Err(ShardError::Fault(fault)) => {
                tracing::debug!(%node, slot, %fault, "shard refused");
                round.full |= fault == ShardFault::NoSpace;
                round.live_missing.push(slot);
            }
            Err(error) => {
                tracing::debug!(%node, slot, %error, "shard not acknowledged");
                self.distrust(node);
                round.live_missing.push(slot);
            }
        }
    }

    /// Brings shards that were not acknowledged to their drives, after the commit: a few tries,
    /// then the repair queue has them. Never waits for the budget: the queue is enough.
    pub(crate) fn refill_after_commit(self: &Arc<Core>, refill: Vec<(u8, ShardToPut)>) {
        for (_, mut shard) in refill {
            let Some(reservation) = self.budget.try_reserve(shard.body.len() as u64) else {
                return;
            };
            // A slice would keep the whole block in memory.
            shard.body = Bytes::copy_from_slice(&shard.body);
            let core = Arc::clone(self);
            self.env.exec.spawn(async move {
                let _reservation = reservation;
                for _ in 0..limits::REFILL_TRIES {
                    core.env.clock.sleep(limits::REFILL_PAUSE).await;
                    match core.shards.put(shard.clone()).await {
                        Ok(stamped) if stamped == shard.epoch => {
                            // The refill worker strikes it off the queue when it has read it.
                            Counters::add(&core.counters.shards_refilled, 1);
                            return;
                        }
                        Err(ShardError::Rpc(_)) => {}
                        // The drive or the map says no: not this writer's business any more.
                        _ => return,
                    }
                }
            });
        }
    }
}

fn seal_and_encode(
    cluster: ClusterId,
    block: BlockId,
    code: Code,
    payload: Payload,
) -> Result<(EncodedBlock, Payload), nexusgrid_codec::CodecError> {
    let contents = match payload {
        Payload::Plain(contents) => contents,
        Payload::Sealed { sealed, code, regions } => unseal(cluster, &sealed, code, regions)?,
    };
    let mut sealing = SealingBlock::new(cluster, block, code);
    let mut regions = Vec::with_capacity(contents.len());
    for (key, pieces) in contents {
        let region = sealing.append(&key, &pieces)?;
        regions.push((key, region));
    }
    let sealed = sealing.finish()?;
    let encoded = erasure::encode(&sealed)?;
    Ok((encoded, Payload::Sealed { sealed, code, regions }))
}

fn unseal(
    cluster: ClusterId,
    sealed: &SealedBlock,
    code: Code,
    regions: Vec<(ContentKey, Region)>,
) -> Result<Vec<(ContentKey, Vec<Bytes>)>, nexusgrid_codec::CodecError> {
    let open = |(key, region): (ContentKey, Region)| {
        let context = RegionContext { cluster, block: sealed.block, codec: code.codec(), region };
        let range = region.sealed_range(0..region.frame_count());
        let stored = sealed.bytes.slice(range.start as usize..range.end as usize);
        let pieces = seal::open_region(&key, context, BytesMut::from(stored.as_ref()))?;
        Ok((key, pieces))
    };
    regions.into_iter().map(open).collect()
}
