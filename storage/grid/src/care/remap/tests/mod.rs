//! The planner against its promises.

mod balance;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nexusgrid_codec::{DriveId, Epoch, PgId};
use nexusgrid_env::{BootInstant, NodeId, Roles};
use nexusgrid_meta::root::topology::{
    Drive, Liveness, Node, Pg, PgClass, PgState, Remap, SlotMove, Topology,
};
use nexusgrid_meta::root::types::{Addresses, DriveState, NodeClass, NodeState, SpaceMark};
use proptest::prelude::*;

use super::RemapOptions;
use super::plan::{Plan, Step, Watch, plan};
use super::survivors::{Standing, standing, survivors};

const CODED: PgClass = PgClass::Coded { k: 4, m: 2 };
const COPIES: PgClass = PgClass::Replicated { copies: 3 };

/// A map with the planner's memory and a clock.
struct Scene {
    map: Topology,
    watch: Watch,
    now: BootInstant,
    options: RemapOptions,
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

impl Scene {
    /// `hosts` hosts with one node and one drive each; node, host and drive have one number.
    fn new(hosts: u64) -> Scene {
        let mut map = Topology { version: 1, ..Topology::default() };
        for index in 1..=hosts {
            let id = NodeId(index);
            let node = Node {
                id,
                name: format!("node{index}"),
                host: format!("host{index:03}"),
                zone: String::new(),
                class: NodeClass::Stable,
                roles: Roles::ALL,
                addresses: Addresses::default(),
                key_hash: [0; 32],
                cert_generation: 1,
                state: NodeState::Active,
                liveness: Liveness::Up,
                liveness_since_ms: 0,
                raft_generation: 0,
            };
            map.nodes.insert(id, node);
            let drive = Drive {
                id: DriveId(index),
                node: id,
                incarnation: [0; 16],
                size_bytes: 1 << 40,
                weight: 100,
                state: DriveState::Active,
                used_bytes: 0,
                space: SpaceMark::Normal,
            };
            map.drives.insert(drive.id, drive);
        }
        Scene {
            map,
            watch: Watch::default(),
            now: BootInstant(Duration::ZERO),
            options: RemapOptions::default(),
        }
    }

    fn pg(&mut self, class: PgClass, slots: &[u64]) -> PgId {
        let id = PgId(self.map.pgs.len() as u32 + 1);
        let pg = Pg {
            id,
            class,
            slots: slots.iter().copied().map(DriveId).collect(),
            epoch: Epoch(1),
            state: PgState::Active,
            cap_bytes: u64::MAX,
            used_bytes: 0,
            fill_session: 0,
            fill_worker: None,
        };
        assert_eq!(pg.slots.len(), class.width());
        self.map.pgs.insert(id, pg);
        id
    }

    fn liveness(&mut self, node: u64, liveness: Liveness) {
        self.map.nodes.get_mut(&NodeId(node)).unwrap().liveness = liveness;
        self.watch.observe(&self.map, self.now);
    }

    fn down(&mut self, node: u64) {
        self.liveness(node, Liveness::Down);
    }

    fn state(&mut self, node: u64, state: NodeState) {
        self.map.nodes.get_mut(&NodeId(node)).unwrap().state = state;
    }

    fn drive(&mut self, drive: u64, state: DriveState) {
        self.map.drives.get_mut(&DriveId(drive)).unwrap().state = state;
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.watch.observe(&self.map, self.now);
    }

    fn plan(&self) -> Plan {
        plan(&self.map, &self.watch, self.now, &self.options)
    }

    fn moves(&self) -> Vec<(u32, u8, u64)> {
        self.plan().steps.iter().map(|step| (step.pg.0, step.slot, step.to.0)).collect()
    }

    /// Does what the root group would, and holds the step against its rules.
    fn carry_out(&mut self, step: &Step) {
        self.watch.planned(step, self.now);
        let map = &mut self.map;
        let target = standing(map, step.to);
        assert_eq!(target, Standing::Present, "{step:?}");
        let pg = map.pgs.get_mut(&step.pg).unwrap();
        assert_eq!(pg.epoch, step.from);
        assert!(!pg.slots.contains(&step.to));
        let at = usize::from(step.slot);
        let (mut from, mut reopen) = (pg.slots[at], pg.state == PgState::Active);
        if let PgState::Preparing(remap) = &pg.state {
            assert_eq!(remap.moves[0].slot, step.slot);
            (from, reopen) = (remap.moves[0].from, remap.reopen);
        }
        pg.slots[at] = step.to;
        pg.epoch = Epoch(pg.epoch.0 + 1);
        let moves = vec![SlotMove { slot: step.slot, from, to: step.to }];
        pg.state = PgState::Preparing(Remap { moves, since_ms: 0, reopen });
        let hosts: BTreeSet<NodeId> = pg.slots.iter().map(|drive| map.drives[drive].node).collect();
        assert_eq!(hosts.len(), pg.slots.len(), "I11: {step:?}");
    }

    fn clean(&mut self, pg: PgId) {
        self.map.pgs.get_mut(&pg).unwrap().state = PgState::Active;
    }

    fn preparing(&self) -> Vec<PgId> {
        let pgs = self.map.pgs.values();
        pgs.filter(|pg| matches!(pg.state, PgState::Preparing(_))).map(|pg| pg.id).collect()
    }

    /// Plans and finishes until nothing is planned; gives the number of moves.
    fn settle(&mut self) -> usize {
        for made in 0.. {
            assert!(made < 10_000, "the planner does not come to rest");
            let Plan { steps, .. } = self.plan();
            if steps.is_empty() {
                return made;
            }
            self.carry_out(&steps[0]);
            self.clean(steps[0].pg);
        }
        unreachable!()
    }
}

#[test]
fn a_node_is_lost_after_its_grace_and_not_before() {
    let mut scene = Scene::new(8);
    scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(scene.plan(), Plan::default());
    scene.down(3);
    scene.pass(minutes(14));
    assert_eq!(scene.moves(), []);
    // It came back for a moment: the grace begins anew.
    scene.liveness(3, Liveness::Up);
    scene.down(3);
    scene.pass(minutes(14));
    assert_eq!(scene.moves(), []);
    scene.pass(minutes(1));
    assert_eq!(scene.moves(), [(1, 2, 7)]);
    // A workstation is given a day, and one that sleeps as planned three.
    scene.map.nodes.get_mut(&NodeId(3)).unwrap().class = NodeClass::Sleepy;
    assert_eq!(scene.moves(), []);
    scene.pass(Duration::from_secs(24 * 3600));
    assert_eq!(scene.moves(), [(1, 2, 7)]);
    scene.liveness(3, Liveness::Asleep);
    scene.pass(Duration::from_secs(71 * 3600));
    assert_eq!(scene.moves(), []);
    scene.pass(Duration::from_secs(3600));
    assert_eq!(scene.moves(), [(1, 2, 7)]);
}

#[test]
fn what_is_lost_for_certain_or_leaves_moves_at_once() {
    for what in 0..5 {
        let mut scene = Scene::new(8);
        scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
        match what {
            0 => scene.drive(2, DriveState::Failed),
            1 => scene.drive(2, DriveState::Removed),
            2 => scene.drive(2, DriveState::Draining),
            3 => scene.state(2, NodeState::Removed),
            _ => scene.state(2, NodeState::Leaving),
        }
        assert_eq!(scene.moves(), [(1, 1, 7)], "{what}");
        assert_eq!(scene.settle(), 1);
    }
}

#[test]
fn the_last_shards_come_first_and_at_once() {
    let mut scene = Scene::new(12);
    for _ in 0..4 {
        scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    }
    let copies = scene.pg(COPIES, &[7, 8, 9]);
    scene.drive(1, DriveState::Failed);
    scene.down(7);
    scene.down(8);
    scene.pass(scene.options.grace_urgent);
    let plan = scene.plan();
    let first = &plan.steps[0];
    assert_eq!((first.pg, first.urgent, plan.steps.len()), (copies, true, 2));
    // Two of the copies' hosts are away: the one that is left is copied, one slot after the other.
    scene.carry_out(&first.clone());
    scene.clean(copies);
    assert!(scene.plan().steps.iter().all(|step| !step.urgent));
}

#[test]
fn a_cable_that_is_pulled_for_a_moment_moves_nothing() {
    let mut scene = Scene::new(7);
    scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    let copies = scene.pg(COPIES, &[5, 6, 7]);
    for _ in 0..5 {
        scene.down(5);
        scene.down(6);
        for _second in 0..6 {
            assert_eq!(scene.moves(), []);
            scene.pass(Duration::from_secs(1));
        }
        scene.liveness(5, Liveness::Up);
        scene.liveness(6, Liveness::Up);
        scene.pass(Duration::from_secs(20));
    }
    // What is lost for certain is not waited for.
    scene.down(5);
    scene.drive(7, DriveState::Failed);
    assert_eq!(scene.moves(), [(copies.0, 2, 1)]);
    // Nor does a cable stay pulled for longer.
    let step = scene.plan().steps.remove(0);
    scene.carry_out(&step);
    scene.clean(copies);
    scene.down(6);
    scene.pass(Duration::from_secs(29));
    assert_eq!(scene.moves(), []);
    scene.pass(Duration::from_secs(1));
    let plan = scene.plan();
    assert!(!plan.frozen && !plan.steps.is_empty(), "{plan:?}");
    assert!(plan.steps.iter().all(|step| step.urgent));
}

#[test]
fn too_few_shards_or_no_host_are_said_and_nothing_moves() {
    let mut scene = Scene::new(6);
    scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    scene.drive(1, DriveState::Failed);
    let plan = scene.plan();
    assert_eq!((plan.steps.len(), plan.without_host.len()), (0, 1));
    assert!(plan.alarm().unwrap().contains("spare host"));
    let mut scene = Scene::new(9);
    scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    for drive in 1..=3 {
        scene.drive(drive, DriveState::Failed);
    }
    let plan = scene.plan();
    assert_eq!((plan.steps.len(), plan.beyond_repair.len()), (0, 1));
    assert!(plan.alarm().unwrap().contains("bring lost drives back"));
}

#[test]
fn a_mass_absence_freezes_all_but_the_urgent() {
    let mut scene = Scene::new(12);
    scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    let copies = scene.pg(COPIES, &[1, 2, 12]);
    scene.pg(CODED, &[3, 4, 5, 6, 7, 8]);
    for node in [1, 2, 3] {
        scene.down(node);
        scene.pass(minutes(2));
    }
    scene.pass(minutes(30));
    let plan = scene.plan();
    assert!(plan.frozen);
    assert!(plan.steps.iter().all(|step| step.pg == copies && step.urgent), "{plan:?}");
    assert_eq!(plan.steps.len(), 1);
    // One of them is back: the usual rules hold.
    scene.liveness(2, Liveness::Up);
    assert!(!scene.plan().frozen);
    assert!(scene.plan().steps.len() > 1);
    // Three that went one after the other are no mass absence.
    let mut scene = Scene::new(12);
    scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    for node in [1, 2] {
        scene.down(node);
        scene.pass(minutes(9));
    }
    scene.pg(CODED, &[3, 4, 5, 6, 7, 8]);
    scene.down(3);
    assert!(!scene.plan().frozen);
}

#[test]
fn a_node_that_comes_and_goes_moves_slots_three_times_an_hour() {
    let mut scene = Scene::new(8);
    scene.options.grace_stable = minutes(1);
    for round in 0..4 {
        scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
        scene.down(1);
        scene.pass(minutes(2));
        let plan = scene.plan();
        assert_eq!(plan.flapping.is_empty(), round < 3);
        assert_eq!(plan.steps.len(), usize::from(round < 3));
        scene.settle();
        scene.liveness(1, Liveness::Up);
    }
    scene.down(1);
    scene.pass(minutes(60));
    assert_eq!(scene.moves().len(), 1);
}

#[test]
fn few_move_at_once_and_the_stuck_do_not_hold_up_the_others() {
    let mut scene = Scene::new(30);
    for _ in 0..100 {
        scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    }
    scene.drive(1, DriveState::Failed);
    let steps = scene.plan().steps;
    assert_eq!(steps.len(), 5);
    let targets: BTreeSet<DriveId> = steps.iter().map(|step| step.to).collect();
    assert_eq!(targets.len(), 5, "to different drives");
    steps.iter().for_each(|step| scene.carry_out(step));
    scene.pass(minutes(1));
    assert_eq!(scene.plan().steps, []);
    scene.pass(scene.options.stuck_after);
    assert_eq!(scene.plan().steps.len(), 5);
}

#[test]
fn a_move_whose_target_is_lost_goes_on_to_another() {
    let mut scene = Scene::new(9);
    let pg = scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    scene.drive(1, DriveState::Draining);
    let step = scene.plan().steps.remove(0);
    scene.carry_out(&step);
    assert_eq!(scene.moves(), []);
    let target = step.to.0;
    // Another slot waits, whatever happens to it, until this one is filled.
    scene.drive(2, DriveState::Failed);
    assert_eq!(scene.moves(), []);
    scene.drive(target, DriveState::Failed);
    let again = scene.plan().steps.remove(0);
    assert_eq!((again.pg, again.slot, again.from), (pg, 0, Epoch(2)));
    assert_ne!(again.to.0, target);
    scene.carry_out(&again);
    scene.clean(pg);
    assert_eq!(scene.moves().len(), 1, "then the other slot moves");
}

#[test]
fn two_drives_of_one_host_share_a_group_only_where_hosts_do_not_suffice() {
    let mut scene = Scene::new(3);
    for drive in 4..=6 {
        let like = scene.map.drives[&DriveId(drive - 3)].clone();
        scene.map.drives.insert(DriveId(drive), Drive { id: DriveId(drive), ..like });
    }
    scene.pg(COPIES, &[1, 2, 3]);
    scene.drive(1, DriveState::Failed);
    assert_eq!(scene.moves(), [(1, 0, 4)], "to the other drive of the same host");
    let mut scene = Scene::new(1);
    for drive in 2..=3 {
        let like = scene.map.drives[&DriveId(1)].clone();
        scene.map.drives.insert(DriveId(drive), Drive { id: DriveId(drive), ..like });
    }
    scene.pg(PgClass::Replicated { copies: 2 }, &[1, 2]);
    scene.drive(1, DriveState::Draining);
    assert_eq!(scene.moves(), [(1, 0, 3)]);
}

#[derive(Clone, Debug)]
enum Event {
    Down(u64),
    Up(u64),
    Asleep(u64),
    Leave(u64),
    Remove(u64),
    Fail(u64),
    Minutes(u64),
    /// Carry out what is planned.
    Plan,
    /// Finish the first move under way.
    Finish,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = 1..=10u64;
    proptest::collection::vec(
        prop_oneof![
            2 => node.clone().prop_map(Event::Down),
            2 => node.clone().prop_map(Event::Up),
            1 => node.clone().prop_map(Event::Asleep),
            1 => node.clone().prop_map(Event::Leave),
            1 => node.clone().prop_map(Event::Remove),
            1 => node.prop_map(Event::Fail),
            4 => (1..40u64).prop_map(Event::Minutes),
            6 => Just(Event::Plan),
            6 => Just(Event::Finish),
        ],
        1..80,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn only_what_must_move_moves_and_all_that_can_does(
        events in events(),
        offsets in proptest::collection::vec((0..10u64, any::<bool>()), 1..12),
    ) {
        let mut scene = Scene::new(10);
        for (offset, coded) in offsets {
            let class = if coded { CODED } else { COPIES };
            let slots: Vec<u64> =
                (0..class.width() as u64).map(|slot| (slot + offset) % 10 + 1).collect();
            scene.pg(class, &slots);
        }
        for event in events {
            match event {
                Event::Down(node) => scene.down(node),
                Event::Up(node) => scene.liveness(node, Liveness::Up),
                Event::Asleep(node) => scene.liveness(node, Liveness::Asleep),
                Event::Leave(node) => scene.state(node, NodeState::Leaving),
                Event::Remove(node) => scene.state(node, NodeState::Removed),
                Event::Fail(drive) => scene.drive(drive, DriveState::Failed),
                Event::Minutes(count) => scene.pass(minutes(count)),
                Event::Finish => if let Some(pg) = scene.preparing().first() {
                    scene.clean(*pg);
                },
                Event::Plan => {
                    let plan = scene.plan();
                    prop_assert_eq!(&plan, &scene.plan(), "same input, same plan");
                    let mut seen = BTreeMap::new();
                    for step in &plan.steps {
                        prop_assert!(seen.insert(step.pg, ()).is_none(), "two slots at once");
                        let pg = &scene.map.pgs[&step.pg];
                        let drive = pg.slots[usize::from(step.slot)];
                        prop_assert_ne!(standing(&scene.map, drive), Standing::Present);
                        let k = usize::from(pg.class.k());
                        prop_assert_eq!(step.urgent, survivors(&scene.map, pg) == k);
                    }
                    for step in &plan.steps {
                        // A step may make the next one's host twice: only by its own group.
                        let hosts = scene.map.storage_hosts().len();
                        if hosts >= scene.map.pgs[&step.pg].class.width() {
                            let lost_hosts = scene.map.pgs[&step.pg].slots.len();
                            prop_assert!(lost_hosts > 0);
                            scene.carry_out(step);
                        }
                    }
                }
            }
        }
        // The world calms down: everybody not gone for good is there.
        for node in 1..=10 {
            scene.liveness(node, Liveness::Up);
        }
        for pg in scene.preparing() {
            scene.clean(pg);
        }
        if scene.map.storage_hosts().len() >= 7 {
            let before = scene.map.clone();
            let moves = scene.settle();
            let bad = |map: &Topology, pg: &Pg| {
                pg.slots.iter().filter(|drive| standing(map, **drive) != Standing::Present).count()
            };
            let mut needed = 0;
            for pg in before.pgs.values() {
                let is_rebuildable = survivors(&before, pg) >= usize::from(pg.class.k());
                if is_rebuildable {
                    needed += bad(&before, pg);
                    prop_assert_eq!(bad(&scene.map, &scene.map.pgs[&pg.id]), 0, "{:?}", pg);
                }
            }
            prop_assert!(moves >= needed);
            prop_assert_eq!(scene.plan().steps, []);
        }
    }
}
