//! The kinds that destination watches.

/// One kind.
#[derive(Debug)]
pub(crate) struct Kind {
    /// API group; empty for the core.
    pub(crate) group: &'static str,
    /// Its version.
    pub(crate) version: Version,
    /// As in `HTTPRoute`.
    pub(crate) kind: &'static str,
    /// As in a path.
    pub(crate) plural: &'static str,
    /// How much of it is read.
    pub(crate) parts: Parts,
    /// Whether nothing can be answered without it. What may not be read and is not needed is done without.
    pub(crate) is_needed: bool,
}

/// The version of a group to read.
#[derive(Debug)]
pub(crate) enum Version {
    /// Every API server that we support has this one.
    Fixed(&'static str),
    /// The best of those that the API server serves of the kind now, for CRDs: a Gateway API of some years has its
    /// routes in `v1`, and others of its kinds in `v1beta1` or `v1alpha3`.
    Served,
}

/// How much of an object is read.
#[derive(Debug)]
pub(crate) enum Parts {
    /// All of it.
    Whole,
    /// What the mesh reads of a Pod.
    Pod,
    /// Name, labels and the networks of pods.
    Node,
    /// Name and labels.
    Labels,
}

const fn core(kind: &'static str, plural: &'static str, parts: Parts, is_needed: bool) -> Kind {
    Kind { group: "", version: Version::Fixed("v1"), kind, plural, parts, is_needed }
}

const fn served(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { group, version: Version::Served, kind, plural, parts: Parts::Whole, is_needed: false }
}

const GATEWAY: &str = "gateway.networking.k8s.io";
/// Group of the kinds that are ours.
pub(crate) const OURS: &str = "policy.meshctl.dev";

/// Every kind.
pub(crate) static KINDS: [Kind; 11] = [
    core("Service", "services", Parts::Whole, true),
    Kind {
        group: "discovery.k8s.io",
        version: Version::Fixed("v1"),
        kind: "EndpointSlice",
        plural: "endpointslices",
        parts: Parts::Whole,
        is_needed: true,
    },
    core("Pod", "pods", Parts::Pod, true),
    core("Node", "nodes", Parts::Node, false),
    core("Namespace", "namespaces", Parts::Labels, false),
    served(GATEWAY, "HTTPRoute", "httproutes"),
    served(GATEWAY, "GRPCRoute", "grpcroutes"),
    served(GATEWAY, "TLSRoute", "tlsroutes"),
    served(GATEWAY, "TCPRoute", "tcproutes"),
    served(GATEWAY, "ReferenceGrant", "referencegrants"),
    served(OURS, "RetryPolicy", "retrypolicies"),
];

/// Whether objects of a kind are in no namespace.
pub(crate) fn is_cluster_wide(kind: &str) -> bool {
    matches!(kind, "Node" | "Namespace")
}
