//! Restores: noted, and applied to a root group that was itself lost.

use super::*;
use crate::root::restore::{EPOCHS_PASSED_OVER, IDS_PASSED_OVER, lost_generation, restored};

fn restore(incarnation: u64) -> Restore {
    let group =
        |group| RestoredGroup { group: GroupId(group), generation: 65, index: 9, checkpoint_ms: 4 };
    Restore { incarnation, at_ms: 5, groups: vec![group(0), group(2)] }
}

fn restores(cluster: &Cluster) -> Restores {
    match cluster.ask(&RootQuery::Restores) {
        Ok(RootAnswer::Restores(restores)) => restores,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_restore_freezes_until_the_present_incarnation_is_thawed() {
    let mut cluster = Cluster::new();
    assert!(!restores(&cluster).is_frozen());
    let record = |incarnation| RootCommand::RecordRestore(restore(incarnation));
    let refused = Err(RootError::Invalid(InvalidField::State));
    assert_eq!(cluster.apply(&record(3)), refused);
    let version = cluster.map().version;
    assert_eq!(cluster.apply(&record(2)), Ok(RootOk::Done));
    assert_eq!(cluster.apply(&record(2)), Ok(RootOk::Done), "asked again");
    assert_eq!(cluster.map().incarnation, 2);
    assert!(cluster.map().version > version, "every node hears of it");
    assert!(restores(&cluster).is_frozen());
    assert_eq!(lost_generation(&restores(&cluster).restores, GroupId(2)), Some(65));
    assert_eq!(lost_generation(&restores(&cluster).restores, GroupId(1)), None);
    assert_eq!(cluster.apply(&RootCommand::Thaw { incarnation: 1 }), refused);
    assert_eq!(cluster.apply(&RootCommand::Thaw { incarnation: 2 }), Ok(RootOk::Done));
    assert!(!restores(&cluster).is_frozen());
    assert_eq!(cluster.apply(&record(3)), Ok(RootOk::Done));
    assert!(restores(&cluster).is_frozen(), "frozen again");
}

#[test]
fn the_system_bucket_is_made_once_and_found_by_no_client() {
    let mut cluster = Cluster::new();
    let make = RootCommand::CreateSystemBucket { sealed_key: vec![1], now_ms: 1 };
    let made = cluster.apply(&make);
    assert_eq!(made, Ok(RootOk::Bucket { bucket: BucketId(1), group: GroupId(1) }));
    assert_eq!(cluster.apply(&make), made);
    let map = cluster.map();
    assert_eq!(map.bucket(crate::root::SYSTEM_BUCKET), None);
    assert_eq!(map.system_bucket().map(|bucket| bucket.id), Some(BucketId(1)));
    let name = crate::root::SYSTEM_BUCKET.to_owned();
    let delete = RootCommand::BeginDeleteBucket { name: name.clone() };
    assert_eq!(cluster.apply(&delete), Err(RootError::NoSuchBucket));
    assert!(!is_bucket_name(&name));
}

#[test]
fn a_restored_root_group_gives_nothing_twice_and_takes_the_newest_map() {
    let mut cluster = Cluster::new();
    let bucket = |name: &str| RootCommand::CreateBucket {
        name: name.into(),
        owner: "o".into(),
        settings: BucketSettings::default(),
        sealed_key: vec![1],
        now_ms: 1,
    };
    let drive = |incarnation| {
        let incarnation = [incarnation; 16];
        RootCommand::AddDrive(NewDrive { node: NodeId(1), incarnation, size_bytes: 1, weight: 1 })
    };
    let pg = |cluster: &Cluster, drive| {
        let class = PgClass::Replicated { copies: 1 };
        let drawn_from = cluster.map().version;
        RootCommand::CreatePg(NewPg { class, slots: vec![DriveId(drive)], drawn_from })
    };
    cluster.apply(&bucket("kept-bucket")).unwrap();
    cluster.apply(&drive(1)).unwrap();
    let command = pg(&cluster, 1);
    cluster.apply(&command).unwrap();
    let checkpoint = cluster.store.clone();
    // After the checkpoint: known from the map that some node kept.
    cluster.apply(&drive(2)).unwrap();
    let command = pg(&cluster, 2);
    cluster.apply(&command).unwrap();
    cluster.apply(&bucket("lost-bucket")).unwrap();
    let newest = cluster.map();

    let mut cluster = Cluster { store: checkpoint, keys: 1 };
    let index = 1 << 32;
    let founder = RaftId::new(NodeId(1), 66);
    let batch = restored(&cluster.store, index, &newest, founder, &restore(2)).unwrap();
    cluster.store.write(batch);
    cluster.store.index = index;
    let map = cluster.map();
    assert!(map.version > newest.version);
    assert_eq!(map.incarnation, 2);
    assert_eq!(map.drives.len(), 2);
    for (id, was) in &newest.pgs {
        let now = &map.pgs[id];
        assert_eq!(now.slots, was.slots);
        assert_eq!(now.epoch.0, was.epoch.0 + EPOCHS_PASSED_OVER, "I5");
        assert_eq!(now.fill_session, was.fill_session + EPOCHS_PASSED_OVER, "R4");
    }
    assert_eq!(map.voters(GroupId(0)), [founder]);
    assert_eq!(map.voters(GroupId(2)), [founder]);
    assert_eq!(map.voters(GroupId(1)), newest.voters(GroupId(1)));
    // Its key is lost, and with it its bytes: a name alone would be of no use.
    assert!(map.bucket("kept-bucket").is_some() && map.bucket("lost-bucket").is_none());
    assert!(restores(&cluster).is_frozen());
    // Whatever comes next has an id that nothing had.
    let passed = u64::from(IDS_PASSED_OVER);
    assert_eq!(cluster.apply(&drive(3)), Ok(RootOk::Drive(DriveId(2 + passed + 1))));
    assert_eq!(cluster.apply(&drive(2)), Ok(RootOk::Drive(DriveId(2))), "known by its marker");
    let Ok(RootOk::Bucket { bucket, .. }) = cluster.apply(&bucket("lost-bucket")) else {
        panic!("no bucket")
    };
    assert!(bucket.0 > newest.buckets.len() as u64 + passed);
}
