//! Copying an object.

use async_trait::async_trait;
use nexusgrid_grid::{CopyRequest, ObjectInfo, ObjectMeta, PutRequest, RejectKind};
use nexusgrid_iam::{Action, Resource};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::body;
use super::conditions::{Conditions, Verdict, precondition, timestamp_ms};
use super::headers::{ShownChecksum, object_meta, show_checksum};
use super::lock::check_said;
use super::{Handle, Handlers, encryption, etag};
use crate::auth::{AuthenticatedRequest, copy_source};
use crate::checksum;
use crate::error::{from_grid, refuse};

/// The conditions on a copy's source: a copy knows no 304.
pub(super) fn check_source(conditions: &Conditions, source: &ObjectInfo) -> S3Result<()> {
    match conditions.evaluate(source) {
        Verdict::Proceed => Ok(()),
        Verdict::NotModified | Verdict::Failed => {
            Err(S3Error::new(S3ErrorCode::PreconditionFailed))
        }
    }
}

#[async_trait]
impl Handle<CopyObjectInput, CopyObjectOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        let (source_bucket, source_key, version) = copy_source(&input.copy_source)?;
        let (source_bucket, source_key) = (source_bucket.to_owned(), source_key.to_owned());
        let source_owner = "x-amz-source-expected-bucket-owner";
        self.check_owner_by(&request.headers, source_owner, &source_bucket).await?;

        let replace = input.metadata_directive.as_ref().map(MetadataDirective::as_str)
            == Some(MetadataDirective::REPLACE);
        let algorithm =
            input.checksum_algorithm.as_ref().and_then(|name| checksum::by_name(name.as_str()));
        let retag = input.tagging_directive.as_ref().map(TaggingDirective::as_str)
            == Some(TaggingDirective::REPLACE);
        let onto_itself = source_bucket == input.bucket && source_key == input.key;
        if onto_itself && version.is_none() && !replace && !retag {
            return Err(refuse(
                RejectKind::InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself \
                 without changing the object's metadata.",
            ));
        }

        let source =
            self.store.open(&source_bucket, &source_key, version).await.map_err(from_grid)?;
        let conditions = Conditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        check_source(&conditions, source.info())?;
        // Tags are the source's unless the client says otherwise; what locks it is never copied.
        let said = object_meta(&request.headers, input.metadata)?;
        check_said(&caller, &said, &input.bucket, &input.key)?;
        let (tags, lock) = (said.tags.clone(), said.lock);
        let kept = source.info().meta.clone();
        if !retag && !kept.tags.is_empty() {
            // Policies rely on tags: who copies them reads them there and sets them here.
            let rules = self.rules.of(&source_bucket).await.map_err(from_grid)?;
            let from = Resource::Object { bucket: &source_bucket, key: &source_key };
            let read = match version {
                Some(_) => Action::GetObjectVersionTagging,
                None => Action::GetObjectTagging,
            };
            caller.require_of(&rules, read, &from)?;
            let to = Resource::Object { bucket: &input.bucket, key: &input.key };
            caller.require(Action::PutObjectTagging, &to)?;
        }
        let tags = if retag { tags } else { kept.tags.clone() };
        let meta = ObjectMeta { tags, lock, ..if replace { said } else { kept } };
        let conditional = input.if_match.is_some();
        let precondition = precondition(input.if_match, input.if_none_match);

        let parts = source.info().part_sizes.len();
        let source_version = source.info().version_name.map(|version| version.to_string());
        let recompute = algorithm.filter(|wanted| !source.info().checksums.contains_key(wanted));
        let copied = match recompute {
            // The grid links content; a checksum that the source lacks needs its bytes.
            Some(algorithm) => {
                let put = PutRequest {
                    bucket: input.bucket.clone(),
                    key: input.key.clone(),
                    meta,
                    precondition,
                    length: Some(source.info().size),
                    tenant: caller.tenant(),
                };
                let (_, stream) = source.read(None).map_err(from_grid)?;
                let incoming = body::rehash(stream, algorithm, &self.digests);
                self.store.put(put, incoming.stream, incoming.finish).await
            }
            None => {
                let copy = CopyRequest {
                    source_bucket,
                    source_key,
                    source_version: Some(source.info().version),
                    bucket: input.bucket.clone(),
                    key: input.key.clone(),
                    meta: Some(meta),
                    precondition,
                    tenant: caller.tenant(),
                };
                self.store.copy(copy, version).await
            }
        };
        let copied = match copied {
            Ok(copied) => copied,
            Err(error) => {
                return Err(self.write_error(error, &input.bucket, &input.key, conditional).await);
            }
        };
        let shown = ShownChecksum::of(&copied.checksums, parts);
        let mut result = CopyObjectResult {
            e_tag: etag(&copied.etag),
            last_modified: Some(timestamp_ms(copied.last_modified)),
            checksum_type: shown.checksum_type(),
            ..Default::default()
        };
        show_checksum!(result, shown);
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            server_side_encryption: encryption(),
            version_id: copied.version_name.map(|version| version.to_string()),
            copy_source_version_id: source_version,
            ..Default::default()
        }))
    }
}
