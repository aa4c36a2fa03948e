//! Quotas of accounts: how much all buckets of one may hold together.
//!
//! A quota is a record of the root group. An account's buckets may lie in several metadata groups, of which none
//! knows the others: so one gateway counts up what each account with a quota holds, and tells each bucket the
//! most that it may hold, which is what it holds and all that is left. The bucket's group refuses what would
//! pass that, in the command itself. So an account with one bucket never passes its quota; one whose buckets
//! grow at the same time may, by no more than what was left when it was last counted up
//! ([`QUOTA_EVERY`](crate::limits::QUOTA_EVERY)) for each further bucket. A bucket that is made gets its share
//! before its maker hears of it. What cannot be read lets nothing grow.
//!
//! State: none but what is counted for Prometheus.

use std::collections::BTreeMap;
use std::time::Duration;

use nexusgrid_env::Env;
use nexusgrid_grid::{Allowance, BucketUsage, GridError, Record, RecordWrite};
use nexusgrid_iam::AccountId;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::metrics::{AccountLabels, Metrics};
use crate::rules::account_of;
use crate::store::SharedStore;

/// Where their records stand.
const PREFIX: &str = "quota/";

/// The most that an account may hold; `None`: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Bytes of objects, all their versions, and of parts.
    pub bytes: Option<u64>,
    /// Objects, all their versions.
    pub objects: Option<u64>,
}

/// What an account holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its buckets.
    pub buckets: u64,
    /// Bytes of objects, all their versions, and of parts.
    pub bytes: u64,
    /// Objects, all their versions.
    pub objects: u64,
}

/// What a record says; nothing may grow by one that cannot be read.
fn read(record: &Record) -> Quota {
    serde_json::from_slice(&record.value).unwrap_or_else(|error| {
        tracing::error!(path = %record.path, %error, "a quota cannot be read: nothing may grow");
        Quota { bytes: Some(0), objects: Some(0) }
    })
}

/// Where an account's stands.
pub(crate) fn path(account: &AccountId) -> String {
    format!("{PREFIX}{}", account.as_str())
}

fn bytes_of(usage: &BucketUsage) -> u64 {
    usage.bytes.saturating_add(usage.part_bytes)
}

/// What is left, beside what a bucket holds.
fn allowance(quota: Quota, all: Held, own: &BucketUsage) -> Allowance {
    let most = |quota: Option<u64>, all: u64, own: u64| {
        quota.map(|quota| own.saturating_add(quota.saturating_sub(all)))
    };
    Allowance {
        bytes: most(quota.bytes, all.bytes, bytes_of(own)),
        objects: most(quota.objects, all.objects, own.objects),
    }
}

/// The quotas of all accounts; cheap to clone.
#[derive(Clone)]
pub struct Quotas {
    store: SharedStore,
}

impl Quotas {
    /// Of the grid behind `store`.
    pub fn new(store: SharedStore) -> Quotas {
        Quotas { store }
    }

    async fn record(&self, account: &AccountId) -> Result<Option<Record>, GridError> {
        Ok(self.store.records_at(&[path(account)]).await?.pop())
    }

    /// An account's quota, if it has one.
    pub async fn of(&self, account: &AccountId) -> Result<Option<Quota>, GridError> {
        let quota = self.record(account).await?.as_ref().map(read);
        Ok(quota.filter(|quota| *quota != Quota::default()))
    }

    /// Sets an account's quota, or takes it away; what it holds stays. It holds when this returns.
    pub async fn set(&self, account: &AccountId, quota: Quota) -> Result<(), GridError> {
        let value = serde_json::to_vec(&quota);
        let value = value.map_err(|error| GridError::Internal(error.to_string()))?;
        let write = RecordWrite { path: path(account), expect: None, value: Some(value) };
        self.store.write_records(vec![write]).await?;
        self.share(account).await?;
        Ok(())
    }

    /// Gives a new bucket its share: nothing, until all that its owner has is counted.
    pub async fn begin(&self, account: &AccountId, bucket: &str) -> Result<(), GridError> {
        if self.of(account).await?.is_some() {
            let nothing = Allowance { bytes: Some(0), objects: Some(0) };
            self.store.set_allowance(bucket, nothing).await?;
        }
        self.share(account).await.map(drop)
    }

    async fn usage(&self, account: &AccountId) -> Result<Vec<(String, BucketUsage)>, GridError> {
        let mut found = Vec::new();
        for bucket in self.store.list_buckets().await? {
            if account_of(&bucket.owner) != *account {
                continue;
            }
            match self.store.bucket_usage(&bucket.name).await {
                Ok(usage) => found.push((bucket.name, usage)),
                Err(GridError::NoSuchBucket) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// What an account holds, as of now.
    pub async fn held(&self, account: &AccountId) -> Result<Held, GridError> {
        Ok(sum(&self.usage(account).await?))
    }

    /// Counts up what an account holds and tells its buckets what is left to them, if it has a quota, or had
    /// one until now.
    pub async fn share(&self, account: &AccountId) -> Result<Option<(Quota, Held)>, GridError> {
        let Some(record) = self.record(account).await? else { return Ok(None) };
        let quota = read(&record);
        let buckets = self.usage(account).await?;
        let held = sum(&buckets);
        let mut is_settled = true;
        for (name, usage) in &buckets {
            let wanted = allowance(quota, held, usage);
            if wanted == usage.allowance {
                continue;
            }
            is_settled = false;
            match self.store.set_allowance(name, wanted).await {
                Ok(()) | Err(GridError::NoSuchBucket) => {}
                Err(error) => return Err(error),
            }
        }
        if quota == Quota::default() {
            if !is_settled {
                // Someone who read the record before it changed may still tell buckets what it was: the
                // record goes when a round finds nothing to tell.
                return Ok(None);
            }
            // Another change meanwhile is the next round's.
            let forget =
                RecordWrite { path: record.path, expect: Some(record.revision), value: None };
            match self.store.write_records(vec![forget]).await {
                Ok(()) | Err(GridError::Conflict) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some((quota, held)))
    }

    /// Looks once at all accounts that have quotas.
    pub(crate) async fn round(&self) -> Result<BTreeMap<AccountId, (Quota, Held)>, GridError> {
        let mut found = BTreeMap::new();
        let mut after = String::new();
        loop {
            let page = self.store.records(PREFIX, &after, limits::QUOTAS_PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = last.path.clone();
            let accounts = page.iter().filter_map(|record| record.path.strip_prefix(PREFIX));
            for account in accounts.filter_map(|account| AccountId::new(account).ok()) {
                match self.share(&account).await {
                    Ok(Some(shared)) => drop(found.insert(account, shared)),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%account, %error, "what an account holds cannot be counted");
                    }
                }
            }
        }
    }

    /// Looks again and again, while this gateway is the one that does, until `shutdown`.
    pub(crate) async fn run(
        &self,
        env: &Env,
        every: Duration,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) {
        loop {
            let mut shown = BTreeMap::new();
            // No node has this number: the first gateway that answers acts for it.
            if self.store.acts_for(0) {
                match self.round().await {
                    Ok(found) => shown = found,
                    Err(error) => tracing::warn!(%error, "quotas of accounts were not counted up"),
                }
            }
            show(metrics, &shown);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = env.clock.sleep(every) => {}
            }
        }
    }
}

fn sum(buckets: &[(String, BucketUsage)]) -> Held {
    buckets.iter().fold(Held::default(), |held, (_, usage)| Held {
        buckets: held.buckets + 1,
        bytes: held.bytes.saturating_add(bytes_of(usage)),
        objects: held.objects.saturating_add(usage.objects),
    })
}

fn show(metrics: &Metrics, accounts: &BTreeMap<AccountId, (Quota, Held)>) {
    let quotas = &metrics.quotas;
    for family in
        [&quotas.held_bytes, &quotas.held_objects, &quotas.quota_bytes, &quotas.quota_objects]
    {
        family.clear();
    }
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    for (account, (quota, held)) in accounts {
        let labels = AccountLabels { account: account.as_str().to_owned() };
        quotas.held_bytes.get_or_create(&labels).set(gauge(held.bytes));
        quotas.held_objects.get_or_create(&labels).set(gauge(held.objects));
        if let Some(bytes) = quota.bytes {
            quotas.quota_bytes.get_or_create(&labels).set(gauge(bytes));
        }
        if let Some(objects) = quota.objects {
            quotas.quota_objects.get_or_create(&labels).set(gauge(objects));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_may_take_what_is_left() {
        let own = |bytes, objects| BucketUsage { bytes, objects, ..BucketUsage::default() };
        let all = Held { buckets: 2, bytes: 70, objects: 5 };
        let quota = Quota { bytes: Some(100), objects: None };
        let of = |quota, usage| {
            let Allowance { bytes, objects } = allowance(quota, all, &usage);
            (bytes, objects)
        };
        assert_eq!(of(quota, own(50, 3)), (Some(80), None));
        assert_eq!(of(quota, own(20, 2)), (Some(50), None));
        // What holds too much may not grow, nor may anything by a quota that cannot be read.
        let less = Quota { bytes: Some(60), objects: Some(9) };
        assert_eq!(of(less, own(50, 3)), (Some(50), Some(7)));
        let record = Record { path: "quota/1".into(), revision: 1, value: b"{".to_vec() };
        assert_eq!(of(read(&record), own(50, 3)), (Some(50), Some(3)));
        assert_eq!(of(Quota::default(), own(50, 3)), (None, None));
        let newer = br#"{"bytes":1,"objects":null,"more":1}"#.to_vec();
        assert_eq!(read(&Record { value: newer, ..record }).bytes, Some(0));
    }
}
