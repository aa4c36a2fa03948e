//! Admission: each operation, held against the rules at its place in the log, becomes records.
//!
//! Keeps R1 (no older epoch; a newer one is adopted), R3 (idempotent re-acknowledgement with a
//! durable stamp; another digest is refused, I3), R4 (no closed fill session), R5 (no deleted
//! block), R6 (no closed writer session; a tombstone goes only when that holds), R7 (only shards
//! stamped before the epoch are trashed). A refused operation leaves no trace: checks come first.

use nexusgrid_codec::{BlockId, DriveId, Epoch, PgId};
use nexusgrid_env::{Invariant, KvError, Rule};

use crate::draft::Draft;
use crate::error::DriveError;
use crate::index::{self, Sessions, ShardRow};
use crate::log::Fact;
use crate::op::{CopyOp, Op, PutOp, Refusal, Reply, StoredBefore};
use crate::record::{RecordHead, RecordKind, align_up, head_bytes};
use crate::types::{PutAck, SessionFloor, ShardKey};

impl Draft<'_> {
    /// Holds `op` against the rules and appends what it asks for.
    pub fn admit(&mut self, op: &Op) -> Result<Reply, Refusal> {
        // Notes of what is done already (`Forget`, `Punched`) write no record.
        let writes = !matches!(op, Op::Forget { .. } | Op::Punched { .. } | Op::Seal { .. });
        let planned = self.end - self.start.end;
        if writes && !self.budget.fits(planned, op.queue_bytes(), &self.options.marks) {
            let available_bytes = self.budget.available_bytes.saturating_sub(planned);
            return Err(DriveError::NoSpace { available_bytes }.into());
        }
        match op {
            Op::Put(put) => self.put(put),
            Op::Fence { pg, epoch } => Ok(Reply::Epoch(self.fence(*pg, *epoch)?)),
            Op::Tombstone { pg, blocks } => self.tombstone(*pg, blocks),
            Op::DropTombstones { blocks, floors } => self.drop_tombstones(blocks, floors),
            Op::CloseSession { sessions, session } => self.close_session(*sessions, *session),
            Op::RaiseFloor { sessions, floor } => self.raise_floor(*sessions, *floor),
            Op::Trash { keys, stamped_before } => self.trash(keys, *stamped_before),
            Op::Restore(keys) => self.restore(keys),
            Op::Purge(entries) => self.purge(entries),
            Op::Rotten { key, born, readable } => self.rotten(*key, *born, *readable),
            Op::Copy(copy) => self.copy(copy),
            Op::Relog { victim, pgs, facts } => self.relog(*victim, pgs, facts),
            Op::Forget { segment } => {
                self.txn.delete(index::SEGMENTS, index::segment_key(*segment));
                Ok(Reply::Count(1))
            }
            Op::Punched { segment, offset, bytes } => self.punched(*segment, *offset, *bytes),
            // The writer's own matter, once the batch is written.
            Op::Seal { .. } => Ok(Reply::Count(1)),
        }
    }

    fn put(&mut self, put: &PutOp) -> Result<Reply, Refusal> {
        let write = &put.write;
        let block = write.header.block;
        let key = ShardKey { block, index: write.header.index };
        if self.txn.tombstone(block)?.is_some() {
            return Err(DriveError::Tombstoned(block).into());
        }
        self.check_epoch(write.pg, write.epoch)?;
        match write.fill {
            Some(session) => {
                let closed = self.txn.is_closed(Sessions::Fills(write.pg), session.0)?;
                if closed && self.env.rules.keeps(Rule::FillSession) {
                    return Err(DriveError::FillSessionClosed { pg: write.pg, session }.into());
                }
            }
            None => {
                let closed = self.txn.is_closed(Sessions::Writers(block.group), block.session.0)?;
                if closed && self.env.rules.keeps(Rule::SessionFloor) {
                    let (group, session) = (block.group, block.session);
                    return Err(DriveError::SessionClosed { group, session }.into());
                }
            }
        }
        let stored = self.txn.shard(key)?;
        if let Some(row) = &stored {
            let same = row.digest == put.digest;
            self.env
                .invariants
                .check(Invariant::I3, same, || format!("{key:?} on {:?}", self.drive));
            if !same {
                return Err(DriveError::DigestConflict(key).into());
            }
            match put.stored {
                StoredBefore::Unknown => return Ok(Reply::Examine),
                StoredBefore::Bad(born) if born == row.born => {}
                StoredBefore::Bad(_) | StoredBefore::Sound => {
                    return Ok(Reply::Put(self.put_again(put, key, row)?));
                }
            }
        }
        let disk_bytes = align_up((head_bytes(put.header.len()) + write.body.len()) as u64);
        let planned = self.end - self.start.end;
        if !self.budget.admits(planned, disk_bytes, write.class, self.options) {
            let available_bytes = self.budget.available_bytes.saturating_sub(planned);
            return Err(DriveError::NoSpace { available_bytes }.into());
        }
        self.adopt_epoch(write.pg, write.epoch)?;
        let mut epoch = write.epoch;
        if let Some(row) = &stored {
            // Bytes that rotted give way; without their death a rebuilt index could find them again.
            self.dead(key, row)?;
            if row.pg == write.pg {
                epoch = epoch.max(row.epoch);
            }
        }
        let head = RecordHead {
            kind: RecordKind::Shard,
            epoch: epoch.0,
            fill: write.fill.map(|session| session.0),
            pg: write.pg.0,
            body_crc: put.body_crc,
            body_bytes: write.body.len() as u64,
            shard_header: put.header.to_vec(),
            ..self.blank_head()
        };
        self.append_shard(head, key, put.digest, write.body.clone())?;
        Ok(Reply::Put(PutAck { epoch, existed: false }))
    }

    /// R3: the shard is here already, and verifies.
    fn put_again(&mut self, put: &PutOp, key: ShardKey, row: &ShardRow) -> Result<PutAck, Refusal> {
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
        self.env.invariants.not_below(Invariant::I5, &epoch_key(self.drive, pg), known.0);
        if given < known && self.env.rules.keeps(Rule::DriveFence) {
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

    fn tombstone(&mut self, pg: PgId, blocks: &[BlockId]) -> Result<Reply, Refusal> {
        let mut killed = 0;
        for block in blocks {
            if self.txn.tombstone(*block)?.is_none() {
                self.fact(Fact::Tombstone { block: *block, pg })?;
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
            if let Some(segment) = self.txn.tombstone(*block)?.map(|row| row.segment) {
                let is_gone = self.txn.shards_of(*block)?.is_empty();
                self.env.invariants.check(Invariant::I9, is_gone, || {
                    format!("drive {} holds {block} beside its tombstone", self.drive.0)
                });
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
        self.fact(sessions.closed_fact(session))?;
        Ok(Reply::Count(1))
    }

    fn raise_floor(&mut self, sessions: Sessions, floor: u64) -> Result<Reply, Refusal> {
        if floor <= self.txn.floor(sessions)? {
            return Ok(Reply::Count(0));
        }
        self.fact(sessions.floor_fact(floor))?;
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

    fn purge(&mut self, entries: &[(Option<u64>, ShardKey)]) -> Result<Reply, Refusal> {
        let mut purged = 0;
        for (time, key) in entries {
            let due = self.txn.shard(*key)?.filter(|row| match time {
                Some(time) => row.trashed_ms == Some(*time),
                None => row.trashed_ms.is_some(),
            });
            if let Some(row) = due {
                self.dead(*key, &row)?;
                purged += 1;
            }
        }
        Ok(Reply::Count(purged))
    }

    fn rotten(&mut self, key: ShardKey, born: u64, readable: bool) -> Result<Reply, Refusal> {
        let Some(row) = self.txn.shard(key)?.filter(|row| row.born == born) else {
            return Ok(Reply::Count(0));
        };
        if readable && row.trashed_ms.is_none() {
            self.stamp(key, &row, row.pg, row.epoch, Some(self.start.age_ms))?;
        } else {
            self.dead(key, &row)?;
        }
        Ok(Reply::Count(1))
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
            Fact::Tombstone { block, .. } => {
                self.txn.tombstone(*block)?.is_some_and(|row| row.segment == victim)
            }
            Fact::TombstoneDropped { block, segment } => {
                exists(*segment)?
                    && self.txn.tombstone(*block)?.is_none_or(|row| row.segment != *segment)
            }
            Fact::Dead { key, born, segments } => {
                if self.txn.shard(*key)?.is_some_and(|row| row.born == *born) {
                    return Ok(None);
                }
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
}

/// Under what a simulated world remembers the epoch that a drive acknowledged (I5).
pub(crate) fn epoch_key(drive: DriveId, pg: PgId) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&drive.0.to_be_bytes());
    key[8..].copy_from_slice(&u64::from(pg.0).to_be_bytes());
    key
}
