//! Entry points for fuzzing: each takes any bytes, must not panic, and checks what it can of the
//! result. They run briefly in this crate's tests and longer on demand.
#![deny(clippy::indexing_slicing)]

use bytes::{Bytes, BytesMut};

use crate::erasure::reconstruct_window;
use crate::geometry::{BlockLayout, Code, Region};
use crate::header::ShardHeader;
use crate::id::{BlockId, ClusterId};
use crate::keys::{ContentKey, WrappedKey};
use crate::seal::{RegionCipher, RegionContext};

/// A decoded header encodes to the very bytes it came from.
pub fn fuzz_shard_header(data: &[u8]) {
    if let Ok((header, rest)) = ShardHeader::decode(data) {
        let consumed = data.len() - rest.len();
        assert_eq!(data.get(..consumed), Some(header.encode().as_slice()));
        assert_eq!(consumed, header.encoded_len());
        let _ = header.verify(rest);
        let _ = header.verify_frames(0, rest);
    }
}

/// A decoded wrapped key encodes to the very bytes it came from.
pub fn fuzz_wrapped_key(data: &[u8]) {
    if let Ok(wrapped) = WrappedKey::from_bytes(data) {
        assert_eq!(data, wrapped.to_bytes());
    }
}

/// Any numbers give a valid geometry or an error, and valid ones are consistent.
pub fn fuzz_geometry(data: &[u8]) {
    let mut numbers =
        data.chunks_exact(4).filter_map(|word| Some(u32::from_le_bytes(*word.first_chunk()?)));
    let mut next = || numbers.next().unwrap_or(0);
    let [codec, k, m, _] = next().to_le_bytes();
    let Ok(code) = Code::from_parts(codec, k, m) else { return };
    if let Ok(layout) = BlockLayout::new(code, next(), next()) {
        let bodies: u64 =
            (0..code.k()).filter_map(|shard| layout.body_len(shard)).map(u64::from).sum();
        assert_eq!(bodies, u64::from(layout.sealed_len()));
        assert_eq!(layout.body_len(code.shards()), None);
    }
    if let Ok(region) = Region::from_parts(next(), next(), next()) {
        let plain = next()..next();
        if let Ok(spans) = region.spans(code, plain.clone()) {
            let frames: u32 = spans.iter().map(|span| span.frames.end - span.frames.start).sum();
            let covering = region.frames_covering(plain);
            assert_eq!(frames, covering.end - covering.start);
        }
    }
}

/// No bytes open under a key that did not seal them.
pub fn fuzz_open_frames(data: &[u8]) {
    let Some((numbers, stored)) = data.split_first_chunk::<8>() else { return };
    let [a, b, c, d, e, f, g, h] = *numbers;
    let plain_len = u32::from_le_bytes([a, b, c, d]) % (1 << 20);
    let Ok(code) = Code::copies(1) else { return };
    let Ok(region) = Region::new(code, u32::from_le_bytes([e, f, 0, 0]), plain_len) else { return };
    let context = RegionContext {
        cluster: ClusterId([7; 16]),
        block: BlockId::from_bytes([9; 16]),
        codec: code.codec(),
        region,
    };
    let cipher = RegionCipher::new(&ContentKey::from_bytes([3; 32]), context);
    let first = u32::from_le_bytes([g, h, 0, 0]);
    if let Ok(frames) = cipher.open_each(first, BytesMut::from(stored)) {
        assert!(frames.iter().all(Result::is_err));
    }
}

/// Reconstruction takes any shards and windows, or refuses them.
pub fn fuzz_reconstruct(data: &[u8]) {
    let Some((&[codec, k, m, wanted, len, start, end, cut], rest)) = data.split_first_chunk::<8>()
    else {
        return;
    };
    let Ok(code) = Code::from_parts(codec, k, m) else { return };
    let Ok(layout) = BlockLayout::new(code, 512, u32::from(len) * 64) else { return };
    let step = usize::from(cut) + 1;
    let present: Vec<(u8, Bytes)> = rest
        .chunks(step)
        .filter_map(|chunk| chunk.split_first())
        .map(|(index, bytes)| (*index, Bytes::copy_from_slice(bytes)))
        .collect();
    let window = u32::from(start)..u32::from(end) * 64;
    let _ = reconstruct_window(&layout, wanted, window, &present);
}
