//! Raft groups and what they decide: topology (the root group) and namespaces (metadata groups).
//!
//! [`machine`] is the seam: a pure state machine over a key-value store. Above it stand the pure
//! machines; below it [`raft`] (log, state store, network) and [`host`] (groups of one node).

pub mod export;
pub mod host;
pub mod limits;
pub mod machine;
pub mod namespace;
pub mod raft;
pub mod root;
pub mod rows;
pub mod tail;

pub use host::{
    Consistency, GroupDirectory, HostOptions, Machines, MetaError, MetaHost, ROOT_GROUP,
};
pub use machine::{Applied, ApplyContext, StateMachine};
