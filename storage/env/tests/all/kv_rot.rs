//! One flipped bit in any file of a RocksDB store: found and named as rot, or without effect on what
//! is read; never a wrong row.
#![allow(clippy::disallowed_methods, reason = "flips bits in files behind the store's back")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexusgrid_env::real::RocksEngine;
use nexusgrid_env::{Batch, Durability, Kv, KvEngine, KvError, KvOptions, ScanRange};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Places tried in each file.
const FLIPS: u64 = 8;
/// Batches that only the write-ahead log holds.
const UNFLUSHED: u8 = 8;

fn options() -> KvOptions {
    KvOptions { families: vec!["rows"], blob_families: vec!["blobs"], create: true }
}

fn put(store: &dyn Kv, tag: &str, number: u8, rows: &mut Rows) {
    let mut batch = Batch::default();
    for (family, len) in [("rows", 40), ("blobs", 700)] {
        let key = format!("{family}/{tag}/{number:03}").into_bytes();
        let value: Vec<u8> =
            (0..len).map(|at: u32| (at as u8).wrapping_mul(number) ^ 0x5a).collect();
        batch.put(family, key.clone(), value.clone());
        rows.insert(key, value);
    }
    store.write(batch, Durability::Synced).unwrap();
}

/// What the store holds after a long life: table and blob files, a manifest, and unflushed rows.
/// Gives all states that it may come back in: each with some more of the unflushed batches.
fn fill(dir: &Path) -> Vec<Rows> {
    let store = RocksEngine::new().open(dir, &options()).unwrap();
    let mut rows = Rows::new();
    for tag in ["first", "second"] {
        (0..60).for_each(|number| put(&*store, tag, number, &mut rows));
        store.flush().unwrap();
    }
    let mut states = vec![rows.clone()];
    for number in 0..UNFLUSHED {
        put(&*store, "third", number, &mut rows);
        states.push(rows.clone());
    }
    states
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            // Prose, locks, and a name that nothing is compared with.
            !["LOG", "LOCK", "OWNER", "IDENTITY", "OPTIONS"].iter().any(|p| name.starts_with(p))
        })
        .collect();
    files.sort();
    files
}

fn flip(path: &Path, bit: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn verify(store: &dyn Kv, scratch: &Path) -> Result<(), KvError> {
    let mut verify = store.verify(scratch)?;
    while verify.step(10_000)?.is_some() {}
    Ok(())
}

fn read(store: &dyn Kv) -> Result<Rows, KvError> {
    let mut rows = Rows::new();
    for family in ["rows", "blobs"] {
        let found = store.scan(family, &ScanRange::prefix(b"", usize::MAX))?;
        rows.extend(found.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
    Ok(rows)
}

/// Whether the rot was found.
fn is_found<T>(result: &Result<T, KvError>, what: &str) -> bool {
    match result {
        Ok(_) => false,
        Err(KvError::Corrupt(_)) => true,
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn a_flipped_bit_in_a_closed_store_is_found_or_harmless() {
    let home = tempfile::tempdir().unwrap();
    let whole = home.path().join("whole");
    let states = fill(&whole);
    let engine = RocksEngine::new();
    let mut found = BTreeMap::new();
    for path in files(&whole) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bits = fs::metadata(&path).unwrap().len() * 8;
        for at in 0..FLIPS.min(bits) {
            let bit = bits * at / FLIPS.min(bits);
            let what = format!("bit {bit} of {name}");
            let dir = home.path().join("rotten");
            copy(&whole, &dir);
            flip(&dir.join(&name), bit);
            let opened = engine.open(&dir, &options());
            let mut rotten = is_found(&opened, &what);
            if let Ok(store) = &opened {
                rotten |= is_found(&verify(&**store, &home.path().join("scratch")), &what);
                let read = read(&**store);
                let wrong = |rows: &Rows| !states.contains(rows);
                assert!(!read.as_ref().is_ok_and(wrong), "{what}: wrong rows");
                assert!(rotten || !is_found(&read, &what), "{what}: verified, yet not readable");
            }
            drop(opened);
            fs::remove_dir_all(&dir).unwrap();
            *found.entry(name.clone()).or_insert(0) += u64::from(rotten);
        }
    }
    println!("found of {FLIPS}: {found:?}");
    for (name, found) in &found {
        let is_log = name.ends_with(".log");
        assert!(is_log || *found > 0, "{name}: nothing was found");
    }
    let is_kind = |kind: &str| found.keys().any(|name| name.contains(kind));
    assert!([".sst", ".blob", "MANIFEST", "CURRENT", ".log"].into_iter().all(is_kind), "{found:?}");
}

#[test]
fn a_flipped_bit_under_an_open_store_is_found_by_verification() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    fill(&dir);
    let scratch = home.path().join("scratch");
    let engine = RocksEngine::new();
    let store: Arc<dyn Kv> = engine.open(&dir, &options()).unwrap();
    // All of it in caches and open tables.
    read(&*store).unwrap();
    verify(&*store, &scratch).unwrap();
    assert!(!scratch.exists());
    for kind in [".sst", ".blob", "MANIFEST", "CURRENT"] {
        let is_kind = |path: &&PathBuf| path.to_string_lossy().contains(kind);
        let path = files(&dir).iter().find(is_kind).unwrap().clone();
        let bit = fs::metadata(&path).unwrap().len() * 8 / 3;
        flip_in_place(&path, bit);
        let verified = verify(&*store, &scratch);
        assert!(is_found(&verified, kind), "{kind}");
        flip_in_place(&path, bit);
        verify(&*store, &scratch).unwrap();
    }
}

fn flip_in_place(path: &Path, bit: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).unwrap();
}
