//! CPU time of processes, user and system together, from /proc.

use std::time::Duration;

/// Linux counts in these in /proc, on every machine (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// Some processes.
pub struct Cpu {
    pids: Vec<u32>,
}

impl Cpu {
    /// These.
    pub fn of(pids: Vec<u32>) -> Cpu {
        Cpu { pids }
    }

    /// This one.
    pub fn own() -> Cpu {
        Cpu { pids: vec![std::process::id()] }
    }

    /// What they used so far; a process that is gone counts as nothing.
    pub fn used(&self) -> Duration {
        let ticks: u64 = self.pids.iter().filter_map(|pid| ticks(*pid)).sum();
        Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
    }

    /// Resident bytes of each.
    pub fn resident(&self) -> Vec<u64> {
        self.memory("VmRSS:")
    }

    /// Most resident bytes that each ever had.
    pub fn peak(&self) -> Vec<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Vec<u64> {
        let bytes = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with(field))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        self.pids.iter().filter_map(bytes).collect()
    }
}

fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold anything in parentheses; user and system time are fields 14, 15.
    let rest = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// What all processors did so far, but for waiting.
pub fn machine() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).map_while(|f| f.parse().ok()).collect();
    // User, nice, system, idle, waiting for disks, interrupts, soft interrupts; what a host stole is not ours.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| fields.get(*at)).sum();
    Duration::from_millis(busy * 1_000 / TICKS_PER_SECOND)
}
