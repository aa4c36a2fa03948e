//! Record locks of one file.

use nexusgrid_fuse::volume::{Conflict, Handle, LockKind, LockOwner, LockRange};

#[derive(Clone, Copy)]
struct Lock {
    owner: LockOwner,
    range: LockRange,
    kind: LockKind,
    pid: u32,
    through: Handle,
}

#[derive(Default)]
pub struct Locks(Vec<Lock>);

fn overlap(a: LockRange, b: LockRange) -> bool {
    a.first <= b.last && b.first <= a.last
}

impl Locks {
    pub fn conflict(&self, owner: LockOwner, range: LockRange, kind: LockKind) -> Option<Conflict> {
        self.0
            .iter()
            .filter(|lock| {
                lock.owner != owner
                    && overlap(lock.range, range)
                    && (kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive)
            })
            .min_by_key(|lock| lock.range.first)
            .map(|lock| Conflict { range: lock.range, kind: lock.kind, pid: lock.pid })
    }

    /// The owner's range becomes this; `None` lets go.
    pub fn set(
        &mut self,
        owner: LockOwner,
        range: LockRange,
        kind: Option<LockKind>,
        (pid, through): (u32, Handle),
    ) {
        let mut kept = Vec::new();
        for lock in self.0.drain(..) {
            if lock.owner != owner || !overlap(lock.range, range) {
                kept.push(lock);
                continue;
            }
            if lock.range.first < range.first {
                let before = LockRange { first: lock.range.first, last: range.first - 1 };
                kept.push(Lock { range: before, ..lock });
            }
            if lock.range.last > range.last {
                let behind = LockRange { first: range.last + 1, last: lock.range.last };
                kept.push(Lock { range: behind, ..lock });
            }
        }
        if let Some(kind) = kind {
            kept.push(Lock { owner, range, kind, pid, through });
        }
        self.0 = kept;
    }

    pub fn release(&mut self, owner: LockOwner) {
        self.0.retain(|lock| lock.owner != owner);
    }

    /// An open file description is gone, and its locks with it.
    pub fn close(&mut self, handle: Handle) {
        self.0.retain(|lock| lock.through != handle);
    }
}
