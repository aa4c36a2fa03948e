//! A mount outlives its daemons: programs see no error and lose nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nexusgrid_fuse::{Inheritance, MountOptions, Supervision, Supervisor};
use rustix::process::{Pid, Signal, kill_process};

use crate::mounted::VALID;
use crate::reference::Reference;

const ROLE: &str = "NEXUSGRID_FUSE_TEST_ROLE";
const AT: &str = "NEXUSGRID_FUSE_TEST_AT";
const STATUS: &str = "NEXUSGRID_FUSE_TEST_STATUS";

/// This program in another role, which the test below takes up.
fn in_role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "survive::role", "--nocapture"]).env(ROLE, role).stdout(Stdio::null());
    command
}

#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("supervisor") => supervise("daemon"),
        Ok("supervisor of the deadly") => supervise("deadly daemon"),
        Ok("supervisor of the slow") => supervise("slow daemon"),
        Ok(role) => serve(role),
        Err(_) => {}
    }
}

/// Kills of daemons that have one request in hand; more than deaths by their own fault may be.
const KILLS_IN_A_ROW: u32 = nexusgrid_fuse::limits::EARLY_DEATHS + 2;

fn serve(role: &str) {
    let inheritance = Inheritance::receive().unwrap();
    let volume = Reference::logged(VALID, inheritance.scratch().unwrap());
    match role {
        "deadly daemon" => volume.dies_of(b"deadly"),
        "slow daemon" if inheritance.generation() < KILLS_IN_A_ROW => volume.hangs_on(b"slow"),
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    inheritance.serve(volume, runtime.handle().clone()).unwrap();
}

/// Says in a file which daemon serves, and how many served before; ends with its input.
fn supervise(daemon: &'static str) {
    let status = std::env::var(STATUS).unwrap();
    let supervision = Supervision {
        dir: std::env::var(AT).unwrap().into(),
        options: MountOptions::default(),
        mount: 1,
        daemon: Box::new(move || in_role(daemon)),
    };
    let supervisor = Supervisor::start(supervision).unwrap();
    let stopper = supervisor.stopper();
    std::thread::spawn(move || {
        let _ = io::stdin().read_line(&mut String::new());
        stopper.stop(false).unwrap();
    });
    let mut said = String::new();
    while !supervisor.ended() {
        let now = format!("{} {}", supervisor.restarts(), supervisor.daemon_pid());
        if now != said {
            fs::write(format!("{status}.new"), &now).unwrap();
            fs::rename(format!("{status}.new"), &status).unwrap();
            said = now;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    supervisor.wait().unwrap();
}

/// The supervisor is another process than the programs on its mount, as it must be.
struct Supervised {
    supervisor: Option<Child>,
    status: tempfile::TempPath,
    dir: tempfile::TempDir,
}

impl Supervised {
    fn new(role: &'static str) -> Self {
        Self::at(role, tempfile::tempdir().unwrap())
    }

    fn at(role: &'static str, dir: tempfile::TempDir) -> Self {
        let status = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let supervisor = in_role(role)
            .env(AT, dir.path())
            .env(STATUS, &status)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mount = Self { supervisor: Some(supervisor), status, dir };
        wait_for("the first daemon", || mount.status().is_some_and(|status| status.1 != 0));
        mount
    }

    /// How many daemons there were before this one, and its process.
    fn status(&self) -> Option<(u32, u32)> {
        let status = fs::read_to_string(&self.status).ok()?;
        let (restarts, pid) = status.split_once(' ')?;
        Some((restarts.parse().ok()?, pid.parse().ok()?))
    }

    fn restarts(&self) -> u32 {
        self.status().map_or(0, |status| status.0)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Kills the daemon that serves, and returns when another does.
    fn kill(&self) {
        let (before, pid) = self.status().unwrap();
        kill(pid);
        wait_for("another daemon", || {
            self.status().is_some_and(|(restarts, pid)| restarts > before && pid != 0)
        });
    }

    fn end(mut self) {
        let mut supervisor = self.supervisor.take().unwrap();
        drop(supervisor.stdin.take());
        assert!(supervisor.wait().unwrap().success());
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 0, "still mounted");
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            let _ = supervisor.kill();
            let _ = supervisor.wait();
            kill(self.status().map_or(0, |status| status.1));
            let _ = nix::mount::umount2(self.dir.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One program's work: every call must succeed, and what was written must be there.
fn work(dir: &Path, name: &str, rounds: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let dir = dir.join(name);
    fs::create_dir(&dir)?;
    let log = OpenOptions::new().append(true).create_new(true).read(true).open(dir.join("log"))?;
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let (path, moved) = (dir.join("new"), dir.join(format!("moved-{}", round % 8)));
        let file = File::create_new(&path)?;
        let content = round.to_le_bytes().repeat(1000);
        file.write_all_at(&content, 0)?;
        file.sync_all()?;
        io::Write::write_all(&mut &log, &round.to_le_bytes())?;
        fs::rename(&path, &moved)?;
        assert_eq!(fs::read(&moved)?, content);
        fs::create_dir(dir.join("sub"))?;
        fs::hard_link(&moved, dir.join("sub/link"))?;
        assert_eq!(fs::metadata(&moved)?.nlink(), 2);
        fs::remove_file(dir.join("sub/link"))?;
        fs::remove_dir(dir.join("sub"))?;
        if round % 8 == 7 {
            fs::remove_file(&moved)?;
            // Without a name, but open: a daemon that comes must find it.
            let mut back = [0; 8];
            file.read_exact_at(&mut back, 800)?;
            assert_eq!(back, round.to_le_bytes());
        }
        round += 1;
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    let all = fs::read(dir.join("log"))?;
    let expected: Vec<u8> = (0..round).flat_map(u64::to_le_bytes).collect();
    assert!(all == expected, "{name}: {} bytes of {} in its log", all.len(), expected.len());
    Ok(())
}

#[test]
fn twenty_killed_daemons_are_not_noticed() {
    const KILLS: u32 = 20;
    let mount = Supervised::new("supervisor");
    let (rounds, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let worst = std::thread::scope(|scope| {
        let workers: Vec<_> = ["a", "b", "c", "d"]
            .map(|name| scope.spawn(|| work(mount.dir.path(), name, &rounds, &stop)))
            .into();
        let mut worst = Duration::ZERO;
        for _ in 0..KILLS {
            let before = rounds.load(Ordering::Relaxed);
            wait_for("work before a kill", || {
                rounds.load(Ordering::Relaxed) > before + 8
                    || workers.iter().any(|worker| worker.is_finished())
            });
            let began = Instant::now();
            mount.kill();
            let before = rounds.load(Ordering::Relaxed);
            wait_for("work after a kill", || {
                rounds.load(Ordering::Relaxed) > before
                    || workers.iter().any(|worker| worker.is_finished())
            });
            worst = worst.max(began.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap().unwrap();
        }
        worst
    });
    assert!(mount.restarts() >= KILLS);
    println!("{} rounds over {KILLS} kills, worst stall {worst:?}", rounds.into_inner());
    mount.end();
}

/// What the kernel was copying when the daemon was killed goes to the next one: no write fails. Each daemon is killed
/// as soon as it is there, so that its readers' first requests are what dies with it.
#[test]
fn writes_that_were_being_read_are_not_lost() {
    const KILLS: u64 = 24;
    let mount = Supervised::new("supervisor");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let write = |name: &'static str| {
            let (path, stop) = (mount.path(name), &stop);
            move || -> io::Result<u64> {
                let (file, content) = (File::create_new(path)?, vec![7; 1 << 20]);
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    file.write_all_at(&content, 0)?;
                    written += 1;
                }
                Ok(written)
            }
        };
        let writers: Vec<_> = ["a", "b", "c", "d"].map(|name| scope.spawn(write(name))).into();
        for number in 0..KILLS {
            mount.kill();
            // Somewhere within its first writes.
            std::thread::sleep(Duration::from_micros(number * 100));
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            assert!(writer.join().unwrap().unwrap() > 0);
        }
    });
    mount.end();
}

/// A call that waits in one daemon is answered by the next.
#[test]
fn a_wait_for_a_lock_goes_on_in_the_next_daemon() {
    let mount = Supervised::new("supervisor");
    let path = mount.path("f");
    let holder = File::create_new(&path).unwrap();
    holder.try_lock().unwrap();
    let waiter = File::open(&path).unwrap();
    let waiting = std::thread::spawn(move || waiter.lock().map(|()| waiter));
    for _ in 0..2 {
        mount.kill();
        assert!(!waiting.is_finished(), "a lock was given twice");
    }
    holder.unlock().unwrap();
    let waiter = waiting.join().unwrap().unwrap();
    assert!(holder.try_lock().is_err());
    drop((holder, waiter));
    mount.end();
}

/// Without its supervisor a mount lasts as long as its daemon; then it is dead, until another takes
/// its place.
#[test]
fn a_dead_mount_makes_room() {
    let mut mount = Supervised::new("supervisor");
    File::create_new(mount.path("f")).unwrap();
    let mut supervisor = mount.supervisor.take().unwrap();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    fs::write(mount.path("f"), b"served alone").unwrap();
    let (_, daemon) = mount.status().unwrap();
    kill(daemon);
    let dead = || fs::metadata(mount.dir.path()).err().and_then(|error| error.raw_os_error());
    wait_for("the end of the session", || dead() == Some(libc::ENOTCONN));
    let dir = mount.dir.path().to_owned();
    let kept = std::mem::replace(&mut mount.dir, tempfile::tempdir().unwrap());
    drop(mount);
    let next = Supervised::at("supervisor", kept);
    assert_eq!(next.dir.path(), dir);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    fs::write(next.path("g"), b"new").unwrap();
    next.end();
}

/// A request that kills every daemon that reads it gets an error; the others go on.
#[test]
fn a_deadly_request_is_answered_in_the_end() {
    let mount = Supervised::new("supervisor of the deadly");
    let kept = File::create_new(mount.path("kept")).unwrap();
    kept.write_all_at(b"kept", 0).unwrap();
    let died = fs::metadata(mount.path("deadly")).unwrap_err();
    assert_eq!(died.raw_os_error(), Some(libc::EIO));
    let mut back = [0; 4];
    File::open(mount.path("kept")).unwrap().read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"kept");
    wait_for("as many daemons as died", || {
        mount.restarts() >= nexusgrid_fuse::limits::EARLY_DEATHS
    });
    drop(kept);
    mount.end();
}

/// Daemons that are killed one after another: not the fault of the request that each of them had in hand.
#[test]
fn a_request_is_not_to_blame_for_kills() {
    let mount = Supervised::new("supervisor of the slow");
    let path = mount.path("slow");
    let asking = std::thread::spawn(move || fs::metadata(path));
    for _ in 0..KILLS_IN_A_ROW {
        mount.kill();
    }
    let answer = asking.join().unwrap().unwrap_err();
    assert_eq!(answer.raw_os_error(), Some(libc::ENOENT), "{answer}");
    mount.end();
}
