//! What can go wrong, by what the caller does about it.

/// Errors of the codec; each variant asks for a different action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The numbers describe no valid block: a bug of the caller, or a corrupt row. Do not retry.
    #[error("invalid geometry: {0}")]
    Geometry(&'static str),
    /// Bytes from disk or wire that this format does not have. Refuse them, report the sender.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A format version this build does not know. Upgrade this node.
    #[error("unknown version {version} of {format}")]
    UnknownVersion {
        /// What was being decoded.
        format: &'static str,
        /// The version found.
        version: u8,
    },
    /// A frame failed authentication: not the bytes that were sealed under this key, block and
    /// place. Rebuild it from other shards and report it to repair.
    #[error("frame {frame} failed authentication")]
    FrameCorrupt {
        /// Index of the frame within its region.
        frame: u32,
    },
    /// A shard's bytes do not match its checksums or digest. Rebuild it from the others.
    #[error("shard {shard} does not match its digest")]
    ShardCorrupt {
        /// Index of the shard within its block.
        shard: u8,
    },
    /// Too few shards to rebuild from. Fetch more, or report the block as unreadable.
    #[error("{have} shards given, {need} needed")]
    NotEnoughShards {
        /// Usable shards that were given.
        have: u8,
        /// Shards needed.
        need: u8,
    },
    /// A wrapped key does not open under this key and context: a wrong or lost key, or a row
    /// moved to another place. An administrator must provide the right key.
    #[error("the key does not open here: wrong key version, lost key or misplaced row")]
    KeyRefused,
}

/// The codec's result.
pub type Result<T> = std::result::Result<T, CodecError>;
