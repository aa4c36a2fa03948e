//! Which objects blocks belong to: what a fault means to people.
//!
//! ```text
//!   blocks ──extents──▶ contents ──every name of the group's buckets──▶ objects
//! ```
//!
//! Rows lead from names to blocks, and a way back would cost every write one more. So this goes through
//! all pages of extents and all names of a group, and only if there is something to name.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::BoxFuture;
use nexusgrid_codec::{BlockId, GroupId};
use nexusgrid_meta::namespace::types::{
    BucketId, ContentId, ContentMap, ExtentFilter, NamespaceAnswer, NamespaceQuery, Object,
    PieceData, RangeSpec, VersionEntry, VersionId, VersionRef,
};
use nexusgrid_meta::root::topology::Topology;

use crate::limits;

/// An object that a fault touches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its version; `None`: the bucket keeps none, or the null version.
    pub version: Option<u64>,
}

/// Objects by the blocks that hold their bytes. A block without any is of an upload that is not
/// complete, or of bytes that nothing refers to any more.
pub type Names = BTreeMap<BlockId, Vec<ObjectName>>;

/// Asks the group in question.
pub type Ask<'a, E> =
    &'a (dyn Fn(NamespaceQuery) -> BoxFuture<'a, Result<NamespaceAnswer, E>> + Sync);

/// The objects of blocks of one group, which `ask` asks; some, where many share a block. `None`: an
/// answer was of another kind than the question.
pub async fn objects_of<E>(
    map: &Topology,
    group: GroupId,
    blocks: BTreeSet<BlockId>,
    ask: Ask<'_, E>,
) -> Result<Option<Names>, E> {
    let mut search = Search { names: Names::new(), contents: BTreeMap::new(), blocks };
    if search.blocks.is_empty() || !search.find_contents(ask).await? {
        return Ok(Some(search.names));
    }
    for bucket in map.buckets.values().filter(|bucket| bucket.group == group) {
        let mut after = None;
        loop {
            let query = NamespaceQuery::ListVersions {
                bucket: bucket.id,
                prefix: Vec::new(),
                delimiter: None,
                after,
                limit: limits::LIST_PAGE_MAX,
            };
            let NamespaceAnswer::Versions(page) = ask(query).await? else { return Ok(None) };
            for entry in page.entries {
                let VersionEntry::Object { key, object, .. } = entry else { continue };
                let held = search.blocks_of(bucket.id, &key, &object, ask).await?;
                search.note(&bucket.name, &key, &object, held);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(Some(search.names))
}

struct Search {
    names: Names,
    /// Contents that have extents in the blocks looked for.
    contents: BTreeMap<ContentId, BTreeSet<BlockId>>,
    blocks: BTreeSet<BlockId>,
}

impl Search {
    /// Whether there are any.
    async fn find_contents<E>(&mut self, ask: Ask<'_, E>) -> Result<bool, E> {
        let filter =
            ExtentFilter { blocks: self.blocks.iter().copied().collect(), codes: Vec::new() };
        let mut after = None;
        loop {
            let query = NamespaceQuery::FindExtents {
                filter: filter.clone(),
                after,
                limit: limits::REWRITE_EXTENTS_PAGE,
            };
            let NamespaceAnswer::FoundExtents { found, next } = ask(query).await? else { break };
            for extent in found {
                self.contents.entry(extent.content).or_default().insert(extent.extent.block);
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        Ok(!self.contents.is_empty())
    }

    /// The blocks looked for that an object has bytes in.
    async fn blocks_of<E>(
        &self,
        bucket: BucketId,
        key: &[u8],
        object: &Object,
        ask: Ask<'_, E>,
    ) -> Result<BTreeSet<BlockId>, E> {
        if object.parts == 0 {
            return Ok(self.contents.get(&object.content).cloned().unwrap_or_default());
        }
        // Of parts, each a content of its own.
        let mut held = BTreeSet::new();
        let version = VersionRef { bucket, key: key.to_vec(), version: object.version };
        let query = NamespaceQuery::GetVersion { version, range: RangeSpec::Full };
        let mut page = match ask(query).await? {
            // Another one by now: whoever looks again finds out.
            NamespaceAnswer::Get(got) if got.object.content == object.content => got.map,
            _ => return Ok(held),
        };
        loop {
            held.extend(self.known(&page));
            let Some(next) = page.next else { return Ok(held) };
            let query = NamespaceQuery::Extents {
                content: object.content,
                offset: next,
                len: object.size.saturating_sub(next),
            };
            let NamespaceAnswer::Map(map) = ask(query).await? else { return Ok(held) };
            page = map;
        }
    }

    fn known(&self, page: &ContentMap) -> Vec<BlockId> {
        let blocks = page.pieces.iter().filter_map(|piece| match &piece.data {
            PieceData::Extent(extent) => Some(extent.block),
            PieceData::Inline { .. } | PieceData::Hole => None,
        });
        blocks.filter(|block| self.blocks.contains(block)).collect()
    }

    fn note(&mut self, bucket: &str, key: &[u8], object: &Object, held: BTreeSet<BlockId>) {
        for block in held {
            let names = self.names.entry(block).or_default();
            let version = object.version.filter(|version| *version != VersionId::NULL);
            if names.len() < limits::FSCK_NAMES_MAX {
                names.push(ObjectName {
                    bucket: bucket.to_owned(),
                    key: String::from_utf8_lossy(key).into_owned(),
                    version: version.map(|version| version.0),
                });
            }
        }
    }
}
