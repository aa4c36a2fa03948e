//! What could be restored: who is there, what they keep, which groups can decide.
//!
//! Changes nothing. What nodes keep is listed first and opened only for groups that are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_meta::Consistency;
use nexusgrid_meta::namespace::types::NamespaceQuery;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::RootQuery;

use super::Checkpoints;
use super::record::{RecordBody, RecordHead, TailHead, next_tail};
use super::wire::{self, Reply, Request};
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
    /// The newest checkpoint; of a lost group, that whose record could be opened.
    pub checkpoint: Option<RecordHead>,
    /// Of a lost group, the last of the tails that lead on from there without a hole.
    pub tail: Option<TailHead>,
}

/// What could be restored.
#[derive(Clone, Debug)]
pub struct Survey {
    /// All groups that the newest map or any record names.
    pub groups: Vec<GroupSurvey>,
    /// Nodes that gave no answer.
    pub silent: Vec<NodeId>,
    pub(super) newest: Arc<Topology>,
    /// Of lost groups, the newest first.
    pub(super) records: BTreeMap<GroupId, Vec<(RecordHead, RecordBody)>>,
    /// Of lost groups, and who has them.
    pub(super) tails: BTreeMap<GroupId, Vec<(TailHead, NodeId)>>,
    /// The highest generation that was seen of each group.
    pub(super) generations: BTreeMap<GroupId, u16>,
    /// The highest incarnation that any record is of.
    pub(super) incarnation: u64,
}

impl Survey {
    /// Groups that are lost.
    pub fn lost(&self) -> impl Iterator<Item = &GroupSurvey> {
        self.groups.iter().filter(|group| group.state == GroupState::Lost)
    }
}

/// Records of one group by age, and nodes that keep them.
type Listed = BTreeMap<(u64, u64, u64), (RecordHead, Vec<NodeId>)>;

fn note(listed: &mut BTreeMap<GroupId, Listed>, head: RecordHead, node: NodeId) {
    let at = (head.incarnation, head.index, head.taken_ms);
    let (_, nodes) = listed.entry(head.group).or_default().entry(at).or_insert((head, Vec::new()));
    if nodes.len() < limits::RECORD_SOURCES {
        nodes.push(node);
    }
}

impl Checkpoints {
    /// Looks who is there and what could be restored; changes nothing.
    pub async fn survey(&self) -> Result<Survey, GridError> {
        // Without the master key nothing could be opened.
        self.core.keys.record_keys()?;
        let mut newest = self.kept_map.topology();
        let mut listed: BTreeMap<GroupId, Listed> = BTreeMap::new();
        for head in self.shelf.heads() {
            note(&mut listed, head, self.core.node);
        }
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
            let mut answers = Vec::with_capacity(ask.len());
            for some in ask.chunks(limits::SURVEY_CALLS_AT_ONCE) {
                answers.extend(join_all(some.iter().copied().map(|node| self.list(node))).await);
            }
            for (node, answer) in answers {
                let Some((heads, map)) = answer else {
                    silent.push(node);
                    continue;
                };
                heads.into_iter().for_each(|head| note(&mut listed, head, node));
                let is_newer =
                    (map.incarnation, map.version) > (newest.incarnation, newest.version);
                if is_newer && map.cluster == newest.cluster.or(map.cluster) {
                    newest = Arc::new(map);
                }
            }
        }
        if newest.version == 0 {
            let of_root = self.open_records(listed.get(&ROOT)).await?;
            let maps = of_root.iter().filter_map(|(_, body)| Topology::decode(&body.topology).ok());
            if let Some(map) = maps.max_by_key(|map| (map.incarnation, map.version)) {
                newest = Arc::new(map);
            }
        }
        let groups: BTreeSet<GroupId> =
            newest.groups.keys().chain(listed.keys()).copied().collect();
        let looked = groups.into_iter().map(|group| self.survey_group(group, &newest));
        let looked = join_all(looked).await;
        asked.retain(|node| !silent.contains(node));
        let mut survey = Survey {
            groups: Vec::new(),
            silent,
            newest,
            records: BTreeMap::new(),
            tails: BTreeMap::new(),
            generations: BTreeMap::new(),
            incarnation: listed.values().flat_map(BTreeMap::keys).map(|at| at.0).max().unwrap_or(1),
        };
        for (mut group, generation) in looked {
            let id = group.group;
            survey.generations.insert(id, generation);
            let of_group = listed.get(&id);
            group.checkpoint =
                of_group.and_then(|of| of.values().next_back()).map(|(head, _)| *head);
            if group.state == GroupState::Lost {
                let records = self.open_records(of_group).await?;
                let tails = self.tails_of(id, &asked).await;
                group.checkpoint = records.first().map(|(head, _)| *head);
                let heads = || tails.iter().map(|(head, _)| *head);
                let mut reached = group.checkpoint.map_or(u64::MAX, |head| head.index);
                let incarnation = group.checkpoint.map_or(u64::MAX, |head| head.incarnation);
                while let Some(next) = next_tail(heads(), incarnation, reached) {
                    reached = next.end.index;
                    group.tail = Some(next);
                }
                survey.records.insert(id, records);
                survey.tails.insert(id, tails);
            }
            survey.groups.push(group);
        }
        Ok(survey)
    }

    /// Those of a group's records that can be had and open, the newest first, a few at most.
    async fn open_records(
        &self,
        listed: Option<&Listed>,
    ) -> Result<Vec<(RecordHead, RecordBody)>, GridError> {
        let keys = self.core.keys.record_keys()?;
        let mut opened = Vec::new();
        for (head, nodes) in listed.into_iter().flat_map(BTreeMap::values).rev() {
            if opened.len() >= limits::RESTORE_RECORDS_TRIED {
                break;
            }
            let mut of_head = None;
            // They said just now that they have it: who does not give it is asked once more.
            for node in nodes.iter().chain(nodes) {
                let Some(record) = self.fetch_record(*node, head).await else { continue };
                match keys.open(&record) {
                    Ok((of, body)) if of == *head => {
                        of_head = Some((*head, body));
                        break;
                    }
                    _ => tracing::warn!(?head, %node, "a bootstrap record does not open"),
                }
            }
            if of_head.is_none() {
                tracing::error!(?head, "no node gives a bootstrap record that opens");
            }
            opened.extend(of_head);
        }
        Ok(opened)
    }

    /// Tails of a group, and who has them.
    async fn tails_of(&self, group: GroupId, nodes: &BTreeSet<NodeId>) -> Vec<(TailHead, NodeId)> {
        let nodes: Vec<NodeId> = nodes.iter().copied().collect();
        let mut tails = Vec::new();
        for some in nodes.chunks(limits::SURVEY_CALLS_AT_ONCE) {
            let lists = some.iter().copied().map(|node| self.list_tails(node, group));
            for (node, heads) in some.iter().zip(join_all(lists).await) {
                tails.extend(heads.into_iter().flatten().map(|head| (head, *node)));
            }
        }
        tails
    }

    pub(super) async fn list(&self, node: NodeId) -> (NodeId, Option<(Vec<RecordHead>, Topology)>) {
        let deadline = limits::BOOTSTRAP_CALL_DEADLINE;
        let answer = self.call(node, wire::LIST, &Request::List, Bytes::new(), deadline).await;
        let listed = match answer {
            Ok((Reply::Listed(heads), map)) => Topology::decode(&map).ok().map(|map| (heads, map)),
            _ => None,
        };
        (node, listed)
    }

    pub(super) async fn fetch_record(&self, node: NodeId, head: &RecordHead) -> Option<Bytes> {
        if node == self.core.node {
            return self.shelf.get(head).await.ok().flatten();
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
        let surveyed = GroupSurvey { group, state, voters, running, checkpoint: None, tail: None };
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
