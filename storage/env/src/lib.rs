//! The seams to the outside world: clock, disk, key-value store, transport, randomness, execution.
//!
//! Every other crate reaches time, files, sockets and random bytes only through the traits here
//! (clippy's `disallowed_methods` enforces it), so that one process can run many agents under a
//! simulated world in which the same seed gives the same run, and so that every fault a machine
//! can show (lost unsynced writes, a torn sector, EIO, a full disk, a partition, a suspend) is an
//! ordinary input of a test.
//!
//! [`Env`] carries one of each. [`real`] is the product, [`sim`] the simulation, [`obfuscate`] a
//! disk that stores every byte shifted, so that code which bypasses the seam fails its tests.

pub mod clock;
pub mod disk;
pub mod exec;
pub mod invariants;
pub mod kv;
pub mod limits;
pub mod obfuscate;
mod patient;
pub mod real;
pub mod rng;
pub mod rules;
pub mod sim;
pub mod transport;

use std::sync::Arc;

pub use clock::{BootInstant, Clock, UnixMillis};
pub use disk::{Disk, DiskFile, DiskLock, OpenMode, Space};
pub use exec::Exec;
pub use invariants::{Checks, Invariant, Invariants, Tally};
pub use kv::{Batch, Durability, Kv, KvEngine, KvError, KvOptions, KvRead, KvVerify, ScanRange};
pub use rng::Rng;
pub use rules::{Rule, Rules};
pub use transport::{
    Datagram, MethodId, NodeId, Peer, Roles, Rpc, RpcError, RpcRequest, RpcResponse, RpcService,
};

/// One agent's view of the outside: cheap to clone, shared by all its parts.
#[derive(Clone)]
pub struct Env {
    /// Time that counts suspend, and wall time for what users see.
    pub clock: Arc<dyn Clock>,
    /// Files and directories.
    pub disk: Arc<dyn Disk>,
    /// Opens ordered key-value stores.
    pub kv: Arc<dyn KvEngine>,
    /// Random bytes.
    pub rng: Arc<dyn Rng>,
    /// Runs tasks and blocking work; ends them all at shutdown.
    pub exec: Exec,
    /// What must always hold, and how often it was looked at.
    pub invariants: Invariants,
    /// The rules kept: all of them, but in a simulation of what their lack would do.
    pub rules: Rules,
}
