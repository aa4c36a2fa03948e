//! H1 to H5: what snapshots show in mounts.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nexusgrid_tests::{Client, GridOptions, LocalGrid, Mounted, run};

use crate::alone::{bytes, grow, tree};
use crate::faults::wait_for_fsck;

/// A file that is written in the middle.
const LARGE: usize = 24 << 20;

/// How long the kernel may show what a snapshot showed that was dropped.
const DROPPED_PATIENCE: Duration = Duration::from_secs(60);

fn snapshot(grid: &LocalGrid, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    let dir = grid.dir(2);
    let dir = ["--json", "--dir", dir.to_str().unwrap()];
    let said = grid.command(&[&["snapshot"], arguments, &dir].concat())?;
    Ok(serde_json::from_str(&said)?)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Changes files of [`grow`] in every way.
fn change(dir: &Path) {
    for number in 0..6 {
        let below = dir.join(format!("d{number}"));
        for (at, name) in names(&below).into_iter().enumerate() {
            let path = below.join(&name);
            if fs::symlink_metadata(&path).unwrap().is_symlink() {
                fs::remove_file(&path).unwrap();
                continue;
            }
            match at % 6 {
                0 => fs::write(&path, b"another").unwrap(),
                1 => {
                    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
                    file.write_all(b"more").unwrap();
                }
                2 => fs::remove_file(&path).unwrap(),
                3 => fs::rename(&path, dir.join(format!("moved-{number}-{at}"))).unwrap(),
                4 => fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap(),
                _ => OpenOptions::new().write(true).open(&path).unwrap().set_len(7).unwrap(),
            }
        }
        fs::write(below.join("new"), b"new").unwrap();
    }
    fs::rename(dir.join("d4"), dir.join("elsewhere")).unwrap();
    fs::create_dir(dir.join("d4")).unwrap();
    fs::write(dir.join("d4/f1"), b"of another directory").unwrap();
}

fn used_bytes(grid: &LocalGrid) -> u64 {
    let dir = grid.dir(2);
    let said = grid.command(&["drive", "ls", "--json", "--dir", dir.to_str().unwrap()]).unwrap();
    let drives: Vec<BTreeMap<String, serde_json::Value>> = serde_json::from_str(&said).unwrap();
    drives.iter().filter_map(|drive| drive["used_bytes"].as_u64()).sum()
}

fn copy(from: &Path, to: &Path) {
    run(std::process::Command::new("cp").arg("-a").args([from, to]));
}

fn refused(done: io::Result<()>) {
    let error = done.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{error}");
}

#[test]
fn grid_snapshots_show_what_there_was() {
    let mut grid = LocalGrid::start_with(&GridOptions { nodes: 3, ..GridOptions::default() });
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://drive"]);
    let mounted = Mounted::new(&grid, 2, "drive", "");
    let other = Mounted::new(&grid, 3, "drive", "");
    grow(&mounted.join("tree"));
    let local = tempfile::tempdir().unwrap();
    let object = local.path().join("object");
    fs::write(&object, bytes(3)).unwrap();
    let object = object.to_str().unwrap();
    for key in ["keys/a", "keys/deep/er/b"] {
        client.run("aws", &["s3", "cp", object, &format!("s3://drive/{key}")]);
    }
    let large: Vec<u8> = (0..LARGE).map(|at| (at / 7 + at / 4_096) as u8).collect();
    fs::write(mounted.join("large"), &large).unwrap();

    // H1: all of it is there at once, whatever is done afterwards, and by whom.
    let wanted = tree(&mounted.join("tree"));
    let taken = snapshot(&grid, &["create", "drive", "first"]).unwrap();
    assert_eq!((taken["name"].as_str(), taken["of"].as_str()), (Some("first"), Some("drive")));
    change(&mounted.join("tree"));
    let file = OpenOptions::new().write(true).open(other.join("large")).unwrap();
    for at in 0..64 {
        file.write_all_at(b"in between", (LARGE / 64 * at) as u64).unwrap();
    }
    drop(file);
    fs::write(local.path().join("object"), b"overwritten").unwrap();
    client.run("aws", &["s3", "cp", object, "s3://drive/keys/a"]);
    client.run("aws", &["s3", "rm", "s3://drive/keys/deep/er/b"]);
    for at in [&mounted, &other] {
        let first = at.join(".snapshots/first");
        assert_eq!(tree(&first.join("tree")), wanted);
        assert_eq!(fs::read(first.join("keys/a")).unwrap(), bytes(3));
        assert_eq!(fs::read(first.join("keys/deep/er/b")).unwrap(), bytes(3));
        assert!(fs::read(first.join("large")).unwrap() == large, "a large file is as it was");
    }
    assert_ne!(tree(&mounted.join("tree")), wanted);
    assert!(fs::read(mounted.join("large")).unwrap() != large);

    // H2: in every directory, and in no listing.
    assert!(!names(mounted.path()).contains(&".snapshots".to_owned()));
    assert_eq!(names(&mounted.join(".snapshots")), ["first"]);
    let below = tree(&mounted.join("tree/elsewhere/.snapshots/first"));
    let there = wanted
        .iter()
        .filter_map(|(name, found)| Some((name.strip_prefix("d4/")?.to_owned(), found.clone())));
    assert_eq!(below, there.collect());
    assert_eq!(
        names(&mounted.join("tree/d4/.snapshots")),
        Vec::<String>::new(),
        "it was not there"
    );

    // One of a directory is shown there and below.
    snapshot(&grid, &["create", "drive/tree", "second"]).unwrap();
    assert_eq!(names(&mounted.join(".snapshots")), ["first"]);
    assert_eq!(names(&mounted.join("tree/.snapshots")), ["first", "second"]);
    assert_eq!(names(&mounted.join("tree/d4/.snapshots")), ["second"]);
    let second = tree(&mounted.join("tree"));
    let listed = snapshot(&grid, &["ls", "drive"]).unwrap();
    let listed: Vec<&str> =
        listed.as_array().unwrap().iter().map(|one| one["of"].as_str().unwrap()).collect();
    assert_eq!(listed, ["drive", "drive/tree"]);
    for (arguments, why) in [
        (["create", "drive", "first"].as_slice(), "exists"),
        (&["create", "drive/none", "third"], "no such directory"),
        (&["create", "drive", "a/b"], "a snapshot's name"),
        (&["delete", "drive", "third"], "no such snapshot"),
    ] {
        let error = snapshot(&grid, arguments).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    // H3: nothing of them changes.
    let first = mounted.join(".snapshots/first");
    let victim = first.join("large");
    refused(OpenOptions::new().write(true).open(&victim).map(drop));
    refused(OpenOptions::new().append(true).open(&victim).map(drop));
    refused(fs::write(first.join("new"), b"new"));
    refused(fs::create_dir(first.join("new")));
    refused(fs::remove_file(&victim));
    refused(fs::rename(&victim, first.join("new")));
    refused(fs::set_permissions(&victim, Permissions::from_mode(0o600)));
    refused(fs::create_dir(mounted.join(".snapshots/third")));
    refused(fs::remove_dir(mounted.join(".snapshots/first")));

    // Daemons and agents come and go.
    let mut open = fs::File::open(&victim).unwrap();
    mounted.kill_daemon();
    grid.kill(2);
    grid.serve(2).unwrap();
    open.seek(SeekFrom::Start(LARGE as u64 / 2)).unwrap();
    let mut half = Vec::new();
    open.read_to_end(&mut half).unwrap();
    assert!(half == large[LARGE / 2..], "whoever has a file open reads on");
    assert_eq!(tree(&first.join("tree")), wanted);

    // H4: what is copied from there shares its blocks.
    let before = used_bytes(&grid);
    let (from, to) = (first.join("tree"), mounted.join("restored"));
    copy(&from, &to);
    let to = mounted.join("large-again");
    copy(&victim, &to);
    assert_eq!(tree(&mounted.join("restored")), wanted);
    assert!(fs::read(&to).unwrap() == large);
    let more = used_bytes(&grid).saturating_sub(before);
    assert!(more < LARGE as u64 / 2, "{more} bytes more");

    // H5: a dropped one is gone, and nothing of the others.
    snapshot(&grid, &["delete", "drive", "first"]).unwrap();
    let begun = Instant::now();
    while mounted.join(".snapshots/first").exists() || other.join(".snapshots/first").exists() {
        assert!(begun.elapsed() < DROPPED_PATIENCE, "it is shown still");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(names(&mounted.join(".snapshots")), Vec::<String>::new());
    assert_eq!(tree(&mounted.join("restored")), wanted);
    assert!(fs::read(&to).unwrap() == large);
    fs::remove_dir_all(mounted.join("tree/d2")).unwrap();
    fs::remove_dir_all(other.join("tree/elsewhere")).unwrap();
    assert_eq!(tree(&other.join("tree/.snapshots/second")), second);
    drop(open);
    mounted.unmount();
    other.unmount();
    wait_for_fsck(&grid, "snapshots", |report| report["clean"] == true);
}
