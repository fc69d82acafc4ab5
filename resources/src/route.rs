//! What HTTPRoute and GRPCRoute share: parents, hostnames, rules, filters and backends, decoded rule by rule.
//!
//! What cannot be understood is contained, never skipped in silence, and each case has a [`crate::Problem`]:
//!
//! - a match with an unknown type, field or value drops its rule ("Dropped Rule" of the `PartiallyInvalid` condition):
//!   the rule matches no request, and keeps its place so that the others keep their numbers. A route without any good
//!   rule stays attached: its requests are answered 404, never handed to a Service that the route was to guard;
//! - a filter with an unknown type, field or value makes every backend it applies to invalid: 500 (`filters`: a filter
//!   must not be skipped);
//! - a backend reference that is wrong is invalid: its share of the requests is answered 500;
//! - any other field is left out with a warning.

use std::sync::Arc;

use mesh_policy::{
    Filter, RequestMatch, RouteKind, RouteMeta, ServiceRef, StringMatch, Timeouts,
    model::MAX_WEIGHT,
    name::{is_label, is_subdomain},
    route::{HostMatch, HostMatchError, RegexMatch},
};

use crate::{
    duration,
    filter::decode_filters,
    object::{Object, Source},
    problem::{Place, Reason, Report},
    reference_grant::GATEWAY_GROUP,
    walker::{Invalid, Node},
};

/// Most rules of a route, and matches of a rule. The Gateway API allows 16 and 64, and later versions may allow more.
const MAX_RULES: usize = 256;
/// Most entries of any other list. The Gateway API allows 16, parents 32.
pub(crate) const MAX_LIST: usize = 64;
/// What follows from having none.
const NO_RULE: &str = "every request to its parents is answered 404";

/// A decoded HTTPRoute or GRPCRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteObject {
    /// Kind, name and age.
    pub meta: RouteMeta,
    /// Where it came from.
    pub source: Option<Source>,
    /// The Services it is attached to. Parents of other kinds belong to others.
    pub parents: Vec<Parent>,
    /// Hosts it serves; empty is all.
    pub hostnames: Vec<HostMatch>,
    /// Its rules, in order.
    pub rules: Vec<RuleObject>,
}

/// A reference to a Service as parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Arc<str>,
    /// Only this port; `None` is all.
    pub port: Option<u16>,
    /// Only the port of this name; `None` is all.
    pub section: Option<String>,
    /// Where the reference is.
    pub place: Place,
}

/// A decoded rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleObject {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Its matches.
    pub matches: Vec<RequestMatch>,
    /// Its filters; or why its requests cannot be served.
    pub filters: Result<Vec<Filter>, String>,
    /// Its backends.
    pub backends: Vec<BackendObject>,
    /// Its time limits.
    pub timeouts: Timeouts,
}

/// A decoded backend reference.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendObject {
    /// Its weight.
    pub weight: u32,
    /// What it names; or why that cannot be served.
    pub service: Result<ServiceRef, String>,
    /// Its filters; or why its requests cannot be served.
    pub filters: Result<Vec<Filter>, String>,
    /// Where the reference is.
    pub place: Place,
}

/// Decodes one match of a rule.
pub(crate) type DecodeMatch = fn(&Node<'_>, &mut Report<'_>) -> Result<RequestMatch, Invalid>;

/// Decodes a route, given how its kind writes matches and what it matches without any.
pub(crate) fn decode(
    object: &Object,
    kind: RouteKind,
    decode_match: DecodeMatch,
    every: RequestMatch,
    report: &mut Report<'_>,
) -> RouteObject {
    let meta = RouteMeta {
        kind,
        namespace: object.namespace.as_str().into(),
        name: object.name.as_str().into(),
        created: object.created,
    };
    let mut route = RouteObject {
        meta,
        source: object.source.clone(),
        parents: Vec::new(),
        hostnames: Vec::new(),
        rules: Vec::new(),
    };
    let root = Node::root(&object.value);
    root.ignore_others(&["apiVersion", "kind", "metadata", "spec", "status"], report);
    let Ok(Some(spec)) = root.object("spec", report) else {
        root.invalid("spec", "the route has no spec and does nothing".to_owned(), "write one", report);
        return route;
    };
    spec.ignore_others(&["parentRefs", "hostnames", "rules", "useDefaultGateways"], report);
    for node in spec.at_most("parentRefs", MAX_LIST, report).unwrap_or_default() {
        if let Ok(Some(parent)) = decode_parent(&node, &object.namespace, report) {
            route.parents.push(parent);
        }
    }
    let any_host = decode_hostnames(&spec, &mut route.hostnames, report);
    let mark = report.mark();
    match spec.at_most("rules", MAX_RULES, report) {
        // The default of the CRD: one rule that matches everything and has no backend.
        Ok(_) if spec.get("rules").is_none() => route.rules.push(RuleObject {
            name: None,
            matches: vec![every],
            filters: Ok(Vec::new()),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
        }),
        Ok(rules) if rules.is_empty() => {
            let what = "the route has no rule".to_owned();
            spec.invalid("rules", what, "write at least one, or leave out the field", report);
            report.effect(mark, NO_RULE);
        }
        Ok(rules) => {
            for node in &rules {
                route.rules.push(decode_rule(node, &object.namespace, decode_match, &every, report));
            }
        }
        Err(Invalid) => report.effect(mark, NO_RULE),
    }
    if !any_host {
        route.rules.iter_mut().for_each(|rule| rule.matches = vec![RequestMatch::never()]);
    }
    route
}

/// Reads `hostnames`. False when there are some and none can be understood: the route must not become one for all.
fn decode_hostnames(spec: &Node<'_>, hostnames: &mut Vec<HostMatch>, report: &mut Report<'_>) -> bool {
    let Ok(nodes) = spec.at_most("hostnames", MAX_LIST, report) else { return false };
    for node in &nodes {
        let Some(text) = node.value.as_str() else {
            node.wrong_type("a text", report);
            continue;
        };
        let fix = "write a name such as web.example.com or *.example.com";
        let mark = report.mark();
        match HostMatch::parse(text) {
            Ok(host) => hostnames.push(host),
            // The pattern of the CRD lets addresses through; its description does not.
            Err(why @ HostMatchError::Address) => {
                report.error(&node.path, Reason::UnsupportedValue, why.to_string(), fix);
            }
            Err(why) => report.schema(&node.path, Reason::UnsupportedValue, why.to_string(), fix),
        }
        report.effect(mark, "no request has this host");
    }
    nodes.is_empty() || !hostnames.is_empty()
}

fn decode_parent(node: &Node<'_>, namespace: &str, report: &mut Report<'_>) -> Result<Option<Parent>, Invalid> {
    node.is_object(report)?;
    let name = node.required_text("name", report)?.into();
    let group = node.text("group", report)?.unwrap_or(GATEWAY_GROUP);
    let kind = node.text("kind", report)?.unwrap_or("Gateway");
    match (group, kind) {
        ("" | "core", "Service") => {}
        (GATEWAY_GROUP, "Service") => {
            let what =
                "a Service is of the core group, and this one is looked for in the Gateway API's; it is no parent";
            report.error(&node.field("group"), Reason::NoMatchingParent, what, "write `group: \"\"`");
            return Err(Invalid);
        }
        _ => return Ok(None),
    }
    node.only(&["group", "kind", "namespace", "name", "port", "sectionName"], report)?;
    Ok(Some(Parent {
        namespace: node.text("namespace", report)?.unwrap_or(namespace).into(),
        name,
        port: node.port("port", report)?,
        section: node.text("sectionName", report)?.map(str::to_owned),
        place: report.place(&node.path),
    }))
}

fn decode_rule(
    node: &Node<'_>,
    namespace: &str,
    decode_match: DecodeMatch,
    every: &RequestMatch,
    report: &mut Report<'_>,
) -> RuleObject {
    node.ignore_others(&["name", "matches", "filters", "backendRefs", "timeouts"], report);
    let matches = node.is_object(report).and_then(|()| node.at_most("matches", MAX_RULES, report)).and_then(|nodes| {
        let all: Vec<_> = nodes.iter().map(|node| decode_match(node, report)).collect();
        all.into_iter().collect::<Result<Vec<_>, _>>()
    });
    let matches = match matches {
        Ok(matches) if matches.is_empty() => vec![every.clone()],
        Ok(matches) => matches,
        Err(Invalid) => {
            let what = "Dropped Rule: a match cannot be understood, so the rule matches no request";
            report.error(&node.path, Reason::UnsupportedValue, what, "correct the match that is reported above");
            vec![RequestMatch::never()]
        }
    };
    let backends = match node.at_most("backendRefs", MAX_LIST, report) {
        Ok(nodes) => nodes.iter().map(|node| decode_backend(node, namespace, report)).collect(),
        Err(Invalid) => Vec::new(),
    };
    let timeouts = decode_timeouts(node, report).unwrap_or_default();
    let name = node.name("name", is_subdomain, report).ok().flatten().map(Into::into);
    RuleObject { name, matches, filters: decode_filters(node, report), backends, timeouts }
}

fn decode_timeouts(rule: &Node<'_>, report: &mut Report<'_>) -> Result<Timeouts, Invalid> {
    let Some(node) = rule.object("timeouts", report)? else { return Ok(Timeouts::default()) };
    node.ignore_others(&["request", "backendRequest"], report);
    let limit = |name: &str, report: &mut Report<'_>| {
        let text = node.text(name, report).ok().flatten()?;
        let parsed = duration::parse(text);
        if parsed.is_none() {
            let mark = report.mark();
            let what = format!("{text:?} is not a duration");
            node.invalid(name, what, "write up to four of h, m, s, ms, as in 1m30s", report);
            report.effect(mark, "there is no such limit");
        }
        // Zero switches the limit off (GEP-1742).
        parsed.filter(|limit| !limit.is_zero())
    };
    let (request, mut backend_request) = (limit("request", report), limit("backendRequest", report));
    if let (Some(whole), Some(each)) = (request, backend_request)
        && each > whole
    {
        let what = "backendRequest is longer than request, which ends the attempt first".to_owned();
        node.invalid("backendRequest", what, "make it at most as long as request", report);
        backend_request = Some(whole);
    }
    Ok(Timeouts { request, backend_request })
}

fn decode_backend(node: &Node<'_>, namespace: &str, report: &mut Report<'_>) -> BackendObject {
    node.ignore_others(&["group", "kind", "namespace", "name", "port", "weight", "filters"], report);
    let mark = report.mark();
    let weight = node.integer("weight", 0..=MAX_WEIGHT, report);
    let service = decode_service_ref(node, namespace, report);
    let service = match (weight, service) {
        (Ok(_), Ok(service)) => service,
        _ => {
            report.effect(mark, "its share of the requests is answered 500");
            Err(format!("{} cannot be understood", node.path))
        }
    };
    let weight = weight.ok().flatten().unwrap_or(1);
    BackendObject { weight, service, filters: decode_filters(node, report), place: report.place(&node.path) }
}

fn decode_service_ref(
    node: &Node<'_>,
    namespace: &str,
    report: &mut Report<'_>,
) -> Result<Result<ServiceRef, String>, Invalid> {
    node.is_object(report)?;
    let group = node.text("group", report)?.unwrap_or("");
    let kind = node.text("kind", report)?.unwrap_or("Service");
    let name = node.required_text("name", report)?;
    if !matches!((group, kind), ("" | "core", "Service")) {
        let reason = format!("{kind:?} {name:?} of group {group:?} is not a Service");
        let what = format!("{reason}; its share of the requests is answered 500");
        report.error(&node.field("kind"), Reason::InvalidKind, what, "refer to a Service");
        return Ok(Err(reason));
    }
    let Some(port) = node.port("port", report)? else {
        return Err(node.invalid("port", "a Service needs `port`".to_owned(), "write the Service's port", report));
    };
    let namespace = node.name("namespace", is_label, report)?.unwrap_or(namespace).into();
    let name = node.name("name", is_subdomain, report)?.unwrap_or_default().into();
    Ok(Ok(ServiceRef { namespace, name, port }))
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
    RegexMatch::new(pattern)
        .map_err(|why| node.unsupported(field, why.to_string(), "write a pattern of the syntax of RE2", report))
}
