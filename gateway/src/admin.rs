//! The admin listener: health, readiness, metrics. Nothing here changes anything.
//!
//! Metrics tell names of operations and amounts, and so need the admin token, unless the listener
//! is bound to a loopback address. Health and readiness tell one word and are open, for probes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nexusgrid_env::Exec;
use nexusgrid_env::real::net::Listener;
use nexusgrid_iam::Secret;
use tokio_util::sync::CancellationToken;

use crate::accept::accept_until;
use crate::error::GatewayError;
use crate::limits;
use crate::metrics::SharedRegistry;

/// Whether the node can serve: `Err` says in a few words why not.
pub trait Readiness: Send + Sync + 'static {
    /// Asks.
    fn ready(&self) -> Result<(), String>;
}

/// The admin interface; cheap to clone.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    registry: SharedRegistry,
    readiness: Arc<dyn Readiness>,
    token: Option<Secret>,
}

impl Admin {
    /// An admin interface for a listener on `address`. Anything but a loopback address needs a
    /// token.
    pub fn new(
        address: SocketAddr,
        token: Option<Secret>,
        registry: SharedRegistry,
        readiness: Arc<dyn Readiness>,
    ) -> Result<Admin, GatewayError> {
        if token.is_none() && !address.ip().is_loopback() {
            return Err(GatewayError::AdminTokenMissing(address));
        }
        Ok(Admin { inner: Arc::new(Inner { registry, readiness, token }) })
    }

    /// Answers one request.
    pub fn handle<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/health" => text(StatusCode::OK, "alive\n".to_owned()),
            "/ready" => match self.inner.readiness.ready() {
                Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
                // Why not is for those with the token; a probe needs the status alone.
                Err(why) if self.authorized(request.headers()) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"))
                }
                Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
            },
            "/metrics" if !self.authorized(request.headers()) => {
                let mut reply = text(StatusCode::UNAUTHORIZED, "a bearer token is needed\n".into());
                let scheme = HeaderValue::from_static("Bearer");
                reply.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
                reply
            }
            "/metrics" => {
                let mut page = String::new();
                match prometheus_client::encoding::text::encode(
                    &mut page,
                    &self.inner.registry.lock(),
                ) {
                    Ok(()) => {
                        let mut reply = text(StatusCode::OK, page);
                        reply.headers_mut().insert(
                            header::CONTENT_TYPE,
                            HeaderValue::from_static(
                                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                            ),
                        );
                        reply
                    }
                    Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, String::new()),
                }
            }
            _ => text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
        }
    }

    fn authorized(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.inner.token else { return true };
        headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|given| token.matches(given))
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = HeaderValue::from_static("default-src 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    reply
}

/// Serves the admin interface until `shutdown`.
pub async fn serve_admin(
    listener: Listener,
    admin: Admin,
    exec: Exec,
    shutdown: CancellationToken,
) {
    let serve = move |stream| {
        let admin = admin.clone();
        async move {
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(admin.handle(&request)) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(limits::HEADER_READ_TIMEOUT)
                .max_buf_size(limits::ADMIN_HEAD_BYTES_MAX);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "admin connection ended");
            }
        }
    };
    accept_until(listener, limits::ADMIN_CONNECTIONS_MAX, exec, shutdown, serve).await;
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use parking_lot::Mutex;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::Metrics;

    struct Never;

    impl Readiness for Never {
        fn ready(&self) -> Result<(), String> {
            Err("n7 is away".to_owned())
        }
    }

    fn admin(address: &str, token: Option<&str>) -> Result<Admin, GatewayError> {
        let registry = Arc::new(Mutex::new(Registry::default()));
        Metrics::register(&registry).refused.inc();
        let token = token.map(|token| Secret::new(token.to_owned()));
        Admin::new(address.parse().unwrap(), token, registry, Arc::new(Never))
    }

    async fn ask(admin: &Admin, path: &str, token: Option<&str>) -> (u16, String) {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let reply = admin.handle(&request.body(()).unwrap());
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn metrics_need_the_token() {
        let admin = admin("10.0.0.1:9001", Some("hidden")).unwrap();
        for wrong in [None, Some(""), Some("hidde"), Some("hidden2")] {
            assert_eq!(ask(&admin, "/metrics", wrong).await.0, 401);
        }
        let (status, page) = ask(&admin, "/metrics", Some("hidden")).await;
        assert_eq!(status, 200);
        assert!(page.contains("nexusgrid_s3_refused_total 1"), "{page}");
        let (_, why) = ask(&admin, "/ready", None).await;
        assert!(!why.contains("n7"));
        let (status, why) = ask(&admin, "/ready", Some("hidden")).await;
        assert_eq!(status, 503);
        assert!(why.contains("n7"));
        assert_eq!(ask(&admin, "/health", None).await.0, 200);
        assert_eq!(ask(&admin, "/debug", Some("hidden")).await.0, 404);
    }

    #[tokio::test]
    async fn only_loopback_goes_without_a_token() {
        assert!(admin("0.0.0.0:9001", None).is_err());
        assert!(admin("192.168.1.1:9001", None).is_err());
        let local = admin("127.0.0.1:9001", None).unwrap();
        assert_eq!(ask(&local, "/metrics", None).await.0, 200);
    }
}
