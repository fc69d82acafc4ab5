//! The policy of this pod that is in force, with what counts its decisions.

use std::{
    cell::OnceCell,
    rc::{Rc, Weak},
    sync::Arc,
};

use http::header;
use mesh_policy::{
    Action, AuthorizationPolicy, ConnectionFacts, InboundDecision, RequestFacts, RuleRef, WorkloadPolicy,
};

use crate::metrics::{Metrics, PolicyDecisions};

/// A policy in force. One for each worker and each policy that came.
pub(crate) struct InForce {
    /// The policy.
    pub(super) policy: Arc<WorkloadPolicy>,
    /// The counters of each of its authorization policies, in their order.
    decisions: Box<[Arc<PolicyDecisions>]>,
    /// Made when something is decided again whose headers were not kept.
    headerless: OnceCell<WorkloadPolicy>,
}

/// What the policy in force means for one connection: made once for each connection and policy.
pub(super) struct Prepared {
    pub(super) in_force: Rc<InForce>,
    table: Rc<mesh_policy::Prepared>,
}

/// What a connection keeps of it between its requests: an idle one holds no policy that is not in force any more.
pub(super) struct Known {
    of: Weak<InForce>,
    table: Rc<mesh_policy::Prepared>,
}

impl InForce {
    /// Binds what counts its decisions.
    pub(super) fn new(policy: Arc<WorkloadPolicy>, metrics: &Metrics) -> Self {
        let decisions = policy.authorization.iter().map(|policy| metrics.decisions(&policy.name)).collect();
        Self { policy, decisions, headerless: OnceCell::new() }
    }

    /// The counters of a policy that decided: its own, or of the policies in `headerless`, which have the same places.
    pub(super) fn decisions_of(&self, by: RuleRef<'_>) -> Option<&PolicyDecisions> {
        let place = |all: &[AuthorizationPolicy]| all.iter().position(|policy| std::ptr::eq(policy, by.policy));
        let own = place_of(&self.policy.authorization, by.policy);
        let place = own.or_else(|| place(&self.headerless.get()?.authorization))?;
        self.decisions.get(place).map(|decisions| &**decisions)
    }

    /// The policy for requests whose headers are not known any more: whatever a rule says of headers lets them in. So only
    /// what is refused with any headers is refused.
    pub(super) fn headerless(&self) -> &WorkloadPolicy {
        let looks =
            |policy: &AuthorizationPolicy| policy.rules.iter().flat_map(|rule| &rule.to).flatten().any(has_headers);
        if !self.policy.authorization.iter().any(looks) {
            return &self.policy;
        }
        self.headerless.get_or_init(|| {
            let mut policy = WorkloadPolicy::clone(&self.policy);
            policy.authorization.iter_mut().for_each(forget_headers);
            policy
        })
    }
}

/// Where a policy is in its list: a subtraction, as this is done for each request.
fn place_of(all: &[AuthorizationPolicy], policy: &AuthorizationPolicy) -> Option<usize> {
    let bytes = std::ptr::from_ref(policy).addr().checked_sub(all.as_ptr().addr())?;
    let place = bytes / size_of::<AuthorizationPolicy>();
    all.get(place).filter(|found| std::ptr::eq(*found, policy)).map(|_| place)
}

/// Whether it looks at headers. The host is always known.
fn has_headers(operation: &mesh_policy::Operation) -> bool {
    operation.0.headers.iter().any(|wanted| wanted.name != header::HOST)
}

fn forget_headers(policy: &mut AuthorizationPolicy) {
    let is_allow = policy.action == Action::Allow;
    for to in policy.rules.iter_mut().filter_map(|rule| rule.to.as_mut()) {
        if is_allow {
            to.iter_mut().for_each(|operation| operation.0.headers.retain(|wanted| wanted.name == header::HOST));
        } else {
            to.retain(|operation| !has_headers(operation));
        }
    }
}

impl Prepared {
    /// For the connections with these facts.
    pub(super) fn new(in_force: Rc<InForce>, connection: &ConnectionFacts<'_>) -> Self {
        let table = Rc::new(mesh_policy::Prepared::new(&in_force.policy, connection));
        Self { in_force, table }
    }

    /// What a connection keeps of it.
    pub(super) fn known(&self) -> Known {
        Known { of: Rc::downgrade(&self.in_force), table: self.table.clone() }
    }

    /// Decides about a request of the connection, or about its bytes.
    pub(super) fn decide(&self, request: Option<&RequestFacts<'_>>) -> InboundDecision<'_> {
        self.table.decide(&self.in_force.policy, request)
    }
}

impl Known {
    /// The whole again; `None`: its policy is gone.
    pub(super) fn prepared(&self) -> Option<Prepared> {
        self.of.upgrade().map(|in_force| Prepared { in_force, table: self.table.clone() })
    }
}
