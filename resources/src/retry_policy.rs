//! RetryPolicy, a kind of ours: what is tried again beyond what the Gateway API can say.
//!
//! A rule of an HTTPRoute or a GRPCRoute names one of its namespace by an `ExtensionRef` filter. A field that cannot be
//! understood is left out, so that less is tried again than was asked for, never more. `crds/retrypolicies.yaml` is the
//! schema; a test keeps both together.

use std::time::Duration;

use http::Method;
use mesh_policy::{Retry, RetryBudget, RetryMethods, RouteKind, Timeouts};

use crate::{
    duration,
    object::Object,
    problem::{Reason, Report},
    retry::{MAX_ATTEMPTS, MAX_CODES, decode_statuses},
    walker::{Invalid, MAX_LIST, Node, short},
};

/// Fields of `spec`.
const FIELDS: [&str; 10] = [
    "attempts",
    "backoff",
    "maxBackoff",
    "perTryTimeout",
    "timeout",
    "codes",
    "grpcCodes",
    "onNoResponse",
    "methods",
    "budget",
];
/// Fields of `spec.budget`.
const BUDGET_FIELDS: [&str; 2] = ["percent", "minPerSecond"];
/// Most retries a second that a budget may allow in any case.
const MAX_PER_SECOND: u32 = 10_000;
/// Methods that may be listed: a CONNECT is a tunnel, and nobody could repeat one.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"];
/// Codes of gRPC by number, from 1 (grpc/doc/statuscodes.md).
const GRPC_CODES: [&str; 16] = [
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
/// What follows from a field that cannot be understood.
const LEFT_OUT: &str = "it is left out";

/// A decoded RetryPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    /// `metadata.generation`, which its status repeats; 0 if it has none.
    pub generation: i64,
    /// What is tried again.
    pub retry: Retry,
    /// `onNoResponse`, where it is written.
    pub on_no_response: Option<bool>,
    /// Time limits for rules that have none of their own: `timeout` and `perTryTimeout`. Zero is none.
    pub timeouts: Timeouts,
}

impl RetryPolicy {
    /// The retries of a rule of a route.
    ///
    /// A call of gRPC is always a POST. Codes of gRPC that an author lists are therefore enough to repeat one; that a
    /// call without a response may be repeated must be said by itself.
    pub(crate) fn for_kind(&self, kind: RouteKind) -> Retry {
        let mut retry = self.retry.clone();
        if kind == RouteKind::Grpc && !retry.grpc_codes.is_empty() && !retry.methods.include(&Method::POST) {
            let mut listed = match retry.methods {
                RetryMethods::Idempotent => Vec::new(),
                RetryMethods::Also(listed) => listed,
            };
            listed.push(Method::POST);
            retry.methods = RetryMethods::Also(listed);
            retry.on_no_response = self.on_no_response.unwrap_or(false);
        }
        retry
    }
}

/// Decodes a RetryPolicy.
pub(crate) fn decode(object: &Object, report: &mut Report<'_>) -> RetryPolicy {
    let mut policy = RetryPolicy { generation: object.generation(), ..RetryPolicy::default() };
    let root = Node::root(&object.value);
    root.ignore_others(&["apiVersion", "kind", "metadata", "spec", "status"], report);
    let Ok(Some(spec)) = root.object("spec", report) else {
        root.invalid("spec", "the policy has no spec".to_owned(), "write one", report);
        return policy;
    };
    spec.ignore_others(&FIELDS, report);
    let mark = report.mark();
    let retry = &mut policy.retry;
    if let Ok(Some(attempts)) = spec.integer("attempts", 1..=MAX_ATTEMPTS, report) {
        retry.attempts = attempts;
    }
    decode_backoff(&spec, retry, report);
    retry.statuses = decode_statuses(&spec, report);
    retry.grpc_codes = decode_grpc_codes(&spec, report);
    policy.on_no_response = spec.flag("onNoResponse", report).ok().flatten();
    retry.on_no_response = policy.on_no_response.unwrap_or(retry.on_no_response);
    retry.methods = decode_methods(&spec, report);
    retry.budget = decode_budget(&spec, report);
    policy.timeouts = decode_timeouts(&spec, report);
    report.effect(mark, LEFT_OUT);
    policy
}

fn decode_backoff(spec: &Node<'_>, retry: &mut Retry, report: &mut Report<'_>) {
    if let Some(backoff) = duration::read(spec, "backoff", LEFT_OUT, report) {
        retry.backoff = backoff;
        retry.max_backoff = retry.max_backoff.max(backoff);
    }
    match duration::read(spec, "maxBackoff", LEFT_OUT, report) {
        Some(most) if most < retry.backoff => {
            let what = "maxBackoff is shorter than backoff".to_owned();
            spec.invalid("maxBackoff", what, "make it at least as long as backoff", report);
        }
        Some(most) => retry.max_backoff = most,
        None => {}
    }
}

fn decode_timeouts(spec: &Node<'_>, report: &mut Report<'_>) -> Timeouts {
    let request = duration::read(spec, "timeout", LEFT_OUT, report);
    let backend_request = duration::read(spec, "perTryTimeout", LEFT_OUT, report);
    if request.is_some_and(|whole| whole > Duration::ZERO && backend_request.is_some_and(|each| each > whole)) {
        let what = "perTryTimeout is longer than timeout, which ends the attempt first".to_owned();
        spec.invalid("perTryTimeout", what, "make it at most as long as timeout", report);
    }
    Timeouts { request, backend_request }
}

fn decode_grpc_codes(spec: &Node<'_>, report: &mut Report<'_>) -> Vec<u8> {
    let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
    let mut codes = Vec::new();
    for item in spec.at_most("grpcCodes", MAX_CODES, report).unwrap_or_default() {
        let number = match item.value.as_str() {
            Some(text) => {
                let place = GRPC_CODES.iter().position(|name| plain(name) == plain(text));
                if place.is_none() {
                    let what = format!("{} is no code of gRPC", short(text));
                    let fix = "write a name such as Unavailable, or its number";
                    report.schema(&item.path, Reason::UnsupportedValue, what, fix);
                }
                place.map(|place| place + 1)
            }
            None => item.as_integer(1..=GRPC_CODES.len() as u32, report).ok().map(|number| number as usize),
        };
        codes.extend(number.and_then(|number| u8::try_from(number).ok()));
    }
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn decode_methods(spec: &Node<'_>, report: &mut Report<'_>) -> RetryMethods {
    let decoded = spec.texts("methods", MAX_LIST, report).unwrap_or_default();
    let mut listed = Vec::new();
    for (item, text) in decoded {
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if METHODS.contains(&text) => listed.push(method),
            _ => {
                let what = format!("{} is no method that can be repeated", short(text));
                report.schema(&item.path, Reason::UnsupportedValue, what, format!("use {}", METHODS.join(", ")));
            }
        }
    }
    if listed.is_empty() { RetryMethods::Idempotent } else { RetryMethods::Also(listed) }
}

fn decode_budget(spec: &Node<'_>, report: &mut Report<'_>) -> RetryBudget {
    let mut budget = RetryBudget::default();
    let Ok(Some(node)) = spec.object("budget", report).map_err(|Invalid| ()) else { return budget };
    node.ignore_others(&BUDGET_FIELDS, report);
    if let Ok(Some(percent)) = node.integer("percent", 0..=100, report) {
        budget.percent = percent;
    }
    if let Ok(Some(floor)) = node.integer("minPerSecond", 0..=MAX_PER_SECOND, report) {
        budget.min_per_second = floor;
    }
    budget
}

#[cfg(test)]
#[path = "retry_policy_tests.rs"]
mod tests;
