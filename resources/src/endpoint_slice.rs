//! EndpointSlices: where the endpoints of Services are.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_policy::name::{is_label, is_subdomain};

use crate::{
    object::Object,
    problem::{Reason, Report},
    service::PROTOCOLS,
    walker::{Invalid, Node},
};

/// Label that names the Service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice, as far as the mesh cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service it belongs to, in its own namespace.
    pub service: Option<Arc<str>>,
    /// Its TCP ports by the name of the Service's port.
    pub ports: Vec<(String, u16)>,
    /// Its endpoints, sorted by address; those of one address in the order of the slice.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Where it is. Kubernetes treats all addresses as one endpoint, so only the first is dialled.
    pub address: IpAddr,
    /// `conditions.ready`; unknown counts as ready.
    pub ready: bool,
    /// `conditions.serving`; unknown counts as `ready` does.
    pub serving: bool,
    /// `conditions.terminating`; unknown counts as false.
    pub terminating: bool,
    /// Name of its Pod, in the slice's namespace.
    pub pod: Option<Arc<str>>,
    /// Whether `targetRef` names something else than a Pod beside the slice can be: one of another namespace, or none at
    /// all. Nobody is meant by that.
    pub is_unclear: bool,
    /// Topology zone.
    pub zone: Option<Arc<str>>,
    /// Name of its node.
    pub node: Option<Arc<str>>,
    /// Its own name below that of the Service, as the pods of a StatefulSet have.
    pub hostname: Option<Arc<str>>,
    /// Zones whose clients should prefer it (`hints.forZones`).
    pub for_zones: Vec<Arc<str>>,
    /// Nodes whose clients should prefer it (`hints.forNodes`).
    pub for_nodes: Vec<Arc<str>>,
}

impl EndpointSlice {
    /// The endpoints at an address and port: one, unless several pods share the address.
    pub(crate) fn at(&self, address: SocketAddr) -> impl Iterator<Item = &SliceEndpoint> {
        let has_port = self.ports.iter().any(|(_, port)| *port == address.port());
        self.at_ip(address.ip()).iter().filter(move |_| has_port)
    }

    /// The endpoints at an address, in the order of the slice.
    pub(crate) fn at_ip(&self, ip: IpAddr) -> &[SliceEndpoint] {
        let first = self.endpoints.partition_point(|endpoint| endpoint.address < ip);
        let count = self.endpoints[first..].partition_point(|endpoint| endpoint.address == ip);
        &self.endpoints[first..first + count]
    }
}

/// Decodes a slice; an endpoint that cannot be read is reported and left out.
pub(crate) fn decode(object: &Object, report: &mut Report<'_>) -> EndpointSlice {
    let root = Node::root(&object.value);
    let service = root.label(SERVICE_LABEL, report).ok().flatten();
    if service.is_none() {
        let fix = "set the label kubernetes.io/service-name";
        report.warning("metadata.labels", Reason::UnsupportedValue, "the slice belongs to no Service", fix);
    }
    let mut slice = EndpointSlice { service: service.map(Into::into), ports: Vec::new(), endpoints: Vec::new() };
    for node in root.items("ports", report).unwrap_or_default() {
        if let (Ok(None | Some("TCP")), Ok(name), Ok(Some(port))) =
            (node.one_of("protocol", &PROTOCOLS, report), node.text("name", report), node.port("port", report))
        {
            slice.ports.push((name.unwrap_or_default().to_owned(), port));
        }
    }
    match root.one_of("addressType", &["IPv4", "IPv6", "FQDN"], report) {
        Ok(Some("FQDN")) => {
            let what = "addresses that are names are not supported; the slice has no endpoints";
            report.error("addressType", Reason::UnsupportedValue, what, "use IPv4 or IPv6");
            return slice;
        }
        Ok(_) => {}
        Err(Invalid) => return slice,
    }
    for node in root.items("endpoints", report).unwrap_or_default() {
        let mark = report.mark();
        let endpoint = decode_endpoint(&node, &object.namespace, report);
        if endpoint.is_err() {
            report.effect(mark, "the endpoint is left out");
        }
        slice.endpoints.extend(endpoint);
    }
    // It is asked by address. A stable sort, for of one address the first counts.
    slice.endpoints.sort_by_key(|endpoint| endpoint.address);
    slice
}

fn decode_endpoint(node: &Node<'_>, namespace: &str, report: &mut Report<'_>) -> Result<SliceEndpoint, Invalid> {
    node.is_object(report)?;
    let addresses = node.items("addresses", report)?;
    let Some(address) = addresses.first().and_then(|a| a.value.as_str()).and_then(|a| a.parse::<IpAddr>().ok()) else {
        let what = "the endpoint has no IP address".to_owned();
        return Err(node.invalid("addresses", what, "write at least one IP address", report));
    };
    let mut condition = |name: &str| match node.object("conditions", report)? {
        None => Ok(None),
        Some(conditions) => conditions.flag(name, report),
    };
    let ready = condition("ready")?.unwrap_or(true);
    let serving = condition("serving")?.unwrap_or(ready);
    let terminating = condition("terminating")?.unwrap_or(false);
    let (mut pod, mut is_unclear) = (None, false);
    if let Some(target) = node.object("targetRef", report)? {
        match target.text("kind", report)?.filter(|kind| !kind.is_empty()) {
            Some("Pod") | None => {
                let of = target.text("namespace", report)?.filter(|of| !of.is_empty());
                pod = target.name("name", is_subdomain, report)?.map(Into::into);
                is_unclear = pod.is_none() || of.is_some_and(|of| of != namespace);
                pod = pod.filter(|_| !is_unclear);
            }
            Some(_) => {}
        }
    }
    let zone = match node.text("zone", report)? {
        Some(zone) if zone.chars().any(char::is_control) => {
            return Err(node.invalid("zone", "zone has control characters".to_owned(), "remove them", report));
        }
        zone => zone.map(Into::into),
    };
    let hints = node.object("hints", report)?;
    Ok(SliceEndpoint {
        address: address.to_canonical(),
        ready,
        serving,
        terminating,
        pod,
        is_unclear,
        zone,
        node: node.text("nodeName", report)?.map(Into::into),
        hostname: node.name("hostname", is_label, report)?.map(Into::into),
        for_zones: decode_hints(hints.as_ref(), "forZones", report)?,
        for_nodes: decode_hints(hints.as_ref(), "forNodes", report)?,
    })
}

fn decode_hints(hints: Option<&Node<'_>>, list: &str, report: &mut Report<'_>) -> Result<Vec<Arc<str>>, Invalid> {
    let Some(hints) = hints else { return Ok(Vec::new()) };
    let items = hints.items(list, report)?;
    items.iter().map(|item| item.required_text("name", report).map(Into::into)).collect()
}
