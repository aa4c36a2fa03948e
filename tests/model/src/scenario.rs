//! Scenarios: the size of the placement group and the remaps that may happen in it.

use crate::rules::Rule;

/// A set of drives, slots or epochs, one bit each.
pub type Mask = u8;

/// Drives of the largest scenario.
pub const DRIVES_MAX: usize = 6;

/// Blocks of the largest scenario.
pub const BLOCKS_MAX: usize = 2;

/// What must be true before a remap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The sleepy drive sleeps (the slot moves away from it).
    SleeperAsleep,
    /// The sleepy drive was asleep and is back (the slot may move back to it).
    SleeperBack,
    /// Any time: an administrator drains a drive, or the balancer moves a slot.
    Any,
}

/// One remap: its epoch is one more than that of the step before it.
#[derive(Clone, Copy, Debug)]
pub struct Remap {
    /// The slot that moves.
    pub slot: u8,
    /// The drive it moves to.
    pub to: u8,
    /// What must be true before.
    pub when: When,
}

/// A placement group, its blocks, and what may happen to it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Shown in reports.
    pub name: &'static str,
    /// Shards that suffice to rebuild.
    pub k: u8,
    /// Slots; at epoch 1 slot i is drive i.
    pub n: u8,
    /// Acknowledgements that commit a write.
    pub q: u8,
    /// Drives: the slots' first ones and the spares.
    pub drives: u8,
    /// Blocks of one writer's session.
    pub blocks: u8,
    /// The one drive that may fall asleep (once) and wake.
    pub sleeper: u8,
    /// The remaps, in the order in which root may make them; it may stop after any.
    pub remaps: &'static [Remap],
    /// Repair workers that may die in the middle of their work.
    pub deaths_max: u8,
    /// Whether blocks are deleted and collected.
    pub deletes: bool,
    /// Start in the middle of the first remap rather than at the beginning: see
    /// [`State::starts`](crate::State::starts).
    pub warm: bool,
    /// Two slots that are treated alike (never remapped, never asleep), if symmetry is used.
    pub alike: Option<(u8, u8)>,
}

const AWAY: Remap = Remap { slot: 0, to: 3, when: When::SleeperAsleep };
const BACK: Remap = Remap { slot: 0, to: 0, when: When::SleeperBack };

impl Scenario {
    /// Configuration 1: one block, k = 1, three slots. The slot of a sleeping drive moves to a spare
    /// and, when the drive wakes, back to it; also in the middle of the refill.
    pub fn one_block() -> Scenario {
        Scenario {
            name: "1: one block, k=1, n=3, q=2",
            k: 1,
            n: 3,
            q: 2,
            drives: 4,
            blocks: 1,
            sleeper: 0,
            remaps: &[AWAY, BACK],
            deaths_max: 1,
            deletes: true,
            warm: false,
            alike: Some((1, 2)),
        }
    }

    /// Configuration 2: two blocks of one session, k = 2, four slots. Slot 0 moves away from the
    /// sleeping drive and back, also during the refill; then slot 1 moves to another spare.
    pub fn two_blocks() -> Scenario {
        Scenario {
            name: "2: two blocks, k=2, n=4, q=3",
            k: 2,
            n: 4,
            q: 3,
            drives: 6,
            blocks: 2,
            sleeper: 0,
            remaps: &[
                Remap { slot: 0, to: 4, when: When::SleeperAsleep },
                Remap { slot: 0, to: 0, when: When::SleeperBack },
                Remap { slot: 1, to: 5, when: When::Any },
            ],
            deaths_max: 1,
            deletes: true,
            warm: false,
            alike: Some((2, 3)),
        }
    }

    /// Configuration 2 with one block only.
    pub fn two_blocks_single() -> Scenario {
        Scenario { name: "2a: one block, k=2, n=4, q=3", blocks: 1, ..Scenario::two_blocks() }
    }

    /// Two slots moved one after the other, no deletes: what the clause on the quorum's slack is for.
    pub fn two_slots() -> Scenario {
        Scenario {
            name: "3: one block, k=2, n=4, q=3, slots 0 and 1",
            blocks: 1,
            remaps: &[
                Remap { slot: 0, to: 4, when: When::SleeperAsleep },
                Remap { slot: 1, to: 5, when: When::Any },
            ],
            deaths_max: 0,
            deletes: false,
            ..Scenario::two_blocks()
        }
    }

    /// A slot moves while another slot's drive may sleep: what the clauses on sleeping survivors
    /// are for.
    pub fn sleeping_survivor() -> Scenario {
        Scenario {
            name: "4: one block, k=2, n=4, q=3, a survivor sleeps",
            blocks: 1,
            remaps: &[Remap { slot: 1, to: 5, when: When::Any }],
            deaths_max: 0,
            deletes: false,
            ..Scenario::two_blocks()
        }
    }

    /// The smallest scenario that shows what a needed rule prevents.
    pub fn showing(rule: Rule) -> Scenario {
        match rule {
            Rule::RemapWithinSlack => Scenario::two_slots(),
            Rule::SleeperIsListed => Scenario::sleeping_survivor(),
            _ => Scenario::one_block(),
        }
    }

    /// The same from a warm start, so that a bounded search reaches what lies behind the first
    /// write, the sleep and the remap.
    pub fn warm(self) -> Scenario {
        Scenario { warm: true, ..self }
    }

    /// The same without using that some slots are alike.
    pub fn without_symmetry(self) -> Scenario {
        Scenario { alike: None, ..self }
    }

    /// The drive of a slot under an epoch (epochs count from 1).
    pub fn drive(&self, epoch: u8, slot: u8) -> u8 {
        let made = usize::from(epoch.saturating_sub(1));
        self.remaps
            .iter()
            .take(made)
            .rev()
            .find(|remap| remap.slot == slot)
            .map_or(slot, |remap| remap.to)
    }

    /// All drives mapped under an epoch.
    pub fn mapped(&self, epoch: u8) -> Mask {
        (0..self.n).fold(0, |mask, slot| mask | 1 << self.drive(epoch, slot))
    }

    /// The remap that made this epoch; `None` for the first.
    pub fn remap_of(&self, epoch: u8) -> Option<Remap> {
        self.remaps.get(usize::from(epoch).checked_sub(2)?).copied()
    }
}

/// Whether `mask` has this bit.
pub fn has(mask: Mask, index: u8) -> bool {
    mask >> index & 1 == 1
}

/// The set bits of `mask`, ascending.
pub fn bits(mask: Mask) -> impl Iterator<Item = u8> {
    (0..8).filter(move |index| has(mask, *index))
}
