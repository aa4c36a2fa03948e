//! Renewal: a node asks for a new certificate two thirds into the life of the one it has.
//!
//! Each renewal brings a new key. The key is stored *before* it is asked for: if the answer is
//! lost, or the process dies, the same key asks again and gets the same generation, while a clone
//! of the disk, with a key of its own, is told from it and refused (see
//! [`crate::directory::next_generation`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_env::{Env, Rpc, RpcError, RpcRequest, UnixMillis};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ca;
use crate::directory::NodeDirectory;
use crate::error::ClusterError;
use crate::identity::{self, PendingKey};
use crate::message;
use crate::method;
use crate::tls::IdentityCell;

#[derive(Serialize, Deserialize)]
pub(crate) struct RenewRequest {
    /// Generation of the certificate the request is made with; the server compares.
    pub(crate) generation: u32,
    pub(crate) csr: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct RenewReply {
    pub(crate) certificate: Vec<u8>,
}

/// The generation that a renewal request claims to be made with.
pub(crate) fn claimed_generation(head: &[u8]) -> Option<u32> {
    message::decode::<RenewRequest>(head).ok().map(|request| request.generation)
}

/// Settings of the renewal task.
#[derive(Clone, Debug)]
pub struct RenewOptions {
    /// How often to look whether it is time (default 1 h).
    pub check_every: Duration,
    /// Pause after a failed attempt (default 1 min).
    pub retry_after: Duration,
    /// Time for one call (default 15 s).
    pub call_timeout: Duration,
}

impl Default for RenewOptions {
    fn default() -> RenewOptions {
        RenewOptions {
            check_every: Duration::from_secs(3600),
            retry_after: Duration::from_secs(60),
            call_timeout: Duration::from_secs(15),
        }
    }
}

/// Renews this node's certificate when its time has come, until the agent stops.
pub struct Renewal {
    /// The seams.
    pub env: Env,
    /// Where the identity is stored.
    pub dir: PathBuf,
    /// The identity to renew.
    pub identity: Arc<IdentityCell>,
    /// Reaches the signers.
    pub rpc: Arc<dyn Rpc>,
    /// Knows the signers.
    pub directory: Arc<dyn NodeDirectory>,
    /// Settings.
    pub options: RenewOptions,
}

impl Renewal {
    /// Runs until the agent stops.
    pub fn start(self) {
        let exec = self.env.exec.clone();
        exec.spawn(async move {
            loop {
                let pause = if self.is_due(self.env.clock.wall()) {
                    match self.renew_now().await {
                        Ok(()) => self.options.check_every,
                        Err(error) => {
                            tracing::warn!(%error, "renewing the node's certificate failed");
                            self.options.retry_after
                        }
                    }
                } else {
                    self.options.check_every
                };
                self.env.clock.sleep(pause).await;
            }
        });
    }

    /// Whether the certificate should be renewed at `now`.
    pub fn is_due(&self, now: UnixMillis) -> bool {
        now >= self.identity.certificate().renew_at()
    }

    /// Renews now: asks the signers in turn, stores the new identity, then uses it.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] if a signer says no for good; [`ClusterError::Rpc`] or
    /// [`ClusterError::Unreachable`] if none could be asked.
    pub async fn renew_now(&self) -> Result<(), ClusterError> {
        let current = self.identity.identity();
        let generation = current.parsed()?.generation;
        let pending = self.pending_key(generation).await?;
        let request = message::encode(&RenewRequest { generation, csr: pending.csr.clone() })?;
        let mut last = ClusterError::Unreachable("no node that can sign is known".into());
        for (signer, _) in self.directory.signers() {
            let request =
                RpcRequest { method: method::RENEW.id, head: request.clone(), body: Bytes::new() };
            match self.rpc.call(signer, request, self.options.call_timeout).await {
                Ok(reply) => {
                    let reply: RenewReply = message::decode(&reply.head)?;
                    let key = Zeroizing::new(pending.key.clone());
                    let renewed = current.renewed(reply.certificate, key)?;
                    // Stored first: a process that dies here comes back with the new one.
                    renewed.store(&self.env, &self.dir).await?;
                    self.identity.replace(renewed)?;
                    identity::drop_pending(&self.env, &self.dir).await?;
                    let generation = self.identity.certificate().generation;
                    tracing::info!(generation, "renewed the node's certificate");
                    return Ok(());
                }
                Err(RpcError::Refused(why)) => return Err(ClusterError::Refused(why)),
                Err(error) => last = ClusterError::Rpc(error),
            }
        }
        Err(last)
    }

    /// The key of an unfinished renewal of this generation, or a new one, stored.
    async fn pending_key(&self, generation: u32) -> Result<PendingKey, ClusterError> {
        if let Some(pending) = identity::load_pending(&self.env, &self.dir).await?
            && pending.generation == generation
        {
            return Ok(pending);
        }
        let name = ca::node_name(self.identity.cluster(), self.identity.node());
        let (key, csr) = ca::make_request(&name)?;
        let pending = PendingKey { generation, key: key.to_vec(), csr };
        identity::store_pending(&self.env, &self.dir, &pending).await?;
        Ok(pending)
    }
}
