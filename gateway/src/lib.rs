//! S3 and the admin interface, over HTTP.
//!
//! A request passes, in this order: [`server`] (connections and their limits), [`service`]
//! (request id, slot, bounds of the body), s3s (signature, routing, XML), [`auth`] (who it is,
//! whether they may; the one place that makes an [`auth::AuthenticatedRequest`]), `s3` (the
//! operation), [`store`] (the grid). [`operations`] is the table of what there is; what is not in
//! it is answered `NotImplemented`. [`error`] is the table of what clients are told.
//!
//! The gateway holds no state that must survive: everything acknowledged is the grid's.

#![forbid(unsafe_code)]

mod access_log;
pub mod admin;
pub mod auth;
pub mod checksum;
pub mod context;
mod cors;
pub mod digest;
pub mod error;
pub mod events;
pub mod identity;
pub mod kms;
pub mod layer;
pub mod limits;
pub mod metrics;
pub mod mounts;
pub mod operations;
pub mod outbound;
mod pace;
mod pinned;
pub mod quota;
pub mod relay;
pub mod rules;
pub mod server;
pub mod service;
mod signature_v2;
pub mod store;

mod accept;
mod form;
mod s3;
mod tenants;
mod turns;
mod website;
mod wire;

pub use admin::{Admin, Readiness, serve_admin};
pub use auth::{AccessKey, KeySource, KeysUnavailable, SharedKeys};
pub use error::GatewayError;
pub use metrics::{Metrics, SharedRegistry};
pub use relay::{GatewayAddresses, relay};
pub use server::{ServerOptions, serve};
pub use service::{Gateway, GatewayOptions, OidcOptions};
pub use store::{ObjectStore, SharedStore};

#[cfg(test)]
mod tests;
