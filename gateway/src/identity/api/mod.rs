//! The AWS IAM's interface over the identities of an account.
//!
//! A form in, XML out. Every operation is a row of [`run`]'s table; each asks
//! [`nexusgrid_iam::authorize_identity`] before it reads or changes anything that it tells of.

mod absent;
mod call;
mod counted;
mod error;
mod form;
mod groups;
mod holders;
mod policies;
mod providers;
mod roles;
mod users;
mod xml;

pub use call::{Call, Outcome};
pub use counted::Usage;
pub use error::ApiError;
pub use form::Form;
pub use xml::Xml;

use crate::identity::entities::{Group, Role, User};

/// Does what a call asks for.
pub async fn run(call: &Call<'_>) -> Outcome {
    match call.action {
        "CreateUser" => users::create(call).await,
        "GetUser" => users::get(call).await,
        "ListUsers" => users::list(call).await,
        "UpdateUser" => users::update(call).await,
        "DeleteUser" => users::delete(call).await,
        "TagUser" => users::tag(call).await,
        "UntagUser" => users::untag(call).await,
        "ListUserTags" => users::list_tags(call).await,
        "PutUserPolicy" => holders::put::<User>(call).await,
        "GetUserPolicy" => holders::get::<User>(call).await,
        "ListUserPolicies" => holders::list::<User>(call).await,
        "DeleteUserPolicy" => holders::delete::<User>(call).await,
        "AttachUserPolicy" => holders::attach::<User>(call).await,
        "DetachUserPolicy" => holders::detach::<User>(call).await,
        "ListAttachedUserPolicies" => holders::list_attached::<User>(call).await,
        "PutUserPermissionsBoundary" => holders::put_boundary::<User>(call).await,
        "DeleteUserPermissionsBoundary" => holders::delete_boundary::<User>(call).await,
        "GetLoginProfile" => absent::login_profile(call).await,
        "DeleteLoginProfile" => absent::login_profile(call).await,
        "ListMFADevices" => absent::of_user(call, "MFADevices").await,
        "ListSSHPublicKeys" => absent::of_user(call, "SSHPublicKeys").await,
        "ListSigningCertificates" => absent::of_user(call, "Certificates").await,
        "ListServiceSpecificCredentials" => {
            absent::of_user(call, "ServiceSpecificCredentials").await
        }
        "ListVirtualMFADevices" => absent::of_account(call, "VirtualMFADevices").await,
        "ListInstanceProfiles" => absent::of_account(call, "InstanceProfiles").await,
        "ListInstanceProfilesForRole" => absent::of_role(call, "InstanceProfiles").await,
        "ListGroupsForUser" => groups::list_of_user(call).await,
        "CreateAccessKey" => users::create_key(call).await,
        "UpdateAccessKey" => users::update_key(call).await,
        "DeleteAccessKey" => users::delete_key(call).await,
        "ListAccessKeys" => users::list_keys(call).await,
        "CreateGroup" => groups::create(call).await,
        "GetGroup" => groups::get(call).await,
        "ListGroups" => groups::list(call).await,
        "UpdateGroup" => groups::update(call).await,
        "DeleteGroup" => groups::delete(call).await,
        "AddUserToGroup" => groups::add_user(call).await,
        "RemoveUserFromGroup" => groups::remove_user(call).await,
        "PutGroupPolicy" => holders::put::<Group>(call).await,
        "GetGroupPolicy" => holders::get::<Group>(call).await,
        "ListGroupPolicies" => holders::list::<Group>(call).await,
        "DeleteGroupPolicy" => holders::delete::<Group>(call).await,
        "AttachGroupPolicy" => holders::attach::<Group>(call).await,
        "DetachGroupPolicy" => holders::detach::<Group>(call).await,
        "ListAttachedGroupPolicies" => holders::list_attached::<Group>(call).await,
        "CreateRole" => roles::create(call).await,
        "GetRole" => roles::get(call).await,
        "ListRoles" => roles::list(call).await,
        "UpdateRole" => roles::update(call).await,
        "UpdateRoleDescription" => roles::update_description(call).await,
        "UpdateAssumeRolePolicy" => roles::update_trust(call).await,
        "DeleteRole" => roles::delete(call).await,
        "TagRole" => roles::tag(call).await,
        "UntagRole" => roles::untag(call).await,
        "ListRoleTags" => roles::list_tags(call).await,
        "PutRolePolicy" => holders::put::<Role>(call).await,
        "GetRolePolicy" => holders::get::<Role>(call).await,
        "ListRolePolicies" => holders::list::<Role>(call).await,
        "DeleteRolePolicy" => holders::delete::<Role>(call).await,
        "AttachRolePolicy" => holders::attach::<Role>(call).await,
        "DetachRolePolicy" => holders::detach::<Role>(call).await,
        "ListAttachedRolePolicies" => holders::list_attached::<Role>(call).await,
        "PutRolePermissionsBoundary" => holders::put_boundary::<Role>(call).await,
        "DeleteRolePermissionsBoundary" => holders::delete_boundary::<Role>(call).await,
        "CreatePolicy" => policies::create_policy(call).await,
        "GetPolicy" => policies::get_policy(call).await,
        "ListPolicies" => policies::list_policies(call).await,
        "DeletePolicy" => policies::delete_policy(call).await,
        "CreatePolicyVersion" => policies::create_version(call).await,
        "GetPolicyVersion" => policies::get_version(call).await,
        "ListPolicyVersions" => policies::list_versions(call).await,
        "SetDefaultPolicyVersion" => policies::set_default_version(call).await,
        "DeletePolicyVersion" => policies::delete_version(call).await,
        "TagPolicy" => policies::tag(call).await,
        "UntagPolicy" => policies::untag(call).await,
        "ListPolicyTags" => policies::list_tags(call).await,
        "ListEntitiesForPolicy" => policies::list_entities(call).await,
        "CreateOpenIDConnectProvider" => providers::create(call).await,
        "GetOpenIDConnectProvider" => providers::get(call).await,
        "ListOpenIDConnectProviders" => providers::list(call).await,
        "DeleteOpenIDConnectProvider" => providers::delete(call).await,
        "AddClientIDToOpenIDConnectProvider" => providers::add_client(call).await,
        "RemoveClientIDFromOpenIDConnectProvider" => providers::remove_client(call).await,
        "UpdateOpenIDConnectProviderThumbprint" => providers::update_thumbprints(call).await,
        "TagOpenIDConnectProvider" => providers::tag(call).await,
        "UntagOpenIDConnectProvider" => providers::untag(call).await,
        "ListOpenIDConnectProviderTags" => providers::list_tags(call).await,
        "GetAccountSummary" => providers::account_summary(call).await,
        "ListAccountAliases" => providers::account_aliases(call).await,
        other => Err(ApiError::new(
            "InvalidAction",
            http::StatusCode::BAD_REQUEST,
            format!("The action {other} is not valid for this endpoint."),
        )),
    }
}
