//! A metadata group's commands, queries and replies.
//!
//! All are encoded by [`crate::rows::codec`] (version byte, postcard). Keys are bytes: any, 1 to
//! 1 024 of them. Times are wall-clock milliseconds since 1970 as the proposer saw them; no safety
//! rests on them.

mod answer;
mod command;
mod content;
mod error;
mod ids;
mod lifecycle;
mod listed;
mod locks;
mod object;
mod posix;
mod query;
mod records;
mod rewrite;
mod snapshot;
mod version;

pub use answer::*;
pub use command::*;
pub use content::*;
pub use error::*;
pub use ids::*;
pub use lifecycle::*;
pub use listed::*;
pub use locks::*;
pub use object::*;
pub use posix::*;
pub use query::*;
pub use records::*;
pub use rewrite::*;
pub use snapshot::*;
pub use version::*;
