//! Golden bytes of everything persistent, refusal of what is damaged, and random bytes.

use nexusgrid_codec::{ClusterId, DriveId, Epoch, GroupId, PgId, SessionId};
use proptest::prelude::*;

use super::support::{block, key};
use crate::log::{self, Fact, FactsEntry, LogItem, SegmentLabel, ShardEntry};
use crate::record::{HeadError, RecordHead, RecordKind};
use crate::superblock;
use crate::types::{DriveIdentity, FillSessionId, Incarnation, SuperblockInfo};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn head() -> RecordHead {
    RecordHead {
        kind: RecordKind::Shard,
        uuid: *b"0123456789abcdef",
        offset: 0x3000,
        sequence: 0x0102,
        born: 0x0101,
        synced: 0x2000,
        age_ms: 0x55,
        epoch: 9,
        fill: Some(7),
        trashed: false,
        pg: 0x0a0b_0c0d,
        body_crc: 0xdead_beef,
        body_bytes: 5000,
        shard_header: vec![1, 2, 3],
    }
}

#[test]
fn golden_record_head() {
    let bytes = head().encode();
    assert_eq!(hex(&bytes), GOLDEN_HEAD);
    assert_eq!(RecordHead::decode(&bytes), Ok(head()));
    assert_eq!(head().disk_bytes(), 8192);
}

#[test]
fn record_head_refuses_every_flipped_bit_and_every_cut() {
    let bytes = head().encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(RecordHead::decode(&bad).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(RecordHead::decode(&bytes[..len]).is_err(), "cut to {len}");
    }
    assert_eq!(RecordHead::decode(&[0; 4096]), Err(HeadError::NoMagic));
}

fn superblock_info() -> SuperblockInfo {
    SuperblockInfo {
        identity: DriveIdentity { cluster: ClusterId([0xc1; 16]), drive: DriveId(0xd2) },
        incarnation: Incarnation([0xe3; 16]),
        opens: 4,
    }
}

#[test]
fn golden_superblock() {
    let bytes = superblock::encode(&superblock_info());
    assert_eq!(bytes.len(), superblock::COPY_BYTES);
    assert_eq!(hex(&bytes[..68]), GOLDEN_SUPERBLOCK);
    assert!(bytes[68..].iter().all(|byte| *byte == 0));
    assert_eq!(superblock::decode(&bytes), Ok(superblock_info()));
}

#[test]
fn superblock_refuses_every_flipped_bit() {
    let bytes = superblock::encode(&superblock_info());
    for bit in 0..68 * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(superblock::decode(&bad).is_err(), "bit {bit}");
    }
}

fn facts() -> Vec<Fact> {
    let (group, pg) = (GroupId(3), PgId(300));
    vec![
        Fact::Epoch { pg, epoch: Epoch(5) },
        Fact::SessionFloor { group, floor: SessionId(6) },
        Fact::SessionClosed { group, session: SessionId(9) },
        Fact::FillFloor { pg, floor: FillSessionId(2) },
        Fact::FillClosed { pg, session: FillSessionId(4) },
        Fact::Tombstone { block: block(1, 2), pg },
        Fact::TombstoneDropped { block: block(1, 2), segment: 8 },
        Fact::Dead { key: key(block(1, 2), 3), born: 77, segments: vec![1, 200] },
        Fact::Stamp {
            key: key(block(1, 2), 3),
            born: 78,
            pg,
            epoch: Epoch(6),
            trashed_ms: Some(1000),
        },
    ]
}

#[test]
fn golden_facts() {
    let bytes = log::encode_facts(&facts());
    assert_eq!(hex(&bytes), GOLDEN_FACTS);
    assert_eq!(log::decode_facts(&bytes), Ok(facts()));
}

fn footer() -> Vec<LogItem> {
    vec![
        LogItem::Shard(ShardEntry {
            key: key(block(1, 2), 3),
            offset: 4096,
            head_bytes: 260,
            body_bytes: 70_000,
            sequence: 12,
            born: 11,
            pg: PgId(300),
            epoch: Epoch(5),
            trashed_ms: None,
            digest: [0xab; 32],
        }),
        LogItem::Facts(FactsEntry {
            offset: 77_824,
            disk_bytes: 4096,
            sequence: 13,
            age_ms: 99,
            facts: facts(),
        }),
    ]
}

#[test]
fn golden_footer() {
    let bytes = log::encode_footer(&footer());
    let (start, rest) = GOLDEN_FOOTER;
    assert_eq!(hex(&bytes), format!("{start}{}{rest}{}", "ab".repeat(32), &GOLDEN_FACTS[2..]));
    assert_eq!(log::decode_footer(&bytes), Ok(footer()));
}

#[test]
fn golden_label() {
    let label = SegmentLabel { id: 300, incarnation: [0x11; 16], previous_end: 8192 };
    let bytes = log::encode_label(&label);
    assert_eq!(hex(&bytes), format!("02ac02{}8040", "11".repeat(16)));
    assert_eq!(log::decode_label(&bytes), Ok(label));
}

#[test]
fn unknown_versions_and_trailing_bytes_are_refused() {
    let mut newer = log::encode_facts(&facts());
    newer[0] = 3;
    assert_eq!(log::decode_facts(&newer), Err(log::DecodeError::Version));
    let mut longer = log::encode_footer(&footer());
    longer.push(0);
    assert_eq!(log::decode_footer(&longer), Err(log::DecodeError::Malformed));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..600)) {
        crate::fuzz::decode_anything(&data);
    }

    #[test]
    fn mutated_encodings_never_panic(which in 0..4usize, at in any::<usize>(), value in any::<u8>()) {
        let mut bytes = match which {
            0 => head().encode(),
            1 => superblock::encode(&superblock_info()),
            2 => log::encode_facts(&facts()),
            _ => log::encode_footer(&footer()),
        };
        let at = at % bytes.len();
        bytes[at] = value;
        crate::fuzz::decode_anything(&bytes);
    }
}

// Checked by hand against the tables at the head of `record.rs` and `superblock.rs`.
const GOLDEN_HEAD: &str = concat!(
    "4e58474452454301",                 // magic
    "02010000",                         // shard, has a fill session
    "03000000",                         // embedded header
    "30313233343536373839616263646566", // uuid
    "0030000000000000",                 // offset
    "0201000000000000",                 // sequence
    "0101000000000000",                 // born
    "0020000000000000",                 // synced
    "5500000000000000",                 // age
    "0900000000000000",                 // epoch
    "0700000000000000",                 // fill session
    "0d0c0b0a",                         // placement group
    "efbeadde",                         // crc of the body
    "8813000000000000",                 // length of the body
    "010203",                           // embedded header
    "9dbf75d9",                         // crc
);
const GOLDEN_SUPERBLOCK: &str = concat!(
    "4e58474453555052",                 // magic
    "0200000000000000",                 // version
    "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1", // cluster
    "d200000000000000",                 // drive
    "e3e3e3e3e3e3e3e3e3e3e3e3e3e3e3e3", // incarnation
    "0400000000000000",                 // opens
    "26f071d0",                         // crc
);
const GOLDEN_FACTS: &str = concat!(
    "0209",
    "00ac0205",
    "010306",
    "020309",
    "03ac0202",
    "04ac0204",
    "05030102ac02",
    "0603010208",
    "07030102034d0201c801",
    "08030102034eac020601e807",
);
const GOLDEN_FOOTER: (&str, &str) =
    ("0202000301020380208402f0a2040c0bac020500", "0180e00480200d63");
