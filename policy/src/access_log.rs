//! Which requests and connections of a pod are logged, and what is told of them beyond the usual. The sidecar does it
//! (`mesh_proxy::access_log`); this is what annotations say, read and decided.

use std::{fmt, str::FromStr, time::Duration};

use http::{HeaderName, header};
use serde::{Deserialize, Serialize};

use crate::{duration, outcome::Class};

/// A sample of all.
pub const WHOLE: u32 = 1_000_000;
/// The longest time of `slow`.
const MAX_SLOW: Duration = Duration::from_secs(24 * 3600);
/// Most headers that may be named.
pub const MAX_HEADERS: usize = 16;
/// Headers that are credentials: never logged, whoever names them.
pub const SECRET: [HeaderName; 4] =
    [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE, header::PROXY_AUTHORIZATION];
/// The attribute of the query.
const QUERY: &str = "url.query";
/// What the attribute of a header of a request begins with (OpenTelemetry semantic conventions, HTTP).
pub const HEADER_ATTRIBUTE: &str = "http.request.header.";

/// What is logged. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLog {
    /// Everything that did not end as it should.
    pub errors: bool,
    /// What took at least so long.
    pub slow: Option<Duration>,
    /// Of everything, so many of a million.
    pub sample: u32,
    /// Attributes that are told only where they are named.
    pub attributes: Attributes,
}

/// Attributes that may have secrets in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `url.query`.
    pub query: bool,
    /// `http.request.header.NAME`, in this order.
    pub headers: Vec<HeaderName>,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An object of JSON.
    #[default]
    Json,
    /// `name=value`, separated by spaces; values with other characters in quotes.
    Text,
}

impl AccessLog {
    /// Reads words as in `errors,slow=500ms,sample=0.01`; `off` and `all` stand alone. The error says which word is wrong.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut read = Self::default();
        match text.trim() {
            "off" => return Ok(read),
            "all" => return Ok(Self { sample: WHOLE, ..read }),
            _ => {}
        }
        for word in text.split(',').map(str::trim) {
            match word.split_once('=') {
                None if word == "errors" => read.errors = true,
                Some(("slow", time)) => {
                    let time = duration::read(time).filter(|time| *time <= MAX_SLOW);
                    read.slow = Some(time.ok_or_else(|| wrong(word))?);
                }
                Some(("sample", part)) => read.sample = sample(part).ok_or_else(|| wrong(word))?,
                _ => return Err(wrong(word)),
            }
        }
        Ok(read)
    }

    /// Whether nothing is logged.
    pub fn is_off(&self) -> bool {
        !self.errors && self.slow.is_none() && self.sample == 0
    }

    /// Whether something is logged that ended so after so long. `is_sampled`: it is one of the sample.
    pub fn wants(&self, class: Class, took: Duration, is_sampled: bool) -> bool {
        is_sampled
            || self.errors && !matches!(class, Class::Success | Class::NotFound)
            || self.slow.is_some_and(|slow| took >= slow)
    }
}

fn wrong(word: &str) -> String {
    format!("{word:?} is none of: off, errors, slow=500ms, sample=0.01, all")
}

/// A share from 0 to 1, as parts of a million.
fn sample(text: &str) -> Option<u32> {
    let share: f64 = text.parse().ok().filter(|share| (0.0..=1.0).contains(share))?;
    // At most a million, so nothing is lost.
    Some((share * f64::from(WHOLE)).round() as u32)
}

impl Attributes {
    /// Reads names as in `url.query,http.request.header.x-user`. The error says which name is wrong.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name.strip_prefix(HEADER_ATTRIBUTE) {
                None if name == QUERY => read.query = true,
                None => return Err(format!("{name:?} is neither {QUERY} nor {HEADER_ATTRIBUTE}NAME")),
                Some(header) => {
                    let header: HeaderName =
                        header.parse().map_err(|_| format!("{header:?} is no name of a header"))?;
                    if SECRET.contains(&header) {
                        return Err(format!("{header} has credentials, which are never logged"));
                    }
                    if !read.headers.contains(&header) {
                        read.headers.push(header);
                    }
                }
            }
        }
        match read.headers.len() > MAX_HEADERS {
            true => Err(format!("{} headers are named; {MAX_HEADERS} may be", read.headers.len())),
            false => Ok(read),
        }
    }

    /// Their names, as they are read.
    pub fn names(&self) -> Vec<String> {
        let headers = self.headers.iter().map(|name| format!("{HEADER_ATTRIBUTE}{name}"));
        self.query.then(|| QUERY.to_owned()).into_iter().chain(headers).collect()
    }
}

impl FromStr for Format {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Text => "text",
        })
    }
}

/// In the words that are read.
impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sample == WHOLE {
            return f.write_str("all");
        }
        let errors = self.errors.then(|| "errors".to_owned());
        let slow = self.slow.map(|slow| format!("slow={}", duration::shown(slow)));
        let sample = (self.sample > 0).then(|| format!("sample={}", f64::from(self.sample) / f64::from(WHOLE)));
        let words: Vec<String> = errors.into_iter().chain(slow).chain(sample).collect();
        f.write_str(if words.is_empty() { "off".to_owned() } else { words.join(",") }.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_are_read_and_shown_alike() {
        for text in ["off", "errors", "slow=500ms", "sample=0.01", "all", "errors,slow=1s500ms,sample=0.000001"] {
            assert_eq!(AccessLog::read(text).unwrap().to_string(), text);
        }
        assert_eq!(AccessLog::read(" errors , slow=2s ").unwrap().to_string(), "errors,slow=2s");
        assert_eq!(AccessLog::read("sample=1").unwrap(), AccessLog::read("all").unwrap());
        assert!(AccessLog::read("sample=0").unwrap().is_off() && !AccessLog::read("slow=0s").unwrap().is_off());
        for wrong in
            ["", "on", "errors,all", "slow", "slow=25h", "slow=500", "sample=1.5", "sample=-1", "sample=NaN", "errors,"]
        {
            assert!(AccessLog::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wanted_is_logged() {
        let wants = |text: &str, class, millis, sampled| {
            AccessLog::read(text).unwrap().wants(class, Duration::from_millis(millis), sampled)
        };
        for (text, class, millis, expected) in [
            ("errors", Class::Failure, 0, true),
            ("errors", Class::Denied, 0, true),
            ("errors", Class::Cancelled, 0, true),
            ("errors", Class::NotFound, 0, false),
            ("errors", Class::Success, 9_000, false),
            ("slow=500ms", Class::Success, 499, false),
            ("slow=500ms", Class::Success, 500, true),
            ("sample=0.5", Class::Failure, 9_000, false),
        ] {
            assert_eq!(wants(text, class, millis, false), expected, "{text} {class:?} {millis}");
            assert!(wants(text, class, millis, true));
        }
    }

    #[test]
    fn credentials_are_never_named() {
        let read = Attributes::read("url.query, http.request.header.X-User,http.request.header.x-user").unwrap();
        assert_eq!(read, Attributes { query: true, headers: vec![HeaderName::from_static("x-user")] });
        assert_eq!(Attributes::read("").unwrap(), Attributes::default());
        let many: Vec<String> = (0..=MAX_HEADERS).map(|n| format!("{HEADER_ATTRIBUTE}x-{n}")).collect();
        for wrong in ["query", "http.request.header.", "http.request.header.Cookie", "url.path", &many.join(",")] {
            assert!(Attributes::read(wrong).is_err(), "{wrong}");
        }
    }
}
