//! The simulated network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_env::sim::{NetOptions, SimNet, World};
use nexusgrid_env::{
    Datagram, MethodId, NodeId, Peer, Roles, Rpc, RpcError, RpcRequest, RpcResponse, RpcService,
};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const SECOND: Duration = Duration::from_secs(1);

/// Counts what it served, and answers with the caller after `work`.
#[derive(Default)]
struct Counter {
    served: AtomicU64,
    work: Duration,
}

impl Counter {
    fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl RpcService for Counter {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        self.served.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.work).await;
        if request.head.is_empty() {
            return Err(RpcError::Refused("empty".to_owned()));
        }
        let text = format!("{} {}", from.node, from.roles.gateway);
        Ok(RpcResponse { head: Bytes::from(text), body: request.body })
    }
}

fn request(head: &str) -> RpcRequest {
    let head = Bytes::copy_from_slice(head.as_bytes());
    RpcRequest { method: MethodId(0x0101), head, body: Bytes::from_static(b"body") }
}

/// Two machines; B serves.
fn pair(world: &World, work: Duration) -> (Arc<dyn Rpc>, Arc<Counter>) {
    world.start(A);
    world.start(B);
    let counter = Arc::new(Counter { work, ..Counter::default() });
    world.net().serve(B, counter.clone());
    (world.net().rpc(A), counter)
}

#[test]
fn calls_carry_the_caller_and_take_time() {
    let world = World::new(1);
    world.run(async {
        let (rpc, counter) = pair(&world, Duration::ZERO);
        world.net().set_roles(A, Roles { gateway: false, ..Roles::ALL });
        let answer = rpc.call(B, request("x"), SECOND).await.unwrap();
        assert_eq!(answer.head, "n1 false");
        assert_eq!(answer.body, "body");
        assert!(world.elapsed() >= Duration::from_millis(2));
        let refused = rpc.call(B, request(""), SECOND).await;
        assert_eq!(refused.unwrap_err(), RpcError::Refused("empty".to_owned()));
        assert_eq!(counter.served(), 2);
        assert_eq!(world.net().calls(), 2);
        let own = world.net().endpoint(A, Arc::new(Counter::default()));
        let before = world.elapsed();
        own.call(A, request("x"), SECOND).await.unwrap();
        assert_eq!(world.elapsed(), before);
        assert_eq!(world.net().calls(), 2, "no network to oneself");
    });
}

#[test]
fn a_slow_service_is_an_unknown_outcome() {
    let world = World::new(1);
    world.run(async {
        let (rpc, counter) = pair(&world, 10 * SECOND);
        let before = world.elapsed();
        let answer = rpc.call(B, request("x"), SECOND).await;
        assert!(matches!(answer, Err(RpcError::Unknown(B, _))), "{answer:?}");
        assert!(world.elapsed() - before >= SECOND);
        assert_eq!(counter.served(), 1);
    });
}

#[test]
fn partitions_cut_and_heal() {
    let world = World::new(2);
    world.run(async {
        let (rpc, counter) = pair(&world, Duration::ZERO);
        world.net().partition(&[A], &[B]);
        for _ in 0..10 {
            let answer = rpc.call(B, request("x"), 5 * SECOND).await;
            assert!(matches!(answer, Err(RpcError::Unreachable(B, _) | RpcError::Unknown(B, _))));
        }
        assert_eq!(counter.served(), 0);
        world.net().heal();
        rpc.call(B, request("x"), SECOND).await.unwrap();
        // Answers get lost: what arrived was done all the same.
        world.net().cut(B, A);
        for _ in 0..10 {
            rpc.call(B, request("x"), 5 * SECOND).await.unwrap_err();
        }
        assert!(counter.served() > 1);
        world.net().mend(B, A);
        rpc.call(B, request("x"), SECOND).await.unwrap();
    });
}

#[test]
fn unreachable_means_that_it_was_not_done() {
    for seed in 0..20 {
        let world = World::new(seed);
        world.run(async {
            let (rpc, counter) = pair(&world, Duration::ZERO);
            world.net().set_options(NetOptions { loss: 0.3, ..NetOptions::rough() });
            let mut sure = 0;
            let mut open = 0;
            for round in 0..30 {
                match round % 10 {
                    3 => world.net().cut(A, B),
                    6 => world.net().cut(B, A),
                    9 => world.net().heal(),
                    _ => {}
                }
                match rpc.call(B, request("x"), SECOND).await {
                    Ok(_) => sure += 1,
                    Err(RpcError::Unreachable(..)) => {}
                    Err(_) => open += 1,
                }
            }
            tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
            let duplicates_too = 2 * (sure + open);
            assert!((sure..=duplicates_too).contains(&counter.served()));
        });
    }
}

#[test]
fn messages_are_doubled_and_late() {
    let world = World::new(3);
    world.run(async {
        let (rpc, counter) = pair(&world, Duration::ZERO);
        let net = world.net();
        net.set_options(NetOptions { duplicate: 1.0, ..NetOptions::default() });
        rpc.call(B, request("x"), SECOND).await.unwrap();
        tokio::time::sleep(SECOND).await;
        assert_eq!(counter.served(), 2);
        net.set_options(NetOptions { late: 1.0, ..NetOptions::default() });
        let answer = rpc.call(B, request("x"), SECOND).await;
        assert!(matches!(answer, Err(RpcError::Unknown(B, _))));
        assert_eq!(counter.served(), 2);
        tokio::time::sleep(2 * Duration::from_secs(3600)).await;
        assert_eq!(counter.served(), 3, "served long after the caller gave up");
    });
}

#[test]
fn a_crash_breaks_what_is_in_flight_and_ends_the_old_life() {
    let world = World::new(4);
    world.run(async {
        let (rpc, counter) = pair(&world, 10 * SECOND);
        let call = {
            let rpc = rpc.clone();
            tokio::spawn(async move { rpc.call(B, request("x"), 60 * SECOND).await })
        };
        tokio::time::sleep(SECOND).await;
        world.crash(B);
        let answer = call.await.unwrap();
        assert!(matches!(answer, Err(RpcError::Unknown(B, _))), "{answer:?}");
        assert!(world.elapsed() < 5 * SECOND, "the broken connection was told at once");
        let answer = rpc.call(B, request("x"), 5 * SECOND).await;
        assert!(matches!(answer, Err(RpcError::Unreachable(B, _))), "{answer:?}");
        world.start(B);
        world.net().serve(B, counter.clone());
        rpc.call(B, request("x"), 60 * SECOND).await.unwrap();
        world.restart(A);
        let answer = rpc.call(B, request("x"), 60 * SECOND).await;
        assert!(matches!(answer, Err(RpcError::Unreachable(B, _))), "{answer:?}");
        world.net().rpc(A).call(B, request("x"), 60 * SECOND).await.unwrap();
    });
}

#[test]
fn a_suspended_target_answers_after_it_wakes() {
    let world = World::new(5);
    world.run(async {
        let (rpc, counter) = pair(&world, Duration::ZERO);
        world.suspend(B);
        let answer = rpc.call(B, request("x"), SECOND).await;
        assert!(matches!(answer, Err(RpcError::Unknown(B, _))));
        assert_eq!(counter.served(), 0);
        world.resume(B);
        tokio::time::sleep(SECOND).await;
        assert_eq!(counter.served(), 1);
    });
}

#[test]
fn datagrams_are_lost_doubled_and_reordered() {
    let world = World::new(6);
    world.run(async {
        world.start(A);
        world.start(B);
        let (one, other): (Arc<dyn Datagram>, Arc<dyn Datagram>) =
            (world.net().datagram(A), world.net().datagram(B));
        assert_eq!(one.local(), SimNet::address(A));
        world.net().set_options(NetOptions { loss: 0.2, duplicate: 0.2, ..NetOptions::rough() });
        for number in 0..200u8 {
            one.send(SimNet::address(B), &[number]).await.unwrap();
        }
        let mut order = Vec::new();
        while let Ok(packet) = tokio::time::timeout(SECOND, other.receive()).await {
            let (from, packet) = packet.unwrap();
            assert_eq!(from, SimNet::address(A));
            order.push(packet[0]);
        }
        let mut count: BTreeMap<u8, u32> = BTreeMap::new();
        order.iter().for_each(|number| *count.entry(*number).or_default() += 1);
        assert!(count.len() < 190, "some are lost");
        assert!(count.len() > 110, "most are not");
        assert!(count.values().any(|times| *times == 2), "some are doubled");
        assert!(!order.is_sorted(), "some are overtaken");
        world.crash(B);
        assert!(other.receive().await.is_err());
        one.send(SimNet::address(B), b"to nobody").await.unwrap();
    });
}
