//! A client that signs by hand, so that tests can sign wrongly.

use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use sha2::{Digest as _, Sha256};

use super::secret;
use crate::checksum::hex;
use crate::service::Gateway;

const HOST: &str = "127.0.0.1:9000";

/// A reply, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether the body ended as it should.
    pub whole: bool,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of an error.
    pub fn code(&self) -> String {
        between(&self.text(), "<Code>", "</Code>")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The text of the first such element.
    pub fn element(&self, name: &str) -> String {
        between(&self.text(), &format!("<{name}>"), &format!("</{name}>"))
    }

    /// Status and code at once.
    pub fn outcome(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

fn between(text: &str, start: &str, end: &str) -> String {
    let Some((_, rest)) = text.split_once(start) else { return String::new() };
    rest.split_once(end).map_or(String::new(), |(inner, _)| inner.to_owned())
}

/// What the signature says about the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Its SHA-256.
    Hash,
    /// This value, whatever it is.
    Says(&'static str),
}

/// A request to be signed.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: &'static str,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub key: String,
    pub secret: String,
    pub region: String,
    pub service: &'static str,
    pub payload: Payload,
    /// Seconds from now at which it claims to be signed.
    pub shift: i64,
    /// Headers added after signing, thus unsigned.
    pub unsigned: Vec<(String, String)>,
}

pub fn call(method: &'static str, path: &str) -> Call {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect();
    Call {
        method,
        path: path.to_owned(),
        query,
        headers: Vec::new(),
        body: Bytes::new(),
        key: super::ADMIN.to_owned(),
        secret: secret(super::ADMIN),
        region: "us-east-1".to_owned(),
        service: "s3",
        payload: Payload::Hash,
        shift: 0,
        unsigned: Vec::new(),
    }
}

/// A form for the identity interfaces.
pub fn form(service: &'static str, fields: &[(&str, &str)]) -> Call {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(fields);
    let mut call = call("POST", "/")
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .body(body.finish());
    call.service = service;
    call
}

pub fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// `20260102T030405Z` for a Unix time.
pub fn amz_date(unix: i64) -> String {
    let (days, seconds) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    // Days to civil date, after Howard Hinnant.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

fn now() -> i64 {
    let clock = nexusgrid_env::Env::real().clock;
    (clock.wall().0 / 1000) as i64
}

fn query_text(query: &[(String, String)]) -> String {
    let mut sorted = query.to_vec();
    sorted.sort();
    let pairs: Vec<String> = sorted.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

impl Call {
    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn unsigned_header(mut self, name: &str, value: &str) -> Call {
        self.unsigned.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Call {
        self.body = body.into();
        self
    }

    pub fn by(mut self, key: &str) -> Call {
        self.key = key.to_owned();
        self.secret = secret(key);
        self
    }

    /// Signed with this key and secret.
    pub fn with(mut self, key: &str, secret: &str) -> Call {
        self.key = key.to_owned();
        self.secret = secret.to_owned();
        self
    }

    pub fn payload(mut self, says: &'static str) -> Call {
        self.payload = Payload::Says(says);
        self
    }

    pub fn at(mut self, shift: i64) -> Call {
        self.shift = shift;
        self
    }

    pub fn signing_key(&self, date: &str) -> Vec<u8> {
        let key = hmac(format!("AWS4{}", self.secret).as_bytes(), &date[..8]);
        let key = hmac(&key, &self.region);
        let key = hmac(&key, self.service);
        hmac(&key, "aws4_request")
    }

    /// The request as it goes out, and its signature with the date it was made for.
    pub fn sign(&self) -> (Request<Bytes>, String, String) {
        let date = amz_date(now() + self.shift);
        let payload = match &self.payload {
            Payload::Hash => sha256(&self.body),
            Payload::Says(value) => (*value).to_owned(),
        };
        let mut headers: Vec<(String, String)> = vec![
            ("host".into(), HOST.into()),
            ("x-amz-content-sha256".into(), payload.clone()),
            ("x-amz-date".into(), date.clone()),
        ];
        headers.extend(self.headers.iter().map(|(n, v)| (n.to_lowercase(), v.clone())));
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let canonical = format!(
            "{}\n{}\n{}\n{lines}\n{names}\n{payload}",
            self.method,
            self.path,
            query_text(&self.query)
        );
        let scope = format!("{}/{}/{}/aws4_request", &date[..8], self.region, self.service);
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let signature = hex(&hmac(&self.signing_key(&date), &to_sign));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.key
        );
        headers.push(("authorization".into(), authorization));
        headers.push(("content-length".into(), self.body.len().to_string()));
        headers.extend(self.unsigned.iter().cloned());
        (self.request(&self.query, &headers), signature, date)
    }

    /// The request with its signature in the query, valid for so many seconds.
    pub fn presign(&self, seconds: u64) -> Request<Bytes> {
        let date = amz_date(now() + self.shift);
        let scope = format!("{}/{}/{}/aws4_request", &date[..8], self.region, self.service);
        let mut query = self.query.clone();
        let credential = format!("{}/{scope}", self.key).replace('/', "%2F");
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", credential),
            ("X-Amz-Date", date.clone()),
            ("X-Amz-Expires", seconds.to_string()),
            ("X-Amz-SignedHeaders", "host".to_owned()),
        ] {
            query.push((name.to_owned(), value));
        }
        let canonical = format!(
            "{}\n{}\n{}\nhost:{HOST}\n\nhost\nUNSIGNED-PAYLOAD",
            self.method,
            self.path,
            query_text(&query)
        );
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let signature = hex(&hmac(&self.signing_key(&date), &to_sign));
        query.push(("X-Amz-Signature".to_owned(), signature));
        let mut headers = vec![("host".to_owned(), HOST.to_owned())];
        headers.push(("content-length".into(), self.body.len().to_string()));
        headers.extend(self.unsigned.iter().cloned());
        self.request(&query, &headers)
    }

    pub fn request(
        &self,
        query: &[(String, String)],
        headers: &[(String, String)],
    ) -> Request<Bytes> {
        let uri = match query_text(query) {
            query if query.is_empty() => self.path.clone(),
            query => format!("{}?{query}", self.path),
        };
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.parse().unwrap();
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        request
    }

    pub async fn send(&self, gateway: &Gateway) -> Reply {
        send(gateway, self.sign().0).await
    }

    /// Makes an aws-chunked body of signed chunks, with a trailer if given, and signs it all.
    /// `spoil` may change the encoded body.
    pub fn chunked(
        mut self,
        chunks: &[&[u8]],
        trailer: Option<(&str, &str)>,
        spoil: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> Request<Bytes> {
        let decoded: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        self.payload = Payload::Says(match trailer {
            None => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            Some(_) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        });
        self = self
            .header("x-amz-decoded-content-length", &decoded.to_string())
            .header("content-encoding", "aws-chunked");
        if let Some((name, _)) = trailer {
            self = self.header("x-amz-trailer", name);
        }
        let (_, mut previous, date) = self.sign();
        let scope = format!("{}/{}/{}/aws4_request", &date[..8], self.region, self.service);
        let key = self.signing_key(&date);
        let mut body = Vec::new();
        let empty: &[u8] = b"";
        for chunk in chunks.iter().copied().chain([empty]) {
            let to_sign = format!(
                "AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{scope}\n{previous}\n{}\n{}",
                sha256(b""),
                sha256(chunk)
            );
            previous = hex(&hmac(&key, &to_sign));
            body.extend(format!("{:x};chunk-signature={previous}\r\n", chunk.len()).bytes());
            body.extend(chunk);
            if !chunk.is_empty() || trailer.is_none() {
                body.extend(b"\r\n");
            }
        }
        if let Some((name, value)) = trailer {
            let to_sign = format!(
                "AWS4-HMAC-SHA256-TRAILER\n{date}\n{scope}\n{previous}\n{}",
                sha256(format!("{name}:{value}\n").as_bytes())
            );
            let signature = hex(&hmac(&key, &to_sign));
            body.extend(
                format!("{name}:{value}\r\nx-amz-trailer-signature:{signature}\r\n\r\n").bytes(),
            );
        }
        self.with_wire_body(spoil(body))
    }

    /// An aws-chunked body of unsigned chunks with a trailer.
    pub fn unsigned_chunked(
        mut self,
        wire: Vec<u8>,
        decoded: usize,
        trailer: &str,
    ) -> Request<Bytes> {
        self.payload = Payload::Says("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        self.header("x-amz-decoded-content-length", &decoded.to_string())
            .header("x-amz-trailer", trailer)
            .with_wire_body(wire)
    }

    fn with_wire_body(self, wire: Vec<u8>) -> Request<Bytes> {
        let (mut request, _, _) = self.sign();
        request.headers_mut().insert("content-length", HeaderValue::from(wire.len()));
        *request.body_mut() = Bytes::from(wire);
        request
    }
}

pub async fn send(gateway: &Gateway, request: Request<Bytes>) -> Reply {
    let reply = gateway.handle(request.map(Full::new)).await;
    let (parts, mut body) = reply.into_parts();
    let mut bytes = Vec::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Reply { status: parts.status.as_u16(), headers: parts.headers, body: bytes.into(), whole }
}
