//! Runs what the command line asks for and prints it, for people or as JSON.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use nexusgrid_env::Env;
use serde_json::Value;

use crate::admin::{AdminRequest, client};
use crate::cli::{
    AccountCommand, BucketCommand, Cli, Command, DriveCommand, KeyCommand, MetadataCommand,
    NodeCommand, NodeDir, PgCommand, TokenCommand, Vouched, WorkerCommand,
};
use crate::demo::{self, DemoOptions};
use crate::identities;
use crate::node;
use crate::status::StatusReport;

/// Runs one command.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let json = cli.json;
    match cli.command {
        Command::Demo { nodes, dir, s3, rpc_port, source, once, settings } => {
            let dir = dir.map_or_else(default_demo_dir, Ok)?;
            let env = Env::real();
            demo::run(&env, DemoOptions { nodes, dir, s3, rpc_port, source, once, settings }).await
        }
        Command::Init(new) => node::init(&Env::real(), &new, json).await,
        Command::Serve(NodeDir { dir }) => node::serve(&Env::real(), &dir).await,
        Command::Join { address, token, new } => {
            node::join(&Env::real(), address, &token, &new).await
        }
        Command::Token(TokenCommand::Create { node, ttl }) => {
            let answer =
                client::ask_value(&node.dir, &AdminRequest::TokenCreate { ttl_seconds: ttl * 60 })
                    .await?;
            print(&answer, json, |answer| {
                format!(
                    "{}\n\nOn the new machine, within {ttl} minutes (good once):\n  nexusgrid join {} --token {0} --dir /var/lib/nexusgrid\n",
                    text(answer, "token"),
                    text(answer, "address"),
                )
            })
        }
        Command::Mount(_) | Command::Umount { .. } | Command::MountDaemon => {
            anyhow::bail!("this is done before anything else")
        }
        Command::Mounts(node) => {
            let columns = &[
                "bucket",
                "dir",
                "connected",
                "read_only",
                "key",
                "seconds",
                "calls",
                "bytes_read",
                "bytes_written",
                "remembered",
                "told",
                "recalled",
                "asked",
                "alone",
                "decided",
                "commands",
            ];
            list(node, AdminRequest::MountList, json, columns).await
        }
        Command::Status(NodeDir { dir }) => {
            let answer = client::ask_value(&dir, &AdminRequest::Status).await?;
            if json {
                return print_json(&answer);
            }
            let report: StatusReport = serde_json::from_value(answer)?;
            print!("{}", report.to_text());
            Ok(())
        }
        Command::Node(NodeCommand::Ls(node)) => {
            list(
                node,
                AdminRequest::NodeList,
                json,
                &["id", "host", "zone", "state", "address", "s3", "drives", "roles"],
            )
            .await
        }
        Command::Node(NodeCommand::Drain { id, cancel, node }) => {
            told(&node, AdminRequest::NodeDrain { id, cancel }, json).await
        }
        Command::Node(NodeCommand::Remove { id, vouched, node }) => {
            let Vouched { lost, data_loss } = vouched;
            told(&node, AdminRequest::NodeRemove { id, lost, data_loss }, json).await
        }
        Command::Drive(DriveCommand::Remove { id, vouched, node }) => {
            let Vouched { lost, data_loss } = vouched;
            told(&node, AdminRequest::DriveRemove { id, lost, data_loss }, json).await
        }
        Command::Drive(DriveCommand::Add { path, node }) => {
            let path = std::path::absolute(&path)?;
            told(&node, AdminRequest::DriveAdd { path }, json).await
        }
        Command::Drive(DriveCommand::Weight { id, weight, node }) => {
            done(&node, AdminRequest::DriveWeight { id, weight }, json).await
        }
        Command::Drive(DriveCommand::Ls(node)) => {
            list(
                node,
                AdminRequest::DriveList,
                json,
                &["id", "node", "state", "size_bytes", "used_bytes", "space", "slots", "weight"],
            )
            .await
        }
        Command::Pg(PgCommand::Ls(node)) => {
            list(
                node,
                AdminRequest::PgList,
                json,
                &["id", "code", "state", "epoch", "used_bytes", "drives"],
            )
            .await
        }
        Command::Bucket(BucketCommand::Ls(node)) => {
            list(node, AdminRequest::BucketList, json, &["name", "owner", "group", "created"]).await
        }
        Command::Bucket(BucketCommand::Create { name, node }) => {
            done(&node, AdminRequest::BucketCreate { name }, json).await
        }
        Command::Bucket(BucketCommand::Show { name, node }) => {
            let request = AdminRequest::BucketShow { name };
            let answer = client::ask_value(&node.dir, &request).await?;
            let columns = ["name", "objects", "bytes", "uploads", "part_bytes", "quota_bytes"];
            print(&answer, json, |answer| table(&Value::Array(vec![answer.clone()]), &columns))
        }
        Command::Bucket(BucketCommand::Quota { name, bytes, node }) => {
            let bytes = bytes.0;
            done(&node, AdminRequest::BucketQuota { name, bytes }, json).await
        }
        Command::Bucket(BucketCommand::Delete { name, node }) => {
            done(&node, AdminRequest::BucketDelete { name }, json).await
        }
        Command::Account(AccountCommand::Ls(node)) => {
            let columns = &["id", "name", "email", "created", "bare_arns"];
            list(node, AdminRequest::AccountList, json, columns).await
        }
        Command::Account(AccountCommand::Create { name, email, bare_arns, node }) => {
            let request = AdminRequest::AccountCreate { name, email, bare_arns };
            let answer = client::ask_value(&node.dir, &request).await?;
            print(&answer, json, |answer| {
                format!(
                    "account     {}\naccess key  {}\nsecret key  {}\n\nThe secret is shown this once.\n",
                    text(answer, "id"),
                    text(answer, "access_key"),
                    text(answer, "secret_key")
                )
            })
        }
        Command::Account(AccountCommand::Show { id, node }) => {
            let answer = client::ask_value(&node.dir, &AdminRequest::AccountShow { id }).await?;
            let columns =
                ["id", "name", "buckets", "objects", "bytes", "quota_objects", "quota_bytes"];
            print(&answer, json, |answer| table(&Value::Array(vec![answer.clone()]), &columns))
        }
        Command::Account(AccountCommand::Quota { id, bytes, objects, node }) => {
            let (bytes, objects) = (bytes.0, objects.0);
            done(&node, AdminRequest::AccountQuota { id, bytes, objects }, json).await
        }
        Command::Account(AccountCommand::Delete { id, node }) => {
            done(&node, AdminRequest::AccountDelete { id }, json).await
        }
        Command::Snapshot(command) => crate::snapshots::run(command, json).await,
        Command::Event(command) => crate::events::run(command, json).await,
        Command::Key(KeyCommand::Ls(node)) => {
            list(
                node,
                AdminRequest::KeyList,
                json,
                &["id", "owner", "admin", "read", "write", "created"],
            )
            .await
        }
        Command::Key(KeyCommand::Create { name, admin, read, write, node }) => {
            let answer =
                client::ask_value(&node.dir, &AdminRequest::KeyCreate { name, admin, read, write })
                    .await?;
            print(&answer, json, |answer| {
                format!(
                    "access key  {}\nsecret key  {}\n\nThe secret is shown this once.\n",
                    text(answer, "access_key"),
                    text(answer, "secret_key")
                )
            })
        }
        Command::Key(KeyCommand::Delete { id, node }) => {
            done(&node, AdminRequest::KeyDelete { id }, json).await
        }
        Command::Kms(command) => crate::kms::run(command, json).await,
        Command::User(command) => identities::user(command, json).await,
        Command::Group(command) => identities::group(command, json).await,
        Command::Role(command) => identities::role(command, json).await,
        Command::Policy(command) => identities::policy(command, json).await,
        Command::Provider(command) => identities::provider(command, json).await,
        Command::Worker(WorkerCommand::Ls(node)) => {
            list(
                node,
                AdminRequest::WorkerList,
                json,
                &[
                    "name",
                    "state",
                    "rounds",
                    "done",
                    "bytes",
                    "left",
                    "percent",
                    "eta_seconds",
                    "rate",
                    "error",
                    "about",
                ],
            )
            .await
        }
        Command::Worker(WorkerCommand::Rate { name, rate, node }) => {
            let bytes_per_second = rate.0;
            done(&node, AdminRequest::WorkerRate { name, bytes_per_second }, json).await
        }
        Command::Worker(WorkerCommand::Pause { name, node }) => {
            done(&node, AdminRequest::WorkerPause { name, paused: true }, json).await
        }
        Command::Worker(WorkerCommand::Resume { name, node }) => {
            done(&node, AdminRequest::WorkerPause { name, paused: false }, json).await
        }
        Command::Scrub(node) => done(&node, AdminRequest::Scrub, json).await,
        Command::Fsck { offline: true, node, .. } => {
            let (report, clean) = node::fsck_offline(&Env::real(), &node.dir).await?;
            print(&report, json, offline_text)?;
            if !clean {
                anyhow::bail!("something is wrong with what this node keeps");
            }
            Ok(())
        }
        Command::Fsck { repair, node, offline: false } => {
            let answer = client::ask_value(&node.dir, &AdminRequest::Fsck { repair }).await?;
            print(&answer, json, fsck_text)?;
            if answer.get("clean") != Some(&Value::Bool(true)) {
                anyhow::bail!("the grid is not clean");
            }
            Ok(())
        }
        Command::Metadata(command) => metadata(command, json).await,
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "nexusgrid",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

async fn metadata(command: MetadataCommand, json: bool) -> anyhow::Result<()> {
    const COLUMNS: &[&str] = &["group", "index", "incarnation", "taken", "age_seconds"];
    const LISTED: &[&str] = &[
        "group",
        "index",
        "incarnation",
        "age_seconds",
        "tail_index",
        "tail_keepers",
        "loss_window_seconds",
        "lost_replica_here",
    ];
    match command {
        MetadataCommand::Ls(node) => list(node, AdminRequest::MetadataList, json, LISTED).await,
        MetadataCommand::Checkpoint(node) => {
            list(node, AdminRequest::MetadataCheckpoint, json, COLUMNS).await
        }
        MetadataCommand::Restore {
            confirm,
            yes_i_understand_that_newer_changes_are_lost: newer_lost,
            accept_older,
            node,
        } => {
            let restore = AdminRequest::MetadataRestore { confirm, newer_lost, accept_older };
            told(&node, restore, json).await
        }
        MetadataCommand::Thaw { incarnation, node } => {
            told(&node, AdminRequest::MetadataThaw { incarnation }, json).await
        }
    }
}

fn default_demo_dir() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(cache.context("HOME is not set: say --dir")?.join("nexusgrid/demo"))
}

async fn list(
    node: NodeDir,
    request: AdminRequest,
    json: bool,
    columns: &[&str],
) -> anyhow::Result<()> {
    let answer = client::ask_value(&node.dir, &request).await?;
    print(&answer, json, |answer| table(answer, columns))
}

/// The answer says itself what was done.
async fn told(node: &NodeDir, request: AdminRequest, json: bool) -> anyhow::Result<()> {
    let answer = client::ask_value(&node.dir, &request).await?;
    print(&answer, json, |answer| format!("{}\n", text(answer, "text")))
}

async fn done(node: &NodeDir, request: AdminRequest, json: bool) -> anyhow::Result<()> {
    let answer = client::ask_value(&node.dir, &request).await?;
    print(&answer, json, |_| "done\n".to_owned())
}

/// Prints an answer, for people or as JSON.
pub fn print(
    answer: &Value,
    json: bool,
    to_text: impl FnOnce(&Value) -> String,
) -> anyhow::Result<()> {
    if json {
        return print_json(answer);
    }
    print!("{}", to_text(answer));
    Ok(())
}

/// Prints an answer as JSON.
pub fn print_json(answer: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(answer)?);
    Ok(())
}

pub fn text(answer: &Value, field: &str) -> String {
    match answer.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Some(value) => plain(value),
        None => String::new(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A check of the grid, for people.
fn offline_text(answer: &Value) -> String {
    let mut lines = String::new();
    let row = |title: &str, value: Option<&Value>| {
        let fields = value.and_then(Value::as_object).into_iter().flatten();
        let fields: Vec<String> =
            fields.map(|(name, value)| format!("{value} {}", name.replace('_', " "))).collect();
        format!("{title}: {}\n", fields.join(", "))
    };
    for drive in answer.get("drives").and_then(Value::as_array).into_iter().flatten() {
        lines += &row("drive", Some(drive));
    }
    lines += &row("metadata", answer.get("metadata"));
    lines += &row("metadata against drives", answer.get("compared"));
    for fault in answer.get("faults").and_then(Value::as_array).into_iter().flatten() {
        lines += &format!("{}\n", fault.as_str().unwrap_or_default());
    }
    for harmed in answer.get("objects").and_then(Value::as_array).into_iter().flatten() {
        lines += &format!("block {}: {}\n", text(harmed, "block"), text(harmed, "what"));
        lines += &objects_text(harmed);
    }
    if answer.get("clean") == Some(&Value::Bool(true)) {
        lines += "clean\n";
    }
    lines
}

fn fsck_text(answer: &Value) -> String {
    let mut lines = String::new();
    for (field, what) in [
        ("blocks", "live blocks"),
        ("shards", "of their shards found in place"),
        ("queued", "shards on their way (repair knows)"),
        ("unreachable", "shards on drives that do not answer"),
        ("missing", "shards missing that repair did not know of"),
        ("lost", "blocks with too few shards to be read"),
        ("awaiting_burial", "shards deleted, on their way out"),
        ("pending", "shards that writers may still commit"),
        ("orphans", "shards that metadata does not know (swept when seen again)"),
        ("unheard", "shards newer than metadata (is it an old copy?)"),
        ("misplaced", "shards on drives they have left"),
    ] {
        lines += &format!("{:>12}  {what}\n", text(answer, field));
    }
    let unlisted = text(answer, "unlisted_drives");
    if !unlisted.is_empty() {
        lines += &format!("not looked at, for they do not answer: drives {unlisted}\n");
    }
    for fault in answer.get("faults").and_then(Value::as_array).into_iter().flatten() {
        lines += &format!(
            "block {} slot {} of pg {}: {} {}\n",
            text(fault, "block"),
            text(fault, "slot"),
            text(fault, "pg"),
            text(fault, "invariant"),
            text(fault, "what")
        );
        lines += &objects_text(fault);
    }
    lines
}

/// The objects that a fault touches, one a line.
fn objects_text(fault: &Value) -> String {
    let objects = fault.get("objects").and_then(Value::as_array).into_iter().flatten();
    let line = |object: &Value| match object.get("version") {
        None | Some(Value::Null) => {
            format!("  object {}/{}\n", text(object, "bucket"), text(object, "key"))
        }
        Some(_) => format!(
            "  object {}/{} version {}\n",
            text(object, "bucket"),
            text(object, "key"),
            text(object, "version")
        ),
    };
    objects.map(line).collect()
}

/// Rows of a JSON list as aligned columns under their names.
pub fn table(rows: &Value, columns: &[&str]) -> String {
    let mut lines = vec![columns.iter().map(|column| column.to_uppercase()).collect::<Vec<_>>()];
    for row in rows.as_array().into_iter().flatten() {
        lines.push(columns.iter().map(|column| text(row, column)).collect());
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| lines.iter().filter_map(|line| line.get(at)).map(String::len).max().unwrap_or(0))
        .collect();
    lines
        .iter()
        .map(|line| {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_aligned_tables() {
        let rows = serde_json::json!([{"id": 1, "host": "a"}, {"id": 12, "host": "bcd", "drives": [3, 4]}]);
        assert_eq!(
            table(&rows, &["id", "host", "drives"]),
            "ID  HOST  DRIVES\n1   a\n12  bcd   3,4\n"
        );
    }
}
