//! Accounts: made, listed and removed by administrators of the grid.

use std::collections::BTreeSet;

use nexusgrid_grid::GridError;
use nexusgrid_iam::{AccountId, Secret};

use super::api::Usage;
use super::directory::{self, Directory, DirectoryError, Read};
use super::entities::{Account, Entity, Key, paths};
use crate::limits;
use crate::quota;

/// Which account has an address, or is the bare one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Named {
    pub account: AccountId,
}

impl Entity for Named {
    const KIND: &'static str = "name of an account";
}

/// Why an account could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// A name or address that is none.
    #[error("{0}")]
    Invalid(String),
    /// Another account has that address.
    #[error("there is an account with the address {0}")]
    AddressTaken(String),
    /// Another account is the bare one.
    #[error("ARNs without a number mean the account {0} already")]
    BareTaken(AccountId),
    /// There is none of that id.
    #[error("there is no account {0}")]
    Missing(String),
    /// It still owns something.
    #[error("the account still has {0}")]
    InUse(String),
    /// The directory did not.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// A new account, with its first key.
pub struct NewAccount {
    /// The account.
    pub account: Account,
    /// The id of its key.
    pub key: String,
    /// The secret of its key.
    pub secret: Secret,
}

fn check(name: &str, email: &str) -> Result<(), AccountError> {
    let printable = |text: &str| !text.chars().any(char::is_control);
    let length = name.chars().count();
    if !(1..=limits::ACCOUNT_NAME_CHARS_MAX).contains(&length) || !printable(name) {
        let most = limits::ACCOUNT_NAME_CHARS_MAX;
        return Err(AccountError::Invalid(format!("a name has 1 to {most} characters")));
    }
    let is_address = email.len() <= limits::EMAIL_BYTES_MAX
        && email.bytes().all(|byte| (0x21..0x7f).contains(&byte))
        && email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    if is_address {
        Ok(())
    } else {
        Err(AccountError::Invalid(format!("no e-mail address: {email}")))
    }
}

impl Directory {
    /// Makes an account and a key for it.
    pub async fn create_account(
        &self,
        name: &str,
        email: &str,
    ) -> Result<NewAccount, AccountError> {
        self.make_account(name, email, false).await
    }

    /// The same; `bare`: ARNs of what it holds are written without its number, and ARNs without a
    /// number mean it. One account at most is so. It is so from the beginning: what was stored would
    /// else have changed its name.
    pub async fn make_account(
        &self,
        name: &str,
        email: &str,
        bare: bool,
    ) -> Result<NewAccount, AccountError> {
        check(name, email)?;
        for _ in 0..limits::CHANGE_TRIES_MAX {
            let id = AccountId::from_random(self.random_number());
            let key_id = self.random_id("AKIA");
            let secret = self.random_secret();
            let account = Account {
                id: id.clone(),
                name: name.to_owned(),
                email: email.to_owned(),
                created_ms: self.now_ms(),
                keys: BTreeSet::from([key_id.clone()]),
            };
            let key = Key {
                account: id.clone(),
                user: None,
                sealed: self.seal(&key_id, &secret)?,
                active: true,
                created_ms: self.now_ms(),
            };
            let address = Named { account: id.clone() };
            let mut writes = vec![
                directory::write(paths::account(&id), 0, &account)?,
                directory::write(paths::email(email), 0, &address)?,
                directory::write(paths::key(&key_id), 0, &key)?,
            ];
            if bare {
                writes.push(directory::write(paths::BARE.to_owned(), 0, &address)?);
            }
            match self.write(writes).await {
                Ok(()) => return Ok(NewAccount { account, key: key_id, secret }),
                Err(DirectoryError::Grid(GridError::Conflict)) => {
                    if self.read::<Named>(&paths::email(email)).await?.is_some() {
                        return Err(AccountError::AddressTaken(email.to_owned()));
                    }
                    if bare && let Some(other) = self.read::<Named>(paths::BARE).await? {
                        return Err(AccountError::BareTaken(other.value.account));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(AccountError::Directory(DirectoryError::Grid(GridError::Conflict)))
    }

    /// All accounts, the founders' first.
    pub async fn list_accounts(&self) -> Result<Vec<Account>, AccountError> {
        let accounts = self.accounts().await?;
        let mut all: Vec<Account> = accounts.all().cloned().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// Removes an account that owns no bucket and no identity; its keys go with it.
    pub async fn delete_account(&self, id: &str) -> Result<(), AccountError> {
        let missing = || AccountError::Missing(id.to_owned());
        let account = AccountId::new(id).map_err(|_| missing())?;
        if account == AccountId::founders() {
            return Err(AccountError::InUse("the grid's founders in it".to_owned()));
        }
        let path = paths::account(&account);
        let Read { revision, value, .. } =
            self.read::<Account>(&path).await?.ok_or_else(missing)?;
        let owned = self.store.list_buckets().await.map_err(DirectoryError::Grid)?;
        if let Some(bucket) = owned.iter().find(|bucket| bucket.owner == id) {
            return Err(AccountError::InUse(format!("the bucket {}", bucket.name)));
        }
        // With its keys would go whatever is sealed by them.
        for kind in ["iam", "kms"] {
            let under = format!("{kind}/{account}/");
            let found = self.store.records(&under, "", 1).await.map_err(DirectoryError::Grid)?;
            if let Some(record) = found.first() {
                let what = record.path.trim_start_matches(&under).to_owned();
                return Err(AccountError::InUse(what));
            }
        }
        let mut writes = vec![directory::remove(path, revision)];
        if let Some(usage) = self.read::<Usage>(&paths::usage(&account)).await? {
            writes.push(directory::remove(usage.path, usage.revision));
        }
        let quota = self.store.records_at(&[quota::path(&account)]).await;
        for quota in quota.map_err(DirectoryError::Grid)? {
            writes.push(directory::remove(quota.path, quota.revision));
        }
        for name in [paths::email(&value.email), paths::BARE.to_owned()] {
            let found = self.read::<Named>(&name).await?;
            if let Some(found) = found.filter(|found| found.value.account == account) {
                writes.push(directory::remove(name, found.revision));
            }
        }
        for key in &value.keys {
            if let Some(found) = self.read::<Key>(&paths::key(key)).await? {
                writes.push(directory::remove(found.path, found.revision));
            }
        }
        Ok(self.write(writes).await?)
    }
}
