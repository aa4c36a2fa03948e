//! Times as policies write them.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// Milliseconds since 1970-01-01 UTC of an ISO 8601 date or time, or of seconds since then. A time
/// without a zone is UTC.
pub fn parse(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1000);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    let civil = match text.parse::<Date>() {
        Ok(date) if text.len() <= 10 => date.to_datetime(jiff::civil::Time::midnight()),
        _ => text.parse::<DateTime>().ok()?,
    };
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// Milliseconds since 1970-01-01 UTC of a time as HTTP has it (`Tue, 27 Mar 2007 19:36:42 GMT`); the
/// weekday may be wrong.
pub fn parse_http(text: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    Some(parser.parse_timestamp(text).ok()?.as_millisecond())
}

/// A time as `2026-11-22T20:15:00Z`, or with milliseconds where there are some.
pub fn iso8601(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_string()
}

/// A time in UTC by a pattern of `strftime`.
pub fn written(unix_ms: u64, pattern: &str) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    time.strftime(pattern).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1970-01-02", Some(86_400_000)),
            ("1970-01-02T00:00:01Z", Some(86_401_000)),
            ("1970-01-02T01:00:01+01:00", Some(86_401_000)),
            ("1970-01-02T00:00:01", Some(86_401_000)),
            ("1970-01-02T00:00:01.5Z", Some(86_401_500)),
            ("yesterday", None),
            ("1970-13-02", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(iso8601(86_401_000), "1970-01-02T00:00:01Z");
    }
}
