//! How much is believed of whom: what the controller says takes memory here, and whoever may write routes and endpoints
//! writes what it says.
//!
//! Each value is weighed before it is put in force, its compiled patterns included, and charged to the namespace it is
//! about. One that would be too much is refused, and the last good one stays. A pod's own namespace may take all there is;
//! any other has a share of it, so that the targets in one namespace never cost those in another. Only the control thread
//! comes here.

use std::{
    collections::HashMap,
    mem::size_of,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_policy::{InboundPolicy, OutboundPolicy, Patterns, Target, bounds};

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
    own: Box<str>,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    total: usize,
    by_namespace: HashMap<Arc<str>, usize>,
    patterns: Patterns,
}

/// What one stream has been given; it is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Held<'l> {
    ledger: &'l Ledger,
    /// Whom it is charged to, and how much.
    now: Option<(Arc<str>, usize)>,
}

/// What can be weighed.
pub(super) trait Weigh {
    /// The bytes that it takes; or why it is too much by itself.
    fn weigh(&self, patterns: &mut Patterns) -> Result<usize, String>;
}

impl Ledger {
    /// For a pod of a namespace.
    pub(super) fn new(allowed: Allowed, own: &str) -> Self {
        Self { allowed, own: own.into(), accounts: Mutex::default() }
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
        let bytes = VALUE_BYTES + value.weigh(&mut accounts.patterns)?;
        let before = self.now.as_ref().map_or(0, |(_, bytes)| *bytes);
        let of_same = self.now.as_ref().filter(|(charged, _)| charged == namespace).map_or(0, |(_, bytes)| *bytes);
        let others = accounts.by_namespace.get(namespace).map_or(0, |sum| sum - of_same);
        let Allowed { total, share } = self.ledger.allowed;
        if others + bytes > share && **namespace != *self.ledger.own {
            return Err(format!(
                "it takes {bytes} bytes, and what is about namespace {namespace} has {others} of {share} already \
                 (MESH_MAX_NAMESPACE_BYTES)"
            ));
        }
        if accounts.total - before + bytes > total {
            let others = accounts.total - before;
            return Err(format!("it takes {bytes} bytes, and {others} of {total} are taken (MESH_MAX_CONTROL_BYTES)"));
        }
        accounts.give_back(self.now.take());
        accounts.total += bytes;
        *accounts.by_namespace.entry(namespace.clone()).or_default() += bytes;
        self.now = Some((namespace.clone(), bytes));
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.ledger.accounts.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.now.take());
    }
}

impl Accounts {
    fn give_back(&mut self, held: Option<(Arc<str>, usize)>) {
        let Some((namespace, bytes)) = held else { return };
        self.total -= bytes;
        if let Some(sum) = self.by_namespace.get_mut(&namespace) {
            *sum -= bytes;
            if *sum == 0 {
                self.by_namespace.remove(&namespace);
            }
        }
    }
}

impl Weigh for OutboundPolicy {
    fn weigh(&self, patterns: &mut Patterns) -> Result<usize, String> {
        let compiled = patterns.compile(&self.routes, MAX_PATTERN_BYTES).map_err(|why| why.to_string())?;
        // Not when the first request comes.
        self.routes.prepare();
        Ok(compiled + self.routes.bytes())
    }
}

impl Weigh for EndpointSet {
    fn weigh(&self, _: &mut Patterns) -> Result<usize, String> {
        /// What an endpoint has beside: its place among those to be compared with, and in each worker's balancer.
        const BESIDE: usize = 256;
        Ok(self.endpoints.iter().map(|endpoint| endpoint.bytes() + BESIDE).sum())
    }
}

impl Weigh for InboundPolicy {
    fn weigh(&self, _: &mut Patterns) -> Result<usize, String> {
        let identities = match &self.access {
            mesh_policy::Access::Only(identities) => {
                identities.iter().map(|identity| size_of_val(identity) + identity.as_str().len()).sum()
            }
            _ => 0,
        };
        Ok(size_of::<Self>() + identities)
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
    use super::*;

    struct Bytes(usize);

    impl Weigh for Bytes {
        fn weigh(&self, _: &mut Patterns) -> Result<usize, String> {
            Ok(self.0 - VALUE_BYTES)
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
    fn what_moves_to_another_namespace_is_charged_there() {
        let ledger = Ledger::new(Allowed { total: 100_000, share: 40_000 }, "shop");
        let [tenant, bank]: [Arc<str>; 2] = ["tenant", "bank"].map(Into::into);
        let mut held = ledger.hold();
        held.replace(&tenant, &Bytes(40_000)).unwrap();
        held.replace(&bank, &Bytes(40_000)).unwrap();
        assert_eq!(ledger.accounts.lock().unwrap().by_namespace.get(&bank), Some(&40_000));
        ledger.hold().replace(&tenant, &Bytes(40_000)).unwrap();
    }
}
