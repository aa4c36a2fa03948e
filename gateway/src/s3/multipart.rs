//! Uploads in parts.
//!
//! The grid keeps the parts and links them; what this file adds are S3's rules: the ETag (MD5 over
//! the parts' MD5s), the two kinds of checksum, the smallest part.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_grid::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ChosenPart, CompleteUploadRequest,
    CreateUploadRequest, Finish, FinishParts, GridError, ObjectSeal, PartCopyRequest, PartInfo,
    PartRequest, Reject, RejectKind, ResolvedRange, Tap, UploadId,
};
use parking_lot::Mutex;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CopyPartResult, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, ListPartsInput, ListPartsOutput, Part, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::body::{self, BodyPlan};
use super::conditions::{Conditions, precondition, timestamp_ms};
use super::copies::{admit_source, check_source, source_error};
use super::encoding::{page_size, url_encode};
use super::encryption::{KeyOf, show_encryption};
use super::headers::{
    ShownChecksum, checksum_algorithm, checksum_type, class_name, object_meta, show_checksum,
};
use super::lifecycle::abortion;
use super::lock::check_said;
use super::object_acls::{Owners, shown_initiator};
use super::objects::known_length;
use super::ranges::{copy_range, part_number, resolve};
use super::versions::told;
use super::{Handle, Handlers, etag};
use crate::auth::{AuthenticatedRequest, copy_source};
use crate::checksum::{self, BodyDigest};
use crate::error::{from_grid, invalid_argument, refuse};
use crate::limits;

/// What an upload's checksum shall be.
fn upload_checksum(
    algorithm: Option<&s3s::dto::ChecksumAlgorithm>,
    kind: Option<&s3s::dto::ChecksumType>,
) -> S3Result<Option<(ChecksumAlgorithm, ChecksumKind)>> {
    let invalid = |message: String| refuse(RejectKind::InvalidRequest, message);
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(invalid("x-amz-checksum-type needs x-amz-checksum-algorithm".into())),
        };
    };
    let algorithm = checksum::by_name(algorithm.as_str())
        .ok_or_else(|| invalid(format!("no algorithm of this grid: {}", algorithm.as_str())))?;
    let kind = match kind.map(s3s::dto::ChecksumType::as_str) {
        Some("FULL_OBJECT") => ChecksumKind::FullObject,
        Some("COMPOSITE") => ChecksumKind::Composite,
        Some(other) => return Err(invalid_argument(format!("x-amz-checksum-type: {other}"))),
        None if algorithm == ChecksumAlgorithm::Crc64Nvme => ChecksumKind::FullObject,
        None => ChecksumKind::Composite,
    };
    let possible = match kind {
        ChecksumKind::FullObject => checksum::combinable(algorithm),
        ChecksumKind::Composite => algorithm != ChecksumAlgorithm::Crc64Nvme,
    };
    if possible {
        Ok(Some((algorithm, kind)))
    } else {
        Err(invalid(format!(
            "{} has no checksums of type {}",
            checksum::name(algorithm),
            checksum_type(kind).as_str()
        )))
    }
}

#[async_trait]
impl Handle<CreateMultipartUploadInput, CreateMultipartUploadOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let checksum =
            upload_checksum(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
        let mut create = CreateUploadRequest {
            bucket: input.bucket,
            key: input.key,
            meta: object_meta(&request.headers, input.metadata)?,
            checksum,
            tenant: caller.initiator(),
        };
        check_said(&caller, &create.meta, &create.bucket, &create.key)?;
        self.give_owner(&caller, &request.headers, &create.key, &mut create.meta).await?;
        let sealing = self.sealing(&caller, &request.headers).await?;
        create.meta.cipher = sealing.cipher.clone();
        let bucket = create.bucket.clone();
        let upload = self.store.create_upload(create).await.map_err(from_grid)?;
        let aborts = abortion(caller.bucket_rules()?, &upload.key, upload.initiated);
        let mut output = CreateMultipartUploadOutput {
            abort_date: aborts.0,
            abort_rule_id: aborts.1,
            bucket: Some(bucket),
            key: Some(upload.key),
            upload_id: Some(upload.upload.0),
            checksum_algorithm: checksum.map(|(algorithm, _)| checksum_algorithm(algorithm)),
            checksum_type: checksum.map(|(_, kind)| checksum_type(kind)),
            ssekms_encryption_context: sealing.shown.context.clone(),
            ..Default::default()
        };
        show_encryption!(output, &sealing.shown);
        Ok(S3Response::new(output))
    }
}

#[async_trait]
impl Handle<UploadPartInput, UploadPartOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let part = PartRequest {
            bucket: input.bucket,
            key: input.key,
            upload: UploadId(input.upload_id),
            number: part_number(input.part_number)?,
            length: known_length(input.content_length)?,
            tenant: caller.tenant(),
        };
        let upload = self
            .store
            .head_upload(&part.bucket, &part.key, &part.upload)
            .await
            .map_err(from_grid)?;
        let algorithm = upload.checksum.map_or(checksum::DEFAULT, |(algorithm, _)| algorithm);
        let plan = BodyPlan::of(&request.headers, caller.payload(), Some(algorithm))?;
        let sealing = self.sealing_of_upload(&caller, &request.headers, &upload).await?;
        let incoming = body::incoming(input.body, plan, request.trailing_headers, &self.digests);
        let incoming = sealing.seal(incoming, self.kms.random_salt(), true);
        let stored = self
            .store
            .upload_part(part, incoming.stream, incoming.finish)
            .await
            .map_err(from_grid)?;
        let mut output = UploadPartOutput { e_tag: etag(&stored.etag), ..Default::default() };
        show_encryption!(output, &sealing.shown);
        show_checksum!(output, ShownChecksum::of(&stored.checksums, 0));
        Ok(S3Response::new(output))
    }
}

#[async_trait]
impl Handle<UploadPartCopyInput, UploadPartCopyOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = request.input;
        let (source_bucket, source_key, version) = copy_source(&input.copy_source)?;
        let (source_bucket, source_key) = (source_bucket.to_owned(), source_key.to_owned());
        let source_owner = "x-amz-source-expected-bucket-owner";
        self.check_owner_by(&request.headers, source_owner, &source_bucket).await?;
        let part = PartRequest {
            bucket: input.bucket,
            key: input.key,
            upload: UploadId(input.upload_id),
            number: part_number(input.part_number)?,
            length: None,
            tenant: caller.tenant(),
        };
        let upload = self
            .store
            .head_upload(&part.bucket, &part.key, &part.upload)
            .await
            .map_err(from_grid)?;
        let rules = self.rules.of(&source_bucket).await.map_err(from_grid)?;
        let source = self
            .store
            .head(&source_bucket, &source_key, version)
            .await
            .map_err(|error| source_error(&caller, &rules, &source_key, version, error))?;
        admit_source(&caller, &rules, version, &source)?;
        let conditions = Conditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        check_source(&conditions, &source)?;
        let range = input.copy_source_range.as_deref().map(copy_range).transpose()?;
        if let Some(range) = range {
            // Unlike the range of a read, a copied range must lie within the source altogether.
            let inside =
                matches!(range, nexusgrid_grid::ByteRange::FromTo(_, last) if last < source.size);
            if !inside || resolve(range, source.size).is_none() {
                return Err(from_grid(GridError::InvalidRange { size: source.size }));
            }
        }

        let algorithm = upload.checksum.map_or(checksum::DEFAULT, |(algorithm, _)| algorithm);
        let sealing = self.sealing_of_upload(&caller, &request.headers, &upload).await?;
        let opening = self.opening(&caller, &request.headers, KeyOf::Source, &source).await?;
        let is_layered = sealing.is_layered() || opening.is_layered();
        let digest = Arc::new(Mutex::new(Some(BodyDigest::new([algorithm]))));
        let tap: Tap = {
            let digest = Arc::clone(&digest);
            Box::new(move |chunk: &Bytes| {
                if let Some(digest) = digest.lock().as_mut() {
                    digest.update(chunk);
                }
            })
        };
        let finish: Finish = Box::new(move || {
            let digests = digest.lock().take().map(BodyDigest::finish).ok_or_else(|| Reject {
                kind: RejectKind::IncompleteBody,
                message: "the copy was digested twice".to_owned(),
            })?;
            Ok(ObjectSeal { etag: checksum::hex(&digests.md5), checksums: digests.checksums })
        });
        let stored = if is_layered {
            // What is under another key passes through here.
            let open = self.store.open(&source_bucket, &source_key, version).await;
            let open = open.map_err(from_grid)?;
            if open.info().version != source.version {
                return Err(from_grid(GridError::PreconditionFailed));
            }
            let whole = ResolvedRange { start: 0, end: source.size };
            let at = range.and_then(|range| resolve(range, source.size)).unwrap_or(whole);
            let part = PartRequest { length: Some(at.end.saturating_sub(at.start)), ..part };
            let stream = opening.read(open, range, at).await.map_err(from_grid)?;
            let incoming = body::rehash(stream, algorithm, &self.digests);
            let incoming = sealing.seal(incoming, self.kms.random_salt(), true);
            self.store.upload_part(part, incoming.stream, incoming.finish).await
        } else {
            let copy = PartCopyRequest {
                source_bucket,
                source_key,
                source_version: Some(source.version),
                range,
                part,
            };
            self.store.upload_part_copy(copy, version, tap, finish).await
        };
        let stored = stored.map_err(from_grid)?;
        let mut result = CopyPartResult {
            e_tag: etag(&stored.etag),
            last_modified: Some(timestamp_ms(stored.last_modified)),
            ..Default::default()
        };
        show_checksum!(result, ShownChecksum::of(&stored.checksums, 0));
        let mut output = UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: source.version_name.map(|version| version.to_string()),
            ..Default::default()
        };
        show_encryption!(output, &sealing.shown);
        Ok(S3Response::new(output))
    }
}

/// The checksums that a completion names for a part.
fn claimed(part: &CompletedPart) -> S3Result<BTreeMap<ChecksumAlgorithm, Vec<u8>>> {
    let texts = [
        (ChecksumAlgorithm::Crc32, &part.checksum_crc32),
        (ChecksumAlgorithm::Crc32c, &part.checksum_crc32c),
        (ChecksumAlgorithm::Crc64Nvme, &part.checksum_crc64nvme),
        (ChecksumAlgorithm::Sha1, &part.checksum_sha1),
        (ChecksumAlgorithm::Sha256, &part.checksum_sha256),
    ];
    let mut claimed = BTreeMap::new();
    for (algorithm, text) in texts {
        if let Some(text) = text {
            let value = checksum::parse(algorithm, text).ok_or_else(|| {
                refuse(
                    RejectKind::InvalidRequest,
                    format!("a part's {} is invalid", checksum::name(algorithm)),
                )
            })?;
            claimed.insert(algorithm, value);
        }
    }
    Ok(claimed)
}

/// What a completion claims, to be compared with what is stored.
#[derive(Clone, Debug, Default)]
struct Claims {
    parts: Vec<BTreeMap<ChecksumAlgorithm, Vec<u8>>>,
    object: Option<(ChecksumAlgorithm, String)>,
    size: Option<u64>,
    checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// Makes the object's ETag and checksum of its parts', or says what is wrong with them.
fn seal(parts: &[PartInfo], claims: &Claims) -> Result<ObjectSeal, Reject> {
    let reject = |kind, message: String| Reject { kind, message };
    let leading = parts.split_last().map(|(_, leading)| leading).unwrap_or_default();
    if let Some(small) = leading.iter().find(|part| part.size < limits::PART_BYTES_MIN) {
        return Err(reject(
            RejectKind::PartTooSmall,
            format!("part {} is smaller than the minimum allowed size", small.number),
        ));
    }
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if claims.size.is_some_and(|claimed| claimed != size) {
        return Err(reject(
            RejectKind::InvalidRequest,
            format!("x-amz-mp-object-size is not the size of the parts, {size}"),
        ));
    }
    for (part, claimed) in parts.iter().zip(&claims.parts) {
        for (algorithm, value) in claimed {
            let stored = part.checksums.get(algorithm).map(|checksum| &checksum.value);
            if stored.is_some_and(|stored| stored != value) {
                return Err(reject(
                    RejectKind::BadDigest,
                    format!("the {} of part {} differs", checksum::name(*algorithm), part.number),
                ));
            }
        }
    }
    let md5s: Option<Vec<[u8; 16]>> =
        parts.iter().map(|part| checksum::parse_hex_md5(&part.etag)).collect();
    let md5s = md5s
        .ok_or_else(|| reject(RejectKind::InvalidRequest, "a part's ETag is no MD5".to_owned()))?;

    let (algorithm, kind) =
        claims.checksum.unwrap_or((checksum::DEFAULT, ChecksumKind::FullObject));
    let values: Option<Vec<(Vec<u8>, u64)>> = parts
        .iter()
        .map(|part| Some((part.checksums.get(&algorithm)?.value.clone(), part.size)))
        .collect();
    let value = values.and_then(|values| match kind {
        ChecksumKind::FullObject => checksum::combine(algorithm, &values),
        ChecksumKind::Composite => {
            Some(checksum::composite(algorithm, values.iter().map(|(value, _)| value.as_slice())))
        }
    });
    let checksum = value.map(|value| Checksum { kind, value });
    if let Some((claimed_algorithm, text)) = &claims.object {
        let ours = checksum.as_ref().filter(|_| *claimed_algorithm == algorithm);
        let same = ours.is_some_and(|ours| {
            *text == checksum::display(ours, parts.len()) || *text == checksum::encode(&ours.value)
        });
        if !same {
            return Err(reject(
                RejectKind::BadDigest,
                format!("the object's {} differs", checksum::name(*claimed_algorithm)),
            ));
        }
    }
    Ok(ObjectSeal {
        etag: checksum::multipart_etag(&md5s),
        checksums: checksum.map(|checksum| (algorithm, checksum)).into_iter().collect(),
    })
}

#[async_trait]
impl Handle<CompleteMultipartUploadInput, CompleteMultipartUploadOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let malformed =
            |message: &'static str| S3Error::with_message(S3ErrorCode::MalformedXML, message);
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        if parts.is_empty() || parts.len() > limits::PARTS_MAX as usize {
            return Err(malformed("a completion names between 1 and 10000 parts"));
        }
        let upload_id = UploadId(input.upload_id);
        let upload = match self.store.head_upload(&input.bucket, &input.key, &upload_id).await {
            Ok(upload) => Some(upload),
            // It may be complete: who asks again because the answer was lost gets it again.
            Err(GridError::NoSuchUpload) => None,
            Err(error) => return Err(from_grid(error)),
        };
        let cipher = upload.as_ref().map(|upload| &upload.meta.cipher);
        let encryption = cipher.map(|cipher| self.described(&request.headers, cipher));
        let encryption = encryption.transpose()?.unwrap_or_default();
        let checksum = upload.as_ref().and_then(|upload| upload.checksum);

        let mut chosen: Vec<ChosenPart> = Vec::with_capacity(parts.len());
        let mut claims = Claims { checksum, ..Claims::default() };
        for part in &parts {
            let number =
                part_number(part.part_number.ok_or_else(|| malformed("a part has no number"))?)?;
            let etag = part.e_tag.clone().ok_or_else(|| malformed("a part has no ETag"))?;
            match chosen.last() {
                Some(last) if last.number > number => {
                    return Err(from_grid(GridError::InvalidPartOrder));
                }
                // Named again: what is said last counts.
                Some(last) if last.number == number => {
                    chosen.pop();
                    claims.parts.pop();
                }
                Some(_) | None => {}
            }
            chosen.push(ChosenPart { number, etag: etag.into_value() });
            claims.parts.push(claimed(part)?);
        }
        for algorithm in checksum::ALL {
            if let Some(value) = request.headers.get(checksum::header(algorithm)) {
                let text = value.to_str().unwrap_or_default().to_owned();
                if claims.object.replace((algorithm, text)).is_some() {
                    return Err(refuse(RejectKind::InvalidRequest, "more than one checksum"));
                }
            }
        }
        if let Some(kind) = &input.checksum_type {
            let ours = checksum.map_or(ChecksumKind::FullObject, |(_, kind)| kind);
            if upload.is_some() && kind.as_str() != checksum_type(ours).as_str() {
                return Err(refuse(
                    RejectKind::InvalidRequest,
                    "x-amz-checksum-type differs from the upload's",
                ));
            }
        }
        claims.size = match input.mpu_object_size.map(u64::try_from) {
            None => None,
            Some(Ok(size)) => Some(size),
            Some(Err(_)) => return Err(invalid_argument("x-amz-mp-object-size is negative")),
        };
        let conditional = input.if_match.is_some();
        let count = chosen.len();
        let complete = CompleteUploadRequest {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            upload: upload_id,
            parts: chosen,
            precondition: precondition(input.if_match, input.if_none_match),
        };
        let finish: FinishParts = Box::new(move |stored| seal(stored, &claims));
        let made = match self.store.complete_upload(complete, finish).await {
            Ok(made) => made,
            Err(error) => {
                return Err(self.write_error(error, &input.bucket, &input.key, conditional).await);
            }
        };
        let host = request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let location =
            host.map(|host| format!("http://{host}/{}/{}", input.bucket, url_encode(&input.key)));
        let shown = ShownChecksum::of(&made.checksums, count);
        let mut output = CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            location,
            e_tag: etag(&made.etag),
            version_id: told(made.version_name),
            server_side_encryption: encryption.sse(),
            ssekms_key_id: encryption.kms_key.clone(),
            bucket_key_enabled: encryption.bucket_key,
            checksum_type: shown.checksum_type(),
            ..Default::default()
        };
        show_checksum!(output, shown);
        let mut response = S3Response::new(output);
        encryption.customer_headers(&mut response.headers);
        Ok(response)
    }
}

#[async_trait]
impl Handle<AbortMultipartUploadInput, AbortMultipartUploadOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.store
            .abort_upload(&input.bucket, &input.key, &UploadId(input.upload_id))
            .await
            .map_err(from_grid)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

#[async_trait]
impl Handle<ListPartsInput, ListPartsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        let max = match page_size(input.max_parts)? {
            0 => return Err(invalid_argument("max-parts is between 1 and 1000")),
            max => max,
        };
        let after = match input.part_number_marker.map(u32::try_from) {
            None => None,
            Some(Ok(number)) => Some(number),
            Some(Err(_)) => return Err(invalid_argument("part-number-marker is negative")),
        };
        let upload = UploadId(input.upload_id.clone());
        let page = self
            .store
            .list_parts(&input.bucket, &input.key, &upload, after, max)
            .await
            .map_err(from_grid)?;
        let parts = page
            .parts
            .into_iter()
            .map(|stored| {
                let mut part = Part {
                    part_number: i32::try_from(stored.number).ok(),
                    e_tag: etag(&stored.etag),
                    size: i64::try_from(stored.size).ok(),
                    last_modified: Some(timestamp_ms(stored.last_modified)),
                    ..Default::default()
                };
                show_checksum!(part, ShownChecksum::of(&stored.checksums, 0));
                part
            })
            .collect();
        let opened_by = &page.upload.owner;
        let accounts = self.accounts().await?;
        let owners = Owners::of(&accounts, caller.bucket_rules()?);
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            part_number_marker: after.and_then(|after| i32::try_from(after).ok()).or(Some(0)),
            next_part_number_marker: page.next.and_then(|next| i32::try_from(next).ok()),
            max_parts: i32::try_from(max).ok(),
            is_truncated: Some(page.next.is_some()),
            parts: Some(parts),
            owner: Some(owners.shown(page.upload.meta.owner.as_deref())),
            initiator: Some(shown_initiator(&accounts, opened_by)),
            storage_class: Some(class_name(page.upload.meta.storage_class.as_deref()).into()),
            checksum_algorithm: page
                .upload
                .checksum
                .map(|(algorithm, _)| checksum_algorithm(algorithm)),
            checksum_type: page.upload.checksum.map(|(_, kind)| checksum_type(kind)),
            ..Default::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, bytes: &[u8]) -> PartInfo {
        let mut digest = BodyDigest::new(checksum::ALL);
        digest.update(bytes);
        let digests = digest.finish();
        PartInfo {
            number,
            etag: checksum::hex(&digests.md5),
            size: bytes.len() as u64,
            checksums: digests.checksums,
            last_modified: Default::default(),
        }
    }

    fn parts() -> (Vec<PartInfo>, Vec<u8>) {
        let pieces = [vec![1u8; limits::PART_BYTES_MIN as usize], vec![2u8; 17]];
        let stored = vec![part(1, &pieces[0]), part(7, &pieces[1])];
        (stored, pieces.concat())
    }

    #[test]
    fn full_object_checksums_are_those_of_the_bytes() {
        let (parts, whole) = parts();
        for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, checksum::DEFAULT] {
            let value = checksum::of(algorithm, &whole);
            let claims = Claims {
                checksum: Some((algorithm, ChecksumKind::FullObject)),
                object: Some((algorithm, checksum::encode(&value))),
                size: Some(whole.len() as u64),
                ..Claims::default()
            };
            let sealed = seal(&parts, &claims).unwrap();
            assert_eq!(sealed.checksums[&algorithm].value, value);
            assert!(sealed.etag.ends_with("-2"));
        }
    }

    #[test]
    fn composite_checksums_are_those_of_the_parts_checksums() {
        let (parts, _) = parts();
        for algorithm in
            [ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Crc32]
        {
            let claims = Claims {
                checksum: Some((algorithm, ChecksumKind::Composite)),
                ..Claims::default()
            };
            let sealed = seal(&parts, &claims).unwrap();
            let raw: Vec<u8> =
                parts.iter().flat_map(|part| part.checksums[&algorithm].value.clone()).collect();
            assert_eq!(sealed.checksums[&algorithm].value, checksum::of(algorithm, &raw));
        }
    }

    #[test]
    fn what_differs_is_refused() {
        let (stored, whole) = parts();
        let kind = |claims: &Claims, parts: &[PartInfo]| seal(parts, claims).unwrap_err().kind;
        let small = vec![part(1, b"small"), part(2, b"last")];
        assert_eq!(kind(&Claims::default(), &small), RejectKind::PartTooSmall);
        assert!(seal(&small[1..], &Claims::default()).is_ok());
        let size = Claims { size: Some(whole.len() as u64 + 1), ..Claims::default() };
        assert_eq!(kind(&size, &stored), RejectKind::InvalidRequest);
        let algorithm = ChecksumAlgorithm::Crc32;
        let of_part = Claims {
            parts: vec![BTreeMap::new(), BTreeMap::from([(algorithm, vec![0; 4])])],
            ..Claims::default()
        };
        assert_eq!(kind(&of_part, &stored), RejectKind::BadDigest);
        let of_object =
            Claims { object: Some((algorithm, "AAAAAA==".into())), ..Claims::default() };
        assert_eq!(kind(&of_object, &stored), RejectKind::BadDigest);
    }

    #[test]
    fn which_kinds_exist() {
        let ask = |algorithm: Option<&str>, kind: Option<&str>| {
            upload_checksum(
                algorithm.map(|a| s3s::dto::ChecksumAlgorithm::from(a.to_owned())).as_ref(),
                kind.map(|k| s3s::dto::ChecksumType::from(k.to_owned())).as_ref(),
            )
            .map_err(|error| error.code().as_str().to_owned())
        };
        use ChecksumKind::{Composite, FullObject};
        assert_eq!(ask(None, None), Ok(None));
        assert_eq!(ask(Some("CRC32"), None), Ok(Some((ChecksumAlgorithm::Crc32, Composite))));
        let nvme = ChecksumAlgorithm::Crc64Nvme;
        assert_eq!(ask(Some("CRC64NVME"), None), Ok(Some((nvme, FullObject))));
        for (algorithm, kind) in [
            (None, Some("COMPOSITE")),
            (Some("SHA256"), Some("FULL_OBJECT")),
            (Some("CRC64NVME"), Some("COMPOSITE")),
            (Some("MD5"), None),
        ] {
            assert_eq!(ask(algorithm, kind), Err("InvalidRequest".to_owned()));
        }
    }
}
