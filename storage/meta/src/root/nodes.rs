//! Nodes and drives: admission, life, liveness.
//!
//! ```text
//!   RedeemToken ──> Joining ──> Active <──> Leaving
//!                      └──────────┴───────────┴──> Removed   (final: the revocation list)
//! ```
//!
//! Liveness is a hint that writers and repair use; no safety rests on it. Down needs reporters from
//! two hosts, because one machine with a broken network card sees everybody down.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;

use nexusgrid_codec::id::DriveId;
use nexusgrid_env::kv::prefix_end;
use nexusgrid_env::{NodeId, Roles};

use super::limits;
use super::machine::{Change, Step, all, check_text, full, invalid};
use super::rows::{self, ROOT, ReportRow, TokenRow};
use super::topology::{Drive, Liveness, Node, Pg};
use super::types::{
    Addresses, DriveState, Fingerprint, InvalidField, NewDrive, NewNode, NodeState, RaftId,
    RootError, RootOk, Sighting, SpaceMark,
};
use crate::rows::tx::decode_row;

/// Reporters from so many hosts make a node Down.
const REPORTING_HOSTS: usize = 2;

fn check_addresses(addresses: &Addresses) -> Step<()> {
    check_text(&addresses.rpc, InvalidField::Node)?;
    check_text(&addresses.gossip, InvalidField::Node)?;
    let optional = [&addresses.shard, &addresses.s3];
    if optional.iter().any(|text| text.len() > limits::TEXT_BYTES_MAX) {
        return Err(invalid(InvalidField::Node));
    }
    Ok(())
}

fn allows(allowed: Roles, wanted: Roles) -> bool {
    (allowed.storage || !wanted.storage)
        && (allowed.meta || !wanted.meta)
        && (allowed.gateway || !wanted.gateway)
}

impl Change<'_> {
    pub(super) fn create_token(
        &mut self,
        id: &str,
        secret_hash: [u8; 32],
        expires_ms: u64,
        roles: Roles,
        now_ms: u64,
    ) -> Step<RootOk> {
        check_text(id, InvalidField::Token)?;
        let before: Option<TokenRow> = self.tx.load(ROOT, &rows::token(id))?;
        if expires_ms <= now_ms || before.is_some_and(|row| row.secret_hash != secret_hash) {
            return Err(invalid(InvalidField::Token));
        }
        let mut stored = 0;
        for (key, value) in self.tx.scan(ROOT, b"T", prefix_end(b"T").as_deref(), usize::MAX)? {
            let row: TokenRow = decode_row(ROOT, &value)?;
            // Used ones are kept as long, so that a joining node may ask again.
            if row.expires_ms <= now_ms && stored < limits::TOKENS_MAX / 2 {
                self.tx.delete(ROOT, key.to_vec());
            } else {
                stored += 1;
            }
        }
        if stored >= limits::TOKENS_MAX {
            return Err(full(InvalidField::Token));
        }
        let row = TokenRow { secret_hash, expires_ms, roles, used_by: None };
        self.tx.store(ROOT, rows::token(id), &row);
        Ok(RootOk::Done)
    }

    pub(super) fn redeem_token(
        &mut self,
        id: &str,
        secret_hash: [u8; 32],
        node: NewNode,
        now_ms: u64,
    ) -> Step<RootOk> {
        let row: Option<TokenRow> = self.tx.load(ROOT, &rows::token(id))?;
        let row =
            row.filter(|row| row.secret_hash == secret_hash).ok_or(RootError::TokenRefused)?;
        if let Some((used_by, key_hash)) = row.used_by {
            // The same node asks again because it missed the answer.
            return if key_hash == node.key_hash {
                Ok(RootOk::Node(used_by))
            } else {
                Err(RootError::TokenUsed.into())
            };
        }
        if row.expires_ms <= now_ms {
            return Err(RootError::TokenExpired.into());
        }
        if !allows(row.roles, node.roles) {
            return Err(RootError::TokenRefused.into());
        }
        let key_hash = node.key_hash;
        let node = self.admit(node, NodeState::Joining, now_ms)?;
        let row = TokenRow { used_by: Some((node, key_hash)), ..row };
        self.tx.store(ROOT, rows::token(id), &row);
        Ok(RootOk::Node(node))
    }

    /// Gives a node its id.
    pub(super) fn admit(&mut self, new: NewNode, state: NodeState, now_ms: u64) -> Step<NodeId> {
        check_text(&new.name, InvalidField::Node)?;
        check_text(&new.host, InvalidField::Node)?;
        check_addresses(&new.addresses)?;
        if new.zone.len() > limits::TEXT_BYTES_MAX {
            return Err(invalid(InvalidField::Node));
        }
        if self.cluster.nodes >= limits::NODES_MAX as u64 {
            return Err(full(InvalidField::Node));
        }
        let nodes: Vec<Node> = all(&self.tx, b"N")?;
        // One key is one node: else two nodes could show one certificate.
        if nodes.iter().any(|node| node.key_hash == new.key_hash) {
            return Err(invalid(InvalidField::Node));
        }
        self.cluster.nodes += 1;
        let id = NodeId(self.cluster.nodes);
        self.set_node(&Node {
            id,
            name: new.name,
            host: new.host,
            zone: new.zone,
            class: new.class,
            roles: new.roles,
            addresses: new.addresses,
            key_hash: new.key_hash,
            cert_generation: 1,
            state,
            liveness: Liveness::Up,
            liveness_since_ms: now_ms,
            raft_generation: 0,
        });
        Ok(id)
    }

    pub(super) fn renew_node_cert(
        &mut self,
        id: NodeId,
        current: u32,
        key_hash: Fingerprint,
    ) -> Step<RootOk> {
        let mut node = self.node(id)?;
        let newest = node.cert_generation;
        if current.checked_add(1) == Some(newest) && key_hash == node.key_hash {
            return Ok(RootOk::CertGeneration(newest));
        }
        if current != newest {
            return Err(RootError::CertMismatch(id).into());
        }
        node.cert_generation = newest.checked_add(1).ok_or(RootError::CertMismatch(id))?;
        node.key_hash = key_hash;
        let generation = node.cert_generation;
        self.set_node(&node);
        Ok(RootOk::CertGeneration(generation))
    }

    pub(super) fn set_node_addresses(&mut self, id: NodeId, addresses: Addresses) -> Step<RootOk> {
        check_addresses(&addresses)?;
        let mut node = self.node(id)?;
        if node.addresses != addresses {
            node.addresses = addresses;
            self.set_node(&node);
        }
        Ok(RootOk::Done)
    }

    pub(super) fn set_node_state(
        &mut self,
        id: NodeId,
        state: NodeState,
        now_ms: u64,
    ) -> Step<RootOk> {
        let mut node = self.node(id)?;
        if node.state == state {
            return Ok(RootOk::Done);
        }
        if state == NodeState::Joining {
            return Err(invalid(InvalidField::State));
        }
        node.state = state;
        if state == NodeState::Removed {
            node.liveness = Liveness::Down;
            node.liveness_since_ms = now_ms;
            self.forget_reports(id)?;
        }
        self.set_node(&node);
        Ok(RootOk::Done)
    }

    pub(super) fn next_raft_generation(&mut self, id: NodeId) -> Step<RootOk> {
        let mut node = self.node(id)?;
        if node.raft_generation >= RaftId::GENERATION_MAX {
            return Err(full(InvalidField::Groups));
        }
        node.raft_generation += 1;
        let raft = RaftId::new(id, node.raft_generation);
        self.set_node(&node);
        Ok(RootOk::RaftId(raft))
    }

    pub(super) fn add_drive(&mut self, new: NewDrive) -> Step<RootOk> {
        let node = self.node(new.node)?;
        let key = rows::incarnation(&new.incarnation);
        if let Some(known) = self.tx.load::<DriveId>(ROOT, &key)? {
            let mut drive = self.drive(known)?;
            if drive.state == DriveState::Removed {
                return Err(RootError::DriveUnusable(known).into());
            }
            if drive.node != new.node {
                // A disk that was carried to another machine: its shards came with it. A *cloned*
                // one would do the same, so the node before must be gone.
                if self.node(drive.node).is_ok_and(|before| before.liveness == Liveness::Up) {
                    return Err(RootError::DriveInUse(known).into());
                }
                drive.node = new.node;
                self.set_drive(&drive);
            }
            return Ok(RootOk::Drive(known));
        }
        if !node.roles.storage || new.size_bytes == 0 || new.weight == 0 {
            return Err(invalid(InvalidField::Drive));
        }
        if self.cluster.drives >= limits::DRIVES_MAX as u64 {
            return Err(full(InvalidField::Drive));
        }
        self.cluster.drives += 1;
        let id = DriveId(self.cluster.drives);
        self.tx.store(ROOT, key, &id);
        self.set_drive(&Drive {
            id,
            node: new.node,
            incarnation: new.incarnation,
            size_bytes: new.size_bytes,
            weight: new.weight,
            state: DriveState::Active,
            used_bytes: 0,
            space: SpaceMark::Normal,
        });
        Ok(RootOk::Drive(id))
    }

    pub(super) fn set_drive_state(&mut self, id: DriveId, state: DriveState) -> Step<RootOk> {
        let mut drive = self.drive(id)?;
        if drive.state == state {
            return Ok(RootOk::Done);
        }
        if drive.state == DriveState::Removed {
            return Err(invalid(InvalidField::State));
        }
        if state == DriveState::Removed {
            let pgs: Vec<Pg> = all(&self.tx, b"P")?;
            if pgs.iter().any(|pg| pg.slots.contains(&id)) {
                return Err(RootError::DriveInUse(id).into());
            }
        }
        drive.state = state;
        self.set_drive(&drive);
        Ok(RootOk::Done)
    }

    pub(super) fn set_drive_use(
        &mut self,
        id: DriveId,
        used_bytes: u64,
        mark: SpaceMark,
    ) -> Step<RootOk> {
        let mut drive = self.drive(id)?;
        let map_changed = self.map_changed || drive.space != mark;
        drive.used_bytes = used_bytes;
        drive.space = mark;
        self.set_drive(&drive);
        // A few bytes more alone are not worth a new map on every node.
        self.map_changed = map_changed;
        Ok(RootOk::Done)
    }

    pub(super) fn set_drive_size(
        &mut self,
        id: DriveId,
        size_bytes: u64,
        weight: u32,
    ) -> Step<RootOk> {
        let mut drive = self.drive(id)?;
        if size_bytes == 0 || weight == 0 {
            return Err(invalid(InvalidField::Drive));
        }
        if (drive.size_bytes, drive.weight) != (size_bytes, weight) {
            drive.size_bytes = size_bytes;
            drive.weight = weight;
            self.set_drive(&drive);
        }
        Ok(RootOk::Done)
    }

    pub(super) fn report(
        &mut self,
        reporter: NodeId,
        sightings: &[(NodeId, Sighting)],
        now_ms: u64,
    ) -> Step<RootOk> {
        if sightings.len() > limits::SIGHTINGS_MAX {
            return Err(invalid(InvalidField::Sightings));
        }
        let reporter = self.node(reporter)?;
        for (subject, sighting) in sightings {
            // Who is unknown or removed by now is passed over: reports are old news by nature.
            let Ok(node) = self.node(*subject) else { continue };
            match sighting {
                Sighting::Up => self.decide(node, Liveness::Up, now_ms)?,
                Sighting::Asleep => self.decide(node, Liveness::Asleep, now_ms)?,
                Sighting::Down if *subject == reporter.id => {}
                Sighting::Down => self.report_down(node, &reporter, now_ms)?,
            }
        }
        Ok(RootOk::Done)
    }

    fn report_down(&mut self, node: Node, reporter: &Node, now_ms: u64) -> Step<()> {
        // A node that went to sleep does not answer, and that is not news.
        if node.liveness != Liveness::Up {
            return Ok(());
        }
        let window_ms = self.cluster.cluster.settings.report_window_ms;
        let prefix = rows::reports(node.id).done();
        let mut hosts = BTreeSet::from([reporter.host.clone()]);
        for (_, value) in self.tx.scan(ROOT, &prefix, prefix_end(&prefix).as_deref(), usize::MAX)? {
            let row: ReportRow = decode_row(ROOT, &value)?;
            if now_ms.saturating_sub(row.at_ms) <= window_ms {
                hosts.insert(row.host);
            }
        }
        let nodes: Vec<Node> = all(&self.tx, b"N")?;
        let others: BTreeSet<&str> = nodes
            .iter()
            .filter(|other| {
                other.id != node.id
                    && other.state != NodeState::Removed
                    && other.liveness == Liveness::Up
            })
            .map(|other| other.host.as_str())
            .collect();
        // With a single other host there is no second opinion to wait for.
        if hosts.len() >= REPORTING_HOSTS.min(others.len()) {
            return self.decide(node, Liveness::Down, now_ms);
        }
        let row = ReportRow { host: reporter.host.clone(), at_ms: now_ms };
        self.tx.store(ROOT, rows::report(node.id, reporter.id), &row);
        Ok(())
    }

    fn decide(&mut self, mut node: Node, liveness: Liveness, now_ms: u64) -> Step<()> {
        self.forget_reports(node.id)?;
        if node.liveness != liveness {
            node.liveness = liveness;
            node.liveness_since_ms = now_ms;
            self.set_node(&node);
        }
        Ok(())
    }

    fn forget_reports(&mut self, node: NodeId) -> Step<()> {
        let prefix = rows::reports(node).done();
        for (key, _) in self.tx.scan(ROOT, &prefix, prefix_end(&prefix).as_deref(), usize::MAX)? {
            self.tx.delete(ROOT, key.to_vec());
        }
        Ok(())
    }
}
