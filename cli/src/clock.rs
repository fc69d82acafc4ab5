//! Times as people and APIs write them: RFC 3339, the dates of HTTP, spans in words.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, fmt::rfc2822};

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Seconds since 1970 of an RFC 3339 time, as objects have them.
pub fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// Seconds since 1970 of a header `Date`.
pub fn parse_http(text: &str) -> Option<i64> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok().map(Timestamp::as_second)
}

/// RFC 3339 of seconds since 1970.
pub fn format(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// A span in its two largest units: `3 d 4 h`, `12 min 5 s`.
pub fn span(seconds: i64) -> String {
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

#[cfg(test)]
mod tests {
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
}
