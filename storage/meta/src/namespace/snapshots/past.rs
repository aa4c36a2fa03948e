//! What a snapshot shows: the rows of now, and where something was kept of one since, that.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;

use bytes::Bytes;
use nexusgrid_env::kv::{Row, prefix_end};
use nexusgrid_env::{KvError, KvRead, ScanRange};

use super::super::machine::{Step, Stop};
use super::super::posix;
use super::super::rows::{DirId, STATE};
use super::super::types::{
    BucketId, Cipher, Ino, NamespaceAnswer, NamespaceError, Object, PosixError, PosixQuery,
    Snapshot, SnapshotId,
};
use super::rows::{self as keys, KeptRow, Kind};
use crate::rows::tx::{Tx, decode_row};

/// Rows that are read at once.
const CHUNK: usize = 256;

/// A group's rows as a snapshot of one bucket shows them.
pub(in super::super) struct Past<'a> {
    state: &'a dyn KvRead,
    bucket: BucketId,
    id: SnapshotId,
}

/// Answers a mount that looks at a snapshot.
pub(in super::super) fn answer(
    state: &dyn KvRead,
    bucket: BucketId,
    id: SnapshotId,
    query: PosixQuery,
) -> Step<NamespaceAnswer> {
    super::live(&Tx::new(state), bucket, id)?;
    posix::answer(&Tx::new(&Past::new(state, bucket, id)), bucket, query)
}

/// A file as a snapshot shows it, to be copied.
pub(in super::super) fn object(
    tx: &Tx<'_>,
    bucket: BucketId,
    id: SnapshotId,
    ino: Ino,
) -> Step<Object> {
    super::live(tx, bucket, id)?;
    let past = Past::new(tx.base(), bucket, id);
    let inode = match posix::inodes::find(&Tx::new(&past), bucket, ino)? {
        posix::inodes::Found::Inode(found) => found.inode,
        posix::inodes::Found::Dir(_) => return Err(PosixError::Invalid.into()),
    };
    let object = inode.object().ok_or(PosixError::Invalid)?;
    if object.meta.cipher != Cipher::Grid {
        return Err(PosixError::Sealed.into());
    }
    Ok(object.clone())
}

/// Whether a snapshot shows a directory: it was there, in what the snapshot is of.
pub(super) fn shows(tx: &Tx<'_>, bucket: BucketId, snapshot: &Snapshot, dir: Ino) -> Step<bool> {
    let past = Past::new(tx.base(), bucket, snapshot.id);
    let seen = Tx::new(&past);
    match posix::inodes::find_dir(&seen, bucket, dir) {
        Ok(_) => posix::inodes::is_below(&seen, bucket, DirId(dir.0), DirId(snapshot.dir.0)),
        Err(Stop::Refuse(NamespaceError::Posix(_))) => Ok(false),
        Err(stop) => Err(stop),
    }
}

impl<'a> Past<'a> {
    pub(super) fn new(state: &'a dyn KvRead, bucket: BucketId, id: SnapshotId) -> Past<'a> {
        Past { state, bucket, id }
    }

    /// What the snapshot shows instead of the row of now, and until which snapshot that was kept; `None`: the row of now.
    pub(super) fn kept(
        &self,
        family: &str,
        key: &[u8],
    ) -> Result<Option<(SnapshotId, Option<Bytes>)>, KvError> {
        let Some((bucket, kind, rest)) = keys::split(family, key) else { return Ok(None) };
        if bucket != self.bucket {
            return Ok(None);
        }
        let range = ScanRange {
            start: keys::kept(bucket, kind, rest, self.id),
            end: prefix_end(&keys::kept_of(bucket, kind, rest)),
            reverse: false,
            limit: 1,
        };
        let Some((key, value)) = self.state.scan(STATE, &range)?.pop() else { return Ok(None) };
        let until = keys::parse_kept(&key).map(|(.., until)| until);
        let until = until.ok_or_else(|| KvError::Corrupt("key of a kept row".to_owned()))?;
        let row: KeptRow = decode_row(STATE, &value)?;
        Ok(Some((until, row.before.map(Bytes::from))))
    }
}

impl KvRead for Past<'_> {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.kept(family, key)? {
            Some((_, before)) => Ok(before),
            None => self.state.get(family, key),
        }
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        let split = keys::split(family, &range.start);
        let Some((bucket, kind, from)) = split.filter(|(bucket, ..)| *bucket == self.bucket) else {
            return self.state.scan(family, range);
        };
        if range.reverse {
            return Err(KvError::Corrupt("snapshots are not read backwards".to_owned()));
        }
        // Up to the end of the bucket's rows of this kind, if the range goes on beyond them.
        let to = range.end.as_deref().and_then(|end| keys::split(family, end));
        let to = to.filter(|(end, ..)| *end == bucket).map(|(.., rest)| rest);
        let live = Chunks::new(self.state, family, range.start.clone(), range.end.clone());
        let mut kept = Kept::new(self, kind, from, to);
        let mut live = live;
        let mut found = Vec::new();
        let mut next = kept.next()?;
        while found.len() < range.limit {
            let now = live.peek()?;
            let Some((key, before)) = &next else {
                match live.pop()? {
                    Some(row) => found.push(row),
                    None => break,
                }
                continue;
            };
            if now.is_some_and(|(now, _)| now < key) {
                found.extend(live.pop()?);
                continue;
            }
            if now.is_some_and(|(now, _)| now == key) {
                live.pop()?;
            }
            if let Some(before) = before {
                found.push((key.clone(), before.clone()));
            }
            next = kept.next()?;
        }
        Ok(found)
    }
}

/// Rows of a range, one after the other.
struct Chunks<'a> {
    state: &'a dyn KvRead,
    family: &'static str,
    /// Where the next chunk begins; `None`: that was all.
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    read: VecDeque<Row>,
}

impl<'a> Chunks<'a> {
    fn new(
        state: &'a dyn KvRead,
        family: &'static str,
        start: Vec<u8>,
        end: Option<Vec<u8>>,
    ) -> Chunks<'a> {
        Chunks { state, family, start: Some(start), end, read: VecDeque::new() }
    }

    fn peek(&mut self) -> Result<Option<&Row>, KvError> {
        if self.read.is_empty()
            && let Some(start) = self.start.take()
        {
            let end = self.end.clone();
            let range = ScanRange { start, end, reverse: false, limit: CHUNK };
            let rows = self.state.scan(self.family, &range)?;
            if rows.len() == CHUNK {
                self.start = rows.last().map(|(key, _)| [key, &[0][..]].concat());
            }
            self.read = rows.into();
        }
        Ok(self.read.front())
    }

    fn pop(&mut self) -> Result<Option<Row>, KvError> {
        self.peek()?;
        Ok(self.read.pop_front())
    }
}

/// What a snapshot shows instead of rows of now, in order of their keys.
struct Kept<'a> {
    rows: Chunks<'a>,
    bucket: BucketId,
    kind: Kind,
    id: SnapshotId,
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    last: Option<Vec<u8>>,
}

impl<'a> Kept<'a> {
    fn new(past: &Past<'a>, kind: Kind, from: &[u8], to: Option<&[u8]>) -> Kept<'a> {
        let start = keys::kept_of(past.bucket, kind, from);
        let end = match to {
            // Behind whatever is kept of a row whose key this begins with.
            Some(to) => [keys::kept_of(past.bucket, kind, to).as_slice(), &[0xFF; 9]].concat(),
            None => prefix_end(&keys::kept_of(past.bucket, kind, &[])).unwrap_or_default(),
        };
        Kept {
            rows: Chunks::new(past.state, STATE, start, Some(end)),
            bucket: past.bucket,
            kind,
            id: past.id,
            from: from.to_vec(),
            to: to.map(<[u8]>::to_vec),
            last: None,
        }
    }

    /// The next row's key of now, and what it was.
    fn next(&mut self) -> Result<Option<(Bytes, Option<Bytes>)>, KvError> {
        while let Some((key, value)) = self.rows.pop()? {
            let Some((_, _, rest, until)) = keys::parse_kept(&key) else {
                return Err(KvError::Corrupt("key of a kept row".to_owned()));
            };
            let is_wanted = until >= self.id
                && rest >= self.from.as_slice()
                && self.to.as_deref().is_none_or(|to| rest < to)
                && self.last.as_deref() != Some(rest);
            if !is_wanted {
                continue;
            }
            self.last = Some(rest.to_vec());
            let row: KeptRow = decode_row(STATE, &value)?;
            let key = Bytes::from(self.kind.key(self.bucket, rest));
            return Ok(Some((key, row.before.map(Bytes::from))));
        }
        Ok(None)
    }
}
