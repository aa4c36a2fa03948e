//! Machines that are away for a while.

use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_env::sim::{SeededRng, World};
use nexusgrid_env::{NodeId, Rng};
use nexusgrid_meta::root::topology::Liveness;
use nexusgrid_meta::root::types::{NodeClass, RootCommand, Sighting};

use super::{holds, knobs, leaders, moves, pause, with_objects};
use crate::simulation::clients::{Book, Client};
use crate::simulation::cluster::{Cluster, GROUPS, Shape};
use crate::simulation::{number, run};

/// Row 17: a node that comes and goes every 20 s moves its slots a few times, then it is left alone.
#[test]
fn a_flapping_node_is_left_alone() {
    const MINUTES: u32 = 8;
    let world = World::new(17);
    let told = world.run(async {
        let (cluster, tide) = with_objects(&world, knobs(17), Shape::default(), 10).await?;
        let leaders = leaders(&cluster);
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
    let evenings = number("NEXUSGRID_SIM_EVENINGS", 12);
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
        pause(&cluster, "balance").await?;
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

/// Row 16: leaders stand still for longer than leases last, each in turn; then nearly half of all machines at
/// once, then most. Who wakes tells nothing old, and acknowledges nothing on a lease that ran out.
#[test]
fn who_stood_still_tells_nothing_old() {
    const STILL: Duration = Duration::from_secs(15);
    let world = World::new(16);
    let told = world.run(async {
        let cluster = Cluster::found(&world, knobs(16), None).await?;
        let book = Arc::new(Book::default());
        Client::new(&cluster, &book, "first client").make_buckets().await?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let clients: Vec<_> = (0..4)
            .map(|number| Client::new(&cluster, &book, &format!("client {number}")))
            .map(|client| tokio::spawn(client.run(stopped.clone())))
            .collect();
        let mut still: Vec<Vec<NodeId>> = Vec::new();
        for group in 0..=GROUPS {
            let (leader, _) = cluster.leader(GroupId(group)).ok_or("a group has no leader")?;
            still.push(vec![leader]);
        }
        still.push(cluster.nodes().take(3).collect());
        still.push(cluster.nodes().skip(2).take(4).collect());
        for nodes in still {
            nodes.iter().for_each(|node| cluster.suspend(*node));
            tokio::time::sleep(STILL).await;
            nodes.iter().for_each(|node| cluster.resume(*node));
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        stop.send_replace(true);
        for client in clients {
            client.await.map_err(|error| error.to_string())?;
        }
        cluster.until_settled().await?;
        run::moves_end(&cluster).await?;
        run::everything_is_there(&Client::new(&cluster, &book, "settler")).await?;
        run::replicas_agree(&cluster).await?;
        run::rows_are_sound(&cluster)?;
        run::shards_are_there(&cluster, None).await?;
        match book.check().into_iter().next() {
            None => Ok(()),
            Some(wrong) => Err(wrong),
        }
    });
    holds(&world, told);
}
