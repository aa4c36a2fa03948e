//! What mounts change in a bucket that keeps versions.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::posix::Run;
use super::posix_ops::{Op, ops};
use super::support::*;
use crate::namespace::types::*;

/// A version, as a listing has it, and its bytes; of a marker none.
type Seen = (VersionId, bool, Option<Vec<u8>>);

impl Run {
    pub(super) fn versioned(versioning: Versioning) -> Run {
        let mut run = Run::new();
        run.set_versioning(versioning);
        run
    }

    fn set_versioning(&mut self, versioning: Versioning) {
        self.has_versions = true;
        let change = RulesChange::Versioning(versioning);
        self.group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
    }

    /// All versions of each key, newest first.
    fn versions(&self) -> BTreeMap<Vec<u8>, Vec<Seen>> {
        let query = NamespaceQuery::ListVersions {
            bucket: BUCKET,
            prefix: Vec::new(),
            delimiter: None,
            after: None,
            limit: 1_000,
        };
        let NamespaceAnswer::Versions(listing) = self.group.ask(query).unwrap() else {
            panic!("no versions")
        };
        assert_eq!(listing.next, None);
        let mut all = BTreeMap::<_, Vec<Seen>>::new();
        for entry in listing.entries {
            let (key, seen) = match entry {
                VersionEntry::Object { key, object, is_latest } => {
                    let version = object.version.unwrap();
                    let bytes = self.bytes_of(&key, version);
                    (key, (version, is_latest, Some(bytes)))
                }
                VersionEntry::Marker { key, marker, is_latest } => {
                    (key, (marker.version.unwrap(), is_latest, None))
                }
                VersionEntry::Prefix(prefix) => panic!("{prefix:?}"),
            };
            all.entry(key).or_default().push(seen);
        }
        all
    }

    fn bytes_of(&self, key: &[u8], version: VersionId) -> Vec<u8> {
        let version = VersionRef { bucket: BUCKET, key: key.to_vec(), version: Some(version) };
        let query = NamespaceQuery::GetVersion { version, range: RangeSpec::Full };
        let NamespaceAnswer::Get(got) = self.group.ask(query).unwrap() else { panic!("no bytes") };
        got.map.pieces.iter().flat_map(|piece| self.group.read(piece)).collect()
    }

    /// A file that is made with these bytes, and given back.
    fn made(&mut self, name: usize, bytes: usize) {
        self.step(&Op::Make { dir: vec![], name, what: 2, hold: true });
        self.change(name, bytes);
        self.step(&Op::ReleaseAll);
    }

    fn change(&mut self, name: usize, len: usize) {
        self.write(&[], name, 0, len, (1, false));
    }

    /// What there is of a key, newest first: bytes of each version, `None` for a marker.
    fn history(&self, key: &[u8]) -> Vec<Option<usize>> {
        let versions = self.versions().remove(key).unwrap_or_default();
        versions.into_iter().map(|(_, _, bytes)| bytes.map(|bytes| bytes.len())).collect()
    }
}

fn hold(name: usize) -> Op {
    Op::Hold { dir: vec![], name }
}

fn rename(from: usize, to: usize) -> Op {
    Op::Rename { from: (vec![], from), to: (vec![], to), mode: 0 }
}

#[test]
fn each_time_that_a_file_is_opened_and_changed_is_a_version() {
    let mut run = Run::versioned(Versioning::Enabled);
    run.made(0, 10);
    assert_eq!(run.history(b"a"), [Some(10)]);
    run.step(&hold(0));
    run.change(0, 20);
    run.change(0, 30);
    run.step(&Op::Resize { dir: vec![], name: 0, size: 35 });
    assert_eq!(run.history(b"a"), [Some(35), Some(10)]);
    // What somebody else puts there meanwhile is a version, too, and is not written into.
    let bytes = run.bytes(40);
    run.group.put(b"a", &bytes, 1, Precondition::None).unwrap();
    run.tree.put(b"a", bytes);
    run.change(0, 50);
    run.change(0, 60);
    assert_eq!(run.history(b"a"), [Some(60), Some(40), Some(35), Some(10)]);
    run.step(&Op::ReleaseAll);
    run.step(&hold(0));
    assert_eq!(run.history(b"a").len(), 4, "looking makes none");
    run.change(0, 70);
    assert_eq!(run.history(b"a").len(), 5);
    // Whoever dies has ended it.
    run.step(&Op::NewMount);
    run.step(&hold(0));
    run.change(0, 80);
    assert_eq!(run.history(b"a").len(), 6);
    run.compare();
}

#[test]
fn what_is_removed_or_renamed_leaves_its_versions() {
    let mut run = Run::versioned(Versioning::Enabled);
    run.made(0, 10);
    run.step(&Op::Unlink { dir: vec![], name: 0 });
    assert_eq!(run.history(b"a"), [None, Some(10)]);
    run.made(0, 20);
    run.made(1, 30);
    run.step(&rename(0, 1));
    assert_eq!(run.history(b"a"), [None, Some(20), None, Some(10)]);
    assert_eq!(run.history(b"b"), [Some(20), Some(30)]);
    // A client of S3 takes the newest back: the mount sees the one before.
    let newest = run.versions()[&b"b"[..]][0].0;
    let delete = DeleteVersion {
        key: b"b".to_vec(),
        version: Some(newest),
        precondition: Precondition::None,
        bypass: false,
    };
    let deletes = vec![delete];
    run.group.ok(NamespaceCommand::DeleteVersions { bucket: BUCKET, deletes, now_ms: 7 });
    let query = PosixQuery::Lookup { parent: Ino::ROOT, name: b"b".to_vec() };
    let NamespaceAnswer::Node(node) = run.ask(query) else { panic!("no node") };
    assert!(matches!(node.kind, NodeKind::File { size: 30, .. }), "{node:?}");
    run.group.check();
}

#[test]
fn files_that_are_written_beside_and_renamed_leave_nothing_there() {
    let mut run = Run::versioned(Versioning::Enabled);
    run.made(1, 10);
    for size in [20, 30] {
        run.step(&Op::Make { dir: vec![], name: 0, what: 2, hold: true });
        run.change(0, size);
        run.step(&rename(0, 1));
        run.step(&Op::ReleaseAll);
    }
    assert_eq!(run.history(b"b"), [Some(30), Some(20), Some(10)]);
    assert_eq!(run.history(b"a"), []);
    // Nor do those that are removed before they are closed.
    run.step(&Op::Make { dir: vec![], name: 0, what: 2, hold: true });
    run.change(0, 40);
    run.step(&Op::Unlink { dir: vec![], name: 0 });
    assert_eq!(run.history(b"a"), []);
    run.step(&Op::ReleaseAll);
    run.compare();
}

#[test]
fn a_suspended_bucket_has_one_version_more_at_most() {
    let mut run = Run::versioned(Versioning::Enabled);
    run.made(0, 10);
    run.set_versioning(Versioning::Suspended);
    for size in [20, 30] {
        run.step(&hold(0));
        run.change(0, size);
        run.step(&Op::ReleaseAll);
        assert_eq!(run.history(b"a"), [Some(size), Some(10)]);
    }
    run.step(&Op::Unlink { dir: vec![], name: 0 });
    assert_eq!(run.history(b"a"), [None, Some(10)]);
    run.made(0, 40);
    assert_eq!(run.history(b"a"), [Some(40), Some(10)]);
    run.compare();
}

/// What S3 has put above a draft and taken away again leaves no draft: others have seen it as it was.
#[test]
fn a_draft_that_was_an_older_version_is_none_any_more() {
    let mut run = Run::versioned(Versioning::Enabled);
    run.made(0, 10);
    run.step(&hold(0));
    run.change(0, 20);
    let bytes = run.bytes(30);
    run.group.put(b"a", &bytes, 1, Precondition::None).unwrap();
    let versions = run.versions()[&b"a"[..]].clone();
    let delete = DeleteVersion {
        key: b"a".to_vec(),
        version: Some(versions[0].0),
        precondition: Precondition::None,
        bypass: false,
    };
    let deletes = vec![delete];
    run.group.ok(NamespaceCommand::DeleteVersions { bucket: BUCKET, deletes, now_ms: 7 });
    run.change(0, 40);
    assert_eq!(run.history(b"a"), [Some(40), Some(20), Some(10)]);
    assert_eq!(run.versions()[&b"a"[..]][1], (versions[1].0, false, versions[1].2.clone()));
    run.compare();
}

/// A bucket that keeps versions, and a file that had two names before.
fn twice_named() -> (Run, Ino, Ino) {
    let mut run = Run::new();
    run.made(0, 10);
    let a = run.number(0, 0).unwrap();
    let (ino, parent) = (run.ino(a), Ino::ROOT);
    run.posix(PosixOp::Link { ino, parent, name: b"c".to_vec() }).unwrap();
    run.set_versioning(Versioning::Enabled);
    (run, ino, parent)
}

#[test]
fn what_had_several_names_keeps_them() {
    let (mut run, _, parent) = twice_named();
    let bytes = run.bytes(30);
    run.group.put(b"b", &bytes, 1, Precondition::None).unwrap();
    let (from, to) = ((parent, b"c".to_vec()), (parent, b"b".to_vec()));
    let rename = PosixOp::Rename { from, to, mode: RenameMode::Replace };
    assert_eq!(run.posix(rename), Err(PosixError::ReadOnly));
    run.group.check();
}

/// Found by lot: an old file without a version's number took the place of a younger version.
#[test]
fn what_is_renamed_is_younger_than_what_it_replaces() {
    let mut run = Run::versioned(Versioning::Enabled);
    run.made(0, 10);
    run.made(1, 20);
    run.set_versioning(Versioning::Suspended);
    let (before, _) = run.group.get(b"b", RangeSpec::Full).unwrap();
    run.step(&rename(0, 1));
    assert_eq!(run.history(b"b"), [Some(10), Some(20)]);
    // Rules that end older versions count from when the younger one came.
    let (now, _) = run.group.get(b"b", RangeSpec::Full).unwrap();
    assert!(now.modified_ms > before.modified_ms && now.sequence > before.sequence);
    run.compare();
}

#[test]
fn what_cannot_be_told_in_versions_is_refused() {
    let (mut run, ino, parent) = twice_named();
    let link = PosixOp::Link { ino, parent, name: b"b".to_vec() };
    assert_eq!(run.posix(link), Err(PosixError::NotPermitted));
    let key = WrappedKey { bucket: BUCKET, version: 1, wrapped: bytes::Bytes::from_static(b"k") };
    let resize = PosixOp::Resize { ino, size: 5, key, change: AttrsChange::default() };
    assert_eq!(run.posix(resize.clone()), Err(PosixError::ReadOnly));
    run.posix(PosixOp::Unlink { parent, name: b"c".to_vec() }).unwrap();
    assert_eq!(run.history(b"c"), [None, Some(10)]);
    // Nobody knows where its last name is.
    assert_eq!(run.posix(resize), Err(PosixError::ReadOnly));
    assert_eq!(run.history(b"a"), [Some(10)]);
    run.group.check();
    // What is locked is only looked at.
    let change = RulesChange::Lock(LockRules { default: None });
    run.group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
    run.posix(PosixOp::Hold { ino }).unwrap();
    run.posix(PosixOp::Release { ino }).unwrap();
    let unlink = PosixOp::Unlink { parent, name: b"a".to_vec() };
    let (mount, writer, now) = (run.mount, run.group.session, run.now());
    let command = NamespaceCommand::Posix { mount, writer, blocks: vec![], ops: vec![unlink], now };
    assert_eq!(run.group.apply(command), Err(PosixError::ReadOnly.into()));
}

#[test]
fn a_full_bucket_takes_no_further_version() {
    let mut run = Run::versioned(Versioning::Enabled);
    run.made(0, 100);
    let quota = NamespaceCommand::SetQuota { bucket: BUCKET, quota_bytes: Some(150) };
    run.group.ok(quota);
    let a = run.number(0, 0).unwrap();
    let key = WrappedKey { bucket: BUCKET, version: 1, wrapped: bytes::Bytes::from_static(b"k") };
    let (ino, change) = (run.ino(a), AttrsChange::default());
    let resize = PosixOp::Resize { ino, size: 50, key, change };
    assert_eq!(run.posix(resize), Err(PosixError::NoSpace));
    let (from, to) = ((Ino::ROOT, b"a".to_vec()), (Ino::ROOT, b"b".to_vec()));
    let rename = PosixOp::Rename { from, to, mode: RenameMode::Replace };
    assert_eq!(run.posix(rename), Err(PosixError::NoSpace));
    assert_eq!(run.history(b"a"), [Some(100)]);
    run.step(&Op::Unlink { dir: vec![], name: 0 });
    assert_eq!(run.history(b"a"), [None, Some(100)]);
    run.compare();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// The tree is as it would be without versions, and what became an older version stays as it was, for ever.
    #[test]
    fn older_versions_stay_as_they_were(
        ops in prop::collection::vec(ops(), 1..50),
        suspends in prop::option::of(0usize..50),
    ) {
        let mut run = Run::versioned(Versioning::Enabled);
        let mut older = BTreeMap::new();
        for (at, op) in ops.iter().enumerate() {
            if suspends == Some(at) {
                run.set_versioning(Versioning::Suspended);
            }
            run.step(op);
            run.compare();
            let now = run.versions();
            for (key, version, bytes) in &older_of(&now) {
                let before: &Option<Vec<u8>> =
                    older.entry((key.clone(), *version)).or_insert_with(|| bytes.clone());
                assert_eq!(before, bytes, "{key:?} {version:?}");
            }
            for (key, version) in older.keys().filter(|(_, version)| *version != VersionId::NULL) {
                let is_there = now.get(key).is_some_and(|all| all.iter().any(|one| one.0 == *version));
                assert!(is_there, "{key:?} {version:?}");
            }
            older.retain(|(_, version), _| *version != VersionId::NULL);
        }
        run.group.free_all();
        run.compare();
    }
}

fn older_of(all: &BTreeMap<Vec<u8>, Vec<Seen>>) -> Vec<(Vec<u8>, VersionId, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for (key, versions) in all {
        assert!(versions.iter().enumerate().all(|(at, one)| one.1 == (at == 0)), "{key:?}");
        let older = versions.iter().skip(1);
        found.extend(older.map(|(version, _, bytes)| (key.clone(), *version, bytes.clone())));
    }
    found
}
