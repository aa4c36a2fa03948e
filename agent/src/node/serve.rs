//! `nexusgrid serve`: starts the parts in the order in which they need each other, waits to be told to
//! stop, and stops them.
//!
//! ```text
//!   lock ─ identity ─ map on disk ─ transport ─ Raft groups ─ gossip ─ [founding] ─ drives ─ grid
//!     ─ administration ─ map of the root group ─ new drives ─ admission ─ own addresses told ─ S3, metrics ─ "ready"
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use nexusgrid_cluster::ca::CertAuthority;
use nexusgrid_cluster::{
    AdmissionService, IdentityCell, NodeIdentity, RenewOptions, Renewal, RpcRouter, ShardTransport,
    Swim, SwimOptions, Transport, TransportOptions, identity, method,
};
use nexusgrid_codec::{GroupId, MasterKey};
use nexusgrid_env::{Env, NodeId, Rpc, RpcService};
use nexusgrid_gateway::events::EventAdmin;
use nexusgrid_gateway::mounts::Mounts;
use nexusgrid_gateway::{Admin, Gateway, GatewayOptions, Metrics, ServerOptions, SharedRegistry};
use nexusgrid_grid::care::checkpoint::{CheckpointOptions, CheckpointParts, Shelf};
use nexusgrid_grid::session::SessionOptions;
use nexusgrid_grid::{CareOptions, GridNode, GridOptions, HostPort, Liveness, MetaPort, NodeParts};
use nexusgrid_iam::Secret;
use nexusgrid_meta::root::types::{Addresses, RootAnswer, RootCommand, RootQuery};
use nexusgrid_meta::{HostOptions, MetaHost, ROOT_GROUP, StateMachine};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::administration::NodeAdministration;
use super::admission::RootAdmission;
use super::directory::Directory;
use super::drives::Drives;
use super::files;
use super::found;
use super::keys::RootKeys;
use super::parts::{MapReadiness, SwimLiveness, checkpoint_specs, meta_specs, shard_specs};
use super::root::Root;
use super::setup::MASTER_KEY_FILE;
use crate::admin;
use crate::config::{Config, ShardTransport as ConfiguredTransport};

/// A read is pinned after this part of the reader horizon.
const PINS_PER_HORIZON: u32 = 5;

/// One try at a metadata group.
const META_DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait for the root group before saying so, and again.
const ROOT_WAIT_REPORT: Duration = Duration::from_secs(10);

/// How long a gateway's other work gets to end after the last request.
const WORK_GRACE: Duration = Duration::from_secs(5);

/// How long running requests and tasks get at the end.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// `nexusgrid serve`.
pub async fn serve(env: &Env, dir: &Path) -> anyhow::Result<()> {
    let config = Config::load(env.disk.as_ref(), dir)?;
    let _lock = match env.disk.lock(&dir.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            bail!("another agent serves {} already", dir.display())
        }
        Err(error) => return Err(error).with_context(|| format!("locking {}", dir.display())),
    };
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let started = tokio::select! {
        started = start(env, dir, &config, &stop) => started,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            env.exec.stop();
            return Err(error);
        }
    };
    println!(
        "ready s3=http://{} node={} admin=http://{}",
        running.s3, running.node_id, running.admin
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
    running.end(env).await;
    Ok(())
}

/// A node that serves.
struct Running {
    node_id: NodeId,
    s3: SocketAddr,
    admin: SocketAddr,
    node: Arc<GridNode>,
    swim: Swim,
    meta: MetaHost,
    serving: tokio::task::JoinHandle<()>,
    door: Arc<crate::drive::Door>,
}

impl Running {
    async fn end(self, env: &Env) {
        let ending = async {
            // What mounts did alone is said while others can hear it.
            self.door.give_back().await;
            let _ = self.serving.await;
            for group in self.meta.groups() {
                let _ = self.meta.transfer_leader(group).await;
            }
            self.node.close().await;
            self.swim.leave().await;
            for group in self.meta.groups() {
                if let Err(error) = self.meta.flush(group).await {
                    tracing::warn!(%error, group = group.0, "flushing at the end");
                }
            }
        };
        if tokio::time::timeout(STOP_GRACE, ending).await.is_err() {
            tracing::warn!("the end took too long: the rest is left to the next start");
        }
        env.exec.stop();
        let _ = tokio::time::timeout(STOP_GRACE, env.exec.wait()).await;
    }
}

pub(super) fn machine(group: GroupId) -> Arc<dyn StateMachine> {
    if group == ROOT_GROUP {
        Arc::new(nexusgrid_meta::root::Root)
    } else {
        Arc::new(nexusgrid_meta::namespace::Namespace)
    }
}

fn master_key(env: &Env, dir: &Path, config: &Config) -> anyhow::Result<Option<MasterKey>> {
    if !config.roles.gateway {
        return Ok(None);
    }
    let path = dir.join(MASTER_KEY_FILE);
    let bytes = files::read_if_there(env.disk.as_ref(), &path)?
        .with_context(|| format!("{} is missing: a gateway cannot serve without the master key; restore it from your copy", path.display()))?;
    let bytes = <[u8; 32]>::try_from(bytes)
        .map_err(|_| anyhow::anyhow!("{} must hold 32 bytes", path.display()))?;
    Ok(Some(MasterKey::from_bytes(bytes)))
}

async fn start(
    env: &Env,
    dir: &Path,
    config: &Config,
    stop: &CancellationToken,
) -> anyhow::Result<Running> {
    let identity = NodeIdentity::load(env, dir).await?;
    let (node_id, cluster) = (identity.node, identity.cluster);
    let (gossip_key, ca_fingerprint) = (*identity.gossip_key(), identity.ca_fingerprint());
    let master = master_key(env, dir, config)?;
    let directory = Directory::open(env, dir)?;

    // Drives that are there already need nobody else; a wrong or missing one is said at once.
    let mut drives = Drives::load(env, dir)?;
    let open_drives = drives.open_known(cluster, config).await?;

    let cell = IdentityCell::new(Arc::clone(&env.clock), identity)?;
    let router = RpcRouter::new();
    let mut transport_options = TransportOptions::new(config.rpc_listen);
    transport_options.shard_transport = match config.shard_transport {
        ConfiguredTransport::Plain => ShardTransport::Plain,
        ConfiguredTransport::Tls => ShardTransport::Tls,
    };
    let meta_specs = meta_specs(nexusgrid_meta::raft::wire::METHODS);
    let shard_specs = shard_specs(nexusgrid_grid::shard::wire::METHODS);
    router.declare(&meta_specs);
    router.declare(&shard_specs);
    let checkpoint_specs = checkpoint_specs();
    router.declare(&checkpoint_specs);
    let transport = Transport::start(
        env.clone(),
        transport_options,
        Arc::clone(&cell),
        directory.clone(),
        Arc::clone(&router),
    )
    .await?;
    let rpc: Arc<dyn Rpc> = transport.clone();

    let host = MetaHost::open(
        env.clone(),
        Arc::clone(&rpc),
        node_id,
        dir.join("meta"),
        Arc::new(machine),
        directory.clone(),
        host_options(config),
    )
    .await?;
    router.register(&meta_specs, host.service());
    for (group, result) in host.start_existing().await? {
        if let Err(error) = result {
            tracing::error!(group = group.0, %error, "a metadata group does not start here; others go on without this replica");
        }
    }

    let swim = start_gossip(env, dir, config, &directory, node_id, cluster, &gossip_key).await?;
    let liveness: Arc<dyn Liveness> = Arc::new(SwimLiveness { own: node_id, swim: swim.clone() });
    found::complete(env, dir, &host).await?;

    let port: Arc<dyn MetaPort> = Arc::new(HostPort::new(host.clone(), META_DEADLINE));
    let root = Root::new(env.clone(), Arc::clone(&port));
    let node = Arc::new(GridNode::start(NodeParts {
        env: env.clone(),
        node: node_id,
        cluster,
        rpc: Arc::clone(&rpc),
        liveness: Arc::clone(&liveness),
        meta: Arc::clone(&port),
        drives: open_drives,
        failed: drives.failed().to_vec(),
        master: master.clone(),
        options: grid_options(config),
    }));
    router.register(&shard_specs, node.shard_service());
    super::cache::open(env, dir, &config.cache, (cluster, Arc::clone(&node)));
    let checkpoints = node.keep_checkpoints(CheckpointParts {
        host: host.clone(),
        shelf: Shelf::open(env, dir).await?,
        rpc: Arc::clone(&rpc),
        kept_map: directory.clone(),
        options: checkpoint_options(config),
    });
    router.register(&checkpoint_specs, checkpoints.clone());
    let keys =
        master.is_some().then(|| Arc::new(RootKeys::new(env.clone(), root.clone(), node.grid())));
    let gateway = Arc::new(OnceLock::new());
    let rights = keys.clone().map(|keys| Mounts::new(env.clone(), Arc::new(node.grid()), keys));
    let door = crate::drive::Door::new(env.clone(), node.grid(), rights.map(Arc::new));
    let administration = NodeAdministration {
        env: env.clone(),
        own: node_id,
        cluster,
        dir: dir.to_owned(),
        shards: node.shard_service(),
        adding: tokio::sync::Mutex::default(),
        rpc_address: config.rpc_address(),
        ca_fingerprint,
        directory: Arc::clone(&directory),
        root: root.clone(),
        meta: host.clone(),
        grid: node.grid(),
        liveness: Arc::clone(&liveness),
        workers: node.workers(),
        keys: keys.clone(),
        told: keys.as_ref().map(|_| super::events::Told {
            admin: EventAdmin::of(env.clone(), Arc::new(node.grid())),
            region: config.s3.region.clone(),
        }),
        kms: keys.as_ref().map(|_| {
            let region = std::sync::Arc::from(config.s3.region.as_str());
            nexusgrid_gateway::kms::Kms::new(env.clone(), Arc::new(node.grid()), region)
        }),
        accounts: keys.clone().map(|keys| {
            nexusgrid_gateway::identity::Directory::new(env.clone(), Arc::new(node.grid()), keys)
        }),
        checkpoints: Arc::clone(&checkpoints),
        door: Arc::clone(&door),
        gateway: Arc::clone(&gateway),
    };
    // From here on this node can be administered, and gives what its drives hold, also while no root
    // group answers: that is how lost metadata is restored.
    admin::server::serve(env, dir, Arc::new(administration)).await?;

    wait_for_map(env, &root, &directory).await;
    tell_addresses(&root, &directory, node_id, config).await?;
    for (drive, store) in drives.add_new(cluster, node_id, &root, config).await? {
        node.add_drive(drive, store);
    }
    nexusgrid_grid::voters::keep_voters(
        env,
        &host,
        Arc::clone(&port),
        directory.subscribe(),
        Arc::clone(&liveness),
    );
    let care = grid_options(config).care;
    nexusgrid_grid::care::scrub::scrub_metadata(
        env,
        &host,
        &node.workers(),
        care.scrub_every,
        care.scrub_bytes,
    );
    env.exec.spawn(follow_map(node.map(), Arc::clone(&directory), swim.clone(), node_id));

    if master.is_some() {
        door.serve(dir)?;
    }
    start_admission(env, dir, &cell, &directory, &router, &root, &rpc, master.as_ref()).await?;
    let (s3, admin, serving) =
        start_listeners(env, config, stop, &node, &host, &directory, node_id, keys, &gateway)
            .await?;
    Ok(Running { node_id, s3, admin, node, swim, meta: host, serving, door })
}

fn host_options(config: &Config) -> HostOptions {
    let election = Duration::from_millis(config.timers.raft_election_ms);
    HostOptions {
        heartbeat: config.timers.raft_heartbeat(),
        election_min: election,
        election_max: 2 * election,
        replace_after: Duration::from_millis(config.timers.voter_grace_ms),
        ..HostOptions::default()
    }
}

fn grid_options(config: &Config) -> GridOptions {
    let mut care = CareOptions::default();
    care.remap.grace_stable = Duration::from_millis(config.timers.repair_grace_ms);
    care.remap.grace_sleepy = Duration::from_millis(config.timers.repair_grace_sleepy_ms);
    care.remap.grace_urgent = Duration::from_millis(config.timers.repair_grace_urgent_ms);
    care.sweep_every = Duration::from_millis(config.timers.sweep_every_ms);
    care.rewrite.every = Duration::from_millis(config.timers.rewrite_every_ms);
    care.lifecycle_day = Duration::from_millis(config.timers.lifecycle_day_ms);
    care.scrub_every = Duration::from_millis(config.timers.scrub_every_ms);
    care.orphan_age = Duration::from_millis(config.timers.orphan_age_ms);
    let horizon = Duration::from_millis(config.timers.reader_horizon_ms);
    // A long read makes itself known well before the horizon passes it.
    let session =
        SessionOptions { pin_after: horizon / PINS_PER_HORIZON, ..SessionOptions::default() };
    GridOptions {
        care,
        session,
        budget_bytes: config.body_budget_bytes,
        wait_alive: Duration::from_millis(config.timers.shard_wait_alive_ms),
        wait_suspect: Duration::from_millis(config.timers.shard_wait_suspect_ms),
        ..GridOptions::default()
    }
}

fn checkpoint_options(config: &Config) -> CheckpointOptions {
    CheckpointOptions {
        every: Duration::from_millis(config.timers.checkpoint_every_ms),
        root_every: Duration::from_millis(config.timers.checkpoint_root_every_ms),
        log_tail: Duration::from_millis(config.timers.log_tail_ms),
        ..CheckpointOptions::default()
    }
}

async fn start_gossip(
    env: &Env,
    dir: &Path,
    config: &Config,
    directory: &Arc<Directory>,
    node: NodeId,
    cluster: nexusgrid_codec::ClusterId,
    gossip_key: &[u8; 32],
) -> anyhow::Result<Swim> {
    let datagram = nexusgrid_env::real::net::datagram(config.rpc_listen)
        .await
        .with_context(|| format!("listening on UDP {}", config.rpc_listen))?;
    let incarnation = identity::count_start(env, dir).await?;
    let mut options = SwimOptions::new(
        node,
        cluster,
        config.rpc_address(),
        incarnation,
        gossip_key,
        directory.others(node),
    );
    options.directory = Some(directory.clone());
    Ok(Swim::start(env, options, Arc::new(datagram))?)
}

/// Waits, as long as it takes, until the root group gives a map: alone a node can do nothing.
async fn wait_for_map(env: &Env, root: &Root, directory: &Directory) {
    let mut said = env.clock.now();
    loop {
        match root.ask(&RootQuery::Topology { unless_version: 0 }).await {
            Ok(RootAnswer::Topology(Some(topology))) => {
                return directory.offer(&Arc::from(topology));
            }
            Ok(_) => tracing::warn!("the root group's answer does not fit"),
            Err(error) => {
                if env.clock.now().since(said) >= ROOT_WAIT_REPORT {
                    said = env.clock.now();
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "waiting for a majority of the root group's voters"
                    );
                }
            }
        }
        env.clock.sleep(Duration::from_millis(200)).await;
    }
}

/// Tells the root group where this node is now, if that changed.
async fn tell_addresses(
    root: &Root,
    directory: &Directory,
    node: NodeId,
    config: &Config,
) -> anyhow::Result<()> {
    let rpc = config.rpc_address().to_string();
    let s3 = if config.s3_listen.ip().is_unspecified() {
        SocketAddr::new(config.rpc_address().ip(), config.s3_listen.port())
    } else {
        config.s3_listen
    };
    let addresses =
        Addresses { rpc: rpc.clone(), shard: rpc.clone(), gossip: rpc, s3: s3.to_string() };
    let topology = directory.topology();
    let known = topology
        .node(node)
        .context("this node was removed from the cluster: let it join as a new one")?;
    if known.addresses != addresses {
        root.command(&RootCommand::SetNodeAddresses { node, addresses }).await?;
    }
    Ok(())
}

/// Hands every newer map to transport and gossip.
async fn follow_map(
    mut map: tokio::sync::watch::Receiver<Arc<nexusgrid_meta::root::topology::Topology>>,
    directory: Arc<Directory>,
    swim: Swim,
    own: NodeId,
) {
    loop {
        let current = Arc::clone(&map.borrow_and_update());
        directory.offer(&current);
        swim.set_seeds(directory.others(own)).await;
        if map.changed().await.is_err() {
            return;
        }
    }
}

/// Serves joins and renewals, and renews this node's own certificate.
#[allow(clippy::too_many_arguments, reason = "wiring: each is used once")]
async fn start_admission(
    env: &Env,
    dir: &Path,
    cell: &Arc<IdentityCell>,
    directory: &Arc<Directory>,
    router: &Arc<RpcRouter>,
    root: &Root,
    rpc: &Arc<dyn Rpc>,
    master: Option<&MasterKey>,
) -> anyhow::Result<()> {
    let admission =
        RootAdmission { env: env.clone(), root: root.clone(), master_key: master.cloned() };
    let service = AdmissionService::new(
        env.clone(),
        Arc::clone(cell),
        directory.clone(),
        Arc::new(admission),
    );
    if let Some(master) = master {
        let RootAnswer::Cluster(cluster) = root.ask(&RootQuery::Cluster).await? else {
            bail!("the root group's answer does not fit");
        };
        let authority = CertAuthority::open(
            cluster.id,
            &cluster.ca_cert,
            &cluster.sealed_ca_key,
            master.expose(),
        )
        .context("the master key of this node is not this cluster's")?;
        service.set_authority(Some(Arc::new(authority)));
    }
    let service: Arc<dyn RpcService> = service;
    router.register(&[method::JOIN, method::RENEW], service);
    Renewal {
        env: env.clone(),
        dir: dir.to_owned(),
        identity: Arc::clone(cell),
        rpc: Arc::clone(rpc),
        directory: directory.clone(),
        options: RenewOptions::default(),
    }
    .start();
    Ok(())
}

/// Opens the S3 endpoint (or the relay to one) and the metrics.
#[allow(clippy::too_many_arguments, reason = "wiring: each is used once")]
async fn start_listeners(
    env: &Env,
    config: &Config,
    stop: &CancellationToken,
    node: &Arc<GridNode>,
    host: &MetaHost,
    directory: &Arc<Directory>,
    own: NodeId,
    keys: Option<Arc<RootKeys>>,
    made: &OnceLock<Gateway>,
) -> anyhow::Result<(SocketAddr, SocketAddr, tokio::task::JoinHandle<()>)> {
    let listen = |address: SocketAddr| async move {
        nexusgrid_env::real::net::listen(address)
            .await
            .with_context(|| format!("listening on {address}"))
    };
    let registry = SharedRegistry::default();
    let metrics = Metrics::register(&registry);
    super::metrics::register(env, &registry, host, node);
    let s3_listener = listen(config.s3_listen).await?;
    let s3 = s3_listener.local_addr()?;
    let serving = match keys {
        Some(keys) => {
            let gateway = Gateway::new(
                Arc::new(node.grid()),
                keys,
                env.clone(),
                metrics,
                GatewayOptions {
                    oidc: config.identity.options(&*env.disk)?,
                    trust_suffices: config.identity.trust_suffices,
                    ..config.s3.options()?
                },
            )?;
            let _ = made.set(gateway.clone());
            let working = gateway.clone();
            let ending = stop.clone();
            let work = env.exec.spawn(async move { working.work(ending).await });
            let serving = nexusgrid_gateway::serve(
                s3_listener,
                gateway,
                env.exec.clone(),
                stop.clone(),
                ServerOptions::default(),
            );
            tokio::spawn(async move {
                serving.await;
                // What it does besides ends by itself, with the last records stored.
                let _ = tokio::time::timeout(WORK_GRACE, work).await;
            })
        }
        None => tokio::spawn(nexusgrid_gateway::relay(
            s3_listener,
            directory.clone(),
            env.exec.clone(),
            stop.clone(),
        )),
    };
    let admin_listener = listen(config.admin_listen).await?;
    let admin_address = admin_listener.local_addr()?;
    let readiness = MapReadiness { own, directory: Arc::clone(directory) };
    let token = config.admin_token.clone().map(Secret::new);
    let admin = Admin::new(admin_address, token, registry, Arc::new(readiness))?;
    tokio::spawn(nexusgrid_gateway::serve_admin(
        admin_listener,
        admin,
        env.exec.clone(),
        stop.clone(),
    ));
    Ok((s3, admin_address, serving))
}
