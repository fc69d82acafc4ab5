//! What a server's proxy is told of its pod.
//!
//! A port is what the Services say that lead to it, and what is attached to them. Only routes of the Service's own
//! namespace count here: those of a client elsewhere are about that client, and must not change what others may send.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mesh_policy::{AccessLog, PortPolicies, PortPolicy, Protocol, ServiceRef, WorkloadPolicy};

use crate::{
    endpoint_slice::EndpointSlice,
    object::Key,
    pod::Pod,
    protocol::agreed,
    service::{TargetPort, includes},
    snapshot::Snapshot,
};

/// A port of a Service that leads to a port of a pod.
#[derive(Clone, Copy, Debug)]
struct Leading {
    /// Its place among all of them.
    place: usize,
    protocol: Protocol,
    has_request_routes: bool,
}

/// By port of the pod, in order.
type ByPort = BTreeMap<u16, Vec<Leading>>;

impl Snapshot {
    /// The policy of a pod; `None` when the pod is unknown. `listed` has a port of the application and the one that
    /// EndpointSlices list for it, where a listening port of the proxy stands for the application's: what is known of the one
    /// is known of the other.
    ///
    /// The protocol of a port is that of the Services that lead to it, if they agree; the pod's own annotations go first.
    pub fn compile_workload(&self, workload: &str, listed: &[(u16, u16)]) -> Option<WorkloadPolicy> {
        let pod = self.pod(workload)?;
        let leading = self.leading_to(pod);
        let pairs: BTreeMap<u16, (u16, u16)> =
            listed.iter().flat_map(|pair| [(pair.0, *pair), (pair.1, *pair)]).collect();
        let policy = |port: u16| match pairs.get(&port) {
            Some((port, listed)) => pod.port_policy(&[*port, *listed], &leading),
            None => pod.port_policy(&[port], &leading),
        };
        // Where something else may be to be said than of the port before.
        let singles = leading.keys().chain(pairs.keys()).map(|port| (*port, *port));
        let declared = pod.declared.ranges().chain(pod.strict_path_ports.iter().copied());
        let mut starts = BTreeSet::from([0, u32::from(u16::MAX) + 1]);
        for (first, last) in singles.chain(declared) {
            starts.extend([u32::from(first), u32::from(last) + 1]);
        }
        let ranges = starts.iter().zip(starts.iter().skip(1)).filter_map(|(start, next)| {
            let (first, last) = (u16::try_from(*start).ok()?, u16::try_from(next - 1).ok()?);
            Some((first, last, policy(first)))
        });
        let ports = PortPolicies::new(ranges).unwrap_or_default();
        // What the pod's own annotations say, else those of its namespace.
        let of_namespace = || self.namespaces.get(&pod.namespace)?.access_log.as_ref();
        let access_log = pod.access_log.as_ref().or_else(of_namespace);
        let access_log = access_log.map(|log| AccessLog::clone(log)).unwrap_or_default();
        Some(WorkloadPolicy {
            ports,
            authorization: self.authorization_of(pod),
            access_log,
            controlled_by: pod.controlled_by.clone(),
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

    /// The ports of Services that lead to each port of a pod. Each slice and each Service is looked at once: there may be
    /// thousands of ports of each.
    fn leading_to(&self, pod: &Pod) -> ByPort {
        let key = Key { namespace: pod.namespace.clone(), name: pod.name.clone() };
        let slices = self.slices_of(pod, &key);
        let mut listed: HashMap<(&str, &str), BTreeSet<u16>> = HashMap::new();
        let mut names = BTreeSet::new();
        for slice in &slices {
            let Some(service) = &slice.service else { continue };
            names.insert(service.clone());
            for (name, number) in &slice.ports {
                listed.entry((service, name.as_str())).or_default().insert(*number);
            }
        }
        let mut by_port = ByPort::new();
        let mut place = 0;
        for name in names {
            let Some(service) = self.services.get(&Key { namespace: pod.namespace.clone(), name }) else { continue };
            for port in &service.ports {
                let target = match &port.target {
                    TargetPort::Number(number) => Some(*number),
                    TargetPort::Name(name) => pod.ports.get(name).copied(),
                };
                let mut numbers = listed.get(&(&*service.name, port.name.as_str())).cloned().unwrap_or_default();
                numbers.extend(target);
                if numbers.is_empty() {
                    continue;
                }
                let called = ServiceRef::new(service.namespace.clone(), service.name.clone(), port.port);
                let has_request_routes = self.has_request_routes(&called);
                place += 1;
                let leading = Leading { place, protocol: port.protocol, has_request_routes };
                for number in numbers {
                    by_port.entry(number).or_default().push(leading);
                }
            }
        }
        by_port
    }
}

impl Pod {
    /// What is known of a port that goes by one number or by two.
    fn port_policy(&self, numbers: &[u16], by_port: &ByPort) -> PortPolicy {
        let mut leading: Vec<Leading> =
            numbers.iter().flat_map(|number| by_port.get(number).into_iter().flatten().copied()).collect();
        if numbers.len() > 1 {
            leading.sort_by_key(|leading| leading.place);
            leading.dedup_by_key(|leading| leading.place);
        }
        let declared = numbers.iter().find_map(|number| self.declared.get(*number));
        PortPolicy {
            protocol: declared.unwrap_or_else(|| agreed(leading.iter().map(|leading| leading.protocol))),
            has_request_routes: leading.iter().any(|leading| leading.has_request_routes),
            strict_paths: numbers.iter().any(|number| includes(&self.strict_path_ports, *number)),
        }
    }
}
