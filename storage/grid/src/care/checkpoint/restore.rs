//! Founds groups anew that have lost their majority for good, from the newest checkpoint there is and
//! what the tails of their logs add.
//!
//! ```text
//!   survey:  every node's records and tails, the newest map of all, who still runs a replica
//!      └─▶ each group: serves · may serve again · lost (with a checkpoint or without)
//!   restore: nobody else restores (`claim`)
//!            [root alive: note it there, which freezes deletes]
//!            root first, so that whoever comes back hears which replicas are of the lost groups
//!            each group: shards ──▶ rows ──▶ tails ──▶ a group of one voter, this node; others join it
//! ```
//! Never beside a group that may decide: one that answers, or of which a majority of the voters runs,
//! is left alone. Nodes that nobody can reach are the administrator's word. A checkpoint that is lost is no
//! end: the one before it is tried, and tails lead on from there as well. One that cannot be read *now* is
//! waited for a little, and then the restore stops: what may come back is given up by the
//! administrator's word only.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use nexusgrid_codec::{ContentKey, GroupId};
use nexusgrid_env::NodeId;
use nexusgrid_meta::host::restore::{Beginning, Founding};
use nexusgrid_meta::namespace::types::Extent;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::{RaftId, Restore, RestoredGroup, RootCommand};
use nexusgrid_meta::{MetaError, namespace, root};

use super::Checkpoints;
use super::claim::Claimed;
use super::record::{RecordBody, RecordHead, TailHead, next_tail};
use super::survey::{GroupState, Survey};
use super::wire::{self, Claim, Reply, Request};
use crate::core::internal;
use crate::error::GridError;
use crate::limits;
use crate::meta_port::ROOT;
use crate::read::Near;

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The cluster's incarnation from now on.
    pub incarnation: u64,
    /// The groups that begin anew.
    pub groups: Vec<Found>,
}

/// A group that begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The checkpoint that it was read from.
    pub checkpoint: RecordHead,
    /// The newest entry of the lost group that it holds: tails add to the checkpoint.
    pub index: u64,
    /// The newest that was known of: what lies between is lost.
    pub known: u64,
}

/// What is known of a lost group.
struct Lost<'a> {
    records: &'a [(RecordHead, RecordBody)],
    tails: Vec<(TailHead, NodeId)>,
    beginning: Beginning,
    /// The newest entry that its records and tails lead to.
    known: u64,
}

/// How far tails led.
struct Followed {
    index: u64,
    /// More of them lead on, and cannot be had now.
    missed: bool,
}

/// A failure of reading that may pass.
fn is_passing(error: &GridError) -> bool {
    use GridError::{Conflict, SlowDown, Unavailable, Unreadable};
    matches!(error, Unreadable(_) | Unavailable(_) | SlowDown | Conflict)
}

/// A stream that is no checkpoint, or a tail that does not fit, will not be one later.
fn spoilt(error: MetaError) -> GridError {
    match error {
        MetaError::Refused(why) => GridError::DataLost(why),
        other => failed(other),
    }
}

fn failed(error: MetaError) -> GridError {
    GridError::Unavailable(error.to_string())
}

/// Where a group begins anew that is known up to `index` and `generation`: one gap farther for each
/// restore since the checkpoint. What clients were given after the one before is not given again,
/// though it began from the same record (I5, I15).
fn beginning(
    checkpoint: &RecordHead,
    index: u64,
    generation: u16,
    incarnation: u64,
) -> Option<Beginning> {
    let since = incarnation.saturating_sub(checkpoint.incarnation).max(1);
    let gap = limits::RESTORE_GENERATION_GAP.checked_mul(u16::try_from(since).ok()?)?;
    let index = index.checked_add(limits::RESTORE_INDEX_GAP.checked_mul(since)?)?;
    Some(Beginning { index, generation: generation.checked_add(gap)? })
}

impl Checkpoints {
    /// Restores the lost groups of a survey. With `accept_older` also what cannot be read at the moment is
    /// given up: an older checkpoint, or fewer tails, will do.
    pub async fn restore(&self, survey: Survey, accept_older: bool) -> Result<Restored, GridError> {
        let invalid = |why: &str| Err(GridError::InvalidArgument(why.to_owned()));
        let Ok(_alone) = self.restoring.try_lock() else {
            return invalid("a restore runs on this node already: wait for its end");
        };
        let lost: Vec<GroupId> = survey.lost().map(|group| group.group).collect();
        if lost.is_empty() {
            return invalid("no group is lost");
        }
        let may_serve = |state| state == GroupState::MayServe;
        if let Some(busy) = survey.groups.iter().find(|group| may_serve(group.state)) {
            let group = busy.group.0;
            return invalid(&format!(
                "a majority of group {group} runs: wait until it serves, or stop those nodes for good"
            ));
        }
        let own = survey.newest.node(self.core.node);
        if !own.is_some_and(|own| own.roles.meta && own.roles.gateway) {
            return invalid("only a node with the roles meta and gateway can restore");
        }
        // Reads below go by it; the restored root group's is newer.
        self.core.map.offer(&survey.newest);
        let is_root_lost = lost.contains(&ROOT);
        let incarnation = match is_root_lost {
            true => {
                let known = survey.incarnation.max(survey.newest.incarnation);
                known.max(self.core.deletions.incarnation()) + 1
            }
            false => self.core.map.refresh().await?.incarnation + 1,
        };
        let claim = Claim { incarnation, root: is_root_lost, held: true };
        let claim = self.contend(&survey.newest, claim).await?;
        let work = self.found_all(&survey, &lost, claim, accept_older);
        let mut work = std::pin::pin!(work);
        let restored = loop {
            tokio::select! {
                biased;
                restored = &mut work => break restored,
                () = self.core.env.clock.sleep(limits::RESTORE_CLAIM / 4) => {
                    // Whether it still holds is asked before each group begins.
                    self.say(&survey.newest, claim).await;
                }
            }
        };
        if restored.is_err() {
            self.say(&survey.newest, Claim { held: false, ..claim }).await;
        }
        restored
    }

    /// Has all nodes that answer agree that this one restores; gives the claim that they agreed to.
    async fn contend(&self, map: &Topology, mut claim: Claim) -> Result<Claim, GridError> {
        let until = self.core.env.clock.now().plus(limits::RESTORE_CLAIM_PATIENCE);
        loop {
            let is_over = self.core.env.clock.now() >= until;
            let why = match self.say(map, claim).await {
                Claimed::Agreed => return Ok(claim),
                Claimed::Past(known) if claim.root && !is_over => {
                    claim.incarnation = known + 1;
                    continue;
                }
                Claimed::Past(known) => {
                    format!("incarnation {known} was begun meanwhile: look again what is lost")
                }
                // It hears of this one's claim as well, and gives way to the lower node.
                Claimed::By(other) if other > self.core.node && !is_over => {
                    self.core.env.clock.sleep(limits::RESTORE_CLAIM_PATIENCE / 10).await;
                    continue;
                }
                Claimed::By(other) => format!(
                    "node {other} restores at this moment, or stopped in its midst within the last {} s: let \
                     it, or try again then",
                    limits::RESTORE_CLAIM.as_secs()
                ),
            };
            self.say(map, Claim { held: false, ..claim }).await;
            return Err(GridError::InvalidArgument(why));
        }
    }

    /// Says to this node and all others what it is about to do; gives the answer that counts: the
    /// lowest node that has claimed the same, the highest incarnation.
    async fn say(&self, map: &Topology, claim: Claim) -> Claimed {
        let own = self.hear_claim(self.core.node, claim);
        if own != Claimed::Agreed {
            return own;
        }
        let others: Vec<NodeId> = map
            .nodes
            .keys()
            .filter(|node| **node != self.core.node && map.node(**node).is_some())
            .copied()
            .collect();
        let others = others.into_iter().map(|node| async move {
            let deadline = limits::RESTORE_CLAIM_PATIENCE;
            self.call(node, wire::CLAIM, &Request::Claim(claim), Bytes::new(), deadline).await
        });
        let (mut by, mut past) = (None, None);
        for answer in join_all(others).await {
            match answer {
                Ok((Reply::Claimed(other), _)) => {
                    by = Some(by.map_or(other, |by: NodeId| by.min(other)));
                }
                Ok((Reply::Past(known), _)) => past = past.max(Some(known)),
                _ => {}
            }
        }
        match (by, past) {
            (Some(other), _) => Claimed::By(other),
            (None, Some(known)) => Claimed::Past(known),
            (None, None) => Claimed::Agreed,
        }
    }

    async fn found_all(
        &self,
        survey: &Survey,
        lost: &[GroupId],
        claim: Claim,
        accept_older: bool,
    ) -> Result<Restored, GridError> {
        let incarnation = claim.incarnation;
        let mut restored = Vec::new();
        let mut known: BTreeMap<GroupId, Lost<'_>> = BTreeMap::new();
        for group in lost {
            let records = survey.records.get(group).map_or(&[][..], Vec::as_slice);
            let Some((head, _)) = records.first() else {
                return Err(GridError::InvalidArgument(format!(
                    "there is no checkpoint of group {}: no reachable node keeps its record",
                    group.0
                )));
            };
            let tails = survey.tails.get(group).cloned().unwrap_or_default();
            let seen = survey.generations.get(group).copied().unwrap_or(0);
            let recorded = records.iter().map(|(_, body)| body.generation).max();
            let generation = seen.max(recorded.unwrap_or(0));
            let ends = tails.iter().map(|(tail, _)| tail.end.index).max().unwrap_or(0);
            let index = head.index.max(survey.newest.version).max(ends);
            // Gaps count from the oldest record that may be used.
            let oldest = records.last().map_or(head, |(oldest, _)| oldest);
            let beginning = beginning(oldest, index, generation, incarnation);
            let beginning = beginning.ok_or_else(|| internal("indices are used up"))?;
            let reach = survey.groups.iter().find(|of| of.group == *group);
            let reach =
                reach.and_then(|group| group.tail).map_or(head.index, |tail| tail.end.index);
            restored.push(RestoredGroup {
                group: *group,
                generation: beginning.generation,
                index: reach,
                checkpoint_ms: head.taken_ms,
            });
            let reach = reach.max(head.index);
            known.insert(*group, Lost { records, tails, beginning, known: reach });
        }
        let at_ms = self.core.meta.now_ms();
        let restore = Restore { incarnation, at_ms, groups: restored };
        if !lost.contains(&ROOT) {
            // From here on nothing is deleted, and replicas of the lost groups are known as such.
            self.core.meta.root_command(&RootCommand::RecordRestore(restore.clone())).await?;
        }
        let mut done = Vec::new();
        // The root group is the first; from then on it says what was begun.
        let mut claim = claim;
        for (group, lost) in known {
            let found = self.found(lost, &survey.newest, &restore, claim, accept_older).await?;
            tracing::warn!(
                group = group.0,
                checkpoint = found.checkpoint.index,
                index = found.index,
                known = found.known,
                incarnation,
                "a lost group was restored"
            );
            claim.root = false;
            done.push(found);
        }
        Ok(Restored { incarnation, groups: done })
    }

    /// One group, from its shards to its first leader.
    async fn found(
        &self,
        lost: Lost<'_>,
        newest: &Arc<Topology>,
        restore: &Restore,
        claim: Claim,
        accept_older: bool,
    ) -> Result<Found, GridError> {
        let Lost { records, mut tails, beginning, known } = lost;
        let mut loaded = None;
        let mut why = internal("a record");
        for (head, body) in records {
            match self.load(head, body).await {
                Ok(founding) => {
                    loaded = Some((*head, founding));
                    break;
                }
                Err(error) if accept_older || matches!(error, GridError::DataLost(_)) => {
                    tracing::error!(?head, %error, "a checkpoint cannot be read: the one before is tried");
                    why = error;
                }
                Err(error) => {
                    let (group, index) = (head.group.0, head.index);
                    return Err(GridError::Unavailable(format!(
                        "the newest checkpoint of group {group}, at entry {index}, cannot be read now ({error}): \
                         start more of the nodes and try again, or accept an older one"
                    )));
                }
            }
        }
        let Some((head, mut founding)) = loaded else { return Err(why) };
        let is_older = records.first().is_some_and(|(newest, _)| *newest != head);
        let Followed { index, missed } =
            self.follow_tails(&mut founding, &head, &mut tails).await?;
        if index < known {
            let group = head.group.0;
            if !accept_older && (missed || !is_older) {
                return Err(GridError::Unavailable(format!(
                    "entries {} to {known} of group {group} are in tails that cannot be read now: start more \
                     of the nodes and try again, or accept an older state",
                    index + 1
                )));
            }
            tracing::error!(group, index, known, "what is between is lost");
        }
        let founder = RaftId::new(self.core.node, u32::from(beginning.generation) + 1);
        let (newest, restore) = (Arc::clone(newest), restore.clone());
        match self.say(&newest, claim).await {
            Claimed::Agreed => {}
            Claimed::By(other) => {
                let why = format!("node {other} restores as well: this one stops");
                return Err(GridError::InvalidArgument(why));
            }
            Claimed::Past(known) => {
                let why = format!("incarnation {known} was begun elsewhere: this restore stops");
                return Err(GridError::InvalidArgument(why));
            }
        }
        let adapt = move |state: &dyn nexusgrid_env::KvRead,
                          head: &nexusgrid_meta::export::ExportHead| {
            let begins = beginning.index;
            if head.group == ROOT {
                root::restore::restored(state, begins, &newest, founder, &restore)
            } else {
                namespace::restore::restored(state, head.index, begins, restore.at_ms)
            }
        };
        founding.finish(beginning, adapt).await.map_err(failed)?;
        Ok(Found { checkpoint: head, index, known })
    }

    /// Reads a checkpoint into a group's state.
    async fn load(&self, head: &RecordHead, body: &RecordBody) -> Result<Founding, GridError> {
        let key = self.core.keys.record_keys()?.unwrap(&body.wrapped_key, head.group, head.index);
        let key = key.map_err(|error| GridError::DataLost(error.to_string()))?;
        let mut founding = self.host.begin_found(head.group).await.map_err(failed)?;
        for extent in &body.extents {
            let len = u32::try_from(extent.len).map_err(internal)?;
            let range = extent.skip..extent.skip.saturating_add(len);
            for piece in self.read_patiently(extent, &key, range).await? {
                founding.take(&piece).await.map_err(spoilt)?;
            }
        }
        founding.reached().map_err(spoilt)?;
        Ok(founding)
    }

    /// Bytes of a checkpoint. Drives may still be starting, or busy: asked a few times.
    async fn read_patiently(
        &self,
        extent: &Extent,
        key: &ContentKey,
        range: Range<u32>,
    ) -> Result<Vec<Bytes>, GridError> {
        let mut tries = 1;
        loop {
            match self.core.read_region(extent, key, range.clone(), Near::Not).await {
                Err(error) if is_passing(&error) && tries < limits::RESTORE_TRIES => {
                    tracing::warn!(%error, tries, "reading a checkpoint");
                    tries += 1;
                    self.core.env.clock.sleep(limits::RESTORE_TRY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Applies what tails add to a checkpoint; says how far that leads. A tail that does not fit is passed
    /// over: another node may have it. A node that does not give one is asked again when the others lead
    /// no farther, a few times.
    async fn follow_tails(
        &self,
        founding: &mut Founding,
        head: &RecordHead,
        tails: &mut Vec<(TailHead, NodeId)>,
    ) -> Result<Followed, GridError> {
        let keys = self.core.keys.record_keys()?;
        let mut later = Vec::new();
        let mut tries = 1;
        loop {
            let index = founding.reached().map_err(failed)?.index;
            let next = |tails: &[(TailHead, NodeId)]| {
                next_tail(tails.iter().map(|(tail, _)| *tail), head.incarnation, index)
            };
            let at = next(tails).and_then(|next| tails.iter().position(|(tail, _)| *tail == next));
            let Some(at) = at else {
                let missed = next(&later).is_some();
                if !missed || tries >= limits::RESTORE_TRIES {
                    return Ok(Followed { index, missed });
                }
                tries += 1;
                self.core.env.clock.sleep(limits::RESTORE_TRY_PAUSE).await;
                tails.append(&mut later);
                continue;
            };
            let (tail, node) = tails.swap_remove(at);
            let sealed = match self.fetch_tail(node, &tail).await {
                Ok(Some(sealed)) => sealed,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(?tail, %node, %error, "a tail of a log cannot be had now");
                    // A node that is away would be waited for with each of its tails.
                    later.push((tail, node));
                    later.extend(tails.extract_if(.., |(_, of)| *of == node));
                    continue;
                }
            };
            let followed = match keys.open_tail(&sealed) {
                Ok((of, entries)) if of == tail => founding.follow(entries).await.map_err(spoilt),
                Ok(_) => Err(GridError::DataLost("another tail".to_owned())),
                Err(error) => Err(GridError::DataLost(error.to_string())),
            };
            match followed {
                Ok(_) => {}
                Err(error @ GridError::DataLost(_)) => {
                    tracing::warn!(?tail, %node, %error, "a tail of a log does not fit");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A tail that a node has; `None` if it has it no more, an error if it cannot be had now.
    async fn fetch_tail(&self, node: NodeId, head: &TailHead) -> Result<Option<Bytes>, GridError> {
        let unavailable = |why: String| Err(GridError::Unavailable(why));
        if node == self.core.node {
            let own = self.shelf.tails.get(head).await;
            return own.or_else(|error| unavailable(error.to_string()));
        }
        let deadline = limits::BOOTSTRAP_CALL_DEADLINE;
        let request = Request::GetTail(*head);
        match self.call(node, wire::TAIL_GET, &request, Bytes::new(), deadline).await? {
            (Reply::Got, tail) => Ok(Some(tail)),
            (Reply::None, _) => Ok(None),
            (Reply::Failed(why), _) => unavailable(why),
            _ => unavailable("another answer".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_restore_from_one_record_begins_behind_all_that_the_first_may_have_given() {
        let head = RecordHead { group: GroupId(1), incarnation: 3, index: 300, taken_ms: 5 };
        // Nobody is left who saw the one before.
        let begin = |incarnation| beginning(&head, 310, 2, incarnation).unwrap();
        for incarnation in 4..20 {
            let (first, second) = (begin(incarnation), begin(incarnation + 1));
            assert_eq!(second.index - first.index, limits::RESTORE_INDEX_GAP);
            assert_eq!(second.generation - first.generation, limits::RESTORE_GENERATION_GAP);
        }
        assert_eq!(begin(4).index, 310 + limits::RESTORE_INDEX_GAP);
        // And what was seen counts besides.
        let first = begin(4);
        let next = beginning(&head, first.index + 7, first.generation + 3, 5).unwrap();
        assert!(next.index > begin(5).index && next.generation > begin(5).generation);
        assert_eq!(beginning(&head, 310, u16::MAX - 63, 4), None, "used up");
        assert_eq!(beginning(&head, 310, 2, 3 + (1 << 32)), None);
    }
}
