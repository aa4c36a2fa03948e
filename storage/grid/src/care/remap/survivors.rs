//! What the map alone says of a slot's shards: whether they exist, and what that makes of a placement
//! group.

use nexusgrid_codec::DriveId;
use nexusgrid_env::NodeId;
use nexusgrid_meta::root::topology::{Liveness, Pg, PgState, SlotMove, Topology};
use nexusgrid_meta::root::types::{DriveState, NodeState};

/// How things stand with a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In use.
    Present,
    /// In use, but to be emptied.
    Leaving,
    /// Its node sleeps: what it holds exists.
    Asleep(NodeId),
    /// Its node does not answer.
    Down(NodeId),
    /// Failed, removed, or on a removed node: it does not come back.
    Lost,
}

impl Standing {
    /// Whether its shards count as existing.
    pub fn survives(self) -> bool {
        matches!(self, Standing::Present | Standing::Leaving | Standing::Asleep(_))
    }
}

/// How things stand with a drive.
pub fn standing(map: &Topology, drive: DriveId) -> Standing {
    let Some(record) = map.drives.get(&drive) else { return Standing::Lost };
    let Some(node) = map.node(record.node) else { return Standing::Lost };
    match (record.state, node.liveness) {
        (DriveState::Failed | DriveState::Removed, _) => Standing::Lost,
        (_, Liveness::Down) => Standing::Down(node.id),
        (_, Liveness::Asleep) => Standing::Asleep(node.id),
        (DriveState::Draining, Liveness::Up) => Standing::Leaving,
        (DriveState::Active, Liveness::Up) if node.state == NodeState::Leaving => Standing::Leaving,
        (DriveState::Active, Liveness::Up) => Standing::Present,
    }
}

/// The move of a slot that is under way.
pub fn moving(pg: &Pg, slot: u8) -> Option<SlotMove> {
    match &pg.state {
        PgState::Preparing(remap) => remap.moves.iter().find(|made| made.slot == slot).copied(),
        PgState::Active | PgState::Closed => None,
    }
}

/// Shards of each block that exist, as far as the map tells. A slot that moves counts by the drive it
/// leaves: the new one may not have its shards yet.
pub fn survivors(map: &Topology, pg: &Pg) -> usize {
    let holder = |(slot, drive): (u8, &DriveId)| moving(pg, slot).map_or(*drive, |made| made.from);
    (0u8..).zip(&pg.slots).map(holder).filter(|drive| standing(map, *drive).survives()).count()
}

/// Whether one more loss loses data.
pub fn is_urgent(map: &Topology, pg: &Pg) -> bool {
    pg.class.m() > 0 && survivors(map, pg) <= usize::from(pg.class.k())
}
