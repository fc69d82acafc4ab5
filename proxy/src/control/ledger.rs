//! How much is believed of whom: what the controller says takes memory here, and whoever may write routes and endpoints
//! writes what it says.
//!
//! Each value is weighed before it is put in force, its compiled patterns included, and charged to the namespace it is
//! about; a pattern that several targets of a namespace have is charged to it once, as it is compiled once. A value that
//! would be too much is refused, and the last good one stays. A pod's own namespace may take all there is;
//! any other has a share of it, so that the targets in one namespace never cost those in another. Only the control thread
//! comes here.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem::size_of,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_policy::{AuthorizationPolicy, OutboundPolicy, Patterns, Target, WorkloadPolicy, bounds, route::Program};

use super::EndpointSet;

/// Most bytes of patterns of one target. A controller sends half as much; one of another version may count otherwise.
const MAX_PATTERN_BYTES: usize = 2 * bounds::MAX_POLICY_PATTERN_BYTES;
/// What a value takes beside what it says: its stream, its snapshot, its place in tables.
const VALUE_BYTES: usize = 1024;

/// How much there may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    /// Of all.
    pub(super) total: usize,
    /// Of one namespace that is not the pod's own.
    pub(super) share: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    allowed: Allowed,
    own: Arc<str>,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    total: usize,
    by_namespace: HashMap<Arc<str>, Account>,
    patterns: Patterns,
}

/// What is charged to one namespace.
#[derive(Debug, Default)]
struct Account {
    bytes: usize,
    values: usize,
    /// Compiled patterns by their addresses, which are never followed, and how many values have each.
    programs: HashMap<usize, usize>,
}

/// What one stream has been given; it is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Held<'l> {
    ledger: &'l Ledger,
    now: Option<Charge>,
}

/// Whom something is charged to, and what.
#[derive(Debug)]
struct Charge {
    namespace: Arc<str>,
    weight: Weight,
}

/// What a value takes.
#[derive(Debug, Default)]
pub(super) struct Weight {
    /// Bytes of its own.
    bytes: usize,
    /// Its compiled patterns, which other values may have too; each once.
    programs: Vec<Arc<Program>>,
}

/// What can be weighed.
pub(super) trait Weigh {
    /// What it takes; or why it is too much by itself.
    fn weigh(&self, patterns: &mut Patterns) -> Result<Weight, String>;
}

impl Ledger {
    /// For a pod of a namespace.
    pub(super) fn new(allowed: Allowed, own: &str) -> Self {
        Self { allowed, own: own.into(), accounts: Mutex::default() }
    }

    /// The namespace of the pod.
    pub(super) fn own(&self) -> &Arc<str> {
        &self.own
    }

    /// Nothing yet.
    pub(super) fn hold(&self) -> Held<'_> {
        Held { ledger: self, now: None }
    }
}

impl Held<'_> {
    /// Takes what a value needs in place of what the one before it did; or says why it is too much, and what is held stays.
    pub(super) fn replace(&mut self, namespace: &Arc<str>, value: &impl Weigh) -> Result<(), String> {
        let mut accounts = self.ledger.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut weight = value.weigh(&mut accounts.patterns)?;
        weight.bytes += VALUE_BYTES;
        let charge = Charge { namespace: namespace.clone(), weight };
        let before = self.now.take();
        before.iter().for_each(|charge| accounts.give_back(charge));
        let has_room = accounts.has_room(self.ledger, &charge);
        self.now = if has_room.is_ok() { Some(charge) } else { before };
        self.now.iter().for_each(|charge| accounts.take(charge));
        has_room
    }

    /// Nothing is held any more.
    pub(super) fn give_back(&mut self) {
        let mut accounts = self.ledger.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        self.now.take().iter().for_each(|charge| accounts.give_back(charge));
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Accounts {
    fn has_room(&self, ledger: &Ledger, charge: &Charge) -> Result<(), String> {
        let Charge { namespace, weight } = charge;
        let account = self.by_namespace.get(namespace);
        let is_new = |program: &&Arc<Program>| !account.is_some_and(|a| a.programs.contains_key(&address(program)));
        let programs: usize = weight.programs.iter().filter(is_new).map(|program| program.cost()).sum();
        let (bytes, others) = (weight.bytes + programs, account.map_or(0, |account| account.bytes));
        let Allowed { total, share } = ledger.allowed;
        if others + bytes > share && **namespace != *ledger.own {
            return Err(format!(
                "it takes {bytes} bytes, and what is about namespace {namespace} has {others} of {share} already \
                 (MESH_MAX_NAMESPACE_BYTES)"
            ));
        }
        if self.total + bytes > total {
            let others = self.total;
            return Err(format!("it takes {bytes} bytes, and {others} of {total} are taken (MESH_MAX_CONTROL_BYTES)"));
        }
        Ok(())
    }

    fn take(&mut self, charge: &Charge) {
        let account = self.by_namespace.entry(charge.namespace.clone()).or_default();
        let mut bytes = charge.weight.bytes;
        for program in &charge.weight.programs {
            let holders = account.programs.entry(address(program)).or_default();
            *holders += 1;
            bytes += if *holders == 1 { program.cost() } else { 0 };
        }
        account.values += 1;
        account.bytes += bytes;
        self.total += bytes;
    }

    fn give_back(&mut self, charge: &Charge) {
        let Some(account) = self.by_namespace.get_mut(&charge.namespace) else { return };
        let mut bytes = charge.weight.bytes;
        for program in &charge.weight.programs {
            if let Entry::Occupied(mut holders) = account.programs.entry(address(program)) {
                *holders.get_mut() -= 1;
                if *holders.get() == 0 {
                    holders.remove();
                    bytes += program.cost();
                }
            }
        }
        account.values -= 1;
        account.bytes -= bytes;
        self.total -= bytes;
        if account.values == 0 {
            self.by_namespace.remove(&charge.namespace);
        }
    }
}

fn address(program: &Arc<Program>) -> usize {
    Arc::as_ptr(program).addr()
}

impl Weigh for OutboundPolicy {
    fn weigh(&self, patterns: &mut Patterns) -> Result<Weight, String> {
        let programs = patterns.compile(self.routes.patterns(), MAX_PATTERN_BYTES).map_err(|why| why.to_string())?;
        // Not when the first request comes.
        self.routes.prepare();
        Ok(Weight { bytes: self.routes.bytes(), programs })
    }
}

impl Weigh for EndpointSet {
    fn weigh(&self, _: &mut Patterns) -> Result<Weight, String> {
        /// What an endpoint has beside: its place among those to be compared with, and in each worker's balancer.
        const BESIDE: usize = 256;
        Ok(Weight { bytes: self.endpoints.iter().map(|endpoint| endpoint.bytes() + BESIDE).sum(), ..Weight::default() })
    }
}

impl Weigh for WorkloadPolicy {
    fn weigh(&self, patterns: &mut Patterns) -> Result<Weight, String> {
        let all = self.authorization.iter().flat_map(AuthorizationPolicy::patterns);
        let programs = patterns.compile(all, MAX_PATTERN_BYTES).map_err(|why| why.to_string())?;
        let authorization: usize = self.authorization.iter().map(AuthorizationPolicy::bytes).sum();
        let ports = size_of_val(self.ports.ranges());
        Ok(Weight { bytes: size_of::<Self>() + ports + authorization, programs })
    }
}

/// The namespace that a policy is about: that of its routes, whoever wrote them, else that of its target.
pub(super) fn namespace_of(policy: &OutboundPolicy) -> Arc<str> {
    let of_routes = policy.routes.routes().first().map(|route| route.meta.namespace.clone());
    of_routes.unwrap_or_else(|| match &policy.target {
        Target::Service(service) => service.namespace.clone(),
        Target::Endpoint(endpoint) => endpoint.workload.split_once('/').map_or("", |(namespace, _)| namespace).into(),
        // They say nothing that takes any room.
        Target::Outside(_) | Target::Unknown(_) => "".into(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mesh_policy::{
        PathMatch, Protocol, RegexMatch, RequestMatch, Route, RouteKind, RouteMeta, Rule, route::RouteTable,
    };

    use super::*;

    struct Bytes(usize);

    impl Weigh for Bytes {
        fn weigh(&self, _: &mut Patterns) -> Result<Weight, String> {
            Ok(Weight { bytes: self.0 - VALUE_BYTES, ..Weight::default() })
        }
    }

    #[test]
    fn a_namespace_has_a_share_and_ones_own_has_all() {
        let ledger = Ledger::new(Allowed { total: 100_000, share: 40_000 }, "shop");
        let [tenant, shop, bank]: [Arc<str>; 3] = ["tenant", "shop", "bank"].map(Into::into);
        let (mut first, mut second) = (ledger.hold(), ledger.hold());
        first.replace(&tenant, &Bytes(30_000)).unwrap();
        let why = second.replace(&tenant, &Bytes(10_001)).unwrap_err();
        assert!(why.contains("namespace tenant has 30000 of 40000"), "{why}");
        second.replace(&tenant, &Bytes(10_000)).unwrap();
        // In place of what it was; what is refused takes nothing.
        first.replace(&tenant, &Bytes(30_001)).unwrap_err();
        first.replace(&tenant, &Bytes(29_000)).unwrap();
        let mut own = ledger.hold();
        own.replace(&shop, &Bytes(60_000)).unwrap();
        let mut other = ledger.hold();
        let why = other.replace(&bank, &Bytes(2_000)).unwrap_err();
        assert!(why.contains("99000 of 100000 are taken"), "{why}");
        drop(second);
        other.replace(&bank, &Bytes(2_000)).unwrap();
        drop((first, own, other));
        let accounts = ledger.accounts.lock().unwrap();
        assert_eq!((accounts.total, accounts.by_namespace.len()), (0, 0));
    }

    #[test]
    fn a_pattern_that_several_targets_have_is_charged_once() {
        let ledger = Ledger::new(Allowed { total: 1 << 20, share: 1 << 20 }, "shop");
        let tenant: Arc<str> = "tenant".into();
        let policy = |pattern: &str| {
            let path = PathMatch::Regex(RegexMatch::parse(pattern).unwrap());
            let matched = RequestMatch { path, ..RequestMatch::default() };
            let rule = Rule { matches: vec![matched], ..Rule::default() };
            let meta = RouteMeta { kind: RouteKind::Http, namespace: tenant.clone(), name: "r".into(), created: 0 };
            let routes = RouteTable::new(vec![Route { meta, hostnames: Vec::new(), rules: vec![rule] }]);
            OutboundPolicy { target: Target::Unknown(([10, 0, 0, 1], 80).into()), protocol: Protocol::Http1, routes }
        };
        let charged = || ledger.accounts.lock().unwrap().total;
        let (mut first, mut second, mut other) = (ledger.hold(), ledger.hold(), ledger.hold());
        first.replace(&tenant, &policy("/a[a-z0-9]{100}")).unwrap();
        let one = charged();
        second.replace(&tenant, &policy("/a[a-z0-9]{100}")).unwrap();
        let beside = charged() - one;
        assert!(one > 4 * beside, "its pattern is most of it: {one} {beside}");
        other.replace(&tenant, &policy("/b[a-z0-9]{100}")).unwrap();
        assert_eq!(charged(), 2 * one + beside);
        // The last who has it gives it back.
        first.give_back();
        assert_eq!(charged(), 2 * one);
        drop((first, second, other));
        assert_eq!(charged(), 0);
    }

    #[test]
    fn what_moves_to_another_namespace_is_charged_there() {
        let ledger = Ledger::new(Allowed { total: 100_000, share: 40_000 }, "shop");
        let [tenant, bank]: [Arc<str>; 2] = ["tenant", "bank"].map(Into::into);
        let mut held = ledger.hold();
        held.replace(&tenant, &Bytes(40_000)).unwrap();
        held.replace(&bank, &Bytes(40_000)).unwrap();
        assert_eq!(ledger.accounts.lock().unwrap().by_namespace.get(&bank).map(|account| account.bytes), Some(40_000));
        ledger.hold().replace(&tenant, &Bytes(40_000)).unwrap();
    }
}
