//! The façade: one method per operation of the floors above. The work is in `objects`, `uploads`
//! and `buckets`; here is what they share.

use std::sync::Arc;

use futures_util::{TryStreamExt, stream};
use nexusgrid_codec::GroupId;
use nexusgrid_meta::namespace::types::{
    ContentId, ContentMap, NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceQuery,
    Object, Precondition as ConditionRow, RangeSpec,
};
use nexusgrid_meta::root::topology::{Bucket, Topology};

use crate::api::{
    ByteRange, ObjectInfo, PartInfo, Precondition, ReadStream, ResolvedRange, Tenant,
};
use crate::care::{FsckReport, RecodeLeft, fsck, rewrite};
use crate::convert;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::meta_port::MetaError;
use crate::metrics::GridMetrics;
use crate::pack::Packer;
use crate::read::ContentRange;
use crate::session::Pin;
use crate::version::VersionName;
use crate::versions::version_ref;

/// A node's door to the grid; cheap to clone. All calls may be made from any task; dropping a
/// call's future abandons it: what was not acknowledged may or may not have happened.
#[derive(Clone)]
pub struct Grid {
    pub(crate) core: Arc<Core>,
    pub(crate) packer: Arc<Packer>,
    /// Whether it leads to the grid's own bucket.
    pub(crate) own: bool,
}

/// An object opened for reading: one version, pinned until this and all its streams are dropped.
pub struct ObjectReader {
    core: Arc<Core>,
    info: ObjectInfo,
    group: GroupId,
    content: ContentId,
    map: ContentMap,
    pin: Pin,
    tenant: Tenant,
}

impl ObjectReader {
    /// What is being read. Evaluate conditional headers on this, then call [`ObjectReader::read`].
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// Whose share of the byte budget reads take; until set, the bucket's name is a tenant.
    #[must_use]
    pub fn on_behalf_of(mut self, tenant: Tenant) -> ObjectReader {
        self.tenant = tenant;
        self
    }

    /// Up to `count` parts of the object from the `from`-th (from 0) on, if an upload made it: with
    /// what they were stored with. A last part without bytes is not among them.
    pub async fn parts(&self, from: usize, count: usize) -> Result<Vec<PartInfo>, GridError> {
        let mut found: Vec<PartInfo> = Vec::new();
        while found.len() < count {
            let bounded = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let query = NamespaceQuery::PartsOf {
                content: self.content,
                skip: bounded(from.saturating_add(found.len())),
                limit: bounded(count - found.len()).min(limits::LIST_PAGE_MAX),
            };
            match self.core.meta.ask(self.group, &query).await? {
                NamespaceAnswer::PartsOf(parts) if parts.is_empty() => break,
                NamespaceAnswer::PartsOf(parts) => {
                    found.extend(parts.iter().map(convert::part_info));
                }
                _ => return Err(internal("answer to a query for parts")),
            }
        }
        Ok(found)
    }

    /// A range of the bytes (all if `None`). Nothing is fetched, and no memory reserved, before the
    /// stream is polled; `SlowDown` can only be its first item, and so is `Unreadable` for shards
    /// that were out of reach when the read began.
    pub fn read(self, range: Option<ByteRange>) -> Result<(ResolvedRange, ReadStream), GridError> {
        let size = self.info.size;
        let range = match range {
            Some(range) => range.resolve(size)?,
            None => ResolvedRange { start: 0, end: size },
        };
        let ObjectReader { core, group, content, map, pin, tenant, .. } = self;
        let wanted = ContentRange { group, content, range, map };
        let open = async move { core.stream(&tenant, wanted, pin).await };
        Ok((range, Box::pin(stream::once(open).try_flatten())))
    }
}

impl Grid {
    pub(crate) fn new(core: Arc<Core>) -> Grid {
        Grid { core, packer: Arc::default(), own: false }
    }

    /// The map as this node has it: nodes, drives, placement groups, buckets. For status displays.
    pub fn topology(&self) -> Arc<Topology> {
        self.core.map.current()
    }

    /// Compares metadata with drives, the whole grid; `repair` puts what is missing on the repair
    /// queues. Takes as long as it takes to list everything.
    pub async fn fsck(&self, repair: bool) -> Result<FsckReport, GridError> {
        fsck::run(&self.core, repair).await
    }

    /// What lies in another code than the one that today's hosts allow; it is moved little by little.
    pub async fn recode_left(&self) -> Result<RecodeLeft, GridError> {
        rewrite::left(&self.core).await
    }

    /// Bytes of the body budget that nobody holds, and all of it.
    pub fn budget_bytes(&self) -> (u64, u64) {
        (self.core.budget.free_bytes(), self.core.budget.capacity_bytes())
    }

    /// What this process counts.
    pub fn metrics(&self) -> GridMetrics {
        let (free, all) = self.budget_bytes();
        self.core.counters.read(free, all)
    }

    /// Seals a small secret under the master key, bound to `name` (an access key's id).
    pub fn seal_secret(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, GridError> {
        self.core.keys.seal_secret(name, secret)
    }

    /// The inverse of [`Grid::seal_secret`].
    pub fn open_secret(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, GridError> {
        self.core.keys.open_secret(name, sealed)
    }

    /// A bucket and a checked key.
    pub(crate) async fn place(&self, bucket: &str, key: &str) -> Result<Bucket, GridError> {
        if key.is_empty() || key.len() > limits::KEY_BYTES_MAX {
            return Err(GridError::KeyTooLong);
        }
        self.named(bucket).await
    }

    /// The current object, if there is one.
    pub(crate) async fn find(
        &self,
        bucket: &Bucket,
        key: &str,
    ) -> Result<Option<Object>, GridError> {
        match self.find_version(bucket, key, None).await {
            Ok(object) => Ok(Some(object)),
            Err(GridError::NoSuchKey | GridError::DeleteMarker { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks conditions early and gives the one to check in the commit.
    pub(crate) async fn condition(
        &self,
        bucket: &Bucket,
        key: &str,
        conditions: &Precondition,
    ) -> Result<ConditionRow, GridError> {
        if *conditions == Precondition::default() {
            return Ok(ConditionRow::None);
        }
        let current = self.find(bucket, key).await?;
        let etag = current.as_ref().map(|object| object.meta.etag.as_str());
        if !convert::satisfies(conditions, etag) {
            let absent = etag.is_none() && conditions.if_match.is_some();
            return Err(if absent { GridError::NoSuchKey } else { GridError::PreconditionFailed });
        }
        Ok(convert::condition_row(conditions, etag))
    }

    /// A refusal as the caller should hear it. A bucket that root has and its group has not was
    /// made by someone who died in between: the group learns of it now, the caller tries again.
    pub(crate) async fn explain(&self, bucket: &Bucket, error: MetaError) -> GridError {
        if error != MetaError::Namespace(NamespaceError::NoSuchBucket) {
            return error.into();
        }
        let map = match self.core.map.refresh().await {
            Ok(map) => map,
            Err(error) => return error.into(),
        };
        if map.bucket(&bucket.name).is_none_or(|now| now.id != bucket.id) {
            return GridError::NoSuchBucket;
        }
        match self.init_bucket(bucket).await {
            Ok(()) => GridError::Conflict,
            Err(error) => error,
        }
    }

    /// Makes a bucket known to its group; fine if it is.
    pub(crate) async fn init_bucket(&self, bucket: &Bucket) -> Result<(), GridError> {
        let quota_bytes = bucket.settings.quota_bytes;
        let command = NamespaceCommand::InitBucket { bucket: bucket.id, quota_bytes };
        self.core.meta.command(bucket.group, &command).await?;
        Ok(())
    }

    /// Opens an object for reading.
    pub async fn open(&self, bucket: &str, key: &str) -> Result<ObjectReader, GridError> {
        self.open_version(bucket, key, None).await
    }

    /// Opens a version for reading; without one the current object.
    pub async fn open_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<ObjectReader, GridError> {
        let place = self.place(bucket, key).await?;
        // Before the query: what it names is kept from now on.
        let pin = self.core.sessions.pin(place.group);
        let query = match version {
            None => NamespaceQuery::Get {
                bucket: place.id,
                key: key.as_bytes().to_vec(),
                range: RangeSpec::Full,
            },
            Some(_) => NamespaceQuery::GetVersion {
                version: version_ref(&place, key, version),
                range: RangeSpec::Full,
            },
        };
        let got = match self.core.meta.ask(place.group, &query).await {
            Ok(NamespaceAnswer::Get(got)) => got,
            Ok(_) => return Err(internal("answer to a get query")),
            Err(error) => return Err(self.explain(&place, error).await),
        };
        let part_sizes = self.part_sizes(&place, &got.object).await?;
        Ok(ObjectReader {
            core: Arc::clone(&self.core),
            info: convert::object_info(key, &got.object, part_sizes),
            group: place.group,
            content: got.object.content,
            map: got.map,
            pin,
            tenant: Tenant(format!("bucket {bucket}")),
        })
    }

    /// Sizes of the parts of an object that an upload made; remembered, for a content never changes.
    pub(crate) async fn part_sizes(
        &self,
        bucket: &Bucket,
        object: &Object,
    ) -> Result<Vec<u64>, GridError> {
        match object.parts {
            0 => return Ok(Vec::new()),
            1 => return Ok(vec![object.size]),
            _ => {}
        }
        let name = (bucket.group, object.content);
        if let Some(sizes) = self.core.part_sizes.lock().get(&name) {
            return Ok(sizes.clone());
        }
        let sizes = self.ask_part_sizes(bucket, object).await?;
        let mut known = self.core.part_sizes.lock();
        if known.len() >= limits::PART_SIZES_CACHED_MAX {
            known.pop_first();
        }
        known.insert(name, sizes.clone());
        Ok(sizes)
    }

    async fn ask_part_sizes(
        &self,
        bucket: &Bucket,
        object: &Object,
    ) -> Result<Vec<u64>, GridError> {
        let query = NamespaceQuery::PartSizes { content: object.content };
        let mut sizes = match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::PartSizes(sizes)) => sizes,
            Ok(_) => return Err(internal("answer to a query for part sizes")),
            // Replaced, and freed already, since it was looked up.
            Err(MetaError::Namespace(NamespaceError::NoSuchContent)) => {
                return Err(GridError::Conflict);
            }
            Err(error) => return Err(self.explain(bucket, error).await),
        };
        // The last part may be empty.
        sizes.resize(usize::from(object.parts), 0);
        Ok(sizes)
    }
}
