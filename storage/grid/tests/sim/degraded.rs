//! A grid that lost as much as it tolerates, and more: what is refused, when, and that all else goes
//! on.

use std::time::Duration;

use futures_util::StreamExt;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::*;
use nexusgrid_meta::namespace::types::{
    NamespaceAnswer, NamespaceQuery, PieceData, RangeSpec, decode_query_reply,
};
use nexusgrid_meta::root::topology::Topology;

use super::cluster::{Cluster, body, collect, content, get, options, put, seal, until};
use super::faults::holes;

const NOTICED: Duration = Duration::from_secs(10);

/// The nodes of the placement group of an object's first block, by slot.
fn nodes_of(cluster: &Cluster, bucket: &str, key: &str) -> Vec<u64> {
    let topology: Topology = cluster.topology();
    let bucket = topology.bucket(bucket).unwrap();
    let query = NamespaceQuery::Get {
        bucket: bucket.id,
        key: key.as_bytes().to_vec(),
        range: RangeSpec::Full,
    };
    let reply = cluster.meta.ask(bucket.group, &query.encode()).unwrap();
    let NamespaceAnswer::Get(got) = decode_query_reply(&reply).unwrap().unwrap() else {
        panic!("no get")
    };
    let PieceData::Extent(extent) = &got.map.pieces[0].data else { panic!("no extent") };
    let slots = &topology.pgs[&extent.pg].slots;
    slots.iter().map(|drive| topology.drives[drive].node.0).collect()
}

#[test]
fn what_cannot_be_read_to_its_end_is_refused_before_its_first_byte() {
    let world = World::new(61);
    world.run(async {
        let mut options = options(7);
        options.block_bytes = 8 << 20;
        let cluster = Cluster::start_with(&world, 7, options).await;
        cluster.grid(1).create_bucket("degraded", "me").await.unwrap();
        // One block of shards larger than what a reader fetches at once: the first fetch needs the
        // first shard alone.
        let bytes = content(1, 6 << 20);
        put(&cluster.grid(1), "degraded", "k", &bytes).await.unwrap();
        let nodes = nodes_of(&cluster, "degraded", "k");
        for victim in &nodes[1..4] {
            cluster.kill(*victim);
        }
        tokio::time::sleep(NOTICED).await;
        let reader = cluster.grid(nodes[0]);
        let mut stream = reader.get("degraded", "k", None).await.unwrap().body;
        let first = stream.next().await.unwrap();
        assert!(matches!(first, Err(GridError::Unreadable(_))), "{:?}", first.map(|b| b.len()));
        assert!(reader.metrics().get("reads_unreadable") > Some(0));
        // What lies in the shard that is there is read as ever.
        let range = Some(ByteRange::FromTo(10, 1_200_000));
        let got = collect(reader.get("degraded", "k", range).await.unwrap().body).await.unwrap();
        assert!(got == bytes[10..=1_200_000]);
        // One more shard, and all is.
        cluster.start_node(NodeId(nodes[1])).await;
        tokio::time::sleep(NOTICED).await;
        assert!(get(&reader, "degraded", "k").await.unwrap() == bytes);
        assert!(reader.metrics().get("reads_degraded") > Some(0));
    });
}

#[test]
fn beyond_what_the_code_tolerates_writes_of_every_size_are_refused() {
    let world = World::new(62);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        cluster.grid(1).create_bucket("degraded", "me").await.unwrap();
        let sizes = [0, 100, 100_000, 900_000];
        for size in sizes {
            put(&cluster.grid(1), "degraded", &format!("healthy{size}"), &content(1, size))
                .await
                .unwrap();
        }
        cluster.kill(6);
        cluster.kill(7);
        tokio::time::sleep(NOTICED).await;
        for size in sizes {
            put(&cluster.grid(1), "degraded", &format!("two{size}"), &content(2, size))
                .await
                .unwrap();
        }
        cluster.kill(5);
        tokio::time::sleep(NOTICED).await;
        let grid = cluster.grid(1);
        for size in sizes {
            let refused = put(&grid, "degraded", &format!("three{size}"), &content(3, size)).await;
            assert!(matches!(refused, Err(GridError::Unavailable(_))), "{size}: {refused:?}");
        }
        let copy = CopyRequest {
            source_bucket: "degraded".into(),
            source_key: "two100".into(),
            source_version: None,
            bucket: "degraded".into(),
            key: "copy".into(),
            meta: None,
            precondition: Precondition::default(),
            tenant: Tenant("test".into()),
        };
        assert!(matches!(grid.copy(copy.clone()).await, Err(GridError::Unavailable(_))));
        let upload = CreateUploadRequest {
            bucket: "degraded".into(),
            key: "upload".into(),
            meta: ObjectMeta::default(),
            checksum: None,
            tenant: Tenant("test".into()),
        };
        assert!(matches!(grid.create_upload(upload).await, Err(GridError::Unavailable(_))));
        assert_eq!(grid.metrics().get("writes_refused"), Some(sizes.len() as u64 + 2));
        // Copies on two of the dead hosts are out of reach; the inline ones are not.
        assert_eq!(get(&grid, "degraded", "healthy100").await.unwrap(), content(1, 100));
        cluster.start_node(NodeId(5)).await;
        cluster.until_ready().await;
        tokio::time::sleep(NOTICED).await;
        for size in sizes {
            put(&grid, "degraded", &format!("again{size}"), &content(4, size)).await.unwrap();
            assert_eq!(
                get(&grid, "degraded", &format!("two{size}")).await.unwrap(),
                content(2, size)
            );
        }
        grid.copy(copy).await.unwrap();
    });
}

/// Each missing shard is a row of the commit, and a command's rows are bounded: such contents are
/// staged.
#[test]
fn a_degraded_grid_takes_contents_of_hundreds_of_blocks() {
    let world = World::new(63);
    world.run(async {
        let mut options = options(7);
        (options.block_bytes, options.packed_bytes) = (32 << 10, 16 << 10);
        let cluster = Cluster::start_with(&world, 7, options).await;
        let grid = cluster.grid(1);
        grid.create_bucket("degraded", "me").await.unwrap();
        cluster.kill(6);
        cluster.kill(7);
        tokio::time::sleep(NOTICED).await;
        let bytes = content(1, 11 << 20);
        put(&grid, "degraded", "k", &bytes).await.unwrap();
        assert!(grid.metrics().get("shards_missed") >= Some(352));
        let upload = CreateUploadRequest {
            bucket: "degraded".into(),
            key: "parts".into(),
            meta: ObjectMeta::default(),
            checksum: None,
            tenant: Tenant("test".into()),
        };
        let upload = grid.create_upload(upload).await.unwrap().upload;
        let mut parts = Vec::new();
        for number in 1..=2 {
            let request = PartRequest {
                bucket: "degraded".into(),
                key: "parts".into(),
                upload: upload.clone(),
                number,
                length: Some(bytes.len() as u64),
                tenant: Tenant("test".into()),
            };
            let part = grid.upload_part(request, body(&bytes), seal("part")).await.unwrap();
            parts.push(ChosenPart { number, etag: part.etag });
        }
        let complete = CompleteUploadRequest {
            bucket: "degraded".into(),
            key: "parts".into(),
            upload,
            parts,
            precondition: Precondition::default(),
        };
        let finish = |_: &[PartInfo]| Ok(ObjectSeal { etag: "all".into(), ..Default::default() });
        grid.complete_upload(complete, Box::new(finish)).await.unwrap();
        // Seen from another node, whole and in part; and linked by a copy.
        let other = cluster.grid(3);
        assert!(get(&other, "degraded", "k").await.unwrap() == bytes);
        assert!(
            get(&other, "degraded", "parts").await.unwrap() == [&bytes[..], &bytes[..]].concat()
        );
        let range = Some(ByteRange::FromTo(8_180_000, 8_300_000));
        let some = collect(other.get("degraded", "k", range).await.unwrap().body).await.unwrap();
        assert!(some == bytes[8_180_000..=8_300_000]);
        assert_eq!(other.head("degraded", "parts").await.unwrap().part_sizes, [11 << 20, 11 << 20]);
        // Every hole stands in the queue, and is filled when the nodes return.
        assert!(holes(&cluster) >= 1000, "{}", holes(&cluster));
        for node in [6, 7] {
            cluster.start_node(NodeId(node)).await;
        }
        cluster.until_ready().await;
        until(Duration::from_secs(600), || holes(&cluster) == 0).await;
        assert_eq!(cluster.meta.violations(), []);
    });
}
