//! Distribution of the map, in the simulated world.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_cluster::method::{MAP_GET, METHODS};
use nexusgrid_cluster::{MapCache, MapOptions, MapSource, RpcRouter, VersionedMap};
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;

fn map(version: u64) -> VersionedMap {
    VersionedMap { version, bytes: Bytes::from(format!("map {version}")) }
}

const SOURCES: [NodeId; 2] = [NodeId(1), NodeId(2)];

fn source(world: &World, node: NodeId) -> Arc<MapSource> {
    world.start(node);
    let source = MapSource::new(VersionedMap::default());
    let router = RpcRouter::new();
    router.declare(METHODS);
    router.register(&[MAP_GET], source.clone());
    world.net().serve(node, router);
    source
}

fn cache(world: &World, node: NodeId) -> Arc<MapCache> {
    let env = world.start(node);
    let rpc = world.net().rpc(node);
    MapCache::start(
        env,
        rpc,
        Arc::new(|| SOURCES.to_vec()),
        VersionedMap::default(),
        MapOptions::default(),
    )
}

async fn reaches(cache: &MapCache, version: u64, within: Duration) {
    let mut changes = cache.subscribe();
    tokio::time::timeout(within, changes.wait_for(|map| map.version >= version))
        .await
        .unwrap_or_else(|_| panic!("version {version} did not arrive in {within:?}"))
        .unwrap();
    assert_eq!(cache.current(), map(version));
}

#[test]
fn a_new_map_reaches_everyone_at_once() {
    let world = World::new(3);
    world.run(async {
        let sources = SOURCES.map(|node| source(&world, node));
        let caches: Vec<_> = (3..8).map(|node| cache(&world, NodeId(node))).collect();
        for version in 1..20 {
            sources.iter().for_each(|source| source.publish(map(version)));
            for cache in &caches {
                reaches(cache, version, Duration::from_millis(500)).await;
            }
            tokio::time::sleep(Duration::from_secs(7)).await;
        }
    });
}

#[test]
fn a_dead_source_is_replaced_and_an_old_map_ignored() {
    let world = World::new(4);
    world.run(async {
        let sources = SOURCES.map(|node| source(&world, node));
        let cache = cache(&world, NodeId(3));
        sources.iter().for_each(|source| source.publish(map(5)));
        reaches(&cache, 5, Duration::from_secs(1)).await;
        world.kill(SOURCES[0]);
        sources[1].publish(map(6));
        reaches(&cache, 6, Duration::from_secs(40)).await;
        // The other comes back with what it had, and only later learns the news.
        let returned = source(&world, SOURCES[0]);
        returned.publish(map(4));
        world.kill(SOURCES[1]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(cache.current(), map(6));
        returned.publish(map(7));
        reaches(&cache, 7, Duration::from_secs(40)).await;
        sources[0].publish(map(3));
        cache.offer(map(2));
        assert_eq!(cache.current(), map(7));
    });
}
