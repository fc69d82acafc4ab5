//! Kubernetes quantities (`100m`, `64Mi`): checked and compared here, passed on as they were written.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Longest text that is looked at; the longest sensible one has a third of it.
const MAX_LENGTH: usize = 40;
/// Digits after the point: the API server rounds beyond nano.
const NANO_DIGITS: u32 = 9;

/// An amount of a resource, in the words of whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity such as 100m, 0.5, 64Mi or 1Gi")]
pub struct QuantityError(pub String);

impl Quantity {
    /// Reads a quantity; it may not be negative.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        nano(text).map(|_| Self(text.to_owned())).ok_or_else(|| QuantityError(text.chars().take(MAX_LENGTH).collect()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is more than another amount of the same resource.
    pub fn exceeds(&self, other: &Self) -> bool {
        nano(&self.0) > nano(&other.0)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// YAML writes `cpu: 1` as a number.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Whole(u64),
            Fraction(f64),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Whole(number) => number.to_string(),
            Written::Fraction(number) => number.to_string(),
        };
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The amount in thousand-millionths; `None` if the text is no quantity or above 2^63 wholes.
fn nano(text: &str) -> Option<i128> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // What is finer than nano is cut: it decides no comparison that anyone makes.
    let fraction = &fraction[..fraction.len().min(NANO_DIGITS as usize)];
    let missing = NANO_DIGITS - u32::try_from(fraction.len()).ok()?;
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let nano = whole.checked_mul(10i128.pow(NANO_DIGITS))?.checked_add(part.checked_mul(10i128.pow(missing))?)?;
    let value = match suffix {
        "n" => nano / 1_000_000_000,
        "u" => nano / 1_000_000,
        "m" => nano / 1_000,
        "" => nano,
        "k" => nano.checked_mul(1_000)?,
        "M" => nano.checked_mul(1_000_000)?,
        "G" => nano.checked_mul(1_000_000_000)?,
        "T" => nano.checked_mul(1_000_000_000_000)?,
        "P" => nano.checked_mul(1_000_000_000_000_000)?,
        "E" => nano.checked_mul(1_000_000_000_000_000_000)?,
        "Ki" => nano.checked_mul(1 << 10)?,
        "Mi" => nano.checked_mul(1 << 20)?,
        "Gi" => nano.checked_mul(1 << 30)?,
        "Ti" => nano.checked_mul(1 << 40)?,
        "Pi" => nano.checked_mul(1 << 50)?,
        "Ei" => nano.checked_mul(1 << 60)?,
        _ => exponent(nano, suffix)?,
    };
    (value <= i128::from(i64::MAX).checked_mul(1_000_000_000)?).then_some(value)
}

/// `1e3`, `5E-2`.
fn exponent(nano: i128, suffix: &str) -> Option<i128> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| (-18..=18).contains(power))?;
    let factor = 10i128.pow(power.unsigned_abs());
    if power < 0 { Some(nano / factor) } else { nano.checked_mul(factor) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn quantities_are_read_and_compared() {
        for (less, more) in [("100m", "0.2"), ("64Mi", "1Gi"), ("999k", "1M"), ("1000Ki", "1Mi"), ("1e2", "0.2k")] {
            assert!(Quantity::parse(more).unwrap().exceeds(&Quantity::parse(less).unwrap()), "{less} < {more}");
        }
        assert!(!Quantity::parse("1000m").unwrap().exceeds(&Quantity::parse("1").unwrap()));
        for right in ["0", "1", ".5", "1.", "1E3", "5e-1", "100n", "7Ei"] {
            Quantity::parse(right).unwrap();
        }
        for wrong in ["", ".", "m", "1.2.3", "-1", "+1", "1 Mi", "1mi", "1KiB", "8Ei", "1e99", "64 Mi", "abc", "1e"] {
            Quantity::parse(wrong).unwrap_err();
        }
        Quantity::parse(&"9".repeat(60)).unwrap_err();
    }
}
