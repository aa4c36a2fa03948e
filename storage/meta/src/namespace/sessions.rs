//! Writers' sessions.
//!
//! ```text
//!   OpenSession ──> open ──CloseSession, ExpireSessions──> closed ──ForgetSessions──> (below floor)
//!                    │ RenewSession
//!                    └──┘
//! ```
//!
//! A commit of a session that is not open is refused (I4), so blocks of a closed session that no
//! extent refers to are garbage by definition. A session id is the commit sequence of its opening:
//! unique, ascending, never reused, so a *floor* says of all below that they are closed (R6).
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::SessionId;
use nexusgrid_env::kv::prefix_end;
use nexusgrid_env::{KvError, NodeId};

use super::limits;
use super::machine::{Change, Step};
use super::rows;
use super::types::{NamespaceError, NamespaceOk, Session};
use crate::rows::tx::{Tx, decode_row};

/// All remembered sessions, in order of id.
pub(super) fn all(tx: &Tx<'_>) -> Result<Vec<Session>, KvError> {
    let end = prefix_end(b"S");
    tx.scan(rows::STATE, b"S", end.as_deref(), limits::SESSIONS_MAX)?
        .iter()
        .map(|(_, value)| decode_row(rows::STATE, value))
        .collect()
}

/// All below are closed and forgotten.
pub(super) fn floor(tx: &Tx<'_>) -> Result<SessionId, KvError> {
    Ok(tx.load(rows::STATE, &rows::floor())?.unwrap_or_default())
}

impl Change<'_> {
    pub(super) fn open_session(
        &mut self,
        node: NodeId,
        lease_ms: u64,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        if all(&self.tx)?.len() >= limits::SESSIONS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let session = Session {
            id: SessionId(self.sequence),
            node,
            lease_ms,
            opened_ms: now_ms,
            renewed_ms: now_ms,
            oldest_pin_ms: None,
            closed_ms: None,
        };
        self.set_session(&session);
        Ok(NamespaceOk::Session(session))
    }

    pub(super) fn renew_session(
        &mut self,
        session: SessionId,
        oldest_pin_ms: Option<u64>,
        now_ms: u64,
    ) -> Step<NamespaceOk> {
        let row: Option<Session> = self.tx.load(rows::STATE, &rows::session(session))?;
        match row {
            Some(row) if row.closed_ms.is_none() => {
                let row = Session { renewed_ms: row.renewed_ms.max(now_ms), oldest_pin_ms, ..row };
                self.set_session(&row);
                Ok(NamespaceOk::Session(row))
            }
            _ => Err(NamespaceError::SessionClosed(session).into()),
        }
    }

    pub(super) fn close_session(&mut self, session: SessionId, now_ms: u64) -> Step<NamespaceOk> {
        let row: Option<Session> = self.tx.load(rows::STATE, &rows::session(session))?;
        if let Some(row) = row.filter(|row| row.closed_ms.is_none()) {
            self.set_session(&Session { closed_ms: Some(now_ms), oldest_pin_ms: None, ..row });
        }
        Ok(NamespaceOk::Done)
    }

    pub(super) fn expire_sessions(&mut self, now_ms: u64) -> Step<NamespaceOk> {
        let expired: Vec<Session> = all(&self.tx)?
            .into_iter()
            .filter(|row| {
                row.closed_ms.is_none() && row.renewed_ms.saturating_add(row.lease_ms) < now_ms
            })
            .take(limits::EXPIRE_MAX)
            .collect();
        for row in &expired {
            self.set_session(&Session { closed_ms: Some(now_ms), oldest_pin_ms: None, ..*row });
        }
        Ok(NamespaceOk::Closed(expired.iter().map(|row| row.id).collect()))
    }

    pub(super) fn forget_sessions(&mut self, floor_wanted: SessionId) -> Step<NamespaceOk> {
        let sessions = all(&self.tx)?;
        let oldest_open = sessions.iter().find(|row| row.closed_ms.is_none()).map(|row| row.id);
        // Never above an open session, nor above one that this very command's successors may open.
        let mut floor_new =
            floor_wanted.min(oldest_open.unwrap_or(floor_wanted)).min(SessionId(self.sequence));
        let below: Vec<&Session> = sessions.iter().filter(|row| row.id < floor_new).collect();
        if let Some(kept) = below.get(limits::EXPIRE_MAX) {
            floor_new = kept.id;
        }
        for row in below.iter().take(limits::EXPIRE_MAX) {
            self.tx.delete(rows::STATE, rows::session(row.id));
        }
        if floor_new > floor(&self.tx)? {
            self.tx.store(rows::STATE, rows::floor(), &floor_new);
        }
        Ok(NamespaceOk::Done)
    }

    fn set_session(&mut self, session: &Session) {
        self.tx.store(rows::STATE, rows::session(session.id), session);
    }
}
