//! Bounds of this crate. Sizes in bytes, durations in their own unit.

use std::time::Duration;

/// A command's body. One Raft entry stays below this plus a small head.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Rows that one command may change, but for those that it keeps as they were.
pub const COMMAND_ROWS_MAX: usize = 1_000;
/// Rows that one command may write, with those: at most one for each that it changes.
pub const BATCH_ROWS_MAX: usize = 2 * COMMAND_ROWS_MAX;
/// A query's body.
pub const QUERY_BYTES_MAX: usize = 256 * 1024;
/// A reply of a command or a query.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One chunk of a snapshot on the wire.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;
/// Pause between two tries to find a group's leader.
pub const LEADER_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Entries of one append message, unless a single one is larger.
pub const APPEND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of entries that may wait for one log's writer.
pub const LOG_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Replies are kept for deduplication while so many later entries of the group were applied.
pub const REPLY_WINDOW_ENTRIES: u64 = 16_384;
/// Entries applied in one go on the blocking pool.
pub const APPLY_CHUNK_ENTRIES: usize = 64;
/// So few are applied where they arrive: their rows are in memory, and the hand-over would cost more.
pub const APPLY_IN_PLACE_ENTRIES: usize = 8;
/// Files of one snapshot.
pub const SNAPSHOT_FILES_MAX: usize = 10_000;
/// Length of a snapshot file's name.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 128;
/// A learner that lags by so many entries has caught up.
pub const CAUGHT_UP_ENTRIES: u64 = 64;
/// Deadline of a small question to one node.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A leader that confirms its leadership asks the rest of the voters too after so long.
pub const CONFIRM_HEDGE: Duration = Duration::from_millis(20);
/// Longest time a member works on a forwarded query.
pub const SERVED_QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time a member waits for news before it says that there are none.
pub const NEWS_HOLD: Duration = Duration::from_secs(5);
/// Deadline of one change of membership.
pub const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that could not join is passed over for so long.
pub const INVITE_BACKOFF: Duration = Duration::from_secs(10);
/// A log that found no room on its disk looks again so often.
pub const FULL_RETRY: Duration = Duration::from_millis(500);
/// Rows that an inspection of a stopped node reads at a time.
pub const INSPECTED_ROWS: usize = 4_096;
/// Faults that it describes; all are counted.
pub const INSPECTED_FAULTS_MAX: usize = 100;
/// How often a host looks whether a read met rot.
pub const ROT_LOOK_EVERY: Duration = Duration::from_millis(500);
/// Raft logs set aside that are kept at most, once all is well again.
pub const LOGS_ASIDE_MAX: usize = 3;
/// So often is it looked, while they are kept, whether all is well.
pub const ASIDE_LOOKS: u32 = 64;
/// Every so many rounds a leader asks the other members whether they still exist.
pub const LOST_LOOK_ROUNDS: u64 = 5;
/// A frame of an exported group has about so many bytes of rows.
pub const EXPORT_FRAME_BYTES: usize = 256 * 1024;
/// Rows read at once for a frame.
pub const EXPORT_SCAN_ROWS: usize = 64;
/// Longest frame that is taken in: a row may be as large as a command, and a scan brings many.
pub const EXPORT_FRAME_BYTES_MAX: usize = 96 * 1024 * 1024;

/// Rows that a command keeps once it has read them; it may read more.
pub const TX_READS_KEPT_MAX: usize = 64;

/// A watcher believes what it remembers for so long after it called, if its call was answered in full. Short enough
/// that changes of what a dead one remembered do not wait long; long enough that two lost calls do no harm.
pub const WATCH_LEASE: Duration = Duration::from_secs(4);
/// A leader waits for a watcher so long after it heard of it: as long as the watcher may believe, and a quarter more for
/// clocks that do not go alike.
pub const WATCH_GIVEN: Duration = Duration::from_secs(5);
/// A watcher's call is held so long for news.
pub const WATCH_HOLD: Duration = Duration::from_secs(1);
/// Rows that one watcher may be interested in; the oldest are taken back.
pub const WATCH_MARKS_MAX: usize = 256 * 1024;
/// News that wait for one watcher; beyond, it is to forget everything.
pub const WATCH_NEWS_MAX: usize = 8_192;
/// News in one answer to a watcher.
pub const WATCH_NEWS_BATCH: usize = 1_024;
/// As many news are told though nobody waits for them: until then they come along with each answer.
pub const WATCH_NEWS_LINGER: usize = 64;
/// Changes that are known for those who began to read before.
pub const WATCH_CHANGES_KEPT: usize = 1_024;
/// Rows that what a watcher remembers may rest on.
pub const WATCH_RESTS_ON_MAX: usize = 16;
/// Pause of a watcher that nobody answered.
pub const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// Answers that one watcher remembers, and their bytes with those of the questions.
pub const FACTS_MAX: usize = 128 * 1024;
/// See [`FACTS_MAX`].
pub const FACTS_BYTES_MAX: usize = 32 << 20;

/// So many lent answers that were forgotten are told of one by one; of more: all.
pub const FACTS_LOST_MAX: usize = 4_096;
/// Times of remembering of one watcher that are waited for at once.
pub const WATCH_SESSIONS_MAX: usize = 4;
