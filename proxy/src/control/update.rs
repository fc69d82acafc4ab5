//! What becomes of the updates of one stream: each is understood, weighed, and put in force or refused.
//!
//! Which stream is asked when is `streams`'s.

use std::sync::{Arc, Weak};

use mesh_policy::{OutboundPolicy, WorkloadPolicy};
use mesh_proto::{RouteDelta, v1};

use super::{
    EndpointSet, Snapshot,
    endpoints::Told,
    lag::Lag,
    ledger::{Held, namespace_of},
};

/// An update that is not put in force.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: String,
    /// Later updates build on it, so everything is asked for anew.
    pub(super) leaves_a_gap: bool,
    /// It is of an older state than what is known: another replica may know more.
    pub(super) lags: bool,
}

impl Refused {
    /// One that says everything, as the next will.
    fn whole(why: impl ToString) -> Self {
        Self { why: why.to_string(), leaves_a_gap: false, lags: false }
    }

    /// One that says what changed.
    pub(super) fn delta(why: impl ToString) -> Self {
        Self { why: why.to_string(), leaves_a_gap: true, lags: false }
    }

    /// One of a replica that lags behind.
    pub(super) fn lags() -> Self {
        let why = "this replica of the controller has not seen yet what another one told".to_owned();
        Self { why, leaves_a_gap: true, lags: true }
    }
}

/// Takes the updates of one thing, from whichever stream.
pub(super) trait Take {
    /// What comes over the wire.
    type Update;
    /// What is put in force.
    type Value;

    /// The value after an update, or why there is none.
    fn take(&mut self, update: Self::Update) -> Result<Self::Value, Refused>;

    /// The value is withdrawn: nothing is held of it any more.
    fn gone(&mut self);
}

/// Updates of the policy of an outbound target.
pub(super) struct Targets<'l> {
    pub(super) snapshot: Weak<Snapshot<OutboundPolicy>>,
    pub(super) held: Held<'l>,
    pub(super) lag: Lag,
    /// The last update was taken, so that the next may say what changed.
    pub(super) follows: bool,
}

impl Take for Targets<'_> {
    type Update = v1::OutboundPolicy;
    type Value = OutboundPolicy;

    fn take(&mut self, update: v1::OutboundPolicy) -> Result<OutboundPolicy, Refused> {
        if update.delta.is_none() {
            self.lag.admit(update.seen.as_ref())?;
        }
        let changed = update.changed;
        let before = self.snapshot.upgrade().and_then(|held| held.get()).filter(|_| self.follows);
        let applied = apply_outbound(before.as_deref(), update).and_then(|policy| {
            self.held.replace(&namespace_of(&policy), &policy).map(|()| policy).map_err(Refused::whole)
        });
        self.follows = applied.is_ok();
        if self.follows {
            self.lag.reached(changed);
        }
        applied
    }

    fn gone(&mut self) {
        self.held.give_back();
        self.follows = false;
    }
}

/// Updates of the policy of this pod.
pub(super) struct Workload<'l> {
    pub(super) own: Arc<str>,
    pub(super) held: Held<'l>,
    pub(super) lag: Lag,
}

impl Take for Workload<'_> {
    type Update = v1::WorkloadPolicy;
    type Value = WorkloadPolicy;

    fn take(&mut self, update: v1::WorkloadPolicy) -> Result<WorkloadPolicy, Refused> {
        self.lag.admit(update.seen.as_ref())?;
        let changed = update.changed;
        let policy = WorkloadPolicy::try_from(update).map_err(Refused::whole)?;
        self.held.replace(&self.own, &policy).map_err(Refused::whole)?;
        self.lag.reached(changed);
        Ok(policy)
    }

    fn gone(&mut self) {
        self.held.give_back();
    }
}

/// Updates of the endpoints of a backend.
pub(super) struct Backends<'l> {
    pub(super) namespace: Arc<str>,
    pub(super) told: Told,
    pub(super) held: Held<'l>,
}

impl Take for Backends<'_> {
    type Update = v1::EndpointsUpdate;
    type Value = EndpointSet;

    fn take(&mut self, update: v1::EndpointsUpdate) -> Result<EndpointSet, Refused> {
        let charge = |set| match self.held.replace(&self.namespace, &set) {
            Ok(()) => Ok(set),
            Err(why) => Err(Refused::delta(why)),
        };
        let applied = self.told.apply(update).and_then(charge);
        if applied.as_ref().is_err_and(|refused| !refused.lags) {
            // What comes next is the whole.
            self.told.forget();
        }
        applied
    }

    fn gone(&mut self) {
        self.held.give_back();
        self.told.forget();
    }
}

/// A whole policy, or a change of the one before: of none, where the one before was refused.
fn apply_outbound(before: Option<&OutboundPolicy>, mut update: v1::OutboundPolicy) -> Result<OutboundPolicy, Refused> {
    match (update.delta.take(), before) {
        (None, _) => OutboundPolicy::try_from(update).map_err(Refused::whole),
        (Some(delta), Some(before)) => {
            RouteDelta::try_from(delta).and_then(|delta| delta.apply(before)).map_err(Refused::delta)
        }
        (Some(_), None) => Err(Refused::delta("a change of what was refused")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use mesh_policy::{Action, AuthorizationPolicy, Enforcement, Level, Target, Tier};
    use mesh_proto::v1::Revisions;

    use super::{
        super::ledger::{Allowed, Ledger},
        *,
    };

    fn ledger() -> Ledger {
        Ledger::new(Allowed { total: 100_000, share: 40_000 }, "shop")
    }

    #[test]
    fn who_has_an_address_is_not_taken_from_a_replica_that_lags() {
        let (ledger, snapshot) = (ledger(), Arc::default());
        let mut targets =
            Targets { snapshot: Arc::downgrade(&snapshot), held: ledger.hold(), lag: Lag::default(), follows: false };
        let at =
            |revision| Some(Revisions { services: 1, endpoint_slices: revision, pods: revision, ..Default::default() });
        let address = "10.1.2.3:80".to_owned();
        let endpoint = v1::Endpoint { address: address.clone(), ..Default::default() };
        let meshed =
            v1::OutboundPolicy { endpoint: Some(endpoint), changed: at(100), seen: at(120), ..Default::default() };
        let nobodys = |seen| v1::OutboundPolicy {
            unowned: Some(v1::Unowned { address: address.clone(), outside: true }),
            changed: at(50),
            seen: at(seen),
            ..Default::default()
        };
        targets.take(meshed).unwrap();
        assert!(targets.take(nobodys(99)).is_err_and(|refused| refused.lags));
        assert!(matches!(targets.take(nobodys(100)).unwrap().target, Target::Outside(_)));
    }

    #[test]
    fn a_replica_that_has_missed_a_policy_takes_none_back() {
        let ledger = ledger();
        let mut workload = Workload { own: ledger.own().clone(), held: ledger.hold(), lag: Lag::default() };
        let at = |policies| Some(Revisions { pods: 1, authorization_policies: policies, ..Default::default() });
        let said = |policy: &WorkloadPolicy, changed, seen| v1::WorkloadPolicy {
            changed: at(changed),
            seen: at(seen),
            ..policy.into()
        };
        let open = WorkloadPolicy::default();
        let closing = AuthorizationPolicy {
            name: "AuthorizationPolicy shop/closed".into(),
            tier: Tier::Namespace,
            action: Action::Allow,
            mode: Enforcement::Enforce,
            level: Level::Network,
            ports: None,
            rules: Vec::new(),
        };
        let closed = WorkloadPolicy { authorization: vec![closing], ..WorkloadPolicy::default() };
        assert_eq!(workload.take(said(&closed, 7, 7)).unwrap(), closed);
        assert!(workload.take(said(&open, 6, 6)).is_err_and(|refused| refused.lags));
        assert_eq!(workload.take(said(&open, 6, 7)).unwrap(), open, "it has seen that it is gone");
    }

    #[test]
    fn what_is_gone_is_charged_to_nobody() {
        let ledger = ledger();
        let mut backends = Backends { namespace: "tenant".into(), told: Told::default(), held: ledger.hold() };
        let endpoint = |n| v1::Endpoint { address: format!("10.0.0.{n}:80"), ..Default::default() };
        let update =
            || v1::EndpointsUpdate { reset: true, add: (0..100).map(endpoint).collect(), ..Default::default() };
        backends.take(update()).unwrap();
        let mut other = Backends { namespace: "tenant".into(), told: Told::default(), held: ledger.hold() };
        assert!(other.take(update()).is_err(), "there is no room for both");
        backends.gone();
        assert_eq!(other.take(update()).unwrap().endpoints.len(), 100);
    }

    #[test]
    fn a_change_needs_what_it_changes() {
        let service = v1::ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80, ..Default::default() };
        let route = |name: &str| v1::Route { namespace: "shop".into(), name: name.into(), ..Default::default() };
        let whole =
            v1::OutboundPolicy { service: Some(service), routes: vec![route("a"), route("b")], ..Default::default() };
        let delta = |upsert: &[&str], removed: &[&str]| {
            let key = |name: &&str| v1::RouteKey { kind: 0, namespace: "shop".into(), name: (*name).into() };
            let upsert = upsert.iter().map(|name| route(name)).collect();
            let delta = v1::RouteDelta { upsert, removed: removed.iter().map(key).collect() };
            v1::OutboundPolicy { delta: Some(delta), ..Default::default() }
        };
        let Ok(before) = apply_outbound(None, whole) else { panic!("a whole policy needs nothing before") };
        let Ok(after) = apply_outbound(Some(&before), delta(&["c"], &["a"])) else { panic!("it follows") };
        assert_eq!(after.routes.routes().iter().map(|r| &*r.meta.name).collect::<Vec<_>>(), ["b", "c"]);
        for (before, bad) in
            [(None, delta(&["c"], &[])), (Some(&after), delta(&[], &["a"])), (Some(&after), delta(&["."], &[]))]
        {
            assert!(apply_outbound(before, bad).is_err_and(|refused| refused.leaves_a_gap));
        }
        assert!(apply_outbound(Some(&after), v1::OutboundPolicy::default()).is_err_and(|r| !r.leaves_a_gap));
    }
}
