//! All objects that matter, decoded, and kept up one object at a time.
//!
//! It holds no pointers between objects: those are followed by name when something is asked (`compile`, `resolve`), so the
//! order in which objects arrive never matters. `links` says where to look. A copy is cheap and shares what does not
//! change.

mod held;
mod set;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use mesh_policy::{Route, RouteKind};

use crate::{
    closed::Closed,
    endpoint_slice::EndpointSlice,
    kinds::is_namespaced,
    links::{Links, Touched, Unsettled},
    node::{Namespace, Node},
    object::{Key, Object, ObjectId},
    options::Options,
    patterns::{Judge, Verdicts},
    pod::Pod,
    problem::{Problem, Report},
    reference_grant::ReferenceGrant,
    retry_policy::RetryPolicy,
    room::{self, Bounded, Fit, Room},
    route::RouteObject,
    service::Service,
    shared_map::SharedMap,
    told::Told,
};

/// All objects that matter, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Services.
    pub services: SharedMap<Key, Service>,
    /// EndpointSlices.
    pub endpoint_slices: SharedMap<Key, EndpointSlice>,
    /// Pods.
    pub pods: SharedMap<Key, Pod>,
    /// Nodes, by name.
    pub nodes: SharedMap<Arc<str>, Node>,
    /// Namespaces, by name.
    pub namespaces: SharedMap<Arc<str>, Namespace>,
    /// HTTPRoutes.
    pub http_routes: SharedMap<Key, RouteObject>,
    /// GRPCRoutes.
    pub grpc_routes: SharedMap<Key, RouteObject>,
    /// TLSRoutes.
    pub tls_routes: SharedMap<Key, RouteObject>,
    /// TCPRoutes.
    pub tcp_routes: SharedMap<Key, RouteObject>,
    /// ReferenceGrants.
    pub reference_grants: SharedMap<Key, ReferenceGrant>,
    /// RetryPolicies.
    pub retry_policies: SharedMap<Key, RetryPolicy>,
    pub(crate) options: Options,
    pub(crate) links: Links,
    /// What was wrong with each object when it was decoded.
    problems: SharedMap<ObjectId, Vec<Problem>>,
    /// What is wrong with objects because of others.
    doubts: Told<(Doubted, Key)>,
    /// Of which that is looked for again before anyone asks what was touched, beside Services with other endpoints.
    unjudged: BTreeSet<(Doubted, Key)>,
    /// Each route as it is in force, made when it is first asked for and shared by all policies.
    pub(crate) compiled: SharedMap<(RouteKind, Key), Compiled>,
    /// What the objects of each namespace take.
    room: Room,
    /// What is closed for those of which only the names are known.
    pub(crate) closed: Closed,
    verdicts: Verdicts,
    touched: Touched,
    unsettled: Unsettled,
}

/// What something may be wrong with because of other objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubted {
    /// An EndpointSlice: who has the addresses of its endpoints.
    Slice,
    /// A Service: how many endpoints it has.
    Service,
    /// A ReferenceGrant: how many there are before it.
    Grant,
}

/// A route as it is in force; it follows from the rest.
#[derive(Debug, Default)]
pub(crate) struct Compiled(pub(crate) OnceLock<Arc<Route>>);

impl PartialEq for Compiled {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Snapshot {
    /// An empty snapshot.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Decodes objects; of two with the same name the later one stays. Also gives what is wrong with each, and with the
    /// references between them.
    pub fn from_objects(objects: &[Object], options: Options) -> (Self, Vec<Problem>) {
        let mut snapshot = Self::new(options);
        for object in objects {
            snapshot.apply(object);
        }
        let problems = snapshot.problems();
        (snapshot, problems)
    }

    /// Takes in a new or changed object, and gives what is wrong with it by itself. Kinds that the mesh has no use for
    /// are ignored.
    pub fn apply(&mut self, object: &Object) -> Vec<Problem> {
        let id = object.id();
        let mut report = Report::of(object);
        report.patterns = Judge::with(std::mem::take(&mut self.verdicts));
        let known = self.decode(object, &mut report);
        self.verdicts = report.patterns.finish();
        if !known {
            return Vec::new();
        }
        let problems = report.finish();
        if problems.is_empty() {
            self.problems.remove(&id);
        } else {
            self.problems.insert(id, problems.clone());
        }
        problems
    }

    /// An object, or what is kept of it where its namespace has no room; what the namespace holds follows.
    fn fit<T: Bounded>(&mut self, object: &Object, key: &Key, new: T, report: &mut Report<'_>) -> Option<T> {
        let id = object.id();
        let fit = self.room.fit(&id, self.bytes_of(&id, key), new, report);
        self.open_again(&key.namespace);
        match fit {
            Fit::Kept(kept) => kept,
            Fit::Gone(closes) => {
                for (service, kind) in closes {
                    if self.closed.add(&key.namespace, service.clone(), kind) {
                        self.touch_closed(&key.namespace, service);
                    }
                }
                None
            }
        }
    }

    /// Opens what was closed for routes of which only the names were known, when there are none of these any more.
    fn open_again(&mut self, namespace: &Arc<str>) {
        self.touched.doubts |= self.room.has_gone(namespace);
        if !self.room.has_gone(namespace) {
            self.touched.everything |= self.closed.is_all(namespace);
            for service in self.closed.clear(namespace) {
                self.touched.doubts = true;
                self.touch_closed(namespace, service);
            }
        }
    }

    fn touch_closed(&mut self, namespace: &Arc<str>, service: Key) {
        self.touched.everything |= self.closed.is_all(namespace);
        self.touched.policies.insert((service.clone(), namespace.clone()));
        self.unsettled.regroup(service, namespace.clone(), None);
    }

    /// Objects that were left out for want of room and find it by now: whoever has them, or can read them again, is to
    /// [`Self::apply`] them, or to [`Self::delete`] those that are gone. Each is named once for each time that room came.
    pub fn take_readable(&mut self) -> Vec<ObjectId> {
        self.room.take_readable()
    }

    /// What is wrong with namespaces that hold more than there is room for.
    pub fn problems_of_room(&self) -> impl Iterator<Item = Problem> {
        self.room.problems()
    }

    /// What the objects of a namespace take, in bytes, about: what [`crate::MAX_NAMESPACE_BYTES`] bounds.
    pub fn held_by(&self, namespace: &str) -> usize {
        self.room.held(&namespace.into())
    }

    /// What an object takes that is there, with what is wrong with it.
    fn bytes_of(&self, id: &ObjectId, key: &Key) -> usize {
        self.own_bytes(&id.kind, key) + room::of_problems(self.problems_of(id).len())
    }

    /// Forgets an object. Gives the problems that end with it.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Vec<Problem> {
        let key = Key::new(namespace, name);
        let id = ObjectId { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
        // The others are of no namespace, and are not counted.
        if is_namespaced(kind) {
            self.room.free(&id, self.bytes_of(&id, &key));
            self.open_again(&key.namespace);
        }
        if !self.remove(kind, key) {
            return Vec::new();
        }
        self.problems.remove(&id).map_or(Vec::new(), Arc::unwrap_or_clone)
    }

    /// What changed since this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        let mut unjudged = self.all_unjudged();
        self.unjudged.clear();
        while let Some(which) = unjudged.pop_first() {
            let (now, namespace) = (self.doubts_of(&which), which.1.namespace.clone());
            let is_better = now.is_empty();
            if self.doubts.set(&namespace, &which, now) {
                self.touched.doubts = true;
                if is_better {
                    unjudged.extend(self.doubts.again(&namespace));
                }
            }
        }
        for ((service, namespace), from) in std::mem::take(&mut self.unsettled.regrouped) {
            self.touched.routes.extend(self.links.routes.attached_from(&service, Some(&namespace), from));
            if namespace == service.namespace {
                // What a port's server is told depends on what kinds of routes there are.
                self.touch_pods(&service);
            }
        }
        std::mem::take(&mut self.touched)
    }

    /// Everything that is wrong now: with each object by itself, and with the references of every route. Sorted by
    /// object, without duplicates.
    pub fn problems(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> = self.problems.values().flatten().cloned().collect();
        all.extend(self.reference_problems());
        all.extend(self.room.problems());
        let unjudged = self.all_unjudged();
        all.extend(
            self.doubts.entries().filter(|(which, _)| !unjudged.contains(which)).flat_map(|(_, it)| it).cloned(),
        );
        all.extend(unjudged.iter().flat_map(|which| self.doubts_of(which)));
        all.sort_by(|a, b| (&a.object, &a.field, a).cmp(&(&b.object, &b.field, b)));
        all.dedup();
        all
    }

    /// What was wrong with each object by itself, in the order of the objects.
    pub fn own_problems(&self) -> impl Iterator<Item = (&ObjectId, &[Problem])> {
        self.problems.iter().map(|(id, problems)| (id, problems.as_slice()))
    }

    /// What is wrong with objects because of others, as of [`Self::take_touched`]: with endpoints of slices whose owner is
    /// not known, with Services that have too many, with grants that are too many.
    pub fn doubts(&self) -> &Told<(Doubted, Key)> {
        &self.doubts
    }

    fn all_unjudged(&self) -> BTreeSet<(Doubted, Key)> {
        let services = self.touched.services.iter().map(|key| (Doubted::Service, key.clone()));
        self.unjudged.iter().cloned().chain(services).collect()
    }

    fn doubts_of(&self, (what, key): &(Doubted, Key)) -> Vec<Problem> {
        match what {
            Doubted::Slice => self.doubts_of_slice(key),
            Doubted::Service => self.doubts_of_service(key),
            Doubted::Grant => self.doubts_of_grant(key),
        }
    }

    /// Whether something was wrong with an object by itself.
    pub fn has_problems(&self, id: &ObjectId) -> bool {
        self.problems.get(id).is_some()
    }

    /// What was wrong with an object by itself.
    pub(crate) fn problems_of(&self, id: &ObjectId) -> &[Problem] {
        self.problems.get(id).map_or(&[], Vec::as_slice)
    }

    /// The pod `namespace/name`.
    pub fn pod(&self, workload: &str) -> Option<&Pod> {
        let (namespace, name) = workload.split_once('/')?;
        self.pods.get(&Key::new(namespace, name))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        let namespaced = self.services.len() + self.endpoint_slices.len() + self.pods.len();
        let routes: usize = RouteKind::ALL.into_iter().map(|kind| self.routes(kind).len()).sum();
        let policies = self.reference_grants.len() + self.retry_policies.len();
        namespaced + routes + policies + self.nodes.len() + self.namespaces.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The routes of a kind.
    pub fn routes(&self, kind: RouteKind) -> &SharedMap<Key, RouteObject> {
        match kind {
            RouteKind::Grpc => &self.grpc_routes,
            RouteKind::Http => &self.http_routes,
            RouteKind::Tls => &self.tls_routes,
            RouteKind::Tcp => &self.tcp_routes,
        }
    }
}

fn put<K: Ord + Clone, V>(map: &mut SharedMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => drop(map.remove(&key)),
    }
}
