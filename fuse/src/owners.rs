//! Who may have locks through which open file, kept where it outlives the daemon.
//!
//! The kernel says when an owner of `fcntl` or `flock` locks goes, but not when an open file description goes
//! that has locks of its own (`F_OFD_SETLK`): then only the handle is released, and whoever serves the mount
//! by then must know whose locks go with it.
//!
//! State: owners by file and handle, here and in the file that the supervisor keeps, behind what
//! [`crate::dirty`] has there. Noted before a lock is asked for, struck off after it was let go: what is
//! noted is at least what there is. Bounded: [`limits::LOCK_OWNERS`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;

use crate::dirty::END;
use crate::error::{Outcome, VolumeError};
use crate::limits;
use crate::volume::{Handle, Ino, LockOwner};

const VERSION: u8 = 1;
/// Bytes of a record: version, whether it counts, 6 of zero; inode, owner, handle; crc32c of all before, 4 of
/// zero; numbers little-endian.
const RECORD: usize = 40;
const SUM_AT: usize = 32;

type Key = (Ino, LockOwner, Handle);

#[derive(Default)]
struct Table {
    slots: BTreeMap<Key, u32>,
    free: BTreeSet<u32>,
    /// The first slot that never had a record.
    next: u32,
}

/// The table.
pub struct Owners {
    file: File,
    table: Mutex<Table>,
}

impl Owners {
    /// Takes up what is in a file; at first nothing is.
    pub fn new(file: File) -> std::io::Result<Self> {
        let mut table = Table::default();
        let length = file.metadata()?.len().saturating_sub(END);
        let slots = length.div_ceil(RECORD as u64).min(u64::from(limits::LOCK_OWNERS)) as u32;
        for slot in 0..slots {
            let mut bytes = [0; RECORD];
            // The last one may be half there: then nobody was told of the lock.
            let whole = file.read_exact_at(&mut bytes, place(slot)).is_ok();
            match decode(&bytes).filter(|_| whole) {
                Some(key) => {
                    table.slots.insert(key, slot);
                }
                None => {
                    table.free.insert(slot);
                }
            }
        }
        table.next = slots;
        Ok(Self { file, table: Mutex::new(table) })
    }

    /// An owner is about to have a lock on a file, through a handle.
    pub fn note(&self, ino: Ino, owner: LockOwner, handle: Handle) -> Outcome<()> {
        let mut table = self.table.lock();
        let key = (ino, owner, handle);
        if table.slots.contains_key(&key) {
            return Ok(());
        }
        let slot = match table.free.pop_first() {
            Some(slot) => slot,
            None if table.next < limits::LOCK_OWNERS => {
                table.next += 1;
                table.next - 1
            }
            None => return Err(VolumeError::NoLocks),
        };
        if let Err(error) = self.file.write_all_at(&encode(key), place(slot)) {
            tracing::error!(%error, "there is no memory for who has a lock");
            table.free.insert(slot);
            return Err(VolumeError::NoLocks);
        }
        table.slots.insert(key, slot);
        Ok(())
    }

    /// Owners that may have locks on a file through a handle.
    pub fn through(&self, ino: Ino, handle: Handle) -> BTreeSet<LockOwner> {
        let of_file = self.of(ino);
        of_file.into_iter().filter(|(.., through)| *through == handle).map(|key| key.1).collect()
    }

    /// Whether an owner may have a lock on a file.
    pub fn may_lock(&self, ino: Ino, owner: LockOwner) -> bool {
        let range = (ino, owner, Handle(0))..=(ino, owner, Handle(u64::MAX));
        self.table.lock().slots.range(range).next().is_some()
    }

    /// An owner has no lock on a file any more.
    pub fn strike(&self, ino: Ino, owner: LockOwner) {
        self.strike_all(self.of(ino).into_iter().filter(|key| key.1 == owner));
    }

    /// Nobody of this mount has a lock on a file any more.
    pub fn strike_file(&self, ino: Ino) {
        self.strike_all(self.of(ino).into_iter());
    }

    fn of(&self, ino: Ino) -> Vec<Key> {
        let range = (ino, LockOwner(0), Handle(0))..=(ino, LockOwner(u64::MAX), Handle(u64::MAX));
        self.table.lock().slots.range(range).map(|(key, _)| *key).collect()
    }

    fn strike_all(&self, keys: impl Iterator<Item = Key>) {
        let mut table = self.table.lock();
        for key in keys {
            let Some(slot) = table.slots.remove(&key) else { continue };
            match self.file.write_all_at(&[0; RECORD], place(slot)) {
                Ok(()) => {
                    table.free.insert(slot);
                }
                // The next daemon lets go once more what is let go already.
                Err(error) => tracing::error!(%error, "who had a lock cannot be struck off"),
            }
        }
    }
}

fn place(slot: u32) -> u64 {
    END + u64::from(slot) * RECORD as u64
}

fn encode((ino, owner, handle): Key) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let mut put = |at: usize, field: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
    };
    put(0, &[VERSION, 1]);
    put(8, &ino.0.to_le_bytes());
    put(16, &owner.0.to_le_bytes());
    put(24, &handle.0.to_le_bytes());
    let sum = crc32c::crc32c(bytes.get(..SUM_AT).unwrap_or_default());
    if let Some(place) = bytes.get_mut(SUM_AT..SUM_AT + 4) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// `None`: struck off, or not written by us.
fn decode(bytes: &[u8; RECORD]) -> Option<Key> {
    let eight = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    let sum = u32::from_le_bytes(bytes.get(SUM_AT..SUM_AT + 4)?.try_into().ok()?);
    if bytes.get(..2)? != [VERSION, 1] || sum != crc32c::crc32c(bytes.get(..SUM_AT)?) {
        return None;
    }
    Some((Ino(eight(8)?), LockOwner(eight(16)?), Handle(eight(24)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_bytes() {
        let key = (Ino(0x1122), LockOwner(0x33), Handle(0x44));
        let bytes = encode(key);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "0101000000000000221100000000000033000000000000004400000000000000\
             04e8bf9300000000"
        );
        assert_eq!(decode(&bytes), Some(key));
        let mut bent = bytes;
        bent[9] ^= 1;
        assert_eq!(decode(&bent), None);
    }

    #[test]
    fn owners_outlive_the_daemon() {
        let file = tempfile::tempfile().unwrap();
        let owners = || Owners::new(file.try_clone().unwrap()).unwrap();
        let (ino, one, two) = (Ino(5), LockOwner(1), LockOwner(u64::MAX));
        let before = owners();
        before.note(ino, one, Handle(7)).unwrap();
        before.note(ino, two, Handle(7)).unwrap();
        before.note(ino, two, Handle(8)).unwrap();
        before.note(Ino(6), one, Handle(9)).unwrap();
        before.note(ino, one, Handle(7)).unwrap();
        before.strike(ino, one);

        let after = owners();
        assert_eq!(after.through(ino, Handle(7)), BTreeSet::from([two]));
        assert_eq!(after.through(ino, Handle(8)), BTreeSet::from([two]));
        assert!(after.may_lock(Ino(6), one) && !after.may_lock(ino, one));
        after.strike_file(ino);
        after.note(ino, one, Handle(10)).unwrap();
        assert!(!owners().may_lock(ino, two));
        assert_eq!(owners().through(ino, Handle(10)), BTreeSet::from([one]));
        // Slots are used again: three of them are enough.
        assert!(file.metadata().unwrap().len() <= place(4));
    }

    #[test]
    fn there_are_only_so_many() {
        let owners = Owners::new(tempfile::tempfile().unwrap()).unwrap();
        for owner in 0..u64::from(limits::LOCK_OWNERS) {
            owners.note(Ino(2), LockOwner(owner), Handle(1)).unwrap();
        }
        assert_eq!(owners.note(Ino(2), LockOwner(1 << 40), Handle(1)), Err(VolumeError::NoLocks));
        owners.note(Ino(2), LockOwner(0), Handle(1)).unwrap();
        owners.strike(Ino(2), LockOwner(9));
        owners.note(Ino(2), LockOwner(1 << 40), Handle(1)).unwrap();
    }
}
