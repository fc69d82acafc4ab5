//! Every kind of object that the mesh reads, a row each: what it is called, where it is read from, how much of it is kept, and
//! who writes its status. Whoever watches, lists, decodes, checks or allows objects of a kind reads the row.

use mesh_policy::well_known::{GATEWAY_GROUP, POLICY_GROUP};

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
    /// Whether it may restrict who calls a pod, or says whom that is about. That there is none of it is never concluded from
    /// what cannot be read: what was read before stays in force, and before that nobody is told who may call a pod.
    pub restricts: bool,
    /// Whether objects of it are in a namespace.
    pub is_namespaced: bool,
    /// In which form we write its status, if we do.
    pub status: Option<StatusForm>,
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

/// A list in a status that controllers share: each has entries under its own `controllerName`, with conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusForm {
    /// `status.parents` of a route (Gateway API, `RouteStatus`): an entry for each parent of ours.
    Parents,
    /// `status.ancestors` of a policy (GEP-713, `PolicyStatus`): an entry for each object that the policy is about.
    Ancestors,
}

/// Most entries of `status.ancestors`, those of all controllers together (GEP-713).
pub const MAX_ANCESTORS: usize = 16;

impl StatusForm {
    /// The field of `status` that holds the list.
    pub fn list(self) -> &'static str {
        match self {
            Self::Parents => "parents",
            Self::Ancestors => "ancestors",
        }
    }

    /// The field of an entry that says what it is about.
    pub fn reference(self) -> &'static str {
        match self {
            Self::Parents => "parentRef",
            Self::Ancestors => "ancestorRef",
        }
    }

    /// Most entries of the list, where there is a bound that ours may meet.
    pub fn most(self) -> usize {
        match self {
            // A route has at most 32 parents, and so at most that many entries of ours.
            Self::Parents => usize::MAX,
            Self::Ancestors => MAX_ANCESTORS,
        }
    }
}

const fn core(kind: &'static str, plural: &'static str, parts: Parts) -> Kind {
    Kind {
        group: "",
        kind,
        plural,
        version: Version::Fixed("v1"),
        parts,
        is_needed: true,
        restricts: false,
        is_namespaced: true,
        status: None,
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
    Kind { status: Some(StatusForm::Parents), ..served(GATEWAY_GROUP, kind, plural, versions) }
}

const fn policy(kind: &'static str, plural: &'static str, versions: &'static [&'static str]) -> Kind {
    Kind { status: Some(StatusForm::Ancestors), ..served(POLICY_GROUP, kind, plural, versions) }
}

/// Every kind.
pub static KINDS: [Kind; 13] = [
    core("Service", "services", Parts::Whole),
    Kind { group: DISCOVERY_GROUP, ..core("EndpointSlice", "endpointslices", Parts::Whole) },
    core("Pod", "pods", Parts::Pod),
    cluster_wide("Node", "nodes", Parts::Node),
    Kind { restricts: true, ..cluster_wide("Namespace", "namespaces", Parts::Labels) },
    route("HTTPRoute", "httproutes", &["v1", "v1beta1"]),
    route("GRPCRoute", "grpcroutes", &["v1"]),
    route("TLSRoute", "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
    route("TCPRoute", "tcproutes", &["v1", "v1alpha2"]),
    served(GATEWAY_GROUP, "ReferenceGrant", "referencegrants", &["v1", "v1beta1"]),
    policy("RetryPolicy", "retrypolicies", &["v1alpha1"]),
    Kind { restricts: true, ..policy("AuthorizationPolicy", "authorizationpolicies", &["v1alpha1"]) },
    Kind {
        restricts: true,
        is_namespaced: false,
        ..policy("ClusterAuthorizationPolicy", "clusterauthorizationpolicies", &["v1alpha1"])
    },
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
