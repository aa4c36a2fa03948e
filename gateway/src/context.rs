//! What a request tells policies: condition keys from the request's own, verified parts.
//!
//! A key is set only by the part that S3 says it comes from; no header can set a key of its
//! choosing.

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
    ("user-agent", "aws:UserAgent"),
    ("referer", "aws:Referer"),
];

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
        context.set(&format!("aws:PrincipalTag/{key}"), value.clone());
    }
    for (key, values) in &principal.keys {
        values.iter().for_each(|value| context.add(key, value.clone()));
    }
    context
}

/// Adds the keys that are about an S3 request.
pub fn add_request(context: &mut Context, headers: &HeaderMap, uri: &Uri) {
    let pairs = query_pairs(uri);
    for (name, key) in QUERY_KEYS {
        if let Some((_, value)) = pairs.iter().find(|(found, _)| found == name) {
            context.set(key, value.clone());
        }
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    for name in HEADER_KEYS {
        if let Some(value) = text(name) {
            let value = match *name {
                "x-amz-copy-source" => value.trim_start_matches('/'),
                _ => value,
            };
            context.set(&format!("s3:{name}"), value);
        }
    }
    for (name, key) in OTHER_HEADER_KEYS {
        if let Some(value) = text(name) {
            context.set(key, value);
        }
    }
    if let Some(tags) = text("x-amz-tagging") {
        for (key, value) in form_urlencoded::parse(tags.as_bytes()) {
            context.set(&format!("s3:RequestObjectTag/{key}"), value);
            context.add("s3:RequestObjectTagKeys", key);
        }
    }
    let presigned = pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case("X-Amz-Signature"));
    context.set("s3:authType", if presigned { "REST-QUERY-STRING" } else { "REST-HEADER" });
    context.set("s3:signatureversion", "AWS4-HMAC-SHA256");
}
