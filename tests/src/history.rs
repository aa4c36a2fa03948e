//! Client histories of one register (an object's key) and whether they are linearizable.
//!
//! The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with
//! Lowe's memory of states seen ("Testing for linearizability", 2017): take any operation that could
//! have been first, see whether the rest can follow.

use std::collections::HashSet;

/// Most operations of one history: they are bits of a `u128`.
pub const OPERATIONS_MAX: usize = 128;

/// What an operation did to the register. `None` is the absent object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Set it.
    Write(Option<u64>),
    /// Saw this in it.
    Read(Option<u64>),
}

/// One operation of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When the client asked.
    pub invoked: u64,
    /// When it was answered; `None`: never, so a write may have happened at any time since, or not.
    pub completed: Option<u64>,
    /// What.
    pub deed: Deed,
}

/// Whether some order of the operations, each between its invocation and completion, explains every
/// read; the register is absent at first. Panics if there are more than [`OPERATIONS_MAX`].
pub fn linearizable(history: &[Operation]) -> bool {
    // A read that nobody was told the result of says nothing.
    let history: Vec<Operation> = history
        .iter()
        .copied()
        .filter(|operation| {
            operation.completed.is_some() || matches!(operation.deed, Deed::Write(_))
        })
        .collect();
    assert!(history.len() <= OPERATIONS_MAX, "a history of {} operations", history.len());
    let required = (0..history.len())
        .filter(|at| history[*at].completed.is_some())
        .fold(0u128, |mask, at| mask | 1 << at);
    let mut seen = HashSet::new();
    let mut ahead = vec![(0u128, None)];
    while let Some((done, value)) = ahead.pop() {
        if done & required == required {
            return true;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        let open = |at: &usize| done & (1 << at) == 0;
        let earliest_end = (0..history.len())
            .filter(open)
            .filter_map(|at| history[at].completed)
            .min()
            .unwrap_or(u64::MAX);
        for at in (0..history.len()).filter(open) {
            if history[at].invoked > earliest_end {
                continue;
            }
            match history[at].deed {
                Deed::Write(written) => ahead.push((done | 1 << at, written)),
                Deed::Read(read) if read == value => ahead.push((done | 1 << at, value)),
                Deed::Read(_) => {}
            }
        }
    }
    false
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
}
