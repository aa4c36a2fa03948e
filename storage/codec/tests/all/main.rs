//! Everything the codec promises, from the outside.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod erasure;
mod fuzzing;
mod geometry;
mod headers;
mod keys;
mod sealing;
mod vectors;

use bytes::Bytes;
use nexusgrid_codec::{BlockId, ClusterId, Code, ContentKey, GroupId, SessionId};

pub(crate) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

pub(crate) fn block(counter: u32) -> BlockId {
    BlockId { group: GroupId(3), session: SessionId(0x0102_0304_0506_0708), counter }
}

pub(crate) fn content_key(seed: u8) -> ContentKey {
    ContentKey::from_bytes([seed; 32])
}

/// Bytes without period, the same for one seed and length.
pub(crate) fn bytes_of(seed: u64, len: usize) -> Bytes {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend(next());
    }
    out.truncate(len);
    Bytes::from(out)
}

/// The same bytes in pieces of changing length, as a network delivers them.
pub(crate) fn in_pieces(bytes: &Bytes, seed: usize) -> Vec<Bytes> {
    let (mut rest, mut len, mut pieces) = (bytes.clone(), seed % 1000 + 1, Vec::new());
    while !rest.is_empty() {
        pieces.push(rest.split_to(len.min(rest.len())));
        len = len * 7 % 50_021 + 1;
    }
    pieces
}

pub(crate) fn rs(k: u8, m: u8) -> Code {
    Code::reed_solomon(k, m).unwrap()
}

pub(crate) fn copies(n: u8) -> Code {
    Code::copies(n).unwrap()
}

/// All sets of `k` out of `n`.
pub(crate) fn subsets(n: u8, k: u8) -> Vec<Vec<u8>> {
    (0u32..1 << n)
        .filter(|mask| mask.count_ones() == u32::from(k))
        .map(|mask| (0..n).filter(|bit| mask >> bit & 1 == 1).collect())
        .collect()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
