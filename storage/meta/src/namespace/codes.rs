//! How many bytes each code protects: counters that every commit, rewrite and step of freeing keeps,
//! so that nobody has to read all extents to know whether some lie in a code of yesterday.
//!
//! Bytes count where a content's extents say they are. What an extent map gave up, and what only
//! readers hold until the horizon, is counted no more; its block is, until it dies.
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::KvError;
use nexusgrid_env::kv::prefix_end;

use super::limits;
use nexusgrid_env::Invariant;

use super::machine::{Change, Step};
use super::rows::{self, BlockRow, CodeRow};
use super::types::{CodeUsage, Extent};
use crate::rows::tx::{Tx, decode_row};

/// What one command changes of a code's counters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta {
    blocks: i64,
    block_bytes: i64,
    bytes: i64,
    large_bytes: i64,
}

/// Whether a content of so many bytes is too large for packs.
pub(super) fn is_large(size: u64) -> bool {
    size > limits::PACKED_BYTES_MAX
}

/// All counters, by code.
pub(super) fn usage(tx: &Tx<'_>) -> Step<Vec<CodeUsage>> {
    let prefix = rows::codes();
    let end = prefix_end(&prefix);
    let found = tx.scan(rows::STATE, &prefix, end.as_deref(), limits::CODES_MAX)?;
    let usage = |(key, value): &(bytes::Bytes, bytes::Bytes)| -> Result<CodeUsage, KvError> {
        let CodeRow { blocks, block_bytes, bytes, large_bytes, .. } =
            decode_row(rows::STATE, value)?;
        let (k, m) = rows::parse_code(key)
            .ok_or_else(|| KvError::Corrupt("namespace: key of a code".to_owned()))?;
        Ok(CodeUsage { k, m, blocks, block_bytes, bytes, large_bytes })
    };
    Ok(found.iter().map(usage).collect::<Result<_, _>>()?)
}

impl Change<'_> {
    /// A block is live from now on, or is not any more.
    pub(super) fn count_block(&mut self, row: &BlockRow, is_new: bool) {
        let sign = if is_new { 1 } else { -1 };
        let delta = self.codes.entry((row.k, row.m)).or_default();
        delta.blocks += sign;
        delta.block_bytes += sign * i64::from(row.len);
    }

    /// A content of `size` bytes has this extent from now on, or has it no more.
    pub(super) fn count_extent(&mut self, extent: &Extent, size: u64, is_new: bool) {
        let len = i64::try_from(extent.len).unwrap_or(i64::MAX);
        let len = if is_new { len } else { -len };
        let delta = self.codes.entry((extent.k, extent.m)).or_default();
        delta.bytes = delta.bytes.saturating_add(len);
        if is_large(size) {
            delta.large_bytes = delta.large_bytes.saturating_add(len);
        }
    }

    /// Writes what the command changed.
    pub(super) fn settle_codes(&mut self) -> Step<()> {
        for ((k, m), delta) in std::mem::take(&mut self.codes) {
            let key = rows::code(k, m);
            let row: Option<CodeRow> = self.tx.load(rows::STATE, &key)?;
            let row = row.unwrap_or_default();
            let is_sound = row.blocks.checked_add_signed(delta.blocks).is_some()
                && row.bytes.checked_add_signed(delta.bytes).is_some();
            self.tx.check(Invariant::I8, is_sound, || format!("code {k}+{m}: below zero"));
            // What the rewrite worker goes by: a wrong count must not end the group.
            let row = CodeRow {
                sequence: self.sequence,
                blocks: row.blocks.saturating_add_signed(delta.blocks),
                block_bytes: row.block_bytes.saturating_add_signed(delta.block_bytes),
                bytes: row.bytes.saturating_add_signed(delta.bytes),
                large_bytes: row.large_bytes.saturating_add_signed(delta.large_bytes),
            };
            if row.blocks == 0 {
                self.tx.delete(rows::STATE, key);
            } else {
                self.tx.store(rows::STATE, key, &row);
            }
        }
        Ok(())
    }
}
