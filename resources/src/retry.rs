//! `retry` of an HTTPRoute's rule (Gateway API, `HTTPRouteRetry`), and what it shares with the RetryPolicy.

use mesh_policy::Retry;

use crate::{
    duration,
    problem::{Reason, Report},
    walker::Node,
};

/// Most attempts after the first. More would be a storm, whatever a budget says.
pub(crate) const MAX_ATTEMPTS: u32 = 100;
/// Statuses that may be tried again (Gateway API, `HTTPRouteRetryStatusCode`).
pub(crate) const STATUSES: std::ops::RangeInclusive<u32> = 400..=599;
/// Most entries of a list of codes: there are not more.
pub(crate) const MAX_CODES: usize = 200;
/// What follows from a code that is none.
const NO_CODE: &str = "it is left out";

/// Decodes `retry`.
pub(crate) fn decode_retry(rule: &Node<'_>, report: &mut Report<'_>) -> Option<Retry> {
    let mark = report.mark();
    let Ok(found) = rule.object("retry", report) else {
        report.effect(mark, "there are no retries but of what was never delivered");
        return None;
    };
    let node = found?;
    node.ignore_others(&["codes", "attempts", "backoff"], report);
    let mut retry = Retry::default();
    let mark = report.mark();
    if let Some(attempts) = node.integer("attempts", 0..=i32::MAX as u32, report).ok().flatten() {
        retry.attempts = attempts.min(MAX_ATTEMPTS);
        if attempts > MAX_ATTEMPTS {
            let what = format!("{attempts} attempts are too many; at most {MAX_ATTEMPTS} are made");
            report.warning(&node.field("attempts"), Reason::UnsupportedValue, what, "write fewer");
        }
    }
    report.effect(mark, "one is made");
    if let Some(backoff) = duration::read(&node, "backoff", "25ms are waited", report) {
        retry.backoff = backoff;
        retry.max_backoff = retry.max_backoff.max(backoff);
    }
    retry.statuses = decode_statuses(&node, report);
    Some(retry)
}

/// Decodes `codes`. One that is no status is left out: less is tried again.
pub(crate) fn decode_statuses(node: &Node<'_>, report: &mut Report<'_>) -> Vec<u16> {
    let mark = report.mark();
    let mut statuses = Vec::new();
    for item in node.at_most("codes", MAX_CODES, report).unwrap_or_default() {
        let code = item.as_integer(STATUSES, report).ok();
        statuses.extend(code.and_then(|code| u16::try_from(code).ok()));
    }
    report.effect(mark, NO_CODE);
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}
