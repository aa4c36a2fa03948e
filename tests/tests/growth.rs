//! A grid that grows brings what it holds into the code that its new hosts allow.

use nexusgrid_tests::{Client, GridOptions, LocalGrid};
use serde_json::Value;

use crate::faults::{start_load, verify, wait_for_acknowledgements, wait_for_fsck};

fn is_recoded(status: &Value) -> bool {
    status["recode"]["bytes"] == 0
}

/// Bytes that the nodes have moved to new blocks.
fn rewritten(grid: &LocalGrid) -> u64 {
    let of_node = |number: usize| {
        let dir = grid.dir(number).display().to_string();
        let answer = grid.command(&["worker", "ls", "--json", "--dir", &dir]).unwrap();
        let workers: Value = serde_json::from_str(&answer).unwrap();
        let rewrite = workers.as_array().unwrap().iter().find(|row| row["name"] == "rewrite");
        rewrite.unwrap()["bytes"].as_u64().unwrap()
    };
    grid.running().into_iter().map(of_node).sum()
}

#[test]
fn grid_three_nodes_grow_to_four_and_seven_with_data_in_them() {
    let timers = "[timers]\nrewrite_every_ms = 3000\nreader_horizon_ms = 5000\n\
                  sweep_every_ms = 3000\norphan_age_ms = 3000\n";
    let options = GridOptions { nodes: 3, config: timers.to_owned(), ..GridOptions::default() };
    let mut grid = LocalGrid::start_with(&options);
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://grows"]);
    let dir = tempfile::tempdir().unwrap();
    let body = dir.path().join("body").display().to_string();
    let bytes: Vec<u8> = (0..30_000_000u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect();
    std::fs::write(&body, &bytes).unwrap();
    client.run("aws", &["s3", "cp", "--only-show-errors", &body, "s3://grows/large"]);
    grid.wait_until("in its code", is_recoded);
    let mut journals = Vec::new();
    let mut moved = rewritten(&grid);
    for (stage, nodes) in [4, 7].into_iter().enumerate() {
        // Clients go on while nodes join and contents move.
        let journal = dir.path().join(format!("{stage}.journal")).display().to_string();
        let mut load = start_load(&grid, "grows", &journal, stage as u32, &[1, 2, 3]);
        wait_for_acknowledgements(&journal, 30);
        for number in grid.running().len() + 1..=nodes {
            grid.add_node(number, &options).unwrap();
        }
        grid.wait_ready(nodes);
        grid.wait_until("in today's code", is_recoded);
        load.kill().unwrap();
        load.wait().unwrap();
        journals.push(journal);
        grid.wait_until("in today's code", is_recoded);
        let before = std::mem::replace(&mut moved, rewritten(&grid));
        assert!(moved >= before + bytes.len() as u64, "{before} bytes rewritten, then {moved}");
        println!("{nodes} nodes: {}", verify(&grid, "grows", nodes, &journals));
    }
    wait_for_fsck(&grid, "clean", |report| report["clean"] == true);
    grid.kill(2);
    grid.kill(6);
    println!("two away: {}", verify(&grid, "grows", 4, &journals));
    let copy = dir.path().join("copy").display().to_string();
    let client = Client::new(&grid, 7);
    client.run("aws", &["s3", "cp", "--only-show-errors", "s3://grows/large", &copy]);
    assert!(std::fs::read(&copy).unwrap() == bytes);
    let text = grid.command(&["status", "--dir", &grid.dir(1).display().to_string()]).unwrap();
    assert!(!text.contains("recode"), "{text}");
}
