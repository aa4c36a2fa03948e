//! Serving a mount: as the daemon of a supervisor, or within this process.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime;

use crate::adapter::{Adapter, Shared};
use crate::calls::Calls;
use crate::descriptors;
use crate::device::{self, Device};
use crate::error::MountError;
use crate::handles::Handles;
use crate::handover::{self, Handover};
use crate::limits;
use crate::notices::{self, Notices};
use crate::options::MountOptions;
use crate::readers::{self, Adopted, Rehearsal};
use crate::volume::{OpenFile, Volume};

/// What a supervisor's daemon is given.
pub struct Inheritance {
    handover: Handover,
    socket: UnixStream,
    device: OwnedFd,
    handles: File,
    scratch: File,
}

impl Inheritance {
    /// Takes it from the supervisor, whose socket is our standard input.
    pub fn receive() -> Result<Self, MountError> {
        let socket = std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(MountError::system("find the supervisor"))?;
        let mut socket = UnixStream::from(socket);
        let (version, descriptors) = descriptors::take(&socket)
            .map_err(MountError::system("take what the supervisor hands over"))?;
        if version != handover::VERSION {
            return Err(MountError::Handover("another version of the supervisor"));
        }
        let [device, handles, scratch] =
            descriptors.ok_or(MountError::Handover("descriptors are missing"))?;
        let handover = Handover::decode(&handover::receive(&mut socket)?)?;
        Ok(Self { handover, socket, device, handles: handles.into(), scratch: scratch.into() })
    }

    /// How many daemons served this mount before.
    pub fn generation(&self) -> u32 {
        self.handover.generation
    }

    /// The mount's name, the same for all its daemons.
    pub fn mount(&self) -> u128 {
        self.handover.mount
    }

    /// How it is mounted.
    pub fn options(&self) -> &MountOptions {
        &self.handover.options
    }

    /// A file in memory that the supervisor keeps: what the volume writes there, its successor in
    /// the next daemon finds. At first empty.
    pub fn scratch(&self) -> std::io::Result<File> {
        self.scratch.try_clone()
    }

    /// Serves until the mount ends, then closes the volume. Calls run on `runtime`; this thread
    /// must not be one of its own.
    pub fn serve<V: Volume>(
        mut self,
        volume: V,
        runtime: runtime::Handle,
    ) -> Result<(), MountError> {
        abort_when_a_reader_panics();
        let volume = Arc::new(volume);
        let parts = Parts {
            volume: Arc::clone(&volume),
            options: self.handover.options,
            mount: self.handover.mount,
            kept: Some(self.handles),
            runtime: runtime.clone(),
        };
        let (adopted, open) = parts.session(&self.device, &self.handover.init)?;
        handover::send(&mut self.socket, &adopted.answer)?;
        if handover::receive(&mut self.socket)? != b"go" {
            return Err(MountError::Handover("the supervisor did not say go"));
        }
        begin(&*volume, adopted.notifier, open, &runtime)?;
        if self.handover.generation > 0 {
            device::resend(&self.device).map_err(MountError::system("have requests sent again"))?;
        }
        // The device ends only when all have closed it.
        drop(self.device);
        adopted.readers.run().map_err(MountError::system("serve the mount"))?;
        close(&*volume, &runtime)
    }
}

/// A panic in a thread that reads the device is fuser's, on what it could not read: the thread is
/// gone, and programs with it. Another daemon does better.
fn abort_when_a_reader_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        let reader = std::thread::current().name().is_some_and(|name| name.starts_with("fuser-"));
        if reader && !crate::calls::within_a_call() {
            std::process::abort();
        }
    }));
}

/// A mount that this process serves itself, and that ends with it.
pub struct Mount<V: Volume> {
    volume: Arc<V>,
    device: Arc<Device>,
    runtime: runtime::Handle,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl<V: Volume> Mount<V> {
    /// Mounts a volume. `mount` is a name that no other mount has: 128 random bits.
    pub fn new(
        volume: V,
        dir: &Path,
        options: MountOptions,
        mount: u128,
        runtime: runtime::Handle,
    ) -> Result<Self, MountError> {
        let volume = Arc::new(volume);
        let device = Arc::new(Device::mount(dir, &options)?);
        let read_ahead = options.read_ahead_kib;
        let begun = || -> Result<_, MountError> {
            let parts = Parts {
                volume: Arc::clone(&volume),
                options,
                mount,
                kept: None,
                runtime: runtime.clone(),
            };
            let init = device.read_init()?;
            let (adopted, open) = parts.session(&device.fd, &init)?;
            device.answer_init(&adopted.answer)?;
            device.set_read_ahead(read_ahead);
            begin(&*volume, adopted.notifier, open, &runtime)?;
            Ok(adopted.readers.begin())
        };
        match begun() {
            Ok(thread) => Ok(Self { volume, device, runtime, thread }),
            Err(error) => {
                // The cause is worth more than what the removal says.
                let _ = device.unmount(true);
                Err(error)
            }
        }
    }

    /// Where it is mounted.
    pub fn dir(&self) -> PathBuf {
        self.device.dir.clone()
    }

    /// The volume.
    pub fn volume(&self) -> &V {
        &self.volume
    }

    /// Unmounts and closes the volume; refused while it is in use.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.device.unmount(false)?;
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
                .map_err(MountError::system("serve the mount"))?;
        }
        close(&*self.volume, &self.runtime)
    }
}

impl<V: Volume> Drop for Mount<V> {
    fn drop(&mut self) {
        if self.thread.is_some()
            && let Err(error) = self.device.unmount(true)
        {
            tracing::warn!(%error, "a mount stays behind");
        }
    }
}

/// What a session is made of.
struct Parts<V> {
    volume: Arc<V>,
    options: MountOptions,
    mount: u128,
    kept: Option<File>,
    runtime: runtime::Handle,
}

impl<V: Volume> Parts<V> {
    fn session(
        self,
        device: &OwnedFd,
        init: &[u8],
    ) -> Result<(Adopted, Vec<OpenFile>), MountError> {
        let (handles, open) =
            Handles::new(self.kept).map_err(MountError::system("read which files are open"))?;
        let (threads, rehearsal) = (self.options.threads, Arc::<Rehearsal>::default());
        let adapter = Adapter(Arc::new(Shared {
            volume: self.volume,
            calls: Calls::new(self.runtime, self.options.call_timeout),
            handles,
            options: self.options,
            mount: self.mount,
            rehearsal: Arc::clone(&rehearsal),
        }));
        let adopted = readers::adopt(adapter, rehearsal, device, init, threads)?;
        Ok((adopted, open))
    }
}

fn begin<V: Volume>(
    volume: &V,
    kernel: fuser::Notifier,
    open: Vec<OpenFile>,
    runtime: &runtime::Handle,
) -> Result<(), MountError> {
    let (line, pending) = Notices::line();
    notices::deliver(pending, kernel)?;
    volume.attach(line);
    runtime.block_on(volume.resume(open)).map_err(MountError::Resume)
}

fn close<V: Volume>(volume: &V, runtime: &runtime::Handle) -> Result<(), MountError> {
    let closed = runtime
        .block_on(async { tokio::time::timeout(limits::CLOSE_TIMEOUT, volume.close()).await });
    match closed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(MountError::System {
            what: "close the volume",
            source: std::io::Error::from_raw_os_error(error.errno()),
        }),
        Err(_) => Err(MountError::System {
            what: "close the volume",
            source: std::io::ErrorKind::TimedOut.into(),
        }),
    }
}
