//! The fleet is evened out: slots move with their data, by themselves, when all is calm.

use std::time::Duration;

use nexusgrid_codec::DriveId;
use nexusgrid_env::sim::World;
use nexusgrid_meta::root::types::{RootCommand, SpaceMark};

use super::super::cluster::{Cluster, until};
use super::{BUCKET, PATIENCE, Scene, Truth, options};

/// Slots of each drive.
fn slots(scene: &Scene, drive: u64) -> usize {
    let map = scene.cluster.topology();
    map.pgs.values().filter(|pg| pg.slots.contains(&DriveId(drive))).count()
}

/// Waits until nothing has moved for a minute.
async fn settled(scene: &Scene) {
    let moves = || scene.cluster.topology().pgs.values().map(|pg| pg.epoch.0).sum::<u64>();
    for _ in 0..100 {
        let before = moves();
        tokio::time::sleep(Duration::from_secs(60)).await;
        scene.until_clean_without(&[]).await;
        if moves() == before {
            return;
        }
    }
    panic!("the balancer does not come to rest");
}

#[test]
fn a_machine_that_joins_gets_its_share_and_a_full_drive_gives_some_away() {
    let world = World::new(57);
    world.run(async {
        let mut options = options(7);
        options.care.remap.balance_after = Duration::from_secs(30);
        let mut cluster = Cluster::start_with(&world, 7, options).await;
        cluster.grid(1).create_bucket(BUCKET, "me").await.unwrap();
        cluster.join(8).await;
        let scene = Scene {
            cluster: std::sync::Arc::new(cluster),
            truth: Truth::default(),
            moved: std::sync::Arc::default(),
        };
        scene.count_moves();
        scene.write_some(1, "before", 6).await;
        let (stop, load) = scene.load(2);
        let map = scene.cluster.topology();
        let share = map.pgs.values().map(|pg| pg.slots.len()).sum::<usize>() / 8;
        until(PATIENCE, || slots(&scene, 8) + 2 >= share).await;
        settled(&scene).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(load.await.unwrap() > 0);
        scene.check(8).await;
        scene.assert_complete().await;

        assert!(slots(&scene, 8) + 3 >= share, "{} of {share}", slots(&scene, 8));
        let before = slots(&scene, 3);
        let full = |mark| RootCommand::SetDriveUse { drive: DriveId(3), used_bytes: 1, mark };
        scene.cluster.root(&full(SpaceMark::NoBackfill));
        // Its node says that it has room again after a minute: by then some have gone.
        until(PATIENCE, || slots(&scene, 3) < before).await;
        settled(&scene).await;
        scene.check(3).await;
        scene.assert_complete().await;
    });
}

#[test]
fn a_machine_gets_its_share_though_one_of_twenty_is_always_down() {
    let world = World::new(58);
    world.run(async {
        let mut options = options(20);
        // Nobody is away for long enough to be given up.
        options.care.remap.grace_stable = Duration::from_secs(3600);
        options.care.remap.balance_after = Duration::from_secs(60);
        let mut cluster = Cluster::start_with(&world, 20, options).await;
        cluster.grid(1).create_bucket(BUCKET, "me").await.unwrap();
        cluster.join(21).await;
        let scene = Scene {
            cluster: std::sync::Arc::new(cluster),
            truth: Truth::default(),
            moved: std::sync::Arc::default(),
        };
        scene.write_some(1, "before", 2).await;
        let map = scene.cluster.topology();
        let share = map.pgs.values().map(|pg| pg.slots.len()).sum::<usize>() / 21;
        assert_eq!(slots(&scene, 21), 0);
        let mut away = 2;
        for _ in 0..60 {
            if slots(&scene, 21) + 3 >= share {
                break;
            }
            scene.cluster.kill(away);
            tokio::time::sleep(Duration::from_secs(100)).await;
            scene.cluster.start_node(nexusgrid_env::NodeId(away)).await;
            away = away % 19 + 2;
        }
        assert!(slots(&scene, 21) + 3 >= share, "{} of {share}", slots(&scene, 21));
        settled(&scene).await;
        scene.check(21).await;
        scene.assert_complete().await;
    });
}
