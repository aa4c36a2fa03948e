//! Groups and who is in them.

use super::call::{Call, Outcome};
use super::error::ApiError;
use super::users::{self, show_marker};
use super::xml::Xml;
use crate::identity::directory::{self, Read};
use crate::identity::entities::{Entity as _, Group, Policies, User, paths};
use crate::limits;

const NAME_MAX: usize = 128;

fn show(call: &Call<'_>, xml: &mut Xml, group: &Group) {
    xml.text("Path", &group.path)
        .text("GroupName", &group.name)
        .text("GroupId", &group.id)
        .text("Arn", &call.arn("group", &group.path, &group.name))
        .time("CreateDate", group.created_ms);
}

pub(super) async fn target(call: &Call<'_>) -> Result<Read<Group>, ApiError> {
    let name = call.form.name("GroupName", NAME_MAX)?;
    let group = call.need::<Group>(&paths::group(&call.account, name), name).await;
    let path = group.as_ref().map_or("/", |group| group.value.path.as_str());
    call.allow(&call.arn("group", path, name))?;
    group
}

pub(super) async fn create(call: &Call<'_>) -> Outcome {
    let name = call.form.name("GroupName", NAME_MAX)?;
    let path = call.form.path("Path")?;
    call.allow(&call.arn("group", path, name))?;
    let group = Group {
        name: name.to_owned(),
        path: path.to_owned(),
        id: call.directory.random_id("AGPA"),
        created_ms: call.now_ms(),
        policies: Policies::default(),
        users: Default::default(),
    };
    call.create(paths::group(&call.account, name), name, &group).await?;
    let mut xml = Xml::default();
    xml.nest("Group", |xml| show(call, xml, &group));
    Ok(xml)
}

pub(super) async fn get(call: &Call<'_>) -> Outcome {
    let group = target(call).await?.value;
    let names: Vec<String> = group.users.iter().cloned().collect();
    let (page, marker) = call.form.page(names, |name| name.to_lowercase())?;
    let mut members = Vec::new();
    for name in page {
        if let Some(user) = call.directory.read::<User>(&paths::user(&call.account, &name)).await? {
            members.push(user.value);
        }
    }
    let mut xml = Xml::default();
    xml.nest("Group", |xml| show(call, xml, &group));
    xml.list("Users", &members, |xml, user| {
        xml.text("Path", &user.path)
            .text("UserName", &user.name)
            .text("UserId", &user.id)
            .text("Arn", &call.arn("user", &user.path, &user.name))
            .time("CreateDate", user.created_ms);
    });
    show_marker(&mut xml, marker.as_ref());
    Ok(xml)
}

fn show_all(call: &Call<'_>, groups: Vec<Group>) -> Outcome {
    let (page, marker) = call.form.page(groups, |group| group.name.to_lowercase())?;
    let mut xml = Xml::default();
    xml.list("Groups", &page, |xml, group| show(call, xml, group));
    show_marker(&mut xml, marker.as_ref());
    Ok(xml)
}

pub(super) async fn list(call: &Call<'_>) -> Outcome {
    let prefix = call.form.get("PathPrefix").unwrap_or("/").to_owned();
    call.allow(&call.arn("group", &prefix, "*"))?;
    let found = call.directory.list::<Group>(&paths::groups(&call.account)).await?;
    let groups = found.into_iter().map(|read| read.value);
    show_all(call, groups.filter(|group| group.path.starts_with(&prefix)).collect())
}

pub(super) async fn list_of_user(call: &Call<'_>) -> Outcome {
    let user = users::target(call).await?.value;
    let mut groups = Vec::new();
    for name in &user.groups {
        groups.push(call.need::<Group>(&paths::group(&call.account, name), name).await?.value);
    }
    show_all(call, groups)
}

pub(super) async fn update(call: &Call<'_>) -> Outcome {
    let old = target(call).await?;
    let new_name = match call.form.get("NewGroupName") {
        Some(_) => call.form.name("NewGroupName", NAME_MAX)?.to_owned(),
        None => old.value.name.clone(),
    };
    let new_path = match call.form.get("NewPath") {
        Some(_) => call.form.path("NewPath")?.to_owned(),
        None => old.value.path.clone(),
    };
    call.allow(&call.arn("group", &new_path, &new_name))?;
    let group = Group { name: new_name.clone(), path: new_path, ..old.value.clone() };
    let new_at = paths::group(&call.account, &new_name);
    let mut writes = Vec::new();
    if new_at == old.path {
        writes.push(directory::write(new_at, old.revision, &group)?);
    } else {
        if call.directory.read::<Group>(&new_at).await?.is_some() {
            return Err(ApiError::exists(Group::KIND, &new_name));
        }
        writes.push(directory::remove(old.path.clone(), old.revision));
        writes.push(directory::write(new_at, 0, &group)?);
    }
    if new_name != old.value.name {
        if group.users.len() + 2 > limits::RENAMED_TOGETHER_MAX {
            return Err(ApiError::limit("The group has too many users to be renamed."));
        }
        for name in &group.users {
            let Read { path, revision, mut value } =
                call.need::<User>(&paths::user(&call.account, name), name).await?;
            value.groups.remove(&old.value.name);
            value.groups.insert(new_name.clone());
            writes.push(directory::write(path, revision, &value)?);
        }
    }
    if call.commit(writes).await? { Ok(Xml::default()) } else { Err(ApiError::concurrent()) }
}

pub(super) async fn delete(call: &Call<'_>) -> Outcome {
    let Read { path, revision, value: group } = target(call).await?;
    let holds = [
        (!group.users.is_empty(), "Cannot delete entity, must remove users from group first."),
        (!group.policies.inline.is_empty(), "Cannot delete entity, must delete policies first."),
        (
            !group.policies.attached.is_empty(),
            "Cannot delete entity, must detach all policies first.",
        ),
    ];
    if let Some((_, message)) = holds.into_iter().find(|(holds, _)| *holds) {
        return Err(ApiError::in_use(message));
    }
    call.remove(path, revision, Vec::new()).await
}

/// Puts a user into a group, or takes it out: both records change together.
async fn member(call: &Call<'_>, inside: bool) -> Outcome {
    for _ in 0..limits::CHANGE_TRIES_MAX {
        let Read { path, revision, value: mut group } = target(call).await?;
        let name = call.form.name("UserName", 64)?;
        let user = call.need::<User>(&paths::user(&call.account, name), name).await?;
        let mut member = user.value;
        if inside {
            group.users.insert(member.name.clone());
            member.groups.insert(group.name.clone());
            if group.users.len() > limits::USERS_OF_GROUP_MAX
                || member.groups.len() > limits::GROUPS_OF_USER_MAX
            {
                return Err(ApiError::limit("Cannot exceed quota for GroupsPerUser"));
            }
        } else {
            group.users.remove(&member.name);
            member.groups.remove(&group.name);
        }
        let writes = vec![
            directory::write(path, revision, &group)?,
            directory::write(user.path, user.revision, &member)?,
        ];
        if call.commit(writes).await? {
            return Ok(Xml::default());
        }
    }
    Err(ApiError::concurrent())
}

pub(super) async fn add_user(call: &Call<'_>) -> Outcome {
    member(call, true).await
}

pub(super) async fn remove_user(call: &Call<'_>) -> Outcome {
    member(call, false).await
}
