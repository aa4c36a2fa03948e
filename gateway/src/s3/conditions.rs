//! Conditional requests, as pure functions. RFC 9110 §13 as S3 reads it: an entity tag outranks a
//! date, and a copy never answers 304.

use nexusgrid_env::UnixMillis;
use nexusgrid_grid::{EtagMatch, ObjectInfo, Precondition};
use s3s::dto::{ETagCondition, Timestamp};

/// The conditions of a GET or HEAD, or those on a copy's source.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// `If-Match`.
    pub if_match: Option<ETagCondition>,
    /// `If-None-Match`.
    pub if_none_match: Option<ETagCondition>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<Timestamp>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<Timestamp>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Proceed,
    /// 304: the client has it already.
    NotModified,
    /// 412: it is not what the client expects.
    Failed,
}

/// A time of whole seconds, as HTTP dates have it.
pub fn timestamp(time: UnixMillis) -> Timestamp {
    let seconds = std::time::Duration::from_secs(time.0 / 1000);
    Timestamp::from(std::time::SystemTime::UNIX_EPOCH + seconds)
}

/// A time with its milliseconds, as XML has it.
pub fn timestamp_ms(time: UnixMillis) -> Timestamp {
    let millis = std::time::Duration::from_millis(time.0);
    Timestamp::from(std::time::SystemTime::UNIX_EPOCH + millis)
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag,
    }
}

impl Conditions {
    /// Decides for an existing object.
    pub fn evaluate(&self, object: &ObjectInfo) -> Verdict {
        let modified = timestamp(object.last_modified);
        if let Some(condition) = &self.if_match {
            if !matches(condition, &object.etag) {
                return Verdict::Failed;
            }
        } else if let Some(date) = &self.if_unmodified_since
            && modified > *date
        {
            return Verdict::Failed;
        }
        if let Some(condition) = &self.if_none_match {
            if matches(condition, &object.etag) {
                return Verdict::NotModified;
            }
        } else if let Some(date) = &self.if_modified_since
            && modified <= *date
        {
            return Verdict::NotModified;
        }
        Verdict::Proceed
    }
}

fn etag_match(condition: Option<ETagCondition>) -> Option<EtagMatch> {
    condition.map(|condition| match condition {
        ETagCondition::Any => EtagMatch::Any,
        ETagCondition::ETag(etag) => EtagMatch::OneOf(vec![etag.into_value()]),
    })
}

/// The condition of a write: checked by the grid, in the commit.
pub fn precondition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> Precondition {
    Precondition { if_match: etag_match(if_match), if_none_match: etag_match(if_none_match) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> ObjectInfo {
        ObjectInfo {
            key: "k".into(),
            size: 1,
            etag: "abc".into(),
            checksums: Default::default(),
            last_modified: UnixMillis(1_000_500),
            version: Default::default(),
            version_name: None,
            meta: Default::default(),
            part_sizes: Vec::new(),
        }
    }

    fn tag(text: &str) -> Option<ETagCondition> {
        Some(text.parse().unwrap())
    }

    fn date(seconds: u64) -> Option<Timestamp> {
        Some(timestamp(UnixMillis(seconds * 1000)))
    }

    #[test]
    fn every_combination() {
        // (If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since) and the answer.
        let (yes, no, any) = (|| tag("\"abc\""), || tag("\"xyz\""), || tag("*"));
        let (before, at, after) = (|| date(999), || date(1000), || date(1001));
        use Verdict::{Failed, NotModified, Proceed};
        let cases = [
            (None, None, None, None, Proceed),
            (yes(), None, None, None, Proceed),
            (any(), None, None, None, Proceed),
            (no(), None, None, None, Failed),
            (None, None, yes(), None, NotModified),
            (None, None, any(), None, NotModified),
            (None, None, no(), None, Proceed),
            (None, before(), None, None, Failed),
            (None, at(), None, None, Proceed),
            (None, after(), None, None, Proceed),
            (None, None, None, before(), Proceed),
            (None, None, None, at(), NotModified),
            (None, None, None, after(), NotModified),
            // A tag outranks a date.
            (yes(), before(), None, None, Proceed),
            (no(), after(), None, None, Failed),
            (None, None, no(), after(), Proceed),
            (None, None, yes(), before(), NotModified),
            // A failed precondition outranks "not modified".
            (no(), None, yes(), None, Failed),
            (yes(), None, yes(), None, NotModified),
            (None, before(), yes(), None, Failed),
        ];
        for (if_match, if_unmodified_since, if_none_match, if_modified_since, expected) in cases {
            let conditions =
                Conditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
            assert_eq!(conditions.evaluate(&object()), expected, "{conditions:?}");
        }
    }

    #[test]
    fn weak_and_bare_tags_compare_by_value() {
        for text in ["W/\"abc\"", "abc"] {
            let conditions = Conditions { if_match: tag(text), ..Default::default() };
            assert_eq!(conditions.evaluate(&object()), Verdict::Proceed);
        }
    }
}
