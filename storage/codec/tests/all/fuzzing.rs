use nexusgrid_codec::erasure::encode;
use nexusgrid_codec::fuzz;
use nexusgrid_codec::seal::seal_one;
use proptest::prelude::*;

use crate::{CLUSTER, block, bytes_of, content_key, rs};

fn valid_header() -> Vec<u8> {
    let (sealed, _) =
        seal_one(CLUSTER, block(7), rs(4, 2), &content_key(1), &[bytes_of(1, 3000)]).unwrap();
    encode(&sealed).unwrap().header(1).unwrap().encode()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_bytes_are_taken_or_refused(data in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz::fuzz_shard_header(&data);
        fuzz::fuzz_wrapped_key(&data);
        fuzz::fuzz_geometry(&data);
        fuzz::fuzz_open_frames(&data);
        fuzz::fuzz_reconstruct(&data);
    }

    /// Random bytes hardly get past a version byte: damage valid ones and repair the crc.
    #[test]
    fn damaged_headers_are_taken_or_refused(
        at in 0usize..40, byte in any::<u8>(), cut in 0usize..400,
    ) {
        let mut data = valid_header();
        data.truncate(data.len() - 4);
        data[at] = byte;
        data.truncate(data.len().min(cut.max(40)));
        data.extend(crc32c::crc32c(&data).to_le_bytes());
        fuzz::fuzz_shard_header(&data);
    }

    #[test]
    fn plausible_numbers_make_consistent_geometry(
        codec in 1u8..=2, k in 0u8..20, m in 0u8..20,
        steps in 0u32..130, numbers in prop::collection::vec(0u32..9 << 20, 6),
    ) {
        let mut data = vec![codec, k, m, 0];
        data.extend((steps * 512).to_le_bytes());
        data.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        data[16..20].copy_from_slice(&(steps * 512).to_le_bytes());
        fuzz::fuzz_geometry(&data);
    }

    #[test]
    fn plausible_shards_are_taken_or_refused(
        codec in 1u8..=2, k in 1u8..5, m in 0u8..3, wanted in 0u8..8, len in 0u8..80,
        start in 0u8..10, end in 0u8..80, piece in 0u8..70, rest in prop::collection::vec(0u8..8, 0..500),
    ) {
        let mut data = vec![codec, k, m, wanted, len, start, end, piece];
        data.extend(rest);
        fuzz::fuzz_reconstruct(&data);
    }
}
