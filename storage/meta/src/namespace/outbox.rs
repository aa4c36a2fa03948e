//! What is left to do: freeing what was released, deleting dead blocks, refilling missing shards.
//!
//! ```text
//!   content released ──horizon──> ExpandThrough: extents go, live bytes fall ──0──> dead block
//!   dead block ──tombstones acknowledged by every mapped drive──> OutboxAck: row goes
//! ```
//!
//! Each step touches few rows, so that one object of 5 TiB does not stall its group.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::{BlockId, Epoch, PgId};
use nexusgrid_env::Invariant;
use nexusgrid_env::kv::prefix_end;

use super::contents::slots;
use super::limits;
use super::machine::{Change, Step, corrupt};
use super::rows::{
    self, BlockRow, ContentKind, ContentRow, DeadRow, OutboxRow, Page, Part, Released, RepairRow,
};
use super::types::{
    ContentId, Extent, NamespaceAnswer, NamespaceError, NamespaceOk, Repaired, UploadId,
};
use super::uploads::part_rows;
use crate::rows::tx::{Tx, decode_row};

/// Outbox rows looked at by one step: those that may not be freed yet are passed over.
pub(super) const LOOK_MAX: usize = 128;

/// What waits to be freed.
pub(super) fn released(tx: &Tx<'_>) -> Step<NamespaceAnswer> {
    // Both kinds of keys begin with the commit sequence.
    let bounds = |tag: &[u8]| -> Step<Option<(u64, u64)>> {
        let Some(end) = prefix_end(tag) else { return Ok(None) };
        let first = tx.scan(rows::STATE, tag, Some(&end), 1)?.into_iter().next();
        let last = tx.last_up_to(rows::STATE, tag, &end)?;
        Ok(match (first, last) {
            (Some((first, _)), Some((last, _))) => {
                Some((sequence_of(&first)?, sequence_of(&last)?))
            }
            _ => None,
        })
    };
    Ok(NamespaceAnswer::Released { outbox: bounds(b"O")?, moved: bounds(&rows::all_moved())? })
}

/// The commit sequence in the key of what waits to be freed.
fn sequence_of(key: &[u8]) -> Step<u64> {
    let bytes = key.get(1..9).and_then(|bytes| bytes.try_into().ok());
    Ok(u64::from_be_bytes(bytes.ok_or_else(|| corrupt("key of what was released"))?))
}

impl Change<'_> {
    pub(super) fn outbox_expand(
        &mut self,
        now_ms: u64,
        is_due: impl Fn(&OutboxRow) -> bool,
    ) -> Step<NamespaceOk> {
        let end = prefix_end(b"O");
        let found = self.tx.scan(rows::STATE, b"O", end.as_deref(), LOOK_MAX)?;
        let mut freed = 0;
        let mut more = found.len() == LOOK_MAX;
        for (key, value) in found {
            let row: OutboxRow = decode_row(rows::STATE, &value)?;
            if !is_due(&row) {
                continue;
            }
            if self.is_spent() {
                more = true;
                break;
            }
            let is_done = match row.what {
                Released::Content(content) => self.expand_content(content, now_ms)?,
                Released::Upload(upload) => self.expand_upload(upload, now_ms)?,
                Released::Mount(mount) => self.expand_holds(mount, now_ms)?,
                Released::End(content) => self.expand_end(content, row.sequence, now_ms)?,
                Released::Snapshot(bucket, id) => self.expand_snapshot(bucket, id, now_ms)?,
                Released::Nodes(bucket, mut nodes) => {
                    self.expand_nodes(bucket, &mut nodes)?;
                    let is_done = nodes.is_empty();
                    if !is_done {
                        let row = OutboxRow { what: Released::Nodes(bucket, nodes), ..row };
                        self.tx.store(rows::STATE, key.to_vec(), &row);
                    }
                    is_done
                }
                Released::Parts(upload, numbers) => {
                    let left = self.expand_parts(upload, numbers, now_ms)?;
                    let is_done = left.is_empty();
                    if !is_done {
                        let row = OutboxRow { what: Released::Parts(upload, left), ..row };
                        self.tx.store(rows::STATE, key.to_vec(), &row);
                    }
                    is_done
                }
            };
            if is_done {
                self.tx.delete(rows::STATE, key.to_vec());
                freed += 1;
            } else {
                more = true;
            }
        }
        Ok(NamespaceOk::Expanded { freed, more })
    }

    /// Whether this step has touched enough rows.
    pub(super) fn is_spent(&self) -> bool {
        self.tx.rows() >= limits::EXPAND_ROWS_MAX
    }

    fn expand_content(&mut self, content: ContentId, now_ms: u64) -> Step<bool> {
        let row: Option<ContentRow> = self.tx.load(rows::CONTENT, &rows::content(content))?;
        let Some(row) = row else {
            return Err(corrupt("a released content that is not there"));
        };
        if row.references > 0 {
            return Err(corrupt("a released content with references"));
        }
        let is_done = match row.kind {
            ContentKind::Empty => true,
            ContentKind::Inline { .. } => {
                self.tx.delete(rows::INLINE, rows::inline(content));
                true
            }
            ContentKind::Extents { .. }
            | ContentKind::Copies { .. }
            | ContentKind::Linked
            | ContentKind::Log
            | ContentKind::File { .. } => self.expand_pages(content, &row, true, now_ms)?,
            ContentKind::Parts { upload } => {
                self.expand_upload(upload, now_ms)?
                    && self.expand_pages(content, &row, false, now_ms)?
            }
        };
        if is_done {
            self.tx.delete(rows::CONTENT, rows::content(content));
            if matches!(row.kind, ContentKind::File { .. }) {
                self.tx.delete(rows::CONTENT, super::posix::rows::cut(content));
            }
        }
        Ok(is_done)
    }

    /// Takes pages away of a content; `counted`: their entries count as references.
    fn expand_pages(
        &mut self,
        content: ContentId,
        row: &ContentRow,
        counted: bool,
        now_ms: u64,
    ) -> Step<bool> {
        let prefix = rows::pages(content).done();
        let end = prefix_end(&prefix);
        loop {
            if self.is_spent() {
                return Ok(false);
            }
            let page = self.tx.scan(rows::CONTENT, &prefix, end.as_deref(), 1)?;
            let Some((key, value)) = page.into_iter().next() else { return Ok(true) };
            self.tx.delete(rows::CONTENT, key.to_vec());
            match decode_row(rows::CONTENT, &value)? {
                Page::Extents { extents, .. } => {
                    let mut rest = extents.iter();
                    while let Some(extent) = rest.as_slice().first() {
                        if self.is_spent() {
                            let extents = rest.as_slice().to_vec();
                            let page = Page::Extents { sequence: self.sequence, extents };
                            let key = rows::page(content, extent.offset);
                            self.tx.store(rows::CONTENT, key, &page);
                            return Ok(false);
                        }
                        self.count_extent(extent, row.coded_size_of(extent), false);
                        self.free_extent(extent, now_ms)?;
                        rest.next();
                    }
                }
                Page::Mixed { parts, .. } => {
                    let mut rest = parts.iter();
                    while let Some(part) = rest.as_slice().first() {
                        if self.is_spent() {
                            let parts = rest.as_slice().to_vec();
                            let page = Page::Mixed { sequence: self.sequence, parts };
                            let key = rows::page(content, part.offset());
                            self.tx.store(rows::CONTENT, key, &page);
                            return Ok(false);
                        }
                        match part {
                            Part::Own(extent) => {
                                self.count_extent(extent, row.coded_size_of(extent), false);
                                self.free_extent(extent, now_ms)?;
                            }
                            Part::Of(segment) => self.unrefer(segment.content, now_ms)?,
                        }
                        rest.next();
                    }
                }
                Page::Segments { segments, .. } if counted => {
                    // At most a page of 128 contents, each one row and perhaps one outbox row.
                    for segment in segments {
                        self.unrefer(segment.content, now_ms)?;
                    }
                }
                Page::Segments { .. } => {}
            }
        }
    }

    /// Takes an extent's bytes off its block; the last ones kill it.
    pub(super) fn free_extent(&mut self, extent: &Extent, now_ms: u64) -> Step<()> {
        let key = rows::block(extent.block);
        let row: Option<BlockRow> = self.tx.load(rows::CONTENT, &key)?;
        let mut row = row.ok_or_else(|| corrupt("an extent of a block that is not there"))?;
        let counted = extent.len <= u64::from(row.live);
        self.tx.check(Invariant::I10, counted, || format!("{extent:?} of {row:?}"));
        row.live = u32::try_from(extent.len)
            .ok()
            .and_then(|len| row.live.checked_sub(len))
            .ok_or_else(|| corrupt("a block's live bytes below zero"))?;
        if row.live > 0 {
            row.sequence = self.sequence;
            self.tx.store(rows::CONTENT, key, &row);
            return Ok(());
        }
        self.tx.delete(rows::CONTENT, key);
        self.count_block(&row, false);
        for slot in slots(row.missing_mask) {
            self.tx.delete(rows::STATE, rows::repair(row.pg, extent.block, slot));
        }
        let dead = DeadRow { sequence: self.sequence, pg: row.pg, since_ms: now_ms };
        self.tx.store(rows::STATE, rows::dead(extent.block), &dead);
        Ok(())
    }

    /// Takes an upload's parts away, as many as this step may.
    fn expand_upload(&mut self, upload: UploadId, now_ms: u64) -> Step<bool> {
        loop {
            let parts = part_rows(&self.tx, upload, 0, limits::PAGE_ENTRIES)?;
            if parts.is_empty() {
                return Ok(true);
            }
            for part in parts {
                if self.is_spent() {
                    return Ok(false);
                }
                self.tx.delete(rows::STATE, rows::part(upload, part.info.number));
                self.unrefer(part.info.content, now_ms)?;
            }
        }
    }

    /// Takes parts away that a completion did not name; gives those that are left.
    fn expand_parts(&mut self, upload: UploadId, numbers: Vec<u16>, now_ms: u64) -> Step<Vec<u16>> {
        let mut rest = numbers.into_iter();
        while !self.is_spent() {
            let Some(number) = rest.next() else { break };
            let key = rows::part(upload, number);
            // Absent if the completed object was freed first: its parts went all together.
            let part: Option<rows::PartRow> = self.tx.load(rows::STATE, &key)?;
            if let Some(part) = part {
                self.tx.delete(rows::STATE, key);
                self.unrefer(part.info.content, now_ms)?;
            }
        }
        Ok(rest.collect())
    }

    pub(super) fn outbox_ack(&mut self, blocks: &[BlockId]) -> Step<NamespaceOk> {
        if blocks.len() > limits::ACKS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        for block in blocks {
            self.tx.delete(rows::STATE, rows::dead(*block));
        }
        Ok(NamespaceOk::Done)
    }

    /// What was acknowledged under an older epoch and is not committed yet never will be.
    pub(super) fn fence_pg(&mut self, pg: PgId, epoch: Epoch) -> Step<NamespaceOk> {
        let key = rows::fence(pg);
        let known: Option<Epoch> = self.tx.load(rows::STATE, &key)?;
        if known.is_none_or(|known| known < epoch) {
            self.tx.store(rows::STATE, key, &epoch);
        }
        Ok(NamespaceOk::Done)
    }

    /// The inverse of [`Change::repair_done`], for what scrub, readers and `fsck` find.
    pub(super) fn mark_missing(
        &mut self,
        shards: &[(PgId, BlockId, u8)],
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        if shards.len() > limits::ACKS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        for (pg, block, slot) in shards {
            let row: Option<BlockRow> = self.tx.load(rows::CONTENT, &rows::block(*block))?;
            let Some(row) = row.filter(|row| row.pg == *pg && *slot < row.k + row.m) else {
                continue;
            };
            let bit = 1u32.checked_shl(u32::from(*slot)).unwrap_or(0);
            // Named once more: who saw it whole before this does not strike it off.
            let missing_mask = row.missing_mask | bit;
            let repair = RepairRow { sequence: self.sequence, since_ms: now_ms, epoch: row.epoch };
            self.tx.store(rows::STATE, rows::repair(*pg, *block, *slot), &repair);
            let row = BlockRow { sequence: self.sequence, missing_mask, ..row };
            self.tx.store(rows::CONTENT, rows::block(*block), &row);
        }
        Ok(NamespaceOk::Done)
    }

    pub(super) fn repair_done(&mut self, shards: &[Repaired]) -> Step<NamespaceOk> {
        if shards.len() > limits::ACKS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        for Repaired { pg, block, slot, sequence } in shards {
            let key = rows::repair(*pg, *block, *slot);
            let known: Option<RepairRow> = self.tx.load(rows::STATE, &key)?;
            if known.is_none_or(|row| row.sequence > *sequence) {
                continue;
            }
            self.tx.delete(rows::STATE, key);
            let row: Option<BlockRow> = self.tx.load(rows::CONTENT, &rows::block(*block))?;
            let bit = 1u32.checked_shl(u32::from(*slot)).unwrap_or(0);
            if let Some(row) = row.filter(|row| row.pg == *pg && row.missing_mask & bit != 0) {
                let row = BlockRow {
                    sequence: self.sequence,
                    missing_mask: row.missing_mask & !bit,
                    ..row
                };
                self.tx.store(rows::CONTENT, rows::block(*block), &row);
            }
        }
        Ok(NamespaceOk::Done)
    }
}
