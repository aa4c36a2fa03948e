use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use nexusgrid_codec::limits::{BLOCK_LEN_MAX, FRAME_LEN_MAX};
use nexusgrid_codec::seal::{open_region, seal_one, trim};
use nexusgrid_codec::{
    ClusterId, Code, CodecError, CodecId, Region, RegionCipher, RegionContext, SealingBlock,
};
use proptest::prelude::*;

use crate::geometry::any_code;
use crate::{CLUSTER, block, bytes_of, content_key, copies, in_pieces, rs};

fn context(code: Code, counter: u32, region: Region) -> RegionContext {
    RegionContext { cluster: CLUSTER, block: block(counter), codec: code.codec(), region }
}

/// A small region with four frames: 512, 512, 512 and 100 bytes.
fn four_frames() -> (RegionContext, Bytes, Bytes) {
    let plain = bytes_of(1, 3 * 512 + 100);
    let code = rs(4, 2);
    let (sealed, region) =
        seal_one(CLUSTER, block(1), code, &content_key(1), std::slice::from_ref(&plain)).unwrap();
    assert_eq!(region.frame_count(), 4);
    (context(code, 1, region), plain, sealed.bytes)
}

fn opens(context: RegionContext, key: u8, sealed: &[u8]) -> bool {
    open_region(&content_key(key), context, BytesMut::from(sealed)).is_ok()
}

#[test]
fn what_was_sealed_opens() {
    let (context, plain, sealed) = four_frames();
    let opened = open_region(&content_key(1), context, BytesMut::from(&sealed[..])).unwrap();
    assert_eq!(opened.concat(), plain);
}

#[test]
fn every_flipped_bit_is_refused() {
    let (context, _, sealed) = four_frames();
    for bit in 0..sealed.len() * 8 {
        let mut flipped = BytesMut::from(&sealed[..]);
        flipped[bit / 8] ^= 1 << (bit % 8);
        let frame = (bit / 8 / 528) as u32;
        let refused = open_region(&content_key(1), context, flipped);
        assert_eq!(refused, Err(CodecError::FrameCorrupt { frame }), "bit {bit}");
    }
}

#[test]
fn swapped_frames_are_refused() {
    let (context, _, sealed) = four_frames();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let mut swapped = sealed.to_vec();
        let (left, right) = swapped.split_at_mut(b * 528);
        left[a * 528..(a + 1) * 528].swap_with_slice(&mut right[..528]);
        assert!(!opens(context, 1, &swapped), "{a} {b}");
    }
}

#[test]
fn swapped_blocks_places_clusters_codecs_and_keys_are_refused() {
    let (context, _, sealed) = four_frames();
    assert!(opens(context, 1, &sealed));
    assert!(!opens(context, 2, &sealed), "another content's key");
    assert!(!opens(RegionContext { block: block(2), ..context }, 1, &sealed), "another block");
    let cluster = ClusterId([0xc2; 16]);
    assert!(!opens(RegionContext { cluster, ..context }, 1, &sealed), "another cluster");
    let codec = CodecId::Copy;
    assert!(!opens(RegionContext { codec, ..context }, 1, &sealed), "another codec");
    let region = Region::from_parts(512, context.region.plain_len(), 512).unwrap();
    assert!(!opens(RegionContext { region, ..context }, 1, &sealed), "another place");
}

#[test]
fn truncation_and_extension_are_refused() {
    let (context, plain, sealed) = four_frames();
    for len in 0..sealed.len() {
        assert!(!opens(context, 1, &sealed[..len]), "cut to {len}");
    }
    assert!(!opens(context, 1, &[&sealed[..], &[0]].concat()));
    // Shorter or longer by the row as well: the length and the final flag are authenticated.
    for plain_len in (0..plain.len() as u32).step_by(7).chain([512, 1024, 1536]) {
        let region = Region::from_parts(0, plain_len, 512).unwrap();
        let shorter = RegionContext { region, ..context };
        assert!(!opens(shorter, 1, &sealed[..region.sealed_len() as usize]), "{plain_len}");
    }
    let region = Region::from_parts(0, plain.len() as u32 + 1, 512).unwrap();
    assert!(!opens(RegionContext { region, ..context }, 1, &[&sealed[..], &[0]].concat()));
}

#[test]
fn one_bad_frame_leaves_the_others_readable() {
    let (context, plain, sealed) = four_frames();
    let cipher = RegionCipher::new(&content_key(1), context);
    let mut stored = BytesMut::from(&sealed[528..]);
    stored[600] ^= 1;
    let frames = cipher.open_each(1, stored).unwrap();
    assert_eq!(frames[0].as_deref(), Ok(&plain[512..1024]));
    assert_eq!(frames[1], Err(CodecError::FrameCorrupt { frame: 2 }));
    assert_eq!(frames[2].as_deref(), Ok(&plain[1536..]));
    assert!(cipher.open_each(4, BytesMut::from(&sealed[..1])).is_err(), "no such frame");
    assert!(cipher.open_each(0, BytesMut::from(&sealed[..530])).is_err(), "half a frame");
}

#[test]
fn keys_and_nonces_never_repeat() {
    // One content key in many blocks and places: every derived key differs, and within one key the
    // nonce is the frame's index. Equal plaintext therefore never gives equal ciphertext.
    let (key, plain) = (content_key(1), Bytes::from(vec![0; 2000]));
    let mut seen = BTreeSet::new();
    for counter in 0..20 {
        let mut sealing = SealingBlock::new(CLUSTER, block(counter), copies(3));
        for _ in 0..5 {
            sealing.append(&key, std::slice::from_ref(&plain)).unwrap();
        }
        for window in sealing.finish().unwrap().bytes.chunks(16) {
            assert!(seen.insert(window.to_vec()) || window.len() < 16);
        }
    }
}

#[test]
fn a_pack_holds_contents_of_different_keys() {
    let lens = [5000, 0, 1, 65_536, 200_000, 512, 4096];
    let plains: Vec<Bytes> =
        lens.iter().enumerate().map(|(i, len)| bytes_of(i as u64, *len)).collect();
    let mut sealing = SealingBlock::new(CLUSTER, block(9), copies(3));
    let regions: Vec<Region> = (0u8..)
        .zip(&plains)
        .map(|(i, plain)| sealing.append(&content_key(i), &in_pieces(plain, 99)).unwrap())
        .collect();
    let sealed = sealing.finish().unwrap();
    assert_eq!(sealed.layout.frame_len(), FRAME_LEN_MAX);
    let last = regions.last().unwrap();
    assert_eq!(sealed.layout.sealed_len(), last.offset() + last.sealed_len());
    for (i, (region, plain)) in regions.iter().zip(&plains).enumerate() {
        let context = context(copies(3), 9, *region);
        let part = region.sealed_range(0..region.frame_count());
        let stored = &sealed.bytes[part.start as usize..part.end as usize];
        let opened =
            open_region(&content_key(i as u8), context, BytesMut::from(stored)).unwrap().concat();
        assert_eq!(&opened[..], &plain[..]);
        assert!(!opens(context, i as u8 + 1, stored));
    }
}

#[test]
fn blocks_have_bounds() {
    let mut sealing = SealingBlock::new(CLUSTER, block(1), rs(4, 2));
    assert!(sealing.fits(BLOCK_LEN_MAX as usize) && !sealing.fits(BLOCK_LEN_MAX as usize + 1));
    sealing.append(&content_key(1), &[bytes_of(1, 100)]).unwrap();
    assert!(!sealing.fits(1), "an erasure-coded block holds one content");
    assert!(sealing.append(&content_key(1), &[bytes_of(1, 1)]).is_err());
    assert!(SealingBlock::new(CLUSTER, block(1), rs(4, 2)).finish().is_err());

    let mut pack = SealingBlock::new(CLUSTER, block(2), copies(3));
    pack.append(&content_key(1), &[bytes_of(1, BLOCK_LEN_MAX as usize - 1)]).unwrap();
    assert!(!pack.fits(2));
    let too_long = Bytes::from(vec![0; BLOCK_LEN_MAX as usize + 1]);
    assert!(pack.append(&content_key(1), &[too_long]).is_err());
}

#[test]
fn emptiness_is_authenticated() {
    let (sealed, region) = seal_one(CLUSTER, block(1), copies(1), &content_key(1), &[]).unwrap();
    assert_eq!((region.frame_count(), sealed.bytes.len()), (1, 16));
    assert!(opens(context(copies(1), 1, region), 1, &sealed.bytes));
    assert!(!opens(context(copies(1), 2, region), 1, &sealed.bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn range_reads_equal_slices(
        code in any_code(), len in prop_oneof![1usize..5000, 1usize..900_000],
        a in any::<usize>(), b in any::<usize>(), seed in any::<usize>(),
    ) {
        let plain = bytes_of(seed as u64, len);
        let key = content_key(5);
        let (sealed, region) =
            seal_one(CLUSTER, block(4), code, &key, &in_pieces(&plain, seed)).unwrap();
        let (start, end) = ((a % len).min(b % len), (a % len).max(b % len) + 1);
        let wanted = start as u32..end as u32;
        let cipher = RegionCipher::new(&key, context(code, 4, region));
        let mut read = Vec::new();
        for span in region.spans(code, wanted.clone()).unwrap() {
            let base = sealed.layout.data_range(span.shard).unwrap().start;
            let part = (base + span.body.start) as usize..(base + span.body.end) as usize;
            let stored = BytesMut::from(&sealed.bytes[part]);
            read.extend(cipher.open_range(span.frames.start, stored, wanted.clone()).unwrap().concat());
        }
        prop_assert_eq!(&read, &plain[start..end]);
    }

    #[test]
    fn trimming_is_slicing(len in 1u32..3000, frame in 0u32..6, a in 0u32..3000, b in 0u32..3000) {
        let plain = bytes_of(1, len as usize);
        let region = Region::from_parts(0, len, 512).unwrap();
        let covers = region.frame_plain_range(frame);
        let opened = plain.slice(covers.start as usize..covers.end as usize);
        let got = trim(region, frame, &opened, &(a..b));
        let (start, end) = (a.max(covers.start), b.min(covers.end));
        let expected = if start < end { plain.slice(start as usize..end as usize) } else { Bytes::new() };
        prop_assert_eq!(got, expected);
    }
}
