//! Keeps the allocator from holding on to freed memory.
//!
//! Bodies pass through a process as buffers of megabytes, on many threads. The C library's allocator
//! learns from that to serve such buffers from its heaps, one per thread, which then never shrink:
//! a process that holds 100 MiB at a time grew past 300 (measured by the whole-system test of
//! limits).
//!
//! The price of a mapped buffer is a page fault per 4 KiB at its first use, and its unmapping: a tenth of
//! the CPU of writes and a fifth of that of reads of 1 MiB, when every shard was mapped. So what most
//! objects need, blocks and shards of up to a MiB, comes from the heaps; what is longer is mapped.

/// Arenas that threads share.
const ARENAS_MAX: libc::c_int = 4;

/// Buffers from this size on are mapped one by one, and given back when freed, in bytes.
const MAPPED_FROM_BYTES: libc::c_int = 1280 << 10;

/// Free memory at a heap's end from which on it is given back, in bytes.
const TRIM_FROM_BYTES: libc::c_int = 8 << 20;

/// Bounds what the allocator keeps. Call it once, before threads start.
pub fn bound_allocator() {
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, TRIM_FROM_BYTES),
    ] {
        // SAFETY: `mallopt` takes two integers and touches only the allocator's own settings.
        #[allow(unsafe_code, reason = "the C library offers no safe form")]
        let accepted = unsafe { libc::mallopt(parameter, value) };
        if accepted == 0 {
            tracing::debug!(parameter, value, "the allocator does not take this setting");
        }
    }
}
