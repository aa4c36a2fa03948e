//! Managed policies and their versions.

use nexusgrid_iam::limits as iam_limits;
use nexusgrid_iam::policy::DocumentKind;

use super::call::{Call, Outcome, add_tags};
use super::error::ApiError;
use super::holders::attachable;
use super::roles::encoded;
use super::users::{self, show_marker};
use super::xml::Xml;
use crate::identity::directory::Read;
use crate::identity::entities::{Group, Policies, Policy, PolicyVersion, Role, User, paths};
use crate::identity::managed;
use crate::limits;

fn show_policy(call: &Call<'_>, xml: &mut Xml, policy: &Policy) {
    xml.text("PolicyName", &policy.name)
        .text("PolicyId", &policy.id)
        .text("Arn", &call.arn("policy", &policy.path, &policy.name))
        .text("Path", &policy.path)
        .text("DefaultVersionId", &format!("v{}", policy.default))
        .number("AttachmentCount", policy.attachments.into())
        .number("PermissionsBoundaryUsageCount", policy.boundaries.into())
        .flag("IsAttachable", true)
        .time("CreateDate", policy.created_ms)
        .time("UpdateDate", policy.updated_ms);
    if !policy.description.is_empty() {
        xml.text("Description", &policy.description);
    }
    if !policy.tags.is_empty() {
        users::show_tags(xml, &policy.tags);
    }
}

fn show_managed(xml: &mut Xml, name: &str) {
    xml.text("PolicyName", name)
        .text("PolicyId", &format!("ANPA{}", name.to_uppercase()))
        .text("Arn", &format!("{}{name}", managed::PREFIX))
        .text("Path", "/")
        .text("DefaultVersionId", "v1")
        .number("AttachmentCount", 0)
        .number("PermissionsBoundaryUsageCount", 0)
        .flag("IsAttachable", true)
        .time("CreateDate", 0)
        .time("UpdateDate", 0);
}

fn new_version(call: &Call<'_>) -> Result<PolicyVersion, ApiError> {
    let most = iam_limits::MANAGED_POLICY_BYTES_MAX;
    let document = call.document("PolicyDocument", DocumentKind::Identity, most)?;
    Ok(PolicyVersion { document, created_ms: call.now_ms() })
}

pub(super) async fn create_policy(call: &Call<'_>) -> Outcome {
    let name = call.form.name("PolicyName", 128)?;
    let path = call.form.path("Path")?;
    call.allow(&call.arn("policy", path, name))?;
    let description = call.form.get("Description").unwrap_or("");
    if description.chars().count() > 1000 {
        return Err(ApiError::validation("The description is too long."));
    }
    let policy = Policy {
        name: name.to_owned(),
        path: path.to_owned(),
        id: call.directory.random_id("ANPA"),
        description: description.to_owned(),
        created_ms: call.now_ms(),
        updated_ms: call.now_ms(),
        versions: [(1, new_version(call)?)].into(),
        default: 1,
        newest: 1,
        attachments: 0,
        boundaries: 0,
        tags: call.form.tags()?,
    };
    call.create(paths::policy(&call.account, name), name, &policy).await?;
    let mut xml = Xml::default();
    xml.nest("Policy", |xml| show_policy(call, xml, &policy));
    Ok(xml)
}

/// A policy of the account that a call names, which the caller may do this to.
async fn policy(call: &Call<'_>) -> Result<Read<Policy>, ApiError> {
    let arn = call.form.need("PolicyArn")?;
    call.allow(arn)?;
    attachable(call, arn).await?.ok_or_else(|| {
        ApiError::denied(&call.principal.arn, &format!("iam:{} on {arn}", call.action))
    })
}

pub(super) async fn get_policy(call: &Call<'_>) -> Outcome {
    let arn = call.form.need("PolicyArn")?;
    call.allow(arn)?;
    let found = attachable(call, arn).await?;
    let mut xml = Xml::default();
    xml.nest("Policy", |xml| match &found {
        Some(policy) => show_policy(call, xml, &policy.value),
        None => show_managed(xml, arn.trim_start_matches(managed::PREFIX)),
    });
    Ok(xml)
}

pub(super) async fn tag(call: &Call<'_>) -> Outcome {
    let Read { path, value, .. } = policy(call).await?;
    let tags = call.form.tags()?;
    call.change::<Policy, _>(&path, &value.name, |policy| add_tags(&mut policy.tags, tags.clone()))
        .await?;
    Ok(Xml::default())
}

pub(super) async fn untag(call: &Call<'_>) -> Outcome {
    let Read { path, value, .. } = policy(call).await?;
    let keys = call.form.list("TagKeys");
    call.change::<Policy, _>(&path, &value.name, |policy| {
        policy.tags.retain(|key, _| !keys.contains(&key.as_str()));
        Ok(())
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn list_tags(call: &Call<'_>) -> Outcome {
    let policy = policy(call).await?.value;
    let mut xml = Xml::default();
    users::show_tags(&mut xml, &policy.tags);
    xml.flag("IsTruncated", false);
    Ok(xml)
}

pub(super) async fn list_policies(call: &Call<'_>) -> Outcome {
    call.allow(&call.arn("policy", "/", "*"))?;
    let prefix = call.form.get("PathPrefix").unwrap_or("/").to_owned();
    let scope = call.form.get("Scope").unwrap_or("All");
    let attached = call.form.get("OnlyAttached") == Some("true");
    let mut found: Vec<(String, Option<Policy>)> = Vec::new();
    if scope != "AWS" {
        for read in call.directory.list::<Policy>(&paths::policies(&call.account)).await? {
            let policy = read.value;
            if policy.path.starts_with(&prefix) && (!attached || policy.attachments > 0) {
                found.push((policy.name.clone(), Some(policy)));
            }
        }
    }
    if scope != "Local" && prefix == "/" && !attached {
        found.extend(managed::MANAGED.iter().map(|(name, _)| ((*name).to_owned(), None)));
    }
    let (page, marker) = call.form.page(found, |(name, _)| name.to_lowercase())?;
    let mut xml = Xml::default();
    xml.list("Policies", &page, |xml, (name, policy)| match policy {
        Some(policy) => show_policy(call, xml, policy),
        None => show_managed(xml, name),
    });
    show_marker(&mut xml, marker.as_ref());
    Ok(xml)
}

pub(super) async fn delete_policy(call: &Call<'_>) -> Outcome {
    let Read { path, revision, value } = policy(call).await?;
    if value.attachments > 0 || value.boundaries > 0 {
        return Err(ApiError::in_use("Cannot delete a policy attached to entities."));
    }
    if value.versions.len() > 1 {
        return Err(ApiError::in_use(
            "This policy has more than one version. Before you delete a policy, you must delete the policy's versions.",
        ));
    }
    call.remove(path, revision, Vec::new()).await
}

fn version_number(call: &Call<'_>) -> Result<u32, ApiError> {
    let text = call.form.need("VersionId")?;
    let number = text.strip_prefix('v').and_then(|number| number.parse().ok());
    number.ok_or_else(|| ApiError::validation(format!("no version: {text}")))
}

pub(super) async fn create_version(call: &Call<'_>) -> Outcome {
    let found = policy(call).await?;
    let version = new_version(call)?;
    let default = call.form.get("SetAsDefault") == Some("true");
    let number = call
        .change::<Policy, _>(&found.path, &found.value.name, |policy| {
            if policy.versions.len() >= limits::POLICY_VERSIONS_MAX {
                return Err(ApiError::limit("A managed policy can have up to 5 versions."));
            }
            policy.newest += 1;
            policy.versions.insert(policy.newest, version.clone());
            policy.updated_ms = version.created_ms;
            if default {
                policy.default = policy.newest;
            }
            Ok(policy.newest)
        })
        .await?;
    let mut xml = Xml::default();
    xml.nest("PolicyVersion", |xml| {
        xml.text("VersionId", &format!("v{number}"))
            .flag("IsDefaultVersion", default)
            .time("CreateDate", version.created_ms);
    });
    Ok(xml)
}

pub(super) async fn get_version(call: &Call<'_>) -> Outcome {
    let arn = call.form.need("PolicyArn")?;
    call.allow(arn)?;
    let number = version_number(call)?;
    let missing = || ApiError::no_such("policy version", &format!("v{number}"));
    let (document, default, created) = match attachable(call, arn).await? {
        Some(policy) => {
            let version = policy.value.versions.get(&number).ok_or_else(missing)?.clone();
            (version.document, policy.value.default == number, version.created_ms)
        }
        None if number == 1 => (managed::document(arn).unwrap_or("").to_owned(), true, 0),
        None => return Err(missing()),
    };
    let mut xml = Xml::default();
    xml.nest("PolicyVersion", |xml| {
        xml.text("Document", &encoded(&document))
            .text("VersionId", &format!("v{number}"))
            .flag("IsDefaultVersion", default)
            .time("CreateDate", created);
    });
    Ok(xml)
}

pub(super) async fn list_versions(call: &Call<'_>) -> Outcome {
    let found = policy(call).await?.value;
    let mut xml = Xml::default();
    xml.list("Versions", found.versions.iter().rev(), |xml, (number, version)| {
        xml.text("VersionId", &format!("v{number}"))
            .flag("IsDefaultVersion", *number == found.default)
            .time("CreateDate", version.created_ms);
    });
    xml.flag("IsTruncated", false);
    Ok(xml)
}

async fn change_version(
    call: &Call<'_>,
    mut change: impl FnMut(&mut Policy, u32) -> Result<(), ApiError>,
) -> Outcome {
    let found = policy(call).await?;
    let number = version_number(call)?;
    call.change::<Policy, _>(&found.path, &found.value.name, |policy| {
        if !policy.versions.contains_key(&number) {
            return Err(ApiError::no_such("policy version", &format!("v{number}")));
        }
        change(policy, number)
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn set_default_version(call: &Call<'_>) -> Outcome {
    let now = call.now_ms();
    change_version(call, |policy, number| {
        policy.default = number;
        policy.updated_ms = now;
        Ok(())
    })
    .await
}

pub(super) async fn delete_version(call: &Call<'_>) -> Outcome {
    change_version(call, |policy, number| {
        if policy.default == number {
            return Err(ApiError::in_use("Cannot delete the default version of a policy."));
        }
        policy.versions.remove(&number);
        Ok(())
    })
    .await
}

pub(super) async fn list_entities(call: &Call<'_>) -> Outcome {
    let arn = call.form.need("PolicyArn")?;
    call.allow(arn)?;
    attachable(call, arn).await?;
    let holds = |policies: &Policies| policies.attached.contains(arn);
    let mut xml = Xml::default();
    let groups = call.directory.list::<Group>(&paths::groups(&call.account)).await?;
    xml.list("PolicyGroups", groups.iter().filter(|g| holds(&g.value.policies)), |xml, group| {
        xml.text("GroupName", &group.value.name).text("GroupId", &group.value.id);
    });
    let users = call.directory.list::<User>(&paths::users(&call.account)).await?;
    xml.list("PolicyUsers", users.iter().filter(|u| holds(&u.value.policies)), |xml, user| {
        xml.text("UserName", &user.value.name).text("UserId", &user.value.id);
    });
    let roles = call.directory.list::<Role>(&paths::roles(&call.account)).await?;
    xml.list("PolicyRoles", roles.iter().filter(|r| holds(&r.value.policies)), |xml, role| {
        xml.text("RoleName", &role.value.name).text("RoleId", &role.value.id);
    });
    xml.flag("IsTruncated", false);
    Ok(xml)
}
