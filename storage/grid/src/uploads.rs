//! Uploads in parts: each part a content of its own, the object links them.

use nexusgrid_codec::{Code, seal};
use nexusgrid_env::Invariant;
use nexusgrid_meta::namespace::types as row;
use nexusgrid_meta::namespace::types::{
    CompletedPart, ContentBody, NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceOk,
    NamespaceQuery, NewContent, UploadEntry, UploadRef, UploadsAfter,
};
use nexusgrid_meta::root::topology::Bucket;

use crate::api::{
    BodyStream, CompleteUploadRequest, CreateUploadRequest, Finish, FinishParts,
    ListUploadsRequest, ObjectSeal, PartCopyRequest, PartInfo, PartRequest, PartsPage, PutOutcome,
    Tap, UploadId, UploadInfo, UploadsPage,
};
use crate::body::BodyReader;
use crate::convert;
use crate::core::internal;
use crate::error::GridError;
use crate::facade::Grid;
use crate::keys::FreshKey;
use crate::limits;
use crate::meta_port::MetaError;
use crate::objects::body_of;
use crate::storage_class;
use crate::stripe::{BlockKind, Payload};
use crate::version::VersionName;
use crate::write::{LargeContent, Received, extent};

fn upload_ref(bucket: &Bucket, key: &str, upload: &UploadId) -> Result<UploadRef, GridError> {
    let id = row::UploadId::parse(&upload.0).ok_or(GridError::NoSuchUpload)?;
    Ok(UploadRef { bucket: bucket.id, key: key.as_bytes().to_vec(), id })
}

fn part_number(number: u32) -> Result<u16, GridError> {
    let invalid = || GridError::InvalidArgument("part number".to_owned());
    if !(1..=limits::PART_NUMBER_MAX).contains(&number) {
        return Err(invalid());
    }
    u16::try_from(number).map_err(|_| invalid())
}

impl Grid {
    /// Opens an upload.
    pub async fn create_upload(
        &self,
        request: CreateUploadRequest,
    ) -> Result<UploadInfo, GridError> {
        let bucket = self.place(&request.bucket, &request.key).await?;
        self.core.check_writable()?;
        let meta = convert::meta_row(&request.meta, &ObjectSeal::default())?;
        let session = self.core.sessions.get(bucket.group).await?;
        let now_ms = self.core.meta.now_ms();
        let command = NamespaceCommand::CreateUpload {
            session: session.id,
            bucket: bucket.id,
            key: request.key.clone().into_bytes(),
            nonce: self.core.env.rng.u64(),
            owner: request.tenant.0.clone(),
            meta,
            checksum: convert::checksum_choice_row(request.checksum),
            now_ms,
        };
        match self.core.meta.command(bucket.group, &command).await {
            Ok(NamespaceOk::Upload(id)) => Ok(UploadInfo {
                key: request.key,
                upload: UploadId(id.to_string()),
                initiated: nexusgrid_env::UnixMillis(now_ms),
                owner: request.tenant.0,
                meta: request.meta,
                checksum: request.checksum,
            }),
            Ok(_) => Err(internal("reply to creating an upload")),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// An open upload, or `NoSuchUpload`.
    pub async fn head_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
    ) -> Result<UploadInfo, GridError> {
        let place = self.place(bucket, key).await?;
        let upload = upload_ref(&place, key, upload)?;
        let id = upload.id;
        match self.core.meta.ask(place.group, &NamespaceQuery::Upload { upload }).await {
            Ok(NamespaceAnswer::Upload(info)) => Ok(convert::upload_info(key, id, &info)),
            Ok(_) => Err(internal("answer to an upload query")),
            Err(error) => Err(self.explain(&place, error).await),
        }
    }

    /// Stores a part.
    pub async fn upload_part(
        &self,
        request: PartRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PartInfo, GridError> {
        let bucket = self.place(&request.bucket, &request.key).await?;
        self.core.check_writable()?;
        let number = part_number(request.number)?;
        let limit = limits::PART_BYTES_MAX;
        if request.length.is_some_and(|length| length > limit) {
            return Err(GridError::TooLarge { limit });
        }
        let upload = upload_ref(&bucket, &request.key, &request.upload)?;
        // Before the body: a client should not send gigabytes to an upload that is gone.
        let query = NamespaceQuery::Upload { upload: upload.clone() };
        let kind = match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::Upload(info)) => {
                storage_class::block_kind(Some(storage_class::name(&info.meta.storage_class)))
            }
            Ok(_) => return Err(internal("answer to an upload query")),
            Err(error) => return Err(self.explain(&bucket, error).await),
        };
        let core = &self.core;
        let key = core.keys.fresh(bucket.id, &bucket.name, bucket.key_version).await?;
        let mut reader = BodyReader::new(body, request.length, limit);
        let received = core.receive(&request.tenant, &mut reader, bucket.group, &key, kind).await?;
        let seal = finish()?;
        let large = self.part_content(&bucket, &key, received).await?.staged(core).await?;
        let command = NamespaceCommand::PutPart {
            session: large.session.id,
            upload,
            number,
            blocks: large.blocks,
            content: large.content,
            etag: seal.etag,
            checksums: convert::checksum_rows(&seal.checksums),
            now_ms: core.meta.now_ms(),
        };
        match core.meta.command(bucket.group, &command).await {
            Ok(NamespaceOk::Part(part)) => {
                core.refill_after_commit(large.refill);
                Ok(convert::part_info(&part))
            }
            Ok(_) => Err(internal("reply to a part")),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// Small parts are alone in their block: the object links them one by one anyway.
    pub(crate) async fn part_content(
        &self,
        bucket: &Bucket,
        key: &FreshKey,
        received: Received,
    ) -> Result<LargeContent, GridError> {
        let (pieces, len, _reservation) = match received {
            Received::Large(large) => return Ok(large),
            Received::Small { pieces, len, reservation } => (pieces, len, reservation),
        };
        let core = &self.core;
        let session = core.sessions.get(bucket.group).await?;
        let mut blocks = Vec::new();
        let mut refill = Vec::new();
        let body = if len == 0 {
            ContentBody::Empty
        } else if len <= core.options.inline_bytes as u64 {
            let block = session
                .next_block()
                .ok_or_else(|| GridError::Unavailable("block ids are used up".to_owned()))?;
            core.env.invariants.once(Invariant::I14, &block.to_bytes());
            let code = Code::copies(1).map_err(internal)?;
            let (sealed, _) = seal::seal_one(core.keys.cluster(), block, code, &key.open, &pieces)
                .map_err(internal)?;
            ContentBody::Inline { block, sealed: sealed.bytes }
        } else {
            let payload = Payload::Plain(vec![(key.open.clone(), pieces)]);
            let stored = core.store_block(&session, BlockKind::Pack, payload).await?;
            let region = *stored.regions.first().ok_or_else(|| internal("a region"))?;
            let extents = vec![extent(&stored, region, 0)];
            blocks.push(stored.row);
            refill = stored.refill;
            ContentBody::Extents(extents)
        };
        let content = NewContent { size: len, key: key.row.clone(), body };
        Ok(LargeContent { session, content, blocks, refill })
    }

    /// Stores a range of an object as a part; `tap` sees all bytes before `finish` runs.
    pub async fn upload_part_copy(
        &self,
        request: PartCopyRequest,
        tap: Tap,
        finish: Finish,
    ) -> Result<PartInfo, GridError> {
        self.upload_part_copy_version(request, None, tap, finish).await
    }

    /// The same of a version; without a name the current one.
    pub async fn upload_part_copy_version(
        &self,
        request: PartCopyRequest,
        version: Option<VersionName>,
        tap: Tap,
        finish: Finish,
    ) -> Result<PartInfo, GridError> {
        let (bucket, key) = (&request.source_bucket, &request.source_key);
        let reader = self.open_version(bucket, key, version).await?;
        if request.source_version.is_some_and(|version| version != reader.info().version) {
            return Err(GridError::PreconditionFailed);
        }
        let reader = reader.on_behalf_of(request.part.tenant.clone());
        let (range, stream) = reader.read(request.range)?;
        let part = PartRequest { length: Some(range.end - range.start), ..request.part };
        let (body, failure) = body_of(stream, Some(tap));
        let result = self.upload_part(part, body, finish).await;
        failure.lock().take().map_or(result, Err)
    }

    /// Makes the object; `seal` sees the chosen parts as stored. Repeating it after it succeeded
    /// gives the same answer while the object stands.
    pub async fn complete_upload(
        &self,
        request: CompleteUploadRequest,
        seal: FinishParts,
    ) -> Result<PutOutcome, GridError> {
        let bucket = self.place(&request.bucket, &request.key).await?;
        self.core.check_writable()?;
        let upload = upload_ref(&bucket, &request.key, &request.upload)?;
        if request.parts.is_empty() {
            return Err(GridError::InvalidArgument("no parts".to_owned()));
        }
        if !request.parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(GridError::InvalidPartOrder);
        }
        let stored = match self.all_parts(&bucket, &upload).await {
            Err(GridError::NoSuchUpload) => {
                let object = self.find(&bucket, &request.key).await?;
                let made = object.filter(|object| object.upload == Some(upload.id));
                return made
                    .map(|object| convert::outcome_of(&object))
                    .ok_or(GridError::NoSuchUpload);
            }
            other => other?,
        };
        let mut chosen = Vec::with_capacity(request.parts.len());
        let mut parts = Vec::with_capacity(request.parts.len());
        let mut size: u64 = 0;
        for (index, part) in request.parts.iter().enumerate() {
            let number = part.number;
            let found = stored.binary_search_by_key(&number, |stored| stored.number).ok();
            let found = found.and_then(|at| stored.get(at));
            let found = found
                .filter(|found| found.etag == part.etag)
                .ok_or(GridError::InvalidPart { number })?;
            let is_last = index + 1 == request.parts.len();
            if !is_last && found.size < limits::PART_BYTES_MIN {
                return Err(GridError::PartTooSmall { number, size: found.size });
            }
            size = size.saturating_add(found.size);
            parts.push(CompletedPart {
                number: part_number(number)?,
                etag: part.etag.clone(),
                checksum: None,
            });
            chosen.push(found.clone());
        }
        if size > limits::OBJECT_BYTES_MAX {
            return Err(GridError::TooLarge { limit: limits::OBJECT_BYTES_MAX });
        }
        let precondition = self.condition(&bucket, &request.key, &request.precondition).await?;
        let sealed = seal(&chosen)?;
        let session = self.core.sessions.get(bucket.group).await?;
        let command = NamespaceCommand::CompleteUpload {
            session: session.id,
            upload,
            parts,
            part_bytes_min: limits::PART_BYTES_MIN,
            precondition,
            etag: sealed.etag,
            checksums: convert::checksum_rows(&sealed.checksums),
            size: Some(size),
            now_ms: self.core.meta.now_ms(),
        };
        let done = self.one_put(&bucket, &command).await?;
        Ok(convert::put_outcome(&done, sealed.checksums))
    }

    async fn all_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRef,
    ) -> Result<Vec<PartInfo>, GridError> {
        let mut parts: Vec<PartInfo> = Vec::new();
        loop {
            let after = parts.last().map_or(0, |part| part.number);
            let after = u16::try_from(after).unwrap_or(u16::MAX);
            let query = NamespaceQuery::ListParts {
                upload: upload.clone(),
                after,
                limit: limits::LIST_PAGE_MAX,
            };
            let listing = match self.core.meta.ask(bucket.group, &query).await {
                Ok(NamespaceAnswer::Parts(listing)) => listing,
                Ok(_) => return Err(internal("answer to a parts query")),
                Err(error) => return Err(self.explain(bucket, error).await),
            };
            parts.extend(listing.parts.iter().map(convert::part_info));
            if !listing.more || listing.parts.is_empty() {
                return Ok(parts);
            }
        }
    }

    /// Drops an upload and its parts.
    pub async fn abort_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
    ) -> Result<(), GridError> {
        let place = self.place(bucket, key).await?;
        let upload = upload_ref(&place, key, upload)?;
        let session = self.core.sessions.get(place.group).await?;
        let now_ms = self.core.meta.now_ms();
        let command = NamespaceCommand::AbortUpload { session: session.id, upload, now_ms };
        match self.core.meta.command(place.group, &command).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(&place, error).await),
        }
    }

    /// A page of open uploads.
    pub async fn list_uploads(
        &self,
        request: ListUploadsRequest,
    ) -> Result<UploadsPage, GridError> {
        let bucket = self.core.map.bucket(&request.bucket).await?;
        let delimiter = request.delimiter.filter(|delimiter| !delimiter.is_empty());
        if request.max == 0 {
            return Ok(UploadsPage::default());
        }
        let folded = |after: &str| {
            let folded = convert::folded_at(after, &request.prefix, delimiter.as_deref());
            folded.map(|folded| UploadsAfter::Prefix(folded.into()))
        };
        let after = match request.after {
            None => None,
            Some((key, upload)) => Some(match (folded(&key), upload) {
                (Some(after), _) => after,
                (None, Some(upload)) if !upload.0.is_empty() => {
                    let id = row::UploadId::parse(&upload.0);
                    let id = id.ok_or_else(|| GridError::InvalidArgument("upload id".into()))?;
                    UploadsAfter::Upload(key.into_bytes(), id)
                }
                (None, _) => UploadsAfter::Key(key.into_bytes()),
            }),
        };
        let query = NamespaceQuery::ListUploads {
            bucket: bucket.id,
            prefix: request.prefix.into_bytes(),
            delimiter: delimiter.map(String::into_bytes),
            after,
            limit: request.max.min(limits::LIST_PAGE_MAX),
        };
        let listing = match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::Uploads(listing)) => listing,
            Ok(_) => return Err(internal("answer to a listing of uploads")),
            Err(error) => return Err(self.explain(&bucket, error).await),
        };
        let mut page = UploadsPage::default();
        for entry in &listing.entries {
            match entry {
                UploadEntry::Upload(key, id, info) => {
                    page.uploads.push(convert::upload_info(&convert::text(key), *id, info));
                }
                UploadEntry::Prefix(prefix) => page.prefixes.push(convert::text(prefix)),
            }
        }
        page.next = listing.next.map(|next| match next {
            UploadsAfter::Upload(key, id) => (convert::text(&key), UploadId(id.to_string())),
            UploadsAfter::Key(key) | UploadsAfter::Prefix(key) => {
                (convert::text(&key), UploadId(String::new()))
            }
        });
        Ok(page)
    }

    /// A page of an upload's parts, from the one after `after`.
    pub async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
        after: Option<u32>,
        max: u32,
    ) -> Result<PartsPage, GridError> {
        let place = self.place(bucket, key).await?;
        let upload = upload_ref(&place, key, upload)?;
        let id = upload.id;
        let after = u16::try_from(after.unwrap_or(0)).unwrap_or(u16::MAX);
        let limit = max.clamp(1, limits::LIST_PAGE_MAX);
        let query = NamespaceQuery::ListParts { upload, after, limit };
        let listing = match self.core.meta.ask(place.group, &query).await {
            Ok(NamespaceAnswer::Parts(listing)) => listing,
            Ok(_) => return Err(internal("answer to a parts query")),
            Err(MetaError::Namespace(NamespaceError::NoSuchUpload)) => {
                return Err(GridError::NoSuchUpload);
            }
            Err(error) => return Err(self.explain(&place, error).await),
        };
        let parts: Vec<PartInfo> = listing.parts.iter().map(convert::part_info).collect();
        let next = parts.last().map(|part| part.number).filter(|_| listing.more);
        Ok(PartsPage { upload: convert::upload_info(key, id, &listing.upload), parts, next })
    }
}
