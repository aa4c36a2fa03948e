//! Listing objects (both versions) and unfinished uploads.

use async_trait::async_trait;
use nexusgrid_grid::{ListPage, ListRequest, ListUploadsRequest, UploadId};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::conditions::timestamp_ms;
use super::encoding::{KeyEncoding, page_size, parse_token, token};
use super::headers::{checksum_algorithm, checksum_type, class_name};
use super::object_acls::{Owners, shown_initiator};
use super::{Handle, Handlers, lines};
use crate::auth::AuthenticatedRequest;
use crate::error::from_grid;

/// Empty parameters mean absent ones.
fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl Handlers {
    async fn page(&self, request: ListRequest) -> S3Result<ListPage> {
        if request.max == 0 {
            // An empty page is never truncated; but the bucket must exist.
            self.bucket(&request.bucket).await?;
            return Ok(ListPage::default());
        }
        self.store.list(request).await.map_err(from_grid)
    }
}

fn common_prefixes(prefixes: Vec<String>, encoding: KeyEncoding) -> S3Result<Vec<CommonPrefix>> {
    prefixes
        .into_iter()
        .map(|prefix| Ok(CommonPrefix { prefix: Some(encoding.write(&prefix)?) }))
        .collect()
}

#[async_trait]
impl Handle<ListObjectsInput, ListObjectsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let encoding = KeyEncoding::of(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys)?;
        let delimiter = some(input.delimiter);
        let page = self
            .page(ListRequest {
                bucket: input.bucket.clone(),
                prefix: input.prefix.clone().unwrap_or_default(),
                delimiter: delimiter.clone(),
                after: some(input.marker.clone()),
                max,
            })
            .await?;
        let accounts = self.accounts().await?;
        let owners = Owners::of(&accounts, caller.bucket_rules()?);
        let truncated = page.next.is_some();
        // Without a delimiter the last key is the next marker, and S3 does not repeat it.
        let next_marker = page.next.filter(|_| delimiter.is_some());
        let mut reply = S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(encoding.write_prefix(&input.prefix.unwrap_or_default())?),
            marker: Some(encoding.write(&input.marker.unwrap_or_default())?),
            max_keys: i32::try_from(max).ok(),
            is_truncated: Some(truncated),
            contents: None,
            common_prefixes: Some(common_prefixes(page.prefixes, encoding)?),
            delimiter: encoding.write_some(delimiter.as_deref())?,
            next_marker: encoding.write_some(next_marker.as_deref())?,
            encoding_type: input.encoding_type,
            request_charged: None,
        });
        lines::attach(&mut reply, &page.objects, encoding, Some(&owners))?;
        Ok(reply)
    }
}

#[async_trait]
impl Handle<ListObjectsV2Input, ListObjectsV2Output> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let encoding = KeyEncoding::of(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys)?;
        let delimiter = some(input.delimiter);
        // A token continues; only without one the start counts.
        let after = match input.continuation_token.as_deref() {
            Some(token) if !token.is_empty() => Some(parse_token(token)?),
            _ => some(input.start_after.clone()),
        };
        let page = self
            .page(ListRequest {
                bucket: input.bucket.clone(),
                prefix: input.prefix.clone().unwrap_or_default(),
                delimiter: delimiter.clone(),
                after,
                max,
            })
            .await?;
        let accounts = self.accounts().await?;
        let owners = match input.fetch_owner {
            Some(true) => Some(Owners::of(&accounts, caller.bucket_rules()?)),
            _ => None,
        };
        let count = page.objects.len() + page.prefixes.len();
        let mut reply = S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encoding.write(&input.prefix.unwrap_or_default())?),
            max_keys: i32::try_from(max).ok(),
            key_count: i32::try_from(count).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_deref().map(token),
            contents: None,
            common_prefixes: Some(common_prefixes(page.prefixes, encoding)?),
            delimiter: encoding.write_some(delimiter.as_deref())?,
            encoding_type: input.encoding_type,
            start_after: encoding.write_some(input.start_after.as_deref())?,
            request_charged: None,
        });
        lines::attach(&mut reply, &page.objects, encoding, owners.as_ref())?;
        Ok(reply)
    }
}

#[async_trait]
impl Handle<ListMultipartUploadsInput, ListMultipartUploadsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        let encoding = KeyEncoding::of(input.encoding_type.as_ref())?;
        let max = page_size(input.max_uploads)?;
        if max == 0 {
            return Err(crate::error::invalid_argument("max-uploads is between 1 and 1000"));
        }
        let delimiter = some(input.delimiter);
        let key_marker = some(input.key_marker);
        // An upload marker means something only beside its key.
        let upload_marker = some(input.upload_id_marker).filter(|_| key_marker.is_some());
        let page = self
            .store
            .list_uploads(ListUploadsRequest {
                bucket: input.bucket.clone(),
                prefix: input.prefix.clone().unwrap_or_default(),
                delimiter: delimiter.clone(),
                after: key_marker.clone().map(|key| (key, upload_marker.clone().map(UploadId))),
                max,
            })
            .await
            .map_err(from_grid)?;
        let accounts = self.accounts().await?;
        let owners = Owners::of(&accounts, caller.bucket_rules()?);
        let uploads = page
            .uploads
            .into_iter()
            .map(|upload| {
                Ok(MultipartUpload {
                    key: Some(encoding.write(&upload.key)?),
                    upload_id: Some(upload.upload.0),
                    initiated: Some(timestamp_ms(upload.initiated)),
                    owner: Some(owners.shown(upload.meta.owner.as_deref())),
                    initiator: Some(shown_initiator(&accounts, &upload.owner)),
                    storage_class: Some(class_name(upload.meta.storage_class.as_deref()).into()),
                    checksum_algorithm: upload
                        .checksum
                        .map(|(algorithm, _)| checksum_algorithm(algorithm)),
                    checksum_type: upload.checksum.map(|(_, kind)| checksum_type(kind)),
                })
            })
            .collect::<S3Result<Vec<_>>>()?;
        let truncated = page.next.is_some();
        let (next_key, next_upload) = match page.next {
            Some((key, upload)) => (Some(key), Some(upload.0)),
            None => (None, None),
        };
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(encoding.write(&input.prefix.unwrap_or_default())?),
            delimiter: encoding.write_some(delimiter.as_deref())?,
            key_marker: Some(encoding.write(&key_marker.unwrap_or_default())?),
            upload_id_marker: Some(upload_marker.unwrap_or_default()),
            next_key_marker: encoding.write_some(next_key.as_deref())?,
            next_upload_id_marker: next_upload,
            max_uploads: i32::try_from(max).ok(),
            is_truncated: Some(truncated),
            uploads: Some(uploads),
            common_prefixes: Some(common_prefixes(page.prefixes, encoding)?),
            encoding_type: input.encoding_type,
            request_charged: None,
        }))
    }
}
