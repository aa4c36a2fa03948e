//! Uploads in parts.
//!
//! The grid keeps the parts and links them; [`super::completion`] makes an object of them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_grid::{
    ChecksumAlgorithm, ChecksumKind, CreateUploadRequest, Finish, GridError, ObjectSeal,
    PartCopyRequest, PartRequest, Reject, RejectKind, ResolvedRange, Tap, UploadId,
};
use parking_lot::Mutex;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CopyPartResult,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, ListPartsInput, ListPartsOutput, Part,
    UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result};

use super::body::{self, BodyPlan};
use super::conditions::{Conditions, timestamp_ms};
use super::copies::{admit_source, check_source, source_error};
use super::encoding::page_size;
use super::encryption::{KeyOf, show_encryption, told_etag};
use super::headers::{ShownChecksum, checksum_algorithm, checksum_type, class_name, show_checksum};
use super::lifecycle::abortion;
use super::lock::check_said;
use super::object_acls::{Owners, shown_initiator};
use super::objects::known_length;
use super::ranges::{copy_range, part_number, resolve};
use super::{Handle, Handlers, etag};
use crate::auth::{AuthenticatedRequest, copy_source};
use crate::checksum::{self, BodyDigest};
use crate::error::{from_grid, invalid_argument, refuse};

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
            meta: self.object_meta(&caller, &request.headers, input.metadata).await?,
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
        let incoming = sealing.seal(incoming, Some(self.kms.random_salt()));
        let stored = self
            .store
            .upload_part(part, incoming.stream, incoming.finish)
            .await
            .map_err(from_grid)?;
        let mut output =
            UploadPartOutput { e_tag: etag(told_etag(&stored.etag)), ..Default::default() };
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
            let incoming = sealing.seal(incoming, Some(self.kms.random_salt()));
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
            e_tag: etag(told_etag(&stored.etag)),
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
                    e_tag: etag(told_etag(&stored.etag)),
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
        assert_eq!(ask(Some("MD5"), None), Ok(Some((ChecksumAlgorithm::Md5, Composite))));
        let nvme = ChecksumAlgorithm::Crc64Nvme;
        assert_eq!(ask(Some("CRC64NVME"), None), Ok(Some((nvme, FullObject))));
        for (algorithm, kind) in [
            (None, Some("COMPOSITE")),
            (Some("SHA256"), Some("FULL_OBJECT")),
            (Some("CRC64NVME"), Some("COMPOSITE")),
            (Some("MD5"), Some("FULL_OBJECT")),
            (Some("XXHASH3"), Some("FULL_OBJECT")),
            (Some("ROT13"), None),
        ] {
            assert_eq!(ask(algorithm, kind), Err("InvalidRequest".to_owned()));
        }
    }
}
