//! The rules in force, a row each.

use std::collections::BTreeSet;

use mesh_policy::{BackendTarget, OutboundPolicy, Route, Rule, ServiceRef, Target, well_known::CONTROLLER_NAME};
use mesh_resources::{
    Condition, Key, Object, RouteStatus, Snapshot, StatusEntry,
    kinds::{StatusForm, kind},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::traffic::Traffic;
use crate::{
    cmd::explain::{filter_words, trim},
    kube::value,
};

/// A rule in force for a port of a Service; of a port without routes, the port itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// `namespace/name:port`.
    pub service: String,
    /// Whom the route is for: `all`, or the namespace of a consumer route.
    pub clients: String,
    /// `Kind namespace/name`; `null`: no route is attached.
    pub route: Option<String>,
    /// The rule's place, from 0.
    pub rule: Option<usize>,
    /// Its name.
    pub name: Option<String>,
    /// Hostnames of the route.
    pub hostnames: Vec<String>,
    /// What it matches.
    pub matches: Vec<String>,
    /// What it does.
    pub filters: Vec<String>,
    /// Where requests go.
    pub backends: Vec<Backend>,
    /// What the controller says of the route: `ok`, or the condition that is not.
    pub status: Option<String>,
    /// How the route's requests to this rule's backends fared, if there were any.
    pub traffic: Option<Traffic>,
}

/// A backend and its share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Backend {
    /// `namespace/name:port`; `null`: it cannot be served.
    pub service: Option<String>,
    /// As written.
    pub weight: u32,
    /// Percent.
    pub share: f64,
    /// Why its share is answered 500.
    pub invalid: Option<String>,
}

impl Backend {
    /// `shop/web-v1:80 90 %`.
    pub(super) fn words(&self) -> String {
        format!("{} {} %", self.service.as_deref().unwrap_or("(500)"), trim(self.share))
    }
}

impl Row {
    /// The labels `route` and `backend` that its requests have in metrics. Those that the proxy answers for a route, because
    /// a backend cannot be served or the rule has none, have no backend; rules of one route share them.
    pub(super) fn labels(&self) -> (String, Vec<String>) {
        let route = self.route.as_deref().and_then(|route| route.split_once(' ')).map_or("", |(_, name)| name);
        let mut backends: Vec<String> = self.backends.iter().filter_map(|backend| backend.service.clone()).collect();
        if !route.is_empty() && (backends.is_empty() || backends.len() < self.backends.len()) {
            backends.push(String::new());
        }
        (route.to_owned(), backends)
    }
}

/// Which Services are shown.
pub(super) struct Shown<'a> {
    namespace: Option<&'a str>,
    name: Option<&'a str>,
}

impl<'a> Shown<'a> {
    /// Those that the command line names.
    pub(super) fn new(service: Option<&'a str>, all: bool, namespace: Option<&'a str>) -> Self {
        let namespace = namespace.filter(|_| !all);
        match service.map(|service| service.split_once('/')) {
            None => Self { namespace, name: None },
            Some(None) => Self { namespace, name: service },
            Some(Some((namespace, name))) => Self { namespace: Some(namespace), name: Some(name) },
        }
    }

    fn has(&self, namespace: &str, name: &str) -> bool {
        self.namespace.is_none_or(|wanted| wanted == namespace) && self.name.is_none_or(|wanted| wanted == name)
    }
}

/// Where the status of routes is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// What stands in the objects' status.
    ByObjects,
    /// What the controller would write there.
    ByController,
}

/// The rows of every port that is shown.
pub(super) fn rows(snapshot: &Snapshot, objects: &[Object], shown: &Shown<'_>, told: Told) -> Vec<Row> {
    let routes: Vec<&Object> = objects.iter().filter(|object| is_route(object)).collect();
    let status = |route: &Route| match told {
        Told::ByObjects => {
            let of_route = |object: &&&Object| {
                object.is(route.meta.kind.as_str())
                    && object.namespace == *route.meta.namespace
                    && object.name == *route.meta.name
            };
            routes.iter().find(of_route).map(|object| object.value.clone())
        }
        Told::ByController => {
            let key = Key { namespace: route.meta.namespace.clone(), name: route.meta.name.clone() };
            snapshot.route_status(route.meta.kind, &key).map(|status| written(&status))
        }
    };
    // Only where there are routes can there be some for clients of that namespace alone.
    let namespaces: BTreeSet<&str> = routes.iter().map(|route| route.namespace.as_str()).collect();
    let mut rows = Vec::new();
    for (key, service) in snapshot.services.iter().filter(|(key, _)| shown.has(&key.namespace, &key.name)) {
        for port in &service.ports {
            let target = ServiceRef::new(key.namespace.clone(), key.name.clone(), port.port);
            let own = snapshot.compile_outbound(&Target::Service(target.clone()), &key.namespace).0;
            rows.extend(of_policy(&target, &own, "all", &status));
            for namespace in namespaces.iter().filter(|namespace| **namespace != &*key.namespace) {
                let policy = snapshot.compile_outbound(&Target::Service(target.clone()), namespace).0;
                let is_theirs = |route: &Route| &*route.meta.namespace == *namespace;
                if policy.routes.routes().iter().any(|route| is_theirs(route)) {
                    rows.extend(of_policy(&target, &policy, namespace, &status));
                }
            }
        }
    }
    rows
}

/// Whether an object attaches to Services as a route: of the Gateway API's kinds those have a status that is ours to write.
fn is_route(object: &Object) -> bool {
    object.is(&object.kind) && kind(&object.kind).is_some_and(|kind| kind.status == Some(StatusForm::Parents))
}

fn of_policy(
    target: &ServiceRef,
    policy: &OutboundPolicy,
    clients: &str,
    status: &impl Fn(&Route) -> Option<Value>,
) -> Vec<Row> {
    if policy.routes.is_empty() {
        let itself = Backend { service: Some(target.to_string()), weight: 1, share: 100.0, invalid: None };
        return vec![Row {
            service: target.to_string(),
            clients: clients.to_owned(),
            route: None,
            rule: None,
            name: None,
            hostnames: Vec::new(),
            matches: Vec::new(),
            filters: Vec::new(),
            backends: vec![itself],
            status: None,
            traffic: None,
        }];
    }
    let mut rows = Vec::new();
    for route in policy.routes.routes() {
        let status = status(route).and_then(|object| status_of(&object, target, &route.meta.namespace));
        let name = format!("{} {}/{}", route.meta.kind.as_str(), route.meta.namespace, route.meta.name);
        if route.rules.is_empty() {
            let is_of_requests = route.meta.kind.is_of_requests();
            let follows = if is_of_requests { "every request is answered 404" } else { "every connection is closed" };
            rows.push(Row {
                service: target.to_string(),
                clients: clients.to_owned(),
                route: Some(name.clone()),
                rule: None,
                name: None,
                hostnames: route.hostnames.iter().map(ToString::to_string).collect(),
                matches: Vec::new(),
                filters: Vec::new(),
                backends: Vec::new(),
                status: Some(format!("no rule: {follows}")),
                traffic: None,
            });
        }
        for (index, rule) in route.rules.iter().enumerate() {
            rows.push(Row {
                service: target.to_string(),
                clients: clients.to_owned(),
                route: Some(name.clone()),
                rule: Some(index),
                name: rule.name.as_deref().map(str::to_owned),
                hostnames: route.hostnames.iter().map(ToString::to_string).collect(),
                matches: rule.matches.iter().map(ToString::to_string).collect(),
                filters: rule.filters.iter().map(filter_words).collect(),
                backends: backends(rule),
                status: match status.as_deref() {
                    // The object is right, and still nobody is served.
                    Some("ok") if serves_nobody(rule) => Some("no backend: every request is answered 500".to_owned()),
                    _ => status.clone(),
                },
                traffic: None,
            });
        }
    }
    rows
}

/// Whether a rule has neither a backend with a share nor a redirect.
fn serves_nobody(rule: &Rule) -> bool {
    rule.total_weight() == 0 && !rule.filters.iter().any(|filter| matches!(filter, mesh_policy::Filter::Redirect(_)))
}

fn backends(rule: &Rule) -> Vec<Backend> {
    let total = rule.total_weight().max(1);
    let backend = |backend: &mesh_policy::Backend| {
        let share = (f64::from(backend.weight) * 10_000.0 / total as f64).round() / 100.0;
        let (service, invalid) = match &backend.target {
            BackendTarget::Service(service) => (Some(service.to_string()), None),
            BackendTarget::Invalid { reason } => (None, Some(reason.to_string())),
        };
        Backend { service, weight: backend.weight, share, invalid }
    };
    rule.backends.iter().map(backend).collect()
}

/// A status as it is written into an object.
fn written(status: &RouteStatus) -> Value {
    let condition = |condition: &Condition| {
        let status = if condition.status { "True" } else { "False" };
        json!({ "type": condition.kind, "status": status, "reason": condition.reason })
    };
    let parent = |parent: &StatusEntry| {
        let conditions: Vec<Value> = parent.conditions.iter().map(condition).collect();
        json!({ "controllerName": CONTROLLER_NAME, "parentRef": parent.reference, "conditions": conditions })
    };
    json!({ "status": { "parents": status.parents.iter().map(parent).collect::<Vec<_>>() } })
}

/// What our controller says of a route and a Service as its parent.
fn status_of(route: &Value, service: &ServiceRef, namespace: &str) -> Option<String> {
    let is_of = |parent: &&Value| {
        let reference = parent.get("parentRef").unwrap_or(&Value::Null);
        let of = Some(value::text(reference, "/namespace")).filter(|of| !of.is_empty()).unwrap_or(namespace);
        let port = value::number(reference, "/port");
        value::text(parent, "/controllerName") == CONTROLLER_NAME
            && value::text(reference, "/kind") == "Service"
            && (of, value::text(reference, "/name")) == (&*service.namespace, &*service.name)
            && (port == 0 || port == i64::from(service.port))
    };
    let parent = value::items(route, "/status/parents").iter().find(is_of)?;
    let bad = value::items(parent, "/conditions").iter().find(|condition| {
        // `PartiallyInvalid` is bad when it is true, unlike the other conditions.
        let is_negative = value::text(condition, "/type") == "PartiallyInvalid";
        value::text(condition, "/status") != if is_negative { "False" } else { "True" }
    });
    let text = |condition: &Value| {
        format!(
            "{}={} ({})",
            value::text(condition, "/type"),
            value::text(condition, "/status"),
            value::text(condition, "/reason")
        )
    };
    Some(bad.map_or_else(|| "ok".to_owned(), text))
}
