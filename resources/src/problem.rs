//! What is wrong with an object, in one form: a line of `meshctl lint`, an entry of the controller's `/problems`, and
//! the reason and message of a Gateway API status condition.
//!
//! A problem never makes an object vanish: what was understood stays in force, and the problem says what does not.

use std::fmt;

use serde::Serialize;

use crate::{
    object::{Object, ObjectId, Source},
    patterns::Judge,
};

/// Most problems of one class that are told one by one for one object; the rest is a number, since an object of some
/// megabytes may be wrong in every line.
const MAX_PER_CLASS: usize = 50;

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is left out that changes nothing for the traffic that is understood.
    Warning,
    /// Some traffic is not served as written.
    Error,
}

/// Who would have noticed on a cluster, and so what becomes of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// No API server takes such an object, now or later: a wrong type, a number out of range, a required field that is
    /// missing, a malformed name or duration. Where an earlier version of the object is known, that stays in force.
    Schema,
    /// Told in the object's status: references that lead nowhere, and whatever is not understood here, which may be of
    /// a newer API. The object is in force as far as it is understood.
    Status,
}

/// The Gateway API's word for a problem (`RouteConditionReason`), or the nearest for other objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Reason {
    /// A value or field that is wrong or not supported here.
    UnsupportedValue,
    /// A backend that does not exist.
    BackendNotFound,
    /// A backend of a kind that is not a Service.
    InvalidKind,
    /// A backend in another namespace that no ReferenceGrant allows.
    RefNotPermitted,
    /// A backend whose port does not speak what the route is about.
    UnsupportedProtocol,
    /// A parent, or a port of one, that does not exist.
    NoMatchingParent,
    /// Another route of a kind that goes first is attached to the same port (GEP-1426).
    Conflicted,
    /// Filters that may not be combined.
    IncompatibleFilters,
    /// So many routes are attached to the port that the youngest are left out.
    TooManyRoutes,
    /// So much is written that a part of it is left out.
    TooLarge,
}

impl Reason {
    /// The word as the Gateway API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnsupportedValue => "UnsupportedValue",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidKind => "InvalidKind",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::Conflicted => "Conflicted",
            Self::IncompatibleFilters => "IncompatibleFilters",
            Self::TooManyRoutes => "TooManyRoutes",
            Self::TooLarge => "TooLarge",
        }
    }

    /// Whether it is about what a route refers to (the condition `ResolvedRefs`), not about the route itself.
    pub fn is_of_references(self) -> bool {
        matches!(self, Self::BackendNotFound | Self::InvalidKind | Self::RefNotPermitted | Self::UnsupportedProtocol)
    }

    /// Whether it says that a part of the object itself is not served as written.
    fn is_of_content(self) -> bool {
        matches!(self, Self::UnsupportedValue | Self::IncompatibleFilters | Self::TooLarge)
    }
}

/// One thing that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Who would have noticed.
    pub class: Class,
    /// Which object.
    pub object: ObjectId,
    /// Where the field is, or the nearest one above it that is there; the object's start where that is not known.
    pub source: Option<Source>,
    /// Path of the field in the object, as in `spec.rules[2].matches[0].path.value`.
    pub field: String,
    /// What is wrong.
    pub what: String,
    /// What follows from it; empty where `what` says it already.
    pub effect: String,
    /// What to do about it.
    pub fix: String,
    /// The reason of a status condition.
    pub reason: Reason,
}

impl Problem {
    /// What is wrong with which field, what follows and what to do: the words of a status condition.
    pub fn in_status(&self) -> String {
        format!("{}: {}; fix: {}", self.field, self.what_and_effect(), self.fix)
    }

    /// What is wrong, and what follows from it.
    pub fn what_and_effect(&self) -> String {
        if self.effect.is_empty() { self.what.clone() } else { format!("{}; {}", self.what, self.effect) }
    }
}

impl fmt::Display for Problem {
    /// One line: `file:line: HTTPRoute shop/web: spec.rules[0].filters[1].type: ...; fix: ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        write!(f, "{}: {}", self.object, self.in_status())
    }
}

/// A field of an object, for problems that are found when the object itself is no longer at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its path in the object.
    pub field: String,
    /// Its line, if it came from a file.
    pub source: Option<Source>,
}

/// Gathers the problems of one object while it is decoded or compiled.
pub(crate) struct Report<'o> {
    id: ObjectId,
    /// The object, while it is decoded: it knows the lines of its fields.
    object: Option<&'o Object>,
    problems: Vec<Problem>,
    /// How many were left out, by class.
    left_out: [usize; 2],
    /// The reason of the first error about content since this was last asked.
    rejection: Option<Reason>,
    /// Judges the patterns of the object.
    pub(crate) patterns: Judge,
}

impl<'o> Report<'o> {
    /// For decoding an object.
    pub(crate) fn of(object: &'o Object) -> Self {
        Self {
            id: object.id(),
            object: Some(object),
            problems: Vec::new(),
            left_out: [0; 2],
            rejection: None,
            patterns: Judge::default(),
        }
    }

    /// For what is found after decoding; its places are given with each problem.
    pub(crate) fn about(id: ObjectId) -> Self {
        Self { id, object: None, problems: Vec::new(), left_out: [0; 2], rejection: None, patterns: Judge::default() }
    }

    /// Something that no API server takes.
    pub(crate) fn schema(&mut self, field: &str, reason: Reason, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Error, Class::Schema, self.place(field), reason, what.into(), fix.into());
    }

    /// Something that is not served as written.
    pub(crate) fn error(&mut self, field: &str, reason: Reason, what: impl Into<String>, fix: impl Into<String>) {
        self.error_at(&self.place(field), reason, what, fix);
    }

    /// As [`Self::error`], for a place that was kept.
    pub(crate) fn error_at(&mut self, at: &Place, reason: Reason, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Error, Class::Status, at.clone(), reason, what.into(), fix.into());
    }

    /// Something that is left out without harm to the rest.
    pub(crate) fn warning(&mut self, field: &str, reason: Reason, what: impl Into<String>, fix: impl Into<String>) {
        self.warning_at(&self.place(field), reason, what, fix);
    }

    /// As [`Self::warning`], for a place that was kept.
    pub(crate) fn warning_at(&mut self, at: &Place, reason: Reason, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Warning, Class::Status, at.clone(), reason, what.into(), fix.into());
    }

    /// Where a field is.
    pub(crate) fn place(&self, field: &str) -> Place {
        Place { field: field.to_owned(), source: self.object.and_then(|object| object.source_of(field)) }
    }

    /// How many problems there are, for [`Self::effect`].
    pub(crate) fn mark(&self) -> usize {
        self.problems.len()
    }

    /// Adds what follows from the problems since a mark.
    pub(crate) fn effect(&mut self, since: usize, effect: &str) {
        for problem in self.problems.iter_mut().skip(since).filter(|problem| problem.effect.is_empty()) {
            effect.clone_into(&mut problem.effect);
        }
    }

    /// Why what was read since the last time is not served as written. Also knows what is not told one by one.
    pub(crate) fn take_rejection(&mut self) -> Option<Reason> {
        self.rejection.take()
    }

    /// Takes back everything that was reported, but what is about a field and those below it.
    pub(crate) fn forget_all_but(&mut self, field: &str) {
        self.problems.retain(|problem| problem.field.starts_with(field));
        self.left_out = [0; 2];
        self.rejection = None;
    }

    /// Takes back everything that was reported.
    pub(crate) fn forget(&mut self) {
        self.problems.clear();
        self.left_out = [0; 2];
    }

    pub(crate) fn finish(mut self) -> Vec<Problem> {
        for (class, count) in [Class::Schema, Class::Status].into_iter().zip(self.left_out) {
            if let Some(last) = self.problems.iter_mut().rfind(|p| p.class == class).filter(|_| count > 0) {
                last.effect = format!("{} (and {count} more problems of the object)", last.effect).trim().to_owned();
            }
        }
        self.problems
    }

    fn push(&mut self, severity: Severity, class: Class, at: Place, reason: Reason, what: String, fix: String) {
        if severity == Severity::Error && reason.is_of_content() {
            self.rejection.get_or_insert(reason);
        }
        if self.problems.iter().filter(|p| p.class == class).count() >= MAX_PER_CLASS {
            self.left_out[class as usize] += 1;
            return;
        }
        let Place { field, source } = at;
        let (object, effect) = (self.id.clone(), String::new());
        self.problems.push(Problem { severity, class, object, source, field, what, effect, fix, reason });
    }
}
