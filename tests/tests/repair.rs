//! A grid that loses machines heals without a human.

use std::time::Duration;

use nexusgrid_tests::{Client, GridOptions, LocalGrid};
use serde_json::Value;

use crate::faults::{start_load, verify, wait_for_acknowledgements};

/// Eight nodes, so that two may go and every group still finds its hosts.
const NODES: usize = 8;

fn admin(grid: &LocalGrid, words: &[&str]) -> Result<Value, String> {
    let dir = grid.dir(1).display().to_string();
    let arguments: Vec<&str> = words.iter().copied().chain(["--json", "--dir", &dir]).collect();
    match grid.command(&arguments) {
        Ok(answer) => Ok(serde_json::from_str(&answer).unwrap()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether nothing moves, and no placement group has a slot on drives of these nodes.
fn is_healed(grid: &LocalGrid, gone: &[u64]) -> bool {
    let drives = admin(grid, &["drive", "ls"]).unwrap();
    let is_gone = |drive: &Value| gone.contains(&drive["node"].as_u64().unwrap());
    let lost: Vec<Value> = drives
        .as_array()
        .unwrap()
        .iter()
        .filter(|drive| is_gone(drive))
        .map(|drive| drive["id"].clone())
        .collect();
    assert_eq!(lost.len(), gone.len());
    let groups = admin(grid, &["pg", "ls"]).unwrap();
    groups.as_array().unwrap().iter().all(|group| {
        group["state"] != "preparing"
            && group["drives"].as_array().unwrap().iter().all(|drive| !lost.contains(drive))
    })
}

#[test]
fn grid_a_drained_and_a_killed_node_are_healed_without_a_human() {
    let timers = "[timers]\nrepair_grace_ms = 3000\n".to_owned();
    let options = GridOptions { nodes: NODES, config: timers, ..GridOptions::default() };
    let mut grid = LocalGrid::start_with(&options);
    Client::new(&grid, 1).run("aws", &["s3", "mb", "s3://healed"]);
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal").display().to_string();
    let mut load = start_load(&grid, "healed", &journal, 1, &[1, 2, 3, 4, 5, 6]);
    wait_for_acknowledgements(&journal, 30);

    let refused = admin(&grid, &["node", "remove", "n8"]).unwrap_err();
    assert!(refused.contains("nexusgrid node drain n8"), "{refused}");
    let answer = admin(&grid, &["node", "drain", "n8"]).unwrap();
    assert!(answer["state"] == "leaving" && answer["slots"].as_u64().unwrap() > 0, "{answer}");
    grid.wait_until("drained", |_| is_healed(&grid, &[8]));
    // Its votes go to others as well; then it may go, and what it held is gone from it.
    grid.wait_until("free of it", |_| admin(&grid, &["node", "remove", "n8"]).is_ok());
    grid.kill(8);

    grid.kill(7);
    let answer = std::time::Instant::now();
    grid.wait_until("healed", |status| status["repair"]["down"] == 0 && is_healed(&grid, &[7]));
    assert!(answer.elapsed() > Duration::from_secs(3), "before its grace was over");
    load.kill().unwrap();
    load.wait().unwrap();
    println!("{}", verify(&grid, "healed", 2, &[journal]));
    let status = grid.status(1).unwrap();
    assert_eq!(status["repair"]["beyond_repair"], 0, "{status}");
    assert_eq!(status["repair"]["to_move"], 0, "{status}");
}
