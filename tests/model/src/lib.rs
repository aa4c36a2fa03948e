//! A model of the block protocol (rules R1 to R7), checked by exhaustive search.
//!
//! One placement group, its root, drives, one writer, repair workers and the garbage collector.
//! The network is a set: a message once sent may be delivered at any later time, any number of
//! times, in any order, or never. So loss, delay, reordering and duplication are all covered.
//! Each rule can be switched off, and the tests show that each one is needed.
//!
//! * [`rules`]: the rules, each with its switch, * [`scenario`]: how many slots and blocks, which
//!   slots are remapped and when, * [`state`]: what everyone knows, * [`actions`]: what may happen
//!   next, * [`step`]: what it changes, * [`properties`]: what must hold, * [`mod@check`]: running it.
//!
//! `docs/protocol-model.md` says what is covered, what is not, and publishes the counts.

pub mod actions;
pub mod check;
pub mod properties;
pub mod rules;
pub mod scenario;
pub mod state;
pub mod step;

use stateright::{Model, Property};

pub use actions::Action;
pub use check::{Outcome, Until, Violation, check, walk};
pub use rules::{Rule, Rules};
pub use scenario::Scenario;
pub use state::State;

/// A scenario under a set of rules.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Who there is and what may go wrong.
    pub scenario: Scenario,
    /// Which rules are kept.
    pub rules: Rules,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        State::starts(self)
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        actions::enabled(self, state, out);
    }

    /// The next state, replaced by the least of those that only differ in the names of things.
    /// Doing so here rather than in the checker makes breadth-first search profit from symmetry.
    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        step::apply(self, &mut next, action);
        Some(next.canonical(&self.scenario))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
