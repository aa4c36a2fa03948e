//! What expires is what a plain model says, whatever was done before in whatever order, and nothing else.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::support::*;
use crate::namespace::lifecycle::{Fate, after_days};
use crate::namespace::rows::{self, DueRow, Further, LifecycleRow, WalkPlace, WalkRow};
use crate::namespace::types::*;
use crate::rows::codec;

const DAY: u64 = 1_000;
const KEYS: &[&[u8]] = &[b"a", b"logs/1", b"logs/2", b"tmp"];

fn rule(prefix: &[u8]) -> LifecycleRule {
    LifecycleRule { id: "r".into(), prefix: prefix.to_vec(), ..LifecycleRule::default() }
}

fn rules(rules: Vec<LifecycleRule>) -> Lifecycle {
    Lifecycle { day_ms: DAY, moved_bytes_min: 0, rules }
}

fn tag() -> (String, String) {
    ("t".to_owned(), "v".to_owned())
}

/// Sets of rules that the property chooses from.
fn menu() -> Vec<Lifecycle> {
    let expire = |days| Some(When::Days(days));
    let old = |days, keep| Some(Noncurrent { days, keep });
    vec![
        rules(vec![LifecycleRule { expire: expire(2), ..rule(b"logs/") }]),
        rules(vec![
            LifecycleRule { expire: expire(1), tags: vec![tag()], ..rule(b"") },
            LifecycleRule { expire_noncurrent: old(1, 1), ..rule(b"") },
        ]),
        rules(vec![LifecycleRule {
            expire: expire(3),
            size_over: Some(4),
            expire_noncurrent: old(2, 0),
            ..rule(b"")
        }]),
        rules(vec![LifecycleRule {
            expire_markers: true,
            expire_noncurrent: old(1, 0),
            ..rule(b"")
        }]),
        rules(vec![
            LifecycleRule { expire: Some(When::Date(4 * DAY)), ..rule(b"tmp") },
            LifecycleRule { expire_noncurrent: old(1, 2), size_under: Some(8), ..rule(b"") },
        ]),
        // One within another, and two side by side.
        rules(vec![
            LifecycleRule { expire: expire(1), ..rule(b"tmp") },
            LifecycleRule { expire: expire(1), ..rule(b"logs/1") },
            LifecycleRule { expire_noncurrent: old(1, 0), ..rule(b"logs/1") },
            LifecycleRule { expire: expire(3), ..rule(b"logs/") },
        ]),
    ]
}

/// One version as the model has it; newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    is_marker: bool,
    modified_ms: u64,
    size: u64,
    tags: Vec<(String, String)>,
}

type State = BTreeMap<Vec<u8>, Vec<Version>>;

fn state(group: &Group) -> State {
    let query = NamespaceQuery::ListVersions {
        bucket: BUCKET,
        prefix: Vec::new(),
        delimiter: None,
        after: None,
        limit: 1_000,
    };
    let Ok(NamespaceAnswer::Versions(listing)) = group.ask(query) else { panic!("no listing") };
    let mut state = State::new();
    for entry in listing.entries {
        let (key, version) = match entry {
            VersionEntry::Object { key, object, .. } => {
                let Object { modified_ms, size, .. } = *object;
                (key, Version { is_marker: false, modified_ms, size, tags: object.meta.tags })
            }
            VersionEntry::Marker { key, marker, .. } => {
                let modified_ms = marker.modified_ms;
                (key, Version { is_marker: true, modified_ms, size: 0, tags: vec![] })
            }
            VersionEntry::Prefix(_) => panic!("no delimiter"),
        };
        state.entry(key).or_default().push(version);
    }
    state
}

/// As S3's documentation says it, naively.
fn reference(
    key: &[u8],
    mut versions: Vec<Version>,
    rules: &Lifecycle,
    now: u64,
    keeps: bool,
) -> Vec<Version> {
    loop {
        let before = versions.clone();
        let of = |rule: &LifecycleRule, version: &Version| {
            let plain =
                rule.tags.is_empty() && rule.size_over.is_none() && rule.size_under.is_none();
            let matches = rule.tags.iter().all(|tag| version.tags.contains(tag))
                && rule.size_over.is_none_or(|over| version.size > over)
                && rule.size_under.is_none_or(|under| version.size < under);
            key.starts_with(&rule.prefix) && if version.is_marker { plain } else { matches }
        };
        let at = |when, modified| match when {
            When::Days(days) => modified + u64::from(days) * DAY,
            When::Date(date) => date,
        };
        let kept: Vec<Version> = (0..versions.len())
            .filter(|&i| {
                i == 0
                    || !rules.rules.iter().any(|rule| {
                        rule.expire_noncurrent.is_some_and(|old| {
                            of(rule, &versions[i])
                                && i > old.keep as usize
                                && versions[i - 1].modified_ms + u64::from(old.days) * DAY <= now
                        })
                    })
            })
            .map(|i| versions[i].clone())
            .collect();
        versions = kept;
        let expires = |version: &Version| {
            rules.rules.iter().any(|rule| {
                of(rule, version)
                    && rule.expire.is_some_and(|when| at(when, version.modified_ms) <= now)
            })
        };
        match versions.as_slice() {
            [first, ..] if !first.is_marker && expires(first) && !keeps => versions.clear(),
            [first, ..] if !first.is_marker && expires(first) => {
                let marker =
                    Version { is_marker: true, modified_ms: now, size: 0, tags: Vec::new() };
                versions.insert(0, marker);
            }
            [alone] if alone.is_marker => {
                let at_once = |rule: &LifecycleRule| rule.expire_markers && of(rule, alone);
                if expires(alone) || rules.rules.iter().any(at_once) {
                    versions.clear();
                }
            }
            _ => {}
        }
        if versions == before {
            return versions;
        }
    }
}

struct Run {
    group: Group,
    now: u64,
    rules: Option<Lifecycle>,
    keeps: bool,
}

impl Run {
    fn new(keeps: bool) -> Run {
        let mut group = Group::new();
        if keeps {
            let change = RulesChange::Versioning(Versioning::Enabled);
            group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
        }
        Run { group, now: 1, rules: None, keeps }
    }

    fn lay_down(&mut self, rules: Option<Lifecycle>) {
        self.rules = rules.clone();
        let rules = rules.map(|rules| (rules, b"<xml/>".to_vec()));
        self.group.ok(NamespaceCommand::SetLifecycle { bucket: BUCKET, rules });
    }

    fn put_with(&mut self, keys: &[Vec<u8>], len: usize, meta: &ObjectMeta) {
        let put = |key: &Vec<u8>, content| PutObject {
            bucket: BUCKET,
            key: key.clone(),
            precondition: Precondition::None,
            content,
            meta: meta.clone(),
        };
        let contents: Vec<_> =
            keys.iter().map(|key| put(key, self.group.content(&vec![7; len], 0).1)).collect();
        self.group.ok(NamespaceCommand::Commit {
            session: self.group.session,
            blocks: Vec::new(),
            puts: contents,
            now_ms: self.now,
        });
    }

    fn put(&mut self, key: &[u8], len: usize, tagged: bool) {
        let tags = if tagged { vec![tag()] } else { Vec::new() };
        self.put_with(&[key.to_vec()], len, &ObjectMeta { tags, ..ObjectMeta::default() });
    }

    fn change(&mut self, key: &[u8], version: Option<VersionId>, change: VersionChange) {
        let version = VersionRef { bucket: BUCKET, key: key.to_vec(), version };
        let now_ms = self.now;
        _ = self.group.apply(NamespaceCommand::ChangeVersion { version, change, now_ms });
    }

    fn step(&mut self) -> LifecycleDone {
        let command = NamespaceCommand::RunLifecycle { now_ms: self.now };
        let NamespaceOk::Lifecycle(done) = self.group.ok(command) else { panic!("no step") };
        done
    }

    /// Runs until nothing is to be done; gives all that was done.
    fn run(&mut self) -> LifecycleDone {
        let mut all = LifecycleDone::default();
        for _ in 0..1_000 {
            let done = self.step();
            all.looked += done.looked;
            all.expired += done.expired;
            all.markers += done.markers;
            all.aborted += done.aborted;
            all.moves.extend(done.moves);
            if !done.more {
                let left = self.group.ask(NamespaceQuery::LifecycleLeft { now_ms: self.now });
                let Ok(NamespaceAnswer::LifecycleLeft(left)) = left else { panic!("no answer") };
                assert_eq!((left.walks, left.due), (0, 0));
                self.group.check();
                return all;
            }
        }
        panic!("it never ends");
    }

    fn versions(&self, key: &[u8]) -> Vec<Version> {
        state(&self.group).remove(key).unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Rules(Option<usize>),
    Put(usize, usize, bool),
    Tag(usize, bool),
    Delete(usize),
    DeleteOldest(usize),
    Wait(u64),
    Run,
}

fn ops() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS.len();
    prop_oneof![
        2 => (0..menu().len()).prop_map(|which| Op::Rules(Some(which))),
        1 => Just(Op::Rules(None)),
        8 => (key(), 0usize..12, any::<bool>()).prop_map(|(key, len, tag)| Op::Put(key, len, tag)),
        2 => (key(), any::<bool>()).prop_map(|(key, tagged)| Op::Tag(key, tagged)),
        3 => key().prop_map(Op::Delete),
        1 => key().prop_map(Op::DeleteOldest),
        4 => (1..2 * DAY).prop_map(Op::Wait),
        5 => Just(Op::Run),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn what_goes_is_what_the_rules_say(keeps in any::<bool>(), ops in proptest::collection::vec(ops(), 1..60)) {
        let mut run = Run::new(keeps);
        for op in ops {
            match op {
                Op::Rules(which) => run.lay_down(which.map(|which| menu()[which].clone())),
                Op::Put(key, len, tagged) => run.put(KEYS[key], len, tagged),
                Op::Tag(key, tagged) => {
                    let tags = if tagged { vec![tag()] } else { Vec::new() };
                    run.change(KEYS[key], None, VersionChange::Tags(tags));
                }
                Op::Delete(key) => run.group.delete_at(KEYS[key], run.now),
                Op::DeleteOldest(key) => {
                    let prefix = rows::versions(BUCKET).name(KEYS[key]).done();
                    let rows = run.group.store.rows.get("state").unwrap();
                    let last = rows.keys().rfind(|row| row.starts_with(&prefix));
                    if let Some((key, order)) = last.and_then(|row| rows::parse_version(row)) {
                        let delete = DeleteVersion {
                            key,
                            version: Some(VersionId(order)),
                            precondition: Precondition::None,
                            bypass: false,
                        };
                        let deletes = vec![delete];
                        let now_ms = run.now;
                        run.group.ok(NamespaceCommand::DeleteVersions { bucket: BUCKET, deletes, now_ms });
                    }
                }
                Op::Wait(ms) => run.now += ms,
                Op::Run => {
                    let mut expected = state(&run.group);
                    if let Some(rules) = &run.rules {
                        for (key, versions) in &mut expected {
                            *versions = reference(key, versions.clone(), rules, run.now, run.keeps);
                        }
                        expected.retain(|_, versions| !versions.is_empty());
                    }
                    run.run();
                    prop_assert_eq!(state(&run.group), expected);
                }
            }
        }
    }
}

#[test]
fn an_overwritten_object_begins_anew() {
    let mut run = Run::new(false);
    run.lay_down(Some(rules(vec![LifecycleRule { expire: Some(When::Days(1)), ..rule(b"") }])));
    run.put(b"k", 3, false);
    run.now += DAY - 1;
    run.put(b"k", 3, false);
    run.now += 1;
    assert_eq!(run.run().expired, 0);
    run.now += DAY - 1;
    assert_eq!(run.run().expired, 1);
    assert_eq!(run.versions(b"k"), vec![]);
}

#[test]
fn many_versions_go_in_bounded_steps_and_as_many_stay_as_are_to_be_kept() {
    let mut run = Run::new(true);
    for _ in 0..700 {
        run.put(b"k", 1, false);
    }
    let old = Some(Noncurrent { days: 1, keep: 5 });
    run.lay_down(Some(rules(vec![LifecycleRule { expire_noncurrent: old, ..rule(b"") }])));
    run.now += DAY;
    assert_eq!(run.run().expired, 700 - 6);
    assert_eq!(run.versions(b"k").len(), 6);
    // One more makes the oldest due a day after it was replaced, not a day after this.
    run.now += DAY;
    run.put(b"k", 1, false);
    assert_eq!(run.run().expired, 1);
}

#[test]
fn what_clients_delete_between_two_steps_counts_no_more() {
    let mut run = Run::new(true);
    for _ in 0..300 {
        run.put(b"k", 1, false);
    }
    let old = Some(Noncurrent { days: 1, keep: 100 });
    run.lay_down(Some(rules(vec![LifecycleRule { expire_noncurrent: old, ..rule(b"") }])));
    run.run();
    run.now += DAY;
    assert!(run.step().more);
    let prefix = rows::versions(BUCKET).name(b"k").done();
    let rows = run.group.store.rows.get("state").unwrap();
    let newest: Vec<_> = rows.keys().filter(|row| row.starts_with(&prefix)).take(60).collect();
    let delete = |row: &&Vec<u8>| {
        let (key, order) = rows::parse_version(row).unwrap();
        let version = Some(VersionId(order));
        DeleteVersion { key, version, precondition: Precondition::None, bypass: false }
    };
    let deletes = newest.iter().map(delete).collect();
    let now_ms = run.now;
    run.group.ok(NamespaceCommand::DeleteVersions { bucket: BUCKET, deletes, now_ms });
    run.run();
    assert_eq!(run.versions(b"k").len(), 101);
}

#[test]
fn deep_keys_that_are_due_together_fit_into_commands() {
    let mut run = Run::new(false);
    // The last cannot go in one command, if it leaves all its directories empty.
    let slashes = |n: usize| "/".repeat(n);
    let keys = [
        "a/".repeat(500) + "x",
        "b/".repeat(500) + "x",
        format!("c{}x", slashes(940)),
        format!("d{}x", slashes(500)),
        format!("d{}y", slashes(1_000)),
    ];
    for key in &keys {
        run.put(key.as_bytes(), 1, false);
    }
    run.now += 1;
    run.put(b"z", 1, false);
    run.lay_down(Some(rules(vec![LifecycleRule { expire: Some(When::Days(1)), ..rule(b"") }])));
    run.run();
    run.now += DAY;
    assert_eq!(run.run().expired, 5);
    assert_eq!(run.versions(keys[4].as_bytes()).len(), 1);
}

#[test]
fn a_deep_version_that_changes_is_looked_at() {
    let mut run = Run::new(true);
    run.put(b"k", 1, false);
    let first = run.group.get(b"k", RangeSpec::Full).unwrap().0.version;
    for _ in 0..200 {
        run.put(b"k", 1, false);
    }
    let old = Some(Noncurrent { days: 1, keep: 1 });
    let tagged = LifecycleRule { expire_noncurrent: old, tags: vec![tag()], ..rule(b"") };
    run.lay_down(Some(rules(vec![tagged])));
    run.now += 2 * DAY;
    assert_eq!(run.run().expired, 0);
    run.change(b"k", first, VersionChange::Tags(vec![tag()]));
    assert_eq!(run.run().expired, 1);
    assert_eq!(run.versions(b"k").len(), 200);
}

#[test]
fn rules_that_are_laid_down_again_and_again_keep_nothing_waiting() {
    let mut run = Run::new(false);
    let lifecycle = rules(vec![LifecycleRule { expire: Some(When::Days(1)), ..rule(b"") }]);
    for pack in 0..4 {
        let keys: Vec<Vec<u8>> = (0..100).map(|n| format!("{pack}-{n:03}").into_bytes()).collect();
        run.put_with(&keys, 1, &ObjectMeta::default());
    }
    run.now += DAY;
    let mut expired = 0;
    for _ in 0..20 {
        run.lay_down(Some(lifecycle.clone()));
        expired += run.step().expired;
    }
    assert_eq!(expired, 400);
    run.run();
}

#[test]
fn only_keys_that_rules_are_of_are_looked_at() {
    let mut run = Run::new(false);
    let keys: Vec<Vec<u8>> = ["a", "a/1", "a/2", "b", "b0", "c", "d/1", "e"]
        .iter()
        .flat_map(|first| (0..60).map(move |n| format!("{first}-{n:02}").into_bytes()))
        .chain([b"a".to_vec(), b"b".to_vec(), b"d/".to_vec()])
        .collect();
    for pack in keys.chunks(100) {
        run.put_with(pack, 1, &ObjectMeta::default());
    }
    let within = |prefixes: &[&[u8]]| {
        let of = |key: &&Vec<u8>| prefixes.iter().any(|prefix| key.starts_with(prefix));
        u32::try_from(keys.iter().filter(of).count()).unwrap()
    };
    let expire = Some(When::Days(1));
    // The second begins where the first ends, the third lies within the first, and nothing begins with the fourth.
    for prefixes in [&[&b"a"[..], b"b", b"a/1", b"cc", b"d/"][..], &[b"a/2"], &[b"x"], &[b""]] {
        let of = prefixes.iter().map(|prefix| LifecycleRule { expire, ..rule(prefix) });
        run.lay_down(Some(rules(of.collect())));
        assert_eq!(run.run().looked, within(prefixes), "{prefixes:?}");
    }
    // Nothing ends by age here: only uploads are looked for, and there are none.
    let aborts = LifecycleRule { abort_uploads_days: Some(1), ..rule(b"") };
    run.lay_down(Some(rules(vec![aborts])));
    assert_eq!(run.run().looked, 0);
}

#[test]
fn the_first_moment_is_a_date_too() {
    let mut run = Run::new(false);
    run.put(b"k", 1, false);
    run.lay_down(Some(rules(vec![LifecycleRule { expire: Some(When::Date(0)), ..rule(b"") }])));
    assert_eq!(run.run().expired, 1);
}

#[test]
fn a_full_pack_is_noted_and_a_crowded_one_looked_through() {
    let mut run = Run::new(true);
    run.lay_down(Some(rules(vec![LifecycleRule { expire: Some(When::Days(1)), ..rule(b"") }])));
    for round in 0..2 {
        // Each key has two directories of its own: the first round makes very many rows.
        let keys: Vec<Vec<u8>> =
            (0..limits_of_a_pack()).map(|n| format!("{n}/{n}/k").into_bytes()).collect();
        run.put_with(&keys, 1, &ObjectMeta::default());
        run.now += DAY;
        assert_eq!(run.run().expired, keys.len() as u32, "round {round}");
    }
}

fn limits_of_a_pack() -> usize {
    crate::namespace::limits::PUTS_MAX
}

#[test]
fn what_is_locked_stays_until_it_is_not() {
    let mut run = Run::new(true);
    let change = RulesChange::Lock(LockRules::default());
    run.group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
    let until_ms = run.now + 5 * DAY;
    let retention = Some(Retention { mode: RetentionMode::Governance, until_ms });
    let lock = ObjectLock { retention, legal_hold: true };
    run.put_with(&[b"k".to_vec()], 3, &ObjectMeta { lock, ..ObjectMeta::default() });
    let first = match run.group.get(b"k", RangeSpec::Full) {
        Ok((object, _)) => object.version,
        Err(error) => panic!("{error}"),
    };
    run.put(b"k", 1, false);
    let old = Some(Noncurrent { days: 1, keep: 0 });
    run.lay_down(Some(rules(vec![LifecycleRule { expire_noncurrent: old, ..rule(b"") }])));
    run.now += 2 * DAY;
    assert_eq!(run.run().expired, 0);
    run.change(b"k", first, VersionChange::LegalHold(false));
    assert_eq!(run.run().expired, 0);
    run.now = until_ms;
    assert_eq!(run.run().expired, 1);
    assert_eq!(run.versions(b"k").len(), 1);
}

#[test]
fn uploads_are_aborted_and_a_dropped_bucket_leaves_no_rows() {
    let mut run = Run::new(false);
    let create = |run: &mut Run, key: &[u8]| {
        let command = NamespaceCommand::CreateUpload {
            session: run.group.session,
            bucket: BUCKET,
            key: key.to_vec(),
            nonce: 1,
            owner: "o".into(),
            meta: ObjectMeta::default(),
            checksum: None,
            now_ms: run.now,
        };
        run.group.ok(command);
    };
    create(&mut run, b"logs/before");
    let aborts = LifecycleRule { abort_uploads_days: Some(2), ..rule(b"logs/") };
    run.lay_down(Some(rules(vec![aborts])));
    create(&mut run, b"logs/after");
    create(&mut run, b"other");
    run.now += 2 * DAY;
    assert_eq!(run.run().aborted, 2);
    let usage = run.group.ask(NamespaceQuery::BucketUsage { bucket: BUCKET });
    assert!(matches!(usage, Ok(NamespaceAnswer::Usage(Usage { uploads: 1, .. }))));

    let aborts = LifecycleRule { abort_uploads_days: Some(9), ..rule(b"") };
    run.lay_down(Some(rules(vec![aborts])));
    run.run();
    run.now += 9 * DAY;
    let state = run.group.ask(NamespaceQuery::LifecycleLeft { now_ms: run.now });
    assert!(matches!(state, Ok(NamespaceAnswer::LifecycleLeft(LifecycleLeft { due: 1, .. }))));
    run.run();
    run.group.ok(NamespaceCommand::DropBucketIfEmpty { bucket: BUCKET });
    run.run();
    let rows = run.group.store.rows.get("state").unwrap();
    assert!(!rows.keys().any(|row| [b'I', b'L', b'T', b'W'].contains(&row[0])));
}

#[test]
fn moves_are_told_until_they_are_made() {
    let mut run = Run::new(false);
    let copies = StorageClass::Named("REPLICATED".into());
    let moves = vec![(When::Days(1), copies.clone()), (When::Days(9), StorageClass::Standard)];
    run.lay_down(Some(rules(vec![LifecycleRule { moves, ..rule(b"") }])));
    run.put(b"k", 3, false);
    assert_eq!(run.run().moves, vec![]);
    run.now += DAY;
    for _ in 0..2 {
        let moves = run.run().moves;
        assert_eq!(moves.len(), 1);
        assert_eq!((&moves[0].key[..], &moves[0].class), (&b"k"[..], &copies));
        run.now += DAY / 24;
    }
    let (object, _) = run.group.get(b"k", RangeSpec::Full).unwrap();
    let rules = run.rules.clone().unwrap();
    let moved =
        Object { meta: ObjectMeta { storage_class: copies, ..object.meta.clone() }, ..object };
    assert_eq!(rules.of_current(b"k", &moved, run.now).now, None);
    let late = rules.of_current(b"k", &moved, run.now + 9 * DAY).now;
    assert_eq!(late, Some(Fate::Move(&StorageClass::Standard)));
    let small = Lifecycle { moved_bytes_min: 128 << 10, ..rules };
    assert_eq!(small.of_current(b"k", &moved, u64::MAX).now, None);
}

#[test]
fn real_days_end_at_midnight() {
    assert_eq!(after_days(1, 1, DAY_MS), 2 * DAY_MS);
    assert_eq!(after_days(DAY_MS, 1, DAY_MS), 2 * DAY_MS);
    assert_eq!(after_days(DAY_MS + 1, 30, DAY_MS), 32 * DAY_MS);
    assert_eq!(after_days(7, 3, 10), 37);
    assert_eq!(after_days(u64::MAX - 1, u32::MAX, 10), u64::MAX);
}

#[test]
fn rules_that_cannot_be_are_refused() {
    let mut run = Run::new(false);
    let mut refuse = |lifecycle: Lifecycle, text: usize| {
        let rules = Some((lifecycle, vec![0; text]));
        run.group.apply(NamespaceCommand::SetLifecycle { bucket: BUCKET, rules }).unwrap_err()
    };
    let malformed = NamespaceError::Malformed(Malformed::Lifecycle);
    let zero = LifecycleRule { expire: Some(When::Days(0)), ..rule(b"") };
    assert_eq!(refuse(rules(vec![zero]), 1), malformed);
    assert_eq!(refuse(Lifecycle { day_ms: 0, ..rules(vec![rule(b"")]) }, 1), malformed);
    assert_eq!(refuse(rules(vec![rule(b""); 1_001]), 1), NamespaceError::TooLarge);
    assert_eq!(refuse(rules(vec![rule(b"")]), 600 << 10), NamespaceError::TooLarge);
    let deep = Noncurrent { days: 1, keep: 1_000 };
    let deep = LifecycleRule { expire_noncurrent: Some(deep), ..rule(b"") };
    assert_eq!(refuse(rules(vec![deep]), 1), NamespaceError::TooLarge);
}

#[test]
fn contents_that_are_to_lie_in_copies_count_as_small_ones() {
    let mut group = Group::new();
    let bytes = vec![7; 600_000];
    let content = group.put(b"k", &bytes, 2, Precondition::None).unwrap().content;
    let large_bytes = |group: &Group| {
        group.check();
        let Ok(NamespaceAnswer::Codes(codes)) = group.ask(NamespaceQuery::Codes) else {
            panic!("no codes")
        };
        (codes[0].bytes, codes[0].large_bytes)
    };
    let filter = CodeFilter { k: 4, m: 2, over: Some(512 << 10) };
    let filter = ExtentFilter { codes: vec![filter], ..ExtentFilter::default() };
    let leaves = NamespaceQuery::Leaves { content, after: None, limit: 10 };
    let Ok(NamespaceAnswer::Leaves { leaves, more: false }) = group.ask(leaves) else {
        panic!("no leaves")
    };
    assert_eq!(leaves, vec![(content, 600_000)]);
    assert_eq!(large_bytes(&group), (600_000, 600_000));
    for (copies, large, found) in [(true, 0, 0), (true, 0, 0), (false, 600_000, 2)] {
        group.ok(NamespaceCommand::SetCopies { contents: vec![content], copies });
        assert_eq!(large_bytes(&group), (600_000, large));
        assert_eq!(group.find(&filter).len(), found);
        assert!(group.get(b"k", RangeSpec::Full).unwrap().1 == bytes);
    }
    group.ok(NamespaceCommand::SetCopies { contents: vec![content], copies: true });
    group.delete(&[b"k"]).unwrap();
    group.free_all();
    group.check();
    // What came in the code of large contents is no copy.
    let (blocks, content) = group.content(&bytes, 1);
    let ContentBody::Extents(extents) = content.body else { panic!("no extents") };
    let content = NewContent { body: ContentBody::Copies(extents), ..content };
    let (bucket, key, precondition) = (BUCKET, b"k".to_vec(), Precondition::None);
    let put = PutObject { bucket, key, precondition, content, meta: meta(&bytes) };
    let (session, puts) = (group.session, vec![put]);
    let put = group.ok(NamespaceCommand::Commit { session, blocks, puts, now_ms: 5 });
    assert_eq!(one(put), Err(NamespaceError::Malformed(Malformed::Extents)));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes() {
    let bucket = BucketId(7);
    assert_eq!(hex(&rows::lifecycle(bucket)), "4c0000000000000007");
    assert_eq!(hex(&rows::lifecycle_text(bucket)), "540000000000000007");
    assert_eq!(hex(&rows::walk(bucket)), "490000000000000007");
    assert_eq!(hex(&rows::due(5, bucket, b"k")), "57000000000000000500000000000000076b0000");
    let all = LifecycleRule {
        id: "i".into(),
        prefix: b"p".to_vec(),
        tags: vec![("t".into(), "v".into())],
        size_over: Some(1),
        size_under: Some(300),
        expire: Some(When::Days(3)),
        expire_markers: true,
        expire_noncurrent: Some(Noncurrent { days: 4, keep: 5 }),
        abort_uploads_days: Some(6),
        moves: vec![(When::Date(7), StorageClass::Named("C".into()))],
        moves_noncurrent: vec![(Noncurrent { days: 8, keep: 9 }, StorageClass::Standard)],
    };
    let lifecycle = Lifecycle { day_ms: 10, moved_bytes_min: 11, rules: vec![all] };
    let body = "0a0b01016901700101740176010101ac020100030101040501060101070201430108090 0";
    let body = body.replace(' ', "");
    assert_eq!(hex(&lifecycle.encode()), format!("01{body}"));
    let row = LifecycleRow { sequence: 3, rules: lifecycle.clone() };
    assert_eq!(hex(&codec::encode(&row)), format!("0103{body}"));
    let place = WalkPlace::Keys(Some(b"k".to_vec()));
    let walk = WalkRow { sequence: 3, place, again: false };
    assert_eq!(hex(&codec::encode(&walk)), "01030001016b00");
    let walk = WalkRow { sequence: 3, place: WalkPlace::Uploads(None), again: true };
    assert_eq!(hex(&codec::encode(&walk)), "0103010001");
    let due = DueRow { sequence: 3, further: Some(Further { order: 4, since_ms: 6 }) };
    assert_eq!(hex(&codec::encode(&due)), "0103010406");
    let set = NamespaceCommand::SetLifecycle { bucket, rules: Some((lifecycle, b"x".to_vec())) };
    assert_eq!(hex(&set.encode()), format!("011f0701{body}0178"));
    assert_eq!(hex(&NamespaceCommand::RunLifecycle { now_ms: 5 }.encode()), "012005");
    let done =
        LifecycleDone { looked: 1, expired: 2, markers: 3, aborted: 4, ..Default::default() };
    assert_eq!(hex(&codec::encode(&done)), "01010203040000");
}
