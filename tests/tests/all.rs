//! Whole-system tests, in one binary: it links once.
#![allow(
    clippy::disallowed_methods,
    reason = "these tests drive real processes, files and sockets"
)]

mod bad_input;
mod clients;
mod faults;
mod layering;
mod limits;
mod secrecy;
mod simulation;
