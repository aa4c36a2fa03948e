//! The segment log against a model, with crashes, torn tails, purges and several groups.

use std::collections::BTreeMap;
use std::path::Path;

use nexusgrid_env::sim::World;
use nexusgrid_env::{Env, NodeId};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::{RaftLeaderId, RaftVote};
use proptest::prelude::*;

use super::floor::FloorFile;
use super::{Floor, GroupLog, LogOptions, SegmentLog};
use crate::raft::types::{CommittedLeaderId, Entry, Envelope, LogId, MetaTypes, Vote};

type LeaderId = openraft::type_config::alias::LeaderIdOf<MetaTypes>;

fn log_id(term: u64, index: u64) -> LogId {
    let leader: CommittedLeaderId = LeaderId::new(term, 0x1_0001).to_committed();
    LogId { leader_id: leader, index }
}

fn vote(term: u64) -> Vote {
    Vote::from_leader_id(LeaderId::new(term, 0x1_0001), true)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let body = vec![index as u8; bytes].into();
    Entry {
        log_id: log_id(term, index),
        payload: openraft::EntryPayload::Normal(Envelope { request_id: index.into(), body }),
    }
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes_max: 1_500,
        cache_bytes_max: 600,
        segments_soft_max: 2,
        ..LogOptions::default()
    }
}

/// What one group must hold.
#[derive(Clone, Debug, Default)]
struct Model {
    term: u64,
    vote: Option<Vote>,
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
}

impl Model {
    fn next(&self) -> u64 {
        let purged = self.purged.as_ref().map_or(0, |id| id.index + 1);
        self.entries.last_key_value().map_or(purged, |(index, _)| index + 1)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { group: u32, count: u64, bytes: usize, wait: bool },
    Overwrite { group: u32, back: u64 },
    Vote { group: u32 },
    Purge { group: u32, part: u64 },
    Restart { power: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let group = 1u32..4;
    prop_oneof![
        6 => (group.clone(), 1u64..6, 0usize..300, any::<bool>())
            .prop_map(|(group, count, bytes, wait)| Step::Append { group, count, bytes, wait }),
        2 => (group.clone(), 1u64..5).prop_map(|(group, back)| Step::Overwrite { group, back }),
        2 => group.clone().prop_map(|group| Step::Vote { group }),
        2 => (group, 1u64..4).prop_map(|(group, part)| Step::Purge { group, part }),
        2 => any::<bool>().prop_map(|power| Step::Restart { power }),
    ]
}

async fn append(log: &mut GroupLog, entries: Vec<Entry>, wait: bool) {
    let (sent, result) = <MetaTypes as TypeConfigExt>::oneshot();
    log.append(entries, IOFlushed::signal(sent)).await.unwrap();
    if wait {
        result.await.unwrap().unwrap();
    }
}

async fn open(world: &World) -> (Env, SegmentLog) {
    let env = world.start(NodeId(1));
    let (log, _) = SegmentLog::open(&env, Path::new("/log"), options()).await.unwrap();
    (env, log)
}

/// What is read back must be what was durable, or that and a part of what followed.
async fn compare(log: &SegmentLog, group: u32, model: &mut Model, durable: &Model, exact: bool) {
    let mut view = GroupLog::new(log.clone(), group, None);
    let state = view.get_log_state().await.unwrap();
    let entries = view.try_get_log_entries(..).await.unwrap();
    let found: BTreeMap<u64, Entry> =
        entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect();
    if exact {
        assert_eq!(found, model.entries);
        assert_eq!(state.last_purged_log_id, model.purged);
        assert_eq!(view.read_vote().await.unwrap(), model.vote);
    } else {
        let vote = view.read_vote().await.unwrap();
        assert!(vote == durable.vote || vote == model.vote);
        let known = |index: &u64, entry: &Entry| {
            durable.entries.get(index) == Some(entry) || model.entries.get(index) == Some(entry)
        };
        assert!(found.iter().all(|(index, entry)| known(index, entry)), "an entry nobody wrote");
        let purged = state.last_purged_log_id.as_ref().map_or(0, |id| id.index + 1);
        for (at, index) in found.keys().enumerate() {
            assert_eq!(*index, purged + at as u64, "a hole");
        }
        // Nothing durable is gone, unless it was meant to go.
        for (index, entry) in &durable.entries {
            let replaced = model.entries.get(index) != Some(entry);
            assert!(
                replaced || *index < purged || found.get(index) == Some(entry),
                "entry {index} was lost"
            );
        }
    }
    model.vote = view.read_vote().await.unwrap();
    model.purged = state.last_purged_log_id;
    model.entries = found;
}

async fn play(world: World, steps: Vec<Step>) {
    let (_, mut log) = open(&world).await;
    let mut models: BTreeMap<u32, Model> =
        (1..4).map(|group| (group, Model { term: 1, ..Model::default() })).collect();
    let mut durable = models.clone();
    for step in steps {
        match step {
            Step::Append { group, count, bytes, wait } => {
                let model = models.get_mut(&group).unwrap();
                let first = model.next();
                let entries: Vec<_> =
                    (first..first + count).map(|index| entry(model.term, index, bytes)).collect();
                model
                    .entries
                    .extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
                append(&mut GroupLog::new(log.clone(), group, None), entries, wait).await;
                if wait {
                    // One writer, one order: all earlier changes are durable too.
                    durable = models.clone();
                }
            }
            Step::Overwrite { group, back } => {
                let model = models.get_mut(&group).unwrap();
                let from = model
                    .next()
                    .saturating_sub(back)
                    .max(model.purged.as_ref().map_or(0, |id| id.index + 1));
                model.term += 1;
                model.entries.split_off(&from);
                let last = match from.checked_sub(1) {
                    Some(last) => {
                        model.entries.get(&last).map(|entry| entry.log_id).or(model.purged)
                    }
                    None => None,
                };
                let mut view = GroupLog::new(log.clone(), group, None);
                view.truncate_after(last).await.unwrap();
                let new = entry(model.term, from, 10);
                model.entries.insert(from, new.clone());
                append(&mut view, vec![new], false).await;
            }
            Step::Vote { group } => {
                let model = models.get_mut(&group).unwrap();
                model.term += 1;
                model.vote = Some(vote(model.term));
                GroupLog::new(log.clone(), group, None).save_vote(&vote(model.term)).await.unwrap();
                durable = models.clone();
            }
            Step::Purge { group, part } => {
                let model = models.get_mut(&group).unwrap();
                let count = model.entries.len() as u64 / part;
                let Some((_, upto)) = model.entries.iter().nth(count.saturating_sub(1) as usize)
                else {
                    continue;
                };
                let upto = upto.log_id;
                model.entries = model.entries.split_off(&(upto.index + 1));
                model.purged = Some(upto);
                GroupLog::new(log.clone(), group, None).purge(upto).await.unwrap();
            }
            Step::Restart { power } => {
                let exact = !power;
                if exact {
                    log.sync().await.unwrap();
                    world.kill(NodeId(1));
                } else {
                    world.crash(NodeId(1));
                }
                log = open(&world).await.1;
                for (group, model) in &mut models {
                    compare(&log, *group, model, &durable[group], exact).await;
                }
                durable = models.clone();
            }
        }
    }
    for (group, model) in &mut models {
        compare(&log, *group, model, &durable[group], true).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_log_equals_its_model(seed in any::<u64>(), steps in proptest::collection::vec(step(), 1..60)) {
        let world = World::new(seed);
        world.clone().run(play(world, steps));
    }
}

#[test]
fn segments_go_when_nothing_needs_them_even_beside_an_idle_group() {
    let world = World::new(1);
    world.clone().run(async move {
        let (_, log) = open(&world).await;
        let mut idle = GroupLog::new(log.clone(), 1, None);
        append(&mut idle, (0..2).map(|index| entry(1, index, 50)).collect(), true).await;
        let mut busy = GroupLog::new(log.clone(), 2, None);
        for index in 0..200 {
            append(&mut busy, vec![entry(1, index, 200)], true).await;
            if index % 10 == 9 {
                busy.purge(log_id(1, index - 3)).await.unwrap();
            }
        }
        log.sync().await.unwrap();
        assert!(log.segments() < 10, "{} segments", log.segments());
        world.crash(NodeId(1));
        let (_, log) = open(&world).await;
        let mut idle = GroupLog::new(log.clone(), 1, None);
        assert_eq!(idle.try_get_log_entries(..).await.unwrap(), [entry(1, 0, 50), entry(1, 1, 50)]);
        let mut busy = GroupLog::new(log, 2, None);
        assert_eq!(busy.try_get_log_entries(..).await.unwrap().len(), 3);
    });
}

#[test]
fn a_flipped_bit_behind_which_more_was_synced_is_damage() {
    let world = World::new(2);
    world.clone().run(async move {
        let (_, log) = open(&world).await;
        let mut view = GroupLog::new(log, 1, None);
        for index in 0..4 {
            append(&mut view, vec![entry(1, index, 50)], true).await;
        }
        world.kill(NodeId(1));
        let disk = world.disk(NodeId(1));
        let (path, _) = disk
            .files()
            .into_iter()
            .find(|(path, _)| path.to_string_lossy().ends_with(".log"))
            .unwrap();
        disk.flip_bit(&path, 8 * 200).unwrap();
        let env = world.start(NodeId(1));
        assert!(SegmentLog::open(&env, Path::new("/log"), options()).await.is_err());
    });
}

/// A process dies after a write whose sync failed, or was never reached. What its successor reads it
/// takes for durable, so it must be.
#[test]
fn what_a_restart_finds_survives_a_power_failure() {
    use nexusgrid_env::sim::{DiskFault, DiskOp, Effect};
    for seed in 0..40 {
        let world = World::new(seed);
        let inner = world.clone();
        world.run(async move {
            let (_, log) = open(&inner).await;
            let mut group = GroupLog::new(log, 1, None);
            append(&mut group, (0..3).map(|index| entry(1, index, 50)).collect(), true).await;
            let fault = DiskFault::new(&[DiskOp::Sync], Effect::Eio).on(".log").times(1);
            inner.disk(NodeId(1)).inject(fault);
            append(&mut group, (3..9).map(|index| entry(1, index, 50)).collect(), false).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            inner.kill(NodeId(1));
            let (_, log) = open(&inner).await;
            let found = GroupLog::new(log, 1, None).get_log_state().await.unwrap().last_log_id;
            inner.crash(NodeId(1));
            let (_, log) = open(&inner).await;
            let kept = GroupLog::new(log, 1, None).get_log_state().await.unwrap().last_log_id;
            assert!(found >= Some(log_id(1, 2)));
            assert_eq!(kept, found, "seed {seed}: a restarted replica forgot what it had read");
        });
    }
}

#[test]
fn a_hole_is_refused() {
    let world = World::new(3);
    world.clone().run(async move {
        let (_, log) = open(&world).await;
        let mut view = GroupLog::new(log, 1, None);
        assert!(view.append(vec![entry(1, 3, 1)], IOFlushed::noop()).await.is_err());
    });
}

#[test]
fn a_floor_survives_a_torn_write_and_refuses_what_is_below() {
    let world = World::new(4);
    world.clone().run(async move {
        let env = world.start(NodeId(1));
        env.disk.create_dir_all(Path::new("/floor")).unwrap();
        let (mut file, found) = FloorFile::load(env.disk.clone(), Path::new("/floor")).unwrap();
        assert_eq!(found, None);
        let floors: Vec<_> =
            (1..4).map(|n| Floor { vote: Some(vote(n)), last: Some(log_id(n, n)) }).collect();
        for floor in &floors {
            file.write(floor).unwrap();
        }
        let torn =
            env.disk.open(Path::new("/floor/floor.b"), nexusgrid_env::OpenMode::ReadWrite).unwrap();
        torn.write_at(&[0xff; 3], 5).unwrap();
        let (_, found) = FloorFile::load(env.disk.clone(), Path::new("/floor")).unwrap();
        assert_eq!(found.as_ref(), Some(&floors[1]));
        assert!(floors[2].reaches(&floors[1]));
        assert!(!floors[0].reaches(&floors[1]));
        assert!(!Floor { vote: Some(vote(9)), last: None }.reaches(&floors[1]));
        assert!(!Floor { vote: None, last: Some(log_id(9, 9)) }.reaches(&floors[1]));
    });
}
