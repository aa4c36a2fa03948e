//! Bytes that programs have written and the volume does not have yet, kept where they outlive the daemon.
//!
//! ```text
//!   write ──▶ chunk of a file (64 KiB, aligned): bytes, then a record that says which of them count
//!   flush ──▶ lot: runs of bytes, each chunk with its stamp ──▶ volume ──▶ chunks unchanged since are free
//! ```
//!
//! The file is memory that the supervisor keeps: what is in it when a daemon dies, the next one finds. A
//! record is written behind the bytes that it speaks of, so that a write which a daemon died of is either
//! noted or asked for again by the kernel. Whoever reads lays these bytes over the volume's.
//!
//! State: the chunks, here and in the file. Bounded: [`limits::DIRTY_BYTES`] in all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{Outcome, VolumeError};
use crate::limits;
use crate::volume::{Ino, Timestamp};

const VERSION: u8 = 1;
/// Bytes of a file that share a chunk, from a multiple of as many.
pub const CHUNK: u64 = 64 * 1024;
/// Runs of bytes within a chunk; with more, it must be flushed first.
const RUNS: usize = 8;
/// Bytes of a record. Version, state, number of runs, 5 of zero; inode, number of the chunk, seconds;
/// nanoseconds, 4 of zero; for each run its first byte and the byte behind it; crc32c of all before.
const RECORD: usize = 128;
const RUNS_AT: usize = 40;
const SUM_AT: usize = RECORD - 4;
/// What a volume wants its next daemon to know: version, 7 of zero, 8 bytes, crc32c.
const NOTE: usize = 20;
const TABLE_AT: u64 = 4096;
const DATA_AT: u64 = 1 << 20;
/// Runs in a lot, about: each becomes an extent of one command.
const LOT_RUNS: usize = 1_000;
const SLOTS: u32 = (limits::DIRTY_BYTES / CHUNK) as u32;
/// Behind all that is kept here; other rooms of the same file begin there.
pub(crate) const END: u64 = DATA_AT + limits::DIRTY_BYTES;
const _: () = assert!(TABLE_AT + SLOTS as u64 * RECORD as u64 <= DATA_AT);
const _: () = assert!(RUNS_AT + RUNS * 8 <= SUM_AT);

/// Why bytes were not taken; whoever writes has something flushed and tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// There is as much as there may be.
    Full,
    /// This chunk has too many runs: its file must be flushed.
    Crowded,
}

/// What of a file waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Behind the last byte that waits.
    pub end: u64,
    /// Bytes that wait.
    pub bytes: u64,
    /// When it was written last.
    pub modified: Timestamp,
}

/// Runs of a file's bytes, in order and apart, to be given to the volume.
#[derive(Debug, Clone)]
pub struct Lot {
    /// The file.
    pub ino: Ino,
    /// Where, and what: pieces that follow each other.
    pub ranges: Vec<(u64, Vec<Bytes>)>,
    /// When the last of them was written.
    pub modified: Timestamp,
    stamps: Vec<(u64, u64)>,
}

impl Lot {
    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        let pieces = self.ranges.iter().flat_map(|(_, pieces)| pieces);
        pieces.map(|piece| piece.len() as u64).sum()
    }

    /// Where the next lot of this file begins.
    pub fn next(&self) -> u64 {
        self.stamps.last().map_or(0, |(index, _)| index + 1)
    }
}

/// Runs within a chunk: first byte and byte behind, in order, neither overlapping nor touching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Runs(Vec<(u32, u32)>);

impl Runs {
    fn with(&self, from: u32, to: u32) -> Runs {
        let (mut from, mut to) = (from, to);
        let mut runs = Vec::with_capacity(self.0.len() + 1);
        let mut behind = Vec::new();
        for &(first, end) in &self.0 {
            if end < from {
                runs.push((first, end));
            } else if first > to {
                behind.push((first, end));
            } else {
                (from, to) = (from.min(first), to.max(end));
            }
        }
        runs.push((from, to));
        runs.append(&mut behind);
        Runs(runs)
    }

    fn up_to(&self, end: u32) -> Runs {
        let cut = self.0.iter().filter(|run| run.0 < end);
        Runs(cut.map(|&(from, to)| (from, to.min(end))).collect())
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(from, to)| u64::from(to - from)).sum()
    }

    fn end(&self) -> u32 {
        self.0.last().map_or(0, |run| run.1)
    }
}

#[derive(Debug, Clone)]
struct Chunk {
    slot: u32,
    runs: Runs,
    modified: Timestamp,
    /// Another with each write.
    stamp: u64,
}

#[derive(Default)]
struct Table {
    chunks: BTreeMap<(Ino, u64), Chunk>,
    free: BTreeSet<u32>,
    /// The first slot that never had a chunk.
    next: u32,
    stamp: u64,
    /// How often something that waited was settled or cut.
    epoch: u64,
}

/// What waits to be given to the volume.
pub struct Dirty {
    file: File,
    table: Mutex<Table>,
}

impl Dirty {
    /// Takes up what is in a file; at first nothing is.
    pub fn new(file: File) -> std::io::Result<Self> {
        let mut table = Table::default();
        let length = file.metadata()?.len().saturating_sub(TABLE_AT);
        let slots = (length / RECORD as u64).min(u64::from(SLOTS)) as u32;
        for slot in 0..slots {
            let mut bytes = [0; RECORD];
            file.read_exact_at(&mut bytes, record_at(slot))?;
            table.next = slot + 1;
            match decode(&bytes, slot) {
                Some((key, chunk)) => {
                    table.chunks.insert(key, chunk);
                }
                None => {
                    table.free.insert(slot);
                }
            }
        }
        Ok(Self { file, table: Mutex::new(table) })
    }

    /// Eight bytes that this volume's next daemon is to know.
    pub fn note(&self, value: u64) -> Outcome<()> {
        let mut bytes = [0; NOTE];
        put(&mut bytes, 0, &[VERSION]);
        put(&mut bytes, 8, &value.to_le_bytes());
        let sum = crc32c::crc32c(bytes.get(..16).unwrap_or_default());
        put(&mut bytes, 16, &sum.to_le_bytes());
        self.store(&bytes, 0)
    }

    /// What was noted last.
    pub fn noted(&self) -> Option<u64> {
        let mut bytes = [0; NOTE];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let sum = u32::from_le_bytes(bytes.get(16..)?.try_into().ok()?);
        if *bytes.first()? != VERSION || sum != crc32c::crc32c(bytes.get(..16)?) {
            return None;
        }
        Some(u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?))
    }

    /// Takes bytes of a file, all of them or, if there is no room, those before the chunk without: gives how
    /// many, and why not more.
    pub fn write(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        now: Timestamp,
    ) -> Outcome<(usize, Option<NoRoom>)> {
        let mut table = self.table.lock();
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let (index, within) = (at / CHUNK, (at % CHUNK) as u32);
            let len = rest.len().min((CHUNK - u64::from(within)) as usize);
            let Some(part) = rest.get(..len) else { break };
            let before = table.chunks.get(&(ino, index)).cloned();
            let runs = before.as_ref().map(|chunk| chunk.runs.clone()).unwrap_or_default();
            let runs = runs.with(within, within + len as u32);
            if runs.0.len() > RUNS {
                return Ok((done, Some(NoRoom::Crowded)));
            }
            let slot = match &before {
                Some(chunk) => chunk.slot,
                None => match table.slot() {
                    Some(slot) => slot,
                    None => return Ok((done, Some(NoRoom::Full))),
                },
            };
            table.stamp += 1;
            let chunk = Chunk { slot, runs, modified: now, stamp: table.stamp };
            let stored = self
                .store(part, data_at(slot) + u64::from(within))
                .and_then(|()| self.store(&encode(ino, index, &chunk), record_at(slot)));
            if let Err(error) = stored {
                if before.is_none() {
                    table.free.insert(slot);
                }
                return Err(error);
            }
            table.chunks.insert((ino, index), chunk);
            done += len;
        }
        Ok((done, None))
    }

    /// What of a file waits, if anything does.
    pub fn waiting(&self, ino: Ino) -> Option<Waiting> {
        let table = self.table.lock();
        let mut waiting: Option<Waiting> = None;
        for ((_, index), chunk) in table.of(ino) {
            let end = index * CHUNK + u64::from(chunk.runs.end());
            let so_far = waiting.get_or_insert(Waiting { end, bytes: 0, modified: chunk.modified });
            so_far.end = so_far.end.max(end);
            so_far.bytes += chunk.runs.bytes();
            so_far.modified = so_far.modified.max(chunk.modified);
        }
        waiting
    }

    /// Another whenever something that waited waits no more. Whoever lays what waits over what the volume says
    /// asks the volume again if this has changed meanwhile: it may have been asked too early, and this too late.
    pub fn epoch(&self) -> u64 {
        self.table.lock().epoch
    }

    /// Copies of the bytes that wait in a range of a file, in order; and behind which byte nothing waits.
    pub fn overlay(&self, ino: Ino, offset: u64, length: u64) -> Outcome<(Vec<(u64, Bytes)>, u64)> {
        let end = offset.saturating_add(length);
        let table = self.table.lock();
        let last = table.of(ino).last();
        let behind =
            last.map_or(0, |((_, index), chunk)| index * CHUNK + u64::from(chunk.runs.end()));
        let range = (ino, offset / CHUNK)..=(ino, end / CHUNK);
        let mut pieces = Vec::new();
        for ((_, index), chunk) in table.chunks.range(range) {
            for (from, to) in &chunk.runs.0 {
                let first = (index * CHUNK + u64::from(*from)).max(offset);
                let behind = (index * CHUNK + u64::from(*to)).min(end);
                if first < behind {
                    let bytes = self.load(chunk.slot, first % CHUNK, behind - first)?;
                    pieces.push((first, bytes));
                }
            }
        }
        Ok((pieces, behind))
    }

    /// What waits of a file from a chunk on ([`Lot::next`] of the lot before; at first 0), up to about so
    /// many bytes; `None`: nothing.
    pub fn lot(&self, ino: Ino, from: u64, bytes_max: u64) -> Outcome<Option<Lot>> {
        let table = self.table.lock();
        let mut lot: Option<Lot> = None;
        let (mut bytes, mut end) = (0, None);
        for ((_, index), chunk) in table.chunks.range((ino, from)..=(ino, u64::MAX)) {
            if bytes >= bytes_max
                || lot.as_ref().is_some_and(|lot: &Lot| lot.ranges.len() >= LOT_RUNS)
            {
                break;
            }
            let lot = lot.get_or_insert_with(|| Lot {
                ino,
                ranges: Vec::new(),
                modified: chunk.modified,
                stamps: Vec::new(),
            });
            lot.stamps.push((*index, chunk.stamp));
            lot.modified = lot.modified.max(chunk.modified);
            for (from, to) in &chunk.runs.0 {
                let (first, len) = (index * CHUNK + u64::from(*from), u64::from(to - from));
                let piece = self.load(chunk.slot, u64::from(*from), len)?;
                match lot.ranges.last_mut().filter(|_| end == Some(first)) {
                    Some((_, pieces)) => pieces.push(piece),
                    None => lot.ranges.push((first, vec![piece])),
                }
                end = Some(first + len);
                bytes += len;
            }
        }
        Ok(lot)
    }

    /// The volume has these: chunks that were not written to since are free.
    pub fn settle(&self, lot: &Lot) {
        let mut table = self.table.lock();
        for (index, stamp) in &lot.stamps {
            let key = (lot.ino, *index);
            if table.chunks.get(&key).is_some_and(|chunk| chunk.stamp == *stamp) {
                self.free(&mut table, key);
            }
        }
        table.epoch += 1;
    }

    /// Forgets what waits of a file from an offset on: it was cut there.
    pub fn cut(&self, ino: Ino, size: u64) -> Outcome<()> {
        let mut table = self.table.lock();
        table.epoch += 1;
        let from = size / CHUNK;
        let keys: Vec<(Ino, u64)> =
            table.chunks.range((ino, from)..=(ino, u64::MAX)).map(|(key, _)| *key).collect();
        for key in keys {
            let kept = if key.1 == from { (size % CHUNK) as u32 } else { 0 };
            let Some(chunk) = table.chunks.get(&key) else { continue };
            let runs = chunk.runs.up_to(kept);
            if runs.0.is_empty() {
                self.free(&mut table, key);
                continue;
            }
            let chunk = Chunk { runs, stamp: table.stamp + 1, ..chunk.clone() };
            table.stamp += 1;
            self.store(&encode(key.0, key.1, &chunk), record_at(chunk.slot))?;
            table.chunks.insert(key, chunk);
        }
        Ok(())
    }

    /// Files of which something waits, and how many bytes of each.
    pub fn files(&self) -> BTreeMap<Ino, u64> {
        let mut files = BTreeMap::new();
        for ((ino, _), chunk) in &self.table.lock().chunks {
            *files.entry(*ino).or_default() += chunk.runs.bytes();
        }
        files
    }

    /// Bytes of memory that are in use: whole chunks.
    pub fn bytes(&self) -> u64 {
        self.table.lock().chunks.len() as u64 * CHUNK
    }

    fn free(&self, table: &mut Table, key: (Ino, u64)) {
        let Some(chunk) = table.chunks.remove(&key) else { return };
        if self.store(&[0; RECORD], record_at(chunk.slot)).is_err() {
            // It would come back in the next daemon; in this one its slot is not used again.
            return;
        }
        // Gives the memory back. Where that fails, the next chunk there uses it.
        let hole = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let at = i64::try_from(data_at(chunk.slot)).unwrap_or(i64::MAX);
        let _ = nix::fcntl::fallocate(self.file.as_fd(), hole, at, CHUNK as i64);
        table.free.insert(chunk.slot);
    }

    fn load(&self, slot: u32, within: u64, length: u64) -> Outcome<Bytes> {
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| VolumeError::Invalid)?];
        self.file.read_exact_at(&mut bytes, data_at(slot) + within).map_err(|error| {
            tracing::error!(%error, "bytes that wait cannot be read");
            VolumeError::Io
        })?;
        Ok(bytes.into())
    }

    fn store(&self, bytes: &[u8], at: u64) -> Outcome<()> {
        self.file.write_all_at(bytes, at).map_err(|error| {
            tracing::error!(%error, "there is no memory for what is written");
            VolumeError::Io
        })
    }
}

impl Table {
    fn slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop_first() {
            return Some(slot);
        }
        (self.next < SLOTS).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    fn of(&self, ino: Ino) -> impl Iterator<Item = (&(Ino, u64), &Chunk)> {
        self.chunks.range((ino, 0)..=(ino, u64::MAX))
    }
}

fn record_at(slot: u32) -> u64 {
    TABLE_AT + u64::from(slot) * RECORD as u64
}

fn data_at(slot: u32) -> u64 {
    DATA_AT + u64::from(slot) * CHUNK
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

fn encode(ino: Ino, index: u64, chunk: &Chunk) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    put(&mut bytes, 0, &[VERSION, 1, chunk.runs.0.len() as u8]);
    put(&mut bytes, 8, &ino.0.to_le_bytes());
    put(&mut bytes, 16, &index.to_le_bytes());
    put(&mut bytes, 24, &chunk.modified.seconds.to_le_bytes());
    put(&mut bytes, 32, &chunk.modified.nanoseconds.to_le_bytes());
    for (at, (from, to)) in chunk.runs.0.iter().enumerate() {
        put(&mut bytes, RUNS_AT + at * 8, &from.to_le_bytes());
        put(&mut bytes, RUNS_AT + at * 8 + 4, &to.to_le_bytes());
    }
    let sum = crc32c::crc32c(bytes.get(..SUM_AT).unwrap_or_default());
    put(&mut bytes, SUM_AT, &sum.to_le_bytes());
    bytes
}

/// `None`: no chunk, or not written by us.
fn decode(bytes: &[u8; RECORD], slot: u32) -> Option<((Ino, u64), Chunk)> {
    let four = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let eight = |at: usize| -> Option<[u8; 8]> { bytes.get(at..at + 8)?.try_into().ok() };
    if *bytes.first()? != VERSION || *bytes.get(1)? != 1 {
        return None;
    }
    if four(SUM_AT)? != crc32c::crc32c(bytes.get(..SUM_AT)?) {
        return None;
    }
    let count = usize::from(*bytes.get(2)?);
    let mut runs = Vec::new();
    for at in 0..count.min(RUNS) {
        let (from, to) = (four(RUNS_AT + at * 8)?, four(RUNS_AT + at * 8 + 4)?);
        if from >= to || u64::from(to) > CHUNK {
            return None;
        }
        runs.push((from, to));
    }
    let modified = Timestamp { seconds: i64::from_le_bytes(eight(24)?), nanoseconds: four(32)? };
    let (ino, index) = (u64::from_le_bytes(eight(8)?), u64::from_le_bytes(eight(16)?));
    Some(((Ino(ino), index), Chunk { slot, runs: Runs(runs), modified, stamp: 0 }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp { seconds: 7, nanoseconds: 9 };

    fn dirty() -> Dirty {
        Dirty::new(tempfile::tempfile().unwrap()).unwrap()
    }

    fn again(dirty: &Dirty) -> Dirty {
        Dirty::new(dirty.file.try_clone().unwrap()).unwrap()
    }

    #[test]
    fn records_keep_their_bytes() {
        let chunk =
            Chunk { slot: 3, runs: Runs(vec![(1, 2), (5, 65_536)]), modified: NOW, stamp: 0 };
        let bytes = encode(Ino(0x1122), 4, &chunk);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "0101020000000000221100000000000004000000000000000700000000000000\
             0900000000000000010000000200000005000000000001000000000000000000\
             0000000000000000000000000000000000000000000000000000000000000000\
             00000000000000000000000000000000000000000000000000000000405dda1a"
        );
        let (key, read) = decode(&bytes, 3).unwrap();
        assert_eq!((key, read.runs, read.modified), ((Ino(0x1122), 4), chunk.runs, NOW));
        let mut bent = bytes;
        bent[20] ^= 1;
        assert!(decode(&bent, 3).is_none());
    }

    #[test]
    fn a_note_is_there_for_the_next_daemon() {
        let dirty = dirty();
        assert_eq!(dirty.noted(), None);
        dirty.note(77).unwrap();
        dirty.write(Ino(2), 0, b"x", NOW).unwrap();
        assert_eq!(again(&dirty).noted(), Some(77));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let dirty = dirty();
        for at in 0..RUNS as u64 {
            assert_eq!(dirty.write(Ino(2), at * 4, b"ab", NOW).unwrap(), (2, None));
        }
        assert_eq!(dirty.write(Ino(2), 60, b"ab", NOW).unwrap(), (0, Some(NoRoom::Crowded)));
        // One that joins two of them makes room.
        assert_eq!(dirty.write(Ino(2), 2, b"ab", NOW).unwrap(), (2, None));
        assert_eq!(dirty.write(Ino(2), 60, b"ab", NOW).unwrap(), (2, None));
        for index in 1..u64::from(SLOTS) {
            assert_eq!(dirty.write(Ino(3), index * CHUNK, b"a", NOW).unwrap(), (1, None));
        }
        let across = vec![1; 10];
        let full = dirty.write(Ino(3), SLOTS as u64 * CHUNK - 4, &across, NOW).unwrap();
        assert_eq!(full, (4, Some(NoRoom::Full)));
        assert_eq!(dirty.bytes(), limits::DIRTY_BYTES);
        let lot = dirty.lot(Ino(3), 0, 1).unwrap().unwrap();
        assert_eq!(lot.bytes(), 1);
        dirty.settle(&lot);
        assert_eq!(
            dirty.write(Ino(3), u64::from(SLOTS) * CHUNK, &across, NOW).unwrap(),
            (10, None)
        );
    }

    #[derive(Debug, Clone)]
    enum Op {
        Write { ino: u64, offset: u64, len: usize },
        Flush { ino: u64, bytes: u64, between: Option<(u64, usize)> },
        Cut { ino: u64, size: u64 },
        Restart,
    }

    fn op() -> impl Strategy<Value = Op> {
        let offset = prop_oneof![0..200_u64, CHUNK - 50..CHUNK + 50, 0..4 * CHUNK];
        let len = prop_oneof![1..100_usize, 1..100_000_usize];
        prop_oneof![
            5 => (0..3_u64, offset.clone(), len.clone())
                .prop_map(|(ino, offset, len)| Op::Write { ino, offset, len }),
            2 => (0..3_u64, 1..200_000_u64, proptest::option::of((offset.clone(), len)))
                .prop_map(|(ino, bytes, between)| Op::Flush { ino, bytes, between }),
            1 => (0..3_u64, offset).prop_map(|(ino, size)| Op::Cut { ino, size }),
            1 => Just(Op::Restart),
        ]
    }

    /// What a volume holds, and what programs have written.
    #[derive(Default)]
    struct Model {
        volume: BTreeMap<u64, Vec<u8>>,
        written: BTreeMap<u64, Vec<u8>>,
        next: u8,
    }

    fn lay(file: &mut Vec<u8>, offset: u64, data: &[u8]) {
        let offset = offset as usize;
        if file.len() < offset + data.len() {
            file.resize(offset + data.len(), 0);
        }
        file[offset..offset + data.len()].copy_from_slice(data);
    }

    impl Model {
        fn write(&mut self, dirty: &Dirty, ino: u64, offset: u64, len: usize) {
            self.next = self.next.wrapping_add(1).max(1);
            let data = vec![self.next; len];
            let mut done = 0;
            loop {
                let (took, why) =
                    dirty.write(Ino(ino), offset + done as u64, &data[done..], NOW).unwrap();
                done += took;
                match why {
                    None => break,
                    Some(NoRoom::Full) => panic!("so few cannot fill it"),
                    Some(NoRoom::Crowded) => self.flush(dirty, ino, u64::MAX, None),
                }
            }
            lay(self.written.entry(ino).or_default(), offset, &data);
        }

        fn flush(&mut self, dirty: &Dirty, ino: u64, bytes: u64, then: Option<(u64, usize)>) {
            let Some(lot) = dirty.lot(Ino(ino), 0, bytes).unwrap() else { return };
            if let Some((offset, len)) = then {
                self.write(dirty, ino, offset, len);
            }
            for (offset, pieces) in &lot.ranges {
                lay(self.volume.entry(ino).or_default(), *offset, &pieces.concat());
            }
            dirty.settle(&lot);
        }

        fn check(&self, dirty: &Dirty) {
            for (ino, written) in &self.written {
                let mut seen = self.volume.get(ino).cloned().unwrap_or_default();
                let (pieces, behind) = dirty.overlay(Ino(*ino), 0, 1 << 30).unwrap();
                for (offset, bytes) in pieces {
                    lay(&mut seen, offset, &bytes);
                }
                // A file that was cut may end before what the volume has: that is cut there as well.
                assert_eq!(&seen, written);
                let waiting = dirty.waiting(Ino(*ino));
                let end = waiting.map_or(0, |waiting| waiting.end);
                assert_eq!(end, behind);
                let volume = self.volume.get(ino).map_or(0, |file| file.len() as u64);
                assert_eq!(end.max(volume), written.len() as u64);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn what_was_written_is_what_is_seen(ops in proptest::collection::vec(op(), 1..40)) {
            let mut dirty = dirty();
            let mut model = Model::default();
            for op in ops {
                match op {
                    Op::Write { ino, offset, len } => model.write(&dirty, ino, offset, len),
                    Op::Flush { ino, bytes, between } => model.flush(&dirty, ino, bytes, between),
                    Op::Cut { ino, size } => {
                        dirty.cut(Ino(ino), size).unwrap();
                        for files in [&mut model.volume, &mut model.written] {
                            if let Some(file) = files.get_mut(&ino) {
                                file.truncate(size as usize);
                            }
                        }
                        // Of both, the longer one tells how long the file is.
                        let end = dirty.waiting(Ino(ino)).map_or(0, |waiting| waiting.end);
                        let volume = model.volume.get(&ino).map_or(0, Vec::len);
                        if let Some(file) = model.written.get_mut(&ino) {
                            file.truncate((end as usize).max(volume));
                        }
                    }
                    Op::Restart => dirty = again(&dirty),
                }
                model.check(&dirty);
            }
        }
    }
}
