//! Rules of routes: matches, filters, backends, and what a rule says of time.

use std::{sync::Arc, time::Duration};

use mesh_policy::{
    RequestMatch, Retry, RouteMeta, SessionPersistence, StringMatch, Timeouts,
    name::is_subdomain,
    route::{PathMatch, RegexMatch},
};

use crate::{
    backend::{BackendObject, decode_backend},
    duration,
    filter::{self, FilterObject, Site, decode_filters},
    patterns::Refused,
    problem::{Reason, Report},
    retry::decode_retry,
    route::{Form, MAX_RULES},
    session::decode_session,
    walker::{Invalid, MAX_LIST, Node},
};

/// What follows from a time limit that cannot be understood.
const NO_LIMIT: &str = "there is no such limit";

/// A decoded rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleObject {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Its matches; those of kinds whose rules have none are empty.
    pub matches: Vec<RequestMatch>,
    /// Its filters; or why its requests cannot be served.
    pub filters: Result<Vec<FilterObject>, String>,
    /// Its backends.
    pub backends: Vec<BackendObject>,
    /// Its time limits as written: zero switches one off.
    pub timeouts: Timeouts,
    /// Its retries.
    pub retry: Option<Retry>,
    /// Whether sessions stay with an endpoint.
    pub session: Option<SessionPersistence>,
    /// Why some of its traffic is not served as written, beside what it refers to.
    pub rejected: Option<Reason>,
    /// What its patterns add to those of the rules before, compiled, in bytes.
    pub pattern_bytes: usize,
}

impl Default for RuleObject {
    fn default() -> Self {
        Self {
            name: None,
            matches: Vec::new(),
            filters: Ok(Vec::new()),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            rejected: None,
            pattern_bytes: 0,
        }
    }
}

impl RuleObject {
    /// What stands in the place of a rule for which there is no room: it matches nothing and serves nothing.
    pub(crate) fn left_out(has_matches: bool) -> Self {
        let matches = if has_matches { vec![RequestMatch::never()] } else { Vec::new() };
        Self { matches, rejected: Some(Reason::TooLarge), ..Self::default() }
    }
}

/// Decodes one match of a rule.
pub(crate) type DecodeMatch = fn(&Node<'_>, &mut Report<'_>) -> Result<RequestMatch, Invalid>;

/// Decodes the rule at a place of its route.
pub(crate) fn decode_rule(
    node: &Node<'_>,
    place: usize,
    form: &Form,
    route: &RouteMeta,
    report: &mut Report<'_>,
) -> RuleObject {
    let site = Site { kind: form.kind, namespace: &route.namespace, is_rule: true };
    node.ignore_others(form.rule_fields, report);
    let has = |field: &str| form.rule_fields.contains(&field);
    report.take_rejection();
    let matches = decode_matches(node, form, report);
    let mut rule = RuleObject::default();
    if let Ok(nodes) = node.at_most("backendRefs", MAX_LIST, report) {
        rule.backends = nodes.iter().map(|node| decode_backend(node, site, report)).collect();
    }
    if form.matches.is_none() && rule.backends.is_empty() && node.value.is_object() {
        let mark = report.mark();
        node.invalid("backendRefs", "the rule has no backend".to_owned(), "write at least one", report);
        report.effect(mark, "its connections are closed");
    }
    if has("filters") {
        rule.filters = decode_filters(node, site, report);
        check_redirect(node, &mut rule, report);
        if let Ok(matches) = &matches {
            check_prefixes(node, matches, &mut rule, report);
        }
        lift_answers(&mut rule);
    }
    if matches.is_ok() {
        warn_of_no_backend(node, form, &rule, report);
    }
    rule.pattern_bytes = report.patterns.end_rule(matches.is_ok());
    rule.matches = matches.unwrap_or_else(|Invalid| {
        let what = "Dropped Rule: a match cannot be used, so the rule matches no request";
        report.error(&node.path, Reason::UnsupportedValue, what, "correct the match that is reported above");
        vec![RequestMatch::never()]
    });
    rule.rejected = report.take_rejection();
    rule.name = node.name("name", is_subdomain, report).ok().flatten().map(Into::into);
    if has("timeouts") {
        rule.timeouts = decode_timeouts(node, report);
    }
    if has("retry") {
        rule.retry = decode_retry(node, report);
        warn_of_two_retries(node, &rule, report);
    }
    if has("sessionPersistence") {
        let name = rule.name.as_deref().map_or_else(|| place.to_string(), str::to_owned);
        let seed = format!("{} {}/{} {name}", route.kind.as_str(), route.namespace, route.name);
        rule.session = decode_session(node, &seed, report);
    }
    rule
}

fn decode_matches(node: &Node<'_>, form: &Form, report: &mut Report<'_>) -> Result<Vec<RequestMatch>, Invalid> {
    node.is_object(report)?;
    let Some((decode_match, every)) = form.matches else { return Ok(Vec::new()) };
    let nodes = node.at_most("matches", MAX_RULES, report)?;
    let all: Vec<_> = nodes.iter().map(|node| decode_match(node, report)).collect();
    let matches = all.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(if matches.is_empty() { vec![every()] } else { matches })
}

/// A redirect answers all of a rule's requests, so there is nothing for backends.
fn check_redirect(node: &Node<'_>, rule: &mut RuleObject, report: &mut Report<'_>) {
    let redirects = rule.filters.as_ref().is_ok_and(|filters| filter::has_redirect(filters));
    if redirects && !rule.backends.is_empty() {
        let what = "RequestRedirect answers every request of the rule, which has backendRefs as well";
        refuse(&node.field("backendRefs"), Reason::IncompatibleFilters, what, "remove one of the two", report);
        rule.filters = Err(format!("{} has a redirect and backendRefs", node.path));
    }
}

/// `ReplacePrefixMatch` needs exactly one match, by prefix, to know what it replaces.
fn check_prefixes(node: &Node<'_>, matches: &[RequestMatch], rule: &mut RuleObject, report: &mut Report<'_>) {
    if let [RequestMatch { path: PathMatch::Prefix(_), .. }] = matches {
        return;
    }
    let of_backends = rule.backends.iter_mut().map(|backend| {
        let field = format!("{}.filters", backend.place.field);
        (field, &mut backend.filters)
    });
    for (field, filters) in std::iter::once((node.field("filters"), &mut rule.filters)).chain(of_backends) {
        if let Some(place) = filters.as_ref().ok().and_then(|filters| filter::replaces_prefix(filters)) {
            let field = format!("{field}[{place}]");
            let what = "ReplacePrefixMatch is only for a rule with exactly one match, of type PathPrefix";
            refuse(&field, Reason::UnsupportedValue, what, "write one such match, or use ReplaceFullPath", report);
            *filters = Err(format!("{field} has no one prefix to replace"));
        }
    }
}

/// Redirects and CORS answer in place of a backend. What all backends of a rule have is said once, as the rule's own: then
/// it holds of a request whatever backend it is given to.
fn lift_answers(rule: &mut RuleObject) {
    let answers = |backend: &BackendObject| -> Vec<FilterObject> {
        backend.filters.iter().flatten().filter(|filter| filter::answers(filter)).cloned().collect()
    };
    let mut all = rule.backends.iter().filter(|backend| backend.weight > 0).map(answers);
    let Some(first) = all.next().filter(|list| !list.is_empty()) else { return };
    let (true, Ok(filters)) = (all.all(|list| list == first), &mut rule.filters) else { return };
    filters.extend(first);
    for backend in &mut rule.backends {
        if let Ok(filters) = &mut backend.filters {
            filters.retain(|filter| !filter::answers(filter));
        }
    }
}

/// Reports filters that no API server takes together.
fn refuse(field: &str, reason: Reason, what: &str, fix: &str, report: &mut Report<'_>) {
    let mark = report.mark();
    report.schema(field, reason, what, fix);
    report.effect(mark, "the requests are answered 500, for a filter is never skipped");
}

/// What follows where nobody serves.
pub(crate) const NOBODY: &str = "every request is answered 500";

/// A rule of requests without a backend that has a share answers each with 500 (Gateway API, `backendRefs`).
fn warn_of_no_backend(node: &Node<'_>, form: &Form, rule: &RuleObject, report: &mut Report<'_>) {
    let serves = rule.backends.iter().any(|backend| backend.weight > 0);
    let answers = rule.filters.as_ref().map_or(true, |filters| filter::has_redirect(filters));
    if form.matches.is_none() || serves || answers || !node.value.is_object() {
        return;
    }
    let (what, fix) = match rule.backends.is_empty() {
        true => ("the rule has no backend and no redirect", "write at least one, or a RequestRedirect"),
        false => ("no backend of the rule has a weight above 0", "give one a weight"),
    };
    let mark = report.mark();
    report.warning(&node.field("backendRefs"), Reason::UnsupportedValue, what, fix);
    report.effect(mark, NOBODY);
}

fn warn_of_two_retries(node: &Node<'_>, rule: &RuleObject, report: &mut Report<'_>) {
    let has_policy = rule.filters.iter().flatten().any(|filter| matches!(filter, FilterObject::RetryPolicy(_)));
    if has_policy && rule.retry.is_some() {
        let what = "the rule has a RetryPolicy as well, which is the one in force";
        report.warning(&node.field("retry"), Reason::UnsupportedValue, what, "remove one of the two");
    }
}

fn decode_timeouts(rule: &Node<'_>, report: &mut Report<'_>) -> Timeouts {
    let mark = report.mark();
    let Ok(Some(node)) = rule.object("timeouts", report) else {
        report.effect(mark, NO_LIMIT);
        return Timeouts::default();
    };
    node.ignore_others(&["request", "backendRequest"], report);
    let request = duration::read(&node, "request", NO_LIMIT, report);
    let mut backend_request = duration::read(&node, "backendRequest", NO_LIMIT, report);
    if let (Some(whole), Some(each)) = (request.filter(|whole| !whole.is_zero()), backend_request)
        && each > whole
    {
        let what = "backendRequest is longer than request, which ends the attempt first".to_owned();
        node.invalid("backendRequest", what, "make it at most as long as request", report);
        backend_request = Some(whole);
    }
    Timeouts { request, backend_request }
}

/// Time limits in force: zero is none (GEP-1742), and no attempt outlasts its request.
pub(crate) fn in_force(written: Timeouts) -> Timeouts {
    let limit = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
    let request = limit(written.request);
    let backend_request = limit(written.backend_request).map(|each| request.map_or(each, |whole| each.min(whole)));
    Timeouts { request, backend_request }
}

/// A `type` of Exact or RegularExpression with the text in `field`.
pub(crate) fn decode_text_match(
    node: &Node<'_>,
    field: &str,
    text: &str,
    report: &mut Report<'_>,
) -> Result<StringMatch, Invalid> {
    match node.one_of("type", &["Exact", "RegularExpression"], report)? {
        Some("RegularExpression") => decode_regex(node, field, text, report).map(StringMatch::Regex),
        _ => Ok(StringMatch::Exact(text.to_owned())),
    }
}

/// A pattern.
pub(crate) fn decode_regex(
    node: &Node<'_>,
    field: &str,
    pattern: &str,
    report: &mut Report<'_>,
) -> Result<RegexMatch, Invalid> {
    report.patterns.judge(pattern).map_err(|refused| match refused {
        Refused::Pattern(why) => {
            node.unsupported(field, why.to_string(), "write a pattern of the syntax of RE2", report)
        }
        Refused::Sum(what) => {
            let what = format!("no room is left for this pattern and those after it: {what}");
            let fix = match report.patterns.is_of_policy {
                true => "use prefixes and exact values, merge patterns, or write another policy",
                false => "use prefixes and exact values, merge patterns, or attach another route",
            };
            node.too_large(field, what, fix, report)
        }
        Refused::Again => Invalid,
    })
}
