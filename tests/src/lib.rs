//! Runs real grids of real `nexusgrid` processes for the whole-system tests, and real clients
//! against them.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "drives real processes, files and sockets for tests, which fail by panicking"
)]

mod client;
mod grid;
pub mod history;
mod mounted;
mod network;
mod ports;
pub mod s3;

pub use client::{Client, run};
pub use grid::{ACCESS_KEY, GridOptions, LocalGrid, SECRET_KEY, program};
pub use mounted::Mounted;
pub use network::Network;
pub use ports::free_address;
