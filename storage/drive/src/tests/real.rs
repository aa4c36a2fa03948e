//! Smoke test on this machine's disk and RocksDB.

use nexusgrid_codec::{Epoch, PgId};
use nexusgrid_env::Env;

use super::support::*;
use crate::{DriveStore, OpenError};

#[test]
fn real_disk_and_rocksdb_keep_shards_over_a_restart_and_a_lost_index() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("drive");
    runtime.block_on(async {
        let env = Env::real();
        let options = options();
        DriveStore::format(&env, &dir, IDENTITY, &options).await.unwrap();
        let store = DriveStore::open(&env, &dir, IDENTITY, None, &options).await.unwrap();
        let puts = (0..40).map(|counter| {
            let store = store.clone();
            let write = shard(block(1, counter), 0, 0, 1000 + counter as usize * 3000);
            tokio::spawn(async move { store.put(write).await })
        });
        for put in futures_util::future::join_all(puts.collect::<Vec<_>>()).await {
            put.unwrap().unwrap();
        }
        store.fence(PgId(1), Epoch(3)).await.unwrap();
        let gone: Vec<_> = (0..20).map(|counter| block(1, counter)).collect();
        assert_eq!(store.tombstone(PgId(1), &gone).await, Ok(20));
        let done = store.maintain().await.unwrap();
        assert!(done.segments_removed > 0, "{done:?}");
        let before = dump(&store);
        let locked = DriveStore::open(&env, &dir, IDENTITY, None, &options).await;
        assert!(matches!(locked, Err(OpenError::Locked(_))));
        store.close().await;
        drop(store);

        let store = reopen(&env, &dir, &options).await;
        assert_eq!(dump(&store), before);
        assert!(!store.open_report().index_rebuilt);
        store.close().await;
        drop(store);

        env.kv.destroy(&crate::index::path(&dir)).unwrap();
        let store = reopen(&env, &dir, &options).await;
        assert_eq!(dump(&store), before);
        check_consistent(&store);
        for counter in 20..40 {
            let key = key(block(1, counter), 0);
            let body = body_of(&store, key).await.unwrap();
            assert_eq!(body, shard(block(1, counter), 0, 0, 1000 + counter as usize * 3000).body);
            assert!(is_good(&store, key).await);
        }
        store.close().await;
    });
}

/// The lock goes when the last part of the old store has ended, a moment after its close.
async fn reopen(env: &Env, dir: &std::path::Path, options: &crate::DriveOptions) -> DriveStore {
    for _ in 0..200 {
        match DriveStore::open(env, dir, IDENTITY, None, options).await {
            Err(OpenError::Locked(_)) => {
                env.clock.sleep(std::time::Duration::from_millis(10)).await;
            }
            opened => return opened.unwrap(),
        }
    }
    panic!("the lock is still held");
}
