//! How long each orphan of a drive has been seen, kept with the drive, so that a machine which is switched
//! off every evening gets rid of its orphans all the same. Lost, it only delays.

use std::collections::BTreeMap;

use nexusgrid_drive::ShardKey;

use super::kept::Kept;
use crate::limits;

/// Shard → ms from its first sighting to its last, while an agent ran.
pub(super) type Sightings = BTreeMap<ShardKey, u64>;

/// Where they are kept: a key and a time take at most 48 bytes each.
pub(super) const SIGHTINGS: Kept<Sightings> =
    Kept::new("orphans", 1, limits::ORPHANS_REMEMBERED_MAX as u64 * 48);

#[cfg(test)]
mod tests {
    use nexusgrid_codec::{BlockId, GroupId, SessionId};

    use super::*;

    #[test]
    fn golden_bytes() {
        let block = BlockId { group: GroupId(1), session: SessionId(300), counter: 2 };
        let seen = Sightings::from([(ShardKey { block, index: 3 }, 500)]);
        assert_eq!(SIGHTINGS.encode(&seen), [1, 1, 1, 0xac, 2, 2, 3, 0xf4, 3]);
    }
}
