//! Policies of ports of pods.
//!
//! A port is what the Services say that lead to it, and what is attached to them. Only routes of the Service's own
//! namespace count here: those of a client elsewhere are about that client, and must not change what others may send.

use std::collections::{BTreeSet, HashSet};

use mesh_policy::{Access, InboundPolicy, Protocol, ServiceRef};

use crate::{
    endpoint_slice::EndpointSlice,
    object::Key,
    pod::Pod,
    protocol::agreed,
    service::{Service, TargetPort},
    snapshot::Snapshot,
};

impl Snapshot {
    /// The policy of an application's port of a pod; `None` when the pod is unknown. `listed` is the port that EndpointSlices
    /// list for it: the same, but where a listening port of the proxy stands for the application's.
    ///
    /// The protocol is that of the Services that lead to the port, if they agree; the pod's own annotations go first.
    pub fn compile_inbound(&self, workload: &str, port: u16, listed: u16) -> Option<InboundPolicy> {
        let pod = self.pod(workload)?;
        let leading = self.leading_to(pod, port, listed);
        let declared = pod.declared.get(port).or_else(|| pod.declared.get(listed));
        Some(InboundPolicy {
            protocol: declared.unwrap_or_else(|| agreed(leading.iter().map(|(_, protocol)| *protocol))),
            access: Access::All,
            access_name: None,
            requires_http: false,
            has_request_routes: leading.iter().any(|(service, _)| self.has_request_routes(service)),
        })
    }

    /// The slices of a pod's own namespace that lead to it: those that name it, and those that list its address without
    /// saying whose it is. Each once.
    fn slices_of(&self, pod: &Pod, key: &Key) -> Vec<&EndpointSlice> {
        let naming = self.links.slices_by_pod.linked(key).iter();
        let listing = pod.ips.iter().filter(|ip| !self.is_shared(**ip)).flat_map(|ip| {
            let slices = self.links.slices_by_ip.linked(ip).iter().filter(|slice| slice.namespace == key.namespace);
            slices.filter(|slice| {
                let mut here = self.endpoint_slices.get(slice).into_iter().flat_map(|slice| slice.at_ip(*ip));
                here.any(|endpoint| endpoint.pod.is_none() && !endpoint.is_unclear)
            })
        });
        let all: BTreeSet<&Key> = naming.chain(listing).collect();
        all.into_iter().filter_map(|slice| self.endpoint_slices.get(slice)).collect()
    }

    /// The ports of Services that lead to a port of a pod, and what each says that it speaks.
    fn leading_to(&self, pod: &Pod, port: u16, listed_port: u16) -> Vec<(ServiceRef, Protocol)> {
        let key = Key { namespace: pod.namespace.clone(), name: pod.name.clone() };
        let slices = self.slices_of(pod, &key);
        let names: BTreeSet<_> = slices.iter().filter_map(|slice| slice.service.clone()).collect();
        let service = |name| self.services.get(&Key { namespace: pod.namespace.clone(), name });
        let is_here = |number: &u16| *number == port || *number == listed_port;
        // Once: there may be many slices, and many ports of each.
        let mut listed = HashSet::new();
        for slice in &slices {
            let here = slice.ports.iter().filter(|(_, number)| is_here(number));
            listed.extend(here.map(|(name, _)| (slice.service.as_deref(), name.as_str())));
        }
        let is_listed = |service: &Service, name: &str| listed.contains(&(Some(&*service.name), name));
        let mut leading = Vec::new();
        for service in names.into_iter().filter_map(service) {
            for found in &service.ports {
                let is_target = match &found.target {
                    TargetPort::Number(number) => is_here(number),
                    TargetPort::Name(name) => pod.ports.get(name).is_some_and(is_here),
                };
                if is_target || is_listed(service, &found.name) {
                    let (namespace, name) = (service.namespace.clone(), service.name.clone());
                    leading.push((ServiceRef { namespace, name, port: found.port }, found.protocol));
                }
            }
        }
        leading
    }
}
