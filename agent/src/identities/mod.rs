//! Users, groups, roles, policies and identity providers by the command line: each command is one or
//! a few operations of the IAM's interface, asked of a gateway node over its administration socket.

pub mod cli;

use std::io::Read as _;
use std::path::Path;

use anyhow::Context;
use nexusgrid_env::Env;
use serde_json::{Map, Value};

use crate::admin::{AdminRequest, client};
use crate::commands::{print, table};
use cli::{
    GroupCommand, HeldCommand, Named, OfUser, Place, PolicyCommand, ProviderCommand, RoleCommand,
    UserCommand, UserKeyCommand,
};

/// Longest document that is read from the standard input, bytes.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024;

/// Documents that a managed policy keeps, with the one that counts.
const VERSIONS_MAX: usize = 5;

/// Tags of a provider that say which claims name policies and groups.
const CLAIM_TAGS: [&str; 2] = ["nexusgrid:policy-claim", "nexusgrid:group-claim"];

/// Asks for one operation.
async fn ask(place: &Place, action: &str, fields: &[(&str, &str)]) -> anyhow::Result<Value> {
    let mut all = vec![("Action".to_owned(), action.to_owned())];
    all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let request = AdminRequest::Identity { account: place.account.clone(), fields: all };
    client::ask_value(&place.node.dir, &request).await
}

async fn done(
    place: &Place,
    json: bool,
    action: &str,
    fields: &[(&str, &str)],
) -> anyhow::Result<()> {
    let answer = ask(place, action, fields).await?;
    print(&answer, json, |_| "done\n".to_owned())
}

/// All of a list, page by page.
async fn all(
    place: &Place,
    action: &str,
    list: &str,
    fields: &[(&str, &str)],
) -> anyhow::Result<Value> {
    let mut found = Vec::new();
    let mut marker = String::new();
    loop {
        let mut asked = fields.to_vec();
        if !marker.is_empty() {
            asked.push(("Marker", &marker));
        }
        let mut page = ask(place, action, &asked).await?;
        if let Some(Value::Array(items)) = page.get_mut(list) {
            found.append(items);
        }
        match page.get("Marker").and_then(Value::as_str) {
            Some(next) => marker = next.to_owned(),
            None => return Ok(Value::Array(found)),
        }
    }
}

/// A document from a file, or from the standard input.
pub async fn document(file: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = file else {
        let read = || {
            let mut text = String::new();
            std::io::stdin().take(DOCUMENT_BYTES_MAX).read_to_string(&mut text).map(|_| text)
        };
        return Env::real().exec.blocking(read).await.context("reading the standard input");
    };
    crate::config::text_of(&*Env::real().disk, path)
}

/// What is shown as URLs are written, as it was.
fn decoded(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name.ends_with("Document") => {
                        // Nothing else than `%XX` is written otherwise.
                        let plain = text.replace('+', "%2B");
                        let found = form_urlencoded::parse(plain.as_bytes()).next();
                        *text = found.map(|(text, _)| text.into_owned()).unwrap_or_default();
                    }
                    value => decoded(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(decoded),
        _ => {}
    }
}

/// Fields of a value, for people: a line each, what is inside further right.
fn described(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let line = |value: &Value| match value {
        Value::String(text) => text.trim_end().replace('\n', &format!("\n{indent}    ")),
        other => other.to_string(),
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !matches!(value, Value::Array(list) if list.is_empty()))
            .map(|(name, value)| match value {
                Value::Object(_) | Value::Array(_) => {
                    format!("{indent}{name}:\n{}", described(value, depth + 1))
                }
                value => format!("{indent}{name}: {}\n", line(value)),
            })
            .collect(),
        Value::Array(values) => values
            .iter()
            .map(|value| match value {
                Value::Object(fields) if fields.len() > 1 => {
                    format!("{indent}-\n{}", described(value, depth + 1))
                }
                Value::Object(fields) => {
                    fields.values().map(|value| format!("{indent}- {}\n", line(value))).collect()
                }
                value => format!("{indent}- {}\n", line(value)),
            })
            .collect(),
        value => format!("{indent}{}\n", line(value)),
    }
}

fn show(mut value: Value, json: bool) -> anyhow::Result<()> {
    decoded(&mut value);
    print(&value, json, |value| described(value, 0))
}

/// One answer's one element.
fn take(mut answer: Value, name: &str) -> Value {
    answer.get_mut(name).map(Value::take).unwrap_or_default()
}

fn with(mut value: Value, more: Vec<(&str, Value)>) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    value
}

fn shown_key(answer: Value, json: bool) -> anyhow::Result<()> {
    let key = take(answer, "AccessKey");
    let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    print(&key, json, |_| {
        format!(
            "access key  {}\nsecret key  {}\n\nThe secret is shown this once.\n",
            text("AccessKeyId"),
            text("SecretAccessKey")
        )
    })
}

/// A kind of identity that holds policies.
#[derive(Clone, Copy)]
enum Kind {
    User,
    Group,
    Role,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::User => "User",
            Kind::Group => "Group",
            Kind::Role => "Role",
        }
    }

    fn parameter(self) -> &'static str {
        match self {
            Kind::User => "UserName",
            Kind::Group => "GroupName",
            Kind::Role => "RoleName",
        }
    }

    async fn ls(self, place: &Place, json: bool) -> anyhow::Result<()> {
        let (kind, list) = (self.name(), format!("{}s", self.name()));
        let mut found = all(place, &format!("List{kind}s"), &list, &[]).await?;
        decoded(&mut found);
        print(&found, json, |found| table(found, &[self.parameter(), "Arn", "CreateDate"]))
    }

    /// One, with its policies and what more there is.
    async fn show(self, named: &Named, json: bool) -> anyhow::Result<()> {
        let (kind, place) = (self.name(), &named.place);
        let of = [(self.parameter(), named.name.as_str())];
        let answer = ask(place, &format!("Get{kind}"), &of).await?;
        let mut more = Vec::new();
        let attached = format!("ListAttached{kind}Policies");
        more.push(("AttachedPolicies", all(place, &attached, "AttachedPolicies", &of).await?));
        let mut own = Map::new();
        let names = all(place, &format!("List{kind}Policies"), "PolicyNames", &of).await?;
        for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
            let fields = [of[0], ("PolicyName", name)];
            let policy = ask(place, &format!("Get{kind}Policy"), &fields).await?;
            own.insert(name.to_owned(), policy);
        }
        let documents = own.into_iter().map(|(name, policy)| {
            serde_json::json!({"PolicyName": name, "PolicyDocument": take(policy, "PolicyDocument")})
        });
        more.push(("Policies", documents.collect()));
        match self {
            Kind::User => {
                more.push(("Groups", all(place, "ListGroupsForUser", "Groups", &of).await?));
                let keys = all(place, "ListAccessKeys", "AccessKeyMetadata", &of).await?;
                more.push(("AccessKeys", keys));
            }
            Kind::Group => {
                more.push(("Users", all(place, "GetGroup", "Users", &of).await?));
            }
            Kind::Role => {}
        }
        show(with(take(answer, kind), more), json)
    }

    async fn held(self, command: HeldCommand, json: bool) -> anyhow::Result<()> {
        let kind = self.name();
        match command {
            HeldCommand::Attach { name, policy, place } => {
                let fields = [(self.parameter(), &*name), ("PolicyArn", &*policy)];
                done(&place, json, &format!("Attach{kind}Policy"), &fields).await
            }
            HeldCommand::Detach { name, policy, place } => {
                let fields = [(self.parameter(), &*name), ("PolicyArn", &*policy)];
                done(&place, json, &format!("Detach{kind}Policy"), &fields).await
            }
            HeldCommand::PutPolicy { name, policy, file, place } => {
                let document = document(file.as_deref()).await?;
                let fields = [
                    (self.parameter(), &*name),
                    ("PolicyName", &*policy),
                    ("PolicyDocument", &*document),
                ];
                done(&place, json, &format!("Put{kind}Policy"), &fields).await
            }
            HeldCommand::GetPolicy { name, policy, place } => {
                let fields = [(self.parameter(), &*name), ("PolicyName", &*policy)];
                let answer = ask(&place, &format!("Get{kind}Policy"), &fields).await?;
                printed_document(answer, "PolicyDocument")
            }
            HeldCommand::DeletePolicy { name, policy, place } => {
                let fields = [(self.parameter(), &*name), ("PolicyName", &*policy)];
                done(&place, json, &format!("Delete{kind}Policy"), &fields).await
            }
        }
    }
}

/// A document as it was put, so that it can be changed and put again.
fn printed_document(mut answer: Value, name: &str) -> anyhow::Result<()> {
    decoded(&mut answer);
    let text = answer.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    println!("{}", text.trim_end());
    Ok(())
}

/// Runs a command about users.
pub async fn user(command: UserCommand, json: bool) -> anyhow::Result<()> {
    match command {
        UserCommand::Ls(place) => Kind::User.ls(&place, json).await,
        UserCommand::Create { name, path, key, place } => {
            let of = ("UserName", name.as_str());
            let made = ask(&place, "CreateUser", &[of, ("Path", &path)]).await?;
            if key {
                return shown_key(ask(&place, "CreateAccessKey", &[of]).await?, json);
            }
            show(take(made, "User"), json)
        }
        UserCommand::Show(named) => Kind::User.show(&named, json).await,
        UserCommand::Delete(Named { name, place }) => {
            done(&place, json, "DeleteUser", &[("UserName", &name)]).await
        }
        UserCommand::Boundary { name, policy: Some(policy), place } => {
            let fields = [("UserName", &*name), ("PermissionsBoundary", &*policy)];
            done(&place, json, "PutUserPermissionsBoundary", &fields).await
        }
        UserCommand::Boundary { name, policy: None, place } => {
            done(&place, json, "DeleteUserPermissionsBoundary", &[("UserName", &name)]).await
        }
        UserCommand::Key(command) => user_key(command, json).await,
        UserCommand::Held(command) => Kind::User.held(command, json).await,
    }
}

async fn user_key(command: UserKeyCommand, json: bool) -> anyhow::Result<()> {
    match command {
        UserKeyCommand::Ls(Named { name, place }) => {
            let of = [("UserName", name.as_str())];
            let found = all(&place, "ListAccessKeys", "AccessKeyMetadata", &of).await?;
            print(&found, json, |found| table(found, &["AccessKeyId", "Status", "CreateDate"]))
        }
        UserKeyCommand::Create(Named { name, place }) => {
            shown_key(ask(&place, "CreateAccessKey", &[("UserName", &name)]).await?, json)
        }
        UserKeyCommand::Delete(OfUser { name, key, place }) => {
            let fields = [("UserName", &*name), ("AccessKeyId", &*key)];
            done(&place, json, "DeleteAccessKey", &fields).await
        }
        UserKeyCommand::Disable(key) => switch(key, "Inactive", json).await,
        UserKeyCommand::Enable(key) => switch(key, "Active", json).await,
    }
}

async fn switch(of: OfUser, status: &str, json: bool) -> anyhow::Result<()> {
    let OfUser { name, key, place } = of;
    let fields = [("UserName", &*name), ("AccessKeyId", &*key), ("Status", status)];
    done(&place, json, "UpdateAccessKey", &fields).await
}

/// Runs a command about groups.
pub async fn group(command: GroupCommand, json: bool) -> anyhow::Result<()> {
    match command {
        GroupCommand::Ls(place) => Kind::Group.ls(&place, json).await,
        GroupCommand::Create { name, path, place } => {
            let fields = [("GroupName", &*name), ("Path", &*path)];
            show(take(ask(&place, "CreateGroup", &fields).await?, "Group"), json)
        }
        GroupCommand::Show(named) => Kind::Group.show(&named, json).await,
        GroupCommand::Delete(Named { name, place }) => {
            done(&place, json, "DeleteGroup", &[("GroupName", &name)]).await
        }
        GroupCommand::Add { name, users, place } => {
            members(&place, json, "AddUserToGroup", &name, &users).await
        }
        GroupCommand::Remove { name, users, place } => {
            members(&place, json, "RemoveUserFromGroup", &name, &users).await
        }
        GroupCommand::Held(command) => Kind::Group.held(command, json).await,
    }
}

async fn members(
    place: &Place,
    json: bool,
    action: &str,
    group: &str,
    users: &[String],
) -> anyhow::Result<()> {
    for user in users {
        let fields = [("GroupName", group), ("UserName", user.as_str())];
        ask(place, action, &fields).await.with_context(|| format!("{user} and all after it"))?;
    }
    print(&Value::Object(Map::new()), json, |_| "done\n".to_owned())
}

/// Runs a command about roles.
pub async fn role(command: RoleCommand, json: bool) -> anyhow::Result<()> {
    match command {
        RoleCommand::Ls(place) => Kind::Role.ls(&place, json).await,
        RoleCommand::Create { name, trust, path, max_session, place } => {
            let document = document(trust.as_deref()).await?;
            let seconds = max_session.to_string();
            let fields = [
                ("RoleName", &*name),
                ("Path", &*path),
                ("MaxSessionDuration", &*seconds),
                ("AssumeRolePolicyDocument", &*document),
            ];
            show(take(ask(&place, "CreateRole", &fields).await?, "Role"), json)
        }
        RoleCommand::Show(named) => Kind::Role.show(&named, json).await,
        RoleCommand::Delete(Named { name, place }) => {
            done(&place, json, "DeleteRole", &[("RoleName", &name)]).await
        }
        RoleCommand::Trust { name, file, place } => {
            let document = document(file.as_deref()).await?;
            let fields = [("RoleName", &*name), ("PolicyDocument", &*document)];
            done(&place, json, "UpdateAssumeRolePolicy", &fields).await
        }
        RoleCommand::Held(command) => Kind::Role.held(command, json).await,
    }
}

/// Runs a command about managed policies.
pub async fn policy(command: PolicyCommand, json: bool) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Ls { all: every, place } => {
            let scope = if every { "All" } else { "Local" };
            let found = all(&place, "ListPolicies", "Policies", &[("Scope", scope)]).await?;
            let columns = &["PolicyName", "Arn", "DefaultVersionId", "AttachmentCount"];
            print(&found, json, |found| table(found, columns))
        }
        PolicyCommand::Create { name, file, path, description, place } => {
            let document = document(file.as_deref()).await?;
            let mut fields =
                vec![("PolicyName", &*name), ("Path", &*path), ("PolicyDocument", &*document)];
            fields.extend(description.as_deref().map(|text| ("Description", text)));
            show(take(ask(&place, "CreatePolicy", &fields).await?, "Policy"), json)
        }
        PolicyCommand::Show(Named { name, place }) => {
            let of = ("PolicyArn", name.as_str());
            let policy = take(ask(&place, "GetPolicy", &[of]).await?, "Policy");
            let version = policy.get("DefaultVersionId").and_then(Value::as_str).unwrap_or("v1");
            let found = ask(&place, "GetPolicyVersion", &[of, ("VersionId", version)]).await?;
            let document = take(take(found, "PolicyVersion"), "Document");
            let held = ask(&place, "ListEntitiesForPolicy", &[of]).await?;
            let mut more = vec![("PolicyDocument", document)];
            for list in ["PolicyUsers", "PolicyGroups", "PolicyRoles"] {
                more.push((list, held.get(list).cloned().unwrap_or_default()));
            }
            show(with(policy, more), json)
        }
        PolicyCommand::Update { name, file, place } => {
            let document = document(file.as_deref()).await?;
            // The oldest makes room.
            let versions = versions(&place, &name).await?;
            if versions.len() + 1 >= VERSIONS_MAX
                && let Some(oldest) = versions.last()
            {
                let fields = [("PolicyArn", &*name), ("VersionId", oldest.as_str())];
                ask(&place, "DeletePolicyVersion", &fields).await?;
            }
            let fields =
                [("PolicyArn", &*name), ("PolicyDocument", &*document), ("SetAsDefault", "true")];
            done(&place, json, "CreatePolicyVersion", &fields).await
        }
        PolicyCommand::Delete(Named { name, place }) => {
            for version in versions(&place, &name).await? {
                let fields = [("PolicyArn", &*name), ("VersionId", version.as_str())];
                ask(&place, "DeletePolicyVersion", &fields).await?;
            }
            done(&place, json, "DeletePolicy", &[("PolicyArn", &name)]).await
        }
    }
}

/// Versions of a policy that are not its default one, the newest first.
async fn versions(place: &Place, name: &str) -> anyhow::Result<Vec<String>> {
    let found = all(place, "ListPolicyVersions", "Versions", &[("PolicyArn", name)]).await?;
    let others = found
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version.get("IsDefaultVersion") == Some(&Value::Bool(false)));
    Ok(others.filter_map(|version| version.get("VersionId")?.as_str().map(str::to_owned)).collect())
}

/// Runs a command about identity providers.
pub async fn provider(command: ProviderCommand, json: bool) -> anyhow::Result<()> {
    let arn = |place: &Place, url: &str| match url.strip_prefix("arn:") {
        Some(_) => url.to_owned(),
        None => {
            let name = url.split_once("://").map_or(url, |(_, name)| name).trim_end_matches('/');
            format!("arn:aws:iam::{}:oidc-provider/{name}", place.account)
        }
    };
    match command {
        ProviderCommand::Ls(place) => {
            let list = "OpenIDConnectProviderList";
            let found = all(&place, "ListOpenIDConnectProviders", list, &[]).await?;
            print(&found, json, |found| table(found, &["Arn"]))
        }
        ProviderCommand::Create { url, clients, policy_claim, group_claim, place } => {
            let mut fields = vec![("Url".to_owned(), url)];
            for (at, client) in clients.into_iter().enumerate() {
                fields.push((format!("ClientIDList.member.{}", at + 1), client));
            }
            let claims = CLAIM_TAGS.into_iter().zip([policy_claim, group_claim]);
            let claims = claims.filter_map(|(tag, claim)| Some((tag, claim?)));
            for (at, (tag, claim)) in claims.enumerate() {
                fields.push((format!("Tags.member.{}.Key", at + 1), tag.to_owned()));
                fields.push((format!("Tags.member.{}.Value", at + 1), claim));
            }
            let fields: Vec<(&str, &str)> =
                fields.iter().map(|(name, value)| (&**name, &**value)).collect();
            show(ask(&place, "CreateOpenIDConnectProvider", &fields).await?, json)
        }
        ProviderCommand::Show(Named { name, place }) => {
            let fields = [("OpenIDConnectProviderArn", &*arn(&place, &name))];
            show(ask(&place, "GetOpenIDConnectProvider", &fields).await?, json)
        }
        ProviderCommand::Delete(Named { name, place }) => {
            let fields = [("OpenIDConnectProviderArn", &*arn(&place, &name))];
            done(&place, json, "DeleteOpenIDConnectProvider", &fields).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_described_for_people() {
        let mut answer = serde_json::json!({
            "UserName": "ann",
            "Groups": [{"GroupName": "readers"}],
            "Policies": [{"PolicyName": "p", "PolicyDocument": "%7B%22a%22%3A%20%22b%2Bc%26%22%7D"}],
            "Keys": [],
        });
        decoded(&mut answer);
        assert_eq!(
            described(&answer, 0),
            "Groups:\n  - readers\nPolicies:\n  -\n    PolicyDocument: {\"a\": \"b+c&\"}\n    PolicyName: p\nUserName: ann\n"
        );
    }
}
