//! `nexusgrid demo`: a whole grid on this machine, one real `serve` process per node, and a tour.
//!
//! The tour stores a directory of the machine, kills two nodes with SIGKILL, reads everything back
//! and compares, goes on writing, and revives the two. The demo holds no state of its own: what it
//! finds in its directory it starts again.

mod process;
mod tour;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nexusgrid_env::{Clock, Disk, Env, OpenMode};
use serde::{Deserialize, Serialize};

use crate::admin::{AdminRequest, client};
use crate::config::{Config, FILE_NAME};
use crate::s3_client::S3Client;
use crate::status::StatusReport;
use process::NodeProcess;

/// How long the grid may take from the last join to `ready`.
const GRID_READY_TIMEOUT: Duration = Duration::from_secs(90);

/// How often the demo asks whether it is.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What the owner of this machine keeps free, on drives of a demo.
const RESERVE_BYTES: u64 = 1 << 30;

/// What `nexusgrid demo` was asked for.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// How many nodes.
    pub nodes: usize,
    /// Where they live.
    pub dir: PathBuf,
    /// The first node's S3 address; the others take the ports that follow.
    pub s3: SocketAddr,
    /// The first node's port for agents; the others take the ports that follow, metrics those 100 above.
    pub rpc_port: u16,
    /// The directory whose files the tour stores.
    pub source: PathBuf,
    /// End after the tour.
    pub once: bool,
    /// Lines of TOML that go into each node's configuration.
    pub settings: Vec<String>,
}

/// The demo's access key, kept in its directory so that a second start can show it again.
#[derive(Clone, Serialize, Deserialize)]
struct Credentials {
    access_key: String,
    secret_key: String,
}

/// Runs the demo; returns when it was told to stop, or after the tour.
pub async fn run(env: &Env, options: DemoOptions) -> anyhow::Result<()> {
    if options.nodes == 0 {
        bail!("a grid has at least one node");
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    env.disk.create_dir_all(&options.dir)?;
    let mut nodes = plan_nodes(&options)?;
    let fresh = !env.disk.exists(&options.dir.join("credentials.json"))?;
    let credentials = if fresh {
        say("founding the grid");
        found(env, &program, &mut nodes, &options).await?
    } else {
        say("starting the grid that is in this directory");
        start_all(env, &program, &mut nodes).await?;
        serde_json::from_slice(&read_file(env, &options.dir.join("credentials.json"))?)?
    };
    say("waiting until every group has its voters and placement groups are open");
    wait_until_ready(env.clock.as_ref(), &nodes).await?;
    let client = S3Client {
        endpoint: options.s3,
        access_key: credentials.access_key.clone(),
        secret_key: credentials.secret_key.clone(),
    };
    let result = tour::run(env, &program, &mut nodes, &client, &options.source).await;
    if let Err(error) = &result {
        say(&format!("the tour failed: {error:#}"));
    }
    if !options.once && result.is_ok() {
        println!(
            "ready s3=http://{} access_key={} secret_key={}",
            options.s3, credentials.access_key, credentials.secret_key
        );
        explain(&options, &credentials);
        tokio::signal::ctrl_c().await?;
        say("stopping");
    }
    for node in &nodes {
        node.ask_to_stop();
    }
    for node in &mut nodes {
        node.wait();
    }
    result
}

/// Progress for people, on stderr: stdout carries only the `ready` line.
fn say(message: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1m==>\x1b[0m {message}");
    } else {
        eprintln!("==> {message}");
    }
}

fn explain(options: &DemoOptions, credentials: &Credentials) {
    let first = options.dir.join("n1");
    eprintln!(
        "\nThe grid serves. Three things to try:\n\n  export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_DEFAULT_REGION=us-east-1\n  aws --endpoint-url http://{} s3 ls s3://tour/\n  aws --endpoint-url http://{} s3 cp /etc/services s3://tour/\n  nexusgrid status --dir {}\n\nCtrl-C stops it; `nexusgrid demo` in the same directory starts it again.",
        credentials.access_key,
        credentials.secret_key,
        options.s3,
        options.s3,
        first.display()
    );
}

fn plan_nodes(options: &DemoOptions) -> anyhow::Result<Vec<NodeProcess>> {
    (1..=options.nodes)
        .map(|number| {
            let offset = u16::try_from(number - 1).context("too many nodes for one machine")?;
            let port =
                |base: u16| base.checked_add(offset).context("no ports left above the first");
            Ok(NodeProcess::new(
                number,
                options.dir.join(format!("n{number}")),
                SocketAddr::from(([127, 0, 0, 1], port(options.rpc_port)?)),
                SocketAddr::new(options.s3.ip(), port(options.s3.port())?),
                SocketAddr::from(([127, 0, 0, 1], port(options.rpc_port + 100)?)),
            ))
        })
        .collect()
}

fn node_config(node: &NodeProcess) -> Config {
    let mut config = Config {
        rpc_listen: node.rpc,
        s3_listen: node.s3,
        admin_listen: node.admin,
        // One machine plays several hosts here; `status` would otherwise rightly call it one.
        host: Some(format!("demo-host-{}", node.number)),
        ..Config::default()
    };
    config.drives.push(crate::config::DriveConfig {
        path: node.dir.join("drive"),
        reserve_bytes: Some(RESERVE_BYTES),
        segment_bytes: None,
        ..crate::config::DriveConfig::default()
    });
    config
}

/// A node's configuration with what the command line sets.
fn config_text(node: &NodeProcess, settings: &[String]) -> anyhow::Result<String> {
    let mut table: toml::Table = node_config(node).to_text()?.parse()?;
    for setting in settings {
        // What is no value of TOML is text.
        let quoted = || {
            let (name, value) = setting.split_once('=')?;
            format!("{name}={}", toml::Value::String(value.to_owned())).parse().ok()
        };
        let set: toml::Table = setting
            .parse()
            .ok()
            .or_else(quoted)
            .with_context(|| format!("--set {setting}: not NAME=VALUE"))?;
        merge(&mut table, set);
    }
    let text = toml::to_string(&table)?;
    Config::parse(&text).context("--set")?;
    Ok(text)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

/// Makes the grid: `init` on the first node, a token and `join` for each other.
async fn found(
    env: &Env,
    program: &Path,
    nodes: &mut [NodeProcess],
    options: &DemoOptions,
) -> anyhow::Result<Credentials> {
    for node in nodes.iter() {
        env.disk.create_dir_all(&node.dir)?;
        write_file(
            env,
            &node.dir.join(FILE_NAME),
            config_text(node, &options.settings)?.as_bytes(),
        )?;
    }
    let Some((first, others)) = nodes.split_first_mut() else {
        bail!("a grid has at least one node")
    };
    let dir = first.dir.display().to_string();
    let output =
        NodeProcess::command(program, &["init".into(), "--json".into(), "--dir".into(), dir])?;
    let credentials: Credentials =
        serde_json::from_str(&output).context("reading what init printed")?;
    start(env, program, first).await?;
    for node in others.iter_mut() {
        let token: TokenAnswer =
            client::ask(&first.dir, &AdminRequest::TokenCreate { ttl_seconds: 600 }).await?;
        let arguments = [
            "join".into(),
            first.rpc.to_string(),
            "--token".into(),
            token.token,
            "--dir".into(),
            node.dir.display().to_string(),
        ];
        NodeProcess::command(program, &arguments)?;
        start(env, program, node).await?;
        say(&format!("node {} of {} joined", node.number, options.nodes));
    }
    write_file(env, &options.dir.join("credentials.json"), &serde_json::to_vec(&credentials)?)?;
    Ok(credentials)
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: String,
}

async fn start_all(env: &Env, program: &Path, nodes: &mut [NodeProcess]) -> anyhow::Result<()> {
    let starts: Vec<_> = nodes.iter_mut().map(|node| start(env, program, node)).collect();
    futures_util::future::try_join_all(starts).await.map(|_| ())
}

async fn start(_env: &Env, program: &Path, node: &mut NodeProcess) -> anyhow::Result<()> {
    let log = process_log(&node.log_path())?;
    node.start(program, log).await
}

#[allow(clippy::disallowed_methods, reason = "a child process needs a real file for its stderr")]
fn process_log(path: &Path) -> anyhow::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Waits until a running node calls the grid ready.
async fn wait_until_ready(
    clock: &dyn Clock,
    nodes: &[NodeProcess],
) -> anyhow::Result<StatusReport> {
    let deadline = clock.now().plus(GRID_READY_TIMEOUT);
    let mut last = String::from("no node answered");
    while clock.now() < deadline {
        if let Some(node) = nodes.iter().find(|node| node.running()) {
            match client::ask::<StatusReport>(&node.dir, &AdminRequest::Status).await {
                Ok(status) if status.ready && status.nodes.len() >= nodes.len() => {
                    return Ok(status);
                }
                Ok(status) => last = status.warnings.join("; "),
                Err(error) => last = format!("{error:#}"),
            }
        }
        clock.sleep(POLL_INTERVAL).await;
    }
    bail!("the grid was not ready within {} s: {last}", GRID_READY_TIMEOUT.as_secs())
}

fn write_file(env: &Env, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = env.disk.open(path, OpenMode::OpenOrCreate)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    Ok(())
}

fn read_file(env: &Env, path: &Path) -> anyhow::Result<Vec<u8>> {
    read_whole(env.disk.as_ref(), path)
}

fn read_whole(disk: &dyn Disk, path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// What the tour shares between its requests.
type SharedEnv = Arc<Env>;
