//! Short stories, each about one rule of the block protocol: told with the rule kept they end well,
//! without it something is lost, or comes back.
//!
//! What the seeds meet by chance, rarely, these meet each time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use nexusgrid_codec::{DriveId, Epoch, GroupId};
use nexusgrid_env::sim::{SeededRng, World};
use nexusgrid_env::{NodeId, Rule};
use nexusgrid_grid::{DeleteRequest, Precondition};
use nexusgrid_meta::root::topology::PgState;
use nexusgrid_meta::root::types::{DriveState, RootCommand, WorkerSetting};

use super::clients;
use super::cluster::{Cluster, GROUPS, Knobs, Member};
use super::run;
use super::tide::Tide;

/// Objects of a story.
const OBJECTS: usize = 16;

/// A story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// A gateway that hears nothing of a move goes on writing to the drives it knows (R1).
    StaleWriter,
    /// A drive is away while what it holds is deleted (R5).
    Sleeper,
    /// A drive is away while its slots move and what it held is deleted; then it gets a slot back (R7).
    Rejoin,
    /// An object is deleted while someone reads it slowly (L4).
    SlowReader,
    /// A voter comes back with an empty disk (L9).
    Wiped,
}

impl Script {
    /// The one that shows what a rule is for.
    pub fn of(rule: Rule) -> Option<Script> {
        match rule {
            Rule::DriveFence => Some(Script::StaleWriter),
            Rule::TombstoneHold => Some(Script::Sleeper),
            Rule::RejoinReconcile => Some(Script::Rejoin),
            Rule::ReaderHorizon => Some(Script::SlowReader),
            Rule::NewIncarnation => Some(Script::Wiped),
            Rule::ErrorsKeep | Rule::NewIdPerTry => None,
        }
    }
}

/// Tells a story in a world that keeps its rules, or lacks one; gives what went wrong.
pub fn tell(world: &World, script: Script) -> Result<(), String> {
    world.run(async {
        let rng = SeededRng::for_part(world.seed(), "knobs");
        let mut knobs = Knobs::draw(&rng);
        knobs.haste();
        knobs.host.replace_after = Duration::from_secs(1800);
        knobs.grid.session.lease = match script {
            Script::StaleWriter => Duration::from_secs(120),
            _ => Duration::from_secs(10),
        };
        if script == Script::Sleeper {
            knobs.grid.care.remap.grace_stable = Duration::from_secs(900);
        }
        // Chance finds must not hide what the story is about.
        knobs.grid.care.orphan_age = Duration::from_secs(3600);
        let cluster = Cluster::found(world, knobs, None).await?;
        let tide = Tide::new(&cluster);
        tide.make_buckets().await?;
        match script {
            Script::StaleWriter => stale_writer(&cluster, &tide).await,
            Script::Wiped => wiped(&cluster).await,
            Script::Sleeper => sleeper(&cluster, &tide).await,
            Script::Rejoin => rejoin(&cluster, &tide).await,
            Script::SlowReader => slow_reader(&cluster).await,
        }
    })?;
    match world.broken().into_iter().next() {
        None => Ok(()),
        Some((node, invariant, detail)) => Err(format!("{invariant} on {node}: {detail}")),
    }
}

fn root(cluster: &Cluster) -> Result<(NodeId, Arc<Member>), String> {
    cluster.leader(GroupId(0)).ok_or_else(|| "the root group has no leader".to_owned())
}

/// A node that leads nothing, so that its absence moves no leadership.
fn follower(cluster: &Cluster) -> Result<NodeId, String> {
    let leaders: Vec<NodeId> =
        (0..=GROUPS).filter_map(|group| Some(cluster.leader(GroupId(group))?.0)).collect();
    let mut rest = cluster.nodes().filter(|node| !leaders.contains(node));
    rest.next().ok_or_else(|| "every node leads something".to_owned())
}

async fn set_drive(cluster: &Cluster, node: NodeId, state: DriveState) -> Result<(), String> {
    let command = RootCommand::SetDriveState { drive: DriveId(node.0), state };
    cluster.root(&command).await.map(drop)
}

/// Slots of a node's drive, by the root leader's map.
fn slots_of(cluster: &Cluster, node: NodeId) -> usize {
    let Ok((_, leader)) = root(cluster) else { return usize::MAX };
    let map = leader.grid.topology();
    map.pgs.values().filter(|pg| pg.slots.contains(&DriveId(node.0))).count()
}

async fn fill_up(tide: &Tide, nodes: impl Iterator<Item = NodeId> + Clone) -> Result<(), String> {
    let mut at = nodes.cycle();
    for _ in 0..10 * OBJECTS {
        if tide.count() >= OBJECTS {
            return Ok(());
        }
        tide.put(at.next().ok_or("no node")?).await;
    }
    Err("objects cannot be written".to_owned())
}

async fn delete_all(tide: &Tide, node: NodeId, rng: &SeededRng) -> Result<(), String> {
    for _ in 0..10 * OBJECTS {
        if tide.count() == 0 {
            return Ok(());
        }
        tide.delete(node, rng).await;
    }
    Err("objects cannot be deleted".to_owned())
}

async fn stale_writer(cluster: &Arc<Cluster>, tide: &Arc<Tide>) -> Result<(), String> {
    let writer = follower(cluster)?;
    let (leader, _) = root(cluster)?;
    let mut others = cluster.nodes().filter(|node| *node != writer && *node != leader);
    let drained = others.next().ok_or("no drive to drain")?;
    // Its sessions are open before it is cut off.
    fill_up(tide, std::iter::once(writer)).await?;
    cluster.links.lock().muffled.insert(writer);
    set_drive(cluster, drained, DriveState::Draining).await?;
    let moved = || {
        let Ok((_, leader)) = root(cluster) else { return 0 };
        let map = leader.grid.topology();
        let is_moved = |state: &PgState| matches!(state, PgState::Active);
        map.pgs.values().filter(|pg| pg.epoch > Epoch(1) && is_moved(&pg.state)).count()
    };
    cluster.until("some placement groups to have moved", || moved() >= 6).await?;
    let puts: Vec<_> = (0..2 * OBJECTS)
        .map(|_| {
            let tide = Arc::clone(tide);
            tokio::spawn(async move { tide.put(writer).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    set_drive(cluster, drained, DriveState::Active).await?;
    cluster.links.lock().muffled.clear();
    for put in puts {
        put.await.map_err(|error| error.to_string())?;
    }
    run::moves_end(cluster).await?;
    run::shards_are_there(cluster, None).await?;
    tide.check(writer).await
}

async fn sleeper(cluster: &Arc<Cluster>, tide: &Arc<Tide>) -> Result<(), String> {
    let rng = SeededRng::for_part(cluster.world.seed(), "story");
    fill_up(tide, cluster.nodes()).await?;
    let (away, writer) = (follower(cluster)?, root(cluster)?.0);
    cluster.kill(away);
    delete_all(tide, writer, &rng).await?;
    // Longer than the horizon, and than sessions last.
    tokio::time::sleep(Duration::from_secs(60)).await;
    cluster.start(away).await?;
    run::nothing_returned(cluster).await?;
    run::garbage_goes(cluster).await?;
    run::nothing_returned(cluster).await
}

async fn rejoin(cluster: &Arc<Cluster>, tide: &Arc<Tide>) -> Result<(), String> {
    let rng = SeededRng::for_part(cluster.world.seed(), "story");
    // Else what was left behind is cleared away before it can come back.
    for name in ["leftovers", "balance"] {
        let setting = WorkerSetting { paused: true, bytes_per_second: None };
        cluster.root(&RootCommand::SetWorker { name: name.to_owned(), setting }).await?;
    }
    fill_up(tide, cluster.nodes()).await?;
    let (away, writer) = (follower(cluster)?, root(cluster)?.0);
    cluster.kill(away);
    cluster.until("all slots to have moved", || slots_of(cluster, away) == 0).await?;
    run::moves_end(cluster).await?;
    delete_all(tide, writer, &rng).await?;
    tokio::time::sleep(Duration::from_secs(40)).await;
    cluster.start(away).await?;
    let mut others = cluster.nodes().filter(|node| *node != away && *node != writer);
    let drained = others.next().ok_or("no drive to drain")?;
    set_drive(cluster, drained, DriveState::Draining).await?;
    cluster.until("slots to come back", || slots_of(cluster, drained) == 0).await?;
    run::moves_end(cluster).await?;
    run::nothing_returned(cluster).await
}

async fn slow_reader(cluster: &Arc<Cluster>) -> Result<(), String> {
    const BYTES: usize = 1 << 20;
    let (_, member) = root(cluster)?;
    let bytes = clients::content_of(7, BYTES);
    clients::put_bytes(member.grid.clone(), "ebb", "long", &bytes, 7)
        .await
        .map_err(|error| error.to_string())?;
    let mut got = member.grid.get("ebb", "long", None).await.map_err(|error| error.to_string())?;
    let mut read = Vec::new();
    if let Some(chunk) = got.body.next().await {
        read.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
    }
    let request = DeleteRequest {
        bucket: "ebb".to_owned(),
        key: "long".to_owned(),
        precondition: Precondition::default(),
    };
    member.grid.delete(request).await.map_err(|error| error.to_string())?;
    // Shorter than the horizon.
    tokio::time::sleep(Duration::from_secs(10)).await;
    while let Some(chunk) = got.body.next().await {
        let chunk = chunk.map_err(|error| format!("a reader lost its object: {error}"))?;
        read.extend_from_slice(&chunk);
    }
    if read == bytes { Ok(()) } else { Err(format!("a reader got {} wrong bytes", read.len())) }
}

async fn wiped(cluster: &Arc<Cluster>) -> Result<(), String> {
    let (leader, member) = cluster.leader(GroupId(1)).ok_or("group 1 has no leader")?;
    let members = member.host.status(GroupId(1)).map_err(|error| error.to_string())?.members;
    let mut voters = members.iter().filter(|view| view.voter && view.node != leader);
    let wiped = voters.next().ok_or("no other voter")?.node;
    cluster.kill(wiped);
    let disk = cluster.world.disk(wiped).mount();
    disk.remove_dir_all(Path::new("/meta")).map_err(|error| error.to_string())?;
    cluster.start(wiped).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.until_settled().await
}
