//! AES-256-GCM behind one trait, with two implementations.
//!
//! Two packages, because they fail differently: the pure Rust one runs everywhere and is easy to
//! audit, `ring` is about three times as fast where its assembly applies (the numbers are in
//! `docs/decisions/0001-aead.md`; `cargo run --example aead_bench` repeats them). They are
//! bit-compatible, and the tests hold them to that.

use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes256Gcm, KeyInit};
use ring::aead as ring_aead;

use crate::limits::TAG_LEN;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;

/// The data was not sealed under this key, nonce and AAD; or the buffer is shorter than a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct Unauthentic;

/// One keyed AES-256-GCM. Buffers hold the text followed by the 16-byte tag.
pub trait Aead: Send + Sync {
    /// Encrypts all but the last 16 bytes of `buffer` in place and writes the tag there. Fails only
    /// if the buffer is shorter than a tag. One (key, nonce) may be used once (I14).
    fn seal_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), Unauthentic>;

    /// Verifies and decrypts in place; on success the plaintext is `buffer` without its last 16
    /// bytes. On failure the buffer's content is unspecified and must not be used.
    fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), Unauthentic>;
}

/// Which package does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The `aes-gcm` crate.
    AesGcm,
    /// The `ring` crate.
    Ring,
}

/// The package for this machine: `ring` where the measurement favours it (64-bit x86 and ARM,
/// whose AES instructions the product demands at start), `aes-gcm` elsewhere.
pub fn provider() -> Provider {
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        Provider::Ring
    } else {
        Provider::AesGcm
    }
}

/// AES-256-GCM under `key` by [`provider`].
pub fn cipher(key: &[u8; KEY_LEN]) -> Box<dyn Aead> {
    cipher_of(provider(), key)
}

/// AES-256-GCM under `key` by a given package.
pub fn cipher_of(provider: Provider, key: &[u8; KEY_LEN]) -> Box<dyn Aead> {
    match (provider, ring_aead::UnboundKey::new(&ring_aead::AES_256_GCM, key)) {
        (Provider::Ring, Ok(unbound)) => Box::new(RingCipher(ring_aead::LessSafeKey::new(unbound))),
        // `ring` refuses a key only for its length, which the type fixes.
        _ => Box::new(RustCipher(Box::new(Aes256Gcm::new(key.into())))),
    }
}

struct RustCipher(Box<Aes256Gcm>);

impl Aead for RustCipher {
    fn seal_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), Unauthentic> {
        let (text, tag_out) = split_tag(buffer)?;
        let tag =
            self.0.encrypt_in_place_detached(&nonce.into(), aad, text).map_err(|_| Unauthentic)?;
        tag_out.copy_from_slice(&tag);
        Ok(())
    }

    fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), Unauthentic> {
        let (text, tag) = split_tag(buffer)?;
        self.0
            .decrypt_in_place_detached(&nonce.into(), aad, text, &(*tag).into())
            .map_err(|_| Unauthentic)
    }
}

struct RingCipher(ring_aead::LessSafeKey);

impl Aead for RingCipher {
    fn seal_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), Unauthentic> {
        let (text, tag_out) = split_tag(buffer)?;
        let nonce = ring_aead::Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, ring_aead::Aad::from(aad), text)
            .map_err(|_| Unauthentic)?;
        tag_out.copy_from_slice(tag.as_ref());
        Ok(())
    }

    fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), Unauthentic> {
        let nonce = ring_aead::Nonce::assume_unique_for_key(nonce);
        self.0
            .open_in_place(nonce, ring_aead::Aad::from(aad), buffer)
            .map(|_| ())
            .map_err(|_| Unauthentic)
    }
}

fn split_tag(buffer: &mut [u8]) -> Result<(&mut [u8], &mut [u8; TAG_LEN as usize]), Unauthentic> {
    buffer.split_last_chunk_mut().ok_or(Unauthentic)
}
