//! Objects' owners and access control lists.
//!
//! A list stands in the object's row, as [`Acl::to_bytes`] makes it; a row without one means its
//! owner alone. A row without an owner belongs to the bucket's owner. Where the bucket's owner has
//! switched lists off (`BucketOwnerEnforced`), both are overlooked.

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use nexusgrid_grid::{ObjectMeta, VersionChange};
use nexusgrid_iam::acl::{Acl, AclGrant, Grantee, Permission};
use nexusgrid_iam::{AccountId, Action, Resource};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::acls::{
    asks_for_list, check_not_public, no_lists, of_headers, of_request, shown_grants, shown_owner,
};
use super::versions::version_name;
use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::identity::Accounts;
use crate::rules::{BucketRules, Ownership, account_of};

/// The account that owns an object of this bucket.
pub(crate) fn object_owner<'a>(rules: &'a BucketRules, owner: Option<&'a str>) -> &'a str {
    owner.filter(|_| rules.has_acls()).unwrap_or(rules.owner.as_str())
}

/// The list of an object of this bucket. One that cannot be read grants nothing.
pub(crate) fn object_acl(rules: &BucketRules, meta: &ObjectMeta) -> Acl {
    let owner = account_of(object_owner(rules, meta.owner.as_deref())).canonical_id();
    if meta.acl.is_empty() || !rules.has_acls() {
        return Acl::private(&owner);
    }
    Acl::from_bytes(&meta.acl).unwrap_or(Acl { owner, grants: Vec::new() })
}

/// What is stored for a list: nothing, if it says what no list says.
fn stored(acl: &Acl) -> S3Result<Vec<u8>> {
    if *acl == Acl::private(&acl.owner) {
        return Ok(Vec::new());
    }
    acl.to_bytes().ok_or_else(|| S3Error::new(S3ErrorCode::InternalError))
}

/// Whether a list gives the bucket's owner everything, and nobody else anything.
fn is_bucket_owners(headers: &HeaderMap, acl: &Acl, bucket_owner: &str) -> bool {
    gives_all(headers)
        || acl.grants.iter().all(|grant| {
            grant.permission == Permission::FullControl
                && matches!(&grant.grantee, Grantee::Account(id) if id == bucket_owner)
        })
}

/// Whether the bucket's list lets everybody write: S3 has whoever writes by it own the object, and
/// say who reads it. A policy that lets everybody write says nothing of lists.
fn anybody_writes(rules: &BucketRules) -> bool {
    let grants = rules.acl().grants;
    grants.iter().any(|grant| {
        grant.grantee == Grantee::Everybody && grant.permission.covers(Permission::Write)
    })
}

fn gives_all(headers: &HeaderMap) -> bool {
    headers.get("x-amz-acl").is_some_and(|canned| canned.as_bytes() == b"bucket-owner-full-control")
}

/// An owner as listings show it. Made once per page for the bucket's own.
pub(super) struct Owners<'a> {
    accounts: &'a Accounts,
    rules: &'a BucketRules,
    usual: Owner,
}

impl<'a> Owners<'a> {
    pub(super) fn of(accounts: &'a Accounts, rules: &'a BucketRules) -> Owners<'a> {
        let usual = shown_owner(accounts, &rules.owner.canonical_id());
        Owners { accounts, rules, usual }
    }

    /// The owner of an object whose row names this account.
    pub(super) fn shown(&self, owner: Option<&str>) -> Owner {
        let owner = object_owner(self.rules, owner);
        if owner == self.rules.owner.as_str() {
            return self.usual.clone();
        }
        shown_owner(self.accounts, &account_of(owner).canonical_id())
    }
}

/// Who opened an upload, as listings show it.
pub(super) fn shown_initiator(accounts: &Accounts, opened_by: &str) -> Initiator {
    if let Ok(account) = AccountId::new(opened_by) {
        let Owner { id, display_name } = shown_owner(accounts, &account.canonical_id());
        return Initiator { id, display_name };
    }
    let name = opened_by.rsplit('/').next().unwrap_or(opened_by);
    Initiator { id: Some(opened_by.to_owned()), display_name: Some(name.to_owned()) }
}

impl Handlers {
    /// Sets owner and list of an object that the caller is about to make, as the bucket's rules and
    /// the request's headers have it. Costs nothing where an account writes to its own bucket.
    ///
    /// What the anonymous write belongs to the bucket's owner: nobody could be told from another.
    pub(super) async fn give_owner(
        &self,
        caller: &AuthenticatedRequest,
        headers: &HeaderMap,
        key: &str,
        meta: &mut ObjectMeta,
    ) -> S3Result<()> {
        (meta.owner, meta.acl) = (None, Vec::new());
        let rules = caller.bucket_rules()?;
        let account = rules.owner.as_str();
        let writer = caller.principal().account.as_deref().unwrap_or(account);
        let asks = asks_for_list(headers);
        if !asks && (writer == account || !rules.has_acls()) {
            return Ok(());
        }
        let owner = match rules.ownership() {
            Some(Ownership::BucketOwnerEnforced) => account,
            Some(Ownership::BucketOwnerPreferred) if gives_all(headers) => account,
            Some(Ownership::BucketOwnerPreferred | Ownership::ObjectWriter) | None => writer,
        };
        let foreign = (owner != account).then(|| owner.to_owned());
        if asks {
            let accounts = self.accounts().await?;
            let bucket_owner = rules.owner.canonical_id();
            // Seen as the writer's, even where it will not own the object.
            let writer = account_of(writer).canonical_id();
            let said = of_headers(headers, &accounts, &writer, &bucket_owner)?;
            if !rules.has_acls() {
                let allowed = said.is_none_or(|acl| is_bucket_owners(headers, &acl, &bucket_owner));
                return if allowed { Ok(()) } else { Err(no_lists()) };
            }
            let canonical = account_of(owner).canonical_id();
            let acl = of_headers(headers, &accounts, &canonical, &bucket_owner)?;
            if let Some(acl) = acl {
                check_not_public(rules, &acl)?;
                meta.acl = stored(&acl)?;
                if !meta.acl.is_empty() {
                    let mut own = Acl::private(&canonical);
                    if caller.principal().is_anonymous() && anybody_writes(rules) {
                        let (grantee, permission) = (Grantee::Everybody, Permission::WriteAcp);
                        own.grants.push(AclGrant { grantee, permission });
                    }
                    let target = Resource::Object { bucket: &rules.info.name, key };
                    let rules = rules.for_iam(foreign.as_deref(), Some(&own));
                    caller.require_by(Action::PutObjectAcl, &target, &rules)?;
                }
            }
        }
        meta.owner = foreign;
        Ok(())
    }
}

#[async_trait]
impl Handle<GetObjectAclInput, GetObjectAclOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let object = self.store.head(&input.bucket, &input.key, version).await;
        let object = caller.admit(&input.key, version, object)?;
        let acl = object_acl(caller.bucket_rules()?, &object.meta);
        let accounts = self.accounts().await?;
        Ok(S3Response::new(GetObjectAclOutput {
            grants: Some(shown_grants(&accounts, &acl)),
            owner: Some(shown_owner(&accounts, &acl.owner)),
            request_charged: None,
        }))
    }
}

#[async_trait]
impl Handle<PutObjectAclInput, PutObjectAclOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutObjectAclInput>,
    ) -> S3Result<S3Response<PutObjectAclOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let object = self.store.head(&input.bucket, &input.key, version).await;
        let object = caller.admit(&input.key, version, object)?;
        let rules = caller.bucket_rules()?;
        if !rules.has_acls() {
            return Err(no_lists());
        }
        let owner = account_of(object_owner(rules, object.meta.owner.as_deref())).canonical_id();
        let accounts = self.accounts().await?;
        let bucket_owner = rules.owner.canonical_id();
        let body = input.access_control_policy;
        let acl = of_request(&request.headers, body, &accounts, &owner, &bucket_owner)?;
        check_not_public(rules, &acl)?;
        // The very version that was looked at, should another come between.
        let version = version.or(object.version_name);
        let change = VersionChange::Acl(stored(&acl)?);
        let changed = self.store.change_version(&input.bucket, &input.key, version, change).await;
        let changed = changed.map_err(|error| caller.read_error(&input.key, version, error))?;
        let mut reply = S3Response::with_status(PutObjectAclOutput::default(), StatusCode::OK);
        if let Some(version) = changed.and_then(|version| version.to_string().parse().ok()) {
            reply.headers.insert("x-amz-version-id", version);
        }
        Ok(reply)
    }
}
