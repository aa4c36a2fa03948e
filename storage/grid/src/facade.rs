//! The façade: one method per operation of the floors above.

use std::sync::Arc;

use crate::api::{
    BodyStream, BucketInfo, ByteRange, CompleteUploadRequest, CopyRequest, CreateUploadRequest,
    DeleteRequest, Finish, FinishParts, GetOutcome, ListPage, ListRequest, ListUploadsRequest,
    ObjectInfo, PartCopyRequest, PartInfo, PartRequest, PartsPage, PutOutcome, PutRequest, ReadStream,
    ResolvedRange, Tap, UploadId, UploadInfo, UploadsPage,
};
use crate::error::GridError;

/// A node's door to the grid; cheap to clone. All calls may be made from any task; dropping a
/// call's future abandons it: what was not acknowledged may or may not have happened.
#[derive(Clone)]
pub struct Grid {
    inner: Arc<Inner>,
}

struct Inner {}

/// An object opened for reading: one version, pinned until this and all its streams are dropped.
pub struct ObjectReader {
    info: ObjectInfo,
}

impl ObjectReader {
    /// What is being read. Evaluate conditional headers on this, then call [`ObjectReader::read`].
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// A range of the bytes (all if `None`); nothing is fetched before the stream is polled.
    pub fn read(self, range: Option<ByteRange>) -> Result<(ResolvedRange, ReadStream), GridError> {
        let _ = range;
        todo!()
    }
}

impl Grid {
    /// Makes a bucket owned by `owner`.
    pub async fn create_bucket(&self, name: &str, owner: &str) -> Result<BucketInfo, GridError> { let _ = (name, owner, &self.inner); todo!() }
    /// A bucket, or `NoSuchBucket`.
    pub async fn head_bucket(&self, name: &str) -> Result<BucketInfo, GridError> { let _ = name; todo!() }
    /// All buckets, by name.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, GridError> { todo!() }
    /// Removes an empty bucket.
    pub async fn delete_bucket(&self, name: &str) -> Result<(), GridError> { let _ = name; todo!() }

    /// Stores an object. `finish` runs after the last byte and before the commit; if it refuses,
    /// nothing becomes visible.
    pub async fn put(&self, request: PutRequest, body: BodyStream, finish: Finish) -> Result<PutOutcome, GridError> { let _ = (request, body, finish); todo!() }
    /// An object without its bytes.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<ObjectInfo, GridError> { let _ = (bucket, key); todo!() }
    /// Opens an object for reading.
    pub async fn open(&self, bucket: &str, key: &str) -> Result<ObjectReader, GridError> { let _ = (bucket, key); todo!() }
    /// [`Grid::open`] and [`ObjectReader::read`] in one.
    pub async fn get(&self, bucket: &str, key: &str, range: Option<ByteRange>) -> Result<GetOutcome, GridError> { let _ = (bucket, key, range); todo!() }
    /// Removes an object; fine if there is none.
    pub async fn delete(&self, request: DeleteRequest) -> Result<(), GridError> { let _ = request; todo!() }
    /// Removes many objects of a bucket; one result per key, in order.
    pub async fn delete_many(&self, bucket: &str, keys: &[String]) -> Result<Vec<Result<(), GridError>>, GridError> { let _ = (bucket, keys); todo!() }
    /// Copies an object: links its content within a metadata group, moves bytes across groups.
    /// The ETag and checksums stay the source's.
    pub async fn copy(&self, request: CopyRequest) -> Result<PutOutcome, GridError> { let _ = request; todo!() }
    /// A page of objects.
    pub async fn list(&self, request: ListRequest) -> Result<ListPage, GridError> { let _ = request; todo!() }

    /// Opens an upload.
    pub async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadInfo, GridError> { let _ = request; todo!() }
    /// An open upload, or `NoSuchUpload`.
    pub async fn head_upload(&self, bucket: &str, key: &str, upload: &UploadId) -> Result<UploadInfo, GridError> { let _ = (bucket, key, upload); todo!() }
    /// Stores a part.
    pub async fn upload_part(&self, request: PartRequest, body: BodyStream, finish: Finish) -> Result<PartInfo, GridError> { let _ = (request, body, finish); todo!() }
    /// Stores a range of an object as a part; `tap` sees all bytes before `finish` runs.
    pub async fn upload_part_copy(&self, request: PartCopyRequest, tap: Tap, finish: Finish) -> Result<PartInfo, GridError> { let _ = (request, tap, finish); todo!() }
    /// Makes the object; `seal` sees the chosen parts as stored.
    pub async fn complete_upload(&self, request: CompleteUploadRequest, seal: FinishParts) -> Result<PutOutcome, GridError> { let _ = (request, seal); todo!() }
    /// Drops an upload and its parts.
    pub async fn abort_upload(&self, bucket: &str, key: &str, upload: &UploadId) -> Result<(), GridError> { let _ = (bucket, key, upload); todo!() }
    /// A page of open uploads.
    pub async fn list_uploads(&self, request: ListUploadsRequest) -> Result<UploadsPage, GridError> { let _ = request; todo!() }
    /// A page of an upload's parts, from the one after `after`.
    pub async fn list_parts(&self, bucket: &str, key: &str, upload: &UploadId, after: Option<u32>, max: u32) -> Result<PartsPage, GridError> { let _ = (bucket, key, upload, after, max); todo!() }
}
