//! Records of the gateways: identities, and what owners lay down for their buckets.
//!
//! They live in the root group; here they are only carried there and back. Whoever keeps some
//! asks [`Grid::rules_version`] whether they may be old: the node's copy of the map brings it, so
//! what is kept is never older than that copy.

use nexusgrid_meta::root::records::bucket_records;
use nexusgrid_meta::root::types::{RootAnswer, RootCommand, RootQuery};

use crate::api::{BucketInfo, Record, RecordWrite};
use crate::convert;
use crate::core::internal;
use crate::error::GridError;
use crate::facade::Grid;
use crate::limits;

impl Grid {
    /// A bucket as the node's copy of the map has it; a newer one is read before it is said that
    /// there is none.
    pub async fn bucket(&self, name: &str) -> Result<BucketInfo, GridError> {
        Ok(convert::bucket_info(&self.core.map.bucket(name).await?))
    }

    /// Changes with every change of a record anywhere, as far as this node has heard.
    pub fn rules_version(&self) -> u64 {
        self.core.map.current().rules_version
    }

    /// Where the records of a bucket are: the beginning of their paths.
    pub fn bucket_records(&self, bucket: &BucketInfo) -> String {
        bucket_records(nexusgrid_meta::namespace::types::BucketId(bucket.id))
    }

    /// Records whose paths begin alike, in order, after `after`; all up to `limit`.
    pub async fn records(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Record>, GridError> {
        let mut found: Vec<Record> = Vec::new();
        while found.len() < limit {
            let after = found.last().map_or(after, |record| record.path.as_str()).to_owned();
            let wanted = (limit - found.len()).min(limits::RECORDS_PAGE_MAX);
            let query = RootQuery::RecordsUnder {
                prefix: prefix.to_owned(),
                after,
                limit: u32::try_from(wanted).unwrap_or(u32::MAX),
            };
            let RootAnswer::Records { records, more } = self.core.meta.root_ask(&query).await?
            else {
                return Err(internal("answer to a query for records"));
            };
            found.extend(records);
            if !more {
                break;
            }
        }
        Ok(found)
    }

    /// Records by path: those that there are.
    pub async fn records_at(&self, paths: &[String]) -> Result<Vec<Record>, GridError> {
        let mut found: Vec<Record> = Vec::new();
        let mut paths = paths.to_vec();
        paths.sort_unstable();
        while !paths.is_empty() {
            let query = RootQuery::Records { paths: paths.clone() };
            let RootAnswer::Records { records, more } = self.core.meta.root_ask(&query).await?
            else {
                return Err(internal("answer to a query for records"));
            };
            let last = records.last().map(|record| record.path.clone());
            found.extend(records);
            match last {
                Some(last) if more => paths.retain(|path| *path > last),
                _ => break,
            }
        }
        Ok(found)
    }

    /// Changes records, all or none; `Conflict` if one is not what was expected. When it returns,
    /// this node has heard of it.
    pub async fn write_records(&self, writes: Vec<RecordWrite>) -> Result<(), GridError> {
        self.core.meta.root_command(&RootCommand::WriteRecords(writes)).await?;
        self.core.map.refresh().await?;
        Ok(())
    }
}
