//! The root group's commands, queries and replies.
//!
//! All are encoded by [`crate::rows::codec`] (version byte, postcard): see `encode`/`decode` on
//! each. Times are wall-clock milliseconds since 1970 as the proposer saw them; no safety rests on
//! them.

mod cluster;
mod command;
mod error;
mod node;
mod query;
mod restore;
mod storage;
mod tenant;

pub use cluster::*;
pub use command::*;
pub use error::*;
pub use node::*;
pub use query::*;
pub use restore::*;
pub use storage::*;
pub use tenant::*;
