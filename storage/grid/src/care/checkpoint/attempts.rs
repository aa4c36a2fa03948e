//! What became of the tries to take checkpoints, group by group: when the next one is, and what those
//! that came to nothing left in the grid.
//!
//! State: in memory; forgotten with the process, and then found by the next checkpoint that succeeds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_env::BootInstant;
use parking_lot::Mutex;

use super::record::RecordHead;
use crate::limits;

/// After each failure in a row the pause is twice as long, so often.
const DOUBLINGS_MAX: u32 = 2;

/// All groups' tries.
#[derive(Default)]
pub(super) struct Attempts(Mutex<BTreeMap<GroupId, Tried>>);

#[derive(Default)]
struct Tried {
    last: Option<BootInstant>,
    failures: u32,
    /// Stored, but too few keep their records: the oldest first.
    stored: VecDeque<RecordHead>,
}

impl Attempts {
    /// One begins.
    pub(super) fn begin(&self, group: GroupId, now: BootInstant) {
        self.0.lock().entry(group).or_default().last = Some(now);
    }

    /// One ended well: all that failed before it are older than it, and go with the old.
    pub(super) fn succeeded(&self, group: GroupId) {
        let mut tried = self.0.lock();
        let tried = tried.entry(group).or_default();
        (tried.failures, tried.stored) = (0, VecDeque::new());
    }

    /// One failed.
    pub(super) fn failed(&self, group: GroupId) {
        let mut tried = self.0.lock();
        let tried = tried.entry(group).or_default();
        tried.failures = tried.failures.saturating_add(1);
    }

    /// One is in the grid, but too few nodes keep its record. Gives those before it that are of no
    /// use any more: as many as usual stay, for a node may have only the record of one of them.
    pub(super) fn stored(&self, head: RecordHead) -> Vec<RecordHead> {
        let mut tried = self.0.lock();
        let stored = &mut tried.entry(head.group).or_default().stored;
        stored.push_back(head);
        let surplus = stored.len().saturating_sub(limits::CHECKPOINTS_KEPT);
        stored.drain(..surplus).collect()
    }

    /// Whether it is too early for another try, where there is one every `pause` while they end well.
    pub(super) fn rests(&self, group: GroupId, pause: Duration, now: BootInstant) -> bool {
        self.0.lock().get(&group).is_some_and(|tried| {
            let pause = pause * (1 << tried.failures.min(DOUBLINGS_MAX));
            tried.last.is_some_and(|last| now.since(last) < pause)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);
    const PAUSE: Duration = Duration::from_secs(60);

    fn head(index: u64) -> RecordHead {
        RecordHead { group: GROUP, incarnation: 1, index, taken_ms: 0 }
    }

    fn at(seconds: u64) -> BootInstant {
        BootInstant(Duration::from_secs(seconds))
    }

    #[test]
    fn tries_that_fail_leave_little_and_come_less_often() {
        let attempts = Attempts::default();
        assert!(!attempts.rests(GROUP, PAUSE, at(0)));
        let mut left = 0;
        for (failures, pause) in [(0, 60), (1, 120), (2, 240), (3, 240), (4, 240)] {
            let begin = 10_000 * (failures + 1);
            attempts.begin(GROUP, at(begin));
            assert!(attempts.rests(GROUP, PAUSE, at(begin + pause - 1)), "{failures}");
            assert!(!attempts.rests(GROUP, PAUSE, at(begin + pause)), "{failures}");
            attempts.failed(GROUP);
            let gone = attempts.stored(head(failures));
            left = left + 1 - gone.len();
            assert!(gone.iter().all(|head| head.index + 3 == failures), "the oldest goes");
        }
        assert_eq!(left, limits::CHECKPOINTS_KEPT);
        attempts.succeeded(GROUP);
        assert!(!attempts.rests(GROUP, PAUSE, at(50_060)));
        assert_eq!(attempts.stored(head(9)), []);
        assert!(!attempts.rests(GroupId(4), PAUSE, at(0)));
    }
}
