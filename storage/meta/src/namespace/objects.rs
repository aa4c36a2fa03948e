//! Objects: written, removed, copied by linking, described anew.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::SessionId;
use nexusgrid_env::Invariant;

use super::limits;
use super::machine::{Change, Step, check_key};
use super::rows::LiveBucket;
use super::tree;
use super::types::{
    BucketId, ContentId, DeleteDone, DeleteObject, Malformed, NamespaceError, NamespaceOk,
    NewBlock, Object, ObjectMeta, Precondition, PutDone, PutObject,
};

/// What a caller that is refused so will not try again with the same blocks.
fn is_final(error: &NamespaceError) -> bool {
    matches!(
        error,
        NamespaceError::PreconditionFailed
            | NamespaceError::NoSuchKey
            | NamespaceError::InvalidKey
            | NamespaceError::QuotaExceeded
            | NamespaceError::Malformed(_)
    )
}

impl Precondition {
    /// Whether it holds of the current object.
    pub(super) fn check(&self, current: Option<&Object>) -> Result<(), NamespaceError> {
        let (holds, of_absent) = match (self, current) {
            (Precondition::None, _) => return Ok(()),
            (Precondition::Absent, current) => (current.is_none(), false),
            (Precondition::Present, current) => (current.is_some(), true),
            (Precondition::EtagIs(etag), Some(object)) => (object.meta.etag == *etag, false),
            (Precondition::EtagIs(_), None) => (false, true),
            (Precondition::EtagIsNot(etag), Some(object)) => (object.meta.etag != *etag, false),
            (Precondition::EtagIsNot(_), None) => (true, false),
            (Precondition::ContentIs(content), current) => {
                (current.is_some_and(|object| object.content == *content), false)
            }
        };
        match (holds, of_absent) {
            (true, _) => Ok(()),
            (false, true) => Err(NamespaceError::NoSuchKey),
            (false, false) => Err(NamespaceError::PreconditionFailed),
        }
    }
}

/// Bounds what a client can make a row hold.
pub(super) fn check_meta(meta: &ObjectMeta) -> Result<(), NamespaceError> {
    let user: usize = meta.user_metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    let headers = &meta.headers;
    let text: usize = [
        &headers.content_type,
        &headers.cache_control,
        &headers.content_disposition,
        &headers.content_encoding,
        &headers.content_language,
        &headers.expires,
        &headers.website_redirect,
    ]
    .into_iter()
    .flatten()
    .map(String::len)
    .sum::<usize>()
        + meta.etag.len()
        + meta.checksums.iter().map(|checksum| checksum.value.len() + 2).sum::<usize>()
        + match &meta.storage_class {
            super::types::StorageClass::Named(name) => name.len(),
            _ => 0,
        };
    if user <= limits::USER_METADATA_BYTES_MAX && text <= limits::HEADERS_BYTES_MAX {
        Ok(())
    } else {
        Err(Malformed::Metadata.into())
    }
}

impl LiveBucket {
    /// Whether `added` bytes fit in place of `removed`.
    pub(super) fn check_quota(&self, added: u64, removed: u64) -> Result<(), NamespaceError> {
        let now = self.usage.bytes.saturating_add(self.usage.part_bytes);
        let then = now.saturating_sub(removed).saturating_add(added);
        match self.quota_bytes {
            // What shrinks is let through even above the quota.
            Some(quota) if then > quota && then > now => Err(NamespaceError::QuotaExceeded),
            _ => Ok(()),
        }
    }
}

/// The answer for an object that was written.
pub(super) fn put_done(object: &Object, replaced: bool) -> PutDone {
    PutDone {
        sequence: object.sequence,
        content: object.content,
        size: object.size,
        etag: object.meta.etag.clone(),
        modified_ms: object.modified_ms,
        version: object.version,
        replaced,
    }
}

impl Change<'_> {
    pub(super) fn commit(
        &mut self,
        session: SessionId,
        blocks: &[NewBlock],
        puts: Vec<PutObject>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        if puts.len() > limits::PUTS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let mut blocks = self.check_blocks(session, blocks)?;
        let mut results = Vec::with_capacity(puts.len());
        for put in puts {
            let current = match self.check_put(&put, &blocks)? {
                Ok(current) => current,
                Err(error) => {
                    results.push(Err(error));
                    continue;
                }
            };
            let size = put.content.size;
            let content = self.make_content(put.content, &mut blocks)?;
            let object = Object {
                sequence: self.sequence,
                content,
                size,
                modified_ms: now_ms,
                version: None,
                parts: 0,
                upload: None,
                meta: put.meta,
            };
            results.push(Ok(self.replace(put.bucket, &put.key, current, object, now_ms)?));
        }
        let drop_rest = results.iter().filter_map(|result| result.as_ref().err()).all(is_final);
        self.bind_blocks(blocks, drop_rest, now_ms);
        Ok(NamespaceOk::Put(results))
    }

    /// Checks one object of a pack; the outer error ends the whole command.
    fn check_put(
        &self,
        put: &PutObject,
        blocks: &super::contents::Blocks,
    ) -> Step<Result<Option<Object>, NamespaceError>> {
        let checked = check_key(&put.key).and_then(|()| check_meta(&put.meta));
        if let Err(error) = checked {
            return Ok(Err(error));
        }
        match self.check_content(&put.content, blocks) {
            Ok(()) => {}
            Err(super::machine::Stop::Refuse(error)) => return Ok(Err(error)),
            Err(stop) => return Err(stop),
        }
        self.check_target(put.bucket, &put.key, &put.precondition, put.content.size)
    }

    /// Whether an object of `size` may be written there now, and what is there.
    fn check_target(
        &self,
        bucket: BucketId,
        key: &[u8],
        precondition: &Precondition,
        size: u64,
    ) -> Step<Result<Option<Object>, NamespaceError>> {
        let row = match self.bucket(bucket) {
            Ok(row) => row,
            Err(super::machine::Stop::Refuse(error)) => return Ok(Err(error)),
            Err(stop) => return Err(stop),
        };
        let current = tree::lookup(&self.tx, bucket, key)?;
        let replaced = current.as_ref().map_or(0, |object| object.size);
        let checked =
            precondition.check(current.as_ref()).and_then(|()| row.check_quota(size, replaced));
        Ok(checked.map(|()| current))
    }

    /// Puts an object in place of the current one: references, dentry, counters (I7, I8, I13).
    pub(super) fn replace(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        current: Option<Object>,
        object: Object,
        now_ms: u64,
    ) -> Step<PutDone> {
        let done = put_done(&object, current.is_some());
        self.refer(object.content)?;
        self.put_dentry(bucket, key, object, current.is_none())?;
        let mut row = self.bucket(bucket)?;
        if current.is_none() {
            row.usage.objects += 1;
        }
        let replaced = current.as_ref().map_or(0, |object| object.size);
        let counted = row.usage.bytes >= replaced;
        self.tx.check(Invariant::I8, counted, || format!("{bucket:?}: {:?}", row.usage));
        row.usage.bytes = row.usage.bytes.saturating_sub(replaced).saturating_add(done.size);
        self.set_bucket(bucket, row);
        if let Some(current) = current {
            self.unrefer(current.content, now_ms)?;
        }
        Ok(done)
    }

    pub(super) fn delete(
        &mut self,
        session: SessionId,
        bucket: BucketId,
        deletes: Vec<DeleteObject>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        self.bucket(bucket)?;
        if deletes.len() > limits::DELETES_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let mut results = Vec::with_capacity(deletes.len());
        for delete in deletes {
            if let Err(error) = check_key(&delete.key) {
                results.push(Err(error));
                continue;
            }
            let current = tree::lookup(&self.tx, bucket, &delete.key)?;
            if let Err(error) = delete.precondition.check(current.as_ref()) {
                results.push(Err(error));
                continue;
            }
            if let Some(current) = &current {
                self.remove_dentry(bucket, &delete.key)?;
                let mut row = self.bucket(bucket)?;
                let counted = row.usage.objects > 0 && row.usage.bytes >= current.size;
                self.tx.check(Invariant::I8, counted, || format!("{bucket:?}: {:?}", row.usage));
                row.usage.objects = row.usage.objects.saturating_sub(1);
                row.usage.bytes = row.usage.bytes.saturating_sub(current.size);
                self.set_bucket(bucket, row);
                self.unrefer(current.content, now_ms)?;
            }
            results.push(Ok(DeleteDone { existed: current.is_some() }));
        }
        Ok(NamespaceOk::Deleted(results))
    }

    /// The source of a copy, if it still is what the gateway looked at.
    pub(super) fn source(
        &self,
        source: &(BucketId, Vec<u8>),
        source_content: ContentId,
    ) -> Step<Object> {
        let (bucket, key) = source;
        self.bucket(*bucket)?;
        check_key(key)?;
        let object = tree::lookup(&self.tx, *bucket, key)?.ok_or(NamespaceError::NoSuchKey)?;
        if object.content != source_content {
            return Err(NamespaceError::SourceChanged.into());
        }
        Ok(object)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn link(
        &mut self,
        session: SessionId,
        source: &(BucketId, Vec<u8>),
        source_content: ContentId,
        target: &(BucketId, Vec<u8>),
        precondition: &Precondition,
        meta: ObjectMeta,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        let (bucket, key) = target;
        check_key(key)?;
        check_meta(&meta)?;
        let from = self.source(source, source_content)?;
        let current = self.check_target(*bucket, key, precondition, from.size)??;
        let object = Object {
            sequence: self.sequence,
            content: from.content,
            size: from.size,
            modified_ms: now_ms,
            version: None,
            parts: from.parts,
            upload: None,
            meta,
        };
        let done = self.replace(*bucket, key, current, object, now_ms)?;
        Ok(NamespaceOk::Put(vec![Ok(done)]))
    }

    pub(super) fn set_meta(
        &mut self,
        session: SessionId,
        bucket: BucketId,
        key: &[u8],
        precondition: &Precondition,
        meta: ObjectMeta,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.check_session(session)?;
        self.bucket(bucket)?;
        check_key(key)?;
        check_meta(&meta)?;
        let current = tree::lookup(&self.tx, bucket, key)?.ok_or(NamespaceError::NoSuchKey)?;
        precondition.check(Some(&current))?;
        let object = Object { sequence: self.sequence, modified_ms: now_ms, meta, ..current };
        let done = put_done(&object, true);
        self.put_dentry(bucket, key, object, false)?;
        Ok(NamespaceOk::Put(vec![Ok(done)]))
    }
}
