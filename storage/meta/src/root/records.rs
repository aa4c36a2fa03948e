//! Records: small documents of the gateways, by path.
//!
//! Identities (`account/…`), and what owners lay down for their buckets (`bucket/ID/…`). Their
//! content is the gateways' business; what counts here is that several change together or not at
//! all, and only if they are still what the writer has read. Every change gives the map a new
//! *rules version*: whoever keeps records knows by it that they may be old.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;

use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::{Change, Step, full, invalid};
use super::rows::{self, ROOT, RecordRow, RulesRow};
use super::types::{InvalidField, RecordWrite, RootError, RootOk};
use crate::namespace::types::BucketId;

/// Where the records of a bucket are, beginning of their paths.
pub fn bucket_records(bucket: BucketId) -> String {
    format!("bucket/{}/", bucket.0)
}

fn check_path(path: &str) -> Step<()> {
    let is_good = (1..=limits::RECORD_PATH_BYTES_MAX).contains(&path.len())
        && path.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if is_good { Ok(()) } else { Err(invalid(InvalidField::Record)) }
}

impl Change<'_> {
    pub(super) fn write_records(&mut self, index: u64, writes: Vec<RecordWrite>) -> Step<RootOk> {
        if writes.is_empty() || writes.len() > limits::RECORD_WRITES_MAX {
            return Err(invalid(InvalidField::Record));
        }
        let mut seen = BTreeSet::new();
        let mut rules: RulesRow = self.tx.load(ROOT, &rows::rules())?.unwrap_or_default();
        for write in writes {
            check_path(&write.path)?;
            if !seen.insert(write.path.clone()) {
                return Err(invalid(InvalidField::Record));
            }
            let key = rows::record(&write.path);
            let row: Option<RecordRow> = self.tx.load(ROOT, &key)?;
            let found = row.as_ref().map(|row| row.revision);
            if write.expect.is_some_and(|expected| found.unwrap_or(0) != expected) {
                return Err(RootError::RecordChanged.into());
            }
            match write.value {
                Some(value) => {
                    if value.len() > limits::RECORD_BYTES_MAX {
                        return Err(full(InvalidField::Record));
                    }
                    if row.is_none() {
                        rules.records += 1;
                    }
                    self.tx.store(ROOT, key, &RecordRow { revision: index, value });
                }
                None if row.is_some() => {
                    rules.records = rules.records.saturating_sub(1);
                    self.tx.delete(ROOT, key);
                }
                None => {}
            }
        }
        if rules.records > limits::RECORDS_MAX {
            return Err(full(InvalidField::Record));
        }
        self.rules_changed(index, rules);
        Ok(RootOk::Done)
    }

    fn rules_changed(&mut self, index: u64, rules: RulesRow) {
        self.tx.store(ROOT, rows::rules(), &RulesRow { version: index, ..rules });
        self.map_changed = true;
    }

    /// A key is gone: whoever keeps principals reads them again.
    pub(super) fn note_rules_change(&mut self, index: u64) -> Step<()> {
        let rules: RulesRow = self.tx.load(ROOT, &rows::rules())?.unwrap_or_default();
        self.rules_changed(index, rules);
        Ok(())
    }

    /// A bucket is gone: what was laid down for it goes, too.
    pub(super) fn drop_bucket_records(&mut self, index: u64, bucket: BucketId) -> Step<()> {
        let start = rows::record(&bucket_records(bucket));
        let found = self.tx.scan(ROOT, &start, prefix_end(&start).as_deref(), usize::MAX)?;
        if found.is_empty() {
            return Ok(());
        }
        let mut rules: RulesRow = self.tx.load(ROOT, &rows::rules())?.unwrap_or_default();
        for (key, _) in found {
            rules.records = rules.records.saturating_sub(1);
            self.tx.delete(ROOT, key.to_vec());
        }
        self.rules_changed(index, rules);
        Ok(())
    }
}
