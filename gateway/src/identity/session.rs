//! Temporary credentials: a key, a secret and a token, of which nothing is stored.
//!
//! The secret follows from the key's id and a key of the grid; the token says what the session is,
//! sealed under the master key and bound to the key's id. What a session may do is read anew when
//! it is used: it ends with its role or user, whatever its token says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use nexusgrid_grid::{GridError, RecordWrite};
use nexusgrid_iam::policy::{Document, DocumentKind};
use nexusgrid_iam::{
    AccessKeyId, AccountId, Principal, PrincipalKind, Secret, limits as iam_limits,
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::directory::{Directory, DirectoryError, Read};
use super::entities::{Provider, Role, User, paths};
use super::oidc;
use crate::limits;

/// Ids of temporary keys begin so.
pub const PREFIX: &str = "ASIA";

/// Where the key is that secrets of sessions follow from.
const SIGNING_KEY: &str = "sts/signing-key";

/// What a session is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Of {
    /// An account itself.
    Root,
    /// A user, by name and id.
    User {
        /// Its name.
        name: String,
        /// Its id: another user of that name is not meant.
        id: String,
    },
    /// A role, by name and id.
    Role {
        /// Its name.
        name: String,
        /// Its id: another role of that name is not meant.
        id: String,
        /// What the session is called.
        session: String,
    },
    /// Of who holds a token of a provider that says itself what its people may do.
    Token {
        /// The provider's URL.
        provider: String,
        /// When the provider was made: another of that URL is not meant.
        since_ms: u64,
        /// Who: follows from the provider and the token's subject.
        id: String,
        /// What the session is called.
        name: String,
        /// Names or ARNs of managed policies.
        policies: BTreeSet<String>,
        /// Names of groups of the account.
        groups: BTreeSet<String>,
    },
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose.
    pub account: AccountId,
    /// What it is of.
    pub of: Of,
    /// When it ends, Unix milliseconds.
    pub expires_ms: u64,
    /// Policies that bound it.
    pub policies: Vec<String>,
    /// ARNs of managed policies that bound it.
    pub attached: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The identity provider's ARN, of a session by token.
    pub provider: Option<String>,
    /// What conditions may ask about: what the token said.
    #[serde(default)]
    pub keys: BTreeMap<String, Vec<String>>,
}

/// Credentials of a session.
pub struct Credentials {
    /// The key's id.
    pub id: String,
    /// The secret.
    pub secret: Secret,
    /// What goes with each request.
    pub token: String,
    /// When they end, Unix milliseconds.
    pub expires_ms: u64,
}

/// Why a session's token gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No token, or none of this key and this grid.
    #[error("the security token is invalid")]
    Invalid,
    /// Its time is over.
    #[error("the security token has expired")]
    Expired,
    /// It cannot be looked up now.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// Whether the id is one of a temporary key.
pub fn is_temporary(id: &str) -> bool {
    id.starts_with(PREFIX)
}

impl Directory {
    async fn signing_key(&self) -> Result<Arc<Vec<u8>>, DirectoryError> {
        if let Some(key) = &*self.signing.lock() {
            return Ok(Arc::clone(key));
        }
        loop {
            let found = self.store.records_at(&[SIGNING_KEY.to_owned()]).await?;
            if let Some(record) = found.into_iter().next() {
                let key = Arc::new(self.store.open_secret(SIGNING_KEY, &record.value)?);
                *self.signing.lock() = Some(Arc::clone(&key));
                return Ok(key);
            }
            let secret = self.random_secret();
            let sealed = self.store.seal_secret(SIGNING_KEY, secret.expose().as_bytes())?;
            let write =
                RecordWrite { path: SIGNING_KEY.to_owned(), expect: Some(0), value: Some(sealed) };
            // Another gateway may have been first: then its key counts.
            match self.store.write_records(vec![write]).await {
                Ok(()) | Err(GridError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The secret of a temporary key.
    pub async fn session_secret(&self, id: &str) -> Result<Secret, DirectoryError> {
        let key = self.signing_key().await?;
        let unusable = |_| DirectoryError::Unreadable(SIGNING_KEY.to_owned());
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(unusable)?;
        mac.update(id.as_bytes());
        Ok(Secret::new(STANDARD.encode(mac.finalize().into_bytes())))
    }

    /// Opens a session.
    pub async fn open_session(&self, session: &Session) -> Result<Credentials, DirectoryError> {
        let id = self.random_id(PREFIX);
        let unusable = |_| DirectoryError::Unreadable("a session".to_owned());
        let said = serde_json::to_vec(session).map_err(unusable)?;
        let token = URL_SAFE_NO_PAD.encode(self.store.seal_secret(&id, &said)?);
        let secret = self.session_secret(&id).await?;
        Ok(Credentials { id, secret, token, expires_ms: session.expires_ms })
    }

    /// Who holds the temporary key `id` with this token.
    pub async fn session_principal(
        &self,
        id: &str,
        token: Option<&str>,
    ) -> Result<Principal, SessionError> {
        let key = AccessKeyId::new(id).map_err(|_| SessionError::Invalid)?;
        let token = token.filter(|token| token.len() <= limits::SESSION_TOKEN_BYTES_MAX);
        let sealed = URL_SAFE_NO_PAD.decode(token.ok_or(SessionError::Invalid)?);
        let sealed = sealed.map_err(|_| SessionError::Invalid)?;
        // A token of another key, or of another grid, does not open.
        let said = self.store.open_secret(id, &sealed).map_err(|_| SessionError::Invalid)?;
        let session: Session = serde_json::from_slice(&said).map_err(|_| SessionError::Invalid)?;
        if self.now_ms() >= session.expires_ms {
            return Err(SessionError::Expired);
        }
        let account = &session.account;
        if self.account(account).await?.is_none() {
            return Err(SessionError::Invalid);
        }
        let mut principal = match &session.of {
            Of::Root => Principal::root(&key, account),
            Of::User { name, id } => {
                let user = self.read::<User>(&paths::user(account, name)).await?;
                let user = user.filter(|user| user.value.id == *id);
                let user = user.ok_or(SessionError::Invalid)?.value;
                self.user_principal(&key, account, user).await?
            }
            Of::Role { name, id, session: called } => {
                let role = self.read::<Role>(&paths::role(account, name)).await?;
                let role = role.filter(|role| role.value.id == *id);
                let role = role.ok_or(SessionError::Invalid)?.value;
                let principal = self.role_principal(&key, account, role, called).await?;
                let provider = session.provider.clone();
                let mut tags = principal.tags.clone();
                tags.extend(session.tags.clone());
                Principal { provider, tags, ..principal }
            }
            Of::Token { provider, since_ms, id, name, policies, groups } => {
                let path = paths::provider(account, oidc::name_of(provider));
                let found = self.read::<Provider>(&path).await?;
                let is_same = |found: &Read<Provider>| {
                    found.value.url == *provider && found.value.created_ms == *since_ms
                };
                found.filter(is_same).ok_or(SessionError::Invalid)?;
                let arns = self.arns().await?;
                Principal {
                    kind: PrincipalKind::Session,
                    arn: arns.write("sts", account, &format!("federated-user/{id}")),
                    id: format!("{account}:{id}"),
                    name: name.clone(),
                    provider: session.provider.clone(),
                    policies: self.named_documents(account, policies, groups).await?,
                    tags: session.tags.clone(),
                    ..Principal::root(&key, account)
                }
            }
        };
        principal.keys = session.keys;
        principal.expires_unix_ms = Some(session.expires_ms);
        for text in &session.policies {
            let most = iam_limits::SESSION_POLICY_BYTES_MAX;
            let document = Document::parse(text, DocumentKind::Identity, most);
            principal.session.push(Arc::new(document.map_err(|_| SessionError::Invalid)?));
        }
        for arn in &session.attached {
            let document = self.boundary(account, Some(arn)).await?;
            principal.session.extend(document);
        }
        Ok(principal)
    }
}
