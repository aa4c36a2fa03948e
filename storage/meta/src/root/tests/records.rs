//! Records: several change together or not at all, and only from what was read.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::root::limits;
use crate::root::records::bucket_records;

fn write(path: &str, expect: Option<u64>, value: Option<&[u8]>) -> RecordWrite {
    RecordWrite { path: path.into(), expect, value: value.map(<[u8]>::to_vec) }
}

impl Cluster {
    fn write(&mut self, writes: &[RecordWrite]) -> RootReply {
        self.apply(&RootCommand::WriteRecords(writes.to_vec()))
    }

    fn under(&self, prefix: &str, after: &str, limit: u32) -> (Vec<String>, bool) {
        let query = RootQuery::RecordsUnder { prefix: prefix.into(), after: after.into(), limit };
        let Ok(RootAnswer::Records { records, more }) = self.ask(&query) else {
            panic!("no records")
        };
        (records.into_iter().map(|record| record.path).collect(), more)
    }

    fn record(&self, path: &str) -> Option<Record> {
        let query = RootQuery::Records { paths: vec![path.into(), "none".into()] };
        let Ok(RootAnswer::Records { mut records, .. }) = self.ask(&query) else {
            panic!("no records")
        };
        records.pop()
    }
}

#[test]
fn several_change_together_or_not_at_all() {
    let mut cluster = Cluster::new();
    let before = cluster.map();
    assert_eq!(before.rules_version, 0);
    cluster.write(&[write("a", Some(0), Some(b"1")), write("b", Some(0), Some(b"2"))]).unwrap();
    let map = cluster.map();
    assert!(map.version > before.version && map.rules_version == map.version);
    let a = cluster.record("a").unwrap();
    assert_eq!((a.value.as_slice(), a.revision), (b"1".as_slice(), map.version));

    // One that has changed meanwhile stops all.
    let stale = [write("b", None, Some(b"3")), write("a", Some(a.revision + 1), Some(b"4"))];
    assert_eq!(cluster.write(&stale), Err(RootError::RecordChanged));
    let twice = [write("a", Some(0), Some(b"5"))];
    assert_eq!(cluster.write(&twice), Err(RootError::RecordChanged));
    assert_eq!(cluster.record("b").unwrap().value, b"2");
    assert_eq!(cluster.map().rules_version, map.rules_version);

    cluster.write(&[write("a", Some(a.revision), None), write("b", None, Some(b"6"))]).unwrap();
    assert_eq!(cluster.record("a"), None);
    assert_eq!(cluster.record("b").unwrap().value, b"6");
}

#[test]
fn bad_records_are_refused() {
    let mut cluster = Cluster::new();
    let long = "x".repeat(limits::RECORD_PATH_BYTES_MAX + 1);
    for path in ["", "a\nb", "é", &long] {
        let refused = cluster.write(&[write(path, None, Some(b""))]);
        assert_eq!(refused, Err(RootError::Invalid(InvalidField::Record)), "{path}");
    }
    let large = vec![0; limits::RECORD_BYTES_MAX + 1];
    let refused = cluster.write(&[write("a", None, Some(&large))]);
    assert_eq!(refused, Err(RootError::LimitReached(InvalidField::Record)));
    let twice = [write("a", None, None), write("a", None, Some(b""))];
    assert_eq!(cluster.write(&twice), Err(RootError::Invalid(InvalidField::Record)));
    assert_eq!(cluster.write(&[]), Err(RootError::Invalid(InvalidField::Record)));
    let many: Vec<RecordWrite> =
        (0..=limits::RECORD_WRITES_MAX).map(|at| write(&at.to_string(), None, Some(b""))).collect();
    assert_eq!(cluster.write(&many), Err(RootError::Invalid(InvalidField::Record)));
}

#[test]
fn a_bucket_takes_its_records_along() {
    let mut cluster = Cluster::new();
    let create = |name: &str| RootCommand::CreateBucket {
        name: name.into(),
        owner: "me".into(),
        settings: BucketSettings::default(),
        sealed_key: vec![1],
        now_ms: 1,
    };
    cluster.apply(&create("first")).unwrap();
    cluster.apply(&create("other")).unwrap();
    let (first, other) = (bucket_records(BucketId(1)), bucket_records(BucketId(2)));
    for under in [&first, &other, &"bucket/11/".to_owned()] {
        cluster.write(&[write(&format!("{under}policy"), Some(0), Some(b"x"))]).unwrap();
    }
    let before = cluster.map().rules_version;
    cluster.apply(&RootCommand::BeginDeleteBucket { name: "first".into() }).unwrap();
    cluster.apply(&RootCommand::FinishDeleteBucket { bucket: BucketId(1) }).unwrap();
    let left = (vec!["bucket/11/policy".to_owned(), "bucket/2/policy".to_owned()], false);
    assert_eq!(cluster.under("", "", 10), left);
    assert!(cluster.map().rules_version > before);
}

#[test]
fn a_node_that_holds_data_only_gets_at_no_key() {
    use nexusgrid_env::Roles;
    let storage = Roles { storage: true, meta: false, gateway: false };
    let token = RootCommand::CreateToken {
        id: "t".into(),
        secret_hash: [1; 32],
        expires_ms: 1,
        roles: Roles::ALL,
        now_ms: 0,
    };
    for command in [
        RootCommand::WriteRecords(vec![write("a", None, None)]),
        RootCommand::DeleteKey { id: "AAA".into() },
        RootCommand::Thaw { incarnation: 1 },
        token,
        init(),
    ] {
        assert!(!Root.takes_from(storage, &command.encode()), "{command:?}");
        assert!(Root.takes_from(Roles { gateway: true, ..storage }, &command.encode()));
    }
    let report = report(NodeId(2), NodeId(1), Sighting::Down, 1);
    assert!(Root.takes_from(storage, &report.encode()));
    for query in [
        RootQuery::Records { paths: vec!["key/A".into()] },
        RootQuery::RecordsUnder { prefix: String::new(), after: String::new(), limit: 1 },
        RootQuery::AccessKeys { after: String::new(), limit: 1 },
        RootQuery::BucketKeys { bucket: BucketId(1) },
        RootQuery::Tokens,
    ] {
        assert!(!Root.answers_to(storage, &query.encode()), "{query:?}");
    }
    assert!(Root.answers_to(storage, &RootQuery::Topology { unless_version: 0 }.encode()));
}

#[test]
fn golden_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let command = RootCommand::WriteRecords(vec![write("a/b", Some(300), Some(b"xy"))]);
    assert_eq!(hex(&command.encode()), "01220103612f6201ac0201027879");
    assert_eq!(hex(&crate::root::rows::record("a/b")), "41612f62");
    assert_eq!(hex(&RootQuery::Records { paths: vec!["a".into()] }.encode()), "0107010161");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a map in memory.
    #[test]
    fn records_behave_like_a_map(
        steps in prop::collection::vec(
            (("[ab]/[a-c]", prop::option::of(0u8..4), prop::option::of(0u8..3)), "[ab]?/?", 1u32..4),
            1..30,
        ),
    ) {
        let mut cluster = Cluster::new();
        let mut model: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
        for ((path, expect, value), prefix, limit) in steps {
            let known = model.get(&path).map_or(0, |(revision, _)| *revision);
            // Sometimes what is there, sometimes not.
            let expect = expect.map(|off| known + u64::from(off / 2));
            let value = value.map(|value| vec![value]);
            let step = RecordWrite { path: path.clone(), expect, value: value.clone() };
            match cluster.write(&[step]) {
                Ok(_) => {
                    prop_assert!(expect.is_none_or(|expect| expect == known));
                    let revision = cluster.map().rules_version;
                    match value {
                        Some(value) => drop(model.insert(path, (revision, value))),
                        None => drop(model.remove(&path)),
                    }
                }
                Err(error) => {
                    prop_assert_eq!(error, RootError::RecordChanged);
                    prop_assert!(expect.is_some_and(|expect| expect != known));
                }
            }
            let expected: Vec<String> =
                model.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
            let (mut found, mut after) = (Vec::new(), String::new());
            loop {
                let (page, more) = cluster.under(&prefix, &after, limit);
                found.extend(page);
                after = found.last().cloned().unwrap_or_default();
                if !more {
                    break;
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
