//! Copying an object.

use async_trait::async_trait;
use nexusgrid_grid::{
    CopyRequest, GridError, ObjectInfo, ObjectMeta, PutRequest, RejectKind, ResolvedRange,
    VersionName,
};
use nexusgrid_iam::{Action, Resource};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::body;
use super::conditions::{Conditions, Verdict, precondition, timestamp_ms};
use super::encryption::{KeyOf, says_encryption, show_encryption};
use super::headers::{ShownChecksum, show_checksum};
use super::lock::check_said;
use super::versions::told;
use super::{Handle, Handlers, etag};
use crate::auth::{AuthenticatedRequest, copy_source};
use crate::checksum;
use crate::error::{from_grid, refuse};
use crate::rules::BucketRules;

/// The conditions on a copy's source: a copy knows no 304.
pub(super) fn check_source(conditions: &Conditions, source: &ObjectInfo) -> S3Result<()> {
    match conditions.evaluate(source) {
        Verdict::Proceed => Ok(()),
        Verdict::NotModified | Verdict::Failed => {
            Err(S3Error::new(S3ErrorCode::PreconditionFailed))
        }
    }
}

/// Whether the caller may read what it copies. Its owner, list and tags have a say.
pub(super) fn admit_source(
    caller: &AuthenticatedRequest,
    rules: &BucketRules,
    version: Option<VersionName>,
    source: &ObjectInfo,
) -> S3Result<()> {
    let action = match version {
        Some(_) => Action::GetObjectVersion,
        None => Action::GetObject,
    };
    caller.admit_of(rules, action, source)
}

/// The answer where a copy's source cannot be read: what is no object is none to copy.
pub(super) fn source_error(
    caller: &AuthenticatedRequest,
    rules: &BucketRules,
    key: &str,
    version: Option<VersionName>,
    error: GridError,
) -> S3Error {
    let marker = matches!(error, GridError::DeleteMarker { .. });
    let answer = caller.read_error_of(rules, key, version, error);
    match version {
        Some(_) if marker => {
            refuse(RejectKind::InvalidRequest, "The source of a copy is a delete marker.")
        }
        _ => answer,
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
        let recrypt = says_encryption(&request.headers);
        let reclass = request.headers.contains_key("x-amz-storage-class");
        if onto_itself && version.is_none() && !replace && !retag && !recrypt && !reclass {
            return Err(refuse(
                RejectKind::InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself \
                 without changing the object's metadata.",
            ));
        }

        let rules = self.rules.of(&source_bucket).await.map_err(from_grid)?;
        let source = self
            .store
            .open(&source_bucket, &source_key, version)
            .await
            .map_err(|error| source_error(&caller, &rules, &source_key, version, error))?;
        admit_source(&caller, &rules, version, source.info())?;
        let conditions = Conditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        check_source(&conditions, source.info())?;
        let opening = {
            let (headers, info) = (&request.headers, source.info());
            self.opening(&caller, headers, KeyOf::Source, info).await?
        };
        let sealing = self.sealing(&caller, &request.headers).await?;
        // Tags are the source's unless the client says otherwise; what locks it is never copied.
        let said = self.object_meta(&caller, &request.headers, input.metadata).await?;
        check_said(&caller, &said, &input.bucket, &input.key)?;
        let mut given = ObjectMeta::default();
        self.give_owner(&caller, &request.headers, &input.key, &mut given).await?;
        let storage_class = said.storage_class.clone();
        let (tags, lock) = (said.tags.clone(), said.lock);
        // Where a copy leads is said with it; it is no part of what is copied.
        let website_redirect = said.website_redirect.clone();
        let (owner, acl) = (given.owner, given.acl);
        let kept = source.info().meta.clone();
        if !retag && !kept.tags.is_empty() {
            // Policies rely on tags: who copies them reads them there and sets them here.
            let read = match version {
                Some(_) => Action::GetObjectVersionTagging,
                None => Action::GetObjectTagging,
            };
            caller.admit_of(&rules, read, source.info())?;
            let to = Resource::Object { bucket: &input.bucket, key: &input.key };
            caller.require(Action::PutObjectTagging, &to)?;
        }
        let tags = if retag { tags } else { kept.tags.clone() };
        let cipher = sealing.cipher.clone();
        let meta = ObjectMeta {
            tags,
            lock,
            owner,
            acl,
            cipher,
            storage_class,
            website_redirect,
            ..if replace { said } else { kept }
        };
        let conditional = input.if_match.is_some();
        let precondition = precondition(input.if_match, input.if_none_match);

        let parts = source.info().part_sizes.len();
        let source_version = source.info().version_name.map(|version| version.to_string());
        let recompute = algorithm.filter(|wanted| !source.info().checksums.contains_key(wanted));
        // What is, or is to be, under another key passes through here, and is digested on the way.
        let is_layered = opening.is_layered() || sealing.is_layered();
        let own = source.info().checksums.keys().next().copied();
        let layered = is_layered.then(|| algorithm.or(own).unwrap_or(checksum::DEFAULT));
        let copied = match recompute.or(layered) {
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
                let whole = ResolvedRange { start: 0, end: source.info().size };
                let stream = opening.read(source, None, whole).await.map_err(from_grid)?;
                let incoming = body::rehash(stream, algorithm, &self.digests);
                let incoming = sealing.seal(incoming, None);
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
        let mut output = CopyObjectOutput {
            copy_object_result: Some(result),
            ssekms_encryption_context: sealing.shown.context.clone(),
            version_id: told(copied.version_name),
            copy_source_version_id: source_version,
            ..Default::default()
        };
        show_encryption!(output, &sealing.shown);
        Ok(S3Response::new(output))
    }
}
