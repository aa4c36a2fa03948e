//! The state machine of the root group: dispatch, and what all commands share.
//!
//! A command either changes rows and succeeds, or changes nothing and says why not. Nothing here
//! reads a clock or draws a number; any bytes get a typed reply.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::{DriveId, GroupId, PgId};
use nexusgrid_env::kv::prefix_end;
use nexusgrid_env::{KvError, KvRead, NodeId, Roles};
use serde::de::DeserializeOwned;

use super::rows::{self, ClusterRow, ROOT};
use super::topology::{Drive, Group, Node, Pg};
use super::types::{
    Cluster, ClusterSettings, Init, InvalidField, NodeState, RaftId, RootCommand, RootError,
    RootOk, RootQuery, WorkerSetting,
};
use super::{limits, query};
use crate::machine::{self, Applied, ApplyContext, StateMachine};
use crate::rows::tx::{Tx, decode_row};

/// The root group's state machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Root;

impl StateMachine for Root {
    fn families(&self) -> &'static [&'static str] {
        rows::FAMILIES
    }

    fn blob_families(&self) -> &'static [&'static str] {
        &[]
    }

    fn apply(
        &self,
        state: &dyn KvRead,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Applied, KvError> {
        let outcome = match RootCommand::decode(command) {
            Err(_) => Err(RootError::Malformed.into()),
            Ok(command) => run(state, context, command),
        };
        machine::applied(outcome, RootError::LimitReached(InvalidField::Groups), |_| 0)
    }

    fn takes_from(&self, roles: Roles, command: &[u8]) -> bool {
        // What is malformed is answered as such.
        let is_open = |command: RootCommand| command.is_open_to_storage();
        roles.meta || roles.gateway || RootCommand::decode(command).map_or(true, is_open)
    }

    fn answers_to(&self, roles: Roles, query: &[u8]) -> bool {
        let is_open = |query: RootQuery| query.is_open_to_storage();
        roles.meta || roles.gateway || RootQuery::decode(query).map_or(true, is_open)
    }

    fn query(&self, state: &dyn KvRead, query: &[u8]) -> Result<Vec<u8>, KvError> {
        machine::answered(match RootQuery::decode(query) {
            Err(_) => Err(RootError::Malformed.into()),
            Ok(query) => query::answer(state, query),
        })
    }
}

/// Why a command or query ends early.
pub(super) type Stop = machine::Stop<RootError>;

/// What a step of a command or query gives.
pub(super) type Step<T> = Result<T, Stop>;

impl From<RootError> for Stop {
    fn from(error: RootError) -> Stop {
        Stop::Refuse(error)
    }
}

/// A field that is out of its range.
pub(super) fn invalid(field: InvalidField) -> Stop {
    Stop::Refuse(RootError::Invalid(field))
}

/// A limit that is reached.
pub(super) fn full(field: InvalidField) -> Stop {
    Stop::Refuse(RootError::LimitReached(field))
}

/// Refuses text that is empty or too long.
pub(super) fn check_text(text: &str, field: InvalidField) -> Step<()> {
    match text.len() {
        1..=limits::TEXT_BYTES_MAX => Ok(()),
        _ => Err(invalid(field)),
    }
}

/// Refuses sealed bytes that are none or too many.
pub(super) fn check_sealed(bytes: &[u8]) -> Step<()> {
    match bytes.len() {
        1..=limits::SEALED_BYTES_MAX => Ok(()),
        _ => Err(invalid(InvalidField::KeyMaterial)),
    }
}

/// All rows of one kind, in order of key.
pub(super) fn all<T: DeserializeOwned>(tx: &Tx<'_>, prefix: &[u8]) -> Result<Vec<T>, KvError> {
    tx.scan(ROOT, prefix, prefix_end(prefix).as_deref(), usize::MAX)?
        .iter()
        .map(|(_, value)| decode_row(ROOT, value))
        .collect()
}

fn run<'a>(
    state: &'a dyn KvRead,
    context: &ApplyContext,
    command: RootCommand,
) -> Step<(RootOk, Tx<'a>)> {
    let tx = Tx::new(state);
    let before: Option<ClusterRow> = tx.load(ROOT, &rows::cluster())?;
    let (cluster, done) = match (before, command) {
        (Some(_), RootCommand::Init(_)) => return Err(RootError::AlreadyInitialised.into()),
        (None, RootCommand::Init(init)) => {
            let row = first_cluster(&init)?;
            let mut change = Change { tx, cluster: row, index: context.index, map_changed: true };
            let done = change.init(*init)?;
            (change, done)
        }
        (None, _) => return Err(RootError::NotInitialised.into()),
        (Some(cluster), command) => {
            let mut change = Change { tx, cluster, index: context.index, map_changed: false };
            let done = change.run(command)?;
            (change, done)
        }
    };
    let Change { mut tx, mut cluster, map_changed, .. } = cluster;
    if map_changed {
        cluster.map_version = context.index;
    }
    tx.store(ROOT, rows::cluster(), &cluster);
    Ok((done, tx))
}

fn check_settings(settings: &ClusterSettings) -> Step<()> {
    let is_good = (1_000..=86_400_000).contains(&settings.session_lease_ms)
        && settings.report_window_ms > 0
        && settings.pg_size_cap_bytes > 0;
    if is_good { Ok(()) } else { Err(invalid(InvalidField::Settings)) }
}

fn first_cluster(init: &Init) -> Step<ClusterRow> {
    check_settings(&init.settings)?;
    check_sealed(&init.ca_cert)?;
    check_sealed(&init.sealed_ca_key)?;
    check_sealed(&init.master_key_check)?;
    check_sealed(&init.gossip_key.0)?;
    let range = limits::METADATA_GROUPS_MIN..=limits::METADATA_GROUPS_MAX;
    // Each group is a row, and an `init` one command.
    if !range.contains(&init.metadata_groups) {
        return Err(invalid(InvalidField::Groups));
    }
    Ok(ClusterRow {
        cluster: Cluster {
            id: init.cluster,
            ca_cert: init.ca_cert.clone(),
            sealed_ca_key: init.sealed_ca_key.clone(),
            master_key_check: init.master_key_check.clone(),
            gossip_key: init.gossip_key.clone(),
            settings: init.settings.clone(),
            incarnation: 1,
        },
        map_version: 0,
        nodes: 0,
        drives: 0,
        pgs: 0,
        buckets: 0,
        groups: init.metadata_groups,
    })
}

/// One command while it is applied.
pub(super) struct Change<'a> {
    /// The state with this command's changes.
    pub tx: Tx<'a>,
    /// Written back at the end.
    pub cluster: ClusterRow,
    /// The command's commit index.
    pub index: u64,
    /// Whether nodes need a new map.
    pub map_changed: bool,
}

impl Change<'_> {
    fn run(&mut self, command: RootCommand) -> Step<RootOk> {
        use RootCommand as C;
        match command {
            C::Init(_) => Err(RootError::AlreadyInitialised.into()),
            C::SetSettings(settings) => {
                check_settings(&settings)?;
                self.cluster.cluster.settings = settings;
                self.map_changed = true;
                Ok(RootOk::Done)
            }
            C::CreateToken { id, secret_hash, expires_ms, roles, now_ms } => {
                self.create_token(&id, secret_hash, expires_ms, roles, now_ms)
            }
            C::RevokeToken { id } => {
                self.tx.delete(ROOT, rows::token(&id));
                Ok(RootOk::Done)
            }
            C::RedeemToken { token, secret_hash, node, now_ms } => {
                self.redeem_token(&token, secret_hash, node, now_ms)
            }
            C::RenewNodeCert { node, current, key_hash } => {
                self.renew_node_cert(node, current, key_hash)
            }
            C::SetNodeAddresses { node, addresses } => self.set_node_addresses(node, addresses),
            C::SetNodeState { node, state, now_ms } => self.set_node_state(node, state, now_ms),
            C::NextRaftGeneration { node } => self.next_raft_generation(node),
            C::AddDrive(drive) => self.add_drive(drive),
            C::SetDriveState { drive, state } => self.set_drive_state(drive, state),
            C::SetDriveSize { drive, size_bytes, weight } => {
                self.set_drive_size(drive, size_bytes, weight)
            }
            C::SetDriveUse { drive, used_bytes, mark } => {
                self.set_drive_use(drive, used_bytes, mark)
            }
            C::SetWorker { name, setting } => self.set_worker(&name, setting),
            C::CreatePg(pg) => self.create_pg(pg),
            C::ClosePg { pg } => self.close_pg(pg),
            C::SetPgUse { pg, used_bytes } => self.set_pg_use(pg, used_bytes),
            C::PreparePg { pg, from, moves, now_ms } => self.prepare_pg(pg, from, &moves, now_ms),
            C::CleanPg { pg, epoch } => self.clean_pg(pg, epoch),
            C::OpenFillSession { pg, worker } => self.open_fill_session(pg, worker),
            C::CloseFillSession { pg, session } => self.close_fill_session(pg, session),
            C::CreateBucket { name, owner, settings, sealed_key, now_ms } => {
                self.create_bucket(name, owner, settings, sealed_key, now_ms)
            }
            C::BeginDeleteBucket { name } => self.begin_delete_bucket(&name),
            C::CancelDeleteBucket { bucket } => self.cancel_delete_bucket(bucket),
            C::FinishDeleteBucket { bucket } => self.finish_delete_bucket(bucket),
            C::SetBucketSettings { bucket, settings } => self.set_bucket_settings(bucket, settings),
            C::PutBucketKey(key) => self.put_bucket_key(&key),
            C::CreateKey(key) => self.create_key(&key),
            C::DeleteKey { id } => self.delete_key(&id),
            C::SetGroupVoters { group, voters } => self.set_group_voters(group, voters),
            C::RecordRestore(restore) => self.record_restore(restore),
            C::Thaw { incarnation } => self.thaw(incarnation),
            C::CreateSystemBucket { sealed_key, now_ms } => {
                self.create_system_bucket(sealed_key, now_ms)
            }
            C::WriteRecords(writes) => self.write_records(self.index, writes),
            C::Report { reporter, sightings, now_ms } => self.report(reporter, &sightings, now_ms),
        }
    }

    fn init(&mut self, init: Init) -> Step<RootOk> {
        let id = self.admit(init.node, NodeState::Active, init.now_ms)?;
        let mut node = self.node(id)?;
        node.raft_generation = 1;
        self.tx.store(ROOT, rows::node(id), &node);
        for group in 0..=init.metadata_groups {
            let group = Group { id: GroupId(group), voters: vec![RaftId::new(id, 1)] };
            self.tx.store(ROOT, rows::group(group.id), &group);
        }
        Ok(RootOk::Node(id))
    }

    /// A node that is not removed.
    pub(super) fn node(&self, node: NodeId) -> Step<Node> {
        let row: Option<Node> = self.tx.load(ROOT, &rows::node(node))?;
        match row {
            Some(row) if row.state == NodeState::Removed => {
                Err(RootError::NodeRemoved(node).into())
            }
            Some(row) => Ok(row),
            None => Err(RootError::NoSuchNode(node).into()),
        }
    }

    /// Writes a node and makes a new map.
    pub(super) fn set_node(&mut self, node: &Node) {
        self.tx.store(ROOT, rows::node(node.id), node);
        self.map_changed = true;
    }

    /// A drive.
    pub(super) fn drive(&self, drive: DriveId) -> Step<Drive> {
        let row = self.tx.load(ROOT, &rows::drive(drive))?;
        row.ok_or_else(|| RootError::NoSuchDrive(drive).into())
    }

    /// Writes a drive and makes a new map.
    pub(super) fn set_drive(&mut self, drive: &Drive) {
        self.tx.store(ROOT, rows::drive(drive.id), drive);
        self.map_changed = true;
    }

    /// A PG.
    pub(super) fn pg(&self, pg: PgId) -> Step<Pg> {
        let row = self.tx.load(ROOT, &rows::pg(pg))?;
        row.ok_or_else(|| RootError::NoSuchPg(pg).into())
    }

    /// Writes a PG and makes a new map.
    pub(super) fn set_pg(&mut self, pg: &Pg) {
        self.tx.store(ROOT, rows::pg(pg.id), pg);
        self.map_changed = true;
    }

    fn set_worker(&mut self, name: &str, setting: WorkerSetting) -> Step<RootOk> {
        check_text(name, InvalidField::Worker)?;
        if setting.bytes_per_second == Some(0) {
            return Err(invalid(InvalidField::Worker));
        }
        let key = rows::worker(name);
        if setting == WorkerSetting::default() {
            self.tx.delete(ROOT, key);
        } else {
            let known = self.tx.scan(ROOT, b"W", prefix_end(b"W").as_deref(), usize::MAX)?;
            if known.len() >= limits::WORKERS_MAX && !known.iter().any(|(at, _)| *at == key) {
                return Err(full(InvalidField::Worker));
            }
            self.tx.store(ROOT, key, &setting);
        }
        self.map_changed = true;
        Ok(RootOk::Done)
    }

    fn set_group_voters(&mut self, group: GroupId, voters: Vec<RaftId>) -> Step<RootOk> {
        let row: Option<Group> = self.tx.load(ROOT, &rows::group(group))?;
        let row = row.ok_or(RootError::NoSuchGroup(group))?;
        if voters.len() > limits::VOTERS_MAX || voters.is_empty() {
            return Err(invalid(InvalidField::Groups));
        }
        for voter in &voters {
            self.node(voter.node())?;
        }
        if row.voters != voters {
            self.tx.store(ROOT, rows::group(group), &Group { voters, ..row });
            self.map_changed = true;
        }
        Ok(RootOk::Done)
    }
}
