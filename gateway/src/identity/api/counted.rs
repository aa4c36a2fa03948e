//! How many identities an account has: none takes all that the grid can hold.
//!
//! A record per account, changed together with what it counts. One that is not there yet is counted
//! up from what is.

use std::collections::BTreeMap;

use nexusgrid_grid::RecordWrite;
use nexusgrid_iam::AccountId;
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::error::ApiError;
use crate::identity::DirectoryError;
use crate::identity::directory::{self, Directory, Read};
use crate::identity::entities::{Entity, paths};
use crate::limits;

/// How many of each kind an account has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// By the kind's part of the path.
    pub kinds: BTreeMap<String, u32>,
}

impl Entity for Usage {
    const KIND: &'static str = "usage";
}

/// Kinds by their part of the path, and how many an account may have.
pub const QUOTAS: &[(&str, u32)] = &[
    ("user", limits::USERS_MAX),
    ("group", limits::GROUPS_MAX),
    ("role", limits::ROLES_MAX),
    ("policy", limits::POLICIES_MAX),
    ("oidc", limits::PROVIDERS_MAX),
];

/// A kind, out of an identity's path.
fn kind_of(path: &str) -> &str {
    path.split('/').nth(2).unwrap_or("")
}

impl Directory {
    /// How many identities an account has.
    async fn usage(&self, account: &AccountId) -> Result<Read<Usage>, DirectoryError> {
        let path = paths::usage(account);
        if let Some(found) = self.read::<Usage>(&path).await? {
            return Ok(found);
        }
        let mut value = Usage::default();
        for (kind, _) in QUOTAS {
            let found = self.count(&format!("iam/{account}/{kind}/")).await?;
            value.kinds.insert((*kind).to_owned(), found);
        }
        Ok(Read { path, revision: 0, value })
    }
}

impl Call<'_> {
    /// Writes several records, of which the one at `path` comes (`by` 1) or goes (-1); `false` if
    /// another change of them came between.
    pub async fn commit_counted(
        &self,
        path: &str,
        by: i64,
        writes: Vec<RecordWrite>,
    ) -> Result<bool, ApiError> {
        let kind = kind_of(path);
        for _ in 0..limits::CHANGE_TRIES_MAX {
            let Read { path, revision, mut value } = self.directory.usage(&self.account).await?;
            let count = value.kinds.entry(kind.to_owned()).or_default();
            let most = QUOTAS.iter().find(|(known, _)| *known == kind).map_or(0, |(_, most)| *most);
            if by > 0 && *count >= most {
                let message = format!("Cannot exceed quota for {kind}s per account: {most}");
                return Err(ApiError::limit(message));
            }
            *count = u32::try_from(i64::from(*count) + by).unwrap_or(0);
            let mut all = writes.clone();
            all.push(directory::write(path, revision, &value)?);
            if self.commit(all).await? {
                return Ok(true);
            }
            // Whether it was the count or what is counted that changed between.
            if self.directory.usage(&self.account).await?.revision == revision {
                return Ok(false);
            }
        }
        Ok(false)
    }
}
