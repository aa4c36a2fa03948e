//! What must hold in every state, and what must be reachable so that the check means something.

use stateright::Property;

use crate::Protocol;
use crate::actions::stuck;
use crate::scenario::{Mask, has};
use crate::state::{Life, Phase, State};

/// I1, I2: an acknowledged block can be rebuilt, whatever repair is doing.
pub const READABLE: &str = "I1, I2: an acknowledged block has k shards on mapped drives";
/// I2: when root says clean, nothing is missing that repair does not know of.
pub const COMPLETE: &str =
    "I2: clean: every slot of an acknowledged block has its shard or a repair record";
/// I9: nothing brings an erased block back.
pub const STAYS_DELETED: &str = "I9: clean: no mapped drive holds an erased block";
/// I1: repair always finds enough of what was acknowledged before it began to decide.
pub const REBUILDABLE: &str = "I1: all survivors listed: every acknowledged block can be rebuilt";
/// I9: a tombstone and the shard exclude each other.
pub const TOMB_EXCLUDES: &str = "I9: no drive holds a shard beside its tombstone";

/// All properties; those beginning with "reachable" are wanted, the others must always hold.
pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(READABLE, readable),
        Property::always(COMPLETE, complete),
        Property::always(STAYS_DELETED, stays_deleted),
        Property::always(REBUILDABLE, |protocol, state: &State| {
            let survivors = state.survivors(&protocol.scenario);
            state.phase != Phase::Listing || state.listed != survivors || !stuck(protocol, state)
        }),
        Property::always(TOMB_EXCLUDES, |_, state: &State| {
            state.blocks.iter().all(|block| block.shards & block.tombs == 0)
        }),
        Property::sometimes("reachable: all remaps done, every block acknowledged", all_done),
        Property::sometimes(
            "reachable: a second worker filled a slot",
            |protocol, state: &State| {
                protocol.scenario.deaths_max == 0 || (state.deaths > 0 && all_done(protocol, state))
            },
        ),
        Property::sometimes("reachable: a tombstone was dropped", |protocol, state: &State| {
            !protocol.scenario.deletes || state.floor != 0
        }),
    ]
}

fn readable(protocol: &Protocol, state: &State) -> bool {
    state.blocks.iter().filter(|block| block.life == Life::Committed).all(|block| {
        state.present(&protocol.scenario, block).count_ones() >= u32::from(protocol.scenario.k)
    })
}

fn complete(protocol: &Protocol, state: &State) -> bool {
    let scenario = &protocol.scenario;
    state.phase != Phase::Clean
        || state.blocks.iter().filter(|block| block.life == Life::Committed).all(|block| {
            (0..scenario.n).all(|slot| {
                let drive = scenario.drive(state.epoch, slot);
                has(block.shards, drive) || has(block.missing, slot)
            })
        })
}

fn stays_deleted(protocol: &Protocol, state: &State) -> bool {
    let mapped: Mask = protocol.scenario.mapped(state.epoch);
    state.phase != Phase::Clean
        || state
            .blocks
            .iter()
            .filter(|block| block.life == Life::Erased)
            .all(|block| block.shards & mapped == 0)
}

fn all_done(protocol: &Protocol, state: &State) -> bool {
    let last = protocol.scenario.remaps.len() as u8 + 1;
    state.epoch == last
        && state.phase == Phase::Clean
        && state.blocks.iter().all(|block| block.life == Life::Committed)
}
