//! Decisions of servers in words.

use mesh_policy::{
    Action, Enforcement, Level, Tier, WorkloadPolicy,
    authorization::{AuthorizationPolicy, AuthorizationRule, Principal},
};

use super::decided::{Decided, Group, Looked, Missed, Verdict};

/// Pods that are named one by one; `-o json` has them all.
const MAX_PODS: usize = 3;
/// Rules of a policy that are told one by one.
const MAX_RULES: usize = 20;

/// As manifests spell it.
pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Network => "Network",
        Level::Application => "Application",
    }
}

/// As manifests spell it.
pub(super) fn mode(mode: Enforcement) -> &'static str {
    match mode {
        Enforcement::Enforce => "Enforce",
        Enforcement::Shadow => "Shadow",
    }
}

/// Who may call a port in general: `open to everyone`, `closed but for 3 rules`, `strict`.
pub(crate) fn openness(policy: &WorkloadPolicy, port: u16) -> String {
    let in_force = |policy: &&AuthorizationPolicy| policy.is_about(port) && policy.mode == Enforcement::Enforce;
    let is_here = |rule: &&AuthorizationRule| rule.ports.as_ref().is_none_or(|ports| ports.contains(port));
    let of = |action| policy.authorization.iter().filter(in_force).filter(move |policy| policy.action == action);
    let count = |action| of(action).flat_map(|policy| &policy.rules).filter(is_here).count();
    let is_closed = of(Action::Allow).any(|policy| policy.tier != Tier::Admin);
    let denies = || of(Action::Deny).flat_map(|policy| &policy.rules).filter(is_here);
    let is_strict = denies().any(refuses_strangers);
    let rules = |count: usize| if count == 1 { "1 rule".to_owned() } else { format!("{count} rules") };
    let mut words = Vec::new();
    if is_strict {
        words.push("strict".to_owned());
    }
    let refusing = denies().filter(|rule| !refuses_strangers(rule)).count();
    match (is_closed, count(Action::Allow), refusing) {
        (true, 0, _) => words.push("closed".to_owned()),
        (true, allowing, _) => words.push(format!("closed but for {}", rules(allowing))),
        (false, _, 0) if is_strict => {}
        (false, _, 0) => words.push("open to everyone".to_owned()),
        (false, _, refusing) => words.push(format!("open but for {}", rules(refusing))),
    }
    words.join(", ")
}

/// Whether a rule of a DENY refuses callers without identity, some of them at least.
fn refuses_strangers(rule: &AuthorizationRule) -> bool {
    let mut sources = rule.sources.iter().flatten();
    rule.to.is_none() && sources.any(|source| source.all == [Principal::Unauthenticated])
}

/// A decision in a line: what is decided, why, and by which pods.
pub(crate) fn line(group: &Group) -> String {
    let Group { service, port, pods, decided } = group;
    let word = match decided.verdict {
        Verdict::Allowed | Verdict::NoSidecar => "let in",
        Verdict::Denied | Verdict::AmbiguousPath => "denied",
        Verdict::Closed => "closed",
        Verdict::NoPods => "nobody",
        Verdict::Unknown => "in general",
    };
    let named: Vec<&str> = pods.iter().take(MAX_PODS).map(String::as_str).collect();
    let more = if pods.len() > MAX_PODS { format!(" and {} more", pods.len() - MAX_PODS) } else { String::new() };
    let at = port.map(|port| format!(" ({}{more}, port {port})", named.join(", "))).unwrap_or_default();
    let service = service.as_ref().map(|service| format!("{service}: ")).unwrap_or_default();
    format!("{service}{word}: {}{at}", decided.reason)
}

/// What was looked at, a line each.
pub(crate) fn details(decided: &Decided) -> Vec<String> {
    let mut lines = Vec::new();
    for looked in &decided.policies {
        lines.push(policy_line(looked));
        let lost = looked.lost.iter().take(MAX_RULES);
        lines.extend(lost.map(|lost| format!("  rule {}: does not match, {}", lost.rule, lost.why)));
        if looked.lost.len() > MAX_RULES {
            lines.push(format!("  and {} more rules; -o json has them", looked.lost.len() - MAX_RULES));
        }
    }
    if let Some(shadow) = &decided.shadow {
        let by = shadow.by.as_ref().map(|by| format!(" by {}", by.policy)).unwrap_or_default();
        let word = if shadow.verdict.is_refused() { "refused" } else { "let in" };
        lines.push(format!("with policies in shadow it would be {word}{by}"));
    }
    lines.extend(decided.audited.iter().map(|by| format!("{} reports it", by.policy)));
    lines
}

/// The rule that came nearest to letting the caller in.
pub(crate) fn nearest(decided: &Decided) -> Option<String> {
    let Missed { policy, rule, why } = decided.nearest.as_ref()?;
    Some(format!("nearest: {policy} rule {rule}, {why}"))
}

fn policy_line(looked: &Looked) -> String {
    let outcome = match looked {
        Looked { decided: true, .. } => "decided",
        Looked { mode: "Shadow", .. } => "in shadow",
        Looked { action, .. } if action == "AUDIT" => "reports only",
        Looked { lost, .. } if lost.is_empty() => "not asked",
        Looked { .. } => "no rule matches",
    };
    let Looked { policy, tier, action, level, .. } = looked;
    format!("{policy} ({tier} {action} {level}): {outcome}")
}
