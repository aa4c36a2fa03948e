//! Keys that the grid keeps by name, and what they seal: data keys of objects.
//!
//! A key is a record of the root group (`kms/ACCOUNT/key/ID`): its state, and its versions, each 32
//! random bytes sealed under the master key. New data keys are sealed by the newest version; older
//! ones stay to open what they sealed. A key that is to be rotated by time is so when it is next
//! used to seal. Aliases are records beside it (`kms/ACCOUNT/alias/NAME`).
//!
//! State: keys read lately, each with the rules version it was read at (as [`crate::rules`] keeps
//! buckets' rules), and how fast accounts have changed theirs. Opened keys live no longer than a call, and are never printed (I16).

pub mod api;
mod entities;
pub(crate) mod route;
mod seal;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nexusgrid_env::{BootInstant, Env};
use nexusgrid_grid::{GridError, RecordWrite};
use nexusgrid_iam::{AccessKeyId, AccountId, Principal};
use parking_lot::Mutex;
use zeroize::Zeroizing;

pub use entities::{Alias, Key, KeyState, Version};
pub use seal::{DATA_KEY_LEN, Sealed};

use crate::limits;
use crate::pace::Pace;
use crate::store::SharedStore;

/// Why a key cannot be used, by AWS' names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KmsError {
    /// There is none of that name.
    #[error("Key '{0}' does not exist")]
    NotFound(String),
    /// It is switched off.
    #[error("{0} is disabled.")]
    Disabled(String),
    /// It waits to be deleted, or does not.
    #[error("{0} is pending deletion, or is not.")]
    State(String),
    /// What was sealed is not of this key and context.
    #[error("the ciphertext cannot be opened")]
    Ciphertext,
    /// Something of that name is there.
    #[error("An alias with the name {0} already exists")]
    Exists(String),
    /// A parameter that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// One more than there may be.
    #[error("{0}")]
    Limit(String),
    /// A record cannot be read.
    #[error("the record {0} cannot be read")]
    Unreadable(String),
    /// The grid did not.
    #[error(transparent)]
    Grid(#[from] GridError),
}

/// A key as it was read.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its record's revision.
    pub revision: u64,
    /// Whose.
    pub account: AccountId,
    /// What it says.
    pub key: Key,
}

type Kept = BTreeMap<String, (u64, BootInstant, Arc<Found>)>;

/// The keys of all accounts.
pub struct Kms {
    env: Env,
    store: SharedStore,
    region: Arc<str>,
    kept: Mutex<Kept>,
    pace: Pace,
}

/// A data key, open and sealed.
pub struct DataKey {
    /// 32 random bytes.
    pub open: Zeroizing<[u8; DATA_KEY_LEN]>,
    /// The same, sealed.
    pub sealed: Vec<u8>,
}

fn key_path(account: &AccountId, id: &str) -> String {
    format!("kms/{account}/key/{id}")
}

fn alias_path(account: &AccountId, name: &str) -> String {
    format!("kms/{account}/alias/{name}")
}

/// What a version's sealed bytes are bound to.
fn version_name(account: &AccountId, id: &str, version: u32) -> String {
    format!("kms/{account}/{id}/{version}")
}

fn too_many(what: &str) -> KmsError {
    KmsError::Limit(format!("an account has at most {} {what}", limits::KMS_KEYS_OF_ACCOUNT_MAX))
}

/// Days as milliseconds.
fn days(days: u32) -> u64 {
    u64::from(days) * 24 * 3_600 * 1_000
}

impl Kms {
    /// Over the records of `store`.
    pub fn new(env: Env, store: SharedStore, region: Arc<str>) -> Kms {
        let pace = Pace::new(env.clone(), limits::CHANGES_PER_SECOND, limits::CHANGES_AT_ONCE);
        Kms { env, store, region, kept: Mutex::default(), pace }
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.env.clock.wall().0
    }

    /// The ARN of a key.
    pub fn arn(&self, account: &AccountId, id: &str) -> String {
        format!("arn:aws:kms:{}:{account}:key/{id}", self.region)
    }

    /// The ARN of an alias; its name begins with `alias/`.
    pub fn alias_arn(&self, account: &AccountId, name: &str) -> String {
        format!("arn:aws:kms:{}:{account}:{name}", self.region)
    }

    fn decode(path: &str, bytes: &[u8]) -> Result<Key, KmsError> {
        serde_json::from_slice(bytes).map_err(|_| KmsError::Unreadable(path.to_owned()))
    }

    /// The key of an id, ARN, alias or alias' ARN; ids and aliases are the caller's own.
    pub async fn find(&self, caller: &AccountId, name: &str) -> Result<Arc<Found>, KmsError> {
        let missing = || KmsError::NotFound(name.to_owned());
        if name.len() > limits::KMS_NAME_BYTES_MAX {
            return Err(missing());
        }
        let (account, rest) = match name.strip_prefix("arn:aws:kms:") {
            None => (caller.clone(), name),
            Some(rest) => {
                let mut parts = rest.splitn(3, ':');
                let (_region, account, rest) = (parts.next(), parts.next(), parts.next());
                let account = account.and_then(|account| AccountId::new(account).ok());
                (account.ok_or_else(missing)?, rest.ok_or_else(missing)?)
            }
        };
        let id = match rest.strip_prefix("alias/") {
            Some(alias) => {
                let path = alias_path(&account, alias);
                let found = self.store.records_at(std::slice::from_ref(&path)).await?;
                let record = found.into_iter().next().ok_or_else(missing)?;
                let alias: Alias = serde_json::from_slice(&record.value)
                    .map_err(|_| KmsError::Unreadable(path))?;
                alias.key
            }
            None => rest.strip_prefix("key/").unwrap_or(rest).to_owned(),
        };
        self.by_id(&account, &id).await?.ok_or_else(missing)
    }

    async fn by_id(&self, account: &AccountId, id: &str) -> Result<Option<Arc<Found>>, KmsError> {
        let path = key_path(account, id);
        let version = self.store.rules_version();
        let now = self.env.clock.now();
        let kept = self.kept.lock().get(&path).cloned();
        let found = match kept {
            Some((at, since, found))
                if at == version && now.since(since) < limits::PRINCIPAL_FRESH =>
            {
                found
            }
            _ => return self.read(account, id).await,
        };
        Ok(self.unless_gone(found))
    }

    /// As the root group has it now, whatever is kept.
    async fn read(&self, account: &AccountId, id: &str) -> Result<Option<Arc<Found>>, KmsError> {
        let path = key_path(account, id);
        // Read before the record: what is noted is never newer than what is kept.
        let version = self.store.rules_version();
        let now = self.env.clock.now();
        let records = self.store.records_at(std::slice::from_ref(&path)).await?;
        let Some(record) = records.into_iter().next() else { return Ok(None) };
        let key = Kms::decode(&path, &record.value)?;
        let revision = record.revision;
        let found = Arc::new(Found { revision, account: account.clone(), key });
        {
            let mut kept = self.kept.lock();
            if kept.len() >= limits::KMS_KEYS_KEPT_MAX {
                kept.clear();
            }
            kept.insert(path, (version, now, Arc::clone(&found)));
        }
        Ok(self.unless_gone(found))
    }

    fn unless_gone(&self, found: Arc<Found>) -> Option<Arc<Found>> {
        let is_gone = matches!(found.key.state, KeyState::PendingDeletion { at_ms } if at_ms <= self.now_ms());
        (!is_gone).then_some(found)
    }

    fn usable(&self, found: &Found) -> Result<(), KmsError> {
        let arn = || self.arn(&found.account, &found.key.id);
        match found.key.state {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => Err(KmsError::Disabled(arn())),
            KeyState::PendingDeletion { .. } => Err(KmsError::State(arn())),
        }
    }

    fn material(
        &self,
        found: &Found,
        version: &Version,
    ) -> Result<Zeroizing<[u8; DATA_KEY_LEN]>, KmsError> {
        let unreadable = || KmsError::Unreadable(key_path(&found.account, &found.key.id));
        let sealed = STANDARD.decode(&version.sealed).map_err(|_| unreadable())?;
        let name = version_name(&found.account, &found.key.id, version.number);
        let opened = Zeroizing::new(self.store.open_secret(&name, &sealed)?);
        let mut key = Zeroizing::new([0; DATA_KEY_LEN]);
        if opened.len() != DATA_KEY_LEN {
            return Err(unreadable());
        }
        key.copy_from_slice(&opened);
        Ok(key)
    }

    /// A random salt or nonce.
    pub fn random_salt(&self) -> [u8; 16] {
        let mut salt = [0; 16];
        self.env.rng.fill(&mut salt);
        salt
    }

    fn random(&self) -> Zeroizing<[u8; DATA_KEY_LEN]> {
        let mut key = Zeroizing::new([0; DATA_KEY_LEN]);
        self.env.rng.fill(&mut *key);
        key
    }

    fn new_version(&self, account: &AccountId, id: &str, number: u32) -> Result<Version, KmsError> {
        let name = version_name(account, id, number);
        let sealed = self.store.seal_secret(&name, &*self.random())?;
        let sealed = STANDARD.encode(sealed);
        Ok(Version { number, created_ms: self.now_ms(), sealed })
    }

    /// Seals a few bytes by the key's newest version; rotates it first if it is due.
    pub async fn seal(
        &self,
        found: &Arc<Found>,
        plain: &[u8],
        context: &str,
    ) -> Result<Vec<u8>, KmsError> {
        self.usable(found)?;
        let due = found.key.rotation_due_ms().is_some_and(|due| due <= self.now_ms());
        let newest = found.key.versions.last().map(|version| version.number);
        let rotated = match due {
            true => match self.rotate_from(&found.account, &found.key.id, newest).await {
                Ok(rotated) => Some(rotated),
                Err(
                    error @ (KmsError::NotFound(_) | KmsError::Disabled(_) | KmsError::State(_)),
                ) => return Err(error),
                // All versions may be used up, or too much be changed at once: the old one is good.
                Err(_) => None,
            },
            false => None,
        };
        let found = rotated.as_ref().unwrap_or(found);
        let missing = || KmsError::Unreadable(key_path(&found.account, &found.key.id));
        let version = found.key.versions.last().ok_or_else(missing)?;
        let material = self.material(found, version)?;
        let mut nonce = [0; seal::NONCE_LEN];
        self.env.rng.fill(&mut nonce);
        let binding = seal::binding(found.account.as_str(), &found.key.id, context);
        Sealed { version: version.number, nonce }.seal(&material, &binding, plain)
    }

    /// The inverse of [`Kms::seal`].
    pub async fn open(
        &self,
        found: &Found,
        sealed: &[u8],
        context: &str,
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        self.usable(found)?;
        let (head, body) = Sealed::read(sealed).ok_or(KmsError::Ciphertext)?;
        let newest = found.key.versions.last().map_or(0, |version| version.number);
        let fresh = match head.version > newest {
            // Another gateway may have rotated it, and this one not have heard so.
            true => self.read(&found.account, &found.key.id).await?,
            false => None,
        };
        let found = fresh.as_deref().unwrap_or(found);
        self.usable(found)?;
        let version = found.key.versions.iter().find(|version| version.number == head.version);
        let material = self.material(found, version.ok_or(KmsError::Ciphertext)?)?;
        let binding = seal::binding(found.account.as_str(), &found.key.id, context);
        head.open(&material, &binding, body)
    }

    /// A new data key.
    pub async fn data_key(&self, found: &Arc<Found>, context: &str) -> Result<DataKey, KmsError> {
        let open = self.random();
        let sealed = self.seal(found, &*open, context).await?;
        Ok(DataKey { open, sealed })
    }

    /// Opens a data key.
    pub async fn open_data_key(
        &self,
        found: &Found,
        sealed: &[u8],
        context: &str,
    ) -> Result<Zeroizing<[u8; DATA_KEY_LEN]>, KmsError> {
        let opened = self.open(found, sealed, context).await?;
        let mut key = Zeroizing::new([0; DATA_KEY_LEN]);
        if opened.len() != DATA_KEY_LEN {
            return Err(KmsError::Ciphertext);
        }
        key.copy_from_slice(&opened);
        Ok(key)
    }

    /// Makes a key.
    pub async fn create(
        &self,
        account: &AccountId,
        description: &str,
        tags: BTreeMap<String, String>,
    ) -> Result<Arc<Found>, KmsError> {
        if description.len() > limits::KMS_DESCRIPTION_BYTES_MAX {
            return Err(KmsError::Invalid("the description is too long".to_owned()));
        }
        // Two at the same time may both be the last one: the bound need not be exact.
        if self.list(account).await?.len() >= limits::KMS_KEYS_OF_ACCOUNT_MAX {
            return Err(too_many("keys"));
        }
        let id = entities::uuid(self.random_salt());
        let key = Key {
            id: id.clone(),
            description: description.to_owned(),
            created_ms: self.now_ms(),
            state: KeyState::Enabled,
            rotation_days: None,
            versions: vec![self.new_version(account, &id, 1)?],
            tags,
        };
        let found = Found { revision: 0, account: account.clone(), key };
        self.write(found).await
    }

    async fn write(&self, found: Found) -> Result<Arc<Found>, KmsError> {
        let path = key_path(&found.account, &found.key.id);
        let unreadable = |_| KmsError::Unreadable(path.clone());
        let value = serde_json::to_vec(&found.key).map_err(unreadable)?;
        let expect = Some(found.revision);
        let write = RecordWrite { path, expect, value: Some(value) };
        let (account, id) = (&found.account, &found.key.id);
        self.commit(account, write).await?;
        self.read(account, id).await?.ok_or_else(|| KmsError::NotFound(id.clone()))
    }

    /// Writes a record of an account's, at the pace that accounts have.
    async fn commit(&self, account: &AccountId, write: RecordWrite) -> Result<(), KmsError> {
        if !self.pace.take(account.as_str()) {
            return Err(GridError::SlowDown.into());
        }
        Ok(self.store.write_records(vec![write]).await?)
    }

    /// Changes a key, again from what is there if another change came between. What `change` leaves
    /// as it is is not written.
    pub async fn change(
        &self,
        account: &AccountId,
        id: &str,
        mut change: impl FnMut(&mut Key) -> Result<(), KmsError>,
    ) -> Result<Arc<Found>, KmsError> {
        for _ in 0..limits::CHANGE_TRIES_MAX {
            let found = self.read(account, id).await?;
            let found = found.ok_or_else(|| KmsError::NotFound(id.to_owned()))?;
            let mut changed = (*found).clone();
            change(&mut changed.key)?;
            if changed.key == found.key {
                return Ok(found);
            }
            match self.write(changed).await {
                Err(KmsError::Grid(GridError::Conflict)) => {}
                other => return other,
            }
        }
        Err(GridError::Conflict.into())
    }

    /// Gives a key a new version, which seals from now on.
    pub async fn rotate(&self, account: &AccountId, id: &str) -> Result<Arc<Found>, KmsError> {
        self.rotate_from(account, id, None).await
    }

    /// The same, but only if `newest` is still the newest version, if it is given: of many that see
    /// at once that a key is due, one rotates it.
    async fn rotate_from(
        &self,
        account: &AccountId,
        id: &str,
        newest: Option<u32>,
    ) -> Result<Arc<Found>, KmsError> {
        let arn = self.arn(account, id);
        self.change(account, id, |key| {
            match key.state {
                KeyState::Enabled => {}
                KeyState::Disabled => return Err(KmsError::Disabled(arn.clone())),
                KeyState::PendingDeletion { .. } => return Err(KmsError::State(arn.clone())),
            }
            let last = key.versions.last().map(|version| version.number);
            if newest.is_some() && newest != last {
                return Ok(());
            }
            if key.versions.len() >= limits::KMS_VERSIONS_MAX {
                let most = limits::KMS_VERSIONS_MAX;
                return Err(KmsError::Limit(format!("a key has at most {most} versions")));
            }
            let number = last.map_or(1, |last| last + 1);
            key.versions.push(self.new_version(account, id, number)?);
            Ok(())
        })
        .await
    }

    /// Switches a key on or off.
    pub async fn enable(
        &self,
        account: &AccountId,
        id: &str,
        enabled: bool,
    ) -> Result<Arc<Found>, KmsError> {
        let arn = self.arn(account, id);
        self.change(account, id, |key| {
            key.state = match (key.state, enabled) {
                (KeyState::PendingDeletion { .. }, _) => {
                    return Err(KmsError::State(arn.clone()));
                }
                (_, true) => KeyState::Enabled,
                (_, false) => KeyState::Disabled,
            };
            Ok(())
        })
        .await
    }

    /// All keys of an account, in order of id. Those whose time is over go for good.
    pub async fn list(&self, account: &AccountId) -> Result<Vec<Found>, KmsError> {
        let prefix = key_path(account, "");
        let records = self.store.records(&prefix, "", limits::KMS_KEYS_MAX).await?;
        let mut all = Vec::new();
        for record in records {
            let key = Kms::decode(&record.path, &record.value)?;
            if matches!(key.state, KeyState::PendingDeletion { at_ms } if at_ms <= self.now_ms()) {
                let expect = Some(record.revision);
                let write = RecordWrite { path: record.path, expect, value: None };
                match self.store.write_records(vec![write]).await {
                    Ok(()) | Err(GridError::Conflict) => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            all.push(Found { revision: record.revision, account: account.clone(), key });
        }
        Ok(all)
    }

    /// Does one operation of this interface as an account itself: for administrators.
    pub async fn administer(
        &self,
        account: &str,
        action: &str,
        parameters: &serde_json::Value,
    ) -> Result<serde_json::Value, api::Refusal> {
        let missing = || api::Refusal::new("NotFoundException", format!("no account {account}"));
        let id = AccountId::new(account).map_err(|_| missing())?;
        let key = AccessKeyId::new("administrator").map_err(|_| missing())?;
        let principal = Principal::root(&key, &id);
        let parameters = parameters.as_object().cloned().unwrap_or_default();
        let context = crate::context::of_caller(&principal, self.now_ms());
        let (parameters, context) = (&parameters, &context);
        let (kms, principal) = (self, &principal);
        api::run(&api::Call { kms, principal, account: id, action, parameters, context }).await
    }

    /// All aliases of an account, in order.
    pub async fn aliases(&self, account: &AccountId) -> Result<Vec<(String, Alias)>, KmsError> {
        let prefix = alias_path(account, "");
        let records = self.store.records(&prefix, "", limits::KMS_KEYS_MAX).await?;
        let read = |record: nexusgrid_grid::Record| {
            let name = record.path.strip_prefix(&prefix).unwrap_or_default();
            let alias = serde_json::from_slice(&record.value)
                .map_err(|_| KmsError::Unreadable(record.path.clone()))?;
            Ok((format!("alias/{name}"), alias))
        };
        records.into_iter().map(read).collect()
    }

    /// Names a key: `alias/NAME`. A new name unless `replace`.
    pub async fn set_alias(
        &self,
        account: &AccountId,
        name: &str,
        key: &str,
        replace: bool,
    ) -> Result<(), KmsError> {
        let invalid = || KmsError::Invalid(format!("no name of an alias: {name}"));
        let short = name.strip_prefix("alias/").ok_or_else(invalid)?;
        let is_good = (1..=limits::KMS_ALIAS_BYTES_MAX).contains(&short.len())
            && short.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte));
        if !is_good {
            return Err(invalid());
        }
        let path = alias_path(account, short);
        let records = self.store.records_at(std::slice::from_ref(&path)).await?;
        let expect = match (records.first(), replace) {
            (None, false) => 0,
            (Some(record), true) => record.revision,
            (Some(_), false) => return Err(KmsError::Exists(name.to_owned())),
            (None, true) => return Err(KmsError::NotFound(name.to_owned())),
        };
        if !replace && self.aliases(account).await?.len() >= limits::KMS_KEYS_OF_ACCOUNT_MAX {
            return Err(too_many("aliases"));
        }
        let alias = Alias { key: key.to_owned(), changed_ms: self.now_ms() };
        let value = serde_json::to_vec(&alias).map_err(|_| KmsError::Unreadable(path.clone()))?;
        let write = RecordWrite { path, expect: Some(expect), value: Some(value) };
        self.commit(account, write).await
    }

    /// Takes a name away.
    pub async fn delete_alias(&self, account: &AccountId, name: &str) -> Result<(), KmsError> {
        let missing = || KmsError::NotFound(name.to_owned());
        let path = alias_path(account, name.strip_prefix("alias/").ok_or_else(missing)?);
        let records = self.store.records_at(std::slice::from_ref(&path)).await?;
        let expect = Some(records.first().ok_or_else(missing)?.revision);
        let write = RecordWrite { path, expect, value: None };
        self.commit(account, write).await
    }
}

#[cfg(test)]
mod tests;
