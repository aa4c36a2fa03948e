//! Reads through a cache of frames: what it has is not fetched again, and what it has wrong is not believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use nexusgrid_env::sim::World;
use nexusgrid_grid::*;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::cluster::{Cluster, collect, content, get, options, put};

/// Long enough that membership has noticed.
const NOTICED: Duration = Duration::from_secs(10);

/// Keeps all, and may be told to lie.
#[derive(Default)]
struct Near {
    kept: Mutex<BTreeMap<FrameId, Bytes>>,
    lies: AtomicBool,
}

#[async_trait]
impl FrameCache for Near {
    async fn get(&self, id: FrameId) -> Option<Bytes> {
        let kept = self.kept.lock().get(&id)?.clone();
        if !self.lies.load(Ordering::Relaxed) {
            return Some(kept);
        }
        let mut wrong = BytesMut::from(kept.as_ref());
        match id.frame % 3 {
            0 => wrong.truncate(wrong.len() / 2),
            1 => wrong.extend_from_slice(b"more"),
            _ => wrong[5] ^= 1,
        }
        Some(wrong.freeze())
    }

    fn put(&self, id: FrameId, sealed: Bytes) {
        self.kept.lock().insert(id, sealed);
    }

    fn remove(&self, id: FrameId) {
        self.kept.lock().remove(&id);
    }

    async fn close(&self) {}
}

fn counted(grid: &Grid, name: &str) -> u64 {
    grid.metrics().get(name).unwrap()
}

#[test]
fn what_was_read_once_is_not_fetched_again() {
    let world = World::new(71);
    world.run(async {
        let mut with = options(7);
        with.block_bytes = 8 << 20;
        let cluster = Cluster::start_with(&world, 7, with).await;
        let (reader, near) = (cluster.grid(1), Arc::new(Near::default()));
        cluster.member(1).node.set_cache(Arc::clone(&near) as Arc<dyn FrameCache>);
        reader.create_bucket("near", "me").await.unwrap();
        // A block of its own, one in a pack, and one that is too small for either.
        let sizes = [6 << 20, 100_000, 100];
        for (tag, size) in (1..).zip(sizes) {
            put(&reader, "near", &format!("k{size}"), &content(tag, size)).await.unwrap();
        }
        for (tag, size) in (1..).zip(sizes) {
            assert!(get(&reader, "near", &format!("k{size}")).await.unwrap() == content(tag, size));
        }
        assert_eq!(counted(&reader, "cache_frames_found"), 0);
        let (missed, frames) = (counted(&reader, "cache_frames_missed"), near.kept.lock().len());
        // All but what lies here; a block's drives are of all nodes but one.
        assert!(missed as usize == frames && frames >= 48, "{missed} {frames}");
        for (tag, size) in (1..).zip(sizes) {
            assert!(get(&reader, "near", &format!("k{size}")).await.unwrap() == content(tag, size));
        }
        assert_eq!(counted(&reader, "cache_frames_found"), missed);
        // What is near speaks for nobody: with too many gone, it is refused before its first byte.
        let range = || Some(ByteRange::FromTo(0, 1 << 20));
        let first = |grid: Grid| async move { grid.get("near", "k6291456", range()).await };
        collect(first(reader.clone()).await.unwrap().body).await.unwrap();
        (4..=7).for_each(|node| cluster.kill(node));
        tokio::time::sleep(NOTICED).await;
        let refused =
            reader.get("near", "k6291456", None).await.unwrap().body.next().await.unwrap();
        assert!(matches!(refused, Err(GridError::Unreadable(_))));
    });
}

#[test]
fn what_rots_in_it_is_fetched_anew() {
    let world = World::new(72);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        let (reader, near) = (cluster.grid(1), Arc::new(Near::default()));
        cluster.member(1).node.set_cache(Arc::clone(&near) as Arc<dyn FrameCache>);
        reader.create_bucket("near", "me").await.unwrap();
        let bytes = content(1, 1 << 20);
        put(&reader, "near", "k", &bytes).await.unwrap();
        assert!(get(&reader, "near", "k").await.unwrap() == bytes);
        let frames = near.kept.lock().len() as u64;
        near.lies.store(true, Ordering::Relaxed);
        assert!(get(&reader, "near", "k").await.unwrap() == bytes);
        assert_eq!(counted(&reader, "cache_frames_bad"), frames);
        near.lies.store(false, Ordering::Relaxed);
        assert!(get(&reader, "near", "k").await.unwrap() == bytes);
        assert_eq!(counted(&reader, "cache_frames_found"), frames);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever is kept of it, any range is what was written.
    #[test]
    fn ranges_are_whole_whatever_is_near(
        seed in 1000u64..2000,
        ranges in prop::collection::vec((0u64..2_000_000, 1u64..400_000), 1..12),
        loses in prop::collection::vec(0usize..40, 0..12),
    ) {
        let world = World::new(seed);
        world.run(async {
            let mut with = options(7);
            with.block_bytes = 1 << 20;
            let cluster = Cluster::start_with(&world, 7, with).await;
            let (reader, near) = (cluster.grid(1), Arc::new(Near::default()));
            cluster.member(1).node.set_cache(Arc::clone(&near) as Arc<dyn FrameCache>);
            reader.create_bucket("near", "me").await.unwrap();
            let bytes = content(seed, 2_000_000);
            put(&reader, "near", "k", &bytes).await.unwrap();
            let mut loses = loses.into_iter();
            for (from, len) in ranges {
                let last = (from + len - 1).min(1_999_999);
                let range = Some(ByteRange::FromTo(from, last));
                let got = reader.get("near", "k", range).await.unwrap().body;
                let got = collect(got).await.unwrap();
                assert!(got == bytes[from as usize..=last as usize], "{from} {last}");
                // One of those that it has is pushed out.
                let lost = loses.next().and_then(|at| near.kept.lock().keys().nth(at).copied());
                lost.inspect(|id| near.remove(*id));
            }
        });
    }
}
