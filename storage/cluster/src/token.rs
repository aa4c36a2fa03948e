//! One-time join tokens: what an administrator carries from the cluster to a new machine.
//!
//! A token is a bearer secret: 32 random bytes, together with what the new machine needs to know
//! that it speaks to the right cluster (the CA's fingerprint) and where to find it. The cluster
//! keeps only the secret's SHA-256, so that the root group's state admits nobody.
//!
//! Printed form: `ngt_` and lower-case base32 (no i, l, o, u) of a versioned body and its crc32c,
//! so that a mistyped or cut token is told from a refused one.

#![deny(clippy::indexing_slicing)]

use std::fmt;
use std::time::Duration;

use nexusgrid_codec::ClusterId;
use nexusgrid_env::{Rng, UnixMillis};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::limits;

const PREFIX: &str = "ngt_";
const VERSION: u8 = 1;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const SECRET_HASH_CONTEXT: &[u8] = b"nexusgrid join token v1";

/// Why a token's text cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else was given.
    #[error("this is not a join token (it begins with `{PREFIX}`)")]
    NotAToken,
    /// Cut, mistyped or altered.
    #[error("it is cut or mistyped: copy it again, whole")]
    Damaged,
    /// Made by a newer NexusGrid.
    #[error("it is of version {0}, which this program does not know: update the program")]
    Version(u8),
    /// Too old by this machine's clock.
    #[error("it has expired: make a new one with `nexusgrid token create`")]
    Expired,
}

/// Why the cluster does not accept a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TokenRefusal {
    /// No such token, or its secret is wrong. (One answer for both, so that ids cannot be probed.)
    #[error("the token is unknown")]
    Unknown,
    /// Its hour is over.
    #[error("the token has expired")]
    Expired,
    /// It was used up by another node.
    #[error("the token was used already")]
    Used,
}

/// A join token, secret included. No `Debug` of the secret; erased on drop.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct JoinToken {
    /// The cluster it admits to.
    #[zeroize(skip)]
    pub cluster: ClusterId,
    /// Names the token's record in the root group.
    #[zeroize(skip)]
    pub id: [u8; 8],
    /// The bearer secret.
    secret: [u8; 32],
    /// SHA-256 of the CA's certificate.
    #[zeroize(skip)]
    pub ca_fingerprint: [u8; 32],
    /// When it expires, by the cluster's clock.
    #[zeroize(skip)]
    pub expires: UnixMillis,
    /// Where to join, if the command line does not say: `host:port`, tried in order.
    #[zeroize(skip)]
    pub addresses: Vec<String>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Body {
    #[zeroize(skip)]
    cluster: ClusterId,
    id: [u8; 8],
    secret: [u8; 32],
    ca_fingerprint: [u8; 32],
    expires_ms: u64,
    addresses: Vec<String>,
}

/// What the root group keeps of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Names the token.
    pub id: [u8; 8],
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// When it expires.
    pub expires: UnixMillis,
    /// Hash of the public key that used it up, if any.
    pub used_by_key: Option<[u8; 32]>,
}

impl JoinToken {
    /// Draws a token that lives for `life` from `now` on.
    pub fn create(
        rng: &dyn Rng,
        cluster: ClusterId,
        ca_fingerprint: [u8; 32],
        now: UnixMillis,
        life: Duration,
        addresses: Vec<String>,
    ) -> JoinToken {
        let mut id = [0; 8];
        let mut secret = [0; 32];
        rng.fill(&mut id);
        rng.fill(&mut secret);
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        JoinToken {
            cluster,
            id,
            secret,
            ca_fingerprint,
            expires: UnixMillis(now.0.saturating_add(life_ms)),
            addresses: addresses.into_iter().take(limits::TOKEN_ADDRESSES_MAX).collect(),
        }
    }

    /// What the root group keeps.
    pub fn record(&self) -> TokenRecord {
        TokenRecord {
            id: self.id,
            secret_hash: self.secret_hash(),
            expires: self.expires,
            used_by_key: None,
        }
    }

    /// The bearer secret, to be sent inside TLS only.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// SHA-256 of the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        hash_secret(&self.secret)
    }

    /// The text to hand to the new machine. It is a secret: print it once, log it never.
    pub fn to_text(&self) -> String {
        let body = Body {
            cluster: self.cluster,
            id: self.id,
            secret: self.secret,
            ca_fingerprint: self.ca_fingerprint,
            expires_ms: self.expires.0,
            addresses: self.addresses.clone(),
        };
        let mut bytes = vec![VERSION];
        // Serialising plain data into memory cannot fail; an empty body would not parse.
        bytes.extend(postcard::to_stdvec(&body).unwrap_or_default());
        let check = crc32c::crc32c(&bytes);
        bytes.extend(check.to_le_bytes());
        let text = format!("{PREFIX}{}", base32(&bytes));
        bytes.zeroize();
        text
    }

    /// Parses what [`JoinToken::to_text`] printed; space around it is ignored.
    ///
    /// # Errors
    /// [`TokenError`] says whether it is no token, damaged, or of another version. Whether it has
    /// expired is for [`JoinToken::check_expiry`] and, with authority, for the cluster.
    pub fn parse(text: &str) -> Result<JoinToken, TokenError> {
        let payload = text.trim().strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if text.len() > limits::TOKEN_TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let mut bytes = unbase32(payload).ok_or(TokenError::Damaged)?;
        let parsed = JoinToken::from_bytes(&bytes);
        bytes.zeroize();
        parsed
    }

    fn from_bytes(bytes: &[u8]) -> Result<JoinToken, TokenError> {
        let (checked, check) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if crc32c::crc32c(checked) != u32::from_le_bytes(*check) {
            return Err(TokenError::Damaged);
        }
        let (version, body) = checked.split_first().ok_or(TokenError::Damaged)?;
        if *version != VERSION {
            return Err(TokenError::Version(*version));
        }
        let (body, rest): (Body, &[u8]) =
            postcard::take_from_bytes(body).map_err(|_| TokenError::Damaged)?;
        if !rest.is_empty() || body.addresses.len() > limits::TOKEN_ADDRESSES_MAX {
            return Err(TokenError::Damaged);
        }
        Ok(JoinToken {
            cluster: body.cluster,
            id: body.id,
            secret: body.secret,
            ca_fingerprint: body.ca_fingerprint,
            expires: UnixMillis(body.expires_ms),
            addresses: body.addresses.clone(),
        })
    }

    /// Tells a token that is certainly too old before the network is asked.
    ///
    /// # Errors
    /// [`TokenError::Expired`].
    pub fn check_expiry(&self, now: UnixMillis) -> Result<(), TokenError> {
        if now > self.expires { Err(TokenError::Expired) } else { Ok(()) }
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster", &self.cluster)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a token's secret.
pub fn hash_secret(secret: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(SECRET_HASH_CONTEXT);
    hash.update(secret);
    hash.finalize().into()
}

/// Decides whether a token admits: a pure function for the root group's `apply`.
///
/// `record` is what is kept under the presented id, `secret_hash` and `key_hash` are of the
/// attempt. The key that used a token up may present it again (its answer was lost), even after the
/// hour.
///
/// # Errors
/// [`TokenRefusal`] says why not.
pub fn admits(
    record: Option<&TokenRecord>,
    secret_hash: &[u8; 32],
    key_hash: &[u8; 32],
    now: UnixMillis,
) -> Result<(), TokenRefusal> {
    let record = record.ok_or(TokenRefusal::Unknown)?;
    if !bool::from(record.secret_hash.ct_eq(secret_hash)) {
        return Err(TokenRefusal::Unknown);
    }
    match &record.used_by_key {
        Some(key) if key == key_hash => Ok(()),
        Some(_) => Err(TokenRefusal::Used),
        None if now > record.expires => Err(TokenRefusal::Expired),
        None => Ok(()),
    }
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut held, mut held_bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        held_bits += 8;
        while held_bits >= 5 {
            held_bits -= 5;
            push_digit(&mut text, held >> held_bits);
        }
    }
    if held_bits > 0 {
        push_digit(&mut text, held << (5 - held_bits));
    }
    text
}

fn push_digit(text: &mut String, value: u32) {
    if let Some(digit) = ALPHABET.get((value & 31) as usize) {
        text.push(char::from(*digit));
    }
}

fn unbase32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut held_bits) = (0_u32, 0_u32);
    for digit in text.bytes() {
        let digit = digit.to_ascii_lowercase();
        let value = ALPHABET.iter().position(|known| *known == digit)?;
        held = (held << 5) | u32::try_from(value).ok()?;
        held_bits += 5;
        if held_bits >= 8 {
            held_bits -= 8;
            bytes.push(u8::try_from((held >> held_bits) & 0xff).ok()?);
        }
    }
    // Left-over bits must be padding, else two texts would mean one token.
    (held & ((1 << held_bits) - 1) == 0 && held_bits < 5).then_some(bytes)
}
