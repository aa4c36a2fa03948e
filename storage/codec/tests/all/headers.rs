use nexusgrid_codec::erasure::encode;
use nexusgrid_codec::limits::{BLOCK_LEN_MAX, HEADER_LEN_MAX};
use nexusgrid_codec::seal::seal_one;
use nexusgrid_codec::{Code, CodecError, EncodedBlock, ShardHeader};

use crate::{CLUSTER, block, bytes_of, content_key, copies, rs};

fn encoded(code: Code, len: usize) -> EncodedBlock {
    let (sealed, _) =
        seal_one(CLUSTER, block(7), code, &content_key(1), &[bytes_of(1, len)]).unwrap();
    encode(&sealed).unwrap()
}

#[test]
fn headers_decode_to_what_was_encoded() {
    for code in [copies(1), copies(3), rs(2, 2), rs(4, 2), rs(8, 4), rs(16, 16)] {
        for len in [0, 1, 513, 100_000, BLOCK_LEN_MAX as usize] {
            let all = encoded(code, len);
            for index in 0..code.shards() {
                let header = all.header(index).unwrap();
                let mut bytes = header.encode();
                assert_eq!(bytes.len(), header.encoded_len());
                assert!(bytes.len() <= HEADER_LEN_MAX);
                bytes.extend(b"rest");
                let (decoded, rest) = ShardHeader::decode(&bytes).unwrap();
                assert_eq!(decoded, header);
                assert_eq!(rest, b"rest");
                assert!(decoded.is_sibling_of(&all.header(0).unwrap()));
            }
            assert!(all.header(code.shards()).is_none());
        }
    }
}

#[test]
fn every_flipped_bit_and_truncation_of_a_header_is_refused() {
    let bytes = encoded(rs(2, 2), 200_000).header(1).unwrap().encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(ShardHeader::decode(&flipped).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(ShardHeader::decode(&bytes[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn a_later_version_is_named() {
    let mut bytes = encoded(rs(2, 2), 10).header(1).unwrap().encode();
    bytes[0] = 2;
    let refused = ShardHeader::decode(&bytes).unwrap_err();
    assert_eq!(refused, CodecError::UnknownVersion { format: "shard header", version: 2 });
}

/// Numbers that contradict each other are refused even under a right crc.
#[test]
fn inconsistent_headers_are_refused() {
    let bytes = encoded(rs(2, 2), 200_000).header(1).unwrap().encode();
    let patches: [(usize, &[u8]); 12] = [
        (1, &[0]),
        (1, &[1]),
        (1, &[3]),
        (2, &[0]),
        (2, &[200]),
        (3, &[0]),
        (4, &[4]),
        (5, &[1]),
        (24, &[0, 0, 0, 0]),
        (28, &[255, 255, 255, 255]),
        (32, &[0, 0, 0, 0]),
        (36, &[255, 255]),
    ];
    for (at, patch) in patches {
        let mut patched = bytes[..bytes.len() - 4].to_vec();
        patched[at..at + patch.len()].copy_from_slice(patch);
        patched.extend(crc32c::crc32c(&patched).to_le_bytes());
        let refused = ShardHeader::decode(&patched);
        assert_eq!(refused, Err(CodecError::Malformed("shard header")), "{at} {patch:?}");
    }
}

#[test]
fn headers_of_another_write_are_no_siblings() {
    let (a, b) = (encoded(rs(2, 2), 1000), encoded(rs(2, 2), 1001));
    assert!(!a.header(0).unwrap().is_sibling_of(&b.header(0).unwrap()));
}
