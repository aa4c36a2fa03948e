//! Nodes that die, alone and all together.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nexusgrid_tests::{Client, LocalGrid, run};

/// Starts the load generator against some nodes.
fn start_load(grid: &LocalGrid, bucket: &str, journal: &str, seed: u32, nodes: &[usize]) -> Child {
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

fn verify(grid: &LocalGrid, bucket: &str, node: usize, journals: &[String]) -> String {
    let client = Client::new(grid, node);
    let mut command = client.command("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/verify.py"))
        .args([bucket, client.endpoint()])
        .args(journals);
    run(&mut command)
}

/// Waits until the journal counts at least so many acknowledgements.
fn wait_for_acknowledgements(journal: &str, count: usize) {
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

/// All processes killed under load, `rounds` times: what was acknowledged is there and listed.
fn kill_everything(rounds: u32) {
    let mut grid = LocalGrid::start();
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://load"]);
    let dir = tempfile::tempdir().unwrap();
    let mut journals = Vec::new();
    for round in 0..rounds {
        let journal = dir.path().join(format!("{round}.journal")).display().to_string();
        let mut load = start_load(&grid, "load", &journal, round, &[1, 2, 3, 4, 5, 6, 7]);
        wait_for_acknowledgements(&journal, 40);
        grid.kill_all();
        load.kill().unwrap();
        load.wait().unwrap();
        journals.push(journal);
        grid.serve_all(&[1, 2, 3, 4, 5, 6, 7]).unwrap();
        grid.wait_ready(7);
        println!("round {round}: {}", verify(&grid, "load", 1 + (round as usize % 7), &journals));
    }
}

#[test]
fn grid_all_processes_killed_under_load_lose_nothing_acknowledged() {
    kill_everything(5);
}

#[test]
fn soak_grid_all_processes_killed_under_load() {
    let rounds =
        std::env::var("NEXUSGRID_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    kill_everything(rounds);
}

#[test]
fn grid_writes_with_two_dead_refuses_with_three_and_recovers() {
    let mut grid = LocalGrid::start();
    let client = Client::new(&grid, 1);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("body");
    std::fs::write(&file, vec![0x5a; 2 << 20]).unwrap();
    let body = file.to_str().unwrap();
    let back = dir.path().join("back");
    let put = |key: &str| {
        let mut command = client.command("aws");
        command.env("AWS_MAX_ATTEMPTS", "1").args([
            "s3api",
            "put-object",
            "--bucket",
            "two-of-seven",
            "--key",
            key,
            "--body",
            body,
        ]);
        command.output().unwrap()
    };
    let get_equal = |key: &str| {
        client.run(
            "aws",
            &[
                "s3api",
                "get-object",
                "--bucket",
                "two-of-seven",
                "--key",
                key,
                back.to_str().unwrap(),
            ],
        );
        std::fs::read(&back).unwrap() == std::fs::read(&file).unwrap()
    };
    client.run("aws", &["s3", "mb", "s3://two-of-seven"]);
    assert!(put("healthy").status.success());

    grid.kill(6);
    grid.kill(7);
    let output = put("two-dead");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(get_equal("healthy") && get_equal("two-dead"));

    grid.kill(5);
    let output = put("three-dead");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "a write with three of seven hosts dead must be refused");
    assert!(message.contains("ServiceUnavailable") || message.contains("SlowDown"), "{message}");
    // Metadata has lost at most three of five voters; if it has two left, reads fail, cleanly too.
    let mut read = client.command("aws");
    read.env("AWS_MAX_ATTEMPTS", "1")
        .args(["s3api", "get-object", "--bucket", "two-of-seven", "--key", "healthy"])
        .arg(&back);
    let output = read.output().unwrap();
    if output.status.success() {
        assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(&file).unwrap());
    } else {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            // Refused, or broken off where the shards end: never other bytes.
            message.contains("ServiceUnavailable")
                || message.contains("SlowDown")
                || message.contains("IncompleteRead"),
            "{message}"
        );
    }

    grid.serve_all(&[5, 6, 7]).unwrap();
    grid.wait_ready(7);
    let output = put("all-back");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for key in ["healthy", "two-dead", "all-back"] {
        assert!(get_equal(key), "{key} changed");
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
