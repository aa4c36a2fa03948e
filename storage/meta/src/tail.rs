//! What a group decided behind a checkpoint, as bytes, and once more into the checkpoint's rows.
//!
//! ```text
//!   log ──entries (after, end]──▶ LogTail ──encode──▶ sealed, kept elsewhere
//!   rows of a checkpoint at `after` ──the same commands, in the same order──▶ rows at `end`
//! ```
//! State machines are pure, so that the same commands give the same rows (`crate::machine`). A command
//! that was asked again and answered from a kept reply changed nothing: it stands here as nothing, for
//! whoever restores a checkpoint has no kept replies. A tail fits only where term and index of what
//! came before say so: two histories of one group never mix.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{KvError, KvRead};
use serde::{Deserialize, Serialize};

use crate::export::NotAnExport;
use crate::machine::{Applied, ApplyContext, StateMachine};
use crate::rows::codec;

/// A place in a group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPlace {
    /// Index of an entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What an entry did.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Deed {
    /// Nothing to the machine's rows: a leader's first entry, or a command asked again.
    Nothing,
    /// Changed the members; none has a higher generation (I15).
    Members(u16),
    /// A command of the machine.
    Command(Bytes),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TailEntry {
    pub term: u64,
    pub deed: Deed,
}

/// Entries of a group's log, one after the other, that were committed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTail {
    group: GroupId,
    after: LogPlace,
    entries: Vec<TailEntry>,
}

// Commands may hold names and wrapped keys (I16).
impl std::fmt::Debug for LogTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entries of {:?} from {:?} to {:?}", self.group, self.after, self.end())
    }
}

impl LogTail {
    pub(crate) fn new(group: GroupId, after: LogPlace, entries: Vec<TailEntry>) -> LogTail {
        LogTail { group, after, entries }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The entry before the first.
    pub fn after(&self) -> LogPlace {
        self.after
    }

    /// The last entry; that before the first if there is none.
    pub fn end(&self) -> LogPlace {
        let index = self.after.index.saturating_add(self.entries.len() as u64);
        LogPlace { index, term: self.entries.last().map_or(self.after.term, |entry| entry.term) }
    }

    /// Whether it holds no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Its commands, as the machine takes them.
    pub fn commands(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.iter().filter_map(|entry| match &entry.deed {
            Deed::Command(command) => Some(command),
            Deed::Nothing | Deed::Members(_) => None,
        })
    }

    /// As bytes. They hold names and wrapped keys: whoever stores them seals them.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The inverse of [`LogTail::encode`].
    pub fn decode(bytes: &[u8]) -> Result<LogTail, NotAnExport> {
        let tail: LogTail = codec::decode(bytes).map_err(|_| NotAnExport("a malformed tail"))?;
        let mut term = tail.after.term;
        for entry in &tail.entries {
            if entry.term < term {
                return Err(NotAnExport("terms of a tail fall"));
            }
            term = entry.term;
        }
        Ok(tail)
    }

    /// The entries behind `reached`, each with its index: the tail must know the entry there.
    pub(crate) fn behind(
        &self,
        reached: LogPlace,
    ) -> Result<impl Iterator<Item = (LogPlace, &Deed)> + use<'_>, NotAnExport> {
        let known = reached.index.checked_sub(self.after.index);
        let known = known.and_then(|known| usize::try_from(known).ok());
        let known = known.ok_or(NotAnExport("a tail leaves a hole"))?;
        let term = match known.checked_sub(1) {
            None => Some(self.after.term),
            Some(at) => self.entries.get(at).map(|entry| entry.term),
        };
        if term != Some(reached.term) {
            return Err(NotAnExport("a tail of another history"));
        }
        let first = reached.index;
        Ok(self.entries.iter().skip(known).zip(1..).map(move |(entry, at)| {
            (LogPlace { index: first.saturating_add(at), term: entry.term }, &entry.deed)
        }))
    }
}

impl Deed {
    /// What it changes of a machine's rows.
    pub(crate) fn apply(
        &self,
        machine: &dyn StateMachine,
        state: &dyn KvRead,
        context: &ApplyContext,
    ) -> Result<Applied, KvError> {
        match self {
            Deed::Command(command) => machine.apply(state, context, command),
            Deed::Nothing | Deed::Members(_) => Ok(Applied::default()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn tail() -> LogTail {
        let entry = |term, deed| TailEntry { term, deed };
        let entries = vec![
            entry(2, Deed::Command(Bytes::from_static(&[7, 8]))),
            entry(2, Deed::Nothing),
            entry(300, Deed::Members(5)),
        ];
        LogTail::new(GroupId(3), LogPlace { index: 300, term: 2 }, entries)
    }

    fn place(index: u64, term: u64) -> LogPlace {
        LogPlace { index, term }
    }

    #[test]
    fn golden_bytes() {
        let golden = [1, 3, 0xac, 2, 2, 3, 2, 2, 2, 7, 8, 2, 0, 0xac, 2, 1, 5];
        assert_eq!(tail().encode(), golden);
        assert_eq!(LogTail::decode(&golden), Ok(tail()));
        for len in 0..golden.len() {
            assert!(LogTail::decode(&golden[..len]).is_err());
        }
        let mut falling = tail();
        falling.entries[1].term = 1;
        assert!(LogTail::decode(&falling.encode()).is_err());
    }

    #[test]
    fn a_tail_fits_only_behind_an_entry_that_it_knows() {
        let tail = tail();
        assert_eq!(tail.end(), place(303, 300));
        let behind = |index, term| {
            let entries = tail.behind(place(index, term));
            entries.map(|entries| entries.map(|(at, _)| at).collect::<Vec<_>>())
        };
        assert_eq!(behind(300, 2).unwrap(), [place(301, 2), place(302, 2), place(303, 300)]);
        assert_eq!(behind(301, 2).unwrap(), [place(302, 2), place(303, 300)]);
        assert_eq!(behind(303, 300).unwrap(), []);
        for (index, term) in [(299, 2), (300, 1), (302, 300), (303, 2), (304, 300)] {
            assert!(behind(index, term).is_err(), "{index}/{term}");
        }
    }
}
