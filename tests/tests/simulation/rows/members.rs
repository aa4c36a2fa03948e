//! Machines that join, and voters that come back.

use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;

use super::{holds, knobs, moves, pause, with_objects};
use crate::simulation::cluster::Shape;

/// Row 20: a grid grows, and no byte moves for that.
#[test]
fn growth_moves_nothing() {
    let world = World::new(20);
    let told = world.run(async {
        let mut knobs = knobs(20);
        knobs.grid.placement.hosts_expected = 3;
        let shape = Shape { nodes: 3, ..Shape::default() };
        let (cluster, tide) = with_objects(&world, knobs, shape, 8).await?;
        // What evens out and what follows the code of today is another matter.
        pause(&cluster, "balance").await?;
        for count in [4, 8, 30] {
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
