//! How far an index has followed an API server, so that proxies can tell a replica that lags from one that knows more.
//!
//! Revisions of objects are numbers that grow with every write (KEP-5504). Of each kind that endpoints are made of, or that
//! says who may call a pod, it is kept what changed last, and what the watch has reached: that is more where nothing changes,
//! by lists and bookmarks. In a folder of manifests there are none.

use std::sync::atomic::{AtomicU64, Ordering};

use mesh_proto::v1;
use serde_json::Value;

/// The kinds that endpoints are made of, and then those that say who may call a pod as well.
const KINDS: [&str; 6] =
    ["Service", "EndpointSlice", "Pod", "Namespace", "AuthorizationPolicy", "ClusterAuthorizationPolicy"];

/// A revision of each of the kinds; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revisions([u64; KINDS.len()]);

impl Revisions {
    /// Moves a kind on; other kinds are of no interest.
    pub(crate) fn reach(&mut self, kind: &str, revision: u64) {
        if let Some(at) = KINDS.iter().position(|known| *known == kind) {
            self.0[at] = self.0[at].max(revision);
        }
    }

    /// Those of endpoints and of who has an address, as they go over the wire; `None` where there is no API server.
    pub(crate) fn of_endpoints(self) -> Option<v1::Revisions> {
        let [services, endpoint_slices, pods, ..] = self.0;
        let wire = v1::Revisions { services, endpoint_slices, pods, ..Default::default() };
        (wire != Default::default()).then_some(wire)
    }

    /// Those of the policy of a pod, as they go over the wire; `None` where there is no API server.
    pub(crate) fn of_workloads(self) -> Option<v1::Revisions> {
        let [services, endpoint_slices, pods, namespaces, authorization_policies, cluster_authorization_policies] =
            self.0;
        (self != Self::default()).then_some(v1::Revisions {
            services,
            endpoint_slices,
            pods,
            namespaces,
            authorization_policies,
            cluster_authorization_policies,
        })
    }
}

/// Revisions that readers of an older snapshot see move on: what was reached where nothing changed.
#[derive(Debug, Default)]
pub(crate) struct SeenRevisions([AtomicU64; KINDS.len()]);

impl SeenRevisions {
    /// Says that everything up to there is in force.
    pub(crate) fn set(&self, reached: &Revisions) {
        for (cell, revision) in self.0.iter().zip(reached.0) {
            cell.store(revision, Ordering::Release);
        }
    }

    /// What has been reached.
    pub(crate) fn get(&self) -> Revisions {
        Revisions(self.0.each_ref().map(|cell| cell.load(Ordering::Acquire)))
    }
}

/// The revision of an object. An API server whose revisions are no numbers has none that can be compared.
pub(crate) fn revision_of(object: &Value) -> u64 {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).map_or(0, parse)
}

/// A revision as an API server writes it.
pub(crate) fn parse(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_moves_on_and_never_back() {
        let mut reached = Revisions::default();
        assert_eq!((reached.of_endpoints(), reached.of_workloads()), (None, None), "a folder has none");
        reached.reach("AuthorizationPolicy", 8);
        assert_eq!(reached.of_endpoints(), None, "it is not about endpoints");
        for (kind, revision) in [("Pod", 7), ("Pod", 5), ("Service", 3), ("HTTPRoute", 99)] {
            reached.reach(kind, revision);
        }
        let endpoints = v1::Revisions { services: 3, pods: 7, ..Default::default() };
        assert_eq!(reached.of_endpoints(), Some(endpoints));
        assert_eq!(reached.of_workloads(), Some(v1::Revisions { authorization_policies: 8, ..endpoints }));
        let seen = SeenRevisions::default();
        seen.set(&reached);
        assert_eq!(seen.get(), reached);
        assert_eq!(parse("12"), 12);
        assert_eq!(parse("opaque"), 0);
    }
}
