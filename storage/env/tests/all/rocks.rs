//! RocksDB alone: what its log forgives, and what many stores of a process cost.
#![allow(clippy::disallowed_methods, reason = "looks at RocksDB's files and at this process")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexusgrid_env::real::RocksEngine;
use nexusgrid_env::{Batch, Durability, Kv, KvEngine, KvError, KvOptions, ScanRange};

fn open(dir: &Path) -> Result<Arc<dyn Kv>, KvError> {
    let options = KvOptions { families: vec!["rows"], blob_families: vec![], create: true };
    RocksEngine::new().open(dir, &options)
}

/// Ten batches in the log, none in table files.
fn fill(dir: &Path) {
    let store = open(dir).unwrap();
    for number in 0..10u8 {
        let mut batch = Batch::default();
        batch.put("rows", [number], vec![number; 300]);
        store.write(batch, Durability::Synced).unwrap();
    }
}

fn log_of(dir: &Path) -> PathBuf {
    let logs = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|e| e == "log"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

#[test]
fn a_log_cut_off_at_its_end_loses_its_last_batch_only() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let log = log_of(directory.path());
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 5]).unwrap();
    let store = open(directory.path()).unwrap();
    let rows = store.scan("rows", &ScanRange::prefix(b"", usize::MAX)).unwrap();
    assert_eq!(rows.len(), 9);
}

/// A loss of power writes the unsynced pages of a log in any order: what stands before the first
/// that is missing counts, and the store takes writes again.
#[test]
fn a_log_torn_in_its_middle_is_read_up_to_there() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let log = log_of(directory.path());
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100].fill(0);
    std::fs::write(&log, bytes).unwrap();
    let count = |store: &Arc<dyn Kv>| {
        let rows = store.scan("rows", &ScanRange::prefix(b"", usize::MAX)).unwrap();
        assert!(rows.iter().enumerate().all(|(at, (key, _))| key[..] == [at as u8]), "a hole");
        rows.len()
    };
    let store = open(directory.path()).unwrap();
    let left = count(&store);
    assert!((1..9).contains(&left), "{left} batches");
    let mut batch = Batch::default();
    batch.put("rows", [left as u8], "again");
    store.write(batch, Durability::Synced).unwrap();
    drop(store);
    assert_eq!(count(&open(directory.path()).unwrap()), left + 1);
}

/// What was flushed is no part of the log: there, damage is damage.
#[test]
fn a_flipped_bit_in_a_flushed_table_is_corruption() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    open(directory.path()).unwrap().flush().unwrap();
    let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    for table in files.filter(|path| path.extension().is_some_and(|e| e == "sst")) {
        let mut bytes = std::fs::read(&table).unwrap();
        bytes[10] ^= 1;
        std::fs::write(&table, bytes).unwrap();
    }
    let read = open(directory.path())
        .and_then(|store| store.scan("rows", &ScanRange::prefix(b"", usize::MAX)));
    assert!(matches!(read, Err(KvError::Corrupt(_))));
}

#[test]
fn what_is_no_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("CURRENT"), "nonsense").unwrap();
    assert!(open(directory.path()).is_err());
}

fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn six_stores_of_one_process_stay_small() {
    const FAMILIES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let before = peak_memory_bytes();
    let directory = tempfile::tempdir().unwrap();
    let engine = RocksEngine::new();
    let options =
        KvOptions { families: FAMILIES.to_vec(), blob_families: vec!["blobs"], create: true };
    let stores: Vec<_> = (0..6)
        .map(|n| engine.open(&directory.path().join(format!("store-{n}")), &options).unwrap())
        .collect();
    // 150 MB of rows and 50 MB of blobs.
    for round in 0..500u32 {
        for store in &stores {
            let mut batch = Batch::default();
            for row in 0..100u32 {
                let key = [round.wrapping_mul(2_654_435_761).to_be_bytes(), row.to_be_bytes()];
                let value: Vec<u8> = (0..500).map(|n| ((n * row) ^ round) as u8).collect();
                batch.put(FAMILIES[(row % 8) as usize], key.concat(), value);
            }
            batch.put("blobs", round.to_be_bytes(), vec![round as u8; 16 << 10]);
            store.write(batch, Durability::Unsynced).unwrap();
        }
    }
    for store in &stores {
        for family in FAMILIES {
            store.scan(family, &ScanRange::prefix(b"", 1000)).unwrap();
        }
        assert!(store.size_bytes() > 1 << 20);
    }
    let grown = peak_memory_bytes() - before;
    println!("six stores took {} MiB", grown >> 20);
    assert!(grown < 160 << 20, "six stores took {} MiB", grown >> 20);
}
