//! Where a range of a content is: pages of extents, through links.
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::{Step, corrupt};
use super::rows::{self, ContentKind, ContentRow, Page, Part, Segment};
use super::types::{ContentId, ContentMap, Extent, NamespaceError, Piece, PieceData, WrappedKey};
use crate::rows::tx::{Tx, decode_row};

/// Pages read at once behind the first.
const PAGES_AHEAD: usize = 4;

/// Goes through a content's pages, from the one that holds `offset` on.
struct Pages<'t, 'a> {
    tx: &'t Tx<'a>,
    content: ContentId,
    offset: u64,
    end: Vec<u8>,
    buffer: std::collections::VecDeque<Page>,
    next: Option<Vec<u8>>,
    is_first: bool,
    /// Whether the first page may begin behind `offset`.
    may_begin_late: bool,
}

impl<'t, 'a> Pages<'t, 'a> {
    fn new(tx: &'t Tx<'a>, content: ContentId, offset: u64) -> Pages<'t, 'a> {
        let end = prefix_end(&rows::pages(content).done()).unwrap_or_default();
        Pages {
            tx,
            content,
            offset,
            end,
            buffer: Default::default(),
            next: None,
            is_first: true,
            may_begin_late: false,
        }
    }

    fn next(&mut self) -> Step<Option<Page>> {
        if let Some(page) = self.buffer.pop_front() {
            return Ok(Some(page));
        }
        let found = if self.is_first {
            self.is_first = false;
            let first = rows::pages(self.content).done();
            let last = rows::page(self.content, self.offset);
            match self.tx.last_up_to(rows::CONTENT, &first, &last)? {
                None if self.may_begin_late => {
                    self.tx.scan(rows::CONTENT, &last, Some(&self.end), PAGES_AHEAD)?
                }
                found => found.into_iter().collect(),
            }
        } else {
            match &self.next {
                Some(start) => self.tx.scan(rows::CONTENT, start, Some(&self.end), PAGES_AHEAD)?,
                None => Vec::new(),
            }
        };
        self.next = found.last().map(|(key, _)| {
            let mut after = key.to_vec();
            after.push(0);
            after
        });
        for (_, value) in &found {
            self.buffer.push_back(decode_row(rows::CONTENT, value)?);
        }
        Ok(self.buffer.pop_front())
    }
}

/// The part of `offset..offset + len` that lies in `at..at + of`: how far into the latter, and how
/// much.
fn overlap(at: u64, of: u64, offset: u64, len: u64) -> Option<(u64, u64)> {
    let start = at.max(offset);
    let end = at.saturating_add(of).min(offset.saturating_add(len));
    (start < end).then(|| (start - at, end - start))
}

/// A range of a linked content as segments from offset 0; `None`: there are more than `limit`.
pub(super) fn segments(
    tx: &Tx<'_>,
    content: ContentId,
    offset: u64,
    len: u64,
    limit: usize,
) -> Step<Option<Vec<Segment>>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut pages = Pages::new(tx, content, offset);
    while at < len {
        let Some(Page::Segments { segments, .. }) = pages.next()? else {
            return Err(corrupt("a linked content with a gap"));
        };
        for segment in segments {
            let Some((into, part)) = overlap(segment.offset, segment.len, offset, len) else {
                continue;
            };
            if found.len() == limit {
                return Ok(None);
            }
            found.push(Segment { offset: at, len: part, skip: segment.skip + into, ..segment });
            at += part;
        }
    }
    Ok(Some(found))
}

/// The n-th part (from 1) of a completed upload: offset and bytes. Past the last segment there can
/// only be an empty last part.
pub(super) fn part_range(
    tx: &Tx<'_>,
    content: ContentId,
    number: u16,
    size: u64,
) -> Step<(u64, u64)> {
    let mut before = usize::from(number.saturating_sub(1));
    let mut pages = Pages::new(tx, content, 0);
    while let Some(page) = pages.next()? {
        let Page::Segments { segments, .. } = page else {
            return Err(corrupt("parts in a content that is not linked"));
        };
        match segments.get(before) {
            Some(segment) => return Ok((segment.offset, segment.len)),
            None => before -= segments.len(),
        }
    }
    Ok((size, 0))
}

/// Sizes of the parts of a completed upload. A last part without bytes has no segment.
pub(super) fn part_sizes(tx: &Tx<'_>, content: ContentId) -> Step<Vec<u64>> {
    Ok(all_segments(tx, content)?.iter().map(|segment| segment.len).collect())
}

/// All segments of a linked content, in order.
pub(super) fn all_segments(tx: &Tx<'_>, content: ContentId) -> Step<Vec<Segment>> {
    let mut all = Vec::new();
    let mut pages = Pages::new(tx, content, 0);
    while let Some(Page::Segments { segments, .. }) = pages.next()? {
        all.extend(segments);
    }
    Ok(all)
}

/// Contents that parts of a file lie in, and whether it has bytes of its own.
pub(super) fn parts_of_file(
    tx: &Tx<'_>,
    content: ContentId,
) -> Step<Option<(Vec<ContentId>, bool)>> {
    let mut of = Vec::new();
    let mut has_own = false;
    let mut pages = Pages::new(tx, content, 0);
    pages.may_begin_late = true;
    let mut count = 0;
    while let Some(page) = pages.next()? {
        count += 1;
        if count > limits::FILE_PAGES_LOOK_MAX {
            return Ok(None);
        }
        for part in page.into_parts() {
            match part {
                Part::Own(_) => has_own = true,
                Part::Of(segment) => of.push(segment.content),
            }
        }
    }
    Ok(Some((of, has_own)))
}

/// Where a range of a content is. It must lie within the content.
pub(super) fn map(tx: &Tx<'_>, content: ContentId, offset: u64, len: u64) -> Step<ContentMap> {
    let mut builder = Builder { tx, map: ContentMap::default(), inline_bytes: 0 };
    builder.add(content, offset, len, offset)?;
    Ok(builder.map)
}

struct Builder<'t, 'a> {
    tx: &'t Tx<'a>,
    map: ContentMap,
    inline_bytes: usize,
}

impl Builder<'_, '_> {
    fn row(&self, content: ContentId) -> Step<ContentRow> {
        self.tx
            .load(rows::CONTENT, &rows::content(content))?
            .ok_or_else(|| NamespaceError::NoSuchContent.into())
    }

    /// Adds a range of a content that lies at `out` of the asked one.
    fn add(&mut self, content: ContentId, offset: u64, len: u64, out: u64) -> Step<()> {
        if len == 0 {
            return Ok(());
        }
        let row = self.row(content)?;
        match row.kind {
            ContentKind::Empty => Err(corrupt("a range of an empty content")),
            ContentKind::Inline { key, block } => {
                let sealed = self
                    .tx
                    .get(rows::INLINE, &rows::inline(content))?
                    .ok_or_else(|| corrupt("an inline content without bytes"))?;
                self.inline_bytes += sealed.len();
                let size = u32::try_from(row.size).map_err(|_| corrupt("a long inline content"))?;
                let skip = u32::try_from(offset).map_err(|_| corrupt("a long inline content"))?;
                self.push(out, len, key, PieceData::Inline { block, sealed, size, skip });
                Ok(())
            }
            ContentKind::Extents { key } | ContentKind::Copies { key } => {
                self.add_extents(content, offset, len, out, key)
            }
            ContentKind::Linked | ContentKind::Parts { .. } | ContentKind::Log => {
                self.add_segments(content, offset, len, out)
            }
            ContentKind::File { key, .. } => self.add_parts(content, (offset, len), out, &key),
        }
    }

    fn add_extents(
        &mut self,
        content: ContentId,
        offset: u64,
        len: u64,
        out: u64,
        key: WrappedKey,
    ) -> Step<()> {
        let mut pages = Pages::new(self.tx, content, offset);
        let mut done = 0;
        while done < len {
            let Some(Page::Extents { extents, .. }) = pages.next()? else {
                return Err(corrupt("a content with a gap"));
            };
            for extent in extents {
                let Some((into, part)) = overlap(extent.offset, extent.len, offset, len) else {
                    continue;
                };
                let at = out + done;
                if self.is_full(at) {
                    return Ok(());
                }
                let skip = u64::from(extent.skip) + into;
                let skip = u32::try_from(skip).map_err(|_| corrupt("an extent past its region"))?;
                let data = PieceData::Extent(Extent { offset: at, len: part, skip, ..extent });
                self.push(at, part, key.clone(), data);
                done += part;
            }
        }
        Ok(())
    }

    fn add_segments(&mut self, content: ContentId, offset: u64, len: u64, out: u64) -> Step<()> {
        let mut pages = Pages::new(self.tx, content, offset);
        let mut done = 0;
        while done < len {
            let Some(Page::Segments { segments, .. }) = pages.next()? else {
                return Err(corrupt("a linked content with a gap"));
            };
            for segment in segments {
                let Some((into, part)) = overlap(segment.offset, segment.len, offset, len) else {
                    continue;
                };
                if self.is_full(out + done) {
                    return Ok(());
                }
                // Links only point to older contents, and nest to a bounded depth.
                self.add(segment.content, segment.skip + into, part, out + done)?;
                if self.map.next.is_some() {
                    return Ok(());
                }
                done += part;
            }
        }
        Ok(())
    }

    /// A range of a file that mounts write: parts, and holes between and behind them.
    fn add_parts(
        &mut self,
        content: ContentId,
        (offset, len): (u64, u64),
        out: u64,
        key: &WrappedKey,
    ) -> Step<()> {
        let end = offset.saturating_add(len);
        let mut at = offset;
        let mut pages = Pages::new(self.tx, content, offset);
        pages.may_begin_late = true;
        'pages: while at < end {
            let Some(page) = pages.next()? else { break };
            for part in page.into_parts() {
                if part.offset() >= end {
                    break 'pages;
                }
                let Some(part) = part.piece(at, end) else { continue };
                let to = out + (part.offset() - offset);
                if part.offset() > at && !self.add_hole(out + (at - offset), part.offset() - at) {
                    return Ok(());
                }
                if self.is_full(to) {
                    return Ok(());
                }
                match part {
                    Part::Own(extent) => {
                        let data = PieceData::Extent(Extent { offset: to, ..extent });
                        self.push(to, extent.len, key.clone(), data);
                    }
                    Part::Of(segment) => {
                        self.add(segment.content, segment.skip, segment.len, to)?;
                        if self.map.next.is_some() {
                            return Ok(());
                        }
                    }
                }
                at = part.end();
            }
        }
        if at < end {
            self.add_hole(out + (at - offset), end - at);
        }
        Ok(())
    }

    /// Whether there was room for it.
    fn add_hole(&mut self, offset: u64, len: u64) -> bool {
        let has_room = !self.is_full(offset);
        if has_room {
            self.map.pieces.push(Piece { offset, len, key: 0, data: PieceData::Hole });
        }
        has_room
    }

    /// Whether the answer is as long as it may be; then it says where to go on.
    fn is_full(&mut self, at: u64) -> bool {
        let full = self.map.pieces.len() >= limits::PIECES_MAX
            || self.inline_bytes >= limits::INLINE_ANSWER_BYTES_MAX;
        if full {
            self.map.next = Some(at);
        }
        full
    }

    fn push(&mut self, offset: u64, len: u64, key: WrappedKey, data: PieceData) {
        if self.map.keys.last() != Some(&key) {
            self.map.keys.push(key);
        }
        let key = self.map.keys.len().saturating_sub(1) as u32;
        self.map.pieces.push(Piece { offset, len, key, data });
    }
}
