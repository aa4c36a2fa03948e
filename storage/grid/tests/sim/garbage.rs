//! What was deleted goes, everywhere, and nothing else does.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::*;
use nexusgrid_meta::namespace::types::{NamespaceAnswer, NamespaceQuery, decode_query_reply};

use super::cluster::{self, Cluster, GROUPS, content, get, put, put_request, seal, until};

const BUCKET: &str = "garbage";
const HORIZON: Duration = Duration::from_secs(600);

fn options() -> GridOptions {
    let mut options = cluster::options(7);
    options.care.sweep_every = Duration::from_secs(300);
    options.care.orphan_age = Duration::from_secs(3600);
    options
}

/// Shards and trashed shards on all drives together.
async fn shards(cluster: &Cluster) -> (u64, u64) {
    let members: Vec<_> = cluster.members.lock().values().cloned().collect();
    let mut sum = (0, 0);
    for member in members {
        let usage = member.drive.usage().await.unwrap();
        sum = (sum.0 + usage.shards, sum.1 + usage.trash_shards);
    }
    sum
}

async fn tombstones(cluster: &Cluster) -> u64 {
    let members: Vec<_> = cluster.members.lock().values().cloned().collect();
    let mut sum = 0;
    for member in members {
        sum += member.drive.usage().await.unwrap().tombstones;
    }
    sum
}

fn ask(cluster: &Cluster, query: &NamespaceQuery) -> Vec<NamespaceAnswer> {
    let one = |group| {
        let reply = cluster.meta.ask(GroupId(group), &query.encode()).unwrap();
        decode_query_reply(&reply).unwrap().unwrap()
    };
    (1..=GROUPS).map(one).collect()
}

fn delete(key: &str) -> DeleteRequest {
    DeleteRequest {
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        precondition: Precondition::default(),
    }
}

/// Dead blocks that some drive has not acknowledged.
fn dead(cluster: &Cluster) -> usize {
    let count = |answer| match answer {
        NamespaceAnswer::Outbox { blocks, .. } => blocks.len(),
        other => panic!("{other:?}"),
    };
    let query = NamespaceQuery::Outbox { after: None, limit: 1000 };
    ask(cluster, &query).into_iter().map(count).sum()
}

async fn assert_clean(cluster: &Cluster) -> FsckReport {
    let report = cluster.grid(5).fsck(false).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    let wrong = (report.misplaced, report.orphans, report.unlisted.len());
    assert_eq!(wrong, (0, 0, 0), "{report:?}");
    report
}

async fn until_shards(cluster: &Cluster, wanted: u64) {
    for _ in 0..1200 {
        if shards(cluster).await.0 == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{:?} shards, not {wanted}", shards(cluster).await);
}

#[test]
fn deleted_and_overwritten_bytes_leave_every_drive_after_the_horizon() {
    let world = World::new(40);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        let grid = cluster.grid(2);
        grid.create_bucket(BUCKET, "me").await.unwrap();
        let kept = content(1, 900_000);
        put(&grid, BUCKET, "kept", &kept).await.unwrap();
        until_shards(&cluster, 6).await;
        for (number, size) in [2_300_000, 900_000, 50_000, 1_000].into_iter().enumerate() {
            put(&grid, BUCKET, &format!("gone/{number}"), &content(7, size)).await.unwrap();
        }
        put(&grid, BUCKET, "over", &content(2, 700_000)).await.unwrap();
        let newer = content(3, 800_000);
        put(&grid, BUCKET, "over", &newer).await.unwrap();
        // 3 blocks of 2.3 MB, 1 of 900 kB, 3 copies of a pack, 2 of "over", "kept".
        let before = 3 * 6 + 6 + 3 + 2 * 6 + 6;
        until_shards(&cluster, before).await;
        for number in 0..4 {
            grid.delete(delete(&format!("gone/{number}"))).await.unwrap();
        }
        tokio::time::sleep(HORIZON - Duration::from_secs(30)).await;
        assert_eq!(shards(&cluster).await.0, before, "freed before the reader horizon");
        until_shards(&cluster, 12).await;
        until(Duration::from_secs(60), || dead(&cluster) == 0).await;
        assert!(get(&cluster.grid(5), BUCKET, "kept").await.unwrap() == kept);
        assert!(get(&cluster.grid(6), BUCKET, "over").await.unwrap() == newer);
        // Tombstones stay until their writer's session is closed; then the floor replaces them.
        assert!(tombstones(&cluster).await > 0);
        cluster.kill(2);
        cluster.start_node(NodeId(2)).await;
        for _ in 0..1200 {
            if tombstones(&cluster).await == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(tombstones(&cluster).await, 0);
        assert!(get(&cluster.grid(2), BUCKET, "kept").await.unwrap() == kept);
        assert_eq!(shards(&cluster).await, (12, 0));
        let report = assert_clean(&cluster).await;
        assert_eq!((report.blocks, report.shards, report.held), (2, 12, 12));
    });
}

#[test]
fn what_clocks_that_are_ahead_or_behind_released_goes_after_the_horizon_too() {
    let world = World::new(59);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        let day = 24 * 3600 * 1000;
        world.set_wall_skew(NodeId(2), day);
        world.set_wall_skew(NodeId(3), -day);
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        for number in 0..3 {
            let bytes = content(number, 900_000);
            put(&cluster.grid(2), BUCKET, &format!("k{number}"), &bytes).await.unwrap();
        }
        // More than a reader fetches ahead.
        let slow = content(3, 12_000_000);
        put(&cluster.grid(2), BUCKET, "k3", &slow).await.unwrap();
        let before = (3 + 12) * 6;
        until_shards(&cluster, before).await;
        // A reader whose clock is ahead, in the middle of an object that goes.
        let mut reading = cluster.grid(2).get(BUCKET, "k3", None).await.unwrap().body;
        let mut got = reading.next().await.unwrap().unwrap().to_vec();
        for number in 0..4 {
            let grid = cluster.grid(2 + number % 2);
            grid.delete(delete(&format!("k{number}"))).await.unwrap();
        }
        tokio::time::sleep(HORIZON - Duration::from_secs(30)).await;
        assert_eq!(shards(&cluster).await.0, before, "freed before the reader horizon");
        tokio::time::sleep(HORIZON).await;
        assert_eq!(shards(&cluster).await.0, before, "freed under a pinned read");
        while let Some(chunk) = reading.next().await {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == slow);
        drop(reading);
        let begin = tokio::time::Instant::now();
        until_shards(&cluster, 0).await;
        assert!(begin.elapsed() < HORIZON, "{:?}", begin.elapsed());
        // Writers with such clocks keep their sessions.
        put(&cluster.grid(3), BUCKET, "after", &content(9, 900_000)).await.unwrap();
        tokio::time::sleep(HORIZON).await;
        assert_clean(&cluster).await;
    });
}

#[test]
fn a_node_that_slept_through_a_delete_brings_nothing_back() {
    let world = World::new(41);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        for number in 0..8 {
            put(&cluster.grid(2), BUCKET, &format!("k{number}"), &content(number, 900_000))
                .await
                .unwrap();
        }
        until_shards(&cluster, 48).await;
        cluster.kill(7);
        let others = shards(&cluster).await.0;
        assert!(others < 48, "no shard on the node that goes away");
        for number in 0..8 {
            let grid = cluster.grid(3);
            grid.delete(delete(&format!("k{number}"))).await.unwrap();
        }
        until_shards(&cluster, 0).await;
        assert!(dead(&cluster) > 0, "a block was forgotten although a mapped drive may hold it");
        cluster.start_node(NodeId(7)).await;
        until_shards(&cluster, 0).await;
        until(Duration::from_secs(60), || dead(&cluster) == 0).await;
        let page = ListRequest {
            bucket: BUCKET.to_owned(),
            prefix: String::new(),
            delimiter: None,
            after: None,
            max: 10,
        };
        assert!(cluster.grid(7).list(page).await.unwrap().objects.is_empty());
        assert_clean(&cluster).await;
    });
}

#[test]
fn a_read_that_outlasts_the_horizon_is_pinned_and_ends_well() {
    let world = World::new(42);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        let bytes = content(1, 12_000_000);
        put(&cluster.grid(2), BUCKET, "slow", &bytes).await.unwrap();
        let mut reading = cluster.grid(4).get(BUCKET, "slow", None).await.unwrap().body;
        let mut got = reading.next().await.unwrap().unwrap().to_vec();
        cluster.grid(2).delete(delete("slow")).await.unwrap();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(200)).await;
            got.extend_from_slice(&reading.next().await.unwrap().unwrap());
        }
        assert!(shards(&cluster).await.0 > 0, "freed under a pinned read");
        while let Some(chunk) = reading.next().await {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == bytes);
        drop(reading);
        until_shards(&cluster, 0).await;
    });
}

#[test]
fn blocks_that_nobody_committed_go_to_the_trash_and_then_for_good() {
    let world = World::new(43);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        let kept = content(5, 3_000_000);
        put(&cluster.grid(2), BUCKET, "kept", &kept).await.unwrap();
        let live = shards(&cluster).await.0;
        // A writer that dies in the middle of a body: its first blocks are stored, never committed.
        let grid = cluster.grid(3);
        let part = content(6, 2 << 20);
        let chunks = part.chunks(64 << 10).map(|chunk| Ok(part.slice_ref(chunk)));
        let body: BodyStream =
            Box::pin(stream::iter(chunks.collect::<Vec<_>>()).chain(stream::pending()));
        let request = put_request(BUCKET, "never", Some(5 << 20));
        let writing = tokio::spawn(async move { grid.put(request, body, seal("never")).await });
        for _ in 0..100 {
            if shards(&cluster).await.0 > live {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let with_orphans = shards(&cluster).await.0;
        assert!(with_orphans > live, "nothing was stored before the writer died");
        cluster.kill(3);
        drop(writing);
        cluster.start_node(NodeId(3)).await;
        cluster.until_ready().await;
        // Seen once, and not old enough: nothing happens to it.
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert_eq!(shards(&cluster).await, (with_orphans, 0));
        let report = cluster.grid(5).fsck(false).await.unwrap();
        assert_eq!(report.orphans, with_orphans - live, "{report:?}");
        // Switched off and on: what was seen stays seen.
        for index in 1..=7 {
            cluster.kill(index);
        }
        for index in 1..=7 {
            cluster.start_node(NodeId(index)).await;
        }
        cluster.until_ready().await;
        tokio::time::sleep(Duration::from_secs(2500)).await;
        assert_eq!(shards(&cluster).await, (live, with_orphans - live));
        assert!(get(&cluster.grid(6), BUCKET, "kept").await.unwrap() == kept);
    });
}

#[test]
fn metadata_that_forgot_much_frees_nothing() {
    let world = World::new(44);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        let mut stored: Vec<(String, Bytes)> = Vec::new();
        // So many that every drive holds more than may go without an alarm.
        for number in 0..80 {
            let bytes = content(number, 600_000);
            let key = format!("k{number}");
            put(&cluster.grid(2), BUCKET, &key, &bytes).await.unwrap();
            stored.push((key, bytes));
        }
        let before = shards(&cluster).await;
        // Metadata answers from a copy older than all of this, for many sweeps.
        *cluster.meta.forgets.lock() = true;
        tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
        assert_eq!(shards(&cluster).await, before);
        let status = cluster.member(4).node.workers().list();
        let sweep = status.iter().find(|worker| worker.name == "sweep").unwrap();
        assert!(sweep.error.is_some(), "no alarm: {sweep:?}");
        *cluster.meta.forgets.lock() = false;
        for (key, bytes) in &stored {
            assert!(get(&cluster.grid(5), BUCKET, key).await.unwrap() == *bytes, "{key}");
        }
    });
}

#[test]
fn a_paused_worker_rests_until_it_is_resumed() {
    let world = World::new(45);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        put(&cluster.grid(2), BUCKET, "k", &content(1, 900_000)).await.unwrap();
        cluster.pause("collect", true).await;
        cluster.grid(2).delete(delete("k")).await.unwrap();
        tokio::time::sleep(HORIZON * 2).await;
        assert_eq!(shards(&cluster).await.0, 6);
        cluster.pause("collect", false).await;
        until_shards(&cluster, 0).await;
    });
}

#[test]
fn rot_is_found_by_scrub_and_rebuilt_and_what_is_gone_by_fsck() {
    let world = World::new(46);
    world.run(async {
        let mut options = options();
        options.care.scrub_every = Duration::from_secs(30);
        let cluster = Cluster::start_with(&world, 7, options).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        let mut stored = Vec::new();
        for number in 0..8 {
            let bytes = content(number, 900_000);
            put(&cluster.grid(2), BUCKET, &format!("k{number}"), &bytes).await.unwrap();
            stored.push(bytes);
        }
        until_shards(&cluster, 48).await;
        // Shards that vanish behind metadata's back: nobody reads them, so only a comparison shows it.
        let drive = cluster.member(3).drive.clone();
        let held = drive.list_blocks(None, 100).await.unwrap();
        let keys: Vec<_> = held.iter().map(|shard| shard.key).collect();
        assert!(!keys.is_empty());
        drive.trash(&keys).await.unwrap();
        let report = cluster.grid(5).fsck(false).await.unwrap();
        assert_eq!((report.missing, report.lost), (keys.len() as u64, 0), "{report:?}");
        // Each fault names its object: the shards are of one each.
        let mut named: Vec<String> = Vec::new();
        for fault in &report.faults {
            let [object] = fault.objects.as_slice() else { panic!("{fault:?}") };
            assert_eq!((object.bucket.as_str(), object.version), (BUCKET, None));
            named.push(object.key.clone());
        }
        named.sort();
        named.dedup();
        assert_eq!(named.len(), keys.len(), "{named:?}");
        let report = cluster.grid(5).fsck(true).await.unwrap();
        assert_eq!(report.missing, keys.len() as u64);
        until_shards(&cluster, 48).await;
        until(Duration::from_secs(60), || super::faults::holes(&cluster) == 0).await;
        assert_clean(&cluster).await;
        // A bit flips in every segment of a drive: scrub finds what it hit, repair mends it.
        let disk = world.disk(NodeId(4));
        let segments: Vec<_> = disk
            .files()
            .into_iter()
            .filter(|(path, _)| path.starts_with("/drive/segments"))
            .collect();
        for (path, bytes) in &segments {
            disk.flip_bit(path, bytes / 2 * 8 + 3).unwrap();
        }
        assert!(!segments.is_empty());
        let done = |name| {
            let status = cluster.member(4).node.workers().list();
            status.iter().find(|worker| worker.name == name).unwrap().done
        };
        let before = done("scrub");
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(done("scrub") > before);
        until(Duration::from_secs(300), || super::faults::holes(&cluster) == 0).await;
        until_shards(&cluster, 48).await;
        assert_clean(&cluster).await;
        for (number, bytes) in stored.iter().enumerate() {
            assert!(get(&cluster.grid(6), BUCKET, &format!("k{number}")).await.unwrap() == *bytes);
        }
    });
}
