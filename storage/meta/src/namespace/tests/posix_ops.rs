//! What mounts and clients of S3 do to a tree, drawn by lot.

use proptest::prelude::*;

pub(super) const NAMES: &[&[u8]] = &[b"a", b"b", b"c", b"n0"];
/// Keys of S3, some of which no path of POSIX can say.
pub(super) const KEYS: &[&[u8]] =
    &[b"a", b"a/b", b"a/b/c", b"b/a", b"c//a", b"a/", b"b/..", b"n0/a/b", b"."];

#[derive(Clone, Debug)]
pub(super) enum Op {
    Make {
        dir: Vec<usize>,
        name: usize,
        what: u8,
        hold: bool,
    },
    Unlink {
        dir: Vec<usize>,
        name: usize,
    },
    Rmdir {
        dir: Vec<usize>,
        name: usize,
    },
    Rename {
        from: (Vec<usize>, usize),
        to: (Vec<usize>, usize),
        mode: u8,
    },
    Link {
        of: (Vec<usize>, usize),
        to: (Vec<usize>, usize),
    },
    Write {
        dir: Vec<usize>,
        name: usize,
        at: usize,
        len: usize,
        blocks: usize,
        append: bool,
    },
    CopyRange {
        from: (Vec<usize>, usize),
        at: usize,
        to: (Vec<usize>, usize),
        to_at: usize,
        len: usize,
    },
    Replace {
        dir: Vec<usize>,
        name: usize,
        len: usize,
        blocks: usize,
    },
    Resize {
        dir: Vec<usize>,
        name: usize,
        size: usize,
    },
    Punch {
        dir: Vec<usize>,
        name: usize,
        at: usize,
        len: usize,
    },
    Mode {
        dir: Vec<usize>,
        name: usize,
        mode: u32,
    },
    Xattr {
        dir: Vec<usize>,
        name: usize,
        xattr: u8,
        set: bool,
        when: u8,
    },
    Hold {
        dir: Vec<usize>,
        name: usize,
    },
    ReleaseAll,
    NewMount,
    Put {
        key: usize,
        len: usize,
        blocks: usize,
    },
    Delete {
        key: usize,
    },
    Copy {
        from: usize,
        to: usize,
    },
    Free,
}

pub(super) fn ops() -> impl Strategy<Value = Op> {
    let dir = || prop::collection::vec(0..NAMES.len(), 0..3);
    let name = || 0..NAMES.len();
    let path = || (prop::collection::vec(0..NAMES.len(), 0..3), 0..NAMES.len());
    let key = || 0..KEYS.len();
    prop_oneof![
        8 => (dir(), name(), 0u8..4, any::<bool>())
            .prop_map(|(dir, name, what, hold)| Op::Make { dir, name, what, hold }),
        4 => (dir(), name()).prop_map(|(dir, name)| Op::Unlink { dir, name }),
        3 => (dir(), name()).prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        6 => (path(), path(), 0u8..3).prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
        3 => (path(), path()).prop_map(|(of, to)| Op::Link { of, to }),
        8 => (dir(), name(), 0usize..300, 1usize..60, 1usize..4, any::<bool>())
            .prop_map(|(dir, name, at, len, blocks, append)| {
                Op::Write { dir, name, at, len, blocks, append }
            }),
        2 => (path(), 0usize..200, path(), 0usize..200, 1usize..100)
            .prop_map(|(from, at, to, to_at, len)| Op::CopyRange { from, at, to, to_at, len }),
        2 => (dir(), name(), 0usize..60, 0usize..3)
            .prop_map(|(dir, name, len, blocks)| Op::Replace { dir, name, len, blocks }),
        4 => (dir(), name(), 0usize..300).prop_map(|(dir, name, size)| Op::Resize { dir, name, size }),
        2 => (dir(), name(), 0usize..300, 1usize..60)
            .prop_map(|(dir, name, at, len)| Op::Punch { dir, name, at, len }),
        2 => (dir(), name(), 0u32..0o1000).prop_map(|(dir, name, mode)| Op::Mode { dir, name, mode }),
        2 => (dir(), name(), 0u8..3, any::<bool>(), 0u8..3)
            .prop_map(|(dir, name, xattr, set, when)| Op::Xattr { dir, name, xattr, set, when }),
        2 => (dir(), name()).prop_map(|(dir, name)| Op::Hold { dir, name }),
        1 => Just(Op::ReleaseAll),
        1 => Just(Op::NewMount),
        6 => (key(), 0usize..40, 0usize..3)
            .prop_map(|(key, len, blocks)| Op::Put { key, len, blocks }),
        3 => key().prop_map(|key| Op::Delete { key }),
        2 => (key(), key()).prop_map(|(from, to)| Op::Copy { from, to }),
        2 => Just(Op::Free),
    ]
}
