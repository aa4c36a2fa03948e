//! The root group: who is in the cluster, what holds what, and the keys to it all.
//!
//! [`Root`] is the state machine; [`topology::Topology`] the map that every node keeps of it. It
//! keeps I5 (epochs only grow), I11 and I15. Secrets are stored sealed, but for the gossip key,
//! which every admitted node is given.

mod buckets;
pub mod limits;
mod machine;
mod nodes;
mod pgs;
mod query;
pub mod records;
pub mod restore;
pub mod rows;
#[cfg(test)]
mod tests;
pub mod topology;
mod trust;
pub mod types;

pub use buckets::{SYSTEM_BUCKET, is_bucket_name};
pub use machine::Root;
