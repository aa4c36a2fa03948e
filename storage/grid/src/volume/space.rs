//! How much there is, and how much is free.

use nexusgrid_meta::namespace::types::{NamespaceAnswer, NamespaceQuery};

use super::{Volume, VolumeError};
use crate::core::internal;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::DriveState;
use std::collections::BTreeMap;

use crate::placement;

/// What a mount shows as its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may be stored: of the quota, else what the grid's drives hold in its code for large objects.
    pub bytes: u64,
    /// Of these, bytes that can still be written.
    pub free: u64,
    /// Objects that the bucket may hold.
    pub nodes: u64,
    /// Of these, how many it may still take.
    pub nodes_free: u64,
}

/// Bytes that blocks of the code for large contents can hold, and can hold still: no two of a block's shards lie on
/// one host, so that what the largest hosts have beyond the others counts for nothing.
fn usable(map: &Topology) -> (u64, u64) {
    let Some(class) = placement::classes_of(map).map(|classes| classes.large) else {
        return (0, 0);
    };
    let by_host = map.storage_hosts().len() > 1;
    let mut domains: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for drive in map.drives.values() {
        if !matches!(drive.state, DriveState::Active | DriveState::Draining) {
            continue;
        }
        let host = map.node(drive.node).map(|node| node.host.clone()).filter(|_| by_host);
        let domain = domains.entry(host.unwrap_or_else(|| format!("{:?}", drive.id))).or_default();
        domain.0 += drive.size_bytes;
        domain.1 += drive.size_bytes.saturating_sub(drive.used_bytes);
    }
    let (k, m) = (u64::from(class.k()), u64::from(class.m()));
    let of = |room: Vec<u64>| stripes(&room, k + m).saturating_mul(k);
    let all = domains.values().map(|domain| domain.0).collect();
    (of(all), of(domains.values().map(|domain| domain.1).collect()))
}

/// The most stripes of `width` shards, each on another domain, for shards of one byte.
fn stripes(room: &[u64], width: u64) -> u64 {
    let fits = |stripes: u64| {
        let sum: u128 = room.iter().map(|room| u128::from(*room.min(&stripes))).sum();
        sum >= u128::from(stripes) * u128::from(width)
    };
    let (mut fitting, mut above) = (0, room.iter().copied().max().unwrap_or(0).saturating_add(1));
    while above - fitting > 1 {
        let middle = fitting + (above - fitting) / 2;
        if fits(middle) { fitting = middle } else { above = middle }
    }
    fitting
}

/// Shown where nothing bounds the number of objects.
const NODES: u64 = 1 << 40;

impl Volume {
    /// How much the bucket may hold: the least of what its quota, its owner's and the grid leave it.
    pub async fn space(&self) -> Result<Space, VolumeError> {
        let query = NamespaceQuery::Held { bucket: self.bucket.id };
        let NamespaceAnswer::Held(usage, allowance) =
            self.core.meta.ask(self.bucket.group, &query).await?
        else {
            return Err(internal("answer to a query for what a bucket holds").into());
        };
        let map = self.core.map.current();
        let (all, free) = usable(&map);
        let quota = map.bucket(&self.bucket.name).and_then(|bucket| bucket.settings.quota_bytes);
        let most = [quota, allowance.bytes].into_iter().flatten().min();
        let (bytes, free) = match most {
            Some(most) => (most, free.min(most.saturating_sub(usage.bytes))),
            None => (all, free),
        };
        let nodes = allowance.objects.unwrap_or(NODES);
        let nodes_free = nodes.saturating_sub(usage.objects);
        Ok(Space { bytes, free, nodes, nodes_free })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_hosts_bound_what_fits() {
        assert_eq!(stripes(&[10, 10, 10], 3), 10);
        // The third share can only lie on the smaller two, alternately.
        assert_eq!(stripes(&[100, 10, 10], 2), 20);
        assert_eq!(stripes(&[100, 10], 3), 0);
        assert_eq!(stripes(&[u64::MAX; 4], 2), u64::MAX - 1);
        assert_eq!(stripes(&[], 3), 0);
    }
}
