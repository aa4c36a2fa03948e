//! Bounds of a mount, each with its reason.

use std::time::Duration;

/// Requests that are being worked on at once. Above, the kernel's own queue holds them: readers of
/// the device stop reading.
pub const CALLS_IN_FLIGHT: usize = 256;

/// Calls that take a lock, or wait for one, at once: each is a task, and none counts above. Above: `ENOLCK`.
pub const LOCK_CALLS: usize = 4096;

/// Owners of locks that are noted for the next daemon, each with the open file that it locks through. Above:
/// `ENOLCK`.
pub const LOCK_OWNERS: u32 = 1 << 16;

/// Background requests (read-ahead, write-back) that the kernel may have outstanding.
pub const BACKGROUND_REQUESTS: u16 = 64;

/// The largest read or write in one request, in bytes: 256 pages, the kernel's own maximum.
pub const REQUEST_BYTES_MAX: u32 = 1024 * 1024;

/// What the kernel may read ahead of a sequential reader, in KiB.
pub const READ_AHEAD_KIB: u32 = 1024;

/// How long a call may take before it fails, unless configured.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// How long an orderly end may take to make everything durable.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(120);

/// How often callers that have waited are looked at: whether they were sent a signal.
pub const SIGNAL_INTERVAL: Duration = Duration::from_millis(250);

/// Threads that read the device.
pub const THREADS: usize = 4;

/// Open files of a mount.
pub const OPEN_FILES: u32 = 1 << 20;

/// Notices to the kernel that wait for their thread; whoever sends more waits.
pub const NOTICES: usize = 4096;

/// A name, in bytes.
pub const NAME_BYTES: usize = 255;

/// A symbolic link's target, in bytes: a path with its NUL fits into 4 096.
pub const TARGET_BYTES: usize = 4095;

/// An extended attribute's value, and their list, in bytes (Linux's own).
pub const XATTR_BYTES: usize = 64 * 1024;

/// Entries asked of a volume for one listing reply: a reply holds fewer bytes than that many names.
pub const LISTED_MAX: usize = 1024;

/// As [`LISTED_MAX`], with attributes: five of these fit where one of those does.
pub const LISTED_PLUS_MAX: usize = 256;

/// A message between supervisor and daemon, in bytes.
pub const HANDOVER_BYTES: usize = 64 * 1024;

/// How long a daemon may take from its start until it has answered the first message.
pub const HANDOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon that dies sooner than this after it began has died early.
pub const EARLY_DEATH: Duration = Duration::from_secs(5);

/// A request that so many daemons in a row died early with, by themselves, is answered with an error: it may
/// be what kills.
pub const EARLY_DEATHS: u32 = 4;

/// Likewise of daemons that were killed: by somebody, mostly, but also if they use up the memory.
pub const EARLY_KILLS: u32 = 64;

/// Both in one measure: with so much blame a request is answered with an error.
pub const BLAME_MAX: u32 = EARLY_DEATHS * EARLY_KILLS;

/// Longest pause before a daemon that keeps dying early is started again: programs wait.
pub const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// The largest request that the supervisor reads itself: a whole write with its header.
pub const DEVICE_READ_BYTES: usize = REQUEST_BYTES_MAX as usize + 4096;

/// What may be written and not be in the volume yet, in bytes; a multiple of the unit it is kept in.
/// Whoever writes more waits.
pub const DIRTY_BYTES: u64 = 256 * 1024 * 1024;
