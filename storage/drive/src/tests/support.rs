//! Shards and drives for tests.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use nexusgrid_codec::header::frame_crcs;
use nexusgrid_codec::{
    BlockId, BlockLayout, ClusterId, Code, DriveId, Epoch, GroupId, PgId, SessionId, ShardDigest,
    ShardHeader,
};
use nexusgrid_env::sim::{SimDisk, World};
use nexusgrid_env::{Env, NodeId, ScanRange};

use crate::index;
use crate::options::DriveOptions;
use crate::types::{DriveIdentity, FillSessionId, ReadOptions, ShardKey, ShardWrite, WriteClass};
use crate::{DriveError, DriveStore, OpenError, Verdict};

pub const NODE: NodeId = NodeId(1);
pub const IDENTITY: DriveIdentity =
    DriveIdentity { cluster: ClusterId([7; 16]), drive: DriveId(42) };

pub fn dir() -> PathBuf {
    PathBuf::from("/drives/d1")
}

pub fn block(session: u64, counter: u32) -> BlockId {
    BlockId { group: GroupId(3), session: SessionId(session), counter }
}

pub fn key(block: BlockId, index: u8) -> ShardKey {
    ShardKey { block, index }
}

/// A shard of a three-copy block whose bytes follow from id, index and variant.
pub fn shard(block: BlockId, index: u8, variant: u8, body_bytes: usize) -> ShardWrite {
    let layout = BlockLayout::of_pack(Code::copies(3).unwrap(), body_bytes as u32).unwrap();
    let seed = u64::from_be_bytes(block.to_bytes()[8..].try_into().unwrap());
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(variant) << 56) | 1;
    let body: Vec<u8> = (0..body_bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    let crcs = frame_crcs(&layout, &body);
    let digests: Vec<ShardDigest> =
        (0..3).map(|i| ShardDigest::compute(block, &layout, i, &crcs, &body)).collect();
    let header = ShardHeader { block, layout, index, crcs: crcs.into(), digests: digests.into() };
    ShardWrite {
        header,
        pg: PgId(1),
        epoch: Epoch(1),
        fill: None,
        class: WriteClass::Foreground,
        body: Bytes::from(body),
    }
}

pub fn at(write: ShardWrite, pg: u32, epoch: u64) -> ShardWrite {
    ShardWrite { pg: PgId(pg), epoch: Epoch(epoch), ..write }
}

pub fn fill(write: ShardWrite, session: u64) -> ShardWrite {
    ShardWrite { fill: Some(FillSessionId(session)), ..write }
}

pub fn node_dir() -> PathBuf {
    PathBuf::from("/node")
}

/// Small segments without space limits: a world's disk is large.
pub fn options() -> DriveOptions {
    DriveOptions {
        segment_bytes: 256 * 1024,
        failure_marks: Some(node_dir()),
        ..DriveOptions::small()
    }
}

pub struct Bench {
    pub world: World,
    pub options: DriveOptions,
}

impl Bench {
    pub fn new(seed: u64) -> Bench {
        Bench { world: World::new(seed), options: options() }
    }

    pub fn env(&self) -> Env {
        self.world.start(NODE)
    }

    pub fn disk(&self) -> SimDisk {
        self.world.disk(NODE)
    }

    pub async fn format(&self) -> DriveStore {
        self.env().disk.create_dir_all(&node_dir()).unwrap();
        DriveStore::format(&self.env(), &dir(), IDENTITY, &self.options).await.unwrap();
        self.open().await
    }

    pub async fn open(&self) -> DriveStore {
        self.try_open().await.unwrap()
    }

    pub async fn try_open(&self) -> Result<DriveStore, OpenError> {
        DriveStore::open(&self.env(), &dir(), IDENTITY, None, &self.options).await
    }

    /// Power fails; returns on the surviving disk.
    pub async fn crash(&self, store: DriveStore) -> DriveStore {
        self.world.crash(NODE);
        drop(store);
        self.open().await
    }

    /// The marks of failure that are left.
    pub fn marks(&self) -> Vec<PathBuf> {
        let mut marks = crate::failure::marks(&dir(), IDENTITY.drive, Some(&node_dir()));
        marks.retain(|mark| self.disk().content(mark).is_ok());
        marks
    }

    /// An administrator vouches for the disk.
    pub fn pardon(&self) {
        for mark in self.marks() {
            let disk = self.env().disk;
            disk.remove_file(&mark).unwrap();
            disk.sync_dir(mark.parent().unwrap()).unwrap();
        }
    }

    pub fn lose_index(&self) {
        self.env().kv.destroy(&index::path(&dir())).unwrap();
    }

    /// Paths of the segments, oldest first.
    pub fn segments(&self) -> Vec<(PathBuf, u64)> {
        let mut files = self.disk().files();
        files.retain(|(path, _)| path.extension().is_some_and(|ext| ext == "seg"));
        files
    }
}

/// What the index holds, without places: what must be the same after any restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// Placement group, epoch, in the trash, first digest byte … of each shard.
    pub shards: BTreeMap<ShardKey, (u32, u64, bool, [u8; 32])>,
    pub epochs: BTreeMap<u32, u64>,
    pub tombstones: Vec<BlockId>,
    /// Raw keys, and the floor if it is one.
    pub sessions: BTreeMap<Vec<u8>, Option<u64>>,
}

pub fn dump(store: &DriveStore) -> Dump {
    let kv = store.kv_for_tests();
    let all = |family| kv.scan(family, &ScanRange::prefix(&[], 1 << 20)).unwrap();
    let mut dump = Dump::default();
    for (bytes, value) in all(index::SHARDS) {
        let row: index::ShardRow = index::decode(&value).unwrap();
        let key = index::parse_shard_key(&bytes).unwrap();
        dump.shards.insert(key, (row.pg.0, row.epoch.0, row.trashed_ms.is_some(), row.digest));
    }
    for (bytes, value) in all(index::EPOCHS) {
        let pg = u32::from_be_bytes(bytes[..].try_into().unwrap());
        dump.epochs.insert(pg, index::decode::<u64>(&value).unwrap());
    }
    for (bytes, _) in all(index::TOMBSTONES) {
        dump.tombstones.push(BlockId::from_bytes(bytes[..].try_into().unwrap()));
    }
    for (bytes, value) in all(index::SESSIONS) {
        dump.sessions.insert(bytes.to_vec(), index::decode::<u64>(&value));
    }
    dump
}

/// Rows that follow from others agree with them; sums too.
pub fn check_consistent(store: &DriveStore) {
    let kv = store.kv_for_tests();
    let all = |family| kv.scan(family, &ScanRange::prefix(&[], 1 << 20)).unwrap();
    let mut by_pg = Vec::new();
    let mut trash = Vec::new();
    let mut live: BTreeMap<u64, u64> = BTreeMap::new();
    let mut totals = index::Totals::default();
    let mut tombs = Vec::new();
    for (key, value) in all(index::TOMBSTONES) {
        let row: index::TombRow = index::decode(&value).unwrap();
        let block = BlockId::from_bytes(key[..].try_into().unwrap());
        tombs.push(index::tomb_key(row.pg, block));
    }
    tombs.sort();
    for (bytes, value) in all(index::SHARDS) {
        let row: index::ShardRow = index::decode(&value).unwrap();
        let key = index::parse_shard_key(&bytes).unwrap();
        by_pg.push(index::pg_key(row.pg, key));
        *live.entry(row.segment).or_default() += row.disk_bytes();
        match row.trashed_ms {
            Some(time) => {
                trash.push(index::trash_key(time, key));
                totals.trash_shards += 1;
                totals.trash_bytes += row.body_bytes;
            }
            None => {
                totals.shards += 1;
                totals.shard_bytes += row.body_bytes;
            }
        }
    }
    by_pg.sort();
    trash.sort();
    let keys = |family| all(family).into_iter().map(|(key, _)| key.to_vec()).collect::<Vec<_>>();
    assert_eq!(keys(index::BY_PG), by_pg, "by_pg follows from shards");
    assert_eq!(keys(index::TRASH), trash, "trash follows from shards");
    assert_eq!(keys(index::TOMBS_BY_PG), tombs, "tombstones by PG follow from tombstones");
    totals.tombstones = all(index::TOMBSTONES).len() as u64;
    let meta: index::Meta =
        index::decode(&kv.get(index::META, index::META_KEY).unwrap().unwrap()).unwrap();
    assert_eq!(meta.totals, totals, "sums follow from rows");
    for (bytes, value) in all(index::SEGMENTS) {
        let row: index::SegmentRow = index::decode(&value).unwrap();
        let id = index::parse_segment_key(&bytes).unwrap();
        assert_eq!(row.live_bytes, live.remove(&id).unwrap_or(0), "live bytes of segment {id}");
    }
    assert_eq!(live, BTreeMap::new(), "every shard's segment has a row");
}

pub async fn body_of(store: &DriveStore, key: ShardKey) -> Result<Bytes, DriveError> {
    Ok(store.get(key, ReadOptions::default()).await?.bytes)
}

pub async fn is_good(store: &DriveStore, key: ShardKey) -> bool {
    matches!(store.verify(key).await, Ok(Verdict::Good { .. }))
}
