//! Commands and queries: finds who can serve them, and tries until the deadline.
//!
//! A command keeps its request id over all tries; the group answers a repeated one with the reply it
//! gave first. So a try whose outcome is unknown may be followed by another, and only when time is
//! up with no answer the caller is told that the outcome is unknown.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{BootInstant, Invariant, NodeId, RpcError, RpcRequest};

use super::group::{Group, Tried};
use super::watchers::{Touched, Watcher};
use super::{Consistency, MetaError, MetaHost};
use crate::limits::{COMMAND_BYTES_MAX, LEADER_RETRY_PAUSE, QUERY_BYTES_MAX};
use crate::raft::encode::{decode, encode_bytes};
use crate::raft::types::Envelope;
use crate::raft::wire::{
    GroupHead, MetaMethod, Outcome, PROPOSE, PROPOSE_BY, ProposeByHead, ProposeHead, QUERY,
};

/// Redirections followed without a pause.
const HOPS_MAX: u32 = 3;

/// Where the next try goes.
pub(crate) struct Trail {
    pub(crate) hint: Option<NodeId>,
    pub(crate) attempt: usize,
    hops: u32,
}

impl MetaHost {
    /// Has `body` decided by `group` and returns the state machine's reply.
    ///
    /// `request_id` must be new for a new command, and the same when one is asked again after
    /// [`MetaError::UnknownOutcome`]. `deadline` bounds the whole.
    pub async fn propose(
        &self,
        group: GroupId,
        request_id: u128,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, MetaError> {
        let done = self.propose_by(None, group, request_id, body, deadline).await;
        done.map(|(reply, _)| reply)
    }

    /// As [`MetaHost::propose`], for one that remembers what the group answered it: with the reply it hears what it is
    /// to forget, before it acts on the reply. If it hears no reply, it is to forget everything.
    pub async fn propose_by(
        &self,
        by: Option<Watcher>,
        group: GroupId,
        request_id: u128,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(Bytes, Touched), MetaError> {
        check_size("command", body.len(), COMMAND_BYTES_MAX)?;
        let until = self.inner.env.clock.now().plus(deadline);
        let mut trail = self.trail(group);
        let (mut handed_on, mut asked_any) = (false, false);
        while let Some(left) = self.left(until) {
            let Some(target) = self.next_target(group, &mut trail) else {
                self.pause(left).await;
                continue;
            };
            asked_any = true;
            let patience = left.min(self.inner.options.attempt_timeout);
            let tried = if target == self.inner.node {
                let envelope = Envelope { request_id, body: body.clone() };
                match self.running(group) {
                    Ok(replica) => replica.propose(envelope, by, patience).await,
                    Err(_) => Tried::NoReplica,
                }
            } else {
                let propose = ProposeHead { group, request_id };
                let (method, head) = match by {
                    None => (PROPOSE, encode_bytes(&propose)),
                    Some(by) => (PROPOSE_BY, encode_bytes(&ProposeByHead { propose, by })),
                };
                let tried = self.ask(target, method, head, body.clone(), patience).await?;
                tried.map(|(reply, outcome)| match outcome {
                    Outcome::Touched(touched) => (reply, touched),
                    _ => (reply, Touched::Nothing),
                })
            };
            match tried {
                Tried::Done(reply) => {
                    self.inner.hints.lock().insert(group, target);
                    return Ok(reply);
                }
                Tried::Unknown => {
                    handed_on = true;
                    self.inner.hints.lock().remove(&group);
                }
                Tried::NotLeader(leader) => self.follow(&mut trail, target, leader, left).await,
                Tried::NoReplica => self.follow(&mut trail, target, None, left).await,
            }
        }
        Err(match (handed_on, asked_any) {
            (true, _) => MetaError::UnknownOutcome(group),
            (false, true) => MetaError::NoLeader(group),
            (false, false) => MetaError::UnknownGroup(group),
        })
    }

    /// Answers `query` from the state of `group`.
    pub async fn query(
        &self,
        group: GroupId,
        query: Bytes,
        consistency: Consistency,
        deadline: Duration,
    ) -> Result<Bytes, MetaError> {
        check_size("query", query.len(), QUERY_BYTES_MAX)?;
        let until = self.inner.env.clock.now().plus(deadline);
        let mut trail = self.trail(group);
        let mut asked_any = false;
        while let Some(left) = self.left(until) {
            let patience = left.min(self.inner.options.attempt_timeout);
            if let Ok(replica) = self.running(group)
                && (consistency == Consistency::Stale || self.hears_leader(&replica))
            {
                asked_any = true;
                let try_until = self.inner.env.clock.now().plus(patience);
                if let Some(answer) =
                    self.query_here(&replica, query.clone(), consistency, try_until).await?
                {
                    return Ok(answer);
                }
            }
            // The replica here may be cut off from a leader that others reach.
            let target =
                self.next_target(group, &mut trail).filter(|target| *target != self.inner.node);
            let Some((target, left)) = target.zip(self.left(until)) else {
                self.pause(left).await;
                continue;
            };
            asked_any = true;
            let patience = left.min(self.inner.options.attempt_timeout);
            let head = encode_bytes(&GroupHead { group, stale: consistency == Consistency::Stale });
            match self.ask(target, QUERY, head, query.clone(), patience).await? {
                Tried::Done((answer, _)) => {
                    self.inner.hints.lock().insert(group, target);
                    return Ok(answer);
                }
                Tried::NotLeader(leader) => self.follow(&mut trail, target, leader, left).await,
                Tried::NoReplica | Tried::Unknown => {
                    self.follow(&mut trail, target, None, left).await
                }
            }
        }
        Err(if asked_any { MetaError::Timeout(group) } else { MetaError::UnknownGroup(group) })
    }

    /// Answers from the replica here; `None` if it cannot in time, because no leader confirms a
    /// read index or because the replica lags.
    pub(crate) async fn query_here(
        &self,
        replica: &Arc<Group>,
        query: Bytes,
        consistency: Consistency,
        until: BootInstant,
    ) -> Result<Option<Bytes>, MetaError> {
        let failed = |error| MetaError::Stopped(replica.id, error);
        if consistency == Consistency::Stale {
            return replica.answer(query).await.map(Some).map_err(failed);
        }
        let mut index = None;
        // Who hears no leader learns no index, or of no entries: it may have been replaced. Others
        // are asked at once.
        while let Some(left) = self.left(until).filter(|_| self.hears_leader(replica)) {
            let patience = left.min(self.inner.options.election_min);
            let Some(at) = index else {
                let asked = tokio::time::timeout(patience, replica.read_index()).await;
                index = asked.ok().flatten();
                if index.is_none() {
                    self.pause(left).await;
                }
                continue;
            };
            if let Ok(applied) = tokio::time::timeout(patience, replica.applied(at)).await {
                applied.map_err(failed)?;
                let reached = replica.applied_index();
                self.inner.env.invariants.check(Invariant::I12, reached >= at, || {
                    format!("group {} answers at {reached}, asked at {at}", replica.id.0)
                });
                let answered = tokio::time::timeout(left, replica.answer(query)).await;
                return answered.ok().transpose().map_err(failed);
            }
        }
        Ok(None)
    }

    /// Whether the replica leads, or heard of a leader as recently as a voter expects to.
    pub(crate) fn hears_leader(&self, replica: &Group) -> bool {
        replica.hears_leader(self.inner.options.election_min)
    }

    /// Who leads as the replica sees it, if it still hears of a leader.
    pub(crate) fn believed_leader(&self, replica: &Group) -> Option<NodeId> {
        let leader = replica.leader.borrow().leader;
        leader.filter(|_| self.hears_leader(replica))
    }

    pub(crate) fn left(&self, until: BootInstant) -> Option<Duration> {
        let left = until.since(self.inner.env.clock.now());
        (left > Duration::ZERO).then_some(left)
    }

    pub(crate) async fn pause(&self, left: Duration) {
        self.inner.env.clock.sleep(left.min(LEADER_RETRY_PAUSE)).await;
    }

    pub(crate) fn trail(&self, group: GroupId) -> Trail {
        let own = self.running(group).ok().and_then(|replica| self.believed_leader(&replica));
        let hint = own.or_else(|| self.inner.hints.lock().get(&group).copied());
        Trail { hint, attempt: 0, hops: 0 }
    }

    pub(crate) fn next_target(&self, group: GroupId, trail: &mut Trail) -> Option<NodeId> {
        if let Some(hint) = trail.hint.take() {
            return Some(hint);
        }
        let replica = self.running(group).ok();
        if let Some(leader) = replica.as_ref().and_then(|replica| self.believed_leader(replica)) {
            // What the own replica believes may be old: every second try goes round the voters.
            trail.attempt += 1;
            if trail.attempt % 2 == 1 {
                return Some(leader);
            }
        }
        let mut voters = self.inner.directory.voters(group);
        if let Some(replica) = &replica {
            voters.extend(
                replica
                    .status()
                    .members
                    .iter()
                    .filter(|member| member.voter)
                    .map(|member| member.node),
            );
        }
        voters.sort_unstable();
        voters.dedup();
        trail.attempt += 1;
        let at = (trail.attempt / 2).checked_rem(voters.len())?;
        voters.get(at).copied()
    }

    /// Goes where a refusal points; pauses where it points nowhere, or too often elsewhere.
    pub(crate) async fn follow(
        &self,
        trail: &mut Trail,
        from: NodeId,
        to: Option<NodeId>,
        left: Duration,
    ) {
        trail.hint = to.filter(|to| *to != from);
        trail.hops += 1;
        if trail.hint.is_none() || trail.hops >= HOPS_MAX {
            trail.hops = 0;
            self.pause(left).await;
        }
    }

    pub(crate) async fn ask(
        &self,
        target: NodeId,
        method: MetaMethod,
        head: Bytes,
        body: Bytes,
        patience: Duration,
    ) -> Result<Tried<(Bytes, Outcome)>, MetaError> {
        let request = RpcRequest { method: method.id, head, body };
        match self.inner.rpc.call(target, request, patience).await {
            Ok(response) => Ok(match decode::<Outcome>(&response.head, method.name) {
                Ok(
                    done @ (Outcome::Done
                    | Outcome::Touched(_)
                    | Outcome::Fact(_)
                    | Outcome::FactAnd(..)),
                ) => Tried::Done((response.body, done)),
                Ok(Outcome::NotLeader(leader)) => Tried::NotLeader(leader),
                Ok(Outcome::NoReplica) => Tried::NoReplica,
                Ok(Outcome::Unknown) | Err(_) => Tried::Unknown,
            }),
            Err(RpcError::Unreachable(..) | RpcError::Busy(_)) => Ok(Tried::NoReplica),
            Err(RpcError::Unknown(..) | RpcError::Failed(_)) => Ok(Tried::Unknown),
            Err(RpcError::Refused(why)) => Err(MetaError::Refused(why)),
        }
    }
}

pub(super) fn check_size(
    what: &'static str,
    bytes: usize,
    bytes_max: usize,
) -> Result<(), MetaError> {
    if bytes > bytes_max {
        return Err(MetaError::TooLarge { what, bytes, bytes_max });
    }
    Ok(())
}
