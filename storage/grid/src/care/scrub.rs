//! Each node reads all that its drives hold, a stretch at a time, and checks it: bits rot unseen.
//!
//! What is rotten in a drive's own files the drive mends itself; a shard that is lost goes on the
//! repair queue of its metadata group (I2), durably, before the cursor moves on. What the node keeps
//! of the metadata groups is read by a worker of its own; the host takes rotten replicas out
//! (`nexusgrid_meta::host::rot`).
//!
//! A stretch waits while clients use the drive, unless the pass would not end in time, and is read in
//! steps with pauses between them. `nexusgrid scrub` begins a pass at once, without pauses.
//!
//! State: where each drive's pass stands, in a file of the drive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_drive::{
    DriveError, DriveState, DriveStore, Finding, Rot, ScrubCursor, ScrubOptions,
};
use nexusgrid_env::{BootInstant, Env};
use nexusgrid_meta::MetaHost;
use nexusgrid_meta::host::MetaScrub;
use nexusgrid_meta::namespace::types::NamespaceCommand;

use super::passes::{PASS, Pass};
use super::workers::{Worker, Workers};
use crate::core::Core;
use crate::error::GridError;
use crate::limits;
use crate::shard::ShardService;

/// The worker that reads drives.
pub const DRIVES: &str = "scrub";
/// The worker that reads what the node keeps of the metadata groups.
pub const METADATA: &str = "scrub-meta";

/// What is known of a drive between two rounds.
#[derive(Default)]
struct Known {
    pass: Pass,
    /// Requests that it had served, and when.
    served: Option<(u64, BootInstant)>,
}

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, shards: Arc<ShardService>, mut worker: Worker) {
    let mut known: BTreeMap<DriveId, Known> = BTreeMap::new();
    // Drives that someone wants read now, and whose pass has not ended since.
    let mut wanted: Option<BTreeSet<DriveId>> = None;
    loop {
        worker.turn(core.options.care.scrub_every).await;
        worker.begin(None);
        let drives: Vec<(DriveId, DriveStore)> = shards
            .drives()
            .into_iter()
            .filter(|(_, store)| *store.state().borrow() == DriveState::Healthy)
            .collect();
        known.retain(|drive, _| drives.iter().any(|(id, _)| id == drive));
        if worker.is_hurried() && wanted.is_none() {
            wanted = Some(drives.iter().map(|(drive, _)| *drive).collect());
            known.values_mut().for_each(|known| known.pass.begin_again(core.meta.now_ms()));
        }
        let mut failed = None;
        let mut percents = Vec::new();
        for (drive, store) in &drives {
            let mut of_drive = match known.remove(drive) {
                Some(known) => known,
                None => Known { pass: load(&core, store).await, served: None },
            };
            let hurried = wanted.as_ref().is_some_and(|wanted| wanted.contains(drive));
            match round(&core, *drive, store, &mut of_drive, hurried, &worker).await {
                Ok(Some(percent)) => percents.push(percent),
                Ok(None) => done(&mut wanted, *drive),
                Err(error) => {
                    failed = Some(format!("drive {}: {error}", drive.0));
                    done(&mut wanted, *drive);
                }
            }
            known.insert(*drive, of_drive);
        }
        let is_here = |drive: &DriveId| drives.iter().any(|(id, _)| id == drive);
        if wanted.as_ref().is_some_and(|wanted| !wanted.iter().any(is_here)) {
            wanted = None;
            worker.calm();
        }
        worker.progress(percents.into_iter().min());
        worker.end(failed);
    }
}

/// Nobody waits for this drive any more.
fn done(wanted: &mut Option<BTreeSet<DriveId>>, drive: DriveId) {
    if let Some(wanted) = wanted {
        wanted.remove(&drive);
    }
}

async fn load(core: &Core, store: &DriveStore) -> Pass {
    let (disk, dir, now_ms) = (core.env.disk.clone(), store.dir().to_owned(), core.meta.now_ms());
    let kept = core.env.exec.blocking(move || PASS.load(disk.as_ref(), &dir)).await;
    kept.unwrap_or_else(|| Pass::new(now_ms))
}

/// One stretch of one drive, unless clients need it now; gives how far its pass is, `None` at its end.
async fn round(
    core: &Arc<Core>,
    drive: DriveId,
    store: &DriveStore,
    known: &mut Known,
    hurried: bool,
    worker: &Worker,
) -> Result<Option<u8>, GridError> {
    let care = &core.options.care;
    let usage = store.usage().await.map_err(failed)?;
    let used = usage.shard_bytes + usage.trash_bytes + usage.reclaimable_bytes;
    let now_ms = core.meta.now_ms();
    let late = now_ms.saturating_sub(known.pass.began_ms) > millis(care.scrub_within) / 2;
    let counted = store.metrics();
    let requests = counted.puts + counted.gets;
    let now = core.env.clock.now();
    let before = known.served.replace((requests, now));
    if !hurried && !late && is_busy(before, requests, now) {
        return Ok(Some(known.pass.percent(used)));
    }
    let budget = worker_budget(worker, care.scrub_every, care.scrub_bytes, care.scrub_within, used);
    let mut read = 0;
    let ended = loop {
        let step = limits::SCRUB_STEP_BYTES.min(budget - read);
        let (next, bytes) = stretch(core, drive, store, known.pass.cursor, step, worker).await?;
        read += bytes;
        known.pass.bytes += bytes;
        match next {
            None => break true,
            Some(next) => known.pass.cursor = next,
        }
        if read >= budget {
            break false;
        }
        if !hurried {
            core.env.clock.sleep(limits::SCRUB_STEP_PAUSE).await;
        }
    };
    let percent = known.pass.percent(used);
    if ended {
        tracing::info!(drive = drive.0, bytes = known.pass.bytes, "scrub has read all of a drive");
        known.pass.begin_again(now_ms);
    }
    let (disk, dir, pass) = (core.env.disk.clone(), store.dir().to_owned(), known.pass);
    let kept = core.env.exec.blocking(move || PASS.store(disk.as_ref(), &dir, &pass, false)).await;
    if let Err(error) = kept {
        tracing::debug!(drive = drive.0, %error, "keeping where scrub stands");
    }
    Ok((!ended).then_some(percent))
}

fn failed(error: DriveError) -> GridError {
    GridError::Unavailable(error.to_string())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes of a stretch: what an administrator set; else at least so many that a pass takes half the
/// time it may.
fn worker_budget(worker: &Worker, every: Duration, least: u64, within: Duration, used: u64) -> u64 {
    let every_ms = millis(every).max(1);
    let stretches = (millis(within) / 2 / every_ms).max(1);
    let default = least.max(used.div_ceil(stretches));
    let per_second = worker.rate(default.saturating_mul(1_000) / every_ms);
    (per_second.saturating_mul(every_ms) / 1_000).max(limits::SCRUB_STEP_BYTES)
}

/// Whether clients used the drive since the last look.
fn is_busy(before: Option<(u64, BootInstant)>, requests: u64, now: BootInstant) -> bool {
    let Some((served, at)) = before else { return false };
    let seconds = now.since(at).as_secs_f64().max(1.0);
    requests.saturating_sub(served) as f64 / seconds > limits::SCRUB_BUSY_REQUESTS_PER_SECOND
}

/// Checks one stretch of a drive; gives where to go on, `None` at the end of a pass.
async fn stretch(
    core: &Arc<Core>,
    drive: DriveId,
    store: &DriveStore,
    cursor: ScrubCursor,
    budget: u64,
    worker: &Worker,
) -> Result<(Option<ScrubCursor>, u64), GridError> {
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
    Ok((step.next, step.bytes))
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

/// Starts the worker that reads what this node keeps of the metadata groups; it ends with the agent.
/// A stretch takes one segment of a log, or `bytes` of a replica's rows.
pub fn scrub_metadata(env: &Env, host: &MetaHost, workers: &Workers, every: Duration, bytes: u64) {
    let mut worker = workers.add(METADATA, "reads and checks logs and rows of metadata groups");
    let host = host.clone();
    let work = async move {
        let mut pass = MetaScrub::default();
        let mut hurried = false;
        loop {
            worker.turn(every).await;
            worker.begin(None);
            if worker.is_hurried() && !std::mem::replace(&mut hurried, true) {
                pass = MetaScrub::default();
            }
            let outcome = host.scrub(&mut pass, bytes).await;
            let error = match outcome {
                Ok(step) => {
                    worker.did(1, step.bytes);
                    if step.ended {
                        hurried = false;
                        worker.calm();
                    }
                    step.found.map(|(kind, what)| format!("{}: {what}", kind.name()))
                }
                Err(error) => {
                    // The pass goes on behind what could not be read.
                    Some(error.to_string())
                }
            };
            if let Some(what) = &error {
                tracing::error!(what, "scrub of metadata");
            }
            worker.end(error);
        }
    };
    drop(env.exec.spawn(work));
}
