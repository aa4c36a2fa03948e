//! The adapter and the supervisor against a real kernel, with a reference volume.
//! Needs root and `/dev/fuse`, as mounting does.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    reason = "programs on a real mount: real files, real time"
)]

mod reference;

mod mounted;
mod pjdfstest;
mod posix;
mod survive;
