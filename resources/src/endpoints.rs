//! The endpoints of a Service's port for a caller: what kube-proxy would choose on the caller's node.
//!
//! Those that are ready; if there are none, those that still serve while they terminate (KEP-1669). Among the ready ones
//! `internalTrafficPolicy`, the hints of EndpointSlices and `trafficDistribution` choose by the caller's place.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    sync::Arc,
};

use mesh_policy::{Endpoint, ServiceRef, bounds::MAX_ENDPOINTS};

use crate::{
    endpoint_slice::SliceEndpoint,
    object::Key,
    owner::Owner,
    problem::{Problem, Reason, Report},
    service::{Distribution, Service, ServicePort},
    snapshot::Snapshot,
};

/// Where a caller runs, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Its node.
    pub node: Option<Arc<str>>,
    /// The zone of its node.
    pub zone: Option<Arc<str>>,
}

type Chosen<'s> = Vec<(SocketAddr, &'s SliceEndpoint)>;

impl Snapshot {
    /// Where a pod runs.
    pub fn locality(&self, workload: &str) -> Locality {
        let node = self.pod(workload).and_then(|pod| pod.node.clone());
        let zone = node.as_ref().and_then(|node| self.nodes.get(node)?.zone.clone());
        Locality { node, zone }
    }

    /// Whether the endpoints of a Service depend on where the caller runs.
    pub fn depends_on_locality(&self, service: &ServiceRef) -> bool {
        let Some((key, found, _)) = self.service_port(service) else { return false };
        let has_hint = |slice: &Key| {
            let endpoints = self.endpoint_slices.get(slice).into_iter().flat_map(|slice| &slice.endpoints);
            endpoints.into_iter().any(|e| !e.for_zones.is_empty() || !e.for_nodes.is_empty())
        };
        found.local_only
            || found.distribution != Distribution::Any
            || self.links.slices_by_service.linked(&key).iter().any(has_hint)
    }

    /// The endpoints of a Service's port for a caller whose place is not known.
    pub fn endpoints(&self, service: &ServiceRef) -> Vec<Endpoint> {
        self.endpoints_for(service, &Locality::default())
    }

    /// The endpoints of a Service's port for a caller, sorted by address, each once. Each has the identity of the pod that
    /// has its address if that is meshed; those of which that is not known are left out.
    pub fn endpoints_for(&self, service: &ServiceRef, caller: &Locality) -> Vec<Endpoint> {
        let Some((key, found, port)) = self.service_port(service) else { return Vec::new() };
        let all = self.candidates(&key, port);
        let of = |is_wanted: fn(&SliceEndpoint) -> bool| -> Chosen<'_> {
            let wanted = all.iter().filter(|(_, (endpoint, _))| is_wanted(endpoint));
            one_family(found, wanted.map(|(address, (endpoint, _))| (*address, *endpoint)).collect())
        };
        let (ready, draining) = (of(|e| e.ready), of(|e| !e.ready && e.serving && e.terminating));
        let mut chosen = match caller.node.as_ref().filter(|_| found.local_only) {
            Some(node) => {
                let is_here = |endpoint: &SliceEndpoint| endpoint.node.as_ref() == Some(node);
                let ready = only(&ready, is_here);
                if ready.is_empty() { only(&draining, is_here) } else { ready }
            }
            // Whoever drains is chosen for want of others, wherever it is.
            None if ready.is_empty() => draining,
            None => near(found.distribution, ready, caller),
        };
        // They are in order: whoever asks leaves out the same ones.
        chosen.truncate(MAX_ENDPOINTS);
        let known = chosen.into_iter().filter_map(|(address, endpoint)| {
            let (_, owner) = all.get(&address)?;
            Some(self.endpoint_of(*owner, endpoint, address))
        });
        known.collect()
    }

    /// What is wrong with a Service: that it has more endpoints than are given out.
    pub(crate) fn doubts_of_service(&self, key: &Key) -> Vec<Problem> {
        let slices = self.links.slices_by_service.linked(key).iter().filter_map(|key| self.endpoint_slices.get(key));
        let count: usize = slices.map(|slice| slice.endpoints.len()).sum();
        if count <= MAX_ENDPOINTS || self.services.get(key).is_none() {
            return Vec::new();
        }
        let mut report = Report::about(key.id("Service"));
        let what = format!("its slices list {count} endpoints; of one port a caller gets {MAX_ENDPOINTS}, by address");
        report.error("spec.selector", Reason::TooLarge, what, "divide its pods among several Services");
        report.effect(0, "the others get no requests");
        report.finish()
    }

    /// Whether there is such a port of a Service of this cluster.
    pub fn has_port(&self, service: &ServiceRef) -> bool {
        self.service_port(service).is_some()
    }

    /// Of this cluster: what others have is not known here.
    fn service_port(&self, service: &ServiceRef) -> Option<(Key, &Service, &ServicePort)> {
        if service.cluster.is_some() {
            return None;
        }
        let key = Key::of_service(service);
        let found = self.services.get(&key)?;
        let port = found.port(service.port)?;
        Some((key, found, port))
    }

    /// Every endpoint of a Service's port whose owner is known, with that. One that two slices list, as they do while it moves
    /// from one to the other, is ready if either says so.
    fn candidates(&self, service: &Key, port: &ServicePort) -> BTreeMap<SocketAddr, (&SliceEndpoint, Owner<'_>)> {
        let mut all = BTreeMap::new();
        let slices = self.links.slices_by_service.linked(service);
        for slice in slices.iter().filter_map(|key| self.endpoint_slices.get(key)) {
            for (_, number) in slice.ports.iter().filter(|(name, _)| *name == port.name) {
                for endpoint in &slice.endpoints {
                    let Ok(owner) = self.owner(&service.namespace, endpoint, *number) else { continue };
                    match all.entry(SocketAddr::new(endpoint.address, *number)) {
                        Entry::Vacant(free) => drop(free.insert((endpoint, owner))),
                        Entry::Occupied(mut taken) if !taken.get().0.ready && endpoint.ready => {
                            taken.insert((endpoint, owner));
                        }
                        Entry::Occupied(_) => {}
                    }
                }
            }
        }
        all
    }
}

fn only<'s>(list: &Chosen<'s>, is_wanted: impl Fn(&SliceEndpoint) -> bool) -> Chosen<'s> {
    list.iter().filter(|(_, endpoint)| is_wanted(endpoint)).copied().collect()
}

/// Endpoints of one family, where pods have addresses of both: each pod counts once. The Service's own family if there
/// are endpoints of it.
fn one_family<'s>(service: &Service, list: Chosen<'s>) -> Chosen<'s> {
    let preferred = only(&list, |endpoint| endpoint.address.is_ipv6() == service.prefers_v6);
    if preferred.is_empty() { list } else { preferred }
}

/// The ready endpoints that a caller should use. Hints count when every endpoint has one and one of them is for the
/// caller; otherwise they are ignored, as kube-proxy does. Where nothing sets hints, as in a folder of manifests, the
/// places of the endpoints stand for them.
fn near<'s>(distribution: Distribution, ready: Chosen<'s>, caller: &Locality) -> Chosen<'s> {
    let is_hinted = ready.iter().any(|(_, e)| !e.for_zones.is_empty() || !e.for_nodes.is_empty());
    let nodes = |e: &SliceEndpoint| match is_hinted {
        true => e.for_nodes.clone(),
        false if distribution == Distribution::SameNode => e.node.iter().cloned().collect(),
        false => Vec::new(),
    };
    let zones = |e: &SliceEndpoint| match is_hinted {
        true => e.for_zones.clone(),
        false if distribution != Distribution::Any => e.zone.iter().cloned().collect(),
        false => Vec::new(),
    };
    let hinted = |place: &Option<Arc<str>>, hints: &dyn Fn(&SliceEndpoint) -> Vec<Arc<str>>| {
        let place = place.as_ref()?;
        let all_have_one = ready.iter().all(|(_, endpoint)| !hints(endpoint).is_empty());
        let here = only(&ready, |endpoint| hints(endpoint).contains(place));
        (all_have_one && !here.is_empty()).then_some(here)
    };
    hinted(&caller.node, &nodes).or_else(|| hinted(&caller.zone, &zones)).unwrap_or(ready)
}
