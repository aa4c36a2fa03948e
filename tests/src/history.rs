//! Client histories of one register (an object's key) and whether they are linearizable.
//!
//! The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with
//! Lowe's memory of states seen ("Testing for linearizability", 2017): take any operation that could
//! have been first, see whether the rest can follow. What only looks is taken as soon as it may be:
//! it changes nothing, so no order is lost by that. A write that nobody was told the end of is taken only
//! where something that could not be next then can: before another write it would as well never have
//! happened. So histories may be long; what takes the time is how many writes overlap.

use std::collections::HashMap;

use serde::Deserialize;

/// Orders tried before a history is called too tangled to judge.
const STATES_MAX: usize = 2_000_000;

/// What an operation did to the register. `None` is the absent object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Deed {
    /// Set it.
    Write(Option<u64>),
    /// Set it to the second if the first was in it; without an answer, perhaps did nothing.
    Swap(Option<u64>, Option<u64>),
    /// Saw this in it.
    Read(Option<u64>),
    /// Saw anything but this in it: a condition that was refused.
    Differs(Option<u64>),
}

impl Deed {
    /// Whether it can have happened to a register that holds `value`, and what that holds then.
    fn after(self, value: Option<u64>) -> Option<Option<u64>> {
        match self {
            Deed::Write(written) => Some(written),
            Deed::Swap(from, to) => (from == value).then_some(to),
            Deed::Read(read) => (read == value).then_some(value),
            Deed::Differs(other) => (other != value).then_some(value),
        }
    }

    fn only_looks(self) -> bool {
        matches!(self, Deed::Read(_) | Deed::Differs(_))
    }
}

/// One operation of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Operation {
    /// When the client asked.
    pub invoked: u64,
    /// When it was answered; `None`: never, so a write may have happened at any time since, or not.
    pub completed: Option<u64>,
    /// What.
    pub deed: Deed,
}

/// Whether some order of the operations, each between its invocation and completion, explains all
/// that was seen; the register is absent at first.
pub fn linearizable(history: &[Operation]) -> bool {
    unexplained(history).is_none()
}

/// The operations of which none can have been next, however all before were ordered; `None`: the
/// history is linearizable. Panics if there are too many orders to tell.
pub fn unexplained(history: &[Operation]) -> Option<Vec<Operation>> {
    let search = Search::of(history);
    let mut seen: HashMap<Place, Vec<Vec<usize>>> = HashMap::new();
    let mut states = 0;
    let mut farthest = State::default();
    let mut ahead = vec![State::default()];
    while let Some(mut state) = ahead.pop() {
        search.look(&mut state);
        if state.first == search.answered.len() {
            return None;
        }
        // Who came here with fewer of the unanswered can do all that this one can.
        let here = seen.entry((state.first, state.done.clone(), state.value)).or_default();
        let is_within = |one: &Vec<usize>| one.iter().all(|at| state.unanswered.contains(at));
        if here.iter().any(is_within) {
            continue;
        }
        here.push(state.unanswered.clone());
        states += 1;
        assert!(states < STATES_MAX, "{} operations are too tangled", history.len());
        if state.first + state.done.len() > farthest.first + farthest.done.len() {
            farthest = state.clone();
        }
        search.branch(&state, &mut ahead);
    }
    let (next, _) = search.open(&farthest);
    Some(next.into_iter().map(|at| search.answered[at]).collect())
}

/// Operations taken, as in [`State`], and the value.
type Place = (usize, Vec<usize>, Option<u64>);

/// How far an order has come: a set of operations that it has, and what the register holds then.
#[derive(Clone, Debug, Default)]
struct State {
    /// All answered operations before this one are in.
    first: usize,
    /// Those behind it that are in as well, ascending.
    done: Vec<usize>,
    /// Unanswered ones that are in, ascending.
    unanswered: Vec<usize>,
    value: Option<u64>,
}

impl State {
    fn take(&mut self, at: usize, value: Option<u64>) {
        self.value = value;
        if let Err(place) = self.done.binary_search(&at) {
            self.done.insert(place, at);
        }
        let mut row = 0;
        while self.done.get(row) == Some(&self.first) {
            row += 1;
            self.first += 1;
        }
        self.done.drain(..row);
    }
}

struct Search {
    /// By invocation.
    answered: Vec<Operation>,
    /// Writes that nobody was told the end of.
    unanswered: Vec<Operation>,
}

impl Search {
    fn of(history: &[Operation]) -> Search {
        let (mut answered, mut unanswered): (Vec<Operation>, Vec<Operation>) =
            history.iter().partition(|operation| operation.completed.is_some());
        answered.sort_by_key(|operation| operation.invoked);
        // A look that nobody was told the result of says nothing.
        unanswered.retain(|operation| !operation.deed.only_looks());
        unanswered.sort_by_key(|operation| operation.invoked);
        Search { answered, unanswered }
    }

    /// Answered operations that may be next, since none that is left ended before they began; and when
    /// the first of those that are left ended.
    fn open(&self, state: &State) -> (Vec<usize>, u64) {
        let (mut open, mut earliest_end) = (Vec::new(), u64::MAX);
        let mut done = state.done.iter().peekable();
        for (at, operation) in self.answered.iter().enumerate().skip(state.first) {
            if operation.invoked > earliest_end {
                break;
            }
            if done.next_if_eq(&&at).is_some() {
                continue;
            }
            open.push(at);
            earliest_end = earliest_end.min(operation.completed.unwrap_or(u64::MAX));
        }
        (open, earliest_end)
    }

    /// Takes what only looks, as far as it fits; whether anything did.
    fn look(&self, state: &mut State) -> bool {
        let mut has_looked = false;
        loop {
            let fitting: Vec<usize> = (self.open(state).0.into_iter())
                .filter(|at| self.answered[*at].deed.only_looks())
                .filter(|at| self.answered[*at].deed.after(state.value).is_some())
                .collect();
            if fitting.is_empty() {
                return has_looked;
            }
            fitting.into_iter().for_each(|at| state.take(at, state.value));
            has_looked = true;
        }
    }

    /// All that can be next; what is tried first comes last.
    fn branch(&self, state: &State, ahead: &mut Vec<State>) {
        let (open, earliest_end) = self.open(state);
        let unanswered = || {
            let begun = self.unanswered.iter().take_while(|one| one.invoked <= earliest_end);
            begun.enumerate().filter(|(at, _)| state.unanswered.binary_search(at).is_err())
        };
        for (at, operation) in unanswered() {
            let Some(value) = operation.deed.after(state.value) else { continue };
            let mut next = State { value, ..state.clone() };
            next.unanswered.push(at);
            next.unanswered.sort_unstable();
            let swaps = |deed| matches!(deed, Deed::Swap(from, _) if from == value);
            if self.look(&mut next)
                || open.iter().any(|at| swaps(self.answered[*at].deed))
                || unanswered().any(|(other, one)| other != at && swaps(one.deed))
            {
                ahead.push(next);
            }
        }
        for at in open.into_iter().rev() {
            let deed = self.answered[at].deed;
            if !deed.only_looks()
                && let Some(value) = deed.after(state.value)
            {
                let mut next = state.clone();
                next.take(at, value);
                ahead.push(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(invoked: u64, completed: u64, deed: Deed) -> Operation {
        Operation { invoked, completed: Some(completed), deed }
    }

    #[test]
    fn one_after_the_other() {
        let write = operation(0, 1, Deed::Write(Some(1)));
        assert!(linearizable(&[write, operation(2, 3, Deed::Read(Some(1)))]));
        assert!(!linearizable(&[write, operation(2, 3, Deed::Read(None))]), "a lost write");
        assert!(!linearizable(&[operation(0, 1, Deed::Read(Some(9)))]), "a value from nowhere");
    }

    #[test]
    fn concurrent_operations_may_be_ordered_either_way_but_only_one_way() {
        let one = operation(0, 10, Deed::Write(Some(1)));
        let other = operation(0, 10, Deed::Write(Some(2)));
        for last in [1, 2] {
            assert!(linearizable(&[one, other, operation(11, 12, Deed::Read(Some(last)))]));
        }
        let back_and_forth = [
            one,
            other,
            operation(11, 12, Deed::Read(Some(1))),
            operation(13, 14, Deed::Read(Some(2))),
        ];
        assert!(!linearizable(&back_and_forth), "a stale read");
    }

    #[test]
    fn an_unanswered_write_may_happen_late_or_never() {
        let unknown = Operation { invoked: 0, completed: None, deed: Deed::Write(Some(1)) };
        assert!(linearizable(&[unknown, operation(5, 6, Deed::Read(None))]));
        assert!(linearizable(&[
            unknown,
            operation(5, 6, Deed::Read(None)),
            operation(7, 8, Deed::Read(Some(1)))
        ]));
        let returns = [
            unknown,
            operation(5, 6, Deed::Read(Some(1))),
            operation(7, 8, Deed::Write(None)),
            operation(9, 10, Deed::Read(Some(1))),
        ];
        assert!(!linearizable(&returns), "a deleted object returned");
    }

    #[test]
    fn of_two_that_make_the_key_one_wins() {
        let make = |value| operation(0, 10, Deed::Swap(None, Some(value)));
        let refused = operation(0, 10, Deed::Differs(None));
        assert!(linearizable(&[make(1), refused]));
        assert!(!linearizable(&[make(1), make(2)]), "both won");
        assert!(!linearizable(&[refused]), "nobody won");
        let unknown = Operation { completed: None, ..make(3) };
        assert!(linearizable(&[unknown, refused]), "who was told nothing won");
    }

    #[test]
    fn a_swap_replaces_what_it_names() {
        let first = operation(0, 1, Deed::Write(Some(1)));
        let swap = operation(2, 9, Deed::Swap(Some(1), Some(2)));
        let between = operation(3, 4, Deed::Write(Some(7)));
        let end = |value| operation(10, 11, Deed::Read(Some(value)));
        assert!(linearizable(&[first, swap, end(2)]));
        assert!(linearizable(&[first, swap, between, end(7)]));
        assert!(!linearizable(&[first, swap, between, end(2)]), "a lost update");
        let refused = operation(12, 13, Deed::Differs(Some(7)));
        assert!(!linearizable(&[first, swap, between, end(7), refused]));
    }

    /// A register that a made-up history is true of, with operations that overlap widely; then one
    /// look is moved to before what it saw, or behind what replaced that.
    #[test]
    fn long_histories_hold_and_no_doctored_one_does() {
        let (mut value, mut history, mut writes) = (None, Vec::new(), Vec::new());
        let mut noise = 0x9e37_79b9_7f4a_7c15u64;
        for step in 1..=2_000u64 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            // It takes effect at 100 × step, and lasts up to four steps to either side.
            let (before, behind) = (1 + noise % 400, 1 + (noise >> 16) % 400);
            let deed = match noise >> 40 & 7 {
                0 => Deed::Write(None),
                1 | 2 => Deed::Write(Some(step)),
                3 => Deed::Swap(value, Some(step)),
                4 => Deed::Differs(Some(step)),
                _ => Deed::Read(value),
            };
            value = deed.after(value).unwrap();
            let at = 1_000 + 100 * step;
            let completed = (noise >> 50 & 31 != 0 || deed.only_looks()).then_some(at + behind);
            if !deed.only_looks() && completed.is_some() {
                writes.push((at, value));
            }
            history.push(Operation { invoked: at - before, completed, deed });
        }
        assert_eq!(unexplained(&history), None);
        let mut doctored = 0;
        for pair in writes.windows(30).step_by(97) {
            // Nobody writes this value again; it went long before.
            let ((_, Some(old)), (late, _)) = (pair[0], pair[29]) else { continue };
            let mut history = history.clone();
            history.push(operation(late, late + 1, Deed::Read(Some(old))));
            assert!(!linearizable(&history), "{old} was read at {late}");
            doctored += 1;
        }
        assert!(doctored > 5);
    }
}
