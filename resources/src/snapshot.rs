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
    authorization::{ClusterRoom, PolicyObject},
    closed::Closed,
    endpoint_slice::EndpointSlice,
    kinds::is_namespaced,
    links::{Links, Touched, Unsettled},
    node::{Namespace, Node},
    object::{Key, Object, ObjectId, StatusId},
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
    /// AuthorizationPolicies.
    pub authorization_policies: SharedMap<Key, PolicyObject>,
    /// ClusterAuthorizationPolicies, by name.
    pub cluster_authorization_policies: SharedMap<Arc<str>, PolicyObject>,
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
    /// What ClusterAuthorizationPolicies take.
    cluster_room: ClusterRoom,
    /// What is closed for those of which only the names are known.
    pub(crate) closed: Closed,
    verdicts: Verdicts,
    pub(crate) touched: Touched,
    pub(crate) unsettled: Unsettled,
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
        let (id, had_gone) = (object.id(), self.has_gone(&key.namespace));
        let fit = self.room.fit(&id, self.bytes_of(&id, key), new, report);
        self.open_again(&key.namespace);
        self.note_gone(&key.namespace, had_gone);
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
            if self.closed.is_all(namespace) {
                self.touch_all_services(namespace);
            }
            for service in self.closed.clear(namespace) {
                self.touched.doubts = true;
                self.touch_closed(namespace, service);
            }
        }
    }

    /// Whether there are objects of a namespace of which nothing but the name is known.
    pub(crate) fn has_gone(&self, namespace: &Arc<str>) -> bool {
        self.room.has_gone(namespace)
    }

    fn note_gone(&mut self, namespace: &Arc<str>, had_gone: bool) {
        if self.has_gone(namespace) != had_gone {
            self.touch_policies_of_gone(namespace);
        }
    }

    fn touch_closed(&mut self, namespace: &Arc<str>, service: Key) {
        if self.closed.is_all(namespace) {
            self.touch_all_services(namespace);
        }
        self.touched.policies.insert((service.clone(), namespace.clone()));
        self.unsettled.regroup(service, namespace.clone(), None);
    }

    /// Whatever routes of a namespace could be attached to may be closed, or open again: its own Services for everyone, and
    /// all others for its clients.
    fn touch_all_services(&mut self, namespace: &Arc<str>) {
        let services: Vec<Key> = self.services.keys().cloned().collect();
        for service in services {
            if service.namespace == *namespace {
                self.touch_pods(&service);
            }
            self.touched.policies.insert((service, namespace.clone()));
        }
    }

    /// Objects that were left out for want of room and find it by now: whoever has them, or can read them again, is to
    /// [`Self::apply`] them, or to [`Self::delete`] those that are gone. Each is named once for each time that room came.
    pub fn take_readable(&mut self) -> Vec<ObjectId> {
        let mut readable = self.room.take_readable();
        readable.extend(self.cluster_room.take_readable());
        readable
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
        let id = ObjectId::used(kind, namespace, name);
        // The others are of no namespace, and are not counted.
        if is_namespaced(kind) {
            let had_gone = self.has_gone(&key.namespace);
            self.room.free(&id, self.bytes_of(&id, &key));
            self.open_again(&key.namespace);
            self.note_gone(&key.namespace, had_gone);
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
            let attached = self.links.routes.attached_from(&service, Some(&namespace), from);
            self.touched.statuses.extend(attached.map(|(kind, route)| StatusId::new(kind.as_str(), route)));
            if namespace == service.namespace {
                // What a port's server is told depends on what kinds of routes there are.
                self.touch_pods(&service);
            }
        }
        self.settle_policies();
        std::mem::take(&mut self.touched)
    }

    /// Everything that is wrong now: with each object by itself, and with the references of every route. Sorted by
    /// object, without duplicates.
    pub fn problems(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> = self.problems.values().flatten().cloned().collect();
        all.extend(self.reference_problems());
        all.extend(self.doubts_of_policies());
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
        let policies = self.reference_grants.len()
            + self.retry_policies.len()
            + self.authorization_policies.len()
            + self.cluster_authorization_policies.len();
        namespaced + routes + policies + self.nodes.len() + self.namespaces.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A route by the name of its kind.
    pub(crate) fn route(&self, kind: &str, key: &Key) -> Option<&RouteObject> {
        self.routes(RouteKind::ALL.into_iter().find(|known| known.as_str() == kind)?).get(key)
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

pub(crate) fn put<K: Ord + Clone, V>(map: &mut SharedMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => drop(map.remove(&key)),
    }
}
