//! What a bucket's rules say about one version: pure functions of rule, version and time.
//!
//! They are asked when a row is written (when is its key to be looked at?), when it is due (is it
//! really?), and by gateways, which tell clients what will become of an object.

use crate::namespace::types::{
    DAY_MS, Lifecycle, LifecycleRule, Noncurrent, Object, StorageClass, When,
};

/// What is to become of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<'a> {
    /// It expires.
    Expire,
    /// It gets another storage class.
    Move(&'a StorageClass),
}

/// What is to become of a version now, and when to look again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// `None`: nothing.
    pub now: Option<Fate<'a>>,
    /// `None`: nothing will ever be due as things are.
    pub next_ms: Option<u64>,
}

/// `days` after `base_ms`. Real days end at midnight UTC, as S3's do: what is due goes with the day.
pub fn after_days(base_ms: u64, days: u32, day_ms: u64) -> u64 {
    let at = base_ms.saturating_add(u64::from(days).saturating_mul(day_ms));
    if day_ms == DAY_MS { at.div_ceil(DAY_MS).saturating_mul(DAY_MS) } else { at }
}

fn at(when: When, base_ms: u64, day_ms: u64) -> u64 {
    match when {
        When::Days(days) => after_days(base_ms, days, day_ms),
        // What is due is looked for behind time zero.
        When::Date(date) => date.max(1),
    }
}

impl LifecycleRule {
    fn is_of_key(&self, key: &[u8]) -> bool {
        key.starts_with(&self.prefix)
    }

    /// Whether it speaks of nothing but keys: then it is for delete markers and uploads as well.
    fn is_of_keys_only(&self) -> bool {
        self.tags.is_empty() && !self.speaks_of_sizes()
    }

    fn speaks_of_sizes(&self) -> bool {
        self.size_over.is_some() || self.size_under.is_some()
    }

    fn is_of(&self, key: &[u8], size: u64, tags: &[(String, String)]) -> bool {
        self.is_of_key(key)
            && self.tags.iter().all(|tag| tags.contains(tag))
            && self.size_over.is_none_or(|over| size > over)
            && self.size_under.is_none_or(|under| size < under)
    }
}

/// Of what may happen to a version, what is to happen now. To expire goes before all else; of moves that
/// are due the one that was due last.
fn weigh<'a>(
    moments: &[(u64, Fate<'a>)],
    class: Option<&StorageClass>,
    now_ms: u64,
) -> Verdict<'a> {
    let next_ms = moments.iter().map(|(at, _)| *at).filter(|at| *at > now_ms).min();
    let mut due = moments.iter().filter(|(at, _)| *at <= now_ms);
    if due.clone().any(|(_, fate)| *fate == Fate::Expire) {
        return Verdict { now: Some(Fate::Expire), next_ms: None };
    }
    let last = due.by_ref().map(|(at, _)| *at).max();
    let mut moves = moments.iter().filter(|(at, _)| Some(*at) == last).map(|(_, fate)| *fate);
    let now = moves.next_back().filter(|fate| match fate {
        Fate::Expire => true,
        Fate::Move(wanted) => class.is_some_and(|class| class != *wanted),
    });
    Verdict { now, next_ms }
}

impl Lifecycle {
    fn moves(&self, rule: &LifecycleRule, size: u64) -> bool {
        rule.speaks_of_sizes() || size >= self.moved_bytes_min
    }

    /// What becomes of a current version.
    pub fn of_current(&self, key: &[u8], object: &Object, now_ms: u64) -> Verdict<'_> {
        let mut moments = Vec::new();
        let is_of = |rule: &&LifecycleRule| rule.is_of(key, object.size, &object.meta.tags);
        for rule in self.rules.iter().filter(is_of) {
            let at = |when| at(when, object.modified_ms, self.day_ms);
            moments.extend(rule.expire.map(|when| (at(when), Fate::Expire)));
            if self.moves(rule, object.size) {
                let moves = rule.moves.iter();
                moments.extend(moves.map(|(when, class)| (at(*when), Fate::Move(class))));
            }
        }
        weigh(&moments, Some(&object.meta.storage_class), now_ms)
    }

    /// What becomes of a version that was replaced at `since_ms`, and than which so many are `newer` that
    /// were replaced, too.
    pub fn of_noncurrent(
        &self,
        key: &[u8],
        object: &Object,
        since_ms: u64,
        newer: u32,
        now_ms: u64,
    ) -> Verdict<'_> {
        let mut moments = Vec::new();
        let is_of = |rule: &&LifecycleRule| rule.is_of(key, object.size, &object.meta.tags);
        for rule in self.rules.iter().filter(is_of) {
            let at = |when: &Noncurrent| after_days(since_ms, when.days, self.day_ms);
            let holds = |when: &Noncurrent| newer >= when.keep;
            let expire = rule.expire_noncurrent.filter(holds);
            moments.extend(expire.map(|when| (at(&when), Fate::Expire)));
            if self.moves(rule, object.size) {
                let moves = rule.moves_noncurrent.iter().filter(|(when, _)| holds(when));
                moments.extend(moves.map(|(when, class)| (at(when), Fate::Move(class))));
            }
        }
        weigh(&moments, Some(&object.meta.storage_class), now_ms)
    }

    /// What becomes of a delete marker that was replaced at `since_ms`.
    pub fn of_noncurrent_marker(
        &self,
        key: &[u8],
        since_ms: u64,
        newer: u32,
        now_ms: u64,
    ) -> Verdict<'_> {
        let is_of = |rule: &&LifecycleRule| rule.is_of_keys_only() && rule.is_of_key(key);
        let moments: Vec<_> = self
            .rules
            .iter()
            .filter(is_of)
            .filter_map(|rule| rule.expire_noncurrent.filter(|when| newer >= when.keep))
            .map(|when| (after_days(since_ms, when.days, self.day_ms), Fate::Expire))
            .collect();
        weigh(&moments, None, now_ms)
    }

    /// What becomes of a delete marker that hides nothing any more.
    pub fn of_lone_marker(&self, key: &[u8], modified_ms: u64, now_ms: u64) -> Verdict<'_> {
        let is_of = |rule: &&LifecycleRule| rule.is_of_keys_only() && rule.is_of_key(key);
        let mut moments = Vec::new();
        for rule in self.rules.iter().filter(is_of) {
            let expire = rule.expire.map(|when| at(when, modified_ms, self.day_ms));
            let at_once = rule.expire_markers.then_some(modified_ms);
            moments.extend(expire.into_iter().chain(at_once).map(|at| (at, Fate::Expire)));
        }
        weigh(&moments, None, now_ms)
    }

    /// What becomes of an upload that is not completed.
    pub fn of_upload(&self, key: &[u8], created_ms: u64, now_ms: u64) -> Verdict<'_> {
        match self.aborts(key, created_ms) {
            Some((at, _)) => weigh(&[(at, Fate::Expire)], None, now_ms),
            None => Verdict::default(),
        }
    }

    /// When an upload is aborted, and by which rule.
    pub fn aborts(&self, key: &[u8], created_ms: u64) -> Option<(u64, &LifecycleRule)> {
        self.rules
            .iter()
            .filter(|rule| rule.is_of_keys_only() && rule.is_of_key(key))
            .filter_map(|rule| {
                let days = rule.abort_uploads_days?;
                Some((after_days(created_ms, days, self.day_ms), rule))
            })
            .min_by_key(|(at, _)| *at)
    }

    /// When a current version expires, and by which rule.
    pub fn expires(
        &self,
        key: &[u8],
        size: u64,
        tags: &[(String, String)],
        modified_ms: u64,
    ) -> Option<(u64, &LifecycleRule)> {
        self.rules
            .iter()
            .filter(|rule| rule.is_of(key, size, tags))
            .filter_map(|rule| Some((at(rule.expire?, modified_ms, self.day_ms), rule)))
            .min_by_key(|(at, _)| *at)
    }

    /// How many of a key's versions one that was just written can make due.
    pub(crate) fn depth(&self) -> usize {
        let of_rule = |rule: &LifecycleRule| {
            let moves = rule.moves_noncurrent.iter().map(|(when, _)| when.keep);
            moves.chain(rule.expire_noncurrent.map(|when| when.keep)).max()
        };
        self.rules.iter().filter_map(of_rule).max().unwrap_or(0) as usize + 2
    }
}
