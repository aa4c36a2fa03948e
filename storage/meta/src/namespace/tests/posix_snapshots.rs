//! Snapshots show what there was, whatever changes, and whichever others are dropped.

use proptest::prelude::*;

use super::posix::Run;
use super::posix_ops::{Op, ops};
use super::posix_tree::Tree;
use super::support::*;
use crate::namespace::types::*;

/// A snapshot, and what there was when it was taken.
struct Taken {
    snapshot: Snapshot,
    tree: Tree,
}

/// What is done.
#[derive(Clone, Debug)]
enum Do {
    /// As without snapshots.
    Op(Op),
    Take,
    /// One of those that there are.
    Drop(usize),
    /// A step of freeing.
    Free,
    /// Numbers for all that one of them shows.
    Adopt(usize),
}

fn deeds() -> impl Strategy<Value = Do> {
    prop_oneof![
        12 => ops().prop_map(Do::Op),
        3 => Just(Do::Take),
        1 => any::<usize>().prop_map(Do::Drop),
        1 => Just(Do::Free),
        1 => any::<usize>().prop_map(Do::Adopt),
    ]
}

fn take(run: &mut Run, name: &str, path: &[u8]) -> Result<Snapshot, NamespaceError> {
    let (name, path) = (name.to_owned(), path.to_vec());
    let command = NamespaceCommand::TakeSnapshot { bucket: BUCKET, name, path, now_ms: 5 };
    match run.group.apply(command)? {
        NamespaceOk::Snapshot(snapshot) => Ok(*snapshot),
        other => panic!("{other:?}"),
    }
}

fn drop_one(run: &mut Run, name: &str) -> Result<NamespaceOk, NamespaceError> {
    let name = name.to_owned();
    run.group.apply(NamespaceCommand::DropSnapshot { bucket: BUCKET, name, now_ms: 6 })
}

fn listed(run: &Run, of: Option<Ino>) -> Vec<Snapshot> {
    match run.group.ask(NamespaceQuery::Snapshots { bucket: BUCKET, of }) {
        Ok(NamespaceAnswer::Snapshots(snapshots)) => snapshots,
        other => panic!("{other:?}"),
    }
}

/// Rows of a kind that the group has.
fn rows_of(run: &Run, tag: u8) -> usize {
    let rows = &run.group.store.rows["state"];
    rows.keys().filter(|key| key.first() == Some(&tag)).count()
}

fn past(run: &Run, snapshot: SnapshotId, query: PosixQuery) -> NamespaceQueryReply {
    run.group.ask(NamespaceQuery::Past { bucket: BUCKET, snapshot, query })
}

/// Gives numbers to all that a snapshot shows in a directory and below.
fn adopt_all(run: &mut Run, snapshot: SnapshotId, dir: Ino) {
    let query = PosixQuery::Entries { ino: dir, after: None, limit: 1_000 };
    let Ok(NamespaceAnswer::Entries { entries, more: false }) = past(run, snapshot, query) else {
        panic!("no entries")
    };
    let names: Vec<Vec<u8>> = entries.iter().map(|entry| entry.name.clone()).collect();
    let command = NamespaceCommand::AdoptPast { bucket: BUCKET, snapshot, parent: dir, names };
    let NamespaceOk::Posix(mut results) = run.group.ok(command) else { panic!("no results") };
    let Some(Ok(PosixDone::Nodes(nodes))) = results.pop() else { panic!("no nodes") };
    for (entry, node) in entries.iter().zip(nodes) {
        let node = node.unwrap();
        let ino = node.ino.unwrap();
        assert!(entry.node.ino.is_none_or(|before| before == ino));
        let query = PosixQuery::Lookup { parent: dir, name: entry.name.clone() };
        assert_eq!(past(run, snapshot, query), Ok(NamespaceAnswer::Node(Box::new(node.clone()))));
        if node.kind == NodeKind::Directory {
            adopt_all(run, snapshot, ino);
        }
    }
}

fn compare(run: &Run, all: &[Taken]) {
    assert_eq!(listed(run, None), all.iter().map(|one| one.snapshot.clone()).collect::<Vec<_>>());
    for one in all {
        run.compare_past(one.snapshot.id, one.tree.clone());
    }
}

impl Run {
    fn compare_past(&self, id: SnapshotId, tree: Tree) {
        let run = Run {
            group: self.group.clone(),
            tree,
            numbers: vec![],
            mount: self.mount,
            has_versions: self.has_versions,
            past: Some(id),
            alone: None,
            fill: 0,
        };
        run.compare_nodes();
    }
}

fn drive(deeds: &[Do], mut run: Run) {
    let mut all: Vec<Taken> = Vec::new();
    for (at, deed) in deeds.iter().enumerate() {
        match deed {
            Do::Op(op) => run.step(op),
            Do::Take => {
                let snapshot = take(&mut run, &format!("s{at}"), b"").unwrap();
                all.push(Taken { snapshot, tree: run.tree.clone() });
            }
            Do::Drop(which) if !all.is_empty() => {
                let gone = all.remove(which % all.len());
                drop_one(&mut run, &gone.snapshot.name).unwrap();
            }
            Do::Free => {
                let (horizon_ms, now_ms) = (u64::MAX, 9);
                run.group.ok(NamespaceCommand::OutboxExpand { horizon_ms, now_ms });
            }
            Do::Adopt(which) if !all.is_empty() => {
                let id = all[which % all.len()].snapshot.id;
                adopt_all(&mut run, id, Ino::ROOT);
            }
            Do::Drop(_) | Do::Adopt(_) => {}
        }
        run.compare();
        compare(&run, &all);
    }
    run.group.free_all();
    compare(&run, &all);
    while let Some(gone) = all.pop() {
        drop_one(&mut run, &gone.snapshot.name).unwrap();
        run.group.free_all();
        run.compare();
        compare(&run, &all);
    }
    assert_eq!((rows_of(&run, b'h'), rows_of(&run, b's')), (0, 0), "nothing is kept for nobody");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn snapshots_show_what_there_was(deeds in prop::collection::vec(deeds(), 1..60)) {
        drive(&deeds, Run::new());
    }

    #[test]
    fn also_where_versions_are_kept(
        deeds in prop::collection::vec(deeds(), 1..40),
        enabled: bool,
    ) {
        let versioning = if enabled { Versioning::Enabled } else { Versioning::Suspended };
        drive(&deeds, Run::versioned(versioning));
    }
}

/// The node that a name leads to in a snapshot.
fn past_node(run: &Run, snapshot: SnapshotId, parent: Ino, name: &[u8]) -> Node {
    let query = PosixQuery::Lookup { parent, name: name.to_vec() };
    match past(run, snapshot, query) {
        Ok(NamespaceAnswer::Node(node)) => *node,
        other => panic!("{other:?}"),
    }
}

fn past_bytes(run: &Run, snapshot: SnapshotId, ino: Ino) -> Vec<u8> {
    match past(run, snapshot, PosixQuery::Map { ino, offset: 0, len: u64::MAX }) {
        Ok(NamespaceAnswer::FileMap { map, .. }) => {
            map.pieces.iter().flat_map(|piece| run.group.read(piece)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_one_each_and_what_is_refused_says_why() {
    let mut run = Run::new();
    for name in ["", ".", "..", "a/b", "a\nb", &"n".repeat(256)] {
        assert_eq!(take(&mut run, name, b""), Err(NamespaceError::InvalidSnapshotName), "{name}");
    }
    take(&mut run, "one", b"").unwrap();
    assert_eq!(take(&mut run, "one", b""), Err(NamespaceError::SnapshotExists));
    assert_eq!(drop_one(&mut run, "two"), Err(NamespaceError::NoSuchSnapshot));
    assert_eq!(take(&mut run, "two", b"d/"), Err(PosixError::NotFound.into()));
    assert_eq!(take(&mut run, "two", b"d"), Err(PosixError::NotDirectory.into()));
    // Of one that is being dropped nothing is left that anybody sees.
    let first = listed(&run, None).remove(0);
    drop_one(&mut run, "one").unwrap();
    assert_eq!(listed(&run, None), []);
    let query = PosixQuery::Node { ino: Ino::ROOT };
    assert_eq!(past(&run, first.id, query), Err(NamespaceError::NoSuchSnapshot));
    let second = take(&mut run, "one", b"").unwrap();
    assert_ne!((first.id, first.number), (second.id, second.number));
}

#[test]
fn there_are_so_many_and_their_numbers_come_back_late() {
    let mut run = Run::new();
    for at in 0..256 {
        assert_eq!(take(&mut run, &format!("s{at}"), b"").unwrap().number, at + 1);
    }
    assert_eq!(take(&mut run, "more", b""), Err(NamespaceError::TooManySnapshots));
    drop_one(&mut run, "s0").unwrap();
    assert_eq!(take(&mut run, "more", b""), Err(NamespaceError::TooManySnapshots), "not yet gone");
    run.group.free_all();
    assert_eq!(take(&mut run, "more", b"").unwrap().number, 257);
    run.group.check();
}

#[test]
fn a_bucket_with_snapshots_is_not_empty_and_no_mounts_alone() {
    let mut run = Run::new();
    take(&mut run, "one", b"").unwrap();
    let command = NamespaceCommand::DropBucketIfEmpty { bucket: BUCKET };
    assert_eq!(run.group.apply(command.clone()), Err(NamespaceError::BucketNotEmpty));
    let delegate = NamespaceCommand::Delegate { mount: run.mount };
    assert_eq!(run.group.apply(delegate.clone()), Err(NamespaceError::NotDelegated));
    drop_one(&mut run, "one").unwrap();
    run.group.free_all();
    let NamespaceOk::Delegated(grant) = run.group.ok(delegate) else { panic!("not alone") };
    assert_eq!(take(&mut run, "two", b""), Err(NamespaceError::Delegated(BUCKET, grant)));
    run.group.ok(NamespaceCommand::Revoke { bucket: BUCKET, grant });
    assert_eq!(run.group.apply(command), Ok(NamespaceOk::Done));
}

#[test]
fn a_snapshot_of_a_directory_is_shown_there_and_below() {
    let mut run = Run::new();
    run.group.put(b"a/b/c", b"1", 0, Precondition::None).unwrap();
    run.group.put(b"d/e", b"2", 0, Precondition::None).unwrap();
    let snapshot = take(&mut run, "of a", b"a/").unwrap();
    let adopt = |run: &mut Run, parent: Ino, name: &[u8]| {
        let names = vec![name.to_vec()];
        match run.posix(PosixOp::Adopt { parent, names }) {
            Ok(PosixDone::Nodes(mut nodes)) => nodes.pop().unwrap().unwrap().ino.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let a = adopt(&mut run, Ino::ROOT, b"a");
    let b = adopt(&mut run, a, b"b");
    let d = adopt(&mut run, Ino::ROOT, b"d");
    assert_eq!(snapshot.dir, a);
    for (dir, is_shown) in [(Ino::ROOT, false), (a, true), (b, true), (d, false)] {
        assert_eq!(listed(&run, Some(dir)).len(), usize::from(is_shown), "{dir:?}");
    }
    // What is moved away from there is still what it was there; what was not there is not.
    let (from, to) = ((a, b"b".to_vec()), (d, b"b".to_vec()));
    run.posix(PosixOp::Rename { from, to, mode: RenameMode::Replace }).unwrap();
    assert_eq!(listed(&run, Some(b)).len(), 1);
    assert_eq!(past_node(&run, snapshot.id, a, b"b").ino, Some(b));
    run.group.check();
}

#[test]
fn what_a_snapshot_shows_counts_for_no_quota_and_is_copied_without_its_bytes() {
    let mut run = Run::new();
    let bytes = run.bytes(5_000);
    run.group.put(b"a", &bytes, 2, Precondition::None).unwrap();
    let snapshot = take(&mut run, "one", b"").unwrap();
    run.group.delete(&[b"a"]).unwrap();
    let usage = run.group.ask(NamespaceQuery::BucketUsage { bucket: BUCKET }).unwrap();
    assert_eq!(usage, NamespaceAnswer::Usage(Usage::default()));
    let (id, parent) = (snapshot.id, Ino::ROOT);
    let names = vec![b"a".to_vec()];
    let adopt = NamespaceCommand::AdoptPast { bucket: BUCKET, snapshot: id, parent, names };
    run.group.ok(adopt);
    let from = past_node(&run, id, parent, b"a").ino.unwrap();
    run.step(&Op::Make { dir: vec![], name: 1, what: 2, hold: false });
    let root = run.tree.named(0, b"b").unwrap().1;
    let to = run.ino(root);
    let key = run.key();
    let copy = |len| PosixOp::CopyPast {
        snapshot: id,
        from: (from, 1_000),
        to: (to, 0),
        len,
        key: key.clone(),
    };
    assert_eq!(run.posix(copy(u64::MAX)), Ok(PosixDone::Copied(4_000)));
    assert_eq!(run.group.get(b"b", RangeSpec::Full).unwrap().1, bytes[1_000..]);
    // They stay when the snapshot goes.
    drop_one(&mut run, "one").unwrap();
    run.group.free_all();
    assert_eq!(run.group.get(b"b", RangeSpec::Full).unwrap().1, bytes[1_000..]);
    let gone = NamespaceCommand::Posix {
        mount: run.mount,
        writer: run.group.session,
        blocks: vec![],
        ops: vec![copy(1)],
        now: run.now(),
    };
    let refused = NamespaceOk::Posix(vec![Err(NamespaceError::NoSuchSnapshot)]);
    assert_eq!(run.group.ok(gone), refused);
    run.group.check();
}

#[test]
fn many_rows_are_let_go_in_steps() {
    let mut run = Run::new();
    let keys: Vec<Vec<u8>> =
        (0..3_000).map(|at| format!("d{}/k{at}", at % 7).into_bytes()).collect();
    for key in &keys {
        run.group.put(key, b"1", 0, Precondition::None).unwrap();
    }
    let older = take(&mut run, "older", b"").unwrap();
    take(&mut run, "newer", b"").unwrap();
    for key in keys.iter().skip(100) {
        run.group.put(key, b"2", 0, Precondition::None).unwrap();
    }
    drop_one(&mut run, "newer").unwrap();
    let mut steps = 0;
    while rows_of(&run, b's') > 1 {
        let (horizon_ms, now_ms) = (u64::MAX, 9);
        run.group.ok(NamespaceCommand::OutboxExpand { horizon_ms, now_ms });
        run.group.check();
        // The one before shows the same at any time.
        if steps % 4 == 0 {
            let adopt = |run: &mut Run, parent: Ino, name: &[u8]| {
                let (names, snapshot) = (vec![name.to_vec()], older.id);
                run.group.ok(NamespaceCommand::AdoptPast {
                    bucket: BUCKET,
                    snapshot,
                    parent,
                    names,
                });
                past_node(run, older.id, parent, name).ino.unwrap()
            };
            let dir = adopt(&mut run, Ino::ROOT, b"d3");
            let file = adopt(&mut run, dir, b"k2999");
            assert_eq!(past_bytes(&run, older.id, file), b"1");
            let query = PosixQuery::Entries { ino: dir, after: None, limit: 1_000 };
            let Ok(NamespaceAnswer::Entries { entries, more: false }) = past(&run, older.id, query)
            else {
                panic!("no entries")
            };
            assert_eq!(entries.len(), 429);
        }
        steps += 1;
    }
    assert!(steps > 5, "{steps} steps");
    drop_one(&mut run, "older").unwrap();
    run.group.free_all();
    assert_eq!(rows_of(&run, b'h'), 0);
    run.group.check();
}

#[test]
fn deep_keys_change_with_a_snapshot_as_well() {
    let mut run = Run::new();
    let key = b"a/".repeat(511).into_iter().chain(*b"b").collect::<Vec<u8>>();
    run.group.put(&key, b"1", 0, Precondition::None).unwrap();
    let snapshot = take(&mut run, "one", b"").unwrap();
    run.group.delete(&[&key]).unwrap();
    run.group.put(&key, b"2", 0, Precondition::None).unwrap();
    run.group.delete(&[&key]).unwrap();
    let (mut dir, id) = (Ino::ROOT, snapshot.id);
    for name in [b"a"; 511].iter().map(|name| name.to_vec()).chain([b"b".to_vec()]) {
        let (bucket, names) = (BUCKET, vec![name.clone()]);
        run.group.ok(NamespaceCommand::AdoptPast { bucket, snapshot: id, parent: dir, names });
        dir = past_node(&run, id, dir, &name).ino.unwrap();
    }
    assert_eq!(past_bytes(&run, id, dir), b"1");
    run.group.check();
}
