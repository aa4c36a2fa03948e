//! Metadata is lost, the drives are not: docs/guide-recovery.md, step by step, with real processes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nexusgrid_tests::{Client, GridOptions, LocalGrid};
use serde_json::Value;

use crate::faults::wait_for_fsck;

const NODES: usize = 4;

/// Everything that deletes is quick, so that what must not happen would happen soon; and logs are
/// followed closely.
const TIMERS: &str = "[timers]\nreader_horizon_ms = 1000\nsweep_every_ms = 500\n\
     orphan_age_ms = 1000\nlog_tail_ms = 1000\n";

/// Longest time for agents without metadata to answer their administrator.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Inline, packed, and coded blocks; below what clients send in parts.
const SIZES: [usize; 5] = [0, 700, 40_000, 1_500_000, 7_000_000];

fn files(dir: &Path, seed: u8) {
    fs::create_dir_all(dir).unwrap();
    for (number, size) in SIZES.into_iter().enumerate() {
        let bytes: Vec<u8> =
            (0..size).map(|at| (at as u64).wrapping_mul(2_654_435_761) as u8 ^ seed).collect();
        fs::write(dir.join(format!("file-{number}")), bytes).unwrap();
    }
}

fn store(client: &Client, dir: &Path, prefix: &str) {
    client.run("rclone", &["copy", &text(dir), &format!("grid:data/{prefix}")]);
}

/// The files of `dir` are under `prefix`, byte for byte.
fn verify(client: &Client, dir: &Path, prefix: &str) {
    verify_at(client, dir, &format!("data/{prefix}"));
}

fn verify_at(client: &Client, dir: &Path, place: &str) {
    let back = tempfile::tempdir().unwrap();
    client.run("rclone", &["copy", &format!("grid:{place}"), &text(back.path())]);
    let stored: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(fs::read_dir(back.path()).unwrap().count(), stored.len(), "{place}");
    for name in stored {
        let (was, is) = (fs::read(dir.join(&name)), fs::read(back.path().join(&name)));
        assert!(was.unwrap() == is.unwrap(), "{place}/{name:?} is not what was stored");
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A command of `nexusgrid metadata` at a node, as JSON.
fn metadata(grid: &LocalGrid, node: usize, arguments: &[&str]) -> anyhow::Result<Value> {
    let dir = text(grid.dir(node));
    let mut all = vec!["metadata"];
    all.extend(arguments);
    all.extend(["--json", "--dir", &dir]);
    Ok(serde_json::from_str(&grid.command(&all)?)?)
}

fn fsck(grid: &LocalGrid) -> Value {
    // It fails while the grid is not clean, and prints what it found all the same.
    let output = std::process::Command::new(nexusgrid_tests::program())
        .args(["fsck", "--json", "--dir", &text(grid.dir(1))])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("fsck gave no report: {}", String::from_utf8_lossy(&output.stderr))
    })
}

/// Waits until all that was committed before now is in the tails of the groups' logs.
fn wait_for_tails(grid: &LocalGrid) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let listed = metadata(grid, 3, &["ls"]).unwrap();
        let rows = listed.as_array().unwrap();
        if rows.iter().all(|row| row["tail_as_of"].as_u64().is_some_and(|as_of| as_of > since)) {
            let is_kept = |row: &Value| row["loss_window_seconds"].as_u64() <= Some(60);
            assert!(rows.iter().all(is_kept), "{listed}");
            return;
        }
        assert!(Instant::now() < deadline, "no tails: {listed}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// No node seals another tail.
fn stop_tails(grid: &LocalGrid) {
    let dir = |node: usize| text(grid.dir(node));
    grid.command(&["worker", "pause", "log-tail", "--dir", &dir(1)]).unwrap();
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    for node in 1..=NODES {
        loop {
            let listed = grid.command(&["worker", "ls", "--json", "--dir", &dir(node)]).unwrap();
            let listed: Value = serde_json::from_str(&listed).unwrap();
            let row = listed.as_array().unwrap().iter().find(|row| row["name"] == "log-tail");
            if row.unwrap()["state"] == "paused" {
                break;
            }
            assert!(Instant::now() < deadline, "not paused: {listed}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn state_of(plan: &Value, group: u64) -> &Value {
    let groups = plan["groups"].as_array().unwrap();
    &groups.iter().find(|row| row["group"] == group).unwrap()["state"]
}

fn is_frozen(status: &Value) -> bool {
    let warnings = status["warnings"].as_array().unwrap();
    warnings.iter().any(|warning| warning.as_str().unwrap().contains("metadata thaw"))
}

#[test]
fn grid_all_metadata_lost_is_restored_from_the_drives() {
    let begun = Instant::now();
    let step = |what: &str| println!("{what} after {:.0?}", begun.elapsed());
    let options = GridOptions { nodes: NODES, config: TIMERS.to_owned(), ..GridOptions::default() };
    let mut grid = LocalGrid::start_with(&options);
    let client = Client::new(&grid, 1);
    let work = tempfile::tempdir().unwrap();
    let [before, between, after] =
        ["before", "between", "after"].map(|name| work.path().join(name));
    files(&before, 1);
    files(&after, 2);
    files(&between, 3);
    client.run("rclone", &["mkdir", "grid:data"]);
    store(&client, &before, "before");
    store(&client, &before, "doomed");
    step("loaded");

    // Every group has a copy, and every node knows where; no client sees the bucket.
    let taken = metadata(&grid, 3, &["checkpoint"]).unwrap();
    assert_eq!(taken.as_array().unwrap().len(), 5, "{taken}");
    for node in 1..=NODES {
        let listed = metadata(&grid, node, &["ls"]).unwrap();
        let listed = listed.as_array().unwrap();
        assert!(listed.len() == 5 && listed.iter().all(|row| row["index"].is_u64()), "{listed:?}");
    }
    assert!(!client.run("rclone", &["lsd", "grid:"]).contains("nexusgrid"));
    let hidden = client
        .command("aws")
        .args(["s3api", "list-objects-v2", "--bucket", ".nexusgrid"])
        .output()
        .unwrap();
    assert!(!hidden.status.success());
    step("checkpoint");

    // While the groups serve, nothing is restored.
    let plan = metadata(&grid, 2, &["restore"]).unwrap();
    assert_eq!(state_of(&plan, 0), "serves");
    let cluster = plan["cluster"].as_str().unwrap().to_owned();
    let confirmed =
        ["restore", "--confirm", &cluster, "--yes-i-understand-that-newer-changes-are-lost"];
    assert!(metadata(&grid, 2, &confirmed).is_err());

    // What comes after the checkpoint is in the tails of the logs. Also a bucket and its key: the root
    // group's tail has them.
    store(&client, &between, "between");
    client.run("rclone", &["mkdir", "grid:late"]);
    client.run("rclone", &["copy", &text(&between), "grid:late"]);
    client.run("rclone", &["deletefile", "grid:data/before/file-3"]);
    wait_for_tails(&grid);
    stop_tails(&grid);
    step("tails");

    // What comes after the last tail will be lost to metadata, and must not be lost to the drives.
    store(&client, &after, "after");
    step("more stored");
    grid.kill_all();
    for node in 1..=NODES {
        fs::remove_dir_all(grid.dir(node).join("meta")).unwrap();
    }
    let lines: Vec<_> = (1..=NODES).map(|node| grid.spawn(node).unwrap()).collect();
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let plan = loop {
        match metadata(&grid, 2, &["restore"]) {
            Ok(plan) if plan["silent"].as_array().unwrap().is_empty() => break plan,
            last => assert!(Instant::now() < deadline, "no plan: {last:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    for group in 0..5 {
        assert_eq!(state_of(&plan, group), "lost", "{plan}");
    }
    // One group has nothing newer than its checkpoint, perhaps.
    let reach = |row: &Value| {
        let tail = row["tail_index"].as_u64();
        tail.or(row["checkpoint"]["index"].as_u64()).unwrap()
    };
    let planned: Vec<u64> = plan["groups"].as_array().unwrap().iter().map(reach).collect();
    let wrong = [&confirmed[..2], &["00000000000000000000000000000000"], &confirmed[3..]].concat();
    assert!(metadata(&grid, 2, &wrong).is_err());
    assert!(metadata(&grid, 2, &confirmed[..3]).is_err());
    // Two administrators at once: one of them restores.
    let (second, third) = std::thread::scope(|scope| {
        let third = scope.spawn(|| metadata(&grid, 3, &confirmed));
        (metadata(&grid, 2, &confirmed), third.join().unwrap())
    });
    let restored = match (second, third) {
        (Ok(restored), Err(refused)) | (Err(refused), Ok(restored)) => {
            println!("the other heard: {refused:#}");
            restored
        }
        both => panic!("not one restore: {both:?}"),
    };
    // The one that gave way may have claimed incarnation 2 first: a claimed one is never taken again.
    let incarnation = restored["incarnation"].as_u64().unwrap();
    assert!(matches!(incarnation, 2 | 3), "{restored}");
    let groups = restored["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 5);
    let reached: Vec<u64> = groups.iter().map(|row| row["reached"].as_u64().unwrap()).collect();
    assert_eq!(reached, planned, "{restored}");
    step("restored");
    for (node, lines) in (1..=NODES).zip(&lines) {
        grid.await_ready_line(node, lines).unwrap();
    }
    grid.wait_ready(NODES);
    step("ready");

    // All of before the last tail is there, and as it was then; the rest is known to be recoverable.
    fs::remove_file(before.join("file-3")).unwrap();
    verify(&client, &before, "before");
    verify(&client, &between, "between");
    verify_at(&client, &between, "late");
    assert!(!client.run("rclone", &["lsf", "grid:data"]).contains("after/"));
    assert!(is_frozen(&grid.status(1).unwrap()));
    let report = fsck(&grid);
    assert_eq!(
        (report["lost"].as_u64(), report["missing"].as_u64()),
        (Some(0), Some(0)),
        "{report}"
    );
    let recoverable = report["unheard"].as_u64().unwrap();
    // 1.5 MB and 7 MB make two blocks of 2+2, 40 kB one of three copies.
    assert!(recoverable >= 11, "{report}");
    step("verified");

    // Writes and deletes go on, but nothing leaves the drives: not now, and not after restarts.
    client.run("rclone", &["purge", "grid:data/doomed"]);
    store(&client, &after, "new");
    verify(&client, &after, "new");
    let held = fsck(&grid)["held"].as_u64().unwrap();
    grid.kill(3);
    grid.serve(3).unwrap();
    grid.wait_ready(NODES);
    // Ten times the sweep's pause and four times the collector's horizon.
    std::thread::sleep(Duration::from_secs(5));
    let report = fsck(&grid);
    assert_eq!(report["unheard"].as_u64(), Some(recoverable), "{report}");
    assert!(report["held"].as_u64().unwrap() >= held, "{report}");
    assert!(is_frozen(&grid.status(3).unwrap()));
    step("frozen");

    // Thawed, all of it goes.
    let shown = metadata(&grid, 1, &["thaw"]).unwrap();
    assert_eq!((&shown["frozen"], &shown["incarnation"]), (&true.into(), &incarnation.into()));
    assert_eq!(shown["unheard"].as_u64(), Some(recoverable));
    assert!(metadata(&grid, 1, &["thaw", "--incarnation", "1"]).is_err());
    metadata(&grid, 1, &["thaw", "--incarnation", &incarnation.to_string()]).unwrap();
    wait_for_fsck(&grid, "clean of what was lost", |report| {
        let is_gone = |what: &str| report[what] == 0;
        report["clean"] == true
            && ["unheard", "orphans", "awaiting_burial"].into_iter().all(is_gone)
    });
    grid.wait_until("thawed", |status| !is_frozen(status));
    step("thawed");
    verify(&client, &before, "before");
    verify(&client, &after, "new");

    // The new groups are as durable as any, and take checkpoints of their own.
    metadata(&grid, 4, &["checkpoint"]).unwrap();
    grid.kill_all();
    grid.serve_all(&[1, 2, 3, 4]).unwrap();
    grid.wait_ready(NODES);
    verify(&client, &before, "before");
    verify(&client, &after, "new");
}

#[test]
fn grid_groups_that_lost_their_majority_begin_anew_and_old_voters_come_back_as_new() {
    // Three voters of seven: two are lost, and all groups with them, but no data.
    let options = GridOptions {
        storage_only: vec![4, 5, 6, 7],
        config: TIMERS.to_owned(),
        ..GridOptions::default()
    };
    let mut grid = LocalGrid::start_with(&options);
    let client = Client::new(&grid, 1);
    let work = tempfile::tempdir().unwrap();
    let before = work.path().join("before");
    files(&before, 1);
    client.run("rclone", &["mkdir", "grid:data"]);
    store(&client, &before, "before");
    metadata(&grid, 1, &["checkpoint"]).unwrap();
    grid.kill(2);
    grid.kill(3);

    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let plan = loop {
        let plan = metadata(&grid, 1, &["restore"]).unwrap();
        if (0..5).all(|group| state_of(&plan, group) == "lost") {
            break plan;
        }
        assert!(Instant::now() < deadline, "not lost: {plan}");
    };
    assert_eq!(plan["silent"], serde_json::json!([2, 3]));
    let cluster = plan["cluster"].as_str().unwrap();
    let confirmed =
        ["restore", "--confirm", cluster, "--yes-i-understand-that-newer-changes-are-lost"];
    metadata(&grid, 1, &confirmed).unwrap();
    grid.wait_until("restored", is_frozen);
    verify(&client, &before, "before");

    // The lost voters return with all they had: a majority of the lost groups. It must not count.
    grid.serve_all(&[2, 3]).unwrap();
    grid.wait_ready(7);
    let status = grid.status(2).unwrap();
    assert!(is_frozen(&status), "{status}");
    verify(&Client::new(&grid, 3), &before, "before");
    store(&client, &before, "again");
    verify(&Client::new(&grid, 2), &before, "again");
    // Either they set their old replicas aside, or the new groups took them in before that.
    grid.kill(1);
    verify(&Client::new(&grid, 2), &before, "again");
}
