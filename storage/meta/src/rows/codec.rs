//! Versioned encoding: a version byte, then postcard.
//!
//! What is stored and what crosses the wire both go through here; both have golden-bytes tests.
#![deny(clippy::indexing_slicing)]

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version byte of everything encoded here today.
pub const VERSION: u8 = 1;

/// Why bytes are not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A version this program does not know (a newer writer): upgrade.
    #[error("unknown encoding version {0}")]
    Version(u8),
    /// Not an encoding of the wanted type.
    #[error("malformed encoding")]
    Malformed,
}

/// Encodes `value` behind the version byte.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing to a Vec fails only for types that postcard cannot represent (sequences of unknown
    // length, maps without length): none of ours is. A lone version byte decodes as `Malformed`.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_else(|_| vec![VERSION])
}

/// The inverse of [`encode`]; trailing bytes are refused.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (version, body) = bytes.split_first().ok_or(DecodeError::Malformed)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(DecodeError::Malformed),
    }
}

/// Gives types of the wire their `encode` and `decode`.
macro_rules! wire {
    ($($type:ty),*) => {$(
        impl $type {
            /// Encodes for the wire.
            pub fn encode(&self) -> Vec<u8> {
                $crate::rows::codec::encode(self)
            }

            /// The inverse of `encode`.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::rows::codec::DecodeError> {
                $crate::rows::codec::decode(bytes)
            }
        }
    )*};
}
pub(crate) use wire;
