//! Makes a missing shard out of its siblings. Works on ciphertext: needs no key.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nexusgrid_codec::{BlockId, DriveId, ShardHeader, erasure};
use nexusgrid_env::NodeId;

use crate::core::{Core, internal};
use crate::error::GridError;

/// Where a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) slot: u8,
    pub(crate) node: NodeId,
    pub(crate) drive: DriveId,
}

/// Shard `wanted` with its header, from the first `k` holders that answer, each checked by its
/// drive; `None` if too few do.
pub(crate) async fn rebuild(
    core: &Core,
    block: BlockId,
    wanted: u8,
    k: usize,
    holders: &[Holder],
) -> Result<Option<(ShardHeader, Bytes)>, GridError> {
    let mut waiting = holders.iter().filter(|holder| holder.slot != wanted);
    let fetch = |holder: Holder| async move {
        let got = core.shards.get_whole(holder.node, holder.drive, block, holder.slot).await;
        (holder.slot, got)
    };
    let mut fetches: FuturesUnordered<_> = waiting.by_ref().take(k).map(|of| fetch(*of)).collect();
    let mut sibling: Option<ShardHeader> = None;
    let mut present = Vec::with_capacity(k);
    while let Some((slot, got)) = fetches.next().await {
        match got {
            Ok((header, body)) => {
                let agrees = sibling.as_ref().is_none_or(|other| other.is_sibling_of(&header));
                if !agrees {
                    tracing::error!(%block, slot, "I3: shards of two writes under one id");
                    return Err(internal("shards disagree"));
                }
                sibling.get_or_insert(header);
                present.push((slot, body));
            }
            Err(error) => {
                tracing::debug!(%block, slot, %error, "sibling");
                fetches.extend(waiting.next().map(|of| fetch(*of)));
            }
        }
    }
    let Some(sibling) = sibling.filter(|_| present.len() == k) else { return Ok(None) };
    let work = move || erasure::rebuild(&sibling, wanted, &present);
    let rebuilt = core.env.exec.blocking(work).await;
    rebuilt.map(Some).map_err(|error| GridError::DataLost(format!("block {block}: {error}")))
}
