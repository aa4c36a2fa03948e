//! Bounds of this crate, each with a reason.

use std::time::Duration;

/// How often the watchdog looks for a suspend. Readers of the clock notice one at once.
pub const SUSPEND_WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Suspend shorter than this is no jump: reading two clocks takes time too.
pub const SUSPEND_JUMP_MIN: Duration = Duration::from_millis(500);

/// Largest datagram taken from the network, in bytes; longer ones arrive cut and fail to open.
pub const DATAGRAM_BYTES_MAX: usize = 2048;

/// Pending connections of a listening socket.
pub const LISTEN_BACKLOG: u32 = 1024;

/// Time a connection attempt may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Work done in place of an async task (`Exec::brief`) is slow from here on: a disk was waited for, or
/// the machine is short of cores.
pub const BRIEF_MAX: Duration = Duration::from_millis(10);

/// Pieces of such work that go to other threads after a slow one.
pub const BRIEF_DETOURS: u32 = 256;

/// Writes shorter than this go through the page cache, in bytes: there they can be gathered.
pub const DIRECT_BYTES_MIN: usize = 128 << 10;

/// Alignment of writes past the page cache, in memory and in the file, in bytes.
pub const DIRECT_ALIGN_BYTES: usize = 4096;

/// One write past the page cache, in bytes; longer ones are several.
pub const STAGING_BYTES: usize = 1 << 20;

/// Staging buffers kept for the next such write.
pub const STAGING_BUFFERS_MAX: usize = 2;

/// Parts that one vectored write hands to the kernel (Linux takes 1024).
pub const WRITE_PARTS_MAX: usize = 512;

/// Memory of all stores of the process for blocks and unflushed rows together, in bytes.
pub const KV_CACHE_BYTES: usize = 64 << 20;

/// Part of [`KV_CACHE_BYTES`] for unflushed rows; reached, the largest are flushed.
pub const KV_WRITE_BUFFERS_BYTES: usize = 32 << 20;

/// Unflushed rows of one family, in bytes.
pub const KV_WRITE_BUFFER_BYTES: usize = 4 << 20;

/// Piece in which memory for unflushed rows is taken, in bytes: what a family of few rows costs.
pub const KV_ARENA_BYTES: usize = 64 << 10;

/// Files a store holds open; each costs memory for its index.
pub const KV_OPEN_FILES_MAX: i32 = 128;

/// Write-ahead log of a store, in bytes, after which its oldest families are flushed.
pub const KV_LOG_BYTES_MAX: u64 = 32 << 20;

/// Smallest value of a blob family that goes to a blob file, in bytes.
pub const KV_BLOB_BYTES_MIN: u64 = 512;

/// Size of a blob file, in bytes.
pub const KV_BLOB_FILE_BYTES: u64 = 64 << 20;

/// Threads of the process that compact stores; as many flush.
pub const KV_BACKGROUND_THREADS: i32 = 2;

/// Size of RocksDB's own text log, in bytes; two are kept.
pub const KV_TEXT_LOG_BYTES_MAX: usize = 1 << 20;

/// By how much threads of low priority (`Exec::patient`) give way: of a contended core they get a
/// tenth. Nothing would keep what waits for them from ever ending.
pub const PATIENT_NICENESS: i32 = 10;

/// Events a simulation's trace keeps as text; more are only hashed.
pub const SIM_TRACE_EVENTS_MAX: usize = 1_000_000;

/// Log of a simulated key-value store after which it writes a new image, in bytes.
pub const SIM_KV_LOG_BYTES_MAX: u64 = 8 << 20;

/// Packets a simulated datagram end holds before it drops, as a socket buffer does.
pub const SIM_DATAGRAMS_QUEUED_MAX: usize = 1024;

/// Time after which a simulated connection attempt without an answer fails.
pub const SIM_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Requests that a simulated network keeps to deliver again.
pub const SIM_REQUESTS_KEPT_MAX: usize = 20_000;
