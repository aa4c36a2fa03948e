//! Bodies: from the wire to the grid with their digests, and from the grid to the wire.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use nexusgrid_grid::{
    BodyStream, ChecksumAlgorithm, Finish, GridError, ObjectSeal, ReadStream, Reject, RejectKind,
};
use parking_lot::Mutex;
use s3s::dto::StreamingBlob;
use s3s::stream::aws_chunked_stream::AwsChunkedStreamError;
use s3s::stream::upload_stream::UploadStreamError;
use s3s::{BodySizeLimitExceeded, S3Error, S3ErrorCode, TrailingHeaders};

use crate::auth::PayloadMode;
use crate::checksum::{self, BodyDigest, Digests};
use crate::digest::{DigestPool, PooledDigest};
use crate::error::refuse;

/// A request body has stood still for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request body stood still for too long")]
pub struct BodyStalled;

/// Where the checksum that the client declares comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Declared {
    /// A header had it.
    Header(Vec<u8>),
    /// A trailer will have it.
    Trailer,
}

/// What must hold for a body, and what is to be stored about it.
#[derive(Clone, Debug)]
pub struct BodyPlan {
    declared: Option<(ChecksumAlgorithm, Declared)>,
    content_md5: Option<[u8; 16]>,
    stored: ChecksumAlgorithm,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, S3Error> {
    headers
        .get(name)
        .map(|value| {
            value.to_str().map_err(|_| {
                refuse(RejectKind::InvalidRequest, format!("the header {name} is not text"))
            })
        })
        .transpose()
}

impl BodyPlan {
    /// Reads the plan from the headers of a request. `upload` is the algorithm that the upload of
    /// a part was opened with.
    pub fn of(
        headers: &HeaderMap,
        mode: PayloadMode,
        upload: Option<ChecksumAlgorithm>,
    ) -> Result<BodyPlan, S3Error> {
        let invalid = |message: String| refuse(RejectKind::InvalidRequest, message);
        let mut declared = None;
        for algorithm in checksum::ALL {
            let name = checksum::header(algorithm);
            if let Some(value) = text(headers, name)? {
                // What cannot be a checksum is not that of the body either.
                let value = checksum::parse(algorithm, value).ok_or_else(|| {
                    let message = format!("the value of {name} is invalid");
                    refuse(RejectKind::BadDigest, message)
                })?;
                if declared.replace((algorithm, Declared::Header(value))).is_some() {
                    return Err(invalid("more than one checksum".to_owned()));
                }
            }
        }
        match (mode.has_trailer(), text(headers, "x-amz-trailer")?) {
            (true, Some(names)) => {
                let mut known = names.split(',').filter_map(|n| checksum::by_header(n.trim()));
                let Some(algorithm) = known.next() else {
                    return Err(invalid(format!(
                        "no checksum of this grid in x-amz-trailer: {names}"
                    )));
                };
                let second = known.next().is_some();
                if second || declared.replace((algorithm, Declared::Trailer)).is_some() {
                    return Err(invalid("more than one checksum".to_owned()));
                }
            }
            (true, None) => return Err(invalid("x-amz-trailer is missing".to_owned())),
            // A trailer that nothing reads would be a checksum that nothing verifies.
            (false, Some(_)) => {
                return Err(invalid("x-amz-trailer without a body that has trailers".to_owned()));
            }
            (false, None) => {}
        }
        if let Some(name) = text(headers, "x-amz-sdk-checksum-algorithm")? {
            let wanted = checksum::by_name(name).ok_or_else(|| {
                invalid(format!(
                    "x-amz-sdk-checksum-algorithm: {name} is no algorithm of this grid"
                ))
            })?;
            if declared.as_ref().is_none_or(|(algorithm, _)| *algorithm != wanted) {
                return Err(invalid(format!(
                    "x-amz-sdk-checksum-algorithm is {name}, but no such checksum was sent"
                )));
            }
        }
        let content_md5 = match text(headers, "content-md5")? {
            None => None,
            Some(value) => Some(
                checksum::parse_md5(value)
                    .ok_or_else(|| S3Error::new(S3ErrorCode::InvalidDigest))?,
            ),
        };
        let stored = upload
            .or(declared.as_ref().map(|(algorithm, _)| *algorithm))
            .unwrap_or(checksum::DEFAULT);
        Ok(BodyPlan { declared, content_md5, stored })
    }

    /// The algorithms to compute.
    fn algorithms(&self) -> impl Iterator<Item = ChecksumAlgorithm> {
        self.declared.iter().map(|(algorithm, _)| *algorithm).chain([self.stored])
    }

    /// Compares what came with what was declared.
    fn verify(
        &self,
        digests: &Digests,
        trailers: Option<&TrailingHeaders>,
    ) -> Result<ObjectSeal, Reject> {
        let reject = |kind, message: String| Reject { kind, message };
        if self.content_md5.is_some_and(|expected| expected != digests.md5) {
            return Err(reject(
                RejectKind::BadDigest,
                "The Content-MD5 you specified did not match what we received.".to_owned(),
            ));
        }
        if let Some((algorithm, declared)) = &self.declared {
            let name = checksum::header(*algorithm);
            let expected = match declared {
                Declared::Header(value) => value.clone(),
                Declared::Trailer => {
                    let value = trailers
                        .and_then(|trailers| {
                            trailers.read(|headers| {
                                let value = headers.get(name)?.to_str().ok()?;
                                checksum::parse(*algorithm, value)
                            })
                        })
                        .flatten();
                    value.ok_or_else(|| {
                        reject(
                            RejectKind::InvalidRequest,
                            format!("the announced trailer {name} is missing or invalid"),
                        )
                    })?
                }
            };
            let computed = digests.checksums.get(algorithm).map(|checksum| &checksum.value);
            if computed != Some(&expected) {
                return Err(reject(
                    RejectKind::BadDigest,
                    format!(
                        "The {} you specified did not match the calculated checksum.",
                        checksum::name(*algorithm)
                    ),
                ));
            }
        }
        let stored = digests.checksums.get_key_value(&self.stored);
        Ok(ObjectSeal {
            etag: checksum::hex(&digests.md5),
            checksums: stored.map(|(k, v)| (*k, v.clone())).into_iter().collect(),
        })
    }
}

/// A body on its way into the grid.
pub struct Incoming {
    /// The bytes; ends only after they are digested.
    pub stream: BodyStream,
    /// To be called after the end of `stream`.
    pub finish: Finish,
}

struct Digesting<S> {
    source: S,
    digest: Option<PooledDigest>,
    result: Arc<Mutex<Option<Digests>>>,
}

/// Passes a body on while digesting it.
pub fn incoming(
    body: Option<StreamingBlob>,
    plan: BodyPlan,
    trailers: Option<TrailingHeaders>,
    pool: &DigestPool,
) -> Incoming {
    let result = Arc::new(Mutex::new(None));
    let source = body.unwrap_or_else(|| StreamingBlob::from_bytes(Bytes::new()));
    let source = source.map(|chunk| chunk.map_err(|error| reject_of(error.as_ref())));
    let digest = pool.begin(BodyDigest::new(plan.algorithms()));
    let stream = digesting(source, digest, Arc::clone(&result));
    let finish: Finish = Box::new(move || match result.lock().take() {
        Some(digests) => plan.verify(&digests, trailers.as_ref()),
        None => Err(unfinished()),
    });
    Incoming { stream, finish }
}

/// A copy that computes a checksum which its source lacks: the bytes pass through here.
pub fn rehash(source: ReadStream, algorithm: ChecksumAlgorithm, pool: &DigestPool) -> Incoming {
    let result = Arc::new(Mutex::new(None));
    let source = source.map(|chunk| {
        chunk.map_err(|error| Reject {
            kind: RejectKind::IncompleteBody,
            message: format!("the source cannot be read: {error}"),
        })
    });
    let digest = pool.begin(BodyDigest::new([algorithm]));
    let stream = digesting(source, digest, Arc::clone(&result));
    let finish: Finish = Box::new(move || {
        let digests = result.lock().take().ok_or_else(unfinished)?;
        Ok(ObjectSeal { etag: checksum::hex(&digests.md5), checksums: digests.checksums })
    });
    Incoming { stream, finish }
}

fn unfinished() -> Reject {
    Reject { kind: RejectKind::IncompleteBody, message: "the body was not read to its end".into() }
}

fn digesting<S>(source: S, digest: PooledDigest, result: Arc<Mutex<Option<Digests>>>) -> BodyStream
where
    S: Stream<Item = Result<Bytes, Reject>> + Send + Unpin + 'static,
{
    let lost = || Reject { kind: RejectKind::IncompleteBody, message: "cannot digest".to_owned() };
    let state = Digesting { source, digest: Some(digest), result };
    Box::pin(futures_util::stream::unfold(state, move |mut state| async move {
        // After the end or an error the digest is gone, and the stream stays ended.
        let mut digest = state.digest.take()?;
        match state.source.next().await {
            Some(Ok(chunk)) => {
                if digest.update(chunk.clone()).await.is_err() {
                    return Some((Err(lost()), state));
                }
                state.digest = Some(digest);
                Some((Ok(chunk), state))
            }
            Some(Err(reject)) => Some((Err(reject), state)),
            None => match digest.finish().await {
                Ok(digests) => {
                    *state.result.lock() = Some(digests);
                    None
                }
                Err(_) => Some((Err(lost()), state)),
            },
        }
    }))
}

/// What an error of a body stream means for the client.
/// A body that was refused on its way here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.message)]
pub struct Refused(pub Reject);

pub(crate) fn reject_of(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Reject {
    let mut kind = RejectKind::IncompleteBody;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    // The outermost error may be a wrapper (`Underlying`) of the one that says why.
    while let Some(error) = cause {
        if let Some(Refused(reject)) = error.downcast_ref() {
            return reject.clone();
        }
        if error.is::<BodyStalled>() {
            kind = RejectKind::Timeout;
        } else if error.is::<BodySizeLimitExceeded>() {
            kind = RejectKind::TooLarge;
        } else if let Some(error) = error.downcast_ref::<UploadStreamError>() {
            kind = match error {
                UploadStreamError::Sha256Mismatch => RejectKind::ContentHashMismatch,
                UploadStreamError::Underlying(_)
                | UploadStreamError::LengthMismatch
                | UploadStreamError::Incomplete => RejectKind::IncompleteBody,
            };
        } else if let Some(error) = error.downcast_ref::<AwsChunkedStreamError>() {
            kind = match error {
                AwsChunkedStreamError::SignatureMismatch => RejectKind::SignatureMismatch,
                AwsChunkedStreamError::ChunkMetaTooLarge(..)
                | AwsChunkedStreamError::ChunkDataTooLarge(..) => RejectKind::TooLarge,
                AwsChunkedStreamError::Underlying(_)
                | AwsChunkedStreamError::FormatError
                | AwsChunkedStreamError::Incomplete
                | AwsChunkedStreamError::LengthMismatch
                | AwsChunkedStreamError::TrailersTooLarge(..)
                | AwsChunkedStreamError::TooManyTrailerHeaders(..) => RejectKind::IncompleteBody,
            };
        }
        cause = error.source();
    }
    let message = match kind {
        RejectKind::Timeout => "The body came too slowly.",
        RejectKind::TooLarge => "Your proposed upload exceeds the maximum allowed object size.",
        RejectKind::ContentHashMismatch => {
            "The provided 'x-amz-content-sha256' header does not match what was computed."
        }
        RejectKind::SignatureMismatch => "The signature of a chunk does not match.",
        _ => "You did not provide the number of bytes specified by the Content-Length header.",
    };
    Reject { kind, message: message.to_owned() }
}

/// A body could not be sent to its end; the connection is broken off.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The grid could not go on.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// The grid gave another number of bytes than it had announced.
    #[error("the body ended {0} bytes from where it should")]
    Length(u64),
}

/// Bytes on their way out: as many as announced, or an error.
pub struct Outgoing {
    first: Option<Bytes>,
    rest: Option<ReadStream>,
    remaining: u64,
}

impl Outgoing {
    /// Fetches the first chunk, so that an error can still be told as such and header and first
    /// bytes leave together.
    pub async fn begin(mut body: ReadStream, length: u64) -> Result<Outgoing, GridError> {
        if length == 0 {
            return Ok(Outgoing { first: None, rest: None, remaining: 0 });
        }
        let first = body.next().await.transpose()?;
        Ok(Outgoing { first, rest: Some(body), remaining: length })
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = ReadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
        if self.remaining == 0 {
            // Dropping the stream unpins the version.
            self.rest = None;
            return Poll::Ready(None);
        }
        let chunk = match self.first.take() {
            Some(chunk) => Some(Ok(chunk)),
            None => match &mut self.rest {
                Some(rest) => std::task::ready!(rest.poll_next_unpin(cx)),
                None => None,
            },
        };
        match chunk {
            Some(Ok(chunk)) => match self.remaining.checked_sub(chunk.len() as u64) {
                Some(remaining) => {
                    self.remaining = remaining;
                    Poll::Ready(Some(Ok(Frame::data(chunk))))
                }
                None => {
                    let beyond = (chunk.len() as u64).saturating_sub(self.remaining);
                    self.rest = None;
                    Poll::Ready(Some(Err(ReadError::Length(beyond))))
                }
            },
            Some(Err(error)) => {
                tracing::warn!(%error, "response broken off");
                self.rest = None;
                Poll::Ready(Some(Err(error.into())))
            }
            None => Poll::Ready(Some(Err(ReadError::Length(self.remaining)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_str(v).unwrap())).collect()
    }

    fn plan(pairs: &[(&'static str, &str)], mode: PayloadMode) -> Result<BodyPlan, String> {
        BodyPlan::of(&headers(pairs), mode, None).map_err(|e| e.code().as_str().to_owned())
    }

    #[test]
    fn plans() {
        use PayloadMode::*;
        let crc = ("x-amz-checksum-crc32", "y/Q5Jg==");
        assert_eq!(plan(&[], Signed).unwrap().stored, checksum::DEFAULT);
        assert_eq!(plan(&[crc], Signed).unwrap().stored, ChecksumAlgorithm::Crc32);
        let trailer = ("x-amz-trailer", "x-amz-checksum-sha256");
        for mode in [ChunksWithTrailer, UnsignedChunksWithTrailer] {
            let plan = plan(&[trailer], mode).unwrap();
            assert_eq!(plan.declared, Some((ChecksumAlgorithm::Sha256, Declared::Trailer)));
        }
        for (pairs, mode, code) in [
            (
                &[crc, ("x-amz-checksum-sha1", "2jmj7l5rSw0yVb/vlWAYkK/YBwk=")][..],
                Signed,
                "InvalidRequest",
            ),
            (&[("x-amz-checksum-crc32", "####")], Signed, "BadDigest"),
            (&[("x-amz-checksum-crc32", "AAAAAAAA")], Signed, "BadDigest"),
            (&[trailer], Signed, "InvalidRequest"),
            (&[trailer], Chunks, "InvalidRequest"),
            (&[], ChunksWithTrailer, "InvalidRequest"),
            (&[("x-amz-trailer", "x-amz-other")], ChunksWithTrailer, "InvalidRequest"),
            (&[trailer, crc], ChunksWithTrailer, "InvalidRequest"),
            (&[("x-amz-sdk-checksum-algorithm", "CRC32")], Signed, "InvalidRequest"),
            (&[("x-amz-sdk-checksum-algorithm", "SHA1"), crc], Signed, "InvalidRequest"),
            (&[("x-amz-sdk-checksum-algorithm", "ROT13"), crc], Signed, "InvalidRequest"),
            (&[("x-amz-sdk-checksum-algorithm", "SHA512")], Signed, "InvalidRequest"),
            (&[("content-md5", "####")], Signed, "InvalidDigest"),
        ] {
            assert_eq!(plan(pairs, mode).map(|_| ()), Err(code.to_owned()), "{pairs:?}");
        }
    }

    #[tokio::test]
    async fn a_body_of_another_length_is_broken_off() {
        use http_body_util::BodyExt as _;
        for (announced, fine) in [(3, true), (1, false), (4, false)] {
            let stream: ReadStream = Box::pin(futures_util::stream::iter([
                Ok(Bytes::from_static(b"ab")),
                Ok(Bytes::from_static(b"c")),
            ]));
            let body = Outgoing::begin(stream, announced).await.unwrap();
            assert_eq!(body.collect().await.is_ok(), fine, "{announced}");
        }
    }

    #[tokio::test]
    async fn the_first_error_can_still_be_told() {
        let stream: ReadStream =
            Box::pin(futures_util::stream::iter([Err(GridError::Unreadable("x".into()))]));
        assert!(Outgoing::begin(stream, 5).await.is_err());
    }
}
