use nexusgrid_codec::limits::{BLOCK_LEN_MAX, FRAME_LEN_MAX, FRAMES_MAX, SEALED_LEN_MAX, TAG_LEN};
use nexusgrid_codec::{BlockLayout, Code, CodecError, Region, ShardSpan};
use proptest::prelude::*;

use crate::{copies, rs};

pub(crate) fn any_code() -> impl Strategy<Value = Code> {
    prop_oneof![
        (1u8..=4).prop_map(copies),
        prop_oneof![
            Just((2, 2)),
            Just((4, 2)),
            Just((8, 3)),
            Just((8, 4)),
            Just((3, 1)),
            Just((16, 4))
        ]
        .prop_map(|(k, m)| rs(k, m)),
    ]
}

fn any_len() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..5000, 0u32..600_000, 0u32..=BLOCK_LEN_MAX]
}

#[test]
fn frame_length_spreads_small_blocks_over_all_shards() {
    assert_eq!(rs(4, 2).frame_len(1), 512);
    assert_eq!(rs(4, 2).frame_len(2048), 512);
    assert_eq!(rs(4, 2).frame_len(2049), 1024);
    assert_eq!(rs(4, 2).frame_len(100_000), 25_088);
    assert_eq!(rs(4, 2).frame_len(256 << 10), 64 << 10);
    assert_eq!(rs(4, 2).frame_len(BLOCK_LEN_MAX), 64 << 10);
    assert_eq!(copies(3).frame_len(700), 1024);
    assert_eq!(copies(3).frame_len(0), 512);
}

#[test]
fn a_full_block_reaches_the_limits_exactly() {
    for code in [copies(3), rs(2, 2), rs(4, 2), rs(8, 3), rs(8, 4), rs(16, 4)] {
        let region = Region::new(code, 0, BLOCK_LEN_MAX).unwrap();
        let layout = BlockLayout::of_region(code, region).unwrap();
        assert_eq!(layout.frame_count(), FRAMES_MAX);
        assert_eq!(layout.sealed_len(), SEALED_LEN_MAX);
        assert_eq!(layout.frames_per_shard(), FRAMES_MAX / u32::from(code.k()));
        assert!(Region::new(code, 0, BLOCK_LEN_MAX + 1).is_err());
    }
}

#[test]
fn a_range_of_64_kib_touches_one_shard() {
    let code = rs(4, 2);
    let region = Region::new(code, 0, BLOCK_LEN_MAX).unwrap();
    let spans = region.spans(code, 3 << 20..(3 << 20) + (64 << 10)).unwrap();
    let stored = FRAME_LEN_MAX + TAG_LEN;
    assert_eq!(spans, [ShardSpan { shard: 1, body: 16 * stored..17 * stored, frames: 48..49 }]);
}

#[test]
fn the_last_data_shards_may_hold_less_or_nothing() {
    let code = rs(4, 2);
    let layout = |len| BlockLayout::of_region(code, Region::new(code, 0, len).unwrap()).unwrap();
    let bodies = |len| (0..6).map(|i| layout(len).body_len(i).unwrap()).collect::<Vec<_>>();
    assert_eq!(bodies(700), [528, 204, 0, 0, 528, 528]);
    assert_eq!(bodies(10), [26, 0, 0, 0, 26, 26]);
    let stored = FRAME_LEN_MAX + TAG_LEN;
    let five_frames = 5 * FRAME_LEN_MAX;
    assert_eq!(bodies(five_frames), [2 * stored, 2 * stored, stored, 0, 2 * stored, 2 * stored]);
    assert_eq!(layout(700).body_len(6), None);
}

#[test]
fn codes_are_bounded_and_quorums_follow() {
    let quorums = [copies(1), copies(2), copies(3), rs(2, 2), rs(4, 2), rs(8, 4)].map(Code::quorum);
    assert_eq!(quorums, [1, 2, 2, 3, 5, 9]);
    for refused in [(0, 0), (1, 2), (2, 0), (17, 2), (16, 17), (255, 255)] {
        assert!(Code::reed_solomon(refused.0, refused.1).is_err(), "{refused:?}");
    }
    assert!(Code::copies(0).is_err() && Code::copies(33).is_err());
    assert!(Code::from_parts(1, 2, 1).is_err());
    assert!(Code::from_parts(0, 1, 1).is_err());
    assert!(Code::from_parts(1, 1, 255).is_err());
    assert_eq!(Code::from_parts(2, 4, 2), Ok(rs(4, 2)));
    let bytes = postcard::to_allocvec(&rs(4, 2)).unwrap();
    assert_eq!(bytes, [2, 4, 2]);
    assert_eq!(postcard::from_bytes::<Code>(&bytes).unwrap(), rs(4, 2));
    assert!(postcard::from_bytes::<Code>(&[2, 1, 2]).is_err());
}

#[test]
fn regions_of_rows_are_checked() {
    let region = Region::new(copies(3), 1000, 700).unwrap();
    let bytes = postcard::to_allocvec(&region).unwrap();
    assert_eq!(bytes, [0xe8, 7, 0xbc, 5, 0x80, 8]);
    assert_eq!(postcard::from_bytes::<Region>(&bytes).unwrap(), region);
    for (offset, plain_len, frame_len) in [
        (0, 1, 0),
        (0, 1, 513),
        (0, 1, FRAME_LEN_MAX * 2),
        (0, BLOCK_LEN_MAX, 512),
        (SEALED_LEN_MAX, 1, 512),
        (u32::MAX, u32::MAX, 512),
    ] {
        let refused = Region::from_parts(offset, plain_len, frame_len);
        assert!(
            matches!(refused, Err(CodecError::Geometry(_))),
            "{offset} {plain_len} {frame_len}"
        );
    }
    assert!(Region::new(rs(4, 2), 16, 10).is_err(), "erasure-coded blocks are no packs");
}

proptest! {
    #[test]
    fn every_byte_has_one_place(code in any_code(), len in any_len()) {
        let region = Region::new(code, 0, len).unwrap();
        let layout = BlockLayout::of_region(code, region).unwrap();
        prop_assert_eq!(region.sealed_len(), layout.sealed_len());
        prop_assert_eq!(region.frame_count(), layout.frame_count());
        let mut at = 0;
        for shard in 0..code.k() {
            let range = layout.data_range(shard).unwrap();
            prop_assert_eq!(range.start, at);
            prop_assert!(range.end - range.start <= layout.shard_len());
            // Whole stored frames each.
            prop_assert!(range.start.is_multiple_of(layout.stored_frame_len()) || range.is_empty());
            at = range.end;
        }
        prop_assert_eq!(at, layout.sealed_len());
        let stored: u32 = (0..region.frame_count()).map(|f| region.stored_len(f).unwrap()).sum();
        prop_assert_eq!(stored, region.sealed_len());
        prop_assert_eq!(region.stored_len(region.frame_count()), None);
    }

    #[test]
    fn spans_cover_the_range_and_no_frame_more(
        code in any_code(), len in any_len(), a in any::<u32>(), b in any::<u32>(),
    ) {
        let region = Region::new(code, 0, len).unwrap();
        let layout = BlockLayout::of_region(code, region).unwrap();
        let (start, end) = (a % (len + 1), b % (len + 1));
        let spans = region.spans(code, start..end).unwrap();
        if start >= end {
            prop_assert!(spans.is_empty());
            return Ok(());
        }
        let (first, last) = (spans.first().unwrap(), spans.last().unwrap());
        prop_assert!(region.frame_plain_range(first.frames.start).contains(&start));
        prop_assert!(region.frame_plain_range(last.frames.end - 1).contains(&(end - 1)));
        let mut frame = first.frames.start;
        for span in &spans {
            prop_assert_eq!(span.frames.start, frame);
            frame = span.frames.end;
            let sealed = region.sealed_range(span.frames.clone());
            let base = layout.data_range(span.shard).unwrap().start;
            prop_assert_eq!(span.body.clone(), sealed.start - base..sealed.end - base);
            prop_assert!(span.body.end <= layout.body_len(span.shard).unwrap());
        }
    }
}
