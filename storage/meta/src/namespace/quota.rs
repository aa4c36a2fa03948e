//! How much a bucket may hold: its own quota, and what is left to it of its owner's.
//!
//! An account's buckets may lie in several groups, and no group knows them all. So each bucket has an
//! *allowance*: what it holds plus what its account has left, as somebody counted it up a moment ago. It is
//! checked here, in the command that would pass it. One bucket alone never passes its account's quota; several
//! that grow at once may, by what they write until they are counted up again.
#![deny(clippy::indexing_slicing)]

use super::machine::{Change, Step};
use super::rows::LiveBucket;
use super::types::{Allowance, BucketId, NamespaceError, NamespaceOk};

impl LiveBucket {
    /// Whether `added` bytes fit in place of `removed`.
    pub(super) fn check_quota(&self, added: u64, removed: u64) -> Result<(), NamespaceError> {
        let now = self.usage.bytes.saturating_add(self.usage.part_bytes);
        let then = now.saturating_sub(removed).saturating_add(added);
        let most = [self.quota_bytes, self.allowance.bytes].into_iter().flatten().min();
        match most {
            // What shrinks is let through even above the quota.
            Some(quota) if then > quota && then > now => Err(NamespaceError::QuotaExceeded),
            _ => Ok(()),
        }
    }

    /// Whether another object may come; `replaces`: one goes.
    pub(super) fn check_objects(&self, replaces: bool) -> Result<(), NamespaceError> {
        match self.allowance.objects {
            Some(most) if !replaces && self.usage.objects >= most => {
                Err(NamespaceError::QuotaExceeded)
            }
            _ => Ok(()),
        }
    }
}

impl Change<'_> {
    pub(super) fn set_allowance(
        &mut self,
        bucket: BucketId,
        allowance: Allowance,
    ) -> Step<NamespaceOk> {
        let row = self.bucket(bucket)?;
        if row.allowance != allowance {
            self.set_bucket(bucket, LiveBucket { allowance, ..row });
            self.recall_any(bucket)?;
        }
        Ok(NamespaceOk::Done)
    }
}
