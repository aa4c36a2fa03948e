//! Rows of a bucket that one mount has to itself, as far as it knows them: those that it asked for, and those that its
//! own steps changed.
//!
//! Which rows there are *not* is known as well: in ranges that were asked for, and of what was made under ids that the group has
//! never heard of. What is not known ends an attempt; what that was is found in [`View::missing`].
//!
//! State: in memory; bounded by whoever fills it ([`Known::bytes`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use nexusgrid_env::kv::{Change, Row, prefix_end};
use nexusgrid_env::{Batch, KvError, KvRead, ScanRange};
use nexusgrid_meta::namespace::limits::ROWS_WANTED_MAX;
use nexusgrid_meta::namespace::rows::{STATE, TREE, sequence_of};
use nexusgrid_meta::namespace::speculate::{OwnerOf, owner};
use nexusgrid_meta::namespace::types::{RowsFound, RowsWanted};
use parking_lot::Mutex;

/// Beyond all keys: none is as long and as great.
const END: [u8; 32] = [0xff; 32];

/// As many names are asked for when one of a directory is, the first time; twice as many each time after it, so often.
const LOOK_AHEAD_MIN: u32 = 16;
const LOOK_AHEAD_STEPS: u32 = 4;

/// What a row costs beside its bytes.
const ROW_BYTES: usize = 96;

/// Rows of one family.
#[derive(Debug, Default)]
struct Family {
    /// `None`: there is none.
    rows: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// Ranges of which every row is known: first key and first key beyond; apart.
    whole: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Family {
    /// To where every row is known from a key on.
    fn known_to(&self, key: &[u8]) -> Option<&[u8]> {
        let before = self.whole.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        before.last().map(|(_, end)| end.as_slice()).filter(|end| *end > key)
    }

    /// From where on every row is known up to a key.
    fn known_from(&self, end: &[u8]) -> Option<&[u8]> {
        let before = self.whole.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(end)));
        before.last().filter(|(_, to)| to.as_slice() >= end).map(|(start, _)| start.as_slice())
    }

    fn cover(&mut self, mut start: Vec<u8>, mut end: Vec<u8>) {
        if start >= end {
            return;
        }
        let near = self.whole.range::<[u8], _>((Bound::Unbounded, Bound::Included(end.as_slice())));
        let near = near.rev().take_while(|(_, to)| **to >= start);
        let near: Vec<Vec<u8>> = near.map(|(from, _)| from.clone()).collect();
        for from in near {
            if let Some(to) = self.whole.remove(&from) {
                start = start.min(from);
                end = end.max(to);
            }
        }
        self.whole.insert(start, end);
    }
}

/// The rows.
#[derive(Debug, Default)]
pub(super) struct Known {
    families: BTreeMap<&'static str, Family>,
    /// Commit sequences of ids that nothing had when this began: what is under such an id is here, or nowhere.
    fresh: BTreeSet<u64>,
    /// How often names of a directory were asked for.
    looks: BTreeMap<u64, u32>,
    bytes: usize,
}

impl Known {
    /// About so many bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nothing has ids of this sequence yet.
    pub(super) fn begin_ids(&mut self, sequence: u64) {
        self.fresh.insert(sequence);
    }

    /// What a step changed.
    pub(super) fn change(&mut self, changes: Batch) {
        for change in changes.changes {
            match change {
                Change::Put(family, key, value) => self.put(family, key, Some(value.into())),
                Change::Delete(family, key) => self.put(family, key, None),
                // No step makes such.
                Change::DeleteRange(..) => {}
            }
        }
    }

    fn put(&mut self, family: &'static str, key: Vec<u8>, value: Option<Bytes>) {
        let len = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let size = key.len() + ROW_BYTES;
        self.bytes += len(&value);
        match self.families.entry(family).or_default().rows.insert(key, value) {
            Some(before) => self.bytes = self.bytes.saturating_sub(len(&before)),
            None => self.bytes += size,
        }
    }

    /// What was asked for and found. What is known by now is newer.
    pub(super) fn learn(&mut self, wanted: RowsWanted, found: RowsFound) {
        let name = match &wanted {
            RowsWanted::Get { family, .. } | RowsWanted::Scan { family, .. } => family.as_str(),
        };
        let known = nexusgrid_meta::namespace::rows::FAMILIES.iter().find(|known| **known == name);
        let Some(family) = known.copied() else { return };
        let first = found.rows.first().map(|(key, _)| key.to_vec());
        let last = found.rows.last().map(|(key, _)| key.to_vec());
        let is_new = |rows: &Known, key: &[u8]| {
            !rows.families.get(family).is_some_and(|family| family.rows.contains_key(key))
        };
        for (key, value) in found.rows {
            if is_new(self, &key) {
                self.put(family, key.to_vec(), Some(value));
            }
        }
        match wanted {
            RowsWanted::Get { key, .. } => {
                if is_new(self, &key) {
                    self.put(family, key, None);
                }
            }
            RowsWanted::Scan { start, end, reverse, .. } => {
                let end = end.unwrap_or_else(|| END.to_vec());
                let (from, to) = match (found.more, reverse) {
                    (false, _) => (start, end),
                    (true, false) => match last {
                        Some(mut last) => {
                            last.push(0);
                            (start, last)
                        }
                        None => return,
                    },
                    // From the end backwards: the last that was found is the lowest.
                    (true, true) => match last.min(first) {
                        Some(lowest) => (lowest, end),
                        None => return,
                    },
                };
                self.bytes += from.len() + to.len();
                self.families.entry(family).or_default().cover(from, to);
            }
        }
    }

    /// What will be wanted next, if these rows are: the names that follow in a directory, ever more of them; all that there is
    /// of a node.
    pub(super) fn look_ahead(&mut self, wanted: &mut Vec<RowsWanted>) {
        let mut more = Vec::new();
        for wanted in wanted.iter_mut() {
            let (family, key) = match wanted {
                RowsWanted::Get { family, key } => (family.clone(), key.clone()),
                RowsWanted::Scan { family, start, .. } => (family.clone(), start.clone()),
            };
            let Some(of) = owner(&family, &key) else { continue };
            let Some(prefix) = key.get(..of.key_len) else { continue };
            if family == TREE && matches!(wanted, RowsWanted::Get { .. }) {
                let looks = self.looks.entry(of.id).or_default();
                let limit = LOOK_AHEAD_MIN << (*looks).min(LOOK_AHEAD_STEPS);
                *looks += 1;
                // A file's name comes before the directory's, which was looked for: the sign of a directory, and the end of a
                // name.
                let file = key.strip_suffix(b"/\0\0").map(|name| [name, &b"\0\0"[..]].concat());
                let file = file.filter(|file| !self.knows(TREE, file));
                let start = file.unwrap_or_else(|| key.clone());
                let (family, end) = (TREE.to_owned(), prefix_end(prefix));
                *wanted = RowsWanted::Scan { family, start, end, reverse: false, limit };
            } else if family == STATE && matches!(key.first(), Some(b'J' | b'Q' | b'X' | b'l')) {
                let tagged =
                    |tag: u8| [&[tag], key.get(1..of.key_len).unwrap_or_default()].concat();
                for tag in [b'J', b'l'] {
                    more.push(RowsWanted::Get { family: STATE.to_owned(), key: tagged(tag) });
                }
                for tag in [b'Q', b'X'] {
                    let (start, end) = (tagged(tag), prefix_end(&tagged(tag)));
                    let (family, limit) = (STATE.to_owned(), LOOK_AHEAD_MIN);
                    more.push(RowsWanted::Scan { family, start, end, reverse: false, limit });
                }
            }
        }
        wanted.extend(more);
        wanted.truncate(ROWS_WANTED_MAX);
    }

    /// The rows, for one attempt.
    pub(super) fn view(&self) -> View<'_> {
        View { known: self, missing: Mutex::default() }
    }

    fn knows(&self, family: &'static str, key: &[u8]) -> bool {
        let known = |rows: &Family| rows.rows.contains_key(key) || rows.known_to(key).is_some();
        self.families.get(family).is_some_and(known)
    }

    fn is_fresh(&self, owner: &OwnerOf) -> bool {
        self.fresh.contains(&sequence_of(owner.id))
    }
}

/// The rows during one attempt.
pub(super) struct View<'a> {
    known: &'a Known,
    missing: Mutex<Vec<RowsWanted>>,
}

impl View<'_> {
    /// What was not known.
    pub(super) fn missing(self) -> Vec<RowsWanted> {
        self.missing.into_inner()
    }

    fn miss<T>(&self, wanted: RowsWanted) -> Result<T, KvError> {
        self.missing.lock().push(wanted);
        Err(KvError::Busy("a row that is not known yet".to_owned()))
    }
}

impl KvRead for View<'_> {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let rows = self.known.families.get(family);
        if let Some(value) = rows.and_then(|rows| rows.rows.get(key)) {
            return Ok(value.clone());
        }
        let is_whole = rows.is_some_and(|rows| rows.known_to(key).is_some());
        if is_whole || owner(family, key).is_some_and(|owner| self.known.is_fresh(&owner)) {
            return Ok(None);
        }
        self.miss(RowsWanted::Get { family: family.to_owned(), key: key.to_vec() })
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        let end = range.end.clone().unwrap_or_else(|| END.to_vec());
        if end <= range.start {
            return Ok(Vec::new());
        }
        let nothing = Family::default();
        let rows = self.known.families.get(family).unwrap_or(&nothing);
        // Whose rows these are: then all of the range is of that one.
        let owner = owner(family, &range.start).filter(|owner| {
            let all = range.start.get(..owner.key_len).and_then(prefix_end);
            all.is_some_and(|all| end <= all)
        });
        let is_fresh = owner.is_some_and(|owner| self.known.is_fresh(&owner));
        let mut found: Vec<Row> = Vec::new();
        let (mut from, mut to) = (range.start.clone(), end);
        while from < to && found.len() < range.limit {
            let whole = match (is_fresh, range.reverse) {
                (true, _) => Some((from.clone(), to.clone())),
                (false, false) => {
                    rows.known_to(&from).map(|until| (from.clone(), until.to_vec().min(to.clone())))
                }
                (false, true) => {
                    rows.known_from(&to).map(|since| (since.to_vec().max(from.clone()), to.clone()))
                }
            };
            let Some((first, beyond)) = whole else {
                let limit = u32::try_from(range.limit - found.len()).unwrap_or(u32::MAX);
                let (family, reverse) = (family.to_owned(), range.reverse);
                let (start, end) = (from, Some(to));
                return self.miss(RowsWanted::Scan { family, start, end, reverse, limit });
            };
            let bounds = (Bound::Included(first.as_slice()), Bound::Excluded(beyond.as_slice()));
            let there = rows.rows.range::<[u8], _>(bounds).filter_map(|(key, value)| {
                value.as_ref().map(|value| (Bytes::copy_from_slice(key), value.clone()))
            });
            let left = range.limit - found.len();
            match range.reverse {
                true => found.extend(there.rev().take(left)),
                false => found.extend(there.take(left)),
            }
            if range.reverse { to = first } else { from = beyond }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use nexusgrid_meta::namespace::rows::{DirId, dentry};
    use nexusgrid_meta::namespace::types::BucketId;
    use proptest::prelude::*;

    use super::*;

    /// The group's rows: what is wanted is found there.
    #[derive(Clone, Debug, Default)]
    struct Group(BTreeMap<Vec<u8>, Bytes>);

    impl Group {
        fn range(&self, range: &ScanRange) -> Vec<Row> {
            let end = range.end.clone().unwrap_or_else(|| END.to_vec());
            if end <= range.start {
                return Vec::new();
            }
            let all = self.0.range(range.start.clone()..end);
            let all = all.map(|(key, value)| (Bytes::from(key.clone()), value.clone()));
            if range.reverse {
                all.rev().take(range.limit).collect()
            } else {
                all.take(range.limit).collect()
            }
        }

        fn find(&self, wanted: &RowsWanted, most: usize) -> RowsFound {
            match wanted {
                RowsWanted::Get { key, .. } => {
                    let row =
                        self.0.get(key).map(|value| (Bytes::from(key.clone()), value.clone()));
                    RowsFound { rows: row.into_iter().collect(), more: false }
                }
                RowsWanted::Scan { start, end, reverse, limit, .. } => {
                    let limit = (*limit as usize).min(most);
                    let (start, end, reverse) = (start.clone(), end.clone(), *reverse);
                    let mut rows = self.range(&ScanRange { start, end, reverse, limit: limit + 1 });
                    let more = rows.len() > limit;
                    rows.truncate(limit);
                    RowsFound { rows, more }
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Change(u8, Option<u8>),
        Get(u8),
        Scan(u8, u8, bool, usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0u8..24, prop::option::of(any::<u8>()))
                .prop_map(|(key, value)| Act::Change(key, value)),
            (0u8..24).prop_map(Act::Get),
            (0u8..24, 0u8..26, any::<bool>(), 1usize..6)
                .prop_map(|(from, to, reverse, limit)| Act::Scan(from, to, reverse, limit)),
        ]
    }

    /// Names of one directory: each as a file's, and as a directory's.
    fn key_of(number: u8) -> Vec<u8> {
        let name = [&[b'a' + number / 2][..], if number % 2 == 1 { b"/" } else { b"" }].concat();
        dentry(BucketId(7), DirId(8 << 12), &name)
    }

    proptest! {
        /// Whatever is asked for comes out as if all rows had been at hand, and is asked for once.
        #[test]
        fn what_is_learned_piece_by_piece_is_what_there_is(
            base in prop::collection::btree_map(0u8..24, any::<u8>(), 0..16),
            acts in prop::collection::vec(act(), 1..40),
            most in 1usize..5,
            looks_ahead: bool,
        ) {
            let row = |(key, value): (&u8, &u8)| (key_of(*key), Bytes::from(vec![*value]));
            let group = Group(base.iter().map(row).collect());
            let mut now = group.clone();
            let mut known = Known::default();
            for act in acts {
                if let Act::Change(key, value) = act {
                    let mut batch = Batch::default();
                    match value {
                        Some(value) => batch.put(TREE, key_of(key), vec![value]),
                        None => batch.delete(TREE, key_of(key)),
                    }
                    known.change(batch);
                    match value {
                        Some(value) => drop(now.0.insert(key_of(key), vec![value].into())),
                        None => drop(now.0.remove(&key_of(key))),
                    }
                    continue;
                }
                let mut asked = 0;
                loop {
                    let view = known.view();
                    let done = match &act {
                        Act::Get(key) => view.get(TREE, &key_of(*key)).map(|value| {
                            assert_eq!(value.as_ref(), now.0.get(&key_of(*key)));
                        }),
                        Act::Scan(from, to, reverse, limit) => {
                            let range = ScanRange {
                                start: key_of(*from),
                                end: Some(key_of(*to)),
                                reverse: *reverse,
                                limit: *limit,
                            };
                            view.scan(TREE, &range).map(|rows| assert_eq!(rows, now.range(&range)))
                        }
                        Act::Change(..) => unreachable!("done above"),
                    };
                    let missing = view.missing();
                    prop_assert_eq!(done.is_err(), !missing.is_empty());
                    if missing.is_empty() {
                        break;
                    }
                    asked += 1;
                    prop_assert!(asked <= 60, "it ends");
                    let mut missing = missing;
                    if looks_ahead {
                        known.look_ahead(&mut missing);
                    }
                    for wanted in missing {
                        let found = group.find(&wanted, most);
                        known.learn(wanted, found);
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_under_an_id_that_nobody_has_heard_of() {
        use nexusgrid_meta::namespace::posix::rows as own;
        use nexusgrid_meta::namespace::types::Ino;
        let mut known = Known::default();
        known.begin_ids(9);
        let (bucket, ino) = (BucketId(7), Ino(9 << 12 | 3));
        let of_new = own::xattrs(bucket, ino).done();
        let range = |start: &[u8]| ScanRange {
            start: start.to_vec(),
            end: prefix_end(start),
            reverse: false,
            limit: 5,
        };
        let view = known.view();
        assert_eq!(view.get(STATE, &own::place(bucket, ino)).unwrap(), None);
        assert_eq!(view.scan(STATE, &range(&of_new)).unwrap(), vec![]);
        // Of others nothing is known, nor of ranges that reach beyond.
        assert!(view.get(STATE, &own::place(bucket, Ino(8 << 12))).is_err());
        let far = ScanRange { end: None, ..range(&of_new) };
        assert!(view.scan(STATE, &far).is_err());
        assert_eq!(view.missing().len(), 2);
    }
}
