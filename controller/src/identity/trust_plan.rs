//! Which namespaces need the trust bundle, which have it, and so what is to be written or removed. Pure.
//!
//! A namespace needs it when it is labelled for injection, when it holds an injected pod, or when it is our own. Nothing
//! is decided before everything was listed once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kube::runtime::watcher::Event;
use mesh_credentials::Backoff;

/// How long a bundle that no one needs any more is kept: a Job that comes back every few minutes finds it there.
const KEEP_UNUSED: Duration = Duration::from_secs(600);
/// Waits after a write that failed.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Shortest time between two writes into one namespace: whoever edits a bundle again and again makes no more work than that.
const REWRITE: Duration = Duration::from_secs(1);

/// Namespace and name; the first is empty for what is in none.
pub(super) type NamespacedName = (Box<str>, Box<str>);

/// Objects as a watcher tells of them, by namespace and name, with what is remembered of each.
#[derive(Debug)]
pub(super) struct Mirror<V> {
    objects: BTreeMap<NamespacedName, V>,
    /// While everything is listed anew.
    listing: Option<BTreeMap<NamespacedName, V>>,
    is_complete: bool,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: None, is_complete: false }
    }
}

impl<V> Mirror<V> {
    /// Takes an event; `read` says where an object is and what is remembered of it.
    pub(super) fn take<K>(&mut self, event: Event<K>, read: impl Fn(&K) -> (NamespacedName, V)) {
        match event {
            Event::Apply(object) => {
                let (key, value) = read(&object);
                self.objects.insert(key, value);
            }
            Event::Delete(object) => drop(self.objects.remove(&read(&object).0)),
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let (key, value) = read(&object);
                self.listing.get_or_insert_default().insert(key, value);
            }
            Event::InitDone => {
                self.objects = self.listing.take().unwrap_or_default();
                self.is_complete = true;
            }
        }
    }
}

/// What is remembered of a bundle in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BundleState {
    /// It holds the anchors in force.
    pub is_current: bool,
    /// It was made here, so that it may be removed.
    pub is_ours: bool,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TrustTodo {
    /// Namespaces to write it into.
    pub write: Vec<Box<str>>,
    /// Namespaces to remove it from.
    pub remove: Vec<Box<str>>,
}

/// The state; times are since any one moment.
#[derive(Debug)]
pub(super) struct TrustPlan {
    /// The control plane's own namespace.
    own: Box<str>,
    /// Namespaces that are labelled for injection.
    pub namespaces: Mirror<()>,
    /// Injected pods.
    pub pods: Mirror<()>,
    /// Bundles that are there.
    pub bundles: Mirror<BundleState>,
    /// Since when a bundle is not needed.
    unused: BTreeMap<Box<str>, Duration>,
    /// Failed writes: when to try again, and how long was waited.
    failed: BTreeMap<Box<str>, (Duration, Backoff)>,
    /// When namespaces were written into, for as long as [`REWRITE`].
    written: BTreeMap<Box<str>, Duration>,
}

impl TrustPlan {
    /// A state that knows nothing yet.
    pub(super) fn new(own: &str) -> Self {
        Self {
            own: own.into(),
            namespaces: Mirror::default(),
            pods: Mirror::default(),
            bundles: Mirror::default(),
            unused: BTreeMap::new(),
            failed: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    /// Other anchors are in force: every bundle has to be written anew.
    pub(super) fn outdate(&mut self) {
        self.bundles.objects.values_mut().for_each(|seen| seen.is_current = false);
        self.failed.clear();
        self.written.clear();
    }

    /// What to do now.
    pub(super) fn todo(&mut self, now: Duration) -> TrustTodo {
        let mut todo = TrustTodo::default();
        if !(self.namespaces.is_complete && self.pods.is_complete && self.bundles.is_complete) {
            return todo;
        }
        let namespaces = self.namespaces.objects.keys().map(|(_, name)| name);
        let needed: BTreeSet<&Box<str>> =
            namespaces.chain(self.pods.objects.keys().map(|(namespace, _)| namespace)).chain([&self.own]).collect();
        let current: BTreeSet<&Box<str>> = self
            .bundles
            .objects
            .iter()
            .filter(|(_, seen)| seen.is_current)
            .map(|((namespace, _), _)| namespace)
            .collect();
        self.failed.retain(|namespace, _| needed.contains(namespace) && !current.contains(namespace));
        self.written.retain(|_, at| now.saturating_sub(*at) < REWRITE);
        let is_due = |namespace: &str| {
            self.failed.get(namespace).is_none_or(|(at, _)| *at <= now) && !self.written.contains_key(namespace)
        };
        todo.write = needed.difference(&current).filter(|n| is_due(n)).map(|n| (*n).clone()).collect();
        let ours = self.bundles.objects.iter().filter(|(_, seen)| seen.is_ours).map(|((namespace, _), _)| namespace);
        let unused: BTreeSet<&Box<str>> = ours.filter(|namespace| !needed.contains(namespace)).collect();
        self.unused.retain(|namespace, _| unused.contains(namespace));
        for namespace in unused {
            let since = *self.unused.entry(namespace.clone()).or_insert(now);
            if now.saturating_sub(since) >= KEEP_UNUSED {
                todo.remove.push(namespace.clone());
            }
        }
        todo
    }

    /// A write went through.
    pub(super) fn written(&mut self, namespace: &str, name: &str, seen: BundleState, now: Duration) {
        self.failed.remove(namespace);
        self.written.insert(namespace.into(), now);
        self.bundles.objects.insert((namespace.into(), name.into()), seen);
    }

    /// A write failed; says how long until it is tried again.
    pub(super) fn failed(&mut self, namespace: &str, now: Duration) -> Duration {
        let (until, backoff) = self.failed.entry(namespace.into()).or_insert((now, RETRY));
        let wait = backoff.next_wait();
        *until = now + wait;
        wait
    }

    /// Whether a namespace that needs a bundle has none of ours because writing failed.
    pub(super) fn is_failing(&self, namespace: &str) -> bool {
        self.failed.contains_key(namespace)
    }

    /// How many bundles are as they should be.
    pub(super) fn current(&self) -> usize {
        self.bundles.objects.values().filter(|seen| seen.is_current).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    type BundleName = (&'static str, &'static str);

    fn plan(namespaces: &[&'static str], pods: &[BundleName], bundles: &[(&'static str, BundleState)]) -> TrustPlan {
        let mut plan = TrustPlan::new("mesh-system");
        fill(&mut plan.namespaces, &namespaces.iter().map(|name| (("", *name), ())).collect::<Vec<_>>());
        fill(&mut plan.pods, &pods.iter().map(|pod| (*pod, ())).collect::<Vec<_>>());
        fill(&mut plan.bundles, &bundles.iter().map(|(n, seen)| ((*n, "b"), *seen)).collect::<Vec<_>>());
        plan
    }

    fn fill<V: Copy>(mirror: &mut Mirror<V>, objects: &[(BundleName, V)]) {
        let read = |(key, value): &(BundleName, V)| ((key.0.into(), key.1.into()), *value);
        mirror.take(Event::Init, read);
        objects.iter().for_each(|object| mirror.take(Event::InitApply(*object), read));
        mirror.take(Event::InitDone, read);
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn written(todo: &TrustTodo) -> Vec<&str> {
        todo.write.iter().map(|n| &**n).collect()
    }

    const GOOD: BundleState = BundleState { is_current: true, is_ours: true };
    const EDITED: BundleState = BundleState { is_current: false, is_ours: true };
    const FOREIGN: BundleState = BundleState { is_current: false, is_ours: false };

    #[test]
    fn labelled_namespaces_those_with_injected_pods_and_our_own() {
        let mut plan =
            plan(&["shop", "bank"], &[("jobs", "j-1"), ("jobs", "j-2")], &[("bank", GOOD), ("jobs", EDITED)]);
        assert_eq!(written(&plan.todo(at(0))), ["jobs", "mesh-system", "shop"]);
        for namespace in ["jobs", "mesh-system", "shop"] {
            plan.written(namespace, "b", GOOD, at(0));
        }
        assert_eq!(plan.todo(at(0)), TrustTodo::default());
        assert_eq!(plan.current(), 4);
        plan.outdate();
        assert_eq!(written(&plan.todo(at(0))), ["bank", "jobs", "mesh-system", "shop"]);
    }

    #[test]
    fn nothing_is_done_before_everything_was_listed() {
        let mut plan = TrustPlan::new("mesh-system");
        fill(&mut plan.namespaces, &[(("", "shop"), ())]);
        fill(&mut plan.bundles, &[(("old", "b"), GOOD)]);
        assert_eq!(plan.todo(at(10_000)), TrustTodo::default());
        fill(&mut plan.pods, &[]);
        assert_eq!(written(&plan.todo(at(10_000))), ["mesh-system", "shop"]);
        // While it is listed anew, what was known stays.
        plan.namespaces.take(Event::<BundleName>::Init, |_| unreachable!());
        assert_eq!(written(&plan.todo(at(10_000))), ["mesh-system", "shop"]);
    }

    #[test]
    fn what_is_edited_or_deleted_is_written_again() {
        let mut plan = plan(&["shop"], &[], &[("shop", GOOD), ("mesh-system", GOOD)]);
        assert_eq!(plan.todo(at(0)), TrustTodo::default());
        let read = |seen: &BundleState| (("shop".into(), "b".into()), *seen);
        plan.bundles.take(Event::Apply(EDITED), read);
        assert_eq!(written(&plan.todo(at(0))), ["shop"]);
        plan.bundles.take(Event::Delete(EDITED), read);
        assert_eq!(written(&plan.todo(at(0))), ["shop"]);
        // Whoever goes on editing it makes one write a second of it.
        plan.written("shop", "b", GOOD, at(0));
        plan.bundles.take(Event::Apply(EDITED), read);
        assert_eq!(plan.todo(Duration::from_millis(900)), TrustTodo::default());
        assert_eq!(written(&plan.todo(at(1))), ["shop"]);
    }

    #[test]
    fn what_no_one_needs_is_removed_after_a_while_if_it_is_ours() {
        let mut plan = plan(&[], &[("shop", "p")], &[("shop", GOOD), ("own", FOREIGN), ("mesh-system", GOOD)]);
        assert_eq!(plan.todo(at(0)), TrustTodo::default());
        let gone = |_: &()| (("shop".into(), "p".into()), ());
        plan.pods.take(Event::Delete(()), gone);
        assert_eq!(plan.todo(at(100)), TrustTodo::default());
        plan.pods.take(Event::Apply(()), gone);
        assert_eq!(plan.todo(at(650)), TrustTodo::default(), "needed again");
        plan.pods.take(Event::Delete(()), gone);
        assert_eq!(plan.todo(at(700)), TrustTodo::default());
        assert_eq!(plan.todo(at(1299)), TrustTodo::default());
        assert_eq!(plan.todo(at(1300)).remove, ["shop".into()]);
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let mut plan = plan(&["shop"], &[], &[("mesh-system", GOOD)]);
        assert!(!plan.is_failing("shop"));
        assert_eq!(plan.failed("shop", at(0)), at(1));
        assert!(plan.is_failing("shop"));
        assert!(plan.todo(Duration::from_millis(900)).write.is_empty());
        assert_eq!(written(&plan.todo(at(1))), ["shop"]);
        assert_eq!(plan.failed("shop", at(1)), at(2));
        for _ in 0..10 {
            plan.failed("shop", at(1));
        }
        assert_eq!(plan.failed("shop", at(1)), at(30));
        plan.outdate();
        assert_eq!(written(&plan.todo(at(1))), ["mesh-system", "shop"]);
    }
}
