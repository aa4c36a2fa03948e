//! Between two checkpoints the log is followed: what was committed goes, sealed, to a few nodes every
//! some seconds.
//!
//! ```text
//!   record at 300 ──tail (300, 340]──▶ tail (340, 341] ──▶ …            on each keeper, without a hole
//!                                           │ the log begins later, or a keeper has no room
//!                                           └──▶ another checkpoint is due
//! ```
//! *Who keeps them*: as many nodes as a block of the grid's code has shards that may be lost, and one
//! more; of other hosts, and no voters of the group, if there are such. So a tail survives what data
//! survives. It is a small file there, and no object of the grid: nothing is committed for it, so that
//! following a log makes no work for another that is followed. Renewals of leases alone are not worth a
//! tail: a grid in which nothing happens sends none.
//!
//! State: in memory, how far each keeper has come. Forgotten, it is asked for again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::future::join_all;
use nexusgrid_codec::GroupId;
use nexusgrid_env::{BootInstant, NodeId};
use nexusgrid_meta::namespace::types::NamespaceCommand;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::tail::{LogPlace, LogTail};

use super::Checkpoints;
use super::record::{RecordHead, TailHead, next_tail};
use super::tails::Put;
use super::wire::{self, Reply, Request, TailState};
use crate::core::internal;
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;
use crate::meta_port::ROOT;
use crate::placement;

/// What is known of one group's tails.
#[derive(Default)]
pub(super) struct Following {
    /// When it was last looked at.
    looked: Option<BootInstant>,
    /// A majority of the keepers hold all up to here, as far as it is worth a tail.
    covered: u64,
    as_of_ms: Option<u64>,
    keepers: BTreeMap<NodeId, LogPlace>,
    wanted: usize,
    /// The record behind which no tail can lead on.
    stuck: Option<RecordHead>,
}

/// What a keeper did with a tail.
enum Given {
    Kept,
    Full,
    No,
}

impl Checkpoints {
    /// Brings the tails of a group to where its log is, if it is this node's turn and time.
    /// Says how many tails were sealed.
    pub(super) async fn follow(&self, group: GroupId) -> Result<u64, GridError> {
        if !self.is_mine(group) {
            self.following.lock().remove(&group);
            return Ok(0);
        }
        // Without a checkpoint there is nothing to lead on from.
        let Some(record) = self.shelf.newest(group) else { return Ok(0) };
        let failed = |error: nexusgrid_meta::MetaError| GridError::Unavailable(error.to_string());
        let upto = self.host.status(group).map_err(failed)?.applied_index;
        let now = self.core.env.clock.now();
        {
            let mut all = self.following.lock();
            let following = all.entry(group).or_default();
            let covered = following.covered.max(record.index);
            let is_time =
                following.looked.is_none_or(|looked| now.since(looked) >= self.options.log_tail);
            if !is_time && upto.saturating_sub(covered) < limits::TAIL_ENTRIES_EAGER {
                return Ok(0);
            }
            following.looked = Some(now);
        }
        let as_of_ms = self.core.meta.now_ms();
        let map = self.core.map.current();
        let keepers = self.tail_keepers(&map, group);
        let mut places = self.places(group, &record, &keepers).await?;
        let mut sealed = 0;
        let outcome = self.bring_on(group, &record, upto, &keepers, &mut places, &mut sealed).await;
        let mut all = self.following.lock();
        let following = all.entry(group).or_default();
        following.wanted = keepers.len();
        match &outcome {
            Ok(covered) => {
                following.covered = *covered;
                if *covered >= upto {
                    following.as_of_ms = Some(as_of_ms);
                }
                following.stuck = None;
            }
            Err(Stop::Stuck) => following.stuck = Some(record),
            Err(Stop::Failed(_)) => {}
        }
        following.keepers = places;
        match outcome {
            Err(Stop::Failed(error)) => Err(error),
            Ok(_) | Err(Stop::Stuck) => Ok(sealed),
        }
    }

    /// Whether tails cannot lead on from a group's newest checkpoint.
    pub(super) fn is_stuck(&self, group: GroupId) -> bool {
        let stuck = self.following.lock().get(&group).and_then(|following| following.stuck);
        stuck.is_some() && stuck == self.shelf.newest(group)
    }

    /// How far the tails of a group have come that this node seals.
    pub(super) fn tail_state_here(&self, group: GroupId) -> Option<TailState> {
        let all = self.following.lock();
        let following = all.get(&group)?;
        // Renewals that were worth no tail lie behind what the keepers have.
        let farthest = following.keepers.values().max().copied();
        let has_all = |(_, place): &(&NodeId, &LogPlace)| Some(**place) == farthest;
        Some(TailState {
            index: following.covered,
            as_of_ms: following.as_of_ms?,
            keepers: following.keepers.iter().filter(has_all).map(|(node, _)| *node).collect(),
            wanted: following.wanted,
        })
    }

    /// How far the tails of a group have come, as whoever seals them says.
    pub async fn tail_state(&self, group: GroupId) -> Option<TailState> {
        if let Some(state) = self.tail_state_here(group) {
            return Some(state);
        }
        let map = self.core.map.current();
        let voters = map.voters(group).iter().map(|voter| voter.node());
        let asked = voters.filter(|node| *node != self.core.node).map(|node| async move {
            let deadline = limits::BOOTSTRAP_CALL_DEADLINE;
            let request = Request::TailState(group);
            self.call(node, wire::TAIL_STATE, &request, Bytes::new(), deadline).await
        });
        let told = join_all(asked).await.into_iter().filter_map(|answer| match answer {
            Ok((Reply::TailState(state), _)) => Some(state),
            _ => None,
        });
        told.max_by_key(|state| state.as_of_ms)
    }

    /// Nodes that keep a group's tails.
    fn tail_keepers(&self, map: &Topology, group: GroupId) -> BTreeSet<NodeId> {
        let copies =
            placement::classes_of(map).map_or(1, |classes| usize::from(classes.large.m()) + 1);
        let voters: BTreeSet<NodeId> = map.voters(group).iter().map(|voter| voter.node()).collect();
        let is_dead = |node: NodeId| self.core.map.node_hint(map, node) == NodeHint::Dead;
        let mut ranked: Vec<_> = self
            .keepers(map)
            .filter(|node| !is_dead(node.id))
            .map(|node| (voters.contains(&node.id), scattered(group, node.id), node))
            .collect();
        ranked.sort_unstable_by_key(|(votes, at, node)| (*votes, *at, node.id));
        let mut hosts = BTreeSet::new();
        let mut keepers = BTreeSet::new();
        for (_, _, node) in ranked {
            if keepers.len() < copies && hosts.insert(node.host.as_str()) {
                keepers.insert(node.id);
            }
        }
        keepers
    }

    /// How far each keeper has come; those that cannot be asked are left out.
    async fn places(
        &self,
        group: GroupId,
        record: &RecordHead,
        keepers: &BTreeSet<NodeId>,
    ) -> Result<BTreeMap<NodeId, LogPlace>, GridError> {
        let mut places: BTreeMap<NodeId, LogPlace> = {
            let all = self.following.lock();
            let known = all.get(&group).map(|following| following.keepers.clone());
            known.unwrap_or_default()
        };
        places.retain(|node, _| keepers.contains(node));
        let unknown: Vec<NodeId> =
            keepers.iter().filter(|node| !places.contains_key(node)).copied().collect();
        let listed = unknown
            .into_iter()
            .map(|node| async move { (node, self.list_tails(node, group).await) });
        for (node, heads) in join_all(listed).await {
            let Some(heads) = heads else { continue };
            places.insert(node, self.place_of(group, record, &heads)?);
        }
        Ok(places)
    }

    /// Where the tails that a keeper has lead to, from a record on; index and term 0 if it has to begin
    /// anew and the log does not reach back to the record.
    fn place_of(
        &self,
        group: GroupId,
        record: &RecordHead,
        heads: &[TailHead],
    ) -> Result<LogPlace, GridError> {
        let failed = |error: nexusgrid_meta::MetaError| GridError::Unavailable(error.to_string());
        let mut reached = record.index;
        let mut place = self.host.log_place(group, record.index).map_err(failed)?;
        while let Some(next) = next_tail(heads.iter().copied(), record.incarnation, reached) {
            reached = next.end.index;
            // Of this history, and where the log can go on.
            if self.host.log_place(group, reached).map_err(failed)? == Some(next.end) {
                place = Some(next.end);
            }
        }
        Ok(place.unwrap_or_default())
    }

    pub(super) async fn list_tails(&self, node: NodeId, group: GroupId) -> Option<Vec<TailHead>> {
        if node == self.core.node {
            return Some(self.shelf.tails.heads(group));
        }
        let deadline = limits::BOOTSTRAP_CALL_DEADLINE;
        let request = Request::Tails(group);
        match self.call(node, wire::TAIL_LIST, &request, Bytes::new(), deadline).await {
            Ok((Reply::Tails(heads), _)) => Some(heads),
            _ => None,
        }
    }

    /// Seals what the keepers lack and gives it to them; says how far a majority of them is.
    async fn bring_on(
        &self,
        group: GroupId,
        record: &RecordHead,
        upto: u64,
        keepers: &BTreeSet<NodeId>,
        places: &mut BTreeMap<NodeId, LogPlace>,
        count: &mut u64,
    ) -> Result<u64, Stop> {
        let failed = |error: nexusgrid_meta::MetaError| GridError::Unavailable(error.to_string());
        let keys = self.core.keys.record_keys()?;
        // This node's map may be behind: a tail of an incarnation before the record's leads nowhere.
        let incarnation = self.core.map.current().incarnation.max(record.incarnation);
        let mut is_worth_it = false;
        for _ in 0..limits::TAILS_PER_LOOK {
            let Some(place) = places.values().min().filter(|place| place.index < upto).copied()
            else {
                break;
            };
            let tail = self.host.tail(group, place, limits::TAIL_BYTES).await.map_err(failed)?;
            let Some(tail) = tail.filter(|tail| !tail.is_empty()) else {
                // The log begins later than this one lacks. What others have leads on from there for a
                // restore as well; else only a checkpoint does. Nothing is passed over that the log
                // still has: to the nearest such place.
                let on = self.host.log_place(group, record.index).map_err(failed)?;
                let on = on.into_iter().chain(places.values().copied());
                let on = on.filter(|on| *on > place).min().ok_or(Stop::Stuck)?;
                places.values_mut().filter(|at| **at == place).for_each(|at| *at = on);
                continue;
            };
            is_worth_it = is_worth_it
                || upto - place.index >= limits::TAIL_ENTRIES_EAGER
                || is_worth_a_tail(group, &tail);
            if !is_worth_it {
                return Ok(tail.end().index);
            }
            let head = TailHead {
                group,
                incarnation,
                after: tail.after(),
                end: tail.end(),
                taken_ms: self.core.meta.now_ms(),
            };
            let sealed = keys.seal_tail(head, &tail, self.core.keys.random_nonce());
            let sealed = Bytes::from(sealed.map_err(internal)?);
            *count += 1;
            let to: Vec<NodeId> =
                places.iter().filter(|(_, at)| **at == place).map(|(node, _)| *node).collect();
            let given = to.into_iter().map(|node| {
                let sealed = sealed.clone();
                async move { (node, self.give_tail(node, group, sealed).await) }
            });
            for (node, given) in join_all(given).await {
                match given {
                    Given::Kept => drop(places.insert(node, head.end)),
                    Given::Full => return Err(Stop::Stuck),
                    // Asked where it is next time.
                    Given::No => drop(places.remove(&node)),
                }
            }
        }
        let mut reached: Vec<u64> = places.values().map(|place| place.index).collect();
        reached.sort_unstable_by(|a, b| b.cmp(a));
        let covered = reached.get(keepers.len() / 2).copied();
        let few = || {
            let (few, all) = (places.len(), keepers.len());
            GridError::Unavailable(format!("{few} of {all} nodes keep the log's tail"))
        };
        Ok(covered.ok_or_else(few)?)
    }

    async fn give_tail(&self, node: NodeId, group: GroupId, sealed: Bytes) -> Given {
        if node == self.core.node {
            return match self.keep_tail(group, sealed).await {
                Ok(Put::Kept) => Given::Kept,
                Ok(Put::Full) => Given::Full,
                Err(error) => {
                    tracing::warn!(group = group.0, %error, "keeping a tail of a log");
                    Given::No
                }
            };
        }
        let deadline = limits::BOOTSTRAP_CALL_DEADLINE;
        match self.call(node, wire::TAIL_PUT, &Request::PutTail, sealed, deadline).await {
            Ok((Reply::Done, _)) => Given::Kept,
            Ok((Reply::Full, _)) => Given::Full,
            _ => Given::No,
        }
    }

    pub(super) async fn keep_tail(&self, group: GroupId, sealed: Bytes) -> std::io::Result<Put> {
        let newest = self.shelf.newest(group).map(|head| head.state_order());
        self.shelf.tails.put(sealed, newest).await
    }
}

/// Why tails go no further now.
enum Stop {
    /// They cannot lead on from the newest checkpoint.
    Stuck,
    Failed(GridError),
}

impl From<GridError> for Stop {
    fn from(error: GridError) -> Stop {
        Stop::Failed(error)
    }
}

/// A restore closes all sessions: that they were renewed makes no difference to it.
fn is_worth_a_tail(group: GroupId, tail: &LogTail) -> bool {
    let is_renewal = |command: &[u8]| {
        group != ROOT
            && matches!(
                NamespaceCommand::decode(command),
                Ok(NamespaceCommand::RenewSession { .. })
            )
    };
    tail.commands().any(|command| !is_renewal(command))
}

/// Spreads the groups over the nodes; the same everywhere.
fn scattered(group: GroupId, node: NodeId) -> u64 {
    let mut mixed = node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(group.0);
    for _ in 0..2 {
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    mixed ^ (mixed >> 29)
}
