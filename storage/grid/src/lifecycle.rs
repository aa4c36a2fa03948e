//! What becomes of a bucket's objects with time: laid down here, carried out by the worker `lifecycle`.

pub use nexusgrid_meta::namespace::types::{
    DAY_MS, Lifecycle, LifecycleRule, Noncurrent, StorageClass, When,
};
use nexusgrid_meta::namespace::types::{NamespaceAnswer, NamespaceCommand, NamespaceQuery};

use crate::core::internal;
use crate::error::GridError;
use crate::facade::Grid;

impl Grid {
    /// The rules of a bucket as its owner gave them; as of now. `None`: there are none.
    pub async fn lifecycle(&self, bucket: &str) -> Result<Option<Vec<u8>>, GridError> {
        let bucket = self.core.map.bucket(bucket).await?;
        let query = NamespaceQuery::Lifecycle { bucket: bucket.id };
        match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::LifecycleText(text)) => Ok(text),
            Ok(_) => Err(internal("answer to a query for lifecycle rules")),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// Lays down rules: those that are in force, and all of them as their owner gave them. They hold when
    /// this returns, for what is there and for what comes. How long a day is, is this node's to say.
    pub async fn set_lifecycle(
        &self,
        bucket: &str,
        rules: Option<(Lifecycle, Vec<u8>)>,
    ) -> Result<(), GridError> {
        let bucket = self.core.map.bucket(bucket).await?;
        let day_ms = self.core.options.care.lifecycle_day.as_millis();
        let day_ms = u64::try_from(day_ms).unwrap_or(DAY_MS).max(1);
        let rules = rules.map(|(rules, text)| (Lifecycle { day_ms, ..rules }, text));
        let command = NamespaceCommand::SetLifecycle { bucket: bucket.id, rules };
        match self.core.meta.command(bucket.group, &command).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }
}
