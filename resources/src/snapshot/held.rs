//! What is done with an object of each kind: how it is decoded and put in force, forgotten, weighed and named. A kind has a line
//! in each of these, and nowhere else in a snapshot but for what follows from it (`set`).

use std::sync::Arc;

use mesh_policy::{
    RouteKind,
    well_known::{GATEWAY_GROUP, POLICY_GROUP},
};

use super::Snapshot;
use crate::{
    authorization, connection_route, endpoint_slice, grpc_route, http_route, node,
    object::{Key, Object},
    pod,
    problem::Report,
    reference_grant, retry_policy,
    room::Bounded,
    service,
};

impl Snapshot {
    /// Puts in force what an object says. Whether it is of a kind that there is a use for.
    pub(super) fn decode(&mut self, object: &Object, report: &mut Report<'_>) -> bool {
        let key = Key::new(object.namespace.as_str(), object.name.as_str());
        match (object.group(), object.kind.as_str()) {
            ("", "Service") => {
                let new = self.fit(object, &key, service::decode(object, report), report);
                self.set_service(key, new);
            }
            ("", "Pod") => {
                let new = self.fit(object, &key, pod::decode(object, &self.options, report), report);
                self.set_pod(key, new);
            }
            ("", "Node") => self.set_node(&key.name, Some(node::decode_node(object, report))),
            ("", "Namespace") => {
                let new = node::decode_namespace(object, report);
                self.set_namespace(&key.name, Some(new));
            }
            ("discovery.k8s.io", "EndpointSlice") => {
                let new = self.fit(object, &key, endpoint_slice::decode(object, report), report);
                self.set_slice(key, new);
            }
            (GATEWAY_GROUP, "ReferenceGrant") => {
                let new = self.fit(object, &key, reference_grant::decode(object, report), report);
                self.set_grant(key, new);
            }
            (POLICY_GROUP, "RetryPolicy") => {
                let new = self.fit(object, &key, retry_policy::decode(object, report), report);
                self.set_retry_policy(key, new);
            }
            (POLICY_GROUP, authorization::KIND) => {
                let new = self.fit(object, &key, authorization::decode(object, &self.options, report), report);
                self.set_policy(key, new);
            }
            (POLICY_GROUP, authorization::CLUSTER_KIND) => {
                let new = authorization::decode_cluster(object, &self.options, report);
                let new = self.cluster_room.fit(&key.name, new, report);
                self.set_cluster_policy(&key.name, Some(new));
            }
            (GATEWAY_GROUP, kind) => {
                let Some(kind) = route_kind(kind) else { return false };
                let route = match kind {
                    RouteKind::Grpc => grpc_route::decode(object, report),
                    RouteKind::Http => http_route::decode(object, report),
                    RouteKind::Tls => connection_route::decode_tls(object, report),
                    RouteKind::Tcp => connection_route::decode_tcp(object, report),
                };
                let new = self.fit(object, &key, route, report);
                self.set_route(kind, key, new);
            }
            _ => return false,
        }
        true
    }

    /// Forgets an object. Whether it is of a kind that there is a use for.
    pub(super) fn remove(&mut self, kind: &str, key: Key) -> bool {
        match kind {
            "Service" => self.set_service(key, None),
            "Pod" => self.set_pod(key, None),
            "Node" => self.set_node(&key.name, None),
            "Namespace" => self.set_namespace(&key.name, None),
            "EndpointSlice" => self.set_slice(key, None),
            "ReferenceGrant" => self.set_grant(key, None),
            "RetryPolicy" => self.set_retry_policy(key, None),
            authorization::KIND => self.set_policy(key, None),
            authorization::CLUSTER_KIND => {
                self.cluster_room.free(&key.name);
                self.set_cluster_policy(&key.name, None);
            }
            kind => match route_kind(kind) {
                Some(kind) => self.set_route(kind, key, None),
                None => return false,
            },
        }
        true
    }

    /// What an object takes that is there.
    pub(super) fn own_bytes(&self, kind: &str, key: &Key) -> usize {
        match kind {
            "Service" => self.services.get(key).map_or(0, Bounded::bytes),
            "Pod" => self.pods.get(key).map_or(0, Bounded::bytes),
            "EndpointSlice" => self.endpoint_slices.get(key).map_or(0, Bounded::bytes),
            "ReferenceGrant" => self.reference_grants.get(key).map_or(0, Bounded::bytes),
            "RetryPolicy" => self.retry_policies.get(key).map_or(0, Bounded::bytes),
            authorization::KIND => self.authorization_policies.get(key).map_or(0, Bounded::bytes),
            kind => route_kind(kind).and_then(|kind| self.routes(kind).get(key)).map_or(0, Bounded::bytes),
        }
    }

    /// What there is of a kind. Objects without a namespace are in `default`, as everywhere here.
    pub fn keys_of(&self, kind: &str) -> Vec<Key> {
        let unplaced = |name: &Arc<str>| Key::new("default", name.clone());
        match kind {
            "Service" => self.services.keys().cloned().collect(),
            "Pod" => self.pods.keys().cloned().collect(),
            "Node" => self.nodes.keys().map(unplaced).collect(),
            "Namespace" => self.namespaces.keys().map(unplaced).collect(),
            "EndpointSlice" => self.endpoint_slices.keys().cloned().collect(),
            "ReferenceGrant" => self.reference_grants.keys().cloned().collect(),
            "RetryPolicy" => self.retry_policies.keys().cloned().collect(),
            authorization::KIND => self.authorization_policies.keys().cloned().collect(),
            authorization::CLUSTER_KIND => self.cluster_authorization_policies.keys().map(unplaced).collect(),
            kind => route_kind(kind).map_or(Vec::new(), |kind| self.routes(kind).keys().cloned().collect()),
        }
    }
}

fn route_kind(kind: &str) -> Option<RouteKind> {
    RouteKind::ALL.into_iter().find(|known| known.as_str() == kind)
}
