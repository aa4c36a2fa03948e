//! Carries out what owners laid down about their objects' ends: expiry, and moves to other classes.
//!
//! ```text
//!   a row of a key changes ──▶ when is anything of this key due? ──▶ 'W' row  due bucket key
//!   the rules change ──▶ 'I' row: all keys of the bucket are looked through, a page a step ──▶ 'W' rows
//!   RunLifecycle ──▶ 'W' rows up to now: the key is looked at anew, and what is due by today's rules
//!                    and rows is done in this very command
//! ```
//!
//! A 'W' row says only when to look at a key. It is written whenever something of the key changes, and
//! taken when it is due; those that a later change made pointless find nothing to do. So what is deleted is
//! what the rules say of the rows that are there when it is deleted: a newer object is never taken for an
//! older one, whoever proposes the step and however often. Nothing is walked but what is due, and a
//! bucket whose rules changed, once.
//!
//! A key with more versions than a step looks at is looked at in several; the 'W' row says how far. How many
//! newer versions there are is counted anew each time: clients may have deleted some between two steps.
//!
//! A step does what is due first and then looks through a page of a bucket, those in turn: neither waits for
//! the other. It never changes more rows than a command may: what does not fit is left to the next.
#![deny(clippy::indexing_slicing)]

mod judge;
mod walk;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use nexusgrid_env::kv::prefix_end;

pub use judge::{Fate, Verdict, after_days};

use super::limits;
use super::machine::{Change, Step, corrupt};
use super::rows::{self, DueRow, Further, LifecycleRow, UploadRow, VersionRow};
use super::tree;
use super::types::{
    BucketId, DeleteMarker, DeleteVersion, End, EndKind, Lifecycle, LifecycleDone, LifecycleLeft,
    LifecycleMove, LifecycleRule, Malformed, NamespaceError, NamespaceOk, Object, ObjectLock,
    Precondition, UploadId, UploadRef, VersionId, When,
};
use super::versions::check_unlocked;
use crate::limits::COMMAND_ROWS_MAX;
use crate::rows::tx::{Tx, decode_row};

/// Keys whose rows a command changed, and of each the orders of the older versions that it changed in place.
pub(super) type Touched = BTreeMap<(BucketId, Vec<u8>), BTreeSet<u64>>;

/// What a look at a key finds.
enum Item {
    /// The current object.
    Current(Object),
    /// A delete marker that hides the key; whether no version is left.
    Marker(DeleteMarker, bool),
    /// An older version: when it was replaced, and how many newer ones were, too.
    Older(VersionRow, u64, u32),
    /// An upload, and when it was begun.
    Upload(UploadId, u64),
}

impl Item {
    fn weigh<'a>(&self, rules: &'a Lifecycle, key: &[u8], now_ms: u64) -> Verdict<'a> {
        match self {
            Item::Current(object) => rules.of_current(key, object, now_ms),
            Item::Marker(marker, true) => rules.of_lone_marker(key, marker.modified_ms, now_ms),
            Item::Marker(_, false) => Verdict::default(),
            Item::Older(VersionRow::Object(object), since_ms, newer) => {
                rules.of_noncurrent(key, object, *since_ms, *newer, now_ms)
            }
            Item::Older(VersionRow::Marker(_), since_ms, newer) => {
                rules.of_noncurrent_marker(key, *since_ms, *newer, now_ms)
            }
            Item::Upload(_, created_ms) => rules.of_upload(key, *created_ms, now_ms),
        }
    }

    /// When to look again at what a step looked at: what locks keep is due when they end, and what is
    /// another's to do is asked for once more after a while.
    fn again(&self, verdict: &Verdict<'_>, rules: &Lifecycle, now_ms: u64) -> Option<u64> {
        match verdict.now {
            None => verdict.next_ms,
            Some(Fate::Move(_)) => {
                let retry_ms = retry_at(rules, now_ms);
                Some(verdict.next_ms.map_or(retry_ms, |next| next.min(retry_ms)))
            }
            Some(Fate::Expire) => match self {
                Item::Older(VersionRow::Object(object), ..)
                    if check_unlocked(&object.meta.lock, now_ms, false).is_err() =>
                {
                    // Whoever takes a hold off changes the row, and has the key looked at again.
                    let ObjectLock { retention, legal_hold } = object.meta.lock;
                    retention.filter(|_| !legal_hold).map(|retention| retention.until_ms)
                }
                _ => Some(now_ms),
            },
        }
    }
}

fn older_rows(
    tx: &Tx<'_>,
    bucket: BucketId,
    key: &[u8],
    after: Option<u64>,
    limit: usize,
) -> Step<Vec<(u64, VersionRow)>> {
    let prefix = rows::versions(bucket).name(key).done();
    let start = match after {
        Some(order) => [rows::version(bucket, key, order).as_slice(), &[0]].concat(),
        None => prefix.clone(),
    };
    let found = tx.scan(rows::STATE, &start, prefix_end(&prefix).as_deref(), limit)?;
    let row = |(row, value): &(bytes::Bytes, bytes::Bytes)| {
        let (_, order) = rows::parse_version(row).ok_or_else(|| corrupt("key of a version"))?;
        Ok((order, decode_row(rows::STATE, value)?))
    };
    found.iter().map(row).collect()
}

fn uploads_of(tx: &Tx<'_>, bucket: BucketId, key: &[u8]) -> Step<Vec<Item>> {
    let prefix = rows::uploads(bucket).name(key).done();
    let end = prefix_end(&prefix);
    let found = tx.scan(rows::STATE, &prefix, end.as_deref(), limits::LIFECYCLE_UPLOADS_MAX)?;
    let item = |(row, value): &(bytes::Bytes, bytes::Bytes)| {
        let (_, id) = rows::parse_upload(row).ok_or_else(|| corrupt("key of an upload"))?;
        let row: UploadRow = decode_row(rows::STATE, value)?;
        Ok(Item::Upload(id, row.info.created_ms))
    };
    found.iter().map(item).collect()
}

/// Whether as many versions as rules count are left down to where a look goes on.
fn is_beyond(
    tx: &Tx<'_>,
    bucket: BucketId,
    key: &[u8],
    at: Further,
    rules: &Lifecycle,
) -> Step<bool> {
    let depth = rules.depth();
    let counted = older_rows(tx, bucket, key, None, depth)?;
    let is_full = counted.len() == depth;
    Ok(is_full && counted.last().is_some_and(|(order, _)| *order >= at.order))
}

/// An older version that lies deeper than rules count.
fn deep(
    tx: &Tx<'_>,
    bucket: BucketId,
    key: &[u8],
    order: u64,
    rules: &Lifecycle,
) -> Step<Option<Item>> {
    let Some(row) = tx.load(rows::STATE, &rows::version(bucket, key, order))? else {
        return Ok(None);
    };
    let first = rows::versions(bucket).name(key).done();
    let last = rows::version(bucket, key, order.saturating_add(1));
    let Some((_, above)) = tx.last_up_to(rows::STATE, &first, &last)? else { return Ok(None) };
    let above: VersionRow = decode_row(rows::STATE, &above)?;
    let newer = u32::try_from(rules.depth()).unwrap_or(u32::MAX);
    Ok(Some(Item::Older(row, above.modified_ms(), newer)))
}

impl VersionRow {
    fn modified_ms(&self) -> u64 {
        match self {
            VersionRow::Object(object) => object.modified_ms,
            VersionRow::Marker(marker) => marker.modified_ms,
        }
    }
}

/// Looks at up to `depth` older versions of a key; from its beginning at its current version and its
/// uploads, too. It begins there as well if newer versions went since, so that rules count others now.
fn look(
    tx: &Tx<'_>,
    bucket: BucketId,
    key: &[u8],
    further: Option<Further>,
    rules: &Lifecycle,
    depth: usize,
) -> Step<(Vec<Item>, Option<Further>)> {
    let mut items = Vec::new();
    let further = match further {
        Some(at) if is_beyond(tx, bucket, key, at, rules)? => Some(at),
        _ => None,
    };
    // How many newer ones were replaced, and when the next was. Of as many as rules count one may be a
    // marker that is current.
    let counted = u32::try_from(rules.depth() - 1).unwrap_or(u32::MAX);
    let mut above = further.map(|at| (counted, at.since_ms));
    let mut last = further;
    let mut rows = older_rows(tx, bucket, key, further.map(|at| at.order), depth + 1)?;
    let is_cut = rows.len() > depth;
    rows.truncate(depth);
    let is_alone = rows.len() == 1;
    if further.is_none() {
        items = uploads_of(tx, bucket, key)?;
        if let Some(object) = tree::lookup(tx, bucket, key)? {
            above = Some((0, object.modified_ms));
            items.push(Item::Current(object));
        }
    }
    for (order, row) in rows {
        let modified_ms = row.modified_ms();
        let newer = match (above, row) {
            (Some((newer, since_ms)), row) => {
                items.push(Item::Older(row, since_ms, newer));
                newer.saturating_add(1)
            }
            (None, VersionRow::Marker(marker)) => {
                items.push(Item::Marker(marker, is_alone));
                0
            }
            (None, VersionRow::Object(_)) => return Err(corrupt("versions without a current one")),
        };
        above = Some((newer, modified_ms));
        last = Some(Further { order, since_ms: modified_ms });
    }
    Ok((items, last.filter(|_| is_cut)))
}

/// The rules of a bucket as the gateway gave them.
pub(super) fn text(tx: &Tx<'_>, bucket: BucketId) -> Step<Option<Vec<u8>>> {
    super::versions::live(tx, bucket)?;
    Ok(tx.get(rows::STATE, &rows::lifecycle_text(bucket))?.map(|text| text.to_vec()))
}

/// What waits to be carried out.
pub(super) fn left(tx: &Tx<'_>, now_ms: u64) -> Step<LifecycleLeft> {
    let most = limits::ANSWER_ROWS_MAX as usize;
    let count = |found: usize| u32::try_from(found).unwrap_or(u32::MAX);
    let prefix = rows::walks();
    let walks = tx.scan(rows::STATE, &prefix, prefix_end(&prefix).as_deref(), most)?.len();
    let (begin, end) = (rows::all_due(), rows::due_after(now_ms));
    let due = tx.scan(rows::STATE, &begin, Some(&end), most)?.len();
    let first = tx.scan(rows::STATE, &begin, prefix_end(&begin).as_deref(), 1)?;
    let next_ms = first.first().and_then(|(key, _)| rows::parse_due(key)).map(|(at, ..)| at);
    Ok(LifecycleLeft { walks: count(walks), due: count(due), next_ms })
}

fn check(rules: &Lifecycle, text: &[u8]) -> Result<(), NamespaceError> {
    let fits = rules.rules.len() <= limits::LIFECYCLE_RULES_MAX
        && text.len() <= limits::LIFECYCLE_TEXT_BYTES_MAX
        && rules.encode().len() <= limits::LIFECYCLE_BYTES_MAX
        && rules.depth() <= limits::LIFECYCLE_LOOK_MAX;
    if !fits {
        return Err(NamespaceError::TooLarge);
    }
    let days = |rule: &LifecycleRule| {
        rule.expire_noncurrent.is_none_or(|when| when.days > 0)
            && rule.abort_uploads_days.is_none_or(|days| days > 0)
            && rule.expire.is_none_or(|when| when != When::Days(0))
    };
    if rules.day_ms > 0 && rules.rules.iter().all(days) {
        Ok(())
    } else {
        Err(Malformed::Lifecycle.into())
    }
}

impl Change<'_> {
    /// Lays down what becomes of a bucket's objects with time, or that nothing does.
    pub(super) fn set_lifecycle(
        &mut self,
        bucket: BucketId,
        rules: Option<(Lifecycle, Vec<u8>)>,
    ) -> Step<NamespaceOk> {
        self.bucket(bucket)?;
        match rules {
            Some((rules, text)) => {
                check(&rules, &text)?;
                let row = LifecycleRow { sequence: self.sequence, rules };
                self.tx.store(rows::STATE, rows::lifecycle(bucket), &row);
                self.tx.put(rows::STATE, rows::lifecycle_text(bucket), text);
                self.begin_walk(bucket)?;
            }
            None => self.drop_lifecycle(bucket),
        }
        Ok(NamespaceOk::Done)
    }

    /// Forgets a bucket's rules. Rows that say when to look at its keys go when they are due.
    pub(super) fn drop_lifecycle(&mut self, bucket: BucketId) {
        for key in [rows::lifecycle(bucket), rows::lifecycle_text(bucket), rows::walk(bucket)] {
            self.tx.delete(rows::STATE, key);
        }
    }

    /// Whether a bucket has rules.
    pub(in super::super) fn has_lifecycle(&self, bucket: BucketId) -> Step<bool> {
        Ok(self.tx.get(rows::STATE, &rows::lifecycle(bucket))?.is_some())
    }

    /// Many keys have changed at once: the bucket is looked through, if it has rules.
    pub(in super::super) fn walk_again(&mut self, bucket: BucketId) -> Step<()> {
        if self.has_lifecycle(bucket)? { self.begin_walk(bucket) } else { Ok(()) }
    }

    fn lifecycle(&self, bucket: BucketId) -> Step<Option<Lifecycle>> {
        let row: Option<LifecycleRow> = self.tx.load(rows::STATE, &rows::lifecycle(bucket))?;
        Ok(row.map(|row| row.rules))
    }

    /// Something of a key changed.
    pub(super) fn touch(&mut self, bucket: BucketId, key: &[u8]) {
        self.touched.entry((bucket, key.to_vec())).or_default();
    }

    /// An older version changed in place.
    pub(super) fn touch_older(&mut self, bucket: BucketId, key: &[u8], order: u64) {
        self.touched.entry((bucket, key.to_vec())).or_default().insert(order);
    }

    /// The end of any command: notes when the keys that it changed are to be looked at.
    pub(super) fn settle_lifecycle(&mut self) -> Step<()> {
        self.note_touched(None).map(drop)
    }

    /// Notes when the keys that the command changed are to be looked at, and whether that is now. A step that
    /// carried out rules knows what cannot be done at once: it says what time it is.
    fn note_touched(&mut self, now_ms: Option<u64>) -> Step<bool> {
        let mut known: BTreeMap<BucketId, Option<Lifecycle>> = BTreeMap::new();
        let mut crowded = BTreeSet::new();
        let mut is_now = false;
        for ((bucket, key), older) in std::mem::take(&mut self.touched) {
            let rules = match known.entry(bucket) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(self.lifecycle(bucket)?),
            };
            let Some(rules) = rules else { continue };
            let (mut items, further) = look(&self.tx, bucket, &key, None, rules, rules.depth())?;
            let is_deep = |order: &u64| further.is_some_and(|end| *order < end.order);
            for order in older.into_iter().filter(is_deep) {
                items.extend(deep(&self.tx, bucket, &key, order, rules)?);
            }
            let next = match now_ms {
                None => first_due(&items, rules, &key),
                Some(now_ms) => items
                    .iter()
                    .filter_map(|item| item.again(&item.weigh(rules, &key, now_ms), rules, now_ms))
                    .min(),
            };
            let Some(next) = next else { continue };
            if self.tx.rows() >= limits::LIFECYCLE_ROWS_FULL {
                crowded.insert(bucket);
                continue;
            }
            is_now |= now_ms.is_some_and(|now_ms| next <= now_ms);
            self.set_due(bucket, &key, next, None);
        }
        // There is no room for a row per key: the bucket is looked through instead.
        for bucket in crowded {
            self.begin_walk(bucket)?;
        }
        Ok(is_now)
    }

    fn set_due(&mut self, bucket: BucketId, key: &[u8], at_ms: u64, further: Option<Further>) {
        let row = DueRow { sequence: self.sequence, further };
        self.tx.store(rows::STATE, rows::due(at_ms, bucket, key), &row);
    }

    /// One step: keys that are due, and as far as there is room a page of a bucket whose rules changed.
    pub(super) fn run_lifecycle(&mut self, now_ms: u64) -> Step<NamespaceOk> {
        let mut done = LifecycleDone::default();
        self.carry_out_all(now_ms, &mut done)?;
        done.more |= self.note_touched(Some(now_ms))?;
        if let Some((bucket, walk)) = self.next_walk()? {
            if self.tx.rows() + (limits::LIFECYCLE_PAGE as usize) < limits::LIFECYCLE_ROWS_FULL {
                self.walk_on(bucket, walk, &mut done)?;
            }
            done.more = true;
        }
        Ok(NamespaceOk::Lifecycle(done))
    }

    /// Does what is due, as far as there is room.
    fn carry_out_all(&mut self, now_ms: u64, done: &mut LifecycleDone) -> Step<()> {
        let (begin, end) = (rows::all_due(), rows::due_after(now_ms));
        let found = self.tx.scan(rows::STATE, &begin, Some(&end), limits::LIFECYCLE_KEYS)?;
        done.more = found.len() == limits::LIFECYCLE_KEYS;
        for (row, value) in found {
            if self.tx.rows() >= limits::LIFECYCLE_ROWS
                || done.moves.len() >= limits::LIFECYCLE_MOVES_MAX
            {
                done.more = true;
                break;
            }
            let (due_ms, bucket, key) =
                rows::parse_due(&row).ok_or_else(|| corrupt("key of what is due"))?;
            let DueRow { further, .. } = decode_row(rows::STATE, &value)?;
            self.tx.delete(rows::STATE, row.to_vec());
            done.looked += 1;
            if let Some(rules) = self.lifecycle(bucket)? {
                let due = Due { bucket, key: &key, at_ms: due_ms, further };
                self.carry_out(&due, &rules, now_ms, done)?;
            }
        }
        Ok(())
    }

    /// Where there is room for the end of an item.
    fn room(&self, item: &Item, key: &[u8]) -> Room {
        let directories = match item {
            // At worst it leaves all its directories empty.
            Item::Current(_) => key.iter().filter(|byte| **byte == b'/').count(),
            Item::Marker(..) | Item::Older(..) | Item::Upload(..) => 0,
        };
        let rows = self.tx.rows();
        let cost = directories + limits::LIFECYCLE_ITEM_ROWS;
        // Of each key that changed a row is to say when it is due next.
        let with_notes = rows + self.touched.len() + cost;
        if rows < limits::LIFECYCLE_ROWS && with_notes <= limits::LIFECYCLE_ROWS_FULL {
            Room::Here
        } else if rows > 1 {
            Room::NextStep
        } else if rows + cost <= COMMAND_ROWS_MAX {
            Room::Here
        } else {
            Room::Nowhere
        }
    }

    /// Looks at a key and does what is due.
    fn carry_out(
        &mut self,
        due: &Due<'_>,
        rules: &Lifecycle,
        now_ms: u64,
        done: &mut LifecycleDone,
    ) -> Step<()> {
        let Due { bucket, key, .. } = *due;
        let depth = limits::LIFECYCLE_LOOK_MAX;
        let (items, further) = look(&self.tx, bucket, key, due.further, rules, depth)?;
        let mut next: Option<u64> = None;
        // Oldest first: when a version was replaced is told by the one above it.
        for item in items.iter().rev() {
            let verdict = item.weigh(rules, key, now_ms);
            let again = match verdict.now {
                None => verdict.next_ms,
                Some(Fate::Expire) => match self.room(item, key) {
                    Room::Here => match self.expire(due, item, now_ms, done)? {
                        Ok(()) => None,
                        Err(NamespaceError::Locked) => item.again(&verdict, rules, now_ms),
                        Err(_) => Some(retry_at(rules, now_ms)),
                    },
                    Room::NextStep => {
                        // What is left of them is found again.
                        self.set_due(bucket, key, due.at_ms, due.further);
                        done.more = true;
                        return Ok(());
                    }
                    // It must not keep others waiting.
                    Room::Nowhere => Some(retry_at(rules, now_ms)),
                },
                Some(Fate::Move(class)) => {
                    let again = item.again(&verdict, rules, now_ms);
                    if let Item::Current(object) | Item::Older(VersionRow::Object(object), ..) =
                        item
                    {
                        done.moves.push(LifecycleMove {
                            bucket,
                            key: key.to_vec(),
                            version: object.version.unwrap_or(VersionId::NULL),
                            content: object.content,
                            class: class.clone(),
                        });
                    }
                    again
                }
            };
            next = [next, again].into_iter().flatten().min();
        }
        if further.is_some() {
            self.set_due(bucket, key, due.at_ms, further);
            done.more = true;
        }
        if let Some(next) = next {
            self.set_due(bucket, key, next, None);
        }
        Ok(())
    }

    /// Ends a version, or an upload; the outer error ends the whole step.
    fn expire(
        &mut self,
        due: &Due<'_>,
        item: &Item,
        now_ms: u64,
        done: &mut LifecycleDone,
    ) -> Step<Result<(), NamespaceError>> {
        let Due { bucket, key, .. } = *due;
        let count = match item {
            Item::Upload(id, _) => {
                self.end_upload(&UploadRef { bucket, key: key.to_vec(), id: *id }, now_ms)?;
                done.aborted += 1;
                return Ok(Ok(()));
            }
            Item::Marker(..) | Item::Older(VersionRow::Marker(_), ..) => &mut done.markers,
            Item::Current(_) | Item::Older(VersionRow::Object(_), ..) => &mut done.expired,
        };
        let version = match item {
            Item::Marker(DeleteMarker { version, .. }, _)
            | Item::Older(
                VersionRow::Marker(DeleteMarker { version, .. })
                | VersionRow::Object(Object { version, .. }),
                ..,
            ) => VersionId::shown(*version),
            Item::Current(_) | Item::Upload(..) => None,
        };
        let precondition = Precondition::None;
        let delete = DeleteVersion { key: key.to_vec(), version, precondition, bypass: false };
        let deleted = self.delete_version(bucket, &delete, now_ms)?;
        *count += u32::from(deleted.is_ok());
        if let Ok(deleted) = &deleted {
            let object = match item {
                Item::Current(object) | Item::Older(VersionRow::Object(object), ..) => Some(object),
                Item::Marker(..) | Item::Older(..) | Item::Upload(..) => None,
            };
            let made_marker = deleted.is_marker && matches!(item, Item::Current(_));
            self.note_end(End {
                bucket,
                key: key.to_vec(),
                version: deleted.version,
                kind: if made_marker { EndKind::Marked } else { EndKind::Deleted },
                size: object.map_or(0, |object| object.size),
                etag: object.map_or_else(String::new, |object| object.meta.etag.clone()),
                at_ms: now_ms,
            })?;
        }
        Ok(deleted.map(drop))
    }
}

/// Where there is room for what is due: a command changes so many rows at most.
enum Room {
    Here,
    NextStep,
    /// It alone may be more than a command may change.
    Nowhere,
}

/// A key that is due.
struct Due<'a> {
    bucket: BucketId,
    key: &'a [u8],
    at_ms: u64,
    further: Option<Further>,
}

/// An hour from now, as days go.
fn retry_at(rules: &Lifecycle, now_ms: u64) -> u64 {
    now_ms.saturating_add((rules.day_ms / 24).max(1))
}

fn first_due(items: &[Item], rules: &Lifecycle, key: &[u8]) -> Option<u64> {
    items.iter().filter_map(|item| item.weigh(rules, key, 0).next_ms).min()
}
