//! What a crash leaves of a simulated store: a prefix of its batches, all synced ones included.

use std::path::Path;
use std::sync::Arc;

use nexusgrid_env::sim::{DiskFault, DiskOp, Effect, SimDisk, SimEngine};
use nexusgrid_env::{Batch, Disk, Durability, Kv, KvEngine, KvError, KvOptions, ScanRange};
use proptest::prelude::*;

const DIR: &str = "/kv";

fn open(disk: &SimDisk) -> Result<Arc<dyn Kv>, KvError> {
    let options = KvOptions { families: vec!["a", "b"], blob_families: vec![], create: true };
    SimEngine::new(disk.mount()).open(Path::new(DIR), &options)
}

/// Batch `number` writes one row in each family.
fn batch(number: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put("a", number.to_be_bytes(), vec![number as u8; 700]);
    batch.put("b", number.to_be_bytes(), "x");
    batch
}

/// How many batches a store holds, having checked that there is no hole and no half of one.
fn count(store: &dyn Kv) -> u64 {
    let numbers = |family| -> Vec<u64> {
        let rows = store.scan(family, &ScanRange::prefix(b"", usize::MAX)).unwrap();
        rows.iter().map(|(key, _)| u64::from_be_bytes(key[..].try_into().unwrap())).collect()
    };
    let found = numbers("a");
    assert_eq!(found, numbers("b"), "half a batch");
    assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "a hole");
    found.len() as u64
}

#[derive(Clone, Debug)]
enum Op {
    Unsynced,
    Synced,
    Flush,
    Crash,
    Kill,
    PowerOffAfter(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Unsynced),
        2 => Just(Op::Synced),
        1 => Just(Op::Flush),
        1 => Just(Op::Crash),
        1 => Just(Op::Kill),
        1 => (0u64..12).prop_map(Op::PowerOffAfter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_crash_takes_only_the_newest_unsynced_batches(
        seed in any::<u64>(),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let disk = SimDisk::new(seed);
        let mut store = open(&disk).unwrap();
        // Batches that must be there, and that may be.
        let (mut safe, mut written) = (0, 0);
        for op in ops.into_iter().chain([Op::Crash]) {
            let done = match op {
                Op::Unsynced => store.write(batch(written), Durability::Unsynced).map(|()| 1),
                Op::Synced => store.write(batch(written), Durability::Synced).map(|()| 1),
                Op::Flush => store.flush().map(|()| 0),
                Op::PowerOffAfter(changes) => {
                    disk.power_off_after(changes);
                    Ok(0)
                }
                Op::Crash | Op::Kill => Ok(0),
            };
            let failed = done.is_err();
            if let Ok(more) = done {
                written += more;
                if matches!(op, Op::Synced | Op::Flush) {
                    safe = written;
                }
            }
            if failed || matches!(op, Op::Crash | Op::Kill) {
                // A batch that failed may have been done.
                let most = written + u64::from(failed);
                if matches!(op, Op::Kill) {
                    safe = written;
                    disk.kill();
                } else {
                    disk.crash();
                }
                prop_assert!(store.scan("a", &ScanRange::prefix(b"", 1)).is_err());
                store = open(&disk).unwrap();
                let left = count(&*store);
                prop_assert!(safe <= left && left <= most, "{safe} <= {left} <= {most}");
                (safe, written) = (left, left);
            }
        }
    }
}

#[test]
fn a_store_takes_no_more_writes_after_a_disk_error() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    store.write(batch(0), Durability::Synced).unwrap();
    disk.inject(DiskFault::new(&[DiskOp::Sync], Effect::Eio).times(1));
    assert!(matches!(store.write(batch(1), Durability::Synced), Err(KvError::Io(_))));
    assert!(matches!(store.write(batch(2), Durability::Unsynced), Err(KvError::Io(_))));
    assert!(store.flush().is_err());
    drop(store);
    disk.crash();
    assert!(count(&*open(&disk).unwrap()) >= 1);
}

#[test]
fn a_flipped_bit_is_found() {
    let mut found = 0;
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let store = open(&disk).unwrap();
        store.write(batch(0), Durability::Synced).unwrap();
        store.flush().unwrap();
        for number in 1..6 {
            store.write(batch(number), Durability::Synced).unwrap();
        }
        drop(store);
        let files: Vec<_> = disk.files().into_iter().filter(|(_, len)| *len > 0).collect();
        assert_eq!(files.len(), 2, "an image and a log");
        let (path, len) = &files[seed as usize % 2];
        let span = if path.to_string_lossy().contains("LOG") { len * 3 / 5 } else { *len };
        disk.flip_bit(path, (seed * 7919) % (span * 8)).unwrap();
        match open(&disk) {
            Err(KvError::Corrupt(_)) => found += 1,
            Err(error) => panic!("{error}"),
            Ok(_) => {}
        }
    }
    assert_eq!(found, 100);
}

#[test]
fn a_log_over_its_bound_becomes_an_image() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    for number in 0..20 {
        let mut batch = Batch::default();
        batch.put("a", "the same key", vec![number; 1 << 20]);
        store.write(batch, Durability::Unsynced).unwrap();
    }
    assert!(disk.files().iter().map(|(_, len)| len).sum::<u64>() < 12 << 20);
    drop(store);
    assert_eq!(open(&disk).unwrap().get("a", b"the same key").unwrap().unwrap()[0], 19);
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 3);
}
