//! What lifecycle rules did is noted where it is told, until it is forgotten; and quotas of accounts.

use super::support::*;
use crate::namespace::types::*;

fn rules(group: &mut Group) {
    let rule = LifecycleRule {
        id: "r".into(),
        expire: Some(When::Days(1)),
        expire_noncurrent: Some(Noncurrent { days: 1, keep: 0 }),
        ..LifecycleRule::default()
    };
    let rules = Lifecycle { day_ms: 1_000, moved_bytes_min: 0, rules: vec![rule] };
    let rules = Some((rules, b"text".to_vec()));
    group.ok(NamespaceCommand::SetLifecycle { bucket: BUCKET, rules });
}

fn run(group: &mut Group, now_ms: u64) {
    loop {
        let NamespaceOk::Lifecycle(done) = group.ok(NamespaceCommand::RunLifecycle { now_ms })
        else {
            panic!("no step")
        };
        if !done.more {
            return;
        }
    }
}

fn ends(group: &Group, limit: u32) -> Vec<(EndMark, End)> {
    match group.ask(NamespaceQuery::Ends { limit }) {
        Ok(NamespaceAnswer::Ends(ends)) => ends,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_told_is_noted_with_the_deed_and_kept_until_it_is_forgotten() {
    let mut group = Group::new();
    rules(&mut group);
    group.put(b"before", b"x", 0, Precondition::None).unwrap();
    run(&mut group, 50_000);
    assert_eq!(ends(&group, 10), vec![]);

    group.ok(NamespaceCommand::TellEnds { bucket: BUCKET, told: true });
    for key in [b"a", b"b", b"c"] {
        group.put(key, b"xyz", 0, Precondition::None).unwrap();
    }
    run(&mut group, 100_000);
    let told = ends(&group, 10);
    let seen: Vec<_> = told.iter().map(|(_, end)| (end.key.as_slice(), &end.kind)).collect();
    let gone = &EndKind::Deleted;
    assert_eq!(seen, [(&b"a"[..], gone), (b"b", gone), (b"c", gone)]);
    assert_eq!((told[0].1.size, told[0].1.version, told[0].1.at_ms), (3, None, 100_000));
    assert_eq!(told[0].1.etag, etag(b"xyz"));
    // A page at a time; what comes behind it stays.
    let page = ends(&group, 2);
    assert_eq!(page, told[..2]);
    let forget = NamespaceCommand::ForgetEnds { through: page[1].0 };
    group.ok(forget.clone());
    group.ok(forget);
    assert_eq!(ends(&group, 10), told[2..]);

    // Versions: the marker first, then what it hid.
    let change = RulesChange::Versioning(Versioning::Enabled);
    group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
    let version = group.put(b"v", b"x", 0, Precondition::None).unwrap().version;
    run(&mut group, 200_000);
    run(&mut group, 300_000);
    let kinds: Vec<_> = ends(&group, 10)[1..].iter().map(|(_, end)| end.clone()).collect();
    assert_eq!(kinds[0].kind, EndKind::Marked);
    assert_ne!(kinds[0].version, version);
    assert_eq!((kinds[1].kind.clone(), kinds[1].version), (EndKind::Deleted, version));
    group.check();

    group.ok(NamespaceCommand::TellEnds { bucket: BUCKET, told: false });
    let before = ends(&group, 10).len();
    group.put(b"quiet", b"x", 0, Precondition::None).unwrap();
    run(&mut group, 400_000);
    assert_eq!(ends(&group, 10).len(), before);
}

#[test]
fn a_move_to_another_class_is_noted() {
    let mut group = Group::new();
    group.ok(NamespaceCommand::TellEnds { bucket: BUCKET, told: true });
    let done = group.put(b"k", b"x", 1, Precondition::None).unwrap();
    let class = StorageClass::Named("REPLICATED".into());
    group.ok(NamespaceCommand::ChangeVersion {
        version: VersionRef { bucket: BUCKET, key: b"k".to_vec(), version: None },
        change: VersionChange::StorageClass(class.clone(), done.content),
        now_ms: 7,
    });
    let told = ends(&group, 10);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1.kind, EndKind::Moved(class));
}

#[test]
fn an_allowance_bounds_what_comes_and_lets_go_what_goes() {
    let mut group = Group::new();
    let allow = |group: &mut Group, bytes, objects| {
        let allowance = Allowance { bytes, objects };
        group.ok(NamespaceCommand::SetAllowance { bucket: BUCKET, allowance });
        let held = group.ask(NamespaceQuery::Held { bucket: BUCKET }).unwrap();
        assert!(matches!(held, NamespaceAnswer::Held(_, found) if found == allowance));
    };
    let refused = Err(NamespaceError::QuotaExceeded);
    allow(&mut group, Some(6), Some(2));
    assert_eq!(group.put(b"a", b"1234567", 0, Precondition::None), refused);
    group.put(b"a", b"123", 0, Precondition::None).unwrap();
    assert_eq!(group.put(b"b", b"1234", 0, Precondition::None), refused);
    group.put(b"b", b"1", 0, Precondition::None).unwrap();
    assert_eq!(group.put(b"c", b"1", 0, Precondition::None), refused);
    // In place of another, and smaller, there is room.
    group.put(b"a", b"12", 0, Precondition::None).unwrap();
    // Less than is held: what shrinks is let through.
    allow(&mut group, Some(0), Some(0));
    group.put(b"a", b"1", 0, Precondition::None).unwrap();
    assert_eq!(group.put(b"a", b"12", 0, Precondition::None), refused);
    group.delete(&[b"b"]).unwrap();
    assert_eq!(group.put(b"b", b"", 0, Precondition::None), refused);
    // Versions count, each of them; the bucket's own rules stay what they are.
    let change = RulesChange::Versioning(Versioning::Enabled);
    group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
    allow(&mut group, None, Some(2));
    group.put(b"a", b"2", 0, Precondition::None).unwrap();
    assert_eq!(group.put(b"a", b"3", 0, Precondition::None), refused);
    allow(&mut group, None, None);
    group.put(b"a", b"3", 0, Precondition::None).unwrap();
    group.check();
}
