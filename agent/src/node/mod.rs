//! One node: how it begins (`init`, `join`), how it runs (`serve`), and what it tells its administrator.

mod accounts;
mod administration;
mod admission;
pub mod cache;
mod directory;
mod drives;
mod events;
pub mod files;
mod found;
mod keys;
mod leave;
mod metadata;
mod metrics;
mod offline;
mod parts;
mod report;
mod root;
mod serve;
mod setup;
mod snapshots;

pub use found::init;
pub use offline::fsck as fsck_offline;
pub use serve::serve;
pub use setup::join;
