//! Who has an address: the one place that is asked, whatever EndpointSlices say.
//!
//! The pods that have an address own it, and their identity is what must be proved there. A slice's `targetRef` only
//! chooses among several owners, as in a folder of manifests, where all pods are on 127.0.0.1. That nobody is known to
//! have an address is a third answer beside meshed and not meshed ([`Doubt`]): a slice or a pod that one watch has told
//! of and another has not yet, or a claim that is wrong. Such an endpoint is not given out, for a plain connection may
//! reach a meshed pod. Only an address outside of the cluster's networks is taken for a server outside of the mesh.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_policy::{Endpoint, Target};

use crate::{
    endpoint_slice::SliceEndpoint,
    object::Key,
    pod::Pod,
    problem::{Problem, Reason, Report},
    snapshot::Snapshot,
};

/// Who answers at an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'s> {
    /// A pod: by its proxy, if it is meshed.
    Pod(&'s Pod),
    /// Nobody of this cluster.
    Outside,
}

/// Why it is not known who answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// `targetRef` names no Pod beside the slice.
    Unclear,
    /// The Pod that it names is not known, or is over.
    NoPod(Key),
    /// The Pod that it names has not this address; perhaps another one has it.
    OtherPod { named: Key, owner: Option<Key> },
    /// Several Pods have the address, and nothing says which is meant.
    Several,
    /// No Pod is known to have it, and it is one of the cluster's.
    Nobody,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |key: &Key| format!("{}/{}", key.namespace, key.name);
        match self {
            Self::Unclear => f.write_str("its targetRef names no Pod of the slice's namespace"),
            Self::NoPod(pod) => write!(f, "its targetRef names Pod {}, which is not there", name(pod)),
            Self::OtherPod { named, owner: Some(owner) } => {
                write!(f, "its targetRef names Pod {}, but Pod {} has the address", name(named), name(owner))
            }
            Self::OtherPod { named, owner: None } => {
                write!(f, "its targetRef names Pod {}, which has not this address", name(named))
            }
            Self::Several => f.write_str("several Pods have the address, and no targetRef says which is meant"),
            Self::Nobody => f.write_str("the address is one of the cluster's, and no Pod is known to have it"),
        }
    }
}

/// Whether an address is of a private network (RFC 1918, RFC 6598, RFC 4193), link-local (RFC 3927, RFC 4291) or loopback:
/// who has it may be another one soon, and is to be told. Networks of pods and Services are among them, but where a
/// cluster has public addresses.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || is_shared || ip.is_link_local() || ip.is_loopback()
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

impl Snapshot {
    /// Who answers at an endpoint of a slice in a namespace.
    pub(crate) fn owner(&self, namespace: &Arc<str>, endpoint: &SliceEndpoint, port: u16) -> Result<Owner<'_>, Doubt> {
        let ip = endpoint.address;
        if endpoint.is_unclear {
            return Err(Doubt::Unclear);
        }
        let owners = self.links.pods_by_ip.linked(&ip);
        if let Some(name) = &endpoint.pod {
            let named = Key { namespace: namespace.clone(), name: name.clone() };
            let Some(pod) = self.pods.get(&named) else { return Err(Doubt::NoPod(named)) };
            // What shares its node's address is known by that, unless a pod has it for itself.
            let is_its_node = owners.is_empty() && pod.node_ips.contains(&ip);
            // Manifests as they are written have no status, and so no address.
            let is_unsaid = self.is_shared(ip) && pod.ips.is_empty() && !pod.is_over;
            if !is_its_node && !is_unsaid && !owners.contains(&named) {
                return Err(Doubt::OtherPod { named, owner: owners.first().cloned() });
            }
            // Addresses are given again: the Pod may be an old one, and a plain connection would reach the new one.
            let has_proxy = |key: &Key| self.pods.get(key).is_some_and(|pod| pod.identity_at(port).is_some());
            let is_plain = pod.identity_at(port).is_none();
            if is_plain && !self.is_shared(ip) && owners.iter().any(has_proxy) {
                return Err(Doubt::Several);
            }
            return Ok(Owner::Pod(pod));
        }
        if self.is_shared(ip) {
            return Ok(Owner::Outside);
        }
        match self.one_owner(owners, port)? {
            Some(pod) => Ok(Owner::Pod(pod)),
            None if self.is_of_cluster(ip) => Err(Doubt::Nobody),
            None => Ok(Owner::Outside),
        }
    }

    /// Whether an address is of every process of the machine, not only of those that Pods in a folder of manifests stand for.
    pub(crate) fn is_shared(&self, ip: IpAddr) -> bool {
        self.options.meshed_by_label && ip.is_loopback()
    }

    /// The pod that answers at a port, of those that have its address. Where they all prove the same, it does not matter
    /// which it is.
    fn one_owner(&self, owners: &[Key], port: u16) -> Result<Option<&Pod>, Doubt> {
        let mut pods = owners.iter().filter_map(|key| self.pods.get(key));
        let Some(first) = pods.next() else { return Ok(None) };
        let is_same = |pod: &Pod| pod.identity_at(port) == first.identity_at(port);
        if pods.all(is_same) { Ok(Some(first)) } else { Err(Doubt::Several) }
    }

    /// Whether an address is one that pods or Services of this cluster have: nobody outside of it has such a one.
    fn is_of_cluster(&self, ip: IpAddr) -> bool {
        !self.links.services_by_ip.linked(&ip).is_empty()
            || self.links.is_of_pods(ip)
            || self.options.cluster_networks.iter().any(|network| network.contains(&ip))
    }

    /// What an address stands for that is no Service's, to a client in a namespace. Of several pods that have it, the
    /// slices that list the port say who serves it.
    pub(crate) fn resolve_direct(&self, address: SocketAddr, client_namespace: &str) -> Target {
        let slices = self.links.slices_by_ip.linked(&address.ip()).iter();
        let listed = slices.filter_map(|key| Some((key, self.endpoint_slices.get(key)?)));
        let listed = listed.flat_map(|(key, slice)| slice.at(address).map(move |endpoint| (key, endpoint)));
        // What nobody of the cluster has, each namespace describes for itself.
        let counts =
            |(key, endpoint): &(&Key, &SliceEndpoint)| endpoint.pod.is_some() || &*key.namespace == client_namespace;
        let mut known = listed.filter(counts).filter_map(|(key, endpoint)| {
            let owner = self.owner(&key.namespace, endpoint, address.port()).ok()?;
            Some(self.endpoint_of(owner, endpoint, address))
        });
        if let Some(first) = known.next() {
            let is_agreed = known.all(|other| other.identity == first.identity);
            return if is_agreed { Target::Endpoint(first) } else { Target::Unknown(address) };
        }
        let owners = self.links.pods_by_ip.linked(&address.ip());
        match self.one_owner(owners, address.port()) {
            Ok(Some(pod)) => Target::Endpoint(self.pod_endpoint(pod, address)),
            Ok(None) if !self.is_of_cluster(address.ip()) => Target::Outside(address),
            Ok(None) | Err(_) => Target::Unknown(address),
        }
    }

    /// An endpoint of a slice whose owner is known.
    pub(crate) fn endpoint_of(&self, owner: Owner<'_>, endpoint: &SliceEndpoint, address: SocketAddr) -> Endpoint {
        let (identity, workload, controlled_by) = match owner {
            Owner::Pod(pod) => (pod.identity_at(address.port()).cloned(), pod.workload(), pod.controlled_by.clone()),
            Owner::Outside => (None, String::new(), "".into()),
        };
        let zone = endpoint.zone.clone().or_else(|| self.nodes.get(endpoint.node.as_ref()?)?.zone.clone());
        Endpoint { address, identity, zone, workload: workload.into(), controlled_by }
    }

    fn pod_endpoint(&self, pod: &Pod, address: SocketAddr) -> Endpoint {
        Endpoint {
            address,
            identity: pod.identity_at(address.port()).cloned(),
            zone: pod.node.as_ref().and_then(|node| self.nodes.get(node)?.zone.clone()),
            workload: pod.workload().into(),
            controlled_by: pod.controlled_by.clone(),
        }
    }

    /// What is wrong with the endpoints of a slice: those that are not given out because of who has their address.
    pub(crate) fn doubts_of_slice(&self, key: &Key) -> Vec<Problem> {
        let Some(slice) = self.endpoint_slices.get(key) else { return Vec::new() };
        let mut report = Report::about(key.id("EndpointSlice"));
        let port = slice.ports.first().map_or(0, |(_, port)| *port);
        for endpoint in &slice.endpoints {
            let Err(doubt) = self.owner(&key.namespace, endpoint, port) else { continue };
            let (mark, what) = (report.mark(), format!("{}: {doubt}", endpoint.address));
            let fix = "correct targetRef, or create the Pod with this address in its status";
            match doubt {
                // It may only be late.
                Doubt::NoPod(_) => report.warning("endpoints", Reason::BackendNotFound, what, fix),
                _ => report.error("endpoints", Reason::UnsupportedValue, what, fix),
            }
            report.effect(mark, "the endpoint is left out, for who answers there is not known");
        }
        report.finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn private_addresses_of_both_families() {
        for (ip, expected) in [
            ("10.1.2.3", true),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("192.168.255.1", true),
            ("100.64.0.1", true),
            ("100.127.255.255", true),
            ("100.128.0.1", false),
            ("169.254.20.10", true),
            ("127.0.0.53", true),
            ("8.8.8.8", false),
            ("fd00::1", true),
            ("fe80::1", true),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
