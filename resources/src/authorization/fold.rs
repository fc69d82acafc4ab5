//! What a pod's proxy is told of more policies than it takes.
//!
//! Policies that may refuse somebody come first. Of those beyond the bounds, one for each tier, action and level stands for all
//! of them, and it is closed: more is refused than was written, and never less.

use std::{borrow::Cow, collections::BTreeMap};

use mesh_policy::{Action, AuthorizationPolicy, Enforcement, Level, Tier, bounds::MAX_POLICY_PATTERN_BYTES};

use super::closing;

/// Most policies of one pod; proxies take no more.
pub(crate) const MAX_POLICIES: usize = 1_000;
/// Most bytes of the policies of one pod, without the programs of their patterns.
pub(crate) const MAX_AUTHORIZATION_BYTES: usize = 2 * 1024 * 1024;
/// Policies that may stand for others: two actions at two levels in three tiers, but for an ALLOW of the first tier.
const MAX_FOLDED: usize = 10;
/// What each of these may take: a name, mostly.
const FOLDED_BYTES: usize = 1_024;

/// A policy that is about a pod.
pub(super) struct Candidate<'s, I> {
    pub(super) id: I,
    pub(super) policy: Cow<'s, AuthorizationPolicy>,
    pub(super) pattern_bytes: usize,
}

/// How much there is room for.
struct Bounds {
    count: usize,
    bytes: usize,
    pattern_bytes: usize,
}

/// Sorts policies, and says how many of them are in force as they are; all others are [folded](fold).
pub(super) fn rank<I>(candidates: &mut [Candidate<'_, I>]) -> usize {
    candidates.sort_by(|a, b| (place(&a.policy), &a.policy.name).cmp(&(place(&b.policy), &b.policy.name)));
    let all = Bounds { count: MAX_POLICIES, bytes: MAX_AUTHORIZATION_BYTES, pattern_bytes: MAX_POLICY_PATTERN_BYTES };
    if all.fitting(candidates) == candidates.len() {
        return candidates.len();
    }
    let reserved =
        Bounds { count: MAX_POLICIES - MAX_FOLDED, bytes: MAX_AUTHORIZATION_BYTES - MAX_FOLDED * FOLDED_BYTES, ..all };
    reserved.fitting(candidates)
}

/// The policies in force, of those that [`rank`] has sorted and counted.
pub(super) fn fold<I>(candidates: Vec<Candidate<'_, I>>, kept: usize) -> Vec<AuthorizationPolicy> {
    let mut beyond: BTreeMap<(usize, bool), AuthorizationPolicy> = BTreeMap::new();
    let mut policies = Vec::with_capacity(kept);
    for (at, Candidate { policy, .. }) in candidates.into_iter().enumerate() {
        if at < kept {
            policies.push(policy.into_owned());
            continue;
        }
        let closes = policy.action == Action::Deny || policy.action == Action::Allow && policy.tier != Tier::Admin;
        if policy.mode == Enforcement::Enforce && closes {
            let AuthorizationPolicy { name, tier, action, mode, level, .. } = &*policy;
            let (name, tier, action, mode, level) = (name.clone(), *tier, *action, *mode, *level);
            let folded =
                || closing(AuthorizationPolicy { name, tier, action, mode, level, ports: None, rules: Vec::new() });
            beyond.entry((place(&policy), level == Level::Network)).or_insert_with(folded);
        }
    }
    policies.extend(beyond.into_values());
    policies
}

impl Bounds {
    /// How many of the first there is room for.
    fn fitting<I>(&self, candidates: &[Candidate<'_, I>]) -> usize {
        let (mut bytes, mut pattern_bytes) = (0, 0);
        let is_over = |(at, candidate): (usize, &Candidate<'_, I>)| {
            bytes += candidate.policy.bytes();
            pattern_bytes += candidate.pattern_bytes;
            at >= self.count || bytes > self.bytes || pattern_bytes > self.pattern_bytes
        };
        candidates.iter().enumerate().position(is_over).unwrap_or(candidates.len())
    }
}

/// The place of a policy's kind in the order.
fn place(policy: &AuthorizationPolicy) -> usize {
    match (policy.tier, policy.action) {
        (Tier::Admin, Action::Deny) => 0,
        (Tier::Admin, Action::Allow) => 1,
        (Tier::Namespace, Action::Deny) => 2,
        (Tier::Namespace, Action::Allow) => 3,
        (Tier::Baseline, Action::Deny) => 4,
        (Tier::Baseline, Action::Allow) => 5,
        (_, Action::Audit) => 6,
    }
}
