//! Who may do what: one pure function for every door of the house.
//!
//! S3, the mount, CSI, the admin interface and the scheduler all ask [`authorize`], so that a rule
//! holds everywhere or nowhere. It reads its arguments and nothing else: no clock, no network, no
//! global. Denial is the default: an action that no rule allows is refused, and so is one whose
//! rules cannot be read.
//!
//! Two sides have a say. The caller's: a [`Principal`] with the [`policy`] documents of its user,
//! groups or role, a boundary and a session. The resource's: [`Rules`], with a bucket's policy,
//! access control lists ([`acl`]) and what its owner forbids to be public. Within one account
//! either side may allow; across accounts both must. A denial on either side is final.
//!
//! This crate must not read headers, parse requests or know S3's operations: a door translates its
//! own vocabulary to [`Action`], [`Resource`] and [`Context`] first.

#![forbid(unsafe_code)]

mod account;
pub mod acl;
mod acl_bytes;
mod action;
mod arn;
mod context;
pub mod limits;
pub mod policy;
mod principal;
pub mod secret;
pub mod time;

pub use account::{AccountId, InvalidAccountId};
pub use action::{AclOf, Action, Scope};
pub use arn::Arns;
pub use context::Context;
pub use principal::{
    AccessKeyId, Documents, InvalidAccessKeyId, LOG_DELIVERY, Principal, PrincipalKind,
};
pub use secret::Secret;

use acl::{Acl, AclAnswer};
use policy::{About, Document, Grants, Question};

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
    /// A bucket as a whole, whatever a request says beside what is in the context.
    BucketAlways(&'a str),
    /// All objects of a bucket, whatever their keys, also those to come, and whatever a request says: whoever may do
    /// something to these may do it to each, as long as the bucket's owner owns them.
    AllObjects(&'a str),
}

impl<'a> Resource<'a> {
    /// The bucket concerned, if any.
    pub fn bucket(&self) -> Option<&'a str> {
        match *self {
            Resource::Cluster => None,
            Resource::Bucket(bucket)
            | Resource::Object { bucket, .. }
            | Resource::BucketAlways(bucket)
            | Resource::AllObjects(bucket) => Some(bucket),
        }
    }

    /// As policies name it; of all objects, how their names begin.
    pub fn arn(&self) -> String {
        match *self {
            // Of nothing in particular; who writes policies names all of S3.
            Resource::Cluster => "arn:aws:s3:::*".to_owned(),
            Resource::Bucket(bucket) | Resource::BucketAlways(bucket) => {
                format!("arn:aws:s3:::{bucket}")
            }
            Resource::Object { bucket, key } => format!("arn:aws:s3:::{bucket}/{key}"),
            Resource::AllObjects(bucket) => format!("arn:aws:s3:::{bucket}/"),
        }
    }

    fn scope(&self) -> Scope {
        match self {
            Resource::Cluster => Scope::Cluster,
            Resource::Bucket(_) | Resource::BucketAlways(_) => Scope::Bucket,
            Resource::Object { .. } | Resource::AllObjects(_) => Scope::Object,
        }
    }
}

/// The policy of a resource.
#[derive(Clone, Copy, Debug, Default)]
pub enum ResourcePolicy<'a> {
    /// It has none.
    #[default]
    None,
    /// This one.
    Is(&'a Document),
    /// There is one, and it cannot be read: nothing is allowed.
    Unreadable,
}

/// What the owner of a resource has laid down.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// The account that owns the bucket; `None`: unknown, so nobody's.
    pub owner: Option<&'a str>,
    /// Of an object that another account has written, and owns: that account.
    pub object_owner: Option<&'a str>,
    /// The bucket's policy.
    pub policy: ResourcePolicy<'a>,
    /// The bucket's list; `None` where lists are switched off.
    pub bucket_acl: Option<&'a Acl>,
    /// The object's list; `None` where lists are switched off, or the object is not known.
    pub object_acl: Option<&'a Acl>,
    /// Grants to everybody in lists do not count.
    pub ignore_public_acls: bool,
    /// A policy for everybody counts for the owner's account only.
    pub restrict_public_buckets: bool,
    /// Whoever set the policy confirmed that it may shut out the owner.
    pub policy_binds_owner: bool,
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
    /// Only administrators of the grid may do this.
    #[error("the action needs an administrator's key")]
    NotAdministrator,
    /// A statement denies it.
    #[error("a policy denies the action")]
    Denied,
    /// The resource's policy cannot be read.
    #[error("the resource's policy cannot be read")]
    Unreadable,
    /// The caller's own policies do not allow it.
    #[error("no policy of the caller allows the action")]
    NotAllowed,
    /// The resource belongs to another account, which does not allow it.
    #[error("the resource's owner does not allow the action")]
    NotShared,
    /// The action does not apply to this kind of resource: an error of the door that asked.
    #[error("the action does not apply to the resource")]
    Mismatch,
}

impl Reason {
    /// Whether nothing that is known of an object could change it.
    pub fn is_final(self) -> bool {
        match self {
            Reason::KeyDisabled
            | Reason::KeyExpired
            | Reason::NotAdministrator
            | Reason::Unreadable
            | Reason::Mismatch => true,
            Reason::Denied | Reason::NotAllowed | Reason::NotShared => false,
        }
    }
}

/// What the caller's own side says.
struct Own {
    denied: bool,
    /// Identity, boundary and session together.
    allowed: bool,
    /// Boundary and session alone: what a resource's policy may still give.
    bounded: bool,
}

fn own(question: &Question<'_>) -> Own {
    let principal = question.principal;
    let ask = |document: &Document| document.evaluate(question);
    let mut denied = false;
    let mut any = |grants: Grants| {
        denied |= grants.denied;
        grants.allowed
    };
    let mut identity = principal.kind == PrincipalKind::Root;
    for document in &principal.policies {
        identity |= any(ask(document));
    }
    let mut bounded = true;
    for document in principal.boundary.iter().chain(&principal.session) {
        bounded &= any(ask(document));
    }
    Own { denied, allowed: identity && bounded, bounded }
}

fn usable(principal: &Principal, now_unix_ms: u64) -> Result<(), Reason> {
    if !principal.enabled {
        return Err(Reason::KeyDisabled);
    }
    if principal.expires_unix_ms.is_some_and(|expiry| now_unix_ms >= expiry) {
        return Err(Reason::KeyExpired);
    }
    Ok(())
}

/// Decides whether `principal` may do `action` to `resource`, at `now_unix_ms` (wall clock,
/// milliseconds since 1970-01-01 UTC).
///
/// Total over [`Action`]; deny by default.
pub fn authorize(
    principal: &Principal,
    action: Action,
    resource: &Resource<'_>,
    rules: &Rules<'_>,
    context: &Context,
    now_unix_ms: u64,
) -> Decision {
    match decide(principal, action, resource, rules, context, now_unix_ms) {
        Ok(()) => Decision::Allow,
        Err(reason) => Decision::Deny(reason),
    }
}

fn decide(
    principal: &Principal,
    action: Action,
    resource: &Resource<'_>,
    rules: &Rules<'_>,
    context: &Context,
    now_unix_ms: u64,
) -> Result<(), Reason> {
    usable(principal, now_unix_ms)?;
    // Several objects of one bucket at once (multi-delete) are asked for one by one.
    if action.scope() != resource.scope() {
        return Err(Reason::Mismatch);
    }
    if matches!(action, Action::ReadCluster | Action::ManageCluster) {
        return if principal.administrator { Ok(()) } else { Err(Reason::NotAdministrator) };
    }
    let arn = resource.arn();
    let about = match resource {
        Resource::AllObjects(_) => About::All(&arn),
        Resource::BucketAlways(_) => About::Always(&arn),
        Resource::Cluster | Resource::Bucket(_) | Resource::Object { .. } => About::One(&arn),
    };
    let question = Question { action: action.name(), resource: about, principal, context };
    let own = own(&question);
    if own.denied {
        return Err(Reason::Denied);
    }
    let account = principal.account.as_deref();
    // What does not exist yet belongs to who makes it.
    if matches!(action, Action::ListBuckets | Action::CreateBucket) {
        return if own.allowed { Ok(()) } else { Err(Reason::NotAllowed) };
    }
    let policy = match rules.policy {
        ResourcePolicy::None => Grants::default(),
        ResourcePolicy::Unreadable if !may_mend_policy(principal, action, rules) => {
            return Err(Reason::Unreadable);
        }
        ResourcePolicy::Unreadable => Grants::default(),
        ResourcePolicy::Is(document) => {
            let mut grants = document.evaluate(&question);
            let same = account.is_some() && account == rules.owner;
            if rules.restrict_public_buckets && document.is_public() && !same {
                grants = Grants { denied: grants.denied, ..Grants::default() };
            }
            grants
        }
    };
    if policy.denied && !may_mend_policy(principal, action, rules) {
        return Err(Reason::Denied);
    }
    // A bucket's policy says nothing of objects that belong to others; their lists do.
    let foreign = rules.object_owner.filter(|owner| Some(*owner) != rules.owner);
    let is_about_content = matches!(action.acl(), AclOf::Object(_));
    let owner = match foreign {
        Some(owner) if is_about_content => Some(owner),
        _ => rules.owner,
    };
    let policy_counts = !(foreign.is_some() && is_about_content);
    let acl = acl_answer(principal, action, rules);
    if account.is_some() && account == owner {
        let by_policy =
            policy_counts && ((policy.allowed && own.bounded) || policy.allowed_session);
        return if own.allowed || by_policy || (acl == AclAnswer::Group && own.bounded) {
            Ok(())
        } else {
            Err(Reason::NotAllowed)
        };
    }
    let by_policy =
        policy_counts && (policy.allowed || policy.allowed_session || policy.allowed_account);
    if !by_policy && acl == AclAnswer::No {
        return Err(Reason::NotShared);
    }
    let has_no_side = matches!(principal.kind, PrincipalKind::Anonymous | PrincipalKind::Grid);
    if has_no_side || own.allowed { Ok(()) } else { Err(Reason::NotAllowed) }
}

/// The owner can replace a policy, unless it was confirmed to bind the owner, too: nobody else could
/// undo one that denies everybody by mistake.
fn may_mend_policy(principal: &Principal, action: Action, rules: &Rules<'_>) -> bool {
    matches!(action, Action::GetBucketPolicy | Action::PutBucketPolicy | Action::DeleteBucketPolicy)
        && !rules.policy_binds_owner
        && principal.kind == PrincipalKind::Root
        && principal.account.is_some()
        && principal.account.as_deref() == rules.owner
}

fn acl_answer(principal: &Principal, action: Action, rules: &Rules<'_>) -> AclAnswer {
    let groups = !rules.ignore_public_acls;
    let (list, needed) = match action.acl() {
        AclOf::None => return AclAnswer::No,
        AclOf::Bucket(needed) => (rules.bucket_acl, needed),
        AclOf::Object(needed) => (rules.object_acl, needed),
    };
    list.map_or(AclAnswer::No, |list| list.answer(principal, needed, groups))
}

/// Decides whether `principal` may do `action` (`service:Action`) to an identity of its own account:
/// a user, group, role or policy, by its ARN.
pub fn authorize_identity(
    principal: &Principal,
    action: &str,
    arn: &str,
    context: &Context,
    now_unix_ms: u64,
) -> Decision {
    if let Err(reason) = usable(principal, now_unix_ms) {
        return Decision::Deny(reason);
    }
    let own = own(&Question { action, resource: About::One(arn), principal, context });
    match (own.denied, own.allowed && !principal.is_anonymous()) {
        (true, _) => Decision::Deny(Reason::Denied),
        (false, true) => Decision::Allow,
        (false, false) => Decision::Deny(Reason::NotAllowed),
    }
}

/// Whom a role trusts.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// Its trust policy.
    pub document: &'a Document,
    /// Whether a caller of another account whom it names needs no word of that account's policies.
    /// AWS: no; Ceph: yes.
    pub suffices: bool,
}

/// Decides whether `principal` may take on a role of `owner`'s account that trusts by `trust`:
/// the role must trust it, and, unless it is of the same account and trusted by name, its own
/// policies must let it.
pub fn authorize_assume(
    principal: &Principal,
    action: &str,
    role_arn: &str,
    owner: &str,
    trust: Trust<'_>,
    context: &Context,
    now_unix_ms: u64,
) -> Decision {
    if let Err(reason) = usable(principal, now_unix_ms) {
        return Decision::Deny(reason);
    }
    let own = own(&Question { action, resource: About::One(role_arn), principal, context });
    let its_own = About::One("");
    let trusts =
        trust.document.evaluate(&Question { action, resource: its_own, principal, context });
    if own.denied || trusts.denied {
        return Decision::Deny(Reason::Denied);
    }
    let own_account = principal.account.as_deref() == Some(owner);
    let allowed = if principal.account.is_none() {
        // A token's holder has no account here: the role's trust alone speaks for it, and must name
        // the provider. Trust in everybody is not trust in whoever can get a token.
        trusts.allowed_provider
    } else if own_account {
        (trusts.allowed && own.bounded)
            || trusts.allowed_session
            || (trusts.allowed_account && own.allowed)
    } else {
        // Trust in everybody names nobody.
        (trust.suffices && trusts.allowed_by_name && own.bounded)
            || ((trusts.allowed || trusts.allowed_session || trusts.allowed_account) && own.allowed)
    };
    if allowed { Decision::Allow } else { Decision::Deny(Reason::NotAllowed) }
}

#[cfg(test)]
mod tests;
