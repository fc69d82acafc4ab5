//! Texts to compare with: exactly, or by a regular expression of bounded cost.
//!
//! Regular expressions come from tenants, so their length, their compiled size and their running time are all bounded
//! (ISTIO-SECURITY-2026-006 is what happens otherwise): the `regex` crate runs in time linear in the text.

use std::fmt;

/// Longest pattern accepted, in bytes. The Gateway API's longest value of any match is 4096 (a header's).
pub const MAX_REGEX_LENGTH: usize = 4096;

/// Largest compiled pattern accepted, in bytes; also the most that one worker's lazy automaton may cache.
/// A pattern without large counted repetitions takes a few KiB, so that this stops only `(a{99}){99}` and its like,
/// while a hundred routes of the worst kind stay far below a sidecar's memory.
pub const REGEX_SIZE_LIMIT: usize = 256 * 1024;

/// A regular expression that must match the whole text.
///
/// Fully anchored: `v1` does not match `v10`, as in Envoy's gateways and in Linkerd (the Gateway API leaves it to the
/// implementation); write `v1.*` for a prefix. The dialect is that of the Rust `regex` crate, close to RE2: no look-around
/// and no back-references. It works on bytes, case-sensitive unless it says `(?i)`; classes such as `\w` are ASCII,
/// for nothing else is valid in the parts of a request it is used on.
#[derive(Clone)]
pub struct RegexMatch {
    source: Box<str>,
    compiled: regex::bytes::Regex,
}

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegexError {
    /// Longer than [`MAX_REGEX_LENGTH`].
    TooLong,
    /// Compiles to more than [`REGEX_SIZE_LIMIT`].
    TooLarge,
    /// Not a regular expression of the dialect; the text says where.
    Syntax(String),
}

impl RegexMatch {
    /// Compiles a pattern. Errors when it is not one, or costs too much.
    pub fn new(source: &str) -> Result<Self, RegexError> {
        if source.len() > MAX_REGEX_LENGTH {
            return Err(RegexError::TooLong);
        }
        // By itself first: an unbalanced `a)|(b` must not become valid by the group put around it.
        compile(source)?;
        let compiled = compile(&format!(r"\A(?:{source})\z"))?;
        Ok(Self { source: source.into(), compiled })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole text matches.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }
}

fn compile(pattern: &str) -> Result<regex::bytes::Regex, RegexError> {
    regex::bytes::RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(REGEX_SIZE_LIMIT)
        .dfa_size_limit(REGEX_SIZE_LIMIT)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => RegexError::TooLarge,
            // The pattern and a caret come first, over several lines; the message is the last.
            other => RegexError::Syntax(other.to_string().lines().last().unwrap_or_default().trim().to_owned()),
        })
}

impl PartialEq for RegexMatch {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for RegexMatch {}

impl fmt::Debug for RegexMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegexMatch({:?})", self.source)
    }
}

impl fmt::Display for RegexMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Display for RegexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the regular expression is longer than {MAX_REGEX_LENGTH} bytes"),
            Self::TooLarge => write!(
                f,
                "the regular expression compiles to more than {} KiB; use smaller counted repetitions",
                REGEX_SIZE_LIMIT / 1024
            ),
            Self::Syntax(why) => write!(f, "not a regular expression: {}", why.replace('\n', " ")),
        }
    }
}

impl std::error::Error for RegexError {}

/// A text to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// Byte for byte.
    Exact(String),
    /// The whole text matches the pattern.
    Regex(RegexMatch),
}

impl StringMatch {
    /// Whether the text matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Regex(regex) => regex.is_match(text),
        }
    }

    /// Precedence of this text among others at the same place: exact ones before patterns, then the longer one.
    /// Bigger is more specific.
    pub(crate) fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Exact(exact) => (2, exact.len()),
            Self::Regex(regex) => (1, regex.as_str().len()),
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "exactly {exact:?}"),
            Self::Regex(regex) => write!(f, "a match of {regex}"),
        }
    }
}
