//! Runs checks: several at a time, each after those that it needs, and again while something is not well yet.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{Check, Context, Finding, Outcome, Status};
use crate::kube::ClusterError;

/// Checks that run at a time, to spare the API server.
const AT_ONCE: usize = 8;
/// Pause before a check that is not well yet is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// How a check ended.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Which one.
    pub check: &'static Check,
    /// How.
    pub status: Status,
    /// What was seen.
    pub message: String,
    /// What fixes it; empty when there is nothing to fix.
    pub fix: String,
    /// How long it took.
    pub took: Duration,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)
    }
}

/// What happens, for whoever prints it.
pub(crate) enum Event<'e> {
    /// A check is not well yet and is asked again.
    Waiting(&'static Check, &'e str),
    /// A check has ended. They end in any order, and are reported in that of the registry.
    Ended(&'e Report),
}

/// Runs `checks`, waiting at most `wait` for what is coming up. Reports come in the order of `checks`.
pub(crate) async fn run(
    checks: &[&'static Check],
    context: Arc<Context>,
    wait: Duration,
    mut tell: impl FnMut(Event<'_>),
) -> Vec<Report> {
    let deadline = Instant::now() + wait;
    let mut waiting: Vec<&'static Check> = checks.to_vec();
    let mut done: BTreeMap<&'static str, Report> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    // When each check was first asked.
    let mut first: BTreeMap<&'static str, Instant> = BTreeMap::new();
    let mut told = 0;
    loop {
        waiting.retain(|check| {
            let needs = || check.after.iter().filter(|id| checks.iter().any(|check| check.id == **id));
            let is_bad = |report: &&Report| !matches!(report.status, Status::Ok | Status::Warning);
            let bad = needs().find_map(|id| done.get(*id).filter(is_bad));
            if let Some(bad) = bad {
                // Where there is nothing to check, there is nothing for the checks that build on it either.
                let message = match bad.status {
                    Status::Skipped => bad.message.clone(),
                    _ => format!("it needs {}, which did not pass", bad.check.id),
                };
                let report =
                    Report { check, status: Status::Skipped, message, fix: String::new(), took: Duration::ZERO };
                done.insert(check.id, report);
                return false;
            }
            if running.len() >= AT_ONCE || needs().any(|id| !done.contains_key(id)) {
                return true;
            }
            running.push(attempt(check, context.clone(), Duration::ZERO));
            false
        });
        // A skipped check may be what another waits for.
        while let Some(report) = checks.get(told).and_then(|check| done.get(check.id)) {
            tell(Event::Ended(report));
            told += 1;
        }
        let Some((check, outcome, begun)) = running.next().await else {
            if waiting.is_empty() {
                break;
            }
            continue;
        };
        let since = *first.entry(check.id).or_insert(begun);
        let coming = match &outcome {
            Outcome::NotYet(finding) => Some((finding, deadline)),
            Outcome::Behind { finding, within, .. } => Some((finding, deadline.min(since + *within))),
            _ => None,
        };
        if let Some((finding, until)) = coming
            && Instant::now() < until
        {
            tell(Event::Waiting(check, &finding.message));
            running.push(attempt(check, context.clone(), AGAIN));
            continue;
        }
        done.insert(check.id, report(check, outcome, begun.elapsed(), wait));
    }
    checks.iter().filter_map(|check| done.remove(check.id)).collect()
}

async fn attempt(check: &'static Check, context: Arc<Context>, pause: Duration) -> (&'static Check, Outcome, Instant) {
    tokio::time::sleep(pause).await;
    let begun = Instant::now();
    let outcome = match (check.run)(context).await {
        Ok(outcome) => outcome,
        Err(error @ ClusterError::Forbidden { .. }) => Outcome::Skip(error.to_string()),
        // A pod that is being replaced; the next one will answer.
        Err(error @ ClusterError::Forward { .. }) => Outcome::NotYet(error.to_string().into()),
        Err(error) => Outcome::Fail(error.to_string().into()),
    };
    (check, outcome, begun)
}

fn report(check: &'static Check, outcome: Outcome, took: Duration, wait: Duration) -> Report {
    let fix = |finding: &Finding| finding.fix.clone().unwrap_or_else(|| check.fix.to_owned());
    let (status, message, fix) = match outcome {
        Outcome::Pass(message) => (Status::Ok, message, String::new()),
        Outcome::Skip(message) => (Status::Skipped, message, String::new()),
        Outcome::Warn(finding) => (Status::Warning, finding.message.clone(), fix(&finding)),
        Outcome::Fail(finding) => (Status::Failed, finding.message.clone(), fix(&finding)),
        Outcome::NotYet(finding) => (Status::Failed, after(&finding, wait), fix(&finding)),
        Outcome::Behind { finding, within, then } => (then, after(&finding, wait.min(within)), fix(&finding)),
    };
    Report { check, status, message, fix, took }
}

/// What was seen, and how long it was waited for.
fn after(finding: &Finding, waited: Duration) -> String {
    match waited.as_secs() {
        0 => finding.message.clone(),
        seconds => format!("{}, still after {seconds} s", finding.message),
    }
}
