//! Changes of membership, one at a time, and the worker that keeps the right nodes voting.
//!
//! A node becomes a member in four steps: the leader *invites* it (it says which incarnation it has,
//! and gives a nonce), chooses an incarnation never used in this group, makes it *join* with that
//! nonce (it begins with an empty log), and adds it as a learner. The nonce keeps a delayed join
//! from starting an old incarnation on a node that lost its disk meanwhile (I15, L9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{BootInstant, Invariant, NodeId, RpcRequest, Rule};
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, ReadPolicy};
use serde::de::DeserializeOwned;

use super::group::Group;
use super::plan::{Candidate, Member, Step, plan_voters};
use super::{MetaError, MetaHost};
use crate::limits::{
    ASK_TIMEOUT, CAUGHT_UP_ENTRIES, INVITE_BACKOFF, LOST_LOOK_ROUNDS, MEMBERSHIP_TIMEOUT,
};
use crate::raft::encode::{decode, encode_bytes};
use crate::raft::types::{MetaTypes, RaftId, generation_of, node_of, raft_id};
use crate::raft::wire::{Answer, GroupHead, INVITE, Invited, JOIN, JoinHead, MetaMethod};

/// Says which nodes may vote. The root group's node table and the membership protocol know.
pub trait CandidateSource: Send + Sync + 'static {
    /// Every stable, registered node with the role `meta` that is not leaving, dead ones included.
    fn candidates(&self) -> Vec<Candidate>;
}

impl MetaHost {
    /// Takes `node` into `group` as a learner, under an incarnation never used before. Only on the
    /// group's leader. Returns the incarnation.
    pub async fn add_learner(&self, group: GroupId, node: NodeId) -> Result<RaftId, MetaError> {
        let replica = self.running(group)?;
        let busy = |why: String| MetaError::MembershipBusy(group, why);
        // Everything earlier leaders decided is applied here: so are the incarnations they used.
        let confirmed = tokio::time::timeout(
            MEMBERSHIP_TIMEOUT,
            replica.raft.ensure_linearizable(ReadPolicy::ReadIndex),
        );
        confirmed
            .await
            .map_err(|_| MetaError::Timeout(group))?
            .map_err(|error| busy(error.to_string()))?;

        let cannot = |why: String| MetaError::CannotJoin(node, why);
        let invited: Invited = self
            .ask_member(node, INVITE, encode_bytes(&GroupHead { group, stale: false }))
            .await
            .map_err(cannot)?;
        let is_member = replica.status().members.iter().any(|member| member.id == invited.have);
        if is_member && invited.running {
            return Ok(invited.have);
        }
        let known = replica.store.generation(node)?;
        let used = known.max(generation_of(invited.have));
        let generation = match self.inner.env.rules.keeps(Rule::NewIncarnation) {
            true => used.checked_add(1),
            false => Some(used.max(1)),
        };
        let generation =
            generation.ok_or_else(|| cannot("its incarnations are used up".to_owned()))?;
        let id = raft_id(node, generation);
        self.inner.env.invariants.check(Invariant::I15, generation > used, || {
            format!("group {}: {node} comes back as {id}", group.0)
        });
        let head = encode_bytes(&JoinHead { group, raft_id: id, nonce: invited.nonce });
        let () = self.ask_member(node, JOIN, head).await.map_err(cannot)?;
        self.changed(group, replica.raft.add_learner(id, node, false)).await?;
        Ok(id)
    }

    /// From now on exactly `voters` vote (through one joint change); voters not named leave. Only on
    /// the group's leader; all must be members.
    pub async fn set_voters(
        &self,
        group: GroupId,
        voters: BTreeSet<RaftId>,
    ) -> Result<(), MetaError> {
        let replica = self.running(group)?;
        self.changed(group, replica.raft.change_membership(voters, false)).await
    }

    /// Lets a learner go. Only on the group's leader.
    pub async fn remove_learner(&self, group: GroupId, id: RaftId) -> Result<(), MetaError> {
        let replica = self.running(group)?;
        let change: ChangeMembers<RaftId, NodeId> =
            ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        self.changed(group, replica.raft.change_membership(change, true)).await
    }

    /// Gives leadership of `group` to the most advanced other voter, if this replica has it.
    pub async fn transfer_leader(&self, group: GroupId) -> Result<(), MetaError> {
        let replica = self.running(group)?;
        self.give_away(&replica).await
    }

    pub(crate) async fn give_away(&self, replica: &Group) -> Result<(), MetaError> {
        let status = replica.status();
        let others =
            status.members.iter().filter(|member| member.voter && member.id != replica.raft_id);
        let Some(to) = others.max_by_key(|member| (member.matched, member.id)) else {
            return Ok(());
        };
        let moved = replica.raft.trigger().transfer_leader(to.id).await;
        moved.map_err(|error| MetaError::Stopped(replica.id, error.to_string()))
    }

    async fn changed<T>(
        &self,
        group: GroupId,
        change: impl Future<Output = Result<T, RaftError<MetaTypes, ClientWriteError<MetaTypes>>>>,
    ) -> Result<(), MetaError> {
        match tokio::time::timeout(MEMBERSHIP_TIMEOUT, change).await {
            Err(_) => Err(MetaError::UnknownOutcome(group)),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(error))) => {
                Err(MetaError::MembershipBusy(group, error.to_string()))
            }
            Ok(Err(RaftError::Fatal(error))) => Err(MetaError::Stopped(group, error.to_string())),
        }
    }

    pub(crate) async fn ask_member<T: DeserializeOwned>(
        &self,
        node: NodeId,
        method: MetaMethod,
        head: Bytes,
    ) -> Result<T, String> {
        let request = RpcRequest { method: method.id, head, body: Bytes::new() };
        let response = self
            .inner
            .rpc
            .call(node, request, ASK_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        match decode::<Answer<T>>(&response.head, method.name).map_err(|error| error.to_string())? {
            Answer::Done(answer) => Ok(answer),
            Answer::Gone => Err("it has no such incarnation".to_owned()),
            Answer::Stopped => Err("it is still starting".to_owned()),
        }
    }
}

/// Keeps the right nodes voting in every group this node leads.
pub struct VoterKeeper {
    host: MetaHost,
    source: Arc<dyn CandidateSource>,
    /// Nodes that could not be taken in, and until when they are passed over.
    passed_over: BTreeMap<(GroupId, NodeId), BootInstant>,
    /// Incarnations that are gone for good, by what their nodes said when last asked.
    lost: BTreeSet<(GroupId, RaftId)>,
    rounds: u64,
}

impl VoterKeeper {
    /// Starts the worker; it ends with the agent.
    pub fn start(host: &MetaHost, source: Arc<dyn CandidateSource>) {
        let keeper = VoterKeeper {
            host: host.clone(),
            source,
            passed_over: BTreeMap::new(),
            lost: BTreeSet::new(),
            rounds: 0,
        };
        drop(host.inner.env.exec.spawn(keeper.run()));
    }

    async fn run(mut self) {
        loop {
            self.host.inner.env.clock.sleep(self.host.inner.options.keeper_interval).await;
            self.rounds += 1;
            for group in self.host.groups() {
                if self.host.is_leader(group) {
                    self.tend(group).await;
                }
            }
        }
    }

    async fn tend(&mut self, group: GroupId) {
        let Ok(replica) = self.host.running(group) else { return };
        let members = self.members(&replica).await;
        let now = self.host.inner.env.clock.now();
        self.passed_over.retain(|_, until| *until > now);
        let passed_over = |node: NodeId| {
            self.passed_over.contains_key(&(group, node))
                && !members.iter().any(|m| m.node == node && !m.lost)
        };
        let mut candidates = self.source.candidates();
        for candidate in &mut candidates {
            // Its host still counts; it is only not the next to be asked.
            if passed_over(candidate.node) {
                candidate.dead_for = candidate.dead_for.or(Some(Duration::ZERO));
            }
        }
        let Some(step) = plan_voters(&members, &candidates, self.host.inner.options.replace_after)
        else {
            return;
        };
        let result = match &step {
            Step::AddLearner(node) => self.host.add_learner(group, *node).await.map(drop),
            Step::SetVoters(voters) => self.host.set_voters(group, voters.clone()).await,
            Step::RemoveLearner(id) => self.host.remove_learner(group, *id).await,
        };
        match result {
            Ok(()) => tracing::info!(group = group.0, ?step, "membership changed"),
            Err(error) => {
                tracing::info!(group = group.0, ?step, %error, "membership did not change");
                if let (Step::AddLearner(node), MetaError::CannotJoin(..)) = (&step, &error) {
                    self.passed_over.insert((group, *node), now.plus(INVITE_BACKOFF));
                }
            }
        }
    }

    /// The members as the leader sees them; asks those that seem behind whether they still exist.
    async fn members(&mut self, replica: &Arc<Group>) -> Vec<Member> {
        let status = replica.status();
        let mut members = Vec::new();
        for view in status.members {
            let me = view.id == replica.raft_id;
            let behind = status.last_index.saturating_sub(view.matched.unwrap_or(0));
            let caught_up = me || (view.matched.is_some() && behind <= CAUGHT_UP_ENTRIES);
            if !me && self.rounds.is_multiple_of(LOST_LOOK_ROUNDS) {
                match self.is_lost(replica.id, view.id).await {
                    true => self.lost.insert((replica.id, view.id)),
                    false => self.lost.remove(&(replica.id, view.id)),
                };
            }
            let lost = !me && self.lost.contains(&(replica.id, view.id));
            members.push(Member {
                id: view.id,
                node: view.node,
                voter: view.voter,
                caught_up,
                lost,
            });
        }
        members
    }

    /// Whether a node says that it will never run this incarnation again. Silence is no such word.
    async fn is_lost(&self, group: GroupId, id: RaftId) -> bool {
        let head = encode_bytes(&GroupHead { group, stale: true });
        match self.host.ask_member::<Invited>(node_of(id), INVITE, head).await {
            Ok(invited) => invited.have != id || !invited.running,
            Err(_) => false,
        }
    }
}
