//! What lifecycle rules did, for whoever tells of it: read, told, and only then forgotten.

use nexusgrid_codec::GroupId;
use nexusgrid_env::UnixMillis;
use nexusgrid_meta::namespace::limits::ENDS_MAX;
use nexusgrid_meta::namespace::types::{End, NamespaceAnswer, NamespaceCommand, NamespaceQuery};
pub use nexusgrid_meta::namespace::types::{EndKind, EndMark};
use nexusgrid_meta::root::topology::Topology;

use crate::care::rewrite::worker::is_own;
use crate::convert;
use crate::core::internal;
use crate::error::GridError;
use crate::facade::Grid;
use crate::version::VersionName;

/// Something that lifecycle rules did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEnd {
    /// The bucket; `None`: it is gone.
    pub bucket: Option<String>,
    /// The key.
    pub key: String,
    /// The version, or the marker that was made; `None`: versions are not kept.
    pub version: Option<VersionName>,
    /// What was done.
    pub kind: EndKind,
    /// Bytes of the version; 0 of a marker.
    pub size: u64,
    /// ETag of the version; empty of a marker.
    pub etag: String,
    /// When.
    pub at: UnixMillis,
}

/// The oldest of what lifecycle rules did in one metadata group and was not forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The group.
    pub group: u32,
    /// The last of them.
    pub through: EndMark,
    /// They, in order.
    pub ends: Vec<ObjectEnd>,
}

fn object_end(map: &Topology, end: End) -> ObjectEnd {
    let bucket = map.buckets.values().find(|bucket| bucket.id == end.bucket);
    ObjectEnd {
        bucket: bucket.map(|bucket| bucket.name.clone()),
        key: convert::text(&end.key),
        version: end.version.map(convert::version_name),
        kind: end.kind,
        size: end.size,
        etag: end.etag,
        at: UnixMillis(end.at_ms),
    }
}

impl Grid {
    /// Says whether what lifecycle rules do in a bucket is noted, to be told.
    pub async fn tell_ends(&self, bucket: &str, told: bool) -> Result<(), GridError> {
        let bucket = self.core.map.bucket(bucket).await?;
        let command = NamespaceCommand::TellEnds { bucket: bucket.id, told };
        match self.core.meta.command(bucket.group, &command).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// What is to be told, a page of each metadata group that is this gateway's to look after. Two gateways may
    /// think so of one group: then something is told twice.
    pub async fn ends(&self) -> Result<Vec<Ends>, GridError> {
        let core = &self.core;
        let mut found = Vec::new();
        for group in core.map.metadata_groups() {
            let map = core.map.current();
            if !is_own(core, &map, group) {
                continue;
            }
            let ends = match core.meta.ask(group, &NamespaceQuery::Ends { limit: ENDS_MAX }).await {
                Ok(NamespaceAnswer::Ends(ends)) => ends,
                Ok(_) => return Err(internal("answer to a query for what ended")),
                // The others' are told all the same.
                Err(error) => {
                    tracing::warn!(group = group.0, %error, "a group does not say what ended");
                    continue;
                }
            };
            let Some((through, _)) = ends.last() else { continue };
            let through = *through;
            let ends = ends.into_iter().map(|(_, end)| object_end(&map, end)).collect();
            found.push(Ends { group: group.0, through, ends });
        }
        Ok(found)
    }

    /// Forgets what was told.
    pub async fn forget_ends(&self, group: u32, through: EndMark) -> Result<(), GridError> {
        let command = NamespaceCommand::ForgetEnds { through };
        self.core.meta.command(GroupId(group), &command).await?;
        Ok(())
    }
}
