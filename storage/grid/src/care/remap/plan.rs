//! Which slots move where: a pure planner over the map and what the root group's leader has seen of
//! absences.
//!
//! What it promises, and what its tests assert:
//! - a slot moves only if it must: its drive failed, is removed or leaves, or its node is away for
//!   longer than its grace; if one more loss would lose data, after a moment and before everything else;
//! - it moves to an awake, active drive of a host that the group does not use (I11), the least loaded
//!   for its weight; without such a host the group stays as it is, and the plan says so;
//! - one slot of a group at a time, few groups at once, few to one drive at once;
//! - when many hosts vanish at once (a switch, a fuse) or one node comes and goes, nothing moves that
//!   need not.
//!
//! Same input, same plan.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nexusgrid_codec::{DriveId, Epoch, PgId};
use nexusgrid_env::{BootInstant, NodeId};
use nexusgrid_meta::root::topology::{Liveness, Node, Pg, PgState, Topology};
use nexusgrid_meta::root::types::{DriveState, NodeClass, NodeState, SpaceMark};

use super::RemapOptions;
use super::survivors::{Standing, is_urgent, moving, standing, survivors};

/// Groups moved at once, at least.
const IN_FLIGHT_MIN: usize = 2;

/// What the root group's leader has seen since it leads, by its own clock. Lost with leadership: that
/// begins every grace anew, which only delays.
#[derive(Debug, Default)]
pub struct Watch {
    away: BTreeMap<NodeId, (Liveness, BootInstant)>,
    preparing: BTreeMap<PgId, (Epoch, BootInstant)>,
    /// When the loss of a node began to move slots.
    losses: BTreeMap<NodeId, Vec<BootInstant>>,
    /// Nodes whose present absence is among `losses`.
    counted: BTreeSet<NodeId>,
    /// What balancing goes by of each drive, and since when that is the same.
    drives: BTreeMap<DriveId, (Looks, BootInstant)>,
}

/// A drive as balancing sees it: its weight, how things stand with it, and whether it is full.
type Looks = (u32, Standing, bool);

impl Watch {
    /// Looks at a new map.
    pub fn observe(&mut self, map: &Topology, now: BootInstant) {
        let up = |id: &NodeId| map.nodes.get(id).is_none_or(|node| node.liveness == Liveness::Up);
        self.away.retain(|id, _| !up(id));
        self.counted.retain(|id| !up(id));
        for node in map.nodes.values().filter(|node| node.liveness != Liveness::Up) {
            let seen = self.away.entry(node.id).or_insert((node.liveness, now));
            if seen.0 != node.liveness {
                *seen = (node.liveness, now);
            }
        }
        let is_preparing = |pg: &&Pg| matches!(pg.state, PgState::Preparing(_));
        self.preparing.retain(|id, (epoch, _)| {
            map.pgs.get(id).filter(is_preparing).is_some_and(|pg| pg.epoch == *epoch)
        });
        for pg in map.pgs.values().filter(is_preparing) {
            self.preparing.entry(pg.id).or_insert((pg.epoch, now));
        }
        self.drives.retain(|id, _| map.drives.contains_key(id));
        for drive in map.drives.values() {
            let looks = (drive.weight, standing(map, drive.id), is_full(map, drive.id));
            let seen = self.drives.entry(drive.id).or_insert((looks, now));
            if seen.0 != looks {
                *seen = (looks, now);
            }
        }
    }

    /// How long a drive's weight, state and mark are as they are, and its node is there.
    pub(super) fn steady_for(&self, drive: DriveId, now: BootInstant) -> Duration {
        self.drives.get(&drive).map_or(Duration::ZERO, |(_, since)| now.since(*since))
    }

    /// A step was taken.
    pub fn planned(&mut self, step: &Step, now: BootInstant) {
        if let Some(node) = step.overdue
            && self.counted.insert(node)
        {
            self.losses.entry(node).or_default().push(now);
        }
    }

    fn away_for(&self, node: NodeId, now: BootInstant) -> Duration {
        self.away.get(&node).map_or(Duration::ZERO, |(_, since)| now.since(*since))
    }

    /// Whether a node came and went too often for its absence to move slots again.
    fn is_flapping(&self, node: NodeId, now: BootInstant, options: &RemapOptions) -> bool {
        let recent = |at: &&BootInstant| now.since(**at) < options.flapping_window;
        let losses = self.losses.get(&node).map_or(0, |all| all.iter().filter(recent).count());
        losses >= options.flapping_max && !self.counted.contains(&node)
    }

    /// Whether more hosts than usual vanished together: those that are down, hold slots, and went
    /// within one window.
    fn is_mass_absence(&self, map: &Topology, options: &RemapOptions) -> bool {
        let holding: BTreeSet<NodeId> = map
            .pgs
            .values()
            .flat_map(|pg| &pg.slots)
            .filter_map(|drive| map.drives.get(drive).map(|record| record.node))
            .collect();
        let mut gone: BTreeMap<&str, BootInstant> = BTreeMap::new();
        for (id, (liveness, since)) in &self.away {
            let Some(node) = map.node(*id) else { continue };
            if *liveness == Liveness::Down && holding.contains(id) {
                gone.entry(&node.host).and_modify(|at| *at = (*at).max(*since)).or_insert(*since);
            }
        }
        let allowed = options.freeze_hosts.max(map.storage_hosts().len() / 5);
        let mut times: Vec<BootInstant> = gone.into_values().collect();
        times.sort_unstable();
        times.windows(allowed + 1).any(|window| match (window.first(), window.last()) {
            (Some(first), Some(last)) => last.since(*first) <= options.freeze_window,
            _ => false,
        })
    }
}

/// Why a slot has to move; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// What it held is gone.
    Lost,
    /// Its node is away for longer than its grace.
    Overdue(NodeId),
    /// Its node is away, but not for long: a reason only if it is urgent.
    Away(NodeId),
    /// Its drive is to be emptied.
    Leaving,
    /// It moves to a drive that has become full before the slot was filled.
    Full,
}

/// One slot to move: what to propose to the root group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The group.
    pub pg: PgId,
    /// The epoch it has.
    pub from: Epoch,
    /// The slot.
    pub slot: u8,
    /// Its new drive.
    pub to: DriveId,
    /// The node whose absence is the reason, if that is it.
    pub overdue: Option<NodeId>,
    /// One more loss would lose data.
    pub urgent: bool,
}

/// What to do now, and what cannot be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order of urgency.
    pub steps: Vec<Step>,
    /// Slots that must move and do not yet, those of `steps` included.
    pub waiting: usize,
    /// Groups without a host to move to.
    pub without_host: Vec<PgId>,
    /// Groups of which too few shards are left to rebuild any.
    pub beyond_repair: Vec<PgId>,
    /// Many hosts vanished at once: only the urgent moves.
    pub frozen: bool,
    /// Nodes that come and go: their absence moves nothing.
    pub flapping: BTreeSet<NodeId>,
}

impl Plan {
    /// Whether nothing that must move waits for its turn: what has no host to go to waits for an
    /// administrator.
    pub fn is_idle(&self) -> bool {
        !self.frozen && self.steps.is_empty() && self.waiting == self.without_host.len()
    }

    /// What an administrator should know; `None`: nothing.
    pub fn alarm(&self) -> Option<String> {
        let mut texts = Vec::new();
        if !self.beyond_repair.is_empty() {
            texts.push(format!(
                "{} placement groups have too few shards left: bring lost drives back",
                self.beyond_repair.len()
            ));
        }
        if !self.without_host.is_empty() {
            texts.push(format!(
                "{} placement groups have no spare host to move to: add a node",
                self.without_host.len()
            ));
        }
        if self.frozen {
            texts.push(
                "many hosts vanished together: only urgent repair; remove what is gone for good"
                    .to_owned(),
            );
        }
        for node in &self.flapping {
            texts.push(format!("node {node} comes and goes: its slots stay for now"));
        }
        if texts.is_empty() { None } else { Some(texts.join("; ")) }
    }
}

/// A slot that must move, before its target is chosen.
struct Candidate<'a> {
    pg: &'a Pg,
    slot: u8,
    reason: Reason,
    urgent: bool,
    /// Shards that may still be lost.
    margin: usize,
    /// The move under way lost its target.
    again: bool,
}

/// What to propose now.
pub fn plan(map: &Topology, watch: &Watch, now: BootInstant, options: &RemapOptions) -> Plan {
    let mut plan = Plan { frozen: watch.is_mass_absence(map, options), ..Plan::default() };
    let judge = Judge { map, watch, now, options };
    let mut candidates: Vec<Candidate<'_>> =
        map.pgs.values().filter_map(|pg| judge.candidate(pg, &mut plan)).collect();
    plan.waiting = candidates.len();
    candidates.retain(|candidate| candidate.urgent || !plan.frozen);
    candidates.sort_by_key(|of| (Reverse(of.urgent), of.margin, of.reason, of.pg.id));
    let mut fleet = Fleet::new(map);
    let mut flight = Flight::new(map, watch, now, options);
    for candidate in candidates {
        let targets = fleet.targets(candidate.pg, candidate.slot);
        if targets.is_empty() {
            plan.without_host.push(candidate.pg.id);
            continue;
        }
        let Some(to) =
            targets.into_iter().find(|to| flight.admits(candidate.urgent, candidate.again, *to))
        else {
            continue;
        };
        flight.add(candidate.again, to);
        fleet.add(candidate.pg, candidate.slot, to);
        let overdue = match candidate.reason {
            Reason::Overdue(node) => Some(node),
            Reason::Lost | Reason::Leaving | Reason::Full | Reason::Away(_) => None,
        };
        plan.steps.push(Step {
            pg: candidate.pg.id,
            from: candidate.pg.epoch,
            slot: candidate.slot,
            to,
            overdue,
            urgent: candidate.urgent,
        });
    }
    plan
}

struct Judge<'a> {
    map: &'a Topology,
    watch: &'a Watch,
    now: BootInstant,
    options: &'a RemapOptions,
}

impl Judge<'_> {
    /// The slot of a group that has to move first.
    fn candidate<'pg>(&self, pg: &'pg Pg, plan: &mut Plan) -> Option<Candidate<'pg>> {
        let k = usize::from(pg.class.k());
        let alive = survivors(self.map, pg);
        let urgent = is_urgent(self.map, pg) && alive == k;
        let again = matches!(pg.state, PgState::Preparing(_));
        let slots = (0u8..).zip(&pg.slots);
        let reasons = slots
            // While one slot moves the others wait: a further remap is beyond the quorum's slack.
            .filter(|(slot, _)| !again || moving(pg, *slot).is_some())
            .filter_map(|(slot, drive)| Some((self.reason(*drive, again)?, slot)))
            .filter(|(reason, _)| match urgent {
                true => self.is_sure(*reason),
                false => self.is_due(*reason, plan),
            });
        let (reason, slot) = reasons.min()?;
        // Where too few are left, only what is still there can be brought elsewhere.
        if alive < k && !matches!(reason, Reason::Leaving | Reason::Full) {
            plan.beyond_repair.push(pg.id);
            return None;
        }
        let margin = alive.saturating_sub(k);
        Some(Candidate { pg, slot, reason, urgent, margin, again })
    }

    /// Whether a reason is enough where one more loss loses data: a node that is away for a moment
    /// only has a cable pulled and put in again.
    fn is_sure(&self, reason: Reason) -> bool {
        match reason {
            Reason::Away(node) => self.watch.away_for(node, self.now) >= self.options.grace_urgent,
            Reason::Lost | Reason::Leaving | Reason::Full | Reason::Overdue(_) => true,
        }
    }

    /// Whether a reason is enough where nothing is urgent.
    fn is_due(&self, reason: Reason, plan: &mut Plan) -> bool {
        match reason {
            Reason::Lost | Reason::Leaving | Reason::Full => true,
            Reason::Away(_) => false,
            Reason::Overdue(node) => {
                let flaps = self.watch.is_flapping(node, self.now, self.options);
                if flaps {
                    plan.flapping.insert(node);
                }
                !flaps
            }
        }
    }

    /// Why a slot has to leave `drive`; `moves`: it is on its way there.
    fn reason(&self, drive: DriveId, moves: bool) -> Option<Reason> {
        let overdue = |node: NodeId, asleep: bool| {
            let class = self.map.nodes.get(&node).map_or(NodeClass::Stable, |node| node.class);
            let grace = match (asleep, class) {
                (true, _) => self.options.grace_asleep,
                (false, NodeClass::Stable) => self.options.grace_stable,
                (false, NodeClass::Sleepy) => self.options.grace_sleepy,
            };
            self.watch.away_for(node, self.now) >= grace
        };
        match standing(self.map, drive) {
            Standing::Present => (moves && is_full(self.map, drive)).then_some(Reason::Full),
            Standing::Leaving => Some(Reason::Leaving),
            Standing::Lost => Some(Reason::Lost),
            Standing::Asleep(node) => overdue(node, true).then_some(Reason::Overdue(node)),
            Standing::Down(node) if overdue(node, false) => Some(Reason::Overdue(node)),
            Standing::Down(node) => Some(Reason::Away(node)),
        }
    }
}

/// Whether a drive takes no writes of repair any more.
fn is_full(map: &Topology, drive: DriveId) -> bool {
    map.drives.get(&drive).is_some_and(|drive| drive.space >= SpaceMark::NoBackfill)
}

/// Moves under way, and how many more there may be.
pub(super) struct Flight<'a> {
    options: &'a RemapOptions,
    total: usize,
    total_max: usize,
    per_drive: BTreeMap<DriveId, usize>,
}

impl<'a> Flight<'a> {
    pub(super) fn new(
        map: &Topology,
        watch: &Watch,
        now: BootInstant,
        options: &'a RemapOptions,
    ) -> Self {
        let total_max = (map.pgs.len() * options.in_flight_percent / 100).max(IN_FLIGHT_MIN);
        let mut flight = Flight { options, total: 0, total_max, per_drive: BTreeMap::new() };
        for pg in map.pgs.values() {
            let PgState::Preparing(remap) = &pg.state else { continue };
            let since = watch.preparing.get(&pg.id).map_or(now, |(_, since)| *since);
            if now.since(since) < options.stuck_after {
                flight.total += 1;
                for made in &remap.moves {
                    *flight.per_drive.entry(made.to).or_default() += 1;
                }
            }
        }
        flight
    }

    /// Whether one more group may move.
    pub(super) fn has_room(&self) -> bool {
        self.total < self.total_max
    }

    /// Whether a slot may move to a drive now; `again`: its group moves already.
    pub(super) fn admits(&self, urgent: bool, again: bool, to: DriveId) -> bool {
        let at_drive = self.per_drive.get(&to).copied().unwrap_or_default();
        urgent || ((again || self.has_room()) && at_drive < self.options.per_drive)
    }

    pub(super) fn add(&mut self, again: bool, to: DriveId) {
        self.total += usize::from(!again);
        *self.per_drive.entry(to).or_default() += 1;
    }
}

/// Drives that can take slots, and how many they have.
pub(super) struct Fleet<'a> {
    map: &'a Topology,
    /// Slots of all groups by drive, with those planned.
    slots: BTreeMap<DriveId, u64>,
    hosts: usize,
    stable_hosts: usize,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(map: &'a Topology) -> Fleet<'a> {
        let mut slots: BTreeMap<DriveId, u64> = BTreeMap::new();
        for drive in map.pgs.values().flat_map(|pg| &pg.slots) {
            *slots.entry(*drive).or_default() += 1;
        }
        // As the root group counts them.
        let member = |node: &&Node| matches!(node.state, NodeState::Active | NodeState::Joining);
        let with_drive: Vec<&Node> = map
            .drives
            .values()
            .filter(|drive| drive.state == DriveState::Active)
            .filter_map(|drive| map.node(drive.node))
            .filter(member)
            .collect();
        let hosts: BTreeSet<&str> = with_drive.iter().map(|node| node.host.as_str()).collect();
        let stable = with_drive.iter().filter(|node| node.class == NodeClass::Stable);
        let stable: BTreeSet<&str> = stable.map(|node| node.host.as_str()).collect();
        Fleet { map, slots, hosts: hosts.len(), stable_hosts: stable.len() }
    }

    /// Slots that a drive holds, with those planned.
    pub(super) fn slots_of(&self, drive: DriveId) -> u64 {
        self.slots.get(&drive).copied().unwrap_or_default()
    }

    /// Drives for a slot, the best first.
    pub(super) fn targets(&self, pg: &Pg, slot: u8) -> Vec<DriveId> {
        let width = pg.class.width();
        let share = width.div_ceil(self.hosts.max(1));
        let others = (0u8..).zip(&pg.slots).filter(|(at, _)| *at != slot);
        let nodes: Vec<&Node> = others
            .filter_map(|(_, drive)| self.map.nodes.get(&self.map.drives.get(drive)?.node))
            .collect();
        let sleepy = nodes.iter().filter(|node| node.class == NodeClass::Sleepy).count();
        let sleepy_max = usize::from(pg.class.m().saturating_sub(1))
            .max(width.saturating_sub(self.stable_hosts));
        let home = moving(pg, slot).map(|made| made.from);
        let mut found = Vec::new();
        for drive in self.map.drives.values() {
            let Some(node) = self.map.node(drive.node) else { continue };
            let can_take = standing(self.map, drive.id) == Standing::Present
                && node.state == NodeState::Active
                && node.roles.storage
                && drive.space < SpaceMark::NoBackfill
                && !pg.slots.contains(&drive.id);
            let on_host = nodes.iter().filter(|other| other.host == node.host).count();
            let is_sleepy = node.class == NodeClass::Sleepy;
            if can_take && on_host < share && sleepy + usize::from(is_sleepy) <= sleepy_max {
                let slots = self.slots.get(&drive.id).copied().unwrap_or_default() + 1;
                let load = slots as f64 / f64::from(drive.weight.max(1));
                // Back to where the slot came from is no way at all.
                found.push((on_host, home != Some(drive.id), load, drive.id));
            }
        }
        found.sort_by(|a, b| {
            (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
        });
        found.into_iter().map(|(_, _, _, drive)| drive).collect()
    }

    pub(super) fn add(&mut self, pg: &Pg, slot: u8, to: DriveId) {
        *self.slots.entry(to).or_default() += 1;
        if let Some(left) =
            pg.slots.get(usize::from(slot)).and_then(|from| self.slots.get_mut(from))
        {
            *left = left.saturating_sub(1);
        }
    }
}
