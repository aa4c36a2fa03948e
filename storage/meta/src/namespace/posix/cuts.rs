//! What goes of a file: its end, and holes in it, in however many pieces that lies there.
//!
//! A command changes few rows. A short end goes with the command that cuts it. A long one is out of sight then: the
//! file ends where it was cut, its content ends where it did, and the outbox takes away what lies between.
//!
//! ```text
//!   Resize ──▶ object ends at `from`, CutRow, outbox row ──horizon──▶ pages behind `from` go ──▶ content ends there
//! ```
//!
//! Nothing is written to such a content ([`super::super::rows::ContentRow::own_key`]): what would be lies over it, in
//! another. What refers to it refers to bytes before `from`: it was cut when only its file did. A hole is made in
//! rounds, each a command that goes as far as it may.
#![deny(clippy::indexing_slicing)]

use super::super::limits;
use super::super::machine::{Change, Step};
use super::super::rows::{self, ContentKind, Page, Part, Released};
use super::super::types::{BucketId, ContentId, Ino, Moment, Node, PosixError, WrappedKey};
use super::data::KeyRule;
use super::inodes;
use super::rows::{self as own, CutRow};
use crate::rows::tx::decode_row;

impl Change<'_> {
    pub(super) fn resize(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        size: u64,
        key: &WrappedKey,
        now: Moment,
    ) -> Step<Node> {
        let file = self.file_to_change(bucket, ino, now)?;
        let (before, old) = (file.object.size, file.object.content);
        self.check_room(bucket, before, size)?;
        if size == before {
            return self.set_file(bucket, file, old, size, now);
        }
        if size == 0 {
            let content = self.make_empty()?;
            self.refer(content)?;
            self.unrefer(old, now.ms())?;
            return self.set_file(bucket, file, content, 0, now);
        }
        if size < before {
            let row = self.content_row(old)?;
            let is_own = row.references == 1 && matches!(row.kind, ContentKind::File { .. });
            if is_own && row.size > before {
                // It was cut before, and is again.
                self.hide_end(old, size, now);
                return self.set_file(bucket, file, old, size, now);
            }
        }
        let kept = size.min(before);
        let content = self.own_content(&file.object, &KeyRule::Any(key), kept, now)?;
        if size < before && content == old {
            if self.reach(content, size, before)? < before {
                self.hide_end(content, size, now);
                return self.set_file(bucket, file, content, size, now);
            }
            self.overlay(content, size, before, Vec::new(), now)?;
        }
        self.set_size(content, size)?;
        self.set_file(bucket, file, content, size, now)
    }

    /// Lengthens a file that is shorter.
    pub(super) fn lengthen(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        size: u64,
        key: &WrappedKey,
        now: Moment,
    ) -> Step<Node> {
        let file = self.file(bucket, ino)?;
        if size <= file.object.size {
            return Ok(inodes::of_inode(&file.found.inode));
        }
        self.resize(bucket, ino, size, key, now)
    }

    /// A whole hole, or none.
    pub(super) fn punch(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        (offset, len): (u64, u64),
        key: &WrappedKey,
        now: Moment,
    ) -> Step<Node> {
        let file = self.file(bucket, ino)?;
        let size = file.object.size;
        let end = offset.saturating_add(len).min(size);
        if len == 0 {
            return Err(PosixError::Invalid.into());
        }
        if offset >= end {
            return Ok(inodes::of_inode(&file.found.inode));
        }
        let file = self.file_to_change(bucket, ino, now)?;
        let content = self.own_content(&file.object, &KeyRule::Any(key), size, now)?;
        self.overlay(content, offset, end, Vec::new(), now)?;
        self.set_file(bucket, file, content, size, now)
    }

    /// The beginning of a hole, as long as one command may make it; gives its length.
    pub(super) fn clear(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        (offset, len): (u64, u64),
        key: &WrappedKey,
        now: Moment,
    ) -> Step<u64> {
        let file = self.file(bucket, ino)?;
        let size = file.object.size;
        let end = offset.saturating_add(len).min(size);
        if len == 0 {
            return Err(PosixError::Invalid.into());
        }
        if offset >= end {
            return Ok(len);
        }
        let file = self.file_to_change(bucket, ino, now)?;
        let content = self.own_content(&file.object, &KeyRule::Any(key), size, now)?;
        let to = self.reach(content, offset, end)?;
        self.overlay(content, offset, to, Vec::new(), now)?;
        self.set_file(bucket, file, content, size, now)?;
        Ok(if to == end { len } else { to - offset })
    }

    /// How far the parts of `from..to` may go by one command: `to`, or where a later part begins.
    fn reach(&self, content: ContentId, from: u64, to: u64) -> Step<u64> {
        let prefix = rows::pages(content).done();
        let first = self.tx.last_up_to(rows::CONTENT, &prefix, &rows::page(content, from))?;
        let start = first.map_or_else(|| rows::page(content, from), |(key, _)| key.to_vec());
        let end = rows::page(content, to);
        let most = limits::OVERLAY_PAGES_MAX;
        let (mut changed, mut extents) = (0, 0);
        let found = self.tx.scan(rows::CONTENT, &start, Some(&end), most + 1)?;
        for (at, (_, value)) in found.iter().enumerate() {
            let page: Page = decode_row(rows::CONTENT, value)?;
            let is_full = at == most;
            changed += 1;
            for part in page.into_parts() {
                if part.end() <= from || part.offset() >= to {
                    continue;
                }
                let is_much = is_full
                    || changed > limits::CUT_ROWS_MAX
                    || extents > limits::CLEARED_EXTENTS_MAX;
                if is_much && part.offset() > from {
                    return Ok(part.offset());
                }
                match part {
                    Part::Own(_) => extents += 1,
                    // Its content's row, and perhaps one that says that it goes.
                    Part::Of(_) => changed += 2,
                }
            }
        }
        Ok(to)
    }

    /// What a content has from `from` on is to go. Who reads it still has a while: the one after the last cut.
    fn hide_end(&mut self, content: ContentId, from: u64, now: Moment) {
        let row = CutRow { sequence: self.sequence, from };
        self.tx.store(rows::CONTENT, own::cut(content), &row);
        self.release(Released::End(content), now.ms());
    }

    /// Takes the end of a content away that a command of this sequence cut, as much as this step may; whether that is
    /// all.
    pub(in super::super) fn expand_end(
        &mut self,
        content: ContentId,
        sequence: u64,
        now_ms: u64,
    ) -> Step<bool> {
        let row: Option<CutRow> = self.tx.load(rows::CONTENT, &own::cut(content))?;
        // It was cut again, or is gone.
        let Some(CutRow { from, .. }) = row.filter(|row| row.sequence == sequence) else {
            return Ok(true);
        };
        let row = self.content_row(content)?;
        let first = rows::pages(content).done();
        let last = rows::page(content, u64::MAX);
        while let Some((key, value)) = self.tx.last_up_to(rows::CONTENT, &first, &last)? {
            let page: Page = decode_row(rows::CONTENT, &value)?;
            let mut parts = page.into_parts();
            if parts.last().is_none_or(|part| part.end() <= from) {
                break;
            }
            if self.is_spent() {
                return Ok(false);
            }
            while let Some(part) = parts.pop_if(|part| part.end() > from) {
                let kept = part.piece(0, from);
                match &part {
                    Part::Own(extent) => {
                        self.count_extent(extent, row.coded_size_of(extent), false);
                        if let Some(Part::Own(kept)) = &kept {
                            self.count_extent(kept, row.coded_size_of(kept), true);
                        }
                        if let Some(Part::Own(gone)) = part.piece(from, u64::MAX) {
                            self.free_extent(&gone, now_ms)?;
                        }
                    }
                    Part::Of(segment) if kept.is_none() => {
                        self.unrefer(segment.content, now_ms)?;
                    }
                    Part::Of(_) => {}
                }
                parts.extend(kept);
                if self.is_spent() {
                    break;
                }
            }
            match parts.is_empty() {
                true => self.tx.delete(rows::CONTENT, key.to_vec()),
                false => {
                    let page = Page::Mixed { sequence: self.sequence, parts };
                    self.tx.store(rows::CONTENT, key.to_vec(), &page);
                }
            }
        }
        self.tx.delete(rows::CONTENT, own::cut(content));
        self.set_size(content, from)?;
        Ok(true)
    }
}
