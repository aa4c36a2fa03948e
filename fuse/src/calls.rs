//! Runs calls: how many at once, for how long, and until which signal.
//!
//! A call is tried at once on the thread that read it from the device: what the volume knows it
//! answers without a change of thread. What must wait goes on in the runtime. There a call ends by
//! its answer, by its time, or because its process got a signal: fuser has the kernel send no
//! interrupts, so callers that wait are looked at in `/proc` instead. A program blocked for a lock
//! hears any signal; other calls end early only when their process is being killed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{Outcome, VolumeError};
use crate::limits;

/// What may end a call before its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Its time: the kernel's own calls, and those on which data hangs.
    Time,
    /// Its time, or that its process is being killed.
    Killed,
    /// Any signal to its process; no time: it waits for a lock.
    Signal,
}

/// What bounds how many of its kind there are at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// [`limits::CALLS_IN_FLIGHT`]; above, the threads that read the device wait, and so does what they would
    /// read. None of these may wait for the kernel: it may want one of its own requests answered first.
    Calls,
    /// [`limits::LOCK_CALLS`]; above, there are no more locks.
    Locks,
    /// Nothing but how many threads programs have: what gives a lock back cannot be refused, and must not wait
    /// in line behind what waits for that.
    Threads,
}

/// A call's name and manner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) pid: u32,
    pub(crate) patience: Patience,
    pub(crate) bound: Bound,
}

struct Waiting {
    pid: u32,
    patience: Patience,
    end: oneshot::Sender<()>,
}

type Waitings = Mutex<BTreeMap<u64, Waiting>>;

thread_local! {
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is at work for a call, whose panics [`Calls::run`] catches.
pub(crate) fn within_a_call() -> bool {
    WITHIN.get()
}

/// The bounds, and the runtime behind them.
pub(crate) struct Calls {
    runtime: runtime::Handle,
    calls: Arc<Semaphore>,
    lock_calls: Arc<Semaphore>,
    timeout: Duration,
    waiting: Arc<Waitings>,
}

impl Calls {
    pub(crate) fn new(runtime: runtime::Handle, timeout: Duration) -> Self {
        let waiting = Arc::new(Waitings::default());
        let watched = Arc::downgrade(&waiting);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(limits::SIGNAL_INTERVAL).await;
                let Some(waiting) = watched.upgrade() else { return };
                end_signalled(&waiting);
            }
        });
        Self {
            runtime,
            calls: Arc::new(Semaphore::new(limits::CALLS_IN_FLIGHT)),
            lock_calls: Arc::new(Semaphore::new(limits::LOCK_CALLS)),
            timeout,
            waiting,
        }
    }

    /// Runs `work` and hands what came of it to `answer`. If `work` panics, `answer` is dropped,
    /// which fuser turns into EIO.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        call: Call,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
        answer: impl FnOnce(Outcome<T>) + Send + 'static,
    ) {
        let _context = self.runtime.enter();
        let permit = match self.permit(call.bound) {
            Ok(permit) => permit,
            Err(error) => return answer(Err(error)),
        };
        let mut work = Box::pin(work);
        WITHIN.set(true);
        let first = catch_unwind(AssertUnwindSafe(|| {
            work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        WITHIN.set(false);
        match first {
            Ok(Poll::Ready(outcome)) => answer(outcome),
            Ok(Poll::Pending) => self.wait(call, work, answer, permit),
            Err(_) => tracing::error!(call = call.number, "a call of the volume panicked"),
        }
    }

    fn permit(&self, bound: Bound) -> Outcome<Option<OwnedSemaphorePermit>> {
        match bound {
            Bound::Threads => Ok(None),
            Bound::Locks => Arc::clone(&self.lock_calls)
                .try_acquire_owned()
                .map(Some)
                .map_err(|_| VolumeError::NoLocks),
            Bound::Calls => match Arc::clone(&self.calls).try_acquire_owned() {
                Ok(permit) => Ok(Some(permit)),
                // The thread waits, and what it would read waits in the kernel.
                Err(_) => self
                    .runtime
                    .block_on(Arc::clone(&self.calls).acquire_owned())
                    .map(Some)
                    .map_err(|_| VolumeError::Io),
            },
        }
    }

    fn wait<T: Send + 'static>(
        &self,
        call: Call,
        work: Pin<Box<impl Future<Output = Outcome<T>> + Send + 'static>>,
        answer: impl FnOnce(Outcome<T>) + Send + 'static,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let (end, ended) = oneshot::channel();
        let watched = call.pid != 0 && call.patience != Patience::Time;
        if watched {
            let waiting = Waiting { pid: call.pid, patience: call.patience, end };
            self.waiting.lock().insert(call.number, waiting);
        }
        let waiting = Arc::clone(&self.waiting);
        let timeout = (call.patience != Patience::Signal).then_some(self.timeout);
        self.runtime.spawn(async move {
            let _permit = permit;
            let signalled = async {
                if !watched || ended.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let late = async {
                match timeout {
                    Some(timeout) => tokio::time::sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                biased;
                outcome = work => outcome,
                () = signalled => Err(VolumeError::Interrupted),
                () = late => Err(VolumeError::TimedOut),
            };
            if watched {
                waiting.lock().remove(&call.number);
            }
            answer(outcome);
        });
    }
}

fn end_signalled(waiting: &Waitings) {
    let callers: Vec<(u64, u32, Patience)> = waiting
        .lock()
        .iter()
        .map(|(number, waiting)| (*number, waiting.pid, waiting.patience))
        .collect();
    for (number, pid, patience) in callers {
        let all = patience == Patience::Signal;
        if signals_pending(pid).is_some_and(|signals| if all { signals.any } else { signals.kill })
            && let Some(waiting) = waiting.lock().remove(&number)
        {
            let _ = waiting.end.send(());
        }
    }
}

struct Signals {
    any: bool,
    kill: bool,
}

/// `None`: there is no such thread, or not in this namespace.
fn signals_pending(pid: u32) -> Option<Signals> {
    #[allow(
        clippy::disallowed_methods,
        reason = "/proc is no disk: it is a question to the kernel"
    )]
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(signals_in(&status))
}

fn signals_in(status: &str) -> Signals {
    let set = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
            .unwrap_or(0)
    };
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let pending = set("SigPnd:") | set("ShdPnd:");
    Signals { any: pending & !(set("SigBlk:") | set("SigIgn:")) != 0, kill: pending & KILL != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_signals_are_read_from_proc() {
        let status = |pending: &str, blocked: &str| {
            format!(
                "Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t0000000000000000\nSigBlk:\t{blocked}\nSigIgn:\t0000000000001000\n"
            )
        };
        let none = "0000000000000000";
        assert!(!signals_in(&status(none, none)).any);
        let interrupt = signals_in(&status("0000000000000002", none));
        assert!(interrupt.any && !interrupt.kill);
        assert!(!signals_in(&status("0000000000000002", "0000000000000002")).any);
        assert!(!signals_in(&status("0000000000001000", none)).any);
        assert!(signals_in(&status("0000000000000100", none)).kill);
        assert!(signals_pending(std::process::id()).is_some());
    }

    /// A call about a lock may wait until the kernel has written pages of its file back. Those writes must find
    /// a way, however many such calls there are.
    #[test]
    fn calls_about_locks_are_in_no_others_way() {
        let runtime = runtime::Runtime::new().unwrap();
        let calls = Calls::new(runtime.handle().clone(), Duration::from_secs(3600));
        let call = |number: usize, bound| Call {
            number: number as u64,
            pid: 0,
            patience: Patience::Time,
            bound,
        };
        for number in 0..=limits::CALLS_IN_FLIGHT {
            for bound in [Bound::Locks, Bound::Threads] {
                calls.run(call(number, bound), std::future::pending::<Outcome<()>>(), |_| ());
            }
        }
        let (answer, answered) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            calls.run(call(0, Bound::Calls), std::future::ready(Ok(())), move |outcome| {
                let _ = answer.send(outcome);
            });
        });
        assert_eq!(answered.recv_timeout(Duration::from_secs(30)), Ok(Ok(())));
    }

    #[test]
    fn too_many_calls_about_locks_are_refused() {
        let runtime = runtime::Runtime::new().unwrap();
        let calls = Calls::new(runtime.handle().clone(), Duration::from_secs(3600));
        let call = Call { number: 0, pid: 0, patience: Patience::Time, bound: Bound::Locks };
        let (answer, answered) = std::sync::mpsc::channel();
        for _ in 0..=limits::LOCK_CALLS {
            let answer = answer.clone();
            calls.run(call, std::future::pending::<Outcome<()>>(), move |outcome| {
                let _ = answer.send(outcome);
            });
        }
        assert_eq!(answered.try_recv(), Ok(Err(VolumeError::NoLocks)));
        assert!(answered.try_recv().is_err(), "the others wait");
    }
}
