//! A bucket as a mount sees it: nodes by number, names, ranges of files.
//!
//! ```text
//!   mount ──▶ Volume ──┬─ nodes   one command or query each; a repeated one has one effect
//!                      ├─ data    ranges into blocks, then one command that lays them over the file
//!                      ├─ locks   rows of the group, waited for here
//!                      ├─ past    what snapshots show, under numbers of their own
//!                      └─ lease   renewed every third of it, until the volume is dropped
//! ```
//!
//! Kept here between calls are the lease, numbers for new nodes, which cookie of a listing stood for which name, and
//! what the group answered, while it promises to tell of changes (`memory`): what another mount or a client of S3 did
//! is seen by the next call. Who serves programs may borrow of that (`lend`).

mod anew;
mod data;
mod delegation;
mod holds;
mod lease;
mod lend;
mod listing;
mod locks;
mod memory;
mod nodes;
mod past;
mod ranges;
mod space;

use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_meta::host::FactId;
use nexusgrid_meta::namespace::types::{
    NamespaceAnswer, NamespaceError, NamespaceQuery, WrappedKey, decode_query_reply,
};
use nexusgrid_meta::root::topology::Bucket;
use tokio::sync::{RwLockReadGuard, watch};

pub use data::FileRange;
pub use delegation::DelegationFigures;
pub use lend::{Borrower, Loan, LoanNews, Question};
pub use listing::{Cookie, Listed};
pub use nexusgrid_meta::host::MemoryFigures;
pub use nexusgrid_meta::namespace::limits::{
    FILE_BYTES_MAX, XATTR_BYTES_MAX, XATTR_NAME_BYTES_MAX,
};
pub use nexusgrid_meta::namespace::types::{
    Attrs, AttrsChange, Ino, Lock, LockKind, LockRange, Maker, Moment, MountId, NewNode, Node,
    NodeKind, PosixError, RenameMode, SetTime, Special, XattrWhen,
};
pub use nodes::Creation;
pub use past::{SNAPSHOTS_NAME, is_past};
pub use ranges::Seek;
pub use space::Space;

use crate::core::{Core, internal};
use crate::error::GridError;
use crate::facade::Grid;
use crate::meta_port::{CommandId, MetaError};
use lease::Lease;
use listing::Cookies;
pub(crate) use locks::Lines;
use locks::Turns;
use memory::Recalled;
use nexusgrid_codec::SessionId;
use nexusgrid_meta::namespace::types::{PosixDone, PosixOp, PosixQuery};

/// Why a volume did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// It cannot be: POSIX says why.
    #[error(transparent)]
    Posix(#[from] PosixError),
    /// The grid could not.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// The group refused it for what may pass. It says so whenever it is asked under the same id; made anew, under
    /// another, it may be done.
    #[error("refused for now: {0}")]
    Refused(GridError),
}

impl From<MetaError> for VolumeError {
    fn from(error: MetaError) -> VolumeError {
        match error {
            MetaError::Namespace(error) => error.into(),
            other => VolumeError::Grid(other.into()),
        }
    }
}

impl From<NamespaceError> for VolumeError {
    fn from(error: NamespaceError) -> VolumeError {
        match error {
            NamespaceError::Posix(error) => VolumeError::Posix(error),
            NamespaceError::NoSuchSnapshot => VolumeError::Posix(PosixError::Stale),
            NamespaceError::SessionClosed(_)
            | NamespaceError::NoQuorum(_)
            | NamespaceError::Fenced(_)
            | NamespaceError::BlockBound(_)
            | NamespaceError::SourceChanged => {
                VolumeError::Refused(MetaError::Namespace(error).into())
            }
            other => VolumeError::Grid(MetaError::Namespace(other).into()),
        }
    }
}

/// Who answers a mount's question.
enum Alone<'a> {
    /// The mount itself: as encoded, and what is remembered of it.
    Answer(Bytes, Option<FactId>),
    /// The group, while this is kept.
    Pass(RwLockReadGuard<'a, ()>),
}

/// A mounted bucket; all that it holds is given back some time after it is dropped, unless somebody goes on with
/// its mount.
pub struct Volume {
    core: Arc<Core>,
    bucket: Bucket,
    lease: Arc<Lease>,
    cookies: Cookies,
    turns: Turns,
    snapshots: past::Seen,
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.lease.end();
    }
}

impl Grid {
    /// Mounts a bucket.
    pub async fn volume(&self, bucket: &str) -> Result<Volume, VolumeError> {
        self.volume_of(bucket, None).await
    }

    /// Goes on with a mount of a bucket, and with all that it holds and has locked, as after a restart. If it has
    /// ended meanwhile (then [`Volume::mount`] is another), or for `None`, a new one begins.
    pub async fn volume_of(
        &self,
        bucket: &str,
        mount: Option<MountId>,
    ) -> Result<Volume, VolumeError> {
        let bucket = self.named(bucket).await?;
        let core = Arc::clone(&self.core);
        // A bucket that its group has not heard of is made known to it by who lists it.
        let lease = match Lease::open(&core, &bucket, mount).await {
            Err(VolumeError::Grid(GridError::NoSuchBucket)) => {
                self.init_bucket(&bucket).await?;
                Lease::open(&core, &bucket, mount).await?
            }
            other => other?,
        };
        let (cookies, turns) = (Cookies::default(), Turns::default());
        let snapshots = past::Seen::default();
        let volume = Volume { core, bucket, lease, cookies, turns, snapshots };
        volume.one(PosixOp::Root, None).await?;
        Ok(volume)
    }
}

impl Volume {
    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.bucket.name
    }

    /// The mount, for who would go on with it later.
    pub fn mount(&self) -> MountId {
        self.lease.mount()
    }

    /// Tells when the group had ended the mount (nothing was heard of it for too long), and another has begun: then
    /// nothing is held or locked any more, and what was is to be held anew; some of it may be gone.
    pub fn mounts(&self) -> watch::Receiver<MountId> {
        self.lease.watch()
    }

    /// Ends the mount, when all that was to be done is done.
    pub async fn close(&self) -> Result<(), VolumeError> {
        self.lease.close().await
    }

    /// One operation without bytes; under `request` it happens once, however often it is asked for.
    async fn one(&self, op: PosixOp, request: Option<CommandId>) -> Result<PosixDone, VolumeError> {
        Ok(self.lease.one((SessionId(0), Vec::new()), op, request).await?)
    }

    async fn node_of(&self, op: PosixOp, request: Option<CommandId>) -> Result<Node, VolumeError> {
        node(self.one(op, request).await?)
    }

    /// How well the mount remembers what it was answered.
    pub fn memory(&self) -> MemoryFigures {
        self.lease.memory().figures(self.core.env.clock.now())
    }

    /// As [`Volume::ask`], from memory if it can be.
    async fn recall(&self, query: PosixQuery) -> Result<NamespaceAnswer, VolumeError> {
        Ok(self.recall_or_ask(query).await?.0)
    }

    /// Likewise; gives whether it was.
    async fn recall_or_ask(
        &self,
        query: PosixQuery,
    ) -> Result<(NamespaceAnswer, bool), VolumeError> {
        if let Some(answer) = self.ask_past(&query).await {
            return Ok((answer?, false));
        }
        match self.alone(&query).await? {
            Alone::Answer(answer, _) => Ok((answer_of(&answer)?, true)),
            Alone::Pass(_pass) => {
                let query = NamespaceQuery::Posix { bucket: self.bucket.id, query }.encode();
                let recalled = memory::ask(&self.core, &self.lease, query).await?;
                Ok((answer_of(&recalled.answer)?, recalled.was_known))
            }
        }
    }

    /// Likewise; gives what may be lent of it, were it an error.
    async fn recall_loan(
        &self,
        query: PosixQuery,
    ) -> (Result<NamespaceAnswer, VolumeError>, Option<Loan>) {
        if let Some(answer) = self.ask_past(&query).await {
            return (answer, None);
        }
        let _pass = match self.alone(&query).await {
            Ok(Alone::Answer(answer, fact)) => {
                let query = NamespaceQuery::Posix { bucket: self.bucket.id, query }.encode();
                return (answer_of(&answer), fact.map(|fact| Loan { query, fact }));
            }
            Ok(Alone::Pass(pass)) => pass,
            Err(error) => return (Err(error), None),
        };
        let query = NamespaceQuery::Posix { bucket: self.bucket.id, query }.encode();
        match memory::ask(&self.core, &self.lease, query.clone()).await {
            Ok(Recalled { answer, fact, .. }) => {
                (answer_of(&answer), fact.map(|fact| Loan { query, fact }))
            }
            Err(error) => (Err(error.into()), None),
        }
    }

    /// What is remembered; nothing is asked.
    fn recalled(&self, query: PosixQuery) -> Option<NamespaceAnswer> {
        if let Some(answer) = self.lease.delegation().peek(&self.lease, &query) {
            return decode_query_reply(&answer).ok()?.ok();
        }
        let query = NamespaceQuery::Posix { bucket: self.bucket.id, query }.encode();
        let (answer, _) = self.lease.memory().recall(&query, self.core.env.clock.now()).ok()?;
        decode_query_reply(&answer).ok()?.ok()
    }

    /// Asks, whatever is remembered; what is remembered is not older than the answer then.
    async fn ask(&self, query: PosixQuery) -> Result<NamespaceAnswer, VolumeError> {
        if let Some(answer) = self.ask_past(&query).await {
            return answer;
        }
        let _pass = match self.alone(&query).await? {
            Alone::Answer(answer, _) => return answer_of(&answer),
            Alone::Pass(pass) => pass,
        };
        let query = NamespaceQuery::Posix { bucket: self.bucket.id, query }.encode();
        let by = self.lease.memory().by();
        let answered = self.core.meta.remember(self.bucket.group, by, query).await?;
        if by.is_some() && self.lease.memory().by() == by {
            self.lease.memory().forget(answered.touched);
        }
        answer_of(&answered.answer)
    }

    /// What the mount answers itself, or leave to ask the group.
    async fn alone(&self, query: &PosixQuery) -> Result<Alone<'_>, VolumeError> {
        let delegation = self.lease.delegation();
        loop {
            if let Some((answer, fact)) = delegation.ask(&self.lease, query).await? {
                return Ok(Alone::Answer(answer, fact));
            }
            if let Some(pass) = delegation.pass().await {
                return Ok(Alone::Pass(pass));
            }
        }
    }

    /// From now on the mount has its bucket to itself when it changes much there and nobody else looks: what programs do is
    /// durable soon after, not when it is answered, unless they ask for it ([`Volume::sync`]).
    pub fn work_alone(&self) {
        self.lease.delegation().want(&self.lease);
    }

    /// Ends that; returns when the bucket is not the mount's alone, and all that it did is durable.
    pub async fn work_with_others(&self) {
        self.lease.delegation().want_no_more().await;
    }

    /// Returns when all that was done is durable.
    pub async fn sync(&self) -> Result<(), VolumeError> {
        self.lease.delegation().sync(&self.lease).await
    }

    /// How the mount has its bucket to itself.
    pub fn delegation(&self) -> DelegationFigures {
        self.lease.delegation().figures()
    }

    /// A key for what may be written to a file that has none of its own.
    async fn fresh_key(&self) -> Result<crate::keys::FreshKey, VolumeError> {
        let Bucket { id, name, key_version, .. } = &self.bucket;
        Ok(self.core.keys.fresh(*id, name, *key_version).await?)
    }

    async fn fresh_row(&self) -> Result<WrappedKey, VolumeError> {
        Ok(self.fresh_key().await?.row)
    }
}

fn node(done: PosixDone) -> Result<Node, VolumeError> {
    match done {
        PosixDone::Node(node) => Ok(*node),
        _ => Err(internal("an operation gave no node").into()),
    }
}

fn answer_of(answer: &[u8]) -> Result<NamespaceAnswer, VolumeError> {
    let answer = decode_query_reply(answer).map_err(|_| internal("an answer's encoding"))?;
    Ok(answer?)
}
