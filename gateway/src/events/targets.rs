//! Where events go: what an account's administrators set up, by name.
//!
//! A target is a record of the root group, `event/ACCOUNT/NAME`; its secrets are sealed under the
//! master key and bound to its path.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexusgrid_env::{BootInstant, Env};
use nexusgrid_grid::{GridError, RecordWrite};
use nexusgrid_iam::{AccountId, Secret};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::store::SharedStore;

/// A target's account and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetId {
    /// Whose it is.
    pub account: AccountId,
    /// Its name.
    pub name: String,
}

/// Whether a target may be called so: letters, digits, `-` and `_`.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=limits::EVENT_TARGET_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_plain)
}

impl TargetId {
    /// By an ARN as those of queues and topics: `arn:aws:sqs:REGION:ACCOUNT:NAME`.
    pub fn of_arn(arn: &str) -> Option<TargetId> {
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", _, "sqs" | "sns", _, account, name] = parts.as_slice() else { return None };
        let account = AccountId::new(*account).ok()?;
        is_name(name).then(|| TargetId { account, name: (*name).to_owned() })
    }

    /// The ARN by which buckets name it.
    pub fn arn(&self, region: &str) -> String {
        format!("arn:aws:sqs:{region}:{}:{}", self.account, self.name)
    }

    /// Where its record is.
    pub(crate) fn path(&self) -> String {
        format!("event/{}/{}", self.account, self.name)
    }

    /// With what the keys of its queue begin, after the queue's own name.
    pub(crate) fn queue(&self) -> String {
        format!("{}/{}/", self.account, self.name)
    }

    /// The inverse of [`TargetId::queue`], of a key that goes on.
    pub(crate) fn of_queue(key: &str) -> Option<TargetId> {
        let mut parts = key.split('/');
        let account = AccountId::new(parts.next()?).ok()?;
        let name = parts.next().filter(|name| is_name(name))?.to_owned();
        Some(TargetId { account, name })
    }
}

/// How a target is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TargetKind {
    /// A URL that events are posted to.
    Webhook {
        /// `https://…`; `http://…` to addresses that the configuration lists.
        url: String,
        /// What signs them, sealed; `None`: they are not signed.
        secret: Option<Vec<u8>>,
    },
    /// A subject of a NATS server.
    Nats {
        /// `nats://host:port` or `tls://host:port`.
        url: String,
        /// The subject.
        subject: String,
        /// A token for the server, sealed.
        token: Option<Vec<u8>>,
    },
}

impl TargetKind {
    /// Where it leads.
    pub fn url(&self) -> &str {
        match self {
            TargetKind::Webhook { url, .. } | TargetKind::Nats { url, .. } => url,
        }
    }

    /// What is sealed in it.
    pub(crate) fn sealed(&self) -> Option<&[u8]> {
        match self {
            TargetKind::Webhook { secret, .. } => secret.as_deref(),
            TargetKind::Nats { token, .. } => token.as_deref(),
        }
    }
}

/// Why a target could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No name or URL of a target.
    #[error("{0}")]
    Invalid(String),
    /// There is none of that name.
    #[error("there is no event target {0}")]
    Missing(String),
    /// The grid did not.
    #[error(transparent)]
    Grid(#[from] GridError),
}

/// The targets of all accounts, as this gateway has them.
pub struct Targets {
    env: Env,
    store: SharedStore,
    /// With the rules version and the moment they were read at.
    kept: Mutex<Option<Kept>>,
}

type Kept = (u64, BootInstant, Arc<BTreeMap<TargetId, TargetKind>>);

impl Targets {
    /// Of the grid behind `store`.
    pub fn new(env: Env, store: SharedStore) -> Targets {
        Targets { env, store, kept: Mutex::default() }
    }

    /// All of them. What cannot be read is left out: nothing is delivered to it.
    pub async fn all(&self) -> Result<Arc<BTreeMap<TargetId, TargetKind>>, GridError> {
        let version = self.store.rules_version();
        let now = self.env.clock.now();
        if let Some((at, since, kept)) = &*self.kept.lock()
            && *at == version
            && now.since(*since) < limits::PRINCIPAL_FRESH
        {
            return Ok(Arc::clone(kept));
        }
        let records = self.store.records("event/", "", limits::EVENT_TARGETS_MAX).await?;
        let read = |record: nexusgrid_grid::Record| {
            let id = TargetId::of_queue(record.path.strip_prefix("event/")?)?;
            Some((id, serde_json::from_slice(&record.value).ok()?))
        };
        let all: Arc<BTreeMap<TargetId, TargetKind>> =
            Arc::new(records.into_iter().filter_map(read).collect());
        *self.kept.lock() = Some((version, now, Arc::clone(&all)));
        Ok(all)
    }

    /// Whether there is a target of this name, readable or not.
    pub(crate) async fn is_there(&self, id: &TargetId) -> Result<bool, GridError> {
        Ok(!self.store.records_at(&[id.path()]).await?.is_empty())
    }

    /// Sets a target up, or changes it. `secret` signs what is posted, or opens the server.
    pub async fn set(
        &self,
        id: &TargetId,
        kind: TargetKind,
        secret: Option<&Secret>,
    ) -> Result<(), TargetError> {
        if !is_name(&id.name) {
            let text = "a target's name has letters, digits, - and _, 80 at most";
            return Err(TargetError::Invalid(text.to_owned()));
        }
        check(&kind)?;
        let path = id.path();
        let sealed = match secret {
            Some(secret) => Some(self.store.seal_secret(&path, secret.expose().as_bytes())?),
            None => None,
        };
        let kind = match kind {
            TargetKind::Webhook { url, .. } => TargetKind::Webhook { url, secret: sealed },
            TargetKind::Nats { url, subject, .. } => {
                TargetKind::Nats { url, subject, token: sealed }
            }
        };
        let all = self.all().await?;
        if all.len() >= limits::EVENT_TARGETS_MAX && !all.contains_key(id) {
            return Err(TargetError::Invalid("there are too many event targets".to_owned()));
        }
        let value =
            serde_json::to_vec(&kind).map_err(|error| GridError::Internal(error.to_string()))?;
        let write = RecordWrite { path, expect: None, value: Some(value) };
        Ok(self.store.write_records(vec![write]).await?)
    }

    /// Removes a target. What waits for it is dropped.
    pub async fn remove(&self, id: &TargetId) -> Result<(), TargetError> {
        let path = id.path();
        if self.store.records_at(std::slice::from_ref(&path)).await?.is_empty() {
            return Err(TargetError::Missing(id.name.clone()));
        }
        let write = RecordWrite { path, expect: None, value: None };
        Ok(self.store.write_records(vec![write]).await?)
    }
}

fn check(kind: &TargetKind) -> Result<(), TargetError> {
    let schemes: &[&str] = match kind {
        TargetKind::Webhook { .. } => &["https://", "http://"],
        TargetKind::Nats { .. } => &["nats://", "tls://"],
    };
    let url = kind.url();
    let is_url = schemes.iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
        && url.len() <= limits::EVENT_URL_BYTES_MAX
        && url.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_url {
        return Err(TargetError::Invalid(format!("{url} is no URL of {}", schemes.join(" or "))));
    }
    if let TargetKind::Nats { subject, .. } = kind {
        let is_odd = |byte: u8| !byte.is_ascii_graphic() || byte == b'*' || byte == b'>';
        if subject.is_empty() || subject.len() > 256 || subject.bytes().any(is_odd) {
            return Err(TargetError::Invalid(format!("{subject} is no subject to publish to")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_by_arns_and_keys() {
        let id = TargetId { account: AccountId::founders(), name: "a-b_1".into() };
        assert_eq!(TargetId::of_arn(&id.arn("here")), Some(id.clone()));
        assert_eq!(TargetId::of_queue(&format!("{}x/y", id.queue())), Some(id));
        for arn in [
            "",
            "arn:aws:lambda:r:000000000001:a",
            "arn:aws:sqs:r:1:a",
            "arn:aws:sqs:r:000000000001:a/b",
            "arn:aws:sqs:r:000000000001:",
            "arn:aws:sqs:r:000000000001:a:b",
        ] {
            assert_eq!(TargetId::of_arn(arn), None, "{arn}");
        }
    }
}
