//! Makes the status report: a pure function of the map and of what this node hears.

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_codec::GroupId;
use nexusgrid_env::{NodeId, Roles};
use nexusgrid_grid::NodeHint;
use nexusgrid_grid::care::remap::survivors::{Standing, is_urgent, standing, survivors};
use nexusgrid_grid::placement;
use nexusgrid_meta::root::topology::{Liveness, Node, Pg, PgClass, PgState, Topology};
use nexusgrid_meta::root::types::{DriveState, NodeClass, NodeState, SpaceMark};

use crate::status::{CodeStatus, GroupStatus, NodeStatus, RepairStatus, StatusReport};

/// What a node hears that the map does not say.
pub struct Heard {
    /// The node that reports.
    pub own: NodeId,
    /// Gossip's opinion of each node.
    pub hints: BTreeMap<NodeId, NodeHint>,
    /// Leaders and voters of the groups that this node has a replica of.
    pub groups: BTreeMap<GroupId, (Option<NodeId>, Vec<NodeId>)>,
}

/// How many voters a group should have with so many hosts that may vote.
pub fn voters_wanted(hosts: usize) -> u32 {
    match hosts {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

/// Words for a class.
pub fn code_name(class: PgClass) -> String {
    match class {
        PgClass::Coded { k, m } => format!("{k}+{m}"),
        PgClass::Replicated { copies } => format!("{copies} copies"),
    }
}

/// Words for roles.
pub fn role_names(roles: Roles) -> Vec<String> {
    [(roles.storage, "storage"), (roles.meta, "meta"), (roles.gateway, "gateway")]
        .into_iter()
        .filter(|(held, _)| *held)
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// How a node stands, in a word.
pub fn node_state(node: &Node, hint: Option<NodeHint>) -> &'static str {
    match (node.state, hint, node.liveness) {
        (NodeState::Removed, ..) => "removed",
        (NodeState::Leaving, ..) => "leaving",
        (_, _, Liveness::Asleep) => "asleep",
        (_, Some(NodeHint::Alive), _) => "alive",
        (_, Some(NodeHint::Suspect), _) => "suspect",
        (_, Some(NodeHint::Dead), _) => "dead",
        (NodeState::Joining, None, _) => "joining",
        (_, None, Liveness::Up) => "alive",
        (_, None, Liveness::Down) => "dead",
    }
}

/// The report.
pub fn make(topology: &Topology, heard: &Heard) -> StatusReport {
    let mut report = StatusReport {
        cluster: topology.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
        answered_by: heard.own.0,
        ..StatusReport::default()
    };
    for node in topology.nodes.values() {
        let state = node_state(node, heard.hints.get(&node.id).copied());
        if !matches!(state, "alive" | "removed") {
            report.warnings.push(format!("node {} on {} is {state}", node.id, node.host));
        }
        report.nodes.push(NodeStatus {
            id: node.id.0,
            host: node.host.clone(),
            zone: node.zone.clone(),
            roles: role_names(node.roles),
            address: node.addresses.rpc.clone(),
            s3: node.addresses.s3.clone(),
            state: state.to_owned(),
            drives: u32::try_from(
                topology.drives.values().filter(|drive| drive.node == node.id).count(),
            )
            .unwrap_or(u32::MAX),
        });
    }
    for drive in topology.drives.values() {
        let what = match drive.space {
            SpaceMark::Normal => continue,
            _ if matches!(drive.state, DriveState::Failed | DriveState::Removed) => continue,
            SpaceMark::Warn => "is getting full",
            SpaceMark::NoBackfill => "is nearly full: nothing is repaired onto it",
            SpaceMark::NoWrites => "is full: it takes no writes",
        };
        let id = drive.id.0;
        report.warnings.push(format!("drive {id} on node {} {what}", drive.node));
    }
    groups(topology, heard, &mut report);
    report.repair = repair(topology);
    codes(topology, heard, &mut report);
    let waiting = report.nodes.iter().filter(|node| node.state == "joining").count();
    // A node without a replica of a group cannot tell who leads it.
    let complete = report.groups.iter().all(|group| {
        (group.leader.is_some() || !heard.groups.contains_key(&GroupId(group.id)))
            && group.voters.len() == group.voters_wanted as usize
    });
    // Up to three hosts keep large and small contents in the same code.
    let is_open =
        |class| report.codes.iter().any(|code| code.open > 0 && code.code == code_name(class));
    let open = placement::classes_of(topology)
        .is_some_and(|wanted| is_open(wanted.large) && is_open(wanted.small));
    if !open {
        report.warnings.push("placement groups for new blocks are not open yet".to_owned());
    }
    report.ready = complete && open && waiting == 0;
    report
}

fn groups(topology: &Topology, heard: &Heard, report: &mut StatusReport) {
    let eligible: BTreeSet<&str> = topology
        .nodes
        .values()
        .filter(|node| {
            node.roles.meta
                && node.class == NodeClass::Stable
                && matches!(node.state, NodeState::Active | NodeState::Joining)
        })
        .map(|node| node.host.as_str())
        .collect();
    let wanted = voters_wanted(eligible.len());
    let mut survivable = u32::MAX;
    for group in topology.groups.values() {
        let (leader, voters) = heard
            .groups
            .get(&group.id)
            .cloned()
            .unwrap_or_else(|| (None, group.voters.iter().map(|voter| voter.node()).collect()));
        let answering = voters.iter().filter(|voter| alive(topology, heard, **voter)).count();
        let majority = voters.len() / 2 + 1;
        survivable = survivable.min(u32::try_from(answering.saturating_sub(majority)).unwrap_or(0));
        if voters.len() != wanted as usize {
            report.warnings.push(format!(
                "group {} has {} of {wanted} voters",
                group.id.0,
                voters.len()
            ));
        }
        if leader.is_none() && heard.groups.contains_key(&group.id) {
            report
                .warnings
                .push(format!("group {} has no leader that this node knows", group.id.0));
        }
        report.groups.push(GroupStatus {
            id: group.id.0,
            leader: leader.map(|leader| leader.0),
            voters: voters.iter().map(|voter| voter.0).collect(),
            voters_wanted: wanted,
        });
    }
    report.metadata_host_losses = if survivable == u32::MAX { 0 } else { survivable };
}

/// What moves, and what should.
fn repair(topology: &Topology) -> RepairStatus {
    let mut repair = RepairStatus::default();
    for pg in topology.pgs.values() {
        repair.moving += u32::from(matches!(pg.state, PgState::Preparing(_)));
        let mut shards_wanted = false;
        for drive in &pg.slots {
            match standing(topology, *drive) {
                Standing::Present | Standing::Asleep(_) => {}
                Standing::Down(_) => {
                    repair.down += 1;
                    shards_wanted = true;
                }
                Standing::Leaving => repair.to_move += 1,
                Standing::Lost => {
                    repair.to_move += 1;
                    shards_wanted = true;
                }
            }
        }
        if survivors(topology, pg) < usize::from(pg.class.k()) {
            repair.beyond_repair += 1;
        } else if shards_wanted && is_urgent(topology, pg) {
            repair.urgent += 1;
        }
    }
    repair
}

fn codes(topology: &Topology, heard: &Heard, report: &mut StatusReport) {
    let mut by_class: BTreeMap<PgClass, Vec<&Pg>> = BTreeMap::new();
    for pg in topology.pgs.values() {
        by_class.entry(pg.class).or_default().push(pg);
    }
    let mut survivable = u32::MAX;
    for (class, pgs) in &by_class {
        let open = pgs.iter().filter(|pg| pg.state == PgState::Active).count();
        for pg in pgs {
            let hosts: BTreeSet<&str> = pg
                .slots
                .iter()
                .filter_map(|drive| topology.node_of_drive(*drive))
                .filter(|node| alive(topology, heard, node.id))
                .map(|node| node.host.as_str())
                .collect();
            let spare = hosts.len().saturating_sub(usize::from(class.k()));
            survivable = survivable.min(u32::try_from(spare).unwrap_or(0));
        }
        report.codes.push(CodeStatus {
            code: code_name(*class),
            open: u32::try_from(open).unwrap_or(u32::MAX),
            total: u32::try_from(pgs.len()).unwrap_or(u32::MAX),
        });
    }
    report.data_host_losses = if survivable == u32::MAX { 0 } else { survivable };
}

fn alive(topology: &Topology, heard: &Heard, node: NodeId) -> bool {
    topology
        .node(node)
        .is_some_and(|record| node_state(record, heard.hints.get(&node).copied()) == "alive")
}
