//! The network drive: a bucket mounted on this machine.
//!
//! ```text
//!   programs ─▶ kernel ─▶ daemon: [volume], nexusgrid_fuse ──[line]── drive.sock ──[door]── agent: nexusgrid_grid
//!                            ▲ started anew, whenever it dies, by the supervisor: [command]
//! ```
//!
//! - `command`: `nexusgrid mount` and `umount`; the supervisor's process and the daemon's.
//! - `volume`: what the daemon does itself: open files, bytes that wait to be stored, times and sizes of
//!   files that are being written.
//! - `line`, `door`, `wire`: the daemon's calls to the agent of its machine, which has the keys and the
//!   sessions. A call that the agent's end interrupts is made again, under the same name.
//! - `credentials`, `pass`: the access key that a mount is made with, and what that may do.
//! - `mounted`, `out`: a mount as the agent has it, and what it sends to its daemon.
//! - `borrowed`: answers that the agent lends, so that most questions never leave the daemon.

#[cfg(test)]
mod agent;
mod borrowed;
mod command;
mod credentials;
mod door;
mod limits;
mod line;
mod log;
mod mounted;
mod options;
mod out;
mod pass;
mod turns;
mod volume;
mod wire;

pub use command::{daemon, mount, umount};
pub use credentials::Credentials;
pub use door::Door;
pub use options::MountArgs;

/// Name of the daemons' socket inside a node's directory.
pub const SOCKET_NAME: &str = "drive.sock";
