//! Keeps allocators from holding on to freed memory.
//!
//! What is small is mimalloc's, which the binary sets. With huge pages that keeps half as much again as it needs, for a page
//! that is mostly free stays whole: they are switched off for the process.
//!
//! Bodies pass through a process as buffers of megabytes, on many threads, and are the C library's, like all of RocksDB's.
//! That allocator learns from them to serve such buffers from its heaps, one per thread, which then never shrink: a process
//! that holds 100 MiB at a time grew past 300 (measured by the whole-system test of limits). So threads share a few heaps.
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

/// Bounds what the C library's allocator keeps, and has the process do without huge pages. Call it once, before threads start.
///
/// That there are to be no huge pages is inherited by processes that this one starts.
pub fn bound_allocator() {
    // SAFETY: this option reads no memory of ours, and the unused arguments are zero as it demands.
    #[allow(unsafe_code, reason = "the C library offers no safe form")]
    let done = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if done != 0 {
        tracing::debug!("this system does not let a process do without huge pages");
    }
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
