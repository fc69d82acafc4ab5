//! Whether the pods that a policy is about have a proxy that carries it out: the condition `Enforced`.

use std::sync::Arc;

use mesh_policy::{Action, Ports};

use super::{PolicyObject, target::TargetPods};
use crate::{
    object::{Key, StatusId},
    pod::Pod,
    snapshot::Snapshot,
    status::{Condition, MAX_MESSAGE},
};

/// Most pods that a message names for one reason.
const MAX_NAMED: usize = 3;

/// Why nothing carries a policy out at a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ungoverned {
    NoSidecar,
    OldProxy,
    /// Connections to this port do not come to its proxy.
    Skipped(u16),
}

/// How many pods something is said of, and the first ones.
#[derive(Default)]
struct Counted {
    count: usize,
    names: Vec<String>,
}

impl Counted {
    fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.names.len() < MAX_NAMED {
            self.names.push(name());
        }
    }

    /// As in `2 without a sidecar (shop/x, shop/y)`.
    fn told(&self, what: &str) -> Option<String> {
        let more = if self.count > self.names.len() { ", ..." } else { "" };
        (self.count > 0).then(|| format!("{} {what} ({}{more})", self.count, self.names.join(", ")))
    }
}

impl Snapshot {
    /// The condition of a policy, for all its pods or those of one Service that it names.
    pub(super) fn enforced(&self, id: &StatusId, policy: &PolicyObject, service: Option<&Arc<str>>) -> Condition {
        let (mut count, mut plain, mut old, mut skipped) =
            (0, Counted::default(), Counted::default(), Counted::default());
        for (key, pod) in self.selected(id, policy).filter(|(_, pod)| !pod.is_over) {
            if service.is_some_and(|service| !self.leads_to(service, pod)) {
                continue;
            }
            count += 1;
            match self.ungoverned(policy, pod) {
                None => {}
                Some(Ungoverned::NoSidecar) => plain.add(|| name_of(key)),
                Some(Ungoverned::OldProxy) => old.add(|| name_of(key)),
                Some(Ungoverned::Skipped(port)) => skipped.add(|| format!("port {port} of {}", name_of(key))),
            }
        }
        let mut words = vec![if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") }];
        words.extend(plain.told("without a sidecar"));
        words.extend(old.told("whose proxy is older than 0.2.0 and knows no policies"));
        if skipped.count > 0 {
            let (verb, more) = (if skipped.count == 1 { "is" } else { "are" }, skipped.count - skipped.names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            words.push(format!("{}{more} {verb} in skip-inbound-ports", skipped.names.join(", ")));
        }
        let reason = match (count, words.len()) {
            (0, _) => "NoPods",
            (_, 1) => "Enforced",
            _ => "NotGoverned",
        };
        let mut message = words.join("; ");
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Condition { kind: "Enforced", status: reason == "Enforced", reason, message }
    }

    fn ungoverned(&self, object: &PolicyObject, pod: &Pod) -> Option<Ungoverned> {
        if !pod.is_meshed() {
            return Some(Ungoverned::NoSidecar);
        }
        if !pod.knows_policies {
            return Some(Ungoverned::OldProxy);
        }
        if pod.skip_inbound_ports.is_empty() {
            return None;
        }
        let ports = match &object.target {
            TargetPods::OfServices(_) => self.applied(object, pod).and_then(|applied| applied.policy.ports.clone()),
            TargetPods::Selected(_) | TargetPods::OfNamespaces { .. } => object.policy.ports.clone(),
        };
        let of_rules = object.policy.rules.iter().filter_map(|rule| rule.ports.as_ref());
        let named = Ports::new(of_rules.flat_map(|ports| ports.ranges().iter().copied()));
        let narrows =
            object.policy.action != Action::Allow && object.policy.rules.iter().all(|rule| rule.ports.is_some());
        // One that is about every port is about those that the pod says it has, and those that it names itself.
        let ports = match ports {
            Some(ports) if narrows => ports.and(&named),
            Some(ports) => ports,
            None if narrows => named,
            None => {
                let listed = pod.container_ports.iter().map(|port| (*port, *port));
                Ports::new(named.ranges().iter().copied().chain(listed))
            }
        };
        let skipped = ports.and(&Ports::new(pod.skip_inbound_ports.iter().copied()));
        skipped.ranges().first().map(|(first, _)| Ungoverned::Skipped(*first))
    }
}

/// Whether the same is said of a pod in the statuses of policies that select it.
pub(super) fn is_told_alike(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        let of_proxy = (pod.is_meshed(), pod.knows_policies, pod.skip_inbound_ports.clone());
        (of_proxy, pod.is_over, pod.is_left_out, pod.container_ports.clone())
    };
    facts(old) == facts(new) && old.labels == new.labels && old.ports == new.ports
}

fn name_of(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}
