//! An ordered map for tests of the pure machines.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::kv::{Change, Row};
use nexusgrid_env::{Batch, KvError, KvRead, ScanRange};

use crate::limits::BATCH_ROWS_MAX;
use crate::machine::{ApplyContext, StateMachine};

/// A store in memory, and the index of the last command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub rows: BTreeMap<&'static str, BTreeMap<Vec<u8>, Bytes>>,
    pub index: u64,
}

impl Memory {
    pub fn write(&mut self, batch: Batch) {
        for change in batch.changes {
            match change {
                Change::Put(family, key, value) => {
                    self.rows.entry(family).or_default().insert(key, value.into());
                }
                Change::Delete(family, key) => {
                    self.rows.entry(family).or_default().remove(&key);
                }
                Change::DeleteRange(family, start, end) => {
                    let rows = self.rows.entry(family).or_default();
                    rows.retain(|key, _| *key < start || *key >= end);
                }
            }
        }
    }

    /// Applies an encoded command as the next one of group 1; gives the reply.
    pub fn apply(&mut self, machine: &dyn StateMachine, command: &[u8]) -> Vec<u8> {
        self.index += 1;
        let context = ApplyContext { index: self.index, group: GroupId(1) };
        let applied = machine.apply(self, &context, command).unwrap();
        assert!(applied.batch.changes.len() <= BATCH_ROWS_MAX, "bounded commands");
        self.write(applied.batch);
        applied.reply
    }
}

impl KvRead for Memory {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.rows.get(family).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        let Some(rows) = self.rows.get(family) else { return Ok(Vec::new()) };
        let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Ok(Vec::new());
        }
        let rows = rows
            .range::<[u8], _>((Bound::Included(range.start.as_slice()), end))
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()));
        Ok(if range.reverse {
            rows.rev().take(range.limit).collect()
        } else {
            rows.take(range.limit).collect()
        })
    }
}
