//! The reference: a bucket is a map from keys to bytes.

use std::collections::BTreeMap;

use nexusgrid_env::kv::prefix_end;

use super::support::etag;
use crate::namespace::types::*;

/// A bucket.
pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Whether a precondition holds, by the words of S3.
pub fn holds(model: &Model, key: &[u8], precondition: &Precondition) -> Result<(), NamespaceError> {
    let current = model.get(key).map(|bytes| etag(bytes));
    let failed = Err(NamespaceError::PreconditionFailed);
    match (precondition, current) {
        (Precondition::None, _) => Ok(()),
        (Precondition::Absent, None) => Ok(()),
        (Precondition::Absent, Some(_)) => failed,
        (Precondition::Present | Precondition::EtagIs(_), None) => Err(NamespaceError::NoSuchKey),
        (Precondition::Present, Some(_)) => Ok(()),
        (Precondition::EtagIs(want), Some(is)) => {
            if *want == is {
                Ok(())
            } else {
                failed
            }
        }
        (Precondition::EtagIsNot(_), None) => Ok(()),
        (Precondition::EtagIsNot(want), Some(is)) => {
            if *want != is {
                Ok(())
            } else {
                failed
            }
        }
        (Precondition::ContentIs(_) | Precondition::IfAny(_), _) => unreachable!("not generated"),
    }
}

/// A line of a listing: is it a prefix, and which.
pub type Line = (bool, Vec<u8>);

/// Lists by going through all keys. The second: whether there is more.
pub fn list(
    model: &Model,
    prefix: &[u8],
    delimiter: Option<&[u8]>,
    after: Option<&ListAfter>,
    limit: usize,
) -> (Vec<Line>, bool) {
    let mut lines: Vec<Line> = Vec::new();
    for key in model.keys().filter(|key| key.starts_with(prefix)) {
        let is_after = match after {
            None => true,
            Some(ListAfter::Key(after)) => key > after,
            Some(ListAfter::Prefix(done)) => prefix_end(done).is_some_and(|end| *key >= end),
        };
        if !is_after {
            continue;
        }
        let rest = &key[prefix.len()..];
        let common = delimiter.and_then(|delimiter| {
            let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
            Some(key[..prefix.len() + at + delimiter.len()].to_vec())
        });
        let line = match common {
            Some(common) => (true, common),
            None => (false, key.clone()),
        };
        if lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    let more = lines.len() > limit;
    lines.truncate(limit);
    (lines, more)
}

/// The same of what the machine answers.
pub fn lines(listing: &Listing) -> (Vec<Line>, bool) {
    let lines = listing.entries.iter().map(|entry| match entry {
        ListEntry::Object(key, _) => (false, key.clone()),
        ListEntry::Prefix(prefix) => (true, prefix.clone()),
    });
    (lines.collect(), listing.next.is_some())
}
