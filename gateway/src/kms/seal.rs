//! What a key seals: `1 ‖ version (big-endian) ‖ nonce ‖ AES-256-GCM`, bound to the key and to the
//! context that its user gave.

use nexusgrid_codec::aead;
use zeroize::{Zeroize as _, Zeroizing};

use super::KmsError;

/// Bytes of a data key.
pub const DATA_KEY_LEN: usize = aead::KEY_LEN;
/// Bytes of a nonce. Random: one version seals up to 2^32 data keys.
pub(super) const NONCE_LEN: usize = aead::NONCE_LEN;

const FORMAT: u8 = 1;
const TAG_LEN: usize = 16;
const LABEL: &[u8] = b"nexusgrid kms v1\0";

/// The head of something sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Which version of the key sealed it.
    pub version: u32,
    /// Its nonce.
    pub nonce: [u8; NONCE_LEN],
}

/// What it is bound to. Accounts and ids hold no NUL; the context is last.
pub(super) fn binding(account: &str, id: &str, context: &str) -> Vec<u8> {
    [LABEL, account.as_bytes(), b"\0", id.as_bytes(), b"\0", context.as_bytes()].concat()
}

impl Sealed {
    /// Seals a few bytes.
    pub(super) fn seal(
        &self,
        key: &[u8; DATA_KEY_LEN],
        binding: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&self.nonce);
        let head = bytes.len();
        bytes.extend_from_slice(plain);
        bytes.resize(bytes.len() + TAG_LEN, 0);
        let body = bytes.get_mut(head..).ok_or(KmsError::Ciphertext)?;
        aead::cipher(key)
            .seal_in_place(self.nonce, binding, body)
            .map_err(|_| KmsError::Ciphertext)?;
        Ok(bytes)
    }

    /// The head, and the rest.
    pub(super) fn read(bytes: &[u8]) -> Option<(Sealed, &[u8])> {
        let (&[format], rest) = bytes.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (nonce, body) = rest.split_first_chunk()?;
        let head = Sealed { version: u32::from_be_bytes(*version), nonce: *nonce };
        (format == FORMAT).then_some((head, body))
    }

    /// Opens the rest.
    pub(super) fn open(
        &self,
        key: &[u8; DATA_KEY_LEN],
        binding: &[u8],
        body: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let mut bytes = Zeroizing::new(body.to_vec());
        if aead::cipher(key).open_in_place(self.nonce, binding, &mut bytes).is_err() {
            bytes.zeroize();
            return Err(KmsError::Ciphertext);
        }
        let len = bytes.len().saturating_sub(TAG_LEN);
        bytes.truncate(len);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::hex;

    const HEAD: Sealed = Sealed { version: 2, nonce: [3; NONCE_LEN] };

    #[test]
    fn golden() {
        let sealed = HEAD.seal(&[1; 32], &binding("a", "k", "{}"), b"data").unwrap();
        assert_eq!(
            hex(&sealed),
            "01000000020303030303030303030303039c0060fbf0580b43b53176aa54c01e261f4def2e"
        );
    }

    #[test]
    fn what_differs_does_not_open() {
        let bound = binding("a", "k", "{}");
        let sealed = HEAD.seal(&[1; 32], &bound, b"data").unwrap();
        let (head, body) = Sealed::read(&sealed).unwrap();
        assert_eq!(&**head.open(&[1; 32], &bound, body).unwrap(), b"data");
        assert!(head.open(&[2; 32], &bound, body).is_err());
        assert!(head.open(&[1; 32], &binding("a", "k", ""), body).is_err());
        assert!(head.open(&[1; 32], &binding("b", "k", "{}"), body).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some((head, body)) = Sealed::read(&bytes) {
                prop_assert!(head.open(&[1; 32], b"", body).is_err());
            }
        }
    }
}
