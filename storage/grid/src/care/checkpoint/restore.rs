//! Founds groups anew that have lost their majority for good, from the newest checkpoint there is.
//!
//! ```text
//!   survey:  every node's records, the newest map of all, who still runs a replica
//!      └─▶ each group: serves · may serve again · lost (with a checkpoint or without)
//!   restore: [root alive: note it there, which freezes deletes]
//!            root first, so that whoever comes back hears which replicas are of the lost groups
//!            each group: shards ──▶ rows ──▶ a group of one voter, this node; others join it
//! ```
//! Never beside a group that may decide: one that answers, or of which a majority of the voters runs,
//! is left alone. Nodes that nobody can reach are the administrator's word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_meta::host::restore::Beginning;
use nexusgrid_meta::namespace::types::NamespaceQuery;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::{RaftId, Restore, RestoredGroup, RootCommand, RootQuery};
use nexusgrid_meta::{Consistency, namespace, root};

use super::Checkpoints;
use super::record::{RecordBody, RecordHead};
use super::wire::{self, Reply, Request};
use crate::core::internal;
use crate::error::GridError;
use crate::limits;
use crate::meta_port::ROOT;

/// Whether a group can decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// It answers.
    Serving,
    /// It does not answer, but a majority of its voters runs: wait, or look why.
    MayServe,
    /// No majority can be reached.
    Lost,
}

/// One group before a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSurvey {
    /// The group.
    pub group: GroupId,
    /// Whether it can decide.
    pub state: GroupState,
    /// Its voters as the newest map has them.
    pub voters: Vec<NodeId>,
    /// Those of them that run their replica.
    pub running: Vec<NodeId>,
    /// The newest checkpoint whose record could be opened.
    pub checkpoint: Option<RecordHead>,
}

/// What could be restored.
#[derive(Clone, Debug)]
pub struct Survey {
    /// All groups that the newest map or any record names.
    pub groups: Vec<GroupSurvey>,
    /// Nodes that gave no answer.
    pub silent: Vec<NodeId>,
    newest: Arc<Topology>,
    records: BTreeMap<GroupId, (RecordHead, RecordBody)>,
    /// The highest generation that was seen of each group.
    generations: BTreeMap<GroupId, u16>,
}

impl Survey {
    /// Groups that are lost.
    pub fn lost(&self) -> impl Iterator<Item = &GroupSurvey> {
        self.groups.iter().filter(|group| group.state == GroupState::Lost)
    }
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The cluster's incarnation from now on.
    pub incarnation: u64,
    /// The groups, and the checkpoints they began from.
    pub groups: Vec<RecordHead>,
}

impl Checkpoints {
    /// Looks who is there and what could be restored; changes nothing.
    pub async fn survey(&self) -> Result<Survey, GridError> {
        let keys = self.core.keys.record_keys()?;
        let mut newest = self.kept_map.topology();
        let mut heads: BTreeMap<RecordHeadOrder, (RecordHead, NodeId)> = BTreeMap::new();
        let own = self.shelf.heads().into_iter().map(|head| (order(&head), (head, self.core.node)));
        heads.extend(own);
        let mut silent = Vec::new();
        let mut asked = BTreeSet::from([self.core.node]);
        // A newer map may name nodes that this one's did not.
        loop {
            let ask: Vec<NodeId> = newest
                .nodes
                .keys()
                .filter(|node| newest.node(**node).is_some() && !asked.contains(*node))
                .copied()
                .collect();
            if ask.is_empty() {
                break;
            }
            asked.extend(&ask);
            let listed = join_all(ask.into_iter().map(|node| self.list(node))).await;
            for (node, answer) in listed {
                let Some((listed, map)) = answer else {
                    silent.push(node);
                    continue;
                };
                for head in listed {
                    heads.entry(order(&head)).or_insert((head, node));
                }
                let is_newer =
                    (map.incarnation, map.version) > (newest.incarnation, newest.version);
                if is_newer && map.cluster == newest.cluster.or(map.cluster) {
                    newest = Arc::new(map);
                }
            }
        }
        // The newest first; older ones only if it cannot be had.
        let mut records: BTreeMap<GroupId, (RecordHead, RecordBody)> = BTreeMap::new();
        for (head, node) in heads.into_values().rev() {
            if records.contains_key(&head.group) {
                continue;
            }
            let Some(record) = self.fetch_record(node, &head).await else { continue };
            match keys.open(&record) {
                Ok((opened, body)) if opened == head => {
                    records.insert(head.group, (head, body));
                }
                _ => tracing::warn!(?head, %node, "a bootstrap record does not open"),
            }
        }
        if newest.version == 0 {
            let maps =
                records.values().filter_map(|(_, body)| Topology::decode(&body.topology).ok());
            if let Some(map) = maps.max_by_key(|map| (map.incarnation, map.version)) {
                newest = Arc::new(map);
            }
        }
        let groups: BTreeSet<GroupId> =
            newest.groups.keys().chain(records.keys()).copied().collect();
        let looked = groups.into_iter().map(|group| self.survey_group(group, &newest));
        let mut generations = BTreeMap::new();
        let mut surveyed = Vec::new();
        for (mut group, generation) in join_all(looked).await {
            group.checkpoint = records.get(&group.group).map(|(head, _)| *head);
            generations.insert(group.group, generation);
            surveyed.push(group);
        }
        Ok(Survey { groups: surveyed, silent, newest, records, generations })
    }

    /// Restores the lost groups of a survey. `now_ms` is the wall clock's time.
    pub async fn restore(&self, survey: Survey) -> Result<Restored, GridError> {
        let Ok(_alone) = self.restoring.try_lock() else {
            let why = "a restore runs on this node already: wait for its end";
            return Err(GridError::InvalidArgument(why.to_owned()));
        };
        let Survey { groups, newest, records, generations, .. } = survey;
        let lost: Vec<GroupId> = groups
            .iter()
            .filter(|group| group.state == GroupState::Lost)
            .map(|group| group.group)
            .collect();
        if lost.is_empty() {
            return Err(GridError::InvalidArgument("no group is lost".to_owned()));
        }
        if let Some(busy) = groups.iter().find(|group| group.state == GroupState::MayServe) {
            let group = busy.group.0;
            return Err(GridError::InvalidArgument(format!(
                "a majority of group {group} runs: wait until it serves, or stop those nodes for good"
            )));
        }
        let own = newest.node(self.core.node);
        if !own.is_some_and(|own| own.roles.meta && own.roles.gateway) {
            return Err(GridError::InvalidArgument(
                "only a node with the roles meta and gateway can restore".to_owned(),
            ));
        }
        let now_ms = self.core.meta.now_ms();
        // Reads below go by it; the restored root group's is newer.
        self.core.map.offer(&newest);
        let incarnation = match lost.contains(&ROOT) {
            true => {
                let known = records.values().map(|(head, _)| head.incarnation).max();
                known.unwrap_or(1).max(newest.incarnation).max(self.core.deletions.incarnation())
                    + 1
            }
            false => self.core.map.refresh().await?.incarnation + 1,
        };
        let mut restored = Vec::new();
        for group in &lost {
            let Some((head, body)) = records.get(group) else {
                return Err(GridError::InvalidArgument(format!(
                    "there is no checkpoint of group {}: no reachable node keeps its record",
                    group.0
                )));
            };
            let known = generations.get(group).copied().unwrap_or(0).max(body.generation);
            // As with the index: an earlier restore may have begun from the same record.
            let since = incarnation.saturating_sub(head.incarnation).max(1);
            let gap = u16::try_from(since)
                .ok()
                .and_then(|since| limits::RESTORE_GENERATION_GAP.checked_mul(since));
            let generation = gap.and_then(|gap| known.checked_add(gap));
            let generation = generation.ok_or_else(|| internal("generations are used up"))?;
            restored.push(RestoredGroup {
                group: *group,
                generation,
                index: head.index,
                checkpoint_ms: head.taken_ms,
            });
        }
        let restore = Restore { incarnation, at_ms: now_ms, groups: restored.clone() };
        if !lost.contains(&ROOT) {
            // From here on nothing is deleted, and replicas of the lost groups are known as such.
            self.core.meta.root_command(&RootCommand::RecordRestore(restore.clone())).await?;
        }
        let mut done = Vec::new();
        // The root group is the first.
        for group in restored {
            let (head, body) = records.get(&group.group).ok_or_else(|| internal("a record"))?;
            self.found(group, head, body, &newest, &restore).await?;
            tracing::warn!(
                group = group.group.0,
                index = head.index,
                incarnation,
                "a lost group was restored from its checkpoint"
            );
            done.push(*head);
        }
        Ok(Restored { incarnation, groups: done })
    }

    /// One group, from its shards to its first leader.
    async fn found(
        &self,
        group: RestoredGroup,
        head: &RecordHead,
        body: &RecordBody,
        newest: &Arc<Topology>,
        restore: &Restore,
    ) -> Result<(), GridError> {
        let failed = |error: nexusgrid_meta::MetaError| GridError::Unavailable(error.to_string());
        let keys = self.core.keys.record_keys()?;
        let key = keys.unwrap(&body.wrapped_key, head.group, head.index);
        let key = key.map_err(|error| GridError::DataLost(error.to_string()))?;
        let mut founding = self.host.begin_found(group.group).await.map_err(failed)?;
        for extent in &body.extents {
            let len = u32::try_from(extent.len).map_err(internal)?;
            let range = extent.skip..extent.skip.saturating_add(len);
            for piece in self.core.read_region(extent, &key, range).await? {
                founding.take(&piece).await.map_err(failed)?;
            }
        }
        // One gap for each restore since the checkpoint: what clients were given after the one before
        // is not given again, though it began from the same record.
        let since = restore.incarnation.saturating_sub(head.incarnation).max(1);
        let gap = limits::RESTORE_INDEX_GAP.saturating_mul(since);
        let index = head.index.max(newest.version).saturating_add(gap);
        let beginning = Beginning { index, generation: group.generation };
        let founder = RaftId::new(self.core.node, u32::from(group.generation) + 1);
        let (newest, restore) = (Arc::clone(newest), restore.clone());
        let adapt = move |state: &dyn nexusgrid_env::KvRead,
                          head: &nexusgrid_meta::export::ExportHead| {
            if head.group == ROOT {
                root::restore::restored(state, index, &newest, founder, &restore)
            } else {
                namespace::restore::restored(state, head.index, index, restore.at_ms)
            }
        };
        founding.finish(beginning, adapt).await.map_err(failed)?;
        Ok(())
    }

    async fn list(&self, node: NodeId) -> (NodeId, Option<(Vec<RecordHead>, Topology)>) {
        let deadline = limits::BOOTSTRAP_CALL_DEADLINE;
        let answer = self.call(node, wire::LIST, &Request::List, Bytes::new(), deadline).await;
        let listed = match answer {
            Ok((Reply::Listed(heads), map)) => Topology::decode(&map).ok().map(|map| (heads, map)),
            _ => None,
        };
        (node, listed)
    }

    async fn fetch_record(&self, node: NodeId, head: &RecordHead) -> Option<Bytes> {
        if node == self.core.node {
            return self.shelf.get(head);
        }
        let deadline = limits::BOOTSTRAP_CALL_DEADLINE;
        let answer = self.call(node, wire::GET, &Request::Get(*head), Bytes::new(), deadline).await;
        match answer {
            Ok((Reply::Got, record)) => Some(record),
            _ => None,
        }
    }

    /// A group, and the highest generation that was seen of it.
    async fn survey_group(&self, group: GroupId, map: &Topology) -> (GroupSurvey, u16) {
        let mapped: Vec<NodeId> = map.voters(group).iter().map(|voter| voter.node()).collect();
        // A replica knows better than the map, which is told a little later; but one that was replaced
        // knows less.
        let voters = match self.host.voters(group) {
            Ok(own) if !own.is_empty() && mapped.contains(&self.core.node) => own,
            _ => mapped,
        };
        let metas =
            map.nodes.keys().filter(|id| map.node(**id).is_some_and(|node| node.roles.meta));
        let look = |node: NodeId| async move { (node, self.host.look_at(node, group).await) };
        let (is_serving, looked) =
            tokio::join!(self.is_serving(group), join_all(metas.copied().map(look)));
        let mut running = Vec::new();
        // Voters are replaced while the map cannot be told: those it does not know may be a majority.
        let mut others = 0;
        let mut generation = map.voters(group).iter().map(|voter| voter.generation()).max();
        for (node, view) in looked {
            let Ok(view) = view else { continue };
            generation = generation.max(Some(view.generation));
            match view.running {
                true if voters.contains(&node) => running.push(node),
                true => others += 1,
                false => {}
            }
        }
        let state = match () {
            () if is_serving => GroupState::Serving,
            () if running.len() + others > voters.len() / 2 => GroupState::MayServe,
            () => GroupState::Lost,
        };
        let surveyed = GroupSurvey { group, state, voters, running, checkpoint: None };
        (surveyed, generation.unwrap_or(0))
    }

    async fn is_serving(&self, group: GroupId) -> bool {
        let query = match group {
            ROOT => RootQuery::Restores.encode(),
            _ => NamespaceQuery::Sessions.encode(),
        };
        let deadline = limits::RESTORE_PROOF_DEADLINE;
        let query = Bytes::from(query);
        self.host.query(group, query, Consistency::Linearizable, deadline).await.is_ok()
    }
}

/// Group, incarnation, index, time.
type RecordHeadOrder = (GroupId, u64, u64, u64);

fn order(head: &RecordHead) -> RecordHeadOrder {
    (head.group, head.incarnation, head.index, head.taken_ms)
}
