//! Every bound of this crate, by name.

use std::time::Duration;

/// Life of a node certificate.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Life of the cluster CA's certificate.
pub const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates begin to be valid this long before they are signed, for clocks that lag.
pub const CERTIFICATE_BACKDATE: Duration = Duration::from_secs(3600);
/// Default life of a join token.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// Longest printed join token, in bytes.
pub const TOKEN_TEXT_BYTES_MAX: usize = 1024;
/// Addresses a token may carry.
pub const TOKEN_ADDRESSES_MAX: usize = 4;
/// Longest certificate signing request, in bytes.
pub const CSR_BYTES_MAX: usize = 4 * 1024;
/// Longest certificate, in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 4 * 1024;
/// Longest identity file, in bytes.
pub const IDENTITY_BYTES_MAX: usize = 64 * 1024;
/// Drives a joining node may announce.
pub const JOIN_DRIVES_MAX: usize = 256;
/// Longest name (host, zone, class) in a join request, in bytes.
pub const JOIN_NAME_BYTES_MAX: usize = 255;
/// Redirects a joining node follows to find a node that can sign.
pub const JOIN_REDIRECTS_MAX: usize = 4;
/// Longest bootstrap payload of a join reply, in bytes.
pub const JOIN_BOOTSTRAP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest request or reply head that a method may declare, in bytes.
pub const RPC_HEAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest body that a method may declare, in bytes.
pub const RPC_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest error text sent to a caller, in bytes.
pub const RPC_ERROR_TEXT_BYTES_MAX: usize = 1024;
/// HTTP request or response head, in bytes.
pub const RPC_HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// HTTP header fields.
pub const RPC_HTTP_HEADERS_MAX: usize = 16;
/// Calls that may wait for a connection to one peer.
pub const RPC_WAITERS_PER_PEER_MAX: usize = 1024;
/// Shard sessions offered by one peer and not yet claimed by a connection.
pub const SHARD_UNCLAIMED_PER_PEER_MAX: usize = 64;
/// A shard session must be claimed by a connection within this time.
pub const SHARD_CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// UDP payload of one gossip packet, in bytes: below common MTUs.
pub const GOSSIP_PACKET_BYTES_MAX: usize = 1400;
/// Senders whose replay state is kept.
pub const GOSSIP_SENDERS_MAX: usize = 16 * 1024;
/// Width of the replay window, in packets.
pub const GOSSIP_REPLAY_WINDOW: u64 = 1024;
/// Seeds asked per announce round.
pub const GOSSIP_SEEDS_PER_ROUND: usize = 3;
/// Seeds remembered.
pub const GOSSIP_SEEDS_MAX: usize = 1024;
/// Timers foca may have pending.
pub const GOSSIP_TIMERS_MAX: usize = 64 * 1024;
/// Packets handled before timers are looked at again.
pub const GOSSIP_PACKETS_PER_TURN: usize = 64;
/// Commands waiting for the gossip task.
pub const GOSSIP_COMMANDS_MAX: usize = 64;
