//! Drives that are full, and a fleet that is uneven.

use super::super::balance::{Balance, balance};
use super::*;

impl Scene {
    fn space(&mut self, drive: u64, mark: SpaceMark) {
        self.map.drives.get_mut(&DriveId(drive)).unwrap().space = mark;
        self.watch.observe(&self.map, self.now);
    }

    fn weigh(&mut self, drive: u64, weight: u32) {
        self.map.drives.get_mut(&DriveId(drive)).unwrap().weight = weight;
        self.watch.observe(&self.map, self.now);
    }

    /// `count` groups over the first `hosts` drives, each beginning one further.
    fn pgs(&mut self, count: u64, hosts: u64) {
        for offset in 0..count {
            let slots: Vec<u64> = (0..6).map(|slot| (slot + offset) % hosts + 1).collect();
            self.pg(CODED, &slots);
        }
    }

    fn balance(&self) -> Balance {
        balance(&self.map, &self.watch, self.now, &self.options)
    }

    fn held(&self, drive: u64) -> usize {
        self.map.pgs.values().filter(|pg| pg.slots.contains(&DriveId(drive))).count()
    }

    /// Carries out what is planned until nothing is; gives the number of moves.
    fn even_out(&mut self) -> usize {
        let mut moves = 0;
        loop {
            let Balance { steps, .. } = self.balance();
            let max = (self.map.pgs.len() * self.options.in_flight_percent / 100).max(2);
            assert!(steps.len() <= max, "{} at once", steps.len());
            if steps.is_empty() {
                return moves;
            }
            for step in &steps {
                self.carry_out(step);
            }
            for step in &steps {
                self.clean(step.pg);
            }
            moves += steps.len();
            assert!(moves < 10_000, "it does not come to rest");
        }
    }
}

#[test]
fn a_move_to_a_drive_that_became_full_goes_elsewhere() {
    let mut scene = Scene::new(8);
    let pg = scene.pg(CODED, &[1, 2, 3, 4, 5, 6]);
    scene.drive(3, DriveState::Failed);
    assert_eq!(scene.moves(), [(1, 2, 7)]);
    let step = scene.plan().steps[0].clone();
    scene.carry_out(&step);
    assert_eq!(scene.moves(), []);
    scene.space(7, SpaceMark::Warn);
    assert_eq!(scene.moves(), []);
    scene.space(7, SpaceMark::NoBackfill);
    assert_eq!(scene.moves(), [(1, 2, 8)]);
    // Nobody has room: it stays, and the plan says so.
    scene.space(8, SpaceMark::NoWrites);
    assert_eq!((scene.moves(), scene.plan().without_host), (vec![], vec![pg]));
    // A full drive is no reason to move what it holds whole.
    scene.clean(pg);
    assert_eq!(scene.plan().waiting, 0);
}

#[test]
fn a_fleet_is_evened_out_when_it_was_left_alone_for_a_while() {
    let mut scene = Scene::new(8);
    scene.pgs(40, 6);
    scene.watch.observe(&scene.map, scene.now);
    scene.pass(minutes(9));
    assert_eq!(scene.balance(), Balance::default());
    scene.pass(minutes(1));
    let moves = scene.even_out();
    // 240 slots on 8 drives: 30 each; what two held too little has come, no more.
    assert!((50..=60).contains(&moves), "{moves}");
    for drive in 1..=8 {
        assert!((27..=33).contains(&scene.held(drive)), "drive {drive}: {}", scene.held(drive));
    }
    scene.down(8);
    scene.weigh(1, 50);
    scene.pass(minutes(20));
    assert_eq!(scene.balance(), Balance::default(), "a node is down");
    scene.liveness(8, Liveness::Up);
    let moves = scene.even_out();
    assert!((10..=26).contains(&moves), "{moves}");
    assert!((14..=18).contains(&scene.held(1)), "half the weight: {}", scene.held(1));
}

#[test]
fn a_full_drive_gives_slots_away_though_its_share_is_even() {
    let mut scene = Scene::new(8);
    scene.pgs(40, 8);
    scene.pass(minutes(10));
    assert_eq!(scene.balance(), Balance::default());
    scene.space(2, SpaceMark::NoBackfill);
    scene.pass(minutes(10));
    scene.even_out();
    assert!((20..=23).contains(&scene.held(2)), "{}", scene.held(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn evening_out_ends_and_leaves_every_drive_within_its_share(
        weights in proptest::collection::vec(50u32..200, 8..16),
        count in 40u64..120,
        first in 6u64..8,
    ) {
        let mut scene = Scene::new(weights.len() as u64);
        for (drive, weight) in (1..).zip(&weights) {
            scene.weigh(drive, *weight);
        }
        scene.pgs(count, first);
        scene.watch.observe(&scene.map, scene.now);
        scene.pass(minutes(10));
        scene.even_out();
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (drive, weight) in (1..).zip(&weights) {
            // No drive can hold more slots than there are groups.
            let share = (count * 6 * u64::from(*weight)) as f64 / total as f64;
            let most = share.min(count as f64);
            let held = scene.held(drive) as f64;
            let far = (held - most).abs();
            // A drive whose share is more than there are groups leaves the rest to others.
            let is_bounded = weights.iter().any(|weight| {
                (count * 6 * u64::from(*weight)) as f64 / total as f64 > 0.85 * count as f64
            });
            prop_assert!(
                is_bounded || far <= (most * 0.1).max(2.0),
                "drive {drive}: {held} of {share:.1}"
            );
        }
        prop_assert_eq!(scene.balance().steps, vec![]);
    }
}
