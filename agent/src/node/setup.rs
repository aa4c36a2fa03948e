//! What `init` and `join` have in common, and `join`.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail};
use nexusgrid_cluster::{DriveFacts, JoinOptions, JoinToken, NodeClass, NodeFacts, NodeIdentity};
use nexusgrid_env::Env;
use nexusgrid_meta::root::topology::Topology;
use std::sync::Arc;

use super::admission::Bootstrap;
use super::directory::Directory;
use super::files;
use crate::cli::NewNode;
use crate::config::{Config, DriveConfig, FILE_NAME};

/// Name of the master key's file inside a gateway's directory: 32 bytes. Whoever has them opens
/// every key of the grid.
pub const MASTER_KEY_FILE: &str = "master.key";

/// Longest host name taken from the system.
const HOST_NAME_FALLBACK: &str = "localhost";

/// Reads a new node's configuration, or writes it from the command line; refuses a directory that
/// holds a node already.
pub async fn configure(env: &Env, new: &NewNode) -> anyhow::Result<Config> {
    let dir = &new.node.dir;
    env.disk.create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    if NodeIdentity::exists(env, dir).await? {
        bail!("{} is a node of a cluster already", dir.display());
    }
    let dir = &std::path::absolute(dir)?;
    let path = dir.join(FILE_NAME);
    if env.disk.exists(&path)? {
        return Config::load(env.disk.as_ref(), dir);
    }
    let mut config = Config::default();
    config.rpc_listen = new.rpc_listen.unwrap_or(config.rpc_listen);
    config.rpc_advertise = new.rpc_advertise;
    config.s3_listen = new.s3_listen.unwrap_or(config.s3_listen);
    config.admin_listen = new.admin_listen.unwrap_or(config.admin_listen);
    config.host.clone_from(&new.host);
    config.zone = new.zone.clone().unwrap_or(config.zone);
    config.sleepy = new.sleepy;
    if new.storage_only || new.sleepy {
        config.roles.meta = false;
        config.roles.gateway = !new.storage_only;
    }
    let drives = if new.drives.is_empty() { vec![dir.join("drive")] } else { new.drives.clone() };
    for path in drives {
        config
            .drives
            .push(DriveConfig { path: std::path::absolute(path)?, ..DriveConfig::default() });
    }
    let text = config.to_text()?;
    let config = Config::parse(&text)?;
    files::replace(env.disk.as_ref(), &path, text.as_bytes())?;
    Ok(config)
}

/// What a node says of itself.
pub fn facts(config: &Config) -> anyhow::Result<NodeFacts> {
    let address = config.rpc_address();
    if address.ip().is_unspecified() || address.port() == 0 {
        bail!(
            "other nodes cannot reach {address}: say --rpc-advertise ADDR:PORT with this machine's own address"
        );
    }
    Ok(NodeFacts {
        host: config.host.clone().unwrap_or_else(host_name),
        zone: config.zone.clone(),
        class: if config.sleepy { NodeClass::Sleepy } else { NodeClass::Stable },
        roles: config.roles.into(),
        rpc_addr: address,
        gossip_addr: address,
        drives: config
            .drives
            .iter()
            .map(|drive| DriveFacts { path: drive.path.display().to_string(), size_bytes: 0 })
            .collect(),
    })
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { HOST_NAME_FALLBACK.to_owned() } else { name }
}

/// Writes the master key, for gateways.
pub fn store_master_key(env: &Env, dir: &Path, key: &[u8; 32]) -> anyhow::Result<()> {
    files::replace(env.disk.as_ref(), &dir.join(MASTER_KEY_FILE), key)?;
    Ok(())
}

/// `nexusgrid join`.
pub async fn join(
    env: &Env,
    address: SocketAddr,
    token: &str,
    new: &NewNode,
) -> anyhow::Result<()> {
    let token = JoinToken::parse(token)?;
    let config = configure(env, new).await?;
    let dir = &new.node.dir;
    let joined = nexusgrid_cluster::join(
        env,
        Some(&address.to_string()),
        &token,
        facts(&config)?,
        &JoinOptions::default(),
    )
    .await?;
    let bootstrap: Bootstrap = postcard::from_bytes(&joined.bootstrap)
        .context("the cluster's answer is not what this version expects")?;
    let topology = Topology::decode(&bootstrap.topology)
        .map_err(|_| anyhow::anyhow!("the cluster's map is not what this version expects"))?;
    Directory::open(env, dir)?.offer(&Arc::new(topology));
    if let Some(key) = &bootstrap.master_key {
        store_master_key(env, dir, key)?;
    }
    // Last: from here on this directory is a node.
    joined.identity.store(env, dir).await?;
    println!("joined {} as {}", joined.identity.cluster, joined.identity.node);
    println!("start it with: nexusgrid serve --dir {}", dir.display());
    Ok(())
}
