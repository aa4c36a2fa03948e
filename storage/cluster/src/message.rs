//! Encoding of this crate's messages: a version byte, then postcard.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use nexusgrid_env::RpcError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that is written.
const VERSION: u8 = 1;

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, RpcError> {
    postcard::to_extend(message, vec![VERSION])
        .map(Bytes::from)
        .map_err(|error| RpcError::Failed(format!("encoding: {error}")))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    let malformed = || RpcError::Refused("malformed message".into());
    let (version, body) = bytes.split_first().ok_or_else(malformed)?;
    if *version != VERSION {
        return Err(RpcError::Refused(format!("message version {version} is not known here")));
    }
    let (message, rest) = postcard::take_from_bytes(body).map_err(|_| malformed())?;
    if !rest.is_empty() {
        return Err(malformed());
    }
    Ok(message)
}
