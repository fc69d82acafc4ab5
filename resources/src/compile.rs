//! Policies of targets and ports.
//!
//! Which routes apply to a Service's port follows GEP-1426: routes of the client's own namespace to a Service elsewhere
//! (consumer routes) replace those of the Service's namespace (producer routes) for that client, and are nothing to
//! other clients; within the group that applies, GRPCRoutes replace HTTPRoutes. `hostnames` narrow a route by the
//! request's host; which traffic reaches a Service is never inferred from them.
//!
//! A backend in another namespace than its route needs a ReferenceGrant there, unless it is a parent of the route:
//! sending a request on to where it was going anyway exposes nothing.

use std::{collections::BTreeSet, sync::Arc};

use mesh_policy::{
    Access, Backend, BackendTarget, InboundPolicy, OutboundPolicy, Protocol, Route, RouteKind, RouteTable, Rule,
    ServiceRef, Target,
};

use crate::{
    object::ObjectId,
    problem::{Place, Problem, Reason, Report},
    route::{BackendObject, Parent, RouteObject, RuleObject},
    service::{TargetPort, includes},
    snapshot::{Key, Snapshot},
};

impl Snapshot {
    /// The policy of a target for clients in a namespace, and what is wrong with the routes attached to it.
    ///
    /// One for a Service that is no longer there is empty: its endpoints are gone as well.
    pub fn compile_outbound(&self, target: &Target, client_namespace: &str) -> (OutboundPolicy, Vec<Problem>) {
        let Target::Service(service) = target else {
            let policy = OutboundPolicy {
                target: target.clone(),
                protocol: self.endpoint_protocol(target),
                routes: RouteTable::default(),
            };
            return (policy, Vec::new());
        };
        let (routes, conflicted) = self.attached(service, client_namespace);
        let mut problems = Vec::new();
        for route in &conflicted {
            problems.extend(conflict(route, service));
        }
        let mut compiled = Vec::new();
        for route in routes {
            let mut report = Report::about(id_of(route));
            compiled.push(self.compile_route(route, &mut report));
            problems.extend(report.finish());
        }
        let key = Key { namespace: service.namespace.clone(), name: service.name.clone() };
        let found = self.services.get(&key).and_then(|found| found.port(service.port));
        let protocol = found.map_or(Protocol::Detect, |port| port.protocol);
        (OutboundPolicy { target: target.clone(), protocol, routes: RouteTable::new(compiled) }, problems)
    }

    /// The policy of an application's port of a pod; `None` when the pod is unknown.
    ///
    /// The protocol is that of the Services that lead to the port, if they agree; the pod's own annotation goes first.
    pub fn compile_inbound(&self, workload: &str, port: u16) -> Option<InboundPolicy> {
        let pod = self.pod(workload)?;
        let protocol = if includes(&pod.opaque_ports, port) {
            Protocol::Opaque
        } else {
            let key = Key { namespace: pod.namespace.clone(), name: pod.name.clone() };
            let of_pod = self.links.slices_by_pod.linked(&key).iter().filter_map(|key| self.endpoint_slices.get(key));
            let names: BTreeSet<_> = of_pod.filter_map(|slice| slice.service.clone()).collect();
            let service = |name| self.services.get(&Key { namespace: pod.namespace.clone(), name });
            let leads_here = |target: &TargetPort| match target {
                TargetPort::Number(number) => *number == port,
                TargetPort::Name(name) => pod.ports.get(name) == Some(&port),
            };
            let ports = names.into_iter().filter_map(service).flat_map(|service| &service.ports);
            let mut protocols = ports.filter(|port| leads_here(&port.target)).map(|port| port.protocol);
            let first = protocols.next().unwrap_or_default();
            if protocols.all(|protocol| protocol == first) { first } else { Protocol::Detect }
        };
        Some(InboundPolicy { protocol, access: Access::All, access_name: None, requires_http: false })
    }

    /// What is wrong with the references of every route, whoever the client is.
    pub(crate) fn reference_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for route in self.http_routes.values().chain(self.grpc_routes.values()).filter(|r| !r.parents.is_empty()) {
            let mut report = Report::about(id_of(route));
            for parent in &route.parents {
                self.check_parent(parent, &mut report);
            }
            self.compile_route(route, &mut report);
            problems.extend(report.finish());
            let http = (route.meta.kind == RouteKind::Http).then_some(&route.parents);
            for service in http.into_iter().flatten().flat_map(|parent| self.ports_of(parent)) {
                if !self.group(RouteKind::Grpc, &route.meta.namespace, &service).is_empty() {
                    problems.extend(conflict(route, &service));
                }
            }
        }
        problems
    }

    /// The routes that apply to a Service's port for a client, and the HTTPRoutes that GRPCRoutes displace.
    fn attached(&self, service: &ServiceRef, client_namespace: &str) -> (Vec<&RouteObject>, Vec<&RouteObject>) {
        // For a client in the Service's own namespace both groups are the same.
        for namespace in [client_namespace, &service.namespace] {
            let (grpc, http) =
                (self.group(RouteKind::Grpc, namespace, service), self.group(RouteKind::Http, namespace, service));
            match (grpc.is_empty(), http.is_empty()) {
                (true, true) => {}
                (true, false) => return (http, Vec::new()),
                (false, _) => return (grpc, http),
            }
        }
        (Vec::new(), Vec::new())
    }

    /// The routes of one kind and namespace that are attached to a Service's port.
    fn group(&self, kind: RouteKind, namespace: &str, service: &ServiceRef) -> Vec<&RouteObject> {
        let parent = Key { namespace: service.namespace.clone(), name: service.name.clone() };
        let routes = self.links.routes(kind, &parent).iter().filter(|(_, key)| &*key.namespace == namespace);
        let attaches = |route: &&RouteObject| route.parents.iter().any(|parent| self.covers(parent, service));
        routes.filter_map(|(_, key)| self.routes(kind).get(key)).filter(attaches).collect()
    }

    fn covers(&self, parent: &Parent, service: &ServiceRef) -> bool {
        parent.namespace == service.namespace
            && parent.name == service.name
            && self.ports_of(parent).iter().any(|found| found.port == service.port)
    }

    /// The Service's ports that a parent reference is about.
    fn ports_of(&self, parent: &Parent) -> Vec<ServiceRef> {
        let key = Key { namespace: parent.namespace.clone(), name: parent.name.clone() };
        let Some(service) = self.services.get(&key).filter(|service| service.external_name.is_none()) else {
            return Vec::new();
        };
        let wanted = service.ports.iter().filter(|port| {
            parent.port.is_none_or(|number| number == port.port)
                && parent.section.as_ref().is_none_or(|section| *section == port.name)
        });
        wanted
            .map(|port| ServiceRef { namespace: key.namespace.clone(), name: key.name.clone(), port: port.port })
            .collect()
    }

    fn check_parent(&self, parent: &Parent, report: &mut Report<'_>) {
        if self.ports_of(parent).is_empty() {
            let port = parent.port.map_or(String::new(), |port| format!(" with port {port}"));
            let section = parent.section.as_ref().map_or(String::new(), |name| format!(" with a port named {name}"));
            let what = format!("there is no Service {}/{}{port}{section}", parent.namespace, parent.name);
            report.error_at(&parent.place, Reason::NoMatchingParent, what, "name a Service and a port that exist");
        }
    }

    fn compile_route(&self, route: &RouteObject, report: &mut Report<'_>) -> Route {
        let rules = route.rules.iter().map(|rule| self.compile_rule(route, rule, report)).collect();
        Route { meta: route.meta.clone(), hostnames: route.hostnames.clone(), rules }
    }

    fn compile_rule(&self, route: &RouteObject, rule: &RuleObject, report: &mut Report<'_>) -> Rule {
        let mut compiled = Rule {
            name: rule.name.clone(),
            matches: rule.matches.clone(),
            filters: Vec::new(),
            backends: rule.backends.iter().map(|backend| self.compile_backend(route, backend, report)).collect(),
            timeouts: rule.timeouts,
            ..Rule::default()
        };
        match &rule.filters {
            Ok(filters) => compiled.filters.clone_from(filters),
            Err(reason) => {
                let reason: Arc<str> = reason.as_str().into();
                for backend in &mut compiled.backends {
                    *backend = invalid(backend.weight, reason.clone());
                }
            }
        }
        compiled
    }

    fn compile_backend(&self, route: &RouteObject, backend: &BackendObject, report: &mut Report<'_>) -> Backend {
        let found = match (&backend.service, &backend.filters) {
            (Err(reason), _) | (_, Err(reason)) => Err(reason.clone()),
            (Ok(service), Ok(filters)) => match self.refuse(route, service) {
                Some((reason, why, fix)) => {
                    let what = format!("{why}; its share of the requests is answered 500");
                    report.error_at(&backend.place, reason, what, fix);
                    Err(why)
                }
                None => Ok((service, filters)),
            },
        };
        match found {
            Ok((service, filters)) => Backend {
                weight: backend.weight,
                target: BackendTarget::Service(service.clone()),
                filters: filters.clone(),
            },
            Err(why) => invalid(backend.weight, why.into()),
        }
    }

    /// Why a backend that is well written cannot be served.
    fn refuse(&self, route: &RouteObject, service: &ServiceRef) -> Option<(Reason, String, &'static str)> {
        let is_parent = route.parents.iter().any(|p| p.namespace == service.namespace && p.name == service.name);
        let first = Key::new(service.namespace.clone(), "");
        let mut grants =
            self.reference_grants.range_from(&first).take_while(|(key, _)| key.namespace == service.namespace);
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
        let key = Key { namespace: service.namespace.clone(), name: service.name.clone() };
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
            Some(_) => None,
        }
    }

    /// The protocol of one endpoint: that of its pod's annotation, else that of the Service port it serves.
    fn endpoint_protocol(&self, target: &Target) -> Protocol {
        let Target::Endpoint(endpoint) = target else { return Protocol::Detect };
        if self.pod(&endpoint.workload).is_some_and(|pod| includes(&pod.opaque_ports, endpoint.address.port())) {
            return Protocol::Opaque;
        }
        let slices = self.links.slices_by_ip.linked(&endpoint.address.ip()).iter();
        let mut protocols = slices.filter_map(|key| {
            let slice = self.endpoint_slices.get(key).filter(|slice| slice.at(endpoint.address).is_some())?;
            let service = self.services.get(&Key { namespace: key.namespace.clone(), name: slice.service.clone()? })?;
            let (name, _) = slice.ports.iter().find(|(_, number)| *number == endpoint.address.port())?;
            Some(service.ports.iter().find(|port| port.name == *name)?.protocol)
        });
        let first = protocols.next().unwrap_or_default();
        if protocols.all(|protocol| protocol == first) { first } else { Protocol::Detect }
    }
}

fn invalid(weight: u32, reason: Arc<str>) -> Backend {
    Backend { weight, target: BackendTarget::Invalid { reason }, filters: Vec::new() }
}

fn id_of(route: &RouteObject) -> ObjectId {
    let meta = &route.meta;
    ObjectId { kind: meta.kind.as_str().to_owned(), namespace: meta.namespace.to_string(), name: meta.name.to_string() }
}

fn conflict(route: &RouteObject, service: &ServiceRef) -> Vec<Problem> {
    let mut report = Report::about(id_of(route));
    let what = format!("a GRPCRoute is attached to {service} as well and displaces this route there (GEP-1426)");
    let place = Place { field: "spec.parentRefs".to_owned(), source: route.source.clone() };
    report.error_at(&place, Reason::Conflicted, what, "attach one kind of route to a port, or name other ports");
    report.finish()
}
