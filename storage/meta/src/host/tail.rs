//! A group's log behind a checkpoint, read out for whoever keeps it elsewhere.

use nexusgrid_codec::id::GroupId;
use openraft::EntryPayload;

use super::{MetaError, MetaHost};
use crate::raft::log::GroupLog;
use crate::raft::state;
use crate::raft::types::generation_of;
use crate::tail::{Deed, LogPlace, LogTail, TailEntry};

impl MetaHost {
    /// Term of an entry that the replica here still has in its log, or was the last to let go.
    pub fn log_place(&self, group: GroupId, index: u64) -> Result<Option<LogPlace>, MetaError> {
        let replica = self.running(group)?;
        let term = GroupLog::new(replica.log.clone(), group.0, None).term_of(index);
        Ok(term.map(|term| LogPlace { index, term }))
    }

    /// What the replica here applied behind `after`: about `bytes_max` bytes of it, one entry at least.
    /// `None`: the log does not begin there any more; take a checkpoint.
    pub async fn tail(
        &self,
        group: GroupId,
        after: LogPlace,
        bytes_max: usize,
    ) -> Result<Option<LogTail>, MetaError> {
        let replica = self.running(group)?;
        let log = GroupLog::new(replica.log.clone(), group.0, None);
        if log.term_of(after.index) != Some(after.term) {
            return Ok(None);
        }
        let upto = replica.applied_index();
        if upto <= after.index {
            return Ok(Some(LogTail::new(group, after, Vec::new())));
        }
        let entries = log.read(after.index + 1, upto + 1, bytes_max).await?;
        if entries.first().is_none_or(|first| first.log_id.index != after.index + 1) {
            return Ok(None);
        }
        let store = replica.store.clone();
        let read = self.inner.env.exec.blocking(move || {
            let rows = store.kv().snapshot().map_err(state::failed)?;
            let (_, applied) = state::applied_in(&*rows)?.unwrap_or_default();
            let mut tail = Vec::with_capacity(entries.len());
            for entry in entries {
                let deed = match entry.payload {
                    EntryPayload::Blank => Deed::Nothing,
                    EntryPayload::Membership(members) => {
                        let highest = members.nodes().map(|(id, _)| generation_of(*id)).max();
                        Deed::Members(highest.unwrap_or(0))
                    }
                    EntryPayload::Normal(envelope) => {
                        match state::took_effect(&*rows, applied, entry.log_id.index)? {
                            Some(true) => Deed::Command(envelope.body),
                            Some(false) => Deed::Nothing,
                            None => return Ok(None),
                        }
                    }
                };
                tail.push(TailEntry { term: entry.log_id.leader_id.term, deed });
            }
            std::io::Result::Ok(Some(tail))
        });
        Ok(read.await?.map(|entries| LogTail::new(group, after, entries)))
    }
}
