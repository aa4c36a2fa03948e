//! N9: a mount that has its bucket to itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use nexusgrid_tests::{Client, GridOptions, LocalGrid, Mounted};

use crate::faults::wait_for_fsck;

/// Longest time until a mount has its bucket to itself.
const PATIENCE: Duration = Duration::from_secs(120);
const FILES: usize = 300;
/// Of empty files, small ones, and those that are stored in blocks.
const SIZES: [usize; 4] = [0, 100, 6_000, 20_000];

fn figures(grid: &LocalGrid) -> serde_json::Value {
    let dir = grid.dir(2);
    let mounts = grid.command(&["mounts", "--json", "--dir", dir.to_str().unwrap()]).unwrap();
    let mounts: serde_json::Value = serde_json::from_str(&mounts).unwrap();
    mounts[0].clone()
}

fn figure(grid: &LocalGrid, what: &str) -> u64 {
    let figures = figures(grid);
    figures[what].as_u64().unwrap_or_else(|| panic!("{figures}"))
}

/// Changes something until the mount has the bucket to itself.
fn until_alone(grid: &LocalGrid, mounted: &Mounted) {
    let (begun, scratch) = (Instant::now(), mounted.join("scratch"));
    while figures(grid)["alone"] != true {
        assert!(begun.elapsed() < PATIENCE, "{}", figures(grid));
        for _ in 0..8 {
            fs::write(&scratch, b"").unwrap();
            fs::remove_file(&scratch).unwrap();
        }
    }
}

pub(crate) fn bytes(number: usize) -> Vec<u8> {
    (0..SIZES[number % SIZES.len()]).map(|at| (at * 31 + number) as u8).collect()
}

/// Directories with files, some of them moved, linked, or given other permissions.
pub(crate) fn grow(dir: &Path) {
    fs::create_dir(dir).unwrap();
    for number in 0..FILES {
        let below = dir.join(format!("d{}", number / 50));
        if number % 50 == 0 {
            fs::create_dir(&below).unwrap();
        }
        let file = below.join(format!("f{number}"));
        fs::write(&file, bytes(number)).unwrap();
        match number % 7 {
            0 => fs::rename(&file, below.join(format!("g{number}"))).unwrap(),
            1 => fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap(),
            2 => fs::hard_link(&file, below.join(format!("h{number}"))).unwrap(),
            3 => symlink(format!("f{number}"), below.join(format!("s{number}"))).unwrap(),
            4 => fs::remove_file(&file).unwrap(),
            _ => {}
        }
    }
}

/// All that is below a directory: modes, and bytes.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let bytes = match (found.is_dir(), found.is_symlink()) {
                (true, _) => {
                    left.push(path.clone());
                    Vec::new()
                }
                (_, true) => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                _ => fs::read(&path).unwrap(),
            };
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            all.insert(name, (found.permissions().mode(), bytes));
        }
    }
    all
}

#[test]
fn grid_a_mount_works_alone() {
    let mut grid = LocalGrid::start_with(&GridOptions { nodes: 3, ..GridOptions::default() });
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://drive"]);
    let alone = Mounted::new(&grid, 2, "drive", "delegate");
    let other = Mounted::new(&grid, 3, "drive", "");

    // Many things are said at once, and are as they would have been.
    let reference = tempfile::tempdir().unwrap();
    let local = reference.path().join("tree");
    grow(&local);
    until_alone(&grid, &alone);
    let (decided, commands) = (figure(&grid, "decided"), figure(&grid, "commands"));
    grow(&alone.join("tree"));
    let (decided, commands) =
        (figure(&grid, "decided") - decided, figure(&grid, "commands") - commands);
    assert!(decided > 2 * FILES as u64, "{decided}");
    assert!(commands < decided / 2, "{decided} in {commands}");
    let wanted = tree(&local);
    assert_eq!(tree(&alone.join("tree")), wanted);

    // Another mount, and S3, see it at once; and it sees what they do.
    assert_eq!(tree(&other.join("tree")), wanted);
    until_alone(&grid, &alone);
    fs::write(alone.join("at-once"), b"last").unwrap();
    assert_eq!(client.run("aws", &["s3", "cp", "s3://drive/at-once", "-"]), "last");
    until_alone(&grid, &alone);
    fs::write(other.join("at-once"), b"other").unwrap();
    assert_eq!(fs::read(alone.join("at-once")).unwrap(), b"other");

    // What was synced outlives the agent; what an agent was told to end had done outlives that, too.
    for (round, dies) in [true, false].into_iter().enumerate() {
        until_alone(&grid, &alone);
        let dir = alone.join(&format!("kept-{round}"));
        fs::create_dir(&dir).unwrap();
        for number in 0..100 {
            fs::write(dir.join(format!("f{number}")), bytes(number)).unwrap();
        }
        if dies {
            File::open(&dir).unwrap().sync_all().unwrap();
            grid.kill(2);
        } else {
            grid.stop(2);
        }
        grid.serve(2).unwrap();
        for number in 0..100 {
            assert_eq!(fs::read(dir.join(format!("f{number}"))).unwrap(), bytes(number), "{round}");
        }
        assert_eq!(fs::read_dir(other.join(&format!("kept-{round}"))).unwrap().count(), 100);
    }
    alone.unmount();
    other.unmount();
    wait_for_fsck(&grid, "a mount alone", |report| report["clean"] == true);
}
