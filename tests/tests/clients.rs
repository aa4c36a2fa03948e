//! The clients that people use, against seven processes joined by tokens.

use std::io::{BufRead as _, BufReader};
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
fn grid_of_a_hundred_conditional_writers_one_wins_though_nodes_die() {
    let mut grid = LocalGrid::start();
    let doors: Vec<String> = [2, 4, 6].map(|node| grid.s3(node)).to_vec();
    let client = Client::new(&grid, 2);
    client.run("aws", &["s3", "mb", "s3://race"]);
    let rounds = 12;
    let mut racing = client
        .command("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/race.py"))
        .args(["race", &rounds.to_string(), "100"])
        .args(&doors)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(racing.stdout.take().unwrap()).lines();
    // Among those that die is the leader of the bucket's group; two at a time may be away.
    let mut dead = None;
    for round in 1..=rounds {
        let line = lines.next().unwrap_or_else(|| panic!("it ended before round {round}"));
        assert_eq!(line.unwrap(), format!("round {round}"));
        if round % 3 == 0 {
            if let Some(node) = dead.take() {
                grid.serve_all(&[node]).unwrap();
                grid.wait_ready(node);
            }
            let node = [1, 3, 5, 7][round / 3 - 1];
            grid.kill(node);
            dead = Some(node);
        }
    }
    assert!(racing.wait().unwrap().success());
}

#[test]
fn grid_s3cmd_does_what_people_do_with_it() {
    let grid = LocalGrid::start_with(&GridOptions { nodes: 3, ..GridOptions::default() });
    let client = Client::new(&grid, 2);
    let address = client.endpoint().trim_start_matches("http://").to_owned();
    let s3cmd = |words: &[&str]| {
        let place = ["--no-ssl", "--no-progress", "--host", &address, "--host-bucket", &address];
        client.run("s3cmd", &[&place[..], words].concat())
    };
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).display().to_string();
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=17", "status=none"])
        .arg(format!("of={}", path("big"))));
    s3cmd(&["mb", "s3://people"]);
    // More than one part of 15 MiB; a name that must be escaped.
    s3cmd(&["put", &path("big"), "s3://people/a b/gr\u{f6}\u{df}e+%.bin"]);
    s3cmd(&["cp", "s3://people/a b/gr\u{f6}\u{df}e+%.bin", "s3://people/copy"]);
    s3cmd(&["mv", "s3://people/copy", "s3://people/moved"]);
    s3cmd(&["get", "s3://people/moved", &path("back")]);
    run(Command::new("cmp").args([path("big"), path("back")]));
    assert!(s3cmd(&["ls", "-r", "s3://people"]).contains("gr\u{f6}\u{df}e+%.bin"));
    assert!(s3cmd(&["info", "s3://people/moved"]).contains("17825792"));
    s3cmd(&["setacl", "--acl-public", "s3://people/moved"]);
    // Who has no key reads it now, and nothing else.
    let read = |key: &str| {
        let place = format!("{}/people/{key}", client.endpoint());
        client.run("curl", &["-s", "-o", "/dev/null", "-w", "%{http_code}", &place])
    };
    assert_eq!((read("moved"), read("a%20b/")), ("200".to_owned(), "403".to_owned()));
    s3cmd(&["sync", "/usr/include/asm-generic/", "s3://people/tree/"]);
    let tree = files.path().join("tree");
    s3cmd(&["sync", "s3://people/tree/", &format!("{}/", tree.display())]);
    diff(Path::new("/usr/include/asm-generic"), &tree);
    s3cmd(&["rb", "--recursive", "--force", "s3://people"]);
}

#[test]
fn grid_boto3_covers_the_api() {
    // Rules about the ends of objects are seen at work.
    let config = "[s3]\nsse_c_without_tls = true\n[timers]\nlifecycle_day_ms = 2000\n".to_owned();
    let grid = LocalGrid::start_with(&GridOptions { config, ..GridOptions::default() });
    let output = Client::new(&grid, 3).pytest("test_s3_api.py");
    assert!(output.contains(" passed"), "{output}");
}
