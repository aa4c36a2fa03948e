//! Accounts and what is in them, for the command line.

use anyhow::Context;
use nexusgrid_gateway::identity::Directory;
use nexusgrid_gateway::identity::entities::Account;
use serde_json::{Value, json};

fn shown(account: &Account) -> Value {
    json!({
        "id": account.id.as_str(),
        "name": account.name,
        "email": account.email,
        "canonical_id": account.id.canonical_id(),
        "created": account.created_ms,
    })
}

fn directory(directory: Option<&Directory>) -> anyhow::Result<&Directory> {
    directory.context("this node holds no keys: ask a gateway node")
}

/// All accounts.
pub async fn list(here: Option<&Directory>) -> anyhow::Result<Value> {
    let accounts = directory(here)?.list_accounts().await?;
    Ok(Value::Array(accounts.iter().map(shown).collect()))
}

/// Makes one, with a key.
pub async fn create(here: Option<&Directory>, name: &str, email: &str) -> anyhow::Result<Value> {
    let new = directory(here)?.create_account(name, email).await?;
    let mut answer = shown(&new.account);
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("access_key".to_owned(), json!(new.key));
        fields.insert("secret_key".to_owned(), json!(new.secret.expose()));
    }
    Ok(answer)
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
