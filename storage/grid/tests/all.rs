//! The grid on simulated machines: seven nodes in one process, with real drives, real metadata
//! state machines and a simulated world below them.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test binary: helpers outside of test functions may fail it"
)]

mod sim;
