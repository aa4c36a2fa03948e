//! Objects: put, get, head.

use async_trait::async_trait;
use nexusgrid_grid::{ByteRange, GridError, ObjectInfo, PutRequest, VersionName};
use s3s::dto::*;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::body::{self, BodyPlan, Outgoing};
use super::conditions::{Conditions, Verdict, precondition, timestamp};
use super::encryption::{KeyOf, show_encryption};
use super::headers::{DEFAULT_CONTENT_TYPE, ShownChecksum, show_checksum, user_metadata};
use super::lifecycle::expiration;
use super::lock::{check_said, show_lock};
use super::ranges::{Located, Wanted, content_range, locate, wanted};
use super::versions::{told, version_name};
use super::{Handle, Handlers, etag};
use crate::auth::AuthenticatedRequest;
use crate::error::from_grid;
use crate::store::OpenObject;

#[async_trait]
impl Handle<PutObjectInput, PutObjectOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        if let Some(offset) = request.input.write_offset_bytes {
            if let Some(output) = self.append(&caller, &mut request, offset).await? {
                return Ok(S3Response::new(output));
            }
            // Whoever makes it first, the other's offset is wrong then.
            request.input.if_none_match = Some(ETagCondition::Any);
        }
        let input = request.input;
        let plan = BodyPlan::of(&request.headers, caller.payload(), None)?;
        let mut meta = self.object_meta(&caller, &request.headers, input.metadata).await?;
        self.give_owner(&caller, &request.headers, &input.key, &mut meta).await?;
        check_said(&caller, &meta, &input.bucket, &input.key)?;
        let sealing = self.sealing(&caller, &request.headers).await?;
        meta.cipher = sealing.cipher.clone();
        let tags = meta.tags.clone();
        let conditional = input.if_match.is_some();
        let put = PutRequest {
            bucket: input.bucket,
            key: input.key,
            meta,
            precondition: precondition(input.if_match, input.if_none_match),
            length: known_length(input.content_length)?,
            tenant: caller.tenant(),
        };
        let (bucket, key) = (put.bucket.clone(), put.key.clone());
        let incoming = body::incoming(input.body, plan, request.trailing_headers, &self.digests);
        let incoming = sealing.seal(incoming, None);
        let stored = match self.store.put(put, incoming.stream, incoming.finish).await {
            Ok(stored) => stored,
            Err(GridError::PreconditionFailed) if input.write_offset_bytes.is_some() => {
                return Err(from_grid(GridError::Conflict));
            }
            Err(error) => return Err(self.write_error(error, &bucket, &key, conditional).await),
        };
        let shown = ShownChecksum::of(&stored.checksums, 0);
        let (rules, modified) = (caller.bucket_rules()?, stored.last_modified);
        let mut output = PutObjectOutput {
            expiration: expiration(rules, &key, stored.size, &tags, modified),
            e_tag: etag(&stored.etag),
            ssekms_encryption_context: sealing.shown.context.clone(),
            checksum_type: shown.checksum_type(),
            version_id: told(stored.version_name),
            ..Default::default()
        };
        show_encryption!(output, &sealing.shown);
        show_checksum!(output, shown);
        Ok(S3Response::new(output))
    }
}

/// The length of a body, from the header that s3s made to speak of the decoded body.
pub(super) fn known_length(length: Option<i64>) -> S3Result<Option<u64>> {
    match length.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(length)) => Ok(Some(length)),
        Some(Err(_)) => Err(crate::error::invalid_argument("Content-Length is negative")),
    }
}

/// Answers 304 or 412 if the conditions say so.
fn check(conditions: &Conditions, object: &ObjectInfo) -> S3Result<()> {
    match conditions.evaluate(object) {
        Verdict::Proceed => Ok(()),
        Verdict::Failed => Err(S3Error::new(S3ErrorCode::PreconditionFailed)),
        Verdict::NotModified => {
            let mut error = S3Error::new(S3ErrorCode::NotModified);
            let mut headers = http::HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_str(&format!("\"{}\"", object.etag)) {
                headers.insert(http::header::ETAG, value);
            }
            let mut date = Vec::new();
            let modified = timestamp(object.last_modified);
            if modified.format(TimestampFormat::HttpDate, &mut date).is_ok()
                && let Ok(value) = http::HeaderValue::from_bytes(&date)
            {
                headers.insert(http::header::LAST_MODIFIED, value);
            }
            if let Some(control) = &object.meta.cache_control
                && let Ok(value) = http::HeaderValue::from_str(control)
            {
                headers.insert(http::header::CACHE_CONTROL, value);
            }
            error.set_headers(headers);
            Err(error)
        }
    }
}

/// The checksum goes with whole objects only: clients verify what they receive against it.
fn checksum_to_show(
    mode: Option<&ChecksumMode>,
    object: &ObjectInfo,
    at: Located,
) -> ShownChecksum {
    let whole = at.range.start == 0 && at.range.end == object.size;
    if mode.is_some() && whole {
        ShownChecksum::of(&object.checksums, object.part_sizes.len())
    } else {
        ShownChecksum::default()
    }
}

fn parts_count(wanted: Wanted, object: &ObjectInfo) -> Option<i32> {
    match wanted {
        Wanted::Part(_) if !object.part_sizes.is_empty() => {
            i32::try_from(object.part_sizes.len()).ok()
        }
        _ => None,
    }
}

fn length_of(at: Located) -> u64 {
    at.range.end.saturating_sub(at.range.start)
}

/// When an object expires; of a version that is named nobody can tell, for it may not be current.
fn shown_expiration(
    caller: &AuthenticatedRequest,
    version: Option<VersionName>,
    object: &ObjectInfo,
) -> S3Result<Option<String>> {
    if version.is_some() {
        return Ok(None);
    }
    let (size, tags) = (object.size, &object.meta.tags);
    Ok(expiration(caller.bucket_rules()?, &object.key, size, tags, object.last_modified))
}

/// Sets what GET and HEAD say alike.
macro_rules! describe {
    ($output:expr, $object:expr, $at:expr, $wanted:expr, $mode:expr) => {{
        let (object, at): (&ObjectInfo, Located) = ($object, $at);
        let shown = checksum_to_show($mode, object, at);
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = i64::try_from(length_of(at)).ok();
        $output.content_range = at.partial.then(|| content_range(at.range, object.size));
        $output.content_type = Some(
            object.meta.content_type.clone().unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
        );
        $output.cache_control = object.meta.cache_control.clone();
        $output.content_disposition = object.meta.content_disposition.clone();
        $output.content_encoding = object.meta.content_encoding.clone();
        $output.content_language = object.meta.content_language.clone();
        $output.expires = object.meta.expires.clone();
        $output.e_tag = etag(&object.etag);
        $output.last_modified = Some(timestamp(object.last_modified));
        $output.metadata = user_metadata(&object.meta);
        $output.website_redirect_location = object.meta.website_redirect.clone();
        $output.storage_class = object.meta.storage_class.clone().map(StorageClass::from);
        $output.version_id = object.version_name.map(|version| version.to_string());
        $output.tag_count = i32::try_from(object.meta.tags.len()).ok().filter(|count| *count > 0);
        show_lock!($output, object.meta.lock);
        $output.parts_count = parts_count($wanted, object);
        $output.checksum_type = shown.checksum_type();
        show_checksum!($output, shown);
    }};
}

/// Shows the checksum of a part that is asked for by its number.
macro_rules! show_part {
    ($output:expr, $wanted:expr, $open:expr) => {
        if let Some(shown) = checksum_of_part($wanted, $open).await.map_err(from_grid)? {
            $output.checksum_type = shown.checksum_type();
            show_checksum!($output, shown);
        }
    };
}

/// The checksum of a part of an upload, of the kind that the object's is.
async fn checksum_of_part(
    wanted: Wanted,
    open: &dyn OpenObject,
) -> Result<Option<ShownChecksum>, GridError> {
    let Wanted::Part(number) = wanted else { return Ok(None) };
    if open.info().part_sizes.is_empty() {
        return Ok(None);
    }
    let kind = open.info().checksums.values().map(|checksum| checksum.kind).next();
    let index = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    let part = open.parts(index, 1).await?.into_iter().next();
    let shown = part.map(|part| ShownChecksum::of(&part.checksums, 0));
    Ok(shown.map(|shown| ShownChecksum { kind, ..shown }))
}

#[async_trait]
impl Handle<GetObjectInput, GetObjectOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let wanted = wanted(input.range, input.part_number)?;
        let version = version_name(input.version_id.as_deref())?;
        let open = self.store.open(&input.bucket, &input.key, version).await;
        let open = open.map_err(|error| caller.read_error(&input.key, version, error))?;
        caller.admit_object(open.info())?;
        let conditions = Conditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        check(&conditions, open.info())?;
        let at = locate(wanted, open.info())?;
        let opening = {
            let (headers, info) = (&request.headers, open.info());
            self.opening(&caller, headers, KeyOf::Object, info).await?
        };
        let mut output = GetObjectOutput::default();
        describe!(output, open.info(), at, wanted, input.checksum_mode.as_ref());
        show_encryption!(output, &opening.shown);
        output.expiration = shown_expiration(&caller, version, open.info())?;
        show_part!(output, wanted, open.as_ref());
        let length = length_of(at);
        if length > 0 {
            let range = at
                .partial
                .then(|| ByteRange::FromTo(at.range.start, at.range.end.saturating_sub(1)));
            let stream = opening.read(open, range, at.range).await.map_err(from_grid)?;
            let body = Outgoing::begin(stream, length).await.map_err(from_grid)?;
            output.body = Some(StreamingBlob::from(Body::http_body_unsync(body)));
        }
        Ok(S3Response::new(output))
    }
}

#[async_trait]
impl Handle<HeadObjectInput, HeadObjectOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let wanted = wanted(input.range, input.part_number)?;
        let version = version_name(input.version_id.as_deref())?;
        let open = match wanted {
            // A part's checksum stands with the part.
            Wanted::Part(_) => self.store.open(&input.bucket, &input.key, version).await.map(Some),
            Wanted::All | Wanted::Range(_) => Ok(None),
        };
        let object = match open {
            Ok(Some(ref open)) => Ok(open.info().clone()),
            Ok(None) => self.store.head(&input.bucket, &input.key, version).await,
            Err(ref error) => Err(error.clone()),
        };
        let object = caller.admit(&input.key, version, object)?;
        let conditions = Conditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        check(&conditions, &object)?;
        let at = locate(wanted, &object)?;
        let encryption = self.described(&request.headers, &object.meta.cipher)?;
        let mut output = HeadObjectOutput::default();
        describe!(output, &object, at, wanted, input.checksum_mode.as_ref());
        show_encryption!(output, &encryption);
        output.expiration = shown_expiration(&caller, version, &object)?;
        if let Ok(Some(open)) = open {
            show_part!(output, wanted, open.as_ref());
        }
        Ok(S3Response::new(output))
    }
}
