//! What routes lead to: the Services that they are attached to and refer to, and what all of a namespace add up to.
//!
//! Each entry is one reference of one route, in an order in which what is asked for stands together: the routes of one kind
//! and namespace at one port of a Service, the oldest first. A change of a route costs its own references, however many
//! others there are. References are kept as they are written, by number or name of a port, so that a change of a Service
//! changes nothing here.

use std::{collections::BTreeSet, sync::Arc};

use mesh_policy::{
    RouteKind, RouteMeta, ServiceRef,
    bounds::{MAX_NAMESPACE_PATTERN_BYTES, MAX_POLICY_BYTES, MAX_POLICY_PATTERN_BYTES},
};

use crate::{
    filter::FilterObject,
    links::{Touched, Unsettled},
    object::{Key, StatusId},
    route::{Parent, RouteObject},
    shared_map::SharedMap,
};

/// Most routes in force on one port for one client: what a proxy takes in one policy. Of more, the oldest are.
pub const MAX_ROUTES: usize = 1_024;

/// Which ports of a Service a parent reference is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Ports {
    /// All.
    All,
    /// That of a number.
    Number(u16),
    /// That of a name.
    Named(Arc<str>),
    /// That of both.
    Both(u16, Arc<str>),
}

/// The routes of one kind and namespace with the same reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) service: Key,
    pub(crate) namespace: Arc<str>,
    pub(crate) kind: RouteKind,
    pub(crate) ports: Ports,
}

/// The precedence of whole routes of one namespace and kind: the older first, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    pub(crate) created: i64,
    pub(crate) name: Arc<str>,
}

/// What routes count for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) routes: usize,
    pub(crate) bytes: usize,
    pub(crate) pattern_bytes: usize,
}

/// What a route refers to beside its parents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reference {
    /// A Service, as backend or for a mirror.
    Service(Key),
    RetryPolicy(Key),
    /// Any Service of another namespace, which takes a ReferenceGrant there.
    Abroad(Arc<str>),
}

type Entry<G> = (G, Age);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RouteLinks {
    attached: SharedMap<Entry<Group>, Weight>,
    /// By Service, namespace and kind of the routes: what they add up to.
    sums: SharedMap<(Key, Arc<str>, RouteKind), Weight>,
    references: SharedMap<(Reference, RouteKind, Key), ()>,
    /// Routes with patterns, by namespace and precedence.
    patterns: SharedMap<(Arc<str>, Age, RouteKind), usize>,
    /// The first route of a namespace for whose patterns there is no room.
    over: SharedMap<Arc<str>, (Age, RouteKind)>,
}

impl RouteLinks {
    /// Takes in a route that comes, changes or goes, and notes whom that concerns.
    pub(crate) fn change(
        &mut self,
        kind: RouteKind,
        key: &Key,
        old: Option<&RouteObject>,
        new: Option<&RouteObject>,
        touched: &mut Touched,
        unsettled: &mut Unsettled,
    ) {
        touched.statuses.insert(StatusId::new(kind.as_str(), key.clone()));
        // The policies that a route of the mesh refers to say so.
        let (before, after) = (policies(key, old), policies(key, new));
        let changed = before.symmetric_difference(&after);
        touched.statuses.extend(changed.map(|policy| StatusId::new("RetryPolicy", policy.clone())));
        let (old_groups, new_groups) = (old.map(|old| groups(kind, key, old)), new.map(|new| groups(kind, key, new)));
        for (route, is_new) in old.map(|old| (old, false)).into_iter().chain(new.map(|new| (new, true))) {
            let age = age_of(route);
            let (these, others) = if is_new { (&new_groups, &old_groups) } else { (&old_groups, &new_groups) };
            // One that stays where it is displaces nobody, unless what it takes counts.
            let stays = |group: &Group| {
                others.as_ref().is_some_and(|others| others.contains(group)) && old.map(age_of) == new.map(age_of)
            };
            let mut summed = BTreeSet::new();
            for group in these.iter().flatten() {
                touched.policies.insert((group.service.clone(), key.namespace.clone()));
                let (was_there, stays) = (self.has(group), stays(group));
                let of_all = (group.service.clone(), group.namespace.clone(), kind);
                let before = self.sums.get(&of_all).copied().unwrap_or_default();
                let mut sum = before;
                if summed.insert(group.service.clone()) {
                    sum = if is_new { before.plus(weight_of(route)) } else { before.minus(weight_of(route)) };
                    if sum == Weight::default() {
                        drop(self.sums.remove(&of_all))
                    } else {
                        self.sums.insert(of_all, sum)
                    }
                }
                match is_new {
                    true => self.attached.insert((group.clone(), age.clone()), weight_of(route)),
                    false => drop(self.attached.remove(&(group.clone(), age.clone()))),
                }
                // A kind that comes or goes displaces others. Where they are too many, those before it stay where they are.
                let from = (kind, age.clone());
                let is_over =
                    if stays { before.is_heavy() || sum.is_heavy() } else { before.is_over() || sum.is_over() };
                if !stays && was_there != self.has(group) {
                    unsettled.regroup(group.service.clone(), group.namespace.clone(), None);
                } else if is_over {
                    unsettled.regroup(group.service.clone(), group.namespace.clone(), Some(from));
                }
            }
            for reference in references(key, route) {
                let entry = (reference, kind, key.clone());
                if is_new { self.references.insert(entry, ()) } else { drop(self.references.remove(&entry)) }
            }
            let entry = (key.namespace.clone(), age, kind);
            match is_new && route.pattern_bytes > 0 {
                true => self.patterns.insert(entry, route.pattern_bytes),
                false => drop(self.patterns.remove(&entry)),
            }
        }
        if old.into_iter().chain(new).any(|route| route.pattern_bytes > 0) {
            self.find_over(&key.namespace, unsettled);
        }
    }

    /// Whether there is no room for a route's patterns among those of its namespace.
    pub(crate) fn is_over(&self, meta: &RouteMeta) -> bool {
        let age = Age { created: meta.created, name: meta.name.clone() };
        self.over.get(&meta.namespace).is_some_and(|first| (age, meta.kind) >= *first)
    }

    /// The routes of one group, the oldest first.
    pub(crate) fn group<'l>(&'l self, group: Group) -> impl Iterator<Item = (&'l Age, Weight)> + use<'l> {
        let first = Age { created: i64::MIN, name: "".into() };
        let from = (group, first);
        let found = self.attached.range_from(&from);
        found.take_while(move |((of, _), _)| *of == from.0).map(|((_, age), weight)| (age, *weight))
    }

    /// Every group of a Service and a namespace, in order.
    pub(crate) fn groups_of<'l>(
        &'l self,
        service: &Key,
        namespace: &Arc<str>,
    ) -> impl Iterator<Item = &'l Group> + use<'l> {
        let (service, namespace) = (service.clone(), namespace.clone());
        let mut next =
            Some((first_group(service.clone(), namespace.clone()), Age { created: i64::MIN, name: "".into() }));
        std::iter::from_fn(move || {
            let ((group, _), _) = self.attached.range_from(&next.take()?).next()?;
            // Behind the last of this group: no name is after this one.
            next = Some((group.clone(), Age { created: i64::MAX, name: "~".into() }));
            (group.service == service && group.namespace == namespace).then_some(group)
        })
    }

    /// What the routes of a kind and namespace at a Service add up to.
    pub(crate) fn sum(&self, service: &Key, namespace: &Arc<str>, kind: RouteKind) -> Weight {
        self.sums.get(&(service.clone(), namespace.clone(), kind)).copied().unwrap_or_default()
    }

    /// The routes of every namespace, or of one, that are attached to a Service.
    pub(crate) fn attached_to<'l>(
        &'l self,
        service: &Key,
        namespace: Option<&Arc<str>>,
    ) -> impl Iterator<Item = (RouteKind, Key)> + use<'l> {
        self.attached_from(service, namespace, None)
    }

    /// The same, of one kind from an age on where that is asked for.
    pub(crate) fn attached_from<'l>(
        &'l self,
        service: &Key,
        namespace: Option<&Arc<str>>,
        from: Option<(RouteKind, Age)>,
    ) -> impl Iterator<Item = (RouteKind, Key)> + use<'l> {
        let (service, namespace) = (service.clone(), namespace.cloned());
        let first = first_group(service.clone(), namespace.clone().unwrap_or_else(|| "".into()));
        let found =
            self.attached.range_from(&(first, Age { created: i64::MIN, name: "".into() })).map(|(entry, _)| entry);
        let wanted = found.take_while(move |(group, _)| {
            group.service == service && namespace.as_ref().is_none_or(|wanted| *wanted == group.namespace)
        });
        let wanted = wanted
            .filter(move |(group, age)| from.as_ref().is_none_or(|(kind, first)| group.kind == *kind && age >= first));
        wanted.map(|(group, age)| (group.kind, Key { namespace: group.namespace.clone(), name: age.name.clone() }))
    }

    /// The routes that refer to a Service.
    pub(crate) fn of_backend(&self, service: &Key) -> impl Iterator<Item = (RouteKind, Key)> {
        self.referring(Reference::Service(service.clone()))
    }

    /// The routes that refer to a RetryPolicy.
    pub(crate) fn of_retry_policy(&self, policy: &Key) -> impl Iterator<Item = (RouteKind, Key)> {
        self.referring(Reference::RetryPolicy(policy.clone()))
    }

    /// The routes of other namespaces that refer to Services of this one.
    pub(crate) fn abroad(&self, namespace: &Arc<str>) -> impl Iterator<Item = (RouteKind, Key)> {
        self.referring(Reference::Abroad(namespace.clone()))
    }

    fn referring(&self, reference: Reference) -> impl Iterator<Item = (RouteKind, Key)> {
        let from = (reference, RouteKind::Grpc, Key::new("", ""));
        let found = self.references.range_from(&from).map(|(entry, ())| entry);
        found.take_while(move |(of, ..)| *of == from.0).map(|(_, kind, key)| (*kind, key.clone()))
    }

    fn has(&self, group: &Group) -> bool {
        self.group(group.clone()).next().is_some()
    }

    /// Adds up the patterns of a namespace again; routes that come under or over the bound are in force otherwise.
    fn find_over(&mut self, namespace: &Arc<str>, unsettled: &mut Unsettled) {
        let from = (namespace.clone(), Age { created: i64::MIN, name: "".into() }, RouteKind::Grpc);
        let all = self.patterns.range_from(&from).take_while(|((of, ..), _)| of == namespace);
        let mut sum = 0;
        let mut over = None;
        for ((_, age, kind), bytes) in all {
            sum += bytes;
            if sum > MAX_NAMESPACE_PATTERN_BYTES {
                over = Some((age.clone(), *kind));
                break;
            }
        }
        let before = self.over.get(namespace).cloned();
        if before == over {
            return;
        }
        // Those between where it was and where it is.
        let (low, high) = match (before, over.clone()) {
            (Some(a), Some(b)) => (a.clone().min(b.clone()), Some(a.max(b))),
            (Some(only), None) | (None, Some(only)) => (only, None),
            (None, None) => return,
        };
        let moved = self.patterns.range_from(&(namespace.clone(), low.0, low.1));
        let moved = moved.take_while(|((of, age, kind), _)| {
            of == namespace && high.as_ref().is_none_or(|high| (age.clone(), *kind) < *high)
        });
        unsettled.recompiled.extend(
            moved.map(|((_, age, kind), _)| (*kind, Key { namespace: namespace.clone(), name: age.name.clone() })),
        );
        match over {
            Some(over) => self.over.insert(namespace.clone(), over),
            None => drop(self.over.remove(namespace)),
        }
    }
}

impl Weight {
    /// With another.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            routes: self.routes + other.routes,
            bytes: self.bytes + other.bytes,
            pattern_bytes: self.pattern_bytes + other.pattern_bytes,
        }
    }

    /// Whether it is more than one policy may have.
    pub(crate) fn is_over(self) -> bool {
        self.routes > MAX_ROUTES || self.is_heavy()
    }

    /// Whether that is so by its bytes.
    fn is_heavy(self) -> bool {
        self.bytes > MAX_POLICY_BYTES || self.pattern_bytes > MAX_POLICY_PATTERN_BYTES
    }

    fn minus(self, other: Self) -> Self {
        Self {
            routes: self.routes.saturating_sub(other.routes),
            bytes: self.bytes.saturating_sub(other.bytes),
            pattern_bytes: self.pattern_bytes.saturating_sub(other.pattern_bytes),
        }
    }
}

impl Ports {
    pub(crate) fn of(parent: &Parent) -> Self {
        match (parent.port, &parent.section) {
            (None, None) => Self::All,
            (Some(number), None) => Self::Number(number),
            (None, Some(name)) => Self::Named(name.as_str().into()),
            (Some(number), Some(name)) => Self::Both(number, name.as_str().into()),
        }
    }

    /// The references that lead to a port.
    pub(crate) fn leading_to(number: u16, name: &str) -> [Self; 4] {
        let name: Arc<str> = name.into();
        [Self::All, Self::Number(number), Self::Named(name.clone()), Self::Both(number, name)]
    }
}

fn age_of(route: &RouteObject) -> Age {
    Age { created: route.meta.created, name: route.meta.name.clone() }
}

fn weight_of(route: &RouteObject) -> Weight {
    Weight { routes: 1, bytes: route.policy_bytes, pattern_bytes: route.pattern_bytes }
}

fn first_group(service: Key, namespace: Arc<str>) -> Group {
    Group { service, namespace, kind: RouteKind::Grpc, ports: Ports::All }
}

fn groups(kind: RouteKind, key: &Key, route: &RouteObject) -> BTreeSet<Group> {
    let parents = route.parents.iter().filter(|parent| parent.rejected.is_none());
    let group = |parent: &Parent| Group {
        service: Key { namespace: parent.namespace.clone(), name: parent.name.clone() },
        namespace: key.namespace.clone(),
        kind,
        ports: Ports::of(parent),
    };
    parents.map(group).collect()
}

/// The RetryPolicies that a route of the mesh refers to.
fn policies(key: &Key, route: Option<&RouteObject>) -> BTreeSet<Key> {
    let of_mesh = route.filter(|route| route.is_of_mesh());
    let all = of_mesh.map(|route| references(key, route)).into_iter().flatten();
    all.filter_map(|reference| match reference {
        Reference::RetryPolicy(policy) => Some(policy),
        Reference::Service(_) | Reference::Abroad(_) => None,
    })
    .collect()
}

fn references(key: &Key, route: &RouteObject) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    for rule in &route.rules {
        let of_backends = rule.backends.iter().flat_map(|backend| backend.filters.iter().flatten());
        for filter in rule.filters.iter().flatten().chain(of_backends) {
            match filter {
                FilterObject::Mirror(mirror) => all.extend(mirror.service.as_ref().ok().map(service)),
                FilterObject::RetryPolicy(policy) => {
                    let named = Key { namespace: key.namespace.clone(), name: policy.name.clone() };
                    all.insert(Reference::RetryPolicy(named));
                }
                FilterObject::Ready(_) => {}
            }
        }
        all.extend(rule.backends.iter().filter_map(|backend| backend.service.as_ref().ok().map(service)));
    }
    let abroad = |reference: &Reference| match reference {
        Reference::Service(service) if service.namespace != key.namespace => {
            Some(Reference::Abroad(service.namespace.clone()))
        }
        _ => None,
    };
    let abroad: Vec<_> = all.iter().filter_map(abroad).collect();
    all.extend(abroad);
    all
}

fn service(service: &ServiceRef) -> Reference {
    Reference::Service(Key::of_service(service))
}
