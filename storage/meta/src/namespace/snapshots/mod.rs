//! Snapshots: what a bucket was at one moment, for as long as somebody wants it.
//!
//! Taking one writes a row. From then on a row of names, nodes or extended attributes that is about to change is kept as
//! it was, once for each snapshot that shows it ([`keep`]); bytes are shared, and whoever writes into a file that a
//! snapshot shows writes beside them ([`super::posix`]). Whoever looks at a snapshot reads the rows of now, and where
//! something is kept of one since, that instead ([`past`]).
//!
//! ```text
//!   snapshots       1         2      now          a row at 1: kept until 1, or else until 2, or else the row of now
//!   row  v1 ────────┼─ v2 ─ v3┼─ v4
//!   kept            v1        v3
//! ```
//! Dropping a snapshot gives what was kept for it to the one before, if that shows the same, and else lets it go: the
//! outbox does it in bounded steps.
//!
//! What gives a number to what clients of S3 made is no change: a snapshot shows it with the number.
#![deny(clippy::indexing_slicing)]

pub(super) mod audit;
pub(super) mod keep;
pub mod past;
pub mod rows;

use std::collections::BTreeSet;

use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::{Change, Step, corrupt};
use super::posix::inodes;
use super::posix::rows::Place;
use super::rows::{Dentry, DirId, Released, STATE, TREE};
use super::types::{
    Attrs, BucketId, Ino, Moment, NamespaceError, NamespaceOk, Node, PosixDone, PosixError,
    Snapshot, SnapshotId,
};
use super::{posix, rows as tree_rows, tree, versions};
use crate::rows::codec;
use crate::rows::tx::{Tx, decode_row};
use past::Past;
use rows::{self as keys, Drop, KeptRow, Kind, SnapshotRow};

/// A bucket's snapshots in order, with those that are being dropped.
fn all(tx: &Tx<'_>, bucket: BucketId) -> Step<Vec<SnapshotRow>> {
    let prefix = keys::all(bucket);
    let end = prefix_end(&prefix);
    let found = tx.scan(STATE, &prefix, end.as_deref(), limits::SNAPSHOTS_MAX)?;
    Ok(found.iter().map(|(_, value)| decode_row(STATE, value)).collect::<Result<_, _>>()?)
}

/// A bucket's snapshots, oldest first. `of`: only those that show this directory.
pub(super) fn list(tx: &Tx<'_>, bucket: BucketId, of: Option<Ino>) -> Step<Vec<Snapshot>> {
    versions::live(tx, bucket)?;
    let mut found = Vec::new();
    for row in all(tx, bucket)?.into_iter().filter(|row| row.drop.is_none()) {
        let is_shown = match of {
            None => true,
            Some(dir) => past::shows(tx, bucket, &row.snapshot, dir)?,
        };
        if is_shown {
            found.push(row.snapshot);
        }
    }
    Ok(found)
}

/// A snapshot that is not being dropped.
fn live(tx: &Tx<'_>, bucket: BucketId, id: SnapshotId) -> Step<Snapshot> {
    let row: Option<SnapshotRow> = tx.load(STATE, &keys::snapshot(bucket, id))?;
    match row {
        Some(SnapshotRow { snapshot, drop: None }) => Ok(snapshot),
        _ => Err(NamespaceError::NoSuchSnapshot.into()),
    }
}

/// Whether a bucket has any.
pub(super) fn has_any(tx: &Tx<'_>, bucket: BucketId) -> Step<bool> {
    Ok(keep::of(tx, bucket)?.count > 0)
}

fn check_name(name: &str) -> Result<(), NamespaceError> {
    let is_named = (1..=limits::SNAPSHOT_NAME_BYTES_MAX).contains(&name.len())
        && !name.contains('/')
        && !name.contains(char::is_control)
        && name != "."
        && name != "..";
    if is_named { Ok(()) } else { Err(NamespaceError::InvalidSnapshotName) }
}

/// The directory that the beginning of keys leads to.
fn dir_of(tx: &Tx<'_>, bucket: BucketId, path: &[u8]) -> Step<DirId> {
    let (components, rest) = tree::split_key(path);
    if !rest.is_empty() || path.len() > limits::KEY_BYTES_MAX {
        return Err(PosixError::NotDirectory.into());
    }
    let mut dir = DirId::ROOT;
    for name in components {
        let found: Option<Dentry> = tx.load(TREE, &tree_rows::dentry(bucket, dir, name))?;
        let row = found.and_then(|dentry| dentry.dir()).ok_or(PosixError::NotFound)?;
        dir = row.id;
    }
    Ok(dir)
}

impl Change<'_> {
    /// Takes a snapshot.
    pub(super) fn take_snapshot(
        &mut self,
        bucket: BucketId,
        name: String,
        path: Vec<u8>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.bucket(bucket)?;
        check_name(&name)?;
        let dir = Ino(dir_of(&self.tx, bucket, &path)?.0);
        let mut row = keep::of(&self.tx, bucket)?;
        let others = all(&self.tx, bucket)?;
        if others.iter().any(|other| other.drop.is_none() && other.snapshot.name == name) {
            return Err(NamespaceError::SnapshotExists.into());
        }
        if others.len() >= limits::SNAPSHOTS_MAX {
            return Err(NamespaceError::TooManySnapshots.into());
        }
        let used: BTreeSet<u16> = others.iter().map(|other| other.snapshot.number).collect();
        let after = row.number.saturating_add(1)..=limits::SNAPSHOT_NUMBERS;
        let number =
            after.chain(1..=limits::SNAPSHOT_NUMBERS).find(|number| !used.contains(number));
        let number = number.ok_or(NamespaceError::TooManySnapshots)?;
        let id = SnapshotId(self.sequence);
        let snapshot = Snapshot { id, name, number, dir, path, taken_ms: now_ms };
        row.sequence = self.sequence;
        row.newest = Some(id);
        row.number = number;
        row.count += 1;
        self.tx.store(STATE, keys::snapshots(bucket), &row);
        let taken = SnapshotRow { snapshot: snapshot.clone(), drop: None };
        self.tx.store(STATE, keys::snapshot(bucket, id), &taken);
        Ok(NamespaceOk::Snapshot(Box::new(snapshot)))
    }

    /// Drops a snapshot; what it kept goes in time.
    pub(super) fn drop_snapshot(
        &mut self,
        bucket: BucketId,
        name: &str,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.bucket(bucket)?;
        let mut left = all(&self.tx, bucket)?;
        left.retain(|row| row.drop.is_none());
        let at = left.iter().position(|row| row.snapshot.name == name);
        let gone = left.remove(at.ok_or(NamespaceError::NoSuchSnapshot)?);
        let id = gone.snapshot.id;
        let gone = SnapshotRow { drop: Some(Drop::default()), ..gone };
        self.tx.store(STATE, keys::snapshot(bucket, id), &gone);
        let mut row = keep::of(&self.tx, bucket)?;
        row.sequence = self.sequence;
        row.newest = left.last().map(|row| row.snapshot.id);
        self.tx.store(STATE, keys::snapshots(bucket), &row);
        self.release(Released::Snapshot(bucket, id), now_ms);
        Ok(NamespaceOk::Done)
    }

    /// Lets go what was kept for a snapshot, as much as this step may; whether that is all.
    pub(super) fn expand_snapshot(
        &mut self,
        bucket: BucketId,
        id: SnapshotId,
        now_ms: u64,
    ) -> Step<bool> {
        let own = keys::snapshot(bucket, id);
        let row: Option<SnapshotRow> = self.tx.load(STATE, &own)?;
        let Some(SnapshotRow { snapshot, drop: Some(mut drop) }) = row else { return Ok(true) };
        let before = all(&self.tx, bucket)?
            .into_iter()
            .rfind(|row| row.drop.is_none() && row.snapshot.id < id)
            .map(|row| row.snapshot.id);
        let prefix = keys::all_kept(bucket);
        let start = match &drop.after {
            Some(after) => [after.as_slice(), &[0]].concat(),
            None => prefix.clone(),
        };
        let most = limits::SNAPSHOT_ROWS_LOOK_MAX;
        let end = prefix_end(&prefix);
        let found = self.tx.scan(STATE, &start, end.as_deref(), most)?;
        let mut is_done = found.len() < most;
        for (key, value) in found {
            if self.is_spent() {
                is_done = false;
                break;
            }
            drop.after = Some(key.to_vec());
            self.let_go(&key, &value, id, before, now_ms)?;
        }
        if !is_done {
            self.tx.store(STATE, own, &SnapshotRow { snapshot, drop: Some(drop) });
            return Ok(false);
        }
        self.tx.delete(STATE, own);
        let mut row = keep::of(&self.tx, bucket)?;
        row.sequence = self.sequence;
        row.count = row.count.saturating_sub(1);
        self.tx.store(STATE, keys::snapshots(bucket), &row);
        Ok(true)
    }

    /// A kept row goes, if it is of this snapshot: to the one before, where that shows it as well.
    fn let_go(
        &mut self,
        key: &[u8],
        value: &[u8],
        id: SnapshotId,
        before: Option<SnapshotId>,
        now_ms: u64,
    ) -> Step<()> {
        let kept = keys::parse_kept(key).ok_or_else(|| corrupt("key of a kept row"))?;
        let (bucket, kind, rest, until) = kept;
        if until != id {
            return Ok(());
        }
        self.tx.delete(STATE, key.to_vec());
        if let Some(before) = before {
            let first = keys::kept(bucket, kind, rest, before);
            if self.tx.scan(STATE, &first, Some(key), 1)?.is_empty() {
                self.tx.put(STATE, first, value.to_vec());
                return Ok(());
            }
        }
        let row: KeptRow = decode_row(STATE, value)?;
        if let Some(value) = row.before
            && let Some(content) = keep::content_of(kind, &value)?
        {
            self.unrefer(content, now_ms)?;
        }
        Ok(())
    }

    /// Gives numbers to what a snapshot shows and clients of S3 had made.
    pub(super) fn adopt_past(
        &mut self,
        bucket: BucketId,
        id: SnapshotId,
        parent: Ino,
        names: &[Vec<u8>],
    ) -> Step<NamespaceOk> {
        live(&self.tx, bucket, id)?;
        let is_once = names.iter().collect::<BTreeSet<_>>().len() == names.len();
        if names.len() > limits::ADOPT_MAX || !is_once {
            return Err(PosixError::Invalid.into());
        }
        let past = Past::new(self.tx.base(), bucket, id);
        let seen = Tx::new(&past);
        let dir = inodes::find_dir(&seen, bucket, parent)?.dir.row.id;
        let mut nodes = Vec::with_capacity(names.len());
        for name in names {
            nodes.push(match inodes::resolve(&seen, bucket, dir, name)? {
                Some(named) => Some(self.adopted_past(&past, bucket, dir, named)?),
                None => None,
            });
        }
        Ok(NamespaceOk::Posix(vec![Ok(PosixDone::Nodes(nodes))]))
    }

    fn adopted_past(
        &mut self,
        past: &Past<'_>,
        bucket: BucketId,
        dir: DirId,
        (stored, dentry): (Vec<u8>, Dentry),
    ) -> Step<Node> {
        let seen = Tx::new(past);
        let key = tree_rows::dentry(bucket, dir, &stored);
        let (ino, known) = match dentry {
            Dentry::Dir(row) => {
                let attrs = Attrs::at(Moment::from_ms(row.created_ms));
                let known = posix::rows::Directory { row, subdirs: None, attrs };
                (Ino(row.id.0), Dentry::Directory(known))
            }
            Dentry::File(object) => {
                let Some((until, _)) = past.kept(TREE, &key)? else {
                    return self.adopt_live(bucket, dir, stored, Dentry::File(object));
                };
                let ino = Ino(self.next_id()?);
                let attrs = Attrs::at(Moment::from_ms(object.modified_ms));
                let what = posix::rows::What::File(object);
                let inode = posix::rows::Inode { ino, links: 1, attrs, what };
                self.keep_place(bucket, until, ino, dir, &stored);
                self.replace_kept(bucket, until, &key, &Dentry::Inode(inode.clone()))?;
                return inodes::of_dentry(&seen, bucket, &Dentry::Inode(inode));
            }
            known => return inodes::of_dentry(&seen, bucket, &known),
        };
        let Some((until, _)) = past.kept(TREE, &key)? else {
            let Dentry::Directory(dir_row) = known else { return Err(corrupt("no directory")) };
            return self.adopt_live(bucket, dir, stored, Dentry::Dir(dir_row.row));
        };
        // It may have its number by now.
        if seen.get(STATE, &posix::rows::place(bucket, ino))?.is_none() {
            self.keep_place(bucket, until, ino, dir, &stored);
        }
        self.replace_kept(bucket, until, &key, &known)?;
        inodes::of_dentry(&seen, bucket, &known)
    }

    /// A snapshot shows a node there.
    fn keep_place(
        &mut self,
        bucket: BucketId,
        until: SnapshotId,
        ino: Ino,
        parent: DirId,
        name: &[u8],
    ) {
        let place = codec::encode(&Place::At { parent, name: name.to_vec() });
        let row = KeptRow { sequence: self.sequence, before: Some(place) };
        let rest = ino.0.to_be_bytes();
        self.tx.store(STATE, keys::kept(bucket, Kind::Place, &rest, until), &row);
    }

    /// A name that is kept leads there; to the same content as before.
    fn replace_kept(
        &mut self,
        bucket: BucketId,
        until: SnapshotId,
        key: &[u8],
        dentry: &Dentry,
    ) -> Step<()> {
        let (_, kind, rest) = keys::split(TREE, key).ok_or_else(|| corrupt("key of a name"))?;
        let row = KeptRow { sequence: self.sequence, before: Some(codec::encode(dentry)) };
        self.tx.store(STATE, keys::kept(bucket, kind, rest, until), &row);
        Ok(())
    }
}
