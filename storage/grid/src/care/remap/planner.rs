//! The root group's leader plans remaps and proposes them.
//!
//! State: what it has seen of absences; forgotten with leadership, and after a suspend, for a clock
//! that jumped has measured nobody's absence.

use std::sync::Arc;
use std::time::Duration;

use nexusgrid_meta::root::topology::PgState;
use nexusgrid_meta::root::types::RootCommand;

use super::balance::balance;
use super::plan::{Plan, Step, Watch, plan};
use crate::care::workers::Worker;
use crate::core::Core;
use crate::error::GridError;
use crate::meta_port::ROOT;

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, mut worker: Worker, balancer: Worker) {
    let mut watch = Watch::default();
    // Nothing to even out was found: looked at again then.
    let mut even_until = core.env.clock.now();
    let mut jumps = core.env.clock.suspend_jumps();
    let mut news = core.map.watch();
    loop {
        // After each change of the map, for a group that is clean makes room for the next; and from
        // time to time, for graces end without news.
        tokio::select! {
            biased;
            changed = news.changed() => if changed.is_err() { return },
            () = core.env.clock.sleep(core.options.care.remap.every) => {}
        }
        worker.turn(Duration::ZERO).await;
        news.borrow_and_update();
        if !core.meta.leads(ROOT) || jumps.has_changed().unwrap_or(false) {
            jumps.borrow_and_update();
            watch = Watch::default();
            continue;
        }
        match round(&core, &mut watch, &worker).await {
            Ok(plan) => {
                worker.end(plan.alarm());
                let now = core.env.clock.now();
                if plan.is_idle() && !balancer.is_paused() && even_until <= now {
                    let done = even_out(&core, &watch, &balancer).await;
                    if let Ok(0) = done {
                        even_until = now.plus(core.options.care.remap.balance_after / 10);
                    }
                    balancer.end(done.err().map(|error| error.to_string()));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "planning remaps");
                worker.end(Some(error.to_string()));
            }
        }
    }
}

async fn round(core: &Arc<Core>, watch: &mut Watch, worker: &Worker) -> Result<Plan, GridError> {
    let map = core.map.refresh().await?;
    let now = core.env.clock.now();
    watch.observe(&map, now);
    let plan = plan(&map, watch, now, &core.options.care.remap);
    let moving = map.pgs.values().filter(|pg| matches!(pg.state, PgState::Preparing(_))).count();
    worker.begin(Some((plan.waiting + moving) as u64));
    for step in &plan.steps {
        // The first refusal ends the round: the map has moved, the next round plans anew.
        propose(core, step).await?;
        watch.planned(step, now);
        worker.did(1, 0);
    }
    Ok(plan)
}

/// Moves slots from drives that hold more than their share; gives how many.
async fn even_out(core: &Arc<Core>, watch: &Watch, worker: &Worker) -> Result<usize, GridError> {
    let (map, now) = (core.map.current(), core.env.clock.now());
    let plan = balance(&map, watch, now, &core.options.care.remap);
    worker.begin(Some(plan.out_of_place));
    for step in &plan.steps {
        propose(core, step).await?;
        worker.did(1, 0);
    }
    Ok(plan.steps.len())
}

async fn propose(core: &Arc<Core>, step: &Step) -> Result<(), GridError> {
    let command = RootCommand::PreparePg {
        pg: step.pg,
        from: step.from,
        moves: vec![(step.slot, step.to)],
        now_ms: core.meta.now_ms(),
    };
    core.meta.root_command(&command).await?;
    let (pg, slot, to, urgent) = (step.pg.0, step.slot, step.to.0, step.urgent);
    tracing::info!(pg, slot, to, urgent, "a slot moves");
    Ok(())
}
