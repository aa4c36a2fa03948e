//! A leader's read index with as few messages as there can be (I12).
//!
//! ```text
//!  raft core, at one moment: leader? vote, voters, commit index of its own term
//!        └─▶ as many voters as a majority needs: have you granted a higher vote? ──▶ no, no … ─▶ index
//!            (the others after a moment, or at once when one fails)
//! ```
//!
//! A replica saves a vote before it grants it, and answers from what is saved. So whoever says no had
//! not helped another leader before the question came; a leader elected before this read began would
//! have needed one of them. Openraft's own round asks every voter by a heartbeat, each of which passes
//! the core of leader and follower; it remains what is done while voters change, or when this fails.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nexusgrid_env::RpcRequest;
use openraft::ServerState;
use openraft::vote::RaftLeaderId;

use super::group::Group;
use crate::limits::{ASK_TIMEOUT, CONFIRM_HEDGE};
use crate::raft::encode::{decode, encode_bytes};
use crate::raft::types::{RaftId, Vote, node_of};
use crate::raft::wire::{Answer, CONFIRM, Route};

/// What a leader was at one moment.
struct Leading {
    vote: Vote,
    /// Everything up to here is committed, an entry of its own term with it.
    index: u64,
    /// The others that vote.
    others: Vec<RaftId>,
}

impl Group {
    /// An index that a read of now must see applied, and the term in which this replica leads; `None` if this replica does not lead, has not
    /// committed anything of its term yet, its voters are changing, or too few answer.
    pub(super) async fn confirmed_index(&self) -> Option<(u64, u64)> {
        let Leading { vote, index, mut others } = self.leading().await?;
        // Of 2n others n make a majority with this replica itself.
        let needed = others.len().div_ceil(2);
        let quick = self.quick.lock().clone();
        others.sort_by_key(|id| !quick.contains(id));
        let mut waiting = others.into_iter();
        let mut calls: FuturesUnordered<_> =
            waiting.by_ref().take(needed).map(|id| self.confirm(id, vote)).collect();
        let mut confirmed = Vec::with_capacity(needed);
        let hedge = self.env.clock.sleep(CONFIRM_HEDGE);
        tokio::pin!(hedge);
        let mut hedged = false;
        while confirmed.len() < needed {
            tokio::select! {
                biased;
                answer = calls.next() => match answer {
                    Some((id, true)) => confirmed.push(id),
                    // Deposed, or cut off from one: another may know.
                    Some((_, false)) => {
                        calls.extend(waiting.next().map(|id| self.confirm(id, vote)));
                    }
                    None => return None,
                },
                () = &mut hedge, if !hedged => {
                    hedged = true;
                    calls.extend(waiting.by_ref().map(|id| self.confirm(id, vote)));
                }
            }
        }
        *self.quick.lock() = confirmed;
        Some((index, vote.leader_id.term))
    }

    async fn leading(&self) -> Option<Leading> {
        let own = self.raft_id;
        let state = self.raft.with_raft_state(move |state| {
            if state.server_state != ServerState::Leader {
                return None;
            }
            let vote = *state.vote_ref();
            let committed = state.local_committed()?;
            let [voters] = state.membership_state.effective().get_joint_config().as_slice() else {
                return None;
            };
            // Enough only because a leader that was restarted does not lead on in its old term
            // (`enable_leader_restore` is off): what it committed then it may have forgotten.
            let is_own_term =
                vote.committed && committed.leader_id == vote.leader_id.to_committed();
            (is_own_term && voters.contains(&own)).then(|| Leading {
                vote,
                index: committed.index,
                others: voters.iter().copied().filter(|id| *id != own).collect(),
            })
        });
        state.await.ok().flatten()
    }

    async fn confirm(&self, to: RaftId, vote: Vote) -> (RaftId, bool) {
        let route = Route { group: self.id, from: self.raft_id, to };
        let request = RpcRequest {
            method: CONFIRM.id,
            head: encode_bytes(&route),
            body: encode_bytes(&vote),
        };
        let answer = self.rpc.call(node_of(to), request, ASK_TIMEOUT).await;
        let is_confirmed = answer.is_ok_and(|answer| {
            matches!(decode(&answer.head, CONFIRM.name), Ok(Answer::Done(true)))
        });
        (to, is_confirmed)
    }

    /// Whether this replica has granted no vote that is higher than `vote`.
    pub(super) fn confirms(&self, vote: &Vote) -> std::io::Result<bool> {
        Ok(self.log.vote(self.id)?.is_some_and(|saved| saved <= *vote))
    }
}
