//! A group that lost its majority is founded anew from what was exported.

use nexusgrid_env::{Batch, NodeId};

use super::cluster::{Cluster, FAMILY, GROUP, add, run};
use crate::export::Export;
use crate::host::MetaHost;
use crate::host::restore::Beginning;
use crate::raft::types::{generation_of, node_of};
use crate::tail::{LogPlace, LogTail};

const BEGINNING: Beginning = Beginning { index: 1 << 32, generation: 256 };

fn exported(host: &MetaHost) -> Vec<u8> {
    let mut export: Export = host.export(GROUP).unwrap();
    let mut stream = Vec::new();
    while let Some(frame) = export.next_frame().unwrap() {
        stream.extend_from_slice(&frame);
    }
    stream
}

async fn found(host: &MetaHost, stream: &[u8]) {
    let mut founding = host.begin_found(GROUP).await.unwrap();
    for piece in stream.chunks(100) {
        founding.take(piece).await.unwrap();
    }
    let adapt = |state: &dyn nexusgrid_env::KvRead, head: &crate::export::ExportHead| {
        assert_eq!(head.group, GROUP);
        assert!(state.get(FAMILY, &[1])?.is_some());
        let mut batch = Batch::default();
        batch.put(FAMILY, [9], 77u64.to_le_bytes());
        Ok(batch)
    };
    let id = founding.finish(BEGINNING, adapt).await.unwrap();
    assert_eq!((node_of(id), generation_of(id)), (host.node(), 257));
}

#[test]
fn a_lost_group_begins_anew_and_takes_members_in() {
    run(30, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.start(4).await;
        for _ in 0..70 {
            cluster.propose(1, add(1, 1)).await.unwrap();
        }
        cluster.caught_up(2).await;
        let stream = exported(&cluster.host(2));
        // After the checkpoint: lost with the group.
        cluster.propose(1, add(1, 1)).await.unwrap();
        cluster.kill(1);
        cluster.kill(3);
        // On a node that had no replica at all.
        found(&cluster.host(4), &stream).await;
        *cluster.directory.0.lock() = vec![NodeId(4)];
        assert!(cluster.host(2).discard_lost(GROUP, BEGINNING.generation).await.unwrap());
        assert_eq!(cluster.leader().await, 4);
        assert_eq!(cluster.read(2, 1).await, Ok(70));
        assert_eq!(cluster.read(2, 9).await, Ok(77));
        assert_eq!(cluster.propose(2, add(1, 1)).await, Ok(71));
        assert!(cluster.host(4).status(GROUP).unwrap().applied_index > BEGINNING.index);

        // The others come back: what they held of the lost group is told by its generation.
        for node in [1, 3] {
            cluster.start(node).await;
            let view = cluster.host(node).look_at(NodeId(node), GROUP).await.unwrap();
            assert!(view.running && view.generation <= BEGINNING.generation);
            assert!(cluster.host(node).discard_lost(GROUP, BEGINNING.generation).await.unwrap());
            let id = cluster.add(node).await;
            assert!(generation_of(id) > BEGINNING.generation);
            assert!(!cluster.host(node).discard_lost(GROUP, BEGINNING.generation).await.unwrap());
        }
        let members = cluster.host(4).status(GROUP).unwrap().members;
        let voters = members.iter().map(|member| member.id).collect();
        cluster.host(4).set_voters(GROUP, voters).await.unwrap();
        // And it survives restarts, with the power gone at once.
        for node in [1, 3, 4] {
            cluster.crash(node);
        }
        for node in [1, 3, 4] {
            assert_eq!(cluster.start(node).await, [(GROUP, Ok(()))]);
        }
        assert_eq!(cluster.propose(3, add(1, 1)).await, Ok(72));
    });
}

#[test]
fn tails_bring_a_checkpoint_to_where_the_log_was() {
    run(32, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        let asked_twice = cluster.request();
        cluster.propose_as(1, asked_twice, add(1, 1)).await.unwrap();
        for _ in 0..5 {
            cluster.propose(1, add(1, 1)).await.unwrap();
        }
        cluster.caught_up(2).await;
        let stream = exported(&cluster.host(2));
        let at = cluster.host(2).status(GROUP).unwrap().applied_index;
        let mut after = cluster.host(2).log_place(GROUP, at).unwrap().unwrap();
        // Asked again behind the checkpoint: it was applied before it, and must not be again. And
        // another leader begins.
        assert_eq!(cluster.propose_as(1, asked_twice, add(1, 1)).await, Ok(1));
        for _ in 0..15 {
            cluster.propose(1, add(2, 3)).await.unwrap();
        }
        let leader = cluster.leader().await;
        let host = cluster.host(leader);
        host.give_away(&host.running(GROUP).unwrap()).await.unwrap();
        cluster.propose(1, add(1, 1)).await.unwrap();
        cluster.caught_up(2).await;
        let host = cluster.host(2);
        let mut tails = Vec::new();
        loop {
            // As many bytes as a few entries have.
            let tail = host.tail(GROUP, after, 100).await.unwrap().unwrap();
            if tail.is_empty() {
                break;
            }
            after = tail.end();
            tails.push(LogTail::decode(&tail.encode()).unwrap());
        }
        assert!(tails.len() > 3);
        assert_eq!(after.index, host.status(GROUP).unwrap().applied_index);
        let (one, two) = (cluster.local(2, 1), cluster.local(2, 2));
        assert_eq!((one, two), (7, 45));
        // Nothing fits behind a hole, nor behind another history.
        let first = tails[0].after();
        let other = LogPlace { term: first.term + 1, ..first };
        assert_eq!(host.tail(GROUP, other, 100).await, Ok(None));

        for node in 1..=3 {
            cluster.kill(node);
        }
        cluster.start(4).await;
        let mut founding = cluster.host(4).begin_found(GROUP).await.unwrap();
        assert!(founding.follow(tails[0].clone()).await.is_err(), "before the stream is whole");
        founding.take(&stream).await.unwrap();
        assert!(founding.follow(tails[1].clone()).await.is_err(), "a hole");
        assert_eq!(founding.reached().unwrap(), first);
        for tail in [&tails[0], &tails[0]].into_iter().chain(&tails[1..]) {
            founding.follow(tail.clone()).await.unwrap();
        }
        assert_eq!(founding.reached().unwrap(), after);
        let adapt = move |_: &dyn nexusgrid_env::KvRead, head: &crate::export::ExportHead| {
            assert_eq!(head.index, after.index);
            Ok(Batch::default())
        };
        founding.finish(BEGINNING, adapt).await.unwrap();
        *cluster.directory.0.lock() = vec![NodeId(4)];
        assert_eq!(cluster.read(4, 1).await, Ok(one));
        assert_eq!(cluster.read(4, 2).await, Ok(two));
        assert_eq!(cluster.host(4).set_aside(), Ok(vec![]));
    });
}

#[test]
fn a_log_that_let_go_of_the_beginning_gives_no_tail() {
    run(33, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1]).await;
        let host = cluster.host(1);
        cluster.propose(1, add(1, 1)).await.unwrap();
        let at = host.status(GROUP).unwrap().applied_index;
        let after = host.log_place(GROUP, at).unwrap().unwrap();
        assert_eq!(host.tail(GROUP, after, 100).await.unwrap().map(|tail| tail.end()), Some(after));
        for _ in 0..120 {
            cluster.propose(1, add(1, 1)).await.unwrap();
        }
        while host.status(GROUP).unwrap().purged_index <= at {
            cluster.sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(host.tail(GROUP, after, 100).await, Ok(None));
    });
}

#[test]
fn a_founding_that_is_cut_short_leaves_what_was_there() {
    run(31, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1]).await;
        cluster.propose(1, add(1, 1)).await.unwrap();
        let stream = exported(&cluster.host(1));
        let mut founding = cluster.host(1).begin_found(GROUP).await.unwrap();
        founding.take(&stream[..stream.len() - 3]).await.unwrap();
        assert!(founding.finish(BEGINNING, |_, _| Ok(Batch::default())).await.is_err());
        cluster.crash(1);
        assert_eq!(cluster.start(1).await, [(GROUP, Ok(()))]);
        assert_eq!(cluster.propose(1, add(1, 1)).await, Ok(2));
    });
}
