//! The key envelope: master key → bucket key (versioned) → content key → block key.
//!
//! ```text
//!  master key ──seals──▶ bucket key v ──wraps──▶ content key ──HKDF(block id ‖ offset)──▶ block key
//!  file, passphrase       root group             its row in metadata                      never stored
//! ```
//!
//! Keys are zeroized when dropped and have neither `Debug`, `Display` nor `Serialize` (I16); they
//! leave memory only as a [`WrappedKey`], or through `expose`, which is named to be found by grep.
//! Random bytes are arguments, drawn by the caller from its environment.

use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use serde::{Deserialize, Serialize};

use crate::aead::{self, KEY_LEN, NONCE_LEN};
use crate::error::{CodecError, Result};
use crate::id::{BlockId, ClusterId};
use crate::limits::{TAG_LEN, WRAP_CONTEXT_LEN_MAX};

const BLOCK_KEY_LABEL: &[u8] = b"nexusgrid block key v1";
const CONTENT_WRAP_LABEL: &[u8] = b"nexusgrid content key v1";
const BUCKET_WRAP_LABEL: &[u8] = b"nexusgrid bucket key v1\0";

/// 32 secret bytes. Boxed, so that moves leave no copies behind.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Secret(Box<[u8; KEY_LEN]>);

impl Secret {
    fn new(mut bytes: [u8; KEY_LEN]) -> Secret {
        let secret = Secret(Box::new(bytes));
        bytes.zeroize();
        secret
    }

    fn same(&self, other: &Secret) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

/// The cluster's root of trust; only gateways hold it.
#[derive(Clone)]
pub struct MasterKey(Secret);

/// Wraps the content keys of one bucket. A new version is made by rotation; the old ones stay to
/// open what they wrapped. With random 96-bit nonces one version may wrap up to 2^32 contents.
#[derive(Clone)]
pub struct BucketKey {
    version: u32,
    secret: Secret,
}

/// Seals one content; random, stored wrapped in the content's row.
#[derive(Clone)]
pub struct ContentKey(Secret);

/// Seals one region of one block; derived, never stored.
pub struct BlockKey(Secret);

impl MasterKey {
    /// From 32 bytes of a key file, a passphrase's derivation or a random source.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> MasterKey {
        MasterKey(Secret::new(bytes))
    }

    /// The key itself, to be sealed to a gateway's certificate or written to the key file.
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0.0
    }

    /// A key for one purpose of one cluster, named by `label`.
    pub fn derive(&self, label: &[u8], cluster: ClusterId) -> Zeroizing<[u8; KEY_LEN]> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        let expanded =
            Hkdf::<Sha256>::new(Some(&cluster.0), self.expose()).expand(label, &mut *key);
        debug_assert!(expanded.is_ok(), "32 bytes are less than the most that HKDF gives");
        key
    }

    /// Compares in constant time.
    pub fn same(&self, other: &MasterKey) -> bool {
        self.0.same(&other.0)
    }

    /// Seals a bucket key under this key, with a fresh random nonce, bound to the cluster, its
    /// version and `context` (the bucket's id).
    pub fn seal_bucket_key(
        &self,
        bucket_key: &BucketKey,
        nonce: [u8; NONCE_LEN],
        cluster: ClusterId,
        context: &[u8],
    ) -> Result<WrappedKey> {
        let binding = Binding { label: BUCKET_WRAP_LABEL, cluster, context };
        wrap(&self.0, &bucket_key.secret, bucket_key.version, nonce, binding)
    }

    /// The inverse of [`MasterKey::seal_bucket_key`]. Fails with [`CodecError::KeyRefused`] if
    /// anything differs.
    pub fn open_bucket_key(
        &self,
        sealed: &WrappedKey,
        cluster: ClusterId,
        context: &[u8],
    ) -> Result<BucketKey> {
        let binding = Binding { label: BUCKET_WRAP_LABEL, cluster, context };
        let secret = unwrap(&self.0, sealed, binding)?;
        Ok(BucketKey { version: sealed.version, secret })
    }
}

impl BucketKey {
    /// From 32 random bytes.
    pub fn from_bytes(version: u32, bytes: [u8; KEY_LEN]) -> BucketKey {
        BucketKey { version, secret: Secret::new(bytes) }
    }

    /// The version that stands in every key wrapped by this one.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Compares in constant time.
    pub fn same(&self, other: &BucketKey) -> bool {
        self.version == other.version && self.secret.same(&other.secret)
    }

    /// Wraps a content key for its row, with a fresh random nonce, bound to the cluster, this
    /// key's version and `context` (what identifies the row: bucket and content id).
    pub fn wrap(
        &self,
        content_key: &ContentKey,
        nonce: [u8; NONCE_LEN],
        cluster: ClusterId,
        context: &[u8],
    ) -> Result<WrappedKey> {
        let binding = Binding { label: CONTENT_WRAP_LABEL, cluster, context };
        wrap(&self.secret, &content_key.0, self.version, nonce, binding)
    }

    /// The inverse of [`BucketKey::wrap`]. Fails with [`CodecError::KeyRefused`] if anything
    /// differs, the version included.
    pub fn unwrap(
        &self,
        wrapped: &WrappedKey,
        cluster: ClusterId,
        context: &[u8],
    ) -> Result<ContentKey> {
        if wrapped.version != self.version {
            return Err(CodecError::KeyRefused);
        }
        let binding = Binding { label: CONTENT_WRAP_LABEL, cluster, context };
        Ok(ContentKey(unwrap(&self.secret, wrapped, binding)?))
    }
}

impl ContentKey {
    /// From 32 random bytes.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> ContentKey {
        ContentKey(Secret::new(bytes))
    }

    /// Compares in constant time.
    pub fn same(&self, other: &ContentKey) -> bool {
        self.0.same(&other.0)
    }

    /// The key of the region at `offset` of `block`: HKDF-SHA256 without salt, info = label ‖
    /// block id ‖ offset. Block ids are never reused, so neither are these keys (I14).
    pub fn block_key(&self, block: BlockId, offset: u32) -> BlockKey {
        let mut info = [0; BLOCK_KEY_LABEL.len() + BlockId::LEN + 4];
        let (label, place) = info.split_at_mut(BLOCK_KEY_LABEL.len());
        let (block_out, offset_out) = place.split_at_mut(BlockId::LEN);
        label.copy_from_slice(BLOCK_KEY_LABEL);
        block_out.copy_from_slice(&block.to_bytes());
        offset_out.copy_from_slice(&offset.to_be_bytes());
        let mut key = Box::new([0; KEY_LEN]);
        let expanded =
            Hkdf::<Sha256>::new(None, self.0.0.as_slice()).expand(&info, key.as_mut_slice());
        // 32 bytes are one HKDF block: `expand` refuses only more than 255 of them.
        debug_assert!(expanded.is_ok());
        BlockKey(Secret(key))
    }
}

impl BlockKey {
    /// AES-256-GCM under this key.
    pub fn cipher(&self) -> Box<dyn aead::Aead> {
        aead::cipher(&self.0.0)
    }
}

/// A key sealed under another: what rows and the root group store. `version` names the bucket key
/// that wrapped a content key, or is the version of the bucket key inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct WrappedKey {
    version: u32,
    nonce: [u8; NONCE_LEN],
    sealed: [u8; KEY_LEN + TAG_LEN as usize],
}

impl WrappedKey {
    /// Length of [`WrappedKey::to_bytes`].
    pub const LEN: usize = 1 + 4 + NONCE_LEN + KEY_LEN + TAG_LEN as usize;

    const FORMAT: u8 = 1;

    /// The bucket key's version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Format byte 1 ‖ version (big-endian) ‖ nonce ‖ ciphertext ‖ tag.
    pub fn to_bytes(&self) -> [u8; WrappedKey::LEN] {
        let mut bytes = [0; WrappedKey::LEN];
        bytes[0] = WrappedKey::FORMAT;
        bytes[1..5].copy_from_slice(&self.version.to_be_bytes());
        bytes[5..5 + NONCE_LEN].copy_from_slice(&self.nonce);
        bytes[5 + NONCE_LEN..].copy_from_slice(&self.sealed);
        bytes
    }

    /// The inverse of [`WrappedKey::to_bytes`]; refuses other lengths and versions.
    pub fn from_bytes(bytes: &[u8]) -> Result<WrappedKey> {
        let malformed = || CodecError::Malformed("wrapped key");
        let (&[format], rest) = bytes.split_first_chunk().ok_or_else(malformed)?;
        if format != WrappedKey::FORMAT {
            return Err(CodecError::UnknownVersion { format: "wrapped key", version: format });
        }
        let (version, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        let sealed = rest.try_into().map_err(|_| malformed())?;
        Ok(WrappedKey { version: u32::from_be_bytes(*version), nonce: *nonce, sealed })
    }
}

impl TryFrom<Vec<u8>> for WrappedKey {
    type Error = CodecError;

    fn try_from(bytes: Vec<u8>) -> Result<WrappedKey> {
        WrappedKey::from_bytes(&bytes)
    }
}

impl From<WrappedKey> for Vec<u8> {
    fn from(wrapped: WrappedKey) -> Vec<u8> {
        wrapped.to_bytes().to_vec()
    }
}

/// What a wrapped key is bound to: moved elsewhere, it does not open.
struct Binding<'a> {
    label: &'static [u8],
    cluster: ClusterId,
    context: &'a [u8],
}

impl Binding<'_> {
    /// The parts before the context are of fixed length, so no two bindings share their bytes.
    fn aad(&self, version: u32) -> Result<Vec<u8>> {
        if self.context.len() > WRAP_CONTEXT_LEN_MAX {
            return Err(CodecError::Geometry("key context too long"));
        }
        Ok([self.label, &self.cluster.0, &version.to_be_bytes(), self.context].concat())
    }
}

fn wrap(
    with: &Secret,
    secret: &Secret,
    version: u32,
    nonce: [u8; NONCE_LEN],
    binding: Binding<'_>,
) -> Result<WrappedKey> {
    let aad = binding.aad(version)?;
    let mut sealed = [0; KEY_LEN + TAG_LEN as usize];
    sealed[..KEY_LEN].copy_from_slice(secret.0.as_slice());
    aead::cipher(&with.0)
        .seal_in_place(nonce, &aad, &mut sealed)
        .map_err(|_| CodecError::KeyRefused)?;
    Ok(WrappedKey { version, nonce, sealed })
}

fn unwrap(with: &Secret, wrapped: &WrappedKey, binding: Binding<'_>) -> Result<Secret> {
    let aad = binding.aad(wrapped.version)?;
    let mut opened = wrapped.sealed;
    let verdict = aead::cipher(&with.0).open_in_place(wrapped.nonce, &aad, &mut opened);
    let mut key = Box::new([0; KEY_LEN]);
    key.copy_from_slice(&opened[..KEY_LEN]);
    opened.zeroize();
    let secret = Secret(key);
    verdict.map(|()| secret).map_err(|_| CodecError::KeyRefused)
}
