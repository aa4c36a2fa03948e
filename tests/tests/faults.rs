//! Nodes that die, alone and all together.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nexusgrid_tests::{Client, LocalGrid, run};
use serde_json::Value;

/// Longest time for what was deleted to leave the drives: the horizon, sweeps, leases of writers
/// that were killed.
const FSCK_TIMEOUT: Duration = Duration::from_secs(150);

/// Starts the load generator against some nodes.
pub(crate) fn start_load(
    grid: &LocalGrid,
    bucket: &str,
    journal: &str,
    seed: u32,
    nodes: &[usize],
) -> Child {
    let client = Client::new(grid, 1);
    let endpoints: Vec<String> = nodes.iter().map(|node| grid.s3(*node)).collect();
    let mut command: Command = client.command("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/load.py"))
        .args([bucket, journal, &seed.to_string()])
        .args(endpoints)
        .stdin(Stdio::null());
    command.spawn().unwrap()
}

/// Checks every key against the journals, through one node.
pub(crate) fn verify(grid: &LocalGrid, bucket: &str, node: usize, journals: &[String]) -> String {
    let client = Client::new(grid, node);
    let mut command = client.command("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/verify.py"))
        .args([bucket, client.endpoint()])
        .args(journals);
    run(&mut command)
}

/// Waits until the journal counts at least so many acknowledgements.
pub(crate) fn wait_for_acknowledgements(journal: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let text = std::fs::read_to_string(journal).unwrap_or_default();
        if text.matches("\"ok\"").count() >= count {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "the load does not get through: {}",
            text.lines().last().unwrap_or("")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until a check of the grid says what is wanted.
pub(crate) fn wait_for_fsck(grid: &LocalGrid, what: &str, wanted: impl Fn(&Value) -> bool) {
    let dir = grid.dir(1).display().to_string();
    let mut last = String::new();
    let since = Instant::now();
    while since.elapsed() < FSCK_TIMEOUT {
        // It fails while the grid is not clean.
        match grid.command(&["fsck", "--json", "--dir", &dir]) {
            Ok(report) if wanted(&serde_json::from_str(&report).unwrap()) => return,
            Ok(report) => last = report,
            Err(error) => last = format!("{error:#}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("fsck never called the grid {what}: {last}");
}

/// One bucket of a grid, asked without retries.
struct Bucket<'a> {
    client: &'a Client,
    dir: &'a Path,
}

impl Bucket<'_> {
    const NAME: &'static str = "two-of-seven";

    fn body(&self, size: usize) -> PathBuf {
        self.dir.join(format!("body-{size}"))
    }

    fn ask(&self, operation: &str, key: &str, rest: &[&str]) -> Result<(), String> {
        let mut command = self.client.command("aws");
        command
            .env("AWS_MAX_ATTEMPTS", "1")
            .args(["s3api", operation, "--bucket", Bucket::NAME, "--key", key])
            .args(rest);
        let output = command.output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn put(&self, name: &str, size: usize) -> Result<(), String> {
        let body = self.body(size);
        self.ask("put-object", &format!("{name}-{size}"), &["--body", body.to_str().unwrap()])
    }

    /// Reads an object; what is not refused is what was written.
    fn get(&self, name: &str, size: usize) -> Result<(), String> {
        let back = self.dir.join("back");
        self.ask("get-object", &format!("{name}-{size}"), &[back.to_str().unwrap()])?;
        let (back, body) = (std::fs::read(&back).unwrap(), std::fs::read(self.body(size)).unwrap());
        assert!(back == body, "{name}-{size} changed");
        Ok(())
    }
}

/// A refusal that a client understands: no broken connection, no half body.
fn is_clear(message: &str) -> bool {
    message.contains("ServiceUnavailable") || message.contains("SlowDown")
}

/// A number of a node's metrics page: the sum of a metric's rows.
pub(crate) fn metric(grid: &LocalGrid, node: usize, name: &str) -> Option<f64> {
    let page = metrics_page(grid, node);
    let values = page.lines().filter_map(|line| {
        let (row, value) = line.rsplit_once(' ')?;
        (row.split('{').next() == Some(name)).then(|| value.parse::<f64>().unwrap())
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// A node's metrics page.
pub(crate) fn metrics_page(grid: &LocalGrid, node: usize) -> String {
    let mut stream = std::net::TcpStream::connect(grid.admin(node)).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    page
}

#[test]
fn grid_writes_with_two_dead_refuses_with_three_and_recovers() {
    // Inline, packed, and two coded blocks.
    const SIZES: [usize; 3] = [700, 100_000, 9 << 20];
    let mut grid = LocalGrid::start();
    let client = Client::new(&grid, 1);
    let dir = tempfile::tempdir().unwrap();
    let bucket = Bucket { client: &client, dir: dir.path() };
    for size in SIZES {
        std::fs::write(bucket.body(size), vec![size as u8; size]).unwrap();
    }
    client.run("aws", &["s3", "mb", "s3://two-of-seven"]);
    for size in SIZES {
        bucket.put("healthy", size).unwrap();
    }

    grid.kill(6);
    grid.kill(7);
    for size in SIZES {
        bucket.put("two-dead", size).unwrap();
        bucket.get("healthy", size).unwrap();
        bucket.get("two-dead", size).unwrap();
    }
    // Every group of the code has one of the dead in it.
    for (name, least) in [
        ("nexusgrid_grid_blocks_written_total", 5.0),
        ("nexusgrid_grid_shards_missed_total", 2.0),
        ("nexusgrid_grid_budget_bytes", 1e6),
        ("nexusgrid_raft_applied_index", 1.0),
        ("nexusgrid_raft_term", 1.0),
        ("nexusgrid_raft_log_bytes", 1.0),
        ("nexusgrid_drive_healthy", 1.0),
        ("nexusgrid_drive_puts_total", 1.0),
        ("nexusgrid_drive_syncs_total", 1.0),
        ("nexusgrid_s3_requests_total", 9.0),
    ] {
        let value = metric(&grid, 1, name);
        assert!(value >= Some(least), "{name} is {value:?}");
    }
    let leaders: f64 =
        (1..=5).filter_map(|node| metric(&grid, node, "nexusgrid_raft_leader")).sum();
    assert!(leaders >= 5.0, "the root group and four others have leaders: {leaders}");

    grid.kill(5);
    // A large write has no quorum at once; small ones are refused as soon as membership notices.
    let refused = bucket.put("three-dead", 9 << 20).unwrap_err();
    assert!(is_clear(&refused), "{refused}");
    let deadline = Instant::now() + Duration::from_secs(40);
    while bucket.put("noticed", 700).is_ok() {
        assert!(Instant::now() < deadline, "small writes go on with three of seven hosts dead");
        std::thread::sleep(Duration::from_millis(200));
    }
    for size in SIZES {
        let refused = bucket.put("three-dead", size).unwrap_err();
        assert!(is_clear(&refused), "{size}: {refused}");
        // Whole and right, or refused: with fewer than k shards, or a metadata group without its
        // majority. Never a 200 that breaks off.
        for name in ["healthy", "two-dead"] {
            if let Err(refused) = bucket.get(name, size) {
                assert!(is_clear(&refused), "{name}-{size}: {refused}");
            }
        }
    }

    grid.serve_all(&[5, 6, 7]).unwrap();
    grid.wait_ready(7);
    for size in SIZES {
        bucket.put("all-back", size).unwrap();
        for name in ["healthy", "two-dead", "all-back"] {
            bucket.get(name, size).unwrap();
        }
    }
}

/// FAULTS 1: one agent killed again and again, another each time; the grid serves meanwhile and the
/// agent is back within ten seconds.
#[test]
fn grid_one_agent_killed_again_and_again_is_soon_back() {
    let mut grid = LocalGrid::start();
    Client::new(&grid, 1).run("aws", &["s3", "mb", "s3://load"]);
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal").display().to_string();
    let mut load = start_load(&grid, "load", &journal, 77, &[1, 3, 5]);
    for (round, victim) in [2, 4, 6, 7, 2].into_iter().enumerate() {
        wait_for_acknowledgements(&journal, 15 * (round + 1));
        grid.kill(victim);
        wait_for_acknowledgements(&journal, 15 * (round + 1) + 8);
        let began = Instant::now();
        grid.serve(victim).unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "node {victim} took {:?} to return",
            began.elapsed()
        );
    }
    load.kill().unwrap();
    load.wait().unwrap();
    grid.wait_ready(7);
    println!("{}", verify(&grid, "load", 4, &[journal]));
}

/// FAULTS 2: a node dies just before or just after a sync, a rename or a directory sync, at its start
/// and under load; nothing acknowledged is lost. One node, so that nobody else hides a loss.
#[test]
fn grid_killed_at_failpoints_loses_nothing_acknowledged() {
    let mut grid =
        LocalGrid::start_with(&nexusgrid_tests::GridOptions { nodes: 1, ..Default::default() });
    Client::new(&grid, 1).run("aws", &["s3", "mb", "s3://load"]);
    let dir = tempfile::tempdir().unwrap();
    let mut journals = Vec::new();
    let points = [
        "sync:1",
        "after-sync:2",
        "sync:7",
        "after-sync:19",
        "sync:60",
        "after-sync:140",
        "rename:1",
        "after-rename:1",
        "rename:2",
        "after-rename:3",
        "sync-dir:1",
        "after-sync-dir:2",
        "sync-dir:4",
    ];
    for (seed, point) in points.into_iter().enumerate() {
        grid.stop(1);
        let lines = grid.spawn_with(1, &[("NEXUSGRID_CRASH_AT", point)]).unwrap();
        let ready = lines.recv_timeout(Duration::from_secs(20)).is_ok();
        let journal = dir.path().join(format!("{seed}.journal")).display().to_string();
        let mut load = None;
        if ready {
            load = Some(start_load(&grid, "load", &journal, seed as u32, &[1]));
            journals.push(journal);
        }
        // Some points are passed only at a start: then the node lives on and is killed.
        let deadline = Instant::now() + Duration::from_secs(6);
        while !grid.has_ended(1) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        grid.kill(1);
        if let Some(mut load) = load {
            load.kill().unwrap();
            load.wait().unwrap();
        }
        grid.serve(1).unwrap_or_else(|error| panic!("after {point}: {error:#}"));
        let journals: Vec<String> =
            journals.iter().filter(|path| std::path::Path::new(path).exists()).cloned().collect();
        if !journals.is_empty() {
            println!("{point}: {}", verify(&grid, "load", 1, &journals));
        }
    }
}

/// FAULTS 16: a node that leads stands still while others go on, and then knows nothing of it; after
/// that, three of seven at once. Nobody hears an old state, nothing acknowledged is lost.
#[test]
fn grid_fault_16_who_stood_still_tells_nothing_old() {
    use rustix::process::Signal;
    let mut grid = LocalGrid::start();
    let dir = tempfile::tempdir().unwrap();
    Client::new(&grid, 1).run("aws", &["s3", "mb", &format!("s3://{}", Bucket::NAME)]);
    for round in 0..3 {
        let status = grid.status(1).unwrap();
        let leader = status["groups"][1 + round]["leader"].as_u64().unwrap() as usize;
        let other = 1 + leader % 7;
        let (old_dir, new_dir) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::create_dir_all(&old_dir).unwrap();
        std::fs::create_dir_all(&new_dir).unwrap();
        let at_leader = Client::new(&grid, leader);
        let at_other = Client::new(&grid, other);
        let old = Bucket { client: &at_leader, dir: &old_dir };
        let new = Bucket { client: &at_other, dir: &new_dir };
        std::fs::write(old.body(900), vec![round as u8; 900]).unwrap();
        std::fs::write(new.body(900), vec![100 + round as u8; 900]).unwrap();
        old.put("stale", 900).unwrap();
        grid.signal(leader, Signal::STOP);
        let began = Instant::now();
        while let Err(refused) = new.put("stale", 900) {
            assert!(began.elapsed() < Duration::from_secs(30), "{refused}");
            std::thread::sleep(Duration::from_millis(100));
        }
        grid.signal(leader, Signal::CONT);
        // Asked of the one that stood still, at once and again: the new state, or a refusal.
        let resumed = Bucket { client: &at_leader, dir: &new_dir };
        let began = Instant::now();
        loop {
            match resumed.get("stale", 900) {
                Ok(()) => break,
                Err(refused) => assert!(
                    began.elapsed() < Duration::from_secs(30),
                    "node {leader} never serves again: {refused}"
                ),
            }
        }
    }

    Client::new(&grid, 1).run("aws", &["s3", "mb", "s3://load"]);
    let journal = dir.path().join("journal").display().to_string();
    let mut load = start_load(&grid, "load", &journal, 16, &[1, 2, 3, 4]);
    wait_for_acknowledgements(&journal, 30);
    for node in [5, 6, 7] {
        grid.signal(node, Signal::STOP);
    }
    std::thread::sleep(Duration::from_secs(6));
    for node in [5, 6, 7] {
        grid.signal(node, Signal::CONT);
    }
    let so_far = std::fs::read_to_string(&journal).unwrap().matches("\"ok\"").count();
    wait_for_acknowledgements(&journal, so_far + 20);
    load.kill().unwrap();
    load.wait().unwrap();
    grid.wait_ready(7);
    println!("{}", verify(&grid, "load", 6, &[journal]));
    wait_for_fsck(&grid, "clean", |report| report["clean"] == true);
}
