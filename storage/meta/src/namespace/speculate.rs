//! What a step will come to, found out by a mount that has its bucket to itself: the same code as the group's, over the
//! rows that the mount knows.
//!
//! Whoever calls this gives rows that may be incomplete: a row that is not known is an error of the store there, which
//! ends the attempt; it is asked for, and the step is tried again. What the group will decide anew in any case is not
//! looked at: sessions, fences and blocks, and counters of the whole group.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::GroupId;
use nexusgrid_env::kv::Change as RowChange;
use nexusgrid_env::{Batch, KvError, KvRead};

use super::machine::{Change, Stop};
use super::posix;
use super::rows::{self, DIR_PREFIX_LEN};
use super::types::{BucketId, DelegatedStep, MountId, NamespaceError, PosixDone, PosixQuery};
use crate::host::Mark;
use crate::host::remember::Noting;
use crate::host::watchers;
use crate::machine::{self, ApplyContext};
use crate::rows::key::KeyReader;
use crate::rows::tx::Tx;

/// Sequences of rows that no command has decided yet begin here: no group gets so far, and whoever compares a file's sequences
/// sees that it changed.
pub const SEQUENCES_FROM: u64 = 1 << 50;

/// What a step will come to.
#[derive(Debug)]
pub struct Outcome {
    /// What whoever asked for it hears.
    pub done: Result<PosixDone, NamespaceError>,
    /// Rows that it changes and that later steps or questions may read.
    pub changes: Batch,
    /// Which rows it changes in all: a command may change so many only.
    pub marks: Vec<Mark>,
    /// How many of the ids that it was given it did not need: the last ones.
    pub ids_left: usize,
}

/// Finds out what a step will come to. `sequence`: at least [`SEQUENCES_FROM`], another for each step.
pub fn step(
    known: &dyn KvRead,
    (group, sequence): (GroupId, u64),
    (mount, bucket): (MountId, BucketId),
    step: DelegatedStep,
) -> Result<Outcome, KvError> {
    let mut change = Change::new(known, &ApplyContext { index: sequence, group });
    change.is_speculative = true;
    let done = match change.step(mount, bucket, step) {
        Ok(done) => Ok(done),
        Err(Stop::Refuse(error)) => Err(error),
        Err(Stop::Store(error)) => return Err(error),
    };
    let ids_left = change.given_ids.take().map_or(0, |ids| ids.len());
    let mut changes = change.tx.into_batch();
    if done.is_err() {
        changes = Batch::default();
    }
    let marks = watchers::marks(&changes.changes).unwrap_or_default();
    changes.changes.retain(|change| match change {
        RowChange::Put(family, key, _) | RowChange::Delete(family, key) => matters(family, key),
        RowChange::DeleteRange(..) => true,
    });
    Ok(Outcome { done, changes, marks, ids_left })
}

/// Answers a mount's question; as the group would, encoded.
pub fn ask(known: &dyn KvRead, bucket: BucketId, query: PosixQuery) -> Result<Vec<u8>, KvError> {
    machine::answered(posix::answer(&Tx::new(known), bucket, query))
}

/// Likewise; gives the rows that the answer rests on, and that the bucket is the mount's, if it may be remembered.
pub fn ask_noting(
    known: &dyn KvRead,
    bucket: BucketId,
    query: PosixQuery,
) -> Result<(Vec<u8>, Option<Vec<Mark>>), KvError> {
    let Some(rests_on) = posix::may_be_remembered(bucket, query.clone()) else {
        return Ok((ask(known, bucket, query)?, None));
    };
    let noting = Noting::new(known, &rests_on);
    let answer = ask(&noting, bucket, query)?;
    let marks = noting.marks().map(|mut marks| {
        marks.push(delegation_mark(bucket));
        marks
    });
    Ok((answer, marks))
}

/// The row that says that a bucket is a mount's alone.
pub fn delegation_mark(bucket: BucketId) -> Mark {
    watchers::mark(rows::STATE, &posix::rows::delegation(bucket))
}

/// Whether mounts read such rows: what waits to be freed, and what is counted of the whole group, they do not.
fn matters(family: &str, key: &[u8]) -> bool {
    match family {
        rows::STATE => !matches!(key.first(), Some(b'O' | b'M' | b'C' | b'D' | b'R' | b'W')),
        rows::CONTENT => !matches!(key.first(), Some(b'b')),
        _ => true,
    }
}

/// The directory, node or content that a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerOf {
    /// The id that it was made under.
    pub id: u64,
    /// As many bytes of the key are the same for all of its rows of this kind.
    pub key_len: usize,
}

/// The directory, node or content that a row belongs to: while nobody has heard of its id there is no such row. `None`:
/// it belongs to none. Also of what a row's key begins with, if that names it.
pub fn owner(family: &str, key: &[u8]) -> Option<OwnerOf> {
    let skipped = match (family, key.first()) {
        (rows::TREE, _) => DIR_PREFIX_LEN - 8,
        (rows::INLINE, _) => 0,
        (rows::CONTENT, Some(b'c' | b'e' | b't')) => 1,
        (rows::STATE, Some(b'J' | b'X' | b'Q' | b'l' | b'v')) => 9,
        (rows::STATE, Some(b'H' | b'k')) => 17,
        _ => return None,
    };
    let id = KeyReader(key.get(skipped..)?).u64()?;
    Some(OwnerOf { id, key_len: skipped + 8 })
}
