//! What can go wrong in this crate, by what the caller can do about it.

use nexusgrid_env::RpcError;

use crate::token::TokenError;

/// Why identity, admission or start-up failed. Calls between nodes fail with
/// [`nexusgrid_env::RpcError`].
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The token's text is unusable: ask for a new one or copy it again.
    #[error("join token: {0}")]
    Token(#[from] TokenError),
    /// The cluster refused, for good: repeating will not help.
    #[error("the cluster refused: {0}")]
    Refused(String),
    /// No node of the cluster could be reached: repeat later or elsewhere.
    #[error("cannot reach the cluster: {0}")]
    Unreachable(String),
    /// A node did answer, but is not of the cluster that the token or certificate names.
    #[error("wrong cluster: {0}")]
    WrongCluster(String),
    /// A certificate, key or signing request is malformed, expired or does not verify.
    #[error("certificate: {0}")]
    Certificate(String),
    /// This node has no identity yet: `init` or `join` first.
    #[error("this node has no identity in {0}: run `nexusgrid init` or `nexusgrid join` first")]
    NoIdentity(String),
    /// The identity file is damaged: restore it or let the node join anew.
    #[error(
        "the identity file {0} is damaged ({1}): put a copy of it back, or have another node run \
         `nexusgrid node remove NODE --lost` and join again in a fresh directory"
    )]
    DamagedIdentity(String, String),
    /// A file or socket of this machine failed.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
    /// The key that protects the CA key is wrong or absent here.
    #[error("the CA key cannot be opened with this master key")]
    SealedCaKey,
    /// A call to another node failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

impl From<rcgen::Error> for ClusterError {
    fn from(error: rcgen::Error) -> ClusterError {
        ClusterError::Certificate(error.to_string())
    }
}

impl From<rustls::Error> for ClusterError {
    fn from(error: rustls::Error) -> ClusterError {
        ClusterError::Certificate(error.to_string())
    }
}
