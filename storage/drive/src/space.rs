//! Space marks: what may still be written.
//!
//! The capacity is the file system less the owner's reserve; the marks are percents of it. Facts
//! (deletes, fences) and compaction are not held to the marks: they are small or give space back.

use nexusgrid_env::Space;

use crate::options::{DriveOptions, SpaceMarks};
use crate::types::{SpaceLevel, WriteClass};

/// What a batch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The file system less the reserve.
    pub capacity_bytes: u64,
    /// What of it is free.
    pub available_bytes: u64,
    /// What the file system has left, the reserve included.
    pub free_bytes: u64,
}

impl Budget {
    /// From what the file system says.
    pub fn of(space: Space, marks: &SpaceMarks) -> Budget {
        let by_percent = (space.total_bytes / 100).saturating_mul(u64::from(marks.reserve_percent));
        let reserve = by_percent.max(marks.reserve_bytes);
        Budget {
            capacity_bytes: space.total_bytes.saturating_sub(reserve),
            available_bytes: space.free_bytes.saturating_sub(reserve),
            free_bytes: space.free_bytes,
        }
    }

    /// Level after `taken` more bytes.
    pub fn level(&self, taken_bytes: u64, marks: &SpaceMarks) -> SpaceLevel {
        let available = self.available_bytes.saturating_sub(taken_bytes);
        let used = self.capacity_bytes.saturating_sub(available);
        let reached = |percent: u8| {
            u128::from(used) * 100 >= u128::from(self.capacity_bytes) * u128::from(percent)
        };
        if self.capacity_bytes == 0 || reached(marks.no_writes_percent) {
            SpaceLevel::NoWrites
        } else if reached(marks.no_backfill_percent) {
            SpaceLevel::NoBackfill
        } else if reached(marks.warn_percent) {
            SpaceLevel::Warn
        } else {
            SpaceLevel::Normal
        }
    }

    /// Whether `bytes` may be written at all, on top of `planned` ones. Compaction and facts are
    /// held to this alone.
    pub fn fits(&self, planned: u64, bytes: u64, marks: &SpaceMarks) -> bool {
        let taken = planned.saturating_add(bytes);
        self.free_bytes >= taken.saturating_add(marks.index_headroom_bytes)
    }

    /// Whether a write of `bytes` may go on top of `planned` ones.
    pub fn admits(
        &self,
        planned: u64,
        bytes: u64,
        class: WriteClass,
        options: &DriveOptions,
    ) -> bool {
        let taken = planned.saturating_add(bytes);
        let kept = options.marks.reserve_segments.saturating_mul(options.segment_bytes);
        let room = self.available_bytes >= taken.saturating_add(kept);
        if !room || !self.fits(planned, bytes, &options.marks) {
            return false;
        }
        match self.level(taken, &options.marks) {
            SpaceLevel::Normal | SpaceLevel::Warn => true,
            SpaceLevel::NoBackfill => class == WriteClass::Foreground,
            SpaceLevel::NoWrites => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_hold_at_their_percents() {
        let marks = SpaceMarks { reserve_percent: 10, reserve_bytes: 0, ..SpaceMarks::default() };
        let at = |free_bytes| {
            Budget::of(Space { total_bytes: 1000, free_bytes }, &marks).level(0, &marks)
        };
        // Capacity 900: 85 % leaves 135 above the reserve of 100, and so on.
        assert_eq!(at(236), SpaceLevel::Normal);
        assert_eq!(at(235), SpaceLevel::Warn);
        assert_eq!(at(191), SpaceLevel::Warn);
        assert_eq!(at(190), SpaceLevel::NoBackfill);
        assert_eq!(at(146), SpaceLevel::NoBackfill);
        assert_eq!(at(145), SpaceLevel::NoWrites);
        assert_eq!(at(0), SpaceLevel::NoWrites);
    }

    #[test]
    fn reserve_is_the_larger_of_percent_and_bytes() {
        let marks = SpaceMarks::default();
        let space = Space { total_bytes: 100 << 30, free_bytes: 50 << 30 };
        assert_eq!(Budget::of(space, &marks).available_bytes, 30 << 30);
        let space = Space { total_bytes: 1000 << 30, free_bytes: 500 << 30 };
        assert_eq!(Budget::of(space, &marks).available_bytes, 400 << 30);
    }

    #[test]
    fn backfill_stops_before_foreground() {
        let options = DriveOptions {
            marks: SpaceMarks {
                reserve_percent: 0,
                reserve_bytes: 0,
                reserve_segments: 0,
                index_headroom_bytes: 0,
                ..SpaceMarks::default()
            },
            ..DriveOptions::default()
        };
        let budget = Budget { capacity_bytes: 1000, available_bytes: 95, free_bytes: 95 };
        assert!(budget.admits(0, 10, WriteClass::Foreground, &options));
        assert!(!budget.admits(0, 10, WriteClass::Backfill, &options));
        assert!(!budget.admits(40, 10, WriteClass::Foreground, &options));
    }
}
