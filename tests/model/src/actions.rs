//! What may happen next: every choice that any participant or the network has.

use crate::Protocol;
use crate::rules::Rule;
use crate::scenario::{When, bits, has};
use crate::state::{Block, Life, Phase, State};

/// One step of one participant. Blocks, drives, slots, epochs and sessions by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what the variants' descriptions name")]
pub enum Action {
    /// A put of the writer reaches its drive and is acknowledged.
    Put { block: u8, slot: u8, epoch: u8 },
    /// The writer learns the current epoch and puts again to every slot.
    Learn { block: u8 },
    /// Metadata commits.
    Commit { block: u8 },
    /// The writer's session ends: nothing of it can be committed any more.
    EndSession,
    /// The sleepy drive falls asleep.
    Sleep,
    /// It wakes.
    Wake,
    /// A drive receives the current map.
    MapPush { drive: u8 },
    /// Root begins the next remap, with a new repair session.
    Remap,
    /// The worker opens its session at the target; the target refuses the earlier ones from now on.
    OpenSession,
    /// A survivor lists its blocks to the worker.
    List { drive: u8 },
    /// The worker asks metadata what lives, sends what is to be rebuilt and trashes leftovers.
    Decide,
    /// A rebuilt shard reaches its target.
    Fill { block: u8, session: u8 },
    /// The worker closes its session at the target, and root declares the placement group clean.
    Finish,
    /// The worker dies; root starts another with a new session.
    WorkerDies,
    /// A client deletes the block.
    Delete { block: u8 },
    /// A tombstone reaches a mapped drive and is acknowledged.
    Tomb { block: u8, drive: u8 },
    /// Every mapped drive acknowledged: the record in metadata goes.
    Erase { block: u8 },
    /// A drive drops a tombstone.
    DropTomb { block: u8, drive: u8 },
}

/// Whether a drive takes a put of the writer.
pub fn takes_put(protocol: &Protocol, state: &State, block: &Block, drive: u8, epoch: u8) -> bool {
    let known = state.drive_epoch[usize::from(drive)];
    state.is_up(&protocol.scenario, drive)
        && (epoch >= known || !protocol.rules.keep(Rule::DriveFence))
        && !has(block.tombs, drive)
        && !has(state.floor, drive)
}

/// Whether a drive takes a rebuilt shard.
pub fn takes_fill(
    protocol: &Protocol,
    state: &State,
    block: &Block,
    drive: u8,
    session: u8,
) -> bool {
    let known = state.drive_epoch[usize::from(drive)];
    let epoch = state.session_epoch[usize::from(session)];
    let open = session >= state.fill_floor[usize::from(drive)];
    state.is_up(&protocol.scenario, drive)
        && (epoch >= known || !protocol.rules.keep(Rule::DriveFence))
        && (open || !protocol.rules.keep(Rule::FillSession))
        && !has(block.tombs, drive)
}

/// The slots whose acknowledgements count for a commit.
pub fn counted(protocol: &Protocol, block: &Block) -> u8 {
    if protocol.rules.keep(Rule::OneEpochQuorum) { block.acked } else { block.acked_any }
}

/// Whether an acknowledgement of this slot and epoch tells the writer anything. Under R3 those of
/// earlier epochs than its own do not.
fn is_news(protocol: &Protocol, block: &Block, slot: u8, epoch: u8) -> bool {
    if epoch == block.epoch {
        !has(block.acked, slot)
    } else {
        !protocol.rules.keep(Rule::OneEpochQuorum) && !has(block.acked_any, slot)
    }
}

/// Collects the actions that are possible and change something.
pub fn enabled(protocol: &Protocol, state: &State, out: &mut Vec<Action>) {
    for (index, block) in (0u8..).zip(&state.blocks) {
        writer(protocol, state, index, block, out);
        deliveries(protocol, state, index, block, out);
        collector(protocol, state, index, block, out);
    }
    if state.writing {
        out.push(Action::EndSession);
    }
    drives(protocol, state, out);
    repair(protocol, state, out);
}

fn writer(protocol: &Protocol, state: &State, index: u8, block: &Block, out: &mut Vec<Action>) {
    if !state.writing || block.life != Life::Open {
        return;
    }
    if counted(protocol, block).count_ones() >= u32::from(protocol.scenario.q) {
        out.push(Action::Commit { block: index });
    }
    if block.epoch < state.epoch {
        out.push(Action::Learn { block: index });
    }
}

fn deliveries(protocol: &Protocol, state: &State, index: u8, block: &Block, out: &mut Vec<Action>) {
    let scenario = &protocol.scenario;
    for epoch in bits(block.sent) {
        for slot in 0..scenario.n {
            let drive = scenario.drive(epoch, slot);
            let stored = has(block.shards, drive) && block.stamp[usize::from(drive)] >= epoch;
            let listening = state.writing && block.life == Life::Open;
            let news = listening && is_news(protocol, block, slot, epoch);
            let changes = !stored || news;
            if changes && takes_put(protocol, state, block, drive, epoch) {
                out.push(Action::Put { block: index, slot, epoch });
            }
        }
    }
    for session in bits(block.fills) {
        let epoch = state.session_epoch[usize::from(session)];
        let Some(remap) = scenario.remap_of(epoch) else { continue };
        let stamp = block.stamp[usize::from(remap.to)];
        let changes = !has(block.shards, remap.to) || stamp < epoch;
        if changes && takes_fill(protocol, state, block, remap.to, session) {
            out.push(Action::Fill { block: index, session });
        }
    }
}

fn collector(protocol: &Protocol, state: &State, index: u8, block: &Block, out: &mut Vec<Action>) {
    let scenario = &protocol.scenario;
    let mapped = scenario.mapped(state.epoch);
    match block.life {
        Life::Open => {}
        Life::Committed if scenario.deletes => out.push(Action::Delete { block: index }),
        Life::Committed => {}
        Life::Deleted => {
            for drive in bits(mapped & !block.tomb_acks) {
                if state.is_up(scenario, drive) {
                    out.push(Action::Tomb { block: index, drive });
                }
            }
            if mapped & !block.tomb_acks == 0 {
                out.push(Action::Erase { block: index });
            }
        }
        Life::Erased => {
            let held = protocol.rules.keep(Rule::TombstoneHold) && state.phase != Phase::Clean;
            let floor_refused = protocol.rules.keep(Rule::SessionFloor) && state.writing;
            if held || floor_refused {
                return;
            }
            for drive in bits(block.tombs) {
                if state.is_up(scenario, drive) {
                    out.push(Action::DropTomb { block: index, drive });
                }
            }
        }
    }
}

fn drives(protocol: &Protocol, state: &State, out: &mut Vec<Action>) {
    let scenario = &protocol.scenario;
    if state.asleep {
        out.push(Action::Wake);
    } else if !state.slept {
        out.push(Action::Sleep);
    }
    for drive in bits(scenario.mapped(state.epoch)) {
        if state.drive_epoch[usize::from(drive)] < state.epoch && state.is_up(scenario, drive) {
            out.push(Action::MapPush { drive });
        }
    }
}

fn repair(protocol: &Protocol, state: &State, out: &mut Vec<Action>) {
    let scenario = &protocol.scenario;
    if let Some(next) = scenario.remap_of(state.epoch + 1) {
        let now = match next.when {
            When::SleeperAsleep => state.asleep,
            When::SleeperBack => state.slept && !state.asleep,
            When::Any => true,
        };
        // The quorum's slack q - k is one slot in every scenario: the slot in repair may move
        // again, another one may not.
        let same_slot = scenario.remap_of(state.epoch).is_some_and(|remap| remap.slot == next.slot);
        let within = state.phase == Phase::Clean
            || same_slot
            || !protocol.rules.keep(Rule::RemapWithinSlack);
        if now && within {
            out.push(Action::Remap);
        }
    }
    let Some(target) = state.target(scenario) else { return };
    match state.phase {
        Phase::Clean => return,
        Phase::Listing => listing(protocol, state, target, out),
        Phase::Filling => {
            let answered = state.blocks.iter().all(|block| {
                let stamp = block.stamp[usize::from(target)];
                let filled = has(block.shards, target) && stamp >= state.epoch;
                !has(block.fills, state.session) || filled || has(block.tombs, target)
            });
            if answered && state.is_up(scenario, target) {
                out.push(Action::Finish);
            }
        }
    }
    if state.deaths < scenario.deaths_max {
        out.push(Action::WorkerDies);
    }
}

/// Whether some block acknowledged under an earlier epoch was listed too rarely to be rebuilt. (What
/// was acknowledged under this epoch, repair need not find: the slots it lacks have records.)
pub fn stuck(protocol: &Protocol, state: &State) -> bool {
    state.blocks.iter().any(|block| {
        block.life == Life::Committed
            && block.epoch < state.epoch
            && block.found < protocol.scenario.k
    })
}

fn listing(protocol: &Protocol, state: &State, target: u8, out: &mut Vec<Action>) {
    let scenario = &protocol.scenario;
    let opened = state.fill_floor[usize::from(target)] == state.session;
    if !opened && state.is_up(scenario, target) {
        out.push(Action::OpenSession);
    }
    let survivors = state.survivors(scenario);
    for drive in bits(survivors & !state.listed) {
        let fenced = state.drive_epoch[usize::from(drive)] >= state.epoch;
        if state.is_up(scenario, drive) && (fenced || !protocol.rules.keep(Rule::FenceThenList)) {
            out.push(Action::List { drive });
        }
    }
    let skipped = if state.asleep && !protocol.rules.keep(Rule::SleeperIsListed) {
        1 << scenario.sleeper
    } else {
        0
    };
    // Metadata lists what was committed: a worker that finds too little of it waits for ever rather
    // than declare the placement group clean (which a property forbids to happen).
    if opened && survivors & !state.listed & !skipped == 0 && !stuck(protocol, state) {
        out.push(Action::Decide);
    }
}
