//! Bytes put behind an object.
//!
//! ```text
//!   object ──▶ view (new with each append) ──▶ log (grows) ──▶ pieces, in order
//! ```
//!
//! What an object's content holds never changes, so that readers, copies and conditions that name it
//! stay right. An append makes a new content all the same in a few rows, however many went before: the new
//! content is a *view*, one segment over a *log*, and only the log's last page is written anew. A log grows at
//! the end of its newest view; who appends to an older one (a copy, say) gets a log of his own that links what
//! the view shows.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::SessionId;
use nexusgrid_env::kv::prefix_end;

use super::contents::Blocks;
use super::limits;
use super::machine::{Change, Step, Stop, check_key, corrupt};
use super::objects::{Target, check_meta, is_final};
use super::rows::{self, ContentKind, ContentRow, Page, Segment};
use super::tree;
use super::types::{
    Append, ContentBody, ContentId, Malformed, NamespaceError, NamespaceOk, NewBlock, NewContent,
    Object, ObjectMeta, Precondition, Versioning,
};
use crate::rows::tx::decode_row;

/// Where the new bytes go.
enum Place {
    /// There were none before: they are the content.
    Bare,
    /// To the end of a log.
    Log(ContentId, ContentRow, LastPage),
    /// Into a log that begins with these segments, of contents so deep.
    New(Vec<Segment>, u8),
}

/// The page of a log that takes the new segments.
struct LastPage {
    key: Option<Vec<u8>>,
    segments: Vec<Segment>,
}

impl Change<'_> {
    pub(super) fn append(
        &mut self,
        session: SessionId,
        blocks: &[NewBlock],
        append: Append,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        let mut blocks = self.check_blocks(session, blocks)?;
        self.check_content(&append.content, &blocks)?;
        if append.content.size == 0 {
            return Err(Malformed::Range.into());
        }
        let checked = self.check_append(&append);
        let result = match checked {
            Ok((target, place)) => {
                let bucket = append.bucket;
                let key = append.key.clone();
                let object = self.extend(&target, place, append, &mut blocks, now_ms)?;
                Ok(self.replace(bucket, &key, target, object, now_ms)?)
            }
            Err(Stop::Refuse(error)) => Err(error),
            Err(stop) => return Err(stop),
        };
        let drop_rest = result.as_ref().err().is_some_and(is_final);
        self.bind_blocks(blocks, drop_rest, now_ms);
        Ok(NamespaceOk::Put(vec![result]))
    }

    /// Whether the bytes may go there now, and where that is.
    fn check_append(&self, append: &Append) -> Step<(Target, Place)> {
        check_key(&append.key)?;
        let row = self.bucket(append.bucket)?;
        if row.rules.versioning != Versioning::Off {
            return Err(NamespaceError::BucketState.into());
        }
        let current = tree::lookup(&self.tx, append.bucket, &append.key)?;
        let current = current.ok_or(NamespaceError::NoSuchKey)?;
        append.precondition.check(Some(&current))?;
        if current.size != append.offset {
            return Err(NamespaceError::WrongOffset(current.size).into());
        }
        // What a mount writes changes in place: only its ETag says what was seen.
        let is_unseen = !matches!(append.precondition, Precondition::EtagIs(_))
            && self.is_loose(current.content)?;
        if current.content != append.source_content || is_unseen {
            return Err(NamespaceError::SourceChanged.into());
        }
        check_meta(&described(&current, append))?;
        let size = current.size.checked_add(append.content.size);
        row.check_quota(size.ok_or(NamespaceError::TooLarge)?, current.size)?;
        let place = self.place(&current, pieces_of(&append.content))?;
        Ok((Target { current: Some(current), rules: row.rules }, place))
    }

    fn place(&self, current: &Object, pieces: usize) -> Step<Place> {
        if current.size == 0 {
            return Ok(Place::Bare);
        }
        if let Some((log, row)) = self.log_that_ends_with(current)? {
            let page = self.last_page(log, pieces)?;
            return Ok(Place::Log(log, row, page));
        }
        let (segments, below) = self.segments_of(current.content, 0, current.size)?;
        let depth = below.saturating_add(1);
        // The view above it is one deeper.
        if depth >= limits::LINK_DEPTH_MAX {
            return Err(NamespaceError::TooManyAppends.into());
        }
        Ok(Place::New(segments, depth))
    }

    /// The log whose newest view an object's content is.
    fn log_that_ends_with(&self, current: &Object) -> Step<Option<(ContentId, ContentRow)>> {
        if self.content_row(current.content)?.kind != ContentKind::Linked {
            return Ok(None);
        }
        let page: Option<Page> = self.tx.load(rows::CONTENT, &rows::page(current.content, 0))?;
        let Some(Page::Segments { segments, .. }) = page else {
            return Err(corrupt("a linked content without segments"));
        };
        let [Segment { offset: 0, skip: 0, len, content: log }] = *segments.as_slice() else {
            return Ok(None);
        };
        let row = self.content_row(log)?;
        let is_newest = row.kind == ContentKind::Log && row.size == len && len == current.size;
        Ok(is_newest.then_some((log, row)))
    }

    fn last_page(&self, log: ContentId, pieces: usize) -> Step<LastPage> {
        let prefix = rows::pages(log).done();
        let last = self.tx.last_up_to(rows::CONTENT, &prefix, &rows::page(log, u64::MAX))?;
        let (key, value) = last.ok_or_else(|| corrupt("a log without segments"))?;
        let Page::Segments { segments, .. } = decode_row(rows::CONTENT, &value)? else {
            return Err(corrupt("extents in a log"));
        };
        if segments.len().saturating_add(pieces) <= limits::PAGE_ENTRIES {
            return Ok(LastPage { key: Some(key.to_vec()), segments });
        }
        // Only whoever begins a page counts them.
        let end = prefix_end(&prefix);
        let pages =
            self.tx.scan(rows::CONTENT, &prefix, end.as_deref(), limits::LOG_PAGES_MAX)?.len();
        if pages >= limits::LOG_PAGES_MAX {
            return Err(NamespaceError::TooManyAppends.into());
        }
        Ok(LastPage { key: None, segments: Vec::new() })
    }

    /// The object with the new bytes behind the old. All was checked.
    fn extend(
        &mut self,
        target: &Target,
        place: Place,
        append: Append,
        blocks: &mut Blocks,
        now_ms: u64,
    ) -> Step<Object> {
        let current = target.current.as_ref().ok_or_else(|| corrupt("nothing to append to"))?;
        let meta = described(current, &append);
        let size = current.size.saturating_add(append.content.size);
        let content = match place {
            Place::Bare => self.make_content(append.content, blocks)?,
            Place::Log(log, row, page) => {
                let pieces = self.pieces(append.content, blocks, row.size)?;
                self.grow(log, row, page, &pieces)?;
                self.view(log)?
            }
            Place::New(mut segments, depth) => {
                segments.extend(self.pieces(append.content, blocks, current.size)?);
                let log = self.make_linked(&segments, depth, ContentKind::Log)?;
                self.view(log)?
            }
        };
        Ok(Object {
            sequence: self.sequence,
            content,
            size,
            modified_ms: now_ms,
            version: None,
            // Its parts are told apart no more.
            parts: 0,
            upload: None,
            meta,
        })
    }

    /// The new bytes as segments from an offset on, each of a content that has blocks or bytes of its own.
    fn pieces(
        &mut self,
        content: NewContent,
        blocks: &mut Blocks,
        offset: u64,
    ) -> Step<Vec<Segment>> {
        if let ContentBody::Staged(pieces) = &content.body {
            return self.take_staged(pieces, offset);
        }
        let len = content.size;
        let content = self.make_content(content, blocks)?;
        Ok(vec![Segment { offset, len, content, skip: 0 }])
    }

    fn grow(
        &mut self,
        log: ContentId,
        row: ContentRow,
        page: LastPage,
        pieces: &[Segment],
    ) -> Step<()> {
        let mut size = row.size;
        let LastPage { key, mut segments } = page;
        let key = key.unwrap_or_else(|| rows::page(log, row.size));
        for piece in pieces {
            self.refer(piece.content)?;
            segments.push(*piece);
            size = size.saturating_add(piece.len);
        }
        let sequence = self.sequence;
        self.tx.store(rows::CONTENT, key, &Page::Segments { sequence, segments });
        let row = ContentRow { sequence, size, ..row };
        self.tx.store(rows::CONTENT, rows::content(log), &row);
        Ok(())
    }

    /// A content that shows all that a log holds now.
    fn view(&mut self, log: ContentId) -> Step<ContentId> {
        let row = self.content_row(log)?;
        let segment = Segment { offset: 0, len: row.size, content: log, skip: 0 };
        self.make_linked(&[segment], row.depth.saturating_add(1), ContentKind::Linked)
    }
}

/// How many segments a content's bytes are.
fn pieces_of(content: &NewContent) -> usize {
    match &content.body {
        ContentBody::Staged(pieces) => pieces.len(),
        _ => 1,
    }
}

/// What is known of the object afterwards.
fn described(current: &Object, append: &Append) -> ObjectMeta {
    ObjectMeta {
        etag: append.etag.clone(),
        checksums: append.checksums.clone(),
        ..current.meta.clone()
    }
}
