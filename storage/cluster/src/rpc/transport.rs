//! One node's end of the network: server, client, options.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nexusgrid_env::{Env, NodeId, Rpc, RpcError, RpcRequest, RpcResponse};

use super::client::Client;
use super::router::RpcRouter;
use super::server::Server;
use super::{net, server};
use crate::directory::NodeDirectory;
use crate::error::ClusterError;
use crate::method;
use crate::tls::IdentityCell;

/// How shards travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardTransport {
    /// Plain HTTP/1.1 on connections bound to the peer, each write under a MAC.
    #[default]
    Plain,
    /// Like everything else, over TLS.
    Tls,
}

/// Settings of a node's transport. Durations and bounds have defaults fit for a LAN.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Where to listen (TCP). Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// How shards travel. A node that says `Tls` neither opens nor accepts plain shard connections.
    pub shard_transport: ShardTransport,
    /// Connections that may be open to this node (default 4 096); more are closed at once.
    pub connections_max: usize,
    /// Connections this node opens to one peer, per channel (default 16).
    pub connections_per_peer_max: usize,
    /// Requests being served (default 1 024); more are answered `Busy`.
    pub in_flight_max: usize,
    /// Requests being served for one peer (default 256); more are answered `Busy`.
    pub in_flight_per_peer_max: usize,
    /// Bytes of request bodies being received or served (default 96 MiB); more: `Busy`.
    pub in_flight_bytes_max: usize,
    /// Time to connect, handshakes included (default 3 s).
    pub connect_timeout: Duration,
    /// Time a peer has for its handshake (default 5 s).
    pub handshake_timeout: Duration,
    /// Time a peer has to send a request's head, and an idle connection stays open (default 90 s;
    /// must exceed `idle_timeout`). Without a certificate: `handshake_timeout`.
    pub head_timeout: Duration,
    /// Time a peer has to send a request's body once its head is there (default 20 s).
    pub body_timeout: Duration,
    /// Idle connections are closed by the caller after this time (default 30 s).
    pub idle_timeout: Duration,
    /// After a failed connect the peer is not tried again for this time (default 50 ms), doubling
    /// up to `backoff_max`.
    pub backoff_min: Duration,
    /// Longest pause between connects (default 2 s).
    pub backoff_max: Duration,
}

impl TransportOptions {
    /// The defaults, listening on `listen`.
    pub fn new(listen: SocketAddr) -> TransportOptions {
        TransportOptions {
            listen,
            shard_transport: ShardTransport::Plain,
            connections_max: 4096,
            connections_per_peer_max: 16,
            in_flight_max: 1024,
            in_flight_per_peer_max: 256,
            in_flight_bytes_max: 96 << 20,
            connect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(90),
            body_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// A node's running server and client. Implements [`Rpc`].
pub struct Transport {
    client: Client,
    local_addr: SocketAddr,
    router: Arc<RpcRouter>,
}

impl Transport {
    /// Listens and serves `router`'s methods until `env.exec` stops.
    ///
    /// # Errors
    /// [`ClusterError::Io`] if the address cannot be bound.
    pub async fn start(
        env: Env,
        options: TransportOptions,
        identity: Arc<IdentityCell>,
        directory: Arc<dyn NodeDirectory>,
        router: Arc<RpcRouter>,
    ) -> Result<Arc<Transport>, ClusterError> {
        let io = |error| ClusterError::Io(format!("listening on {}", options.listen), error);
        let listener = net::listen(options.listen).await.map_err(io)?;
        let local_addr = listener.local_addr().map_err(io)?;
        router.declare(method::METHODS);
        router.register(&[method::PING], Arc::new(server::Ping));
        let options = Arc::new(options);
        let server = Server::new(
            env.clone(),
            Arc::clone(&options),
            Arc::clone(&identity),
            Arc::clone(&directory),
            Arc::clone(&router),
        );
        env.exec.spawn(server.accept(listener));
        let client = Client::new(env, options, identity, directory, Arc::clone(&router));
        Ok(Arc::new(Transport { client, local_addr, router }))
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The methods known here.
    pub fn router(&self) -> &Arc<RpcRouter> {
        &self.router
    }
}

#[async_trait]
impl Rpc for Transport {
    async fn call(
        &self,
        to: NodeId,
        request: RpcRequest,
        deadline: Duration,
    ) -> Result<RpcResponse, RpcError> {
        self.client.call(to, request, deadline).await
    }
}
