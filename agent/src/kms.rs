//! Keys that the grid keeps by name, by the command line: each command is one operation of the KMS'
//! interface, done as the account itself.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::admin::{AdminRequest, client};
use crate::commands::{print, print_json, table, text};
use crate::identities::cli::Place;

/// A key and whose it is.
#[derive(Clone, Debug, Args)]
pub struct Named {
    /// Its id, ARN, or alias (`alias/…`).
    key: String,
    /// Whose it is.
    #[command(flatten)]
    place: Place,
}

/// Keys that the grid keeps, for encryption with SSE-KMS.
#[derive(Debug, Subcommand)]
pub enum KmsCommand {
    /// List keys.
    Ls(Place),
    /// Make a key.
    Create {
        /// A name for it: `alias/…`. `alias/aws/s3` is the key that is meant where none is named.
        #[arg(long)]
        alias: Option<String>,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
        /// Whose it is.
        #[command(flatten)]
        place: Place,
    },
    /// Give a key a new version now; what older ones sealed stays readable.
    Rotate {
        /// The key.
        #[command(flatten)]
        named: Named,
        /// And whenever the newest version is so many days old; 0: no more.
        #[arg(long, value_name = "DAYS")]
        every: Option<u32>,
    },
    /// Switch a key off: nothing is sealed or opened by it.
    Disable(Named),
    /// Switch a key on.
    Enable(Named),
    /// Have a key deleted after a while: what it sealed is lost then.
    Delete {
        /// The key.
        #[command(flatten)]
        named: Named,
        /// After so many days, 7 to 30.
        #[arg(long, default_value_t = 30)]
        days: u32,
        /// Keep it after all; it stays switched off.
        #[arg(long, conflicts_with = "days")]
        cancel: bool,
    },
}

async fn ask(place: &Place, operation: &str, parameters: Value) -> anyhow::Result<Value> {
    let (account, operation) = (place.account.clone(), operation.to_owned());
    client::ask_value(&place.node.dir, &AdminRequest::Kms { account, operation, parameters }).await
}

async fn list(place: &Place, json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let aliases = ask(place, "ListAliases", json!({ "Limit": 1_000 })).await?;
    let mut marker = None;
    loop {
        let mut page = json!({ "Limit": 1_000 });
        if let (Some(marker), Some(fields)) = (&marker, page.as_object_mut()) {
            fields.insert("Marker".to_owned(), json!(marker));
        }
        let keys = ask(place, "ListKeys", page).await?;
        for key in keys.get("Keys").and_then(Value::as_array).into_iter().flatten() {
            let id = text(key, "KeyId");
            let answer = ask(place, "DescribeKey", json!({ "KeyId": id })).await?;
            let about = answer.get("KeyMetadata").cloned().unwrap_or_default();
            let names = aliases.get("Aliases").and_then(Value::as_array).into_iter().flatten();
            let names: Vec<String> = names
                .filter(|alias| text(alias, "TargetKeyId") == id)
                .map(|alias| text(alias, "AliasName"))
                .collect();
            rows.push(json!({
                "id": id,
                "state": text(&about, "KeyState"),
                "aliases": names.join(" "),
                "description": text(&about, "Description"),
                "arn": text(&about, "Arn"),
            }));
        }
        marker = keys.get("NextMarker").and_then(Value::as_str).map(str::to_owned);
        if marker.is_none() {
            break;
        }
    }
    print(&Value::Array(rows), json, |rows| {
        table(rows, &["id", "state", "aliases", "description", "arn"])
    })
}

/// Runs a command.
pub async fn run(command: KmsCommand, json: bool) -> anyhow::Result<()> {
    match command {
        KmsCommand::Ls(place) => list(&place, json).await,
        KmsCommand::Create { alias, description, place } => {
            let answer = ask(&place, "CreateKey", json!({ "Description": description })).await?;
            let about = answer.get("KeyMetadata").cloned().unwrap_or_default();
            let id = text(&about, "KeyId");
            if let Some(alias) = alias {
                let parameters = json!({ "AliasName": alias, "TargetKeyId": id });
                ask(&place, "CreateAlias", parameters).await?;
            }
            if json {
                return print_json(&json!({ "id": id, "arn": text(&about, "Arn") }));
            }
            print(&about, false, |about| format!("key  {id}\narn  {}\n", text(about, "Arn")))
        }
        KmsCommand::Rotate { named, every } => {
            let key = json!({ "KeyId": named.key });
            match every {
                None => done(&named, "RotateKeyOnDemand", key, json).await,
                Some(0) => done(&named, "DisableKeyRotation", key, json).await,
                Some(days) => {
                    let key = json!({ "KeyId": named.key, "RotationPeriodInDays": days });
                    done(&named, "EnableKeyRotation", key, json).await
                }
            }
        }
        KmsCommand::Disable(named) => {
            let key = json!({ "KeyId": named.key });
            done(&named, "DisableKey", key, json).await
        }
        KmsCommand::Enable(named) => {
            let key = json!({ "KeyId": named.key });
            done(&named, "EnableKey", key, json).await
        }
        KmsCommand::Delete { named, days, cancel } => {
            let key = json!({ "KeyId": named.key, "PendingWindowInDays": days });
            let operation = if cancel { "CancelKeyDeletion" } else { "ScheduleKeyDeletion" };
            done(&named, operation, key, json).await
        }
    }
}

async fn done(named: &Named, operation: &str, key: Value, json: bool) -> anyhow::Result<()> {
    let answer = ask(&named.place, operation, key).await?;
    print(&answer, json, |_| "done\n".to_owned())
}
