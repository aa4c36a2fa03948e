//! Seal, then erasure-code, and back: pure functions over bytes. To be completed.
pub mod id;
pub use id::{BlockId, ClusterId, DriveId, Epoch, GroupId, PgId, SessionId};
