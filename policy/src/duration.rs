//! Durations as text: how every flag, variable and annotation of ours is read, and how durations are shown.
//!
//! The fields of Gateway API objects are read by `mesh-resources`, since GEP-2257 is a specification of its own: it bounds
//! pairs and digits and has no fractions, which this grammar does not refuse. What is shown is in its form, which both read.

use std::time::Duration;

use jiff::fmt::friendly::SpanParser;

/// Reads numbers with units (`h`, `m`, `s`, `ms` and smaller), from largest to smallest: `1h30m`, `250ms`, `1.5s`, `0s`.
/// `None` when the text is anything else, such as a number without a unit. What is too long or too short is the caller's to say.
pub fn read(text: &str) -> Option<Duration> {
    SpanParser::new().parse_unsigned_duration(text).ok()
}

/// A duration as the Gateway API writes it (GEP-2257): `1s500ms`. What is below a millisecond is left out.
pub fn shown(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut text = String::new();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= size {
            text.push_str(&format!("{}{unit}", left / size));
            left %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_read() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("250ms", 250),
            ("1500ms", 1_500),
            ("007s", 7_000),
            ("+5s", 5_000),
            ("1.5s", 1_500),
            ("90s", 90_000),
            ("60m", 3_600_000),
            ("1h30m", 5_400_000),
            ("8760h", 31_536_000_000),
        ] {
            assert_eq!(read(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "5", "m", "-1s", "1x", "1d", "5S", "nan", "5m5h", "99999999999999999999h"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_read_as_the_same() {
        for (milliseconds, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1s500ms"),
            (90_000, "1m30s"),
            (3_600_000, "1h"),
            (5_410_500, "1h30m10s500ms"),
        ] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!((shown(duration).as_str(), read(text)), (text, Some(duration)));
        }
    }
}
