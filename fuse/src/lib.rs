//! The mount: everything between the kernel and a [`Volume`].
//!
//! ```text
//!  kernel ⇄ /dev/fuse ⇄ fuser's threads ⇄ ops ⇄ calls ⇄ trait Volume ⇄ whoever keeps the files
//!                │                          │
//!           supervisor ── memory ──────── handles
//! ```
//!
//! - [`volume`]: the trait, its types and what both sides may rely on.
//! - `ops`, `adapter`, `translate`: FUSE's words for it; `calls`: bounds in number and time, signals;
//!   `identity`, `squash`: whose numbers are whose.
//! - `readers`: fuser's threads, and when they begin to read.
//! - `notices`: what the volume tells the kernel's caches.
//! - [`dirty`]: what programs have written and the volume does not have yet; [`owners`]: who may have locks.
//! - [`Supervisor`] and [`Inheritance`]: a mount that outlives the daemons which serve it, with
//!   `handles`, which they pass on; [`Mount`]: a mount that ends with its process.
//!
//! State: the table of open files, and calls in progress. Nothing here is on disk.
//! This crate is an edge to the kernel: it reads `/proc`, `/sys` and the device itself.

mod adapter;
mod calls;
mod descriptors;
mod device;
pub mod dirty;
mod error;
mod handles;
mod handover;
mod identity;
pub mod limits;
mod notices;
mod ops;
mod options;
pub mod owners;
mod readers;
mod serve;
mod squash;
mod supervisor;
mod translate;
pub mod volume;

pub use device::unmount_at as unmount;
pub use error::{MountError, Outcome, VolumeError};
pub use identity::{IdRange, Identity, NOBODY};
pub use notices::{Notice, Notices};
pub use options::MountOptions;
pub use serve::{Inheritance, Mount};
pub use supervisor::{Stopper, Supervision, Supervisor};
pub use volume::Volume;
