//! Bytes with holes between them, in place of all that a file has.
#![deny(clippy::indexing_slicing)]

use super::super::contents::Blocks;
use super::super::limits;
use super::super::machine::{Change, Step};
use super::super::rows::{self, ContentKind, ContentRow, Page, Part, Segment};
use super::super::types::{
    BucketId, ContentId, Ino, Malformed, Moment, NamespaceError, NewContent, Node, PosixError,
};

/// What a file is to be.
pub(super) struct Sparse {
    /// Its bytes, one after the other.
    pub content: NewContent,
    /// Where they go: first byte and length.
    pub runs: Vec<(u64, u64)>,
    /// All of it, with holes.
    pub size: u64,
}

impl Sparse {
    /// Runs in order and apart that are the content, within the file.
    fn check(&self) -> Step<()> {
        if self.runs.len() > limits::RUNS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let (mut end, mut bytes) = (0, 0u64);
        for (offset, len) in &self.runs {
            if *offset < end || *len == 0 {
                return Err(Malformed::Extents.into());
            }
            end = offset.saturating_add(*len);
            bytes = bytes.saturating_add(*len);
        }
        match end <= self.size && bytes == self.content.size {
            true => Ok(()),
            false => Err(Malformed::Extents.into()),
        }
    }
}

impl Change<'_> {
    /// Replaces all bytes of a file, if nobody has changed it since.
    pub(super) fn spread(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        (new, over): (Sparse, u64),
        blocks: &mut Blocks,
        now: Moment,
    ) -> Step<Node> {
        let file = self.file(bucket, ino)?;
        if over != file.object.sequence {
            return Err(PosixError::OtherKey.into());
        }
        let file = self.file_to_change(bucket, ino, now)?;
        new.check()?;
        self.check_content(&new.content, blocks)?;
        self.check_room(bucket, file.object.size, new.size)?;
        let before = self.content_row(file.object.content)?;
        let copies = matches!(
            before.kind,
            ContentKind::Copies { .. } | ContentKind::File { copies: true, .. }
        );
        let Sparse { content, runs, size } = new;
        let key = content.key.clone();
        let mut parts = Vec::with_capacity(runs.len());
        let mut depth = 0;
        if !runs.is_empty() {
            let below = self.make_content(content, blocks)?;
            depth = self.content_row(below)?.depth.saturating_add(1);
            let mut skip = 0;
            for (offset, len) in runs {
                self.refer(below)?;
                parts.push(Part::Of(Segment { offset, len, content: below, skip }));
                skip += len;
            }
        }
        let id = ContentId(self.next_id()?);
        for page in parts.chunks(limits::PAGE_ENTRIES) {
            let Some(first) = page.first() else { continue };
            let row = Page::Mixed { sequence: self.sequence, parts: page.to_vec() };
            self.tx.store(rows::CONTENT, rows::page(id, first.offset()), &row);
        }
        let (sequence, kind) = (self.sequence, ContentKind::File { key, copies });
        let row = ContentRow { sequence, references: 1, size, depth, kind };
        self.tx.store(rows::CONTENT, rows::content(id), &row);
        self.unrefer(file.object.content, now.ms())?;
        self.set_file(bucket, file, id, size, now)
    }
}
