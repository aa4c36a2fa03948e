//! Where tasks and blocking work run.

use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Runs an agent's tasks, and ends them all when the agent stops (or is killed, in simulation).
#[derive(Clone)]
pub struct Exec {
    inner: Arc<Inner>,
}

struct Inner {
    tracker: TaskTracker,
    stop: tokio::sync::watch::Sender<bool>,
    inline_blocking: bool,
}

impl Exec {
    /// The product: blocking work runs on tokio's thread pool.
    pub fn threads() -> Exec {
        Exec::build(false)
    }

    /// The simulation: blocking work runs at once on the one thread, so that a seed replays.
    pub fn inline() -> Exec {
        Exec::build(true)
    }

    fn build(inline_blocking: bool) -> Exec {
        let (stop, _) = tokio::sync::watch::channel(false);
        Exec { inner: Arc::new(Inner { tracker: TaskTracker::new(), stop, inline_blocking }) }
    }

    /// Runs `future` until it ends or the agent stops; `None` in the second case.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let mut stopped = self.inner.stop.subscribe();
        self.inner.tracker.spawn(async move {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => None,
                output = future => Some(output),
            }
        })
    }

    /// Runs blocking work off the async threads. Panics of `work` are passed on.
    pub async fn blocking<R, W>(&self, work: W) -> R
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        if self.inner.inline_blocking {
            // One yield, so that other tasks interleave with I/O as they would in the product.
            tokio::task::yield_now().await;
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going away and this task with it: never resume.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Whether [`Exec::stop`] was called.
    pub fn stopped(&self) -> bool {
        *self.inner.stop.borrow()
    }

    /// Resolves once [`Exec::stop`] was called.
    pub async fn until_stopped(&self) {
        let mut stopped = self.inner.stop.subscribe();
        let _ = stopped.wait_for(|stop| *stop).await;
    }

    /// Asks every task to end at its next await.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
        self.inner.tracker.close();
    }

    /// Waits until every task has ended, after [`Exec::stop`].
    pub async fn wait(&self) {
        self.inner.tracker.wait().await;
    }
}
