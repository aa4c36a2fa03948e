//! Accounts and what is in them, for the command line.

use anyhow::Context;
use nexusgrid_gateway::identity::Directory;
use nexusgrid_gateway::identity::entities::Account;
use nexusgrid_gateway::quota::{Quota, Quotas};
use nexusgrid_iam::Arns;
use serde_json::{Value, json};

fn shown(account: &Account, arns: &Arns) -> Value {
    json!({
        "id": account.id.as_str(),
        "name": account.name,
        "email": account.email,
        "canonical_id": account.id.canonical_id(),
        "created": account.created_ms,
        "bare_arns": arns.bare() == Some(&account.id),
    })
}

fn directory(directory: Option<&Directory>) -> anyhow::Result<&Directory> {
    directory.context("this node holds no keys: ask a gateway node")
}

/// All accounts.
pub async fn list(here: Option<&Directory>) -> anyhow::Result<Value> {
    let here = directory(here)?;
    let (accounts, arns) = (here.list_accounts().await?, here.arns().await?);
    Ok(Value::Array(accounts.iter().map(|account| shown(account, &arns)).collect()))
}

/// Makes one, with a key.
pub async fn create(
    here: Option<&Directory>,
    name: &str,
    email: &str,
    bare: bool,
) -> anyhow::Result<Value> {
    let here = directory(here)?;
    let new = here.make_account(name, email, bare).await?;
    let mut answer = shown(&new.account, &here.arns().await?);
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("access_key".to_owned(), json!(new.key));
        fields.insert("secret_key".to_owned(), json!(new.secret.expose()));
    }
    Ok(answer)
}

/// The account of an id.
async fn find(here: Option<&Directory>, id: &str) -> anyhow::Result<Account> {
    let accounts = directory(here)?.list_accounts().await?;
    let found = accounts.into_iter().find(|account| account.id.as_str() == id);
    found.with_context(|| format!("there is no account {id}"))
}

/// What one holds, and the most that it may.
pub async fn show(here: Option<&Directory>, quotas: Quotas, id: &str) -> anyhow::Result<Value> {
    let account = find(here, id).await?;
    let held = quotas.held(&account.id).await?;
    let quota = quotas.of(&account.id).await?.unwrap_or_default();
    let mut answer = shown(&account, &directory(here)?.arns().await?);
    if let Some(fields) = answer.as_object_mut() {
        for (name, value) in [
            ("buckets", json!(held.buckets)),
            ("objects", json!(held.objects)),
            ("bytes", json!(held.bytes)),
            ("quota_objects", json!(quota.objects)),
            ("quota_bytes", json!(quota.bytes)),
        ] {
            fields.insert(name.to_owned(), value);
        }
    }
    Ok(answer)
}

/// Sets the most that one may hold.
pub async fn set_quota(
    here: Option<&Directory>,
    quotas: Quotas,
    id: &str,
    quota: Quota,
) -> anyhow::Result<Value> {
    let account = find(here, id).await?;
    quotas.set(&account.id, quota).await?;
    Ok(json!({}))
}

/// Removes an empty one.
pub async fn delete(here: Option<&Directory>, id: &str) -> anyhow::Result<Value> {
    directory(here)?.delete_account(id).await?;
    Ok(Value::Null)
}

/// Does one operation of the IAM's interface in an account.
pub async fn administer(
    here: Option<&Directory>,
    account: &str,
    fields: Vec<(String, String)>,
) -> anyhow::Result<Value> {
    let answer = directory(here)?.administer(account, fields).await;
    answer.map_err(|error| anyhow::anyhow!(error.message))
}
