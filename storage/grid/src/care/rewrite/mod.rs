//! Moves contents to new blocks: out of packs that are half dead, and out of codes of yesterday.
//!
//! ```text
//!   codes of the group ──[plan] not what today's hosts allow ──┐
//!   live blocks ──more than half dead───────────────────────────┴─▶ FindExtents, page by page
//!      ─▶ [batch] read and prove ─▶ write like any body ─▶ Rewrite: compare-and-swap ─▶ old bytes released
//! ```
//!
//! One gateway does it for a metadata group, for it takes keys: the awake gateways share the groups
//! by their ids ([`plan::owner`]). That is an agreement, not a lock: two at once move the same
//! contents, one of them in vain. Whoever dies leaves blocks of its session, which nobody refers to.
//!
//! State: what was seen of a group in earlier rounds, in memory; whoever begins anew looks again.

pub(crate) mod batch;
pub mod plan;
pub(crate) mod worker;

use std::time::Duration;

use nexusgrid_meta::namespace::types::{CodeUsage, NamespaceAnswer, NamespaceQuery};

use self::plan::Outdated;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::placement;

/// When contents move to new blocks, and how fast.
#[derive(Clone, Debug)]
pub struct RewriteOptions {
    /// Pause between two looks at a metadata group. A grid that grew or shrank since the last look is
    /// left alone until the next: it may not be done yet. Default 10 min.
    pub every: Duration,
    /// Bytes per second that one node moves; default a fifth of 1 Gbit/s.
    pub bytes_per_second: u64,
}

impl Default for RewriteOptions {
    fn default() -> RewriteOptions {
        RewriteOptions { every: Duration::from_secs(600), bytes_per_second: 25_000_000 }
    }
}

/// What is not in the code that today's hosts allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecodeLeft {
    /// Bytes of plaintext.
    pub bytes: u64,
    /// Those that survive the loss of fewer hosts than they might.
    pub under_protected_bytes: u64,
}

/// Counts what all metadata groups have in codes of yesterday.
pub(crate) async fn left(core: &Core) -> Result<RecodeLeft, GridError> {
    let map = core.map.refresh().await?;
    let mut left = RecodeLeft::default();
    let Some(wanted) = placement::classes_of(&map) else { return Ok(left) };
    for group in core.map.metadata_groups() {
        for Outdated { bytes, is_under_protected, .. } in
            plan::outdated(&codes(core, group).await?, wanted)
        {
            left.bytes += bytes;
            left.under_protected_bytes += if is_under_protected { bytes } else { 0 };
        }
    }
    Ok(left)
}

async fn codes(core: &Core, group: nexusgrid_codec::GroupId) -> Result<Vec<CodeUsage>, GridError> {
    match core.meta.ask(group, &NamespaceQuery::Codes).await? {
        NamespaceAnswer::Codes(codes) => Ok(codes),
        _ => Err(internal("answer to a query for codes")),
    }
}
