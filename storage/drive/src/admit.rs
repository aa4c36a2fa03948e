//! Admission: each operation, held against the rules at its place in the log, becomes records.
//!
//! Keeps R1 (no older epoch; a newer one is adopted), R3 (idempotent re-acknowledgement with a
//! durable stamp; another digest is refused, I3), R4 (no closed fill session), R5 (no deleted
//! block), R6 (no closed writer session; a tombstone goes only when that holds), R7 (only shards
//! stamped before the epoch are trashed). A refused operation leaves no trace: checks come first.

use bytes::Bytes;
use nexusgrid_codec::{BlockId, Epoch, PgId};
use nexusgrid_env::KvError;

use crate::error::DriveError;
use crate::fold;
use crate::index::{self, Meta, Sessions, ShardRow};
use crate::limits::{OP_BYTES_MIN, RECORD_ALIGN};
use crate::log::{self, Fact, FactsEntry, LogItem, ShardEntry};
use crate::record::{RecordHead, RecordKind, align_up, head_bytes};
use crate::space::Budget;
use crate::txn::Txn;
use crate::types::{DriveOptions, PutAck, SessionFloor, ShardKey, ShardWrite};

/// Facts that one record holds; further ones begin another.
const FACTS_PER_RECORD_MAX: usize = 4096;

static ZEROES: [u8; RECORD_ALIGN as usize] = [0; RECORD_ALIGN as usize];

/// What the writer is asked.
pub enum Op {
    /// Store a shard.
    Put(Box<PutOp>),
    /// R1, R2: know this epoch.
    Fence { pg: PgId, epoch: Epoch },
    /// R5: these blocks are deleted.
    Tombstone(Vec<BlockId>),
    /// R5, R6: raise the floors, then erase the tombstones.
    DropTombstones { blocks: Vec<BlockId>, floors: Vec<SessionFloor> },
    /// R4, R6: close one session.
    CloseSession { sessions: Sessions, session: u64 },
    /// R4, R6: close all sessions below.
    RaiseFloor { sessions: Sessions, floor: u64 },
    /// R7, orphans: to the trash; with `stamped_before` only if the stamp is of that PG and older.
    Trash { keys: Vec<ShardKey>, stamped_before: Option<(PgId, Epoch)> },
    /// Back from the trash.
    Restore(Vec<ShardKey>),
    /// Out of the trash for good, if it is there since that age.
    Purge(Vec<(u64, ShardKey)>),
    /// Compaction: a copy of a live record.
    Copy(Box<CopyOp>),
    /// Compaction: facts of a segment that goes.
    Relog { victim: u64, pgs: Vec<PgId>, facts: Vec<Fact> },
    /// Compaction: the segment is gone.
    Forget { segment: u64 },
    /// The hole was punched.
    Punched { segment: u64, offset: u64, bytes: u64 },
}

/// A checked shard write.
pub struct PutOp {
    /// As the caller gave it.
    pub write: ShardWrite,
    /// Its header, encoded.
    pub header: Bytes,
    /// crc32c of the body.
    pub body_crc: u32,
    /// Its own digest.
    pub digest: [u8; 32],
}

/// A record that compaction read.
pub struct CopyOp {
    /// The shard.
    pub key: ShardKey,
    /// Where it was read.
    pub segment: u64,
    /// See `segment`.
    pub offset: u64,
    /// Its head.
    pub head: RecordHead,
    /// Its body, checked.
    pub body: Bytes,
}

impl Op {
    /// What the operation counts for in the queue.
    pub fn queue_bytes(&self) -> u64 {
        match self {
            Op::Put(put) => put.write.body.len() as u64,
            Op::Copy(copy) => copy.body.len() as u64,
            _ => u64::from(OP_BYTES_MIN),
        }
    }

    /// Whether it needs room for a shard.
    pub fn stores_shard(&self) -> bool {
        matches!(self, Op::Put(_) | Op::Copy(_))
    }
}

/// What the writer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a put.
    Put(PutAck),
    /// To a fence: the epoch known now.
    Epoch(Epoch),
    /// To the others: how many things changed.
    Count(u64),
}

/// Why an operation did not get in.
pub enum Refusal {
    /// The caller's matter.
    Caller(DriveError),
    /// The index failed: the drive's matter.
    Index(KvError),
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Refusal {
        Refusal::Index(error)
    }
}

impl From<DriveError> for Refusal {
    fn from(error: DriveError) -> Refusal {
        Refusal::Caller(error)
    }
}

/// Where a batch begins.
#[derive(Clone, Copy)]
pub struct Start {
    /// The active segment.
    pub segment: u64,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// Where its synced records end.
    pub end: u64,
    /// The first free sequence.
    pub sequence: u64,
    /// Age of the drive.
    pub age_ms: u64,
    /// What the index has folded.
    pub meta: Meta,
}

/// A batch in the making.
pub struct Draft<'a> {
    txn: Txn<'a>,
    options: &'a DriveOptions,
    budget: Budget,
    start: Start,
    /// What to write at `start.end`.
    pub parts: Vec<Bytes>,
    /// The records in it.
    pub items: Vec<LogItem>,
    /// Where they end.
    pub end: u64,
    /// The next free sequence.
    pub sequence: u64,
    facts: Vec<Fact>,
}

impl<'a> Draft<'a> {
    /// An empty batch.
    pub fn new(
        kv: &'a dyn nexusgrid_env::Kv,
        options: &'a DriveOptions,
        budget: Budget,
        start: Start,
    ) -> Draft<'a> {
        Draft {
            txn: Txn::new(kv, start.meta),
            options,
            budget,
            start,
            parts: Vec::new(),
            items: Vec::new(),
            end: start.end,
            sequence: start.sequence,
            facts: Vec::new(),
        }
    }

    /// Ends the batch: its index changes, to be committed once `parts` are synced.
    pub fn finish(mut self) -> Result<(Txn<'a>, Finished), KvError> {
        self.flush_facts()?;
        let finished = Finished {
            parts: self.parts,
            items: self.items,
            end: self.end,
            sequence: self.sequence,
        };
        Ok((self.txn, finished))
    }

    /// Holds `op` against the rules and appends what it asks for.
    pub fn admit(&mut self, op: &Op) -> Result<Reply, Refusal> {
        // Notes of what is done already (`Forget`, `Punched`) write no record.
        let writes = !matches!(op, Op::Forget { .. } | Op::Punched { .. });
        let planned = self.end - self.start.end;
        if writes && !self.budget.fits(planned, op.queue_bytes(), &self.options.marks) {
            let available_bytes = self.budget.available_bytes.saturating_sub(planned);
            return Err(DriveError::NoSpace { available_bytes }.into());
        }
        match op {
            Op::Put(put) => Ok(Reply::Put(self.put(put)?)),
            Op::Fence { pg, epoch } => Ok(Reply::Epoch(self.fence(*pg, *epoch)?)),
            Op::Tombstone(blocks) => self.tombstone(blocks),
            Op::DropTombstones { blocks, floors } => self.drop_tombstones(blocks, floors),
            Op::CloseSession { sessions, session } => self.close_session(*sessions, *session),
            Op::RaiseFloor { sessions, floor } => self.raise_floor(*sessions, *floor),
            Op::Trash { keys, stamped_before } => self.trash(keys, *stamped_before),
            Op::Restore(keys) => self.restore(keys),
            Op::Purge(entries) => self.purge(entries),
            Op::Copy(copy) => self.copy(copy),
            Op::Relog { victim, pgs, facts } => self.relog(*victim, pgs, facts),
            Op::Forget { segment } => {
                self.txn.delete(index::SEGMENTS, index::segment_key(*segment));
                Ok(Reply::Count(1))
            }
            Op::Punched { segment, offset, bytes } => self.punched(*segment, *offset, *bytes),
        }
    }

    fn put(&mut self, put: &PutOp) -> Result<PutAck, Refusal> {
        let write = &put.write;
        let block = write.header.block;
        let key = ShardKey { block, index: write.header.index };
        if self.txn.tombstone(block)?.is_some() {
            return Err(DriveError::Tombstoned(block).into());
        }
        self.check_epoch(write.pg, write.epoch)?;
        match write.fill {
            Some(session) => {
                if self.txn.is_closed(Sessions::Fills(write.pg), session.0)? {
                    return Err(DriveError::FillSessionClosed { pg: write.pg, session }.into());
                }
            }
            None => {
                if self.txn.is_closed(Sessions::Writers(block.group), block.session.0)? {
                    let (group, session) = (block.group, block.session);
                    return Err(DriveError::SessionClosed { group, session }.into());
                }
            }
        }
        if let Some(row) = self.txn.shard(key)? {
            return self.put_again(put, key, &row);
        }
        let disk_bytes = align_up((head_bytes(put.header.len()) + write.body.len()) as u64);
        let planned = self.end - self.start.end;
        if !self.budget.admits(planned, disk_bytes, write.class, self.options) {
            let available_bytes = self.budget.available_bytes.saturating_sub(planned);
            return Err(DriveError::NoSpace { available_bytes }.into());
        }
        self.adopt_epoch(write.pg, write.epoch)?;
        let head = RecordHead {
            kind: RecordKind::Shard,
            epoch: write.epoch.0,
            fill: write.fill.map(|session| session.0),
            pg: write.pg.0,
            body_crc: put.body_crc,
            body_bytes: write.body.len() as u64,
            shard_header: put.header.to_vec(),
            ..self.blank_head()
        };
        self.append_shard(head, key, put.digest, write.body.clone())?;
        Ok(PutAck { epoch: write.epoch, existed: false })
    }

    /// R3: the shard is here already.
    fn put_again(&mut self, put: &PutOp, key: ShardKey, row: &ShardRow) -> Result<PutAck, Refusal> {
        if row.digest != put.digest {
            return Err(DriveError::DigestConflict(key).into());
        }
        let write = &put.write;
        self.adopt_epoch(write.pg, write.epoch)?;
        let newer = row.pg != write.pg || row.epoch < write.epoch;
        let epoch = if newer { write.epoch } else { row.epoch };
        if newer || row.trashed_ms.is_some() {
            self.stamp(key, row, write.pg, epoch, None)?;
        }
        Ok(PutAck { epoch, existed: true })
    }

    fn fence(&mut self, pg: PgId, epoch: Epoch) -> Result<Epoch, Refusal> {
        self.check_epoch(pg, epoch)?;
        self.adopt_epoch(pg, epoch)?;
        Ok(epoch)
    }

    fn check_epoch(&self, pg: PgId, given: Epoch) -> Result<(), Refusal> {
        let known = self.txn.epoch(pg)?;
        if given < known {
            return Err(DriveError::StaleEpoch { pg, given, known }.into());
        }
        Ok(())
    }

    fn adopt_epoch(&mut self, pg: PgId, epoch: Epoch) -> Result<(), KvError> {
        if epoch > self.txn.epoch(pg)? {
            self.fact(Fact::Epoch { pg, epoch })?;
        }
        Ok(())
    }

    fn tombstone(&mut self, blocks: &[BlockId]) -> Result<Reply, Refusal> {
        let mut killed = 0;
        for block in blocks {
            if self.txn.tombstone(*block)?.is_none() {
                self.fact(Fact::Tombstone { block: *block })?;
            }
            for key in self.txn.shards_of(*block)? {
                if let Some(row) = self.txn.shard(key)? {
                    self.dead(key, &row)?;
                    killed += 1;
                }
            }
        }
        Ok(Reply::Count(killed))
    }

    fn drop_tombstones(
        &mut self,
        blocks: &[BlockId],
        floors: &[SessionFloor],
    ) -> Result<Reply, Refusal> {
        for block in blocks {
            let closed_by_floor = floors
                .iter()
                .any(|floor| floor.group == block.group && block.session < floor.floor);
            let sessions = Sessions::Writers(block.group);
            if !closed_by_floor && !self.txn.is_closed(sessions, block.session.0)? {
                return Err(DriveError::SessionOpen(*block).into());
            }
        }
        for SessionFloor { group, floor } in floors {
            self.raise_floor(Sessions::Writers(*group), floor.0)?;
        }
        let mut dropped = 0;
        for block in blocks {
            if let Some(segment) = self.txn.tombstone(*block)? {
                self.fact(Fact::TombstoneDropped { block: *block, segment })?;
                dropped += 1;
            }
        }
        Ok(Reply::Count(dropped))
    }

    fn close_session(&mut self, sessions: Sessions, session: u64) -> Result<Reply, Refusal> {
        if self.txn.is_closed(sessions, session)? {
            return Ok(Reply::Count(0));
        }
        self.fact(match sessions {
            Sessions::Writers(group) => {
                Fact::SessionClosed { group, session: nexusgrid_codec::SessionId(session) }
            }
            Sessions::Fills(pg) => {
                Fact::FillClosed { pg, session: crate::types::FillSessionId(session) }
            }
        })?;
        Ok(Reply::Count(1))
    }

    fn raise_floor(&mut self, sessions: Sessions, floor: u64) -> Result<Reply, Refusal> {
        if floor <= self.txn.floor(sessions)? {
            return Ok(Reply::Count(0));
        }
        self.fact(match sessions {
            Sessions::Writers(group) => {
                Fact::SessionFloor { group, floor: nexusgrid_codec::SessionId(floor) }
            }
            Sessions::Fills(pg) => {
                Fact::FillFloor { pg, floor: crate::types::FillSessionId(floor) }
            }
        })?;
        Ok(Reply::Count(1))
    }

    fn trash(
        &mut self,
        keys: &[ShardKey],
        stamped_before: Option<(PgId, Epoch)>,
    ) -> Result<Reply, Refusal> {
        let mut trashed = 0;
        for key in keys {
            let Some(row) = self.txn.shard(*key)? else { continue };
            let stamp_allows =
                stamped_before.is_none_or(|(pg, epoch)| row.pg == pg && row.epoch < epoch);
            if row.trashed_ms.is_none() && stamp_allows {
                self.stamp(*key, &row, row.pg, row.epoch, Some(self.start.age_ms))?;
                trashed += 1;
            }
        }
        Ok(Reply::Count(trashed))
    }

    fn restore(&mut self, keys: &[ShardKey]) -> Result<Reply, Refusal> {
        let mut restored = 0;
        for key in keys {
            let trashed = self.txn.shard(*key)?.filter(|row| row.trashed_ms.is_some());
            if let Some(row) = trashed {
                self.stamp(*key, &row, row.pg, row.epoch, None)?;
                restored += 1;
            }
        }
        Ok(Reply::Count(restored))
    }

    fn purge(&mut self, entries: &[(u64, ShardKey)]) -> Result<Reply, Refusal> {
        let mut purged = 0;
        for (time, key) in entries {
            let due = self.txn.shard(*key)?.filter(|row| row.trashed_ms == Some(*time));
            if let Some(row) = due {
                self.dead(*key, &row)?;
                purged += 1;
            }
        }
        Ok(Reply::Count(purged))
    }

    /// Appends the copy only if the record is still live where it was read: what died meanwhile
    /// must not be born again (L3).
    fn copy(&mut self, copy: &CopyOp) -> Result<Reply, Refusal> {
        let live = self.txn.shard(copy.key)?.filter(|row| {
            row.segment == copy.segment && row.offset == copy.offset && row.born == copy.head.born
        });
        let Some(row) = live else { return Ok(Reply::Count(0)) };
        let blank = self.blank_head();
        let head = RecordHead {
            kind: RecordKind::Shard,
            born: row.born,
            age_ms: row.trashed_ms.unwrap_or(blank.age_ms),
            epoch: row.epoch.0,
            trashed: row.trashed_ms.is_some(),
            pg: row.pg.0,
            body_crc: copy.head.body_crc,
            body_bytes: copy.body.len() as u64,
            shard_header: copy.head.shard_header.clone(),
            ..blank
        };
        self.append_shard(head, copy.key, row.digest, copy.body.clone())?;
        Ok(Reply::Count(1))
    }

    /// Writes again what of a segment's facts still matters; see [`Fact`] for each.
    fn relog(&mut self, victim: u64, pgs: &[PgId], facts: &[Fact]) -> Result<Reply, Refusal> {
        let mut kept = 0;
        for pg in pgs {
            let epoch = self.txn.epoch(*pg)?;
            if epoch > Epoch(0) {
                self.fact(Fact::Epoch { pg: *pg, epoch })?;
                kept += 1;
            }
        }
        for fact in facts {
            if let Some(fact) = self.still_needed(victim, fact)? {
                self.fact(fact)?;
                kept += 1;
            }
        }
        Ok(Reply::Count(kept))
    }

    fn still_needed(&self, victim: u64, fact: &Fact) -> Result<Option<Fact>, KvError> {
        let exists = |segment: u64| -> Result<bool, KvError> {
            Ok(segment != victim && self.txn.segment(segment)?.is_some())
        };
        let keep = match fact {
            // Written again through `pgs`.
            Fact::Epoch { .. } => false,
            Fact::SessionFloor { group, floor } => {
                self.txn.floor(Sessions::Writers(*group))? == floor.0
            }
            Fact::FillFloor { pg, floor } => self.txn.floor(Sessions::Fills(*pg))? == floor.0,
            Fact::SessionClosed { group, session } => {
                session.0 >= self.txn.floor(Sessions::Writers(*group))?
            }
            Fact::FillClosed { pg, session } => {
                session.0 >= self.txn.floor(Sessions::Fills(*pg))?
            }
            Fact::Tombstone { block } => self.txn.tombstone(*block)? == Some(victim),
            Fact::TombstoneDropped { segment, .. } => exists(*segment)?,
            Fact::Dead { key, born, segments } => {
                let mut left = Vec::new();
                for segment in segments {
                    if exists(*segment)? {
                        left.push(*segment);
                    }
                }
                let dead = Fact::Dead { key: *key, born: *born, segments: left.clone() };
                return Ok((!left.is_empty()).then_some(dead));
            }
            Fact::Stamp { key, born, pg, epoch, trashed_ms } => {
                self.txn.shard(*key)?.is_some_and(|row| {
                    row.born == *born
                        && row.pg == *pg
                        && row.epoch == *epoch
                        && row.trashed_ms == *trashed_ms
                })
            }
        };
        Ok(keep.then(|| fact.clone()))
    }

    fn punched(&mut self, segment: u64, offset: u64, bytes: u64) -> Result<Reply, Refusal> {
        self.txn.delete(index::HOLES, index::hole_key(segment, offset));
        if let Some(mut row) = self.txn.segment(segment)? {
            row.punched_bytes += bytes;
            self.txn.put_segment(segment, &row);
        }
        Ok(Reply::Count(1))
    }

    fn stamp(
        &mut self,
        key: ShardKey,
        row: &ShardRow,
        pg: PgId,
        epoch: Epoch,
        trashed_ms: Option<u64>,
    ) -> Result<(), KvError> {
        self.fact(Fact::Stamp { key, born: row.born, pg, epoch, trashed_ms })
    }

    fn dead(&mut self, key: ShardKey, row: &ShardRow) -> Result<(), KvError> {
        let mut segments = vec![row.segment];
        for segment in &row.stale {
            if self.txn.segment(*segment)?.is_some() {
                segments.push(*segment);
            }
        }
        self.fact(Fact::Dead { key, born: row.born, segments })
    }

    /// Folds the fact at once, so that the next operation sees it, and buffers it for its record.
    fn fact(&mut self, fact: Fact) -> Result<(), KvError> {
        fold::apply_fact(&mut self.txn, self.start.segment, &fact, self.options.punch_min_bytes)?;
        self.facts.push(fact);
        if self.facts.len() >= FACTS_PER_RECORD_MAX {
            self.flush_facts()?;
        }
        Ok(())
    }

    fn flush_facts(&mut self) -> Result<(), KvError> {
        if self.facts.is_empty() {
            return Ok(());
        }
        let facts = std::mem::take(&mut self.facts);
        let body = Bytes::from(log::encode_facts(&facts));
        let head = RecordHead {
            kind: RecordKind::Facts,
            body_crc: crc32c::crc32c(&body),
            body_bytes: body.len() as u64,
            ..self.blank_head()
        };
        let item = LogItem::Facts(FactsEntry {
            offset: head.offset,
            disk_bytes: head.disk_bytes(),
            sequence: head.sequence,
            age_ms: head.age_ms,
            facts,
        });
        fold::advance(&mut self.txn, self.start.segment, &item)?;
        self.append(&head, body, item);
        Ok(())
    }

    fn append_shard(
        &mut self,
        head: RecordHead,
        key: ShardKey,
        digest: [u8; 32],
        body: Bytes,
    ) -> Result<(), KvError> {
        // Facts asked for before this shard stand before it in the log.
        self.flush_facts()?;
        let (offset, sequence) = (self.end, self.sequence);
        let copy = head.born != head.sequence;
        let born = if copy { head.born } else { sequence };
        let head = RecordHead { offset, sequence, born, ..head };
        let item = LogItem::Shard(ShardEntry {
            key,
            offset,
            head_bytes: head.head_bytes() as u32,
            body_bytes: head.body_bytes,
            sequence,
            born,
            pg: PgId(head.pg),
            epoch: Epoch(head.epoch),
            trashed_ms: head.trashed.then_some(head.age_ms),
            digest,
        });
        fold::apply(&mut self.txn, self.start.segment, &item, self.options.punch_min_bytes)?;
        self.append(&head, body, item);
        Ok(())
    }

    fn append(&mut self, head: &RecordHead, body: Bytes, item: LogItem) {
        let used = head.head_bytes() as u64 + head.body_bytes;
        let padding = (head.disk_bytes() - used) as usize;
        self.parts.push(Bytes::from(head.encode()));
        self.parts.push(body);
        self.parts.push(Bytes::from_static(&ZEROES).slice(..padding));
        self.end += head.disk_bytes();
        self.sequence += 1;
        self.items.push(item);
    }

    /// A head at the batch's end, of no particular kind.
    fn blank_head(&self) -> RecordHead {
        RecordHead {
            kind: RecordKind::Facts,
            uuid: self.start.uuid,
            offset: self.end,
            sequence: self.sequence,
            born: self.sequence,
            synced: self.start.end,
            age_ms: self.start.age_ms,
            epoch: 0,
            fill: None,
            trashed: false,
            pg: 0,
            body_crc: 0,
            body_bytes: 0,
            shard_header: Vec::new(),
        }
    }
}

/// What a batch writes.
pub struct Finished {
    /// Contiguous bytes for the active segment.
    pub parts: Vec<Bytes>,
    /// The records in them.
    pub items: Vec<LogItem>,
    /// Where they end.
    pub end: u64,
    /// The next free sequence.
    pub sequence: u64,
}
