//! The pods behind what is called, with the policy of each.

use std::{collections::BTreeSet, net::SocketAddr};

use mesh_policy::{Endpoint, ServiceRef, Target, WorkloadPolicy};
use mesh_resources::Snapshot;

use super::{caller::Caller, decided::compares_addresses, objects::Objects};

/// Pods whose sidecars have equal policies, at a port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Behind {
    /// The port of the pods.
    pub port: u16,
    /// `namespace/name` of each; the address of what is no pod.
    pub pods: Vec<String>,
    /// What their sidecars decide by; `None`: no sidecar stands before them at this port.
    pub policy: Option<WorkloadPolicy>,
}

/// The pods behind a target; none of what is outside of the mesh.
pub(crate) fn behind(snapshot: &Snapshot, target: &Target) -> Vec<Behind> {
    let endpoints = match target {
        Target::Service(service) => snapshot.endpoints(service),
        Target::Endpoint(endpoint) => vec![endpoint.clone()],
        Target::Outside(_) | Target::Unknown(_) => Vec::new(),
    };
    let mut found: Vec<Behind> = Vec::new();
    for Endpoint { address, identity, workload, .. } in endpoints {
        let policy = identity.and_then(|_| snapshot.compile_workload(&workload, &[]));
        let pod = if workload.is_empty() { address.ip().to_string() } else { workload.to_string() };
        let port = address.port();
        Behind { port, pods: vec![pod], policy }.join(&mut found);
    }
    found
}

impl Behind {
    /// Puts it among others: its pods with those that have the same policy at the same port.
    pub(crate) fn join(self, others: &mut Vec<Self>) {
        match others.iter_mut().find(|known| known.port == self.port && known.policy == self.policy) {
            Some(known) => known.pods.extend(self.pods),
            None => others.push(self),
        }
    }

    /// A pod by itself, at a port.
    pub(crate) fn pod(snapshot: &Snapshot, pod: &str, port: u16) -> Self {
        let is_meshed = snapshot.pod(pod).is_some_and(|pod| pod.identity_at(port).is_some());
        let policy = snapshot.compile_workload(pod, &[]).filter(|_| is_meshed);
        Self { port, pods: vec![pod.to_owned()], policy }
    }
}

/// The ports of a pod that Services lead to.
pub(crate) fn ports_of(snapshot: &Snapshot, pod: &str) -> BTreeSet<u16> {
    let namespace = pod.split_once('/').map_or("", |(namespace, _)| namespace);
    let services = snapshot.services.iter().filter(|(key, _)| &*key.namespace == namespace);
    let refs = services.flat_map(|(key, service)| {
        let of = |port: u16| ServiceRef::new(key.namespace.clone(), key.name.clone(), port);
        service.ports.iter().map(move |port| of(port.port))
    });
    let endpoints = refs.flat_map(|service| snapshot.endpoints(&service));
    endpoints
        .filter(|endpoint| &*endpoint.workload == pod)
        .map(|endpoint| SocketAddr::port(&endpoint.address))
        .collect()
}

/// What was taken for granted of the pods and the caller.
pub(crate) fn notes(objects: &Objects, behind: &[Behind], caller: &Caller) -> Vec<String> {
    let mut notes = Vec::new();
    let compares =
        |behind: &Behind| behind.policy.as_ref().is_some_and(|policy| compares_addresses(policy, behind.port));
    if caller.source.is_none() && caller.known && behind.iter().any(compares) {
        let what = "the address of the caller is not known, and rules about addresses compare 0.0.0.0";
        notes.push(what.to_owned());
    }
    if behind.iter().flat_map(|behind| &behind.pods).any(|pod| objects.implied.contains(pod)) {
        notes.push("the pods are those of templates, taken for meshed unless labels say otherwise".to_owned());
    }
    notes
}
