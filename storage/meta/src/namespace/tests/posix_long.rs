//! Files of many pieces, and rows that cannot be read: what is long ends, and what is bad stops nothing.

use proptest::prelude::*;

use super::posix::Run;
use super::support::*;
use crate::namespace::posix::rows as own;
use crate::namespace::rows;
use crate::namespace::types::*;
use crate::rows::memory::Memory;

fn make(run: &mut Run, parent: Ino, name: &[u8], what: NewNode) -> Result<Node, PosixError> {
    let ino = run.numbers.pop().unwrap();
    let maker = Maker { uid: 7, gid: 8, mode: 0o666, umask: 0o027 };
    let name = name.to_vec();
    match run.posix(PosixOp::Make { parent, name, ino, what, maker, hold: false })? {
        PosixDone::Node(node) => Ok(*node),
        done => panic!("{done:?}"),
    }
}

fn put_row(store: &mut Memory, key: Vec<u8>, value: &[u8]) {
    store.rows.entry(rows::STATE).or_default().insert(key, bytes::Bytes::copy_from_slice(value));
}

#[test]
fn an_access_list_that_cannot_be_read_is_none() {
    let mut run = Run::new();
    let dir = make(&mut run, Ino::ROOT, b"d", NewNode::Directory).unwrap().ino.unwrap();
    let file = make(&mut run, dir, b"f", NewNode::File).unwrap().ino.unwrap();
    let access = own::xattr(BUCKET, file, b"system.posix_acl_access");
    let default = own::xattr(BUCKET, dir, b"system.posix_acl_default");
    put_row(&mut run.group.store, access, b"junk");
    put_row(&mut run.group.store, default, b"\x02\0\0\0junk");
    let change = AttrsChange { mode: Some(0o600), ..AttrsChange::default() };
    run.posix(PosixOp::SetAttrs { ino: file, change }).unwrap();
    let made = make(&mut run, dir, b"g", NewNode::File).unwrap();
    assert_eq!(made.attrs.mode, Some(0o640), "the umask counts");
    let sub = make(&mut run, dir, b"s", NewNode::Directory).unwrap().ino.unwrap();
    let NamespaceAnswer::Xattrs(names) = run.ask(PosixQuery::Xattrs { ino: sub }) else {
        panic!("no names")
    };
    assert!(names.is_empty(), "{names:?}");
    run.group.check();
}

/// A file of pieces of so many other files, one byte each, and what is to be read of it.
fn pieces(run: &mut Run, count: usize) -> (Ino, Vec<u8>) {
    let target = make(run, Ino::ROOT, b"pieces", NewNode::File).unwrap().ino.unwrap();
    let mut bytes = Vec::new();
    for at in 0..count {
        let name = format!("p{at}").into_bytes();
        let byte = at as u8 | 1;
        run.group.put(&name, &[byte; 3], 1, Precondition::None).unwrap();
        let PosixDone::Nodes(nodes) =
            run.posix(PosixOp::Adopt { parent: Ino::ROOT, names: vec![name] }).unwrap()
        else {
            panic!("no nodes")
        };
        let from = (nodes[0].as_ref().unwrap().ino.unwrap(), 1);
        let (to, key) = ((target, at as u64), key());
        run.posix(PosixOp::CopyRange { from, to, len: 1, key }).unwrap();
        bytes.push(byte);
    }
    (target, bytes)
}

fn key() -> WrappedKey {
    WrappedKey { bucket: BUCKET, version: 1, wrapped: bytes::Bytes::from_static(b"k") }
}

fn there(run: &Run) -> Vec<u8> {
    run.group.get(b"pieces", RangeSpec::Full).unwrap().1
}

fn resize(run: &mut Run, ino: Ino, size: usize) -> Result<PosixDone, PosixError> {
    let (size, key, change) = (size as u64, key(), AttrsChange::default());
    run.posix(PosixOp::Resize { ino, size, key, change })
}

fn cuts(run: &Run) -> usize {
    run.group.store.rows["content"].keys().filter(|key| key.starts_with(b"t")).count()
}

#[test]
fn a_file_of_a_thousand_copied_pieces_is_cut() {
    let mut run = Run::new();
    let (ino, mut bytes) = pieces(&mut run, 1_000);
    run.group.check();
    assert_eq!(there(&run), bytes);
    for size in [700, 10] {
        resize(&mut run, ino, size).unwrap();
        bytes.truncate(size);
        run.group.check();
        assert_eq!((there(&run), cuts(&run)), (bytes.clone(), 1));
    }
    run.group.free_all();
    run.group.check();
    assert_eq!((there(&run), cuts(&run)), (bytes.clone(), 0));
    let pages = run.group.store.rows["content"].keys().filter(|key| key.starts_with(b"e")).count();
    assert_eq!(pages, 1_001, "one of the file, one of each source");
    resize(&mut run, ino, 20).unwrap();
    bytes.resize(20, 0);
    assert_eq!(there(&run), bytes);
    run.group.check();
}

#[test]
fn a_hole_in_a_thousand_pieces_is_made_by_rounds_that_end() {
    let mut run = Run::new();
    let (ino, mut bytes) = pieces(&mut run, 1_000);
    let (mut at, end) = (5, 990);
    let mut rounds = 0;
    while at < end {
        let (offset, len, key) = (at, end - at, key());
        let done = run.posix(PosixOp::Clear { ino, offset, len, key }).unwrap();
        let PosixDone::Copied(len) = done else { panic!("{done:?}") };
        assert!(len > 0);
        bytes[at as usize..(at + len) as usize].fill(0);
        at += len;
        rounds += 1;
        run.group.check();
        assert_eq!(there(&run), bytes);
    }
    assert!((2..20).contains(&rounds), "{rounds}");
    let behind = PosixOp::Clear { ino, offset: 2_000, len: 7, key: key() };
    assert_eq!(run.posix(behind), Ok(PosixDone::Copied(7)));
    let none = PosixOp::Clear { ino, offset: 5, len: 0, key: key() };
    assert_eq!(run.posix(none), Err(PosixError::Invalid));
}

#[test]
fn who_lengthens_cuts_nothing() {
    let mut run = Run::new();
    let (ino, mut bytes) = pieces(&mut run, 3);
    for (size, then) in [(2, 3), (3, 3), (5, 5), (4, 5)] {
        let done = run.posix(PosixOp::Lengthen { ino, size, key: key() }).unwrap();
        let PosixDone::Node(node) = done else { panic!("{done:?}") };
        assert!(matches!(node.kind, NodeKind::File { size, .. } if size == then), "{node:?}");
        bytes.resize(then as usize, 0);
        assert_eq!(there(&run), bytes);
    }
    run.group.check();
}

#[test]
fn bytes_are_spread_with_holes_between() {
    let mut run = Run::new();
    let (ino, _) = pieces(&mut run, 3);
    for (len, blocks) in [(6, 2), (6, 0), (0, 0)] {
        let (made, content) = run.group.content(&b"abcdef"[..len], blocks);
        let runs = if len == 0 { vec![] } else { vec![(2, 1), (7, 5)] };
        let over = sequence(&run, ino);
        let spread = |runs: Vec<(u64, u64)>, size, over| PosixOp::Spread {
            ino,
            content: content.clone(),
            runs,
            size,
            over,
        };
        let stale = spread(runs.clone(), 20, over - 1);
        assert_eq!(run.posix(stale), Err(PosixError::OtherKey));
        for (bad, size) in
            [(vec![(2, 1), (7, 4)], 20), (vec![(2, 2), (3, 4)], 20), (runs.clone(), 5)]
        {
            if len > 0 {
                let (mount, writer, now) = (run.mount, run.group.session, run.now());
                let (ops, blocks) = (vec![spread(bad, size, over)], vec![]);
                let command = NamespaceCommand::Posix { mount, writer, blocks, ops, now };
                let NamespaceOk::Posix(done) = run.group.ok(command) else { panic!("no results") };
                assert!(matches!(done[..], [Err(NamespaceError::Malformed(_))]), "{done:?}");
            }
        }
        run.posix_with(made, spread(runs, 20, over)).unwrap();
        let wanted: &[u8] = if len == 0 { &[0; 20] } else { b"\0\0a\0\0\0\0bcdef\0\0\0\0\0\0\0\0" };
        assert_eq!(there(&run), wanted);
        run.group.free_all();
        run.group.check();
    }
}

fn sequence(run: &Run, ino: Ino) -> u64 {
    match run.ask(PosixQuery::Node { ino }) {
        NamespaceAnswer::Node(node) => match node.kind {
            NodeKind::File { sequence, .. } => sequence,
            kind => panic!("{kind:?}"),
        },
        answer => panic!("{answer:?}"),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Resize(usize),
    Lengthen(usize),
    Clear(usize, usize),
    Append,
    /// Of its own bytes to its beginning.
    Copy(usize),
    /// By S3, to another key; or that goes.
    Twin(bool),
    /// One step of freeing.
    Free,
}

fn steps() -> impl Strategy<Value = Step> {
    let len = 400usize;
    prop_oneof![
        4 => (1..len).prop_map(Step::Resize),
        1 => (1..len).prop_map(Step::Lengthen),
        1 => (0..len, 1..len).prop_map(|(at, len)| Step::Clear(at, len)),
        1 => Just(Step::Append),
        1 => (20..len).prop_map(Step::Copy),
        1 => any::<bool>().prop_map(Step::Twin),
        3 => Just(Step::Free),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn long_ends_go_in_time_and_nothing_else_does(
        steps in prop::collection::vec(prop::collection::vec(steps(), 1..12), 1..3)
    ) {
        let mut run = Run::new();
        let (ino, bytes) = pieces(&mut run, 300);
        let base = run.group.clone();
        for steps in steps {
            run.group = base.clone();
            let mut bytes = bytes.clone();
            let mut twin = None;
            for step in steps {
                let size = bytes.len();
                let done = match step {
                    Step::Resize(to) => resize(&mut run, ino, to).map(|_| bytes.resize(to, 0)),
                    Step::Lengthen(to) => {
                        let op = PosixOp::Lengthen { ino, size: to as u64, key: key() };
                        run.posix(op).map(|_| bytes.resize(to.max(size), 0))
                    }
                    Step::Clear(at, len) => {
                        let (offset, len) = (at as u64, len as u64);
                        run.posix(PosixOp::Clear { ino, offset, len, key: key() }).map(|done| {
                            let PosixDone::Copied(len) = done else { panic!("{done:?}") };
                            bytes.iter_mut().skip(at).take(len as usize).for_each(|byte| *byte = 0);
                        })
                    }
                    Step::Append => append(&mut run, ino).map(|new| bytes.extend(new)),
                    Step::Copy(from) => {
                        let (from, to) = ((ino, from as u64), (ino, 0));
                        let op = PosixOp::CopyRange { from, to, len: 20, key: key() };
                        run.posix(op).map(|done| {
                            let PosixDone::Copied(len) = done else { panic!("{done:?}") };
                            let from = from.1 as usize;
                            if len > 0 {
                                bytes.copy_within(from..from + len as usize, 0);
                            }
                        })
                    }
                    Step::Twin(true) => {
                        let (object, _) = run.group.get(b"pieces", RangeSpec::Full).unwrap();
                        run.group.ok(NamespaceCommand::Link {
                            session: run.group.session,
                            source: (BUCKET, b"pieces".to_vec()),
                            source_content: object.content,
                            target: (BUCKET, b"twin".to_vec()),
                            precondition: Precondition::None,
                            meta: object.meta,
                            now_ms: run.group.store.index,
                        });
                        twin = Some(bytes.clone());
                        Ok(())
                    }
                    Step::Twin(false) => {
                        run.group.delete(&[b"twin"]).unwrap();
                        twin = None;
                        Ok(())
                    }
                    Step::Free => {
                        run.group.ok(NamespaceCommand::OutboxExpand {
                            horizon_ms: u64::MAX,
                            now_ms: 9,
                        });
                        Ok(())
                    }
                };
                prop_assert!(matches!(done, Ok(()) | Err(PosixError::ReplaceInstead)), "{:?}", done);
                run.group.check();
                prop_assert_eq!(&there(&run), &bytes);
                let there = run.group.get(b"twin", RangeSpec::Full).ok().map(|got| got.1);
                prop_assert_eq!(&there, &twin);
            }
            run.group.free_all();
            run.group.check();
            prop_assert_eq!(&there(&run), &bytes);
            prop_assert_eq!(cuts(&run), 0);
        }
    }
}

fn append(run: &mut Run, ino: Ino) -> Result<Vec<u8>, PosixError> {
    let answer = run.ask(PosixQuery::Map { ino, offset: 0, len: 0 });
    let NamespaceAnswer::FileMap { key: own, .. } = answer else { panic!("no map") };
    let (blocks, content) = run.group.content(b"new", 1);
    let ContentBody::Extents(extents) = content.body else { panic!("no extents") };
    let (is_new_key, key) = (own.is_none(), own.unwrap_or_else(|| other_key(run)));
    run.posix_with(blocks, PosixOp::Append { ino, key, is_new_key, extents })?;
    Ok(b"new".to_vec())
}

fn other_key(run: &Run) -> WrappedKey {
    let wrapped = bytes::Bytes::copy_from_slice(&run.group.store.index.to_be_bytes());
    WrappedKey { bucket: BUCKET, version: 1, wrapped }
}
