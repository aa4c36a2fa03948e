//! The state machine of a metadata group: dispatch, and what all commands share.
//!
//! A command either changes rows and succeeds, or changes nothing and says why not. In a pack each
//! object is decided by itself: it is checked wholly before its first change. Nothing here reads a
//! clock or draws a number; any bytes get a typed reply.
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nexusgrid_codec::id::{GroupId, SessionId};
use nexusgrid_env::{Invariant, KvError, KvRead, NodeId};

use super::codes::Delta;
use super::contents::Blocks;
use super::lifecycle::Touched;
use super::query::Answer;
use super::types::{
    Allowance, BucketId, Extent, Ino, Malformed, MountId, NamespaceCommand, NamespaceError,
    NamespaceOk, NamespaceQuery, PosixError, PosixQuery, Session, VersionRef, VersionRules,
};
use super::{limits, posix, query, rows, snapshots, versions};
use crate::machine::{self, Applied, ApplyContext, RestsOn, StateMachine};
use crate::rows::tx::Tx;

/// A metadata group's state machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Namespace;

impl StateMachine for Namespace {
    fn families(&self) -> &'static [&'static str] {
        rows::FAMILIES
    }

    fn blob_families(&self) -> &'static [&'static str] {
        rows::BLOB_FAMILIES
    }

    fn apply(
        &self,
        state: &dyn KvRead,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Applied, KvError> {
        let outcome = match NamespaceCommand::decode(command) {
            Err(_) => Err(Malformed::Encoding.into()),
            Ok(command) => {
                let mut change = Change::new(state, context);
                let done = change.run(command);
                done.and_then(|done| change.settle_lifecycle().map(|()| done))
                    .and_then(|done| change.settle_codes().map(|()| done))
                    .map(|done| (done, change.tx))
            }
        };
        machine::applied(outcome, NamespaceError::TooLarge, |tx| tx.rows_of(rows::STATE, b'h'))
    }

    fn query(&self, state: &dyn KvRead, query: &[u8]) -> Result<Vec<u8>, KvError> {
        machine::answered(match NamespaceQuery::decode(query) {
            Err(_) => Err(Malformed::Encoding.into()),
            Ok(query) => match query::answer(state, query) {
                Ok(Answer::Written(reply)) => return Ok(reply),
                Ok(Answer::Typed(answer)) => Ok(answer),
                Err(stop) => Err(stop),
            },
        })
    }

    fn may_be_remembered(&self, query: &[u8]) -> Option<RestsOn> {
        match NamespaceQuery::decode(query) {
            Ok(NamespaceQuery::Posix { bucket, query }) => posix::may_be_remembered(bucket, query),
            Ok(NamespaceQuery::Delegation { .. }) => {
                Some(RestsOn { row: Box::new(|_, _| true), scans: false })
            }
            _ => None,
        }
    }

    fn watchers(&self, state: &dyn KvRead) -> Result<BTreeSet<u64>, KvError> {
        match posix::mounts(&Tx::new(state)) {
            Ok(mounts) => Ok(mounts.into_iter().map(|mount| mount.id.0).collect()),
            Err(machine::Stop::Store(error)) => Err(error),
            Err(machine::Stop::Refuse(error)) => Err(KvError::Corrupt(error.to_string())),
        }
    }

    fn watcher(&self, state: &dyn KvRead, id: u64) -> Result<Option<NodeId>, KvError> {
        posix::mount_node(&Tx::new(state), MountId(id))
    }

    fn is_long(&self, query: &[u8]) -> bool {
        use NamespaceQuery::{List, ListUploads, ListVersions, Past};
        let query = NamespaceQuery::decode(query);
        // A snapshot's names may lie far apart, among what came later.
        let is_listing = |query: &PosixQuery| matches!(query, PosixQuery::Entries { .. });
        match query {
            Ok(List { .. } | ListVersions { .. } | ListUploads { .. }) => true,
            Ok(Past { query, .. }) => is_listing(&query),
            _ => false,
        }
    }

    fn is_brief(&self, query: &[u8]) -> bool {
        use NamespaceQuery::{Delegation, Get, Head, Past, Posix, Rows};
        match NamespaceQuery::decode(query) {
            Ok(Head { .. } | Get { .. } | Delegation { .. } | Rows { .. }) => true,
            Ok(Posix { query, .. } | Past { query, .. }) => posix::is_brief(&query),
            _ => false,
        }
    }
}

/// Why a command or query ends early.
pub(super) type Stop = machine::Stop<NamespaceError>;

/// What a step of a command or query gives.
pub(super) type Step<T> = Result<T, Stop>;

impl From<NamespaceError> for Stop {
    fn from(error: NamespaceError) -> Stop {
        Stop::Refuse(error)
    }
}

impl From<Malformed> for NamespaceError {
    fn from(what: Malformed) -> NamespaceError {
        NamespaceError::Malformed(what)
    }
}

impl From<Malformed> for Stop {
    fn from(what: Malformed) -> Stop {
        Stop::Refuse(what.into())
    }
}

/// A row that contradicts another: the store is damaged.
pub(super) fn corrupt(what: &str) -> Stop {
    Stop::Store(KvError::Corrupt(format!("namespace: {what}")))
}

/// What a command had changed besides rows when a part of it began.
pub(super) struct Mark {
    codes: BTreeMap<(u8, u8), Delta>,
    moved: usize,
    blocks: Blocks,
}

/// One command while it is applied.
pub(super) struct Change<'a> {
    /// The state with this command's changes.
    pub tx: Tx<'a>,
    /// Its commit sequence.
    pub sequence: u64,
    /// The group that applies it.
    pub group: GroupId,
    /// What changed of the codes' counters.
    pub codes: BTreeMap<(u8, u8), Delta>,
    /// Keys of which something changed.
    pub touched: Touched,
    /// Extents that contents gave up.
    pub moved: Vec<Extent>,
    /// How many things it noted to be told.
    pub ends: u32,
    /// Ids that the step was given; `None`: they are made of the sequence.
    pub given_ids: Option<VecDeque<u64>>,
    /// Whether it was decided by a mount that had the bucket to itself: for want of room it is not refused any more.
    pub is_decided: bool,
    /// Whether this only finds out what the command will come to ([`super::speculate`]).
    pub is_speculative: bool,
    ids: u32,
    released: u32,
}

impl<'a> Change<'a> {
    pub(super) fn new(state: &'a dyn KvRead, context: &ApplyContext) -> Change<'a> {
        Change {
            tx: Tx::new(state),
            sequence: context.index,
            group: context.group,
            codes: BTreeMap::new(),
            touched: Touched::new(),
            moved: Vec::new(),
            ends: 0,
            given_ids: None,
            is_decided: false,
            is_speculative: false,
            ids: 0,
            released: 0,
        }
    }

    fn run(&mut self, command: NamespaceCommand) -> Step<NamespaceOk> {
        use NamespaceCommand as C;
        self.check_delegated(&command)?;
        match command {
            C::InitBucket { bucket, quota_bytes } => self.init_bucket(bucket, quota_bytes),
            C::SetQuota { bucket, quota_bytes } => self.set_quota(bucket, quota_bytes),
            C::DropBucketIfEmpty { bucket } => self.drop_bucket_if_empty(bucket),
            C::OpenSession { node, lease_ms, now_ms } => self.open_session(node, lease_ms, now_ms),
            C::RenewSession { session, oldest_pin_ms, now_ms } => {
                self.renew_session(session, oldest_pin_ms, now_ms)
            }
            C::CloseSession { session, now_ms } => self.close_session(session, now_ms),
            C::ExpireSessions { now_ms } => self.expire_sessions(now_ms),
            C::ForgetSessions { floor } => self.forget_sessions(floor),
            C::Commit { session, blocks, puts, now_ms } => {
                self.commit(session, &blocks, puts, now_ms)
            }
            C::Delete { session, bucket, deletes, now_ms } => {
                self.delete(session, bucket, deletes, now_ms)
            }
            C::Link { session, source, source_content, target, precondition, meta, now_ms } => {
                let source = VersionRef { bucket: source.0, key: source.1, version: None };
                self.link(session, &source, source_content, &target, &precondition, meta, now_ms)
            }
            C::SetMeta { session, bucket, key, precondition, meta, now_ms } => {
                self.set_meta(session, bucket, &key, &precondition, meta, now_ms)
            }
            C::CreateUpload { session, bucket, key, nonce, owner, meta, checksum, now_ms } => {
                self.create_upload(session, bucket, key, nonce, owner, meta, checksum, now_ms)
            }
            C::PutPart { session, upload, number, blocks, content, etag, checksums, now_ms } => {
                self.put_part(session, &upload, number, &blocks, content, etag, checksums, now_ms)
            }
            C::LinkPart {
                session,
                upload,
                number,
                source,
                source_content,
                range,
                etag,
                checksums,
                now_ms,
            } => self.link_part(
                session,
                &upload,
                number,
                &VersionRef { bucket: source.0, key: source.1, version: None },
                source_content,
                range,
                etag,
                checksums,
                now_ms,
            ),
            C::CompleteUpload {
                session,
                upload,
                parts,
                part_bytes_min,
                precondition,
                etag,
                checksums,
                size,
                now_ms,
            } => self.complete_upload(
                session,
                &upload,
                &parts,
                part_bytes_min,
                &precondition,
                etag,
                checksums,
                size,
                now_ms,
            ),
            C::AbortUpload { session, upload, now_ms } => {
                self.abort_upload(session, &upload, now_ms)
            }
            C::ForgetGaps => self.forget_gaps(),
            C::RepairDone { shards } => self.repair_done(&shards),
            C::FencePg { pg, epoch } => self.fence_pg(pg, epoch),
            C::MarkMissing { shards, now_ms } => self.mark_missing(&shards, now_ms),
            C::OutboxExpand { horizon_ms, now_ms } => {
                self.outbox_expand(now_ms, |row| row.released_ms <= horizon_ms)
            }
            C::ExpandThrough { through, now_ms } => {
                self.outbox_expand(now_ms, |row| row.sequence <= through)
            }
            C::OutboxAck { blocks } => self.outbox_ack(&blocks),
            C::Stage { session, blocks, content, now_ms } => {
                self.stage(session, &blocks, content, now_ms)
            }
            C::Rewrite { session, blocks, swaps, now_ms } => {
                self.rewrite(session, &blocks, &swaps, now_ms)
            }
            C::ExpandMoved { covered, horizon_ms, now_ms } => {
                self.expand_moved(covered, horizon_ms, now_ms)
            }
            C::SetRules { bucket, change } => self.set_rules(bucket, change),
            C::DeleteVersions { bucket, deletes, now_ms } => {
                self.delete_versions(bucket, deletes, now_ms)
            }
            C::LinkVersion {
                session,
                source,
                source_content,
                target,
                precondition,
                meta,
                now_ms,
            } => self.link(session, &source, source_content, &target, &precondition, meta, now_ms),
            C::ChangeVersion { version, change, now_ms } => {
                self.change_version(&version, change, now_ms)
            }
            C::SetLifecycle { bucket, rules } => self.set_lifecycle(bucket, rules),
            C::RunLifecycle { now_ms } => self.run_lifecycle(now_ms),
            C::SetCopies { contents, copies } => self.set_copies(&contents, copies),
            C::Posix { mount, writer, blocks, ops, now } => {
                self.posix(mount, (writer, &blocks), ops, now)
            }
            C::ReserveInos { mount, used_up } => self.reserve(mount, used_up),
            C::OpenMount { again, bucket, node, lease_ms, now_ms } => {
                self.open_mount(again, bucket, node, lease_ms, now_ms)
            }
            C::RenewMounts { mounts, now_ms } => self.renew_mounts(&mounts, now_ms),
            C::CloseMount { mount, now_ms } => self.close_mount(mount, now_ms),
            C::Append { session, blocks, append, now_ms } => {
                self.append(session, &blocks, append, now_ms)
            }
            C::TellEnds { bucket, told } => self.tell_ends(bucket, told),
            C::ForgetEnds { through } => self.forget_ends(through),
            C::SetAllowance { bucket, allowance } => self.set_allowance(bucket, allowance),
            C::Rename { bucket, source, sequence, target, precondition, now_ms } => {
                self.rename(bucket, (&source, sequence), (&target, &precondition), now_ms)
            }
            C::Delegate { mount } => self.delegate(mount),
            C::Steps { mount, grant, steps, gives_back } => {
                self.steps(mount, grant, steps, gives_back)
            }
            C::Recall { bucket, grant } => self.recall(bucket, grant),
            C::Revoke { bucket, grant } => self.revoke(bucket, grant),
            C::TakeSnapshot { bucket, name, path, now_ms } => {
                self.take_snapshot(bucket, name, path, now_ms)
            }
            C::DropSnapshot { bucket, name, now_ms } => self.drop_snapshot(bucket, &name, now_ms),
            C::AdoptPast { bucket, snapshot, parent, names } => {
                self.adopt_past(bucket, snapshot, parent, &names)
            }
        }
    }

    /// An id that no other command gives.
    pub(super) fn next_id(&mut self) -> Step<u64> {
        if let Some(given) = &mut self.given_ids {
            return Ok(given.pop_front().ok_or(PosixError::NotReserved)?);
        }
        let id = rows::id_of(self.sequence, self.ids).ok_or(NamespaceError::TooLarge)?;
        self.ids += 1;
        Ok(id)
    }

    /// Where a part of a command begins that may be taken back.
    pub(super) fn mark(&mut self, blocks: &Blocks) -> Mark {
        self.tx.begin();
        Mark { codes: self.codes.clone(), moved: self.moved.len(), blocks: blocks.clone() }
    }

    /// Takes back all since the mark.
    pub(super) fn back_to(&mut self, mark: Mark) -> Blocks {
        self.tx.take_back();
        self.codes = mark.codes;
        self.moved.truncate(mark.moved);
        mark.blocks
    }

    /// Puts what nothing refers to any more into the outbox (I10).
    pub(super) fn release(&mut self, what: rows::Released, now_ms: u64) {
        let key = rows::outbox(self.sequence, self.released);
        self.released += 1;
        let row = rows::OutboxRow { sequence: self.sequence, released_ms: now_ms, what };
        self.tx.store(rows::STATE, key, &row);
    }

    /// I4: nothing is done for a session that is not open.
    pub(super) fn check_session(&self, session: SessionId) -> Step<()> {
        let row: Option<Session> = self.tx.load(rows::STATE, &rows::session(session))?;
        match row {
            Some(Session { id, closed_ms: None, .. }) => {
                self.tx.check(Invariant::I4, id == session, || format!("{session:?} is {id:?}"));
                Ok(())
            }
            _ => Err(NamespaceError::SessionClosed(session).into()),
        }
    }

    /// A bucket in use.
    pub(super) fn bucket(&self, bucket: BucketId) -> Step<rows::LiveBucket> {
        let row: Option<rows::BucketRow> = self.tx.load(rows::STATE, &rows::bucket(bucket))?;
        row.and_then(rows::BucketRow::live).ok_or_else(|| NamespaceError::NoSuchBucket.into())
    }

    /// Writes a bucket back.
    pub(super) fn set_bucket(&mut self, bucket: BucketId, mut row: rows::LiveBucket) {
        row.sequence = self.sequence;
        let row = match (row.rules, row.allowance) {
            (rules, allowance) if allowance != Allowance::default() => {
                rows::BucketRow::Limited(row, rules, allowance)
            }
            (rules, _) if rules != VersionRules::default() => {
                rows::BucketRow::Versioned(row, rules)
            }
            _ => rows::BucketRow::Live(row),
        };
        self.tx.store(rows::STATE, rows::bucket(bucket), &row);
    }

    fn init_bucket(&mut self, bucket: BucketId, quota_bytes: Option<u64>) -> Step<NamespaceOk> {
        match self.tx.load(rows::STATE, &rows::bucket(bucket))? {
            Some(
                rows::BucketRow::Live(_)
                | rows::BucketRow::Versioned(..)
                | rows::BucketRow::Limited(..),
            ) => {}
            Some(rows::BucketRow::Dropped { .. }) => {
                return Err(NamespaceError::NoSuchBucket.into());
            }
            None => self.set_bucket(
                bucket,
                rows::LiveBucket {
                    sequence: self.sequence,
                    children: 0,
                    usage: Default::default(),
                    quota_bytes,
                    rules: VersionRules::default(),
                    allowance: Allowance::default(),
                },
            ),
        }
        Ok(NamespaceOk::Done)
    }

    fn set_quota(&mut self, bucket: BucketId, quota_bytes: Option<u64>) -> Step<NamespaceOk> {
        let row = self.bucket(bucket)?;
        self.set_bucket(bucket, rows::LiveBucket { quota_bytes, ..row });
        Ok(NamespaceOk::Done)
    }

    fn drop_bucket_if_empty(&mut self, bucket: BucketId) -> Step<NamespaceOk> {
        let row: Option<rows::BucketRow> = self.tx.load(rows::STATE, &rows::bucket(bucket))?;
        if matches!(row, Some(rows::BucketRow::Dropped { .. })) {
            return Ok(NamespaceOk::Done);
        }
        let live = row.and_then(rows::BucketRow::live);
        // What a mount holds counts as an object, though it has no name any more.
        let holds = |row: rows::LiveBucket| {
            row.children > 0 || row.usage.uploads > 0 || row.usage.objects > 0
        };
        let is_shown =
            versions::has_any(&self.tx, bucket)? || snapshots::has_any(&self.tx, bucket)?;
        if live.is_some_and(holds) || is_shown {
            return Err(NamespaceError::BucketNotEmpty.into());
        }
        // A bucket that was never initialised here is dropped too: its `InitBucket` may be late.
        let row = rows::BucketRow::Dropped { sequence: self.sequence };
        self.drop_lifecycle(bucket);
        self.tx.delete(rows::STATE, rows::tells(bucket));
        self.forget_node(bucket, Ino::ROOT, 0)?;
        self.tx.store(rows::STATE, rows::bucket(bucket), &row);
        Ok(NamespaceOk::Done)
    }
}

/// Keys are 1 to 1 024 bytes.
pub(super) fn check_key(key: &[u8]) -> Result<(), NamespaceError> {
    match key.len() {
        1..=limits::KEY_BYTES_MAX => Ok(()),
        _ => Err(NamespaceError::InvalidKey),
    }
}

/// A family of this machine, by its name.
pub(super) fn check_family(name: &str) -> Step<&'static str> {
    let family = rows::FAMILIES.iter().find(|family| **family == name);
    Ok(family.copied().ok_or(Malformed::Encoding)?)
}
