//! The files that the kernel has open, noted where they outlive the daemon.
//!
//! Each open file has a slot, and a record at the slot's place in a file that the supervisor keeps
//! in memory. The record is written before the kernel hears the handle, and emptied before it hears
//! that the handle is released: so what the kernel knows is always noted. A handle's number is never
//! used twice, as a RELEASE may be repeated when its slot has another user; and an OPEN that is
//! repeated finds by its request what the dead daemon had noted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;

use crate::error::{Outcome, VolumeError};
use crate::limits;
use crate::volume::{Caller, Handle, Ino, OpenFile, OpenFlags};

const VERSION: u8 = 1;
/// Bytes of a record. Version, state, 2 of zero, flags, handle, inode, request, uid, gid, crc32c of
/// all before, 4 of zero; numbers little-endian.
const RECORD: usize = 48;
/// The low bits of a handle are its slot.
const SLOT_BITS: u32 = 20;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const _: () = assert!(limits::OPEN_FILES <= 1 << SLOT_BITS);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    file: OpenFile,
    request: u64,
    open: bool,
}

impl Record {
    fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let mut put = |at: usize, field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
        };
        put(0, &[VERSION, u8::from(self.open)]);
        put(4, &self.file.flags.0.to_le_bytes());
        put(8, &self.file.handle.0.to_le_bytes());
        put(16, &self.file.ino.0.to_le_bytes());
        put(24, &self.request.to_le_bytes());
        put(32, &self.file.uid.to_le_bytes());
        put(36, &self.file.gid.to_le_bytes());
        let sum = crc32c::crc32c(bytes.get(..40).unwrap_or_default());
        if let Some(place) = bytes.get_mut(40..44) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        bytes
    }

    /// `None`: never written, or not by us.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let four = |at: usize| bytes.get(at..at + 4)?.try_into().ok();
        let eight = |at: usize| bytes.get(at..at + 8)?.try_into().ok();
        if *bytes.first()? != VERSION
            || u32::from_le_bytes(four(40)?) != crc32c::crc32c(bytes.get(..40)?)
        {
            return None;
        }
        Some(Self {
            open: *bytes.get(1)? == 1,
            file: OpenFile {
                flags: OpenFlags(i32::from_le_bytes(four(4)?)),
                handle: Handle(u64::from_le_bytes(eight(8)?)),
                ino: Ino(u64::from_le_bytes(eight(16)?)),
                uid: u32::from_le_bytes(four(32)?),
                gid: u32::from_le_bytes(four(36)?),
            },
            request: u64::from_le_bytes(eight(24)?),
        })
    }
}

#[derive(Default)]
struct Table {
    /// Slots that have had a record and have none.
    free: BTreeSet<u32>,
    /// The first slot that never had one.
    next_slot: u32,
    next_serial: u64,
    /// Of the daemon before: by the request that opened it.
    inherited: BTreeMap<u64, Handle>,
}

/// The table of open files.
pub(crate) struct Handles {
    kept: Option<File>,
    table: Mutex<Table>,
}

impl Handles {
    /// A table; with a file, what is noted there is what the kernel has open.
    pub(crate) fn new(kept: Option<File>) -> std::io::Result<(Self, Vec<OpenFile>)> {
        let mut table = Table { next_serial: 1, ..Table::default() };
        let mut open = Vec::new();
        if let Some(file) = &kept {
            let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
            file.read_exact_at(&mut bytes, 0)?;
            for chunk in bytes.chunks_exact(RECORD) {
                let slot = table.next_slot;
                table.next_slot += 1;
                match Record::decode(chunk) {
                    Some(record) => {
                        let serial = record.file.handle.0 >> SLOT_BITS;
                        table.next_serial = table.next_serial.max(serial + 1);
                        if record.open {
                            table.inherited.insert(record.request, record.file.handle);
                            open.push(record.file);
                        } else {
                            table.free.insert(slot);
                        }
                    }
                    None => {
                        table.free.insert(slot);
                    }
                }
            }
        }
        Ok((Self { kept, table: Mutex::new(table) }, open))
    }

    /// A number for a file about to be opened.
    pub(crate) fn reserve(&self, caller: &Caller) -> Outcome<Handle> {
        let mut table = self.table.lock();
        if caller.repeated
            && let Some(handle) = table.inherited.get(&caller.request.number)
        {
            return Ok(*handle);
        }
        let slot = match table.free.pop_first() {
            Some(slot) => slot,
            None if table.next_slot < limits::OPEN_FILES => {
                table.next_slot += 1;
                table.next_slot - 1
            }
            None => return Err(VolumeError::TooManyHandles),
        };
        let serial = table.next_serial;
        table.next_serial += 1;
        Ok(Handle(serial << SLOT_BITS | u64::from(slot)))
    }

    /// Notes that the file is open; only then the kernel may hear of it.
    pub(crate) fn opened(&self, file: OpenFile, request: u64) -> Outcome<()> {
        self.write(&Record { file, request, open: true })
    }

    /// The file was not opened after all.
    pub(crate) fn abandoned(&self, handle: Handle) {
        if self.table.lock().inherited.values().any(|inherited| *inherited == handle) {
            // Noted by the daemon before, whose answer the kernel never got.
            return self.released(handle);
        }
        self.table.lock().free.insert(slot_of(handle));
    }

    /// The file is released. Said twice, or of a slot that has another user by now, it does nothing.
    pub(crate) fn released(&self, handle: Handle) {
        let slot = slot_of(handle);
        if self.kept.is_some() {
            let open =
                self.read(slot).is_some_and(|noted| noted.open && noted.file.handle == handle);
            let file = OpenFile { handle, ino: Ino(0), flags: OpenFlags(0), uid: 0, gid: 0 };
            if !open || self.write(&Record { file, request: 0, open: false }).is_err() {
                return;
            }
        }
        let mut table = self.table.lock();
        table.inherited.retain(|_, inherited| *inherited != handle);
        table.free.insert(slot);
    }

    fn read(&self, slot: u32) -> Option<Record> {
        let mut bytes = [0; RECORD];
        self.kept.as_ref()?.read_exact_at(&mut bytes, place(slot)).ok()?;
        Record::decode(&bytes)
    }

    fn write(&self, record: &Record) -> Outcome<()> {
        let Some(file) = &self.kept else { return Ok(()) };
        file.write_all_at(&record.encode(), place(slot_of(record.file.handle))).map_err(|error| {
            tracing::error!(%error, "an open file could not be noted");
            VolumeError::Io
        })
    }
}

fn slot_of(handle: Handle) -> u32 {
    u32::try_from(handle.0 & SLOT_MASK).unwrap_or_default()
}

fn place(slot: u32) -> u64 {
    u64::from(slot) * RECORD as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::RequestId;

    fn caller(number: u64, repeated: bool) -> Caller {
        Caller { uid: 1, gid: 2, pid: 3, request: RequestId { mount: 9, number }, repeated }
    }

    fn file(handle: Handle) -> OpenFile {
        OpenFile { handle, ino: Ino(77), flags: OpenFlags(2), uid: 1, gid: 2 }
    }

    #[test]
    fn records_keep_their_bytes() {
        let record = Record { file: file(Handle(0x30_0005)), request: 0x1234, open: true };
        let bytes = record.encode();
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "01010000020000000500300000000000\
             4d000000000000003412000000000000\
             0100000002000000131a7cce00000000"
        );
        assert_eq!(Record::decode(&bytes), Some(record));
        let mut bent = bytes;
        bent[9] ^= 1;
        assert_eq!(Record::decode(&bent), None);
    }

    #[test]
    fn what_is_open_outlives_the_table() {
        let kept = tempfile::tempfile().unwrap();
        let again = || Some(kept.try_clone().unwrap());
        let (handles, open) = Handles::new(again()).unwrap();
        assert!(open.is_empty());
        let first = handles.reserve(&caller(2, false)).unwrap();
        handles.opened(file(first), 2).unwrap();
        let second = handles.reserve(&caller(4, false)).unwrap();
        handles.opened(file(second), 4).unwrap();
        handles.released(first);

        let (handles, open) = Handles::new(again()).unwrap();
        assert_eq!(open, [file(second)]);
        // The reply to its OPEN was lost: the same handle again. A new request gets a new number.
        assert_eq!(handles.reserve(&caller(4, true)).unwrap(), second);
        let third = handles.reserve(&caller(6, false)).unwrap();
        assert_eq!(slot_of(third), slot_of(first));
        assert!(third > second, "numbers are not used twice");
        handles.opened(file(third), 6).unwrap();
        // A RELEASE that is repeated after its slot has another user ends nobody else's file.
        handles.released(first);
        let fourth = handles.reserve(&caller(8, false)).unwrap();
        handles.released(first);
        let fifth = handles.reserve(&caller(10, false)).unwrap();
        assert_ne!(slot_of(fourth), slot_of(fifth));
        handles.abandoned(fourth);
        let (_, open) = Handles::new(again()).unwrap();
        assert_eq!(open.len(), 2);
    }
}
