//! Which rules the agent keeps: all of them, always. Only a simulated world can be made to break one,
//! to see that the checks notice ([`crate::sim::World::breaking`]).
//!
//! Each rule is asked about at the one place that keeps it. There is no way to build a [`Rules`] that
//! lacks one outside this crate, so that no configuration, message or file can reach it.

/// A rule that the safety of data rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// R1: a drive refuses a shard of an epoch older than the one it knows.
    DriveFence,
    /// R2: repair lists a survivor only once it takes no write of an older epoch.
    FenceThenList,
    /// R3: acknowledgements of one epoch make a quorum.
    OneEpochQuorum,
    /// R4: a drive refuses a shard of a repair session that is over.
    FillSession,
    /// R5: a tombstone lives until every mapped drive acknowledged it.
    TombstoneHold,
    /// R6: a drive refuses a shard of a writer's session that is over.
    SessionFloor,
    /// R7: a drive that enters a slot trashes what was deleted while it was away.
    RejoinReconcile,
    /// What was released is freed only once nobody can be reading it.
    ReaderHorizon,
    /// Whoever cannot learn what metadata knows keeps everything.
    ErrorsKeep,
    /// A node that comes into a Raft group does so under an id that was never used.
    NewIncarnation,
    /// A block that goes to another placement group gets another id.
    NewIdPerTry,
}

/// The rules that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    broken: Option<Rule>,
}

impl Rules {
    /// All but one.
    pub(crate) const fn without(rule: Rule) -> Rules {
        Rules { broken: Some(rule) }
    }

    /// Whether a rule is kept.
    #[must_use]
    pub fn keeps(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_not_told_otherwise_keeps_all() {
        assert!(Rules::default().keeps(Rule::DriveFence));
        assert!(!Rules::without(Rule::DriveFence).keeps(Rule::DriveFence));
        assert!(Rules::without(Rule::DriveFence).keeps(Rule::TombstoneHold));
    }
}
