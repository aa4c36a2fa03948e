//! Bounds of the root group. Sizes in bytes.

/// Metadata groups that `init` makes at least.
pub const METADATA_GROUPS_MIN: u32 = 4;
/// Metadata groups that `init` makes at most.
pub const METADATA_GROUPS_MAX: u32 = 1_024;
/// Nodes ever admitted, removed ones included.
pub const NODES_MAX: usize = 10_000;
/// Drives ever added.
pub const DRIVES_MAX: usize = 100_000;
/// PGs.
pub const PGS_MAX: usize = 100_000;
/// Buckets.
pub const BUCKETS_MAX: usize = 10_000;
/// Access keys.
pub const ACCESS_KEYS_MAX: usize = 100_000;
/// Join tokens that are stored.
pub const TOKENS_MAX: usize = 1_000;
/// Names, hosts, zones, addresses, owners, ids.
pub const TEXT_BYTES_MAX: usize = 255;
/// Certificates and sealed keys.
pub const SEALED_BYTES_MAX: usize = 16 * 1_024;
/// Grants of one access key.
pub const GRANTS_MAX: usize = 100;
/// Sightings of one report.
pub const SIGHTINGS_MAX: usize = 256;
/// Voters of a group.
pub const VOTERS_MAX: usize = 7;
/// Slots of a PG: a missing mask has 32 bits.
pub const PG_WIDTH_MAX: usize = 32;
/// Kinds of background workers with a setting.
pub const WORKERS_MAX: usize = 64;
/// Lines of one answer.
pub const ANSWER_ROWS_MAX: u32 = 1_000;
/// Bytes of a record's path.
pub const RECORD_PATH_BYTES_MAX: usize = 512;
/// Bytes of a record.
pub const RECORD_BYTES_MAX: usize = 128 * 1_024;
/// Records changed at once.
pub const RECORD_WRITES_MAX: usize = 64;
/// Records.
pub const RECORDS_MAX: u64 = 1_000_000;
/// Bytes of records in one answer, beyond the first.
pub const RECORDS_ANSWER_BYTES_MAX: usize = 512 * 1_024;
/// Restores of metadata that are remembered: no more are possible.
pub const RESTORES_MAX: usize = 128;
