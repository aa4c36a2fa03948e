//! Checks a whole store against the invariants that this machine keeps: for tests, simulation and
//! `fsck`. Reads everything; never writes.
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_codec::id::{BlockId, PgId};
use nexusgrid_env::kv::prefix_end;
use nexusgrid_env::{KvError, KvRead, ScanRange};
use serde::de::DeserializeOwned;

use super::codes::is_large;
use super::contents::slots;
use super::limits;
use super::posix::audit as mounts;
use super::posix::rows::{self as own, Place};
use super::rows::{
    self, BlockRow, BucketRow, CodeRow, ContentKind, ContentRow, Dentry, DirId, LiveBucket,
    MovedRow, OutboxRow, Page, Part, PartRow, Released, UploadRow, VersionRow,
};
use super::snapshots;
use super::tree;
use super::types::{BucketId, CodeUsage, ContentId, Ino, Object, UploadId, Usage};
use crate::rows::key::KeyReader;
use crate::rows::tx::{Tx, decode_row};

/// What is wrong, by the name of the invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `I2`, `I7`, `I8`, `I10` or `I13`.
    pub invariant: &'static str,
    /// What contradicts what.
    pub what: String,
}

/// Rows of a tag or of a whole family, decoded.
fn read<T: DeserializeOwned>(
    state: &dyn KvRead,
    family: &'static str,
    prefix: &[u8],
) -> Result<Vec<(Vec<u8>, T)>, KvError> {
    let range = ScanRange {
        start: prefix.to_vec(),
        end: prefix_end(prefix),
        reverse: false,
        limit: usize::MAX,
    };
    let rows = state.scan(family, &range)?;
    rows.iter().map(|(key, value)| Ok((key.to_vec(), decode_row(family, value)?))).collect()
}

fn number(key: &[u8]) -> u64 {
    KeyReader(key.get(1..).unwrap_or_default()).u64().unwrap_or_default()
}

/// Checks a store of a metadata group.
pub fn audit(state: &dyn KvRead) -> Result<Vec<Violation>, KvError> {
    let mut audit = Audit::default();
    audit.tree(state)?;
    audit.versions(state)?;
    audit.uploads(state)?;
    audit.snapshots(state)?;
    audit.contents(state)?;
    audit.blocks(state)?;
    Ok(audit.found)
}

#[derive(Default)]
struct Audit {
    found: Vec<Violation>,
    /// References to contents, as counted from what refers.
    references: BTreeMap<ContentId, u32>,
    usage: BTreeMap<BucketId, Usage>,
    /// Uploads that have part rows.
    with_parts: BTreeMap<UploadId, u64>,
    live_uploads: BTreeSet<UploadId>,
    live_bytes: BTreeMap<BlockId, u64>,
    codes: BTreeMap<(u8, u8), CodeUsage>,
}

impl Audit {
    fn expect(&mut self, invariant: &'static str, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.found.push(Violation { invariant, what: what() });
        }
    }

    fn tree(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        let mut children: BTreeMap<(BucketId, DirId), u64> = BTreeMap::new();
        let mut dirs: BTreeMap<(BucketId, DirId), (u64, bool)> = BTreeMap::new();
        let mut above: BTreeMap<(BucketId, DirId), DirId> = BTreeMap::new();
        let mut subdirs: BTreeMap<(BucketId, DirId), u64> = BTreeMap::new();
        let mut counted: BTreeMap<(BucketId, DirId), Option<u64>> = BTreeMap::new();
        let mut places: BTreeMap<(BucketId, Ino), Place> = BTreeMap::new();
        let mut links: BTreeMap<(BucketId, Ino), u32> = BTreeMap::new();
        for (key, dentry) in read::<Dentry>(state, rows::TREE, &[])? {
            let mut reader = KeyReader(&key);
            let bucket = BucketId(reader.u64().unwrap_or_default());
            let slot = reader.u16();
            let parent = DirId(reader.u64().unwrap_or_default());
            let name = rows::dentry_name(&key);
            self.expect("I13", slot == Some(parent.slot16()), || format!("slot of {key:?}"));
            let is_dir = dentry.dir().is_some();
            let is_named = name.as_ref().is_some_and(|name| name.ends_with(b"/") == is_dir);
            self.expect("I13", is_named, || format!("name of {key:?}"));
            *children.entry((bucket, parent)).or_default() += 1;
            if let Some(row) = dentry.dir() {
                let before = dirs.insert((bucket, row.id), (row.children, row.explicit));
                self.expect("I13", before.is_none(), || format!("{:?} twice", row.id));
                above.insert((bucket, row.id), parent);
                *subdirs.entry((bucket, parent)).or_default() += 1;
            }
            let at = || Place::At { parent, name: name.clone().unwrap_or_default() };
            match dentry {
                Dentry::Dir(_) => {}
                Dentry::Directory(dir) => {
                    places.insert((bucket, Ino(dir.row.id.0)), at());
                    counted.insert((bucket, dir.row.id), dir.subdirs);
                }
                Dentry::File(object) => self.object(bucket, &object),
                Dentry::Inode(inode) => {
                    self.expect("I13", inode.links == 1, || format!("{inode:?} in a dentry"));
                    places.insert((bucket, inode.ino), at());
                    if let Some(object) = inode.object() {
                        self.object(bucket, object);
                    }
                }
                Dentry::Link(ino) => *links.entry((bucket, ino)).or_default() += 1,
            }
        }
        let gone = mounts::gone(state)?;
        let mut nodes: BTreeSet<mounts::Known> = BTreeSet::new();
        for (key, place) in read::<Place>(state, rows::STATE, b"J")? {
            let mut reader = KeyReader(key.get(1..).unwrap_or_default());
            let bucket = BucketId(reader.u64().unwrap_or_default());
            let ino = Ino(reader.u64().unwrap_or_default());
            nodes.insert((bucket, ino));
            match place {
                Place::At { .. } if gone.contains(&(bucket, ino)) => {
                    let there = places.get(&(bucket, ino));
                    self.expect("I13", there.is_none(), || format!("{ino:?} is not gone"));
                }
                Place::At { .. } => {
                    let there = places.remove(&(bucket, ino));
                    self.expect("I13", there.as_ref() == Some(&place), || {
                        format!("{ino:?} is at {there:?}, its row says {place:?}")
                    });
                }
                Place::Own(inode) => {
                    let there = links.remove(&(bucket, ino)).unwrap_or_default();
                    self.expect("I13", there == inode.links && inode.ino == ino, || {
                        format!("{there} names of {inode:?}")
                    });
                    let holders = own::holders(bucket, ino);
                    let is_held = !read::<()>(state, rows::STATE, &holders)?.is_empty();
                    self.expect("I13", there > 0 || is_held, || format!("{inode:?} is lost"));
                    if let Some(object) = inode.object() {
                        self.object(bucket, object);
                    }
                }
                Place::Root(dir) => {
                    counted.insert((bucket, DirId::ROOT), dir.subdirs);
                }
            }
        }
        for what in mounts::contradictions(state, &nodes)? {
            self.expect("I13", false, || what);
        }
        self.expect("I13", places.is_empty(), || format!("nodes without 'J' rows: {places:?}"));
        self.expect("I13", links.is_empty(), || format!("names of no nodes: {links:?}"));
        for (dir, count) in counted {
            let there = subdirs.get(&dir).copied().unwrap_or_default();
            self.expect("I13", count.is_none_or(|count| count == there), || {
                format!("{dir:?} has {there} directories, counts {count:?}")
            });
        }
        for (bucket, dir) in above.keys() {
            let mut at = *dir;
            let mut seen = BTreeSet::new();
            while at != DirId::ROOT && seen.insert(at) {
                at = above.get(&(*bucket, at)).copied().unwrap_or(DirId::ROOT);
            }
            self.expect("I13", at == DirId::ROOT, || format!("cycle at {dir:?}"));
        }
        for (key, row) in read::<BucketRow>(state, rows::STATE, b"B")? {
            if let Some(LiveBucket { children, .. }) = row.live() {
                dirs.insert((BucketId(number(&key)), DirId::ROOT), (children, true));
            }
        }
        for (dir, (counted, explicit)) in &dirs {
            let there = children.remove(dir).unwrap_or_default();
            self.expect("I13", there == *counted, || {
                format!("{dir:?} has {there} children, counts {counted}")
            });
            self.expect("I13", there > 0 || *explicit, || format!("{dir:?} is empty"));
        }
        self.expect("I13", children.is_empty(), || format!("children of no one: {children:?}"));
        Ok(())
    }

    /// An object that a name, a version or a holder refers to.
    fn object(&mut self, bucket: BucketId, object: &Object) {
        *self.references.entry(object.content).or_default() += 1;
        let usage = self.usage.entry(bucket).or_default();
        usage.objects += 1;
        usage.bytes += object.size;
    }

    /// What snapshots keep counts for no quota.
    fn snapshots(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        let (found, contents) = snapshots::audit::check(state)?;
        for what in found {
            self.expect("I13", false, || what);
        }
        for content in contents {
            *self.references.entry(content).or_default() += 1;
        }
        Ok(())
    }

    fn versions(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        let tx = Tx::new(state);
        let mut nulls: BTreeMap<(u64, Vec<u8>), u64> = BTreeMap::new();
        let mut last: Option<(BucketId, Vec<u8>)> = None;
        for (row_key, row) in read::<VersionRow>(state, rows::STATE, b"V")? {
            let bucket = BucketId(number(&row_key));
            let Some((key, order)) = rows::parse_version(&row_key) else {
                self.expect("I13", false, || format!("key of a version: {row_key:?}"));
                continue;
            };
            let version = match &row {
                VersionRow::Object(object) => {
                    self.object(bucket, object);
                    object.version
                }
                VersionRow::Marker(marker) => marker.version,
            };
            self.expect("I13", version.is_none_or(|version| version.0 == order), || {
                format!("{key:?}: {version:?} at {order}")
            });
            if version.is_none() {
                let before = nulls.insert((bucket.0, key.clone()), order);
                self.expect("I13", before.is_none(), || format!("two null versions of {key:?}"));
            }
            let at = Some((bucket, key));
            if last == at {
                continue;
            }
            last = at;
            let Some((_, key)) = &last else { continue };
            let holds = match tree::lookup(&tx, bucket, key)? {
                Some(current) => {
                    let newer =
                        current.version.map_or(current.sequence, |v| rows::sequence_of(v.0));
                    let is_one_null =
                        current.version.is_some() || !nulls.contains_key(&(bucket.0, key.clone()));
                    newer >= rows::sequence_of(order) && is_one_null
                }
                None => matches!(row, VersionRow::Marker(_)),
            };
            self.expect("I13", holds, || format!("newest version of {key:?} is out of place"));
        }
        for (row_key, order) in read::<u64>(state, rows::STATE, b"N")? {
            let mut reader = KeyReader(row_key.get(1..).unwrap_or_default());
            let at = (reader.u64().unwrap_or_default(), reader.name().unwrap_or_default());
            let there = nulls.remove(&at);
            self.expect("I13", there == Some(order), || {
                format!("null version of {at:?}: {there:?}")
            });
        }
        self.expect("I13", nulls.is_empty(), || format!("null versions not noted: {nulls:?}"));
        Ok(())
    }

    fn uploads(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        for (key, part) in read::<PartRow>(state, rows::STATE, b"P")? {
            let mut reader = KeyReader(key.get(1..).unwrap_or_default());
            let upload = UploadId(reader.bytes16().unwrap_or_default());
            *self.references.entry(part.info.content).or_default() += 1;
            *self.with_parts.entry(upload).or_default() += part.info.size;
        }
        for (key, row) in read::<UploadRow>(state, rows::STATE, b"U")? {
            let bucket = BucketId(number(&key));
            let Some((_, id)) = rows::parse_upload(&key) else { continue };
            self.live_uploads.insert(id);
            let bytes = self.with_parts.get(&id).copied().unwrap_or_default();
            self.expect("I8", bytes == row.part_bytes, || {
                format!("upload {id} has {bytes} bytes, counts {}", row.part_bytes)
            });
            let usage = self.usage.entry(bucket).or_default();
            usage.uploads += 1;
            usage.part_bytes += bytes;
        }
        for (key, row) in read::<BucketRow>(state, rows::STATE, b"B")? {
            let there = self.usage.remove(&BucketId(number(&key))).unwrap_or_default();
            let counted = row.live().map_or_else(Usage::default, |row| row.usage);
            self.expect("I8", there == counted, || format!("{there:?}, counts {counted:?}"));
        }
        let strays = std::mem::take(&mut self.usage);
        self.expect("I8", strays.is_empty(), || format!("rows of no bucket: {strays:?}"));
        Ok(())
    }

    fn contents(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        let contents: BTreeMap<ContentId, ContentRow> =
            read::<ContentRow>(state, rows::CONTENT, b"c")?
                .into_iter()
                .map(|(key, row)| (ContentId(number(&key)), row))
                .collect();
        let mut ends: BTreeMap<ContentId, u64> = BTreeMap::new();
        for (key, page) in read::<Page>(state, rows::CONTENT, b"e")? {
            let content = ContentId(number(&key));
            let row = contents.get(&content);
            let kind = row.map(|row| &row.kind);
            let is_loose = matches!(kind, Some(ContentKind::File { .. }));
            // A completed upload's parts are referred to by its part rows.
            let is_counted =
                matches!(kind, Some(ContentKind::Linked | ContentKind::Log)) || is_loose;
            let mut entries = Vec::new();
            for part in page.into_parts() {
                entries.push((part.offset(), part.len()));
                match part {
                    Part::Own(extent) => {
                        *self.live_bytes.entry(extent.block).or_default() += extent.len;
                        let size = row.map_or(0, |row| row.coded_size_of(&extent));
                        let code = self.codes.entry((extent.k, extent.m)).or_default();
                        code.bytes += extent.len;
                        code.large_bytes += if is_large(size) { extent.len } else { 0 };
                    }
                    Part::Of(segment) => {
                        let below = contents.get(&segment.content);
                        // What grows, or is written by ranges, gets newer ones, of contents that cannot lead back.
                        let own = row.map_or(0, |row| row.depth);
                        let is_older = below.is_some_and(|below| {
                            let grows = kind == Some(&ContentKind::Log) || is_loose;
                            let leads_on = segment.content < content || grows && below.depth < own;
                            leads_on && below.depth < limits::LINK_DEPTH_MAX
                        });
                        // A completed upload's segments may lose their parts while it is freed.
                        let is_freed = row.is_some_and(|row| row.references == 0);
                        self.expect("I7", is_older || is_freed, || format!("{segment:?}"));
                        if is_counted {
                            *self.references.entry(segment.content).or_default() += 1;
                        }
                    }
                }
            }
            let end = ends.entry(content).or_insert_with(|| entries.first().map_or(0, |e| e.0));
            for (offset, len) in entries {
                if is_loose && *end <= offset {
                    *end = offset;
                }
                if *end != offset {
                    let what = format!("{content:?} has a gap at {end}");
                    self.found.push(Violation { invariant: "I7", what });
                }
                *end = offset + len;
            }
        }
        let released = self.released(state, &contents)?;
        for what in mounts::cuts(state, &contents)? {
            self.expect("I10", false, || what);
        }
        for (content, row) in &contents {
            let there = self.references.remove(content).unwrap_or_default();
            self.expect("I7", there == row.references, || {
                format!("{content:?} has {there} references, counts {}", row.references)
            });
            self.expect("I10", (there == 0) == released.contains(content), || {
                format!("{content:?} has {there} references; is it in the outbox?")
            });
            let paged = !matches!(row.kind, ContentKind::Empty | ContentKind::Inline { .. });
            let end = ends.get(content).copied().unwrap_or_default();
            let is_whole = match row.kind {
                ContentKind::File { .. } => end <= row.size,
                _ => end == row.size,
            };
            self.expect("I7", !paged || there == 0 || is_whole, || {
                format!("{content:?} ends at {end}, counts {}", row.size)
            });
        }
        let dangling = std::mem::take(&mut self.references);
        self.expect("I7", dangling.is_empty(), || format!("references to nothing: {dangling:?}"));
        Ok(())
    }

    /// Contents in the outbox; checks that every part row belongs to someone.
    fn released(
        &mut self,
        state: &dyn KvRead,
        contents: &BTreeMap<ContentId, ContentRow>,
    ) -> Result<BTreeSet<ContentId>, KvError> {
        let mut owners = std::mem::take(&mut self.live_uploads);
        owners.extend(contents.values().filter_map(|row| match row.kind {
            ContentKind::Parts { upload } => Some(upload),
            _ => None,
        }));
        let mut released = BTreeSet::new();
        for (_, row) in read::<OutboxRow>(state, rows::STATE, b"O")? {
            match row.what {
                Released::Content(content) => {
                    let is_new = released.insert(content);
                    self.expect("I10", is_new, || format!("{content:?} released twice"));
                }
                Released::Mount(_)
                | Released::Nodes(..)
                | Released::End(_)
                | Released::Snapshot(..) => {}
                Released::Upload(upload) | Released::Parts(upload, _) => {
                    owners.insert(upload);
                }
            }
        }
        for (_, row) in read::<MovedRow>(state, rows::STATE, b"M")? {
            for extent in row.extents {
                *self.live_bytes.entry(extent.block).or_default() += extent.len;
            }
        }
        let with_parts = std::mem::take(&mut self.with_parts);
        for upload in with_parts.keys() {
            self.expect("I10", owners.contains(upload), || format!("parts of no one: {upload}"));
        }
        Ok(released)
    }

    fn blocks(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        let mut wanted: BTreeSet<(PgId, BlockId, u8)> = BTreeSet::new();
        for (key, row) in read::<BlockRow>(state, rows::CONTENT, b"b")? {
            let Some(block) = rows::parse_block(&key) else { continue };
            let live = self.live_bytes.remove(&block).unwrap_or_default();
            self.expect("I10", live > 0 && live == u64::from(row.live), || {
                format!("block {block} has {live} live bytes, counts {}", row.live)
            });
            let is_dead = state.get(rows::STATE, &rows::dead(block))?.is_some();
            self.expect("I10", !is_dead, || format!("block {block} is live and dead"));
            wanted.extend(slots(row.missing_mask).map(|slot| (row.pg, block, slot)));
            let code = self.codes.entry((row.k, row.m)).or_default();
            code.blocks += 1;
            code.block_bytes += u64::from(row.len);
        }
        let unbound = std::mem::take(&mut self.live_bytes);
        self.expect("I10", unbound.is_empty(), || format!("extents of no block: {unbound:?}"));
        let queue: BTreeSet<_> = read::<rows::RepairRow>(state, rows::STATE, b"R")?
            .iter()
            .filter_map(|(key, _)| rows::parse_repair(key))
            .collect();
        for (key, row) in read::<CodeRow>(state, rows::STATE, b"C")? {
            let Some((k, m)) = rows::parse_code(&key) else { continue };
            let there = self.codes.remove(&(k, m)).unwrap_or_default();
            let CodeRow { blocks, block_bytes, bytes, large_bytes, .. } = row;
            let counted =
                CodeUsage { blocks, block_bytes, bytes, large_bytes, ..CodeUsage::default() };
            self.expect("I8", there == counted, || {
                format!("code {k}+{m} has {there:?}, counts {counted:?}")
            });
        }
        let uncounted = std::mem::take(&mut self.codes);
        self.expect("I8", uncounted.is_empty(), || format!("not counted: {uncounted:?}"));
        self.expect("I2", queue == wanted, || format!("queue {queue:?}, missing {wanted:?}"));
        Ok(())
    }
}
