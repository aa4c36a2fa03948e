//! FAULTS 5 with real processes: one flipped bit in each kind of file a node keeps. Each is found, none
//! is ever served or voted from, and each has its recovery (the table in the operators' guide).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nexusgrid_tests::{Client, GridOptions, LocalGrid};
use serde_json::Value;

use crate::faults::{metrics_page, start_load, verify, wait_for_acknowledgements, wait_for_fsck};

const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(200);
/// Bytes of a superblock's copy.
const SUPERBLOCK_COPY: u64 = 4096;
/// What the file system gives a record's head.
const RECORD_ALIGN: u64 = 4096;

struct Test {
    grid: LocalGrid,
    journals: Vec<String>,
}

/// Flips one bit of the byte at `offset`.
fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    println!("flipped a bit of byte {offset} in {}", path.display());
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// Files of a directory whose names contain `part`, the largest last.
fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_meant = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains(part);
    let mut files: Vec<PathBuf> = entries.filter(is_meant).collect();
    files.sort_by_key(|path| len(path));
    files
}

fn flip_middle(path: &Path) {
    flip(path, len(path) / 2);
}

impl Test {
    fn meta(&self, node: usize) -> PathBuf {
        self.grid.dir(node).join("meta")
    }

    fn drive(&self, node: usize) -> PathBuf {
        self.grid.dir(node).join("drive")
    }

    /// The directory of a group's rows.
    fn state(&self, node: usize, group: u32) -> PathBuf {
        let dir = self.meta(node).join("groups").join(group.to_string());
        files(&dir, "state-").pop().unwrap()
    }

    /// Group → under which incarnation a node is a member.
    fn incarnations(&self, node: usize) -> BTreeMap<u32, u64> {
        let page = metrics_page(&self.grid, node);
        let rows = page.lines().filter_map(|line| {
            let rest = line.strip_prefix("nexusgrid_raft_incarnation{group=\"")?;
            let (group, value) = rest.split_once("\"} ")?;
            Some((group.parse().unwrap(), value.parse().unwrap()))
        });
        rows.collect()
    }

    /// Waits until the node is back in these groups, each time as somebody new.
    fn wait_for_new_ids(&self, node: usize, before: &BTreeMap<u32, u64>, groups: &[u32]) {
        let began = Instant::now();
        let is_new = |now: &BTreeMap<u32, u64>, group: &u32| now.get(group) > before.get(group);
        loop {
            let now = self.incarnations(node);
            if groups.iter().all(|group| is_new(&now, group)) {
                return println!("node {node} is new in {groups:?} after {:?}", began.elapsed());
            }
            assert!(
                began.elapsed() < PATIENCE,
                "node {node} is {now:?}, was {before:?}, rotten were {groups:?}\n{}",
                self.grid.log_tail(node)
            );
            std::thread::sleep(POLL);
        }
    }

    /// Waits until the part of the node's log behind `from` says all of this.
    fn wait_for_words(&self, node: usize, from: usize, words: &[&str]) {
        let began = Instant::now();
        loop {
            let log = self.grid.log(node);
            let missing: Vec<_> =
                words.iter().filter(|words| !log[from..].contains(**words)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "node {node} never said {missing:?}\n{}",
                self.grid.log_tail(node)
            );
            std::thread::sleep(POLL);
        }
    }

    fn scrub(&self, node: usize) {
        let dir = self.grid.dir(node).display().to_string();
        self.grid.command(&["scrub", "--dir", &dir]).unwrap();
    }

    fn log_len(&self, node: usize) -> usize {
        self.grid.log(node).len()
    }

    /// Everything acknowledged is what it was, as this node tells.
    fn check(&mut self, node: usize) {
        self.grid.wait_ready(7);
        println!("by node {node}: {}", verify(&self.grid, "load", node, &self.journals));
    }

    fn load(&mut self, name: &str, seed: u32, count: usize, dir: &Path) {
        let journal = dir.join(name).display().to_string();
        let mut load = start_load(&self.grid, "load", &journal, seed, &[1, 2, 3, 4, 5, 6, 7]);
        wait_for_acknowledgements(&journal, count);
        load.kill().unwrap();
        load.wait().unwrap();
        self.journals.push(journal);
    }

    /// A bit of the Raft log of the metadata groups, while the node is down.
    fn rotten_log_at_a_start(&mut self, node: usize) {
        let before = self.incarnations(node);
        let groups: Vec<u32> = before.keys().copied().filter(|group| *group != 0).collect();
        self.grid.stop(node);
        flip_middle(files(&self.meta(node).join("log"), ".log").last().unwrap());
        let from = self.log_len(node);
        self.grid.serve(node).unwrap();
        self.wait_for_words(node, from, &["the Raft log is damaged and set aside"]);
        self.wait_for_new_ids(node, &before, &groups);
        self.check(node);
    }

    /// Rows, manifest, identity and floor of four groups, and the drive's index, while the node is
    /// down.
    fn rotten_files_at_a_start(&mut self, node: usize) {
        let before = self.incarnations(node);
        self.grid.stop(node);
        flip_middle(files(&self.state(node, 1), ".sst").last().unwrap());
        flip_middle(files(&self.state(node, 2), "MANIFEST").last().unwrap());
        flip_middle(&self.meta(node).join("groups/3/GROUP"));
        flip_middle(&self.meta(node).join("groups/4/floor.a"));
        flip_middle(files(&self.drive(node).join("index"), "MANIFEST").last().unwrap());
        let from = self.log_len(node);
        self.grid.serve(node).unwrap();
        self.wait_for_words(
            node,
            from,
            &["rebuilding the index from the segments", "a copy of a floor is damaged"],
        );
        // Rows that nobody reads rot unseen until scrub does.
        self.scrub(node);
        self.wait_for_new_ids(node, &before, &[1, 2, 3]);
        assert_eq!(self.incarnations(node)[&4], before[&4], "the other copy of its floor is whole");
        self.check(node);
    }

    /// The root group's log, and every kind of a drive's files, under a running node.
    fn rot_under_a_running_node(&mut self, node: usize) {
        let before = self.incarnations(node);
        let drive = self.drive(node);
        flip_middle(files(&self.meta(node).join("root/log"), ".log").last().unwrap());
        // Sealed ones: their numbers are the lowest.
        let mut segments = files(&drive.join("segments"), ".seg");
        segments.sort();
        assert!(segments.len() > 3, "{segments:?}");
        let [body, footer, label] = [&segments[0], &segments[1], &segments[2]];
        // Three, for what is deleted or no shard is nobody's loss.
        for quarter in 1..4 {
            flip(body, len(body) / 4 * quarter);
        }
        flip(footer, len(footer) - RECORD_ALIGN + 20);
        flip(label, 20);
        flip(&drive.join("superblock"), SUPERBLOCK_COPY + 20);
        let from = self.log_len(node);
        self.scrub(node);
        let found = ["Shard {", "Footer {", "Label {", "Superblock", "the Raft log is damaged"];
        self.wait_for_words(node, from, &found);
        self.wait_for_words(node, from, &["scrub has read all of a drive"]);
        self.wait_for_new_ids(node, &before, &[0]);
        // Its index at last: the drive stops and opens again.
        flip_middle(files(&drive.join("index"), ".sst").last().unwrap());
        let from = self.log_len(node);
        self.scrub(node);
        self.wait_for_words(node, from, &["drive stopped", "drive is open again"]);
        self.check(node);
    }

    /// What a look at a stopped node finds, with and without rot.
    fn inspect_offline(&mut self, node: usize) {
        let dir = self.grid.dir(node).display().to_string();
        let running = self.grid.command(&["fsck", "--offline", "--dir", &dir]).unwrap_err();
        assert!(running.to_string().contains("stop it first"), "{running}");
        self.grid.stop(node);
        let report = self.grid.command(&["fsck", "--offline", "--json", "--dir", &dir]).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["clean"], true, "{report:#}");
        assert!(report["drives"][0]["shards"].as_u64() > Some(50), "{report:#}");
        println!("offline: {report}");
        flip_middle(files(&self.drive(node).join("segments"), ".seg").last().unwrap());
        flip_middle(files(&self.drive(node).join("index"), "MANIFEST").last().unwrap());
        let rotten = self.grid.command(&["fsck", "--offline", "--dir", &dir]).unwrap_err();
        assert!(rotten.to_string().contains("something is wrong"), "{rotten}");
    }

    /// What only write-ahead logs hold, of a node that was killed: it stands in segments and in the
    /// Raft log as well.
    fn rotten_write_ahead_logs(&mut self, node: usize) {
        let before = self.incarnations(node);
        self.grid.kill(node);
        let groups = before.keys().copied().filter(|group| *group != 0);
        let mut stores: Vec<PathBuf> = groups.map(|group| self.state(node, group)).collect();
        stores.push(self.drive(node).join("index"));
        for store in stores {
            if let Some(log) = files(&store, ".log").last().filter(|log| len(log) > 100) {
                flip_middle(log);
            }
        }
        self.grid.serve(node).unwrap();
        self.check(node);
    }
}

#[test]
fn grid_fault_05_a_flipped_bit_in_any_file_is_found_and_mended() {
    let options = GridOptions {
        config: "[timers]\nscrub_every_ms = 3600000\n".to_owned(),
        drive: "segment_bytes = 1048576".to_owned(),
        ..GridOptions::default()
    };
    let grid = LocalGrid::start_with(&options);
    Client::new(&grid, 1).run("aws", &["s3", "mb", "s3://load"]);
    let dir = tempfile::tempdir().unwrap();
    let mut test = Test { grid, journals: Vec::new() };
    test.load("before", 1, 120, dir.path());
    // Those that joined first vote.
    test.rotten_log_at_a_start(2);
    test.rotten_files_at_a_start(3);
    test.rot_under_a_running_node(4);
    test.load("between", 2, 40, dir.path());
    test.rotten_write_ahead_logs(5);
    test.load("after", 3, 20, dir.path());
    for node in [2, 3, 4, 5] {
        test.check(node);
    }
    wait_for_fsck(&test.grid, "clean", |report| report["clean"] == true && report["queued"] == 0);
    test.inspect_offline(6);
}
