//! Every bound of this crate: sizes, counts and times, with a name.

use std::time::Duration;

/// Largest request head (request line and headers), bytes.
pub const REQUEST_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most headers of a request.
pub const REQUEST_HEADERS_MAX: usize = 200;
/// Largest XML body, bytes: a completion of 10 000 parts with checksums fits.
pub const XML_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest signed chunk of an aws-chunked body, bytes: it is held until its signature is checked.
pub const SIGNED_CHUNK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest body of one PUT or part, bytes.
pub const PUT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Smallest part, unless it is the last, bytes.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// Most parts of an upload.
pub const PARTS_MAX: u32 = 10_000;
/// Largest user metadata, names and values together, bytes.
pub const USER_METADATA_BYTES_MAX: usize = 2 * 1024;
/// Largest single content header (Content-Type and the like), bytes.
pub const CONTENT_HEADER_BYTES_MAX: usize = 1024;
/// Most keys of one multi-delete.
pub const DELETE_KEYS_MAX: usize = 1000;
/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest page of a listing.
pub const LIST_PAGE_MAX: u32 = 1000;
/// Largest page of the list of buckets.
pub const BUCKETS_PAGE_MAX: usize = 10_000;

/// Longest validity of a presigned URL, seconds: seven days.
pub const PRESIGNED_SECONDS_MAX: u32 = 7 * 24 * 3600;
/// Allowed difference between a client's clock and ours, seconds.
pub const CLOCK_SKEW_SECONDS_MAX: u32 = 15 * 60;

/// Bytes of a body that may wait for the digest threads before the body is held back.
pub const DIGEST_BACKLOG_BYTES: usize = 1024 * 1024;
/// A chunk up to this size is digested in place: handing it over would cost more.
pub const DIGEST_INLINE_BYTES: usize = 16 * 1024;

/// Connections served at once; more are told SlowDown.
pub const CONNECTIONS_MAX: usize = 1024;
/// Connections being told SlowDown at once; more wait in the listener's queue.
pub const REFUSALS_MAX: usize = 1024;
/// Requests worked on at once; more wait, then are told SlowDown.
pub const REQUESTS_MAX: usize = 256;
/// How long a request waits for its turn.
pub const REQUEST_QUEUE_WAIT: Duration = Duration::from_secs(5);
/// How long a client may take to send a request head, idle time before it included.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request body may stand still.
pub const BODY_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take no byte of a response.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long running requests may go on after a shutdown began.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(20);
/// How much of a refused request's body is read and thrown away, so that the client gets to read
/// the answer instead of a connection reset.
pub const DRAIN_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long that may take.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// What a SlowDown answer suggests, seconds.
pub const RETRY_AFTER_SECONDS: u32 = 1;
/// How long accepting pauses after an error such as too many open files.
pub const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Largest head of an admin request, bytes.
pub const ADMIN_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Admin connections served at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// How long a relay tries one gateway before it tries the next.
pub const RELAY_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Relayed connections at once.
pub const RELAY_CONNECTIONS_MAX: usize = 1024;
/// Bytes a relay holds per direction of a connection.
pub const RELAY_BUFFER_BYTES: usize = 64 * 1024;

/// Tags of one object.
pub const TAGS_MAX: usize = 10;
/// Characters of a tag's name.
pub const TAG_NAME_CHARS_MAX: usize = 128;
/// Characters of a tag's value.
pub const TAG_VALUE_CHARS_MAX: usize = 256;
