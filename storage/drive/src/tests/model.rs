//! The store against a reference model, crashes and faults being ordinary operations (T1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{BlockId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::sim::{DiskFault, DiskOp, Effect};
use proptest::prelude::*;

use super::rot::{rot_body, scrub_all};
use super::support::*;
use crate::index::Sessions;
use crate::types::{FillSessionId, SessionFloor, ShardKey, WriteClass};
use crate::{DriveError, DriveStore, OpenError, Rot, ScrubCursor, ScrubOptions};

const TRASH_AGE: Duration = Duration::from_secs(1000);

#[derive(Clone, Debug)]
enum Op {
    Put {
        session: u64,
        counter: u32,
        index: u8,
        variant: u8,
        pg: u32,
        epoch: u64,
        fill: Option<u64>,
    },
    Fence {
        pg: u32,
        epoch: u64,
    },
    Tombstone {
        session: u64,
        counter: u32,
    },
    /// All counters of a session in one call.
    TombstoneMany {
        session: u64,
    },
    DropClosed {
        floor: u64,
    },
    Purge {
        session: u64,
        counter: u32,
        index: u8,
    },
    Scrub {
        budget: u64,
    },
    DropTombstone {
        session: u64,
        counter: u32,
        floor: u64,
    },
    CloseSession {
        session: u64,
    },
    RaiseFloor {
        floor: u64,
    },
    CloseFill {
        pg: u32,
        session: u64,
    },
    RaiseFillFloor {
        pg: u32,
        floor: u64,
    },
    Trash {
        session: u64,
        counter: u32,
        index: u8,
    },
    Restore {
        session: u64,
        counter: u32,
        index: u8,
    },
    Reconcile {
        pg: u32,
        epoch: u64,
        listed: u8,
    },
    Maintain,
    PurgeAll,
}

#[derive(Clone, Debug)]
enum Step {
    Do(Op),
    /// Power fails in the middle of the n-th change that the operation makes.
    PowerFails(Op, u64),
    SyncFails(Op),
    WriteFails(Op),
    DiskFull(Op),
    Reopen,
    Kill,
    Crash,
    LoseIndex,
    ReadError,
    /// The n-th shard rots, and a scrub finds it.
    Rot(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let id = (1..5u64, 0..4u32);
    prop_oneof![
        12 => (id.clone(), 0..3u8, 0..12u8, 1..3u32, 1..6u64, prop::option::of(1..4u64)).prop_map(
            |((session, counter), index, variant, pg, epoch, fill)| Op::Put {
                session, counter, index, variant: variant / 11, pg, epoch, fill
            }
        ),
        2 => (1..3u32, 1..6u64).prop_map(|(pg, epoch)| Op::Fence { pg, epoch }),
        3 => id.clone().prop_map(|(session, counter)| Op::Tombstone { session, counter }),
        2 => (id.clone(), 0..5u64).prop_map(|((session, counter), floor)| {
            Op::DropTombstone { session, counter, floor }
        }),
        1 => (1..5u64).prop_map(|session| Op::TombstoneMany { session }),
        1 => (0..5u64).prop_map(|floor| Op::DropClosed { floor }),
        1 => (id.clone(), 0..3u8).prop_map(|((session, counter), index)| {
            Op::Purge { session, counter, index }
        }),
        1 => (1..200_000u64).prop_map(|budget| Op::Scrub { budget }),
        1 => (1..5u64).prop_map(|session| Op::CloseSession { session }),
        1 => (0..3u64).prop_map(|floor| Op::RaiseFloor { floor }),
        1 => (1..3u32, 1..4u64).prop_map(|(pg, session)| Op::CloseFill { pg, session }),
        1 => (1..3u32, 0..3u64).prop_map(|(pg, floor)| Op::RaiseFillFloor { pg, floor }),
        2 => (id.clone(), 0..3u8).prop_map(|((session, counter), index)| {
            Op::Trash { session, counter, index }
        }),
        1 => (id, 0..3u8).prop_map(|((session, counter), index)| {
            Op::Restore { session, counter, index }
        }),
        1 => (1..3u32, 1..6u64, any::<u8>()).prop_map(|(pg, epoch, listed)| {
            Op::Reconcile { pg, epoch, listed }
        }),
        3 => Just(Op::Maintain),
        1 => Just(Op::PurgeAll),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => op().prop_map(Step::Do),
        3 => (op(), 0..12u64).prop_map(|(op, after)| Step::PowerFails(op, after)),
        1 => op().prop_map(Step::SyncFails),
        1 => op().prop_map(Step::WriteFails),
        1 => op().prop_map(Step::DiskFull),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => Just(Step::Crash),
        1 => Just(Step::LoseIndex),
        1 => Just(Step::ReadError),
        2 => any::<u8>().prop_map(Step::Rot),
    ]
}

/// Sizes around the page, the frame and the punching limit; some blocks take several pages.
fn body_bytes(block: BlockId) -> usize {
    [16, 100, 3900, 4096, 20_000, 66_000, 70_000, 131_000]
        [(block.session.0 as usize * 3 + block.counter as usize) % 8]
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    variant: u8,
    pg: u32,
    epoch: u64,
    trashed: bool,
    rotten: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Closed {
    floor: u64,
    closed: BTreeSet<u64>,
}

impl Closed {
    fn is_closed(&self, session: u64) -> bool {
        session < self.floor || self.closed.contains(&session)
    }

    fn close(&mut self, session: u64) {
        if session >= self.floor {
            self.closed.insert(session);
        }
    }

    fn raise(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        let floor = self.floor;
        self.closed.retain(|session| *session >= floor);
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    shards: BTreeMap<ShardKey, Held>,
    epochs: BTreeMap<u32, u64>,
    tombstones: BTreeSet<BlockId>,
    writers: Closed,
    fills: BTreeMap<u32, Closed>,
    /// Some record rotted: a recovery may meet it, though nobody needs it.
    rotted: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    Stale,
    Tombstoned,
    SessionClosed,
    FillClosed,
    SessionOpen,
    Conflict,
}

impl Model {
    fn epoch(&self, pg: u32) -> u64 {
        self.epochs.get(&pg).copied().unwrap_or(0)
    }

    fn adopt(&mut self, pg: u32, epoch: u64) {
        if epoch > self.epoch(pg) {
            self.epochs.insert(pg, epoch);
        }
    }

    fn fills(&mut self, pg: u32) -> &mut Closed {
        self.fills.entry(pg).or_default()
    }

    /// What the operation must answer, and the states a power failure in it may leave behind: the
    /// last is the one after success.
    fn apply(&self, op: &Op) -> (Outcome, Vec<Model>) {
        let mut next = self.clone();
        let refused = |outcome| (outcome, vec![self.clone()]);
        match op.clone() {
            Op::Put { session, counter, index, variant, pg, epoch, fill } => {
                let block = block(session, counter);
                let key = key(block, index);
                if self.tombstones.contains(&block) {
                    return refused(Outcome::Tombstoned);
                }
                if epoch < self.epoch(pg) {
                    return refused(Outcome::Stale);
                }
                match fill {
                    Some(fill) if next.fills(pg).is_closed(fill) => {
                        return refused(Outcome::FillClosed);
                    }
                    None if self.writers.is_closed(session) => {
                        return refused(Outcome::SessionClosed);
                    }
                    _ => {}
                }
                if self.shards.get(&key).is_some_and(|held| held.variant != variant) {
                    return refused(Outcome::Conflict);
                }
                next.adopt(pg, epoch);
                let fenced = next.clone();
                let held = next.shards.entry(key).or_default();
                let newer = held.epoch == 0 || held.pg != pg || epoch > held.epoch;
                let stamp = if newer { epoch } else { held.epoch };
                // Rotten bytes give way; the new ones may be the part that power loss tears.
                let mut without = fenced.clone();
                if held.rotten {
                    without.shards.remove(&key);
                }
                *held = Held { variant, pg, epoch: stamp, trashed: false, rotten: false };
                (Outcome::Ok, vec![self.clone(), fenced, without, next])
            }
            Op::Fence { pg, epoch } => {
                if epoch < self.epoch(pg) {
                    return refused(Outcome::Stale);
                }
                next.adopt(pg, epoch);
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::Tombstone { session, counter } => {
                let block = block(session, counter);
                next.tombstones.insert(block);
                next.shards.retain(|key, _| key.block != block);
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::TombstoneMany { session } => {
                for counter in 0..4 {
                    let block = block(session, counter);
                    next.tombstones.insert(block);
                    next.shards.retain(|key, _| key.block != block);
                }
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::DropClosed { floor } => {
                next.writers.raise(floor);
                let raised = next.clone();
                next.tombstones.retain(|block| !raised.writers.is_closed(block.session.0));
                (Outcome::Ok, vec![self.clone(), raised, next])
            }
            Op::Purge { session, counter, index } => {
                let key = key(block(session, counter), index);
                if next.shards.get(&key).is_some_and(|held| held.trashed) {
                    next.shards.remove(&key);
                }
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::Scrub { .. } => {
                // What rots in the trash is dropped, what was restored from there goes back.
                next.shards.retain(|_, held| !(held.trashed && held.rotten));
                for held in next.shards.values_mut().filter(|held| held.rotten) {
                    held.trashed = true;
                }
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::DropTombstone { session, counter, floor } => {
                if session >= floor && !self.writers.is_closed(session) {
                    return refused(Outcome::SessionOpen);
                }
                next.writers.raise(floor);
                next.tombstones.remove(&block(session, counter));
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::CloseSession { session } => {
                next.writers.close(session);
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::RaiseFloor { floor } => {
                next.writers.raise(floor);
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::CloseFill { pg, session } => {
                next.fills(pg).close(session);
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::RaiseFillFloor { pg, floor } => {
                next.fills(pg).raise(floor);
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::Trash { session, counter, index } => {
                if let Some(held) = next.shards.get_mut(&key(block(session, counter), index)) {
                    held.trashed = true;
                }
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::Restore { session, counter, index } => {
                if let Some(held) = next.shards.get_mut(&key(block(session, counter), index)) {
                    held.trashed = false;
                }
                (Outcome::Ok, vec![self.clone(), next])
            }
            Op::Reconcile { pg, epoch, listed } => {
                if epoch < self.epoch(pg) {
                    return refused(Outcome::Stale);
                }
                next.adopt(pg, epoch);
                let fenced = next.clone();
                let listed = listed_blocks(listed);
                for (key, held) in &mut next.shards {
                    if held.pg == pg && held.epoch < epoch && !listed.contains(&key.block) {
                        held.trashed = true;
                    }
                }
                (Outcome::Ok, vec![self.clone(), fenced, next])
            }
            Op::Maintain => (Outcome::Ok, vec![self.clone()]),
            Op::PurgeAll => {
                next.shards.retain(|_, held| !held.trashed);
                (Outcome::Ok, vec![self.clone(), next])
            }
        }
    }

    fn dump(&self) -> Dump {
        let mut dump = Dump::default();
        for (key, held) in &self.shards {
            let write = shard(key.block, key.index, held.variant, body_bytes(key.block));
            let digest = write.header.digest().unwrap().0;
            dump.shards.insert(*key, (held.pg, held.epoch, held.trashed, digest));
        }
        dump.epochs = self.epochs.clone();
        dump.tombstones = self.tombstones.iter().copied().collect();
        let mut add = |sessions: Sessions, closed: &Closed| {
            if closed.floor > 0 {
                dump.sessions.insert(sessions.floor_key(), Some(closed.floor));
            }
            for session in &closed.closed {
                dump.sessions.insert(sessions.closed_key(*session), None);
            }
        };
        add(Sessions::Writers(GroupId(3)), &self.writers);
        for (pg, closed) in &self.fills {
            add(Sessions::Fills(PgId(*pg)), closed);
        }
        dump
    }
}

fn listed_blocks(mask: u8) -> BTreeSet<BlockId> {
    (1..5)
        .flat_map(|session| (0..4).map(move |counter| block(session, counter)))
        .filter(|block| mask >> ((block.session.0 as u32 + block.counter) % 8) & 1 == 1)
        .collect()
}

async fn run(bench: &Bench, store: &DriveStore, op: &Op) -> Result<(), DriveError> {
    match op.clone() {
        Op::Put { session, counter, index, variant, pg, epoch, fill: session_of_fill } => {
            let block = block(session, counter);
            let mut write = at(shard(block, index, variant, body_bytes(block)), pg, epoch);
            if let Some(session) = session_of_fill {
                write = fill(write, session);
                write.class = WriteClass::Backfill;
            }
            store.put(write).await.map(drop)
        }
        Op::Fence { pg, epoch } => store.fence(PgId(pg), Epoch(epoch)).await.map(drop),
        Op::Tombstone { session, counter } => {
            store.tombstone(PgId(1), &[block(session, counter)]).await.map(drop)
        }
        Op::TombstoneMany { session } => {
            let blocks: Vec<_> = (0..4).map(|counter| block(session, counter)).collect();
            store.tombstone(PgId(1), &blocks).await.map(drop)
        }
        Op::DropClosed { floor } => {
            let floor = SessionFloor { group: GroupId(3), floor: SessionId(floor) };
            store.drop_closed_tombstones(PgId(1), &[floor]).await.map(drop)
        }
        Op::Purge { session, counter, index } => {
            store.purge(&[key(block(session, counter), index)]).await.map(drop)
        }
        Op::Scrub { budget } => {
            let mut cursor = Some(ScrubCursor::default());
            while let Some(from) = cursor {
                let step = store.scrub(from, budget, ScrubOptions::default()).await?;
                for finding in &step.findings {
                    assert!(matches!(finding.rot, Rot::Shard { .. }), "{finding:?}");
                }
                if step.findings.iter().any(|finding| !finding.healed) {
                    return Err(DriveError::NoSpace { available_bytes: 0 });
                }
                cursor = step.next;
            }
            Ok(())
        }
        Op::DropTombstone { session, counter, floor } => {
            let floor = SessionFloor { group: GroupId(3), floor: SessionId(floor) };
            store.drop_tombstones(&[block(session, counter)], &[floor]).await.map(drop)
        }
        Op::CloseSession { session } => store.close_session(GroupId(3), SessionId(session)).await,
        Op::RaiseFloor { floor } => {
            let floor = SessionFloor { group: GroupId(3), floor: SessionId(floor) };
            store.raise_session_floor(floor).await
        }
        Op::CloseFill { pg, session } => {
            store.close_fill_session(PgId(pg), FillSessionId(session)).await
        }
        Op::RaiseFillFloor { pg, floor } => {
            store.raise_fill_floor(PgId(pg), FillSessionId(floor)).await
        }
        Op::Trash { session, counter, index } => {
            store.trash(&[key(block(session, counter), index)]).await.map(drop)
        }
        Op::Restore { session, counter, index } => {
            store.restore(&[key(block(session, counter), index)]).await.map(drop)
        }
        Op::Reconcile { pg, epoch, listed } => {
            let listed = Arc::new(listed_blocks(listed));
            store.reconcile(PgId(pg), Epoch(epoch), listed).await.map(drop)
        }
        Op::Maintain => store.maintain().await.map(drop),
        Op::PurgeAll => {
            bench.env().clock.sleep(TRASH_AGE * 2).await;
            store.maintain().await.map(drop)
        }
    }
}

fn outcome(result: &Result<(), DriveError>) -> Option<Outcome> {
    Some(match result {
        Ok(()) => Outcome::Ok,
        Err(DriveError::StaleEpoch { .. }) => Outcome::Stale,
        Err(DriveError::Tombstoned(_)) => Outcome::Tombstoned,
        Err(DriveError::SessionClosed { .. }) => Outcome::SessionClosed,
        Err(DriveError::FillSessionClosed { .. }) => Outcome::FillClosed,
        Err(DriveError::SessionOpen(_)) => Outcome::SessionOpen,
        Err(DriveError::DigestConflict(_)) => Outcome::Conflict,
        Err(_) => return None,
    })
}

/// The store after a restart must be one of the states that the operation may have left.
async fn settle(bench: &Bench, store: &DriveStore, candidates: &[Model], op: &Op) -> Model {
    let rotten = candidates.iter().any(|model| model.rotted);
    let damage = &store.open_report().damage;
    assert!(rotten || damage.is_empty(), "a crash damages nothing: {damage:?}");
    let found = dump(store);
    let model = candidates.iter().rev().find(|model| model.dump() == found);
    let model = model.unwrap_or_else(|| {
        panic!("after {op:?}:\nfound {found:#?}\nexpected one of {:#?}", candidates)
    });
    if matches!(op, Op::PurgeAll) {
        // Time has passed for the trash whether or not it was purged: make that certain.
        run(bench, store, op).await.unwrap();
        return model.apply(op).1.pop().unwrap();
    }
    model.clone()
}

async fn check_all(store: &DriveStore, model: &Model) {
    assert_eq!(dump(store), model.dump());
    check_consistent(store);
    for (key, held) in &model.shards {
        assert_eq!(is_good(store, *key).await, !held.rotten, "{key} verifies");
        let read = body_of(store, *key).await;
        if held.trashed {
            assert_eq!(read, Err(DriveError::NotFound(*key)));
        } else if !held.rotten {
            let write = shard(key.block, key.index, held.variant, body_bytes(key.block));
            assert_eq!(read.unwrap(), write.body);
        }
    }
}

fn seg_fault(op: DiskOp, effect: Effect) -> DiskFault {
    DiskFault::new(&[op], effect).on(".seg").times(1)
}

async fn play(mut bench: Bench, steps: Vec<Step>) {
    bench.options.trash_age = TRASH_AGE;
    bench.options.compact_dead_percent = 20;
    bench.options.punch_min_bytes = 64 * 1024;
    let mut model = Model::default();
    let mut store = bench.format().await;
    for step in steps {
        match step {
            Step::Do(op) => {
                let (expected, mut states) = model.apply(&op);
                let result = run(&bench, &store, &op).await;
                assert_eq!(outcome(&result), Some(expected), "{op:?} answered {result:?}");
                model = states.pop().unwrap();
            }
            Step::PowerFails(op, after) => {
                let (expected, states) = model.apply(&op);
                bench.disk().power_off_after(after);
                let result = run(&bench, &store, &op).await;
                let answered = outcome(&result);
                store = bench.crash(store).await;
                model = match answered {
                    // Acknowledged means durable; a refusal changes nothing.
                    Some(answered) => {
                        assert_eq!(answered, expected, "{op:?} answered {result:?}");
                        let last = states.last().unwrap().clone();
                        settle(&bench, &store, &[last], &op).await
                    }
                    None => settle(&bench, &store, &states, &op).await,
                };
            }
            Step::SyncFails(ref op) | Step::WriteFails(ref op) => {
                let (expected, states) = model.apply(op);
                bench.disk().inject(match step {
                    Step::SyncFails(_) => seg_fault(DiskOp::Sync, Effect::Eio),
                    _ => seg_fault(DiskOp::Write, Effect::Eio),
                });
                let result = run(&bench, &store, op).await;
                bench.disk().clear_faults();
                match outcome(&result) {
                    // It needed no write.
                    Some(answered) => {
                        assert_eq!(answered, expected);
                        model = states.last().unwrap().clone();
                    }
                    None => {
                        assert!(matches!(result, Err(DriveError::Failed(_))), "{result:?}");
                        let again = store.fence(PgId(9), Epoch(1)).await;
                        assert!(matches!(again, Err(DriveError::Failed(_))), "never retried");
                        let read = body_of(&store, key(block(1, 1), 0)).await;
                        assert!(matches!(read, Err(DriveError::Failed(_))));
                        bench.world.crash(NODE);
                        drop(store);
                        let refused = bench.try_open().await.map(drop);
                        assert!(matches!(refused, Err(OpenError::Failed { .. })), "{refused:?}");
                        bench.pardon();
                        store = bench.open().await;
                        model = settle(&bench, &store, &states, op).await;
                    }
                }
            }
            Step::DiskFull(op) => {
                let (expected, states) = model.apply(&op);
                bench.disk().inject(DiskFault::new(&[DiskOp::Write], Effect::Full).on(".seg"));
                let mut result = run(&bench, &store, &op).await;
                bench.disk().clear_faults();
                if matches!(op, Op::Scrub { .. }) {
                    // It says nothing of what it leaves in the trash, and finds it the next time.
                    result = run(&bench, &store, &op).await;
                }
                match outcome(&result) {
                    Some(answered) => {
                        assert_eq!(answered, expected);
                        model = states.last().unwrap().clone();
                    }
                    None => {
                        assert!(matches!(result, Err(DriveError::NoSpace { .. })), "{result:?}");
                        if matches!(op, Op::PurgeAll) {
                            run(&bench, &store, &op).await.unwrap();
                            model = states.last().unwrap().clone();
                        }
                    }
                }
            }
            Step::Reopen => {
                store.close().await;
                drop(store);
                store = bench.open().await;
                assert_eq!(
                    store.open_report().replayed_records,
                    0,
                    "a clean close leaves no replay"
                );
            }
            Step::Kill => {
                bench.world.kill(NODE);
                drop(store);
                store = bench.open().await;
            }
            Step::Crash => store = bench.crash(store).await,
            Step::LoseIndex => {
                bench.world.crash(NODE);
                drop(store);
                bench.lose_index();
                store = bench.open().await;
            }
            Step::Rot(n) => {
                let sound: Vec<ShardKey> = model
                    .shards
                    .iter()
                    .filter(|(_, held)| !held.trashed && !held.rotten)
                    .map(|(key, _)| *key)
                    .collect();
                let found = scrub_all(&store, 70_000).await;
                let mut expected = model.apply(&Op::Scrub { budget: 1 }).1.pop().unwrap();
                let told = expected.shards.values().filter(|held| held.rotten).count();
                assert_eq!(found.len() - told, 0, "{found:?}");
                if let Some(key) = sound.get(usize::from(n) % sound.len().max(1)) {
                    rot_body(&bench, &store, *key);
                    let found = scrub_all(&store, 70_000).await;
                    assert!(found.iter().any(|one| {
                        matches!(one.rot, Rot::Shard { key: bad, .. } if bad == *key) && one.healed
                    }));
                    expected = expected.apply(&Op::Scrub { budget: 1 }).1.pop().unwrap();
                    let held = expected.shards.get_mut(key).unwrap();
                    (held.trashed, held.rotten) = (true, true);
                    expected.rotted = true;
                }
                model = expected;
            }
            Step::ReadError => {
                let some = model.shards.iter().find(|(_, held)| !held.trashed);
                if let Some((key, _)) = some {
                    bench.disk().inject(seg_fault(DiskOp::Read, Effect::Eio));
                    let read = body_of(&store, *key).await;
                    assert!(matches!(read, Err(DriveError::Damaged { .. })), "{read:?}");
                    bench.disk().clear_faults();
                }
            }
        }
        assert_eq!(dump(&store), model.dump());
    }
    check_all(&store, &model).await;
    // All of it must also come back from the segments alone.
    store = bench.crash(store).await;
    check_all(&store, &model).await;
    bench.world.crash(NODE);
    drop(store);
    bench.lose_index();
    store = bench.open().await;
    check_all(&store, &model).await;
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(), max_shrink_iters: 2000, ..ProptestConfig::default()
    })]

    #[test]
    fn store_agrees_with_the_model(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..80)) {
        let bench = Bench::new(seed);
        bench.world.clone().run(play(bench, steps));
    }
}

fn cases() -> u32 {
    std::env::var("NEXUSGRID_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64)
}
