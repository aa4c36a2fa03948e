//! Which S3 operations there are here: a table, not code.
//!
//! Each row says what the operation asks of [`nexusgrid_iam::authorize`], what it is done to, and
//! which of S3's many `x-amz-*` headers it understands. An operation without a row, or a header
//! of S3's that its row does not name, is answered `NotImplemented`: to ignore a request for a lock, a
//! customer's key or an access rule would be to lie about it. Headers of nobody's are passed over,
//! as S3 does.

use http::{HeaderMap, Uri};
use nexusgrid_iam::{AclOf, Action, Resource, Scope};
use s3s::S3Error;
use s3s::path::S3Path;

use crate::error::{invalid_argument, not_implemented, refuse};

/// A row of the table.
#[derive(Debug)]
pub struct Operation {
    /// S3's name.
    pub name: &'static str,
    /// What it needs to be allowed. Where that is about objects and the operation names several,
    /// its handler asks for each.
    pub action: Action,
    /// What it needs instead if the query names a version.
    pub versioned: Option<Action>,
    /// What it is done to.
    pub scope: Scope,
    /// Groups of headers it understands, beyond those of every request.
    headers: &'static [&'static [&'static str]],
    /// Whether `x-amz-meta-*` belongs to it.
    metadata: bool,
    /// The subresources that its query may name.
    subresources: &'static [&'static str],
}

/// Everything that S3 lets a query name as a thing of its own. s3s routes by those it knows for the
/// method, and overlooks the others: `DELETE /bucket?acl` must not delete the bucket.
pub(crate) const SUBRESOURCES: &[&str] = &[
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "annotation",
    "append",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "events",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metadataAnnotationTable",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "session",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// Headers of any request.
const COMMON: &[&str] = &[
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "x-amz-user-agent",
    "x-amz-expected-bucket-owner",
    "x-amz-request-payer",
    "x-amz-decoded-content-length",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-trailer",
];
/// With what headers begin that S3 means something by, or may come to mean: one is refused unless
/// its operation understands it.
const OF_S3: &[&str] = &[
    "abac",
    "access-",
    "acl",
    "archive",
    "bucket",
    "bypass",
    "checksum",
    "client-",
    "confirm",
    "content-",
    "copy-",
    "create-",
    "decoded-",
    "delete",
    "encryption",
    "expected-",
    "expiration",
    "fwd-",
    "grant-",
    "if-",
    "legal-",
    "lifecycle",
    "lock",
    "max-",
    "meta-",
    "metadata",
    "mfa",
    "mp-",
    "object",
    "optional-",
    "part",
    "rename-",
    "replication",
    "request-",
    "restore",
    "retention",
    "retain",
    "sdk-",
    "security-",
    "server-",
    "skip-",
    "source-",
    "sse",
    "storage",
    "tag",
    "trailer",
    "transition",
    "version",
    "website",
    "write-",
];
/// Checksums of a body.
const CHECKSUMS: &[&str] = &[
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-checksum-sha512",
    "x-amz-checksum-md5",
    "x-amz-checksum-xxhash64",
    "x-amz-checksum-xxhash3",
    "x-amz-checksum-xxhash128",
    "x-amz-checksum-algorithm",
];
const CHECKSUM_TYPE: &[&str] = &["x-amz-checksum-type"];
const CHECKSUM_MODE: &[&str] = &["x-amz-checksum-mode"];
/// Properties of a new object; only some of their values are accepted.
const STORE: &[&str] = &[
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-website-redirect-location",
];
/// Under which key of the grid a new object is sealed.
const SEALED: &[&str] = &[
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-context",
    "x-amz-server-side-encryption-bucket-key-enabled",
];
/// The same said again of what an upload was begun with, which holds.
const SEALED_AGAIN: &[&str] =
    &["x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"];
/// A key that only the client has.
const CUSTOMER_KEY: &[&str] = &[
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
];
/// The one of a copy's source.
const SOURCE_KEY: &[&str] = &[
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
];
const COPY: &[&str] = &[
    "x-amz-copy-source",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-unmodified-since",
    "x-amz-source-expected-bucket-owner",
];
const COPY_DIRECTIVES: &[&str] = &["x-amz-metadata-directive", "x-amz-tagging-directive"];
const COPY_RANGE: &[&str] = &["x-amz-copy-source-range"];
const BUCKET: &[&str] = &["x-amz-bucket-object-lock-enabled", "x-amz-object-ownership"];
/// Who may use what is made.
const ACL: &[&str] = &[
    "x-amz-acl",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
];
const LAID_DOWN: &[&str] = &["x-amz-confirm-remove-self-bucket-access"];
const RENAME: &[&str] = &[
    "x-amz-client-token",
    "x-amz-rename-source",
    "x-amz-rename-source-if-match",
    "x-amz-rename-source-if-none-match",
    "x-amz-rename-source-if-modified-since",
    "x-amz-rename-source-if-unmodified-since",
];
/// What a deleter expects to delete.
const IF_DELETED: &[&str] = &["x-amz-if-match-last-modified-time", "x-amz-if-match-size"];
const LIFECYCLE: &[&str] = &["x-amz-transition-default-minimum-object-size"];
/// Asks for a right that is checked by itself.
const BYPASS: &[&str] = &["x-amz-bypass-governance-retention"];
const COMPLETE: &[&str] = &["x-amz-mp-object-size"];
const ATTRIBUTES: &[&str] =
    &["x-amz-object-attributes", "x-amz-max-parts", "x-amz-part-number-marker"];

const TAGGING: &[&str] = &["tagging", "versionId"];
const READING: &[&str] = &["partNumber", "versionId"];

const fn row(
    name: &'static str,
    action: Action,
    scope: Scope,
    headers: &'static [&'static [&'static str]],
) -> Operation {
    Operation { name, action, versioned: None, scope, headers, metadata: false, subresources: &[] }
}

const fn storing(mut operation: Operation) -> Operation {
    operation.metadata = true;
    operation
}

const fn naming(mut operation: Operation, subresources: &'static [&'static str]) -> Operation {
    operation.subresources = subresources;
    operation
}

/// Where the query names a version, another right is needed.
const fn versioned(mut operation: Operation, action: Action) -> Operation {
    operation.versioned = Some(action);
    operation
}

/// What an owner lays down for a bucket.
const fn laid_down(
    name: &'static str,
    action: Action,
    subresources: &'static [&'static str],
) -> Operation {
    naming(row(name, action, Scope::Bucket, &[CHECKSUMS, LAID_DOWN]), subresources)
}

/// Every operation that is supported.
pub static OPERATIONS: &[Operation] = &[
    row("ListBuckets", Action::ListBuckets, Scope::Cluster, &[]),
    row("CreateBucket", Action::CreateBucket, Scope::Bucket, &[BUCKET, ACL]),
    row("HeadBucket", Action::ListObjects, Scope::Bucket, &[]),
    naming(row("GetBucketLocation", Action::GetBucketLocation, Scope::Bucket, &[]), &["location"]),
    laid_down("GetBucketVersioning", Action::GetBucketVersioning, &["versioning"]),
    laid_down("PutBucketVersioning", Action::PutBucketVersioning, &["versioning"]),
    laid_down("GetObjectLockConfiguration", Action::GetBucketObjectLock, &["object-lock"]),
    laid_down("PutObjectLockConfiguration", Action::PutBucketObjectLock, &["object-lock"]),
    naming(row("ListObjectVersions", Action::ListVersions, Scope::Bucket, &[]), &["versions"]),
    versioned(
        naming(row("GetObjectTagging", Action::GetObjectTagging, Scope::Object, &[]), TAGGING),
        Action::GetObjectVersionTagging,
    ),
    versioned(
        naming(
            row("PutObjectTagging", Action::PutObjectTagging, Scope::Object, &[CHECKSUMS]),
            TAGGING,
        ),
        Action::PutObjectVersionTagging,
    ),
    versioned(
        naming(
            row("DeleteObjectTagging", Action::DeleteObjectTagging, Scope::Object, &[]),
            TAGGING,
        ),
        Action::DeleteObjectVersionTagging,
    ),
    naming(
        row("GetObjectRetention", Action::GetObjectRetention, Scope::Object, &[]),
        &["retention", "versionId"],
    ),
    naming(
        row("PutObjectRetention", Action::PutObjectRetention, Scope::Object, &[CHECKSUMS, BYPASS]),
        &["retention", "versionId"],
    ),
    naming(
        row("GetObjectLegalHold", Action::GetObjectLegalHold, Scope::Object, &[]),
        &["legal-hold", "versionId"],
    ),
    naming(
        row("PutObjectLegalHold", Action::PutObjectLegalHold, Scope::Object, &[CHECKSUMS]),
        &["legal-hold", "versionId"],
    ),
    row("DeleteBucket", Action::DeleteBucket, Scope::Bucket, &[]),
    row("ListObjects", Action::ListObjects, Scope::Bucket, &[]),
    row("ListObjectsV2", Action::ListObjects, Scope::Bucket, &[]),
    naming(row("ListMultipartUploads", Action::ListUploads, Scope::Bucket, &[]), &["uploads"]),
    naming(
        row("DeleteObjects", Action::DeleteObject, Scope::Bucket, &[CHECKSUMS, BYPASS]),
        &["delete"],
    ),
    versioned(
        naming(
            row("GetObject", Action::GetObject, Scope::Object, &[CHECKSUM_MODE, CUSTOMER_KEY]),
            READING,
        ),
        Action::GetObjectVersion,
    ),
    naming(row("GetObjectTorrent", Action::GetObject, Scope::Object, &[]), &["torrent"]),
    versioned(
        naming(
            row("HeadObject", Action::GetObject, Scope::Object, &[CHECKSUM_MODE, CUSTOMER_KEY]),
            READING,
        ),
        Action::GetObjectVersion,
    ),
    versioned(
        naming(
            row(
                "GetObjectAttributes",
                Action::GetObjectAttributes,
                Scope::Object,
                &[ATTRIBUTES, CUSTOMER_KEY],
            ),
            &["attributes", "versionId"],
        ),
        Action::GetObjectVersionAttributes,
    ),
    storing(row(
        "PutObject",
        Action::PutObject,
        Scope::Object,
        &[CHECKSUMS, STORE, ACL, SEALED, CUSTOMER_KEY, &["x-amz-write-offset-bytes"]],
    )),
    storing(row(
        "CopyObject",
        Action::PutObject,
        Scope::Object,
        &[
            COPY,
            COPY_DIRECTIVES,
            STORE,
            ACL,
            SEALED,
            CUSTOMER_KEY,
            SOURCE_KEY,
            &["x-amz-checksum-algorithm"],
        ],
    )),
    naming(row("RenameObject", Action::PutObject, Scope::Object, &[RENAME]), &["renameObject"]),
    versioned(
        naming(
            row("DeleteObject", Action::DeleteObject, Scope::Object, &[BYPASS, IF_DELETED]),
            &["versionId"],
        ),
        Action::DeleteObjectVersion,
    ),
    naming(
        storing(row(
            "CreateMultipartUpload",
            Action::PutObject,
            Scope::Object,
            &[STORE, ACL, SEALED, CUSTOMER_KEY, CHECKSUM_TYPE, &["x-amz-checksum-algorithm"]],
        )),
        &["uploads"],
    ),
    naming(
        row(
            "UploadPart",
            Action::PutObject,
            Scope::Object,
            &[CHECKSUMS, SEALED_AGAIN, CUSTOMER_KEY],
        ),
        &["partNumber", "uploadId"],
    ),
    naming(
        row(
            "UploadPartCopy",
            Action::PutObject,
            Scope::Object,
            &[COPY, COPY_RANGE, SEALED_AGAIN, CUSTOMER_KEY, SOURCE_KEY],
        ),
        &["partNumber", "uploadId"],
    ),
    naming(
        row(
            "CompleteMultipartUpload",
            Action::PutObject,
            Scope::Object,
            &[CHECKSUMS, CHECKSUM_TYPE, COMPLETE, SEALED_AGAIN, CUSTOMER_KEY],
        ),
        &["uploadId"],
    ),
    naming(row("AbortMultipartUpload", Action::AbortUpload, Scope::Object, &[]), &["uploadId"]),
    naming(row("ListParts", Action::ListParts, Scope::Object, &[]), &["uploadId"]),
    versioned(
        naming(
            row("GetObjectAcl", Action::GetObjectAcl, Scope::Object, &[]),
            &["acl", "versionId"],
        ),
        Action::GetObjectVersionAcl,
    ),
    versioned(
        naming(
            row("PutObjectAcl", Action::PutObjectAcl, Scope::Object, &[CHECKSUMS, ACL]),
            &["acl", "versionId"],
        ),
        Action::PutObjectVersionAcl,
    ),
    laid_down("GetBucketAcl", Action::GetBucketAcl, &["acl"]),
    naming(row("PutBucketAcl", Action::PutBucketAcl, Scope::Bucket, &[CHECKSUMS, ACL]), &["acl"]),
    laid_down("PutBucketPolicy", Action::PutBucketPolicy, &["policy"]),
    laid_down("GetBucketPolicy", Action::GetBucketPolicy, &["policy"]),
    laid_down("DeleteBucketPolicy", Action::DeleteBucketPolicy, &["policy"]),
    laid_down("GetBucketPolicyStatus", Action::GetBucketPolicyStatus, &["policyStatus"]),
    laid_down("PutPublicAccessBlock", Action::PutPublicAccessBlock, &["publicAccessBlock"]),
    laid_down("GetPublicAccessBlock", Action::GetPublicAccessBlock, &["publicAccessBlock"]),
    laid_down("DeletePublicAccessBlock", Action::PutPublicAccessBlock, &["publicAccessBlock"]),
    laid_down("PutBucketOwnershipControls", Action::PutOwnershipControls, &["ownershipControls"]),
    laid_down("GetBucketOwnershipControls", Action::GetOwnershipControls, &["ownershipControls"]),
    laid_down(
        "DeleteBucketOwnershipControls",
        Action::PutOwnershipControls,
        &["ownershipControls"],
    ),
    laid_down("PutBucketTagging", Action::PutBucketTagging, &["tagging"]),
    laid_down("GetBucketTagging", Action::GetBucketTagging, &["tagging"]),
    laid_down("DeleteBucketTagging", Action::PutBucketTagging, &["tagging"]),
    laid_down("PutBucketCors", Action::PutBucketCors, &["cors"]),
    laid_down("GetBucketCors", Action::GetBucketCors, &["cors"]),
    laid_down("DeleteBucketCors", Action::PutBucketCors, &["cors"]),
    laid_down("PutBucketEncryption", Action::PutBucketEncryption, &["encryption"]),
    laid_down("GetBucketEncryption", Action::GetBucketEncryption, &["encryption"]),
    laid_down("DeleteBucketEncryption", Action::PutBucketEncryption, &["encryption"]),
    laid_down("GetBucketLogging", Action::GetBucketLogging, &["logging"]),
    laid_down("PutBucketLogging", Action::PutBucketLogging, &["logging"]),
    laid_down(
        "GetBucketNotificationConfiguration",
        Action::GetBucketNotification,
        &["notification"],
    ),
    laid_down(
        "PutBucketNotificationConfiguration",
        Action::PutBucketNotification,
        &["notification"],
    ),
    laid_down("GetBucketLifecycleConfiguration", Action::GetLifecycle, &["lifecycle"]),
    laid_down("DeleteBucketLifecycle", Action::PutLifecycle, &["lifecycle"]),
    naming(
        row(
            "PutBucketLifecycleConfiguration",
            Action::PutLifecycle,
            Scope::Bucket,
            &[CHECKSUMS, LIFECYCLE],
        ),
        &["lifecycle"],
    ),
    laid_down("GetBucketWebsite", Action::GetBucketWebsite, &["website"]),
    laid_down("PutBucketWebsite", Action::PutBucketWebsite, &["website"]),
    laid_down("DeleteBucketWebsite", Action::DeleteBucketWebsite, &["website"]),
    laid_down("GetBucketRequestPayment", Action::GetRequestPayment, &["requestPayment"]),
    laid_down("PutBucketRequestPayment", Action::PutRequestPayment, &["requestPayment"]),
];

/// The row of that name.
pub fn by_name(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

impl Operation {
    /// Whether it names several objects, each of which its handler asks for.
    pub fn asks_for_each(&self) -> bool {
        self.scope == Scope::Bucket && self.action.scope() == Scope::Object
    }

    /// Whether the object that it names has a say, by its owner, its list or its tags: then its
    /// handler decides when it has read the object.
    pub fn asks_of_object(&self) -> bool {
        let by_tags = matches!(
            self.action,
            Action::GetObjectTagging | Action::PutObjectTagging | Action::DeleteObjectTagging
        );
        by_tags || matches!(self.action.acl(), AclOf::Object(_))
    }

    /// Whether it reads a page of keys.
    pub fn is_listing(&self) -> bool {
        matches!(
            self.name,
            "ListObjects" | "ListObjectsV2" | "ListObjectVersions" | "ListMultipartUploads"
        )
    }

    /// What the request's path names, if it is of this operation's kind.
    pub fn resource<'a>(&self, path: &'a S3Path) -> Option<Resource<'a>> {
        match (self.scope, path) {
            (Scope::Cluster, S3Path::Root) => Some(Resource::Cluster),
            (Scope::Bucket, S3Path::Bucket { bucket }) => Some(Resource::Bucket(bucket)),
            (Scope::Object, S3Path::Object { bucket, key }) => {
                Some(Resource::Object { bucket, key })
            }
            _ => None,
        }
    }

    /// Refuses what the request asks for beyond what this grid does.
    pub fn check_features(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), S3Error> {
        for (name, value) in headers {
            let value = value.to_str().unwrap_or("");
            self.check_header(name.as_str(), value)?;
        }
        for pair in uri.query().unwrap_or("").split('&') {
            let name = pair.split('=').next().unwrap_or(pair);
            if SUBRESOURCES.contains(&name) && !self.subresources.contains(&name) {
                return Err(not_implemented(format_args!("?{name} on {}", self.name)));
            }
        }
        Ok(())
    }

    fn check_header(&self, name: &str, value: &str) -> Result<(), S3Error> {
        match name {
            // Without it a client may glue parts of two versions together.
            "if-range" => return Err(not_implemented("the header If-Range")),
            "if-modified-since" | "if-unmodified-since" if self.action != Action::GetObject => {
                return Err(not_implemented(format_args!("the header {name} on {}", self.name)));
            }
            _ => {}
        }
        let Some(own) = name.strip_prefix("x-amz-") else { return Ok(()) };
        if COMMON.contains(&name) {
            return Ok(());
        }
        if self.metadata && name.starts_with("x-amz-meta-") {
            return Ok(());
        }
        if !self.headers.iter().any(|group| group.contains(&name)) {
            if !OF_S3.iter().any(|start| own.starts_with(start)) {
                return Ok(());
            }
            // S3 refuses these where nothing is written: what was written says how it is sealed.
            if SEALED.contains(&name) {
                let message = format!("{name} header is not supported for this operation.");
                return Err(invalid_argument(message));
            }
            return Err(not_implemented(format_args!("the header {name} on {}", self.name)));
        }
        check_value(name, value)
    }
}

/// Headers of which only some values can be honoured.
fn check_value(name: &str, value: &str) -> Result<(), S3Error> {
    let unsupported = || Err(not_implemented(format_args!("{name}: {value}")));
    match name {
        "x-amz-server-side-encryption" => match value {
            "AES256" | "aws:kms" => Ok(()),
            "aws:kms:dsse" | "aws:fsx" => unsupported(),
            _ => Err(invalid_argument(format!("{name}: {value}"))),
        },
        "x-amz-server-side-encryption-bucket-key-enabled" => {
            match value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
                true => Ok(()),
                false => Err(invalid_argument(format!("{name}: {value}"))),
            }
        }
        "x-amz-storage-class" => match nexusgrid_grid::storage_class::parse(value) {
            Some(_) => Ok(()),
            None => Err(S3Error::new(s3s::S3ErrorCode::InvalidStorageClass)),
        },
        "x-amz-metadata-directive" | "x-amz-tagging-directive" => match value {
            "COPY" | "REPLACE" => Ok(()),
            _ => Err(invalid_argument(format!("{name}: {value}"))),
        },
        "x-amz-checksum-mode" => match value {
            "ENABLED" => Ok(()),
            _ => Err(invalid_argument(format!("{name}: {value}"))),
        },
        "x-amz-checksum-type" => match value {
            "COMPOSITE" | "FULL_OBJECT" => Ok(()),
            _ => Err(invalid_argument(format!("{name}: {value}"))),
        },
        "x-amz-checksum-algorithm" => match crate::checksum::by_name(value) {
            Some(_) => Ok(()),
            None => Err(refuse(
                nexusgrid_grid::RejectKind::InvalidRequest,
                format!("{name}: {value} is no algorithm of this grid"),
            )),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn ask(operation: &str, name: &'static str, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        by_name(operation)
            .unwrap()
            .check_features(&headers, &Uri::from_static("/b/k"))
            .err()
            .map(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn every_row_applies_to_its_scope_and_is_there_once() {
        for operation in OPERATIONS {
            let path = match operation.scope {
                Scope::Cluster => S3Path::root(),
                Scope::Bucket => S3Path::bucket("bucket"),
                Scope::Object => S3Path::object("bucket", "key"),
            };
            operation.resource(&path).expect("of its own kind");
            assert!(operation.asks_for_each() || operation.action.scope() == operation.scope);
            let same = OPERATIONS.iter().filter(|other| other.name == operation.name);
            assert_eq!(same.count(), 1);
        }
        assert!(by_name("GetObject").unwrap().resource(&S3Path::bucket("bucket")).is_none());
    }

    #[test]
    fn what_is_not_supported_is_said() {
        let sse_c = "x-amz-server-side-encryption-customer-algorithm";
        for (operation, header, value) in [
            ("PutObject", "x-amz-server-side-encryption", "aws:kms:dsse"),
            ("DeleteObject", sse_c, "AES256"),
            ("UploadPart", "x-amz-object-lock-mode", "GOVERNANCE"),
            ("UploadPart", "x-amz-website-redirect-location", "/x"),
            ("CopyObject", "x-amz-write-offset-bytes", "1"),
            ("PutObject", "x-amz-checksum-rot13", "x"),
            ("PutObject", "if-modified-since", "Wed, 21 Oct 2015 07:28:00 GMT"),
            ("GetObject", "if-range", "\"x\""),
            ("PutObject", "x-amz-bypass-governance-retention", "true"),
            ("DeleteObject", "x-amz-mfa", "x"),
            ("ListObjectsV2", "x-amz-optional-object-attributes", "RestoreStatus"),
            ("PutObject", "x-amz-object-invented-tomorrow", "x"),
            ("PutObject", "x-amz-server-side-encryption-invented-tomorrow", "x"),
            ("GetObject", "x-amz-meta-a", "x"),
        ] {
            assert_eq!(
                ask(operation, header, value).as_deref(),
                Some("NotImplemented"),
                "{header}"
            );
        }
    }

    #[test]
    fn what_is_true_anyway_is_accepted() {
        for (operation, header, value) in [
            ("PutObject", "x-amz-acl", "public-read"),
            ("PutObject", "x-amz-grant-read", "id=1"),
            ("CreateBucket", "x-amz-acl", "private"),
            ("PutObject", "x-amz-server-side-encryption", "AES256"),
            ("PutObject", "x-amz-storage-class", "STANDARD"),
            ("PutObject", "x-amz-storage-class", "REPLICATED"),
            ("PutObject", "x-amz-meta-anything", "x"),
            ("CreateBucket", "x-amz-bucket-object-lock-enabled", "false"),
            ("GetObject", "if-modified-since", "Wed, 21 Oct 2015 07:28:00 GMT"),
            ("GetObject", "user-agent", "x"),
            ("GetObject", "x-amz-cf-id", "what a proxy adds"),
            ("PutObject", "x-amz-foo", "bar"),
        ] {
            assert_eq!(ask(operation, header, value), None, "{header}");
        }
    }

    #[test]
    fn a_foreign_subresource_is_not_overlooked() {
        let ask = |operation, uri| {
            by_name(operation).unwrap().check_features(&HeaderMap::new(), &Uri::from_static(uri))
        };
        assert!(ask("DeleteBucket", "/b?acl").is_err());
        assert!(ask("DeleteObject", "/b/k?retention=").is_err());
        assert!(ask("PutObject", "/b/k?append&x=y").is_err());
        assert!(ask("PutObject", "/b/k?cache-buster=1&x-id=PutObject").is_ok());
        assert!(ask("UploadPart", "/b/k?partNumber=1&uploadId=u").is_ok());
    }

    #[test]
    fn versions_are_named_where_they_are_understood() {
        let uri = Uri::from_static("/b/k?versionId=3L4kqtJl");
        let ask = |name| by_name(name).unwrap().check_features(&HeaderMap::new(), &uri);
        assert!(ask("GetObject").is_ok());
        assert!(ask("DeleteObject").is_ok());
        assert!(ask("PutObject").is_err());
    }
}
