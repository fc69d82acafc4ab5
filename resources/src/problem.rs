//! What is wrong with an object, in one form: a line of `meshctl lint`, an entry of the controller's `/problems`, and
//! the reason and message of a Gateway API status condition.
//!
//! A problem never makes an object vanish: what was understood stays in force, and the problem says what does not.

use std::fmt;

use serde::Serialize;

use crate::object::{ObjectId, Source};

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is left out that changes nothing for the traffic that is understood.
    Warning,
    /// Some traffic is not served as written.
    Error,
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
    /// A parent, or a port of one, that does not exist.
    NoMatchingParent,
    /// Another route of a kind that goes first is attached to the same port (GEP-1426).
    Conflicted,
    /// Filters that may not be combined.
    IncompatibleFilters,
}

impl Reason {
    /// The word as the Gateway API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnsupportedValue => "UnsupportedValue",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidKind => "InvalidKind",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::Conflicted => "Conflicted",
            Self::IncompatibleFilters => "IncompatibleFilters",
        }
    }
}

/// One thing that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Which object.
    pub object: ObjectId,
    /// Where the object starts, if it came from a file.
    pub source: Option<Source>,
    /// Path of the field in the object, as in `spec.rules[2].matches[0].path.value`.
    pub field: String,
    /// What is wrong, and what follows from it.
    pub what: String,
    /// What to do about it.
    pub fix: String,
    /// The reason of a status condition.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    /// One line: `file:line: HTTPRoute shop/web: spec.rules[0].filters[1].type: ...; fix: ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        write!(f, "{}: {}: {}; fix: {}", self.object, self.field, self.what, self.fix)
    }
}

/// Gathers the problems of one object while it is decoded or compiled.
pub(crate) struct Report<'o> {
    object: &'o ObjectId,
    source: Option<&'o Source>,
    problems: Vec<Problem>,
}

impl<'o> Report<'o> {
    pub(crate) fn new(object: &'o ObjectId, source: Option<&'o Source>) -> Self {
        Self { object, source, problems: Vec::new() }
    }

    pub(crate) fn error(&mut self, field: &str, reason: Reason, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Error, field, reason, what.into(), fix.into());
    }

    pub(crate) fn warning(&mut self, field: &str, reason: Reason, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Warning, field, reason, what.into(), fix.into());
    }

    pub(crate) fn finish(self) -> Vec<Problem> {
        self.problems
    }

    fn push(&mut self, severity: Severity, field: &str, reason: Reason, what: String, fix: String) {
        let (object, source) = (self.object.clone(), self.source.cloned());
        self.problems.push(Problem { severity, object, source, field: field.to_owned(), what, fix, reason });
    }
}
