//! What mounts may remember of what they asked, and which rows that rests on.
//!
//! Of the rows that an answer was read from some say nothing that is in it, and change all the time: the bucket's, with
//! its counters, and that of the directory in which a name was looked up, with its times. What matters of the directory is
//! where it is: that changes when it is moved or goes.
#![deny(clippy::indexing_slicing)]

use super::super::rows;
use super::super::types::{BucketId, Ino, PosixQuery};
use super::rows as own;
use crate::machine::RestsOn;

/// As [`crate::StateMachine::may_be_remembered`].
pub(in super::super) fn may_be_remembered(bucket: BucketId, query: PosixQuery) -> Option<RestsOn> {
    let of_bucket = rows::bucket(bucket);
    match query {
        PosixQuery::Node { .. } | PosixQuery::Xattr { .. } | PosixQuery::Map { .. } => {
            // Whatever writes to a file changes its own row; whatever moves its bytes changes the pages that it had.
            let scans = matches!(query, PosixQuery::Map { .. });
            let row = move |family: &str, key: &[u8]| family != rows::STATE || key != of_bucket;
            Some(RestsOn { row: Box::new(row), scans })
        }
        PosixQuery::Lookup { parent, .. } => {
            let entries = rows::dir_prefix(bucket, rows::DirId(parent.0)).done();
            let root = own::place(bucket, Ino::ROOT);
            let row = move |family: &str, key: &[u8]| match family {
                rows::TREE => key.starts_with(&entries),
                _ => key != of_bucket && (parent != Ino::ROOT || key != root),
            };
            Some(RestsOn { row: Box::new(row), scans: false })
        }
        PosixQuery::Entries { .. }
        | PosixQuery::Xattrs { .. }
        | PosixQuery::Holds { .. }
        | PosixQuery::Conflict { .. } => None,
    }
}
