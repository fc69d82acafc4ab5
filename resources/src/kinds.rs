//! Every kind of object that the mesh reads, a row each: what it is called, where it is read from, how much of it is kept, and
//! who writes its status. Whoever watches, lists, decodes, checks or allows objects of a kind reads the row.

/// The Gateway API's group.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The group of the kinds that are ours.
pub const POLICY_GROUP: &str = "policy.meshctl.dev";
/// The group of EndpointSlices.
const DISCOVERY_GROUP: &str = "discovery.k8s.io";

/// One kind.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core.
    pub group: &'static str,
    /// As in `HTTPRoute`.
    pub kind: &'static str,
    /// As in a path.
    pub plural: &'static str,
    /// Which version is read.
    pub version: Version,
    /// How much of it is read.
    pub parts: Parts,
    /// Whether nothing can be answered without it. What may not be read and is not needed is done without.
    pub is_needed: bool,
    /// Whether objects of it are in a namespace.
    pub is_namespaced: bool,
    /// Whether its status is ours to write.
    pub has_status: bool,
}

/// The version of a kind to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Every API server that we support has this one.
    Fixed(&'static str),
    /// The best of those that the API server serves of the kind now, among these, the best first: a Gateway API of some years has
    /// its routes in `v1`, and others of its kinds in `v1beta1` or `v1alpha3`.
    Served(&'static [&'static str]),
}

/// How much of an object is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// All of it.
    Whole,
    /// What the mesh reads of a Pod.
    Pod,
    /// Name, labels and the networks of pods.
    Node,
    /// Name and labels.
    Labels,
}

const fn core(kind: &'static str, plural: &'static str, parts: Parts) -> Kind {
    Kind {
        group: "",
        kind,
        plural,
        version: Version::Fixed("v1"),
        parts,
        is_needed: true,
        is_namespaced: true,
        has_status: false,
    }
}

const fn cluster_wide(kind: &'static str, plural: &'static str, parts: Parts) -> Kind {
    Kind { is_needed: false, is_namespaced: false, ..core(kind, plural, parts) }
}

const fn served(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    versions: &'static [&'static str],
) -> Kind {
    let version = Version::Served(versions);
    Kind { group, version, is_needed: false, ..core(kind, plural, Parts::Whole) }
}

const fn route(kind: &'static str, plural: &'static str, versions: &'static [&'static str]) -> Kind {
    Kind { has_status: true, ..served(GATEWAY_GROUP, kind, plural, versions) }
}

/// Every kind.
pub static KINDS: [Kind; 11] = [
    core("Service", "services", Parts::Whole),
    Kind { group: DISCOVERY_GROUP, ..core("EndpointSlice", "endpointslices", Parts::Whole) },
    core("Pod", "pods", Parts::Pod),
    cluster_wide("Node", "nodes", Parts::Node),
    cluster_wide("Namespace", "namespaces", Parts::Labels),
    route("HTTPRoute", "httproutes", &["v1", "v1beta1"]),
    route("GRPCRoute", "grpcroutes", &["v1"]),
    route("TLSRoute", "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
    route("TCPRoute", "tcproutes", &["v1", "v1alpha2"]),
    served(GATEWAY_GROUP, "ReferenceGrant", "referencegrants", &["v1", "v1beta1"]),
    served(POLICY_GROUP, "RetryPolicy", "retrypolicies", &["v1alpha1"]),
];

/// The kind of this name; there are no two.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.kind == name)
}

/// Whether the mesh has a use for objects of this kind.
pub fn is_used(group: &str, name: &str) -> bool {
    kind(name).is_some_and(|kind| kind.group == group)
}

/// Whether objects of a kind are in a namespace: those of kinds that nobody knows are.
pub fn is_namespaced(name: &str) -> bool {
    kind(name).is_none_or(|kind| kind.is_namespaced)
}

/// The API group of a kind that there is a use for.
pub fn group_of(name: &str) -> &'static str {
    kind(name).map_or("", |kind| kind.group)
}
