//! Long writes past the page cache.
//!
//! What is written once, synced at once and seldom read soon gains nothing from a copy in the cache, and
//! the copy costs more than all of a shard's encryption: fresh pages, their accounting, their
//! write-back. So long aligned writes go from a staging buffer straight to the device. Syncing stays the
//! caller's: the device's own cache, and the file's length, are still to be made durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::limits::{DIRECT_ALIGN_BYTES, DIRECT_BYTES_MIN, STAGING_BUFFERS_MAX, STAGING_BYTES};

/// Staging buffers that nobody uses now: their pages stay warm.
static STAGING: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A second descriptor of a file, that bypasses the cache; made at the first long write. `None` where
/// the file system has no such thing.
#[derive(Default)]
pub(super) struct Direct(OnceLock<Option<File>>);

impl Direct {
    /// Writes `parts` at `offset` as far as that is possible past the cache; says how many bytes it wrote.
    /// The rest is for an ordinary write.
    pub(super) fn write(&self, file: &File, parts: &[&[u8]], offset: u64) -> io::Result<u64> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let aligned = offset.is_multiple_of(DIRECT_ALIGN_BYTES as u64)
            && total.is_multiple_of(DIRECT_ALIGN_BYTES);
        if total < DIRECT_BYTES_MIN || !aligned {
            return Ok(0);
        }
        let Some(direct) = self.0.get_or_init(|| reopen(file)) else { return Ok(0) };
        let mut staging = STAGING.lock().pop().unwrap_or_default();
        staging.resize(STAGING_BYTES + DIRECT_ALIGN_BYTES, 0);
        let written = write_staged(direct, &mut staging, parts, offset);
        let mut idle = STAGING.lock();
        if idle.len() < STAGING_BUFFERS_MAX {
            idle.push(staging);
        }
        written
    }
}

fn reopen(file: &File) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

fn write_staged(
    direct: &File,
    staging: &mut [u8],
    parts: &[&[u8]],
    offset: u64,
) -> io::Result<u64> {
    let start = staging.as_ptr().align_offset(DIRECT_ALIGN_BYTES);
    let Some(buffer) = staging.get_mut(start..start.saturating_add(STAGING_BYTES)) else {
        return Ok(0);
    };
    let mut done = 0;
    let mut filled = 0;
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            if let Some(room) = room.get_mut(..now.len()) {
                room.copy_from_slice(now);
            }
            filled += now.len();
            rest = later;
            if filled == buffer.len() {
                if !write_all(direct, buffer, offset + done)? {
                    return Ok(done);
                }
                done += filled as u64;
                filled = 0;
            }
        }
    }
    match buffer.get(..filled) {
        Some(last) if !last.is_empty() && write_all(direct, last, offset + done)? => {
            Ok(done + filled as u64)
        }
        _ => Ok(done),
    }
}

/// Whether all was written; if not, this file system wants it done in the ordinary way.
fn write_all(direct: &File, data: &[u8], offset: u64) -> io::Result<bool> {
    match direct.write_all_at(data, offset) {
        Ok(()) => Ok(true),
        // Another alignment than ours, or a write that was cut at an odd place.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}
