//! Which drives share a placement group: a pure planner over the map.
//!
//! What it promises, and what its tests assert (I11):
//! - slots of one PG are on distinct hosts while hosts suffice; with one host, on distinct drives;
//! - the code follows the number of failure domains F, and copies exist in every grid beside it;
//! - below 20 hosts the hosts that a PG leaves out rotate, so that some open PG of each class
//!   leaves out each host, and at least F PGs are open: with two of seven hosts dead some PG still
//!   has five drives awake;
//! - at most m − 1 slots are on sleepy drives where there are stable hosts enough;
//! - a host that does not answer, or has no room, is not drawn while others suffice, and a PG with a
//!   full drive is closed;
//! - the share of each host and drive follows its weight as far as the rules above allow.
//!
//! Same input, same plan: the root leader draws, the root group checks and decides.

mod draw;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nexusgrid_codec::{DriveId, PgId};
use nexusgrid_meta::root::topology::{Liveness, Pg, PgClass, PgState, Topology};
use nexusgrid_meta::root::types::{DriveState, NewPg, NodeClass, NodeState, SpaceMark};

pub(crate) use draw::{Domain, Drawing};

/// Copies in a PG of class REPLICATED, where there are hosts enough.
const COPIES: u8 = 3;

/// How the planner draws.
#[derive(Clone, Debug)]
pub struct PlacementOptions {
    /// Draw nothing before so many hosts have an active drive; default 1. Set it when a grid is
    /// made, so that it does not begin with a code meant for fewer hosts.
    pub hosts_expected: usize,
    /// Open PGs of each class, at least; the number of hosts if that is more; default 8.
    pub open_pgs_min: usize,
    /// Draw only when no host came or went for so long; default 2 s.
    pub settle: Duration,
}

impl Default for PlacementOptions {
    fn default() -> PlacementOptions {
        PlacementOptions { hosts_expected: 1, open_pgs_min: 8, settle: Duration::from_secs(2) }
    }
}

/// One thing to propose to the root group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlacementStep {
    /// Make this PG.
    Create(NewPg),
    /// Let this PG take no new blocks.
    Close(PgId),
}

/// The classes that new blocks use: one for large contents, one for small ones (which may be the
/// same).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    /// For blocks of large contents.
    pub large: PgClass,
    /// For packs and small blocks: always copies.
    pub small: PgClass,
}

/// The classes for `domains` failure domains; with one host `drives` of it count instead. `None`
/// without a drive.
pub fn classes(domains: usize, drives: usize) -> Option<Classes> {
    let copies = |copies: usize| {
        let copies = u8::try_from(copies).unwrap_or(COPIES).min(COPIES);
        PgClass::Replicated { copies }
    };
    let large = match domains {
        0 => return None,
        1 => copies(drives.max(1)),
        2 | 3 => copies(domains),
        4..=6 => PgClass::Coded { k: 2, m: 2 },
        7..=11 => PgClass::Coded { k: 4, m: 2 },
        12..=19 => PgClass::Coded { k: 8, m: 3 },
        _ => PgClass::Coded { k: 8, m: 4 },
    };
    let small = if large.is_replicated() { large } else { copies(domains) };
    Some(Classes { large, small })
}

/// The classes that today's topology calls for.
pub fn classes_of(topology: &Topology) -> Option<Classes> {
    let drives = usable_drives(topology).count();
    classes(topology.storage_hosts().len(), drives)
}

/// Whether the grid takes writes: some open PG for large contents can still have its quorum, given
/// how many slots of a PG can be `reachable`.
///
/// One rule for contents of every size: what three copies would still hold durably is refused as
/// well once more hosts are away than the grid's code is made for, so that a client meets one
/// behaviour, and nobody fills a grid whose next loss may be one too many. While no PG for large
/// contents is open (a grid that grows draws them in a moment) those for small ones count.
pub fn takes_writes(topology: &Topology, reachable: impl Fn(&Pg) -> usize) -> bool {
    let Some(wanted) = classes_of(topology) else { return false };
    let mut is_drawn = false;
    for pg in topology.active_pgs(None).filter(|pg| for_large(pg.class, wanted)) {
        if reachable(pg) >= pg.class.quorum() {
            return true;
        }
        is_drawn = true;
    }
    let mut small = topology.active_pgs(None).filter(|pg| pg.class.is_replicated());
    !is_drawn && small.any(|pg| reachable(pg) >= pg.class.quorum())
}

/// Whether blocks of large contents may go to a PG of `class`: of the class wanted today, or of
/// another code. Copies would take thrice the space where the code cannot be written: better a no.
pub(crate) fn for_large(class: PgClass, wanted: Classes) -> bool {
    class == wanted.large || !class.is_replicated()
}

/// What to propose now; empty when the rules hold.
pub fn plan(topology: &Topology, options: &PlacementOptions) -> Vec<PlacementStep> {
    let hosts = topology.storage_hosts().len();
    if hosts < options.hosts_expected.max(1) {
        return Vec::new();
    }
    let Some(wanted) = classes_of(topology) else { return Vec::new() };
    let domains = domains(topology, |_| true);
    // Who does not answer is not drawn: its slots would only have to move again. When it is back, it
    // is like one who joins.
    let awake = domains_awake(topology);
    let mut kinds = vec![wanted.large];
    if wanted.small != wanted.large {
        kinds.push(wanted.small);
    }
    let mut steps = Vec::new();
    let mut kept = BTreeSet::new();
    for class in kinds {
        // One whose slot moves is open again in a moment.
        let is_open = |pg: &&Pg| match &pg.state {
            PgState::Active => pg.class == class,
            PgState::Preparing(remap) => pg.class == class && remap.reopen,
            PgState::Closed => false,
        };
        let open: Vec<&Pg> = topology
            .pgs
            .values()
            .filter(is_open)
            .filter(|pg| pg.slots.iter().all(|drive| domain_of(&domains, *drive).is_some()))
            .collect();
        let is_scarce = awake.len() < class.width();
        if is_scarce && !open.is_empty() {
            // What is open serves as well as anything that could be drawn now.
            kept.extend(open.iter().map(|pg| pg.id));
            continue;
        }
        // One with a drive that takes no writes cannot be written whole any more.
        let takes =
            |pg: &&Pg| pg.slots.iter().all(|drive| mark(topology, *drive) < SpaceMark::NoWrites);
        let open: Vec<&Pg> = open.into_iter().filter(takes).collect();
        let drawn_from = if is_scarce { &domains } else { &awake };
        let mut drawing = Drawing::new(class, drawn_from);
        // A host that no open PG uses has just come: what is open was drawn without it, so it is
        // drawn anew. What is written stays where it is.
        let all_used = drawn_from
            .iter()
            .all(|domain| open.iter().any(|pg| pg.slots.iter().any(|drive| domain.has(*drive))));
        if all_used {
            for pg in &open {
                kept.insert(pg.id);
                drawing.count(&pg.slots);
            }
        }
        let target = options.open_pgs_min.max(domains.len());
        while drawing.open() < target || !drawing.rotation_holds() {
            let Some(slots) = drawing.draw() else { break };
            let new = NewPg { class, slots, drawn_from: topology.version };
            steps.push(PlacementStep::Create(new));
        }
    }
    // New PGs first: at no time is a class without an open one.
    let closing = topology.pgs.values().filter(|pg| pg.state == PgState::Active);
    steps.extend(closing.filter(|pg| !kept.contains(&pg.id)).map(|pg| PlacementStep::Close(pg.id)));
    steps
}

fn usable_drives(topology: &Topology) -> impl Iterator<Item = (DriveId, &str, bool, u32)> {
    topology.drives.values().filter(|drive| drive.state == DriveState::Active).filter_map(|drive| {
        let node = topology.node(drive.node)?;
        let usable =
            matches!(node.state, NodeState::Active | NodeState::Joining) && node.roles.storage;
        let sleepy = node.class == NodeClass::Sleepy;
        usable.then_some((drive.id, node.host.as_str(), sleepy, drive.weight.max(1)))
    })
}

fn mark(topology: &Topology, drive: DriveId) -> SpaceMark {
    topology.drives.get(&drive).map(|drive| drive.space).unwrap_or_default()
}

/// The failure domains that answer, with the drives that do and have room.
fn domains_awake(topology: &Topology) -> Vec<Domain> {
    domains(topology, |drive| {
        topology.node_of_drive(drive).is_none_or(|node| node.liveness != Liveness::Down)
            && mark(topology, drive) < SpaceMark::NoBackfill
    })
}

/// Failure domains with their drives: hosts, or the drives of the only host.
fn domains(topology: &Topology, counts: impl Fn(DriveId) -> bool) -> Vec<Domain> {
    let mut by_host: BTreeMap<String, Domain> = BTreeMap::new();
    let one_host = topology.storage_hosts().len() <= 1;
    for (drive, host, sleepy, weight) in usable_drives(topology).filter(|drive| counts(drive.0)) {
        let name = if one_host { format!("{host}/{}", drive.0) } else { host.to_owned() };
        let domain = by_host.entry(name).or_default();
        domain.sleepy |= sleepy;
        domain.drives.push((drive, weight));
    }
    by_host.into_values().collect()
}

fn domain_of(domains: &[Domain], drive: DriveId) -> Option<usize> {
    domains.iter().position(|domain| domain.has(drive))
}

#[cfg(test)]
mod tests;
