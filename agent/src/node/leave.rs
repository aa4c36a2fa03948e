//! How nodes and drives leave: what may be done with them now, and what to propose to the root group.
//!
//! Pure functions of the map; the root group decides. Its planner moves the slots.

use anyhow::{Context, bail};
use nexusgrid_codec::DriveId;
use nexusgrid_env::NodeId;
use nexusgrid_grid::NodeHint;
use nexusgrid_grid::care::remap::survivors::{Standing, standing};
use nexusgrid_meta::root::topology::{Node, Topology};
use nexusgrid_meta::root::types::{DriveState, NodeState, RootCommand};
use serde_json::{Value, json};

/// A command for the root group, and what to answer when it was carried out.
#[derive(Debug)]
pub struct Decision {
    /// `None`: it is so already.
    pub command: Option<RootCommand>,
    /// For people and programs.
    pub answer: Value,
}

/// What an administrator vouches for when something is removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vouched {
    /// It does not come back.
    pub lost: bool,
    /// Blocks may be lost with it.
    pub data_loss: bool,
}

/// The number in `7` or `n7`.
pub fn node_id(text: &str) -> anyhow::Result<NodeId> {
    let number = text.trim_start_matches('n').parse();
    number.map(NodeId).with_context(|| {
        format!("{text} is not a node: say n1, n2, … as `nexusgrid node ls` shows them")
    })
}

fn member(map: &Topology, id: NodeId) -> anyhow::Result<&Node> {
    match map.nodes.get(&id) {
        None => bail!("there is no node {id}: see `nexusgrid node ls`"),
        Some(node) if node.state == NodeState::Removed => bail!("node {id} is removed already"),
        Some(node) => Ok(node),
    }
}

/// Slots of placement groups on drives that `counts`; a slot that moves counts where it comes from as
/// well, for the move may need it.
fn slots(map: &Topology, counts: impl Fn(DriveId) -> bool) -> usize {
    use nexusgrid_grid::care::remap::survivors::moving;
    let slots = map.pgs.values().flat_map(|pg| {
        (0u8..).zip(&pg.slots).map(|(slot, drive)| (*drive, moving(pg, slot).map(|made| made.from)))
    });
    slots.filter(|(drive, from)| counts(*drive) || from.is_some_and(&counts)).count()
}

fn slots_of_node(map: &Topology, id: NodeId) -> usize {
    slots(map, |drive| map.drives.get(&drive).is_some_and(|record| record.node == id))
}

/// Placement groups that could not rebuild their blocks without these drives, and can with them.
fn endangered(map: &Topology, gone: impl Fn(DriveId) -> bool) -> usize {
    let lacks = |drive: &DriveId| standing(map, *drive) == Standing::Lost;
    let groups = map.pgs.values().filter(|pg| {
        let left = |counts: &dyn Fn(&DriveId) -> bool| {
            pg.slots.iter().filter(|drive| counts(drive)).count() >= usize::from(pg.class.k())
        };
        left(&|drive| !lacks(drive)) && !left(&|drive| !lacks(drive) && !gone(*drive))
    });
    groups.count()
}

fn refuse_data_loss(count: usize, vouched: Vouched) -> anyhow::Result<()> {
    if count > 0 && !vouched.data_loss {
        bail!(
            "{count} placement groups would lose data: bring other lost drives back first, or say \
             --data-loss as well"
        );
    }
    Ok(())
}

/// Begins to empty a node, or takes that back.
pub fn drain(map: &Topology, id: NodeId, cancel: bool, now_ms: u64) -> anyhow::Result<Decision> {
    let node = member(map, id)?;
    let wanted = if cancel { NodeState::Active } else { NodeState::Leaving };
    if cancel && node.state != NodeState::Leaving {
        bail!("node {id} is not being drained");
    }
    let others = map.storage_hosts().into_iter().filter(|host| *host != node.host).count();
    if !cancel && node.roles.storage && others == 0 {
        bail!("node {id} is on the only host that stores: add another one first");
    }
    let slots = slots_of_node(map, id);
    let text = match (cancel, slots) {
        (true, _) => format!("node {id} stays"),
        (false, 0) => format!(
            "node {id} holds nothing any more: `nexusgrid node remove {id}` takes it out of the grid"
        ),
        (false, slots) => format!(
            "node {id} is being drained: {slots} slots move to others; `nexusgrid status` says how \
             many are left, then `nexusgrid node remove {id}`"
        ),
    };
    let command = (node.state != wanted).then_some(RootCommand::SetNodeState {
        node: id,
        state: wanted,
        now_ms,
    });
    let answer = json!({
        "node": id.0,
        "state": if cancel { "active" } else { "leaving" },
        "slots": slots,
        "text": text,
    });
    Ok(Decision { command, answer })
}

/// Takes a node out of the grid for good.
pub fn remove_node(
    map: &Topology,
    id: NodeId,
    vouched: Vouched,
    hint: NodeHint,
    now_ms: u64,
) -> anyhow::Result<Decision> {
    member(map, id)?;
    let slots = slots_of_node(map, id);
    let votes =
        map.groups.values().filter(|group| group.voters.iter().any(|voter| voter.node() == id));
    let votes: Vec<String> = votes.map(|group| group.id.0.to_string()).collect();
    if vouched.lost {
        if hint == NodeHint::Alive {
            bail!(
                "node {id} answers: `nexusgrid node drain {id}` moves its data away first; if it is \
                 to be given up, stop its agent"
            );
        }
        let of_node = |drive| map.drives.get(&drive).is_some_and(|record| record.node == id);
        refuse_data_loss(endangered(map, of_node), vouched)?;
    } else if slots > 0 {
        bail!(
            "node {id} still holds {slots} slots: `nexusgrid node drain {id}` moves them away; if it \
             is lost for good, say --lost"
        );
    } else if !votes.is_empty() {
        bail!(
            "node {id} still votes in groups {}: `nexusgrid node drain {id}`, and wait a moment",
            votes.join(", ")
        );
    }
    let text = match slots {
        0 => format!("node {id} is removed"),
        slots => format!("node {id} is removed: its {slots} slots are rebuilt on others"),
    };
    Ok(Decision {
        command: Some(RootCommand::SetNodeState { node: id, state: NodeState::Removed, now_ms }),
        answer: json!({ "node": id.0, "state": "removed", "slots": slots, "text": text }),
    })
}

/// Empties a drive, then, asked again, takes it out of the grid; gives it up at once if it is lost.
pub fn remove_drive(map: &Topology, id: DriveId, vouched: Vouched) -> anyhow::Result<Decision> {
    let Some(drive) = map.drives.get(&id) else {
        bail!("there is no drive {}: see `nexusgrid drive ls`", id.0)
    };
    if drive.state == DriveState::Removed {
        bail!("drive {} is removed already", id.0);
    }
    let slots = slots(map, |other| other == id);
    let (state, name, text) = match slots {
        0 => (DriveState::Removed, "removed", format!("drive {} is removed", id.0)),
        slots if vouched.lost => {
            refuse_data_loss(endangered(map, |other| other == id), vouched)?;
            let text =
                format!("drive {} is given up: its {slots} slots are rebuilt on others", id.0);
            (DriveState::Failed, "failed", text)
        }
        slots => {
            let text = format!(
                "drive {} is being emptied: {slots} slots move to others; say this again when \
                 `nexusgrid status` shows none left, or --lost if it cannot be read any more",
                id.0
            );
            (DriveState::Draining, "draining", text)
        }
    };
    // What failed is not read from again.
    let keeps = drive.state == state || (drive.state == DriveState::Failed && slots > 0);
    Ok(Decision {
        command: (!keeps).then_some(RootCommand::SetDriveState { drive: id, state }),
        answer: json!({ "drive": id.0, "state": name, "slots": slots, "text": text }),
    })
}

#[cfg(test)]
mod tests {
    use nexusgrid_codec::{Epoch, PgId};
    use nexusgrid_env::Roles;
    use nexusgrid_meta::root::topology::{Drive, Liveness, Pg, PgClass, PgState};
    use nexusgrid_meta::root::types::{Addresses, NodeClass, SpaceMark};

    use super::*;

    /// Nodes with one drive each, and one group of three copies on the first three.
    fn map(nodes: u64) -> Topology {
        let mut map = Topology::default();
        for index in 1..=nodes {
            let node = Node {
                id: NodeId(index),
                name: format!("node{index}"),
                host: format!("host{index}"),
                zone: String::new(),
                class: NodeClass::Stable,
                roles: Roles::ALL,
                addresses: Addresses::default(),
                key_hash: [0; 32],
                cert_generation: 1,
                state: NodeState::Active,
                liveness: Liveness::Up,
                liveness_since_ms: 0,
                raft_generation: 0,
            };
            let drive = Drive {
                id: DriveId(index),
                node: node.id,
                incarnation: [0; 16],
                size_bytes: 1,
                weight: 1,
                state: DriveState::Active,
                used_bytes: 0,
                space: SpaceMark::Normal,
            };
            map.nodes.insert(node.id, node);
            map.drives.insert(drive.id, drive);
        }
        let pg = Pg {
            id: PgId(1),
            class: PgClass::Replicated { copies: 3 },
            slots: (1..=3).map(DriveId).collect(),
            epoch: Epoch(1),
            state: PgState::Active,
            cap_bytes: 1,
            used_bytes: 0,
            fill_session: 0,
            fill_worker: None,
        };
        map.pgs.insert(pg.id, pg);
        map
    }

    fn refusal(decision: anyhow::Result<Decision>) -> String {
        decision.unwrap_err().to_string()
    }

    #[test]
    fn a_node_is_emptied_before_it_is_removed_or_given_up_when_it_is_dead() {
        let (mut map, id, plain) = (map(4), NodeId(3), Vouched::default());
        let lost = Vouched { lost: true, data_loss: false };
        let drained = drain(&map, id, false, 1).unwrap();
        let leaving = RootCommand::SetNodeState { node: id, state: NodeState::Leaving, now_ms: 1 };
        assert_eq!(drained.command, Some(leaving));
        assert_eq!(
            (&drained.answer["slots"], &drained.answer["state"]),
            (&json!(1), &json!("leaving"))
        );
        let full = refusal(remove_node(&map, id, plain, NodeHint::Alive, 1));
        assert!(full.contains("1 slots") && full.contains("node drain n3"), "{full}");
        let alive = refusal(remove_node(&map, id, lost, NodeHint::Alive, 1));
        assert!(alive.contains("stop its agent"), "{alive}");
        let removed = remove_node(&map, id, lost, NodeHint::Dead, 1).unwrap();
        let gone = RootCommand::SetNodeState { node: id, state: NodeState::Removed, now_ms: 1 };
        assert_eq!(removed.command, Some(gone.clone()));
        // It is empty: it may go, whether it answers or not.
        map.pgs.get_mut(&PgId(1)).unwrap().slots[2] = DriveId(4);
        assert_eq!(remove_node(&map, id, plain, NodeHint::Alive, 1).unwrap().command, Some(gone));
        map.nodes.get_mut(&id).unwrap().state = NodeState::Removed;
        assert!(refusal(drain(&map, id, false, 1)).contains("removed already"));
        assert!(refusal(drain(&map, NodeId(9), false, 1)).contains("no node"));
        assert!(refusal(drain(&map, NodeId(1), true, 1)).contains("not being drained"));
        assert_eq!((node_id("n7").unwrap(), node_id("7").unwrap()), (NodeId(7), NodeId(7)));
        assert!(node_id("seven").is_err());
    }

    #[test]
    fn the_last_copy_is_not_given_up_by_accident() {
        let mut map = map(4);
        for drive in [1, 2] {
            map.drives.get_mut(&DriveId(drive)).unwrap().state = DriveState::Failed;
        }
        let lost = Vouched { lost: true, data_loss: false };
        let refused = refusal(remove_node(&map, NodeId(3), lost, NodeHint::Dead, 1));
        assert!(refused.contains("--data-loss"), "{refused}");
        let refused = refusal(remove_drive(&map, DriveId(3), lost));
        assert!(refused.contains("--data-loss"), "{refused}");
        let sure = Vouched { lost: true, data_loss: true };
        assert!(remove_node(&map, NodeId(3), sure, NodeHint::Dead, 1).unwrap().command.is_some());
    }

    #[test]
    fn a_drive_is_emptied_then_removed() {
        let (mut map, id, plain) = (map(4), DriveId(2), Vouched::default());
        let first = remove_drive(&map, id, plain).unwrap();
        let state = DriveState::Draining;
        assert_eq!(first.command, Some(RootCommand::SetDriveState { drive: id, state }));
        map.drives.get_mut(&id).unwrap().state = state;
        assert_eq!(remove_drive(&map, id, plain).unwrap().command, None);
        let state = DriveState::Failed;
        let lost = Vouched { lost: true, data_loss: false };
        let given_up = remove_drive(&map, id, lost).unwrap();
        assert_eq!(given_up.command, Some(RootCommand::SetDriveState { drive: id, state }));
        map.pgs.get_mut(&PgId(1)).unwrap().slots[1] = DriveId(4);
        let state = DriveState::Removed;
        let removed = remove_drive(&map, id, plain).unwrap();
        assert_eq!(removed.command, Some(RootCommand::SetDriveState { drive: id, state }));
    }
}
