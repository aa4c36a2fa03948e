//! Buckets as web sites: under `BUCKET.` and the website domain, for browsers.
//!
//! A visit is turned into an anonymous S3 request for the bucket before anything else looks at it: who signs
//! is not heard, and nothing of the query or of S3's headers is. So the one `authorize` decides, and everything
//! that reads objects serves it. What comes back is told as web servers tell it: pages for errors, redirects,
//! the documents that the bucket's owner named.

mod page;
mod routing;

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use nexusgrid_grid::GridError;
use s3s::dto::WebsiteConfiguration;
use s3s::service::S3Service;

use self::page::{error_page, redirect_page};
use crate::auth::RequestNotes;
use crate::error::from_grid;
use crate::rules::{Kind, Rules};
use crate::s3::read_xml;

/// Where an object says that its visitors are to go.
const REDIRECT: &str = "x-amz-website-redirect-location";

/// What of a browser's request is heard: what policies may ask about, and what concerns caches, ranges and
/// origins.
const HEARD: &[HeaderName] = &[
    header::ACCEPT,
    header::ACCESS_CONTROL_REQUEST_HEADERS,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::ORIGIN,
    header::RANGE,
    header::REFERER,
    header::USER_AGENT,
];
/// What concerns one document, and not the one that stands for it.
const OF_THE_DOCUMENT: &[HeaderName] = &[
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];

/// A request for a bucket's web site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Visit {
    bucket: String,
    /// The path as it came, percent-encoded, with its slash.
    path: String,
    /// What hosts an inner request is for.
    host: HeaderValue,
}

/// The bucket that a host names under the domain.
fn bucket_of<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let at = name.len().checked_sub(domain.len())?;
    let (front, end) = (name.get(..at)?, name.get(at..)?);
    let bucket = front.strip_suffix('.')?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let is_bucket = !bucket.is_empty() && bucket.bytes().all(is_plain);
    (is_bucket && end.eq_ignore_ascii_case(domain)).then_some(bucket)
}

/// Makes of a request for a web site an anonymous one for its bucket; `None`: it is for no web site, and stays
/// what it is.
pub(crate) fn enter(parts: &mut Parts, domains: (Option<&str>, Option<&str>)) -> Option<Visit> {
    let (website, s3) = domains;
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok()?,
        (None, _) => parts.uri.authority()?.as_str(),
        (Some(_), Some(_)) => return None,
    };
    let bucket = bucket_of(host, website?)?.to_ascii_lowercase();
    let path = match parts.uri.path() {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let host = HeaderValue::from_str(s3.unwrap_or("localhost")).ok()?;
    let visit = Visit { bucket, path, host };
    parts.uri = visit.uri(&visit.path)?;
    parts.headers = heard(parts, &visit, &[]);
    Some(visit)
}

/// A request's headers as far as they are heard.
fn heard(parts: &Parts, visit: &Visit, but: &[HeaderName]) -> http::HeaderMap {
    let wanted = HEARD.iter().filter(|name| !but.contains(name));
    let one = |name: &HeaderName| Some((name.clone(), parts.headers.get(name)?.clone()));
    let mut headers: http::HeaderMap = wanted.filter_map(one).collect();
    headers.insert(header::HOST, visit.host.clone());
    headers
}

impl Visit {
    /// The inner address of a path of the site.
    fn uri(&self, path: &str) -> Option<Uri> {
        format!("/{}{path}", self.bucket).parse().ok()
    }

    /// The key that the path names; `None`: it is no text.
    fn key(&self) -> Option<String> {
        let path = self.path.strip_prefix('/').unwrap_or(&self.path);
        let bytes = routing::percent_decoded(path);
        String::from_utf8(bytes).ok().filter(|key| !key.contains('\0'))
    }
}

/// Answers visits.
pub(crate) struct Site<'a> {
    pub s3: &'a S3Service,
    pub rules: &'a Rules,
    pub notes: &'a Arc<RequestNotes>,
}

/// What went wrong, as a page tells it.
struct Failure {
    status: StatusCode,
    code: String,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, code: &str, message: &str) -> Failure {
        Failure { status, code: code.to_owned(), message: message.to_owned() }
    }

    /// Of an error that S3 answered.
    fn of(reply: &Response<s3s::Body>) -> Failure {
        let text = reply.body().bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            rest.split_once(&format!("</{name}>")).map(|(value, _)| page::unescaped(value))
        };
        let status = reply.status();
        let code = element("Code").unwrap_or_else(|| page::usual_code(status).to_owned());
        Failure { status, code, message: element("Message").unwrap_or_default() }
    }
}

impl Site<'_> {
    /// Answers a visit.
    pub async fn answer(&self, parts: Parts, visit: &Visit) -> Response<s3s::Body> {
        let id = &self.notes.id;
        let fail = |failure: &Failure, key: &str| {
            let Failure { status, code, message } = failure;
            error_page(*status, (code, message), key, id)
        };
        if parts.method != Method::GET && parts.method != Method::HEAD {
            let message = "The specified method is not allowed against this resource.";
            let refused = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message);
            let mut reply = fail(&refused, "");
            let allowed = HeaderValue::from_static("GET, HEAD, OPTIONS");
            reply.headers_mut().insert(header::ALLOW, allowed);
            return reply;
        }
        let Some(key) = visit.key() else {
            let message = "Couldn't parse the specified URI.";
            return fail(&Failure::new(StatusCode::BAD_REQUEST, "InvalidURI", message), "");
        };
        let site = match self.site(visit).await {
            Ok(site) => site,
            Err(failure) => return fail(&failure, ""),
        };
        if let Some(all) = &site.redirect_all_requests_to {
            let status = StatusCode::MOVED_PERMANENTLY;
            return redirect_page(status, &routing::to_all(all, &key), id);
        }
        let rules = site.routing_rules.as_deref().unwrap_or_default();
        if let Some((status, location)) = routing::route(rules, &key, None) {
            return redirect_page(status, &location, id);
        }
        let suffix = site.index_document.as_ref().map_or("", |index| index.suffix.as_str());
        let is_directory = key.is_empty() || key.ends_with('/');
        let asked =
            if is_directory { with_suffix(&visit.path, suffix) } else { visit.path.clone() };
        let headers = heard(&parts, visit, &[]);
        let reply = self.fetch(&parts, visit, &asked, headers, Arc::clone(self.notes)).await;
        let status = reply.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return match reply.headers().get(REDIRECT).and_then(|value| value.to_str().ok()) {
                Some(location) => redirect_page(StatusCode::MOVED_PERMANENTLY, location, id),
                None => reply,
            };
        }
        let failure = Failure::of(&reply);
        let is_missing = matches!(status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN);
        if is_missing && !is_directory {
            let index = with_suffix(&format!("{}/", visit.path), suffix);
            if self.there_is(&parts, visit, &index).await {
                let location = routing::encoded_path(&format!("{key}/"));
                return redirect_page(StatusCode::FOUND, &location, id);
            }
        }
        if let Some((status, location)) = routing::route(rules, &key, Some(status)) {
            return redirect_page(status, &location, id);
        }
        if status.is_client_error()
            && let Some(document) = &site.error_document
        {
            let path = routing::encoded_path(&document.key);
            let headers = heard(&parts, visit, OF_THE_DOCUMENT);
            let mut shown = self.fetch(&parts, visit, &path, headers, self.own_notes()).await;
            if shown.status() == StatusCode::OK {
                *shown.status_mut() = status;
                // It stands for another: nobody is to take it for that, or ask for a piece of it.
                for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES] {
                    shown.headers_mut().remove(name);
                }
                return shown;
            }
        }
        fail(&failure, &key)
    }

    async fn site(&self, visit: &Visit) -> Result<WebsiteConfiguration, Failure> {
        let rules = self.rules.of(&visit.bucket).await.map_err(|error| match error {
            GridError::NoSuchBucket => {
                let message = "The specified bucket does not exist";
                Failure::new(StatusCode::NOT_FOUND, "NoSuchBucket", message)
            }
            error => {
                let told = from_grid(error);
                let status = told.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Failure::new(status, told.code().as_str(), told.message().unwrap_or_default())
            }
        })?;
        let text = rules.text(Kind::Website).ok_or_else(|| {
            let message = "The specified bucket does not have a website configuration";
            Failure::new(StatusCode::NOT_FOUND, "NoSuchWebsiteConfiguration", message)
        })?;
        read_xml(text).map_err(|_| {
            tracing::error!(bucket = %visit.bucket, "the website configuration cannot be read");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Failure::new(status, "InternalError", "We encountered an internal error.")
        })
    }

    /// For requests of our own: what is noted is the visitor's.
    fn own_notes(&self) -> Arc<RequestNotes> {
        Arc::new(RequestNotes { id: self.notes.id.clone(), ..RequestNotes::default() })
    }

    async fn fetch(
        &self,
        parts: &Parts,
        visit: &Visit,
        path: &str,
        headers: http::HeaderMap,
        notes: Arc<RequestNotes>,
    ) -> Response<s3s::Body> {
        let mut request = Request::new(s3s::Body::empty());
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = visit.uri(path).unwrap_or_else(|| parts.uri.clone());
        *request.headers_mut() = headers;
        *request.extensions_mut() = parts.extensions.clone();
        request.extensions_mut().insert(notes);
        self.s3.call(request).await.unwrap_or_else(|error| {
            tracing::error!(%error, request_id = %self.notes.id, "no reply from s3s");
            let mut reply = Response::new(s3s::Body::empty());
            *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            reply
        })
    }

    /// Whether the visitor may read what is there.
    async fn there_is(&self, parts: &Parts, visit: &Visit, path: &str) -> bool {
        let mut head = parts.clone();
        head.method = Method::HEAD;
        let headers = heard(parts, visit, OF_THE_DOCUMENT);
        self.fetch(&head, visit, path, headers, self.own_notes()).await.status() == StatusCode::OK
    }
}

/// A path of a directory with a document's name, encoded.
fn with_suffix(path: &str, suffix: &str) -> String {
    format!("{path}{}", routing::encoded_path(suffix).trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_buckets_under_the_domain_only() {
        for (host, bucket) in [
            ("docs.web.example.com", Some("docs")),
            ("docs.web.example.com:8080", Some("docs")),
            ("a.b.WEB.example.com", Some("a.b")),
            ("web.example.com", None),
            (".web.example.com", None),
            ("docsweb.example.com", None),
            ("docs.web.example.com.evil.com", None),
            ("a/b.web.example.com", None),
            ("a%2f.web.example.com", None),
            ("éé.web.example.com", None),
            ("x", None),
        ] {
            assert_eq!(bucket_of(host, "web.example.com"), bucket, "{host}");
        }
    }
}
