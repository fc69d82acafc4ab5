//! Which objects lead to which: what a question would otherwise search all objects for.
//!
//! Kept up with each object that comes, changes or goes. What a change touches is noted on the way, so that only those
//! are asked again whom it concerns. What routes lead to is in [`RouteLinks`].

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_policy::RouteKind;

use crate::{
    authorization::PolicyLinks,
    endpoint_slice::{EndpointSlice, SliceEndpoint},
    node::Node,
    object::{Key, StatusId},
    pod::Pod,
    route_links::{Age, RouteLinks},
    service::Service,
    shared_map::SharedMap,
};

/// What changed since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose policies may be others, for clients of a namespace: that of the routes that changed. For every client
    /// where it is the Service's own.
    pub policies: BTreeSet<(Key, Arc<str>)>,
    /// Objects of which something else may be to be said in their status.
    pub statuses: BTreeSet<StatusId>,
    /// Services whose endpoints may be others.
    pub services: BTreeSet<Key>,
    /// Addresses that may stand for something else.
    pub addresses: BTreeSet<IpAddr>,
    /// Networks whose addresses may stand for something else, also those that nobody lists.
    pub networks: BTreeSet<IpNet>,
    /// Pods whose own policy may be another.
    pub pods: BTreeSet<Key>,
    /// Nodes that are in another zone, for callers that run there.
    pub nodes: BTreeSet<Arc<str>>,
    /// Whether endpoints of slices are in doubt that were not, or the other way round: a matter for problems.
    pub doubts: bool,
}

impl Touched {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Of a kind, from an age on; or all.
type From = Option<(RouteKind, Age)>;

/// What follows from changes and is not worked out yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsettled {
    /// Services and namespaces of which routes may stand otherwise than before: those of a kind from an age on, or all. They
    /// are looked up when it is asked.
    pub(crate) regrouped: BTreeMap<(Key, Arc<str>), From>,
    /// Routes that are themselves in force otherwise than before.
    pub(crate) recompiled: BTreeSet<(RouteKind, Key)>,
    /// Namespaces in which policies may say something else of each other.
    pub(crate) policies: BTreeSet<Arc<str>>,
}

impl Unsettled {
    /// Notes that routes of a namespace at a Service may stand otherwise: those of a kind from an age on, or all.
    pub(crate) fn regroup(&mut self, service: Key, namespace: Arc<str>, from: From) {
        match self.regrouped.entry((service, namespace)) {
            Entry::Vacant(free) => drop(free.insert(from)),
            Entry::Occupied(mut there) => {
                let both = there.get().clone().zip(from).filter(|(a, b)| a.0 == b.0);
                there.insert(both.map(|(a, b)| a.min(b)));
            }
        }
    }
}

/// From what is known to what it leads to. Values are in order, so an answer never depends on who came first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Links {
    pub(crate) services_by_ip: SharedMap<IpAddr, Vec<Key>>,
    pub(crate) pods_by_ip: SharedMap<IpAddr, Vec<Key>>,
    pub(crate) slices_by_ip: SharedMap<IpAddr, Vec<Key>>,
    /// Slices of a Service.
    pub(crate) slices_by_service: SharedMap<Key, Vec<Key>>,
    /// Slices with an endpoint of a Pod.
    pub(crate) slices_by_pod: SharedMap<Key, Vec<Key>>,
    /// Slices with an endpoint whose zone is that of its Node.
    slices_by_node: SharedMap<(Arc<str>, Key), ()>,
    /// Pods that run on a Node. Some clusters of tests have one Node, so this is no list of each.
    pods_by_node: SharedMap<(Arc<str>, Key), ()>,
    /// Nodes whose pods have addresses in a network.
    nodes_by_network: SharedMap<IpNet, Vec<Arc<str>>>,
    pub(crate) routes: RouteLinks,
    pub(crate) policies: PolicyLinks,
}

impl Links {
    pub(crate) fn service(&mut self, key: &Key, old: Option<&Service>, new: Option<&Service>) {
        let ips = |service: Option<&Service>| service.map_or(Vec::new(), |service| service.cluster_ips.clone());
        relink(&mut self.services_by_ip, key, ips(old), ips(new));
    }

    pub(crate) fn pod(&mut self, key: &Key, old: Option<&Pod>, new: Option<&Pod>) {
        let ips = |pod: Option<&Pod>| pod.map_or(Vec::new(), |pod| pod.ips.clone());
        relink(&mut self.pods_by_ip, key, ips(old), ips(new));
        let node = |pod: Option<&Pod>| pod.and_then(|pod| pod.node.clone()).into_iter().collect();
        place(&mut self.pods_by_node, key, node(old), node(new));
    }

    pub(crate) fn slice(&mut self, key: &Key, old: Option<&EndpointSlice>, new: Option<&EndpointSlice>) {
        let ips =
            |slice: Option<&EndpointSlice>| slice.into_iter().flat_map(|s| &s.endpoints).map(|e| e.address).collect();
        let pods = |slice: Option<&EndpointSlice>| {
            slice
                .into_iter()
                .flat_map(|s| &s.endpoints)
                .filter_map(|e| e.pod.as_ref())
                .map(|pod| beside(key, pod))
                .collect()
        };
        let nodes = |slice: Option<&EndpointSlice>| {
            let endpoints = slice.into_iter().flat_map(|s| &s.endpoints);
            endpoints.filter(|e| e.zone.is_none()).filter_map(|e| e.node.clone()).collect()
        };
        place(&mut self.slices_by_node, key, nodes(old), nodes(new));
        relink(&mut self.slices_by_ip, key, ips(old), ips(new));
        relink(&mut self.slices_by_pod, key, pods(old), pods(new));
        relink(&mut self.slices_by_service, key, service_of(key, old), service_of(key, new));
    }

    pub(crate) fn node(&mut self, name: &Arc<str>, old: Option<&Node>, new: Option<&Node>) {
        let networks = |node: Option<&Node>| node.map_or(Vec::new(), |node| node.networks.clone());
        relink(&mut self.nodes_by_network, name, networks(old), networks(new));
    }

    /// The slices with an endpoint whose zone is that of a Node.
    pub(crate) fn slices_on(&self, node: &Arc<str>) -> impl Iterator<Item = &Key> {
        placed(&self.slices_by_node, node)
    }

    /// The pods that run on a Node.
    pub(crate) fn pods_on(&self, node: &Arc<str>) -> impl Iterator<Item = &Key> {
        placed(&self.pods_by_node, node)
    }

    /// The pods of a namespace that an endpoint of a slice there may be: the one that it names, or those that have its
    /// address.
    pub(crate) fn pods_of(&self, namespace: &Arc<str>, endpoint: &SliceEndpoint) -> Vec<Key> {
        match &endpoint.pod {
            Some(name) => vec![Key { namespace: namespace.clone(), name: name.clone() }],
            None if endpoint.is_unclear => Vec::new(),
            None => {
                let owners = self.pods_by_ip.linked(&endpoint.address).iter();
                owners.filter(|pod| pod.namespace == *namespace).cloned().collect()
            }
        }
    }

    /// Whether an address is in the network of some node's pods.
    pub(crate) fn is_of_pods(&self, ip: IpAddr) -> bool {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let network = |length| IpNet::new(ip, length).ok().map(|network| network.trunc());
        let has = |network: IpNet| self.nodes_by_network.get(&network).is_some();
        !self.nodes_by_network.is_empty() && (0..=longest).filter_map(network).any(has)
    }
}

/// Notes what a change of a slice touches.
pub(crate) fn touch_slice(
    touched: &mut Touched,
    links: &Links,
    key: &Key,
    old: Option<&EndpointSlice>,
    new: Option<&EndpointSlice>,
) {
    touched.services.extend(service_of(key, old).into_iter().chain(service_of(key, new)));
    let is_renamed = old.map(|s| (&s.service, &s.ports)) != new.map(|s| (&s.service, &s.ports));
    // By address, since endpoints come and go anywhere in a slice.
    let all = |slice: Option<&EndpointSlice>| {
        let mut all: Vec<SliceEndpoint> = slice.map_or(Vec::new(), |slice| slice.endpoints.clone());
        all.sort_by(|a, b| (a.address, &a.pod).cmp(&(b.address, &b.pod)));
        all
    };
    let (before, after) = (all(old), all(new));
    let is_in = |list: &[SliceEndpoint], e: &SliceEndpoint| {
        list.binary_search_by(|other| (other.address, &other.pod).cmp(&(e.address, &e.pod)))
            .is_ok_and(|at| &list[at] == e)
    };
    let gone = before.iter().filter(|e| is_renamed || !is_in(&after, e));
    let come = after.iter().filter(|e| is_renamed || !is_in(&before, e));
    for endpoint in gone.chain(come) {
        touched.addresses.insert(endpoint.address);
        touched.pods.extend(links.pods_of(&key.namespace, endpoint));
    }
}

/// The Service of a slice.
pub(crate) fn service_of(key: &Key, slice: Option<&EndpointSlice>) -> Vec<Key> {
    slice.and_then(|slice| slice.service.as_ref()).map(|name| beside(key, name)).into_iter().collect()
}

fn beside(key: &Key, name: &Arc<str>) -> Key {
    Key { namespace: key.namespace.clone(), name: name.clone() }
}

/// Where something was and is.
fn place(map: &mut SharedMap<(Arc<str>, Key), ()>, key: &Key, old: BTreeSet<Arc<str>>, new: BTreeSet<Arc<str>>) {
    old.difference(&new).for_each(|gone| drop(map.remove(&(gone.clone(), key.clone()))));
    new.difference(&old).for_each(|come| map.insert((come.clone(), key.clone()), ()));
}

fn placed<'m>(map: &'m SharedMap<(Arc<str>, Key), ()>, at: &Arc<str>) -> impl Iterator<Item = &'m Key> + use<'m> {
    let first = (at.clone(), Key::new("", ""));
    map.range_from(&first).map(|(found, ())| found).take_while(move |(of, _)| *of == first.0).map(|(_, key)| key)
}

fn relink<K: Ord + Clone, T: Ord + Clone>(map: &mut SharedMap<K, Vec<T>>, key: &T, mut old: Vec<K>, mut new: Vec<K>) {
    old.sort();
    new.sort();
    for gone in old.iter().filter(|k| new.binary_search(k).is_err()) {
        map.unlink(gone, key);
    }
    for come in new.iter().filter(|k| old.binary_search(k).is_err()) {
        map.link(come, key.clone());
    }
}
