//! Reading the log's files again while it is in use: every record against its crc and its place in
//! the sequence, and the floors beside it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_env::{Disk, DiskFile};

use super::SegmentLog;
use super::floor::read_file;
use super::format::{
    RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, proves_loss, take_record,
};
use super::index::Place;
use super::recover::{LogDamage, segment_numbers, segment_path};
use crate::limits::ASK_TIMEOUT;

/// Reads a record's payload, if the record is whole.
pub(super) fn read_payload(file: &dyn DiskFile, place: Place) -> io::Result<Bytes> {
    let mut record = vec![0; RECORD_HEADER_BYTES + place.bytes as usize];
    let read =
        file.read_at(&mut record, place.offset.saturating_sub(RECORD_HEADER_BYTES as u64))?;
    record.truncate(read);
    if take_record(&record).is_none() {
        let what = format!("log segment {} is damaged at byte {}", place.segment, place.offset);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Bytes::from(record).slice(RECORD_HEADER_BYTES..))
}

/// Reads a segment as far as it was written; gives its bytes.
fn verify_segment(number: u64, file: &dyn DiskFile, len: u64) -> Result<u64, LogDamage> {
    let damaged =
        |offset: usize, what| LogDamage::Damaged { segment: number, offset: offset as u64, what };
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0)?;
    if read < bytes.len() {
        return Err(damaged(read, "the segment ends early"));
    }
    let header = SegmentHeader::decode(&bytes).filter(|header| header.number == number);
    let mut sequence = header.ok_or(damaged(0, "bad segment header"))?.first_sequence;
    let mut offset = SEGMENT_HEADER_BYTES;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let record = take_record(rest).filter(|(header, _)| header.sequence == sequence);
        let (_, payload) = record.ok_or(damaged(offset, "a record is damaged"))?;
        sequence += 1;
        offset += RECORD_HEADER_BYTES + payload.len();
    }
    Ok(len)
}

/// What a look through the log of a stopped node finds.
#[derive(Default)]
pub(crate) struct InspectedLog {
    pub segments: u64,
    pub records: u64,
    /// Bytes of an unsynced tail.
    pub torn_bytes: u64,
    pub faults: Vec<String>,
}

/// Reads a log that nobody has open; changes nothing. Blocks.
pub(crate) fn inspect_log(disk: &dyn Disk, dir: &Path) -> io::Result<InspectedLog> {
    let mut seen = InspectedLog::default();
    let numbers = segment_numbers(disk, dir)?;
    let last = numbers.last().copied();
    let mut expected: Option<(u64, u64)> = None;
    for number in numbers {
        seen.segments += 1;
        let bytes = read_file(disk, &segment_path(dir, number))?;
        let header = SegmentHeader::decode(&bytes).filter(|header| header.number == number);
        let is_next = |header: &SegmentHeader| {
            expected.is_none_or(|next| next == (header.number, header.first_sequence))
        };
        let Some(header) = header.filter(is_next) else {
            let sequence = expected.map_or(0, |(_, sequence)| sequence);
            if Some(number) == last && expected.is_some() && !proves_loss(&bytes, sequence) {
                seen.torn_bytes += bytes.len() as u64;
            } else {
                seen.faults.push(format!("log segment {number} does not begin as it should"));
            }
            continue;
        };
        let mut sequence = header.first_sequence;
        let mut offset = SEGMENT_HEADER_BYTES;
        while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
            let record = take_record(rest).filter(|(header, _)| header.sequence == sequence);
            let Some((_, payload)) = record else {
                if Some(number) == last && !proves_loss(rest, sequence) {
                    seen.torn_bytes += rest.len() as u64;
                } else {
                    seen.faults.push(format!("log segment {number} is damaged at byte {offset}"));
                }
                break;
            };
            seen.records += 1;
            sequence += 1;
            offset += RECORD_HEADER_BYTES + payload.len();
        }
        expected = Some((number + 1, sequence));
    }
    Ok(seen)
}

impl SegmentLog {
    /// Reads the first segment from `number` on; its number and bytes, `None` behind the last. What
    /// is damaged is [`SegmentLog::rotten`] from then on.
    pub(crate) async fn verify(&self, number: u64) -> Result<Option<(u64, u64)>, LogDamage> {
        let found = {
            let state = self.shared.state.lock();
            state.check()?;
            let mut segments = state.segments.range(number..);
            segments.next().map(|(number, segment)| (*number, segment.file.clone(), segment.len))
        };
        let Some((number, file, len)) = found else { return Ok(None) };
        let verified = self
            .shared
            .env
            .exec
            .blocking(move || verify_segment(number, &*file, len))
            .await
            .inspect_err(|damage| {
                if let LogDamage::Damaged { .. } = damage {
                    self.shared.note_rot(&damage.to_string());
                }
            })?;
        Ok(Some((number, verified)))
    }

    /// Reads both copies of every floor and writes those again that are not whole; gives the groups
    /// that had one.
    pub(crate) async fn verify_floors(&self) -> io::Result<Vec<u32>> {
        let shared = Arc::clone(&self.shared);
        let verify = move || {
            let mut healed = Vec::new();
            for (group, slot) in shared.floors.lock().iter_mut() {
                if !slot.file.is_whole()? {
                    // The writes go to the copies in turn.
                    slot.file.write(&slot.written)?;
                    slot.file.write(&slot.written)?;
                    healed.push(*group);
                }
            }
            Ok(healed)
        };
        self.shared.env.exec.blocking(verify).await
    }

    /// What of the log's files was found damaged since it was opened.
    pub(crate) fn rotten(&self) -> Option<String> {
        self.shared.state.lock().rotten.clone()
    }

    /// Closes the log for good; what was asked for before is durable first.
    pub(crate) async fn close(&self, why: &str) {
        // A full disk would hold it up.
        let _ = tokio::time::timeout(ASK_TIMEOUT, self.sync()).await;
        self.shared.state.lock().dead.get_or_insert_with(|| why.to_owned());
        self.shared.work.notify_one();
    }
}

impl super::Shared {
    pub(super) fn note_rot(&self, what: &str) {
        self.state.lock().rotten.get_or_insert_with(|| what.to_owned());
    }

    pub(super) fn check(&self) -> io::Result<()> {
        self.state.lock().check()
    }
}
