//! Listings: keys in byte order, rolled up at a delimiter.
//!
//! A walk of the tree is byte order of whole keys. It never reads what it does not show: a common
//! prefix that ends at a directory is taken from that directory's dentry, any other is left by a
//! seek behind it.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;

use nexusgrid_env::KvError;
use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::Step;
use super::rows::{self, Dentry, DirId, UploadRow};
use super::types::{
    BucketId, ListAfter, ListEntry, Listing, Malformed, NamespaceError, Object, UploadEntry,
    UploadListing, UploadsAfter,
};
use crate::rows::key::KeyBuf;
use crate::rows::tx::{Tx, decode_row};

/// Rows read at once.
pub(super) const READ_AHEAD: usize = 64;

/// What a walk meets, in byte order of `path`.
pub(super) enum Token {
    /// A directory, not entered yet. All its keys begin with `path`, which ends with `/`.
    Dir { path: Vec<u8>, id: DirId },
    /// A file.
    File { path: Vec<u8>, object: Box<Object> },
}

/// A directory that the walk is in.
struct Frame {
    id: DirId,
    /// All its keys begin with this.
    path: Vec<u8>,
    /// Children that are read already.
    ahead: VecDeque<(Vec<u8>, Dentry)>,
    /// Where to read on; `None`: at its end.
    resume: Option<Vec<u8>>,
}

/// A walk of a bucket's tree in byte order of whole keys.
pub(super) struct Walk<'t, 'a> {
    tx: &'t Tx<'a>,
    bucket: BucketId,
    frames: Vec<Frame>,
}

impl<'t, 'a> Walk<'t, 'a> {
    pub(super) fn new(tx: &'t Tx<'a>, bucket: BucketId) -> Walk<'t, 'a> {
        let mut walk = Walk { tx, bucket, frames: Vec::new() };
        walk.enter(DirId::ROOT, Vec::new());
        walk
    }

    /// Goes through a directory's children next.
    pub(super) fn enter(&mut self, id: DirId, path: Vec<u8>) {
        let resume = Some(rows::dir_prefix(self.bucket, id).done());
        self.frames.push(Frame { id, path, ahead: VecDeque::new(), resume });
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
            while frame.ahead.front().is_some_and(|(name, _)| name.as_slice() < rest) {
                frame.ahead.pop_front();
            }
            if frame.ahead.is_empty() && frame.resume.is_some() {
                let target = rows::dentry(self.bucket, frame.id, rest);
                if frame.resume.as_ref().is_some_and(|resume| *resume < target) {
                    frame.resume = Some(target);
                }
            }
            let Some(slash) = rest.iter().position(|byte| *byte == b'/') else { break };
            let Some((component, below)) = rest.split_at_checked(slash + 1) else { break };
            if below.is_empty() {
                break;
            }
            let key = rows::dentry(self.bucket, frame.id, component);
            let Some(Dentry::Dir(dir)) = self.tx.load(rows::TREE, &key)? else { break };
            let path = [frame.path.as_slice(), component].concat();
            self.enter(dir.id, path);
        }
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Option<Token>, KvError> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            if let Some((name, dentry)) = frame.ahead.pop_front() {
                let path = [frame.path.as_slice(), &name].concat();
                return Ok(Some(match dentry {
                    Dentry::Dir(dir) => Token::Dir { path, id: dir.id },
                    Dentry::File(object) => Token::File { path, object: Box::new(object) },
                }));
            }
            let Some(start) = frame.resume.take() else {
                self.frames.pop();
                continue;
            };
            let end = prefix_end(&rows::dir_prefix(self.bucket, frame.id).done());
            let found = self.tx.scan(rows::TREE, &start, end.as_deref(), READ_AHEAD)?;
            if found.len() == READ_AHEAD {
                frame.resume = found.last().map(|(key, _)| {
                    let mut after = key.to_vec();
                    after.push(0);
                    after
                });
            }
            for (key, value) in &found {
                if let Some(name) = rows::dentry_name(key) {
                    frame.ahead.push_back((name, decode_row(rows::TREE, value)?));
                }
            }
        }
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

/// Lists keys.
pub(super) fn list(
    tx: &Tx<'_>,
    bucket: BucketId,
    prefix: &[u8],
    delimiter: Option<&[u8]>,
    after: Option<&ListAfter>,
    limit: u32,
) -> Step<Listing> {
    check_list(prefix, delimiter, limit)?;
    let mut listing = Listing::default();
    let Some(bound) = first_bound(prefix, after) else { return Ok(listing) };
    let mut walk = Walk::new(tx, bucket);
    walk.seek(&bound)?;
    let mut bytes = 0;
    while let Some(token) = walk.next()? {
        let path = match &token {
            Token::Dir { path, .. } | Token::File { path, .. } => path,
        };
        if !path.starts_with(prefix) {
            break;
        }
        let common = common_prefix(path, prefix, delimiter).map(<[u8]>::to_vec);
        let entry = match (common, token) {
            (Some(common), _) => ListEntry::Prefix(common),
            (None, Token::Dir { path, id }) => {
                walk.enter(id, path);
                continue;
            }
            (None, Token::File { path, object }) => ListEntry::Object(path, object),
        };
        if listing.entries.len() >= limit as usize || bytes >= limits::LIST_BYTES_MAX {
            listing.next = listing.entries.last().map(|entry| match entry {
                ListEntry::Object(key, _) => ListAfter::Key(key.clone()),
                ListEntry::Prefix(prefix) => ListAfter::Prefix(prefix.clone()),
            });
            break;
        }
        bytes += entry_bytes(&entry);
        let behind = match &entry {
            ListEntry::Prefix(common) => Some(prefix_end(common)),
            ListEntry::Object(..) => None,
        };
        listing.entries.push(entry);
        match behind {
            Some(Some(bound)) => walk.seek(&bound)?,
            Some(None) => break,
            None => {}
        }
    }
    Ok(listing)
}

fn entry_bytes(entry: &ListEntry) -> usize {
    match entry {
        ListEntry::Object(key, object) => object_bytes(key, object),
        ListEntry::Prefix(prefix) => prefix.len(),
    }
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
