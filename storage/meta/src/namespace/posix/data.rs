//! Bytes of files that mounts write: ranges over ranges, holes, other sizes.
//!
//! A file's content that only this file refers to is changed in place: the extents that a write covers
//! leave the map and wait for readers (an 'M' row, as with [`super::super::rewrite`]); what sticks out of the
//! range stays, cut. A content that others refer to (copies, parts of an upload, inline bytes) stays as it
//! is: the file gets a content of its own that begins as one segment of the old one.
//!
//! ```text
//!   before   ├── extent A ──────────────┤├── segment of an older content ──┤
//!   write             ├── extent B ────────────┤
//!   after    ├── A ──┤├── B ───────────────────┤├── the rest of the segment ─┤
//! ```
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::kv::prefix_end;

use super::super::contents::Blocks;
use super::super::limits;
use super::super::machine::{Change, Step, corrupt};
use super::super::rows::{self, ContentKind, ContentRow, MovedRow, Page, Part, Segment};
use super::super::snapshots;
use super::super::types::{
    BucketId, Cipher, ContentId, Extent, Ino, Malformed, Moment, NewContent, Node, Object,
    PosixError, SnapshotId, WrappedKey,
};
use super::inodes::{self, FoundInode};
use super::rows::What;
use crate::rows::tx::decode_row;

/// The ETag of bytes that nobody has seen as a whole: another with each change, and no digest.
pub(super) fn etag(content: ContentId, sequence: u64) -> String {
    format!("{:016x}{sequence:016x}-0", content.0)
}

/// Whether an ETag is one of [`etag`]: no upload has no parts.
pub fn is_opaque(etag: &str) -> bool {
    let digits = etag.strip_suffix("-0").unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A file, its object taken out.
pub(super) struct File {
    pub(super) found: FoundInode,
    pub(super) object: Object,
}

/// How the key of what is to be written must stand to the file's.
pub(super) enum KeyRule<'k> {
    /// It must be this.
    Is(&'k WrappedKey),
    /// If the file has none of its own, or another, it gets this.
    New(&'k WrappedKey),
    /// No byte is written: whatever it is. If the file has none of its own, it gets this.
    Any(&'k WrappedKey),
}

impl Change<'_> {
    pub(super) fn file(&self, bucket: BucketId, ino: Ino) -> Step<File> {
        let found = inodes::find_inode(&self.tx, bucket, ino)?;
        let What::File(object) = &found.inode.what else { return Err(PosixError::Invalid.into()) };
        if object.meta.cipher != Cipher::Grid {
            return Err(PosixError::Sealed.into());
        }
        let object = object.clone();
        Ok(File { found, object })
    }

    /// Puts a file back whose bytes have changed, and counts them.
    pub(super) fn set_file(
        &mut self,
        bucket: BucketId,
        file: File,
        content: ContentId,
        size: u64,
        now: Moment,
    ) -> Step<Node> {
        let File { mut found, object: before } = file;
        self.count_object(bucket, Some(size), Some(&before))?;
        // What was written a while ago and is stored now changes the file after whatever did meanwhile.
        let now = now.max(found.inode.attrs.changed);
        let mut object = before;
        object.sequence = self.sequence;
        object.content = content;
        object.size = size;
        object.modified_ms = now.ms();
        object.parts = 0;
        object.upload = None;
        object.meta.etag = etag(content, self.sequence);
        object.meta.checksums = Vec::new();
        found.inode.attrs.modified = now;
        found.inode.attrs.changed = now;
        found.inode.what = What::File(object);
        let node = inodes::of_inode(&found.inode);
        self.set_found_inode(bucket, found)?;
        Ok(node)
    }

    pub(super) fn check_room(&self, bucket: BucketId, before: u64, size: u64) -> Step<()> {
        if size > limits::FILE_BYTES_MAX {
            return Err(PosixError::TooLarge.into());
        }
        match self.bucket(bucket)?.check_quota(size, before) {
            Err(_) if !self.is_decided => Err(PosixError::NoSpace.into()),
            _ => Ok(()),
        }
    }

    /// An empty content without references.
    pub(super) fn make_empty(&mut self) -> Step<ContentId> {
        let id = ContentId(self.next_id()?);
        let row = ContentRow {
            sequence: self.sequence,
            references: 0,
            size: 0,
            depth: 0,
            kind: ContentKind::Empty,
        };
        self.tx.store(rows::CONTENT, rows::content(id), &row);
        Ok(id)
    }

    pub(super) fn write_file(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        (key, is_new_key): (&WrappedKey, bool),
        (mut extents, is_append): (Vec<Extent>, bool),
        blocks: &mut Blocks,
        now: Moment,
    ) -> Step<Node> {
        check_apart(&extents, blocks)?;
        let file = self.file_to_change(bucket, ino, now)?;
        if is_append {
            check_joined(&extents)?;
            // What the bytes are sealed under knows nothing of where in the file they lie.
            for extent in &mut extents {
                extent.offset = extent.offset.saturating_add(file.object.size);
            }
        }
        let extents = extents.as_slice();
        let end = extents.last().map_or(0, |last| last.offset.saturating_add(last.len));
        let size = file.object.size.max(end);
        self.check_room(bucket, file.object.size, size)?;
        let rule = if is_new_key { KeyRule::New(key) } else { KeyRule::Is(key) };
        let content = self.own_content(&file.object, &rule, file.object.size, now)?;
        let mut rest = extents;
        while let Some(first) = rest.first() {
            // A run without gaps is laid over what is there at once.
            let mut to = first.offset;
            let run = rest.iter().take_while(|extent| {
                let follows = extent.offset == to;
                to = if follows { extent.offset.saturating_add(extent.len) } else { to };
                follows
            });
            let run: Vec<Part> = run.map(|extent| Part::Own(*extent)).collect();
            rest = rest.get(run.len()..).unwrap_or_default();
            self.overlay(content, first.offset, to, run, now)?;
        }
        for extent in extents {
            blocks.refer(extent);
        }
        self.set_size(content, size)?;
        self.set_file(bucket, file, content, size, now)
    }

    pub(super) fn replace_bytes(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        (new, over): (NewContent, Option<u64>),
        blocks: &mut Blocks,
        now: Moment,
    ) -> Step<Node> {
        let file = self.file(bucket, ino)?;
        if over.is_some_and(|sequence| sequence != file.object.sequence) {
            return Err(PosixError::OtherKey.into());
        }
        let file = self.file_to_change(bucket, ino, now)?;
        self.check_content(&new, blocks)?;
        self.check_room(bucket, file.object.size, new.size)?;
        let size = new.size;
        let content = self.make_content(new, blocks)?;
        self.refer(content)?;
        self.unrefer(file.object.content, now.ms())?;
        self.set_file(bucket, file, content, size, now)
    }

    /// Lays a range of a file over one of another (or the same) as a segment: who writes to the source from
    /// then on leaves what the target sees as it is.
    pub(super) fn copy_range(
        &mut self,
        bucket: BucketId,
        (from, from_offset): (Ino, u64),
        (to, to_offset): (Ino, u64),
        len: u64,
        key: &WrappedKey,
        now: Moment,
    ) -> Step<u64> {
        let source = self.file(bucket, from)?.object;
        let len = len.min(source.size.saturating_sub(from_offset));
        let overlaps = from == to
            && from_offset < to_offset.saturating_add(len)
            && to_offset < from_offset + len;
        if overlaps {
            return Err(PosixError::Invalid.into());
        }
        self.copy_of(bucket, (&source, from_offset), (to, to_offset), len, key, now)
    }

    /// Likewise, of a file as a snapshot shows it.
    pub(super) fn copy_past(
        &mut self,
        bucket: BucketId,
        (snapshot, from, from_offset): (SnapshotId, Ino, u64),
        to: (Ino, u64),
        len: u64,
        key: &WrappedKey,
        now: Moment,
    ) -> Step<u64> {
        let source = snapshots::past::object(&self.tx, bucket, snapshot, from)?;
        self.copy_of(bucket, (&source, from_offset), to, len, key, now)
    }

    fn copy_of(
        &mut self,
        bucket: BucketId,
        (source, from_offset): (&Object, u64),
        (to, to_offset): (Ino, u64),
        len: u64,
        key: &WrappedKey,
        now: Moment,
    ) -> Step<u64> {
        let len = len.min(source.size.saturating_sub(from_offset));
        if len == 0 {
            return Ok(0);
        }
        let target = self.file_to_change(bucket, to, now)?;
        let to_end = to_offset.checked_add(len).ok_or(PosixError::TooLarge)?;
        let size = target.object.size.max(to_end);
        self.check_room(bucket, target.object.size, size)?;
        let below = self.content_row(source.content)?;
        if below.depth >= limits::LINK_DEPTH_MAX {
            return Err(PosixError::ReplaceInstead.into());
        }
        // Before the target's own is looked at: it may be the same.
        self.refer(source.content)?;
        let before = target.object.size;
        let content = self.own_content(&target.object, &KeyRule::Any(key), before, now)?;
        let row = self.content_row(content)?;
        let depth = row.depth.max(below.depth.saturating_add(1));
        self.tx.store(rows::CONTENT, rows::content(content), &ContentRow { depth, ..row });
        let segment =
            Segment { offset: to_offset, len, content: source.content, skip: from_offset };
        self.overlay(content, to_offset, to_end, vec![Part::Of(segment)], now)?;
        self.set_size(content, size)?;
        self.set_file(bucket, target, content, size, now)?;
        Ok(len)
    }

    /// A content that only this file refers to, and that ranges may be laid over. `kept`: bytes of the old
    /// one that it begins with, if it is another.
    pub(super) fn own_content(
        &mut self,
        object: &Object,
        rule: &KeyRule<'_>,
        kept: u64,
        now: Moment,
    ) -> Step<ContentId> {
        let row = self.content_row(object.content)?;
        let (KeyRule::Is(key) | KeyRule::New(key) | KeyRule::Any(key)) = rule;
        let fits = |own: &WrappedKey| matches!(rule, KeyRule::Any(_)) || own == *key;
        if row.own_key(object.size).is_some_and(fits) {
            if !matches!(row.kind, ContentKind::File { .. }) {
                self.loosen(object.content, row)?;
            }
            return Ok(object.content);
        }
        match rule {
            KeyRule::Is(_) => Err(PosixError::OtherKey.into()),
            KeyRule::New(key) | KeyRule::Any(key) => self.layer(object, key, kept, now),
        }
    }

    /// Lets ranges be laid over a content of extents. Its pages stay; each extent counts by itself then.
    fn loosen(&mut self, content: ContentId, row: ContentRow) -> Step<()> {
        let kind = match &row.kind {
            ContentKind::Extents { key } => ContentKind::File { key: key.clone(), copies: false },
            ContentKind::Copies { key } => ContentKind::File { key: key.clone(), copies: true },
            _ => return Err(corrupt("a content that has no extents")),
        };
        let loose = ContentRow { sequence: self.sequence, kind, ..row.clone() };
        let prefix = rows::pages(content).done();
        let end = prefix_end(&prefix);
        for (_, value) in self.tx.scan(rows::CONTENT, &prefix, end.as_deref(), usize::MAX)? {
            let page: Page = decode_row(rows::CONTENT, &value)?;
            for part in page.into_parts() {
                if let Part::Own(extent) = part {
                    self.count_extent(&extent, row.coded_size_of(&extent), false);
                    self.count_extent(&extent, loose.coded_size_of(&extent), true);
                }
            }
        }
        self.tx.store(rows::CONTENT, rows::content(content), &loose);
        Ok(())
    }

    /// A new content that begins with `kept` bytes of an object's, in place of that.
    fn layer(
        &mut self,
        object: &Object,
        key: &WrappedKey,
        kept: u64,
        now: Moment,
    ) -> Step<ContentId> {
        let below = self.content_row(object.content)?;
        let copies = matches!(
            below.kind,
            ContentKind::Copies { .. } | ContentKind::File { copies: true, .. }
        );
        let depth = if kept == 0 { 0 } else { below.depth.saturating_add(1) };
        if depth > limits::LINK_DEPTH_MAX {
            return Err(PosixError::ReplaceInstead.into());
        }
        let id = ContentId(self.next_id()?);
        if kept > 0 {
            let segment = Segment { offset: 0, len: kept, content: object.content, skip: 0 };
            let page = Page::Mixed { sequence: self.sequence, parts: vec![Part::Of(segment)] };
            self.tx.store(rows::CONTENT, rows::page(id, 0), &page);
            self.refer(object.content)?;
        }
        let row = ContentRow {
            sequence: self.sequence,
            references: 1,
            size: kept,
            depth,
            kind: ContentKind::File { key: key.clone(), copies },
        };
        self.tx.store(rows::CONTENT, rows::content(id), &row);
        self.unrefer(object.content, now.ms())?;
        Ok(id)
    }

    pub(super) fn set_size(&mut self, content: ContentId, size: u64) -> Step<()> {
        let row = self.content_row(content)?;
        let row = ContentRow { sequence: self.sequence, size, ..row };
        self.tx.store(rows::CONTENT, rows::content(content), &row);
        Ok(())
    }

    /// Lays parts (or a hole) over `from..to` of a loose content.
    pub(super) fn overlay(
        &mut self,
        content: ContentId,
        from: u64,
        to: u64,
        new: Vec<Part>,
        now: Moment,
    ) -> Step<()> {
        let row = self.content_row(content)?;
        let prefix = rows::pages(content).done();
        let first = self.tx.last_up_to(rows::CONTENT, &prefix, &rows::page(content, from))?;
        let start = first.map_or_else(|| rows::page(content, from), |(key, _)| key.to_vec());
        let end = rows::page(content, to);
        let most = limits::OVERLAY_PAGES_MAX;
        let pages = self.tx.scan(rows::CONTENT, &start, Some(&end), most + 1)?;
        if pages.len() > most {
            return Err(super::super::types::NamespaceError::TooLarge.into());
        }
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (key, value) in pages {
            let page: Page = decode_row(rows::CONTENT, &value)?;
            self.tx.delete(rows::CONTENT, key.to_vec());
            for part in page.into_parts() {
                self.cut(&row, part, (from, to), (&mut before, &mut after), now)?;
            }
        }
        let at_end = after.is_empty();
        for part in &new {
            if let Part::Own(extent) = part {
                self.count_extent(extent, row.coded_size_of(extent), true);
            }
        }
        let parts: Vec<Part> = before.into_iter().chain(new).chain(after).collect();
        // What grows at its end fills its pages; elsewhere there is room for more on both sides.
        let chunk = if at_end {
            limits::PAGE_ENTRIES
        } else {
            parts.len().div_ceil(parts.len().div_ceil(limits::PAGE_ENTRIES).max(1)).max(1)
        };
        for page in parts.chunks(chunk) {
            let Some(first) = page.first() else { continue };
            let row = Page::Mixed { sequence: self.sequence, parts: page.to_vec() };
            self.tx.store(rows::CONTENT, rows::page(content, first.offset()), &row);
        }
        Ok(())
    }

    /// Keeps what of a part lies outside a range, and gives the rest back.
    fn cut(
        &mut self,
        row: &ContentRow,
        part: Part,
        (from, to): (u64, u64),
        (before, after): (&mut Vec<Part>, &mut Vec<Part>),
        now: Moment,
    ) -> Step<()> {
        let (start, end) = (part.offset(), part.end());
        if end <= from {
            before.push(part);
            return Ok(());
        }
        if start >= to {
            after.push(part);
            return Ok(());
        }
        let left = (start < from).then(|| part.piece(start, from)).flatten();
        let right = (end > to).then(|| part.piece(to, end)).flatten();
        match &part {
            Part::Own(extent) => {
                self.count_extent(extent, row.coded_size_of(extent), false);
                for kept in [&left, &right].into_iter().flatten() {
                    if let Part::Own(extent) = kept {
                        self.count_extent(extent, row.coded_size_of(extent), true);
                    }
                }
                if let Some(Part::Own(gone)) = part.piece(start.max(from), end.min(to)) {
                    self.moved.push(gone);
                }
            }
            Part::Of(segment) => match (&left, &right) {
                (Some(_), Some(_)) => self.refer(segment.content)?,
                (None, None) => self.unrefer(segment.content, now.ms())?,
                _ => {}
            },
        }
        before.extend(left);
        after.extend(right);
        Ok(())
    }

    /// The end of any command: what contents gave up waits for readers of the old maps.
    pub(in super::super) fn settle_moved(&mut self, now_ms: u64) -> Step<()> {
        let extents = std::mem::take(&mut self.moved);
        if extents.len() > limits::MOVED_MAX {
            return Err(super::super::types::NamespaceError::TooLarge.into());
        }
        if !extents.is_empty() {
            let sequence = self.sequence;
            let row = MovedRow { sequence, released_ms: now_ms, extents };
            self.tx.store(rows::STATE, rows::moved(sequence), &row);
        }
        Ok(())
    }
}

/// Extents without gaps from 0 on.
fn check_joined(extents: &[Extent]) -> Step<()> {
    let ends = extents.iter().map(|extent| extent.offset.saturating_add(extent.len));
    let begins = std::iter::once(0).chain(ends);
    match extents.iter().zip(begins).all(|(extent, begin)| extent.offset == begin) {
        true => Ok(()),
        false => Err(Malformed::Extents.into()),
    }
}

/// Extents in order, apart, in blocks of the command.
fn check_apart(extents: &[Extent], blocks: &Blocks) -> Step<()> {
    if extents.is_empty() || extents.len() > limits::EXTENTS_MAX {
        return Err(Malformed::Extents.into());
    }
    let mut end = 0;
    for extent in extents {
        blocks.check_extent(extent)?;
        if extent.offset < end {
            return Err(Malformed::Extents.into());
        }
        end = extent.offset.saturating_add(extent.len);
    }
    Ok(())
}
