//! What lifecycle rules did, for those whom a bucket tells: noted in the command that did it, kept until
//! somebody says that it cannot be lost any more.
//!
//! So a crash anywhere between the two loses nothing; what was told and not yet forgotten is told again.
#![deny(clippy::indexing_slicing)]

use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::{Change, Step, corrupt};
use super::rows::{self, EndRow};
use super::types::{BucketId, End, EndMark, NamespaceAnswer, NamespaceOk};
use crate::rows::tx::{Tx, decode_row};

impl Change<'_> {
    /// Says whether what lifecycle rules do in a bucket is told.
    pub(super) fn tell_ends(&mut self, bucket: BucketId, told: bool) -> Step<NamespaceOk> {
        self.bucket(bucket)?;
        if told {
            self.tx.store(rows::STATE, rows::tells(bucket), &self.sequence);
        } else {
            self.tx.delete(rows::STATE, rows::tells(bucket));
        }
        Ok(NamespaceOk::Done)
    }

    /// Notes what lifecycle rules did, if it is told.
    pub(super) fn note_end(&mut self, end: End) -> Step<()> {
        if self.tx.get(rows::STATE, &rows::tells(end.bucket))?.is_some() {
            let mark = EndMark { sequence: self.sequence, ordinal: self.ends };
            self.ends += 1;
            let row = EndRow { sequence: self.sequence, end };
            self.tx.store(rows::STATE, rows::end(mark), &row);
        }
        Ok(())
    }

    /// Forgets what was told, as many as one step may.
    pub(super) fn forget_ends(&mut self, through: EndMark) -> Step<NamespaceOk> {
        let (begin, last) = (rows::ends(), rows::end(through));
        let end = [last.as_slice(), &[0]].concat();
        let found = self.tx.scan(rows::STATE, &begin, Some(&end), limits::ENDS_MAX as usize)?;
        for (key, _) in found {
            self.tx.delete(rows::STATE, key.to_vec());
        }
        Ok(NamespaceOk::Done)
    }
}

/// The oldest that were not forgotten.
pub(super) fn oldest(tx: &Tx<'_>, limit: usize) -> Step<NamespaceAnswer> {
    let begin = rows::ends();
    let found = tx.scan(rows::STATE, &begin, prefix_end(&begin).as_deref(), limit)?;
    let one = |(key, value): &(bytes::Bytes, bytes::Bytes)| {
        let mark = rows::parse_end(key).ok_or_else(|| corrupt("key of what ended"))?;
        let row: EndRow = decode_row(rows::STATE, value)?;
        Ok((mark, row.end))
    };
    Ok(NamespaceAnswer::Ends(found.iter().map(one).collect::<Step<_>>()?))
}
