//! Two administrators, two nodes, one lost group: only one of them may found it anew.
//!
//! ```text
//!   who would restore ──Claim──▶ itself, then every node that answers
//!       all agree ──▶ restores, claiming again before each group begins
//!       another holds it: the lower node waits for the other to give way; the higher one gives up
//! ```
//! A claim lasts a while from when it was last said; a node that stops in the midst of a restore holds
//! up the next try no longer than that. Where the root group lives, it decides besides, for it takes
//! each incarnation once. Where it is lost, an incarnation that anyone claimed is not begun by
//! another: the next is.
//!
//! State: in memory only. Of two that restore at once, each knows of its own claim, so that it takes no
//! third one's memory to keep them apart; if they cannot reach each other at all, what each hears from
//! the administrator stands (see `restore`).

use nexusgrid_env::{BootInstant, NodeId};
use parking_lot::Mutex;

use super::wire::Claim;
use crate::limits;

/// Who restores, as this node knows.
#[derive(Default)]
pub(super) struct Claims {
    held: Mutex<Option<Held>>,
}

#[derive(Clone, Copy)]
struct Held {
    by: NodeId,
    incarnation: u64,
    until: BootInstant,
}

/// What a claim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    Agreed,
    /// This one restores.
    By(NodeId),
    /// So high an incarnation was begun before.
    Past(u64),
}

impl Claims {
    /// `known`: the highest incarnation of a map that this node ever had.
    pub(super) fn claim(&self, by: NodeId, claim: Claim, known: u64, now: BootInstant) -> Claimed {
        let mut held = self.held.lock();
        if !claim.held {
            // The incarnation stays taken; the time does not.
            if let Some(own) = held.as_mut().filter(|held| held.by == by) {
                own.until = now;
            }
            return Claimed::Agreed;
        }
        // What it begins itself comes back to it as a map.
        let is_own =
            held.is_some_and(|held| held.by == by && held.incarnation == claim.incarnation);
        let is_begun = claim.incarnation == known && claim.root && !is_own;
        if claim.incarnation < known || is_begun {
            return Claimed::Past(known);
        }
        if let Some(other) = held.filter(|held| held.by != by) {
            if now < other.until {
                return Claimed::By(other.by);
            }
            if claim.root && claim.incarnation <= other.incarnation {
                return Claimed::Past(other.incarnation);
            }
        }
        let until = now.plus(limits::RESTORE_CLAIM);
        *held = Some(Held { by, incarnation: claim.incarnation, until });
        Claimed::Agreed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn claim(incarnation: u64) -> Claim {
        Claim { incarnation, root: true, held: true }
    }

    #[test]
    fn one_restores_at_a_time_and_none_begins_what_another_may_have() {
        let claims = Claims::default();
        let (now, one, two) = (BootInstant(Duration::from_secs(1)), NodeId(1), NodeId(2));
        assert_eq!(claims.claim(one, claim(3), 3, now), Claimed::Past(3));
        assert_eq!(claims.claim(one, claim(4), 3, now), Claimed::Agreed);
        assert_eq!(claims.claim(two, claim(4), 3, now), Claimed::By(one));
        assert_eq!(claims.claim(two, claim(5), 3, now), Claimed::By(one), "however high");
        let later = now.plus(limits::RESTORE_CLAIM / 2);
        assert_eq!(claims.claim(one, claim(4), 3, later), Claimed::Agreed, "again");
        let later = now.plus(limits::RESTORE_CLAIM);
        assert_eq!(claims.claim(two, claim(5), 3, later), Claimed::By(one));
        // It says no more: nobody knows what it did.
        let later = later.plus(limits::RESTORE_CLAIM);
        assert_eq!(claims.claim(two, claim(4), 3, later), Claimed::Past(4));
        let with_root = Claim { root: false, ..claim(4) };
        assert_eq!(Claims::default().claim(two, with_root, 3, later), Claimed::Agreed);
        assert_eq!(Claims::default().claim(two, with_root, 4, later), Claimed::Agreed, "recorded");
        assert_eq!(Claims::default().claim(two, with_root, 5, later), Claimed::Past(5));
        assert_eq!(claims.claim(two, claim(5), 3, later), Claimed::Agreed);
        // Given up: another may, at once.
        assert_eq!(claims.claim(one, claim(6), 3, later), Claimed::By(two));
        let given_up = Claim { held: false, ..claim(5) };
        assert_eq!(claims.claim(one, given_up, 3, later), Claimed::Agreed);
        assert_eq!(claims.claim(one, claim(6), 3, later), Claimed::By(two), "not by a third");
        assert_eq!(claims.claim(two, given_up, 3, later), Claimed::Agreed);
        assert_eq!(claims.claim(one, claim(5), 3, later), Claimed::Past(5));
        assert_eq!(claims.claim(one, claim(6), 3, later), Claimed::Agreed);
    }
}
