//! Who is in the cluster, and how its nodes speak to each other.
//!
//! - [`ca`], [`token`], [`mod@join`], [`renew`], [`identity`]: the cluster's certificate authority,
//!   one-time join tokens, admission, and what a node keeps of it.
//! - [`rpc`]: calls over mutual TLS, with roles, bounds and deadlines per method ([`method`]), and
//!   the shard channel beside it.
//! - [`swim`]: gossip about who seems alive. It only hints; the root group decides.
//!
//! The crate knows nothing of Raft: what it must ask of the root group it asks through the traits
//! of [`directory`].

pub mod ca;
pub mod directory;
pub mod error;
pub mod identity;
pub mod join;
pub mod limits;
mod message;
pub mod method;
pub mod renew;
pub mod rpc;
pub mod swim;
pub mod tls;
pub mod token;

pub use directory::{
    Admission, AdmissionError, Admitted, DriveFacts, JoinAttempt, NodeClass, NodeDirectory,
    NodeFacts, NodeRecord,
};
pub use error::ClusterError;
pub use identity::NodeIdentity;
pub use join::{AdmissionService, JoinOptions, Joined, join};
pub use method::{Callers, Channel, MethodSpec};
pub use renew::{RenewOptions, Renewal};
pub use rpc::{RpcRouter, ShardTransport, Transport, TransportOptions};
pub use swim::{Member, MemberState, Membership, Swim, SwimOptions};
pub use tls::IdentityCell;
pub use token::{JoinToken, TokenRecord};
