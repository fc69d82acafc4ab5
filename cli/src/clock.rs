//! Times as people and APIs write them: RFC 3339, the dates of HTTP, spans in words, durations of command lines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, fmt::rfc2822};
use mesh_policy::duration;

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Seconds since 1970 of an RFC 3339 time, as objects have them.
pub(crate) fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// Seconds since 1970 of a header `Date`.
pub(crate) fn parse_http(text: &str) -> Option<i64> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok().map(Timestamp::as_second)
}

/// RFC 3339 of seconds since 1970.
pub(crate) fn format(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// A span in its two largest units: `3 d 4 h`, `12 min 5 s`.
pub(crate) fn span(seconds: i64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let mut left = seconds.unsigned_abs();
    let mut parts = Vec::new();
    for (unit, size) in UNITS {
        let number = left / size;
        if number > 0 || (unit == "s" && parts.is_empty()) {
            parts.push(format!("{number} {unit}"));
        }
        left %= size;
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

/// Reads a duration of a command line: `30s`, `5m`, `1h30m`, `250ms` (`mesh_policy::duration`), or a number of seconds, which
/// only those who type it may write. The error says how it is written, or that it is more than `longest`.
pub(crate) fn duration(text: &str, longest: Duration) -> Result<Duration, String> {
    let read = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => duration::read(text).ok_or("write a number and its unit (h, m, s, ms), as in 30s or 1h30m, or 0")?,
    };
    if read > longest {
        return Err(format!("the longest is {}", duration::shown(longest)));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        assert_eq!(parse("2020-09-08T01:02:03.123456Z"), Some(1_599_526_923));
        assert_eq!(parse_http("Tue, 08 Sep 2020 01:02:03 GMT"), Some(1_599_526_923));
        assert_eq!(format(1_599_526_923), "2020-09-08T01:02:03Z");
        assert_eq!((parse("soon"), parse_http("soon")), (None, None));
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (3_660, "1 h 1 min"), (86_400 * 3 + 5, "3 d 5 s"), (-90, "1 min 30 s")]
        {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn durations_have_a_unit_and_a_limit() {
        let read = |text: &str| duration(text, Duration::from_secs(24 * 3600));
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("5", 5_000),
            ("250ms", 250),
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(read(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "m", "-1s", "1x", "1d", "nan", "99999999999999999999h", "18446744073709551615h"] {
            read(wrong).unwrap_err();
        }
        assert_eq!(read("25h").unwrap_err(), "the longest is 24h");
    }
}
