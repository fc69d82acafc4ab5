//! What a scalar means: the rules of the YAML library of kubectl, Helm and API servers (go-yaml 2, which is YAML 1.1 but for numbers to
//! base 60), and how its values become those of JSON.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Number, Value};

/// What a scalar can be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Above the others.
    UInt(u64),
    Float(f64),
    Text(String),
}

/// Resolves a scalar that is not in quotes, or has a tag. `tag` is the name of a tag of YAML's own, such as `int`.
pub(super) fn resolve(tag: Option<&str>, text: &str) -> Result<Scalar, String> {
    let found = match tag {
        Some("str") => return Ok(Scalar::Text(text.to_owned())),
        Some("binary") => {
            let bytes = STANDARD.decode(text.split_ascii_whitespace().collect::<String>());
            let bytes = bytes.map_err(|_| "what is tagged !!binary is not base64".to_owned())?;
            return Ok(Scalar::Text(String::from_utf8_lossy(&bytes).into_owned()));
        }
        _ => plain(text),
    };
    match (tag, found) {
        (None, found)
        | (Some("null"), found @ Scalar::Null)
        | (Some("bool"), found @ Scalar::Bool(_))
        | (Some("int"), found @ (Scalar::Int(_) | Scalar::UInt(_)))
        | (Some("float"), found @ Scalar::Float(_))
        | (Some("timestamp"), found @ Scalar::Text(_)) => Ok(found),
        #[allow(clippy::cast_precision_loss)] // as the tag asks for
        (Some("float"), Scalar::Int(number)) => Ok(Scalar::Float(number as f64)),
        (Some(tag), _) => Err(format!("{text:?} is tagged !!{tag} and is none")),
    }
}

/// A scalar without quotes and tag.
fn plain(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let number = match text.as_bytes().first() {
        Some(b'.') => float(&without_underscores(text)),
        Some(b'0'..=b'9' | b'+' | b'-') => {
            let digits = text.replace('_', "");
            integer(&digits).or_else(|| float(&digits))
        }
        _ => None,
    };
    number.unwrap_or_else(|| Scalar::Text(text.to_owned()))
}

/// Without the underscores between digits, which here may stand nowhere else.
fn without_underscores(text: &str) -> String {
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let kept =
        text.char_indices().filter(|(at, c)| *c != '_' || !is_digit(at.checked_sub(1)) || !is_digit(Some(at + 1)));
    kept.map(|(_, c)| c).collect()
}

/// A whole number in the notation of its prefix: `0x`, `0b`, `0o`, and `0`, which is octal too.
fn integer(text: &str) -> Option<Scalar> {
    let (is_negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some(_) if digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let size = u64::from_str_radix(digits, radix).ok()?;
    match (is_negative, i64::try_from(size)) {
        (false, Ok(number)) => Some(Scalar::Int(number)),
        (true, Ok(number)) => Some(Scalar::Int(-number)),
        (true, Err(_)) if size == i64::MIN.unsigned_abs() => Some(Scalar::Int(i64::MIN)),
        // Of the numbers that only fit without a sign, none may have one.
        (false, Err(_)) if !text.starts_with('+') => Some(Scalar::UInt(size)),
        _ => None,
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, if it is a number that there is.
fn float(text: &str) -> Option<Scalar> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, rest)| (whole, Some(rest)));
    let is_mantissa = all_digits(whole)
        && fraction.is_none_or(all_digits)
        && !(whole.is_empty() && fraction.is_none_or(str::is_empty));
    let is_exponent = exponent.is_none_or(|digits| !digits.is_empty() && all_digits(digits));
    if !is_mantissa || !is_exponent {
        return None;
    }
    // `1.` and `.5` are read as `1.0` and `0.5`.
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Scalar::Float)
}

impl Scalar {
    /// As a value of JSON.
    pub(super) fn into_value(self) -> Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => value.into(),
            Self::Int(number) => number.into(),
            Self::UInt(number) => number.into(),
            Self::Float(number) => {
                whole(number).or_else(|| Number::from_f64(number)).map(Value::Number).ok_or_else(|| {
                    format!("{number} is no number that JSON has, so no API server takes it; put it in quotes if it is a text")
                })?
            }
            Self::Text(text) => text.into(),
        })
    }

    /// As the key of a map.
    pub(super) fn into_key(self) -> Result<String, String> {
        Ok(match self {
            Self::Null => return Err("a key is null or empty; put it in quotes if it is a text".to_owned()),
            Self::Bool(value) => value.to_string(),
            Self::Int(number) => number.to_string(),
            Self::UInt(number) => return Err(format!("the key {number} is too large a number; put it in quotes")),
            Self::Float(number) => key_of_float(number),
            Self::Text(text) => text,
        })
    }
}

/// A float that is a whole number: JSON has no other form for it (`400.0` is written 400).
pub(super) fn whole(number: f64) -> Option<Number> {
    /// Above this floats skip whole numbers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation)] // it is whole and small enough
    (number.fract() == 0.0 && number.abs() <= EXACT).then(|| Number::from(number as i64))
}

/// `%g` of C for a number of 32 bits, in as few digits as tell it from others.
#[allow(clippy::cast_possible_truncation)] // so does kubectl
fn key_of_float(number: f64) -> String {
    let number = number as f32;
    if number.is_nan() || number.is_infinite() {
        return if number.is_nan() {
            ".nan"
        } else if number > 0.0 {
            ".inf"
        } else {
            "-.inf"
        }
        .to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    // The bounds of `%g` for the shortest form.
    if !(-4..6).contains(&exponent) {
        let mut key = mantissa.to_owned();
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(key, "e{sign}{:02}", exponent.abs());
        return key;
    }
    number.to_string()
}
