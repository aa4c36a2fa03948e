//! What is to be moved, and by whom: pure functions of the map and of metadata's counters.

use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_meta::namespace::limits::PACKED_BYTES_MAX;
use nexusgrid_meta::namespace::types::{CodeFilter, CodeUsage, LiveBlock};
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::NodeState;

use crate::placement::Classes;

/// A code of which contents are to be moved away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outdated {
    /// Which contents.
    pub filter: CodeFilter,
    /// How many bytes.
    pub bytes: u64,
    /// Whether they survive the loss of fewer hosts than today's code.
    pub is_under_protected: bool,
}

/// Codes of `used` that stand below those that today's hosts allow. A grid that shrank keeps what it
/// has: nothing is moved to a lesser code.
pub fn outdated(used: &[CodeUsage], wanted: Classes) -> Vec<Outdated> {
    // In the table of codes both numbers grow with the hosts; losses survived count first.
    let rank = |k: u8, m: u8| (m, k);
    let wanted_large = rank(wanted.large.k(), wanted.large.m());
    let mut found = Vec::new();
    for code in used {
        let small_bytes = code.bytes.saturating_sub(code.large_bytes);
        // Small contents lie in copies, however many hosts there are: only losses matter.
        let moves_small = code.m < wanted.small.m() && small_bytes > 0;
        let moves_large = rank(code.k, code.m) < wanted_large && code.large_bytes > 0;
        if !moves_small && !moves_large {
            continue;
        }
        let over = (!moves_small).then_some(PACKED_BYTES_MAX);
        found.push(Outdated {
            filter: CodeFilter { k: code.k, m: code.m, over },
            bytes: if moves_small { code.bytes } else { code.large_bytes },
            is_under_protected: code.m < wanted.large.m(),
        });
    }
    found
}

/// Whether a block is to be rewritten: more than half of it is dead.
pub(crate) fn is_half_dead(block: &LiveBlock) -> bool {
    u64::from(block.live_bytes) * 2 < u64::from(block.len)
}

/// Whether so much of a group's blocks is dead that it is worth a look at each of them.
pub(crate) fn dead_bytes_worth_a_look(used: &[CodeUsage]) -> Option<u64> {
    let all: u64 = used.iter().map(|code| code.block_bytes).sum();
    let live: u64 = used.iter().map(|code| code.bytes).sum();
    let dead = all.saturating_sub(live);
    (dead > 0 && dead >= all / 100).then_some(dead)
}

/// The gateway that does the work of a metadata group: the awake ones take the groups in turn.
pub fn owner(map: &Topology, group: GroupId, awake: impl Fn(NodeId) -> bool) -> Option<NodeId> {
    let gateways: Vec<NodeId> = map
        .nodes
        .values()
        .filter(|node| node.roles.gateway && node.state == NodeState::Active && awake(node.id))
        .map(|node| node.id)
        .collect();
    let turn = (group.0 as usize).checked_rem(gateways.len())?;
    gateways.get(turn).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::classes;

    fn used(k: u8, m: u8, small: u64, large: u64) -> CodeUsage {
        let bytes = small + large;
        CodeUsage { k, m, blocks: 1, block_bytes: bytes, bytes, large_bytes: large }
    }

    /// (k, m, over, bytes, under-protected) of what is outdated with so many hosts.
    fn with(hosts: usize, used: &[CodeUsage]) -> Vec<(u8, u8, bool, u64, bool)> {
        let found = outdated(used, classes(hosts, 1).unwrap());
        found
            .iter()
            .map(|code| {
                let filter = code.filter;
                let is_large_only = filter.over.is_some();
                (filter.k, filter.m, is_large_only, code.bytes, code.is_under_protected)
            })
            .collect()
    }

    #[test]
    fn more_than_half_must_be_dead_and_a_hundredth_of_all() {
        let block = |live_bytes, len| LiveBlock {
            block: nexusgrid_codec::BlockId {
                group: GroupId(1),
                session: nexusgrid_codec::SessionId(1),
                counter: 1,
            },
            pg: nexusgrid_codec::PgId(1),
            epoch: nexusgrid_codec::Epoch(1),
            len,
            live_bytes,
            k: 1,
            m: 2,
            missing_mask: 0,
        };
        assert!(is_half_dead(&block(49, 100)) && !is_half_dead(&block(50, 100)));
        let with_dead = |dead: u64| CodeUsage { block_bytes: 900 + dead, ..used(1, 2, 900, 0) };
        assert_eq!(dead_bytes_worth_a_look(&[with_dead(0)]), None);
        assert_eq!(dead_bytes_worth_a_look(&[with_dead(8), used(4, 2, 0, 100)]), None);
        assert_eq!(dead_bytes_worth_a_look(&[with_dead(11), used(4, 2, 0, 100)]), Some(11));
    }

    #[test]
    fn each_code_gives_way_to_the_next_and_packs_stay_in_three_copies() {
        let none = vec![];
        let one = [used(1, 0, 10, 20)];
        assert_eq!(with(1, &one), none);
        assert_eq!(with(2, &one), [(1, 0, false, 30, true)]);
        let two = [used(1, 1, 10, 20)];
        assert_eq!(with(2, &two), none);
        assert_eq!(with(3, &two), [(1, 1, false, 30, true)]);
        let three = [used(1, 2, 10, 20)];
        assert_eq!(with(3, &three), none);
        // As many losses as 2+2, at more cost.
        assert_eq!(with(4, &three), [(1, 2, true, 20, false)]);
        assert_eq!(with(4, &[used(1, 2, 10, 0)]), none);
        assert_eq!(with(12, &[used(1, 2, 10, 0)]), none);
        assert_eq!(with(7, &[used(2, 2, 0, 20), used(4, 2, 0, 5)]), [(2, 2, true, 20, false)]);
        assert_eq!(with(12, &[used(4, 2, 0, 20)]), [(4, 2, true, 20, true)]);
        assert_eq!(with(20, &[used(8, 3, 0, 20)]), [(8, 3, true, 20, true)]);
        // Shrunk: what is there is better than what could be had.
        assert_eq!(with(4, &[used(4, 2, 0, 20)]), none);
        assert_eq!(with(1, &three), none);
    }
}
