//! Buckets: made and dropped in two groups, root first, so that a name is never taken twice.
//!
//! ```text
//!  create   root: name, id, group, sealed key ──▶ group: rows may be written
//!  delete   root: Deleting (no writes) ──▶ group: dropped if empty ──▶ root: gone
//!                                               └ not empty ──▶ root: Active again
//! ```
//!
//! A crash in between is healed by whoever comes next.

use nexusgrid_meta::namespace::types::{
    NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceQuery,
};
use nexusgrid_meta::root::types::{BucketSettings, RootCommand, RootError, RootOk};

use crate::api::{Allowance, BucketInfo, BucketUsage};
use crate::convert;
use crate::core::internal;
use crate::error::GridError;
use crate::facade::Grid;
use crate::meta_port::MetaError;

impl Grid {
    /// Makes a bucket owned by `owner`. `BucketExists` names the owner if there is one already.
    pub async fn create_bucket(&self, name: &str, owner: &str) -> Result<BucketInfo, GridError> {
        let command = RootCommand::CreateBucket {
            name: name.to_owned(),
            owner: owner.to_owned(),
            settings: BucketSettings::default(),
            sealed_key: self.core.keys.new_bucket_key(name)?,
            now_ms: self.core.meta.now_ms(),
        };
        let made = self.core.meta.root_command(&command).await;
        let map = self.core.map.refresh().await?;
        let bucket = map.bucket(name).cloned();
        match (made, bucket) {
            (Ok(RootOk::Bucket { .. }), Some(bucket)) => {
                self.init_bucket(&bucket).await?;
                Ok(convert::bucket_info(&bucket))
            }
            // Made, and deleted by another before it was seen.
            (Ok(_), _) => Err(GridError::Conflict),
            (Err(MetaError::Root(RootError::BucketOwned)), Some(bucket)) => {
                self.init_bucket(&bucket).await?;
                Err(GridError::BucketExists { owner: bucket.owner })
            }
            (Err(MetaError::Root(RootError::BucketExists)), Some(bucket)) => {
                Err(GridError::BucketExists { owner: bucket.owner })
            }
            (
                Err(MetaError::Root(
                    RootError::BucketDeleting | RootError::BucketExists | RootError::BucketOwned,
                )),
                _,
            ) => Err(GridError::Conflict),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// A bucket, or `NoSuchBucket`; as of now.
    pub async fn head_bucket(&self, name: &str) -> Result<BucketInfo, GridError> {
        let map = self.core.map.refresh().await?;
        map.bucket(name).map(convert::bucket_info).ok_or(GridError::NoSuchBucket)
    }

    /// All buckets, by name; as of now.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, GridError> {
        let map = self.core.map.refresh().await?;
        let active = map.buckets.keys().filter_map(|name| map.bucket(name));
        Ok(active.map(convert::bucket_info).collect())
    }

    /// What a bucket holds, and the most it may.
    pub async fn bucket_usage(&self, name: &str) -> Result<BucketUsage, GridError> {
        let bucket = self.core.map.bucket(name).await?;
        let query = NamespaceQuery::Held { bucket: bucket.id };
        match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::Held(usage, allowance)) => Ok(BucketUsage {
                objects: usage.objects,
                bytes: usage.bytes,
                uploads: usage.uploads,
                part_bytes: usage.part_bytes,
                quota_bytes: bucket.settings.quota_bytes,
                allowance,
            }),
            Ok(_) => Err(internal("answer to a query for usage")),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// Sets the most bytes that a bucket may hold; what it holds already stays.
    pub async fn set_quota(&self, name: &str, quota_bytes: Option<u64>) -> Result<(), GridError> {
        let bucket = self.core.map.bucket(name).await?;
        // The root group's word is what a group is told that has lost the bucket; its own counts.
        let settings = BucketSettings { quota_bytes, ..bucket.settings.clone() };
        let command = RootCommand::SetBucketSettings { bucket: bucket.id, settings };
        self.core.meta.root_command(&command).await?;
        let command = NamespaceCommand::SetQuota { bucket: bucket.id, quota_bytes };
        match self.core.meta.command(bucket.group, &command).await {
            Ok(_) => self.core.map.refresh().await.map(drop).map_err(GridError::from),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// Says what its owner's quota leaves a bucket; what it holds already stays.
    pub async fn set_allowance(&self, name: &str, allowance: Allowance) -> Result<(), GridError> {
        let bucket = self.core.map.bucket(name).await?;
        let command = NamespaceCommand::SetAllowance { bucket: bucket.id, allowance };
        match self.core.meta.command(bucket.group, &command).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// Removes an empty bucket.
    pub async fn delete_bucket(&self, name: &str) -> Result<(), GridError> {
        let command = RootCommand::BeginDeleteBucket { name: name.to_owned() };
        let (bucket, group) = match self.core.meta.root_command(&command).await {
            Ok(RootOk::Bucket { bucket, group }) => (bucket, group),
            Ok(_) => return Err(internal("reply to deleting a bucket")),
            Err(error) => return Err(error.into()),
        };
        let drop = NamespaceCommand::DropBucketIfEmpty { bucket };
        let refusal = match self.core.meta.command(group, &drop).await {
            Ok(_) | Err(MetaError::Namespace(NamespaceError::NoSuchBucket)) => None,
            // Only a definite "not empty" opens it again: a drop of unknown outcome may have been.
            Err(MetaError::Namespace(NamespaceError::BucketNotEmpty)) => {
                Some(GridError::BucketNotEmpty)
            }
            Err(error) => return Err(error.into()),
        };
        let end = match refusal {
            None => RootCommand::FinishDeleteBucket { bucket },
            Some(_) => RootCommand::CancelDeleteBucket { bucket },
        };
        self.core.meta.root_command(&end).await?;
        self.core.map.refresh().await?;
        refusal.map_or(Ok(()), Err)
    }
}
