//! The command line of a running grid: what it changes holds on every node, and is shown.

use std::time::{Duration, Instant};

use nexusgrid_tests::{GridOptions, LocalGrid};
use serde_json::Value;

/// How long a change may take to be known by every node.
const PATIENCE: Duration = Duration::from_secs(20);

fn ask(grid: &LocalGrid, node: usize, words: &[&str]) -> Value {
    let dir = grid.dir(node).display().to_string();
    let answer = grid.command(&[words, &["--json", "--dir", &dir]].concat()).unwrap();
    serde_json::from_str(&answer).unwrap_or(Value::Null)
}

fn refused(grid: &LocalGrid, words: &[&str]) -> String {
    let dir = grid.dir(1).display().to_string();
    grid.command(&[words, &["--dir", &dir]].concat()).unwrap_err().to_string()
}

fn row(rows: &Value, field: &str, value: &Value) -> Value {
    rows.as_array().unwrap().iter().find(|row| row[field] == *value).cloned().unwrap_or_default()
}

/// Asks every node until all show what is wanted.
fn everywhere(grid: &LocalGrid, words: &[&str], wanted: impl Fn(&Value) -> bool) {
    let end = Instant::now() + PATIENCE;
    for node in grid.running() {
        loop {
            let answer = ask(grid, node, words);
            if wanted(&answer) {
                break;
            }
            assert!(Instant::now() < end, "node {node}: {words:?}: {answer:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn grid_workers_drives_and_accounts_are_managed_from_any_node() {
    let options = GridOptions { nodes: 3, ..GridOptions::default() };
    let grid = LocalGrid::start_with(&options);

    // A worker is paused, slowed and resumed on all nodes by a word to one.
    let worker = |rows: &Value| row(rows, "name", &"scrub".into());
    // One that is busy ends its round first.
    let is_paused =
        |rows: &Value| ["paused", "pausing"].contains(&worker(rows)["state"].as_str().unwrap());
    let list = ["worker", "ls"];
    everywhere(&grid, &list, |rows| !is_paused(rows));
    let usual = worker(&ask(&grid, 1, &list))["rate"].clone();
    ask(&grid, 2, &["worker", "pause", "scrub"]);
    everywhere(&grid, &list, is_paused);
    let status = ask(&grid, 3, &["status"]);
    assert_eq!(row(&status["workers"], "name", &"scrub".into())["paused"], true, "{status:#}");
    ask(&grid, 3, &["worker", "rate", "scrub", "3"]);
    everywhere(&grid, &list, |rows| worker(rows)["rate"] == 3_000_000);
    ask(&grid, 1, &["worker", "resume", "scrub"]);
    ask(&grid, 1, &["worker", "rate", "scrub", "default"]);
    everywhere(&grid, &list, |rows| !is_paused(rows) && worker(rows)["rate"] == usual);
    assert!(refused(&grid, &["worker", "pause", "nonsense"]).contains("nonsense"));

    // A drive is added while its node serves, and is given another share.
    let drives = |rows: &Value| rows.as_array().unwrap().len();
    let list = ["drive", "ls"];
    let known = ask(&grid, 1, &list);
    assert_eq!(drives(&known), 3);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("more").display().to_string();
    ask(&grid, 2, &["drive", "add", &path]);
    everywhere(&grid, &list, |rows| drives(rows) == 4);
    let ids = |rows: &Value| -> Vec<u64> {
        rows.as_array().unwrap().iter().filter_map(|row| row["id"].as_u64()).collect()
    };
    let new = ids(&ask(&grid, 1, &list)).into_iter().find(|id| !ids(&known).contains(id)).unwrap();
    ask(&grid, 3, &["drive", "weight", &new.to_string(), "7"]);
    everywhere(&grid, &list, |rows| row(rows, "id", &new.into())["weight"] == 7);
    assert!(refused(&grid, &["drive", "weight", "999", "7"]).contains("999"));

    // An account is known at every gateway, with the key that it was given.
    let made = ask(&grid, 1, &["account", "create", "research", "--email", "r@example.com"]);
    let id = made["id"].as_str().unwrap().to_owned();
    everywhere(&grid, &["account", "ls"], |rows| {
        row(rows, "id", &made["id"])["name"] == "research"
    });
    assert!(!made["secret_key"].as_str().unwrap().is_empty());
    let again = ["account", "create", "other", "--email", "R@example.com"];
    assert!(refused(&grid, &again).contains("example.com"));
    ask(&grid, 2, &["account", "delete", &id]);
    everywhere(&grid, &["account", "ls"], |rows| row(rows, "id", &made["id"]).is_null());
    assert!(refused(&grid, &["account", "delete", &id]).contains(&id));
}
