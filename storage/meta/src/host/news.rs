//! Word that a group has decided something: a question that a member holds open until it has applied
//! more than the asker knows of.
//!
//! It saves asking again and again, and proves nothing: whoever hears news makes a query.

use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::BootInstant;

use super::group::{Group, Tried};
use super::{MetaError, MetaHost};
use crate::limits::{ASK_TIMEOUT, NEWS_HOLD};
use crate::raft::encode::encode_bytes;
use crate::raft::wire::{NEWS, NewsHead};

impl MetaHost {
    /// Waits until a member of `group` has applied an entry beyond `after` and gives how far it is;
    /// gives `after` if nothing happens within [`NEWS_HOLD`].
    pub async fn news(&self, group: GroupId, after: u64) -> Result<u64, MetaError> {
        let until = self.inner.env.clock.now().plus(NEWS_HOLD);
        let mut trail = self.trail(group);
        // Askers begin at different voters: they share the load, and none meets the same dead one
        // every time.
        trail.attempt = usize::from(self.inner.env.rng.u64() as u8);
        while let Some(left) = self.left(until) {
            if let Ok(replica) = self.running(group) {
                if let Some(index) = self.news_here(&replica, after, until).await {
                    return Ok(index);
                }
                // The leader it followed is the one it does not hear.
                trail.hint = None;
            }
            let target = self.next_target(group, &mut trail);
            let Some(target) = target.filter(|target| *target != self.inner.node) else {
                self.pause(left).await;
                continue;
            };
            let head = encode_bytes(&NewsHead { group, after });
            match self.ask(target, NEWS, head, Bytes::new(), NEWS_HOLD + ASK_TIMEOUT).await? {
                Tried::Done((index, _)) => {
                    if let Some(index) = index.first_chunk() {
                        self.inner.hints.lock().insert(group, target);
                        return Ok(u64::from_le_bytes(*index));
                    }
                }
                Tried::NotLeader(leader) => self.follow(&mut trail, target, leader, left).await,
                Tried::NoReplica | Tried::Unknown => {
                    self.inner.hints.lock().remove(&group);
                    self.follow(&mut trail, target, None, left).await;
                }
            }
        }
        Err(MetaError::Timeout(group))
    }

    /// News from the replica here; `None` once it hears no leader, and so no news.
    pub(crate) async fn news_here(
        &self,
        replica: &Arc<Group>,
        after: u64,
        until: BootInstant,
    ) -> Option<u64> {
        let mut applied = replica.store.watch_applied();
        while self.hears_leader(replica) {
            let Some(left) = self.left(until) else { return Some(after) };
            let patience = left.min(self.inner.options.election_min);
            let newer = applied.wait_for(|applied| *applied > after);
            if let Ok(newer) = tokio::time::timeout(patience, newer).await {
                return newer.ok().map(|index| *index);
            }
        }
        None
    }
}
