//! The checks of `meshctl check`: a registry. A check is one function, what it makes sure of, why that matters, how to
//! fix it, and a page of `docs/checks/`. To add one, write it in the file of its area and list it in [`ALL`].
//!
//! Checks only look: nothing in a cluster is changed by them (a pod is created as a dry run, which stores nothing).

mod admission;
mod context;
mod control_plane;
mod data_plane;
mod gateway_api;
mod identity;
mod kubernetes;
mod limits;
mod pod_networks;
mod pod_security;
pub(crate) mod report;
pub(crate) mod run;
#[cfg(test)]
mod tests;
mod webhook;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use serde::Serialize;

pub(crate) use context::Context;

use crate::kube::ClusterError;

/// How long a check of the whole cluster waits for some pods or namespaces while others are well. What starts by itself
/// takes less.
const SOME_BEHIND: Duration = Duration::from_secs(60);

/// When a check makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Before an installation.
    Pre,
    /// After it.
    Installed,
    /// For pods that are in the mesh.
    Proxy,
}

/// A check.
pub(crate) struct Check {
    /// Its name, and that of its page.
    pub id: &'static str,
    /// The heading it stands under.
    pub area: &'static str,
    /// What is made sure of, as a statement that is true when it passes.
    pub what: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// A command that fixes it, or shows what is wrong.
    pub fix: &'static str,
    /// Its page, for `--explain`.
    pub page: &'static str,
    /// When it is run.
    pub when: &'static [When],
    /// Checks that must pass before this one can say anything. They stand earlier in [`ALL`].
    pub after: &'static [&'static str],
    /// The check itself.
    pub run: Run,
}

/// A check that runs. All of them share one thread.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<Outcome, ClusterError>>>>;
/// Starts a check.
pub(crate) type Run = fn(Arc<Context>) -> Running;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well; what was seen.
    Pass(String),
    /// Something to know; the mesh works.
    Warn(Finding),
    /// Not well yet, as happens while things start: asked again until the wait is over.
    NotYet(Finding),
    /// Not well yet for some, while others are well: it waits for those no longer than `within`, since the cause may be in
    /// their own namespace, and then ends as `then`.
    Behind {
        /// What is not well.
        finding: Finding,
        /// How long since the check began.
        within: Duration,
        /// A failure, or a warning.
        then: Status,
    },
    /// Not well, and waiting does not help.
    Fail(Finding),
    /// It could not be checked, or there is nothing to check; why.
    Skip(String),
}

/// What is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What was seen; names the object.
    pub message: String,
    /// What fixes it, where that is more exact than the check's own.
    pub fix: Option<String>,
}

impl From<String> for Finding {
    fn from(message: String) -> Self {
        Self { message, fix: None }
    }
}

impl Finding {
    fn with_fix(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { message: message.into(), fix: Some(fix.into()) }
    }
}

impl Outcome {
    fn pass(message: impl Into<String>) -> Self {
        Self::Pass(message.into())
    }

    fn warn(message: impl Into<String>) -> Self {
        Self::Warn(message.into().into())
    }

    fn fail(message: impl Into<String>) -> Self {
        Self::Fail(message.into().into())
    }

    fn not_yet(message: impl Into<String>) -> Self {
        Self::NotYet(message.into().into())
    }

    /// Not well yet, for `bad` of `all`. A check of the whole cluster waits for a few no longer than they take to
    /// start: one namespace must not hold up the report on the others.
    fn some_not_yet(context: &Context, finding: Finding, bad: usize, all: usize) -> Self {
        if context.scope.is_some() || bad >= all {
            return Self::NotYet(finding);
        }
        Self::Behind { finding, within: SOME_BEHIND, then: Status::Failed }
    }

    fn skip(message: impl Into<String>) -> Self {
        Self::Skip(message.into())
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// All is well.
    Ok,
    /// Something to know.
    Warning,
    /// Not well.
    Failed,
    /// Not checked.
    Skipped,
}

/// Every check, in the order in which they are reported.
static ALL: &[&[Check]] = &[
    kubernetes::CHECKS,
    pod_security::CHECKS,
    pod_networks::CHECKS,
    gateway_api::CHECKS,
    control_plane::CHECKS,
    limits::CHECKS,
    admission::CHECKS,
    identity::CHECKS,
    webhook::CHECKS,
    data_plane::CHECKS,
];

/// Every check.
pub(crate) fn all() -> impl Iterator<Item = &'static Check> {
    ALL.iter().flat_map(|area| area.iter())
}

/// The text of a check's page, as compiled in: a check without one does not compile.
macro_rules! page {
    ($id:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks/", $id, ".md"))
    };
}
use page;

/// Names in a sentence: the first few, and how many more.
fn names<T: AsRef<str>>(all: &[T]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = all.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 pod`, `2 pods`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
