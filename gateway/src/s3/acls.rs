//! Access control lists: from headers and XML, and back.

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use nexusgrid_iam::acl::{
    Acl, AclGrant, CannedAcl, Grantee as IamGrantee, Permission as IamPermission,
};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::error::{access_denied, custom, invalid_argument, not_implemented, unavailable};
use crate::identity::Accounts;
use crate::rules::{BucketRules, Kind};

const EVERYBODY: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// Headers that grant, and what each grants.
const GRANT_HEADERS: &[(&str, IamPermission)] = &[
    ("x-amz-grant-read", IamPermission::Read),
    ("x-amz-grant-write", IamPermission::Write),
    ("x-amz-grant-read-acp", IamPermission::ReadAcp),
    ("x-amz-grant-write-acp", IamPermission::WriteAcp),
    ("x-amz-grant-full-control", IamPermission::FullControl),
];

fn permission_name(permission: IamPermission) -> &'static str {
    match permission {
        IamPermission::Read => "READ",
        IamPermission::Write => "WRITE",
        IamPermission::ReadAcp => "READ_ACP",
        IamPermission::WriteAcp => "WRITE_ACP",
        IamPermission::FullControl => "FULL_CONTROL",
    }
}

fn permission(name: &str) -> Option<IamPermission> {
    Some(match name {
        "READ" => IamPermission::Read,
        "WRITE" => IamPermission::Write,
        "READ_ACP" => IamPermission::ReadAcp,
        "WRITE_ACP" => IamPermission::WriteAcp,
        "FULL_CONTROL" => IamPermission::FullControl,
        _ => return None,
    })
}

fn group(uri: &str) -> S3Result<IamGrantee> {
    match uri {
        EVERYBODY => Ok(IamGrantee::Everybody),
        AUTHENTICATED => Ok(IamGrantee::Authenticated),
        LOG_DELIVERY => Ok(IamGrantee::LogDelivery),
        _ => Err(invalid_argument("Invalid group uri")),
    }
}

fn by_id(accounts: &Accounts, id: &str) -> S3Result<IamGrantee> {
    match accounts.by_canonical(id) {
        Some(_) => Ok(IamGrantee::Account(id.to_owned())),
        None => Err(invalid_argument("Invalid id")),
    }
}

fn by_email(accounts: &Accounts, email: &str) -> S3Result<IamGrantee> {
    match accounts.by_email(email) {
        Some(account) => Ok(IamGrantee::Account(account.id.canonical_id())),
        None => Err(custom(
            "UnresolvableGrantByEmailAddress",
            StatusCode::BAD_REQUEST,
            "The e-mail address you provided does not match any account on record.",
        )),
    }
}

/// `id="…", uri="…", emailAddress="…"`.
fn header_grantees(accounts: &Accounts, text: &str) -> S3Result<Vec<IamGrantee>> {
    text.split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .map(|one| {
            let malformed = || invalid_argument(format!("no grantee: {one}"));
            let (kind, value) = one.split_once('=').ok_or_else(malformed)?;
            let value = value.trim().trim_matches('"');
            match kind.trim().to_ascii_lowercase().as_str() {
                "id" => by_id(accounts, value),
                "uri" => group(value),
                "emailaddress" => by_email(accounts, value),
                _ => Err(malformed()),
            }
        })
        .collect()
}

/// Whether the headers of a request ask for a list.
pub(crate) fn asks_for_list(headers: &HeaderMap) -> bool {
    headers.contains_key("x-amz-acl")
        || GRANT_HEADERS.iter().any(|(name, _)| headers.contains_key(*name))
}

/// The list that the headers of a request ask for; `None`: they ask for none.
pub(crate) fn of_headers(
    headers: &HeaderMap,
    accounts: &Accounts,
    owner: &str,
    bucket_owner: &str,
) -> S3Result<Option<Acl>> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut grants = Vec::new();
    for (name, permission) in GRANT_HEADERS {
        if let Some(text) = text(name) {
            for grantee in header_grantees(accounts, text)? {
                grants.push(AclGrant { grantee, permission: *permission });
            }
        }
    }
    match (text("x-amz-acl"), grants.is_empty()) {
        (None, true) => Ok(None),
        (None, false) => bounded(Acl { owner: owner.to_owned(), grants }).map(Some),
        (Some(name), true) => match CannedAcl::parse(name) {
            Some(canned) => Ok(Some(canned.acl(owner, bucket_owner))),
            None if name == "aws-exec-read" => Err(not_implemented("x-amz-acl: aws-exec-read")),
            None => Err(invalid_argument(format!("x-amz-acl: {name}"))),
        },
        (Some(_), false) => Err(custom(
            "InvalidRequest",
            StatusCode::BAD_REQUEST,
            "Specifying both Canned ACLs and Header Grants is not allowed",
        )),
    }
}

fn bounded(acl: Acl) -> S3Result<Acl> {
    if acl.is_bounded() {
        Ok(acl)
    } else {
        Err(custom("InvalidRequest", StatusCode::BAD_REQUEST, "The list has too many grants"))
    }
}

/// The list that a body asks for.
pub(crate) fn of_body(
    policy: AccessControlPolicy,
    accounts: &Accounts,
    owner: &str,
) -> S3Result<Acl> {
    let named = policy.owner.and_then(|owner| owner.id);
    if named.as_deref().is_some_and(|named| named != owner) {
        return Err(access_denied());
    }
    let mut grants = Vec::new();
    for grant in policy.grants.unwrap_or_default() {
        let malformed = || S3Error::new(S3ErrorCode::MalformedACLError);
        let grantee = grant.grantee.ok_or_else(malformed)?;
        let permission = grant.permission.as_ref().and_then(|name| permission(name.as_str()));
        let permission = permission.ok_or_else(malformed)?;
        let grantee = match (grantee.id, grantee.uri, grantee.email_address) {
            (Some(id), _, _) => by_id(accounts, &id)?,
            (None, Some(uri), _) => group(&uri)?,
            (None, None, Some(email)) => by_email(accounts, &email)?,
            (None, None, None) => return Err(malformed()),
        };
        grants.push(AclGrant { grantee, permission });
    }
    bounded(Acl { owner: owner.to_owned(), grants })
}

/// The list that a request to replace one asks for, by its headers or its body.
pub(crate) fn of_request(
    headers: &HeaderMap,
    body: Option<AccessControlPolicy>,
    accounts: &Accounts,
    owner: &str,
    bucket_owner: &str,
) -> S3Result<Acl> {
    match (of_headers(headers, accounts, owner, bucket_owner)?, body) {
        (Some(acl), None) => Ok(acl),
        (None, Some(policy)) => of_body(policy, accounts, owner),
        (None, None) => Err(custom(
            "MissingSecurityHeader",
            StatusCode::BAD_REQUEST,
            "Your request was missing a required header",
        )),
        (Some(_), Some(_)) => Err(S3Error::new(S3ErrorCode::UnexpectedContent)),
    }
}

/// How clients are shown an account.
pub(crate) fn shown_owner(accounts: &Accounts, canonical: &str) -> Owner {
    let name = accounts.by_canonical(canonical).map(|account| account.name.clone());
    Owner { display_name: name, id: Some(canonical.to_owned()) }
}

/// How clients are shown a list: groups first.
pub(crate) fn shown_grants(accounts: &Accounts, acl: &Acl) -> Vec<Grant> {
    let group = |uri: &str| Grantee {
        display_name: None,
        email_address: None,
        id: None,
        type_: Type::from_static(Type::GROUP),
        uri: Some(uri.to_owned()),
    };
    let is_group = |grant: &&AclGrant| !matches!(grant.grantee, IamGrantee::Account(_));
    let groups = acl.grants.iter().filter(is_group);
    let accounts_too = acl.grants.iter().filter(|grant| !is_group(grant));
    groups
        .chain(accounts_too)
        .map(|grant| Grant {
            grantee: Some(match &grant.grantee {
                IamGrantee::Account(id) => {
                    let Owner { display_name, id } = shown_owner(accounts, id);
                    let type_ = Type::from_static(Type::CANONICAL_USER);
                    Grantee { display_name, email_address: None, id, type_, uri: None }
                }
                IamGrantee::Everybody => group(EVERYBODY),
                IamGrantee::Authenticated => group(AUTHENTICATED),
                IamGrantee::LogDelivery => group(LOG_DELIVERY),
            }),
            permission: Some(Permission::from_static(permission_name(grant.permission))),
        })
        .collect()
}

/// The answer where lists are switched off.
pub(crate) fn no_lists() -> S3Error {
    custom(
        "AccessControlListNotSupported",
        StatusCode::BAD_REQUEST,
        "The bucket does not allow ACLs",
    )
}

/// Refuses a public list where the bucket forbids new ones.
pub(crate) fn check_not_public(rules: &BucketRules, acl: &Acl) -> S3Result<()> {
    let block = rules.public_access_block().unwrap_or_default();
    if block.block_acls && acl.is_public() { Err(access_denied()) } else { Ok(()) }
}

impl Handlers {
    pub(crate) async fn accounts(&self) -> S3Result<std::sync::Arc<Accounts>> {
        self.directory.accounts().await.map_err(unavailable)
    }
}

#[async_trait]
impl Handle<GetBucketAclInput, GetBucketAclOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketAclInput>,
    ) -> S3Result<S3Response<GetBucketAclOutput>> {
        let acl = caller.bucket_rules()?.acl();
        let accounts = self.accounts().await?;
        Ok(S3Response::new(GetBucketAclOutput {
            grants: Some(shown_grants(&accounts, &acl)),
            owner: Some(shown_owner(&accounts, &acl.owner)),
        }))
    }
}

#[async_trait]
impl Handle<PutBucketAclInput, PutBucketAclOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketAclInput>,
    ) -> S3Result<S3Response<PutBucketAclOutput>> {
        let rules = caller.bucket_rules()?;
        let owner = rules.owner.canonical_id();
        let accounts = self.accounts().await?;
        if !rules.has_acls() {
            return Err(no_lists());
        }
        let body = request.input.access_control_policy;
        let acl = of_request(&request.headers, body, &accounts, &owner, &owner)?;
        check_not_public(rules, &acl)?;
        let record = acl_record(&acl)?;
        let values = vec![(Kind::Acl, Some(record))];
        self.lay_down(&caller, values).await?;
        Ok(S3Response::new(PutBucketAclOutput::default()))
    }
}

/// As it is stored.
pub(crate) fn acl_record(acl: &Acl) -> S3Result<Vec<u8>> {
    serde_json::to_vec(acl).map_err(|_| S3Error::new(S3ErrorCode::InternalError))
}
