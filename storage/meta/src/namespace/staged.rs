//! Contents too large for one command: staged piece by piece, then linked into one.
//!
//! ```text
//!   Stage ─▶ content, 0 references, in the outbox ──Commit/PutPart names it──▶ linked, out of it
//!                                                └────nobody does, horizon──▶ freed
//! ```
//!
//! A piece is born released (I10): a writer that dies in between leaves nothing that the outbox does
//! not free anyway, and no row is of a new kind. A writer stages when all its bytes are durable, so
//! a piece waits for milliseconds where the horizon is minutes; should it be freed all the same, the
//! commit is refused, whatever anybody's clock says.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::SessionId;

use super::limits;
use super::machine::{Change, Step};
use super::rows::{self, ContentKind, ContentRow, OutboxRow, Released, Segment};
use super::types::{
    ContentBody, ContentId, Malformed, NamespaceError, NamespaceOk, NewBlock, NewContent,
};

/// The outbox row that a staging command made: it released nothing else.
fn outbox_row(content: ContentId) -> Vec<u8> {
    rows::outbox(rows::sequence_of(content.0), 0)
}

impl Change<'_> {
    pub(super) fn stage(
        &mut self,
        session: SessionId,
        blocks: &[NewBlock],
        content: NewContent,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        if !matches!(content.body, ContentBody::Extents(_) | ContentBody::Copies(_)) {
            return Err(Malformed::Extents.into());
        }
        let mut blocks = self.check_blocks(session, blocks)?;
        self.check_content(&content, &blocks)?;
        let id = self.make_content(content, &mut blocks)?;
        self.release(Released::Content(id), now_ms);
        self.bind_blocks(blocks, true, now_ms);
        Ok(NamespaceOk::Staged(id))
    }

    /// Checks that pieces are there, whole, nobody's, and as long together as the content.
    pub(super) fn check_staged(&self, size: u64, pieces: &[ContentId]) -> Step<()> {
        if pieces.is_empty() || pieces.len() > limits::STAGED_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let mut sum = 0u64;
        for (index, piece) in pieces.iter().enumerate() {
            let row: Option<ContentRow> = self.tx.load(rows::CONTENT, &rows::content(*piece))?;
            let row = row.ok_or(NamespaceError::NoSuchContent)?;
            let released: Option<OutboxRow> = self.tx.load(rows::STATE, &outbox_row(*piece))?;
            let is_released = released.is_some_and(|row| row.what == Released::Content(*piece));
            // Freeing begins with the first page.
            let is_whole = self.tx.get(rows::CONTENT, &rows::page(*piece, 0))?.is_some();
            let is_again = pieces.iter().take(index).any(|other| other == piece);
            let is_staged =
                matches!(row.kind, ContentKind::Extents { .. } | ContentKind::Copies { .. });
            if !is_released || !is_whole || !is_staged || row.references > 0 || is_again {
                return Err(NamespaceError::NoSuchContent.into());
            }
            sum = sum.saturating_add(row.size);
        }
        if sum == size { Ok(()) } else { Err(Malformed::Extents.into()) }
    }

    /// One content of checked pieces.
    pub(super) fn link_staged(&mut self, pieces: &[ContentId]) -> Step<ContentId> {
        let segments = self.take_staged(pieces, 0)?;
        self.make_linked(&segments, 1, ContentKind::Linked)
    }

    /// Checked pieces as segments from an offset on; whoever asks refers to them.
    pub(super) fn take_staged(
        &mut self,
        pieces: &[ContentId],
        mut offset: u64,
    ) -> Step<Vec<Segment>> {
        let mut segments = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let len = self.content_row(*piece)?.size;
            segments.push(Segment { offset, len, content: *piece, skip: 0 });
            offset += len;
            self.tx.delete(rows::STATE, outbox_row(*piece));
        }
        Ok(segments)
    }
}
