//! What a name or an address stands for, and where the endpoints of a Service are.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use mesh_policy::{Endpoint, ServiceRef, Target};

use crate::{
    endpoint_slice::SliceEndpoint,
    snapshot::{Key, Snapshot},
};

/// Domain of the cluster's DNS names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

impl Snapshot {
    /// What `host:port` stands for to a client in a namespace; `None` when it is nothing known here.
    ///
    /// Names are `web` (in the client's namespace), `web.ns`, `web.ns.svc` and `web.ns.svc.cluster.local`, without regard
    /// to case, a trailing dot allowed. Addresses are those of Services, then those of EndpointSlices with the port, then
    /// those of pods if no other pod has the same one.
    pub fn resolve(&self, target: &str, client_namespace: &str) -> Option<Target> {
        if let Ok(address) = target.parse::<SocketAddr>() {
            return self.resolve_address(address);
        }
        let (host, port) = target.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let host = host.strip_suffix(CLUSTER_DOMAIN).and_then(|h| h.strip_suffix('.')).unwrap_or(&host);
        let labels: Vec<&str> = host.split('.').collect();
        let key = match labels.as_slice() {
            [name] => Key::new(client_namespace, *name),
            [name, namespace] | [name, namespace, "svc"] => Key::new(*namespace, *name),
            _ => return None,
        };
        self.service_target(&key, port)
    }

    fn resolve_address(&self, address: SocketAddr) -> Option<Target> {
        let by_ip = self.services.iter().find(|(_, service)| service.cluster_ips.contains(&address.ip()));
        if let Some((key, _)) = by_ip {
            return self.service_target(key, address.port());
        }
        let in_slice = self.endpoint_slices.iter().find_map(|(key, slice)| Some((key, slice.at(address)?)));
        if let Some((key, endpoint)) = in_slice {
            return Some(Target::Endpoint(self.endpoint(&key.namespace, endpoint, address)));
        }
        let mut pods = self.pods.values().filter(|pod| pod.ips.contains(&address.ip()));
        let (pod, None) = (pods.next()?, pods.next()) else { return None };
        Some(Target::Endpoint(Endpoint {
            address,
            identity: pod.identity.clone(),
            zone: self.zone_of(address.ip()),
            workload: pod.workload().into(),
        }))
    }

    fn service_target(&self, key: &Key, port: u16) -> Option<Target> {
        let service = self.services.get(key).filter(|service| !service.external_name)?;
        service.port(port)?;
        Some(Target::Service(ServiceRef { namespace: key.namespace.clone(), name: key.name.clone(), port }))
    }

    /// The endpoints of a Service's port, sorted by address, each once.
    ///
    /// Those that are ready; if there are none, those that still serve while they terminate (KEP-1669, as kube-proxy
    /// does). Each has the identity of its pod if that is meshed.
    pub fn endpoints(&self, service: &ServiceRef) -> Vec<Endpoint> {
        let key = Key { namespace: service.namespace.clone(), name: service.name.clone() };
        let Some(port) = self.services.get(&key).and_then(|found| found.port(service.port)) else { return Vec::new() };
        let (mut ready, mut draining) = (BTreeMap::new(), BTreeMap::new());
        let first = Key::new(service.namespace.clone(), "");
        let in_namespace = self.endpoint_slices.range(first..).take_while(|(k, _)| k.namespace == service.namespace);
        for (_, slice) in in_namespace.filter(|(_, slice)| slice.service.as_ref() == Some(&service.name)) {
            for (_, number) in slice.ports.iter().filter(|(name, _)| *name == port.name) {
                for endpoint in &slice.endpoints {
                    let address = SocketAddr::new(endpoint.address, *number);
                    if endpoint.ready {
                        ready.insert(address, endpoint);
                    } else if endpoint.serving && endpoint.terminating {
                        draining.insert(address, endpoint);
                    }
                }
            }
        }
        let chosen = if ready.is_empty() { draining } else { ready };
        chosen.into_iter().map(|(address, endpoint)| self.endpoint(&service.namespace, endpoint, address)).collect()
    }

    fn endpoint(&self, namespace: &str, endpoint: &SliceEndpoint, address: SocketAddr) -> Endpoint {
        let pod = endpoint.pod.as_ref().map(|name| Key::new(namespace, name.clone()));
        let workload = pod.as_ref().map_or(String::new(), |key| format!("{}/{}", key.namespace, key.name));
        let identity = pod.and_then(|key| self.pods.get(&key)?.identity.clone());
        Endpoint { address, identity, zone: endpoint.zone.clone(), workload: workload.into() }
    }

    fn zone_of(&self, ip: IpAddr) -> Option<std::sync::Arc<str>> {
        self.endpoint_slices.values().flat_map(|slice| &slice.endpoints).find(|e| e.address == ip)?.zone.clone()
    }
}
