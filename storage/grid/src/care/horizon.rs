//! What was released so long ago that no reader can want it: by order of commit and by the clock of
//! whoever asks, which is the group's leader. No wall clock of anybody, right or wrong, frees early or
//! holds anything up.
//!
//! ```text
//!   "by now, commit 700 is the last that released something" ──horizon later──▶ all up to 700 may go
//!   a read is pinned for 20 min ──▶ nothing that was released in those 20 min goes
//! ```
//!
//! State: what was committed when, and when each session was last renewed; lost with leadership, and
//! then every horizon begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nexusgrid_codec::SessionId;
use nexusgrid_env::BootInstant;
use nexusgrid_meta::namespace::types::Session;

use crate::limits;

/// What one leader knows of the past of its group.
pub(super) struct Horizon {
    /// Commits, and when they were there, in order of both.
    marks: VecDeque<(u64, BootInstant)>,
    renewals: BTreeMap<SessionId, Renewal>,
    /// When sessions were looked at last.
    looked: BootInstant,
}

/// The last renewal of an open session.
struct Renewal {
    /// What its group wrote down.
    renewed_ms: u64,
    /// It was seen then …
    seen: BootInstant,
    /// … and not yet then.
    unseen: BootInstant,
    /// How long its oldest read had run when it was renewed, by the reader's clock.
    pinned: Option<Duration>,
}

impl Horizon {
    pub(super) fn new(now: BootInstant) -> Horizon {
        Horizon { marks: VecDeque::new(), renewals: BTreeMap::new(), looked: now }
    }

    /// Looks at the sessions of the group, all of them.
    pub(super) fn look(&mut self, sessions: &[Session], now: BootInstant) {
        let is_open = |session: &&Session| session.closed_ms.is_none();
        let mut renewals = BTreeMap::new();
        for session in sessions.iter().filter(is_open) {
            let known = self.renewals.remove(&session.id);
            let (seen, unseen) = match known {
                Some(known) if known.renewed_ms == session.renewed_ms => (known.seen, known.unseen),
                _ => (now, self.looked),
            };
            // Both were said by one clock, in one breath.
            let pinned = session.oldest_pin_ms.map(|pinned_ms| {
                Duration::from_millis(session.renewed_ms.saturating_sub(pinned_ms))
            });
            let renewed_ms = session.renewed_ms;
            renewals.insert(session.id, Renewal { renewed_ms, seen, unseen, pinned });
        }
        self.renewals = renewals;
        self.looked = now;
    }

    /// Open sessions that were not renewed for two of their leases.
    pub(super) fn silent(&self, sessions: &[Session], now: BootInstant) -> Vec<SessionId> {
        let is_silent = |session: &&Session| {
            let lease = Duration::from_millis(session.lease_ms.saturating_mul(2));
            self.renewals.get(&session.id).is_some_and(|known| now.since(known.seen) >= lease)
        };
        sessions.iter().filter(is_silent).map(|session| session.id).collect()
    }

    /// Notes that `commit` has released something by now.
    pub(super) fn note(&mut self, commit: u64, now: BootInstant, horizon: Duration) {
        let apart = horizon / limits::RELEASE_MARKS_MAX;
        let is_news = self
            .marks
            .back()
            .is_none_or(|(known, since)| *known < commit && now.since(*since) >= apart);
        if is_news {
            self.marks.push_back((commit, now));
        }
    }

    /// The last commit that may be freed: its readers had `horizon` to end, and no pinned one began
    /// before it.
    pub(super) fn through(&mut self, now: BootInstant, horizon: Duration) -> Option<u64> {
        let began = |known: &Renewal| Some(known.unseen.0.saturating_sub(known.pinned?));
        let oldest_pin = self.renewals.values().filter_map(began).min();
        let is_past = |(_, since): &(u64, BootInstant)| {
            now.since(*since) >= horizon && oldest_pin.is_none_or(|pin| since.0 < pin)
        };
        while self.marks.get(1).is_some_and(is_past) {
            self.marks.pop_front();
        }
        self.marks.front().filter(|mark| is_past(mark)).map(|(commit, _)| *commit)
    }
}

#[cfg(test)]
mod tests {
    use nexusgrid_env::NodeId;

    use super::*;

    const HORIZON: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> BootInstant {
        BootInstant(Duration::from_secs(seconds))
    }

    /// A session by a clock that says so many seconds.
    fn session(renewed: u64, pinned: Option<u64>) -> Session {
        Session {
            id: SessionId(1),
            node: NodeId(1),
            lease_ms: 60_000,
            opened_ms: 0,
            renewed_ms: renewed * 1000,
            oldest_pin_ms: pinned.map(|pinned| pinned * 1000),
            closed_ms: None,
        }
    }

    #[test]
    fn what_was_committed_is_free_when_the_horizon_has_passed_since() {
        let mut horizon = Horizon::new(at(1000));
        assert_eq!(horizon.through(at(5000), HORIZON), None);
        for second in 0..2000 {
            horizon.note(second, at(1000 + second), HORIZON);
            if let Some(through) = horizon.through(at(1000 + second), HORIZON) {
                assert!(through + 600 <= second && second <= through + 605);
            } else {
                assert!(second < 605);
            }
        }
        assert!(horizon.marks.len() <= limits::RELEASE_MARKS_MAX as usize + 1);
        assert_eq!(horizon.through(at(9000), HORIZON), horizon.through(at(90_000), HORIZON));
    }

    #[test]
    fn what_a_pinned_read_may_want_stays_whatever_its_clock_says() {
        for clock in [0, 500_000] {
            let mut horizon = Horizon::new(at(1000));
            // It was renewed before anybody looked: who knows when.
            horizon.look(&[session(clock + 900, Some(clock + 500))], at(1001));
            horizon.note(1, at(1001), HORIZON);
            assert_eq!(horizon.through(at(1700), HORIZON), None);
            // A read that began at 900, and one commit before, one after.
            let mut horizon = Horizon::new(at(800));
            horizon.note(1, at(800), HORIZON);
            horizon.note(2, at(950), HORIZON);
            horizon.look(&[session(clock + 1000, Some(clock + 900))], at(995));
            horizon.look(&[session(clock + 1001, Some(clock + 900))], at(1001));
            assert_eq!(horizon.through(at(1399), HORIZON), None);
            assert_eq!(horizon.through(at(1700), HORIZON), Some(1));
            horizon.look(&[session(clock + 1800, None)], at(1800));
            assert_eq!(horizon.through(at(1800), HORIZON), Some(2));
        }
    }

    #[test]
    fn a_session_is_silent_after_two_leases_by_the_clock_of_who_looks() {
        let mut horizon = Horizon::new(at(0));
        for clock in [0, 500_000] {
            let renewed = [session(clock + 1, None)];
            horizon.look(&renewed, at(clock + 10));
            horizon.look(&renewed, at(clock + 100));
            assert_eq!(horizon.silent(&renewed, at(clock + 129)), []);
            assert_eq!(horizon.silent(&renewed, at(clock + 130)), [SessionId(1)]);
        }
    }
}
