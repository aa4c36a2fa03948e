//! What a request tells policies: condition keys from the request's own, verified parts.
//!
//! A key is set only by the part that S3 says it comes from; no header can set a key of its
//! choosing.

use std::collections::BTreeMap;

use http::{HeaderMap, Uri};
use nexusgrid_iam::{Context, Principal, PrincipalKind};

/// Query parameters of lists that policies may ask about.
const QUERY_KEYS: &[(&str, &str)] = &[
    ("prefix", "s3:prefix"),
    ("delimiter", "s3:delimiter"),
    ("max-keys", "s3:max-keys"),
    ("versionId", "s3:VersionId"),
];

/// Headers of S3 that policies may ask about, under their own names.
const HEADER_KEYS: &[&str] = &[
    "x-amz-acl",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-copy-source",
    "x-amz-metadata-directive",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
    "x-amz-content-sha256",
    "x-amz-object-ownership",
];

/// Headers that policies know by another name.
const OTHER_HEADER_KEYS: &[(&str, &str)] = &[
    ("x-amz-object-lock-mode", "s3:object-lock-mode"),
    ("x-amz-object-lock-retain-until-date", "s3:object-lock-retain-until-date"),
    ("x-amz-object-lock-legal-hold", "s3:object-lock-legal-hold"),
    ("if-match", "s3:if-match"),
    ("if-none-match", "s3:if-none-match"),
    ("user-agent", "aws:UserAgent"),
    ("referer", "aws:Referer"),
];

/// Tags of a request that policies may ask about; an object has at most ten.
const TAGS_LOOKED_AT: usize = 64;

/// The address at the other end of the connection: of the client, or of whatever stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub std::net::IpAddr);

/// Adds the keys that are about the connection. No header can set them.
pub fn add_connection(context: &mut Context, peer: Option<PeerAddress>) {
    if let Some(PeerAddress(address)) = peer {
        context.set("aws:SourceIp", address.to_canonical().to_string());
    }
    // Connections are plain here; whoever puts TLS before the grid says so in its policies.
    context.set("aws:SecureTransport", "false");
}

/// Pairs of a query string, decoded.
pub fn query_pairs(uri: &Uri) -> Vec<(String, String)> {
    form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()).into_owned().collect()
}

/// The keys that are about the caller and the moment.
pub fn of_caller(principal: &Principal, now_unix_ms: u64) -> Context {
    let mut context = Context::default();
    context.set("aws:CurrentTime", nexusgrid_iam::time::iso8601(now_unix_ms));
    context.set("aws:EpochTime", (now_unix_ms / 1000).to_string());
    let kind = match principal.kind {
        PrincipalKind::Anonymous => "Anonymous",
        PrincipalKind::Root => "Account",
        PrincipalKind::User | PrincipalKind::Service => "User",
        PrincipalKind::Session if principal.role_arn.is_none() => "FederatedUser",
        PrincipalKind::Session => "AssumedRole",
        PrincipalKind::Grid => "Service",
    };
    context.set("aws:PrincipalType", kind);
    // Whether it is a session's key: Ceph's word for it.
    context.set("sts:authentication", principal.expires_unix_ms.is_some().to_string());
    if let Some(account) = &principal.account {
        context.set("aws:PrincipalAccount", account.clone());
        let arn = principal.role_arn.as_ref().unwrap_or(&principal.arn);
        context.set("aws:PrincipalArn", arn.clone());
        context.set("aws:userid", principal.id.clone());
        if principal.kind == PrincipalKind::User {
            context.set("aws:username", principal.name.clone());
        }
    }
    for (key, value) in &principal.tags {
        context.set(format!("aws:PrincipalTag/{key}"), value.clone());
    }
    for (key, values) in &principal.keys {
        values.iter().for_each(|value| context.add(key.clone(), value.clone()));
    }
    context
}

/// Keys that are about the bucket's tags, without the tag's name.
const BUCKET_TAG_KEYS: &[&str] = &["s3:BucketTag/", "s3:ResourceTag/", "aws:ResourceTag/"];

/// Adds the keys that are about the bucket's tags.
pub fn add_bucket_tags(context: &mut Context, tags: &BTreeMap<String, Vec<String>>) {
    for (tag, values) in tags {
        for key in BUCKET_TAG_KEYS {
            values.iter().for_each(|value| context.add(format!("{key}{tag}"), value.clone()));
        }
    }
}

/// Takes them away again, for a question about another bucket.
pub fn remove_bucket_tags(context: &mut Context, tags: &BTreeMap<String, Vec<String>>) {
    for tag in tags.keys() {
        BUCKET_TAG_KEYS.iter().for_each(|key| context.remove(&format!("{key}{tag}")));
    }
}

/// Ceph has the tags of a session be those of each of its requests: so it is in the account that is
/// for who comes from there.
pub fn add_session_tags(context: &mut Context, principal: &Principal) {
    if principal.kind == PrincipalKind::Session && principal.is_bare() {
        principal.tags.keys().for_each(|key| context.add("aws:TagKeys", key.clone()));
    }
}

/// How a request, or an upload by form, is signed. What the anonymous send counts as Version 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// HMAC-SHA256 by a key of the day.
    Version4,
    /// HMAC-SHA1 by the secret itself, where the administrator takes it.
    Version2 {
        /// Whether it stands in the query.
        in_query: bool,
    },
    /// A form's policy is signed by Version 4.
    Form4,
    /// A form's policy is signed by Version 2.
    Form2,
}

/// Says of a signature what differs from a request's of Version 4.
pub fn add_signature(context: &mut Context, signature: Signature) {
    match signature {
        Signature::Version4 => {}
        Signature::Form4 => context.set("s3:authType", "POST"),
        Signature::Form2 => {
            context.set("s3:authType", "POST");
            context.set("s3:signatureversion", "AWS");
        }
        Signature::Version2 { in_query } => {
            context.set("s3:authType", if in_query { "REST-QUERY-STRING" } else { "REST-HEADER" });
            context.set("s3:signatureversion", "AWS");
        }
    }
}

/// Adds the keys that are about an S3 request.
pub fn add_request(context: &mut Context, headers: &HeaderMap, uri: &Uri) {
    let pairs = query_pairs(uri);
    for (name, key) in QUERY_KEYS {
        if let Some((_, value)) = pairs.iter().find(|(found, _)| found == name) {
            context.set(*key, value.clone());
        }
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    for name in HEADER_KEYS {
        if let Some(value) = text(name) {
            let value = match *name {
                "x-amz-copy-source" => value.trim_start_matches('/'),
                _ => value,
            };
            context.set(format!("s3:{name}"), value);
        }
    }
    for (name, key) in OTHER_HEADER_KEYS {
        if let Some(value) = text(name) {
            context.set(*key, value);
        }
    }
    if let Some(tags) = text("x-amz-tagging") {
        // More of them are refused whatever policies say.
        for (key, value) in form_urlencoded::parse(tags.as_bytes()).take(TAGS_LOOKED_AT) {
            context.add(format!("s3:RequestObjectTag/{key}"), value);
            context.add("s3:RequestObjectTagKeys", key);
        }
    }
    let presigned = pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case("X-Amz-Signature"));
    context.set("s3:authType", if presigned { "REST-QUERY-STRING" } else { "REST-HEADER" });
    context.set("s3:signatureversion", "AWS4-HMAC-SHA256");
    let in_query = pairs.iter().find(|(name, _)| name.eq_ignore_ascii_case("X-Amz-Date"));
    let signed = in_query.map(|(_, date)| date.as_str()).or_else(|| text("x-amz-date"));
    let signed = signed.and_then(nexusgrid_iam::time::parse);
    let now = context.single("aws:epochtime").and_then(nexusgrid_iam::time::parse);
    if let (Some(signed), Some(now)) = (signed, now) {
        context.set("s3:signatureAge", now.saturating_sub(signed).max(0).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_told_apart() {
        let in_query = Signature::Version2 { in_query: true };
        let in_header = Signature::Version2 { in_query: false };
        for (signature, version, kind) in [
            (Signature::Version4, "AWS4-HMAC-SHA256", "REST-HEADER"),
            (Signature::Form4, "AWS4-HMAC-SHA256", "POST"),
            (Signature::Form2, "AWS", "POST"),
            (in_header, "AWS", "REST-HEADER"),
            (in_query, "AWS", "REST-QUERY-STRING"),
        ] {
            let mut context = of_caller(&Principal::anonymous(), 1_800_000_000_000);
            add_request(&mut context, &HeaderMap::new(), &Uri::from_static("/b/k"));
            add_signature(&mut context, signature);
            assert_eq!(context.single("s3:signatureversion"), Some(version));
            assert_eq!(context.single("s3:authtype"), Some(kind));
        }
    }

    #[test]
    fn a_signatures_age_is_known_wherever_it_stands() {
        let of = |uri: &str, date: Option<&str>| {
            let mut context = of_caller(&Principal::anonymous(), 1_800_000_000_000);
            let mut headers = HeaderMap::new();
            if let Some(date) = date {
                headers.insert("x-amz-date", date.parse().unwrap());
            }
            add_request(&mut context, &headers, &uri.parse().unwrap());
            context.single("s3:signatureage").map(str::to_owned)
        };
        assert_eq!(of("/b/k", Some("20270115T075950Z")).as_deref(), Some("10000"));
        assert_eq!(of("/b/k?X-Amz-Date=20270115T075900Z", None).as_deref(), Some("60000"));
        assert_eq!(of("/b/k", Some("20270115T080010Z")).as_deref(), Some("0"));
        assert_eq!(of("/b/k", Some("yesterday")), None);
        assert_eq!(of("/b/k", None), None);
    }
}
