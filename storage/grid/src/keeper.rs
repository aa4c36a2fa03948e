//! Standing duties: every node reports whom it sees, which of its drives failed and how full they
//! are, and opens those again whose index was lost; the root group's leader draws placement groups.
//!
//! Neither decides: reports count in the root group (two reporters from two hosts), and drawings
//! are checked by it (I11).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nexusgrid_codec::{DriveId, PgId};
use nexusgrid_drive::{ClosedDrive, DriveState as StoreState, DriveStore, OpenError, SpaceLevel};
use nexusgrid_env::{BootInstant, NodeId};
use nexusgrid_meta::root::topology::{Liveness as NodeLiveness, PgState};
use nexusgrid_meta::root::types::{DriveState, NodeState, RootCommand, Sighting, SpaceMark};

use crate::core::Core;
use crate::error::GridError;
use crate::limits;
use crate::liveness::{Liveness, NodeHint};
use crate::meta_port::ROOT;
use crate::placement::{self, PlacementStep};
use crate::shard::ShardService;

/// Runs until the agent stops.
pub(crate) async fn run(
    core: Arc<Core>,
    liveness: Arc<dyn Liveness>,
    shards: Arc<ShardService>,
    failed: Vec<DriveId>,
) {
    let mut settled = Settled::default();
    let mut stopped = BTreeMap::new();
    let mut fills = Fills::new();
    let mut said = Said::default();
    let mut dozing = Dozing::new();
    loop {
        core.env.clock.sleep(core.options.keeper_every).await;
        if let Err(error) = report(&core, liveness.as_ref(), &mut dozing).await {
            tracing::debug!(%error, "reporting sightings");
        }
        if let Err(error) = report_failed_drives(&core, &shards, &failed).await {
            tracing::debug!(%error, "reporting failed drives");
        }
        if let Err(error) = report_space(&core, &shards, &mut said).await {
            tracing::debug!(%error, "reporting space");
        }
        if let Err(error) = open_stopped_drives(&core, &shards, &mut stopped).await {
            tracing::debug!(%error, "opening drives again");
        }
        if core.meta.leads(ROOT)
            && let Err(error) = keep(&core, liveness.as_ref(), &mut settled).await
        {
            tracing::debug!(%error, "keeping placement groups");
        }
        if core.meta.leads(ROOT)
            && let Err(error) = close_forgotten_fills(&core, &mut fills).await
        {
            tracing::debug!(%error, "closing repair sessions");
        }
    }
}

/// Open repair sessions, and since when this leader has seen each.
type Fills = BTreeMap<PgId, (u64, BootInstant)>;

/// Closes repair sessions whose worker must have died: an open one keeps tombstones alive (R5). One
/// that still works hears that it is closed, and opens another (R4).
async fn close_forgotten_fills(core: &Arc<Core>, fills: &mut Fills) -> Result<(), GridError> {
    let map = core.map.current();
    let now = core.env.clock.now();
    let open: BTreeMap<PgId, u64> = map
        .pgs
        .values()
        .filter(|pg| pg.fill_worker.is_some() && !matches!(pg.state, PgState::Preparing(_)))
        .map(|pg| (pg.id, pg.fill_session))
        .collect();
    fills.retain(|pg, (session, _)| open.get(pg) == Some(session));
    for (pg, session) in open {
        let (_, since) = *fills.entry(pg).or_insert((session, now));
        if now.since(since) >= limits::FILL_SESSION_MAX {
            core.meta.root_command(&RootCommand::CloseFillSession { pg, session }).await?;
        }
    }
    Ok(())
}

/// The storage hosts seen last, and since when they are the same: nodes often join in a row, and
/// each set of placement groups drawn in between would be closed a moment later.
#[derive(Default)]
struct Settled {
    hosts: BTreeSet<String>,
    since: Option<BootInstant>,
}

/// Nodes that said that they go to sleep: since when this one knows, and whether it has seen them
/// silent since.
type Dozing = BTreeMap<NodeId, (BootInstant, bool)>;

/// Tells the root group where membership differs from its map. A node that said that it goes to
/// sleep answers for a moment more: it is awake again only when it was silent in between, or does
/// not fall asleep at all.
async fn report(
    core: &Arc<Core>,
    liveness: &dyn Liveness,
    dozing: &mut Dozing,
) -> Result<(), GridError> {
    let map = core.map.current();
    let now = core.env.clock.now();
    let is_asleep = |node: &NodeId| {
        map.nodes.get(node).is_some_and(|node| node.liveness == NodeLiveness::Asleep)
    };
    dozing.retain(|node, _| is_asleep(node));
    let mut sightings = Vec::new();
    for node in map.nodes.values() {
        if matches!(node.state, NodeState::Removed | NodeState::Joining) {
            continue;
        }
        let hint = if node.id == core.node { NodeHint::Alive } else { liveness.state(node.id) };
        match (hint, node.liveness) {
            (NodeHint::Dead, NodeLiveness::Up) => sightings.push((node.id, Sighting::Down)),
            (NodeHint::Alive, NodeLiveness::Down) => sightings.push((node.id, Sighting::Up)),
            (hint, NodeLiveness::Asleep) => {
                let (since, was_silent) = dozing.entry(node.id).or_insert((now, false));
                *was_silent |= hint != NodeHint::Alive;
                let is_awake = *was_silent || now.since(*since) >= limits::DOZE_MAX;
                if hint == NodeHint::Alive && is_awake {
                    sightings.push((node.id, Sighting::Up));
                }
            }
            _ => {}
        }
    }
    if sightings.is_empty() {
        return Ok(());
    }
    let now_ms = core.meta.now_ms();
    let command = RootCommand::Report { reporter: core.node, sightings, now_ms };
    core.meta.root_command(&command).await?;
    Ok(())
}

/// Tells the root group of own drives that failed: what they held counts as lost.
async fn report_failed_drives(
    core: &Arc<Core>,
    shards: &ShardService,
    before: &[DriveId],
) -> Result<(), GridError> {
    let map = core.map.current();
    let open = shards.drives();
    let has_failed = |store: &DriveStore| matches!(*store.state().borrow(), StoreState::Failed(_));
    let failed = open.iter().filter(|(_, store)| has_failed(store)).map(|(drive, _)| *drive);
    for drive in failed.chain(before.iter().copied()) {
        let is_news = map
            .drives
            .get(&drive)
            .is_some_and(|row| matches!(row.state, DriveState::Active | DriveState::Draining));
        if is_news {
            let command = RootCommand::SetDriveState { drive, state: DriveState::Failed };
            core.meta.root_command(&command).await?;
        }
    }
    Ok(())
}

/// What this node said of its drives' space.
#[derive(Default)]
struct Said {
    /// When all drives were looked at.
    looked: Option<BootInstant>,
    /// Drives that are emptier than the map says, and since when.
    emptier: BTreeMap<DriveId, BootInstant>,
}

/// Tells the root group how full own drives are: a mark that is passed at once, one that is left
/// when that has lasted, and bytes when they changed by much.
async fn report_space(
    core: &Arc<Core>,
    shards: &ShardService,
    said: &mut Said,
) -> Result<(), GridError> {
    let now = core.env.clock.now();
    if said.looked.is_some_and(|at| now.since(at) < limits::SPACE_EVERY) {
        return Ok(());
    }
    said.looked = Some(now);
    let map = core.map.current();
    for (drive, store) in shards.drives() {
        let Some(row) = map.drives.get(&drive) else { continue };
        let Ok(usage) = store.usage().await else { continue };
        let used_bytes = usage.capacity_bytes.saturating_sub(usage.available_bytes);
        let seen = mark(usage.level);
        let lasts = match seen < row.space {
            true => now.since(*said.emptier.entry(drive).or_insert(now)) >= limits::SPACE_CALM,
            false => said.emptier.remove(&drive).is_some() || seen > row.space,
        };
        let mark = if lasts { seen } else { row.space };
        let step = usage.capacity_bytes / limits::SPACE_STEPS;
        if mark != row.space || row.used_bytes.abs_diff(used_bytes) > step {
            let command = RootCommand::SetDriveUse { drive, used_bytes, mark };
            core.meta.root_command(&command).await?;
        }
    }
    Ok(())
}

fn mark(level: SpaceLevel) -> SpaceMark {
    match level {
        SpaceLevel::Normal => SpaceMark::Normal,
        SpaceLevel::Warn => SpaceMark::Warn,
        SpaceLevel::NoBackfill => SpaceMark::NoBackfill,
        SpaceLevel::NoWrites => SpaceMark::NoWrites,
    }
}

/// Opens own drives again that stopped because their index cannot be used. What they missed
/// meanwhile the map tells them at once (R1).
async fn open_stopped_drives(
    core: &Arc<Core>,
    shards: &ShardService,
    stopped: &mut BTreeMap<DriveId, ClosedDrive>,
) -> Result<(), GridError> {
    for (drive, store) in shards.drives() {
        if matches!(*store.state().borrow(), StoreState::Stopped(_)) {
            shards.remove(drive);
            stopped.insert(drive, store.into_closed().await);
        }
    }
    if stopped.is_empty() {
        return Ok(());
    }
    // Asked first: from here on nothing fails between taking a drive and putting it somewhere.
    let jumps = shards.jumps();
    let map = core.map.refresh().await?;
    let mut outcome = Ok(());
    for (drive, closed) in std::mem::take(stopped) {
        match closed.open().await {
            Ok(store) => {
                shards.add(drive, store);
                shards.adopt(&map, jumps).await;
                tracing::warn!(drive = drive.0, "drive is open again");
            }
            Err(error @ OpenError::Failed { .. }) => {
                tracing::error!(drive = drive.0, %error, "drive stays closed");
                let command = RootCommand::SetDriveState { drive, state: DriveState::Failed };
                if let Err(error) = core.meta.root_command(&command).await {
                    stopped.insert(drive, closed);
                    outcome = Err(error.into());
                }
            }
            Err(error) => {
                tracing::error!(drive = drive.0, %error, "drive cannot be opened again yet");
                stopped.insert(drive, closed);
            }
        }
    }
    outcome
}

/// One round of the root leader: brings joined nodes in, and the placement groups to the rules.
async fn keep(
    core: &Arc<Core>,
    liveness: &dyn Liveness,
    settled: &mut Settled,
) -> Result<(), GridError> {
    let mut map = core.map.refresh().await?;
    let now_ms = core.meta.now_ms();
    let mut joined = false;
    for node in map.nodes.values().filter(|node| node.state == NodeState::Joining) {
        if node.id == core.node || liveness.state(node.id) == NodeHint::Alive {
            let command =
                RootCommand::SetNodeState { node: node.id, state: NodeState::Active, now_ms };
            core.meta.root_command(&command).await?;
            joined = true;
        }
    }
    if joined {
        map = core.map.refresh().await?;
    }
    let hosts: BTreeSet<String> = map.storage_hosts().into_iter().map(str::to_owned).collect();
    let now = core.env.clock.now();
    if settled.hosts != hosts || settled.since.is_none() {
        *settled = Settled { hosts, since: Some(now) };
    }
    let calm = settled.since.map_or_else(Default::default, |since| now.since(since));
    if calm < core.options.placement.settle {
        return Ok(());
    }
    for step in placement::plan(&map, &core.options.placement) {
        let command = match step {
            PlacementStep::Create(new) => RootCommand::CreatePg(new),
            PlacementStep::Close(pg) => RootCommand::ClosePg { pg },
        };
        // The first refusal ends the round: the map has moved, the next round plans anew.
        core.meta.root_command(&command).await?;
    }
    Ok(())
}
