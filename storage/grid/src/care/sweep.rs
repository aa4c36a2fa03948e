//! Each node goes through its own drives: tombstones that nothing needs any more are dropped, and
//! blocks that metadata does not know are found.
//!
//! ```text
//!   tombstone: erased in metadata, session below the floor, no remap or repair open ──▶ dropped (R5, R6)
//!   shard: unknown, and so for `orphan_age` of this agent's running time ──▶ trash ──▶ purged by the drive
//! ```
//!
//! Nothing here deletes at once, and any error keeps everything: a listing that failed or metadata
//! that is not up yet must never look like garbage, nor may a block that is newer than metadata put back
//! from a copy. A pass in which more than one in a hundred shards (and more than a thousand) is unknown
//! trashes nothing and raises an alarm: then it is metadata that is wrong.
//!
//! State: how long each orphan was seen so far, kept with each drive ([`super::sightings`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{BlockId, DriveId, GroupId, PgId, SessionId};
use nexusgrid_drive::{DriveError, DriveState, DriveStore, SessionFloor, ShardKey};
use nexusgrid_env::{BootInstant, Rule};
use nexusgrid_meta::namespace::types::{BlockState, NamespaceAnswer, NamespaceQuery};
use nexusgrid_meta::root::topology::{PgState, Topology};

use super::sightings::{SIGHTINGS, Sightings};
use super::workers::Worker;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::shard::ShardService;

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, shards: Arc<ShardService>, mut worker: Worker) {
    let mut passes: BTreeMap<DriveId, BootInstant> = BTreeMap::new();
    loop {
        worker.turn(core.options.care.sweep_every).await;
        if !core.deletions.may_delete() {
            continue;
        }
        worker.begin(None);
        let mut failed = None;
        for (drive, store) in shards.drives() {
            if *store.state().borrow() != DriveState::Healthy {
                continue;
            }
            let began = core.env.clock.now();
            let since = passes.get(&drive).map_or(Duration::ZERO, |last| began.since(*last));
            let tombstones = drop_tombstones(&core, drive, &store, &worker).await;
            let orphans = find_orphans(&core, drive, &store, since, &worker).await;
            if orphans.is_ok() {
                passes.insert(drive, began);
            }
            if let Err(error) = tombstones.and(orphans) {
                tracing::debug!(drive = drive.0, %error, "sweeping a drive");
                failed = Some(format!("drive {}: {error}", drive.0));
            }
        }
        worker.end(failed);
    }
}

/// Erases tombstones that nothing can need any more.
async fn drop_tombstones(
    core: &Arc<Core>,
    drive: DriveId,
    store: &DriveStore,
    worker: &Worker,
) -> Result<(), GridError> {
    if store.usage().await.map_err(drive_error)?.tombstones == 0 {
        return Ok(());
    }
    let mut floors: BTreeMap<GroupId, SessionId> = BTreeMap::new();
    let map = core.map.current();
    for pg in map.pgs.keys() {
        let mut after = None;
        loop {
            let page = store
                .list_tombstones(*pg, after, limits::SWEEP_BATCH)
                .await
                .map_err(drive_error)?;
            let Some(last) = page.blocks.last() else { break };
            after = Some(*last);
            let mut settled = Vec::new();
            for (block, state) in resolve(core, page.blocks).await? {
                let floor = match floors.get(&block.group) {
                    Some(floor) => *floor,
                    None => {
                        let floor = session_floor(core, block.group).await?;
                        floors.insert(block.group, floor);
                        floor
                    }
                };
                if state == BlockState::Unknown && block.session < floor {
                    settled.push(block);
                }
            }
            // Read after the answers above: R5.
            if !settled.is_empty() && is_settled(core.map.refresh().await?.as_ref(), *pg) {
                let raised: Vec<SessionFloor> = floors
                    .iter()
                    .map(|(group, floor)| SessionFloor { group: *group, floor: *floor })
                    .collect();
                let dropped =
                    store.drop_tombstones(&settled, &raised).await.map_err(drive_error)?;
                tracing::debug!(drive = drive.0, pg = pg.0, dropped, "tombstones dropped");
                worker.did(dropped, 0);
            }
            if !page.more {
                break;
            }
        }
    }
    Ok(())
}

/// Whether no remap or repair session of a placement group is open.
fn is_settled(map: &Topology, pg: PgId) -> bool {
    map.pgs
        .get(&pg)
        .is_some_and(|pg| !matches!(pg.state, PgState::Preparing(_)) && pg.fill_worker.is_none())
}

fn drive_error(error: DriveError) -> GridError {
    GridError::Unavailable(error.to_string())
}

/// Sessions below it are closed and forgotten: every drive knows that they are closed.
async fn session_floor(core: &Arc<Core>, group: GroupId) -> Result<SessionId, GridError> {
    match core.meta.ask(group, &NamespaceQuery::Sessions).await? {
        NamespaceAnswer::Sessions { floor, .. } => Ok(floor),
        _ => Err(internal("answer to a sessions query")),
    }
}

/// What metadata knows of blocks, each asked of its own group.
async fn resolve(
    core: &Arc<Core>,
    blocks: Vec<BlockId>,
) -> Result<Vec<(BlockId, BlockState)>, GridError> {
    let mut by_group: BTreeMap<GroupId, BTreeSet<BlockId>> = BTreeMap::new();
    for block in blocks {
        by_group.entry(block.group).or_default().insert(block);
    }
    let mut known = Vec::new();
    for (group, blocks) in by_group {
        let blocks: Vec<BlockId> = blocks.into_iter().collect();
        let query = NamespaceQuery::ResolveBlocks { blocks: blocks.clone() };
        let NamespaceAnswer::Blocks(states) = core.meta.ask(group, &query).await? else {
            return Err(internal("answer to a blocks query"));
        };
        if states.len() != blocks.len() {
            return Err(internal("answer to a blocks query"));
        }
        known.extend(blocks.into_iter().zip(states));
    }
    Ok(known)
}

/// One pass over a drive's shards; those unknown all along go to the trash. `since`: the pass before.
async fn find_orphans(
    core: &Arc<Core>,
    drive: DriveId,
    store: &DriveStore,
    since: Duration,
    worker: &Worker,
) -> Result<(), GridError> {
    let mut after = None;
    let mut shards = 0;
    let mut orphans: BTreeSet<ShardKey> = BTreeSet::new();
    let mut unheard = 0;
    loop {
        let page = store.list_blocks(after, limits::SWEEP_BATCH).await.map_err(drive_error)?;
        let Some(last) = page.last() else { break };
        after = Some(last.key);
        shards += page.len();
        let blocks: Vec<BlockId> = page.iter().map(|shard| shard.key.block).collect();
        let states: BTreeMap<BlockId, BlockState> = match resolve(core, blocks.clone()).await {
            Err(_) if !core.env.rules.keeps(Rule::ErrorsKeep) => {
                blocks.into_iter().map(|block| (block, BlockState::Unknown)).collect()
            }
            known => known?.into_iter().collect(),
        };
        let is = |key: &ShardKey, state| states.get(&key.block) == Some(&state);
        unheard += page.iter().filter(|shard| is(&shard.key, BlockState::Unheard)).count();
        let unknown = |key: &ShardKey| is(key, BlockState::Unknown);
        orphans.extend(page.iter().map(|shard| shard.key).filter(unknown));
        if orphans.len() > limits::ORPHANS_REMEMBERED_MAX || page.len() < limits::SWEEP_BATCH {
            break;
        }
    }
    if unheard > 0 {
        tracing::error!(
            drive = drive.0,
            unheard,
            "shards of writers that metadata never heard of: none is touched; metadata is older than the data"
        );
        return Err(GridError::Unavailable(format!("{unheard} shards are newer than metadata")));
    }
    if orphans.len() > limits::ORPHANS_ALWAYS.max(shards / limits::ORPHANS_ONE_IN) {
        let found = orphans.len();
        tracing::error!(
            drive = drive.0,
            found,
            shards,
            "many blocks are unknown to metadata: none is touched; is metadata older than the data?"
        );
        return Err(GridError::Unavailable(format!("{found} of {shards} shards are unknown")));
    }
    let is_careful = core.env.rules.keeps(Rule::ErrorsKeep);
    let age_ms = if is_careful { millis(core.options.care.orphan_age) } else { 0 };
    let before = remembered(core, store).await;
    let mut seen: Sightings = orphans
        .into_iter()
        .map(|key| (key, before.get(&key).map_or(0, |sum| sum.saturating_add(millis(since)))))
        .collect();
    let old: Vec<ShardKey> =
        seen.iter().filter(|(_, sum)| **sum >= age_ms).map(|(key, _)| *key).collect();
    if !old.is_empty() {
        worker.did(store.trash(&old).await.map_err(drive_error)?, 0);
        seen.retain(|key, _| !old.contains(key));
    }
    if seen != before {
        remember(core, store, seen).await?;
    }
    Ok(())
}

async fn remembered(core: &Arc<Core>, store: &DriveStore) -> Sightings {
    let (disk, dir) = (Arc::clone(&core.env.disk), store.dir().to_owned());
    core.env.exec.blocking(move || SIGHTINGS.load(disk.as_ref(), &dir).unwrap_or_default()).await
}

async fn remember(core: &Arc<Core>, store: &DriveStore, seen: Sightings) -> Result<(), GridError> {
    let (disk, dir) = (Arc::clone(&core.env.disk), store.dir().to_owned());
    let kept =
        core.env.exec.blocking(move || SIGHTINGS.store(disk.as_ref(), &dir, &seen, true)).await;
    kept.map_err(|error| GridError::Unavailable(format!("writing down orphans: {error}")))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
