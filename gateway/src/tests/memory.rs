//! A store in memory that keeps the grid's promises as far as one process can show them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use nexusgrid_env::UnixMillis;
use nexusgrid_grid::*;
use parking_lot::Mutex;

use crate::s3::ranges::resolve;
use crate::store::{ObjectStore, OpenObject};

#[derive(Clone)]
struct Stored {
    info: ObjectInfo,
    bytes: Bytes,
    is_marker: bool,
    /// What its upload's parts were stored with.
    parts: Vec<PartInfo>,
}

struct Upload {
    info: UploadInfo,
    parts: BTreeMap<u32, (PartInfo, Bytes)>,
}

#[derive(Default)]
struct State {
    buckets: BTreeMap<String, BucketInfo>,
    rules: BTreeMap<String, VersionRules>,
    lifecycles: BTreeMap<String, Vec<u8>>,
    /// Of each key all versions, newest first; never empty.
    objects: BTreeMap<(String, String), Vec<Stored>>,
    uploads: BTreeMap<(String, String, String), Upload>,
    counter: u64,
    records: BTreeMap<String, (u64, Vec<u8>)>,
    rules_version: u64,
    own: BTreeMap<String, Bytes>,
}

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

fn holds(precondition: &Precondition, current: Option<&str>) -> bool {
    let matched = |condition: &EtagMatch| match (condition, current) {
        (_, None) => false,
        (EtagMatch::Any, Some(_)) => true,
        (EtagMatch::OneOf(etags), Some(etag)) => etags.iter().any(|wanted| wanted == etag),
    };
    precondition.if_match.as_ref().is_none_or(matched)
        && !precondition.if_none_match.as_ref().is_some_and(matched)
}

/// The store's clock stands still.
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn summary(stored: &Stored) -> ObjectSummary {
    ObjectSummary {
        key: stored.info.key.clone(),
        size: stored.info.size,
        etag: stored.info.etag.clone(),
        last_modified: stored.info.last_modified,
        storage_class: None,
        owner: stored.info.meta.owner.clone(),
        checksum_algorithms: stored.info.checksums.keys().copied().collect(),
    }
}

fn record((path, (revision, value)): (&String, &(u64, Vec<u8>))) -> Record {
    Record { path: path.clone(), revision: *revision, value: value.clone() }
}

async fn collect(mut body: BodyStream) -> Result<Bytes, GridError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes.freeze())
}

impl State {
    fn bucket(&self, bucket: &str) -> Result<&BucketInfo, GridError> {
        self.buckets.get(bucket).ok_or(GridError::NoSuchBucket)
    }

    fn rules(&self, bucket: &str) -> VersionRules {
        self.rules.get(bucket).copied().unwrap_or_default()
    }

    /// The name of a version as the store shows it.
    fn shown(&self, bucket: &str, stored: &Stored) -> Option<VersionName> {
        let null = (self.rules(bucket).versioning != Versioning::Off).then_some(VersionName::Null);
        stored.info.version_name.or(null)
    }

    fn object(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<Stored, GridError> {
        self.bucket(bucket)?;
        let versions = self.objects.get(&(bucket.to_owned(), key.to_owned()));
        let mut versions = versions.into_iter().flatten();
        let found = match version {
            None => versions.next().ok_or(GridError::NoSuchKey)?,
            Some(name) => versions
                .find(|stored| stored.info.version_name.unwrap_or(VersionName::Null) == name)
                .ok_or(GridError::NoSuchVersion)?,
        };
        let shown = self.shown(bucket, found);
        if found.is_marker {
            let version = shown.unwrap_or(VersionName::Null);
            return Err(GridError::DeleteMarker { version, modified: found.info.last_modified });
        }
        let mut found = found.clone();
        found.info.version_name = shown;
        Ok(found)
    }

    /// The ETag of the current object.
    fn current(&self, bucket: &str, key: &str) -> Option<String> {
        self.object(bucket, key, None).ok().map(|stored| stored.info.etag)
    }

    /// Puts a version or marker above the others; gives its name.
    fn push(&mut self, bucket: &str, mut stored: Stored) -> Option<VersionName> {
        let rules = self.rules(bucket);
        let id = VersionName::Id(self.counter);
        stored.info.version_name = (rules.versioning == Versioning::Enabled).then_some(id);
        let at = (bucket.to_owned(), stored.info.key.clone());
        let versions = self.objects.entry(at).or_default();
        match rules.versioning {
            Versioning::Off => versions.clear(),
            Versioning::Enabled => {}
            Versioning::Suspended => versions.retain(|old| old.info.version_name.is_some()),
        }
        let shown = stored.info.version_name;
        versions.insert(0, stored);
        let null = (rules.versioning != Versioning::Off).then_some(VersionName::Null);
        shown.or(null)
    }

    fn remove(
        &mut self,
        bucket: &str,
        delete: &VersionDelete,
        name: VersionName,
    ) -> Result<DeleteOutcome, GridError> {
        let at = (bucket.to_owned(), delete.key.clone());
        let is_kept = self.rules(bucket).versioning != Versioning::Off;
        let outcome =
            |is_marker| DeleteOutcome { version: Some(name).filter(|_| is_kept), is_marker };
        let Some(versions) = self.objects.get_mut(&at) else { return Ok(outcome(false)) };
        let is_named =
            |stored: &Stored| stored.info.version_name.unwrap_or(VersionName::Null) == name;
        let Some(place) = versions.iter().position(is_named) else { return Ok(outcome(false)) };
        let lock = versions[place].info.meta.lock;
        let is_kept_by = |kept: Retention| {
            kept.until > NOW && !(delete.bypass && kept.mode == RetentionMode::Governance)
        };
        if lock.legal_hold || lock.retention.is_some_and(is_kept_by) {
            return Err(GridError::Locked);
        }
        let removed = versions.remove(place);
        if versions.is_empty() {
            self.objects.remove(&at);
        }
        Ok(outcome(removed.is_marker))
    }

    fn delete(&mut self, bucket: &str, delete: &VersionDelete) -> Result<DeleteOutcome, GridError> {
        let current = match delete.version {
            None => self.current(bucket, &delete.key),
            version => {
                self.object(bucket, &delete.key, version).ok().map(|stored| stored.info.etag)
            }
        };
        if !holds(&delete.precondition, current.as_deref()) {
            return Err(GridError::PreconditionFailed);
        }
        if let Some(expected) = &delete.expected {
            let all = self.objects.get(&(bucket.to_owned(), delete.key.clone()));
            let found = all.and_then(|all| match delete.version {
                None => all.first(),
                version => all.iter().find(|stored| stored.info.version_name == version),
            });
            let second = |time: UnixMillis| time.0 / 1000;
            let is_it = found.is_none_or(|stored| {
                let info = &stored.info;
                *expected == Expected::default()
                    || !stored.is_marker
                        && expected.etag.as_ref().is_none_or(|etag| *etag == info.etag)
                        && expected.size.is_none_or(|size| size == info.size)
                        && expected
                            .modified
                            .is_none_or(|time| second(time) == second(info.last_modified))
            });
            if !is_it {
                return Err(GridError::PreconditionFailed);
            }
        }
        if let Some(name) = delete.version {
            return self.remove(bucket, delete, name);
        }
        if self.rules(bucket).versioning == Versioning::Off {
            self.objects.remove(&(bucket.to_owned(), delete.key.clone()));
            return Ok(DeleteOutcome::default());
        }
        self.counter += 1;
        let info = ObjectInfo {
            key: delete.key.clone(),
            size: 0,
            etag: String::new(),
            checksums: Checksums::default(),
            last_modified: UnixMillis(1_700_000_000_000 + self.counter * 1000),
            version: VersionTag(self.counter),
            version_name: None,
            meta: ObjectMeta::default(),
            part_sizes: Vec::new(),
        };
        let version = self
            .push(bucket, Stored { info, bytes: Bytes::new(), is_marker: true, parts: Vec::new() });
        Ok(DeleteOutcome { version, is_marker: true })
    }

    fn upload(&mut self, bucket: &str, key: &str, id: &UploadId) -> Result<&mut Upload, GridError> {
        self.bucket(bucket)?;
        let at = (bucket.to_owned(), key.to_owned(), id.0.clone());
        self.uploads.get_mut(&at).ok_or(GridError::NoSuchUpload)
    }

    #[allow(clippy::too_many_arguments, reason = "one caller each, in a test double")]
    fn store(
        &mut self,
        bucket: &str,
        key: &str,
        meta: ObjectMeta,
        precondition: &Precondition,
        seal: ObjectSeal,
        bytes: Bytes,
        parts: Vec<PartInfo>,
    ) -> Result<PutOutcome, GridError> {
        self.bucket(bucket)?;
        let current = self.current(bucket, key);
        if !holds(precondition, current.as_deref()) {
            return Err(GridError::PreconditionFailed);
        }
        let mut meta = meta;
        match self.rules(bucket).lock {
            None if meta.is_locked() => return Err(GridError::NoLock),
            Some(LockRules { default: Some(rule) }) if meta.lock.retention.is_none() => {
                let until = UnixMillis(NOW.0 + 1_000);
                meta.lock.retention = Some(Retention { mode: rule.mode, until });
            }
            _ => {}
        }
        self.counter += 1;
        let info = ObjectInfo {
            key: key.to_owned(),
            size: bytes.len() as u64,
            etag: seal.etag.clone(),
            checksums: seal.checksums.clone(),
            last_modified: UnixMillis(1_700_000_000_000 + self.counter * 1000),
            version: VersionTag(self.counter),
            version_name: None,
            meta,
            part_sizes: parts.iter().map(|part| part.size).collect(),
        };
        let mut outcome = PutOutcome {
            etag: seal.etag,
            checksums: seal.checksums,
            size: info.size,
            version: info.version,
            version_name: info.version_name,
            last_modified: info.last_modified,
        };
        outcome.version_name = self.push(bucket, Stored { info, bytes, is_marker: false, parts });
        Ok(outcome)
    }
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
        let mut state = self.state.lock();
        for write in &writes {
            let found = state.records.get(&write.path).map_or(0, |(revision, _)| *revision);
            if write.expect.is_some_and(|expected| expected != found) {
                return Err(GridError::Conflict);
            }
        }
        state.rules_version += 1;
        let revision = state.rules_version;
        for write in writes {
            match write.value {
                Some(value) => drop(state.records.insert(write.path, (revision, value))),
                None => drop(state.records.remove(&write.path)),
            }
        }
        Ok(())
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
        self.state.lock().own.get(key).cloned().ok_or(GridError::NoSuchKey)
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
        let mut state = self.state.lock();
        if state.rules(bucket).versioning != Versioning::Off {
            return Err(GridError::BucketState);
        }
        let at = |key: &str| (bucket.to_owned(), key.to_owned());
        let found = state.object(bucket, source.0, None)?;
        let current = state.current(bucket, target);
        if found.info.version != source.1 || !holds(precondition, current.as_deref()) {
            return Err(GridError::PreconditionFailed);
        }
        let Some(mut moved) = state.objects.remove(&at(source.0)) else {
            return Err(GridError::NoSuchKey);
        };
        for stored in &mut moved {
            stored.info.key = target.to_owned();
        }
        state.objects.insert(at(target), moved);
        Ok(())
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
        let mut state = self.state.lock();
        state.bucket(bucket)?;
        let mut rules = state.rules(bucket);
        match change {
            RulesChange::Versioning(versioning) => rules.versioning = versioning,
            RulesChange::Lock(lock) => rules.lock = Some(lock),
        }
        if rules.lock.is_some() && rules.versioning != Versioning::Enabled {
            return Err(GridError::BucketState);
        }
        state.rules.insert(bucket.to_owned(), rules);
        Ok(())
    }

    async fn change_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
        change: VersionChange,
    ) -> Result<Option<VersionName>, GridError> {
        let mut state = self.state.lock();
        let found = state.object(bucket, key, version)?;
        let has_locks = state.rules(bucket).lock.is_some();
        let versions = state.objects.get_mut(&(bucket.to_owned(), key.to_owned()));
        let stored = versions
            .into_iter()
            .flatten()
            .find(|stored| stored.info.version == found.info.version)
            .ok_or(GridError::NoSuchKey)?;
        let meta = &mut stored.info.meta;
        match change {
            VersionChange::Tags(tags) => meta.tags = tags,
            VersionChange::Acl(acl) => meta.acl = acl,
            _ if !has_locks => return Err(GridError::NoLock),
            VersionChange::LegalHold(held) => meta.lock.legal_hold = held,
            VersionChange::Retention { retention, bypass } => {
                let is_firmer = |before: Retention| {
                    retention.is_some_and(|after| {
                        after.until >= before.until
                            && (after.mode == before.mode
                                || after.mode == RetentionMode::Compliance)
                    })
                };
                if let Some(before) = meta.lock.retention.filter(|kept| kept.until > NOW)
                    && !is_firmer(before)
                    && !(bypass && before.mode == RetentionMode::Governance)
                {
                    return Err(GridError::Locked);
                }
                meta.lock.retention = retention;
            }
        }
        Ok(found.info.version_name)
    }

    async fn list_versions(&self, request: ListVersionsRequest) -> Result<VersionsPage, GridError> {
        let state = self.state.lock();
        state.bucket(&request.bucket)?;
        let mut page = VersionsPage::default();
        let mut last = None;
        let mut count = 0;
        for ((bucket, key), versions) in &state.objects {
            let Some(rest) = key.strip_prefix(&request.prefix) else { continue };
            if *bucket != request.bucket {
                continue;
            }
            let folded = request.delimiter.as_ref().and_then(|delimiter| {
                let at = rest.find(delimiter.as_str())?;
                Some(key[..request.prefix.len() + at + delimiter.len()].to_owned())
            });
            let shown = folded.clone().unwrap_or_else(|| key.clone());
            let mut skip = 0;
            match &request.after {
                Some((after, _)) if shown < *after => continue,
                Some((after, Some(version))) if shown == *after => {
                    let at = |stored: &Stored| {
                        stored.info.version_name.unwrap_or(VersionName::Null) == *version
                    };
                    skip = versions.iter().position(at).map_or(0, |at| at + 1);
                }
                Some((after, None)) if shown == *after => continue,
                _ => {}
            }
            if page.prefixes.last() == Some(&shown) {
                continue;
            }
            for (at, stored) in versions.iter().enumerate().skip(skip) {
                if count == request.max as usize {
                    page.next = last;
                    return Ok(page);
                }
                count += 1;
                if folded.is_some() {
                    page.prefixes.push(shown.clone());
                    last = Some((shown, None));
                    break;
                }
                let version = stored.info.version_name.unwrap_or(VersionName::Null);
                last = Some((key.clone(), Some(version)));
                let (is_latest, last_modified) = (at == 0, stored.info.last_modified);
                if stored.is_marker {
                    let key = key.clone();
                    page.markers.push(MarkerSummary { key, version, last_modified, is_latest });
                } else {
                    let object = summary(stored);
                    page.versions.push(VersionSummary { object, version, is_latest });
                }
            }
        }
        Ok(page)
    }

    async fn copy(
        &self,
        request: CopyRequest,
        version: Option<VersionName>,
    ) -> Result<PutOutcome, GridError> {
        let mut state = self.state.lock();
        let source = state.object(&request.source_bucket, &request.source_key, version)?;
        if request.source_version.is_some_and(|version| version != source.info.version) {
            return Err(GridError::PreconditionFailed);
        }
        let seal = ObjectSeal { etag: source.info.etag, checksums: source.info.checksums };
        let meta = request.meta.unwrap_or(source.info.meta);
        let (bytes, parts) = (source.bytes, source.parts);
        state.store(&request.bucket, &request.key, meta, &request.precondition, seal, bytes, parts)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, GridError> {
        let state = self.state.lock();
        state.bucket(&request.bucket)?;
        let mut page = ListPage::default();
        let mut last: Option<String> = None;
        for ((bucket, key), versions) in &state.objects {
            let stored = &versions[0];
            if stored.is_marker {
                continue;
            }
            let Some(rest) = key.strip_prefix(&request.prefix) else { continue };
            if *bucket != request.bucket {
                continue;
            }
            let folded = request.delimiter.as_ref().and_then(|delimiter| {
                let at = rest.find(delimiter.as_str())?;
                Some(key[..request.prefix.len() + at + delimiter.len()].to_owned())
            });
            let name = folded.clone().unwrap_or_else(|| key.clone());
            // A prefix that holds the start is not greater than it: it is left out.
            if request.after.as_ref().is_some_and(|after| name <= *after)
                || page.prefixes.last() == Some(&name)
            {
                continue;
            }
            if page.objects.len() + page.prefixes.len() == request.max as usize {
                page.next = last;
                break;
            }
            last = Some(name);
            match folded {
                Some(prefix) => page.prefixes.push(prefix),
                None => page.objects.push(summary(stored)),
            }
        }
        Ok(page)
    }

    async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadInfo, GridError> {
        let mut state = self.state.lock();
        state.bucket(&request.bucket)?;
        state.counter += 1;
        let info = UploadInfo {
            key: request.key.clone(),
            upload: UploadId(format!("upload-{}", state.counter)),
            initiated: UnixMillis(1_700_000_000_000),
            owner: request.tenant.0,
            meta: request.meta,
            checksum: request.checksum,
        };
        let at = (request.bucket, request.key, info.upload.0.clone());
        state.uploads.insert(at, Upload { info: info.clone(), parts: BTreeMap::new() });
        Ok(info)
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
        let mut state = self.state.lock();
        let upload = state.upload(&request.bucket, &request.key, &request.upload)?;
        let mut chosen = Vec::new();
        let mut bytes = BytesMut::new();
        for part in &request.parts {
            match upload.parts.get(&part.number) {
                Some((info, content)) if info.etag == part.etag => {
                    chosen.push(info.clone());
                    bytes.extend_from_slice(content);
                }
                _ => return Err(GridError::InvalidPart { number: part.number }),
            }
        }
        let sealed = seal(&chosen)?;
        let meta = upload.info.meta.clone();
        let CompleteUploadRequest { bucket, key, upload, precondition, .. } = request;
        let outcome =
            state.store(&bucket, &key, meta, &precondition, sealed, bytes.freeze(), chosen)?;
        state.uploads.remove(&(bucket, key, upload.0));
        Ok(outcome)
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
        let state = self.state.lock();
        state.bucket(&request.bucket)?;
        let mut page = UploadsPage::default();
        for ((bucket, key, id), upload) in &state.uploads {
            let after = match &request.after {
                None => true,
                Some((marker, None)) => key > marker,
                Some((marker, Some(upload))) => (key, id) > (marker, &upload.0),
            };
            if *bucket != request.bucket || !key.starts_with(&request.prefix) || !after {
                continue;
            }
            let rest = &key[request.prefix.len()..];
            if let Some(delimiter) = &request.delimiter
                && let Some(at) = rest.find(delimiter.as_str())
            {
                let folded = key[..request.prefix.len() + at + delimiter.len()].to_owned();
                if page.prefixes.last() != Some(&folded) {
                    page.prefixes.push(folded);
                }
                continue;
            }
            if page.uploads.len() == request.max as usize {
                let last = page.uploads.last().expect("max is not zero");
                page.next = Some((last.key.clone(), last.upload.clone()));
                break;
            }
            page.uploads.push(upload.info.clone());
        }
        Ok(page)
    }

    async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
        after: Option<u32>,
        max: u32,
    ) -> Result<PartsPage, GridError> {
        let mut state = self.state.lock();
        let upload = state.upload(bucket, key, upload)?;
        let mut parts: Vec<PartInfo> = upload
            .parts
            .range(after.map_or(0, |after| after + 1)..)
            .take(max as usize + 1)
            .map(|(_, (info, _))| info.clone())
            .collect();
        let more = parts.len() > max as usize;
        parts.truncate(max as usize);
        let next = parts.last().map(|part| part.number).filter(|_| more);
        Ok(PartsPage { upload: upload.info.clone(), parts, next })
    }
}
