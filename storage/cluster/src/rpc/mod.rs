//! Calls between nodes: HTTP/1.1 over mutual TLS on one port, and the shard channel beside it.
//!
//! ```text
//!                      one TCP port
//!   first byte 0x16 ───────┴─────── first byte 'N'
//!   TLS 1.3                         shard preface: session id
//!     no certificate: `join` only     session opened by `shard_hello` on a TLS connection,
//!     node certificate ──────────────► claimed once, key = HKDF(TLS exporter, session id)
//!   HTTP/1.1 ── control methods      HTTP/1.1 ── shard methods, each call with a MAC
//! ```
//!
//! For every request the server looks the caller up in the node table: a revoked node is refused
//! at its next call, on whatever connection.
//!
//! What a caller learns: [`RpcError::Unreachable`](nexusgrid_env::RpcError) only if the request was
//! certainly not handed to the service; `Unknown` whenever it may have been. A service that has
//! begun is not cancelled when its caller hangs up.

mod client;
mod net;
mod router;
mod server;
mod transport;
mod wire;

pub use router::RpcRouter;
pub use transport::{ShardTransport, Transport, TransportOptions};

pub(crate) use net::connect_any;
pub(crate) use wire::{DEADLINE, HEAD, Parts, error_of, lengths, path, read};
