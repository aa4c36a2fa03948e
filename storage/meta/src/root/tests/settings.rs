//! What administrators and nodes set: workers, and how full drives are.

use super::*;

#[test]
fn a_workers_setting_reaches_the_map_and_goes_when_it_says_nothing() {
    let mut cluster = Cluster::new();
    let name = || "remap".to_owned();
    let setting = WorkerSetting { paused: true, bytes_per_second: Some(5) };
    let before = cluster.map().version;
    cluster.apply(&RootCommand::SetWorker { name: name(), setting }).unwrap();
    assert_eq!(cluster.map().workers.get("remap"), Some(&setting));
    assert!(cluster.map().version > before);
    let setting = WorkerSetting::default();
    cluster.apply(&RootCommand::SetWorker { name: name(), setting }).unwrap();
    assert!(cluster.map().workers.is_empty());
    let invalid = Err(RootError::Invalid(InvalidField::Worker));
    let setting = WorkerSetting { bytes_per_second: Some(0), ..setting };
    assert_eq!(cluster.apply(&RootCommand::SetWorker { name: name(), setting }), invalid);
    let setting = WorkerSetting { paused: true, ..WorkerSetting::default() };
    let nameless = RootCommand::SetWorker { name: String::new(), setting };
    assert_eq!(cluster.apply(&nameless), invalid);
}

#[test]
fn a_drives_mark_makes_a_new_map_and_its_bytes_alone_do_not() {
    let mut cluster = Cluster::new();
    let drive = cluster.drive(NodeId(1));
    let mut said = |used_bytes, mark| {
        cluster.apply(&RootCommand::SetDriveUse { drive, used_bytes, mark }).unwrap();
        let map = cluster.map();
        (map.version, map.drives[&drive].used_bytes, map.drives[&drive].space)
    };
    let (first, ..) = said(1, SpaceMark::Normal);
    assert_eq!(said(2, SpaceMark::Normal), (first, 2, SpaceMark::Normal));
    let (version, used, mark) = said(3, SpaceMark::NoBackfill);
    assert_eq!((version > first, used, mark), (true, 3, SpaceMark::NoBackfill));
}
