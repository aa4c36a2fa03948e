//! The threads that read the device, and the memory that they read into.
//!
//! The kernel copies a request straight into its reader's memory. Where a page of that is not there yet and the
//! reader has just been killed, the copy fails, and the kernel itself answers the request with EIO: no daemon that
//! follows ever sees it (`fuse_dev_do_read`, Linux 6.18: `get_user_pages` gives up on a fatal signal). fuser reads
//! into memory that nothing has touched. So the device stands back until each reader's memory is there, and stays:
//!
//! ```text
//!   a socket stands where the device will: fuser reads the kernel's first request there, and answers it
//!     ─▶ each thread reads a rehearsal there, and what it is read into is locked in memory
//!       ─▶ all have: the device takes the socket's place ─▶ `run`: they read on
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{Config, Filesystem, INodeNo, Session, SessionACL};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use parking_lot::{Condvar, Mutex};

use crate::descriptors;
use crate::error::MountError;
use crate::limits;

/// No inode has this number: what is looked up there is the rehearsal.
pub(crate) const NO_INODE: INodeNo = INodeNo(0);
/// LOOKUP: fuser shows its name as it lies in the reader's memory.
const LOOKUP: u32 = 1;
/// What a request begins with: length, operation, number, inode, user, group, process, padding.
const HEADER: usize = 40;
/// A name, with its NUL.
const NAME: &[u8] = b"rehearsal\0";

/// What readers wait for.
#[derive(Default)]
pub(crate) struct Rehearsal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: usize,
    may_go_on: bool,
    have_ended: bool,
}

impl Rehearsal {
    /// What a reader does with the rehearsal, when it has answered it: it prepares the memory that this was read into,
    /// and waits.
    pub(crate) fn attend(&self, content: &[u8]) {
        if let Err(error) = keep_in_memory(content) {
            tracing::warn!(
                %error,
                "the memory that requests are read into cannot be locked: if this daemon is killed, a write may fail"
            );
        }
        let mut state = self.state.lock();
        state.ready += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| !state.may_go_on);
    }

    fn wait_for(&self, readers: usize) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.ready < readers && !state.have_ended);
        !state.have_ended
    }

    fn go_on(&self) {
        self.state.lock().may_go_on = true;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.state.lock().have_ended = true;
        self.changed.notify_all();
    }
}

/// Locks what the kernel fills with a request, from where this one lies.
#[allow(unsafe_code, reason = "mlock takes an address")]
fn keep_in_memory(content: &[u8]) -> io::Result<()> {
    // SAFETY: mlock changes no byte, wherever it points. fuser's buffer is 16 times as long as this.
    let locked = unsafe { libc::mlock(content.as_ptr().cast(), limits::DEVICE_READ_BYTES) };
    if locked < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The message that each reader reads once.
fn rehearsal_message() -> Vec<u8> {
    let length = HEADER + NAME.len();
    let mut bytes = Vec::with_capacity(length);
    for word in [length as u32, LOOKUP] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.resize(HEADER, 0);
    bytes.extend_from_slice(NAME);
    bytes
}

/// Readers of a device, ready to read it.
pub(crate) struct Readers {
    rehearsal: Arc<Rehearsal>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// Where the device is, as a number that they hold open.
    place: RawFd,
    socket: OwnedFd,
}

impl Readers {
    /// They read; gives the thread that ends when the mount does.
    pub(crate) fn begin(mut self) -> Option<JoinHandle<io::Result<()>>> {
        self.rehearsal.go_on();
        self.thread.take()
    }

    /// Serves until the mount ends.
    pub(crate) fn run(self) -> io::Result<()> {
        let thread = self.begin().map(JoinHandle::join);
        thread.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }
}

impl Drop for Readers {
    /// Readers that are not to read end: what they find in the device's place is a socket that is closed.
    fn drop(&mut self) {
        if self.thread.is_some() && descriptors::replace(self.place, &self.socket).is_ok() {
            self.rehearsal.go_on();
        }
    }
}

/// A session of fuser whose first request others have read.
pub(crate) struct Adopted {
    /// What the first request is answered.
    pub(crate) answer: Vec<u8>,
    pub(crate) notifier: fuser::Notifier,
    pub(crate) readers: Readers,
}

/// Gives the first request to fuser, and the device to its `threads` readers, which wait with all else until they are
/// to [begin](Readers::begin). The file system has its readers attend the rehearsal.
pub(crate) fn adopt<FS: Filesystem>(
    filesystem: FS,
    rehearsal: Arc<Rehearsal>,
    device: &OwnedFd,
    init: &[u8],
    threads: usize,
) -> Result<Adopted, MountError> {
    let failed = MountError::system;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(io::Error::from)
            .map_err(failed("make a socket pair"))?;
    let say = |what: &[u8]| -> io::Result<()> {
        send(ours.as_raw_fd(), what, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    };
    say(init).map_err(failed("repeat the first request"))?;
    let mut config = Config::default();
    config.n_threads = Some(threads);
    // Not cloned: a clone's requests fail with the process that closes it.
    config.clone_fd = false;
    // The kernel itself keeps others out, unless it is told to let them in.
    let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)
        .map_err(failed("begin the session"))?;
    let mut answer = vec![0; limits::HANDOVER_BYTES];
    let length = recv(ours.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)
        .map_err(io::Error::from)
        .map_err(failed("hear the session's answer"))?;
    answer.truncate(length);
    for _ in 0..threads {
        say(&rehearsal_message()).map_err(failed("have readers rehearse"))?;
    }
    let (notifier, place) = (session.notifier(), session.as_fd().as_raw_fd());
    let whole = Arc::clone(&rehearsal);
    let thread = std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            let ended = session.run();
            whole.end();
            ended
        })
        .map_err(failed("start the session's thread"))?;
    let readers = Readers { rehearsal, thread: Some(thread), place, socket: ours };
    if !readers.rehearsal.wait_for(threads) {
        return Err(readers.run().err().map_or(
            MountError::Handover("the session ended before it began"),
            failed("start the threads that read the device"),
        ));
    }
    descriptors::replace(place, device).map_err(failed("put the device in place"))?;
    Ok(Adopted { answer, notifier, readers })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    struct Attends(Arc<Rehearsal>);

    impl Filesystem for Attends {
        fn lookup(&self, _: &fuser::Request, at: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
            assert_eq!(at, NO_INODE);
            reply.error(fuser::Errno::ENOENT);
            self.0.attend(name.as_encoded_bytes());
        }
    }

    /// The kernel's first request, as the protocol's version 7.45 has it.
    fn init() -> Vec<u8> {
        let words = [104, 26, 1, 0, 0, 0, 0, 0, 0, 0, 7, 45, 1 << 17];
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        bytes.resize(104, 0);
        bytes
    }

    fn locked_kib() -> u64 {
        #[allow(clippy::disallowed_methods, reason = "/proc: a question to the kernel")]
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Each reader has its memory before any reads what stands for the device, however many they are.
    #[test]
    fn no_reader_reads_before_its_memory_is_there() {
        for threads in [1, 4, 64] {
            let rehearsal = Arc::<Rehearsal>::default();
            let attends = Attends(Arc::clone(&rehearsal));
            // Ends like a device that is not mounted any more.
            let device =
                rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let adopted = adopt(attends, rehearsal, &device, &init(), threads).unwrap();
            assert!(adopted.answer.len() > 16);
            let each = limits::DEVICE_READ_BYTES as u64 / 1024;
            assert!(locked_kib() >= threads as u64 * each);
            adopted.readers.run().unwrap_err();
        }
    }

    #[test]
    fn readers_that_are_not_to_read_end() {
        let rehearsal = Arc::<Rehearsal>::default();
        let attends = Attends(Arc::clone(&rehearsal));
        let (never_read, device) = std::os::unix::net::UnixStream::pair().unwrap();
        let adopted = adopt(attends, Arc::clone(&rehearsal), &device.into(), &init(), 2).unwrap();
        drop(adopted);
        assert!(!rehearsal.wait_for(3));
        drop(never_read);
    }
}
