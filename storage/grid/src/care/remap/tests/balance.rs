//! Drives that are full, and a fleet that is uneven.

use super::super::balance::{Balance, balance};
use super::*;

impl Scene {
    fn space(&mut self, drive: u64, mark: SpaceMark) {
        self.map.drives.get_mut(&DriveId(drive)).unwrap().space = mark;
        self.watch.observe(&self.map, self.now);
    }

    fn use_bytes(&mut self, drive: u64, bytes: u64) {
        self.map.drives.get_mut(&DriveId(drive)).unwrap().used_bytes = bytes;
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
    scene.weigh(1, 50);
    scene.pass(minutes(9));
    assert_eq!(scene.balance().steps, vec![], "its weight is new");
    scene.pass(minutes(1));
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

#[test]
fn a_drive_that_gave_slots_away_does_not_get_them_back_to_give_them_away_again() {
    let mut scene = Scene::new(8);
    scene.pgs(160, 8);
    // What a slot takes, and how much of the drive that is too small for its weight is full.
    let slot_bytes = |scene: &Scene, drive: u64, part: f64| {
        let of = &scene.map.drives[&DriveId(drive)];
        of.size_bytes as f64 * part / scene.held(drive) as f64
    };
    let per_slot = slot_bytes(&scene, 2, 0.82);
    scene.use_bytes(2, (per_slot * scene.held(2) as f64) as u64);
    scene.space(2, SpaceMark::NoBackfill);
    scene.pass(minutes(10));
    assert!(scene.even_out() > 20);
    let low = scene.held(2);
    let mut moves = Vec::new();
    for _week in 0..4 {
        // The trash of what went is purged, the mark is left; then it fills up by what came.
        scene.use_bytes(2, (per_slot * scene.held(2) as f64) as u64);
        scene.space(2, SpaceMark::Normal);
        scene.pass(minutes(10));
        moves.push(scene.even_out());
        let used = per_slot * scene.held(2) as f64;
        let is_full = used >= 0.81 * scene.map.drives[&DriveId(2)].size_bytes as f64;
        assert!(!is_full, "filled up by the balancer: {} of {low}", scene.held(2));
    }
    assert_eq!(moves[1..], [0, 0, 0], "slots come and go");
}

#[test]
fn a_fleet_in_which_somebody_is_always_away_is_evened_out_all_the_same() {
    let mut scene = Scene::new(24);
    for offset in 0..200u64 {
        let slots: Vec<u64> = (0..6).map(|slot| (slot * 3 + offset) % 22 + 1).collect();
        scene.pg(CODED, &slots);
    }
    scene.watch.observe(&scene.map, scene.now);
    let (mut moves, mut marks) = (0, 0);
    for minute in 0..600u64 {
        // Another workstation every seven minutes, and a mark that comes and goes somewhere.
        if minute % 7 == 0 {
            scene.liveness(minute / 7 % 22 + 1, Liveness::Up);
            scene.down((minute / 7 + 1) % 22 + 1);
            marks += 1;
            let mark = if marks % 2 == 0 { SpaceMark::Warn } else { SpaceMark::Normal };
            scene.space(marks * 5 % 22 + 1, mark);
        }
        scene.pass(minutes(1));
        assert!(scene.plan().is_idle());
        let steps = scene.balance().steps;
        assert!(steps.len() <= 10, "a twentieth of the groups at once");
        for step in &steps {
            let pg = &scene.map.pgs[&step.pg];
            for drive in pg.slots.iter().chain([&step.to]) {
                let looks = standing(&scene.map, *drive);
                assert_eq!(looks, Standing::Present, "minute {minute}: {step:?}");
            }
        }
        steps.iter().for_each(|step| scene.carry_out(step));
        steps.iter().for_each(|step| scene.clean(step.pg));
        moves += steps.len();
    }
    // 1200 slots on 24 drives: 50 each.
    for drive in [23, 24] {
        assert!((45..=55).contains(&scene.held(drive)), "drive {drive}: {}", scene.held(drive));
    }
    assert!((80..=130).contains(&moves), "{moves} moves for two empty drives");
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
