//! Seal, then erasure-code, and back: pure functions over bytes.
//!
//! ```text
//!  plaintext ──seal──▶ frames of ciphertext ‖ tag ──cut──▶ k data shards ──code──▶ m parity shards
//!            content key                  contiguous, whole frames
//! ```
//!
//! Nothing here knows of drives, nodes, time or randomness: random bytes come in as arguments, so
//! that a simulation replays exactly. What a storage node or a repair worker needs (headers,
//! digests, reconstruction) works on ciphertext alone; only [`seal`] and [`keys`] touch key
//! material.
//!
//! * [`id`]: identifiers, * [`geometry`]: who holds which bytes, * [`keys`]: the key envelope,
//! * [`aead`]: AES-256-GCM behind one trait, * [`seal`]: sealed regions and blocks,
//! * [`erasure`]: shards from a block and back, * [`header`]: what each shard carries,
//! * [`fuzz`]: entry points for fuzzing every decoder.
//!
//! Invariants kept here: I3 (a digest binds a shard to its block), I14 (one key and nonce seal one
//! frame), I16 (keys have neither `Debug`, `Display` nor `Serialize`).

pub mod aead;
pub mod erasure;
pub mod error;
pub mod fuzz;
pub mod geometry;
pub mod header;
pub mod id;
pub mod keys;
pub mod limits;
mod matrix;
pub mod seal;

pub use erasure::EncodedBlock;
pub use error::CodecError;
pub use geometry::{BlockLayout, Code, CodecId, Region, ShardSpan};
pub use header::{ShardDigest, ShardHeader};
pub use id::{BlockId, ClusterId, DriveId, Epoch, GroupId, PgId, SessionId};
pub use keys::{BlockKey, BucketKey, ContentKey, MasterKey, WrappedKey};
pub use seal::{RegionCipher, RegionContext, SealedBlock, SealingBlock};
