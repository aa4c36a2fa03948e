//! Fuzz entry: decodes arbitrary bytes as everything a drive reads from disk. Must never panic,
//! and what decodes must encode to the same bytes.

use crate::{log, record, superblock};

/// Feeds `data` to every decoder of the on-disk format.
pub fn decode_anything(data: &[u8]) {
    if let Ok(head) = record::RecordHead::decode(data) {
        let again = head.encode();
        assert_eq!(data.get(..again.len()), Some(again.as_slice()), "record head round trip");
    }
    if let Ok(info) = superblock::decode(data) {
        assert_eq!(superblock::decode(&superblock::encode(&info)), Ok(info));
    }
    if let Ok(facts) = log::decode_facts(data) {
        assert_eq!(log::decode_facts(&log::encode_facts(&facts)), Ok(facts));
    }
    if let Ok(items) = log::decode_footer(data) {
        assert_eq!(log::decode_footer(&log::encode_footer(&items)), Ok(items));
    }
    if let Ok(label) = log::decode_label(data) {
        assert_eq!(log::decode_label(&log::encode_label(&label)), Ok(label));
    }
    let _ = nexusgrid_codec::ShardHeader::decode(data);
}
