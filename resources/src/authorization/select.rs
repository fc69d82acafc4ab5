//! Which policies are about a pod, and at which of its ports.

use std::{borrow::Cow, sync::Arc};

use mesh_policy::{Action, AuthorizationPolicy, Ports};

use super::{CLUSTER_KIND, KIND, PolicyObject, closing, target::TargetPods};
use crate::{
    object::{Key, StatusId},
    pod::Pod,
    selector::{Labels, label_of_namespace},
    service::{Service, TargetPort},
    snapshot::Snapshot,
};

/// Most ranges of ports that proxies take of one policy.
pub(super) const MAX_PORT_RANGES: usize = 1_000;

/// A policy as it is about one pod.
pub(crate) struct Applied<'s> {
    pub(crate) policy: Cow<'s, AuthorizationPolicy>,
    /// Whether it is not known at which ports, so that it is about all of them.
    pub(crate) is_cut: bool,
}

impl Snapshot {
    /// The policies of a namespace, by name.
    pub(crate) fn policies_of<'s>(
        &'s self,
        namespace: &Arc<str>,
    ) -> impl Iterator<Item = (&'s Key, &'s PolicyObject)> + use<'s> {
        let first = Key::new(namespace.clone(), "");
        let found = self.authorization_policies.range_from(&first);
        found.take_while(move |(key, _)| key.namespace == first.namespace)
    }

    /// The policies that may be about pods of a namespace: its own, and those of the cluster.
    pub(crate) fn policies_for<'s>(
        &'s self,
        namespace: &Arc<str>,
    ) -> impl Iterator<Item = (StatusId, &'s PolicyObject)> + use<'s> {
        let own = self.policies_of(namespace).map(|(key, policy)| (StatusId::new(KIND, key.clone()), policy));
        own.chain(self.cluster_policies().map(|(name, policy)| (cluster_id(name), policy)))
    }

    /// The policies of the cluster, by name.
    pub(crate) fn cluster_policies(&self) -> impl Iterator<Item = (&Arc<str>, &PolicyObject)> {
        self.cluster_authorization_policies.iter()
    }

    /// A policy of either kind.
    pub(crate) fn policy(&self, StatusId { kind, key }: &StatusId) -> Option<&PolicyObject> {
        match *kind {
            KIND => self.authorization_policies.get(key),
            CLUSTER_KIND => self.cluster_authorization_policies.get(&key.name),
            _ => None,
        }
    }

    /// The pods of a namespace, by name.
    pub(crate) fn pods_in<'s>(&'s self, namespace: &Arc<str>) -> impl Iterator<Item = (&'s Key, &'s Pod)> + use<'s> {
        let first = Key::new(namespace.clone(), "");
        self.pods.range_from(&first).take_while(move |(key, _)| key.namespace == first.namespace)
    }

    /// The pods that a policy is about: of the namespace of its key, if it has one.
    pub(crate) fn selected<'s>(
        &'s self,
        id: &StatusId,
        policy: &'s PolicyObject,
    ) -> impl Iterator<Item = (&'s Key, &'s Pod)> + use<'s> {
        let is_of_cluster = id.kind == CLUSTER_KIND;
        let first = if is_of_cluster { Key::new("", "") } else { Key::new(id.key.namespace.clone(), "") };
        let pods = self.pods.range_from(&first);
        let pods = pods.take_while(move |(key, _)| is_of_cluster || key.namespace == first.namespace);
        pods.filter(|(_, pod)| self.is_about(policy, pod))
    }

    /// Whether a policy is about a pod, which is in its namespace if it has one.
    pub(crate) fn is_about(&self, policy: &PolicyObject, pod: &Pod) -> bool {
        let label = |name: &str| pod.labels.get(name).map(String::as_str);
        match &policy.target {
            TargetPods::Selected(selector) => selector.selects(label),
            TargetPods::OfServices(names) => names.iter().any(|name| self.leads_to(name, pod)),
            TargetPods::OfNamespaces { namespaces, pods } => {
                let labels: Option<&Labels> = self.namespaces.get(&pod.namespace).map(|found| &found.labels);
                pods.selects(label) && namespaces.selects(|name| label_of_namespace(&pod.namespace, labels, name))
            }
        }
    }

    /// A policy as it is about a pod; `None` if it is not.
    pub(crate) fn applied<'s>(&'s self, object: &'s PolicyObject, pod: &Pod) -> Option<Applied<'s>> {
        if !self.is_about(object, pod) {
            return None;
        }
        let TargetPods::OfServices(names) = &object.target else {
            return Some(Applied { policy: Cow::Borrowed(&object.policy), is_cut: false });
        };
        let mut numbers = Some(Vec::new());
        for name in names.iter().filter(|name| self.leads_to(name, pod)) {
            let own = self.target_ports(name, pod);
            numbers = numbers.zip(own).map(|(mut all, own)| {
                all.extend(own);
                all
            });
        }
        let ports = numbers.map(Ports::only).filter(|ports| ports.ranges().len() <= MAX_PORT_RANGES);
        let is_cut = ports.is_none();
        let mut policy = AuthorizationPolicy { ports, ..object.policy.clone() };
        // Nobody is let in at a port that nobody wrote.
        if is_cut && policy.action != Action::Deny {
            policy = closing(policy);
        }
        Some(Applied { policy: Cow::Owned(policy), is_cut })
    }

    /// Whether a Service of a pod's namespace selects it. Of one that is known by name only it may.
    pub(crate) fn leads_to(&self, service: &Arc<str>, pod: &Pod) -> bool {
        match self.service_beside(service, pod) {
            Some(found) => selects(found, pod),
            None => self.has_gone(&pod.namespace),
        }
    }

    /// The ports of a pod that a Service leads to; `None` if they are not all known.
    fn target_ports(&self, service: &Arc<str>, pod: &Pod) -> Option<Vec<u16>> {
        let service = self.service_beside(service, pod).filter(|service| !service.is_cut)?;
        let mut numbers = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            match &port.target {
                TargetPort::Number(number) => numbers.push(*number),
                TargetPort::Name(name) => match pod.ports.get(name) {
                    Some(number) => numbers.push(*number),
                    None if pod.is_left_out => return None,
                    None => {}
                },
            }
        }
        Some(numbers)
    }

    fn service_beside(&self, name: &Arc<str>, pod: &Pod) -> Option<&Service> {
        self.services.get(&Key { namespace: pod.namespace.clone(), name: name.clone() })
    }
}

/// What names a policy of the cluster.
pub(crate) fn cluster_id(name: &Arc<str>) -> StatusId {
    StatusId::new(CLUSTER_KIND, Key::new("default", name.clone()))
}

/// Whether a Service selects a pod of its namespace.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let label = |name: &str| pod.labels.get(name).map(String::as_str);
    service.selector.as_ref().is_some_and(|selector| selector.selects(label))
}
