//! Services: what clients call.

use std::{net::IpAddr, sync::Arc};

use mesh_policy::Protocol;

use crate::{
    object::Object,
    problem::{Reason, Report},
    protocol::Declared,
    selector::Selector,
    walker::{Invalid, Node},
};

/// Most ports of a Service that are followed: far above what people write, and an API server takes tens of thousands.
pub(crate) const MAX_PORTS: usize = 1_024;
/// Most ranges that annotations of one object list: as many as the injector takes.
pub(crate) const MAX_RANGES: usize = 64;
/// Values of `protocol` of a port.
pub(crate) const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// A Service, as far as the mesh cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Its cluster addresses; none for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether it says that it has none (`clusterIP: None`): clients call its pods, and it is no parent of routes (GEP-1426).
    pub is_headless: bool,
    /// The other name that it is (`type: ExternalName`); then it is neither parent nor backend (GEP-1426).
    pub external_name: Option<Arc<str>>,
    /// Whether only endpoints on the caller's node serve (`internalTrafficPolicy: Local`).
    pub local_only: bool,
    /// Which endpoints are preferred (`trafficDistribution`).
    pub distribution: Distribution,
    /// The family of its endpoints where its pods have addresses of both: that of its first cluster address.
    pub prefers_v6: bool,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// Which pods of its namespace it leads to (`selector`); `None`: somebody else says it.
    pub selector: Option<Selector>,
    /// Whether it has ports, or selects by labels, that are not known here: whatever is meant for its ports must then hold of
    /// every port.
    pub is_cut: bool,
}

/// `trafficDistribution` of a [`Service`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// Every endpoint alike.
    #[default]
    Any,
    /// Those in the caller's zone first (`PreferSameZone`, once called `PreferClose`).
    SameZone,
    /// Those on the caller's node first, then those in its zone (`PreferSameNode`).
    SameNode,
}

/// A port of a [`Service`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty for the only port. EndpointSlices and `sectionName` refer to it.
    pub name: String,
    /// The number that clients call.
    pub port: u16,
    /// The port of the pods.
    pub target: TargetPort,
    /// What it speaks.
    pub protocol: Protocol,
}

/// `targetPort` of a [`ServicePort`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

impl Service {
    /// Whether the bytes of a port pass unread.
    pub fn is_opaque(&self, number: u16) -> bool {
        self.port(number).is_some_and(|port| port.protocol == Protocol::Opaque)
    }

    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}

/// Decodes a Service. Fields that the mesh has no use for are not its business and pass without a problem.
pub(crate) fn decode(object: &Object, report: &mut Report<'_>) -> Service {
    let root = Node::root(&object.value);
    let mut service = Service {
        namespace: object.namespace.as_str().into(),
        name: object.name.as_str().into(),
        cluster_ips: Vec::new(),
        is_headless: false,
        external_name: None,
        local_only: false,
        distribution: Distribution::Any,
        prefers_v6: false,
        ports: Vec::new(),
        selector: None,
        is_cut: false,
    };
    let declared = Declared::of(&root, report);
    let Ok(Some(spec)) = root.object("spec", report) else { return service };
    if matches!(spec.text("type", report), Ok(Some("ExternalName"))) {
        service.external_name = Some(spec.text("externalName", report).ok().flatten().unwrap_or_default().into());
    }
    service.local_only = matches!(spec.text("internalTrafficPolicy", report), Ok(Some("Local")));
    service.distribution = match spec.text("trafficDistribution", report) {
        Ok(Some("PreferClose" | "PreferSameZone")) => Distribution::SameZone,
        Ok(Some("PreferSameNode")) => Distribution::SameNode,
        // A newer preference is only that: every endpoint serves.
        _ => Distribution::Any,
    };
    session_affinity(&spec, report);
    let single = spec.text("clusterIP", report).ok().flatten();
    let several = spec.items("clusterIPs", report).unwrap_or_default();
    service.is_headless = single == Some("None");
    for text in single.into_iter().chain(several.iter().filter_map(|ip| ip.value.as_str())) {
        match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if service.cluster_ips.contains(&ip) => {}
            Ok(ip) => service.cluster_ips.push(ip),
            Err(_) if text.is_empty() || text == "None" => {}
            Err(_) => {
                let mark = report.mark();
                spec.invalid(
                    "clusterIP",
                    format!("{text:?} is not an IP address"),
                    "write an address, or None",
                    report,
                );
                report.effect(mark, "the Service is known by name only");
            }
        }
    }
    let families = spec.items("ipFamilies", report).unwrap_or_default();
    let family = families.first().and_then(|family| family.value.as_str());
    service.prefers_v6 =
        family.map_or(service.cluster_ips.first().is_some_and(IpAddr::is_ipv6), |family| family == "IPv6");
    decode_pods(&mut service, &spec, &declared, report);
    service
}

/// Which pods it leads to, and at which ports.
fn decode_pods(service: &mut Service, spec: &Node<'_>, declared: &Declared, report: &mut Report<'_>) {
    let selector = Selector::of_map(spec, "selector", report);
    service.is_cut = selector.is_err();
    service.selector = selector.unwrap_or_else(|Invalid| Some(Selector::default()));
    let ports = spec.items("ports", report);
    service.is_cut |= ports.as_ref().is_ok_and(|ports| ports.len() > MAX_PORTS) || ports.is_err();
    let ports = ports.unwrap_or_default();
    if ports.len() > MAX_PORTS {
        let mark = report.mark();
        let what = format!("the Service has {} ports; the first {MAX_PORTS} are followed", ports.len());
        let _ = spec.too_large("ports", what, "write several Services", report);
        report.effect(mark, "the others are known to nobody");
    }
    for node in ports.into_iter().take(MAX_PORTS) {
        match decode_port(&node, declared, report) {
            Ok(port) => service.ports.extend(port),
            Err(Invalid) => service.is_cut = true,
        }
    }
}

/// Tells of `sessionAffinity: ClientIP`, which kube-proxy keeps and a sidecar does not. The default is `None`.
fn session_affinity(spec: &Node<'_>, report: &mut Report<'_>) {
    if matches!(spec.text("sessionAffinity", report), Ok(Some("ClientIP"))) {
        let what = "ClientIP is not kept for clients in the mesh: their sidecars balance each request anew";
        let fix = "use `sessionPersistence` in a rule of a route (a cookie or a header), or write None";
        report.warning(&spec.field("sessionAffinity"), Reason::UnsupportedValue, what, fix);
    }
}

/// A port; `None` when it is not of TCP.
fn decode_port(node: &Node<'_>, declared: &Declared, report: &mut Report<'_>) -> Result<Option<ServicePort>, Invalid> {
    let mark = report.mark();
    let port = decode_number(node, report);
    report.effect(mark, "the port is left out");
    let Some(port) = port? else { return Ok(None) };
    let name = node.text("name", report)?.unwrap_or_default().to_owned();
    let target = match node.get("targetPort").and_then(|target| target.value.as_str()) {
        Some(name) => TargetPort::Name(name.to_owned()),
        None => TargetPort::Number(node.port("targetPort", report)?.unwrap_or(port)),
    };
    let said = node.text("appProtocol", report)?.map_or(Protocol::Detect, protocol_of);
    let protocol = declared.get(port).unwrap_or(said);
    Ok(Some(ServicePort { name, port, target, protocol }))
}

/// The port's number; `None` when it is not of TCP.
fn decode_number(node: &Node<'_>, report: &mut Report<'_>) -> Result<Option<u16>, Invalid> {
    // UDP and SCTP pass beside the mesh.
    if !matches!(node.one_of("protocol", &PROTOCOLS, report)?, None | Some("TCP")) {
        return Ok(None);
    }
    match node.port("port", report)? {
        None => Err(node.invalid("port", "`port` is required".to_owned(), "write it", report)),
        some => Ok(some),
    }
}

/// What an `appProtocol` says (KEP-3726, and the common names of IANA); the port's name says nothing.
fn protocol_of(text: &str) -> Protocol {
    match text.to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" | "grpc" | "http2" => Protocol::Http2,
        "http" => Protocol::Http1,
        "tcp" => Protocol::Opaque,
        _ => Protocol::Detect,
    }
}

/// The ranges of an annotation that lists ports.
pub(crate) fn port_ranges(root: &Node<'_>, annotation: &str, report: &mut Report<'_>) -> Vec<(u16, u16)> {
    let annotations = root.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let Some(annotations) = annotations else { return Vec::new() };
    let Ok(Some(text)) = annotations.text(annotation, report) else { return Vec::new() };
    let mut ranges = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match port_range(part) {
            Some(range) => ranges.push(range),
            None => {
                let what = format!("{part:?} is neither a port nor a range; it is left out");
                let fix = "write ports and ranges, as in 3306,5000-5010";
                annotations.unsupported(annotation, what, fix, report);
            }
        }
    }
    if ranges.len() > MAX_RANGES {
        let what = format!("{} ranges are written; the first {MAX_RANGES} count", ranges.len());
        let _ = annotations.too_large(annotation, what, "write fewer and wider ranges", report);
        ranges.truncate(MAX_RANGES);
    }
    ranges
}

/// `80` or `8000-8100`.
pub(crate) fn port_range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (0 < low && low <= high).then_some((low, high))
}

/// Whether a port is in one of the ranges.
pub(crate) fn includes(ranges: &[(u16, u16)], port: u16) -> bool {
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&port))
}
