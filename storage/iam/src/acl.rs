//! Access control lists: S3's older way to open buckets and objects to other accounts.

use serde::{Deserialize, Serialize};

use crate::principal::LOG_DELIVERY;
use crate::{Principal, PrincipalKind, limits};

/// What a grant of a list allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Permission {
    /// A bucket: list it. An object: read it.
    Read,
    /// A bucket: write and delete objects in it.
    Write,
    /// Read the list.
    ReadAcp,
    /// Replace the list.
    WriteAcp,
    /// All of these.
    FullControl,
}

impl Permission {
    /// Whether it allows `needed`.
    pub fn covers(self, needed: Permission) -> bool {
        self == needed || self == Permission::FullControl
    }
}

/// Whom a grant is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Grantee {
    /// An account, by its canonical id.
    Account(String),
    /// Everybody, the anonymous too.
    Everybody,
    /// Everybody with a valid key.
    Authenticated,
    /// Who delivers logs.
    LogDelivery,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AclGrant {
    /// Whom it is for.
    pub grantee: Grantee,
    /// What it allows.
    pub permission: Permission,
}

/// An access control list: an owner and grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    /// The owner's canonical id. The owner may always read and replace the list.
    pub owner: String,
    /// At most [`ACL_GRANTS_MAX`](limits::ACL_GRANTS_MAX).
    pub grants: Vec<AclGrant>,
}

/// Lists that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannedAcl {
    /// The owner alone.
    Private,
    /// Everybody may read.
    PublicRead,
    /// Everybody may read and write.
    PublicReadWrite,
    /// Everybody with a key may read.
    AuthenticatedRead,
    /// The bucket's owner may read.
    BucketOwnerRead,
    /// The bucket's owner may do everything.
    BucketOwnerFullControl,
    /// Logs may be delivered.
    LogDeliveryWrite,
}

impl CannedAcl {
    /// By S3's name.
    pub fn parse(name: &str) -> Option<CannedAcl> {
        Some(match name {
            "private" => CannedAcl::Private,
            "public-read" => CannedAcl::PublicRead,
            "public-read-write" => CannedAcl::PublicReadWrite,
            "authenticated-read" => CannedAcl::AuthenticatedRead,
            "bucket-owner-read" => CannedAcl::BucketOwnerRead,
            "bucket-owner-full-control" => CannedAcl::BucketOwnerFullControl,
            "log-delivery-write" => CannedAcl::LogDeliveryWrite,
            _ => return None,
        })
    }

    /// The list that it stands for.
    pub fn acl(self, owner: &str, bucket_owner: &str) -> Acl {
        let grant = |grantee: Grantee, permission| AclGrant { grantee, permission };
        let mut grants = vec![grant(Grantee::Account(owner.to_owned()), Permission::FullControl)];
        match self {
            CannedAcl::Private => {}
            CannedAcl::PublicRead => grants.push(grant(Grantee::Everybody, Permission::Read)),
            CannedAcl::PublicReadWrite => {
                grants.push(grant(Grantee::Everybody, Permission::Read));
                grants.push(grant(Grantee::Everybody, Permission::Write));
            }
            CannedAcl::AuthenticatedRead => {
                grants.push(grant(Grantee::Authenticated, Permission::Read));
            }
            CannedAcl::BucketOwnerRead if owner != bucket_owner => {
                grants.push(grant(Grantee::Account(bucket_owner.to_owned()), Permission::Read));
            }
            CannedAcl::BucketOwnerFullControl if owner != bucket_owner => {
                let bucket_owner = Grantee::Account(bucket_owner.to_owned());
                grants.push(grant(bucket_owner, Permission::FullControl));
            }
            CannedAcl::BucketOwnerRead | CannedAcl::BucketOwnerFullControl => {}
            CannedAcl::LogDeliveryWrite => {
                grants.push(grant(Grantee::LogDelivery, Permission::Write));
                grants.push(grant(Grantee::LogDelivery, Permission::ReadAcp));
            }
        }
        Acl { owner: owner.to_owned(), grants }
    }
}

/// How a list allows something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AclAnswer {
    /// It does not.
    No,
    /// To the caller's account, which decides who of it may.
    Account,
    /// To everybody, or everybody with a key.
    Group,
}

impl Acl {
    /// The list of something that its owner alone may use.
    pub fn private(owner: &str) -> Acl {
        CannedAcl::Private.acl(owner, owner)
    }

    /// Whether it has at most as many grants as may be stored.
    pub fn is_bounded(&self) -> bool {
        self.grants.len() <= limits::ACL_GRANTS_MAX
    }

    /// Whether it grants anything to everybody, or to everybody with a key.
    pub fn is_public(&self) -> bool {
        self.grants
            .iter()
            .any(|grant| matches!(grant.grantee, Grantee::Everybody | Grantee::Authenticated))
    }

    pub(crate) fn answer(
        &self,
        principal: &Principal,
        needed: Permission,
        groups: bool,
    ) -> AclAnswer {
        let canonical = principal.canonical_id.as_deref();
        let is_grid = principal.kind == PrincipalKind::Grid;
        let owner_may = matches!(needed, Permission::ReadAcp | Permission::WriteAcp);
        let mut answer = AclAnswer::No;
        if owner_may && canonical == Some(&self.owner) {
            answer = AclAnswer::Account;
        }
        for grant in self.grants.iter().filter(|grant| grant.permission.covers(needed)) {
            let found = match &grant.grantee {
                Grantee::Account(id) if canonical == Some(id) => AclAnswer::Account,
                Grantee::LogDelivery if principal.name == LOG_DELIVERY && is_grid => {
                    AclAnswer::Group
                }
                Grantee::Everybody if groups && !is_grid => AclAnswer::Group,
                Grantee::Authenticated if groups && canonical.is_some() => AclAnswer::Group,
                _ => AclAnswer::No,
            };
            answer = answer.max(found);
        }
        answer
    }
}
