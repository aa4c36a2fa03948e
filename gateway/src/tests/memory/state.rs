//! Objects and their versions, as the metadata groups keep them.

use std::collections::BTreeMap;

use bytes::Bytes;
use nexusgrid_env::UnixMillis;
use nexusgrid_grid::*;

#[derive(Clone)]
pub(super) struct Stored {
    pub(super) info: ObjectInfo,
    pub(super) bytes: Bytes,
    pub(super) is_marker: bool,
    /// What its upload's parts were stored with.
    pub(super) parts: Vec<PartInfo>,
}

pub(super) struct Upload {
    pub(super) info: UploadInfo,
    pub(super) parts: BTreeMap<u32, (PartInfo, Bytes)>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) buckets: BTreeMap<String, BucketInfo>,
    pub(super) rules: BTreeMap<String, VersionRules>,
    pub(super) lifecycles: BTreeMap<String, Vec<u8>>,
    /// Of each key all versions, newest first; never empty.
    pub(super) objects: BTreeMap<(String, String), Vec<Stored>>,
    pub(super) uploads: BTreeMap<(String, String, String), Upload>,
    pub(super) counter: u64,
    pub(super) records: BTreeMap<String, (u64, Vec<u8>)>,
    pub(super) rules_version: u64,
    pub(super) own: BTreeMap<String, Bytes>,
    pub(super) allowances: BTreeMap<String, Allowance>,
    /// Buckets of which it is told what lifecycle rules do, and what they did.
    pub(super) tells: BTreeMap<String, bool>,
    pub(super) ends: Vec<ObjectEnd>,
}

pub(super) fn holds(precondition: &Precondition, current: Option<&str>) -> bool {
    let matched = |condition: &EtagMatch| match (condition, current) {
        (_, None) => false,
        (EtagMatch::Any, Some(_)) => true,
        (EtagMatch::OneOf(etags), Some(etag)) => etags.iter().any(|wanted| wanted == etag),
    };
    precondition.if_match.as_ref().is_none_or(matched)
        && !precondition.if_none_match.as_ref().is_some_and(matched)
}

/// The store's clock stands still.
pub(super) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

pub(super) fn summary(stored: &Stored) -> ObjectSummary {
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

pub(super) fn record((path, (revision, value)): (&String, &(u64, Vec<u8>))) -> Record {
    Record { path: path.clone(), revision: *revision, value: value.clone() }
}

impl State {
    pub(super) fn bucket(&self, bucket: &str) -> Result<&BucketInfo, GridError> {
        self.buckets.get(bucket).ok_or(GridError::NoSuchBucket)
    }

    pub(super) fn rules(&self, bucket: &str) -> VersionRules {
        self.rules.get(bucket).copied().unwrap_or_default()
    }

    /// The name of a version as the store shows it.
    pub(super) fn shown(&self, bucket: &str, stored: &Stored) -> Option<VersionName> {
        let null = (self.rules(bucket).versioning != Versioning::Off).then_some(VersionName::Null);
        stored.info.version_name.or(null)
    }

    pub(super) fn object(
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
    pub(super) fn current(&self, bucket: &str, key: &str) -> Option<String> {
        self.object(bucket, key, None).ok().map(|stored| stored.info.etag)
    }

    /// Puts a version or marker above the others; gives its name.
    pub(super) fn push(&mut self, bucket: &str, mut stored: Stored) -> Option<VersionName> {
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

    pub(super) fn remove(
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

    pub(super) fn delete(
        &mut self,
        bucket: &str,
        delete: &VersionDelete,
    ) -> Result<DeleteOutcome, GridError> {
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

    pub(super) fn upload(
        &mut self,
        bucket: &str,
        key: &str,
        id: &UploadId,
    ) -> Result<&mut Upload, GridError> {
        self.bucket(bucket)?;
        let at = (bucket.to_owned(), key.to_owned(), id.0.clone());
        self.uploads.get_mut(&at).ok_or(GridError::NoSuchUpload)
    }

    #[allow(clippy::too_many_arguments, reason = "one caller each, in a test double")]
    pub(super) fn store(
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
        let allowance = self.allowances.get(bucket).copied().unwrap_or_default();
        let stored =
            self.objects.iter().filter(|((of, _), _)| of == bucket).flat_map(|(_, all)| all);
        let held: u64 = stored.clone().map(|stored| stored.info.size).sum();
        if allowance.bytes.is_some_and(|most| held + bytes.len() as u64 > most)
            || allowance.objects.is_some_and(|most| stored.count() as u64 >= most)
        {
            return Err(GridError::QuotaExceeded);
        }
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

    pub(super) fn rename(
        &mut self,
        bucket: &str,
        source: (&str, VersionTag),
        target: &str,
        precondition: &Precondition,
    ) -> Result<(), GridError> {
        if self.rules(bucket).versioning != Versioning::Off {
            return Err(GridError::BucketState);
        }
        let at = |key: &str| (bucket.to_owned(), key.to_owned());
        let found = self.object(bucket, source.0, None)?;
        let current = self.current(bucket, target);
        if found.info.version != source.1 || !holds(precondition, current.as_deref()) {
            return Err(GridError::PreconditionFailed);
        }
        let Some(mut moved) = self.objects.remove(&at(source.0)) else {
            return Err(GridError::NoSuchKey);
        };
        for stored in &mut moved {
            stored.info.key = target.to_owned();
        }
        self.objects.insert(at(target), moved);
        Ok(())
    }

    pub(super) fn copy(
        &mut self,
        request: CopyRequest,
        version: Option<VersionName>,
    ) -> Result<PutOutcome, GridError> {
        let source = self.object(&request.source_bucket, &request.source_key, version)?;
        if request.source_version.is_some_and(|version| version != source.info.version) {
            return Err(GridError::PreconditionFailed);
        }
        let seal = ObjectSeal { etag: source.info.etag, checksums: source.info.checksums };
        let meta = request.meta.unwrap_or(source.info.meta);
        let (bytes, parts) = (source.bytes, source.parts);
        self.store(&request.bucket, &request.key, meta, &request.precondition, seal, bytes, parts)
    }

    pub(super) fn change_version(
        &mut self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
        change: VersionChange,
    ) -> Result<Option<VersionName>, GridError> {
        let found = self.object(bucket, key, version)?;
        let has_locks = self.rules(bucket).lock.is_some();
        let versions = self.objects.get_mut(&(bucket.to_owned(), key.to_owned()));
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
                        after.until >= before.until && after.mode == before.mode
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

    pub(super) fn set_version_rules(
        &mut self,
        bucket: &str,
        change: RulesChange,
    ) -> Result<(), GridError> {
        self.bucket(bucket)?;
        let mut rules = self.rules(bucket);
        match change {
            RulesChange::Versioning(versioning) => rules.versioning = versioning,
            RulesChange::Lock(lock) => rules.lock = Some(lock),
        }
        if rules.lock.is_some() && rules.versioning != Versioning::Enabled {
            return Err(GridError::BucketState);
        }
        self.rules.insert(bucket.to_owned(), rules);
        Ok(())
    }

    pub(super) fn bucket_usage(&self, name: &str) -> Result<BucketUsage, GridError> {
        self.bucket(name)?;
        let stored = self.objects.iter().filter(|((bucket, _), _)| bucket == name);
        let stored = stored.flat_map(|(_, all)| all).filter(|stored| !stored.is_marker);
        let mut usage = BucketUsage {
            allowance: self.allowances.get(name).copied().unwrap_or_default(),
            ..BucketUsage::default()
        };
        for stored in stored {
            usage.objects += 1;
            usage.bytes += stored.info.size;
        }
        Ok(usage)
    }

    pub(super) fn write_records(&mut self, writes: Vec<RecordWrite>) -> Result<(), GridError> {
        for write in &writes {
            let found = self.records.get(&write.path).map_or(0, |(revision, _)| *revision);
            if write.expect.is_some_and(|expected| expected != found) {
                return Err(GridError::Conflict);
            }
        }
        self.rules_version += 1;
        let revision = self.rules_version;
        for write in writes {
            match write.value {
                Some(value) => drop(self.records.insert(write.path, (revision, value))),
                None => drop(self.records.remove(&write.path)),
            }
        }
        Ok(())
    }
}
