//! Bounds of the network drive on this machine, each with its reason.

use std::time::Duration;

/// Lines at the agent's door at once: mounts of this machine, and their daemons that have just died.
pub const LINES_MAX: usize = 256;

/// Calls of one line that the agent works on at once; more wait unread. Waiting for a lock counts.
pub const CALLS_AT_ONCE: usize = 8_192;

/// Calls that a daemon asks at once: what waits for locks, and some more. Those above wait for their turn.
pub const ASKS_AT_ONCE: usize = CALLS_AT_ONCE;

/// Answers of one line that wait to be taken.
pub const ANSWERS_WAITING: usize = 64;

/// Answers that a daemon has borrowed at once: as many as its agent remembers of a mount.
pub const BORROWED_MAX: usize = 128 * 1024;

/// Nodes whose attributes a daemon knows as they were shown last: those that programs look at in the moment they go.
pub const SHOWN_MAX: usize = 4_096;

/// Files of which it is known what pages the kernel has; of more, it is forgotten for all.
pub const PAGES_MAX: usize = 128 * 1024;

/// How long a daemon may take to say whom it serves.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long calls of a daemon that is dead may take to end, before its successor is told to come again.
pub const ENDING: Duration = Duration::from_secs(20);

/// A file with an access key is not longer, in bytes.
pub const CREDENTIALS_BYTES_MAX: u64 = 64 << 10;

/// How often it is looked at what a mount's key may do; what the grid tells of changes is heeded then.
pub const RIGHTS_LOOK: Duration = Duration::from_secs(2);

/// How long one such look may take.
pub const RIGHTS_TIMEOUT: Duration = Duration::from_secs(3);

/// How long rights are believed that cannot be looked up, beside how long a gateway believes what it has read.
pub const RIGHTS_KEPT: Duration = Duration::from_secs(5);

/// Names of changes that are known as admitted: of all that a line may have under way, and as many that came after.
pub const ADMITTED_MAX: usize = 2 * CALLS_AT_ONCE;

/// How long the agent keeps a volume without a line.
pub const KEPT: Duration = Duration::from_secs(60);

/// First pause before the agent, or the grid, is tried again; each that follows is twice as long.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Longest such pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A mount's log is put aside when it is longer, in bytes: so there are at most about two of these.
pub const LOG_BYTES_MAX: u64 = 1 << 20;

/// How often its length is looked at.
pub const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The longest name of a mount's log, without what is before and behind the place.
pub const LOG_NAME_BYTES: usize = 200;

/// Bytes of a message that is sent by whoever has it to send, and of what follows a call that is answered where it is
/// received: of more, others do that.
pub const SHORT_BYTES: usize = 16 << 10;
