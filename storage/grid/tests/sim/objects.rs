//! What clients see when nothing fails.

use std::time::Duration;

use nexusgrid_env::sim::World;
use nexusgrid_grid::*;

use super::cluster::{Cluster, body, collect, content, get, put, put_request, seal};

const SIZES: [usize; 10] =
    [0, 1, 4096, 4097, 70_000, 512 << 10, (512 << 10) + 1, 1 << 20, (1 << 20) + 1, 3_500_000];

#[test]
fn every_size_comes_back_from_every_node() {
    let world = World::new(1);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        let info = cluster.grid(1).create_bucket("sizes", "me").await.unwrap();
        assert_eq!((info.name.as_str(), info.owner.as_str()), ("sizes", "me"));
        for (index, size) in SIZES.iter().enumerate() {
            let bytes = content(index as u64, *size);
            let key = format!("dir/{size}");
            let outcome =
                put(&cluster.grid(1 + index as u64 % 7), "sizes", &key, &bytes).await.unwrap();
            assert_eq!(outcome.size, *size as u64);
            let reader = cluster.grid(1 + (index as u64 + 3) % 7);
            let head = reader.head("sizes", &key).await.unwrap();
            assert_eq!((head.size, head.etag), (*size as u64, format!("etag-{size}")));
            assert!(get(&reader, "sizes", &key).await.unwrap() == bytes, "{size}");
        }
        // The same with a length that nobody knows beforehand.
        for (index, size) in SIZES.iter().enumerate() {
            let bytes = content(100 + index as u64, *size);
            let request = put_request("sizes", "unknown", None);
            cluster.grid(2).put(request, body(&bytes), seal("e")).await.unwrap();
            assert!(get(&cluster.grid(3), "sizes", "unknown").await.unwrap() == bytes, "{size}");
        }
    });
}

#[test]
fn ranges_are_slices() {
    let world = World::new(2);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        let grid = cluster.grid(1);
        grid.create_bucket("ranges", "me").await.unwrap();
        for size in [1usize, 4000, 100_000, 2_600_000] {
            let bytes = content(size as u64, size);
            put(&grid, "ranges", "key", &bytes).await.unwrap();
            let rng = world.rng();
            for _ in 0..25 {
                let start = nexusgrid_env::Rng::below(&*rng, size as u64);
                let end = start + 1 + nexusgrid_env::Rng::below(&*rng, size as u64 - start);
                let wanted = ByteRange::FromTo(start, end - 1);
                let got = grid.get("ranges", "key", Some(wanted)).await.unwrap();
                assert_eq!(got.range, ResolvedRange { start, end });
                assert!(collect(got.body).await.unwrap() == bytes[start as usize..end as usize]);
            }
            let beyond = grid.get("ranges", "key", Some(ByteRange::From(size as u64))).await;
            assert_eq!(beyond.err(), Some(GridError::InvalidRange { size: size as u64 }));
        }
    });
}

#[test]
fn a_refused_body_leaves_nothing_visible() {
    let world = World::new(3);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        let grid = cluster.grid(1);
        grid.create_bucket("refused", "me").await.unwrap();
        for size in [10usize, 100_000, 2_000_000] {
            let bytes = content(1, size);
            let request = put_request("refused", "key", Some(size));
            let reject = Reject { kind: RejectKind::BadDigest, message: "no".to_owned() };
            let reply = reject.clone();
            let refused = grid.put(request, body(&bytes), Box::new(move || Err(reply))).await;
            assert_eq!(refused.unwrap_err(), GridError::Rejected(reject));
            let short = put_request("refused", "key", Some(size + 1));
            let refused = grid.put(short, body(&bytes), seal("e")).await.unwrap_err();
            assert!(matches!(
                refused,
                GridError::Rejected(Reject { kind: RejectKind::IncompleteBody, .. })
            ));
            assert_eq!(grid.head("refused", "key").await.unwrap_err(), GridError::NoSuchKey);
        }
    });
}

#[test]
fn conditions_hold_in_the_commit() {
    let world = World::new(4);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        let grid = cluster.grid(1);
        grid.create_bucket("conditions", "me").await.unwrap();
        let bytes = content(1, 1000);
        // Sixteen race to make the same key: one wins.
        let racers = (0..16).map(|index| {
            let (grid, bytes) = (cluster.grid(1 + index % 7), bytes.clone());
            tokio::spawn(async move {
                let mut request = put_request("conditions", "once", Some(bytes.len()));
                request.precondition.if_none_match = Some(EtagMatch::Any);
                grid.put(request, body(&bytes), seal(&format!("r{index}"))).await
            })
        });
        let mut won = 0;
        for racer in racers.collect::<Vec<_>>() {
            match racer.await.unwrap() {
                Ok(_) => won += 1,
                Err(error) => assert_eq!(error, GridError::PreconditionFailed),
            }
        }
        assert_eq!(won, 1);
        let mut request = put_request("conditions", "once", Some(bytes.len()));
        request.precondition.if_match = Some(EtagMatch::OneOf(vec!["other".to_owned()]));
        let refused = grid.put(request.clone(), body(&bytes), seal("x")).await.unwrap_err();
        assert_eq!(refused, GridError::PreconditionFailed);
        let etag = grid.head("conditions", "once").await.unwrap().etag;
        request.precondition.if_match = Some(EtagMatch::OneOf(vec![etag]));
        grid.put(request, body(&bytes), seal("x")).await.unwrap();
    });
}

#[test]
fn many_small_writes_share_commits_and_a_lone_one_does_not_wait() {
    let world = World::new(5);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        let grid = cluster.grid(1);
        grid.create_bucket("packs", "me").await.unwrap();
        put(&grid, "packs", "warm", &content(0, 10_000)).await.unwrap();
        let begin = tokio::time::Instant::now();
        put(&grid, "packs", "lone", &content(0, 10_000)).await.unwrap();
        assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
        let calls_before = world.net().calls();
        let tasks: Vec<_> = (0..200u64)
            .map(|index| {
                let grid = grid.clone();
                tokio::spawn(async move {
                    let size = 1 + (index as usize * 977) % 40_000;
                    put(&grid, "packs", &format!("k{index:03}"), &content(index, size)).await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        // Each block goes to two other nodes at least; two hundred of them would be 400 calls.
        let calls = world.net().calls() - calls_before;
        assert!(calls < 100, "{calls} calls for 200 small writes");
        for index in 0..200u64 {
            let size = 1 + (index as usize * 977) % 40_000;
            let got = get(&cluster.grid(5), "packs", &format!("k{index:03}")).await.unwrap();
            assert!(got == content(index, size), "{index}");
        }
    });
}

#[test]
fn buckets_listings_deletes_and_copies() {
    let world = World::new(6);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        let grid = cluster.grid(1);
        assert_eq!(grid.head_bucket("one").await.unwrap_err(), GridError::NoSuchBucket);
        grid.create_bucket("one", "me").await.unwrap();
        let again = cluster.grid(2).create_bucket("one", "me").await.unwrap_err();
        assert_eq!(again, GridError::BucketExists { owner: "me".to_owned() });
        let other = cluster.grid(2).create_bucket("one", "you").await.unwrap_err();
        assert_eq!(other, GridError::BucketExists { owner: "me".to_owned() });
        assert!(matches!(
            grid.create_bucket("No", "me").await.unwrap_err(),
            GridError::InvalidBucketName(_)
        ));
        grid.create_bucket("two", "me").await.unwrap();
        for key in ["a", "a/b", "a/c", "b", "c/d/e", "z"] {
            put(&grid, "one", key, &content(1, 600_000)).await.unwrap();
        }
        let list = |after: Option<String>| ListRequest {
            bucket: "one".to_owned(),
            prefix: String::new(),
            delimiter: Some("/".to_owned()),
            after,
            max: 2,
        };
        let mut lines = Vec::new();
        let mut after = None;
        loop {
            let page = cluster.grid(4).list(list(after)).await.unwrap();
            assert!(page.objects.len() + page.prefixes.len() <= 2);
            lines.extend(page.objects.iter().map(|object| object.key.clone()));
            lines.extend(page.prefixes.iter().cloned());
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        lines.sort();
        assert_eq!(lines, ["a", "a/", "b", "c/", "z"]);

        let copy = |source: &str, bucket: &str, key: &str| CopyRequest {
            source_bucket: "one".to_owned(),
            source_key: source.to_owned(),
            source_version: None,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            meta: None,
            precondition: Precondition::default(),
            tenant: Tenant("t".to_owned()),
        };
        grid.copy(copy("a", "one", "copy")).await.unwrap();
        grid.copy(copy("a", "two", "copy")).await.unwrap();
        let with_meta = ObjectMeta { content_type: Some("x/y".to_owned()), ..Default::default() };
        let mut onto_itself = copy("a", "one", "a");
        onto_itself.meta = Some(with_meta.clone());
        grid.copy(onto_itself).await.unwrap();
        assert_eq!(grid.head("one", "a").await.unwrap().meta, with_meta);
        let keys: Vec<String> = ["a", "a/b", "a/c", "b", "c/d/e", "z", "gone"]
            .iter()
            .map(|k| (*k).to_owned())
            .collect();
        let results = grid.delete_many("one", &keys).await.unwrap();
        assert!(results.iter().all(Result::is_ok) && results.len() == keys.len());
        assert_eq!(grid.head("one", "a").await.unwrap_err(), GridError::NoSuchKey);
        for bucket in ["one", "two"] {
            let got = get(&cluster.grid(3), bucket, "copy").await.unwrap();
            assert!(got == content(1, 600_000));
        }
        assert_eq!(grid.delete_bucket("one").await.unwrap_err(), GridError::BucketNotEmpty);
        let delete = DeleteRequest {
            bucket: "one".to_owned(),
            key: "copy".to_owned(),
            precondition: Precondition::default(),
        };
        grid.delete(delete).await.unwrap();
        grid.delete_bucket("one").await.unwrap();
        assert_eq!(grid.head_bucket("one").await.unwrap_err(), GridError::NoSuchBucket);
        assert_eq!(
            put(&grid, "one", "k", &content(1, 1)).await.unwrap_err(),
            GridError::NoSuchBucket
        );
        let names: Vec<String> =
            cluster.grid(6).list_buckets().await.unwrap().into_iter().map(|b| b.name).collect();
        assert_eq!(names, ["two"]);
        // The key of the copy is its own bucket's: it outlives its source's bucket.
        assert!(get(&cluster.grid(3), "two", "copy").await.unwrap() == content(1, 600_000));
    });
}

#[test]
fn uploads_in_parts() {
    let world = World::new(7);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        let grid = cluster.grid(1);
        grid.create_bucket("uploads", "me").await.unwrap();
        let create = CreateUploadRequest {
            bucket: "uploads".to_owned(),
            key: "big".to_owned(),
            meta: ObjectMeta { content_type: Some("a/b".to_owned()), ..Default::default() },
            checksum: None,
            tenant: Tenant("me".to_owned()),
        };
        let upload = grid.create_upload(create.clone()).await.unwrap().upload;
        let sizes = [5 << 20, (5 << 20) + 7, 1000];
        let mut whole = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let number = index as u32 + 1;
            let bytes = content(number.into(), *size);
            whole.extend_from_slice(&bytes);
            let part = PartRequest {
                bucket: "uploads".to_owned(),
                key: "big".to_owned(),
                upload: upload.clone(),
                number,
                length: Some(*size as u64),
                tenant: Tenant("me".to_owned()),
            };
            let info = cluster
                .grid(number.into())
                .upload_part(part, body(&bytes), seal(&format!("p{number}")))
                .await
                .unwrap();
            assert_eq!((info.number, info.size), (number, *size as u64));
        }
        let page = grid.list_parts("uploads", "big", &upload, Some(1), 1).await.unwrap();
        assert_eq!((page.parts.len(), page.parts[0].number, page.next), (1, 2, Some(2)));
        let chosen = |number: u32| ChosenPart { number, etag: format!("p{number}") };
        let complete = |parts: Vec<ChosenPart>| CompleteUploadRequest {
            bucket: "uploads".to_owned(),
            key: "big".to_owned(),
            upload: upload.clone(),
            parts,
            precondition: Precondition::default(),
        };
        let finish = || -> FinishParts {
            Box::new(|parts: &[PartInfo]| {
                let etag = format!("all-{}", parts.len());
                Ok(ObjectSeal { etag, ..ObjectSeal::default() })
            })
        };
        let refused = |parts| grid.complete_upload(complete(parts), finish());
        let wrong = ChosenPart { number: 2, etag: "no".to_owned() };
        assert_eq!(refused(vec![wrong]).await.unwrap_err(), GridError::InvalidPart { number: 2 });
        let missing = refused(vec![chosen(1), chosen(9)]).await.unwrap_err();
        assert_eq!(missing, GridError::InvalidPart { number: 9 });
        let order = refused(vec![chosen(2), chosen(1)]).await.unwrap_err();
        assert_eq!(order, GridError::InvalidPartOrder);
        let small =
            refused(vec![chosen(1), chosen(3), ChosenPart { number: 4, etag: "p4".into() }]);
        assert!(matches!(small.await.unwrap_err(), GridError::PartTooSmall { number: 3, .. }));
        let all = vec![chosen(1), chosen(2), chosen(3)];
        let done = grid.complete_upload(complete(all.clone()), finish()).await.unwrap();
        assert_eq!((done.size, done.etag.as_str()), (whole.len() as u64, "all-3"));
        let again = grid.complete_upload(complete(all), finish()).await.unwrap();
        assert_eq!((again.etag, again.version), (done.etag, done.version));
        let head = cluster.grid(5).head("uploads", "big").await.unwrap();
        assert_eq!(head.part_sizes, [5 << 20, (5 << 20) + 7, 1000]);
        assert_eq!(head.meta.content_type.as_deref(), Some("a/b"));
        assert!(get(&cluster.grid(6), "uploads", "big").await.unwrap() == whole);
        let range = Some(ByteRange::FromTo((5 << 20) - 10, (10 << 20) + 20));
        let part = cluster.grid(7).get("uploads", "big", range).await.unwrap();
        assert!(collect(part.body).await.unwrap() == whole[(5 << 20) - 10..=(10 << 20) + 20]);

        let aborted = grid.create_upload(create).await.unwrap().upload;
        let list = ListUploadsRequest {
            bucket: "uploads".to_owned(),
            prefix: String::new(),
            delimiter: None,
            after: None,
            max: 10,
        };
        let page = grid.list_uploads(list.clone()).await.unwrap();
        assert_eq!(page.uploads.iter().map(|u| &u.upload).collect::<Vec<_>>(), [&aborted]);
        let copy = PartCopyRequest {
            source_bucket: "uploads".to_owned(),
            source_key: "big".to_owned(),
            source_version: None,
            range: Some(ByteRange::FromTo(3, 700_002)),
            part: PartRequest {
                bucket: "uploads".to_owned(),
                key: "big".to_owned(),
                upload: aborted.clone(),
                number: 1,
                length: None,
                tenant: Tenant("me".to_owned()),
            },
        };
        let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let noted = seen.clone();
        let tap: Tap = Box::new(move |chunk| noted.lock().extend_from_slice(chunk));
        let info = grid.upload_part_copy(copy, tap, seal("copied")).await.unwrap();
        assert_eq!(info.size, 700_000);
        assert!(*seen.lock() == whole[3..=700_002]);
        grid.abort_upload("uploads", "big", &aborted).await.unwrap();
        assert_eq!(grid.list_uploads(list).await.unwrap(), UploadsPage::default());
        let gone = grid.abort_upload("uploads", "big", &aborted).await.unwrap_err();
        assert_eq!(gone, GridError::NoSuchUpload);
    });
}
