//! Between this crate's public types and the rows of the metadata.

use nexusgrid_env::UnixMillis;
use nexusgrid_meta::namespace::types as row;
use nexusgrid_meta::root::topology::Bucket;

use crate::api;
use crate::error::GridError;
use crate::limits;
use crate::version::{self, VersionName};

pub(crate) fn bucket_info(bucket: &Bucket) -> api::BucketInfo {
    api::BucketInfo {
        id: bucket.id.0,
        name: bucket.name.clone(),
        created: UnixMillis(bucket.created_ms),
        owner: bucket.owner.clone(),
    }
}

fn algorithm_row(algorithm: api::ChecksumAlgorithm) -> row::ChecksumAlgorithm {
    match algorithm {
        api::ChecksumAlgorithm::Crc32 => row::ChecksumAlgorithm::Crc32,
        api::ChecksumAlgorithm::Crc32c => row::ChecksumAlgorithm::Crc32c,
        api::ChecksumAlgorithm::Crc64Nvme => row::ChecksumAlgorithm::Crc64Nvme,
        api::ChecksumAlgorithm::Sha1 => row::ChecksumAlgorithm::Sha1,
        api::ChecksumAlgorithm::Sha256 => row::ChecksumAlgorithm::Sha256,
        api::ChecksumAlgorithm::Sha512 => row::ChecksumAlgorithm::Sha512,
        api::ChecksumAlgorithm::Md5 => row::ChecksumAlgorithm::Md5,
        api::ChecksumAlgorithm::XxHash64 => row::ChecksumAlgorithm::XxHash64,
        api::ChecksumAlgorithm::XxHash3 => row::ChecksumAlgorithm::XxHash3,
        api::ChecksumAlgorithm::XxHash128 => row::ChecksumAlgorithm::XxHash128,
    }
}

fn algorithm(algorithm: row::ChecksumAlgorithm) -> api::ChecksumAlgorithm {
    match algorithm {
        row::ChecksumAlgorithm::Crc32 => api::ChecksumAlgorithm::Crc32,
        row::ChecksumAlgorithm::Crc32c => api::ChecksumAlgorithm::Crc32c,
        row::ChecksumAlgorithm::Crc64Nvme => api::ChecksumAlgorithm::Crc64Nvme,
        row::ChecksumAlgorithm::Sha1 => api::ChecksumAlgorithm::Sha1,
        row::ChecksumAlgorithm::Sha256 => api::ChecksumAlgorithm::Sha256,
        row::ChecksumAlgorithm::Sha512 => api::ChecksumAlgorithm::Sha512,
        row::ChecksumAlgorithm::Md5 => api::ChecksumAlgorithm::Md5,
        row::ChecksumAlgorithm::XxHash64 => api::ChecksumAlgorithm::XxHash64,
        row::ChecksumAlgorithm::XxHash3 => api::ChecksumAlgorithm::XxHash3,
        row::ChecksumAlgorithm::XxHash128 => api::ChecksumAlgorithm::XxHash128,
    }
}

fn kind_row(kind: api::ChecksumKind) -> row::ChecksumKind {
    match kind {
        api::ChecksumKind::FullObject => row::ChecksumKind::FullObject,
        api::ChecksumKind::Composite => row::ChecksumKind::Composite,
    }
}

fn kind(kind: row::ChecksumKind) -> api::ChecksumKind {
    match kind {
        row::ChecksumKind::FullObject => api::ChecksumKind::FullObject,
        row::ChecksumKind::Composite => api::ChecksumKind::Composite,
    }
}

pub(crate) fn checksum_choice_row(
    choice: Option<(api::ChecksumAlgorithm, api::ChecksumKind)>,
) -> Option<(row::ChecksumAlgorithm, row::ChecksumKind)> {
    choice.map(|(algorithm, kind)| (algorithm_row(algorithm), kind_row(kind)))
}

pub(crate) fn checksum_rows(checksums: &api::Checksums) -> Vec<row::Checksum> {
    let convert =
        |(algorithm, checksum): (&api::ChecksumAlgorithm, &api::Checksum)| row::Checksum {
            algorithm: algorithm_row(*algorithm),
            kind: kind_row(checksum.kind),
            value: checksum.value.clone(),
        };
    checksums.iter().map(convert).collect()
}

pub(crate) fn checksums(rows: &[row::Checksum]) -> api::Checksums {
    let convert = |row: &row::Checksum| {
        let checksum = api::Checksum { kind: kind(row.kind), value: row.value.clone() };
        (algorithm(row.algorithm), checksum)
    };
    rows.iter().map(convert).collect()
}

/// The row of what a client says about an object; refuses too much of it.
pub(crate) fn meta_row(
    meta: &api::ObjectMeta,
    seal: &api::ObjectSeal,
) -> Result<row::ObjectMeta, GridError> {
    let user_bytes: usize = meta.user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if user_bytes > limits::USER_METADATA_BYTES_MAX {
        return Err(GridError::MetadataTooLarge { limit: limits::USER_METADATA_BYTES_MAX as u64 });
    }
    Ok(row::ObjectMeta {
        etag: seal.etag.clone(),
        headers: row::ContentHeaders {
            content_type: meta.content_type.clone(),
            cache_control: meta.cache_control.clone(),
            content_disposition: meta.content_disposition.clone(),
            content_encoding: meta.content_encoding.clone(),
            content_language: meta.content_language.clone(),
            expires: meta.expires.clone(),
            website_redirect: meta.website_redirect.clone(),
        },
        user_metadata: meta.user.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
        checksums: checksum_rows(&seal.checksums),
        storage_class: match meta.storage_class.as_deref() {
            None | Some("STANDARD") => row::StorageClass::Standard,
            Some("REDUCED_REDUNDANCY") => row::StorageClass::ReducedRedundancy,
            Some(other) => row::StorageClass::Named(other.to_owned()),
        },
        tags: meta.tags.clone(),
        lock: lock_row(meta.lock),
        owner: meta.owner.clone(),
        acl: meta.acl.clone(),
        cipher: meta.cipher.clone(),
    })
}

pub(crate) fn version_name(version: row::VersionId) -> VersionName {
    match version {
        row::VersionId::NULL => VersionName::Null,
        row::VersionId(id) => VersionName::Id(id),
    }
}

pub(crate) fn version_row(version: VersionName) -> row::VersionId {
    match version {
        VersionName::Null => row::VersionId::NULL,
        VersionName::Id(id) => row::VersionId(id),
    }
}

fn mode_row(mode: version::RetentionMode) -> row::RetentionMode {
    match mode {
        version::RetentionMode::Governance => row::RetentionMode::Governance,
        version::RetentionMode::Compliance => row::RetentionMode::Compliance,
    }
}

fn mode(mode: row::RetentionMode) -> version::RetentionMode {
    match mode {
        row::RetentionMode::Governance => version::RetentionMode::Governance,
        row::RetentionMode::Compliance => version::RetentionMode::Compliance,
    }
}

pub(crate) fn retention_row(retention: version::Retention) -> row::Retention {
    row::Retention { mode: mode_row(retention.mode), until_ms: retention.until.0 }
}

pub(crate) fn lock_row(lock: version::ObjectLock) -> row::ObjectLock {
    row::ObjectLock { retention: lock.retention.map(retention_row), legal_hold: lock.legal_hold }
}

fn lock(row: row::ObjectLock) -> version::ObjectLock {
    let retention = |row: row::Retention| version::Retention {
        mode: mode(row.mode),
        until: UnixMillis(row.until_ms),
    };
    version::ObjectLock { retention: row.retention.map(retention), legal_hold: row.legal_hold }
}

fn period_row(period: version::RetentionPeriod) -> row::RetentionPeriod {
    match period {
        version::RetentionPeriod::Days(days) => row::RetentionPeriod::Days(days),
        version::RetentionPeriod::Years(years) => row::RetentionPeriod::Years(years),
    }
}

fn period(period: row::RetentionPeriod) -> version::RetentionPeriod {
    match period {
        row::RetentionPeriod::Days(days) => version::RetentionPeriod::Days(days),
        row::RetentionPeriod::Years(years) => version::RetentionPeriod::Years(years),
    }
}

pub(crate) fn rules_change_row(change: version::RulesChange) -> row::RulesChange {
    match change {
        version::RulesChange::Versioning(versioning) => {
            row::RulesChange::Versioning(match versioning {
                version::Versioning::Off => row::Versioning::Off,
                version::Versioning::Enabled => row::Versioning::Enabled,
                version::Versioning::Suspended => row::Versioning::Suspended,
            })
        }
        version::RulesChange::Lock(rules) => row::RulesChange::Lock(row::LockRules {
            default: rules.default.map(|default| row::DefaultRetention {
                mode: mode_row(default.mode),
                period: period_row(default.period),
            }),
        }),
    }
}

pub(crate) fn rules(rules: row::VersionRules) -> version::VersionRules {
    let versioning = match rules.versioning {
        row::Versioning::Off => version::Versioning::Off,
        row::Versioning::Enabled => version::Versioning::Enabled,
        row::Versioning::Suspended => version::Versioning::Suspended,
    };
    let default = |default: row::DefaultRetention| version::DefaultRetention {
        mode: mode(default.mode),
        period: period(default.period),
    };
    let lock = rules.lock.map(|lock| version::LockRules { default: lock.default.map(default) });
    version::VersionRules { versioning, lock }
}

fn storage_class(class: &row::StorageClass) -> Option<String> {
    match class {
        row::StorageClass::Standard => None,
        row::StorageClass::ReducedRedundancy => Some("REDUCED_REDUNDANCY".to_owned()),
        row::StorageClass::Named(name) => Some(name.clone()),
    }
}

pub(crate) fn meta(row: &row::ObjectMeta) -> api::ObjectMeta {
    api::ObjectMeta {
        user: row.user_metadata.iter().cloned().collect(),
        content_type: row.headers.content_type.clone(),
        cache_control: row.headers.cache_control.clone(),
        content_disposition: row.headers.content_disposition.clone(),
        content_encoding: row.headers.content_encoding.clone(),
        content_language: row.headers.content_language.clone(),
        expires: row.headers.expires.clone(),
        storage_class: storage_class(&row.storage_class),
        website_redirect: row.headers.website_redirect.clone(),
        tags: row.tags.clone(),
        lock: lock(row.lock),
        owner: row.owner.clone(),
        acl: row.acl.clone(),
        cipher: row.cipher.clone(),
    }
}

pub(crate) fn object_info(
    key: &str,
    object: &row::Object,
    part_sizes: Vec<u64>,
) -> api::ObjectInfo {
    api::ObjectInfo {
        key: key.to_owned(),
        size: object.size,
        etag: object.meta.etag.clone(),
        checksums: checksums(&object.meta.checksums),
        last_modified: UnixMillis(object.modified_ms),
        version: api::VersionTag(object.sequence),
        version_name: object.version.map(version_name),
        meta: meta(&object.meta),
        part_sizes,
    }
}

pub(crate) fn version_summary(key: Vec<u8>, object: row::Object) -> api::ObjectSummary {
    let row::Object { size, modified_ms, meta, .. } = object;
    let algorithms = meta.checksums.iter().map(|checksum| algorithm(checksum.algorithm));
    api::ObjectSummary {
        key: String::from_utf8(key).unwrap_or_else(|error| text(error.as_bytes())),
        size,
        last_modified: UnixMillis(modified_ms),
        storage_class: storage_class(&meta.storage_class),
        checksum_algorithms: algorithms.collect(),
        etag: meta.etag,
        owner: meta.owner,
    }
}

pub(crate) fn object_summary(key: &[u8], line: &row::ObjectLine<'_>) -> api::ObjectSummary {
    api::ObjectSummary {
        key: text(key),
        size: line.size,
        etag: line.etag.to_owned(),
        last_modified: UnixMillis(line.modified_ms),
        storage_class: match line.class {
            row::ClassLine::Standard => None,
            row::ClassLine::ReducedRedundancy => {
                storage_class(&row::StorageClass::ReducedRedundancy)
            }
            row::ClassLine::Named(name) => Some(name.to_owned()),
        },
        owner: line.owner.map(str::to_owned),
        checksum_algorithms: line.checksums().map(algorithm).collect(),
    }
}

pub(crate) fn put_outcome(done: &row::PutDone, checksums: api::Checksums) -> api::PutOutcome {
    api::PutOutcome {
        etag: done.etag.clone(),
        checksums,
        size: done.size,
        version: api::VersionTag(done.sequence),
        version_name: done.version.map(version_name),
        last_modified: UnixMillis(done.modified_ms),
    }
}

pub(crate) fn outcome_of(object: &row::Object) -> api::PutOutcome {
    api::PutOutcome {
        etag: object.meta.etag.clone(),
        checksums: checksums(&object.meta.checksums),
        size: object.size,
        version: api::VersionTag(object.sequence),
        version_name: object.version.map(version_name),
        last_modified: UnixMillis(object.modified_ms),
    }
}

pub(crate) fn part_info(part: &row::PartInfo) -> api::PartInfo {
    api::PartInfo {
        number: u32::from(part.number),
        etag: part.etag.clone(),
        size: part.size,
        checksums: checksums(&part.checksums),
        last_modified: UnixMillis(part.modified_ms),
    }
}

pub(crate) fn upload_info(
    key: &str,
    id: row::UploadId,
    upload: &row::UploadInfo,
) -> api::UploadInfo {
    api::UploadInfo {
        key: key.to_owned(),
        upload: api::UploadId(id.to_string()),
        initiated: UnixMillis(upload.created_ms),
        owner: upload.owner.clone(),
        meta: meta(&upload.meta),
        checksum: upload.checksum.map(|(a, k)| (algorithm(a), kind(k))),
    }
}

/// Keys enter as UTF-8, so they leave as such.
pub(crate) fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The folded prefix of a listing that `after` is, or lies in. None of its keys is left to list, even
/// those behind `after`: S3 leaves out a prefix that is not greater than where the listing starts.
pub(crate) fn folded_at<'after>(
    after: &'after str,
    prefix: &str,
    delimiter: Option<&str>,
) -> Option<&'after str> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let at = after.strip_prefix(prefix)?.find(delimiter)?;
    after.get(..prefix.len() + at + delimiter.len())
}

/// Whether an object satisfies conditions.
pub(crate) fn satisfies(conditions: &api::Precondition, etag: Option<&str>) -> bool {
    let matches = |wanted: &api::EtagMatch| match (wanted, etag) {
        (_, None) => false,
        (api::EtagMatch::Any, Some(_)) => true,
        (api::EtagMatch::OneOf(tags), Some(etag)) => tags.iter().any(|tag| tag == etag),
    };
    conditions.if_match.as_ref().is_none_or(matches)
        && !conditions.if_none_match.as_ref().is_some_and(matches)
}

/// The condition to check in the commit, given that `etag` satisfied all of them a moment ago.
pub(crate) fn condition_row(
    conditions: &api::Precondition,
    etag: Option<&str>,
) -> row::Precondition {
    match (&conditions.if_match, &conditions.if_none_match, etag) {
        (None, None, _) => row::Precondition::None,
        (Some(api::EtagMatch::Any), None, _) => row::Precondition::Present,
        (None, Some(api::EtagMatch::Any), _) => row::Precondition::Absent,
        (None, Some(api::EtagMatch::OneOf(tags)), _) if tags.len() == 1 => {
            row::Precondition::EtagIsNot(tags.concat())
        }
        // What was seen satisfies; so does the same thing again.
        (_, _, Some(etag)) => row::Precondition::EtagIs(etag.to_owned()),
        (_, _, None) => row::Precondition::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{EtagMatch, Precondition};

    #[test]
    fn folded_prefixes_are_told_from_keys() {
        assert_eq!(folded_at("a/", "", Some("/")), Some("a/"));
        assert_eq!(folded_at("p/a/", "p/", Some("/")), Some("p/a/"));
        assert_eq!(folded_at("p/a", "p/", Some("/")), None);
        assert_eq!(folded_at("p/", "p/", Some("/")), None);
        assert_eq!(folded_at("a/b/", "", Some("/")), Some("a/"));
        assert_eq!(folded_at("a/b", "", Some("/")), Some("a/"));
        assert_eq!(folded_at("a/", "", None), None);
        assert_eq!(folded_at("xabc", "x", Some("ab")), Some("xab"));
        assert_eq!(folded_at("zab", "x", Some("ab")), None);
    }

    #[test]
    fn conditions() {
        let one = |tag: &str| Some(EtagMatch::OneOf(vec![tag.to_owned()]));
        let case = |if_match, if_none_match, etag: Option<&str>, holds: bool, row| {
            let conditions = Precondition { if_match, if_none_match };
            assert_eq!(satisfies(&conditions, etag), holds, "{conditions:?} {etag:?}");
            if holds {
                assert_eq!(condition_row(&conditions, etag), row);
            }
        };
        use row::Precondition as Row;
        case(None, None, None, true, Row::None);
        case(None, Some(EtagMatch::Any), None, true, Row::Absent);
        case(None, Some(EtagMatch::Any), Some("a"), false, Row::None);
        case(Some(EtagMatch::Any), None, Some("a"), true, Row::Present);
        case(Some(EtagMatch::Any), None, None, false, Row::None);
        case(one("a"), None, Some("a"), true, Row::EtagIs("a".to_owned()));
        case(one("a"), None, Some("b"), false, Row::None);
        case(None, one("a"), Some("b"), true, Row::EtagIsNot("a".to_owned()));
        case(None, one("a"), Some("a"), false, Row::None);
        case(one("a"), one("b"), Some("a"), true, Row::EtagIs("a".to_owned()));
    }
}
