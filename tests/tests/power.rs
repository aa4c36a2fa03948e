//! Power cuts and failing syncs: real processes on disks that keep only what was synced.

use std::time::{Duration, Instant};

use nexusgrid_faultdisk::client::available;
use nexusgrid_faultdisk::{CutAt, Operation};
use nexusgrid_tests::{Client, GridOptions, LocalGrid};
use serde_json::Value;

use crate::faults::{start_load, verify, wait_for_acknowledgements};

const ALL: [usize; 7] = [1, 2, 3, 4, 5, 6, 7];
const POLL: Duration = Duration::from_millis(20);

/// A grid on such disks, with a bucket.
fn start(nodes: usize) -> LocalGrid {
    assert!(
        available(),
        "these tests mount file systems of their own: they need /dev/fuse and root"
    );
    let options = GridOptions { nodes, disks: true, ..Default::default() };
    let grid = LocalGrid::start_with(&options);
    Client::new(&grid, 1).run("aws", &["s3", "mb", "s3://load"]);
    grid
}

/// FAULTS 3, `rounds` times: every second time, chance lets some of what was not synced survive.
fn cut_all(rounds: u64) {
    let mut grid = start(7);
    let dir = tempfile::tempdir().unwrap();
    let mut journals = Vec::new();
    for round in 0..rounds {
        let journal = dir.path().join(format!("{round}.journal")).display().to_string();
        let mut load = start_load(&grid, "load", &journal, round as u32, &ALL);
        wait_for_acknowledgements(&journal, 40);
        grid.cut_power((round % 2 == 1).then_some(round * 100));
        load.kill().unwrap();
        load.wait().unwrap();
        journals.push(journal);
        let began = Instant::now();
        grid.serve_all(&ALL).unwrap();
        grid.wait_ready(7);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(60), "round {round}: {took:?} without a quorum");
        let node = 1 + round as usize % 7;
        println!("round {round}: {took:?}, {}", verify(&grid, "load", node, &journals));
    }
}

#[test]
fn grid_power_lost_on_all_nodes_loses_nothing_acknowledged() {
    cut_all(2);
}

#[test]
fn soak_grid_power_lost_on_all_nodes() {
    cut_all(rounds_of_soak());
}

fn rounds_of_soak() -> u64 {
    std::env::var("NEXUSGRID_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Where the power of one node goes.
#[derive(Clone, Copy, Debug)]
struct Cut {
    sync: u64,
    after: bool,
    seed: Option<u64>,
    /// Counts from the start of the process; else from when it serves.
    at_start: bool,
}

/// Has the power of `victim` go as told, while it serves a load; brings it back.
fn cut_one(grid: &mut LocalGrid, victim: usize, cut: Cut) {
    if cut.at_start {
        grid.stop(victim);
        grid.spawn(victim).unwrap();
    }
    let pid = Some(grid.pid(victim));
    let at = CutAt { sync: cut.sync, after: cut.after, pid, seed: cut.seed };
    grid.disk(victim).cut_at(at);
    let deadline = Instant::now() + Duration::from_secs(8);
    while grid.disk(victim).state().0 && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    // A start may make fewer syncs than that.
    grid.kill(victim);
    let disk = grid.disk(victim);
    disk.heal();
    disk.cut(cut.seed);
    disk.power_on();
    grid.serve(victim).unwrap_or_else(|error| panic!("after {cut:?}: {error:#}"));
}

/// Cuts that count every sync of the process: the segments', the Raft logs' and RocksDB's own.
fn cuts(syncs: &[u64]) -> Vec<Cut> {
    let cut = |(at, sync): (usize, &u64)| Cut {
        sync: *sync,
        after: at % 2 == 1,
        seed: (at % 3 == 2).then_some(*sync),
        at_start: at % 4 == 3,
    };
    syncs.iter().enumerate().map(cut).collect()
}

/// FAULTS 2 for syncs that no failpoint of ours stands at. One node, so that nobody else hides a
/// loss.
fn cut_a_lonely_node(syncs: &[u64]) {
    let mut grid = start(1);
    let dir = tempfile::tempdir().unwrap();
    let mut journals = Vec::new();
    for (round, cut) in cuts(syncs).into_iter().enumerate() {
        let journal = dir.path().join(format!("{round}.journal")).display().to_string();
        let mut load = start_load(&grid, "load", &journal, round as u32, &[1]);
        wait_for_acknowledgements(&journal, 1);
        cut_one(&mut grid, 1, cut);
        load.kill().unwrap();
        load.wait().unwrap();
        journals.push(journal);
        println!("{cut:?}: {}", verify(&grid, "load", 1, &journals));
    }
}

#[test]
fn grid_power_cut_at_a_sync_loses_nothing_acknowledged() {
    cut_a_lonely_node(&[1, 2, 5, 6, 17, 40, 90]);
}

#[test]
fn soak_grid_power_cut_at_a_sync() {
    let syncs: Vec<u64> = (0..rounds_of_soak()).map(|round| 1 + round * round % 397).collect();
    cut_a_lonely_node(&syncs);
}

/// The same to nodes of a grid that goes on serving: they return and it is whole again.
#[test]
fn grid_power_of_one_node_cut_at_a_sync_is_borne() {
    let mut grid = start(7);
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal").display().to_string();
    let mut load = start_load(&grid, "load", &journal, 7, &[1, 3, 5]);
    for (round, cut) in cuts(&[1, 12, 30]).into_iter().enumerate() {
        wait_for_acknowledgements(&journal, 10 * (round + 1));
        cut_one(&mut grid, [2, 4, 6][round], cut);
    }
    load.kill().unwrap();
    load.wait().unwrap();
    grid.wait_ready(7);
    println!("{}", verify(&grid, "load", 2, &[journal]));
}

fn drive_states(grid: &LocalGrid, asked: usize) -> anyhow::Result<Vec<(u64, String)>> {
    let dir = grid.dir(asked).display().to_string();
    let answer: Value =
        serde_json::from_str(&grid.command(&["drive", "ls", "--json", "--dir", &dir])?)?;
    let rows = answer.as_array().cloned().unwrap_or_default();
    let row = |row: &Value| Some((row["node"].as_u64()?, row["state"].as_str()?.to_owned()));
    Ok(rows.iter().filter_map(row).collect())
}

/// FAULTS 9: a sync of a drive's segments fails. The drive is known to have failed within five
/// seconds, is not tried again, and the grid serves on without it.
#[test]
fn grid_a_drive_whose_syncs_fail_is_reported_and_borne() {
    let mut grid = start(7);
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal").display().to_string();
    let mut load = start_load(&grid, "load", &journal, 9, &[1, 2, 3]);
    wait_for_acknowledgements(&journal, 20);
    grid.disk(4).fail(Operation::Sync, "drive/segments/");
    let began = Instant::now();
    loop {
        let states = drive_states(&grid, 1).unwrap();
        if states.iter().any(|(node, state)| *node == 4 && state == "failed") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "after 5 s: {states:?}");
        std::thread::sleep(POLL);
    }
    println!("reported after {:?}", began.elapsed());
    grid.disk(4).heal();
    let so_far = std::fs::read_to_string(&journal).unwrap().matches("\"ok\"").count();
    wait_for_acknowledgements(&journal, so_far + 40);
    load.kill().unwrap();
    load.wait().unwrap();
    let states = drive_states(&grid, 1).unwrap();
    assert_eq!(states.iter().filter(|(_, state)| state == "active").count(), 6, "{states:?}");
    println!("{}", verify(&grid, "load", 1, &[journal]));
}
