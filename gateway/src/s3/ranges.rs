//! Ranges: from a request's words to the bytes of an object.

use nexusgrid_grid::{ByteRange, ObjectInfo, RejectKind, ResolvedRange};
use s3s::dto::Range;
use s3s::{S3Error, S3ErrorCode};

use crate::error::{invalid_argument, refuse};

/// What a GET or HEAD asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// A range.
    Range(ByteRange),
    /// The n-th part of the upload that made it.
    Part(u32),
}

/// Where the wanted bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The bytes.
    pub range: ResolvedRange,
    /// Whether to answer 206 with a Content-Range.
    pub partial: bool,
}

/// The range of a header.
pub fn byte_range(range: Range) -> ByteRange {
    match range {
        Range::Int { first, last: Some(last) } => ByteRange::FromTo(first, last),
        Range::Int { first, last: None } => ByteRange::From(first),
        Range::Suffix { length } => ByteRange::Suffix(length),
    }
}

/// Reads `Range` and `partNumber`.
pub fn wanted(range: Option<Range>, part: Option<i32>) -> Result<Wanted, S3Error> {
    match (range, part) {
        (None, None) => Ok(Wanted::All),
        (Some(range), None) => Ok(Wanted::Range(byte_range(range))),
        (None, Some(part)) => part_number(part).map(Wanted::Part),
        (Some(_), Some(_)) => {
            Err(refuse(RejectKind::InvalidRequest, "a range and a part number exclude each other"))
        }
    }
}

/// Checks a part number.
pub fn part_number(part: i32) -> Result<u32, S3Error> {
    match u32::try_from(part) {
        Ok(number @ 1..=crate::limits::PARTS_MAX) => Ok(number),
        _ => Err(invalid_argument("a part number is between 1 and 10000")),
    }
}

/// Reads `x-amz-copy-source-range`: `bytes=first-last`, nothing else.
pub fn copy_range(text: &str) -> Result<ByteRange, S3Error> {
    match Range::parse(text) {
        Ok(Range::Int { first, last: Some(last) }) => Ok(ByteRange::FromTo(first, last)),
        _ => Err(invalid_argument("x-amz-copy-source-range must be bytes=first-last")),
    }
}

/// Resolves a range against a size: `None` if no byte lies in it.
pub fn resolve(range: ByteRange, size: u64) -> Option<ResolvedRange> {
    let (start, end) = match range {
        ByteRange::FromTo(first, last) if first <= last => {
            (first, last.saturating_add(1).min(size))
        }
        ByteRange::FromTo(..) => return None,
        ByteRange::From(first) => (first, size),
        ByteRange::Suffix(length) => (size.saturating_sub(length), size),
    };
    (start < end).then_some(ResolvedRange { start, end })
}

/// Finds the wanted bytes in an object.
pub fn locate(wanted: Wanted, object: &ObjectInfo) -> Result<Located, S3Error> {
    let whole = ResolvedRange { start: 0, end: object.size };
    match wanted {
        Wanted::All => Ok(Located { range: whole, partial: false }),
        Wanted::Range(range) => match resolve(range, object.size) {
            Some(range) => Ok(Located { range, partial: true }),
            None => Err(crate::error::from_grid(nexusgrid_grid::GridError::InvalidRange {
                size: object.size,
            })),
        },
        // An object of a single PUT has one part.
        Wanted::Part(1) if object.part_sizes.is_empty() => {
            Ok(Located { range: whole, partial: object.size > 0 })
        }
        Wanted::Part(number) => {
            let index = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
            let Some(size) = object.part_sizes.get(index) else {
                return Err(no_such_part());
            };
            let start = object.part_sizes.iter().take(index).sum::<u64>();
            Ok(Located {
                range: ResolvedRange { start, end: start.saturating_add(*size) },
                partial: *size > 0,
            })
        }
    }
}

fn no_such_part() -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidPart, "the object has no such part")
}

/// The Content-Range of a part of an object.
pub fn content_range(range: ResolvedRange, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(size: u64, part_sizes: Vec<u64>) -> ObjectInfo {
        ObjectInfo {
            key: "k".into(),
            size,
            etag: "e".into(),
            checksums: Default::default(),
            last_modified: Default::default(),
            version: Default::default(),
            version_name: None,
            meta: Default::default(),
            part_sizes,
        }
    }

    #[test]
    fn ranges_of_ten_bytes() {
        let cases = [
            ("bytes=0-0", Some((0, 1))),
            ("bytes=2-5", Some((2, 6))),
            ("bytes=9-", Some((9, 10))),
            ("bytes=0-99", Some((0, 10))),
            ("bytes=-3", Some((7, 10))),
            ("bytes=-99", Some((0, 10))),
            ("bytes=10-", None),
            ("bytes=10-11", None),
            ("bytes=-0", None),
        ];
        for (text, expected) in cases {
            let range = byte_range(Range::parse(text).unwrap());
            let got = resolve(range, 10).map(|range| (range.start, range.end));
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn nothing_of_an_empty_object_can_be_in_a_range() {
        for range in [ByteRange::FromTo(0, 0), ByteRange::From(0), ByteRange::Suffix(5)] {
            assert_eq!(resolve(range, 0), None);
        }
        let located = locate(Wanted::All, &object(0, vec![])).unwrap();
        assert_eq!((located.range.start, located.range.end, located.partial), (0, 0, false));
    }

    #[test]
    fn parts_follow_each_other() {
        let object = object(25, vec![10, 10, 5]);
        let part = |n| locate(Wanted::Part(n), &object).map(|l| (l.range.start, l.range.end));
        assert_eq!(part(1).unwrap(), (0, 10));
        assert_eq!(part(3).unwrap(), (20, 25));
        assert_eq!(part(4).unwrap_err().status_code().unwrap().as_u16(), 400);
        let single = self::object(7, vec![]);
        assert_eq!(locate(Wanted::Part(1), &single).unwrap().range.end, 7);
        assert!(locate(Wanted::Part(2), &single).is_err());
    }

    proptest! {
        #[test]
        fn resolved_ranges_agree_with_the_byte_by_byte_rule(first in 0u64..30, last in 0u64..30, size in 0u64..30, kind in 0..3) {
            let range = match kind {
                0 => ByteRange::FromTo(first, last),
                1 => ByteRange::From(first),
                _ => ByteRange::Suffix(first),
            };
            let wanted: Vec<u64> = (0..size)
                .filter(|at| match range {
                    ByteRange::FromTo(first, last) => first <= *at && *at <= last,
                    ByteRange::From(first) => first <= *at,
                    ByteRange::Suffix(length) => *at + length >= size,
                })
                .collect();
            let got: Vec<u64> = resolve(range, size).map(|r| (r.start..r.end).collect()).unwrap_or_default();
            prop_assert_eq!(got, wanted);
        }
    }
}
