//! All objects that matter, decoded, and kept up one object at a time.
//!
//! It holds no pointers between objects: those are followed by name when something is asked (`compile`, `resolve`), so the
//! order in which objects arrive never matters. `links` says where to look. A copy is cheap and shares what does not
//! change.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;
use mesh_policy::RouteKind;

use crate::{
    connection_route,
    endpoint_slice::{self, EndpointSlice},
    grpc_route, http_route,
    links::{self, Links, Touched},
    node::{self, Namespace, Node},
    object::{Object, ObjectId},
    pod::{self, Pod},
    problem::{Problem, Report},
    reference_grant::{self, GATEWAY_GROUP, ReferenceGrant},
    retry_policy::{self, POLICY_GROUP, RetryPolicy},
    route::RouteObject,
    service::{self, Service},
    shared_map::SharedMap,
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
    /// Domain of the cluster's DNS names.
    pub cluster_domain: String,
    /// Networks of the cluster's pods and Services beside the `podCIDRs` of its Nodes: an address in them that nobody is
    /// known to have is nobody's, and never outside of the mesh.
    pub cluster_networks: Vec<IpNet>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            meshed_by_label: false,
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_networks: Vec::new(),
        }
    }
}

/// Whether the mesh has a use for objects of this kind.
pub fn is_used(group: &str, kind: &str) -> bool {
    matches!(
        (group, kind),
        ("", "Service" | "Pod" | "Node" | "Namespace")
            | ("discovery.k8s.io", "EndpointSlice")
            | (GATEWAY_GROUP, "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" | "ReferenceGrant")
            | (POLICY_GROUP, "RetryPolicy")
    )
}

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
    /// What is wrong with the endpoints of slices: who has their addresses is not known.
    doubts: SharedMap<Key, Vec<Problem>>,
    /// Slices whose doubts are looked for again before anyone asks what was touched.
    unjudged: BTreeSet<Key>,
    touched: Touched,
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
            ("", "Service") => self.set_service(key, Some(service::decode(object, &mut report))),
            ("", "Pod") => self.set_pod(key, Some(pod::decode(object, &self.options, &mut report))),
            ("", "Node") => self.set_node(&key.name, Some(node::decode_node(object, &mut report))),
            ("", "Namespace") => self.set_namespace(&key.name, Some(node::decode_namespace(object))),
            ("discovery.k8s.io", "EndpointSlice") => {
                self.set_slice(key, Some(endpoint_slice::decode(object, &mut report)));
            }
            (GATEWAY_GROUP, "ReferenceGrant") => {
                self.set_grant(key, Some(reference_grant::decode(object, &mut report)));
            }
            (POLICY_GROUP, "RetryPolicy") => {
                self.set_retry_policy(key, Some(retry_policy::decode(object, &mut report)));
            }
            (GATEWAY_GROUP, kind) => {
                let Some(kind) = route_kind(kind) else { return Vec::new() };
                let route = match kind {
                    RouteKind::Grpc => grpc_route::decode(object, &mut report),
                    RouteKind::Http => http_route::decode(object, &mut report),
                    RouteKind::Tls => connection_route::decode_tls(object, &mut report),
                    RouteKind::Tcp => connection_route::decode_tcp(object, &mut report),
                };
                self.set_route(kind, key, Some(route));
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
            "Service" => self.set_service(key, None),
            "Pod" => self.set_pod(key, None),
            "Node" => self.set_node(&key.name, None),
            "Namespace" => self.set_namespace(&key.name, None),
            "EndpointSlice" => self.set_slice(key, None),
            "ReferenceGrant" => self.set_grant(key, None),
            "RetryPolicy" => self.set_retry_policy(key, None),
            kind => match route_kind(kind) {
                Some(kind) => self.set_route(kind, key, None),
                None => return Vec::new(),
            },
        }
        let id = ObjectId { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
        self.problems.remove(&id).map_or(Vec::new(), Arc::unwrap_or_clone)
    }

    /// What changed since this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        for key in std::mem::take(&mut self.unjudged) {
            let now = Some(self.doubts_of(&key)).filter(|doubts| !doubts.is_empty());
            if self.doubts.get(&key) != now.as_ref() {
                self.touched.doubts = true;
                put(&mut self.doubts, key, now);
            }
        }
        std::mem::take(&mut self.touched)
    }

    /// Everything that is wrong now: with each object by itself, and with the references of every route. Sorted by
    /// object, without duplicates.
    pub fn problems(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> = self.problems.values().flatten().cloned().collect();
        all.extend(self.reference_problems());
        all.extend(self.doubts.iter().filter(|(key, _)| !self.unjudged.contains(key)).flat_map(|(_, it)| it).cloned());
        all.extend(self.unjudged.iter().flat_map(|key| self.doubts_of(key)));
        all.sort_by(|a, b| (&a.object, &a.field, a).cmp(&(&b.object, &b.field, b)));
        all.dedup();
        all
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

    /// What there is of a kind. Objects without a namespace are in `default`, as everywhere here.
    pub fn keys_of(&self, kind: &str) -> Vec<Key> {
        let unplaced = |name: &Arc<str>| Key::new("default", name.clone());
        match kind {
            "Service" => self.services.keys().cloned().collect(),
            "Pod" => self.pods.keys().cloned().collect(),
            "Node" => self.nodes.keys().map(unplaced).collect(),
            "Namespace" => self.namespaces.keys().map(unplaced).collect(),
            "EndpointSlice" => self.endpoint_slices.keys().cloned().collect(),
            "ReferenceGrant" => self.reference_grants.keys().cloned().collect(),
            "RetryPolicy" => self.retry_policies.keys().cloned().collect(),
            kind => route_kind(kind).map_or(Vec::new(), |kind| self.routes(kind).keys().cloned().collect()),
        }
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

    fn set_service(&mut self, key: Key, new: Option<Service>) {
        let old = self.services.get(&key);
        if old == new.as_ref() {
            return;
        }
        self.links.service(&key, old, new.as_ref());
        self.touched.everything = true;
        self.touched.services.insert(key.clone());
        for ip in old.into_iter().chain(new.as_ref()).flat_map(|service| &service.cluster_ips) {
            self.unjudged.extend(self.links.slices_by_ip.linked(ip).iter().cloned());
        }
        put(&mut self.services, key, new);
    }

    fn set_pod(&mut self, key: Key, new: Option<Pod>) {
        let old = self.pods.get(&key);
        if old == new.as_ref() {
            return;
        }
        self.links.pod(&key, old, new.as_ref());
        let ips = |pod: &'_ Pod| -> Vec<_> { pod.ips.iter().chain(&pod.node_ips).copied().collect() };
        let ips: BTreeSet<_> = old.into_iter().chain(new.as_ref()).flat_map(ips).collect();
        // Whoever lists its address, and whoever names it.
        let listing = ips.iter().flat_map(|ip| self.links.slices_by_ip.linked(ip));
        let slices: BTreeSet<_> = listing.chain(self.links.slices_by_pod.linked(&key)).collect();
        for slice in slices {
            let found = self.endpoint_slices.get(slice);
            let service = found.and_then(|found| found.service.clone());
            self.touched.services.extend(service.map(|name| Key { namespace: slice.namespace.clone(), name }));
            // By address it may be asked for although it has none of its own.
            let endpoints = found.into_iter().flat_map(|found| &found.endpoints);
            let of_pod = endpoints.filter(|e| slice.namespace == key.namespace && e.pod.as_ref() == Some(&key.name));
            self.touched.addresses.extend(of_pod.map(|e| e.address));
            self.unjudged.insert(slice.clone());
        }
        self.touched.addresses.extend(ips);
        self.touched.pods.insert(key.clone());
        put(&mut self.pods, key, new);
    }

    fn set_slice(&mut self, key: Key, new: Option<EndpointSlice>) {
        let old = self.endpoint_slices.get(&key);
        if old == new.as_ref() {
            return;
        }
        self.links.slice(&key, old, new.as_ref());
        links::touch_slice(&mut self.touched, &key, old, new.as_ref());
        self.unjudged.insert(key.clone());
        put(&mut self.endpoint_slices, key, new);
    }

    fn set_node(&mut self, name: &Arc<str>, new: Option<Node>) {
        let old = self.nodes.get(name);
        let networks = |node: Option<&Node>| node.map_or(Vec::new(), |node| node.networks.clone());
        if networks(old) != networks(new.as_ref()) {
            self.links.node(name, old, new.as_ref());
            self.touched.everything = true;
            self.unjudged.extend(self.endpoint_slices.keys().cloned());
        }
        let zone = |node: Option<&Node>| node.and_then(|node| node.zone.clone());
        self.touched.everything |= zone(old) != zone(new.as_ref());
        put(&mut self.nodes, name.clone(), new);
    }

    fn set_namespace(&mut self, name: &Arc<str>, new: Option<Namespace>) {
        put(&mut self.namespaces, name.clone(), new);
    }

    fn set_route(&mut self, kind: RouteKind, key: Key, new: Option<RouteObject>) {
        let map = match kind {
            RouteKind::Grpc => &mut self.grpc_routes,
            RouteKind::Http => &mut self.http_routes,
            RouteKind::Tls => &mut self.tls_routes,
            RouteKind::Tcp => &mut self.tcp_routes,
        };
        if map.get(&key) == new.as_ref() {
            return;
        }
        self.links.route(kind, &key, map.get(&key), new.as_ref());
        self.touched.everything = true;
        put(map, key, new);
    }

    fn set_grant(&mut self, key: Key, new: Option<ReferenceGrant>) {
        self.touched.everything |= self.reference_grants.get(&key) != new.as_ref();
        put(&mut self.reference_grants, key, new);
    }

    fn set_retry_policy(&mut self, key: Key, new: Option<RetryPolicy>) {
        self.touched.everything |= self.retry_policies.get(&key) != new.as_ref();
        put(&mut self.retry_policies, key, new);
    }
}

fn route_kind(kind: &str) -> Option<RouteKind> {
    RouteKind::ALL.into_iter().find(|known| known.as_str() == kind)
}

fn put<K: Ord + Clone, V>(map: &mut SharedMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => drop(map.remove(&key)),
    }
}
