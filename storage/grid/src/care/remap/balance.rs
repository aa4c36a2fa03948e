//! Evens out how many slots drives hold for their weight, when nothing more urgent is to be done: a
//! pure planner, as [`super::plan`] is.
//!
//! What it promises, and what its tests assert:
//! - nothing moves while a slot must move, a node is down, or the fleet changed a while ago;
//! - nothing moves while every drive is within `balance_percent` of its share, or two slots, so that a
//!   grid comes to rest; a drive that takes no repair writes any more is above its share whatever it holds;
//! - each move makes the fleet more even by a measure that only falls (the squares of loads), so that
//!   there is an end;
//! - the limits on moves at once hold for these as for all.
//!
//! Even in slots, not in bytes: writers spread blocks evenly over open groups, so that slots drawn
//! together fill together. What a drive holds by accident more than others shows in its mark.

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_codec::{DriveId, PgId};
use nexusgrid_env::BootInstant;
use nexusgrid_meta::root::topology::{Liveness, Pg, PgState, Topology};
use nexusgrid_meta::root::types::{NodeState, SpaceMark};

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
    is_full: bool,
}

impl Holding {
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
    /// How far a drive is from its share; beyond 1 is too far.
    fn distance(&self, drive: &Holding) -> f64 {
        let share = self.mean * drive.weight;
        let allowed = (share * self.percent / 100.0).max(SLOTS_APART);
        (drive.slots as f64 - share).abs() / allowed
    }
}

/// What to propose to make the fleet more even.
pub fn balance(map: &Topology, watch: &Watch, now: BootInstant, options: &RemapOptions) -> Balance {
    let mut plan = Balance::default();
    let is_away = map.nodes.values().any(|node| {
        node.state != NodeState::Removed && node.roles.storage && node.liveness == Liveness::Down
    });
    if is_away || watch.unchanged_for(now) < options.balance_after {
        return plan;
    }
    let mut fleet = Fleet::new(map);
    let mut flight = Flight::new(map, watch, now, options);
    let mut held: BTreeMap<DriveId, Holding> = map
        .drives
        .values()
        .filter(|drive| standing(map, drive.id) == Standing::Present)
        .map(|drive| {
            let slots = fleet.slots_of(drive.id);
            let weight = f64::from(drive.weight.max(1));
            (drive.id, Holding { slots, weight, is_full: drive.space >= SpaceMark::NoBackfill })
        })
        .collect();
    let total: u64 = held.values().map(|drive| drive.slots).sum();
    let mean = total as f64 / held.values().map(|drive| drive.weight).sum::<f64>().max(1.0);
    let share = Share { mean, percent: f64::from(options.balance_percent) };
    let beyond = |drive: &Holding| (drive.slots as f64 - mean * drive.weight).max(0.0) as u64;
    plan.out_of_place = held.values().map(beyond).sum();
    let is_uneven = |drive: &Holding| drive.is_full || share.distance(drive) > 1.0;
    if !held.values().any(is_uneven) {
        plan.out_of_place = 0;
        return plan;
    }
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
/// has other worries.
fn groups_by_drive(map: &Topology) -> BTreeMap<DriveId, Vec<(&Pg, u8)>> {
    let mut found: BTreeMap<DriveId, Vec<(&Pg, u8)>> = BTreeMap::new();
    for pg in map.pgs.values().filter(|pg| !matches!(pg.state, PgState::Preparing(_))) {
        if pg.slots.iter().all(|drive| standing(map, *drive).survives()) {
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
        let is_above = |of: &Holding| of.load() > self.share.mean || self.sheds(of);
        let mut sources: Vec<(DriveId, Holding)> =
            self.held.iter().map(|(id, of)| (*id, *of)).collect();
        sources.retain(|(_, source)| is_above(source));
        sources.sort_by(|(a_id, a), (b_id, b)| {
            let full = self.sheds(b).cmp(&self.sheds(a));
            full.then(b.load().total_cmp(&a.load())).then(a_id.cmp(b_id))
        });
        for (from, source) in sources.into_iter().take(SOURCES_TRIED_MAX) {
            for (pg, slot) in by_drive.get(&from).into_iter().flatten() {
                if planned.contains(&pg.id) {
                    continue;
                }
                let gains = |to: &DriveId| {
                    self.held.get(to).is_some_and(|target| {
                        let is_out = self.is_out(&source) || self.is_out(target);
                        let gain = source.gain_of_leaving() - target.cost_of_coming();
                        self.sheds(&source) || (is_out && gain > 0.0)
                    })
                };
                let mut targets = self.fleet.targets(pg, *slot).into_iter();
                if let Some(to) =
                    targets.find(|to| gains(to) && self.flight.admits(false, false, *to))
                {
                    return Some((*pg, *slot, from, to));
                }
            }
        }
        None
    }

    /// Whether a drive is far enough from its share for a move that has begun to go on: nearer than
    /// where it begins, so that it does not begin again at once.
    fn is_out(&self, drive: &Holding) -> bool {
        self.share.distance(drive) > 0.5
    }

    /// Whether a drive gives slots away whatever others hold: it is full, and not of trash alone,
    /// which takes a week to go.
    fn sheds(&self, drive: &Holding) -> bool {
        drive.is_full && drive.load() > self.share.mean * FULL_KEEPS
    }
}
