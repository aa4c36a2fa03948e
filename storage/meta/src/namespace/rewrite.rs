//! Contents move to other blocks: what half-dead packs still hold, and what a code of yesterday
//! protects.
//!
//! ```text
//!   FindExtents ─▶ (read, write to new blocks) ─▶ Rewrite: old extent still there? ─▶ new in its place
//!                                                    │ no              │ old one ─▶ 'M' row
//!                                                    ▼                 ▼ ExpandMoved: horizon, checkpoint
//!                                     nothing; its new block dies    live bytes of its block fall
//! ```
//!
//! Compare-and-swap, extent by extent: whoever deleted, replaced or rewrote the content meanwhile
//! wins. A content keeps its id, its key and its bytes; only where they lie changes. Readers that
//! hold the old map find its blocks as before until the reader horizon has passed (L4). And so does a
//! restore: what did not change must be there in every state that can be restored, so old places
//! are also kept until the checkpoints know the new ones.
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_codec::id::{BlockId, SessionId};
use nexusgrid_env::kv::prefix_end;

use super::contents::Blocks;
use super::limits;
use super::machine::{Change, Step, corrupt};
use super::map;
use super::outbox::LOOK_MAX;
use super::rows::{self, ContentKind, ContentRow, MovedRow, Page, Part};
use super::types::{
    CodeFilter, ContentId, Extent, ExtentFilter, FoundExtent, Malformed, NamespaceAnswer,
    NamespaceError, NamespaceOk, NewBlock, Swap,
};
use crate::rows::tx::{Tx, decode_row};

impl Change<'_> {
    pub(super) fn rewrite(
        &mut self,
        session: SessionId,
        blocks: &[NewBlock],
        swaps: &[Swap],
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        if swaps.len() > limits::SWAPS_MAX || blocks.len() > limits::SWAPS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let mut blocks = self.check_blocks(session, blocks)?;
        for swap in swaps {
            check_swap(swap, &blocks)?;
        }
        let mut replaced = Vec::new();
        for swap in swaps {
            if self.swap(swap)? {
                blocks.refer(&swap.new);
                replaced.push(swap.old);
            }
        }
        let count = u32::try_from(replaced.len()).unwrap_or(u32::MAX);
        if !replaced.is_empty() {
            let sequence = self.sequence;
            let row = MovedRow { sequence, released_ms: now_ms, extents: replaced };
            self.tx.store(rows::STATE, rows::moved(sequence), &row);
        }
        self.bind_blocks(blocks, true, now_ms);
        Ok(NamespaceOk::Rewritten(count))
    }

    /// Puts the new extent in the old one's place, if that is still there and someone refers to it.
    fn swap(&mut self, swap: &Swap) -> Step<bool> {
        let row: Option<ContentRow> = self.tx.load(rows::CONTENT, &rows::content(swap.content))?;
        // One without references is being freed, or staged: not now.
        let Some(row) = row.filter(|row| row.references > 0) else { return Ok(false) };
        let is_loose = matches!(row.kind, ContentKind::File { .. });
        if !is_loose
            && !matches!(row.kind, ContentKind::Extents { .. } | ContentKind::Copies { .. })
        {
            return Ok(false);
        }
        let first = rows::pages(swap.content).done();
        let last = rows::page(swap.content, swap.old.offset);
        let Some((key, value)) = self.tx.last_up_to(rows::CONTENT, &first, &last)? else {
            return Ok(false);
        };
        let mut page: Page = decode_row(rows::CONTENT, &value)?;
        let is_swapped = match &mut page {
            Page::Extents { sequence, extents } => {
                *sequence = self.sequence;
                extents
                    .iter_mut()
                    .find(|extent| **extent == swap.old)
                    .map(|extent| *extent = swap.new)
            }
            Page::Mixed { sequence, parts } => {
                *sequence = self.sequence;
                parts
                    .iter_mut()
                    .find(|part| **part == Part::Own(swap.old))
                    .map(|part| *part = Part::Own(swap.new))
            }
            Page::Segments { .. } => {
                return Err(corrupt("segments in a content that has extents"));
            }
        };
        if is_swapped.is_none() {
            return Ok(false);
        }
        self.tx.store(rows::CONTENT, key.to_vec(), &page);
        self.count_extent(&swap.old, row.coded_size_of(&swap.old), false);
        self.count_extent(&swap.new, row.coded_size_of(&swap.new), true);
        Ok(true)
    }
}

impl Change<'_> {
    /// Says of contents whether they are to lie in copies.
    pub(super) fn set_copies(&mut self, contents: &[ContentId], copies: bool) -> Step<NamespaceOk> {
        if contents.len() > limits::SWAPS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        for content in contents {
            let row: Option<ContentRow> = self.tx.load(rows::CONTENT, &rows::content(*content))?;
            let Some(row) = row.filter(|row| row.references > 0) else { continue };
            let kind = match (&row.kind, copies) {
                (ContentKind::Extents { key }, true) => ContentKind::Copies { key: key.clone() },
                (ContentKind::Copies { key }, false) => ContentKind::Extents { key: key.clone() },
                (ContentKind::File { key, copies: before }, _) if *before != copies => {
                    ContentKind::File { key: key.clone(), copies }
                }
                _ => continue,
            };
            let before = row.clone();
            let row = ContentRow { sequence: self.sequence, kind, ..row };
            let prefix = rows::pages(*content).done();
            let end = prefix_end(&prefix);
            let is_file = matches!(row.kind, ContentKind::File { .. });
            let most = if is_file { limits::FILE_PAGES_LOOK_MAX + 1 } else { usize::MAX };
            let pages = self.tx.scan(rows::CONTENT, &prefix, end.as_deref(), most)?;
            if is_file && pages.len() == most {
                continue;
            }
            for (_, value) in pages {
                let page: Page = decode_row(rows::CONTENT, &value)?;
                for part in page.into_parts() {
                    if let Part::Own(extent) = part {
                        self.count_extent(&extent, before.coded_size_of(&extent), false);
                        self.count_extent(&extent, row.coded_size_of(&extent), true);
                    }
                }
            }
            self.tx.store(rows::CONTENT, rows::content(*content), &row);
        }
        Ok(NamespaceOk::Done)
    }
}

/// The contents in whose blocks a content's bytes lie.
pub(super) fn leaves(
    tx: &Tx<'_>,
    content: ContentId,
    after: Option<ContentId>,
    limit: usize,
) -> Step<NamespaceAnswer> {
    let mut open = vec![content];
    let mut seen = BTreeSet::from([content]);
    let mut leaves = BTreeMap::new();
    while let Some(content) = open.pop() {
        let row: Option<ContentRow> = tx.load(rows::CONTENT, &rows::content(content))?;
        let row = row.ok_or(NamespaceError::NoSuchContent)?;
        match row.kind {
            ContentKind::Empty | ContentKind::Inline { .. } => {}
            ContentKind::Extents { .. } | ContentKind::Copies { .. } => {
                leaves.insert(content, row.size);
            }
            ContentKind::File { .. } => {
                // In too many pieces: it stays where it is.
                let Some((of, has_own)) = map::parts_of_file(tx, content)? else { continue };
                if has_own {
                    leaves.insert(content, row.size);
                }
                open.extend(of.into_iter().filter(|content| seen.insert(*content)));
            }
            ContentKind::Linked | ContentKind::Parts { .. } | ContentKind::Log => {
                for segment in map::all_segments(tx, content)? {
                    if seen.insert(segment.content) {
                        open.push(segment.content);
                    }
                }
            }
        }
    }
    let mut rest = leaves.into_iter().filter(|(leaf, _)| after.is_none_or(|after| *leaf > after));
    let leaves = rest.by_ref().take(limit).collect();
    Ok(NamespaceAnswer::Leaves { leaves, more: rest.next().is_some() })
}

/// Where the queue of extents given up begins: commit sequence, and the earliest release of the rows
/// that one step looks at.
pub(super) fn oldest_moved(tx: &Tx<'_>) -> Step<NamespaceAnswer> {
    let prefix = rows::all_moved();
    let found = tx.scan(rows::STATE, &prefix, prefix_end(&prefix).as_deref(), LOOK_MAX)?;
    let mut oldest: Option<(u64, u64)> = None;
    for (_, value) in &found {
        let row: MovedRow = decode_row(rows::STATE, value)?;
        let (sequence, released_ms) = oldest.unwrap_or((row.sequence, row.released_ms));
        oldest = Some((sequence, released_ms.min(row.released_ms)));
    }
    Ok(NamespaceAnswer::OldestMoved(oldest))
}

impl Change<'_> {
    /// Takes extents off their blocks that contents gave up by `covered`, and before the horizon.
    pub(super) fn expand_moved(
        &mut self,
        covered: u64,
        horizon_ms: u64,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        let prefix = rows::all_moved();
        let end = prefix_end(&prefix);
        let found = self.tx.scan(rows::STATE, &prefix, end.as_deref(), LOOK_MAX)?;
        let mut freed = 0;
        let mut more = found.len() == LOOK_MAX;
        for (key, value) in found {
            let row: MovedRow = decode_row(rows::STATE, &value)?;
            if row.sequence > covered {
                more = false;
                break;
            }
            // Of a gateway whose clock is ahead, perhaps: it holds up no other.
            if row.released_ms > horizon_ms {
                continue;
            }
            let mut rest = row.extents.into_iter();
            while !self.is_spent() {
                let Some(extent) = rest.next() else { break };
                self.free_extent(&extent, now_ms)?;
            }
            if rest.len() > 0 {
                let row = MovedRow { extents: rest.collect(), ..row };
                self.tx.store(rows::STATE, key.to_vec(), &row);
                more = true;
                break;
            }
            self.tx.delete(rows::STATE, key.to_vec());
            freed += 1;
        }
        Ok(NamespaceOk::Expanded { freed, more })
    }
}

fn check_swap(swap: &Swap, blocks: &Blocks) -> Result<(), NamespaceError> {
    let is_same_range = swap.old.offset == swap.new.offset && swap.old.len == swap.new.len;
    if !is_same_range || swap.old.block == swap.new.block {
        return Err(Malformed::Extents.into());
    }
    blocks.check_extent(&swap.new)
}

/// Extents that pass a filter, of contents that someone refers to: looks through a bounded number
/// of pages and says where to go on.
pub(super) fn find(
    tx: &Tx<'_>,
    filter: &ExtentFilter,
    after: Option<(ContentId, u64)>,
    limit: usize,
) -> Step<NamespaceAnswer> {
    if filter.blocks.len() > limits::ANSWER_ROWS_MAX as usize
        || filter.codes.len() > limits::CODES_MAX
    {
        return Err(NamespaceError::TooLarge.into());
    }
    let blocks: BTreeSet<BlockId> = filter.blocks.iter().copied().collect();
    let prefix = rows::all_pages();
    let end = prefix_end(&prefix);
    let start = match after {
        Some((content, offset)) => [rows::page(content, offset).as_slice(), &[0]].concat(),
        None => prefix,
    };
    let pages = tx.scan(rows::CONTENT, &start, end.as_deref(), limits::FIND_PAGES_MAX)?;
    let mut more = pages.len() == limits::FIND_PAGES_MAX;
    let mut found: Vec<FoundExtent> = Vec::new();
    let mut last = after;
    for (key, value) in &pages {
        if found.len() >= limit {
            more = true;
            break;
        }
        let at = rows::parse_page(key).ok_or_else(|| corrupt("key of a page"))?;
        last = Some(at);
        let page: Page = decode_row(rows::CONTENT, value)?;
        let own = |part| match part {
            Part::Own(extent) => Some(extent),
            Part::Of(_) => None,
        };
        let extents: Vec<Extent> = page.into_parts().into_iter().filter_map(own).collect();
        let by_code = |code: &CodeFilter, extent: &Extent| (code.k, code.m) == (extent.k, extent.m);
        let may_pass = |extent: &Extent| {
            blocks.contains(&extent.block) || filter.codes.iter().any(|code| by_code(code, extent))
        };
        if !extents.iter().any(may_pass) {
            continue;
        }
        let row: Option<ContentRow> = tx.load(rows::CONTENT, &rows::content(at.0))?;
        let row = row.ok_or_else(|| corrupt("a page of no content"))?;
        let key = match &row.kind {
            ContentKind::Extents { key }
            | ContentKind::Copies { key }
            | ContentKind::File { key, .. } => key.clone(),
            _ => continue,
        };
        if row.references == 0 {
            continue;
        }
        let passes = |extent: &Extent| {
            let size = row.coded_size_of(extent);
            let is_over = |code: &CodeFilter| code.over.is_none_or(|over| size > over);
            blocks.contains(&extent.block)
                || filter.codes.iter().any(|code| by_code(code, extent) && is_over(code))
        };
        found.extend(extents.into_iter().filter(passes).map(|extent| FoundExtent {
            content: at.0,
            size: row.coded_size_of(&extent),
            key: key.clone(),
            extent,
        }));
    }
    Ok(NamespaceAnswer::FoundExtents { found, next: last.filter(|_| more) })
}
