//! Bounds of a metadata group. Sizes in bytes.

/// An S3 key.
pub const KEY_BYTES_MAX: usize = 1_024;
/// User metadata of one object: names and values together (S3's bound is 2 KiB; 8 KiB leaves room
/// for what clients in the field really send).
pub const USER_METADATA_BYTES_MAX: usize = 8 * 1_024;
/// All other text of one object's description together.
pub const HEADERS_BYTES_MAX: usize = 8 * 1_024;
/// Owner, access control list and sealed key of an object.
pub const SPECIAL_BYTES_MAX: usize = 32 << 10;
/// Objects of one commit (a pack).
pub const PUTS_MAX: usize = 128;
/// Keys of one delete command.
pub const DELETES_MAX: usize = 128;
/// Blocks of one commit: 5 GiB in blocks of 8 MiB are 640.
pub const BLOCKS_MAX: usize = 700;
/// Extents of one commit.
pub const EXTENTS_MAX: usize = 8_192;
/// Missing shards of one commit: each is a row.
pub const MISSING_MAX: usize = 250;
/// Staged pieces that one content is linked of.
pub const STAGED_MAX: usize = 64;
/// Sealed bytes of one inline content.
pub const INLINE_BYTES_MAX: usize = 8 * 1_024;
/// Highest part number.
pub const PART_NUMBER_MAX: u16 = 10_000;
/// Links may nest so deep: an object made of a part made of a range of an object …
pub const LINK_DEPTH_MAX: u8 = 4;
/// References to one content.
pub const REFERENCES_MAX: u32 = 1 << 30;
/// Extents or segments of one row: a range read decodes one or two rows.
pub const PAGE_ENTRIES: usize = 128;
/// Pages of a content that bytes are appended to: with [`PAGE_ENTRIES`] that is 10 112 appends.
pub const LOG_PAGES_MAX: usize = 79;
/// Pieces of one answer: the asker goes on from its `next`.
pub const PIECES_MAX: usize = 1_024;
/// Inline bytes of one answer; the asker goes on likewise.
pub const INLINE_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Lines of one listing.
pub const LIST_MAX: u32 = 1_000;
/// Bytes of keys and descriptions in one listing; it is cut there and goes on.
pub const LIST_BYTES_MAX: usize = 2 << 20;
/// Rows of one answer that is not a listing.
pub const ANSWER_ROWS_MAX: u32 = 4_096;
/// Sessions that may be open or remembered.
pub const SESSIONS_MAX: usize = 65_536;
/// Sessions that one command closes.
pub const EXPIRE_MAX: usize = 500;
/// Rows that one step of freeing touches.
pub const EXPAND_ROWS_MAX: usize = 400;
/// Shards or blocks that one acknowledgement names.
pub const ACKS_MAX: usize = 300;
/// Contents of more bytes than this are too large for packs.
pub const PACKED_BYTES_MAX: u64 = 512 << 10;
/// Extents that one rewrite moves, and blocks that it moves them to.
pub const SWAPS_MAX: usize = 128;
/// Pages of extents that one search looks through.
pub const FIND_PAGES_MAX: usize = 2_048;
/// Codes that a group has blocks of, and that one search names.
pub const CODES_MAX: usize = 64;
/// Deletions of one command where versions may be kept: each touches up to eight rows.
pub const VERSION_DELETES_MAX: usize = 64;
/// Tags of one object.
pub const TAGS_MAX: usize = 10;
/// A tag's name: 128 characters of up to four bytes.
pub const TAG_NAME_BYTES_MAX: usize = 512;
/// A tag's value: 256 characters.
pub const TAG_VALUE_BYTES_MAX: usize = 1_024;
/// A default retention: S3's bounds are 36 500 days or 100 years.
pub const RETENTION_DAYS_MAX: u32 = 36_500;
/// Rules of a bucket about the ends of its objects; as S3.
pub const LIFECYCLE_RULES_MAX: usize = 1_000;
/// Those that are in force, encoded: a record of the gateways holds them, too.
pub const LIFECYCLE_BYTES_MAX: usize = 120 << 10;
/// All of them as their owner gave them.
pub const LIFECYCLE_TEXT_BYTES_MAX: usize = 512 << 10;
/// Older versions of a key that one look at it takes in; a rule can keep 100.
pub const LIFECYCLE_LOOK_MAX: usize = 128;
/// Uploads of a key that one look at it takes in.
pub const LIFECYCLE_UPLOADS_MAX: usize = 64;
/// Keys that are due which one step looks at.
pub const LIFECYCLE_KEYS: usize = 64;
/// Versions of a bucket whose rules changed that one step looks through.
pub const LIFECYCLE_PAGE: u32 = 128;
/// Buckets to be looked through of which one step chooses the one whose turn it is.
pub const LIFECYCLE_WALKS: usize = 256;
/// A step that has changed so many rows ends.
pub const LIFECYCLE_ROWS: usize = 600;
/// Rows that the end of a version or an upload changes at most, but for the key's directories.
pub const LIFECYCLE_ITEM_ROWS: usize = 32;
/// A command that has changed so many rows notes no key any more, but that its bucket is to be looked
/// through.
pub const LIFECYCLE_ROWS_FULL: usize = 860;
/// What lifecycle rules did that one answer tells, and one command forgets.
pub const ENDS_MAX: u32 = 256;
/// Versions that one step finds to be moved, more or less.
pub const LIFECYCLE_MOVES_MAX: usize = 64;
/// Mounts of a group's buckets.
pub const MOUNTS_MAX: usize = 16_384;
/// Rows, or ranges of rows, that a mount asks for at once.
pub const ROWS_WANTED_MAX: usize = 64;
/// Bytes of one answer of rows; at least one row is in it.
pub const ROWS_BYTES_MAX: usize = 2 << 20;
/// Ids that one step of a delegated mount may use.
pub const STEP_IDS_MAX: usize = 256;
/// Operations of a mount that one command carries.
pub const POSIX_OPS_MAX: usize = 256;
/// Names that one operation gives numbers to: each touches two rows.
pub const ADOPT_MAX: usize = 256;
/// Directories in a directory are counted when it is adopted, if it has at most so many children.
pub const SUBDIRS_COUNTED_MAX: usize = 1_000;
/// Names that lead to one node.
pub const LINKS_MAX: u32 = 65_000;
/// How deep directories may lie for one to be moved there.
pub const DEPTH_MAX: usize = 8_192;
/// Bytes of where a symbolic link leads.
pub const SYMLINK_BYTES_MAX: usize = 4_095;
/// Names with the same beginning that are looked through for a long one.
pub const LONG_NAMES_LOOK_MAX: usize = 4_096;
/// Extended attributes of a node.
pub const XATTRS_MAX: usize = 128;
/// The name of one: Linux' bound.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// The value of one: Linux' bound.
pub const XATTR_BYTES_MAX: usize = 64 << 10;
/// All of a node together.
pub const XATTRS_BYTES_MAX: usize = 128 << 10;
/// Lines of an access list.
pub const ACL_LINES_MAX: usize = 1_024;
/// Locks on one node.
pub const LOCKS_PER_NODE_MAX: usize = 512;
/// Locks of one mount.
pub const LOCKS_PER_MOUNT_MAX: u32 = 65_536;
/// Bytes of a file: so that a thousand of them can still be summed up.
pub const FILE_BYTES_MAX: u64 = 1 << 53;
/// Pages of a file that are looked through for where its bytes lie; of one with more, nothing is moved to other
/// codes by rule.
pub const FILE_PAGES_LOOK_MAX: usize = 512;
/// An object of more bytes than this is not changed in place by mounts, for all its extents would be counted
/// anew: what they write lies over it.
pub const LOOSENED_BYTES_MAX: u64 = 64 << 30;
/// Rows of what is no object that one listing passes over.
pub const LIST_PASSED_MAX: usize = 20_000;
/// Pages of a file that one operation lays something over.
pub const OVERLAY_PAGES_MAX: usize = 128;
/// Lots of 4 096 numbers that a mount may have.
pub const RESERVATIONS_MAX: usize = 64;
/// Rows that a cut or a hole changes at once, more or less; a longer one goes on later.
pub const CUT_ROWS_MAX: usize = 256;
/// Extents that a hole gives up at once.
pub const CLEARED_EXTENTS_MAX: usize = 4_096;
/// Extents that one command gives up: they are one row.
pub const MOVED_MAX: usize = 20_000;
/// Runs of bytes between holes that one command lays out.
pub const RUNS_MAX: usize = 4_096;
/// Bytes of rows of locks that one step of freeing writes, more or less.
pub const EXPAND_LOCKS_BYTES_MAX: usize = 256 << 10;
/// Snapshots of a bucket, with those that are being dropped.
pub const SNAPSHOTS_MAX: usize = 256;
/// Numbers of snapshots: more than there are snapshots, so that the number of one that is gone is not soon another's.
pub const SNAPSHOT_NUMBERS: u16 = 1_000;
/// A snapshot's name: it is one of a directory.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 255;
/// Kept rows that one step of dropping a snapshot looks at.
pub const SNAPSHOT_ROWS_LOOK_MAX: usize = 2_000;
