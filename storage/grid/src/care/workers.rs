//! The background jobs of one process: what they are, what they did, and whether they may run.
//!
//! State: one row per worker, in memory; a restart begins anew. A worker asks for its turn before
//! each round ([`Worker::turn`]) and reports what it did, so that pausing takes effect between two
//! rounds and never within a step that must be whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_env::{BootInstant, Env};
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
}

struct Row {
    status: WorkerStatus,
    paused: watch::Sender<bool>,
    /// Start of the work whose rate is measured, and `done` then.
    since: Option<(BootInstant, u64)>,
}

/// All workers of a process; cheap to clone.
#[derive(Clone)]
pub struct Workers {
    env: Env,
    rows: Arc<Mutex<BTreeMap<&'static str, Row>>>,
}

/// No worker has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no worker is called {0}")]
pub struct NoSuchWorker(pub String);

impl Workers {
    /// None yet.
    pub fn new(env: Env) -> Workers {
        Workers { env, rows: Arc::default() }
    }

    /// Makes a worker known.
    pub fn add(&self, name: &'static str, about: &'static str) -> Worker {
        let status = WorkerStatus { name, about, ..WorkerStatus::default() };
        let (paused, watch) = watch::channel(false);
        self.rows.lock().insert(name, Row { status, paused, since: None });
        Worker { workers: self.clone(), name, paused: watch }
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

    /// Lets a worker rest after its present round, or work again.
    pub fn pause(&self, name: &str, paused: bool) -> Result<(), NoSuchWorker> {
        let mut rows = self.rows.lock();
        let row = rows.get_mut(name).ok_or_else(|| NoSuchWorker(name.to_owned()))?;
        row.status.paused = paused;
        row.paused.send_replace(paused);
        Ok(())
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
    paused: watch::Receiver<bool>,
}

impl Worker {
    /// Waits for the next round: `pause` long, and as long as the worker is paused.
    pub async fn turn(&mut self, pause: Duration) {
        let env = self.workers.env.clone();
        env.clock.sleep(pause).await;
        // An error means that the registry is gone, and the process with it.
        let _ = self.paused.wait_for(|paused| !*paused).await;
    }

    /// Whether an administrator paused it: for a worker whose running jobs must go on meanwhile.
    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
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
