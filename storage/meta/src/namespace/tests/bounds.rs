//! Big uploads and objects stay within the bounds of a command; any bytes get a typed reply.

use bytes::Bytes;
use proptest::prelude::*;

use super::listing::create_upload;
use super::support::*;
use crate::machine::StateMachine;
use crate::namespace::types::*;
use crate::namespace::{Namespace, limits};

#[test]
fn ten_thousand_parts_complete_in_one_command_and_are_freed_in_small_steps() {
    let mut group = Group::new();
    let id = create_upload(&mut group, b"big", 1);
    let upload = UploadRef { bucket: BUCKET, key: b"big".to_vec(), id };
    for number in 1..=10_000u16 {
        let bytes = number.to_be_bytes();
        let (blocks, content) = group.content(&bytes, 1);
        let session = group.session;
        group.ok(NamespaceCommand::PutPart {
            session,
            upload: upload.clone(),
            number,
            blocks,
            content,
            etag: etag(&bytes),
            checksums: vec![],
            now_ms: 1,
        });
    }
    let parts = (1..=10_000u16)
        .filter(|number| number % 10 != 0)
        .map(|number| CompletedPart { number, etag: etag(&number.to_be_bytes()), checksum: None })
        .collect();
    let done = one(group.ok(NamespaceCommand::CompleteUpload {
        session: group.session,
        upload,
        parts,
        part_bytes_min: 1,
        precondition: Precondition::None,
        etag: "e".into(),
        checksums: vec![],
        size: None,
        now_ms: 2,
    }))
    .unwrap();
    assert_eq!(done.size, 18_000);
    let (object, bytes) = group.get(b"big", RangeSpec::Full).unwrap();
    assert_eq!((object.parts, bytes.len()), (9_000, 18_000));
    assert_eq!(group.get(b"big", RangeSpec::Part(9_000)).unwrap().1, 9_999u16.to_be_bytes());
    assert_eq!(group.get(b"big", RangeSpec::From(17_998, None)).unwrap().1, 9_999u16.to_be_bytes());
    group.check();
    group.delete(&[b"big"]).unwrap();
    group.free_all();
    group.check();
    assert!(group.store.rows["content"].is_empty());
}

#[test]
fn five_gib_in_one_put_fit_one_command() {
    let mut group = Group::new();
    let bytes = vec![7; 640];
    group.put(b"big", &bytes, 640, Precondition::None).unwrap();
    assert_eq!(group.get(b"big", RangeSpec::Full).unwrap().1, bytes);
    assert_eq!(group.get(b"big", RangeSpec::From(300, Some(301))).unwrap().1, [7, 7]);
    group.check();
}

#[test]
fn too_much_is_refused_and_changes_nothing() {
    let mut group = Group::new();
    let before = group.store.rows.clone();
    let deep: Vec<u8> = vec![b'/'; 1_024];
    assert_eq!(group.put(&deep, b"v", 0, Precondition::None), Err(NamespaceError::TooLarge));
    assert_eq!(
        group.put(&[b'k'; 1_025], b"v", 0, Precondition::None),
        Err(NamespaceError::InvalidKey)
    );
    assert_eq!(group.put(b"", b"v", 0, Precondition::None), Err(NamespaceError::InvalidKey));
    let keys: Vec<Vec<u8>> = (0..200u8).map(|n| vec![b'k', n]).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    assert_eq!(group.delete(&keys), Err(NamespaceError::TooLarge));
    let inline = vec![1; limits::INLINE_BYTES_MAX + 1];
    assert_eq!(
        group.put(b"k", &inline, 0, Precondition::None),
        Err(NamespaceError::Malformed(Malformed::Inline))
    );
    assert_eq!(group.store.rows, before);
    group.put(&[b'/'; 900], b"v", 0, Precondition::None).unwrap();
    group.put(&[0; 1_024], b"v", 0, Precondition::None).unwrap();
    group.check();
}

#[test]
fn a_range_copied_of_a_range_does_not_nest_without_bound() {
    let mut group = Group::new();
    group.put(b"k", &[9; 64], 4, Precondition::None).unwrap();
    let mut refused = 0;
    for nonce in 0..12 {
        let (object, bytes) = group.get(b"k", RangeSpec::Full).unwrap();
        let id = create_upload(&mut group, b"k", nonce);
        let upload = UploadRef { bucket: BUCKET, key: b"k".to_vec(), id };
        let part = &bytes[1..];
        let reply = group.apply(NamespaceCommand::LinkPart {
            session: group.session,
            upload: upload.clone(),
            number: 1,
            source: (BUCKET, b"k".to_vec()),
            source_content: object.content,
            range: (1, part.len() as u64),
            etag: etag(part),
            checksums: vec![],
            now_ms: 1,
        });
        match reply {
            Ok(_) => {
                let parts = vec![CompletedPart { number: 1, etag: etag(part), checksum: None }];
                group.ok(NamespaceCommand::CompleteUpload {
                    session: group.session,
                    upload,
                    parts,
                    part_bytes_min: 1,
                    precondition: Precondition::None,
                    etag: etag(part),
                    checksums: vec![],
                    size: None,
                    now_ms: 2,
                });
            }
            Err(error) => {
                assert_eq!(error, NamespaceError::CopyInstead);
                refused += 1;
            }
        }
        group.check();
    }
    // Which of the two bounds a chain meets is a matter of flattening; both must read well.
    assert_eq!(group.get(b"k", RangeSpec::Full).unwrap().1.len(), 64 - (12 - refused));
}

/// A group with an object, older versions of it, and one that is hidden by a marker.
fn with_versions() -> Group {
    let mut group = Group::new();
    group.put(b"a/b", b"null", 0, Precondition::None).unwrap();
    let change = RulesChange::Versioning(Versioning::Enabled);
    group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
    group.put(b"a/b", b"value", 1, Precondition::None).unwrap();
    group.put(b"c", b"value", 0, Precondition::None).unwrap();
    group.delete(&[b"c"]).unwrap();
    group
}

/// Fuzz target: any bytes as a command.
pub fn fuzz_command(bytes: &[u8]) {
    let mut group = with_versions();
    let reply = group.store.apply(&Namespace, bytes);
    decode_reply(&reply).unwrap().ok();
    group.check();
}

/// Fuzz target: any bytes as a query.
pub fn fuzz_query(bytes: &[u8]) {
    let group = with_versions();
    let reply = Namespace.query(&group.store, bytes).unwrap();
    decode_query_reply(&reply).unwrap().ok();
}

/// Fuzz target: any bytes as a row of a store: corruption is reported, never a panic.
pub fn fuzz_row(bytes: &[u8]) {
    let mut group = with_versions();
    let (at, value) = bytes.split_first().unwrap_or((&0, &[]));
    let mut rows: Vec<_> =
        group.store.rows.values_mut().flat_map(|rows| rows.values_mut()).collect();
    let at = usize::from(*at) % rows.len();
    *rows[at] = Bytes::copy_from_slice(value);
    let context = crate::machine::ApplyContext { index: 9, group: nexusgrid_codec::id::GroupId(1) };
    let delete = NamespaceCommand::Delete {
        session: group.session,
        bucket: BUCKET,
        now_ms: 1,
        deletes: vec![DeleteObject { key: b"a/b".to_vec(), precondition: Precondition::None }],
    };
    let _ = Namespace.apply(&group.store, &context, &delete.encode());
    let get = NamespaceQuery::Get { bucket: BUCKET, key: b"a/b".to_vec(), range: RangeSpec::Full };
    let _ = Namespace.query(&group.store, &get.encode());
    let remove = NamespaceCommand::DeleteVersions {
        bucket: BUCKET,
        deletes: vec![DeleteVersion {
            key: b"a/b".to_vec(),
            version: Some(VersionId::NULL),
            precondition: Precondition::None,
            bypass: false,
        }],
        now_ms: 1,
    };
    let _ = Namespace.apply(&group.store, &context, &remove.encode());
    let list = NamespaceQuery::ListVersions {
        bucket: BUCKET,
        prefix: Vec::new(),
        delimiter: None,
        after: None,
        limit: 9,
    };
    let _ = Namespace.query(&group.store, &list.encode());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_get_a_typed_reply(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), versioned in any::<bool>()) {
        if versioned && let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        fuzz_command(&bytes);
        fuzz_query(&bytes);
        fuzz_row(&bytes);
    }

    #[test]
    fn a_flipped_command_gets_a_typed_reply(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut group = Group::new();
        let (blocks, content) = group.content(b"some bytes", 2);
        let put = PutObject { bucket: BUCKET, key: b"a/b/c".to_vec(), precondition: Precondition::Absent, content, meta: meta(b"x") };
        let mut bytes = NamespaceCommand::Commit { session: group.session, blocks, puts: vec![put], now_ms: 1 }.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let reply = group.store.apply(&Namespace, &bytes);
        decode_reply(&reply).unwrap().ok();
        group.check();
    }
}
