//! The grid as this crate uses it: a trait, so that the S3 semantics above it can be tested in one
//! process, without nodes. [`Grid`] is its one implementation in the product.

use std::sync::Arc;

use async_trait::async_trait;
use nexusgrid_grid::{
    BodyStream, BucketInfo, ByteRange, CompleteUploadRequest, CopyRequest, CreateUploadRequest,
    DeleteRequest, Finish, FinishParts, Grid, GridError, ListPage, ListRequest, ListUploadsRequest,
    ObjectInfo, ObjectReader, PartCopyRequest, PartInfo, PartRequest, PartsPage, PutOutcome,
    PutRequest, ReadStream, ResolvedRange, Tap, UploadId, UploadInfo, UploadsPage,
};

/// One version of an object, opened for reading and pinned until dropped.
pub trait OpenObject: Send {
    /// What is being read.
    fn info(&self) -> &ObjectInfo;
    /// A range of its bytes, all if `None`.
    fn read(
        self: Box<Self>,
        range: Option<ByteRange>,
    ) -> Result<(ResolvedRange, ReadStream), GridError>;
}

/// Buckets, objects and uploads; see [`Grid`] for what each call promises.
#[async_trait]
#[allow(missing_docs)]
pub trait ObjectStore: Send + Sync + 'static {
    async fn create_bucket(&self, name: &str, owner: &str) -> Result<BucketInfo, GridError>;
    async fn head_bucket(&self, name: &str) -> Result<BucketInfo, GridError>;
    async fn list_buckets(&self) -> Result<Vec<BucketInfo>, GridError>;
    async fn delete_bucket(&self, name: &str) -> Result<(), GridError>;
    async fn put(
        &self,
        request: PutRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PutOutcome, GridError>;
    async fn head(&self, bucket: &str, key: &str) -> Result<ObjectInfo, GridError>;
    async fn open(&self, bucket: &str, key: &str) -> Result<Box<dyn OpenObject>, GridError>;
    async fn delete(&self, request: DeleteRequest) -> Result<(), GridError>;
    async fn delete_many(
        &self,
        bucket: &str,
        keys: &[String],
    ) -> Result<Vec<Result<(), GridError>>, GridError>;
    async fn copy(&self, request: CopyRequest) -> Result<PutOutcome, GridError>;
    async fn list(&self, request: ListRequest) -> Result<ListPage, GridError>;
    async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadInfo, GridError>;
    async fn head_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
    ) -> Result<UploadInfo, GridError>;
    async fn upload_part(
        &self,
        request: PartRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PartInfo, GridError>;
    async fn upload_part_copy(
        &self,
        request: PartCopyRequest,
        tap: Tap,
        finish: Finish,
    ) -> Result<PartInfo, GridError>;
    async fn complete_upload(
        &self,
        request: CompleteUploadRequest,
        seal: FinishParts,
    ) -> Result<PutOutcome, GridError>;
    async fn abort_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
    ) -> Result<(), GridError>;
    async fn list_uploads(&self, request: ListUploadsRequest) -> Result<UploadsPage, GridError>;
    async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
        after: Option<u32>,
        max: u32,
    ) -> Result<PartsPage, GridError>;
}

/// A shared store.
pub type SharedStore = Arc<dyn ObjectStore>;

impl OpenObject for ObjectReader {
    fn info(&self) -> &ObjectInfo {
        ObjectReader::info(self)
    }

    fn read(
        self: Box<Self>,
        range: Option<ByteRange>,
    ) -> Result<(ResolvedRange, ReadStream), GridError> {
        ObjectReader::read(*self, range)
    }
}

#[async_trait]
impl ObjectStore for Grid {
    async fn create_bucket(&self, name: &str, owner: &str) -> Result<BucketInfo, GridError> {
        Grid::create_bucket(self, name, owner).await
    }

    async fn head_bucket(&self, name: &str) -> Result<BucketInfo, GridError> {
        Grid::head_bucket(self, name).await
    }

    async fn list_buckets(&self) -> Result<Vec<BucketInfo>, GridError> {
        Grid::list_buckets(self).await
    }

    async fn delete_bucket(&self, name: &str) -> Result<(), GridError> {
        Grid::delete_bucket(self, name).await
    }

    async fn put(
        &self,
        request: PutRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PutOutcome, GridError> {
        Grid::put(self, request, body, finish).await
    }

    async fn head(&self, bucket: &str, key: &str) -> Result<ObjectInfo, GridError> {
        Grid::head(self, bucket, key).await
    }

    async fn open(&self, bucket: &str, key: &str) -> Result<Box<dyn OpenObject>, GridError> {
        Ok(Box::new(Grid::open(self, bucket, key).await?))
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), GridError> {
        Grid::delete(self, request).await
    }

    async fn delete_many(
        &self,
        bucket: &str,
        keys: &[String],
    ) -> Result<Vec<Result<(), GridError>>, GridError> {
        Grid::delete_many(self, bucket, keys).await
    }

    async fn copy(&self, request: CopyRequest) -> Result<PutOutcome, GridError> {
        Grid::copy(self, request).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, GridError> {
        Grid::list(self, request).await
    }

    async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadInfo, GridError> {
        Grid::create_upload(self, request).await
    }

    async fn head_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
    ) -> Result<UploadInfo, GridError> {
        Grid::head_upload(self, bucket, key, upload).await
    }

    async fn upload_part(
        &self,
        request: PartRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PartInfo, GridError> {
        Grid::upload_part(self, request, body, finish).await
    }

    async fn upload_part_copy(
        &self,
        request: PartCopyRequest,
        tap: Tap,
        finish: Finish,
    ) -> Result<PartInfo, GridError> {
        Grid::upload_part_copy(self, request, tap, finish).await
    }

    async fn complete_upload(
        &self,
        request: CompleteUploadRequest,
        seal: FinishParts,
    ) -> Result<PutOutcome, GridError> {
        Grid::complete_upload(self, request, seal).await
    }

    async fn abort_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
    ) -> Result<(), GridError> {
        Grid::abort_upload(self, bucket, key, upload).await
    }

    async fn list_uploads(&self, request: ListUploadsRequest) -> Result<UploadsPage, GridError> {
        Grid::list_uploads(self, request).await
    }

    async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
        after: Option<u32>,
        max: u32,
    ) -> Result<PartsPage, GridError> {
        Grid::list_parts(self, bucket, key, upload, after, max).await
    }
}
