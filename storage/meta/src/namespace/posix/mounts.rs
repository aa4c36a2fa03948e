//! Leases of mounts.
//!
//! ```text
//!   OpenMount ──▶ lasts ──CloseMount──▶ its row goes, what it held goes to the outbox
//!              ┌▶ │ RenewMounts, OpenMount again (who served it has died, another goes on)
//!              └──┘
//! ```
//!
//! A mount is no writer's session: it lasts for weeks, and the floor below which sessions are forgotten (R6)
//! must not wait for it. The leader's worker ends mounts that were not renewed for long by its own clock: no two
//! machines' clocks are compared.
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::kv::prefix_end;
use nexusgrid_env::{KvError, NodeId};

use super::super::limits;
use super::super::machine::{Change, Step};
use super::super::rows::{self, Released};
use super::super::types::{BucketId, Mount, MountId, NamespaceError, NamespaceOk, PosixError};
use super::rows as own;
use crate::rows::tx::{Tx, decode_row};

/// All mounts, in order of id.
pub(in super::super) fn all(tx: &Tx<'_>) -> Step<Vec<Mount>> {
    let prefix = own::mounts();
    let end = prefix_end(&prefix);
    let found = tx.scan(rows::STATE, &prefix, end.as_deref(), limits::MOUNTS_MAX)?;
    Ok(found.iter().map(|(_, value)| decode_row(rows::STATE, value)).collect::<Result<_, _>>()?)
}

/// The node that a mount is on, if it lasts.
pub(in super::super) fn node_of(tx: &Tx<'_>, mount: MountId) -> Result<Option<NodeId>, KvError> {
    let row: Option<Mount> = tx.load(rows::STATE, &own::mount(mount))?;
    Ok(row.map(|row| row.node))
}

/// A mount that lasts.
pub(super) fn row_of(tx: &Tx<'_>, mount: MountId) -> Step<Mount> {
    let row = tx.load(rows::STATE, &own::mount(mount))?;
    Ok(row.ok_or(PosixError::MountEnded)?)
}

impl Change<'_> {
    /// A mount that lasts.
    pub(super) fn mount(&self, mount: MountId) -> Step<Mount> {
        row_of(&self.tx, mount)
    }

    pub(in super::super) fn open_mount(
        &mut self,
        again: Option<MountId>,
        bucket: BucketId,
        node: NodeId,
        lease_ms: u64,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        self.bucket(bucket)?;
        if let Some(again) = again
            && let Some(row) = self.tx.load::<Mount>(rows::STATE, &own::mount(again))?
            && row.bucket == bucket
        {
            // Nobody knows any more which of these were used.
            self.drop_reservations(again)?;
            let renewed_ms = row.renewed_ms.max(now_ms);
            let row = Mount { node, lease_ms, renewed_ms, ..row };
            self.tx.store(rows::STATE, own::mount(again), &row);
            return Ok(NamespaceOk::Mount(row));
        }
        if all(&self.tx)?.len() >= limits::MOUNTS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let id = MountId(self.sequence);
        let row = Mount { id, bucket, node, lease_ms, renewed_ms: now_ms, locks: 0 };
        self.tx.store(rows::STATE, own::mount(id), &row);
        Ok(NamespaceOk::Mount(row))
    }

    pub(in super::super) fn renew_mounts(
        &mut self,
        mounts: &[MountId],
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        if mounts.len() > limits::EXPIRE_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let mut last = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let row: Option<Mount> = self.tx.load(rows::STATE, &own::mount(*mount))?;
            let Some(row) = row else { continue };
            let row = Mount { renewed_ms: row.renewed_ms.max(now_ms), ..row };
            self.tx.store(rows::STATE, own::mount(*mount), &row);
            last.push(*mount);
        }
        Ok(NamespaceOk::Mounts(last))
    }

    pub(in super::super) fn close_mount(
        &mut self,
        mount: MountId,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        if let Some(row) = self.tx.load::<Mount>(rows::STATE, &own::mount(mount))? {
            self.end_mount(&row, now_ms)?;
        }
        Ok(NamespaceOk::Done)
    }

    fn end_mount(&mut self, row: &Mount, now_ms: u64) -> Step<()> {
        let mount = row.id;
        self.tx.delete(rows::STATE, own::mount(mount));
        if self.has_delegation(mount, row.bucket)? {
            self.tx.delete(rows::STATE, own::delegation(row.bucket));
        }
        for prefix in [own::reserved(mount), own::holds(mount), own::lockers(mount)] {
            let end = prefix_end(&prefix);
            if !self.tx.scan(rows::STATE, &prefix, end.as_deref(), 1)?.is_empty() {
                self.release(Released::Mount(mount), now_ms);
                // Whoever has the bucket to itself may wait for these locks.
                self.recall_any(row.bucket)?;
                break;
            }
        }
        Ok(())
    }
}
