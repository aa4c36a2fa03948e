//! What must always hold, by name: one list for the product, the simulation, `fsck` and the model.
//!
//! ```text
//!   code that relies on it ──check──▶ counted; broken: counted, logged once, kept for whoever asks
//! ```
//!
//! A broken invariant is a bug, or a disk that lost what it had acknowledged: the product says so
//! (metrics, `status`, the log) and goes on, because stopping would take good data away as well. In simulation it fails the run. A simulated
//! world also *remembers* beyond the lives of its agents ([`Invariants::once`] and its like), which
//! the product cannot afford to.
//!
//! State: counters; the first breach of each kind; in simulation, what the world remembers.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Something that must always hold. Docs, metrics, `fsck` and tests use these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// What was acknowledged is on a quorum of failure domains.
    I1,
    /// No hole is unknown to repair.
    I2,
    /// A block id names one content.
    I3,
    /// A closed session commits nothing.
    I4,
    /// A drive's epochs only grow.
    I5,
    /// Rows and applied index move together.
    I6,
    /// Reference counts are true.
    I7,
    /// Usage counters are true.
    I8,
    /// What was erased stays away.
    I9,
    /// Nothing is deleted on the sly.
    I10,
    /// Slots are apart.
    I11,
    /// Reads are fresh.
    I12,
    /// Directories are a tree.
    I13,
    /// A nonce is used once.
    I14,
    /// Raft ids are used once.
    I15,
    /// Keys stay secret.
    I16,
}

impl Invariant {
    /// All of them, in order.
    pub const ALL: [Invariant; 16] = [
        Invariant::I1,
        Invariant::I2,
        Invariant::I3,
        Invariant::I4,
        Invariant::I5,
        Invariant::I6,
        Invariant::I7,
        Invariant::I8,
        Invariant::I9,
        Invariant::I10,
        Invariant::I11,
        Invariant::I12,
        Invariant::I13,
        Invariant::I14,
        Invariant::I15,
        Invariant::I16,
    ];

    /// `I1` to `I16`.
    pub const fn name(self) -> &'static str {
        match self {
            Invariant::I1 => "I1",
            Invariant::I2 => "I2",
            Invariant::I3 => "I3",
            Invariant::I4 => "I4",
            Invariant::I5 => "I5",
            Invariant::I6 => "I6",
            Invariant::I7 => "I7",
            Invariant::I8 => "I8",
            Invariant::I9 => "I9",
            Invariant::I10 => "I10",
            Invariant::I11 => "I11",
            Invariant::I12 => "I12",
            Invariant::I13 => "I13",
            Invariant::I14 => "I14",
            Invariant::I15 => "I15",
            Invariant::I16 => "I16",
        }
    }

    /// What it says, in one sentence.
    pub const fn statement(self) -> &'static str {
        match self {
            Invariant::I1 => {
                "a block is committed only after a quorum of its drives, on different hosts, \
                 acknowledged it under one epoch"
            }
            Invariant::I2 => {
                "each slot of a live block has its shard, or repair knows that it is missing"
            }
            Invariant::I3 => "one block id never stands for two different contents",
            Invariant::I4 => "a writer's session that is closed commits nothing any more",
            Invariant::I5 => "the epoch that a drive knows of a placement group never falls",
            Invariant::I6 => "a replica applies each entry once, its rows and its index together",
            Invariant::I7 => "a content's reference count is the number of rows that refer to it",
            Invariant::I8 => "a bucket's usage is the sum over what it holds",
            Invariant::I9 => {
                "a block whose tombstone is erased is on no drive of its placement group, and none \
                 takes it"
            }
            Invariant::I10 => {
                "bytes are freed only by way of the outbox or the trash, and only when unreferred"
            }
            Invariant::I11 => {
                "slots of a placement group are on different drives and, while hosts suffice, hosts"
            }
            Invariant::I12 => {
                "a read is served from a state that covers all that was committed when it was asked"
            }
            Invariant::I13 => "a directory counts its children, and none is its own ancestor",
            Invariant::I14 => "no two plaintexts are sealed under one key and nonce",
            Invariant::I15 => "a Raft id belongs to one log, for ever",
            Invariant::I16 => "no key material is printed or logged",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often one invariant was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Which.
    pub invariant: Invariant,
    /// Checks made.
    pub checked: u64,
    /// Checks that failed.
    pub broken: u64,
}

/// What a simulated world remembers of all its agents, dead ones included.
#[derive(Default)]
pub(crate) struct Memory {
    seen: BTreeSet<(Invariant, Vec<u8>)>,
    floors: BTreeMap<(Invariant, Vec<u8>), u64>,
}

/// The registry of one agent. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Invariants {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    checked: [AtomicU64; 16],
    broken: [AtomicU64; 16],
    first: Mutex<BTreeMap<Invariant, String>>,
    memory: Option<Arc<Mutex<Memory>>>,
}

impl fmt::Debug for Invariants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.broken()).finish()
    }
}

impl Invariants {
    /// One that shares what a simulated world remembers.
    pub(crate) fn remembering(memory: Arc<Mutex<Memory>>) -> Invariants {
        let shared = Shared { memory: Some(memory), ..Shared::default() };
        Invariants { shared: Arc::new(shared) }
    }

    /// Counts a check; if it does not hold, says so once per invariant, with `detail`. Gives `holds`.
    pub fn check(
        &self,
        invariant: Invariant,
        holds: bool,
        detail: impl FnOnce() -> String,
    ) -> bool {
        let count = |all: &[AtomicU64; 16]| {
            if let Some(count) = all.get(invariant.index()) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        count(&self.shared.checked);
        if !holds {
            count(&self.shared.broken);
            let mut first = self.shared.first.lock();
            if let Entry::Vacant(place) = first.entry(invariant) {
                let detail = detail();
                tracing::error!(
                    invariant = invariant.name(),
                    statement = invariant.statement(),
                    %detail,
                    "an invariant is broken"
                );
                place.insert(detail);
            }
        }
        holds
    }

    /// Enters checks made elsewhere, such as in a state machine, which is pure.
    pub fn enter(&self, checks: Checks) {
        for (count, made) in self.shared.checked.iter().zip(checks.held) {
            if made > 0 {
                count.fetch_add(u64::from(made), Ordering::Relaxed);
            }
        }
        for (invariant, detail) in checks.broken {
            self.check(invariant, false, || detail);
        }
    }

    /// `key` must not have been seen under this invariant. Only a simulated world remembers; the
    /// product counts.
    pub fn once(&self, invariant: Invariant, key: &[u8]) {
        let is_new = self.remember(invariant, key);
        self.check(invariant, is_new, || format!("{key:02x?} twice"));
    }

    /// Remembers `key`, in simulation; gives whether it was new.
    pub fn remember(&self, invariant: Invariant, key: &[u8]) -> bool {
        let Some(memory) = &self.shared.memory else { return true };
        memory.lock().seen.insert((invariant, key.to_vec()))
    }

    /// Whether `key` was remembered; never in the product.
    pub fn remembers(&self, invariant: Invariant, key: &[u8]) -> bool {
        let Some(memory) = &self.shared.memory else { return false };
        memory.lock().seen.contains(&(invariant, key.to_vec()))
    }

    /// In simulation: `value` was acknowledged, and must not be undercut.
    pub fn raise(&self, invariant: Invariant, key: &[u8], value: u64) {
        if let Some(memory) = &self.shared.memory {
            let mut memory = memory.lock();
            let floor = memory.floors.entry((invariant, key.to_vec())).or_default();
            *floor = (*floor).max(value);
        }
    }

    /// `value` must not be below what was acknowledged; the product, which does not remember, counts.
    pub fn not_below(&self, invariant: Invariant, key: &[u8], value: u64) {
        let floor = self
            .shared
            .memory
            .as_ref()
            .and_then(|memory| memory.lock().floors.get(&(invariant, key.to_vec())).copied());
        let floor = floor.unwrap_or(0);
        self.check(invariant, value >= floor, || format!("{value} after {floor}, {key:02x?}"));
    }

    /// How often each was checked.
    pub fn tallies(&self) -> Vec<Tally> {
        let read = |all: &[AtomicU64; 16], invariant: Invariant| {
            all.get(invariant.index()).map_or(0, |count| count.load(Ordering::Relaxed))
        };
        let tally = |invariant| Tally {
            invariant,
            checked: read(&self.shared.checked, invariant),
            broken: read(&self.shared.broken, invariant),
        };
        Invariant::ALL.into_iter().map(tally).collect()
    }

    /// The first breach of each that was broken.
    pub fn broken(&self) -> Vec<(Invariant, String)> {
        let first = self.shared.first.lock();
        first.iter().map(|(invariant, detail)| (*invariant, detail.clone())).collect()
    }
}

/// Checks made where no registry is at hand: a pure function gives them back with its result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    held: [u32; 16],
    broken: Vec<(Invariant, String)>,
}

impl Checks {
    /// As [`Invariants::check`].
    pub fn check(
        &mut self,
        invariant: Invariant,
        holds: bool,
        detail: impl FnOnce() -> String,
    ) -> bool {
        if !holds {
            self.broken.push((invariant, detail()));
        } else if let Some(held) = self.held.get_mut(invariant.index()) {
            *held = held.saturating_add(1);
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_is_counted_and_kept_once() {
        let product = Invariants::default();
        assert!(product.check(Invariant::I5, true, || unreachable!()));
        assert!(!product.check(Invariant::I5, false, || "first".to_owned()));
        assert!(!product.clone().check(Invariant::I5, false, || "second".to_owned()));
        let mut checks = Checks::default();
        checks.check(Invariant::I7, true, || unreachable!());
        checks.check(Invariant::I8, false, || "off by one".to_owned());
        product.enter(checks);
        let broken =
            [(Invariant::I5, "first".to_owned()), (Invariant::I8, "off by one".to_owned())];
        assert_eq!(product.broken(), broken);
        let of = |name| product.tallies().into_iter().find(|tally| tally.invariant.name() == name);
        let tally = |invariant, checked, broken| Some(Tally { invariant, checked, broken });
        assert_eq!(of("I5"), tally(Invariant::I5, 3, 2));
        assert_eq!(of("I7"), tally(Invariant::I7, 1, 0));
        assert_eq!(of("I8"), tally(Invariant::I8, 1, 1));
        // Only a world remembers.
        product.once(Invariant::I14, b"a");
        product.once(Invariant::I14, b"a");
        assert_eq!(of("I14"), tally(Invariant::I14, 2, 0));
    }

    #[test]
    fn a_world_remembers_over_the_lives_of_its_agents() {
        let memory = Arc::new(Mutex::new(Memory::default()));
        let life = || Invariants::remembering(Arc::clone(&memory));
        let (before, after) = (life(), life());
        before.once(Invariant::I14, b"a");
        before.raise(Invariant::I5, b"d", 7);
        after.not_below(Invariant::I5, b"d", 7);
        assert!(after.broken().is_empty() && after.remembers(Invariant::I14, b"a"));
        after.not_below(Invariant::I5, b"d", 6);
        after.once(Invariant::I14, b"a");
        let broken: Vec<_> = after.broken().into_iter().map(|(invariant, _)| invariant).collect();
        assert_eq!(broken, [Invariant::I5, Invariant::I14]);
    }

    #[test]
    fn names_and_order_agree() {
        for (at, invariant) in Invariant::ALL.into_iter().enumerate() {
            assert_eq!(
                (invariant.index(), invariant.name()),
                (at, format!("I{}", at + 1).as_str())
            );
        }
    }
}
