//! What callers pass in and get back.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use nexusgrid_codec::{BlockId, ClusterId, DriveId, Epoch, GroupId, PgId, SessionId, ShardHeader};
use serde::{Deserialize, Serialize};

/// A repair session of a placement group (R4); assigned by the root group, only grows per PG.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct FillSessionId(pub u64);

/// One life of a drive: drawn when it is formatted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub [u8; 16]);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whose drive this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriveIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The drive.
    pub drive: DriveId,
}

/// What the superblock says, for the root group to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperblockInfo {
    /// Cluster and drive.
    pub identity: DriveIdentity,
    /// Drawn by `format`.
    pub incarnation: Incarnation,
    /// How often the drive was opened. If it goes back, the disk is an older copy (a clone).
    pub opens: u64,
}

/// A shard's key on a drive: block and slot index. A drive may hold two slots of one block (after
/// a remap), so both are needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardKey {
    /// The block.
    pub block: BlockId,
    /// The slot, 0 to k+m−1.
    pub index: u8,
}

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.block, self.index)
    }
}

impl fmt::Debug for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who writes: decides the space mark and the share of the commit queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriteClass {
    /// A client waits.
    Foreground,
    /// Repair, refill, rebalancing: stops at the 90 % mark.
    Backfill,
}

/// A shard to store.
#[derive(Clone, Debug)]
pub struct ShardWrite {
    /// The codec's header; names block and slot.
    pub header: ShardHeader,
    /// The placement group it is written to.
    pub pg: PgId,
    /// The epoch the writer acts under (R1, R3).
    pub epoch: Epoch,
    /// The repair session, for a repair write (R4). A write without one is a client's, and is held
    /// to the writers' session floor (R6).
    pub fill: Option<FillSessionId>,
    /// Foreground or backfill.
    pub class: WriteClass,
    /// The shard's bytes, exactly as the header describes.
    pub body: Bytes,
}

/// A durable acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutAck {
    /// The epoch the shard is durably stamped with now (R3).
    pub epoch: Epoch,
    /// Whether the shard was there already, with the same digest.
    pub existed: bool,
}

/// How to read a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Bytes of the body; `None` is all. Cut at the body's end.
    pub range: Option<Range<u64>>,
    /// Check the whole body against the header first (costs a read of all of it). Without it the
    /// reader's AEAD tag is the proof.
    pub verify: bool,
}

/// What a read returns.
#[derive(Clone, Debug)]
pub struct ShardRead {
    /// The codec's header as stored.
    pub header: ShardHeader,
    /// Placement group and epoch the shard is stamped with.
    pub pg: PgId,
    /// See `pg`.
    pub epoch: Epoch,
    /// Offset of `bytes` in the body.
    pub offset: u64,
    /// The bytes asked for.
    pub bytes: Bytes,
}

/// What the index knows of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardStat {
    /// Block and slot.
    pub key: ShardKey,
    /// Placement group it is stamped with.
    pub pg: PgId,
    /// Epoch it is stamped with.
    pub epoch: Epoch,
    /// Length of the body in bytes.
    pub body_bytes: u64,
    /// Digest of this shard.
    pub digest: [u8; 32],
    /// In the trash: not served, not listed, purged after an age.
    pub trashed: bool,
    /// Age of the drive ([`crate::DriveStore::age_ms`]) when it went there; 0 if it is served.
    pub trashed_ms: u64,
}

/// A place in the trash, to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrashCursor {
    /// Age of the drive when the shard went there.
    pub trashed_ms: u64,
    /// The shard.
    pub key: ShardKey,
}

/// A page of the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashPage {
    /// Shards, the longest trashed first.
    pub shards: Vec<ShardStat>,
    /// Where to go on; `None` at the end.
    pub next: Option<TrashCursor>,
}

/// A page of a placement group's tombstones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TombstonePage {
    /// Deleted blocks, in order of their ids.
    pub blocks: Vec<BlockId>,
    /// Whether more follow after the last one.
    pub more: bool,
}

/// What dropping tombstones behind a session floor did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Tombstones erased.
    pub dropped: u64,
    /// Tombstones of the placement group that stay: of other metadata groups, or of sessions that
    /// are not closed.
    pub kept: u64,
}

/// A page of a placement group's shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// The epoch the drive knows for the group (R2: a repair listing counts only if this is the
    /// new one).
    pub epoch: Epoch,
    /// Shards in key order, the trash left out.
    pub shards: Vec<ShardStat>,
    /// Whether more follow after the last one.
    pub more: bool,
}

/// What `reconcile` did (R7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Shards moved to the trash.
    pub trashed: u64,
    /// Shards kept.
    pub kept: u64,
}

/// How full the drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpaceLevel {
    /// Below every mark.
    Normal,
    /// Warn the administrator.
    Warn,
    /// No repair or backfill writes.
    NoBackfill,
    /// No writes but deletes.
    NoWrites,
}

/// Space and contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Size of the file system.
    pub total_bytes: u64,
    /// What the store may use at most: all but the owner's reserve.
    pub capacity_bytes: u64,
    /// What of it is left.
    pub available_bytes: u64,
    /// Against the marks.
    pub level: SpaceLevel,
    /// Shards served.
    pub shards: u64,
    /// Their bodies' bytes.
    pub shard_bytes: u64,
    /// Shards in the trash.
    pub trash_shards: u64,
    /// Their bodies' bytes.
    pub trash_bytes: u64,
    /// Tombstones held.
    pub tombstones: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes that the records of live shards (the trash included) take in segments.
    pub live_bytes: u64,
    /// Bytes that all records take in segments, what holes freed left out.
    pub taken_bytes: u64,
    /// Bytes in segments that no live record holds and no hole has freed yet.
    pub reclaimable_bytes: u64,
    /// Segments that damage keeps from compaction.
    pub segments_kept: u64,
}

/// A stretch of a segment that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: u64,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// What was found.
    pub what: String,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Bytes of an unsynced tail that were cut.
    pub torn_tail_bytes: u64,
    /// Records replayed into the index.
    pub replayed_records: u64,
    /// Whether the index was lost, foreign or ahead of the data, and rebuilt from the segments.
    pub index_rebuilt: bool,
    /// Damage in data that had been synced; never cut.
    pub damage: Vec<Damage>,
}

/// Result of checking one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every check holds.
    Good {
        /// Bytes read.
        bytes: u64,
    },
    /// Rebuild it.
    Damaged(String),
    /// Not here.
    Missing,
}

/// What a maintenance step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Trashed shards purged.
    pub purged: u64,
    /// Holes punched.
    pub holes: u64,
    /// Bytes of those holes.
    pub hole_bytes: u64,
    /// Segments compacted and removed.
    pub segments_removed: u64,
    /// Bytes of live shards copied.
    pub copied_bytes: u64,
    /// Segments that could not be compacted (damage or no space) and stay.
    pub segments_stuck: u64,
}

/// Whether the drive serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveState {
    /// It does.
    Healthy,
    /// Its disk has failed, for good: repair its shards elsewhere. The reason.
    Failed(String),
    /// Its index cannot be used; the reason. Open it again ([`crate::ClosedDrive`]): the segments hold
    /// everything.
    Stopped(String),
    /// Closed in order.
    Closed,
}

/// Raising of a writers' session floor: every session of the group below it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFloor {
    /// The metadata group.
    pub group: GroupId,
    /// The lowest session that may still be open.
    pub floor: SessionId,
}
