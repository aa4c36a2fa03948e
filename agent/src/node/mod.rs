//! One node: how it begins (`init`, `join`), how it runs (`serve`), and what it tells its administrator.

mod administration;
mod admission;
mod directory;
mod drives;
mod files;
mod found;
mod keys;
mod leave;
mod metrics;
mod parts;
mod report;
mod root;
mod serve;
mod setup;

pub use found::init;
pub use serve::serve;
pub use setup::join;
