//! Requests signed by Signature Version 2, as old backup tools send them: an HMAC-SHA1, by the secret
//! itself, over method, date, `x-amz-*` headers, path and a list of sub-resources; for no region, no
//! day, and no body.
//!
//! They are taken only where the administrator says so. s3s's own reading of them stays off: it
//! takes no `x-amz-date` of the form that such tools send, and would pass over sub-resources that the
//! signature does not cover. What is checked here goes to s3s without its signature, and
//! `Doorkeeper::check` makes its principal of the key that [`SignedByV2`] names, by the same way as any
//! other. Nothing but [`Version2::check`] makes a [`SignedByV2`].

use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use nexusgrid_iam::time;
use s3s::host::{S3Host as _, SingleDomain};
use s3s::{S3Error, S3ErrorCode, S3Result};
use s3s_sigv2::Mode;
use subtle::{Choice, ConstantTimeEq as _};

use crate::auth::{Doorkeeper, RequestNotes};
use crate::context::query_pairs;
use crate::error::{custom, invalid_argument};
use crate::limits;
use crate::operations::SUBRESOURCES;

/// Sub-resources that the signature covers. Others could be added to a signed request by whoever
/// sees it: a request that names one is refused.
const COVERED: &[&str] = &[
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "delete",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "replication",
    "requestPayment",
    "restore",
    "select",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// What a query carries of the signature itself.
const SIGNATURE: &[&str] = &["AWSAccessKeyId", "Expires", "Signature"];

/// Whose signature was checked.
#[derive(Clone, Debug)]
pub(crate) struct SignedByV2 {
    key: String,
    in_query: bool,
}

impl SignedByV2 {
    /// The access key's id.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it stood in the query.
    pub fn in_query(&self) -> bool {
        self.in_query
    }
}

/// The access key that a request says it is signed by so, in its header or its query.
pub(crate) fn claimed_key(parts: &Parts) -> Option<String> {
    if let Some(claim) = in_header(&parts.headers) {
        return claim.split(':').next().map(str::to_owned);
    }
    let mut pairs = query_pairs(&parts.uri).into_iter();
    pairs.find(|(name, _)| name == "AWSAccessKeyId").map(|(_, key)| key)
}

/// Whether a request claims to be signed so.
pub(crate) fn is_claimed(parts: &Parts) -> bool {
    let names = |(name, _): &(String, String)| name == "Signature" || name == "AWSAccessKeyId";
    in_header(&parts.headers).is_some() || query_pairs(&parts.uri).iter().any(names)
}

fn in_header(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("AWS ")
}

fn denied(message: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::AccessDenied, message)
}

/// The only value of a name.
fn unique<'a>(pairs: &'a [(String, String)], name: &str) -> S3Result<Option<&'a str>> {
    let mut found = pairs.iter().filter(|(other, _)| other == name);
    let first = found.next().map(|(_, value)| value.as_str());
    match found.next() {
        None => Ok(first),
        Some(_) => Err(invalid_argument(format!("{name} is there more than once"))),
    }
}

/// A time as HTTP or ISO 8601 write it, ms since 1970; one before is none.
fn time_of(text: &str) -> Option<u64> {
    let ms = time::parse_http(text).or_else(|| time::parse(text).filter(|_| text.ends_with('Z')));
    u64::try_from(ms?).ok()
}

fn check_date(headers: &HeaderMap, now_unix_ms: u64) -> S3Result<()> {
    let date = headers.get("x-amz-date").or_else(|| headers.get(header::DATE));
    let signed = date.and_then(|date| date.to_str().ok()).and_then(time_of);
    let signed = signed
        .ok_or_else(|| denied("AWS authentication requires a valid Date or x-amz-date header"))?;
    if signed.abs_diff(now_unix_ms) / 1000 > u64::from(limits::CLOCK_SKEW_SECONDS_MAX) {
        return Err(S3Error::new(S3ErrorCode::RequestTimeTooSkewed));
    }
    Ok(())
}

fn check_expiry(expires: Option<&str>, now_unix_ms: u64) -> S3Result<()> {
    let now = now_unix_ms / 1000;
    let is_number =
        |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let expires: Option<u64> = expires.filter(is_number).and_then(|text| text.parse().ok());
    let expires = expires.ok_or_else(|| denied("Invalid date (should be seconds since epoch)"))?;
    if expires < now {
        return Err(denied("Request has expired"));
    }
    let most = u64::from(limits::PRESIGNED_SECONDS_MAX + limits::CLOCK_SKEW_SECONDS_MAX);
    if expires - now > most {
        return Err(denied("a signed URL is valid for seven days at most"));
    }
    Ok(())
}

/// Refuses what the signature would not cover, or Version 2 has not.
fn check_covered(headers: &HeaderMap, pairs: &[(String, String)]) -> S3Result<()> {
    for (name, _) in pairs {
        if SUBRESOURCES.contains(&name.as_str()) && !COVERED.contains(&name.as_str()) {
            return Err(denied("Signature Version 2 does not cover this sub-resource"));
        }
        if COVERED.contains(&name.as_str()) || name.starts_with("response-") {
            unique(pairs, name)?;
        }
    }
    let singular = ["content-md5", "content-type", "date", "x-amz-date"];
    if singular.iter().any(|name| headers.get_all(*name).iter().count() > 1) {
        return Err(invalid_argument("a signed header is there more than once"));
    }
    // Chunks and hashes of bodies are signed by Version 4 alone.
    let hash = headers.get("x-amz-content-sha256").map(HeaderValue::as_bytes);
    let chunks = ["x-amz-decoded-content-length", "x-amz-trailer"];
    if hash.is_some_and(|hash| hash != b"UNSIGNED-PAYLOAD")
        || chunks.iter().any(|name| headers.contains_key(*name))
    {
        return Err(invalid_argument("a signed body takes Signature Version 4"));
    }
    Ok(())
}

/// Headers that stand in the query of a signed URL, as Version 2 has it.
fn headers_in_query(headers: &mut HeaderMap, pairs: &[(String, String)]) -> S3Result<()> {
    for (name, value) in pairs.iter().filter(|(name, _)| is_header_in_query(name)) {
        unique(pairs, name)?;
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
        let parsed =
            parsed.filter(|parsed| parsed.as_str() == name && !headers.contains_key(parsed));
        let value = HeaderValue::from_str(value).ok();
        let (Some(name), Some(value)) = (parsed, value) else {
            return Err(invalid_argument(format!("the query's {name} cannot be a header")));
        };
        headers.insert(name, value);
    }
    Ok(())
}

fn is_header_in_query(name: &str) -> bool {
    name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"))
}

fn is_address(host: &str) -> bool {
    host.parse::<std::net::SocketAddr>().is_ok() || host.parse::<std::net::IpAddr>().is_ok()
}

/// The paths that a client may have signed: some write a bucket's as `/bucket/`, whatever they ask for.
fn paths(path: &str, bucket: Option<&str>) -> Vec<String> {
    let is_bucket = bucket.is_none()
        && path.rsplit_once('/').is_some_and(|(above, name)| above.is_empty() && !name.is_empty());
    let with_slash = is_bucket.then(|| format!("{path}/"));
    std::iter::once(path.to_owned()).chain(with_slash).collect()
}

/// What the client signed, by each of the paths that it may have written.
fn strings_to_sign(
    parts: &Parts,
    mode: Mode,
    mut pairs: Vec<(String, String)>,
    bucket: Option<&str>,
) -> S3Result<Vec<String>> {
    let mut headers = Vec::with_capacity(parts.headers.len());
    for (name, value) in &parts.headers {
        match std::str::from_utf8(value.as_bytes()) {
            Ok(value) => headers.push((name.as_str(), value)),
            Err(_) if !name.as_str().starts_with("x-amz-") => {}
            Err(_) => return Err(S3Error::new(S3ErrorCode::SignatureDoesNotMatch)),
        }
    }
    pairs.sort();
    let method = parts.method.as_str();
    let of_path = |path: String| {
        s3s_sigv2::create_string_to_sign(mode, method, &path, Some(&pairs), &headers, bucket)
    };
    Ok(paths(parts.uri.path(), bucket).into_iter().map(of_path).collect())
}

/// The path and query without what was of the signature.
fn unsigned_uri(uri: &Uri, in_query: bool) -> S3Result<Uri> {
    if !in_query {
        return Ok(uri.clone());
    }
    let is_kept = |pair: &&str| {
        let mut names = form_urlencoded::parse(pair.as_bytes());
        let is_ours = |name: &str| SIGNATURE.contains(&name) || is_header_in_query(name);
        names.next().is_none_or(|(name, _)| !is_ours(&name))
    };
    let kept: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(is_kept).collect();
    let path = uri.path();
    let text = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    let invalid = |_| S3Error::new(S3ErrorCode::InvalidURI);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(invalid)?);
    Uri::from_parts(parts).map_err(|_| S3Error::new(S3ErrorCode::InvalidURI))
}

/// Checks such requests.
pub(crate) struct Version2 {
    pub door: Doorkeeper,
    /// Under which buckets are names of hosts, too.
    pub host: Option<SingleDomain>,
}

impl Version2 {
    /// Checks the signature of a request that claims one, takes it out of the request, and notes
    /// there whose it was.
    pub async fn check(&self, parts: &mut Parts, notes: &Arc<RequestNotes>) -> S3Result<()> {
        let pairs = query_pairs(&parts.uri);
        let header = in_header(&parts.headers).map(str::to_owned);
        let in_query = header.is_none();
        let is_of_version_4 = |(name, _): &(String, String)| is_header_in_query(name);
        let others = match in_query {
            true => parts.headers.contains_key(header::AUTHORIZATION),
            false => {
                SIGNATURE.iter().any(|name| pairs.iter().any(|(other, _)| other == name))
                    || pairs.iter().any(is_of_version_4)
            }
        };
        if others {
            return Err(invalid_argument("Only one auth mechanism allowed"));
        }
        check_covered(&parts.headers, &pairs)?;
        let now = self.door.clock.wall().0;
        let (key, signature) = match &header {
            Some(header) => {
                let wrong =
                    "AWS authorization header is invalid.  Expected AwsAccessKeyId:signature";
                let said = header.split_once(':').filter(|(key, _)| !key.is_empty());
                let (key, signature) = said.ok_or_else(|| invalid_argument(wrong))?;
                check_date(&parts.headers, now)?;
                (key, signature.trim())
            }
            None => {
                check_expiry(unique(&pairs, "Expires")?, now)?;
                let incomplete = "Query-string authentication requires the Signature, Expires and \
                                  AWSAccessKeyId parameters";
                let key = unique(&pairs, "AWSAccessKeyId")?;
                let said = key.zip(unique(&pairs, "Signature")?);
                said.ok_or_else(|| denied(incomplete))?
            }
        };
        if in_query {
            headers_in_query(&mut parts.headers, &pairs)?;
        }
        let secret = self.door.secret(key).await?;
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let virtual_host = match (&self.host, host) {
            // A number is no bucket's name.
            (Some(_), Some(host)) if is_address(host) => None,
            (Some(domain), Some(host)) => Some(domain.parse_host_header(host)?),
            _ => None,
        };
        let bucket = virtual_host.as_ref().and_then(|host| host.bucket());
        let mode = if in_query { Mode::PresignedUrl } else { Mode::HeaderAuth };
        let mut is_signed = Choice::from(0);
        for text in strings_to_sign(parts, mode, pairs.clone(), bucket)? {
            let expected = s3s_sigv2::calculate_signature(secret.expose(), &text);
            is_signed |= expected.as_bytes().ct_eq(signature.as_bytes());
        }
        if !bool::from(is_signed) {
            return Err(custom(
                "SignatureDoesNotMatch",
                StatusCode::FORBIDDEN,
                "The request signature we calculated does not match the signature you provided.",
            ));
        }
        let _ = notes.key.set(key.to_owned());
        let signed = SignedByV2 { key: key.to_owned(), in_query };
        parts.uri = unsigned_uri(&parts.uri, in_query)?;
        parts.headers.remove(header::AUTHORIZATION);
        parts.extensions.insert(signed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subresource_is_signed_or_refused() {
        let text = |name: &str| {
            let pairs = [(name.to_owned(), "x".to_owned())];
            let pairs = if name.is_empty() { &[][..] } else { &pairs };
            s3s_sigv2::create_string_to_sign(Mode::HeaderAuth, "GET", "/b", Some(pairs), &[], None)
        };
        for name in SUBRESOURCES {
            assert_eq!(COVERED.contains(name), text(name) != text(""), "{name}");
            let pairs = [((*name).to_owned(), String::new())];
            assert_eq!(
                check_covered(&HeaderMap::new(), &pairs).is_ok(),
                COVERED.contains(name),
                "{name}"
            );
        }
    }

    #[test]
    fn buckets_may_be_signed_with_a_slash() {
        assert_eq!(paths("/b", None), ["/b", "/b/"]);
        assert_eq!(paths("/k", Some("b")), ["/k"]);
        for path in ["/", "/b/", "/b/k", "/b/k/"] {
            assert_eq!(paths(path, None), [path]);
        }
    }

    #[test]
    fn times_are_of_http_or_iso() {
        for (text, expected) in [
            ("Tue, 27 Mar 2007 19:36:42 +0000", Some(1_175_024_202_000)),
            ("Tue, 27 Mar 2007 19:36:42 GMT", Some(1_175_024_202_000)),
            // Not all know their weekdays.
            ("Fri, 27 Mar 2007 19:36:42 GMT", Some(1_175_024_202_000)),
            ("20070327T193642Z", Some(1_175_024_202_000)),
            ("Tue, 07 Jul 1950 21:53:04 GMT", None),
            ("1175024202", None),
            ("Bad Date", None),
            ("", None),
        ] {
            assert_eq!(time_of(text), expected, "{text}");
        }
    }

    #[test]
    fn urls_expire_and_do_not_last_for_ever() {
        let now = 1_800_000_000_000;
        let of = |text: &str| check_expiry(Some(text), now).is_ok();
        assert!(of("1800000000") && of("1800604800"));
        for bad in ["1799999999", "1800700000", "99999999999999999999", "-1", "+1800000001", ""] {
            assert!(!of(bad), "{bad}");
        }
        assert!(check_expiry(None, now).is_err());
    }

    #[test]
    fn only_the_signature_leaves_the_query() {
        let uri =
            "/b/k?versionId=v&AWSAccessKeyId=a&Expires=1&Signature=s%3D&x-amz-security-token=t";
        let uri: Uri = uri.parse().unwrap();
        assert_eq!(unsigned_uri(&uri, true).unwrap(), "/b/k?versionId=v");
        assert_eq!(unsigned_uri(&uri, false).unwrap(), uri);
        let uri: Uri = "/b/k?Signature=s".parse().unwrap();
        assert_eq!(unsigned_uri(&uri, true).unwrap(), "/b/k");
    }
}
