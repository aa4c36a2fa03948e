//! Digests of bodies, off the threads that move the bodies.
//!
//! MD5 alone runs at about half a gigabyte per second and core, and would otherwise hold up every
//! other connection of the thread it runs on. A few threads of this pool compute; a body hands
//! over its chunks in order, together with its running digest, and gets the digest back. Only one
//! hand-over of a body is under way at a time, and what waits behind it is bounded
//! ([`limits::DIGEST_BACKLOG_BYTES`]), so a slow pool holds its bodies back instead of filling
//! memory. Chunks of small bodies are digested in place.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::checksum::{BodyDigest, Digests};
use crate::limits;

struct Job {
    digest: BodyDigest,
    chunks: Vec<Bytes>,
    back: oneshot::Sender<BodyDigest>,
}

/// The threads. They end when the last clone of the pool is gone.
#[derive(Clone)]
pub struct DigestPool {
    jobs: mpsc::Sender<Job>,
}

/// A thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a digest thread: {0}")]
pub struct PoolError(#[from] std::io::Error);

impl DigestPool {
    /// Starts `threads` threads (at least one).
    pub fn start(threads: usize) -> Result<DigestPool, PoolError> {
        // The queue needs no bound of its own: a body has at most one job in it.
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("digest-{index}")).spawn(move || {
                loop {
                    // The lock is held while waiting: one idle thread waits for a job, the others
                    // wait for the lock, which comes to the same.
                    let job = queue.lock().recv();
                    let Ok(mut job) = job else { return };
                    job.chunks.iter().for_each(|chunk| job.digest.update(chunk));
                    drop(job.chunks);
                    // The body may be gone meanwhile; then nobody wants the digest.
                    let _ = job.back.send(job.digest);
                }
            })?;
        }
        Ok(DigestPool { jobs })
    }

    /// Begins a body's digest.
    pub fn begin(&self, digest: BodyDigest) -> PooledDigest {
        PooledDigest {
            pool: self.clone(),
            state: State::Home(Box::new(digest)),
            backlog: Vec::new(),
            backlog_bytes: 0,
        }
    }
}

enum State {
    /// No job is under way.
    Home(Box<BodyDigest>),
    /// A job is.
    Away(oneshot::Receiver<BodyDigest>),
    /// A thread died; the body cannot be acknowledged.
    Lost,
}

/// The digest of one body.
pub struct PooledDigest {
    pool: DigestPool,
    state: State,
    backlog: Vec<Bytes>,
    backlog_bytes: usize,
}

/// A digest thread died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest thread died")]
pub struct DigestLost;

impl PooledDigest {
    /// Takes the next chunk; waits only if too much waits already.
    pub async fn update(&mut self, chunk: Bytes) -> Result<(), DigestLost> {
        self.collect();
        if let State::Home(digest) = &mut self.state
            && self.backlog.is_empty()
            && chunk.len() <= limits::DIGEST_INLINE_BYTES
        {
            digest.update(&chunk);
            return Ok(());
        }
        self.backlog_bytes += chunk.len();
        self.backlog.push(chunk);
        if self.backlog_bytes >= limits::DIGEST_BACKLOG_BYTES {
            self.wait().await?;
        }
        self.hand_over()
    }

    /// The digests of all chunks.
    pub async fn finish(mut self) -> Result<Digests, DigestLost> {
        self.wait().await?;
        if !self.backlog.is_empty() {
            self.hand_over()?;
            self.wait().await?;
        }
        match self.state {
            State::Home(digest) => Ok(digest.finish()),
            State::Away(_) | State::Lost => Err(DigestLost),
        }
    }

    /// Takes the digest back if its job has ended.
    fn collect(&mut self) {
        if let State::Away(back) = &mut self.state {
            match back.try_recv() {
                Ok(digest) => self.state = State::Home(Box::new(digest)),
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => self.state = State::Lost,
            }
        }
    }

    async fn wait(&mut self) -> Result<(), DigestLost> {
        if let State::Away(back) = &mut self.state {
            self.state = match back.await {
                Ok(digest) => State::Home(Box::new(digest)),
                Err(_) => State::Lost,
            };
        }
        if matches!(self.state, State::Lost) { Err(DigestLost) } else { Ok(()) }
    }

    /// Sends the backlog off, if the digest is at home.
    fn hand_over(&mut self) -> Result<(), DigestLost> {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Home(digest) => {
                let (sender, receiver) = oneshot::channel();
                let chunks = std::mem::take(&mut self.backlog);
                self.backlog_bytes = 0;
                let job = Job { digest: *digest, chunks, back: sender };
                self.pool.jobs.send(job).map_err(|_| DigestLost)?;
                self.state = State::Away(receiver);
                Ok(())
            }
            State::Away(receiver) => {
                self.state = State::Away(receiver);
                Ok(())
            }
            State::Lost => Err(DigestLost),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::ALL;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_plain_digest(sizes in prop::collection::vec(0usize..40_000, 0..20), seed in any::<u8>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            let pool = DigestPool::start(2).expect("threads");
            let mut plain = BodyDigest::new(ALL);
            let pooled = runtime.block_on(async {
                let mut pooled = pool.begin(BodyDigest::new(ALL));
                for (index, size) in sizes.iter().enumerate() {
                    let chunk = Bytes::from(vec![seed.wrapping_add(index as u8); *size]);
                    plain.update(&chunk);
                    pooled.update(chunk).await.expect("alive");
                }
                pooled.finish().await.expect("alive")
            });
            prop_assert_eq!(pooled, plain.finish());
        }
    }

    #[test]
    fn the_backlog_is_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let pool = DigestPool::start(1).expect("threads");
        runtime.block_on(async {
            let mut pooled = pool.begin(BodyDigest::new([]));
            for _ in 0..200 {
                pooled.update(Bytes::from(vec![7; 100_000])).await.expect("alive");
                assert!(pooled.backlog_bytes < limits::DIGEST_BACKLOG_BYTES + 100_000);
            }
            assert_eq!(pooled.finish().await.expect("alive").bytes, 20_000_000);
        });
    }
}
