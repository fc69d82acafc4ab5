//! Texts to compare with: exactly, or by a regular expression of bounded cost.
//!
//! Regular expressions come from tenants, so their length, their compiled size and their running time are all bounded
//! (ISTIO-SECURITY-2026-006 is what happens otherwise): `regex-automata` runs in time linear in the text. A pattern is a
//! text until somebody matches with it; its program, which is what costs memory, is made on its own ([`RegexMatch::compile`])
//! and shared by all copies. What many patterns may cost together is said in [`crate::bounds`].

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::reach::{self, Paths};
use regex_automata::{
    meta,
    nfa::thompson::WhichCaptures,
    util::syntax::{self, parse_with},
};

/// Longest pattern accepted, in bytes. The Gateway API's longest value of any match is 4096 (a header's).
pub const MAX_REGEX_LENGTH: usize = 4096;

/// Largest program accepted, in bytes, what it needs while it matches included ([`RegexMatch::compile`]). A pattern without
/// large counted repetitions takes about 12 KiB, so that this stops only `(a{99}){99}` and its like.
pub const REGEX_SIZE_LIMIT: usize = 256 * 1024;

/// Largest automaton that is made at all: twice that and what it needs while it matches is about [`REGEX_SIZE_LIMIT`].
const AUTOMATON_LIMIT: usize = REGEX_SIZE_LIMIT / 2;
/// What a worker may keep of states that it met while matching: four times the automaton, and from 4 to 16 KiB. States
/// beyond are found anew. It is part of what a pattern is said to cost.
const STATES: std::ops::RangeInclusive<usize> = 4 * 1024..=16 * 1024;

/// A regular expression that must match the whole text.
///
/// Fully anchored: `v1` does not match `v10`, as in Envoy's gateways and in Linkerd (the Gateway API leaves it to the
/// implementation); write `v1.*` for a prefix. The dialect is that of the Rust `regex` crate, close to RE2: no look-around
/// and no back-references. It works on bytes, case-sensitive unless it says `(?i)`; classes such as `\w` are ASCII,
/// for nothing else is valid in the parts of a request it is used on. Copies share text and program.
#[derive(Clone)]
pub struct RegexMatch(Arc<Pattern>);

struct Pattern {
    source: Box<str>,
    /// `None` in it: it cannot be compiled, so nothing matches.
    program: OnceLock<Option<Arc<Program>>>,
    /// Which paths it can match, once somebody asked.
    paths: OnceLock<Paths>,
}

/// A compiled pattern.
pub struct Program {
    regex: meta::Regex,
    /// See [`RegexMatch::compile`].
    pub(crate) cost: usize,
}

impl Program {
    /// The bytes that it takes.
    pub fn cost(&self) -> usize {
        self.cost
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("cost", &self.cost).finish_non_exhaustive()
    }
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
    /// Reads and compiles a pattern. Errors when it is not one, or costs too much.
    pub fn new(source: &str) -> Result<Self, RegexError> {
        let pattern = Self::parse(source)?;
        pattern.compile()?;
        Ok(pattern)
    }

    /// Reads a pattern. Errors when it is not one; what it costs is told by [`Self::compile`] or [`Self::measure`]. If none of
    /// them is asked, it is compiled when it is first matched with, and matches nothing where that fails.
    pub fn parse(source: &str) -> Result<Self, RegexError> {
        if source.len() > MAX_REGEX_LENGTH {
            return Err(RegexError::TooLong);
        }
        // By itself: an unbalanced `a)|(b` must not become valid by the group that is put around it.
        parse_with(source, &dialect()).map_err(|error| RegexError::Syntax(last_line(&error.to_string())))?;
        Ok(Self(Arc::new(Pattern { source: source.into(), program: OnceLock::new(), paths: OnceLock::new() })))
    }

    /// Makes the program, if there is none yet, and gives the most memory that it takes, in bytes: the program, and what a
    /// worker holds while it matches.
    pub fn compile(&self) -> Result<usize, RegexError> {
        self.program().map(|program| program.cost)
    }

    /// What [`Self::compile`] gives, without keeping the program.
    pub fn measure(&self) -> Result<usize, RegexError> {
        match self.0.program.get() {
            Some(Some(program)) => Ok(program.cost),
            Some(None) => Err(RegexError::TooLarge),
            None => compile(&self.0.source).map(|program| program.cost),
        }
    }

    /// The program, made if there is none yet.
    pub(crate) fn program(&self) -> Result<Arc<Program>, RegexError> {
        if let Some(known) = self.0.program.get() {
            return known.clone().ok_or(RegexError::TooLarge);
        }
        let made = compile(&self.0.source).map(Arc::new);
        let kept = self.0.program.get_or_init(|| made.as_ref().ok().cloned());
        made.and_then(|_| kept.clone().ok_or(RegexError::TooLarge))
    }

    /// Takes the program that another pattern of the same text has; one that is there already stays.
    pub(crate) fn adopt(&self, program: &Arc<Program>) -> Arc<Program> {
        let kept = self.0.program.get_or_init(|| Some(program.clone()));
        kept.clone().unwrap_or_else(|| program.clone())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0.source
    }

    /// Which paths it can match.
    pub fn paths(&self) -> Paths {
        *self.0.paths.get_or_init(|| reach::paths(&whole(&self.0.source), &dialect()))
    }

    /// Whether the whole text matches.
    pub fn is_match(&self, text: &[u8]) -> bool {
        let program = self.0.program.get_or_init(|| compile(&self.0.source).ok().map(Arc::new));
        program.as_ref().is_some_and(|program| program.regex.is_match(text))
    }
}

fn dialect() -> syntax::Config {
    syntax::Config::new().unicode(false).utf8(false)
}

/// The pattern that must match the whole text.
fn whole(source: &str) -> String {
    format!(r"\A(?:{source})\z")
}

fn compile(source: &str) -> Result<Program, RegexError> {
    let whole = whole(source);
    // Programs that only find captures faster, or that look for literals in texts that are anchored, cost and gain nothing.
    let lean = meta::Config::new()
        .utf8_empty(false)
        .nfa_size_limit(Some(AUTOMATON_LIMIT))
        .which_captures(WhichCaptures::Implicit)
        .auto_prefilter(false)
        .onepass(false)
        .dfa(false)
        // It would remember up to 256 KiB of each text.
        .backtrack(false);
    let build = |config: meta::Config| {
        meta::Regex::builder().syntax(dialect()).configure(config).build(&whole).map_err(|error| {
            let syntax = error.syntax_error().map(|error| RegexError::Syntax(last_line(&error.to_string())));
            syntax.unwrap_or(RegexError::TooLarge)
        })
    };
    let states =
        build(lean.clone().hybrid(false))?.memory_usage().saturating_mul(4).clamp(*STATES.start(), *STATES.end());
    let regex = build(lean.hybrid(true).hybrid_cache_capacity(states))?;
    // What simulates the automaton where states run out is smaller than the automaton.
    let cost = regex.memory_usage().saturating_mul(2).saturating_add(states);
    if cost > REGEX_SIZE_LIMIT { Err(RegexError::TooLarge) } else { Ok(Program { regex, cost }) }
}

/// The pattern and a caret come first, over several lines; the message is the last.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim().to_owned()
}

impl PartialEq for RegexMatch {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.source == other.0.source
    }
}

impl Eq for RegexMatch {}

impl fmt::Debug for RegexMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegexMatch({:?})", self.as_str())
    }
}

impl fmt::Display for RegexMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
