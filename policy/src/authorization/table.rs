//! The table that decides who may call a pod.
//!
//! At each level, the first line that applies decides:
//!
//! | Line | Then |
//! |---|---|
//! | an Admin DENY matches | refused |
//! | an Admin ALLOW matches | let in, whatever the lines below say |
//! | a Namespace DENY matches | refused |
//! | there is a Namespace ALLOW | let in if one matches, else refused |
//! | a Baseline DENY matches | refused |
//! | there is a Baseline ALLOW | let in if one matches, else refused |
//! | nothing of this | let in |
//!
//! An AUDIT is reported and decides nothing. The same holds for a policy in [`Enforcement::Shadow`]: the table is read a second
//! time as if it were in force.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{
    Action, AuthorizationPolicy, AuthorizationRule, Enforcement, Level, Tier, operation::Quantity, readings::readings,
};
use crate::{
    facts::{ConnectionFacts, RequestFacts},
    model::WorkloadPolicy,
    trace::{RuleMiss, Step, Trace},
};

/// A rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleRef<'p> {
    /// The policy.
    pub policy: &'p AuthorizationPolicy,
    /// Which of its rules, from 0. `None`: all of them, for example if no rule of an ALLOW matches.
    pub rule: Option<usize>,
}

/// Whether a caller may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundVerdict<'p> {
    /// It may. `None`: no policy says anything.
    Allow(Option<RuleRef<'p>>),
    /// It may not: 403 for requests, a closed connection for bytes.
    Deny(RuleRef<'p>),
    /// Servers read the path in several ways, and the port takes no such path: 400.
    AmbiguousPath,
}

impl InboundVerdict<'_> {
    /// Whether it may not continue.
    pub fn is_refused(&self) -> bool {
        !matches!(self, Self::Allow(_))
    }
}

/// The decision about one request, or one connection of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundDecision<'p> {
    /// What happens.
    pub verdict: InboundVerdict<'p>,
    /// What would happen if policies in shadow were in force; `None`: there are no such policies.
    pub shadow: Option<InboundVerdict<'p>>,
    /// The AUDIT policies that match, without those in shadow.
    pub audited: SmallVec<[RuleRef<'p>; 1]>,
}

/// Decides about one request of a connection, or about its bytes if `request` is `None`.
pub fn decide_inbound<'p>(
    policy: &'p WorkloadPolicy,
    connection: &ConnectionFacts<'_>,
    request: Option<&RequestFacts<'_>>,
    trace: &mut impl Trace,
) -> InboundDecision<'p> {
    let readings = request.map(|request| readings(request.path));
    let request = request.zip(readings.as_deref());
    let subject = Subject { connection, request };
    let is_strict = policy.ports.get(connection.port).strict_paths;
    let verdict = if is_strict && request.is_some_and(|(_, readings)| readings.len() > 1) {
        InboundVerdict::AmbiguousPath
    } else {
        subject.both_levels(policy, false, trace)
    };
    trace.step(Step::Inbound { verdict: &verdict, connection });
    let is_shadow = |policy: &AuthorizationPolicy| policy.mode == Enforcement::Shadow;
    let has_shadow = policy.authorization.iter().any(|policy| is_shadow(policy) && policy.is_about(connection.port));
    let shadow = has_shadow.then(|| subject.both_levels(policy, true, &mut ()));
    let audits = policy.authorization.iter().filter(|policy| policy.action == Action::Audit);
    let enforced = audits.filter(|policy| policy.mode == Enforcement::Enforce && policy.is_about(connection.port));
    let audited = enforced.filter_map(|policy| subject.matching(policy, &mut ())).collect();
    InboundDecision { verdict, shadow, audited }
}

/// The caller, and its request with the readings of its path.
struct Subject<'s, 'f> {
    connection: &'s ConnectionFacts<'f>,
    request: Option<(&'s RequestFacts<'f>, &'s [Cow<'s, str>])>,
}

/// The result of one line of the table.
enum Line<'p> {
    /// The next one decides.
    Next,
    Decides(InboundVerdict<'p>),
}

impl Subject<'_, '_> {
    fn both_levels<'p>(
        &self,
        policy: &'p WorkloadPolicy,
        with_shadow: bool,
        trace: &mut impl Trace,
    ) -> InboundVerdict<'p> {
        let mut allowed = None;
        for level in Level::ALL {
            match self.at_level(&policy.authorization, level, with_shadow, trace) {
                InboundVerdict::Allow(by) => allowed = by.or(allowed),
                refused => return refused,
            }
        }
        InboundVerdict::Allow(allowed)
    }

    /// The table, line by line.
    fn at_level<'p>(
        &self,
        policies: &'p [AuthorizationPolicy],
        level: Level,
        with_shadow: bool,
        trace: &mut impl Trace,
    ) -> InboundVerdict<'p> {
        let in_force = |policy: &&AuthorizationPolicy| {
            policy.level == level
                && (with_shadow || policy.mode == Enforcement::Enforce)
                && policy.is_about(self.connection.port)
        };
        for tier in [Tier::Admin, Tier::Namespace, Tier::Baseline] {
            let of = |action| {
                let policies = policies.iter().filter(in_force);
                policies.filter(move |policy| policy.tier == tier && policy.action == action)
            };
            for line in [self.deny(of(Action::Deny), trace), self.allow(of(Action::Allow), tier, trace)] {
                if let Line::Decides(verdict) = line {
                    return verdict;
                }
            }
        }
        InboundVerdict::Allow(None)
    }

    fn deny<'p>(
        &self,
        mut policies: impl Iterator<Item = &'p AuthorizationPolicy>,
        trace: &mut impl Trace,
    ) -> Line<'p> {
        let matching = policies.find_map(|policy| self.matching(policy, trace));
        matching.map_or(Line::Next, |by| Line::Decides(InboundVerdict::Deny(by)))
    }

    fn allow<'p>(
        &self,
        policies: impl Iterator<Item = &'p AuthorizationPolicy>,
        tier: Tier,
        trace: &mut impl Trace,
    ) -> Line<'p> {
        let mut closes = None;
        for policy in policies {
            if let Some(by) = self.matching(policy, trace) {
                return Line::Decides(InboundVerdict::Allow(Some(by)));
            }
            closes.get_or_insert(RuleRef { policy, rule: None });
        }
        match closes {
            Some(closed_by) if tier != Tier::Admin => Line::Decides(InboundVerdict::Deny(closed_by)),
            _ => Line::Next,
        }
    }

    /// The first rule of a policy that matches.
    fn matching<'p>(&self, policy: &'p AuthorizationPolicy, trace: &mut impl Trace) -> Option<RuleRef<'p>> {
        policy.rules.iter().enumerate().find_map(|(index, rule)| match self.miss(policy, rule) {
            None => Some(RuleRef { policy, rule: Some(index) }),
            Some(why) => {
                trace.step(Step::RuleLost { policy, rule_index: index, why });
                None
            }
        })
    }

    /// The part of a rule that does not match; `None`: it matches.
    fn miss<'p>(&self, policy: &AuthorizationPolicy, rule: &'p AuthorizationRule) -> Option<RuleMiss<'p>> {
        let quantity = if policy.action == Action::Allow { Quantity::All } else { Quantity::Any };
        policy.caller_miss(rule, self.connection).or_else(|| policy.operation_miss(rule, self.request, quantity))
    }
}

impl AuthorizationPolicy {
    /// The part of a rule about the connection that does not match. A caller in doubt is never let in.
    fn caller_miss<'p>(&self, rule: &'p AuthorizationRule, connection: &ConnectionFacts<'_>) -> Option<RuleMiss<'p>> {
        if rule.ports.as_ref().is_some_and(|ports| !ports.contains(connection.port)) {
            return Some(RuleMiss::Port);
        }
        let sources = rule.sources.as_ref()?;
        let doubt = self.action != Action::Allow;
        let is_meant = sources.iter().any(|source| source.holds(connection, doubt));
        (!is_meant).then_some(RuleMiss::Source(sources))
    }

    /// Whether a rule is about the callers of a connection.
    pub(super) fn has_caller(&self, rule: &AuthorizationRule, connection: &ConnectionFacts<'_>) -> bool {
        self.caller_miss(rule, connection).is_none()
    }

    /// The part of a rule about the request that does not match, given the readings of the request's path. Operations (`to`)
    /// are matched only against requests, and only at their level.
    pub(super) fn operation_miss<'p>(
        &self,
        rule: &'p AuthorizationRule,
        request: Option<(&RequestFacts<'_>, &[Cow<'_, str>])>,
        quantity: Quantity,
    ) -> Option<RuleMiss<'p>> {
        let seen = request.filter(|_| self.level == Level::Application);
        match (&rule.to, seen) {
            (None, None) if self.level == Level::Network => None,
            (_, None) => (self.action == Action::Allow).then_some(RuleMiss::Bytes),
            (None, Some(_)) => None,
            (Some(to), Some((request, readings))) => {
                let mut nearest = None;
                for operation in to {
                    nearest = Some(operation.mismatch(request, readings, quantity)?);
                }
                Some(RuleMiss::Operation(nearest))
            }
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
