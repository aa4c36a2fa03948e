//! Hands the root group's map to every node: a versioned lump of bytes, opaque here.
//!
//! ```text
//! root voters: MapSource ──map_get(after version), held open── MapCache: every node
//! ```
//!
//! A cache never goes back to an older version. It is a hint of how the cluster looks, as old as
//! the network makes it: whoever needs certainty reads through the root group.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_env::{Env, NodeId, Peer, Rpc, RpcError, RpcRequest, RpcResponse, RpcService};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::limits;
use crate::message;
use crate::method;

/// One version of the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionedMap {
    /// Grows with every change; zero is no map.
    pub version: u64,
    /// The map, encoded by the root group.
    pub bytes: Bytes,
}

#[derive(Serialize, Deserialize)]
struct MapRequest {
    after: u64,
    wait_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct MapReply {
    version: u64,
}

/// Serves the map. Register it for [`method::MAP_GET`] on root voters.
pub struct MapSource {
    current: watch::Sender<VersionedMap>,
}

impl MapSource {
    /// A source with a first map (or [`VersionedMap::default`]).
    pub fn new(first: VersionedMap) -> Arc<MapSource> {
        Arc::new(MapSource { current: watch::Sender::new(first) })
    }

    /// Offers a newer map; one that is not newer is ignored.
    pub fn publish(&self, map: VersionedMap) {
        self.current.send_if_modified(|current| {
            let newer = map.version > current.version;
            if newer {
                *current = map;
            }
            newer
        });
    }

    /// The map as it is now, and its changes.
    pub fn subscribe(&self) -> watch::Receiver<VersionedMap> {
        self.current.subscribe()
    }
}

#[async_trait]
impl RpcService for MapSource {
    async fn serve(&self, _from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let request: MapRequest = message::decode(&request.head)?;
        let wait = Duration::from_millis(request.wait_ms).min(limits::MAP_POLL_TIMEOUT_MAX);
        let mut changes = self.current.subscribe();
        let newer = timeout(wait, changes.wait_for(|map| map.version > request.after)).await;
        let map = match newer {
            Ok(Ok(map)) => map.clone(),
            // Nothing new: say which version that is, without the bytes.
            Ok(Err(_)) | Err(_) => {
                let version = self.current.borrow().version;
                VersionedMap { version: version.min(request.after), bytes: Bytes::new() }
            }
        };
        let head = message::encode(&MapReply { version: map.version })?;
        Ok(RpcResponse { head, body: map.bytes })
    }
}

/// Settings of a [`MapCache`].
#[derive(Clone, Debug)]
pub struct MapOptions {
    /// How long a source holds a request open (default 20 s, at most 30 s).
    pub poll: Duration,
    /// Added to `poll` for the answer to travel (default 5 s).
    pub grace: Duration,
    /// Pause after a source failed, before the next is asked (default 200 ms).
    pub retry_after: Duration,
}

impl Default for MapOptions {
    fn default() -> MapOptions {
        MapOptions {
            poll: Duration::from_secs(20),
            grace: Duration::from_secs(5),
            retry_after: Duration::from_millis(200),
        }
    }
}

/// Names the nodes that serve the map, best first; asked again for every poll.
pub type MapSources = Arc<dyn Fn() -> Vec<NodeId> + Send + Sync>;

/// This node's copy of the map, kept up to date.
pub struct MapCache {
    env: Env,
    rpc: Arc<dyn Rpc>,
    sources: MapSources,
    options: MapOptions,
    current: watch::Sender<VersionedMap>,
}

impl MapCache {
    /// Begins with `first` (what was kept on disk or came with the bootstrap) and follows the
    /// sources until the agent stops.
    pub fn start(
        env: Env,
        rpc: Arc<dyn Rpc>,
        sources: MapSources,
        first: VersionedMap,
        options: MapOptions,
    ) -> Arc<MapCache> {
        let current = watch::Sender::new(first);
        let exec = env.exec.clone();
        let cache = Arc::new(MapCache { env, rpc, sources, options, current });
        let follower = Arc::clone(&cache);
        exec.spawn(async move { follower.follow().await });
        cache
    }

    /// The newest map this node has.
    pub fn current(&self) -> VersionedMap {
        self.current.borrow().clone()
    }

    /// Follows the changes.
    pub fn subscribe(&self) -> watch::Receiver<VersionedMap> {
        self.current.subscribe()
    }

    /// Takes a map that was learned another way, if it is newer.
    pub fn offer(&self, map: VersionedMap) {
        self.current.send_if_modified(|current| {
            let newer = map.version > current.version;
            if newer {
                *current = map;
            }
            newer
        });
    }

    async fn follow(&self) {
        // Nodes begin at different sources, so that these share the load.
        let mut turn = self.env.rng.u64();
        loop {
            let sources = (self.sources)();
            let count = u64::try_from(sources.len()).unwrap_or(u64::MAX).max(1);
            let chosen = usize::try_from(turn % count).ok().and_then(|at| sources.get(at));
            let polled = match chosen {
                Some(source) => self.poll(*source).await,
                None => Err(RpcError::Busy("no source of the map is known".into())),
            };
            if let Err(error) = polled {
                tracing::debug!(%error, "polling the map failed");
                turn = turn.wrapping_add(1);
                self.env.clock.sleep(self.options.retry_after).await;
            }
        }
    }

    async fn poll(&self, source: NodeId) -> Result<(), RpcError> {
        let after = self.current.borrow().version;
        let wait_ms = u64::try_from(self.options.poll.as_millis()).unwrap_or(u64::MAX);
        let request = RpcRequest {
            method: method::MAP_GET.id,
            head: message::encode(&MapRequest { after, wait_ms })?,
            body: Bytes::new(),
        };
        let deadline = self.options.poll + self.options.grace;
        let reply = self.rpc.call(source, request, deadline).await?;
        let MapReply { version } = message::decode(&reply.head)?;
        if version > after {
            self.offer(VersionedMap { version, bytes: reply.body });
        }
        Ok(())
    }
}
