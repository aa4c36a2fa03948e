//! Roles.

use std::collections::BTreeMap;

use nexusgrid_iam::policy::{Document, DocumentKind};
use nexusgrid_iam::{AccountId, limits as iam_limits};

use super::call::{Call, Outcome, add_tags};
use super::error::ApiError;
use super::holders::bounds;
use super::users::{show_boundary, show_marker, show_tags};
use super::xml::Xml;
use crate::identity::directory::Read;
use crate::identity::entities::{Policies, Role, User, paths};
use crate::limits;

const NAME_MAX: usize = 64;
const DESCRIPTION_MAX: usize = 1000;

/// Documents are shown as URLs are written.
pub(super) fn encoded(document: &str) -> String {
    let mut text = String::with_capacity(document.len() * 2);
    for byte in document.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

pub(super) fn show(call: &Call<'_>, xml: &mut Xml, role: &Role) {
    xml.text("Path", &role.path)
        .text("RoleName", &role.name)
        .text("RoleId", &role.id)
        .text("Arn", &call.arn("role", &role.path, &role.name))
        .time("CreateDate", role.created_ms)
        .text("AssumeRolePolicyDocument", &encoded(&role.trust));
    if !role.description.is_empty() {
        xml.text("Description", &role.description);
    }
    xml.number("MaxSessionDuration", role.max_session_seconds.into());
    if let Some(arn) = &role.boundary {
        show_boundary(xml, arn);
    }
    if !role.tags.is_empty() {
        show_tags(xml, &role.tags);
    }
}

pub(super) async fn target(call: &Call<'_>) -> Result<Read<Role>, ApiError> {
    let name = call.form.name("RoleName", NAME_MAX)?;
    let role = call.need::<Role>(&paths::role(&call.account, name), name).await;
    let path = role.as_ref().map_or("/", |role| role.value.path.as_str());
    call.allow(&call.arn("role", path, name))?;
    role
}

fn description(call: &Call<'_>) -> Result<String, ApiError> {
    let text = call.form.get("Description").unwrap_or("");
    if text.chars().count() > DESCRIPTION_MAX {
        return Err(ApiError::validation("The description is too long."));
    }
    Ok(text.to_owned())
}

fn max_session(call: &Call<'_>, default: u32) -> Result<u32, ApiError> {
    let seconds = call.form.number("MaxSessionDuration", default)?;
    if (3600..=limits::SESSION_SECONDS_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(ApiError::validation("MaxSessionDuration is between 3600 and 43200 seconds"))
    }
}

/// The ids of the users and roles that a trust policy names by ARN.
async fn trusted(call: &Call<'_>, trust: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let most = iam_limits::TRUST_POLICY_BYTES_MAX;
    let document = Document::parse(trust, DocumentKind::Trust, most);
    let document = document.map_err(|error| ApiError::malformed(error.to_string()))?;
    let mut ids = BTreeMap::new();
    for arn in document.named_principals() {
        let unknown =
            || ApiError::malformed(format!("Invalid principal in policy: \"AWS\":\"{arn}\""));
        let Some((account, kind, name)) = identity_of(call, arn) else {
            // Without a number it would be whoever is called so once an account is bare.
            let is_session = arn.starts_with("arn:aws:sts:::");
            if arn.starts_with("arn:aws:iam:::") || (is_session && call.arns.bare().is_none()) {
                return Err(unknown());
            }
            continue;
        };
        let id = match kind {
            "user" => {
                let found = call.directory.read::<User>(&paths::user(&account, name)).await?;
                found.map(|user| user.value.id)
            }
            _ => {
                let found = call.directory.read::<Role>(&paths::role(&account, name)).await?;
                found.map(|role| role.value.id)
            }
        };
        ids.insert(arn.to_owned(), id.ok_or_else(unknown)?);
    }
    Ok(ids)
}

/// Account, kind and name of a user or role, out of its ARN.
fn identity_of<'a>(call: &Call<'_>, arn: &'a str) -> Option<(AccountId, &'a str, &'a str)> {
    let (account, thing) = call.arns.read(arn)?;
    let (kind, path) = thing.split_once('/')?;
    let name = path.rsplit('/').next()?;
    matches!(kind, "user" | "role").then_some((account, kind, name))
}

pub(super) async fn create(call: &Call<'_>) -> Outcome {
    let name = call.form.name("RoleName", NAME_MAX)?;
    let path = call.form.path("Path")?;
    call.allow(&call.arn("role", path, name))?;
    let trust = call.document(
        "AssumeRolePolicyDocument",
        DocumentKind::Trust,
        iam_limits::TRUST_POLICY_BYTES_MAX,
    )?;
    let role = Role {
        name: name.to_owned(),
        path: path.to_owned(),
        id: call.directory.random_id("AROA"),
        created_ms: call.now_ms(),
        description: description(call)?,
        max_session_seconds: max_session(call, 3600)?,
        tags: call.form.tags()?,
        policies: Policies::default(),
        boundary: call.form.get("PermissionsBoundary").map(str::to_owned),
        trusted: trusted(call, &trust).await?,
        trust,
    };
    let writes = bounds(call, None, role.boundary.as_deref()).await?;
    call.create_with(paths::role(&call.account, name), name, &role, writes).await?;
    let mut xml = Xml::default();
    xml.nest("Role", |xml| show(call, xml, &role));
    Ok(xml)
}

pub(super) async fn get(call: &Call<'_>) -> Outcome {
    let role = target(call).await?.value;
    let mut xml = Xml::default();
    xml.nest("Role", |xml| show(call, xml, &role));
    Ok(xml)
}

pub(super) async fn list(call: &Call<'_>) -> Outcome {
    let prefix = call.form.get("PathPrefix").unwrap_or("/").to_owned();
    call.allow(&call.arn("role", &prefix, "*"))?;
    let found = call.directory.list::<Role>(&paths::roles(&call.account)).await?;
    let roles = found.into_iter().map(|read| read.value);
    let roles = roles.filter(|role| role.path.starts_with(&prefix)).collect();
    let (page, marker) = call.form.page(roles, |role| role.name.to_lowercase())?;
    let mut xml = Xml::default();
    xml.list("Roles", &page, |xml, role| show(call, xml, role));
    show_marker(&mut xml, marker.as_ref());
    Ok(xml)
}

pub(super) async fn update(call: &Call<'_>) -> Outcome {
    let role = target(call).await?;
    let text = call.form.get("Description").map(|_| description(call)).transpose()?;
    let seconds = max_session(call, role.value.max_session_seconds)?;
    call.change::<Role, _>(&role.path, &role.value.name, |role| {
        role.max_session_seconds = seconds;
        if let Some(text) = &text {
            role.description = text.clone();
        }
        Ok(())
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn update_description(call: &Call<'_>) -> Outcome {
    let role = target(call).await?;
    let text = description(call)?;
    let role = call
        .change::<Role, _>(&role.path, &role.value.name, |role| {
            role.description = text.clone();
            Ok(role.clone())
        })
        .await?;
    let mut xml = Xml::default();
    xml.nest("Role", |xml| show(call, xml, &role));
    Ok(xml)
}

pub(super) async fn update_trust(call: &Call<'_>) -> Outcome {
    let role = target(call).await?;
    let most = iam_limits::TRUST_POLICY_BYTES_MAX;
    let trust = call.document("PolicyDocument", DocumentKind::Trust, most)?;
    let trusted = trusted(call, &trust).await?;
    call.change::<Role, _>(&role.path, &role.value.name, |role| {
        role.trust = trust.clone();
        role.trusted = trusted.clone();
        Ok(())
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn delete(call: &Call<'_>) -> Outcome {
    let Read { path, revision, value: role } = target(call).await?;
    let holds = [
        (!role.policies.inline.is_empty(), "Cannot delete entity, must delete policies first."),
        (
            !role.policies.attached.is_empty(),
            "Cannot delete entity, must detach all policies first.",
        ),
    ];
    if let Some((_, message)) = holds.into_iter().find(|(holds, _)| *holds) {
        return Err(ApiError::in_use(message));
    }
    let writes = bounds(call, role.boundary.as_deref(), None).await?;
    call.remove(path, revision, writes).await
}

pub(super) async fn tag(call: &Call<'_>) -> Outcome {
    let role = target(call).await?;
    let tags = call.form.tags()?;
    call.change::<Role, _>(&role.path, &role.value.name, |role| {
        add_tags(&mut role.tags, tags.clone())
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn untag(call: &Call<'_>) -> Outcome {
    let role = target(call).await?;
    let keys = call.form.list("TagKeys");
    call.change::<Role, _>(&role.path, &role.value.name, |role| {
        role.tags.retain(|key, _| !keys.contains(&key.as_str()));
        Ok(())
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn list_tags(call: &Call<'_>) -> Outcome {
    let role = target(call).await?.value;
    let mut xml = Xml::default();
    show_tags(&mut xml, &role.tags);
    xml.flag("IsTruncated", false);
    Ok(xml)
}
