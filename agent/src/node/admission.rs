//! Lets new nodes in: turns join attempts into commands of the root group.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_cluster::{
    Admission, AdmissionError, Admitted, JoinAttempt, NodeClass as FactsClass, NodeFacts,
    token::TokenRefusal,
};
use nexusgrid_codec::MasterKey;
use nexusgrid_env::{Env, NodeId};
use nexusgrid_meta::root::types::{
    Addresses, NewNode, NodeClass, RootAnswer, RootCommand, RootError, RootOk, RootQuery,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::root::Root;

/// What a new node gets besides its certificate; travels inside TLS only.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Bootstrap {
    /// The map.
    pub topology: Vec<u8>,
    /// The master key, for gateways.
    pub master_key: Option<[u8; 32]>,
}

/// The root group's decisions about who is in, as transport asks for them.
pub struct RootAdmission {
    /// The seams.
    pub env: Env,
    /// The root group.
    pub root: Root,
    /// Handed to nodes that join as gateways; only gateways have it to hand on.
    pub master_key: Option<MasterKey>,
}

/// The name under which the root group keeps a token.
pub fn token_name(id: &[u8; 8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the root group is told of a node.
pub fn describe(facts: &NodeFacts, s3: Option<SocketAddr>, key_hash: [u8; 32]) -> NewNode {
    NewNode {
        name: facts.host.clone(),
        host: facts.host.clone(),
        zone: facts.zone.clone(),
        class: match facts.class {
            FactsClass::Stable => NodeClass::Stable,
            FactsClass::Sleepy => NodeClass::Sleepy,
        },
        roles: facts.roles,
        addresses: Addresses {
            rpc: facts.rpc_addr.to_string(),
            shard: facts.rpc_addr.to_string(),
            gossip: facts.gossip_addr.to_string(),
            s3: s3.map(|address| address.to_string()).unwrap_or_default(),
        },
        key_hash,
    }
}

fn unavailable(error: anyhow::Error) -> AdmissionError {
    AdmissionError::Unavailable(format!("{error:#}"))
}

fn refused(error: RootError) -> AdmissionError {
    match error {
        RootError::TokenRefused => AdmissionError::Token(TokenRefusal::Unknown),
        RootError::TokenExpired => AdmissionError::Token(TokenRefusal::Expired),
        RootError::TokenUsed => AdmissionError::Token(TokenRefusal::Used),
        error => AdmissionError::Refused(error.to_string()),
    }
}

#[async_trait]
impl Admission for RootAdmission {
    async fn redeem(&self, attempt: JoinAttempt) -> Result<Admitted, AdmissionError> {
        let command = RootCommand::RedeemToken {
            token: token_name(&attempt.token_id),
            secret_hash: attempt.secret_hash,
            node: describe(&attempt.facts, None, attempt.key_hash),
            now_ms: self.env.clock.wall().0,
        };
        let node = match self.root.decide(&command).await.map_err(unavailable)? {
            Ok(RootOk::Node(node)) => node,
            Ok(_) => {
                return Err(AdmissionError::Unavailable(
                    "the root group's reply does not fit".into(),
                ));
            }
            Err(error) => return Err(refused(error)),
        };
        let answer =
            self.root.ask(&RootQuery::Topology { unless_version: 0 }).await.map_err(unavailable)?;
        let RootAnswer::Topology(Some(topology)) = answer else {
            return Err(AdmissionError::Unavailable("the map cannot be read".into()));
        };
        let generation = topology.nodes.get(&node).map_or(1, |node| node.cert_generation);
        let master_key = match (&self.master_key, attempt.facts.roles.gateway) {
            (Some(key), true) => Some(*key.expose()),
            (None, true) => {
                return Err(AdmissionError::Refused(
                    "this node holds no keys to hand on: join at a gateway".into(),
                ));
            }
            (_, false) => None,
        };
        let bootstrap = Bootstrap { topology: topology.encode(), master_key };
        let bootstrap = postcard::to_stdvec(&bootstrap)
            .map_err(|error| AdmissionError::Unavailable(error.to_string()))?;
        Ok(Admitted { node, generation, bootstrap: Bytes::from(bootstrap) })
    }

    async fn renew(
        &self,
        node: NodeId,
        current: u32,
        key_hash: [u8; 32],
    ) -> Result<u32, AdmissionError> {
        let command = RootCommand::RenewNodeCert { node, current, key_hash };
        match self.root.decide(&command).await.map_err(unavailable)? {
            Ok(RootOk::CertGeneration(generation)) => Ok(generation),
            Ok(_) => Err(AdmissionError::Unavailable("the root group's reply does not fit".into())),
            Err(error) => Err(refused(error)),
        }
    }
}
