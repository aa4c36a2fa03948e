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

/// Routing rules of a web site; as S3.
pub const ROUTING_RULES_MAX: usize = 50;
/// A web site as its owner lays it down, bytes.
pub const WEBSITE_BYTES_MAX: usize = 100 << 10;
/// A host that visitors are sent to, bytes.
pub const WEBSITE_HOST_BYTES_MAX: usize = 255;
/// Where an object sends its visitors, bytes; as S3.
pub const REDIRECT_BYTES_MAX: usize = 2 << 10;
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
/// Pages of listings worked on at once, for each processor; at least one. The other half is left for
/// what else is asked.
pub const LISTINGS_PER_PROCESSOR: f64 = 0.5;
/// Requests that wait for their turn, of all tenants.
pub const REQUESTS_WAITING_MAX: usize = 4096;
/// Requests of one tenant that wait for their turn.
pub const REQUESTS_OF_TENANT_WAITING_MAX: usize = 1024;
/// Tenants that are known to have signed lately, twice.
pub const TENANTS_SEEN_MAX: usize = 10_000;
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

/// How long a bucket's access records wait for more of them.
pub const ACCESS_LOG_EVERY: Duration = Duration::from_secs(300);
/// How often it is looked for records that have waited long enough.
pub const ACCESS_LOG_TICK: Duration = Duration::from_secs(1);
/// Access records that wait at once, bytes; more are lost, and counted.
pub const ACCESS_LOG_WAITING_BYTES_MAX: usize = 32 << 20;
/// Longest prefix of objects with access records, bytes: the rest of the key follows.
pub const LOG_PREFIX_BYTES_MAX: usize = 700;
/// Records that are stored without waiting for more, bytes.
pub const ACCESS_LOG_OBJECT_BYTES: usize = 4 << 20;

/// Notification configurations of a bucket.
pub const EVENT_RULES_MAX: usize = 100;
/// Bytes of a notification configuration's id.
pub const EVENT_RULE_ID_BYTES_MAX: usize = 255;
/// Event targets of all accounts.
pub const EVENT_TARGETS_MAX: usize = 1_000;
/// Bytes of an event target's name.
pub const EVENT_TARGET_NAME_BYTES_MAX: usize = 80;
/// Bytes of an event target's URL.
pub const EVENT_URL_BYTES_MAX: usize = 2_048;
/// Events of operations that wait for their answer.
pub const EVENTS_UNWRITTEN_MAX: usize = 10_000;
/// Events in one message.
pub const EVENTS_PER_MESSAGE_MAX: usize = 100;
/// Longest pause between attempts to write an event to its queue; then its operation fails.
pub const EVENT_WRITE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Messages of a queue that are looked at together.
pub const EVENTS_READ_AT_ONCE: u32 = 100;
/// Messages of one gateway that wait for one target; more are dropped, and counted.
pub const EVENTS_WAITING_MAX: u64 = 20_000;
/// Queues (of a target, by a gateway) that are looked through.
pub const EVENT_QUEUES_MAX: usize = 10_000;
/// Messages of one target that were given up and are kept: less than a page of a listing.
pub const EVENTS_DEAD_MAX: u32 = 500;
/// How long a message is tried.
pub const EVENT_GIVE_UP: Duration = Duration::from_secs(24 * 3600);
/// Shortest pause between attempts.
pub const EVENT_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause between attempts.
pub const EVENT_PAUSE_MAX: Duration = Duration::from_secs(300);
/// Targets that are served at once.
pub const EVENT_TARGETS_AT_ONCE: usize = 16;
/// Things that lifecycle rules did which are told at once: with rules that all want them they fit among
/// [`EVENTS_UNWRITTEN_MAX`].
pub const ENDS_AT_ONCE: usize = 64;
/// How often it is looked for what lifecycle rules did. Default.
pub const ENDS_LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often what accounts with quotas hold is counted up. Default.
pub const QUOTA_EVERY: Duration = Duration::from_secs(10);
/// Quotas that are read at once.
pub const QUOTAS_PAGE: usize = 1_000;
/// How often it is looked for messages that other gateways have left behind.
pub const EVENTS_LOOK_EVERY: Duration = Duration::from_secs(10);
/// Connections to NATS servers that are kept.
pub const NATS_CONNECTIONS_MAX: usize = 64;
/// NATS' own port.
pub const NATS_PORT: u16 = 4222;

/// Tags of one object.
pub const OBJECT_TAGS_MAX: usize = 10;
/// How long a principal is used without asking for it again, where no word of changes comes.
pub const PRINCIPAL_FRESH: Duration = Duration::from_secs(10);
/// Principals kept in memory.
pub const PRINCIPALS_KEPT_MAX: usize = 10_000;
/// Buckets whose rules are kept in memory.
pub const BUCKET_RULES_KEPT_MAX: usize = 10_000;
/// Records of one bucket.
pub const BUCKET_RECORDS_MAX: usize = 64;
/// Identities of one kind in an account.
pub const IDENTITIES_MAX: usize = 10_000;
/// Users of an account.
pub const USERS_MAX: u32 = 5_000;
/// Groups of an account.
pub const GROUPS_MAX: u32 = 1_000;
/// Roles of an account.
pub const ROLES_MAX: u32 = 1_000;
/// Managed policies of an account.
pub const POLICIES_MAX: u32 = 1_500;
/// Identity providers of an account.
pub const PROVIDERS_MAX: u32 = 100;
/// Changes of identities and rules that an account may make a second, at each gateway.
pub const CHANGES_PER_SECOND: u32 = 20;
/// Changes that it may make at once after a rest.
pub const CHANGES_AT_ONCE: u32 = 300;
/// Accounts whose pace is kept in memory.
pub const PACED_ACCOUNTS_MAX: usize = 10_000;
/// Tags of an identity.
pub const TAGS_MAX: usize = 50;
/// Largest body of a request to the identity interfaces, bytes.
pub const FORM_BYTES_MAX: usize = 256 * 1024;
/// Largest body of a signed upload that says no length, bytes: it is read before its signature can be
/// checked, as forms are.
pub const LENGTHLESS_BYTES_MAX: usize = FORM_BYTES_MAX;
/// Fields of an upload by form, before its file, with their heads, bytes: a policy and tags fit.
pub const FORM_FIELDS_BYTES_MAX: usize = 128 * 1024;
/// Fields of an upload by form.
pub const FORM_FIELDS_MAX: usize = 200;
/// Bytes of the head of one part of an upload by form.
pub const FORM_HEAD_BYTES_MAX: usize = 4 * 1024;
/// How long the fields of a form may take to arrive, all of them: nobody knows yet who sends them.
pub const FORM_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest boundary of a form's parts, bytes (RFC 2046).
pub const FORM_BOUNDARY_BYTES_MAX: usize = 70;
/// Characters of a tag's key.
pub const TAG_KEY_CHARS_MAX: usize = 128;
/// Characters of a tag's value.
pub const TAG_VALUE_CHARS_MAX: usize = 256;
/// CORS rules of a bucket.
pub const CORS_RULES_MAX: usize = 100;
/// Bytes of an identity's path.
pub const IAM_PATH_BYTES_MAX: usize = 512;
/// Values of one list of a form.
pub const FORM_LIST_MAX: usize = 200;
/// Entries of a page of identities, unless the client asks for another number.
pub const IAM_PAGE_DEFAULT: u32 = 100;
/// Entries of a page of identities at most.
pub const IAM_PAGE_MAX: u32 = 1_000;
/// How often a change of identities is tried again when another came between.
pub const CHANGE_TRIES_MAX: u32 = 16;
/// Policies inside one identity.
pub const INLINE_POLICIES_MAX: usize = 50;
/// Managed policies attached to one identity.
pub const ATTACHED_POLICIES_MAX: usize = 20;
/// Groups of a user.
pub const GROUPS_OF_USER_MAX: usize = 50;
/// Users of a group.
pub const USERS_OF_GROUP_MAX: usize = 2_000;
/// Access keys of a user, or of an account itself.
pub const KEYS_OF_USER_MAX: usize = 4;
/// Versions of a managed policy.
pub const POLICY_VERSIONS_MAX: usize = 5;
/// Shortest session, seconds.
pub const SESSION_SECONDS_MIN: u32 = 900;
/// Longest session of a role, seconds.
pub const SESSION_SECONDS_MAX: u32 = 12 * 3600;
/// Longest session of a user, seconds.
pub const USER_SESSION_SECONDS_MAX: u32 = 36 * 3600;
/// Audiences of an identity provider.
pub const PROVIDER_CLIENTS_MAX: usize = 100;
/// Thumbprints of an identity provider.
pub const PROVIDER_THUMBPRINTS_MAX: usize = 5;
/// Records that a change of a name may touch.
pub const RENAMED_TOGETHER_MAX: usize = 60;
/// Bytes of a session's token.
pub const SESSION_TOKEN_BYTES_MAX: usize = 32 * 1024;
/// Characters of an account's name.
pub const ACCOUNT_NAME_CHARS_MAX: usize = 128;
/// Bytes of an e-mail address.
pub const EMAIL_BYTES_MAX: usize = 254;
/// Longest answer of the outside, bytes.
pub const OUTBOUND_BYTES_MAX: usize = 256 * 1024;
/// Longest head of an answer of the outside, bytes.
pub const OUTBOUND_HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long the outside may take to answer, from name to last byte.
pub const OUTBOUND_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a system's bundle of certificates that are read.
pub const ROOTS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of a token of an identity provider.
pub const WEB_TOKEN_BYTES_MAX: usize = 20_000;
/// How much the clocks of an identity provider and of this node may differ, seconds.
pub const WEB_TOKEN_LEEWAY_SECONDS: u64 = 60;
/// Keys of one identity provider.
pub const PROVIDER_KEYS_MAX: usize = 32;
/// How long an identity provider's keys are used without asking for them again.
pub const PROVIDER_KEYS_FRESH: Duration = Duration::from_secs(600);
/// How long they are used at most if it cannot be asked.
pub const PROVIDER_KEYS_KEPT: Duration = Duration::from_secs(3600);
/// A provider is asked for keys at most so often, whatever tokens say.
pub const PROVIDER_ASK_EVERY: Duration = Duration::from_secs(30);
/// Identity providers whose keys are kept.
pub const PROVIDERS_KEPT_MAX: usize = 1_000;
/// Claims of a token that policies may ask about.
pub const CLAIMS_MAX: usize = 100;
/// Bytes of a claim's value that policies may ask about.
pub const CLAIM_BYTES_MAX: usize = 1_024;
/// Bytes of claims that a session keeps.
pub const SESSION_CLAIM_BYTES_MAX: usize = 4 * 1024;
/// Groups of a token that are looked up.
pub const TOKEN_GROUPS_MAX: usize = 100;
/// Bytes of the name of a key that the grid keeps: id, ARN or alias.
pub const KMS_NAME_BYTES_MAX: usize = 512;
/// Bytes of an alias.
pub const KMS_ALIAS_BYTES_MAX: usize = 250;
/// Bytes of a key's description.
pub const KMS_DESCRIPTION_BYTES_MAX: usize = 8_192;
/// Bytes of an encryption context as its header has it.
pub const KMS_CONTEXT_BYTES_MAX: usize = 2_048;
/// Keys that an account may have, and aliases as many.
pub const KMS_KEYS_OF_ACCOUNT_MAX: usize = 1_000;
/// Keys, and aliases, of an account that are listed.
pub const KMS_KEYS_MAX: usize = 10_000;
/// Keys kept in memory, as the root group has them.
pub const KMS_KEYS_KEPT_MAX: usize = 1_000;
/// Versions of a key.
pub const KMS_VERSIONS_MAX: usize = 100;
/// The key that is meant where none is named: an account that wants one makes this alias.
pub const KMS_DEFAULT_ALIAS: &str = "alias/aws/s3";
/// Bytes that one call may have a key seal.
pub const KMS_PLAINTEXT_BYTES_MAX: usize = 4_096;
/// Bytes of a key's id: a UUID.
pub const KMS_ID_BYTES: usize = 36;
/// Rules of a bucket about the ends of its objects.
pub const LIFECYCLE_RULES_MAX: usize = 1_000;
/// The name of such a rule.
pub const LIFECYCLE_ID_CHARS_MAX: usize = 255;
/// Those in force, compiled: a record holds them.
pub const LIFECYCLE_BYTES_MAX: usize = 120 << 10;
/// All of them, as XML.
pub const LIFECYCLE_TEXT_BYTES_MAX: usize = 512 << 10;
