//! A request body, taken in pieces of wanted size.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::api::{BodyStream, Reject, RejectKind};
use crate::error::GridError;

/// Chunks below this are copied together: thousands of tiny slices would each hold on to a whole
/// network buffer.
const COPY_BELOW: usize = 4 << 10;

/// Reads a body and counts it.
pub(crate) struct BodyReader {
    stream: BodyStream,
    rest: Bytes,
    ended: bool,
    read: u64,
    expected: Option<u64>,
    limit: u64,
}

impl BodyReader {
    /// A body of `expected` bytes, if that is known, and of `limit` at most.
    pub(crate) fn new(stream: BodyStream, expected: Option<u64>, limit: u64) -> BodyReader {
        BodyReader { stream, rest: Bytes::new(), ended: false, read: 0, expected, limit }
    }

    /// Bytes that are still to come, if that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        let taken = self.read - self.rest.len() as u64;
        Some(self.expected?.saturating_sub(taken))
    }

    /// Whether everything was taken.
    pub(crate) fn ended(&self) -> bool {
        self.ended && self.rest.is_empty()
    }

    /// Takes `max` bytes, or all that is left.
    pub(crate) async fn take(&mut self, max: usize) -> Result<Vec<Bytes>, GridError> {
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut small = BytesMut::new();
        let mut taken = 0;
        while taken < max {
            if self.rest.is_empty() && !self.next_chunk().await? {
                break;
            }
            let piece = self.rest.split_to(self.rest.len().min(max - taken));
            taken += piece.len();
            if piece.len() < COPY_BELOW {
                small.extend_from_slice(&piece);
                continue;
            }
            if !small.is_empty() {
                pieces.push(small.split().freeze());
            }
            pieces.push(piece);
        }
        if !small.is_empty() {
            pieces.push(small.freeze());
        }
        // Known to have ended only when asked once more: a body of exactly `max` bytes is one block,
        // what lies behind an announced end is too much, and the end may bring trailers.
        if self.rest.is_empty() && !self.ended {
            self.next_chunk().await?;
        }
        Ok(pieces)
    }

    /// The next chunk into `rest`; `false` at the end.
    async fn next_chunk(&mut self) -> Result<bool, GridError> {
        while !self.ended {
            match self.stream.next().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    if chunk.is_empty() {
                        continue;
                    }
                    let seen = self.read + chunk.len() as u64;
                    if self.expected.is_some_and(|expected| seen > expected) {
                        return Err(reject(RejectKind::TooLarge, "more bytes than announced"));
                    }
                    if seen > self.limit {
                        return Err(GridError::TooLarge { limit: self.limit });
                    }
                    self.read = seen;
                    self.rest = chunk;
                    return Ok(true);
                }
                None => {
                    self.ended = true;
                    if self.expected.is_some_and(|expected| self.read < expected) {
                        return Err(reject(
                            RejectKind::IncompleteBody,
                            "fewer bytes than announced",
                        ));
                    }
                }
            }
        }
        Ok(false)
    }
}

fn reject(kind: RejectKind, message: &str) -> GridError {
    GridError::Rejected(Reject { kind, message: message.to_owned() })
}

/// Bytes in pieces.
pub(crate) fn total(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(chunks: Vec<Vec<u8>>) -> BodyStream {
        let chunks = chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk)));
        Box::pin(futures_util::stream::iter(chunks))
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn takes_every_byte_once(
            sizes in prop::collection::vec(0usize..10_000, 0..20),
            max in 1usize..20_000,
            known in any::<bool>(),
        ) {
            let chunks: Vec<Vec<u8>> = sizes.iter().enumerate()
                .map(|(index, size)| vec![index as u8; *size]).collect();
            let all = chunks.concat();
            let expected = known.then_some(all.len() as u64);
            run(async {
                let mut body = BodyReader::new(stream(chunks), expected, u64::MAX);
                let mut got = Vec::new();
                while !body.ended() {
                    let pieces = body.take(max).await.unwrap();
                    assert!(total(&pieces) == max || body.ended());
                    got.extend(pieces.concat());
                }
                assert_eq!(got, all);
            });
        }
    }

    #[test]
    fn refuses_other_lengths_than_announced() {
        let kind = |sizes: &[usize], expected: u64| {
            let chunks = sizes.iter().map(|size| vec![0; *size]).collect();
            let mut body = BodyReader::new(stream(chunks), Some(expected), u64::MAX);
            run(async {
                while !body.ended() {
                    match body.take(1000).await {
                        Ok(_) => {}
                        Err(GridError::Rejected(reject)) => return Some(reject.kind),
                        Err(other) => panic!("{other}"),
                    }
                }
                None
            })
        };
        assert_eq!(kind(&[400, 600], 1000), None);
        assert_eq!(kind(&[400, 601], 1000), Some(RejectKind::TooLarge));
        assert_eq!(kind(&[1000, 1], 1000), Some(RejectKind::TooLarge));
        assert_eq!(kind(&[400, 599], 1000), Some(RejectKind::IncompleteBody));
        assert_eq!(kind(&[], 1), Some(RejectKind::IncompleteBody));
        assert_eq!(kind(&[], 0), None);
    }
}
