//! What a change touches: pods whose policies are others, and statuses that say something else.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    KIND, PolicyObject, governed::is_told_alike, select::cluster_id, select::selects, target::TargetPods, told,
};
use crate::{
    node::Namespace,
    object::{Key, StatusId},
    pod::Pod,
    selector::Labels,
    service::Service,
    snapshot::{Snapshot, put},
};

impl Snapshot {
    pub(crate) fn set_policy(&mut self, key: Key, new: Option<PolicyObject>) {
        let id = StatusId::new(KIND, key.clone());
        let old = self.authorization_policies.get(&key);
        if old == new.as_ref() {
            return;
        }
        let pods = self.pods_of_either(&id, old, new.as_ref());
        self.touched.pods.extend(pods);
        self.links.policies.change(&id, &self.options.trust_domain, old, new.as_ref());
        self.unsettled.policies.insert(key.namespace.clone());
        self.touched.statuses.insert(id);
        put(&mut self.authorization_policies, key, new);
    }

    pub(crate) fn set_cluster_policy(&mut self, name: &Arc<str>, new: Option<PolicyObject>) {
        let id = cluster_id(name);
        let old = self.cluster_authorization_policies.get(name);
        if old == new.as_ref() {
            return;
        }
        let pods = self.pods_of_either(&id, old, new.as_ref());
        self.links.policies.change(&id, &self.options.trust_domain, old, new.as_ref());
        self.unsettled.policies.extend(pods.iter().map(|pod| pod.namespace.clone()));
        self.touched.pods.extend(pods);
        self.touched.statuses.insert(id);
        put(&mut self.cluster_authorization_policies, name.clone(), new);
    }

    fn pods_of_either(&self, id: &StatusId, old: Option<&PolicyObject>, new: Option<&PolicyObject>) -> BTreeSet<Key> {
        let of = |policy| self.selected(id, policy).map(|(key, _)| key.clone());
        old.into_iter().chain(new).flat_map(of).collect()
    }

    /// Statuses of policies that say something else of a pod that comes, changes or goes, or of what they name. To be asked
    /// before the pod is another.
    pub(crate) fn touch_policies_of_pod(&mut self, old: Option<&Pod>, new: Option<&Pod>) {
        let is_alike = old.zip(new).is_some_and(|(old, new)| is_told_alike(old, new));
        let Some(namespace) = old.or(new).map(|pod| pod.namespace.clone()) else { return };
        if !is_alike {
            let is_told = |policy: &PolicyObject| old.into_iter().chain(new).any(|pod| self.is_about(policy, pod));
            let told = self.policies_for(&namespace).filter(|(_, policy)| is_told(policy)).map(|(id, _)| id);
            let told: Vec<_> = told.collect();
            self.touched.statuses.extend(told);
        }
        let mut changed = self.links.policies.pod(old, new);
        // A namespace is known by its first pod.
        if old.is_some() != new.is_some() && self.pods_in(&namespace).nth(1).is_none() {
            changed.insert(Key::new(namespace, ""));
        }
        for account in changed {
            self.touched.statuses.extend(self.links.policies.naming_account(&account));
        }
    }

    /// What a Service that comes, changes or goes means to policies. To be asked before it is another.
    pub(crate) fn touch_policies_of_service(&mut self, key: &Key, old: Option<&Service>, new: Option<&Service>) {
        let told = |service: &Service| {
            let ports: Vec<_> = service.ports.iter().map(|port| (port.port, port.target.clone())).collect();
            (service.selector.clone(), ports, service.is_cut)
        };
        if old.map(told) == new.map(told) {
            return;
        }
        self.unsettled.policies.insert(key.namespace.clone());
        let about: Vec<StatusId> = self.links.policies.naming_service(key).collect();
        if about.is_empty() {
            return;
        }
        self.touched.statuses.extend(about);
        // One that is known by name only may select any.
        let may_be_any = self.has_gone(&key.namespace) && old.is_some() != new.is_some();
        let is_of = |pod: &Pod| may_be_any || old.into_iter().chain(new).any(|service| selects(service, pod));
        let pods = self.pods_in(&key.namespace).filter(|(_, pod)| is_of(pod)).map(|(key, _)| key.clone());
        let pods: Vec<_> = pods.collect();
        self.touched.pods.extend(pods);
    }

    /// What a Namespace that comes, changes or goes means to policies. To be asked before it is another.
    pub(crate) fn touch_policies_of_namespace(&mut self, name: &Arc<str>, new: Option<&Namespace>) {
        let old = self.namespaces.get(name);
        let labels = |found: Option<&Namespace>| found.map_or(Labels::new(), |found| found.labels.clone());
        if old.is_some() != new.is_some() {
            let naming: Vec<_> = self.links.policies.naming_account(&Key::new(name.clone(), "")).collect();
            self.touched.statuses.extend(naming);
        }
        if labels(old) != labels(new) && !self.cluster_authorization_policies.is_empty() {
            self.touch_pods_in(name);
            self.unsettled.policies.insert(name.clone());
            let all: Vec<_> = self.cluster_policies().map(|(name, _)| cluster_id(name)).collect();
            self.touched.statuses.extend(all);
        }
    }

    /// Services of a namespace are known by name only, or not any more: policies that name such are about other pods.
    pub(crate) fn touch_policies_of_gone(&mut self, namespace: &Arc<str>) {
        let of_services = |policy: &PolicyObject| matches!(policy.target, TargetPods::OfServices(_));
        let about = self.policies_of(namespace).filter(|(_, policy)| of_services(policy));
        let about: Vec<_> = about.map(|(key, _)| StatusId::new(KIND, key.clone())).collect();
        if !about.is_empty() {
            self.touch_pods_in(namespace);
            self.touched.statuses.extend(about);
        }
    }

    pub(crate) fn touch_pods_in(&mut self, namespace: &Arc<str>) {
        let pods: Vec<_> = self.pods_in(namespace).map(|(key, _)| key.clone()).collect();
        self.touched.pods.extend(pods);
    }

    /// The policies of a namespace of which something else may be to be said because of others there: those that name
    /// ports, and all if they are more than a proxy takes.
    pub(crate) fn settle_policies(&mut self) {
        for namespace in std::mem::take(&mut self.unsettled.policies) {
            let is_crowded = self.links.policies.settle(&namespace);
            let all = self.policies_for(&namespace).filter(|(_, policy)| is_crowded || told::has_ports(policy));
            let all: Vec<_> = all.map(|(id, _)| id).collect();
            self.touched.statuses.extend(all);
        }
    }
}
