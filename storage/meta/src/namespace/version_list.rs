//! Listings of versions: keys in byte order, of each the newest first, rolled up at a delimiter.
//!
//! Two walks are merged: the tree, which holds current objects, and the rows of older versions and
//! markers, which lie in the same order of keys. Either is left by a seek behind a common prefix.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;

use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::list::{READ_AHEAD, Token, Walk, check_list, common_prefix, object_bytes};
use super::machine::{Step, corrupt};
use super::rows::{self, VersionRow};
use super::tree;
use super::types::{
    BucketId, DeleteMarker, Object, VersionEntry, VersionId, VersionListing, VersionsAfter,
};
use crate::rows::tx::{Tx, decode_row};

/// What is listed.
pub(super) struct Asked<'q> {
    pub bucket: BucketId,
    pub prefix: &'q [u8],
    pub delimiter: Option<&'q [u8]>,
    pub limit: u32,
}

/// Rows of older versions, read ahead.
struct Older<'t, 'a> {
    tx: &'t Tx<'a>,
    ahead: VecDeque<(Vec<u8>, u64, bytes::Bytes)>,
    /// Where to read on; `None`: at the end.
    resume: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
}

impl Older<'_, '_> {
    /// The next row, not taken yet.
    fn peek(&mut self) -> Step<Option<&(Vec<u8>, u64, bytes::Bytes)>> {
        if self.ahead.is_empty()
            && let Some(start) = self.resume.take()
        {
            let found = self.tx.scan(rows::STATE, &start, self.end.as_deref(), READ_AHEAD)?;
            if found.len() == READ_AHEAD {
                self.resume = found.last().map(|(key, _)| [key.as_ref(), &[0]].concat());
            }
            for (row, value) in found {
                let (key, order) =
                    rows::parse_version(&row).ok_or_else(|| corrupt("key of a version"))?;
                self.ahead.push_back((key, order, value));
            }
        }
        Ok(self.ahead.front())
    }

    /// Skips all keys below `bound`.
    fn seek(&mut self, bucket: BucketId, bound: &[u8]) {
        while self.ahead.front().is_some_and(|(key, ..)| key.as_slice() < bound) {
            self.ahead.pop_front();
        }
        if self.ahead.is_empty() && self.resume.is_some() {
            let target = rows::versions(bucket).name(bound).done();
            self.resume = self.resume.take().map(|resume| resume.max(target));
        }
    }
}

/// Where to begin: the tree at a key, older versions at a row.
struct Start {
    tree: Vec<u8>,
    older: Vec<u8>,
    /// The older versions begin within this key.
    within: Option<Vec<u8>>,
}

fn start(tx: &Tx<'_>, asked: &Asked<'_>, after: Option<VersionsAfter>) -> Step<Option<Start>> {
    let at_key = |key: Vec<u8>| Start {
        older: rows::versions(asked.bucket).name(&key).done(),
        tree: key,
        within: None,
    };
    let behind = |key: &[u8]| [key, &[0]].concat();
    let begin = match after {
        None => at_key(Vec::new()),
        Some(VersionsAfter::Key(key)) => at_key(behind(&key)),
        Some(VersionsAfter::Prefix(done)) => match prefix_end(&done) {
            Some(end) => at_key(end),
            None => return Ok(None),
        },
        Some(VersionsAfter::Version(key, version)) => {
            let current = tree::lookup(tx, asked.bucket, &key)?;
            let is_current = |object: &Object| match version {
                VersionId::NULL => object.version.is_none(),
                version => object.version == Some(version),
            };
            let order = match version {
                _ if current.as_ref().is_some_and(is_current) => Some(None),
                VersionId::NULL => {
                    tx.load(rows::STATE, &rows::null_version(asked.bucket, &key))?.map(Some)
                }
                VersionId(order) => Some(Some(order)),
            };
            match order {
                // It is gone: what is left of the key was not listed yet, or is listed twice.
                None => at_key(key),
                Some(order) => Start {
                    tree: behind(&key),
                    older: match order {
                        None => rows::versions(asked.bucket).name(&key).done(),
                        Some(order) => behind(&rows::version(asked.bucket, &key, order)),
                    },
                    within: Some(key),
                },
            }
        }
    };
    if begin.tree.as_slice() < asked.prefix && begin.within.is_none() {
        return Ok(Some(at_key(asked.prefix.to_vec())));
    }
    Ok(Some(begin))
}

/// Lists versions.
pub(super) fn list(
    tx: &Tx<'_>,
    asked: &Asked<'_>,
    after: Option<VersionsAfter>,
) -> Step<VersionListing> {
    check_list(asked.prefix, asked.delimiter, asked.limit)?;
    let mut listing = VersionListing::default();
    let Some(begin) = start(tx, asked, after)? else { return Ok(listing) };
    let Asked { bucket, prefix, delimiter, limit } = *asked;
    let mut walk = Walk::new(tx, bucket);
    walk.seek(&begin.tree)?;
    let end = prefix_end(&rows::versions(bucket).done());
    let mut older = Older { tx, ahead: VecDeque::new(), resume: Some(begin.older), end };
    let mut held: Option<Token> = None;
    // The key whose newest version was seen, listed here or before.
    let mut seen: Option<Vec<u8>> = None;
    if let Some(key) = begin.within {
        let newest = super::versions::newest(tx, bucket, &key)?.map(|(order, _)| order);
        let next = older.peek()?.filter(|(next, ..)| *next == key).map(|(_, order, _)| *order);
        let is_newest = next == newest && tree::lookup(tx, bucket, &key)?.is_none();
        seen = Some(key).filter(|_| !is_newest);
    }
    let mut bytes = 0;
    loop {
        if held.is_none() {
            held = walk.next()?;
        }
        let in_tree = held.as_ref().map(|token| match token {
            Token::Dir { path, .. } | Token::File { path, .. } => path.as_slice(),
        });
        let in_rows = older.peek()?.map(|(key, ..)| key.as_slice());
        // The object in the tree is newer than all rows of its key.
        let (path, from_tree) = match (in_tree, in_rows) {
            (None, key)
                if walk
                    .stopped
                    .as_ref()
                    .is_some_and(|at| key.is_none_or(|key| key > at.as_slice())) =>
            {
                let at = walk.stopped.take().map(VersionsAfter::Key);
                listing.next = listing.entries.last().map(go_on).or(at);
                break;
            }
            (None, None) => break,
            (Some(path), Some(key)) if path <= key => (path, true),
            (Some(path), None) => (path, true),
            (_, Some(key)) => (key, false),
        };
        if !path.starts_with(prefix) {
            if path > prefix {
                break;
            }
            // Only what lies between the start and the prefix.
            older.seek(bucket, prefix);
            if from_tree {
                walk.seek(prefix)?;
                held = None;
            }
            continue;
        }
        let common = common_prefix(path, prefix, delimiter).map(<[u8]>::to_vec);
        let is_held_in = common
            .as_ref()
            .is_some_and(|common| in_tree.is_some_and(|path| path.starts_with(common)));
        if common.is_none()
            && from_tree
            && let Some(Token::Dir { path, id }) =
                held.take_if(|token| matches!(token, Token::Dir { .. }))
        {
            walk.enter(id, path);
            continue;
        }
        if listing.entries.len() >= limit as usize || bytes >= limits::LIST_BYTES_MAX {
            listing.next = listing.entries.last().map(go_on);
            break;
        }
        if let Some(common) = common {
            bytes += common.len();
            let behind = prefix_end(&common);
            listing.entries.push(VersionEntry::Prefix(common));
            let Some(behind) = behind else { break };
            if is_held_in {
                held = None;
                walk.seek(&behind)?;
            }
            older.seek(bucket, &behind);
            continue;
        }
        let entry = if from_tree {
            let Some(Token::File { path: key, file }) = held.take() else { continue };
            let mut object = file.object()?;
            seen = Some(key.clone());
            object.version = VersionId::shown(object.version);
            VersionEntry::Object { key, object, is_latest: true }
        } else {
            let Some((key, _, value)) = older.ahead.pop_front() else { continue };
            let is_latest = seen.as_ref() != Some(&key);
            seen = Some(key.clone());
            match decode_row(rows::STATE, &value)? {
                VersionRow::Object(object) => {
                    let object =
                        Box::new(Object { version: VersionId::shown(object.version), ..object });
                    VersionEntry::Object { key, object, is_latest }
                }
                VersionRow::Marker(marker) => {
                    let version = VersionId::shown(marker.version);
                    VersionEntry::Marker {
                        key,
                        marker: DeleteMarker { version, ..marker },
                        is_latest,
                    }
                }
            }
        };
        bytes += match &entry {
            VersionEntry::Object { key, object, .. } => object_bytes(key, object),
            VersionEntry::Marker { key, .. } | VersionEntry::Prefix(key) => key.len() + 64,
        };
        listing.entries.push(entry);
    }
    Ok(listing)
}

fn go_on(last: &VersionEntry) -> VersionsAfter {
    let after = |key: &Vec<u8>, version: Option<VersionId>| {
        VersionsAfter::Version(key.clone(), version.unwrap_or(VersionId::NULL))
    };
    match last {
        VersionEntry::Object { key, object, .. } => after(key, object.version),
        VersionEntry::Marker { key, marker, .. } => after(key, marker.version),
        VersionEntry::Prefix(prefix) => VersionsAfter::Prefix(prefix.clone()),
    }
}
