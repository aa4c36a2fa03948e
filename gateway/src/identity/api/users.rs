//! Users and their access keys.

use nexusgrid_iam::{AccountId, PrincipalKind};

use super::call::{Call, Outcome, add_tags};
use super::error::ApiError;
use super::holders::bounds;
use super::xml::Xml;
use crate::identity::directory::{self, Read};
use crate::identity::entities::{Account, Entity as _, Group, Key, Policies, Tags, User, paths};
use crate::limits;

const NAME_MAX: usize = 64;

fn show(call: &Call<'_>, xml: &mut Xml, user: &User) {
    xml.text("Path", &user.path)
        .text("UserName", &user.name)
        .text("UserId", &user.id)
        .text("Arn", &call.arn("user", &user.path, &user.name))
        .time("CreateDate", user.created_ms);
    if let Some(arn) = &user.boundary {
        show_boundary(xml, arn);
    }
    if !user.tags.is_empty() {
        show_tags(xml, &user.tags);
    }
}

pub(super) fn show_boundary(xml: &mut Xml, arn: &str) {
    xml.nest("PermissionsBoundary", |xml| {
        xml.text("PermissionsBoundaryType", "Policy").text("PermissionsBoundaryArn", arn);
    });
}

pub(super) fn show_tags(xml: &mut Xml, tags: &Tags) {
    xml.list("Tags", tags, |xml, (key, value)| {
        xml.text("Key", key).text("Value", value);
    });
}

pub(super) fn show_marker(xml: &mut Xml, marker: Option<&String>) {
    xml.flag("IsTruncated", marker.is_some());
    if let Some(marker) = marker {
        xml.text("Marker", marker);
    }
}

/// The user that a call names, or the caller; `None`: the account itself.
async fn named(call: &Call<'_>) -> Result<Option<Read<User>>, ApiError> {
    let name = match (call.form.get("UserName"), call.principal.kind) {
        (Some(_), _) => call.form.name("UserName", NAME_MAX)?,
        (None, PrincipalKind::User) => &call.principal.name,
        (None, _) => return Ok(None),
    };
    let user = call.need::<User>(&paths::user(&call.account, name), name).await;
    if user.is_err() {
        // Whether there is such a user is told to those who may ask.
        call.allow(&call.arn("user", "/", name))?;
    }
    user.map(Some)
}

/// The user that a call names, which the caller may do this to.
pub(super) async fn target(call: &Call<'_>) -> Result<Read<User>, ApiError> {
    match named(call).await? {
        Some(user) => {
            call.allow(&call.arn("user", &user.value.path, &user.value.name))?;
            Ok(user)
        }
        None => Err(ApiError::validation(
            "Must specify userName when calling with non-User credentials",
        )),
    }
}

pub(super) async fn create(call: &Call<'_>) -> Outcome {
    let name = call.form.name("UserName", NAME_MAX)?;
    let path = call.form.path("Path")?;
    call.allow(&call.arn("user", path, name))?;
    let user = User {
        name: name.to_owned(),
        path: path.to_owned(),
        id: call.directory.random_id("AIDA"),
        created_ms: call.now_ms(),
        tags: call.form.tags()?,
        policies: Policies::default(),
        boundary: call.form.get("PermissionsBoundary").map(str::to_owned),
        groups: Default::default(),
        keys: Default::default(),
    };
    let writes = bounds(call, None, user.boundary.as_deref()).await?;
    call.create_with(paths::user(&call.account, name), name, &user, writes).await?;
    let mut xml = Xml::default();
    xml.nest("User", |xml| show(call, xml, &user));
    Ok(xml)
}

pub(super) async fn get(call: &Call<'_>) -> Outcome {
    let mut xml = Xml::default();
    match named(call).await? {
        Some(user) => {
            let user = user.value;
            call.allow(&call.arn("user", &user.path, &user.name))?;
            xml.nest("User", |xml| show(call, xml, &user));
        }
        None => {
            call.allow(&call.arn("user", "/", "*"))?;
            let accounts = call.directory.accounts().await?;
            let account = accounts.by_canonical(&call.account.canonical_id());
            xml.nest("User", |xml| {
                xml.text("Path", "/")
                    .text("UserName", account.map_or("", |account| &account.name))
                    .text("UserId", call.account.as_str())
                    .text("Arn", &call.arn("root", "", ""))
                    .time("CreateDate", account.map_or(0, |account| account.created_ms));
            });
        }
    }
    Ok(xml)
}

pub(super) async fn list(call: &Call<'_>) -> Outcome {
    let prefix = call.form.get("PathPrefix").unwrap_or("/").to_owned();
    call.allow(&call.arn("user", &prefix, "*"))?;
    let mut users: Vec<User> = call
        .directory
        .list::<User>(&paths::users(&call.account))
        .await?
        .into_iter()
        .map(|read| read.value)
        .collect();
    users.retain(|user| user.path.starts_with(&prefix));
    let (page, marker) = call.form.page(users, |user| user.name.to_lowercase())?;
    let mut xml = Xml::default();
    show_marker(&mut xml, marker.as_ref());
    xml.list("Users", &page, |xml, user| show(call, xml, user));
    Ok(xml)
}

pub(super) async fn update(call: &Call<'_>) -> Outcome {
    let old = target(call).await?;
    let new_name = match call.form.get("NewUserName") {
        Some(_) => call.form.name("NewUserName", NAME_MAX)?.to_owned(),
        None => old.value.name.clone(),
    };
    let new_path = match call.form.get("NewPath") {
        Some(_) => call.form.path("NewPath")?.to_owned(),
        None => old.value.path.clone(),
    };
    call.allow(&call.arn("user", &new_path, &new_name))?;
    let renamed = new_name != old.value.name;
    let user = User { name: new_name.clone(), path: new_path, ..old.value.clone() };
    let new_at = paths::user(&call.account, &new_name);
    let mut writes = Vec::new();
    if new_at == old.path {
        writes.push(directory::write(new_at, old.revision, &user)?);
    } else {
        if call.directory.read::<User>(&new_at).await?.is_some() {
            return Err(ApiError::exists(User::KIND, &new_name));
        }
        writes.push(directory::remove(old.path.clone(), old.revision));
        writes.push(directory::write(new_at, 0, &user)?);
    }
    if renamed {
        for id in &user.keys {
            let Read { path, revision, value } = call.need::<Key>(&paths::key(id), id).await?;
            let key = Key { user: Some(new_name.clone()), ..value };
            writes.push(directory::write(path, revision, &key)?);
        }
        for group in &user.groups {
            let Read { path, revision, mut value } =
                call.need::<Group>(&paths::group(&call.account, group), group).await?;
            value.users.remove(&old.value.name);
            value.users.insert(new_name.clone());
            writes.push(directory::write(path, revision, &value)?);
        }
    }
    if call.commit(writes).await? { Ok(Xml::default()) } else { Err(ApiError::concurrent()) }
}

pub(super) async fn delete(call: &Call<'_>) -> Outcome {
    let Read { path, revision, value: user } = target(call).await?;
    let holds = [
        (!user.keys.is_empty(), "Cannot delete entity, must delete access keys first."),
        (!user.policies.inline.is_empty(), "Cannot delete entity, must delete policies first."),
        (
            !user.policies.attached.is_empty(),
            "Cannot delete entity, must detach all policies first.",
        ),
    ];
    if let Some((_, message)) = holds.into_iter().find(|(holds, _)| *holds) {
        return Err(ApiError::in_use(message));
    }
    // It leaves its groups.
    let mut writes = bounds(call, user.boundary.as_deref(), None).await?;
    for group in &user.groups {
        let Read { path, revision, mut value } =
            call.need::<Group>(&paths::group(&call.account, group), group).await?;
        value.users.remove(&user.name);
        writes.push(directory::write(path, revision, &value)?);
    }
    call.remove(path, revision, writes).await
}

pub(super) async fn tag(call: &Call<'_>) -> Outcome {
    let user = target(call).await?;
    let tags = call.form.tags()?;
    let (path, name) = (user.path, user.value.name);
    call.change::<User, _>(&path, &name, |user| add_tags(&mut user.tags, tags.clone())).await?;
    Ok(Xml::default())
}

pub(super) async fn untag(call: &Call<'_>) -> Outcome {
    let user = target(call).await?;
    let keys = call.form.list("TagKeys");
    let (path, name) = (user.path, user.value.name);
    call.change::<User, _>(&path, &name, |user| {
        user.tags.retain(|key, _| !keys.contains(&key.as_str()));
        Ok(())
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn list_tags(call: &Call<'_>) -> Outcome {
    let user = target(call).await?.value;
    let mut xml = Xml::default();
    show_tags(&mut xml, &user.tags);
    xml.flag("IsTruncated", false);
    Ok(xml)
}

// ---- access keys ----

/// The owner of keys that a call is about: a user, or the account itself.
enum Holder {
    User(Box<Read<User>>),
    Account(Box<Read<Account>>),
}

impl Holder {
    fn keys(&self) -> &std::collections::BTreeSet<String> {
        match self {
            Holder::User(read) => &read.value.keys,
            Holder::Account(read) => &read.value.keys,
        }
    }

    fn name(&self) -> &str {
        match self {
            Holder::User(read) => &read.value.name,
            Holder::Account(read) => &read.value.name,
        }
    }

    fn user(&self) -> Option<&str> {
        match self {
            Holder::User(read) => Some(&read.value.name),
            Holder::Account(_) => None,
        }
    }

    /// The change that writes the holder with a key more or less.
    fn with(
        &self,
        change: impl FnOnce(&mut std::collections::BTreeSet<String>),
    ) -> Result<nexusgrid_grid::RecordWrite, ApiError> {
        Ok(match self {
            Holder::User(read) => {
                let mut user = read.value.clone();
                change(&mut user.keys);
                directory::write(read.path.clone(), read.revision, &user)?
            }
            Holder::Account(read) => {
                let mut account = read.value.clone();
                change(&mut account.keys);
                directory::write(read.path.clone(), read.revision, &account)?
            }
        })
    }
}

async fn holder(call: &Call<'_>) -> Result<Holder, ApiError> {
    if let Some(user) = named(call).await? {
        call.allow(&call.arn("user", &user.value.path, &user.value.name))?;
        return Ok(Holder::User(Box::new(user)));
    }
    if call.principal.kind != PrincipalKind::Root {
        return Err(ApiError::validation(
            "Must specify userName when calling with non-User credentials",
        ));
    }
    call.allow(&call.arn("user", "/", "*"))?;
    let path = paths::account(&call.account);
    let account = match call.directory.read::<Account>(&path).await? {
        Some(account) => account,
        None if call.account == AccountId::founders() => {
            Read { path, revision: 0, value: directory::founders() }
        }
        None => return Err(ApiError::no_such("account", call.account.as_str())),
    };
    Ok(Holder::Account(Box::new(account)))
}

pub(super) async fn create_key(call: &Call<'_>) -> Outcome {
    for _ in 0..limits::CHANGE_TRIES_MAX {
        let holder = holder(call).await?;
        if holder.keys().len() >= limits::KEYS_OF_USER_MAX {
            return Err(ApiError::limit(format!(
                "Cannot exceed quota for AccessKeysPerUser: {}",
                limits::KEYS_OF_USER_MAX
            )));
        }
        let id = call.directory.random_id("AKIA");
        let secret = call.directory.random_secret();
        let key = Key {
            account: call.account.clone(),
            user: holder.user().map(str::to_owned),
            sealed: call.directory.seal(&id, &secret)?,
            active: true,
            created_ms: call.now_ms(),
        };
        let writes = vec![
            holder.with(|keys| {
                keys.insert(id.clone());
            })?,
            directory::write(paths::key(&id), 0, &key)?,
        ];
        if call.commit(writes).await? {
            let mut xml = Xml::default();
            xml.nest("AccessKey", |xml| {
                xml.text("UserName", holder.name())
                    .text("AccessKeyId", &id)
                    .text("Status", "Active")
                    .text("SecretAccessKey", secret.expose())
                    .time("CreateDate", key.created_ms);
            });
            return Ok(xml);
        }
    }
    Err(ApiError::concurrent())
}

fn own_key<'a>(call: &'a Call<'_>, holder: &Holder) -> Result<&'a str, ApiError> {
    let id = call.form.need("AccessKeyId")?;
    if holder.keys().contains(id) { Ok(id) } else { Err(ApiError::no_such("Access Key", id)) }
}

pub(super) async fn update_key(call: &Call<'_>) -> Outcome {
    let holder = holder(call).await?;
    let id = own_key(call, &holder)?;
    let active = match call.form.need("Status")? {
        "Active" => true,
        "Inactive" => false,
        other => {
            return Err(ApiError::validation(format!("Status is Active or Inactive, not {other}")));
        }
    };
    call.change::<Key, _>(&paths::key(id), id, |key| {
        key.active = active;
        Ok(())
    })
    .await?;
    Ok(Xml::default())
}

pub(super) async fn delete_key(call: &Call<'_>) -> Outcome {
    for _ in 0..limits::CHANGE_TRIES_MAX {
        let holder = holder(call).await?;
        let id = own_key(call, &holder)?;
        let Read { path, revision, .. } = call.need::<Key>(&paths::key(id), id).await?;
        let writes = vec![
            holder.with(|keys| {
                keys.remove(id);
            })?,
            directory::remove(path, revision),
        ];
        if call.commit(writes).await? {
            return Ok(Xml::default());
        }
    }
    Err(ApiError::concurrent())
}

pub(super) async fn list_keys(call: &Call<'_>) -> Outcome {
    let holder = holder(call).await?;
    let mut keys = Vec::new();
    for id in holder.keys() {
        keys.push((id.clone(), call.need::<Key>(&paths::key(id), id).await?.value));
    }
    let (page, marker) = call.form.page(keys, |(id, _)| id.clone())?;
    let mut xml = Xml::default();
    xml.text("UserName", holder.name());
    xml.list("AccessKeyMetadata", &page, |xml, (id, key)| {
        xml.text("UserName", holder.name())
            .text("AccessKeyId", id)
            .text("Status", if key.active { "Active" } else { "Inactive" })
            .time("CreateDate", key.created_ms);
    });
    show_marker(&mut xml, marker.as_ref());
    Ok(xml)
}
