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
use nexusgrid_grid::{CommandId, DeleteRequest, Precondition};
use nexusgrid_meta::namespace::rows;
use nexusgrid_meta::root::topology::{Pg, PgState};
use nexusgrid_meta::root::types::{DriveState, RootCommand, WorkerSetting};
use tokio::task::JoinHandle;

use super::clients;
use super::cluster::{Cluster, GROUPS, Member};
use super::knobs::Knobs;
use super::links::PUTS;
use super::run::{self, REPLAYED_WITHIN};
use super::tide::Tide;

/// Objects of a story.
const OBJECTS: usize = 16;

/// Buckets with one object each, which no other object shares a block with.
const LONELY_BUCKETS: u64 = 24;

/// A story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// A gateway that hears nothing of a move goes on writing to the drives it knows (R1).
    StaleWriter,
    /// A slot moves while only its new node hears of it, and a gateway goes on writing (R2).
    DeafSurvivors,
    /// A gateway's shards reach one drive, which is lost, and the others when its slot has moved (R3).
    TornQuorum,
    /// Objects whose holes were filled are deleted and forgotten; then all that was ever brought to
    /// drives arrives again (R4, R6).
    Forgotten,
    /// Whoever acknowledged a block is lost before it is committed.
    LostQuorum,
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
    /// All of them.
    pub const ALL: [Script; 9] = [
        Script::StaleWriter,
        Script::DeafSurvivors,
        Script::TornQuorum,
        Script::Forgotten,
        Script::LostQuorum,
        Script::Sleeper,
        Script::Rejoin,
        Script::SlowReader,
        Script::Wiped,
    ];

    /// The one that shows what a rule is for.
    pub fn of(rule: Rule) -> Option<Script> {
        match rule {
            Rule::DriveFence => Some(Script::StaleWriter),
            Rule::FenceThenList => Some(Script::DeafSurvivors),
            Rule::OneEpochQuorum => Some(Script::TornQuorum),
            Rule::FillSession | Rule::SessionFloor => Some(Script::Forgotten),
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
            Script::StaleWriter | Script::DeafSurvivors | Script::LostQuorum => {
                Duration::from_secs(120)
            }
            _ => Duration::from_secs(10),
        };
        knobs.grid.shard_deadline = match script {
            Script::TornQuorum => Duration::from_secs(120),
            _ => knobs.grid.shard_deadline,
        };
        knobs.grid.meta.patience = match script {
            Script::LostQuorum => Duration::from_secs(120),
            _ => knobs.grid.meta.patience,
        };
        if matches!(script, Script::Sleeper | Script::Forgotten) {
            knobs.grid.care.remap.grace_stable = Duration::from_secs(900);
        }
        // Chance finds must not hide what the story is about.
        knobs.grid.care.orphan_age = Duration::from_secs(3600);
        knobs.grid.care.inventory_every = Duration::from_secs(3600);
        let cluster = Cluster::found(world, knobs, None).await?;
        world.net().keep_requests(PUTS);
        let tide = Tide::new(&cluster);
        tide.make_buckets().await?;
        match script {
            Script::StaleWriter => stale_writer(&cluster, &tide).await,
            Script::DeafSurvivors => deaf_survivors(&cluster, &tide).await,
            Script::TornQuorum => torn_quorum(&cluster, &tide).await,
            Script::Forgotten => forgotten(&cluster, &tide).await,
            Script::LostQuorum => lost_quorum(&cluster, &tide).await,
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

/// Two nodes that lead nothing, so that their absence moves no leadership.
fn followers(cluster: &Cluster) -> Result<[NodeId; 2], String> {
    let leaders: Vec<NodeId> =
        (0..=GROUPS).filter_map(|group| Some(cluster.leader(GroupId(group))?.0)).collect();
    let mut rest = cluster.nodes().filter(|node| !leaders.contains(node));
    rest.next().zip(rest.next()).map(<[NodeId; 2]>::from).ok_or_else(|| "too many lead".to_owned())
}

fn follower(cluster: &Cluster) -> Result<NodeId, String> {
    followers(cluster).map(|[first, _]| first)
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

/// Placement groups of a kind that are whole under a newer epoch, as a node has it.
fn moved(cluster: &Cluster, node: NodeId, is_of: impl Fn(&Pg) -> bool) -> usize {
    let Some(member) = cluster.member(node) else { return 0 };
    let map = member.grid.topology();
    let is_whole = |pg: &Pg| pg.epoch > Epoch(1) && matches!(pg.state, PgState::Active);
    map.pgs.values().filter(|pg| is_whole(pg) && is_of(pg)).count()
}

/// Writes begun at a node, all at once.
fn write_at_once(tide: &Arc<Tide>, writer: NodeId) -> Vec<JoinHandle<bool>> {
    let put = |_| {
        let tide = Arc::clone(tide);
        tokio::spawn(async move { tide.put(writer).await })
    };
    (0..2 * OBJECTS).map(put).collect()
}

fn lonely(number: u64) -> String {
    format!("lonely{number}")
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
    let moved = || moved(cluster, leader, |_| true);
    cluster.until("some placement groups to have moved", || moved() >= 6).await?;
    let puts = write_at_once(tide, writer);
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

async fn deaf_survivors(cluster: &Arc<Cluster>, tide: &Arc<Tide>) -> Result<(), String> {
    let writer = follower(cluster)?;
    // Who leads cannot help hearing what it decides.
    let (target, member) = root(cluster)?;
    let mut others = cluster.nodes().filter(|node| *node != writer && *node != target);
    let drained = others.next().ok_or("no drive to drain")?;
    fill_up(tide, std::iter::once(writer)).await?;
    let deaf = cluster.nodes().filter(|node| *node != target);
    cluster.links.lock().muffled.extend(deaf);
    let command =
        RootCommand::SetDriveState { drive: DriveId(drained.0), state: DriveState::Draining };
    let told = member.port.propose(GroupId(0), CommandId([77; 16]), command.encode()).await;
    told.map_err(|error| error.to_string())?;
    let moved = || moved(cluster, target, |pg| pg.slots.contains(&DriveId(target.0)));
    cluster.until("a placement group to have moved", || moved() > 0).await?;
    let puts = write_at_once(tide, writer);
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.links.lock().muffled.clear();
    set_drive(cluster, drained, DriveState::Active).await?;
    for put in puts {
        put.await.map_err(|error| error.to_string())?;
    }
    run::moves_end(cluster).await?;
    run::shards_are_there(cluster, None).await?;
    tide.check(writer).await
}

async fn torn_quorum(cluster: &Arc<Cluster>, tide: &Arc<Tide>) -> Result<(), String> {
    let [writer, lost] = followers(cluster)?;
    fill_up(tide, std::iter::once(writer)).await?;
    let late = cluster.nodes().filter(|node| *node != lost && *node != writer);
    cluster.links.lock().held.extend(late.map(|node| (writer, node)));
    let puts = write_at_once(tide, writer);
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.kill(lost);
    cluster.until("all slots to have moved", || slots_of(cluster, lost) == 0).await?;
    run::moves_end(cluster).await?;
    cluster.links.lock().held.clear();
    for put in puts {
        put.await.map_err(|error| error.to_string())?;
    }
    // Who was not waited for any more has come to an end, too.
    tokio::time::sleep(Duration::from_secs(5)).await;
    run::shards_are_there(cluster, None).await?;
    tide.check(writer).await
}

async fn forgotten(cluster: &Arc<Cluster>, tide: &Arc<Tide>) -> Result<(), String> {
    let rng = SeededRng::for_part(cluster.world.seed(), "story");
    // With two away every block of a large object has a hole.
    let (away, writer) = (followers(cluster)?, root(cluster)?.0);
    away.iter().for_each(|node| cluster.kill(*node));
    tokio::time::sleep(Duration::from_secs(4)).await;
    fill_up(tide, std::iter::once(writer)).await?;
    for node in away {
        cluster.start(node).await?;
    }
    run::holes_close(cluster).await?;
    delete_all(tide, writer, &rng).await?;
    run::garbage_goes(cluster).await?;
    run::tombstones_go(cluster).await?;
    if cluster.world.net().replay_requests(REPLAYED_WITHIN) == 0 {
        return Err("nothing was brought to drives".to_owned());
    }
    tokio::time::sleep(2 * REPLAYED_WITHIN).await;
    run::nothing_returned(cluster).await
}

/// Whether any metadata group commits nothing of an older epoch of some placement group.
fn is_fenced(cluster: &Cluster) -> Result<bool, String> {
    for group in (1..=GROUPS).map(GroupId) {
        let (_, leader) = cluster.leader(group).ok_or("a group has no leader")?;
        let rows = leader.host.local_rows(group).map_err(|error| error.to_string())?;
        for pg in leader.grid.topology().pgs.keys() {
            let fence = rows.get(rows::STATE, &rows::fence(*pg));
            if fence.map_err(|error| error.to_string())?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

async fn lost_quorum(cluster: &Arc<Cluster>, tide: &Arc<Tide>) -> Result<(), String> {
    let writer = follower(cluster)?;
    let (leader, member) = root(cluster)?;
    fill_up(tide, std::iter::once(writer)).await?;
    let at = cluster.member(writer).ok_or("the writer is gone")?;
    for number in 0..LONELY_BUCKETS {
        let made = at.grid.create_bucket(&lonely(number), "story").await;
        made.map_err(|error| error.to_string())?;
    }
    // Who hears nothing can fill no slot.
    set_drive(cluster, writer, DriveState::Draining).await?;
    cluster.until("the writer's slots to have moved", || slots_of(cluster, writer) == 0).await?;
    run::moves_end(cluster).await?;
    let kept = [DriveId(writer.0), DriveId(leader.0)];
    let map = member.grid.topology();
    let copies = map.active_pgs(None).filter(|pg| pg.class.is_replicated());
    let mut lost = copies.filter_map(|pg| {
        let mut slots = pg.slots.iter().filter(|drive| !kept.contains(drive));
        Some([NodeId(slots.next()?.0), NodeId(slots.next()?.0)])
    });
    let lost = lost.next().ok_or("nobody can be missed")?;
    let late = cluster.nodes().filter(|node| *node != writer && !lost.contains(node));
    {
        let mut links = cluster.links.lock();
        links.held.extend(late.map(|node| (writer, node)));
        links.muffled.insert(writer);
    }
    let puts: Vec<_> = (0..LONELY_BUCKETS)
        .map(|number| {
            let grid = at.grid.clone();
            let put = async move {
                let bytes = clients::content_of(number, 4 << 10);
                clients::put_bytes(grid, &lonely(number), "alone", &bytes, number).await
            };
            at.env.exec.spawn(put)
        })
        .collect();
    // Until two of three have acknowledged, and the third is not waited for any more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    lost.iter().for_each(|node| cluster.kill(*node));
    // There is no host to spare for the others.
    let holds = |pg: &Pg| lost.iter().any(|node| pg.slots.contains(&DriveId(node.0)));
    cluster
        .until("copies to have moved", || {
            let map = member.grid.topology();
            !map.pgs.values().any(|pg| pg.class.is_replicated() && holds(pg))
        })
        .await?;
    run::moves_end(cluster).await?;
    if !is_fenced(cluster)? {
        return Err("metadata was fenced nowhere".to_owned());
    }
    {
        let mut links = cluster.links.lock();
        links.held.clear();
        links.muffled.clear();
    }
    let mut acknowledged = Vec::new();
    for (number, put) in (0..).zip(puts) {
        if let Ok(Some(Ok(()))) = put.await {
            acknowledged.push(number);
        }
    }
    for number in acknowledged {
        let got = member.grid.get(&lonely(number), "alone", None).await;
        let mut body = got.map_err(|error| format!("object {number}: {error}"))?.body;
        while let Some(chunk) = body.next().await {
            chunk.map_err(|error| format!("object {number}: {error}"))?;
        }
    }
    Ok(())
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
