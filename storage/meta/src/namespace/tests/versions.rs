//! Versions equal those of a plain list per key, whatever is done in whatever order; locks hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model::{self, Model};
use super::support::*;
use crate::namespace::rows;
use crate::namespace::types::*;

const KEYS: &[&[u8]] = &[b"a", b"a/", b"a/b", b"a//b", b"a-", b"a/b/c", b"b", b"a\0"];

/// A version: its id (`NULL`: null), and its bytes, or that it is a marker.
type Version = (VersionId, Option<Vec<u8>>);

/// Of each key the versions, newest first.
type Versions = BTreeMap<Vec<u8>, Vec<Version>>;

#[derive(Clone, Debug)]
enum Op {
    Rules(Versioning),
    Put { key: usize, len: usize, blocks: usize },
    Twice { key: usize },
    Delete { key: usize },
    DeleteOld { key: usize },
    Remove { key: usize, nth: usize },
    Link { from: usize, nth: usize, to: usize },
    CopyOntoItself { key: usize },
    Tag { key: usize, nth: usize },
    Upload { key: usize },
    Expand,
}

fn ops() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS.len();
    prop_oneof![
        1 => Just(Op::Rules(Versioning::Suspended)),
        2 => Just(Op::Rules(Versioning::Enabled)),
        6 => (key(), 0usize..20, 0usize..3).prop_map(|(key, len, blocks)| Op::Put { key, len, blocks }),
        1 => key().prop_map(|key| Op::Twice { key }),
        3 => key().prop_map(|key| Op::Delete { key }),
        1 => key().prop_map(|key| Op::DeleteOld { key }),
        5 => (key(), 0usize..4).prop_map(|(key, nth)| Op::Remove { key, nth }),
        2 => (key(), 0usize..3, key()).prop_map(|(from, nth, to)| Op::Link { from, nth, to }),
        1 => key().prop_map(|key| Op::CopyOntoItself { key }),
        2 => (key(), 0usize..3).prop_map(|(key, nth)| Op::Tag { key, nth }),
        1 => key().prop_map(|key| Op::Upload { key }),
        1 => Just(Op::Expand),
    ]
}

struct Run {
    group: Group,
    versions: Versions,
    versioning: Versioning,
    fill: u8,
}

fn delete(key: &[u8], version: Option<VersionId>) -> DeleteVersion {
    DeleteVersion { key: key.to_vec(), version, precondition: Precondition::None, bypass: false }
}

impl Group {
    fn rules(&mut self, change: RulesChange) -> NamespaceReply {
        self.apply(NamespaceCommand::SetRules { bucket: BUCKET, change })
    }

    fn delete_version(&mut self, delete: DeleteVersion) -> Result<VersionDeleted, NamespaceError> {
        let now_ms = self.store.index;
        let command =
            NamespaceCommand::DeleteVersions { bucket: BUCKET, deletes: vec![delete], now_ms };
        let NamespaceOk::VersionsDeleted(mut done) = self.apply(command)? else {
            panic!("no deletion")
        };
        done.remove(0)
    }

    fn change(
        &mut self,
        key: &[u8],
        version: Option<VersionId>,
        change: VersionChange,
    ) -> NamespaceReply {
        let version = VersionRef { bucket: BUCKET, key: key.to_vec(), version };
        self.apply(NamespaceCommand::ChangeVersion { version, change, now_ms: 1_000 })
    }

    fn head(&self, key: &[u8], version: VersionId) -> Result<Object, NamespaceError> {
        let version = VersionRef { bucket: BUCKET, key: key.to_vec(), version: Some(version) };
        match self.ask(NamespaceQuery::HeadVersion { version })? {
            NamespaceAnswer::Object(object) => Ok(*object),
            other => panic!("{other:?}"),
        }
    }

    fn list_versions(
        &self,
        prefix: &[u8],
        delimiter: Option<&[u8]>,
        after: Option<VersionsAfter>,
        limit: u32,
    ) -> VersionListing {
        let query = NamespaceQuery::ListVersions {
            bucket: BUCKET,
            prefix: prefix.to_vec(),
            delimiter: delimiter.map(<[u8]>::to_vec),
            after,
            limit,
        };
        let NamespaceAnswer::Versions(listing) = self.ask(query).unwrap() else {
            panic!("no list")
        };
        listing
    }
}

/// A line of a listing: key, version, whether it is a marker, whether the latest; or a prefix.
type Line = (Vec<u8>, Option<(VersionId, bool, bool)>);

fn lines(listing: &VersionListing) -> Vec<Line> {
    let line = |entry: &VersionEntry| match entry {
        VersionEntry::Object { key, object, is_latest } => {
            (key.clone(), Some((object.version.unwrap(), false, *is_latest)))
        }
        VersionEntry::Marker { key, marker, is_latest } => {
            (key.clone(), Some((marker.version.unwrap(), true, *is_latest)))
        }
        VersionEntry::Prefix(prefix) => (prefix.clone(), None),
    };
    listing.entries.iter().map(line).collect()
}

impl Run {
    fn new() -> Run {
        let (group, versions) = (Group::new(), Versions::new());
        Run { group, versions, versioning: Versioning::Off, fill: 0 }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.fill = self.fill.wrapping_add(37);
        (0..len).map(|at| self.fill.wrapping_add(at as u8)).collect()
    }

    /// What a write does to the reference.
    fn wrote(&mut self, key: &[u8], version: Option<VersionId>, bytes: Option<Vec<u8>>) {
        let versions = self.versions.entry(key.to_vec()).or_default();
        match (self.versioning, version) {
            (Versioning::Off, None) => versions.clear(),
            (Versioning::Suspended, Some(VersionId::NULL)) => {
                versions.retain(|(id, _)| *id != VersionId::NULL);
            }
            (Versioning::Enabled, Some(id)) => {
                assert!(versions.iter().all(|(other, _)| *other < id), "ids ascend");
            }
            other => panic!("{other:?}"),
        }
        versions.insert(0, (version.unwrap_or(VersionId::NULL), bytes));
    }

    fn nth(&self, key: &[u8], nth: usize) -> Option<Version> {
        self.versions.get(key)?.get(nth).cloned()
    }

    fn put(&mut self, key: &[u8], len: usize, blocks: usize) {
        let bytes = self.bytes(len);
        let done = self.group.put(key, &bytes, blocks, Precondition::None).unwrap();
        self.wrote(key, done.version, Some(bytes));
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Rules(versioning) => {
                self.group.rules(RulesChange::Versioning(*versioning)).unwrap();
                self.versioning = *versioning;
            }
            Op::Put { key, len, blocks } => self.put(KEYS[*key], *len, *blocks),
            Op::Twice { key } => {
                // In one command.
                let key = KEYS[*key];
                let mut puts = Vec::new();
                let mut all = Vec::new();
                for _ in 0..2 {
                    let bytes = self.bytes(3);
                    let (_, content) = self.group.content(&bytes, 0);
                    puts.push(PutObject {
                        bucket: BUCKET,
                        key: key.to_vec(),
                        precondition: Precondition::None,
                        content,
                        meta: meta(&bytes),
                    });
                    all.push(bytes);
                }
                let (session, now_ms) = (self.group.session, self.group.store.index);
                let command = NamespaceCommand::Commit { session, blocks: vec![], puts, now_ms };
                let NamespaceOk::Put(done) = self.group.ok(command) else { panic!("no put") };
                for (done, bytes) in done.into_iter().zip(all) {
                    self.wrote(key, done.unwrap().version, Some(bytes));
                }
            }
            Op::Delete { key } => {
                let key = KEYS[*key];
                let existed = self.nth(key, 0).is_some_and(|(_, bytes)| bytes.is_some());
                let done = self.group.delete_version(delete(key, None)).unwrap();
                assert_eq!(done.existed, existed);
                assert_eq!(done.is_marker, self.versioning != Versioning::Off);
                match done.version {
                    None => drop(self.versions.remove(key)),
                    version => self.wrote(key, version, None),
                }
            }
            Op::DeleteOld { key } => {
                let key = KEYS[*key];
                self.group.delete(&[key]).unwrap();
                let newest = self.group.list_versions(key, None, None, 1);
                match newest.entries.first() {
                    Some(VersionEntry::Marker { marker, .. })
                        if self.versioning != Versioning::Off =>
                    {
                        self.wrote(key, marker.version, None);
                    }
                    _ if self.versioning == Versioning::Off => drop(self.versions.remove(key)),
                    other => panic!("{other:?}"),
                }
            }
            Op::Remove { key, nth } => {
                let key = KEYS[*key];
                let named = self.nth(key, *nth);
                let id = named.as_ref().map_or(VersionId(u64::MAX), |(id, _)| *id);
                let done = self.group.delete_version(delete(key, Some(id))).unwrap();
                assert_eq!(done.existed, named.is_some());
                assert_eq!(done.is_marker, named.is_some_and(|(_, bytes)| bytes.is_none()));
                if let Some(versions) = self.versions.get_mut(key) {
                    versions.retain(|(other, _)| *other != id);
                    if versions.is_empty() {
                        self.versions.remove(key);
                    }
                }
            }
            Op::Link { from, nth, to } => {
                let (from, to) = (KEYS[*from], KEYS[*to]);
                let Some((id, Some(bytes))) = self.nth(from, *nth) else { return };
                let source_content = self.group.head(from, id).unwrap().content;
                let done = one(self.group.ok(NamespaceCommand::LinkVersion {
                    session: self.group.session,
                    source: VersionRef { bucket: BUCKET, key: from.to_vec(), version: Some(id) },
                    source_content,
                    target: (BUCKET, to.to_vec()),
                    precondition: Precondition::None,
                    meta: meta(&bytes),
                    now_ms: 3,
                }))
                .unwrap();
                self.wrote(to, done.version, Some(bytes));
            }
            Op::CopyOntoItself { key } => {
                let key = KEYS[*key];
                let Some((_, Some(bytes))) = self.nth(key, 0) else { return };
                let done = one(self.group.ok(NamespaceCommand::SetMeta {
                    session: self.group.session,
                    bucket: BUCKET,
                    key: key.to_vec(),
                    precondition: Precondition::None,
                    meta: meta(&bytes),
                    now_ms: 3,
                }))
                .unwrap();
                self.wrote(key, done.version, Some(bytes));
            }
            Op::Tag { key, nth } => {
                let key = KEYS[*key];
                let Some((id, bytes)) = self.nth(key, *nth) else { return };
                let tags = vec![("k".to_owned(), self.fill.to_string())];
                let reply = self.group.change(key, Some(id), VersionChange::Tags(tags.clone()));
                match bytes {
                    Some(_) => {
                        reply.unwrap();
                        assert_eq!(self.group.head(key, id).unwrap().meta.tags, tags);
                    }
                    None => assert!(matches!(reply, Err(NamespaceError::DeleteMarker(..)))),
                }
            }
            Op::Upload { key } => {
                let key = KEYS[*key].to_vec();
                let id = super::listing::create_upload(&mut self.group, &key, 5);
                let upload = UploadRef { bucket: BUCKET, key: key.clone(), id };
                let bytes = self.bytes(7);
                let (blocks, content) = self.group.content(&bytes, 1);
                let session = self.group.session;
                self.group.ok(NamespaceCommand::PutPart {
                    session,
                    upload: upload.clone(),
                    number: 1,
                    blocks,
                    content,
                    etag: etag(&bytes),
                    checksums: vec![],
                    now_ms: 4,
                });
                let part = CompletedPart { number: 1, etag: etag(&bytes), checksum: None };
                let done = one(self.group.ok(NamespaceCommand::CompleteUpload {
                    session,
                    upload,
                    parts: vec![part],
                    part_bytes_min: 0,
                    precondition: Precondition::None,
                    etag: etag(&bytes),
                    checksums: vec![],
                    size: None,
                    now_ms: 7,
                }))
                .unwrap();
                self.wrote(&key, done.version, Some(bytes));
            }
            Op::Expand => {
                self.group.ok(NamespaceCommand::OutboxExpand { horizon_ms: u64::MAX, now_ms: 8 });
            }
        }
    }

    fn expected(&self, prefix: &[u8], delimiter: Option<&[u8]>) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for (key, versions) in &self.versions {
            let one = Model::from([(key.clone(), Vec::new())]);
            let (folded, _) = model::list(&one, prefix, delimiter, None, 1);
            match folded.first() {
                None => {}
                Some((true, common)) if lines.last().is_some_and(|last| last.0 == *common) => {}
                Some((true, common)) => lines.push((common.clone(), None)),
                Some((false, _)) => {
                    for (at, (id, bytes)) in versions.iter().enumerate() {
                        lines.push((key.clone(), Some((*id, bytes.is_none(), at == 0))));
                    }
                }
            }
        }
        lines
    }

    fn check(&self) {
        self.group.check();
        let visible: Vec<Vec<u8>> = self
            .versions
            .iter()
            .filter(|(_, versions)| versions[0].1.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        let (listed, _) = model::lines(&self.group.list(b"", None, None, 1_000));
        assert_eq!(listed.into_iter().map(|line| line.1).collect::<Vec<_>>(), visible);
        for (prefix, delimiter) in
            [(&b""[..], None), (b"", Some(&b"/"[..])), (b"a/", None), (b"a/", Some(b"/"))]
        {
            let expected = self.expected(prefix, delimiter);
            let all = self.group.list_versions(prefix, delimiter, None, 1_000);
            assert_eq!((lines(&all), all.next.is_none()), (expected.clone(), true));
            let (mut paged, mut after) = (Vec::new(), None);
            loop {
                let page = self.group.list_versions(prefix, delimiter, after, 1);
                paged.extend(lines(&page));
                let Some(next) = page.next else { break };
                after = Some(next);
            }
            assert_eq!(paged, expected);
        }
        for (key, versions) in &self.versions {
            for (id, bytes) in versions {
                let found = self.group.head(key, *id);
                match bytes {
                    Some(bytes) => assert_eq!(found.unwrap().meta.etag, etag(bytes)),
                    None => assert!(matches!(found, Err(NamespaceError::DeleteMarker(..)))),
                }
            }
            match (&versions[0].1, self.group.get(key, RangeSpec::Full)) {
                (Some(bytes), got) => assert_eq!(got.unwrap().1, *bytes),
                (None, got) => assert!(matches!(got, Err(NamespaceError::DeleteMarker(..)))),
            }
        }
    }

    fn end(mut self) {
        let drop = NamespaceCommand::DropBucketIfEmpty { bucket: BUCKET };
        if !self.versions.is_empty() {
            let refused = self.group.apply(drop.clone());
            assert_eq!(refused, Err(NamespaceError::BucketNotEmpty));
        }
        for (key, versions) in std::mem::take(&mut self.versions) {
            for (id, _) in versions {
                self.group.delete_version(delete(&key, Some(id))).unwrap();
                self.group.check();
            }
        }
        self.group.free_all();
        self.group.check();
        let left: Vec<_> = self
            .group
            .store
            .rows
            .values()
            .flat_map(BTreeMap::keys)
            .filter(|key| !matches!(key.first(), Some(b'B' | b'S')))
            .collect();
        assert_eq!(left, Vec::<&Vec<u8>>::new());
        self.group.ok(drop);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn versions_equal_the_reference_and_leave_nothing_behind(ops in proptest::collection::vec(ops(), 1..50)) {
        let mut run = Run::new();
        for op in &ops {
            run.step(op);
            run.check();
        }
        run.end();
    }
}

#[test]
fn a_bucket_without_versions_has_the_rows_it_always_had() {
    let mut group = Group::new();
    group.put(b"k", b"one", 0, Precondition::None).unwrap();
    group.put(b"k", b"two", 0, Precondition::None).unwrap();
    let bucket: rows::BucketRow =
        crate::rows::codec::decode(&group.store.rows["state"][&rows::bucket(BUCKET)]).unwrap();
    assert!(matches!(bucket, rows::BucketRow::Live(_)));
    assert!(!group.store.rows["state"].keys().any(|key| matches!(key[0], b'V' | b'N')));
    assert_eq!(group.get(b"k", RangeSpec::Full).unwrap().0.version, None);
}

/// A bucket with locks.
fn locked() -> Group {
    let mut group = Group::new();
    let lock = RulesChange::Lock(LockRules::default());
    assert_eq!(group.rules(lock), Err(NamespaceError::BucketState));
    group.rules(RulesChange::Versioning(Versioning::Enabled)).unwrap();
    group.rules(lock).unwrap();
    let suspend = RulesChange::Versioning(Versioning::Suspended);
    assert_eq!(group.rules(suspend), Err(NamespaceError::BucketState));
    group
}

fn retention(mode: RetentionMode, until_ms: u64, bypass: bool) -> VersionChange {
    VersionChange::Retention { retention: Some(Retention { mode, until_ms }), bypass }
}

#[test]
fn a_locked_version_stays_whoever_asks() {
    use RetentionMode::{Compliance, Governance};
    let mut group = locked();
    let id = group.put(b"k", b"one", 0, Precondition::None).unwrap().version;
    let remove = |bypass| DeleteVersion { bypass, ..delete(b"k", id) };
    let refused = Err(NamespaceError::Locked);

    // `change` is at 1 000 ms, deletions at the commit's index: far earlier than what follows.
    group.change(b"k", id, retention(Governance, 5_000, false)).unwrap();
    assert_eq!(group.delete_version(remove(false)), refused);
    let shorter = group.change(b"k", id, retention(Governance, 4_000, false));
    assert_eq!(shorter, Err(NamespaceError::Locked));
    group.change(b"k", id, retention(Governance, 4_000, true)).unwrap();
    let other_mode = group.change(b"k", id, retention(Compliance, 6_000, false));
    assert_eq!(other_mode, Err(NamespaceError::Locked));
    group.change(b"k", id, retention(Compliance, 6_000, true)).unwrap();
    for bypass in [false, true] {
        assert_eq!(group.delete_version(remove(bypass)), refused);
        for change in [
            retention(Compliance, 5_000, bypass),
            retention(Governance, 7_000, bypass),
            VersionChange::Retention { retention: None, bypass },
        ] {
            assert_eq!(group.change(b"k", id, change), Err(NamespaceError::Locked));
        }
    }
    let past = group.change(b"k", id, retention(Compliance, 1_000, true));
    assert_eq!(past, Err(Malformed::Retention.into()));
    // A plain delete only hides it, and takes nothing away.
    let marker = group.delete_version(delete(b"k", None)).unwrap();
    assert!(marker.is_marker);
    assert_eq!(group.delete_version(remove(true)), refused);
    group.delete_version(delete(b"k", marker.version)).unwrap();
    assert_eq!(group.get(b"k", RangeSpec::Full).unwrap().1, b"one");
    // When its time is over it goes, unless it is held.
    group.change(b"k", id, VersionChange::LegalHold(true)).unwrap();
    group.store.index = 6_000;
    assert_eq!(group.delete_version(remove(true)), refused);
    group.change(b"k", id, VersionChange::LegalHold(false)).unwrap();
    group.delete_version(remove(false)).unwrap();
    group.check();
}

#[test]
fn governance_can_be_bypassed_and_a_default_goes_to_what_names_none() {
    let mut group = locked();
    let default =
        DefaultRetention { mode: RetentionMode::Governance, period: RetentionPeriod::Days(2) };
    let bad = DefaultRetention { period: RetentionPeriod::Years(101), ..default };
    let set = |default| RulesChange::Lock(LockRules { default: Some(default) });
    assert_eq!(group.rules(set(bad)), Err(Malformed::Retention.into()));
    group.rules(set(default)).unwrap();
    let now_ms = group.store.index;
    let done = group.put(b"k", b"one", 0, Precondition::None).unwrap();
    let object = group.get(b"k", RangeSpec::Full).unwrap().0;
    let until_ms = now_ms + 2 * 24 * 3_600 * 1_000;
    let kept = Some(Retention { mode: RetentionMode::Governance, until_ms });
    assert_eq!(object.meta.lock, ObjectLock { retention: kept, legal_hold: false });
    let remove = |bypass| DeleteVersion { bypass, ..delete(b"k", done.version) };
    assert_eq!(group.delete_version(remove(false)), Err(NamespaceError::Locked));
    group.delete_version(remove(true)).unwrap();
    group.check();
}

#[test]
fn a_bucket_without_locks_takes_none() {
    let mut group = Group::new();
    group.put(b"k", b"one", 0, Precondition::None).unwrap();
    let refused = Err(NamespaceError::NoLock);
    assert_eq!(group.change(b"k", None, VersionChange::LegalHold(true)), refused);
    let change = retention(RetentionMode::Governance, 9_000, true);
    assert_eq!(group.change(b"k", None, change), refused);
}

#[test]
fn tags_are_bounded() {
    let mut group = Group::new();
    group.put(b"k", b"one", 0, Precondition::None).unwrap();
    let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let many = (0..11).map(|n| tag(&n.to_string(), "")).collect();
    for bad in [many, vec![tag("", "x")], vec![tag("a", "1"), tag("a", "1")]] {
        let reply = group.change(b"k", None, VersionChange::Tags(bad));
        assert_eq!(reply, Err(Malformed::Tags.into()));
    }
    let before = group.get(b"k", RangeSpec::Full).unwrap().0;
    let tags = vec![tag("a", "1"), tag("b", "")];
    group.change(b"k", None, VersionChange::Tags(tags.clone())).unwrap();
    let after = group.get(b"k", RangeSpec::Full).unwrap().0;
    assert_eq!((after.meta.tags, after.modified_ms), (tags, before.modified_ms));
    assert_eq!(after.content, before.content);
    group.check();
}
