//! One test per rule of the block protocol, and the bounds of the interface.
#![allow(non_snake_case, reason = "tests carry the names of the rules")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nexusgrid_codec::{Epoch, GroupId, PgId, SessionId};

use super::support::*;
use crate::types::{FillSessionId, PutAck, ReadOptions, SessionFloor, SpaceLevel, WriteClass};
use crate::{DriveError, DriveOptions, DriveStore, OpenError, SpaceMarks, Verdict};

fn in_world<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    let bench = Bench::new(1);
    bench.world.clone().run(test(bench));
}

#[test]
fn put_then_get_whole_ranges_and_verified() {
    in_world(|bench| async move {
        let store = bench.format().await;
        for (counter, bytes) in [(0, 16), (1, 5000), (2, 300_000)] {
            let write = shard(block(1, counter), 1, 0, bytes);
            let key = key(block(1, counter), 1);
            assert_eq!(
                store.put(write.clone()).await,
                Ok(PutAck { epoch: Epoch(1), existed: false })
            );
            let read = store.get(key, ReadOptions::default()).await.unwrap();
            assert_eq!((read.bytes, read.offset), (write.body.clone(), 0));
            assert_eq!((read.header, read.pg, read.epoch), (write.header, PgId(1), Epoch(1)));
            // The last one runs backwards: an empty read, not an error.
            let backwards = std::ops::Range { start: 900_000, end: 1 };
            for range in [0..1, 3..10, 4000..4999, 140_000..280_000, 10..u64::MAX, backwards] {
                for verify in [false, true] {
                    let options = ReadOptions { range: Some(range.clone()), verify };
                    let read = store.get(key, options).await.unwrap();
                    let end = range.end.min(bytes as u64);
                    let start = range.start.min(end);
                    assert_eq!(read.offset, start);
                    assert_eq!(read.bytes, write.body.slice(start as usize..end as usize));
                }
            }
            assert!(matches!(store.verify(key).await, Ok(Verdict::Good { .. })));
        }
        let missing = key(block(9, 9), 0);
        assert_eq!(body_of(&store, missing).await, Err(DriveError::NotFound(missing)));
        assert_eq!(store.verify(missing).await, Ok(Verdict::Missing));
        assert_eq!(store.usage().await.unwrap().shard_bytes, 305_016);
    });
}

#[test]
fn shards_that_do_not_match_their_header_are_refused() {
    in_world(|bench| async move {
        let store = bench.format().await;
        let mut flipped = shard(block(1, 0), 0, 0, 100);
        let mut body = flipped.body.to_vec();
        body[50] ^= 1;
        flipped.body = body.into();
        assert!(matches!(store.put(flipped).await, Err(DriveError::BadShard { .. })));
        let mut cut = shard(block(1, 0), 0, 0, 100);
        cut.body = cut.body.slice(..99);
        assert!(matches!(store.put(cut).await, Err(DriveError::BadShard { .. })));
        assert_eq!(store.list_blocks(None, 10).await, Ok(vec![]));
    });
}

#[test]
fn R1_older_epochs_are_refused_and_newer_ones_adopted_durably() {
    in_world(|bench| async move {
        let store = bench.format().await;
        assert_eq!(store.fence(PgId(1), Epoch(5)).await, Ok(Epoch(5)));
        let stale = |given, known| DriveError::StaleEpoch {
            pg: PgId(1),
            given: Epoch(given),
            known: Epoch(known),
        };
        assert_eq!(store.fence(PgId(1), Epoch(4)).await, Err(stale(4, 5)));
        let put = |epoch| at(shard(block(1, 0), 0, 0, 100), 1, epoch);
        assert_eq!(store.put(put(4)).await, Err(stale(4, 5)));
        store.put(put(7)).await.unwrap();
        let store = bench.crash(store).await;
        assert_eq!(store.epoch(PgId(1)).await, Ok(Epoch(7)), "I5");
        assert_eq!(store.put(put(6)).await, Err(stale(6, 7)));
        assert_eq!(store.epoch(PgId(2)).await, Ok(Epoch(0)));
    });
}

#[test]
fn R3_same_digest_is_stamped_again_and_another_is_refused() {
    in_world(|bench| async move {
        let store = bench.format().await;
        let write = |variant, epoch| at(shard(block(1, 0), 0, variant, 100), 1, epoch);
        store.put(write(0, 2)).await.unwrap();
        assert_eq!(store.put(write(0, 2)).await, Ok(PutAck { epoch: Epoch(2), existed: true }));
        assert_eq!(store.put(write(0, 4)).await, Ok(PutAck { epoch: Epoch(4), existed: true }));
        let key = key(block(1, 0), 0);
        assert_eq!(store.put(write(1, 4)).await, Err(DriveError::DigestConflict(key)), "I3");
        assert_eq!(store.metrics().digest_conflicts, 1);
        let store = bench.crash(store).await;
        assert_eq!(store.stat(key).await.unwrap().unwrap().epoch, Epoch(4));
        assert_eq!(store.usage().await.unwrap().shards, 1);
    });
}

#[test]
fn R4_writes_of_closed_fill_sessions_are_refused() {
    in_world(|bench| async move {
        let store = bench.format().await;
        let write = |counter, session| fill(shard(block(1, counter), 0, 0, 100), session);
        store.put(write(0, 5)).await.unwrap();
        store.close_fill_session(PgId(1), FillSessionId(5)).await.unwrap();
        let closed = |session| {
            Err(DriveError::FillSessionClosed { pg: PgId(1), session: FillSessionId(session) })
        };
        let store = bench.crash(store).await;
        assert_eq!(store.put(write(1, 5)).await, closed(5));
        store.put(write(1, 4)).await.unwrap();
        store.raise_fill_floor(PgId(1), FillSessionId(6)).await.unwrap();
        assert_eq!(store.put(write(2, 4)).await, closed(4));
        store.put(write(2, 6)).await.unwrap();
        // Another PG's sessions are its own.
        store.put(at(write(3, 5), 2, 1)).await.unwrap();
    });
}

#[test]
fn R5_R6_deleted_blocks_stay_away_after_the_tombstone_goes() {
    in_world(|bench| async move {
        let store = bench.format().await;
        let id = block(3, 0);
        for index in 0..3 {
            store.put(shard(id, index, 0, 100)).await.unwrap();
        }
        assert_eq!(store.tombstone(PgId(1), &[id]).await, Ok(3));
        assert_eq!(store.tombstone(PgId(1), &[id]).await, Ok(0), "idempotent");
        assert_eq!(store.put(shard(id, 0, 0, 100)).await, Err(DriveError::Tombstoned(id)));
        let filled = fill(shard(id, 0, 0, 100), 1);
        assert_eq!(store.put(filled).await, Err(DriveError::Tombstoned(id)));
        assert_eq!(store.drop_tombstones(&[id], &[]).await, Err(DriveError::SessionOpen(id)));
        let floor = SessionFloor { group: GroupId(3), floor: SessionId(4) };
        let store = bench.crash(store).await;
        assert_eq!(store.drop_tombstones(&[id], &[floor]).await, Ok(1));
        let store = bench.crash(store).await;
        assert_eq!(store.is_tombstoned(id).await, Ok(false));
        let closed = DriveError::SessionClosed { group: GroupId(3), session: SessionId(3) };
        assert_eq!(store.put(shard(id, 0, 0, 100)).await, Err(closed), "I9");
        // A repair write of a closed session is R4's matter, not R6's.
        store.put(fill(shard(block(3, 1), 0, 0, 100), 1)).await.unwrap();
        store.put(shard(block(4, 0), 0, 0, 100)).await.unwrap();
        store.close_session(GroupId(3), SessionId(4)).await.unwrap();
        let closed = DriveError::SessionClosed { group: GroupId(3), session: SessionId(4) };
        assert_eq!(store.put(shard(block(4, 1), 0, 0, 100)).await, Err(closed));
    });
}

#[test]
fn R7_reconcile_trashes_only_what_is_old_and_unlisted() {
    in_world(|bench| async move {
        let store = bench.format().await;
        store.put(at(shard(block(1, 0), 0, 0, 100), 1, 3)).await.unwrap(); // old, unlisted
        store.put(at(shard(block(1, 1), 0, 0, 100), 1, 3)).await.unwrap(); // old, listed
        store.put(at(shard(block(1, 2), 0, 0, 100), 2, 3)).await.unwrap(); // another PG
        store.put(at(shard(block(1, 3), 0, 0, 100), 1, 3)).await.unwrap(); // stamped again
        store.put(at(shard(block(1, 3), 0, 0, 100), 1, 5)).await.unwrap();
        let listed = Arc::new(BTreeSet::from([block(1, 1)]));
        let done = store.reconcile(PgId(1), Epoch(5), listed).await.unwrap();
        assert_eq!((done.trashed, done.kept), (1, 2));
        let store = bench.crash(store).await;
        let gone = key(block(1, 0), 0);
        assert_eq!(body_of(&store, gone).await, Err(DriveError::NotFound(gone)));
        assert!(store.stat(gone).await.unwrap().unwrap().trashed);
        let page = store.list(PgId(1), None, 10).await.unwrap();
        let keys: Vec<_> = page.shards.iter().map(|shard| shard.key).collect();
        assert_eq!(keys, [key(block(1, 1), 0), key(block(1, 3), 0)]);
        assert_eq!((page.epoch, page.more), (Epoch(5), false));
        assert_eq!(store.list_trash(None, 10).await.unwrap().shards.len(), 1);
        assert_eq!(store.restore(&[gone]).await, Ok(1));
        assert!(body_of(&store, gone).await.is_ok());
    });
}

#[test]
fn trash_is_purged_by_running_time_and_a_put_takes_it_out() {
    in_world(|mut bench| async move {
        bench.options.trash_age = Duration::from_secs(100);
        let store = bench.format().await;
        let (a, b) = (key(block(1, 0), 0), key(block(1, 1), 0));
        store.put(shard(a.block, 0, 0, 100)).await.unwrap();
        store.put(shard(b.block, 0, 0, 100)).await.unwrap();
        assert_eq!(store.trash(&[a, b]).await, Ok(2));
        bench.env().clock.sleep(Duration::from_secs(60)).await;
        // A wall clock gone wrong purges nothing.
        bench.world.set_wall_skew(NODE, 10 * 365 * 24 * 3600 * 1000);
        assert_eq!(store.maintain().await.unwrap().purged, 0);
        store.put(shard(b.block, 0, 0, 100)).await.unwrap();
        // The age goes on over a restart from where it was last written down.
        let store = bench.crash(store).await;
        bench.env().clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(store.maintain().await.unwrap().purged, 1);
        assert_eq!(store.stat(a).await, Ok(None));
        assert!(body_of(&store, b).await.is_ok());
    });
}

#[test]
fn listing_pages_through_everything_once() {
    in_world(|bench| async move {
        let store = bench.format().await;
        for counter in 0..50 {
            store.put(shard(block(1, counter), (counter % 3) as u8, 0, 50)).await.unwrap();
        }
        store.trash(&[key(block(1, 3), 0), key(block(1, 4), 1)]).await.unwrap();
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = store.list(PgId(1), after, 7).await.unwrap();
            seen.extend(page.shards.iter().map(|shard| shard.key));
            after = seen.last().copied();
            if !page.more {
                break;
            }
        }
        let mut all = Vec::new();
        loop {
            let page = store.list_blocks(all.last().copied(), 7).await.unwrap();
            if page.is_empty() {
                break;
            }
            all.extend(page.iter().map(|shard| shard.key));
        }
        assert_eq!(seen.len(), 48);
        assert_eq!(seen, all);
    });
}

#[test]
fn many_writers_share_one_sync() {
    in_world(|bench| async move {
        let store = bench.format().await;
        let before = store.metrics();
        let puts = (0..200).map(|counter| store.put(shard(block(1, counter), 0, 0, 500)));
        for put in join_all(puts).await {
            put.unwrap();
        }
        let after = store.metrics();
        assert_eq!(after.puts - before.puts, 200);
        assert!(after.syncs - before.syncs <= 10, "{} syncs", after.syncs - before.syncs);
        assert!(after.batch_ops_max >= 50);
        let store = bench.crash(store).await;
        assert_eq!(store.usage().await.unwrap().shards, 200);
    });
}

#[test]
fn a_flood_of_large_shards_does_not_starve_a_fence() {
    in_world(|bench| async move {
        let store = bench.format().await;
        let flood = (0..60).map(|counter| store.put(shard(block(1, counter), 0, 0, 200_000)));
        let flood = join_all(flood);
        let fence = async {
            tokio::task::yield_now().await;
            store.fence(PgId(2), Epoch(1)).await.unwrap();
            store.metrics().puts
        };
        let (puts, stored_before_fence) = futures_util::future::join(flood, fence).await;
        assert!(puts.into_iter().all(|put| put.is_ok()));
        assert!(stored_before_fence < 20, "{stored_before_fence} large shards went first");
    });
}

#[test]
fn space_marks_refuse_backfill_before_clients_and_never_deletes() {
    in_world(|mut bench| async move {
        bench.options.marks = SpaceMarks {
            reserve_percent: 0,
            reserve_bytes: 0,
            index_headroom_bytes: 1 << 20,
            reserve_segments: 2,
            ..SpaceMarks::default()
        };
        bench.disk().set_capacity(40 << 20);
        let store = bench.format().await;
        let (mut level, mut refused_backfill) = (SpaceLevel::Normal, false);
        let mut counter = 0;
        loop {
            let write = shard(block(1, counter), 0, 0, 200_000);
            counter += 1;
            let backfill = fill(shard(block(2, counter), 0, 0, 4000), 1);
            let backfill = crate::ShardWrite { class: WriteClass::Backfill, ..backfill };
            refused_backfill |=
                matches!(store.put(backfill).await, Err(DriveError::NoSpace { .. }));
            match store.put(write).await {
                Ok(_) => {}
                Err(DriveError::NoSpace { .. }) => break,
                Err(other) => panic!("{other}"),
            }
            let now = store.usage().await.unwrap().level;
            assert!(now >= level, "levels only rise here");
            level = now;
        }
        assert!(refused_backfill, "backfill stopped first");
        assert!(level >= SpaceLevel::NoBackfill);
        assert!(body_of(&store, key(block(1, 0), 0)).await.is_ok(), "reads work");
        let blocks: Vec<_> = (0..counter).map(|counter| block(1, counter)).collect();
        assert!(store.tombstone(PgId(1), &blocks).await.unwrap() > 100, "deletes work");
        store.maintain().await.unwrap();
        store.maintain().await.unwrap();
        assert_eq!(store.usage().await.unwrap().level, SpaceLevel::Normal, "space came back");
        store.put(shard(block(5, 0), 0, 0, 200_000)).await.unwrap();
    });
}

#[test]
fn an_empty_mount_point_is_refused_and_left_empty() {
    in_world(|bench| async move {
        bench.env().disk.create_dir_all(&dir()).unwrap();
        assert!(matches!(bench.try_open().await, Err(OpenError::NotFormatted(_))));
        assert_eq!(bench.env().disk.list(&dir()).unwrap().len(), 0);
    });
}

#[test]
fn wrong_cluster_wrong_drive_and_wrong_incarnation_are_refused() {
    in_world(|bench| async move {
        let store = bench.format().await;
        let info = store.info();
        assert_eq!(info.opens, 1);
        store.close().await;
        drop(store);
        let env = bench.env();
        let open = |identity, incarnation| {
            let (env, options) = (env.clone(), bench.options.clone());
            async move { DriveStore::open(&env, &dir(), identity, incarnation, &options).await }
        };
        let other_cluster =
            crate::DriveIdentity { cluster: nexusgrid_codec::ClusterId([8; 16]), ..IDENTITY };
        assert!(matches!(open(other_cluster, None).await, Err(OpenError::WrongCluster { .. })));
        let other_drive = crate::DriveIdentity { drive: nexusgrid_codec::DriveId(43), ..IDENTITY };
        assert!(matches!(open(other_drive, None).await, Err(OpenError::WrongDrive { .. })));
        let other_life = Some(crate::Incarnation([9; 16]));
        let refused = open(IDENTITY, other_life).await;
        assert!(matches!(refused, Err(OpenError::WrongIncarnation { .. })));
        let store = open(IDENTITY, Some(info.incarnation)).await.unwrap();
        assert_eq!(store.info().opens, 2, "refused opens do not count, so a clone is seen");
        assert_eq!(DriveStore::identify(&env, &dir()).await.unwrap().incarnation, info.incarnation);
    });
}

#[test]
fn a_second_opener_and_a_second_format_are_refused() {
    in_world(|bench| async move {
        let store = bench.format().await;
        assert!(matches!(bench.try_open().await, Err(OpenError::Locked(_))));
        store.close().await;
        drop(store);
        let again = DriveStore::format(&bench.env(), &dir(), IDENTITY, &bench.options).await;
        assert!(matches!(again, Err(OpenError::AlreadyFormatted(_))));
        bench.open().await;
    });
}

#[test]
fn a_closed_store_refuses_and_a_stopped_agent_leaves_nobody_waiting() {
    in_world(|bench| async move {
        let store = bench.format().await;
        store.close().await;
        let write = shard(block(1, 0), 0, 0, 100);
        assert_eq!(store.put(write.clone()).await, Err(DriveError::Closed));
        drop(store);
        let store = bench.open().await;
        let put = store.put(write);
        let (put, ()) = futures_util::future::join(put, async {
            bench.env().exec.stop();
        })
        .await;
        assert!(matches!(put, Ok(_) | Err(DriveError::Closed)));
    });
}

#[test]
fn options_are_checked() {
    in_world(|bench| async move {
        for options in [
            DriveOptions { segment_bytes: 1000, ..DriveOptions::default() },
            DriveOptions { segment_bytes: (1 << 20) + 1, ..DriveOptions::default() },
            DriveOptions { compact_dead_percent: 0, ..DriveOptions::default() },
            DriveOptions {
                marks: SpaceMarks { warn_percent: 99, ..SpaceMarks::default() },
                ..DriveOptions::default()
            },
        ] {
            let refused = DriveStore::format(&bench.env(), &dir(), IDENTITY, &options).await;
            assert!(matches!(refused, Err(OpenError::Options(_))));
        }
    });
}
