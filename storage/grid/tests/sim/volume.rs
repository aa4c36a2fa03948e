//! A bucket as mounts and clients of S3 see it at once, on simulated machines.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::SessionId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::volume::*;
use nexusgrid_grid::*;
use nexusgrid_meta::namespace::types::{
    NamespaceAnswer, NamespaceCommand, NamespaceQuery, decode_query_reply, decode_reply,
};

use super::cluster::{self, Cluster, collect, content, put};

const BUCKET: &str = "drive";

fn new(what: NewNode) -> Creation {
    let maker = Maker { uid: 1_000, gid: 100, mode: 0o644, umask: 0 };
    Creation { what, maker, hold: false }
}

fn at(offset: u64, bytes: &Bytes) -> FileRange {
    FileRange { offset, pieces: vec![bytes.clone()] }
}

async fn object(grid: &Grid, key: &str) -> Vec<u8> {
    let got = grid.get(BUCKET, key, None).await.unwrap();
    collect(got.body).await.unwrap()
}

fn size(node: &Node) -> u64 {
    match node.kind {
        NodeKind::File { size, .. } => size,
        _ => panic!("{node:?} is no file"),
    }
}

#[test]
fn mounts_and_s3_see_the_same_bytes_at_once() {
    let world = World::new(90);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, cluster::options(7)).await;
        let grid = cluster.grid(2);
        grid.create_bucket(BUCKET, "me").await.unwrap();
        let here = grid.volume(BUCKET).await.unwrap();
        let there = cluster.grid(5).volume(BUCKET).await.unwrap();

        // What a mount writes, in ranges of all sizes and with a hole, S3 reads.
        let dir = here.make(Ino::ROOT, b"dir", new(NewNode::Directory), None).await.unwrap();
        let dir = dir.ino.unwrap();
        let file = here.make(dir, b"file", new(NewNode::File), None).await.unwrap();
        let file = file.ino.unwrap();
        let mut wanted = vec![0u8; 3_000_000];
        let parts =
            [(0u64, 1_500_000usize), (1_600_000, 50_000), (2_999_900, 100), (700_000, 900_000)];
        for (round, (offset, len)) in parts.into_iter().enumerate() {
            let bytes = content(round as u64, len);
            here.write(file, vec![at(offset, &bytes)], None, None).await.unwrap();
            wanted[offset as usize..][..len].copy_from_slice(&bytes);
        }
        assert!(object(&grid, "dir/file").await == wanted);
        let seen = there.lookup(dir, b"file").await.unwrap();
        assert_eq!((seen.ino, size(&seen)), (Some(file), 3_000_000));
        let middle = there.read(file, 1_590_000, 70_000).await.unwrap();
        assert!(middle == wanted[1_590_000..][..70_000]);
        assert!(there.read(file, 2_999_990, 100).await.unwrap() == wanted[2_999_990..]);
        assert!(there.read(file, 3_000_000, 1).await.unwrap().is_empty());

        // What S3 writes a mount reads; who had the file open still has it.
        let object_bytes = content(9, 600_000);
        put(&grid, BUCKET, "dir/file", &object_bytes).await.unwrap();
        assert!(there.read(file, 0, 1 << 20).await.unwrap() == object_bytes);
        let patch = content(10, 10);
        there.write(file, vec![at(5, &patch)], None, None).await.unwrap();
        let mut patched = object_bytes.to_vec();
        patched[5..15].copy_from_slice(&patch);
        assert!(object(&grid, "dir/file").await == patched);

        // Small files are replaced whole, and cut and punched like others.
        let note = here.make(dir, b"note", new(NewNode::File), None).await.unwrap().ino.unwrap();
        let text = content(11, 1_000);
        here.write(note, vec![at(0, &text)], None, None).await.unwrap();
        here.resize(note, 2_000, None).await.unwrap();
        here.punch(note, 100, 50, None).await.unwrap();
        let mut wanted = text.to_vec();
        wanted.resize(2_000, 0);
        wanted[100..150].fill(0);
        assert!(object(&grid, "dir/note").await == wanted);

        // A repeated request has one effect.
        let id = CommandId([7; 16]);
        for _ in 0..2 {
            here.rename((dir, b"note"), (Ino::ROOT, b"moved"), RenameMode::Replace, Some(id))
                .await
                .unwrap();
        }
        assert!(matches!(grid.head(BUCKET, "dir/note").await, Err(GridError::NoSuchKey)));
        assert!(object(&grid, "moved").await == wanted);
    });
}

#[test]
fn what_is_held_stays_until_its_mount_has_ended() {
    let world = World::new(91);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, cluster::options(7)).await;
        let grid = cluster.grid(1);
        grid.create_bucket(BUCKET, "me").await.unwrap();
        let here = grid.volume(BUCKET).await.unwrap();
        let there = cluster.grid(3).volume(BUCKET).await.unwrap();
        let bytes = content(1, 700_000);
        put(&grid, BUCKET, "a", &bytes).await.unwrap();
        put(&grid, BUCKET, "b", &bytes).await.unwrap();
        let a = here.lookup(Ino::ROOT, b"a").await.unwrap().ino.unwrap();
        let b = here.lookup(Ino::ROOT, b"b").await.unwrap().ino.unwrap();
        here.hold(a).await.unwrap();
        there.hold(b).await.unwrap();
        there.unlink(Ino::ROOT, b"a", None).await.unwrap();
        let delete = DeleteRequest {
            bucket: BUCKET.to_owned(),
            key: "b".to_owned(),
            precondition: Precondition::default(),
        };
        grid.delete(delete).await.unwrap();
        assert_eq!(there.lookup(Ino::ROOT, b"a").await, Err(PosixError::NotFound.into()));
        assert!(here.read(a, 0, 1 << 20).await.unwrap() == bytes);
        assert!(here.read(b, 0, 1 << 20).await.unwrap() == bytes);
        here.release(a);
        until(async || here.node(a).await == Err(PosixError::Stale.into())).await;
        // A mount that is not heard of any more loses what it held.
        drop(there);
        for _ in 0..600 {
            if here.node(b).await == Err(PosixError::Stale.into()) {
                return;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        panic!("what a mount held stays though it has ended");
    });
}

#[test]
fn listings_go_on_where_they_were_whatever_is_removed() {
    let world = World::new(92);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, cluster::options(7)).await;
        let grid = cluster.grid(1);
        grid.create_bucket(BUCKET, "me").await.unwrap();
        let volume = grid.volume(BUCKET).await.unwrap();
        for name in 0..30 {
            put(&grid, BUCKET, &format!("d/{name:02}"), &content(name, 10)).await.unwrap();
        }
        let dir = volume.lookup(Ino::ROOT, b"d").await.unwrap().ino.unwrap();
        let (mut seen, mut after) = (vec![], Cookie::default());
        loop {
            let page = volume.list(dir, after, 7).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.cookie;
            for entry in page {
                assert!(entry.node.ino.is_some() && entry.cookie.0 > 2);
                // As `rm -r` does.
                volume.unlink(dir, &entry.name, None).await.unwrap();
                seen.push(entry.name);
            }
        }
        assert_eq!(seen.len(), 30);
        volume.rmdir(Ino::ROOT, b"d", None).await.unwrap();
        // Another mount knows no names yet, and finds the place all the same.
        for name in 0..5 {
            put(&grid, BUCKET, &format!("e/{name}"), &content(name, 10)).await.unwrap();
        }
        let dir = volume.lookup(Ino::ROOT, b"e").await.unwrap().ino.unwrap();
        let second = volume.list(dir, Cookie::default(), 2).await.unwrap()[1].cookie;
        let other = cluster.grid(4).volume(BUCKET).await.unwrap();
        let names: Vec<_> =
            other.list(dir, second, 9).await.unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [b"2", b"3", b"4"]);
    });
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    panic!("waited in vain");
}

async fn empty(volume: &Volume, name: &[u8]) -> Ino {
    volume.make(Ino::ROOT, name, new(NewNode::File), None).await.unwrap().ino.unwrap()
}

/// Has the bucket's group do something that no client asked for.
fn decide(cluster: &Cluster, command: &NamespaceCommand) {
    let group = cluster.topology().bucket(BUCKET).unwrap().group;
    let mut id = [0; 16];
    nexusgrid_env::Rng::fill(&*cluster.world.rng(), &mut id);
    let reply = cluster.meta.apply(group, CommandId(id), &command.encode()).unwrap();
    decode_reply(&reply).unwrap().unwrap();
}

fn sessions(cluster: &Cluster) -> Vec<SessionId> {
    let group = cluster.topology().bucket(BUCKET).unwrap().group;
    let reply = cluster.meta.ask(group, &NamespaceQuery::Sessions.encode()).unwrap();
    match decode_query_reply(&reply).unwrap().unwrap() {
        NamespaceAnswer::Sessions { sessions, .. } => {
            sessions.into_iter().map(|session| session.id).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_appends_at_once_loses_nothing_and_a_closed_session_is_not_noticed() {
    let world = World::new(93);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, cluster::options(7)).await;
        cluster.grid(1).create_bucket(BUCKET, "me").await.unwrap();
        let here = cluster.grid(1).volume(BUCKET).await.unwrap();
        let there = cluster.grid(4).volume(BUCKET).await.unwrap();
        let log = empty(&here, b"log").await;
        let lens = [10usize, 700, 5_000, 40_000, 600_000, 3];
        let write = async |volume: &Volume, writer: u64| {
            let mut placed = vec![];
            for (round, len) in lens.into_iter().enumerate() {
                let bytes = content(writer * 100 + round as u64, len);
                let id = CommandId([
                    writer as u8,
                    round as u8,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                ]);
                let (node, at) = volume.append(log, vec![bytes.clone()], Some(id)).await.unwrap();
                assert_eq!(size(&node), at + bytes.len() as u64);
                // Asked for again, it happens once, and is where it was.
                let again = volume.append(log, vec![bytes.clone()], Some(id)).await.unwrap();
                assert_eq!(again.1, at);
                if round == 2 {
                    for session in sessions(&cluster) {
                        decide(&cluster, &NamespaceCommand::CloseSession { session, now_ms: 1 });
                    }
                }
                placed.push((at, bytes));
            }
            placed
        };
        let (mut placed, more) = tokio::join!(write(&here, 1), write(&there, 2));
        placed.extend(more);
        placed.sort_by_key(|(at, _)| *at);
        let wanted: Vec<u8> = placed.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        assert_eq!(placed.iter().map(|(at, _)| *at).min(), Some(0));
        assert!(object(&cluster.grid(2), "log").await == wanted);

        // Part of it is copied by reference, and stays as it was when the source changes.
        let copy = empty(&there, b"copy").await;
        let len = 1 << 20;
        assert_eq!(there.copy_range((log, 100), (copy, 5_000), len, None).await, Ok(len));
        assert_eq!(there.copy_range((log, 0), (copy, 10), 20, None).await, Ok(20));
        let patch = content(77, 300_000);
        here.write(log, vec![at(90_000, &patch)], None, None).await.unwrap();
        let mut copied = vec![0; 5_000];
        copied[10..30].copy_from_slice(&wanted[..20]);
        copied.extend_from_slice(&wanted[100..][..len as usize]);
        assert!(object(&cluster.grid(3), "copy").await == copied);
        assert_eq!(
            there.copy_range((log, 0), (log, 1), 20, None).await,
            Err(PosixError::Invalid.into())
        );

        // Where there are holes is known.
        let sparse = empty(&here, b"sparse").await;
        here.write(sparse, vec![at(100_000, &content(5, 50_000))], None, None).await.unwrap();
        here.resize(sparse, 200_000, None).await.unwrap();
        assert_eq!(here.seek(sparse, 0, Seek::Data).await, Ok(100_000));
        assert_eq!(here.seek(sparse, 100_007, Seek::Data).await, Ok(100_007));
        assert_eq!(here.seek(sparse, 100_007, Seek::Hole).await, Ok(150_000));
        assert_eq!(here.seek(sparse, 7, Seek::Hole).await, Ok(7));
        let none = Err(PosixError::NoData.into());
        assert_eq!(here.seek(sparse, 150_000, Seek::Data).await, none);
        assert_eq!(here.seek(sparse, 200_000, Seek::Hole).await, none);
        assert_eq!(here.seek(log, 0, Seek::Hole).await, Ok(wanted.len() as u64));

        // One command: size, permissions and times.
        let change = AttrsChange {
            mode: Some(0o400),
            modified: Some(SetTime::At(Moment::default())),
            ..AttrsChange::default()
        };
        let node = here.set_attrs(sparse, change, Some(3), None).await.unwrap();
        assert_eq!(
            (size(&node), node.attrs.mode, node.attrs.modified),
            (3, Some(0o400), Moment::default())
        );
        let space = here.space().await.unwrap();
        assert!(space.bytes >= space.free && space.free > 0, "{space:?}");
        cluster.grid(1).set_quota(BUCKET, Some(10 << 20)).await.unwrap();
        cluster::until(Duration::from_secs(60), || {
            let map = cluster.grid(1).topology();
            map.bucket(BUCKET).is_some_and(|bucket| bucket.settings.quota_bytes.is_some())
        })
        .await;
        let space = here.space().await.unwrap();
        assert!(space.bytes == 10 << 20 && space.free < 9 << 20, "{space:?}");
    });
}

const WHO: (u64, u32) = (1, 11);
const OTHER: (u64, u32) = (2, 22);

#[test]
fn locks_hold_among_mounts_and_who_waits_hears() {
    let world = World::new(94);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, cluster::options(7)).await;
        cluster.grid(1).create_bucket(BUCKET, "me").await.unwrap();
        let here = Arc::new(cluster.grid(1).volume(BUCKET).await.unwrap());
        let there = Arc::new(cluster.grid(4).volume(BUCKET).await.unwrap());
        let file = empty(&here, b"file").await;
        let (range, exclusive) = (LockRange { first: 0, last: 99 }, LockKind::Exclusive);
        here.lock(file, WHO, range, Some(exclusive), None).await.unwrap();
        let refused = there.lock(file, WHO, range, Some(LockKind::Shared), None).await;
        assert_eq!(refused, Err(PosixError::Locked.into()));
        let found = there.conflict(file, WHO.0, LockRange::ALL, LockKind::Shared).await.unwrap();
        let found = found.unwrap();
        assert_eq!((found.mount, found.pid, found.range), (here.mount(), WHO.1, range));

        // In the same process at once; elsewhere soon.
        let wait = |volume: &Arc<Volume>, who, range| {
            let volume = Arc::clone(volume);
            tokio::spawn(
                async move { volume.lock_wait(file, who, range, LockKind::Exclusive).await },
            )
        };
        let near = wait(&here, OTHER, LockRange { first: 0, last: 9 });
        let far = wait(&there, OTHER, LockRange { first: 50, last: 59 });
        // One that gives up leaves nothing behind.
        let dropped = wait(&there, WHO, LockRange { first: 80, last: 89 });
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!near.is_finished() && !far.is_finished() && !dropped.is_finished());
        dropped.abort();
        here.lock(file, WHO, range, None, None).await.unwrap();
        let freed = tokio::time::Instant::now();
        near.await.unwrap().unwrap();
        assert!(freed.elapsed() < Duration::from_millis(500), "{:?}", freed.elapsed());
        far.await.unwrap().unwrap();
        assert!(freed.elapsed() < Duration::from_secs(3), "{:?}", freed.elapsed());
        here.lock(file, WHO, LockRange { first: 80, last: 89 }, Some(exclusive), None)
            .await
            .unwrap();
        // Given up while it is granted, at whatever moment: then others get it.
        let contested = LockRange { first: 200, last: 209 };
        for pause in [0u64, 1, 2, 3, 5, 8, 13, 21, 34, 55] {
            // What it had before it has again.
            there.lock(file, WHO, contested, Some(LockKind::Shared), None).await.unwrap();
            let task = wait(&there, WHO, contested);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            task.abort();
            let was_granted = task.await.is_ok();
            until(async || {
                let found = here.conflict(file, 9, contested, LockKind::Shared).await.unwrap();
                found.is_none() != was_granted
            })
            .await;
            there.unlock_all(file, WHO.0).await.unwrap();
            assert_eq!(here.conflict(file, 9, contested, exclusive).await, Ok(None));
        }
        // A mount that ends loses its locks at once.
        there.close().await.unwrap();
        here.lock(file, OTHER, LockRange::ALL, Some(exclusive), None).await.unwrap_err();
        here.unlock_all(file, WHO.0).await.unwrap();
        here.lock(file, OTHER, LockRange::ALL, Some(exclusive), None).await.unwrap();
    });
}

#[test]
fn a_mount_goes_on_after_a_restart_and_begins_anew_when_it_had_ended() {
    let world = World::new(95);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, cluster::options(7)).await;
        cluster.grid(1).create_bucket(BUCKET, "me").await.unwrap();
        let first = cluster.grid(1).volume(BUCKET).await.unwrap();
        let other = cluster.grid(2).volume(BUCKET).await.unwrap();
        let mount = first.mount();
        let file = empty(&first, b"file").await;
        let bytes = content(1, 90_000);
        first.write(file, vec![at(0, &bytes)], None, None).await.unwrap();
        first.hold(file).await.unwrap();
        first.lock(file, WHO, LockRange::ALL, Some(LockKind::Exclusive), None).await.unwrap();
        first.unlink(Ino::ROOT, b"file", None).await.unwrap();
        drop(first);

        // Another process goes on with it: what it held and locked it still has.
        let second = cluster.grid(3).volume_of(BUCKET, Some(mount)).await.unwrap();
        assert_eq!(second.mount(), mount);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert!(second.read(file, 0, 1 << 20).await.unwrap() == bytes);
        }
        let lock = other.lock(file, WHO, LockRange::ALL, Some(LockKind::Shared), None).await;
        assert_eq!(lock, Err(PosixError::Locked.into()));
        let made = empty(&second, b"made").await;
        second.hold(made).await.unwrap();

        // Its group ends it while it runs: it begins anew, and says so.
        let mut news = second.mounts();
        decide(&cluster, &NamespaceCommand::CloseMount { mount, now_ms: 1 });
        let id = Some(CommandId([9; 16]));
        for _ in 0..2 {
            let again = second.make(Ino::ROOT, b"again", new(NewNode::File), id).await.unwrap();
            assert_eq!(second.lookup(Ino::ROOT, b"again").await.unwrap().ino, again.ino);
        }
        assert!(news.has_changed().unwrap());
        assert_ne!(*news.borrow_and_update(), mount);
        assert_eq!(second.hold(made).await.map(|node| node.ino), Ok(Some(made)));
        other.lock(made, WHO, LockRange::ALL, Some(LockKind::Exclusive), None).await.unwrap();
        // What it had held is given back when its time has come.
        until(async || second.node(file).await == Err(PosixError::Stale.into())).await;

        // A mount that nobody went on with in time is another when somebody does.
        let before = second.mount();
        drop(second);
        until(async || {
            let third = cluster.grid(5).volume_of(BUCKET, Some(before)).await.unwrap();
            let is_other = third.mount() != before;
            if is_other {
                third.close().await.unwrap();
            }
            drop(third);
            if !is_other {
                tokio::time::sleep(Duration::from_secs(200)).await;
            }
            is_other
        })
        .await;
    });
}

#[test]
fn what_is_shared_too_deep_is_written_anew_and_its_holes_stay() {
    let world = World::new(97);
    world.run(async {
        let cluster = Cluster::start_with(&world, 7, cluster::options(7)).await;
        let grid = cluster.grid(2);
        grid.create_bucket(BUCKET, "me").await.unwrap();
        let here = grid.volume(BUCKET).await.unwrap();
        let there = cluster.grid(5).volume(BUCKET).await.unwrap();

        // Who lengthens a file by what it saw cuts nothing of what another has appended since.
        let log = empty(&here, b"log").await;
        there.append(log, vec![content(1, 5_000)], None).await.unwrap();
        assert_eq!(size(&here.lengthen(log, 3_000, None).await.unwrap()), 5_000);
        assert_eq!(size(&here.lengthen(log, 7_000, None).await.unwrap()), 7_000);

        let (end, len) = (6_000_000u64, 700_000usize);
        let mut wanted = vec![0u8; end as usize + len];
        let first = empty(&here, b"copy0").await;
        for (seed, offset) in [(2, 0), (3, end)] {
            let bytes = content(seed, len);
            here.write(first, vec![at(offset, &bytes)], None, None).await.unwrap();
            wanted[offset as usize..][..len].copy_from_slice(&bytes);
        }
        let mut last = first;
        for depth in 1..=4 {
            let next = empty(&here, format!("copy{depth}").as_bytes()).await;
            let all = wanted.len() as u64;
            assert_eq!(here.copy_range((last, 0), (next, 0), all, None).await.unwrap(), all);
            last = next;
        }
        // The deepest has another name in S3: what is written to it lies over it, one too deep.
        let twin = CopyRequest {
            source_bucket: BUCKET.to_owned(),
            source_key: "copy4".to_owned(),
            source_version: None,
            bucket: BUCKET.to_owned(),
            key: "twin".to_owned(),
            meta: None,
            precondition: Precondition::default(),
            tenant: Tenant("t".to_owned()),
        };
        grid.copy(twin).await.unwrap();
        let patch = content(4, 10);
        here.write(last, vec![at(5, &patch)], None, None).await.unwrap();
        assert!(object(&grid, "twin").await == wanted);
        wanted[5..15].copy_from_slice(&patch);
        assert!(object(&grid, "copy4").await == wanted);
        assert_eq!(there.seek(last, 0, Seek::Hole).await.unwrap(), len as u64);
        assert_eq!(there.seek(last, len as u64, Seek::Data).await.unwrap(), end);

        // All of it is a hole, and the file cut and lengthened.
        there.punch(last, 0, u64::MAX, None).await.unwrap();
        assert!(matches!(
            there.seek(last, 0, Seek::Data).await,
            Err(VolumeError::Posix(PosixError::NoData))
        ));
        there.resize(last, 100, None).await.unwrap();
        there.resize(last, 200, None).await.unwrap();
        assert!(object(&grid, "copy4").await == vec![0; 200]);

        // More pieces than one command takes away.
        let many = empty(&here, b"many").await;
        let one = Bytes::from_static(b"x");
        let pieces = (0..5_000).map(|piece| at(2 * piece, &one)).collect();
        here.write(many, pieces, None, None).await.unwrap();
        here.punch(many, 11, 9_980, Some(CommandId([9; 16]))).await.unwrap();
        let mut wanted = vec![0; 9_999];
        for kept in (0..11).chain(9_991..9_999).filter(|kept| kept % 2 == 0) {
            wanted[kept] = b'x';
        }
        assert!(object(&grid, "many").await == wanted);
    });
}
