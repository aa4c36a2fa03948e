//! Access keys, and who asks with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::Document;
use crate::{AccountId, arn};

/// The public half of an access key: 4 to 128 letters, digits, `-`, `_` or `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccessKeyId(String);

/// The text is no access key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access key id has 4 to 128 letters, digits, '-', '_' or '.'")]
pub struct InvalidAccessKeyId;

impl AccessKeyId {
    /// Checks and takes an id.
    pub fn new(id: impl Into<String>) -> Result<AccessKeyId, InvalidAccessKeyId> {
        let id = id.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (4..=128).contains(&id.len()) && id.chars().all(allowed) {
            Ok(AccessKeyId(id))
        } else {
            Err(InvalidAccessKeyId)
        }
    }

    /// Makes an id from 10 random bytes: `NG` and 16 letters and digits.
    pub fn from_random(random: [u8; 10]) -> AccessKeyId {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let mut bits = random.iter().fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
        let mut id = String::from("NG");
        for _ in 0..16 {
            let index = (bits & 31) as usize;
            id.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'A')));
            bits >>= 5;
        }
        AccessKeyId(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AccessKeyId {
    type Error = InvalidAccessKeyId;

    fn try_from(id: String) -> Result<AccessKeyId, InvalidAccessKeyId> {
        AccessKeyId::new(id)
    }
}

impl From<AccessKeyId> for String {
    fn from(id: AccessKeyId) -> String {
        id.0
    }
}

impl std::fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The service that delivers access logs.
pub const LOG_DELIVERY: &str = "logging.s3.amazonaws.com";

/// What kind of caller it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// Nobody known: no credentials.
    Anonymous,
    /// The account itself.
    Root,
    /// A user of an account.
    User,
    /// A session of a role.
    Session,
    /// A key of the founders' account that is good for some buckets, without a user.
    Service,
    /// A service of the grid itself, which acts for a bucket. Only what names it lets it do anything.
    Grid,
}

/// Documents of an identity.
pub type Documents = Vec<Arc<Document>>;

/// Who asks, with all rules that belong to them. Holds no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// The access key's id; empty for the anonymous.
    pub key: String,
    /// What kind of caller it is.
    pub kind: PrincipalKind,
    /// The account; `None` for the anonymous.
    pub account: Option<String>,
    /// The account's canonical id.
    pub canonical_id: Option<String>,
    /// The caller's ARN; empty for the anonymous.
    pub arn: String,
    /// The caller's unique id (`aws:userid`).
    pub id: String,
    /// The user's name (`aws:username`), or how clients show the caller.
    pub name: String,
    /// Of a session: the role's ARN.
    pub role_arn: Option<String>,
    /// Of a caller with a token: the identity provider's ARN.
    pub provider: Option<String>,
    /// Of one who has no session yet: the account that the provider is of.
    pub provider_account: Option<String>,
    /// Whether it may be used at all.
    pub enabled: bool,
    /// When it ends (milliseconds since 1970-01-01 UTC); `None`: never.
    pub expires_unix_ms: Option<u64>,
    /// Whether it also administers the grid itself.
    pub administrator: bool,
    /// What its identity may do.
    pub policies: Documents,
    /// What its identity may do at most; `None`: no bound.
    pub boundary: Option<Arc<Document>>,
    /// What its session may do at most: each of them must allow.
    pub session: Documents,
    /// Its tags (`aws:PrincipalTag/…`).
    pub tags: BTreeMap<String, String>,
    /// Further keys that conditions may ask about, of a session: what its token claimed.
    pub keys: BTreeMap<String, Vec<String>>,
}

impl Principal {
    /// A caller without credentials.
    pub fn anonymous() -> Principal {
        Principal {
            key: String::new(),
            kind: PrincipalKind::Anonymous,
            account: None,
            canonical_id: None,
            arn: String::new(),
            id: String::new(),
            name: String::new(),
            role_arn: None,
            provider: None,
            provider_account: None,
            enabled: true,
            expires_unix_ms: None,
            administrator: false,
            policies: Vec::new(),
            boundary: None,
            session: Vec::new(),
            tags: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }

    /// An account itself, by one of its keys.
    pub fn root(key: &AccessKeyId, account: &AccountId) -> Principal {
        Principal {
            key: key.to_string(),
            kind: PrincipalKind::Root,
            account: Some(account.to_string()),
            canonical_id: Some(account.canonical_id()),
            arn: format!("arn:aws:iam::{account}:root"),
            id: account.to_string(),
            name: account.to_string(),
            ..Principal::anonymous()
        }
    }

    /// A user of an account: `path` begins and ends with a slash.
    pub fn user(
        key: &AccessKeyId,
        account: &AccountId,
        path: &str,
        name: &str,
        id: &str,
    ) -> Principal {
        Principal {
            kind: PrincipalKind::User,
            arn: format!("arn:aws:iam::{account}:user{path}{name}"),
            id: id.to_owned(),
            name: name.to_owned(),
            ..Principal::root(key, account)
        }
    }

    /// A key of `account` that may do what `policies` say, and belongs to no user.
    pub fn service(key: &AccessKeyId, account: &AccountId, policies: Documents) -> Principal {
        Principal {
            kind: PrincipalKind::Service,
            arn: format!("arn:aws:iam::{account}:user/key/{key}"),
            id: key.to_string(),
            name: key.to_string(),
            policies,
            ..Principal::root(key, account)
        }
    }

    /// A service of the grid itself, by the name that policies give it
    /// (`logging.s3.amazonaws.com`).
    pub fn grid(service: &str) -> Principal {
        Principal { kind: PrincipalKind::Grid, name: service.to_owned(), ..Principal::anonymous() }
    }

    /// Whether it is an identity of the account whose ARNs go without its number.
    pub fn is_bare(&self) -> bool {
        arn::is_bare(&self.arn)
    }

    /// Whether this is its ARN.
    pub(crate) fn is(&self, text: &str) -> bool {
        arn::names(text, &self.arn, self.account.as_deref())
    }

    /// Whether this is the ARN of its session's role.
    pub(crate) fn is_of_role(&self, text: &str) -> bool {
        let role = self.role_arn.as_deref();
        role.is_some_and(|role| arn::names(text, role, self.account.as_deref()))
    }

    /// Whether it came without credentials.
    pub fn is_anonymous(&self) -> bool {
        self.kind == PrincipalKind::Anonymous
    }
}
