//! What everyone knows. Kept small, because millions of these are compared: sets are bit masks, and
//! what no one will look at again is cleared.
//!
//! ```text
//!  root   Clean ──remap──▶ Listing ──decide──▶ Filling ──finish──▶ Clean
//!                             ▲  └──worker dies: next session──┘ │
//!                             └───────remap of the same slot─────┘
//!  block  Open ──commit──▶ Committed ──delete──▶ Deleted ──all mapped drives acked──▶ Erased
//! ```

use crate::Protocol;
use crate::actions::{self, Action};
use crate::scenario::{BLOCKS_MAX, DRIVES_MAX, Mask, Scenario, bits, has};
use crate::step;

/// Where root and the repair worker of the current session are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// No remap is open.
    Clean,
    /// The worker fences and lists the survivors.
    Listing,
    /// The worker decided what to rebuild and sent it to the target.
    Filling,
}

/// What metadata says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    /// Not committed (yet).
    Open,
    /// Committed; acknowledged to the client.
    Committed,
    /// Deleted; its tombstones are on their way.
    Deleted,
    /// Every mapped drive acknowledged its tombstone; the outbox record is gone.
    Erased,
}

/// One block: what writer, metadata, drives and the network hold of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Metadata's word.
    pub life: Life,
    /// The slots without acknowledgement that the commit handed to repair.
    pub missing: Mask,
    /// The epoch the writer puts under; once committed, the epoch of the commit.
    pub epoch: u8,
    /// The epochs under which it ever sent puts, to every slot.
    pub sent: Mask,
    /// The slots that acknowledged `epoch`.
    pub acked: Mask,
    /// The slots that acknowledged any epoch (all that counts without R3).
    pub acked_any: Mask,
    /// The drives that hold the shard of their slot.
    pub shards: Mask,
    /// The epoch each of these shards is stamped with.
    pub stamp: [u8; DRIVES_MAX],
    /// The drives that hold a tombstone.
    pub tombs: Mask,
    /// The drives whose tombstone the collector saw.
    pub tomb_acks: Mask,
    /// The survivors that listed it to the current worker.
    pub found: u8,
    /// The repair sessions that sent a rebuilt shard to their target.
    pub fills: Mask,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// Root's epoch of the placement group.
    pub epoch: u8,
    /// Root's word on the current remap.
    pub phase: Phase,
    /// The current repair session.
    pub session: u8,
    /// The epoch of each repair session there was.
    pub session_epoch: [u8; 8],
    /// Workers that died.
    pub deaths: u8,
    /// The survivors the current worker listed.
    pub listed: Mask,
    /// The epoch each drive knows, durably.
    pub drive_epoch: [u8; DRIVES_MAX],
    /// The least repair session each drive still takes writes from, durably.
    pub fill_floor: [u8; DRIVES_MAX],
    /// The drives with the writer's session floor.
    pub floor: Mask,
    /// The sleeper sleeps.
    pub asleep: bool,
    /// The sleeper has slept (it does so once).
    pub slept: bool,
    /// The writer's session is open: it may still commit.
    pub writing: bool,
    /// The blocks.
    pub blocks: Vec<Block>,
}

impl State {
    /// Where a check begins: the initial state; or, for a warm scenario, every state in which the
    /// first block was acknowledged by some quorum, every other block reached any set of drives, the
    /// sleeper fell asleep and the first remap has just begun. Each is made by steps from the initial
    /// state, so nothing is checked that could not happen.
    pub fn starts(protocol: &Protocol) -> Vec<State> {
        let scenario = &protocol.scenario;
        let initial = State::initial(scenario);
        if !scenario.warm {
            return vec![initial.canonical(scenario)];
        }
        let sets = 1u32 << scenario.n;
        let others = u32::from(scenario.blocks) - 1;
        let mut starts = Vec::new();
        for choice in 0..sets.pow(others + 1) {
            let set_of = |block: u8| (choice / sets.pow(u32::from(block)) % sets) as Mask;
            if set_of(0).count_ones() < u32::from(scenario.q) {
                continue;
            }
            let puts = (0..scenario.blocks).flat_map(|block| {
                bits(set_of(block)).map(move |slot| Action::Put { block, slot, epoch: 1 })
            });
            let then = [Action::Commit { block: 0 }, Action::Sleep, Action::Remap];
            let mut state = initial.clone();
            for action in puts.chain(then) {
                let mut enabled = Vec::new();
                actions::enabled(protocol, &state, &mut enabled);
                assert!(enabled.contains(&action), "a warm start must be reachable: {action:?}");
                step::apply(protocol, &mut state, action);
            }
            starts.push(state.canonical(scenario));
        }
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// The placement group is new, and the first puts of every block are under way.
    pub fn initial(scenario: &Scenario) -> State {
        let block = Block {
            life: Life::Open,
            missing: 0,
            epoch: 1,
            sent: 1 << 1,
            acked: 0,
            acked_any: 0,
            shards: 0,
            stamp: [0; DRIVES_MAX],
            tombs: 0,
            tomb_acks: 0,
            found: 0,
            fills: 0,
        };
        assert!(usize::from(scenario.blocks) <= BLOCKS_MAX, "more blocks than bounded for");
        State {
            epoch: 1,
            phase: Phase::Clean,
            session: 0,
            session_epoch: [0; 8],
            deaths: 0,
            listed: 0,
            drive_epoch: [1; DRIVES_MAX],
            fill_floor: [0; DRIVES_MAX],
            floor: 0,
            asleep: false,
            slept: false,
            writing: true,
            blocks: vec![block; usize::from(scenario.blocks)],
        }
    }

    /// Whether this drive is awake.
    pub fn is_up(&self, scenario: &Scenario, drive: u8) -> bool {
        drive != scenario.sleeper || !self.asleep
    }

    /// The drive that the current remap fills; `None` before the first.
    pub fn target(&self, scenario: &Scenario) -> Option<u8> {
        Some(scenario.remap_of(self.epoch)?.to)
    }

    /// The drives of the slots that the current remap does not touch.
    pub fn survivors(&self, scenario: &Scenario) -> Mask {
        let moved = scenario.remap_of(self.epoch).map(|remap| remap.slot);
        (0..scenario.n)
            .filter(|slot| Some(*slot) != moved)
            .fold(0, |mask, slot| mask | 1 << scenario.drive(self.epoch, slot))
    }

    /// Mapped drives that hold this block's shard.
    pub fn present(&self, scenario: &Scenario, block: &Block) -> Mask {
        block.shards & scenario.mapped(self.epoch)
    }

    /// The least of the states that differ from this one only in the names of blocks and of slots
    /// that are alike: they behave alike, so one of them is enough.
    pub fn canonical(mut self, scenario: &Scenario) -> State {
        let Some((a, b)) = scenario.alike else { return self };
        let mut renamed = self.renamed(a, b);
        self.blocks.sort_unstable();
        renamed.blocks.sort_unstable();
        self.min(renamed)
    }

    /// This state with two slots (and their drives: these slots never move) exchanged.
    fn renamed(&self, a: u8, b: u8) -> State {
        let swap = |mask: Mask| {
            let differ = has(mask, a) != has(mask, b);
            if differ { mask ^ (1 << a | 1 << b) } else { mask }
        };
        let (i, j) = (usize::from(a), usize::from(b));
        let mut other = self.clone();
        other.listed = swap(self.listed);
        other.floor = swap(self.floor);
        other.drive_epoch.swap(i, j);
        other.fill_floor.swap(i, j);
        for block in &mut other.blocks {
            for mask in [
                &mut block.missing,
                &mut block.acked,
                &mut block.acked_any,
                &mut block.shards,
                &mut block.tombs,
                &mut block.tomb_acks,
            ] {
                *mask = swap(*mask);
            }
            block.stamp.swap(i, j);
        }
        other
    }
}
