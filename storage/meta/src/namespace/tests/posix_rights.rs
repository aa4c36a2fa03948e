//! Who owns what mounts make, modes and access lists, against rules written down once more.

use proptest::prelude::*;

use super::posix::Run;
use crate::namespace::types::*;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const SET_GROUP: u32 = 0o2000;

/// A list: rights of the owner, perhaps of a named user, of the group, perhaps the mask, of others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    user: u32,
    named: Option<u32>,
    group: u32,
    mask: Option<u32>,
    other: u32,
}

impl List {
    fn bytes(&self) -> Vec<u8> {
        let lines = [
            Some((1u16, self.user, 0u32)),
            self.named.map(|rights| (2, rights, 77)),
            Some((4, self.group, 0)),
            self.mask.map(|rights| (0x10, rights, 0)),
            Some((0x20, self.other, 0)),
        ];
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, rights, id) in lines.into_iter().flatten() {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&(rights as u16).to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    fn mode(&self) -> u32 {
        self.user << 6 | self.mask.unwrap_or(self.group) << 3 | self.other
    }

    fn chmod(&mut self, mode: u32) {
        self.user = mode >> 6 & 7;
        *self.mask.as_mut().unwrap_or(&mut self.group) = mode >> 3 & 7;
        self.other = mode & 7;
    }

    fn is_valid(&self) -> bool {
        self.named.is_none() || self.mask.is_some()
    }

    fn is_plain(&self) -> bool {
        self.named.is_none() && self.mask.is_none()
    }
}

#[derive(Clone, Debug)]
struct Entry {
    ino: Ino,
    is_dir: bool,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    access: Option<List>,
    default: Option<List>,
    times: (Moment, Moment, Moment),
}

#[derive(Clone, Debug)]
enum Op {
    Make {
        parent: usize,
        what: u8,
        mode: u32,
        umask: u32,
        uid: u32,
        gid: u32,
    },
    Set {
        at: usize,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        times: (u8, u8),
        size: bool,
    },
    SetList {
        at: usize,
        is_default: bool,
        list: Option<List>,
    },
}

fn lists() -> impl Strategy<Value = List> {
    let rights = || 0u32..8;
    (rights(), prop::option::of(rights()), rights(), prop::option::of(rights()), rights())
        .prop_map(|(user, named, group, mask, other)| List { user, named, group, mask, other })
}

fn ops() -> impl Strategy<Value = Op> {
    let number = || prop::option::of(0u32..5);
    prop_oneof![
        4 => (0usize..20, 0u8..4, 0u32..0o10000, 0u32..0o1000, 0u32..5, 0u32..5)
            .prop_map(|(parent, what, mode, umask, uid, gid)| {
                Op::Make { parent, what, mode, umask, uid, gid }
            }),
        3 => (0usize..20, prop::option::of(0u32..0o10000), number(), number(), (0u8..3, 0u8..3), any::<bool>())
            .prop_map(|(at, mode, uid, gid, times, size)| {
                Op::Set { at, mode, uid, gid, times, size }
            }),
        4 => (0usize..20, any::<bool>(), prop::option::weighted(0.8, lists()))
            .prop_map(|(at, is_default, list)| Op::SetList { at, is_default, list }),
    ]
}

struct Rights {
    run: Run,
    nodes: Vec<Entry>,
    count: u32,
}

impl Rights {
    fn new() -> Rights {
        let mut run = Run::new();
        // One that a client of S3 made, that nobody has given an owner.
        run.group.put(b"s3", b"bytes", 1, Precondition::None).unwrap();
        let names = vec![b"s3".to_vec()];
        let done = run.posix(PosixOp::Adopt { parent: Ino::ROOT, names }).unwrap();
        let PosixDone::Nodes(mut nodes) = done else { panic!("no nodes") };
        let ino = nodes.remove(0).unwrap().ino.unwrap();
        let nodes = [(Ino::ROOT, true), (ino, false)].map(|(ino, is_dir)| {
            let NamespaceAnswer::Node(node) = run.ask(PosixQuery::Node { ino }) else {
                panic!("no node")
            };
            assert_eq!((node.attrs.mode, node.attrs.uid, node.attrs.gid), (None, None, None));
            let times = (node.attrs.accessed, node.attrs.modified, node.attrs.changed);
            Entry {
                ino,
                is_dir,
                mode: None,
                uid: None,
                gid: None,
                access: None,
                default: None,
                times,
            }
        });
        Rights { run, nodes: nodes.to_vec(), count: 0 }
    }

    fn step(&mut self, op: &Op) {
        let now = self.run.now();
        match op {
            Op::Make { parent, what, mode, umask, uid, gid } => {
                let above = parent % self.nodes.len();
                let parent = self.nodes[above].clone();
                self.count += 1;
                let (ino, name) = (self.run.numbers.pop().unwrap(), format!("n{}", self.count));
                let (is_dir, is_link) = (*what == 0, *what == 1);
                let what = match what {
                    0 => NewNode::Directory,
                    1 => NewNode::Special(Special::Symlink(b"t".to_vec())),
                    2 => NewNode::Special(Special::CharDevice(7)),
                    _ => NewNode::File,
                };
                let maker = Maker { uid: *uid, gid: *gid, mode: *mode, umask: *umask };
                let name = name.into_bytes();
                let make =
                    PosixOp::Make { parent: parent.ino, name, ino, what, maker, hold: false };
                let done = self.run.posix(make);
                if !parent.is_dir {
                    assert_eq!(done, Err(PosixError::NotDirectory));
                    return;
                }
                let from_parent = parent.mode.is_some_and(|mode| mode & SET_GROUP != 0);
                let gid = if from_parent { parent.gid } else { Some(*gid) };
                let mut mode = if is_link { 0o777 } else { *mode };
                if from_parent && is_dir {
                    mode |= SET_GROUP;
                }
                let default = parent.default.clone().filter(|_| !is_link);
                let mut access = None;
                match &default {
                    None if is_link => {}
                    None => mode &= !umask,
                    Some(default) => {
                        let mut list = default.clone();
                        list.chmod(default.mode() & mode);
                        mode = mode & !0o777 | list.mode();
                        access = Some(list).filter(|list| !list.is_plain());
                    }
                }
                let default = default.filter(|_| is_dir);
                let (mode, uid, times) = (Some(mode), Some(*uid), (now, now, now));
                let made = Entry { ino, is_dir, mode, uid, gid, access, default, times };
                let PosixDone::Node(node) = done.unwrap() else { panic!("no node") };
                assert_eq!((node.attrs.mode, node.attrs.gid), (made.mode, made.gid));
                self.nodes.push(made);
                let (accessed, ..) = self.nodes[above].times;
                self.nodes[above].times = (accessed, now, now);
            }
            Op::Set { at, mode, uid, gid, times, size } => {
                let at = at % self.nodes.len();
                let other = Moment { seconds: -7, nanos: 9 };
                let time = |kind| match kind {
                    0 => None,
                    1 => Some(SetTime::Now),
                    _ => Some(SetTime::At(other)),
                };
                let change = AttrsChange {
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    accessed: time(times.0),
                    modified: time(times.1),
                };
                let ino = self.nodes[at].ino;
                let is_resized = *size && at == 1;
                let op = if is_resized {
                    let wrapped = bytes::Bytes::from_static(b"new");
                    let key = WrappedKey { bucket: super::support::BUCKET, version: 1, wrapped };
                    PosixOp::Resize { ino, size: 3, key, change }
                } else {
                    PosixOp::SetAttrs { ino, change }
                };
                self.run.posix(op).unwrap();
                let node = &mut self.nodes[at];
                node.mode = mode.or(node.mode);
                node.uid = uid.or(node.uid);
                node.gid = gid.or(node.gid);
                if let (Some(mode), Some(list)) = (mode, &mut node.access) {
                    list.chmod(*mode);
                }
                let set = |kind, before| match kind {
                    0 => before,
                    1 => now,
                    _ => other,
                };
                let written = if is_resized { now } else { node.times.1 };
                node.times = (set(times.0, node.times.0), set(times.1, written), now);
            }
            Op::SetList { at, is_default, list } => {
                let at = at % self.nodes.len();
                let node = &mut self.nodes[at];
                let name = if *is_default { DEFAULT } else { ACCESS };
                let value = list.as_ref().map(List::bytes);
                let when = XattrWhen::Either;
                let op = PosixOp::SetXattr { ino: node.ino, name: name.to_vec(), value, when };
                let done = self.run.posix(op);
                let there = if *is_default { &mut node.default } else { &mut node.access };
                match list {
                    None if there.is_none() => {
                        assert_eq!(done, Err(PosixError::NoAttribute));
                        return;
                    }
                    Some(list) if !list.is_valid() => {
                        assert_eq!(done, Err(PosixError::Invalid));
                        return;
                    }
                    Some(_) if *is_default && !node.is_dir => {
                        assert_eq!(done, Err(PosixError::Denied));
                        return;
                    }
                    _ => assert_eq!(done, Ok(PosixDone::Done)),
                }
                *there = list.clone();
                if let (Some(list), false) = (list, is_default) {
                    node.mode = Some(node.mode.unwrap_or(0) & !0o777 | list.mode());
                    node.access = Some(list.clone()).filter(|list| !list.is_plain());
                }
                node.times.2 = now;
            }
        }
    }

    fn compare(&self) {
        self.run.group.check();
        for node in &self.nodes {
            let NamespaceAnswer::Node(there) = self.run.ask(PosixQuery::Node { ino: node.ino })
            else {
                panic!("no node")
            };
            let attrs = there.attrs;
            let wanted = Attrs {
                mode: node.mode,
                uid: node.uid,
                gid: node.gid,
                accessed: node.times.0,
                modified: node.times.1,
                changed: node.times.2,
            };
            assert_eq!(attrs, wanted, "{node:?}");
            for (name, list) in [(ACCESS, &node.access), (DEFAULT, &node.default)] {
                let query = PosixQuery::Xattr { ino: node.ino, name: name.to_vec() };
                let query = NamespaceQuery::Posix { bucket: super::support::BUCKET, query };
                match (self.run.group.ask(query), list) {
                    (Ok(NamespaceAnswer::Xattr(value)), Some(list)) => {
                        assert_eq!(value, list.bytes());
                    }
                    (Err(error), None) => assert_eq!(error, PosixError::NoAttribute.into()),
                    (answer, list) => panic!("{answer:?} instead of {list:?}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn owners_modes_and_lists_follow_the_rules(ops in prop::collection::vec(ops(), 1..40)) {
        let mut rights = Rights::new();
        for op in &ops {
            rights.step(op);
        }
        rights.compare();
    }
}
