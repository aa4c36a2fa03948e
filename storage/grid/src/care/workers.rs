//! The background jobs of one process: what they are, what they did, and whether they may run.
//!
//! State: one row per worker, in memory; a restart begins anew. Whether they rest, and how fast they
//! may be, stands in the map, the same for all nodes. A worker asks for its turn before
//! each round ([`Worker::turn`]) and reports what it did, so that pausing takes effect between two
//! rounds and never within a step that must be whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_env::{BootInstant, Env};
use nexusgrid_meta::root::types::WorkerSetting;
use parking_lot::Mutex;
use tokio::sync::watch;

/// One worker, as shown to people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its name, unique in the process.
    pub name: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// Paused by an administrator.
    pub paused: bool,
    /// In a round now.
    pub busy: bool,
    /// Rounds ended.
    pub rounds: u64,
    /// Things done since the start (blocks buried, shards moved …).
    pub done: u64,
    /// Bytes moved or freed since the start.
    pub bytes: u64,
    /// Things known to be left; `None`: not known.
    pub left: Option<u64>,
    /// Why the last round ended early; `None`: it did not.
    pub error: Option<String>,
    /// Seconds until nothing is left at the rate so far; `None`: not known.
    pub eta_seconds: Option<u64>,
    /// Whether what it moves is bounded by a rate.
    pub paced: bool,
    /// Bytes per second that it moves on one drive at most; `None`: not paced, or its rate is found
    /// in its first round.
    pub bytes_per_second: Option<u64>,
    /// How far its present pass is, for those that go round and round.
    pub percent: Option<u8>,
}

struct Row {
    status: WorkerStatus,
    setting: watch::Sender<WorkerSetting>,
    /// Bytes per second, where nobody set another rate; `None`: not bounded by one.
    default_rate: Option<u64>,
    hurry: watch::Sender<bool>,
    /// Start of the work whose rate is measured, and `done` then.
    since: Option<(BootInstant, u64)>,
}

/// All workers of a process; cheap to clone.
#[derive(Clone)]
pub struct Workers {
    env: Env,
    rows: Arc<Mutex<BTreeMap<&'static str, Row>>>,
}

impl Workers {
    /// None yet.
    pub fn new(env: Env) -> Workers {
        Workers { env, rows: Arc::default() }
    }

    /// Makes a worker known.
    pub fn add(&self, name: &'static str, about: &'static str) -> Worker {
        let status = WorkerStatus { name, about, ..WorkerStatus::default() };
        let (sender, setting) = watch::channel(WorkerSetting::default());
        let (hurry, hurried) = watch::channel(false);
        self.rows
            .lock()
            .insert(name, Row { status, setting: sender, default_rate: None, hurry, since: None });
        Worker { workers: self.clone(), name, setting, hurried }
    }

    /// The same for one whose rate can be set.
    pub fn add_paced(&self, name: &'static str, about: &'static str) -> Worker {
        let worker = self.add(name, about);
        if let Some(row) = self.rows.lock().get_mut(name) {
            row.status.paced = true;
        }
        worker
    }

    /// All, by name.
    pub fn list(&self) -> Vec<WorkerStatus> {
        let now = self.env.clock.now();
        let eta = |row: &Row| {
            let (since, before) = row.since?;
            let seconds = now.since(since).as_secs();
            let done = row.status.done.checked_sub(before).filter(|done| *done > 0)?;
            Some(row.status.left?.saturating_mul(seconds.max(1)) / done)
        };
        let rows = self.rows.lock();
        rows.values()
            .map(|row| WorkerStatus { eta_seconds: eta(row), ..row.status.clone() })
            .collect()
    }

    /// Does what administrators set for all nodes: lets workers rest after their present round, or
    /// work again, and tells each its rate. Names of workers that are not here are ignored.
    pub fn follow(&self, settings: &BTreeMap<String, WorkerSetting>) {
        for (name, row) in self.rows.lock().iter_mut() {
            let setting = settings.get(*name).copied().unwrap_or_default();
            row.status.paused = setting.paused;
            let rate = setting.bytes_per_second.filter(|_| row.status.paced).or(row.default_rate);
            row.status.bytes_per_second = rate;
            row.setting.send_if_modified(|known| {
                let is_news = *known != setting;
                *known = setting;
                is_news
            });
        }
    }

    /// Has a worker that goes round and round begin a pass now, without its pauses.
    pub fn hurry(&self, name: &'static str) {
        self.change(name, |row| _ = row.hurry.send_replace(true));
    }

    fn change(&self, name: &'static str, change: impl FnOnce(&mut Row)) {
        if let Some(row) = self.rows.lock().get_mut(name) {
            change(row);
        }
    }
}

/// One worker's own handle.
pub struct Worker {
    workers: Workers,
    name: &'static str,
    setting: watch::Receiver<WorkerSetting>,
    hurried: watch::Receiver<bool>,
}

impl Worker {
    /// Waits for the next round: `pause` long unless it is to hurry, and as long as the worker is
    /// paused.
    pub async fn turn(&mut self, pause: Duration) {
        let env = self.workers.env.clone();
        let hurried = async { drop(self.hurried.wait_for(|hurried| *hurried).await) };
        tokio::select! {
            biased;
            () = hurried => {}
            () = env.clock.sleep(pause) => {}
        }
        tokio::task::yield_now().await;
        // An error means that the registry is gone, and the process with it.
        let _ = self.setting.wait_for(|setting| !setting.paused).await;
    }

    /// Whether someone waits for a pass: [`Workers::hurry`].
    pub fn is_hurried(&self) -> bool {
        *self.hurried.borrow()
    }

    /// The pass that someone waited for is complete.
    pub fn calm(&self) {
        self.workers.change(self.name, |row| _ = row.hurry.send_replace(false));
    }

    /// How far the present pass is, in percent.
    pub fn progress(&self, percent: Option<u8>) {
        self.workers.change(self.name, |row| row.status.percent = percent);
    }

    /// Whether an administrator paused it: for a worker whose running jobs must go on meanwhile.
    pub fn is_paused(&self) -> bool {
        self.setting.borrow().paused
    }

    /// Bytes per second that it may move on one drive: what an administrator set, or `default`.
    pub fn rate(&self, default: u64) -> u64 {
        let rate = self.setting.borrow().bytes_per_second.unwrap_or(default);
        self.workers.change(self.name, |row| {
            row.default_rate = Some(default);
            row.status.bytes_per_second = Some(rate);
        });
        rate
    }

    /// A round begins; `left` things are to be done, if that is known.
    pub fn begin(&self, left: Option<u64>) {
        let now = self.workers.env.clock.now();
        self.workers.change(self.name, |row| {
            row.status.busy = true;
            row.status.left = left;
            row.since = Some((now, row.status.done));
        });
    }

    /// So many things were done, and so many bytes moved, in this round.
    pub fn did(&self, things: u64, bytes: u64) {
        self.workers.change(self.name, |row| {
            row.status.done += things;
            row.status.bytes += bytes;
            row.status.left = row.status.left.map(|left| left.saturating_sub(things));
        });
    }

    /// The round ended, early if with an error.
    pub fn end(&self, error: Option<String>) {
        self.workers.change(self.name, |row| {
            row.status.busy = false;
            row.status.rounds += 1;
            row.status.error = error;
        });
    }
}
