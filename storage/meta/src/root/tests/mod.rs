//! The root machine: one fact per test, and invariants over random sequences.

use nexusgrid_codec::id::{ClusterId, DriveId, Epoch, GroupId, PgId};
use nexusgrid_env::{NodeId, Roles};
use proptest::prelude::*;

mod records;
mod restore;
mod settings;

use super::topology::*;
use super::types::*;
use super::{Root, is_bucket_name};
use crate::machine::{ApplyContext, StateMachine};
use crate::namespace::types::BucketId;
use crate::rows::memory::Memory;

#[derive(Default)]
struct Cluster {
    store: Memory,
    keys: u8,
}

fn node(key: u8, host: &str, class: NodeClass) -> NewNode {
    NewNode {
        name: format!("node-{key}"),
        host: host.into(),
        zone: String::new(),
        class,
        roles: Roles::ALL,
        addresses: Addresses { rpc: "r:1".into(), gossip: "g:1".into(), ..Addresses::default() },
        key_hash: [key; 32],
    }
}

fn init() -> RootCommand {
    RootCommand::Init(Box::new(Init {
        cluster: ClusterId([1; 16]),
        ca_cert: vec![1],
        sealed_ca_key: vec![2],
        gossip_key: SecretBytes(vec![3; 32]),
        settings: ClusterSettings::default(),
        metadata_groups: 4,
        node: node(1, "h1", NodeClass::Stable),
        master_key_check: vec![4],
        now_ms: 1,
    }))
}

impl Cluster {
    fn new() -> Cluster {
        let mut cluster = Cluster { keys: 1, ..Cluster::default() };
        assert_eq!(cluster.apply(&init()), Ok(RootOk::Node(NodeId(1))));
        cluster
    }

    fn apply(&mut self, command: &RootCommand) -> RootReply {
        decode_reply(&self.store.apply(&Root, &command.encode())).unwrap()
    }

    fn ask(&self, query: &RootQuery) -> RootQueryReply {
        decode_query_reply(&Root.query(&self.store, &query.encode()).unwrap()).unwrap()
    }

    fn map(&self) -> Topology {
        let Ok(RootAnswer::Topology(Some(map))) =
            self.ask(&RootQuery::Topology { unless_version: 0 })
        else {
            panic!("no map")
        };
        assert_eq!(Topology::decode(&map.encode()), Ok((*map).clone()));
        *map
    }

    fn token(&mut self, id: &str) {
        let command = RootCommand::CreateToken {
            id: id.into(),
            secret_hash: [5; 32],
            expires_ms: 100,
            roles: Roles::ALL,
            now_ms: 1,
        };
        assert_eq!(self.apply(&command), Ok(RootOk::Done));
    }

    fn join(&mut self, host: &str, class: NodeClass) -> NodeId {
        self.keys += 1;
        let token = format!("t{}", self.keys);
        self.token(&token);
        let command = redeem(&token, node(self.keys, host, class), 2);
        let Ok(RootOk::Node(id)) = self.apply(&command) else { panic!("not admitted") };
        let state = RootCommand::SetNodeState { node: id, state: NodeState::Active, now_ms: 3 };
        assert_eq!(self.apply(&state), Ok(RootOk::Done));
        id
    }

    fn drive(&mut self, node: NodeId) -> DriveId {
        self.keys += 1;
        let new = NewDrive { node, incarnation: [self.keys; 16], size_bytes: 1 << 30, weight: 1 };
        let Ok(RootOk::Drive(id)) = self.apply(&RootCommand::AddDrive(new)) else {
            panic!("no drive")
        };
        id
    }

    /// So many hosts with a drive each, in order.
    fn hosts(&mut self, stable: usize, sleepy: usize) -> Vec<DriveId> {
        let mut drives = vec![self.drive(NodeId(1))];
        for at in 1..stable + sleepy {
            let class = if at < stable { NodeClass::Stable } else { NodeClass::Sleepy };
            let node = self.join(&format!("h{}", at + 1), class);
            drives.push(self.drive(node));
        }
        drives
    }

    fn pg(&mut self, class: PgClass, slots: &[DriveId]) -> RootReply {
        self.apply(&RootCommand::CreatePg(NewPg { class, slots: slots.to_vec(), drawn_from: 0 }))
    }
}

fn redeem(token: &str, node: NewNode, now_ms: u64) -> RootCommand {
    RootCommand::RedeemToken { token: token.into(), secret_hash: [5; 32], node, now_ms }
}

fn report(reporter: NodeId, subject: NodeId, sighting: Sighting, now_ms: u64) -> RootCommand {
    RootCommand::Report { reporter, sightings: vec![(subject, sighting)], now_ms }
}

const CODED: PgClass = PgClass::Coded { k: 4, m: 2 };

#[test]
fn init_makes_the_first_node_and_the_groups_once() {
    let mut cluster = Cluster::default();
    let early = cluster.apply(&RootCommand::RevokeToken { id: "t".into() });
    assert_eq!(early, Err(RootError::NotInitialised));
    cluster.apply(&init()).unwrap();
    assert_eq!(cluster.apply(&init()), Err(RootError::AlreadyInitialised));
    let map = cluster.map();
    assert_eq!(map.version, 2);
    assert_eq!(map.groups.len(), 5);
    assert_eq!(map.voters(GroupId(4)), [RaftId::new(NodeId(1), 1)]);
    assert_eq!(RaftId::new(NodeId(9), 3).node(), NodeId(9));
    let same = cluster.ask(&RootQuery::Topology { unless_version: map.version });
    assert_eq!(same, Ok(RootAnswer::Topology(None)));
}

#[test]
fn a_token_admits_one_key_once() {
    let mut cluster = Cluster::new();
    cluster.token("t");
    let wrong = RootCommand::RedeemToken {
        token: "t".into(),
        secret_hash: [6; 32],
        node: node(2, "h", NodeClass::Stable),
        now_ms: 2,
    };
    assert_eq!(cluster.apply(&wrong), Err(RootError::TokenRefused));
    let first = redeem("t", node(2, "h", NodeClass::Stable), 2);
    assert_eq!(cluster.apply(&first), Ok(RootOk::Node(NodeId(2))));
    // The answer was lost; even after the hour.
    let again = redeem("t", node(2, "h", NodeClass::Stable), 500);
    assert_eq!(cluster.apply(&again), Ok(RootOk::Node(NodeId(2))));
    let other = redeem("t", node(3, "h", NodeClass::Stable), 2);
    assert_eq!(cluster.apply(&other), Err(RootError::TokenUsed));
    cluster.token("late");
    let late = redeem("late", node(4, "h", NodeClass::Stable), 100);
    assert_eq!(cluster.apply(&late), Err(RootError::TokenExpired));
    let stolen = redeem("late", node(1, "h", NodeClass::Stable), 2);
    assert_eq!(cluster.apply(&stolen), Err(RootError::Invalid(InvalidField::Node)));
}

#[test]
fn a_removed_node_is_revoked_for_good() {
    let mut cluster = Cluster::new();
    let id = cluster.join("h2", NodeClass::Stable);
    let removed = RootCommand::SetNodeState { node: id, state: NodeState::Removed, now_ms: 4 };
    cluster.apply(&removed).unwrap();
    assert!(cluster.map().node(id).is_none());
    let back = RootCommand::SetNodeState { node: id, state: NodeState::Active, now_ms: 5 };
    assert_eq!(cluster.apply(&back), Err(RootError::NodeRemoved(id)));
    let renew = RootCommand::RenewNodeCert { node: id, current: 1, key_hash: [9; 32] };
    assert_eq!(cluster.apply(&renew), Err(RootError::NodeRemoved(id)));
}

#[test]
fn certificates_move_on_by_one_and_a_cloned_disk_is_refused() {
    let mut cluster = Cluster::new();
    let renew =
        |current, key| RootCommand::RenewNodeCert { node: NodeId(1), current, key_hash: [key; 32] };
    assert_eq!(cluster.apply(&renew(1, 9)), Ok(RootOk::CertGeneration(2)));
    assert_eq!(cluster.apply(&renew(1, 9)), Ok(RootOk::CertGeneration(2)));
    assert_eq!(cluster.apply(&renew(1, 8)), Err(RootError::CertMismatch(NodeId(1))));
    assert_eq!(cluster.apply(&renew(2, 8)), Ok(RootOk::CertGeneration(3)));
}

#[test]
fn i15_raft_ids_are_never_drawn_twice() {
    let mut cluster = Cluster::new();
    let draw = RootCommand::NextRaftGeneration { node: NodeId(1) };
    assert_eq!(cluster.apply(&draw), Ok(RootOk::RaftId(RaftId::new(NodeId(1), 2))));
    assert_eq!(cluster.apply(&draw), Ok(RootOk::RaftId(RaftId::new(NodeId(1), 3))));
}

#[test]
fn i11_slots_are_on_distinct_hosts_while_hosts_suffice() {
    let mut cluster = Cluster::new();
    let mut drives = cluster.hosts(7, 0);
    let second = cluster.drive(NodeId(1));
    let fault = |fault| Err(RootError::BadPlacement(fault));
    drives.rotate_left(1);
    assert_eq!(cluster.pg(CODED, &drives[..6]), Ok(RootOk::Pg(PgId(1))));
    drives.rotate_right(1);
    let twice = [drives[0], drives[0], drives[1], drives[2], drives[3], drives[4]];
    assert_eq!(cluster.pg(CODED, &twice), fault(PlacementFault::DriveTwice));
    let host = [drives[0], second, drives[1], drives[2], drives[3], drives[4]];
    assert_eq!(cluster.pg(CODED, &host), fault(PlacementFault::HostTwice));
    assert_eq!(cluster.pg(CODED, &drives[..5]), Err(RootError::Invalid(InvalidField::PgClass)));
    let failed = RootCommand::SetDriveState { drive: drives[0], state: DriveState::Failed };
    cluster.apply(&failed).unwrap();
    assert_eq!(cluster.pg(CODED, &drives[..6]), Err(RootError::DriveUnusable(drives[0])));
    assert_eq!(cluster.map().active_pgs(Some(CODED)).count(), 1);
}

#[test]
fn i11_one_host_may_hold_several_slots_when_there_is_no_other() {
    let mut cluster = Cluster::new();
    let drives = [cluster.drive(NodeId(1)), cluster.drive(NodeId(1)), cluster.drive(NodeId(1))];
    cluster.pg(PgClass::Coded { k: 2, m: 1 }, &drives).unwrap();
    let node = cluster.join("h2", NodeClass::Stable);
    let other = cluster.drive(node);
    let uneven = cluster.pg(PgClass::Coded { k: 2, m: 1 }, &drives);
    assert_eq!(uneven, Err(RootError::BadPlacement(PlacementFault::HostTwice)));
    cluster.pg(PgClass::Coded { k: 2, m: 1 }, &[drives[0], drives[1], other]).unwrap();
}

#[test]
fn i11_at_most_m_minus_one_slots_sleep_while_the_fleet_allows() {
    let mut cluster = Cluster::new();
    let drives = cluster.hosts(6, 3);
    let one = [&drives[..5], &drives[6..7]].concat();
    cluster.pg(CODED, &one).unwrap();
    let two = [&drives[..4], &drives[6..8]].concat();
    assert_eq!(cluster.pg(CODED, &two), Err(RootError::BadPlacement(PlacementFault::TooSleepy)));
    let mut few = Cluster::new();
    let drives = few.hosts(3, 3);
    few.pg(CODED, &drives).unwrap();
}

#[test]
fn i5_a_remap_raises_the_epoch_and_closes_the_repair_session() {
    let mut cluster = Cluster::new();
    let drives = cluster.hosts(8, 0);
    cluster.pg(CODED, &drives[..6]).unwrap();
    let pg = PgId(1);
    let open = RootCommand::OpenFillSession { pg, worker: NodeId(1) };
    assert_eq!(cluster.apply(&open), Ok(RootOk::FillSession(1)));
    let prepare = |from, moves: &[(u8, DriveId)]| RootCommand::PreparePg {
        pg,
        from: Epoch(from),
        moves: moves.to_vec(),
        now_ms: 5,
    };
    let two = prepare(1, &[(0, drives[6]), (1, drives[7])]);
    assert_eq!(cluster.apply(&two), Err(RootError::Invalid(InvalidField::PgClass)));
    let stale = prepare(7, &[(0, drives[6])]);
    assert_eq!(cluster.apply(&stale), Err(RootError::EpochChanged(pg, Epoch(1))));
    let onto = prepare(1, &[(0, drives[1])]);
    assert_eq!(cluster.apply(&onto), Err(RootError::BadPlacement(PlacementFault::DriveTwice)));
    assert_eq!(cluster.apply(&prepare(1, &[(0, drives[6])])), Ok(RootOk::Epoch(Epoch(2))));
    assert_eq!(cluster.apply(&prepare(2, &[(1, drives[7])])), Err(RootError::PgBusy(pg)));
    let row = &cluster.map().pgs[&pg];
    assert_eq!((row.fill_session, row.fill_worker, row.slots[0]), (2, None, drives[6]));
    assert_eq!(cluster.map().active_pgs(None).count(), 0);
    let early = RootCommand::CleanPg { pg, epoch: Epoch(1) };
    assert_eq!(cluster.apply(&early), Err(RootError::EpochChanged(pg, Epoch(2))));
    cluster.apply(&RootCommand::CleanPg { pg, epoch: Epoch(2) }).unwrap();
    assert_eq!(cluster.map().active_pgs(None).count(), 1);
    let in_use = RootCommand::SetDriveState { drive: drives[1], state: DriveState::Removed };
    assert_eq!(cluster.apply(&in_use), Err(RootError::DriveInUse(drives[1])));
    let freed = RootCommand::SetDriveState { drive: drives[0], state: DriveState::Removed };
    assert_eq!(cluster.apply(&freed), Ok(RootOk::Done));
    let full = RootCommand::SetPgUse { pg, used_bytes: u64::MAX };
    cluster.apply(&full).unwrap();
    assert_eq!(cluster.map().pgs[&pg].state, PgState::Closed);
}

#[test]
fn r4_a_remap_that_lost_its_target_begins_again_and_an_open_session_is_not_clean() {
    let mut cluster = Cluster::new();
    let drives = cluster.hosts(8, 0);
    cluster.pg(CODED, &drives[..6]).unwrap();
    let pg = PgId(1);
    let prepare = |from, slot, to| RootCommand::PreparePg {
        pg,
        from: Epoch(from),
        moves: vec![(slot, to)],
        now_ms: 5,
    };
    let clean = |epoch| RootCommand::CleanPg { pg, epoch: Epoch(epoch) };
    cluster.apply(&prepare(1, 0, drives[6])).unwrap();
    cluster.apply(&RootCommand::OpenFillSession { pg, worker: NodeId(7) }).unwrap();
    assert_eq!(cluster.apply(&prepare(2, 0, drives[7])), Ok(RootOk::Epoch(Epoch(3))));
    let row = cluster.map().pgs[&pg].clone();
    let PgState::Preparing(remap) = &row.state else { panic!("{row:?}") };
    let made = SlotMove { slot: 0, from: drives[0], to: drives[7] };
    assert_eq!((remap.moves.as_slice(), remap.reopen), ([made].as_slice(), true));
    assert_eq!((row.slots[0], row.fill_worker), (drives[7], None));
    // The first worker's end is not this remap's.
    assert_eq!(cluster.apply(&clean(2)), Err(RootError::EpochChanged(pg, Epoch(3))));
    let Ok(RootOk::FillSession(session)) =
        cluster.apply(&RootCommand::OpenFillSession { pg, worker: NodeId(8) })
    else {
        panic!("a session")
    };
    assert_eq!(cluster.apply(&clean(3)), Err(RootError::PgBusy(pg)));
    cluster.apply(&RootCommand::CloseFillSession { pg, session }).unwrap();
    assert_eq!(cluster.apply(&clean(3)), Ok(RootOk::Done));
    assert_eq!(cluster.map().pgs[&pg].state, PgState::Active);
}

#[test]
fn two_reporters_from_two_hosts_make_a_node_down() {
    let mut cluster = Cluster::new();
    cluster.hosts(4, 0);
    let same_host = cluster.join("h2", NodeClass::Stable);
    let liveness = |cluster: &Cluster| cluster.map().nodes[&NodeId(4)].liveness;
    cluster.apply(&report(NodeId(2), NodeId(4), Sighting::Down, 10)).unwrap();
    cluster.apply(&report(same_host, NodeId(4), Sighting::Down, 11)).unwrap();
    cluster.apply(&report(NodeId(4), NodeId(4), Sighting::Down, 11)).unwrap();
    assert_eq!(liveness(&cluster), Liveness::Up);
    // The first report is too old to count.
    cluster.apply(&report(NodeId(3), NodeId(4), Sighting::Down, 50_000)).unwrap();
    assert_eq!(liveness(&cluster), Liveness::Up);
    cluster.apply(&report(NodeId(2), NodeId(4), Sighting::Down, 50_001)).unwrap();
    assert_eq!(liveness(&cluster), Liveness::Down);
    assert_eq!(cluster.map().nodes[&NodeId(4)].liveness_since_ms, 50_001);
    cluster.apply(&report(NodeId(4), NodeId(4), Sighting::Up, 50_002)).unwrap();
    assert_eq!(liveness(&cluster), Liveness::Up);
    cluster.apply(&report(NodeId(3), NodeId(4), Sighting::Down, 50_003)).unwrap();
    assert_eq!(liveness(&cluster), Liveness::Up, "votes before the last decision are void");
}

#[test]
fn with_one_other_host_its_word_is_enough() {
    let mut cluster = Cluster::new();
    cluster.join("h2", NodeClass::Stable);
    cluster.apply(&report(NodeId(1), NodeId(2), Sighting::Down, 10)).unwrap();
    assert_eq!(cluster.map().nodes[&NodeId(2)].liveness, Liveness::Down);
}

fn create(name: &str, owner: &str) -> RootCommand {
    RootCommand::CreateBucket {
        name: name.into(),
        owner: owner.into(),
        settings: BucketSettings::default(),
        sealed_key: vec![1],
        now_ms: 1,
    }
}

#[test]
fn buckets_spread_over_groups_and_go_in_two_phases() {
    let mut cluster = Cluster::new();
    for at in 1..=5u64 {
        let group = GroupId(((at - 1) % 4 + 1) as u32);
        let made = Ok(RootOk::Bucket { bucket: BucketId(at), group });
        assert_eq!(cluster.apply(&create(&format!("bucket-{at}"), "me")), made);
    }
    assert_eq!(cluster.apply(&create("bucket-1", "me")), Err(RootError::BucketOwned));
    assert_eq!(cluster.apply(&create("bucket-1", "you")), Err(RootError::BucketExists));
    let finish = RootCommand::FinishDeleteBucket { bucket: BucketId(1) };
    assert_eq!(cluster.apply(&finish), Err(RootError::Invalid(InvalidField::State)));
    let begin = RootCommand::BeginDeleteBucket { name: "bucket-1".into() };
    cluster.apply(&begin).unwrap();
    assert!(cluster.map().bucket("bucket-1").is_none());
    cluster.apply(&RootCommand::CancelDeleteBucket { bucket: BucketId(1) }).unwrap();
    assert!(cluster.map().bucket("bucket-1").is_some());
    cluster.apply(&begin).unwrap();
    assert_eq!(cluster.apply(&create("bucket-1", "me")), Err(RootError::BucketDeleting));
    assert_eq!(cluster.apply(&finish), Ok(RootOk::Done));
    assert_eq!(cluster.apply(&finish), Ok(RootOk::Done));
    let again = cluster.apply(&create("bucket-1", "me"));
    assert_eq!(again, Ok(RootOk::Bucket { bucket: BucketId(6), group: GroupId(1) }));
    let Ok(RootAnswer::BucketKeys(keys)) =
        cluster.ask(&RootQuery::BucketKeys { bucket: BucketId(1) })
    else {
        panic!("no keys")
    };
    assert_eq!(keys.len(), 1, "copies by link may still need it");
}

#[test]
fn bucket_names_follow_s3() {
    for name in ["abc", "a-b.c", "0a0", &"a".repeat(63)] {
        assert!(is_bucket_name(name), "{name}");
    }
    for name in [
        "ab",
        "Abc",
        "a_b",
        "-ab",
        "ab-",
        "a..b",
        "a-.b",
        "a.-b",
        "1.2.3.4",
        "xn--abc",
        "a-s3alias",
        "a/b",
        "",
        &"a".repeat(64),
    ] {
        assert!(!is_bucket_name(name), "{name}");
    }
}

#[test]
fn access_keys_are_made_listed_and_removed() {
    let mut cluster = Cluster::new();
    let key = |id: &str| AccessKey {
        id: id.into(),
        sealed_secret: vec![1],
        owner: "me".into(),
        admin: false,
        grants: vec![],
        created_ms: 1,
    };
    for id in ["AAA", "BBB", "CCC"] {
        cluster.apply(&RootCommand::CreateKey(key(id))).unwrap();
    }
    assert_eq!(cluster.apply(&RootCommand::CreateKey(key("AAA"))), Err(RootError::KeyExists));
    assert_eq!(
        cluster.apply(&RootCommand::CreateKey(key("a/b"))),
        Err(RootError::Invalid(InvalidField::AccessKey))
    );
    cluster.apply(&RootCommand::DeleteKey { id: "BBB".into() }).unwrap();
    let page = cluster.ask(&RootQuery::AccessKeys { after: "AAA".into(), limit: 1 });
    assert_eq!(page, Ok(RootAnswer::AccessKeys { keys: vec![key("CCC")], more: false }));
}

#[test]
fn i16_secrets_are_not_printed() {
    let printed = format!("{:?}", init());
    assert!(printed.contains("SecretBytes(<32 bytes>)"), "{printed}");
}

/// Fuzz target: any bytes as a command and as a query.
pub fn fuzz(bytes: &[u8]) {
    let mut cluster = Cluster::new();
    decode_reply(&cluster.store.apply(&Root, bytes)).unwrap().ok();
    decode_query_reply(&Root.query(&cluster.store, bytes).unwrap()).unwrap().ok();
}

/// Fuzz target: any bytes as a stored row and as a map.
pub fn fuzz_row(bytes: &[u8]) {
    let mut cluster = Cluster::new();
    let (at, value) = bytes.split_first().unwrap_or((&0, &[]));
    let rows: Vec<_> = cluster.store.rows.values_mut().flat_map(|rows| rows.values_mut()).collect();
    let count = rows.len();
    *rows.into_iter().nth(usize::from(*at) % count).unwrap() = bytes::Bytes::copy_from_slice(value);
    let context = ApplyContext { index: 9, group: GroupId(0) };
    let _ = Root.apply(
        &cluster.store,
        &context,
        &report(NodeId(1), NodeId(1), Sighting::Up, 1).encode(),
    );
    let _ = Root.query(&cluster.store, &RootQuery::Topology { unless_version: 0 }.encode());
    let _ = Topology::decode(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_get_a_typed_reply(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), versioned in any::<bool>()) {
        if versioned && let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        fuzz(&bytes);
        fuzz_row(&bytes);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Join(u8, bool),
    Drive(u64),
    Pg(Vec<u64>),
    Prepare(u32, u8, u64),
    Clean(u32),
    NodeState(u64, u8),
    DriveState(u64, u8),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1u8..9, any::<bool>()).prop_map(|(host, sleepy)| Op::Join(host, sleepy)),
        4 => (1u64..9).prop_map(Op::Drive),
        4 => proptest::collection::vec(1u64..12, 3).prop_map(Op::Pg),
        4 => (1u32..5, 0u8..3, 1u64..12).prop_map(|(pg, slot, drive)| Op::Prepare(pg, slot, drive)),
        2 => (1u32..5).prop_map(Op::Clean),
        1 => (1u64..9, 0u8..4).prop_map(|(node, state)| Op::NodeState(node, state)),
        1 => (1u64..12, 0u8..4).prop_map(|(drive, state)| Op::DriveState(drive, state)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn i5_epochs_only_grow_ids_are_new_and_the_map_has_no_loose_ends(ops in proptest::collection::vec(ops(), 1..60)) {
        let mut cluster = Cluster::new();
        let mut before = cluster.map();
        for op in ops {
            let command = match op {
                Op::Join(host, sleepy) => {
                    let class = if sleepy { NodeClass::Sleepy } else { NodeClass::Stable };
                    cluster.join(&format!("h{host}"), class);
                    before = cluster.map();
                    continue;
                }
                Op::Drive(node) => {
                    cluster.keys += 1;
                    RootCommand::AddDrive(NewDrive { node: NodeId(node), incarnation: [cluster.keys; 16], size_bytes: 1, weight: 1 })
                }
                Op::Pg(slots) => RootCommand::CreatePg(NewPg {
                    class: PgClass::Replicated { copies: 3 }, slots: slots.into_iter().map(DriveId).collect(), drawn_from: 0,
                }),
                Op::Prepare(pg, slot, drive) => {
                    let from = before.pgs.get(&PgId(pg)).map_or(Epoch(1), |pg| pg.epoch);
                    RootCommand::PreparePg { pg: PgId(pg), from, moves: vec![(slot, DriveId(drive))], now_ms: 1 }
                }
                Op::Clean(pg) => {
                    let epoch = before.pgs.get(&PgId(pg)).map_or(Epoch(1), |pg| pg.epoch);
                    RootCommand::CleanPg { pg: PgId(pg), epoch }
                }
                Op::NodeState(node, state) => {
                    let state = [NodeState::Joining, NodeState::Active, NodeState::Leaving, NodeState::Removed][usize::from(state)];
                    RootCommand::SetNodeState { node: NodeId(node), state, now_ms: 1 }
                }
                Op::DriveState(drive, state) => {
                    let state = [DriveState::Active, DriveState::Draining, DriveState::Failed, DriveState::Removed][usize::from(state)];
                    RootCommand::SetDriveState { drive: DriveId(drive), state }
                }
            };
            let is_ok = cluster.apply(&command).is_ok();
            let after = cluster.map();
            prop_assert!(after.version >= before.version);
            if !is_ok {
                prop_assert_eq!(&after, &before);
            }
            for (id, pg) in &before.pgs {
                prop_assert!(after.pgs[id].epoch >= pg.epoch && after.pgs[id].fill_session >= pg.fill_session);
            }
            for (id, node) in &before.nodes {
                prop_assert!(node.state != NodeState::Removed || after.nodes[id].state == NodeState::Removed);
            }
            for pg in after.pgs.values() {
                let distinct: std::collections::BTreeSet<_> = pg.slots.iter().collect();
                prop_assert_eq!(distinct.len(), pg.class.width());
                prop_assert!(pg.slots.iter().all(|drive| after.drives[drive].state != DriveState::Removed));
            }
            prop_assert!(after.drives.values().all(|drive| after.nodes.contains_key(&drive.node)));
            before = after;
        }
    }
}

#[test]
fn golden_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let drive = Drive {
        id: DriveId(1),
        node: NodeId(2),
        incarnation: [3; 16],
        size_bytes: 4,
        weight: 5,
        state: DriveState::Active,
        used_bytes: 0,
        space: SpaceMark::Normal,
    };
    assert_eq!(
        hex(&crate::rows::codec::encode(&drive)),
        format!("010102{}0405000000", "03".repeat(16))
    );
    let pg = Pg {
        id: PgId(1),
        class: CODED,
        slots: vec![DriveId(1), DriveId(2)],
        epoch: Epoch(3),
        state: PgState::Active,
        cap_bytes: 4,
        used_bytes: 5,
        fill_session: 6,
        fill_worker: None,
    };
    assert_eq!(hex(&crate::rows::codec::encode(&pg)), "0101000402020102030004050600");
    assert_eq!(hex(&RootQuery::Topology { unless_version: 300 }.encode()), "0100ac02");
    assert_eq!(hex(&RootCommand::ClosePg { pg: PgId(1) }.encode()), "010d01");
    let settings = "e0d403c0cf24b0ea01808080808020";
    let node = "066e6f64652d31026831000001010103723a310003673a3100";
    assert_eq!(
        hex(&init().encode()),
        format!(
            "0100{}0101010220{}{settings}04{node}{}010401",
            "01".repeat(16),
            "03".repeat(32),
            "01".repeat(32)
        )
    );
    assert_eq!(hex(&super::rows::bucket_key(BucketId(7), 2)), "45000000000000000700000002");
}
