//! How a call looks in HTTP/1.1, and the MAC that the shard channel puts on it.
//!
//! ```text
//! POST /v1/<method, 4 hex digits>          200 | 400 refused | 429 busy | 500 failed | 504 too late
//! content-length: <head + body>            content-length: <head + body>
//! x-head: <head length>                    x-head: <head length>
//! x-deadline-ms: <time left>               x-tag: …
//! x-tag: <96 hex digits, shard channel>
//!
//! <head><body>                             <head><body>      (an error's text travels as head)
//! ```
//!
//! The tag is three AES-256-GMAC tags: over the *line* (method or status, deadline, lengths), over
//! line, head and the third, and over the body (by pieces of 16 KiB). The line's own tag lets the server refuse a call
//! before it reads a body, without an altered line being able to draw a refusal from it. Nonce =
//! direction ‖ part ‖ piece ‖ number of the call on this connection; both ends count, so a call that is
//! repeated, dropped, reordered or moved to another connection does not verify (I14: a
//! nonce serves once).

#![deny(clippy::indexing_slicing)]

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nexusgrid_env::{MethodId, NodeId, RpcError};
use ring::aead;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::limits;

pub(crate) const HEAD: &str = "x-head";
pub(crate) const DEADLINE: &str = "x-deadline-ms";
pub(crate) const TAG: &str = "x-tag";
const TAG_LEN: usize = 16;
/// Fits a core's first cache; 65 536 of them exceed every body.
const BODY_PIECE_LEN: usize = 16 * 1024;

/// First bytes of a shard connection: a mark that is neither TLS nor HTTP, a version, and the
/// session.
pub(crate) const SHARD_PREFACE_MARK: u8 = b'N';
pub(crate) const SHARD_PREFACE_VERSION: u8 = 1;
pub(crate) const SESSION_LEN: usize = 16;
pub(crate) const SHARD_PREFACE_LEN: usize = 2 + SESSION_LEN;
/// First byte of a TLS connection.
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;

/// Label of the TLS exporter (RFC 5705) that shard sessions are derived from.
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-nexusgrid-shard-v1";

/// An HTTP body of two parts, of known length, written in one go with the HTTP head.
pub(crate) struct Parts {
    head: Bytes,
    body: Bytes,
}

impl Parts {
    pub(crate) fn new(head: Bytes, body: Bytes) -> Parts {
        Parts { head, body }
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = if self.head.is_empty() {
            std::mem::take(&mut self.body)
        } else {
            std::mem::take(&mut self.head)
        };
        Poll::Ready((!part.is_empty()).then(|| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.head.len() + self.body.len()) as u64)
    }
}

/// The path of a method.
pub(crate) fn path(method: MethodId) -> String {
    format!("/v1/{:04x}", method.0)
}

/// The method of a path, in its one spelling.
pub(crate) fn method(path_text: &str) -> Option<MethodId> {
    let digits = path_text.strip_prefix("/v1/")?;
    let id = MethodId(u16::from_str_radix(digits, 16).ok()?);
    (path(id) == path_text).then_some(id)
}

/// A header that holds a decimal number.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    (text.len() <= 19 && text.bytes().all(|digit| digit.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// Lengths of head and body, as the HTTP head announces them.
pub(crate) fn lengths(headers: &HeaderMap, body: &Incoming) -> Option<(usize, usize)> {
    let total = usize::try_from(body.size_hint().exact()?).ok()?;
    let head = usize::try_from(number(headers, HEAD)?).ok()?;
    Some((head, total.checked_sub(head)?))
}

/// Reads a body whose announced lengths were checked, and splits it.
pub(crate) async fn read(
    mut incoming: Incoming,
    head_len: usize,
    body_len: usize,
) -> Result<(Bytes, Bytes), hyper::Error> {
    let mut whole = BytesMut::new();
    let mut first: Option<Bytes> = None;
    let expected = head_len + body_len;
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        if data.len() == expected {
            first = Some(data);
            continue;
        }
        if whole.capacity() == 0 {
            whole.reserve(expected);
        }
        whole.extend_from_slice(&data);
    }
    // hyper ends a body of a known length with an error if it is cut, so nothing is missing here.
    let mut whole = first.unwrap_or_else(|| whole.freeze());
    let head = whole.split_to(head_len.min(whole.len()));
    Ok((head, whole))
}

/// Time left, as a header carries it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Status and text of an error reply.
pub(crate) fn error_reply(error: &RpcError) -> (StatusCode, Bytes) {
    let (status, text) = match error {
        RpcError::Refused(text) => (StatusCode::BAD_REQUEST, text.clone()),
        RpcError::Busy(text) => (StatusCode::TOO_MANY_REQUESTS, text.clone()),
        RpcError::Failed(text) => (StatusCode::INTERNAL_SERVER_ERROR, text.clone()),
        // A service that itself called others and cannot say whether it happened.
        RpcError::Unknown(..) => (StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        // Nothing was done there, nor here: may be repeated.
        RpcError::Unreachable(..) => (StatusCode::TOO_MANY_REQUESTS, error.to_string()),
    };
    let mut end = text.len().min(limits::RPC_ERROR_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (status, Bytes::copy_from_slice(text.get(..end).unwrap_or_default().as_bytes()))
}

/// The error of a reply that is not 200.
pub(crate) fn error_of(peer: NodeId, status: StatusCode, text: &[u8]) -> RpcError {
    let text = String::from_utf8_lossy(text).into_owned();
    match status {
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => RpcError::Refused(text),
        StatusCode::TOO_MANY_REQUESTS => RpcError::Busy(text),
        StatusCode::INTERNAL_SERVER_ERROR => RpcError::Failed(text),
        _ => RpcError::Unknown(peer, text),
    }
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Reply,
}

/// What the MAC covers besides the bytes: everything that gives them meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Covered<'a> {
    pub(crate) direction: Direction,
    /// Method of a request, or HTTP status of a reply.
    pub(crate) code: u16,
    /// Zero in a reply.
    pub(crate) deadline_ms: u64,
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
    /// Whether the body is covered (see [`crate::method::Channel::ShardRead`]).
    pub(crate) body_covered: bool,
}

/// What is known of a message before its bytes are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) direction: Direction,
    pub(crate) code: u16,
    pub(crate) deadline_ms: u64,
    pub(crate) head_len: usize,
    pub(crate) body_len: usize,
    pub(crate) body_covered: bool,
}

impl Line {
    fn to_bytes(self) -> [u8; 27] {
        let mut bytes = [0; 27];
        let fields = [u64::from(self.code), self.deadline_ms]
            .into_iter()
            .chain([self.head_len as u64, self.body_len as u64]);
        let mut at = bytes.iter_mut();
        for (field, len) in fields.zip([2, 8, 8, 8]) {
            for (to, from) in at.by_ref().zip(field.to_le_bytes().into_iter().take(len)) {
                *to = from;
            }
        }
        if let Some(last) = at.next() {
            *last = u8::from(self.body_covered);
        }
        bytes
    }
}

/// The key of one shard connection.
pub(crate) struct MacKey(aead::LessSafeKey);

impl MacKey {
    /// Derives a session's key from the TLS connection it was opened on.
    pub(crate) fn derive(exported: &[u8; 32], session: &[u8; SESSION_LEN]) -> Option<MacKey> {
        let mut key = Zeroizing::new([0_u8; 32]);
        hkdf::Hkdf::<Sha256>::new(Some(session), exported)
            .expand(b"nexusgrid shard mac v1", key.as_mut())
            .ok()?;
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key.as_ref()).ok()?;
        Some(MacKey(aead::LessSafeKey::new(key)))
    }

    /// The header value for call number `count`.
    pub(crate) fn tag(&self, count: u64, covered: &Covered<'_>) -> Option<String> {
        Some(hex(self.compute(count, covered)?.as_flattened()))
    }

    /// Whether a header value is right for call number `count`.
    pub(crate) fn verify(&self, count: u64, covered: &Covered<'_>, header: Option<&[u8]>) -> bool {
        let (Some(tags), Some(header)) = (self.compute(count, covered), header.and_then(unhex))
        else {
            return false;
        };
        tags.as_flattened().ct_eq(header.as_flattened()).into()
    }

    /// Whether a header value is right as far as the line goes; head and body may be absent yet.
    pub(crate) fn verify_line(&self, count: u64, line: &Line, header: Option<&[u8]>) -> bool {
        let tag = self.gmac(count, line.direction, 2, &line.to_bytes());
        let (Some(tag), Some([header, _, _])) = (tag, header.and_then(unhex)) else {
            return false;
        };
        tag.ct_eq(&header).into()
    }

    fn compute(&self, count: u64, covered: &Covered<'_>) -> Option<[[u8; TAG_LEN]; 3]> {
        let line = Line {
            direction: covered.direction,
            code: covered.code,
            deadline_ms: covered.deadline_ms,
            head_len: covered.head.len(),
            body_len: covered.body.len(),
            body_covered: covered.body_covered,
        };
        let line_bytes = line.to_bytes();
        let line_tag = self.gmac(count, line.direction, 2, &line_bytes)?;
        let body_tag = if covered.body_covered && !covered.body.is_empty() {
            self.body_tag(count, line.direction, covered.body)?
        } else {
            [0; TAG_LEN]
        };
        let mut head = Vec::with_capacity(line_bytes.len() + TAG_LEN + covered.head.len());
        head.extend(line_bytes);
        head.extend(body_tag);
        head.extend_from_slice(covered.head);
        let head_tag = self.gmac(count, line.direction, 0, &head)?;
        Some([line_tag, head_tag, body_tag])
    }

    fn gmac(
        &self,
        count: u64,
        direction: Direction,
        part: u8,
        bytes: &[u8],
    ) -> Option<[u8; TAG_LEN]> {
        self.seal(count, direction, part, 0, bytes, &mut [])
    }

    /// The tag of a long body. `ring` hashes associated data one block at a time (0.9 GB/s), but
    /// what it encrypts many at a time; so each piece is encrypted in a scratch buffer that stays
    /// in the cache, for the sake of its tag alone.
    fn body_tag(&self, count: u64, direction: Direction, body: &[u8]) -> Option<[u8; TAG_LEN]> {
        let mut scratch = vec![0; body.len().min(BODY_PIECE_LEN)];
        let mut tags = Vec::with_capacity(body.len().div_ceil(BODY_PIECE_LEN) * TAG_LEN);
        for (index, piece) in body.chunks(BODY_PIECE_LEN).enumerate() {
            let scratch = scratch.get_mut(..piece.len())?;
            scratch.copy_from_slice(piece);
            let index = u16::try_from(index).ok()?;
            tags.extend(self.seal(count, direction, 1, index, &[], scratch)?);
        }
        self.gmac(count, direction, 3, &tags)
    }

    fn seal(
        &self,
        count: u64,
        direction: Direction,
        part: u8,
        piece: u16,
        associated: &[u8],
        scratch: &mut [u8],
    ) -> Option<[u8; TAG_LEN]> {
        let direction = match direction {
            Direction::Request => 0,
            Direction::Reply => 1,
        };
        let [p0, p1] = piece.to_le_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = count.to_le_bytes();
        let nonce = [direction, part, p0, p1, c0, c1, c2, c3, c4, c5, c6, c7];
        let tag = self
            .0
            .seal_in_place_separate_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(associated),
                scratch,
            )
            .ok()?;
        tag.as_ref().try_into().ok()
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &[u8]) -> Option<[[u8; TAG_LEN]; 3]> {
    let mut tags = [[0; TAG_LEN]; 3];
    if text.len() != 2 * tags.as_flattened().len() {
        return None;
    }
    for (byte, digits) in tags.as_flattened_mut().iter_mut().zip(text.chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(tags)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    fn covered<'a>(head: &'a [u8], body: &'a [u8]) -> Covered<'a> {
        Covered {
            direction: Direction::Request,
            code: 0x0301,
            deadline_ms: 1000,
            head,
            body,
            body_covered: true,
        }
    }

    #[test]
    fn mac_covers_every_field() {
        let key = MacKey::derive(&[7; 32], &[9; SESSION_LEN]).unwrap();
        let base = covered(b"head", b"body");
        let tag = key.tag(5, &base).unwrap();
        let header = Some(tag.as_bytes());
        assert!(key.verify(5, &base, header));
        assert!(!key.verify(6, &base, header), "replayed as the next call");
        assert!(!key.verify(4, &base, header));
        assert!(!key.verify(5, &Covered { head: b"heae", ..base }, header));
        assert!(!key.verify(5, &Covered { body: b"bodx", ..base }, header));
        assert!(!key.verify(5, &Covered { head: b"headb", body: b"ody", ..base }, header));
        assert!(!key.verify(5, &Covered { code: 0x0302, ..base }, header));
        assert!(!key.verify(5, &Covered { deadline_ms: 1001, ..base }, header));
        assert!(!key.verify(5, &Covered { direction: Direction::Reply, ..base }, header));
        assert!(!key.verify(5, &Covered { body_covered: false, ..base }, header));
        assert!(!key.verify(5, &base, None));
        assert!(!key.verify(5, &base, Some(b"short")));
        let other = MacKey::derive(&[7; 32], &[8; SESSION_LEN]).unwrap();
        assert!(!other.verify(5, &base, header), "another session's key");
    }

    #[test]
    fn mac_golden() {
        let key = MacKey::derive(&[7; 32], &[9; SESSION_LEN]).unwrap();
        let tag = key.tag(5, &covered(b"head", b"body")).unwrap();
        assert_eq!(tag, GOLDEN_TAG);
    }

    const GOLDEN_TAG: &str = "cea0940eefb230c742db1f2040248340\
                              2031c1b85413377939305aa938db3d0c\
                              fe92231129699c19bca3068df6fc0a74";

    #[test]
    fn mac_covers_every_piece_of_a_long_body() {
        let key = MacKey::derive(&[7; 32], &[9; SESSION_LEN]).unwrap();
        let body: Vec<u8> =
            (0..3 * BODY_PIECE_LEN + 5).map(|at| (at ^ (at / BODY_PIECE_LEN)) as u8).collect();
        let tag = key.tag(5, &covered(b"head", &body)).unwrap();
        let verifies = |body: &[u8]| key.verify(5, &covered(b"head", body), Some(tag.as_bytes()));
        assert!(verifies(&body));
        for at in (0..body.len()).step_by(1009).chain([body.len() - 1]) {
            let mut altered = body.clone();
            altered[at] ^= 1;
            assert!(!verifies(&altered), "byte {at}");
        }
        let mut swapped = body.clone();
        swapped[..2 * BODY_PIECE_LEN].rotate_left(BODY_PIECE_LEN);
        assert_ne!(swapped, body);
        assert!(!verifies(&swapped));
        assert!(!verifies(&body[..body.len() - 1]));
    }

    #[test]
    fn read_reply_tag_ignores_the_body_only() {
        let key = MacKey::derive(&[7; 32], &[9; SESSION_LEN]).unwrap();
        let reply = Covered { body_covered: false, ..covered(b"head", b"ciphertext") };
        let tag = key.tag(1, &reply).unwrap();
        assert!(key.verify(1, &Covered { body: b"ciphertexT", ..reply }, Some(tag.as_bytes())));
        assert!(!key.verify(1, &Covered { body: b"cipher", ..reply }, Some(tag.as_bytes())));
    }

    #[test]
    fn paths_have_one_spelling() {
        assert_eq!(method("/v1/0301"), Some(MethodId(0x0301)));
        for odd in ["/v1/301", "/v1/0x301", "/v1/+301", "/v2/0301", "/v1/0301/", "/v1/030G"] {
            assert_eq!(method(odd), None, "{odd}");
        }
    }
}
