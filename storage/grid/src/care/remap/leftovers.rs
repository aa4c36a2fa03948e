//! Shards of slots that a drive holds no longer go to the trash: only once the placement group is
//! clean under a newer epoch than their stamp, so that what they were is complete elsewhere.

use std::sync::Arc;

use nexusgrid_codec::DriveId;
use nexusgrid_drive::{DriveError, DriveStore, ShardKey};
use nexusgrid_meta::root::topology::{Pg, PgState};

use crate::care::workers::Worker;
use crate::core::Core;
use crate::limits;
use crate::shard::ShardService;

/// Runs until the agent stops: goes through this node's drives after each change of the map.
pub(crate) async fn run(core: Arc<Core>, shards: Arc<ShardService>, mut worker: Worker) {
    let mut swept = None;
    loop {
        worker.turn(core.options.care.remap.every).await;
        let Ok(map) = core.map.refresh().await else { continue };
        // After a restore the map may be older than the drives.
        if !core.deletions.may_delete() {
            continue;
        }
        if swept == Some(map.version) {
            continue;
        }
        worker.begin(None);
        let mut failed = None;
        for (drive, store) in shards.drives() {
            for pg in map.pgs.values().filter(|pg| !pg.slots.contains(&drive)) {
                match clear(drive, &store, pg).await {
                    Ok((shards, bytes)) => worker.did(shards, bytes),
                    Err(error) => failed = Some(format!("drive {}: {error}", drive.0)),
                }
            }
        }
        swept = failed.is_none().then_some(map.version);
        worker.end(failed);
    }
}

/// Trashes the shards of `pg` on `drive` that its slots do not name; gives their number and bytes.
pub(crate) async fn clear(
    drive: DriveId,
    store: &DriveStore,
    pg: &Pg,
) -> Result<(u64, u64), DriveError> {
    if matches!(pg.state, PgState::Preparing(_)) {
        return Ok((0, 0));
    }
    let (mut count, mut bytes, mut after) = (0, 0, None);
    loop {
        let page = store.list(pg.id, after, limits::LIST_SHARDS_MAX).await?;
        after = page.shards.last().map(|shard| shard.key);
        let is_left = |key: &ShardKey| pg.slots.get(usize::from(key.index)) != Some(&drive);
        let left = page.shards.iter().filter(|stat| stat.epoch < pg.epoch && is_left(&stat.key));
        let (keys, sizes): (Vec<ShardKey>, Vec<u64>) =
            left.map(|stat| (stat.key, stat.body_bytes)).unzip();
        if !keys.is_empty() {
            count += store.trash_stale(pg.id, pg.epoch, &keys).await?;
            bytes += sizes.iter().sum::<u64>();
        }
        if !page.more || after.is_none() {
            return Ok((count, bytes));
        }
    }
}
