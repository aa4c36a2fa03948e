//! The S3 listener: HTTP/1.1 over TCP.
//!
//! Nobody is dropped without a word. Up to [`ServerOptions::connections_max`] connections are
//! served; the next [`ServerOptions::refusals_max`] are accepted and told `503 SlowDown`; what is
//! beyond waits in the listener's queue. A client that is too slow with its head, its body or in
//! taking a reply loses its connection. At shutdown idle connections close, running requests get
//! [`ServerOptions::shutdown_grace`] to end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nexusgrid_env::Exec;
use nexusgrid_env::real::net::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::PeerAddress;
use crate::limits;
use crate::service::Gateway;
use crate::wire::ResponseBody;

/// Bounds of the listener.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Connections served at once. Default [`limits::CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// Further connections told SlowDown at once. Default [`limits::REFUSALS_MAX`].
    pub refusals_max: usize,
    /// Time for a request head, idle time included. Default [`limits::HEADER_READ_TIMEOUT`].
    pub header_read: Duration,
    /// Time in which a client must take some bytes. Default [`limits::WRITE_STALL_TIMEOUT`].
    pub write_stall: Duration,
    /// Time for running requests at shutdown. Default [`limits::SHUTDOWN_GRACE`].
    pub shutdown_grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            connections_max: limits::CONNECTIONS_MAX,
            refusals_max: limits::REFUSALS_MAX,
            header_read: limits::HEADER_READ_TIMEOUT,
            write_stall: limits::WRITE_STALL_TIMEOUT,
            shutdown_grace: limits::SHUTDOWN_GRACE,
        }
    }
}

/// Serves S3 on `listener` until `shutdown`; returns when the last request has ended, or its grace.
pub async fn serve(
    listener: Listener,
    gateway: Gateway,
    exec: Exec,
    shutdown: CancellationToken,
    options: ServerOptions,
) {
    let served = Arc::new(Semaphore::new(options.connections_max));
    let refused = Arc::new(Semaphore::new(options.refusals_max));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &served, &refused) => accepted,
        };
        let Some((stream, slot)) = accepted else { continue };
        let gateway = gateway.clone();
        let (options, shutdown) = (options.clone(), shutdown.clone());
        connections.spawn({
            let task = exec.spawn(async move {
                gateway.metrics().connections.inc();
                match slot {
                    Slot::Serve(permit) => {
                        let peer = stream.peer_addr().ok().map(|peer| PeerAddress(peer.ip()));
                        connection(stream, peer, gateway.clone(), &options, shutdown).await;
                        drop(permit);
                    }
                    Slot::Refuse(permit) => {
                        refusal(stream, gateway.clone(), &options, shutdown).await;
                        drop(permit);
                    }
                }
                gateway.metrics().connections.dec();
            });
            async move {
                // The task ends with the agent at the latest.
                let _ = task.await;
            }
        });
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(options.shutdown_grace, connections.wait()).await;
}

enum Slot {
    Serve(OwnedSemaphorePermit),
    Refuse(OwnedSemaphorePermit),
}

/// Accepts the next connection once there is a slot of either kind for it.
async fn accept(
    listener: &Listener,
    served: &Arc<Semaphore>,
    refused: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, Slot)> {
    let stand_in = tokio::select! {
        biased;
        permit = Arc::clone(served).acquire_owned() => Slot::Serve(permit.ok()?),
        permit = Arc::clone(refused).acquire_owned() => Slot::Refuse(permit.ok()?),
    };
    match listener.accept().await {
        Ok((stream, _)) => {
            // A better slot may have come free while waiting.
            let slot = match stand_in {
                Slot::Refuse(permit) => match Arc::clone(served).try_acquire_owned() {
                    Ok(better) => Slot::Serve(better),
                    Err(_) => Slot::Refuse(permit),
                },
                serve => serve,
            };
            Some((stream, slot))
        }
        Err(error) => {
            // Out of file descriptors, or the client is gone already: neither ends the service.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(limits::ACCEPT_ERROR_PAUSE).await;
            None
        }
    }
}

fn http(options: &ServerOptions) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.header_read)
        .max_buf_size(limits::REQUEST_HEAD_BYTES_MAX)
        .max_headers(limits::REQUEST_HEADERS_MAX)
        .keep_alive(true);
    http
}

/// Serves one connection to its end.
pub(crate) async fn connection<T>(
    stream: T,
    peer: Option<PeerAddress>,
    gateway: Gateway,
    options: &ServerOptions,
    shutdown: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let gateway = gateway.clone();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        async move { Ok::<_, Infallible>(answer(&gateway, request).await) }
    });
    let io = TokioIo::new(Impatient::new(stream, options.write_stall));
    let connection = http(options).serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Answers a request. Whoever waits to be asked for its body and is answered without having been asked
/// sends none; its next request must not be taken for that body: the connection ends with the answer.
async fn answer(
    gateway: &Gateway,
    request: http::Request<Incoming>,
) -> http::Response<ResponseBody> {
    if !request.headers().contains_key(http::header::EXPECT) {
        return gateway.handle(request).await;
    }
    let asked = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&asked);
    let mut response = gateway.handle(request.map(|body| Noting { body, asked: noted })).await;
    if !asked.load(Ordering::Relaxed) {
        let close = http::HeaderValue::from_static("close");
        response.headers_mut().insert(http::header::CONNECTION, close);
    }
    response
}

/// A body that notes whether it was asked for.
struct Noting {
    body: Incoming,
    asked: Arc<AtomicBool>,
}

impl Body for Noting {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.asked.store(true, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Tells one request SlowDown and closes.
async fn refusal<T>(
    stream: T,
    gateway: Gateway,
    options: &ServerOptions,
    shutdown: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: http::Request<Incoming>| {
        let gateway = gateway.clone();
        async move {
            // What the client still sends is read, so that it gets to read the answer.
            if request.headers().get(http::header::EXPECT).is_none() {
                let mut body = request.into_body();
                let read_on = async {
                    let mut bytes = 0;
                    while let Some(Ok(frame)) = body.frame().await {
                        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                        if bytes > limits::DRAIN_BYTES_MAX {
                            break;
                        }
                    }
                };
                let _ = tokio::time::timeout(limits::DRAIN_TIME_MAX, read_on).await;
            }
            Ok::<_, Infallible>(gateway.slow_down())
        }
    });
    let io = TokioIo::new(Impatient::new(stream, options.write_stall));
    let connection = http(options).keep_alive(false).serve_connection(io, service);
    tokio::select! {
        biased;
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "refused connection ended");
            }
        }
        () = shutdown.cancelled() => {}
    }
}

/// A stream whose writes fail if the other side takes nothing for too long.
struct Impatient<T> {
    inner: T,
    stall: Duration,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<T> Impatient<T> {
    fn new(inner: T, stall: Duration) -> Impatient<T> {
        Impatient { inner, stall, timer: None }
    }

    fn judge<R>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let stall = self.stall;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        std::task::ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Impatient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Impatient<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
