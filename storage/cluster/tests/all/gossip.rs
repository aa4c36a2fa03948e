//! Gossip of several nodes in the simulated world, under virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use nexusgrid_cluster::{MemberState, Swim, SwimOptions};
use nexusgrid_codec::ClusterId;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::{NetOptions, SimNet, World};
use tokio::time::{Instant, sleep};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const KEY: [u8; 32] = [9; 32];

struct Grid {
    world: World,
    swims: BTreeMap<NodeId, Swim>,
    lives: BTreeMap<NodeId, u64>,
    seeds: Vec<NodeId>,
}

impl Grid {
    fn new(world: &World, nodes: u64) -> Grid {
        let mut grid = Grid {
            world: world.clone(),
            swims: BTreeMap::new(),
            lives: BTreeMap::new(),
            seeds: (1..=3).map(NodeId).collect(),
        };
        (1..=nodes).for_each(|node| grid.start(NodeId(node)));
        grid
    }

    fn start(&mut self, node: NodeId) {
        let env = self.world.start(node);
        let life = self.lives.entry(node).or_default();
        *life += 1;
        let seeds = self.seeds.iter().map(|seed| (*seed, SimNet::address(*seed))).collect();
        let options = SwimOptions::new(node, CLUSTER, SimNet::address(node), *life, &KEY, seeds);
        let swim = Swim::start(&env, options, self.world.net().datagram(node)).unwrap();
        self.swims.insert(node, swim);
    }

    fn kill(&mut self, node: NodeId) {
        self.world.kill(node);
        self.swims.remove(&node);
    }

    /// Whether every running node sees exactly these states of the others.
    fn all_see(&self, alive: &[NodeId], dead: &[NodeId]) -> bool {
        self.swims.iter().all(|(own, swim)| {
            let seen = swim.membership();
            alive
                .iter()
                .filter(|node| *node != own)
                .all(|node| seen.state(*node) == Some(MemberState::Alive))
                && dead.iter().all(|node| seen.state(*node) == Some(MemberState::Dead))
        })
    }

    /// Time until all see it, at most a minute.
    async fn settles(&self, alive: &[NodeId], dead: &[NodeId]) -> Duration {
        let begun = Instant::now();
        while !self.all_see(alive, dead) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "never settled: {:?}",
                self.swims.iter().map(|(own, swim)| (own, swim.membership())).collect::<Vec<_>>()
            );
            sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    }
}

fn nodes(range: std::ops::RangeInclusive<u64>) -> Vec<NodeId> {
    range.map(NodeId).collect()
}

#[test]
fn seven_nodes_find_each_other_and_notice_a_death() {
    for seed in 0..10 {
        let world = World::new(seed);
        world.run(async {
            let mut grid = Grid::new(&world, 7);
            let found = grid.settles(&nodes(1..=7), &[]).await;
            assert!(found < Duration::from_secs(5), "seed {seed}: found in {found:?}");
            sleep(Duration::from_secs(5)).await;
            grid.kill(NodeId(7));
            let noticed = grid.settles(&nodes(1..=6), &[NodeId(7)]).await;
            assert!(noticed < Duration::from_secs(7), "seed {seed}: noticed in {noticed:?}");
            grid.start(NodeId(7));
            let returned = grid.settles(&nodes(1..=7), &[]).await;
            assert!(returned < Duration::from_secs(5), "seed {seed}: returned in {returned:?}");
        });
    }
}

#[test]
fn who_leaves_is_gone_at_once() {
    let world = World::new(11);
    world.run(async {
        let mut grid = Grid::new(&world, 7);
        grid.settles(&nodes(1..=7), &[]).await;
        let leaver = grid.swims.remove(&NodeId(3)).unwrap();
        leaver.leave().await;
        let alive: Vec<_> = nodes(1..=7).into_iter().filter(|node| *node != NodeId(3)).collect();
        let gone = grid.settles(&alive, &[NodeId(3)]).await;
        assert!(gone < Duration::from_secs(2), "{gone:?}");
    });
}

#[test]
fn a_healed_partition_is_noticed() {
    let world = World::new(12);
    world.run(async {
        let grid = Grid::new(&world, 7);
        grid.settles(&nodes(1..=7), &[]).await;
        world.net().partition(&nodes(1..=4), &nodes(5..=7));
        sleep(Duration::from_secs(30)).await;
        for (own, swim) in &grid.swims {
            let (near, far) = if own.0 <= 4 { (1..=4, 5..=7) } else { (5..=7, 1..=4) };
            let seen = swim.membership();
            assert!(
                near.filter(|node| node != &own.0)
                    .all(|node| { seen.state(NodeId(node)) == Some(MemberState::Alive) })
            );
            assert!(
                far.into_iter().all(|node| { seen.state(NodeId(node)) == Some(MemberState::Dead) })
            );
        }
        world.net().heal();
        let healed = grid.settles(&nodes(1..=7), &[]).await;
        assert!(healed < Duration::from_secs(30), "{healed:?}");
    });
}

#[test]
fn loss_of_ten_percent_evicts_nobody() {
    for seed in 20..24 {
        let world = World::new(seed);
        world.run(async {
            world.net().set_options(NetOptions {
                loss: 0.1,
                duplicate: 0.1,
                ..NetOptions::rough()
            });
            let grid = Grid::new(&world, 7);
            grid.settles(&nodes(1..=7), &[]).await;
            for _ in 0..600 {
                sleep(Duration::from_millis(100)).await;
                for (own, swim) in &grid.swims {
                    let seen = swim.membership();
                    let dead: Vec<_> = seen
                        .members
                        .values()
                        .filter(|member| member.state == MemberState::Dead)
                        .collect();
                    assert!(dead.is_empty(), "seed {seed}: {own} holds {dead:?} dead");
                }
            }
        });
    }
}

#[test]
fn forged_packets_of_strangers_change_nothing() {
    let world = World::new(30);
    world.run(async {
        let grid = Grid::new(&world, 3);
        grid.settles(&nodes(1..=3), &[]).await;
        // A stranger with another key, and one of another cluster, that know all addresses.
        for (node, cluster, key) in [
            (NodeId(66), CLUSTER, [1; 32]),
            (NodeId(67), ClusterId([2; 16]), KEY),
            (NodeId(2000), CLUSTER, [1; 32]),
        ] {
            let env = world.start(node);
            let seeds = (1..=3).map(|seed| (NodeId(seed), SimNet::address(NodeId(seed)))).collect();
            let options = SwimOptions::new(node, cluster, SimNet::address(node), 1, &key, seeds);
            let stranger = Swim::start(&env, options, world.net().datagram(node)).unwrap();
            sleep(Duration::from_secs(20)).await;
            assert!(stranger.membership().members.is_empty());
        }
        assert!(grid.all_see(&nodes(1..=3), &[]));
        assert!(grid.swims.values().all(|swim| swim.membership().members.len() == 2));
    });
}

#[test]
fn the_same_seed_gives_the_same_gossip() {
    let run = || {
        let world = World::new(40);
        world.net().set_options(NetOptions::rough());
        world.run(async {
            let mut grid = Grid::new(&world, 5);
            sleep(Duration::from_secs(10)).await;
            grid.kill(NodeId(4));
            sleep(Duration::from_secs(10)).await;
            grid.start(NodeId(4));
            sleep(Duration::from_secs(10)).await;
        });
        world.trace_hash()
    };
    assert_eq!(run(), run());
}

#[test]
fn fifty_nodes_converge_under_loss() {
    let world = World::new(50);
    world.run(async {
        world.net().set_options(NetOptions { loss: 0.05, ..NetOptions::default() });
        let grid = Grid::new(&world, 50);
        let found = grid.settles(&nodes(1..=50), &[]).await;
        assert!(found < Duration::from_secs(15), "{found:?}");
    });
}
