//! Bounds of this crate's formats. A decoder refuses what exceeds them before it allocates.

/// Plaintext of one block, in bytes.
pub const BLOCK_LEN_MAX: u32 = 8 << 20;

/// Plaintext of one frame, in bytes.
pub const FRAME_LEN_MAX: u32 = 64 << 10;

/// Frame lengths are multiples of this, in bytes.
pub const FRAME_LEN_STEP: u32 = 512;

/// An AES-GCM tag, in bytes; it follows each frame's ciphertext.
pub const TAG_LEN: u32 = 16;

/// Frames of one block. A full block has exactly this many full frames.
pub const FRAMES_MAX: u32 = BLOCK_LEN_MAX / FRAME_LEN_MAX;

/// A sealed block (plaintext and tags, or a pack of several sealed regions), in bytes.
pub const SEALED_LEN_MAX: u32 = BLOCK_LEN_MAX + FRAMES_MAX * TAG_LEN;

/// Data shards of one block.
pub const DATA_SHARDS_MAX: u8 = 16;

/// Shards of one block, data and parity (or copies).
pub const SHARDS_MAX: u8 = 32;

/// An encoded shard header, in bytes: fixed part, a crc per frame, a digest per sibling.
pub const HEADER_LEN_MAX: usize = 44 + 4 * FRAMES_MAX as usize + 32 * SHARDS_MAX as usize;

/// Bytes of context that a wrapped key is bound to.
pub const WRAP_CONTEXT_LEN_MAX: usize = 256;

/// Bytes of each shard coded in one step: k + m such windows stay in a core's second-level cache.
pub const CODING_WINDOW_LEN: usize = 32 << 10;
