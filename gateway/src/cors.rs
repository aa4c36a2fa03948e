//! CORS: what a bucket lets web pages of other origins do.
//!
//! Nothing without a configuration of the bucket, and never more than a rule of it says. A
//! preflight is answered here and reaches no operation; it says nothing of the bucket but what the
//! rules say.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use nexusgrid_grid::RejectKind;
use s3s::dto::{CORSConfiguration, CORSRule};
use s3s::{S3Error, S3ErrorCode};

use crate::error::refuse;
use crate::rules::{BucketRules, Kind, Rules};
use crate::s3::read_xml;
use crate::tenants;

/// A request of a web page.
struct Asked<'a> {
    origin: &'a str,
    method: &'a str,
    headers: Vec<String>,
}

/// `text` against a pattern with at most one `*`.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

impl Asked<'_> {
    fn allowed_by(&self, rule: &CORSRule) -> bool {
        let allowed = rule.allowed_headers.as_deref().unwrap_or(&[]);
        let header =
            |name: &String| allowed.iter().any(|pattern| fits(&pattern.to_ascii_lowercase(), name));
        rule.allowed_origins.iter().any(|pattern| fits(pattern, self.origin))
            && rule.allowed_methods.iter().any(|method| method == self.method)
            && self.headers.iter().all(header)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The bucket that a path names; none is looked for in the host's name.
fn bucket_of(uri: &Uri) -> Option<&str> {
    let name = uri.path().strip_prefix('/')?.split('/').next()?;
    Some(tenants::split(name).1).filter(|bucket| !bucket.is_empty())
}

fn rule_for(rules: &BucketRules, asked: &Asked<'_>) -> Option<CORSRule> {
    let configuration: CORSConfiguration = read_xml(rules.text(Kind::Cors)?).ok()?;
    configuration.cors_rules.into_iter().find(|rule| asked.allowed_by(rule))
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn describe(headers: &mut HeaderMap, rule: &CORSRule, asked: &Asked<'_>) {
    // A wildcard alone is said as one: then browsers send no credentials along.
    let anybody = rule.allowed_origins.iter().any(|origin| origin == "*");
    let origin = if anybody { "*" } else { asked.origin };
    set(headers, header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if !anybody {
        set(headers, header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    set(headers, header::ACCESS_CONTROL_ALLOW_METHODS, &rule.allowed_methods.join(", "));
    if !asked.headers.is_empty() {
        set(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, &asked.headers.join(", "));
    }
    if let Some(names) = rule.expose_headers.as_ref().filter(|names| !names.is_empty()) {
        set(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &names.join(", "));
    }
    if let Some(seconds) = rule.max_age_seconds {
        set(headers, header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
    }
    set(
        headers,
        header::VARY,
        "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    );
}

fn forbidden() -> S3Error {
    let mut error = S3Error::with_message(
        S3ErrorCode::AccessDenied,
        "CORSResponse: This CORS request is not allowed.",
    );
    error.set_status_code(StatusCode::FORBIDDEN);
    error
}

/// Answers a preflight.
pub async fn preflight(
    rules: &Rules,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response<s3s::Body>, S3Error> {
    let origin = text(headers, &header::ORIGIN);
    let method = text(headers, &header::ACCESS_CONTROL_REQUEST_METHOD);
    let (Some(origin), Some(method)) = (origin, method) else {
        let message = "Insufficient information. Origin request header needed.";
        return Err(refuse(RejectKind::InvalidRequest, message));
    };
    let names = text(headers, &header::ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or("");
    let names = names.split(',').map(|name| name.trim().to_ascii_lowercase());
    let asked = Asked { origin, method, headers: names.filter(|name| !name.is_empty()).collect() };
    let bucket = bucket_of(uri).ok_or_else(forbidden)?;
    let found = rules.of(bucket).await.map_err(|_| forbidden())?;
    let rule = rule_for(&found, &asked).ok_or_else(forbidden)?;
    let mut reply = Response::new(s3s::Body::empty());
    describe(reply.headers_mut(), &rule, &asked);
    Ok(reply)
}

/// What a reply to a request with an `Origin` is to say, if the bucket lets that origin hear it.
pub async fn reply_headers(
    rules: &Rules,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> HeaderMap {
    let mut said = HeaderMap::new();
    let Some(origin) = text(headers, &header::ORIGIN) else { return said };
    let Some(bucket) = bucket_of(uri) else { return said };
    let Ok(found) = rules.of(bucket).await else { return said };
    let announced = text(headers, &header::ACCESS_CONTROL_REQUEST_METHOD);
    let method = announced.unwrap_or(method.as_str());
    let asked = Asked { origin, method, headers: Vec::new() };
    if let Some(rule) = rule_for(&found, &asked) {
        describe(&mut said, &rule, &asked);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wildcard_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("*", "anything", true),
            ("*suffix", "foo.suffix", true),
            ("*suffix", "foo.suffix.get", false),
            ("start*end", "startend", true),
            ("start*end", "start12end", true),
            ("start*end", "starend", false),
            ("prefix*", "bla.prefix", false),
            ("exact", "exact", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
