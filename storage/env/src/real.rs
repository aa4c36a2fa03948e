//! The product's side of the seams: this machine's clock, files, sockets, randomness and RocksDB.
//!
//! The only module that may reach them directly.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the module through which everything else reaches the operating system"
)]

pub mod cpu;
pub mod memory;
pub mod net;

mod clock;
pub mod crash_point;
mod direct;
mod disk;
mod kv;
mod kv_verify;
mod rng;

use std::sync::Arc;

pub use clock::RealClock;
pub use disk::RealDisk;
pub use kv::RocksEngine;
pub use rng::OsRng;

use crate::{Env, Exec, Invariants, Rules};

impl Env {
    /// The product's environment: this machine. Blocking work runs on tokio's threads.
    pub fn real() -> Env {
        Env {
            clock: Arc::new(RealClock::start()),
            disk: crash_point::wrap(Arc::new(RealDisk)),
            kv: Arc::new(RocksEngine::new()),
            rng: Arc::new(OsRng),
            exec: Exec::threads(),
            invariants: Invariants::default(),
            rules: Rules::default(),
        }
    }
}
