//! Every bound of this crate, by name. Sizes in bytes.

use std::time::Duration;

/// Largest block of plaintext.
pub const BLOCK_BYTES_MAX: usize = 8 << 20;
/// Contents up to this length stand in the metadata itself.
pub const INLINE_BYTES_MAX: usize = 4 << 10;
/// Contents up to this length are packed with others into one block.
pub const PACKED_BYTES_MAX: usize = nexusgrid_meta::namespace::limits::PACKED_BYTES_MAX as usize;
/// A pack is flushed at this size although the flush before it still runs.
pub const PACK_BYTES_MAX: usize = 4 << 20;
/// Contents in one pack: bounds the commit command.
pub const PACK_CONTENTS_MAX: usize = 128;
/// Buckets whose packs are open at once in a process; more wait.
pub const PACK_FLUSHES_PER_BUCKET_MAX: usize = 2;
/// Bytes of bodies, parity included, that a process holds at once.
pub const BUDGET_BYTES: u64 = 96 << 20;
/// Waiters of one tenant in the queue for the budget; more are told to slow down at once.
pub const BUDGET_WAITERS_PER_TENANT_MAX: usize = 4096;
/// How long a request waits for its share of the budget.
pub const BUDGET_WAIT: Duration = Duration::from_secs(10);
/// Blocks that one request encodes and sends at once.
pub const WRITE_BLOCKS_IN_FLIGHT: usize = 2;
/// Blocks that a process seals and codes at once.
pub const BLOCKS_CODED_AT_ONCE: usize = 2;
/// Pieces that one reader fetches ahead of its consumer.
pub const READ_PIECES_AHEAD: usize = 3;
/// Plaintext fetched and verified in one piece by a reader.
pub const READ_PIECE_BYTES: u64 = 1 << 20;
/// Largest object.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Largest part of an upload, and largest object stored in one request.
pub const PART_BYTES_MAX: u64 = 5 << 30;
/// Smallest part that is not the last.
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// Highest part number.
pub const PART_NUMBER_MAX: u32 = 10_000;
/// Longest key.
pub const KEY_BYTES_MAX: usize = 1024;
/// User metadata, names and values together.
pub const USER_METADATA_BYTES_MAX: usize = 2048;
/// A source that gave nothing for so long is rather away than slow: others are asked whatever the
/// budget of extra reads says.
pub const READ_PATIENCE: Duration = Duration::from_secs(1);
/// Keys and folded prefixes in one page of a listing.
pub const LIST_PAGE_MAX: u32 = 1000;
/// Largest object of the grid's own that is read as a whole, bytes.
pub const OWN_BYTES_MAX: u64 = 16 << 20;
/// Keys in one multi-delete.
pub const DELETE_KEYS_MAX: usize = 1000;
/// How long a writer waits for drives of nodes that membership holds alive.
pub const WAIT_ALIVE: Duration = Duration::from_secs(2);
/// How long a writer waits for drives of suspected nodes.
pub const WAIT_SUSPECT: Duration = Duration::from_millis(250);
/// Longest time one shard RPC may take, so that a straggler can still be counted by refill.
pub const SHARD_RPC_DEADLINE: Duration = Duration::from_secs(10);
/// Placement groups that a write tries before it says Unavailable.
pub const WRITE_PGS_TRIED_MAX: usize = 4;
/// Times that a block is put again because its placement group's epoch moved.
pub const EPOCH_RETRIES_MAX: usize = 4;
/// Tries of a writer to bring a missing shard to its drive after the commit.
pub const REFILL_TRIES: usize = 3;
/// Pause before each of them.
pub const REFILL_PAUSE: Duration = Duration::from_millis(500);
/// Extra shard reads, as a share of all reads, that hedging may cause.
pub const HEDGE_SHARE: f64 = 0.05;
/// Shortest delay before a read is hedged.
pub const HEDGE_DELAY_MIN: Duration = Duration::from_millis(20);
/// Longest delay before a read is hedged, and the delay before enough reads were measured.
pub const HEDGE_DELAY_MAX: Duration = Duration::from_millis(500);
/// Read latencies kept to find the delay.
pub const HEDGE_SAMPLES: usize = 256;
/// Holes one round of a refill worker takes from a group's repair queue.
pub const REFILL_BATCH: u32 = 64;
/// A refill worker that finds nothing to do doubles its pause at most so often.
pub const REFILL_IDLE_DOUBLINGS: u32 = 4;
/// Bad shards a reader remembers to report; more are found again by the next reader.
pub const REPORT_QUEUE_MAX: usize = 1024;
/// Encoded arguments of a shard RPC (a shard header carries a crc per frame).
pub const SHARD_HEAD_BYTES_MAX: usize = 512 << 10;
/// Body of a shard RPC: a whole 8 MiB block (one copy) with its frame tags.
pub const SHARD_BODY_BYTES_MAX: usize = 9 << 20;
/// Content keys kept unwrapped per process.
pub const BUCKET_KEYS_CACHED_MAX: usize = 1024;
/// Shards in one stat call.
pub const STAT_SHARDS_MAX: usize = 256;
/// Shards in one page of a drive's list.
pub const LIST_SHARDS_MAX: usize = 2048;
/// Objects whose part sizes a process remembers.
pub const PART_SIZES_CACHED_MAX: usize = 64;
/// Steps of freeing that one round of the collector takes in a group.
pub const EXPAND_STEPS_PER_ROUND: usize = 256;
/// Dead blocks that one round of the collector reads at once, and names in one tombstone call.
pub const BURY_BATCH: u32 = 512;
/// Dead blocks whose acknowledgements a leader remembers per group.
pub const BURIED_REMEMBERED_MAX: usize = 100_000;
/// A leader remembers what was committed at so many times within a reader horizon.
pub const RELEASE_MARKS_MAX: u32 = 256;
/// Tombstones or shards of one page of a sweep, and blocks of one question to metadata.
pub const SWEEP_BATCH: usize = 1024;
/// A pass that finds more than one orphan in so many shards trashes nothing …
pub const ORPHANS_ONE_IN: usize = 100;
/// … unless they are no more than this: what a gateway that dies in the middle of its work leaves.
pub const ORPHANS_ALWAYS: usize = 1024;
/// Orphans of one drive remembered between passes; a pass ends when it found more.
pub const ORPHANS_REMEMBERED_MAX: usize = 100_000;
/// Blocks that one remap of a slot reads, rebuilds and stores at once.
pub const REMAP_BLOCKS_AT_ONCE: usize = 4;
/// Blocks of one question of a remap to metadata.
pub const REMAP_RESOLVE_BATCH: usize = 1024;
/// Shards that one command puts on a repair queue.
pub const MARKED_PER_COMMAND: usize = 250;
/// Live blocks that a look for half-dead ones reads at once.
pub const REWRITE_BLOCKS_PAGE: u32 = 4096;
/// Half-dead blocks that one round rewrites.
pub const REWRITE_BLOCKS_MAX: usize = 4096;
/// Extents that one step of a rewrite reads about; those of one page may be more.
pub const REWRITE_EXTENTS_PAGE: u32 = 256;
/// Seconds that a rewrite waits for clients to leave it a part of the byte budget.
pub const REWRITE_BUDGET_TRIES: usize = 60;
/// Live blocks, or shards of a drive, that a check of the grid looks at in one go.
pub const FSCK_BATCH: u32 = 1024;
/// Faults that a check of the grid names; it counts the others.
pub const FSCK_FAULTS_MAX: usize = 100;
/// Objects of one faulty block that it names.
pub const FSCK_NAMES_MAX: usize = 8;
/// A repair session outside of a move that is open for so long was forgotten by its worker.
pub const FILL_SESSION_MAX: Duration = Duration::from_secs(600);
/// One bootstrap record: the map of thousands of drives, and extents of a checkpoint of terabytes.
pub const BOOTSTRAP_RECORD_BYTES_MAX: usize = 32 << 20;
/// Records of one group that a node keeps.
pub const BOOTSTRAP_RECORDS_KEPT: usize = 2;
/// Groups whose records a node keeps.
pub const BOOTSTRAP_GROUPS_MAX: usize = 2048;
/// Heads of messages about checkpoints.
pub const BOOTSTRAP_HEAD_BYTES_MAX: usize = 1 << 20;
/// Checkpoints of one group that are kept in the grid.
pub const CHECKPOINTS_KEPT: usize = 3;
/// A group in which nothing happens has a checkpoint taken after so many times the usual pause.
pub const CHECKPOINT_QUIET_TIMES: u32 = 3;
/// After so many times the usual pause without a checkpoint something must be wrong.
pub const CHECKPOINT_OVERDUE_TIMES: u32 = 4;
/// Old checkpoints looked for in one listing.
pub const CHECKPOINTS_LISTED_MAX: u32 = 256;
/// Pause between two looks whether checkpoints are where their records say.
pub const CHECKPOINT_LOOK_EVERY: Duration = Duration::from_secs(60);
/// Deadline of a call that brings, fetches or lists records.
pub const BOOTSTRAP_CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Deadline of a checkpoint that another node takes.
pub const CHECKPOINT_TAKE_DEADLINE: Duration = Duration::from_secs(600);

/// A node that said that it goes to sleep, and still answers after so long, is awake.
pub const DOZE_MAX: Duration = Duration::from_secs(60);

/// Pause between two looks at how full own drives are.
pub const SPACE_EVERY: Duration = Duration::from_secs(10);

/// A drive that has room again must have it for so long before the map says so: around a mark every
/// deletion would make a new map.
pub const SPACE_CALM: Duration = Duration::from_secs(60);

/// Bytes taken are told anew when they changed by one of so many parts of a drive.
pub const SPACE_STEPS: u64 = 50;

/// Bytes of a drive that scrub reads between two pauses.
pub const SCRUB_STEP_BYTES: u64 = 4 << 20;
/// Pause between two steps of a stretch: at most 80 MB/s, and clients come in between.
pub const SCRUB_STEP_PAUSE: Duration = Duration::from_millis(50);
/// A drive that serves more requests than this waits with scrub.
pub const SCRUB_BUSY_REQUESTS_PER_SECOND: f64 = 20.0;
/// Longest stream of rows of one checkpoint.
pub const CHECKPOINT_BYTES_MAX: u64 = 1 << 40;
/// Deadline of telling a node of restores.
pub const ANNOUNCE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a group may take to prove, before a restore, that it still decides.
pub const RESTORE_PROOF_DEADLINE: Duration = Duration::from_secs(4);
/// A restored group begins so many entries behind the newest that is known of the lost one.
pub const RESTORE_INDEX_GAP: u64 = 1 << 32;
/// Its replicas have generations so far above those that are known of the lost one.
pub const RESTORE_GENERATION_GAP: u16 = 64;
/// Nodes that a restore remembers as having one record.
pub const RECORD_SOURCES: usize = 4;
/// Records of one group that a restore tries, the newest first.
pub const RESTORE_RECORDS_TRIED: usize = 4;
/// How often a restore asks for something that cannot be had at the moment, before it stops.
pub const RESTORE_TRIES: u32 = 4;
/// Pause before it asks again.
pub const RESTORE_TRY_PAUSE: Duration = Duration::from_secs(2);
/// A sealed tail of a group's log holds about so many bytes of entries, or a single larger one.
pub const TAIL_BYTES: usize = 4 << 20;
/// One sealed tail on the wire and on a disk.
pub const TAIL_BYTES_MAX: usize = 8 << 20;
/// A tail is sealed before its time when so many entries wait for it: the log lets go of old ones.
pub const TAIL_ENTRIES_EAGER: u64 = 4_096;
/// Tails that one look at a group brings out; the next goes on.
pub const TAILS_PER_LOOK: usize = 32;
/// Tails of one group that a node keeps. Behind more a checkpoint must be taken.
pub const TAILS_KEPT: usize = 1_024;
/// Bytes of them.
pub const TAILS_KEPT_BYTES: u64 = 256 << 20;
/// Shortest time between two checkpoints that are taken because tails do not suffice.
pub const TAIL_CHECKPOINT_PAUSE: Duration = Duration::from_secs(30);
/// A node without a record of some group asks the group's voters for it so often.
pub const RECORD_MISSING_LOOK_EVERY: Duration = Duration::from_secs(120);
/// Nodes that are asked at once, before a restore, for what they keep of a group.
pub const SURVEY_CALLS_AT_ONCE: usize = 64;
/// Who restores is known to the others as such for so long after it last said so.
pub const RESTORE_CLAIM: Duration = Duration::from_secs(60);
/// How long one of two who would restore waits for the other to give way.
pub const RESTORE_CLAIM_PATIENCE: Duration = Duration::from_secs(5);
/// Records asked for at once.
pub const RECORDS_PAGE_MAX: usize = 1_000;

/// How often an object that is to lie in copies is gone through, if others move its extents meanwhile.
pub const LIFECYCLE_COPY_TRIES: u32 = 4;
/// Shortest and longest pause between two looks for objects whose end has come.
pub const LIFECYCLE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// See [`LIFECYCLE_PAUSE_MIN`].
pub const LIFECYCLE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A mount that is not heard of for so long has ended.
pub const MOUNT_LEASE: Duration = Duration::from_secs(60);
/// How often an operation of a mount that has ended is tried under the one that follows.
pub const MOUNT_LIVES_MAX: usize = 4;
/// Reads in one such stretch of a file ask for its whole map.
pub const MAPPED_BYTES: u64 = 4 << 20;
/// A file that nobody has open any more is held for so long, in case it is opened again.
pub const LINGER: Duration = Duration::from_secs(10);
/// So often is looked which have been held long enough.
pub const LINGER_LOOK: Duration = Duration::from_secs(1);
/// So many of a mount are held so at most.
pub const LINGERING_MAX: usize = 16 * 1024;
/// Files that one command gives back.
pub const RELEASED_AT_ONCE: usize = nexusgrid_meta::namespace::limits::POSIX_OPS_MAX / 2;
/// Numbers of held files in one answer.
pub const HOLDS_PAGE: u32 = 1_000;
/// Waits for locks in one process.
pub const LOCK_WAITERS_MAX: usize = 4_096;
/// Owners of locks take turns in so many lines.
pub const LOCK_TURNS: usize = 64;
/// Shortest and longest pause between two looks whether others' locks are given back.
pub const LOCK_PAUSE_MIN: Duration = Duration::from_millis(20);
/// See [`LOCK_PAUSE_MIN`].
pub const LOCK_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Entries of one listing of a directory.
pub const LISTED_MAX: usize = 1_000;
/// Names that one command gives numbers to.
pub const ADOPTED_AT_ONCE: usize = nexusgrid_meta::namespace::limits::ADOPT_MAX;
/// Names of which a volume remembers where a listing goes on.
pub const COOKIES_KEPT_MAX: usize = 100_000;
/// How often what was written is stored anew because its session was closed, or its places have changed.
pub const WRITES_LOST_MAX: usize = 3;
/// A copy of so many bytes within a bucket refers to the old ones; a shorter one is made of new bytes.
pub const REFERRED_BYTES_MIN: u64 = 1 << 20;
/// Bytes that one copy reads and writes anew.
pub const COPIED_BYTES_MAX: u64 = 4 << 20;
/// How often one request writes a file's bytes anew because they are shared too deep: others may share them again.
pub const WRITES_ANEW_MAX: usize = 8;
/// A hole of fewer bytes is stored as zeroes when a file's bytes are written anew.
pub const HOLE_BYTES_MIN: u64 = 64 << 10;
/// Stretches of bytes between holes of a file that is written anew; if it has more, its smaller holes are stored.
pub const RUNS_MAX: usize = nexusgrid_meta::namespace::limits::RUNS_MAX;
/// Rounds of one write: bytes sealed anew because the file has another key by then, and halves of what covers too
/// many pieces.
pub const WRITE_ROUNDS_MAX: usize = 250;

/// A mount that was asked for its bucket has so long to give it back: all that it has to say is some hundred kilobytes.
pub const DELEGATION_YIELD: Duration = Duration::from_secs(8);
/// So often in a row a bucket is asked for by one who needs it.
pub const RECALLS_MAX: usize = 16;
/// Who asked for a bucket looks first after this, then ever more seldom.
pub const RECALL_LOOK_MIN: Duration = Duration::from_millis(2);
/// See [`RECALL_LOOK_MIN`].
pub const RECALL_LOOK_MAX: Duration = Duration::from_millis(50);

/// Steps of a mount that has its bucket to itself which the group has not heard of; who would take more waits.
pub const DELEGATED_STEPS_MAX: usize = 4_096;
/// About as many bytes of them.
pub const DELEGATED_BYTES_MAX: usize = 8 << 20;
/// About as many bytes of rows such a mount knows; then it begins anew.
pub const DELEGATED_ROWS_BYTES_MAX: usize = 64 << 20;
/// Requests of which it is known what they came to, for those that are made again.
pub const DELEGATED_ANSWERS_MAX: usize = 8_192;
/// Longest time for which one call of such a mount waits for the group.
pub const DELEGATED_PATIENCE: Duration = Duration::from_secs(15);
/// Rows of a command that steps leave: for what is counted of the group.
pub const STEPS_ROWS_SPARE: usize = 100;
/// Bytes of steps in one command, more or less.
pub const STEPS_BYTES_MAX: usize = 512 << 10;
/// Steps in one command.
pub const STEPS_AT_ONCE: usize = 256;
/// Steps wait so long for others to be said with.
pub const STEPS_LINGER: Duration = Duration::from_millis(20);
/// Changes, with pauses below [`DELEGATION_PAUSE_MAX`], after which a mount asks for its bucket.
pub const DELEGATION_AFTER: u32 = 4;
/// See [`DELEGATION_AFTER`].
pub const DELEGATION_PAUSE_MAX: Duration = Duration::from_millis(500);
/// A mount that does nothing for so long gives its bucket back.
pub const DELEGATION_IDLE: Duration = Duration::from_secs(2);
/// It is looked at so often whether there is something to do.
pub const DELEGATION_LOOK: Duration = Duration::from_millis(100);
/// Who was asked for its bucket, or was not given it, asks again after this at the earliest, then ever later.
pub const DELEGATION_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// See [`DELEGATION_BACKOFF_MIN`].
pub const DELEGATION_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A mount that was never asked for its bucket begins anew after this: where bytes lie it is not told meanwhile.
pub const DELEGATION_HELD_MAX: Duration = Duration::from_secs(60);
/// Requests to the group of which a mount notes that it does not know what they came to.
pub const UNDER_WAY_MAX: usize = 1_024;
/// Whoever syncs within this after something was lost that had been answered hears of it.
pub const LOSS_TOLD: Duration = Duration::from_secs(60);
