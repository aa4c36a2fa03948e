//! Who may do what: one pure function for every door of the house.
//!
//! S3, the mount, CSI, the admin interface and the scheduler all ask [`authorize`], so that a rule
//! holds everywhere or nowhere. It reads its arguments and nothing else: no clock, no network, no
//! global. Denial is the default: an action that no rule grants is refused, and a rule that cannot
//! be applied (an object action on the cluster, say) is refused too.
//!
//! A *principal* is an access key as the root group knows it: an administrator, or a key with
//! *grants* on single buckets. [`secret`] holds the type in which secret keys travel.
//!
//! This crate must not read headers, parse requests or know S3 names: a door translates its own
//! vocabulary to [`Action`] and [`Resource`] first.

#![forbid(unsafe_code)]

mod action;
mod grant;
mod principal;
pub mod secret;

pub use action::{Action, Needs};
pub use grant::Grant;
pub use principal::{AccessKeyId, InvalidAccessKeyId, Principal};
pub use secret::Secret;

/// What an action is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource<'a> {
    /// The grid itself: its list of buckets, its nodes and drives, its keys.
    Cluster,
    /// A bucket as a whole.
    Bucket(&'a str),
    /// One object of a bucket.
    Object {
        /// The bucket's name.
        bucket: &'a str,
        /// The object's whole key.
        key: &'a str,
    },
}

impl<'a> Resource<'a> {
    /// The bucket concerned, if any.
    pub fn bucket(&self) -> Option<&'a str> {
        match *self {
            Resource::Cluster => None,
            Resource::Bucket(bucket) | Resource::Object { bucket, .. } => Some(bucket),
        }
    }
}

/// What else decides. Nothing in it may come from a header that the client chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Wall-clock time, milliseconds since 1970-01-01 UTC.
    pub now_unix_ms: u64,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Go on.
    Allow,
    /// Refuse, for this reason. The reason is for logs; the client only hears "access denied".
    Deny(Reason),
}

impl Decision {
    /// Whether the action may go on.
    pub fn allowed(self) -> bool {
        self == Decision::Allow
    }
}

/// Why an action was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// An administrator switched the key off.
    #[error("the access key is disabled")]
    KeyDisabled,
    /// The key's time is over.
    #[error("the access key has expired")]
    KeyExpired,
    /// Only administrators may do this.
    #[error("the action needs an administrator's key")]
    NotAdministrator,
    /// The key holds no grant, or too small a one, on the bucket.
    #[error("the access key has no sufficient grant on the bucket")]
    NotGranted,
    /// The action does not apply to this kind of resource: an error of the door that asked.
    #[error("the action does not apply to the resource")]
    Mismatch,
}

/// Decides whether `principal` may do `action` to `resource`.
///
/// Total over [`Action`]; deny by default.
pub fn authorize(
    principal: &Principal,
    action: Action,
    resource: &Resource<'_>,
    context: &Context,
) -> Decision {
    if !principal.enabled {
        return Decision::Deny(Reason::KeyDisabled);
    }
    if principal.expires_unix_ms.is_some_and(|expiry| context.now_unix_ms >= expiry) {
        return Decision::Deny(Reason::KeyExpired);
    }
    if !action.applies_to(resource) {
        return Decision::Deny(Reason::Mismatch);
    }
    // Administrators may do everything: they could grant it to themselves anyway.
    if principal.administrator {
        return Decision::Allow;
    }
    match action.needs() {
        Needs::Authentication => Decision::Allow,
        Needs::Administrator => Decision::Deny(Reason::NotAdministrator),
        Needs::Grant(needed) => {
            let held = resource.bucket().and_then(|bucket| principal.grants.get(bucket));
            match held {
                Some(held) if held.covers(needed) => Decision::Allow,
                _ => Decision::Deny(Reason::NotGranted),
            }
        }
    }
}

#[cfg(test)]
mod tests;
