//! Targets of events, for the command line.

use anyhow::Context;
use nexusgrid_gateway::events::{EventAdmin, TargetId, TargetKind};
use nexusgrid_iam::{AccountId, Secret};
use serde_json::{Value, json};

use crate::admin::EventTarget;

/// What this node knows of events; only gateways do.
#[derive(Clone)]
pub struct Told {
    /// Targets, and what was given up.
    pub admin: EventAdmin,
    /// The region that ARNs name.
    pub region: String,
}

fn here(told: Option<&Told>) -> anyhow::Result<&Told> {
    told.context("this node holds no keys: ask a gateway node")
}

fn id(account: &str, name: String) -> anyhow::Result<TargetId> {
    let account = AccountId::new(account).context("no account's id")?;
    Ok(TargetId { account, name })
}

/// All targets.
pub async fn list(told: Option<&Told>) -> anyhow::Result<Value> {
    let told = here(told)?;
    let rows = told.admin.targets.all().await?;
    let shown = rows.iter().map(|(id, kind)| {
        let (name, subject) = match kind {
            TargetKind::Webhook { .. } => ("webhook", None),
            TargetKind::Nats { subject, .. } => ("nats", Some(subject)),
        };
        json!({
            "account": id.account.as_str(),
            "name": id.name,
            "kind": name,
            "url": kind.url(),
            "subject": subject,
            "arn": id.arn(&told.region),
        })
    });
    Ok(Value::Array(shown.collect()))
}

/// Sets one up.
pub async fn set(
    told: Option<&Told>,
    account: &str,
    name: String,
    target: EventTarget,
    secret: Option<String>,
) -> anyhow::Result<Value> {
    let told = here(told)?;
    let id = id(account, name)?;
    let kind = match target {
        EventTarget::Webhook { url } => TargetKind::Webhook { url, secret: None },
        EventTarget::Nats { url, subject } => TargetKind::Nats { url, subject, token: None },
    };
    let secret = secret.map(Secret::new);
    told.admin.targets.set(&id, kind, secret.as_ref()).await?;
    Ok(json!({ "arn": id.arn(&told.region) }))
}

/// Removes one.
pub async fn remove(told: Option<&Told>, account: &str, name: String) -> anyhow::Result<Value> {
    here(told)?.admin.targets.remove(&id(account, name)?).await?;
    Ok(json!({}))
}

/// What one did not take.
pub async fn dead(told: Option<&Told>, account: &str, name: String) -> anyhow::Result<Value> {
    let letters = here(told)?.admin.dead(&id(account, name)?).await?;
    let shown = letters.iter().map(|letter| {
        let message = letter.message.as_deref().map(String::from_utf8_lossy);
        json!({ "id": letter.id, "message": message.as_deref().unwrap_or("(unreadable)") })
    });
    Ok(Value::Array(shown.collect()))
}

/// Tries again what one did not take, or forgets it.
pub async fn raise(
    told: Option<&Told>,
    account: &str,
    name: String,
    again: bool,
) -> anyhow::Result<Value> {
    let messages = here(told)?.admin.raise(&id(account, name)?, again).await?;
    Ok(json!({ "messages": messages }))
}
