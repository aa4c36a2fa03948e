//! Checks the rows of mounts against each other: for tests, simulation and `fsck`.
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_env::kv::prefix_end;
use nexusgrid_env::{KvError, KvRead, ScanRange};

use super::super::rows::{self, ContentKind, ContentRow, OutboxRow, Released};
use super::super::types::{BucketId, ContentId, Ino, Mount, MountId};
use super::rows::{self as own, CutRow, LocksRow};
use crate::rows::key::KeyReader;
use crate::rows::tx::decode_row;

/// A node, in any bucket.
pub(in super::super) type Known = (BucketId, Ino);

fn scan(state: &dyn KvRead, tag: u8) -> Result<Vec<nexusgrid_env::kv::Row>, KvError> {
    let range =
        ScanRange { start: vec![tag], end: prefix_end(&[tag]), reverse: false, limit: usize::MAX };
    state.scan(rows::STATE, &range)
}

fn node_of(key: &[u8]) -> Option<Known> {
    let mut reader = KeyReader(key.get(1..)?);
    Some((BucketId(reader.u64()?), Ino(reader.u64()?)))
}

/// Nodes that are gone, and whose rows wait to be cleared away.
pub(in super::super) fn gone(state: &dyn KvRead) -> Result<BTreeSet<Known>, KvError> {
    let mut gone = BTreeSet::new();
    for (_, value) in scan(state, b'O')? {
        let row: OutboxRow = decode_row(rows::STATE, &value)?;
        if let Released::Nodes(bucket, nodes) = row.what {
            gone.extend(nodes.into_iter().map(|ino| (bucket, ino)));
        }
    }
    Ok(gone)
}

/// What contradicts what, of ends that files have lost and contents have not yet.
pub(in super::super) fn cuts(
    state: &dyn KvRead,
    contents: &BTreeMap<ContentId, ContentRow>,
) -> Result<Vec<String>, KvError> {
    let mut waiting = BTreeSet::new();
    for (_, value) in scan(state, b'O')? {
        let row: OutboxRow = decode_row(rows::STATE, &value)?;
        if let Released::End(content) = row.what {
            waiting.insert((content, row.sequence));
        }
    }
    let start = own::cuts();
    let range = ScanRange { end: prefix_end(&start), start, reverse: false, limit: usize::MAX };
    let mut found = Vec::new();
    for (key, value) in state.scan(rows::CONTENT, &range)? {
        let content = ContentId(KeyReader(key.get(1..).unwrap_or_default()).u64().unwrap_or(0));
        let CutRow { sequence, from } = decode_row(rows::CONTENT, &value)?;
        let row = contents.get(&content);
        let is_file =
            row.is_some_and(|row| matches!(row.kind, ContentKind::File { .. }) && from < row.size);
        if !is_file || !waiting.contains(&(content, sequence)) {
            found.push(format!("{content:?} is cut at {from} by {sequence}: {row:?}"));
        }
    }
    Ok(found)
}

/// What contradicts what, of attributes and locks of nodes; `nodes` have numbers.
pub(in super::super) fn contradictions(
    state: &dyn KvRead,
    nodes: &BTreeSet<Known>,
) -> Result<Vec<String>, KvError> {
    let mut found = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    let gone = gone(state)?;
    let is_known = |node: &Known| nodes.contains(node) || gone.contains(node);
    for (key, _) in scan(state, b'X')? {
        let node = node_of(&key);
        expect(node.is_some_and(|node| is_known(&node)), format!("an attribute of {node:?}"));
    }
    for (key, _) in scan(state, b'v')? {
        let node = node_of(&key);
        let is_held = node.is_some_and(|(bucket, ino)| {
            let start = own::holders(bucket, ino);
            let range = ScanRange { end: prefix_end(&start), start, reverse: false, limit: 1 };
            state.scan(rows::STATE, &range).is_ok_and(|holders| !holders.is_empty())
        });
        expect(is_held, format!("a draft of {node:?}, which nobody holds"));
    }
    let mut mounts: BTreeMap<MountId, (Mount, u32)> = BTreeMap::new();
    for (_, value) in scan(state, b'Z')? {
        let mount: Mount = decode_row(rows::STATE, &value)?;
        mounts.insert(mount.id, (mount, 0));
    }
    let mut lockers: BTreeSet<(MountId, BucketId, Ino)> =
        scan(state, b'k')?.iter().filter_map(|(key, _)| own::parse_hold(key)).collect();
    for (key, value) in scan(state, b'l')? {
        let Some(node) = node_of(&key) else {
            expect(false, format!("key of locks: {key:?}"));
            continue;
        };
        let LocksRow { locks, .. } = decode_row(rows::STATE, &value)?;
        expect(is_known(&node) && !locks.is_empty(), format!("locks on {node:?}"));
        expect(locks.is_sorted(), format!("locks on {node:?} in order"));
        let mut here = BTreeSet::new();
        for (at, lock) in locks.iter().enumerate() {
            let clash = locks.iter().skip(at + 1).any(|other| {
                let is_same = (lock.mount, lock.owner) == (other.mount, other.owner);
                is_same && lock.range.overlaps(other.range)
            });
            expect(!clash && lock.range.first <= lock.range.last, format!("{lock:?} on {node:?}"));
            if let Some((_, count)) = mounts.get_mut(&lock.mount) {
                *count += 1;
            }
            here.insert((lock.mount, node.0, node.1));
        }
        for locker in here {
            expect(lockers.remove(&locker), format!("{locker:?} is not to be found"));
        }
    }
    for locker in lockers {
        // One of a mount that has ended is cleared away with what else it had.
        expect(!mounts.contains_key(&locker.0), format!("{locker:?} has no lock there"));
    }
    for (mount, count) in mounts.into_values() {
        expect(mount.locks == count, format!("{mount:?} has {count} locks"));
    }
    Ok(found)
}
