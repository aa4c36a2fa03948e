//! Rows of the fault matrix in short form, and the ways others lost data, by name.
#![allow(non_snake_case, reason = "tests carry the names of the faults")]

use std::path::PathBuf;

use futures_util::future::join_all;
use nexusgrid_codec::{Epoch, PgId};
use nexusgrid_env::sim::{DiskFault, DiskOp, Effect};

use super::support::*;
use crate::types::{DriveState, ReadOptions};
use crate::{DriveError, DriveStore, OpenError, Verdict};

fn in_worlds<F: Future<Output = ()>>(seeds: std::ops::Range<u64>, test: impl Fn(Bench) -> F) {
    for seed in seeds {
        let bench = Bench::new(seed);
        bench.world.clone().run(test(bench));
    }
}

/// A full disk fails the drive only where a sync meets it.
fn syncs_failed(store: &DriveStore) -> bool {
    matches!(&*store.state().borrow(), DriveState::Failed(reason) if reason.contains("sync"))
}

/// Every shard that was acknowledged is there and whole.
async fn check_acked(store: &DriveStore, acked: &[u32], bytes: usize) {
    for counter in acked {
        let body = body_of(store, key(block(1, *counter), 0)).await.unwrap();
        assert_eq!(body, shard(block(1, *counter), 0, 0, bytes).body, "shard {counter}");
    }
}

async fn put_many(store: &DriveStore, counters: std::ops::Range<u32>, bytes: usize) -> Vec<u32> {
    let puts = counters.map(|counter| async move {
        store.put(shard(block(1, counter), 0, 0, bytes)).await.is_ok().then_some(counter)
    });
    join_all(puts).await.into_iter().flatten().collect()
}

#[test]
fn fault_row_04_power_loss_cuts_only_the_unsynced_tail_and_reports_it() {
    let cut = std::cell::Cell::new(0);
    in_worlds(0..60, |bench| {
        let cut = &cut;
        async move {
            let store = bench.format().await;
            let mut acked = put_many(&store, 0..20, 9000).await;
            assert_eq!(acked.len(), 20);
            // Power fails in the middle of the next batch's write, or of its sync.
            bench.disk().power_off_after(bench.world.seed() % 2);
            acked.extend(put_many(&store, 20..40, 9000).await);
            let store = bench.crash(store).await;
            assert_eq!(store.open_report().damage, vec![]);
            cut.set(cut.get() + store.open_report().torn_tail_bytes);
            check_acked(&store, &acked, 9000).await;
            for stat in store.list_blocks(None, 1000).await.unwrap() {
                assert!(is_good(&store, stat.key).await, "what came back unasked is whole");
            }
            let again = put_many(&store, 20..40, 9000).await;
            assert_eq!(again.len(), 20);
            let store = bench.crash(store).await;
            check_acked(&store, &again, 9000).await;
        }
    });
    assert!(cut.get() > 0, "some tails were torn");
}

#[test]
fn fault_row_05_a_flipped_bit_is_always_found_and_never_returned_verified() {
    in_worlds(0..40, |bench| async move {
        let store = bench.format().await;
        let acked = put_many(&store, 0..12, 9000).await;
        store.fence(PgId(1), Epoch(2)).await.unwrap();
        let before = dump(&store);
        store.close().await;
        drop(store);
        let (path, len) = bench.segments().remove(0);
        // Any bit of the shards' records.
        let bit = (bench.world.seed() * 7919 * 8191) % ((len - 8192) * 8) + 4096 * 8;
        bench.disk().flip_bit(&path, bit).unwrap();
        if bench.world.seed() % 2 == 0 {
            bench.lose_index();
        }
        let store = bench.open().await;
        assert_eq!(dump(&store).epochs, before.epochs, "facts survive");
        let mut bad = 0;
        for counter in &acked {
            let key = key(block(1, *counter), 0);
            let options = ReadOptions { verify: true, ..ReadOptions::default() };
            match store.get(key, options).await {
                Ok(read) => assert_eq!(read.bytes, shard(key.block, 0, 0, 9000).body),
                Err(DriveError::Damaged { .. }) => {
                    bad += 1;
                    assert!(matches!(store.verify(key).await, Ok(Verdict::Damaged(_))));
                }
                Err(DriveError::NotFound(_)) => {
                    bad += 1;
                    assert!(!store.open_report().damage.is_empty(), "a lost record is reported");
                }
                Err(other) => panic!("{other}"),
            }
        }
        // Bits of the padding belong to no record.
        assert!(bad <= 1);
        assert_eq!(store.open_report().torn_tail_bytes, 0, "synced data is never cut");
    });
}

#[test]
fn fault_row_05_a_hole_in_synced_data_is_reported_and_never_cut() {
    in_worlds(0..1, |bench| async move {
        let store = bench.format().await;
        for counter in 0..10 {
            store.put(shard(block(1, counter), 0, 0, 5000)).await.unwrap();
        }
        bench.world.kill(NODE);
        drop(store);
        // The third shard's head goes (facts stand before the first), and the index with it: what
        // follows must stay.
        let (path, _) = bench.segments().remove(0);
        bench.disk().flip_bit(&path, (8192 + 2 * 8192 + 20) * 8).unwrap();
        bench.lose_index();
        let store = bench.open().await;
        let report = store.open_report();
        assert_eq!((report.damage.len(), report.torn_tail_bytes), (1, 0), "{report:?}");
        assert_eq!(report.damage[0].offset, 8192 + 2 * 8192);
        check_acked(&store, &[0, 1, 3, 4, 5, 6, 7, 8, 9], 5000).await;
    });
}

#[test]
fn fault_row_05_one_damaged_superblock_copy_is_healed_two_are_refused() {
    in_worlds(0..1, |bench| async move {
        let store = bench.format().await;
        store.close().await;
        drop(store);
        let path: PathBuf = crate::superblock::path(&dir());
        bench.disk().flip_bit(&path, 300).unwrap();
        let store = bench.open().await;
        store.close().await;
        drop(store);
        bench.disk().flip_bit(&path, 4096 * 8 + 300).unwrap();
        let store = bench.open().await;
        store.close().await;
        drop(store);
        bench.disk().flip_bit(&path, 300).unwrap();
        bench.disk().flip_bit(&path, 4096 * 8 + 300).unwrap();
        let refused = bench.try_open().await;
        assert!(matches!(refused, Err(crate::OpenError::SuperblockCorrupt(_))));
    });
}

#[test]
fn fault_row_06_a_misdirected_or_lost_write_is_detected() {
    for effect in [Effect::Misdirected, Effect::LostWrite] {
        in_worlds(0..20, |bench| async move {
            let store = bench.format().await;
            let acked = put_many(&store, 0..10, 3000).await;
            bench.disk().inject(DiskFault::new(&[DiskOp::Write], effect).on(".seg").times(1));
            let strayed = put_many(&store, 10..11, 3000).await;
            bench.disk().clear_faults();
            assert_eq!(strayed, [10], "the disk lied: nobody can know yet");
            for counter in acked.iter().chain(&strayed) {
                let key = key(block(1, *counter), 0);
                match body_of(&store, key).await {
                    Ok(body) => assert_eq!(body, shard(key.block, 0, 0, 3000).body),
                    Err(DriveError::Damaged { .. }) => {
                        assert!(matches!(store.verify(key).await, Ok(Verdict::Damaged(_))));
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            let lost = key(block(1, 10), 0);
            assert!(!is_good(&store, lost).await, "the strayed shard is not where it belongs");
        });
    }
}

#[test]
fn fault_row_06_a_stale_segment_is_never_read_as_another() {
    in_worlds(0..1, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 0..80, 9000).await;
        let segments = bench.segments();
        assert!(segments.len() >= 3, "{segments:?}");
        store.close().await;
        drop(store);
        // The disk gives one segment's blocks for another's.
        let old = bench.disk().content(&segments[0].0).unwrap();
        let env = bench.env();
        let file = env.disk.open(&segments[1].0, nexusgrid_env::OpenMode::ReadWrite).unwrap();
        file.write_at(&old[4096..old.len().min(200_000)], 4096).unwrap();
        file.sync().unwrap();
        let store = bench.open().await;
        let mut damaged = 0;
        for counter in 0..80 {
            let key = key(block(1, counter), 0);
            match body_of(&store, key).await {
                Ok(body) => assert_eq!(body, shard(key.block, 0, 0, 9000).body),
                Err(DriveError::Damaged { .. }) => damaged += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(damaged > 10);
    });
}

#[test]
fn fault_row_08_a_full_disk_refuses_writes_serves_reads_and_recovers() {
    in_worlds(0..10, |bench| async move {
        let store = bench.format().await;
        let acked = put_many(&store, 0..30, 9000).await;
        bench.disk().inject(DiskFault::new(&[DiskOp::Write], Effect::Full).on(".seg"));
        let refused = store.put(shard(block(1, 99), 0, 0, 9000)).await;
        assert!(matches!(refused, Err(DriveError::NoSpace { .. })), "{refused:?}");
        check_acked(&store, &acked, 9000).await;
        bench.disk().clear_faults();
        assert_eq!(store.stat(key(block(1, 99), 0)).await, Ok(None));
        // Shards do not fit, a delete does: it gets its second try without them.
        bench.disk().inject(DiskFault::new(&[DiskOp::Write], Effect::Full).on(".seg").times(1));
        let (put, deleted) =
            futures_util::future::join(store.put(shard(block(1, 98), 0, 0, 9000)), async {
                // Into the same batch: a put is checked on another thread first.
                tokio::task::yield_now().await;
                store.tombstone(PgId(1), &[block(1, 0)]).await
            })
            .await;
        assert!(matches!(put, Err(DriveError::NoSpace { .. })), "{put:?}");
        assert_eq!(deleted, Ok(1));
        bench.disk().clear_faults();
        let more = put_many(&store, 40..60, 9000).await;
        let store = bench.crash(store).await;
        check_acked(&store, &acked[1..], 9000).await;
        check_acked(&store, &more, 9000).await;
        assert_eq!(store.stat(key(block(1, 99), 0)).await, Ok(None), "refused stays refused");
    });
}

#[test]
fn fault_row_08_other_files_fill_the_disk_to_the_last_byte() {
    in_worlds(0..5, |bench| async move {
        let store = bench.format().await;
        let acked = put_many(&store, 0..20, 9000).await;
        bench.disk().set_capacity(1 << 20);
        for _ in 0..3 {
            let refused = store.put(shard(block(1, 99), 0, 0, 9000)).await;
            assert!(matches!(refused, Err(DriveError::NoSpace { .. })), "{refused:?}");
            let refused = store.fence(PgId(1), Epoch(9)).await;
            assert!(matches!(refused, Err(DriveError::NoSpace { .. })), "{refused:?}");
        }
        check_acked(&store, &acked, 9000).await;
        bench.disk().set_capacity(1 << 30);
        assert_eq!(*store.state().borrow(), DriveState::Healthy);
        assert_eq!(put_many(&store, 99..100, 9000).await, [99]);
    });
}

#[test]
fn fault_row_09_a_failed_sync_fails_the_drive_at_once_and_for_good() {
    in_worlds(0..20, |bench| async move {
        let store = bench.format().await;
        let acked = put_many(&store, 0..10, 9000).await;
        let mut state = store.state();
        bench.disk().inject(DiskFault::new(&[DiskOp::Sync], Effect::Eio).on(".seg").times(1));
        let failed = store.put(shard(block(1, 50), 0, 0, 9000)).await;
        assert!(matches!(failed, Err(DriveError::Failed(_))), "{failed:?}");
        assert!(state.has_changed().unwrap());
        assert!(matches!(*state.borrow_and_update(), DriveState::Failed(_)));
        let syncs = store.metrics().syncs;
        assert!(matches!(store.fence(PgId(1), Epoch(2)).await, Err(DriveError::Failed(_))));
        assert!(matches!(store.list_blocks(None, 1).await, Err(DriveError::Failed(_))));
        assert!(matches!(store.maintain().await, Err(DriveError::Failed(_))));
        assert_eq!(store.metrics().syncs, syncs, "a failed sync is never tried again");
        // Nor does a new process serve what the page cache shows.
        assert_eq!(bench.marks().len(), 2);
        bench.world.kill(NODE);
        drop(store);
        let refused = bench.try_open().await.map(drop);
        let Err(refused @ OpenError::Failed { .. }) = refused else { panic!("{refused:?}") };
        assert!(refused.to_string().contains("replace the disk"), "it says what to do");
        bench.pardon();
        let store = bench.open().await;
        let store = bench.crash(store).await;
        check_acked(&store, &acked, 9000).await;
    });
}

/// The process dies after a sync that failed. What its successor finds it serves and acknowledges
/// again, so that it must be durable.
#[test]
fn fault_row_09_what_a_restart_finds_survives_a_power_failure() {
    in_worlds(0..40, |bench| async move {
        let store = bench.format().await;
        assert_eq!(put_many(&store, 0..5, 9000).await.len(), 5);
        let fault = DiskFault::new(&[DiskOp::Sync], Effect::Eio).on(".seg").times(1);
        bench.disk().inject(fault);
        assert_eq!(put_many(&store, 5..10, 9000).await.len(), 0);
        bench.world.kill(NODE);
        drop(store);
        bench.pardon();
        let store = bench.open().await;
        let found = store.list_blocks(None, 1000).await.unwrap();
        let store = bench.crash(store).await;
        for stat in found {
            assert!(is_good(&store, stat.key).await, "{} was found and then lost", stat.key);
        }
    });
}

#[test]
fn fault_row_09_a_write_error_fails_the_drive_and_single_read_errors_do_not() {
    in_worlds(0..5, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 0..10, 9000).await;
        put_many(&store, 10..30, 9000).await;
        let one = key(block(1, 3), 0);
        bench.disk().inject(DiskFault::new(&[DiskOp::Read], Effect::Eio).on(".seg"));
        // One bad place, however often it is asked for, is one shard's matter.
        for _ in 0..50 {
            assert!(matches!(body_of(&store, one).await, Err(DriveError::Damaged { .. })));
        }
        assert_eq!(store.metrics().read_errors, 50);
        // So are few, far apart.
        for counter in 0..30 {
            bench.env().clock.sleep(bench.options.read_errors_window).await;
            let read = body_of(&store, key(block(1, counter), 0)).await;
            assert!(matches!(read, Err(DriveError::Damaged { .. })), "{read:?}");
        }
        bench.env().clock.sleep(bench.options.read_errors_window).await;
        let mut bad = 0;
        while !matches!(body_of(&store, key(block(1, bad), 0)).await, Err(DriveError::Failed(_))) {
            bad += 1;
            assert!(bad < 20);
        }
        assert_eq!(bad + 1, bench.options.read_errors_max, "many at once are the drive's");
        bench.disk().clear_faults();
        bench.world.crash(NODE);
        drop(store);
        assert!(matches!(bench.try_open().await, Err(OpenError::Failed { .. })));
        bench.pardon();
        let store = bench.open().await;
        bench.disk().inject(DiskFault::new(&[DiskOp::Write], Effect::Eio).on(".seg").times(1));
        let failed = store.put(shard(block(1, 50), 0, 0, 9000)).await;
        assert!(matches!(failed, Err(DriveError::Failed(_))), "{failed:?}");
        assert!(matches!(body_of(&store, one).await, Err(DriveError::Failed(_))));
    });
}

#[test]
fn fault_row_28_an_error_at_every_write_path_call_site_once() {
    // The n-th change of any file fails, for every n until a whole run passes unharmed.
    for effect in [Effect::Eio, Effect::Full] {
        for n in 0.. {
            let bench = Bench::new(n);
            let unharmed = bench.world.clone().run(async {
                let store = bench.format().await;
                let mut acked = put_many(&store, 0..10, 9000).await;
                let ops = [
                    DiskOp::Write,
                    DiskOp::Sync,
                    DiskOp::SetLen,
                    DiskOp::SyncDir,
                    DiskOp::Remove,
                    DiskOp::Rename,
                    DiskOp::PunchHole,
                    DiskOp::Open,
                ];
                bench.disk().inject(DiskFault::new(&ops, effect).after(n).times(1));
                let before = bench.disk().changes();
                acked.extend(put_many(&store, 10..60, 9000).await);
                let deleted = store.tombstone(PgId(1), &[block(1, 0), block(1, 1)]).await.is_ok();
                let _ = store.maintain().await;
                acked.extend(put_many(&store, 60..80, 9000).await);
                let made = bench.disk().changes() - before;
                bench.disk().clear_faults();
                let failed = matches!(*store.state().borrow(), DriveState::Failed(_));
                assert_eq!(failed, !bench.marks().is_empty(), "a failure is remembered");
                assert!(effect != Effect::Full || !failed || syncs_failed(&store), "{n}");
                bench.pardon();
                let store = bench.crash(store).await;
                if deleted {
                    acked.retain(|counter| *counter > 1);
                }
                for counter in acked.iter().filter(|counter| **counter > 1) {
                    check_acked(&store, &[*counter], 9000).await;
                }
                check_consistent(&store);
                n > made
            });
            if unharmed {
                break;
            }
        }
    }
}

#[test]
fn L2_a_deleted_shard_never_returns_with_a_lost_index() {
    in_worlds(0..10, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 0..60, 9000).await;
        let gone: Vec<_> = (0..60).filter(|n| n % 3 != 0).map(|n| block(1, n)).collect();
        store.tombstone(PgId(1), &gone).await.unwrap();
        // Compaction moves and drops records and facts; tombstones go; then the index does.
        store.maintain().await.unwrap();
        let floor = crate::SessionFloor {
            group: nexusgrid_codec::GroupId(3),
            floor: nexusgrid_codec::SessionId(2),
        };
        store.drop_tombstones(&gone, &[floor]).await.unwrap();
        for round in 0..4 {
            put_fillers(&store, round).await;
            store.maintain().await.unwrap();
        }
        let before = dump(&store);
        bench.world.crash(NODE);
        drop(store);
        bench.lose_index();
        let store = bench.open().await;
        assert!(store.open_report().index_rebuilt || store.open_report().replayed_records > 0);
        assert_eq!(dump(&store), before);
        let kept: Vec<u32> = (0..60).filter(|n| n % 3 == 0).collect();
        check_acked(&store, &kept, 9000).await;
    });
}

/// Shards of a later session, half of them deleted again: segments to compact.
async fn put_fillers(store: &DriveStore, round: u32) {
    let ids: Vec<_> = (0..40).map(|n| block(7, round * 100 + n)).collect();
    for put in join_all(ids.iter().map(|id| store.put(shard(*id, 0, 0, 9000)))).await {
        put.unwrap();
    }
    store.tombstone(PgId(1), &ids[..30]).await.unwrap();
}

#[test]
fn L3_compaction_survives_a_crash_at_every_change() {
    for n in 0.. {
        let bench = Bench::new(n);
        let unharmed = bench.world.clone().run(async {
            let store = bench.format().await;
            put_many(&store, 0..60, 9000).await;
            let gone: Vec<_> = (0..60).filter(|n| n % 2 == 0).map(|n| block(1, n)).collect();
            store.tombstone(PgId(1), &gone).await.unwrap();
            let model = dump(&store);
            let before = bench.disk().changes();
            bench.disk().power_off_after(n);
            let done = store.maintain().await;
            let made = bench.disk().changes() - before;
            let store = bench.crash(store).await;
            assert_eq!(store.open_report().damage, vec![]);
            assert_eq!(dump(&store), model, "crash in change {n}");
            let kept: Vec<u32> = (0..60).filter(|n| n % 2 == 1).collect();
            check_acked(&store, &kept, 9000).await;
            check_consistent(&store);
            // Again, and from the segments alone.
            store.maintain().await.unwrap();
            bench.world.crash(NODE);
            drop(store);
            bench.lose_index();
            let store = bench.open().await;
            assert_eq!(dump(&store), model, "rebuilt after a crash in change {n}");
            check_acked(&store, &kept, 9000).await;
            made < n && done.is_ok()
        });
        if unharmed {
            assert!(n > 10, "compaction made changes");
            break;
        }
    }
}

#[test]
fn L3_compaction_on_a_full_disk_loses_nothing() {
    in_worlds(0..10, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 0..60, 9000).await;
        let gone: Vec<_> = (0..60).filter(|n| n % 2 == 0).map(|n| block(1, n)).collect();
        store.tombstone(PgId(1), &gone).await.unwrap();
        let model = dump(&store);
        let after = bench.world.seed() % 4;
        bench.disk().inject(DiskFault::new(&[DiskOp::Write], Effect::Full).on(".seg").after(after));
        let done = store.maintain().await.unwrap();
        assert!(done.segments_stuck > 0 || done.segments_removed > 0);
        bench.disk().clear_faults();
        assert_eq!(dump(&store), model);
        let kept: Vec<u32> = (0..60).filter(|n| n % 2 == 1).collect();
        check_acked(&store, &kept, 9000).await;
        assert!(store.maintain().await.unwrap().segments_removed > 0, "it recovers");
        let store = bench.crash(store).await;
        check_acked(&store, &kept, 9000).await;
    });
}

#[test]
fn L3_a_damaged_record_keeps_its_segment_from_compaction() {
    in_worlds(0..1, |bench| async move {
        let store = bench.format().await;
        // Alone and first: its body begins behind a label, facts and its head.
        put_many(&store, 0..1, 9000).await;
        put_many(&store, 1..60, 9000).await;
        let gone: Vec<_> = (1..60).map(|n| block(1, n)).collect();
        store.tombstone(PgId(1), &gone).await.unwrap();
        let (path, _) = bench.segments().remove(0);
        bench.disk().flip_bit(&path, (4096 + 5000) * 8).unwrap();
        assert!(!is_good(&store, key(block(1, 0), 0)).await);
        let done = store.maintain().await.unwrap();
        assert_eq!(done.segments_stuck, 1);
        assert!(bench.segments().iter().any(|(left, _)| *left == path), "kept for repair");
        let served = body_of(&store, key(block(1, 0), 0)).await.unwrap();
        assert_eq!(served.len(), 9000, "the reader's tag tells it is bad, frame by frame");
    });
}

#[test]
fn L4_reads_never_fail_while_compaction_moves_what_they_read() {
    in_worlds(0..5, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 0..90, 9000).await;
        let gone: Vec<_> = (0..90).filter(|n| n % 2 == 0).map(|n| block(1, n)).collect();
        store.tombstone(PgId(1), &gone).await.unwrap();
        let kept: Vec<u32> = (0..90).filter(|n| n % 2 == 1).collect();
        let reads = async {
            for _ in 0..10 {
                check_acked(&store, &kept, 9000).await;
            }
        };
        let (done, ()) = futures_util::future::join(store.maintain(), reads).await;
        assert!(done.unwrap().segments_removed > 0);
    });
}

#[test]
fn L5_punched_shards_are_gone_not_zeroes() {
    in_worlds(0..5, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 0..12, 100_000).await;
        let used = |bench: &Bench| {
            let env = bench.env();
            bench
                .segments()
                .iter()
                .map(|(path, _)| {
                    let file = env.disk.open(path, nexusgrid_env::OpenMode::Read).unwrap();
                    file.allocated_bytes().unwrap()
                })
                .sum::<u64>()
        };
        let before = used(&bench);
        store.tombstone(PgId(1), &[block(1, 0), block(1, 4)]).await.unwrap();
        let done = store.maintain().await.unwrap();
        assert!(done.holes > 0 || done.segments_removed > 0, "{done:?}");
        assert!(used(&bench) + 90_000 < before, "space came back");
        for gone in [0, 4] {
            let key = key(block(1, gone), 0);
            assert_eq!(body_of(&store, key).await, Err(DriveError::NotFound(key)));
        }
        let kept = [1, 2, 3, 5, 6, 7, 8, 9, 10, 11];
        check_acked(&store, &kept, 100_000).await;
        bench.world.crash(NODE);
        drop(store);
        bench.lose_index();
        let store = bench.open().await;
        assert_eq!(store.open_report().damage, vec![], "a hole is no damage");
        check_acked(&store, &kept, 100_000).await;
    });
}

#[test]
fn L7_replay_never_undoes_newer_facts() {
    in_worlds(0..20, |bench| async move {
        let store = bench.format().await;
        for epoch in 1..6 {
            store.put(at(shard(block(1, 0), 0, 0, 100), 1, epoch)).await.unwrap();
            store.fence(PgId(2), Epoch(epoch)).await.unwrap();
        }
        store.trash(&[key(block(1, 0), 0)]).await.unwrap();
        store.restore(&[key(block(1, 0), 0)]).await.unwrap();
        let before = dump(&store);
        let store = bench.crash(store).await;
        assert_eq!(dump(&store), before);
        bench.world.crash(NODE);
        drop(store);
        bench.lose_index();
        assert_eq!(dump(&bench.open().await), before);
    });
}

#[test]
fn L10_nothing_is_acknowledged_before_its_sync() {
    in_worlds(0..30, |bench| async move {
        let store = bench.format().await;
        let acked = put_many(&store, 0..8, 20_000).await;
        let (path, _) = bench.segments().pop().unwrap();
        assert!(bench.disk().is_synced(&path).unwrap());
        let store = bench.crash(store).await;
        check_acked(&store, &acked, 20_000).await;
    });
}

#[test]
fn a_damaged_index_row_stops_the_drive_and_opening_it_again_rebuilds_the_index() {
    in_worlds(0..1, |bench| async move {
        let store = bench.format().await;
        let acked = put_many(&store, 0..5, 500).await;
        let mut batch = nexusgrid_env::Batch::default();
        let bad = key(block(1, 2), 0);
        batch.put(crate::index::SHARDS, crate::index::shard_key(bad), vec![9, 9]);
        store.kv_for_tests().write(batch, nexusgrid_env::Durability::Synced).unwrap();
        assert_eq!(body_of(&store, bad).await, Err(DriveError::Closed));
        assert!(matches!(*store.state().borrow(), DriveState::Stopped(_)));
        assert!(bench.marks().is_empty(), "the disk is sound");
        let store = store.into_closed().await.open().await.unwrap();
        assert!(store.open_report().index_rebuilt);
        check_acked(&store, &acked, 500).await;
        store.close().await;
        drop(store);
        assert!(!bench.open().await.open_report().index_rebuilt, "once");
    });
}
