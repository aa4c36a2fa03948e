//! Every kind of rot is found by scrub, never served as good, and recovered; and what repair and
//! garbage collection need of a drive.

use std::path::PathBuf;

use futures_util::future::join_all;
use nexusgrid_codec::{Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::sim::{DiskFault, DiskOp, Effect};
use nexusgrid_env::{Batch, Durability};

use super::support::*;
use crate::types::{DriveState, Dropped, SessionFloor, ShardKey, TombstonePage};
use crate::{DriveError, DriveStore, Rot, ScrubCursor, ScrubOptions, index};

fn in_worlds<F: Future<Output = ()>>(seeds: std::ops::Range<u64>, test: impl Fn(Bench) -> F) {
    for seed in seeds {
        let bench = Bench::new(seed);
        bench.world.clone().run(test(bench));
    }
}

async fn put_many(store: &DriveStore, session: u64, counters: std::ops::Range<u32>, bytes: usize) {
    let puts = counters.map(|counter| store.put(shard(block(session, counter), 0, 0, bytes)));
    for put in join_all(puts).await {
        put.unwrap();
    }
}

/// A whole pass in steps of `budget` bytes.
pub async fn scrub_all(store: &DriveStore, budget: u64) -> Vec<crate::Finding> {
    let mut findings = Vec::new();
    let mut cursor = ScrubCursor::default();
    for _ in 0..100_000 {
        let step = store.scrub(cursor, budget, ScrubOptions::default()).await.unwrap();
        findings.extend(step.findings);
        match step.next {
            Some(next) => cursor = next,
            None => return findings,
        }
        if *store.state().borrow() != DriveState::Healthy {
            return findings;
        }
    }
    panic!("a scrub that never ends");
}

/// Where a shard's record is.
pub fn place_of(store: &DriveStore, key: ShardKey) -> (PathBuf, index::ShardRow) {
    let row = store.kv_for_tests().get(index::SHARDS, &index::shard_key(key)).unwrap().unwrap();
    let row: index::ShardRow = index::decode(&row).unwrap();
    (crate::segment::path(&dir(), row.segment), row)
}

pub fn rot_body(bench: &Bench, store: &DriveStore, key: ShardKey) {
    let (path, row) = place_of(store, key);
    let at = row.offset + u64::from(row.head_bytes) + row.body_bytes / 2;
    bench.disk().flip_bit(&path, at * 8 + 3).unwrap();
}

fn rot_head(bench: &Bench, store: &DriveStore, key: ShardKey) {
    let (path, row) = place_of(store, key);
    bench.disk().flip_bit(&path, (row.offset + 20) * 8).unwrap();
}

fn rots(findings: &[crate::Finding]) -> Vec<Rot> {
    assert!(findings.iter().all(|finding| finding.healed), "{findings:?}");
    findings.iter().map(|finding| finding.rot).collect()
}

async fn check_intact(store: &DriveStore, session: u64, counters: &[u32], bytes: usize) {
    for counter in counters {
        let body = body_of(store, key(block(session, *counter), 0)).await.unwrap();
        assert_eq!(body, shard(block(session, *counter), 0, 0, bytes).body, "shard {counter}");
    }
}

async fn rebuilt(bench: &Bench, store: DriveStore) -> DriveStore {
    bench.world.crash(NODE);
    drop(store);
    bench.lose_index();
    bench.open().await
}

#[test]
fn a_sound_drive_scrubs_clean_in_any_budget() {
    in_worlds(0..6, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..60, 9000).await;
        store.tombstone(PgId(1), &[block(1, 1), block(1, 2)]).await.unwrap();
        store.trash(&[key(block(1, 3), 0)]).await.unwrap();
        let before = dump(&store);
        for budget in [1, 20_000, 1 << 30] {
            assert_eq!(scrub_all(&store, budget).await, vec![]);
        }
        let whole = store.scrub(ScrubCursor::default(), 1 << 30, ScrubOptions::default()).await;
        assert_eq!(whole.unwrap().shards, 58);
        assert_eq!(dump(&store), before);
    });
}

#[test]
fn a_rotten_body_is_found_kept_in_the_trash_and_written_anew_by_a_refill() {
    in_worlds(0..8, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..40, 9000).await;
        let bad = key(block(1, 7), 0);
        rot_body(&bench, &store, bad);
        // Without healing it is only told.
        let only_look = ScrubOptions { heal: false };
        let told = store.scrub(ScrubCursor::default(), 1 << 30, only_look).await.unwrap().findings;
        assert_eq!(told.len(), 1);
        assert!(!told[0].healed && body_of(&store, bad).await.is_ok());
        let findings = scrub_all(&store, 50_000).await;
        assert_eq!(rots(&findings), [Rot::Shard { key: bad, pg: PgId(1) }]);
        assert_eq!(body_of(&store, bad).await, Err(DriveError::NotFound(bad)));
        let listed = store.list(PgId(1), None, 100).await.unwrap().shards;
        assert!(listed.iter().all(|shard| shard.key != bad), "absent for repair");
        assert_eq!(store.list_trash(None, 10).await.unwrap().shards[0].key, bad);
        let refill = fill(shard(bad.block, 0, 0, 9000), 1);
        assert!(!store.put(refill).await.unwrap().existed);
        let all: Vec<u32> = (0..40).collect();
        check_intact(&store, 1, &all, 9000).await;
        assert_eq!(scrub_all(&store, 50_000).await, vec![]);
        let store = rebuilt(&bench, store).await;
        check_intact(&store, 1, &all, 9000).await;
        check_consistent(&store);
    });
}

/// Without a scrub too: whoever puts a shard again gets it stored, not just acknowledged.
#[test]
fn a_put_of_a_damaged_shard_writes_it_anew_and_the_old_record_stays_dead() {
    for head in [false, true] {
        in_worlds(0..6, |bench| async move {
            let store = bench.format().await;
            put_many(&store, 1, 0..30, 9000).await;
            let bad = key(block(1, 2), 0);
            if head {
                rot_head(&bench, &store, bad)
            } else {
                rot_body(&bench, &store, bad)
            }
            let seed = bench.world.seed();
            let again = shard(bad.block, 0, 0, 9000);
            let again = if seed % 2 == 0 { again } else { fill(again, 1) };
            let ack = store.put(again.clone()).await.unwrap();
            assert_eq!(ack, crate::PutAck { epoch: Epoch(1), existed: false });
            assert!(store.put(again).await.unwrap().existed, "the second time it is there");
            assert_eq!(store.metrics().puts_rewritten, 1);
            check_intact(&store, 1, &[1, 2, 3], 9000).await;
            // Deleted, compacted and rebuilt, neither record comes back (L2).
            store.tombstone(PgId(1), &[bad.block]).await.unwrap();
            put_many(&store, 2, 0..60, 9000).await;
            let gone: Vec<_> = (0..50).map(|n| block(2, n)).collect();
            store.tombstone(PgId(1), &gone).await.unwrap();
            store.maintain().await.unwrap();
            store.maintain().await.unwrap();
            let before = dump(&store);
            let store = rebuilt(&bench, store).await;
            assert_eq!(store.stat(bad).await, Ok(None));
            assert_eq!(dump(&store), before);
        });
    }
}

#[test]
fn a_rotten_head_is_dropped_and_its_segment_can_be_compacted() {
    in_worlds(0..4, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..1, 9000).await;
        put_many(&store, 1, 1..60, 9000).await;
        let bad = key(block(1, 0), 0);
        rot_head(&bench, &store, bad);
        let gone: Vec<_> = (1..60).map(|n| block(1, n)).collect();
        store.tombstone(PgId(1), &gone).await.unwrap();
        assert_eq!(store.maintain().await.unwrap().segments_stuck, 1);
        assert_eq!(rots(&scrub_all(&store, 1 << 20).await), [Rot::Shard { key: bad, pg: PgId(1) }]);
        assert_eq!(store.stat(bad).await, Ok(None));
        assert!(store.maintain().await.unwrap().segments_removed > 0, "nothing keeps it now");
        assert_eq!(scrub_all(&store, 1 << 20).await, vec![]);
        let before = dump(&store);
        let store = rebuilt(&bench, store).await;
        assert_eq!(dump(&store), before);
    });
}

#[test]
fn a_rotten_footer_is_rebuilt_from_the_records() {
    in_worlds(0..8, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..60, 9000).await;
        let (path, len) = bench.segments().remove(0);
        // In the footer or in the trailer behind it.
        let back = if bench.world.seed() % 2 == 0 { 4096 - 30 } else { 8192 - 30 };
        bench.disk().flip_bit(&path, (len - back) * 8).unwrap();
        let before = dump(&store);
        assert_eq!(rots(&scrub_all(&store, 1 << 20).await), [Rot::Footer { segment: 1 }]);
        assert_eq!(scrub_all(&store, 1 << 20).await, vec![]);
        let store = rebuilt(&bench, store).await;
        assert_eq!(store.open_report().damage, vec![]);
        assert_eq!(dump(&store), before);
        check_consistent(&store);
    });
}

#[test]
fn facts_that_rot_with_their_footer_are_declared_anew_from_the_index() {
    in_worlds(0..8, |bench| async move {
        let store = bench.format().await;
        // Facts of every kind in the first segment, about shards in it.
        put_many(&store, 1, 0..6, 9000).await;
        store.fence(PgId(7), Epoch(9)).await.unwrap();
        store.tombstone(PgId(1), &[block(1, 0), block(1, 1)]).await.unwrap();
        let floor = SessionFloor { group: GroupId(3), floor: SessionId(1) };
        store.raise_session_floor(floor).await.unwrap();
        store.close_session(GroupId(3), SessionId(5)).await.unwrap();
        store.close_fill_session(PgId(1), crate::FillSessionId(3)).await.unwrap();
        store.trash(&[key(block(1, 2), 0)]).await.unwrap();
        put_many(&store, 2, 0..60, 9000).await;
        let before = dump(&store);
        let (path, len) = bench.segments().remove(0);
        bench.disk().flip_bit(&path, (len - 8192 + 30) * 8).unwrap();
        // The heads of all facts records in it.
        let content = bench.disk().content(&path).unwrap();
        let mut rotten = 0;
        for at in (4096..content.len()).step_by(4096) {
            let head = crate::record::RecordHead::decode(&content[at..]);
            if head.is_ok_and(|head| head.kind == crate::record::RecordKind::Facts) {
                bench.disk().flip_bit(&path, (at as u64 + 17) * 8).unwrap();
                rotten += 1;
            }
        }
        assert!(rotten >= 4, "{rotten}");
        assert_eq!(rots(&scrub_all(&store, 1 << 20).await), [Rot::Footer { segment: 1 }]);
        assert_eq!(dump(&store), before);
        assert_eq!(scrub_all(&store, 1 << 20).await, vec![]);
        let store = rebuilt(&bench, store).await;
        assert_eq!(dump(&store), before, "the index may be lost as well now");
        check_consistent(&store);
    });
}

#[test]
fn rotten_facts_labels_and_superblocks_are_written_again() {
    in_worlds(0..4, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..60, 9000).await;
        store.fence(PgId(1), Epoch(3)).await.unwrap();
        let before = dump(&store);
        let segments = bench.segments();
        let (first, _) = &segments[0];
        let (active, _) = segments.last().unwrap();
        // The epoch before the first shard, in a sealed segment; the label of the active one.
        bench.disk().flip_bit(first, (4096 + 60) * 8).unwrap();
        bench.disk().flip_bit(active, 90 * 8).unwrap();
        bench.disk().flip_bit(&crate::superblock::path(&dir()), 300).unwrap();
        let found = rots(&scrub_all(&store, 1 << 20).await);
        let label = Rot::Label { segment: segments.len() as u64 };
        let facts = Rot::Facts { segment: 1, offset: 4096 };
        assert_eq!(found, [Rot::Superblock, facts, label]);
        assert_eq!(scrub_all(&store, 1 << 20).await, vec![]);
        let store = rebuilt(&bench, store).await;
        assert_eq!(store.open_report().damage, vec![]);
        assert_eq!(dump(&store), before);
    });
}

#[test]
fn an_index_that_lost_a_row_is_found_and_rebuilt() {
    in_worlds(0..4, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..60, 9000).await;
        let before = dump(&store);
        let lost = key(block(1, 5), 0);
        let mut batch = Batch::default();
        match bench.world.seed() % 2 {
            0 => batch.delete(index::SHARDS, index::shard_key(lost)),
            _ => batch.delete(index::BY_PG, index::pg_key(PgId(1), lost)),
        }
        store.kv_for_tests().write(batch, Durability::Synced).unwrap();
        assert_eq!(rots(&scrub_all(&store, 1 << 20).await), [Rot::Index]);
        assert!(matches!(*store.state().borrow(), DriveState::Stopped(_)));
        let store = store.into_closed().await.open().await.unwrap();
        assert!(store.open_report().index_rebuilt);
        assert_eq!(dump(&store), before);
        assert_eq!(scrub_all(&store, 1 << 20).await, vec![]);
    });
}

#[test]
fn shards_of_a_missing_segment_are_reported_one_by_one() {
    in_worlds(0..2, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..60, 9000).await;
        let (path, _) = bench.segments().remove(0);
        let lost: Vec<Rot> = (0..60)
            .map(|n| key(block(1, n), 0))
            .filter(|key| place_of(&store, *key).0 == path)
            .map(|key| Rot::Shard { key, pg: PgId(1) })
            .collect();
        store.close().await;
        drop(store);
        bench.env().disk.remove_file(&path).unwrap();
        let store = bench.open().await;
        assert_eq!(rots(&scrub_all(&store, 1 << 20).await), lost);
        assert_eq!(*store.state().borrow(), DriveState::Healthy);
        assert_eq!(scrub_all(&store, 1 << 20).await, vec![]);
    });
}

#[test]
fn a_disk_too_full_even_to_cut_its_tail_is_no_failed_drive() {
    in_worlds(0..10, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..10, 9000).await;
        let full = [DiskOp::Write, DiskOp::SetLen];
        bench.disk().inject(DiskFault::new(&full, Effect::Full).on(".seg"));
        for _ in 0..3 {
            let refused = store.put(shard(block(1, 90), 0, 0, 60_000)).await;
            assert!(matches!(refused, Err(DriveError::NoSpace { .. })), "{refused:?}");
        }
        check_intact(&store, 1, &[0, 5, 9], 9000).await;
        assert_eq!(*store.state().borrow(), DriveState::Healthy);
        bench.disk().clear_faults();
        put_many(&store, 1, 20..30, 500).await;
        let before = dump(&store);
        assert_eq!(store.stat(key(block(1, 90), 0)).await, Ok(None));
        let store = rebuilt(&bench, store).await;
        assert_eq!(dump(&store), before, "no remains behind the next batch");
    });
}

#[test]
fn space_returns_to_what_is_live() {
    in_worlds(0..4, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..200, 9000).await;
        let gone: Vec<_> = (0..200).filter(|n| n % 10 != 0).map(|n| block(1, n)).collect();
        assert_eq!(store.tombstone(PgId(1), &gone).await, Ok(180));
        for _ in 0..12 {
            store.maintain().await.unwrap();
        }
        let usage = store.usage().await.unwrap();
        assert_eq!((usage.shards, usage.segments_kept), (20, 0));
        assert_eq!(usage.live_bytes, 20 * 12_288);
        assert_eq!(usage.taken_bytes, usage.live_bytes + usage.reclaimable_bytes);
        let on_disk: u64 = bench.segments().iter().map(|(_, len)| len).sum();
        assert!(on_disk < 3 * usage.live_bytes, "{on_disk} bytes for {}", usage.live_bytes);
        let kept: Vec<u32> = (0..200).filter(|n| n % 10 == 0).collect();
        check_intact(&store, 1, &kept, 9000).await;
    });
}

#[test]
fn a_long_list_of_tombstones_is_one_group_commit_and_goes_behind_the_floor() {
    in_worlds(0..1, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..5, 100).await;
        let blocks: Vec<_> =
            (0..2000).map(|n| block(1 + u64::from(n % 3), n)).chain([block(1, 3)]).collect();
        let before = store.metrics().syncs;
        store.tombstone(PgId(1), &blocks).await.unwrap();
        assert!(store.metrics().syncs - before <= 2, "{}", store.metrics().syncs - before);
        store.tombstone(PgId(2), &[block(1, 5000)]).await.unwrap();
        let mut listed = Vec::new();
        loop {
            let after = listed.last().copied();
            let TombstonePage { blocks, more } =
                store.list_tombstones(PgId(1), after, 300).await.unwrap();
            listed.extend(blocks);
            if !more {
                break;
            }
        }
        let mut sorted = blocks.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(listed, sorted);
        let floor = SessionFloor { group: GroupId(3), floor: SessionId(3) };
        let closed = sorted.iter().filter(|block| block.session < SessionId(3)).count() as u64;
        let dropped = store.drop_closed_tombstones(PgId(1), &[floor]).await.unwrap();
        assert_eq!(dropped, Dropped { dropped: closed, kept: sorted.len() as u64 - closed });
        assert_eq!(store.usage().await.unwrap().tombstones, dropped.kept + 1);
        let store = rebuilt(&bench, store).await;
        assert_eq!(store.usage().await.unwrap().tombstones, dropped.kept + 1);
        check_consistent(&store);
    });
}

#[test]
fn the_trash_is_listed_by_age_restored_and_purged() {
    in_worlds(0..1, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..20, 100).await;
        for counter in (0..20).rev() {
            store.trash(&[key(block(1, counter), 0)]).await.unwrap();
            bench.env().clock.sleep(std::time::Duration::from_millis(5)).await;
        }
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let page = store.list_trash(after, 3).await.unwrap();
            listed.extend(page.shards.iter().map(|shard| shard.key.block.counter));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, (0..20).rev().collect::<Vec<_>>());
        assert_eq!(store.restore(&[key(block(1, 4), 0)]).await, Ok(1));
        let asked: Vec<_> = (0..10).map(|counter| key(block(1, counter), 0)).collect();
        assert_eq!(store.purge(&asked).await, Ok(9), "what is served is not purged");
        assert!(body_of(&store, asked[4]).await.is_ok());
        let headers = store.headers(&asked[3..5]).await.unwrap();
        assert_eq!(headers[0], None);
        assert_eq!(headers[1], Some(shard(block(1, 4), 0, 0, 100).header), "siblings' digests too");
    });
}

#[test]
fn a_flipped_bit_in_the_files_of_the_index_is_found_though_memory_hides_it() {
    in_worlds(0..4, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..60, 9000).await;
        let before = dump(&store);
        let files = bench.disk().files();
        let part = ["IMAGE", "LOG"][bench.world.seed() as usize % 2];
        let is_meant = |(path, len): &(std::path::PathBuf, u64)| {
            *len > 0 && path.to_string_lossy().contains(&format!("index/{part}"))
        };
        // An image that is empty yet has a head.
        let (path, len) = files.into_iter().find(is_meant).unwrap();
        bench.disk().flip_bit(&path, len * 4).unwrap();
        assert_eq!(rots(&scrub_all(&store, 1 << 20).await), [Rot::Index]);
        assert!(matches!(*store.state().borrow(), DriveState::Stopped(_)));
        let store = store.into_closed().await.open().await.unwrap();
        assert!(store.open_report().index_rebuilt);
        assert_eq!(dump(&store), before);
        assert_eq!(scrub_all(&store, 1 << 20).await, vec![]);
    });
}

#[test]
fn a_closed_drive_is_inspected_without_being_changed() {
    in_worlds(0..4, |bench| async move {
        let store = bench.format().await;
        put_many(&store, 1, 0..60, 9000).await;
        let held = dump(&store).shards.len();
        drop(store.into_closed().await);
        let files = || {
            let disk = bench.disk();
            let path = |(path, _): (std::path::PathBuf, u64)| (disk.content(&path).unwrap(), path);
            disk.files().into_iter().map(path).collect::<Vec<_>>()
        };
        let before = files();
        let found = crate::inspect(&bench.env(), &dir()).unwrap();
        assert_eq!((found.corrupt, found.missing, found.dangling), (0, 0, 0), "{:?}", found.faults);
        assert_eq!(found.shards.len(), held);
        assert!(files() == before);
        // The body of some shard, and a copy of the superblock.
        let (segment, len) = bench.segments().remove(0);
        bench.disk().flip_bit(&segment, len * 4).unwrap();
        bench.disk().flip_bit(&dir().join("superblock"), 8 * 20).unwrap();
        let found = crate::inspect(&bench.env(), &dir()).unwrap();
        assert_eq!(found.corrupt, 2, "{:?}", found.faults);
        bench.disk().flip_bit(&segment, len * 4).unwrap();
        let mut disk = bench.disk().files().into_iter();
        let (image, len) =
            disk.find(|(path, _)| path.to_string_lossy().contains("index/IMAGE")).unwrap();
        bench.disk().flip_bit(&image, len * 4).unwrap();
        let found = crate::inspect(&bench.env(), &dir()).unwrap();
        assert!(found.faults.iter().any(|what| what.contains("the index")), "{:?}", found.faults);
    });
}
