use std::collections::BTreeMap;

use nexusgrid_codec::Epoch;
use nexusgrid_env::{NodeId, Roles};
use nexusgrid_meta::root::topology::{Drive, Liveness, Node};
use nexusgrid_meta::root::types::{Addresses, SpaceMark};
use proptest::prelude::*;

use super::*;

/// Hosts with a class and the weights of their drives.
fn topology(hosts: &[(NodeClass, Vec<u32>)]) -> Topology {
    let mut topology = Topology { version: 1, ..Topology::default() };
    let mut drive_id = 0;
    for (index, (class, weights)) in hosts.iter().enumerate() {
        let id = NodeId(index as u64 + 1);
        topology.nodes.insert(id, node(id, *class));
        for weight in weights {
            drive_id += 1;
            let drive = Drive {
                id: DriveId(drive_id),
                node: id,
                incarnation: [0; 16],
                size_bytes: u64::from(*weight) << 30,
                weight: *weight,
                state: DriveState::Active,
                used_bytes: 0,
                space: SpaceMark::Normal,
            };
            topology.drives.insert(drive.id, drive);
        }
    }
    topology
}

fn node(id: NodeId, class: NodeClass) -> Node {
    Node {
        id,
        name: format!("node{}", id.0),
        host: format!("host{:03}", id.0),
        zone: String::new(),
        class,
        roles: Roles::ALL,
        addresses: Addresses::default(),
        key_hash: [0; 32],
        cert_generation: 1,
        state: NodeState::Active,
        liveness: Liveness::Up,
        liveness_since_ms: 0,
        raft_generation: 0,
    }
}

/// Does to the map what the root group would.
fn carry_out(topology: &mut Topology, steps: &[PlacementStep]) {
    for step in steps {
        match step {
            PlacementStep::Create(new) => {
                let id = PgId(topology.pgs.len() as u32 + 1);
                let pg = Pg {
                    id,
                    class: new.class,
                    slots: new.slots.clone(),
                    epoch: Epoch(1),
                    state: PgState::Active,
                    cap_bytes: u64::MAX,
                    used_bytes: 0,
                    fill_session: 0,
                    fill_worker: None,
                };
                topology.pgs.insert(id, pg);
            }
            PlacementStep::Close(pg) => topology.pgs.get_mut(pg).unwrap().state = PgState::Closed,
        }
    }
}

fn settle(topology: &mut Topology) {
    let steps = plan(topology, &PlacementOptions::default());
    carry_out(topology, &steps);
    assert_eq!(plan(topology, &PlacementOptions::default()), [], "a second plan changes nothing");
}

fn host_of(topology: &Topology, drive: DriveId) -> NodeId {
    topology.drives[&drive].node
}

fn assert_rules(topology: &Topology) {
    let hosts = topology.storage_hosts().len();
    let wanted = classes_of(topology).unwrap();
    for class in [wanted.large, wanted.small] {
        let open: Vec<&Pg> = topology.active_pgs(Some(class)).collect();
        assert!(open.len() >= hosts, "{class:?}: {} open PGs for {hosts} hosts", open.len());
        let stable = topology.nodes.values().filter(|node| node.class == NodeClass::Stable).count();
        let sleepy_limit = usize::from(class.m()).saturating_sub(1);
        for pg in &open {
            let on: BTreeSet<NodeId> =
                pg.slots.iter().map(|drive| host_of(topology, *drive)).collect();
            let drives: BTreeSet<&DriveId> = pg.slots.iter().collect();
            assert_eq!(drives.len(), class.width());
            assert!(hosts == 1 || on.len() == class.width(), "I11: two slots on one host");
            let sleepy = on.iter().filter(|node| topology.nodes[node].class == NodeClass::Sleepy);
            if stable + sleepy_limit >= class.width() && hosts > 1 {
                assert!(sleepy.count() <= sleepy_limit, "I11: too many sleepy slots");
            }
        }
        let all_stable = stable == topology.nodes.len();
        if all_stable && hosts < 20 && hosts > class.width() {
            for node in topology.nodes.keys() {
                let left_out =
                    |pg: &&&Pg| pg.slots.iter().all(|drive| host_of(topology, *drive) != *node);
                assert!(open.iter().any(|pg| left_out(&pg)), "no {class:?} PG leaves out {node}");
            }
        }
    }
    let known = |pg: &Pg| pg.class == wanted.large || pg.class == wanted.small;
    assert!(topology.active_pgs(None).all(known), "a PG of another class is open");
}

#[test]
fn a_host_that_is_down_keeps_its_groups_is_not_drawn_and_joins_again() {
    let mut topology = topology(&vec![(NodeClass::Stable, vec![100]); 8]);
    settle(&mut topology);
    let on = |topology: &Topology, node: NodeId| -> Vec<PgId> {
        let has = |pg: &&Pg| pg.slots.iter().any(|drive| host_of(topology, *drive) == node);
        topology.active_pgs(None).filter(has).map(|pg| pg.id).collect()
    };
    let gone = NodeId(3);
    let before = on(&topology, gone);
    assert!(!before.is_empty());
    topology.nodes.get_mut(&gone).unwrap().liveness = Liveness::Down;
    settle(&mut topology);
    assert_eq!(on(&topology, gone), before, "open groups stay, none is drawn there");
    // Its slots have moved: that is no reason to draw it again, until it is back.
    for id in &before {
        let hosts: BTreeSet<NodeId> =
            topology.pgs[id].slots.iter().map(|drive| host_of(&topology, *drive)).collect();
        let spare = topology.drives.values().find(|drive| !hosts.contains(&drive.node)).unwrap().id;
        for slot in &mut topology.pgs.get_mut(id).unwrap().slots {
            if topology.drives[slot].node == gone {
                *slot = spare;
            }
        }
    }
    settle(&mut topology);
    assert_eq!(on(&topology, gone), []);
    // With fewer awake than a group is wide, what is open stays and nothing is drawn on the dead.
    for node in [1, 2] {
        topology.nodes.get_mut(&NodeId(node)).unwrap().liveness = Liveness::Down;
    }
    assert_eq!(plan(&topology, &PlacementOptions::default()), []);
    for node in [1, 2] {
        topology.nodes.get_mut(&NodeId(node)).unwrap().liveness = Liveness::Up;
    }
    let count = topology.pgs.len();
    assert_eq!(plan(&topology, &PlacementOptions::default()), []);
    topology.nodes.get_mut(&gone).unwrap().liveness = Liveness::Up;
    settle(&mut topology);
    assert!(topology.pgs.len() > count && !on(&topology, gone).is_empty());
}

#[test]
fn codes_follow_the_failure_domains() {
    let coded = |k, m| PgClass::Coded { k, m };
    let copies = |copies| PgClass::Replicated { copies };
    for (domains, drives, large, small) in [
        (1, 1, copies(1), copies(1)),
        (1, 2, copies(2), copies(2)),
        (1, 9, copies(3), copies(3)),
        (2, 2, copies(2), copies(2)),
        (3, 3, copies(3), copies(3)),
        (4, 4, coded(2, 2), copies(3)),
        (6, 6, coded(2, 2), copies(3)),
        (7, 7, coded(4, 2), copies(3)),
        (11, 11, coded(4, 2), copies(3)),
        (12, 12, coded(8, 3), copies(3)),
        (19, 19, coded(8, 3), copies(3)),
        (20, 20, coded(8, 4), copies(3)),
        (3000, 3000, coded(8, 4), copies(3)),
    ] {
        assert_eq!(classes(domains, drives), Some(Classes { large, small }), "{domains} domains");
    }
    assert_eq!(classes(0, 0), None);
}

#[test]
fn with_two_of_seven_hosts_dead_five_drives_of_some_pg_are_awake() {
    let mut topology = topology(&vec![(NodeClass::Stable, vec![100]); 7]);
    settle(&mut topology);
    assert_rules(&topology);
    let nodes: Vec<NodeId> = topology.nodes.keys().copied().collect();
    for a in &nodes {
        for b in nodes.iter().filter(|b| *b > a) {
            let awake = |pg: &Pg| {
                let gone = |drive: &&DriveId| [*a, *b].contains(&host_of(&topology, **drive));
                pg.slots.len() - pg.slots.iter().filter(gone).count()
            };
            let classes = classes_of(&topology).unwrap();
            for class in [classes.large, classes.small] {
                let best = topology.active_pgs(Some(class)).map(awake).max().unwrap();
                assert!(best >= class.quorum(), "{a} and {b} dead: {best} of {class:?} awake");
            }
            assert_eq!(topology.active_pgs(Some(classes.large)).map(awake).max(), Some(5));
        }
    }
}

#[test]
fn nothing_is_drawn_before_the_expected_hosts_are_there() {
    let six = topology(&vec![(NodeClass::Stable, vec![100]); 6]);
    let options = PlacementOptions { hosts_expected: 7, ..PlacementOptions::default() };
    assert_eq!(plan(&six, &options), []);
    let seven = topology(&vec![(NodeClass::Stable, vec![100]); 7]);
    assert!(!plan(&seven, &options).is_empty());
}

#[test]
fn a_failed_drive_closes_its_pgs_and_others_are_drawn() {
    let mut topology = topology(&vec![(NodeClass::Stable, vec![100]); 8]);
    settle(&mut topology);
    topology.drives.get_mut(&DriveId(3)).unwrap().state = DriveState::Failed;
    settle(&mut topology);
    assert_rules(&topology);
    assert!(topology.active_pgs(None).all(|pg| !pg.slots.contains(&DriveId(3))));
}

#[test]
fn drives_and_hosts_are_used_by_weight() {
    let mut hosts = vec![(NodeClass::Stable, vec![100]); 9];
    hosts[0].1 = vec![50, 150];
    hosts[1].1 = vec![20];
    let mut topology = topology(&hosts);
    let options = PlacementOptions { open_pgs_min: 60, ..PlacementOptions::default() };
    let steps = plan(&topology, &options);
    carry_out(&mut topology, &steps);
    assert_rules(&topology);
    let mut used: BTreeMap<DriveId, usize> = BTreeMap::new();
    for pg in topology.active_pgs(Some(PgClass::Replicated { copies: 3 })) {
        for drive in &pg.slots {
            *used.entry(*drive).or_default() += 1;
        }
    }
    assert!(used[&DriveId(2)] > 2 * used[&DriveId(1)], "{used:?}");
    assert!(used[&DriveId(4)] > 3 * used[&DriveId(3)], "{used:?}");
}

fn any_host(sleepy: bool) -> impl Strategy<Value = (NodeClass, Vec<u32>)> {
    let class = if sleepy {
        prop_oneof![Just(NodeClass::Stable), Just(NodeClass::Sleepy)].boxed()
    } else {
        Just(NodeClass::Stable).boxed()
    };
    (class, prop::collection::vec(1u32..500, 1..4))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rules_hold_for_stable_grids(hosts in prop::collection::vec(any_host(false), 1..30)) {
        let mut topology = topology(&hosts);
        settle(&mut topology);
        assert_rules(&topology);
    }

    #[test]
    fn rules_hold_with_sleepy_hosts(hosts in prop::collection::vec(any_host(true), 1..30)) {
        let mut topology = topology(&hosts);
        settle(&mut topology);
        assert_rules(&topology);
    }

    #[test]
    fn rules_hold_while_a_grid_grows(hosts in prop::collection::vec(any_host(false), 2..14)) {
        let mut grown = topology(&hosts);
        for count in 1..=hosts.len() {
            let part = topology(&hosts[..count]);
            let pgs = std::mem::take(&mut grown.pgs);
            grown = Topology { pgs, ..part };
            settle(&mut grown);
            assert_rules(&grown);
        }
    }
}

/// One rule for every size: by the code's PGs alone, and with copies only where no code is drawn.
#[test]
fn writes_go_on_while_a_placement_group_of_the_code_can_have_its_quorum() {
    let stable = |count| vec![(NodeClass::Stable, vec![100]); count];
    for (hosts, tolerated) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 2), (9, 2), (12, 2)] {
        let mut grid = topology(&stable(hosts));
        settle(&mut grid);
        let takes_writes = |dead: usize| {
            let alive = |drive: &DriveId| grid.drives[drive].node.0 > dead as u64;
            takes_writes(&grid, |pg| pg.slots.iter().filter(|drive| alive(drive)).count())
        };
        assert!(takes_writes(tolerated), "{tolerated} of {hosts} dead");
        assert!(!takes_writes(hosts), "all of {hosts} dead");
        if hosts <= 7 {
            assert!(!takes_writes(tolerated + 1), "{} of {hosts} dead", tolerated + 1);
        }
    }
    // A grid that grows: its code is not drawn yet, its copies serve.
    let mut grid = topology(&stable(3));
    settle(&mut grid);
    let grown = Topology { pgs: grid.pgs.clone(), ..topology(&stable(4)) };
    assert!(takes_writes(&grown, |pg| pg.slots.len()));
    assert!(!takes_writes(&grown, |_| 1));
}
