//! The process that holds the mount while daemons come and go.
//!
//! ```text
//!            mounts, reads the kernel's first request, keeps both descriptors
//!                │
//!                ▼
//!   ┌──▶ starts a daemon ── it answers as the first one did ──▶ serving
//!   │            │ not in time, or otherwise                       │ dies
//!   │            ▼                                                 ▼
//!   └── pause, longer with each early death ◀──────── still mounted? ──no──▶ ends
//! ```
//!
//! A request that a dead daemon had read is sent again to the next (`FUSE_NOTIFY_RESEND`). One of them may
//! be what kills daemons: what was in the hands of several that died early in a row the supervisor
//! answers itself, with an error. Daemons that were killed from outside are no request's fault, or hardly: out
//! of memory looks the same, so that many of those count as one. If the supervisor dies, its daemon goes on alone; when that dies as
//! well, the session ends and programs hear that the endpoint is not connected. It cannot be taken
//! up again: the next mount at that place removes it first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::descriptors;
use crate::device::Device;
use crate::error::MountError;
use crate::handover::{self, Handover};
use crate::limits;
use crate::options::MountOptions;

/// What to supervise.
pub struct Supervision {
    /// The mount point: an empty directory.
    pub dir: PathBuf,
    /// How.
    pub options: MountOptions,
    /// A name for the mount that no other has: 128 random bits.
    pub mount: u128,
    /// Gives the command that starts a daemon: a program that calls
    /// [`Inheritance::receive`](crate::Inheritance::receive). Its standard input is ours.
    pub daemon: Box<dyn FnMut() -> Command + Send>,
}

/// A supervised mount. Its process must not use the mount: starting a daemon closes, in the child,
/// what files the process has open, and each close would wait for the daemon.
pub struct Supervisor {
    watched: Arc<Watched>,
    thread: JoinHandle<Result<(), MountError>>,
}

struct Watched {
    device: Device,
    daemons: AtomicU32,
    pid: AtomicU32,
}

impl Supervisor {
    /// Mounts, and returns when the first daemon serves.
    pub fn start(supervision: Supervision) -> Result<Self, MountError> {
        let Supervision { dir, options, mount, daemon } = supervision;
        let device = Device::mount(&dir, &options)?;
        let watched =
            Arc::new(Watched { device, daemons: AtomicU32::new(0), pid: AtomicU32::new(0) });
        let prepared = || -> Result<_, MountError> {
            let failed = || MountError::system("make memory for what daemons hand on");
            let mut keeper = Keeper {
                watched: Arc::clone(&watched),
                handover: Handover {
                    generation: 0,
                    mount,
                    options,
                    init: watched.device.read_init()?,
                },
                handles: memory("nexusgrid-handles").map_err(failed())?,
                scratch: memory("nexusgrid-scratch").map_err(failed())?,
                answer: None,
                daemon,
                suspects: BTreeMap::new(),
            };
            let first = keeper.start_daemon()?;
            Ok((keeper, first))
        };
        match prepared() {
            Ok((keeper, first)) => {
                let thread = std::thread::Builder::new()
                    .name("fuse-supervisor".to_owned())
                    .spawn(move || keeper.keep(first))
                    .map_err(MountError::system("start the supervisor's thread"))?;
                Ok(Self { watched, thread })
            }
            Err(error) => {
                // The cause is worth more than what the removal says.
                let _ = watched.device.unmount(true);
                Err(error)
            }
        }
    }

    /// What ends the mount from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper { watched: Arc::clone(&self.watched) }
    }

    /// How many daemons were started after the first.
    pub fn restarts(&self) -> u32 {
        self.watched.daemons.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// The process that serves now; 0 between two.
    pub fn daemon_pid(&self) -> u32 {
        self.watched.pid.load(Ordering::Relaxed)
    }

    /// Whether the mount has ended.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Returns when the mount has ended and its last daemon is gone.
    pub fn wait(self) -> Result<(), MountError> {
        self.thread.join().unwrap_or(Err(MountError::Handover("the supervisor's thread died")))
    }
}

/// Ends a supervised mount.
#[derive(Clone)]
pub struct Stopper {
    watched: Arc<Watched>,
}

impl Stopper {
    /// Unmounts. While it is in use: refused (`EBUSY`), or with `lazy` at once out of sight, and at
    /// an end when its last user is.
    pub fn stop(&self, lazy: bool) -> Result<(), MountError> {
        self.watched.device.unmount(lazy)
    }
}

struct Keeper {
    watched: Arc<Watched>,
    handover: Handover,
    handles: File,
    scratch: File,
    /// What the kernel was told, by the first daemon.
    answer: Option<Vec<u8>>,
    daemon: Box<dyn FnMut() -> Command + Send>,
    /// Requests that daemons which died early in a row had, and the blame for that.
    suspects: BTreeMap<u64, u32>,
}

impl Keeper {
    fn keep(mut self, first: Child) -> Result<(), MountError> {
        let mut running = Some(first);
        let mut began = now();
        let mut early = 0_u32;
        loop {
            if let Some(mut daemon) = running.take() {
                let status = daemon.wait();
                self.watched.pid.store(0, Ordering::Relaxed);
                if !self.watched.device.mounted() {
                    return ended(status);
                }
                tracing::warn!(
                    ?status,
                    generation = self.handover.generation,
                    "the mount's daemon is gone, another takes over"
                );
                early =
                    if now().saturating_sub(began) < limits::EARLY_DEATH { early + 1 } else { 0 };
                if early == 0 {
                    self.suspects.clear();
                } else if let Err(error) = self.fail_deadly(blame(&status)) {
                    tracing::warn!(%error, "what the mount's daemons die of cannot be looked for");
                }
            }
            self.pause(early);
            if !self.watched.device.mounted() {
                return Ok(());
            }
            began = now();
            self.handover.generation = self.handover.generation.saturating_add(1);
            match self.start_daemon() {
                Ok(daemon) => running = Some(daemon),
                Err(error) => {
                    // It has read no request: none is to blame.
                    tracing::error!(%error, "the mount's next daemon does not start");
                    early += 1;
                }
            }
        }
    }

    /// A request that was in the hands of each of several daemons that died early in a row may be
    /// what they die of: it gets an error. Others among them were there by chance, and not always.
    fn fail_deadly(&mut self, blame: u32) -> io::Result<()> {
        let device = &self.watched.device;
        let mut suspects = BTreeMap::new();
        for request in device.left()? {
            let blame = self.suspects.get(&request).map_or(blame, |before| before + blame);
            if blame >= limits::BLAME_MAX {
                tracing::error!(
                    request,
                    "a request that daemon after daemon died with gets an error"
                );
                device.fail(request)?;
            } else {
                suspects.insert(request, blame);
            }
        }
        self.suspects = suspects;
        Ok(())
    }

    /// None after one death: programs wait.
    fn pause(&self, early: u32) {
        let Some(doublings) = early.checked_sub(1) else { return };
        let pause = Duration::from_millis(50) * 2_u32.saturating_pow(doublings.min(10));
        #[allow(clippy::disallowed_methods, reason = "a process of its own, with no other work")]
        std::thread::sleep(pause.min(limits::RESTART_PAUSE));
    }

    fn start_daemon(&mut self) -> Result<Child, MountError> {
        let (mut ours, theirs) =
            UnixStream::pair().map_err(MountError::system("make a socket pair"))?;
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&ours, Some(limits::HANDOVER_TIMEOUT))
                .map_err(MountError::system("make a socket pair"))?;
        }
        let mut command = (self.daemon)();
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let mut child = command.spawn().map_err(MountError::system("start the mount's daemon"))?;
        // The command holds the other end as well: only without it a dead daemon's end is heard.
        drop(command);
        match self.hand_over(&mut ours) {
            Ok(()) => {
                self.watched.daemons.fetch_add(1, Ordering::Relaxed);
                self.watched.pid.store(child.id(), Ordering::Relaxed);
                Ok(child)
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn hand_over(&mut self, socket: &mut UnixStream) -> Result<(), MountError> {
        let device = &self.watched.device;
        let descriptors =
            [device.fd.as_raw_fd(), self.handles.as_raw_fd(), self.scratch.as_raw_fd()];
        descriptors::pass(socket, handover::VERSION, &descriptors)
            .map_err(MountError::system("pass the device on"))?;
        handover::send(socket, &self.handover.encode()?)?;
        let answer = handover::receive(socket)?;
        match &self.answer {
            None => {
                device.answer_init(&answer)?;
                device.set_read_ahead(self.handover.options.read_ahead_kib);
                self.answer = Some(answer);
            }
            Some(first) if *first == answer => {}
            // The kernel has been told once what it may send; this one would misread it.
            Some(_) => {
                return Err(MountError::Handover("this daemon asks other things of the kernel"));
            }
        }
        handover::send(socket, b"go")
    }
}

/// How much an early death speaks against the requests that the daemon had.
fn blame(status: &io::Result<ExitStatus>) -> u32 {
    let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
    match signal {
        // What a process does to itself; a panic that ends it exits instead.
        Some(
            libc::SIGABRT
            | libc::SIGSEGV
            | libc::SIGBUS
            | libc::SIGILL
            | libc::SIGFPE
            | libc::SIGTRAP
            | libc::SIGSYS,
        )
        | None => limits::BLAME_MAX.div_ceil(limits::EARLY_DEATHS),
        Some(_) => limits::BLAME_MAX.div_ceil(limits::EARLY_KILLS),
    }
}

fn ended(status: io::Result<ExitStatus>) -> Result<(), MountError> {
    match status {
        Ok(status) if status.success() => Ok(()),
        // What it could not make durable when the mount ended is lost to its programs.
        Ok(_) => Err(MountError::Handover(
            "the mount has ended, but its daemon could not close the volume",
        )),
        Err(source) => Err(MountError::System { what: "wait for the daemon", source }),
    }
}

/// A file in memory that lives while a process holds it.
fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?))
}

/// Since the machine began.
fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
