//! The shard channel, with an adversary on the wire.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use nexusgrid_cluster::{ShardTransport, TransportOptions};
use nexusgrid_env::{NodeId, Roles, RpcError};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// A relay that reads along on plain shard connections, and alters what it is told to.
struct Wiretap {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    alter: Arc<Mutex<Alteration>>,
    plain_connections: Arc<AtomicUsize>,
}

type Alteration = Option<(Direction, Box<dyn Fn(&mut Vec<u8>) + Send>)>;

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Reply,
}

impl Wiretap {
    async fn before(target: SocketAddr) -> Wiretap {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tap = Wiretap {
            addr: listener.local_addr().unwrap(),
            heard: Arc::default(),
            alter: Arc::default(),
            plain_connections: Arc::default(),
        };
        let (heard, alter) = (tap.heard.clone(), tap.alter.clone());
        let plain_connections = tap.plain_connections.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(target).await.unwrap();
                let mut first = [0];
                client.peek(&mut first).await.unwrap();
                let plain = first[0] != 0x16;
                plain_connections.fetch_add(usize::from(plain), Ordering::SeqCst);
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                for (direction, mut from, mut to) in [
                    (Direction::Request, client_read, server_write),
                    (Direction::Reply, server_read, client_write),
                ] {
                    let (heard, alter) = (heard.clone(), alter.clone());
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 1 << 20];
                        while let Ok(len @ 1..) = from.read(&mut buffer).await {
                            let mut bytes = buffer[..len].to_vec();
                            if plain {
                                if direction == Direction::Request {
                                    heard.lock().push(bytes.clone());
                                }
                                if let Some((which, change)) = &*alter.lock()
                                    && *which == direction
                                {
                                    change(&mut bytes);
                                }
                            }
                            if to.write_all(&bytes).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        tap
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().concat()
    }

    fn alter(&self, direction: Direction, change: impl Fn(&mut Vec<u8>) + Send + 'static) {
        *self.alter.lock() = Some((direction, Box::new(change)));
    }
}

fn replace(bytes: &mut [u8], what: &[u8], by: &[u8]) {
    if let Some(at) = bytes.windows(what.len()).position(|window| window == what) {
        bytes[at..at + by.len()].copy_from_slice(by);
    }
}

struct Tapped {
    cluster: TestCluster,
    one: TestNode,
    two: TestNode,
    tap: Wiretap,
}

async fn tapped() -> Tapped {
    let cluster = TestCluster::new(1);
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let tap = Wiretap::before(two.addr()).await;
    cluster.root.edit(2, |record| record.rpc_addr = tap.addr);
    Tapped { cluster, one, two, tap }
}

#[tokio::test]
async fn shards_travel_both_ways() {
    let Tapped { one, two, tap, .. } = tapped().await;
    for size in [0, 1, 100, 1 << 20, 2 << 20] {
        let reply = one.call(2, request(WRITE, vec![1; size])).await.unwrap();
        assert_eq!(reply.head, Bytes::from(size.to_string()));
        let reply = one.call(2, request(READ, "")).await.unwrap();
        assert_eq!((&reply.head[..], reply.body.len()), (&b"head"[..], 1 << 20));
    }
    assert_eq!(two.served(), 10);
    assert_eq!(tap.plain_connections.load(Ordering::SeqCst), 1, "one connection serves them all");
    assert!(tap.heard().windows(5).any(|bytes| bytes == [1; 5]), "it travels in plain");
}

#[tokio::test]
async fn many_shard_calls_at_once() {
    let cluster = TestCluster::new(1);
    let (one, _two) = (cluster.node(1).await, cluster.node(2).await);
    let calls = (0..100).map(|size| one.call(2, request(WRITE, vec![1; size * 1000])));
    for (size, reply) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap().head, Bytes::from((size * 1000).to_string()));
    }
}

#[tokio::test]
async fn errors_keep_the_connection() {
    let Tapped { cluster, one, tap, .. } = tapped().await;
    assert!(one.call(2, request(WRITE, "x")).await.is_ok());
    cluster.root.edit(1, |record| record.revoked = true);
    assert!(matches!(one.call(2, request(WRITE, "x")).await, Err(RpcError::Refused(_))));
    cluster.root.edit(1, |record| record.revoked = false);
    assert!(one.call(2, request(WRITE, "x")).await.is_ok());
    assert_eq!(tap.plain_connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_altered_shard_write_is_refused() {
    let Tapped { one, two, tap, .. } = tapped().await;
    assert!(one.call(2, request(WRITE, "secret body")).await.is_ok());
    type Change = (&'static [u8], &'static [u8]);
    let changes: [Change; 4] = [
        (b"secret body", b"Secret body"),
        (b"head", b"heaD"),
        (b"/v1/0404", b"/v1/0405"),
        (b"x-deadline-ms: ", b"x-deadline-ms: 0"),
    ];
    for (what, by) in changes {
        tap.alter(Direction::Request, move |bytes| {
            // Not in a header's name.
            match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) if what == b"head" => replace(&mut bytes[end..], what, by),
                _ => replace(bytes, what, by),
            }
        });
        let result = one.call(2, request(WRITE, "secret body")).await;
        assert!(matches!(result, Err(RpcError::Unknown(..))), "{what:?}: {result:?}");
        assert_eq!(two.served(), 1, "nothing altered reaches the service");
    }
    *tap.alter.lock() = None;
    assert!(one.call(2, request(WRITE, "secret body")).await.is_ok(), "a new session");
}

#[tokio::test]
async fn a_forged_acknowledgement_is_not_believed() {
    let Tapped { one, two, tap, .. } = tapped().await;
    assert!(one.call(2, request(WRITE, "body")).await.is_ok());
    // The status of a refusal turned into a success, and a number in the answer changed.
    tap.alter(Direction::Reply, |bytes| replace(bytes, b"\r\n\r\n4", b"\r\n\r\n5"));
    let result = one.call(2, request(WRITE, "body")).await;
    assert!(matches!(result, Err(RpcError::Unknown(..))), "{result:?}");
    assert_eq!(two.served(), 2);
    let Tapped { cluster, one, tap, .. } = tapped().await;
    assert!(one.call(2, request(WRITE, "body")).await.is_ok());
    cluster.root.edit(1, |record| record.revoked = true);
    tap.alter(Direction::Reply, |bytes| replace(bytes, b"400 Bad Request", b"200 Bad Request"));
    let result = one.call(2, request(WRITE, "body")).await;
    assert!(matches!(result, Err(RpcError::Unknown(..))), "{result:?}");
}

#[tokio::test]
async fn a_replayed_shard_connection_is_refused() {
    let Tapped { one, two, tap, .. } = tapped().await;
    assert!(one.call(2, request(WRITE, "body")).await.is_ok());
    let recorded = tap.heard();
    // On a connection of its own: the session was claimed.
    let mut replay = TcpStream::connect(two.addr()).await.unwrap();
    replay.write_all(&recorded).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(SOON, replay.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    // On the same connection, behind the first: the number has moved on.
    let request_bytes = recorded[18..].to_vec();
    tap.alter(Direction::Request, move |bytes| *bytes = request_bytes.clone());
    let result = one.call(2, request(WRITE, "body")).await;
    assert!(matches!(result, Err(RpcError::Unknown(..))), "{result:?}");
    assert_eq!(two.served(), 1);
}

#[tokio::test]
async fn a_session_nobody_opened_is_refused() {
    let cluster = TestCluster::new(1);
    let two = cluster.node(2).await;
    for version in [1, 2] {
        let mut stream = TcpStream::connect(two.addr()).await.unwrap();
        stream.write_all(&[&[b'N', version][..], &[7; 16]].concat()).await.unwrap();
        stream
            .write_all(
                b"POST /v1/0404 HTTP/1.1\r\nhost: x\r\nx-head: 0\r\ncontent-length: 0\r\n\r\n",
            )
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(two.served(), 0);
}

#[tokio::test]
async fn control_methods_do_not_travel_on_the_shard_channel() {
    let cluster = TestCluster::new(1);
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    // The caller believes that `echo` is a shard method.
    let lie = ECHO.channel(nexusgrid_cluster::Channel::ShardWrite);
    one.transport.router().register(&[lie], one.service.clone());
    let refused = one.call(2, echo(b"", "")).await;
    assert!(matches!(refused, Err(RpcError::Refused(_))), "{refused:?}");
    assert_eq!(two.served(), 0);
}

#[tokio::test]
async fn shards_can_be_told_to_use_tls() {
    for (client, server) in [
        (ShardTransport::Tls, ShardTransport::Tls),
        (ShardTransport::Plain, ShardTransport::Tls),
        (ShardTransport::Tls, ShardTransport::Plain),
    ] {
        let cluster = TestCluster::new(1);
        let options = |shard_transport| TransportOptions { shard_transport, ..cluster.options() };
        let one = cluster.node_with(cluster.issue(1, 1), Roles::ALL, options(client)).await;
        let two = cluster.node_with(cluster.issue(2, 1), Roles::ALL, options(server)).await;
        let tap = Wiretap::before(two.addr()).await;
        cluster.root.edit(2, |record| record.rpc_addr = tap.addr);
        assert!(one.call(2, request(WRITE, "body")).await.is_ok());
        assert_eq!(one.call(2, request(READ, "")).await.unwrap().body.len(), 1 << 20);
        assert_eq!(tap.plain_connections.load(Ordering::SeqCst), 0);
        assert_eq!(two.served(), 2);
    }
}

#[tokio::test]
async fn a_renewed_certificate_opens_new_connections() {
    let cluster = TestCluster::new(1);
    let _signer = cluster.signer(3).await;
    let one = cluster.node(1).await;
    let two = cluster.node(2).await;
    let tap = Wiretap::before(two.addr()).await;
    cluster.root.edit(2, |record| record.rpc_addr = tap.addr);
    assert!(one.call(2, request(WRITE, "x")).await.is_ok());
    one.renewal(&cluster).renew_now().await.unwrap();
    assert!(one.call(2, request(WRITE, "x")).await.is_ok());
    assert_eq!(tap.plain_connections.load(Ordering::SeqCst), 2);
    assert_eq!(one.cell.node(), NodeId(1));
}
