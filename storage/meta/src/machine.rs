//! The seam between Raft and what Raft decides: a pure, deterministic state machine over a [`KvRead`].
//!
//! Every replica of a group hands the same commands in the same order to [`StateMachine::apply`] and
//! must arrive at the same rows, byte for byte. So `apply` knows no clock, no randomness and no disk:
//! whatever varies (ids, times, random keys) the proposer puts into the command.
//!
//! The host writes what `apply` returns in one batch with the applied index and the reply kept for
//! deduplication (I6): a machine never writes by itself, never sees a request twice, and need not
//! know that it is replicated.

use std::collections::BTreeSet;

use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Batch, Checks, KvError, KvRead, NodeId, Roles};
use serde::Serialize;

use crate::limits::COMMAND_ROWS_MAX;
use crate::rows::codec;
use crate::rows::tx::Tx;

/// What surrounds a command when it is applied; the same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    /// Position in the group's log: only grows, the *commit sequence* that rows carry.
    pub index: u64,
    /// The group that decides.
    pub group: GroupId,
}

/// The effect of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows to write, atomically. At most [`crate::limits::BATCH_ROWS_MAX`] changes.
    pub batch: Batch,
    /// What the proposer gets, an encoded success or refusal of the machine's own.
    pub reply: Vec<u8>,
    /// What the machine found of the invariants that it keeps.
    pub checks: Checks,
}

/// Says something of a row, by family and key.
pub type OfRow = dyn Fn(&'static str, &[u8]) -> bool + Send + Sync;

/// What an answer rests on, of the rows that were read for it.
pub struct RestsOn {
    /// Whether it rests on this one.
    pub row: Box<OfRow>,
    /// Whether scans may be remembered by the rows that they found: no other can come between without a change of one
    /// of all these.
    pub scans: bool,
}

/// A pure, deterministic state machine over a key-value store.
///
/// The families named here hold the machine's rows; the host keeps its own rows in
/// [`HOST_FAMILIES`], whose names a machine must not use.
pub trait StateMachine: Send + Sync + 'static {
    /// Families the machine reads and writes.
    fn families(&self) -> &'static [&'static str];

    /// Those of [`StateMachine::families`] whose large values live apart from the keys.
    fn blob_families(&self) -> &'static [&'static str];

    /// (state, command, context) → (rows to write, reply).
    ///
    /// `command` is committed, but came over the wire: a malformed one must give a reply that says
    /// so, never a panic. An error means that `state` could not be read: the replica stops, because
    /// to go on would be to diverge from the others.
    fn apply(
        &self,
        state: &dyn KvRead,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Applied, KvError>;

    /// Answers a question about `state`. A malformed query gives a reply that says so.
    fn query(&self, state: &dyn KvRead, query: &[u8]) -> Result<Vec<u8>, KvError>;

    /// Whether a node of these roles may propose this command.
    fn takes_from(&self, _roles: Roles, _command: &[u8]) -> bool {
        true
    }

    /// Whether a node of these roles may ask this.
    fn answers_to(&self, _roles: Roles, _query: &[u8]) -> bool {
        true
    }

    /// Whether a query reads a few rows only, so that it is answered where it arrives.
    fn is_brief(&self, _query: &[u8]) -> bool {
        false
    }

    /// Whether who asks this may remember the answer, and then what it rests on. When one of these rows changes, it is
    /// forgotten.
    fn may_be_remembered(&self, _query: &[u8]) -> Option<RestsOn> {
        None
    }

    /// Who may remember answers, as the rows say; numbers that are never given again.
    fn watchers(&self, _state: &dyn KvRead) -> Result<BTreeSet<u64>, KvError> {
        Ok(BTreeSet::new())
    }

    /// The node on which this one remembers, if it may.
    fn watcher(&self, _state: &dyn KvRead, _id: u64) -> Result<Option<NodeId>, KvError> {
        Ok(None)
    }

    /// Whether a query reads a page of a thousand rows for a client: what takes less goes first.
    fn is_long(&self, _query: &[u8]) -> bool {
        false
    }
}

/// Why a command or query of a machine ends early.
#[derive(Debug)]
pub(crate) enum Stop<E> {
    /// The caller gets this; nothing changes.
    Refuse(E),
    /// The state cannot be read: the replica stops.
    Store(KvError),
}

impl<E> From<KvError> for Stop<E> {
    fn from(error: KvError) -> Stop<E> {
        Stop::Store(error)
    }
}

/// What a command came to, as the host takes it: all its rows, or none and a refusal. One that would
/// change more rows than a command may is refused with `too_large`; those that `beside` counts do not count.
pub(crate) fn applied<T: Serialize, E: Serialize>(
    outcome: Result<(T, Tx<'_>), Stop<E>>,
    too_large: E,
    beside: impl FnOnce(&Tx<'_>) -> usize,
) -> Result<Applied, KvError> {
    let outcome = outcome.and_then(|(done, tx)| {
        let counted = tx.rows().saturating_sub(beside(&tx));
        if counted > COMMAND_ROWS_MAX { Err(Stop::Refuse(too_large)) } else { Ok((done, tx)) }
    });
    let (reply, batch, checks) = match outcome {
        Ok((done, mut tx)) => {
            let checks = tx.take_checks();
            (Ok(done), tx.into_batch(), checks)
        }
        Err(Stop::Refuse(error)) => (Err(error), Batch::default(), Checks::default()),
        Err(Stop::Store(error)) => return Err(error),
    };
    Ok(Applied { batch, reply: codec::encode(&reply), checks })
}

/// What a query came to, encoded.
pub(crate) fn answered<T: Serialize, E: Serialize>(
    outcome: Result<T, Stop<E>>,
) -> Result<Vec<u8>, KvError> {
    let reply = match outcome {
        Ok(answer) => Ok(answer),
        Err(Stop::Refuse(error)) => Err(error),
        Err(Stop::Store(error)) => return Err(error),
    };
    Ok(codec::encode(&reply))
}

/// Families of the host in every group's store: applied index and membership; replies by request.
pub const HOST_FAMILIES: &[&str] = &[FAMILY_RAFT, FAMILY_REPLIES];

/// Applied log id and membership.
pub(crate) const FAMILY_RAFT: &str = "raft";

/// Replies by request id, and request ids by applied index, for deduplication.
pub(crate) const FAMILY_REPLIES: &str = "replies";
