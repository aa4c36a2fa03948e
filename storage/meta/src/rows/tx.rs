//! Reads of a store through the changes that a command has made so far.
//!
//! A command with several parts sees in each what the ones before did; nothing is written here:
//! the changes become the batch that the host writes (I6).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use nexusgrid_env::kv::Row;
use nexusgrid_env::{Batch, Checks, Invariant, KvError, KvRead, ScanRange};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;

/// Rows of one family that changed: `None` is a deletion.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A store and changes to it.
pub struct Tx<'a> {
    base: &'a dyn KvRead,
    changes: BTreeMap<&'static str, Changes>,
    checks: RefCell<Checks>,
}

impl<'a> Tx<'a> {
    /// No changes yet.
    pub fn new(base: &'a dyn KvRead) -> Tx<'a> {
        Tx { base, changes: BTreeMap::new(), checks: RefCell::default() }
    }

    /// The value of a key.
    pub fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.changes.get(family).and_then(|changes| changes.get(key)) {
            Some(change) => Ok(change.as_ref().map(|value| Bytes::copy_from_slice(value))),
            None => self.base.get(family, key),
        }
    }

    /// Rows of `start..end` in order, at most `limit`.
    pub fn scan(
        &self,
        family: &'static str,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, KvError> {
        let range = |limit| ScanRange {
            start: start.to_vec(),
            end: end.map(<[u8]>::to_vec),
            reverse: false,
            limit,
        };
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let bounds = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        let Some(changes) = self.changes.get(family) else {
            return self.base.scan(family, &range(limit));
        };
        let changed: Vec<_> = changes.range::<[u8], _>(bounds).collect();
        // Each change hides at most one row of the store.
        let base = self.base.scan(family, &range(limit.saturating_add(changed.len())))?;
        let mut merged: BTreeMap<Bytes, Bytes> = base.into_iter().collect();
        for (key, value) in changed {
            let key = Bytes::copy_from_slice(key);
            match value {
                Some(value) => merged.insert(key, Bytes::copy_from_slice(value)),
                None => merged.remove(&key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }

    /// The last row of `first..=last`.
    pub fn last_up_to(
        &self,
        family: &'static str,
        first: &[u8],
        last: &[u8],
    ) -> Result<Option<Row>, KvError> {
        let mut end = last.to_vec();
        end.push(0);
        let is_changed = self.changes.get(family).is_some_and(|changes| {
            changes
                .range::<[u8], _>((Bound::Included(first), Bound::Included(last)))
                .next()
                .is_some()
        });
        if is_changed {
            return Ok(self.scan(family, first, Some(&end), usize::MAX)?.pop());
        }
        let range = ScanRange { start: first.to_vec(), end: Some(end), reverse: true, limit: 1 };
        Ok(self.base.scan(family, &range)?.pop())
    }

    /// The decoded value of a key. What cannot be decoded is corruption: the replica must stop.
    pub fn load<T: DeserializeOwned>(
        &self,
        family: &'static str,
        key: &[u8],
    ) -> Result<Option<T>, KvError> {
        self.get(family, key)?.map(|value| decode_row(family, &value)).transpose()
    }

    /// Encodes and sets a key.
    pub fn store<T: Serialize>(&mut self, family: &'static str, key: Vec<u8>, value: &T) {
        self.put(family, key, codec::encode(value));
    }

    /// Sets a key.
    pub fn put(&mut self, family: &'static str, key: Vec<u8>, value: Vec<u8>) {
        self.changes.entry(family).or_default().insert(key, Some(value));
    }

    /// Removes a key.
    pub fn delete(&mut self, family: &'static str, key: Vec<u8>) {
        self.changes.entry(family).or_default().insert(key, None);
    }

    /// Notes whether an invariant holds; whoever applies the command counts it.
    pub fn check(&self, invariant: Invariant, holds: bool, detail: impl FnOnce() -> String) {
        self.checks.borrow_mut().check(invariant, holds, detail);
    }

    /// What was noted.
    pub fn take_checks(&mut self) -> Checks {
        self.checks.take()
    }

    /// Rows changed so far.
    pub fn rows(&self) -> usize {
        self.changes.values().map(BTreeMap::len).sum()
    }

    /// The changes, in order of family and key.
    pub fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for (family, changes) in self.changes {
            for (key, value) in changes {
                match value {
                    Some(value) => batch.put(family, key, value),
                    None => batch.delete(family, key),
                }
            }
        }
        batch
    }
}

/// Decodes a stored row.
pub fn decode_row<T: DeserializeOwned>(family: &'static str, value: &[u8]) -> Result<T, KvError> {
    codec::decode(value).map_err(|error| KvError::Corrupt(format!("row of {family}: {error}")))
}
