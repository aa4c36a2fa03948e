//! Calls between nodes: what arrives, and what every kind of failure is told as.

use std::time::Duration;

use bytes::Bytes;
use nexusgrid_cluster::TransportOptions;
use nexusgrid_cluster::method::PING;
use nexusgrid_env::{MethodId, NodeId, Roles, Rpc, RpcError, RpcRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

#[tokio::test]
async fn a_call_carries_head_and_body_both_ways() {
    let cluster = TestCluster::new(1);
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    for size in [0, 1, 4096, 64 * 1024] {
        let body = Bytes::from(vec![7; size]);
        let reply = one.call(2, echo(b"hello", body.clone())).await.unwrap();
        assert_eq!((&reply.head[..], reply.body), (&b"hello"[..], body));
    }
    let reply = one.call(2, echo(b"who", "")).await.unwrap();
    assert_eq!(&reply.head[..], b"n1", "identity comes from the certificate");
    let empty = one.call(2, echo(b"", "")).await.unwrap();
    assert!(empty.head.is_empty() && empty.body.is_empty());
    assert_eq!(two.served(), 6);
}

#[tokio::test]
async fn many_calls_at_once_share_few_connections() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let _two = cluster.node(2).await;
    let calls = (0..200).map(|_| one.call(2, echo(b"hello", vec![1; 1000])));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.unwrap().body.len(), 1000);
    }
}

#[tokio::test]
async fn a_call_to_oneself_needs_no_network() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    cluster.root.edit(1, |record| record.rpc_addr = "127.0.0.1:1".parse().unwrap());
    assert_eq!(&one.call(1, echo(b"who", "")).await.unwrap().head[..], b"n1");
}

#[tokio::test]
async fn failures_are_told_by_what_the_caller_may_do() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let two = cluster.node(2).await;

    let failed = one.call(2, echo(b"fail", "")).await;
    assert_eq!(failed.unwrap_err(), RpcError::Failed("as asked".into()));

    let unknown_method =
        RpcRequest { method: MethodId(0x0999), head: Bytes::new(), body: Bytes::new() };
    assert!(matches!(one.call(2, unknown_method).await, Err(RpcError::Refused(_))));

    assert!(matches!(one.call(9, echo(b"", "")).await, Err(RpcError::Unreachable(..))));

    let hang = one.transport.call(NodeId(2), request(HANG, ""), Duration::from_millis(200)).await;
    assert!(matches!(hang, Err(RpcError::Unknown(..))), "{hang:?}");
    assert_eq!(two.served(), 2);

    // Nothing listens there any more.
    cluster.root.edit(2, |record| record.rpc_addr = "127.0.0.1:1".parse().unwrap());
    let refused = one.call(2, echo(b"", "")).await;
    assert!(matches!(refused, Err(RpcError::Unreachable(..))), "{refused:?}");
    // And for a moment it is not even tried.
    let again = one.call(2, echo(b"", "")).await.unwrap_err().to_string();
    assert!(again.contains("a moment ago"), "{again}");
    cluster.root.edit(2, |record| record.rpc_addr = two.addr());
    assert!(one.call(2, echo(b"", "")).await.is_ok(), "a new address is tried at once");
}

#[tokio::test]
async fn what_was_begun_is_finished_though_the_caller_gave_up() {
    let cluster = TestCluster::new(1);
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let gave_up =
        one.transport.call(NodeId(2), request(HANG, ""), Duration::from_millis(100)).await;
    assert!(matches!(gave_up, Err(RpcError::Unknown(..))));
    two.service.release.notify_waiters();
    two.service.release.notify_one();
    until("the service finishes", || {
        two.service.finished.load(std::sync::atomic::Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_dies_midway_leaves_the_outcome_unknown() {
    let cluster = TestCluster::new(1);
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let exec = two.env.exec.clone();
    let call = one.call(2, request(HANG, ""));
    let (result, ()) = tokio::join!(call, async {
        until("it is being served", || two.served() == 1).await;
        exec.stop();
    });
    assert!(matches!(result, Err(RpcError::Unknown(..))), "{result:?}");
}

#[tokio::test]
async fn a_stale_idle_connection_is_replaced_without_a_word() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let two = cluster.node(2).await;
    assert!(one.call(2, echo(b"", "")).await.is_ok());
    two.env.exec.stop();
    two.env.exec.wait().await;
    let revived = cluster.node_with(cluster.issue(2, 1), Roles::ALL, cluster.options()).await;
    cluster.root.edit(2, |record| record.rpc_addr = revived.addr());
    assert!(one.call(2, echo(b"", "")).await.is_ok());
}

#[tokio::test]
async fn roles_are_checked_per_method() {
    let cluster = TestCluster::new(1);
    let storage = Roles { storage: true, meta: false, gateway: false };
    let meta = Roles { storage: false, meta: true, gateway: false };
    let one = cluster.node_with(cluster.issue(1, 1), storage, cluster.options()).await;
    let two = cluster.node_with(cluster.issue(2, 1), meta, cluster.options()).await;
    assert!(matches!(one.call(2, request(META_ONLY, "")).await, Err(RpcError::Refused(_))));
    assert_eq!(two.served(), 0);
    assert!(two.call(1, request(META_ONLY, "")).await.is_ok());
    cluster.root.edit(1, |record| record.roles = Roles::ALL);
    assert!(one.call(2, request(META_ONLY, "")).await.is_ok(), "the node table decides");
    // One's own node is no exception.
    cluster.root.edit(2, |record| record.roles = storage);
    assert!(matches!(two.call(2, request(META_ONLY, "")).await, Err(RpcError::Refused(_))));
}

#[tokio::test]
async fn too_many_calls_are_told_busy() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let options = TransportOptions { in_flight_per_peer_max: 2, ..cluster.options() };
    let two = cluster.node_with(cluster.issue(2, 1), Roles::ALL, options).await;
    let hanging =
        futures_util::future::join(one.call(2, request(HANG, "")), one.call(2, request(HANG, "")));
    let checks = async {
        until("two are served", || two.served() == 2).await;
        let third = one.call(2, echo(b"", vec![0; 30_000])).await;
        assert!(matches!(third, Err(RpcError::Busy(_))), "{third:?}");
        two.service.release.notify_waiters();
    };
    let ((first, second), ()) = futures_util::future::join(hanging, checks).await;
    assert!(first.is_ok() && second.is_ok());
    assert!(one.call(2, echo(b"", "")).await.is_ok());
}

#[tokio::test]
async fn too_many_bytes_in_flight_are_told_busy() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let options = TransportOptions { in_flight_bytes_max: 16 << 10, ..cluster.options() };
    let two = cluster.node_with(cluster.issue(2, 1), Roles::ALL, options).await;
    let large = one.call(2, echo(b"", vec![0; 32 << 10])).await;
    assert!(matches!(large, Err(RpcError::Busy(_))), "{large:?}");
    assert!(one.call(2, echo(b"", vec![0; 8 << 10])).await.is_ok());
    assert_eq!(two.served(), 1);
}

#[tokio::test]
async fn oversize_head_and_body_are_refused() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let two = cluster.node(2).await;
    // The caller's own register would stop it: lie to it.
    one.transport.router().register(&[ECHO.request_max(1 << 20, 1 << 20)], one.service.clone());
    for (head, body) in [(1025, 0), (0, (64 << 10) + 1), (600_000, 600_000)] {
        let request = RpcRequest {
            method: ECHO.id,
            head: Bytes::from(vec![1; head]),
            body: Bytes::from(vec![2; body]),
        };
        let refused = one.call(2, request).await;
        assert!(matches!(refused, Err(RpcError::Refused(_))), "{head} + {body}: {refused:?}");
    }
    assert_eq!(two.served(), 0);
    assert!(one.call(2, echo(b"", "")).await.is_ok());
}

#[tokio::test]
async fn an_oversize_reply_is_not_passed_on() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let two = cluster.node(2).await;
    one.transport.router().register(&[READ.reply_max(1024, 1024)], one.service.clone());
    let result = one.call(2, request(READ, "")).await;
    assert!(matches!(result, Err(RpcError::Unknown(..))), "{result:?}");
    two.transport.router().register(&[READ.reply_max(1024, 1024)], two.service.clone());
    let result = one.call(2, request(READ, "")).await;
    assert!(matches!(result, Err(RpcError::Failed(_))), "{result:?}");
}

#[tokio::test]
async fn garbage_on_the_rpc_port_breaks_nothing() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let options =
        TransportOptions { handshake_timeout: Duration::from_millis(300), ..cluster.options() };
    let two = cluster.node_with(cluster.issue(2, 1), Roles::ALL, options).await;
    let mut garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"POST /v1/0401 HTTP/1.1\r\ncontent-length: 0\r\nx-head: 0\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0x16; 4096],
        vec![0x16, 3, 1, 0xff, 0xff],
        vec![b'N'; 18],
        vec![b'N', 1],
    ];
    for _ in 0..20 {
        let mut bytes = vec![0; 512];
        cluster.env.rng.fill(&mut bytes);
        garbage.push(bytes);
    }
    for bytes in garbage {
        let mut stream = tokio::net::TcpStream::connect(two.addr()).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let mut rest = Vec::new();
        // Closed, at the latest after the handshake's time; TLS may send an alert first.
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "left open after {:?}", &bytes[..2]);
        assert!(rest.len() < 100, "an answer of {} bytes", rest.len());
    }
    assert_eq!(two.served(), 0);
    assert!(one.call(2, request(PING, "")).await.is_ok());
}

#[tokio::test]
async fn a_slow_writer_times_out() {
    let cluster = TestCluster::new(1);
    let _one = cluster.node(1).await;
    let options = TransportOptions {
        body_timeout: Duration::from_millis(200),
        head_timeout: Duration::from_millis(200),
        handshake_timeout: Duration::from_millis(200),
        ..cluster.options()
    };
    let two = cluster.node_with(cluster.issue(2, 1), Roles::ALL, options).await;

    // Nothing at all.
    let mut silent = tokio::net::TcpStream::connect(two.addr()).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, silent.read_to_end(&mut rest)).await.unwrap().unwrap();

    // A head that never ends, then a body that never comes, as a node with a certificate.
    let head = b"POST /v1/0401 HTTP/1.1\r\nhost: x\r\nx-head: 5\r\ncontent-length: 10\r\n";
    for (sent, answered) in [(head.to_vec(), false), ([&head[..], b"\r\nabc"].concat(), true)] {
        let mut stream = crate::nodes::connect_as(&cluster, 1, two.addr()).await;
        stream.write_all(&sent).await.unwrap();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert_eq!(rest.contains("too slowly"), answered, "{rest}");
    }
    assert_eq!(two.served(), 0);
}

#[tokio::test]
async fn malformed_http_is_refused() {
    let cluster = TestCluster::new(1);
    let _one = cluster.node(1).await;
    let two = cluster.node(2).await;
    for text in [
        "GET /v1/0401 HTTP/1.1\r\nhost: x\r\nx-head: 0\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\nx-head: 0\r\ncontent-length: 0\r\n\r\n",
        "POST /v1/0401 HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        "POST /v1/0401 HTTP/1.1\r\nhost: x\r\nx-head: 1\r\ncontent-length: 0\r\n\r\n",
        "POST /v1/0401 HTTP/1.1\r\nhost: x\r\nx-head: -1\r\ncontent-length: 0\r\n\r\n",
        "POST /v1/0401 HTTP/1.1\r\nhost: x\r\nx-head: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/0401 HTTP/1.1\r\nhost: x\r\nx-head: 99999999999999999999\r\ncontent-length: 0\r\n\r\n",
        "POST /v1/0401 HTTP/9.9\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let mut stream = crate::nodes::connect_as(&cluster, 1, two.addr()).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.starts_with(b"HTTP/1.1 400"), "{text}: {}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(two.served(), 0);
}
