//! Identifiers that stand in sealed data, shard headers and metadata rows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A cluster, drawn at random by `init`. Part of every AAD, superblock and certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

/// A Raft group; zero is the root group.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct GroupId(pub u32);

/// A writer's leased session with its metadata group: unique in the group, never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SessionId(pub u64);

/// A drive; assigned by the root group, never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct DriveId(pub u64);

/// A placement group; assigned by the root group, never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PgId(pub u32);

/// A placement group's version; only grows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// A block: metadata group ‖ session ‖ counter within the session. Never reused; a retry with
/// different bytes takes a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockId {
    /// The metadata group that owns the session.
    pub group: GroupId,
    /// The session that wrote it.
    pub session: SessionId,
    /// Counts the session's blocks.
    pub counter: u32,
}

impl BlockId {
    /// Length of [`BlockId::to_bytes`].
    pub const LEN: usize = 16;

    /// Big-endian, so that byte order is (group, session, counter) order.
    pub fn to_bytes(self) -> [u8; BlockId::LEN] {
        let mut bytes = [0; BlockId::LEN];
        bytes[..4].copy_from_slice(&self.group.0.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.session.0.to_be_bytes());
        bytes[12..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The inverse of [`BlockId::to_bytes`].
    pub fn from_bytes(bytes: [u8; BlockId::LEN]) -> BlockId {
        let [g0, g1, g2, g3, s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3] = bytes;
        BlockId {
            group: GroupId(u32::from_be_bytes([g0, g1, g2, g3])),
            session: SessionId(u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7])),
            counter: u32::from_be_bytes([c0, c1, c2, c3]),
        }
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.group.0, self.session.0, self.counter)
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
