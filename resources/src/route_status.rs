//! What belongs in `status.parents` of each route.
//!
//! The conditions and reasons are those of `RouteConditionType` and `RouteConditionReason`. A rule that is not served as written
//! is a dropped one: with good rules beside it the route is accepted and `PartiallyInvalid`, without any it is not
//! accepted. Fields that are left out harm nothing: the message of `Accepted` names them.

use std::collections::BTreeSet;

use mesh_policy::RouteKind;

use crate::{
    attach::{Found, id_of},
    object::Key,
    problem::{Problem, Reason, Report, Severity},
    route::{Parent, RouteObject},
    rule::RuleObject,
    snapshot::Snapshot,
    status::{Condition, StatusEntry, words},
};

/// Most rules whose numbers a message begins with.
const MAX_NUMBERS: usize = 10;

/// The status of one route, as far as it is the mesh's.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteStatus {
    /// Kind of the route.
    pub kind: RouteKind,
    /// Its namespace and name.
    pub key: Key,
    /// One entry a parent that is a Service, each reference once, in the order written. Empty: the mesh has nothing to
    /// say of the route, and entries that it once wrote must go.
    pub parents: Vec<StatusEntry>,
}

impl Snapshot {
    /// What belongs in the status of a route; `None` when there is no such route.
    pub fn route_status(&self, kind: RouteKind, key: &Key) -> Option<RouteStatus> {
        Some(self.status_of(self.routes(kind).get(key)?, &mut Found::default()))
    }

    /// The same of one of many routes.
    pub(crate) fn status_of(&self, route: &RouteObject, found: &mut Found) -> RouteStatus {
        let mut report = Report::about(id_of(route));
        self.check_references(route, &mut report);
        let references = report.finish();
        let mut problems: Vec<&Problem> = self.problems_of(&id_of(route)).iter().chain(&references).collect();
        problems.sort_by_key(|problem| rule_of(problem));
        let resolved = resolved_refs(&problems);
        let mut parents: Vec<StatusEntry> = Vec::new();
        let mut done = BTreeSet::new();
        for parent in route.parents.iter().filter(|parent| done.insert(&*parent.reference)) {
            let mut conditions = self.acceptance(route, parent, &problems, found);
            conditions.insert(1, resolved.clone());
            // It is what was written from a value.
            let reference = serde_json::from_str(&parent.reference).unwrap_or_default();
            parents.push(StatusEntry { reference, conditions });
        }
        RouteStatus { kind: route.meta.kind, key: key_of(route), parents }
    }

    /// `Accepted`, and `PartiallyInvalid` where that holds.
    fn acceptance(
        &self,
        route: &RouteObject,
        parent: &Parent,
        problems: &[&Problem],
        found: &mut Found,
    ) -> Vec<Condition> {
        let mut report = Report::about(id_of(route));
        let kept_out = self.check_parent(route, parent, found, &mut report);
        let mut here = report.finish();
        here.extend(problems.iter().filter(|p| is_within(&p.field, &parent.place.field)).copied().cloned());
        let no = |reason: Reason, message: String| {
            vec![Condition { kind: "Accepted", status: false, reason: reason.as_str(), message }]
        };
        if let Some(reason) = kept_out {
            return no(reason, words("Not attached", here.iter()));
        }
        // What a reference leads to is told by `ResolvedRefs`.
        let own = || problems.iter().copied().filter(|p| !p.reason.is_of_references());
        if let Some(reason) = route.rejected {
            let whole = own().filter(|p| p.severity == Severity::Error && !is_within(&p.field, "spec.parentRefs"));
            return no(reason, words("Not served", whole));
        }
        let dropped: Vec<_> =
            route.rules.iter().enumerate().filter_map(|(i, rule)| Some((i, self.rejection(route, rule)?))).collect();
        let of_dropped = own().filter(|p| p.severity == Severity::Error && is_of(p, &dropped));
        match dropped.first() {
            Some((_, reason)) if dropped.len() == route.rules.len() => {
                no(*reason, words("No rule is good", of_dropped))
            }
            first => {
                let notes = own().filter(|p| !is_within(&p.field, "spec.parentRefs"));
                let notes = notes.filter(|p| p.severity == Severity::Warning || !is_of(p, &dropped));
                let message = words("In force", here.iter().chain(notes));
                let mut conditions = vec![Condition { kind: "Accepted", status: true, reason: "Accepted", message }];
                if let Some((_, reason)) = first {
                    let numbers: Vec<_> = dropped.iter().take(MAX_NUMBERS).map(|(i, _)| i.to_string()).collect();
                    let others = if dropped.len() > MAX_NUMBERS { " and others" } else { "" };
                    let title = format!("Dropped Rule {}{others}", numbers.join(", "));
                    let message = words(&title, of_dropped);
                    conditions.push(Condition {
                        kind: "PartiallyInvalid",
                        status: true,
                        reason: reason.as_str(),
                        message,
                    });
                }
                conditions
            }
        }
    }

    /// Why some of a rule's traffic is not served as written, beside what it refers to.
    fn rejection(&self, route: &RouteObject, rule: &RuleObject) -> Option<Reason> {
        rule.rejected.or_else(|| self.is_over(route, rule).then_some(Reason::TooLarge))
    }
}

/// Whether a problem is about one of the rules that are dropped.
fn is_of(problem: &Problem, dropped: &[(usize, Reason)]) -> bool {
    let rule = rule_of(problem).checked_sub(1);
    dropped.iter().any(|(place, _)| Some(*place) == rule)
}

fn resolved_refs(problems: &[&Problem]) -> Condition {
    let mut bad = problems.iter().copied().filter(|p| p.reason.is_of_references()).peekable();
    let reason = bad.peek().map(|problem| problem.reason.as_str());
    let title = if reason.is_some() { "Not resolved" } else { "All references are resolved" };
    Condition {
        kind: "ResolvedRefs",
        status: reason.is_none(),
        reason: reason.unwrap_or("ResolvedRefs"),
        message: words(title, bad),
    }
}

/// Which rule a problem is about, from 1; 0: none.
fn rule_of(problem: &Problem) -> usize {
    let number = problem.field.strip_prefix("spec.rules[").and_then(|rest| rest.split_once(']'));
    number.and_then(|(number, _)| number.parse::<usize>().ok()).map_or(0, |number| number + 1)
}

/// Whether a field is another one or below it.
fn is_within(field: &str, above: &str) -> bool {
    field.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn key_of(route: &RouteObject) -> Key {
    Key { namespace: route.meta.namespace.clone(), name: route.meta.name.clone() }
}
