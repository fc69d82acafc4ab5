//! Which paths a pattern can match: a search through its automaton together with a small one that accepts the paths that
//! routes are matched against ([`super::settle()`]).
//!
//! A pattern is never compared with most of what it might match: `api/.*` matches no path at all, for each begins with a
//! slash, and `/get/https?://.*` none that is settled, for settling takes empty segments out. The first is told; the second
//! is given the path with its empty segments.

use regex_automata::{
    nfa::thompson::{Compiler, Config, NFA, State, WhichCaptures},
    util::{primitives::StateID, syntax},
};

/// The paths that a pattern can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// Some that requests have once they are settled, or nobody knows.
    Settled,
    /// Only such as have empty segments (`//`).
    Unmerged,
    /// None.
    None,
}

/// Most states of an automaton that is searched: beyond, nothing is said of it.
const MAX_STATES: usize = 20_000;

/// How a path is read, byte by byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Nothing yet.
    Start,
    /// Behind a slash.
    Slash,
    /// Behind `/.`, `/..`, and in any other segment.
    Dot,
    Dots,
    Segment,
    /// Behind `%`, and behind its first digit.
    Escape,
    Digit,
    /// Behind `*`, of `OPTIONS *`.
    Star,
}

const READINGS: usize = 8;

impl Reading {
    /// What follows on `byte`; `None`: no path goes on like this. `merged`: empty segments are taken out.
    fn next(self, byte: u8, merged: bool) -> Option<Self> {
        let is_path = (b'!'..=b'~').contains(&byte) && !matches!(byte, b'?' | b'#');
        Some(match (self, byte) {
            _ if !is_path => return None,
            (Self::Start, b'/') => Self::Slash,
            (Self::Start, b'*') => Self::Star,
            (Self::Start | Self::Star, _) => return None,
            (Self::Slash, b'/') => return (!merged).then_some(Self::Slash),
            (Self::Dot | Self::Dots, b'/') => return None,
            (_, b'/') => Self::Slash,
            (Self::Slash, b'.') => Self::Dot,
            (Self::Dot, b'.') => Self::Dots,
            (Self::Escape | Self::Digit, b'a'..=b'f') => return None,
            (Self::Escape, b'0'..=b'9' | b'A'..=b'F') => Self::Digit,
            (_, b'%') => Self::Escape,
            _ => Self::Segment,
        })
    }

    /// Whether a path may end here.
    fn is_end(self) -> bool {
        !matches!(self, Self::Start | Self::Dot | Self::Dots)
    }
}

/// Which paths a pattern can match that must match the whole of them.
pub(super) fn paths(pattern: &str, dialect: &syntax::Config) -> Paths {
    let config = Config::new()
        .utf8(false)
        .which_captures(WhichCaptures::None)
        .nfa_size_limit(Some(super::text::REGEX_SIZE_LIMIT));
    let compiled = Compiler::new().configure(config).syntax(*dialect).build(pattern);
    let Some(nfa) = compiled.ok().filter(|nfa| nfa.states().len() <= MAX_STATES) else { return Paths::Settled };
    match (can_match(&nfa, true), can_match(&nfa, false)) {
        (true, _) => Paths::Settled,
        (false, true) => Paths::Unmerged,
        (false, false) => Paths::None,
    }
}

/// Whether it matches any path. Assertions are taken to hold, so that it is never said of one that does that it does not.
fn can_match(nfa: &NFA, merged: bool) -> bool {
    let mut seen = vec![0u8; nfa.states().len()];
    let mut open = vec![(nfa.start_anchored(), Reading::Start)];
    while let Some((state, reading)) = open.pop() {
        let bit = 1u8 << (reading as usize % READINGS);
        match seen.get_mut(state.as_usize()) {
            Some(known) if *known & bit == 0 => *known |= bit,
            _ => continue,
        }
        let mut on = |first: u8, last: u8, to: StateID| {
            open.extend((first..=last).filter_map(|byte| reading.next(byte, merged)).map(|next| (to, next)));
        };
        match nfa.state(state) {
            State::ByteRange { trans } => on(trans.start, trans.end, trans.next),
            State::Sparse(sparse) => sparse.transitions.iter().for_each(|trans| on(trans.start, trans.end, trans.next)),
            State::Dense(dense) => {
                (0..=u8::MAX)
                    .zip(&*dense.transitions)
                    .filter(|(_, to)| to.as_usize() != 0)
                    .for_each(|(byte, to)| on(byte, byte, *to));
            }
            State::Look { next, .. } | State::Capture { next, .. } => open.push((*next, reading)),
            State::Union { alternates } => open.extend(alternates.iter().map(|next| (*next, reading))),
            State::BinaryUnion { alt1, alt2 } => open.extend([(*alt1, reading), (*alt2, reading)]),
            State::Match { .. } if reading.is_end() => return true,
            State::Match { .. } | State::Fail => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::route::RegexMatch;

    #[test]
    fn what_a_pattern_can_match() {
        for (pattern, paths) in [
            ("/v[0-9]+", Paths::Settled),
            (".*", Paths::Settled),
            ("/a.*|b", Paths::Settled),
            ("(?i)/%7e.*|/x", Paths::Settled),
            ("/caf%C3%A9", Paths::Settled),
            ("/a/\\.well-known/.*", Paths::Settled),
            ("\\*", Paths::Settled),
            ("^/a$", Paths::Settled),
            ("/proxy/https?://.*", Paths::Unmerged),
            ("/a/(/b|/c)", Paths::Unmerged),
            ("/+/.*", Paths::Unmerged),
            ("/[/]{2}", Paths::Unmerged),
            ("api/.*", Paths::None),
            ("", Paths::None),
            ("/caf%c3%a9", Paths::None),
            ("/a\\?b=.*", Paths::None),
            ("/a b", Paths::None),
            ("/a/\\.\\./b", Paths::None),
            ("https?://web/.*", Paths::None),
        ] {
            assert_eq!(RegexMatch::parse(pattern).unwrap().paths(), paths, "{pattern}");
        }
        let wide = format!("/({})", vec!["[^/]{0,200}"; 20].join("/"));
        assert_eq!(RegexMatch::parse(&wide).unwrap().paths(), Paths::Settled);
    }
}
