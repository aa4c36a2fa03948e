//! The simulated world: many machines in one thread, where the same seed gives the same run.
//!
//! ```text
//!   World ── virtual time, trace, network          (world, trace, net)
//!     └─ machine n ── Env of its present life
//!          ├─ SimClock    boot time with jumps and drift, wall clock with skew
//!          ├─ SimDisk     loses, keeps or tears what was not synced when power fails
//!          ├─ SimEngine   ordered maps with a log on that disk
//!          ├─ SeededRng
//!          └─ Exec        inline; frozen while the machine is suspended
//! ```
//!
//! A machine that crashes loses its *life*: every later operation through an [`crate::Env`] of an
//! older life fails, and its tasks end. Its disk survives. [`SimDisk`] and [`SimEngine`] also work
//! without a world, for model tests of what stands on them.

mod clock;
mod content;
mod disk;
mod fault;
mod kv;
mod kv_log;
mod names;
mod net;
mod rng;
mod trace;
mod world;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use fault::{DiskFault, DiskOp, Effect};
pub use kv::SimEngine;
pub use net::{NetOptions, SimNet};
pub use rng::SeededRng;
pub use trace::{Event, Trace};
pub use world::World;
