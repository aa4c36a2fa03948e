//! Reading a segment log back after a stop or a crash.
//!
//! Only an unsynced tail may be missing: what the last segment's end does not hold whole is cut and
//! reported. A hole (a broken record that a later one proves durable, a missing segment, a missing
//! index) is [`LogDamage`], never repaired by guessing.
//!
//! What is accepted is made durable first: a process that died between write and sync, or after a
//! sync that failed, leaves records that the page cache shows and the disk may not hold. Whoever
//! reads the log afterwards takes them for promises.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexusgrid_env::{Disk, DiskFile, OpenMode};

use super::format::{
    Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, proves_loss, take_record,
};
use super::index::{Index, Marks, Place, Slot};
use crate::raft::encode::decode;
use crate::raft::types::Entry;
use openraft::entry::RaftEntry;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogDamage {
    #[error("log I/O: {0}")]
    Io(#[from] io::Error),
    #[error("log segment {segment} is damaged at byte {offset}: {what}")]
    Damaged { segment: u64, offset: u64, what: &'static str },
}

/// A segment on disk.
pub(crate) struct Segment {
    pub file: Arc<dyn DiskFile>,
    pub len: u64,
    /// Entries of the index that lie here.
    pub live: u64,
    pub live_bytes: u64,
}

/// What a log held.
pub(crate) struct Recovered {
    pub index: Index,
    pub segments: BTreeMap<u64, Segment>,
    pub next_sequence: u64,
    /// Bytes of an unsynced tail that were cut.
    pub cut_bytes: u64,
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

pub(crate) fn segment_numbers(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for path in disk.list(dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(hex) = name.strip_suffix(".log")
            && let Ok(number) = u64::from_str_radix(hex, 16)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the log in `dir` (made if absent) and cuts an unsynced tail.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, LogDamage> {
    disk.create_dir_all(dir)?;
    let mut found = Recovered {
        index: Index::default(),
        segments: BTreeMap::new(),
        next_sequence: 1,
        cut_bytes: 0,
    };
    let numbers = segment_numbers(disk, dir)?;
    let last = numbers.last().copied();
    let mut previous: Option<u64> = None;
    for number in numbers {
        if previous.is_some_and(|previous| number != previous + 1) {
            return Err(LogDamage::Damaged {
                segment: number,
                offset: 0,
                what: "the segment before is missing",
            });
        }
        read_segment(disk, dir, number, last == Some(number), previous.is_none(), &mut found)?;
        previous = Some(number);
    }
    for (group, index) in &mut found.index.groups {
        if let Some(hole) = index.hole() {
            tracing::error!(group, hole, "a log has a hole");
            return Err(LogDamage::Damaged {
                segment: last.unwrap_or(0),
                offset: 0,
                what: "an entry is missing",
            });
        }
        // A committed id may have reached the disk ahead of the entry it names, never the reverse.
        let known = index.marks.committed.as_ref().is_none_or(|id| index.holds(id));
        if !known {
            index.marks.committed = index.marks.purged;
        }
    }
    count_live(&mut found);
    Ok(found)
}

fn read_segment(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    is_last: bool,
    is_first: bool,
    found: &mut Recovered,
) -> Result<(), LogDamage> {
    let path = segment_path(dir, number);
    let file = disk.open(&path, OpenMode::ReadWrite)?;
    let mut bytes = vec![0; file.len()? as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);

    let damaged =
        |offset: usize, what| LogDamage::Damaged { segment: number, offset: offset as u64, what };
    match SegmentHeader::decode(&bytes) {
        Some(header)
            if header.number == number
                && (is_first || header.first_sequence == found.next_sequence) =>
        {
            found.next_sequence = header.first_sequence;
        }
        _ if is_last && !is_first && !proves_loss(&bytes, found.next_sequence) => {
            // Power failed while this segment was begun: nothing in it was ever synced.
            found.cut_bytes += bytes.len() as u64;
            drop(file);
            disk.remove_file(&path)?;
            disk.sync_dir(dir)?;
            return Ok(());
        }
        _ if is_last && is_first && bytes.len() <= SEGMENT_HEADER_BYTES => {
            disk.remove_file(&path)?;
            disk.sync_dir(dir)?;
            return Ok(());
        }
        _ => return Err(damaged(0, "bad segment header")),
    }

    let mut offset = SEGMENT_HEADER_BYTES;
    // What no record proves to have been synced begins here.
    let mut unproven = 0;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let Some((header, payload)) =
            take_record(rest).filter(|(header, _)| header.sequence == found.next_sequence)
        else {
            if !is_last || proves_loss(rest, found.next_sequence) {
                return Err(damaged(offset, "a record is missing that was durable"));
            }
            found.cut_bytes += rest.len() as u64;
            file.set_len(offset as u64)?;
            break;
        };
        let place = Place {
            segment: number,
            offset: (offset + RECORD_HEADER_BYTES) as u64,
            bytes: header.payload_bytes,
        };
        apply(&mut found.index, header.kind, header.group, header.index, payload, place)
            .ok_or(damaged(offset, "a record cannot be decoded"))?;
        found.next_sequence += 1;
        if header.durable >= header.sequence {
            // The first record of a batch: all before it was synced when it was written.
            unproven = offset;
        }
        offset += RECORD_HEADER_BYTES + payload.len();
    }
    if is_last {
        // Written again, since after a failed sync the pages count as clean.
        file.write_at(bytes.get(unproven..offset).unwrap_or_default(), unproven as u64)?;
        file.sync()?;
        disk.sync_dir(dir)?;
    }
    found.segments.insert(number, Segment { file, len: offset as u64, live: 0, live_bytes: 0 });
    Ok(())
}

fn apply(
    found: &mut Index,
    kind: Kind,
    group: u32,
    index: u64,
    payload: &[u8],
    place: Place,
) -> Option<()> {
    match kind {
        Kind::Entry | Kind::Copy => {
            let entry: Entry = decode(payload, "log entry").ok()?;
            let stamp = found.stamp();
            let of_group = found.groups.entry(group).or_default();
            if kind == Kind::Entry {
                of_group.cut_from(index);
            }
            if of_group.marks.purged.as_ref().is_none_or(|purged| purged.index < index) {
                let slot = Slot { log_id: entry.log_id(), stamp, place: Some(place), bytes: None };
                of_group.slots.insert(index, slot);
            }
        }
        Kind::Truncate => {
            found.groups.entry(group).or_default().cut_from(index);
        }
        Kind::State => {
            let marks: Marks = decode(payload, "log marks").ok()?;
            let of_group = found.groups.entry(group).or_default();
            if let Some(purged) = &marks.purged {
                of_group.cut_upto(purged.index);
            }
            of_group.marks = marks;
        }
        Kind::Drop => {
            found.groups.remove(&group);
        }
    }
    Some(())
}

fn count_live(found: &mut Recovered) {
    for group in found.index.groups.values() {
        for place in group.slots.values().filter_map(|slot| slot.place) {
            if let Some(segment) = found.segments.get_mut(&place.segment) {
                segment.live += 1;
                segment.live_bytes += u64::from(place.bytes);
            }
        }
    }
}
