//! Where tasks and blocking work run.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Runs an agent's tasks, and ends them all when the agent stops (or is killed, in simulation).
#[derive(Clone)]
pub struct Exec {
    inner: Arc<Inner>,
}

struct Inner {
    tracker: TaskTracker,
    stop: watch::Sender<bool>,
    inline_blocking: bool,
    machine: Option<SimulatedMachine>,
}

/// What a simulated machine does to the tasks that run on it.
#[derive(Clone)]
pub struct SimulatedMachine {
    /// True while it is suspended: its tasks are not polled.
    pub suspended: watch::Receiver<bool>,
    /// Virtual time that each piece of blocking work takes, in microseconds: a slow disk.
    pub blocking_micros: Arc<AtomicU64>,
}

impl Exec {
    /// The product: blocking work runs on tokio's thread pool.
    pub fn threads() -> Exec {
        Exec::build(false, None)
    }

    /// The simulation: blocking work runs at once on the one thread, so that a seed replays.
    pub fn inline() -> Exec {
        Exec::build(true, None)
    }

    /// As [`Exec::inline`], for a machine that can be suspended or slow.
    pub fn inline_on(machine: SimulatedMachine) -> Exec {
        Exec::build(true, Some(machine))
    }

    fn build(inline_blocking: bool, machine: Option<SimulatedMachine>) -> Exec {
        let stop = watch::Sender::new(false);
        let tracker = TaskTracker::new();
        Exec { inner: Arc::new(Inner { tracker, stop, inline_blocking, machine }) }
    }

    /// Runs `future` until it ends or the agent stops; `None` in the second case.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let mut stopped = self.inner.stop.subscribe();
        let suspended = self.inner.machine.as_ref().map(|machine| machine.suspended.clone());
        self.inner.tracker.spawn(async move {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => None,
                output = gated(future, suspended) => Some(output),
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
            if let Some(machine) = &self.inner.machine {
                let micros = machine.blocking_micros.load(Ordering::Relaxed);
                if micros > 0 {
                    tokio::time::sleep(Duration::from_micros(micros)).await;
                }
                // An error means that the machine is gone: its disk refuses what `work` does.
                let _ = machine.suspended.clone().wait_for(|suspended| !*suspended).await;
            }
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

/// Runs `future`, except while the machine is suspended.
async fn gated<F: Future>(future: F, suspended: Option<watch::Receiver<bool>>) -> F::Output {
    let mut future = std::pin::pin!(future);
    let Some(mut suspended) = suspended else { return future.await };
    loop {
        // An error means that the world is gone: nobody will suspend the machine again.
        if suspended.wait_for(|suspended| !*suspended).await.is_err() {
            return future.await;
        }
        tokio::select! {
            biased;
            Ok(_) = suspended.wait_for(|suspended| *suspended) => {}
            output = &mut future => return output,
        }
    }
}
