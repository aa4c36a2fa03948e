//! Versions: what a bucket keeps when an object is replaced or deleted, and what locks them.
//!
//! ```text
//!               tree (what clients see)      'V' rows (newest first)
//!   PUT   on:   new object               ◀─  the one before it moves here
//!   DELETE on:  nothing                  ◀─  a delete marker, then the one before it
//!   DELETE of a version: the row goes; if the tree holds nothing then, and the newest of the 'V' rows
//!   is an object, that one moves to the tree.
//! ```
//!
//! So the tree is what it is without versioning, and so is what reading and listing cost. A version
//! counts for usage (I8) and refers to its content (I7) wherever its row stands. A key has at most one
//! null version; if it is a 'V' row, the key's 'N' row says which. Two things always hold of a key:
//! with an object in the tree all its 'V' rows are older, and without one the newest is a marker.
//!
//! Locks are checked here and nowhere else: whatever would remove a version goes through
//! [`check_unlocked`].
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::KvError;
use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::{Change, Step, check_key, corrupt};
use super::objects::check_meta;
use super::rows::{self, BucketRow, LiveBucket, VersionRow};
use super::tree;
use super::types::{
    BucketId, DeleteMarker, DeleteVersion, End, EndKind, LockRules, Malformed, NamespaceError,
    NamespaceOk, Object, ObjectLock, ObjectMeta, Precondition, Retention, RetentionMode,
    RetentionPeriod, RulesChange, VersionChange, VersionDeleted, VersionId, VersionRef,
    VersionRules, Versioning,
};
use crate::rows::tx::{Tx, decode_row};

impl VersionRules {
    /// Whether writing to the key of `current` ends it.
    pub(super) fn overwrites(&self, current: &Object) -> bool {
        match self.versioning {
            Versioning::Off => true,
            Versioning::Enabled => false,
            Versioning::Suspended => current.version.is_none(),
        }
    }
}

/// A version as answers have it.
pub(super) fn shown(version: Option<VersionId>, rules: &VersionRules) -> Option<VersionId> {
    match rules.versioning {
        Versioning::Off => None,
        Versioning::Enabled | Versioning::Suspended => VersionId::shown(version),
    }
}

/// Bounds tags. Whether one may have several values is the door's business.
pub(super) fn check_tags(tags: &[(String, String)]) -> Result<(), NamespaceError> {
    let is_good = |(at, tag): (usize, &(String, String))| {
        let (name, value) = tag;
        (1..=limits::TAG_NAME_BYTES_MAX).contains(&name.len())
            && value.len() <= limits::TAG_VALUE_BYTES_MAX
            && tags.iter().take(at).all(|other| other != tag)
    };
    if tags.len() <= limits::TAGS_MAX && tags.iter().enumerate().all(is_good) {
        Ok(())
    } else {
        Err(Malformed::Tags.into())
    }
}

/// Whether a new version may be locked so.
pub(super) fn check_lock(
    lock: &ObjectLock,
    rules: &VersionRules,
    now_ms: u64,
) -> Result<(), NamespaceError> {
    if *lock == ObjectLock::default() {
        return Ok(());
    }
    if rules.lock.is_none() {
        return Err(NamespaceError::NoLock);
    }
    lock.retention.map_or(Ok(()), |retention| check_retention(&retention, now_ms))
}

fn check_retention(retention: &Retention, now_ms: u64) -> Result<(), NamespaceError> {
    if retention.until_ms > now_ms { Ok(()) } else { Err(Malformed::Retention.into()) }
}

/// What keeps a new version: what it names, or else its bucket's default.
pub(super) fn with_default_lock(
    mut meta: ObjectMeta,
    rules: &VersionRules,
    now_ms: u64,
) -> ObjectMeta {
    if let Some(LockRules { default: Some(default) }) = rules.lock
        && meta.lock.retention.is_none()
    {
        let until_ms = now_ms.saturating_add(default.period.millis());
        meta.lock.retention = Some(Retention { mode: default.mode, until_ms });
    }
    meta
}

/// Whether a version with this lock may be removed now.
pub(super) fn check_unlocked(
    lock: &ObjectLock,
    now_ms: u64,
    bypass: bool,
) -> Result<(), NamespaceError> {
    let is_kept = lock.retention.is_some_and(|retention| {
        retention.until_ms > now_ms && !(bypass && retention.mode == RetentionMode::Governance)
    });
    if lock.legal_hold || is_kept { Err(NamespaceError::Locked) } else { Ok(()) }
}

/// Whether a retention may take the place of another.
fn check_change(
    before: Option<Retention>,
    after: Option<Retention>,
    now_ms: u64,
    bypass: bool,
) -> Result<(), NamespaceError> {
    if let Some(after) = &after {
        check_retention(after, now_ms)?;
    }
    let Some(before) = before.filter(|before| before.until_ms > now_ms) else { return Ok(()) };
    // Compliance takes from those who may bypass governance what they may: only they can want it.
    let is_firmer =
        after.is_some_and(|after| after.mode == before.mode && after.until_ms >= before.until_ms);
    let may = is_firmer || (bypass && before.mode == RetentionMode::Governance);
    if may { Ok(()) } else { Err(NamespaceError::Locked) }
}

/// The newest of a key's 'V' rows: its order, and the row.
pub(super) fn newest(
    tx: &Tx<'_>,
    bucket: BucketId,
    key: &[u8],
) -> Result<Option<(u64, VersionRow)>, KvError> {
    let prefix = rows::versions(bucket).name(key).done();
    let found = tx.scan(rows::STATE, &prefix, prefix_end(&prefix).as_deref(), 1)?;
    let Some((row, value)) = found.into_iter().next() else { return Ok(None) };
    let (_, order) = rows::parse_version(&row)
        .ok_or_else(|| KvError::Corrupt("namespace: key of a version".to_owned()))?;
    Ok(Some((order, decode_row(rows::STATE, &value)?)))
}

/// Whether a bucket has older versions or delete markers.
pub(super) fn has_any(tx: &Tx<'_>, bucket: BucketId) -> Result<bool, KvError> {
    let prefix = rows::versions(bucket).done();
    Ok(!tx.scan(rows::STATE, &prefix, prefix_end(&prefix).as_deref(), 1)?.is_empty())
}

/// Where a version stands.
enum Place {
    /// It is the current object.
    Tree(Object),
    /// It is a 'V' row of this order.
    Row(u64, VersionRow),
}

fn find(tx: &Tx<'_>, bucket: BucketId, key: &[u8], version: VersionId) -> Step<Option<Place>> {
    let current = tree::lookup(tx, bucket, key)?;
    let wanted = Some(version).filter(|version| *version != VersionId::NULL);
    if let Some(current) = current.filter(|object| object.version == wanted) {
        return Ok(Some(Place::Tree(current)));
    }
    let order = match wanted {
        Some(VersionId(order)) => Some(order),
        None => tx.load(rows::STATE, &rows::null_version(bucket, key))?,
    };
    let Some(order) = order else { return Ok(None) };
    let row: Option<VersionRow> = tx.load(rows::STATE, &rows::version(bucket, key, order))?;
    Ok(row.filter(|row| row.version() == wanted).map(|row| Place::Row(order, row)))
}

impl VersionRow {
    fn version(&self) -> Option<VersionId> {
        match self {
            VersionRow::Object(object) => object.version,
            VersionRow::Marker(marker) => marker.version,
        }
    }
}

fn marker_error(marker: &DeleteMarker) -> NamespaceError {
    let version = marker.version.unwrap_or(VersionId::NULL);
    NamespaceError::DeleteMarker(version, marker.modified_ms)
}

/// A version of an object, as its row has it. A bucket that is not there is told from a key that is
/// not, and a key that a marker hides from both.
pub(super) fn lookup(tx: &Tx<'_>, wanted: &VersionRef) -> Step<Object> {
    let VersionRef { bucket, key, version } = wanted;
    if let Some(version) = version {
        return match find(tx, *bucket, key, *version)? {
            Some(Place::Tree(object) | Place::Row(_, VersionRow::Object(object))) => Ok(object),
            Some(Place::Row(_, VersionRow::Marker(marker))) => Err(marker_error(&marker).into()),
            None => live(tx, *bucket).and(Err(NamespaceError::NoSuchVersion.into())),
        };
    }
    if let Some(object) = tree::lookup(tx, *bucket, key)? {
        return Ok(object);
    }
    // Only a miss pays for more looks.
    if live(tx, *bucket)?.rules.versioning != Versioning::Off
        && let Some((_, VersionRow::Marker(marker))) = newest(tx, *bucket, key)?
    {
        return Err(marker_error(&marker).into());
    }
    Err(NamespaceError::NoSuchKey.into())
}

/// A version of an object, as answers have it.
pub(super) fn answer(tx: &Tx<'_>, wanted: &VersionRef) -> Step<Object> {
    check_key(&wanted.key)?;
    let mut object = lookup(tx, wanted)?;
    if object.version.is_none() {
        object.version = shown(None, &live(tx, wanted.bucket)?.rules);
    }
    Ok(object)
}

/// A bucket in use.
pub(super) fn live(tx: &Tx<'_>, bucket: BucketId) -> Step<LiveBucket> {
    let row: Option<BucketRow> = tx.load(rows::STATE, &rows::bucket(bucket))?;
    row.and_then(BucketRow::live).ok_or_else(|| NamespaceError::NoSuchBucket.into())
}

impl Change<'_> {
    pub(super) fn set_rules(&mut self, bucket: BucketId, change: RulesChange) -> Step<NamespaceOk> {
        let row = self.bucket(bucket)?;
        let rules = match change {
            RulesChange::Versioning(versioning) => VersionRules { versioning, ..row.rules },
            RulesChange::Lock(lock) => VersionRules { lock: Some(lock), ..row.rules },
        };
        if let Some(LockRules { default: Some(default) }) = rules.lock {
            let days = match default.period {
                RetentionPeriod::Days(days) => days,
                RetentionPeriod::Years(years) => years.saturating_mul(365),
            };
            if !(1..=limits::RETENTION_DAYS_MAX).contains(&days) {
                return Err(Malformed::Retention.into());
            }
        }
        let is_allowed = rules.versioning != Versioning::Off
            && (rules.lock.is_none() || rules.versioning == Versioning::Enabled);
        if !is_allowed {
            return Err(NamespaceError::BucketState.into());
        }
        self.set_bucket(bucket, LiveBucket { rules, ..row });
        Ok(NamespaceOk::Done)
    }

    /// The version of what is written now.
    pub(super) fn new_version(&mut self, rules: &VersionRules) -> Step<Option<VersionId>> {
        match rules.versioning {
            Versioning::Enabled => Ok(Some(VersionId(self.next_id()?))),
            Versioning::Off | Versioning::Suspended => Ok(None),
        }
    }

    /// Makes room for a new version of a key: the current object becomes an older version, or is given
    /// back, to be freed by the caller. A null version that the new one replaces goes, too.
    pub(super) fn make_room(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        rules: &VersionRules,
        current: Option<Object>,
        now_ms: u64,
    ) -> Step<Option<Object>> {
        if rules.versioning == Versioning::Off {
            return Ok(current);
        }
        if rules.versioning == Versioning::Suspended
            && let Some(Place::Row(order, row)) = find(&self.tx, bucket, key, VersionId::NULL)?
        {
            self.drop_row(bucket, key, order, row, now_ms)?;
        }
        match current {
            Some(current) if rules.overwrites(&current) => Ok(Some(current)),
            Some(current) => {
                let order = match current.version {
                    Some(VersionId(order)) => order,
                    None => rows::id_of(current.sequence, 0)
                        .ok_or_else(|| corrupt("a commit sequence that is too great"))?,
                };
                self.put_row(bucket, key, order, &VersionRow::Object(current));
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn put_row(&mut self, bucket: BucketId, key: &[u8], order: u64, row: &VersionRow) {
        self.touch(bucket, key);
        if row.version().is_none() {
            self.tx.store(rows::STATE, rows::null_version(bucket, key), &order);
        }
        self.tx.store(rows::STATE, rows::version(bucket, key, order), row);
    }

    fn delete_row(&mut self, bucket: BucketId, key: &[u8], order: u64, row: &VersionRow) {
        self.touch(bucket, key);
        if row.version().is_none() {
            self.tx.delete(rows::STATE, rows::null_version(bucket, key));
        }
        self.tx.delete(rows::STATE, rows::version(bucket, key, order));
    }

    /// Removes a 'V' row for good. Locks were checked.
    fn drop_row(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        order: u64,
        row: VersionRow,
        now_ms: u64,
    ) -> Step<()> {
        self.delete_row(bucket, key, order, &row);
        if let VersionRow::Object(object) = row {
            self.count_object(bucket, None, Some(&object))?;
            self.unrefer(object.content, now_ms)?;
        }
        Ok(())
    }

    pub(super) fn delete_versions(
        &mut self,
        bucket: BucketId,
        deletes: Vec<DeleteVersion>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.bucket(bucket)?;
        if deletes.len() > limits::VERSION_DELETES_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let mut results = Vec::with_capacity(deletes.len());
        for delete in &deletes {
            results.push(self.delete_version(bucket, delete, now_ms)?);
        }
        Ok(NamespaceOk::VersionsDeleted(results))
    }

    /// One deletion; the outer error ends the whole command.
    pub(super) fn delete_version(
        &mut self,
        bucket: BucketId,
        delete: &DeleteVersion,
        now_ms: u64,
    ) -> Step<Result<VersionDeleted, NamespaceError>> {
        let DeleteVersion { key, version, precondition, bypass } = delete;
        if let Err(error) = check_key(key) {
            return Ok(Err(error));
        }
        let rules = self.bucket(bucket)?.rules;
        match version {
            Some(version) => {
                let found = find(&self.tx, bucket, key, *version)?;
                let object = match &found {
                    Some(Place::Tree(object) | Place::Row(_, VersionRow::Object(object))) => {
                        Some(object)
                    }
                    Some(Place::Row(_, VersionRow::Marker(_))) | None => None,
                };
                let lock = object.map(|object| object.meta.lock).unwrap_or_default();
                let is_marker = matches!(found, Some(Place::Row(_, VersionRow::Marker(_))));
                let of_marker = if is_marker { precondition.check_marker() } else { Ok(()) };
                let checked = of_marker
                    .and_then(|()| precondition.check(object))
                    .and_then(|()| check_unlocked(&lock, now_ms, *bypass));
                if let Err(error) = checked {
                    return Ok(Err(error));
                }
                let existed = found.is_some();
                match found {
                    Some(Place::Tree(object)) => {
                        self.remove_current(bucket, key, &rules, &object, now_ms)?;
                    }
                    Some(Place::Row(order, row)) => {
                        self.drop_row(bucket, key, order, row, now_ms)?;
                        self.promote(bucket, key)?;
                    }
                    None => {}
                }
                let removed = VersionDeleted { version: Some(*version), is_marker, existed };
                let is_kept = rules.versioning != Versioning::Off;
                let version = removed.version.filter(|_| is_kept);
                Ok(Ok(VersionDeleted { version, ..removed }))
            }
            None => {
                let current = tree::lookup(&self.tx, bucket, key)?;
                let goes = current.as_ref().filter(|object| rules.overwrites(object));
                let lock = goes.map(|object| object.meta.lock).unwrap_or_default();
                let mut of_marker = Ok(());
                if current.is_none() && matches!(precondition, Precondition::IfAny(_)) {
                    if !self.is_hidden(bucket, key, &rules)? {
                        // Who expects something finds nothing: nothing is to be done.
                        let nothing =
                            VersionDeleted { version: None, is_marker: false, existed: false };
                        return Ok(Ok(nothing));
                    }
                    of_marker = precondition.check_marker();
                }
                let checked = of_marker
                    .and_then(|()| precondition.check(current.as_ref()))
                    .and_then(|()| check_unlocked(&lock, now_ms, false));
                if let Err(error) = checked {
                    return Ok(Err(error));
                }
                let existed = current.is_some();
                if rules.versioning == Versioning::Off {
                    if let Some(current) = current {
                        self.remove_current(bucket, key, &rules, &current, now_ms)?;
                    }
                    return Ok(Ok(VersionDeleted { version: None, is_marker: false, existed }));
                }
                let version = self.mark_deleted(bucket, key, &rules, current, now_ms)?;
                Ok(Ok(VersionDeleted { version, is_marker: true, existed }))
            }
        }
    }

    /// Whether a delete marker stands where a key is looked for.
    fn is_hidden(&self, bucket: BucketId, key: &[u8], rules: &VersionRules) -> Step<bool> {
        Ok(rules.versioning != Versioning::Off
            && matches!(newest(&self.tx, bucket, key)?, Some((_, VersionRow::Marker(_)))))
    }

    /// Puts a delete marker above what there is.
    fn mark_deleted(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        rules: &VersionRules,
        current: Option<Object>,
        now_ms: u64,
    ) -> Step<Option<VersionId>> {
        let held = current.as_ref().map(|object| (object.content, object.size));
        let overwritten = self.make_room(bucket, key, rules, current, now_ms)?;
        if let Some((content, size)) = held {
            let is_gone = self.remove_dentry(bucket, key, now_ms)?;
            match overwritten {
                Some(object) if is_gone => {
                    self.count_object(bucket, None, Some(&object))?;
                    self.unrefer(object.content, now_ms)?;
                }
                None if !is_gone => {
                    // The older version has it, and a node with other names or holders as well.
                    self.count_object(bucket, Some(size), None)?;
                    self.refer(content)?;
                }
                _ => {}
            }
        }
        self.put_marker(bucket, key, rules, now_ms)
    }

    /// Puts a delete marker above the older versions of a key that has no current one.
    pub(super) fn put_marker(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        rules: &VersionRules,
        now_ms: u64,
    ) -> Step<Option<VersionId>> {
        let order = self.next_id()?;
        let version = match rules.versioning {
            Versioning::Enabled => Some(VersionId(order)),
            Versioning::Off | Versioning::Suspended => None,
        };
        let marker = DeleteMarker { sequence: self.sequence, version, modified_ms: now_ms };
        self.put_row(bucket, key, order, &VersionRow::Marker(marker));
        Ok(VersionId::shown(version))
    }

    /// Removes the current object for good; the version before it takes its place. Locks were checked.
    pub(super) fn remove_current(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        rules: &VersionRules,
        current: &Object,
        now_ms: u64,
    ) -> Step<()> {
        let before = match rules.versioning {
            Versioning::Off => None,
            Versioning::Enabled | Versioning::Suspended => newest(&self.tx, bucket, key)?,
        };
        match before {
            Some((order, VersionRow::Object(before))) => {
                self.delete_row(bucket, key, order, &VersionRow::Object(before.clone()));
                self.put_dentry(bucket, key, before, false)?;
            }
            Some((_, VersionRow::Marker(_))) | None => {
                if !self.remove_dentry(bucket, key, now_ms)? {
                    return Ok(());
                }
            }
        }
        self.count_object(bucket, None, Some(current))?;
        self.unrefer(current.content, now_ms)
    }

    /// Moves the newest version to the tree, if the tree holds nothing and it is an object.
    fn promote(&mut self, bucket: BucketId, key: &[u8]) -> Step<()> {
        if tree::lookup(&self.tx, bucket, key)?.is_none()
            && let Some((order, VersionRow::Object(object))) = newest(&self.tx, bucket, key)?
        {
            self.delete_row(bucket, key, order, &VersionRow::Object(object.clone()));
            self.put_dentry(bucket, key, object, true)?;
        }
        Ok(())
    }

    /// Changes tags, retention or hold of a version.
    pub(super) fn change_version(
        &mut self,
        wanted: &VersionRef,
        change: VersionChange,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        let VersionRef { bucket, key, version } = wanted;
        let rules = self.bucket(*bucket)?.rules;
        check_key(key)?;
        let mut object = lookup(&self.tx, wanted)?;
        match change {
            VersionChange::Tags(tags) => {
                check_tags(&tags)?;
                object.meta.tags = tags;
            }
            VersionChange::Retention { retention, bypass } => {
                if rules.lock.is_none() {
                    return Err(NamespaceError::NoLock.into());
                }
                check_change(object.meta.lock.retention, retention, now_ms, bypass)?;
                object.meta.lock.retention = retention;
            }
            VersionChange::LegalHold(_) if rules.lock.is_none() => {
                return Err(NamespaceError::NoLock.into());
            }
            VersionChange::LegalHold(held) => object.meta.lock.legal_hold = held,
            VersionChange::StorageClass(class, content) => {
                if object.content != content {
                    return Err(NamespaceError::SourceChanged.into());
                }
                object.meta.storage_class = class.clone();
                check_meta(&object.meta)?;
                self.note_end(End {
                    bucket: *bucket,
                    key: key.clone(),
                    version: shown(object.version, &rules),
                    kind: EndKind::Moved(class),
                    size: object.size,
                    etag: object.meta.etag.clone(),
                    at_ms: now_ms,
                })?;
            }
            VersionChange::Acl(acl) => {
                object.meta.acl = acl;
                check_meta(&object.meta)?;
            }
        }
        object.sequence = self.sequence;
        let changed = shown(object.version, &rules);
        let place = match version {
            Some(version) => find(&self.tx, *bucket, key, *version)?,
            None => None,
        };
        match place {
            Some(Place::Row(order, _)) => {
                self.put_row(*bucket, key, order, &VersionRow::Object(object));
                self.touch_older(*bucket, key, order);
            }
            Some(Place::Tree(_)) | None => self.put_dentry(*bucket, key, object, false)?,
        }
        Ok(NamespaceOk::VersionChanged(changed))
    }
}
