//! Runs a model and says what was found.

use std::collections::BTreeSet;
use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model, UniformChooser};

use crate::Protocol;

/// When a search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When every reachable state was visited.
    Exhausted,
    /// When every state within this depth was visited (start states have depth 1).
    Depth(usize),
    /// When the first counter-example to this property was found, or everything was visited.
    Violated(&'static str),
    /// When the first counter-example to any property was found, or everything was visited.
    AnyViolated,
}

/// A counter-example.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The property that does not hold.
    pub property: &'static str,
    /// The steps from a start state to where it does not.
    pub steps: Vec<String>,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Distinct states visited (up to symmetry, where the scenario uses it). For random walks: all
    /// states visited, repetitions included.
    pub states: usize,
    /// The depth of the deepest state.
    pub depth: usize,
    /// The counter-examples.
    pub violations: Vec<Violation>,
    /// Wanted states that were not reached.
    pub unreached: Vec<&'static str>,
}

/// Breadth-first search. A bounded search and one for a counter-example run on one thread, so that
/// the bound is exact and the counter-example a shortest one.
pub fn check(protocol: Protocol, until: Until) -> Outcome {
    let builder = protocol.checker();
    let builder = match until {
        Until::Exhausted => builder.threads(2),
        Until::Depth(depth) => builder.target_max_depth(depth),
        Until::Violated(property) => {
            builder.finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property])))
        }
        Until::AnyViolated => builder.finish_when(HasDiscoveries::AnyFailures),
    };
    outcome(&builder.spawn_bfs().join())
}

/// Random walks from the start states for a time: far deeper than a bounded search, not complete.
pub fn walk(protocol: Protocol, seed: u64, time: Duration) -> Outcome {
    let builder = protocol.checker().finish_when(HasDiscoveries::AnyFailures).timeout(time);
    outcome(&builder.spawn_simulation(seed, UniformChooser).join())
}

fn outcome(checker: &impl Checker<Protocol>) -> Outcome {
    let discoveries = checker.discoveries();
    let (mut violations, mut unreached) = (Vec::new(), Vec::new());
    for property in checker.model().properties() {
        let found = discoveries.get(property.name);
        match (property.name.starts_with("reachable"), found) {
            (true, None) => unreached.push(property.name),
            (false, Some(path)) => {
                let actions = path.clone().into_actions();
                let steps = actions.iter().map(|action| format!("{action:?}")).collect();
                violations.push(Violation { property: property.name, steps });
            }
            _ => {}
        }
    }
    Outcome {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        violations,
        unreached,
    }
}
