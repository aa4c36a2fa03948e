//! The clients that people use, against seven processes joined by tokens.

use std::path::Path;
use std::process::{Command, Stdio};

use nexusgrid_tests::{Client, GridOptions, LocalGrid, run};

/// A real tree of several thousand files that every build machine has.
const TREE: &str = "/usr/include";

fn diff(left: &Path, right: &Path) {
    // Symbolic links that lead out of the tree are compared as links.
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(left).arg(right));
}

#[test]
fn grid_restic_backs_up_and_restores_while_two_nodes_are_killed() {
    let mut grid = LocalGrid::start();
    let client = Client::new(&grid, 1);
    let repository = format!("s3:{}/backup", client.endpoint());
    client.run("restic", &["-q", "-r", &repository, "init"]);
    let mut backup = client
        .command("restic")
        .args(["-q", "-r", &repository, "--limit-upload", "2048", "backup", TREE])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    // The first packs have arrived: the backup is under way, not before and not after.
    let mut alive_at_first_kill = false;
    loop {
        let listing = client.run(
            "aws",
            &[
                "s3api",
                "list-objects-v2",
                "--bucket",
                "backup",
                "--prefix",
                "data/",
                "--max-items",
                "1",
            ],
        );
        if listing.contains("\"Key\"") {
            alive_at_first_kill = backup.try_wait().unwrap().is_none();
            break;
        }
        if backup.try_wait().unwrap().is_some() {
            break;
        }
    }
    assert!(
        alive_at_first_kill,
        "the backup ended before a node could be killed: the tree is too small"
    );
    grid.kill(6);
    grid.kill(7);
    assert!(backup.wait().unwrap().success(), "the backup failed when two nodes died");
    client.run("restic", &["-q", "-r", &repository, "check", "--read-data"]);
    let target = tempfile::tempdir().unwrap();
    client.run(
        "restic",
        &[
            "-q",
            "-r",
            &repository,
            "restore",
            "latest",
            "--target",
            target.path().to_str().unwrap(),
        ],
    );
    diff(Path::new(TREE), &target.path().join(TREE.trim_start_matches('/')));
    grid.serve_all(&[6, 7]).unwrap();
    grid.wait_ready(7);
    client.run("restic", &["-q", "-r", &repository, "check"]);
}

#[test]
fn grid_rclone_and_the_aws_cli_store_and_compare_equal() {
    let grid = LocalGrid::start();
    let client = Client::new(&grid, 2);
    let tree = "/usr/include/linux";
    client.run("rclone", &["mkdir", "grid:sync"]);
    client.run(
        "rclone",
        &["copy", tree, "grid:sync/linux", "--transfers", "8", "--checkers", "8", "--copy-links"],
    );
    client.run("rclone", &["check", tree, "grid:sync/linux", "--download", "--copy-links"]);
    client.run("rclone", &["check", tree, "grid:sync/linux", "--copy-links"]);

    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=40", "status=none"])
        .arg(format!("of={}", big.display())));
    client.run("aws", &["s3", "mb", "s3://cli"]);
    client.run("aws", &["s3", "cp", "--no-progress", big.to_str().unwrap(), "s3://cli/big"]);
    let back = dir.path().join("back");
    // Another node's endpoint serves the same objects.
    Client::new(&grid, 5)
        .run("aws", &["s3", "cp", "--no-progress", "s3://cli/big", back.to_str().unwrap()]);
    run(Command::new("cmp").arg(&big).arg(&back));
    client.run("aws", &["s3", "sync", "--no-progress", "/usr/include/asm-generic", "s3://cli/asm"]);
    let synced = dir.path().join("asm");
    client.run("aws", &["s3", "sync", "--no-progress", "s3://cli/asm", synced.to_str().unwrap()]);
    diff(Path::new("/usr/include/asm-generic"), &synced);
    client.run("aws", &["s3", "rm", "--recursive", "--only-show-errors", "s3://cli"]);
    client.run("aws", &["s3", "rb", "s3://cli"]);
}

#[test]
fn grid_boto3_covers_the_api() {
    // Rules about the ends of objects are seen at work.
    let config = "[s3]\nsse_c_without_tls = true\n[timers]\nlifecycle_day_ms = 2000\n".to_owned();
    let grid = LocalGrid::start_with(&GridOptions { config, ..GridOptions::default() });
    let output = Client::new(&grid, 3).pytest("test_s3_api.py");
    assert!(output.contains(" passed"), "{output}");
}
