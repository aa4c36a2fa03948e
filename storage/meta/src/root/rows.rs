//! Rows of the root group: keys and values. One family.
//!
//! ```text
//! 'C'                     → ClusterRow         'I' bucket id        → name
//! 'N' node                → Node               'K' access key id    → AccessKey
//! 'D' drive               → Drive              'T' token id         → TokenRow
//! 'i' incarnation         → DriveId            'E' bucket version   → BucketKey
//! 'P' pg                  → Pg                 'R' node reporter    → ReportRow
//! 'G' group               → Group
//! 'B' name                → Bucket              'W' worker            → WorkerSetting
//! 'A' path                → RecordRow           'V'                   → RulesRow
//! ```
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::{DriveId, GroupId, PgId};
use nexusgrid_env::{NodeId, Roles};
use serde::{Deserialize, Serialize};

use super::types::{Cluster, Fingerprint, Restore};
use crate::namespace::types::BucketId;
use crate::rows::key::KeyBuf;

/// The only family.
pub const ROOT: &str = "root";
/// All families.
pub const FAMILIES: &[&str] = &[ROOT];

/// The cluster, and counters from which ids are drawn: never reused (I15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// As queries show it.
    pub cluster: Cluster,
    /// Commit sequence of the map's last change.
    pub map_version: u64,
    /// The newest node.
    pub nodes: u64,
    /// The newest drive.
    pub drives: u64,
    /// The newest PG.
    pub pgs: u32,
    /// The newest bucket.
    pub buckets: u64,
    /// Metadata groups: 1 to this.
    pub groups: u32,
}

/// Restores of metadata there were; absent: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoresRow {
    /// Incarnations up to this one may delete again.
    pub thawed: u64,
    /// All, the newest last.
    pub restores: Vec<Restore>,
}

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// SHA-256 of the secret half.
    pub secret_hash: [u8; 32],
    /// From then on it is refused.
    pub expires_ms: u64,
    /// What a node may be that joins with it.
    pub roles: Roles,
    /// Who used it, with which certificate.
    pub used_by: Option<(NodeId, Fingerprint)>,
}

/// A down report that counts until its window is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRow {
    /// Host of the reporter.
    pub host: String,
    /// When.
    pub at_ms: u64,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRow {
    /// Commit index of its last change.
    pub revision: u64,
    /// What the gateways wrote.
    pub value: Vec<u8>,
}

/// All records together; absent: none was ever written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesRow {
    /// Commit index of the last change of any.
    pub version: u64,
    /// How many there are.
    pub records: u64,
}

/// All records together.
pub fn rules() -> Vec<u8> {
    KeyBuf::tag(b'V').done()
}

/// A record.
pub fn record(path: &str) -> Vec<u8> {
    KeyBuf::tag(b'A').raw(path.as_bytes()).done()
}

/// The restores.
pub fn restores() -> Vec<u8> {
    KeyBuf::tag(b'X').done()
}

/// The cluster.
pub fn cluster() -> Vec<u8> {
    KeyBuf::tag(b'C').done()
}

/// A node.
pub fn node(node: NodeId) -> Vec<u8> {
    KeyBuf::tag(b'N').u64(node.0).done()
}

/// A kind of background worker.
pub fn worker(name: &str) -> Vec<u8> {
    KeyBuf::tag(b'W').raw(name.as_bytes()).done()
}

/// A drive.
pub fn drive(drive: DriveId) -> Vec<u8> {
    KeyBuf::tag(b'D').u64(drive.0).done()
}

/// A drive by incarnation.
pub fn incarnation(incarnation: &[u8; 16]) -> Vec<u8> {
    KeyBuf::tag(b'i').raw(incarnation).done()
}

/// A PG.
pub fn pg(pg: PgId) -> Vec<u8> {
    KeyBuf::tag(b'P').u32(pg.0).done()
}

/// A group.
pub fn group(group: GroupId) -> Vec<u8> {
    KeyBuf::tag(b'G').u32(group.0).done()
}

/// A bucket by name.
pub fn bucket(name: &str) -> Vec<u8> {
    KeyBuf::tag(b'B').raw(name.as_bytes()).done()
}

/// A bucket's name by id.
pub fn bucket_name(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'I').u64(bucket.0).done()
}

/// An access key.
pub fn access_key(id: &str) -> Vec<u8> {
    KeyBuf::tag(b'K').raw(id.as_bytes()).done()
}

/// A join token.
pub fn token(id: &str) -> Vec<u8> {
    KeyBuf::tag(b'T').raw(id.as_bytes()).done()
}

/// A bucket's key versions.
pub fn bucket_keys(bucket: BucketId) -> KeyBuf {
    KeyBuf::tag(b'E').u64(bucket.0)
}

/// A version of a bucket's key.
pub fn bucket_key(bucket: BucketId, version: u32) -> Vec<u8> {
    bucket_keys(bucket).u32(version).done()
}

/// Down reports of a node.
pub fn reports(node: NodeId) -> KeyBuf {
    KeyBuf::tag(b'R').u64(node.0)
}

/// A down report of a node by another.
pub fn report(node: NodeId, reporter: NodeId) -> Vec<u8> {
    reports(node).u64(reporter.0).done()
}
