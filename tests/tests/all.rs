//! Whole-system tests, in one binary: it links once.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "these tests drive real processes, files and sockets, and fail by panicking"
)]

mod alone;
mod bad_input;
mod bitrot;
mod clients;
mod commands;
mod crashes;
mod drive;
mod faults;
mod full;
mod growth;
mod histories;
mod identities;
mod layering;
mod limits;
mod near;
mod power;
mod repair;
mod restore;
mod secrecy;
mod simulation;
mod snapshots;
mod told;
