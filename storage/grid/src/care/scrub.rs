//! Each node reads all that its drives hold, a stretch at a time, and checks it: bits rot unseen.
//!
//! What is rotten in a drive's own files the drive mends itself; a shard that is lost goes on the
//! repair queue of its metadata group (I2), durably, before the cursor moves on.
//!
//! State: where each drive's pass stands, in memory: a restart begins the pass anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_drive::{
    DriveError, DriveState, DriveStore, Finding, Rot, ScrubCursor, ScrubOptions,
};
use nexusgrid_meta::namespace::types::NamespaceCommand;

use super::workers::Worker;
use crate::core::Core;
use crate::error::GridError;
use crate::limits;
use crate::shard::ShardService;

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, shards: Arc<ShardService>, mut worker: Worker) {
    let mut passes: BTreeMap<DriveId, ScrubCursor> = BTreeMap::new();
    loop {
        worker.turn(core.options.care.scrub_every).await;
        worker.begin(None);
        let mut failed = None;
        let drives = shards.drives();
        passes.retain(|drive, _| drives.iter().any(|(id, _)| id == drive));
        for (drive, store) in drives {
            if *store.state().borrow() != DriveState::Healthy {
                continue;
            }
            let cursor = passes.get(&drive).copied().unwrap_or_default();
            match stretch(&core, drive, &store, cursor, &worker).await {
                Ok(next) => drop(passes.insert(drive, next.unwrap_or_default())),
                Err(error) => failed = Some(format!("drive {}: {error}", drive.0)),
            }
        }
        worker.end(failed);
    }
}

/// Checks one stretch of a drive; gives where to go on, `None` at the end of a pass.
async fn stretch(
    core: &Arc<Core>,
    drive: DriveId,
    store: &DriveStore,
    cursor: ScrubCursor,
    worker: &Worker,
) -> Result<Option<ScrubCursor>, GridError> {
    let budget = core.options.care.scrub_bytes;
    let failed = |error: DriveError| GridError::Unavailable(error.to_string());
    let look = ScrubOptions { heal: false };
    let mut step = store.scrub(cursor, budget, look).await.map_err(failed)?;
    if !step.findings.is_empty() {
        // Repair knows first: what is mended below is no longer there to be found.
        enqueue(core, &step.findings).await?;
        step = store.scrub(cursor, budget, ScrubOptions { heal: true }).await.map_err(failed)?;
        for Finding { rot, what, healed } in &step.findings {
            tracing::warn!(drive = drive.0, ?rot, %what, healed, "scrub found rot");
        }
        enqueue(core, &step.findings).await?;
    }
    worker.did(step.shards, step.bytes);
    Ok(step.next)
}

/// Puts lost shards on the repair queues of their groups.
async fn enqueue(core: &Arc<Core>, findings: &[Finding]) -> Result<(), GridError> {
    let mut lost: BTreeMap<GroupId, Vec<_>> = BTreeMap::new();
    for finding in findings {
        if let Rot::Shard { key, pg } = finding.rot {
            lost.entry(key.block.group).or_default().push((pg, key.block, key.index));
        }
    }
    let now_ms = core.meta.now_ms();
    for (group, shards) in lost {
        for shards in shards.chunks(limits::MARKED_PER_COMMAND) {
            let command = NamespaceCommand::MarkMissing { shards: shards.to_vec(), now_ms };
            core.meta.command(group, &command).await?;
        }
    }
    Ok(())
}
