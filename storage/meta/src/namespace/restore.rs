//! A metadata group that was founded anew from a checkpoint: drives hold blocks of commits that it
//! does not know. They are *unheard of*, and nobody deletes them, until an administrator says so.
//!
//! A session that was open at the checkpoint, or was opened after it, may have committed what is lost;
//! so all of these are remembered as a gap. Sessions opened from now on have ids behind it.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::SessionId;
use nexusgrid_env::{Batch, KvError, KvRead};

use super::machine::{Change, Step};
use super::rows::{self, GapsRow};
use super::sessions;
use super::types::{NamespaceOk, Session};
use crate::rows::tx::Tx;

/// What a metadata group that begins at `index` has otherwise than its checkpoint of `checkpoint`.
pub fn restored(
    state: &dyn KvRead,
    checkpoint: u64,
    index: u64,
    now_ms: u64,
) -> Result<Batch, KvError> {
    let mut tx = Tx::new(state);
    let mut first = SessionId(checkpoint.saturating_add(1));
    for session in sessions::all(&tx)? {
        if session.closed_ms.is_none() {
            first = first.min(session.id);
            // Its writer may live: what it commits from now on would not be told from what is lost.
            let closed = Session { closed_ms: Some(now_ms), oldest_pin_ms: None, ..session };
            tx.store(rows::STATE, rows::session(session.id), &closed);
        }
    }
    let mut row = gaps(&tx)?;
    row.gaps.push((first, SessionId(index.saturating_add(1))));
    tx.store(rows::STATE, rows::gaps(), &row);
    Ok(tx.into_batch())
}

fn gaps(tx: &Tx<'_>) -> Result<GapsRow, KvError> {
    Ok(tx.load(rows::STATE, &rows::gaps())?.unwrap_or_default())
}

/// Whether a restore lost what a session committed.
pub(super) fn is_in_gap(tx: &Tx<'_>, session: SessionId) -> Result<bool, KvError> {
    Ok(gaps(tx)?.gaps.iter().any(|(first, end)| (*first..*end).contains(&session)))
}

impl Change<'_> {
    /// Blocks that no commit is known of are garbage from now on.
    pub(super) fn forget_gaps(&mut self) -> Step<NamespaceOk> {
        if self.tx.get(rows::STATE, &rows::gaps())?.is_some() {
            self.tx.delete(rows::STATE, rows::gaps());
        }
        Ok(NamespaceOk::Done)
    }
}
