//! Fills moved slots, on the node that owns the new drive.
//!
//! ```text
//!  Preparing ─▶ open a repair session: root, then durably at the target (R4)
//!            ─▶ fence every drive that may hold shards, then list them (R2)
//!            ─▶ per block: alive? ── no, and nobody lists it ──▶ trash what the target holds (R7)
//!                  │ yes
//!                  └▶ here already │ copy from where it leaves │ rebuild from k ──▶ put
//!            ─▶ close the session: target, then root ─▶ CleanPg
//! ```
//!
//! Every step may be repeated; a worker that dies begins anew, and its session's late messages are
//! refused by then. A group is declared clean only if nothing acknowledged can be missing: each block
//! that lives or may yet be committed was found on k slots, and the slots listed meet every quorum.
//! Otherwise it stays in preparation, with everything filled that can be, and is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use nexusgrid_codec::{DriveId, PgId};
use nexusgrid_drive::{DriveError, DriveState, DriveStore, FillSessionId};
use nexusgrid_env::BootInstant;
use nexusgrid_meta::root::topology::{Pg, PgState, SlotMove, Topology};
use nexusgrid_meta::root::types::{RootCommand, RootError, RootOk};

use super::fill::{Filled, Filling};
use super::leftovers;
use super::sources::SourceError;
use super::survivors::is_urgent;
use super::throttle::Throttle;
use crate::care::workers::Worker;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::meta_port::MetaError;
use crate::rebuild::Holder;
use crate::shard::ShardService;

/// How a try to fill a slot ended.
enum Outcome {
    /// The group is clean.
    Clean,
    /// It is not ours to fill any more.
    Gone,
    /// Not yet: why.
    Waits(String),
}

/// What was moved, for the worker's status.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) bytes: AtomicU64,
}

/// A group that could not be finished.
struct Retry {
    at: BootInstant,
    pause: Duration,
    why: String,
}

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, shards: Arc<ShardService>, worker: Worker) {
    let mut throttles: BTreeMap<DriveId, Arc<Throttle>> = BTreeMap::new();
    let mut retries: BTreeMap<PgId, Retry> = BTreeMap::new();
    let mut running: FuturesUnordered<BoxFuture<'static, (DriveId, PgId, Outcome)>> =
        FuturesUnordered::new();
    let mut busy: BTreeSet<DriveId> = BTreeSet::new();
    let progress = Arc::new(Progress::default());
    let mut news = core.map.watch();
    loop {
        tokio::select! {
            biased;
            Some((drive, pg, outcome)) = running.next(), if !running.is_empty() => {
                busy.remove(&drive);
                worker.did(u64::from(matches!(outcome, Outcome::Clean)), 0);
                note(&core, &mut retries, pg, outcome);
                if busy.is_empty() {
                    worker.end(retries.values().next().map(|retry| retry.why.clone()));
                }
                continue;
            }
            changed = news.changed() => if changed.is_err() { return },
            () = core.env.clock.sleep(core.options.care.remap.every) => {}
        }
        let rate = worker.rate(core.options.care.remap.bytes_per_second);
        worker.did(0, progress.bytes.swap(0, Ordering::Relaxed));
        // What has begun goes on: it holds a session and a part of the budget.
        if worker.is_paused() {
            continue;
        }
        let map = core.map.current();
        let own = shards.drives();
        let jobs: Vec<(PgId, DriveId)> = map
            .pgs
            .values()
            .filter_map(|pg| own_move(pg).map(|made| (pg.id, made.to)))
            .filter(|(_, to)| own.iter().any(|(drive, _)| drive == to))
            .collect();
        retries.retain(|pg, _| jobs.iter().any(|(job, _)| job == pg));
        let now = core.env.clock.now();
        for (drive, store) in own {
            if busy.contains(&drive) || *store.state().borrow() != DriveState::Healthy {
                continue;
            }
            let is_due = |pg: &PgId| retries.get(pg).is_none_or(|retry| retry.at <= now);
            let mine = jobs.iter().filter(|(pg, to)| *to == drive && is_due(pg));
            let urgent = |pg: &PgId| map.pgs.get(pg).is_some_and(|pg| is_urgent(&map, pg));
            let Some(pg) = mine.map(|(pg, _)| *pg).min_by_key(|pg| (!urgent(pg), *pg)) else {
                continue;
            };
            let throttle = throttles
                .entry(drive)
                .or_insert_with(|| Arc::new(Throttle::new(core.env.clone(), rate)));
            throttle.set_rate(rate);
            if busy.is_empty() {
                worker.begin(Some(jobs.len() as u64));
            }
            busy.insert(drive);
            let job = Job {
                core: Arc::clone(&core),
                store,
                drive,
                throttle: Arc::clone(throttle),
                progress: Arc::clone(&progress),
                stuck: retries.keys().copied().collect(),
            };
            running.push(Box::pin(async move {
                let outcome = job.run(pg).await;
                (drive, pg, outcome.unwrap_or_else(|error| Outcome::Waits(error.to_string())))
            }));
        }
    }
}

fn note(core: &Core, retries: &mut BTreeMap<PgId, Retry>, pg: PgId, outcome: Outcome) {
    match outcome {
        Outcome::Clean => {
            tracing::info!(pg = pg.0, "a moved slot is filled");
            retries.remove(&pg);
        }
        Outcome::Gone => drop(retries.remove(&pg)),
        Outcome::Waits(why) => {
            tracing::info!(pg = pg.0, %why, "a moved slot is not filled yet");
            let options = &core.options.care.remap;
            let before = retries.get(&pg).map_or(options.every, |retry| retry.pause * 2);
            let pause = before.min(options.retry_max);
            let at = core.env.clock.now().plus(pause);
            retries.insert(pg, Retry { at, pause, why: format!("pg {}: {why}", pg.0) });
        }
    }
}

/// The slot of a group that moves. The planner moves one at a time.
fn own_move(pg: &Pg) -> Option<SlotMove> {
    match &pg.state {
        PgState::Preparing(remap) => match remap.moves.as_slice() {
            [made] => Some(*made),
            _ => None,
        },
        PgState::Active | PgState::Closed => None,
    }
}

/// Work for one drive.
struct Job {
    core: Arc<Core>,
    store: DriveStore,
    drive: DriveId,
    throttle: Arc<Throttle>,
    progress: Arc<Progress>,
    /// Groups that could not be finished when this began: they are not waited for.
    stuck: BTreeSet<PgId>,
}

impl Job {
    async fn run(&self, pg: PgId) -> Result<Outcome, GridError> {
        let map = self.core.map.refresh().await?;
        let Some(pg) = map.pgs.get(&pg) else { return Ok(Outcome::Gone) };
        let Some(made) = own_move(pg).filter(|made| made.to == self.drive) else {
            return Ok(Outcome::Gone);
        };
        let open = RootCommand::OpenFillSession { pg: pg.id, worker: self.core.node };
        let RootOk::FillSession(session) = self.core.meta.root_command(&open).await? else {
            return Err(internal("reply to opening a repair session"));
        };
        match self.store.fence(pg.id, pg.epoch).await {
            Ok(_) => {}
            Err(DriveError::StaleEpoch { .. }) => return Ok(Outcome::Gone),
            Err(error) => return Err(internal(error)),
        }
        self.raise_floor(pg.id, session).await?;
        let filled = self.fill(&map, pg, made, session).await;
        // Closed however it went, here first: it is this floor that refuses what is still on its way.
        self.raise_floor(pg.id, session + 1).await?;
        let close = RootCommand::CloseFillSession { pg: pg.id, session };
        self.core.meta.root_command(&close).await?;
        match filled {
            Ok(Filled::All) => {}
            Ok(Filled::Waits(why)) => return Ok(Outcome::Waits(why)),
            Err(SourceError::Superseded) => return Ok(Outcome::Gone),
            Err(SourceError::Other(error)) => return Err(error),
        }
        let clean = RootCommand::CleanPg { pg: pg.id, epoch: pg.epoch };
        match self.core.meta.root_command(&clean).await {
            Ok(_) => {}
            Err(MetaError::Root(RootError::EpochChanged(..))) => return Ok(Outcome::Gone),
            Err(error) => return Err(error.into()),
        }
        // A drive that had another slot of the group before need not keep that one's shards.
        let clean = Pg { state: PgState::Closed, ..pg.clone() };
        if let Err(error) = leftovers::clear(self.drive, &self.store, &clean).await {
            tracing::debug!(pg = pg.id.0, %error, "leftovers");
        }
        Ok(Outcome::Clean)
    }

    async fn fill(
        &self,
        map: &Topology,
        pg: &Pg,
        made: SlotMove,
        session: u64,
    ) -> Result<Filled, SourceError> {
        let target = Holder { slot: made.slot, node: self.core.node, drive: self.drive };
        let filling = Filling {
            core: &self.core,
            store: &self.store,
            pg,
            made,
            target,
            session,
            throttle: (!is_urgent(map, pg)).then_some(&*self.throttle),
            progress: &self.progress,
            stuck: &self.stuck,
        };
        filling.run(map).await
    }

    async fn raise_floor(&self, pg: PgId, session: u64) -> Result<(), GridError> {
        self.store.raise_fill_floor(pg, FillSessionId(session)).await.map_err(internal)
    }
}
