//! One group's view of a shared log, as openraft wants it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::index::{Place, Slot};
use super::verify::read_payload;
use super::{Op, SegmentLog, dead, index_of};
use crate::limits::{APPEND_BYTES_MAX, LOG_QUEUE_BYTES_MAX};
use crate::raft::encode::{decode, encode_bytes};
use crate::raft::state::StateStore;
use crate::raft::types::{Entry, LogId, MetaTypes, Vote};

/// The log of one group. Clones are the same log.
#[derive(Clone)]
pub(crate) struct GroupLog {
    log: SegmentLog,
    group: u32,
    /// Flushed before entries it has applied may go.
    state: Option<Arc<StateStore>>,
}

impl GroupLog {
    /// The log of `group`, whose entries are applied to `state`.
    pub(crate) fn new(log: SegmentLog, group: u32, state: Option<Arc<StateStore>>) -> GroupLog {
        GroupLog { log, group, state }
    }

    /// Term of an entry that is in the log, or was the last to leave it.
    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        let state = self.log.shared.state.lock();
        let group = state.index.groups.get(&self.group)?;
        let purged = group.marks.purged.filter(|purged| purged.index == index);
        let held = group.slots.get(&index).map(|slot| slot.log_id);
        held.or(purged).map(|id| id.leader_id.term)
    }

    /// Entries from `from` on, before `to`: about `bytes_max` bytes of them, one at least.
    pub(crate) async fn read(
        &self,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<Entry>> {
        enum Source {
            Memory(Bytes),
            Disk(Arc<dyn nexusgrid_env::DiskFile>, Place),
        }
        let mut sources = Vec::new();
        {
            let state = self.log.shared.state.lock();
            state.check()?;
            let Some(group) = state.index.groups.get(&self.group) else { return Ok(Vec::new()) };
            if from >= to {
                return Ok(Vec::new());
            }
            let mut total = 0usize;
            for (index, slot) in group.slots.range(from..to) {
                let (source, bytes) = match (&slot.bytes, slot.place) {
                    (Some(bytes), _) => (Source::Memory(bytes.clone()), bytes.len()),
                    (None, Some(place)) => {
                        let segment = state.segments.get(&place.segment);
                        let segment = segment.ok_or_else(|| {
                            io::Error::new(
                                io::ErrorKind::InvalidData,
                                format!("the segment of entry {index} is gone"),
                            )
                        })?;
                        (Source::Disk(segment.file.clone(), place), place.bytes as usize)
                    }
                    (None, None) => {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            format!("entry {index} is nowhere"),
                        ));
                    }
                };
                total = total.saturating_add(bytes);
                if total > bytes_max && !sources.is_empty() {
                    break;
                }
                sources.push(source);
            }
        }
        let in_memory = sources.iter().all(|source| matches!(source, Source::Memory(_)));
        let load = move || -> io::Result<Vec<Entry>> {
            let mut entries = Vec::with_capacity(sources.len());
            for source in sources {
                let bytes = match source {
                    Source::Memory(bytes) => bytes,
                    Source::Disk(file, place) => read_payload(&*file, place)?,
                };
                entries.push(decode(&bytes, "log entry")?);
            }
            Ok(entries)
        };
        if in_memory {
            return load();
        }
        self.log.shared.env.exec.blocking(load).await.inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                self.log.shared.note_rot(&error.to_string());
            }
        })
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(from) => from.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(to) => to.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<MetaTypes> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let state = self.log.shared.state.lock();
        state.check()?;
        Ok(state.index.groups.get(&self.group).and_then(|group| group.marks.vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, APPEND_BYTES_MAX).await
    }
}

impl RaftLogStorage<MetaTypes> for GroupLog {
    type LogReader = GroupLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<MetaTypes>> {
        let state = self.log.shared.state.lock();
        state.check()?;
        let group = state.index.groups.get(&self.group);
        Ok(LogState {
            last_purged_log_id: group.and_then(|group| group.marks.purged),
            last_log_id: group.and_then(|group| group.last()),
        })
    }

    async fn get_log_reader(&mut self) -> GroupLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        {
            let mut state = self.log.shared.state.lock();
            state.check()?;
            let group = state.group(self.group);
            group.marks.vote = Some(*vote);
            let op = Op::Marks {
                group: self.group,
                marks: group.marks.clone(),
                freed: Vec::new(),
                after: group.floor(),
                done: Some(done),
            };
            state.queue.push(op);
        }
        self.log.shared.work.notify_one();
        result.await.unwrap_or_else(|_| Err(dead("it stopped")))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut state = self.log.shared.state.lock();
        state.check()?;
        let group = state.group(self.group);
        group.marks.committed = committed;
        group.marks_dirty = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let state = self.log.shared.state.lock();
        state.check()?;
        Ok(state.index.groups.get(&self.group).and_then(|group| group.marks.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<MetaTypes>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Encoded before the lock is taken: other groups wait there.
        let encoded: Vec<(LogId, Bytes)> =
            entries.into_iter().map(|entry| (entry.log_id(), encode_bytes(&entry))).collect();
        let Some(first) = encoded.first().map(|(id, _)| id.index) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let added: usize = encoded.iter().map(|(_, bytes)| bytes.len()).sum();
        loop {
            let drained = self.log.shared.drained.notified();
            {
                let mut state = self.log.shared.state.lock();
                state.check()?;
                if state.queued_bytes == 0 || state.queued_bytes + added <= LOG_QUEUE_BYTES_MAX {
                    let expected =
                        index_of(&state.group(self.group).last()).map_or(0, |last| last + 1);
                    if first > expected {
                        // A hole must never reach the disk; the caller's bug ends the group.
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidInput,
                            format!("entry {first} would leave a hole behind {expected}"),
                        ));
                    }
                    let replaced = state.group(self.group).cut_from(first);
                    let mut items = Vec::with_capacity(encoded.len());
                    for (log_id, bytes) in encoded {
                        let (index, stamp) = (log_id.index, state.index.stamp());
                        items.push((index, stamp, bytes.clone()));
                        let slot = Slot { log_id, stamp, place: None, bytes: Some(bytes) };
                        state.group(self.group).slots.insert(index, slot);
                    }
                    let after = state.group(self.group).floor();
                    state.queued_bytes += added;
                    state.queue.push(Op::Entries {
                        group: self.group,
                        items,
                        replaced,
                        after,
                        callback,
                    });
                    break;
                }
            }
            drained.await;
        }
        self.log.shared.work.notify_one();
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let index = index_of(&last).map_or(0, |last| last + 1);
        {
            let mut state = self.log.shared.state.lock();
            state.check()?;
            let group = state.group(self.group);
            let freed = group.cut_from(index);
            let after = group.floor();
            state.queue.push(Op::Truncate { group: self.group, index, freed, after });
        }
        self.log.shared.work.notify_one();
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        if let Some(store) = &self.state {
            // What the log forgets the state machine must hold in files that need no log.
            store.flush(Some(&upto)).await?;
        }
        {
            let mut state = self.log.shared.state.lock();
            state.check()?;
            let group = state.group(self.group);
            if group.marks.purged.as_ref().is_some_and(|purged| *purged >= upto) {
                return Ok(());
            }
            let freed = group.cut_upto(upto.index);
            group.marks.purged = Some(upto);
            let (marks, after) = (group.marks.clone(), group.floor());
            state.queue.push(Op::Marks { group: self.group, marks, freed, after, done: None });
        }
        self.log.shared.work.notify_one();
        Ok(())
    }
}
