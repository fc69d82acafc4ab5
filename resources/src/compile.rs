//! Policies of targets.
//!
//! Which routes apply to a Service's port is told by `attach`. What a rule refers to (backends, mirrors, a RetryPolicy)
//! is looked up here, each time: objects may come in any order.
//!
//! A backend in another namespace than its route needs a ReferenceGrant there, unless it is a parent of the route:
//! sending a request on to where it was going anyway exposes nothing.

use std::sync::Arc;

use mesh_policy::{
    Backend, BackendTarget, Filter, Mirror, OutboundPolicy, Protocol, RequestMatch, Route, RouteTable, Rule,
    ServiceRef, Target, Timeouts, bounds::MAX_NAMESPACE_PATTERN_BYTES,
};

use crate::{
    attach::id_of,
    backend::BackendObject,
    backend::unserved,
    closed::stand_in,
    endpoint_slice::SliceEndpoint,
    filter::{FilterObject, NO_COPY, PolicyRef},
    object::Key,
    problem::{Place, Problem, Reason, Report},
    protocol::agreed,
    reference_grant::ReferenceGrant,
    retry_policy::RetryPolicy,
    route::RouteObject,
    rule::{RuleObject, in_force},
    snapshot::Snapshot,
};

/// Most ReferenceGrants of one namespace that count, by name: each reference to it from elsewhere looks through them.
pub(crate) const MAX_GRANTS: usize = 1_000;

impl Snapshot {
    /// The policy of a target for clients in a namespace, and what is wrong with the routes attached to it.
    pub fn compile_outbound(&self, target: &Target, client_namespace: &str) -> (OutboundPolicy, Vec<Problem>) {
        let mut problems = Vec::new();
        if let Target::Service(service) = target {
            let attached = self.attached(service, client_namespace, true);
            for (route, why) in &attached.displaced {
                let mut report = Report::about(id_of(route));
                self.report_displaced(route, service, *why, &mut report);
                problems.extend(report.finish());
            }
            for route in attached.in_force {
                let mut report = Report::about(id_of(route));
                self.check_references(route, &mut report);
                problems.extend(report.finish());
            }
        }
        (self.outbound_policy(target, client_namespace), problems)
    }

    /// The policy of a target for clients in a namespace. Its routes are compiled once, whoever asks.
    ///
    /// One for a Service that is no longer there is empty: its endpoints are gone as well.
    pub fn outbound_policy(&self, target: &Target, client_namespace: &str) -> OutboundPolicy {
        let Target::Service(service) = target else {
            let protocol = self.endpoint_protocol(target, client_namespace);
            return OutboundPolicy { target: target.clone(), protocol, routes: RouteTable::default() };
        };
        let attached = self.attached(service, client_namespace, false);
        let closed = attached.closed.map(|(namespace, kind)| stand_in(&namespace, kind));
        let routes = attached.in_force.into_iter().map(|route| self.compiled_route(route)).chain(closed).collect();
        let key = Key::of_service(service);
        let found = self.services.get(&key).and_then(|found| found.port(service.port));
        let protocol = found.map_or(Protocol::Detect, |port| port.protocol);
        OutboundPolicy { target: target.clone(), protocol, routes: RouteTable::from_shared(routes) }
    }

    fn compiled_route(&self, route: &RouteObject) -> Arc<Route> {
        let compile = || {
            let mut report = Report::about(id_of(route));
            let mut rules = Vec::with_capacity(route.rules.len());
            for rule in &route.rules {
                let is_over = self.is_over(route, rule);
                let matches = if is_over { vec![RequestMatch::never()] } else { rule.matches.clone() };
                rules.push(Rule { matches, ..self.compile_rule(route, rule, &mut report) });
            }
            Arc::new(Route { meta: route.meta.clone(), hostnames: route.hostnames.clone(), rules })
        };
        let key = Key { namespace: route.meta.namespace.clone(), name: route.meta.name.clone() };
        match self.compiled.get(&(route.meta.kind, key)) {
            Some(known) => known.0.get_or_init(compile).clone(),
            None => compile(),
        }
    }

    /// Whether there is no room for a rule's patterns among those of its namespace: it matches nothing then.
    pub(crate) fn is_over(&self, route: &RouteObject, rule: &RuleObject) -> bool {
        rule.pattern_bytes > 0 && self.links.routes.is_over(&route.meta)
    }

    /// What is wrong with what a route refers to, and what there is no room for.
    pub(crate) fn check_references(&self, route: &RouteObject, report: &mut Report<'_>) {
        for (place, rule) in route.rules.iter().enumerate() {
            self.compile_rule(route, rule, report);
            if self.is_over(route, rule) {
                let mark = report.mark();
                let at = Place { field: format!("spec.rules[{place}]"), source: route.source.clone() };
                let what = format!(
                    "Dropped Rule: the patterns of the older routes of this namespace and of this one compile to more than \
                     {} MiB",
                    MAX_NAMESPACE_PATTERN_BYTES / 1024 / 1024
                );
                report.error_at(&at, Reason::TooLarge, what, "use prefixes and exact values, or remove routes");
                report.effect(mark, "the rule matches no request");
            }
        }
    }

    /// A rule without its matches, which nothing else changes.
    fn compile_rule(&self, route: &RouteObject, rule: &RuleObject, report: &mut Report<'_>) -> Rule {
        let mut compiled = Rule {
            name: rule.name.clone(),
            matches: Vec::new(),
            filters: Vec::new(),
            backends: rule.backends.iter().map(|backend| self.compile_backend(route, backend, report)).collect(),
            timeouts: rule.timeouts,
            retry: rule.retry.clone(),
            session: rule.session.clone(),
        };
        let filters = rule.filters.as_ref().map_err(Clone::clone);
        match filters.and_then(|filters| self.compile_filters(route, filters, report)) {
            Ok((filters, policy)) => {
                compiled.filters = filters;
                if let Some(policy) = policy {
                    compiled.retry = Some(policy.for_kind(route.meta.kind));
                    let (own, given) = (rule.timeouts, policy.timeouts);
                    compiled.timeouts = Timeouts {
                        request: own.request.or(given.request),
                        backend_request: own.backend_request.or(given.backend_request),
                    };
                }
            }
            Err(reason) => {
                let reason: Arc<str> = reason.into();
                for backend in &mut compiled.backends {
                    *backend = invalid(backend.weight, reason.clone());
                }
            }
        }
        compiled.timeouts = in_force(compiled.timeouts);
        compiled
    }

    /// The filters in force, and the RetryPolicy that is named among them; or why there is no going on.
    fn compile_filters<'s>(
        &'s self,
        route: &RouteObject,
        filters: &[FilterObject],
        report: &mut Report<'_>,
    ) -> Result<(Vec<Filter>, Option<&'s RetryPolicy>), String> {
        let (mut compiled, mut policy) = (Vec::new(), None);
        for filter in filters {
            match filter {
                FilterObject::Ready(filter) => compiled.push(filter.clone()),
                FilterObject::Mirror(mirror) => compiled.push(Filter::Mirror(Mirror {
                    target: match self.resolve_backend(route, &mirror.service, &mirror.place, NO_COPY, report) {
                        Ok(service) => BackendTarget::Service(service),
                        Err(why) => BackendTarget::Invalid { reason: why.into() },
                    },
                    numerator: mirror.numerator,
                    denominator: mirror.denominator,
                })),
                FilterObject::RetryPolicy(PolicyRef { name, place }) => {
                    let key = Key { namespace: route.meta.namespace.clone(), name: name.clone() };
                    policy = self.retry_policies.get(&key);
                    if policy.is_none() {
                        let why = format!("there is no RetryPolicy {}/{name}", key.namespace);
                        let mark = report.mark();
                        let fix = "create the RetryPolicy, or correct the name";
                        report.error_at(place, Reason::BackendNotFound, why.as_str(), fix);
                        report.effect(mark, "the requests are answered 500, for a filter is never skipped");
                        return Err(why);
                    }
                }
            }
        }
        Ok((compiled, policy))
    }

    fn compile_backend(&self, route: &RouteObject, backend: &BackendObject, report: &mut Report<'_>) -> Backend {
        let effect = unserved(route.meta.kind);
        let filters = backend.filters.as_ref().map_err(Clone::clone);
        let filters = filters.and_then(|filters| self.compile_filters(route, filters, report));
        let service = self.resolve_backend(route, &backend.service, &backend.place, effect, report);
        match service.and_then(|service| Ok((service, filters?.0))) {
            Ok((service, filters)) => {
                Backend { weight: backend.weight, target: BackendTarget::Service(service), filters }
            }
            Err(why) => invalid(backend.weight, why.into()),
        }
    }

    /// The Service that a reference names, if it can be served; reports why not, and what follows.
    fn resolve_backend(
        &self,
        route: &RouteObject,
        service: &Result<ServiceRef, String>,
        place: &Place,
        effect: &str,
        report: &mut Report<'_>,
    ) -> Result<ServiceRef, String> {
        let service = service.as_ref().map_err(Clone::clone)?;
        let Some((reason, why, fix)) = self.refuse(route, service) else { return Ok(service.clone()) };
        let mark = report.mark();
        report.error_at(place, reason, why.as_str(), fix);
        report.effect(mark, effect);
        Err(why)
    }

    /// The ReferenceGrants of a namespace, by name.
    pub(crate) fn grants_of<'s>(&'s self, namespace: &Arc<str>) -> impl Iterator<Item = (&'s Key, &'s ReferenceGrant)> {
        let (first, namespace) = (Key::new(namespace.clone(), ""), namespace.clone());
        self.reference_grants.range_from(&first).take_while(move |(key, _)| key.namespace == namespace)
    }

    /// What is wrong with a grant: that so many are before it.
    pub(crate) fn doubts_of_grant(&self, key: &Key) -> Vec<Problem> {
        let counts = self.grants_of(&key.namespace).take(MAX_GRANTS).any(|(counted, _)| counted == key);
        if counts || self.reference_grants.get(key).is_none() {
            return Vec::new();
        }
        let mut report = Report::about(key.id("ReferenceGrant"));
        let what = format!("{MAX_GRANTS} ReferenceGrants of this namespace are before it by name, which is the most");
        report.error("metadata.name", Reason::TooLarge, what, "write one grant with several `from` and `to`");
        report.effect(0, "it grants nothing");
        report.finish()
    }

    /// Why a backend that is well written cannot be served.
    fn refuse(&self, route: &RouteObject, service: &ServiceRef) -> Option<(Reason, String, &'static str)> {
        let is_parent = route.parents.iter().any(|p| p.namespace == service.namespace && p.name == service.name);
        let mut grants = self.grants_of(&service.namespace).take(MAX_GRANTS);
        let (kind, namespace) = (route.meta.kind, &route.meta.namespace);
        if *namespace != service.namespace
            && !is_parent
            && !grants.any(|(_, grant)| grant.allows(kind, namespace, &service.name))
        {
            let why = format!(
                "no ReferenceGrant in {} allows {} of {namespace} to refer to {service}",
                service.namespace,
                kind.as_str()
            );
            return Some((Reason::RefNotPermitted, why, "create a ReferenceGrant beside the Service"));
        }
        let key = Key::of_service(service);
        match self.services.get(&key) {
            None => {
                let why = format!("there is no Service {}/{}", service.namespace, service.name);
                Some((Reason::BackendNotFound, why, "create the Service, or correct the name"))
            }
            Some(found) if found.external_name.is_some() => {
                let why = format!("Service {}/{} is an ExternalName", service.namespace, service.name);
                Some((Reason::InvalidKind, why, "refer to a Service with endpoints"))
            }
            Some(found) if found.port(service.port).is_none() => {
                let why = format!("Service {}/{} has no port {}", service.namespace, service.name, service.port);
                Some((Reason::BackendNotFound, why, "use one of the Service's ports"))
            }
            Some(found) if kind.is_of_requests() && found.is_opaque(service.port) => {
                let why = format!("port {} of Service {}/{} speaks tcp", service.port, service.namespace, service.name);
                Some((Reason::UnsupportedProtocol, why, "refer to a port that speaks HTTP, or correct its appProtocol"))
            }
            Some(_) => None,
        }
    }

    /// The protocol of one endpoint: that of its pod's annotations, else that of the Service port it serves. Slices of
    /// other namespaces say nothing of it.
    fn endpoint_protocol(&self, target: &Target, client_namespace: &str) -> Protocol {
        let Target::Endpoint(endpoint) = target else { return Protocol::Detect };
        let declared = self.pod(&endpoint.workload).and_then(|pod| pod.declared.get(endpoint.address.port()));
        if let Some(declared) = declared {
            return declared;
        }
        let (namespace, pod) = endpoint.workload.split_once('/').unwrap_or((client_namespace, ""));
        let slices = self.links.slices_by_ip.linked(&endpoint.address.ip()).iter();
        agreed(slices.filter(|key| &*key.namespace == namespace).filter_map(|key| {
            let is_it = |listed: &SliceEndpoint| listed.pod.as_ref().is_none_or(|name| **name == *pod);
            let slice = self.endpoint_slices.get(key).filter(|slice| slice.at(endpoint.address).any(is_it))?;
            let service = self.services.get(&Key { namespace: key.namespace.clone(), name: slice.service.clone()? })?;
            let (name, _) = slice.ports.iter().find(|(_, number)| *number == endpoint.address.port())?;
            Some(service.ports.iter().find(|port| port.name == *name)?.protocol)
        }))
    }
}

fn invalid(weight: u32, reason: Arc<str>) -> Backend {
    Backend { weight, target: BackendTarget::Invalid { reason }, filters: Vec::new() }
}
