//! A disk that does to real processes what disks do at power loss.
//!
//! A pass-through FUSE file system over a *backing directory* that holds exactly what is durable:
//!
//! ```text
//!   process ──► kernel ──► mount ──► volume ──► tree      names: seen, durable, changes between
//!                                      │   └──► contents  pages not synced, over durable objects
//!   test ──► client ──► stdin ──► faults: cuts, rules, capacity
//! ```
//!
//! What POSIX does not promise is not kept: bytes, lengths and holes are durable when the file is
//! synced, names when their directory is. A cut drops the rest, or, with a seed, keeps what chance
//! lets survive: some pages, some torn at sectors, part of a growth, the first so many changes of
//! names. A mount shows what a cut would have left, because a cut is to forget all and load anew.
//!
//! A failed sync is like the kernel's: the pages stay readable and are never tried again.
//!
//! The program `faultdisk` serves one mount, is told [`faults::Command`]s on its standard input,
//! and unmounts at its end, so that a test that dies leaves nothing behind.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "works on real files and times; its users are tests, which fail by panicking"
)]

pub mod client;
pub mod contents;
pub mod faults;
pub mod mount;
pub mod tree;
pub mod volume;

pub use client::FaultDisk;
pub use faults::{Command, CutAt, Operation};
