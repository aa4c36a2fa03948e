//! A group that lost its majority is founded anew from what was exported.

use nexusgrid_env::{Batch, NodeId};

use super::cluster::{Cluster, FAMILY, GROUP, add, run};
use crate::export::Export;
use crate::host::MetaHost;
use crate::host::restore::Beginning;
use crate::raft::types::{generation_of, node_of};

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
