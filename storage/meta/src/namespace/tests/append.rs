//! Bytes put behind objects: few rows however many went before, and nobody's view changes.

use super::support::*;
use crate::namespace::limits;
use crate::namespace::types::*;

/// Puts bytes behind what a key holds.
fn append(group: &mut Group, key: &[u8], bytes: &[u8]) -> Result<PutDone, NamespaceError> {
    let query = NamespaceQuery::Head { bucket: BUCKET, key: key.to_vec() };
    let NamespaceAnswer::Object(object) = group.ask(query)? else { panic!("no object") };
    let at = (object.content, object.size);
    append_at(group, key, bytes, at, &format!("{}+", object.size))
}

fn append_at(
    group: &mut Group,
    key: &[u8],
    bytes: &[u8],
    (source_content, offset): (ContentId, u64),
    etag: &str,
) -> Result<PutDone, NamespaceError> {
    let (blocks, content) = group.content(bytes, 1);
    let append = Append {
        bucket: BUCKET,
        key: key.to_vec(),
        precondition: Precondition::None,
        source_content,
        offset,
        content,
        etag: etag.to_owned(),
        checksums: vec![],
    };
    let session = group.session;
    one(group.apply(NamespaceCommand::Append { session, blocks, append, now_ms: 2 })?)
}

fn link(group: &mut Group, from: &[u8], to: &[u8]) {
    let (object, bytes) = group.get(from, RangeSpec::Full).unwrap();
    let session = group.session;
    let done = group.ok(NamespaceCommand::Link {
        session,
        source: (BUCKET, from.to_vec()),
        source_content: object.content,
        target: (BUCKET, to.to_vec()),
        precondition: Precondition::None,
        meta: meta(&bytes),
        now_ms: 3,
    });
    one(done).unwrap();
}

fn bytes_of(group: &Group, key: &[u8]) -> Vec<u8> {
    group.get(key, RangeSpec::Full).unwrap().1
}

#[test]
fn of_two_at_one_offset_one_wins() {
    let mut group = Group::new();
    let first = group.put(b"k", b"0123", 1, Precondition::None).unwrap();
    let seen = (first.content, 4);
    let done = append_at(&mut group, b"k", b"45", seen, "one").unwrap();
    assert_eq!((done.size, done.etag.as_str(), done.replaced), (6, "one", true));
    let late = append_at(&mut group, b"k", b"xy", seen, "two");
    assert_eq!(late, Err(NamespaceError::WrongOffset(6)));
    // Another object of the same size: what the ETag was computed with is gone.
    group.put(b"k", b"abcd", 1, Precondition::None).unwrap();
    let other = append_at(&mut group, b"k", b"xy", seen, "two");
    assert_eq!(other, Err(NamespaceError::SourceChanged));
    // The bytes of those who lost are dead at once.
    let query = NamespaceQuery::Outbox { after: None, limit: 10 };
    let Ok(NamespaceAnswer::Outbox { blocks, .. }) = group.ask(query) else { panic!("no outbox") };
    assert_eq!(blocks.len(), 2);
    assert_eq!(append(&mut group, b"none", b"x"), Err(NamespaceError::NoSuchKey));
    group.check();
    let change = RulesChange::Versioning(Versioning::Enabled);
    group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
    assert_eq!(append(&mut group, b"k", b"x"), Err(NamespaceError::BucketState));
}

#[test]
fn copies_of_what_is_appended_to_stay_what_they_are() {
    let mut group = Group::new();
    group.put(b"a", b"0", 1, Precondition::None).unwrap();
    append(&mut group, b"a", b"1").unwrap();
    link(&mut group, b"a", b"b");
    append(&mut group, b"a", b"a").unwrap();
    // The end of the log is taken: a log of its own.
    append(&mut group, b"b", b"b").unwrap();
    append(&mut group, b"a", b"a").unwrap();
    append(&mut group, b"b", b"b").unwrap();
    group.check();
    assert_eq!(bytes_of(&group, b"a"), b"01aa");
    assert_eq!(bytes_of(&group, b"b"), b"01bb");
    group.delete(&[b"a"]).unwrap();
    group.free_all();
    group.check();
    assert_eq!(bytes_of(&group, b"b"), b"01bb");
}

#[test]
fn the_thousandth_append_costs_as_little_as_the_second() {
    let mut group = Group::new();
    group.put(b"k", b"0", 0, Precondition::None).unwrap();
    append(&mut group, b"k", b"1").unwrap();
    let count = limits::PAGE_ENTRIES * 3;
    let rows = |group: &Group| group.store.rows.values().map(|rows| rows.len()).sum::<usize>();
    let mut most = 0;
    for _ in 0..count {
        let before = rows(&group);
        append(&mut group, b"k", b"x").unwrap();
        most = most.max(rows(&group) - before);
    }
    assert!(most <= 8, "{most} new rows for one append");
    group.check();
    assert_eq!(bytes_of(&group, b"k").len(), count + 2);
    let (_, got) = group.get(b"k", RangeSpec::From(130, Some(133))).unwrap();
    assert_eq!(got, b"xxxx");
    // Old views go, and take nothing of the log with them.
    group.free_all();
    group.check();
    assert_eq!(bytes_of(&group, b"k").len(), count + 2);
}

#[test]
fn appends_to_one_object_are_bounded() {
    let mut group = Group::new();
    group.put(b"k", b"0", 1, Precondition::None).unwrap();
    let most = limits::PAGE_ENTRIES * limits::LOG_PAGES_MAX;
    for number in 1..most {
        append(&mut group, b"k", b"x").unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    assert_eq!(append(&mut group, b"k", b"x"), Err(NamespaceError::TooManyAppends));
    group.delete(&[b"k"]).unwrap();
    group.free_all();
    group.check();
}
