//! A mounted disk against a model of what is seen and what is durable.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "works on a real mount, and fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nexusgrid_faultdisk::client::available;
use nexusgrid_faultdisk::{CutAt, FaultDisk, Operation};
use proptest::prelude::*;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

/// A mount in a directory of its own.
struct Machine {
    disk: Option<FaultDisk>,
    dir: tempfile::TempDir,
}

impl Machine {
    fn start() -> Machine {
        assert!(available(), "these tests mount a file system: they need /dev/fuse and root");
        let mut machine = Machine { disk: None, dir: tempfile::tempdir().unwrap() };
        machine.remount();
        machine
    }

    fn remount(&mut self) {
        self.disk = None;
        let program = Path::new(env!("CARGO_BIN_EXE_faultdisk"));
        let dir = self.dir.path();
        self.disk = Some(FaultDisk::mount(program, &dir.join("backing"), &dir.join("mount")));
    }

    fn disk(&mut self) -> &mut FaultDisk {
        self.disk.as_mut().unwrap()
    }

    fn cut(&mut self, seed: Option<u64>) {
        self.disk().cut(seed);
        self.disk().power_on();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mount").join(name)
    }

    fn open(&self, name: &str) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).open(self.path(name)).unwrap()
    }

    fn sync_dir(&self, name: &str) {
        File::open(self.path(name)).unwrap().sync_all().unwrap();
    }

    /// All files of the two directories.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for dir in DIRS {
            for entry in fs::read_dir(self.path(dir)).unwrap() {
                let name = format!("{dir}/{}", entry.unwrap().file_name().to_str().unwrap());
                files.insert(name.clone(), fs::read(self.path(&name)).unwrap());
            }
        }
        files
    }
}

const DIRS: [&str; 2] = ["a", "b"];

#[derive(Clone, Debug)]
enum Step {
    Write { name: String, offset: usize, fill: u8, len: usize },
    SetLen { name: String, len: usize },
    Punch { name: String, offset: usize, len: usize },
    Sync { name: String },
    Rename { from: String, to: String },
    Link { from: String, to: String },
    Remove { name: String },
    SyncDir { dir: usize },
    Cut { seed: Option<u64> },
    Remount,
}

fn names() -> impl Strategy<Value = String> {
    (0..2usize, 0..3u8).prop_map(|(dir, name)| format!("{}/{name}", DIRS[dir]))
}

/// Offsets and lengths at pages, at sectors, and anywhere.
fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        (0..5usize).prop_map(|pages| pages * 4096),
        (0..30usize).prop_map(|n| n * 512),
        0..18_000usize
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (names(), sizes(), 1..=255u8, sizes())
            .prop_map(|(name, offset, fill, len)| Step::Write { name, offset, fill, len }),
        2 => (names(), sizes()).prop_map(|(name, len)| Step::SetLen { name, len }),
        1 => (names(), sizes(), sizes())
            .prop_map(|(name, offset, len)| Step::Punch { name, offset, len: len + 1 }),
        4 => names().prop_map(|name| Step::Sync { name }),
        2 => (names(), names()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => (names(), names()).prop_map(|(from, to)| Step::Link { from, to }),
        1 => names().prop_map(|name| Step::Remove { name }),
        3 => (0..2usize).prop_map(|dir| Step::SyncDir { dir }),
        1 => prop_oneof![Just(None), any::<u64>().prop_map(Some)]
            .prop_map(|seed| Step::Cut { seed }),
        1 => Just(Step::Remount),
    ]
}

type Names = BTreeMap<String, usize>;
type Change = Vec<(String, Option<usize>)>;

/// What is seen, what is durable, and the changes of names between.
#[derive(Default)]
struct Model {
    seen: Names,
    durable: Names,
    changes: Vec<Change>,
    /// Bytes seen and durable.
    files: Vec<(Vec<u8>, Vec<u8>)>,
}

fn apply(names: &mut Names, change: &Change) {
    for (name, value) in change {
        match value {
            Some(file) => names.insert(name.clone(), *file),
            None => names.remove(name),
        };
    }
}

impl Model {
    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.changes.push(change);
    }

    /// The file of a name, made if need be.
    fn file(&mut self, name: &str) -> &mut (Vec<u8>, Vec<u8>) {
        if !self.seen.contains_key(name) {
            self.files.push(Default::default());
            self.change(vec![(name.to_owned(), Some(self.files.len() - 1))]);
        }
        &mut self.files[self.seen[name]]
    }

    fn sync_dir(&mut self, dir: &str) {
        let dirs_of = |change: &Change| -> BTreeSet<String> {
            change.iter().map(|(name, _)| name.split_once('/').unwrap().0.to_owned()).collect()
        };
        let mut wanted = BTreeSet::from([dir.to_owned()]);
        let mut durable = Vec::new();
        let mut rest = Vec::new();
        for change in std::mem::take(&mut self.changes).into_iter().rev() {
            let dirs = dirs_of(&change);
            if dirs.is_disjoint(&wanted) {
                rest.push(change);
            } else {
                wanted.extend(dirs);
                durable.push(change);
            }
        }
        self.changes = rest.into_iter().rev().collect();
        durable.iter().rev().for_each(|change| apply(&mut self.durable, change));
    }

    fn view(&self, names: &Names, pick: impl Fn(&(Vec<u8>, Vec<u8>)) -> &Vec<u8>) -> Files {
        names.iter().map(|(name, file)| (name.clone(), pick(&self.files[*file]).clone())).collect()
    }

    /// After a cut: what is found is durable.
    fn restart(&mut self, found: &Files, names: Names) {
        for (name, file) in &names {
            self.files[*file] = (found[name].clone(), found[name].clone());
        }
        self.durable = names.clone();
        self.seen = names;
        self.changes.clear();
    }

    /// The names after a cut at which chance played, if what is found is possible.
    fn survivors(&self, found: &Files) -> Option<Names> {
        let mut names = self.durable.clone();
        let mut candidates = vec![names.clone()];
        for change in &self.changes {
            apply(&mut names, change);
            candidates.push(names.clone());
        }
        candidates.into_iter().find(|names| {
            names.keys().eq(found.keys())
                && names.iter().all(|(name, file)| {
                    let (seen, durable) = &self.files[*file];
                    let at = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
                    let found = &found[name];
                    found.len() <= seen.len().max(durable.len())
                        && found.iter().enumerate().all(|(index, byte)| {
                            *byte == at(seen, index) || *byte == at(durable, index) || *byte == 0
                        })
                })
        })
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn run(steps: &[Step]) {
    let mut machine = Machine::start();
    for dir in DIRS {
        fs::create_dir(machine.path(dir)).unwrap();
    }
    machine.sync_dir("");
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Write { name, offset, fill, len } => {
                machine.open(name).write_all_at(&vec![*fill; *len], *offset as u64).unwrap();
                let (seen, _) = model.file(name);
                if *len > 0 {
                    seen.resize(seen.len().max(offset + len), 0);
                    seen[*offset..offset + len].fill(*fill);
                }
            }
            Step::SetLen { name, len } => {
                machine.open(name).set_len(*len as u64).unwrap();
                model.file(name).0.resize(*len, 0);
            }
            Step::Punch { name, offset, len } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(machine.open(name), flags, *offset as u64, *len as u64).unwrap();
                let (seen, _) = model.file(name);
                let end = seen.len().min(offset + len);
                seen[(*offset).min(end)..end].fill(0);
            }
            Step::Sync { name } => {
                machine.open(name).sync_data().unwrap();
                let file = model.file(name);
                file.1 = file.0.clone();
            }
            Step::Rename { from, to } => {
                let renamed = fs::rename(machine.path(from), machine.path(to));
                assert_eq!(renamed.is_ok(), model.seen.contains_key(from));
                // Two names of one file: POSIX has nothing happen.
                if renamed.is_ok() && model.seen.get(from) != model.seen.get(to) {
                    let file = model.seen[from];
                    model.change(vec![(from.clone(), None), (to.clone(), Some(file))]);
                }
            }
            Step::Link { from, to } => {
                let linked = fs::hard_link(machine.path(from), machine.path(to));
                let possible = model.seen.contains_key(from) && !model.seen.contains_key(to);
                assert_eq!(linked.is_ok(), possible);
                if possible {
                    model.change(vec![(to.clone(), Some(model.seen[from]))]);
                }
            }
            Step::Remove { name } => {
                let removed = fs::remove_file(machine.path(name));
                assert_eq!(removed.is_ok(), model.seen.contains_key(name));
                if removed.is_ok() {
                    model.change(vec![(name.clone(), None)]);
                }
            }
            Step::SyncDir { dir } => {
                machine.sync_dir(DIRS[*dir]);
                model.sync_dir(DIRS[*dir]);
            }
            Step::Cut { seed: None } | Step::Remount => {
                match step {
                    Step::Remount => machine.remount(),
                    _ => machine.cut(None),
                }
                let found = machine.files();
                assert!(found == model.view(&model.durable, |file| &file.1), "after {step:?}");
                model.restart(&found, model.durable.clone());
            }
            Step::Cut { seed } => {
                machine.cut(*seed);
                let found = machine.files();
                let names = model.survivors(&found).expect("what is found is impossible");
                model.restart(&found, names);
                machine.remount();
            }
        }
        assert!(machine.files() == model.view(&model.seen, |file| &file.0), "after {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_disk_keeps_what_was_synced_and_nothing_else(steps in prop::collection::vec(steps(), 1..40)) {
        run(&steps);
    }
}

#[test]
fn a_new_file_is_gone_unless_its_directory_was_synced() {
    let mut machine = Machine::start();
    let mut file = machine.open("file");
    file.write_all(b"bytes").unwrap();
    file.sync_all().unwrap();
    machine.cut(None);
    assert!(!machine.path("file").exists());
    machine.open("empty");
    machine.sync_dir("");
    machine.open("empty").write_all(b"never synced").unwrap();
    machine.cut(None);
    assert_eq!(fs::read(machine.path("empty")).unwrap(), b"");
}

#[test]
fn the_power_goes_at_a_sync_and_takes_a_process_with_it() {
    let mut machine = Machine::start();
    for (after, kept) in [(false, &b""[..]), (true, b"bytes")] {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let mut file = machine.open("file");
        machine.sync_dir("");
        let pid = i32::try_from(child.id()).ok();
        machine.disk().cut_at(CutAt { sync: 2, after, pid, seed: None });
        machine.sync_dir("");
        assert_eq!(machine.disk().state(), (true, 1));
        file.write_all(b"bytes").unwrap();
        assert!(file.sync_all().is_err(), "nobody is told that it is synced");
        assert_eq!(machine.disk().state(), (false, 2));
        assert!(!child.wait().unwrap().success());
        assert!(fs::read(machine.path("file")).is_err(), "there is no power");
        machine.disk().power_on();
        assert_eq!(fs::read(machine.path("file")).unwrap(), kept);
    }
}

#[test]
fn a_failed_sync_loses_its_pages_for_good() {
    let mut machine = Machine::start();
    let file = machine.open("drive-segment");
    machine.sync_dir("");
    file.write_all_at(b"one", 0).unwrap();
    machine.disk().fail(Operation::Sync, "segment");
    assert!(file.sync_data().is_err());
    machine.open("other").sync_data().unwrap();
    machine.disk().heal();
    file.sync_data().unwrap();
    file.write_all_at(b"two", 8192).unwrap();
    file.sync_data().unwrap();
    assert_eq!(&fs::read(machine.path("drive-segment")).unwrap()[..3], b"one", "still to be seen");
    machine.cut(None);
    let kept = fs::read(machine.path("drive-segment")).unwrap();
    assert_eq!((&kept[..3], &kept[8192..]), (&[0; 3][..], &b"two"[..]));
}

#[test]
fn reads_and_writes_fail_where_told_and_a_disk_fills() {
    let mut machine = Machine::start();
    let file = machine.open("file");
    file.write_all_at(&[1; 8192], 0).unwrap();
    machine.disk().fail(Operation::Read, "file");
    machine.disk().fail(Operation::Write, "file");
    assert!(file.read_at(&mut [0; 1], 0).is_err() && file.write_at(&[0; 1], 0).is_err());
    machine.disk().heal();
    machine.disk().set_capacity(16_384);
    file.write_all_at(&[2; 8192], 8192).unwrap();
    let full = file.write_all_at(&[3; 1], 16_384).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    file.write_all_at(&[3; 16_384], 0).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, flags, 0, 8192).unwrap();
    assert_eq!(file.metadata().unwrap().blocks() * 512, 8192);
    file.write_all_at(&[3; 1], 16_384).unwrap();
}

#[test]
fn a_lock_holds_until_its_owner_is_gone() {
    let machine = Machine::start();
    let (first, second) = (machine.open("LOCK"), machine.open("LOCK"));
    flock(&first, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(flock(&second, FlockOperation::NonBlockingLockExclusive).is_err());
    drop(first);
    flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn a_hole_past_the_end_changes_nothing() {
    let machine = Machine::start();
    let file = machine.open("file");
    file.write_all_at(b"short", 0).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // Within the page that the end lies in, at the next, and far beyond.
    for offset in [100, 4096, 5000, 1 << 30] {
        fallocate(&file, flags, offset, 100).unwrap();
    }
    assert_eq!(fs::read(machine.path("file")).unwrap(), b"short");
}
