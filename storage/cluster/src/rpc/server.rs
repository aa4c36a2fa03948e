//! The server: accepts, authenticates, bounds, dispatches.
//!
//! State: the table of shard sessions offered and not yet claimed; counters of what is in flight.
//! Nothing here trusts a byte before it is bounded: first byte, handshake, HTTP head and body each
//! have a deadline and a length.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use nexusgrid_env::{
    BootInstant, Env, MethodId, NodeId, Peer, Roles, RpcError, RpcRequest, RpcResponse, RpcService,
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::net;
use super::router::RpcRouter;
use super::transport::{ShardTransport, TransportOptions};
use super::wire::{self, Covered, Direction, Line, MacKey, Parts, SESSION_LEN};
use crate::ca::NodeCertificate;
use crate::directory::NodeDirectory;
use crate::limits;
use crate::method::{self, Channel, MethodSpec};
use crate::renew;
use crate::tls::IdentityCell;

/// Answers with what it was sent.
pub(crate) struct Ping;

#[async_trait]
impl RpcService for Ping {
    async fn serve(&self, _from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        Ok(RpcResponse { head: request.head, body: request.body })
    }
}

pub(crate) struct Server {
    env: Env,
    options: Arc<TransportOptions>,
    identity: Arc<IdentityCell>,
    directory: Arc<dyn NodeDirectory>,
    router: Arc<RpcRouter>,
    connections: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
    /// In KiB, because a semaphore counts in `u32` steps.
    in_flight_kib: Arc<Semaphore>,
    in_flight_by_peer: Mutex<BTreeMap<NodeId, Arc<Semaphore>>>,
    sessions: Mutex<BTreeMap<[u8; SESSION_LEN], OfferedSession>>,
}

struct OfferedSession {
    peer: NodeCertificate,
    key: MacKey,
    expires: BootInstant,
}

/// Who is at the other end of a connection, as its handshake proved.
#[derive(Clone, Debug)]
enum Who {
    /// TLS without a certificate.
    Anonymous,
    /// TLS with a node's certificate, or a shard session opened under one.
    Node(NodeCertificate),
    /// A certificate of this CA that is not a node's.
    Foreign(String),
}

/// One connection.
struct Connection {
    who: Who,
    /// Exported from its TLS session, to derive shard sessions from.
    exported: Option<[u8; 32]>,
    /// Set on shard connections.
    mac: Option<MacKey>,
    /// Calls seen on a shard connection.
    calls: AtomicU64,
    /// A call did not verify: nothing on this connection can be believed any more.
    spoiled: AtomicBool,
    remote: SocketAddr,
}

impl Server {
    pub(crate) fn new(
        env: Env,
        options: Arc<TransportOptions>,
        identity: Arc<IdentityCell>,
        directory: Arc<dyn NodeDirectory>,
        router: Arc<RpcRouter>,
    ) -> Arc<Server> {
        Arc::new(Server {
            connections: Arc::new(Semaphore::new(options.connections_max)),
            in_flight: Arc::new(Semaphore::new(options.in_flight_max)),
            in_flight_kib: Arc::new(Semaphore::new(options.in_flight_bytes_max >> 10)),
            in_flight_by_peer: Mutex::default(),
            sessions: Mutex::default(),
            env,
            options,
            identity,
            directory,
            router,
        })
    }

    /// Accepts connections until the agent stops.
    pub(crate) async fn accept(self: Arc<Server>, listener: net::Listener) {
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: they come back as connections end.
                    tracing::warn!(%error, "accepting a connection failed");
                    self.env.clock.sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                tracing::warn!(%remote, "too many connections: closing this one");
                continue;
            };
            let server = Arc::clone(&self);
            self.env.exec.spawn(async move {
                let _permit = permit;
                if let Err(why) = server.connection(stream, remote).await {
                    tracing::debug!(%remote, %why, "connection ended");
                }
            });
        }
    }

    async fn connection(
        self: Arc<Server>,
        mut stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<(), String> {
        let handshake = self.options.handshake_timeout;
        let mut first = [0; 1];
        let peeked = timeout(handshake, stream.peek(&mut first)).await.map_err(text)?;
        if peeked.map_err(text)? == 0 {
            return Ok(());
        }
        match first {
            [wire::TLS_HANDSHAKE] => {
                let acceptor =
                    tokio_rustls::TlsAcceptor::from(Arc::clone(&self.identity.current().server));
                let accepted = timeout(handshake, acceptor.accept(stream)).await.map_err(text)?;
                let stream = match accepted {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%remote, %error, "refused a TLS handshake");
                        return Err(error.to_string());
                    }
                };
                let (_, tls) = stream.get_ref();
                let who = match tls.peer_certificates().and_then(|chain| chain.first()) {
                    None => Who::Anonymous,
                    Some(certificate) => match NodeCertificate::parse(certificate) {
                        Ok(node) if node.cluster == self.identity.cluster() => Who::Node(node),
                        Ok(node) => Who::Foreign(format!("of cluster {}", node.cluster)),
                        Err(error) => Who::Foreign(error.to_string()),
                    },
                };
                let exported = tls.export_keying_material([0; 32], wire::EXPORTER_LABEL, None).ok();
                self.http(Connection::new(who, exported, None, remote), stream).await
            }
            [wire::SHARD_PREFACE_MARK] => {
                let mut preface = [0; wire::SHARD_PREFACE_LEN];
                timeout(handshake, stream.read_exact(&mut preface))
                    .await
                    .map_err(text)?
                    .map_err(text)?;
                let session = self.claim(&preface).ok_or_else(|| {
                    tracing::warn!(%remote, "refused a shard connection of no open session");
                    "no such shard session".to_owned()
                })?;
                let connection =
                    Connection::new(Who::Node(session.peer), None, Some(session.key), remote);
                self.http(connection, stream).await
            }
            _ => Err("neither TLS nor a shard connection".into()),
        }
    }

    async fn http<S>(self: &Arc<Server>, connection: Connection, stream: S) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let head_timeout = match connection.who {
            Who::Node(_) => self.options.head_timeout,
            Who::Anonymous | Who::Foreign(_) => self.options.handshake_timeout,
        };
        let connection = Arc::new(connection);
        let service = hyper::service::service_fn(|request| {
            let server = Arc::clone(self);
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(server.answer(&connection, request).await) }
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_headers(limits::RPC_HTTP_HEADERS_MAX)
            .max_buf_size(512 * 1024)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(text)
    }

    async fn answer(
        self: &Arc<Server>,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Response<Parts> {
        // Both ends count every call, also those refused below, so that the numbers stay equal.
        let count = connection.calls.fetch_add(1, Ordering::Relaxed);
        let method = wire::method(request.uri().path());
        let (result, drained) = match method {
            Some(method) if request.method() == http::Method::POST => {
                self.handle(connection, count, method, request).await
            }
            _ if connection.mac.is_some() => (Err(connection.spoil()), false),
            _ => (Err(RpcError::Refused("there is nothing here".into())), false),
        };
        let channel = method.and_then(|method| self.router.spec(method)).map(|spec| spec.channel);
        let (status, head, body, body_covered) = match result {
            Ok(reply) => {
                (StatusCode::OK, reply.head, reply.body, channel != Some(Channel::ShardRead))
            }
            Err(error) => {
                tracing::debug!(remote = %connection.remote, %error, "call failed");
                let (status, text) = wire::error_reply(&error);
                (status, text, Bytes::new(), true)
            }
        };
        let spoiled = connection.spoiled.load(Ordering::Relaxed);
        let mut reply = Response::builder().status(status).header(wire::HEAD, head.len());
        if let Some(mac) = connection.mac.as_ref().filter(|_| !spoiled) {
            let covered = Covered {
                direction: Direction::Reply,
                code: status.as_u16(),
                deadline_ms: 0,
                head: &head,
                body: &body,
                body_covered,
            };
            if let Some(tag) = mac.tag(count, &covered) {
                reply = reply.header(wire::TAG, tag);
            }
        }
        if spoiled || !drained {
            reply = reply.header(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        reply.body(Parts::new(head, body)).unwrap_or_else(|_| {
            let mut reply = Response::new(Parts::new(Bytes::new(), Bytes::new()));
            *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            reply
        })
    }

    /// The result, and whether the request's body was read to its end.
    async fn handle(
        self: &Arc<Server>,
        connection: &Connection,
        count: u64,
        method: MethodId,
        request: Request<Incoming>,
    ) -> (Result<RpcResponse, RpcError>, bool) {
        let (http_head, body) = request.into_parts();
        let headers = &http_head.headers;
        let Some((head_len, body_len)) = wire::lengths(headers, &body) else {
            if connection.mac.is_some() {
                return (Err(connection.spoil()), false);
            }
            return (Err(RpcError::Refused("lengths are missing or wrong".into())), false);
        };
        let deadline_ms = wire::number(headers, wire::DEADLINE).unwrap_or(u64::MAX);
        let tag = headers.get(wire::TAG).map(HeaderValue::as_bytes);
        if let Some(mac) = &connection.mac {
            let line = Line {
                direction: Direction::Request,
                code: method.0,
                deadline_ms,
                head_len,
                body_len,
                body_covered: true,
            };
            if connection.spoiled.load(Ordering::Relaxed) || !mac.verify_line(count, &line, tag) {
                return (Err(connection.spoil()), false);
            }
        }
        let admitted = self
            .identify(connection)
            .and_then(|peer| {
                let spec = self.router.admit(&peer, method, head_len, body_len)?;
                if connection.mac.is_some() && spec.channel == Channel::Control {
                    return Err(RpcError::Refused(format!(
                        "{} is not for the shard channel",
                        spec.name
                    )));
                }
                Ok((peer, spec))
            })
            .and_then(|(peer, spec)| {
                Ok((peer, spec, self.reserve(&peer, &spec, head_len + body_len)?))
            });
        let (peer, spec, permits) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                // A known node gets to send the rest, so that it reads the answer and keeps the
                // connection; a stranger does not.
                let may_drain = matches!(connection.who, Who::Node(_))
                    && head_len + body_len <= limits::RPC_BODY_BYTES_MAX;
                return (Err(error), may_drain && self.drain(body).await);
            }
        };
        let received = timeout(self.options.body_timeout, wire::read(body, head_len, body_len));
        let (head, body) = match received.await {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => return (Err(RpcError::Refused(error.to_string())), false),
            Err(_) => {
                tracing::warn!(remote = %connection.remote, "a body came too slowly");
                return (Err(RpcError::Refused("the body came too slowly".into())), false);
            }
        };
        if let Some(mac) = &connection.mac {
            let covered = Covered {
                direction: Direction::Request,
                code: method.0,
                deadline_ms,
                head: &head,
                body: &body,
                body_covered: true,
            };
            if !mac.verify(count, &covered, tag) {
                return (Err(connection.spoil()), true);
            }
        }
        if spec.id == method::SHARD_HELLO.id {
            return (self.shard_hello(connection), true);
        }
        if spec.id == method::RENEW.id
            && let Who::Node(certificate) = &connection.who
            && renew::claimed_generation(&head) != Some(certificate.generation)
        {
            let why = "a renewal must name the certificate that it is asked with";
            return (Err(RpcError::Refused(why.into())), true);
        }
        let deadline = Duration::from_millis(deadline_ms).min(spec.deadline_max);
        let router = Arc::clone(&self.router);
        // A task of its own: what was begun is finished, even if the caller hangs up.
        let running = self.env.exec.spawn(async move {
            let reply = router.serve(peer, RpcRequest { method, head, body }).await;
            drop(permits);
            reply
        });
        let result = match timeout(deadline, running).await {
            Ok(Ok(Some(result))) => result,
            Ok(Ok(None)) => Err(RpcError::Unknown(peer.node, "the node is stopping".into())),
            Ok(Err(_)) => Err(RpcError::Failed("the service panicked".into())),
            Err(_) => Err(RpcError::Unknown(peer.node, format!("{} took too long", spec.name))),
        };
        (result, true)
    }

    async fn drain(&self, mut body: Incoming) -> bool {
        let drained = timeout(self.options.body_timeout, async {
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    return false;
                }
            }
            true
        });
        drained.await.unwrap_or(false)
    }

    /// The caller as the node table has it *now*.
    fn identify(&self, connection: &Connection) -> Result<Peer, RpcError> {
        let certificate = match &connection.who {
            Who::Anonymous => return Ok(Peer { node: NodeId(0), roles: Roles::default() }),
            Who::Foreign(why) => return Err(RpcError::Refused(why.clone())),
            Who::Node(certificate) => certificate,
        };
        let node = certificate.node;
        if self.env.clock.wall() > certificate.not_after {
            return Err(RpcError::Refused(format!("the certificate of {node} has expired")));
        }
        let Some(record) = self.directory.lookup(node) else {
            // Signed by our CA and yet unknown: our copy of the node table is behind.
            return Err(RpcError::Busy(format!("{node} is not known here yet")));
        };
        if record.revoked {
            return Err(RpcError::Refused(format!("{node} was removed from the cluster")));
        }
        if certificate.generation.saturating_add(1) < record.generation {
            return Err(RpcError::Refused(format!(
                "{node} uses certificate {}, but holds {}: a copy of an old disk?",
                certificate.generation, record.generation
            )));
        }
        Ok(Peer { node, roles: record.roles })
    }

    fn reserve(
        &self,
        peer: &Peer,
        spec: &MethodSpec,
        bytes: usize,
    ) -> Result<Vec<OwnedSemaphorePermit>, RpcError> {
        let per_peer =
            {
                let mut peers = self.in_flight_by_peer.lock();
                // Bounded by the number of nodes ever seen; entries at rest are cheap.
                Arc::clone(peers.entry(peer.node).or_insert_with(|| {
                    Arc::new(Semaphore::new(self.options.in_flight_per_peer_max))
                }))
            };
        let busy = |what: &str| RpcError::Busy(format!("too many {what} in flight"));
        let mut permits =
            vec![per_peer.try_acquire_owned().map_err(|_| busy("calls of this node"))?];
        if !spec.long_poll {
            let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
            let calls = Arc::clone(&self.in_flight).try_acquire_owned();
            permits.push(calls.map_err(|_| busy("calls"))?);
            let bytes = Arc::clone(&self.in_flight_kib).try_acquire_many_owned(kib);
            permits.push(bytes.map_err(|_| busy("bytes"))?);
        }
        Ok(permits)
    }

    /// Offers a session: the caller may claim it with one plain connection, once, soon.
    fn shard_hello(&self, connection: &Connection) -> Result<RpcResponse, RpcError> {
        if self.options.shard_transport == ShardTransport::Tls {
            // An empty answer: send shards over TLS.
            return Ok(RpcResponse::default());
        }
        let (Who::Node(peer), Some(exported)) = (&connection.who, &connection.exported) else {
            return Err(RpcError::Refused("shard sessions begin on a TLS connection".into()));
        };
        let mut session = [0; SESSION_LEN];
        self.env.rng.fill(&mut session);
        let key = MacKey::derive(exported, &session)
            .ok_or_else(|| RpcError::Failed("the session key could not be derived".into()))?;
        let now = self.env.clock.now();
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, offered| offered.expires > now);
        let unclaimed = sessions.values().filter(|offered| offered.peer.node == peer.node).count();
        if unclaimed >= limits::SHARD_UNCLAIMED_PER_PEER_MAX {
            return Err(RpcError::Busy("too many unclaimed shard sessions".into()));
        }
        let expires = now.plus(limits::SHARD_CLAIM_TIMEOUT);
        sessions.insert(session, OfferedSession { peer: *peer, key, expires });
        Ok(RpcResponse { head: Bytes::copy_from_slice(&session), body: Bytes::new() })
    }

    /// Takes an offered session out of the table: a second claim finds nothing.
    fn claim(&self, preface: &[u8; wire::SHARD_PREFACE_LEN]) -> Option<OfferedSession> {
        let (start, session) = preface.split_first_chunk::<2>()?;
        if *start != [wire::SHARD_PREFACE_MARK, wire::SHARD_PREFACE_VERSION] {
            return None;
        }
        let session: [u8; SESSION_LEN] = session.try_into().ok()?;
        let offered = self.sessions.lock().remove(&session)?;
        (offered.expires > self.env.clock.now()).then_some(offered)
    }
}

impl Connection {
    fn new(
        who: Who,
        exported: Option<[u8; 32]>,
        mac: Option<MacKey>,
        remote: SocketAddr,
    ) -> Connection {
        Connection {
            who,
            exported,
            mac,
            calls: AtomicU64::new(0),
            spoiled: AtomicBool::new(false),
            remote,
        }
    }

    /// A call does not verify: the connection is closed and nothing more is signed on it.
    fn spoil(&self) -> RpcError {
        self.spoiled.store(true, Ordering::Relaxed);
        tracing::warn!(remote = %self.remote, "a forged or altered shard call");
        RpcError::Refused("the MAC is wrong".into())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
