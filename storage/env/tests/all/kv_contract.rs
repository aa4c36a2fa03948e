//! One contract for all key-value engines: RocksDB, and the simulated one on two disks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nexusgrid_env::real::{RealDisk, RocksEngine};
use nexusgrid_env::sim::{SimDisk, SimEngine};
use nexusgrid_env::{Batch, Disk, Durability, Kv, KvEngine, KvError, KvOptions, KvRead, ScanRange};
use proptest::prelude::*;

fn options() -> KvOptions {
    KvOptions { families: vec!["rows", "other"], blob_families: vec!["blobs"], create: true }
}

type NamedEngine = (&'static str, Arc<dyn KvEngine>, Arc<dyn Disk>);

fn on_every_engine(check: impl Fn(&dyn KvEngine, &dyn Disk, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    let sim = SimDisk::new(1);
    let engines: [NamedEngine; 3] = [
        ("rocks", Arc::new(RocksEngine::new()), Arc::new(RealDisk)),
        ("sim", Arc::new(SimEngine::new(Arc::new(sim.clone()))), Arc::new(sim)),
        ("sim-on-real", Arc::new(SimEngine::new(Arc::new(RealDisk))), Arc::new(RealDisk)),
    ];
    for (name, engine, disk) in engines {
        check(&*engine, &*disk, &directory.path().join(name));
    }
}

fn put(store: &dyn Kv, family: &'static str, rows: &[(&str, &str)]) {
    let mut batch = Batch::default();
    for (key, value) in rows {
        batch.put(family, *key, *value);
    }
    store.write(batch, Durability::Synced).unwrap();
}

fn get(store: &(impl KvRead + ?Sized), key: &str) -> Option<String> {
    let value = store.get("rows", key.as_bytes()).unwrap()?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

fn keys(store: &(impl KvRead + ?Sized), range: &ScanRange) -> Vec<String> {
    let rows = store.scan("rows", range).unwrap();
    rows.iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

fn all() -> ScanRange {
    ScanRange::prefix(b"", usize::MAX)
}

#[test]
fn rows_are_scanned_in_order_within_bounds() {
    on_every_engine(|engine, _, home| {
        let store = engine.open(&home.join("store"), &options()).unwrap();
        put(&*store, "rows", &[("b/2", "2"), ("a", "1"), ("b/1", "1"), ("c", "3"), ("b", "0")]);
        assert_eq!(keys(&*store, &all()), ["a", "b", "b/1", "b/2", "c"]);
        let prefix = ScanRange::prefix(b"b/", usize::MAX);
        assert_eq!(keys(&*store, &prefix), ["b/1", "b/2"]);
        assert_eq!(keys(&*store, &ScanRange { reverse: true, ..prefix }), ["b/2", "b/1"]);
        let range = |start: &str, end: Option<&str>, reverse, limit| ScanRange {
            start: start.into(),
            end: end.map(Into::into),
            reverse,
            limit,
        };
        assert_eq!(keys(&*store, &range("b", Some("c"), false, 2)), ["b", "b/1"]);
        assert_eq!(keys(&*store, &range("b", Some("c"), true, 2)), ["b/2", "b/1"]);
        assert_eq!(keys(&*store, &range("b/1", None, true, 9)), ["c", "b/2", "b/1"]);
        assert!(keys(&*store, &range("c", Some("a"), false, 9)).is_empty());
        assert!(keys(&*store, &range("b", Some("b"), true, 9)).is_empty());
        assert!(keys(&*store, &range("", None, false, 0)).is_empty());
        assert_eq!(store.get("other", b"a").unwrap(), None);
    });
}

#[test]
fn changes_of_a_batch_apply_in_order() {
    on_every_engine(|engine, _, home| {
        let store = engine.open(&home.join("store"), &options()).unwrap();
        put(&*store, "rows", &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
        let mut batch = Batch::default();
        batch.put("rows", "bb", "gone");
        batch.delete_range("rows", "b", "d");
        batch.put("rows", "c", "back");
        batch.delete_range("rows", "z", "a");
        batch.delete("rows", "a");
        batch.delete("rows", "absent");
        store.write(batch, Durability::Unsynced).unwrap();
        assert_eq!(keys(&*store, &all()), ["c", "d"]);
        assert_eq!(get(&*store, "c").as_deref(), Some("back"));
        store.write(Batch::default(), Durability::Synced).unwrap();
    });
}

#[test]
fn a_snapshot_stays_as_it_was() {
    on_every_engine(|engine, _, home| {
        let store = engine.open(&home.join("store"), &options()).unwrap();
        put(&*store, "rows", &[("a", "1"), ("b", "1")]);
        let snapshot = store.snapshot().unwrap();
        put(&*store, "rows", &[("a", "2"), ("c", "2")]);
        store.flush().unwrap();
        assert_eq!(get(&*snapshot, "a").as_deref(), Some("1"));
        assert_eq!(keys(&*snapshot, &all()), ["a", "b"]);
        assert_eq!(get(&*store, "a").as_deref(), Some("2"));
        drop(store);
        assert_eq!(get(&*snapshot, "b").as_deref(), Some("1"));
    });
}

#[test]
fn a_store_is_opened_once_and_keeps_its_rows() {
    on_every_engine(|engine, disk, home| {
        let dir = home.join("store");
        let absent = KvOptions { create: false, ..options() };
        assert!(matches!(engine.open(&dir, &absent), Err(KvError::Corrupt(_))));
        let store = engine.open(&dir, &options()).unwrap();
        assert!(matches!(engine.open(&dir, &options()), Err(KvError::Busy(_))));
        put(&*store, "rows", &[("a", "1")]);
        store.flush().unwrap();
        put(&*store, "rows", &[("b", "2")]);
        assert!(store.size_bytes() > 0);
        drop(store);
        let fewer = KvOptions { families: vec!["rows"], blob_families: vec![], create: false };
        let store = engine.open(&dir, &fewer).unwrap();
        assert_eq!(keys(&*store, &all()), ["a", "b"]);
        assert!(matches!(store.get("other", b"a"), Err(KvError::UnknownFamily(_))));
        let mut batch = Batch::default();
        batch.put("other", "a", "b");
        assert!(matches!(store.write(batch, Durability::Synced), Err(KvError::UnknownFamily(_))));
        drop(store);
        let more = KvOptions { families: vec!["rows", "other", "new"], ..options() };
        let store = engine.open(&dir, &more).unwrap();
        assert_eq!(store.get("new", b"a").unwrap(), None);
        assert_eq!(keys(&*store, &all()), ["a", "b"]);
        drop(store);
        engine.destroy(&dir).unwrap();
        engine.destroy(&dir).unwrap();
        assert!(!disk.exists(&dir).unwrap());
    });
}

#[test]
fn large_values_keep_their_bytes() {
    on_every_engine(|engine, _, home| {
        let dir = home.join("store");
        let store = engine.open(&dir, &options()).unwrap();
        let value: Vec<u8> =
            (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut batch = Batch::default();
        batch.put("blobs", "large", value.clone());
        batch.put("blobs", "small", "x");
        store.write(batch, Durability::Synced).unwrap();
        store.flush().unwrap();
        drop(store);
        let store = engine.open(&dir, &options()).unwrap();
        assert_eq!(store.get("blobs", b"large").unwrap().unwrap(), value);
        assert_eq!(store.get("blobs", b"small").unwrap().unwrap(), "x");
    });
}

#[test]
fn a_checkpoint_is_a_store_of_that_moment() {
    on_every_engine(|engine, disk, home| {
        let store = engine.open(&home.join("store"), &options()).unwrap();
        put(&*store, "rows", &[("a", "1"), ("b", "1")]);
        let large = vec![7; 100_000];
        let mut batch = Batch::default();
        batch.put("blobs", "large", large.clone());
        store.write(batch, Durability::Unsynced).unwrap();
        let taken = home.join("checkpoints/1");
        store.checkpoint(&taken).unwrap();
        assert!(store.checkpoint(&taken).is_err(), "the directory must be absent");
        put(&*store, "rows", &[("a", "2"), ("c", "2")]);
        store.flush().unwrap();

        // Shipped file by file, as to another node.
        let shipped = home.join("shipped");
        disk.create_dir_all(&shipped).unwrap();
        for name in disk.list(&taken).unwrap() {
            use nexusgrid_env::OpenMode;
            let source = disk.open(&taken.join(&name), OpenMode::Read).unwrap();
            let mut bytes = vec![0; source.len().unwrap() as usize];
            source.read_at(&mut bytes, 0).unwrap();
            let target = disk.open(&shipped.join(&name), OpenMode::CreateNew).unwrap();
            target.write_at(&bytes, 0).unwrap();
            target.sync().unwrap();
        }
        disk.sync_dir(&shipped).unwrap();
        for dir in [&taken, &shipped] {
            let copy = engine.open(dir, &KvOptions { create: false, ..options() }).unwrap();
            assert_eq!(keys(&*copy, &all()), ["a", "b"]);
            assert_eq!(get(&*copy, "a").as_deref(), Some("1"));
            assert_eq!(copy.get("blobs", b"large").unwrap().unwrap(), large);
            put(&*copy, "rows", &[("d", "4")]);
        }
        assert_eq!(keys(&*store, &all()), ["a", "b", "c"]);
    });
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u16),
    Delete(u8),
    DeleteRange(u8, u8),
    Flush,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<u8>(), any::<u16>()).prop_map(|(key, value)| Op::Put(key, value)),
        3 => any::<u8>().prop_map(Op::Delete),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(start, end)| Op::DeleteRange(start, end)),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A family is a sorted map.
    #[test]
    fn stores_behave_as_maps(ops in proptest::collection::vec(op(), 1..80), start: u8, end: u8) {
        on_every_engine(|engine, _, home| {
            let dir = home.join("store");
            let mut store = engine.open(&dir, &options()).unwrap();
            let mut model: BTreeMap<u8, u16> = BTreeMap::new();
            for op in &ops {
                let mut batch = Batch::default();
                match *op {
                    Op::Put(key, value) => {
                        batch.put("rows", [key], value.to_le_bytes());
                        model.insert(key, value);
                    }
                    Op::Delete(key) => {
                        batch.delete("rows", [key]);
                        model.remove(&key);
                    }
                    Op::DeleteRange(start, end) => {
                        batch.delete_range("rows", [start], [end]);
                        model.retain(|key, _| !(start..end).contains(key));
                    }
                    Op::Flush => store.flush().unwrap(),
                    Op::Reopen => {
                        drop(store);
                        store = engine.open(&dir, &options()).unwrap();
                    }
                }
                store.write(batch, Durability::Unsynced).unwrap();
            }
            for reverse in [false, true] {
                let range =
                    ScanRange { start: vec![start], end: Some(vec![end]), reverse, limit: 10 };
                let mut expected: Vec<(u8, u16)> = model
                    .iter()
                    .filter(|(key, _)| (start..end).contains(key))
                    .map(|(key, value)| (*key, *value))
                    .collect();
                if reverse {
                    expected.reverse();
                }
                expected.truncate(10);
                let found: Vec<(u8, u16)> = store
                    .scan("rows", &range)
                    .unwrap()
                    .iter()
                    .map(|(key, value)| (key[0], u16::from_le_bytes([value[0], value[1]])))
                    .collect();
                assert_eq!(found, expected);
            }
            drop(store);
            engine.destroy(&dir).unwrap();
        });
    }
}
