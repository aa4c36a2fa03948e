//! A bucket of a grid, mounted.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::run;
use crate::grid::{LocalGrid, program};

/// Longest time for another daemon to come.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(30);

/// A mount; it is gone when this is dropped, whoever uses it, and so are its processes.
pub struct Mounted {
    dir: tempfile::TempDir,
    supervisor: Child,
}

impl Mounted {
    /// Mounts a bucket by one node's agent. The directory's name is short enough for sockets in it.
    pub fn new(grid: &LocalGrid, number: usize, bucket: &str, options: &str) -> Mounted {
        let dir = tempfile::Builder::new().prefix("nxm-").tempdir().unwrap();
        let log = grid.dir(number).join("mount.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        // For whoever would see all tests of mounts with something else.
        let more = std::env::var("NEXUSGRID_MOUNT_OPTIONS").unwrap_or_default();
        let options = format!("{options},{more}");
        let mut supervisor = Command::new(program())
            .args(["mount", "--foreground", bucket])
            .arg(dir.path())
            .arg("--dir")
            .arg(grid.dir(number))
            .args(["-o", &options])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(supervisor.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let mounted = Mounted { dir, supervisor };
        assert_eq!(said.trim(), "mounted", "{}", mounted.dir.path().display());
        mounted
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A place in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The processes that serve it now: one, or none between two.
    pub fn daemons(&self) -> Vec<i32> {
        let supervisor = self.supervisor.id();
        let tasks = fs::read_dir(format!("/proc/{supervisor}/task"));
        let tasks = tasks.into_iter().flatten().flatten();
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: String = children.collect();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// A signal to the daemon.
    pub fn signal_daemon(&self, signal: Signal) {
        for daemon in self.daemons() {
            kill_process(Pid::from_raw(daemon).expect("a process"), signal).unwrap();
        }
    }

    /// SIGKILL to the daemon; returns when there is another.
    pub fn kill_daemon(&self) {
        let before = self.daemons();
        before.iter().for_each(|pid| kill(*pid));
        let deadline = Instant::now() + DAEMON_TIMEOUT;
        while !self.daemons().iter().any(|pid| !before.contains(pid)) {
            assert!(Instant::now() < deadline, "no other daemon comes");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL to all that serves it: who uses it hears ENOTCONN, and the grid nothing more.
    pub fn kill_all(&mut self) {
        let daemons = self.daemons();
        // First who would start another.
        let _ = self.supervisor.kill();
        daemons.into_iter().for_each(kill);
        let _ = self.supervisor.wait();
    }

    /// Unmounts as people do: everything is stored, and the supervisor ends well.
    pub fn unmount(mut self) {
        run(Command::new(program()).arg("umount").arg(self.path()));
        assert!(self.supervisor.wait().unwrap().success());
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let daemons = self.daemons();
        // Before the directory goes with all that is in it.
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("-l").arg(self.path()).stderr(Stdio::null()).status();
        let _ = self.supervisor.kill();
        daemons.into_iter().for_each(kill);
        let _ = self.supervisor.wait();
    }
}
