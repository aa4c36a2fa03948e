//! Listings: keys in byte order, rolled up at a delimiter.
//!
//! A walk of the tree is byte order of whole keys. It never reads what it does not show: a common
//! prefix that ends at a directory is taken from that directory's dentry, any other is left by a
//! seek behind it.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;

use bytes::Bytes;
use nexusgrid_env::KvError;
use nexusgrid_env::kv::{Row, prefix_end};

use super::limits;
use super::machine::{Step, corrupt};
use super::rows::{self, Dentry, DirId, UploadRow};
use super::tree;
use super::types::{
    BucketId, ListAfter, ListingWriter, Malformed, NamespaceError, Object, ObjectLine, UploadEntry,
    UploadListing, UploadsAfter,
};
use crate::rows::key::KeyBuf;
use crate::rows::tx::{Tx, decode_row};

/// Rows read at once, to begin with: many pages need no more.
pub(super) const READ_AHEAD: usize = 64;
/// Rows read at once, at most: each reading begins with a search.
const READ_AHEAD_MAX: usize = 512;

/// What a walk meets, in byte order of `path`.
pub(super) enum Token {
    /// A directory, not entered yet. All its keys begin with `path`, which ends with `/`.
    Dir { path: Vec<u8>, id: DirId },
    /// A file.
    File { path: Vec<u8>, file: File },
}

/// A file that a walk meets.
pub(super) enum File {
    /// Its dentry as it is stored, which tells a listing enough.
    Row(Bytes),
    /// The object that its dentry leads to.
    Object(Box<Object>),
}

impl File {
    /// Decoded.
    pub(super) fn object(self) -> Step<Box<Object>> {
        match self {
            File::Object(object) => Ok(object),
            File::Row(value) => match decode_row(rows::TREE, &value)? {
                Dentry::File(object) => Ok(Box::new(object)),
                _ => Err(corrupt("a file's row is another's")),
            },
        }
    }
}

/// A directory that the walk is in.
struct Frame {
    id: DirId,
    /// All its keys begin with this.
    path: Vec<u8>,
    /// Children's rows that are read already.
    ahead: VecDeque<Row>,
    /// Where to read on; `None`: at its end.
    resume: Option<Vec<u8>>,
    /// How many rows to read then.
    count: usize,
}

/// A walk of a bucket's tree in byte order of whole keys.
pub(super) struct Walk<'t, 'a> {
    tx: &'t Tx<'a>,
    bucket: BucketId,
    frames: Vec<Frame>,
    /// Directories entered, and rows of what is no object, since the last file.
    passed: usize,
    /// Behind which key it stopped before its end, as there were too many of these.
    pub(super) stopped: Option<Vec<u8>>,
}

impl<'t, 'a> Walk<'t, 'a> {
    pub(super) fn new(tx: &'t Tx<'a>, bucket: BucketId) -> Walk<'t, 'a> {
        let mut walk = Walk { tx, bucket, frames: Vec::new(), passed: 0, stopped: None };
        walk.enter(DirId::ROOT, Vec::new());
        walk
    }

    /// Goes through a directory's children next.
    pub(super) fn enter(&mut self, id: DirId, path: Vec<u8>) {
        let resume = Some(rows::dir_prefix(self.bucket, id).done());
        let ahead = VecDeque::new();
        self.passed += 1;
        self.frames.push(Frame { id, path, ahead, resume, count: READ_AHEAD });
    }

    /// Skips all keys below `bound`. A directory in which `bound` lies is entered. Never goes back.
    pub(super) fn seek(&mut self, bound: &[u8]) -> Result<(), KvError> {
        // A directory that is not on the way to `bound` lies wholly before it.
        while self.frames.last().is_some_and(|frame| !bound.starts_with(&frame.path)) {
            self.frames.pop();
        }
        while let Some(frame) = self.frames.last_mut() {
            let rest = bound.get(frame.path.len()..).unwrap_or_default();
            // Names are compared as byte strings: a directory's ends with `/`, so it is ≥ `rest`
            // exactly if all its keys are.
            let target = rows::dentry(self.bucket, frame.id, rest);
            while frame.ahead.front().is_some_and(|(key, _)| **key < *target) {
                frame.ahead.pop_front();
            }
            if frame.ahead.is_empty()
                && frame.resume.as_ref().is_some_and(|resume| *resume < target)
            {
                frame.resume = Some(target);
            }
            let Some(slash) = rest.iter().position(|byte| *byte == b'/') else { break };
            let Some((component, below)) = rest.split_at_checked(slash + 1) else { break };
            if below.is_empty() {
                break;
            }
            let key = rows::dentry(self.bucket, frame.id, component);
            let dentry: Option<Dentry> = self.tx.load(rows::TREE, &key)?;
            let Some(dir) = dentry.and_then(|dentry| dentry.dir()) else { break };
            let path = [frame.path.as_slice(), component].concat();
            self.enter(dir.id, path);
        }
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Option<Token>, KvError> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            if let Some((key, value)) = frame.ahead.pop_front() {
                let mut path = Vec::with_capacity(frame.path.len() + key.len());
                path.extend_from_slice(&frame.path);
                if rows::add_dentry_name(&mut path, &key).is_none() {
                    continue;
                }
                if ObjectLine::is_of_row(&value) {
                    if path.len() > limits::KEY_BYTES_MAX {
                        continue;
                    }
                    self.passed = 0;
                    return Ok(Some(Token::File { path, file: File::Row(value) }));
                }
                let dentry: Dentry = decode_row(rows::TREE, &value)?;
                if let Some(dir) = dentry.dir() {
                    if path.len() > limits::KEY_BYTES_MAX {
                        continue;
                    }
                    return Ok(Some(Token::Dir { path, id: dir.id }));
                }
                // What mounts make may be no object, or lie deeper than keys reach.
                match tree::object(self.tx, self.bucket, dentry)? {
                    Some(object) if path.len() <= limits::KEY_BYTES_MAX => {
                        let file = File::Object(Box::new(object));
                        self.passed = 0;
                        return Ok(Some(Token::File { path, file }));
                    }
                    _ => {
                        self.passed += 1;
                        if self.is_long() && path.len() <= limits::KEY_BYTES_MAX {
                            return Ok(self.stop(path));
                        }
                        continue;
                    }
                }
            }
            let Some(start) = frame.resume.take() else {
                let done = self.frames.pop().filter(|frame| !frame.path.is_empty());
                if let Some(done) = done.filter(|_| self.is_long()) {
                    // Behind all its keys: none is as long as this.
                    let mut last = done.path;
                    last.resize(limits::KEY_BYTES_MAX + 1, 0xff);
                    return Ok(self.stop(last));
                }
                continue;
            };
            let end = prefix_end(&rows::dir_prefix(self.bucket, frame.id).done());
            let count = frame.count;
            frame.count = (count * 2).min(READ_AHEAD_MAX);
            let found = self.tx.scan(rows::TREE, &start, end.as_deref(), count)?;
            if found.len() == count {
                frame.resume = found.last().map(|(key, _)| {
                    let mut after = key.to_vec();
                    after.push(0);
                    after
                });
            }
            frame.ahead = found.into();
        }
    }
}

impl Walk<'_, '_> {
    /// Whether it has met nothing to be shown for long.
    fn is_long(&self) -> bool {
        self.passed >= limits::LIST_PASSED_MAX
    }

    fn stop(&mut self, at: Vec<u8>) -> Option<Token> {
        self.stopped = Some(at);
        self.frames.clear();
        None
    }
}

/// The common prefix of a key: up to and with the first delimiter after `prefix`.
pub(super) fn common_prefix<'k>(
    key: &'k [u8],
    prefix: &[u8],
    delimiter: Option<&[u8]>,
) -> Option<&'k [u8]> {
    let delimiter = delimiter?;
    let rest = key.get(prefix.len()..)?;
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

pub(super) fn check_list(
    prefix: &[u8],
    delimiter: Option<&[u8]>,
    limit: u32,
) -> Result<(), NamespaceError> {
    let bounded = |bytes: &[u8]| bytes.len() <= limits::KEY_BYTES_MAX;
    let is_good = bounded(prefix)
        && delimiter.is_none_or(|delimiter| !delimiter.is_empty() && bounded(delimiter))
        && (1..=limits::LIST_MAX).contains(&limit);
    if is_good { Ok(()) } else { Err(Malformed::List.into()) }
}

/// The smallest key that may be listed; `None`: there is none.
fn first_bound(prefix: &[u8], after: Option<&ListAfter>) -> Option<Vec<u8>> {
    let after = match after {
        None => Vec::new(),
        Some(ListAfter::Key(key)) => [key.as_slice(), &[0]].concat(),
        Some(ListAfter::Prefix(done)) => prefix_end(done)?,
    };
    Some(after.max(prefix.to_vec()))
}

/// Lists keys; gives the query's reply, encoded.
pub(super) fn list(
    tx: &Tx<'_>,
    bucket: BucketId,
    prefix: &[u8],
    delimiter: Option<&[u8]>,
    after: Option<&ListAfter>,
    limit: u32,
) -> Step<Vec<u8>> {
    check_list(prefix, delimiter, limit)?;
    let mut lines = ListingWriter::default();
    let Some(bound) = first_bound(prefix, after) else { return Ok(lines.reply(None)) };
    let mut walk = Walk::new(tx, bucket);
    walk.seek(&bound)?;
    let mut last = None;
    while let Some(token) = walk.next()? {
        let path = match &token {
            Token::Dir { path, .. } | Token::File { path, .. } => path,
        };
        if !path.starts_with(prefix) {
            return Ok(lines.reply(None));
        }
        let common = common_prefix(path, prefix, delimiter).map(<[u8]>::to_vec);
        if let (None, Token::Dir { path, id }) = (&common, &token) {
            walk.enter(*id, path.clone());
            continue;
        }
        if lines.count() >= limit as usize || lines.bytes() >= limits::LIST_BYTES_MAX {
            return Ok(lines.reply(last.as_ref()));
        }
        match (common, token) {
            (Some(common), _) => {
                lines.prefix(&common);
                let behind = prefix_end(&common);
                last = Some(ListAfter::Prefix(common));
                match behind {
                    Some(behind) => walk.seek(&behind)?,
                    None => break,
                }
            }
            (None, Token::Dir { .. }) => {}
            (None, Token::File { path, file }) => {
                match &file {
                    File::Row(value) if let Some(line) = ObjectLine::of_row(value) => {
                        lines.object(&path, &line);
                    }
                    _ => lines.decoded(&path, &(*file.object()?).into()),
                }
                last = Some(ListAfter::Key(path));
            }
        }
    }
    // Whoever has been shown something goes on behind that.
    let stopped = walk.stopped.map(|at| last.unwrap_or(ListAfter::Key(at)));
    Ok(lines.reply(stopped.as_ref()))
}

/// Roughly what an object takes in an answer.
pub(super) fn object_bytes(key: &[u8], object: &Object) -> usize {
    let texts = object.meta.user_metadata.iter().chain(&object.meta.tags);
    let special = object.meta.special_bytes();
    key.len() + 256 + special + texts.map(|(name, value)| name.len() + value.len()).sum::<usize>()
}

/// Lists uploads. Their rows lie in order of key, then start.
pub(super) fn list_uploads(
    tx: &Tx<'_>,
    bucket: BucketId,
    prefix: &[u8],
    delimiter: Option<&[u8]>,
    after: Option<&UploadsAfter>,
    limit: u32,
) -> Step<UploadListing> {
    check_list(prefix, delimiter, limit)?;
    let mut listing = UploadListing::default();
    let of_key = |key: &[u8]| rows::uploads(bucket).name(key);
    // No upload's key is as long as this, so none lies between.
    let behind_id = |key: KeyBuf, id: &[u8]| key.raw(id).u8(0).done();
    let start = match after {
        None => Some(of_key(&[]).done()),
        Some(UploadsAfter::Key(key)) => Some(behind_id(of_key(key), &[0xFF; 16])),
        Some(UploadsAfter::Upload(key, id)) => Some(behind_id(of_key(key), &id.0)),
        Some(UploadsAfter::Prefix(done)) => prefix_end(done).map(|key| of_key(&key).done()),
    };
    let Some(mut start) = start.map(|start| start.max(of_key(prefix).done())) else {
        return Ok(listing);
    };
    let end = prefix_end(&rows::uploads(bucket).done());
    let mut bytes = 0;
    'read: loop {
        let found = tx.scan(rows::STATE, &start, end.as_deref(), READ_AHEAD)?;
        let is_last = found.len() < READ_AHEAD;
        for (row_key, value) in found {
            let Some((key, id)) = rows::parse_upload(&row_key) else { continue };
            if !key.starts_with(prefix) {
                break 'read;
            }
            if listing.entries.len() >= limit as usize || bytes >= limits::LIST_BYTES_MAX {
                listing.next = listing.entries.last().map(|entry| match entry {
                    UploadEntry::Upload(key, id, _) => UploadsAfter::Upload(key.clone(), *id),
                    UploadEntry::Prefix(prefix) => UploadsAfter::Prefix(prefix.clone()),
                });
                break 'read;
            }
            if let Some(common) = common_prefix(&key, prefix, delimiter) {
                bytes += common.len();
                listing.entries.push(UploadEntry::Prefix(common.to_vec()));
                let Some(behind) = prefix_end(common) else { break 'read };
                start = of_key(&behind).done();
                continue 'read;
            }
            let row: UploadRow = decode_row(rows::STATE, &value)?;
            bytes += key.len() + value.len();
            listing.entries.push(UploadEntry::Upload(key, id, Box::new(row.info)));
            start = row_key.to_vec();
            start.push(0);
        }
        if is_last {
            break;
        }
    }
    Ok(listing)
}
