//! One object comes, changes or goes: what is kept of it, what it leads to, and what is touched by it.
//!
//! Whether there is room for it was looked at before.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;
use mesh_policy::RouteKind;

use super::{Compiled, Doubted, Snapshot, put};
use crate::{
    attach::is_parent,
    compile::MAX_GRANTS,
    endpoint_slice::EndpointSlice,
    links,
    node::{Namespace, Node},
    object::{Key, StatusId},
    pod::Pod,
    reference_grant::ReferenceGrant,
    retry_policy::RetryPolicy,
    route::RouteObject,
    service::Service,
};

impl Snapshot {
    pub(super) fn set_service(&mut self, key: Key, new: Option<Service>) {
        let old = self.services.get(&key).cloned();
        let old = old.as_ref();
        if old == new.as_ref() {
            return;
        }
        self.touch_policies_of_service(&key, old, new.as_ref());
        self.links.service(&key, old, new.as_ref());
        let ips = |service: Option<&Service>| service.map_or(Vec::new(), |service| service.cluster_ips.clone());
        self.touched.addresses.extend(ips(old).into_iter().chain(ips(new.as_ref())));
        let served = |service: &Service| (is_parent(service), service.ports.clone());
        let is_served_otherwise = old.map(served) != new.as_ref().map(served);
        self.touched.services.insert(key.clone());
        // What lists its addresses as endpoints: nobody's, while they are a Service's.
        for ip in old.into_iter().chain(new.as_ref()).flat_map(|service| &service.cluster_ips) {
            for slice in self.links.slices_by_ip.linked(ip) {
                self.touched.services.extend(links::service_of(slice, self.endpoint_slices.get(slice)));
                self.unjudged.insert((Doubted::Slice, slice.clone()));
            }
        }
        self.touched.policies.insert((key.clone(), key.namespace.clone()));
        for (kind, route) in self.links.routes.attached_to(&key, None) {
            self.touched.policies.insert((key.clone(), route.namespace.clone()));
            self.touched.statuses.insert(StatusId::new(kind.as_str(), route));
        }
        self.unsettled.recompiled.extend(self.links.routes.of_backend(&key));
        if is_served_otherwise {
            self.touch_pods(&key);
        }
        put(&mut self.services, key, new);
        self.recompile();
    }

    /// The pods of a Service, and their addresses, may be spoken to otherwise.
    pub(super) fn touch_pods(&mut self, service: &Key) {
        let slices = self.links.slices_by_service.linked(service).iter();
        for endpoint in slices.filter_map(|slice| self.endpoint_slices.get(slice)).flat_map(|slice| &slice.endpoints) {
            self.touched.addresses.insert(endpoint.address);
            self.touched.pods.extend(self.links.pods_of(&service.namespace, endpoint));
        }
    }

    /// Forgets how the routes were compiled that are in force otherwise by now.
    fn recompile(&mut self) {
        for (kind, key) in std::mem::take(&mut self.unsettled.recompiled) {
            let Some(route) = self.routes(kind).get(&key) else { continue };
            let parents = route.parents.iter();
            let services = parents.map(|parent| Key { namespace: parent.namespace.clone(), name: parent.name.clone() });
            let services: Vec<_> = services.map(|service| (service, key.namespace.clone())).collect();
            self.touched.policies.extend(services);
            self.touched.statuses.insert(StatusId::new(kind.as_str(), key.clone()));
            self.compiled.insert((kind, key), Compiled::default());
        }
    }

    pub(super) fn set_pod(&mut self, key: Key, new: Option<Pod>) {
        let old = self.pods.get(&key).cloned();
        let old = old.as_ref();
        if old == new.as_ref() {
            return;
        }
        self.touch_policies_of_pod(old, new.as_ref());
        self.links.pod(&key, old, new.as_ref());
        let ips = |pod: &'_ Pod| -> Vec<_> { pod.ips.iter().chain(&pod.node_ips).copied().collect() };
        let ips: BTreeSet<_> = old.into_iter().chain(new.as_ref()).flat_map(ips).collect();
        // Whoever lists its address, and whoever names it.
        let listing = ips.iter().flat_map(|ip| self.links.slices_by_ip.linked(ip));
        let slices: BTreeSet<_> = listing.chain(self.links.slices_by_pod.linked(&key)).collect();
        for slice in slices {
            let found = self.endpoint_slices.get(slice);
            let service = found.and_then(|found| found.service.clone());
            self.touched.services.extend(service.map(|name| Key { namespace: slice.namespace.clone(), name }));
            // By address it may be asked for although it has none of its own.
            let endpoints = found.into_iter().flat_map(|found| &found.endpoints);
            let of_pod = endpoints.filter(|e| slice.namespace == key.namespace && e.pod.as_ref() == Some(&key.name));
            self.touched.addresses.extend(of_pod.map(|e| e.address));
            self.unjudged.insert((Doubted::Slice, slice.clone()));
        }
        self.touched.addresses.extend(ips);
        self.touched.pods.insert(key.clone());
        put(&mut self.pods, key, new);
    }

    pub(super) fn set_slice(&mut self, key: Key, new: Option<EndpointSlice>) {
        let old = self.endpoint_slices.get(&key);
        if old == new.as_ref() {
            return;
        }
        self.links.slice(&key, old, new.as_ref());
        links::touch_slice(&mut self.touched, &self.links, &key, old, new.as_ref());
        self.unjudged.insert((Doubted::Slice, key.clone()));
        put(&mut self.endpoint_slices, key, new);
    }

    pub(super) fn set_node(&mut self, name: &Arc<str>, new: Option<Node>) {
        let old = self.nodes.get(name);
        let networks = |node: Option<&Node>| node.map_or(Vec::new(), |node| node.networks.clone());
        let (before, after) = (networks(old), networks(new.as_ref()));
        if before != after {
            self.links.node(name, old, new.as_ref());
            let here = |list: &[IpNet], network| list.contains(network);
            let gone = before.iter().filter(|network| !here(&after, network));
            let come = after.iter().filter(|network| !here(&before, network));
            for network in gone.chain(come) {
                // Whoever has an address in it and no pod is outside of the cluster, or not any more.
                let listed = self.links.slices_by_ip.range_from(&network.network());
                for (ip, slices) in listed.take_while(|(ip, _)| network.contains(*ip)) {
                    self.touched.addresses.insert(*ip);
                    for slice in slices {
                        self.touched.services.extend(links::service_of(slice, self.endpoint_slices.get(slice)));
                        self.unjudged.insert((Doubted::Slice, slice.clone()));
                    }
                }
                self.touched.networks.insert(*network);
            }
        }
        let zone = |node: Option<&Node>| node.and_then(|node| node.zone.clone());
        if zone(old) != zone(new.as_ref()) {
            self.touch_node(name);
        }
        put(&mut self.nodes, name.clone(), new);
    }

    /// What runs on a Node is in another zone: as a caller, and as an endpoint of which nothing else says the zone.
    fn touch_node(&mut self, name: &Arc<str>) {
        for slice in self.links.slices_on(name) {
            let found = self.endpoint_slices.get(slice);
            self.touched.services.extend(links::service_of(slice, found));
            let here = found.into_iter().flat_map(|found| &found.endpoints).filter(|e| e.node.as_ref() == Some(name));
            self.touched.addresses.extend(here.map(|endpoint| endpoint.address));
        }
        for key in self.links.pods_on(name) {
            let ips = self.pods.get(key).into_iter().flat_map(|pod| pod.ips.iter().chain(&pod.node_ips));
            self.touched.addresses.extend(ips.copied());
        }
        self.touched.nodes.insert(name.clone());
    }

    pub(super) fn set_namespace(&mut self, name: &Arc<str>, new: Option<Namespace>) {
        self.touch_policies_of_namespace(name, new.as_ref());
        let access_log = |found: Option<&Namespace>| found.and_then(|found| found.access_log.clone());
        if access_log(self.namespaces.get(name)) != access_log(new.as_ref()) {
            self.touch_pods_in(name);
        }
        put(&mut self.namespaces, name.clone(), new);
    }

    pub(super) fn set_route(&mut self, kind: RouteKind, key: Key, new: Option<RouteObject>) {
        let map = match kind {
            RouteKind::Grpc => &mut self.grpc_routes,
            RouteKind::Http => &mut self.http_routes,
            RouteKind::Tls => &mut self.tls_routes,
            RouteKind::Tcp => &mut self.tcp_routes,
        };
        if map.get(&key) == new.as_ref() {
            return;
        }
        self.links.routes.change(kind, &key, map.get(&key), new.as_ref(), &mut self.touched, &mut self.unsettled);
        let compiled = new.is_some().then(Compiled::default);
        put(map, key.clone(), new);
        put(&mut self.compiled, (kind, key), compiled);
        self.recompile();
    }

    pub(super) fn set_grant(&mut self, key: Key, new: Option<ReferenceGrant>) {
        if self.reference_grants.get(&key) == new.as_ref() {
            return;
        }
        self.unsettled.recompiled.extend(self.links.routes.abroad(&key.namespace));
        put(&mut self.reference_grants, key.clone(), new);
        // Those at the bound may count by now, or not any more.
        let at_bound = self.grants_of(&key.namespace).skip(MAX_GRANTS - 1).take(2).map(|(key, _)| key);
        let doubted = at_bound.chain([&key]).map(|key| (Doubted::Grant, key.clone()));
        let doubted: Vec<_> = doubted.collect();
        self.unjudged.extend(doubted);
        self.recompile();
    }

    pub(super) fn set_retry_policy(&mut self, key: Key, new: Option<RetryPolicy>) {
        if self.retry_policies.get(&key) == new.as_ref() {
            return;
        }
        self.unsettled.recompiled.extend(self.links.routes.of_retry_policy(&key));
        self.touched.statuses.insert(StatusId::new("RetryPolicy", key.clone()));
        put(&mut self.retry_policies, key, new);
        self.recompile();
    }
}
