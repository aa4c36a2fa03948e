//! Policies of users, groups and roles: inside them, and attached to them.

use nexusgrid_grid::RecordWrite;
use nexusgrid_iam::limits as iam_limits;
use nexusgrid_iam::policy::DocumentKind;

use super::call::{Call, Outcome};
use super::error::ApiError;
use super::roles::encoded;
use super::users::show_marker;
use super::xml::Xml;
use super::{groups, roles, users};
use crate::identity::directory::{self, Read, policy_name};
use crate::identity::entities::{Entity, Group, Policies, Policy, Role, User, paths};
use crate::identity::managed;
use crate::limits;

/// What holds policies.
pub(super) trait Holder: Entity + Clone {
    /// Its name's parameter.
    const PARAMETER: &'static str;
    fn name(&self) -> &str;
    fn policies(&self) -> &Policies;
    fn policies_mut(&mut self) -> &mut Policies;
    /// The one that a call names, which the caller may do this to.
    async fn target(call: &Call<'_>) -> Result<Read<Self>, ApiError>;
}

macro_rules! holders {
    ($($type:ident $parameter:literal $module:ident;)*) => {
        $(impl Holder for $type {
            const PARAMETER: &'static str = $parameter;

            fn name(&self) -> &str {
                &self.name
            }

            fn policies(&self) -> &Policies {
                &self.policies
            }

            fn policies_mut(&mut self) -> &mut Policies {
                &mut self.policies
            }

            async fn target(call: &Call<'_>) -> Result<Read<Self>, ApiError> {
                $module::target(call).await
            }
        })*
    };
}

holders! {
    User "UserName" users;
    Group "GroupName" groups;
    Role "RoleName" roles;
}

pub(super) async fn put<T: Holder>(call: &Call<'_>) -> Outcome {
    let holder = T::target(call).await?;
    let name = call.form.name("PolicyName", 128)?;
    let most = iam_limits::INLINE_POLICY_BYTES_MAX;
    let document = call.document("PolicyDocument", DocumentKind::Identity, most)?;
    call.change::<T, _>(&holder.path, holder.value.name(), |holder| {
        let inline = &mut holder.policies_mut().inline;
        inline.insert(name.to_owned(), document.clone());
        if inline.len() > limits::INLINE_POLICIES_MAX {
            return Err(ApiError::limit("Maximum number of inline policies exceeded"));
        }
        Ok(())
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn get<T: Holder>(call: &Call<'_>) -> Outcome {
    let holder = T::target(call).await?.value;
    let name = call.form.name("PolicyName", 128)?;
    let document = holder.policies().inline.get(name);
    let document =
        document.ok_or_else(|| ApiError::no_such(&format!("{} policy", T::KIND), name))?;
    let mut xml = Xml::default();
    xml.text(T::PARAMETER, holder.name())
        .text("PolicyName", name)
        .text("PolicyDocument", &encoded(document));
    Ok(xml)
}

pub(super) async fn list<T: Holder>(call: &Call<'_>) -> Outcome {
    let holder = T::target(call).await?.value;
    let names: Vec<String> = holder.policies().inline.keys().cloned().collect();
    let (page, marker) = call.form.page(names, String::clone)?;
    let mut xml = Xml::default();
    xml.texts("PolicyNames", &page);
    show_marker(&mut xml, marker.as_ref());
    Ok(xml)
}

pub(super) async fn delete<T: Holder>(call: &Call<'_>) -> Outcome {
    let holder = T::target(call).await?;
    let name = call.form.name("PolicyName", 128)?;
    call.change::<T, _>(&holder.path, holder.value.name(), |holder| {
        match holder.policies_mut().inline.remove(name) {
            Some(_) => Ok(()),
            None => Err(ApiError::no_such(&format!("{} policy", T::KIND), name)),
        }
    })
    .await?;
    Ok(Xml::default())
}

/// An ARN of a policy that there is: of the grid's own, or of the caller's account.
pub(super) async fn attachable(
    call: &Call<'_>,
    arn: &str,
) -> Result<Option<Read<Policy>>, ApiError> {
    if managed::document(arn).is_some() {
        return Ok(None);
    }
    let missing = || {
        let message = format!("Policy {arn} does not exist or is not attachable.");
        ApiError::new("NoSuchEntity", http::StatusCode::NOT_FOUND, message)
    };
    let name = policy_name(&call.arns, &call.account, arn).ok_or_else(missing)?;
    let found = call.directory.read::<Policy>(&paths::policy(&call.account, name)).await?;
    let found = found.ok_or_else(missing)?;
    if call.arn("policy", &found.value.path, &found.value.name) != arn {
        return Err(missing());
    }
    Ok(Some(found))
}

/// Attaches or detaches: the policy counts where it is attached, both change together.
async fn attachment<T: Holder>(call: &Call<'_>, attach: bool) -> Outcome {
    let arn = call.form.need("PolicyArn")?;
    for _ in 0..limits::CHANGE_TRIES_MAX {
        let Read { path, revision, mut value } = T::target(call).await?;
        let attached = &mut value.policies_mut().attached;
        let changed = if attach { attached.insert(arn.to_owned()) } else { attached.remove(arn) };
        if attached.len() > limits::ATTACHED_POLICIES_MAX {
            return Err(ApiError::limit("Cannot exceed quota for attached policies"));
        }
        if !attach && !changed {
            return Err(ApiError::new(
                "NoSuchEntity",
                http::StatusCode::NOT_FOUND,
                format!("Policy {arn} was not found."),
            ));
        }
        let policy = attachable(call, arn).await?;
        if !changed {
            return Ok(Xml::default());
        }
        let mut writes = vec![directory::write(path, revision, &value)?];
        if let Some(Read { path, revision, value: mut policy }) = policy {
            policy.attachments = match attach {
                true => policy.attachments.saturating_add(1),
                false => policy.attachments.saturating_sub(1),
            };
            writes.push(directory::write(path, revision, &policy)?);
        }
        if call.commit(writes).await? {
            return Ok(Xml::default());
        }
    }
    Err(ApiError::concurrent())
}

pub(super) async fn attach<T: Holder>(call: &Call<'_>) -> Outcome {
    attachment::<T>(call, true).await
}

pub(super) async fn detach<T: Holder>(call: &Call<'_>) -> Outcome {
    attachment::<T>(call, false).await
}

pub(super) async fn list_attached<T: Holder>(call: &Call<'_>) -> Outcome {
    let holder = T::target(call).await?.value;
    let arns: Vec<String> = holder.policies().attached.iter().cloned().collect();
    let (page, marker) = call.form.page(arns, String::clone)?;
    let mut xml = Xml::default();
    xml.list("AttachedPolicies", &page, |xml, arn| {
        let name = arn.rsplit('/').next().unwrap_or(arn);
        xml.text("PolicyName", name).text("PolicyArn", arn);
    });
    show_marker(&mut xml, marker.as_ref());
    Ok(xml)
}

/// Identities with a boundary.
pub(super) trait Bounded: Holder {
    fn boundary_mut(&mut self) -> &mut Option<String>;
}

impl Bounded for User {
    fn boundary_mut(&mut self) -> &mut Option<String> {
        &mut self.boundary
    }
}

impl Bounded for Role {
    fn boundary_mut(&mut self) -> &mut Option<String> {
        &mut self.boundary
    }
}

/// Changes of the policies of which one bounds one identity less, the other one more: a policy that
/// bounds something cannot be deleted.
pub(super) async fn bounds(
    call: &Call<'_>,
    less: Option<&str>,
    more: Option<&str>,
) -> Result<Vec<RecordWrite>, ApiError> {
    let mut writes = Vec::new();
    if less == more {
        return Ok(writes);
    }
    if let Some(arn) = less
        && let Ok(Some(Read { path, revision, mut value })) = attachable(call, arn).await
    {
        value.boundaries = value.boundaries.saturating_sub(1);
        writes.push(directory::write(path, revision, &value)?);
    }
    if let Some(arn) = more
        && let Some(Read { path, revision, mut value }) = attachable(call, arn).await?
    {
        value.boundaries = value.boundaries.saturating_add(1);
        writes.push(directory::write(path, revision, &value)?);
    }
    Ok(writes)
}

async fn bound<T: Bounded>(call: &Call<'_>, by: Option<&str>) -> Outcome {
    for _ in 0..limits::CHANGE_TRIES_MAX {
        let Read { path, revision, mut value } = T::target(call).await?;
        let old = std::mem::replace(value.boundary_mut(), by.map(str::to_owned));
        let mut writes = bounds(call, old.as_deref(), by).await?;
        writes.push(directory::write(path, revision, &value)?);
        if call.commit(writes).await? {
            return Ok(Xml::default());
        }
    }
    Err(ApiError::concurrent())
}

pub(super) async fn put_boundary<T: Bounded>(call: &Call<'_>) -> Outcome {
    bound::<T>(call, Some(call.form.need("PermissionsBoundary")?)).await
}

pub(super) async fn delete_boundary<T: Bounded>(call: &Call<'_>) -> Outcome {
    bound::<T>(call, None).await
}
