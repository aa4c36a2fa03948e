//! The cache of a node: what it read from others is read from its own disk then, whatever becomes of that disk.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nexusgrid_faultdisk::Operation;
use nexusgrid_faultdisk::client::{FaultDisk, program};
use nexusgrid_tests::{Client, GridOptions, LocalGrid, Mounted, run};
use rustix::process::{Pid, Signal, kill_process};

use crate::faults::metric;

const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
const BYTES: u64 = 24 << 20;
/// What the disk of a cache that is too small for it has.
const SMALL: &str = "size=16m";

struct Test {
    grid: LocalGrid,
    dir: tempfile::TempDir,
}

/// A file system in memory at a directory, while this is there.
struct InMemory(PathBuf);

impl InMemory {
    fn at(path: PathBuf) -> InMemory {
        fs::create_dir_all(&path).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", SMALL, "tmpfs"]).arg(&path));
        InMemory(path)
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Test {
    fn start() -> Test {
        let config = format!("[cache]\nbytes = {}\n", 4 * BYTES);
        let grid =
            LocalGrid::start_with(&GridOptions { nodes: 5, config, ..GridOptions::default() });
        let test = Test { grid, dir: tempfile::tempdir().unwrap() };
        let bytes: Vec<u8> =
            (0..BYTES / 8).flat_map(|at| (at * 0x9E37_79B9).to_le_bytes()).collect();
        fs::write(test.dir.path().join("file"), bytes).unwrap();
        let client = Client::new(&test.grid, 1);
        client.run("aws", &["s3", "mb", "s3://near"]);
        client.run("aws", &["s3", "cp", "--quiet", &test.path("file"), "s3://near/file"]);
        test
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Reads it by S3 through a node.
    fn read(&self, node: usize) {
        let client = Client::new(&self.grid, node);
        client.run("aws", &["s3", "cp", "--quiet", "s3://near/file", &self.path("back")]);
        self.check(Path::new(&self.path("back")));
    }

    fn check(&self, path: &Path) {
        assert!(fs::read(path).unwrap() == fs::read(self.path("file")).unwrap(), "{path:?}");
    }

    fn cached(&self, node: usize, what: &str) -> f64 {
        metric(&self.grid, node, &format!("nexusgrid_grid_cache_frames_{what}_total")).unwrap()
    }

    /// Waits until a node has said something so often, over all its lives.
    fn wait_for_log(&self, node: usize, words: &str, times: usize) {
        let began = Instant::now();
        while self.grid.log(node).matches(words).count() < times {
            assert!(began.elapsed() < PATIENCE, "{words}: {}", self.grid.log_tail(node));
            std::thread::sleep(POLL);
        }
    }

    /// How many frames a read found, and how many it missed.
    fn reading(&self, node: usize, read: impl FnOnce()) -> (f64, f64) {
        let before = (self.cached(node, "found"), self.cached(node, "missed"));
        read();
        (self.cached(node, "found") - before.0, self.cached(node, "missed") - before.1)
    }
}

/// FAULTS 8: a disk that fails or hangs costs a cache nothing but what was in it.
#[test]
fn grid_a_cache_may_fail_or_hang() {
    let mut test = Test::start();
    let home = test.grid.dir(2).to_owned();
    assert_eq!(test.grid.stop(2), Some(0));
    fs::remove_dir_all(home.join("cache")).unwrap();
    let mut disk =
        FaultDisk::mount(&program(), &test.dir.path().join("backing"), &home.join("cache"));
    test.grid.serve(2).unwrap();
    test.wait_for_log(2, "is kept here", 2);
    test.read(2);
    let began = Instant::now();
    while test.reading(2, || test.read(2)).0 == 0.0 {
        assert!(began.elapsed() < PATIENCE, "nothing is found");
    }
    let served = Pid::from_raw(i32::try_from(disk.pid()).unwrap()).unwrap();
    kill_process(served, Signal::STOP).unwrap();
    test.read(2);
    test.read(2);
    kill_process(served, Signal::CONT).unwrap();
    test.wait_for_log(2, "the cache cannot be read", 1);
    for operation in [Operation::Read, Operation::Write] {
        disk.fail(operation, "foyer");
        test.read(2);
        test.read(2);
    }
    disk.heal();
    test.read(2);
    test.grid.stop(2);
}

#[test]
fn grid_what_was_read_is_kept_on_a_disk() {
    let mut test = Test::start();
    let opened = "is kept here";
    test.wait_for_log(2, opened, 1);
    let (found, missed) = test.reading(2, || test.read(2));
    // All but what node 2 has itself: a fourth or so.
    assert!(found == 0.0 && missed >= BYTES as f64 / 65536.0 / 2.0, "{found} {missed}");
    let all = missed;
    // What comes faster than the disk takes it is not kept the first time.
    let began = Instant::now();
    while test.reading(2, || test.read(2)) != (all, 0.0) {
        assert!(began.elapsed() < PATIENCE, "frames are read again and again");
    }

    // A mount reads the same frames.
    let mounted = Mounted::new(&test.grid, 2, "near", "");
    let (found, missed) = test.reading(2, || test.check(&mounted.join("file")));
    assert!(found >= all && missed == 0.0, "{found} {missed}");
    mounted.unmount();

    // After a restart it is still there.
    assert_eq!(test.grid.stop(2), Some(0));
    test.grid.serve(2).unwrap();
    test.wait_for_log(2, opened, 2);
    let (found, missed) = test.reading(2, || test.read(2));
    println!("after a restart: {found} of {all} found, {missed} read again");
    assert!(found > all / 2.0);

    // What rots in it nobody sees.
    assert_eq!(test.grid.stop(2), Some(0));
    for file in fs::read_dir(test.grid.dir(2).join("cache")).unwrap() {
        let path = file.unwrap().path();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for at in (0..file.metadata().unwrap().len()).step_by(50_000) {
            file.write_all_at(b"rotten", at).unwrap();
        }
    }
    test.grid.serve(2).unwrap();
    test.wait_for_log(2, opened, 3);
    test.read(2);

    // A disk that is too small, and a path that is none.
    assert_eq!(test.grid.stop(2), Some(0));
    let cache = test.grid.dir(2).join("cache");
    fs::remove_dir_all(&cache).unwrap();
    let small = InMemory::at(cache.clone());
    test.grid.serve(2).unwrap();
    test.wait_for_log(2, "the cache cannot be opened", 1);
    test.read(2);
    assert_eq!(test.grid.stop(2), Some(0));
    drop(small);
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, b"a file").unwrap();
    test.grid.serve(2).unwrap();
    test.wait_for_log(2, "the cache cannot be opened", 2);
    test.read(2);
}
