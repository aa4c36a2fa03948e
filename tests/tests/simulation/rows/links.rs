//! What does not arrive, or arrives much later.

use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::{NetOptions, World};

use super::{holds, knobs, moves, with_objects};
use crate::simulation::clients::{Book, Client};
use crate::simulation::cluster::{Cluster, GROUPS, Shape};
use crate::simulation::run;

/// Commands, queries and shards.
const REQUESTS: std::ops::Range<u16> = 0x0210..0x0309;

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

/// Terms of all groups, as their leaders have them.
fn terms(cluster: &Cluster) -> Vec<u64> {
    let term = |group| {
        let (_, leader) = cluster.leader(GroupId(group))?;
        Some(leader.host.status(GroupId(group)).ok()?.leader.term)
    };
    (0..=GROUPS).map(|group| term(group).unwrap_or(0)).collect()
}

/// Rows 11 and 12: between any two nodes nothing passes, in one direction or in both, while all others
/// reach each. Writes go on, leadership settles, no slot moves.
#[test]
fn any_two_nodes_may_lose_each_other() {
    let world = World::new(12);
    let told = world.run(async {
        let (cluster, tide) = with_objects(&world, knobs(12), Shape::default(), 10).await?;
        let all: Vec<NodeId> = cluster.nodes().collect();
        for a in &all {
            for b in all.iter().filter(|b| *b != a) {
                let before = terms(&cluster);
                cluster.cut(*a, *b);
                // Each pair in both directions, and then in one only.
                if a < b {
                    cluster.cut(*b, *a);
                }
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                let others = all.iter().filter(|node| *node != a && *node != b);
                for node in others.take(2) {
                    if !tide.put(*node).await {
                        return Err(format!("{node} cannot write while {a} and {b} are apart"));
                    }
                }
                let after = terms(&cluster);
                let elections =
                    before.iter().zip(&after).map(|(old, new)| new.saturating_sub(*old));
                if elections.clone().any(|count| count > 2) {
                    return Err(format!("{a} and {b} apart: {:?}", elections.collect::<Vec<_>>()));
                }
                cluster.mend(*a, *b);
                cluster.mend(*b, *a);
            }
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        for node in &all {
            tide.check(*node).await?;
        }
        match moves(&cluster) {
            0 => Ok(()),
            moved => Err(format!("{moved} slots moved")),
        }
    });
    holds(&world, told);
}

/// Row 14: one message in ten comes late, up to many leases and horizons; then, when all that was
/// deleted is forgotten, every command and every shard that was ever sent comes once more.
#[test]
fn messages_that_come_much_later_change_nothing() {
    const LATE_MAX: Duration = Duration::from_secs(240);
    let world = World::new(14);
    let told = world.run(async {
        let cluster = Cluster::found(&world, knobs(14), None).await?;
        world.net().keep_requests(REQUESTS);
        let book = Arc::new(Book::default());
        let first = Client::new(&cluster, &book, "first client");
        first.make_buckets().await?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let clients: Vec<_> = (0..4)
            .map(|number| Client::new(&cluster, &book, &format!("client {number}")))
            .map(|client| tokio::spawn(client.run(stopped.clone())))
            .collect();
        world.net().set_options(NetOptions {
            late: 0.1,
            late_min: Duration::from_secs(1),
            late_max: LATE_MAX,
            duplicate: 0.1,
            ..NetOptions::default()
        });
        tokio::time::sleep(Duration::from_secs(20)).await;
        world.net().set_options(NetOptions::default());
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.send_replace(true);
        for client in clients {
            client.await.map_err(|error| error.to_string())?;
        }
        tokio::time::sleep(LATE_MAX).await;
        let settler = Client::new(&cluster, &book, "settler");
        run::everything_is_there(&settler).await?;
        run::moves_end(&cluster).await?;
        run::garbage_goes(&cluster).await?;
        run::tombstones_go(&cluster).await?;
        if world.net().replay_requests(run::REPLAYED_WITHIN) == 0 {
            return Err("nothing was sent".to_owned());
        }
        tokio::time::sleep(2 * run::REPLAYED_WITHIN).await;
        run::everything_is_there(&settler).await?;
        run::replicas_agree(&cluster).await?;
        run::rows_are_sound(&cluster)?;
        run::shards_are_there(&cluster, None).await?;
        run::nothing_returned(&cluster).await?;
        match book.check().into_iter().next() {
            None => Ok(()),
            Some(wrong) => Err(wrong),
        }
    });
    holds(&world, told);
}
