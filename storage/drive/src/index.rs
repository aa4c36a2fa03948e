//! Rows of the index: families, keys and values. A value begins with a version byte.

use std::path::{Path, PathBuf};

use nexusgrid_codec::{BlockId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::KvOptions;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::log::Fact;
use crate::types::{FillSessionId, ShardKey};

/// Shards: block ‖ index → [`ShardRow`].
pub const SHARDS: &str = "shards";
/// PG ‖ block ‖ index → nothing; the trash included.
pub const BY_PG: &str = "by_pg";
/// Trash: age of the drive at trashing ‖ block ‖ index → nothing.
pub const TRASH: &str = "trash";
/// Block → [`TombRow`].
pub const TOMBSTONES: &str = "tombstones";
/// PG ‖ block → nothing: the tombstones of a PG.
pub const TOMBS_BY_PG: &str = "tombs_by_pg";
/// PG → epoch.
pub const EPOCHS: &str = "epochs";
/// Writers' and fill sessions: floors and the closed ones above them.
pub const SESSIONS: &str = "sessions";
/// Segment → [`SegmentRow`].
pub const SEGMENTS: &str = "segments";
/// Segment ‖ offset → [`HoleRow`]: dead large records not punched yet.
pub const HOLES: &str = "holes";
/// One row: [`Meta`].
pub const META: &str = "meta";
/// Key of the one row of [`META`].
pub const META_KEY: &[u8] = b"meta";

const ROW_VERSION: u8 = 2;

/// Where the index of a drive directory is.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("index")
}

/// A file that says: throw the index away and rebuild it.
pub fn rebuild_mark(dir: &Path) -> PathBuf {
    dir.join("index.rebuild")
}

/// Where scrub puts what it takes to read the index's files; a leaving if the process ends meanwhile.
pub fn verify_path(dir: &Path) -> PathBuf {
    dir.join("index.verify")
}

/// How to open the index.
pub fn options() -> KvOptions {
    KvOptions {
        families: vec![
            SHARDS,
            BY_PG,
            TRASH,
            TOMBSTONES,
            TOMBS_BY_PG,
            EPOCHS,
            SESSIONS,
            SEGMENTS,
            HOLES,
            META,
        ],
        blob_families: Vec::new(),
        create: true,
    }
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRow {
    /// Segment that holds it.
    pub segment: u64,
    /// Offset of the record there.
    pub offset: u64,
    /// Length of the record's head.
    pub head_bytes: u32,
    /// Length of the body.
    pub body_bytes: u64,
    /// Sequence of the original record.
    pub born: u64,
    /// Placement group.
    pub pg: PgId,
    /// Epoch it is stamped with.
    pub epoch: Epoch,
    /// Age of the drive when it went to the trash.
    pub trashed_ms: Option<u64>,
    /// The shard's own digest.
    pub digest: [u8; 32],
    /// Other segments that may still hold copies of the same record.
    pub stale: Vec<u64>,
}

impl ShardRow {
    /// What the record takes in its segment.
    pub fn disk_bytes(&self) -> u64 {
        crate::record::align_up(u64::from(self.head_bytes) + self.body_bytes)
    }
}

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRow {
    /// Its uuid, also in every record of it.
    pub uuid: [u8; 16],
    /// Bytes that live shard records take.
    pub live_bytes: u64,
    /// Bytes of all records so far (footer left out).
    pub data_bytes: u64,
    /// Bytes freed by holes.
    pub punched_bytes: u64,
    /// No more records come.
    pub sealed: bool,
}

/// A tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombRow {
    /// Segment that holds its fact.
    pub segment: u64,
    /// Placement group of the block.
    pub pg: PgId,
}

/// A dead record to punch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoleRow {
    /// What the record takes.
    pub disk_bytes: u64,
}

/// Sums over the index; I8 of the drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Shards served.
    pub shards: u64,
    /// Bytes of their bodies.
    pub shard_bytes: u64,
    /// Shards in the trash.
    pub trash_shards: u64,
    /// Bytes of their bodies.
    pub trash_bytes: u64,
    /// Tombstones.
    pub tombstones: u64,
}

/// How far the index has folded the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The drive's incarnation: an index of another drive is thrown away.
    pub incarnation: [u8; 16],
    /// Segment up to which the log is folded.
    pub cursor_segment: u64,
    /// Offset in it: records below are folded, and were synced.
    pub cursor_offset: u64,
    /// Highest sequence folded.
    pub sequence: u64,
    /// Age of the drive, in ms of running time, as far as it is known.
    pub age_ms: u64,
    /// Sums.
    pub totals: Totals,
}

/// Encodes a row.
pub fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    postcard::to_extend(row, vec![ROW_VERSION]).unwrap_or_default()
}

/// Decodes a row; `None` if it is not one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (version, rest) = bytes.split_first()?;
    if *version != ROW_VERSION {
        return None;
    }
    postcard::from_bytes(rest).ok()
}

/// Key in [`SHARDS`].
pub fn shard_key(key: ShardKey) -> Vec<u8> {
    let mut out = key.block.to_bytes().to_vec();
    out.push(key.index);
    out
}

/// The inverse of [`shard_key`].
pub fn parse_shard_key(bytes: &[u8]) -> Option<ShardKey> {
    let (block, index) = bytes.split_first_chunk::<{ BlockId::LEN }>()?;
    let [index] = index else { return None };
    Some(ShardKey { block: BlockId::from_bytes(*block), index: *index })
}

/// Key in [`BY_PG`].
pub fn pg_key(pg: PgId, key: ShardKey) -> Vec<u8> {
    let mut out = pg.0.to_be_bytes().to_vec();
    out.extend_from_slice(&shard_key(key));
    out
}

/// The shard of a key in [`BY_PG`].
pub fn parse_pg_key(bytes: &[u8]) -> Option<ShardKey> {
    parse_shard_key(bytes.get(4..)?)
}

/// Key in [`TOMBS_BY_PG`].
pub fn tomb_key(pg: PgId, block: BlockId) -> Vec<u8> {
    let mut out = pg.0.to_be_bytes().to_vec();
    out.extend_from_slice(&block.to_bytes());
    out
}

/// The block of a key in [`TOMBS_BY_PG`].
pub fn parse_tomb_key(bytes: &[u8]) -> Option<BlockId> {
    Some(BlockId::from_bytes(*bytes.get(4..)?.first_chunk()?))
}

/// Key in [`TRASH`].
pub fn trash_key(trashed_ms: u64, key: ShardKey) -> Vec<u8> {
    let mut out = trashed_ms.to_be_bytes().to_vec();
    out.extend_from_slice(&shard_key(key));
    out
}

/// Time and shard of a key in [`TRASH`].
pub fn parse_trash_key(bytes: &[u8]) -> Option<(u64, ShardKey)> {
    let (time, key) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*time), parse_shard_key(key)?))
}

/// Key in [`SEGMENTS`].
pub fn segment_key(segment: u64) -> Vec<u8> {
    segment.to_be_bytes().to_vec()
}

/// The inverse of [`segment_key`].
pub fn parse_segment_key(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.first_chunk()?))
}

/// Key in [`HOLES`].
pub fn hole_key(segment: u64, offset: u64) -> Vec<u8> {
    let mut out = segment_key(segment);
    out.extend_from_slice(&offset.to_be_bytes());
    out
}

/// The inverse of [`hole_key`].
pub fn parse_hole_key(bytes: &[u8]) -> Option<(u64, u64)> {
    let (segment, offset) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*segment), u64::from_be_bytes(*offset.first_chunk()?)))
}

/// Key in [`EPOCHS`].
pub fn epoch_key(pg: PgId) -> Vec<u8> {
    pg.0.to_be_bytes().to_vec()
}

/// Whose sessions: the two kinds share one family and one representation, a floor below which all
/// are closed and a set of closed ones above it. The floor bounds the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Of a metadata group's writers (R6).
    Writers(GroupId),
    /// Of a placement group's repairs (R4).
    Fills(PgId),
}

impl Sessions {
    fn prefix(self, kind: u8) -> Vec<u8> {
        let (owner, id) = match self {
            Sessions::Writers(group) => (b'w', group.0),
            Sessions::Fills(pg) => (b'f', pg.0),
        };
        let mut out = vec![owner, kind];
        out.extend_from_slice(&id.to_be_bytes());
        out
    }

    /// Key of the floor's row.
    pub fn floor_key(self) -> Vec<u8> {
        self.prefix(b'<')
    }

    /// Prefix of the closed ones' rows.
    pub fn closed_prefix(self) -> Vec<u8> {
        self.prefix(b'=')
    }

    /// Key of a closed one's row.
    pub fn closed_key(self, session: u64) -> Vec<u8> {
        let mut out = self.closed_prefix();
        out.extend_from_slice(&session.to_be_bytes());
        out
    }

    /// Whose row a key is of, and the session if it is a closed one's.
    pub fn parse_key(key: &[u8]) -> Option<(Sessions, Option<u64>)> {
        let (head, rest) = key.split_first_chunk::<6>()?;
        let [owner, kind, id @ ..] = *head;
        let id = u32::from_be_bytes(id);
        let sessions = match owner {
            b'w' => Sessions::Writers(GroupId(id)),
            b'f' => Sessions::Fills(PgId(id)),
            _ => return None,
        };
        match kind {
            b'<' => Some((sessions, None)),
            _ => Some((sessions, Some(u64::from_be_bytes(*rest.first_chunk()?)))),
        }
    }

    /// What the log says of a closed session.
    pub fn closed_fact(self, session: u64) -> Fact {
        match self {
            Sessions::Writers(group) => Fact::SessionClosed { group, session: SessionId(session) },
            Sessions::Fills(pg) => Fact::FillClosed { pg, session: FillSessionId(session) },
        }
    }

    /// What the log says of a floor.
    pub fn floor_fact(self, floor: u64) -> Fact {
        match self {
            Sessions::Writers(group) => Fact::SessionFloor { group, floor: SessionId(floor) },
            Sessions::Fills(pg) => Fact::FillFloor { pg, floor: FillSessionId(floor) },
        }
    }

    /// The session of a closed one's row.
    pub fn parse_closed_key(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(*key.get(6..)?.first_chunk()?))
    }
}
