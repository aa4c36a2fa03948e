//! Every bound of this crate, by name.

/// Alignment of records in a segment, in bytes.
pub const RECORD_ALIGN: u64 = 4096;
/// Longest encoded shard header accepted in a record, in bytes (an 8 MiB block of one data shard
/// in the smallest frames stays far below).
pub const SHARD_HEADER_BYTES_MAX: usize = 256 * 1024;
/// Longest shard body accepted, in bytes: a whole 8 MiB block (k = 1) with its frame tags.
pub const SHARD_BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longest body of a facts record, in bytes; more facts make more records.
pub const FACTS_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest footer body, in bytes (a 1 GiB segment of 4 KiB records needs about 25 MiB).
pub const FOOTER_BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Smallest and largest segment size that options may ask for, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// See [`SEGMENT_BYTES_MIN`].
pub const SEGMENT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes of one group commit: a batch closes once it holds so many.
pub const BATCH_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Operations of one group commit.
pub const BATCH_OPS_MAX: usize = 1024;
/// Bytes that may wait in one lane of the commit queue; further writers wait outside.
pub const LANE_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// What an operation without a body counts for in the queue, in bytes.
pub const OP_BYTES_MIN: u32 = 4096;
/// Bytes a lane may put into a batch per turn, times its weight.
pub const LANE_QUANTUM_BYTES: u64 = 512 * 1024;
/// Blocks one `tombstone`, `drop_tombstones`, `trash` or `restore` operation carries; longer calls
/// are cut into several.
pub const BLOCKS_PER_OP_MAX: usize = 512;
/// Rows that one `list` call returns at most.
pub const LIST_ROWS_MAX: usize = 10_000;
/// Segment files held open at once.
pub const OPEN_SEGMENTS_MAX: usize = 256;
/// Ranges that begin below this offset are read together with the record head in one read.
pub const ONE_READ_BYTES_MAX: u64 = 128 * 1024;
/// Rows a maintenance step reads from the index at once.
pub const MAINTAIN_ROWS: usize = 256;
/// Bytes of live shards compaction copies per queued operation group.
pub const COMPACT_CHUNK_BYTES: u64 = 4 * 1024 * 1024;
/// Damaged places that an open report names; further ones are only counted.
pub const DAMAGE_REPORTED_MAX: usize = 1000;
/// Dead bytes from which on the active segment may be sealed early, to be compacted (a quarter of a
/// segment, if that is less).
pub const SEAL_DEAD_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Shards whose headers one `headers` call reads at most.
pub const HEADERS_PER_CALL_MAX: usize = 1024;
/// Facts that scrub asks the writer to write again in one operation.
pub const FACTS_PER_OP_MAX: usize = 2048;
/// Findings that one scrub step returns before it ends early.
pub const SCRUB_FINDINGS_MAX: usize = 256;
/// Rows of the index that scrub reads at once.
pub const SCRUB_ROWS: usize = 1024;
/// What a row of the index counts for in a scrub step's budget, in bytes.
pub const SCRUB_ROW_BYTES: u64 = 128;
/// Times an attempt to open a closed drive again looks whether the old store's last reader has gone.
pub const REOPEN_TRIES_MAX: usize = 200;

/// Faults that an inspection describes; all are counted.
pub const INSPECTION_FAULTS_MAX: usize = 100;

/// Shards up to this size are checked where they arrive, in bytes: some tens of microseconds, less than
/// handing them to another thread and back is worth.
pub const CHECK_IN_PLACE_BYTES_MAX: usize = 512 << 10;
