//! The commit queue: lanes that share each batch fairly by bytes (deficit round robin), each
//! bounded by bytes. A flood of large shards delays a fence or a small shard by one batch at most,
//! and backfill or compaction never takes more than its share.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::DriveError;
use crate::limits::{BATCH_OPS_MAX, LANE_BYTES_MAX, LANE_QUANTUM_BYTES, OP_BYTES_MIN};
use crate::op::{Op, Reply};

/// Shards from this size on wait in a lane apart from small ones.
const LARGE_SHARD_BYTES: u64 = 128 * 1024;

/// Who waits where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Facts: fences, tombstones, closings.
    Control,
    /// Small shards of clients.
    Small,
    /// Large shards of clients.
    Large,
    /// Repair and refill.
    Backfill,
    /// Compaction and purging.
    Maintenance,
}

/// Shares of a batch, by lane.
const WEIGHTS: [u64; 5] = [2, 4, 4, 1, 1];

impl Lane {
    /// The lane of a shard write of `bytes`.
    pub fn of_shard(backfill: bool, bytes: u64) -> Lane {
        match (backfill, bytes < LARGE_SHARD_BYTES) {
            (true, _) => Lane::Backfill,
            (false, true) => Lane::Small,
            (false, false) => Lane::Large,
        }
    }
}

/// An operation that waits for its commit.
pub struct Pending {
    /// What to do.
    pub op: Op,
    /// What it counts for.
    pub bytes: u64,
    /// Whoever waits.
    pub reply: oneshot::Sender<Result<Reply, DriveError>>,
    /// Room in the lane; given back when the operation is answered.
    _room: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Lanes {
    waiting: [VecDeque<Pending>; 5],
    deficit: [u64; 5],
    closed: bool,
}

/// See the module.
pub struct Queue {
    lanes: Mutex<Lanes>,
    room: [Arc<Semaphore>; 5],
    arrived: Notify,
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Queue {
        Queue {
            lanes: Mutex::new(Lanes::default()),
            room: std::array::from_fn(|_| Arc::new(Semaphore::new(LANE_BYTES_MAX as usize))),
            arrived: Notify::new(),
        }
    }

    /// Waits for room in the lane, then queues `op`; the receiver gets the answer.
    pub async fn push(
        &self,
        lane: Lane,
        op: Op,
        bytes: u64,
    ) -> Result<oneshot::Receiver<Result<Reply, DriveError>>, DriveError> {
        let charge = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(OP_BYTES_MIN, LANE_BYTES_MAX);
        let lane = lane as usize;
        let room = self.room.get(lane).ok_or(DriveError::Closed)?.clone();
        let room = room.acquire_many_owned(charge).await.map_err(|_| DriveError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending { op, bytes: u64::from(charge), reply, _room: room };
        {
            let mut lanes = self.lanes.lock();
            if lanes.closed {
                return Err(DriveError::Closed);
            }
            if let Some(waiting) = lanes.waiting.get_mut(lane) {
                waiting.push_back(pending);
            }
        }
        self.arrived.notify_one();
        Ok(answer)
    }

    /// Waits for work and takes a batch of about `bytes_max` (one operation at least); `None` once
    /// the queue is closed and empty. For one taker.
    pub async fn take(&self, bytes_max: u64) -> Option<Vec<Pending>> {
        loop {
            let batch = {
                let mut lanes = self.lanes.lock();
                let batch = lanes.take(bytes_max);
                if batch.is_empty() && lanes.closed {
                    return None;
                }
                batch
            };
            if !batch.is_empty() {
                return Some(batch);
            }
            self.arrived.notified().await;
        }
    }

    /// Refuses new operations; those queued are still taken.
    pub fn close(&self) {
        self.lanes.lock().closed = true;
        for room in &self.room {
            room.close();
        }
        self.arrived.notify_one();
    }

    /// The taker has gone: refuses everything, also what is queued (its waiters see it dropped).
    pub fn abandon(&self) {
        self.close();
        let mut lanes = self.lanes.lock();
        for waiting in &mut lanes.waiting {
            waiting.clear();
        }
    }
}

impl Lanes {
    fn take(&mut self, bytes_max: u64) -> Vec<Pending> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max && batch.len() < BATCH_OPS_MAX {
            if self.waiting.iter().all(VecDeque::is_empty) {
                break;
            }
            for ((waiting, deficit), weight) in
                self.waiting.iter_mut().zip(&mut self.deficit).zip(WEIGHTS)
            {
                if waiting.is_empty() {
                    *deficit = 0;
                    continue;
                }
                *deficit += weight * LANE_QUANTUM_BYTES;
                while let Some(next) = waiting.front() {
                    let fits = bytes + next.bytes <= bytes_max || batch.is_empty();
                    if next.bytes > *deficit || !fits || batch.len() >= BATCH_OPS_MAX {
                        break;
                    }
                    let Some(next) = waiting.pop_front() else { break };
                    *deficit -= next.bytes;
                    bytes += next.bytes;
                    batch.push(next);
                }
            }
            let full = |waiting: &VecDeque<Pending>| {
                waiting.front().is_none_or(|next| bytes + next.bytes > bytes_max)
            };
            if !batch.is_empty() && self.waiting.iter().all(full) {
                break;
            }
        }
        batch
    }
}
