//! The client: a pool of connections per peer and channel, and what a failure means.
//!
//! State: idle connections, the pause after a failed connect. A connection carries one call at a
//! time; it returns to the pool only after its reply was read to the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use nexusgrid_env::{
    BootInstant, Env, NodeId, Peer, Roles, RpcError, RpcRequest, RpcResponse, RpcService,
};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::net;
use super::router::RpcRouter;
use super::transport::{ShardTransport, TransportOptions};
use super::wire::{self, Covered, Direction, MacKey, Parts, SESSION_LEN};
use crate::directory::NodeDirectory;
use crate::limits;
use crate::method::{self, Channel, MethodSpec};
use crate::tls::{IdentityCell, tls_error};

pub(crate) struct Client {
    env: Env,
    options: Arc<TransportOptions>,
    identity: Arc<IdentityCell>,
    directory: Arc<dyn NodeDirectory>,
    router: Arc<RpcRouter>,
    peers: Mutex<BTreeMap<NodeId, Arc<PeerPool>>>,
}

/// Connections to one peer.
struct PeerPool {
    control: Lane,
    shard: Lane,
    backoff: Mutex<Backoff>,
}

/// Connections of one channel.
struct Lane {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Connection>>,
}

#[derive(Default)]
struct Backoff {
    pause: Duration,
    until: Option<(SocketAddr, BootInstant)>,
}

struct Connection {
    sender: SendRequest<Parts>,
    addr: SocketAddr,
    /// Certificate epoch it was made under.
    epoch: u64,
    /// Exported from its TLS session.
    exported: Option<[u8; 32]>,
    /// Set on plain shard connections.
    mac: Option<MacKey>,
    /// Calls made on it.
    calls: u64,
    idle_since: BootInstant,
}

/// How far a call has come, to say what its failure means.
#[derive(Default)]
struct Progress {
    handed_over: AtomicBool,
}

impl Client {
    pub(crate) fn new(
        env: Env,
        options: Arc<TransportOptions>,
        identity: Arc<IdentityCell>,
        directory: Arc<dyn NodeDirectory>,
        router: Arc<RpcRouter>,
    ) -> Client {
        Client { env, options, identity, directory, router, peers: Mutex::default() }
    }

    pub(crate) async fn call(
        &self,
        to: NodeId,
        request: RpcRequest,
        deadline: Duration,
    ) -> Result<RpcResponse, RpcError> {
        let spec = self.router.spec(request.method).ok_or_else(|| {
            RpcError::Refused(format!("unknown method {:#06x}", request.method.0))
        })?;
        if request.head.len() > spec.request.head || request.body.len() > spec.request.body {
            return Err(RpcError::Refused(format!("{}: the request is too large", spec.name)));
        }
        let deadline = deadline.min(spec.deadline_max);
        if to == self.identity.node() {
            return self.call_self(to, request, deadline).await;
        }
        let record = self
            .directory
            .lookup(to)
            .ok_or_else(|| RpcError::Unreachable(to, "it is not in the node table".into()))?;
        if record.revoked {
            return Err(RpcError::Unreachable(to, "it was removed from the cluster".into()));
        }
        let progress = Progress::default();
        let call = self.call_remote(to, record.rpc_addr, &spec, request, deadline, &progress);
        match timeout(deadline, call).await {
            Ok(result) => result,
            Err(_) if progress.handed_over.load(Ordering::Acquire) => {
                Err(RpcError::Unknown(to, format!("{}: no answer in time", spec.name)))
            }
            Err(_) => Err(RpcError::Unreachable(to, "not connected in time".into())),
        }
    }

    async fn call_self(
        &self,
        own: NodeId,
        request: RpcRequest,
        deadline: Duration,
    ) -> Result<RpcResponse, RpcError> {
        let roles = self.directory.lookup(own).map_or(Roles::default(), |record| record.roles);
        let router = Arc::clone(&self.router);
        // A task, as if it came over the network: the caller's giving up does not cancel it.
        let running = self
            .env
            .exec
            .spawn(async move { router.serve(Peer { node: own, roles }, request).await });
        match timeout(deadline, running).await {
            Ok(Ok(Some(result))) => result,
            Ok(Ok(None)) => Err(RpcError::Unknown(own, "the node is stopping".into())),
            Ok(Err(_)) => Err(RpcError::Failed("the service panicked".into())),
            Err(_) => Err(RpcError::Unknown(own, "no answer in time".into())),
        }
    }

    async fn call_remote(
        &self,
        to: NodeId,
        addr: SocketAddr,
        spec: &MethodSpec,
        request: RpcRequest,
        deadline: Duration,
        progress: &Progress,
    ) -> Result<RpcResponse, RpcError> {
        let pool = self.pool(to);
        let on_shard = spec.channel != Channel::Control;
        let lane = if on_shard { &pool.shard } else { &pool.control };
        let _permit = lane.acquire(to).await?;
        let started = self.env.clock.now();
        loop {
            let (mut connection, reused) = match self.take_idle(lane, addr).await {
                Some(connection) => (connection, true),
                None if on_shard => (self.connect_shard(&pool, to, addr).await?, false),
                None => (self.connect_tls(&pool, to, addr).await?, false),
            };
            let left = deadline.saturating_sub(self.env.clock.now().since(started));
            progress.handed_over.store(true, Ordering::Release);
            match self.exchange(&mut connection, to, spec, &request, left).await {
                Ok(reply) => {
                    self.give_back(lane, connection);
                    return reply;
                }
                Err(Broken::NotSent(_)) if reused => {
                    // The peer closed an idle connection; nothing was sent.
                    progress.handed_over.store(false, Ordering::Release);
                }
                Err(Broken::NotSent(why)) => return Err(RpcError::Unreachable(to, why)),
                Err(Broken::Refused(why)) => return Err(RpcError::Refused(why)),
                Err(Broken::Unknown(why)) => return Err(RpcError::Unknown(to, why)),
            }
        }
    }

    fn pool(&self, to: NodeId) -> Arc<PeerPool> {
        let per_lane = self.options.connections_per_peer_max.max(1);
        let mut peers = self.peers.lock();
        Arc::clone(peers.entry(to).or_insert_with(|| {
            Arc::new(PeerPool {
                control: Lane::new(per_lane),
                shard: Lane::new(per_lane),
                backoff: Mutex::default(),
            })
        }))
    }

    /// The idle connection used last, if there is a live one.
    async fn take_idle(&self, lane: &Lane, addr: SocketAddr) -> Option<Connection> {
        loop {
            let mut connection = lane.idle.lock().pop()?;
            let idle = self.env.clock.now().since(connection.idle_since);
            if connection.addr == addr
                && connection.epoch == self.identity.epoch()
                && idle < self.options.idle_timeout
                && connection.sender.ready().await.is_ok()
            {
                return Some(connection);
            }
        }
    }

    fn give_back(&self, lane: &Lane, mut connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let now = self.env.clock.now();
        connection.idle_since = now;
        let mut idle = lane.idle.lock();
        idle.retain(|other| now.since(other.idle_since) < self.options.idle_timeout);
        idle.push(connection);
    }

    async fn connect_tls(
        &self,
        pool: &PeerPool,
        to: NodeId,
        addr: SocketAddr,
    ) -> Result<Connection, RpcError> {
        self.check_backoff(pool, to, addr)?;
        let epoch = self.identity.epoch();
        let tls = self.identity.current();
        let name: ServerName<'static> =
            tls.peer_name(to).map_err(|error| RpcError::Unreachable(to, error.to_string()))?;
        let connecting = async {
            let stream = net::connect(addr).await.map_err(|error| error.to_string())?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.client));
            let stream =
                connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            let exported =
                stream.get_ref().1.export_keying_material([0; 32], wire::EXPORTER_LABEL, None).ok();
            let sender = self.handshake(stream).await?;
            Ok((sender, exported))
        };
        let (sender, exported) = self.connected(pool, to, addr, connecting).await?;
        Ok(Connection {
            sender,
            addr,
            epoch,
            exported,
            mac: None,
            calls: 0,
            idle_since: self.env.clock.now(),
        })
    }

    /// A connection for shards: asks for a session over TLS and claims it with a plain connection;
    /// or a TLS connection, if either end is configured so.
    async fn connect_shard(
        &self,
        pool: &PeerPool,
        to: NodeId,
        addr: SocketAddr,
    ) -> Result<Connection, RpcError> {
        if self.options.shard_transport == ShardTransport::Tls {
            return self.connect_tls(pool, to, addr).await;
        }
        let (session, exported) = {
            let _permit = pool.control.acquire(to).await?;
            let mut control = match self.take_idle(&pool.control, addr).await {
                Some(control) => control,
                None => self.connect_tls(pool, to, addr).await?,
            };
            let hello = RpcRequest {
                method: method::SHARD_HELLO.id,
                head: Bytes::new(),
                body: Bytes::new(),
            };
            let limit = self.options.connect_timeout;
            let exchange = self.exchange(&mut control, to, &method::SHARD_HELLO, &hello, limit);
            // Whatever goes wrong with the hello, the call itself was not sent.
            let reply = match timeout(limit, exchange).await {
                Ok(Ok(reply)) => reply?,
                Ok(Err(Broken::Refused(why))) => return Err(RpcError::Refused(why)),
                Ok(Err(Broken::NotSent(why) | Broken::Unknown(why))) => {
                    return Err(RpcError::Unreachable(to, why));
                }
                Err(_) => {
                    return Err(RpcError::Unreachable(to, "no shard session in time".into()));
                }
            };
            let exported = control.exported;
            self.give_back(&pool.control, control);
            (reply.head, exported)
        };
        if session.is_empty() {
            return self.connect_tls(pool, to, addr).await;
        }
        let failed = |why: &str| RpcError::Unreachable(to, format!("shard session: {why}"));
        let session: [u8; SESSION_LEN] =
            session.as_ref().try_into().map_err(|_| failed("malformed"))?;
        let exported = exported.ok_or_else(|| failed("no exporter"))?;
        let mac = MacKey::derive(&exported, &session).ok_or_else(|| failed("no key"))?;
        let epoch = self.identity.epoch();
        let connecting = async {
            let mut stream = net::connect(addr).await.map_err(|error| error.to_string())?;
            let mut preface = vec![wire::SHARD_PREFACE_MARK, wire::SHARD_PREFACE_VERSION];
            preface.extend(session);
            stream.write_all(&preface).await.map_err(|error| error.to_string())?;
            self.handshake(stream).await
        };
        let sender = self.connected(pool, to, addr, connecting).await?;
        Ok(Connection {
            sender,
            addr,
            epoch,
            exported: None,
            mac: Some(mac),
            calls: 0,
            idle_since: self.env.clock.now(),
        })
    }

    async fn handshake<S>(&self, stream: S) -> Result<SendRequest<Parts>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_headers(limits::RPC_HTTP_HEADERS_MAX)
            .max_buf_size(512 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        self.env.exec.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection to a peer ended");
            }
        });
        Ok(sender)
    }

    fn check_backoff(&self, pool: &PeerPool, to: NodeId, addr: SocketAddr) -> Result<(), RpcError> {
        match pool.backoff.lock().until {
            Some((failed, until)) if failed == addr && self.env.clock.now() < until => {
                Err(RpcError::Unreachable(to, "it could not be reached a moment ago".into()))
            }
            _ => Ok(()),
        }
    }

    /// Bounds a connect and keeps the peer's pause.
    async fn connected<T>(
        &self,
        pool: &PeerPool,
        to: NodeId,
        addr: SocketAddr,
        connecting: impl Future<Output = Result<T, String>>,
    ) -> Result<T, RpcError> {
        let result = match timeout(self.options.connect_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err("connecting took too long".into()),
        };
        let mut backoff = pool.backoff.lock();
        result.inspect(|_| *backoff = Backoff::default()).map_err(|why| {
            let doubled = backoff.pause * 2;
            backoff.pause = doubled.clamp(self.options.backoff_min, self.options.backoff_max);
            backoff.until = Some((addr, self.env.clock.now().plus(backoff.pause)));
            tracing::debug!(peer = %to, %addr, %why, "connecting failed");
            RpcError::Unreachable(to, why)
        })
    }

    /// One call on one connection. The outer error says that the connection is of no more use.
    async fn exchange(
        &self,
        connection: &mut Connection,
        to: NodeId,
        spec: &MethodSpec,
        request: &RpcRequest,
        deadline: Duration,
    ) -> Result<Result<RpcResponse, RpcError>, Broken> {
        let count = connection.calls;
        connection.calls += 1;
        let deadline_ms = wire::millis(deadline);
        let mut http_request = Request::post(wire::path(spec.id))
            .header(http::header::HOST, "nexusgrid")
            .header(wire::HEAD, request.head.len())
            .header(wire::DEADLINE, deadline_ms);
        if let Some(mac) = &connection.mac {
            let covered = Covered {
                direction: Direction::Request,
                code: spec.id.0,
                deadline_ms,
                head: &request.head,
                body: &request.body,
                body_covered: true,
            };
            let tag = mac
                .tag(count, &covered)
                .ok_or_else(|| Broken::NotSent("the MAC could not be computed".into()))?;
            http_request = http_request.header(wire::TAG, tag);
        }
        let http_request = http_request
            .body(Parts::new(request.head.clone(), request.body.clone()))
            .map_err(|error| Broken::NotSent(error.to_string()))?;

        let response = match connection.sender.try_send_request(http_request).await {
            Ok(response) => response,
            Err(mut error) => {
                let not_sent = error.take_message().is_some();
                let error = error.into_error();
                return Err(Broken::of(not_sent, &error));
            }
        };
        let (http_head, body) = response.into_parts();
        let status = http_head.status;
        let (head_len, body_len) = wire::lengths(&http_head.headers, &body)
            .ok_or_else(|| Broken::Unknown("a reply without lengths".into()))?;
        let (head_max, body_max) = if status == StatusCode::OK {
            (spec.reply.head, spec.reply.body)
        } else {
            (limits::RPC_ERROR_TEXT_BYTES_MAX, 0)
        };
        if head_len > head_max || body_len > body_max {
            return Err(Broken::Unknown("the reply is too large".into()));
        }
        let (head, body) = wire::read(body, head_len, body_len)
            .await
            .map_err(|error| Broken::of(false, &error))?;
        if let Some(mac) = &connection.mac {
            let covered = Covered {
                direction: Direction::Reply,
                code: status.as_u16(),
                deadline_ms: 0,
                head: &head,
                body: &body,
                body_covered: status != StatusCode::OK || spec.channel != Channel::ShardRead,
            };
            let tag = http_head.headers.get(wire::TAG).map(HeaderValue::as_bytes);
            if !mac.verify(count, &covered, tag) {
                tracing::warn!(peer = %to, "a shard reply does not verify");
                return Err(Broken::Unknown("the reply's MAC is wrong".into()));
            }
        }
        Ok(if status == StatusCode::OK {
            Ok(RpcResponse { head, body })
        } else {
            Err(wire::error_of(to, status, &head))
        })
    }
}

/// A connection that failed during a call.
enum Broken {
    /// The request was not written.
    NotSent(String),
    /// The peer does not accept our certificate.
    Refused(String),
    /// It may have arrived.
    Unknown(String),
}

impl Broken {
    fn of(not_sent: bool, error: &hyper::Error) -> Broken {
        // In TLS 1.3 a server's verdict on our certificate arrives after the handshake.
        if let Some(rustls::Error::AlertReceived(alert)) = tls_error(error) {
            return Broken::Refused(format!("the peer refused our certificate: {alert:?}"));
        }
        if not_sent { Broken::NotSent(error.to_string()) } else { Broken::Unknown(describe(error)) }
    }
}

fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl Lane {
    fn new(connections: usize) -> Lane {
        Lane {
            permits: Arc::new(Semaphore::new(connections)),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    async fn acquire(&self, to: NodeId) -> Result<OwnedSemaphorePermit, RpcError> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = Waiting::begin(&self.waiting);
        if waiting.before >= limits::RPC_WAITERS_PER_PEER_MAX {
            return Err(RpcError::Busy(format!("too many calls wait for {to}")));
        }
        Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| RpcError::Unreachable(to, "the node is stopping".into()))
    }
}

/// Counts a waiter, also when it gives up.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl Waiting<'_> {
    fn begin(count: &AtomicUsize) -> Waiting<'_> {
        Waiting { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
