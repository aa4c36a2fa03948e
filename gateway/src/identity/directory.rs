//! Who is who: from an access key to a principal with all its policies.
//!
//! State: principals resolved lately, each with the rules version and the moment it was resolved
//! at. One is used while the grid's rules are still of that version and it is younger than
//! [`PRINCIPAL_FRESH`](crate::limits::PRINCIPAL_FRESH): so a change is heeded as soon as this
//! node's copy of the map brings word of it, and after that time at the latest where no word comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nexusgrid_env::{BootInstant, Env};
use nexusgrid_grid::{GridError, Record, RecordWrite};
use nexusgrid_iam::policy::{Document, DocumentKind};
use nexusgrid_iam::{
    AccessKeyId, AccountId, Arns, Documents, Principal, PrincipalKind, Secret, limits as iam_limits,
};
use parking_lot::Mutex;

use super::accounts::Named;
use super::entities::{Account, Entity, Group, Key, Policies, Policy, Role, User, paths};
use super::managed;
use crate::auth::{AccessKey, KeysUnavailable, SharedKeys};
use crate::limits;
use crate::pace::Pace;
use crate::store::SharedStore;

/// An entity with the revision that it was read at.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// Its record's path.
    pub path: String,
    /// Its record's revision.
    pub revision: u64,
    /// What it says.
    pub value: T,
}

/// Why the directory could not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The grid did not.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// A record cannot be read: nothing that depends on it is allowed.
    #[error("the record {0} cannot be read")]
    Unreadable(String),
}

/// Principals by the id of their key.
type Kept = BTreeMap<String, (u64, BootInstant, Option<AccessKey>)>;

/// Identities of the grid.
pub struct Directory {
    env: Env,
    pub(super) store: SharedStore,
    /// Keys that are no identity's: of founders and services.
    others: SharedKeys,
    kept: Mutex<Kept>,
    accounts: Mutex<Option<(u64, Arc<Accounts>)>>,
    /// How ARNs are written, and the rules version at which that was read.
    arns: Mutex<Option<(u64, Arns)>>,
    /// How fast accounts may change their identities.
    pace: Pace,
    /// What secrets of sessions follow from, once read.
    pub(super) signing: Mutex<Option<Arc<Vec<u8>>>>,
    /// Whether a role's word is enough for who is of another account.
    trust_suffices: bool,
}

/// All accounts.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    by_canonical: BTreeMap<String, Account>,
}

impl Accounts {
    /// By canonical id.
    pub fn by_canonical(&self, id: &str) -> Option<&Account> {
        self.by_canonical.get(id)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Account> {
        self.by_canonical.values()
    }

    /// By its owner's address, regardless of case.
    pub fn by_email(&self, email: &str) -> Option<&Account> {
        self.by_canonical.values().find(|account| account.email.eq_ignore_ascii_case(email))
    }
}

fn decode<T: Entity>(record: Record) -> Result<Read<T>, DirectoryError> {
    match serde_json::from_slice(&record.value) {
        Ok(value) => Ok(Read { path: record.path, revision: record.revision, value }),
        Err(error) => {
            tracing::error!(path = %record.path, %error, "a record cannot be read");
            Err(DirectoryError::Unreadable(record.path))
        }
    }
}

/// The founders' account, as it is until someone describes it.
pub fn founders() -> Account {
    Account {
        id: AccountId::founders(),
        name: "founders".to_owned(),
        email: String::new(),
        created_ms: 0,
        keys: std::collections::BTreeSet::new(),
    }
}

/// A change that writes `value`, if its record is still at `revision` (0: not there).
pub fn write<T: Entity>(
    path: String,
    revision: u64,
    value: &T,
) -> Result<RecordWrite, DirectoryError> {
    let bytes = serde_json::to_vec(value).map_err(|_| DirectoryError::Unreadable(path.clone()))?;
    Ok(RecordWrite { path, expect: Some(revision), value: Some(bytes) })
}

/// A change that takes a record away, if it is still at `revision`.
pub fn remove(path: String, revision: u64) -> RecordWrite {
    RecordWrite { path, expect: Some(revision), value: None }
}

impl Directory {
    /// Over the records of `store`; keys that are no identity's come from `others`.
    pub fn new(env: Env, store: SharedStore, others: SharedKeys) -> Directory {
        let pace = Pace::new(env.clone(), limits::CHANGES_PER_SECOND, limits::CHANGES_AT_ONCE);
        Directory {
            pace,
            env,
            store,
            others,
            kept: Mutex::default(),
            accounts: Mutex::default(),
            arns: Mutex::default(),
            signing: Mutex::default(),
            trust_suffices: false,
        }
    }

    /// The same; `suffices`: who is of another account may take on a role that names them without a
    /// word of their own account's policies.
    pub(crate) fn with_trust(self, suffices: bool) -> Directory {
        Directory { trust_suffices: suffices, ..self }
    }

    /// Whether a role's word is enough for who is of another account.
    pub(super) fn trust_suffices(&self) -> bool {
        self.trust_suffices
    }

    /// Reads an entity.
    pub async fn read<T: Entity>(&self, path: &str) -> Result<Option<Read<T>>, DirectoryError> {
        let found = self.store.records_at(&[path.to_owned()]).await?;
        found.into_iter().next().map(decode).transpose()
    }

    /// Reads all entities under a path.
    pub async fn list<T: Entity>(&self, prefix: &str) -> Result<Vec<Read<T>>, DirectoryError> {
        let found = self.store.records(prefix, "", limits::IDENTITIES_MAX).await?;
        found.into_iter().map(decode).collect()
    }

    /// How many records there are under a path.
    pub(super) async fn count(&self, prefix: &str) -> Result<u32, DirectoryError> {
        let found = self.store.records(prefix, "", limits::IDENTITIES_MAX).await?;
        Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
    }

    /// Writes several records, all or none; `Conflict` if one has changed since it was read.
    pub async fn write(&self, writes: Vec<RecordWrite>) -> Result<(), DirectoryError> {
        Ok(self.store.write_records(writes).await?)
    }

    /// All accounts. The founders' is there even if nobody has written it down.
    pub async fn accounts(&self) -> Result<Arc<Accounts>, DirectoryError> {
        let version = self.store.rules_version();
        if let Some((at, accounts)) = &*self.accounts.lock()
            && *at == version
        {
            return Ok(Arc::clone(accounts));
        }
        let founders = founders();
        let mut by_canonical = BTreeMap::from([(founders.id.canonical_id(), founders)]);
        for account in self.list::<Account>(paths::ACCOUNTS).await? {
            by_canonical.insert(account.value.id.canonical_id(), account.value);
        }
        let accounts = Arc::new(Accounts { by_canonical });
        *self.accounts.lock() = Some((version, Arc::clone(&accounts)));
        Ok(accounts)
    }

    /// How ARNs are written and read.
    pub async fn arns(&self) -> Result<Arns, DirectoryError> {
        // Read before the record: what is noted is never newer than what is kept.
        let version = self.store.rules_version();
        if let Some((at, arns)) = &*self.arns.lock()
            && *at == version
        {
            return Ok(arns.clone());
        }
        let bare = self.read::<Named>(paths::BARE).await?;
        let arns = Arns::with_bare(bare.map(|bare| bare.value.account));
        *self.arns.lock() = Some((version, arns.clone()));
        Ok(arns)
    }

    /// Seals a key's secret.
    pub fn seal(&self, id: &str, secret: &Secret) -> Result<Vec<u8>, DirectoryError> {
        Ok(self.store.seal_secret(id, secret.expose().as_bytes())?)
    }

    /// A random number.
    pub fn random_number(&self) -> u64 {
        self.env.rng.u64()
    }

    /// Random text of capital letters and digits.
    pub fn random_id(&self, prefix: &str) -> String {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let mut id = prefix.to_owned();
        let mut bits = (u128::from(self.env.rng.u64()) << 64) | u128::from(self.env.rng.u64());
        while id.len() < 20 {
            let index = (bits & 31) as usize;
            id.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'A')));
            bits >>= 5;
        }
        id
    }

    /// A random secret key: 40 characters.
    pub fn random_secret(&self) -> Secret {
        use base64::Engine as _;
        let mut bytes = Vec::with_capacity(32);
        while bytes.len() < 30 {
            bytes.extend_from_slice(&self.env.rng.u64().to_be_bytes());
        }
        bytes.truncate(30);
        Secret::new(base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    /// Whether an account may change something that all gateways read again: it is counted.
    pub fn may_change(&self, account: &str) -> bool {
        self.pace.take(account)
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.env.clock.wall().0
    }

    /// The key of this id, `None` if there is none.
    pub async fn access_key(&self, id: &str) -> Result<Option<AccessKey>, KeysUnavailable> {
        let now = self.env.clock.now();
        let version = self.store.rules_version();
        if let Some((at, since, key)) = self.kept.lock().get(id)
            && *at == version
            && now.since(*since) < limits::PRINCIPAL_FRESH
        {
            return Ok(key.clone());
        }
        let found = match self.resolve(id).await {
            Ok(Some(key)) => Some(key),
            Ok(None) => self.others.access_key(id).await?,
            // What cannot be read gives nothing.
            Err(DirectoryError::Unreadable(_)) => None,
            Err(DirectoryError::Grid(error)) => return Err(KeysUnavailable(error.to_string())),
        };
        let mut kept = self.kept.lock();
        if kept.len() >= limits::PRINCIPALS_KEPT_MAX {
            kept.retain(|_, (at, since, _)| {
                *at == version && now.since(*since) < limits::PRINCIPAL_FRESH
            });
            if kept.len() >= limits::PRINCIPALS_KEPT_MAX {
                kept.clear();
            }
        }
        kept.insert(id.to_owned(), (version, now, found.clone()));
        Ok(found)
    }

    async fn resolve(&self, id: &str) -> Result<Option<AccessKey>, DirectoryError> {
        let Ok(key_id) = AccessKeyId::new(id) else { return Ok(None) };
        let Some(Read { value: key, .. }) = self.read::<Key>(&paths::key(id)).await? else {
            return Ok(None);
        };
        let opened = self.store.open_secret(id, &key.sealed)?;
        let Ok(secret) = String::from_utf8(opened) else {
            return Err(DirectoryError::Unreadable(paths::key(id)));
        };
        // A key of an account that is gone is none, nor are its users' and roles'.
        let Some(account) = self.account(&key.account).await? else { return Ok(None) };
        let mut principal = match &key.user {
            None => {
                let mut principal = Principal::root(&key_id, &account.id);
                principal.name = account.name;
                principal
            }
            Some(name) => {
                let Some(user) = self.read::<User>(&paths::user(&key.account, name)).await? else {
                    return Ok(None);
                };
                self.user_principal(&key_id, &key.account, user.value).await?
            }
        };
        principal.enabled = key.active;
        Ok(Some(AccessKey { principal: Arc::new(principal), secret: Secret::new(secret) }))
    }

    /// An account, if there is one of that id; the founders' always is.
    pub(super) async fn account(&self, id: &AccountId) -> Result<Option<Account>, DirectoryError> {
        let found = self.read::<Account>(&paths::account(id)).await?;
        Ok(match found {
            Some(found) if found.value.id == *id => Some(found.value),
            Some(_) => None,
            None => (*id == AccountId::founders()).then(founders),
        })
    }

    pub(super) async fn user_principal(
        &self,
        key: &AccessKeyId,
        account: &AccountId,
        user: User,
    ) -> Result<Principal, DirectoryError> {
        let mut principal = Principal::user(key, account, &user.path, &user.name, &user.id);
        let thing = format!("user{}{}", user.path, user.name);
        principal.arn = self.arns().await?.write("iam", account, &thing);
        let mut sets = vec![user.policies];
        let groups: Vec<String> =
            user.groups.iter().map(|name| paths::group(account, name)).collect();
        for record in self.records(&groups).await? {
            sets.push(decode::<Group>(record)?.value.policies);
        }
        principal.policies = self.documents(account, &sets).await?;
        principal.boundary = self.boundary(account, user.boundary.as_deref()).await?;
        principal.tags = user.tags;
        Ok(principal)
    }

    /// A session of a role.
    pub(super) async fn role_principal(
        &self,
        key: &AccessKeyId,
        account: &AccountId,
        role: Role,
        called: &str,
    ) -> Result<Principal, DirectoryError> {
        let arns = self.arns().await?;
        let role_arn = arns.write("iam", account, &format!("role{}{}", role.path, role.name));
        Ok(Principal {
            kind: PrincipalKind::Session,
            arn: arns.write("sts", account, &format!("assumed-role/{}/{called}", role.name)),
            id: format!("{}:{called}", role.id),
            name: called.to_owned(),
            role_arn: Some(role_arn),
            policies: self.documents(account, std::slice::from_ref(&role.policies)).await?,
            boundary: self.boundary(account, role.boundary.as_deref()).await?,
            tags: role.tags,
            ..Principal::root(key, account)
        })
    }

    /// The documents of managed policies and groups, as a token names them. A group that is none gives
    /// nothing; a policy that is none makes the whole unreadable, since it may have denied.
    pub(super) async fn named_documents(
        &self,
        account: &AccountId,
        policies: &BTreeSet<String>,
        groups: &BTreeSet<String>,
    ) -> Result<Documents, DirectoryError> {
        let arns = self.arns().await?;
        let attached = policies.iter().map(|name| policy_arn(&arns, account, name)).collect();
        let mut sets = vec![Policies { attached, ..Policies::default() }];
        let groups: Vec<String> = groups.iter().map(|name| paths::group(account, name)).collect();
        for record in self.records(&groups).await? {
            sets.push(decode::<Group>(record)?.value.policies);
        }
        self.documents(account, &sets).await
    }

    async fn records(&self, paths: &[String]) -> Result<Vec<Record>, DirectoryError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.store.records_at(paths).await?)
    }

    async fn documents(
        &self,
        account: &AccountId,
        sets: &[Policies],
    ) -> Result<Documents, DirectoryError> {
        let arns = self.arns().await?;
        let mut documents = Vec::new();
        let mut attached = Vec::new();
        for set in sets {
            for text in set.inline.values() {
                documents.push(identity_document(text)?);
            }
            for arn in &set.attached {
                match (managed::document(arn), policy_name(&arns, account, arn)) {
                    (Some(text), _) => documents.push(identity_document(text)?),
                    (None, Some(name)) => attached.push(paths::policy(account, name)),
                    (None, None) => return Err(DirectoryError::Unreadable(arn.clone())),
                }
            }
        }
        attached.sort_unstable();
        attached.dedup();
        let wanted = attached.len();
        let records = self.records(&attached).await?;
        if records.len() != wanted {
            // One was deleted although it is attached: which of its denials is lost is not known.
            return Err(DirectoryError::Unreadable("an attached policy".to_owned()));
        }
        for record in records {
            documents.push(default_document(&decode::<Policy>(record)?.value)?);
        }
        Ok(documents)
    }

    pub(super) async fn boundary(
        &self,
        account: &AccountId,
        arn: Option<&str>,
    ) -> Result<Option<Arc<Document>>, DirectoryError> {
        let Some(arn) = arn else { return Ok(None) };
        if let Some(text) = managed::document(arn) {
            return identity_document(text).map(Some);
        }
        let missing = || DirectoryError::Unreadable(arn.to_owned());
        let arns = self.arns().await?;
        let name = policy_name(&arns, account, arn).ok_or_else(missing)?;
        let policy = self.read::<Policy>(&paths::policy(account, name)).await?;
        default_document(&policy.ok_or_else(missing)?.value).map(Some)
    }
}

fn identity_document(text: &str) -> Result<Arc<Document>, DirectoryError> {
    let max = iam_limits::INLINE_POLICY_BYTES_MAX.max(iam_limits::MANAGED_POLICY_BYTES_MAX);
    Document::parse(text, DocumentKind::Identity, max)
        .map(Arc::new)
        .map_err(|_| DirectoryError::Unreadable("a policy".to_owned()))
}

fn default_document(policy: &Policy) -> Result<Arc<Document>, DirectoryError> {
    match policy.versions.get(&policy.default) {
        Some(version) => identity_document(&version.document),
        None => Err(DirectoryError::Unreadable(policy.name.clone())),
    }
}

/// The ARN that a policy is meant by: what is no ARN is the name of one of the account's own, or else
/// of the grid's.
fn policy_arn(arns: &Arns, account: &AccountId, name: &str) -> String {
    let of_grid = format!("{}{name}", managed::PREFIX);
    if name.starts_with("arn:") {
        name.to_owned()
    } else if managed::document(&of_grid).is_some() {
        of_grid
    } else {
        arns.write("iam", account, &format!("policy/{name}"))
    }
}

/// The name of an account's own managed policy, out of its ARN.
pub fn policy_name<'a>(arns: &Arns, account: &AccountId, arn: &'a str) -> Option<&'a str> {
    let (owner, thing) = arns.read(arn)?;
    let path = thing.strip_prefix("policy/").filter(|_| owner == *account)?;
    path.rsplit('/').next().filter(|name| !name.is_empty())
}
