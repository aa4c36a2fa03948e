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
use crate::limits::TX_READS_KEPT_MAX;

/// Rows of one family that changed: `None` is a deletion.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A row that changed, and what had been changed of it until then.
type Before = (&'static str, Vec<u8>, Option<Option<Vec<u8>>>);

/// A row of the store as it was read.
type Known = (&'static str, Vec<u8>, Option<Bytes>);

/// A store and changes to it.
pub struct Tx<'a> {
    base: &'a dyn KvRead,
    /// What was read already, one by one: a command meets the rows of its key and its bucket several
    /// times over, and the store does not change under it.
    known: RefCell<Vec<Known>>,
    changes: BTreeMap<&'static str, Changes>,
    /// What rows were before they changed, newest last, while a part may be taken back.
    undo: Option<Vec<Before>>,
    checks: RefCell<Checks>,
}

impl<'a> Tx<'a> {
    /// No changes yet.
    pub fn new(base: &'a dyn KvRead) -> Tx<'a> {
        Tx {
            base,
            known: RefCell::default(),
            changes: BTreeMap::new(),
            undo: None,
            checks: RefCell::default(),
        }
    }

    /// The value of a key.
    pub fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.changes.get(family).and_then(|changes| changes.get(key)) {
            Some(change) => Ok(change.as_ref().map(|value| Bytes::copy_from_slice(value))),
            None => self.read(family, key),
        }
    }

    fn read(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let is_it = |known: &&Known| known.1 == key && known.0 == family;
        if let Some((.., value)) = self.known.borrow().iter().find(is_it) {
            return Ok(value.clone());
        }
        let value = self.base.get(family, key)?;
        let mut known = self.known.borrow_mut();
        if known.len() < TX_READS_KEPT_MAX {
            known.push((family, key.to_vec(), value.clone()));
        }
        Ok(value)
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

    /// The store itself, as it is before any change.
    pub fn base(&self) -> &'a dyn KvRead {
        self.base
    }

    /// Rows of the store itself, as they are before any change.
    pub fn base_scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        self.base.scan(family, range)
    }

    /// The last row of `first..=last`.
    pub fn last_up_to(
        &self,
        family: &'static str,
        first: &[u8],
        last: &[u8],
    ) -> Result<Option<Row>, KvError> {
        if first > last {
            return Ok(None);
        }
        let bounds = (Bound::Included(first), Bound::Included(last));
        let changes = self.changes.get(family);
        let put = changes.and_then(|changes| {
            changes
                .range::<[u8], _>(bounds)
                .rev()
                .find_map(|(key, value)| value.as_ref().map(|value| (key, value)))
        });
        let is_gone = |key: &[u8]| {
            changes.is_some_and(|changes| changes.get(key).is_some_and(Option::is_none))
        };
        let mut end = last.to_vec();
        end.push(0);
        loop {
            let range = ScanRange {
                start: first.to_vec(),
                end: Some(end.clone()),
                reverse: true,
                limit: 1,
            };
            let below = self.base.scan(family, &range)?.pop();
            let row = |(key, value): (&Vec<u8>, &Vec<u8>)| {
                (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            };
            let Some(below) = below.filter(|(key, _)| put.is_none_or(|(put, _)| **put < **key))
            else {
                return Ok(put.map(row));
            };
            if !is_gone(&below.0) {
                return Ok(Some(below));
            }
            // Each deleted row is passed once.
            end = below.0.to_vec();
        }
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
        self.set(family, key, Some(value));
    }

    /// Removes a key.
    pub fn delete(&mut self, family: &'static str, key: Vec<u8>) {
        self.set(family, key, None);
    }

    fn set(&mut self, family: &'static str, key: Vec<u8>, value: Option<Vec<u8>>) {
        let changes = self.changes.entry(family).or_default();
        match &mut self.undo {
            Some(undo) => {
                let before = changes.insert(key.clone(), value);
                undo.push((family, key, before));
            }
            None => {
                changes.insert(key, value);
            }
        }
    }

    /// What changes from here on may be taken back.
    pub fn begin(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// What changed since [`Tx::begin`] stays.
    pub fn keep(&mut self) {
        self.undo = None;
    }

    /// Takes back what changed since [`Tx::begin`].
    pub fn take_back(&mut self) {
        for (family, key, before) in self.undo.take().unwrap_or_default().into_iter().rev() {
            let changes = self.changes.entry(family).or_default();
            match before {
                Some(before) => changes.insert(key, before),
                None => changes.remove(&key),
            };
        }
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

    /// Of these, rows of a family whose keys begin so.
    pub fn rows_of(&self, family: &'static str, tag: u8) -> usize {
        let Some(changes) = self.changes.get(family) else { return 0 };
        changes.range(vec![tag]..).take_while(|(key, _)| key.first() == Some(&tag)).count()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rows::memory::Memory;

    const FAMILY: &str = "tree";

    proptest! {
        #[test]
        fn reads_see_what_changed_and_what_was_taken_back(
            base in prop::collection::btree_map(0u8..20, any::<u8>(), 0..12),
            first in prop::collection::vec((0u8..20, prop::option::of(any::<u8>())), 0..12),
            second in prop::collection::vec((0u8..20, prop::option::of(any::<u8>())), 0..12),
            is_kept: bool,
            (from, to) in (0u8..20, 0u8..20),
        ) {
            let mut store = Memory::default();
            let rows = base.iter().map(|(key, value)| (vec![*key], Bytes::from(vec![*value])));
            store.rows.insert(FAMILY, rows.collect());
            let mut tx = Tx::new(&store);
            let mut model = base;
            let change = |tx: &mut Tx<'_>, key: u8, value: Option<u8>| match value {
                Some(value) => tx.put(FAMILY, vec![key], vec![value]),
                None => tx.delete(FAMILY, vec![key]),
            };
            let set = |model: &mut BTreeMap<u8, u8>, key: u8, value: Option<u8>| match value {
                Some(value) => drop(model.insert(key, value)),
                None => drop(model.remove(&key)),
            };
            // What was read before is not what is read after a change.
            for key in 0..20 {
                let found = tx.get(FAMILY, &[key]).unwrap().map(|value| value[0]);
                prop_assert_eq!(found, model.get(&key).copied());
            }
            for (key, value) in first {
                change(&mut tx, key, value);
                set(&mut model, key, value);
            }
            tx.begin();
            for (key, value) in second {
                change(&mut tx, key, value);
                if is_kept {
                    set(&mut model, key, value);
                }
            }
            if is_kept { tx.keep() } else { tx.take_back() }
            for key in 0..20 {
                let found = tx.get(FAMILY, &[key]).unwrap().map(|value| value[0]);
                prop_assert_eq!(found, model.get(&key).copied());
            }
            let wanted: Vec<(u8, u8)> = model.iter().map(|(key, value)| (*key, *value)).collect();
            let all = tx.scan(FAMILY, &[], None, usize::MAX).unwrap();
            let all: Vec<(u8, u8)> = all.iter().map(|(key, value)| (key[0], value[0])).collect();
            prop_assert_eq!(&all, &wanted);
            let last = wanted.iter().rfind(|(key, _)| (from..=to).contains(key));
            let found = tx.last_up_to(FAMILY, &[from], &[to]).unwrap();
            prop_assert_eq!(found.map(|(key, value)| (key[0], value[0])), last.copied());
        }
    }
}
