//! Placement groups: made, closed, remapped.
//!
//! ```text
//!   CreatePg ──> Active ──ClosePg, full──> Closed
//!                  │  ^                      │  ^
//!         PreparePg│  │CleanPg      PreparePg│  │CleanPg
//!                  v  │                      v  │
//!               Preparing (epoch + 1)     Preparing (epoch + 1)
//! ```
//!
//! An epoch only grows (I5 on drives rests on it). A remap or another repair session closes the
//! repair session before it (R4). A remap whose new drive is lost is begun again with another: the
//! slot in preparation may move once more, the others wait until the group is clean.
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_codec::id::{DriveId, Epoch, PgId};
use nexusgrid_env::{Invariant, NodeId};

use super::limits;
use super::machine::{Change, Step, all, full, invalid};
use super::topology::{Drive, Node, Pg, PgClass, PgState, Remap, SlotMove};
use super::types::{
    DriveState, InvalidField, NewPg, NodeClass, NodeState, PlacementFault, RootError, RootOk,
};

impl Change<'_> {
    /// I11: distinct hosts while there are enough, else as even as it goes; sleepy slots at most
    /// m − 1 while there are stable hosts enough. `kept`: slots that stay as they are.
    fn check_placement(&self, class: PgClass, slots: &[DriveId], kept: &[DriveId]) -> Step<()> {
        let nodes: BTreeMap<NodeId, Node> =
            all::<Node>(&self.tx, b"N")?.into_iter().map(|node| (node.id, node)).collect();
        let drives: BTreeMap<DriveId, Drive> =
            all::<Drive>(&self.tx, b"D")?.into_iter().map(|drive| (drive.id, drive)).collect();
        let node_of = |drive: &Drive| {
            nodes.get(&drive.node).filter(|node| {
                drive.state == DriveState::Active
                    && matches!(node.state, NodeState::Joining | NodeState::Active)
            })
        };
        let mut hosts = BTreeSet::new();
        let mut stable = BTreeSet::new();
        for node in drives.values().filter_map(node_of) {
            hosts.insert(node.host.as_str());
            if node.class == NodeClass::Stable {
                stable.insert(node.host.as_str());
            }
        }
        let mut per_host: BTreeMap<&str, usize> = BTreeMap::new();
        let mut sleepy = 0;
        for slot in slots {
            let drive = drives.get(slot).ok_or(RootError::NoSuchDrive(*slot))?;
            let node = if kept.contains(slot) {
                nodes.get(&drive.node).ok_or(RootError::NoSuchNode(drive.node))?
            } else {
                node_of(drive).ok_or(RootError::DriveUnusable(*slot))?
            };
            *per_host.entry(node.host.as_str()).or_default() += 1;
            sleepy += usize::from(node.class == NodeClass::Sleepy);
        }
        let fault = |fault| Err(RootError::BadPlacement(fault).into());
        if slots.iter().collect::<BTreeSet<_>>().len() != slots.len() {
            return fault(PlacementFault::DriveTwice);
        }
        let width = class.width();
        let share = width.div_ceil(hosts.len().max(1));
        if per_host.values().any(|count| *count > share) {
            return fault(PlacementFault::HostTwice);
        }
        let allowed = usize::from(class.m().saturating_sub(1));
        if sleepy > allowed.max(width.saturating_sub(stable.len())) {
            return fault(PlacementFault::TooSleepy);
        }
        self.tx.check(Invariant::I11, slots.len() == width, || format!("{class:?}: {slots:?}"));
        Ok(())
    }

    pub(super) fn create_pg(&mut self, new: NewPg) -> Step<RootOk> {
        let is_shaped = match new.class {
            PgClass::Coded { k, m } => k > 0 && m > 0,
            PgClass::Replicated { copies } => copies > 0,
        };
        let width = new.class.width();
        if !is_shaped || width > limits::PG_WIDTH_MAX || new.slots.len() != width {
            return Err(invalid(InvalidField::PgClass));
        }
        if self.cluster.pgs as usize >= limits::PGS_MAX {
            return Err(full(InvalidField::PgClass));
        }
        self.check_placement(new.class, &new.slots, &[])?;
        self.cluster.pgs += 1;
        let id = PgId(self.cluster.pgs);
        let cap_bytes = self.cluster.cluster.settings.pg_size_cap_bytes;
        self.set_pg(&Pg {
            id,
            class: new.class,
            slots: new.slots,
            epoch: Epoch(1),
            state: PgState::Active,
            cap_bytes,
            used_bytes: 0,
            fill_session: 0,
            fill_worker: None,
        });
        Ok(RootOk::Pg(id))
    }

    pub(super) fn close_pg(&mut self, id: PgId) -> Step<RootOk> {
        let mut pg = self.pg(id)?;
        match &mut pg.state {
            PgState::Closed => return Ok(RootOk::Done),
            PgState::Active => pg.state = PgState::Closed,
            PgState::Preparing(remap) => remap.reopen = false,
        }
        self.set_pg(&pg);
        Ok(RootOk::Done)
    }

    pub(super) fn set_pg_use(&mut self, id: PgId, used_bytes: u64) -> Step<RootOk> {
        let mut pg = self.pg(id)?;
        let map_changed = self.map_changed;
        pg.used_bytes = used_bytes;
        let closes = pg.state == PgState::Active && used_bytes >= pg.cap_bytes;
        if closes {
            pg.state = PgState::Closed;
        }
        self.set_pg(&pg);
        // How full a PG is alone is not worth a new map on every node.
        self.map_changed = map_changed || closes;
        Ok(RootOk::Done)
    }

    pub(super) fn prepare_pg(
        &mut self,
        id: PgId,
        from: Epoch,
        moves: &[(u8, DriveId)],
        now_ms: u64,
    ) -> Step<RootOk> {
        let mut pg = self.pg(id)?;
        if pg.epoch != from {
            return Err(RootError::EpochChanged(id, pg.epoch).into());
        }
        let under_way = match &pg.state {
            PgState::Preparing(remap) => Some(remap.clone()),
            PgState::Active | PgState::Closed => None,
        };
        // Never more slots at once than the quorum's slack; two copies have none, and one must be
        // replaceable all the same.
        let slack = pg.class.width().saturating_sub(pg.class.quorum()).max(1);
        let distinct: BTreeSet<u8> = moves.iter().map(|(slot, _)| *slot).collect();
        if moves.is_empty() || moves.len() > slack || distinct.len() != moves.len() {
            return Err(invalid(InvalidField::PgClass));
        }
        // What is in preparation may be given to other drives; nothing else may move meanwhile.
        if let Some(remap) = &under_way {
            let same: BTreeSet<u8> = remap.moves.iter().map(|made| made.slot).collect();
            if same != distinct {
                return Err(RootError::PgBusy(id).into());
            }
        }
        let mut made = Vec::with_capacity(moves.len());
        for (slot, to) in moves {
            let drive = pg
                .slots
                .get_mut(usize::from(*slot))
                .ok_or_else(|| invalid(InvalidField::PgClass))?;
            // Where it came from first: the drive in between never was complete.
            let before = under_way.iter().flat_map(|remap| &remap.moves);
            let from = before.filter(|made| made.slot == *slot).map(|made| made.from).next();
            made.push(SlotMove { slot: *slot, from: from.unwrap_or(*drive), to: *to });
            *drive = *to;
        }
        let moved: BTreeSet<DriveId> = moves.iter().map(|(_, to)| *to).collect();
        let kept: Vec<DriveId> =
            pg.slots.iter().filter(|drive| !moved.contains(drive)).copied().collect();
        self.check_placement(pg.class, &pg.slots, &kept)?;
        let reopen = match &under_way {
            Some(remap) => remap.reopen,
            None => pg.state == PgState::Active,
        };
        pg.epoch = Epoch(pg.epoch.0 + 1);
        pg.state = PgState::Preparing(Remap { moves: made, since_ms: now_ms, reopen });
        pg.fill_session += 1;
        pg.fill_worker = None;
        self.set_pg(&pg);
        Ok(RootOk::Epoch(pg.epoch))
    }

    pub(super) fn clean_pg(&mut self, id: PgId, epoch: Epoch) -> Step<RootOk> {
        let mut pg = self.pg(id)?;
        if pg.epoch != epoch {
            return Err(RootError::EpochChanged(id, pg.epoch).into());
        }
        let PgState::Preparing(remap) = &pg.state else { return Ok(RootOk::Done) };
        // Another worker has begun anew meanwhile: its writes may be on their way (R4).
        if pg.fill_worker.is_some() {
            return Err(RootError::PgBusy(id).into());
        }
        pg.state = match remap.reopen && pg.used_bytes < pg.cap_bytes {
            true => PgState::Active,
            false => PgState::Closed,
        };
        pg.fill_worker = None;
        self.set_pg(&pg);
        Ok(RootOk::Done)
    }

    pub(super) fn open_fill_session(&mut self, id: PgId, worker: NodeId) -> Step<RootOk> {
        let mut pg = self.pg(id)?;
        self.node(worker)?;
        pg.fill_session += 1;
        pg.fill_worker = Some(worker);
        self.set_pg(&pg);
        Ok(RootOk::FillSession(pg.fill_session))
    }

    pub(super) fn close_fill_session(&mut self, id: PgId, session: u64) -> Step<RootOk> {
        let mut pg = self.pg(id)?;
        if pg.fill_session == session && pg.fill_worker.is_some() {
            pg.fill_worker = None;
            self.set_pg(&pg);
        }
        Ok(RootOk::Done)
    }
}
