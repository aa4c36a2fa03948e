//! Accounts, users, groups, roles, policies and keys, as they are stored.
//!
//! Each is one record, JSON, at a path made of the account and its name in lower case: names are
//! the same regardless of case, as in the AWS IAM. Text of policies is kept as it was given.

use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_iam::AccountId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Something with a record of its own.
pub trait Entity: Serialize + DeserializeOwned + Send {
    /// What errors call it.
    const KIND: &'static str;
}

/// Tags: at most [`TAGS_MAX`](crate::limits::TAGS_MAX).
pub type Tags = BTreeMap<String, String>;

/// Policies inside an identity, and managed ones attached to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Documents by name.
    pub inline: BTreeMap<String, String>,
    /// ARNs.
    pub attached: BTreeSet<String>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// What people call it.
    pub name: String,
    /// Where to reach its owner; also a name for access control lists.
    pub email: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// Keys of the account itself.
    pub keys: BTreeSet<String>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Begins and ends with a slash.
    pub path: String,
    /// Never reused.
    pub id: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// Its tags.
    pub tags: Tags,
    /// What it may do.
    pub policies: Policies,
    /// The ARN of what it may do at most.
    pub boundary: Option<String>,
    /// Names of its groups.
    pub groups: BTreeSet<String>,
    /// Its access keys.
    pub keys: BTreeSet<String>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Begins and ends with a slash.
    pub path: String,
    /// Never reused.
    pub id: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// What its users may do.
    pub policies: Policies,
    /// Names of its users.
    pub users: BTreeSet<String>,
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Begins and ends with a slash.
    pub path: String,
    /// Never reused.
    pub id: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// What it is for.
    pub description: String,
    /// Longest session, seconds.
    pub max_session_seconds: u32,
    /// Its tags.
    pub tags: Tags,
    /// What it may do.
    pub policies: Policies,
    /// The ARN of what it may do at most.
    pub boundary: Option<String>,
    /// Who may take it on.
    pub trust: String,
    /// The ids of users and roles whom that names by ARN, when it was written: others of their names
    /// are not meant.
    #[serde(default)]
    pub trusted: BTreeMap<String, String>,
}

/// A version of a managed policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// Its document.
    pub document: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
}

/// A managed policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Begins and ends with a slash.
    pub path: String,
    /// Never reused.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it was last changed, Unix milliseconds.
    pub updated_ms: u64,
    /// Its versions by number.
    pub versions: BTreeMap<u32, PolicyVersion>,
    /// The version that counts.
    pub default: u32,
    /// The newest number ever used.
    pub newest: u32,
    /// Identities that it is attached to.
    pub attachments: u32,
    /// Identities that it bounds.
    #[serde(default)]
    pub boundaries: u32,
    /// Its tags.
    pub tags: Tags,
}

/// An identity provider for tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Its URL.
    pub url: String,
    /// Audiences that its tokens may be for.
    pub clients: BTreeSet<String>,
    /// SHA-1 of its certificates, as clients give them.
    pub thumbprints: Vec<String>,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// Its tags.
    pub tags: Tags,
}

/// An access key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Whose.
    pub account: AccountId,
    /// The user; `None`: the account itself.
    pub user: Option<String>,
    /// The secret, sealed under the grid's master key.
    pub sealed: Vec<u8>,
    /// Whether it may be used.
    pub active: bool,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
}

macro_rules! entities {
    ($($type:ty: $kind:literal;)*) => {
        $(impl Entity for $type {
            const KIND: &'static str = $kind;
        })*
    };
}

entities! {
    Account: "account";
    User: "user";
    Group: "group";
    Role: "role";
    Policy: "policy";
    Provider: "OpenID Connect provider";
    Key: "access key";
}

/// Paths of records.
pub mod paths {
    use nexusgrid_iam::AccountId;

    /// All accounts.
    pub const ACCOUNTS: &str = "account/";

    /// An account.
    pub fn account(id: &AccountId) -> String {
        format!("{ACCOUNTS}{id}")
    }

    /// Which account is written without its number in ARNs.
    pub const BARE: &str = "arns/bare";

    /// How many identities an account has.
    pub fn usage(id: &AccountId) -> String {
        format!("usage/{id}")
    }

    /// Which account has an address: its record holds the account's id.
    pub fn email(email: &str) -> String {
        format!("email/{}", email.to_lowercase())
    }

    /// An access key.
    pub fn key(id: &str) -> String {
        format!("key/{id}")
    }

    /// All users of an account.
    pub fn users(account: &AccountId) -> String {
        format!("iam/{account}/user/")
    }

    /// A user.
    pub fn user(account: &AccountId, name: &str) -> String {
        format!("{}{}", users(account), name.to_lowercase())
    }

    /// All groups of an account.
    pub fn groups(account: &AccountId) -> String {
        format!("iam/{account}/group/")
    }

    /// A group.
    pub fn group(account: &AccountId, name: &str) -> String {
        format!("{}{}", groups(account), name.to_lowercase())
    }

    /// All roles of an account.
    pub fn roles(account: &AccountId) -> String {
        format!("iam/{account}/role/")
    }

    /// A role.
    pub fn role(account: &AccountId, name: &str) -> String {
        format!("{}{}", roles(account), name.to_lowercase())
    }

    /// All managed policies of an account.
    pub fn policies(account: &AccountId) -> String {
        format!("iam/{account}/policy/")
    }

    /// A managed policy.
    pub fn policy(account: &AccountId, name: &str) -> String {
        format!("{}{}", policies(account), name.to_lowercase())
    }

    /// All identity providers of an account.
    pub fn providers(account: &AccountId) -> String {
        format!("iam/{account}/oidc/")
    }

    /// An identity provider, by its URL without the scheme.
    pub fn provider(account: &AccountId, url: &str) -> String {
        format!("{}{url}", providers(account))
    }
}
