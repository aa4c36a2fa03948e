//! What nodes may ask and propose that hold data only.
//!
//! A storage-only node is a machine that nobody need trust: it holds no keys, and must not get at
//! any by way of the root group. So it may say what it has and how it is, and carry out repairs;
//! tokens, keys, records, buckets, settings and restores are for nodes that decide or hold keys. No
//! wildcard arm: a new command or query must be given its place here.
#![deny(clippy::indexing_slicing)]

use super::types::{RootCommand, RootQuery};

impl RootCommand {
    /// Whether a node that holds data only may propose it.
    pub(super) fn is_open_to_storage(&self) -> bool {
        use RootCommand as C;
        match self {
            C::SetNodeAddresses { .. }
            | C::SetNodeState { .. }
            | C::AddDrive(_)
            | C::SetDriveState { .. }
            | C::SetDriveSize { .. }
            | C::SetDriveUse { .. }
            | C::SetWorker { .. }
            | C::SetPgUse { .. }
            | C::CreatePg(_)
            | C::ClosePg { .. }
            | C::PreparePg { .. }
            | C::CleanPg { .. }
            | C::OpenFillSession { .. }
            | C::CloseFillSession { .. }
            | C::Report { .. } => true,
            C::Init(_)
            | C::SetSettings(_)
            | C::CreateToken { .. }
            | C::RevokeToken { .. }
            | C::RedeemToken { .. }
            | C::RenewNodeCert { .. }
            | C::NextRaftGeneration { .. }
            | C::SetGroupVoters { .. }
            | C::CreateBucket { .. }
            | C::BeginDeleteBucket { .. }
            | C::CancelDeleteBucket { .. }
            | C::FinishDeleteBucket { .. }
            | C::SetBucketSettings { .. }
            | C::PutBucketKey(_)
            | C::CreateKey(_)
            | C::DeleteKey { .. }
            | C::RecordRestore(_)
            | C::Thaw { .. }
            | C::CreateSystemBucket { .. }
            | C::WriteRecords(_) => false,
        }
    }
}

impl RootQuery {
    /// Whether a node that holds data only may ask it.
    pub(super) fn is_open_to_storage(&self) -> bool {
        match self {
            RootQuery::Topology { .. } | RootQuery::Cluster | RootQuery::Restores => true,
            RootQuery::AccessKey { .. }
            | RootQuery::AccessKeys { .. }
            | RootQuery::BucketKeys { .. }
            | RootQuery::Tokens
            | RootQuery::Records { .. }
            | RootQuery::RecordsUnder { .. } => false,
        }
    }
}
