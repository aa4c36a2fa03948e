//! What is lost for good, or looks like it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;

use super::{holds, knobs, leaders, moves, with_objects};
use crate::simulation::cluster::{Cluster, GROUPS, Shape};
use crate::simulation::run;

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
        let leaders = leaders(&cluster);
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

/// Row 5: both copies of the superblocks of two drives rot while their machines are off. The machines
/// serve without them, their slots move to others, and nothing is lost.
#[test]
fn two_drives_that_nobody_can_open_any_more() {
    let world = World::new(5);
    let told = world.run(async {
        let shape = Shape { nodes: 9, ..Shape::default() };
        let (cluster, tide) = with_objects(&world, knobs(5), shape, 30).await?;
        run::holes_close(&cluster).await?;
        let lost = [NodeId(8), NodeId(9)];
        for node in lost {
            cluster.crash(node);
            for byte in [8, 4096 + 8] {
                let flipped = world.disk(node).flip_bit(Path::new("/drive/superblock"), 8 * byte);
                flipped.map_err(|error| error.to_string())?;
            }
        }
        for node in lost {
            cluster.start(node).await?;
            if cluster.member(node).is_some_and(|member| member.drive().is_some()) {
                return Err(format!("the drive of {node} opens"));
            }
        }
        tide.check(lost[0]).await?;
        cluster.until("slots to move", || moves(&cluster) > 0).await?;
        let holds = |pg: &nexusgrid_meta::root::topology::Pg| {
            lost.iter().any(|node| pg.slots.contains(&DriveId(node.0)))
        };
        cluster
            .until("all slots to have moved", || {
                let Some((_, leader)) = cluster.leader(GroupId(0)) else { return false };
                !leader.grid.topology().pgs.values().any(holds)
            })
            .await?;
        run::moves_end(&cluster).await?;
        run::shards_are_there(&cluster, None).await?;
        tide.check(lost[1]).await
    });
    holds(&world, told);
}

/// Under which id a node is in a group, and which ids its leader knows.
fn ids(cluster: &Cluster, node: NodeId, group: GroupId) -> Option<(u64, Vec<u64>)> {
    let (_, leader) = cluster.leader(group)?;
    let own = cluster.member(node)?.host.status(group).ok()?.raft_id;
    let members = leader.host.status(group).ok()?.members;
    Some((own, members.into_iter().map(|view| view.id).collect()))
}

/// Row 5: a replica's rows rot while most voters of its group are away: it stays, and says so. Once they are back it leaves, and returns under a new id.
#[test]
fn a_rotten_replica_that_is_needed_stays() {
    const GROUP: GroupId = GroupId(1);
    let world = World::new(55);
    let told = world.run(async {
        let (cluster, tide) = with_objects(&world, knobs(55), Shape::default(), 10).await?;
        let (leader, member) = cluster.leader(GROUP).ok_or("the group has no leader")?;
        let status = member.host.status(GROUP).map_err(|error| error.to_string())?;
        drop(member);
        let mut voters = status.members.iter().filter(|view| view.voter && view.node != leader);
        let (rotten, old) = voters.next().map(|view| (view.node, view.id)).ok_or("one voter")?;
        let away: Vec<NodeId> = voters.take(3).map(|view| view.node).collect();
        away.iter().for_each(|node| cluster.kill(*node));
        // Every file of the store, so that it does not matter which is in use.
        let disk = world.disk(rotten);
        let rows = PathBuf::from("/meta/groups").join(GROUP.0.to_string());
        let of_store = |(path, len): &(PathBuf, u64)| {
            path.starts_with(&rows) && path.to_string_lossy().contains("/state-") && *len > 0
        };
        let files: Vec<(PathBuf, u64)> = disk.files().into_iter().filter(of_store).collect();
        if files.is_empty() {
            return Err(format!("{rotten} has no rows: {:?}", disk.files()));
        }
        for (path, len) in files {
            disk.flip_bit(&path, len / 2 * 8).map_err(|error| error.to_string())?;
        }
        let found = || {
            let member = cluster.member(rotten);
            member.is_some_and(|member| member.host.rot().keys().any(|kind| kind.name() == "state"))
        };
        cluster.until("the rot to be found", found).await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let member = cluster.member(rotten).ok_or("its node is gone")?;
        let own = member.host.status(GROUP).map(|status| status.raft_id);
        if own.as_ref() != Ok(&old) {
            return Err(format!("it left while its group needed it: {old}, {own:?}"));
        }
        drop(member);
        for node in &away {
            cluster.start(*node).await?;
        }
        let is_another = || {
            let now = ids(&cluster, rotten, GROUP);
            now.is_some_and(|(own, members)| own != old && !members.contains(&old))
        };
        cluster.until("the replica to return as another", is_another).await?;
        cluster.until_settled().await?;
        run::replicas_agree(&cluster).await?;
        tide.check(rotten).await
    });
    holds(&world, told);
}
