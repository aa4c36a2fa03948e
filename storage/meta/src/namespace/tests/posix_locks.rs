//! Locks of several mounts on the nodes of one bucket, and what becomes of them when something ends.

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_codec::id::SessionId;
use nexusgrid_env::NodeId;
use proptest::prelude::*;

use super::posix::Run;
use super::support::*;
use crate::namespace::limits;
use crate::namespace::types::*;

const MOUNTS: usize = 2;
const NODES: usize = 2;
const BYTES: u64 = 6;

#[derive(Clone, Debug)]
enum Op {
    Lock {
        mount: usize,
        owner: u64,
        node: usize,
        first: u64,
        last: u64,
        kind: Option<LockKind>,
    },
    UnlockAll {
        mount: usize,
        owner: u64,
        node: usize,
    },
    /// Ends a mount; another takes its place.
    End {
        mount: usize,
    },
    /// The mount's process begins anew.
    Again {
        mount: usize,
    },
    Unlink {
        node: usize,
    },
    Free,
}

fn ops() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        2 => Just(Some(LockKind::Shared)),
        2 => Just(Some(LockKind::Exclusive)),
        2 => Just(None),
    ];
    prop_oneof![
        12 => (0..MOUNTS, 0u64..2, 0..NODES, 0..BYTES, 0..BYTES, kind).prop_map(
            |(mount, owner, node, a, b, kind)| Op::Lock {
                mount, owner, node, first: a.min(b), last: a.max(b), kind
            }
        ),
        1 => (0..MOUNTS, 0u64..2, 0..NODES)
            .prop_map(|(mount, owner, node)| Op::UnlockAll { mount, owner, node }),
        1 => (0..MOUNTS).prop_map(|mount| Op::End { mount }),
        1 => (0..MOUNTS).prop_map(|mount| Op::Again { mount }),
        1 => (0..NODES).prop_map(|node| Op::Unlink { node }),
        1 => Just(Op::Free),
    ]
}

struct Locks {
    run: Run,
    mounts: Vec<MountId>,
    nodes: Vec<Ino>,
    /// By node, byte, mount and owner.
    model: BTreeMap<(usize, u64, usize, u64), LockKind>,
    made: u32,
}

impl Locks {
    fn new() -> Locks {
        let run = Run::new();
        let (mounts, nodes) = (vec![], vec![]);
        let mut locks = Locks { run, mounts, nodes, model: BTreeMap::new(), made: 0 };
        for _ in 0..MOUNTS {
            let mount = locks.open(None);
            locks.mounts.push(mount);
        }
        for _ in 0..NODES {
            let ino = locks.make();
            locks.nodes.push(ino);
        }
        locks
    }

    fn open(&mut self, again: Option<MountId>) -> MountId {
        let (bucket, node, lease_ms, now_ms) = (BUCKET, NodeId(1), 10, 0);
        let command = NamespaceCommand::OpenMount { again, bucket, node, lease_ms, now_ms };
        let NamespaceOk::Mount(row) = self.run.group.ok(command) else { panic!("no mount") };
        row.id
    }

    fn make(&mut self) -> Ino {
        self.made += 1;
        let ino = self.run.numbers.pop().unwrap();
        let make = PosixOp::Make {
            parent: Ino::ROOT,
            name: format!("f{}", self.made).into_bytes(),
            ino,
            what: NewNode::File,
            maker: Maker { uid: 0, gid: 0, mode: 0o600, umask: 0 },
            hold: false,
        };
        self.run.posix(make).unwrap();
        ino
    }

    fn op(&mut self, mount: usize, op: PosixOp) -> Result<PosixDone, NamespaceError> {
        let (mount, writer, now) = (self.mounts[mount], SessionId(0), self.run.now());
        let command = NamespaceCommand::Posix { mount, writer, blocks: vec![], ops: vec![op], now };
        match self.run.group.apply(command)? {
            NamespaceOk::Posix(mut results) => results.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn step(&mut self, op: &Op) {
        match op.clone() {
            Op::Lock { mount, owner, node, first, last, kind } => {
                let range = LockRange { first, last };
                let clashes =
                    |((of, byte, by, whose), there): (&(usize, u64, usize, u64), &LockKind)| {
                        *of == node
                            && (first..=last).contains(byte)
                            && (*by, *whose) != (mount, owner)
                            && (kind == Some(LockKind::Exclusive) || *there == LockKind::Exclusive)
                    };
                let is_free = kind.is_none() || !self.model.iter().any(clashes);
                let ino = self.nodes[node];
                let done = self.op(mount, PosixOp::Lock { ino, owner, pid: 3, range, kind });
                if !is_free {
                    assert_eq!(done, Err(PosixError::Locked.into()));
                    return;
                }
                assert!(matches!(done, Ok(PosixDone::Locks(_))), "{done:?}");
                for byte in first..=last {
                    self.model.remove(&(node, byte, mount, owner));
                    if let Some(kind) = kind {
                        self.model.insert((node, byte, mount, owner), kind);
                    }
                }
            }
            Op::UnlockAll { mount, owner, node } => {
                let ino = self.nodes[node];
                self.op(mount, PosixOp::UnlockAll { ino, owner }).unwrap();
                self.model
                    .retain(|(of, _, by, whose), _| (*of, *by, *whose) != (node, mount, owner));
            }
            Op::End { mount } => {
                let ended = self.mounts[mount];
                self.run.group.ok(NamespaceCommand::CloseMount { mount: ended, now_ms: 1 });
                let now = self.open(Some(ended));
                assert_ne!(now, ended);
                self.mounts[mount] = now;
                self.model.retain(|(_, _, by, _), _| *by != mount);
            }
            Op::Again { mount } => {
                let before = self.mounts[mount];
                assert_eq!(self.open(Some(before)), before);
            }
            Op::Unlink { node } => {
                let at = self.nodes[node];
                let query = PosixQuery::Entries { ino: Ino::ROOT, after: None, limit: 100 };
                let NamespaceAnswer::Entries { entries, .. } = self.run.ask(query) else {
                    panic!("no entries")
                };
                let entry = entries.iter().find(|entry| entry.node.ino == Some(at)).unwrap();
                let name = entry.name.clone();
                self.run.posix(PosixOp::Unlink { parent: Ino::ROOT, name }).unwrap();
                self.nodes[node] = self.make();
                self.model.retain(|(of, ..), _| *of != node);
            }
            Op::Free => self.run.group.free_all(),
        }
    }

    fn compare(&mut self) {
        self.run.group.check();
        for node in 0..NODES {
            for byte in 0..BYTES {
                let there: BTreeSet<(MountId, u64)> = self
                    .model
                    .keys()
                    .filter(|(of, at, ..)| (*of, *at) == (node, byte))
                    .map(|(_, _, mount, owner)| (self.mounts[*mount], *owner))
                    .collect();
                let query = PosixQuery::Conflict {
                    ino: self.nodes[node],
                    mount: MountId(0),
                    owner: 9,
                    range: LockRange { first: byte, last: byte },
                    kind: LockKind::Exclusive,
                };
                let NamespaceAnswer::Conflict(found) = self.run.ask(query) else {
                    panic!("no answer")
                };
                match found {
                    Some(lock) => assert!(there.contains(&(lock.mount, lock.owner)), "{lock:?}"),
                    None => assert!(there.is_empty(), "{there:?}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn locks_hold_among_mounts_until_something_ends(ops in prop::collection::vec(ops(), 1..60)) {
        let mut locks = Locks::new();
        for op in &ops {
            locks.step(op);
            locks.compare();
        }
        for mount in locks.mounts.clone() {
            locks.run.group.ok(NamespaceCommand::CloseMount { mount, now_ms: 1 });
        }
        locks.run.group.free_all();
        locks.run.group.check();
        let left = locks.run.group.store.rows.get("state").map_or(0, |rows| {
            rows.keys().filter(|key| key.starts_with(b"k") || key.starts_with(b"l")).count()
        });
        prop_assert_eq!(left, 0);
    }
}

#[test]
fn locks_of_a_node_are_bounded() {
    let mut locks = Locks::new();
    let ino = locks.nodes[0];
    let lock = |first, last, kind| PosixOp::Lock {
        ino,
        owner: 1,
        pid: 0,
        range: LockRange { first, last },
        kind,
    };
    let shared = Some(LockKind::Shared);
    for at in 0..limits::LOCKS_PER_NODE_MAX as u64 {
        locks.op(0, lock(at * 4, at * 4 + 2, shared)).unwrap();
    }
    let many = Err(PosixError::TooManyLocks.into());
    assert_eq!(locks.op(0, lock(1 << 20, 1 << 20, shared)), many);
    // To give back the middle of one makes two of it.
    assert_eq!(locks.op(0, lock(1, 1, None)), many);
    locks.op(0, lock(0, 2, None)).unwrap();
    locks.op(0, lock(1 << 20, 1 << 20, shared)).unwrap();
    assert_eq!(locks.op(0, lock(2, 1, shared)), Err(PosixError::Invalid.into()));
    locks.run.group.check();
}
