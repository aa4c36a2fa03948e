//! The writer: takes what waits, admits it, writes once, syncs once, folds it into the index,
//! answers all (group commit).
//!
//! An answer leaves only after the sync (L10). A failed sync or write fails the drive at once and
//! is never tried again: the kernel may have dropped the dirty pages and would report success. A
//! full disk is no failure, unless a sync meets it: the tail is cut back (later, if the disk is too
//! full even for that) and the shards refused, while facts (deletes, fences) get a second try
//! without them.

use std::io;
use std::sync::Arc;

use nexusgrid_env::Invariant;

use crate::admit::epoch_key;
use crate::draft::{Draft, Finished, Start};
use crate::error::DriveError;
use crate::index::SegmentRow;
use crate::limits::BATCH_BYTES_MAX;
use crate::log::SegmentLabel;
use crate::metrics::{add, at_least};
use crate::op::{Op, Refusal, Reply, StoredBefore};
use crate::queue::Pending;
use crate::segment::{self, DATA_START, SegmentFile};
use crate::shared::{LogEnd, Shared, is_full};
use crate::space::Budget;
use crate::txn::Txn;
use crate::types::DriveState;

type Answer = Result<Reply, DriveError>;

/// Runs until the queue is closed (or the agent stops, which drops this future).
pub async fn run(guard: WriterGuard) {
    let shared = guard.0.clone();
    let bytes_max = BATCH_BYTES_MAX.min(shared.options.segment_bytes);
    while let Some(batch) = shared.queue.take(bytes_max).await {
        let committer = shared.clone();
        shared.env.exec.blocking(move || commit(&committer, batch)).await;
    }
    let flusher = shared.clone();
    shared
        .env
        .exec
        .blocking(move || {
            if flusher.check().is_ok()
                && let Err(error) = flusher.kv.flush()
            {
                tracing::warn!(%error, "index not flushed at close; the log will be replayed");
            }
        })
        .await;
    drop(guard);
}

/// Whatever ends the writer, even before it first ran, nobody waits for it in vain.
pub struct WriterGuard(pub Arc<Shared>);

impl Drop for WriterGuard {
    fn drop(&mut self) {
        self.0.queue.abandon();
        self.0.state.send_if_modified(|state| {
            let healthy = *state == DriveState::Healthy;
            if healthy {
                *state = DriveState::Closed;
            }
            healthy
        });
        self.0.ended.send_replace(true);
    }
}

enum Trouble {
    /// The disk is full; the tail is cut back.
    Full,
    /// The drive has failed.
    Failed(DriveError),
}

/// Commits one batch and answers it.
fn commit(shared: &Shared, batch: Vec<Pending>) {
    let answers = match shared.check() {
        Ok(()) => decide(shared, &batch),
        Err(error) => vec![Err(error); batch.len()],
    };
    for (pending, answer) in batch.into_iter().zip(answers) {
        // Whoever waited may have gone; the commit stands either way.
        let _ = pending.reply.send(answer);
    }
}

fn decide(shared: &Shared, batch: &[Pending]) -> Vec<Answer> {
    let mut log = shared.log.lock();
    if log.end >= shared.options.segment_bytes
        && let Err(error) = roll(shared, &mut log)
    {
        return vec![Err(error); batch.len()];
    }
    let tried = match cut_back(shared, &mut log) {
        Ok(()) => match attempt(shared, &mut log, batch, true) {
            Err(Trouble::Full) => attempt(shared, &mut log, batch, false),
            tried => tried,
        },
        Err(trouble) => Err(trouble),
    };
    let mut answers = match tried {
        Ok(answers) => answers,
        Err(Trouble::Failed(error)) => return vec![Err(error); batch.len()],
        Err(Trouble::Full) => {
            return vec![Err(DriveError::NoSpace { available_bytes: 0 }); batch.len()];
        }
    };
    let active = log.active.id;
    let asks = |one: &Pending| matches!(one.op, Op::Seal { segment } if segment == active);
    if log.end > DATA_START
        && batch.iter().any(asks)
        && let Err(error) = roll(shared, &mut log)
    {
        // The others are durable all the same.
        for (_, answer) in batch.iter().zip(&mut answers).filter(|(one, _)| asks(one)) {
            *answer = Err(error.clone());
        }
    }
    answers
}

fn attempt(
    shared: &Shared,
    log: &mut LogEnd,
    batch: &[Pending],
    with_shards: bool,
) -> Result<Vec<Answer>, Trouble> {
    let budget = shared.budget().unwrap_or_else(|error| {
        tracing::warn!(%error, "file system does not tell its space: refusing writes");
        Budget { capacity_bytes: 0, available_bytes: 0, free_bytes: 0 }
    });
    let start = Start {
        segment: log.active.id,
        uuid: log.active.uuid,
        end: log.end,
        sequence: log.sequence,
        age_ms: shared.age_ms(),
        meta: log.meta,
    };
    let owner = (&shared.env, shared.info.identity.drive);
    let mut draft = Draft::new(owner, shared.kv.as_ref(), &shared.options, budget, start);
    let mut answers = Vec::with_capacity(batch.len());
    for pending in batch {
        if pending.op.stores_shard() && !with_shards {
            answers.push(Err(DriveError::NoSpace { available_bytes: 0 }));
            continue;
        }
        answers.push(match draft.admit(&pending.op) {
            Ok(reply) => Ok(reply),
            Err(Refusal::Caller(error)) => Err(error),
            Err(Refusal::Index(error)) => return Err(Trouble::Failed(shared.index_failed(&error))),
        });
    }
    let (txn, finished) =
        draft.finish().map_err(|error| Trouble::Failed(shared.index_failed(&error)))?;
    if !finished.parts.is_empty() {
        write(shared, log, &finished)?;
    }
    if finished.parts.is_empty() && txn.changed() == 0 {
        return Ok(count(shared, batch, answers, 0));
    }
    // The records are durable: only now may the index speak of them.
    let meta = txn.commit().map_err(|error| Trouble::Failed(shared.index_failed(&error)))?;
    let bytes = finished.end - log.end;
    log.end = finished.end;
    log.sequence = finished.sequence;
    log.items.extend(finished.items);
    log.meta = meta;
    *shared.meta.lock() = meta;
    Ok(count(shared, batch, answers, bytes))
}

fn write(shared: &Shared, log: &mut LogEnd, finished: &Finished) -> Result<(), Trouble> {
    let file = log.active.file.clone();
    let parts: Vec<&[u8]> = finished.parts.iter().map(|part| part.as_ref()).collect();
    if let Err(error) = file.write_past_cache_at(&parts, log.end) {
        if !is_full(&error) {
            return Err(Trouble::Failed(shared.fail(format!("write: {error}"))));
        }
        add(&shared.metrics.disk_full, 1);
        log.uncut = true;
        cut_back(shared, log)?;
        return Err(Trouble::Full);
    }
    add(&shared.metrics.syncs, 1);
    file.sync().map_err(|error| Trouble::Failed(shared.fail(format!("sync: {error}"))))
}

/// Takes a half-written batch off the disk for good, so that no refused shard comes back with a
/// restart, nor its remains behind the next batch.
fn cut_back(shared: &Shared, log: &mut LogEnd) -> Result<(), Trouble> {
    if !log.uncut {
        return Ok(());
    }
    let file = log.active.file.as_ref();
    match file.set_len(log.end) {
        Ok(()) => {}
        // A file system that copies on write needs space even to cut.
        Err(error) if is_full(&error) => return Err(Trouble::Full),
        Err(error) => {
            return Err(Trouble::Failed(shared.fail(format!("cut after a full disk: {error}"))));
        }
    }
    file.sync().map_err(|error| Trouble::Failed(shared.fail(format!("sync: {error}"))))?;
    log.uncut = false;
    Ok(())
}

/// Begins a new segment and seals the active one. If the disk is too full for that, the active one
/// just grows on: its size is a soft limit.
fn roll(shared: &Shared, log: &mut LogEnd) -> Result<(), DriveError> {
    match cut_back(shared, log) {
        Ok(()) => {}
        Err(Trouble::Full) => return Ok(()),
        Err(Trouble::Failed(error)) => return Err(error),
    }
    let created = create_segment(shared, log.active.id + 1, log.end, log.sequence);
    let fresh = match created {
        Ok(fresh) => fresh,
        Err(error) if is_full(&error) => {
            add(&shared.metrics.disk_full, 1);
            return Ok(());
        }
        Err(error) => return Err(shared.fail(format!("new segment: {error}"))),
    };
    log.sequence += 1;
    match segment::seal(&log.active, log.end, &log.items, log.sequence) {
        Ok(()) => {}
        // Without a footer the segment is scanned instead; its end stands in the next one's label.
        Err(error) if is_full(&error) => {
            log.uncut = true;
            if let Err(Trouble::Failed(error)) = cut_back(shared, log) {
                return Err(error);
            }
            // A scan finds where the records end; what stands behind is a broken footer.
            log.uncut = false;
        }
        Err(error) => return Err(shared.fail(format!("seal: {error}"))),
    }
    log.sequence += 2;
    let mut txn = Txn::new(shared.kv.as_ref(), log.meta);
    let folded = (|| {
        if let Some(row) = txn.segment(log.active.id)? {
            txn.put_segment(log.active.id, &SegmentRow { sealed: true, ..row });
        }
        txn.put_segment(fresh.id, &new_row(fresh.uuid));
        txn.meta.cursor_segment = fresh.id;
        txn.meta.cursor_offset = DATA_START;
        txn.meta.sequence = log.sequence;
        txn.commit()
    })();
    let meta = folded.map_err(|error| shared.index_failed(&error))?;
    shared.remember_file(fresh.clone());
    add(&shared.metrics.segments_sealed, 1);
    log.active = fresh;
    log.end = DATA_START;
    log.items = Vec::new();
    log.meta = meta;
    *shared.meta.lock() = meta;
    Ok(())
}

/// Row of a segment without records.
pub fn new_row(uuid: [u8; 16]) -> SegmentRow {
    SegmentRow { uuid, live_bytes: 0, data_bytes: DATA_START, punched_bytes: 0, sealed: false }
}

fn create_segment(
    shared: &Shared,
    id: u64,
    previous_end: u64,
    sequence: u64,
) -> io::Result<SegmentFile> {
    let mut uuid = [0; 16];
    shared.env.rng.fill(&mut uuid);
    let label = SegmentLabel { id, incarnation: shared.info.incarnation.0, previous_end };
    segment::create(shared.env.disk.as_ref(), &shared.dir, label, uuid, sequence)
}

fn count(shared: &Shared, batch: &[Pending], answers: Vec<Answer>, bytes: u64) -> Vec<Answer> {
    let metrics = &shared.metrics;
    add(&metrics.batches, 1);
    add(&metrics.batch_ops, batch.len() as u64);
    at_least(&metrics.batch_ops_max, batch.len() as u64);
    add(&metrics.batch_bytes, bytes);
    for (pending, answer) in batch.iter().zip(&answers) {
        witness(shared, &pending.op, answer);
        match (&pending.op, answer) {
            (Op::Put(_), Ok(Reply::Put(ack))) if ack.existed => add(&metrics.puts_existing, 1),
            (Op::Put(_), Ok(Reply::Examine)) => {}
            (Op::Put(put), Ok(_)) => {
                let rewritten = matches!(put.stored, StoredBefore::Bad(_));
                add(&metrics.puts_rewritten, u64::from(rewritten));
                add(&metrics.puts, 1);
                add(&metrics.put_bytes, put.write.body.len() as u64);
            }
            (Op::Put(_), Err(error)) => {
                add(&metrics.puts_refused, 1);
                if matches!(error, DriveError::DigestConflict(_)) {
                    add(&metrics.digest_conflicts, 1);
                }
            }
            (Op::Trash { .. }, Ok(Reply::Count(trashed))) => add(&metrics.trashed, *trashed),
            (Op::Rotten { .. }, Ok(Reply::Count(rotten))) => add(&metrics.rotten, *rotten),
            (Op::Purge(_), Ok(Reply::Count(purged))) => add(&metrics.purged, *purged),
            _ => {}
        }
    }
    answers
}

/// What is acknowledged from here on must hold over restarts (I5).
fn witness(shared: &Shared, op: &Op, answer: &Answer) {
    let (invariants, drive) = (&shared.env.invariants, shared.info.identity.drive);
    match (op, answer) {
        (Op::Put(put), Ok(Reply::Put(_))) => {
            let write = &put.write;
            invariants.raise(Invariant::I5, &epoch_key(drive, write.pg), write.epoch.0);
        }
        (Op::Fence { pg, epoch }, Ok(_)) => {
            invariants.raise(Invariant::I5, &epoch_key(drive, *pg), epoch.0);
        }
        _ => {}
    }
}
