use bytes::{Bytes, BytesMut};
use nexusgrid_codec::erasure::{encode, rebuild, reconstruct, reconstruct_window};
use nexusgrid_codec::seal::{open_region, seal_one};
use nexusgrid_codec::{
    Code, CodecError, EncodedBlock, Region, RegionContext, SealedBlock, SealingBlock,
};
use proptest::prelude::*;

use crate::geometry::any_code;
use crate::{CLUSTER, block, bytes_of, content_key, copies, rs, subsets};

fn encoded(code: Code, len: usize, seed: u64) -> (SealedBlock, Region, EncodedBlock) {
    let (sealed, region) =
        seal_one(CLUSTER, block(7), code, &content_key(1), &[bytes_of(seed, len)]).unwrap();
    let encoded = encode(&sealed).unwrap();
    (sealed, region, encoded)
}

fn pick(encoded: &EncodedBlock, indices: &[u8]) -> Vec<(u8, Bytes)> {
    indices.iter().map(|i| (*i, encoded.shards[usize::from(*i)].clone())).collect()
}

#[test]
fn every_subset_of_k_shards_restores() {
    let codes = [copies(1), copies(3), rs(2, 1), rs(2, 2), rs(3, 2), rs(4, 2), rs(8, 3), rs(8, 4)];
    for code in codes {
        for len in [0, 1, 700, 2048, 10_000] {
            let (_, _, all) = encoded(code, len, 1);
            let wanted: Vec<u8> = (0..code.shards()).collect();
            for subset in subsets(code.shards(), code.k()) {
                let rebuilt = reconstruct(&all.layout, &wanted, &pick(&all, &subset)).unwrap();
                assert_eq!(rebuilt, all.shards, "{code:?} {len} from {subset:?}");
            }
        }
    }
}

#[test]
fn fewer_than_k_shards_are_refused() {
    for code in [copies(3), rs(2, 2), rs(4, 2), rs(8, 4)] {
        let (_, _, all) = encoded(code, 5000, 1);
        let missing = code.shards() - 1;
        let present: Vec<u8> = (0..code.k() - 1).collect();
        let refused = reconstruct(&all.layout, &[missing], &pick(&all, &present));
        let (have, need) = (code.k() - 1, code.k());
        assert_eq!(refused, Err(CodecError::NotEnoughShards { have, need }));
    }
    let (_, _, all) = encoded(rs(4, 2), 5000, 1);
    let same = pick(&all, &[1, 1, 1, 1, 2, 3]);
    let refused = reconstruct(&all.layout, &[0], &same);
    assert_eq!(refused, Err(CodecError::NotEnoughShards { have: 3, need: 4 }));
}

#[test]
fn data_shards_are_slices_not_copies() {
    let (sealed, _, all) = encoded(rs(4, 2), 1 << 20, 1);
    for shard in 0..4 {
        let range = all.layout.data_range(shard).unwrap();
        let body = &all.shards[usize::from(shard)];
        assert_eq!(body.as_ptr(), sealed.bytes[range.start as usize..].as_ptr());
    }
    let (sealed, _, all) = encoded(copies(3), 1 << 20, 1);
    assert!(all.shards.iter().all(|body| body.as_ptr() == sealed.bytes.as_ptr()));
}

#[test]
fn parity_is_that_of_the_reed_solomon_package_on_padded_shards() {
    for (k, m, len) in
        [(2, 2, 3000), (4, 2, 300_000), (8, 3, 1_000_000), (8, 4, 70_000), (4, 2, 10)]
    {
        let (_, _, all) = encoded(rs(k, m), len, 3);
        let shard_len = all.layout.shard_len() as usize;
        let mut padded: Vec<Vec<u8>> = all.shards.iter().map(|body| body.to_vec()).collect();
        for (index, shard) in padded.iter_mut().enumerate() {
            if index >= usize::from(k) {
                shard.fill(0);
            }
            shard.resize(shard_len, 0);
        }
        let reference =
            reed_solomon_erasure::galois_8::ReedSolomon::new(k.into(), m.into()).unwrap();
        reference.encode(&mut padded).unwrap();
        assert_eq!(padded[usize::from(k)..], all.shards[usize::from(k)..]);
    }
}

#[test]
fn a_rebuilt_shard_carries_its_own_header() {
    for code in [copies(3), rs(4, 2)] {
        let (_, _, all) = encoded(code, 300_000, 5);
        let present: Vec<u8> = (1..=code.k()).collect();
        for wanted in [0, code.shards() - 1] {
            let sibling = all.header(1).unwrap();
            let (header, body) = rebuild(&sibling, wanted, &pick(&all, &present)).unwrap();
            assert_eq!(body, all.shards[usize::from(wanted)]);
            assert_eq!(header, all.header(wanted).unwrap());
        }
    }
}

#[test]
fn a_bad_source_shard_is_found_by_the_digest_of_what_it_rebuilt() {
    let (_, _, all) = encoded(rs(4, 2), 4000, 5);
    let mut present = pick(&all, &[1, 2, 3, 4]);
    let mut bad = present[2].1.to_vec();
    bad[17] ^= 0x40;
    present[2].1 = Bytes::from(bad);
    let refused = rebuild(&all.header(1).unwrap(), 0, &present);
    assert_eq!(refused.unwrap_err(), CodecError::ShardCorrupt { shard: 0 });
    assert!(all.header(3).unwrap().verify(&present[2].1).is_err(), "and the culprit by its own");
}

#[test]
fn swapped_shards_and_blocks_are_refused() {
    let (_, _, all) = encoded(rs(4, 2), 8192, 5);
    for (i, j) in [(0u8, 1u8), (2, 3), (4, 5), (0, 5)] {
        let header = all.header(i).unwrap();
        header.verify(&all.shards[usize::from(i)]).unwrap();
        assert!(header.verify(&all.shards[usize::from(j)]).is_err());
        // Even if the thief brings the crcs along.
        let forged =
            nexusgrid_codec::ShardHeader { crcs: all.crcs[usize::from(j)].clone(), ..header };
        assert!(forged.verify_crcs(&all.shards[usize::from(j)]).is_ok());
        assert!(forged.verify(&all.shards[usize::from(j)]).is_err());
    }
    // The same bytes under another block id have other digests.
    let other = SealedBlock { block: block(8), layout: all.layout, bytes: all_bytes(&all) };
    let other = encode(&other).unwrap();
    assert_eq!(other.shards, all.shards);
    assert!((0..6).all(|i| other.digests[i] != all.digests[i]));
    // And swapped data shards do not open as the content.
    let (sealed, region, all) = encoded(rs(2, 1), 1024, 5);
    let swapped = [&all.shards[1][..], &all.shards[0][..]].concat();
    let context =
        RegionContext { cluster: CLUSTER, block: sealed.block, codec: rs(2, 1).codec(), region };
    assert!(open_region(&content_key(1), context, BytesMut::from(&swapped[..])).is_err());
}

fn all_bytes(all: &EncodedBlock) -> Bytes {
    Bytes::from(all.shards[..usize::from(all.layout.code().k())].concat())
}

#[test]
fn every_flipped_bit_of_a_shard_is_refused() {
    for code in [copies(2), rs(2, 2)] {
        let (_, _, all) = encoded(code, 700, 5);
        for (index, body) in (0u8..).zip(&all.shards) {
            let header = all.header(index).unwrap();
            header.verify(body).unwrap();
            for bit in 0..body.len() * 8 {
                let mut flipped = body.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let refused = header.verify(&flipped);
                assert_eq!(refused, Err(CodecError::ShardCorrupt { shard: index }), "bit {bit}");
            }
            for len in 0..body.len() {
                assert!(header.verify(&body[..len]).is_err(), "cut to {len}");
            }
            assert!(header.verify(&[body, &[0u8][..]].concat()).is_err());
        }
    }
}

#[test]
fn frames_of_a_body_verify_alone() {
    let (_, _, all) = encoded(rs(2, 2), 1 << 20, 5);
    for index in 0..4 {
        let (header, body) = (all.header(index).unwrap(), &all.shards[usize::from(index)]);
        let frames = header.crcs.len() as u32;
        for first in 0..frames {
            let part = &body[header.frames_range(first..first + 2)];
            header.verify_frames(first, part).unwrap();
            assert!(header.verify_frames(first + 1, part).is_err());
            assert!(header.verify_frames(first, &part[..part.len() - 1]).is_err());
        }
        assert!(header.verify_frames(u32::MAX, &body[..5]).is_err());
    }
}

#[test]
fn wrong_windows_are_refused() {
    let (_, _, all) = encoded(rs(4, 2), 10_000, 5);
    let mut present = pick(&all, &[0, 1, 2, 3]);
    assert!(reconstruct_window(&all.layout, 6, 0..100, &present).is_err(), "no such shard");
    assert!(reconstruct_window(&all.layout, 5, 0..100, &present).is_err(), "other lengths");
    present[1] = (9, present[1].1.clone());
    assert!(reconstruct(&all.layout, &[5], &present).is_err(), "no such source");
    let wrong = SealedBlock { bytes: Bytes::new(), block: block(1), layout: all.layout };
    assert!(encode(&wrong).is_err());
}

#[test]
fn packs_are_checksummed_in_plain_cuts() {
    let mut sealing = SealingBlock::new(CLUSTER, block(3), copies(3));
    for len in [70_000, 3, 100_000] {
        sealing.append(&content_key(1), &[bytes_of(1, len)]).unwrap();
    }
    let all = encode(&sealing.finish().unwrap()).unwrap();
    assert_eq!(all.crcs[0].len(), all.shards[0].len().div_ceil(65_552));
    for index in 0..3 {
        all.header(index).unwrap().verify(&all.shards[0]).unwrap();
    }
    assert_ne!(all.digests[0], all.digests[1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn windows_of_missing_shards_equal_slices(
        code in any_code(), len in prop_oneof![1usize..5000, 1usize..900_000],
        seed in any::<u64>(), a in any::<u32>(), b in any::<u32>(), wanted in any::<u8>(),
    ) {
        let (_, _, all) = encoded(code, len, seed);
        let wanted = wanted % code.shards();
        let (a, b) = (a % all.layout.shard_len(), b % all.layout.shard_len() + 1);
        let window = a.min(b)..a.max(b);
        let mut indices: Vec<u8> = (0..code.shards()).filter(|i| *i != wanted).collect();
        let turn = seed as usize % indices.len().max(1);
        indices.rotate_left(turn);
        let cut = |index: u8| {
            let body = &all.shards[usize::from(index)];
            let at = |offset: u32| (offset as usize).min(body.len());
            body.slice(at(window.start)..at(window.end))
        };
        let present: Vec<(u8, Bytes)> =
            indices.iter().take(usize::from(code.k())).map(|i| (*i, cut(*i))).collect();
        if present.is_empty() {
            return Ok(());
        }
        let rebuilt = reconstruct_window(&all.layout, wanted, window.clone(), &present).unwrap();
        prop_assert_eq!(rebuilt, cut(wanted));
    }
}
