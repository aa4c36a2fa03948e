//! Versions: a bucket's versioning, its versions listed, and how they are named.

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, StatusCode};
use nexusgrid_grid::{
    GridError, ListVersionsRequest, RulesChange, VersionName, Versioning, VersionsPage,
};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::conditions::{timestamp, timestamp_ms};
use super::encoding::{KeyEncoding, page_size};
use super::object_acls::Owners;
use super::{Handle, Handlers, lines};
use crate::auth::AuthenticatedRequest;
use crate::error::{from_grid, invalid_argument, not_implemented};

/// Reads a version's name.
pub(crate) fn version_name(text: Option<&str>) -> S3Result<Option<VersionName>> {
    let Some(text) = text else { return Ok(None) };
    match VersionName::parse(text) {
        Some(version) => Ok(Some(version)),
        None => Err(invalid_argument("Invalid version id specified")),
    }
}

/// A new version as its writer is told it: S3 says nothing of null versions there.
pub(super) fn told(version: Option<VersionName>) -> Option<String> {
    version.filter(|version| *version != VersionName::Null).map(|version| version.to_string())
}

/// The answer to a read that failed: a delete marker is told from a key that was never there.
pub(crate) fn read_error(error: GridError, asked: Option<VersionName>) -> S3Error {
    let mut headers = HeaderMap::new();
    let GridError::DeleteMarker { version, modified } = &error else {
        let is_missing = matches!(error, GridError::NoSuchKey);
        let mut answer = from_grid(error);
        if is_missing {
            headers.insert("x-amz-delete-marker", HeaderValue::from_static("false"));
            answer.set_headers(headers);
        }
        return answer;
    };
    headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    if let Ok(version) = HeaderValue::from_str(&version.to_string()) {
        headers.insert("x-amz-version-id", version);
    }
    let mut answer = match asked {
        None => S3Error::new(S3ErrorCode::NoSuchKey),
        Some(_) => {
            let mut date = Vec::new();
            if timestamp(*modified).format(TimestampFormat::HttpDate, &mut date).is_ok()
                && let Ok(date) = HeaderValue::from_bytes(&date)
            {
                headers.insert(http::header::LAST_MODIFIED, date);
            }
            headers.insert(http::header::ALLOW, HeaderValue::from_static("DELETE"));
            let mut refused = S3Error::new(S3ErrorCode::MethodNotAllowed);
            refused.set_status_code(StatusCode::METHOD_NOT_ALLOWED);
            refused
        }
    };
    answer.set_headers(headers);
    answer
}

#[async_trait]
impl Handle<GetBucketVersioningInput, GetBucketVersioningOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let rules = self.store.version_rules(&request.input.bucket).await.map_err(from_grid)?;
        let status = match rules.versioning {
            // No status: versioning was never switched on.
            Versioning::Off => None,
            Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
            Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
        };
        let status = status.map(BucketVersioningStatus::from_static);
        Ok(S3Response::new(GetBucketVersioningOutput { status, mfa_delete: None }))
    }
}

#[async_trait]
impl Handle<PutBucketVersioningInput, PutBucketVersioningOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let input = request.input;
        let wanted = input.versioning_configuration;
        if wanted.mfa_delete.is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED) {
            return Err(not_implemented("MFA delete"));
        }
        let versioning = match wanted.status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            Some(_) => return Err(S3Error::new(S3ErrorCode::MalformedXML)),
            None => return Err(S3Error::new(S3ErrorCode::IllegalVersioningConfigurationException)),
        };
        let change = RulesChange::Versioning(versioning);
        self.store.set_version_rules(&input.bucket, change).await.map_err(from_grid)?;
        Ok(S3Response::new(PutBucketVersioningOutput {}))
    }
}

#[async_trait]
impl Handle<ListObjectVersionsInput, ListObjectVersionsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        let encoding = KeyEncoding::of(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys)?;
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let delimiter = some(input.delimiter);
        let key_marker = some(input.key_marker);
        let version_marker = some(input.version_id_marker);
        if version_marker.is_some() && key_marker.is_none() {
            return Err(invalid_argument(
                "A version-id marker cannot be specified without a key marker.",
            ));
        }
        let after_version = version_name(version_marker.as_deref())?;
        let accounts = self.accounts().await?;
        let owners = Owners::of(&accounts, caller.bucket_rules()?);
        let page = if max == 0 {
            VersionsPage::default()
        } else {
            let list = ListVersionsRequest {
                bucket: input.bucket.clone(),
                prefix: input.prefix.clone().unwrap_or_default(),
                delimiter: delimiter.clone(),
                after: key_marker.clone().map(|key| (key, after_version)),
                max,
            };
            self.store.list_versions(list).await.map_err(from_grid)?
        };
        let markers = page
            .markers
            .into_iter()
            .map(|marker| {
                Ok(DeleteMarkerEntry {
                    key: Some(encoding.write(&marker.key)?),
                    version_id: Some(marker.version.to_string()),
                    is_latest: Some(marker.is_latest),
                    last_modified: Some(timestamp_ms(marker.last_modified)),
                    owner: Some(owners.shown(None)),
                })
            })
            .collect::<S3Result<Vec<_>>>()?;
        let prefixes = page
            .prefixes
            .iter()
            .map(|prefix| Ok(CommonPrefix { prefix: Some(encoding.write(prefix)?) }))
            .collect::<S3Result<Vec<_>>>()?;
        let is_truncated = page.next.is_some();
        let (next_key, next_version) = page.next.unzip();
        let mut reply = S3Response::new(ListObjectVersionsOutput {
            name: Some(input.bucket),
            prefix: Some(encoding.write(&input.prefix.unwrap_or_default())?),
            key_marker: Some(encoding.write(&key_marker.unwrap_or_default())?),
            version_id_marker: Some(version_marker.unwrap_or_default()),
            max_keys: i32::try_from(max).ok(),
            is_truncated: Some(is_truncated),
            next_key_marker: encoding.write_some(next_key.as_deref())?,
            next_version_id_marker: next_version.flatten().map(|version| version.to_string()),
            versions: None,
            delete_markers: Some(markers),
            common_prefixes: Some(prefixes),
            delimiter: encoding.write_some(delimiter.as_deref())?,
            encoding_type: input.encoding_type,
            request_charged: None,
        });
        lines::attach_versions(&mut reply, &page.versions, encoding, &owners)?;
        Ok(reply)
    }
}
