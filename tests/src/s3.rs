//! A client for one connection: signs (Signature Version 4), sends, and reads the whole answer.
//!
//! Made to cost little: a body's hash is computed once per workload, a connection lives as long as
//! its client.

use anyhow::{Context, bail};
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

/// Where to measure, and as whom.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port`, plain HTTP.
    pub authority: String,
    /// Access key id.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// Region of the signature.
    pub region: String,
}

/// A body with its hash.
#[derive(Clone)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    hash: String,
}

impl Body {
    /// Hashes the bytes.
    pub fn new(bytes: Bytes) -> Body {
        Body { hash: hex(&Sha256::digest(&bytes)), bytes }
    }

    /// No bytes.
    pub fn empty() -> Body {
        Body::new(Bytes::new())
    }
}

/// What came back.
pub struct Answer {
    /// Whether it was done.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub bytes: Bytes,
}

/// One connection.
pub struct Client {
    endpoint: Endpoint,
    sender: SendRequest<Full<Bytes>>,
    /// Signing key and the day it is for.
    key: (String, [u8; 32]),
}

/// Connects without Nagle's delay.
async fn connect(authority: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(authority).await.with_context(|| authority.to_owned())?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

impl Client {
    /// Connects.
    pub async fn connect(endpoint: &Endpoint) -> anyhow::Result<Client> {
        let sender = connect(&endpoint.authority).await?;
        Ok(Client { endpoint: endpoint.clone(), sender, key: Default::default() })
    }

    /// Sends one request; gives the answer's body, or that of a refusal as error.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        body: &Body,
    ) -> anyhow::Result<Bytes> {
        let answer = self.ask(method, path, query, &[], body).await?;
        if !answer.status.is_success() {
            bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.bytes));
        }
        Ok(answer.bytes)
    }

    /// Sends one request with further headers, which the signature leaves out; gives whatever comes back.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        headers: &[(&'static str, &str)],
        body: &Body,
    ) -> anyhow::Result<Answer> {
        if self.sender.ready().await.is_err() {
            self.sender = connect(&self.endpoint.authority).await?;
        }
        let mut request = self.sign(method, path, query, body)?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value)?);
        }
        let answer = self.sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, bytes })
    }

    /// `query` is canonical already: sorted, escaped.
    fn sign(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        body: &Body,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let (day, time) = now();
        if self.key.0 != day {
            let secret = format!("AWS4{}", self.endpoint.secret_key);
            let mut key = mac(secret.as_bytes(), &day)?;
            for part in [self.endpoint.region.as_str(), "s3", "aws4_request"] {
                key = mac(&key, part)?;
            }
            self.key = (day.clone(), key);
        }
        let host = &self.endpoint.authority;
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let hash = &body.hash;
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{time}\n\n{signed}\n{hash}"
        );
        let scope = format!("{day}/{}/s3/aws4_request", self.endpoint.region);
        let digest = hex(&Sha256::digest(canonical));
        let signature =
            hex(&mac(&self.key.1, &format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}"))?);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            self.endpoint.access_key
        );
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", host)
            .header("x-amz-content-sha256", hash)
            .header("x-amz-date", time)
            .header("authorization", authorization)
            .body(Full::new(body.bytes.clone()))?;
        Ok(request)
    }
}

fn mac(key: &[u8], text: &str) -> anyhow::Result<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Today and now, as signatures write them (UTC).
fn now() -> (String, String) {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date, proleptic Gregorian: eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let date = format!("{year:04}{month:02}{day:02}");
    let (hour, minute, second) = (rest / 3_600, rest % 3_600 / 60, rest % 60);
    (date.clone(), format!("{date}T{hour:02}{minute:02}{second:02}Z"))
}
