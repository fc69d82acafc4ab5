//! Which routes are in force on a port of a Service, and what keeps the others from it.
//!
//! It follows GEP-1426: routes of the client's own namespace to a Service elsewhere (consumer routes) replace those of the
//! Service's namespace (producer routes) for that client, and are nothing to other clients; within the group that
//! applies, one kind alone is in force: GRPCRoutes before HTTPRoutes before TLSRoutes before TCPRoutes. `hostnames` narrow
//! a route by the request's host; which traffic reaches a Service is never inferred from them.

use std::{collections::HashMap, iter::Peekable, sync::Arc};

use mesh_policy::{
    RouteKind, ServiceRef,
    bounds::{MAX_POLICY_BYTES, MAX_POLICY_PATTERN_BYTES},
};

use crate::{
    object::Key,
    object::ObjectId,
    problem::{Problem, Reason, Report},
    route::{Parent, RouteObject},
    route_links::{Age, Group, MAX_ROUTES, Ports, Weight},
    route_sums::{Sums, first_out},
    service::{Service, ServicePort},
    snapshot::Snapshot,
};

/// Most ports of one parent for which it is told one by one that a route is not in force.
const MAX_TOLD: usize = 8;

/// Why a route is not in force on a port that it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Displaced {
    /// Routes of this kind go first.
    By(RouteKind),
    /// So many routes of its kind are older.
    Young,
    /// Older routes of its kind leave no room for it.
    Large,
}

/// The routes attached to a port, for one client.
pub(crate) struct Attached<'s> {
    pub(crate) in_force: Vec<&'s RouteObject>,
    /// Set where none is in force because such as are known by name only close the port: their namespace and kind.
    pub(crate) closed: Option<(Arc<str>, RouteKind)>,
    pub(crate) displaced: Vec<(&'s RouteObject, Displaced)>,
}

/// What was found out about the Services of a snapshot while its routes are looked at one after the other, as each look would
/// find it again.
#[derive(Debug, Default)]
pub struct Found {
    services: HashMap<(Key, Arc<str>), AtService>,
}

/// What routes of one namespace come to at one Service.
#[derive(Debug)]
struct AtService {
    /// The kind that goes first at each port, in the order of the ports.
    first: Vec<Option<RouteKind>>,
    /// By kind of routes and place of the port, where they are more than one policy may have.
    last: HashMap<(RouteKind, usize), Last>,
    /// The sums of groups that were looked at for it.
    sums: HashMap<(RouteKind, Ports), Sums>,
}

/// The first route of one kind that is not in force at a port, and why those from it on are not; `None` where all are.
type Last = Option<(Age, Displaced)>;

impl Snapshot {
    /// What is wrong with the parents and references of every route, whoever the client is.
    pub(crate) fn reference_problems(&self) -> Vec<Problem> {
        let mut found = Found::default();
        let routes = RouteKind::ALL.into_iter().flat_map(|kind| self.routes(kind).values());
        routes.flat_map(|route| self.problems_of_references(route, &mut found)).collect()
    }

    /// What is wrong with the parents and references of one route.
    pub(crate) fn problems_of_references(&self, route: &RouteObject, found: &mut Found) -> Vec<Problem> {
        if !route.is_of_mesh() {
            return Vec::new();
        }
        let mut report = Report::about(id_of(route));
        for parent in &route.parents {
            self.check_parent(route, parent, found, &mut report);
        }
        self.check_references(route, &mut report);
        report.finish()
    }

    /// Reports what keeps a route from a parent, or from some of its ports. Gives the reason if it is kept from all.
    pub(crate) fn check_parent(
        &self,
        route: &RouteObject,
        parent: &Parent,
        found: &mut Found,
        report: &mut Report<'_>,
    ) -> Option<Reason> {
        if parent.rejected.is_some() {
            return parent.rejected;
        }
        let key = Key { namespace: parent.namespace.clone(), name: parent.name.clone() };
        let service = self.services.get(&key);
        if service.is_some_and(|service| service.is_headless) {
            let what = "the Service is headless: its clients call pods, for which no route is asked";
            report.error_at(&parent.place, Reason::NoMatchingParent, what, "name a Service with a cluster IP");
            return Some(Reason::NoMatchingParent);
        }
        let ports: Vec<_> = service.map_or(Vec::new(), |service| ports_of(service, parent).collect());
        let is_opaque = |(_, port): &(usize, &ServicePort)| port.protocol == mesh_policy::Protocol::Opaque;
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
        let namespace = &route.meta.namespace;
        let at = found.services.entry((key.clone(), namespace.clone()));
        let at = at.or_insert_with(|| self.at_service(&key, service, namespace));
        let is_over = self.links.routes.sum(&key, namespace, route.meta.kind).is_over();
        let mut displaced = ports
            .iter()
            .filter_map(|(place, port)| Some((port, self.displaced(route, &key, (*place, port), is_over, at)?)));
        let first: Vec<_> = displaced.by_ref().take(MAX_TOLD).collect();
        let count = first.len() + displaced.count();
        for (port, why) in &first {
            report_at(parent, &reference(&key, port), *why, report);
        }
        let more = count - first.len();
        if let (Some((_, why)), true) = (first.last(), more > 0) {
            let what = format!("the same holds of {more} more ports of {}/{}", key.namespace, key.name);
            report.error_at(&parent.place, why.reason(), what, "attach the route to the ports it is for");
        }
        first.first().filter(|_| count == ports.len()).map(|(_, why)| why.reason())
    }

    /// The routes of a Service's port for a client. Those that are not in force are told of only where that is asked for:
    /// they may be any number.
    pub(crate) fn attached(&self, service: &ServiceRef, client_namespace: &str, with_displaced: bool) -> Attached<'_> {
        let mut attached = Attached { in_force: Vec::new(), closed: None, displaced: Vec::new() };
        let key = Key::of_service(service);
        let Some(port) = self.services.get(&key).filter(|s| is_parent(s)).and_then(|s| s.port(service.port)) else {
            return attached;
        };
        let client: Arc<str> = client_namespace.into();
        // For a client in the Service's own namespace both groups are the same.
        for namespace in [&client, &service.namespace] {
            let mut by = None;
            let closed = self.closed.kind(namespace, &key);
            for kind in RouteKind::ALL {
                let object = |age: Age| self.routes(kind).get(&Key { namespace: namespace.clone(), name: age.name });
                let mut members = self.members(&key, port, namespace, kind);
                match by {
                    None => {
                        let last = take_in_force(&mut members, |age| attached.in_force.extend(object(age.clone())));
                        by = (!attached.in_force.is_empty()).then_some(kind);
                        if by.is_none() && closed == Some(kind) {
                            by = closed;
                            // Whatever is called there is answered, also where no kind is known.
                            let kind = if self.closed.is_all(namespace) { RouteKind::Http } else { kind };
                            attached.closed = Some((namespace.clone(), kind));
                        }
                        if let Some((age, why)) = last.filter(|_| with_displaced) {
                            let young = std::iter::once(age).chain(members.map(|(age, _)| age.clone()));
                            attached.displaced.extend(young.filter_map(|age| Some((object(age)?, why))));
                        }
                    }
                    Some(by) if with_displaced => {
                        let others = members.filter_map(|(age, _)| Some((object(age.clone())?, Displaced::By(by))));
                        attached.displaced.extend(others);
                    }
                    Some(_) => {}
                }
            }
            if by.is_some() {
                break;
            }
        }
        attached
    }

    /// Whether routes for requests are attached to a Service's port in its own namespace. They are in force there: such
    /// kinds go before the others.
    pub(crate) fn has_request_routes(&self, service: &ServiceRef) -> bool {
        let key = Key::of_service(service);
        let Some(port) = self.services.get(&key).filter(|s| is_parent(s)).and_then(|s| s.port(service.port)) else {
            return false;
        };
        let namespace = &service.namespace;
        let is_closed = self.closed.kind(namespace, &key).is_some_and(RouteKind::is_of_requests);
        let first = RouteKind::ALL.into_iter().find(|kind| self.members(&key, port, namespace, *kind).next().is_some());
        is_closed || first.map_or(self.closed.is_all(namespace), RouteKind::is_of_requests)
    }

    /// Reports that a route is not in force on a port, at each parent that leads there.
    pub(crate) fn report_displaced(
        &self,
        route: &RouteObject,
        service: &ServiceRef,
        why: Displaced,
        report: &mut Report<'_>,
    ) {
        let key = Key::of_service(service);
        let Some(found) = self.services.get(&key) else { return };
        let covers = |parent: &&Parent| {
            parent.namespace == key.namespace
                && parent.name == key.name
                && parent.rejected.is_none()
                && ports_of(found, parent).any(|(_, port)| port.port == service.port)
        };
        for parent in route.parents.iter().filter(covers) {
            report_at(parent, service, why, report);
        }
    }

    /// The kinds that go first at the ports of a Service, of the routes of a namespace.
    fn at_service(&self, key: &Key, service: Option<&Service>, namespace: &Arc<str>) -> AtService {
        let mut kinds: HashMap<&Ports, RouteKind> = HashMap::new();
        for group in self.links.routes.groups_of(key, namespace) {
            let first = kinds.entry(&group.ports).or_insert(group.kind);
            *first = group.kind.min(*first);
        }
        let closed = self.closed.kind(namespace, key);
        let ports = service.into_iter().flat_map(|service| &service.ports);
        let first = ports.map(|port| {
            let leading = Ports::leading_to(port.port, &port.name);
            leading.iter().filter_map(|ports| kinds.get(ports).copied()).chain(closed).min()
        });
        AtService { first: first.collect(), last: HashMap::new(), sums: HashMap::new() }
    }

    /// Why a route is not in force on a port that it is attached to. `is_over`: whether the routes of its kind at the
    /// Service, at all ports together, are more than one policy may have.
    fn displaced(
        &self,
        route: &RouteObject,
        key: &Key,
        (place, port): (usize, &ServicePort),
        is_over: bool,
        at: &mut AtService,
    ) -> Option<Displaced> {
        let (kind, namespace) = (route.meta.kind, &route.meta.namespace);
        if let Some(first) = at.first.get(place).copied().flatten().filter(|first| *first < kind) {
            return Some(Displaced::By(first));
        }
        if !is_over {
            return None;
        }
        let AtService { last, sums, .. } = at;
        let last = last.entry((kind, place)).or_insert_with(|| {
            let leading = Ports::leading_to(port.port, &port.name);
            for ports in &leading {
                sums.entry((kind, ports.clone())).or_insert_with(|| {
                    let (service, namespace) = (key.clone(), namespace.clone());
                    Sums::of(self.links.routes.group(Group { service, namespace, kind, ports: ports.clone() }))
                });
            }
            first_out(leading.map(|ports| sums.get(&(kind, ports))).into_iter().flatten())
        });
        let age = Age { created: route.meta.created, name: route.meta.name.clone() };
        last.as_ref().filter(|(first_out, _)| age >= *first_out).map(|(_, why)| *why)
    }

    /// The routes of one kind and namespace that are attached to a port, the oldest first, each once.
    fn members<'s>(
        &'s self,
        key: &Key,
        port: &ServicePort,
        namespace: &Arc<str>,
        kind: RouteKind,
    ) -> impl Iterator<Item = (&'s Age, Weight)> + use<'s> {
        let group = |ports| Group { service: key.clone(), namespace: namespace.clone(), kind, ports };
        let mut groups: Vec<Peekable<_>> = Ports::leading_to(port.port, &port.name)
            .map(|ports| self.links.routes.group(group(ports)).peekable())
            .into();
        std::iter::from_fn(move || {
            let next = groups.iter_mut().filter_map(|group| group.peek().copied()).min_by(|a, b| a.0.cmp(b.0))?;
            for group in &mut groups {
                // One route may name the port in several ways.
                let _ = group.next_if(|(age, _)| *age == next.0);
            }
            Some(next)
        })
    }
}

/// Takes the routes that are in force from the front: the oldest, until there are too many or they are too large. Gives the
/// first that is not, and why. The first of all always is, for one route by itself is bounded.
pub(crate) fn take_in_force<'s>(
    members: &mut impl Iterator<Item = (&'s Age, Weight)>,
    mut take: impl FnMut(&Age),
) -> Last {
    let mut sum = Weight::default();
    for (age, weight) in members {
        let with = sum.plus(weight);
        if with.is_over() && sum.routes > 0 {
            return Some((age.clone(), Displaced::behind(sum)));
        }
        sum = with;
        take(age);
    }
    None
}

/// Whether routes can be attached to a Service.
pub(crate) fn is_parent(service: &Service) -> bool {
    service.external_name.is_none() && !service.is_headless
}

/// The ports of its Service that a parent reference is about, with their places.
fn ports_of<'s>(service: &'s Service, parent: &'s Parent) -> impl Iterator<Item = (usize, &'s ServicePort)> {
    let ports = service.ports.iter().enumerate().filter(|_| is_parent(service));
    ports.filter(|(_, port)| {
        parent.port.is_none_or(|number| number == port.port)
            && parent.section.as_ref().is_none_or(|section| *section == port.name)
    })
}

fn reference(key: &Key, port: &ServicePort) -> ServiceRef {
    ServiceRef::new(key.namespace.clone(), key.name.clone(), port.port)
}

impl Displaced {
    /// Why a route is out that would be behind so many.
    pub(crate) fn behind(sum: Weight) -> Self {
        if sum.routes >= MAX_ROUTES { Self::Young } else { Self::Large }
    }

    fn reason(self) -> Reason {
        match self {
            Self::By(_) => Reason::Conflicted,
            Self::Young => Reason::TooManyRoutes,
            Self::Large => Reason::TooLarge,
        }
    }
}

/// What names a route.
pub(crate) fn id_of(route: &RouteObject) -> ObjectId {
    let meta = &route.meta;
    ObjectId::used(meta.kind.as_str(), &meta.namespace, &meta.name)
}

fn report_at(parent: &Parent, service: &ServiceRef, why: Displaced, report: &mut Report<'_>) {
    let (what, fix) = match why {
        Displaced::Large => (
            format!(
                "with the older routes attached to {service} it takes more than {} KiB, or {} KiB of compiled patterns, the \
                 most of one port; it is left out there",
                MAX_POLICY_BYTES / 1024,
                MAX_POLICY_PATTERN_BYTES / 1024
            ),
            "remove or merge routes, or attach them to the ports they are for",
        ),
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
