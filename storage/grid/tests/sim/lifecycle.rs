//! What owners laid down about their objects' ends is done, and nothing else, whoever dies meanwhile; large
//! contents go where their storage class says.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::lifecycle::{Lifecycle, LifecycleRule, StorageClass, When};
use nexusgrid_grid::*;
use nexusgrid_meta::namespace::types::{
    CodeUsage, NamespaceAnswer, NamespaceQuery, decode_query_reply,
};

use super::cluster::{self, Cluster, GROUPS, body, content, get, put, put_request, seal};

const BUCKET: &str = "lifecycle";
const DAY: Duration = Duration::from_secs(600);

fn options() -> GridOptions {
    let mut options = cluster::options(7);
    options.care.lifecycle_day = DAY;
    options.care.rewrite.every = Duration::from_secs(60);
    options
}

async fn lay_down(grid: &Grid, rule: LifecycleRule) {
    let rules = Lifecycle { day_ms: 0, moved_bytes_min: 0, rules: vec![rule] };
    grid.set_lifecycle(BUCKET, Some((rules, b"text".to_vec()))).await.unwrap();
}

/// A node that is up, other than `not`.
fn other(index: u64, not: u64) -> u64 {
    if index == not { index % 7 + 1 } else { index }
}

#[test]
fn what_is_due_goes_and_nothing_before_while_nodes_crash() {
    let world = World::new(90);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        cluster.grid(1).create_bucket(BUCKET, "me").await.unwrap();
        let mut kept: BTreeMap<String, Bytes> = BTreeMap::new();
        let mut born: BTreeMap<String, (Duration, Bytes)> = BTreeMap::new();
        for n in 0..12u64 {
            let bytes = content(n, [90, 30_000, 700_000][n as usize % 3]);
            let key = format!("keep/{n}");
            put(&cluster.grid(1), BUCKET, &key, &bytes).await.unwrap();
            kept.insert(key, bytes);
        }
        // Before there are rules: found by the walk.
        for n in 0..12u64 {
            let bytes = content(100 + n, 40_000);
            put(&cluster.grid(2), BUCKET, &format!("logs/{n}"), &bytes).await.unwrap();
            born.insert(format!("logs/{n}"), (world.elapsed(), bytes));
        }
        let rule = LifecycleRule {
            id: "r".to_owned(),
            prefix: b"logs/".to_vec(),
            expire: Some(When::Days(1)),
            ..LifecycleRule::default()
        };
        lay_down(&cluster.grid(3), rule).await;
        let text = cluster.grid(4).lifecycle(BUCKET).await.unwrap();
        assert_eq!(text.as_deref(), Some(&b"text"[..]));
        // Every minute a node dies and another returns; objects are written, and some written anew.
        let mut down: Option<u64> = None;
        for minute in 0..25u64 {
            if let Some(index) = down.take() {
                cluster.start_node(NodeId(index)).await;
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            let dies = minute % 7 + 1;
            let writer = cluster.grid(other(minute * 3 % 7 + 1, dies));
            for n in [minute % 12, 100 + minute] {
                let (key, bytes) = (format!("logs/{n}"), content(1_000 + minute, 20_000));
                put(&writer, BUCKET, &key, &bytes).await.unwrap();
                born.insert(key, (world.elapsed(), bytes));
            }
            cluster.crash(dies);
            down = Some(dies);
            tokio::time::sleep(Duration::from_secs(50)).await;
            let reader = cluster.grid(dies % 7 + 1);
            for (key, (at, bytes)) in &born {
                let age = world.elapsed().saturating_sub(*at);
                if age < DAY {
                    let got = get(&reader, BUCKET, key).await;
                    assert!(got.as_deref() == Ok(bytes.as_ref()), "{key} at {age:?}: {got:?}");
                }
            }
        }
        cluster.start_node(NodeId(down.unwrap())).await;
        tokio::time::sleep(DAY + Duration::from_secs(300)).await;
        for key in born.keys() {
            let got = get(&cluster.grid(5), BUCKET, key).await;
            assert_eq!(got, Err(GridError::NoSuchKey), "{key}");
        }
        for (key, bytes) in &kept {
            assert!(get(&cluster.grid(5), BUCKET, key).await.unwrap() == *bytes, "{key}");
        }
        assert_eq!(cluster.meta.violations(), vec![]);
    });
}

/// Bytes of contents by code, and those of large ones.
fn codes(cluster: &Cluster) -> BTreeMap<(u8, u8), (u64, u64)> {
    let mut all = BTreeMap::new();
    for group in 1..=GROUPS {
        let reply = cluster.meta.ask(GroupId(group), &NamespaceQuery::Codes.encode()).unwrap();
        let Ok(Ok(NamespaceAnswer::Codes(codes))) = decode_query_reply(&reply) else {
            panic!("no codes")
        };
        for CodeUsage { k, m, bytes, large_bytes, .. } in codes {
            let sum = all.entry((k, m)).or_insert((0, 0));
            *sum = (sum.0 + bytes, sum.1 + large_bytes);
        }
    }
    all.retain(|_, (bytes, _)| *bytes > 0);
    all
}

async fn put_as(grid: &Grid, key: &str, bytes: &Bytes, class: &str) {
    let mut request = put_request(BUCKET, key, Some(bytes.len()));
    request.meta.storage_class = Some(class.to_owned());
    grid.put(request, body(bytes), seal("e")).await.unwrap();
}

async fn put_in_parts(grid: &Grid, key: &str, parts: &[Bytes]) {
    let tenant = || Tenant("me".to_owned());
    let create = CreateUploadRequest {
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        meta: ObjectMeta::default(),
        checksum: None,
        tenant: tenant(),
    };
    let upload = grid.create_upload(create).await.unwrap().upload;
    let mut chosen = Vec::new();
    for (number, bytes) in (1..).zip(parts) {
        let part = PartRequest {
            bucket: BUCKET.to_owned(),
            key: key.to_owned(),
            upload: upload.clone(),
            number,
            length: Some(bytes.len() as u64),
            tenant: tenant(),
        };
        let done = grid.upload_part(part, body(bytes), seal("p")).await.unwrap();
        chosen.push(ChosenPart { number, etag: done.etag });
    }
    let complete = CompleteUploadRequest {
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        upload,
        parts: chosen,
        precondition: Precondition::default(),
    };
    let finish = Box::new(|_: &[PartInfo]| {
        Ok(ObjectSeal { etag: "whole-2".to_owned(), ..ObjectSeal::default() })
    });
    grid.complete_upload(complete, finish).await.unwrap();
}

#[test]
fn large_contents_lie_where_their_class_says() {
    let world = World::new(91);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, options()).await;
        let grid = cluster.grid(2);
        grid.create_bucket(BUCKET, "me").await.unwrap();
        let (a, b) = (content(1, 2_300_000), content(2, 1_200_000));
        let parts = [content(3, 5 << 20), content(4, 600_000)];
        let all = (a.len() + parts[0].len() + parts[1].len()) as u64;
        put(&grid, BUCKET, "a", &a).await.unwrap();
        put_in_parts(&grid, "parts", &parts).await;
        put_as(&grid, "b", &b, "REPLICATED").await;
        let at_first = BTreeMap::from([((1, 2), (b.len() as u64, 0)), ((4, 2), (all, all))]);
        assert_eq!(codes(&cluster), at_first);
        // The rewrite worker leaves it where it is to lie.
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(codes(&cluster), at_first);
        // A copy of another class is no link.
        let copy = CopyRequest {
            source_bucket: BUCKET.to_owned(),
            source_key: "b".to_owned(),
            source_version: None,
            bucket: BUCKET.to_owned(),
            key: "c".to_owned(),
            meta: Some(ObjectMeta::default()),
            precondition: Precondition::default(),
            tenant: Tenant("me".to_owned()),
        };
        grid.copy(copy).await.unwrap();
        let all = all + b.len() as u64;
        assert_eq!(codes(&cluster)[&(4, 2)], (all, all));

        let copies = StorageClass::Named("REPLICATED".to_owned());
        let rule = |class: &StorageClass| LifecycleRule {
            id: "r".to_owned(),
            moves: vec![(When::Days(1), class.clone())],
            ..LifecycleRule::default()
        };
        let whole = [parts[0].as_ref(), parts[1].as_ref()].concat();
        let check = async |class: Option<&str>| {
            let grid = cluster.grid(6);
            assert!(get(&grid, BUCKET, "a").await.unwrap() == a);
            assert!(get(&grid, BUCKET, "b").await.unwrap() == b);
            assert!(get(&grid, BUCKET, "c").await.unwrap() == b);
            assert!(get(&grid, BUCKET, "parts").await.unwrap() == whole);
            for key in ["a", "b", "c", "parts"] {
                let info = grid.head(BUCKET, key).await.unwrap();
                assert_eq!(info.meta.storage_class.as_deref(), class, "{key}");
            }
            let sizes = grid.head(BUCKET, "parts").await.unwrap().part_sizes;
            assert_eq!(sizes, [5 << 20, 600_000]);
        };
        lay_down(&grid, rule(&copies)).await;
        tokio::time::sleep(DAY + Duration::from_secs(300)).await;
        check(Some("REPLICATED")).await;
        let sum = all + b.len() as u64;
        assert_eq!(codes(&cluster), BTreeMap::from([((1, 2), (sum, 0))]));

        lay_down(&grid, rule(&StorageClass::Standard)).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        check(None).await;
        assert_eq!(codes(&cluster), BTreeMap::from([((4, 2), (sum, sum))]));
        assert!(cluster.grid(3).fsck(false).await.unwrap().is_clean());
        assert_eq!(cluster.meta.violations(), vec![]);
    });
}
