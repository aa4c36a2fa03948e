//! The second layer: bodies that are sealed under a key which the grid does not keep, before the
//! grid seals them under its own.
//!
//! The grid's own sealing proves every byte and binds it to its place; what this layer adds is that
//! nobody without the second key reads it. So it is a plain stream (AES-256 in counter mode) that
//! keeps every length, and whatever moves contents inside the grid (repair, rewriting, links, other
//! storage classes) goes on without that key.
//!
//! ```text
//!  second key ──HKDF(salt)──▶ object key ──HKDF(nonce)──▶ key of one stream, counted from 0
//!  client's, or KMS' data key       └────────────────────▶ check: which key is the right one
//! ```
//!
//! No stream's key is used twice: an object's salt or data key is drawn for each write, and each
//! part's nonce for each time that a part is sent. Keys have no `Debug` and are wiped (I16).

use aes::Aes256;
use bytes::{Bytes, BytesMut};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// Bytes of a salt, and of a nonce.
pub const SALT_LEN: usize = 16;

const OBJECT_LABEL: &[u8] = b"nexusgrid second layer object v1";
const CHECK_LABEL: &[u8] = b"nexusgrid second layer check v1";
const ETAG_LABEL: &[u8] = b"nexusgrid second layer etag v1";
const STREAM_LABEL: &[u8] = b"nexusgrid second layer stream v1";

/// The key of an object's second layer.
#[derive(Clone)]
pub struct ObjectKey(Zeroizing<[u8; KEY_LEN]>);

fn derive(secret: &[u8], salt: &[u8], label: &[u8]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    let expanded = Hkdf::<Sha256>::new(Some(salt), secret).expand(label, &mut *key);
    debug_assert!(expanded.is_ok(), "32 bytes are less than the most that HKDF gives");
    key
}

impl ObjectKey {
    /// From the second key and the object's salt.
    pub fn new(secret: &[u8; KEY_LEN], salt: &[u8; SALT_LEN]) -> ObjectKey {
        ObjectKey(derive(secret, salt, OBJECT_LABEL))
    }

    /// By this the right key is known. Says nothing about it: the salt is random.
    pub fn check(&self) -> [u8; KEY_LEN] {
        *derive(&*self.0, &[], CHECK_LABEL)
    }

    /// Whether the check is this key's; in constant time.
    pub fn is_checked_by(&self, check: &[u8; KEY_LEN]) -> bool {
        self.check().ct_eq(check).into()
    }

    /// What stands for a body instead of its digest: the same for the same bytes under this key, and
    /// telling nothing of them to who has not got it.
    pub fn etag(&self, digest: &[u8]) -> [u8; SALT_LEN] {
        let mut etag = [0; SALT_LEN];
        let long = derive(&*self.0, digest, ETAG_LABEL);
        etag.iter_mut().zip(long.iter()).for_each(|(to, from)| *to = *from);
        etag
    }

    /// The stream of a whole object (its nonce is zero, for its salt is its own), or of one part.
    fn stream(&self, nonce: &[u8; SALT_LEN]) -> Ctr128BE<Aes256> {
        let mut key = derive(&*self.0, nonce, STREAM_LABEL);
        let stream = Ctr128BE::<Aes256>::new((&*key).into(), (&[0; 16]).into());
        key.zeroize();
        stream
    }
}

/// Where one stream lies in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First byte.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
    /// The stream's nonce.
    pub nonce: [u8; SALT_LEN],
}

impl Stretch {
    /// An object, or part, that is one stream.
    pub fn whole(nonce: [u8; SALT_LEN]) -> Stretch {
        Stretch { start: 0, end: u64::MAX, nonce }
    }
}

/// Bytes passing through the layer, either way, in order.
pub struct Passing {
    key: ObjectKey,
    stretches: std::collections::VecDeque<Stretch>,
    at: u64,
    stream: Option<Ctr128BE<Aes256>>,
}

/// More bytes than there are streams for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes behind the last part")]
pub struct OutOfStretch;

impl Passing {
    /// Begins at `at`; the stretches are in order and without gap from there on.
    pub fn new(key: ObjectKey, stretches: Vec<Stretch>, at: u64) -> Passing {
        Passing { key, stretches: stretches.into(), at, stream: None }
    }

    /// Passes a chunk.
    pub fn pass(&mut self, chunk: &Bytes) -> Result<Bytes, OutOfStretch> {
        // Others hold the chunk, too: it is not theirs to see changed.
        let mut bytes = BytesMut::from(chunk.as_ref());
        let mut rest = bytes.as_mut();
        while !rest.is_empty() {
            let stretch = loop {
                let first = *self.stretches.front().ok_or(OutOfStretch)?;
                if self.at < first.end {
                    break first;
                }
                self.stretches.pop_front();
                self.stream = None;
            };
            let into = self.at.checked_sub(stretch.start).ok_or(OutOfStretch)?;
            let stream = self.stream.get_or_insert_with(|| {
                let mut stream = self.key.stream(&stretch.nonce);
                stream.seek(into);
                stream
            });
            let room = usize::try_from(stretch.end - self.at).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            stream.apply_keystream(now);
            self.at = self.at.saturating_add(now.len() as u64);
            rest = later;
        }
        Ok(bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::hex;

    fn key() -> ObjectKey {
        ObjectKey::new(&[7; KEY_LEN], &[9; SALT_LEN])
    }

    #[test]
    fn golden() {
        let key = key();
        assert_eq!(
            hex(&key.check()),
            "783526a4c8d799fbde438d6c48e504460d7c995ed6a0e1f37b2e770ff30e7aca"
        );
        assert_eq!(hex(&key.etag(&[2; 16])), "0c3d64ff6b96c5b8adf6238cb915950a");
        let mut passing = Passing::new(key, vec![Stretch::whole([1; SALT_LEN])], 0);
        let sealed = passing.pass(&Bytes::from_static(&[0; 24])).unwrap();
        assert_eq!(hex(&sealed), "3a0373ee265ee3fac9a8b194714b7e00ecf4d87387e639d2");
    }

    #[test]
    fn keys_are_told_apart() {
        let other = ObjectKey::new(&[8; KEY_LEN], &[9; SALT_LEN]);
        assert!(key().is_checked_by(&key().check()));
        assert!(!other.is_checked_by(&key().check()));
        assert_ne!(key().check(), ObjectKey::new(&[7; KEY_LEN], &[8; SALT_LEN]).check());
    }

    #[test]
    fn nothing_passes_beyond_the_last_part() {
        let stretch = Stretch { start: 0, end: 3, nonce: [0; SALT_LEN] };
        let mut passing = Passing::new(key(), vec![stretch], 0);
        assert_eq!(passing.pass(&Bytes::from_static(b"four")), Err(OutOfStretch));
    }

    proptest! {
        #[test]
        fn ranges_of_parts_open_as_the_parts_were_sealed(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
            cuts in prop::collection::vec(1usize..200, 1..8),
            from in 0usize..900,
            len in 0usize..900,
        ) {
            let plain: Vec<u8> = parts.concat();
            let (mut sealed, mut stretches, mut at) = (Vec::new(), Vec::new(), 0u64);
            for (number, part) in (1u8..).zip(&parts) {
                let nonce = [number; SALT_LEN];
                let mut passing = Passing::new(key(), vec![Stretch::whole(nonce)], 0);
                sealed.extend_from_slice(&passing.pass(&Bytes::copy_from_slice(part)).unwrap());
                let end = at + part.len() as u64;
                stretches.push(Stretch { start: at, end, nonce });
                at = end;
            }
            let from = from.min(plain.len());
            let end = (from + len).min(plain.len());
            let mut passing = Passing::new(key(), stretches, from as u64);
            let (mut opened, mut rest, mut turn) = (Vec::new(), &sealed[from..end], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*turn.next().unwrap()));
                opened.extend_from_slice(&passing.pass(&Bytes::copy_from_slice(now)).unwrap());
                rest = later;
            }
            prop_assert_eq!(opened, &plain[from..end]);
            if plain.len() > 16 {
                prop_assert_ne!(sealed, plain);
            }
        }
    }
}
