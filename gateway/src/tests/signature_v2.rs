//! Signature Version 2: refused unless it is asked for, and then for what it covers alone.

use bytes::Bytes;
use http::Request;

use super::client::{call, form, send};
use super::{ADMIN, DISABLED, READER, gateway, gateway_with, secret};
use crate::service::{Gateway, GatewayOptions};

type Pairs = Vec<(String, String)>;

fn now() -> i64 {
    (nexusgrid_env::Env::real().clock.wall().0 / 1000) as i64
}

fn http_date(unix: i64) -> String {
    nexusgrid_iam::time::written((unix * 1000) as u64, "%a, %d %b %Y %H:%M:%S +0000")
}

/// A request of an old tool.
struct Old {
    method: &'static str,
    path: &'static str,
    headers: Pairs,
    body: &'static str,
    key: (String, String),
    date: String,
    expires: i64,
}

fn old(method: &'static str, path: &'static str) -> Old {
    Old {
        method,
        path,
        headers: Vec::new(),
        body: "",
        key: (ADMIN.to_owned(), secret(ADMIN)),
        date: http_date(now()),
        expires: now() + 60,
    }
}

impl Old {
    fn header(mut self, name: &str, value: &str) -> Old {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn body(mut self, body: &'static str) -> Old {
        self.body = body;
        self
    }

    fn by(mut self, key: &str) -> Old {
        self.key = (key.to_owned(), secret(key));
        self
    }

    fn dated(mut self, date: &str) -> Old {
        date.clone_into(&mut self.date);
        self
    }

    fn expiring(mut self, unix: i64) -> Old {
        self.expires = unix;
        self
    }

    /// By hand, so that it is not the product's own reckoning that is compared with itself.
    fn signature(&self, when: &str) -> String {
        let named = |name: &str| {
            let found = self.headers.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let mut amz: Vec<&(String, String)> =
            self.headers.iter().filter(|(name, _)| name.starts_with("x-amz-")).collect();
        amz.sort();
        let amz: String = amz.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let (md5, kind) = (named("content-md5"), named("content-type"));
        let text = format!("{}\n{md5}\n{kind}\n{when}\n{amz}{}", self.method, self.path);
        s3s_sigv2::calculate_signature(&self.key.1, &text)
    }

    fn request(&self, path: &str, extra: &[(&str, &str)]) -> Request<Bytes> {
        let mut request = call(self.method, "/").body(self.body).request(&[], &[]);
        *request.uri_mut() = path.parse().unwrap();
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(extra.iter().copied()) {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request.headers_mut().insert("host", "127.0.0.1:9000".parse().unwrap());
        request.headers_mut().insert("content-length", self.body.len().into());
        request
    }

    fn signed(&self) -> Request<Bytes> {
        let is_dated = self.headers.iter().any(|(name, _)| name == "x-amz-date");
        let signature = self.signature(if is_dated { "" } else { &self.date });
        let authorization = format!("AWS {}:{signature}", self.key.0);
        let mut extra = vec![("authorization", authorization.as_str())];
        if !is_dated {
            extra.push(("date", &self.date));
        }
        self.request(self.path, &extra)
    }

    /// As a URL; `query` is of the headers that go there.
    fn url(&self, query: &str) -> Request<Bytes> {
        let signature = self.signature(&self.expires.to_string());
        let signature: String = form_urlencoded::byte_serialize(signature.as_bytes()).collect();
        let joint = if self.path.contains('?') { '&' } else { '?' };
        let (path, key) = (self.path, &self.key.0);
        let uri = format!(
            "{path}{joint}AWSAccessKeyId={key}&Expires={}&Signature={signature}{query}",
            self.expires
        );
        let plain = Old {
            headers: Vec::new(),
            ..Old { key: self.key.clone(), ..old(self.method, self.path) }
        };
        let is_moved = query.contains("x-amz-");
        if is_moved { plain.request(&uri, &[]) } else { self.request(&uri, &[]) }
    }
}

fn taking() -> Gateway {
    gateway_with(GatewayOptions { signature_v2: true, ..GatewayOptions::default() }).0
}

async fn outcome(gateway: &Gateway, request: Request<Bytes>) -> (u16, String) {
    send(gateway, request).await.outcome()
}

#[tokio::test]
async fn old_requests_are_refused_unless_they_are_asked_for() {
    let gateway = gateway();
    let denied = (403, "AccessDenied".to_owned());
    assert_eq!(outcome(&gateway, old("GET", "/bucket").signed()).await, denied);
    assert_eq!(outcome(&gateway, old("GET", "/bucket").url("")).await, denied);
}

#[tokio::test]
async fn old_requests_do_what_their_key_may() {
    let gateway = taking();
    let ok = (200, String::new());
    let put = old("PUT", "/bucket/a%20b?tagging").body("x");
    assert_eq!(outcome(&gateway, put.signed()).await.1, "MalformedXML");
    let put = old("PUT", "/bucket/a%20b")
        .header("content-type", "text/plain")
        .header("x-amz-meta-b", "2")
        .header("x-amz-date", &http_date(now()))
        .header("x-amz-meta-a", "1")
        .body("hello");
    assert_eq!(outcome(&gateway, put.signed()).await, ok);
    let iso = nexusgrid_iam::time::written((now() * 1000) as u64, "%Y%m%dT%H%M%SZ");
    let get = old("GET", "/bucket/a%20b").header("x-amz-date", &iso);
    let got = send(&gateway, get.signed()).await;
    assert_eq!((got.status, got.text().as_str(), got.header("x-amz-meta-b")), (200, "hello", "2"));
    let got = send(&gateway, old("GET", "/bucket/a%20b").url("")).await;
    assert_eq!((got.status, got.text().as_str()), (200, "hello"));
    let typed = old("GET", "/bucket/a%20b?response-content-type=a%2Fb");
    let signed = Old { path: "/bucket/a%20b?response-content-type=a/b", ..typed };
    let mut request = signed.url("");
    let uri = request.uri().to_string().replace("type=a/b", "type=a%2Fb");
    *request.uri_mut() = uri.parse().unwrap();
    assert_eq!(send(&gateway, request).await.header("content-type"), "a/b");
    // The same principal as ever.
    let denied = (403, "AccessDenied".to_owned());
    assert_eq!(outcome(&gateway, old("GET", "/bucket/a%20b").by(READER).signed()).await, denied);
    let unknown = (403, "InvalidAccessKeyId".to_owned());
    assert_eq!(outcome(&gateway, old("GET", "/bucket").by(DISABLED).signed()).await, unknown);
    assert_eq!(outcome(&gateway, old("GET", "/bucket").by("NOBODY").url("")).await, unknown);
}

#[tokio::test]
async fn what_was_not_signed_so_is_refused() {
    let gateway = taking();
    let wrong = (403, "SignatureDoesNotMatch".to_owned());
    let denied = (403, "AccessDenied".to_owned());
    let argument = (400, "InvalidArgument".to_owned());
    let good = || old("GET", "/bucket/k").signed();
    assert_eq!(outcome(&gateway, good()).await.1, "NoSuchKey");
    let changed = |change: fn(&mut Request<Bytes>)| {
        let mut request = good();
        change(&mut request);
        request
    };
    let to = |request: &mut Request<Bytes>, uri: &str| *request.uri_mut() = uri.parse().unwrap();
    let add = |request: &mut Request<Bytes>, name: &'static str, value: &'static str| {
        request.headers_mut().append(name, value.parse().unwrap());
    };
    let other_method = changed(|request| *request.method_mut() = http::Method::DELETE);
    assert_eq!(outcome(&gateway, other_method).await, wrong);
    for (uri, expected) in [
        ("/bucket/other", &wrong),
        ("/bucket/k?acl", &wrong),
        ("/bucket/k?versionId=x", &wrong),
        ("/bucket/k?response-content-type=x", &wrong),
        // What it cannot cover.
        ("/bucket/k?retention", &denied),
        ("/bucket/k?attributes", &denied),
        ("/bucket?encryption", &denied),
        // Another kind of credentials with it.
        ("/bucket/k?X-Amz-Signature=x", &argument),
        ("/bucket/k?x-amz-security-token=x", &argument),
        ("/bucket/k?Signature=x", &argument),
        ("/bucket/k?acl&acl", &argument),
    ] {
        let mut request = good();
        to(&mut request, uri);
        assert_eq!(outcome(&gateway, request).await, *expected, "{uri}");
    }
    for (name, value, expected) in [
        ("x-amz-acl", "public-read", &wrong),
        ("x-amz-security-token", "x", &wrong),
        ("content-type", "x", &wrong),
        ("content-md5", "x", &wrong),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", &argument),
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", &argument),
        ("x-amz-trailer", "x-amz-checksum-crc32", &argument),
        ("date", "Tue, 27 Mar 2007 19:36:42 +0000", &argument),
    ] {
        let mut request = good();
        add(&mut request, name, value);
        assert_eq!(outcome(&gateway, request).await, *expected, "{name}: {value}");
    }
    for (value, expected) in [
        (format!("AWS {ADMIN}"), "InvalidArgument"),
        ("AWS :x".to_owned(), "InvalidArgument"),
        (format!("AWS {ADMIN}:"), "SignatureDoesNotMatch"),
        (format!("AWS {ADMIN}:AAAAAAAAAAAAAAAAAAAAAAAAAAA="), "SignatureDoesNotMatch"),
    ] {
        let mut request = good();
        request.headers_mut().insert("authorization", value.parse().unwrap());
        assert_eq!(outcome(&gateway, request).await.1, expected, "{value}");
    }
    let other_secret = Old { key: (ADMIN.to_owned(), secret(READER)), ..old("GET", "/bucket/k") };
    assert_eq!(outcome(&gateway, other_secret.signed()).await, wrong);
}

#[tokio::test]
async fn old_requests_have_their_time() {
    let gateway = taking();
    let skewed = (403, "RequestTimeTooSkewed".to_owned());
    let denied = (403, "AccessDenied".to_owned());
    for (shift, is_good) in [(-840, true), (840, true), (-960, false), (960, false)] {
        let date = http_date(now() + shift);
        for request in [
            old("GET", "/bucket").dated(&date).signed(),
            old("GET", "/bucket").header("x-amz-date", &date).signed(),
        ] {
            let answer = outcome(&gateway, request).await;
            assert_eq!(answer == skewed, !is_good, "{shift}: {answer:?}");
        }
    }
    // The signed one decides, whatever else is there.
    let mut replayed =
        old("GET", "/bucket").header("x-amz-date", &http_date(now() - 3600)).signed();
    replayed.headers_mut().insert("date", http_date(now()).parse().unwrap());
    assert_eq!(outcome(&gateway, replayed).await, skewed);
    for date in ["", "Bad Date", "Tue, 07 Jul 1950 21:53:04 GMT"] {
        assert_eq!(outcome(&gateway, old("GET", "/bucket").dated(date).signed()).await, denied);
    }
    let mut undated = old("GET", "/bucket").signed();
    undated.headers_mut().remove("date");
    assert_eq!(outcome(&gateway, undated).await, denied);
    for (expires, is_good) in
        [(now() + 60, true), (now() - 1, false), (now() + 700_000, false), (-1, false)]
    {
        let answer = outcome(&gateway, old("GET", "/bucket").expiring(expires).url("")).await;
        assert_eq!(answer == denied, !is_good, "{expires}: {answer:?}");
    }
}

#[tokio::test]
async fn urls_of_old_tools_are_good_for_what_they_say() {
    let gateway = taking();
    let wrong = (403, "SignatureDoesNotMatch".to_owned());
    let url = |uri: fn(String) -> String| {
        let mut request = old("GET", "/bucket/k").url("");
        *request.uri_mut() = uri(request.uri().to_string()).parse().unwrap();
        request
    };
    assert_eq!(outcome(&gateway, url(|uri| uri)).await.1, "NoSuchKey");
    assert_eq!(outcome(&gateway, url(|uri| uri + "&acl")).await, wrong);
    assert_eq!(outcome(&gateway, url(|uri| uri + "&retention")).await.1, "AccessDenied");
    assert_eq!(outcome(&gateway, url(|uri| uri + "&Signature=x")).await.1, "InvalidArgument");
    assert_eq!(outcome(&gateway, url(|uri| uri + "&x-amz-acl=private")).await, wrong);
    let both = |uri: String| uri + "&X-Amz-Signature=x";
    assert_eq!(outcome(&gateway, url(both)).await.1, "InvalidArgument");
    let mut other = url(|uri| uri);
    *other.method_mut() = http::Method::PUT;
    assert_eq!(outcome(&gateway, other).await, wrong);
    let longer = |uri: String| uri.replace("Expires=", "Expires=1");
    assert_ne!(outcome(&gateway, url(longer)).await.1, "NoSuchKey");
    // Headers of the signed request stand in the query.
    let put = old("PUT", "/bucket/k").header("x-amz-meta-a", "1");
    assert_eq!(outcome(&gateway, put.url("&x-amz-meta-a=1")).await, (200, String::new()));
    let put = old("PUT", "/bucket/k").header("x-amz-meta-a", "1");
    assert_eq!(outcome(&gateway, put.url("&x-amz-meta-a=2")).await, wrong);
    let got = send(&gateway, old("GET", "/bucket/k").url("")).await;
    assert_eq!((got.status, got.header("x-amz-meta-a")), (200, "1"));
}

#[tokio::test]
async fn a_sessions_key_needs_its_token_and_signs_it() {
    let gateway = taking();
    let fields = [("Action", "GetSessionToken"), ("Version", "2011-06-15")];
    let made = form("sts", &fields).send(&gateway).await;
    let [id, key, token] =
        ["AccessKeyId", "SecretAccessKey", "SessionToken"].map(|name| made.element(name));
    let by = || Old { key: (id.clone(), key.clone()), ..old("GET", "/bucket") };
    let invalid = |answer: (u16, String)| assert_eq!(answer.1, "InvalidToken");
    let signed = by().header("x-amz-security-token", &token);
    assert_eq!(outcome(&gateway, signed.signed()).await, (200, String::new()));
    let in_query: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
    let in_query = format!("&x-amz-security-token={in_query}");
    let signed = by().header("x-amz-security-token", &token);
    assert_eq!(outcome(&gateway, signed.url(&in_query)).await, (200, String::new()));
    invalid(outcome(&gateway, by().signed()).await);
    invalid(outcome(&gateway, by().url("")).await);
    // Added to what was signed without.
    assert_eq!(outcome(&gateway, by().url(&in_query)).await.1, "SignatureDoesNotMatch");
    // A key that is nobody's session has no token.
    let odd = old("GET", "/bucket").header("x-amz-security-token", &token);
    invalid(outcome(&gateway, odd.signed()).await);
}

#[tokio::test]
async fn identities_are_not_managed_by_old_requests() {
    let gateway = taking();
    let fields = [("Action", "GetCallerIdentity"), ("Version", "2011-06-15")];
    let (mut request, ..) = form("sts", &fields).sign();
    let signature = old("POST", "/")
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .signature(&http_date(now()));
    let value = format!("AWS {ADMIN}:{signature}");
    request.headers_mut().remove("x-amz-date");
    request.headers_mut().insert("date", http_date(now()).parse().unwrap());
    request.headers_mut().insert("authorization", value.parse().unwrap());
    assert_eq!(send(&gateway, request).await.status, 403);
}
