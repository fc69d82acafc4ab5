//! The table for one connection: what only depends on the caller and the port is decided once, not with each request.
//!
//! A pod may have a thousand rules, and most are about other callers. What is left is found by the first segment of the
//! request's path. The decision is that of [`decide_inbound`](super::decide_inbound), which a property test holds.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{
    Action, AuthorizationPolicy, Enforcement, Level, Tier,
    operation::{Operation, Quantity},
    readings::{Readings, readings},
    table::{InboundDecision, InboundVerdict, RuleRef},
};
use crate::{
    facts::{ConnectionFacts, RequestFacts},
    model::WorkloadPolicy,
    route::PathMatch,
};

/// See the module. It belongs to one policy and to one connection, and says nothing of others.
#[derive(Clone, Debug)]
pub struct Prepared {
    enforced: [Gate; 2],
    /// The same if policies in shadow were in force; `None`: there are none.
    shadow: Option<[Gate; 2]>,
    audits: Rules,
    strict_paths: bool,
    /// No policy says anything of this connection, whatever it asks for.
    is_open: bool,
}

/// The table at one level.
type Gate = Vec<Line>;

/// One line of the table that is about this connection.
#[derive(Clone, Debug)]
struct Line {
    action: Action,
    rules: Rules,
    /// The first ALLOW of a tier that is closed to what no ALLOW matches.
    closed_by: Option<u16>,
}

/// Rules that are about this connection, in the order of the policies.
#[derive(Clone, Debug, Default)]
struct Rules {
    all: Vec<Candidate>,
    /// Places in `all` of those that a path can only match by its first segment.
    by_segment: HashMap<Box<str>, Vec<u16>>,
    /// Places of the others.
    others: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    policy: u16,
    rule: u16,
}

impl Prepared {
    /// For the connections with these facts. Policies beyond 65,536, and rules beyond that of one policy, are not looked at;
    /// whoever sends them is bounded far below.
    pub fn new(policy: &WorkloadPolicy, connection: &ConnectionFacts<'_>) -> Self {
        let about: Vec<_> =
            (0..=u16::MAX).zip(&policy.authorization).filter(|(_, p)| p.is_about(connection.port)).collect();
        let gates = |with_shadow: bool| Level::ALL.map(|level| gate(&about, level, with_shadow, connection));
        let has_shadow = about.iter().any(|(_, policy)| policy.mode == Enforcement::Shadow);
        let audits = about.iter().filter(|(_, p)| p.action == Action::Audit && p.mode == Enforcement::Enforce);
        let (enforced, audits) = (gates(false), Rules::new(audits.copied(), connection));
        let strict_paths = policy.ports.get(connection.port).strict_paths;
        let is_open = enforced.iter().all(Vec::is_empty) && audits.all.is_empty() && !has_shadow && !strict_paths;
        Self { enforced, shadow: has_shadow.then(|| gates(true)), audits, strict_paths, is_open }
    }

    /// Decides about one request of the connection, or about its bytes if `request` is `None`. `policy` is the one that it was
    /// made of.
    pub fn decide<'p>(&self, policy: &'p WorkloadPolicy, request: Option<&RequestFacts<'_>>) -> InboundDecision<'p> {
        if self.is_open {
            let (verdict, audited) = (InboundVerdict::Allow(None), SmallVec::new());
            return InboundDecision { verdict, shadow: None, audited };
        }
        let subject = Subject { policy, request, readings: request.map(|request| readings(request.path)) };
        let is_refused = self.strict_paths && subject.readings.as_ref().is_some_and(|readings| readings.len() > 1);
        let verdict = if is_refused { InboundVerdict::AmbiguousPath } else { subject.through(&self.enforced) };
        InboundDecision {
            verdict,
            shadow: self.shadow.as_ref().map(|gates| subject.through(gates)),
            audited: subject.audited(&self.audits),
        }
    }
}

fn gate(
    about: &[(u16, &AuthorizationPolicy)],
    level: Level,
    with_shadow: bool,
    connection: &ConnectionFacts<'_>,
) -> Gate {
    let in_force =
        |policy: &AuthorizationPolicy| policy.level == level && (with_shadow || policy.mode == Enforcement::Enforce);
    let mut gate = Vec::new();
    for tier in [Tier::Admin, Tier::Namespace, Tier::Baseline] {
        for action in [Action::Deny, Action::Allow] {
            let of = about.iter().copied().filter(|(_, p)| p.tier == tier && p.action == action && in_force(p));
            let closes = action == Action::Allow && tier != Tier::Admin;
            let closed_by = of.clone().next().map(|(place, _)| place).filter(|_| closes);
            let rules = Rules::new(of, connection);
            if closed_by.is_some() || !rules.all.is_empty() {
                gate.push(Line { action, rules, closed_by });
            }
        }
    }
    gate
}

impl Rules {
    fn new<'p>(
        policies: impl Iterator<Item = (u16, &'p AuthorizationPolicy)>,
        connection: &ConnectionFacts<'_>,
    ) -> Self {
        let mut rules = Self::default();
        for (policy_place, policy) in policies {
            for (rule_place, rule) in (0..=u16::MAX).zip(&policy.rules) {
                if !policy.has_caller(rule, connection) {
                    continue;
                }
                let Ok(place) = u16::try_from(rules.all.len()) else { return rules };
                rules.all.push(Candidate { policy: policy_place, rule: rule_place });
                let segments = match (&rule.to, policy.level) {
                    (Some(to), Level::Application) => to.iter().map(segment).collect(),
                    _ => None,
                };
                match segments {
                    Some::<Vec<&str>>(segments) => segments.into_iter().for_each(|segment| {
                        rules.by_segment.entry(segment.into()).or_default().push(place);
                    }),
                    None => rules.others.push(place),
                }
            }
        }
        rules
    }
}

/// The first segment of every path that an operation matches; `None`: there is no such segment.
fn segment(Operation(wanted): &Operation) -> Option<&str> {
    match &wanted.path {
        PathMatch::Exact(path) => Some(first_segment(path)),
        PathMatch::Prefix(path) => Some(first_segment(path)).filter(|segment| !segment.is_empty()),
        PathMatch::Regex(_) | PathMatch::Grpc { .. } => None,
    }
}

fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').next().unwrap_or_default()
}

struct Subject<'p, 'r> {
    policy: &'p WorkloadPolicy,
    request: Option<&'r RequestFacts<'r>>,
    readings: Option<Readings<'r>>,
}

impl<'p> Subject<'p, '_> {
    fn through(&self, gates: &[Gate; 2]) -> InboundVerdict<'p> {
        let mut allowed = None;
        for gate in gates {
            match self.at(gate) {
                InboundVerdict::Allow(by) => allowed = by.or(allowed),
                refused => return refused,
            }
        }
        InboundVerdict::Allow(allowed)
    }

    fn at(&self, gate: &Gate) -> InboundVerdict<'p> {
        for Line { action, rules, closed_by } in gate {
            let quantity = if *action == Action::Allow { Quantity::All } else { Quantity::Any };
            match (self.first(rules, quantity), action) {
                (Some(by), Action::Allow) => return InboundVerdict::Allow(Some(by)),
                (Some(by), _) => return InboundVerdict::Deny(by),
                (None, _) => {}
            }
            if let Some(policy) = closed_by.and_then(|place| self.policy.authorization.get(usize::from(place))) {
                return InboundVerdict::Deny(RuleRef { policy, rule: None });
            }
        }
        InboundVerdict::Allow(None)
    }

    /// The first rule that matches.
    fn first(&self, rules: &Rules, quantity: Quantity) -> Option<RuleRef<'p>> {
        let places = self.places(rules);
        places.into_iter().find_map(|place| self.matching(rules, place, quantity))
    }

    /// Of each AUDIT policy the first rule that matches.
    fn audited(&self, rules: &Rules) -> SmallVec<[RuleRef<'p>; 1]> {
        let mut audited = SmallVec::<[RuleRef<'p>; 1]>::new();
        for place in self.places(rules) {
            if let Some(by) = self.matching(rules, place, Quantity::Any)
                && audited.last().is_none_or(|last| !std::ptr::eq(last.policy, by.policy))
            {
                audited.push(by);
            }
        }
        audited
    }

    /// Where rules are that may match, in order. Of bytes nothing is seen, so every rule may.
    fn places(&self, rules: &Rules) -> SmallVec<[u16; 16]> {
        let Some(readings) = &self.readings else {
            return (0..=u16::MAX).take(rules.all.len()).collect();
        };
        let mut places: SmallVec<[u16; 16]> = rules.others.iter().copied().collect();
        if !rules.by_segment.is_empty() {
            for reading in readings {
                let found = rules.by_segment.get(first_segment(reading));
                places.extend(found.into_iter().flatten().copied());
            }
            places.sort_unstable();
            places.dedup();
        }
        places
    }

    fn matching(&self, rules: &Rules, place: u16, quantity: Quantity) -> Option<RuleRef<'p>> {
        let Candidate { policy, rule } = *rules.all.get(usize::from(place))?;
        let policy = self.policy.authorization.get(usize::from(policy))?;
        let index = usize::from(rule);
        let rule = policy.rules.get(index)?;
        let request = self.request.zip(self.readings.as_deref());
        policy.operation_miss(rule, request, quantity).is_none().then_some(RuleRef { policy, rule: Some(index) })
    }
}
