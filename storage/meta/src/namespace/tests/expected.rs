//! What a deleter expects to delete: an object, a marker, or nothing at all.

use super::support::*;
use crate::namespace::types::*;

fn delete(
    group: &mut Group,
    version: Option<VersionId>,
    expected: Expected,
) -> Result<VersionDeleted, NamespaceError> {
    let precondition = Precondition::IfAny(expected);
    let delete = DeleteVersion { key: b"k".to_vec(), version, precondition, bypass: false };
    let deletes = vec![delete];
    let command = NamespaceCommand::DeleteVersions { bucket: BUCKET, deletes, now_ms: 9_000 };
    let NamespaceOk::VersionsDeleted(mut done) = group.apply(command).unwrap() else {
        panic!("no deletion")
    };
    done.remove(0)
}

#[test]
fn what_is_deleted_is_what_was_expected_or_nothing() {
    let mut group = Group::new();
    let refused = Err(NamespaceError::PreconditionFailed);
    let etag = |etag: &str| Expected { etag: Some(etag.to_owned()), ..Expected::default() };
    let size = |size| Expected { size: Some(size), ..Expected::default() };
    let second = |second| Expected { modified_s: Some(second), ..Expected::default() };
    // Where there is nothing, there is nothing to be mistaken about.
    assert!(!delete(&mut group, None, etag("other")).unwrap().existed);

    let done = group.put(b"k", b"bytes", 0, Precondition::None).unwrap();
    let at = done.modified_ms / 1000;
    for wrong in [etag("other"), size(4), second(at + 1)] {
        assert_eq!(delete(&mut group, None, wrong), refused);
    }
    let all = Expected { etag: Some(done.etag), size: Some(5), modified_s: Some(at) };
    assert!(delete(&mut group, None, all).unwrap().existed);

    let change = RulesChange::Versioning(Versioning::Enabled);
    group.apply(NamespaceCommand::SetRules { bucket: BUCKET, change }).unwrap();
    let nothing = delete(&mut group, None, Expected::default()).unwrap();
    assert!(!nothing.is_marker && !nothing.existed);
    let version = group.put(b"k", b"bytes", 0, Precondition::None).unwrap().version;
    assert_eq!(delete(&mut group, version, size(4)), refused);
    let marker = delete(&mut group, None, size(5)).unwrap();
    assert!(marker.is_marker);
    // A marker has neither tag nor size; it is something, though.
    assert_eq!(delete(&mut group, None, size(5)), refused);
    assert_eq!(delete(&mut group, marker.version, etag("x")), refused);
    assert!(delete(&mut group, None, Expected::default()).unwrap().is_marker);
    assert!(delete(&mut group, version, size(5)).unwrap().existed);
    assert!(!delete(&mut group, version, size(4)).unwrap().existed);
}

#[test]
fn an_object_is_under_one_key_whatever_it_is_renamed_to() {
    let mut group = Group::new();
    let one = group.put(b"a/one", b"bytes", 1, Precondition::None).unwrap();
    let two = group.put(b"two", b"others", 1, Precondition::None).unwrap();
    let rename = |group: &mut Group, source: &[u8], sequence, target: &[u8], precondition| {
        group.apply(NamespaceCommand::Rename {
            bucket: BUCKET,
            source: source.to_vec(),
            sequence,
            target: target.to_vec(),
            precondition,
            now_ms: 9_000,
        })
    };
    let none = || Precondition::None;
    let refused = Err(NamespaceError::PreconditionFailed);
    assert_eq!(rename(&mut group, b"a/one", one.sequence + 1, b"b", none()), refused);
    assert_eq!(rename(&mut group, b"a/one", one.sequence, b"two", Precondition::Absent), refused);
    let missing = rename(&mut group, b"a", one.sequence, b"b", none());
    assert_eq!(missing, Err(NamespaceError::NoSuchKey));
    // Over another: that one goes.
    let Ok(NamespaceOk::Put(mut done)) =
        rename(&mut group, b"a/one", one.sequence, b"two", Precondition::EtagIs(two.etag))
    else {
        panic!("not renamed")
    };
    let done = done.remove(0).unwrap();
    assert_eq!((done.content, done.size, done.modified_ms), (one.content, 5, one.modified_ms));
    assert!(done.replaced);
    // Below what was its name, and back.
    for (from, to) in [(&b"two"[..], &b"two/two"[..]), (b"two/two", b"two/"), (b"two/", b"a/one")] {
        let sequence = group.store.index;
        let Ok(NamespaceOk::Put(_)) = rename(&mut group, from, sequence, to, none()) else {
            panic!("not renamed to {to:?}")
        };
    }
    let again = group.put(b"two", b"x", 0, Precondition::Absent);
    assert!(again.is_ok());
    group.check();
    let change = RulesChange::Versioning(Versioning::Enabled);
    group.apply(NamespaceCommand::SetRules { bucket: BUCKET, change }).unwrap();
    let sequence = group.store.index;
    let kept = rename(&mut group, b"two", sequence, b"three", none());
    assert_eq!(kept, Err(NamespaceError::BucketState));
}
