//! What the patterns of a route or a policy cost, judged while it is decoded: compiled to be measured, and not kept.
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
    /// What the texts looked at so far take to compile, in bytes, whether or not they were known: what becomes of an object
    /// must not follow from what was judged before it.
    work: usize,
    /// Those texts.
    seen: HashSet<Arc<str>>,
    /// Of the rules in force so far, without the one that is decoded.
    route: Sum,
    /// Of the rule that is decoded.
    rule: Sum,
    /// Whether something of this rule was over.
    is_over: bool,
    /// Whether the object is a policy and no route, for the words.
    pub(crate) is_of_policy: bool,
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
        if !self.seen.contains(text) {
            // The rule is dropped already.
            if self.is_over {
                return Err(Refused::Again);
            }
            if self.work >= MAX_WORK {
                return Err(self.over("so many are refused, or large, that no more are looked at"));
            }
        }
        let (pattern, cost) = self.look_at(text).map_err(Refused::Pattern)?;
        if self.route.texts.contains(text) || self.rule.texts.contains(text) {
            return Ok(pattern);
        }
        if self.rule.bytes + cost > MAX_RULE_PATTERN_BYTES {
            return Err(self.over("they compile to more than 1 MiB, the most of one rule"));
        }
        if self.route.bytes + self.rule.bytes + cost > MAX_ROUTE_PATTERN_BYTES {
            return Err(self.over(if self.is_of_policy {
                "with those of the rules before they compile to more than 2 MiB, the most of one policy"
            } else {
                "with those of the rules before they compile to more than 2 MiB, the most of one route"
            }));
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
        let known = self.verdicts.known.get(text).cloned();
        let compile = || RegexMatch::parse(text).and_then(|pattern| pattern.measure().map(|cost| (pattern, cost)));
        let (is_known, verdict) = (known.is_some(), known.unwrap_or_else(compile));
        if self.seen.insert(text.into()) {
            // What is refused took as long as what is as large as may be.
            self.work += verdict.as_ref().map_or(REGEX_SIZE_LIMIT, |(_, cost)| *cost);
        }
        if is_known {
            return verdict;
        }
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
        assert!(verdicts.known.contains_key("/39999"), "it is not compiled again");
    }

    #[test]
    fn what_becomes_of_an_object_does_not_follow_from_what_was_judged_before_it() {
        let texts: Vec<_> = (0..40).map(|n| format!("{n}(a{{99}}){{99}}")).chain(["/good".to_owned()]).collect();
        let outcomes = |verdicts: Verdicts| -> (Vec<_>, Verdicts) {
            let mut judge = Judge::with(verdicts);
            let all = texts.iter().map(|text| {
                let outcome = format!("{:?}", judge.judge(text).map(drop));
                judge.end_rule(false);
                outcome
            });
            (all.collect(), judge.finish())
        };
        let mut verdicts = Verdicts::default();
        // Other objects, with the same patterns one by one.
        for text in &texts {
            let mut judge = Judge::with(verdicts);
            let _ = judge.judge(text);
            verdicts = judge.finish();
        }
        let (cold, _) = outcomes(Verdicts::default());
        let (warm, _) = outcomes(verdicts);
        assert_eq!(cold, warm);
        assert!(cold.last().unwrap().contains("no more are looked at"), "{cold:?}");
    }
}
