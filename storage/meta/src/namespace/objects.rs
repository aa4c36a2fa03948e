//! Objects: written, removed, copied by linking, described anew.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::SessionId;
use nexusgrid_env::Invariant;

use super::limits;
use super::machine::{Change, Step, check_key};
use super::rows::ContentKind;
use super::tree;
use super::types::{
    BucketId, ContentId, DeleteDone, DeleteObject, DeleteVersion, Expected, Malformed,
    NamespaceError, NamespaceOk, NewBlock, Object, ObjectLock, ObjectMeta, Precondition, PutDone,
    PutObject, VersionRef, VersionRules, Versioning,
};
use super::versions::{self, check_lock, check_tags, check_unlocked, shown, with_default_lock};

/// What a caller that is refused so will not try again with the same blocks.
pub(super) fn is_final(error: &NamespaceError) -> bool {
    matches!(
        error,
        NamespaceError::PreconditionFailed
            | NamespaceError::NoSuchKey
            | NamespaceError::InvalidKey
            | NamespaceError::QuotaExceeded
            | NamespaceError::Locked
            | NamespaceError::NoLock
            | NamespaceError::WrongOffset(_)
            | NamespaceError::SourceChanged
            | NamespaceError::BucketState
            | NamespaceError::TooManyAppends
            | NamespaceError::Malformed(_)
    )
}

impl Expected {
    fn is(&self, object: &Object) -> bool {
        self.etag.as_ref().is_none_or(|etag| object.meta.etag == *etag)
            && self.size.is_none_or(|size| object.size == size)
            && self.modified_s.is_none_or(|second| object.modified_ms / 1000 == second)
    }
}

impl Precondition {
    /// Whether it holds of a delete marker, which has none of what objects have.
    pub(super) fn check_marker(&self) -> Result<(), NamespaceError> {
        match self {
            Precondition::IfAny(expected) if *expected != Expected::default() => {
                Err(NamespaceError::PreconditionFailed)
            }
            _ => Ok(()),
        }
    }

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
            (Precondition::IfAny(_), None) => (true, false),
            (Precondition::IfAny(expected), Some(object)) => (expected.is(object), false),
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
    check_tags(&meta.tags)?;
    if user <= limits::USER_METADATA_BYTES_MAX
        && text <= limits::HEADERS_BYTES_MAX
        && meta.special_bytes() <= limits::SPECIAL_BYTES_MAX
    {
        Ok(())
    } else {
        Err(Malformed::Metadata.into())
    }
}

/// Where an object goes: what is there, and how its bucket treats that.
pub(super) struct Target {
    pub current: Option<Object>,
    pub rules: VersionRules,
}

/// The answer for an object that was written.
pub(super) fn put_done(object: &Object, rules: &VersionRules, replaced: bool) -> PutDone {
    PutDone {
        sequence: object.sequence,
        content: object.content,
        size: object.size,
        etag: object.meta.etag.clone(),
        modified_ms: object.modified_ms,
        version: shown(object.version, rules),
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
            let target = match self.check_put(&put, &blocks, now_ms)? {
                Ok(target) => target,
                Err(error) => {
                    results.push(Err(error));
                    continue;
                }
            };
            let size = put.content.size;
            let meta = with_default_lock(put.meta, &target.rules, now_ms);
            let content = self.make_content(put.content, &mut blocks)?;
            let object = Object {
                sequence: self.sequence,
                content,
                size,
                modified_ms: now_ms,
                version: None,
                parts: 0,
                upload: None,
                meta,
            };
            results.push(Ok(self.replace(put.bucket, &put.key, target, object, now_ms)?));
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
        now_ms: u64,
    ) -> Step<Result<Target, NamespaceError>> {
        let checked = check_key(&put.key).and_then(|()| check_meta(&put.meta));
        if let Err(error) = checked {
            return Ok(Err(error));
        }
        match self.check_content(&put.content, blocks) {
            Ok(()) => {}
            Err(super::machine::Stop::Refuse(error)) => return Ok(Err(error)),
            Err(stop) => return Err(stop),
        }
        let (precondition, lock) = (&put.precondition, &put.meta.lock);
        self.check_target(put.bucket, &put.key, precondition, put.content.size, lock, now_ms)
    }

    /// Whether an object of `size` may be written there now, and what is there.
    fn check_target(
        &self,
        bucket: BucketId,
        key: &[u8],
        precondition: &Precondition,
        size: u64,
        lock: &ObjectLock,
        now_ms: u64,
    ) -> Step<Result<Target, NamespaceError>> {
        let row = match self.bucket(bucket) {
            Ok(row) => row,
            Err(super::machine::Stop::Refuse(error)) => return Ok(Err(error)),
            Err(stop) => return Err(stop),
        };
        let current = tree::lookup(&self.tx, bucket, key)?;
        let goes = current.as_ref().filter(|object| row.rules.overwrites(object));
        let replaced = goes.map_or(0, |object| object.size);
        let checked = precondition
            .check(current.as_ref())
            .and_then(|()| row.check_quota(size, replaced))
            .and_then(|()| row.check_objects(goes.is_some()))
            .and_then(|()| check_lock(lock, &row.rules, now_ms))
            .and_then(|()| {
                goes.map_or(Ok(()), |object| check_unlocked(&object.meta.lock, now_ms, false))
            });
        let rules = row.rules;
        Ok(checked.map(|()| Target { current, rules }))
    }

    /// Puts an object in place of the current one: references, dentry, counters (I7, I8, I13).
    pub(super) fn replace(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        target: Target,
        mut object: Object,
        now_ms: u64,
    ) -> Step<PutDone> {
        let Target { current, rules } = target;
        object.version = self.new_version(&rules)?;
        let done = put_done(&object, &rules, current.is_some());
        let is_new = current.is_none();
        self.refer(object.content)?;
        let overwritten = self.make_room(bucket, key, &rules, current, now_ms)?;
        self.put_dentry(bucket, key, object, is_new)?;
        self.count_object(bucket, Some(done.size), overwritten.as_ref())?;
        if let Some(overwritten) = overwritten {
            self.unrefer(overwritten.content, now_ms)?;
        }
        Ok(done)
    }

    /// Counts an object of so many bytes that came, and one that went.
    pub(super) fn count_object(
        &mut self,
        bucket: BucketId,
        came: Option<u64>,
        went: Option<&Object>,
    ) -> Step<()> {
        let mut row = self.bucket(bucket)?;
        let gone = went.map_or(0, |object| object.size);
        row.usage.objects += u64::from(came.is_some());
        let counted = row.usage.bytes >= gone && row.usage.objects >= u64::from(went.is_some());
        self.tx.check(Invariant::I8, counted, || format!("{bucket:?}: {:?}", row.usage));
        row.usage.objects = row.usage.objects.saturating_sub(u64::from(went.is_some()));
        row.usage.bytes = row.usage.bytes.saturating_sub(gone).saturating_add(came.unwrap_or(0));
        self.set_bucket(bucket, row);
        Ok(())
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
            let DeleteObject { key, precondition } = delete;
            let delete = DeleteVersion { key, version: None, precondition, bypass: false };
            let deleted = self.delete_version(bucket, &delete, now_ms)?;
            results.push(deleted.map(|deleted| DeleteDone { existed: deleted.existed }));
        }
        Ok(NamespaceOk::Deleted(results))
    }

    /// Whether a content may change in place.
    pub(super) fn is_loose(&self, content: ContentId) -> Step<bool> {
        Ok(matches!(self.content_row(content)?.kind, ContentKind::File { .. }))
    }

    /// The source of a copy, if it still is what the gateway looked at.
    pub(super) fn source(&self, source: &VersionRef, source_content: ContentId) -> Step<Object> {
        self.bucket(source.bucket)?;
        check_key(&source.key)?;
        let object = versions::lookup(&self.tx, source)?;
        if object.content != source_content {
            return Err(NamespaceError::SourceChanged.into());
        }
        Ok(object)
    }

    /// Gives an object another key: one change, so that it is never under both, nor under none. All
    /// that is known of it stays, when it was written too.
    pub(super) fn rename(
        &mut self,
        bucket: BucketId,
        (source, sequence): (&[u8], u64),
        (target, precondition): (&[u8], &Precondition),
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        check_key(source)?;
        check_key(target)?;
        let rules = self.bucket(bucket)?.rules;
        if rules.versioning != Versioning::Off || source == target {
            return Err(NamespaceError::BucketState.into());
        }
        let from = tree::lookup(&self.tx, bucket, source)?.ok_or(NamespaceError::NoSuchKey)?;
        if from.sequence != sequence {
            return Err(NamespaceError::PreconditionFailed.into());
        }
        // No byte is added: a full bucket can be tidied up.
        let lock = ObjectLock::default();
        let into = self.check_target(bucket, target, precondition, 0, &lock, now_ms)??;
        let object = Object { sequence: self.sequence, upload: None, ..from.clone() };
        let done = self.replace(bucket, target, into, object, now_ms)?;
        self.remove_current(bucket, source, &rules, &from, now_ms)?;
        Ok(NamespaceOk::Put(vec![Ok(done)]))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn link(
        &mut self,
        session: SessionId,
        source: &VersionRef,
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
        // What a mount writes changes in place: the ETag says what the gateway has seen.
        if meta.etag != from.meta.etag && self.is_loose(source_content)? {
            return Err(NamespaceError::SourceChanged.into());
        }
        let lock = &meta.lock;
        let target = self.check_target(*bucket, key, precondition, from.size, lock, now_ms)??;
        let meta = with_default_lock(meta, &target.rules, now_ms);
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
        let done = self.replace(*bucket, key, target, object, now_ms)?;
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
        let row = self.bucket(bucket)?;
        let rules = row.rules;
        check_key(key)?;
        check_meta(&meta)?;
        check_lock(&meta.lock, &rules, now_ms)?;
        let meta = with_default_lock(meta, &rules, now_ms);
        let current = tree::lookup(&self.tx, bucket, key)?.ok_or(NamespaceError::NoSuchKey)?;
        precondition.check(Some(&current))?;
        if meta.etag != current.meta.etag && self.is_loose(current.content)? {
            return Err(NamespaceError::PreconditionFailed.into());
        }
        let sequence = self.sequence;
        let object = Object { sequence, modified_ms: now_ms, meta, ..current.clone() };
        if rules.versioning != Versioning::Off {
            // A copy onto itself is a version of its own, and counts as one.
            let replaced = if rules.overwrites(&current) { current.size } else { 0 };
            row.check_quota(current.size, replaced)?;
            row.check_objects(rules.overwrites(&current))?;
            let target = Target { current: Some(current), rules };
            let done = self.replace(bucket, key, target, object, now_ms)?;
            return Ok(NamespaceOk::Put(vec![Ok(done)]));
        }
        let done = put_done(&object, &rules, true);
        self.put_dentry(bucket, key, object, false)?;
        Ok(NamespaceOk::Put(vec![Ok(done)]))
    }
}
