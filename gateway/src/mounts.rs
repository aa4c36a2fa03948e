//! What may be done with a whole bucket by somebody who mounts it with an access key.
//!
//! A mount is one door for many programs, none of which brings a key of its own: so its key must be allowed for every
//! object there is or may come to be ([`Resource::AllObjects`]). A key that may see a part of the bucket mounts nothing
//! of it. Objects that the owners of other accounts have kept for themselves (`ObjectWriter`) are not looked at one by
//! one: whoever may read all of the bucket's own reads these.

use std::sync::Arc;

use nexusgrid_env::Env;
use nexusgrid_grid::GridError;
use nexusgrid_iam::{Action, Context, Decision, Principal, Reason, Resource, Secret, authorize};

use crate::auth::SharedKeys;
use crate::context;
use crate::identity::session::{self, SessionError};
use crate::identity::{Directory, DirectoryError};
use crate::metrics::Metrics;
use crate::rules::{BucketRules, Rules};
use crate::store::SharedStore;

/// An access key, and what proves that whoever brings it has it.
#[derive(Clone)]
pub struct MountKey {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: Secret,
    /// Of a temporary one: what says whose it is.
    pub token: Option<String>,
}

/// What a mount may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MountRights {
    /// To look and read.
    Read,
    /// To change all.
    Write,
}

/// Why there is no mount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountRefusal {
    /// There is no such key, it is switched off, or that is not its secret.
    #[error("the access key is not known, or its secret is another")]
    Key,
    /// It may not do something to the bucket, or to some of its objects.
    #[error("the access key may not do {action} to all of {resource}: {reason}")]
    Denied {
        /// As policies name it.
        action: &'static str,
        /// To what.
        resource: String,
        /// Why not.
        reason: Reason,
    },
    /// There is no such bucket.
    #[error("there is no such bucket")]
    NoSuchBucket,
    /// It cannot be told now.
    #[error("rights cannot be looked up: {0}")]
    Away(String),
}

impl From<GridError> for MountRefusal {
    fn from(error: GridError) -> MountRefusal {
        match error {
            GridError::NoSuchBucket | GridError::InvalidBucketName(_) => MountRefusal::NoSuchBucket,
            other => refusal(other),
        }
    }
}

/// What the grid's failure means for somebody with a key: what may pass is waited for, what cannot be read gives nothing.
fn refusal(error: GridError) -> MountRefusal {
    match error {
        GridError::Unavailable(_)
        | GridError::SlowDown
        | GridError::Conflict
        | GridError::Stopping => MountRefusal::Away(error.to_string()),
        error => {
            tracing::error!(%error, "what a mount's key may do cannot be read: nothing");
            MountRefusal::Key
        }
    }
}

impl From<DirectoryError> for MountRefusal {
    fn from(error: DirectoryError) -> MountRefusal {
        match error {
            DirectoryError::Grid(error) => refusal(error),
            // What cannot be read gives nothing; who read it has said so.
            DirectoryError::Unreadable(_) => MountRefusal::Key,
        }
    }
}

impl From<SessionError> for MountRefusal {
    fn from(error: SessionError) -> MountRefusal {
        match error {
            SessionError::Invalid | SessionError::Expired => MountRefusal::Key,
            SessionError::Directory(error) => error.into(),
        }
    }
}

/// What a mount needs, in the order in which it is asked.
const TO_READ: &[Action] = &[Action::ListObjects, Action::GetObject];
const TO_WRITE: &[Action] = &[Action::PutObject, Action::DeleteObject];

/// Says what mounts may do. It remembers what gateways remember, and no longer.
pub struct Mounts {
    env: Env,
    directory: Directory,
    rules: Rules,
}

impl Mounts {
    /// Of the identities and buckets of `store`; keys that are no identity's come from `keys`.
    pub fn new(env: Env, store: SharedStore, keys: SharedKeys) -> Mounts {
        let directory = Directory::new(env.clone(), Arc::clone(&store), keys);
        let rules = Rules::new(env.clone(), store, Metrics::default());
        Mounts { env, directory, rules }
    }

    /// What whoever brings this key may do with a bucket; refused if that is not even to read all of it.
    pub async fn rights(&self, bucket: &str, key: &MountKey) -> Result<MountRights, MountRefusal> {
        let principal = self.principal(key).await?;
        let rules = self.rules.of(bucket).await?;
        let now = self.env.clock.wall().0;
        let mut context = context::of_caller(&principal, now);
        context::add_bucket_tags(&mut context, rules.tags());
        // Between programs, this agent and the others nothing travels in clear.
        context.set("aws:SecureTransport", "true");
        for action in TO_READ {
            may(&principal, *action, &rules, &context, now)?;
        }
        let writes = |action: &Action| may(&principal, *action, &rules, &context, now).is_ok();
        Ok(if TO_WRITE.iter().all(writes) { MountRights::Write } else { MountRights::Read })
    }

    async fn principal(&self, key: &MountKey) -> Result<Arc<Principal>, MountRefusal> {
        if session::is_temporary(&key.id) {
            let secret = self.directory.session_secret(&key.id).await?;
            if !secret.matches(key.secret.expose()) {
                return Err(MountRefusal::Key);
            }
            let token = key.token.as_deref();
            return Ok(Arc::new(self.directory.session_principal(&key.id, token).await?));
        }
        let found = self.directory.access_key(&key.id).await;
        let found = found.map_err(|error| MountRefusal::Away(error.to_string()))?;
        match found {
            Some(found) if found.secret.matches(key.secret.expose()) && key.token.is_none() => {
                Ok(found.principal)
            }
            _ => Err(MountRefusal::Key),
        }
    }
}

/// Asks for an action on the bucket, or on all of its objects.
fn may(
    principal: &Principal,
    action: Action,
    rules: &BucketRules,
    context: &Context,
    now_unix_ms: u64,
) -> Result<(), MountRefusal> {
    let bucket = rules.info.name.as_str();
    let resource = match action {
        Action::ListObjects => Resource::BucketAlways(bucket),
        _ => Resource::AllObjects(bucket),
    };
    match authorize(principal, action, &resource, &rules.for_iam(None, None), context, now_unix_ms)
    {
        Decision::Allow => Ok(()),
        // A key that is switched off is told as an unknown one.
        Decision::Deny(Reason::KeyDisabled | Reason::KeyExpired) => Err(MountRefusal::Key),
        Decision::Deny(reason) => {
            Err(MountRefusal::Denied { action: action.name(), resource: resource.arn(), reason })
        }
    }
}
