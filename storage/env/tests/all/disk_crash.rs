//! What a simulated disk does at a crash and under injected faults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nexusgrid_env::sim::{DiskFault, DiskOp, Effect, SimDisk};
use nexusgrid_env::{Disk, OpenMode};
use proptest::prelude::*;

const HOME: &str = "/home";

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(Path::new(HOME)).unwrap();
    disk
}

fn path(number: u8) -> PathBuf {
    Path::new(HOME).join(format!("file-{number}"))
}

#[derive(Clone, Debug)]
enum Op {
    Write { file: u8, offset: u64, len: usize, byte: u8 },
    SetLen { file: u8, len: u64 },
    Sync { file: u8 },
    SyncDir,
    Rename { from: u8, to: u8 },
    Remove { file: u8 },
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let file = || 0u8..4;
    prop_oneof![
        6 => (file(), 0u64..6_000, 1usize..5_000, 1u8..)
            .prop_map(|(file, offset, len, byte)| Op::Write { file, offset, len, byte }),
        1 => (file(), 0u64..10_000).prop_map(|(file, len)| Op::SetLen { file, len }),
        3 => file().prop_map(|file| Op::Sync { file }),
        3 => Just(Op::SyncDir),
        1 => (file(), file()).prop_map(|(from, to)| Op::Rename { from, to }),
        1 => file().prop_map(|file| Op::Remove { file }),
        1 => Just(Op::Crash),
    ]
}

/// A file of the model: its number of creation, and its possible contents.
#[derive(Clone, Default)]
struct ModelFile {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Default)]
struct Model {
    files: BTreeMap<u64, ModelFile>,
    names: BTreeMap<u8, u64>,
    /// For each name what it may stand for after a crash; `None` is absence.
    possible: BTreeMap<u8, BTreeSet<Option<u64>>>,
    next: u64,
}

impl Model {
    fn file(&mut self, name: u8) -> &mut ModelFile {
        let next = &mut self.next;
        let id = *self.names.entry(name).or_insert_with(|| {
            *next += 1;
            *next
        });
        self.possible.entry(name).or_insert_with(|| [None].into()).insert(Some(id));
        self.files.entry(id).or_default()
    }

    fn name_changed(&mut self, name: u8) {
        let now = self.names.get(&name).copied();
        self.possible.entry(name).or_insert_with(|| [None].into()).insert(now);
    }

    fn sync_dir(&mut self) {
        for (name, possible) in &mut self.possible {
            *possible = [self.names.get(name).copied()].into();
        }
    }

    /// Checks what a crash left against what it may leave, and goes on from there.
    fn adopt(&mut self, disk: &SimDisk) {
        let found: BTreeMap<u8, Vec<u8>> =
            (0..4).filter_map(|name| Some((name, disk.content(&path(name)).ok()?))).collect();
        let mut names = BTreeMap::new();
        let mut files = BTreeMap::new();
        for name in 0..4u8 {
            let possible = self.possible.get(&name).cloned().unwrap_or_else(|| [None].into());
            let Some(content) = found.get(&name) else {
                assert!(possible.contains(&None), "name {name} was durable and is gone");
                continue;
            };
            let candidate = possible
                .iter()
                .flatten()
                .find(|id| self.files.get(*id).is_some_and(|file| allows(file, content)));
            assert!(candidate.is_some(), "name {name} holds what was never written");
            self.next += 1;
            names.insert(name, self.next);
            files.insert(self.next, ModelFile { now: content.clone(), synced: content.clone() });
        }
        self.names = names;
        self.files = files;
        self.possible.clear();
        let names = self.names.clone();
        for (name, id) in names {
            self.possible.insert(name, [Some(id)].into());
        }
    }
}

/// Whether a crash may turn the file into `content`.
fn allows(file: &ModelFile, content: &[u8]) -> bool {
    let shortest = file.now.len().min(file.synced.len());
    let longest = file.now.len().max(file.synced.len());
    (shortest..=longest).contains(&content.len())
        && content.iter().enumerate().all(|(at, byte)| {
            // Behind either's end, zeroes are what an extended file holds.
            let old = file.synced.get(at).copied().unwrap_or(0);
            let new = file.now.get(at).copied().unwrap_or(0);
            *byte == old || *byte == new
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Synced bytes and names survive every crash; unsynced ones are old or new, never made up.
    #[test]
    fn crashes_lose_only_what_was_not_synced(
        seed in any::<u64>(),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let disk = disk(seed);
        let mut model = Model::default();
        for op in ops.into_iter().chain([Op::Crash]) {
            match op {
                Op::Write { file, offset, len, byte } => {
                    let data = vec![byte; len];
                    let opened = disk.open(&path(file), OpenMode::OpenOrCreate).unwrap();
                    opened.write_at(&data, offset).unwrap();
                    let now = &mut model.file(file).now;
                    let end = offset as usize + len;
                    now.resize(now.len().max(end), 0);
                    now[offset as usize..end].copy_from_slice(&data);
                }
                Op::SetLen { file, len } => {
                    let opened = disk.open(&path(file), OpenMode::OpenOrCreate).unwrap();
                    opened.set_len(len).unwrap();
                    model.file(file).now.resize(len as usize, 0);
                }
                Op::Sync { file } => {
                    disk.open(&path(file), OpenMode::OpenOrCreate).unwrap().sync().unwrap();
                    let file = model.file(file);
                    file.synced = file.now.clone();
                }
                Op::SyncDir => {
                    disk.sync_dir(Path::new(HOME)).unwrap();
                    model.sync_dir();
                }
                Op::Rename { from, to } => {
                    let done = disk.rename(&path(from), &path(to)).is_ok();
                    prop_assert_eq!(done, model.names.contains_key(&from));
                    if done && from != to {
                        let id = model.names.remove(&from).unwrap();
                        model.names.insert(to, id);
                        model.name_changed(from);
                        model.name_changed(to);
                    }
                }
                Op::Remove { file } => {
                    let done = disk.remove_file(&path(file)).is_ok();
                    prop_assert_eq!(done, model.names.remove(&file).is_some());
                    model.name_changed(file);
                }
                Op::Crash => {
                    disk.crash();
                    model.adopt(&disk);
                }
            }
        }
    }
}

/// What happened to one unsynced page over many seeds.
#[test]
fn a_crash_loses_keeps_and_tears() {
    let (mut lost, mut kept, mut mixed, mut torn) = (0, 0, 0, 0);
    for seed in 0..200 {
        let disk = disk(seed);
        let file = disk.open(&path(0), OpenMode::CreateNew).unwrap();
        file.write_at(&[1; 4096], 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir(Path::new(HOME)).unwrap();
        file.write_at(&[2; 4096], 0).unwrap();
        disk.crash();
        let content = disk.content(&path(0)).unwrap();
        match content.iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            4096 => kept += 1,
            count if count % 512 == 0 => mixed += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 10 && kept > 10 && mixed > 10 && torn > 10, "{lost} {kept} {mixed} {torn}");
}

#[test]
fn a_rename_is_atomic_across_a_crash() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..50 {
        let disk = disk(seed);
        for (number, byte) in [(0, 1), (1, 2)] {
            let file = disk.open(&path(number), OpenMode::CreateNew).unwrap();
            file.write_at(&[byte], 0).unwrap();
            file.sync().unwrap();
        }
        disk.sync_dir(Path::new(HOME)).unwrap();
        disk.rename(&path(1), &path(0)).unwrap();
        disk.crash();
        let left = [disk.content(&path(0)).ok(), disk.content(&path(1)).ok()];
        outcomes.insert(left.clone());
        let old = [Some(vec![1]), Some(vec![2])];
        let new = [Some(vec![2]), None];
        assert!(left == old || left == new, "{left:?}");
    }
    assert_eq!(outcomes.len(), 2);
}

#[test]
fn handles_and_mounts_of_an_older_life_are_dead() {
    let disk = disk(1);
    let mount = disk.mount();
    let file = mount.open(&path(0), OpenMode::CreateNew).unwrap();
    let lock = mount.lock(&path(1)).unwrap();
    disk.kill();
    assert!(file.write_at(b"x", 0).is_err() && file.read_at(&mut [0], 0).is_err());
    assert!(file.sync().is_err() && file.len().is_err());
    assert!(mount.exists(&path(0)).is_err());
    let next = disk.mount();
    let _held = next.lock(&path(1)).unwrap();
    drop(lock);
    assert!(next.lock(&path(1)).is_err(), "a dead holder's drop frees nobody else's lock");
    assert!(next.exists(&path(0)).unwrap(), "a killed process loses nothing");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = disk(1);
    disk.set_capacity(64 << 10);
    let file = disk.open(&path(0), OpenMode::CreateNew).unwrap();
    let refused = file.write_at(&[1; 65 << 10], 0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    file.set_len(0).unwrap();
    file.write_at(&[1; 64 << 10], 0).unwrap();
    assert_eq!(disk.space(Path::new(HOME)).unwrap().free_bytes, 0);
    file.write_at(&[2; 4096], 0).unwrap();
    assert!(file.write_at(&[2], 64 << 10).is_err());
    file.punch_hole(0, 4096).unwrap();
    file.write_at(&[2], 64 << 10).unwrap();
    drop(file);
    disk.remove_file(&path(0)).unwrap();
    assert_eq!(disk.space(Path::new(HOME)).unwrap().free_bytes, 64 << 10);
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = disk(seed);
        let file = disk.open(&path(0), OpenMode::CreateNew).unwrap();
        disk.sync_dir(Path::new(HOME)).unwrap();
        file.write_at(&[1; 4096], 0).unwrap();
        disk.inject(DiskFault::new(&[DiskOp::Sync], Effect::Eio).on("file-0").times(1));
        assert!(file.sync().is_err());
        file.sync().unwrap();
        disk.crash();
        lost += u32::from(disk.content(&path(0)).unwrap() != [1; 4096]);
    }
    assert!(lost > 5, "{lost} of 50 lost what the second sync seemed to save");
}

#[test]
fn faults_strike_where_they_are_told() {
    let disk = disk(3);
    let file = disk.open(&path(0), OpenMode::CreateNew).unwrap();
    let other = disk.open(&path(1), OpenMode::CreateNew).unwrap();
    disk.inject(DiskFault::new(&[DiskOp::Write], Effect::Eio).on("file-0").after(1).times(1));
    file.write_at(b"passes", 0).unwrap();
    other.write_at(b"passes", 0).unwrap();
    assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EIO));
    file.write_at(b"passes", 0).unwrap();

    disk.inject(DiskFault::new(&[DiskOp::Read], Effect::FlipBit).times(1));
    let mut bytes = [0; 6];
    file.read_at(&mut bytes, 0).unwrap();
    let flipped: u32 = bytes.iter().zip(b"passes").map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(flipped, 1);

    disk.inject(DiskFault::new(&[DiskOp::Write], Effect::LostWrite).times(1));
    file.write_at(b"vanish", 0).unwrap();
    assert_eq!(disk.content(&path(0)).unwrap(), b"passes");

    disk.inject(DiskFault::new(&[DiskOp::Write], Effect::Misdirected).times(1));
    file.write_at(b"astray", 0).unwrap();
    let content = disk.content(&path(0)).unwrap();
    assert_eq!(&content[..6], b"passes");
    assert_eq!(&content[content.len() - 6..], b"astray");

    disk.flip_bit(&path(1), 8).unwrap();
    assert_eq!(disk.content(&path(1)).unwrap(), b"p`sses");
    disk.inject(DiskFault::new(&[], Effect::Eio));
    assert!(disk.list(Path::new(HOME)).is_err());
    disk.clear_faults();
    disk.list(Path::new(HOME)).unwrap();
}

#[test]
fn power_goes_in_the_middle_of_the_named_change() {
    for seed in 0..20 {
        let disk = disk(seed);
        let file = disk.open(&path(0), OpenMode::CreateNew).unwrap();
        disk.sync_dir(Path::new(HOME)).unwrap();
        disk.power_off_after(1);
        file.write_at(&[1; 10], 0).unwrap();
        assert!(disk.powered());
        assert!(file.write_at(&[2; 10], 0).is_err());
        assert!(!disk.powered() && file.sync().is_err() && file.len().is_err());
        disk.crash();
        assert!(disk.powered());
        assert!(disk.content(&path(0)).unwrap().len() <= 10);
    }
}
