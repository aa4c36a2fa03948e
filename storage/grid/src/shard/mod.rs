//! The shard service: what a node's drives do for other nodes, and the client of it.
//!
//! Methods 0x0301 to 0x03ff. Bodies are ciphertext; whoever reads them proves them by their tags.

pub mod client;
pub mod service;
pub mod wire;

pub use client::ShardClient;
pub use service::ShardService;
