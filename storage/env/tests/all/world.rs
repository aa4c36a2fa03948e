//! Machines, their lives and clocks; and that a seed replays.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_env::sim::{DiskFault, DiskOp, Effect, NetOptions, World};
use nexusgrid_env::{
    Batch, Durability, Env, Exec, KvOptions, MethodId, NodeId, OpenMode, Peer, Rng, RpcError,
    RpcRequest, RpcResponse, RpcService, ScanRange,
};

const A: NodeId = NodeId(1);
const SECOND: Duration = Duration::from_secs(1);

fn kv_options() -> KvOptions {
    KvOptions { families: vec!["rows"], blob_families: vec![], create: true }
}

#[test]
fn an_old_life_can_do_nothing_more() {
    let world = World::new(1);
    world.run(async {
        let env = world.start(A);
        let store = env.kv.open(Path::new("/kv"), &kv_options()).unwrap();
        let mut batch = Batch::default();
        batch.put("rows", "safe", "1");
        store.write(batch, Durability::Synced).unwrap();
        let ticks = Arc::new(AtomicU64::new(0));
        let counted = ticks.clone();
        let clock = env.clock.clone();
        let task = env.exec.spawn(async move {
            loop {
                clock.sleep(SECOND).await;
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        tokio::time::sleep(5 * SECOND + SECOND / 2).await;
        assert_eq!(ticks.load(Ordering::SeqCst), 5);
        world.crash(A);
        assert!(!world.is_up(A));
        assert!(task.await.unwrap().is_none());
        assert!(store.get("rows", b"safe").is_err() && store.snapshot().is_err());
        assert!(store.write(Batch::default(), Durability::Unsynced).is_err());
        assert!(env.kv.open(Path::new("/kv"), &kv_options()).is_err());
        assert!(env.disk.open(Path::new("/file"), OpenMode::OpenOrCreate).is_err());
        let next = world.start(A);
        let store = next.kv.open(Path::new("/kv"), &kv_options()).unwrap();
        assert_eq!(store.get("rows", b"safe").unwrap().unwrap(), "1");
        assert_eq!(ticks.load(Ordering::SeqCst), 5);
    });
}

#[test]
fn a_suspended_machine_stands_still_while_its_boot_time_goes_on() {
    let world = World::new(2);
    world.run(async {
        let env = world.start(A);
        let mut jumps = env.clock.suspend_jumps();
        let ticks = Arc::new(AtomicU64::new(0));
        let (counted, clock) = (ticks.clone(), env.clock.clone());
        env.exec.spawn(async move {
            loop {
                // Not the clock's own sleep: what a library waits for stands still too.
                tokio::time::sleep(SECOND).await;
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = clock.now();
            }
        });
        let started = env.clock.now();
        tokio::time::sleep(SECOND * 7 / 2).await;
        world.suspend(A);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(ticks.load(Ordering::SeqCst), 3);
        assert!(!jumps.has_changed().unwrap());
        world.resume(A);
        tokio::time::sleep(SECOND * 3 / 2).await;
        assert!((4..=5).contains(&ticks.load(Ordering::SeqCst)));
        assert_eq!(*jumps.borrow_and_update(), 1);
        assert_eq!(env.clock.now().since(started), 15 * SECOND);
    });
}

#[test]
fn clocks_jump_drift_and_skew_each_on_its_own() {
    let world = World::new(3);
    world.run(async {
        let (env, other) = (world.start(A), world.start(NodeId(2)));
        let (started, started_other) = (env.clock.now(), other.clock.now());
        let wall = env.clock.wall();
        world.jump(A, 60 * SECOND);
        assert_eq!(env.clock.now().since(started), 60 * SECOND);
        assert_eq!(*env.clock.suspend_jumps().borrow(), 1);
        assert_eq!(other.clock.now(), started_other);
        world.set_wall_skew(A, -3_600_000);
        assert_eq!(env.clock.wall().0, wall.0 - 3_600_000);
        assert_eq!(other.clock.wall(), wall);
        world.set_drift(A, 20_000);
        let started = env.clock.now();
        tokio::time::sleep(100 * SECOND).await;
        assert_eq!(env.clock.now().since(started), 102 * SECOND);
        let before = world.elapsed();
        env.clock.sleep(102 * SECOND).await;
        assert!((world.elapsed() - before).abs_diff(100 * SECOND) < Duration::from_millis(2));
        world.crash(A);
        let booted = world.start(A);
        assert_ne!(booted.clock.now(), env.clock.now(), "boot time begins anew");
        assert_eq!(*booted.clock.suspend_jumps().borrow(), 0);
    });
}

#[test]
fn a_slow_disk_takes_virtual_time() {
    let world = World::new(5);
    world.run(async {
        let (slow, fast) = (world.start(A), world.start(NodeId(2)));
        world.set_slow_disk(A, SECOND / 10);
        slow.exec.blocking(|| ()).await;
        assert_eq!(world.elapsed(), SECOND / 10);
        fast.exec.blocking(|| ()).await;
        assert_eq!(world.elapsed(), SECOND / 10);
    });
}

#[test]
fn virtual_time_goes_on_through_several_runs() {
    let world = World::new(4);
    world.run(async { tokio::time::sleep(SECOND).await });
    world.run(async { tokio::time::sleep(SECOND).await });
    assert_eq!(world.elapsed(), 2 * SECOND);
}

#[tokio::test]
async fn blocking_work_runs_on_threads_in_the_product() {
    let exec = Exec::threads();
    let here = std::thread::current().id();
    let there = exec.blocking(|| std::thread::current().id()).await;
    assert_ne!(here, there);
    let waits = exec.clone();
    let task = exec.spawn(async move { waits.until_stopped().await });
    exec.stop();
    task.await.unwrap();
    exec.wait().await;
    assert!(exec.stopped());
}

/// Stores what it is sent.
struct Keeper {
    env: Env,
}

#[async_trait]
impl RpcService for Keeper {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let disk = self.env.disk.clone();
        let stored = self.env.exec.blocking(move || {
            let file = disk.open(Path::new("/kept"), OpenMode::OpenOrCreate)?;
            let at = file.len()?;
            file.write_at(&request.head, at)?;
            if from.node.0.is_multiple_of(2) { file.sync() } else { Ok(()) }
        });
        match stored.await {
            Ok(()) => Ok(RpcResponse {
                head: request.method.0.to_le_bytes().to_vec().into(),
                body: Bytes::new(),
            }),
            Err(error) => Err(RpcError::Failed(error.to_string())),
        }
    }
}

/// A busy world: five machines that send, store, crash, sleep and drift.
fn busy_world(seed: u64) -> (u64, u64, Duration) {
    let world = World::new(seed);
    let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
    let begin = |node| {
        let env = world.start(node);
        let rpc = world.net().endpoint(node, Arc::new(Keeper { env: env.clone() }));
        let exec = env.exec.clone();
        exec.spawn(async move {
            let store = env.kv.open(Path::new("/kv"), &kv_options()).ok()?;
            loop {
                let to = NodeId(1 + env.rng.below(5));
                let head = Bytes::copy_from_slice(&env.rng.u64().to_le_bytes());
                let request = RpcRequest { method: MethodId(1), head, body: Bytes::new() };
                let answer = rpc.call(to, request, SECOND).await;
                let mut batch = Batch::default();
                batch.put("rows", env.rng.u64().to_be_bytes(), format!("{answer:?}"));
                let durability = match env.rng.below(4) {
                    0 => Durability::Synced,
                    _ => Durability::Unsynced,
                };
                store.write(batch, durability).ok()?;
                tokio::select! {
                    () = env.clock.sleep(Duration::from_millis(env.rng.below(200))) => {}
                    () = env.clock.sleep(Duration::from_millis(env.rng.below(200))) => {}
                }
            }
            #[allow(unreachable_code, reason = "gives the block its type")]
            Some(())
        });
    };
    world.run(async {
        world.net().set_options(NetOptions::rough());
        nodes.iter().for_each(|node| begin(*node));
        let rng = world.rng();
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_millis(rng.below(1000))).await;
            let node = NodeId(1 + rng.below(5));
            match rng.below(8) {
                0 => world.crash(node),
                1 => world.kill(node),
                2 => world.suspend(node),
                3 => world.resume(node),
                4 => world.net().cut(node, NodeId(1 + rng.below(5))),
                5 => world.net().heal(),
                6 => world.jump(node, 30 * SECOND),
                _ => {
                    world.disk(node).inject(DiskFault::new(&[DiskOp::Write], Effect::Eio).times(1))
                }
            }
            for node in &nodes {
                if !world.is_up(*node) && rng.below(3) == 0 {
                    begin(*node);
                }
            }
        }
        // What is stored counts as well.
        let mut rows = 0;
        for node in &nodes {
            world.disk(*node).clear_faults();
            let env = world.restart(*node);
            let store = env.kv.open(Path::new("/kv"), &kv_options()).unwrap();
            for (key, value) in store.scan("rows", &ScanRange::prefix(b"", usize::MAX)).unwrap() {
                world.trace().record(format_args!("{key:?} {value:?}"));
                rows += 1;
            }
        }
        (world.trace_hash(), rows, world.elapsed())
    })
}

#[test]
fn a_seed_replays() {
    for seed in 0..6 {
        let first = busy_world(seed);
        println!("seed {seed}: {first:?}");
        assert!(first.1 > 100, "the world was busy: {first:?}");
        assert_eq!(first, busy_world(seed), "seed {seed}");
    }
    assert_ne!(busy_world(1).0, busy_world(2).0);
}

/// Set for the second process: the seed whose hash it prints.
const REPLAY_SEED: &str = "NEXUSGRID_TEST_REPLAY_SEED";

#[test]
#[allow(clippy::disallowed_methods, reason = "starts this test in a second process")]
fn a_seed_replays_in_another_process() {
    if let Ok(seed) = std::env::var(REPLAY_SEED) {
        println!("hash={:016x}", busy_world(seed.parse().unwrap()).0);
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "world::a_seed_replays_in_another_process", "--nocapture"])
        .env(REPLAY_SEED, "11")
        .output()
        .unwrap();
    let expected = format!("hash={:016x}", busy_world(11).0);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains(&expected), "{expected} not in {printed}");
}

#[test]
fn a_trace_tells_what_happened() {
    let world = World::new(7);
    world.trace().keep_events();
    world.run(async {
        world.start(A);
        world.crash(A);
    });
    let events = world.events();
    assert!(events.iter().any(|event| event.text.ends_with("n1 loses power")), "{events:?}");
    assert_eq!(world.trace().count(), events.len() as u64);
}
