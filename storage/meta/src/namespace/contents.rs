//! Contents: made, linked, released.
//!
//! What a content holds never changes after it was made; only its count does (I7), and where its bytes
//! lie ([`super::rewrite`]). A log alone grows, behind what anyone sees of it ([`super::append`]). The last reference moves it
//! to the outbox (I10), whose steps ([`super::outbox`]) take its pages apart later.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use nexusgrid_codec::id::{BlockId, Epoch, SessionId};
use nexusgrid_env::Invariant;

use super::limits;
use super::machine::{Change, Step, corrupt};
use super::rows::{
    self, BlockRow, ContentKind, ContentRow, DeadRow, Page, Released, RepairRow, Segment,
};
use super::types::{
    ContentBody, ContentId, Extent, Malformed, NamespaceError, NewBlock, NewContent,
};

/// Blocks that a command brought, checked; each is bound when a content first refers to it.
#[derive(Clone)]
pub(super) struct Blocks {
    by_id: BTreeMap<BlockId, (NewBlock, u32)>,
}

impl Blocks {
    /// Taken as they are.
    pub(super) fn unchecked(blocks: &[NewBlock]) -> Blocks {
        Blocks { by_id: blocks.iter().map(|block| (block.block, (*block, 0))).collect() }
    }

    /// Counts an extent that refers to a block from now on.
    pub(super) fn refer(&mut self, extent: &Extent) {
        if let Some((_, live)) = self.by_id.get_mut(&extent.block) {
            *live = live.saturating_add(u32::try_from(extent.len).unwrap_or(u32::MAX));
        }
    }

    /// Checks that an extent lies in one of these blocks, as that is coded.
    pub(super) fn check_extent(&self, extent: &Extent) -> Result<(), NamespaceError> {
        let Some((block, _)) = self.by_id.get(&extent.block) else {
            return Err(Malformed::Blocks.into());
        };
        let in_region = u64::from(extent.skip)
            .checked_add(extent.len)
            .is_some_and(|last| last <= u64::from(extent.region_len));
        if extent.len == 0
            || !in_region
            || extent.region_len > block.len
            || extent.pg != block.pg
            || extent.k != block.k
            || extent.m != block.m
        {
            return Err(Malformed::Extents.into());
        }
        Ok(())
    }
}

impl Change<'_> {
    /// Checks a command's blocks: of its session and group, at quorum (I1), not bound yet (I3).
    pub(super) fn check_blocks(&self, session: SessionId, blocks: &[NewBlock]) -> Step<Blocks> {
        let mut by_id = BTreeMap::new();
        let mut missing = 0;
        if blocks.len() > limits::BLOCKS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        for block in blocks {
            let width = u32::from(block.k) + u32::from(block.m);
            let of_width = 1u64.checked_shl(width).map_or(0, |bit| bit - 1);
            if block.block.session != session
                || block.block.group != self.group
                || block.k == 0
                || width > 32
                || u64::from(block.missing_mask) & !of_width != 0
                || by_id.insert(block.block, (*block, 0)).is_some()
            {
                return Err(Malformed::Blocks.into());
            }
            let quorum = (u32::from(block.k) + 1).min(width);
            if width - block.missing_mask.count_ones() < quorum {
                return Err(NamespaceError::NoQuorum(block.block).into());
            }
            let fence: Option<Epoch> = self.tx.load(rows::STATE, &rows::fence(block.pg))?;
            if fence.is_some_and(|fence| block.epoch < fence) {
                return Err(NamespaceError::Fenced(block.block).into());
            }
            missing += block.missing_mask.count_ones() as usize;
            if self.tx.get(rows::CONTENT, &rows::block(block.block))?.is_some()
                || self.tx.get(rows::STATE, &rows::dead(block.block))?.is_some()
            {
                return Err(NamespaceError::BlockBound(block.block).into());
            }
        }
        if missing > limits::MISSING_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        Ok(Blocks { by_id })
    }

    /// Checks that a content's body is whole and refers to the command's blocks only.
    pub(super) fn check_content(&self, content: &NewContent, blocks: &Blocks) -> Step<()> {
        match &content.body {
            ContentBody::Empty if content.size == 0 => Ok(()),
            ContentBody::Empty => Err(Malformed::Extents.into()),
            ContentBody::Inline { sealed, .. } => {
                let fits = sealed.len() <= limits::INLINE_BYTES_MAX
                    && content.size > 0
                    && content.size <= sealed.len() as u64;
                if fits { Ok(()) } else { Err(Malformed::Inline.into()) }
            }
            ContentBody::Extents(extents) => Ok(check_extents(content.size, extents, blocks)?),
            ContentBody::Copies(extents) if extents.iter().any(|extent| extent.k != 1) => {
                Err(Malformed::Extents.into())
            }
            ContentBody::Copies(extents) => Ok(check_extents(content.size, extents, blocks)?),
            ContentBody::Staged(pieces) => self.check_staged(content.size, pieces),
        }
    }

    /// Makes a content with no reference yet. It was checked.
    pub(super) fn make_content(
        &mut self,
        content: NewContent,
        blocks: &mut Blocks,
    ) -> Step<ContentId> {
        let id = ContentId(self.next_id()?);
        let kind = match content.body {
            ContentBody::Empty => ContentKind::Empty,
            ContentBody::Staged(pieces) => return self.link_staged(&pieces),
            ContentBody::Inline { block, sealed } => {
                self.tx.put(rows::INLINE, rows::inline(id), sealed.to_vec());
                ContentKind::Inline { key: content.key, block }
            }
            ContentBody::Extents(extents) => {
                self.store_extents(id, content.size, &extents, blocks);
                ContentKind::Extents { key: content.key }
            }
            ContentBody::Copies(extents) => {
                self.store_extents(id, 0, &extents, blocks);
                ContentKind::Copies { key: content.key }
            }
        };
        let row = ContentRow {
            sequence: self.sequence,
            references: 0,
            size: content.size,
            depth: 0,
            kind,
        };
        self.tx.store(rows::CONTENT, rows::content(id), &row);
        Ok(id)
    }

    /// Pages of a content whose code depends on so many bytes.
    fn store_extents(
        &mut self,
        id: ContentId,
        coded_size: u64,
        extents: &[Extent],
        blocks: &mut Blocks,
    ) {
        for page in extents.chunks(limits::PAGE_ENTRIES) {
            let Some(first) = page.first() else { continue };
            let row = Page::Extents { sequence: self.sequence, extents: page.to_vec() };
            self.tx.store(rows::CONTENT, rows::page(id, first.offset), &row);
        }
        for extent in extents {
            blocks.refer(extent);
            self.count_extent(extent, coded_size, true);
        }
    }

    /// Binds the blocks that contents refer to, with their repair rows (I2). The others stay
    /// unbound, or die at once if `drop_rest`: their writer was refused for good.
    pub(super) fn bind_blocks(&mut self, blocks: Blocks, drop_rest: bool, now_ms: u64) {
        for (id, (block, live)) in blocks.by_id {
            if live == 0 {
                if drop_rest {
                    let row = DeadRow { sequence: self.sequence, pg: block.pg, since_ms: now_ms };
                    self.tx.store(rows::STATE, rows::dead(id), &row);
                }
                continue;
            }
            let row = BlockRow {
                sequence: self.sequence,
                pg: block.pg,
                epoch: block.epoch,
                len: block.len,
                live,
                k: block.k,
                m: block.m,
                missing_mask: block.missing_mask,
            };
            let width = u32::from(row.k) + u32::from(row.m);
            let acked = width.saturating_sub(row.missing_mask.count_ones());
            let quorum = (u32::from(row.k) + 1).min(width);
            self.tx.check(Invariant::I1, acked >= quorum, || format!("{id}: {acked} of {quorum}"));
            self.tx.store(rows::CONTENT, rows::block(id), &row);
            self.count_block(&row, true);
            let repair =
                RepairRow { sequence: self.sequence, since_ms: now_ms, epoch: block.epoch };
            for slot in slots(block.missing_mask) {
                self.tx.store(rows::STATE, rows::repair(block.pg, id, slot), &repair);
            }
        }
    }

    /// A content's row. Whoever refers to it keeps it there.
    pub(super) fn content_row(&self, content: ContentId) -> Step<ContentRow> {
        self.tx
            .load(rows::CONTENT, &rows::content(content))?
            .ok_or_else(|| corrupt("a reference to a content that is not there"))
    }

    /// Counts one more reference.
    pub(super) fn refer(&mut self, content: ContentId) -> Step<()> {
        let mut row = self.content_row(content)?;
        if row.references >= limits::REFERENCES_MAX {
            return Err(NamespaceError::CopyInstead.into());
        }
        row.references += 1;
        row.sequence = self.sequence;
        self.tx.store(rows::CONTENT, rows::content(content), &row);
        Ok(())
    }

    /// Counts one reference less; the last releases the content.
    pub(super) fn unrefer(&mut self, content: ContentId, now_ms: u64) -> Step<()> {
        let mut row = self.content_row(content)?;
        let counted = row.references > 0;
        self.tx.check(Invariant::I7, counted, || format!("{content:?}: {row:?}"));
        row.references =
            row.references.checked_sub(1).ok_or_else(|| corrupt("a reference count below zero"))?;
        row.sequence = self.sequence;
        let is_last = row.references == 0;
        self.tx.store(rows::CONTENT, rows::content(content), &row);
        if is_last {
            self.release(Released::Content(content), now_ms);
        }
        Ok(())
    }

    /// Makes a linked content of segments that lie one after the other. With `Linked` and `Log` each segment
    /// counts as a reference; with `Parts` the upload's part rows do.
    pub(super) fn make_linked(
        &mut self,
        segments: &[Segment],
        depth: u8,
        kind: ContentKind,
    ) -> Step<ContentId> {
        let id = ContentId(self.next_id()?);
        for page in segments.chunks(limits::PAGE_ENTRIES) {
            let Some(first) = page.first() else { continue };
            let row = Page::Segments { sequence: self.sequence, segments: page.to_vec() };
            self.tx.store(rows::CONTENT, rows::page(id, first.offset), &row);
        }
        if matches!(kind, ContentKind::Linked | ContentKind::Log) {
            for segment in segments {
                self.refer(segment.content)?;
            }
        }
        let size = segments.last().map_or(0, |last| last.offset + last.len);
        let row = ContentRow { sequence: self.sequence, references: 0, size, depth, kind };
        self.tx.store(rows::CONTENT, rows::content(id), &row);
        Ok(id)
    }
}

/// The slots in a mask.
pub(super) fn slots(mask: u32) -> impl Iterator<Item = u8> {
    (0..32u8).filter(move |slot| mask >> slot & 1 == 1)
}

/// Extents in order, without gap or overlap, within their regions and blocks.
fn check_extents(size: u64, extents: &[Extent], blocks: &Blocks) -> Result<(), NamespaceError> {
    if extents.len() > limits::EXTENTS_MAX {
        return Err(NamespaceError::TooLarge);
    }
    let mut end = 0u64;
    for extent in extents {
        blocks.check_extent(extent)?;
        if extent.offset != end {
            return Err(Malformed::Extents.into());
        }
        end = end.saturating_add(extent.len);
    }
    if end == size && size > 0 { Ok(()) } else { Err(Malformed::Extents.into()) }
}
