//! Where the records of a bucket go: S3's `LoggingEnabled`, and the names of the objects.

use nexusgrid_iam::time;
use s3s::dto::{
    LoggingEnabled, PartitionDateSource, PartitionedPrefix, SimplePrefix, TargetObjectKeyFormat,
};

/// How objects with records are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyFormat {
    /// `PREFIX2026-11-22-20-15-00-UNIQUE`.
    Simple,
    /// `PREFIXACCOUNT/REGION/BUCKET/2026/11/22/2026-11-22-20-15-00-UNIQUE`, by the time of delivery.
    ByDelivery,
    /// The same by the day of the requests; the time of day is zero.
    ByEvent,
}

/// Where the records of one bucket go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The bucket that gets them.
    pub bucket: String,
    /// With what the keys begin.
    pub prefix: String,
    /// How they go on.
    pub format: KeyFormat,
}

/// Whose records they are, where the key says so.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The account that owns the bucket.
    pub account: &'a str,
    /// The grid's region.
    pub region: &'a str,
    /// The bucket.
    pub bucket: &'a str,
}

impl Target {
    /// What was laid down; `None` for a format that does not exist.
    pub fn read(enabled: &LoggingEnabled) -> Option<Target> {
        let format = match &enabled.target_object_key_format {
            None => KeyFormat::Simple,
            Some(TargetObjectKeyFormat { partitioned_prefix: None, .. }) => KeyFormat::Simple,
            Some(TargetObjectKeyFormat { simple_prefix: Some(_), .. }) => return None,
            Some(TargetObjectKeyFormat { partitioned_prefix: Some(partitioned), .. }) => {
                match partitioned.partition_date_source.as_ref().map(PartitionDateSource::as_str) {
                    None | Some(PartitionDateSource::DELIVERY_TIME) => KeyFormat::ByDelivery,
                    Some(PartitionDateSource::EVENT_TIME) => KeyFormat::ByEvent,
                    Some(_) => return None,
                }
            }
        };
        let (bucket, prefix) = (enabled.target_bucket.clone(), enabled.target_prefix.clone());
        Some(Target { bucket, prefix, format })
    }

    /// As it is shown.
    pub fn show(&self) -> LoggingEnabled {
        let partitioned = |source| TargetObjectKeyFormat {
            partitioned_prefix: Some(PartitionedPrefix {
                partition_date_source: Some(PartitionDateSource::from_static(source)),
            }),
            simple_prefix: None,
        };
        let format = match self.format {
            KeyFormat::Simple => TargetObjectKeyFormat {
                partitioned_prefix: None,
                simple_prefix: Some(SimplePrefix::default()),
            },
            KeyFormat::ByDelivery => partitioned(PartitionDateSource::DELIVERY_TIME),
            KeyFormat::ByEvent => partitioned(PartitionDateSource::EVENT_TIME),
        };
        LoggingEnabled {
            target_bucket: self.bucket.clone(),
            target_grants: None,
            target_object_key_format: Some(format),
            target_prefix: self.prefix.clone(),
        }
    }

    /// The key of an object with records. `unique` makes it differ from all others.
    pub fn key(&self, source: Source<'_>, unix_ms: u64, unique: &str) -> String {
        let prefix = &self.prefix;
        let written = |pattern| time::written(unix_ms, pattern);
        let Source { account, region, bucket } = source;
        match self.format {
            KeyFormat::Simple => format!("{prefix}{}-{unique}", written("%Y-%m-%d-%H-%M-%S")),
            KeyFormat::ByDelivery => {
                let at = written("%Y/%m/%d/%Y-%m-%d-%H-%M-%S");
                format!("{prefix}{account}/{region}/{bucket}/{at}-{unique}")
            }
            KeyFormat::ByEvent => {
                let at = written("%Y/%m/%d/%Y-%m-%d-00-00-00");
                format!("{prefix}{account}/{region}/{bucket}/{at}-{unique}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_s3_names_them() {
        let source = Source { account: "123456789012", region: "here", bucket: "b" };
        let key = |format| {
            let target = Target { bucket: "logs".into(), prefix: "p/".into(), format };
            assert_eq!(Target::read(&target.show()), Some(target.clone()));
            target.key(source, 1_795_378_500_000, "U")
        };
        assert_eq!(key(KeyFormat::Simple), "p/2026-11-22-20-15-00-U");
        let day = "p/123456789012/here/b/2026/11/22/2026-11-22-";
        assert_eq!(key(KeyFormat::ByDelivery), format!("{day}20-15-00-U"));
        assert_eq!(key(KeyFormat::ByEvent), format!("{day}00-00-00-U"));
    }
}
