//! A stream of objects, each under a key of its own, written once and perhaps deleted: what was
//! acknowledged must be there at the end, and what was deleted must not.
//!
//! It has no history that grows, so that it can run as fast and as long as a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nexusgrid_env::sim::SeededRng;
use nexusgrid_env::{NodeId, Rng};
use nexusgrid_grid::{DeleteRequest, Grid, GridError, Precondition};
use parking_lot::Mutex;

use super::clients;
use super::cluster::Cluster;

/// Values of the tide begin here, apart from those of other clients.
const FIRST: u64 = 1 << 32;

/// Buckets of its own: listings of the others stay short. One in each group.
const BUCKETS: [&str; 4] = ["ebb", "flood", "neap", "spring"];

/// A client waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Shore {
    /// Acknowledged.
    there: BTreeSet<u64>,
    /// Deletion acknowledged.
    gone: BTreeSet<u64>,
    refused: u64,
}

/// The objects of a tide.
pub struct Tide {
    cluster: Arc<Cluster>,
    next: AtomicU64,
    shore: Mutex<Shore>,
}

fn bucket(value: u64) -> &'static str {
    BUCKETS[(value % BUCKETS.len() as u64) as usize]
}

fn key(value: u64) -> String {
    format!("tide/{value}")
}

impl Tide {
    pub fn new(cluster: &Arc<Cluster>) -> Arc<Tide> {
        Arc::new(Tide {
            cluster: Arc::clone(cluster),
            next: AtomicU64::new(FIRST),
            shore: Mutex::default(),
        })
    }

    /// Makes its buckets. Once.
    pub async fn make_buckets(&self) -> Result<(), String> {
        let member = self.cluster.member(NodeId(1)).ok_or("node 1 is gone")?;
        for bucket in BUCKETS {
            let made = member.grid.create_bucket(bucket, "tide").await;
            made.map_err(|error| format!("making bucket {bucket}: {error}"))?;
        }
        Ok(())
    }

    /// Runs `work` at a node, as a gateway there would; `None`: no answer.
    async fn at<T, F>(
        &self,
        node: NodeId,
        work: impl FnOnce(Grid) -> F,
    ) -> Option<Result<T, GridError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, GridError>> + Send + 'static,
    {
        let member = self.cluster.member(node)?;
        let running = member.env.exec.spawn(work(member.grid.clone()));
        tokio::time::timeout(PATIENCE, running).await.ok()?.ok()?
    }

    /// Writes one object at a node; whether it was acknowledged.
    pub async fn put(&self, node: NodeId) -> bool {
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        let put = self.at(node, |grid| async move {
            clients::put(grid, bucket(value), &key(value), value, Precondition::default()).await
        });
        let done = matches!(put.await, Some(Ok(())));
        let mut shore = self.shore.lock();
        if done {
            shore.there.insert(value);
        } else {
            shore.refused += 1;
        }
        done
    }

    /// Deletes one of the objects at a node.
    pub async fn delete(&self, node: NodeId, rng: &SeededRng) {
        let value = {
            let mut shore = self.shore.lock();
            let at = rng.below(shore.there.len() as u64) as usize;
            let Some(value) = shore.there.iter().nth(at).copied() else { return };
            // Until it is answered nobody knows.
            shore.there.remove(&value);
            value
        };
        let request = DeleteRequest {
            bucket: bucket(value).to_owned(),
            key: key(value),
            precondition: Precondition::default(),
        };
        let deleted = self.at(node, |grid| async move { grid.delete(request).await });
        if matches!(deleted.await, Some(Ok(()))) {
            self.shore.lock().gone.insert(value);
        }
    }

    /// Writes and deletes at any node until told to stop.
    pub async fn run(
        self: Arc<Tide>,
        label: String,
        pace: Duration,
        stop: tokio::sync::watch::Receiver<bool>,
    ) {
        let rng = SeededRng::for_part(self.cluster.world.seed(), &label);
        while !*stop.borrow() {
            tokio::time::sleep(pace.mul_f64(0.5 + rng.below(1000) as f64 / 1000.0)).await;
            let node = NodeId(rng.between(1, self.cluster.links.lock().nodes));
            match rng.below(3) {
                0 => self.delete(node, &rng).await,
                _ => drop(self.put(node).await),
            }
        }
    }

    /// How many objects there must be.
    pub fn count(&self) -> usize {
        self.shore.lock().there.len()
    }

    /// Writes that were not acknowledged.
    pub fn refused(&self) -> u64 {
        self.shore.lock().refused
    }

    /// Reads every object at a node; gives those that cannot be had, and why.
    pub async fn unreadable(&self, node: NodeId) -> Result<BTreeMap<u64, String>, String> {
        let (there, gone) = {
            let shore = self.shore.lock();
            (shore.there.clone(), shore.gone.clone())
        };
        let mut lost = BTreeMap::new();
        for value in there {
            match self.read(node, value).await {
                Some(Ok(Ok(Some(found)))) if found == value => {}
                Some(Ok(other)) => return Err(format!("{} reads as {other:?}", key(value))),
                Some(Err(error)) => drop(lost.insert(value, error.to_string())),
                None => drop(lost.insert(value, "silence".to_owned())),
            }
        }
        for value in gone {
            match self.read(node, value).await {
                Some(Ok(Ok(None))) => {}
                found => return Err(format!("deleted {} reads as {found:?}", key(value))),
            }
        }
        Ok(lost)
    }

    /// All that was acknowledged is there, all that was deleted is not.
    pub async fn check(&self, node: NodeId) -> Result<(), String> {
        let lost = self.unreadable(node).await?;
        match lost.first_key_value() {
            None => Ok(()),
            Some((value, why)) => {
                Err(format!("{} objects cannot be read; {}: {why}", lost.len(), key(*value)))
            }
        }
    }

    async fn read(
        &self,
        node: NodeId,
        value: u64,
    ) -> Option<Result<Result<Option<u64>, String>, GridError>> {
        self.at(node, |grid| async move {
            clients::get(grid, bucket(value), &key(value), Duration::ZERO).await
        })
        .await
    }
}
