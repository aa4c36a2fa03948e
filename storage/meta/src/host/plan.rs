//! Who should vote: a pure plan of the next single step.
//!
//! One voter; three as soon as three hosts stand; five with five or more. Never two on one host. A
//! voter that died keeps its place until it is dead for long *and* another host can take it; a voter
//! whose log is gone is replaced at once, also by its own node under a new id. Steps go through
//! learners: who votes has caught up first, and the voters change in one joint change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nexusgrid_env::NodeId;

use crate::raft::types::RaftId;

/// A member of the group as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its incarnation.
    pub id: RaftId,
    /// Its node.
    pub node: NodeId,
    /// Whether it votes; else it learns.
    pub voter: bool,
    /// Whether its log is nearly as long as the leader's.
    pub caught_up: bool,
    /// Whether its node said that this incarnation will never run again.
    pub lost: bool,
}

/// A node that may vote: stable, with the role `meta`, registered and not leaving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its failure domain.
    pub host: String,
    /// How long it has been dead; `None` if it is alive.
    pub dead_for: Option<Duration>,
}

/// The next change of a group's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take a node in as a learner.
    AddLearner(NodeId),
    /// From now on exactly these vote.
    SetVoters(BTreeSet<RaftId>),
    /// Let a learner go.
    RemoveLearner(RaftId),
}

/// How many voters so many hosts carry.
fn voters_for(hosts: usize) -> usize {
    match hosts {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// The next step toward the right voters; `None` if there is nothing to do now.
pub fn plan_voters(
    members: &[Member],
    candidates: &[Candidate],
    replace_after: Duration,
) -> Option<Step> {
    let of_node: BTreeMap<NodeId, &Candidate> =
        candidates.iter().map(|candidate| (candidate.node, candidate)).collect();
    let hosts: BTreeSet<&str> =
        candidates.iter().map(|candidate| candidate.host.as_str()).collect();
    let size = voters_for(hosts.len());

    let good = || members.iter().filter(|member| !member.lost);
    let long_dead =
        |candidate: &Candidate| candidate.dead_for.is_some_and(|dead| dead >= replace_after);
    let mut wanted: Vec<NodeId> = Vec::new();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    {
        let mut take = |candidate: &&Candidate, wanted: &mut Vec<NodeId>| {
            // The first place of a host wins; where they are taken nobody is displaced.
            if wanted.len() < size
                && of_node.get(&candidate.node).is_some_and(|c| used.insert(c.host.as_str()))
            {
                wanted.push(candidate.node);
            }
        };
        let voting =
            good().filter(|member| member.voter).filter_map(|member| of_node.get(&member.node));
        voting
            .clone()
            .filter(|candidate| !long_dead(candidate))
            .for_each(|candidate| take(candidate, &mut wanted));
        let learning =
            good().filter(|member| !member.voter).filter_map(|member| of_node.get(&member.node));
        learning
            .filter(|candidate| candidate.dead_for.is_none())
            .for_each(|candidate| take(candidate, &mut wanted));
        let alive = of_node.values().filter(|candidate| candidate.dead_for.is_none());
        alive.for_each(|candidate| take(candidate, &mut wanted));
        voting.for_each(|candidate| take(candidate, &mut wanted));
    }

    let member_of = |node: &NodeId| {
        let of_this = || good().filter(|member| member.node == *node);
        of_this().find(|member| member.voter).or_else(|| of_this().max_by_key(|member| member.id))
    };
    let voters: BTreeSet<RaftId> =
        members.iter().filter(|member| member.voter).map(|member| member.id).collect();
    let ready: Vec<RaftId> = wanted
        .iter()
        .filter_map(member_of)
        .filter(|member| member.voter || member.caught_up)
        .map(|member| member.id)
        .collect();
    let reachable = [5, 3, 1].into_iter().find(|count| *count <= ready.len().min(size));
    if let Some(count) = reachable {
        let next: BTreeSet<RaftId> = ready.iter().take(count).copied().collect();
        // Fewer voters only where fewer hosts are registered, never because some are slow to come.
        let shrinks = next.len() < voters.len() && size >= voters.len();
        if next != voters && !shrinks {
            return Some(Step::SetVoters(next));
        }
    }
    if let Some(node) = wanted.iter().find(|node| member_of(node).is_none()) {
        return Some(Step::AddLearner(*node));
    }
    members
        .iter()
        .find(|member| {
            !member.voter
                && (member.lost || !wanted.contains(&member.node) || is_spare(member, members))
        })
        .map(|member| Step::RemoveLearner(member.id))
}

/// A learner beside another good member of the same node.
fn is_spare(member: &Member, members: &[Member]) -> bool {
    members.iter().any(|other| {
        other.node == member.node
            && !other.lost
            && other.id != member.id
            && (other.voter || other.id > member.id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::raft_id;
    use proptest::prelude::*;

    const GRACE: Duration = Duration::from_secs(1800);

    fn member(node: u64, voter: bool, caught_up: bool) -> Member {
        Member { id: raft_id(NodeId(node), 1), node: NodeId(node), voter, caught_up, lost: false }
    }

    fn candidate(node: u64, host: u64, dead: Option<u64>) -> Candidate {
        Candidate {
            node: NodeId(node),
            host: format!("h{host}"),
            dead_for: dead.map(Duration::from_secs),
        }
    }

    /// Takes steps as a perfect cluster would, until there is none.
    fn settle(mut members: Vec<Member>, candidates: &[Candidate]) -> (Vec<Member>, Vec<Step>) {
        let mut steps = Vec::new();
        while let Some(step) = plan_voters(&members, candidates, GRACE) {
            assert!(steps.len() < 40, "no end: {steps:?}");
            match &step {
                Step::AddLearner(node) => {
                    let generation = members.iter().filter(|m| m.node == *node).count() as u16 + 1;
                    members.push(Member {
                        id: raft_id(*node, generation),
                        node: *node,
                        voter: false,
                        caught_up: true,
                        lost: false,
                    });
                }
                Step::SetVoters(ids) => {
                    members.retain(|m| ids.contains(&m.id) || !m.voter);
                    members.iter_mut().for_each(|m| m.voter = ids.contains(&m.id));
                }
                Step::RemoveLearner(id) => members.retain(|m| m.id != *id),
            }
            steps.push(step);
        }
        (members, steps)
    }

    fn voters(members: &[Member]) -> Vec<u64> {
        members.iter().filter(|m| m.voter).map(|m| m.node.0).collect()
    }

    #[test]
    fn one_three_five() {
        for (hosts, expected) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (7, 5), (40, 5)] {
            let candidates: Vec<_> = (1..=hosts).map(|n| candidate(n, n, None)).collect();
            let (members, _) = settle(vec![member(1, true, true)], &candidates);
            assert_eq!(voters(&members).len(), expected, "{hosts} hosts");
            assert_eq!(members.len(), expected);
        }
    }

    #[test]
    fn never_two_voters_on_one_host() {
        let candidates: Vec<_> = (1..=9).map(|n| candidate(n, n % 3, None)).collect();
        let (members, _) = settle(vec![member(1, true, true)], &candidates);
        let hosts: BTreeSet<_> = voters(&members).iter().map(|n| n % 3).collect();
        assert_eq!((voters(&members).len(), hosts.len()), (3, 3));
    }

    #[test]
    fn a_dead_voter_keeps_its_place_until_the_grace_is_over_and_a_spare_exists() {
        let group: Vec<_> = (1..=5).map(|n| member(n, true, true)).collect();
        let mut candidates: Vec<_> = (1..=6).map(|n| candidate(n, n, None)).collect();
        candidates[1].dead_for = Some(GRACE - Duration::from_secs(1));
        assert_eq!(plan_voters(&group, &candidates, GRACE), None);
        candidates[1].dead_for = Some(GRACE);
        let (members, steps) = settle(group.clone(), &candidates);
        assert_eq!(voters(&members), [1, 3, 4, 5, 6]);
        assert_eq!(steps[0], Step::AddLearner(NodeId(6)));
        candidates.pop();
        assert_eq!(plan_voters(&group, &candidates, GRACE), None, "nobody can take the place");
    }

    #[test]
    fn a_lost_incarnation_is_replaced_at_once_by_its_own_node() {
        let mut group: Vec<_> = (1..=3).map(|n| member(n, true, true)).collect();
        group[2].lost = true;
        let candidates: Vec<_> = (1..=3).map(|n| candidate(n, n, None)).collect();
        let (members, _) = settle(group, &candidates);
        assert_eq!(voters(&members), [1, 2, 3]);
        assert!(members.iter().any(|m| m.id == raft_id(NodeId(3), 2)));
    }

    #[test]
    fn a_slow_learner_holds_nobody_up() {
        let mut group: Vec<_> = (1..=4).map(|n| member(n, n == 1, true)).collect();
        group.push(member(5, false, false));
        let candidates: Vec<_> = (1..=5).map(|n| candidate(n, n, None)).collect();
        let three: BTreeSet<_> = (1..=3).map(|n| raft_id(NodeId(n), 1)).collect();
        assert_eq!(plan_voters(&group, &candidates, GRACE), Some(Step::SetVoters(three)));
    }

    proptest! {
        #[test]
        fn always_ends_with_distinct_hosts_and_an_odd_count(
            hosts in proptest::collection::vec((0u64..8, proptest::option::of(0u64..4000)), 1..12),
            lost in proptest::collection::vec(any::<bool>(), 5),
        ) {
            let candidates: Vec<_> =
                hosts.iter().enumerate().map(|(n, (host, dead))| candidate(n as u64 + 1, *host, *dead)).collect();
            let mut used = BTreeSet::new();
            let mut start: Vec<_> = candidates.iter().filter(|c| used.insert(c.host.clone())).take(3)
                .zip(&lost).map(|(c, lost)| Member { lost: *lost, ..member(c.node.0, true, true) }).collect();
            if start.len() == 2 { start.pop(); }
            if start.iter().all(|m| m.lost) { start[0].lost = false; }
            let (members, steps) = settle(start.clone(), &candidates);
            let voting: Vec<_> = members.iter().filter(|m| m.voter).collect();
            prop_assert!([1, 3, 5].contains(&voting.len()), "{} voters", voting.len());
            if !steps.is_empty() {
                let hosts: BTreeSet<_> = voting.iter()
                    .filter_map(|m| candidates.iter().find(|c| c.node == m.node)).map(|c| &c.host).collect();
                prop_assert_eq!(hosts.len(), voting.len());
            }
        }
    }
}
