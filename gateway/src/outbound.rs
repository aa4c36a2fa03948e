//! HTTP to the outside: what a gateway fetches because somebody named a URL.
//!
//! A name is resolved first, and the connection goes to an address that was looked at: no address of
//! a private network, of this machine or of no network at all, unless the administrator listed it.
//! No redirect is followed, a body is bounded, and the whole takes bounded time. State: the roots of
//! trust, read once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nexusgrid_env::{Disk, Env, OpenMode};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::{limits, pinned};

/// Where systems keep the certificates that they trust.
const ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A part of a private network that may be asked all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Private {
    /// All addresses that begin with so many bits of this one.
    Network(IpAddr, u8),
    /// Whatever this name resolves to.
    Host(String),
}

/// The text names no network, address or host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no address, network (such as 10.0.0.0/8) or host name")]
pub struct NotPrivate(String);

impl FromStr for Private {
    type Err = NotPrivate;

    fn from_str(text: &str) -> Result<Private, NotPrivate> {
        let wrong = || NotPrivate(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Private::Network(address, bits_of(address)));
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let bits = bits.parse().ok().filter(|bits| *bits <= bits_of(address));
            return Ok(Private::Network(address, bits.ok_or_else(wrong)?));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !text.is_empty() && text.len() <= 253 && text.chars().all(is_name) {
            Ok(Private::Host(text.to_ascii_lowercase()))
        } else {
            Err(wrong())
        }
    }
}

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The leading `bits` of an address, as a number.
fn leading(address: IpAddr, bits: u8) -> u128 {
    let (number, most) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    number.checked_shr(u32::from(most - bits.min(most))).unwrap_or(0)
}

impl Private {
    fn covers(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Private::Host(name) => name.eq_ignore_ascii_case(host),
            Private::Network(network, bits) => {
                network.is_ipv4() == address.is_ipv4()
                    && leading(*network, *bits) == leading(address, *bits)
            }
        }
    }
}

/// Whether an address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    let within =
        |network: [u8; 4], bits| leading(IpAddr::from(network), bits) == leading(address, bits);
    match address {
        IpAddr::V4(_) => {
            let others: [([u8; 4], u8); 14] = [
                ([0, 0, 0, 0], 8),
                ([10, 0, 0, 0], 8),
                ([100, 64, 0, 0], 10),
                ([127, 0, 0, 0], 8),
                ([169, 254, 0, 0], 16),
                ([172, 16, 0, 0], 12),
                ([192, 0, 0, 0], 24),
                ([192, 0, 2, 0], 24),
                ([192, 88, 99, 0], 24),
                ([192, 168, 0, 0], 16),
                ([198, 18, 0, 0], 15),
                ([198, 51, 100, 0], 24),
                ([203, 0, 113, 0], 24),
                ([224, 0, 0, 0], 3),
            ];
            !others.into_iter().any(|(network, bits)| within(network, bits))
        }
        // Of global unicast, what leads to IPv4 by way of others and what is for documents is none.
        IpAddr::V6(address) => {
            let parts = address.segments();
            let [first, second, ..] = parts;
            let is_global = first & 0xe000 == 0x2000;
            let is_special = first == 0x2002 || (first == 0x2001 && second < 0x0200);
            is_global && !is_special && !(first == 0x2001 && second == 0x0db8)
        }
    }
}

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// No URL of HTTP that names a host.
    #[error("{0} is no URL that is asked")]
    Url(String),
    /// It leads where nothing is asked.
    #[error(
        "{0} has no address that may be asked: private ones are to be listed in the configuration"
    )]
    Forbidden(String),
    /// It could not be reached, or broke off.
    #[error("{0}: {1}")]
    Failed(String, String),
    /// It answered something else than what was asked for.
    #[error("{0} answered {1}")]
    Status(String, StatusCode),
}

/// Asks the outside.
pub struct Outbound {
    env: Env,
    private: Vec<Private>,
    /// Certificates to trust beside the system's, PEM.
    roots: Option<String>,
    tls: Mutex<Option<Arc<ClientConfig>>>,
}

/// Whose URL it is, taken apart.
struct Target {
    host: String,
    port: u16,
    secure: bool,
}

impl Target {
    fn of(uri: &Uri) -> Option<Target> {
        let authority = uri.authority()?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return None;
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Some(Target { host: host.to_owned(), port, secure })
    }
}

impl Outbound {
    /// May ask public addresses, and these private ones; trusts the system's certificates and those in
    /// `roots` (PEM).
    pub fn new(env: Env, private: Vec<Private>, roots: Option<String>) -> Outbound {
        Outbound { env, private, roots, tls: Mutex::default() }
    }

    /// What `GET url` answers, if that is 200 and JSON or the like of at most
    /// [`OUTBOUND_BYTES_MAX`](limits::OUTBOUND_BYTES_MAX).
    pub async fn get(&self, url: &str) -> Result<Bytes, OutboundError> {
        let accept = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept)]);
        let (status, body) = self.within(url, Method::GET, headers, Bytes::new()).await?;
        if status != StatusCode::OK {
            return Err(OutboundError::Status(url.to_owned(), status));
        }
        Ok(body)
    }

    /// Posts a body; gives the status that was answered.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<StatusCode, OutboundError> {
        Ok(self.within(url, Method::POST, headers, body).await?.0)
    }

    /// The address of a host that may be asked, for protocols other than HTTP.
    pub async fn allowed(
        &self,
        url: &str,
        host: &str,
        port: u16,
        secure: bool,
    ) -> Result<SocketAddr, OutboundError> {
        self.address(url, &Target { host: host.to_owned(), port, secure }).await
    }

    async fn within(
        &self,
        url: &str,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), OutboundError> {
        let asked = self.ask(url, method, headers, body);
        match tokio::time::timeout(limits::OUTBOUND_TIMEOUT, asked).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let error = format!("no answer within {:?}", limits::OUTBOUND_TIMEOUT);
                Err(OutboundError::Failed(url.to_owned(), error))
            }
        }
    }

    async fn ask(
        &self,
        url: &str,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), OutboundError> {
        let failed = |error: String| OutboundError::Failed(url.to_owned(), error);
        let uri: Uri = url.parse().map_err(|_| OutboundError::Url(url.to_owned()))?;
        let target = Target::of(&uri).ok_or_else(|| OutboundError::Url(url.to_owned()))?;
        let address = self.address(url, &target).await?;
        let stream = nexusgrid_env::real::net::connect(address).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        if !target.secure {
            return self.exchange(url, &uri, (method, headers, body), stream).await;
        }
        let name = ServerName::try_from(target.host).map_err(|error| failed(error.to_string()))?;
        let tls = self.tls().await.map_err(|error| failed(error.to_string()))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        self.exchange(url, &uri, (method, headers, body), stream).await
    }

    /// The first address of a target that may be asked.
    async fn address(&self, url: &str, target: &Target) -> Result<SocketAddr, OutboundError> {
        let found = match target.host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, target.port)],
            Err(_) => {
                let name = format!("{}:{}", target.host, target.port);
                nexusgrid_env::real::net::resolve(&name)
                    .await
                    .map_err(|error| OutboundError::Failed(url.to_owned(), error.to_string()))?
            }
        };
        let may = |found: &SocketAddr| {
            let address = found.ip().to_canonical();
            let is_listed = self.private.iter().any(|one| one.covers(&target.host, address));
            // Without TLS whoever is on the way could answer.
            is_listed || (target.secure && is_public(address))
        };
        let found = found.into_iter().find(may);
        found.ok_or_else(|| OutboundError::Forbidden(url.to_owned()))
    }

    async fn exchange<S>(
        &self,
        url: &str,
        uri: &Uri,
        (method, headers, body): (Method, HeaderMap, Bytes),
        stream: S,
    ) -> Result<(StatusCode, Bytes), OutboundError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |error: String| OutboundError::Failed(url.to_owned(), error);
        let (mut sender, driver) = http1::Builder::new()
            .max_buf_size(limits::OUTBOUND_HEAD_BYTES_MAX)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        // It ends with the sender, at the end of this function.
        self.env.exec.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to the outside ended");
            }
        });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "nexusgrid")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|error| failed(error.to_string()))?;
        request.headers_mut().extend(headers);
        let reply =
            sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), limits::OUTBOUND_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| failed(error.to_string()))?.to_bytes()))
    }

    async fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = &*self.tls.lock() {
            return Ok(Arc::clone(config));
        }
        let store = self.roots().await;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(store)
            .with_no_client_auth();
        let config = Arc::new(config);
        *self.tls.lock() = Some(Arc::clone(&config));
        Ok(config)
    }

    /// How to connect by TLS to an address of [`Outbound::allowed`] for protocols other than HTTP: who
    /// answers there must prove to be `host`.
    pub async fn tls_to(&self, host: &str) -> io::Result<ClientConfig> {
        pinned::config(host, self.roots().await)
    }

    /// Whom it trusts.
    async fn roots(&self) -> RootCertStore {
        let disk = Arc::clone(&self.env.disk);
        let own = self.roots.clone();
        self.env
            .exec
            .blocking(move || {
                let mut store = RootCertStore::empty();
                for path in ROOTS {
                    if let Ok(text) = read(&*disk, Path::new(path)) {
                        add(&mut store, &text);
                        break;
                    }
                }
                add(&mut store, own.unwrap_or_default().as_bytes());
                store
            })
            .await
    }
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let length = file.len()?.min(limits::ROOTS_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}

fn add(store: &mut RootCertStore, pem: &[u8]) {
    let found = CertificateDer::pem_slice_iter(pem).flatten();
    store.add_parsable_certificates(found);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_private_networks_are_none_of_the_internet() {
        for (address, public) in [
            ("1.1.1.1", true),
            ("172.32.0.1", true),
            ("100.128.0.1", true),
            ("10.1.2.3", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.31.255.255", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700::1", true),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2002:a00:1::", false),
            ("64:ff9b::a00:1", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:1.1.1.1", true),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(is_public(address.to_canonical()), public, "{address}");
        }
    }

    #[test]
    fn listed_networks_and_hosts() {
        let covers = |text: &str, host: &str, address: &str| {
            text.parse::<Private>().unwrap().covers(host, address.parse().unwrap())
        };
        assert!(covers("10.0.0.0/8", "a", "10.9.9.9") && !covers("10.0.0.0/8", "a", "11.0.0.1"));
        assert!(covers("127.0.0.1", "a", "127.0.0.1") && !covers("127.0.0.1", "a", "127.0.0.2"));
        assert!(covers("0.0.0.0/0", "a", "10.0.0.1") && !covers("0.0.0.0/0", "a", "::1"));
        assert!(
            covers("Login.lan", "login.LAN", "10.0.0.1") && !covers("login.lan", "a", "10.0.0.1")
        );
        assert!(covers("fd00::/8", "a", "fd12::1") && !covers("fd00::/8", "a", "fe80::1"));
        for text in ["", "10.0.0.0/33", "10.0.0/8", "http://a", "a b", "a/b"] {
            assert!(text.parse::<Private>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn nothing_private_and_nothing_plain_is_asked_unless_listed() {
        let none = Outbound::new(Env::real(), Vec::new(), None);
        for url in [
            "http://127.0.0.1:1/",
            "https://127.0.0.1:1/",
            "https://[::1]:1/",
            "https://[::ffff:127.0.0.1]:1/",
            "https://localhost:1/",
            "https://169.254.169.254/latest",
            "http://1.1.1.1/",
        ] {
            let refused = none.get(url).await;
            assert!(matches!(refused, Err(OutboundError::Forbidden(_))), "{url}: {refused:?}");
        }
        for url in ["", "/", "ftp://a/", "file:///etc/passwd", "https://me@a/", "https://"] {
            let refused = none.get(url).await;
            assert!(matches!(refused, Err(OutboundError::Url(_))), "{url}: {refused:?}");
        }
    }
}
