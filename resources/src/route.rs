//! What routes of all kinds share: parents, hostnames and rules, decoded rule by rule (`rule`, `backend`, `filter`).
//!
//! What cannot be understood is contained, never skipped in silence, and each case has a [`crate::Problem`]:
//!
//! - a match with an unknown type, field or value drops its rule ("Dropped Rule" of the `PartiallyInvalid` condition):
//!   the rule matches no request, and keeps its place so that the others keep their numbers. A route without any good
//!   rule stays attached: its requests are answered 404, never handed to a Service that the route was to guard;
//! - a filter with an unknown type, field or value makes every backend it applies to invalid: 500 (`filters`: a filter
//!   must not be skipped);
//! - a backend reference that is wrong is invalid: its share of the requests is answered 500, or of the connections
//!   closed;
//! - any other field is left out with a warning.

use std::{mem::size_of, sync::Arc};

use mesh_policy::{
    RequestMatch, RouteKind, RouteMeta,
    bounds::{MAX_ROUTE_BYTES, matches_bytes},
    route::{HostMatch, HostMatchError},
    well_known::GATEWAY_GROUP,
};
use serde_json::Value;

use crate::{
    object::{Object, Source},
    problem::{Place, Reason, Report},
    rule::{DecodeMatch, NOBODY, RuleObject, decode_rule},
    walker::{Invalid, MAX_LIST, Node, bytes_of},
};

/// Most rules of a route, and matches of a rule. The Gateway API allows 16 and 64, and later versions may allow more.
pub(crate) const MAX_RULES: usize = 256;
/// What a parent takes in what routes lead to.
const LINK_BYTES: usize = 256;
/// A decoded route of any kind.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteObject {
    /// Kind, name and age.
    pub meta: RouteMeta,
    /// `metadata.generation`, which a status repeats; 0 if it has none.
    pub generation: i64,
    /// Where it came from.
    pub source: Option<Source>,
    /// The Services it is attached to. Parents of other kinds belong to others.
    pub parents: Vec<Parent>,
    /// Hosts it serves; empty is all.
    pub hostnames: Vec<HostMatch>,
    /// Its rules, in order.
    pub rules: Vec<RuleObject>,
    /// Why nothing of it is served, whatever its rules say.
    pub rejected: Option<Reason>,
    /// What its patterns compile to, in bytes, equal ones counted once.
    pub pattern_bytes: usize,
    /// What it takes in memory, in bytes, about, without programs of patterns.
    pub bytes: usize,
    /// The part of it that is in policies: all but its parents.
    pub policy_bytes: usize,
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
    /// The reference as it is written, which names the parent in a status: as text, for a tree of it takes ten times as much.
    pub reference: Box<str>,
    /// Why it attaches to nothing, whatever it names.
    pub rejected: Option<Reason>,
}

/// What kinds of routes differ in.
pub(crate) struct Form {
    /// The kind.
    pub(crate) kind: RouteKind,
    /// How it writes matches, and what a rule without any matches; `None`: its rules have none.
    pub(crate) matches: Option<(DecodeMatch, fn() -> RequestMatch)>,
    /// Fields of a rule.
    pub(crate) rule_fields: &'static [&'static str],
    /// Most hostnames; 0: it has no such field.
    pub(crate) max_hostnames: usize,
}

/// What follows from having no rule.
fn no_rule(kind: RouteKind) -> &'static str {
    match kind.is_of_requests() {
        true => "every request to its parents is answered 404",
        false => "every connection to its parents is closed",
    }
}

impl RouteObject {
    /// Whether it is of the mesh: it has a Service as parent.
    pub(crate) fn is_of_mesh(&self) -> bool {
        !self.parents.is_empty()
    }
}

/// Decodes a route.
pub(crate) fn decode(object: &Object, form: &Form, report: &mut Report<'_>) -> RouteObject {
    let meta = RouteMeta {
        kind: form.kind,
        namespace: object.namespace.as_str().into(),
        name: object.name.as_str().into(),
        created: object.created,
    };
    let mut route = RouteObject {
        meta,
        generation: object.generation(),
        source: object.source.clone(),
        parents: Vec::new(),
        hostnames: Vec::new(),
        rules: Vec::new(),
        rejected: None,
        pattern_bytes: 0,
        bytes: size_of::<RouteObject>(),
        policy_bytes: size_of::<RouteObject>(),
    };
    let root = Node::root(&object.value);
    root.ignore_others(&["apiVersion", "kind", "metadata", "spec", "status"], report);
    let Ok(Some(spec)) = root.object("spec", report) else {
        root.invalid("spec", "the route has no spec and does nothing".to_owned(), "write one", report);
        return route;
    };
    let fields = ["parentRefs", "rules", "useDefaultGateways", "hostnames"];
    spec.ignore_others(if form.max_hostnames > 0 { &fields } else { &fields[..3] }, report);
    for node in spec.at_most("parentRefs", MAX_LIST, report).unwrap_or_default() {
        let parent = decode_parent(&node, &object.namespace, report);
        route.bytes += parent.as_ref().map_or(0, |_| size_of::<Parent>() + LINK_BYTES + node.bytes());
        route.parents.extend(parent);
    }
    let any_host = form.max_hostnames == 0 || decode_hostnames(&spec, form, &mut route.hostnames, report);
    let hosts: usize = route.hostnames.iter().map(HostMatch::bytes).sum();
    route.bytes += hosts;
    route.policy_bytes += hosts;
    decode_rules(&spec, form, &mut route, report);
    let has_parents =
        spec.get("parentRefs").is_some_and(|parents| parents.value.as_array().is_some_and(|all| !all.is_empty()));
    if has_parents && !route.is_of_mesh() {
        // What others serve is theirs to judge: they know backends and filters that are nothing here.
        report.forget_all_but("spec.parentRefs");
    }
    if !any_host {
        route.rejected = Some(Reason::UnsupportedValue);
        route.rules.iter_mut().for_each(|rule| rule.matches = vec![RequestMatch::never()]);
    }
    route
}

fn decode_rules(spec: &Node<'_>, form: &Form, route: &mut RouteObject, report: &mut Report<'_>) {
    let mark = report.mark();
    match spec.at_most("rules", MAX_RULES, report) {
        // The default of the CRD: one rule that matches everything and has no backend.
        Ok(_) if spec.get("rules").is_none() && form.matches.is_some() => {
            let matches = form.matches.iter().map(|(_, every)| every()).collect();
            route.rules.push(RuleObject { matches, ..RuleObject::default() });
            let mark = report.mark();
            let what = "the route has no rules, so that it has one for every request, without a backend";
            report.warning(&spec.path, Reason::UnsupportedValue, what, "write rules with backendRefs");
            report.effect(mark, NOBODY);
            return;
        }
        Ok(rules) if rules.is_empty() => {
            let what = "the route has no rule".to_owned();
            let fix = match form.matches {
                Some(_) => "write at least one, or leave out the field",
                None => "write one",
            };
            spec.invalid("rules", what, fix, report);
        }
        Ok(rules) => {
            for (place, node) in rules.iter().enumerate() {
                let rule = decode_rule(node, place, form, &route.meta, report);
                warn_of_the_name(node, &rule, &route.rules, report);
                let rule = within_bounds(node, rule, form, route, report);
                route.rules.push(rule);
            }
            return;
        }
        Err(Invalid) => {}
    }
    report.effect(mark, no_rule(form.kind));
    if route.rules.is_empty() {
        route.rejected = Some(Reason::UnsupportedValue);
    }
}

/// A rule, if the route has room for it.
fn within_bounds(
    node: &Node<'_>,
    rule: RuleObject,
    form: &Form,
    route: &mut RouteObject,
    report: &mut Report<'_>,
) -> RuleObject {
    let others = node.value.as_object().into_iter().flatten().filter(|(name, _)| *name != "matches");
    let others: usize = others.map(|(_, value)| bytes_of(value)).sum();
    let bytes = size_of::<RuleObject>() + matches_bytes(&rule.matches, route.hostnames.len()) + others;
    if route.bytes + bytes <= MAX_ROUTE_BYTES {
        route.bytes += bytes;
        route.policy_bytes += bytes;
        route.pattern_bytes += rule.pattern_bytes;
        return rule;
    }
    let mark = report.mark();
    let what = format!(
        "Dropped Rule: with the rules before it takes more than {} KiB, the most of one route; each hostname counts \
         with each match",
        MAX_ROUTE_BYTES / 1024
    );
    report.error(&node.path, Reason::TooLarge, what, "attach another route for it");
    report.effect(mark, "the rule is not served");
    RuleObject::left_out(form.matches.is_some())
}

/// Names of rules are unique in their route (Gateway API, `rules`; enforced since v1.7). Two of one name are still two.
fn warn_of_the_name(node: &Node<'_>, rule: &RuleObject, before: &[RuleObject], report: &mut Report<'_>) {
    let is_taken = |name: &Arc<str>| before.iter().position(|other| other.name.as_ref() == Some(name));
    if let Some(first) = rule.name.as_ref().and_then(is_taken) {
        let mark = report.mark();
        let what = format!("rules[{first}] has this name already");
        report.warning(&node.field("name"), Reason::UnsupportedValue, what, "give each rule a name of its own");
        report.effect(mark, "the rule is in force; what is said of it by name is ambiguous");
    }
}

/// Reads `hostnames`. False when there are some and none can be understood: the route must not become one for all.
fn decode_hostnames(spec: &Node<'_>, form: &Form, hostnames: &mut Vec<HostMatch>, report: &mut Report<'_>) -> bool {
    let Ok(nodes) = spec.at_most("hostnames", form.max_hostnames, report) else { return false };
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

/// Decodes a parent. `None`: it is not ours, or names nothing that could be asked for.
fn decode_parent(node: &Node<'_>, namespace: &str, report: &mut Report<'_>) -> Option<Parent> {
    const FIELDS: [&str; 6] = ["group", "kind", "namespace", "name", "sectionName", "port"];
    node.is_object(report).ok()?;
    let name = node.required_text("name", report).ok()?.into();
    let group = node.text("group", report).ok()?.unwrap_or(GATEWAY_GROUP);
    let kind = node.text("kind", report).ok()?.unwrap_or("Gateway");
    match (group, kind) {
        ("" | "core", "Service") => {}
        (GATEWAY_GROUP, "Service") => {
            let what =
                "a Service is of the core group, and this one is looked for in the Gateway API's; it is no parent";
            report.error(&node.field("group"), Reason::NoMatchingParent, what, "write `group: \"\"`");
            return None;
        }
        ("" | "core", _) => {
            let what = format!("of the core group only Services are parents, and {kind:?} is no Service");
            let mark = report.mark();
            report.warning(&node.field("kind"), Reason::NoMatchingParent, what, "write `kind: Service`");
            report.effect(mark, "the route is not attached here");
            return None;
        }
        _ => return None,
    }
    let mark = report.mark();
    report.take_rejection();
    // Each is reported by itself; one that cannot be understood must not make the reference a broader one.
    let _ = node.only(&FIELDS, report);
    let namespace = node.text("namespace", report).ok().flatten().unwrap_or(namespace).into();
    let port = node.port("port", report).ok().flatten();
    let section = node.text("sectionName", report).ok().flatten().map(str::to_owned);
    report.effect(mark, "the route is not attached here");
    let written = FIELDS.iter().filter_map(|field| Some(((*field).to_owned(), node.get(field)?.value.clone())));
    Some(Parent {
        namespace,
        name,
        port,
        section: section.filter(|name| !name.is_empty()),
        place: report.place(&node.path),
        reference: Value::Object(written.collect()).to_string().into(),
        rejected: report.take_rejection(),
    })
}
