//! Answers the command line: reads the map, decides through the root group.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use nexusgrid_cluster::JoinToken;
use nexusgrid_codec::{ClusterId, DriveId, GroupId};
use nexusgrid_env::{Env, NodeId, Roles};
use nexusgrid_gateway::Gateway;
use nexusgrid_gateway::mounts::MountRights;
use nexusgrid_gateway::quota::{Quota, Quotas};
use nexusgrid_grid::care::scrub;
use nexusgrid_grid::care::{Checkpoints, ObjectName};
use nexusgrid_grid::{Grid, Liveness, NodeHint, RecodeLeft, ShardService, WorkerStatus, Workers};
use nexusgrid_iam::{AccessKeyId, Secret};
use nexusgrid_meta::MetaHost;
use nexusgrid_meta::root::topology::{PgState, Topology};
use nexusgrid_meta::root::types::{
    AccessKey, DriveState, Grant, NodeState, RootAnswer, RootCommand, RootQuery, SpaceMark,
    WorkerSetting,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::accounts;
use super::admission::token_name;
use super::directory::Directory;
use super::drives;
use super::events;
use super::keys::RootKeys;
use super::leave::{self, Decision, Vouched};
use super::metadata;
use super::report::{self, Heard};
use super::root::Root;
use super::snapshots;
use crate::admin::AdminRequest;
use crate::admin::server::Administration;
use crate::status::{RecodeStatus, StatusReport, WorkerProgress};

/// Owner of buckets made at the command line.
const OWNER: &str = "administrator";

/// How long a status waits to hear from every group what is in yesterday's code.
const RECODE_PATIENCE: Duration = Duration::from_secs(1);

/// Access keys read at once.
const KEY_PAGE: u32 = 500;

/// What the answers are made from.
pub struct NodeAdministration {
    /// The seams.
    pub env: Env,
    /// This node.
    pub own: NodeId,
    /// Its directory.
    pub dir: PathBuf,
    /// Its drives as others use them.
    pub shards: Arc<ShardService>,
    /// One drive is added at a time.
    pub adding: tokio::sync::Mutex<()>,
    /// The cluster.
    pub cluster: ClusterId,
    /// Where new nodes are told to join.
    pub rpc_address: SocketAddr,
    /// SHA-256 of the CA's certificate.
    pub ca_fingerprint: [u8; 32],
    /// The map.
    pub directory: Arc<Directory>,
    /// The root group.
    pub root: Root,
    /// The groups of this node.
    pub meta: MetaHost,
    /// The grid.
    pub grid: Grid,
    /// Gossip's opinion.
    pub liveness: Arc<dyn Liveness>,
    /// The background jobs.
    pub workers: Workers,
    /// Access keys, if this node is a gateway.
    pub keys: Option<Arc<RootKeys>>,
    /// Targets of events, if this node is a gateway.
    pub told: Option<events::Told>,
    /// Keys that the grid keeps by name, if this node is a gateway.
    pub kms: Option<nexusgrid_gateway::kms::Kms>,
    /// The gateway, once this node has one.
    pub gateway: Arc<OnceLock<Gateway>>,
    /// Accounts, if this node is a gateway.
    pub accounts: Option<nexusgrid_gateway::identity::Directory>,
    /// Copies of metadata.
    pub checkpoints: Arc<Checkpoints>,
    /// Where mounts of this machine come in.
    pub door: Arc<crate::drive::Door>,
}

impl NodeAdministration {
    /// Quotas of accounts.
    fn quotas(&self) -> Quotas {
        Quotas::new(Arc::new(self.grid.clone()))
    }

    fn heard(&self) -> Heard {
        let topology = self.directory.topology();
        let hints: BTreeMap<NodeId, NodeHint> = topology
            .nodes
            .values()
            .filter(|node| node.state != NodeState::Removed)
            .map(|node| {
                let hint = if node.id == self.own {
                    NodeHint::Alive
                } else {
                    self.liveness.state(node.id)
                };
                (node.id, hint)
            })
            .collect();
        let groups = topology
            .groups
            .keys()
            .filter_map(|group| {
                let status = self.meta.status(*group).ok()?;
                let voters =
                    status.members.iter().filter(|member| member.voter).map(|member| member.node);
                Some((*group, (status.leader.leader, voters.collect())))
            })
            .collect::<BTreeMap<GroupId, (Option<NodeId>, Vec<NodeId>)>>();
        Heard { own: self.own, hints, groups }
    }

    fn report(&self) -> StatusReport {
        let mut report = report::make(&self.directory.topology(), &self.heard());
        for (invariant, detail) in self.env.invariants.broken() {
            let statement = invariant.statement();
            report.warnings.push(format!("{invariant} was broken here ({statement}): {detail}"));
        }
        metadata::warn(self, &mut report);
        for (bucket, what) in self.gateway.get().map(Gateway::unreadable_rules).unwrap_or_default()
        {
            let what = what.join(", ");
            report
                .warnings
                .push(format!("what was laid down for bucket {bucket} cannot be read: {what}"));
        }
        report.workers = self
            .workers
            .list()
            .into_iter()
            .map(|row| WorkerProgress {
                name: row.name.to_owned(),
                paused: row.paused,
                left: row.left.filter(|left| *left > 0),
                eta_seconds: row.eta_seconds.filter(|_| row.left.is_some_and(|left| left > 0)),
                error: row.error,
            })
            .filter(|row| row.paused || row.left.is_some() || row.error.is_some())
            .collect();
        report
    }

    async fn status(&self) -> anyhow::Result<Value> {
        let mut report = self.report();
        // Not known while a group does not answer: the rest of the report must not wait for it.
        if let Ok(Ok(left)) = tokio::time::timeout(RECODE_PATIENCE, self.grid.recode_left()).await {
            let RecodeLeft { bytes, under_protected_bytes } = left;
            report.recode = Some(RecodeStatus { bytes, under_protected_bytes });
        }
        Ok(serde_json::to_value(report)?)
    }

    fn drives(&self) -> Value {
        let topology = self.directory.topology();
        topology
            .drives
            .values()
            .map(|drive| {
                json!({
                    "id": drive.id.0,
                    "node": drive.node.0,
                    "state": format!("{:?}", drive.state).to_lowercase(),
                    "size_bytes": drive.size_bytes,
                    "used_bytes": drive.used_bytes,
                    "space": match drive.space {
                        SpaceMark::Normal => "normal",
                        SpaceMark::Warn => "low",
                        SpaceMark::NoBackfill => "no-repair",
                        SpaceMark::NoWrites => "full",
                    },
                    "slots": topology
                        .pgs
                        .values()
                        .filter(|pg| pg.slots.contains(&drive.id))
                        .count(),
                    "weight": drive.weight,
                })
            })
            .collect()
    }

    fn placement_groups(&self) -> Value {
        let topology = self.directory.topology();
        topology
            .pgs
            .values()
            .map(|pg| {
                let state = match pg.state {
                    PgState::Active => "open",
                    PgState::Closed => "closed",
                    PgState::Preparing(_) => "preparing",
                };
                json!({
                    "id": pg.id.0,
                    "code": report::code_name(pg.class),
                    "state": state,
                    "epoch": pg.epoch.0,
                    "used_bytes": pg.used_bytes,
                    "drives": pg.slots.iter().map(|drive| drive.0).collect::<Vec<_>>(),
                })
            })
            .collect()
    }

    fn workers(&self) -> Value {
        let state = |worker: &WorkerStatus| match (worker.paused, worker.busy) {
            (true, true) => "pausing",
            (true, false) => "paused",
            (false, true) => "working",
            (false, false) => "waiting",
        };
        let rows = self.workers.list();
        rows.iter()
            .map(|worker| {
                json!({
                    "name": worker.name,
                    "about": worker.about,
                    "state": state(worker),
                    "rounds": worker.rounds,
                    "done": worker.done,
                    "bytes": worker.bytes,
                    "left": worker.left,
                    "percent": worker.percent,
                    "eta_seconds": worker.eta_seconds,
                    "rate": worker.bytes_per_second,
                    "error": worker.error,
                })
            })
            .collect()
    }

    async fn fsck(&self, repair: bool) -> anyhow::Result<Value> {
        let report = self.grid.fsck(repair).await?;
        let faults: Vec<Value> = report
            .faults
            .iter()
            .map(|fault| {
                json!({
                    "block": fault.block.to_string(),
                    "pg": fault.pg.0,
                    "slot": fault.slot,
                    "invariant": fault.invariant.map(|invariant| invariant.name()),
                    "what": fault.what,
                    "objects": names(&fault.objects),
                })
            })
            .collect();
        Ok(json!({
            "clean": report.is_clean(),
            "blocks": report.blocks,
            "shards": report.shards,
            "queued": report.queued,
            "unreachable": report.unreachable,
            "missing": report.missing,
            "lost": report.lost,
            "awaiting_burial": report.awaiting_burial,
            "pending": report.pending,
            "orphans": report.orphans,
            "unheard": report.unheard,
            "misplaced": report.misplaced,
            "held": report.held,
            "unlisted_drives": report.unlisted.iter().map(|drive| drive.0).collect::<Vec<_>>(),
            "faults": faults,
        }))
    }

    fn buckets(&self) -> Value {
        let topology = self.directory.topology();
        topology
            .buckets
            .keys()
            .filter_map(|name| topology.bucket(name))
            .map(|bucket| {
                json!({
                    "name": bucket.name,
                    "owner": bucket.owner,
                    "group": bucket.group.0,
                    "created": bucket.created_ms,
                })
            })
            .collect()
    }

    async fn keys(&self) -> anyhow::Result<Value> {
        let mut rows = Vec::new();
        let mut after = String::new();
        loop {
            let answer = self
                .root
                .ask(&RootQuery::AccessKeys { after: after.clone(), limit: KEY_PAGE })
                .await?;
            let RootAnswer::AccessKeys { keys, more } = answer else {
                bail!("the root group's answer does not fit")
            };
            for key in &keys {
                let named = |wanted: fn(&Grant) -> bool| {
                    key.grants
                        .iter()
                        .filter(|grant| wanted(grant))
                        .map(|grant| grant.bucket.clone())
                        .collect::<Vec<_>>()
                };
                rows.push(json!({
                    "id": key.id,
                    "owner": key.owner,
                    "admin": key.admin,
                    "read": named(|grant| grant.read),
                    "write": named(|grant| grant.write),
                    "created": key.created_ms,
                }));
            }
            match keys.last() {
                Some(last) if more => after.clone_from(&last.id),
                _ => return Ok(Value::Array(rows)),
            }
        }
    }

    async fn create_key(
        &self,
        name: String,
        admin: bool,
        read: Vec<String>,
        write: Vec<String>,
    ) -> anyhow::Result<Value> {
        if !admin && read.is_empty() && write.is_empty() {
            bail!(
                "a key that may do nothing is of no use: say --admin, --read BUCKET or --write BUCKET"
            );
        }
        let mut id = [0; 10];
        let mut secret = Zeroizing::new([0; 25]);
        self.env.rng.fill(&mut id);
        self.env.rng.fill(secret.as_mut());
        let id = AccessKeyId::from_random(id);
        let secret = Secret::from_random(&secret);
        self.store_key(id.as_str(), &secret, name, admin, read, write).await?;
        Ok(json!({ "access_key": id.as_str(), "secret_key": secret.expose() }))
    }

    async fn store_key(
        &self,
        id: &str,
        secret: &Secret,
        owner: String,
        admin: bool,
        read: Vec<String>,
        write: Vec<String>,
    ) -> anyhow::Result<()> {
        let topology = self.directory.topology();
        let mut grants: BTreeMap<String, Grant> = BTreeMap::new();
        for (bucket, writes) in read
            .into_iter()
            .map(|name| (name, false))
            .chain(write.into_iter().map(|name| (name, true)))
        {
            if topology.bucket(&bucket).is_none() {
                bail!(
                    "there is no bucket {bucket}: make it first with `nexusgrid bucket create {bucket}`"
                );
            }
            let grant =
                grants.entry(bucket.clone()).or_insert(Grant { bucket, read: true, write: false });
            grant.write |= writes;
        }
        let sealed_secret = self.grid.seal_secret(id, secret.expose().as_bytes())?;
        let key = AccessKey {
            id: id.to_owned(),
            sealed_secret,
            owner,
            admin,
            grants: grants.into_values().collect(),
            created_ms: self.env.clock.wall().0,
        };
        self.root.command(&RootCommand::CreateKey(key)).await?;
        if let Some(keys) = &self.keys {
            keys.forget(id);
        }
        Ok(())
    }

    async fn carry_out(&self, decision: Decision) -> anyhow::Result<Value> {
        if let Some(command) = &decision.command {
            self.root.command(command).await?;
        }
        Ok(decision.answer)
    }

    /// Changes what holds for one kind of worker on all nodes.
    async fn set_worker(
        &self,
        name: String,
        change: impl FnOnce(&mut WorkerSetting),
    ) -> anyhow::Result<Value> {
        let rows = self.workers.list();
        if !rows.iter().any(|row| row.name == name) {
            let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
            bail!("there is no worker {name}; there are {}", names.join(", "));
        }
        let map = fresh(&self.root).await?;
        let mut setting = map.workers.get(&name).copied().unwrap_or_default();
        change(&mut setting);
        self.root.command(&RootCommand::SetWorker { name, setting }).await?;
        Ok(json!({}))
    }

    async fn add_drive(&self, path: PathBuf) -> anyhow::Result<Value> {
        let cluster =
            self.directory.topology().cluster.context("this node knows no cluster yet")?;
        let _alone = self.adding.lock().await;
        let (id, store) =
            drives::add(&self.env, &self.dir, cluster, self.own, &self.root, &path).await?;
        self.shards.add(id, store);
        let text = format!("drive {} at {} is in use", id.0, path.display());
        Ok(json!({ "id": id.0, "text": text }))
    }

    async fn create_token(&self, ttl: Duration) -> anyhow::Result<Value> {
        let cluster =
            self.directory.topology().cluster.context("this node knows no cluster yet")?;
        let now = self.env.clock.wall();
        let address = self.rpc_address.to_string();
        let token = JoinToken::create(
            self.env.rng.as_ref(),
            cluster,
            self.ca_fingerprint,
            now,
            ttl,
            vec![address.clone()],
        );
        self.root
            .command(&RootCommand::CreateToken {
                id: token_name(&token.id),
                secret_hash: token.secret_hash(),
                expires_ms: token.expires.0,
                roles: Roles::ALL,
                now_ms: now.0,
            })
            .await?;
        Ok(json!({ "token": token.to_text(), "address": address, "expires": token.expires.0 }))
    }
}

/// The map as the root group has it now: what is decided by it must not rest on an old copy.
async fn fresh(root: &Root) -> anyhow::Result<Topology> {
    match root.ask(&RootQuery::Topology { unless_version: 0 }).await? {
        RootAnswer::Topology(Some(map)) => Ok(*map),
        _ => bail!("the root group's answer does not fit"),
    }
}

/// Objects that a fault of `fsck` touches.
pub(super) fn names(objects: &[ObjectName]) -> Vec<Value> {
    let name = |object: &ObjectName| json!({ "bucket": object.bucket, "key": object.key, "version": object.version });
    objects.iter().map(name).collect()
}

#[async_trait]
impl Administration for NodeAdministration {
    async fn answer(&self, request: AdminRequest) -> anyhow::Result<Value> {
        match request {
            AdminRequest::Status => self.status().await,
            AdminRequest::MountList => Ok(serde_json::to_value(self.door.list())?),
            AdminRequest::MountRights { bucket, key } => {
                let rights = self.door.rights(&bucket, key).await?;
                Ok(json!({ "write": rights == MountRights::Write }))
            }
            AdminRequest::NodeList => Ok(serde_json::to_value(self.report().nodes)?),
            AdminRequest::NodeDrain { id, cancel } => {
                let (map, now_ms) = (fresh(&self.root).await?, self.env.clock.wall().0);
                self.carry_out(leave::drain(&map, leave::node_id(&id)?, cancel, now_ms)?).await
            }
            AdminRequest::NodeRemove { id, lost, data_loss } => {
                let (map, now_ms) = (fresh(&self.root).await?, self.env.clock.wall().0);
                let (id, vouched) = (leave::node_id(&id)?, Vouched { lost, data_loss });
                if id == self.own {
                    bail!("node {id} is the one asked: ask another one to remove it");
                }
                let hint = self.liveness.state(id);
                self.carry_out(leave::remove_node(&map, id, vouched, hint, now_ms)?).await
            }
            AdminRequest::DriveRemove { id, lost, data_loss } => {
                let (map, vouched) = (fresh(&self.root).await?, Vouched { lost, data_loss });
                self.carry_out(leave::remove_drive(&map, DriveId(id), vouched)?).await
            }
            AdminRequest::DriveList => Ok(self.drives()),
            AdminRequest::WorkerList => Ok(self.workers()),
            AdminRequest::DriveAdd { path } => self.add_drive(path).await,
            AdminRequest::DriveWeight { id, weight } => {
                let (map, drive) = (fresh(&self.root).await?, DriveId(id));
                let known = map.drives.get(&drive).filter(|row| row.state != DriveState::Removed);
                let size_bytes =
                    known.with_context(|| format!("there is no drive {id}"))?.size_bytes;
                self.root.command(&RootCommand::SetDriveSize { drive, size_bytes, weight }).await?;
                Ok(json!({}))
            }
            AdminRequest::WorkerPause { name, paused } => {
                self.set_worker(name, |setting| setting.paused = paused).await
            }
            AdminRequest::WorkerRate { name, bytes_per_second } => {
                let rows = self.workers.list();
                if rows.iter().any(|row| row.name == name && !row.paced) {
                    bail!("what {name} moves is not bounded by a rate");
                }
                self.set_worker(name, |setting| setting.bytes_per_second = bytes_per_second).await
            }
            AdminRequest::Scrub => {
                self.workers.hurry(scrub::DRIVES);
                self.workers.hurry(scrub::METADATA);
                Ok(json!({}))
            }
            AdminRequest::Fsck { repair } => self.fsck(repair).await,
            AdminRequest::MetadataCheckpoint => metadata::checkpoint(self).await,
            AdminRequest::MetadataList => metadata::list(self).await,
            AdminRequest::MetadataRestore { confirm, newer_lost, accept_older } => {
                metadata::restore(self, confirm.as_deref(), newer_lost, accept_older).await
            }
            AdminRequest::MetadataThaw { incarnation } => metadata::thaw(self, incarnation).await,
            AdminRequest::PgList => Ok(self.placement_groups()),
            AdminRequest::BucketList => Ok(self.buckets()),
            AdminRequest::BucketCreate { name } => {
                self.grid.create_bucket(&name, OWNER).await?;
                Ok(json!({}))
            }
            AdminRequest::BucketDelete { name } => {
                self.grid.delete_bucket(&name).await?;
                Ok(json!({}))
            }
            AdminRequest::AccountList => accounts::list(self.accounts.as_ref()).await,
            AdminRequest::AccountCreate { name, email, bare_arns } => {
                accounts::create(self.accounts.as_ref(), &name, &email, bare_arns).await
            }
            AdminRequest::Identity { account, fields } => {
                accounts::administer(self.accounts.as_ref(), &account, fields).await
            }
            AdminRequest::AccountShow { id } => {
                accounts::show(self.accounts.as_ref(), self.quotas(), &id).await
            }
            AdminRequest::AccountQuota { id, bytes, objects } => {
                let quota = Quota { bytes, objects };
                accounts::set_quota(self.accounts.as_ref(), self.quotas(), &id, quota).await
            }
            AdminRequest::AccountDelete { id } => {
                accounts::delete(self.accounts.as_ref(), &id).await
            }
            AdminRequest::BucketShow { name } => {
                let usage = self.grid.bucket_usage(&name).await?;
                Ok(json!({
                    "name": name,
                    "objects": usage.objects,
                    "bytes": usage.bytes,
                    "uploads": usage.uploads,
                    "part_bytes": usage.part_bytes,
                    "quota_bytes": usage.quota_bytes,
                }))
            }
            AdminRequest::BucketQuota { name, bytes } => {
                self.grid.set_quota(&name, bytes).await?;
                Ok(json!({}))
            }
            AdminRequest::SnapshotList { bucket } => snapshots::list(&self.grid, &bucket).await,
            AdminRequest::SnapshotCreate { bucket, directory, name } => {
                snapshots::create((&self.grid, &self.env), &bucket, &directory, name).await
            }
            AdminRequest::SnapshotDelete { bucket, name } => {
                snapshots::delete(&self.grid, &bucket, &name).await
            }
            AdminRequest::EventTargets => events::list(self.told.as_ref()).await,
            AdminRequest::EventTargetSet { account, name, target, secret } => {
                events::set(self.told.as_ref(), &account, name, target, secret).await
            }
            AdminRequest::EventTargetRemove { account, name } => {
                events::remove(self.told.as_ref(), &account, name).await
            }
            AdminRequest::EventDead { account, name } => {
                events::dead(self.told.as_ref(), &account, name).await
            }
            AdminRequest::EventRaise { account, name, again } => {
                events::raise(self.told.as_ref(), &account, name, again).await
            }
            AdminRequest::Kms { account, operation, parameters } => {
                let kms = self.kms.as_ref();
                let kms = kms.context("this node holds no keys: ask a gateway node")?;
                let answer = kms.administer(&account, &operation, &parameters).await;
                answer.map_err(|error| anyhow::anyhow!(error.message))
            }
            AdminRequest::KeyList => self.keys().await,
            AdminRequest::KeyCreate { name, admin, read, write } => {
                self.create_key(name, admin, read, write).await
            }
            AdminRequest::KeyDelete { id } => {
                self.root.command(&RootCommand::DeleteKey { id: id.clone() }).await?;
                if let Some(keys) = &self.keys {
                    keys.forget(&id);
                }
                Ok(json!({}))
            }
            AdminRequest::TokenCreate { ttl_seconds } => {
                self.create_token(Duration::from_secs(ttl_seconds)).await
            }
        }
    }
}
