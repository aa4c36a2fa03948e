//! Raft for many groups of one node: what openraft needs from us.
//!
//! [`types`] fixes its types, `log` keeps the entries of all groups, `state` the applied rows of one
//! group, `network` carries its messages in the encodings of [`wire`].

pub(crate) mod encode;
pub(crate) mod guard;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod state;
pub mod types;
pub mod wire;

pub use encode::Malformed;
pub use log::LogOptions;
