//! Where tasks and blocking work run.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::limits::{BRIEF_DETOURS, BRIEF_MAX};
use crate::patient::Patient;

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
    /// Async threads that may be at brief work; the others go on with whatever happens there.
    brief_places: usize,
    /// Async threads that are.
    brief_running: AtomicUsize,
    /// Pieces of brief work that go to threads of their own, because one was slow.
    brief_detours: AtomicU32,
    patient: Patient,
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
        let brief_places = match std::thread::available_parallelism() {
            Ok(threads) if !inline_blocking => threads.get() / 2,
            _ => 0,
        };
        let inner = Inner {
            tracker,
            stop,
            inline_blocking,
            machine,
            brief_places,
            brief_running: AtomicUsize::new(0),
            brief_detours: AtomicU32::new(0),
            patient: Patient::new(brief_places.max(1)),
        };
        Exec { inner: Arc::new(inner) }
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

    /// Runs work that takes microseconds unless a disk is slow: in place, because handing it to another
    /// thread and back costs more than the work. At most half of the async threads do so at a time, and
    /// after a slow piece the next ones are handed over, so that a disk that hangs never holds up more
    /// than that.
    pub async fn brief<R, W>(&self, work: W) -> R
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        let Some(place) = BriefPlace::take(&self.inner) else { return self.blocking(work).await };
        #[allow(
            clippy::disallowed_methods,
            reason = "asks how long this machine took, not what time it is"
        )]
        let begun = Instant::now();
        let result = work();
        if begun.elapsed() > BRIEF_MAX {
            self.inner.brief_detours.store(BRIEF_DETOURS, Ordering::Relaxed);
        }
        drop(place);
        result
    }

    /// Runs a computation of milliseconds that only its caller waits for, behind whatever else there is
    /// to do: on threads of low priority, half as many as the machine has processors. Panics of
    /// `work` are passed on.
    pub async fn patient<R, W>(&self, work: W) -> R
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        if self.inner.inline_blocking {
            return self.blocking(work).await;
        }
        match self.inner.patient.run(work).await {
            Ok(result) => result,
            Err(work) => self.blocking(work).await,
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

/// The right to be at brief work.
struct BriefPlace<'a>(&'a AtomicUsize);

impl BriefPlace<'_> {
    fn take(inner: &Inner) -> Option<BriefPlace<'_>> {
        let less = |detours: u32| detours.checked_sub(1);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        if inner.brief_places == 0 || inner.brief_detours.fetch_update(set, get, less).is_ok() {
            return None;
        }
        let running = inner.brief_running.fetch_add(1, Ordering::Relaxed);
        let place = BriefPlace(&inner.brief_running);
        (running < inner.brief_places).then_some(place)
    }
}

impl Drop for BriefPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
