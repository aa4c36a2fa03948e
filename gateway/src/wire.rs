//! Bodies at the edge: a request body that may not stand still, and a response body that knows when
//! it ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use nexusgrid_env::{BootInstant, Clock, Exec};
use nexusgrid_grid::ChecksumAlgorithm;
use s3s::StdError;

use crate::access_log::{AccessLog, Answered};
use crate::auth::RequestNotes;
use crate::checksum::{self, BodyDigest};
use crate::limits;
use crate::metrics::{Metrics, OperationLabels, RequestLabels};
use crate::s3::body::BodyStalled;
use crate::turns::Held;

/// A digest of a small request body that is read as a whole (XML), to be compared at its end.
pub(crate) struct WholeCheck {
    digest: BodyDigest,
    md5: Option<[u8; 16]>,
    checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
    failed: Arc<AtomicBool>,
}

/// A whole body differs from what its header says.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body differs from its digest")]
pub(crate) struct WholeBodyDiffers;

impl WholeCheck {
    /// What the headers say about the body; the flag is raised if it differs. `None` if they say
    /// nothing, or nothing that can be checked here.
    pub fn of(headers: &HeaderMap, checksums: bool) -> Option<(WholeCheck, Arc<AtomicBool>)> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if text("x-amz-content-sha256").is_some_and(|mode| mode.starts_with("STREAMING-")) {
            // The bytes on the wire are not those of the body.
            return None;
        }
        // A digest that does not parse differs from any body.
        let md5 = text("content-md5").map(|value| checksum::parse_md5(value).unwrap_or([0; 16]));
        let checksum = checksum::ALL.into_iter().filter(|_| checksums).find_map(|algorithm| {
            let value = text(checksum::header(algorithm))?;
            Some((algorithm, checksum::parse(algorithm, value).unwrap_or_default()))
        });
        if md5.is_none() && checksum.is_none() {
            return None;
        }
        let failed = Arc::new(AtomicBool::new(false));
        let digest = BodyDigest::new(checksum.iter().map(|(algorithm, _)| *algorithm));
        Some((WholeCheck { digest, md5, checksum, failed: Arc::clone(&failed) }, failed))
    }

    fn finish(self) -> Result<(), WholeBodyDiffers> {
        let digests = self.digest.finish();
        let md5 = self.md5.is_none_or(|expected| expected == digests.md5);
        let checksum = self.checksum.is_none_or(|(algorithm, expected)| {
            digests.checksums.get(&algorithm).is_some_and(|found| found.value == expected)
        });
        if md5 && checksum {
            Ok(())
        } else {
            self.failed.store(true, Ordering::SeqCst);
            Err(WholeBodyDiffers)
        }
    }
}

/// Watches for the end of an aws-chunked body with signed chunks.
///
/// s3s verifies each chunk and the sum of their lengths, and takes the end of the connection's body
/// for the end of the chunks. S3 says that a chunk of length zero ends them.
#[derive(Debug, Default)]
pub(crate) struct FinalChunk {
    tail: Vec<u8>,
}

/// The chunk of length zero is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the final chunk is missing")]
pub(crate) struct FinalChunkMissing;

/// More than the final chunk and its line ends.
const TAIL_BYTES: usize = 256;
const FINAL_CHUNK: &[u8] = b"0;chunk-signature=";

impl FinalChunk {
    /// To be watched for in a body of this request, or not.
    pub fn of(headers: &HeaderMap) -> Option<FinalChunk> {
        let mode = headers.get("x-amz-content-sha256")?;
        (mode == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD").then(FinalChunk::default)
    }

    fn see(&mut self, bytes: &[u8]) {
        let kept = bytes.len().saturating_sub(TAIL_BYTES);
        self.tail.extend(bytes.iter().skip(kept));
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
    }

    fn finish(self) -> Result<(), FinalChunkMissing> {
        let line = self.tail.trim_ascii_end();
        let line = line.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        if line.starts_with(FINAL_CHUNK) { Ok(()) } else { Err(FinalChunkMissing) }
    }
}

/// A request body: bounded in how long it may stand still, counted, and drained when dropped.
///
/// A client that is told "no" while it still sends would find its connection reset, and never read
/// the answer; so what it sends is read and thrown away, within limits. Not so if it waits for
/// `100 Continue`: reading would tell it to send.
pub(crate) struct RequestBody<B: HttpBody<Data = Bytes> + Send + Unpin + 'static> {
    pub inner: Option<B>,
    pub stall: Duration,
    pub timer: Option<Pin<Box<tokio::time::Sleep>>>,
    pub begun: bool,
    pub awaits_continue: bool,
    pub whole: Option<WholeCheck>,
    pub final_chunk: Option<FinalChunk>,
    pub metrics: Metrics,
    pub exec: Exec,
}

impl<B> HttpBody for RequestBody<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    StdError: From<B::Error>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        this.begun = true;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.timer = None;
                if let Some(data) = frame.data_ref() {
                    this.metrics.received.inc_by(data.len() as u64);
                    if let Some(whole) = &mut this.whole {
                        whole.digest.update(data);
                    }
                    if let Some(final_chunk) = &mut this.final_chunk {
                        final_chunk.see(data);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.inner = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.inner = None;
                if let Some(Err(missing)) = this.final_chunk.take().map(FinalChunk::finish) {
                    return Poll::Ready(Some(Err(missing.into())));
                }
                match this.whole.take().map(WholeCheck::finish) {
                    Some(Err(differs)) => Poll::Ready(Some(Err(differs.into()))),
                    Some(Ok(())) | None => Poll::Ready(None),
                }
            }
            Poll::Pending => {
                let stall = this.stall;
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
                std::task::ready!(timer.as_mut().poll(cx));
                this.inner = None;
                Poll::Ready(Some(Err(BodyStalled.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // While a check is outstanding, the end must be polled for.
        self.whole.is_none()
            && self.final_chunk.is_none()
            && self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl<B: HttpBody<Data = Bytes> + Send + Unpin + 'static> Drop for RequestBody<B> {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        if inner.is_end_stream() || (self.awaits_continue && !self.begun) {
            return;
        }
        self.exec.spawn(drain(inner));
    }
}

async fn drain<B: HttpBody<Data = Bytes> + Send + Unpin>(mut body: B) {
    let read_on = async {
        let mut bytes = 0u64;
        while let Some(Ok(frame)) = body.frame().await {
            bytes = bytes.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
            if bytes > limits::DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    // Too slow or too long: then the connection breaks after all.
    let _ = tokio::time::timeout(limits::DRAIN_TIME_MAX, read_on).await;
}

/// Notes the end of a request: counts it, logs it, gives its slot back.
pub(crate) struct RequestEnd {
    pub notes: Arc<RequestNotes>,
    pub method: http::Method,
    pub path: String,
    pub status: u16,
    pub started: BootInstant,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    /// Whether it is counted among those that are worked on.
    pub is_in_flight: bool,
    pub sent: u64,
    pub complete: bool,
    pub log: AccessLog,
    /// When the reply began.
    pub answered: Option<BootInstant>,
    /// Bytes of the object.
    pub size: Option<u64>,
    /// The version that the reply names.
    pub version: Option<String>,
}

impl RequestEnd {
    fn note(&self, operation: &'static str, elapsed: Duration) {
        let Some(asked) = self.notes.asked.get() else { return };
        let turnaround = self.answered.map_or(elapsed, |at| at.since(self.started));
        let answered = Answered {
            request_id: &self.notes.id,
            operation,
            method: self.method.as_str(),
            status: self.status,
            error: self.notes.error.get().cloned(),
            sent: self.sent,
            size: self.size,
            version: self.version.clone(),
            total: elapsed,
            turnaround,
            several: std::mem::take(&mut *self.notes.several.lock()),
        };
        self.log.note(asked, answered);
    }
}

impl Drop for RequestEnd {
    fn drop(&mut self) {
        let operation = self.notes.operation.get().copied().unwrap_or("none");
        let elapsed = self.clock.now().since(self.started);
        self.metrics
            .requests
            .get_or_create(&RequestLabels { operation, status: self.status })
            .inc();
        self.metrics
            .duration
            .get_or_create(&OperationLabels { operation })
            .observe(elapsed.as_secs_f64());
        self.metrics.sent.inc_by(self.sent);
        self.note(operation, elapsed);
        *self.notes.held.lock() = Held::default();
        if self.is_in_flight {
            self.metrics.in_flight.dec();
        }
        // The query is left out: it may hold a presigned URL's signature.
        tracing::info!(
            target: "nexusgrid::access",
            request_id = %self.notes.id,
            key = self.notes.key.get().map(String::as_str),
            operation,
            method = %self.method,
            path = %self.path,
            status = self.status,
            bytes = self.sent,
            complete = self.complete,
            ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

/// The code in an error's XML.
fn error_code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    Some(code.to_owned())
}

/// A reply's body. Holds the request's slot until the last byte is taken.
pub struct ResponseBody {
    pub(crate) inner: s3s::Body,
    pub(crate) end: RequestEnd,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(data) = frame.data_ref()
                    && self.end.status >= 400
                    && self.end.sent == 0
                    && let Some(code) = error_code(data)
                {
                    let _ = self.end.notes.error.set(code);
                }
                self.end.sent = self.end.sent.saturating_add(bytes);
                self.end.complete = self.inner.is_end_stream();
            }
            Some(Err(_)) => self.end.complete = false,
            None => self.end.complete = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
