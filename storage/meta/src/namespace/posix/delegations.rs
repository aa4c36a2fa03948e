//! A bucket that one mount has to itself: what it does there it decides, and the group learns of it in order.
//!
//! ```text
//!   Delegate ──▶ the mount's ──Steps (…, gives_back)──▶ nobody's
//!                 │  ▲  ▲ │
//!                 │  └──┘ └── Recall: the row changes, so that who remembers it is told
//!                 └──Revoke──▶ nobody's: steps under that delegation are refused from now on
//! ```
//! While the row is there, whatever else would look at the bucket's objects or change them is refused with `Delegated`, by every
//! replica alike; so whoever is answered has seen all that the mount said. Whoever remembers an answer about the bucket has
//! read this row for it, and is told when it changes: when the bucket becomes the mount's nobody remembers anything of it.
//!
//! What the mount does in the meantime it finds out by the code of this machine, over the rows that it asked for and
//! those that its own steps changed ([`super::super::speculate`]). Both come to the same, because nobody else changes the
//! bucket: what works on all buckets (freeing, rewriting) changes no names, and no rules apply to such a bucket.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;

use nexusgrid_env::ScanRange;

use super::super::limits;
use super::super::machine::{Change, Step, Stop, check_family};
use super::super::rows;
use super::super::snapshots;
use super::super::types::{
    BucketId, DelegatedStep, Ino, MountId, NamespaceAnswer, NamespaceCommand, NamespaceError,
    NamespaceOk, NamespaceQuery, PosixDone, PosixError, RowsFound, RowsWanted, VersionRules,
};
use super::rows::{self as own, DelegationRow};
use crate::rows::tx::Tx;
use nexusgrid_codec::id::SessionId;

/// A bucket's delegation.
pub(in super::super) fn of(tx: &Tx<'_>, bucket: BucketId) -> Step<Option<DelegationRow>> {
    Ok(tx.load(rows::STATE, &own::delegation(bucket))?)
}

/// Refuses what would look at a bucket that a mount has to itself.
fn check_free(tx: &Tx<'_>, bucket: BucketId) -> Step<()> {
    match of(tx, bucket)? {
        Some(row) => Err(NamespaceError::Delegated(bucket, row.grant).into()),
        None => Ok(()),
    }
}

/// Likewise, whatever a query looks at.
pub(in super::super) fn check_query(tx: &Tx<'_>, query: &NamespaceQuery) -> Step<()> {
    use NamespaceQuery as Q;
    match query {
        Q::Head { bucket, .. }
        | Q::Get { bucket, .. }
        | Q::List { bucket, .. }
        | Q::ListUploads { bucket, .. }
        | Q::ListVersions { bucket, .. }
        | Q::Posix { bucket, .. } => check_free(tx, *bucket),
        Q::HeadVersion { version } | Q::GetVersion { version, .. } => {
            check_free(tx, version.bucket)
        }
        _ => Ok(()),
    }
}

/// What a mount that has its bucket to itself asks for.
pub(in super::super) fn fetch(
    tx: &Tx<'_>,
    mount: MountId,
    grant: u64,
    wanted: &[RowsWanted],
) -> Step<NamespaceAnswer> {
    if wanted.len() > limits::ROWS_WANTED_MAX {
        return Err(NamespaceError::TooLarge.into());
    }
    let bucket = super::mounts::row_of(tx, mount)?.bucket;
    if !of(tx, bucket)?.is_some_and(|row| row.mount == mount && row.grant == grant) {
        return Err(NamespaceError::NotDelegated.into());
    }
    let mut bytes = 0;
    let mut found = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        found.push(match wanted {
            RowsWanted::Get { family, key } => {
                let value = tx.get(check_family(family)?, key)?;
                bytes += value.as_ref().map_or(0, |value| value.len());
                let row = value.map(|value| (key.clone().into(), value));
                RowsFound { rows: row.into_iter().collect(), more: false }
            }
            RowsWanted::Scan { family, start, end, reverse, limit } => {
                let limit = (*limit).clamp(1, limits::ANSWER_ROWS_MAX) as usize;
                let (start, end) = (start.clone(), end.clone());
                let range = ScanRange { start, end, reverse: *reverse, limit: limit + 1 };
                let mut rows = tx.base_scan(check_family(family)?, &range)?;
                let before = bytes;
                let most = rows.iter().take(limit).take_while(|(key, value)| {
                    let fits = bytes < limits::ROWS_BYTES_MAX;
                    bytes += key.len() + value.len();
                    fits
                });
                // One at least, or nobody would get any further.
                let most = most.count().max(usize::from(before == 0 && !rows.is_empty()));
                let more = rows.len() > most;
                rows.truncate(most);
                RowsFound { rows, more }
            }
        });
    }
    Ok(NamespaceAnswer::Rows(found))
}

impl Change<'_> {
    /// Refuses commands for buckets that a mount has to itself.
    pub(in super::super) fn check_delegated(&self, command: &NamespaceCommand) -> Step<()> {
        use NamespaceCommand as C;
        let check = |bucket: BucketId| check_free(&self.tx, bucket);
        match command {
            C::SetQuota { bucket, .. }
            | C::DropBucketIfEmpty { bucket }
            | C::Delete { bucket, .. }
            | C::SetMeta { bucket, .. }
            | C::CreateUpload { bucket, .. }
            | C::SetRules { bucket, .. }
            | C::DeleteVersions { bucket, .. }
            | C::SetLifecycle { bucket, .. }
            | C::TakeSnapshot { bucket, .. }
            | C::DropSnapshot { bucket, .. }
            | C::AdoptPast { bucket, .. }
            | C::Rename { bucket, .. } => check(*bucket),
            C::Commit { puts, .. } => puts.iter().try_for_each(|put| check(put.bucket)),
            C::Link { source, target, .. } => check(source.0).and_then(|()| check(target.0)),
            C::LinkVersion { source, target, .. } => {
                check(source.bucket).and_then(|()| check(target.0))
            }
            C::PutPart { upload, .. }
            | C::CompleteUpload { upload, .. }
            | C::AbortUpload { upload, .. } => check(upload.bucket),
            C::LinkPart { upload, source, .. } => {
                check(upload.bucket).and_then(|()| check(source.0))
            }
            C::ChangeVersion { version, .. } => check(version.bucket),
            C::Append { append, .. } => check(append.bucket),
            // Neither of that mount itself: what it sent before must not come between what it does now.
            C::Posix { mount, .. } => check(self.mount(*mount)?.bucket),
            // Of all others no object and no name is another than before.
            _ => Ok(()),
        }
    }

    /// Gives a mount its bucket to itself.
    pub(in super::super) fn delegate(&mut self, mount: MountId) -> Step<NamespaceOk> {
        let bucket = self.mount(mount)?.bucket;
        let rules = self.bucket(bucket)?.rules;
        let has_rules = rules != VersionRules::default()
            || self.has_lifecycle(bucket)?
            || snapshots::has_any(&self.tx, bucket)?;
        if has_rules || of(&self.tx, bucket)?.is_some() {
            return Err(NamespaceError::NotDelegated.into());
        }
        let grant = self.sequence;
        let row = DelegationRow { sequence: grant, grant, mount, recalled: false };
        self.tx.store(rows::STATE, own::delegation(bucket), &row);
        Ok(NamespaceOk::Delegated(grant))
    }

    /// Asks for it back.
    pub(in super::super) fn recall(&mut self, bucket: BucketId, grant: u64) -> Step<NamespaceOk> {
        if let Some(row) = of(&self.tx, bucket)?
            && row.grant == grant
            && !row.recalled
        {
            let row = DelegationRow { sequence: self.sequence, recalled: true, ..row };
            self.tx.store(rows::STATE, own::delegation(bucket), &row);
        }
        Ok(NamespaceOk::Done)
    }

    /// Likewise, whoever has it: something changed that it does not see.
    pub(in super::super) fn recall_any(&mut self, bucket: BucketId) -> Step<()> {
        if let Some(row) = of(&self.tx, bucket)? {
            self.recall(bucket, row.grant)?;
        }
        Ok(())
    }

    /// Takes it away.
    pub(in super::super) fn revoke(&mut self, bucket: BucketId, grant: u64) -> Step<NamespaceOk> {
        if of(&self.tx, bucket)?.is_some_and(|row| row.grant == grant) {
            self.tx.delete(rows::STATE, own::delegation(bucket));
        }
        Ok(NamespaceOk::Done)
    }

    /// Whether a mount has its bucket to itself.
    pub(super) fn has_delegation(&self, mount: MountId, bucket: BucketId) -> Step<bool> {
        Ok(of(&self.tx, bucket)?.is_some_and(|row| row.mount == mount))
    }

    /// What a mount did that has its bucket to itself.
    pub(in super::super) fn steps(
        &mut self,
        mount: MountId,
        grant: u64,
        steps: Vec<DelegatedStep>,
        gives_back: bool,
    ) -> Step<NamespaceOk> {
        let bucket = self.mount(mount)?.bucket;
        if !of(&self.tx, bucket)?.is_some_and(|row| row.mount == mount && row.grant == grant) {
            return Err(NamespaceError::NotDelegated.into());
        }
        if steps.len() > limits::POSIX_OPS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        // Quotas were looked at when these were decided; whoever changes one asks for the bucket.
        self.is_decided = true;
        let mut refused = Vec::new();
        let mut last_ms = 0;
        for (at, step) in (0u32..).zip(steps) {
            last_ms = last_ms.max(step.now.ms());
            match self.step(mount, bucket, step) {
                Ok(_) => {}
                // It is the whole command that is too large.
                Err(Stop::Refuse(NamespaceError::TooLarge)) => {
                    return Err(NamespaceError::TooLarge.into());
                }
                Err(Stop::Refuse(error)) => refused.push((at, error)),
                Err(stop) => return Err(stop),
            }
        }
        self.settle_moved(last_ms)?;
        if gives_back {
            self.revoke(bucket, grant)?;
        }
        Ok(NamespaceOk::Stepped(refused))
    }

    /// One step; if it is refused nothing changes.
    pub(in super::super) fn step(
        &mut self,
        mount: MountId,
        bucket: BucketId,
        step: DelegatedStep,
    ) -> Step<PosixDone> {
        let DelegatedStep { now, ids, writer, blocks, op } = step;
        if now.nanos >= 1_000_000_000 || ids.len() > limits::STEP_IDS_MAX {
            return Err(NamespaceError::TooLarge.into());
        }
        let mut blocks = self.checked_blocks(writer, &blocks)?;
        self.check_ids(mount, bucket, &ids)?;
        self.given_ids = Some(VecDeque::from(ids));
        let mark = self.mark(&blocks);
        let done = self.posix_op(mount, bucket, op, &mut blocks, now);
        let done = match done {
            Ok(done) => {
                self.tx.keep();
                Ok(done)
            }
            Err(stop) => {
                blocks = self.back_to(mark);
                Err(stop)
            }
        };
        let drop_rest = matches!(
            done,
            Ok(_) | Err(Stop::Refuse(NamespaceError::Posix(_) | NamespaceError::Malformed(_)))
        );
        self.bind_blocks(blocks, drop_rest, now.ms());
        done
    }

    fn checked_blocks(
        &self,
        writer: SessionId,
        blocks: &[super::super::types::NewBlock],
    ) -> Step<super::super::contents::Blocks> {
        // Whoever finds out what it will come to takes them for good: the group looks.
        if !self.is_speculative {
            if !blocks.is_empty() {
                self.check_session(writer)?;
            }
            return self.check_blocks(writer, blocks);
        }
        Ok(super::super::contents::Blocks::unchecked(blocks))
    }

    /// Ids that a mount chose are its own, and nothing has them.
    fn check_ids(&self, mount: MountId, bucket: BucketId, ids: &[u64]) -> Step<()> {
        for (at, id) in ids.iter().enumerate() {
            let is_new = self
                .tx
                .get(rows::CONTENT, &rows::content(super::super::types::ContentId(*id)))?
                .is_none()
                && !ids.iter().take(at).any(|other| other == id);
            if !is_new {
                return Err(PosixError::NotReserved.into());
            }
            self.check_reserved(mount, bucket, Ino(*id))?;
        }
        Ok(())
    }
}
