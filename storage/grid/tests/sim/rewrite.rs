//! Contents move to other blocks: space returns from packs half dead, and a grid that grew ends in
//! its new code; whoever reads, dies or deletes meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use nexusgrid_codec::{BlockId, DriveId, GroupId, PgId};
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::*;
use nexusgrid_meta::namespace::types::{
    CodeUsage, LiveBlock, NamespaceAnswer, NamespaceQuery, decode_query_reply,
};

use super::cluster::{self, Cluster, GROUPS, content, get, put, until};

const BUCKET: &str = "rewrite";
const HORIZON: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(7200);
const SIZES: [usize; 5] = [1_000, 30_000, 200_000, 700_000, 2_300_000];

fn options(nodes: u64) -> GridOptions {
    let mut options = cluster::options(nodes);
    options.care.rewrite.every = Duration::from_secs(60);
    options.care.sweep_every = Duration::from_secs(300);
    options.care.orphan_age = Duration::from_secs(600);
    options.session.rotate_after = Duration::from_secs(900);
    options
}

type Truth = BTreeMap<String, Bytes>;

/// Writes so many objects at once that packs are full.
async fn put_all(cluster: &Cluster, writer: u64, truth: &mut Truth, objects: Vec<(String, Bytes)>) {
    let grid = cluster.grid(writer);
    let puts = objects.iter().map(|(key, bytes)| put(&grid, BUCKET, key, bytes));
    for done in join_all(puts).await {
        done.unwrap();
    }
    truth.extend(objects);
}

async fn delete(cluster: &Cluster, node: u64, key: &str) {
    let request = DeleteRequest {
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        precondition: Precondition::default(),
    };
    cluster.grid(node).delete(request).await.unwrap();
}

async fn check(cluster: &Cluster, reader: u64, truth: &Truth) {
    for (key, bytes) in truth {
        let got = get(&cluster.grid(reader), BUCKET, key).await;
        assert!(got.as_deref() == Ok(bytes.as_ref()), "{key}: {:?}", got.err());
    }
}

fn ask(cluster: &Cluster, query: &NamespaceQuery) -> Vec<NamespaceAnswer> {
    let one = |group| {
        let reply = cluster.meta.ask(GroupId(group), &query.encode()).unwrap();
        decode_query_reply(&reply).unwrap().unwrap()
    };
    (1..=GROUPS).map(one).collect()
}

/// What each code holds, all groups together: live blocks, their bytes, those of large contents.
fn codes(cluster: &Cluster) -> BTreeMap<(u8, u8), (u64, u64, u64)> {
    let mut all = BTreeMap::new();
    for answer in ask(cluster, &NamespaceQuery::Codes) {
        let NamespaceAnswer::Codes(codes) = answer else { panic!("{answer:?}") };
        for CodeUsage { k, m, blocks, bytes, large_bytes, .. } in codes {
            let sum = all.entry((k, m)).or_insert((0, 0, 0));
            *sum = (sum.0 + blocks, sum.1 + bytes, sum.2 + large_bytes);
        }
    }
    all
}

fn live_blocks(cluster: &Cluster) -> Vec<LiveBlock> {
    let query = NamespaceQuery::LiveBlocks { after: None, limit: 4000 };
    let blocks = |answer| match answer {
        NamespaceAnswer::LiveBlocks { blocks, more: false } => blocks,
        other => panic!("{other:?}"),
    };
    ask(cluster, &query).into_iter().flat_map(blocks).collect()
}

async fn bytes_on_drives(cluster: &Cluster) -> u64 {
    let members: Vec<_> = cluster.members.lock().values().cloned().collect();
    let mut sum = 0;
    for member in members {
        let shards = member.drive.list_blocks(None, 10_000).await.unwrap();
        sum += shards.iter().map(|shard| shard.body_bytes).sum::<u64>();
    }
    sum
}

/// Waits until nothing is left to be done, and drives hold what metadata says and nothing more.
async fn until_settled(cluster: &Cluster) {
    let begin = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let report = cluster.grid(2).fsck(false).await.unwrap();
        let dead = ask(cluster, &NamespaceQuery::Outbox { after: None, limit: 1 });
        let none = NamespaceAnswer::Outbox { blocks: vec![], more: false };
        let is_done = report.is_clean()
            && dead.iter().all(|answer| *answer == none)
            && ask(cluster, &NamespaceQuery::OldestMoved)
                .iter()
                .all(|answer| *answer == NamespaceAnswer::OldestMoved(None))
            && (report.misplaced, report.orphans, report.unlisted.len()) == (0, 0, 0)
            && live_blocks(cluster).iter().all(|block| block.live_bytes * 2 >= block.len)
            && ask(cluster, &NamespaceQuery::Backlog)
                .iter()
                .all(|answer| *answer == NamespaceAnswer::Backlog { oldest_released_ms: None });
        if is_done && cluster.grid(2).recode_left().await.unwrap() == RecodeLeft::default() {
            return;
        }
        if begin.elapsed() > PATIENCE {
            for (node, member) in cluster.members.lock().iter() {
                eprintln!("{node}: {:?}", member.node.workers().list());
            }
            panic!("not settled: {report:?}, {:?}", codes(cluster));
        }
    }
}

fn rewritten(cluster: &Cluster) -> u64 {
    let members = cluster.members.lock();
    let done = |member: &Arc<cluster::Member>| {
        let rows = member.node.workers().list();
        rows.iter().find(|row| row.name == "rewrite").unwrap().done
    };
    members.values().map(done).sum()
}

/// The node that empties blocks now.
fn worker_now(cluster: &Cluster) -> Option<u64> {
    let members = cluster.members.lock();
    let is_busy = |member: &Arc<cluster::Member>| {
        member.node.workers().list().iter().any(|row| row.name == "rewrite" && row.busy)
    };
    members.iter().find(|(_, member)| is_busy(member)).map(|(node, _)| node.0)
}

#[test]
fn packs_half_dead_give_their_space_back_though_the_worker_dies() {
    let world = World::new(60);
    world.run(async {
        let mut options = options(7);
        // A few seconds for each block, so that one may die in the middle of it.
        options.care.rewrite.bytes_per_second = 1_000_000;
        let cluster = Cluster::start_with(&world, 7, options).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        let mut truth = Truth::new();
        for batch in 0..4u64 {
            let object = |number: u64| {
                let tag = batch * 100 + number;
                let size = 20_000 + (tag as usize * 7919) % 200_000;
                (format!("k{tag:03}"), content(tag, size))
            };
            put_all(&cluster, 2, &mut truth, (0..50).map(object).collect()).await;
        }
        put_all(&cluster, 2, &mut truth, vec![("large".to_owned(), content(9, 3_000_000))]).await;
        let full = bytes_on_drives(&cluster).await;
        // Two of three go, by chance.
        let mut seed = 7u64;
        for key in truth.keys().cloned().collect::<Vec<_>>() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if key != "large" && !(seed >> 33).is_multiple_of(3) {
                delete(&cluster, 3, &key).await;
                truth.remove(&key);
            }
        }
        let mut heads = Vec::new();
        for key in truth.keys() {
            heads.push(cluster.grid(4).head(BUCKET, key).await.unwrap());
        }
        // Whoever works dies, in the middle of it: its writes are late, refused or garbage.
        for after_ms in [2_900, 3_050, 10] {
            until(PATIENCE, || worker_now(&cluster).is_some()).await;
            let worker = worker_now(&cluster).unwrap();
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            cluster.crash(worker);
            let reader = if worker == 5 { 6 } else { 5 };
            check(&cluster, reader, &truth).await;
            cluster.start_node(NodeId(worker)).await;
        }
        until_settled(&cluster).await;
        check(&cluster, 6, &truth).await;
        for head in heads {
            assert_eq!(cluster.grid(1).head(BUCKET, &head.key).await.unwrap(), head);
        }
        assert_eq!(cluster.meta.violations(), vec![]);
        // Each block is at least half alive, so space is at most twice what lives, per code.
        let large = 3_000_000 * 3 / 2;
        let small: usize = truth.values().map(Bytes::len).sum::<usize>() - 3_000_000;
        let held = bytes_on_drives(&cluster).await;
        let bound = (large + 2 * 3 * small) as u64 * 102 / 100;
        assert!(held <= bound && held < full, "{held} bytes held, {bound} allowed, {full} before");
        // And it rests.
        let before = (rewritten(&cluster), live_blocks(&cluster));
        assert!(before.0 > 0);
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert_eq!((rewritten(&cluster), live_blocks(&cluster)), before);
        // Two may be gone, as before.
        cluster.kill(1);
        cluster.kill(4);
        tokio::time::sleep(Duration::from_secs(5)).await;
        check(&cluster, 7, &truth).await;
    });
}

/// Slots of each placement group, which only repair and balancing change.
fn slots(cluster: &Cluster) -> BTreeMap<PgId, Vec<DriveId>> {
    cluster.topology().pgs.values().map(|pg| (pg.id, pg.slots.clone())).collect()
}

#[test]
fn a_grid_that_grows_ends_in_the_code_of_today() {
    let world = World::new(61);
    world.run(async {
        let mut cluster = Cluster::start_with(&world, 3, options(3)).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        let mut truth = Truth::new();
        let objects = |stage: u64| -> Vec<(String, Bytes)> {
            let object = |number: usize| {
                let size = SIZES[number % SIZES.len()] + number;
                (format!("{stage}/{number}"), content(stage * 50 + number as u64, size))
            };
            (0..20).map(object).collect()
        };
        put_all(&cluster, 2, &mut truth, objects(0)).await;
        assert_eq!(codes(&cluster).keys().collect::<Vec<_>>(), [&(1, 2)]);
        let packs_of = |cluster: &Cluster| -> BTreeSet<BlockId> {
            // Of no more bytes than what one flush of the 12 small objects has.
            let small = live_blocks(cluster).into_iter().filter(|block| block.k == 1);
            small.filter(|block| block.live_bytes == block.len).map(|block| block.block).collect()
        };
        // Nothing moves but what is written anew.
        cluster.pause("balance", true).await;
        for (stage, nodes, code) in [(1, 4, (2, 2)), (2, 7, (4, 2))] {
            for index in cluster.count + 1..=nodes {
                cluster.join(index).await;
            }
            cluster.until_ready().await;
            let groups = slots(&cluster);
            // Written by whoever knows the new hosts already.
            put_all(&cluster, nodes, &mut truth, objects(stage)).await;
            let packs = packs_of(&cluster);
            let left = cluster.grid(1).recode_left().await.unwrap();
            assert!(left.bytes > 0 && left.under_protected_bytes == 0, "{left:?}");
            let before = rewritten(&cluster);
            until(PATIENCE, || rewritten(&cluster) > before).await;
            // Deleted and replaced while it goes on; and one of those who work dies.
            let key = format!("{}/4", stage - 1);
            delete(&cluster, 3, &key).await;
            truth.remove(&key);
            let newer = content(900 + stage, 900_000);
            put_all(&cluster, 1, &mut truth, vec![(format!("{}/9", stage - 1), newer)]).await;
            cluster.crash(2);
            check(&cluster, 3, &truth).await;
            cluster.start_node(NodeId(2)).await;
            cluster.until_ready().await;
            until_settled(&cluster).await;
            check(&cluster, nodes, &truth).await;
            let (large, small) = truth
                .values()
                .filter(|bytes| bytes.len() > 4096)
                .map(|bytes| bytes.len() as u64)
                .partition::<Vec<u64>, _>(|len| *len > 512 << 10);
            let found = codes(&cluster);
            assert_eq!(found.keys().collect::<Vec<_>>(), [&(1, 2), &code]);
            assert_eq!(found[&code].1, large.iter().sum::<u64>());
            assert_eq!(found[&code].2, found[&code].1);
            assert_eq!(found[&(1, 2)].1, small.iter().sum::<u64>());
            // Packs stayed where they were.
            let stayed = packs_of(&cluster);
            assert!(!stayed.is_empty() && stayed.is_subset(&packs), "{stayed:?} {packs:?}");
            let now = slots(&cluster);
            assert!(groups.iter().all(|(pg, slots)| now.get(pg) == Some(slots)), "a slot moved");
            assert_eq!(cluster.meta.violations(), vec![]);
        }
        cluster.kill(3);
        cluster.kill(6);
        tokio::time::sleep(Duration::from_secs(5)).await;
        check(&cluster, 5, &truth).await;
    });
}

#[test]
fn two_hosts_become_three_and_one_becomes_two() {
    let world = World::new(62);
    world.run(async {
        let mut cluster = Cluster::start_with(&world, 1, options(1)).await;
        cluster.grid(1).create_bucket(BUCKET, "me").await.unwrap();
        let mut truth = Truth::new();
        for nodes in 1..=3 {
            if nodes > 1 {
                cluster.join(nodes).await;
                cluster.until_ready().await;
                let left = cluster.grid(1).recode_left().await.unwrap();
                assert!(left.bytes > 0 && left.under_protected_bytes == left.bytes, "{left:?}");
            }
            let object = |size| (format!("{nodes}/{size}"), content(nodes, size));
            put_all(&cluster, nodes, &mut truth, SIZES.map(object).to_vec()).await;
            until_left(&cluster, RecodeLeft::default()).await;
            assert_eq!(
                codes(&cluster).keys().collect::<Vec<_>>().len(),
                1,
                "{:?}",
                codes(&cluster)
            );
            check(&cluster, 1, &truth).await;
            assert_eq!(cluster.meta.violations(), vec![]);
        }
        cluster.kill(2);
        cluster.kill(1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        check(&cluster, 3, &truth).await;
    });
}

async fn until_left(cluster: &Cluster, wanted: RecodeLeft) {
    let begin = tokio::time::Instant::now();
    while cluster.grid(1).recode_left().await.unwrap() != wanted || codes(cluster).len() > 1 {
        assert!(begin.elapsed() < PATIENCE, "{:?}", codes(cluster));
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

#[test]
fn a_reader_that_holds_the_old_place_ends_well() {
    let world = World::new(63);
    world.run(async {
        let mut cluster = Cluster::start_with(&world, 3, options(3)).await;
        cluster.grid(2).create_bucket(BUCKET, "me").await.unwrap();
        let bytes = content(1, 12_000_000);
        put(&cluster.grid(2), BUCKET, "slow", &bytes).await.unwrap();
        let mut reading = cluster.grid(1).get(BUCKET, "slow", None).await.unwrap().body;
        let mut got = reading.next().await.unwrap().unwrap().to_vec();
        let old: BTreeSet<BlockId> =
            live_blocks(&cluster).into_iter().map(|block| block.block).collect();
        cluster.join(4).await;
        cluster.until_ready().await;
        let begin = tokio::time::Instant::now();
        while cluster.grid(1).recode_left().await.unwrap() != RecodeLeft::default() {
            assert!(begin.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        // All is moved; the old place is read on, long past the horizon.
        for _ in 0..5 {
            tokio::time::sleep(HORIZON / 3).await;
            got.extend_from_slice(&reading.next().await.unwrap().unwrap());
        }
        let held: BTreeSet<BlockId> =
            live_blocks(&cluster).into_iter().map(|block| block.block).collect();
        assert!(held.is_superset(&old), "freed under a pinned read");
        while let Some(chunk) = reading.next().await {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == bytes);
        drop(reading);
        until_settled(&cluster).await;
        assert_eq!(codes(&cluster).keys().collect::<Vec<_>>(), [&(2, 2)]);
        assert!(get(&cluster.grid(4), BUCKET, "slow").await.unwrap() == bytes);
    });
}

#[test]
fn parts_that_nothing_needs_give_their_space_back() {
    let world = World::new(64);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options(7)).await;
        let grid = cluster.grid(2);
        grid.create_bucket(BUCKET, "me").await.unwrap();
        let create = || CreateUploadRequest {
            bucket: BUCKET.to_owned(),
            key: "big".to_owned(),
            meta: ObjectMeta::default(),
            checksum: None,
            tenant: Tenant("me".to_owned()),
        };
        let part = |upload: &UploadId, number, tag, size| {
            let request = PartRequest {
                bucket: BUCKET.to_owned(),
                key: "big".to_owned(),
                upload: upload.clone(),
                number,
                length: Some(size as u64),
                tenant: Tenant("me".to_owned()),
            };
            let (grid, bytes) = (grid.clone(), content(tag, size));
            async move {
                let seal = cluster::seal(&format!("p{tag}"));
                grid.upload_part(request, cluster::body(&bytes), seal).await.unwrap();
                bytes
            }
        };
        let aborted = grid.create_upload(create()).await.unwrap().upload;
        part(&aborted, 1, 1, 6 << 20).await;
        part(&aborted, 2, 2, 100_000).await;
        grid.abort_upload(BUCKET, "big", &aborted).await.unwrap();
        let upload = grid.create_upload(create()).await.unwrap().upload;
        part(&upload, 1, 3, 5 << 20).await;
        let first = part(&upload, 1, 4, 6 << 20).await;
        let second = part(&upload, 2, 5, 90_000).await;
        // Never named in the completion.
        part(&upload, 3, 6, 700_000).await;
        put(&grid, BUCKET, "big", &content(7, 2_000_000)).await.unwrap();
        let chosen = |number, tag: u64| ChosenPart { number, etag: format!("p{tag}") };
        let complete = CompleteUploadRequest {
            bucket: BUCKET.to_owned(),
            key: "big".to_owned(),
            upload,
            parts: vec![chosen(1, 4), chosen(2, 5)],
            precondition: Precondition::default(),
        };
        let finish: FinishParts = Box::new(|_: &[PartInfo]| Ok(ObjectSeal::default()));
        grid.complete_upload(complete, finish).await.unwrap();
        until_settled(&cluster).await;
        let whole = [first.as_ref(), second.as_ref()].concat();
        assert!(get(&cluster.grid(5), BUCKET, "big").await.unwrap() == whole);
        let held = live_blocks(&cluster).iter().map(|block| u64::from(block.len)).sum::<u64>();
        assert_eq!(held, whole.len() as u64);
        assert_eq!(cluster.meta.violations(), vec![]);
        delete(&cluster, 3, "big").await;
        until_settled(&cluster).await;
        assert_eq!(bytes_on_drives(&cluster).await, 0);
    });
}
