//! What a metadata group can be told to do, and what it answers when it did.

use nexusgrid_codec::id::{BlockId, Epoch, PgId, SessionId};
use nexusgrid_env::NodeId;
use serde::{Deserialize, Serialize};

use super::{
    Allowance, BucketId, Checksum, ChecksumAlgorithm, ChecksumKind, ContentId, DeleteVersion,
    EndMark, Ino, Lifecycle, LifecycleDone, Moment, Mount, MountId, NamespaceError, NewBlock,
    NewContent, ObjectMeta, PartInfo, PosixDone, PosixOp, Repaired, RulesChange, Session, Snapshot,
    SnapshotId, Swap, UploadId, UploadRef, VersionChange, VersionDeleted, VersionId, VersionRef,
};
use crate::rows::codec::{self, DecodeError};

/// What must hold of the current object for a change to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// `If-None-Match: *`: there is none.
    Absent,
    /// `If-Match: *`: there is one.
    Present,
    /// `If-Match`: there is one with this ETag.
    EtagIs(String),
    /// `If-None-Match`: there is none with this ETag.
    EtagIsNot(String),
    /// Compare-and-swap of content: packing, compaction, re-coding.
    ContentIs(ContentId),
    /// Of a deletion: if there is anything, a delete marker too, it is this.
    IfAny(Expected),
}

/// What is expected to be deleted; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its ETag.
    pub etag: Option<String>,
    /// Its bytes.
    pub size: Option<u64>,
    /// The second in which it was written, since 1970.
    pub modified_s: Option<u64>,
}

/// One object to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutObject {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Vec<u8>,
    /// Whether.
    pub precondition: Precondition,
    /// Its bytes.
    pub content: NewContent,
    /// What the client says.
    pub meta: ObjectMeta,
}

/// Bytes to be put behind an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Vec<u8>,
    /// Of the object.
    pub precondition: Precondition,
    /// The object must still have this content: what ETag and checksums were computed with.
    pub source_content: ContentId,
    /// The object must have so many bytes.
    pub offset: u64,
    /// The new bytes; at least one.
    pub content: NewContent,
    /// Of the whole object.
    pub etag: String,
    /// Of the whole object.
    pub checksums: Vec<Checksum>,
}

/// One object to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteObject {
    /// The key.
    pub key: Vec<u8>,
    /// Whether.
    pub precondition: Precondition,
}

/// One part in a completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedPart {
    /// 1 to 10 000.
    pub number: u16,
    /// As the client repeats it.
    pub etag: String,
    /// As the client repeats it; must be the part's if given.
    pub checksum: Option<Checksum>,
}

/// What a metadata group can be told to do. Those with a `session` are refused unless it is open
/// (I4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceCommand {
    /// Makes a bucket's root directory; fine if it is there, refused if it was dropped. → `Done`.
    InitBucket {
        /// Assigned by the root group.
        bucket: BucketId,
        /// Most bytes of objects and parts.
        quota_bytes: Option<u64>,
    },
    /// Changes a bucket's quota. → `Done`.
    SetQuota {
        /// The bucket.
        bucket: BucketId,
        /// Most bytes of objects and parts.
        quota_bytes: Option<u64>,
    },
    /// Drops a bucket without objects and uploads, for good; fine if it was dropped. → `Done`.
    DropBucketIfEmpty {
        /// The bucket.
        bucket: BucketId,
    },
    /// Opens a writer's session. → `Session`.
    OpenSession {
        /// Whose.
        node: NodeId,
        /// How long without renewal.
        lease_ms: u64,
        /// Now.
        now_ms: u64,
    },
    /// Prolongs a session and says what it pins. → `Session`.
    RenewSession {
        /// The session.
        session: SessionId,
        /// Start of the oldest read still going on, ms since 1970; `None`: none. Nothing released
        /// after it is freed.
        oldest_pin_ms: Option<u64>,
        /// Now.
        now_ms: u64,
    },
    /// Closes a session: no commit of it can succeed any more. Fine if it is closed. → `Done`.
    CloseSession {
        /// The session.
        session: SessionId,
        /// Now.
        now_ms: u64,
    },
    /// Closes sessions whose lease ran out (proposed by the leader's worker). → `Closed`.
    ExpireSessions {
        /// Now.
        now_ms: u64,
    },
    /// Forgets closed sessions below `floor` that every drive knows are closed (R6). → `Done`.
    ForgetSessions {
        /// All below are closed, here and on drives.
        floor: SessionId,
    },
    /// Writes objects: one, or a pack of many small ones. Each is decided by itself; see
    /// `limits::PUTS_MAX` and [`crate::namespace::limits`] for the bounds. Blocks that no object refers to
    /// die at once if all refusals are final (precondition, quota, key, malformed); otherwise they
    /// stay pending and may be committed again. → `Put`, one result each.
    Commit {
        /// The writer's.
        session: SessionId,
        /// All blocks that the objects refer to.
        blocks: Vec<NewBlock>,
        /// The objects.
        puts: Vec<PutObject>,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Removes objects. → `Deleted`, one result each.
    Delete {
        /// The writer's.
        session: SessionId,
        /// The bucket.
        bucket: BucketId,
        /// The objects.
        deletes: Vec<DeleteObject>,
        /// Now.
        now_ms: u64,
    },
    /// Copies an object within the group by linking its content. → `Put`, one result.
    Link {
        /// The writer's.
        session: SessionId,
        /// Bucket and key of the source.
        source: (BucketId, Vec<u8>),
        /// The source must still have this content: what the gateway checked conditions on.
        source_content: ContentId,
        /// Bucket and key of the target.
        target: (BucketId, Vec<u8>),
        /// Of the target.
        precondition: Precondition,
        /// The target's.
        meta: ObjectMeta,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Replaces an object's description and nothing else. → `Put`, one result.
    SetMeta {
        /// The writer's.
        session: SessionId,
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: Vec<u8>,
        /// Whether.
        precondition: Precondition,
        /// The new description.
        meta: ObjectMeta,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Starts a multipart upload. → `Upload`.
    CreateUpload {
        /// The writer's.
        session: SessionId,
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: Vec<u8>,
        /// Random.
        nonce: u64,
        /// Whose.
        owner: String,
        /// For the object; its ETag and checksums come with the completion.
        meta: ObjectMeta,
        /// The checksum that parts carry, and what the object's will cover.
        checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
        /// Now.
        now_ms: u64,
    },
    /// Writes a part; an older one of the same number is released. → `Part`.
    PutPart {
        /// The writer's.
        session: SessionId,
        /// The upload.
        upload: UploadRef,
        /// 1 to 10 000.
        number: u16,
        /// All blocks that it refers to.
        blocks: Vec<NewBlock>,
        /// Its bytes.
        content: NewContent,
        /// Without quotes.
        etag: String,
        /// Verified.
        checksums: Vec<Checksum>,
        /// Now.
        now_ms: u64,
    },
    /// Makes a part of a range of an object in the same group, by linking. → `Part`.
    LinkPart {
        /// The writer's.
        session: SessionId,
        /// The upload.
        upload: UploadRef,
        /// 1 to 10 000.
        number: u16,
        /// Bucket and key of the source.
        source: (BucketId, Vec<u8>),
        /// The source must still have this content.
        source_content: ContentId,
        /// First byte and number of bytes; must lie within the source.
        range: (u64, u64),
        /// Without quotes.
        etag: String,
        /// Verified.
        checksums: Vec<Checksum>,
        /// Now.
        now_ms: u64,
    },
    /// Makes an object of an upload's parts, whatever their number, and ends the upload. Parts not
    /// named are released. → `Put`, one result.
    CompleteUpload {
        /// The writer's.
        session: SessionId,
        /// The upload.
        upload: UploadRef,
        /// In order of number.
        parts: Vec<CompletedPart>,
        /// All but the last part must have so many bytes.
        part_bytes_min: u64,
        /// Of the object.
        precondition: Precondition,
        /// The object's.
        etag: String,
        /// The object's.
        checksums: Vec<Checksum>,
        /// The object's size, if the client said (`x-amz-mp-object-size`).
        size: Option<u64>,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Ends an upload and releases its parts. → `Done`.
    AbortUpload {
        /// The writer's.
        session: SessionId,
        /// The upload.
        upload: UploadRef,
        /// Now.
        now_ms: u64,
    },
    /// Missing shards exist now. Fine if not asked for any more; one that was named missing again
    /// since stays. → `Done`.
    RepairDone {
        /// The shards.
        shards: Vec<Repaired>,
    },
    /// Takes one bounded step of freeing what was released up to `horizon_ms` (proposed by the
    /// leader's worker, which knows the reader horizon and the oldest pin). → `Expanded`.
    OutboxExpand {
        /// Contents released later than this stay.
        horizon_ms: u64,
        /// Now.
        now_ms: u64,
    },
    /// Blocks whose tombstones all mapped drives acknowledged. Fine if they are gone. → `Done`.
    OutboxAck {
        /// The blocks.
        blocks: Vec<BlockId>,
    },
    /// Makes a piece of a content that is too large for one command. It is freed like anything
    /// released unless a content is made of it before. → `Staged`.
    Stage {
        /// The writer's.
        session: SessionId,
        /// The piece's blocks.
        blocks: Vec<NewBlock>,
        /// The piece: extents, from offset 0.
        content: NewContent,
        /// Now.
        now_ms: u64,
    },
    /// Puts shards that were found missing or bad on the repair queue (I2); those of blocks that
    /// are not live, or of another PG, are passed over. → `Done`.
    MarkMissing {
        /// PG, block and slot.
        shards: Vec<(PgId, BlockId, u8)>,
        /// Now.
        now_ms: u64,
    },
    /// No commit may refer to blocks of this PG that were acknowledged under an older epoch, from now
    /// on. For a repair that cannot list every quorum. → `Done`.
    FencePg {
        /// The PG.
        pg: PgId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Moves extents of contents to other blocks, each only if it is still as it was read: what
    /// changed or went meanwhile is passed over, and a block that nothing moved to dies at once. No
    /// object changes; the old blocks' bytes are released. → `Rewritten`.
    Rewrite {
        /// The writer's.
        session: SessionId,
        /// All blocks that the new extents refer to; at most `limits::SWAPS_MAX`.
        blocks: Vec<NewBlock>,
        /// What goes where; at most `limits::SWAPS_MAX`.
        swaps: Vec<Swap>,
        /// Now.
        now_ms: u64,
    },
    /// Takes what restores lost for garbage: blocks that this group never heard of may be deleted
    /// like any that nothing refers to. → `Done`.
    ForgetGaps,
    /// Takes one bounded step of freeing what contents gave up when they moved: only what they did by
    /// the commit sequence `covered`, for a restore of an older state would look for it where it was, and
    /// up to `horizon_ms` (proposed by the leader's worker). → `Expanded`.
    ExpandMoved {
        /// All checkpoints that may be restored know what was committed up to here, and readers of what
        /// was before are done.
        covered: u64,
        /// What was given up later than this, by the wall clock of who moved it, stays.
        horizon_ms: u64,
        /// Now.
        now_ms: u64,
    },
    /// As `OutboxExpand`, for what was released by a commit sequence: whoever proposes it knows by its
    /// own clock how long ago that was, and nobody's wall clock matters. → `Expanded`.
    ExpandThrough {
        /// What was released later than this stays.
        through: u64,
        /// Now.
        now_ms: u64,
    },
    /// Changes how a bucket treats versions. → `Done`.
    SetRules {
        /// The bucket.
        bucket: BucketId,
        /// What changes.
        change: RulesChange,
    },
    /// Deletes objects, or removes versions of them for good; at most `limits::VERSION_DELETES_MAX`.
    /// It commits no blocks, so it needs no session. → `VersionsDeleted`, one result each.
    DeleteVersions {
        /// The bucket.
        bucket: BucketId,
        /// What.
        deletes: Vec<DeleteVersion>,
        /// Now: a marker's Last-Modified, and what retention is compared with.
        now_ms: u64,
    },
    /// As `Link`, of any version, and also onto the same key. → `Put`, one result.
    LinkVersion {
        /// The writer's.
        session: SessionId,
        /// The source.
        source: VersionRef,
        /// The source must still have this content.
        source_content: ContentId,
        /// Bucket and key of the target.
        target: (BucketId, Vec<u8>),
        /// Of the target.
        precondition: Precondition,
        /// The target's.
        meta: ObjectMeta,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Changes tags, retention or hold of a version. → `VersionChanged`.
    ChangeVersion {
        /// Which.
        version: VersionRef,
        /// How.
        change: VersionChange,
        /// Now: what retention is compared with.
        now_ms: u64,
    },
    /// Lays down what becomes of a bucket's objects with time. → `Done`.
    SetLifecycle {
        /// The bucket.
        bucket: BucketId,
        /// The rules that are in force, and all of them as the owner gave them (opaque here); `None`: there
        /// are none any more.
        rules: Option<(Lifecycle, Vec<u8>)>,
    },
    /// Takes one bounded step of carrying out what owners laid down about their objects' ends: what is due is
    /// looked at anew, and done if the rules and the rows still say so. → `Lifecycle`.
    RunLifecycle {
        /// Now.
        now_ms: u64,
    },
    /// Gives an object another key, at once, where versions are not kept. → `Put`, one result.
    Rename {
        /// The bucket.
        bucket: BucketId,
        /// The key that it has.
        source: Vec<u8>,
        /// The change that made it what it is: what the gateway checked conditions on.
        sequence: u64,
        /// The key that it is to have.
        target: Vec<u8>,
        /// Of what has that key.
        precondition: Precondition,
        /// Now.
        now_ms: u64,
    },
    /// Says that contents that lie in blocks are to lie in copies whatever their size, or as their size has
    /// it; at most `limits::SWAPS_MAX`. It moves nothing: rewriting does. Contents that are gone, or lie in
    /// no blocks, are passed over. → `Done`.
    SetCopies {
        /// The contents.
        contents: Vec<ContentId>,
        /// Whether in copies.
        copies: bool,
    },
    /// Puts bytes behind an object, at once, where versions are not kept. Blocks are bound or die as with
    /// `Commit`. → `Put`, one result.
    Append {
        /// The writer's.
        session: SessionId,
        /// All blocks that the bytes lie in.
        blocks: Vec<NewBlock>,
        /// What goes where.
        append: Append,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// What a mount does, in order, each decided by itself: at most `limits::POSIX_OPS_MAX`, in a bucket that
    /// keeps no versions. Blocks are bound or die as with `Commit`. → `Posix`, one result each.
    Posix {
        /// Whose.
        mount: MountId,
        /// The session that wrote the blocks; of no account if there are none.
        writer: SessionId,
        /// All blocks that bytes lie in.
        blocks: Vec<NewBlock>,
        /// What.
        ops: Vec<PosixOp>,
        /// Now.
        now: Moment,
    },
    /// Gives a mount numbers for nodes that it will make: as many as follow one commit sequence (4 096).
    /// → `Reserved`, the first.
    ReserveInos {
        /// Whose.
        mount: MountId,
        /// One of those that it has used up.
        used_up: Option<Ino>,
    },
    /// Begins a mount, or goes on with one. → `Mount`.
    OpenMount {
        /// Goes on with this one, if it lasts and is of the bucket; what it reserved is given back.
        again: Option<MountId>,
        /// Of what.
        bucket: BucketId,
        /// Where.
        node: NodeId,
        /// How long without renewal.
        lease_ms: u64,
        /// Now.
        now_ms: u64,
    },
    /// Prolongs mounts' leases; those that have ended are passed over. → `Mounts`, those that last.
    RenewMounts {
        /// Which; at most `limits::EXPIRE_MAX`.
        mounts: Vec<MountId>,
        /// Now.
        now_ms: u64,
    },
    /// Ends a mount; fine if it has ended. → `Done`.
    CloseMount {
        /// Which.
        mount: MountId,
        /// Now.
        now_ms: u64,
    },
    /// Says whether what lifecycle rules do in a bucket is noted, to be told. → `Done`.
    TellEnds {
        /// The bucket.
        bucket: BucketId,
        /// Whether.
        told: bool,
    },
    /// Forgets what was noted, at most `limits::ENDS_MAX`, oldest first. → `Done`.
    ForgetEnds {
        /// The last that was told.
        through: EndMark,
    },
    /// Says what its owner's quota leaves a bucket. → `Done`.
    SetAllowance {
        /// The bucket.
        bucket: BucketId,
        /// The most that it may hold.
        allowance: Allowance,
    },
    /// Gives a mount its bucket to itself, if it keeps no versions, has no rules about its objects' ends, and no other
    /// mount has it so. → `Delegated`.
    Delegate {
        /// Whose.
        mount: MountId,
    },
    /// What a mount did that has its bucket to itself: steps in order, each decided by itself, at most
    /// `limits::POSIX_OPS_MAX`. → `Stepped`, those that are refused.
    Steps {
        /// Whose.
        mount: MountId,
        /// Under which delegation; refused with `NotDelegated` under any other.
        grant: u64,
        /// What.
        steps: Vec<DelegatedStep>,
        /// Whether it gives the bucket back with that.
        gives_back: bool,
    },
    /// Asks whoever has the bucket under this delegation to give it back: who remembers that it has it is told. Fine if
    /// it is over. → `Done`.
    Recall {
        /// The bucket.
        bucket: BucketId,
        /// The delegation.
        grant: u64,
    },
    /// Ends a delegation: what its mount did and did not say is lost. Fine if it is over. → `Done`.
    Revoke {
        /// The bucket.
        bucket: BucketId,
        /// The delegation.
        grant: u64,
    },
    /// Takes a snapshot of a bucket. → `Snapshot`.
    TakeSnapshot {
        /// The bucket.
        bucket: BucketId,
        /// Its name, which no other of the bucket has.
        name: String,
        /// The directory that it is of: the beginning of keys, empty or ending with `/`.
        path: Vec<u8>,
        /// Now.
        now_ms: u64,
    },
    /// Drops a snapshot: nobody sees it any more, and what only it shows goes in time. → `Done`.
    DropSnapshot {
        /// The bucket.
        bucket: BucketId,
        /// Its name.
        name: String,
        /// Now.
        now_ms: u64,
    },
    /// Gives numbers to what a snapshot shows and clients of S3 had made. → `Posix`, one result: `Nodes`, one for each
    /// name.
    AdoptPast {
        /// The bucket.
        bucket: BucketId,
        /// The snapshot.
        snapshot: SnapshotId,
        /// The directory.
        parent: Ino,
        /// Names in it, as they are shown, each once; at most `limits::ADOPT_MAX`.
        names: Vec<Vec<u8>>,
    },
}

/// One thing that a mount did while it had its bucket to itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedStep {
    /// When.
    pub now: Moment,
    /// Ids for what it makes, out of those that the mount reserved; there may be more than it needs.
    pub ids: Vec<u64>,
    /// The session that wrote the blocks; of no account if there are none.
    pub writer: SessionId,
    /// All blocks that bytes lie in.
    pub blocks: Vec<NewBlock>,
    /// What.
    pub op: PosixOp,
}

/// A command's success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceOk {
    /// Done, nothing to say.
    Done,
    /// The session.
    Session(Session),
    /// Sessions that were closed.
    Closed(Vec<SessionId>),
    /// One result per object, in order.
    Put(Vec<Result<PutDone, NamespaceError>>),
    /// One result per key, in order; deleting what is not there succeeds.
    Deleted(Vec<Result<DeleteDone, NamespaceError>>),
    /// The upload.
    Upload(UploadId),
    /// The part.
    Part(PartInfo),
    /// What a step of freeing did.
    Expanded {
        /// Contents and upload remains that are wholly freed.
        freed: u32,
        /// Whether there is more to do now.
        more: bool,
    },
    /// The piece, for [`super::ContentBody::Staged`].
    Staged(ContentId),
    /// How many extents were moved.
    Rewritten(u32),
    /// One result per deletion, in order.
    VersionsDeleted(Vec<Result<VersionDeleted, NamespaceError>>),
    /// The version that was changed; `None`: versions are not kept here.
    VersionChanged(Option<VersionId>),
    /// What a step of carrying out rules did.
    Lifecycle(LifecycleDone),
    /// One result per operation of a mount, in order.
    Posix(Vec<Result<PosixDone, NamespaceError>>),
    /// The first of the numbers.
    Reserved(Ino),
    /// The mount.
    Mount(Mount),
    /// Mounts that last.
    Mounts(Vec<MountId>),
    /// The bucket is the mount's alone, under this delegation.
    Delegated(u64),
    /// Steps that were refused, by their place, and why; all others are done.
    Stepped(Vec<(u32, NamespaceError)>),
    /// The snapshot.
    Snapshot(Box<Snapshot>),
}

/// A written object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutDone {
    /// Commit sequence.
    pub sequence: u64,
    /// Its content.
    pub content: ContentId,
    /// Its size.
    pub size: u64,
    /// Its ETag.
    pub etag: String,
    /// Last-Modified.
    pub modified_ms: u64,
    /// Its version; `None`: versions are not kept here. [`VersionId::NULL`]: null.
    pub version: Option<VersionId>,
    /// Whether an object was replaced.
    pub replaced: bool,
}

/// A removed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteDone {
    /// Whether there was one.
    pub existed: bool,
}

/// A command's reply.
pub type NamespaceReply = Result<NamespaceOk, NamespaceError>;

/// Reads the reply to a command.
pub fn decode_reply(bytes: &[u8]) -> Result<NamespaceReply, DecodeError> {
    codec::decode(bytes)
}

codec::wire!(NamespaceCommand);
