//! Those who remember answers never show what is older than what was acknowledged, whatever dies or is cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_env::{Env, NodeId, Rng};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::cluster::{Cluster, GROUP, SOON, WATCHERS, add, run, set};
use crate::host::{Changing, Memory, MetaHost, Remembered, Watched};
use crate::limits::{WATCH_GIVEN, WATCH_HOLD, WATCH_LEASE, WATCH_PAUSE};

/// Somebody on a node who remembers.
struct Client {
    id: u64,
    env: Env,
    host: MetaHost,
    memory: Memory,
}

impl Client {
    fn new(cluster: &Cluster, node: u64, id: u64) -> Arc<Client> {
        let host = cluster.host(node);
        let env = host.inner.env.clone();
        let client = Arc::new(Client { id, env, host, memory: Memory::default() });
        drop(client.env.exec.spawn(Client::follow(Arc::clone(&client))));
        client
    }

    async fn follow(self: Arc<Self>) {
        loop {
            let called = self.env.clock.now();
            let call = self.memory.call(self.id, called, self.env.rng.as_ref());
            match self.host.watch(GROUP, call).await {
                Ok(watched) => {
                    let is_stranger = watched == Watched::Stranger;
                    self.memory.hear(call, called, watched);
                    if is_stranger {
                        self.env.clock.sleep(WATCH_PAUSE).await;
                    }
                }
                Err(_) => self.env.clock.sleep(WATCH_PAUSE).await,
            }
        }
    }

    async fn read(&self, key: u8) -> Option<u64> {
        let query = vec![key];
        let answer = match self.memory.recall(&query, self.env.clock.now()) {
            Ok((answer, _)) => answer,
            Err(None) => return None,
            Err(Some(asking)) => {
                let asked = self.host.remember(GROUP, asking.by, Bytes::from(query.clone()), SOON);
                let Remembered { answer, fact, touched } = asked.await.ok()?;
                if let Some(fact) = fact {
                    self.memory.keep(asking, query, answer.clone(), fact);
                }
                if self.memory.by() == Some(asking.by) {
                    self.memory.forget(touched);
                }
                answer
            }
        };
        Some(u64::from_le_bytes(answer[..].try_into().unwrap()))
    }

    async fn propose(&self, request: u128, body: Bytes) -> Option<u64> {
        let changing = Changing::new(&self.memory);
        let by = self.memory.by();
        let done = self.host.propose_by(by, GROUP, request, body, SOON).await;
        let (reply, touched) = done.ok()?;
        if self.memory.by() == by {
            changing.done(touched);
        }
        Some(u64::from_le_bytes(reply[..].try_into().unwrap()))
    }

    async fn is_believed(&self) {
        let begun = Instant::now();
        while !self.memory.figures(self.env.clock.now()).is_believed {
            assert!(begun.elapsed() < SOON, "client {} is not known to any leader", self.id);
            self.env.clock.sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Says in the group's rows that clients 1 and 2 may remember, and on which nodes.
async fn enrol(cluster: &mut Cluster, nodes: [u64; 2]) {
    cluster.propose(1, set(WATCHERS, 0b110)).await.unwrap();
    for (id, node) in (1..).zip(nodes) {
        cluster.propose(1, set(WATCHERS - id, node)).await.unwrap();
    }
}

#[test]
fn what_is_remembered_is_asked_once_and_forgotten_before_its_writer_hears() {
    run(60, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.start(4).await;
        enrol(&mut cluster, [4, 2]).await;
        let (here, there) = (Client::new(&cluster, 4, 1), Client::new(&cluster, 2, 2));
        here.is_believed().await;
        there.is_believed().await;
        for value in 1..20 {
            let writer = if value % 3 == 0 { &there } else { &here };
            assert_eq!(writer.propose(1_000 + u128::from(value), add(7, 1)).await, Some(value));
            for _ in 0..5 {
                assert_eq!(here.read(7).await, Some(value));
                assert_eq!(there.read(7).await, Some(value));
            }
            // Somebody who remembers nothing.
            cluster.propose(1, add(8, 1)).await.unwrap();
            assert_eq!(here.read(8).await, Some(value));
        }
        let figures = here.memory.figures(here.env.clock.now());
        assert_eq!((figures.hits, figures.misses), (19 * 4, 19 * 2), "{figures:?}");
        let calls = world.net().calls();
        for _ in 0..100 {
            assert_eq!(here.read(7).await, Some(19));
        }
        assert_eq!(world.net().calls(), calls, "nothing was asked");
    });
}

#[test]
fn a_write_waits_for_who_cannot_hear_no_longer_than_its_lease() {
    run(61, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.start(4).await;
        enrol(&mut cluster, [4, 4]).await;
        let client = Client::new(&cluster, 4, 1);
        client.is_believed().await;
        assert_eq!(client.read(7).await, Some(0));
        let all: Vec<_> = (1..=3).map(NodeId).collect();
        world.net().partition(&[NodeId(4)], &all);
        // What it is not interested in does not wait.
        let begun = Instant::now();
        cluster.propose(1, add(9, 1)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let writer = cluster.host(1);
        let request = cluster.request();
        let write = async {
            writer.propose(GROUP, request, add(7, 1), SOON).await.unwrap();
            (begun.elapsed(), client.memory.figures(client.env.clock.now()).is_believed)
        };
        let (took, is_believed) = write.await;
        assert!(!is_believed, "it believes what has changed");
        let most = WATCH_GIVEN + WATCH_HOLD + Duration::from_secs(1);
        assert!(took > Duration::from_secs(1) && took < most, "{took:?}");
        // It is passed over from then on.
        let begun = Instant::now();
        cluster.propose(1, add(7, 1)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        world.net().heal();
        client.is_believed().await;
        assert_eq!(client.read(7).await, Some(2));
    });
}

#[test]
fn a_new_leader_waits_for_those_who_may_remember() {
    run(62, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.start(4).await;
        enrol(&mut cluster, [4, 4]).await;
        let (alone, other) = (Client::new(&cluster, 4, 1), Client::new(&cluster, 4, 2));
        alone.is_believed().await;
        other.is_believed().await;
        assert_eq!(alone.read(7).await, Some(0));
        // The leader dies while a watcher hears nobody: it may believe what it knows until its lease is over.
        let all: Vec<_> = (1..=3).map(NodeId).collect();
        world.net().partition(&[NodeId(4)], &all);
        let leader = cluster.leader().await;
        cluster.kill(leader);
        let via = *cluster.hosts.keys().next().unwrap();
        cluster.propose(via, add(7, 1)).await.unwrap();
        let now = alone.env.clock.now();
        assert!(!alone.memory.figures(now).is_believed, "it believes what has changed");
        world.net().heal();
        alone.is_believed().await;
        assert_eq!(alone.read(7).await, Some(1));
        // With all there, a new leader waits for no lease.
        other.is_believed().await;
        cluster.start(leader).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        let via = *cluster.hosts.keys().next().unwrap();
        let begun = Instant::now();
        cluster.propose(via, add(7, 1)).await.unwrap();
        assert!(begun.elapsed() < WATCH_LEASE, "{:?}", begun.elapsed());
        assert_eq!(alone.read(7).await, Some(2));
    });
}

#[test]
fn a_suspended_watcher_believes_nothing_when_it_wakes() {
    run(63, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.start(4).await;
        enrol(&mut cluster, [4, 4]).await;
        let client = Client::new(&cluster, 4, 1);
        client.is_believed().await;
        assert_eq!(client.read(7).await, Some(0));
        world.jump(NodeId(4), WATCH_LEASE);
        assert!(!client.memory.figures(client.env.clock.now()).is_believed);
        client.is_believed().await;
        assert_eq!(client.read(7).await, Some(0));
    });
}

/// What was acknowledged, by register.
type Acked = Arc<Mutex<BTreeMap<u8, u64>>>;

/// Reads and writes some registers for a while; no read may be older than what was acknowledged before it began.
async fn work(client: Arc<Client>, acked: Acked, first: u128, until: Instant) -> u64 {
    let mut done = 0;
    let rng = Arc::clone(&client.env.rng);
    while Instant::now() < until {
        let key = (rng.u64() % 4) as u8;
        if rng.u64().is_multiple_of(5) {
            done += 1;
            if let Some(value) = client.propose(first + u128::from(done), add(key, 1)).await {
                let mut acked = acked.lock();
                let known = acked.entry(key).or_default();
                *known = value.max(*known);
            }
        } else {
            let floor = acked.lock().get(&key).copied().unwrap_or(0);
            if let Some(value) = client.read(key).await {
                assert!(value >= floor, "client {} read {value} of {floor}", client.id);
            }
        }
        let pause = Duration::from_micros(rng.u64() % 20_000);
        client.env.clock.sleep(pause).await;
    }
    done
}

#[test]
fn nobody_reads_what_is_older_than_what_was_acknowledged() {
    for seed in 600..616 {
        run(seed, |world| async move {
            let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
            cluster.start(4).await;
            cluster.start(5).await;
            enrol(&mut cluster, [4, 5]).await;
            let clients = [Client::new(&cluster, 4, 1), Client::new(&cluster, 5, 2)];
            for client in &clients {
                client.is_believed().await;
            }
            let acked = Acked::default();
            let until = Instant::now() + Duration::from_secs(60);
            let works: Vec<_> = clients
                .iter()
                .flat_map(|client| [client, client])
                .zip(1u128..)
                .map(|(client, at)| {
                    let work = work(Arc::clone(client), Arc::clone(&acked), at << 64, until);
                    tokio::spawn(work)
                })
                .collect();
            let rng = world.rng();
            while Instant::now() < until {
                cluster.sleep(Duration::from_millis(rng.u64() % 4_000)).await;
                let client = NodeId(4 + rng.u64() % 2);
                let voter = NodeId(1 + rng.u64() % 3);
                match rng.u64() % 5 {
                    0 => world.net().partition(&[client], &[1, 2, 3].map(NodeId)),
                    1 => world.net().partition(&[client], &[voter]),
                    2 => {
                        let others: Vec<_> =
                            (1..=5).map(NodeId).filter(|node| *node != voter).collect();
                        world.net().partition(&[voter], &others);
                    }
                    3 => world.jump(client, Duration::from_millis(rng.u64() % 6_000)),
                    _ => {
                        cluster.kill(voter.0);
                        cluster.sleep(Duration::from_millis(rng.u64() % 2_000)).await;
                        cluster.start(voter.0).await;
                    }
                }
                cluster.sleep(Duration::from_millis(rng.u64() % 3_000)).await;
                world.net().heal();
            }
            let mut writes = 0;
            for work in works {
                writes += work.await.unwrap();
            }
            let hits: u64 = clients
                .iter()
                .map(|client| client.memory.figures(client.env.clock.now()).hits)
                .sum();
            let total: u64 = acked.lock().values().sum();
            assert!(total > 100 && total <= writes, "seed {seed}: {total} of {writes}");
            assert!(hits > 100, "seed {seed}: {hits} hits");
        });
    }
}
