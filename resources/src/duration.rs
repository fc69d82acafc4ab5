//! Durations of the Gateway API (GEP-2257): up to four pairs of at most five digits and `h`, `m`, `s` or `ms`.
//!
//! Read apart from our own flags, variables and annotations (`mesh_policy::duration`): what the specification forbids must be
//! refused here, as another implementation would, and units may come in any order and repeat.

use std::time::Duration;

use crate::{problem::Report, walker::Node};

/// The longest single pair. Several pairs may add up to more, which is as good as for ever.
const LONGEST: Duration = Duration::from_secs(99_999 * 3600);

/// Reads a duration such as `1h30m` or `500ms`, at most [`LONGEST`]. `None` when the text is not one.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    const MAX_PAIRS: usize = 4;
    const MAX_DIGITS: usize = 5;
    let (mut rest, mut total, mut pairs) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        pairs += 1;
        if pairs > MAX_PAIRS || !(1..=MAX_DIGITS).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let (millis, after) = if let Some(after) = after.strip_prefix("ms") {
            (number, after)
        } else if let Some(after) = after.strip_prefix('s') {
            (number * 1000, after)
        } else if let Some(after) = after.strip_prefix('m') {
            (number * 60_000, after)
        } else {
            (number * 3_600_000, after.strip_prefix('h')?)
        };
        total += Duration::from_millis(millis);
        rest = after;
    }
    (pairs > 0).then_some(total.min(LONGEST))
}

/// The duration in a field; `None` also when it is none, which is reported with what follows from that.
pub(crate) fn read(node: &Node<'_>, field: &str, effect: &str, report: &mut Report<'_>) -> Option<Duration> {
    let mark = report.mark();
    let text = node.text(field, report).ok().flatten();
    let parsed = text.and_then(parse);
    if let (Some(text), None) = (text, parsed) {
        let what = format!("{} is not a duration", crate::walker::short(text));
        node.invalid(field, what, "write up to four of h, m, s, ms, as in 1m30s", report);
    }
    report.effect(mark, effect);
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_gep() {
        for (text, millis) in [
            ("0h", Some(0)),
            ("0s", Some(0)),
            ("1h", Some(3_600_000)),
            ("30m", Some(1_800_000)),
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("2h30m", Some(9_000_000)),
            ("5m30s30s", Some(360_000)),
            ("1h30m10s500ms", Some(5_410_500)),
            ("99999h99999h", Some(99_999 * 3_600_000)),
            ("", None),
            ("1", None),
            ("1d", None),
            ("1.5h", None),
            ("-1s", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("10S", None),
            ("é", None),
        ] {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
