//! All objects that matter, decoded, and kept up one object at a time.
//!
//! It holds no references between objects: those are followed when something is asked (`compile`, `resolve`), so the
//! order in which objects arrive never matters.

use std::{collections::BTreeMap, sync::Arc};

use mesh_policy::RouteKind;

use crate::{
    endpoint_slice::{self, EndpointSlice},
    grpc_route, http_route,
    object::{Object, ObjectId},
    pod::{self, Pod},
    problem::{Problem, Report},
    reference_grant::{self, GATEWAY_GROUP, ReferenceGrant},
    route::RouteObject,
    service::{self, Service},
};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// Makes a key.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// How objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether the label `meshctl.dev/inject: enabled` says that a pod is meshed (a folder of manifests), rather than
    /// a container named `mesh-proxy` (a cluster).
    pub meshed_by_label: bool,
    /// Trust domain of the identities.
    pub trust_domain: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { meshed_by_label: false, trust_domain: "cluster.local".to_owned() }
    }
}

/// Whether the mesh has a use for objects of this kind.
pub(crate) fn is_used(group: &str, kind: &str) -> bool {
    matches!(
        (group, kind),
        ("", "Service" | "Pod")
            | ("discovery.k8s.io", "EndpointSlice")
            | (GATEWAY_GROUP, "HTTPRoute" | "GRPCRoute" | "ReferenceGrant")
    )
}

/// All objects that matter, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Services.
    pub services: BTreeMap<Key, Service>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<Key, EndpointSlice>,
    /// Pods.
    pub pods: BTreeMap<Key, Pod>,
    /// HTTPRoutes.
    pub http_routes: BTreeMap<Key, RouteObject>,
    /// GRPCRoutes.
    pub grpc_routes: BTreeMap<Key, RouteObject>,
    /// ReferenceGrants.
    pub reference_grants: BTreeMap<Key, ReferenceGrant>,
    options: Options,
    /// What was wrong with each object when it was decoded.
    problems: BTreeMap<ObjectId, Vec<Problem>>,
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
        let key = Key::new(object.namespace.as_str(), object.name.as_str());
        match (object.group(), object.kind.as_str()) {
            ("", "Service") => {
                self.services.insert(key, service::decode(object, &mut report));
            }
            ("", "Pod") => {
                self.pods.insert(key, pod::decode(object, &self.options, &mut report));
            }
            ("discovery.k8s.io", "EndpointSlice") => {
                self.endpoint_slices.insert(key, endpoint_slice::decode(object, &mut report));
            }
            (GATEWAY_GROUP, "HTTPRoute") => {
                self.http_routes.insert(key, http_route::decode(object, &mut report));
            }
            (GATEWAY_GROUP, "GRPCRoute") => {
                self.grpc_routes.insert(key, grpc_route::decode(object, &mut report));
            }
            (GATEWAY_GROUP, "ReferenceGrant") => {
                self.reference_grants.insert(key, reference_grant::decode(object, &mut report));
            }
            _ => return Vec::new(),
        }
        let problems = report.finish();
        if problems.is_empty() {
            self.problems.remove(&id);
        } else {
            self.problems.insert(id, problems.clone());
        }
        problems
    }

    /// Forgets an object. Gives the problems that end with it.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Vec<Problem> {
        let key = Key::new(namespace, name);
        match kind {
            "Service" => drop(self.services.remove(&key)),
            "Pod" => drop(self.pods.remove(&key)),
            "EndpointSlice" => drop(self.endpoint_slices.remove(&key)),
            "HTTPRoute" => drop(self.http_routes.remove(&key)),
            "GRPCRoute" => drop(self.grpc_routes.remove(&key)),
            "ReferenceGrant" => drop(self.reference_grants.remove(&key)),
            _ => return Vec::new(),
        }
        let id = ObjectId { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
        self.problems.remove(&id).unwrap_or_default()
    }

    /// Everything that is wrong now: with each object by itself, and with the references of every route. Sorted by
    /// object, without duplicates.
    pub fn problems(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> = self.problems.values().flatten().cloned().collect();
        all.extend(self.reference_problems());
        all.sort_by(|a, b| (&a.object, &a.field, a).cmp(&(&b.object, &b.field, b)));
        all.dedup();
        all
    }

    /// The pod `namespace/name`.
    pub fn pod(&self, workload: &str) -> Option<&Pod> {
        let (namespace, name) = workload.split_once('/')?;
        self.pods.get(&Key::new(namespace, name))
    }

    /// The routes of a kind.
    pub(crate) fn routes(&self, kind: RouteKind) -> &BTreeMap<Key, RouteObject> {
        match kind {
            RouteKind::Http => &self.http_routes,
            RouteKind::Grpc => &self.grpc_routes,
        }
    }
}
