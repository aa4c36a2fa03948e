//! Carries out what owners laid down about their objects' ends: expiry, and moves to other storage classes.
//!
//! ```text
//!   LifecycleLeft: anything due, or to be looked through? ──▶ RunLifecycle, step by step: metadata looks at
//!   what is due anew and deletes what still is ──▶ versions to be moved: written anew, swapped in
//! ```
//!
//! What is due is an index in metadata (`nexusgrid_meta::namespace::lifecycle`), so a round costs what is
//! due, not what there is. One gateway does it for a metadata group, as it is with rewriting: moves take
//! keys. Two at once do no harm, nor does one that is late: each step decides by the rows it finds.
//!
//! After a restore nothing expires until deletes are thawed: rows may be older than what they name.
//! Time is the wall clock of the gateway that asks for the step: one that is ahead expires things
//! early by as much, and no more.

use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_meta::namespace::types::{
    LifecycleLeft, LifecycleMove, NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceOk,
    NamespaceQuery, VersionChange, VersionRef,
};

use super::rewrite::worker::is_own;
use super::workers::Worker;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::meta_port::MetaError;

/// How often it is looked whether anything is due: as often in a day as there are minutes in one.
fn pause(day: Duration) -> Duration {
    (day / (24 * 60)).clamp(limits::LIFECYCLE_PAUSE_MIN, limits::LIFECYCLE_PAUSE_MAX)
}

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, mut worker: Worker) {
    loop {
        worker.turn(pause(core.options.care.lifecycle_day)).await;
        if !core.keys.holds_master() {
            continue;
        }
        let mut failed = None;
        let mut is_busy = false;
        for group in core.map.metadata_groups() {
            if !is_own(&core, &core.map.current(), group) {
                continue;
            }
            match (Round { core: &core, group, worker: &mut worker }).run().await {
                Ok(had_work) => is_busy |= had_work,
                Err(error) => {
                    tracing::info!(group = group.0, %error, "carrying out lifecycle rules");
                    failed = Some(format!("group {}: {error}", group.0));
                }
            }
        }
        if is_busy || failed.is_some() {
            worker.end(failed);
        }
    }
}

/// Whether a version is not what it was when its time came.
fn is_gone(error: &NamespaceError) -> bool {
    use NamespaceError as E;
    matches!(
        error,
        E::SourceChanged | E::NoSuchBucket | E::NoSuchKey | E::NoSuchVersion | E::DeleteMarker(..)
    )
}

/// One look at a group.
struct Round<'a> {
    core: &'a Arc<Core>,
    group: GroupId,
    worker: &'a mut Worker,
}

impl Round<'_> {
    /// Whether there was anything to do.
    async fn run(&mut self) -> Result<bool, GridError> {
        let now_ms = self.core.meta.now_ms();
        let left = self.left(now_ms).await?;
        if left.walks == 0 && left.due == 0 {
            return Ok(false);
        }
        self.worker.begin(Some(u64::from(left.due)));
        // By a map that was just read: another may have restored metadata meanwhile.
        if !self.core.deletions.confirm(self.core).await {
            return Err(GridError::Unavailable("deletes are frozen since a restore".to_owned()));
        }
        while self.step().await? {
            // Between two steps it rests if told to, and ends if another is to do it.
            self.worker.turn(Duration::ZERO).await;
            let is_own = is_own(self.core, &self.core.map.current(), self.group);
            if !is_own || !self.core.deletions.may_delete() {
                break;
            }
        }
        Ok(true)
    }

    async fn left(&self, now_ms: u64) -> Result<LifecycleLeft, GridError> {
        match self.core.meta.ask(self.group, &NamespaceQuery::LifecycleLeft { now_ms }).await? {
            NamespaceAnswer::LifecycleLeft(left) => Ok(left),
            _ => Err(internal("answer to a query for what is due")),
        }
    }

    /// Whether there is more to do now.
    async fn step(&mut self) -> Result<bool, GridError> {
        let command = NamespaceCommand::RunLifecycle { now_ms: self.core.meta.now_ms() };
        let NamespaceOk::Lifecycle(done) = self.core.meta.command(self.group, &command).await?
        else {
            return Err(internal("reply to a step of lifecycle rules"));
        };
        self.worker.did(u64::from(done.expired + done.markers + done.aborted), 0);
        let mut failed = None;
        for wanted in done.moves {
            match self.move_one(wanted).await {
                Ok(()) => self.worker.did(1, 0),
                // It is told again in an hour, as days go; the others are not kept waiting.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(done.more), Err)
    }

    /// Gives a version another storage class, unless it is another by now.
    async fn move_one(&mut self, wanted: LifecycleMove) -> Result<(), GridError> {
        let LifecycleMove { bucket, key, version, content, class } = wanted;
        let command = NamespaceCommand::ChangeVersion {
            version: VersionRef { bucket, key, version: Some(version) },
            change: VersionChange::StorageClass(class, content),
            now_ms: self.core.meta.now_ms(),
        };
        match self.core.meta.command(self.group, &command).await {
            Ok(_) => Ok(()),
            Err(MetaError::Namespace(error)) if is_gone(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
