//! Both kinds of policies, decoded. `crds/` has their schemas; a test keeps them together.

use std::sync::Arc;

use mesh_policy::{Action, AuthorizationPolicy, Enforcement, Level, Ports, Tier};

use super::{
    CLUSTER_KIND, KIND, PolicyObject, closing, mesh_identity,
    rule::{Reader, decode_ports},
    target::{self, TargetPods},
    unreadable,
};
use crate::{
    object::Object,
    options::Options,
    problem::Report,
    selector::Selector,
    walker::{Invalid, MAX_LIST, Node},
};

/// Fields of the `spec` of an AuthorizationPolicy.
pub(crate) const FIELDS: [&str; 5] = ["targetRefs", "action", "mode", "enforcementLevel", "rules"];
/// Fields of the `spec` of a ClusterAuthorizationPolicy.
pub(crate) const CLUSTER_FIELDS: [&str; 9] = [
    "tier",
    "namespaceSelector",
    "podSelector",
    "ports",
    "action",
    "mode",
    "enforcementLevel",
    "rules",
    "requireMeshIdentity",
];
/// Values of `action`.
pub(crate) const ACTIONS: [(&str, Action); 3] =
    [("ALLOW", Action::Allow), ("DENY", Action::Deny), ("AUDIT", Action::Audit)];
/// Values of `mode`.
pub(crate) const MODES: [(&str, Enforcement); 2] = [("Enforce", Enforcement::Enforce), ("Shadow", Enforcement::Shadow)];
/// Values of `enforcementLevel`.
pub(crate) const LEVELS: [(&str, Level); 2] = [("Network", Level::Network), ("Application", Level::Application)];
/// Values of `tier`.
pub(crate) const TIERS: [(&str, Tier); 2] = [("Admin", Tier::Admin), ("Baseline", Tier::Baseline)];

/// What follows where it is not understood which pods a policy is about, or at which ports.
const EVERYWHERE: &str = "it is about every pod that it may be about; an ALLOW lets nobody in there";

/// Decodes an AuthorizationPolicy.
pub(crate) fn decode(object: &Object, options: &Options, report: &mut Report<'_>) -> PolicyObject {
    let name: Arc<str> = format!("{KIND} {}/{}", object.namespace, object.name).into();
    let Some(spec) = spec_of(object, report) else {
        let everywhere = TargetPods::Selected(Selector::default());
        return decoded(object, everywhere, (unreadable(name, Tier::Namespace), 0));
    };
    let is_known = spec.only(&FIELDS, report);
    let mark = report.mark();
    let target = target::decode(&spec, report);
    report.effect(mark, EVERYWHERE);
    let scope = Scope {
        name,
        tier: Ok(Tier::Namespace),
        ports: Ok(None),
        is_known: is_known.is_ok() && target.is_ok(),
        namespace: Some(&object.namespace),
        trust_domain: &options.trust_domain,
    };
    let target = target.unwrap_or_else(|Invalid| TargetPods::Selected(Selector::default()));
    decoded(object, target, read(&spec, scope, report))
}

/// Decodes a ClusterAuthorizationPolicy.
pub(crate) fn decode_cluster(object: &Object, options: &Options, report: &mut Report<'_>) -> PolicyObject {
    let name: Arc<str> = format!("{CLUSTER_KIND} {}", object.name).into();
    let everywhere = || TargetPods::OfNamespaces { namespaces: Selector::default(), pods: Selector::default() };
    let Some(spec) = spec_of(object, report) else {
        return decoded(object, everywhere(), (unreadable(name, Tier::Admin), 0));
    };
    let is_known = spec.only(&CLUSTER_FIELDS, report);
    let mark = report.mark();
    let (target, ports) = (target::decode_cluster(&spec, report), decode_ports(&spec, MAX_LIST, report));
    report.effect(mark, EVERYWHERE);
    let scope = Scope {
        name,
        tier: required(&spec, "tier", &TIERS, report),
        is_known: is_known.is_ok() && target.is_ok() && ports.is_ok(),
        ports,
        namespace: None,
        trust_domain: &options.trust_domain,
    };
    let policy = match spec.get("requireMeshIdentity") {
        Some(node) => (require_identity(&spec, &node, scope, report), 0),
        None => read(&spec, scope, report),
    };
    decoded(object, target.unwrap_or_else(|Invalid| everywhere()), policy)
}

/// What a policy says beside its rules, as far as it is understood.
struct Scope<'o> {
    name: Arc<str>,
    tier: Result<Tier, Invalid>,
    ports: Result<Option<Ports>, Invalid>,
    /// Whether all is understood of what narrows it.
    is_known: bool,
    namespace: Option<&'o str>,
    trust_domain: &'o str,
}

fn decoded(object: &Object, target: TargetPods, (policy, pattern_bytes): (AuthorizationPolicy, usize)) -> PolicyObject {
    PolicyObject { generation: object.generation(), source: object.source.clone(), target, policy, pattern_bytes }
}

fn spec_of<'o>(object: &'o Object, report: &mut Report<'_>) -> Option<Node<'o>> {
    report.patterns.is_of_policy = true;
    let mark = report.mark();
    let root = Node::root(&object.value);
    root.ignore_others(&["apiVersion", "kind", "metadata", "spec", "status"], report);
    let spec = match root.object("spec", report) {
        Ok(None) => Err(root.invalid("spec", "the policy has no spec".to_owned(), "write one", report)),
        found => found,
    };
    report.effect(mark, "it lets nobody in");
    spec.ok().flatten()
}

/// Action, mode, level and rules. Gives what the patterns take, too.
fn read(spec: &Node<'_>, scope: Scope<'_>, report: &mut Report<'_>) -> (AuthorizationPolicy, usize) {
    let mark = report.mark();
    let action = required(spec, "action", &ACTIONS, report);
    report.effect(mark, "it lets nobody in");
    let mode = decode_mode(spec, report);
    let mark = report.mark();
    let level = required(spec, "enforcementLevel", &LEVELS, report);
    let Ok(action) = action else {
        let tier = scope.tier.unwrap_or(Tier::Admin);
        return (AuthorizationPolicy { mode, ..unreadable(scope.name, tier) }, 0);
    };
    let rules = spec.get("rules").and_then(|rules| rules.value.as_array());
    let has_operations = || rules.into_iter().flatten().any(|rule| rule.get("to").is_some_and(|to| !to.is_null()));
    let in_doubt = if action == Action::Deny && has_operations() { Level::Application } else { Level::Network };
    let reader = Reader {
        action,
        level: level.unwrap_or(in_doubt),
        trust_domain: scope.trust_domain,
        namespace: scope.namespace,
    };
    report.effect(mark, reader.follows());
    let (rules, pattern_bytes) = reader.rules(spec, report);
    let policy = AuthorizationPolicy {
        name: scope.name,
        tier: scope.tier.unwrap_or(if action == Action::Deny { Tier::Admin } else { Tier::Baseline }),
        action,
        mode,
        level: reader.level,
        ports: scope.ports.clone().unwrap_or_default(),
        rules,
    };
    let is_whole = scope.is_known && scope.tier.is_ok() && level.is_ok();
    match is_whole || action == Action::Deny {
        true => (policy, pattern_bytes),
        false => (closing(policy), 0),
    }
}

/// `requireMeshIdentity`, in place of action, level and rules.
fn require_identity(
    spec: &Node<'_>,
    node: &Node<'_>,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> AuthorizationPolicy {
    let mode = decode_mode(spec, report);
    let policy = AuthorizationPolicy {
        name: scope.name,
        tier: scope.tier.unwrap_or(Tier::Admin),
        action: Action::Deny,
        mode,
        level: Level::Network,
        ports: scope.ports.unwrap_or_default(),
        rules: mesh_identity::rules(node, report),
    };
    let both = ["action", "enforcementLevel", "rules"].into_iter().find(|field| spec.get(field).is_some());
    let Some(field) = both else { return policy };
    let mark = report.mark();
    let what = format!("{field} and requireMeshIdentity are two policies");
    spec.invalid(field, what, "write one of the two, or two policies", report);
    report.effect(mark, "nobody is let in");
    closing(policy)
}

fn decode_mode(spec: &Node<'_>, report: &mut Report<'_>) -> Enforcement {
    let mark = report.mark();
    let mode = spec.get("mode").map(|_| required(spec, "mode", &MODES, report));
    report.effect(mark, "it is in force");
    mode.and_then(Result::ok).unwrap_or(Enforcement::Enforce)
}

/// The value that a word stands for.
fn required<T: Copy>(
    node: &Node<'_>,
    name: &str,
    known: &[(&'static str, T)],
    report: &mut Report<'_>,
) -> Result<T, Invalid> {
    node.required_text(name, report)?;
    let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
    let word = node.one_of(name, &words, report)?;
    known.iter().find(|(known, _)| Some(*known) == word).map(|(_, value)| *value).ok_or(Invalid)
}
