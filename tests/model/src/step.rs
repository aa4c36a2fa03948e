//! What an action changes.

use crate::Protocol;
use crate::actions::{Action, counted};
use crate::rules::Rule;
use crate::scenario::{DRIVES_MAX, has};
use crate::state::{Block, Life, Phase, State};

/// Applies an enabled action.
pub fn apply(protocol: &Protocol, state: &mut State, action: Action) {
    let scenario = &protocol.scenario;
    match action {
        Action::Put { block, slot, epoch } => put(protocol, state, block, slot, epoch),
        Action::Learn { block } => {
            let epoch = state.epoch;
            let block = &mut state.blocks[usize::from(block)];
            block.epoch = epoch;
            block.sent |= 1 << epoch;
            block.acked = 0;
        }
        Action::Commit { block } => {
            let block = &mut state.blocks[usize::from(block)];
            block.missing = !counted(protocol, block) & ((1 << scenario.n) - 1);
            block.life = Life::Committed;
            forget_acks(block);
        }
        Action::EndSession => {
            state.writing = false;
            state.blocks.iter_mut().for_each(forget_acks);
        }
        Action::Sleep => {
            state.asleep = true;
            state.slept = true;
        }
        Action::Wake => {
            state.asleep = false;
            if protocol.rules.keep(Rule::WakeReadsMap) {
                adopt(state, scenario.sleeper, state.epoch);
            }
        }
        Action::MapPush { drive } => adopt(state, drive, state.epoch),
        Action::Remap => {
            state.epoch += 1;
            new_session(state);
        }
        Action::OpenSession => {
            if let Some(target) = state.target(scenario) {
                adopt(state, target, state.epoch);
                state.fill_floor[usize::from(target)] = state.session;
                forget_refused_fills(protocol, state);
            }
        }
        Action::List { drive } => {
            state.listed |= 1 << drive;
            for block in &mut state.blocks {
                block.found += u8::from(has(block.shards, drive));
            }
        }
        Action::Decide => decide(protocol, state),
        Action::Fill { block, session } => {
            let epoch = state.session_epoch[usize::from(session)];
            if let Some(remap) = scenario.remap_of(epoch) {
                adopt(state, remap.to, epoch);
                store(&mut state.blocks[usize::from(block)], remap.to, epoch);
            }
        }
        Action::Finish => {
            if let Some(target) = state.target(scenario) {
                state.fill_floor[usize::from(target)] = state.session + 1;
            }
            state.phase = Phase::Clean;
            forget_refused_fills(protocol, state);
        }
        Action::WorkerDies => {
            state.deaths += 1;
            new_session(state);
        }
        Action::Delete { block } => {
            let block = &mut state.blocks[usize::from(block)];
            block.life = Life::Deleted;
            block.epoch = 0;
            block.missing = 0;
        }
        Action::Tomb { block, drive } => {
            let block = &mut state.blocks[usize::from(block)];
            block.tombs |= 1 << drive;
            block.tomb_acks |= 1 << drive;
            remove(block, drive);
        }
        Action::Erase { block } => {
            let block = &mut state.blocks[usize::from(block)];
            block.life = Life::Erased;
            block.tomb_acks = 0;
        }
        Action::DropTomb { block, drive } => {
            state.blocks[usize::from(block)].tombs &= !(1 << drive);
            if protocol.rules.keep(Rule::SessionFloor) {
                state.floor |= 1 << drive;
            }
        }
    }
}

fn put(protocol: &Protocol, state: &mut State, block: u8, slot: u8, epoch: u8) {
    let drive = protocol.scenario.drive(epoch, slot);
    adopt(state, drive, epoch);
    let writing = state.writing;
    let block = &mut state.blocks[usize::from(block)];
    store(block, drive, epoch);
    if writing && block.life == Life::Open {
        if !protocol.rules.keep(Rule::OneEpochQuorum) {
            block.acked_any |= 1 << slot;
        }
        if epoch == block.epoch {
            block.acked |= 1 << slot;
        }
    }
}

/// The worker has every survivor's list and asks metadata which blocks live. A block that lives, or
/// may yet be committed, and of which enough was listed, is rebuilt. What neither the survivors nor
/// metadata list is trashed at the target if it is older than this epoch (R7).
fn decide(protocol: &Protocol, state: &mut State) {
    let Some(target) = state.target(&protocol.scenario) else { return };
    let (epoch, session, writing) = (state.epoch, state.session, state.writing);
    for block in &mut state.blocks {
        let known = block.life == Life::Committed;
        let alive = known || (block.life == Life::Open && writing);
        if alive && block.found >= protocol.scenario.k {
            block.fills |= 1 << session;
        } else if protocol.rules.keep(Rule::RejoinReconcile)
            && block.found == 0
            && !known
            && block.stamp[usize::from(target)] < epoch
        {
            remove(block, target);
        }
        block.found = 0;
    }
    state.listed = 0;
    state.phase = Phase::Filling;
}

fn new_session(state: &mut State) {
    state.session += 1;
    state.session_epoch[usize::from(state.session)] = state.epoch;
    state.phase = Phase::Listing;
    state.listed = 0;
    for block in &mut state.blocks {
        block.found = 0;
    }
}

fn adopt(state: &mut State, drive: u8, epoch: u8) {
    let known = &mut state.drive_epoch[usize::from(drive)];
    *known = (*known).max(epoch);
}

fn store(block: &mut Block, drive: u8, epoch: u8) {
    block.shards |= 1 << drive;
    let stamp = &mut block.stamp[usize::from(drive)];
    *stamp = (*stamp).max(epoch);
}

fn remove(block: &mut Block, drive: u8) {
    block.shards &= !(1 << drive);
    block.stamp[usize::from(drive)] = 0;
}

/// The writer is done with a block: its acknowledgements mean nothing any more.
fn forget_acks(block: &mut Block) {
    block.acked = 0;
    block.acked_any = 0;
    if block.life != Life::Committed {
        block.epoch = 0;
    }
}

/// Messages that their receiver will always refuse need not be remembered. Only sound under R4.
fn forget_refused_fills(protocol: &Protocol, state: &mut State) {
    if !protocol.rules.keep(Rule::FillSession) {
        return;
    }
    let mut refused = 0;
    for session in 1..=state.session {
        let epoch = state.session_epoch[usize::from(session)];
        let target = protocol.scenario.remap_of(epoch).map_or(0, |remap| usize::from(remap.to));
        if target < DRIVES_MAX && session < state.fill_floor[target] {
            refused |= 1 << session;
        }
    }
    for block in &mut state.blocks {
        block.fills &= !refused;
    }
}
