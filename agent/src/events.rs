//! Where events of buckets go, by the command line: each command is one request to a gateway node
//! over its administration socket.

use std::path::PathBuf;

use anyhow::bail;
use clap::Subcommand;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::admin::{AdminRequest, EventTarget, client};
use crate::cli::NodeDir;
use crate::commands::{print, table, text};
use crate::identities::cli::Place;
use crate::identities::document;

/// Longest secret that is read, bytes.
const SECRET_BYTES_MAX: usize = 4096;

/// Targets of events, and what they did not take.
#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// List targets, with the ARNs by which buckets name them.
    Ls(NodeDir),
    /// Set up a target that events are posted to, signed as Standard Webhooks says.
    Webhook {
        /// Its name.
        name: String,
        /// `https://…`, or `http://…` at an address that the configuration lists.
        url: String,
        /// A file with the secret that signs them; `-` reads it from the standard input.
        #[arg(long, value_name = "FILE")]
        secret: Option<PathBuf>,
        /// Whose it is.
        #[command(flatten)]
        place: Place,
    },
    /// Set up a target that events are published to.
    Nats {
        /// Its name.
        name: String,
        /// `tls://host:port`, or `nats://host:port` at an address that the configuration lists.
        url: String,
        /// The subject.
        subject: String,
        /// A file with the server's token; `-` reads it from the standard input.
        #[arg(long, value_name = "FILE")]
        token: Option<PathBuf>,
        /// Whose it is.
        #[command(flatten)]
        place: Place,
    },
    /// Remove a target; what waits for it is dropped.
    Rm {
        /// Its name.
        name: String,
        /// Whose it is.
        #[command(flatten)]
        place: Place,
    },
    /// List messages that a target did not take for a day.
    Dead {
        /// The target's name.
        name: String,
        /// Whose it is.
        #[command(flatten)]
        place: Place,
    },
    /// Try them again.
    Retry {
        /// The target's name.
        name: String,
        /// Whose it is.
        #[command(flatten)]
        place: Place,
    },
    /// Forget them.
    Drop {
        /// The target's name.
        name: String,
        /// Whose it is.
        #[command(flatten)]
        place: Place,
    },
}

async fn secret(file: Option<&PathBuf>) -> anyhow::Result<Option<String>> {
    let Some(file) = file else { return Ok(None) };
    let path = (file.as_os_str() != "-").then_some(file.as_path());
    let found = Zeroizing::new(document(path).await?);
    let found = found.trim();
    if found.is_empty() || found.len() > SECRET_BYTES_MAX {
        bail!("the secret in {} is empty or too long", file.display());
    }
    Ok(Some(found.to_owned()))
}

/// Does what was asked for.
pub async fn run(command: EventCommand, json: bool) -> anyhow::Result<()> {
    let (node, request) = match command {
        EventCommand::Ls(node) => {
            let answer = client::ask_value(&node.dir, &AdminRequest::EventTargets).await?;
            let columns = ["account", "name", "kind", "url", "arn"];
            return print(&answer, json, |answer| table(answer, &columns));
        }
        EventCommand::Webhook { name, url, secret: file, place } => {
            let target = EventTarget::Webhook { url };
            let secret = secret(file.as_ref()).await?;
            let account = place.account;
            (place.node, AdminRequest::EventTargetSet { account, name, target, secret })
        }
        EventCommand::Nats { name, url, subject, token, place } => {
            let target = EventTarget::Nats { url, subject };
            let secret = secret(token.as_ref()).await?;
            let account = place.account;
            (place.node, AdminRequest::EventTargetSet { account, name, target, secret })
        }
        EventCommand::Rm { name, place } => {
            (place.node, AdminRequest::EventTargetRemove { account: place.account, name })
        }
        EventCommand::Dead { name, place } => {
            let request = AdminRequest::EventDead { account: place.account, name };
            let answer = client::ask_value(&place.node.dir, &request).await?;
            return print(&answer, json, |answer| table(answer, &["id", "message"]));
        }
        EventCommand::Retry { name, place } => {
            let account = place.account;
            (place.node, AdminRequest::EventRaise { account, name, again: true })
        }
        EventCommand::Drop { name, place } => {
            let account = place.account;
            (place.node, AdminRequest::EventRaise { account, name, again: false })
        }
    };
    let answer = client::ask_value(&node.dir, &request).await?;
    print(&answer, json, |answer: &Value| match (text(answer, "arn"), answer.get("messages")) {
        (_, Some(messages)) => format!("{messages} messages\n"),
        (arn, None) if arn.is_empty() => "done\n".to_owned(),
        (arn, None) => format!("{arn}\n"),
    })
}
