//! A batch in the making: operations become records, and the index follows them at once, so that the
//! next operation of the batch sees what this one did.

use bytes::Bytes;
use nexusgrid_codec::{DriveId, Epoch, PgId};
use nexusgrid_env::{Env, KvError};

use crate::fold;
use crate::index::{Meta, ShardRow};
use crate::limits::RECORD_ALIGN;
use crate::log::{self, Fact, FactsEntry, LogItem, ShardEntry};
use crate::options::DriveOptions;
use crate::record::{RecordHead, RecordKind};
use crate::space::Budget;
use crate::txn::Txn;
use crate::types::ShardKey;

/// Facts that one record holds; further ones begin another.
const FACTS_PER_RECORD_MAX: usize = 4096;

static ZEROES: [u8; RECORD_ALIGN as usize] = [0; RECORD_ALIGN as usize];

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
    pub(crate) env: &'a Env,
    /// The drive, for what must hold over its restarts.
    pub(crate) drive: DriveId,
    pub(crate) txn: Txn<'a>,
    pub(crate) options: &'a DriveOptions,
    pub(crate) budget: Budget,
    pub(crate) start: Start,
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
        (env, drive): (&'a Env, DriveId),
        kv: &'a dyn nexusgrid_env::Kv,
        options: &'a DriveOptions,
        budget: Budget,
        start: Start,
    ) -> Draft<'a> {
        Draft {
            env,
            drive,
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

    /// Gives a live record a stamp.
    pub(crate) fn stamp(
        &mut self,
        key: ShardKey,
        row: &ShardRow,
        pg: PgId,
        epoch: Epoch,
        trashed_ms: Option<u64>,
    ) -> Result<(), KvError> {
        self.fact(Fact::Stamp { key, born: row.born, pg, epoch, trashed_ms })
    }

    /// Ends a live record.
    pub(crate) fn dead(&mut self, key: ShardKey, row: &ShardRow) -> Result<(), KvError> {
        let mut segments = vec![row.segment];
        for segment in &row.stale {
            if self.txn.segment(*segment)?.is_some() {
                segments.push(*segment);
            }
        }
        self.fact(Fact::Dead { key, born: row.born, segments })
    }

    /// Folds the fact at once, so that the next operation sees it, and buffers it for its record.
    pub(crate) fn fact(&mut self, fact: Fact) -> Result<(), KvError> {
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

    /// Appends a shard's record.
    pub(crate) fn append_shard(
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
    pub(crate) fn blank_head(&self) -> RecordHead {
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
