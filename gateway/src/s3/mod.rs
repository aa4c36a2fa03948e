//! S3's operations on top of the grid: one file per area, each a set of methods of [`Handlers`].
//!
//! A handler takes its caller from [`AuthenticatedRequest::of`] first; what the caller may do has
//! been decided by then, and headers that nothing here understands have been refused.

pub mod body;
pub mod conditions;
pub mod encoding;
pub mod ranges;

mod acls;
mod appends;
mod attributes;
mod bucket_rules;
mod buckets;
mod completion;
mod copies;
mod deeds;
mod deletes;
mod encryption;
mod headers;
mod lifecycle;
mod lines;
mod lists;
mod lock;
mod logging;
mod multipart;
mod notification;
mod object_acls;
mod objects;
mod renames;
mod tags;
mod torrents;
mod versions;
mod website;

pub(crate) use bucket_rules::read_xml;
pub(crate) use deeds::Told;
pub(crate) use lines::insert as insert_lines;

use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use nexusgrid_grid::{BucketInfo, GridError};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use crate::auth::{AuthenticatedRequest, RequestNotes};
use crate::digest::DigestPool;
use crate::error::{access_denied, from_grid};
use crate::events::{Events, Targets};
use crate::identity::Directory;
use crate::kms::Kms;
use crate::rules::{Rules, account_of};
use crate::store::SharedStore;
use crate::tenants;

pub(crate) use object_acls::object_acl;
pub(crate) use versions::{read_error, version_name};

/// What all operations need.
#[derive(Clone)]
pub(crate) struct Handlers {
    pub store: SharedStore,
    pub digests: DigestPool,
    /// The region that is answered to whoever asks for one.
    pub region: Arc<str>,
    /// What owners have laid down for their buckets.
    pub rules: Arc<Rules>,
    /// Who is who.
    pub directory: Arc<Directory>,
    /// Tells of what happens.
    pub events: Events,
    /// Who can be told.
    pub targets: Arc<Targets>,
    /// Keys that the grid keeps by name.
    pub kms: Arc<Kms>,
    /// Whether clients may send their keys over plain connections.
    pub sse_c_without_tls: bool,
}

/// The region whose name S3 writes as nothing.
pub(crate) const UNNAMED_REGION: &str = "us-east-1";

impl Handlers {
    /// Refuses if the client expects another owner of the bucket than it has.
    async fn check_owner(&self, headers: &HeaderMap, bucket: &str) -> S3Result<()> {
        self.check_owner_by(headers, "x-amz-expected-bucket-owner", bucket).await
    }

    async fn check_owner_by(&self, headers: &HeaderMap, name: &str, bucket: &str) -> S3Result<()> {
        let Some(expected) = headers.get(name) else { return Ok(()) };
        let info = self.store.bucket(bucket).await.map_err(from_grid)?;
        let owner = account_of(&info.owner);
        if expected.as_bytes() == owner.as_str().as_bytes() { Ok(()) } else { Err(access_denied()) }
    }

    async fn bucket(&self, bucket: &str) -> S3Result<BucketInfo> {
        self.store.head_bucket(bucket).await.map_err(from_grid)
    }

    /// `If-Match` on a key that holds nothing is answered as S3 does: no such key.
    async fn write_error(
        &self,
        error: GridError,
        bucket: &str,
        key: &str,
        if_match: bool,
    ) -> s3s::S3Error {
        if if_match
            && error == GridError::PreconditionFailed
            && matches!(
                self.store.head(bucket, key, None).await,
                Err(GridError::NoSuchKey | GridError::DeleteMarker { .. })
            )
        {
            return from_grid(GridError::NoSuchKey);
        }
        from_grid(error)
    }
}

fn etag(text: &str) -> Option<ETag> {
    Some(ETag::Strong(text.to_owned()))
}

macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ident;)*) => {
        #[async_trait]
        impl S3 for Handlers {
            $(
                async fn $name(
                    &self,
                    mut request: S3Request<$input>,
                ) -> S3Result<S3Response<$output>> {
                    let caller = AuthenticatedRequest::of(&request)?;
                    tenants::strip(&mut request.input.bucket);
                    self.check_owner(&request.headers, operations!(@bucket $name request)).await?;
                    let notes = request.extensions.get::<Arc<RequestNotes>>().cloned();
                    let reply = self.handle(caller, request).await?;
                    if let Some(notes) = notes {
                        deeds::note(&notes, &reply.output);
                        let happened = deeds::happened(&notes, &reply.output);
                        self.tell(&notes, happened).await?;
                    }
                    Ok(reply)
                }
            )*

            async fn list_buckets(
                &self,
                request: S3Request<ListBucketsInput>,
            ) -> S3Result<S3Response<ListBucketsOutput>> {
                let caller = AuthenticatedRequest::of(&request)?;
                self.handle(caller, request).await
            }

            async fn create_bucket(
                &self,
                request: S3Request<CreateBucketInput>,
            ) -> S3Result<S3Response<CreateBucketOutput>> {
                let caller = AuthenticatedRequest::of(&request)?;
                self.handle(caller, request).await
            }
        }
    };
    (@bucket $name:ident $request:ident) => { &$request.input.bucket };
}

/// One operation.
#[async_trait]
trait Handle<I, O> {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<I>,
    ) -> S3Result<S3Response<O>>;
}

operations! {
    head_bucket: HeadBucketInput -> HeadBucketOutput;
    get_bucket_location: GetBucketLocationInput -> GetBucketLocationOutput;
    get_bucket_versioning: GetBucketVersioningInput -> GetBucketVersioningOutput;
    put_bucket_versioning: PutBucketVersioningInput -> PutBucketVersioningOutput;
    get_object_lock_configuration:
        GetObjectLockConfigurationInput -> GetObjectLockConfigurationOutput;
    put_object_lock_configuration:
        PutObjectLockConfigurationInput -> PutObjectLockConfigurationOutput;
    delete_bucket: DeleteBucketInput -> DeleteBucketOutput;
    list_objects: ListObjectsInput -> ListObjectsOutput;
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output;
    list_object_versions: ListObjectVersionsInput -> ListObjectVersionsOutput;
    list_multipart_uploads: ListMultipartUploadsInput -> ListMultipartUploadsOutput;
    put_object: PutObjectInput -> PutObjectOutput;
    get_object: GetObjectInput -> GetObjectOutput;
    head_object: HeadObjectInput -> HeadObjectOutput;
    get_object_torrent: GetObjectTorrentInput -> GetObjectTorrentOutput;
    get_object_attributes: GetObjectAttributesInput -> GetObjectAttributesOutput;
    copy_object: CopyObjectInput -> CopyObjectOutput;
    rename_object: RenameObjectInput -> RenameObjectOutput;
    delete_object: DeleteObjectInput -> DeleteObjectOutput;
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput;
    get_object_tagging: GetObjectTaggingInput -> GetObjectTaggingOutput;
    put_object_tagging: PutObjectTaggingInput -> PutObjectTaggingOutput;
    delete_object_tagging: DeleteObjectTaggingInput -> DeleteObjectTaggingOutput;
    get_object_retention: GetObjectRetentionInput -> GetObjectRetentionOutput;
    put_object_retention: PutObjectRetentionInput -> PutObjectRetentionOutput;
    get_object_legal_hold: GetObjectLegalHoldInput -> GetObjectLegalHoldOutput;
    put_object_legal_hold: PutObjectLegalHoldInput -> PutObjectLegalHoldOutput;
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput;
    upload_part: UploadPartInput -> UploadPartOutput;
    upload_part_copy: UploadPartCopyInput -> UploadPartCopyOutput;
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput;
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput;
    list_parts: ListPartsInput -> ListPartsOutput;
    get_object_acl: GetObjectAclInput -> GetObjectAclOutput;
    put_object_acl: PutObjectAclInput -> PutObjectAclOutput;
    get_bucket_acl: GetBucketAclInput -> GetBucketAclOutput;
    put_bucket_acl: PutBucketAclInput -> PutBucketAclOutput;
    put_bucket_policy: PutBucketPolicyInput -> PutBucketPolicyOutput;
    get_bucket_policy: GetBucketPolicyInput -> GetBucketPolicyOutput;
    delete_bucket_policy: DeleteBucketPolicyInput -> DeleteBucketPolicyOutput;
    get_bucket_policy_status: GetBucketPolicyStatusInput -> GetBucketPolicyStatusOutput;
    put_public_access_block: PutPublicAccessBlockInput -> PutPublicAccessBlockOutput;
    get_public_access_block: GetPublicAccessBlockInput -> GetPublicAccessBlockOutput;
    delete_public_access_block: DeletePublicAccessBlockInput -> DeletePublicAccessBlockOutput;
    put_bucket_ownership_controls:
        PutBucketOwnershipControlsInput -> PutBucketOwnershipControlsOutput;
    get_bucket_ownership_controls:
        GetBucketOwnershipControlsInput -> GetBucketOwnershipControlsOutput;
    delete_bucket_ownership_controls:
        DeleteBucketOwnershipControlsInput -> DeleteBucketOwnershipControlsOutput;
    put_bucket_tagging: PutBucketTaggingInput -> PutBucketTaggingOutput;
    get_bucket_tagging: GetBucketTaggingInput -> GetBucketTaggingOutput;
    delete_bucket_tagging: DeleteBucketTaggingInput -> DeleteBucketTaggingOutput;
    put_bucket_cors: PutBucketCorsInput -> PutBucketCorsOutput;
    get_bucket_cors: GetBucketCorsInput -> GetBucketCorsOutput;
    delete_bucket_cors: DeleteBucketCorsInput -> DeleteBucketCorsOutput;
    put_bucket_encryption: PutBucketEncryptionInput -> PutBucketEncryptionOutput;
    get_bucket_encryption: GetBucketEncryptionInput -> GetBucketEncryptionOutput;
    delete_bucket_encryption: DeleteBucketEncryptionInput -> DeleteBucketEncryptionOutput;
    put_bucket_logging: PutBucketLoggingInput -> PutBucketLoggingOutput;
    get_bucket_logging: GetBucketLoggingInput -> GetBucketLoggingOutput;
    put_bucket_notification_configuration: PutBucketNotificationConfigurationInput
        -> PutBucketNotificationConfigurationOutput;
    get_bucket_notification_configuration: GetBucketNotificationConfigurationInput
        -> GetBucketNotificationConfigurationOutput;
    put_bucket_lifecycle_configuration: PutBucketLifecycleConfigurationInput
        -> PutBucketLifecycleConfigurationOutput;
    get_bucket_lifecycle_configuration: GetBucketLifecycleConfigurationInput
        -> GetBucketLifecycleConfigurationOutput;
    delete_bucket_lifecycle: DeleteBucketLifecycleInput -> DeleteBucketLifecycleOutput;
    get_bucket_request_payment: GetBucketRequestPaymentInput -> GetBucketRequestPaymentOutput;
    put_bucket_request_payment: PutBucketRequestPaymentInput -> PutBucketRequestPaymentOutput;
    put_bucket_website: PutBucketWebsiteInput -> PutBucketWebsiteOutput;
    get_bucket_website: GetBucketWebsiteInput -> GetBucketWebsiteOutput;
    delete_bucket_website: DeleteBucketWebsiteInput -> DeleteBucketWebsiteOutput;
}
