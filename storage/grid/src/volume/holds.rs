//! Which nodes a mount holds, and gives back late: a file that is opened again soon is held still, and many are given
//! back by one command.
//!
//! ```text
//!   hold ──▶ open ──release──▶ lingers ──[LINGER, or too many]──▶ given back, in lots
//!             ▲                 │ │
//!             └──── hold ───────┘ └── its name is removed by this mount: given back with that
//! ```
//! A node that lingers is held like one that is open: its bytes stay, at most [`limits::LINGER`] longer than anybody has
//! it open. What a process before had left lingering is found when its daemon says what is open
//! ([`super::Volume::opens`]).
//!
//! State: in memory; bound [`limits::LINGERING_MAX`] beside what is open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use nexusgrid_codec::SessionId;
use nexusgrid_env::BootInstant;
use nexusgrid_meta::namespace::types::{Ino, PosixOp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lease::Lease;
use crate::core::Core;
use crate::limits;

#[derive(Default)]
struct Table {
    /// Somebody has these open.
    open: BTreeSet<Ino>,
    /// A daemon before had these open; the one of now has not said yet whether it has.
    before: BTreeSet<Ino>,
    /// Nobody has these open any more, since when.
    lingering: BTreeMap<Ino, BootInstant>,
    /// These are being given back.
    leaving: BTreeSet<Ino>,
    /// How often all was lost: what is of a time before says nothing of now.
    lives: u64,
}

/// What a mount holds.
#[derive(Default)]
pub(super) struct Holds {
    table: Mutex<Table>,
    /// Some have been given back, or could not be.
    left: Notify,
    /// Too many linger.
    crowded: Notify,
}

/// Nodes that are being given back; dropped, they linger on.
pub(super) struct Leaving<'a> {
    holds: &'a Holds,
    inos: Vec<Ino>,
    since: BootInstant,
    life: u64,
}

impl Leaving<'_> {
    pub(super) fn ops(&self) -> impl Iterator<Item = PosixOp> + '_ {
        self.inos.iter().map(|ino| PosixOp::Release { ino: *ino })
    }

    /// They are held no more.
    pub(super) fn done(mut self) {
        let inos = std::mem::take(&mut self.inos);
        let mut table = self.holds.table.lock();
        table.leaving.retain(|ino| !inos.contains(ino));
        drop(table);
        self.holds.left.notify_waiters();
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut table = self.holds.table.lock();
        let is_of_now = table.lives == self.life;
        for ino in std::mem::take(&mut self.inos) {
            table.leaving.remove(&ino);
            if is_of_now {
                table.lingering.insert(ino, self.since);
            }
        }
        drop(table);
        self.holds.left.notify_waiters();
    }
}

impl Holds {
    /// Somebody opens a node; gives whether it is held already. If not, the caller has it held, or says
    /// [`Holds::not_held`].
    pub(super) async fn open(&self, ino: Ino) -> bool {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            {
                let mut table = self.table.lock();
                if !table.leaving.contains(&ino) {
                    let is_held = table.lingering.remove(&ino).is_some();
                    let is_held = table.before.remove(&ino) || is_held;
                    table.open.insert(ino);
                    return is_held;
                }
            }
            left.await;
        }
    }

    /// A node was made, and held from the beginning.
    pub(super) fn made(&self, ino: Ino) {
        let mut table = self.table.lock();
        table.lingering.remove(&ino);
        table.before.remove(&ino);
        table.open.insert(ino);
    }

    /// It could not be held.
    pub(super) fn not_held(&self, ino: Ino) {
        self.table.lock().open.remove(&ino);
    }

    /// Nobody has it open any more.
    pub(super) fn close(&self, ino: Ino, now: BootInstant) {
        let mut table = self.table.lock();
        let was_open = table.open.remove(&ino);
        if !table.before.remove(&ino) && !was_open {
            return;
        }
        table.lingering.insert(ino, now);
        if table.lingering.len() > limits::LINGERING_MAX {
            self.crowded.notify_one();
        }
    }

    /// Another mount began: nothing is held any more.
    pub(super) fn clear(&self) {
        let mut table = self.table.lock();
        let lives = table.lives + 1;
        let leaving = std::mem::take(&mut table.leaving);
        *table = Table { lives, leaving, ..Table::default() };
    }

    /// Which time it is, for [`Holds::sort`].
    pub(super) fn life(&self) -> u64 {
        self.table.lock().lives
    }

    /// Another daemon comes, or the same again: it will say what it has open.
    pub(super) fn begin_anew(&self) {
        let mut table = self.table.lock();
        let mut open = std::mem::take(&mut table.open);
        table.before.append(&mut open);
    }

    /// Its daemon has these open; of all that is held, as it was listed in a time, the rest lingers.
    pub(super) fn sort(&self, life: u64, open: &[Ino], held: Vec<Ino>, now: BootInstant) {
        let mut table = self.table.lock();
        if table.lives != life {
            return;
        }
        for ino in open {
            table.lingering.remove(ino);
        }
        table.open.extend(open);
        let before = std::mem::take(&mut table.before);
        for ino in held.into_iter().chain(before) {
            let is_known = table.open.contains(&ino) || table.leaving.contains(&ino);
            if !is_known {
                table.lingering.entry(ino).or_insert(now);
            }
        }
    }

    /// One that lingers, to be given back now.
    pub(super) fn leave(&self, ino: Ino) -> Option<Leaving<'_>> {
        let mut table = self.table.lock();
        let since = table.lingering.remove(&ino)?;
        table.leaving.insert(ino);
        Some(Leaving { holds: self, inos: vec![ino], since, life: table.lives })
    }

    /// A lot of those that have lingered long enough, or are too many.
    fn leave_lot(&self, now: BootInstant) -> Option<Leaving<'_>> {
        let mut table = self.table.lock();
        let surplus = table.lingering.len().saturating_sub(limits::LINGERING_MAX);
        let mut order: Vec<(BootInstant, Ino)> =
            table.lingering.iter().map(|(ino, since)| (*since, *ino)).collect();
        order.sort_unstable();
        let is_due =
            |at: usize, since: BootInstant| at < surplus || now.since(since) >= limits::LINGER;
        let due: Vec<(BootInstant, Ino)> = order
            .into_iter()
            .enumerate()
            .filter(|(at, (since, _))| is_due(*at, *since))
            .map(|(_, one)| one)
            .take(limits::RELEASED_AT_ONCE)
            .collect();
        let (since, _) = *due.first()?;
        let inos: Vec<Ino> = due.into_iter().map(|(_, ino)| ino).collect();
        for ino in &inos {
            table.lingering.remove(ino);
            table.leaving.insert(*ino);
        }
        Some(Leaving { holds: self, inos, since, life: table.lives })
    }
}

/// Gives back what has lingered long enough, while someone has the lease.
pub(super) async fn follow(lease: Weak<Lease>, core: Arc<Core>) {
    loop {
        {
            let Some(lease) = lease.upgrade().filter(|lease| !lease.has_ended()) else { return };
            while let Some(leaving) = lease.holds().leave_lot(core.env.clock.now()) {
                let ops = leaving.ops().collect();
                match lease.run((SessionId(0), Vec::new()), ops, None).await {
                    Ok(_) => leaving.done(),
                    Err(error) => {
                        tracing::info!(%error, "files stay held");
                        break;
                    }
                }
            }
        }
        // Looked at in steps, so that a mount that has ended does not stay for long.
        let Some(live) = lease.upgrade() else { return };
        let crowded = live.holds().crowded.notified();
        tokio::select! {
            biased;
            () = crowded => {}
            () = core.env.clock.sleep(limits::LINGER_LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant(Duration::from_secs(seconds))
    }

    #[tokio::test]
    async fn what_is_opened_again_is_held_still_and_the_rest_goes_in_lots() {
        let holds = Holds::default();
        let linger = limits::LINGER.as_secs();
        for ino in 1..=3 {
            assert!(!holds.open(Ino(ino)).await, "for the first time");
            holds.close(Ino(ino), at(ino));
        }
        assert!(holds.open(Ino(2)).await, "it lingered");
        assert!(holds.leave_lot(at(linger)).is_none());
        let lot = holds.leave_lot(at(linger + 3)).unwrap();
        assert_eq!(lot.inos, [Ino(1), Ino(3)]);
        // Who opens one of them meanwhile waits until it is gone, and holds it anew.
        let opening = holds.open(Ino(3));
        tokio::pin!(opening);
        assert!(futures_util::poll!(opening.as_mut()).is_pending());
        lot.done();
        assert!(!opening.await);
        // What could not be given back lingers on.
        holds.close(Ino(3), at(20));
        drop(holds.leave(Ino(3)).unwrap());
        assert!(holds.leave(Ino(1)).is_none() && holds.leave(Ino(2)).is_none());
        assert!(holds.open(Ino(3)).await);
        // Of what is held, what nobody has open lingers.
        holds.begin_anew();
        assert!(holds.open(Ino(2)).await, "open before");
        holds.sort(0, &[Ino(5)], vec![Ino(2), Ino(3), Ino(5), Ino(7)], at(30));
        assert_eq!(holds.leave_lot(at(30 + linger)).unwrap().inos, [Ino(3), Ino(7)]);
        holds.not_held(Ino(5));
        assert!(!holds.open(Ino(5)).await);
        // All is lost: nothing of before counts, neither what is on its way.
        holds.close(Ino(2), at(40));
        let leaving = holds.leave(Ino(2)).unwrap();
        holds.clear();
        drop(leaving);
        holds.close(Ino(5), at(41));
        holds.sort(0, &[Ino(5)], vec![Ino(6)], at(42));
        assert!(holds.leave_lot(at(100)).is_none());
        assert!(!holds.open(Ino(2)).await && !holds.open(Ino(5)).await);
        // Made while it lingered, by a request that was repeated.
        holds.sort(1, &[], vec![Ino(9)], at(50));
        holds.made(Ino(9));
        assert!(holds.leave_lot(at(100)).is_none());
    }

    #[test]
    fn not_too_many_linger() {
        let holds = Holds::default();
        for ino in 0..limits::LINGERING_MAX as u64 + 2 {
            holds.made(Ino(ino));
            holds.close(Ino(ino), at(1));
        }
        assert_eq!(holds.leave_lot(at(1)).unwrap().inos, [Ino(0), Ino(1)]);
    }
}
