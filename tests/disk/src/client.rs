//! A test's handle to a disk.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::faults::{Command, CutAt, Operation};

/// A mounted disk. Unmounted when dropped, or when this process ends.
pub struct FaultDisk {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// Whether this machine lets us mount.
pub fn available() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok()
}

/// The program, beside the directory of a test's binary.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("faultdisk")
}

impl FaultDisk {
    /// Mounts at `at` what is durable in `backing`; makes both directories.
    pub fn mount(program: &Path, backing: &Path, at: &Path) -> FaultDisk {
        std::fs::create_dir_all(backing).unwrap();
        std::fs::create_dir_all(at).unwrap();
        let mut child = std::process::Command::new(program)
            .args([backing, at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A signal to the test's group must not end it before it has unmounted.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}: build the workspace first", program.display())
            });
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut disk = FaultDisk { child, stdin, stdout };
        disk.answer();
        disk
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let answer = line.trim_end().strip_prefix("ok");
        answer.unwrap_or_else(|| panic!("faultdisk: {line:?}")).trim_start().to_owned()
    }

    fn tell(&mut self, command: &Command) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }

    /// The power goes: what is not synced is gone, but with a seed chance lets some of it survive.
    pub fn cut(&mut self, seed: Option<u64>) {
        self.tell(&Command::Cut(seed));
    }

    /// The power goes at a sync to come, counted from now.
    pub fn cut_at(&mut self, at: CutAt) {
        self.tell(&Command::CutAt(at));
    }

    /// The power returns.
    pub fn power_on(&mut self) {
        self.tell(&Command::On);
    }

    /// Has operations fail with EIO for paths, seen from the mount, that contain `part`.
    pub fn fail(&mut self, operation: Operation, part: &str) {
        self.tell(&Command::Fail(operation, part.to_owned()));
    }

    /// Forgets rules, capacity and a cut to come.
    pub fn heal(&mut self) {
        self.tell(&Command::Heal);
    }

    /// The disk has room for so many bytes.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.tell(&Command::Capacity(bytes));
    }

    /// The process that serves it: while that is stopped, all operations hang.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether there is power, and the syncs counted since [`FaultDisk::cut_at`].
    pub fn state(&mut self) -> (bool, u64) {
        let state = self.tell(&Command::State);
        let (power, syncs) = state.split_once(' ').unwrap();
        (power == "on", syncs.parse().unwrap())
    }
}

impl Drop for FaultDisk {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
