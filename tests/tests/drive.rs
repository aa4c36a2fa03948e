//! The network drive: a bucket mounted by real processes of a real grid, and what programs do on it. Letters
//! with numbers are the promises of `docs/semantics.md`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Deserialize;

use nexusgrid_tests::history::{Operation, unexplained};
use nexusgrid_tests::{Client, GridOptions, LocalGrid, Mounted, program, run};

use crate::faults::wait_for_fsck;

#[path = "../../fuse/tests/pjdfstest.rs"]
mod pjdfstest;

/// Longest time for programs to go on when whatever they waited for is back.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// A grid and its bucket.
fn bucket(nodes: usize) -> (LocalGrid, &'static str) {
    let grid = LocalGrid::start_with(&GridOptions { nodes, ..GridOptions::default() });
    Client::new(&grid, 1).run("aws", &["s3", "mb", "s3://drive"]);
    (grid, "drive")
}

/// A program of `tests/clients`, with the endpoint of a grid's first node in its environment.
fn script(grid: &LocalGrid, name: &str) -> Command {
    let mut command = Client::new(grid, 1).command("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name));
    command
}

/// Parts of the suite that run at once, by what is in the names of their cases. It mostly waits.
const PARTS: [&[&str]; 4] = [
    &["rename::", "open::", "posix_fallocate::"],
    &["chmod::", "chown::", "truncate::", "utimensat::"],
    &["link::"],
    &["mkdir::", "mkfifo::", "mknod::", "rmdir::"],
];

/// As many cases there are at least; `link::` is in the names of three calls.
const CASES: usize = 390;

/// N1, N3, N4, N6, P1.
#[test]
fn grid_pjdfstest_passes_on_a_mount() {
    let (grid, bucket) = bucket(3);
    let mounted = Mounted::new(&grid, 1, bucket, "suid,dev");
    let ran = std::thread::scope(|scope| {
        let part = |(number, part): (usize, &'static &'static [&'static str])| {
            // Long enough for the suite's longest paths, short enough for its sockets.
            let dir = mounted.join(&format!("p{number}"));
            fs::create_dir(&dir).unwrap();
            scope.spawn(move || pjdfstest::run(&dir, part))
        };
        let running: Vec<_> = PARTS.iter().enumerate().map(part).collect();
        running.into_iter().map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(ran.iter().all(|part| part.failed.is_empty()), "{ran:?}");
    assert!(ran.iter().map(|part| part.cases).sum::<usize>() >= CASES, "{ran:?}");
    mounted.unmount();
}

/// What `nexusgrid mounts` says of a node's only mount.
fn figure(grid: &LocalGrid, node: usize, what: &str) -> u64 {
    let dir = grid.dir(node);
    let mounts = grid.command(&["mounts", "--json", "--dir", dir.to_str().unwrap()]).unwrap();
    let mounts: serde_json::Value = serde_json::from_str(&mounts).unwrap();
    mounts[0][what].as_u64().unwrap_or_else(|| panic!("{mounts}"))
}

/// What was looked at is looked at again without a question to the agent, let alone to the grid.
fn looks_leave_no_daemon(grid: &LocalGrid, mounted: &Mounted) {
    const LOOKS: u64 = 2_000;
    let file = mounted.join("looked-at");
    fs::write(&file, b"x").unwrap();
    let deadline = Instant::now() + PATIENCE;
    // News may take a loan away now and then; it is given again.
    loop {
        let before = figure(grid, 2, "calls");
        (0..LOOKS).for_each(|_| assert_eq!(fs::metadata(&file).unwrap().len(), 1));
        let calls = figure(grid, 2, "calls") - before;
        if calls < LOOKS / 10 {
            return;
        }
        assert!(Instant::now() < deadline, "{calls} calls to the agent for {LOOKS} looks");
    }
}

/// D7: what was read is read again from the machine's memory, until somebody changes it.
fn reads_leave_no_kernel(grid: &LocalGrid, a: &Mounted, b: &Mounted) {
    const BYTES: usize = 4 << 20;
    let (here, there) = (a.join("read-again"), b.join("read-again"));
    for round in 0..3_u8 {
        let bytes = vec![b'a' + round; BYTES];
        fs::write(&there, &bytes).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = figure(grid, 2, "bytes_read");
            (0..4).for_each(|_| assert!(fs::read(&here).unwrap() == bytes, "round {round}"));
            let read = figure(grid, 2, "bytes_read") - before;
            if read == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{read} bytes came from the agent");
        }
    }
}

/// N1: a daemon that hears nothing believes nothing for long, and holds nobody up for longer.
fn stopped_daemon(a: &Mounted, b: &Mounted) {
    let (here, there) = (a.join("stopped"), b.join("stopped"));
    for round in 0..3_u64 {
        fs::write(&here, vec![b'x'; round as usize]).unwrap();
        (0..20).for_each(|_| assert_eq!(fs::metadata(&there).unwrap().len(), round));
        b.signal_daemon(Signal::STOP);
        fs::write(&here, b"another size").unwrap();
        b.signal_daemon(Signal::CONT);
        assert_eq!(fs::metadata(&there).unwrap().len(), 12, "round {round}");
    }
}

/// D2, D5, D6, D7, N1, N5, O1, L1, L2, L3, L4, P2.
#[test]
fn grid_two_mounts_see_each_other_at_once() {
    let (grid, bucket) = bucket(3);
    let (a, b) = (Mounted::new(&grid, 2, bucket, ""), Mounted::new(&grid, 3, bucket, ""));
    print!("{}", run(script(&grid, "drive_two.py").arg(a.path()).arg(b.path())));
    // And not because each of them asks each time.
    for node in [2, 3] {
        let [recalled, asked] = ["recalled", "asked"].map(|what| figure(&grid, node, what));
        assert!(recalled > 100 && asked > 0, "node {node}: {recalled} recalled, {asked} asked");
    }
    looks_leave_no_daemon(&grid, &a);
    reads_leave_no_kernel(&grid, &a, &b);
    stopped_daemon(&a, &b);
    a.unmount();
    b.unmount();
}

/// Calls drawn at random on a few names, through two mounts and by S3, against a model.
fn at_random(grid: &LocalGrid, bucket: &str, mounts: [&Mounted; 2], seed: u32, calls: u32) {
    let mut random = script(grid, "drive_random.py");
    random.args(mounts.map(Mounted::path));
    print!("{}", run(random.args([bucket, &seed.to_string(), &calls.to_string()])));
    run(Command::new("rm").arg("-r").arg(mounts[0].join("random")));
}

/// As `mount -t nexusgrid` does it, by a link under the name that it looks for; and unmounted by a link to where
/// it is.
fn mount_helper(grid: &LocalGrid, bucket: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (helper, at, link) =
        (dir.path().join("mount.nexusgrid"), dir.path().join("at"), dir.path().join("link"));
    std::os::unix::fs::symlink(program(), &helper).unwrap();
    std::os::unix::fs::symlink(&at, &link).unwrap();
    fs::create_dir(&at).unwrap();
    let options = format!("rw,relatime,_netdev,delay=1,dir={}", grid.dir(2).display());
    run(Command::new(&helper).arg(bucket).arg(&at).args(["-s", "-o", &options]));
    fs::write(at.join("by-helper"), b"x").unwrap();
    fs::remove_file(at.join("by-helper")).unwrap();
    run(Command::new(program()).arg("umount").arg(&link));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "still mounted");
}

/// D2, D8, N1, N7, N8, O1, S1, S2, S3.
#[test]
fn grid_s3_and_mounts_have_the_same_names() {
    let (grid, bucket) = bucket(3);
    let (a, b) = (Mounted::new(&grid, 2, bucket, ""), Mounted::new(&grid, 3, bucket, ""));
    print!("{}", run(script(&grid, "drive_s3.py").arg(a.path()).arg(bucket)));
    mount_helper(&grid, bucket);
    at_random(&grid, bucket, [&a, &b], 1, 100);
    a.unmount();
    b.unmount();
}

/// S4, S5.
#[test]
fn grid_a_mount_writes_versions() {
    let (grid, bucket) = bucket(3);
    let locked = "locked";
    let create = ["s3api", "create-bucket", "--bucket", locked, "--object-lock-enabled-for-bucket"];
    Client::new(&grid, 1).run("aws", &create);
    let (mounted, looks) = (Mounted::new(&grid, 2, bucket, ""), Mounted::new(&grid, 3, locked, ""));
    let mut command = script(&grid, "drive_versions.py");
    command.arg(mounted.path()).arg(bucket).arg(looks.path()).arg(locked);
    print!("{}", run(&mut command));
    mounted.unmount();
    looks.unmount();
    wait_for_fsck(&grid, "a bucket of a mount and its versions", |report| report["clean"] == true);
}

#[test]
fn soak_grid_s3_and_mounts_have_the_same_names() {
    let (grid, bucket) = bucket(3);
    let (a, b) = (Mounted::new(&grid, 2, bucket, ""), Mounted::new(&grid, 3, bucket, ""));
    for seed in 1..=3 {
        at_random(&grid, bucket, [&a, &b], seed, 2_000);
    }
    a.unmount();
    b.unmount();
}

/// Programs at work, until told to end.
struct Work {
    child: Child,
    rounds: Arc<parking_lot::Mutex<BTreeMap<String, u64>>>,
    sums: tempfile::TempDir,
}

impl Work {
    const WORKERS: usize = 4;

    fn start(grid: &LocalGrid, dir: &Path) -> Work {
        let sums = tempfile::tempdir().unwrap();
        let mut command = script(grid, "drive_work.py");
        command.arg("work").arg(dir).arg(sums.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let rounds: Arc<parking_lot::Mutex<BTreeMap<String, u64>>> = Arc::default();
        let (lines, seen) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&rounds));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let (worker, _) = line.split_once(' ').unwrap();
                *seen.lock().entry(worker.to_owned()).or_default() += 1;
            }
        });
        Work { child, rounds, sums }
    }

    /// Waits until each has come to the end of a round that ended after this was called.
    fn go_on(&mut self) -> Duration {
        let (began, before) = (Instant::now(), self.rounds.lock().clone());
        let further = |(worker, round): (&String, &u64)| before.get(worker) < Some(round);
        loop {
            let moved = self.rounds.lock().iter().filter(|worker| further(*worker)).count();
            if moved == Work::WORKERS {
                return began.elapsed();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "a call failed: {ended:?}");
            assert!(began.elapsed() < PATIENCE, "programs hang: {before:?} {:?}", self.rounds);
            std::thread::sleep(POLL);
        }
    }

    fn end(mut self) -> tempfile::TempDir {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "something is not what it was");
        self.sums
    }
}

/// Whatever a mount stands on goes and comes back, while programs work.
fn outlive(kills: u32, away: Duration) {
    let (mut grid, bucket) = bucket(3);
    let mounted = Mounted::new(&grid, 3, bucket, "");
    fs::create_dir(mounted.join("w")).unwrap();
    let mut work = Work::start(&grid, &mounted.join("w"));
    let mut worst = Duration::ZERO;
    for _ in 0..kills {
        work.go_on();
        let began = Instant::now();
        mounted.kill_daemon();
        work.go_on();
        worst = worst.max(began.elapsed());
    }
    println!("{kills} daemons killed: the longest round {worst:?}");
    for with_daemon in [false, true] {
        grid.kill(3);
        if with_daemon {
            mounted.kill_daemon();
        }
        let began = Instant::now();
        grid.serve(3).unwrap();
        work.go_on();
        println!("an agent killed: {:?} until programs went on", began.elapsed());
    }
    for number in [1, 2] {
        grid.signal(number, Signal::STOP);
    }
    // Nothing can be decided for so long.
    std::thread::sleep(away);
    for number in [1, 2] {
        grid.signal(number, Signal::CONT);
    }
    println!("no quorum for {away:?}: programs went on after {:?}", work.go_on());
    let sums = work.end();
    let other = Mounted::new(&grid, 1, bucket, "");
    let mut verify = script(&grid, "drive_work.py");
    verify.arg("verify").arg(other.join("w")).arg(sums.path()).args([bucket, "w/"]);
    print!("{}", run(&mut verify));
    other.unmount();
    mounted.unmount();
}

/// D1, D2, D3, N2, O1, O2, O3.
#[test]
fn grid_programs_do_not_notice_what_dies_below_them() {
    outlive(20, Duration::from_secs(6));
}

#[test]
fn soak_grid_programs_do_not_notice_what_dies_below_them() {
    outlive(100, Duration::from_secs(30));
}

/// An operation on a name or a lock, as `drive_history.py` tells of it.
#[derive(Deserialize)]
struct Told {
    register: String,
    #[serde(flatten)]
    operation: Operation,
}

/// What programs on two mounts saw of names and locks, while daemons, agents and a leader died.
fn histories(seconds: u64, pause: Duration) {
    let (mut grid, bucket) = bucket(4);
    let (a, b) = (Mounted::new(&grid, 2, bucket, ""), Mounted::new(&grid, 3, bucket, ""));
    let mut command = script(&grid, "drive_history.py");
    command.arg(a.path()).arg(b.path()).arg(seconds.to_string()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let ended = std::thread::spawn(move || child.wait_with_output().unwrap());
    let mut deaths = 0;
    while !ended.is_finished() {
        std::thread::sleep(pause);
        match deaths % 4 {
            0 => a.kill_daemon(),
            1 => b.kill_daemon(),
            // A mount's agent, and after that one that serves none.
            kind => {
                let node = if kind == 2 { 3 } else { 1 };
                grid.kill(node);
                grid.serve(node).unwrap();
            }
        }
        deaths += 1;
    }
    let output = ended.join().unwrap();
    assert!(output.status.success(), "a call failed");
    let mut registers: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let told: Told =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        registers.entry(told.register).or_default().push(told.operation);
    }
    let counts: Vec<_> = registers.iter().map(|(name, history)| (name, history.len())).collect();
    println!("{deaths} deaths; operations: {counts:?}");
    assert!(counts.len() == 5 && counts.iter().all(|(_, count)| *count > 20), "{counts:?}");
    for (name, history) in &registers {
        assert_eq!(unexplained(history), None, "what was seen of {name} has no order");
    }
    a.unmount();
    b.unmount();
}

/// N1, N2, N3, L1.
#[test]
fn grid_names_and_locks_of_two_mounts_have_one_order() {
    histories(20, Duration::from_secs(3));
}

#[test]
fn soak_grid_names_and_locks_of_two_mounts_have_one_order() {
    for _ in 0..10 {
        histories(60, Duration::from_secs(2));
    }
}

/// L2: the kernel gives a lock back when its holder dies; the grid when nobody serves the mount any more, with or
/// without its agent.
fn dead_mount(with_agent: bool) {
    let (mut grid, bucket) = bucket(4);
    let (mut a, b) = (Mounted::new(&grid, 3, bucket, ""), Mounted::new(&grid, 4, bucket, ""));
    fs::write(a.join("locked"), b"x").unwrap();
    let held = fs::File::options().write(true).open(a.join("locked")).unwrap();
    held.lock().unwrap();
    let wanted = fs::File::options().write(true).open(b.join("locked")).unwrap();
    assert!(wanted.try_lock().is_err());
    a.kill_all();
    if with_agent {
        grid.kill(3);
    }
    let began = Instant::now();
    wanted.lock().unwrap();
    println!("a dead mount's lock was given back after {:?}", began.elapsed());
    drop((held, wanted));
    b.unmount();
}

#[test]
fn soak_grid_locks_of_a_machine_that_dies_are_given_back() {
    dead_mount(true);
}

#[test]
fn soak_grid_locks_of_a_mount_that_dies_are_given_back() {
    dead_mount(false);
}

/// Parts of `drive_programs.py` on a mount of a grid.
fn programs(length: &str, parts: &[&str]) {
    let (grid, bucket) = bucket(3);
    let mounted = Mounted::new(&grid, 1, bucket, "suid,dev");
    let mut programs = script(&grid, "drive_programs.py");
    print!("{}", run(programs.arg(mounted.path()).args([bucket, length]).args(parts)));
    mounted.unmount();
}

#[test]
fn grid_git_works_on_a_mount() {
    programs("short", &["git"]);
}

/// D1, D2, D8, N4, N6, L1, L2.
#[test]
fn grid_databases_copies_and_compilers_work_on_a_mount() {
    programs("short", &["sqlite", "rsync", "tar", "compile", "big"]);
}

#[test]
fn soak_grid_programs_work_on_a_mount() {
    programs("long", &[]);
}

#[test]
fn soak_grid_postgresql_works_on_a_mount_while_a_node_is_killed() {
    let (mut grid, bucket) = bucket(5);
    let mounted = Mounted::new(&grid, 1, bucket, "");
    let mut command = script(&grid, "drive_postgres.py");
    command.arg(mounted.path()).arg("60").stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "running");
    grid.kill(2);
    grid.kill(5);
    grid.serve_all(&[2, 5]).unwrap();
    lines.map_while(Result::ok).for_each(|line| println!("{line}"));
    assert!(child.wait().unwrap().success());
    mounted.unmount();
}

const FSX: &str = "
flen = 2000000
[opsize]
max = 131072
[weights]
close_open = 1
invalidate = 1
truncate = 2
fsync = 1
fdatasync = 1
read = 10
write = 10
mapread = 5
mapwrite = 5
posix_fallocate = 1
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 3
";

/// Random calls on one file against a model; after each of them (from 1) something may be done to the grid.
fn fsx(mounted: &Mounted, seed: u32, calls: usize, mut disturb: impl FnMut(usize)) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("fsx.toml");
    fs::write(&config, FSX).unwrap();
    let mut command = Command::new("fsx");
    command.arg("-vv").arg("-f").arg(&config).arg("-P").arg(dir.path());
    command.args(["-N", &calls.to_string(), "-S", &seed.to_string()]);
    command.arg(mounted.join(&format!("fsx-{seed}"))).stderr(Stdio::piped());
    let mut child = command.spawn().expect("fsx is not installed: make test does");
    let mut last = Vec::new();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    for (number, line) in lines.enumerate() {
        disturb(number + 1);
        last.push(line);
        last.drain(..last.len().saturating_sub(30));
    }
    assert!(child.wait().unwrap().success(), "seed {seed}:\n{}", last.join("\n"));
}

/// Nodes die, one at a time, and come back: each number of calls the next one. That of the mount comes back at once: without
/// it there are no calls. And daemons die, twice as often.
fn deaths<'a>(
    (grid, nodes): (&'a mut LocalGrid, usize),
    (mounted, own): (&'a Mounted, usize),
    each: usize,
) -> impl FnMut(usize) + 'a {
    let mut dead = None;
    move |call| {
        if call % each == each / 4 || call % each == each * 3 / 4 {
            mounted.kill_daemon();
        }
        if call % each == each / 2 {
            let next = call / each % nodes + 1;
            grid.kill(next);
            dead = Some(next);
        }
        if (call % each == 0 || dead == Some(own))
            && let Some(back) = dead.take()
        {
            grid.serve_all(&[back]).unwrap();
        }
    }
}

/// D1, D3, D8, O2, O3.
#[test]
fn grid_fsx_finds_nothing_while_daemons_and_nodes_die() {
    const NODES: usize = 3;
    let (mut grid, bucket) = bucket(NODES);
    let mounted = Mounted::new(&grid, 2, bucket, "");
    fsx(&mounted, 1, 1_000, deaths((&mut grid, NODES), (&mounted, 2), 200));
    mounted.unmount();
}

#[test]
fn soak_grid_fsx_finds_nothing_while_daemons_and_nodes_die() {
    const NODES: usize = 5;
    let (mut grid, bucket) = bucket(NODES);
    let mounted = Mounted::new(&grid, 2, bucket, "");
    fsx(&mounted, 1, 10_000, |_| {});
    fsx(&mounted, 2, 10_000, deaths((&mut grid, NODES), (&mounted, 2), 400));
    fsx(&mounted, 3, 10_000, deaths((&mut grid, NODES), (&mounted, 2), 1_000));
    mounted.unmount();
}
