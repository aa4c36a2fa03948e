//! Accounts: who owns buckets and identities.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// An account: twelve digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountId(String);

/// The text is no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an account id has twelve digits")]
pub struct InvalidAccountId;

impl AccountId {
    /// Checks and takes an id.
    pub fn new(id: impl Into<String>) -> Result<AccountId, InvalidAccountId> {
        let id = id.into();
        if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit()) {
            Ok(AccountId(id))
        } else {
            Err(InvalidAccountId)
        }
    }

    /// The account of those who founded the grid: it is there before any other.
    pub fn founders() -> AccountId {
        AccountId("000000000001".to_owned())
    }

    /// Makes an id from a random number; never that of the founders.
    pub fn from_random(random: u64) -> AccountId {
        AccountId(format!("{:012}", 100_000_000_000 + random % 899_999_999_999))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id by which access control lists name the account: SHA-256 of the account's id, in hex.
    /// It hides nothing; it is what S3's clients expect an owner to look like.
    pub fn canonical_id(&self) -> String {
        let digest = Sha256::digest(format!("nexusgrid account {}", self.0));
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for AccountId {
    type Error = InvalidAccountId;

    fn try_from(id: String) -> Result<AccountId, InvalidAccountId> {
        AccountId::new(id)
    }
}

impl From<AccountId> for String {
    fn from(id: AccountId) -> String {
        id.0
    }
}

impl std::fmt::Display for AccountId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
