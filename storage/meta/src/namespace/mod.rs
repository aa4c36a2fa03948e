//! A metadata group: buckets as trees, contents, sessions, uploads and what is left to do.
//!
//! [`Namespace`] is the state machine. It decides and moves no data: it says where bytes are, who
//! may still write, and what is to be freed or refilled. It keeps I2 (with the drives), I4, I7, I8,
//! I10 and I13; [`audit`] checks them over a whole store.

mod append;
pub mod audit;
mod codes;
mod contents;
mod ends;
pub mod lifecycle;
pub mod limits;
mod list;
mod machine;
mod map;
mod objects;
mod outbox;
pub mod posix;
mod query;
mod quota;
pub mod restore;
mod rewrite;
pub mod rows;
mod sessions;
pub mod snapshots;
pub mod speculate;
mod staged;
#[cfg(test)]
mod tests;
mod tree;
pub mod types;
mod uploads;
mod version_list;
mod versions;

pub use machine::Namespace;
