//! Looks through a bucket whose rules changed, a page a step.
//!
//! Only keys that some rule is of are looked at: a rule for `logs/` costs what lies below `logs/`, however large
//! the rest of the bucket is, and a rule that only aborts uploads looks at uploads alone. Where a walk goes on is a key, so
//! rules that change meanwhile need no care: it goes on behind that key with what the new ones are of.

use nexusgrid_env::kv::prefix_end;

use super::{first_due, look};
use crate::namespace::limits;
use crate::namespace::machine::{Change, Step, corrupt};
use crate::namespace::rows::{self, WalkPlace, WalkRow};
use crate::namespace::types::{
    BucketId, Lifecycle, LifecycleDone, LifecycleRule, UploadEntry, UploadsAfter, VersionEntry,
    VersionsAfter,
};
use crate::namespace::{list, version_list};
use crate::rows::tx::{Tx, decode_row};

/// A page of a walk: keys, and the one to go on behind, if there may be more.
#[derive(Default)]
struct Page {
    keys: Vec<Vec<u8>>,
    next: Option<Vec<u8>>,
}

/// The prefixes that the rules `which` are of, in order. None of them begins with another.
fn stretches(rules: &Lifecycle, which: impl Fn(&LifecycleRule) -> bool) -> Vec<&[u8]> {
    let chosen = rules.rules.iter().filter(|rule| which(rule));
    let mut prefixes: Vec<&[u8]> = chosen.map(|rule| rule.prefix.as_slice()).collect();
    prefixes.sort_unstable();
    // What begins with another comes behind it, and only others that begin with it lie between.
    prefixes.dedup_by(|later, kept| later.starts_with(kept));
    prefixes
}

/// Whether a rule is of anything but uploads.
fn is_of_versions(rule: &LifecycleRule) -> bool {
    rule.expire.is_some()
        || rule.expire_markers
        || rule.expire_noncurrent.is_some()
        || !rule.moves.is_empty()
        || !rule.moves_noncurrent.is_empty()
}

/// The first page behind `after` that lies within `prefixes`: `page` answers for one of them.
fn first_page(
    prefixes: &[&[u8]],
    after: Option<Vec<u8>>,
    page: impl Fn(&[u8], Option<Vec<u8>>) -> Step<Page>,
) -> Step<Page> {
    for prefix in prefixes {
        let (within, behind) = match &after {
            Some(after) if after.starts_with(prefix) => (Some(after.clone()), false),
            // It does not begin so, and lies before all keys that do or behind them.
            Some(after) => (None, after.as_slice() > *prefix),
            None => (None, false),
        };
        if behind {
            continue;
        }
        let mut found = page(prefix, within)?;
        if found.keys.is_empty() && found.next.is_none() {
            continue;
        }
        // Whether there is more is found out by looking.
        found.next = found.next.or_else(|| found.keys.last().cloned());
        return Ok(found);
    }
    Ok(Page::default())
}

fn keys(tx: &Tx<'_>, bucket: BucketId, prefix: &[u8], after: Option<Vec<u8>>) -> Step<Page> {
    let limit = limits::LIFECYCLE_PAGE;
    let asked = version_list::Asked { bucket, prefix, delimiter: None, limit };
    let listing = version_list::list(tx, &asked, after.map(VersionsAfter::Key))?;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for entry in listing.entries {
        if let VersionEntry::Object { key, .. } | VersionEntry::Marker { key, .. } = entry
            && keys.last() != Some(&key)
        {
            keys.push(key);
        }
    }
    let next = match (listing.next, keys.last()) {
        (Some(_), Some(last)) => Some(last.clone()),
        // Much was passed over that is no object.
        (Some(VersionsAfter::Key(at)), None) => Some(at),
        _ => None,
    };
    Ok(Page { keys, next })
}

fn uploads(tx: &Tx<'_>, bucket: BucketId, prefix: &[u8], after: Option<Vec<u8>>) -> Step<Page> {
    let after = after.map(UploadsAfter::Key);
    let limit = limits::LIFECYCLE_PAGE;
    let listing = list::list_uploads(tx, bucket, prefix, None, after.as_ref(), limit)?;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for entry in listing.entries {
        if let UploadEntry::Upload(key, ..) = entry
            && keys.last() != Some(&key)
        {
            keys.push(key);
        }
    }
    let next = keys.last().filter(|_| listing.next.is_some()).cloned();
    Ok(Page { keys, next })
}

impl Change<'_> {
    /// Has a bucket looked through. A walk that is on goes to its end before it begins anew: it would never
    /// get there if something changed all the time.
    pub(in crate::namespace) fn begin_walk(&mut self, bucket: BucketId) -> Step<()> {
        let walk: Option<WalkRow> = self.tx.load(rows::STATE, &rows::walk(bucket))?;
        let place = walk.map_or(WalkPlace::Keys(None), |walk| walk.place);
        let again = place != WalkPlace::Keys(None);
        let row = WalkRow { sequence: self.sequence, place, again };
        self.tx.store(rows::STATE, rows::walk(bucket), &row);
        Ok(())
    }

    /// The walk that waits longest.
    pub(super) fn next_walk(&self) -> Step<Option<(BucketId, WalkRow)>> {
        let prefix = rows::walks();
        let (end, most) = (prefix_end(&prefix), limits::LIFECYCLE_WALKS);
        let mut next: Option<(BucketId, WalkRow)> = None;
        for (row, value) in self.tx.scan(rows::STATE, &prefix, end.as_deref(), most)? {
            let bucket = rows::parse_walk(&row).ok_or_else(|| corrupt("key of a walk"))?;
            let walk: WalkRow = decode_row(rows::STATE, &value)?;
            if next.as_ref().is_none_or(|(_, next)| walk.sequence < next.sequence) {
                next = Some((bucket, walk));
            }
        }
        Ok(next)
    }

    /// Looks through a page of keys and notes when each is due.
    pub(super) fn walk_on(
        &mut self,
        bucket: BucketId,
        walk: WalkRow,
        done: &mut LifecycleDone,
    ) -> Step<()> {
        let Some(rules) = self.lifecycle(bucket)? else {
            self.tx.delete(rows::STATE, rows::walk(bucket));
            return Ok(());
        };
        let (page, then) = match walk.place {
            WalkPlace::Keys(after) => {
                let prefixes = stretches(&rules, is_of_versions);
                let page = first_page(&prefixes, after, |prefix, after| {
                    keys(&self.tx, bucket, prefix, after)
                })?;
                let next = page.next.clone().map(|at| WalkPlace::Keys(Some(at)));
                (page, Some(next.unwrap_or(WalkPlace::Uploads(None))))
            }
            WalkPlace::Uploads(after) => {
                let prefixes = stretches(&rules, |rule| rule.abort_uploads_days.is_some());
                let page = first_page(&prefixes, after, |prefix, after| {
                    uploads(&self.tx, bucket, prefix, after)
                })?;
                let next = page.next.clone().map(|at| WalkPlace::Uploads(Some(at)));
                (page, next)
            }
        };
        for key in page.keys {
            let depth = limits::LIFECYCLE_LOOK_MAX;
            let (items, further) = look(&self.tx, bucket, &key, None, &rules, depth)?;
            // What was not looked at may be due: it is looked at when this is.
            let due = if further.is_some() { Some(0) } else { first_due(&items, &rules, &key) };
            if let Some(at) = due {
                self.set_due(bucket, &key, at, None);
            }
            done.looked += 1;
        }
        let anew = (WalkPlace::Keys(None), false);
        match then.map(|place| (place, walk.again)).or(walk.again.then_some(anew)) {
            Some((place, again)) => {
                let row = WalkRow { sequence: self.sequence, place, again };
                self.tx.store(rows::STATE, rows::walk(bucket), &row);
            }
            None => self.tx.delete(rows::STATE, rows::walk(bucket)),
        }
        Ok(())
    }
}
