//! Multipart uploads.
//!
//! A part is a content that a part row refers to. A completion makes one content whose segments lie
//! in the parts, in pages of 128; the part rows live on as the references of that content, so that
//! 10 000 parts cost about 80 rows and one command.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use nexusgrid_codec::id::SessionId;
use nexusgrid_env::KvError;
use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::{Change, Step, check_key};
use super::map;
use super::objects::{Target, check_meta, put_done};
use super::rows::{self, ContentKind, ContentRow, PartRow, Released, Segment, UploadRow};
use super::tree;
use super::types::{
    BucketId, Checksum, ChecksumAlgorithm, ChecksumKind, CompletedPart, ContentId, Malformed,
    NamespaceError, NamespaceOk, NewBlock, NewContent, Object, ObjectMeta, PartInfo, Precondition,
    UploadId, UploadInfo, UploadRef, VersionRef,
};
use super::versions::{check_lock, with_default_lock};
use crate::rows::tx::{Tx, decode_row};

/// Segments that a range of a linked content may be copied as, instead of nesting a level deeper.
const FLATTEN_MAX: usize = 64;

/// Part rows of an upload with numbers above `after`, in order.
pub(super) fn part_rows(
    tx: &Tx<'_>,
    upload: UploadId,
    after: u16,
    limit: usize,
) -> Result<Vec<PartRow>, KvError> {
    let prefix = rows::parts(upload).done();
    let start = rows::part(upload, after.saturating_add(1));
    let end = prefix_end(&prefix);
    tx.scan(rows::STATE, &start, end.as_deref(), limit)?
        .iter()
        .map(|(_, value)| decode_row(rows::STATE, value))
        .collect()
}

/// The parts of a completed upload's content, in order, without the first `skip`. Rows of parts that
/// the completion did not name may still be there: they are not the segments' contents.
pub(super) fn parts_of(
    tx: &Tx<'_>,
    content: ContentId,
    skip: usize,
    limit: usize,
) -> Step<Vec<PartInfo>> {
    let row: Option<ContentRow> = tx.load(rows::CONTENT, &rows::content(content))?;
    let ContentKind::Parts { upload } = row.ok_or(NamespaceError::NoSuchContent)?.kind else {
        return Ok(Vec::new());
    };
    let mut segments = map::all_segments(tx, content)?.into_iter().peekable();
    let all = part_rows(tx, upload, 0, usize::from(limits::PART_NUMBER_MAX))?.into_iter();
    let named = all.filter_map(|row| {
        let is_next =
            |segment: &Segment| segment.content == row.info.content && segment.len == row.info.size;
        segments.next_if(is_next).map(|_| row.info)
    });
    Ok(named.skip(skip).take(limit).collect())
}

impl Change<'_> {
    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn create_upload(
        &mut self,
        session: SessionId,
        bucket: BucketId,
        key: Vec<u8>,
        nonce: u64,
        owner: String,
        meta: ObjectMeta,
        checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        check_key(&key)?;
        check_meta(&meta)?;
        if owner.len() > limits::KEY_BYTES_MAX {
            return Err(Malformed::Metadata.into());
        }
        let mut row = self.bucket(bucket)?;
        check_lock(&meta.lock, &row.rules, now_ms)?;
        row.usage.uploads += 1;
        self.set_bucket(bucket, row);
        let mut id = [0; 16];
        let bytes = self.sequence.to_be_bytes().into_iter().chain(nonce.to_be_bytes());
        id.iter_mut().zip(bytes).for_each(|(byte, value)| *byte = value);
        let upload = UploadRef { bucket, key, id: UploadId(id) };
        self.touch(bucket, &upload.key);
        let info =
            UploadInfo { sequence: self.sequence, created_ms: now_ms, owner, meta, checksum };
        self.tx.store(rows::STATE, rows::upload(&upload), &UploadRow { info, part_bytes: 0 });
        Ok(NamespaceOk::Upload(upload.id))
    }

    fn upload(&self, upload: &UploadRef) -> Step<Option<UploadRow>> {
        check_key(&upload.key)?;
        Ok(self.tx.load(rows::STATE, &rows::upload(upload))?)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn put_part(
        &mut self,
        session: SessionId,
        upload: &UploadRef,
        number: u16,
        blocks: &[NewBlock],
        content: NewContent,
        etag: String,
        checksums: Vec<Checksum>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        let mut blocks = self.check_blocks(session, blocks)?;
        self.check_content(&content, &blocks)?;
        let size = content.size;
        let id = self.make_content(content, &mut blocks)?;
        let depth = self.content_row(id)?.depth;
        let done = self.set_part(upload, number, id, (size, depth), etag, checksums, now_ms)?;
        self.bind_blocks(blocks, true, now_ms);
        Ok(done)
    }

    /// Sets a part row in place of one of the same number: references and counters (I7, I8).
    #[expect(clippy::too_many_arguments, reason = "the fields of one part")]
    fn set_part(
        &mut self,
        upload: &UploadRef,
        number: u16,
        content: ContentId,
        (size, depth): (u64, u8),
        etag: String,
        checksums: Vec<Checksum>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        if !(1..=limits::PART_NUMBER_MAX).contains(&number) {
            return Err(Malformed::PartNumber.into());
        }
        check_meta(&ObjectMeta {
            etag: etag.clone(),
            checksums: checksums.clone(),
            ..ObjectMeta::default()
        })?;
        let mut row = self.upload(upload)?.ok_or(NamespaceError::NoSuchUpload)?;
        let mut bucket = self.bucket(upload.bucket)?;
        let before: Option<PartRow> = self.tx.load(rows::STATE, &rows::part(upload.id, number))?;
        let replaced = before.as_ref().map_or(0, |part| part.info.size);
        bucket.check_quota(size, replaced)?;
        bucket.usage.part_bytes =
            bucket.usage.part_bytes.saturating_sub(replaced).saturating_add(size);
        row.part_bytes = row.part_bytes.saturating_sub(replaced).saturating_add(size);
        self.set_bucket(upload.bucket, bucket);
        self.tx.store(rows::STATE, rows::upload(upload), &row);
        self.refer(content)?;
        if let Some(before) = before {
            self.unrefer(before.info.content, now_ms)?;
        }
        let info = PartInfo {
            sequence: self.sequence,
            number,
            content,
            size,
            etag,
            checksums,
            modified_ms: now_ms,
        };
        let part = PartRow { info, depth };
        self.tx.store(rows::STATE, rows::part(upload.id, number), &part);
        Ok(NamespaceOk::Part(part.info))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn link_part(
        &mut self,
        session: SessionId,
        upload: &UploadRef,
        number: u16,
        source: &VersionRef,
        source_content: ContentId,
        (offset, len): (u64, u64),
        etag: String,
        checksums: Vec<Checksum>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        let from = self.source(source, source_content)?;
        if offset.checked_add(len).is_none_or(|end| end > from.size) {
            return Err(NamespaceError::RangeNotSatisfiable(from.size).into());
        }
        let whole = self.content_row(from.content)?;
        let (content, depth) = if len == from.size {
            (from.content, whole.depth)
        } else if len == 0 {
            return Err(Malformed::Range.into());
        } else {
            let (segments, below) = self.segments_of(from.content, offset, len)?;
            let depth = below.saturating_add(1);
            (self.make_linked(&segments, depth, ContentKind::Linked)?, depth)
        };
        // A completion adds one level.
        if depth >= limits::LINK_DEPTH_MAX {
            return Err(NamespaceError::CopyInstead.into());
        }
        self.set_part(upload, number, content, (len, depth), etag, checksums, now_ms)
    }

    /// A range of a content as segments, and the depth of the deepest content they lie in. Links
    /// are flattened where few segments cover the range; a link with one is, whatever is below it.
    pub(super) fn segments_of(
        &self,
        content: ContentId,
        offset: u64,
        len: u64,
    ) -> Step<(Vec<Segment>, u8)> {
        let row = self.content_row(content)?;
        if let ContentKind::Linked | ContentKind::Parts { .. } | ContentKind::Log = row.kind
            && let Some(segments) = map::segments(&self.tx, content, offset, len, FLATTEN_MAX)?
        {
            if let [only] = *segments.as_slice() {
                // Links nest to a bounded depth.
                return self.segments_of(only.content, only.skip, only.len);
            }
            let mut depth = 0;
            for segment in &segments {
                depth = depth.max(self.content_row(segment.content)?.depth);
            }
            return Ok((segments, depth));
        }
        Ok((vec![Segment { offset: 0, len, content, skip: offset }], row.depth))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn complete_upload(
        &mut self,
        session: SessionId,
        upload: &UploadRef,
        wanted: &[CompletedPart],
        part_bytes_min: u64,
        precondition: &Precondition,
        etag: String,
        checksums: Vec<Checksum>,
        size: Option<u64>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        let mut bucket = self.bucket(upload.bucket)?;
        let current = tree::lookup(&self.tx, upload.bucket, &upload.key)?;
        let Some(row) = self.upload(upload)? else {
            // The client asks again because it missed the answer: the object is there.
            return match current.filter(|object| object.upload == Some(upload.id)) {
                Some(object) => {
                    Ok(NamespaceOk::Put(vec![Ok(put_done(&object, &bucket.rules, false))]))
                }
                None => Err(NamespaceError::NoSuchUpload.into()),
            };
        };
        let parts = part_rows(&self.tx, upload.id, 0, usize::from(limits::PART_NUMBER_MAX))?;
        let chosen = choose_parts(parts, wanted, part_bytes_min)?;
        if size.is_some_and(|size| size != chosen.size) {
            return Err(NamespaceError::SizeMismatch.into());
        }
        precondition.check(current.as_ref())?;
        let replaces = current.as_ref().is_some_and(|object| bucket.rules.overwrites(object));
        bucket.check_objects(replaces)?;
        let meta = ObjectMeta { etag, checksums, ..row.info.meta };
        let meta = with_default_lock(meta, &bucket.rules, now_ms);
        check_meta(&meta)?;
        let kind = ContentKind::Parts { upload: upload.id };
        let content = self.make_linked(&chosen.segments, chosen.depth.saturating_add(1), kind)?;
        if !chosen.unused.is_empty() {
            self.release(Released::Parts(upload.id, chosen.unused), now_ms);
        }
        self.tx.delete(rows::STATE, rows::upload(upload));
        bucket.usage.uploads = bucket.usage.uploads.saturating_sub(1);
        bucket.usage.part_bytes = bucket.usage.part_bytes.saturating_sub(row.part_bytes);
        self.set_bucket(upload.bucket, bucket);
        let object = Object {
            sequence: self.sequence,
            content,
            size: chosen.size,
            modified_ms: now_ms,
            version: None,
            parts: u16::try_from(wanted.len()).unwrap_or(u16::MAX),
            upload: Some(upload.id),
            meta,
        };
        let target = Target { current, rules: bucket.rules };
        let done = self.replace(upload.bucket, &upload.key, target, object, now_ms)?;
        Ok(NamespaceOk::Put(vec![Ok(done)]))
    }

    pub(super) fn abort_upload(
        &mut self,
        session: SessionId,
        upload: &UploadRef,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        self.end_upload(upload, now_ms)?;
        Ok(NamespaceOk::Done)
    }

    /// Ends an upload without an object.
    pub(super) fn end_upload(&mut self, upload: &UploadRef, now_ms: u64) -> Step<()> {
        let mut bucket = self.bucket(upload.bucket)?;
        let row = self.upload(upload)?.ok_or(NamespaceError::NoSuchUpload)?;
        self.touch(upload.bucket, &upload.key);
        self.tx.delete(rows::STATE, rows::upload(upload));
        bucket.usage.uploads = bucket.usage.uploads.saturating_sub(1);
        bucket.usage.part_bytes = bucket.usage.part_bytes.saturating_sub(row.part_bytes);
        self.set_bucket(upload.bucket, bucket);
        self.release(Released::Upload(upload.id), now_ms);
        Ok(())
    }
}

/// What a completion is made of.
struct Chosen {
    segments: Vec<Segment>,
    size: u64,
    depth: u8,
    unused: Vec<u16>,
}

fn choose_parts(
    parts: Vec<PartRow>,
    wanted: &[CompletedPart],
    part_bytes_min: u64,
) -> Result<Chosen, NamespaceError> {
    let mut parts: BTreeMap<u16, PartRow> =
        parts.into_iter().map(|part| (part.info.number, part)).collect();
    let mut chosen = Chosen { segments: Vec::new(), size: 0, depth: 0, unused: Vec::new() };
    if wanted.is_empty() || wanted.len() > usize::from(limits::PART_NUMBER_MAX) {
        return Err(Malformed::PartNumber.into());
    }
    if !wanted.is_sorted_by(|a, b| a.number < b.number) {
        return Err(NamespaceError::InvalidPartOrder);
    }
    let last = wanted.last().map(|part| part.number);
    for want in wanted {
        let part = parts.remove(&want.number).ok_or(NamespaceError::InvalidPart(want.number))?;
        let info = part.info;
        let is_same = info.etag == want.etag
            && want.checksum.as_ref().is_none_or(|checksum| info.checksums.contains(checksum));
        if !is_same {
            return Err(NamespaceError::InvalidPart(want.number));
        }
        // Only the last part may be empty: a segment has bytes, and the n-th is the n-th part.
        if Some(want.number) != last && info.size < part_bytes_min.max(1) {
            return Err(NamespaceError::PartTooSmall(want.number, info.size));
        }
        if info.size > 0 {
            let (offset, len) = (chosen.size, info.size);
            chosen.segments.push(Segment { offset, len, content: info.content, skip: 0 });
        }
        chosen.size = chosen.size.checked_add(info.size).ok_or(NamespaceError::TooLarge)?;
        chosen.depth = chosen.depth.max(part.depth);
    }
    chosen.unused = parts.into_keys().collect();
    Ok(chosen)
}
