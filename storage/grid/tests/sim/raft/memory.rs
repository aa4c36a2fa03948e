//! Mounts that remember, over real groups: what one does, or a client of S3, the others see at once, whatever dies. Each
//! lends what it remembers to a daemon, as an agent does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nexusgrid_env::BootInstant;
use nexusgrid_grid::volume::*;
use parking_lot::Mutex;

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

#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Node(Result<Node, VolumeError>),
    Xattr(Result<Vec<u8>, VolumeError>),
}

/// Who serves a mount: it asks only what it was not lent, and hears news some time after they are told.
struct Daemon {
    node: u64,
    env: Env,
    volume: Volume,
    borrower: Borrower,
    until: Mutex<Option<BootInstant>>,
    lent: Mutex<BTreeMap<Vec<u8>, (Question, Answer)>>,
    recalled: AtomicU64,
    /// It does nothing until it is let go on.
    is_stopped: AtomicBool,
}

impl Daemon {
    async fn start(node: u64, env: Env, volume: Volume) -> Arc<Daemon> {
        let borrower = volume.borrow().await;
        let daemon = Arc::new(Daemon {
            node,
            env: env.clone(),
            volume,
            borrower,
            until: Mutex::default(),
            lent: Mutex::default(),
            recalled: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        });
        let hearing = Arc::downgrade(&daemon);
        env.exec.spawn(async move {
            while let Some(daemon) = hearing.upgrade() {
                tokio::select! {
                    () = daemon.borrower.news() => {}
                    () = daemon.env.clock.sleep(Duration::from_secs(1)) => continue,
                }
                daemon.pause().await;
                let number = daemon.hear();
                daemon.pause().await;
                daemon.borrower.heard(number);
            }
        });
        daemon
    }

    async fn pause(&self) {
        let some = Duration::from_millis(self.env.rng.u64() % 20);
        self.env.clock.sleep(some).await;
        while self.is_stopped.load(Ordering::Relaxed) {
            self.env.clock.sleep(Duration::from_millis(50)).await;
        }
    }

    fn hear(&self) -> u64 {
        let news = self.borrower.tell().unwrap();
        let mut lent = self.lent.lock();
        match news.lost {
            None => lent.clear(),
            Some(lost) => lent.retain(|_, (question, _)| !lost.contains(question)),
        }
        *self.until.lock() = news.until.map(BootInstant);
        news.number
    }

    async fn ask(&self, question: Question) -> Answer {
        let key = format!("{question:?}").into_bytes();
        if self.until.lock().is_some_and(|until| self.env.clock.now() < until)
            && let Some((_, answer)) = self.lent.lock().get(&key)
        {
            self.recalled.fetch_add(1, Ordering::Relaxed);
            return answer.clone();
        }
        let (answer, loan) = match &question {
            Question::Lookup(parent, name) => {
                let (found, loan) = self.volume.lookup_loan(*parent, name).await;
                (Answer::Node(found), loan)
            }
            Question::Node(ino) => {
                let (found, loan) = self.volume.node_loan(*ino).await;
                (Answer::Node(found), loan)
            }
            Question::Xattr(ino, name) => {
                let (found, loan) = self.volume.xattr_loan(*ino, name).await;
                (Answer::Xattr(found), loan)
            }
        };
        // As an agent does it: what was lost first, and nothing in between.
        if self.borrower.has_lost() {
            self.hear();
        }
        if loan.is_some_and(|loan| self.borrower.lend(&loan)) {
            self.lent.lock().insert(key, (question, answer.clone()));
        }
        answer
    }

    async fn node(&self, question: Question) -> Result<Node, VolumeError> {
        match self.ask(question).await {
            Answer::Node(found) => found,
            Answer::Xattr(_) => panic!("no node"),
        }
    }

    async fn change(&self, rng: &dyn Rng) {
        change(&self.volume, rng).await;
        if self.borrower.has_lost() {
            self.hear();
        }
    }

    async fn seen(&self, name: &[u8]) -> Seen {
        let found = self.node(Question::Lookup(Ino::ROOT, name.to_vec())).await;
        match found.as_ref().ok().and_then(|node| node.ino) {
            Some(ino) => {
                let by_number = self.node(Question::Node(ino)).await;
                let xattr = match self.ask(Question::Xattr(ino, b"user.x".to_vec())).await {
                    Answer::Xattr(value) => value.ok(),
                    Answer::Node(_) => panic!("no attribute"),
                };
                (found, Some(by_number), xattr)
            }
            None => (found, None, None),
        }
    }
}

/// What is there, by names: a listing is never remembered.
async fn listed(volume: &Volume) -> BTreeMap<Vec<u8>, Node> {
    let entries = volume.list(Ino::ROOT, Cookie::default(), 1_000).await.unwrap();
    entries.into_iter().map(|entry| (entry.name, entry.node)).collect()
}

/// Whoever looks finds what is there, and finds it without asking when nothing changed.
async fn verify(daemons: &[Arc<Daemon>], seed: u64) {
    let there = listed(&daemons[0].volume).await;
    let run = |daemon: &&Arc<Daemon>| !daemon.is_stopped.load(Ordering::Relaxed);
    for at in 0..NAMES {
        let name = format!("n{at}").into_bytes();
        let wanted = there.get(&name);
        let mut attributes = Vec::new();
        for daemon in daemons.iter().filter(run) {
            let node = daemon.node;
            let (found, by_number, xattr) = daemon.seen(&name).await;
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

async fn until_believed(daemons: &[Arc<Daemon>]) {
    for daemon in daemons {
        let begun = tokio::time::Instant::now();
        let believes = || daemon.until.lock().is_some_and(|until| daemon.env.clock.now() < until);
        while !believes() {
            let node = daemon.node;
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
            let mut daemons = Vec::new();
            // None of these nodes is killed below.
            for node in [3, 6, 7] {
                let volume = cluster.grid(node).volume(BUCKET).await.unwrap();
                daemons.push(Daemon::start(node, cluster.member(node).env.clone(), volume).await);
            }
            until_believed(&daemons).await;
            let rng = world.rng();
            for round in 0..60 {
                match rng.u64() % 4 {
                    0 => {
                        let key = String::from_utf8(name(&*rng)).unwrap();
                        let bytes = content(round, 200);
                        put(&cluster.grid(4), BUCKET, &key, &bytes).await.unwrap();
                    }
                    _ => {
                        let daemon = &daemons[rng.u64() as usize % daemons.len()];
                        daemon.change(&*rng).await;
                    }
                }
                verify(&daemons, seed).await;
                // One that hears nothing holds nobody up for longer than it believes anything.
                daemons[2].is_stopped.store((30..36).contains(&round), Ordering::Relaxed);
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
            until_believed(&daemons).await;
            verify(&daemons, seed).await;
            verify(&daemons, seed).await;
            let figures = |daemon: &Arc<Daemon>| {
                (daemon.volume.memory().misses, daemon.recalled.load(Ordering::Relaxed))
            };
            let before: Vec<_> = daemons.iter().map(figures).collect();
            for daemon in &daemons {
                for at in 0..NAMES {
                    let _ = daemon.seen(format!("n{at}").as_bytes()).await;
                }
            }
            for (daemon, (misses, recalled)) in daemons.iter().zip(before) {
                let (now_misses, now_recalled) = figures(daemon);
                assert_eq!(now_misses, misses, "seed {seed}: node {} asked again", daemon.node);
                assert!(now_recalled >= recalled + NAMES as u64, "seed {seed}: {}", daemon.node);
            }
        });
    }
}
