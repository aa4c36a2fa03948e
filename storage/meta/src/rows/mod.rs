//! What the pure machines share: versioned encoding of rows, commands and replies; keys in byte
//! order; reads of a store through the changes a command has made so far.

pub mod codec;
pub mod key;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod plain;
pub mod tx;
