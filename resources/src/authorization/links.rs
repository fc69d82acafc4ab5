//! What policies lead to: what a change of other objects would otherwise search all policies for.

use std::{collections::BTreeSet, sync::Arc};

use mesh_policy::bounds::MAX_POLICY_PATTERN_BYTES;

use super::{
    CLUSTER_KIND, PolicyObject,
    fold::{MAX_AUTHORIZATION_BYTES, MAX_POLICIES},
    target::TargetPods,
    told::named,
};
use crate::{
    object::{Key, StatusId},
    pod::Pod,
    shared_map::SharedMap,
};

/// What a policy names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    Service(Key),
    /// A service account of the mesh or, without a name, a namespace.
    Account(Key),
}

/// What policies add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: usize,
    bytes: usize,
    pattern_bytes: usize,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PolicyLinks {
    named: SharedMap<(Named, StatusId), ()>,
    /// By namespace; those of the cluster have none.
    sums: SharedMap<Arc<str>, Sum>,
    /// How many pods each service account has.
    accounts: SharedMap<Key, usize>,
    /// Namespaces that were [crowded](Self::is_crowded) when their policies were last settled.
    crowded: BTreeSet<Arc<str>>,
}

impl PolicyLinks {
    /// Takes in a policy that comes, changes or goes.
    pub(super) fn change(
        &mut self,
        id: &StatusId,
        trust_domain: &str,
        old: Option<&PolicyObject>,
        new: Option<&PolicyObject>,
    ) {
        let (before, after) = (names(id, trust_domain, old), names(id, trust_domain, new));
        before.difference(&after).for_each(|gone| drop(self.named.remove(&(gone.clone(), id.clone()))));
        after.difference(&before).for_each(|come| self.named.insert((come.clone(), id.clone()), ()));
        let place: Arc<str> = if id.kind == CLUSTER_KIND { "".into() } else { id.key.namespace.clone() };
        let sum = self.sum(&place).minus(Sum::of(old)).plus(Sum::of(new));
        match sum == Sum::default() {
            true => drop(self.sums.remove(&place)),
            false => self.sums.insert(place, sum),
        }
    }

    /// Takes in a pod that comes, changes or goes. Gives the service accounts that have pods now and had none, or the other
    /// way round.
    pub(super) fn pod(&mut self, old: Option<&Pod>, new: Option<&Pod>) -> BTreeSet<Key> {
        let account = |pod: &Pod| Key { namespace: pod.namespace.clone(), name: pod.service_account.clone() };
        let (old, new) = (old.map(account), new.map(account));
        let mut changed = BTreeSet::new();
        if old == new {
            return changed;
        }
        if let Some(old) = old {
            match self.accounts.get(&old).copied().unwrap_or_default() {
                0 | 1 => {
                    self.accounts.remove(&old);
                    changed.insert(old);
                }
                count => self.accounts.insert(old, count - 1),
            }
        }
        if let Some(new) = new {
            let count = self.accounts.get(&new).copied().unwrap_or_default();
            self.accounts.insert(new.clone(), count + 1);
            if count == 0 {
                changed.insert(new);
            }
        }
        changed
    }

    /// Whether a pod of a service account is known.
    pub(super) fn has_account(&self, account: &Key) -> bool {
        self.accounts.get(account).is_some()
    }

    /// The policies that name a service account or, without a name, a namespace.
    pub(super) fn naming_account(&self, account: &Key) -> impl Iterator<Item = StatusId> {
        self.naming(Named::Account(account.clone()))
    }

    /// The policies that are about the pods of a Service.
    pub(super) fn naming_service(&self, service: &Key) -> impl Iterator<Item = StatusId> {
        self.naming(Named::Service(service.clone()))
    }

    /// Whether all policies that may be about a pod of a namespace are more than its proxy takes.
    pub(super) fn is_crowded(&self, namespace: &Arc<str>) -> bool {
        let sum = self.sum(namespace).plus(self.sum(&"".into()));
        sum.count > MAX_POLICIES || sum.bytes > MAX_AUTHORIZATION_BYTES || sum.pattern_bytes > MAX_POLICY_PATTERN_BYTES
    }

    /// Whether a namespace is crowded, or was when this was last asked.
    pub(super) fn settle(&mut self, namespace: &Arc<str>) -> bool {
        let was_crowded = self.crowded.remove(namespace);
        let is_crowded = self.is_crowded(namespace);
        if is_crowded {
            self.crowded.insert(namespace.clone());
        }
        is_crowded || was_crowded
    }

    fn naming(&self, named: Named) -> impl Iterator<Item = StatusId> {
        let first = (named, StatusId::new("", Key::new("", "")));
        let found = self.named.range_from(&first).map(|(entry, ())| entry);
        found.take_while(move |(of, _)| *of == first.0).map(|(_, id)| id.clone())
    }

    fn sum(&self, place: &Arc<str>) -> Sum {
        self.sums.get(place).copied().unwrap_or_default()
    }
}

impl Sum {
    fn of(policy: Option<&PolicyObject>) -> Self {
        policy.map_or(Self::default(), |object| {
            // The ports of Services, at most.
            let bytes = object.policy.bytes() + 4 * super::select::MAX_PORT_RANGES;
            Self { count: 1, bytes, pattern_bytes: object.pattern_bytes }
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            bytes: self.bytes + other.bytes,
            pattern_bytes: self.pattern_bytes + other.pattern_bytes,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_sub(other.count),
            bytes: self.bytes.saturating_sub(other.bytes),
            pattern_bytes: self.pattern_bytes.saturating_sub(other.pattern_bytes),
        }
    }
}

fn names(id: &StatusId, trust_domain: &str, policy: Option<&PolicyObject>) -> BTreeSet<Named> {
    let Some(policy) = policy else { return BTreeSet::new() };
    let services = match &policy.target {
        TargetPods::OfServices(names) => names.as_slice(),
        TargetPods::Selected(_) | TargetPods::OfNamespaces { .. } => &[],
    };
    let service = |name: &Arc<str>| Named::Service(Key { namespace: id.key.namespace.clone(), name: name.clone() });
    let accounts = named(&policy.policy.rules, trust_domain).into_iter().flat_map(|named| {
        let namespace = Key::new(named.account.namespace.clone(), "");
        [Named::Account(named.account), Named::Account(namespace)]
    });
    services.iter().map(service).chain(accounts).collect()
}
