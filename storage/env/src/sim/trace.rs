//! What happened in a simulation, as a running hash and, on demand, as a list.
//!
//! Two runs of one seed must give the same hash; the list shows where they part.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::SIM_TRACE_EVENTS_MAX;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number, from zero.
    pub index: u64,
    /// What happened, as text.
    pub text: String,
}

/// The record of a simulation. Clones share it.
#[derive(Clone, Default)]
pub struct Trace {
    state: Arc<Mutex<State>>,
}

struct State {
    hash: u64,
    count: u64,
    keep: bool,
    kept: Vec<Event>,
}

impl Default for State {
    fn default() -> State {
        State { hash: FNV_START, count: 0, keep: false, kept: Vec::new() }
    }
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

pub(super) fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

impl Trace {
    /// Adds an event to the hash, and to the list if it is kept.
    pub fn record(&self, text: std::fmt::Arguments<'_>) {
        let text = text.to_string();
        let mut state = self.state.lock();
        state.hash = fnv1a(state.hash, text.as_bytes());
        state.hash = fnv1a(state.hash, b"\n");
        let index = state.count;
        state.count += 1;
        if state.keep && state.kept.len() < SIM_TRACE_EVENTS_MAX {
            state.kept.push(Event { index, text });
        }
    }

    /// Keeps events from now on (the first million), to be shown by [`Trace::events`].
    pub fn keep_events(&self) {
        self.state.lock().keep = true;
    }

    /// The kept events.
    pub fn events(&self) -> Vec<Event> {
        self.state.lock().kept.clone()
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.state.lock().hash
    }

    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.state.lock().count
    }
}
