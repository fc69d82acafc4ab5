//! What is refused now, for `/problems`, the log and a metric: broken files and what is wrong with objects.
//!
//! Each problem is logged once, when it appears, and once when it is gone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use mesh_resources::{Object, ParseError, Problem, Severity};
use serde::Serialize;
use tokio::sync::watch;

use crate::source::index::Published;

/// Most problems that are logged one by one at a time; more are counted, so that one bad folder cannot flood a log.
const MAX_LOGGED: usize = 100;

/// The reason of an issuer that cannot be used.
pub(crate) const ISSUER: &str = "Issuer";
/// The reason of a trust bundle that could not be written into a namespace.
pub(crate) const BUNDLE_NOT_WRITTEN: &str = "BundleNotWritten";
/// Most problems that are listed of the objects of one namespace; what is more, nobody reads, and it would be copied with
/// each change of any of them.
const MAX_LISTED: usize = 1_000;
/// Most problems of the objects of one namespace that are logged one by one at a time.
const MAX_LOGGED_OF_ONE: usize = 20;

/// One entry of `/problems`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ProblemEntry {
    /// How bad it is.
    pub severity: Severity,
    /// The file, relative to the folder.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u64>,
    /// The column, from 1.
    pub column: Option<u64>,
    /// `Kind namespace/name`, if it is about one object.
    pub object: Option<String>,
    /// The field, if it is about one.
    pub field: Option<String>,
    /// A word for programs: a Gateway API condition reason, or `BrokenFile`, `Refused`, `Duplicate`,
    /// `Folder`, `Denied`, `NotServed`, `Away`, `BundleNotWritten`.
    pub reason: String,
    /// What is wrong, and what follows from it.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl ProblemEntry {
    /// A file that was refused. Its last good objects, if it has any, stay in force.
    pub(crate) fn broken_file(error: &ParseError, has_last_good: bool) -> Self {
        let follows =
            if has_last_good { "the last good content of this file stays in force" } else { "it is left out" };
        Self {
            severity: Severity::Error,
            file: Some(error.file.clone()),
            line: Some(error.line),
            column: Some(error.column),
            object: None,
            field: None,
            reason: "BrokenFile".to_owned(),
            what: format!("{}; {follows}", error.message),
            fix: "correct the file".to_owned(),
        }
    }

    /// What is wrong with an object that was refused, so that its earlier version stays in force.
    pub(crate) fn refused(problem: &Problem) -> Self {
        let what = format!("{}; the object is refused, its earlier version stays in force", problem.what);
        Self { reason: "Refused".to_owned(), what, ..Self::from(problem) }
    }

    /// Something about the folder as a whole.
    pub(crate) fn folder(what: String, fix: &str) -> Self {
        Self::source(Severity::Error, "Folder", what, fix.to_owned())
    }

    /// Something about where objects come from, rather than about one of them.
    pub(crate) fn source(severity: Severity, reason: &str, what: String, fix: String) -> Self {
        let (file, line, column, object, field) = (None, None, None, None, None);
        Self { severity, file, line, column, object, field, reason: reason.to_owned(), what, fix }
    }

    /// Whether it is about the control plane itself, and not about an object of somebody who uses it.
    pub(crate) fn is_our_own(&self) -> bool {
        self.object.is_none() || self.reason == ISSUER
    }

    /// An object that two places define.
    pub(crate) fn duplicate(kept: &Object, ignored: &Object) -> Self {
        let (file, line) = ignored.source.as_ref().map(|s| (s.file.to_string(), s.line)).unzip();
        let other = kept.source.as_ref().map_or_else(|| "elsewhere".to_owned(), ToString::to_string);
        Self {
            severity: Severity::Error,
            file,
            line,
            column: None,
            object: Some(ignored.id().to_string()),
            field: None,
            reason: "Duplicate".to_owned(),
            what: format!("defined in {other} as well, which is the one in force"),
            fix: "remove one of the two".to_owned(),
        }
    }
}

impl From<&Problem> for ProblemEntry {
    fn from(problem: &Problem) -> Self {
        let (file, line) = problem.source.as_ref().map(|s| (s.file.to_string(), s.line)).unzip();
        Self {
            severity: problem.severity,
            file,
            line,
            column: None,
            object: Some(problem.object.to_string()),
            field: Some(problem.field.clone()),
            reason: problem.reason.as_str().to_owned(),
            what: problem.what_and_effect(),
            fix: problem.fix.clone(),
        }
    }
}

impl fmt::Display for ProblemEntry {
    /// One line: `file:line:column: HTTPRoute shop/web: spec.rules[0]: what; fix: how`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            for number in [self.line, self.column].into_iter().flatten() {
                write!(f, ":{number}")?;
            }
            f.write_str(": ")?;
        }
        for part in [&self.object, &self.field].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        write!(f, "{}; fix: {}", self.what, self.fix)
    }
}

/// Puts what one piece of a role says is wrong in the place of what it said before, beside what others say; logs what changed.
/// How many there are now.
pub(crate) fn tell(
    problems: &watch::Sender<Arc<Published>>,
    is_ours: impl Fn(&ProblemEntry) -> bool,
    ours: Vec<ProblemEntry>,
) -> usize {
    let mut count = 0;
    problems.send_if_modified(|now| {
        let others = now.problems.iter().filter(|entry| !is_ours(entry)).cloned();
        let mut all: Vec<ProblemEntry> = others.chain(ours).collect();
        all.sort();
        count = all.len();
        let is_new = now.problems[..] != all[..];
        if is_new {
            log_changes(&now.problems, &all);
            *now = Arc::new(Published { problems: all.into(), ..Published::default() });
        }
        is_new
    });
    count
}

/// The entries of `/problems` while they are gathered: of each namespace so many, and a word of how many more.
#[derive(Default)]
pub(crate) struct ProblemList {
    entries: Vec<ProblemEntry>,
    of_namespace: BTreeMap<String, usize>,
    /// How many more there are, by namespace.
    unlisted: BTreeMap<String, usize>,
}

impl ProblemList {
    /// Adds an entry about an object of a namespace, or about none.
    pub(crate) fn add(&mut self, namespace: Option<&str>, entry: impl FnOnce() -> ProblemEntry) {
        if let Some(namespace) = namespace {
            let count = match self.of_namespace.get_mut(namespace) {
                Some(count) => count,
                None => self.of_namespace.entry(namespace.to_owned()).or_default(),
            };
            *count += 1;
            if *count > MAX_LISTED {
                return;
            }
        }
        self.entries.push(entry());
    }

    /// Adds a number of entries about a namespace that are not at hand.
    pub(crate) fn more(&mut self, namespace: &str, count: usize) {
        *self.unlisted.entry(namespace.to_owned()).or_default() += count;
    }

    /// All of them, sorted, each once.
    pub(crate) fn finish(mut self) -> Vec<ProblemEntry> {
        for (namespace, count) in self.of_namespace {
            *self.unlisted.entry(namespace).or_default() += count.saturating_sub(MAX_LISTED);
        }
        for (namespace, more) in self.unlisted {
            if more > 0 {
                let what = format!("{more} more problems of namespace {namespace} are not listed");
                let fix = "mend those that are; meshctl lint tells all of one object".to_owned();
                self.entries.push(ProblemEntry::source(Severity::Warning, "More", what, fix));
            }
        }
        self.entries.sort();
        self.entries.dedup();
        self.entries
    }
}

/// Logs what is new and what is gone between two states.
pub(crate) fn log_changes(before: &[ProblemEntry], now: &[ProblemEntry]) {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), now.iter().collect());
    let (appeared, more) = some(new.difference(&old).copied());
    for entry in appeared {
        tracing::warn!("{entry}");
    }
    if more > 0 {
        tracing::warn!("{more} more problems; see /problems");
    }
    for entry in some(old.difference(&new).copied()).0 {
        tracing::info!("no longer a problem: {entry}");
    }
}

/// A part that is short enough for a log, with something of each namespace in it; and how many are left out.
fn some<'e>(entries: impl Iterator<Item = &'e ProblemEntry>) -> (Vec<&'e ProblemEntry>, usize) {
    let (mut chosen, mut left_out, mut of_namespace) = (Vec::new(), 0, HashMap::<&str, usize>::new());
    for entry in entries {
        let object = entry.object.as_deref().and_then(|object| object.split_once(' '));
        let namespace = object.and_then(|(_, name)| name.split_once('/')).map_or("", |(namespace, _)| namespace);
        let count = of_namespace.entry(namespace).or_default();
        *count += 1;
        // A folder of manifests is one person's; there a namespace says nothing of who wrote it.
        let is_too_much = *count > MAX_LOGGED_OF_ONE && entry.file.is_none();
        if is_too_much || chosen.len() >= MAX_LOGGED { left_out += 1 } else { chosen.push(entry) }
    }
    (chosen, left_out)
}
