//! Encoding of what this crate stores and sends: a version byte, then postcard; files carry a crc.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of every encoding of this crate so far.
const VERSION: u8 = 1;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

impl From<Malformed> for std::io::Error {
    fn from(error: Malformed) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// `value` behind a version byte.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Postcard fails only for types without a length, which none of ours is; an empty encoding is
    // refused by every decoder.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default()
}

/// The inverse of [`encode`]; `what` names it in the error.
pub(crate) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
) -> Result<T, Malformed> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(Malformed(what)),
        },
        _ => Err(Malformed(what)),
    }
}

/// [`encode`] as shared bytes.
pub(crate) fn encode_bytes<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(encode(value))
}

/// [`encode`] behind a crc32c: for small files.
pub(crate) fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    let body = encode(value);
    let mut out = crc32c::crc32c(&body).to_le_bytes().to_vec();
    out.extend_from_slice(&body);
    out
}

/// The inverse of [`seal`].
pub(crate) fn open<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Malformed> {
    let (crc, body) = bytes.split_first_chunk::<4>().ok_or(Malformed(what))?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err(Malformed(what));
    }
    decode(body, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_sealed_value() {
        let sealed = seal(&(300u64, true));
        assert_eq!(sealed.get(4..), Some(&[1, 0xac, 0x02, 1][..]));
        assert_eq!(open::<(u64, bool)>(&sealed, "pair"), Ok((300, true)));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_refused() {
        let sealed = seal(&(7u64, 9u32));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open::<(u64, u32)>(&bad, "pair").is_err());
        }
        for len in 0..sealed.len() {
            assert!(open::<(u64, u32)>(&sealed[..len], "pair").is_err());
        }
    }
}
