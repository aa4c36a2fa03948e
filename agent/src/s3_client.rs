//! A small S3 client for the demo's tour: it signs real requests and talks to a node over TCP, as any
//! other client would. It never looks behind the endpoint.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use nexusgrid_env::{Clock, UnixMillis};
use sha2::{Digest, Sha256};

/// Largest answer the client takes, in bytes.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const REGION: &str = "us-east-1";

/// An access key and the endpoint it is used at.
#[derive(Clone)]
pub struct S3Client {
    /// The node.
    pub endpoint: SocketAddr,
    /// Access key id.
    pub access_key: String,
    /// Its secret; not shown.
    pub secret_key: String,
}

/// An answer.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body, or what went wrong.
    pub fn ok(self) -> anyhow::Result<Bytes> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        bail!(
            "{}: {}",
            self.status,
            String::from_utf8_lossy(&self.body).chars().take(400).collect::<String>()
        )
    }
}

impl S3Client {
    /// Makes a bucket; fine if it is there.
    pub async fn create_bucket(&self, clock: &dyn Clock, bucket: &str) -> anyhow::Result<()> {
        let answer = self.send(clock, Method::PUT, &format!("/{bucket}"), Bytes::new()).await?;
        if answer.status == StatusCode::CONFLICT {
            return Ok(());
        }
        answer.ok().map(|_| ())
    }

    /// Stores an object.
    pub async fn put(
        &self,
        clock: &dyn Clock,
        bucket: &str,
        key: &str,
        body: Bytes,
    ) -> anyhow::Result<()> {
        self.send(clock, Method::PUT, &format!("/{bucket}/{}", encode_key(key)), body)
            .await?
            .ok()
            .map(|_| ())
    }

    /// Fetches an object.
    pub async fn get(&self, clock: &dyn Clock, bucket: &str, key: &str) -> anyhow::Result<Bytes> {
        self.send(clock, Method::GET, &format!("/{bucket}/{}", encode_key(key)), Bytes::new())
            .await?
            .ok()
    }

    /// Sends one signed request (SigV4, AWS's "Authenticating Requests", header form).
    async fn send(
        &self,
        clock: &dyn Clock,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let host = self.endpoint.to_string();
        let payload_hash = hex(&Sha256::digest(&body));
        let timestamp = amz_date(clock.wall());
        let day = timestamp.get(..8).context("a wall clock before year 0")?;
        let canonical = format!(
            "{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{payload_hash}\nx-amz-date:{timestamp}\n\nhost;x-amz-content-sha256;x-amz-date\n{payload_hash}"
        );
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{}",
            hex(&Sha256::digest(canonical.as_bytes()))
        );
        let mut key = hmac(format!("AWS4{}", self.secret_key).as_bytes(), day.as_bytes())?;
        for part in [REGION, "s3", "aws4_request", &to_sign] {
            key = hmac(&key, part.as_bytes())?;
        }
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature={}",
            self.access_key,
            hex(&key)
        );
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .header("x-amz-content-sha256", payload_hash)
            .header("x-amz-date", timestamp)
            .header("authorization", authorization)
            .body(Full::new(body))?;
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request)).await.with_context(|| {
            format!("{} did not answer within {} s", self.endpoint, REQUEST_TIMEOUT.as_secs())
        })?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let stream = nexusgrid_env::real::net::connect(self.endpoint)
            .await
            .with_context(|| format!("cannot connect to {}", self.endpoint))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LEN_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?
            .to_bytes();
        drop(sender);
        driver.abort();
        Ok(Answer { status, body })
    }
}

fn hmac(key: &[u8], data: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(data);
    Ok(mac.finalize().into_bytes().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Percent-encodes all but unreserved characters and `/`.
fn encode_key(key: &str) -> String {
    key.bytes().fold(String::with_capacity(key.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// `20261122T104500Z`. The civil date of a day count: Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `civil_from_days`.
fn amz_date(now: UnixMillis) -> String {
    let seconds = now.0 / 1_000;
    let (day, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day_of_month:02}T{:02}{:02}{:02}Z",
        second_of_day / 3_600,
        second_of_day / 60 % 60,
        second_of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(amz_date(UnixMillis(0)), "19700101T000000Z");
        assert_eq!(amz_date(UnixMillis(951_782_400_000)), "20000229T000000Z");
        assert_eq!(amz_date(UnixMillis(1_795_344_300_000)), "20261122T104500Z");
    }

    #[test]
    fn keys_are_percent_encoded() {
        assert_eq!(encode_key("a/b c+é~"), "a/b%20c%2B%C3%A9~");
    }
}
