//! Founding a cluster. `init` draws its secrets and writes down what the root group shall decide
//! first; the node's first `serve` has it decided. So `init` needs no network, and a crash at any
//! point can be repeated.

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use nexusgrid_cluster::{NodeIdentity, ca::CertAuthority};
use nexusgrid_codec::{ClusterId, GroupId, MasterKey};
use nexusgrid_env::{Env, NodeId};
use nexusgrid_iam::{AccessKeyId, Secret};
use nexusgrid_meta::root::types::{
    AccessKey, ClusterSettings, Init, RootCommand, RootError, SecretBytes, decode_reply,
};
use nexusgrid_meta::{MetaError, MetaHost, ROOT_GROUP};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::admission::describe;
use super::files;
use super::setup::{configure, facts, store_master_key};
use crate::cli::NewNode;
use crate::config::Config;

/// Metadata groups of a new cluster.
const METADATA_GROUPS: u32 = 4;

/// Name of the file that holds what is still to be decided.
const FILE_NAME: &str = "founding";

/// What its master key seals, so that a copy of the key can be told from a wrong one.
const KEY_CHECK: &[u8] = b"nexusgrid master key";

const ACCESS_KEY_VARIABLE: &str = "NEXUSGRID_ROOT_ACCESS_KEY";
const SECRET_KEY_VARIABLE: &str = "NEXUSGRID_ROOT_SECRET_KEY";

/// Shortest secret an administrator may choose.
const SECRET_LEN_MIN: usize = 16;

/// The root group's first commands, encoded, each with its request id.
#[derive(Serialize, Deserialize)]
struct Founding {
    commands: Vec<(u128, Vec<u8>)>,
}

/// `nexusgrid init`.
pub async fn init(env: &Env, new: &NewNode, json: bool) -> anyhow::Result<()> {
    let config = configure(env, new).await?;
    let dir = &new.node.dir;
    if !(config.roles.meta && config.roles.gateway) {
        bail!("the first node must have the roles meta and gateway");
    }
    let (access_key, secret_key, chosen) = root_credentials(env)?;
    lay_down(env, dir, &config, &access_key, &secret_key).await?;
    if json {
        let answer = serde_json::json!({ "access_key": access_key.as_str(), "secret_key": secret_key.expose() });
        println!("{answer}");
        return Ok(());
    }
    println!("a new cluster is founded in {}", dir.display());
    if chosen {
        println!("root credentials: as given in {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE}");
    } else {
        println!(
            "\nroot credentials for S3, shown this once:\n  access key  {access_key}\n  secret key  {}\n",
            secret_key.expose()
        );
    }
    println!(
        "keep a copy of {} in a safe place: without it all data is lost",
        dir.join(super::setup::MASTER_KEY_FILE).display()
    );
    println!("start it with: nexusgrid serve --dir {}", dir.display());
    Ok(())
}

/// The credentials the administrator chose, or fresh ones; and which.
fn root_credentials(env: &Env) -> anyhow::Result<(AccessKeyId, Secret, bool)> {
    match (std::env::var(ACCESS_KEY_VARIABLE), std::env::var(SECRET_KEY_VARIABLE)) {
        (Ok(id), Ok(secret)) => {
            if secret.len() < SECRET_LEN_MIN {
                bail!("{SECRET_KEY_VARIABLE} needs at least {SECRET_LEN_MIN} characters");
            }
            Ok((AccessKeyId::new(id).context(ACCESS_KEY_VARIABLE)?, Secret::new(secret), true))
        }
        (Err(_), Err(_)) => {
            let mut id = [0; 10];
            let mut secret = Zeroizing::new([0; 25]);
            env.rng.fill(&mut id);
            env.rng.fill(secret.as_mut());
            Ok((AccessKeyId::from_random(id), Secret::from_random(&secret), false))
        }
        _ => bail!("set both {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE}, or neither"),
    }
}

async fn lay_down(
    env: &Env,
    dir: &Path,
    config: &Config,
    access_key: &AccessKeyId,
    secret_key: &Secret,
) -> anyhow::Result<()> {
    let now = env.clock.wall();
    let mut cluster = ClusterId([0; 16]);
    let mut gossip_key = Zeroizing::new([0; 32]);
    let mut master = Zeroizing::new([0; 32]);
    env.rng.fill(&mut cluster.0);
    env.rng.fill(gossip_key.as_mut());
    env.rng.fill(master.as_mut());
    let authority = CertAuthority::create(cluster, now)?;
    let first = NodeId(1);
    let (certificate, key) = authority.issue(first, 1, now, env.rng.as_ref())?;
    let identity = NodeIdentity::new(
        cluster,
        first,
        certificate.to_vec(),
        key,
        authority.certificate().to_vec(),
        *gossip_key,
    )?;

    let master_key = MasterKey::from_bytes(*master);
    let seal = |name: &str, secret: &[u8]| {
        let mut nonce = [0; 12];
        env.rng.fill(&mut nonce);
        nexusgrid_grid::seal_secret(&master_key, cluster, nonce, name, secret)
    };
    let node = describe(
        &facts(config)?,
        Some(config.s3_listen),
        nexusgrid_cluster::ca::fingerprint(&identity.certificate),
    );
    let commands = [
        RootCommand::Init(Box::new(Init {
            cluster,
            ca_cert: authority.certificate().to_vec(),
            sealed_ca_key: authority.seal(&master, env.rng.as_ref())?,
            gossip_key: SecretBytes(gossip_key.to_vec()),
            settings: ClusterSettings {
                reader_horizon_ms: config.timers.reader_horizon_ms,
                ..ClusterSettings::default()
            },
            metadata_groups: METADATA_GROUPS,
            node,
            master_key_check: seal("master key", KEY_CHECK)?,
            now_ms: now.0,
        })),
        RootCommand::CreateKey(AccessKey {
            id: access_key.as_str().to_owned(),
            sealed_secret: seal(access_key.as_str(), secret_key.expose().as_bytes())?,
            owner: "root".to_owned(),
            admin: true,
            grants: Vec::new(),
            created_ms: now.0,
        }),
    ];
    let commands = commands
        .iter()
        .map(|command| {
            let mut id = [0; 16];
            env.rng.fill(&mut id);
            (u128::from_be_bytes(id), command.encode())
        })
        .collect();
    let founding = Zeroizing::new(postcard::to_stdvec(&Founding { commands })?);
    files::replace(env.disk.as_ref(), &dir.join(FILE_NAME), &founding)?;
    store_master_key(env, dir, &master)?;
    // Last: from here on this directory is a node.
    identity.store(env, dir).await?;
    Ok(())
}

/// Has the first commands decided, if that is still to be done: by the node that `init` made.
pub async fn complete(env: &Env, dir: &Path, host: &MetaHost) -> anyhow::Result<()> {
    let path = dir.join(FILE_NAME);
    let Some(bytes) = files::read_if_there(env.disk.as_ref(), &path)?.map(Zeroizing::new) else {
        return Ok(());
    };
    let founding: Founding =
        postcard::from_bytes(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    for group in (0..=METADATA_GROUPS).map(GroupId) {
        match host.create_group(group).await {
            Ok(()) | Err(MetaError::Exists(_)) => {}
            Err(error) => return Err(error).with_context(|| format!("creating group {}", group.0)),
        }
    }
    for (id, command) in founding.commands {
        let reply = host
            .propose(ROOT_GROUP, id, Bytes::from(command), std::time::Duration::from_secs(30))
            .await
            .context("the root group's first commands")?;
        match decode_reply(&reply).context("the root group's reply does not decode")? {
            Ok(_) | Err(RootError::AlreadyInitialised | RootError::KeyExists) => {}
            Err(error) => return Err(error).context("the root group refused to begin"),
        }
    }
    env.disk.remove_file(&path)?;
    env.disk.sync_dir(dir)?;
    Ok(())
}
