//! Evens out how many slots drives hold for their weight, when nothing more urgent is to be done: a
//! pure planner, as [`super::plan`] is.
//!
//! What it promises, and what its tests assert:
//! - nothing moves while a slot that must move waits for its turn;
//! - only drives that were there, unchanged, for a while give and take, and only groups of which every
//!   drive is awake change; who is away or has just come holds up no others;
//! - nothing moves while every drive is within `balance_percent` of its share, or two slots, so that a
//!   grid comes to rest; a drive that takes no repair writes any more is above its share whatever it holds;
//! - each move makes the fleet more even by a measure that only falls (the squares of loads), so that
//!   there is an end; a full drive may raise it, but to no more than its share, and gets back only what
//!   it has room for once its trash is gone;
//! - the limits on moves at once hold for these as for all.
//!
//! Even in slots, not in bytes: writers spread blocks evenly over open groups, so that slots drawn
//! together fill together. What a drive holds by accident more than others shows in its mark. Trash
//! counts as taken wherever bytes are looked at.

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_codec::{DriveId, PgId};
use nexusgrid_env::BootInstant;
use nexusgrid_meta::root::topology::{Drive, Pg, PgState, Topology};
use nexusgrid_meta::root::types::SpaceMark;

use super::RemapOptions;
use super::plan::{Fleet, Flight, Step, Watch};
use super::survivors::{Standing, standing};

/// Loaded drives looked at for a move before the round gives up.
const SOURCES_TRIED_MAX: usize = 32;

/// So many slots more or less than its share are even: groups are drawn host by host, so that those
/// of a small grid never come out exactly.
const SLOTS_APART: f64 = 2.0;

/// A full drive gives slots away until it holds this part of its share.
const FULL_KEEPS: f64 = 0.75;

/// For evenness a drive is filled to this part of its size, no more: below its first mark, so that what
/// it gets does not make it give that away again.
const FILLED_MAX: f64 = 0.75;

/// What to move now, and how many slots are out of place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// In the order to propose them.
    pub steps: Vec<Step>,
    /// Slots that drives hold beyond their share.
    pub out_of_place: u64,
}

/// A drive that takes part.
#[derive(Clone, Copy, Debug)]
struct Holding {
    slots: u64,
    weight: f64,
    space: SpaceMark,
    used_bytes: u64,
    size_bytes: u64,
}

impl Holding {
    fn new(drive: &Drive, slots: u64) -> Holding {
        Holding {
            slots,
            weight: f64::from(drive.weight.max(1)),
            space: drive.space,
            used_bytes: drive.used_bytes,
            size_bytes: drive.size_bytes,
        }
    }

    fn load(&self) -> f64 {
        self.slots as f64 / self.weight
    }

    /// How much the sum of squared slots over weights falls if one slot leaves, or grows if one
    /// comes: half the derivative is enough to compare.
    fn gain_of_leaving(&self) -> f64 {
        (self.slots as f64 - 0.5) / self.weight
    }

    fn cost_of_coming(&self) -> f64 {
        (self.slots as f64 + 0.5) / self.weight
    }

    fn is_full(&self) -> bool {
        self.space >= SpaceMark::NoBackfill
    }

    /// Whether it has room for what one more slot brings, as far as those it has tell.
    fn has_room(&self) -> bool {
        let slots = self.slots as f64;
        let then = self.used_bytes as f64 * (slots + 1.0) / slots.max(1.0);
        self.space == SpaceMark::Normal && then <= self.size_bytes as f64 * FILLED_MAX
    }
}

/// What each drive should hold.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Slots per weight if all were even.
    mean: f64,
    /// How far from that a drive may be, in percent; [`SLOTS_APART`] slots in any case.
    percent: f64,
}

impl Share {
    /// Among drives that can come to it: one that has no room leaves its part to the others.
    fn of(held: &BTreeMap<DriveId, Holding>, options: &RemapOptions) -> Share {
        let mut counted: Vec<&Holding> = held.values().collect();
        loop {
            let slots: u64 = counted.iter().map(|drive| drive.slots).sum();
            let weight: f64 = counted.iter().map(|drive| drive.weight).sum();
            let mean = slots as f64 / weight.max(1.0);
            let before = counted.len();
            counted.retain(|drive| drive.has_room() || drive.load() >= mean);
            if counted.len() == before {
                return Share { mean, percent: f64::from(options.balance_percent) };
            }
        }
    }

    /// How far a drive is from its share; beyond 1 is too far.
    fn distance(&self, drive: &Holding) -> f64 {
        let share = self.mean * drive.weight;
        let apart = drive.slots as f64 - share;
        if apart < 0.0 && !drive.has_room() {
            return 0.0;
        }
        apart.abs() / (share * self.percent / 100.0).max(SLOTS_APART)
    }

    /// Slots that a drive holds beyond its share.
    fn beyond(&self, drive: &Holding) -> u64 {
        (drive.slots as f64 - self.mean * drive.weight).max(0.0) as u64
    }

    /// Whether a drive gives slots away whatever others hold: it is full, and not of trash alone,
    /// which takes a week to go.
    fn sheds(&self, drive: &Holding) -> bool {
        drive.is_full() && drive.load() > self.mean * FULL_KEEPS
    }

    /// Whether a drive holds no more than its share after one more slot.
    fn has_room_for(&self, drive: &Holding) -> bool {
        drive.slots as f64 + 1.0 <= (self.mean * drive.weight).ceil() + SLOTS_APART
    }
}

/// What to propose to make the fleet more even.
pub fn balance(map: &Topology, watch: &Watch, now: BootInstant, options: &RemapOptions) -> Balance {
    let mut plan = Balance::default();
    let mut fleet = Fleet::new(map);
    let mut flight = Flight::new(map, watch, now, options);
    let mut held: BTreeMap<DriveId, Holding> = map
        .drives
        .values()
        .filter(|drive| standing(map, drive.id) == Standing::Present)
        .filter(|drive| watch.steady_for(drive.id, now) >= options.balance_after)
        .map(|drive| (drive.id, Holding::new(drive, fleet.slots_of(drive.id))))
        .collect();
    let share = Share::of(&held, options);
    if !held.values().any(|drive| share.sheds(drive) || share.distance(drive) > 1.0) {
        return plan;
    }
    plan.out_of_place = held.values().map(|drive| share.beyond(drive)).sum();
    let by_drive = groups_by_drive(map);
    let mut planned = BTreeSet::new();
    while flight.has_room() {
        let round = Round { fleet: &fleet, flight: &flight, held: &held, share };
        let Some((pg, slot, from, to)) = round.best_move(&by_drive, &planned) else { break };
        planned.insert(pg.id);
        flight.add(false, to);
        fleet.add(pg, slot, to);
        for (drive, change) in [(from, -1), (to, 1)] {
            if let Some(holding) = held.get_mut(&drive) {
                holding.slots = holding.slots.saturating_add_signed(change);
            }
        }
        plan.steps.push(Step { pg: pg.id, from: pg.epoch, slot, to, overdue: None, urgent: false });
    }
    plan
}

/// The whole groups of each drive, with the drive's slot. One that moves, or lacks a shard anywhere,
/// has other worries; one of which a drive sleeps would wait for it in the middle of a move.
fn groups_by_drive(map: &Topology) -> BTreeMap<DriveId, Vec<(&Pg, u8)>> {
    let mut found: BTreeMap<DriveId, Vec<(&Pg, u8)>> = BTreeMap::new();
    for pg in map.pgs.values().filter(|pg| !matches!(pg.state, PgState::Preparing(_))) {
        let is_awake = |drive: &DriveId| {
            matches!(standing(map, *drive), Standing::Present | Standing::Leaving)
        };
        if pg.slots.iter().all(is_awake) {
            for (slot, drive) in (0u8..).zip(&pg.slots) {
                found.entry(*drive).or_default().push((pg, slot));
            }
        }
    }
    found
}

/// How things stand before one more move.
struct Round<'a> {
    fleet: &'a Fleet<'a>,
    flight: &'a Flight<'a>,
    held: &'a BTreeMap<DriveId, Holding>,
    share: Share,
}

impl Round<'_> {
    /// A move off the most loaded drive to where it makes the fleet most even.
    fn best_move<'pg>(
        &self,
        by_drive: &BTreeMap<DriveId, Vec<(&'pg Pg, u8)>>,
        planned: &BTreeSet<PgId>,
    ) -> Option<(&'pg Pg, u8, DriveId, DriveId)> {
        let is_above = |of: &Holding| of.load() > self.share.mean || self.share.sheds(of);
        let mut sources: Vec<(DriveId, Holding)> =
            self.held.iter().map(|(id, of)| (*id, *of)).collect();
        sources.retain(|(_, source)| is_above(source));
        sources.sort_by(|(a_id, a), (b_id, b)| {
            let full = self.share.sheds(b).cmp(&self.share.sheds(a));
            full.then(b.load().total_cmp(&a.load())).then(a_id.cmp(b_id))
        });
        for (from, source) in sources.into_iter().take(SOURCES_TRIED_MAX) {
            for (pg, slot) in by_drive.get(&from).into_iter().flatten() {
                if planned.contains(&pg.id) {
                    continue;
                }
                let takes = |to: &DriveId| {
                    self.held.get(to).is_some_and(|target| self.is_better(&source, target))
                        && self.flight.admits(false, false, *to)
                };
                if let Some(to) = self.fleet.targets(pg, *slot).into_iter().find(takes) {
                    return Some((*pg, *slot, from, to));
                }
            }
        }
        None
    }

    /// Whether a slot had better be on the other drive.
    fn is_better(&self, source: &Holding, target: &Holding) -> bool {
        if !target.has_room() {
            return false;
        }
        if self.share.sheds(source) {
            return self.share.has_room_for(target);
        }
        let is_out = self.is_out(source) || self.is_out(target);
        is_out && source.gain_of_leaving() > target.cost_of_coming()
    }

    /// Whether a drive is far enough from its share for a move that has begun to go on: nearer than
    /// where it begins, so that it does not begin again at once.
    fn is_out(&self, drive: &Holding) -> bool {
        self.share.distance(drive) > 0.5
    }
}
