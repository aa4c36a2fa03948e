//! Raft groups and what they decide: topology (the root group) and namespaces (metadata groups).
//!
//! [`machine`] is the seam: a pure state machine over a key-value store. Above it stand the pure
//! machines; below it [`raft`] (log, state store, network) and [`host`] (groups of one node).

pub mod limits;
pub mod machine;

pub use machine::{Applied, ApplyContext, StateMachine};
