//! A store in memory that keeps the grid's promises as far as one process can show them.

mod listings;
mod state;
mod uploads;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use nexusgrid_env::UnixMillis;
use nexusgrid_grid::*;
use parking_lot::Mutex;

use self::state::{NOW, State, Stored, holds, record};
use crate::s3::ranges::resolve;
use crate::store::{ObjectStore, OpenObject};

/// See the module.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

struct Open(Stored);

#[async_trait]
impl OpenObject for Open {
    fn info(&self) -> &ObjectInfo {
        &self.0.info
    }

    async fn parts(&self, from: usize, count: usize) -> Result<Vec<PartInfo>, GridError> {
        Ok(self.0.parts.iter().skip(from).take(count).cloned().collect())
    }

    fn read(
        self: Box<Self>,
        range: Option<ByteRange>,
    ) -> Result<(ResolvedRange, ReadStream), GridError> {
        let size = self.0.info.size;
        let range = match range {
            None => ResolvedRange { start: 0, end: size },
            Some(range) => resolve(range, size).ok_or(GridError::InvalidRange { size })?,
        };
        let bytes = self.0.bytes.slice(range.start as usize..range.end as usize);
        let chunks: Vec<_> =
            bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Ok((range, Box::pin(futures_util::stream::iter(chunks))))
    }
}

async fn collect(mut body: BodyStream) -> Result<Bytes, GridError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes.freeze())
}

impl MemoryStore {
    /// Makes a bucket.
    pub fn add_bucket(&self, name: &str, owner: &str) {
        let mut state = self.state.lock();
        state.counter += 1;
        let info = BucketInfo {
            id: state.counter,
            name: name.to_owned(),
            created: UnixMillis(1_700_000_000_000),
            owner: owner.to_owned(),
        };
        state.buckets.insert(name.to_owned(), info);
    }

    /// Whether these bytes stand anywhere in it: in objects, parts, or records.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let state = self.state.lock();
        let is_in = |all: &[u8]| all.windows(bytes.len()).any(|window| window == bytes);
        let uploads = state.uploads.values().flat_map(|upload| upload.parts.values());
        state.objects.values().flatten().any(|stored| is_in(&stored.bytes))
            || uploads.into_iter().any(|(_, content)| is_in(content))
            || state.records.values().any(|(_, value)| is_in(value))
    }

    /// The first bytes of that part of the one upload there is.
    pub fn first_of_part(&self, number: u32) -> Vec<u8> {
        let state = self.state.lock();
        let upload = state.uploads.values().next().expect("an upload");
        upload.parts[&number].1[..64].to_vec()
    }

    /// Has lifecycle rules do something to an object: it is noted where that is told.
    pub fn end(&self, bucket: &str, key: &str, kind: EndKind) {
        let mut state = self.state.lock();
        if state.tells.get(bucket) == Some(&true) {
            state.ends.push(ObjectEnd {
                bucket: Some(bucket.to_owned()),
                key: key.to_owned(),
                version: None,
                kind,
                size: 3,
                etag: "e".to_owned(),
                at: NOW,
            });
        }
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.state.lock().objects.values().map(Vec::len).sum()
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn create_bucket(&self, name: &str, owner: &str) -> Result<BucketInfo, GridError> {
        if let Some(bucket) = self.state.lock().buckets.get(name) {
            return Err(GridError::BucketExists { owner: bucket.owner.clone() });
        }
        self.add_bucket(name, owner);
        self.head_bucket(name).await
    }

    async fn head_bucket(&self, name: &str) -> Result<BucketInfo, GridError> {
        self.state.lock().bucket(name).cloned()
    }

    async fn bucket(&self, name: &str) -> Result<BucketInfo, GridError> {
        self.head_bucket(name).await
    }

    fn rules_version(&self) -> u64 {
        self.state.lock().rules_version
    }

    fn bucket_records(&self, bucket: &BucketInfo) -> String {
        format!("bucket/{}/", bucket.id)
    }

    async fn records(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Record>, GridError> {
        let state = self.state.lock();
        let found = state.records.iter().filter(|(path, _)| {
            path.starts_with(prefix) && (after.is_empty() || path.as_str() > after)
        });
        Ok(found.take(limit).map(record).collect())
    }

    async fn records_at(&self, paths: &[String]) -> Result<Vec<Record>, GridError> {
        let state = self.state.lock();
        Ok(state.records.iter().filter(|(path, _)| paths.contains(path)).map(record).collect())
    }

    async fn write_records(&self, writes: Vec<RecordWrite>) -> Result<(), GridError> {
        self.state.lock().write_records(writes)
    }

    fn seal_secret(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, GridError> {
        Ok([name.as_bytes(), b"/", secret].concat())
    }

    fn open_secret(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, GridError> {
        let bound = [name.as_bytes(), b"/"].concat();
        let secret = sealed.strip_prefix(bound.as_slice());
        secret.map(<[u8]>::to_vec).ok_or_else(|| GridError::Internal("not of that name".into()))
    }

    async fn own_put(&self, key: &str, bytes: Bytes) -> Result<(), GridError> {
        self.state.lock().own.insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn own_list(
        &self,
        prefix: &str,
        after: Option<String>,
        max: u32,
    ) -> Result<Vec<String>, GridError> {
        let state = self.state.lock();
        let keys = state.own.keys().filter(|key| key.starts_with(prefix));
        let keys = keys.filter(|key| after.as_ref().is_none_or(|after| *key > after));
        Ok(keys.take(max as usize).cloned().collect())
    }

    async fn own_get(&self, key: &str) -> Result<Bytes, GridError> {
        match self.state.lock().own.get(key).cloned() {
            // What a test says is lost.
            Some(bytes) if bytes == "lost" => Err(GridError::Unreadable(key.to_owned())),
            found => found.ok_or(GridError::NoSuchKey),
        }
    }

    async fn own_delete(&self, keys: Vec<String>) -> Result<(), GridError> {
        let mut state = self.state.lock();
        keys.iter().for_each(|key| drop(state.own.remove(key)));
        Ok(())
    }

    fn own_node(&self) -> u64 {
        1
    }

    fn acts_for(&self, node: u64) -> bool {
        node == 1
    }

    async fn list_buckets(&self) -> Result<Vec<BucketInfo>, GridError> {
        Ok(self.state.lock().buckets.values().cloned().collect())
    }

    async fn bucket_usage(&self, name: &str) -> Result<BucketUsage, GridError> {
        self.state.lock().bucket_usage(name)
    }

    async fn set_allowance(&self, name: &str, allowance: Allowance) -> Result<(), GridError> {
        let mut state = self.state.lock();
        state.bucket(name)?;
        state.allowances.insert(name.to_owned(), allowance);
        Ok(())
    }

    async fn tell_ends(&self, bucket: &str, told: bool) -> Result<(), GridError> {
        let mut state = self.state.lock();
        state.bucket(bucket)?;
        state.tells.insert(bucket.to_owned(), told);
        Ok(())
    }

    async fn ends(&self) -> Result<Vec<Ends>, GridError> {
        let ends = self.state.lock().ends.clone();
        let through = EndMark { sequence: ends.len() as u64, ordinal: 0 };
        let page = Ends { group: 1, through, ends };
        Ok(if page.ends.is_empty() { Vec::new() } else { vec![page] })
    }

    async fn forget_ends(&self, _group: u32, through: EndMark) -> Result<(), GridError> {
        drop(self.state.lock().ends.drain(..through.sequence as usize));
        Ok(())
    }

    async fn delete_bucket(&self, name: &str) -> Result<(), GridError> {
        let mut state = self.state.lock();
        state.bucket(name)?;
        let has_uploads = state.uploads.keys().any(|(bucket, _, _)| bucket == name);
        if has_uploads || state.objects.keys().any(|(bucket, _)| bucket == name) {
            return Err(GridError::BucketNotEmpty);
        }
        state.buckets.remove(name);
        Ok(())
    }

    async fn put(
        &self,
        request: PutRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PutOutcome, GridError> {
        self.state.lock().bucket(&request.bucket)?;
        let bytes = collect(body).await?;
        if request.length.is_some_and(|length| length != bytes.len() as u64) {
            let message = "length".to_owned();
            return Err(Reject { kind: RejectKind::IncompleteBody, message }.into());
        }
        let seal = finish()?;
        let PutRequest { bucket, key, meta, precondition, .. } = request;
        self.state.lock().store(&bucket, &key, meta, &precondition, seal, bytes, Vec::new())
    }

    async fn append(
        &self,
        request: AppendRequest,
        body: BodyStream,
        finish: FinishAppend,
    ) -> Result<PutOutcome, GridError> {
        let AppendRequest { bucket, key, offset, precondition, .. } = request;
        let before = self.state.lock().object(&bucket, &key, None)?;
        let size = before.info.size;
        if !holds(&precondition, Some(&before.info.etag)) {
            return Err(GridError::PreconditionFailed);
        }
        if size != offset {
            return Err(GridError::WrongOffset { size });
        }
        let added = collect(body).await?;
        let seal = finish(&before.info, added.len() as u64)?;
        let bytes = Bytes::from([before.bytes, added].concat());
        let unchanged = Precondition {
            if_match: Some(EtagMatch::OneOf(vec![before.info.etag])),
            ..Precondition::default()
        };
        let meta = before.info.meta;
        self.state.lock().store(&bucket, &key, meta, &unchanged, seal, bytes, Vec::new())
    }

    async fn head(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<ObjectInfo, GridError> {
        Ok(self.state.lock().object(bucket, key, version)?.info)
    }

    async fn open(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<Box<dyn OpenObject>, GridError> {
        Ok(Box::new(Open(self.state.lock().object(bucket, key, version)?)))
    }

    async fn delete(
        &self,
        bucket: &str,
        deletes: Vec<VersionDelete>,
    ) -> Result<Vec<Result<DeleteOutcome, GridError>>, GridError> {
        let mut state = self.state.lock();
        state.bucket(bucket)?;
        Ok(deletes.iter().map(|delete| state.delete(bucket, delete)).collect())
    }

    async fn rename(
        &self,
        bucket: &str,
        source: (&str, VersionTag),
        target: &str,
        precondition: &Precondition,
    ) -> Result<(), GridError> {
        self.state.lock().rename(bucket, source, target, precondition)
    }

    async fn version_rules(&self, bucket: &str) -> Result<VersionRules, GridError> {
        let state = self.state.lock();
        state.bucket(bucket)?;
        Ok(state.rules(bucket))
    }

    async fn lifecycle(&self, bucket: &str) -> Result<Option<Vec<u8>>, GridError> {
        Ok(self.state.lock().lifecycles.get(bucket).cloned())
    }

    async fn set_lifecycle(
        &self,
        bucket: &str,
        rules: Option<(nexusgrid_grid::lifecycle::Lifecycle, Vec<u8>)>,
    ) -> Result<(), GridError> {
        let lifecycles = &mut self.state.lock().lifecycles;
        match rules {
            Some((_, text)) => _ = lifecycles.insert(bucket.to_owned(), text),
            None => _ = lifecycles.remove(bucket),
        }
        Ok(())
    }

    async fn set_version_rules(&self, bucket: &str, change: RulesChange) -> Result<(), GridError> {
        self.state.lock().set_version_rules(bucket, change)
    }

    async fn change_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
        change: VersionChange,
    ) -> Result<Option<VersionName>, GridError> {
        self.state.lock().change_version(bucket, key, version, change)
    }

    async fn list_versions(&self, request: ListVersionsRequest) -> Result<VersionsPage, GridError> {
        self.state.lock().list_versions(request)
    }

    async fn copy(
        &self,
        request: CopyRequest,
        version: Option<VersionName>,
    ) -> Result<PutOutcome, GridError> {
        self.state.lock().copy(request, version)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, GridError> {
        self.state.lock().list(request)
    }

    async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadInfo, GridError> {
        self.state.lock().create_upload(request)
    }

    async fn head_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
    ) -> Result<UploadInfo, GridError> {
        Ok(self.state.lock().upload(bucket, key, upload)?.info.clone())
    }

    async fn upload_part(
        &self,
        request: PartRequest,
        body: BodyStream,
        finish: Finish,
    ) -> Result<PartInfo, GridError> {
        let bytes = collect(body).await?;
        let seal = finish()?;
        let info = PartInfo {
            number: request.number,
            etag: seal.etag,
            size: bytes.len() as u64,
            checksums: seal.checksums,
            last_modified: UnixMillis(1_700_000_000_000),
        };
        let mut state = self.state.lock();
        let upload = state.upload(&request.bucket, &request.key, &request.upload)?;
        upload.parts.insert(request.number, (info.clone(), bytes));
        Ok(info)
    }

    async fn upload_part_copy(
        &self,
        request: PartCopyRequest,
        version: Option<VersionName>,
        mut tap: Tap,
        finish: Finish,
    ) -> Result<PartInfo, GridError> {
        let open = self.open(&request.source_bucket, &request.source_key, version).await?;
        let (_, mut stream) = open.read(request.range)?;
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            tap(&chunk);
            chunks.push(Ok(chunk));
        }
        let body: BodyStream = Box::pin(futures_util::stream::iter(chunks));
        self.upload_part(request.part, body, finish).await
    }

    async fn complete_upload(
        &self,
        request: CompleteUploadRequest,
        seal: FinishParts,
    ) -> Result<PutOutcome, GridError> {
        self.state.lock().complete_upload(request, seal)
    }

    async fn abort_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
    ) -> Result<(), GridError> {
        let mut state = self.state.lock();
        state.upload(bucket, key, upload)?;
        state.uploads.remove(&(bucket.to_owned(), key.to_owned(), upload.0.clone()));
        Ok(())
    }

    async fn list_uploads(&self, request: ListUploadsRequest) -> Result<UploadsPage, GridError> {
        self.state.lock().list_uploads(request)
    }

    async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
        after: Option<u32>,
        max: u32,
    ) -> Result<PartsPage, GridError> {
        self.state.lock().list_parts(bucket, key, upload, after, max)
    }
}
