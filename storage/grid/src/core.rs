//! What all parts of one process share, and its options.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nexusgrid_codec::{BlockId, GroupId, PgId};
use nexusgrid_env::{BootInstant, Env, NodeId};
use nexusgrid_meta::namespace::types::ContentId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::budget::Budget;
use crate::cache::FrameCache;
use crate::care::CareOptions;
use crate::care::checkpoint::{Deletions, Shelf};
use crate::error::GridError;
use crate::keys::KeyRing;
use crate::limits;
use crate::liveness::NodeHint;
use crate::map::MapView;
use crate::meta_port::{MetaClient, MetaOptions};
use crate::metrics::Counters;
use crate::placement::PlacementOptions;
use crate::read::hedge::Hedging;
use crate::session::{SessionOptions, Sessions};
use crate::shard::ShardClient;
use crate::volume::Lines;

/// How the grid behaves on one node.
#[derive(Clone, Debug)]
pub struct GridOptions {
    /// Largest block of plaintext; default 8 MiB, which is also the most.
    pub block_bytes: usize,
    /// Contents up to this length are inline; default 4 KiB.
    pub inline_bytes: usize,
    /// Contents up to this length are packed; default 512 KiB.
    pub packed_bytes: usize,
    /// Byte budget of all bodies; default 96 MiB.
    pub budget_bytes: u64,
    /// How long a request waits for its share of the budget; default 10 s.
    pub budget_wait: Duration,
    /// How long a writer waits for drives held alive once its quorum stands; default 2 s.
    pub wait_alive: Duration,
    /// Likewise for suspects; default 250 ms.
    pub wait_suspect: Duration,
    /// Longest time for one shard call; default 10 s.
    pub shard_deadline: Duration,
    /// A node whose call failed counts as suspect for so long; default 5 s.
    pub distrust: Duration,
    /// Shortest time between two looks for a newer map; default 100 ms.
    pub map_every: Duration,
    /// Pause between rounds of the refill worker; default 1 s.
    pub refill_every: Duration,
    /// Pause between rounds of the root leader's keeper; default 1 s.
    pub keeper_every: Duration,
    /// How placement groups are drawn.
    pub placement: PlacementOptions,
    /// Write sessions.
    pub session: SessionOptions,
    /// Patience with metadata groups.
    pub meta: MetaOptions,
    /// Background care.
    pub care: CareOptions,
}

impl Default for GridOptions {
    fn default() -> GridOptions {
        GridOptions {
            block_bytes: limits::BLOCK_BYTES_MAX,
            inline_bytes: limits::INLINE_BYTES_MAX,
            packed_bytes: limits::PACKED_BYTES_MAX,
            budget_bytes: limits::BUDGET_BYTES,
            budget_wait: limits::BUDGET_WAIT,
            wait_alive: limits::WAIT_ALIVE,
            wait_suspect: limits::WAIT_SUSPECT,
            shard_deadline: limits::SHARD_RPC_DEADLINE,
            distrust: Duration::from_secs(5),
            map_every: Duration::from_millis(100),
            refill_every: Duration::from_secs(1),
            keeper_every: Duration::from_secs(1),
            placement: PlacementOptions::default(),
            session: SessionOptions::default(),
            meta: MetaOptions::default(),
            care: CareOptions::default(),
        }
    }
}

/// A shard that a reader found missing or bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BadShard {
    pub(crate) pg: PgId,
    pub(crate) block: BlockId,
    pub(crate) slot: u8,
}

/// Shared by all parts of one process.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) node: NodeId,
    pub(crate) options: GridOptions,
    pub(crate) meta: MetaClient,
    pub(crate) map: MapView,
    pub(crate) keys: KeyRing,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) budget: Budget,
    pub(crate) shards: ShardClient,
    pub(crate) hedging: Hedging,
    pub(crate) counters: Counters,
    /// Blocks sealed and coded at once: each takes a second buffer while it is.
    pub(crate) coding: Semaphore,
    /// To the refill worker.
    pub(crate) bad_shards: mpsc::Sender<BadShard>,
    /// Sizes of the parts of contents that uploads made.
    pub(crate) part_sizes: Mutex<BTreeMap<(GroupId, ContentId), Vec<u64>>>,
    /// Whether anything may be deleted from drives.
    pub(crate) deletions: Arc<Deletions>,
    /// Records of checkpoints, if this node keeps any.
    pub(crate) shelf: OnceLock<Arc<Shelf>>,
    /// Frames that were read before, if this node keeps any.
    pub(crate) cache: OnceLock<Arc<dyn FrameCache>>,
    /// Who waits for locks of mounts.
    pub(crate) lock_lines: Lines,
    distrusted: Mutex<BTreeMap<NodeId, BootInstant>>,
}

impl Core {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        env: Env,
        node: NodeId,
        options: GridOptions,
        meta: MetaClient,
        map: MapView,
        keys: KeyRing,
        shards: ShardClient,
        bad_shards: mpsc::Sender<BadShard>,
    ) -> Core {
        let sessions = Sessions::new(env.clone(), meta.clone(), node, options.session);
        let budget = Budget::new(options.budget_bytes, options.budget_wait);
        Core {
            env,
            node,
            options,
            meta,
            map,
            keys,
            sessions,
            budget,
            shards,
            hedging: Hedging::new(),
            counters: Counters::default(),
            coding: Semaphore::new(limits::BLOCKS_CODED_AT_ONCE),
            bad_shards,
            part_sizes: Mutex::default(),
            deletions: Arc::default(),
            shelf: OnceLock::new(),
            cache: OnceLock::new(),
            lock_lines: Lines::default(),
            distrusted: Mutex::default(),
        }
    }

    /// Every checkpoint of a group that could be restored by this node's records knows what was
    /// committed up to this; where no checkpoints are taken, all.
    pub(crate) fn checkpointed(&self, group: GroupId) -> u64 {
        let Some(shelf) = self.shelf.get() else { return u64::MAX };
        let kept = shelf.heads().into_iter().filter(|head| head.group == group);
        kept.map(|head| head.index).min().unwrap_or(0)
    }

    /// Every group's newest checkpoint was taken after this, ms since 1970, as far as this node's records
    /// say: where checkpoints lay before that is of no use to anyone. Where none are taken, now.
    pub(crate) fn all_checkpointed_ms(&self) -> u64 {
        let Some(shelf) = self.shelf.get() else { return u64::MAX };
        let map = self.map.current();
        let taken = |group| shelf.newest(group).map_or(0, |head| head.taken_ms);
        map.groups.keys().map(|group| taken(*group)).min().unwrap_or(0)
    }

    /// Notes that a call to `node` failed: it counts as suspect for a while.
    pub(crate) fn distrust(&self, node: NodeId) {
        if node != self.node {
            let until = self.env.clock.now().plus(self.options.distrust);
            self.distrusted.lock().insert(node, until);
        }
    }

    /// Notes that a call to `node` succeeded.
    pub(crate) fn trust(&self, node: NodeId) {
        self.distrusted.lock().remove(&node);
    }

    /// Membership's hint, made worse by what this process saw itself.
    pub(crate) fn hint(&self, node: NodeId, hint: NodeHint) -> NodeHint {
        let now = self.env.clock.now();
        let distrusted = self.distrusted.lock().get(&node).is_some_and(|until| now < *until);
        if distrusted { hint.max(NodeHint::Suspect) } else { hint }
    }

    /// Tells the refill worker about a shard; drops the report if it has plenty to do.
    pub(crate) fn report(&self, bad: BadShard) {
        let _ = self.bad_shards.try_send(bad);
    }
}

/// Turns a codec's refusal of our own numbers into an error.
pub(crate) fn internal(error: impl std::fmt::Display) -> GridError {
    GridError::Internal(error.to_string())
}
