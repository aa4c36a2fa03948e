//! Faults by name, each in a grid of its own and a short form: what must not happen, and what must go
//! on meanwhile.

mod absence;
mod clocks;
mod links;
mod losses;
mod members;

use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::{SeededRng, World};
use nexusgrid_meta::root::types::{RootCommand, WorkerSetting};

use super::cluster::{Cluster, GROUPS, Shape};
use super::knobs::Knobs;
use super::tide::Tide;

fn knobs(seed: u64) -> Knobs {
    let mut knobs = Knobs::draw(&SeededRng::for_part(seed, "knobs"));
    knobs.haste();
    knobs.host.replace_after = Duration::from_secs(1800);
    knobs
}

async fn with_objects(
    world: &World,
    knobs: Knobs,
    shape: Shape,
    objects: usize,
) -> Result<(Arc<Cluster>, Arc<Tide>), String> {
    let cluster = Cluster::found_as(world, knobs, None, shape).await?;
    let tide = Tide::new(&cluster);
    tide.make_buckets().await?;
    let mut nodes = cluster.nodes().collect::<Vec<_>>().into_iter().cycle();
    while tide.count() < objects {
        if tide.refused() > 100 {
            return Err("objects cannot be written".to_owned());
        }
        tide.put(nodes.next().ok_or("no node")?).await;
    }
    Ok((cluster, tide))
}

fn holds(world: &World, told: Result<(), String>) {
    told.unwrap_or_else(|error| panic!("seed {}: {error}", world.seed()));
    let broken = world.broken();
    assert!(broken.is_empty(), "seed {}: {broken:?}", world.seed());
}

/// Sum of all epochs: it grows with every move.
fn moves(cluster: &Cluster) -> u64 {
    let Some((_, leader)) = cluster.leader(GroupId(0)) else { return 0 };
    leader.grid.topology().pgs.values().map(|pg| pg.epoch.0 - 1).sum()
}

/// Nodes that lead a group.
fn leaders(cluster: &Cluster) -> Vec<NodeId> {
    (0..=GROUPS).filter_map(|group| Some(cluster.leader(GroupId(group))?.0)).collect()
}

async fn pause(cluster: &Cluster, worker: &str) -> Result<(), String> {
    let setting = WorkerSetting { paused: true, bytes_per_second: None };
    cluster.root(&RootCommand::SetWorker { name: worker.to_owned(), setting }).await.map(drop)
}
