//! Lets go of replicas that were replaced while this node was away.
//!
//! Nobody tells such a replica: it is no member, so no leader sends to it. So one that hears no
//! leader for a while asks those that may know, and goes when a member has *applied* that it is gone.
//! That is committed, and an id never comes back (I15): nothing that the replica holds can be missed.

use std::collections::BTreeSet;

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::NodeId;

use super::MetaHost;
use super::group::Group;
use crate::raft::encode::encode_bytes;
use crate::raft::types::RaftId;
use crate::raft::wire::{STANDING, Standing, StandingHead};

impl MetaHost {
    /// Asks for every replica here that hears no leader; ends with the agent.
    pub(crate) async fn watch_standing(self) {
        let interval = self.inner.options.standing_after;
        loop {
            self.inner.env.clock.sleep(interval).await;
            for group in self.groups() {
                let Ok(replica) = self.running(group) else { continue };
                if replica.is_deserted(interval) && self.is_gone(&replica).await {
                    self.let_go(group, replica.raft_id).await;
                }
            }
        }
    }

    async fn is_gone(&self, replica: &Group) -> bool {
        let mut others: BTreeSet<NodeId> =
            self.inner.directory.voters(replica.id).into_iter().collect();
        others.extend(replica.status().members.iter().map(|member| member.node));
        others.remove(&self.inner.node);
        let head = StandingHead { group: replica.id, raft_id: replica.raft_id };
        for node in others {
            let head: Bytes = encode_bytes(&head);
            // One that says "member" may itself have been away: only "gone" is final.
            if let Ok(Standing::Gone) = self.ask_member::<Standing>(node, STANDING, head).await {
                return true;
            }
        }
        false
    }

    async fn let_go(&self, group: GroupId, raft_id: RaftId) {
        let _one = self.change_lock().await;
        if self.running(group).is_ok_and(|now| now.raft_id == raft_id) {
            match self.remove(group).await {
                Ok(()) => tracing::info!(group = group.0, raft_id, "was replaced here meanwhile"),
                Err(error) => tracing::warn!(group = group.0, %error, "letting go of a replica"),
            }
        }
    }
}
