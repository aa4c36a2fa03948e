//! Checks the rows of snapshots: for tests, simulation and `fsck`.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use nexusgrid_env::kv::prefix_end;
use nexusgrid_env::{KvError, KvRead, ScanRange};

use super::super::rows::STATE;
use super::super::types::{BucketId, ContentId, SnapshotId};
use super::keep;
use super::rows::{self as keys, KeptRow, SnapshotRow, SnapshotsRow};
use crate::rows::key::KeyReader;
use crate::rows::tx::decode_row;

/// What contradicts what, and what kept rows refer to.
pub(in super::super) fn check(
    state: &dyn KvRead,
) -> Result<(Vec<String>, Vec<ContentId>), KvError> {
    let scan = |tag: u8| {
        let end = prefix_end(&[tag]);
        state.scan(STATE, &ScanRange { start: vec![tag], end, reverse: false, limit: usize::MAX })
    };
    let bucket_of = |key: &[u8]| {
        let number = key.get(1..).and_then(|rest| KeyReader(rest).u64());
        BucketId(number.unwrap_or_default())
    };
    let mut found = Vec::new();
    let mut counted: BTreeMap<BucketId, (u32, Option<SnapshotId>)> = BTreeMap::new();
    let mut known: BTreeMap<(BucketId, SnapshotId), Vec<u8>> = BTreeMap::new();
    for (key, value) in scan(b's')? {
        let SnapshotRow { snapshot, drop } = decode_row(STATE, &value)?;
        let bucket = bucket_of(&key);
        if key != keys::snapshot(bucket, snapshot.id) {
            found.push(format!("{snapshot:?} at {key:?}"));
        }
        let (count, newest) = counted.entry(bucket).or_default();
        *count += 1;
        if drop.is_none() {
            *newest = Some(snapshot.id);
        }
        let passed = drop.and_then(|drop| drop.after).unwrap_or_default();
        known.insert((bucket, snapshot.id), passed);
    }
    for (key, value) in scan(b'g')? {
        let row: SnapshotsRow = decode_row(STATE, &value)?;
        let there = counted.remove(&bucket_of(&key)).unwrap_or_default();
        if (row.count, row.newest) != there {
            found.push(format!("{there:?} snapshots, counts {row:?}"));
        }
    }
    if !counted.is_empty() {
        found.push(format!("snapshots not counted: {counted:?}"));
    }
    let mut contents = Vec::new();
    for (key, value) in scan(b'h')? {
        let Some((bucket, kind, _, until)) = keys::parse_kept(&key) else {
            found.push(format!("key of a kept row: {key:?}"));
            continue;
        };
        // What a snapshot that is being dropped has left behind it is nobody's.
        if known.get(&(bucket, until)).is_none_or(|passed| key.as_ref() <= passed.as_slice()) {
            found.push(format!("{kind:?} kept for {until:?}, which is gone"));
        }
        let row: KeptRow = decode_row(STATE, &value)?;
        if let Some(value) = row.before {
            contents.extend(keep::content_of(kind, &value)?);
        }
    }
    Ok((found, contents))
}
