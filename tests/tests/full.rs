//! Disks that are full, that refuse, and that are gone: FAULTS 7, 8 and 9 with real processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nexusgrid_faultdisk::Operation;
use nexusgrid_faultdisk::client::available;
use nexusgrid_tests::{Client, GridOptions, LocalGrid};
use serde_json::Value;

use crate::faults::{start_load, verify, wait_for_acknowledgements, wait_for_fsck};

const MIB: u64 = 1 << 20;
/// Large enough for a block of its own.
const OBJECT_BYTES: usize = 8 << 20;
const POLL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(40);

/// One bucket, asked without retries.
struct Bucket {
    client: Client,
    dir: PathBuf,
}

impl Bucket {
    fn new(grid: &LocalGrid, dir: &Path) -> Bucket {
        let client = Client::new(grid, 1);
        client.run("aws", &["s3", "mb", "s3://full"]);
        Bucket { client, dir: dir.to_owned() }
    }

    fn ask(&self, operation: &str, key: &str, rest: &[&str]) -> Result<(), String> {
        let mut command = self.client.command("aws");
        command
            .env("AWS_MAX_ATTEMPTS", "1")
            .args(["s3api", operation, "--bucket", "full", "--key", key])
            .args(["--cli-read-timeout", "30"])
            .args(rest);
        let output = command.output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Bytes that tell their object.
    fn body(number: usize, bytes: usize) -> Vec<u8> {
        (0..bytes as u64 / 8).flat_map(|at| (at * 31 + number as u64).to_le_bytes()).collect()
    }

    fn put(&self, number: usize, bytes: usize) -> Result<(), String> {
        let path = self.dir.join("body");
        std::fs::write(&path, Bucket::body(number, bytes)).unwrap();
        self.ask("put-object", &number.to_string(), &["--body", path.to_str().unwrap()])
    }

    /// Reads an object; what is not refused is what was written.
    fn get(&self, number: usize, bytes: usize) -> Result<(), String> {
        let path = self.dir.join("back");
        self.ask("get-object", &number.to_string(), &[path.to_str().unwrap()])?;
        assert!(std::fs::read(&path).unwrap() == Bucket::body(number, bytes), "{number} changed");
        Ok(())
    }

    fn delete(&self, number: usize) -> Result<(), String> {
        self.ask("delete-object", &number.to_string(), &[])
    }
}

/// Bytes that a directory's files take.
fn used(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of_entry = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(file) if file.is_dir() => used(&entry.path()),
        Ok(file) => file.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(of_entry).sum()
}

/// Gives every disk of three so much room from now on.
fn leave_room(grid: &mut LocalGrid, bytes: u64) {
    for node in 1..=3 {
        let used = used(grid.dir(node));
        grid.disk(node).set_capacity(used + bytes);
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> Result<(), String>) {
    let began = Instant::now();
    loop {
        match done() {
            Ok(()) => return println!("{what} after {:?}", began.elapsed()),
            Err(last) => assert!(began.elapsed() < PATIENCE, "never {what}: {last}"),
        }
        std::thread::sleep(POLL);
    }
}

/// FAULTS 8: drives fill up under load, compaction among it; then there is no room for anything, metadata
/// included. Writes are refused by name, reads and (while drives have their reserve) deletes work, and
/// everything goes on by itself when there is room again.
#[test]
fn grid_fault_08_disk_full() {
    assert!(available(), "these tests mount file systems of their own");
    let options = GridOptions {
        nodes: 3,
        disks: true,
        config: "[timers]\nreader_horizon_ms = 1000\n".to_owned(),
        drive: "segment_bytes = 4194304\ntrash_age_ms = 1000\nmaintain_every_ms = 500".to_owned(),
        ..GridOptions::default()
    };
    let mut grid = LocalGrid::start_with(&options);
    let dir = tempfile::tempdir().unwrap();
    let bucket = Bucket::new(&grid, dir.path());
    // Room for some objects above what drives and metadata keep free.
    leave_room(&mut grid, 160 * MIB);
    let mut stored = 0;
    let refused = loop {
        assert!(stored < 40, "{stored} objects of 8 MiB fit into 160 MiB");
        match bucket.put(stored, OBJECT_BYTES) {
            Ok(()) => stored += 1,
            Err(refused) => break refused,
        }
    };
    println!("{stored} objects stored");
    assert!(stored > 2 && refused.contains("InsufficientStorage"), "{stored}: {refused}");
    for number in 0..stored {
        bucket.get(number, OBJECT_BYTES).unwrap();
    }
    // Half of them go, and compaction works on the full disk to give their space back.
    for number in (0..stored).step_by(2) {
        bucket.delete(number).unwrap();
    }
    eventually("written again", || bucket.put(100, OBJECT_BYTES));

    // No room at all: neither for the drives nor for the Raft logs.
    leave_room(&mut grid, 8 * MIB);
    let refused = bucket.put(101, OBJECT_BYTES).unwrap_err();
    assert!(
        refused.contains("InsufficientStorage") || refused.contains("ServiceUnavailable"),
        "{refused}"
    );
    for number in (1..stored).step_by(2) {
        bucket.get(number, OBJECT_BYTES).unwrap();
    }
    for node in 1..=3 {
        grid.disk(node).heal();
    }
    eventually("written after all", || bucket.put(102, OBJECT_BYTES));
    grid.wait_ready(3);
    for number in (1..stored).step_by(2).chain([100, 102]) {
        bucket.get(number, OBJECT_BYTES).unwrap();
    }
    for number in (0..stored).step_by(2) {
        let gone = bucket.get(number, OBJECT_BYTES).unwrap_err();
        assert!(gone.contains("NoSuchKey"), "{gone}");
    }
    wait_for_fsck(&grid, "clean", |report| report["clean"] == true && report["queued"] == 0);
}

fn ask(grid: &LocalGrid, words: &[&str]) -> Result<Value, String> {
    let dir = grid.dir(1).display().to_string();
    let arguments: Vec<&str> = words.iter().copied().chain(["--json", "--dir", &dir]).collect();
    match grid.command(&arguments) {
        Ok(answer) => Ok(serde_json::from_str(&answer).unwrap()),
        Err(error) => Err(error.to_string()),
    }
}

/// The drive of a node, and its state.
fn drive_of(grid: &LocalGrid, node: u64) -> (u64, String) {
    let drives = ask(grid, &["drive", "ls"]).unwrap();
    let row = drives.as_array().unwrap().iter().find(|row| row["node"] == node).unwrap();
    (row["id"].as_u64().unwrap(), row["state"].as_str().unwrap().to_owned())
}

/// Waits until a drive counts as failed; within five seconds, by what the rules promise.
fn wait_until_failed(grid: &LocalGrid, node: u64) {
    let began = Instant::now();
    while drive_of(grid, node).1 != "failed" {
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", drive_of(grid, node));
        std::thread::sleep(POLL);
    }
    println!("drive of node {node} failed after {:?}", began.elapsed());
}

/// FAULTS 9: a drive refuses writes, then another refuses reads. Each is known to have failed within
/// five seconds, and what the first held is rebuilt on the others. (Syncs: see `power`.)
#[test]
fn grid_fault_09_eio_on_write_and_read() {
    assert!(available(), "these tests mount file systems of their own");
    let options = GridOptions { disks: true, ..GridOptions::default() };
    let mut grid = LocalGrid::start_with(&options);
    Client::new(&grid, 1).run("aws", &["s3", "mb", "s3://load"]);
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal").display().to_string();
    let mut load = start_load(&grid, "load", &journal, 9, &[1, 2, 3]);
    wait_for_acknowledgements(&journal, 60);
    grid.disk(4).fail(Operation::Write, "drive/segments/");
    wait_until_failed(&grid, 4);
    let so_far = std::fs::read_to_string(&journal).unwrap().matches("\"ok\"").count();
    wait_for_acknowledgements(&journal, so_far + 20);
    load.kill().unwrap();
    load.wait().unwrap();
    grid.wait_until("healed", |status| {
        status["repair"]["to_move"] == 0 && status["repair"]["moving"] == 0
    });
    let journals = [journal];
    println!("{}", verify(&grid, "load", 1, &journals));

    grid.disk(5).fail(Operation::Read, "drive/segments/");
    // Whoever reads meets it.
    println!("{}", verify(&grid, "load", 2, &journals));
    wait_until_failed(&grid, 5);
    println!("{}", verify(&grid, "load", 3, &journals));
    let report = ask(&grid, &["fsck"]);
    assert!(report.as_ref().is_ok_and(|report| report["lost"] == 0), "{report:?}");
}

/// FAULTS 7: as many drives as the code bears are lost at once, and all is readable; then one more. What
/// is lost is named, block by block; all else is served, and nothing of what is left is purged.
#[test]
fn grid_fault_07_one_drive_more_than_the_code_bears() {
    const OBJECTS: usize = 14;
    // One block each.
    const BYTES: usize = 1 << 20;
    let options = GridOptions {
        config: "[timers]\nsweep_every_ms = 500\norphan_age_ms = 500\nreader_horizon_ms = 500\n"
            .to_owned(),
        drive: "trash_age_ms = 500\nmaintain_every_ms = 500".to_owned(),
        ..GridOptions::default()
    };
    let mut grid = LocalGrid::start_with(&options);
    let dir = tempfile::tempdir().unwrap();
    let bucket = Bucket::new(&grid, dir.path());
    for number in 0..OBJECTS {
        bucket.put(number, BYTES).unwrap();
    }
    wait_for_fsck(&grid, "whole", |report| report["clean"] == true && report["queued"] == 0);
    // All are lost before anything is rebuilt.
    ask(&grid, &["worker", "pause", "remap-plan"]).unwrap();
    let lost: Vec<(u64, u64)> = [5, 6, 7].map(|node| (node, drive_of(&grid, node).0)).to_vec();
    for (node, _) in &lost {
        grid.kill(*node as usize);
        std::fs::remove_dir_all(grid.dir(*node as usize).join("drive")).unwrap();
        if *node == 6 {
            for number in 0..OBJECTS {
                bucket.get(number, BYTES).unwrap();
            }
        }
    }
    for (_, drive) in &lost {
        let drive = drive.to_string();
        ask(&grid, &["drive", "remove", &drive, "--lost", "--data-loss"]).unwrap();
    }
    let mut unreadable = Vec::new();
    for number in 0..OBJECTS {
        if let Err(refused) = bucket.get(number, BYTES) {
            assert!(
                refused.contains("ServiceUnavailable") || refused.contains("InternalError"),
                "{number}: {refused}"
            );
            unreadable.push(number);
        }
    }
    println!("objects {unreadable:?} are lost");
    assert!(!unreadable.is_empty() && unreadable.len() < OBJECTS, "{unreadable:?}");
    let look = || {
        let dir = grid.dir(1).display().to_string();
        // It fails, and prints its report all the same.
        let output = std::process::Command::new(nexusgrid_tests::program())
            .args(["fsck", "--json", "--dir", &dir])
            .output()
            .unwrap();
        assert!(!output.status.success());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let report = look();
    let named = report["faults"].as_array().unwrap().iter().filter(|fault| {
        fault["slot"].is_null() && fault["what"].as_str().unwrap().contains("fewer shards")
    });
    assert_eq!(report["lost"], unreadable.len(), "{report:#}");
    assert_eq!(named.count(), unreadable.len(), "{report:#}");
    // Sweeps and collections pass over it.
    std::thread::sleep(Duration::from_secs(3));
    let later = look();
    assert_eq!(later["lost"], report["lost"]);
    assert!(later["held"].as_u64() >= report["held"].as_u64(), "{report:#}\n{later:#}");
    for number in (0..OBJECTS).filter(|number| !unreadable.contains(number)) {
        bucket.get(number, BYTES).unwrap();
    }
}
