//! The one task that writes a log: takes the whole queue, writes it with one write, syncs once.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_env::{DiskFile, OpenMode};
use openraft::storage::IOFlushed;

use super::format::{
    Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, put_record,
};
use super::index::{Marks, Place};
use super::recover::{Segment, segment_path};
use super::verify::read_payload;
use super::{Done, Floor, Op, Shared, Straggler, dead};
use crate::limits::FULL_RETRY;
use crate::raft::encode::encode;
use crate::raft::types::MetaTypes;

/// A batch being put together.
struct Batch {
    buffer: Vec<u8>,
    /// Offset of `buffer` in the segment.
    offset: u64,
    segment: u64,
    sequence: u64,
    durable: u64,
}

impl Batch {
    fn put(&mut self, kind: Kind, group: u32, index: u64, payload: &[u8]) -> Place {
        let offset = self.offset + (self.buffer.len() + RECORD_HEADER_BYTES) as u64;
        let header = RecordHeader {
            payload_bytes: payload.len() as u32,
            sequence: self.sequence,
            durable: self.durable,
            kind,
            group,
            index,
        };
        put_record(&mut self.buffer, header, payload);
        self.sequence += 1;
        Place { segment: self.segment, offset, bytes: payload.len() as u32 }
    }
}

/// What has to be told once a batch is durable.
#[derive(Default)]
struct Effects {
    callbacks: Vec<IOFlushed<MetaTypes>>,
    done: Vec<Done>,
    /// (group, index, stamp, place)
    placed: Vec<(u32, u64, u64, Place)>,
    /// Copied entries, with the place they had.
    copied: Vec<(u32, u64, u64, Place, Place)>,
    freed: Vec<Place>,
    floors: Vec<(u32, Floor, bool)>,
    all_floors: bool,
}

impl Effects {
    fn fail(self, why: &str) {
        for callback in self.callbacks {
            callback.io_completed(Err(dead(why)));
        }
        for done in self.done {
            let _ = done.send(Err(dead(why)));
        }
    }
}

/// Declares the log dead when the writer ends, however it ends.
struct Bury(Arc<Shared>);

impl Bury {
    fn bury(&self, why: &str) {
        let queue = {
            let mut state = self.0.state.lock();
            state.dead.get_or_insert_with(|| why.to_owned());
            std::mem::take(&mut state.queue)
        };
        for op in queue {
            match op {
                Op::Entries { callback, .. } => callback.io_completed(Err(dead(why))),
                Op::Marks { done: Some(done), .. }
                | Op::Drop { done, .. }
                | Op::Floors { done: Some(done) } => {
                    let _ = done.send(Err(dead(why)));
                }
                Op::Marks { done: None, .. }
                | Op::Truncate { .. }
                | Op::Floors { done: None }
                | Op::Copies { .. } => {}
            }
        }
        self.0.drained.notify_waiters();
    }
}

impl Drop for Bury {
    fn drop(&mut self) {
        self.bury("the node stopped");
    }
}

/// Runs until the agent stops or the disk fails.
pub(super) async fn run(shared: Arc<Shared>, mut next_sequence: u64) {
    let bury = Bury(shared.clone());
    let mut durable = next_sequence;
    // Records of earlier runs stay in sealed segments: a new run begins a new one at its first write.
    let mut active: Option<u64> = None;
    loop {
        if shared.check().is_err() {
            return;
        }
        let (queue, bytes) = {
            let mut state = shared.state.lock();
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.queued_bytes))
        };
        if queue.is_empty() {
            shared.work.notified().await;
            continue;
        }
        if bytes > 0 {
            shared.drained.notify_waiters();
        }
        if let Err(error) =
            write(&shared, queue, &mut active, &mut next_sequence, &mut durable).await
        {
            tracing::error!(%error, dir = %shared.dir.display(), "the Raft log failed; it is closed for good");
            bury.bury(&error.to_string());
            return;
        }
    }
}

async fn write(
    shared: &Arc<Shared>,
    queue: Vec<Op>,
    active: &mut Option<u64>,
    next_sequence: &mut u64,
    durable: &mut u64,
) -> io::Result<()> {
    let mut effects = Effects::default();
    let result = write_batch(shared, queue, active, next_sequence, *durable, &mut effects).await;
    if let Err(error) = result {
        effects.fail(&error.to_string());
        return Err(error);
    }
    *durable = *next_sequence;
    if let Err(error) = settle(shared, &mut effects).await {
        effects.fail(&error.to_string());
        return Err(error);
    }
    for callback in effects.callbacks {
        callback.io_completed(Ok(()));
    }
    for done in effects.done {
        let _ = done.send(Ok(()));
    }
    collect(shared, *active).await
}

/// Writes and syncs one batch.
async fn write_batch(
    shared: &Arc<Shared>,
    queue: Vec<Op>,
    active: &mut Option<u64>,
    next_sequence: &mut u64,
    durable: u64,
    effects: &mut Effects,
) -> io::Result<()> {
    let only_floors = queue.iter().all(|op| matches!(op, Op::Floors { .. }));
    // A cut lowers a group's last id: its floor must not stand above when the cut is durable.
    let lowered: Vec<(u32, Floor)> = queue
        .iter()
        .filter_map(|op| match op {
            Op::Truncate { group, after, .. } => Some((*group, after.clone())),
            _ => None,
        })
        .collect();
    if !lowered.is_empty() {
        let at = shared.clone();
        shared.env.exec.blocking(move || lower_floors(&at, lowered)).await?;
    }
    let mut fresh = None;
    let (file, mut batch) = {
        let state = shared.state.lock();
        let segment = active
            .and_then(|number| state.segments.get(&number).map(|segment| (number, segment)))
            .filter(|(_, segment)| segment.len < shared.options.segment_bytes_max);
        match segment {
            Some((number, segment)) => {
                let batch = Batch {
                    buffer: Vec::new(),
                    offset: segment.len,
                    segment: number,
                    sequence: *next_sequence,
                    durable,
                };
                (Some(segment.file.clone()), batch)
            }
            None if only_floors => {
                let batch = Batch {
                    buffer: Vec::new(),
                    offset: 0,
                    segment: 0,
                    sequence: *next_sequence,
                    durable,
                };
                (None, batch)
            }
            None => {
                let number = state.segments.last_key_value().map_or(1, |(number, _)| number + 1);
                let header = SegmentHeader { number, first_sequence: *next_sequence };
                let mut batch = Batch {
                    buffer: header.encode(),
                    offset: 0,
                    segment: number,
                    sequence: *next_sequence,
                    durable,
                };
                debug_assert_eq!(batch.buffer.len(), SEGMENT_HEADER_BYTES);
                // These marks may run ahead of entries still in the queue; recovery knows that.
                for (group, index) in &state.index.groups {
                    batch.put(Kind::State, *group, 0, &encode(&index.marks));
                }
                fresh = Some(number);
                (None, batch)
            }
        }
    };
    for op in queue {
        if let Op::Copies { items } = op {
            encode_copies(shared, &mut batch, items, effects);
        } else {
            encode_op(&mut batch, op, effects);
        }
    }
    if !only_floors {
        // Committed ids ride along with whatever is written; nobody waits for them.
        let mut state = shared.state.lock();
        for (group, index) in &mut state.index.groups {
            if std::mem::take(&mut index.marks_dirty) {
                batch.put(Kind::State, *group, 0, &encode(&index.marks));
            }
        }
    }
    *next_sequence = batch.sequence;
    if batch.buffer.is_empty() {
        return Ok(());
    }
    let (number, offset, buffer) = (batch.segment, batch.offset, Bytes::from(batch.buffer));
    let end = offset + buffer.len() as u64;
    let file = write_when_there_is_room(shared, file, number, offset, buffer).await?;
    let mut state = shared.state.lock();
    match fresh {
        Some(number) => {
            state.segments.insert(number, Segment { file, len: end, live: 0, live_bytes: 0 });
            *active = Some(number);
        }
        None => {
            if let Some(segment) = state.segments.get_mut(&number) {
                segment.len = end;
            }
        }
    }
    Ok(())
}

/// Why a batch is not durable.
enum Unwritten {
    /// It did not get onto the disk: nothing of it was promised, and it is written again in its place
    /// once there is room.
    Write(io::Error),
    /// Never tried again, also if the disk only lacks room: what the pages hold is unknown.
    Sync(io::Error),
}

/// Writes into a segment, made if there is no `file`, and syncs. A full disk is waited for.
async fn write_when_there_is_room(
    shared: &Arc<Shared>,
    file: Option<Arc<dyn DiskFile>>,
    number: u64,
    offset: u64,
    buffer: Bytes,
) -> io::Result<Arc<dyn DiskFile>> {
    let mut told = false;
    loop {
        let (at, file, buffer) = (shared.clone(), file.clone(), buffer.clone());
        // One piece of work: to hand it over costs more than a small write.
        let written = shared.env.exec.blocking(move || {
            let (fresh, disk) = (file.is_none(), &*at.env.disk);
            let write = || {
                // Another log may stand in this one's place since it was closed.
                at.state.lock().check()?;
                if disk.space(&at.dir)?.free_bytes < at.options.headroom_bytes {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let file = match file {
                    Some(file) => file,
                    // Left by a try that found no room.
                    None => disk.open(&segment_path(&at.dir, number), OpenMode::OpenOrCreate)?,
                };
                file.write_at(&buffer, offset)?;
                io::Result::Ok(file)
            };
            let file = write().map_err(Unwritten::Write)?;
            file.sync().map_err(Unwritten::Sync)?;
            if fresh {
                disk.sync_dir(&at.dir).map_err(Unwritten::Sync)?;
            }
            Ok(file)
        });
        match written.await {
            Err(Unwritten::Write(error)) if is_full(&error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(
                        dir = %shared.dir.display(),
                        "the disk of the metadata is full: the Raft log waits for room"
                    );
                }
                shared.env.clock.sleep(FULL_RETRY).await;
            }
            Err(Unwritten::Write(error) | Unwritten::Sync(error)) => return Err(error),
            Ok(file) => {
                if told {
                    tracing::info!(dir = %shared.dir.display(), "the Raft log goes on");
                }
                return Ok(file);
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn encode_op(batch: &mut Batch, op: Op, effects: &mut Effects) {
    match op {
        Op::Entries { group, items, replaced, after, callback } => {
            for (index, stamp, bytes) in items {
                let place = batch.put(Kind::Entry, group, index, &bytes);
                effects.placed.push((group, index, stamp, place));
            }
            effects.freed.extend(replaced);
            effects.floors.push((group, after, false));
            effects.callbacks.push(callback);
        }
        Op::Marks { group, marks, freed, after, done } => {
            batch.put(Kind::State, group, 0, &encode::<Marks>(&marks));
            effects.freed.extend(freed);
            effects.floors.push((group, after, done.is_some()));
            effects.done.extend(done);
        }
        Op::Truncate { group, index, freed, after } => {
            batch.put(Kind::Truncate, group, index, &[]);
            effects.freed.extend(freed);
            effects.floors.push((group, after, false));
        }
        Op::Drop { group, freed, done } => {
            batch.put(Kind::Drop, group, 0, &[]);
            effects.freed.extend(freed);
            effects.done.push(done);
        }
        Op::Floors { done } => {
            effects.all_floors = true;
            effects.done.extend(done);
        }
        Op::Copies { .. } => {}
    }
}

/// Writes stragglers again. One that was cut meanwhile must not come back: its cut may already be
/// in this batch, and a copy behind it would undo it.
fn encode_copies(shared: &Shared, batch: &mut Batch, items: Vec<Straggler>, effects: &mut Effects) {
    let state = shared.state.lock();
    for item in items {
        let slot =
            state.index.groups.get(&item.group).and_then(|group| group.slots.get(&item.index));
        if slot.is_some_and(|slot| slot.stamp == item.stamp) {
            let place = batch.put(Kind::Copy, item.group, item.index, &item.bytes);
            effects.copied.push((item.group, item.index, item.stamp, place, item.place));
        }
    }
}

/// Publishes what a durable batch changed, and writes the floors it asks for.
async fn settle(shared: &Arc<Shared>, effects: &mut Effects) -> io::Result<()> {
    {
        let mut state = shared.state.lock();
        for (group, index, stamp, place) in std::mem::take(&mut effects.placed) {
            if state.index.place(group, index, stamp, place, shared.options.cache_bytes_max)
                && let Some(segment) = state.segments.get_mut(&place.segment)
            {
                segment.live += 1;
                segment.live_bytes += u64::from(place.bytes);
            }
        }
        for (group, index, stamp, place, before) in std::mem::take(&mut effects.copied) {
            // If the entry was cut meanwhile, its old place is freed by the cut.
            if state.index.move_to(group, index, stamp, place) {
                state.free(&[before]);
                if let Some(segment) = state.segments.get_mut(&place.segment) {
                    segment.live += 1;
                    segment.live_bytes += u64::from(place.bytes);
                }
            }
        }
        state.free(&std::mem::take(&mut effects.freed));
    }
    let mut urgent = effects.all_floors;
    {
        let mut floors = shared.floors.lock();
        for (group, after, now) in std::mem::take(&mut effects.floors) {
            if let Some(slot) = floors.get_mut(&group) {
                slot.durable = after;
                urgent |= now;
            }
        }
        urgent &= floors.values().any(|slot| slot.durable != slot.written);
    }
    if urgent {
        let at = shared.clone();
        shared.env.exec.blocking(move || write_floors(&at)).await?;
    }
    Ok(())
}

fn write_floors(shared: &Shared) -> io::Result<()> {
    for slot in shared.floors.lock().values_mut() {
        if slot.durable != slot.written {
            slot.file.write(&slot.durable)?;
            slot.written = slot.durable.clone();
        }
    }
    Ok(())
}

fn lower_floors(shared: &Shared, lowered: Vec<(u32, Floor)>) -> io::Result<()> {
    let mut floors = shared.floors.lock();
    for (group, floor) in lowered {
        let Some(slot) = floors.get_mut(&group) else { continue };
        if slot.written.last > floor.last {
            // The vote of `floor` may not be durable yet.
            let lower = Floor { vote: slot.written.vote, last: floor.last };
            slot.file.write(&lower)?;
            slot.written = lower.clone();
            slot.durable.last = lower.last;
        }
    }
    Ok(())
}

/// Removes segments that hold nothing living, from the oldest on; copies stragglers forward.
async fn collect(shared: &Arc<Shared>, active: Option<u64>) -> io::Result<()> {
    let mut gone = Vec::new();
    {
        let mut state = shared.state.lock();
        while let Some(entry) = state.segments.first_entry() {
            if active.is_none_or(|active| *entry.key() >= active) || entry.get().live > 0 {
                break;
            }
            gone.push(entry.remove_entry().0);
        }
    }
    if !gone.is_empty() {
        let (disk, dir) = (shared.env.disk.clone(), shared.dir.clone());
        let remove = move || {
            // Oldest first, each one's removal durable before the next: never a gap in between.
            for number in gone {
                disk.remove_file(&segment_path(&dir, number))?;
                disk.sync_dir(&dir)?;
            }
            io::Result::Ok(())
        };
        shared.env.exec.blocking(remove).await?;
    }
    copy_forward(shared, active).await
}

/// When an idle group's last entries hold an old segment, queues them to be written again.
async fn copy_forward(shared: &Arc<Shared>, active: Option<u64>) -> io::Result<()> {
    let mut items = Vec::new();
    let file = {
        let mut state = shared.state.lock();
        let oldest = state.segments.first_key_value().map(|(number, segment)| (*number, segment));
        let Some((number, segment)) = oldest else { return Ok(()) };
        let few = segment.live_bytes <= shared.options.segment_bytes_max / 4;
        let many = state.segments.len() > shared.options.segments_soft_max + 1;
        if !many || !few || Some(number) == active || state.copying == Some(number) {
            return Ok(());
        }
        let file = segment.file.clone();
        for (group, index) in &state.index.groups {
            for (at, slot) in &index.slots {
                if let Some(place) = slot.place.filter(|place| place.segment == number) {
                    items.push(Straggler {
                        group: *group,
                        index: *at,
                        stamp: slot.stamp,
                        place,
                        bytes: Bytes::new(),
                    });
                }
            }
        }
        state.copying = Some(number);
        file
    };
    let read = move || -> io::Result<Vec<Straggler>> {
        for item in &mut items {
            item.bytes = read_payload(&*file, item.place)?;
        }
        Ok(items)
    };
    let items = shared.env.exec.blocking(read).await.inspect_err(|error| {
        if error.kind() == io::ErrorKind::InvalidData {
            shared.note_rot(&error.to_string());
        }
    })?;
    shared.state.lock().queue.push(Op::Copies { items });
    shared.work.notify_one();
    Ok(())
}
