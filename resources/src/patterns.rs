//! What the patterns of a route cost, judged while it is decoded: compiled to be measured, and not kept.
//!
//! A route may have thousands of patterns, each within its own bound. Here they are added up by rule and by route
//! ([`mesh_policy::bounds`]); what is over is told as any value that cannot be used, and its rule matches nothing, while the
//! rules beside it go on. No more is compiled of one object than [`MAX_WORK`], however many of its patterns are refused:
//! that is what bounds the time that one object takes. Equal patterns are judged once, also those of other routes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use mesh_policy::{
    RegexMatch,
    bounds::{MAX_ROUTE_PATTERN_BYTES, MAX_RULE_PATTERN_BYTES},
    route::{REGEX_SIZE_LIMIT, RegexError},
};

/// Most that is compiled of one object to judge it, in bytes of programs: twice what may be in force, and some tens of
/// milliseconds.
const MAX_WORK: usize = 2 * MAX_ROUTE_PATTERN_BYTES;
/// Most bytes of texts whose verdicts are remembered; then they are all forgotten.
const MAX_REMEMBERED: usize = 2 * 1024 * 1024;
/// What a verdict takes beside its text.
const VERDICT_BYTES: usize = 128;

type Verdict = Result<(RegexMatch, usize), RegexError>;

/// Verdicts by text. A copy knows none, and no two differ: they follow from the texts.
#[derive(Default)]
pub(crate) struct Verdicts {
    known: HashMap<Arc<str>, Verdict>,
    bytes: usize,
}

/// The judge of one object's patterns.
#[derive(Default)]
pub(crate) struct Judge {
    verdicts: Verdicts,
    /// Compiled so far, in bytes; what was known already costs nothing.
    work: usize,
    /// Of the rules in force so far, without the one that is decoded.
    route: Sum,
    /// Of the rule that is decoded.
    rule: Sum,
    /// Whether something of this rule was over.
    is_over: bool,
}

/// What distinct patterns compile to.
#[derive(Clone, Debug, Default)]
struct Sum {
    bytes: usize,
    texts: HashSet<Arc<str>>,
}

/// Why a pattern is not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// By itself.
    Pattern(RegexError),
    /// For what is there already; the text says what. Told once a rule.
    Sum(&'static str),
    /// The same, told already.
    Again,
}

impl Judge {
    pub(crate) fn with(verdicts: Verdicts) -> Self {
        Self { verdicts, ..Self::default() }
    }

    /// Gives back what was learnt.
    pub(crate) fn finish(&mut self) -> Verdicts {
        std::mem::take(&mut self.verdicts)
    }

    /// A pattern, if there is room for it.
    pub(crate) fn judge(&mut self, text: &str) -> Result<RegexMatch, Refused> {
        let (pattern, cost) = match self.verdicts.known.get(text) {
            Some(known) => known.clone().map_err(Refused::Pattern)?,
            // The rule is dropped already.
            None if self.is_over => return Err(Refused::Again),
            None if self.work >= MAX_WORK => {
                return Err(self.over("so many are refused, or large, that no more are looked at"));
            }
            None => self.look_at(text).map_err(Refused::Pattern)?,
        };
        if self.route.texts.contains(text) || self.rule.texts.contains(text) {
            return Ok(pattern);
        }
        if self.rule.bytes + cost > MAX_RULE_PATTERN_BYTES {
            return Err(self.over("they compile to more than 1 MiB, the most of one rule"));
        }
        if self.route.bytes + self.rule.bytes + cost > MAX_ROUTE_PATTERN_BYTES {
            return Err(
                self.over("with those of the rules before they compile to more than 2 MiB, the most of one route")
            );
        }
        self.rule.bytes += cost;
        self.rule.texts.insert(text.into());
        Ok(pattern)
    }

    /// A rule is decoded, and its matches are in force or not. Gives what its patterns add to the route's.
    pub(crate) fn end_rule(&mut self, is_in_force: bool) -> usize {
        let Sum { bytes, texts } = std::mem::take(&mut self.rule);
        self.is_over = false;
        if !is_in_force {
            return 0;
        }
        self.route.bytes += bytes;
        self.route.texts.extend(texts);
        bytes
    }

    fn over(&mut self, what: &'static str) -> Refused {
        if std::mem::replace(&mut self.is_over, true) { Refused::Again } else { Refused::Sum(what) }
    }

    fn look_at(&mut self, text: &str) -> Verdict {
        let verdict = RegexMatch::parse(text).and_then(|pattern| pattern.measure().map(|cost| (pattern, cost)));
        // What is refused took as long as what is as large as may be.
        self.work += verdict.as_ref().map_or(REGEX_SIZE_LIMIT, |(_, cost)| *cost);
        let bytes = 2 * text.len() + VERDICT_BYTES;
        if self.verdicts.bytes + bytes > MAX_REMEMBERED {
            self.verdicts = Verdicts::default();
        }
        self.verdicts.bytes += bytes;
        self.verdicts.known.insert(text.into(), verdict.clone());
        verdict
    }
}

impl Clone for Verdicts {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Verdicts {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for Verdicts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verdicts({})", self.known.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn no_more_is_compiled_of_one_object_than_its_work() {
        let mut judge = Judge::default();
        for n in 0..10_000 {
            judge.judge(&format!("{n}(a{{99}}){{99}}")).unwrap_err();
            judge.end_rule(false);
        }
        assert!(judge.work < MAX_WORK + REGEX_SIZE_LIMIT, "{}", judge.work);
        assert!(judge.verdicts.known.len() <= MAX_WORK / REGEX_SIZE_LIMIT + 1);
    }

    #[test]
    fn verdicts_are_remembered_within_their_bound() {
        let mut verdicts = Verdicts::default();
        for n in 0..40_000 {
            let mut judge = Judge::with(verdicts);
            judge.judge(&format!("/{n}")).unwrap();
            verdicts = judge.finish();
            assert!(verdicts.bytes <= MAX_REMEMBERED);
        }
        let mut judge = Judge::with(verdicts);
        judge.judge("/39999").unwrap();
        assert_eq!(judge.work, 0, "known already");
    }
}
