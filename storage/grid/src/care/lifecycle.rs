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
use nexusgrid_meta::namespace::limits::{PACKED_BYTES_MAX, SWAPS_MAX};
use nexusgrid_meta::namespace::types::{
    ContentId, FoundExtent, LifecycleLeft, LifecycleMove, NamespaceAnswer, NamespaceCommand,
    NamespaceError, NamespaceOk, NamespaceQuery, PieceData, VersionChange, VersionRef,
};

use super::remap::throttle::Throttle;
use super::rewrite::batch::move_into_one_block;
use super::rewrite::worker::is_own;
use super::workers::Worker;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::meta_port::MetaError;
use crate::placement;
use crate::storage_class;
use crate::stripe::BlockKind;

/// How often it is looked whether anything is due: as often in a day as there are minutes in one.
fn pause(day: Duration) -> Duration {
    (day / (24 * 60)).clamp(limits::LIFECYCLE_PAUSE_MIN, limits::LIFECYCLE_PAUSE_MAX)
}

/// Runs until the agent stops.
pub(crate) async fn run(core: Arc<Core>, mut worker: Worker) {
    let default = core.options.care.rewrite.bytes_per_second;
    let throttle = Throttle::new(core.env.clone(), worker.rate(default));
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
            let throttle = &throttle;
            let mut round =
                Round { core: &core, group, throttle, worker: &mut worker, failed: None };
            match round.run().await {
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
    throttle: &'a Throttle,
    worker: &'a mut Worker,
    /// Why a move failed, the first of them. It is told again in an hour, as days go.
    failed: Option<GridError>,
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
        self.failed.take().map_or(Ok(true), Err)
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
        for wanted in done.moves {
            match self.move_one(wanted).await {
                Ok(()) => self.worker.did(1, 0),
                // The others are not kept waiting.
                Err(error) => {
                    self.failed.get_or_insert(error);
                }
            }
        }
        Ok(done.more)
    }

    /// Gives a version another storage class, unless it is another by now. Bytes that are to lie in copies are
    /// moved before it says so; what need not any more is left to the rewrite worker.
    async fn move_one(&mut self, wanted: LifecycleMove) -> Result<(), GridError> {
        let LifecycleMove { bucket, key, version, content, class } = wanted;
        let version = VersionRef { bucket, key, version: Some(version) };
        let query = NamespaceQuery::HeadVersion { version: version.clone() };
        let object = match self.core.meta.ask(self.group, &query).await {
            Ok(NamespaceAnswer::Object(object)) => object,
            Ok(_) => return Err(internal("answer to a head query")),
            Err(MetaError::Namespace(error)) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if object.content != content {
            return Ok(());
        }
        let copies = storage_class::is_copies(&class);
        if copies != storage_class::is_copies(&object.meta.storage_class) {
            self.relocate(content, copies).await?;
        }
        let command = NamespaceCommand::ChangeVersion {
            version,
            change: VersionChange::StorageClass(class, content),
            now_ms: self.core.meta.now_ms(),
        };
        match self.core.meta.command(self.group, &command).await {
            Ok(_) => Ok(()),
            Err(MetaError::Namespace(error)) if is_gone(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the large contents that an object is made of lie in copies, or not.
    async fn relocate(&mut self, content: ContentId, copies: bool) -> Result<(), GridError> {
        let mut after = None;
        loop {
            let limit = u32::try_from(SWAPS_MAX).unwrap_or(u32::MAX);
            let query = NamespaceQuery::Leaves { content, after, limit };
            let (leaves, more) = match self.core.meta.ask(self.group, &query).await {
                Ok(NamespaceAnswer::Leaves { leaves, more }) => (leaves, more),
                Ok(_) => return Err(internal("answer to a query for the contents of a content")),
                // The object went meanwhile, as will be found.
                Err(MetaError::Namespace(NamespaceError::NoSuchContent)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            after = leaves.last().map(|(leaf, _)| *leaf);
            let large: Vec<(ContentId, u64)> =
                leaves.into_iter().filter(|(_, size)| *size > PACKED_BYTES_MAX).collect();
            // First, so that the rewrite worker does not move back what is moved.
            let contents = large.iter().map(|(leaf, _)| *leaf).collect();
            let command = NamespaceCommand::SetCopies { contents, copies };
            self.core.meta.command(self.group, &command).await?;
            if copies {
                for (leaf, size) in large {
                    self.copy_leaf(leaf, size).await?;
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Moves what does not lie in copies yet, until nothing is left: what another moved meanwhile is found where
    /// it lies now.
    async fn copy_leaf(&mut self, leaf: ContentId, size: u64) -> Result<(), GridError> {
        for _ in 0..limits::LIFECYCLE_COPY_TRIES {
            if self.copy_extents(leaf, size).await? {
                return Ok(());
            }
        }
        Err(GridError::Unavailable("extents that others move".to_owned()))
    }

    /// Whether all that did not lie in copies was moved, or the content is gone.
    async fn copy_extents(&mut self, leaf: ContentId, size: u64) -> Result<bool, GridError> {
        let default = self.core.options.care.rewrite.bytes_per_second;
        let mut are_all = true;
        let mut offset = 0;
        while offset < size {
            let query = NamespaceQuery::Extents { content: leaf, offset, len: size - offset };
            let map = match self.core.meta.ask(self.group, &query).await {
                Ok(NamespaceAnswer::Map(map)) => map,
                Ok(_) => return Err(internal("answer to a query for extents")),
                Err(MetaError::Namespace(NamespaceError::NoSuchContent)) => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            for piece in map.pieces {
                let PieceData::Extent(extent) = piece.data else { continue };
                let key = usize::try_from(piece.key).ok().and_then(|key| map.keys.get(key));
                let key = key.ok_or_else(|| internal("a piece without its key"))?.clone();
                if extent.k == 1 {
                    continue;
                }
                self.throttle.set_rate(self.worker.rate(default));
                let found = FoundExtent { content: leaf, size: 0, key, extent };
                are_all &= self.copy_extent(found).await?;
            }
            match map.next {
                Some(next) => offset = next,
                None => break,
            }
        }
        Ok(are_all)
    }

    /// Whether it was still where it had been found, and is moved.
    async fn copy_extent(&mut self, found: FoundExtent) -> Result<bool, GridError> {
        let classes = placement::classes_of(&self.core.map.current());
        let none = || GridError::Unavailable("no drives".to_owned());
        let (classes, kind) = (classes.ok_or_else(none)?, BlockKind::Pack);
        let (core, batch) = (self.core, vec![found]);
        let moved =
            move_into_one_block(core, self.group, kind, classes, batch, self.throttle).await?;
        self.worker.did(0, moved.bytes);
        moved.why.map_or(Ok(moved.extents > 0), |why| Err(GridError::Unreadable(why)))
    }
}
