//! What can go wrong at this crate's surface. Each variant is a different thing for the caller to do.

use nexusgrid_codec::id::GroupId;
use nexusgrid_env::NodeId;

/// Why a group could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// No leader was found in time, and the command was certainly not taken: try later.
    #[error("group {} has no leader now", .0.0)]
    NoLeader(GroupId),
    /// No answer in time; nothing was changed (a query, or a command nobody took).
    #[error("group {} did not answer in time", .0.0)]
    Timeout(GroupId),
    /// The command may or may not be done: ask again with the same request id.
    #[error("the outcome of a command to group {} is unknown", .0.0)]
    UnknownOutcome(GroupId),
    /// A command, query or reply is larger than allowed: do less at once.
    #[error("{what} of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// This node has no replica of the group and knows none that has.
    #[error("group {} is not known here", .0.0)]
    UnknownGroup(GroupId),
    /// The group exists here already.
    #[error("group {} exists here already", .0.0)]
    Exists(GroupId),
    /// The log is older than what this node once held: the replica must not run again under its id.
    /// It comes back under a new one, when the group's leader takes it in again.
    #[error("the log of group {} is older than its floor", .0.0)]
    BelowFloor(GroupId),
    /// What this node keeps of the group is rotten: the replica stays down, and comes back as after
    /// [`MetaError::BelowFloor`].
    #[error("the replica of group {} is rotten", .0.0)]
    Rotten(GroupId),
    /// Another change of membership is under way, or its conditions do not hold yet: try later.
    #[error("membership of group {} cannot change now: {}", .0.0, .1)]
    MembershipBusy(GroupId, String),
    /// A node refused or could not do its part of a membership change.
    #[error("{0} cannot join: {1}")]
    CannotJoin(NodeId, String),
    /// The replica on this node has stopped after a storage error, or the node is stopping.
    #[error("the replica of group {} has stopped: {}", .0.0, .1)]
    Stopped(GroupId, String),
    /// A peer refused the request as malformed or not permitted: do not repeat it.
    #[error("refused: {0}")]
    Refused(String),
    /// The disk failed or holds something else than it should: an operator must look.
    #[error("metadata storage: {0}")]
    Storage(String),
}

impl From<std::io::Error> for MetaError {
    fn from(error: std::io::Error) -> Self {
        MetaError::Storage(error.to_string())
    }
}
