//! How a store behaves: space marks, sizes, ages.

use std::path::PathBuf;
use std::time::Duration;

use crate::limits;

/// Space marks in percent of the capacity, and the owner's reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceMarks {
    /// Warn from here; default 85 %.
    pub warn_percent: u8,
    /// No backfill from here; default 90 %.
    pub no_backfill_percent: u8,
    /// No writes from here; default 95 %.
    pub no_writes_percent: u8,
    /// The owner's reserve in percent of the file system; default 10 %. The larger of the two holds.
    pub reserve_percent: u8,
    /// The owner's reserve in bytes; default 20 GiB.
    pub reserve_bytes: u64,
    /// Segments kept free for compaction; default 2.
    pub reserve_segments: u64,
    /// Below so many free bytes of the file system nothing at all is written, not even a delete:
    /// the index below must never meet a full disk in the middle of its own work; default 64 MiB.
    pub index_headroom_bytes: u64,
}

impl Default for SpaceMarks {
    fn default() -> SpaceMarks {
        SpaceMarks {
            warn_percent: 85,
            no_backfill_percent: 90,
            no_writes_percent: 95,
            reserve_percent: 10,
            reserve_bytes: 20 << 30,
            reserve_segments: 2,
            index_headroom_bytes: 64 << 20,
        }
    }
}

/// How a store behaves. Nothing in it changes the format on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveOptions {
    /// Size at which a segment is sealed, in bytes; default 1 GiB. A record never spans segments.
    pub segment_bytes: u64,
    /// Space marks.
    pub marks: SpaceMarks,
    /// Check a shard's body against its header before it is stored; default true.
    pub verify_on_put: bool,
    /// Dead records from this size on are freed by punching holes, in bytes; default 64 KiB.
    pub punch_min_bytes: u64,
    /// A sealed segment is compacted once so many percent of what it takes is dead; default 40 %.
    pub compact_dead_percent: u8,
    /// How long the trash keeps a shard; default 7 days.
    pub trash_age: Duration,
    /// Pause between maintenance steps of the drive's own worker; `None` (tests): the caller runs
    /// [`crate::DriveStore::maintain`]. Default 30 s.
    pub maintain_every: Option<Duration>,
    /// Shards that the disk cannot read within `read_errors_window` after which the drive counts as
    /// failed; default 16.
    pub read_errors_max: u32,
    /// See `read_errors_max`; default 60 s.
    pub read_errors_window: Duration,
    /// A directory on another disk (the node's own) where a failure is remembered as well, in case
    /// the failed disk takes no mark; default none.
    pub failure_marks: Option<PathBuf>,
}

impl Default for DriveOptions {
    fn default() -> DriveOptions {
        DriveOptions {
            segment_bytes: 1 << 30,
            marks: SpaceMarks::default(),
            verify_on_put: true,
            punch_min_bytes: 64 * 1024,
            compact_dead_percent: 40,
            trash_age: Duration::from_secs(7 * 24 * 3600),
            maintain_every: Some(Duration::from_secs(30)),
            read_errors_max: 16,
            read_errors_window: Duration::from_secs(60),
            failure_marks: None,
        }
    }
}

impl DriveOptions {
    /// Small segments, no reserve, no worker of its own: for tests and the demo's many drives on
    /// one disk (which sets `maintain_every` again).
    pub fn small() -> DriveOptions {
        DriveOptions {
            segment_bytes: 1 << 20,
            marks: SpaceMarks {
                reserve_percent: 0,
                reserve_bytes: 0,
                index_headroom_bytes: 1 << 20,
                ..SpaceMarks::default()
            },
            maintain_every: None,
            ..DriveOptions::default()
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let marks = &self.marks;
        if !(limits::SEGMENT_BYTES_MIN..=limits::SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(format!(
                "segment_bytes {} is not within {} to {}",
                self.segment_bytes,
                limits::SEGMENT_BYTES_MIN,
                limits::SEGMENT_BYTES_MAX
            ));
        }
        if !self.segment_bytes.is_multiple_of(limits::RECORD_ALIGN) {
            return Err("segment_bytes is not a multiple of 4096".into());
        }
        let ordered = marks.warn_percent <= marks.no_backfill_percent
            && marks.no_backfill_percent <= marks.no_writes_percent
            && marks.no_writes_percent <= 100
            && marks.reserve_percent < 100;
        if !ordered {
            return Err("space marks must rise: warn, no backfill, no writes, 100 %".into());
        }
        if self.compact_dead_percent == 0 || self.compact_dead_percent > 100 {
            return Err("compact_dead_percent is not within 1 to 100".into());
        }
        if self.read_errors_max == 0 {
            return Err("read_errors_max must be at least 1".into());
        }
        Ok(())
    }
}
