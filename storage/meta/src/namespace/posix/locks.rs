//! Locks on bytes of nodes.
//!
//! A node's locks are one row, in order; that a mount has some there is another, by which they are found when
//! it ends. They count no more as soon as the mount's row is gone: whoever comes next passes them over, and the
//! outbox clears them away. Who has locks on a node does not keep it: that is what holds are for.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use nexusgrid_env::kv::prefix_end;

use super::super::limits;
use super::super::machine::{Change, Step, corrupt};
use super::super::rows;
use super::super::types::{BucketId, Ino, Lock, LockKind, LockRange, Mount, MountId, PosixError};
use super::inodes;
use super::rows::{self as own, LocksRow};
use crate::rows::tx::Tx;

/// What the locks of one owner come to when `new` is put over them, or (`kind` is `None`) its range is freed. Other
/// owners' stay; nobody looks whether they are in the way. Gives back what the owner had in the range.
pub(super) fn put(
    locks: &mut Vec<Lock>,
    mut new: Lock,
    kind: Option<LockKind>,
) -> Vec<(LockRange, LockKind)> {
    let range = new.range;
    let mut before = Vec::new();
    let mut kept = Vec::with_capacity(locks.len() + 2);
    for lock in locks.drain(..) {
        let is_own = (lock.mount, lock.owner) == (new.mount, new.owner);
        if is_own && lock.range.overlaps(range) {
            let first = lock.range.first.max(range.first);
            let last = lock.range.last.min(range.last);
            before.push((LockRange { first, last }, lock.kind));
            if lock.range.first < range.first {
                let left = LockRange { first: lock.range.first, last: range.first - 1 };
                kept.push(Lock { range: left, ..lock });
            }
            if lock.range.last > range.last {
                let right = LockRange { first: range.last + 1, last: lock.range.last };
                kept.push(Lock { range: right, ..lock });
            }
        } else {
            kept.push(lock);
        }
    }
    if let Some(kind) = kind {
        new.kind = kind;
        // What touches it and is of its kind is one lock with it.
        kept.retain(|lock| {
            let touches = lock.range.first <= new.range.last.saturating_add(1)
                && new.range.first <= lock.range.last.saturating_add(1);
            let joins =
                touches && lock.kind == kind && (lock.mount, lock.owner) == (new.mount, new.owner);
            if joins {
                new.range.first = new.range.first.min(lock.range.first);
                new.range.last = new.range.last.max(lock.range.last);
            }
            !joins
        });
        kept.push(new);
    }
    kept.sort_unstable();
    *locks = kept;
    before
}

/// The first lock of others in the way.
fn in_the_way(locks: &[Lock], wanted: &Lock) -> Option<Lock> {
    locks
        .iter()
        .find(|lock| {
            (lock.mount, lock.owner) != (wanted.mount, wanted.owner)
                && lock.range.overlaps(wanted.range)
                && (lock.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive)
        })
        .copied()
}

/// Locks of a node by mounts that last. That those of others are found there no more is seen to when these are
/// cleared away.
fn living(tx: &Tx<'_>, bucket: BucketId, ino: Ino) -> Step<Vec<Lock>> {
    let row: Option<LocksRow> = tx.load(rows::STATE, &own::locks(bucket, ino))?;
    let mut locks = row.map_or_else(Vec::new, |row| row.locks);
    let mut lasts: BTreeMap<MountId, bool> = BTreeMap::new();
    for lock in &locks {
        if let Entry::Vacant(mount) = lasts.entry(lock.mount) {
            mount.insert(tx.get(rows::STATE, &own::mount(lock.mount))?.is_some());
        }
    }
    locks.retain(|lock| lasts.get(&lock.mount) == Some(&true));
    Ok(locks)
}

/// The first lock of others in the way of one.
pub(super) fn conflict(
    tx: &Tx<'_>,
    bucket: BucketId,
    ino: Ino,
    wanted: &Lock,
) -> Step<Option<Lock>> {
    inodes::find(tx, bucket, ino)?;
    Ok(in_the_way(&living(tx, bucket, ino)?, wanted))
}

impl Change<'_> {
    /// Takes or changes a lock, or (`None`) gives it back; what its owner had there before.
    pub(super) fn lock(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        wanted: Lock,
        kind: Option<LockKind>,
    ) -> Step<Vec<(LockRange, LockKind)>> {
        if wanted.range.first > wanted.range.last {
            return Err(PosixError::Invalid.into());
        }
        inodes::find(&self.tx, bucket, ino)?;
        let mut locks = living(&self.tx, bucket, ino)?;
        let before = (locks.len(), count(&locks, wanted.mount));
        if let Some(kind) = kind
            && in_the_way(&locks, &Lock { kind, ..wanted }).is_some()
        {
            return Err(PosixError::Locked.into());
        }
        let had = put(&mut locks, wanted, kind);
        if locks.len() > before.0 && locks.len() > limits::LOCKS_PER_NODE_MAX {
            return Err(PosixError::TooManyLocks.into());
        }
        self.set_locks(bucket, ino, locks, (wanted.mount, before.1))?;
        Ok(had)
    }

    /// Gives back all locks of an owner on a node.
    pub(super) fn unlock_all(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        (mount, owner): (MountId, u64),
    ) -> Step<()> {
        let mut locks = living(&self.tx, bucket, ino)?;
        let before = count(&locks, mount);
        let all = locks.len();
        locks.retain(|lock| (lock.mount, lock.owner) != (mount, owner));
        if locks.len() < all {
            self.set_locks(bucket, ino, locks, (mount, before))?;
        }
        Ok(())
    }

    /// Writes a node's locks back, of which one mount's have changed.
    fn set_locks(
        &mut self,
        bucket: BucketId,
        ino: Ino,
        locks: Vec<Lock>,
        (mount, before): (MountId, u32),
    ) -> Step<()> {
        let now = count(&locks, mount);
        let row: Mount = self.mount(mount)?;
        let all = row.locks.saturating_sub(before).saturating_add(now);
        if now > before && all > limits::LOCKS_PER_MOUNT_MAX {
            return Err(PosixError::TooManyLocks.into());
        }
        if all != row.locks {
            self.tx.store(rows::STATE, own::mount(mount), &Mount { locks: all, ..row });
        }
        match now {
            0 => self.tx.delete(rows::STATE, own::locker(mount, bucket, ino)),
            _ => self.tx.store(rows::STATE, own::locker(mount, bucket, ino), &()),
        }
        self.store_locks(bucket, ino, locks);
        Ok(())
    }

    fn store_locks(&mut self, bucket: BucketId, ino: Ino, locks: Vec<Lock>) {
        let key = own::locks(bucket, ino);
        match locks.is_empty() {
            true => self.tx.delete(rows::STATE, key),
            false => {
                let row = LocksRow { sequence: self.sequence, locks };
                self.tx.store(rows::STATE, key, &row);
            }
        }
    }

    /// Clears locks of a mount that has ended away, as much as this step may; whether that is all.
    pub(super) fn expand_locks(&mut self, mount: MountId) -> Step<bool> {
        let prefix = own::lockers(mount);
        let end = prefix_end(&prefix);
        let most = limits::EXPAND_ROWS_MAX;
        let mut written = 0;
        for (key, _) in self.tx.scan(rows::STATE, &prefix, end.as_deref(), most)? {
            if self.is_spent() || written >= limits::EXPAND_LOCKS_BYTES_MAX {
                return Ok(false);
            }
            let (_, bucket, ino) =
                own::parse_hold(&key).ok_or_else(|| corrupt("key of a locker"))?;
            let locks = living(&self.tx, bucket, ino)?;
            written += locks.len() * size_of::<Lock>();
            self.store_locks(bucket, ino, locks);
            self.tx.delete(rows::STATE, key.to_vec());
        }
        Ok(self.tx.scan(rows::STATE, &prefix, end.as_deref(), 1)?.is_empty())
    }

    /// Clears locks of a node that is gone away, as much as this step may; whether that is all.
    pub(super) fn expand_locks_of(&mut self, bucket: BucketId, ino: Ino) -> Step<bool> {
        let mut locks = living(&self.tx, bucket, ino)?;
        while let Some(mount) = locks.first().map(|lock| lock.mount) {
            if self.is_spent() {
                self.store_locks(bucket, ino, locks);
                return Ok(false);
            }
            let row = self.mount(mount)?;
            let left = row.locks.saturating_sub(count(&locks, mount));
            self.tx.store(rows::STATE, own::mount(mount), &Mount { locks: left, ..row });
            self.tx.delete(rows::STATE, own::locker(mount, bucket, ino));
            locks.retain(|lock| lock.mount != mount);
        }
        self.store_locks(bucket, ino, Vec::new());
        Ok(true)
    }
}

fn count(locks: &[Lock], mount: MountId) -> u32 {
    let count = locks.iter().filter(|lock| lock.mount == mount).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 12;

    /// What each owner has of each byte.
    type Model = BTreeMap<(u64, u64), LockKind>;

    fn wanted() -> impl Strategy<Value = (u64, u64, u64, Option<LockKind>)> {
        let kind =
            prop_oneof![Just(None), Just(Some(LockKind::Shared)), Just(Some(LockKind::Exclusive)),];
        (0u64..3, 0..BYTES, 0..BYTES, kind)
            .prop_map(|(owner, a, b, kind)| (owner, a.min(b), a.max(b), kind))
    }

    proptest! {
        #[test]
        fn locks_split_and_merge_as_bytes_would(steps in prop::collection::vec(wanted(), 1..40)) {
            let mut locks = vec![];
            let mut model = Model::new();
            for (owner, first, last, kind) in steps {
                let range = LockRange { first, last };
                let mount = MountId(owner % 2);
                let new = Lock { range, mount, owner, kind: LockKind::Shared, pid: 1 };
                let others = model.iter().filter(|((of, at), _)| *of != owner && (first..=last).contains(at));
                let is_free = kind.is_none_or(|kind| others.clone().all(|(_, there)| {
                    kind == LockKind::Shared && *there == LockKind::Shared
                }));
                if let Some(kind) = kind {
                    let found = in_the_way(&locks, &Lock { kind, ..new });
                    prop_assert_eq!(found.is_none(), is_free);
                }
                if !is_free {
                    continue;
                }
                let had = put(&mut locks, new, kind);
                let mut had_bytes = Model::new();
                for (range, kind) in had {
                    had_bytes.extend((range.first..=range.last).map(|at| ((owner, at), kind)));
                }
                let mut model_had = Model::new();
                for at in first..=last {
                    if let Some(before) = model.remove(&(owner, at)) {
                        model_had.insert((owner, at), before);
                    }
                    if let Some(kind) = kind {
                        model.insert((owner, at), kind);
                    }
                }
                prop_assert_eq!(had_bytes, model_had);
                let mut there = Model::new();
                for lock in &locks {
                    for at in lock.range.first..=lock.range.last {
                        prop_assert!(there.insert((lock.owner, at), lock.kind).is_none());
                    }
                }
                prop_assert_eq!(&there, &model);
                // As few as can be.
                for a in &locks {
                    for b in &locks {
                        let touch = a.owner == b.owner && a.kind == b.kind
                            && a.range.last.checked_add(1) == Some(b.range.first);
                        prop_assert!(!touch, "{:?}, {:?}", a, b);
                    }
                }
            }
        }
    }

    #[test]
    fn a_lock_reaches_to_the_last_byte_of_all() {
        let lock = |first, last| Lock {
            range: LockRange { first, last },
            mount: MountId(1),
            owner: 1,
            kind: LockKind::Exclusive,
            pid: 0,
        };
        let mut locks = vec![];
        put(&mut locks, lock(0, u64::MAX), Some(LockKind::Exclusive));
        put(&mut locks, lock(5, u64::MAX), None);
        assert_eq!(locks, [lock(0, 4)]);
        put(&mut locks, lock(5, u64::MAX), Some(LockKind::Exclusive));
        assert_eq!(locks, [lock(0, u64::MAX)]);
    }
}
