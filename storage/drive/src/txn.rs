//! The index as the log stands at one point: the store plus the changes of an uncommitted batch.

use std::collections::BTreeMap;

use bytes::Bytes;
use nexusgrid_codec::{BlockId, Epoch, PgId};
use nexusgrid_env::{Batch, Durability, Kv, KvError, ScanRange};
use serde::de::DeserializeOwned;

use crate::index::{self, Meta, SegmentRow, Sessions, ShardRow, TombRow};
use crate::types::ShardKey;

/// Slots of one block, or closed sessions above a floor: far fewer exist.
const PREFIX_ROWS_MAX: usize = 1 << 20;

type Key = (&'static str, Vec<u8>);

/// Uncommitted changes over a store. Dropping it forgets them.
pub struct Txn<'a> {
    kv: &'a dyn Kv,
    changes: BTreeMap<Key, Option<Vec<u8>>>,
    /// Folded state that every batch changes; written with it.
    pub meta: Meta,
}

fn corrupt(family: &str) -> KvError {
    KvError::Corrupt(format!("row of {family} does not decode"))
}

impl<'a> Txn<'a> {
    /// Begins with no changes.
    pub fn new(kv: &'a dyn Kv, meta: Meta) -> Txn<'a> {
        Txn { kv, changes: BTreeMap::new(), meta }
    }

    /// Number of changed rows.
    pub fn changed(&self) -> usize {
        self.changes.len()
    }

    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.changes.get(&(family, key.to_vec())) {
            Some(change) => Ok(change.as_ref().map(|value| Bytes::copy_from_slice(value))),
            None => self.kv.get(family, key),
        }
    }

    fn row<T: DeserializeOwned>(
        &self,
        family: &'static str,
        key: &[u8],
    ) -> Result<Option<T>, KvError> {
        self.get(family, key)?
            .map(|bytes| index::decode(&bytes).ok_or_else(|| corrupt(family)))
            .transpose()
    }

    /// Sets a row.
    pub fn put(&mut self, family: &'static str, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert((family, key), Some(value));
    }

    /// Removes a row.
    pub fn delete(&mut self, family: &'static str, key: Vec<u8>) {
        self.changes.insert((family, key), None);
    }

    /// Keys that begin with `prefix`, in order.
    fn keys(&self, family: &'static str, prefix: &[u8]) -> Result<Vec<Vec<u8>>, KvError> {
        let rows = self.kv.scan(family, &ScanRange::prefix(prefix, PREFIX_ROWS_MAX))?;
        let mut keys: BTreeMap<Vec<u8>, bool> =
            rows.into_iter().map(|(key, _)| (key.to_vec(), true)).collect();
        let from = (family, prefix.to_vec());
        let changed = self
            .changes
            .range(from..)
            .take_while(|((f, key), _)| *f == family && key.starts_with(prefix));
        for ((_, key), change) in changed {
            keys.insert(key.clone(), change.is_some());
        }
        Ok(keys.into_iter().filter(|(_, present)| *present).map(|(key, _)| key).collect())
    }

    /// A shard's row.
    pub fn shard(&self, key: ShardKey) -> Result<Option<ShardRow>, KvError> {
        self.row(index::SHARDS, &index::shard_key(key))
    }

    /// All slots of a block that are here.
    pub fn shards_of(&self, block: BlockId) -> Result<Vec<ShardKey>, KvError> {
        let keys = self.keys(index::SHARDS, &block.to_bytes())?;
        Ok(keys.iter().filter_map(|key| index::parse_shard_key(key)).collect())
    }

    /// A segment's row.
    pub fn segment(&self, segment: u64) -> Result<Option<SegmentRow>, KvError> {
        self.row(index::SEGMENTS, &index::segment_key(segment))
    }

    /// Sets a segment's row.
    pub fn put_segment(&mut self, segment: u64, row: &SegmentRow) {
        self.put(index::SEGMENTS, index::segment_key(segment), index::encode(row));
    }

    /// A block's tombstone, if it has one.
    pub fn tombstone(&self, block: BlockId) -> Result<Option<TombRow>, KvError> {
        self.row(index::TOMBSTONES, &block.to_bytes())
    }

    /// The epoch known for a PG; zero if none.
    pub fn epoch(&self, pg: PgId) -> Result<Epoch, KvError> {
        Ok(self.row(index::EPOCHS, &index::epoch_key(pg))?.unwrap_or_default())
    }

    /// The floor of a kind of sessions; zero if none was set.
    pub fn floor(&self, sessions: Sessions) -> Result<u64, KvError> {
        Ok(self.row(index::SESSIONS, &sessions.floor_key())?.unwrap_or_default())
    }

    /// Whether a session is closed.
    pub fn is_closed(&self, sessions: Sessions, session: u64) -> Result<bool, KvError> {
        if session < self.floor(sessions)? {
            return Ok(true);
        }
        Ok(self.get(index::SESSIONS, &sessions.closed_key(session))?.is_some())
    }

    /// The explicitly closed sessions.
    pub fn closed(&self, sessions: Sessions) -> Result<Vec<u64>, KvError> {
        let keys = self.keys(index::SESSIONS, &sessions.closed_prefix())?;
        Ok(keys.iter().filter_map(|key| Sessions::parse_closed_key(key)).collect())
    }

    /// Writes the changes. The records behind them must be synced already: the index is never
    /// ahead of the data. Unsynced is enough, the log replays what is lost.
    pub fn commit(self) -> Result<Meta, KvError> {
        let mut batch = Batch::default();
        for ((family, key), change) in self.changes {
            match change {
                Some(value) => batch.put(family, key, value),
                None => batch.delete(family, key),
            }
        }
        batch.put(index::META, index::META_KEY, index::encode(&self.meta));
        self.kv.write(batch, Durability::Unsynced)?;
        Ok(self.meta)
    }
}
