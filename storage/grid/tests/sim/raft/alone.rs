//! Mounts that have their bucket to themselves, over real groups: what they decide is what the group decides, others see it at
//! once, and what dies takes no more with it than what nobody had synced.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nexusgrid_grid::volume::*;

use super::*;

const BUCKET: &str = "drive";
const NAMES: usize = 8;

fn creation(what: NewNode) -> Creation {
    let maker = Maker { uid: 1, gid: 1, mode: 0o644, umask: 0 };
    Creation { what, maker, hold: false }
}

/// Names of requests, as a daemon gives them: what has none is not done for programs.
#[derive(Default)]
struct Requests(AtomicU64);

impl Requests {
    fn next(&self) -> Option<CommandId> {
        let number = u128::from(self.0.fetch_add(1, Ordering::Relaxed) + 1);
        Some(CommandId((number << 32).to_be_bytes()))
    }
}

const NOTHING: AttrsChange =
    AttrsChange { mode: None, uid: None, gid: None, accessed: None, modified: None };

/// A change of a program; it may be refused. Gives what happened, for whoever looks for why.
async fn change(volume: &Volume, ids: &Requests, rng: &dyn Rng, dirs: &[Ino]) -> String {
    let name = || format!("n{}", rng.u64() as usize % NAMES).into_bytes();
    let dir = || dirs[rng.u64() as usize % dirs.len()];
    let (one, other, at, to) = (name(), name(), dir(), dir());
    let found = volume.lookup(at, &one).await.ok().and_then(|node| node.ino);
    let kind = rng.u64() % 12;
    let done = match (kind, found) {
        (0 | 1, _) => volume.make(at, &one, creation(NewNode::File), ids.next()).await.map(drop),
        (2, _) => volume.make(at, &one, creation(NewNode::Directory), ids.next()).await.map(drop),
        (3, _) => volume.unlink(at, &one, ids.next()).await,
        (4, _) => volume.rmdir(at, &one, ids.next()).await,
        (5, _) => volume.rename((at, &one), (to, &other), RenameMode::Replace, ids.next()).await,
        (6, Some(ino)) => volume.link(ino, to, &other, ids.next()).await.map(drop),
        (7, Some(ino)) => {
            let change = AttrsChange { mode: Some((rng.u64() % 0o1000) as u32), ..NOTHING };
            let size = rng.u64().is_multiple_of(2).then_some(rng.u64() % 400);
            volume.set_attrs(ino, change, size, ids.next()).await.map(drop)
        }
        (8, Some(ino)) => {
            let value = Some(rng.u64().to_le_bytes().to_vec());
            volume.set_xattr(ino, b"user.x", value, XattrWhen::Either, ids.next()).await
        }
        (9, Some(ino)) => {
            // Too long to stand in a row.
            let bytes = content(rng.u64(), 9_000);
            let range = FileRange { offset: rng.u64() % 300, pieces: vec![bytes] };
            volume.write(ino, vec![range], None, ids.next()).await.map(drop)
        }
        (_, Some(ino)) => {
            let bytes = content(rng.u64(), 1 + rng.u64() as usize % 300);
            let offset = if rng.u64().is_multiple_of(2) { 0 } else { rng.u64() % 300 };
            volume
                .write(ino, vec![FileRange { offset, pieces: vec![bytes] }], None, ids.next())
                .await
                .map(drop)
        }
        (_, None) => Ok(()),
    };
    format!("{kind} {at:?} {found:?}: {done:?}")
}

/// What a mount sees: names, what they lead to, and bytes. Sequences are the group's affair, and another before it has heard.
async fn seen(volume: &Volume, dirs: &[Ino]) -> BTreeMap<(u64, Vec<u8>), (Node, Option<Bytes>)> {
    let mut all = BTreeMap::new();
    for dir in dirs {
        let entries = match volume.list(*dir, Cookie::default(), 1_000).await {
            Ok(entries) => entries,
            Err(VolumeError::Posix(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        for entry in entries {
            let mut node = volume.lookup(*dir, &entry.name).await.unwrap();
            let bytes = match &mut node.kind {
                NodeKind::File { sequence, .. } => {
                    *sequence = 0;
                    Some(volume.read(node.ino.unwrap(), 0, 1 << 20).await.unwrap())
                }
                _ => None,
            };
            all.insert((dir.0, entry.name), (node, bytes));
        }
    }
    all
}

async fn is_given(volume: &Volume, ids: &Requests) {
    let begun = tokio::time::Instant::now();
    while !volume.delegation().is_held {
        assert!(begun.elapsed() < Duration::from_secs(120), "it is never given");
        let name = format!("t{}", ids.0.load(Ordering::Relaxed));
        let creation = creation(NewNode::File);
        volume.make(Ino::ROOT, name.as_bytes(), creation, ids.next()).await.unwrap();
        volume.unlink(Ino::ROOT, name.as_bytes(), ids.next()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// More of them with `NEXUSGRID_SEEDS`, for whoever looks for faults.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let more = std::env::var("NEXUSGRID_SEEDS").ok().and_then(|count| count.parse::<u64>().ok());
    usual.start..more.map_or(usual.end, |count| usual.start + count)
}

async fn begin(world: &World) -> RaftCluster {
    let cluster = RaftCluster::start(world).await;
    cluster.grid(3).create_bucket(BUCKET, "me").await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster
}

#[test]
fn what_a_mount_does_alone_is_said_in_few_commands_and_seen_by_all() {
    let world = World::new(80);
    world.run(async {
        let cluster = begin(&world).await;
        let (alone, other) = (cluster.grid(3), cluster.grid(6));
        let (alone, other) =
            (alone.volume(BUCKET).await.unwrap(), other.volume(BUCKET).await.unwrap());
        alone.work_alone();
        let ids = Requests::default();
        is_given(&alone, &ids).await;
        let before = alone.delegation();
        let dir = alone.make(Ino::ROOT, b"dir", creation(NewNode::Directory), ids.next()).await;
        let dir = dir.unwrap().ino.unwrap();
        for at in 0..300u64 {
            let name = format!("f{at:03}");
            let made = alone.make(dir, name.as_bytes(), creation(NewNode::File), ids.next()).await;
            let ino = made.unwrap().ino.unwrap();
            let range = FileRange { offset: 0, pieces: vec![content(at, 100)] };
            alone.write(ino, vec![range], None, ids.next()).await.unwrap();
            assert_eq!(alone.read(ino, 0, 100).await.unwrap(), content(at, 100));
        }
        let again = ids.next();
        alone.rename((dir, b"f000"), (dir, b"g"), RenameMode::Replace, again).await.unwrap();
        // Asked once more, under its name, it has happened.
        alone.rename((dir, b"f000"), (dir, b"g"), RenameMode::Replace, again).await.unwrap();
        alone.sync().await.unwrap();
        let figures = alone.delegation();
        assert_eq!(figures.given, before.given, "it was held all the time");
        assert_eq!(figures.steps - before.steps, 602);
        assert!(figures.commands - before.commands < 60, "{figures:?}");
        // Another mount, and S3.
        assert_eq!(seen(&other, &[dir]).await.len(), 300);
        assert!(!alone.delegation().is_held);
        let read = get(&cluster.grid(4), BUCKET, "dir/g").await.unwrap();
        assert_eq!(read, content(0, 100));
        assert_eq!(seen(&alone, &[dir]).await, seen(&other, &[dir]).await);
        // Whoever does nothing gives it back.
        is_given(&alone, &ids).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!alone.delegation().is_held);
        assert_eq!(alone.delegation().lost, 0);
    });
}

#[test]
fn whoever_looks_sees_what_others_did_alone() {
    for seed in seeds(81..85) {
        let world = World::new(seed);
        world.run(async {
            let cluster = begin(&world).await;
            let mut volumes = Vec::new();
            for node in [3, 6, 7] {
                let volume = cluster.grid(node).volume(BUCKET).await.unwrap();
                volume.work_alone();
                volumes.push(volume);
            }
            let (rng, ids) = (world.rng(), Requests::default());
            let mut dirs = vec![Ino::ROOT];
            for name in [b"d", b"e"] {
                let made = volumes[0].make(Ino::ROOT, name, creation(NewNode::Directory), None);
                dirs.push(made.await.unwrap().ino.unwrap());
            }
            let mut given = 0;
            for round in 0..24 {
                let one = &volumes[rng.u64() as usize % volumes.len()];
                if rng.u64().is_multiple_of(2) {
                    is_given(one, &ids).await;
                }
                let mut log = Vec::new();
                for _ in 0..rng.u64() % 40 {
                    log.push(change(one, &ids, &*rng, &dirs).await);
                    if rng.u64().is_multiple_of(16) {
                        one.sync().await.unwrap();
                    }
                }
                if rng.u64().is_multiple_of(4) {
                    let bytes = content(round, 200);
                    put(&cluster.grid(4), BUCKET, "d/n1", &bytes).await.unwrap();
                }
                // First as whoever did it sees it, then as the group has it, then as others do.
                let wanted = seen(one, &dirs).await;
                for volume in &volumes {
                    assert_eq!(seen(volume, &dirs).await, wanted, "seed {seed} {round} {log:#?}");
                }
                assert_eq!(seen(one, &dirs).await, wanted, "seed {seed} {round}");
                if round == 8 {
                    cluster.kill(1);
                    cluster.kill(2);
                }
                if round == 16 {
                    cluster.start_node(1).await;
                    cluster.start_node(2).await;
                }
            }
            for volume in &volumes {
                volume.close().await.unwrap();
                let figures = volume.delegation();
                assert_eq!(figures.lost, 0, "seed {seed}");
                given += figures.given;
            }
            assert!(given > 3, "seed {seed}: {given}");
        });
    }
}

#[test]
fn of_what_a_dead_machine_did_alone_a_beginning_stays_with_all_that_was_synced() {
    for seed in seeds(90..94) {
        let world = World::new(seed);
        world.run(async {
            let cluster = begin(&world).await;
            let alone = cluster.grid(6).volume(BUCKET).await.unwrap();
            let other = cluster.grid(7).volume(BUCKET).await.unwrap();
            alone.work_alone();
            let (rng, ids) = (world.rng(), Requests::default());
            is_given(&alone, &ids).await;
            let make = async |at: u64| {
                let name = format!("f{at:04}");
                alone.make(Ino::ROOT, name.as_bytes(), creation(NewNode::File), ids.next()).await
            };
            let synced = rng.u64() % 200;
            for at in 0..synced {
                make(at).await.unwrap();
            }
            alone.sync().await.unwrap();
            let all = synced + rng.u64() % 200;
            for at in synced..all {
                make(at).await.unwrap();
            }
            cluster.kill(6);
            let begun = tokio::time::Instant::now();
            let there = seen(&other, &[Ino::ROOT]).await;
            let waited = begun.elapsed();
            assert!(waited < Duration::from_secs(20), "seed {seed}: {waited:?}");
            let names: Vec<Vec<u8>> = there.into_keys().map(|(_, name)| name).collect();
            let names: Vec<_> = names.iter().filter(|name| name.starts_with(b"f")).collect();
            let beginning = (0..names.len()).map(|at| format!("f{at:04}").into_bytes());
            assert!(names.into_iter().cloned().eq(beginning.clone()), "seed {seed}");
            let count = beginning.len() as u64;
            assert!((synced..=all).contains(&count), "seed {seed}: {synced} {count} {all}");
            // The dead one comes back too late.
            let late = other.make(Ino::ROOT, b"late", creation(NewNode::File), None).await;
            late.unwrap();
        });
    }
}
