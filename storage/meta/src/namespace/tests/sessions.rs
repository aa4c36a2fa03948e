//! Sessions, buckets, preconditions, blocks: one fact each.

use nexusgrid_codec::id::{BlockId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::NodeId;

use super::support::*;
use crate::namespace::types::*;

fn sessions(group: &Group) -> (SessionId, Vec<Session>) {
    let Ok(NamespaceAnswer::Sessions { floor, sessions }) = group.ask(NamespaceQuery::Sessions)
    else {
        panic!("no sessions")
    };
    (floor, sessions)
}

#[test]
fn i4_no_commit_from_a_closed_session() {
    let mut group = Group::new();
    let session = group.session;
    group.ok(NamespaceCommand::CloseSession { session, now_ms: 1 });
    let refused = Err(NamespaceError::SessionClosed(session));
    assert_eq!(group.put(b"k", b"v", 0, Precondition::None), refused);
    assert_eq!(group.put(b"k", b"v", 1, Precondition::None), refused);
    let renew = NamespaceCommand::RenewSession { session, oldest_pin_ms: None, now_ms: 2 };
    assert_eq!(group.apply(renew), Err(NamespaceError::SessionClosed(session)));
}

#[test]
fn a_lease_runs_out_unless_it_is_renewed() {
    let mut group = Group::new();
    let first = group.session;
    group.open();
    let second = group.session;
    let renew =
        NamespaceCommand::RenewSession { session: second, oldest_pin_ms: Some(3), now_ms: 8 };
    group.ok(renew);
    let closed = group.ok(NamespaceCommand::ExpireSessions { now_ms: 11 });
    assert_eq!(closed, NamespaceOk::Closed(vec![first]));
    let (floor, all) = sessions(&group);
    assert_eq!(floor, SessionId(0));
    assert_eq!(
        all.iter().map(|s| (s.id, s.closed_ms.is_some())).collect::<Vec<_>>(),
        [(first, true), (second, false)]
    );
    assert_eq!(all[1].oldest_pin_ms, Some(3));
}

#[test]
fn r6_the_floor_never_passes_an_open_session() {
    let mut group = Group::new();
    let first = group.session;
    group.open();
    group.ok(NamespaceCommand::CloseSession { session: first, now_ms: 1 });
    group.ok(NamespaceCommand::ForgetSessions { floor: SessionId(u64::MAX) });
    let (floor, all) = sessions(&group);
    assert_eq!(floor, group.session);
    assert_eq!(all.len(), 1);
    // It never falls.
    group.ok(NamespaceCommand::ForgetSessions { floor: SessionId(0) });
    assert_eq!(sessions(&group).0, floor);
}

#[test]
fn blocks_are_pending_live_dead_unknown_or_unheard_of() {
    let mut group = Group::new();
    let state = |group: &Group, block: BlockId| {
        let Ok(NamespaceAnswer::Blocks(states)) =
            group.ask(NamespaceQuery::ResolveBlocks { blocks: vec![block] })
        else {
            panic!("no states")
        };
        states[0]
    };
    let first = group.session;
    let block = BlockId { group: GroupId(1), session: first, counter: 1 };
    assert_eq!(state(&group, block), BlockState::Pending);
    group.put(b"k", b"bytes", 1, Precondition::None).unwrap();
    assert!(matches!(state(&group, block), BlockState::Live { live_bytes: 5, .. }));
    group.delete(&[b"k"]).unwrap();
    // Not before its release is older than the horizon.
    group.ok(NamespaceCommand::OutboxExpand { horizon_ms: 4, now_ms: 6 });
    assert!(matches!(state(&group, block), BlockState::Live { .. }));
    group.ok(NamespaceCommand::OutboxExpand { horizon_ms: 5, now_ms: 6 });
    assert_eq!(state(&group, block), BlockState::Dead);
    group.ok(NamespaceCommand::OutboxAck { blocks: vec![block] });
    group.ok(NamespaceCommand::CloseSession { session: first, now_ms: 7 });
    assert_eq!(state(&group, block), BlockState::Unknown);
    // Forgotten, but below the floor: closed all the same.
    group.ok(NamespaceCommand::ForgetSessions { floor: SessionId(first.0 + 1) });
    assert_eq!(state(&group, block), BlockState::Unknown);
    // A session that nobody opened here: metadata is older than the block.
    let newer = BlockId { session: SessionId(1 << 40), ..block };
    assert_eq!(state(&group, newer), BlockState::Unheard);
}

#[test]
fn what_waits_is_freed_in_order_of_commit_whatever_clocks_said() {
    let mut group = Group::new();
    let released = |group: &Group| {
        let Ok(NamespaceAnswer::Released { outbox, moved }) = group.ask(NamespaceQuery::Released)
        else {
            panic!("no answer")
        };
        assert_eq!(moved, None);
        outbox
    };
    assert_eq!(released(&group), None);
    for (key, now_ms) in [(b"a", u64::MAX), (b"b", 1)] {
        group.put(key, b"bytes", 1, Precondition::None).unwrap();
        group.delete_at(key, now_ms);
    }
    let (first, last) = released(&group).unwrap();
    assert!(first < last);
    let expand = |group: &mut Group, through| {
        group.ok(NamespaceCommand::ExpandThrough { through, now_ms: 6 })
    };
    let freed = |freed| NamespaceOk::Expanded { freed, more: false };
    assert_eq!(expand(&mut group, first - 1), freed(0));
    assert_eq!(expand(&mut group, last - 1), freed(1));
    assert_eq!(released(&group), Some((last, last)));
    assert_eq!(expand(&mut group, last), freed(1));
    assert_eq!(released(&group), None);
}

#[test]
fn i3_a_block_is_bound_once() {
    let mut group = Group::new();
    group.put(b"a", b"bytes", 1, Precondition::None).unwrap();
    group.counter = 0;
    let block = BlockId { group: GroupId(1), session: group.session, counter: 1 };
    assert_eq!(
        group.put(b"b", b"other", 1, Precondition::None),
        Err(NamespaceError::BlockBound(block))
    );
    // What was refused for good is dead, and cannot be bound later.
    group.put(b"a", b"third", 1, Precondition::Absent).unwrap_err();
    group.counter -= 1;
    let block = BlockId { counter: 2, ..block };
    assert_eq!(
        group.put(b"c", b"third", 1, Precondition::None),
        Err(NamespaceError::BlockBound(block))
    );
    group.check();
}

#[test]
fn i1_a_commit_needs_a_quorum_of_its_own_blocks() {
    let mut group = Group::new();
    let commit = |group: &mut Group, change: &dyn Fn(&mut NewBlock)| {
        let (mut blocks, content) = group.content(b"bytes", 1);
        change(&mut blocks[0]);
        let block = blocks[0].block;
        let put = PutObject {
            bucket: BUCKET,
            key: b"k".to_vec(),
            precondition: Precondition::None,
            content,
            meta: meta(b""),
        };
        let session = group.session;
        let reply =
            group.apply(NamespaceCommand::Commit { session, blocks, puts: vec![put], now_ms: 1 });
        (block, reply.and_then(one))
    };
    let (block, reply) = commit(&mut group, &|block| block.missing_mask = 0b11);
    assert_eq!(reply, Err(NamespaceError::NoQuorum(block)));
    let malformed = Err(NamespaceError::Malformed(Malformed::Blocks));
    assert_eq!(commit(&mut group, &|block| block.missing_mask = 1 << 6).1, malformed);
    assert_eq!(commit(&mut group, &|block| block.block.group = GroupId(2)).1, malformed);
    assert_eq!(commit(&mut group, &|block| block.block.session = SessionId(99)).1, malformed);
    assert_eq!(commit(&mut group, &|block| block.k = 0).1, malformed);
    assert!(commit(&mut group, &|block| block.missing_mask = 0b10).1.is_ok());
    let query = NamespaceQuery::RepairQueue { pg: None, after: None, limit: 9 };
    let Ok(NamespaceAnswer::Repairs { repairs, more: false }) = group.ask(query) else {
        panic!("no queue")
    };
    assert_eq!(repairs.iter().map(|repair| repair.slot).collect::<Vec<_>>(), [1]);
    group.check();
}

#[test]
fn a_dropped_bucket_stays_dropped() {
    let mut group = Group::new();
    group.put(b"d/k", b"v", 0, Precondition::None).unwrap();
    let drop_it = NamespaceCommand::DropBucketIfEmpty { bucket: BUCKET };
    assert_eq!(group.apply(drop_it.clone()), Err(NamespaceError::BucketNotEmpty));
    group.delete(&[b"d/k"]).unwrap();
    let id = super::listing::create_upload(&mut group, b"u", 1);
    assert_eq!(group.apply(drop_it.clone()), Err(NamespaceError::BucketNotEmpty));
    let upload = UploadRef { bucket: BUCKET, key: b"u".to_vec(), id };
    group.ok(NamespaceCommand::AbortUpload { session: group.session, upload, now_ms: 1 });
    group.ok(drop_it.clone());
    group.ok(drop_it);
    let late = NamespaceCommand::InitBucket { bucket: BUCKET, quota_bytes: None };
    assert_eq!(group.apply(late), Err(NamespaceError::NoSuchBucket));
    assert_eq!(group.put(b"k", b"v", 0, Precondition::None), Err(NamespaceError::NoSuchBucket));
    group.check();
}

#[test]
fn a_quota_counts_objects_and_parts() {
    let mut group = Group::new();
    group.ok(NamespaceCommand::SetQuota { bucket: BUCKET, quota_bytes: Some(10) });
    group.put(b"a", b"12345678", 1, Precondition::None).unwrap();
    assert_eq!(group.put(b"b", b"123", 1, Precondition::None), Err(NamespaceError::QuotaExceeded));
    group.put(b"a", b"1234567890", 1, Precondition::None).unwrap();
    group.ok(NamespaceCommand::SetQuota { bucket: BUCKET, quota_bytes: Some(5) });
    group.put(b"a", b"123456", 1, Precondition::None).unwrap();
    group.check();
    // Where versions are kept, a copy onto itself is one more, and counts.
    group.ok(NamespaceCommand::SetQuota { bucket: BUCKET, quota_bytes: Some(15) });
    let versions = RulesChange::Versioning(Versioning::Enabled);
    group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change: versions });
    let copy = |group: &Group| NamespaceCommand::SetMeta {
        session: group.session,
        bucket: BUCKET,
        key: b"a".to_vec(),
        precondition: Precondition::None,
        meta: meta(b"123456"),
        now_ms: 2,
    };
    let first = copy(&group);
    group.ok(first.clone());
    assert_eq!(group.apply(first), Err(NamespaceError::QuotaExceeded));
    group.check();
}

#[test]
fn compare_and_swap_of_content() {
    let mut group = Group::new();
    let first = group.put(b"a", b"1", 0, Precondition::None).unwrap();
    let second = group.put(b"a", b"2", 0, Precondition::ContentIs(first.content)).unwrap();
    assert_eq!(
        group.put(b"a", b"3", 0, Precondition::ContentIs(first.content)),
        Err(NamespaceError::PreconditionFailed)
    );
    assert_ne!(first.content, second.content);
}

#[test]
fn ids_of_sessions_are_never_reused() {
    let mut group = Group::new();
    let first = group.session;
    group.ok(NamespaceCommand::CloseSession { session: first, now_ms: 1 });
    group.ok(NamespaceCommand::ForgetSessions { floor: SessionId(u64::MAX) });
    group.ok(NamespaceCommand::OpenSession { node: NodeId(1), lease_ms: 1, now_ms: 1 });
    assert!(sessions(&group).1.iter().all(|session| session.id > first));
}

#[test]
fn a_fenced_pg_takes_no_commit_of_an_older_epoch() {
    let mut group = Group::new();
    group.put(b"before", b"bytes", 1, Precondition::None).unwrap();
    let fence = |epoch| NamespaceCommand::FencePg { pg: PgId(3), epoch: Epoch(epoch) };
    group.ok(fence(1));
    group.put(b"same", b"bytes", 1, Precondition::None).unwrap();
    group.ok(fence(2));
    // A fence never goes back.
    group.ok(fence(1));
    let refused = group.put(b"after", b"bytes", 1, Precondition::None);
    assert!(matches!(refused, Err(NamespaceError::Fenced(_))), "{refused:?}");
    let read = NamespaceQuery::Head { bucket: BUCKET, key: b"same".to_vec() };
    assert!(group.ask(read).is_ok());
}
