//! The grid as this crate uses it: a trait, so that the S3 semantics above it can be tested in one
//! process, without nodes. [`Grid`] is its one implementation in the product.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_grid::lifecycle::Lifecycle;
use nexusgrid_grid::{
    Allowance, AppendRequest, BodyStream, BucketInfo, BucketUsage, ByteRange,
    CompleteUploadRequest, CopyRequest, CreateUploadRequest, DeleteOutcome, EndMark, Ends, Finish,
    FinishAppend, FinishParts, Grid, GridError, ListPage, ListRequest, ListUploadsRequest,
    ListVersionsRequest, ObjectInfo, ObjectReader, PartCopyRequest, PartInfo, PartRequest,
    PartsPage, Precondition, PutOutcome, PutRequest, ReadStream, Record, RecordWrite,
    ResolvedRange, RulesChange, Tap, UploadId, UploadInfo, UploadsPage, VersionChange,
    VersionDelete, VersionName, VersionRules, VersionTag, VersionsPage,
};

/// One version of an object, opened for reading and pinned until dropped.
#[async_trait]
pub trait OpenObject: Send + Sync {
    /// What is being read.
    fn info(&self) -> &ObjectInfo;
    /// Up to `count` of its parts from the `from`-th (from 0) on, if an upload made it.
    async fn parts(&self, from: usize, count: usize) -> Result<Vec<PartInfo>, GridError>;
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
    async fn bucket(&self, name: &str) -> Result<BucketInfo, GridError>;
    fn rules_version(&self) -> u64;
    fn bucket_records(&self, bucket: &BucketInfo) -> String;
    async fn records(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Record>, GridError>;
    async fn records_at(&self, paths: &[String]) -> Result<Vec<Record>, GridError>;
    async fn write_records(&self, writes: Vec<RecordWrite>) -> Result<(), GridError>;
    fn seal_secret(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, GridError>;
    fn open_secret(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, GridError>;
    async fn own_put(&self, key: &str, bytes: Bytes) -> Result<(), GridError>;
    async fn own_list(
        &self,
        prefix: &str,
        after: Option<String>,
        max: u32,
    ) -> Result<Vec<String>, GridError>;
    async fn own_get(&self, key: &str) -> Result<Bytes, GridError>;
    async fn own_delete(&self, keys: Vec<String>) -> Result<(), GridError>;
    fn own_node(&self) -> u64;
    fn acts_for(&self, node: u64) -> bool;
    async fn list_buckets(&self) -> Result<Vec<BucketInfo>, GridError>;
    async fn bucket_usage(&self, name: &str) -> Result<BucketUsage, GridError>;
    async fn set_allowance(&self, name: &str, allowance: Allowance) -> Result<(), GridError>;
    async fn tell_ends(&self, bucket: &str, told: bool) -> Result<(), GridError>;
    async fn ends(&self) -> Result<Vec<Ends>, GridError>;
    async fn forget_ends(&self, group: u32, through: EndMark) -> Result<(), GridError>;
    async fn delete_bucket(&self, name: &str) -> Result<(), GridError>;
    async fn put(
        &self,
        request: PutRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PutOutcome, GridError>;
    async fn append(
        &self,
        request: AppendRequest,
        body: BodyStream,
        finish: FinishAppend,
    ) -> Result<PutOutcome, GridError>;
    async fn head(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<ObjectInfo, GridError>;
    async fn open(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<Box<dyn OpenObject>, GridError>;
    async fn delete(
        &self,
        bucket: &str,
        deletes: Vec<VersionDelete>,
    ) -> Result<Vec<Result<DeleteOutcome, GridError>>, GridError>;
    async fn copy(
        &self,
        request: CopyRequest,
        version: Option<VersionName>,
    ) -> Result<PutOutcome, GridError>;
    async fn rename(
        &self,
        bucket: &str,
        source: (&str, VersionTag),
        target: &str,
        precondition: &Precondition,
    ) -> Result<(), GridError>;
    async fn version_rules(&self, bucket: &str) -> Result<VersionRules, GridError>;
    async fn set_version_rules(&self, bucket: &str, change: RulesChange) -> Result<(), GridError>;
    async fn lifecycle(&self, bucket: &str) -> Result<Option<Vec<u8>>, GridError>;
    async fn set_lifecycle(
        &self,
        bucket: &str,
        rules: Option<(Lifecycle, Vec<u8>)>,
    ) -> Result<(), GridError>;
    async fn change_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
        change: VersionChange,
    ) -> Result<Option<VersionName>, GridError>;
    async fn list_versions(&self, request: ListVersionsRequest) -> Result<VersionsPage, GridError>;
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
        version: Option<VersionName>,
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

#[async_trait]
impl OpenObject for ObjectReader {
    fn info(&self) -> &ObjectInfo {
        ObjectReader::info(self)
    }

    async fn parts(&self, from: usize, count: usize) -> Result<Vec<PartInfo>, GridError> {
        ObjectReader::parts(self, from, count).await
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

    async fn bucket(&self, name: &str) -> Result<BucketInfo, GridError> {
        Grid::bucket(self, name).await
    }

    fn rules_version(&self) -> u64 {
        Grid::rules_version(self)
    }

    fn bucket_records(&self, bucket: &BucketInfo) -> String {
        Grid::bucket_records(self, bucket)
    }

    async fn records(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Record>, GridError> {
        Grid::records(self, prefix, after, limit).await
    }

    async fn records_at(&self, paths: &[String]) -> Result<Vec<Record>, GridError> {
        Grid::records_at(self, paths).await
    }

    async fn write_records(&self, writes: Vec<RecordWrite>) -> Result<(), GridError> {
        Grid::write_records(self, writes).await
    }

    fn seal_secret(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, GridError> {
        Grid::seal_secret(self, name, secret)
    }

    fn open_secret(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, GridError> {
        Grid::open_secret(self, name, sealed)
    }

    async fn own_put(&self, key: &str, bytes: Bytes) -> Result<(), GridError> {
        Grid::own_put(self, key, bytes).await
    }

    async fn own_list(
        &self,
        prefix: &str,
        after: Option<String>,
        max: u32,
    ) -> Result<Vec<String>, GridError> {
        Grid::own_list(self, prefix, after, max).await
    }

    async fn own_get(&self, key: &str) -> Result<Bytes, GridError> {
        Grid::own_get(self, key).await
    }

    async fn own_delete(&self, keys: Vec<String>) -> Result<(), GridError> {
        Grid::own_delete(self, keys).await
    }

    fn own_node(&self) -> u64 {
        Grid::own_node(self)
    }

    fn acts_for(&self, node: u64) -> bool {
        Grid::acts_for(self, node)
    }

    async fn bucket_usage(&self, name: &str) -> Result<BucketUsage, GridError> {
        Grid::bucket_usage(self, name).await
    }

    async fn set_allowance(&self, name: &str, allowance: Allowance) -> Result<(), GridError> {
        Grid::set_allowance(self, name, allowance).await
    }

    async fn tell_ends(&self, bucket: &str, told: bool) -> Result<(), GridError> {
        Grid::tell_ends(self, bucket, told).await
    }

    async fn ends(&self) -> Result<Vec<Ends>, GridError> {
        Grid::ends(self).await
    }

    async fn forget_ends(&self, group: u32, through: EndMark) -> Result<(), GridError> {
        Grid::forget_ends(self, group, through).await
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

    async fn append(
        &self,
        request: AppendRequest,
        body: BodyStream,
        finish: FinishAppend,
    ) -> Result<PutOutcome, GridError> {
        Grid::append(self, request, body, finish).await
    }

    async fn head(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<ObjectInfo, GridError> {
        Grid::head_version(self, bucket, key, version).await
    }

    async fn open(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<Box<dyn OpenObject>, GridError> {
        Ok(Box::new(Grid::open_version(self, bucket, key, version).await?))
    }

    async fn delete(
        &self,
        bucket: &str,
        deletes: Vec<VersionDelete>,
    ) -> Result<Vec<Result<DeleteOutcome, GridError>>, GridError> {
        Grid::delete_versions(self, bucket, deletes).await
    }

    async fn copy(
        &self,
        request: CopyRequest,
        version: Option<VersionName>,
    ) -> Result<PutOutcome, GridError> {
        Grid::copy_version(self, request, version).await
    }

    async fn rename(
        &self,
        bucket: &str,
        source: (&str, VersionTag),
        target: &str,
        precondition: &Precondition,
    ) -> Result<(), GridError> {
        Grid::rename(self, bucket, source, target, precondition).await
    }

    async fn version_rules(&self, bucket: &str) -> Result<VersionRules, GridError> {
        Grid::version_rules(self, bucket).await
    }

    async fn set_version_rules(&self, bucket: &str, change: RulesChange) -> Result<(), GridError> {
        Grid::set_version_rules(self, bucket, change).await
    }

    async fn lifecycle(&self, bucket: &str) -> Result<Option<Vec<u8>>, GridError> {
        Grid::lifecycle(self, bucket).await
    }

    async fn set_lifecycle(
        &self,
        bucket: &str,
        rules: Option<(Lifecycle, Vec<u8>)>,
    ) -> Result<(), GridError> {
        Grid::set_lifecycle(self, bucket, rules).await
    }

    async fn change_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
        change: VersionChange,
    ) -> Result<Option<VersionName>, GridError> {
        Grid::change_version(self, bucket, key, version, change).await
    }

    async fn list_versions(&self, request: ListVersionsRequest) -> Result<VersionsPage, GridError> {
        Grid::list_versions(self, request).await
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
        version: Option<VersionName>,
        tap: Tap,
        finish: Finish,
    ) -> Result<PartInfo, GridError> {
        Grid::upload_part_copy_version(self, request, version, tap, finish).await
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
