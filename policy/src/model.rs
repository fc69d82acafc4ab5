//! The nouns: the one model of routes, rules, backends and policies. Every other form (manifests, wire, JSON) is a
//! conversion at an edge.
//!
//! Values are immutable once built and shared behind an `Arc`; a change makes a new value.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    access_log::AccessLog,
    authorization::AuthorizationPolicy,
    filter::Filter,
    identity::Identity,
    retry::Retry,
    route::{HostMatch, RequestMatch, RouteTable},
    session::SessionPersistence,
};

/// A port of a Kubernetes Service: what a client calls and what a backend reference names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// The cluster that it is in; `None`: this one.
    pub cluster: Option<Arc<str>>,
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Arc<str>,
    /// The Service's port (not the target port of its pods).
    pub port: u16,
}

impl ServiceRef {
    /// One of this cluster.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>, port: u16) -> Self {
        Self { cluster: None, namespace: namespace.into(), name: name.into(), port }
    }
}

impl fmt::Display for ServiceRef {
    /// `namespace/name:port`, the form of logs, metrics and messages; of another cluster `cluster/namespace/name:port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cluster) = &self.cluster {
            write!(f, "{cluster}/")?;
        }
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What a port speaks: from `appProtocol`, an annotation, or to be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Found out from the first bytes.
    #[default]
    Detect,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge, gRPC included (`kubernetes.io/h2c`, `grpc`).
    Http2,
    /// Bytes; no detection and no waiting for the client.
    Opaque,
}

/// Everything a client's proxy must know to send traffic to one target.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboundPolicy {
    /// What was called.
    pub target: Target,
    /// What the called port speaks.
    pub protocol: Protocol,
    /// Routes attached to the Service, in precedence order, all for requests or all for connections of one kind (see
    /// [`RouteKind`]). Empty: the Service itself is the one backend.
    pub routes: RouteTable,
}

/// What an outbound address or authority stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Service: opaque traffic and requests without routes go to its endpoints.
    Service(ServiceRef),
    /// One pod, called by its own address: never balanced, never routed elsewhere.
    Endpoint(Endpoint),
    /// An address that nobody of the cluster has: what goes there passes as it is.
    Outside(SocketAddr),
    /// An address of the cluster of which it is not known who has it. Nothing goes there until it is: a plain connection may
    /// reach a meshed pod.
    Unknown(SocketAddr),
}

/// One place that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to dial.
    pub address: SocketAddr,
    /// The identity its proxy must prove. `None`: not meshed, so it is called in plain text.
    pub identity: Option<Identity>,
    /// Topology zone of its node, if known.
    pub zone: Option<Arc<str>>,
    /// `namespace/pod`, for people; empty if unknown.
    pub workload: Arc<str>,
    /// Name of what controls the pod (a Deployment, a StatefulSet), of the pod itself if nothing does; for metrics, which are not
    /// to have a series for each pod. Empty if unknown.
    pub controlled_by: Arc<str>,
}

/// Which Gateway API kind a route came from; names it in metrics and messages.
///
/// The order is that of GEP-1426: of kinds attached to one port the first alone is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
    /// `TLSRoute`: connections of the applications' own TLS, by the name they ask for (SNI).
    Tls,
    /// `TCPRoute`: every connection.
    Tcp,
}

impl Target {
    /// The port that is called.
    pub fn port(&self) -> u16 {
        match self {
            Self::Service(service) => service.port,
            Self::Endpoint(endpoint) => endpoint.address.port(),
            Self::Outside(address) | Self::Unknown(address) => address.port(),
        }
    }
}

impl fmt::Display for Target {
    /// `namespace/name:port` of a Service, else the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "{service}"),
            Self::Endpoint(endpoint) => write!(f, "{}", endpoint.address),
            Self::Outside(address) | Self::Unknown(address) => write!(f, "{address}"),
        }
    }
}

impl RouteKind {
    /// The kind as Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// Whether its rules are about requests; those of the others are about connections.
    pub fn is_of_requests(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }

    /// Every kind, the first in force first.
    pub const ALL: [Self; 4] = [Self::Grpc, Self::Http, Self::Tls, Self::Tcp];
}

/// Which object a route came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteMeta {
    /// The Gateway API kind.
    pub kind: RouteKind,
    /// Namespace of the route object.
    pub namespace: Arc<str>,
    /// Name of the route object.
    pub name: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since 1970; the older route wins a tie. 0 where unknown.
    pub created: i64,
}

/// One route object.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where it came from.
    pub meta: RouteMeta,
    /// Hostnames it serves (of a TLSRoute: names asked for by SNI); empty means every host.
    pub hostnames: Vec<HostMatch>,
    /// Its rules in the order of the object.
    pub rules: Vec<Rule>,
}

/// One rule of a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// The rule's own name (GEP-995), if it has one.
    pub name: Option<Arc<str>>,
    /// Alternatives, any of which selects the rule; empty means every request (path prefix `/`).
    pub matches: Vec<RequestMatch>,
    /// Applied to every request of the rule, and to its response.
    pub filters: Vec<Filter>,
    /// Where the requests go, by weight. Empty: 500, as the Gateway API says of a rule without backends.
    pub backends: Vec<Backend>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// What is tried again; `None`: only what was never delivered, and safe methods whose connection broke.
    pub retry: Option<Retry>,
    /// Whether requests of one session stay with one endpoint.
    pub session: Option<SessionPersistence>,
}

/// `timeouts` of an HTTPRoute rule (GEP-1742). `None` means no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the last byte of the request head to the end of the response, attempts included.
    pub request: Option<Duration>,
    /// Each attempt at a backend, until its response has ended. Never longer than `request`.
    pub backend_request: Option<Duration>,
}

/// Largest weight of a backend (Gateway API, `weight`).
pub const MAX_WEIGHT: u32 = 1_000_000;

/// One weighted backend of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Share of the requests: weight / sum of weights; 0 sends none. At most [`MAX_WEIGHT`].
    pub weight: u32,
    /// Where to.
    pub target: BackendTarget,
    /// Applied after the rule's own filters, only to requests for this backend.
    pub filters: Vec<Filter>,
}

/// What a backend reference stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// A Service's port whose endpoints the proxy follows.
    Service(ServiceRef),
    /// A reference that cannot be served: its share of the requests is answered 500 (Gateway API, `backendRefs`).
    Invalid {
        /// The reference as written and why it is invalid, for the response body and `explain`.
        reason: Arc<str>,
    },
}

/// Everything a server's proxy must know about its pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadPolicy {
    /// What its ports speak.
    pub ports: PortPolicies,
    /// Who may call it: every policy that is about the pod, in no order that matters.
    pub authorization: Vec<AuthorizationPolicy>,
    /// What its sidecar logs, of what it sends as well.
    pub access_log: AccessLog,
    /// As of an [`Endpoint`], for the metrics of its sidecar.
    pub controlled_by: Arc<str>,
}

/// What is known of a port of a pod, beside who may call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// What the port speaks.
    pub protocol: Protocol,
    /// Whether HTTPRoutes or GRPCRoutes are attached to a Service that leads to the port: what a server may take for a
    /// request is then served or refused as one, never passed as bytes.
    pub has_request_routes: bool,
    /// Whether a path that servers read in several ways is answered 400, whoever asks.
    pub strict_paths: bool,
}

/// Each port of a pod, by ranges. Of a port that is in none nothing is known ([`PortPolicy::default`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPolicies(Box<[(u16, u16, PortPolicy)]>);

impl PortPolicies {
    /// From ranges (first and last port) that must be sorted and not overlap; those that touch and are equal become one.
    /// `None` if they are not.
    pub fn new(ranges: impl IntoIterator<Item = (u16, u16, PortPolicy)>) -> Option<Self> {
        let mut merged: Vec<(u16, u16, PortPolicy)> = Vec::new();
        for (first, last, policy) in ranges {
            let before = merged.last_mut();
            if first > last || before.as_ref().is_some_and(|before| before.1 >= first) {
                return None;
            }
            match before {
                Some(before) if before.1 + 1 == first && before.2 == policy => before.1 = last,
                _ => merged.push((first, last, policy)),
            }
        }
        merged.retain(|(.., policy)| *policy != PortPolicy::default());
        Some(Self(merged.into()))
    }

    /// What is known of a port.
    pub fn get(&self, port: u16) -> PortPolicy {
        let at = self.0.partition_point(|(_, last, _)| *last < port);
        self.0.get(at).filter(|(first, ..)| *first <= port).map_or_else(PortPolicy::default, |(.., policy)| *policy)
    }

    /// The ranges of which something is known, sorted.
    pub fn ranges(&self) -> &[(u16, u16, PortPolicy)] {
        &self.0
    }
}
