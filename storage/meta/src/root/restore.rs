//! Restores: noted by commands, and applied to the rows of a root group that was itself lost.
//!
//! ```text
//!   RecordRestore(incarnation + 1) ──> frozen ──Thaw(incarnation)──> deletes happen again
//! ```
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::{Epoch, GroupId};
use nexusgrid_env::{Batch, KvError, KvRead};

use super::limits;
use super::machine::{Change, Step, all, full, invalid};
use super::rows::{self, ClusterRow, ROOT, RestoresRow};
use super::topology::{Bucket, Group, Pg, Topology};
use super::types::{InvalidField, RaftId, Restore, RootOk};
use crate::rows::tx::Tx;

/// Ids that a lost root group may have given after its checkpoint, of each kind: they are passed over.
pub const IDS_PASSED_OVER: u32 = 10_000;

/// Epochs and repair sessions that a lost root group may have opened after its checkpoint.
pub const EPOCHS_PASSED_OVER: u64 = 1 << 20;

impl Change<'_> {
    pub(super) fn record_restore(&mut self, restore: Restore) -> Step<RootOk> {
        let mut row: RestoresRow = self.tx.load(ROOT, &rows::restores())?.unwrap_or_default();
        // Asked again.
        if row.restores.last() == Some(&restore) {
            return Ok(RootOk::Done);
        }
        if self.cluster.cluster.incarnation.checked_add(1) != Some(restore.incarnation) {
            return Err(invalid(InvalidField::State));
        }
        if row.restores.len() >= limits::RESTORES_MAX
            || restore.groups.len() > self.cluster.groups as usize + 1
        {
            return Err(full(InvalidField::Groups));
        }
        self.cluster.cluster.incarnation = restore.incarnation;
        row.restores.push(restore);
        self.tx.store(ROOT, rows::restores(), &row);
        self.map_changed = true;
        Ok(RootOk::Done)
    }

    pub(super) fn thaw(&mut self, incarnation: u64) -> Step<RootOk> {
        if incarnation != self.cluster.cluster.incarnation {
            return Err(invalid(InvalidField::State));
        }
        let row: RestoresRow = self.tx.load(ROOT, &rows::restores())?.unwrap_or_default();
        if row.thawed != incarnation {
            let row = RestoresRow { thawed: incarnation, ..row };
            self.tx.store(ROOT, rows::restores(), &row);
            self.map_changed = true;
        }
        Ok(RootOk::Done)
    }
}

/// What a root group that begins at `index` has otherwise than its checkpoint.
///
/// `newest` is the newest map that any node kept: what it says of nodes, drives and placement groups
/// is younger than the checkpoint. What it does not say (keys, tokens) is as old as the checkpoint;
/// nothing that may have been given in between is given again (I5, I15).
pub fn restored(
    state: &dyn KvRead,
    index: u64,
    newest: &Topology,
    founder: RaftId,
    restore: &Restore,
) -> Result<Batch, KvError> {
    let mut tx = Tx::new(state);
    let Some(mut cluster) = tx.load::<ClusterRow>(ROOT, &rows::cluster())? else {
        return Err(KvError::Corrupt("a root group without a cluster".to_owned()));
    };
    if newest.version > cluster.map_version && newest.cluster == Some(cluster.cluster.id) {
        for node in newest.nodes.values() {
            cluster.nodes = cluster.nodes.max(node.id.0);
            tx.store(ROOT, rows::node(node.id), node);
        }
        for drive in newest.drives.values() {
            cluster.drives = cluster.drives.max(drive.id.0);
            tx.store(ROOT, rows::drive(drive.id), drive);
            tx.store(ROOT, rows::incarnation(&drive.incarnation), &drive.id);
        }
        for pg in newest.pgs.values() {
            cluster.pgs = cluster.pgs.max(pg.id.0);
            tx.store(ROOT, rows::pg(pg.id), pg);
        }
        for group in newest.groups.values() {
            tx.store(ROOT, rows::group(group.id), group);
        }
        // A bucket is of use only with its key.
        for bucket in newest.buckets.values() {
            cluster.buckets = cluster.buckets.max(bucket.id.0);
            if tx.get(ROOT, &rows::bucket_key(bucket.id, 1))?.is_some() {
                restore_bucket(&mut tx, bucket)?;
            }
        }
    }
    for mut pg in all::<Pg>(&tx, b"P")? {
        pg.epoch = Epoch(pg.epoch.0.saturating_add(EPOCHS_PASSED_OVER));
        pg.fill_session = pg.fill_session.saturating_add(EPOCHS_PASSED_OVER);
        // Whoever worked in it hears that it is closed, and opens another.
        pg.fill_worker = None;
        tx.store(ROOT, rows::pg(pg.id), &pg);
    }
    for group in &restore.groups {
        let voters = vec![RaftId::new(founder.node(), u32::from(group.generation) + 1)];
        tx.store(ROOT, rows::group(group.group), &Group { id: group.group, voters });
    }
    cluster.nodes = cluster.nodes.saturating_add(IDS_PASSED_OVER.into());
    cluster.drives = cluster.drives.saturating_add(IDS_PASSED_OVER.into());
    cluster.pgs = cluster.pgs.saturating_add(IDS_PASSED_OVER);
    cluster.buckets = cluster.buckets.saturating_add(IDS_PASSED_OVER.into());
    cluster.cluster.incarnation = restore.incarnation;
    cluster.map_version = index;
    let mut row: RestoresRow = tx.load(ROOT, &rows::restores())?.unwrap_or_default();
    row.restores.push(restore.clone());
    tx.store(ROOT, rows::restores(), &row);
    tx.store(ROOT, rows::cluster(), &cluster);
    Ok(tx.into_batch())
}

/// A bucket as the newest map has it; the newest of its keys that is left seals what is new.
fn restore_bucket(tx: &mut Tx<'_>, bucket: &Bucket) -> Result<(), KvError> {
    let mut bucket = bucket.clone();
    while bucket.key_version > 1
        && tx.get(ROOT, &rows::bucket_key(bucket.id, bucket.key_version))?.is_none()
    {
        bucket.key_version -= 1;
    }
    tx.store(ROOT, rows::bucket_name(bucket.id), &bucket.name);
    tx.store(ROOT, rows::bucket(&bucket.name), &bucket);
    Ok(())
}

/// Whether a group was restored, and the generation that tells its lost replicas.
pub fn lost_generation(restores: &[Restore], group: GroupId) -> Option<u16> {
    let of_group = |restore: &Restore| {
        restore.groups.iter().find(|restored| restored.group == group).map(|found| found.generation)
    };
    restores.iter().filter_map(of_group).max()
}
