//! What is wrong with policies because of other objects. It is told, and changes nothing by itself.

use std::{collections::BTreeSet, sync::Arc};

use mesh_policy::{Action, AuthorizationPolicy, AuthorizationRule, Enforcement, Principal, Tier};

use super::{
    KIND, PolicyObject,
    select::{Applied, selects},
    target::TargetPods,
};
use crate::{
    object::{Key, StatusId},
    pod::Pod,
    problem::{Place, Problem, Reason, Report},
    service::{Service, TargetPort},
    snapshot::Snapshot,
};

/// Most pods of a policy that are looked at one by one, since they are mostly alike, and most ports that no container has.
const MAX_LOOKED_AT: usize = 10;

impl Snapshot {
    /// What is wrong with the policies because of other objects.
    pub(crate) fn doubts_of_policies(&self) -> Vec<Problem> {
        let own = self.authorization_policies.keys().map(|key| StatusId::new(KIND, key.clone()));
        let all = own.chain(self.cluster_policies().map(|(name, _)| super::select::cluster_id(name)));
        all.filter_map(|id| Some(self.doubts_of_policy(&id, self.policy(&id)?))).flatten().collect()
    }

    /// The same of one of them.
    pub(super) fn doubts_of_policy(&self, id: &StatusId, policy: &PolicyObject) -> Vec<Problem> {
        let mut report = Report::about(id.key.id(id.kind));
        let pods: Vec<&Pod> = self.selected(id, policy).map(|(_, pod)| pod).take(MAX_LOOKED_AT).collect();
        self.check_target(id, policy, pods.is_empty(), &mut report);
        for named in named(&policy.policy.rules, &self.options.trust_domain) {
            self.check_named(&named, policy, &mut report);
        }
        self.check_room(id, policy, &pods, &mut report);
        if policy.policy.action == Action::Allow && policy.policy.mode == Enforcement::Enforce && has_ports(policy) {
            self.check_closed_ports(policy, &pods, &mut report);
        }
        self.check_service_ports(policy, &pods, &mut report);
        report.finish()
    }

    fn check_target(&self, id: &StatusId, policy: &PolicyObject, is_empty: bool, report: &mut Report<'_>) {
        let TargetPods::OfServices(names) = &policy.target else {
            let field = if id.kind == KIND { "spec.targetRefs[0].selector" } else { "spec.podSelector" };
            if is_empty {
                let what = "no pod is selected";
                warn(policy, field, Reason::NoMatchingParent, what, "correct the labels, or create the pods", report);
            }
            return;
        };
        for name in names {
            let service = self.services.get(&Key { namespace: id.key.namespace.clone(), name: name.clone() });
            let (what, fix) = match service {
                None => (format!("there is no Service {}/{name}", id.key.namespace), "create it, or correct the name"),
                Some(service) if service.selector.is_none() => (
                    format!("Service {}/{name} has no selector, so no pods", id.key.namespace),
                    "select the pods by labels",
                ),
                Some(_) if is_empty => {
                    (format!("Service {}/{name} selects no pod", id.key.namespace), "correct its selector")
                }
                Some(_) => continue,
            };
            warn(policy, "spec.targetRefs", Reason::NoMatchingParent, &what, fix, report);
        }
    }

    fn check_named(&self, named: &Named, policy: &PolicyObject, report: &mut Report<'_>) {
        let Key { namespace, name } = &named.account;
        let what = if !self.has_namespace(namespace) {
            format!("there is no namespace {namespace}")
        } else if !name.is_empty() && !self.links.policies.has_account(&named.account) {
            format!("no pod of the service account {namespace}/{name} is known")
        } else {
            return;
        };
        let fix = "correct the name, or leave it until there is one";
        warn(policy, &named.field, Reason::BackendNotFound, &what, fix, report);
    }

    /// Whether a namespace is known, by itself or by a pod.
    fn has_namespace(&self, namespace: &Arc<str>) -> bool {
        self.namespaces.get(namespace).is_some() || self.pods_in(namespace).next().is_some()
    }

    /// Policies that are in force otherwise than written, since a proxy takes no more.
    fn check_room(&self, id: &StatusId, policy: &PolicyObject, pods: &[&Pod], report: &mut Report<'_>) {
        let at = place(policy, "spec");
        let cut = pods.iter().find(|pod| self.applied(policy, pod).is_some_and(|applied| applied.is_cut));
        if let Some(pod) = cut {
            let mark = report.mark();
            let what = format!(
                "not every port that its Services lead to at {} is known, or they are too many",
                pod.workload()
            );
            report.error_at(
                &at,
                Reason::TooLarge,
                what,
                "correct the Services, or select the pods and name their ports",
            );
            report.effect(mark, "it is about every port there; an ALLOW lets nobody in");
        }
        let is_crowded = |pod: &&&Pod| self.links.policies.is_crowded(&pod.namespace);
        if let Some(pod) = pods.iter().filter(is_crowded).find(|pod| self.is_folded(id, pod)) {
            let mark = report.mark();
            let what =
                format!("more policies are about {} than its proxy takes, and this is one of the last", pod.workload());
            report.error_at(&at, Reason::TooLarge, what, "merge policies or their rules");
            let effect = match (policy.policy.mode, policy.policy.action) {
                (Enforcement::Shadow, _) | (_, Action::Audit) => "it reports nothing there",
                (_, Action::Allow) => "it lets nobody in there",
                (_, Action::Deny) => "everyone is refused there",
            };
            report.effect(mark, effect);
        }
    }

    /// Ports that pods declare and that no ALLOW about them names, where one names others.
    fn check_closed_ports(&self, policy: &PolicyObject, pods: &[&Pod], report: &mut Report<'_>) {
        let mut told = BTreeSet::new();
        for pod in pods {
            let Some(applied) = self.applied(policy, pod) else { continue };
            // Those that let in at the same gate.
            let is_allow = |object: &&PolicyObject| {
                let AuthorizationPolicy { tier, action, mode, level, .. } = object.policy;
                let is_in_force = action == Action::Allow && mode == Enforcement::Enforce;
                is_in_force && level == applied.policy.level && (tier == applied.policy.tier || tier == Tier::Admin)
            };
            let all = self.policies_for(&pod.namespace).map(|(_, object)| object).filter(is_allow);
            let allows: Vec<Applied<'_>> = all.filter_map(|object| self.applied(object, pod)).collect();
            for port in pod.container_ports.iter().filter(|port| applied.policy.is_about(**port)) {
                let names = |rule: &AuthorizationRule| {
                    rule.ports.as_ref().is_none_or(|ports| ports.contains(*port))
                        && rule.sources.as_ref().is_none_or(|sources| !sources.is_empty())
                };
                let opens = |allow: &Applied<'_>| allow.policy.is_about(*port) && allow.policy.rules.iter().any(names);
                if allows.iter().any(opens) || !told.insert(*port) {
                    continue;
                }
                let name = pod.ports.iter().find(|(_, number)| *number == port);
                let name = name.map_or(String::new(), |(name, _)| format!(" ({name})"));
                let what = format!("port {port}{name} of {} is closed to everyone: no ALLOW names it", pod.workload());
                let fix = format!("add {port} to the ports of a rule, or leave it closed");
                warn(policy, "spec.rules", Reason::UnsupportedValue, &what, &fix, report);
            }
        }
    }

    /// Ports of rules that are those of a Service and not those of its pods.
    fn check_service_ports(&self, policy: &PolicyObject, pods: &[&Pod], report: &mut Report<'_>) {
        let Some(first) = pods.first() else { return };
        let of_container = |port: u16| pods.iter().any(|pod| pod.container_ports.contains(&port));
        let listed = policy.policy.rules.iter().enumerate().flat_map(|(at, rule)| {
            let ranges = rule.ports.iter().flat_map(|ports| ports.ranges().iter().copied());
            ranges.flat_map(|(low, high)| low..=high).map(move |port| (at, port))
        });
        // Each is looked for among all Services of the namespace.
        for (at, port) in listed.filter(|(_, port)| !of_container(*port)).take(MAX_LOOKED_AT) {
            let Some((service, target)) = self.service_with(first, port) else { continue };
            let what = format!("{port} is the port of Service {}; its pods listen on {target}", service.name);
            let field = format!("spec.rules[{at}].networkAttributes.ports");
            warn(policy, &field, Reason::UnsupportedValue, &what, &format!("write {target}"), report);
        }
    }

    /// A Service that leads from a port to another one of a pod.
    fn service_with(&self, pod: &Pod, number: u16) -> Option<(&Service, u16)> {
        let first = Key::new(pod.namespace.clone(), "");
        let services = self.services.range_from(&first).take_while(|(key, _)| key.namespace == pod.namespace);
        services.map(|(_, service)| service).filter(|service| selects(service, pod)).find_map(|service| {
            let target = match &service.port(number)?.target {
                TargetPort::Number(target) => *target,
                TargetPort::Name(name) => *pod.ports.get(name)?,
            };
            (target != number).then_some((service, target))
        })
    }
}

/// A service account or, where it has no name, a namespace of the mesh that a rule names.
pub(super) struct Named {
    pub(super) account: Key,
    /// Where.
    field: String,
}

/// What rules name of the mesh itself.
pub(super) fn named(rules: &[AuthorizationRule], trust_domain: &str) -> Vec<Named> {
    let mut all = Vec::new();
    for (rule_at, rule) in rules.iter().enumerate() {
        for (at, source) in rule.sources.iter().flatten().enumerate() {
            for principal in source.all.iter().chain(&source.except) {
                let account = match principal {
                    Principal::Identity(identity) if identity.trust_domain() == trust_domain => {
                        Key::new(identity.namespace(), identity.service_account())
                    }
                    Principal::Namespace { trust_domain: of, namespace } if **of == *trust_domain => {
                        Key::new(namespace.clone(), "")
                    }
                    _ => continue,
                };
                all.push(Named { account, field: format!("spec.rules[{rule_at}].sources[{at}]") });
            }
        }
    }
    all
}

/// Whether rules of a policy name ports.
pub(super) fn has_ports(policy: &PolicyObject) -> bool {
    policy.policy.rules.iter().any(|rule| rule.ports.is_some())
}

fn place(policy: &PolicyObject, field: &str) -> Place {
    Place { field: field.to_owned(), source: policy.source.clone() }
}

fn warn(policy: &PolicyObject, field: &str, reason: Reason, what: &str, fix: &str, report: &mut Report<'_>) {
    report.warning_at(&place(policy, field), reason, what, fix);
}
