//! Which routes are in force on a port of a Service, and what keeps the others from it.
//!
//! It follows GEP-1426: routes of the client's own namespace to a Service elsewhere (consumer routes) replace those of the
//! Service's namespace (producer routes) for that client, and are nothing to other clients; within the group that
//! applies, one kind alone is in force: GRPCRoutes before HTTPRoutes before TLSRoutes before TCPRoutes. `hostnames` narrow
//! a route by the request's host; which traffic reaches a Service is never inferred from them.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use mesh_policy::{RouteKind, RouteMeta, ServiceRef};

use crate::{
    object::ObjectId,
    problem::{Problem, Reason, Report},
    route::{Parent, RouteObject},
    snapshot::{Key, Snapshot},
};

/// Most routes in force on one port for one client: what a proxy takes in one policy. Of more, the oldest are.
pub const MAX_ROUTES: usize = 1_024;

/// Why a route is not in force on a port that it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Displaced {
    /// Routes of this kind go first.
    By(RouteKind),
    /// So many routes of its kind are older.
    Young,
}

/// The routes attached to a port, for one client.
pub(crate) struct Attached<'s> {
    pub(crate) in_force: Vec<&'s RouteObject>,
    pub(crate) displaced: Vec<(&'s RouteObject, Displaced)>,
}

/// The youngest route in force of each group with more than [`MAX_ROUTES`], by port, kind and namespace; `None` for a
/// smaller group. Kept while all routes are looked at, as each look goes through the group.
#[derive(Default)]
pub(crate) struct Youngest(BTreeMap<(ServiceRef, RouteKind, Arc<str>), Option<RouteMeta>>);

impl Snapshot {
    /// What is wrong with the parents and references of every route, whoever the client is.
    pub(crate) fn reference_problems(&self) -> Vec<Problem> {
        let (mut problems, mut youngest) = (Vec::new(), Youngest::default());
        let routes = RouteKind::ALL.into_iter().flat_map(|kind| self.routes(kind).values());
        for route in routes.filter(|route| !route.parents.is_empty()) {
            let mut report = Report::about(id_of(route));
            for parent in &route.parents {
                self.check_parent(route, parent, &mut youngest, &mut report);
            }
            self.check_references(route, &mut report);
            problems.extend(report.finish());
        }
        problems
    }

    /// Reports what keeps a route from a parent, or from some of its ports. Gives the reason if it is kept from all.
    pub(crate) fn check_parent(
        &self,
        route: &RouteObject,
        parent: &Parent,
        youngest: &mut Youngest,
        report: &mut Report<'_>,
    ) -> Option<Reason> {
        if parent.rejected.is_some() {
            return parent.rejected;
        }
        let ports: Vec<_> = self.ports_of(parent).collect();
        let key = Key { namespace: parent.namespace.clone(), name: parent.name.clone() };
        let service = self.services.get(&key);
        if service.is_some_and(|service| service.is_headless) {
            let what = "the Service is headless: its clients call pods, for which no route is asked";
            report.error_at(&parent.place, Reason::NoMatchingParent, what, "name a Service with a cluster IP");
            return Some(Reason::NoMatchingParent);
        }
        let is_opaque = |port: &ServiceRef| service.is_some_and(|service| service.is_opaque(port.port));
        if route.meta.kind.is_of_requests() && !ports.is_empty() && ports.iter().all(is_opaque) {
            let what = "the port speaks tcp: its bytes pass unread, and no requests are seen";
            let fix = "attach a TCPRoute, or correct the port's appProtocol or the Service's annotations";
            report.error_at(&parent.place, Reason::UnsupportedValue, what, fix);
            return Some(Reason::UnsupportedValue);
        }
        if ports.is_empty() {
            let port = parent.port.map_or(String::new(), |port| format!(" with port {port}"));
            let section = parent.section.as_ref().map_or(String::new(), |name| format!(" with a port named {name}"));
            let what = format!("there is no Service {}/{}{port}{section}", parent.namespace, parent.name);
            report.error_at(&parent.place, Reason::NoMatchingParent, what, "name a Service and a port that exist");
            return Some(Reason::NoMatchingParent);
        }
        let displaced: Vec<_> =
            ports.iter().filter_map(|port| Some((port, self.displaced(route, port, youngest)?))).collect();
        for (port, why) in &displaced {
            report_at(parent, port, *why, report);
        }
        let first = displaced.first().filter(|_| displaced.len() == ports.len());
        first.map(|(_, why)| why.reason())
    }

    /// The routes of a Service's port for a client.
    pub(crate) fn attached(&self, service: &ServiceRef, client_namespace: &str) -> Attached<'_> {
        let mut attached = Attached { in_force: Vec::new(), displaced: Vec::new() };
        // For a client in the Service's own namespace both groups are the same.
        for namespace in [client_namespace, &service.namespace] {
            for kind in RouteKind::ALL {
                let group: Vec<_> = self.group(kind, namespace, service).collect();
                match attached.in_force.first() {
                    None => attached.in_force = group,
                    Some(first) => {
                        let by = Displaced::By(first.meta.kind);
                        attached.displaced.extend(group.into_iter().map(|route| (route, by)));
                    }
                }
            }
            if !attached.in_force.is_empty() {
                break;
            }
        }
        if attached.in_force.len() > MAX_ROUTES {
            attached.in_force.sort_by(|a, b| by_age(&a.meta, &b.meta));
            let young = attached.in_force.split_off(MAX_ROUTES);
            attached.displaced.extend(young.into_iter().map(|route| (route, Displaced::Young)));
        }
        attached
    }

    /// Whether routes for requests are attached to a Service's port in its own namespace. They are in force there: such
    /// kinds go before the others.
    pub(crate) fn has_request_routes(&self, service: &ServiceRef) -> bool {
        let mut kinds = RouteKind::ALL.into_iter().filter(|kind| kind.is_of_requests());
        kinds.any(|kind| self.group(kind, &service.namespace, service).next().is_some())
    }

    /// Reports that a route is not in force on a port, at each parent that leads there.
    pub(crate) fn report_displaced(
        &self,
        route: &RouteObject,
        service: &ServiceRef,
        why: Displaced,
        report: &mut Report<'_>,
    ) {
        for parent in route.parents.iter().filter(|parent| self.covers(parent, service)) {
            report_at(parent, service, why, report);
        }
    }

    /// Why a route is not in force on a port that it is attached to.
    fn displaced(&self, route: &RouteObject, service: &ServiceRef, youngest: &mut Youngest) -> Option<Displaced> {
        let (kind, namespace) = (route.meta.kind, &route.meta.namespace);
        let before = RouteKind::ALL.into_iter().take_while(|before| *before < kind);
        for before in before {
            if self.group(before, namespace, service).next().is_some() {
                return Some(Displaced::By(before));
            }
        }
        let key = Key { namespace: service.namespace.clone(), name: service.name.clone() };
        if self.links.routes(kind, &key).len() <= MAX_ROUTES {
            return None;
        }
        let last = youngest.0.entry((service.clone(), kind, namespace.clone())).or_insert_with(|| {
            let mut group: Vec<_> = self.group(kind, namespace, service).map(|route| &route.meta).collect();
            if group.len() <= MAX_ROUTES {
                return None;
            }
            let (_, last, _) = group.select_nth_unstable_by(MAX_ROUTES - 1, |a, b| by_age(a, b));
            Some((*last).clone())
        });
        let is_younger = last.as_ref().is_some_and(|last| by_age(&route.meta, last).is_gt());
        is_younger.then_some(Displaced::Young)
    }

    /// The routes of one kind and namespace that are attached to a Service's port.
    fn group<'s>(
        &'s self,
        kind: RouteKind,
        namespace: &str,
        service: &ServiceRef,
    ) -> impl Iterator<Item = &'s RouteObject> {
        let parent = Key { namespace: service.namespace.clone(), name: service.name.clone() };
        let routes = self.links.routes(kind, &parent).iter().filter(move |(_, key)| &*key.namespace == namespace);
        let routes = routes.filter_map(move |(_, key)| self.routes(kind).get(key));
        routes.filter(move |route| route.parents.iter().any(|parent| self.covers(parent, service)))
    }

    fn covers(&self, parent: &Parent, service: &ServiceRef) -> bool {
        parent.namespace == service.namespace
            && parent.name == service.name
            && self.ports_of(parent).any(|found| found.port == service.port)
    }

    /// The Service's ports that a parent reference is about.
    fn ports_of<'s>(&'s self, parent: &'s Parent) -> impl Iterator<Item = ServiceRef> {
        let key = Key { namespace: parent.namespace.clone(), name: parent.name.clone() };
        let service = self.services.get(&key);
        let service = service.filter(|service| service.external_name.is_none() && !service.is_headless);
        let ports = service.filter(|_| parent.rejected.is_none()).into_iter().flat_map(|service| &service.ports);
        let wanted = ports.filter(|port| {
            parent.port.is_none_or(|number| number == port.port)
                && parent.section.as_ref().is_none_or(|section| *section == port.name)
        });
        wanted.map(|port| ServiceRef {
            namespace: parent.namespace.clone(),
            name: parent.name.clone(),
            port: port.port,
        })
    }
}

impl Displaced {
    fn reason(self) -> Reason {
        match self {
            Self::By(_) => Reason::Conflicted,
            Self::Young => Reason::TooManyRoutes,
        }
    }
}

/// What names a route.
pub(crate) fn id_of(route: &RouteObject) -> ObjectId {
    let meta = &route.meta;
    ObjectId { kind: meta.kind.as_str().to_owned(), namespace: meta.namespace.to_string(), name: meta.name.to_string() }
}

fn report_at(parent: &Parent, service: &ServiceRef, why: Displaced, report: &mut Report<'_>) {
    let (what, fix) = match why {
        Displaced::By(kind) => (
            format!("a {} is attached to {service} as well and displaces this route there (GEP-1426)", kind.as_str()),
            "attach one kind of route to a port, or name other ports",
        ),
        Displaced::Young => (
            format!(
                "{MAX_ROUTES} older routes are attached to {service}, which is the most; this one is left out there"
            ),
            "remove or merge routes, or attach them to the ports they are for",
        ),
    };
    report.error_at(&parent.place, why.reason(), what, fix);
}

/// Older first, then the first by `namespace/name`: the precedence of whole routes.
fn by_age(a: &RouteMeta, b: &RouteMeta) -> Ordering {
    let full = |meta: &RouteMeta| {
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        [namespace, "/".into(), name].concat()
    };
    a.created.cmp(&b.created).then_with(|| full(a).cmp(&full(b)))
}
