//! What a segment log holds, in memory: for each group its ids and where each entry lies.
//!
//! Changes happen here at once, so that readers see them; the writer makes them durable in the same
//! order and then says where they lie ([`Index::place`]).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::floor::Floor;
use crate::raft::types::{LogId, Vote};

/// Vote and marks of a group, as a `State` record carries them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Marks {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
}

/// Where a record's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u64,
    pub offset: u64,
    pub bytes: u32,
}

/// One entry.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub log_id: LogId,
    /// Tells this entry from another that stood at the same index.
    pub stamp: u64,
    /// Set once written.
    pub place: Option<Place>,
    /// Set until written, and while cached.
    pub bytes: Option<Bytes>,
}

/// One group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupIndex {
    pub marks: Marks,
    /// Whether `marks` changed without a record being queued.
    pub marks_dirty: bool,
    pub slots: BTreeMap<u64, Slot>,
}

impl GroupIndex {
    /// The newest log id, purged ones included.
    pub(crate) fn last(&self) -> Option<LogId> {
        let newest = self.slots.last_key_value().map(|(_, slot)| slot.log_id);
        newest.max(self.marks.purged)
    }

    /// What the log proves of this group.
    pub(crate) fn floor(&self) -> Floor {
        Floor { vote: self.marks.vote, last: self.last() }
    }

    /// Whether the entry `id` names is here, or is the newest purged one.
    pub(crate) fn holds(&self, id: &LogId) -> bool {
        self.marks.purged.as_ref() == Some(id)
            || self.slots.get(&id.index).is_some_and(|slot| slot.log_id == *id)
    }

    /// Takes away entries from `index` on; returns where they lay.
    pub(crate) fn cut_from(&mut self, index: u64) -> Vec<Place> {
        let cut = self.slots.split_off(&index);
        cut.into_values().filter_map(|slot| slot.place).collect()
    }

    /// Takes away entries up to and with `index`; returns where they lay.
    pub(crate) fn cut_upto(&mut self, index: u64) -> Vec<Place> {
        let kept = self.slots.split_off(&(index.saturating_add(1)));
        let cut = std::mem::replace(&mut self.slots, kept);
        cut.into_values().filter_map(|slot| slot.place).collect()
    }

    /// The first index that is missing between the purged id and the newest entry.
    pub(crate) fn hole(&self) -> Option<u64> {
        let first = self.marks.purged.map_or(0, |purged| purged.index + 1);
        let pairs = self.slots.keys().zip(first..);
        pairs
            .into_iter()
            .find(|(index, expected)| **index != *expected)
            .map(|(_, expected)| expected)
    }
}

/// All groups, and the cache of what was written last.
#[derive(Default)]
pub(crate) struct Index {
    pub groups: BTreeMap<u32, GroupIndex>,
    stamps: u64,
    cached: VecDeque<(u32, u64, u64)>,
    cached_bytes: usize,
}

impl Index {
    /// A number never given before.
    pub(crate) fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    /// Says where an entry lies, if it is still the same one. Its bytes stay cached within
    /// `cache_bytes_max`. Returns whether it counts as living.
    pub(crate) fn place(
        &mut self,
        group: u32,
        index: u64,
        stamp: u64,
        place: Place,
        cache_bytes_max: usize,
    ) -> bool {
        let slot = self.groups.get_mut(&group).and_then(|group| group.slots.get_mut(&index));
        let Some(slot) = slot.filter(|slot| slot.stamp == stamp) else { return false };
        slot.place = Some(place);
        if let Some(bytes) = &slot.bytes {
            self.cached_bytes += bytes.len();
            self.cached.push_back((group, index, stamp));
        }
        while self.cached_bytes > cache_bytes_max {
            let Some((group, index, stamp)) = self.cached.pop_front() else { break };
            self.forget(group, index, stamp);
        }
        true
    }

    /// Says that an entry now lies elsewhere, if it is still the same one.
    pub(crate) fn move_to(&mut self, group: u32, index: u64, stamp: u64, place: Place) -> bool {
        let slot = self.groups.get_mut(&group).and_then(|group| group.slots.get_mut(&index));
        match slot.filter(|slot| slot.stamp == stamp) {
            Some(slot) => {
                slot.place = Some(place);
                true
            }
            None => false,
        }
    }

    fn forget(&mut self, group: u32, index: u64, stamp: u64) {
        let slot = self.groups.get_mut(&group).and_then(|group| group.slots.get_mut(&index));
        if let Some(slot) = slot.filter(|slot| slot.stamp == stamp)
            && let Some(bytes) = slot.bytes.take()
        {
            self.cached_bytes = self.cached_bytes.saturating_sub(bytes.len());
            return;
        }
        // The entry left the log before the cache: recount, it is rare.
        self.cached_bytes = self
            .cached
            .iter()
            .filter_map(|(group, index, stamp)| {
                let slot = self.groups.get(group)?.slots.get(index)?;
                (slot.stamp == *stamp).then(|| slot.bytes.as_ref().map_or(0, Bytes::len))
            })
            .sum();
    }
}
