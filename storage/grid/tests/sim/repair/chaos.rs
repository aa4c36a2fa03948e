//! Random comings and goings, by seed. `NEXUSGRID_REPAIR_SEEDS` sets how many.

use std::collections::BTreeSet;
use std::time::Duration;

use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::{DeleteRequest, Precondition};
use nexusgrid_meta::root::types::{NodeState, RootCommand};

use super::super::cluster::{content, put};
use super::{BUCKET, SIZES, Scene};

/// Nodes die, return, leave and stay while clients write, overwrite and delete.
async fn chaos(world: &World, steps: u64) {
    let nodes = 9;
    let scene = Scene::start(world, nodes).await;
    let rng = world.rng();
    let below = |bound: u64| nexusgrid_env::Rng::below(&*rng, bound);
    scene.write_some(1, "before", 2).await;
    let mut down: BTreeSet<u64> = BTreeSet::new();
    let mut leaving: Option<u64> = None;
    for step in 0..steps {
        let up: Vec<u64> = (1..=nodes).filter(|node| !down.contains(node)).collect();
        let node = up[below(up.len() as u64) as usize];
        match below(10) {
            0 | 1 if down.len() < 2 => {
                if below(2) == 0 {
                    scene.cluster.kill(node)
                } else {
                    scene.cluster.crash(node)
                }
                down.insert(node);
            }
            2 | 3 => {
                if let Some(node) = down.pop_first() {
                    scene.cluster.start_node(NodeId(node)).await;
                }
            }
            4 => {
                let (node, state) = match leaving.take() {
                    Some(node) => (node, NodeState::Active),
                    None => (node, NodeState::Leaving),
                };
                leaving = (state == NodeState::Leaving).then_some(node);
                let now_ms = 1;
                scene.cluster.root(&RootCommand::SetNodeState {
                    node: NodeId(node),
                    state,
                    now_ms,
                });
            }
            _ => {}
        }
        for turn in 0..4 {
            let up: Vec<u64> = (1..=nodes).filter(|node| !down.contains(node)).collect();
            let grid = scene.cluster.grid(up[below(up.len() as u64) as usize]);
            let key = format!("chaos/{}", below(20));
            // What failed may have happened all the same.
            scene.truth.lock().remove(&key);
            if below(4) == 0 {
                let precondition = Precondition::default();
                let bucket = BUCKET.to_owned();
                let request = DeleteRequest { bucket, key: key.clone(), precondition };
                if grid.delete(request).await.is_ok() {
                    scene.truth.lock().insert(key, None);
                }
            } else {
                let size = SIZES[below(4) as usize];
                let bytes = content(step * 10 + turn, size);
                if put(&grid, BUCKET, &key, &bytes).await.is_ok() {
                    scene.truth.lock().insert(key, Some(bytes));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(below(20_000))).await;
    }
    for node in std::mem::take(&mut down) {
        scene.cluster.start_node(NodeId(node)).await;
    }
    let gone: Vec<u64> = leaving.into_iter().collect();
    scene.until_clean_without(&gone).await;
    scene.check(1).await;
    scene.assert_complete().await;
    // Past the horizon and the trash's worth of deletes: the same.
    tokio::time::sleep(Duration::from_secs(900)).await;
    scene.check(2).await;
    scene.assert_complete().await;
    let report = scene.cluster.grid(1).fsck(true).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn comings_and_goings_lose_nothing_and_bring_nothing_back() {
    let seeds = std::env::var("NEXUSGRID_REPAIR_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(3) {
        let world = World::new(1000 + seed);
        eprintln!("seed {}", 1000 + seed);
        world.run(chaos(&world, 25));
    }
}
