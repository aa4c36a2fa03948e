//! Versions through the façade: what is kept is read and counted, what is removed leaves the drives.

use std::time::Duration;

use nexusgrid_env::sim::World;
use nexusgrid_grid::*;

use super::cluster::{self, Cluster, collect, content, put};

const BUCKET: &str = "versions";

async fn shards(cluster: &Cluster) -> u64 {
    let members: Vec<_> = cluster.members.lock().values().cloned().collect();
    let mut sum = 0;
    for member in members {
        sum += member.drive.usage().await.unwrap().shards;
    }
    sum
}

async fn until_shards(cluster: &Cluster, wanted: u64) {
    for _ in 0..2400 {
        if shards(cluster).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{} shards, not {wanted}", shards(cluster).await);
}

fn delete(version: Option<VersionName>) -> Vec<VersionDelete> {
    let (key, precondition) = ("dir/k".to_owned(), Precondition::default());
    vec![VersionDelete { key, version, precondition, expected: None, bypass: false }]
}

#[test]
fn versions_are_read_until_they_are_removed_and_then_leave_every_drive() {
    let world = World::new(70);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, cluster::options(7)).await;
        let grid = cluster.grid(2);
        grid.create_bucket(BUCKET, "me").await.unwrap();
        let null = put(&grid, BUCKET, "dir/k", &content(1, 900_000)).await.unwrap();
        assert_eq!(null.version_name, None);
        let on = RulesChange::Versioning(Versioning::Enabled);
        grid.set_version_rules(BUCKET, on).await.unwrap();
        let newer = put(&grid, BUCKET, "dir/k", &content(2, 800_000)).await.unwrap();
        let id = newer.version_name.unwrap();
        // Through the packer and inline, which answer alike.
        let small = put(&grid, BUCKET, "dir/k", &content(3, 50_000)).await.unwrap();
        let tiny = put(&grid, BUCKET, "dir/k", &content(4, 100)).await.unwrap();
        let marker = grid.delete_versions(BUCKET, delete(None)).await.unwrap().remove(0).unwrap();
        assert!(marker.is_marker);
        until_shards(&cluster, 6 + 6 + 3).await;

        let other = cluster.grid(5);
        let hidden = other.head(BUCKET, "dir/k").await.unwrap_err();
        assert!(matches!(hidden, GridError::DeleteMarker { .. }), "{hidden:?}");
        let names = [
            (VersionName::Null, content(1, 900_000)),
            (id, content(2, 800_000)),
            (small.version_name.unwrap(), content(3, 50_000)),
            (tiny.version_name.unwrap(), content(4, 100)),
        ];
        for (name, bytes) in &names {
            let open = other.open_version(BUCKET, "dir/k", Some(*name)).await.unwrap();
            assert_eq!(open.info().version_name, Some(*name));
            assert!(collect(open.read(None).unwrap().1).await.unwrap() == *bytes);
        }
        let list = ListVersionsRequest {
            bucket: BUCKET.to_owned(),
            prefix: String::new(),
            delimiter: None,
            after: None,
            max: 10,
        };
        let page = other.list_versions(list.clone()).await.unwrap();
        assert_eq!((page.versions.len(), page.markers.len(), page.next), (4, 1, None));
        let folded = ListVersionsRequest { delimiter: Some("/".to_owned()), ..list };
        assert_eq!(other.list_versions(folded).await.unwrap().prefixes, ["dir/"]);

        // An old one is brought back by a copy onto its own key.
        let copy = CopyRequest {
            source_bucket: BUCKET.to_owned(),
            source_key: "dir/k".to_owned(),
            source_version: None,
            bucket: BUCKET.to_owned(),
            key: "dir/k".to_owned(),
            meta: None,
            precondition: Precondition::default(),
            tenant: Tenant("t".to_owned()),
        };
        let back = grid.copy_version(copy, Some(VersionName::Null)).await.unwrap();
        let got = other.get(BUCKET, "dir/k", None).await.unwrap();
        assert!(collect(got.body).await.unwrap() == content(1, 900_000));
        let report = other.fsck(false).await.unwrap();
        assert!(report.is_clean() && report.orphans == 0, "{report:?}");

        assert_eq!(grid.delete_bucket(BUCKET).await, Err(GridError::BucketNotEmpty));
        let all =
            names.iter().map(|(name, _)| Some(*name)).chain([back.version_name, marker.version]);
        for version in all {
            let done = grid.delete_versions(BUCKET, delete(version)).await.unwrap().remove(0);
            assert_eq!(done.unwrap().version, version);
        }
        grid.delete_bucket(BUCKET).await.unwrap();
        until_shards(&cluster, 0).await;
    });
}
