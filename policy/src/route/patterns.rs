//! The programs of patterns, each once for all routes that have the pattern.
//!
//! Whoever decides holds the routes of many targets, and the same pattern is in many of them. Here each text is compiled
//! once for as long as some value has it, and what the patterns of a value compile to is summed up, so that one with too much
//! is refused before it takes the memory.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Weak},
};

use super::{
    RegexError,
    text::{Program, RegexMatch},
};

/// Texts that are forgotten when no route has them are looked for at twice the number of the last time, from this on.
const SWEEP_FROM: usize = 256;

/// See the module.
#[derive(Default)]
pub struct Patterns {
    known: HashMap<Box<str>, Weak<Program>>,
    sweep_at: usize,
}

/// Why the patterns of a table are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// They compile to more bytes than are allowed.
    TooMuch {
        /// Most bytes allowed.
        allowed: usize,
    },
    /// One of them is no pattern, or too large by itself.
    Pattern(RegexError),
}

impl Patterns {
    /// Compiles those patterns of a value that are not compiled yet, and gives the programs of all of them, equal ones once.
    /// Stops as soon as they take more than `allowed` bytes.
    pub fn compile<'p>(
        &mut self,
        patterns: impl IntoIterator<Item = &'p RegexMatch>,
        allowed: usize,
    ) -> Result<Vec<Arc<Program>>, PatternError> {
        if self.known.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.known.retain(|_, program| program.strong_count() > 0);
            self.sweep_at = self.known.len() * 2;
        }
        let (mut seen, mut programs, mut total) = (HashSet::new(), Vec::new(), 0usize);
        for pattern in patterns {
            let program = self.program(pattern).map_err(PatternError::Pattern)?;
            if seen.insert(Arc::as_ptr(&program)) {
                total = total.saturating_add(program.cost);
                programs.push(program);
            }
            if total > allowed {
                return Err(PatternError::TooMuch { allowed });
            }
        }
        Ok(programs)
    }

    fn program(&mut self, pattern: &RegexMatch) -> Result<Arc<Program>, RegexError> {
        if let Some(known) = self.known.get(pattern.as_str()).and_then(Weak::upgrade) {
            return Ok(pattern.adopt(&known));
        }
        let program = pattern.program()?;
        self.known.insert(pattern.as_str().into(), Arc::downgrade(&program));
        Ok(program)
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patterns").field("known", &self.known.len()).finish()
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMuch { allowed } => {
                write!(f, "its patterns compile to more than {} KiB", allowed / 1024)
            }
            Self::Pattern(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{
        PathMatch, Route, RouteKind, RouteMeta, RouteTable, Rule,
        route::{REGEX_SIZE_LIMIT, RequestMatch},
    };

    fn table(patterns: &[&str]) -> RouteTable {
        let matched = |pattern: &&str| RequestMatch {
            path: PathMatch::Regex(RegexMatch::parse(pattern).unwrap()),
            ..RequestMatch::default()
        };
        let rule = Rule { matches: patterns.iter().map(matched).collect(), ..Rule::default() };
        let meta = RouteMeta { kind: RouteKind::Http, namespace: "n".into(), name: "r".into(), created: 0 };
        RouteTable::new(vec![Route { meta, hostnames: Vec::new(), rules: vec![rule] }])
    }

    #[test]
    fn equal_patterns_are_compiled_and_counted_once() {
        let mut patterns = Patterns::default();
        let (one, twice) = (table(&["/a.*"]), table(&["/a.*", "/a.*"]));
        let programs = patterns.compile(one.patterns(), usize::MAX).unwrap();
        let cost = programs[0].cost();
        assert!(programs.len() == 1 && (1_000..16_384 + 8_192).contains(&cost), "{cost}");
        assert_eq!(patterns.compile(twice.patterns(), cost).unwrap().len(), 1);
        let program =
            |table: &RouteTable| Arc::as_ptr(&table.routes()[0].patterns().next().unwrap().program().unwrap());
        assert_eq!(program(&one), program(&twice), "one program for both tables");
    }

    #[test]
    fn what_is_beyond_the_bound_is_refused_and_not_held() {
        let mut patterns = Patterns::default();
        let texts: Vec<String> = (0..4_096).map(|n| format!("{n}[a-z0-9]{{700}}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let allowed = 4 * 1024 * 1024;
        let refused = patterns.compile(table(&texts).patterns(), allowed).err();
        assert_eq!(refused, Some(PatternError::TooMuch { allowed }));
        assert!(patterns.known.len() * REGEX_SIZE_LIMIT / 4 < 2 * allowed, "it stopped soon: {}", patterns.known.len());
        assert!(patterns.known.values().all(|program| program.strong_count() == 0), "nothing is kept of it");
        let refused = patterns.compile(table(&["(a{99}){99}"]).patterns(), allowed).err();
        assert_eq!(refused, Some(PatternError::Pattern(RegexError::TooLarge)));
    }

    #[test]
    fn what_no_route_has_is_forgotten() {
        let mut patterns = Patterns::default();
        for n in 0..4 * SWEEP_FROM {
            patterns.compile(table(&[&format!("/{n}.*")]).patterns(), usize::MAX).unwrap();
        }
        assert!(patterns.known.len() <= SWEEP_FROM + 1, "{}", patterns.known.len());
    }
}
