//! Objects: put, head, get, delete, copy, list.

use std::sync::Arc;

use futures_util::StreamExt;
use nexusgrid_meta::namespace::types::{
    ListAfter, ListLine, NamespaceCommand, NamespaceError, NamespaceOk, NamespaceQuery, Object,
    PutDone, PutObject,
};
use nexusgrid_meta::root::topology::Bucket;
use parking_lot::Mutex;

use crate::api::{
    BodyStream, ByteRange, CopyRequest, DeleteRequest, Finish, GetOutcome, ListPage, ListRequest,
    ObjectInfo, ObjectSeal, PutOutcome, PutRequest, ReadStream, Reject, RejectKind,
};
use crate::body::BodyReader;
use crate::convert;
use crate::core::internal;
use crate::error::GridError;
use crate::facade::Grid;
use crate::limits;
use crate::meta_port::MetaError;
use crate::pack::SmallPut;
use crate::storage_class;
use crate::version::{VersionDelete, VersionName};
use crate::versions::version_ref;
use crate::write::Received;

impl Grid {
    /// Stores an object. `finish` runs after the last byte and before the commit; if it refuses,
    /// nothing becomes visible.
    pub async fn put(
        &self,
        request: PutRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PutOutcome, GridError> {
        let bucket = self.place(&request.bucket, &request.key).await?;
        self.core.check_writable()?;
        // Refused before the body is read, should it be too much.
        convert::meta_row(&request.meta, &ObjectSeal::default())?;
        let limit = limits::PART_BYTES_MAX;
        if request.length.is_some_and(|length| length > limit) {
            return Err(GridError::TooLarge { limit });
        }
        let precondition = self.condition(&bucket, &request.key, &request.precondition).await?;
        let core = &self.core;
        let key = core.keys.fresh(bucket.id, &bucket.name, bucket.key_version).await?;
        let mut reader = BodyReader::new(body, request.length, limit);
        let kind = storage_class::block_kind(request.meta.storage_class.as_deref());
        let received = core.receive(&request.tenant, &mut reader, bucket.group, &key, kind).await?;
        let seal = finish()?;
        let meta = convert::meta_row(&request.meta, &seal)?;
        let done = match received {
            Received::Small { pieces, len, reservation } => {
                let put = SmallPut {
                    bucket: bucket.id,
                    group: bucket.group,
                    key: request.key.into_bytes(),
                    precondition,
                    meta,
                    content_key: key.open,
                    wrapped: key.row,
                    pieces,
                    len,
                    _reservation: reservation,
                };
                match self.packer.put(core, put).await {
                    Err(GridError::NoSuchBucket) => {
                        let error = MetaError::Namespace(NamespaceError::NoSuchBucket);
                        return Err(self.explain(&bucket, error).await);
                    }
                    other => other?,
                }
            }
            Received::Large(large) => {
                let large = large.staged(core).await?;
                let put = PutObject {
                    bucket: bucket.id,
                    key: request.key.into_bytes(),
                    precondition,
                    content: large.content,
                    meta,
                };
                let command = NamespaceCommand::Commit {
                    session: large.session.id,
                    blocks: large.blocks,
                    puts: vec![put],
                    now_ms: core.meta.now_ms(),
                };
                let done = self.one_put(&bucket, &command).await?;
                core.refill_after_commit(large.refill);
                done
            }
        };
        Ok(convert::put_outcome(&done, seal.checksums))
    }

    /// A command with a single put result.
    pub(crate) async fn one_put(
        &self,
        bucket: &Bucket,
        command: &NamespaceCommand,
    ) -> Result<PutDone, GridError> {
        let reply = match self.core.meta.command(bucket.group, command).await {
            Ok(NamespaceOk::Put(results)) => results.into_iter().next(),
            Ok(_) => None,
            Err(error) => return Err(self.explain(bucket, error).await),
        };
        match reply {
            Some(Ok(done)) => Ok(done),
            Some(Err(error)) => Err(self.explain(bucket, MetaError::Namespace(error)).await),
            None => Err(internal("reply to a put")),
        }
    }

    /// An object without its bytes.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<ObjectInfo, GridError> {
        self.head_version(bucket, key, None).await
    }

    /// A version of an object without its bytes; without a name the current one.
    pub async fn head_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<ObjectInfo, GridError> {
        let place = self.place(bucket, key).await?;
        let object = self.find_version(&place, key, version).await?;
        let part_sizes = self.part_sizes(&place, &object).await?;
        Ok(convert::object_info(key, &object, part_sizes))
    }

    /// [`Grid::open`] and [`crate::ObjectReader::read`] in one.
    pub async fn get(
        &self,
        bucket: &str,
        key: &str,
        range: Option<ByteRange>,
    ) -> Result<GetOutcome, GridError> {
        let reader = self.open(bucket, key).await?;
        let info = reader.info().clone();
        let (range, body) = reader.read(range)?;
        Ok(GetOutcome { info, range, body })
    }

    /// Removes an object; fine if there is none.
    pub async fn delete(&self, request: DeleteRequest) -> Result<(), GridError> {
        let DeleteRequest { bucket, key, precondition } = request;
        let delete =
            VersionDelete { key, version: None, precondition, expected: None, bypass: false };
        let mut results = self.delete_versions(&bucket, vec![delete]).await?;
        results.pop().unwrap_or_else(|| Err(internal("reply to a delete"))).map(|_| ())
    }

    /// Removes many objects of a bucket; one result per key, in order.
    pub async fn delete_many(
        &self,
        bucket: &str,
        keys: &[String],
    ) -> Result<Vec<Result<(), GridError>>, GridError> {
        let delete = |key: &String| VersionDelete {
            key: key.clone(),
            version: None,
            precondition: Default::default(),
            expected: None,
            bypass: false,
        };
        let results = self.delete_versions(bucket, keys.iter().map(delete).collect()).await?;
        Ok(results.into_iter().map(|result| result.map(|_| ())).collect())
    }

    /// Copies an object: links its content within a bucket, moves the bytes to another one (whose
    /// key then wraps them). The ETag and checksums stay the source's.
    pub async fn copy(&self, request: CopyRequest) -> Result<PutOutcome, GridError> {
        self.copy_version(request, None).await
    }

    /// Copies a version of an object; without a name the current one.
    pub async fn copy_version(
        &self,
        request: CopyRequest,
        version: Option<VersionName>,
    ) -> Result<PutOutcome, GridError> {
        let source = self.place(&request.source_bucket, &request.source_key).await?;
        let target = self.place(&request.bucket, &request.key).await?;
        self.core.check_writable()?;
        let object = self.find_version(&source, &request.source_key, version).await?;
        if request.source_version.is_some_and(|version| version.0 != object.sequence) {
            return Err(GridError::PreconditionFailed);
        }
        let seal = ObjectSeal {
            etag: object.meta.etag.clone(),
            checksums: convert::checksums(&object.meta.checksums),
        };
        // Bytes that are to lie elsewhere are copied.
        let kind = |class: &str| storage_class::block_kind(Some(class));
        let wanted = match &request.meta {
            Some(meta) => storage_class::block_kind(meta.storage_class.as_deref()),
            None => kind(storage_class::name(&object.meta.storage_class)),
        };
        let lies_well = object.size <= self.core.options.packed_bytes as u64
            || wanted == kind(storage_class::name(&object.meta.storage_class));
        if source.id == target.id
            && lies_well
            && let Some(done) = self.link(&request, version, &target, &object, &seal).await?
        {
            return Ok(convert::put_outcome(&done, seal.checksums));
        }
        self.copy_bytes(request, version, &object, seal).await
    }

    /// Gives an object another key of its bucket, at once; `BucketState` where versions are kept.
    /// `source_version` is what the caller checked conditions on.
    pub async fn rename(
        &self,
        bucket: &str,
        source: (&str, crate::api::VersionTag),
        target: &str,
        precondition: &crate::api::Precondition,
    ) -> Result<(), GridError> {
        let (source, source_version) = source;
        let bucket = self.place(bucket, target).await?;
        self.core.check_writable()?;
        let precondition = self.condition(&bucket, target, precondition).await?;
        let command = NamespaceCommand::Rename {
            bucket: bucket.id,
            source: source.as_bytes().to_vec(),
            sequence: source_version.0,
            target: target.as_bytes().to_vec(),
            precondition,
            now_ms: self.core.meta.now_ms(),
        };
        match self.core.meta.command(bucket.group, &command).await {
            Ok(NamespaceOk::Put(_)) => Ok(()),
            Ok(_) => Err(internal("reply to a rename")),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// Links within a bucket; `None` if the bytes have to be copied after all.
    async fn link(
        &self,
        request: &CopyRequest,
        version: Option<VersionName>,
        bucket: &Bucket,
        object: &Object,
        seal: &ObjectSeal,
    ) -> Result<Option<PutDone>, GridError> {
        let meta = match &request.meta {
            Some(meta) => convert::meta_row(meta, seal)?,
            // What locks a version is not copied with it.
            None => nexusgrid_meta::namespace::types::ObjectMeta {
                lock: Default::default(),
                ..object.meta.clone()
            },
        };
        let precondition = self.condition(bucket, &request.key, &request.precondition).await?;
        let session = self.core.sessions.get(bucket.group).await?;
        let now_ms = self.core.meta.now_ms();
        let source_content = object.content;
        let target = (bucket.id, request.key.clone().into_bytes());
        let command = if version.is_some() {
            NamespaceCommand::LinkVersion {
                session: session.id,
                source: version_ref(bucket, &request.source_key, version),
                source_content,
                target,
                precondition,
                meta,
                now_ms,
            }
        } else if request.source_key == request.key {
            NamespaceCommand::SetMeta {
                session: session.id,
                bucket: bucket.id,
                key: request.key.clone().into_bytes(),
                precondition: match precondition {
                    nexusgrid_meta::namespace::types::Precondition::None => {
                        nexusgrid_meta::namespace::types::Precondition::ContentIs(object.content)
                    }
                    other => other,
                },
                meta,
                now_ms,
            }
        } else {
            NamespaceCommand::Link {
                session: session.id,
                source: (bucket.id, request.source_key.clone().into_bytes()),
                source_content,
                target,
                precondition,
                meta,
                now_ms,
            }
        };
        let result = match self.core.meta.command(bucket.group, &command).await {
            Ok(NamespaceOk::Put(mut results)) => {
                results.pop().ok_or_else(|| internal("reply to a link"))?
            }
            Ok(_) => return Err(internal("reply to a link")),
            Err(MetaError::Namespace(error)) => Err(error),
            Err(error) => return Err(error.into()),
        };
        match result {
            Ok(done) => Ok(Some(done)),
            Err(NamespaceError::CopyInstead) => Ok(None),
            Err(error) => Err(self.explain(bucket, MetaError::Namespace(error)).await),
        }
    }

    async fn copy_bytes(
        &self,
        request: CopyRequest,
        version: Option<VersionName>,
        object: &Object,
        seal: ObjectSeal,
    ) -> Result<PutOutcome, GridError> {
        let reader =
            self.open_version(&request.source_bucket, &request.source_key, version).await?;
        if reader.info().version.0 != object.sequence {
            return Err(GridError::Conflict);
        }
        let reader = reader.on_behalf_of(request.tenant.clone());
        let (range, stream) = reader.read(None)?;
        let unlocked =
            || crate::api::ObjectMeta { lock: Default::default(), ..convert::meta(&object.meta) };
        let meta = request.meta.unwrap_or_else(unlocked);
        let put = PutRequest {
            bucket: request.bucket,
            key: request.key,
            meta,
            precondition: request.precondition,
            length: Some(range.end),
            tenant: request.tenant,
        };
        let (body, failure) = body_of(stream, None);
        let result = self.put(put, body, Box::new(move || Ok(seal))).await;
        failure.lock().take().map_or(result, Err)
    }

    /// A page of objects.
    pub async fn list(&self, request: ListRequest) -> Result<ListPage, GridError> {
        let bucket = self.named(&request.bucket).await?;
        let delimiter = request.delimiter.filter(|delimiter| !delimiter.is_empty());
        if request.max == 0 {
            return Ok(ListPage::default());
        }
        let after = request.after.filter(|after| !after.is_empty()).map(|after| {
            match convert::folded_at(&after, &request.prefix, delimiter.as_deref()) {
                Some(folded) => ListAfter::Prefix(folded.into()),
                None => ListAfter::Key(after.into()),
            }
        });
        let (prefix, delimiter) = (request.prefix.into_bytes(), delimiter.map(String::into_bytes));
        let limit = request.max.min(limits::LIST_PAGE_MAX);
        let query = |after| NamespaceQuery::List {
            bucket: bucket.id,
            prefix: prefix.clone(),
            delimiter: delimiter.clone(),
            after,
            limit,
        };
        let mut page = ListPage::default();
        let mut query_now = query(after);
        let next = loop {
            let each = |line: ListLine<'_>| match line {
                ListLine::Object(key, line) => {
                    page.objects.push(convert::object_summary(key, &line));
                }
                ListLine::Prefix(prefix) => page.prefixes.push(convert::text(prefix)),
            };
            let next = match self.core.meta.list(bucket.group, &query_now, each).await {
                Ok(next) => next,
                Err(error) => return Err(self.explain(&bucket, error).await),
            };
            // Without a line: so much was passed over that is no object.
            let is_empty = page.objects.is_empty() && page.prefixes.is_empty();
            match next {
                Some(next) if is_empty => query_now = query(Some(next)),
                next => break next,
            }
        };
        page.next = next.map(|next| match next {
            ListAfter::Key(key) | ListAfter::Prefix(key) => convert::text(&key),
        });
        Ok(page)
    }
}

/// Why a source failed, told apart from why its target did.
pub(crate) type SourceFailure = Arc<Mutex<Option<GridError>>>;

/// A stream of the grid as a body for the grid.
pub(crate) fn body_of(
    stream: ReadStream,
    mut tap: Option<crate::api::Tap>,
) -> (BodyStream, SourceFailure) {
    let failure = SourceFailure::default();
    let noted = Arc::clone(&failure);
    let body = stream.map(move |chunk| match chunk {
        Ok(chunk) => {
            if let Some(tap) = &mut tap {
                tap(&chunk);
            }
            Ok(chunk)
        }
        Err(error) => {
            let message = error.to_string();
            *noted.lock() = Some(error);
            Err(Reject { kind: RejectKind::IncompleteBody, message })
        }
    });
    (Box::pin(body), failure)
}
