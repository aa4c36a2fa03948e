//! Finds the service for a method and refuses what its specification does not allow.
//!
//! State: the register of methods, grown at start-up. The router is itself an
//! [`RpcService`], so that the simulation's network enforces the same roles and bounds as the
//! product's server.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use nexusgrid_env::{MethodId, Peer, RpcError, RpcRequest, RpcResponse, RpcService};
use parking_lot::RwLock;

use crate::method::MethodSpec;

#[derive(Clone)]
struct Entry {
    spec: MethodSpec,
    service: Option<Arc<dyn RpcService>>,
}

/// The methods a process knows, and the services it answers them with.
#[derive(Default)]
pub struct RpcRouter {
    methods: RwLock<BTreeMap<MethodId, Entry>>,
}

impl RpcRouter {
    /// An empty router.
    pub fn new() -> Arc<RpcRouter> {
        Arc::new(RpcRouter::default())
    }

    /// Makes methods known to callers (their channel and bounds) before they are served: callers
    /// get `Busy`, for the node is still starting.
    pub fn declare(&self, specs: &[MethodSpec]) {
        let mut methods = self.methods.write();
        for spec in specs {
            methods.entry(spec.id).or_insert(Entry { spec: *spec, service: None });
        }
    }

    /// Serves methods with `service`, replacing what served them before. May be called while the
    /// server runs (services often need the client, which needs the router).
    pub fn register(&self, specs: &[MethodSpec], service: Arc<dyn RpcService>) {
        let mut methods = self.methods.write();
        for spec in specs {
            methods.insert(spec.id, Entry { spec: *spec, service: Some(Arc::clone(&service)) });
        }
    }

    /// Stops serving methods; callers then get `Busy`.
    pub fn unregister(&self, specs: &[MethodSpec]) {
        let mut methods = self.methods.write();
        for spec in specs {
            methods.insert(spec.id, Entry { spec: *spec, service: None });
        }
    }

    /// What is known of a method.
    pub fn spec(&self, method: MethodId) -> Option<MethodSpec> {
        self.methods.read().get(&method).map(|entry| entry.spec)
    }

    /// The specification, if `peer` may call `method` with a head and body of these lengths.
    pub(crate) fn admit(
        &self,
        peer: &Peer,
        method: MethodId,
        head_bytes: usize,
        body_bytes: usize,
    ) -> Result<MethodSpec, RpcError> {
        let spec = self
            .spec(method)
            .ok_or_else(|| RpcError::Refused(format!("unknown method {:#06x}", method.0)))?;
        if !spec.callers.allow(peer) {
            return Err(RpcError::Refused(format!("{} may not call {}", peer.node, spec.name)));
        }
        if head_bytes > spec.request.head || body_bytes > spec.request.body {
            return Err(RpcError::Refused(format!(
                "{}: request of {head_bytes} + {body_bytes} bytes exceeds {} + {}",
                spec.name, spec.request.head, spec.request.body
            )));
        }
        Ok(spec)
    }

    fn service(&self, spec: &MethodSpec) -> Result<Arc<dyn RpcService>, RpcError> {
        let service = self.methods.read().get(&spec.id).and_then(|entry| entry.service.clone());
        service.ok_or_else(|| RpcError::Busy(format!("{} is not served now", spec.name)))
    }
}

#[async_trait]
impl RpcService for RpcRouter {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let spec = self.admit(&from, request.method, request.head.len(), request.body.len())?;
        let service = self.service(&spec)?;
        let reply = service.serve(from, request).await?;
        if reply.head.len() > spec.reply.head || reply.body.len() > spec.reply.body {
            return Err(RpcError::Failed(format!(
                "{}: reply of {} + {} bytes exceeds {} + {}",
                spec.name,
                reply.head.len(),
                reply.body.len(),
                spec.reply.head,
                spec.reply.body
            )));
        }
        Ok(reply)
    }
}

impl std::fmt::Debug for RpcRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.methods.read().values().map(|entry| entry.spec.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use nexusgrid_env::{NodeId, Roles};

    use super::*;
    use crate::method::Callers;

    /// A node that listens already and has not opened its groups yet must not be taken for one
    /// that will never serve them: its callers ask again, or elsewhere.
    #[tokio::test]
    async fn a_method_that_is_not_served_yet_is_busy_and_an_unknown_one_refused() {
        let router = RpcRouter::new();
        router.declare(&[MethodSpec::new(0x0201, "early", Callers::Nodes)]);
        let peer = Peer { node: NodeId(1), roles: Roles::ALL };
        let ask = |method| RpcRequest {
            method: MethodId(method),
            head: Bytes::new(),
            body: Bytes::new(),
        };
        assert!(matches!(router.serve(peer, ask(0x0201)).await, Err(RpcError::Busy(_))));
        assert!(matches!(router.serve(peer, ask(0x0202)).await, Err(RpcError::Refused(_))));
    }
}
