//! The grid's side of the metadata: typed commands and queries, repeated under one request id until
//! their outcome is known.
//!
//! [`MetaPort`] is the seam: `meta`'s host in the product and in simulation.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nexusgrid_codec::GroupId;
use nexusgrid_env::Env;
use nexusgrid_meta::host::{Fact, Touched, WatchCall, Watched, Watcher};
use nexusgrid_meta::namespace::types as namespace;
use nexusgrid_meta::namespace::types::{
    ListAfter, ListLine, NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceOk,
    NamespaceQuery,
};
use nexusgrid_meta::root::types as root;
use nexusgrid_meta::root::types::{RootAnswer, RootCommand, RootError, RootOk, RootQuery};

use crate::convert;
use crate::error::GridError;

/// The root group.
pub(crate) const ROOT: GroupId = GroupId(0);

/// Names a command, so that repeating it is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub [u8; 16]);

impl CommandId {
    /// The id of the same request when it is made anew, for the n-th time; 0: this one. All are different up to
    /// 2³² times. Who names requests leaves the first two bytes and the last 28 bits of all names alike.
    pub(crate) fn again(self, round: usize) -> CommandId {
        let (low, high) = (round as u128 & 0xff, (round as u128 >> 8) & 0x00ff_ffff);
        let id = u128::from_be_bytes(self.0) ^ (low << 120) ^ high;
        CommandId(id.to_be_bytes())
    }

    /// The id of the same request after the n-th time that it was refused since a mount had the bucket to itself; 0: this
    /// one. All are different up to [`crate::limits::RECALLS_MAX`].
    pub(crate) fn after_recall(self, refused: usize) -> CommandId {
        let id = u128::from_be_bytes(self.0) ^ ((refused as u128 & 0xf) << 24);
        CommandId(id.to_be_bytes())
    }

    /// The id of the same request under the n-th mount after the one that had ended; 0: this one. Another than
    /// any [`CommandId::again`] gives.
    pub(crate) fn in_life(self, life: usize) -> CommandId {
        let id = u128::from_be_bytes(self.0) ^ ((life as u128 & 0xff) << 112);
        CommandId(id.to_be_bytes())
    }
}

/// Why a group gave no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Certainly not done: no leader, no quorum, or too busy. May be repeated.
    #[error("metadata group unavailable: {0}")]
    Unavailable(String),
    /// May or may not have been done: repeat with the same id.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Refused for good: too large, not permitted, or no such group.
    #[error("refused: {0}")]
    Refused(String),
}

/// An answer that may be remembered, perhaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The encoded reply.
    pub answer: Vec<u8>,
    /// What it rests on; `None`: it must not be remembered.
    pub fact: Option<Fact>,
    /// What is to be forgotten before it is taken for true.
    pub touched: Touched,
}

/// Raft groups, wherever they are.
#[async_trait]
pub trait MetaPort: Send + Sync + 'static {
    /// Has `group` decide on `command`; gives its encoded reply.
    async fn propose(
        &self,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<Vec<u8>, PortError>;
    /// Asks `group`; linearizable (I12). Gives its encoded reply.
    async fn query(&self, group: GroupId, query: Vec<u8>) -> Result<Vec<u8>, PortError>;
    /// Waits until `group` has decided something beyond `after`; gives how far it came, or `after`
    /// if there is nothing new for some seconds. A hint: whoever needs to know queries.
    async fn news(&self, group: GroupId, after: u64) -> Result<u64, PortError>;
    /// As [`MetaPort::propose`], by one that remembers what the group answered; gives what it is to forget, too. If
    /// it hears no reply, it is to forget everything.
    async fn propose_by(
        &self,
        by: Watcher,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<(Vec<u8>, Touched), PortError>;
    /// As [`MetaPort::query`], by one that would remember the answer.
    async fn remember(
        &self,
        by: Watcher,
        group: GroupId,
        query: Vec<u8>,
    ) -> Result<Answered, PortError>;
    /// Calls `group` for news of what is remembered; comes back after a second without.
    async fn watch(&self, group: GroupId, call: WatchCall) -> Result<Watched, PortError>;
    /// Whether this node leads `group` as far as it knows. A hint: it decides who works, not who
    /// is right.
    fn leads(&self, group: GroupId) -> bool;
}

/// Why a command or query gave no success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetaError {
    /// The metadata group refused.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The root group refused.
    #[error(transparent)]
    Root(#[from] RootError),
    /// No reply.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A reply that does not decode or does not fit the request.
    #[error("unexpected reply: {0}")]
    Reply(&'static str),
}

impl From<MetaError> for GridError {
    fn from(error: MetaError) -> GridError {
        match error {
            MetaError::Namespace(error) => namespace_error(error),
            MetaError::Root(error) => root_error(error),
            MetaError::Port(PortError::Refused(why)) => GridError::Internal(why),
            MetaError::Port(error) => GridError::Unavailable(error.to_string()),
            MetaError::Reply(what) => GridError::Internal(what.to_owned()),
        }
    }
}

fn namespace_error(error: NamespaceError) -> GridError {
    use nexusgrid_meta::namespace::limits as meta_limits;
    match error {
        NamespaceError::NoSuchBucket => GridError::NoSuchBucket,
        NamespaceError::BucketNotEmpty => GridError::BucketNotEmpty,
        NamespaceError::NoSuchKey => GridError::NoSuchKey,
        NamespaceError::InvalidKey => GridError::KeyTooLong,
        NamespaceError::PreconditionFailed => GridError::PreconditionFailed,
        NamespaceError::SourceChanged => GridError::Conflict,
        NamespaceError::QuotaExceeded => GridError::QuotaExceeded,
        NamespaceError::NoSuchUpload => GridError::NoSuchUpload,
        NamespaceError::InvalidPart(number) => GridError::InvalidPart { number: u32::from(number) },
        NamespaceError::InvalidPartOrder => GridError::InvalidPartOrder,
        NamespaceError::PartTooSmall(number, size) => {
            GridError::PartTooSmall { number: u32::from(number), size }
        }
        NamespaceError::SizeMismatch => GridError::InvalidArgument("object size".to_owned()),
        NamespaceError::RangeNotSatisfiable(size) => GridError::InvalidRange { size },
        NamespaceError::TooLarge => {
            GridError::TooLarge { limit: meta_limits::USER_METADATA_BYTES_MAX as u64 }
        }
        NamespaceError::SessionClosed(_)
        | NamespaceError::NoQuorum(_)
        | NamespaceError::Fenced(_)
        | NamespaceError::BlockBound(_)
        | NamespaceError::Delegated(..)
        | NamespaceError::NotDelegated => GridError::Unavailable(error.to_string()),
        NamespaceError::NoSuchContent => {
            GridError::Unreadable("the content was freed while it was read".to_owned())
        }
        NamespaceError::NoSuchVersion => GridError::NoSuchVersion,
        NamespaceError::DeleteMarker(version, modified_ms) => GridError::DeleteMarker {
            version: convert::version_name(version),
            modified: nexusgrid_env::UnixMillis(modified_ms),
        },
        NamespaceError::Locked => GridError::Locked,
        NamespaceError::NoLock => GridError::NoLock,
        NamespaceError::BucketState => GridError::BucketState,
        NamespaceError::WrongOffset(size) => GridError::WrongOffset { size },
        NamespaceError::TooManyAppends => GridError::TooManyAppends,
        NamespaceError::Malformed(namespace::Malformed::Tags) => {
            GridError::InvalidArgument("tags".to_owned())
        }
        NamespaceError::Malformed(namespace::Malformed::Retention) => {
            GridError::InvalidArgument("the retention is over already, or too long".to_owned())
        }
        NamespaceError::NoSuchSnapshot
        | NamespaceError::SnapshotExists
        | NamespaceError::TooManySnapshots
        | NamespaceError::InvalidSnapshotName => GridError::InvalidArgument(error.to_string()),
        // Mounts have errors of their own.
        NamespaceError::Malformed(_) | NamespaceError::CopyInstead | NamespaceError::Posix(_) => {
            GridError::Internal(error.to_string())
        }
    }
}

fn root_error(error: RootError) -> GridError {
    match error {
        RootError::NoSuchBucket => GridError::NoSuchBucket,
        RootError::BucketDeleting => GridError::NoSuchBucket,
        RootError::BucketExists | RootError::BucketOwned => {
            GridError::BucketExists { owner: String::new() }
        }
        RootError::Invalid(root::InvalidField::BucketName) => {
            GridError::InvalidBucketName("3 to 63 letters, digits, dots and hyphens".to_owned())
        }
        RootError::NotInitialised => GridError::Unavailable(error.to_string()),
        RootError::RecordChanged => GridError::Conflict,
        other => GridError::InvalidArgument(other.to_string()),
    }
}

/// How long a command is repeated before its caller hears Unavailable.
#[derive(Clone, Copy, Debug)]
pub struct MetaOptions {
    /// Longest time for one command or query with all its repetitions; default 15 s.
    pub patience: Duration,
    /// Pause between repetitions; default 50 ms.
    pub pause: Duration,
}

impl Default for MetaOptions {
    fn default() -> MetaOptions {
        MetaOptions { patience: Duration::from_secs(15), pause: Duration::from_millis(50) }
    }
}

/// Typed access to all groups; cheap to clone.
#[derive(Clone)]
pub(crate) struct MetaClient {
    port: Arc<dyn MetaPort>,
    env: Env,
    options: MetaOptions,
}

impl MetaClient {
    pub(crate) fn new(port: Arc<dyn MetaPort>, env: Env, options: MetaOptions) -> MetaClient {
        MetaClient { port, env, options }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    /// Wall-clock time, for what users see.
    pub(crate) fn now_ms(&self) -> u64 {
        self.env.clock.wall().0
    }

    /// Waits until `group` has decided something beyond `after`, or some seconds.
    pub(crate) async fn news(&self, group: GroupId, after: u64) -> Result<u64, PortError> {
        self.port.news(group, after).await
    }

    pub(crate) fn leads(&self, group: GroupId) -> bool {
        self.port.leads(group)
    }

    /// A command of a metadata group.
    pub(crate) async fn command(
        &self,
        group: GroupId,
        command: &NamespaceCommand,
    ) -> Result<NamespaceOk, MetaError> {
        self.unless_delegated(group, |_| self.command_once(group, command)).await
    }

    /// Likewise; refused if a mount has the bucket to itself.
    pub(crate) async fn command_once(
        &self,
        group: GroupId,
        command: &NamespaceCommand,
    ) -> Result<NamespaceOk, MetaError> {
        let reply = self.propose(group, command.encode()).await?;
        let reply = namespace::decode_reply(&reply).map_err(|_| MetaError::Reply("command"))?;
        Ok(reply?)
    }

    /// A command by one that remembers what the group answered: what it came to, and what is to be forgotten. Without
    /// an id it gets one.
    pub(crate) async fn command_by(
        &self,
        by: Option<Watcher>,
        group: GroupId,
        id: Option<CommandId>,
        command: &NamespaceCommand,
    ) -> Result<(Result<NamespaceOk, NamespaceError>, Touched), MetaError> {
        let id = id.unwrap_or_else(|| self.fresh_id());
        let command = command.encode();
        let command = &command;
        self.unless_delegated(group, |refused| {
            let id = id.after_recall(refused);
            async move {
                let (reply, touched) = self.encoded_by(by, group, id, command).await?;
                let reply =
                    namespace::decode_reply(&reply).map_err(|_| MetaError::Reply("command"))?;
                match reply {
                    Err(error @ NamespaceError::Delegated(..)) => Err(error.into()),
                    reply => Ok((reply, touched)),
                }
            }
        })
        .await
    }

    async fn encoded_by(
        &self,
        by: Option<Watcher>,
        group: GroupId,
        id: CommandId,
        command: &[u8],
    ) -> Result<(Vec<u8>, Touched), MetaError> {
        match by {
            Some(by) => {
                self.patiently(|| self.port.propose_by(by, group, id, command.to_vec())).await
            }
            None => Ok((self.propose_as(group, id, command.to_vec()).await?, Touched::Nothing)),
        }
    }

    /// A query whose answer may be remembered; as it came.
    pub(crate) async fn remember(
        &self,
        group: GroupId,
        by: Option<Watcher>,
        query: Vec<u8>,
    ) -> Result<Answered, MetaError> {
        let query = &query;
        self.unless_delegated(group, |_| async move {
            let answered = match by {
                Some(by) => self.patiently(|| self.port.remember(by, group, query.clone())).await?,
                None => {
                    let answer = self.query(group, query.clone()).await?;
                    Answered { answer, fact: None, touched: Touched::Nothing }
                }
            };
            match namespace::refusal(&answered.answer) {
                Some(error @ NamespaceError::Delegated(..)) => Err(error.into()),
                _ => Ok(answered),
            }
        })
        .await
    }

    /// Waits for news of what is remembered.
    pub(crate) async fn watch(
        &self,
        group: GroupId,
        call: WatchCall,
    ) -> Result<Watched, PortError> {
        self.port.watch(group, call).await
    }

    /// A query of a metadata group.
    pub(crate) async fn ask(
        &self,
        group: GroupId,
        query: &NamespaceQuery,
    ) -> Result<NamespaceAnswer, MetaError> {
        self.unless_delegated(group, |_| self.ask_once(group, query)).await
    }

    /// Likewise; refused if a mount has the bucket to itself.
    pub(crate) async fn ask_once(
        &self,
        group: GroupId,
        query: &NamespaceQuery,
    ) -> Result<NamespaceAnswer, MetaError> {
        let reply = self.query(group, query.encode()).await?;
        let reply = namespace::decode_query_reply(&reply).map_err(|_| MetaError::Reply("query"))?;
        Ok(reply?)
    }

    /// A listing of a metadata group: hands over each of its lines, and gives where to go on.
    pub(crate) async fn list(
        &self,
        group: GroupId,
        query: &NamespaceQuery,
        each: impl FnMut(ListLine<'_>),
    ) -> Result<Option<ListAfter>, MetaError> {
        let query = &query.encode();
        let reply = self
            .unless_delegated(group, |_| async move {
                let reply = self.query(group, query.clone()).await?;
                match namespace::refusal(&reply) {
                    Some(error @ NamespaceError::Delegated(..)) => Err(error.into()),
                    _ => Ok(reply),
                }
            })
            .await?;
        let next = namespace::read_listing(&reply, each).map_err(|_| MetaError::Reply("list"))?;
        Ok(next?)
    }

    /// A command of the root group.
    pub(crate) async fn root_command(&self, command: &RootCommand) -> Result<RootOk, MetaError> {
        let reply = self.propose(ROOT, command.encode()).await?;
        let reply = root::decode_reply(&reply).map_err(|_| MetaError::Reply("root command"))?;
        Ok(reply?)
    }

    /// A query of the root group.
    pub(crate) async fn root_ask(&self, query: &RootQuery) -> Result<RootAnswer, MetaError> {
        let reply = self.query(ROOT, query.encode()).await?;
        let reply = root::decode_query_reply(&reply).map_err(|_| MetaError::Reply("root query"))?;
        Ok(reply?)
    }

    /// Proposes under one id until the outcome is known or patience ends.
    async fn propose(&self, group: GroupId, command: Vec<u8>) -> Result<Vec<u8>, MetaError> {
        self.propose_as(group, self.fresh_id(), command).await
    }

    fn fresh_id(&self) -> CommandId {
        let mut id = [0; 16];
        self.env.rng.fill(&mut id);
        CommandId(id)
    }

    async fn propose_as(
        &self,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<Vec<u8>, MetaError> {
        self.patiently(|| self.port.propose(group, id, command.clone())).await
    }

    async fn query(&self, group: GroupId, query: Vec<u8>) -> Result<Vec<u8>, MetaError> {
        self.patiently(|| self.port.query(group, query.clone())).await
    }

    /// Repeats what is not refused until it succeeds or patience ends.
    async fn patiently<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, MetaError>
    where
        F: Future<Output = Result<T, PortError>>,
    {
        let mut last = PortError::Unavailable("no answer in time".to_owned());
        let attempts = async {
            loop {
                match attempt().await {
                    Ok(reply) => return Ok(reply),
                    Err(PortError::Refused(why)) => return Err(PortError::Refused(why)),
                    Err(error) => last = error,
                }
                self.env.clock.sleep(self.options.pause).await;
            }
        };
        match tokio::time::timeout(self.options.patience, attempts).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(last.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CommandId;

    #[test]
    fn rounds_and_lives_of_one_request_have_names_of_their_own() {
        let id = CommandId([7; 16]);
        assert_eq!(id.again(0).in_life(0), id);
        let names = (0..1_000).flat_map(|round| (0..5).map(move |life| (round, life)));
        let names = names.flat_map(|name| (0..4).map(move |refused| (name, refused)));
        let names: BTreeSet<_> = names
            .map(|((round, life), refused)| id.again(round).in_life(life).after_recall(refused))
            .collect();
        assert_eq!(names.len(), 20_000);
    }
}
