//! Condition keys that there are: those of every service, and S3's.
//!
//! A bucket's policy may ask for no other of these two kinds: one that is misspelt in a denial would
//! deny nothing. Whether a key is ever set is up to the doors.

/// Keys of every service, without `aws:`.
const GLOBAL: &[&str] = &[
    "calledvia",
    "calledviafirst",
    "calledvialast",
    "currenttime",
    "ec2instancesourceprivateipv4",
    "ec2instancesourcevpc",
    "epochtime",
    "federatedprovider",
    "multifactorauthage",
    "multifactorauthpresent",
    "principalaccount",
    "principalarn",
    "principalisawsservice",
    "principalorgid",
    "principalorgpaths",
    "principalservicename",
    "principalservicenameslist",
    "principaltype",
    "referer",
    "requestedregion",
    "resourceaccount",
    "resourceorgid",
    "resourceorgpaths",
    "securetransport",
    "sourceaccount",
    "sourcearn",
    "sourceidentity",
    "sourceip",
    "sourceorgid",
    "sourceorgpaths",
    "sourcevpc",
    "sourcevpcarn",
    "sourcevpce",
    "tagkeys",
    "tokenissuetime",
    "useragent",
    "userid",
    "username",
    "viaawsservice",
    "vpceaccount",
    "vpceorgid",
    "vpceorgpaths",
    "vpcsourceip",
];

/// Keys of every service that end with a tag's name.
const GLOBAL_TAGS: &[&str] = &["principaltag/", "requesttag/", "resourcetag/"];

/// Keys of S3, without `s3:`.
const S3: &[&str] = &[
    "accessgrantsinstancearn",
    "accesspointnetworkorigin",
    "authtype",
    "dataaccesspointaccount",
    "dataaccesspointarn",
    "delimiter",
    "if-match",
    "if-none-match",
    "inventoryaccessibleoptionalfields",
    "jobsuspendedcause",
    "locationconstraint",
    "max-keys",
    "object-lock-legal-hold",
    "object-lock-mode",
    "object-lock-remaining-retention-days",
    "object-lock-retain-until-date",
    "objectcreationoperation",
    "prefix",
    "requestobjecttagkeys",
    "resourceaccount",
    "signatureage",
    "signatureversion",
    "tlsversion",
    "versionid",
    "x-amz-acl",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-metadata-directive",
    "x-amz-object-ownership",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];

/// Keys of S3 that end with a tag's name.
const S3_TAGS: &[&str] =
    &["existingobjecttag/", "requestobjecttag/", "buckettag/", "resourcetag/", "accesspointtag/"];

/// Whether a bucket's policy may ask for this key: one of another service's or provider's it may.
pub(super) fn is_known(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let found = |rest: &str, keys: &[&str], tags: &[&str]| {
        let is_tag = |tag: &&str| rest.strip_prefix(tag).is_some_and(|name| !name.is_empty());
        keys.contains(&rest) || tags.iter().any(is_tag)
    };
    match key.split_once(':') {
        Some(("aws", rest)) => found(rest, GLOBAL, GLOBAL_TAGS),
        Some(("s3", rest)) => found(rest, S3, S3_TAGS),
        Some(_) => true,
        None => false,
    }
}
