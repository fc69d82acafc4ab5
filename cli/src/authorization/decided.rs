//! The decision of the sidecars behind a target, as one value: what `-o json` prints, what text is made of.

use mesh_policy::{
    ConnectionFacts, InboundVerdict, Protocol, RequestFacts, RuleMiss, RuleRef, Step, Trace, WorkloadPolicy,
    authorization::{Action, AuthorizationPolicy, Level, Principal},
    decide_inbound,
    trace::MAX_STEPS,
};
use serde::Serialize;

use super::{
    behind::Behind,
    caller::{Caller, Who},
    words::{level, mode, openness},
};

/// What becomes of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// It is let in.
    Allowed,
    /// A DENY refuses it.
    Denied,
    /// An ALLOW closes the port, and none lets it in.
    Closed,
    /// The port takes no path that servers read in several ways.
    AmbiguousPath,
    /// No sidecar stands before the pods, so nobody decides.
    NoSidecar,
    /// There are no pods.
    NoPods,
    /// It is not known who calls.
    Unknown,
}

impl Verdict {
    /// Whether the caller is turned away.
    pub(crate) fn is_refused(self) -> bool {
        matches!(self, Self::Denied | Self::Closed | Self::AmbiguousPath)
    }
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ByRule {
    /// As in `AuthorizationPolicy shop/web`.
    pub policy: String,
    /// Which of its rules, from 0; `null`: all of them.
    pub rule: Option<usize>,
}

/// A rule that does not match, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Missed {
    /// As in `AuthorizationPolicy shop/web`.
    pub policy: String,
    /// Which of its rules, from 0.
    pub rule: usize,
    /// The part that does not match.
    pub why: String,
}

/// A policy that is about the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Looked {
    /// As in `AuthorizationPolicy shop/web`.
    pub policy: String,
    /// `Admin`, `Namespace` or `Baseline`.
    pub tier: String,
    /// `ALLOW`, `DENY` or `AUDIT`.
    pub action: String,
    /// `Enforce` or `Shadow`.
    pub mode: &'static str,
    /// `Network` or `Application`.
    pub level: &'static str,
    /// Whether it decided.
    pub decided: bool,
    /// Its rules that were tried and do not match.
    pub lost: Vec<LostRule>,
}

/// A rule of a policy that does not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LostRule {
    /// From 0.
    pub rule: usize,
    /// The part that does not match.
    pub why: String,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Decided {
    /// What happens.
    pub verdict: Verdict,
    /// The rule that decided.
    pub by: Option<ByRule>,
    /// Why, in words.
    pub reason: String,
    /// Of a port that is closed: the rule of an ALLOW that came nearest.
    pub nearest: Option<Missed>,
    /// Every policy about the port.
    pub policies: Vec<Looked>,
    /// What would happen if policies in shadow were in force; `null`: there are none, or nothing would change.
    pub shadow: Option<Shadowed>,
    /// AUDIT rules that match.
    pub audited: Vec<ByRule>,
}

/// What would happen if policies in shadow were in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Shadowed {
    /// What would happen.
    pub verdict: Verdict,
    /// The rule that would decide.
    pub by: Option<ByRule>,
}

/// The decision of pods with equal policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    /// `namespace/name:port` of the Service that leads to them; `null`: they are called themselves.
    pub service: Option<String>,
    /// The port of the pods; `null` where there are none.
    pub port: Option<u16>,
    /// `namespace/name` of each.
    pub pods: Vec<String>,
    /// What they decide.
    #[serde(flatten)]
    pub decided: Decided,
}

/// What the pods behind a target decide, those of equal decisions together.
pub(crate) fn groups(
    service: Option<&str>,
    behind: &[Behind],
    caller: &Caller,
    request: Option<&RequestFacts<'_>>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for Behind { port, pods, policy } in behind {
        let decided = match policy {
            Some(policy) => decide(policy, *port, caller, request),
            None => Decided::plain(Verdict::NoSidecar, "no sidecar stands before it, so nobody decides: let in"),
        };
        let known = groups.iter_mut().find(|group| group.port == Some(*port) && group.decided == decided);
        match known {
            Some(group) => group.pods.extend(pods.iter().cloned()),
            None => {
                let service = service.map(str::to_owned);
                groups.push(Group { service, port: Some(*port), pods: pods.clone(), decided });
            }
        }
    }
    if groups.is_empty() {
        let decided = Decided::plain(Verdict::NoPods, "there is no pod behind it, so nobody decides");
        groups.push(Group { service: service.map(str::to_owned), port: None, pods: Vec::new(), decided });
    }
    groups
}

/// Whether a rule about the port compares addresses: then a caller's matters.
pub(super) fn compares_addresses(policy: &WorkloadPolicy, port: u16) -> bool {
    let about = policy.authorization.iter().filter(|policy| policy.is_about(port));
    let sources = about.flat_map(|policy| &policy.rules).flat_map(|rule| rule.sources.iter().flatten());
    let mut principals = sources.flat_map(|source| source.all.iter().chain(&source.except));
    principals.any(|principal| matches!(principal, Principal::Cidr(_)))
}

fn decide(policy: &WorkloadPolicy, port: u16, caller: &Caller, request: Option<&RequestFacts<'_>>) -> Decided {
    let client = match &caller.who {
        Who::Proved(identity) => Some(identity),
        Who::Nobody => None,
        Who::Unknown => {
            let policies = looked(policy, port, &[], None);
            return Decided { policies, ..Decided::plain(Verdict::Unknown, &openness(policy, port)) };
        }
    };
    // Bytes show no requests.
    let request = request.filter(|_| policy.ports.get(port).protocol != Protocol::Opaque);
    let facts = ConnectionFacts { client, source: caller.address(), port };
    let mut heard = Heard { policy, lost: Vec::new(), nearest: None, said: String::new() };
    let decision = decide_inbound(policy, &facts, request, &mut heard);
    let (verdict, by) = (verdict_of(&decision.verdict), by_of(&decision.verdict));
    let closed = by.filter(|_| verdict == Verdict::Closed).map(|by| by.policy.level);
    let nearest = heard.nearest.filter(|nearest| closed == Some(nearest.level));
    let shadow = decision.shadow.filter(|shadow| shadow.is_refused() != decision.verdict.is_refused());
    Decided {
        verdict,
        by: by.map(ByRule::of),
        reason: heard.said,
        nearest: nearest.map(|nearest| nearest.missed),
        policies: looked(policy, port, &heard.lost, by.map(|by| by.policy)),
        shadow: shadow.map(|shadow| Shadowed { verdict: verdict_of(&shadow), by: by_of(&shadow).map(ByRule::of) }),
        audited: decision.audited.iter().copied().map(ByRule::of).collect(),
    }
}

impl Decided {
    fn plain(verdict: Verdict, reason: &str) -> Self {
        Self {
            verdict,
            by: None,
            reason: reason.to_owned(),
            nearest: None,
            policies: Vec::new(),
            shadow: None,
            audited: Vec::new(),
        }
    }
}

impl ByRule {
    fn of(by: RuleRef<'_>) -> Self {
        Self { policy: by.policy.name.to_string(), rule: by.rule }
    }
}

fn by_of<'p>(verdict: &InboundVerdict<'p>) -> Option<RuleRef<'p>> {
    match verdict {
        InboundVerdict::Allow(by) => *by,
        InboundVerdict::Deny(by) => Some(*by),
        InboundVerdict::AmbiguousPath => None,
    }
}

fn verdict_of(verdict: &InboundVerdict<'_>) -> Verdict {
    match verdict {
        InboundVerdict::Allow(_) => Verdict::Allowed,
        InboundVerdict::Deny(by) if by.policy.action == Action::Allow => Verdict::Closed,
        InboundVerdict::Deny(_) => Verdict::Denied,
        InboundVerdict::AmbiguousPath => Verdict::AmbiguousPath,
    }
}

/// Policies about the port, those that decided or were tried first, in their order.
fn looked(
    policy: &WorkloadPolicy,
    port: u16,
    lost: &[(usize, Missed)],
    decided: Option<&AuthorizationPolicy>,
) -> Vec<Looked> {
    let about = policy.authorization.iter().enumerate().filter(|(_, policy)| policy.is_about(port));
    let one = |(place, policy): (usize, &AuthorizationPolicy)| Looked {
        policy: policy.name.to_string(),
        tier: policy.tier.to_string(),
        action: policy.action.to_string(),
        mode: mode(policy.mode),
        level: level(policy.level),
        decided: decided.is_some_and(|decided| std::ptr::eq(decided, policy)),
        lost: lost
            .iter()
            .filter(|(of, _)| *of == place)
            .map(|(_, missed)| LostRule { rule: missed.rule, why: missed.why.clone() })
            .collect(),
    };
    about.map(one).collect()
}

/// How far a rule came: the later it failed, the nearer it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Ports,
    Sources,
    Operation,
}

/// A rule that nearly let the caller in.
struct Nearest {
    stage: Stage,
    level: Level,
    missed: Missed,
}

/// Hears the steps of a decision.
struct Heard<'p> {
    policy: &'p WorkloadPolicy,
    /// Rules that lost, each with the place of its policy.
    lost: Vec<(usize, Missed)>,
    /// The one of an ALLOW that came nearest.
    nearest: Option<Nearest>,
    /// The decision in words.
    said: String,
}

impl Trace for Heard<'_> {
    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::RuleLost { policy, rule_index, why } => {
                let is_it = |known: &AuthorizationPolicy| std::ptr::eq(known, policy);
                let Some(place) = self.policy.authorization.iter().position(is_it) else { return };
                let stage = match why {
                    RuleMiss::Port => Stage::Ports,
                    RuleMiss::Source(_) => Stage::Sources,
                    RuleMiss::Operation(_) | RuleMiss::Bytes => Stage::Operation,
                };
                // The later level is that which decides.
                let is_nearer = policy.action == Action::Allow
                    && self.nearest.as_ref().is_none_or(|known| known.level != policy.level || known.stage < stage);
                if !is_nearer && self.lost.len() >= MAX_STEPS {
                    return;
                }
                let missed = Missed { policy: policy.name.to_string(), rule: rule_index, why: why.to_string() };
                if is_nearer {
                    self.nearest = Some(Nearest { stage, level: policy.level, missed: missed.clone() });
                }
                if self.lost.len() < MAX_STEPS {
                    self.lost.push((place, missed));
                }
            }
            Step::Inbound { .. } => self.said = step.to_string(),
            _ => {}
        }
    }
}
