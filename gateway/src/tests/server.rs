//! The listener, over real sockets on the loopback address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_env::Env;
use nexusgrid_env::real::net;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::client::{Call, call};
use super::gateway_with;
use crate::relay::{GatewayAddresses, relay};
use crate::server::{ServerOptions, serve};
use crate::service::GatewayOptions;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(gateway: GatewayOptions, server: ServerOptions) -> Running {
    let listener = net::listen(LOCAL).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (gateway, _) = gateway_with(gateway);
    let exec = Env::real().exec;
    let task = tokio::spawn(serve(listener, gateway, exec, shutdown.clone(), server));
    Running { address, shutdown, task }
}

/// The request as bytes on the wire.
fn wire(call: &Call, extra: &str) -> Vec<u8> {
    let (request, _, _) = call.sign();
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    text.push_str(extra);
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(request.body());
    bytes
}

/// Reads one reply: its head, and as many bytes as it announces.
async fn reply(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0usize);
            if body.len() >= length {
                return text;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => panic!("connection broken: {error}"),
        }
    }
}

#[tokio::test]
async fn serves_and_stops() {
    let running = start(Default::default(), Default::default()).await;
    let mut stream = net::connect(running.address).await.unwrap();
    stream.write_all(&wire(&call("PUT", "/bucket/k").body("hello"), "")).await.unwrap();
    assert!(reply(&mut stream).await.starts_with("HTTP/1.1 200"));
    stream.write_all(&wire(&call("GET", "/bucket/k"), "")).await.unwrap();
    assert!(reply(&mut stream).await.ends_with("\r\n\r\nhello"));
    // An idle connection does not hold the shutdown up.
    running.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), running.task).await.unwrap().unwrap();
    assert!(net::connect(running.address).await.is_err());
}

#[tokio::test]
async fn head_and_body_of_a_small_reply_come_together() {
    let running = start(Default::default(), Default::default()).await;
    let mut stream = net::connect(running.address).await.unwrap();
    stream.write_all(&wire(&call("PUT", "/bucket/k").body("hello"), "")).await.unwrap();
    reply(&mut stream).await;
    stream.write_all(&wire(&call("GET", "/bucket/k"), "")).await.unwrap();
    let mut buffer = [0; 8192];
    let n = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..n].ends_with(b"\r\n\r\nhello"), "{}", String::from_utf8_lossy(&buffer[..n]));
}

#[tokio::test]
async fn everyone_is_served_or_told_slow_down() {
    let server = ServerOptions { connections_max: 8, refusals_max: 4, ..Default::default() };
    let running = start(Default::default(), server).await;
    // Eight connections that are held open.
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = net::connect(running.address).await.unwrap();
        stream.write_all(&wire(&call("HEAD", "/bucket"), "")).await.unwrap();
        assert!(reply(&mut stream).await.starts_with("HTTP/1.1 200"));
        held.push(stream);
    }
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(tokio::spawn(async move {
            let mut stream = net::connect(running.address).await.unwrap();
            let body = vec![b'x'; 300_000];
            let put = call("PUT", "/bucket/k").payload("UNSIGNED-PAYLOAD").body(body);
            stream.write_all(&wire(&put, "")).await.unwrap();
            reply(&mut stream).await
        }));
    }
    for client in clients {
        let text = client.await.unwrap();
        assert!(text.starts_with("HTTP/1.1 503"), "{text}");
        assert!(
            text.contains("SlowDown") && text.to_lowercase().contains("retry-after: 1"),
            "{text}"
        );
    }
    drop(held);
    // The places come free again.
    for _ in 0..100 {
        let mut stream = net::connect(running.address).await.unwrap();
        stream.write_all(&wire(&call("HEAD", "/bucket"), "")).await.unwrap();
        if reply(&mut stream).await.starts_with("HTTP/1.1 200") {
            running.shutdown.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("places did not come free");
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_and_are_told() {
    let options = GatewayOptions {
        requests_max: 1,
        queue_wait: Duration::from_millis(50),
        ..Default::default()
    };
    let running = start(options, Default::default()).await;
    let body = vec![b'x'; 1000];
    let bytes = wire(&call("PUT", "/bucket/k").body(body), "");
    let mut slow = net::connect(running.address).await.unwrap();
    slow.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
    // The slot is taken once its head has arrived; ask until that is so.
    let mut other = net::connect(running.address).await.unwrap();
    let mut told = String::new();
    for _ in 0..100 {
        other.write_all(&wire(&call("HEAD", "/bucket"), "")).await.unwrap();
        told = reply(&mut other).await;
        if told.starts_with("HTTP/1.1 503") {
            break;
        }
    }
    assert!(told.starts_with("HTTP/1.1 503"), "{told}");
    slow.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
    assert!(reply(&mut slow).await.starts_with("HTTP/1.1 200"));
    other.write_all(&wire(&call("HEAD", "/bucket"), "")).await.unwrap();
    assert!(reply(&mut other).await.starts_with("HTTP/1.1 200"));
    running.shutdown.cancel();
}

#[tokio::test]
async fn slow_heads_and_bodies_end() {
    let options = GatewayOptions { body_stall: Duration::from_millis(100), ..Default::default() };
    let server = ServerOptions { header_read: Duration::from_millis(200), ..Default::default() };
    let running = start(options, server).await;
    let mut stream = net::connect(running.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), reply(&mut stream)).await.unwrap();
    assert!(ended.is_empty() || ended.starts_with("HTTP/1.1 4"), "{ended}");

    let bytes = wire(&call("PUT", "/bucket/k").body("hello"), "");
    let mut stream = net::connect(running.address).await.unwrap();
    stream.write_all(&bytes[..bytes.len() - 2]).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(5), reply(&mut stream)).await.unwrap();
    assert!(told.contains("RequestTimeout"), "{told}");
    running.shutdown.cancel();
}

#[tokio::test]
async fn malformed_requests_harm_nobody() {
    let running = start(Default::default(), Default::default()).await;
    let huge = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(500));
    for bytes in [
        b"\0\0\0\0\0\0\r\n\r\n".as_slice(),
        b"GET\r\n\r\n",
        b"PUT /bucket/k HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"PUT /bucket/k HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        huge.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = net::connect(running.address).await.unwrap();
        // The server may close before all is written.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), read).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let mut stream = net::connect(running.address).await.unwrap();
    stream.write_all(&wire(&call("HEAD", "/bucket"), "")).await.unwrap();
    assert!(reply(&mut stream).await.starts_with("HTTP/1.1 200"));
    running.shutdown.cancel();
}

#[tokio::test]
async fn who_waits_for_continue_is_refused_before_sending() {
    let running = start(Default::default(), Default::default()).await;
    let put = call("PUT", "/absent/k").payload("UNSIGNED-PAYLOAD").body(vec![0; 100_000]);
    let bytes = wire(&put, "expect: 100-continue\r\n");
    let head = &bytes[..bytes.len() - 100_000];
    let mut stream = net::connect(running.address).await.unwrap();
    stream.write_all(head).await.unwrap();
    let told = reply(&mut stream).await;
    assert!(told.starts_with("HTTP/1.1 404") && told.contains("NoSuchBucket"), "{told}");
    // The body will not come: what comes next must not be taken for it.
    assert!(told.to_lowercase().contains("connection: close"), "{told}");

    let put = call("PUT", "/bucket/k").payload("UNSIGNED-PAYLOAD").body("hello");
    let bytes = wire(&put, "expect: 100-continue\r\n");
    let (head, body) = bytes.split_at(bytes.len() - 5);
    let mut stream = net::connect(running.address).await.unwrap();
    stream.write_all(head).await.unwrap();
    assert!(reply(&mut stream).await.starts_with("HTTP/1.1 100"));
    stream.write_all(body).await.unwrap();
    let told = reply(&mut stream).await;
    let closes = told.to_lowercase().contains("connection: close");
    assert!(told.starts_with("HTTP/1.1 200") && !closes, "{told}");
    running.shutdown.cancel();
}

#[tokio::test]
async fn who_sends_on_still_gets_to_read_the_refusal() {
    let running = start(Default::default(), Default::default()).await;
    let body = vec![0; 8 << 20];
    for (path, code) in [("/absent/k", "NoSuchBucket"), ("/bucket/k?torrent=", "NotImplemented")] {
        let put = call("PUT", path).payload("UNSIGNED-PAYLOAD").body(body.clone());
        let mut stream = net::connect(running.address).await.unwrap();
        stream.write_all(&wire(&put, "")).await.unwrap();
        let told = reply(&mut stream).await;
        assert!(told.contains(code), "{told}");
        // The connection is good for the next request.
        stream.write_all(&wire(&call("HEAD", "/bucket"), "")).await.unwrap();
        assert!(reply(&mut stream).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    running.shutdown.cancel();
}

struct Fixed(Vec<SocketAddr>);

impl GatewayAddresses for Fixed {
    fn gateways(&self) -> Vec<SocketAddr> {
        self.0.clone()
    }
}

#[tokio::test]
async fn relays_to_the_gateway_that_answers() {
    let running = start(Default::default(), Default::default()).await;
    let closed = net::listen(LOCAL).await.unwrap().local_addr().unwrap();
    for (gateways, expected) in [
        (vec![running.address], "HTTP/1.1 200"),
        (vec![closed, running.address], "HTTP/1.1 200"),
        (vec![closed], "HTTP/1.1 503"),
        (vec![], "HTTP/1.1 503"),
    ] {
        let listener = net::listen(LOCAL).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let exec = Env::real().exec;
        let task = tokio::spawn(relay(listener, Arc::new(Fixed(gateways)), exec, shutdown.clone()));
        for _ in 0..2 {
            let mut stream = net::connect(address).await.unwrap();
            stream.write_all(&wire(&call("HEAD", "/bucket"), "")).await.unwrap();
            let told = reply(&mut stream).await;
            assert!(told.starts_with(expected), "{told}");
        }
        shutdown.cancel();
        task.await.unwrap();
    }
}
