//! The grid: objects in, objects out. Moves data; decides nothing that must survive (`meta` does).
//!
//! [`Grid`] is the façade that the gateway uses. Below it, `node` assembles one node's parts.

pub mod api;
pub mod error;
mod facade;

pub use api::*;
pub use error::GridError;
pub use facade::{Grid, ObjectReader};
