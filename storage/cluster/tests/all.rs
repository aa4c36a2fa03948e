//! Tests of the crate as a whole: real sockets on this machine for admission and calls, the
//! simulated world for gossip.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test binary: helpers outside of test functions may fail it, and hostile peers are \
              played with plain sockets"
)]

#[path = "all/calls.rs"]
mod calls;
#[path = "all/gossip.rs"]
mod gossip;
#[path = "all/nodes.rs"]
mod nodes;
#[path = "all/shards.rs"]
mod shards;
#[path = "all/support.rs"]
mod support;
#[path = "all/tokens.rs"]
mod tokens;
