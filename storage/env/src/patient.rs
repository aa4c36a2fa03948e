//! A few threads of low priority, for computations that take milliseconds and that nobody but their
//! caller waits for, such as a page of a listing: what else the machine has to do goes first.
//!
//! State: the threads, begun when there is something for them to do, and what waits for them. They end with
//! the last clone of the `Exec` that has them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, mpsc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::limits::PATIENT_NICENESS;

type Job = Box<dyn FnOnce() + Send>;

/// The threads.
pub(crate) struct Patient {
    threads: usize,
    /// `None`: none could be started.
    jobs: OnceLock<Option<mpsc::Sender<Job>>>,
}

impl Patient {
    /// At most so many threads; none is begun yet.
    pub fn new(threads: usize) -> Patient {
        Patient { threads, jobs: OnceLock::new() }
    }

    fn start(&self) -> Option<mpsc::Sender<Job>> {
        // Bounded by those who wait for the results: each has one job.
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let start = |number: usize| {
            let queue = Arc::clone(&queue);
            let work = move || {
                // Of this thread alone, as Linux has it. Without it the work is done all the same.
                let _ = rustix::process::setpriority_process(None, PATIENT_NICENESS);
                loop {
                    // One idle thread waits for a job, the others for the lock.
                    let job = queue.lock().recv();
                    let Ok(job) = job else { return };
                    job();
                }
            };
            std::thread::Builder::new().name(format!("patient-{number}")).spawn(work).is_ok()
        };
        let started = (0..self.threads).filter(|number| start(*number)).count();
        (started > 0).then_some(jobs)
    }

    /// Has `work` done; gives it back if there are no threads. Its panics are passed on.
    pub async fn run<R, W>(&self, work: W) -> Result<R, W>
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        let Some(jobs) = self.jobs.get_or_init(|| self.start()) else { return Err(work) };
        let (back, result) = oneshot::channel();
        let job = move || {
            // Whoever waited may be gone meanwhile.
            if !back.is_closed() {
                let _ = back.send(catch_unwind(AssertUnwindSafe(work)));
            }
        };
        // The threads live as long as the sender: it takes all.
        let _ = jobs.send(Box::new(job));
        match result.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // The process ends.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_by_threads_that_give_way_and_its_panics_come_back() {
        let patient = Patient::new(2);
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let usual = niceness();
        assert_eq!(patient.run(niceness).await.ok(), Some((usual + PATIENT_NICENESS).min(19)));
        assert_eq!(niceness(), usual);
        let patient = Arc::new(patient);
        let failing = Arc::clone(&patient);
        let failed =
            tokio::spawn(async move { failing.run(|| panic!("on purpose")).await.is_ok() });
        assert!(failed.await.unwrap_err().is_panic());
        assert_eq!(patient.run(|| 7).await.ok(), Some(7), "the thread goes on");
        assert!(Patient::new(0).run(|| 7).await.is_err());
    }
}
