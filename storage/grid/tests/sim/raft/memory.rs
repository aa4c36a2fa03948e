//! Mounts that remember, over real groups: what one does, or a client of S3, the others see at once, whatever dies.

use nexusgrid_grid::volume::*;

use super::*;

const BUCKET: &str = "drive";
const NAMES: usize = 6;

fn creation(what: NewNode) -> Creation {
    let maker = Maker { uid: 1, gid: 1, mode: 0o644, umask: 0 };
    Creation { what, maker, hold: false }
}

fn name(rng: &dyn Rng) -> Vec<u8> {
    format!("n{}", rng.u64() as usize % NAMES).into_bytes()
}

/// A change through a mount; it may be refused.
async fn change(volume: &Volume, rng: &dyn Rng) {
    let (one, other) = (name(rng), name(rng));
    let found = volume.lookup(Ino::ROOT, &one).await.ok().and_then(|node| node.ino);
    let result = match (rng.u64() % 8, found) {
        (0 | 1, _) => volume.make(Ino::ROOT, &one, creation(NewNode::File), None).await.map(drop),
        (2, _) => volume.unlink(Ino::ROOT, &one, None).await,
        (3, _) => {
            let (from, to) = ((Ino::ROOT, &one[..]), (Ino::ROOT, &other[..]));
            volume.rename(from, to, RenameMode::Replace, None).await
        }
        (4, Some(ino)) => volume.link(ino, Ino::ROOT, &other, None).await.map(drop),
        (5, Some(ino)) => {
            let change = AttrsChange { mode: Some((rng.u64() % 0o1000) as u32), ..NOTHING };
            volume.set_attrs(ino, change, None, None).await.map(drop)
        }
        (6, Some(ino)) => {
            let value = Some(rng.u64().to_le_bytes().to_vec());
            volume.set_xattr(ino, b"user.x", value, XattrWhen::Either, None).await
        }
        (_, Some(ino)) => {
            let bytes = content(rng.u64(), 1 + rng.u64() as usize % 300);
            let range = FileRange { offset: rng.u64() % 300, pieces: vec![bytes] };
            volume.write(ino, vec![range], None, None).await.map(drop)
        }
        (_, None) => Ok(()),
    };
    let _ = result;
}

const NOTHING: AttrsChange =
    AttrsChange { mode: None, uid: None, gid: None, accessed: None, modified: None };

/// What a mount sees under a name: by name, by number, and an attribute.
type Seen = (Result<Node, VolumeError>, Option<Result<Node, VolumeError>>, Option<Vec<u8>>);

async fn seen(volume: &Volume, name: &[u8]) -> Seen {
    let found = volume.lookup(Ino::ROOT, name).await;
    match found.as_ref().ok().and_then(|node| node.ino) {
        Some(ino) => {
            let by_number = volume.node(ino).await;
            (found, Some(by_number), volume.xattr(ino, b"user.x").await.ok())
        }
        None => (found, None, None),
    }
}

/// What is there, by names: a listing is never remembered.
async fn listed(volume: &Volume) -> BTreeMap<Vec<u8>, Node> {
    let entries = volume.list(Ino::ROOT, Cookie::default(), 1_000).await.unwrap();
    entries.into_iter().map(|entry| (entry.name, entry.node)).collect()
}

/// Whoever looks finds what is there, and finds it without asking when nothing changed.
async fn verify(volumes: &[(u64, Volume)], seed: u64) {
    let (_, first) = &volumes[0];
    let there = listed(first).await;
    for at in 0..NAMES {
        let name = format!("n{at}").into_bytes();
        let wanted = there.get(&name);
        let mut attributes = Vec::new();
        for (node, volume) in volumes {
            let (found, by_number, xattr) = seen(volume, &name).await;
            let missing = || Err(PosixError::NotFound.into());
            assert_eq!(found, wanted.cloned().map_or_else(missing, Ok), "seed {seed}, node {node}");
            if let Some(by_number) = by_number {
                assert_eq!(by_number.as_ref(), Ok(wanted.unwrap()), "seed {seed}, node {node}");
            }
            attributes.push(xattr);
        }
        assert!(attributes.windows(2).all(|two| two[0] == two[1]), "seed {seed}: {attributes:?}");
    }
}

async fn until_believed(volumes: &[(u64, Volume)]) {
    for (node, volume) in volumes {
        let begun = tokio::time::Instant::now();
        while !volume.memory().is_believed {
            assert!(begun.elapsed() < Duration::from_secs(60), "node {node} remembers nothing");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[test]
fn mounts_that_remember_see_at_once_what_others_did() {
    for seed in 70..74 {
        let world = World::new(seed);
        world.run(async {
            let cluster = RaftCluster::start(&world).await;
            cluster.grid(3).create_bucket(BUCKET, "me").await.unwrap();
            tokio::time::sleep(Duration::from_secs(20)).await;
            let mut volumes = Vec::new();
            // None of these nodes is killed below.
            for node in [3, 6, 7] {
                volumes.push((node, cluster.grid(node).volume(BUCKET).await.unwrap()));
            }
            until_believed(&volumes).await;
            let rng = world.rng();
            for round in 0..60 {
                match rng.u64() % 4 {
                    0 => {
                        let key = String::from_utf8(name(&*rng)).unwrap();
                        let bytes = content(round, 200);
                        put(&cluster.grid(4), BUCKET, &key, &bytes).await.unwrap();
                    }
                    _ => {
                        let (_, volume) = &volumes[rng.u64() as usize % volumes.len()];
                        change(volume, &*rng).await;
                    }
                }
                verify(&volumes, seed).await;
                if round == 20 {
                    cluster.kill(1);
                    cluster.kill(2);
                }
                if round == 40 {
                    cluster.start_node(1).await;
                    cluster.start_node(2).await;
                }
            }
            // Nothing changes any more: nobody asks again.
            until_believed(&volumes).await;
            verify(&volumes, seed).await;
            let before: Vec<_> = volumes.iter().map(|(_, volume)| volume.memory()).collect();
            for (_, volume) in &volumes {
                for at in 0..NAMES {
                    let _ = seen(volume, format!("n{at}").as_bytes()).await;
                }
            }
            for ((node, volume), before) in volumes.iter().zip(before) {
                let after = volume.memory();
                assert_eq!(after.misses, before.misses, "seed {seed}: node {node} asked again");
                assert!(after.hits >= before.hits + NAMES as u64, "seed {seed}: node {node}");
            }
        });
    }
}
