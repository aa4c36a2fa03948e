//! Faults by name, each in a grid of its own and a short form: what must not happen, and what must go
//! on meanwhile.

use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_env::sim::{SeededRng, World};
use nexusgrid_env::{NodeId, Rng};
use nexusgrid_meta::root::topology::Liveness;
use nexusgrid_meta::root::types::{NodeClass, RootCommand, Sighting, WorkerSetting};

use super::cluster::{Cluster, GROUPS, Knobs, Shape};
use super::run;
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

/// Three nodes besides `kept` without which every group still has a majority.
fn losable(cluster: &Cluster, kept: NodeId) -> Option<[NodeId; 3]> {
    let votes: Vec<Vec<NodeId>> = (0..=GROUPS)
        .filter_map(|group| {
            let (_, leader) = cluster.leader(GroupId(group))?;
            let members = leader.host.status(GroupId(group)).ok()?.members;
            Some(members.iter().filter(|view| view.voter).map(|view| view.node).collect())
        })
        .collect();
    let others: Vec<NodeId> = cluster.nodes().filter(|node| *node != kept).collect();
    for a in &others {
        for b in others.iter().filter(|b| *b > a) {
            for c in others.iter().filter(|c| *c > b) {
                let lost = [*a, *b, *c];
                let stays = |voters: &Vec<NodeId>| {
                    let left = voters.iter().filter(|voter| !lost.contains(voter)).count();
                    left > voters.len() / 2
                };
                if votes.iter().all(stays) {
                    return Some(lost);
                }
            }
        }
    }
    None
}

/// Row 7: m drives lost at once: all is readable. One more: what is lost is listed exactly, the rest is
/// served, nothing is purged.
#[test]
fn m_drives_lost_and_then_one_more() {
    let world = World::new(7);
    let told = world.run(async {
        let mut knobs = knobs(7);
        knobs.grid.care.remap.grace_stable = Duration::from_secs(3600);
        let (cluster, tide) = with_objects(&world, knobs, Shape::default(), 30).await?;
        run::holes_close(&cluster).await?;
        let leaders: Vec<NodeId> =
            (0..=GROUPS).filter_map(|group| Some(cluster.leader(GroupId(group))?.0)).collect();
        let reader = *leaders.first().ok_or("nobody leads")?;
        let lost = losable(&cluster, reader).ok_or("no three nodes can be missed")?;
        for node in &lost[..2] {
            cluster.kill(*node);
        }
        tokio::time::sleep(Duration::from_secs(8)).await;
        tide.check(reader).await?;
        cluster.kill(lost[2]);
        tokio::time::sleep(Duration::from_secs(12)).await;
        let member = cluster.member(reader).ok_or("the reader is gone")?;
        let away = |drive: &DriveId| lost.iter().any(|node| node.0 == drive.0);
        let unreadable = tide.unreadable(reader).await?;
        let report = member.grid.fsck(false).await.map_err(|error| error.to_string())?;
        // Each fault names a block whose placement group has more slots away than it can lose.
        let map = member.grid.topology();
        for fault in &report.faults {
            let pg = map.pgs.get(&fault.pg).ok_or("a fault of no placement group")?;
            let gone = pg.slots.iter().filter(|drive| away(drive)).count();
            if gone <= usize::from(pg.class.m()) {
                return Err(format!("{fault:?} is no loss"));
            }
        }
        if report.missing > 0 {
            return Err(format!("what is only away counts as missing: {report:?}"));
        }
        // Brought back, all is there: nothing was purged meanwhile.
        for node in &lost {
            cluster.start(*node).await?;
        }
        cluster.until_settled().await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        tide.check(reader)
            .await
            .map_err(|error| format!("{} were unreadable meanwhile; {error}", unreadable.len()))
    });
    holds(&world, told);
}

/// Row 11: the minority of a partition acknowledges nothing, and the majority goes on.
#[test]
fn a_minority_acknowledges_nothing() {
    let world = World::new(11);
    let told = world.run(async {
        let mut knobs = knobs(11);
        knobs.grid.care.remap.grace_stable = Duration::from_secs(120);
        let (cluster, tide) = with_objects(&world, knobs, Shape::default(), 20).await?;
        // Rolling: each time another is on the small side.
        for round in 0..3u64 {
            let minor = [NodeId(1 + 2 * round)];
            for inside in minor {
                for outside in cluster.nodes().filter(|node| !minor.contains(node)) {
                    cluster.cut(inside, outside);
                    cluster.cut(outside, inside);
                }
            }
            // Whoever led in the minority knows by then that it does not.
            tokio::time::sleep(Duration::from_secs(6)).await;
            if tide.put(minor[0]).await {
                return Err(format!("{} acknowledges in the minority", minor[0]));
            }
            let major = cluster.nodes().find(|node| !minor.contains(node)).ok_or("nobody")?;
            if !tide.put(major).await {
                return Err(format!("{major} cannot write in the majority"));
            }
            for inside in minor {
                for outside in cluster.nodes().filter(|node| !minor.contains(node)) {
                    cluster.mend(inside, outside);
                    cluster.mend(outside, inside);
                }
            }
            tokio::time::sleep(Duration::from_secs(4)).await;
            tide.check(minor[0]).await?;
        }
        Ok(())
    });
    holds(&world, told);
}

/// Row 17: a node that comes and goes every 20 s moves its slots a few times, then it is left alone.
#[test]
fn a_flapping_node_is_left_alone() {
    const MINUTES: u32 = 8;
    let world = World::new(17);
    let told = world.run(async {
        let (cluster, tide) = with_objects(&world, knobs(17), Shape::default(), 10).await?;
        let leaders: Vec<NodeId> =
            (0..=GROUPS).filter_map(|group| Some(cluster.leader(GroupId(group))?.0)).collect();
        let mut idle = cluster.nodes().filter(|node| !leaders.contains(node));
        let flapping = idle.next().ok_or("every node leads")?;
        // Absences in which slots moved off the node.
        let mut losses = 0;
        for _ in 0..MINUTES * 60 / 40 {
            let before = moves(&cluster);
            cluster.kill(flapping);
            tokio::time::sleep(Duration::from_secs(20)).await;
            losses += u32::from(moves(&cluster) > before);
            cluster.start(flapping).await?;
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        if !(1..=3).contains(&losses) {
            return Err(format!("slots moved in {losses} of its absences"));
        }
        run::moves_end(&cluster).await?;
        tide.check(flapping).await
    });
    holds(&world, told);
}

/// Row 18: every evening four of five machines are switched off, and in the morning they are back: no
/// slot moves, every read is served. `NEXUSGRID_SIM_EVENINGS` says how many (12; a year is 365).
#[test]
fn evenings_move_nothing() {
    let evenings = super::number("NEXUSGRID_SIM_EVENINGS", 12);
    let world = World::new(18);
    let told = world.run(async {
        let mut knobs = knobs(18);
        // A day takes 16 s: what counts hours in the product counts moments here.
        knobs.grid.care.remap.grace_stable = Duration::from_secs(4);
        knobs.grid.care.remap.grace_sleepy = Duration::from_secs(4);
        knobs.grid.care.remap.grace_asleep = Duration::from_secs(48);
        knobs.grid.placement.hosts_expected = 4;
        // Three servers, and a room of twelve workstations that share switch and fuse.
        let shape = Shape {
            nodes: 15,
            host: |node| node.min(4),
            class: |node| if node < 4 { NodeClass::Stable } else { NodeClass::Sleepy },
        };
        let (cluster, tide) = with_objects(&world, knobs, shape, 12).await?;
        // What evens out is another matter.
        let setting = WorkerSetting { paused: true, bytes_per_second: None };
        cluster.root(&RootCommand::SetWorker { name: "balance".to_owned(), setting }).await?;
        run::holes_close(&cluster).await?;
        let (before, rng) = (moves(&cluster), SeededRng::for_part(18, "evenings"));
        let room: Vec<NodeId> = cluster.nodes().filter(|node| node.0 >= 4).collect();
        for evening in 0..evenings {
            for node in &room {
                let sightings = vec![(*node, Sighting::Asleep)];
                let reporter = NodeId(1);
                cluster.root(&RootCommand::Report { reporter, sightings, now_ms: 1 }).await?;
                cluster.suspend(*node);
            }
            tokio::time::sleep(Duration::from_secs(8)).await;
            let reader = NodeId(rng.between(1, 3));
            tide.check(reader).await.map_err(|error| format!("night {evening}: {error}"))?;
            for node in &room {
                cluster.resume(*node);
            }
            tokio::time::sleep(Duration::from_secs(8)).await;
            if evening % 4 == 0 {
                tide.put(*room.first().ok_or("nobody")?).await;
                tide.check(NodeId(4 + rng.below(12))).await?;
            }
            let (_, leader) = cluster.leader(GroupId(0)).ok_or("no leader")?;
            let map = leader.grid.topology();
            let asleep = map.nodes.values().filter(|node| node.liveness != Liveness::Up).count();
            if asleep > 0 {
                return Err(format!("{asleep} nodes are not up in the morning {evening}"));
            }
        }
        match moves(&cluster) - before {
            0 => Ok(()),
            moved => Err(format!("{moved} slots moved in {evenings} evenings")),
        }
    });
    holds(&world, told);
}

/// Row 20: a grid grows, and no byte moves for that.
#[test]
fn growth_moves_nothing() {
    let world = World::new(20);
    let told = world.run(async {
        let mut knobs = knobs(20);
        knobs.grid.placement.hosts_expected = 3;
        let shape = Shape { nodes: 3, ..Shape::default() };
        let (cluster, tide) = with_objects(&world, knobs, shape, 8).await?;
        let setting = |name: &str| RootCommand::SetWorker {
            name: name.to_owned(),
            setting: WorkerSetting { paused: true, bytes_per_second: None },
        };
        // What evens out and what follows the code of today is another matter.
        cluster.root(&setting("balance")).await?;
        for count in [4, 8] {
            cluster.grow_to(count).await?;
            tokio::time::sleep(Duration::from_secs(10)).await;
            let mut written = 0;
            for node in cluster.nodes() {
                written += u32::from(tide.put(node).await);
            }
            if u64::from(written) < count {
                return Err(format!("{written} of {count} nodes can write"));
            }
            tide.check(NodeId(count)).await?;
        }
        match moves(&cluster) {
            0 => Ok(()),
            moved => Err(format!("{moved} slots moved")),
        }
    });
    holds(&world, told);
}

/// Row 21: a voter whose disk was wiped comes back under a new id, while leaders die; its old id never
/// votes again.
#[test]
fn a_wiped_voter_comes_back_as_another() {
    let world = World::new(21);
    let told = world.run(async {
        let (cluster, tide) = with_objects(&world, knobs(21), Shape::default(), 10).await?;
        let (leader, member) = cluster.leader(GroupId(1)).ok_or("group 1 has no leader")?;
        let voters = member.host.voters(GroupId(1)).map_err(|error| error.to_string())?;
        let status = member.host.status(GroupId(1)).map_err(|error| error.to_string())?;
        let wiped = status.members.iter().find(|view| view.voter && view.node != leader);
        let (wiped, old) = wiped.map(|view| (view.node, view.id)).ok_or("no other voter")?;
        drop(member);
        cluster.kill(wiped);
        let disk = world.disk(wiped).mount();
        disk.remove_dir_all(std::path::Path::new("/meta")).map_err(|error| error.to_string())?;
        cluster.start(wiped).await?;
        // The change of membership that follows loses its leader.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        cluster.kill(leader);
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.start(leader).await?;
        cluster.until_settled().await?;
        cluster
            .until("the old id to be gone", || {
                let leader = cluster.leader(GroupId(1));
                leader.and_then(|(_, member)| member.host.status(GroupId(1)).ok()).is_some_and(
                    |status| {
                        status.members.iter().all(|view| view.id != old)
                            && status.members.iter().filter(|view| view.voter).count()
                                == voters.len()
                    },
                )
            })
            .await?;
        tide.check(wiped).await
    });
    holds(&world, told);
}
