//! What the root group can be asked, and what it answers.

use serde::{Deserialize, Serialize};

use super::{AccessKey, BucketKey, Cluster, Record, Restores, RootError, TokenInfo};
use crate::namespace::types::BucketId;
use crate::root::topology::Topology;
use crate::rows::codec::{self, DecodeError};

/// What the root group can be asked. Queries answer from the state they are given; the host makes
/// them linearizable (I12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootQuery {
    /// The map, unless it still is at `unless_version`. → [`RootAnswer::Topology`].
    Topology {
        /// The version the asker has; 0: none.
        unless_version: u64,
    },
    /// Settings, CA certificate, gossip key: for admitted nodes only. → [`RootAnswer::Cluster`].
    Cluster,
    /// One access key, for gateways only. → [`RootAnswer::AccessKey`].
    AccessKey {
        /// Its id.
        id: String,
    },
    /// All access keys, secrets sealed. → [`RootAnswer::AccessKeys`].
    AccessKeys {
        /// Ids after this one.
        after: String,
        /// At most so many.
        limit: u32,
    },
    /// All versions of a bucket's key, sealed. → [`RootAnswer::BucketKeys`].
    BucketKeys {
        /// The bucket.
        bucket: BucketId,
    },
    /// Join tokens that are stored. → [`RootAnswer::Tokens`].
    Tokens,
    /// Restores of metadata, and whether deletes are frozen. → [`RootAnswer::Restores`].
    Restores,
    /// Records by path: those that there are, in order of path; for gateways only.
    /// → [`RootAnswer::Records`].
    Records {
        /// Their paths.
        paths: Vec<String>,
    },
    /// Records whose paths begin alike, in order; for gateways only. → [`RootAnswer::Records`].
    RecordsUnder {
        /// What the paths begin with.
        prefix: String,
        /// Paths after this one; empty: all.
        after: String,
        /// At most so many.
        limit: u32,
    },
}

/// A query's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAnswer {
    /// The map; `None`: unchanged.
    Topology(Option<Box<Topology>>),
    /// The cluster.
    Cluster(Box<Cluster>),
    /// The access key, if there is one.
    AccessKey(Option<AccessKey>),
    /// Access keys in order of id; `more`: ask again after the last.
    AccessKeys {
        /// The keys.
        keys: Vec<AccessKey>,
        /// Whether there are more.
        more: bool,
    },
    /// Key versions, oldest first.
    BucketKeys(Vec<BucketKey>),
    /// Tokens.
    Tokens(Vec<TokenInfo>),
    /// Restores.
    Restores(Restores),
    /// Records in order of path; `more`: ask again after the last.
    Records {
        /// The records.
        records: Vec<Record>,
        /// Whether there are more.
        more: bool,
    },
}

/// A query's reply.
pub type RootQueryReply = Result<RootAnswer, RootError>;

/// Reads the reply to a query.
pub fn decode_query_reply(bytes: &[u8]) -> Result<RootQueryReply, DecodeError> {
    codec::decode(bytes)
}

codec::wire!(RootQuery);
