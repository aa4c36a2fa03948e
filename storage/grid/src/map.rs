//! The node's copy of the map: nodes, drives, placement groups, buckets.
//!
//! State: the newest map this process has read, each through ReadIndex, so never a guess. It may
//! be stale; whoever learns so (an epoch refused, a bucket not found) asks for a newer one. One
//! read is in flight at most; those who ask meanwhile wait for the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_env::NodeId;
use nexusgrid_meta::root::topology::{Bucket, Liveness as NodeLiveness, Topology};
use nexusgrid_meta::root::types::{DriveState, RootAnswer, RootQuery};
use tokio::sync::{Mutex, watch};

use crate::error::GridError;
use crate::liveness::{Liveness, NodeHint};
use crate::meta_port::{MetaClient, MetaError};

/// The map and who fetches it; cheap to clone.
#[derive(Clone)]
pub(crate) struct MapView {
    shared: Arc<Shared>,
}

struct Shared {
    meta: MetaClient,
    liveness: Arc<dyn Liveness>,
    own: NodeId,
    current: watch::Sender<Arc<Topology>>,
    /// Counts finished reads.
    reads: watch::Sender<u64>,
    reading: Mutex<()>,
}

impl MapView {
    pub(crate) fn new(meta: MetaClient, liveness: Arc<dyn Liveness>, own: NodeId) -> MapView {
        let (current, _) = watch::channel(Arc::new(Topology::default()));
        let (reads, _) = watch::channel(0);
        MapView {
            shared: Arc::new(Shared {
                meta,
                liveness,
                own,
                current,
                reads,
                reading: Mutex::new(()),
            }),
        }
    }

    /// The newest map read so far.
    pub(crate) fn current(&self) -> Arc<Topology> {
        Arc::clone(&self.shared.current.borrow())
    }

    /// Changes of the map.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Topology>> {
        self.shared.current.subscribe()
    }

    /// Takes a map from elsewhere, if it is newer: where no root group answers, to read what the drives
    /// hold all the same.
    pub(crate) fn offer(&self, map: &Arc<Topology>) {
        self.shared.current.send_if_modified(|current| {
            let is_newer = map.version > current.version;
            if is_newer {
                *current = Arc::clone(map);
            }
            is_newer
        });
    }

    /// A map read after this call began.
    pub(crate) async fn refresh(&self) -> Result<Arc<Topology>, MetaError> {
        let before = *self.shared.reads.borrow();
        let _reading = self.shared.reading.lock().await;
        // A read that began after this call did has finished by the second count after it.
        if *self.shared.reads.borrow() >= before + 2 {
            return Ok(self.current());
        }
        let unless_version = self.shared.current.borrow().version;
        let answer = self.shared.meta.root_ask(&RootQuery::Topology { unless_version }).await?;
        let RootAnswer::Topology(newer) = answer else {
            return Err(MetaError::Reply("map"));
        };
        if let Some(newer) = newer {
            self.shared.current.send_if_modified(|current| {
                let is_newer = newer.version > current.version;
                if is_newer {
                    *current = Arc::new(*newer);
                }
                is_newer
            });
        }
        self.shared.reads.send_modify(|reads| *reads += 1);
        Ok(self.current())
    }

    /// A bucket of the map; reads a newer one before it says that there is none.
    pub(crate) async fn bucket(&self, name: &str) -> Result<Bucket, GridError> {
        if let Some(bucket) = self.current().bucket(name) {
            return Ok(bucket.clone());
        }
        let map = self.refresh().await?;
        map.bucket(name).cloned().ok_or(GridError::NoSuchBucket)
    }

    /// The node that holds a drive, and what is held of it now.
    pub(crate) fn drive(&self, map: &Topology, drive: DriveId) -> Option<(NodeId, NodeHint)> {
        let record = map.drives.get(&drive)?;
        if !matches!(record.state, DriveState::Active | DriveState::Draining) {
            return None;
        }
        let node = map.node(record.node)?;
        Some((node.id, self.node_hint(map, node.id)))
    }

    /// What is held of a node now.
    pub(crate) fn node_hint(&self, map: &Topology, node: NodeId) -> NodeHint {
        if node == self.shared.own {
            return NodeHint::Alive;
        }
        match (self.shared.liveness.state(node), map.node(node).map(|node| node.liveness)) {
            // Back, but the root group has not said so yet: do not wait long for it.
            (NodeHint::Alive, Some(NodeLiveness::Down | NodeLiveness::Asleep)) => NodeHint::Suspect,
            (hint, _) => hint,
        }
    }

    /// All metadata groups.
    pub(crate) fn metadata_groups(&self) -> BTreeSet<GroupId> {
        self.current().groups.keys().copied().filter(|group| group.0 != 0).collect()
    }
}
